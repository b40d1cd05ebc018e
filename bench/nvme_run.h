/*
 * One measured run of `ofl-bench nvme`.
 */
#ifndef BENCH_NVME_RUN_H
#define BENCH_NVME_RUN_H

#include "bench/nvme_target.h"

struct nvme_latency {
    uint64_t p50, p99, p999, max; /* ns */
};

struct nvme_sample {
    double seconds, cpu_s;
    uint64_t bytes[2], ops[2]; /* by enum io_op */
    struct nvme_latency latency;
    uint64_t busy_ns, empty_ns;
    uint64_t part_bytes[IO_STRIPE_MAX];
    uint32_t inflight_max;
};

/* A queue with everything that is to be kept moving. */
struct nvme_run {
    struct nvme_target *target;
    struct nvme_case c;
    struct io_queue *queue;
    struct io_request *requests; /* depth of them; with --verify twice that */
    struct io_request **ready;   /* prepared, and not in flight */
    uint32_t request_count, ready_first, ready_count;
    uint64_t next[2], issued_bytes, random;
    bool rotate;             /* the buffers: all are used in turn, not the first of them only */
    struct base_error error; /* the first */
    /* After each look, while the run goes on: bytes that have moved since the last one; false ends it. NULL: nobody. */
    bool (*watch)(void *arg, double now, uint64_t bytes);
    void *watch_arg;
};

int nvme_run_open(struct nvme_run *r, struct nvme_target *t, const struct nvme_case *c, uint64_t seed);
/* Keeps depth requests in flight for so many seconds, or until so many bytes are issued. */
int nvme_run_move(struct nvme_run *r, double seconds, uint64_t bytes, struct nvme_sample *out);
/* Adds the latencies of all transfers, by enum io_op, to what is there. */
void nvme_run_close(struct nvme_run *r, struct nvme_sample *sample, struct io_histogram *latency);
/* All three. seed chooses the places of a random run. */
int nvme_run_case(struct nvme_target *t, const struct nvme_case *c, double seconds, uint64_t bytes,
                  uint64_t seed, struct nvme_sample *out, struct io_histogram *latency);
void nvme_latency_of(const struct io_histogram *h, struct nvme_latency *out);
double nvme_process_cpu(void);

#endif
