/*
 * The machine that a plan is made for: a known one, one from a file, or this one, measured.
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include "bench/bench.h"
#include "bench/rates.h"
#include "examples/model/compute.h"
#include "include/offload_estimate.h"

/* A name of the table, or a file. Returns a status. */
int bench_machine_known(const char *name, struct ofl_machine *out);
/* This one, for a model of that shape: rates are those of a layer's own kernels. b: the device, and the
 * directories of the drives. Takes seconds. Returns a status. */
int bench_machine_this(const struct common_budget *b, const struct llama_compute_config *compute,
                       struct ofl_machine *out);
/* The same from rates that were measured already. */
int bench_machine_measured(const struct common_budget *b, const struct llama_compute_config *compute,
                           const struct bench_rates *rates, struct ofl_machine *out);

#endif
