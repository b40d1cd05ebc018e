/*
 * Several reports of ofl-bench nvme, and which runs of theirs are of one kind.
 */
#ifndef BENCH_COMPARE_REPORTS_H
#define BENCH_COMPARE_REPORTS_H

#include "bench/bench.h"

#define COMPARE_MOST 8u

struct compare_reports {
    const char *names[COMPARE_MOST]; /* of files, as given */
    json_t *reports[COMPARE_MOST];
    unsigned count;
    const json_t **first; /* [rows]: a run of each kind, from the first report that has it */
    unsigned rows;
};

/* A run's figure: of "gb_per_s", "iops" or "cpu_s_per_gb", over its repeats. */
struct compare_figure {
    bool known;
    double median, min, max;
};

/* Loads them; refuses what is no report, by name. Returns a status. */
int compare_load(struct compare_reports *c, const char *const *names, unsigned count);
void compare_free(struct compare_reports *c);
/* The run of report `index` that is of the kind of a row; NULL: it has none. */
const json_t *compare_run(const struct compare_reports *c, unsigned row, unsigned index);
struct compare_figure compare_figure(const json_t *run, const char *name);
/* Nanoseconds of "p50", "p99", "p999" or "max"; 0: unknown. */
double compare_latency(const json_t *run, const char *name);
/* Rate over that of the first report's; 0: one of both is not there. *apart: the ranges do not overlap. */
double compare_ratio(const struct compare_reports *c, unsigned row, unsigned index, bool *apart);
const char *compare_text(const json_t *object, const char *key); /* "" if it is none */
/* Drives, as "a (MODEL) + b"; to be freed. */
char *compare_drives(const json_t *report);

#endif
