/* simulate_machine: what offload_estimate.h asks, simulated. */
#ifndef OFL_PLAN_SIMULATE_MACHINE_H
#define OFL_PLAN_SIMULATE_MACHINE_H

#include "include/offload_estimate.h"
#include "liboffload/plan/simulate.h"

/* The machine's rates for a workload. */
void plan_rates_of(const struct ofl_machine *machine, enum ofl_dtype dtype, struct plan_rates *rates);

/* So many steps of the workload under the budgets, as ofl_estimate_get takes them; steady from the third on. tile_bytes
 * 0: as the library chooses; larger ones are fewer events. -OFL_EBUDGET with what is missing. */
int plan_simulate_machine(const struct ofl_machine *machine, const struct ofl_workload *workload,
                          const struct ofl_budgets *budgets, uint32_t steps, uint64_t tile_bytes,
                          struct plan_simulated *out);

#endif
