/*
 * One measured run of `ofl-bench nvme`: depth requests of one size kept in flight by one
 * thread. Nothing but the engine's own system calls happens in it. See nvme_run.h.
 */
#include "bench/nvme_run.h"
#include "bench/nvme_wait.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "bench/nvme_progress.h"

#define BATCH   64u
#define WAIT_NS 100000000u /* so that signals are seen */

double nvme_process_cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

void nvme_latency_of(const struct io_histogram *h, struct nvme_latency *out)
{
    out->p50 = io_histogram_quantile(h, 0.5);
    out->p99 = io_histogram_quantile(h, 0.99);
    out->p999 = io_histogram_quantile(h, 0.999);
    out->max = h->max;
}

/* ---- the loop --------------------------------------------------------------------- */

static enum io_op operation(const struct nvme_run *r, uint64_t number)
{
    switch (r->c.rw) {
    case RW_WRITE:
    case RW_RANDWRITE:
        return IO_WRITE;
    case RW_MIXED:
        return number % 2 ? IO_WRITE : IO_READ;
    default:
        return IO_READ;
    }
}

/* Points q at the next block of the run, and has its bytes ready. */
static void prepare(struct nvme_run *r, struct io_request *q)
{
    uint64_t blocks = r->target->bytes / r->c.block_bytes, block;

    q->op = operation(r, r->issued_bytes / r->c.block_bytes);
    if (nvme_rw_random(r->c.rw)) {
        block = (uint64_t)((unsigned __int128)bench_random(&r->random) * blocks >> 64);
    } else {
        block = r->next[q->op]++;
        if (r->next[q->op] == blocks)
            r->next[q->op] = 0;
    }
    q->offset = block * r->c.block_bytes;
    if (r->rotate) {
        uint64_t slots = r->target->buffer_bytes / r->c.block_bytes;

        q->buf = r->target->buffers + r->issued_bytes / r->c.block_bytes % slots * r->c.block_bytes;
    }
    r->issued_bytes += r->c.block_bytes;
    if (q->op == IO_WRITE && r->target->verify)
        nvme_verify_fill(r->target->verify, q->buf, q->offset, q->bytes);
}

static void count(struct nvme_run *r, const struct io_request *q, struct nvme_sample *out)
{
    if (q->error.code && r->error.code == 0)
        r->error = q->error;
    out->bytes[q->op] += q->done_bytes;
    out->ops[q->op]++;
}

static bool may_issue(const struct nvme_run *r, uint64_t bytes)
{
    return r->error.code == 0 && r->issued_bytes + r->c.block_bytes <= bytes;
}

static void add_ready(struct nvme_run *r, struct io_request *q)
{
    prepare(r, q);
    r->ready[(r->ready_first + r->ready_count++) % r->request_count] = q;
}

/* In their order. What is prepared was counted as written, so it is submitted in any case. */
static void submit_ready(struct nvme_run *r)
{
    while (r->ready_count && io_queue_pending(r->queue) < r->c.depth) {
        io_submit(r->queue, r->ready[r->ready_first]);
        r->ready_first = (r->ready_first + 1) % r->request_count;
        r->ready_count--;
    }
}

/* With --verify there are twice the requests: first the drive gets what is ready, then what has come is compared, and made
 * ready. Without, what has come goes back at once. */
static void go_on(struct nvme_run *r, struct io_request **done, unsigned n, uint64_t bytes, bool more)
{
    struct nvme_verify *v = r->target->verify;

    if (v) {
        submit_ready(r);
        io_flush(r->queue);
    }
    for (unsigned i = 0; i < n; i++) {
        if (v && done[i]->op == IO_READ && done[i]->error.code == 0)
            nvme_verify_check(v, done[i]->buf, done[i]->offset, done[i]->bytes);
        if (more && may_issue(r, bytes))
            add_ready(r, done[i]);
        submit_ready(r);
    }
}

/* Until `end`, or until so many bytes are issued; then until nothing is in flight. */
static void keep_moving(struct nvme_run *r, double end, uint64_t bytes, struct nvme_sample *out)
{
    struct io_request *done[BATCH];
    bool more = true;

    for (uint32_t i = 0; i < r->request_count && may_issue(r, bytes); i++) {
        add_ready(r, &r->requests[i]);
        submit_ready(r);
    }
    while (io_queue_pending(r->queue) > 0) {
        unsigned n = nvme_wait(r->queue, done, BATCH, WAIT_NS);
        double now = common_seconds();

        nvme_tick(now);
        for (unsigned i = 0; i < n; i++)
            count(r, done[i], out);
        if (more && r->watch)
            more = r->watch(r->watch_arg, now, n * r->c.block_bytes);
        more = more && now < end && !common_stopping();
        go_on(r, done, n, bytes, more);
    }
}

