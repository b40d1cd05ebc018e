/*
 * scheduler: what a step uses, in order, and what follows from it. Ids and event
 * counts only: no threads, no clock, no bytes moved. Deterministic.
 *
 * A step is recorded as a sequence of events, each "id is used on this tier". The
 * finished record is the plan for the next step of that name. While a step runs, its
 * events are matched against the plan; from the position reached, the plan tells how
 * far away the next use of an id is (for eviction: farthest first, Belady 1966) and
 * which uses come next (for prefetch). Distances count events; the plan is cyclic,
 * since a training step is followed by the same step.
 */
#ifndef OFL_SCHEDULER_TRACE_H
#define OFL_SCHEDULER_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#define SCHED_NEVER UINT64_MAX

enum sched_where { SCHED_ON_DEVICE, SCHED_ON_HOST };

struct sched_event {
    uint32_t id;
    uint8_t where;      /* enum sched_where */
    uint8_t no_fetch;   /* the use overwrites: old bytes are not needed */
    uint8_t writes;     /* what lies below is older from then on */
    uint64_t from, len; /* the part that is used; len 0: all of it */
};

struct sched;

int sched_create(struct sched **out);
void sched_destroy(struct sched *s); /* NULL accepted */

/* Opens a step. The plan of that name, if there is one, becomes current. */
int sched_step_begin(struct sched *s, const char *name);
/* Closes it; the record becomes the plan of that name if the step departed from the old one. -ENOMEM: it is still
 * open. */
int sched_step_end(struct sched *s);
bool sched_in_step(const struct sched *s);

/* Notes one use. Outside a step it only ages ids (for the fallback order). Returns 1 if the
 * plan predicted it, 0 if there is no plan or no step, -EAGAIN if it departs from the plan,
 * -ENOMEM. */
int sched_use(struct sched *s, struct sched_event event);
/* As outside a step. Returns 0, or -ENOMEM. */
int sched_use_aside(struct sched *s, uint32_t id);
/* The latest use of id is over. drops: it leaves no bytes. */
void sched_use_over(struct sched *s, uint32_t id, bool drops);

/* Events from now to the next use of id; SCHED_NEVER if the plan has none. Without a plan
 * the least recently used id counts as farthest: SCHED_NEVER / 2 and its age in uses. */
uint64_t sched_next_use(const struct sched *s, uint32_t id);

/* The same for a part of id: uses of other parts are passed over, up to SCHED_PART_USES of them. */
#define SCHED_PART_USES 256u
uint64_t sched_next_use_part(const struct sched *s, uint32_t id, uint64_t from, uint64_t len);

/* id will be used distance events from now, whatever the plan says. It counts until id is used, until it is over, or to
 * the end of the step that follows. Room for it is asked for before: -ENOMEM. */
int sched_hint_reserve(struct sched *s, uint32_t id);
void sched_hint(struct sched *s, uint32_t id, uint64_t distance);
void sched_hint_over(struct sched *s, uint32_t id);
bool sched_hinted(const struct sched *s, uint32_t id);

/* Orders ids by their next use: the larger, the later. Counted like sched_now if the plan has one, beyond any
 * such number if not. It stays the same until id is used or passed over, or the plan changes. */
uint64_t sched_far(const struct sched *s, uint32_t id);

/* The k-th event after the current position, wrapping round; false if there is no plan or k
 * reaches a whole round. */
bool sched_ahead(const struct sched *s, uint64_t k, struct sched_event *out);

/* The current position, counted over all steps: event k ahead is the event at sched_now + k, and stays so
 * until sched_plan_changes counts one more. */
uint64_t sched_now(const struct sched *s);
uint64_t sched_plan_changes(const struct sched *s);

/* id is gone: it must not be predicted any more. */
void sched_forget(struct sched *s, uint32_t id);

struct sched_counts {
    uint64_t steps, planned, off_plan;
};
void sched_counts_get(const struct sched *s, struct sched_counts *out);

#endif
