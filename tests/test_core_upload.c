/*
 * core: uploads in order with a stream (ofl_tensor_write_async). On both devices.
 *  - random parts of tensors, by two streams, on a device that holds a third of them: the bytes of a model in RAM;
 *  - the call returns while its stream is held up; what was leased before sees the old bytes, what comes later the new;
 *  - what is refused, with which words, and that nothing is written then;
 *  - on a stream that has failed nothing is written.
 * Negative control of the order: the job before the upload is still held when the call has returned.
 */
#include <errno.h>
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
#include "tests/cuda_fixture.h"
#include "tests/model_fixture.h"

#define MIB     (1ull << 20)
#define BYTES   (300000u & ~3u)
#define TENSORS 8

static struct ofl_ctx *open_context(const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = MIB,
                                .host_bytes = 2 * MIB,
                                .nvme = fixture_nvme(dir, 16 * MIB),
                                .nvme_count = 1,
                                .workers = 2,
                                .flags = OFL_NO_MEASURE,
                                .log = fixture_log};
    struct ofl_ctx *ctx;

    fixture_ok(ofl_open(&config, &ctx));
    return ctx;
}

static struct ofl_tensor *make(struct ofl_ctx *ctx, enum ofl_dtype dtype, uint64_t elems, uint32_t flags)
{
    struct ofl_tensor_desc desc = {
        .size = sizeof desc, .name = "t", .dtype = dtype, .elems = elems, .flags = flags};
    struct ofl_tensor *t;

    fixture_ok(ofl_tensor_create(ctx, &desc, &t));
    return t;
}

/* ---- bytes ------------------------------------------------------------------ */

static void random_parts(void **state)
{
    struct ofl_ctx *ctx = open_context(*state);
    struct random random = {7};
    struct ofl_tensor *t[TENSORS];
    struct ofl_stream *s[2];
    uint8_t *model[TENSORS], *back = malloc(BYTES), *bufs[16];

    for (int i = 0; i < 2; i++)
        fixture_ok(ofl_stream_create(ctx, &s[i]));
    for (int i = 0; i < TENSORS; i++) {
        t[i] = make(ctx, OFL_F32, BYTES / 4, 0);
        model[i] = calloc(1, BYTES);
    }
    for (int i = 0; i < 16; i++)
        bufs[i] = malloc(BYTES);
    for (unsigned round = 0; round < fixture_rounds(12); round++) {
        for (int i = 0; i < 16; i++) {
            uint64_t at = random_below(&random, TENSORS), from = random_below(&random, BYTES / 4) * 4;
            uint64_t n = (1 + random_below(&random, (BYTES - from) / 4)) * 4;

            if (random_below(&random, 3) == 0)
                from = 0, n = BYTES;
            memset(bufs[i], (int)(1 + random_below(&random, 255)), n);
            fixture_ok(ofl_tensor_write_async(t[at], from, bufs[i], n, s[random_below(&random, 2)]));
            memcpy(model[at] + from, bufs[i], n);
        }
        for (int i = 0; i < 2; i++)
            fixture_ok(ofl_stream_sync(s[i])); /* the buffers are ours again */
    }
    for (int i = 0; i < TENSORS; i++) {
        fixture_ok(ofl_tensor_read(t[i], 0, back, BYTES));
        assert_memory_equal(back, model[i], BYTES);
        free(model[i]);
    }
    for (int i = 0; i < 16; i++)
        free(bufs[i]);
    free(back);
    fixture_ok(fixture_ctx_close(ctx));
}

/* ---- order ------------------------------------------------------------------- */

struct held {
    atomic_int go, ended;
    const void *at;
    uint32_t seen;
};

static void look(void *arg)
{
    struct held *h = arg;

    while (!atomic_load(&h->go))
        usleep(100);
    h->seen = *(const uint32_t *)fixture_view((void *)(uintptr_t)h->at);
    atomic_store(&h->ended, 1);
}

static void in_order_with_the_stream(void **state)
{
    struct ofl_ctx *ctx = open_context(*state);
    struct ofl_tensor *t = make(ctx, OFL_U32, 1000, 0);
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_READ};
    struct held before = {.seen = 1}, after = {.go = 1};
    const uint32_t old = 11, fresh = 22;
    struct ofl_stream *s;

    fixture_ok(ofl_stream_create(ctx, &s));
    fixture_ok(ofl_tensor_write(t, 0, &old, sizeof old));
    fixture_ok(ofl_acquire(ctx, &lease, 1, s));
    before.at = lease.ptr;
    fixture_ok(fixture_kernel(s, look, &before, (struct fixture_range){lease.ptr, 4000, false}));
    fixture_ok(ofl_release(ctx, &lease, 1, s));
    fixture_ok(ofl_tensor_write_async(t, 0, &fresh, sizeof fresh, s));
    assert_int_equal(atomic_load(&before.ended), 0);
    fixture_ok(ofl_acquire(ctx, &lease, 1, s));
    after.at = lease.ptr;
    fixture_ok(fixture_kernel(s, look, &after, (struct fixture_range){lease.ptr, 4000, false}));
    fixture_ok(ofl_release(ctx, &lease, 1, s));
    atomic_store(&before.go, 1);
    fixture_ok(ofl_stream_sync(s));
    assert_int_equal(before.seen, old);
    assert_int_equal(after.seen, fresh);
    fixture_ok(fixture_ctx_close(ctx));
}

