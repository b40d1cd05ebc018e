/*
 * Proves of the cuda device, on the stub driver: seeded random programs of copies, fills,
 * gates, kernels and marks on several streams leave the bytes that a plain model predicts,
 * without one call that waits for the GPU and without leaving anything behind; the number of
 * driver calls per operation has a bound; a failure of any call, and loss of the device at
 * any point, ends every operation with the first error, and close returns; whatever open
 * can fail at is undone. The suites of the host device run on it, too: cuda.sh.
 *
 * Negative controls: the same programs with one stream wait that doesn't wait, or one event
 * that is reported before it has come to pass, must be seen to fail within their seeds. (The
 * stub does that: for the library it is the same as a call left out.)
 */
#include <errno.h>
#include <pthread.h>
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
#include "liboffload/device/cuda.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

/* ---- random programs ------------------------------------------------------ */

enum { SLOTS = 12, WORDS = 1024, BYTES = WORDS * 8, STREAMS = 3, ROUNDS = 60 };

/* A slot goes round: copied in, waited for at a gate, changed by a kernel, marked, copied
 * out, compared, and used again at once. What it held before is of another seed, so that
 * nothing that comes too early goes unseen. */
enum stage { COPYING_IN, ON_STREAM, COPYING_OUT };

struct program;

struct slot {
    struct program *program;
    uint64_t *device, *host; /* BYTES each */
    uint64_t words, seed;
    struct dev_gate *gate;
    struct dev_stream *stream;
    enum stage stage; /* the poller's, while it is busy */
    bool busy;
};

struct program {
    struct dev *dev;
    struct dev_stream *streams[STREAMS];
    uint64_t *host;
    struct random random;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned busy, failed, others; /* others: fills and marks that no slot awaits */
    atomic_uint wrong;
    struct slot slots[SLOTS];
};

static uint64_t word_at(uint64_t seed, uint64_t i)
{
    return (seed + i) * 0x9e3779b97f4a7c15u;
}

static void check_words(struct slot *s, const uint64_t *at, uint64_t seed)
{
    unsigned wrong = 0;

    for (uint64_t i = 0; i < s->words; i++)
        wrong += at[i] != word_at(seed, i);
    if (wrong)
        atomic_fetch_add(&s->program->wrong, wrong);
}

/* On the GPU's stream. */
static void kernel(void *arg)
{
    struct slot *s = arg;

    check_words(s, s->device, s->seed);
    for (uint64_t i = 0; i < s->words; i++)
        s->device[i] = word_at(s->seed + 1, i);
}

static void over(struct program *p, unsigned *count, bool failed)
{
    pthread_mutex_lock(&p->lock);
    --*count;
    p->failed += failed;
    pthread_cond_broadcast(&p->idle);
    pthread_mutex_unlock(&p->lock);
}

/* The sink: moves the slot on. A NULL cookie is nobody's. */
static void moved(void *sink, void *cookie, int code)
{
    struct program *p = sink;
    struct slot *s = cookie;
    struct base_error error;

    if (!s) {
        over(p, &p->others, false);
        return;
    }
    if (s->stage == COPYING_IN) {
        base_error_set(&error, code, "copy of a slot");
        s->stage = ON_STREAM;
        dev_gate_open(s->gate, &error);
        return;
    }
    if (s->stage == ON_STREAM && code == 0) {
        s->stage = COPYING_OUT;
        dev_copy_out(p->dev, s->host, s->device, s->words * 8, s);
        return;
    }
    if (code == 0)
        check_words(s, s->host, s->seed + 1);
    pthread_mutex_lock(&p->lock);
    s->busy = false;
    pthread_mutex_unlock(&p->lock);
    over(p, &p->busy, code != 0);
}

static struct slot *take_slot(struct program *p)
{
    struct slot *s;

    pthread_mutex_lock(&p->lock);
    while (p->busy == SLOTS)
        pthread_cond_wait(&p->idle, &p->lock);
    do
        s = &p->slots[random_below(&p->random, SLOTS)];
    while (s->busy);
    s->busy = true;
    s->stage = COPYING_IN;
    p->busy++;
    pthread_mutex_unlock(&p->lock);
    return s;
}

static void other(struct program *p)
{
    pthread_mutex_lock(&p->lock);
    p->others++;
    pthread_mutex_unlock(&p->lock);
}

