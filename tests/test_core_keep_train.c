/*
 * core and kept stores, while training: killed at any moment and resumed, in other budgets and with other engines, F32
 * and BF16, with clipping and without, it ends in the bits of training that was not. Gradients go by the weights, so
 * what comes back wrong once is wrong from then on. So does training on a drive that fails now and then, begun again
 * after each failure.
 *
 * OFL_TEST_FULL=1: about four times as many kills.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/keep_fixture.h"

#define WEIGHTS 5
#define ELEMS   (150u << 10)

struct gradient {
    const void *weight;
    float *grad;
    uint64_t step;
    bool low;
};

#define STEPS 12

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weights[WEIGHTS], *grads[WEIGHTS], *masters[WEIGHTS];
    struct gradient jobs[STEPS + 1][WEIGHTS];
    float values[ELEMS];
    uint16_t halves[ELEMS];
    bool low;
};

struct method {
    bool low;
    double clip;
};

/* ---- what may fail: 0 or the library's error ------------------------------- */

static int make_weight(struct rig *r, uint32_t i)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .kind = OFL_KIND_GRADIENT, .dtype = OFL_F32, .elems = ELEMS};
    char name[16];
    int err;

    snprintf(name, sizeof name, "w%u", i);
    d.name = name;
    err = ofl_tensor_create(r->ctx, &d, &r->grads[i]);
    d.kind = OFL_KIND_WEIGHT;
    d.dtype = r->low ? OFL_BF16 : OFL_F32;
    d.flags = OFL_TENSOR_KEPT;
    if (err == 0)
        err = ofl_tensor_create(r->ctx, &d, &r->weights[i]);
    if (err == 0)
        err = ofl_optimizer_bind(r->optimizer, r->weights[i], r->grads[i]);
    if (err == 0)
        err = ofl_optimizer_state(r->optimizer, r->weights[i], OFL_STATE_MASTER, &r->masters[i]);
    return err;
}

static int first_values(struct rig *r, uint32_t i)
{
    int err;

    for (uint32_t k = 0; k < ELEMS; k++) {
        uint32_t bits;

        r->values[k] = (float)(int)(k * 2654435761u % 2001 - 1000) / 1000;
        memcpy(&bits, &r->values[k], 4);
        r->halves[k] = (uint16_t)(bits >> 16);
    }
    err = ofl_tensor_write(r->masters[i], 0, r->values, sizeof r->values);
    return err == 0 && r->low ? ofl_tensor_write(r->weights[i], 0, r->halves, sizeof r->halves) : err;
}

/* *done: the steps that came back. */
static int rig_open(struct rig *r, const struct keep_budgets *b, bool low, uint64_t *done)
{
    struct ofl_resumed was = {.size = sizeof was};
    int err = keep_try_open(b, &r->ctx);

    *done = 0;
    r->low = low;
    if (err < 0)
        return err;
    if (ofl_resume(r->ctx, &was) == 0)
        memcpy(done, was.note, sizeof *done);
    err = ofl_stream_create(r->ctx, &r->stream);
    if (err == 0)
        err = ofl_optimizer_create(r->ctx, &r->optimizer);
    for (uint32_t i = 0; i < WEIGHTS && err == 0; i++) {
        err = make_weight(r, i);
        if (err == 0 && !*done)
            err = first_values(r, i);
        if (err == 0 && (!ofl_tensor_resumed(r->weights[i]) || !ofl_tensor_resumed(r->masters[i])) && *done)
            fail_msg("weight %u did not come back", i);
    }
    return err;
}

/* Of the weight, so what comes back wrong once is wrong from then on. */
static void gradient(void *arg)
{
    const struct gradient *g = arg;

    for (uint32_t k = 0; k < ELEMS; k++) {
        uint32_t bits = g->low ? (uint32_t)((const uint16_t *)g->weight)[k] << 16 : 0;
        float w;

        if (g->low)
            memcpy(&w, &bits, 4);
        else
            w = ((const float *)g->weight)[k];
        g->grad[k] = w * 0.5f + (float)((k * 31 + g->step * 17) % 64) / 64 - 0.5f;
    }
}

static int backward(struct rig *r, uint64_t step, uint32_t i)
{
    struct ofl_lease l[2] = {{.size = sizeof *l, .tensor = r->weights[i], .mode = OFL_READ},
                             {.size = sizeof *l, .tensor = r->grads[i], .mode = OFL_OVERWRITE}};
    struct gradient *g = &r->jobs[step][i];
    int err;

    l[0].flags = r->low ? OFL_LEASE_DROP : 0;
    err = ofl_acquire(r->ctx, l, 2, r->stream);
    if (err < 0)
        return err;
    *g = (struct gradient){.weight = l[0].ptr, .grad = l[1].ptr, .step = step, .low = r->low};
    err = ofl_stream_launch(r->stream, gradient, g);
    if (err == 0)
        err = ofl_release(r->ctx, l, 2, r->stream);
    return err == 0 ? ofl_optimizer_apply(r->optimizer, r->weights[i]) : err;
}

static int rig_step(struct rig *r, uint64_t step, double clip)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-2,
                                           .beta1 = 0.9,
                                           .beta2 = 0.99,
                                           .eps = 1e-8,
                                           .weight_decay = 0.01,
                                           .clip = clip,
                                           .step = step};
    int err = ofl_step_begin(r->ctx, "train");

    if (err == 0)
        err = ofl_optimizer_begin(r->optimizer, &settings);
    for (uint32_t i = WEIGHTS; i-- > 0 && err == 0;)
        err = backward(r, step, i);
    if (err == 0)
        err = ofl_optimizer_end(r->optimizer);
    return err == 0 ? ofl_step_end(r->ctx) : err;
}

