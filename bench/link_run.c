/* ofl-bench link: the buffers, and one run of copies by either side. See link.h. */
#include "bench/link_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { NON_BLOCKING = 1, EVENT_TIMED = 0 };

/* ---- our side -------------------------------------------------------------- */

static void on_done(void *sink, void *cookie, int code)
{
    struct link_rig *rig = sink;

    (void)cookie;
    pthread_mutex_lock(&rig->lock);
    rig->done++;
    if (code != 0 && rig->failed++ == 0)
        rig->code = code;
    pthread_cond_signal(&rig->more);
    pthread_mutex_unlock(&rig->lock);
}

static int wait_done(struct link_rig *rig, uint64_t count)
{
    int rc;

    pthread_mutex_lock(&rig->lock);
    while (rig->done < count)
        pthread_cond_wait(&rig->more, &rig->lock);
    rig->done = 0;
    pthread_mutex_unlock(&rig->lock);
    if (!rig->failed)
        return 0;
    rc = dev_check(rig->dev);
    if (rc != 0)
        return common_fail_ofl(EXIT_RUNTIME, "copy");
    return common_fail(EXIT_RUNTIME, "copy: %llu of %llu failed: %s", (ull)rig->failed, (ull)count,
                       strerror(-rig->code));
}

static int run_ours(struct link_rig *rig, const struct link_row *row, struct link_sample *sample)
{
    bool in = row->direction != LINK_OUT, out = row->direction != LINK_IN;
    struct dev_stats before, after;
    double started, in_s, out_s;
    uint64_t at = 0;
    int status;

    dev_stats_get(rig->dev, &before);
    started = common_seconds();
    for (uint64_t i = 0; i < row->copies; i++) {
        if (in)
            dev_copy_in(rig->dev, rig->device_in + at, rig->src[LINK_OURS] + at, row->bytes, NULL);
        if (out)
            dev_copy_out(rig->dev, rig->dst[LINK_OURS] + at, rig->device_out + at, row->bytes, NULL);
        at = at + 2 * row->bytes <= rig->ring_bytes ? at + row->bytes : 0;
    }
    status = wait_done(rig, row->copies * (in + out));
    sample->wall_s[LINK_OURS] = common_seconds() - started;
    dev_stats_get(rig->dev, &after);
    in_s = (double)(after.in_busy_ns - before.in_busy_ns) * 1e-9;
    out_s = (double)(after.out_busy_ns - before.out_busy_ns) * 1e-9;
    sample->device_s[LINK_OURS] = in_s > out_s ? in_s : out_s;
    return status;
}

/* ---- plain calls ----------------------------------------------------------------- */

/* The first that fails stays in result and call; what follows it is left out. */
#define TRY(c, name, ...)                                                                                    \
    do                                                                                                       \
        if (result == 0 && (result = (c)->name(__VA_ARGS__)) != 0)                                           \
            call = #name;                                                                                    \
    while (0)

static int run_plain(struct link_rig *rig, const struct link_row *row, struct link_sample *sample)
{
    bool way[2] = {row->direction != LINK_OUT, row->direction != LINK_IN};
    const struct bench_cuda *c = rig->cuda;
    bench_cuda_result result = 0;
    double started = common_seconds();
    const char *call = "";
    uint64_t at = 0;
    float ms;

    TRY(c, event_record, rig->start, rig->stream[0]);
    TRY(c, stream_wait_event, rig->stream[1], rig->start, 0);
    for (uint64_t i = 0; i < row->copies && result == 0; i++) {
        if (way[0])
            TRY(c, copy_in, (bench_cuda_pointer)(uintptr_t)(rig->device_in + at), rig->src[LINK_PLAIN] + at,
                row->bytes, rig->stream[0]);
        if (way[1])
            TRY(c, copy_out, rig->dst[LINK_PLAIN] + at, (bench_cuda_pointer)(uintptr_t)(rig->device_out + at),
                row->bytes, rig->stream[1]);
        at = at + 2 * row->bytes <= rig->ring_bytes ? at + row->bytes : 0;
    }
    for (int i = 0; i < 2; i++)
        TRY(c, event_record, rig->end[i], rig->stream[i]);
    for (int i = 0; i < 2; i++)
        TRY(c, stream_sync, rig->stream[i]);
    sample->wall_s[LINK_PLAIN] = common_seconds() - started;
    sample->device_s[LINK_PLAIN] = 0;
    for (int i = 0; i < 2; i++) {
        ms = 0;
        TRY(c, event_elapsed, &ms, rig->start, rig->end[i]);
        if (way[i] && (double)ms * 1e-3 > sample->device_s[LINK_PLAIN])
            sample->device_s[LINK_PLAIN] = (double)ms * 1e-3;
    }
    return result ? bench_cuda_fail(c, result, call) : 0;
}

int link_run(struct link_rig *rig, const struct link_row *row, enum link_side side,
             struct link_sample *sample)
{
    return side == LINK_OURS ? run_ours(rig, row, sample) : run_plain(rig, row, sample);
}

/* ---- is it what was sent? ----------------------------------------------------------- */

static int plain_copy(struct link_rig *rig, void *host, void *device, uint64_t bytes, bool in)
{
    const struct bench_cuda *c = rig->cuda;
    bench_cuda_result result = 0;
    const char *call = "";

    if (in)
        TRY(c, copy_in, (bench_cuda_pointer)(uintptr_t)device, host, bytes, rig->stream[0]);
    else
        TRY(c, copy_out, host, (bench_cuda_pointer)(uintptr_t)device, bytes, rig->stream[0]);
    TRY(c, stream_sync, rig->stream[0]);
    return result ? bench_cuda_fail(c, result, call) : 0;
}

