/*
 * What `ofl-bench compare` prints.
 */
#ifndef BENCH_COMPARE_REPORT_H
#define BENCH_COMPARE_REPORT_H

#include "bench/compare_reports.h"

/* On standard output. */
void compare_print_table(const struct compare_reports *c);
void compare_print_csv(const struct compare_reports *c);
json_t *compare_json(const struct compare_reports *c);

#endif
