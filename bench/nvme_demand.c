/*
 * How long an urgent read takes: alone, and behind prefetch that is queued and kept queued.
 * On a queue as the library opens it. See nvme_demand.h.
 */
#include "bench/nvme_demand.h"
#include "bench/nvme_wait.h"

#include <errno.h>
#include <stdlib.h>

#include "bench/nvme_progress.h"
#include "io/profile.h"

#define QUEUED_BYTES     GIB
#define ROUND            20u  /* samples of one kind in turn */
#define SAMPLES_LEAST    100u /* of each kind */
#define SAMPLES_MOST     400u
#define ENOUGH_S         12.0 /* beyond the least no more are taken after this time */
#define PREFETCH_MOST    1024u
#define BATCH            64u
#define WAIT_NS          100000000u
#define BACKGROUND_LIMIT 600000000000u /* ns: prefetch is meant to wait here */

struct demand {
    struct nvme_target *target;
    struct nvme_demand *out;
    struct io_queue *queue;
    struct io_request urgent, *prefetch;
    unsigned prefetch_count;
    bool keep; /* prefetch goes on */
    bool urgent_done;
    uint64_t position, prefetched_requests, random;
    struct base_error error;
};

static void submit_prefetch(struct demand *d, struct io_request *r)
{
    if (d->position + r->bytes > d->target->bytes)
        d->position = 0;
    r->offset = d->position;
    d->position += r->bytes;
    io_submit(d->queue, r);
}

/* Collects what has come; queues prefetch again. */
static void turn(struct demand *d)
{
    struct io_request *done[BATCH];
    unsigned n = nvme_wait(d->queue, done, BATCH, WAIT_NS);

    nvme_tick(common_seconds());
    for (unsigned i = 0; i < n; i++) {
        bool cancelled = !d->keep && done[i]->error.code == -ECANCELED;

        if (done[i]->error.code && !cancelled && d->error.code == 0)
            d->error = done[i]->error;
        if (done[i] == &d->urgent) {
            d->urgent_done = true;
            continue;
        }
        d->prefetched_requests++;
        if (d->keep && d->error.code == 0)
            submit_prefetch(d, done[i]);
    }
}

static bool over(const struct demand *d)
{
    return d->error.code != 0 || common_stopping();
}

/* From the call to the return, in ns: what the caller has to wait for. */
static double measure_once(struct demand *d)
{
    uint64_t places = (d->target->bytes - d->urgent.bytes) / 4096 + 1;
    double start;

    d->urgent.offset = (uint64_t)((unsigned __int128)bench_random(&d->random) * places >> 64) * 4096;
    d->urgent_done = false;
    start = common_seconds();
    io_submit(d->queue, &d->urgent);
    while (!d->urgent_done)
        turn(d);
    return (common_seconds() - start) * 1e9;
}

static void measure_idle(struct demand *d, unsigned count)
{
    for (unsigned i = 0; i < count && !over(d); i++)
        d->out->idle_ns[d->out->idle_count++] = measure_once(d);
}

static void measure_busy(struct demand *d, unsigned count)
{
    uint64_t before;
    double start = common_seconds();

    d->keep = true;
    for (unsigned i = 0; i < d->prefetch_count; i++)
        submit_prefetch(d, &d->prefetch[i]);
    before = d->prefetched_requests;
    for (unsigned i = 0; i < count && !over(d); i++) {
        uint64_t seen = d->prefetched_requests;

        /* Prefetch is at work again before the next urgent read comes. */
        while (d->prefetched_requests == seen && !over(d))
            turn(d);
        if (!over(d))
            d->out->busy_ns[d->out->busy_count++] = measure_once(d);
    }
    d->out->prefetched_bytes += (d->prefetched_requests - before) * d->out->bytes;
    d->out->busy_s += common_seconds() - start;
    d->keep = false;
    for (unsigned i = 0; i < d->prefetch_count; i++)
        io_cancel(d->queue, &d->prefetch[i]);
    while (io_queue_pending(d->queue) > 0)
        turn(d);
}

