/*
 * What gnuplot is told of a comparison.
 */
#ifndef BENCH_COMPARE_SCRIPT_H
#define BENCH_COMPARE_SCRIPT_H

#include "bench/compare_reports.h"

/* For its stdin; to be freed; NULL without memory. */
char *compare_script(const struct compare_reports *c, bool svg);

#endif
