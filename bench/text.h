/*
 * Texts of numbers that several commands of ofl-bench print.
 */
#ifndef BENCH_TEXT_H
#define BENCH_TEXT_H

#include "bench/bench.h"

/* "12.3 us", "4.56 ms" */
struct common_text bench_time_text(double ns);
/* "1M", "64K", as on the command line */
struct common_text bench_block_text(uint64_t bytes);

#endif
