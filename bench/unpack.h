/*
 * `ofl-bench unpack`.
 */
#ifndef BENCH_UNPACK_H
#define BENCH_UNPACK_H

#include "bench/bench.h"

/* Arguments as main gets them; argv[0] is "ofl-bench unpack". Returns the exit status. */
int bench_unpack_main(int argc, char **argv);

#endif