static void run_round(struct program *p)
{
    struct slot *s = take_slot(p);
    bool wait_first = random_below(&p->random, 2);

    s->seed = random_next(&p->random);
    s->words = 1 + random_below(&p->random, WORDS);
    s->stream = p->streams[random_below(&p->random, STREAMS)];
    for (uint64_t i = 0; i < s->words; i++)
        s->host[i] = word_at(s->seed, i);
    assert_int_equal(dev_gate_create(p->dev, &s->gate), 0);
    if (random_below(&p->random, 4) == 0) {
        other(p);
        dev_fill(p->dev, s->device, 0xFF, s->words * 8, NULL); /* before the copy, on its stream */
    }
    /* the device gets the wait before the copy that opens the gate is issued, or after it is over */
    if (wait_first)
        dev_stream_wait(s->stream, s->gate);
    else
        dev_stream_wait_later(s->stream, s->gate);
    dev_copy_in(p->dev, s->device, s->host, s->words * 8, s);
    dev_stream_flush(s->stream);
    cuda_fixture_launch(dev_stream_native(s->stream), kernel, s);
    dev_stream_mark(s->stream, s);
    if (random_below(&p->random, 8) == 0) {
        other(p);
        dev_stream_mark(p->streams[random_below(&p->random, STREAMS)], NULL);
    }
}

static void program_open(struct program *p, uint64_t seed)
{
    struct dev_config config = {.arena_bytes = SLOTS * BYTES, .done = moved, .sink = p};

    memset(p, 0, sizeof *p);
    p->random.state = seed;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->idle, NULL);
    p->host = mmap(NULL, SLOTS * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p->host != MAP_FAILED);
    if (dev_open("cuda", &config, &p->dev) != 0)
        fail_msg("%s", base_error_text());
    assert_int_equal(dev_register_host(p->dev, p->host, SLOTS * BYTES), 0);
    for (unsigned i = 0; i < STREAMS; i++)
        assert_int_equal(dev_stream_create(p->dev, &p->streams[i]), 0);
    for (unsigned i = 0; i < SLOTS; i++)
        p->slots[i] = (struct slot){
            .program = p, .device = (uint64_t *)dev_arena(p->dev) + i * WORDS, .host = p->host + i * WORDS};
}

