/*
 * What `ofl-bench nvme` shows while it runs.
 */
#ifndef BENCH_NVME_PROGRESS_H
#define BENCH_NVME_PROGRESS_H

#include "bench/bench.h"

/* What is going on: drawn with a percentage when a run calls nvme_tick, every now and then. */
struct nvme_progress {
    const char *what;
    unsigned step, steps;
    double drawn;
    bool quiet;
};

extern struct nvme_progress nvme_progress;
void nvme_tick(double now);

#endif
