/*
 * What offload.h says of moments that a program can't see: each sentence with the run that shows it. Lifetimes of
 * arguments, what a read waits for, gradients after an update, releases on another stream, what a failed fetch
 * leaves usable, transient tensors, optimizer steps without work, rates that can't be.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"
#include "tests/model_fixture.h"

#define MIB   (1ull << 20)
#define ELEMS 5000u

static void ok(int code)
{
    if (code < 0)
        fail_msg("%d: %s", code, ofl_error());
}

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
};

static struct rig rig_open(const char *dir, uint64_t device_bytes, uint64_t host_bytes, uint32_t flags)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = device_bytes,
                                .host_bytes = host_bytes,
                                .nvme = fixture_nvme(dir, 64 * MIB),
                                .nvme_count = 1,
                                .workers = 2,
                                .flags = OFL_NO_MEASURE | flags,
                                .log = fixture_log};
    struct rig r;

    ok(ofl_open(&config, &r.ctx));
    ok(ofl_stream_create(r.ctx, &r.stream));
    return r;
}

static struct ofl_tensor *make(struct rig *r, const char *name, enum ofl_kind kind, uint64_t elems,
                               uint32_t flags)
{
    struct ofl_tensor_desc desc = {
        .size = sizeof desc, .name = name, .kind = kind, .dtype = OFL_F32, .elems = elems, .flags = flags};
    struct ofl_tensor *t;

    ok(ofl_tensor_create(r->ctx, &desc, &t));
    return t;
}

static void put(struct ofl_tensor *t, float value)
{
    struct ofl_tensor_info info = {.size = sizeof info};
    float *all;

    ok(ofl_tensor_info_get(t, &info));
    all = malloc(info.bytes);
    assert_non_null(all);
    for (uint64_t i = 0; i < info.elems; i++)
        all[i] = value;
    ok(ofl_tensor_write(t, 0, all, info.bytes));
    free(all);
}

static float get(struct ofl_tensor *t)
{
    float value = -1;

    ok(ofl_tensor_read(t, 0, &value, sizeof value));
    return value;
}

/* ---- streams ---------------------------------------------------------------- */

struct slow {
    atomic_int go, seen;
    int value;
};

static void look_when_told(void *arg)
{
    struct slow *s = arg;

    while (!atomic_load(&s->go))
        usleep(100);
    atomic_store(&s->seen, s->value);
}

/* What arg points at is not copied: the job sees what is there when it runs. */
static void arg_lives_until_the_job_has_run(void **state)
{
    struct rig r = rig_open(*state, MIB, 4 * MIB, 0);
    struct slow s = {.value = 1};

    ok(ofl_stream_launch(r.stream, look_when_told, &s));
    s.value = 2; /* after the call has returned */
    atomic_store(&s.go, 1);
    ok(ofl_stream_sync(r.stream));
    assert_int_equal(atomic_load(&s.seen), 2);
    ok(fixture_ctx_close(r.ctx));
}

struct writer {
    float *at;
    float value;
    atomic_int *go;
};

static void write_one(void *arg)
{
    struct writer *w = arg;

    while (w->go && !atomic_load(w->go))
        usleep(100);
    *w->at = w->value;
}

/* The stream of a release is the one whose work it waits for. Here the work has been waited for by the caller. */
static void release_on_another_stream(void **state)
{
    struct rig r = rig_open(*state, MIB, 4 * MIB, 0);
    struct ofl_tensor *t = make(&r, "t", OFL_KIND_OTHER, ELEMS, 0);
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_UPDATE};
    struct writer w = {.value = 7};
    struct ofl_stream *other;

    ok(ofl_stream_create(r.ctx, &other));
    ok(ofl_acquire(r.ctx, &lease, 1, r.stream));
    w.at = lease.ptr;
    ok(ofl_stream_launch(r.stream, write_one, &w));
    ok(ofl_stream_sync(r.stream));
    ok(ofl_release(r.ctx, &lease, 1, other));
    assert_true(get(t) == 7);
    ok(fixture_ctx_close(r.ctx));
}

