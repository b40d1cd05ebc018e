/* plan_random: random programs, machines and budgets for the simulator; a seed gives the same ones again. */
#ifndef OFL_TESTS_PLAN_RANDOM_H
#define OFL_TESTS_PLAN_RANDOM_H

#include "liboffload/plan/simulate.h"

struct plan_random {
    uint64_t state;
    struct plan_program program, other; /* of the same tensors; their arrays are freed by plan_random_free */
    struct plan_simulation simulation;
    uint32_t tensors_room, leases_room, ops_room;
};

void plan_random_make(struct plan_random *r, uint64_t seed);
void plan_random_free(struct plan_random *r);

/* For programs by hand, too. */
uint32_t plan_add_tensor(struct plan_random *r, enum ofl_kind kind, enum ofl_dtype dtype, uint64_t bytes);
void plan_add_lease(struct plan_random *r, uint32_t tensor, enum ofl_mode mode, bool drop);
/* Of the last count leases. */
struct plan_op *plan_add_op(struct plan_random *r, enum plan_op_type type, uint32_t stream, uint32_t count);
/* Rates of round numbers: link 1 GB/s each way, drive 100 MB/s each way, 4 workers. */
void plan_round_rates(struct plan_rates *rates);

#endif
