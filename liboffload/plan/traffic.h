/* traffic: what a step moves where the plan has its tensors rest, by phase, and what rests where between two steps. */
#ifndef OFL_PLAN_TRAFFIC_H
#define OFL_PLAN_TRAFFIC_H

#include "liboffload/plan/place.h"

struct plan_traffic {
    struct sched_moved moved[PLAN_PHASES];
    uint64_t placed_bytes[OFL_TIERS][OFL_KINDS];
};

/* Solves the place's step, and walks it. -ENOMEM. */
int plan_traffic_make(const struct plan_program *p, const struct plan_place *place, struct plan_traffic *out);

#endif
