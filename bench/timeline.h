/*
 * What the parts of the machine do while a step runs: a thread reads the library's statistics every few
 * milliseconds, and the differences are laid out over time. Only step.c and timeline.c include this.
 */
#ifndef BENCH_TIMELINE_H
#define BENCH_TIMELINE_H

#include "bench/bench.h"

struct bench_timeline;

/* NULL without memory or threads. */
struct bench_timeline *bench_timeline_start(struct ofl_ctx *ctx);
/* What has been sampled since is left out: the last call's step is the one that is shown. */
void bench_timeline_mark(struct bench_timeline *t);
/* Ends the thread. */
void bench_timeline_stop(struct bench_timeline *t);
void bench_timeline_free(struct bench_timeline *t);

struct bench_overlap {
    double seconds;
    double stalled, in, out; /* shares of them: the stream waits; a direction of the link copies */
    /* Shares with the stream at work and the link copying, at least and at most: within a sample their
     * order is not known. */
    double both_least, both_most;
};

void bench_timeline_overlap(const struct bench_timeline *t, struct bench_overlap *out);
/* A line per part of the machine, a character per `columns`-th of the time, 0 to 9 tenths of it busy. */
void bench_timeline_print(const struct bench_timeline *t, unsigned columns);
/* Arrays with an element per sample. */
json_t *bench_timeline_json(const struct bench_timeline *t);

#endif