/* ---- refusals ------------------------------------------------------------------ */

static void what_is_refused(void **state)
{
    struct ofl_ctx *ctx = open_context(*state), *other = open_context(*state);
    struct ofl_tensor *t = make(ctx, OFL_F32, 100, 0), *large = make(ctx, OFL_U8, 2 * MIB, 0);
    struct ofl_tensor *brief = make(ctx, OFL_F32, 100, OFL_TENSOR_TRANSIENT);
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_READ};
    uint8_t *bytes = calloc(1, 2 * MIB), back[400];
    struct ofl_stream *s, *foreign;

    memset(bytes, 5, 400);
    fixture_ok(ofl_stream_create(ctx, &s));
    fixture_ok(ofl_stream_create(other, &foreign));
    fixture_refused(ofl_tensor_write_async(t, 2, bytes, 4, s), -EINVAL, "offset 2");
    fixture_refused(ofl_tensor_write_async(t, 0, bytes, 6, s), -EINVAL, "4 bytes of an element");
    fixture_refused(ofl_tensor_write_async(t, 396, bytes, 8, s), -EINVAL, "it has 400 bytes");
    fixture_refused(ofl_tensor_write_async(t, UINT64_MAX - 3, bytes, 8, s), -EINVAL, "it has 400 bytes");
    fixture_refused(ofl_tensor_write_async(t, 0, bytes, 4, foreign), -EINVAL, "another context's");
    fixture_refused(ofl_tensor_write_async(brief, 0, bytes, 4, s), -OFL_ESTATE, "transient");
    fixture_refused(ofl_tensor_write_async(large, 0, bytes, 2 * MIB, s), -OFL_EBUDGET, "device");
    fixture_ok(ofl_acquire(ctx, &lease, 1, s));
    fixture_refused(ofl_tensor_write_async(t, 0, bytes, 4, s), -OFL_ESTATE, "leased already");
    fixture_ok(ofl_release(ctx, &lease, 1, s));
    fixture_ok(ofl_tensor_write_async(t, 400, NULL, 0, s));
    fixture_ok(ofl_tensor_read(t, 0, back, sizeof back));
    for (size_t i = 0; i < sizeof back; i++)
        assert_int_equal(back[i], 0);
    fixture_ok(ofl_close(other));
    fixture_ok(fixture_ctx_close(ctx));
    free(bytes);
}

/* ---- failures -------------------------------------------------------------------- */

/* On cuda work on such a stream can't be taken back. */
static void on_a_stream_that_has_failed(void **state)
{
    const uint64_t shape[] = {8};
    struct ofl_ctx *ctx = open_context(*state);
    struct ofl_tensor *t = make(ctx, OFL_U32, 10, 0);
    struct ofl_lease lease = {.size = sizeof lease, .mode = OFL_READ};
    json_t *tensors = json_object();
    const uint32_t fresh = 3;
    struct ofl_source *source;
    struct ofl_stream *s;
    uint32_t back = 1;
    char *path;

    json_object_set_new(tensors, "a", files_tensor("F32", 1, shape));
    files_put_safetensors(*state, "model.safetensors", tensors);
    path = files_path(*state, "model.safetensors");
    fixture_ok(ofl_stream_create(ctx, &s));
    fixture_ok(ofl_source_open(ctx, path, &source));
    fixture_ok(ofl_source_bind(source, "a", OFL_KIND_WEIGHT, &lease.tensor));
    fixture_refused(ofl_tensor_write_async(lease.tensor, 0, &fresh, 4, s), -EROFS, "source");
    json_object_set_new(tensors, "b", files_tensor("F32", 1, shape));
    files_put_safetensors(*state, "model.safetensors", tensors); /* it is written while it is open */
    json_decref(tensors);
    fixture_ok(ofl_acquire(ctx, &lease, 1, s));
    fixture_ok(ofl_release(ctx, &lease, 1, s));
    assert_int_equal(ofl_stream_sync(s), -OFL_ECHANGED);
    if (!fixture_on_cuda()) {
        fixture_ok(ofl_tensor_write_async(t, 0, &fresh, sizeof fresh, s));
        assert_int_equal(ofl_stream_sync(s), -OFL_ECHANGED);
        fixture_ok(ofl_tensor_read(t, 0, &back, sizeof back));
        assert_int_equal(back, 0);
    }
    fixture_ok(fixture_ctx_close(ctx));
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_parts),
        cmocka_unit_test(in_order_with_the_stream),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(on_a_stream_that_has_failed),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
