/*
 * `ofl-bench adam`, in memory.
 */
#ifndef BENCH_ADAM_MEMORY_H
#define BENCH_ADAM_MEMORY_H

#include "bench/adam_options.h"

/* Measures, prints, and adds to the report. Returns a status. */
int adam_memory(const struct adam_options *o, json_t *report);

#endif
