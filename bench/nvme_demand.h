/*
 * Urgent reads, alone and behind prefetch.
 */
#ifndef BENCH_NVME_DEMAND_H
#define BENCH_NVME_DEMAND_H

#include "bench/nvme_target.h"

struct nvme_demand {
    uint64_t bytes, queued_bytes;
    unsigned idle_count, busy_count;
    double *idle_ns, *busy_ns;
    uint64_t prefetched_bytes; /* while the busy samples were taken */
    double busy_s;
    bool tuned;
    struct io_tuning tuning;
};

void nvme_demand_free(struct nvme_demand *d);
int nvme_demand_measure(struct nvme_target *t, struct nvme_demand *d);

#endif
