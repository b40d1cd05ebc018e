/* estimate: what ofl_estimate_get and ofl_estimate_ways_get share: a question that is asked again with other budgets. */
#ifndef OFL_PLAN_ESTIMATE_H
#define OFL_PLAN_ESTIMATE_H

#include "liboffload/plan/machine.h"
#include "liboffload/plan/place.h"

struct plan_estimate {
    struct ofl_machine machine;
    struct ofl_workload workload;
    struct plan_program program;
    uint64_t budgets[OFL_TIERS];
    bool must_store;
    struct plan_place place; /* while it runs */
};

/* Checks what the caller gave, and makes the program. To be closed in any case. */
int plan_estimate_open(const struct ofl_machine *machine, const struct ofl_workload *workload,
                       const struct ofl_budgets *budgets, struct plan_estimate *e);
void plan_estimate_close(struct plan_estimate *e);
/* With the budgets and the machine as they are now. */
int plan_estimate_run(struct plan_estimate *e, struct ofl_estimate *out);

#endif
