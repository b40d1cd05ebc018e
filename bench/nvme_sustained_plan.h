/*
 * What `ofl-bench nvme --sustained` has to do, and what came of it.
 */
#ifndef BENCH_NVME_SUSTAINED_PLAN_H
#define BENCH_NVME_SUSTAINED_PLAN_H

#include "bench/nvme_options.h"
#include "bench/nvme_steps.h"

/* Of a sample. */
#define NVME_SUSTAINED_S 0.1

struct nvme_sustained {
    double *rates; /* bytes per second, of each interval that is whole */
    unsigned count, room;
    double start, last_bytes; /* of the interval that is under way */
    uint64_t bytes, limit_bytes;
    double limit_s;
    struct nvme_step steps[NVME_STEPS_MOST];
    unsigned step_count;
    const char *ended;                           /* why: static */
    double burst, sustained, fell_s, fell_bytes; /* fell_s 0: it did not */
    double idle_s, recovered;                    /* 0: not looked at */
    bool failed;                                 /* no memory for samples */
};

/* What it may write, beside the recovery, and how large the file is to be: half of what is free at most, allowed_bytes. Before
 * anything is written. Returns a status. */
int nvme_sustained_limits(const struct nvme_options *o, uint64_t allowed_bytes, struct nvme_sustained *s,
                          uint64_t *file_bytes);
/* Bytes that the recovery writes at most. */
uint64_t nvme_sustained_recovery(const struct nvme_sustained *s);

#endif