/* Of all weights and states. */
static int rig_hash(struct rig *r, uint64_t *hash)
{
    uint8_t *bytes = (uint8_t *)r->values;

    *hash = 1469598103934665603ull;
    for (uint32_t i = 0; i < WEIGHTS; i++)
        for (int s = -1; s < OFL_STATES; s++) {
            struct ofl_tensor_info info = {.size = sizeof info};
            struct ofl_tensor *t = r->weights[i];
            int err = 0;

            if (s >= 0)
                err = ofl_optimizer_state(r->optimizer, r->weights[i], (enum ofl_state)s, &t);
            if (err == 0)
                err = ofl_tensor_info_get(t, &info);
            if (err == 0)
                err = ofl_tensor_read(t, 0, bytes, info.bytes);
            if (err < 0)
                return err;
            for (uint64_t k = 0; k < info.bytes; k++)
                *hash = (*hash ^ bytes[k]) * 1099511628211ull;
        }
    return 0;
}

/* To the last step, from the last commit on, and committing each where commits is set. */
static int train(const struct keep_budgets *b, const struct method *m, bool commits, uint64_t *hash)
{
    struct rig *r = calloc(1, sizeof *r);
    uint64_t step = 0;
    int err, closed;

    assert_non_null(r);
    err = rig_open(r, b, m->low, &step);
    while (err == 0 && step++ < STEPS) {
        err = rig_step(r, step, m->clip);
        if (err == 0 && commits)
            err = ofl_commit(r->ctx, &step, sizeof step);
    }
    if (err == 0 && commits)
        err = ofl_commit_wait(r->ctx, NULL);
    if (err == 0)
        err = rig_hash(r, hash);
    if (err == 0)
        fixture_verify(r->ctx);
    closed = ofl_close(r->ctx);
    free(r);
    return err < 0 ? err : closed;
}

static uint64_t train_whole(void **state, const struct method *m)
{
    uint64_t hash;

    keep_set_dir(state, "whole");
    if (train(&keep_usual, m, false, &hash) < 0)
        fail_msg("train: %s", ofl_error());
    return hash;
}

static const struct method methods[] = {{false, 0}, {false, 1.0}, {true, 0}, {true, 1.0}};

static const struct keep_budgets various[] = {
    {4 * MIB, 8 * MIB, 0, 0, 0, 0},        {2 * MIB, 2 * MIB, 0, 0, 0, 0},
    {24 * MIB, 4 * MIB, 0, 0, 0, 0},       {4 * MIB, 48 * MIB, 0, OFL_USE_THREADS, 0, 0},
    {2 * MIB, 3 * MIB, 64 * KIB, 0, 0, 0}, {4 * MIB, 8 * MIB, 0, OFL_USE_BUFFERED, 0, 0},
};

#define VARIOUS (sizeof various / sizeof various[0])

/* A process of its own trains; it is killed some time later, unless it is faster. True: it came to its end. */
static bool train_and_kill(const struct keep_budgets *b, const struct method *m, uint64_t after_us,
                           uint64_t *hash)
{
    struct timespec pause = {.tv_nsec = (long)(after_us % 1000000) * 1000,
                             .tv_sec = (time_t)(after_us / 1000000)};
    int ends[2], status;
    pid_t child;
    ssize_t got;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t own;

        if (train(b, m, true, &own) < 0) {
            print_error("train: %s\n", ofl_error());
            _exit(1);
        }
        _exit(write(ends[1], &own, sizeof own) == sizeof own ? 0 : 1);
    }
    close(ends[1]);
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    got = read(ends[0], hash, sizeof *hash);
    close(ends[0]);
    assert_true(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        fail_msg("training: exit %d", WEXITSTATUS(status));
    return got == sizeof *hash;
}

static void killed_training_ends_in_the_same_bits(void **state)
{
    struct random r = {.state = 7};

    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        uint64_t wanted, hash = 0;
        unsigned kills = 0;
        char name[16];

        wanted = train_whole(state, &methods[i]);
        snprintf(name, sizeof name, "killed%zu", i);
        keep_set_dir(state, name);
        /* Later each time, so that every machine comes to the end. */
        for (uint64_t longest = 100000; !train_and_kill(&various[random_below(&r, VARIOUS)], &methods[i],
                                                        random_below(&r, longest), &hash);
             longest += longest / fixture_rounds(4))
            kills++;
        print_message("          %u kills\n", kills);
        assert_true(hash == wanted);
    }
}

/* Transfers fail here and there, also those of commits: what is lost is what came after the last one. */
static void a_failing_drive_costs_what_came_after_the_last_commit(void **state)
{
    const struct method m = {true, 1.0};
    struct keep_budgets b = {4 * MIB, 3 * MIB, 64 * KIB, 0, 1, 3};
    uint64_t wanted = train_whole(state, &m), hash = 0;
    unsigned failures = 0;
    int err;

    keep_set_dir(state, "failing");
    while ((err = train(&b, &m, true, &hash)) < 0 && failures < 400) {
        b.test_seed = ++failures + 1;
        b.test_errors = failures < 40 ? 3 : 1;
    }
    print_message("          %u failures\n", failures);
    assert_int_equal(err, 0);
    assert_true(failures > 0 && hash == wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_training_ends_in_the_same_bits),
        cmocka_unit_test(a_failing_drive_costs_what_came_after_the_last_commit),
    };

    return cmocka_run_group_tests_name("training and kept stores", tests, scratch_setup, keep_teardown);
}