static void program_drain(struct program *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->busy || p->others)
        pthread_cond_wait(&p->idle, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void program_close(struct program *p)
{
    for (unsigned i = 0; i < STREAMS; i++)
        dev_stream_destroy(p->streams[i]);
    dev_close(p->dev);
    munmap(p->host, SLOTS * BYTES);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
}

static uint64_t waits_for_the_gpu(void)
{
    const struct cuda_stub *stub = cuda_fixture();

    return stub->calls("cuStreamSynchronize") + stub->calls("cuCtxSynchronize") +
           stub->calls("cuEventSynchronize");
}

/* Runs one program; returns the words that were wrong. */
/* What config has fail does so from when the device is open. */
static void program_armed(struct program *p, const struct cuda_stub_config *config)
{
    cuda_fixture()->reset(&(struct cuda_stub_config){
        .seed = config->seed, .pause_us = config->pause_us, .depth = config->depth});
    program_open(p, config->seed);
    cuda_fixture()->arm(config);
}

static unsigned run_program(struct program *p, const struct cuda_stub_config *config)
{
    program_armed(p, config);
    for (unsigned i = 0; i < ROUNDS; i++)
        run_round(p);
    program_drain(p);
    program_close(p);
    assert_int_equal(p->failed, 0);
    return atomic_load(&p->wrong);
}

static void random_programs(void **state)
{
    static struct program p;
    unsigned programs = fixture_rounds(500);

    (void)state;
    for (uint64_t seed = 1; seed <= programs; seed++) {
        struct cuda_stub_config config = {
            .seed = seed, .pause_us = (unsigned)(seed % 4 * 10), .depth = seed % 3 ? 0 : 5};

        if (run_program(&p, &config) != 0)
            fail_msg("seed %llu: %u words are wrong", (unsigned long long)seed, atomic_load(&p.wrong));
        cuda_fixture_clean();
        assert_int_equal(waits_for_the_gpu(), 0);
    }
    print_message("  %u programs\n", programs);
}

/* How many of the seeds notice that one call in the middle did not do its work. */
static unsigned noticed(struct cuda_stub_config config, unsigned seeds)
{
    static struct program p;
    unsigned seen = 0;

    config.pause_us = 200;
    for (config.seed = 1; config.seed <= seeds; config.seed++)
        seen += run_program(&p, &config) != 0;
    return seen;
}

static void skip_deliberate_race(void)
{
#ifdef __SANITIZE_THREAD__
    fprintf(stderr, "skipped: the race that this test makes on purpose is what ThreadSanitizer stops at\n");
    skip();
#endif
}

static void a_missing_wait_is_noticed(void **state)
{
    unsigned seen;

    (void)state;
    skip_deliberate_race();
    seen = noticed((struct cuda_stub_config){.drop_wait = 20}, 40);
    print_message("  one stream wait dropped: noticed with %u of 40 seeds\n", seen);
    assert_true(seen > 0);
}

static void a_missing_fence_is_noticed(void **state)
{
    unsigned seen;

    (void)state;
    skip_deliberate_race();
    seen = noticed((struct cuda_stub_config){.early_event = 20}, 40);
    print_message("  one event taken as over too early: noticed with %u of 40 seeds\n", seen);
    assert_true(seen > 0);
}

/* ---- driver calls ---------------------------------------------------------- */

static void calls_are_few(void **state)
{
    static struct program p;
    const struct cuda_counts *n;
    struct dev_stats stats;
    uint64_t issued;

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.seed = 5, .pause_us = 20});
    program_open(&p, 5);
    for (unsigned i = 0; i < 20 * ROUNDS; i++)
        run_round(&p);
    program_drain(&p);
    n = &((struct cuda *)p.dev)->driver.counts;
    dev_stats_get(p.dev, &stats);
    assert_int_equal(atomic_load(&n->copy_in), 20 * ROUNDS);
    assert_int_equal(atomic_load(&n->copy_out), 20 * ROUNDS);
    assert_int_equal(atomic_load(&n->mem_alloc), 1);
    assert_int_equal(atomic_load(&n->host_register), 2); /* host memory, and the words of the gates */
    assert_in_range(atomic_load(&n->event_create), 1, 8 * SLOTS); /* they are used again */
    /* a start and an end at most for each copy, fill, wait; one for a mark */
    issued = 2 * (atomic_load(&n->copy_in) + atomic_load(&n->copy_out) + atomic_load(&n->fill) +
                  atomic_load(&n->stream_wait_value)) +
             20 * ROUNDS + 20 * ROUNDS;
    assert_in_range(atomic_load(&n->event_record), 1, issued);
    assert_true(stats.driver_calls > 0);
    assert_true(stats.in_busy_ns > 0 && stats.out_busy_ns > 0 && stats.stall_ns > 0);
    print_message("  %.1f calls for a copy in, a gate, a mark and a copy out\n",
                  (double)stats.driver_calls / (20 * ROUNDS));
    assert_int_equal(waits_for_the_gpu(), 0);
    program_close(&p);
    cuda_fixture_clean();
}

/* ---- a full queue ---------------------------------------------------------- */

static void nothing(void *arg)
{
    (void)arg;
}

static void *launch_many(void *arg)
{
    struct program *p = arg;

    for (int i = 0; i < 40; i++) {
        dev_stream_flush(p->streams[0]);
        cuda_fixture_launch(dev_stream_native(p->streams[0]), nothing, NULL);
    }
    return NULL;
}

/* Who opens gates puts work on a stream whose queue is full behind a closed one, and must come
 * back from it; with dev_stream_mark it would not. */
static void a_full_queue_holds_up_its_user_only(void **state)
{
    static struct program p;
    struct dev_gate *g;
    pthread_t user;

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.depth = 4});
    program_open(&p, 1);
    assert_int_equal(dev_gate_create(p.dev, &g), 0);
    dev_stream_wait_later(p.streams[0], g);
    assert_int_equal(pthread_create(&user, NULL, launch_many, &p), 0);
    while (cuda_fixture()->calls("cuLaunchHostFunc") < 2)
        sched_yield();
    for (int i = 0; i < 10; i++) {
        other(&p);
        dev_stream_mark_later(p.streams[0], NULL);
    }
    dev_gate_open(g, NULL);
    pthread_join(user, NULL);
    program_drain(&p);
    program_close(&p);
    cuda_fixture_clean();
}