static uint64_t part_bytes(const struct io_file *f, unsigned index)
{
    struct io_part_info info;

    io_file_part(f, index, &info);
    return info.read_bytes + info.write_bytes;
}

int nvme_run_move(struct nvme_run *r, double seconds, uint64_t bytes, struct nvme_sample *out)
{
    struct io_file *file = r->target->file;
    unsigned parts = io_file_parts(file);
    double start, cpu;
    int err = 0;

    *out = (struct nvme_sample){0};
    for (unsigned i = 0; i < parts; i++)
        out->part_bytes[i] = part_bytes(file, i);
    cpu = nvme_process_cpu();
    start = common_seconds();
    keep_moving(r, start + seconds, bytes, out);
    if (nvme_rw_writes(r->c.rw) && r->error.code == 0)
        err = io_file_sync(file);
    out->seconds = common_seconds() - start;
    out->cpu_s = nvme_process_cpu() - cpu;
    for (unsigned i = 0; i < parts; i++)
        out->part_bytes[i] = part_bytes(file, i) - out->part_bytes[i];
    r->target->written_bytes += out->bytes[IO_WRITE];
    if (common_stopping())
        return common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    if (r->error.code)
        return common_fail(EXIT_RUNTIME, "%s", r->error.text);
    return err < 0 ? common_fail_ofl(EXIT_RUNTIME, "flush the test file") : 0;
}

/* ---- around it ------------------------------------------------------------------------- */

int nvme_run_open(struct nvme_run *r, struct nvme_target *t, const struct nvme_case *c, uint64_t seed)
{
    *r = (struct nvme_run){
        .target = t, .c = *c, .random = seed, .request_count = c->depth * (t->verify ? 2 : 1)};
    r->requests = calloc(r->request_count, sizeof *r->requests);
    r->ready = calloc(r->request_count, sizeof(struct io_request *));
    if (!r->requests || !r->ready)
        return common_fail(EXIT_FULL, "run: out of memory");
    for (uint32_t i = 0; i < r->request_count; i++) {
        r->requests[i].file = t->file;
        r->requests[i].buf = t->buffers + i * c->block_bytes;
        r->requests[i].bytes = c->block_bytes;
    }
    /* A window of the whole depth: nothing here is to be overtaken. */
    return nvme_queue_open(t, c->depth, c->block_bytes, c->block_bytes * c->depth, &r->queue);
}

void nvme_run_close(struct nvme_run *r, struct nvme_sample *sample, struct io_histogram *latency)
{
    struct io_histogram both = {0};
    struct io_stats stats;

    for (unsigned i = 0; r->queue && i < io_queue_paths(r->queue); i++) {
        struct io_path_stats path;

        io_queue_path_stats(r->queue, i, &path);
        sample->busy_ns += path.busy_ns;
        sample->empty_ns += path.empty_ns;
        for (int op = IO_READ; op <= IO_WRITE; op++) {
            io_histogram_merge(&both, &path.latency[op]);
            if (latency)
                io_histogram_merge(&latency[op], &path.latency[op]);
        }
    }
    if (r->queue) {
        io_queue_stats(r->queue, &stats);
        sample->inflight_max = stats.inflight_max;
    }
    nvme_latency_of(&both, &sample->latency);
    io_queue_close(r->queue);
    free(r->requests);
    free(r->ready);
    *r = (struct nvme_run){0};
}

int nvme_run_case(struct nvme_target *t, const struct nvme_case *c, double seconds, uint64_t bytes,
                  uint64_t seed, struct nvme_sample *out, struct io_histogram *latency)
{
    struct nvme_run r;
    int status = nvme_run_open(&r, t, c, seed);

    *out = (struct nvme_sample){0};
    if (t->verify && nvme_rw_writes(c->rw))
        nvme_verify_next(t->verify);
    if (status == 0)
        nvme_target_drop_cache(t);
    if (status == 0)
        status = nvme_run_move(&r, seconds, bytes, out);
    nvme_run_close(&r, out, latency);
    return status;
}
