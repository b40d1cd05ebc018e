/*
 * Proves of the host device: copies, fills and jobs on several streams at once leave the
 * bytes that a model in plain memory predicts; each direction of the link is first in,
 * first out; copies outside the arena are refused; completions may issue more; close and
 * destroy wait; the arena costs what is touched; statistics add up. What streams and
 * gates do to each other is in test_device_stream.c.
 *
 * Negative controls: copies outside the arena are checked against untouched guard bytes
 * on the host side, beside accepted copies at the very same edges; the model test counts
 * how much was in flight at once, so that it can't pass by being serial.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/device/device.h"
#include "tests/cuda_fixture.h"
#include "tests/device_fixture.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

/* ---- open --------------------------------------------------------------- */

static void opens_by_name(void **state)
{
    struct sink sink;
    struct dev_config config = {.arena_bytes = 4096, .done = sink_done, .sink = &sink};
    struct dev_config none = {.arena_bytes = 0, .done = sink_done}, deaf = {.arena_bytes = 4096};
    struct dev_config vast = {.arena_bytes = UINT64_MAX, .done = sink_done, .sink = &sink};
    struct dev *d = (void *)&d;

    (void)state;
    assert_int_equal(dev_open("warp", &config, &d), -ENODEV);
    assert_null(d);
    assert_non_null(strstr(base_error_text(), "warp"));
    assert_non_null(strstr(base_error_text(), "host"));
    assert_int_equal(dev_open("host", &none, &d), -EINVAL);
    assert_int_equal(dev_open("host", &deaf, &d), -EINVAL);
    assert_int_equal(dev_open("host", &vast, &d), -ENOMEM);
    assert_null(d);
    assert_int_equal(dev_open(fixture_device(), &config, &d), 0);
    assert_string_equal(dev_name(d), fixture_on_cuda() ? "cuda:0" : "host");
    dev_close(d);
    dev_close(NULL);
    dev_stream_destroy(NULL);
}

static void arena_costs_nothing_untouched(void **state)
{
    uint64_t bytes = 1024 * MIB, pages = bytes / 4096, resident = 0;
    unsigned char *map = malloc(pages);
    struct fixture f;

    (void)state;
    assert_non_null(map);
    if (fixture_on_cuda()) {
        free(map);
        skip(); /* a GPU's memory is taken when it is allocated */
    }
    fixture_open(&f, bytes);
    assert_int_equal((uintptr_t)f.arena % (2 * MIB), 0);
    dev_fill(f.dev, f.arena + bytes - 4096, 7, 4096, NULL);
    assert_int_equal(sink_wait(&f.sink, 1, 0).code, 0);
    assert_int_equal(mincore(f.arena, bytes, map), 0);
    for (uint64_t i = 0; i < pages; i++)
        resident += map[i] & 1;
    assert_true(resident >= 1 && resident <= 512); /* at most the one huge page around it */
    fixture_end(&f);
    free(map);
}

/* ---- everything at once, against a model -------------------------------- */

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 2685821657736338717u;
}

enum { SLOTS = 48, SLOT_BYTES = 16 * 1024, STREAMS = 3, MODEL_OPS = 6000 };

enum action { COPY_IN, COPY_OUT, FILL, JOB, ACTIONS };

struct slot {
    struct model *model;
    unsigned char *device;             /* SLOT_BYTES of the arena */
    unsigned char truth[SLOT_BYTES];   /* what the model says is there */
    unsigned char transit[SLOT_BYTES]; /* host side of copies */
    enum action action;
    uint64_t offset, bytes;
    uint8_t byte;
    bool busy;
};

struct model {
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned busy, busy_max;
    uint64_t wrong, failed;
    struct slot slots[SLOTS];
};