/* ---- open fails ------------------------------------------------------------ */

static const struct {
    const char *call;
    unsigned nth;
} open_calls[] = {
    {"cuInit", 1},
    {"cuDeviceGetCount", 1},
    {"cuDeviceGet", 1},
    {"cuDevicePrimaryCtxRetain", 1},
    {"cuMemHostRegister_v2", 1},
    {"cuMemHostGetDevicePointer_v2", 1},
    {"cuMemAlloc_v2", 1},
    {"cuStreamCreateWithPriority", 1},
    {"cuStreamCreateWithPriority", 2},
    {"cuStreamWaitValue32_v2", 1},
    {"cuEventCreate", 1},
    {"cuEventRecord", 1},
    {"cuEventQuery", 1},
};

static int open_cuda(const char *name, uint64_t bytes, struct dev **d)
{
    struct dev_config config = {.arena_bytes = bytes, .done = moved};

    return dev_open(name, &config, d);
}

static void a_failed_open_leaves_nothing(void **state)
{
    struct dev *d;

    (void)state;
    for (size_t i = 0; i < sizeof open_calls / sizeof open_calls[0]; i++) {
        cuda_fixture()->reset(&(struct cuda_stub_config){
            .fail_call = open_calls[i].call, .fail_nth = open_calls[i].nth, .fail_code = CUDA_NOT_SUPPORTED});
        assert_int_equal(open_cuda("cuda", 4096, &d), -ENOTSUP);
        assert_null(d);
        if (!strstr(base_error_text(), "open device \"cuda:0\": cu") && i < 7)
            fail_msg("%s: %s", open_calls[i].call, base_error_text());
        assert_non_null(strstr(base_error_text(), "CUDA_ERROR_NOT_SUPPORTED (801)"));
        cuda_fixture_clean();
    }
}

/* Whoever opens a device, and then has memory of the driver's to free, knows of no work to wait for: on a
 * busy machine a probe of open's could still be on its way. This driver executes nothing that nobody
 * has asked for, so it would be for ever. */
static void open_leaves_no_work(void **state)
{
    struct dev *d;

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.lazy = true});
    assert_int_equal(open_cuda("cuda", 4096, &d), 0);
    assert_int_equal(cuda_fixture()->calls("cuStreamWaitValue32_v2"), 1);
    assert_int_equal(cuda_fixture()->pending(), 0);
    dev_close(d);
    cuda_fixture_clean();
}

static void opens_what_is_there(void **state)
{
    struct dev *d, *other_dev;

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.devices = 2, .memory_bytes = 1 << 20});
    assert_int_equal(open_cuda("cuda:2", 4096, &d), -ENODEV);
    assert_non_null(
        strstr(base_error_text(), "open device \"cuda:2\": there is no such GPU: the driver has 2"));
    assert_int_equal(open_cuda("cuda:", 4096, &d), -ENODEV);
    assert_int_equal(open_cuda("cuda:1x", 4096, &d), -ENODEV);
    assert_int_equal(open_cuda("cuda:99999999999", 4096, &d), -ENODEV);
    assert_int_equal(open_cuda("host:1", 4096, &d), -ENODEV);
    assert_int_equal(open_cuda("cuda:1", 2 << 20, &d), -ENOMEM);
    assert_non_null(strstr(base_error_text(), "cuMemAlloc of 2097152 bytes, 1048576 of its 1048576 bytes"));
    cuda_fixture_clean();
    assert_int_equal(open_cuda("cuda:1", 4096, &d), 0);
    assert_string_equal(dev_name(d), "cuda:1");
    assert_int_equal(open_cuda("cuda", 4096, &other_dev), 0);
    assert_string_equal(dev_name(other_dev), "cuda:0");
    dev_close(d);
    dev_close(other_dev);
    cuda_fixture_clean();
}

