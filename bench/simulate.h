/*
 * `ofl-bench simulate`.
 */
#ifndef BENCH_SIMULATE_H
#define BENCH_SIMULATE_H

#include "bench/bench.h"

/* Arguments as main gets them; argv[0] is "ofl-bench simulate". Returns the exit status. */
int bench_simulate_main(int argc, char **argv);

#endif