/* Work on the stream of the acquire is not waited for then: a read comes back while it is still to run. */
static void release_on_another_stream_waits_for_that_one(void **state)
{
    struct rig r = rig_open(*state, MIB, 4 * MIB, 0);
    struct ofl_tensor *t = make(&r, "t", OFL_KIND_OTHER, ELEMS, 0);
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_UPDATE};
    struct slow s = {.value = 1};
    struct ofl_stream *other;

    put(t, 3);
    ok(ofl_stream_create(r.ctx, &other));
    ok(ofl_acquire(r.ctx, &lease, 1, r.stream));
    ok(ofl_stream_launch(r.stream, look_when_told, &s));
    ok(ofl_release(r.ctx, &lease, 1, other));
    assert_true(get(t) == 3);
    assert_int_equal(atomic_load(&s.seen), 0);
    atomic_store(&s.go, 1);
    ok(ofl_stream_sync(r.stream));
    ok(fixture_ctx_close(r.ctx));
}

/* Also of tensors whose bytes are still to come: nothing is lost, and the books balance. */
static void release_before_the_bytes_are_there(void **state)
{
    struct rig r = rig_open(*state, MIB, 2 * MIB, 0);
    struct ofl_tensor *t[8];
    struct ofl_stream *other;

    ok(ofl_stream_create(r.ctx, &other));
    for (int i = 0; i < 8; i++) {
        t[i] = make(&r, "t", OFL_KIND_OTHER, MIB / 4, 0); /* fills the device */
        put(t[i], (float)i);
    }
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < 8; i++) {
            struct ofl_lease lease = {.size = sizeof lease, .tensor = t[i], .mode = OFL_READ};

            ok(ofl_acquire(r.ctx, &lease, 1, r.stream));
            ok(ofl_release(r.ctx, &lease, 1, other));
            fixture_verify(r.ctx);
        }
    ok(ofl_stream_sync(r.stream));
    for (int i = 0; i < 8; i++)
        assert_true(get(t[i]) == (float)i);
    ok(fixture_ctx_close(r.ctx));
}

