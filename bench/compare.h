/*
 * `ofl-bench compare`: reports of ofl-bench nvme beside each other.
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include "bench/bench.h"

/* Arguments as main gets them; argv[0] is "ofl-bench compare". Returns the exit status. */
int bench_compare_main(int argc, char **argv);

#endif
