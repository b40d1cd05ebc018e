/*
 * `ofl-bench plot`, and the plot of `ofl-bench nvme`.
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include "bench/bench.h"

/* Arguments as main gets them; argv[0] is "ofl-bench plot". Returns the exit status. */
int bench_plot_main(int argc, char **argv);

/* Draws a report of ofl-bench nvme into path, which ends with .svg or .png. Returns a status. */
int bench_plot(const json_t *report, const char *path);
bool bench_plot_is_svg(const char *path);
/* Has gnuplot draw a script's picture into path. NULL: there was no memory for one. Returns a status. */
int bench_plot_draw(const char *script, const char *path);
/* Whether it could: the suffix, gnuplot, the directory. Returns a status. */
int bench_plot_check(const char *path);

#endif