static void registers_once(void **state)
{
    unsigned char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct dev *d;

    (void)state;
    assert_true(pages != MAP_FAILED);
    cuda_fixture()->reset(&(struct cuda_stub_config){
        .fail_call = "cuMemHostRegister_v2", .fail_nth = 2, .fail_code = CUDA_OUT_OF_MEMORY});
    assert_int_equal(open_cuda("cuda", 4096, &d), 0);
    assert_int_equal(dev_register_host(d, pages + 1, 4096), -EINVAL);
    assert_int_equal(dev_register_host(d, pages, 4097), -EINVAL);
    assert_int_equal(dev_register_host(d, pages, 8192), -ENOMEM);
    assert_non_null(strstr(base_error_text(), "cuda:0: cuMemHostRegister of 8192 bytes: CUDA_ERROR_OUT_OF"));
    assert_int_equal(dev_register_host(d, pages, 8192), 0);
    assert_int_equal(dev_register_host(d, pages, 8192), -EINVAL);
    dev_close(d);
    cuda_fixture_clean();
    munmap(pages, 8192);
}

/* ---- work fails ------------------------------------------------------------ */

/* Nothing hangs, everything is answered, the first error is what all end with. */
static void check_failing_program(const struct cuda_stub_config *config, const char *part)
{
    static struct program p;
    struct base_error first, again;
    int code = 0;

    program_armed(&p, config);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct slot *s = take_slot(&p);

        s->words = WORDS;
        other(&p);
        dev_fill(p.dev, s->device, 1, BYTES, NULL);
        assert_int_equal(dev_gate_create(p.dev, &s->gate), 0);
        dev_stream_wait_later(p.streams[i % STREAMS], s->gate);
        dev_copy_in(p.dev, s->device, s->host, BYTES, s);
        dev_stream_mark(p.streams[i % STREAMS], s);
    }
    program_drain(&p);
    for (unsigned i = 0; i < STREAMS && code == 0; i++)
        code = dev_stream_sync(p.streams[i]);
    base_error_save(&first, code);
    if (p.failed == 0 || code != -EIO)
        fail_msg("%s: %u failed, sync says %d", part, p.failed, code);
    assert_int_equal(dev_stream_sync(p.streams[0]), code);
    base_error_save(&again, code);
    /* a stream that failed at a gate says what the gate was told */
    if (!strstr(first.text, part) && !strstr(first.text, "copy of a slot"))
        fail_msg("expected %s: %s", part, first.text);
    program_close(&p);
    if (cuda_fixture()->violations(again.text, sizeof again.text))
        fail_msg("the driver was misused: %s", again.text);
}

static const char *const work_calls[] = {"cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2",   "cuMemsetD8Async",
                                         "cuEventRecord",        "cuStreamWaitValue32_v2", "cuEventQuery",
                                         "cuEventCreate"};

static void a_failed_call_fails_all_that_follows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof work_calls / sizeof work_calls[0]; i++)
        for (unsigned nth = 1; nth < 12; nth += 3)
            check_failing_program(&(struct cuda_stub_config){.seed = nth,
                                                             .pause_us = 30,
                                                             .fail_call = work_calls[i],
                                                             .fail_nth = nth,
                                                             .fail_code = 719},
                                  "CUDA_ERROR_LAUNCH_FAILED (719)");
}

static void a_lost_device_hangs_nobody(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 160; n += 3)
        check_failing_program(&(struct cuda_stub_config){.seed = n, .pause_us = 20, .lose_after = n},
                              "CUDA_ERROR_LAUNCH_FAILED (719)");
}

static void an_error_after_the_call_is_seen(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 60; n += 2)
        check_failing_program(&(struct cuda_stub_config){.seed = n, .pause_us = 20, .fail_copy = n},
                              "CUDA_ERROR_LAUNCH_FAILED (719)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs),
        cmocka_unit_test(a_missing_wait_is_noticed),
        cmocka_unit_test(a_missing_fence_is_noticed),
        cmocka_unit_test(calls_are_few),
        cmocka_unit_test(a_full_queue_holds_up_its_user_only),
        cmocka_unit_test(a_failed_open_leaves_nothing),
        cmocka_unit_test(open_leaves_no_work),
        cmocka_unit_test(opens_what_is_there),
        cmocka_unit_test(registers_once),
        cmocka_unit_test(a_failed_call_fails_all_that_follows),
        cmocka_unit_test(a_lost_device_hangs_nobody),
        cmocka_unit_test(an_error_after_the_call_is_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
