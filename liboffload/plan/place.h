/*
 * place: where a program's tensors have room of their own under budgets, and whether they have; its uses as the
 * scheduler records them. What liboffload/core/home.c decides for real, tensor by tensor, is decided here for all
 * of them at once.
 */
#ifndef OFL_PLAN_PLACE_H
#define OFL_PLAN_PLACE_H

#include "liboffload/plan/program.h"
#include "scheduler/solve.h"

struct plan_place {
    enum ofl_tier home; /* of what has no other place: see struct ofl_estimate */
    uint64_t budget_bytes[OFL_TIERS];
    uint64_t tile_bytes;
    uint64_t tensor_bytes;     /* of all tensors that need room of their own, in blocks */
    uint64_t device_all_bytes; /* of device memory that holds everything */
    struct sched_item *items;  /* [tensors_count] of the program */
    struct sched_use *uses;    /* [uses_count] */
    enum plan_phase *phases;   /* by use */
    uint32_t uses_count;
    struct sched_room room;
};

/* 0 with what does not fit in *missing (text "", if it does), or -ENOMEM. store: the budget's, or what the drives
 * have. must_store: it is used even where memory would do. */
struct plan_missing {
    char text[400];
    uint64_t least_bytes[OFL_TIERS];
};
int plan_place_make(const struct plan_program *p, const uint64_t budgets[OFL_TIERS], bool must_store,
                    struct plan_place *out, struct plan_missing *missing);
void plan_place_free(struct plan_place *place);

#endif
