/*
 * `ofl-bench adam`, out of core.
 */
#ifndef BENCH_ADAM_STORE_H
#define BENCH_ADAM_STORE_H

#include "bench/adam_options.h"

/* Measures, prints, and adds to the report. Returns a status. */
int adam_store(const struct adam_options *o, json_t *report);

#endif
