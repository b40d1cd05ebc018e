/*
 * order: which of the ids that could give up their place is needed last. Ordered sets of ids, kept in the
 * order of the plan's next uses as steps go on: nothing is searched for when room is wanted.
 *
 * An id is offered to a set while something of it could leave; what leaves is the caller's to say, since
 * only it knows of bytes. A set is cut by class, which is how large the pieces of an id are (its caller's
 * measure), so that what is large enough is found without looking at what is not.
 */
#ifndef OFL_SCHEDULER_ORDER_H
#define OFL_SCHEDULER_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/trace.h"

enum sched_set {
    SCHED_COPIES,  /* what may leave the device: first what the plan does not let rest there */
    SCHED_SPENT,   /* what may leave the host at once: has passed, as the plan says */
    SCHED_CLEAN,   /* all that may */
    SCHED_FILLING, /* the same, but a fill of it is under way */
    SCHED_PASSING, /* what has to be written first: is not to rest */
    SCHED_DIRTY,   /* all that has to be written first */
    SCHED_SETS
};

#define SCHED_CLASSES 16u

/* id is known from now on, its pieces are of class in all sets: what is offered later needs no memory.
 * -ENOMEM. */
int sched_admit(struct sched *s, uint32_t id, unsigned class);

/* No effect if it is so already. */
void sched_offer(struct sched *s, enum sched_set set, uint32_t id);
void sched_withdraw(struct sched *s, enum sched_set set, uint32_t id);

/* About a candidate, distance events away from its next use (as sched_next_use). */
enum sched_verdict { SCHED_SKIP, SCHED_TAKE, SCHED_STOP };
typedef enum sched_verdict sched_judge(void *arg, uint32_t id, uint64_t distance);

/* Shows judge the members of set of at least that class, farthest next use first, until it takes one,
 * stops, or has skipped SCHED_LOOKS of them. True: *id was taken. */
#define SCHED_LOOKS 256u
bool sched_choose(const struct sched *s, enum sched_set set, unsigned class_min, sched_judge *judge,
                  void *arg, uint32_t *id);

#endif
