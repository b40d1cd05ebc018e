/*
 * The gnuplot script that draws what the tiers held over the time of a timeline.
 */
#ifndef BENCH_PLOT_TIERS_H
#define BENCH_PLOT_TIERS_H

#include "bench/bench.h"

/* Whether a timeline, the array of its events, says what tiers held at two times at least. */
bool bench_tiers_are_there(const json_t *timeline);
/* As bench_plot_script. */
char *bench_plot_tiers_script(const json_t *timeline, bool svg);

#endif