static void flip(unsigned char *p, uint64_t bytes, uint8_t byte)
{
    for (uint64_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(p[i] ^ byte ^ i);
}

static void flip_job(void *arg)
{
    struct slot *s = arg;

    flip(fixture_view(s->device + s->offset), s->bytes, s->byte);
}

/* The sink: applies the action to the model, or compares what came out with it. */
static void model_done(void *sink, void *cookie, int code)
{
    struct model *m = sink;
    struct slot *s = cookie;
    unsigned char *truth = s->truth + s->offset;
    uint64_t wrong = 0;

    if (s->action == COPY_IN)
        memcpy(truth, s->transit, s->bytes);
    else if (s->action == FILL)
        memset(truth, s->byte, s->bytes);
    else if (s->action == JOB)
        flip(truth, s->bytes, s->byte);
    else
        wrong = memcmp(truth, s->transit, s->bytes) != 0;
    pthread_mutex_lock(&m->lock);
    m->wrong += wrong;
    m->failed += code != 0;
    m->busy--;
    s->busy = false;
    pthread_cond_signal(&m->idle);
    pthread_mutex_unlock(&m->lock);
}

/* Waits for an idle slot, a random one among those, and takes it. */
static struct slot *model_take(struct model *m, uint64_t *seed)
{
    struct slot *s;

    pthread_mutex_lock(&m->lock);
    while (m->busy == SLOTS)
        pthread_cond_wait(&m->idle, &m->lock);
    do
        s = &m->slots[random_next(seed) % SLOTS];
    while (s->busy);
    s->busy = true;
    m->busy++;
    if (m->busy > m->busy_max)
        m->busy_max = m->busy;
    pthread_mutex_unlock(&m->lock);
    return s;
}

static void model_drain(struct model *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->busy > 0)
        pthread_cond_wait(&m->idle, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

static void model_issue(struct dev *d, struct dev_stream **streams, struct slot *s, uint64_t *seed)
{
    struct dev_stream *stream = streams[random_next(seed) % STREAMS];

    s->action = random_next(seed) % ACTIONS;
    s->offset = random_next(seed) % SLOT_BYTES;
    s->bytes = random_next(seed) % (SLOT_BYTES - s->offset + 1);
    s->byte = (uint8_t)random_next(seed);
    switch (s->action) {
    case COPY_IN:
        for (uint64_t i = 0; i < s->bytes; i += 8)
            memcpy(s->transit + i, &(uint64_t){random_next(seed)}, s->bytes - i < 8 ? s->bytes - i : 8);
        dev_copy_in(d, s->device + s->offset, s->transit, s->bytes, s);
        break;
    case COPY_OUT:
        dev_copy_out(d, s->transit, s->device + s->offset, s->bytes, s);
        break;
    case FILL:
        dev_fill(d, s->device + s->offset, s->byte, s->bytes, s);
        break;
    default:
        assert_int_equal(fixture_kernel_on(stream, flip_job, s,
                                           (struct fixture_range){s->device + s->offset, s->bytes, true}),
                         0);
        dev_stream_mark(stream, s);
    }
}

static void bytes_match_a_model(void **state)
{
    uint64_t first_seed = 0x0ff10adu, seed = first_seed, unlike = 0;
    struct model *m = calloc(1, sizeof *m);
    struct dev_config config = {.arena_bytes = SLOTS * SLOT_BYTES, .done = model_done, .sink = m};
    struct dev_stream *streams[STREAMS];
    struct dev *d;

    (void)state;
    assert_non_null(m);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->idle, NULL);
    assert_int_equal(dev_open(fixture_device(), &config, &d), 0);
    for (unsigned i = 0; i < STREAMS; i++)
        assert_int_equal(dev_stream_create(d, &streams[i]), 0);
    fixture_set(dev_arena(d), 0, SLOTS * SLOT_BYTES); /* what is in it is undefined */
    for (unsigned i = 0; i < SLOTS; i++)
        m->slots[i].device = (unsigned char *)dev_arena(d) + i * SLOT_BYTES;
    for (unsigned i = 0; i < MODEL_OPS; i++)
        model_issue(d, streams, model_take(m, &seed), &seed);
    model_drain(m);
    for (unsigned i = 0; i < SLOTS; i++) {
        fixture_get(m->slots[i].transit, m->slots[i].device, SLOT_BYTES);
        unlike += memcmp(m->slots[i].transit, m->slots[i].truth, SLOT_BYTES) != 0;
    }
    if (m->wrong || m->failed || unlike)
        fprintf(stderr, "bytes_match_a_model: seed 0x%llx\n", (unsigned long long)first_seed);
    assert_int_equal(m->wrong, 0);
    assert_int_equal(m->failed, 0);
    assert_int_equal(unlike, 0);
    assert_true(m->busy_max > STREAMS + 2); /* there was a queue, not one at a time */
    for (unsigned i = 0; i < STREAMS; i++)
        dev_stream_destroy(streams[i]);
    dev_close(d);
    pthread_cond_destroy(&m->idle);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- first in, first out ------------------------------------------------ */

/* All copies have the same target, and fills stand between them: the last one must win,
 * and completions come in the order of issue. */
static void link_is_in_order(void **state)
{
    enum { ROUNDS = 400, BYTES = 4096 };
    unsigned char *host = malloc(ROUNDS * BYTES), *back = calloc(ROUNDS, BYTES);
    struct fixture f;

    (void)state;
    assert_non_null(host);
    assert_non_null(back);
    fixture_open(&f, 64 * KIB);
    for (uintptr_t i = 0; i < ROUNDS; i++) {
        memset(host + i * BYTES, (int)(i % 251), BYTES);
        dev_fill(f.dev, f.arena, 255, BYTES, (void *)(2 * i));
        dev_copy_in(f.dev, f.arena, host + i * BYTES, BYTES, (void *)(2 * i + 1));
    }
    for (uintptr_t i = 0; i < 2 * ROUNDS; i++) {
        struct done done = sink_wait(&f.sink, i + 1, i);

        assert_int_equal((uintptr_t)done.cookie, i);
        assert_int_equal(done.code, 0);
    }
    for (uintptr_t i = 0; i < ROUNDS; i++)
        dev_copy_out(f.dev, back + i * BYTES, f.arena, BYTES, (void *)i);
    for (uintptr_t i = 0; i < ROUNDS; i++)
        assert_int_equal((uintptr_t)sink_wait(&f.sink, 2 * ROUNDS + i + 1, 2 * ROUNDS + i).cookie, i);
    for (uintptr_t i = 0; i < ROUNDS; i++)
        assert_memory_equal(back + i * BYTES, host + (ROUNDS - 1) * BYTES, BYTES);
    fixture_end(&f);
    free(host);
    free(back);
}

/* ---- outside the arena ----------------------------------------------------- */

enum { RANGE_ARENA = 10000 };

static const struct {
    int64_t offset; /* from the start of the arena */
    uint64_t bytes;
    int code;
} ranges[] = {
    {0, RANGE_ARENA, 0},       {0, RANGE_ARENA + 1, -EFAULT}, /* beyond the budget, though the page goes on */
    {RANGE_ARENA - 1, 1, 0},   {RANGE_ARENA - 1, 2, -EFAULT}, {RANGE_ARENA, 0, 0},
    {RANGE_ARENA, 1, -EFAULT}, {RANGE_ARENA + 1, 0, -EFAULT}, {-1, 1, -EFAULT},
    {-1, 2, -EFAULT},          {100, UINT64_MAX, -EFAULT},    {100, UINT64_MAX - 50, -EFAULT},
    {1 << 30, 16, -EFAULT},
};

static void copies_outside_the_arena_are_refused(void **state)
{
    enum { CASES = sizeof ranges / sizeof ranges[0], HOST = 2 * RANGE_ARENA };
    unsigned char *host = malloc(HOST);
    struct dev_stats stats;
    struct fixture f;
    size_t n = 0;

    (void)state;
    assert_non_null(host);
    fixture_open(&f, RANGE_ARENA);
    for (size_t i = 0; i < CASES; i++) {
        unsigned char *at = (unsigned char *)((uintptr_t)f.arena + (uintptr_t)ranges[i].offset);

        memset(host, 0xAA, HOST);
        dev_fill(f.dev, at, 0x55, ranges[i].bytes, NULL);
        assert_int_equal(sink_wait(&f.sink, n + 1, n).code, ranges[i].code);
        dev_copy_out(f.dev, host, at, ranges[i].bytes, NULL);
        assert_int_equal(sink_wait(&f.sink, n + 2, n + 1).code, ranges[i].code);
        for (uint64_t j = 0; j < HOST; j++)
            assert_int_equal(host[j], ranges[i].code == 0 && j < ranges[i].bytes ? 0x55 : 0xAA);
        dev_copy_in(f.dev, at, host, ranges[i].bytes, NULL);
        assert_int_equal(sink_wait(&f.sink, n + 3, n + 2).code, ranges[i].code);
        n += 3;
    }
    dev_copy_in(f.dev, f.arena, NULL, 0, NULL);
    assert_int_equal(sink_wait(&f.sink, n + 1, n).code, 0);
    dev_stats_get(f.dev, &stats);
    assert_int_equal(stats.in_bytes, RANGE_ARENA + 1); /* refused copies moved nothing */
    fixture_end(&f);
    free(host);
}

/* ---- completions that issue, close --------------------------------------- */

/* Each completion issues the next operation, from whatever thread it comes: a lock held
 * while the sink runs would hang this. */
struct relay {
    struct dev *dev;
    struct dev_stream *stream;
    struct sink end;
    unsigned char host[256];
    unsigned hop;
};

static void relay_done(void *sink, void *cookie, int code)
{
    struct relay *r = sink;
    unsigned hop = r->hop++;

    if (hop == 1000 || code != 0)
        sink_done(&r->end, cookie, code);
    else if (hop % 4 == 0)
        dev_copy_in(r->dev, dev_arena(r->dev), r->host, sizeof r->host, NULL);
    else if (hop % 4 == 1)
        dev_stream_mark(r->stream, NULL);
    else if (hop % 4 == 2)
        dev_copy_out(r->dev, r->host, dev_arena(r->dev), sizeof r->host, NULL);
    else
        dev_fill(r->dev, dev_arena(r->dev), (uint8_t)hop, sizeof r->host, NULL);
}

static void completions_may_issue(void **state)
{
    struct relay r = {0};
    struct dev_config config = {.arena_bytes = 4096, .done = relay_done, .sink = &r};

    (void)state;
    sink_init(&r.end);
    assert_int_equal(dev_open(fixture_device(), &config, &r.dev), 0);
    assert_int_equal(dev_stream_create(r.dev, &r.stream), 0);
    dev_fill(r.dev, dev_arena(r.dev), 1, sizeof r.host, NULL);
    assert_int_equal(sink_wait(&r.end, 1, 0).code, 0);
    assert_int_equal(r.hop, 1001);
    dev_stream_destroy(r.stream);
    dev_close(r.dev);
    sink_free(&r.end);
}

static void add_one(void *arg)
{
    ++*(unsigned *)arg;
}

static void close_waits_for_all(void **state)
{
    enum { COPIES = 500 };
    static unsigned char host[64 * 1024];
    unsigned jobs = 0;

    (void)state;
    for (unsigned round = 0; round < 5; round++) {
        struct dev_stream *s;
        struct fixture f;

        jobs = 0;
        fixture_open(&f, sizeof host);
        assert_int_equal(dev_stream_create(f.dev, &s), 0);
        for (unsigned i = 0; i < COPIES; i++) {
            dev_copy_in(f.dev, f.arena, host, sizeof host, NULL);
            assert_int_equal(fixture_launch_on(s, add_one, &jobs), 0);
        }
        dev_stream_destroy(s);
        assert_int_equal(jobs, COPIES);
        dev_close(f.dev);
        assert_int_equal(f.sink.count, COPIES); /* unlocked: no thread is left */
        sink_free(&f.sink);
    }
}

/* ---- statistics ------------------------------------------------------------ */

static void spin(void *arg)
{
    for (unsigned i = 0; i < 10000; i++)
        atomic_fetch_add_explicit((atomic_uint *)arg, 1, memory_order_relaxed);
}

static void statistics_add_up(void **state)
{
    static unsigned char host[64 * 1024];
    uint64_t in_bytes = 0, out_bytes = 0;
    atomic_uint spins = 0;
    struct dev_stats stats;
    struct dev_stream *s;
    struct dev_gate *g;
    struct fixture f;

    (void)state;
    fixture_open(&f, sizeof host);
    assert_int_equal(dev_stream_create(f.dev, &s), 0);
    for (unsigned i = 0; i < 100; i++) {
        dev_copy_in(f.dev, f.arena, host, 600 * i, NULL);
        in_bytes += 600 * i;
    }
    sink_wait(&f.sink, 100, 0);
    for (unsigned i = 0; i < 70; i++) {
        dev_copy_out(f.dev, host, f.arena, 500 * i, NULL);
        out_bytes += 500 * i;
    }
    sink_wait(&f.sink, 170, 0);
    dev_fill(f.dev, f.arena, 1, sizeof host, NULL); /* crosses no link */
    sink_wait(&f.sink, 171, 0);
    dev_stats_get(f.dev, &stats);
    assert_int_equal(stats.in_bytes, in_bytes);
    assert_int_equal(stats.out_bytes, out_bytes);
    assert_int_equal(stats.in_copies, 100);
    assert_int_equal(stats.out_copies, 70);
    assert_true(stats.in_busy_ns > 0 && stats.out_busy_ns > 0);
    assert_int_equal(stats.job_ns, 0);
    assert_int_equal(stats.stall_ns, 0);

    assert_int_equal(dev_gate_create(f.dev, &g), 0);
    dev_stream_mark(s, NULL);
    dev_gate_open(g, NULL); /* gone: nothing waits for it */
    assert_int_equal(fixture_launch_on(s, spin, &spins), 0);
    assert_int_equal(dev_stream_sync(s), 0);
    dev_stats_get(f.dev, &stats);
    assert_true(fixture_on_cuda() || stats.job_ns > 0);
    assert_int_equal(stats.stall_ns, 0);

    while (stats.stall_ns == 0) { /* until the stream was there before the gate opened */
        assert_int_equal(dev_gate_create(f.dev, &g), 0);
        dev_stream_wait(s, g);
        sched_yield();
        dev_gate_open(g, NULL);
        assert_int_equal(dev_stream_sync(s), 0);
        dev_stats_get(f.dev, &stats);
    }
    dev_stream_destroy(s);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_by_name),
        cmocka_unit_test(arena_costs_nothing_untouched),
        cmocka_unit_test(bytes_match_a_model),
        cmocka_unit_test(link_is_in_order),
        cmocka_unit_test(copies_outside_the_arena_are_refused),
        cmocka_unit_test(completions_may_issue),
        cmocka_unit_test(close_waits_for_all),
        cmocka_unit_test(statistics_add_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
