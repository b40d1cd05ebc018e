/*
 * What gnuplot is told of `ofl-bench nvme --sustained`.
 */
#ifndef BENCH_PLOT_SUSTAINED_H
#define BENCH_PLOT_SUSTAINED_H

#include <stdio.h>

#include "bench/bench.h"

/* The panel: throughput over time, and its steps. of: "sustained" of a report. */
void bench_plot_sustained(FILE *f, const json_t *of);

#endif
