/*
 * Accelerators: see probe.h.
 */
#ifndef BENCH_PROBE_GPU_H
#define BENCH_PROBE_GPU_H

#include "bench/bench.h"

void probe_gpus(json_t *report);

#endif
