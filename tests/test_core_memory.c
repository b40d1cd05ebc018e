/*
 * core, optim: the public calls where memory runs out. A program of calls runs with each allocation that a
 * call makes on the caller's thread failing in turn: the call says -ENOMEM, nothing else, or does without; it
 * has cost nothing, so that it can be made again; and the weights are bit by bit those of a run that was not
 * disturbed.
 *
 * Negative controls: the undisturbed run has moved the weights; a disturbed one has seen failures of every
 * call that allocates.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/core/context.h"
#include "tests/core_fixture.h"

#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define ELEMS   3000u
#define WEIGHTS 3
#define STEPS   3

/* ---- allocations (the linker sends all of the program's here) ---------- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void __real_free(void *old);
char *__real_strdup(const char *text);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __wrap_free(void *old);
char *__wrap_strdup(const char *text);

/* This thread's allocation after so many more fails, and no other. */
static _Thread_local unsigned countdown;
static _Thread_local bool armed, failed;

static bool fails(void)
{
    if (!armed || countdown-- > 0)
        return false;
    armed = false;
    failed = true;
    return true;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(align, bytes);
}

void __wrap_free(void *old)
{
    __real_free(old);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

/* ---- calls ------------------------------------------------------------- */

static bool disturb;
static unsigned failures; /* of the program so far */

/* Whether a call is to be made again, with its next allocation failing. */
static bool again(unsigned try, int err, const char *call)
{
    bool disturbed = failed;

    armed = failed = false;
    failures += disturbed;
    if (disturbed && err == -ENOMEM)
        return true;
    if (err < 0)
        fail_msg("%s, allocation %u: %d \"%s\"", call, try, err, ofl_error());
    return false;
}

#define CALL(call)                                                                                           \
    for (unsigned try_ = 0, on_ = 1; on_; try_++) {                                                          \
        int err_;                                                                                            \
                                                                                                             \
        countdown = try_;                                                                                    \
        armed = disturb;                                                                                     \
        err_ = (call);                                                                                       \
        on_ = again(try_, err_, #call);                                                                      \
    }

/* ---- the program ------------------------------------------------------- */

struct place {
    uint64_t device, host, nvme;
    double clip;
};

struct program {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weight[WEIGHTS], *grad[WEIGHTS];
};

static struct ofl_tensor *make(struct ofl_ctx *ctx, const char *what, int number)
{
    char name[16];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_F32, .elems = ELEMS};
    struct ofl_tensor *t = NULL;

    snprintf(name, sizeof name, "%s%d", what, number);
    CALL(ofl_tensor_create(ctx, &d, &t));
    return t;
}

static void begin(struct program *p, const struct place *place, const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = place->device,
                                .host_bytes = place->host,
                                .nvme = fixture_nvme(dir, place->nvme),
                                .nvme_count = place->nvme > 0,
                                .flags = OFL_NO_MEASURE,
                                .workers = 2};
    float value[ELEMS];

    for (unsigned i = 0; i < ELEMS; i++)
        value[i] = (float)(i % 7) * 0.25f + 0.5f;
    CALL(ofl_open(&config, &p->ctx));
    CALL(ofl_stream_create(p->ctx, &p->stream));
    CALL(ofl_optimizer_create(p->ctx, &p->optimizer));
    for (int i = 0; i < WEIGHTS; i++) {
        p->weight[i] = make(p->ctx, "w", i);
        p->grad[i] = make(p->ctx, "g", i);
        CALL(ofl_optimizer_bind(p->optimizer, p->weight[i], p->grad[i]));
        CALL(ofl_tensor_write(p->weight[i], 0, value, sizeof value));
    }
}

static void backward(void *arg)
{
    float *g = arg;

    for (unsigned i = 0; i < ELEMS; i++)
        g[i] = (float)(i % 5) - 1.5f;
}

