/*
 * What gnuplot is told.
 */
#ifndef BENCH_PLOT_SCRIPT_H
#define BENCH_PLOT_SCRIPT_H

#include "bench/bench.h"

/* For gnuplot's stdin; the picture comes out of its stdout. To be freed; NULL without memory. */
char *bench_plot_script(const json_t *report, bool svg);

#endif
