/*
 * `ofl-bench adam`: optimizer updates, in memory and out of core.
 */
#ifndef BENCH_ADAM_H
#define BENCH_ADAM_H

#include "bench/bench.h"

/* Arguments as main gets them; argv[0] is "ofl-bench adam". Returns the exit status. */
int bench_adam_main(int argc, char **argv);

#endif
