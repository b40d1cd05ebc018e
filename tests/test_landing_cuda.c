/*
 * landing/blocks.cu: the kernel against the plain form, bit for bit, over random blocks of every packed dtype (NaN as
 * NaN), to every dtype, in more blocks of threads and fewer than there are values; and by the public call, in order
 * with leases, on device memory.
 *
 * On the stub driver, which runs kernels on the CPU; with OFL_TEST_GPU set, on the machine's GPU.
 *
 * Negative control: a packed bit that is changed must show.
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

#include "base/dtype.h"
#include "include/offload_landing.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

enum { ELEMS = 256 * 5 };

static bool nan_of(const void *values, enum ofl_dtype to, uint64_t i)
{
    uint32_t bits = to == OFL_F32 ? ((const uint32_t *)values)[i] : ((const uint16_t *)values)[i];
    uint32_t infinity = to == OFL_F32 ? 0x7f800000 : to == OFL_F16 ? 0x7c00 : 0x7f80;

    return (bits & (to == OFL_F32 ? 0x7fffffff : 0x7fff)) > infinity;
}

static unsigned differing(const void *a, const void *b, enum ofl_dtype to)
{
    uint64_t each = ofl_dtype_bytes(to);
    unsigned wrong = 0;

    for (uint64_t i = 0; i < ELEMS; i++)
        wrong += memcmp((const char *)a + i * each, (const char *)b + i * each, each) != 0 &&
                 !(nan_of(a, to, i) && nan_of(b, to, i));
    return wrong;
}

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
};

static struct rig rig_open(void)
{
    const struct ofl_config config = {.size = sizeof config,
                                      .device = "cuda",
                                      .device_bytes = 1 << 20,
                                      .host_bytes = OFL_HOST_MIN_BYTES,
                                      .workers = 1};
    struct rig r;

    if (!getenv("OFL_TEST_GPU")) {
        cuda_fixture_needs_kernels();
        cuda_fixture()->reset(&(struct cuda_stub_config){.seed = 3, .pause_us = 20});
    }
    assert_int_equal(ofl_open(&config, &r.ctx), 0);
    assert_int_equal(ofl_stream_create(r.ctx, &r.stream), 0);
    return r;
}

static void rig_close(struct rig *r)
{
    assert_int_equal(fixture_ctx_close(r->ctx), 0);
    if (!getenv("OFL_TEST_GPU"))
        cuda_fixture_clean();
}

/* Through the tiers: packed in, unpacked on the device, read out. */
static void land(struct rig *r, enum ofl_dtype dtype, enum ofl_dtype to, const uint8_t *packed,
                 uint64_t bytes, void *out)
{
    struct ofl_tensor_desc in = {
        .size = sizeof in, .name = "packed", .kind = OFL_KIND_WEIGHT, .dtype = dtype, .elems = ELEMS};
    struct ofl_tensor_desc rows = {
        .size = sizeof rows, .name = "rows", .kind = OFL_KIND_OTHER, .dtype = to, .elems = ELEMS};
    struct ofl_lease leases[2] = {{.size = sizeof *leases, .mode = OFL_READ},
                                  {.size = sizeof *leases, .mode = OFL_OVERWRITE}};
    struct ofl_landing l = {.size = sizeof l, .dtype = dtype, .to = to, .elems = ELEMS};

    assert_int_equal(ofl_tensor_create(r->ctx, &in, &leases[0].tensor), 0);
    assert_int_equal(ofl_tensor_create(r->ctx, &rows, &leases[1].tensor), 0);
    assert_int_equal(ofl_tensor_write(leases[0].tensor, 0, packed, bytes), 0);
    assert_int_equal(ofl_acquire(r->ctx, leases, 2, r->stream), 0);
    l.packed = leases[0].ptr;
    l.out = leases[1].ptr;
    assert_int_equal(ofl_landing_launch(r->stream, &l), 0);
    assert_int_equal(ofl_release(r->ctx, leases, 2, r->stream), 0);
    assert_int_equal(ofl_tensor_read(leases[1].tensor, 0, out, ELEMS * ofl_dtype_bytes(to)), 0);
    assert_int_equal(ofl_tensor_destroy(leases[0].tensor), 0);
    assert_int_equal(ofl_tensor_destroy(leases[1].tensor), 0);
}

static void the_bits_of_the_plain_form(void **state)
{
    static const enum ofl_dtype tos[] = {OFL_F32, OFL_F16, OFL_BF16};
    struct random random = {11};
    struct rig r = rig_open();
    unsigned shown = 0;

    (void)state;
    for (int d = OFL_Q4_0; d <= OFL_MXFP4; d++)
        for (size_t t = 0; t < 3; t++) {
            uint8_t packed[ELEMS * 2];
            float want[ELEMS], got[ELEMS];
            struct ofl_landing l = {.size = sizeof l,
                                    .dtype = (enum ofl_dtype)d,
                                    .to = tos[t],
                                    .elems = ELEMS,
                                    .packed = packed,
                                    .out = want,
                                    .form = OFL_LANDING_PLAIN};
            uint64_t bytes;
            unsigned wrong;

            assert_int_equal(base_dtype_bytes(base_dtype(l.dtype), ELEMS, &bytes), 0);
            for (uint64_t i = 0; i < bytes; i++)
                packed[i] = (uint8_t)(random_next(&random) >> 40);
            assert_int_equal(ofl_landing_run(&l), 0);
            land(&r, l.dtype, l.to, packed, bytes, got);
            wrong = differing(got, want, l.to);
            if (wrong)
                fail_msg("%s to %s: %u values differ", ofl_dtype_name(l.dtype), ofl_dtype_name(l.to), wrong);
            packed[bytes / 2] ^= 0x11;
            land(&r, l.dtype, l.to, packed, bytes, got);
            shown += differing(got, want, l.to) > 0;
        }
    assert_true(shown > 13); /* of 39: a scale may be infinite, a result too small for F16 */
    rig_close(&r);
}

static void what_a_gpu_does_not_do(void **state)
{
    struct rig r = rig_open();
    struct ofl_landing none = {.size = sizeof none, .dtype = OFL_Q4_K, .to = OFL_BF16};
    struct ofl_landing_matrix m = {.size = sizeof m,
                                   .packing = OFL_PACKING_FP4,
                                   .scale_dtype = OFL_U8,
                                   .rows = 1,
                                   .columns = 2,
                                   .to = OFL_F32,
                                   .packed = "a",
                                   .scales = "b",
                                   .out = &r};

    (void)state;
    assert_int_equal(ofl_landing_launch(r.stream, &none), 0); /* only loads */
    none.elems = 7;
    assert_int_equal(ofl_landing_launch(r.stream, &none), -EINVAL);
    none.dtype = OFL_I32;
    assert_int_equal(ofl_landing_launch(r.stream, &none), -ENOTSUP);
    assert_int_equal(ofl_landing_matrix_launch(r.stream, &m), -ENOTSUP);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_of_the_plain_form),
        cmocka_unit_test(what_a_gpu_does_not_do),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