static void count(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* ---- a failed fetch ------------------------------------------------------------ */

/* A source that was written while it was open. */
static struct ofl_tensor *changed_source(struct rig *r, const char *dir, char **path)
{
    const uint64_t shape[] = {8};
    json_t *tensors = json_object();
    struct ofl_source *source;
    struct ofl_tensor *t;

    json_object_set_new(tensors, "a", files_tensor("F32", 1, shape));
    files_put_safetensors(dir, "model.safetensors", tensors);
    *path = files_path(dir, "model.safetensors");
    ok(ofl_source_open(r->ctx, *path, &source));
    ok(ofl_source_bind(source, "a", OFL_KIND_WEIGHT, &t));
    json_object_set_new(tensors, "b", files_tensor("F32", 1, shape));
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    return t;
}

static void after_a_failed_fetch(void **state)
{
    struct rig r = rig_open(*state, MIB, 4 * MIB, 0);
    struct ofl_tensor *good = make(&r, "good", OFL_KIND_OTHER, ELEMS, 0), *bad;
    struct ofl_lease lease = {.size = sizeof lease, .mode = OFL_READ};
    struct ofl_lease update = {.size = sizeof update, .tensor = good, .mode = OFL_UPDATE};
    struct writer w = {.value = 9};
    struct ofl_stream *fresh;
    atomic_int runs = 0;
    char *path;

    put(good, 4);
    lease.tensor = bad = changed_source(&r, *state, &path);
    ok(ofl_acquire(r.ctx, &lease, 1, r.stream));
    ok(ofl_stream_launch(r.stream, count, &runs));
    ok(ofl_release(r.ctx, &lease, 1, r.stream));
    assert_int_equal(ofl_stream_sync(r.stream), -OFL_ECHANGED);
    /* The stream has failed for good: what comes later is skipped, and writes nothing. */
    ok(ofl_acquire(r.ctx, &update, 1, r.stream));
    ok(ofl_stream_launch(r.stream, count, &runs));
    ok(ofl_release(r.ctx, &update, 1, r.stream));
    assert_int_equal(ofl_stream_sync(r.stream), -OFL_ECHANGED);
    assert_int_equal(atomic_load(&runs), 0);
    assert_true(get(good) == 4);
    ofl_stream_destroy(r.stream);
    /* The context, the other tensors and a new stream go on. */
    ok(ofl_stream_create(r.ctx, &fresh));
    ok(ofl_acquire(r.ctx, &update, 1, fresh));
    w.at = update.ptr;
    ok(ofl_stream_launch(fresh, write_one, &w));
    ok(ofl_release(r.ctx, &update, 1, fresh));
    ok(ofl_stream_sync(fresh));
    assert_true(get(good) == 9);
    /* The tensor is fetched anew, and fails again as long as the cause is there. */
    lease.tensor = bad;
    ok(ofl_acquire(r.ctx, &lease, 1, fresh));
    ok(ofl_release(r.ctx, &lease, 1, fresh));
    assert_int_equal(ofl_stream_sync(fresh), -OFL_ECHANGED);
    ok(fixture_ctx_close(r.ctx));
    unlink(path);
    free(path);
}

/* ---- transient tensors ------------------------------------------------------------ */

struct peek {
    const float *at;
    float value;
};

static void peek(void *arg)
{
    struct peek *p = arg;

    p->value = *p->at;
}

/* Leases t, looks at what is there, and makes it `next`. */
static float transient_lease(struct rig *r, struct ofl_tensor *t, enum ofl_mode mode, float next)
{
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = mode};
    struct peek p = {.value = -1};
    struct writer w = {.value = next};

    ok(ofl_acquire(r->ctx, &lease, 1, r->stream));
    p.at = w.at = lease.ptr;
    ok(ofl_stream_launch(r->stream, peek, &p));
    ok(ofl_stream_launch(r->stream, write_one, &w));
    ok(ofl_release(r->ctx, &lease, 1, r->stream));
    ok(ofl_stream_sync(r->stream));
    return p.value;
}

/* Undefined at each acquire, whatever the mode: the same bytes as before where nothing has come between, others
 * where its place was needed. Nothing of it goes down, so no host or drive bytes move. */
static void transient_contents(void **state)
{
    struct rig r = rig_open(*state, MIB, 4 * MIB, OFL_POISON);
    struct ofl_tensor *t = make(&r, "t", OFL_KIND_ACTIVATION, ELEMS, OFL_TENSOR_TRANSIENT);
    struct ofl_tensor *large = make(&r, "large", OFL_KIND_OTHER, MIB / 4, 0);
    static const enum ofl_mode modes[] = {OFL_UPDATE, OFL_READ};
    struct ofl_stats stats = {.size = sizeof stats};
    float value = 0;

    for (int i = 0; i < 2; i++) {
        transient_lease(&r, t, OFL_OVERWRITE, 5);
        assert_true(transient_lease(&r, t, modes[i], 5) == 5);
        transient_lease(&r, large, OFL_OVERWRITE, 6); /* takes the whole device */
        assert_false(transient_lease(&r, t, modes[i], 5) == 5);
    }
    assert_int_equal(ofl_tensor_read(t, 0, &value, sizeof value), -OFL_ESTATE);
    assert_int_equal(ofl_tensor_write(t, 0, &value, sizeof value), -OFL_ESTATE);
    ok(ofl_stats_get(r.ctx, &stats));
    assert_true(stats.device_out_bytes <= 2 * MIB); /* the large one, twice at most */
    ok(fixture_ctx_close(r.ctx));
}

/* ---- the optimizer --------------------------------------------------------------- */

struct trained {
    struct rig rig;
    struct ofl_optimizer *o;
    struct ofl_tensor *weight, *grad;
};

static struct ofl_update_settings settings(double clip)
{
    return (struct ofl_update_settings){.size = sizeof(struct ofl_update_settings),
                                        .lr = 0.5,
                                        .beta1 = 0.9,
                                        .beta2 = 0.99,
                                        .eps = 1e-8,
                                        .clip = clip,
                                        .step = 1};
}