/* ---- set-up -------------------------------------------------------------------------- */

/* What the library does when it opens a queue: what was measured of the drive, if it was. */
static int tune(struct demand *d)
{
    const struct nvme_options *o = d->target->options;

    for (unsigned i = 0; i < o->dir_count; i++) {
        struct io_profile profile;

        if (io_profile_get(o->dirs[i], 0, NULL, NULL, &profile) < 0 || profile.origin == IO_PROFILE_DEFAULT)
            continue;
        d->out->tuned = true;
        d->out->tuning = profile.tuning;
        if (io_queue_tune(d->queue, o->dirs[i], &profile.tuning) < 0)
            return common_fail_ofl(EXIT_RUNTIME, "--demand");
    }
    return 0;
}

/* The bytes are of no use to anybody, so prefetches share buffers. */
static void place_buffers(struct demand *d)
{
    uint64_t bytes = d->out->bytes, slots = d->target->buffer_bytes / bytes - 1;

    d->urgent = (struct io_request){.op = IO_READ,
                                    .class = IO_DEMAND,
                                    .file = d->target->file,
                                    .buf = d->target->buffers,
                                    .bytes = bytes};
    for (unsigned i = 0; i < d->prefetch_count; i++)
        d->prefetch[i] = (struct io_request){.op = IO_READ,
                                             .class = IO_PREFETCH,
                                             .file = d->target->file,
                                             .buf = d->target->buffers + (1 + i % slots) * bytes,
                                             .bytes = bytes,
                                             .deadline_ns = BACKGROUND_LIMIT};
}

static void measure_rounds(struct demand *d)
{
    struct nvme_demand *out = d->out;
    double start = common_seconds();

    nvme_progress.what = "urgent reads, alone and behind prefetch";
    while (!over(d) && out->busy_count < SAMPLES_MOST &&
           (out->busy_count < SAMPLES_LEAST || common_seconds() - start < ENOUGH_S)) {
        nvme_target_drop_cache(d->target);
        measure_idle(d, ROUND);
        measure_busy(d, ROUND);
    }
}

int nvme_demand_measure(struct nvme_target *t, struct nvme_demand *out)
{
    struct demand d = {.target = t, .out = out, .random = 1};
    int status = 0;

    *out = (struct nvme_demand){.bytes = t->options->demand_bytes};
    d.prefetch_count = (unsigned)(QUEUED_BYTES / out->bytes);
    d.prefetch_count = d.prefetch_count > PREFETCH_MOST ? PREFETCH_MOST : d.prefetch_count;
    d.prefetch_count = d.prefetch_count ? d.prefetch_count : 1;
    out->queued_bytes = d.prefetch_count * out->bytes;
    d.prefetch = calloc(d.prefetch_count, sizeof *d.prefetch);
    out->idle_ns = calloc(SAMPLES_MOST + ROUND, sizeof *out->idle_ns);
    out->busy_ns = calloc(SAMPLES_MOST + ROUND, sizeof *out->busy_ns);
    if (!d.prefetch || !out->idle_ns || !out->busy_ns)
        status = common_fail(EXIT_FULL, "--demand: out of memory");
    if (status == 0)
        status = nvme_queue_open(t, 0, 0, 0, &d.queue);
    if (status == 0)
        status = tune(&d);
    if (status == 0) {
        place_buffers(&d);
        measure_rounds(&d);
        if (common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
        else if (d.error.code)
            status = common_fail(EXIT_RUNTIME, "%s", d.error.text);
    }
    io_queue_close(d.queue);
    free(d.prefetch);
    return status;
}

void nvme_demand_free(struct nvme_demand *d)
{
    free(d->idle_ns);
    free(d->busy_ns);
    *d = (struct nvme_demand){0};
}