static void step(struct program *p, uint64_t number, double clip)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-2,
                                           .beta1 = 0.9,
                                           .beta2 = 0.99,
                                           .eps = 1e-8,
                                           .clip = clip,
                                           .step = number};
    struct ofl_lease leases[WEIGHTS];
    double norm;

    CALL(ofl_step_begin(p->ctx, "step"));
    for (int i = 0; i < WEIGHTS; i++)
        leases[i] = (struct ofl_lease){.size = sizeof leases[0], .tensor = p->grad[i], .mode = OFL_OVERWRITE};
    CALL(ofl_acquire(p->ctx, leases, WEIGHTS, p->stream));
    for (int i = 0; i < WEIGHTS; i++)
        CALL(ofl_stream_launch(p->stream, backward, leases[i].ptr));
    CALL(ofl_release(p->ctx, leases, WEIGHTS, p->stream));
    CALL(ofl_optimizer_begin(p->optimizer, &settings));
    for (int i = WEIGHTS; i-- > 0;)
        CALL(ofl_optimizer_apply(p->optimizer, p->weight[i]));
    CALL(ofl_optimizer_end(p->optimizer));
    CALL(ofl_optimizer_norm(p->optimizer, &norm));
    CALL(ofl_step_end(p->ctx));
}

static void end(struct program *p, float *out)
{
    struct ofl_stats stats = {.size = sizeof stats};

    for (int i = 0; i < WEIGHTS; i++)
        CALL(ofl_tensor_read(p->weight[i], 0, out + i * ELEMS, ELEMS * sizeof *out));
    assert_int_equal(ofl_stats_get(p->ctx, &stats), 0);
    assert_int_equal(stats.updates, WEIGHTS * STEPS);
    assert_int_equal(stats.steps, STEPS);
    CALL(ofl_optimizer_destroy(p->optimizer));
    for (int i = 0; i < WEIGHTS; i++) {
        CALL(ofl_tensor_destroy(p->weight[i]));
        CALL(ofl_tensor_destroy(p->grad[i]));
    }
    if (disturb) /* what there was no memory to give back is nobody's */
        assert_int_equal(ofl_close(p->ctx), 0);
    else
        assert_int_equal(fixture_ctx_close(p->ctx), 0);
}

static void run(const struct place *place, const char *dir, bool disturbed, float *out)
{
    struct program p;

    failures = 0;
    disturb = disturbed;
    begin(&p, place, dir);
    for (uint64_t i = 1; i <= STEPS; i++)
        step(&p, i, place->clip);
    end(&p, out);
    disturb = false;
    assert_true(disturbed ? failures > 100 : failures == 0);
}

static void test_every_allocation_fails_once(void **state)
{
    static const struct place places[] = {
        {MIB, 2 * MIB, 0, 0},
        {MIB, 2 * MIB, 0, 0.5},
        {64 * KIB, 2 * MIB, 4 * MIB, 0},
        {64 * KIB, 2 * MIB, 4 * MIB, 0.5},
        {MIB, 0, 0, 0},
        {MIB, 0, 0, 0.5}, /* these live on the device */
    };
    static float want[WEIGHTS * ELEMS], got[WEIGHTS * ELEMS];

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        run(&places[i], *state, false, want);
        assert_true(want[1] != 0.75f);
        run(&places[i], *state, true, got);
        assert_memory_equal(want, got, sizeof want);
    }
}

/* What is kept by tensor, and what a step's end costs, must not grow with tensors that have gone. */
static void test_tensors_that_have_gone(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = MIB, .host_bytes = 2 * MIB};
    struct ofl_ctx *ctx;

    (void)state;
    assert_int_equal(ofl_open(&config, &ctx), 0);
    for (int i = 0; i < 1000; i++) {
        struct ofl_tensor *first = make(ctx, "first", i), *second = make(ctx, "second", i);

        assert_int_equal(ofl_tensor_destroy(first), 0);
        assert_int_equal(ofl_tensor_destroy(second), 0);
    }
    assert_int_equal(ctx->engine.pager.next_id, 2);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation_fails_once),
                                       cmocka_unit_test(test_tensors_that_have_gone)};

    return cmocka_run_group_tests_name("core, memory", tests, scratch_setup, scratch_teardown);
}