static struct trained trained_open(const char *dir)
{
    struct trained x = {.rig = rig_open(dir, MIB, 4 * MIB, 0)};

    x.weight = make(&x.rig, "weight", OFL_KIND_WEIGHT, ELEMS, 0);
    x.grad = make(&x.rig, "grad", OFL_KIND_GRADIENT, ELEMS, 0);
    ok(ofl_optimizer_create(x.rig.ctx, &x.o));
    ok(ofl_optimizer_bind(x.o, x.weight, x.grad));
    put(x.weight, 2);
    put(x.grad, 1);
    return x;
}

/* The first step of AdamW moves by lr: 2 becomes 1.5. */
static int moved(float value)
{
    return fabsf(value - 1.5f) < 1e-3f;
}

static void a_read_sees_updates_that_are_queued(void **state)
{
    for (int clipped = 0; clipped < 2; clipped++) {
        struct trained x = trained_open(*state);
        struct ofl_update_settings s = settings(clipped ? 1e6 : 0);

        ok(ofl_optimizer_begin(x.o, &s));
        assert_true(get(x.weight) == 2);
        ok(ofl_optimizer_apply(x.o, x.weight));
        if (clipped)
            assert_true(get(x.weight) == 2); /* the norm is not known before the end */
        else
            assert_true(moved(get(x.weight)));
        ok(ofl_optimizer_end(x.o));
        assert_true(moved(get(x.weight)));
        ok(fixture_ctx_close(x.rig.ctx));
    }
}

static void a_gradient_after_its_update(void **state)
{
    struct trained x = trained_open(*state);
    struct ofl_update_settings s = settings(0);

    ok(ofl_optimizer_begin(x.o, &s));
    ok(ofl_optimizer_apply(x.o, x.weight));
    ok(ofl_optimizer_end(x.o));
    assert_true(get(x.grad) != 1); /* no error, but it is not the gradient */
    put(x.grad, 3);                /* as it would be in the next step */
    assert_true(get(x.grad) == 3);
    ok(fixture_ctx_close(x.rig.ctx));
}

static void a_step_without_an_apply(void **state)
{
    for (int clipped = 0; clipped < 2; clipped++) {
        struct trained x = trained_open(*state);
        struct ofl_update_settings s = settings(clipped ? 1 : 0);
        struct ofl_tensor *mean;
        double norm = -1;

        ok(ofl_optimizer_begin(x.o, &s));
        ok(ofl_optimizer_end(x.o));
        ok(ofl_optimizer_norm(x.o, &norm));
        assert_true(norm == 0);
        assert_true(get(x.weight) == 2 && get(x.grad) == 1);
        ok(ofl_optimizer_state(x.o, x.weight, OFL_STATE_EXP_AVG, &mean));
        assert_true(get(mean) == 0);
        ok(fixture_ctx_close(x.rig.ctx));
    }
}

static void rates_that_cannot_be(void **state)
{
    struct trained x = trained_open(*state);
    const double bad[] = {-1e-3, NAN, INFINITY, -INFINITY};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct ofl_update_settings s = settings(0);

        s.lr = bad[i];
        assert_int_equal(ofl_optimizer_begin(x.o, &s), -EINVAL);
        s = settings(0);
        s.weight_decay = bad[i];
        assert_int_equal(ofl_optimizer_begin(x.o, &s), -EINVAL);
    }
    ok(fixture_ctx_close(x.rig.ctx));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arg_lives_until_the_job_has_run),
        cmocka_unit_test(release_on_another_stream),
        cmocka_unit_test(release_on_another_stream_waits_for_that_one),
        cmocka_unit_test(release_before_the_bytes_are_there),
        cmocka_unit_test(after_a_failed_fetch),
        cmocka_unit_test(transient_contents),
        cmocka_unit_test(a_read_sees_updates_that_are_queued),
        cmocka_unit_test(a_gradient_after_its_update),
        cmocka_unit_test(a_step_without_an_apply),
        cmocka_unit_test(rates_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
