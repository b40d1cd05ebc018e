/*
 * What `ofl-bench step` and `ofl-bench decode` say before they run, and what has become of it.
 */
#ifndef BENCH_PREDICT_H
#define BENCH_PREDICT_H

#include "bench/machine.h"

/* Times a layer, asks for an estimate of the run with these budgets, and prints it in a line. scratch_bytes: device
 * memory that the run holds beside its cache; 0: as compute has it. Returns a
 * status. */
int bench_predict(const struct common_budget *b, const struct llama_compute_config *compute, bool clip,
                  uint64_t scratch_bytes, const struct ofl_config *open, const struct bench_rates *rates,
                  struct ofl_estimate *out);
/* How far from it the median of the run's steps was. */
void bench_predict_end(const struct ofl_estimate *e, double step_s);
json_t *bench_predict_json(const struct ofl_estimate *e, double step_s);

#endif