static int compare(struct link_rig *rig, const struct link_row *row, enum link_side side, uint64_t bytes,
                   const char *way)
{
    const unsigned char *is = rig->dst[side], *was = rig->src[side];
    uint64_t at = 0;

    if (memcmp(is, was, bytes) == 0)
        return 0;
    while (is[at] == was[at])
        at++;
    return common_fail(EXIT_RUNTIME, "%s copies of %llu bytes, %s memory, %s: byte %llu is wrong", way,
                       (ull)row->bytes, link_memory_name(row->memory), side == LINK_OURS ? "ours" : "plain",
                       (ull)at);
}

int link_verify(struct link_rig *rig, const struct link_row *row, enum link_side side)
{
    uint64_t slots = rig->ring_bytes / row->bytes, used = slots < row->copies ? slots : row->copies;
    struct link_sample ignored;
    int status;

    used *= row->bytes;
    memset(rig->dst[side], 0, used);
    status = plain_copy(rig, rig->dst[side], rig->device_in, used, true); /* zeros */
    if (status == 0)
        status = link_run(rig, row, side, &ignored);
    if (status == 0 && row->direction != LINK_IN)
        status = compare(rig, row, side, used, "outward");
    if (status == 0 && row->direction != LINK_OUT) {
        status = plain_copy(rig, rig->dst[side], rig->device_in, used, false);
        if (status == 0)
            status = compare(rig, row, side, used, "inward");
    }
    return status;
}

/* ---- buffers -------------------------------------------------------------------------- */

/* All sources hold the same bytes, and so does device_out. */
static int fill(struct link_rig *rig)
{
    uint64_t state = 1;

    bench_fill(rig->src[LINK_OURS], rig->ring_bytes, &state);
    memcpy(rig->src[LINK_PLAIN], rig->src[LINK_OURS], rig->ring_bytes);
    for (int side = 0; side < LINK_SIDES; side++)
        memset(rig->dst[side], 0, rig->ring_bytes);
    return plain_copy(rig, rig->src[LINK_PLAIN], rig->device_out, rig->ring_bytes, true);
}

static int open_ours(struct link_rig *rig)
{
    uint64_t page = 2 * MIB, bytes = (2 * rig->ring_bytes + page - 1) / page * page;
    struct dev_config config = {.arena_bytes = 2 * rig->ring_bytes, .done = on_done, .sink = rig};

    if (mem_arena_create(bytes, 0, &rig->arena) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "host memory");
    memset(rig->arena.base, 0, bytes); /* on this thread's node */
    if (dev_open(rig->options->device, &config, &rig->dev) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "the library's device");
    if (rig->memory == LINK_PINNED && dev_register_host(rig->dev, rig->arena.base, bytes) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "host memory");
    rig->src[LINK_OURS] = rig->arena.base;
    rig->dst[LINK_OURS] = rig->src[LINK_OURS] + rig->ring_bytes;
    rig->device_in = dev_arena(rig->dev);
    rig->device_out = rig->device_in + rig->ring_bytes;
    return 0;
}

static int open_plain(struct link_rig *rig)
{
    const struct bench_cuda *c = rig->cuda;
    bench_cuda_result result = 0;
    const char *call = "";
    void *memory = NULL;

    if (rig->memory == LINK_PAGEABLE) {
        if (posix_memalign(&memory, 2 * MIB, 2 * rig->ring_bytes) != 0)
            return common_fail(EXIT_RUNTIME, "host memory: %llu bytes: %s", 2 * (ull)rig->ring_bytes,
                               strerror(ENOMEM));
        (void)madvise(memory, 2 * rig->ring_bytes, MADV_HUGEPAGE); /* as ours has them */
    } else {
        TRY(c, host_alloc, &memory, 2 * rig->ring_bytes, 0);
    }
    rig->plain = memory;
    for (int i = 0; i < 2; i++) {
        TRY(c, stream_create, &rig->stream[i], NON_BLOCKING, 0);
        TRY(c, event_create, &rig->end[i], EVENT_TIMED);
    }
    TRY(c, event_create, &rig->start, EVENT_TIMED);
    if (result)
        return bench_cuda_fail(c, result, call);
    rig->src[LINK_PLAIN] = rig->plain;
    rig->dst[LINK_PLAIN] = rig->plain + rig->ring_bytes;
    return 0;
}

int link_rig_open(struct link_rig *rig, const struct link_options *o, struct bench_cuda *cuda,
                  enum link_memory memory, uint64_t ring_bytes)
{
    int status;

    *rig = (struct link_rig){.options = o, .cuda = cuda, .memory = memory, .ring_bytes = ring_bytes};
    pthread_mutex_init(&rig->lock, NULL);
    pthread_cond_init(&rig->more, NULL);
    status = open_ours(rig);
    if (status == 0)
        status = open_plain(rig);
    if (status == 0)
        status = fill(rig);
    return status;
}

/* After a failure too: what is not there is left alone. */
void link_rig_close(struct link_rig *rig)
{
    const struct bench_cuda *c = rig->cuda;

    for (int i = 0; i < 2; i++) {
        if (rig->stream[i]) {
            (void)c->stream_sync(rig->stream[i]);
            (void)c->stream_destroy(rig->stream[i]);
        }
        if (rig->end[i])
            (void)c->event_destroy(rig->end[i]);
    }
    if (rig->start)
        (void)c->event_destroy(rig->start);
    if (rig->plain && rig->memory == LINK_PINNED)
        (void)c->host_free(rig->plain);
    else
        free(rig->plain);
    dev_close(rig->dev);
    mem_arena_destroy(&rig->arena);
    pthread_cond_destroy(&rig->more);
    pthread_mutex_destroy(&rig->lock);
}
