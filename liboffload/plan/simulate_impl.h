/* simulate_impl: a run, as the files of simulate share it. See simulate.h. */
#ifndef OFL_PLAN_SIMULATE_IMPL_H
#define OFL_PLAN_SIMULATE_IMPL_H

#include "liboffload/plan/simulate.h"
#include "liboffload/plan/world.h"

/* What the program holds of a tensor. */
struct hold {
    struct ofl_lease lease;
    uint64_t number; /* of the lease, in the log */
    uint32_t stream, count;
    struct hold *prev, *next; /* of those that are held */
};

struct update {
    uint64_t number; /* in the log; first, since the world knows the update by it */
    struct core_update core;
    bool pending;
};

struct run {
    const struct plan_simulation *s;
    const struct plan_program *program; /* of the step at hand */
    struct plan_simulated *out;
    struct world world;
    struct ofl_tensor **tensors; /* [count], the last one is what is held for good */
    uint32_t count;
    struct hold *holds, held;
    struct update *updates;   /* by the first tensor of each */
    struct ofl_lease *leases; /* scratch: as many as the largest batch has */
    uint64_t leases_made, updates_made;
    uint32_t op, step;
    struct plan_step before;             /* counters when the step began */
    double moved_ns[PLAN_DRIVES + 1][2]; /* the same of work: of drives, and, first, the link */
    uint64_t began_ns;
    bool over;
};

/* simulate.c: commands, as the public calls make them. */
int run_acquire(struct run *r, uint32_t stream, const struct plan_lease *leases, uint32_t count);
int run_release(struct run *r, uint32_t stream, const struct plan_lease *leases, uint32_t count);
void run_launch(struct run *r, const struct plan_op *op);
int run_deadlock(const struct run *r, const char *what);

/* simulate_input.c: -EINVAL: a rate, a number or an index that can't be. */
int run_check(const struct plan_simulation *s);

/* simulate_open.c: the pager over addresses; its tensors, and what they hold before the first step. */
int run_open(struct run *r);
int run_create(struct run *r);

#endif
