/*
 * What the machine is: see probe.h.
 */
#ifndef BENCH_PROBE_MACHINE_H
#define BENCH_PROBE_MACHINE_H

#include "bench/bench.h"

void probe_machine(json_t *report);

#endif
