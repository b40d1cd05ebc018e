/* sched: what trace.c (plans and the position in them) and order.c (ordered sets of ids) share. */
#ifndef OFL_SCHEDULER_SCHED_H
#define OFL_SCHEDULER_SCHED_H

#include "scheduler/order.h"
#include "scheduler/plan.h"
#include "scheduler/trace.h"

struct sched_events {
    struct sched_use *at;
    uint64_t count, room;
};

struct sched_plan {
    char *name;
    struct sched_events events;
    /* Uses of each id as positions, ascending: uses[first[id] .. first[id + 1]). */
    uint64_t *first, *uses;
    uint32_t ids;
    struct sched_rest *rest; /* behind each event, if solved */
    bool solved, served;     /* the solution has seen its step again */
    bool fickle;             /* the last one did not: solved when a step has come twice */
    struct sched_moved moved;
    uint64_t resting; /* sched_resting_always */
    struct sched_plan *next;
};

struct sched_seen {
    uint64_t last_use;      /* clock of its last use, 0: never */
    uint64_t step, event;   /* its latest event in the record of that step */
    uint64_t hinted;        /* place of a use that was hinted at, counted like now; 0: there is none */
    uint64_t hint_step;     /* in that step, or behind it */
    uint32_t hint;          /* its index in the list */
    struct sched_rest rest; /* since its last use, as the plan has it */
};

struct sched_entry {
    uint64_t far; /* sched_far(id), as it was when the heap was told last */
    uint32_t id;
};

struct sched_heap {
    struct sched_entry *at;
    uint32_t count, room, members; /* members: ids that could be in it */
};

struct sched_member {
    uint32_t at[SCHED_SETS]; /* places in the heaps of its class */
    uint8_t class;
    bool known;
};

struct sched {
    struct sched_plan *plans, *plan; /* plan: the open step's, or of the step closed last */
    struct sched_events record;
    uint64_t position; /* in plan: the next event expected */
    uint64_t now;      /* the same, counted over all steps */
    uint64_t plan_changes;
    bool in_step, departed;
    struct sched_seen *seen; /* by id */
    uint32_t ids;
    uint64_t clock;
    struct sched_counts counts;
    uint32_t *hints, hints_count, hints_room; /* ids hinted at */
    struct sched_heap heaps[SCHED_SETS][SCHED_CLASSES];
    struct sched_member *member;
    uint32_t members_room;
};

/* trace.c: id is known from now on. -ENOMEM. */
int trace_know(struct sched *s, uint32_t id);
/* trace.c: the plan's next event of id, counted on beyond the step's end; false: there is none. */
bool plan_next(const struct sched *s, uint32_t id, uint64_t *index);
/* hint.c: a step has ended. */
void hint_step_over(struct sched *s);
/* plan.c: event index of the plan has been reached; the position is the start of another plan. */
void plan_passed(struct sched *s, uint64_t index);
void plan_turned(struct sched *s);

/* order.c: id's next use has moved. */
void order_moved(struct sched *s, uint32_t id);
/* All of them may have. */
void order_rebuild(struct sched *s);
void order_forget(struct sched *s, uint32_t id);
void order_close(struct sched *s);

#endif
