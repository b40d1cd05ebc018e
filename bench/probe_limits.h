/*
 * Limits of the process, and io_uring: see probe.h.
 */
#ifndef BENCH_PROBE_LIMITS_H
#define BENCH_PROBE_LIMITS_H

#include "bench/bench.h"

void probe_limits(json_t *report);

#endif
