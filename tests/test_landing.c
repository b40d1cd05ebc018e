/*
 * Landing transforms: the plain form gives the reference's values (golden sums over 2^20 values of each dtype), every
 * other form the plain one's bits, to every dtype, infinities and subnormal scales included; no byte outside of either
 * side is touched; what can't be unpacked is refused, by the name of what is wrong, with nothing written; and work on
 * a stream comes in order with leases.
 *
 * Negative controls: a bit that is changed in the packed bytes changes the sum; the comparison of forms sees one.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "include/offload_landing.h"
#include "liboffload/landing/number.h"
#include "tests/core_fixture.h"

#define VALUES (1u << 20)

static const char *const form_names[OFL_LANDING_FORMS] = {"best", "plain", "avx2", "avx512", "avx512bf16"};
static const enum ofl_dtype tos[] = {OFL_F32, OFL_F16, OFL_BF16};

struct golden {
    enum ofl_dtype dtype;
    int scales[2]; /* where a block has F16 numbers; -1: none */
    uint64_t sum;
    float first[4];
};

static const struct golden goldens[] = {
    /* tools/golden_formats.py, gguf 0.19.0 */
    {OFL_Q4_0, {0, -1}, 0x288e782308235000u, {0x1.2p-8f, 0x1.2p-7f, -0x1.8p-10f, -0x1.8p-9f}},
    {OFL_Q4_1, {0, 2}, 0xc86fa898fdaec433u, {0x1.15bp-6f, 0x1.fb6p-7f, 0x1.0b6p-7f, 0x1.3b6p-7f}},
    {OFL_Q5_0, {0, -1}, 0x4befbd010161e400u, {0x1.8p-10f, 0x1.8p-9f, -0x1.08p-6f, 0x1.8p-9f}},
    {OFL_Q5_1, {0, 2}, 0xfa8418dbfb41efa9u, {0x1.32d8p-5f, 0x1.0ed8p-5f, 0x1.4ad8p-5f, 0x1.9b6p-7f}},
    {OFL_Q8_0, {0, -1}, 0x66429b550b799880u, {-0x1.bcp-5f, 0x1.68p-5f, -0x1.b6p-4f, -0x1.bcp-4f}},
    {OFL_Q2_K, {80, 82}, 0xe47aa6a22b536c32u, {-0x0p+0f, -0x0p+0f, -0x0p+0f, -0x0p+0f}},
    {OFL_Q3_K, {108, -1}, 0xb418090b47cdf600u, {-0x1.dacp-1f, -0x1.3c8p+0f, 0x1.3c8p-1f, -0x1.3c8p-2f}},
    {OFL_Q4_K, {0, 2}, 0x04001d3499437a73u, {0x1.2b448p-1f, -0x1.1feep-3f, 0x1.11624p+0f, 0x1.9e24p-4f}},
    {OFL_Q5_K, {0, 2}, 0x628cd7740fceaa64u, {0x1.a1c24p+0f, 0x1.509p-6f, 0x1.dfa24p+0f, 0x1.04712p+1f}},
    {OFL_Q6_K, {208, -1}, 0x518bd1e517ca1b3eu, {0x1.98cp-6f, -0x1.fefp-7f, -0x1.fefp-8f, 0x1.65a8p-6f}},
    {OFL_IQ4_NL, {0, -1}, 0xaa5d241f76ddd100u, {0x1.c8p-5f, 0x1.0bp-3f, -0x1.ep-7f, -0x1.08p-5f}},
    {OFL_IQ4_XS, {0, -1}, 0x46130db975767e5eu, {-0x1.2dep+0f, -0x1.65fp+1f, -0x1.59p-2f, -0x1.a6ap+0f}},
    {OFL_MXFP4, {-1, -1}, 0x7365c537e6800000u, {0x1p-125f, -0x1.8p-127f, -0x1p-125f, 0x1.8p-125f}},
};

#define COUNT (sizeof goldens / sizeof goldens[0])

/* ---- blocks ------------------------------------------------------------------ */

/* As tools/golden_formats.py makes them. */
static uint8_t mixed(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (uint8_t)((x ^ x >> 31) >> 56);
}

static uint8_t *golden_blocks(const struct golden *g, uint64_t *bytes)
{
    const struct base_dtype *d = base_dtype(g->dtype);
    uint8_t *p;

    assert_int_equal(base_dtype_bytes(d, VALUES, bytes), 0);
    p = malloc(*bytes);
    assert_non_null(p);
    for (uint64_t i = 0; i < *bytes; i++)
        p[i] = mixed(i);
    for (uint64_t at = 0; at < *bytes; at += d->block_bytes)
        for (int s = 0; s < 2; s++)
            if (g->scales[s] >= 0)
                p[at + (uint64_t)g->scales[s] + 1] &= 0xbf;
    return p;
}

static int unpack(enum ofl_dtype dtype, enum ofl_landing_form form, enum ofl_dtype to, const void *packed,
                  uint64_t elems, void *out)
{
    struct ofl_landing l = {.size = sizeof l,
                            .dtype = dtype,
                            .to = to,
                            .elems = elems,
                            .packed = packed,
                            .out = out,
                            .form = form};

    return ofl_landing_run(&l);
}

static uint64_t sum_of(const float *values)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < VALUES; i++)
        sum += number_bits(values[i]) * (2 * i + 1);
    return sum;
}

/* ---- values ------------------------------------------------------------------ */

static void values_are_the_references(void **state)
{
    float *values = malloc(VALUES * sizeof *values);

    (void)state;
    assert_non_null(values);
    for (size_t i = 0; i < COUNT; i++) {
        const struct golden *g = &goldens[i];
        uint64_t bytes;
        uint8_t *packed = golden_blocks(g, &bytes);

        assert_int_equal(unpack(g->dtype, OFL_LANDING_PLAIN, OFL_F32, packed, VALUES, values), 0);
        for (int k = 0; k < 4; k++)
            assert_true(values[k] == g->first[k]);
        assert_true(sum_of(values) == g->sum);
        packed[bytes - 1] ^= 0x10; /* in the last block: a quant, or the exponent of a scale */
        assert_int_equal(unpack(g->dtype, OFL_LANDING_PLAIN, OFL_F32, packed, VALUES, values), 0);
        assert_false(sum_of(values) == g->sum);
        free(packed);
    }
    free(values);
}

static bool nan_of(const void *values, enum ofl_dtype to, uint64_t i)
{
    uint16_t half = to == OFL_F32 ? 0 : ((const uint16_t *)values)[i] & 0x7fff;

    return to == OFL_F32 ? isnan(((const float *)values)[i]) : half > (to == OFL_F16 ? 0x7c00 : 0x7f80);
}

/* The first value that differs, or -1. */
static int64_t difference(const void *a, const void *b, enum ofl_dtype to, uint64_t elems)
{
    uint64_t each = ofl_dtype_bytes(to);

    for (uint64_t i = 0; i < elems; i++)
        if (memcmp((const char *)a + i * each, (const char *)b + i * each, each) != 0 &&
            !(nan_of(a, to, i) && nan_of(b, to, i)))
            return (int64_t)i;
    return -1;
}

/* Any bytes are a block: scales of every kind come up. */
static void forms_give_the_same_bits(void **state)
{
    const uint64_t elems = 256 * 1024;
    struct random random = {5};
    unsigned compared = 0;

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        enum ofl_dtype dtype = goldens[i].dtype;
        uint64_t bytes;
        uint8_t *packed;

        assert_int_equal(base_dtype_bytes(base_dtype(dtype), elems, &bytes), 0);
        packed = malloc(bytes);
        for (uint64_t k = 0; k < bytes; k++)
            packed[k] = (uint8_t)(random_next(&random) >> 32);
        for (size_t t = 0; t < 3; t++) {
            uint64_t each = ofl_dtype_bytes(tos[t]);
            uint8_t *want = malloc(elems * each), *got = malloc(elems * each);

            assert_int_equal(unpack(dtype, OFL_LANDING_PLAIN, tos[t], packed, elems, want), 0);
            for (int form = OFL_LANDING_BEST; form < OFL_LANDING_FORMS; form++) {
                int err = unpack(dtype, (enum ofl_landing_form)form, tos[t], packed, elems, got);
                int64_t at;

                if (err == -ENOTSUP)
                    continue;
                assert_int_equal(err, 0);
                at = difference(got, want, tos[t], elems);
                if (at >= 0)
                    fail_msg("%s to %s, %s: value %lld differs from the plain form's", ofl_dtype_name(dtype),
                             ofl_dtype_name(tos[t]), form_names[form], (long long)at);
                compared += form > OFL_LANDING_PLAIN;
            }
            got[each * 77] ^= 1;
            assert_true(difference(got, want, tos[t], elems) == 77 || nan_of(want, tos[t], 77));
            free(want);
            free(got);
        }
        free(packed);
    }
    if (!compared)
        fprintf(stderr, "this machine has the plain form only\n");
}

/* One block, in memory of its size (as sanitizers see it), between guards, at an odd address. */
static void nothing_else_is_touched(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        for (int form = OFL_LANDING_BEST; form < OFL_LANDING_FORMS; form++)
            for (size_t t = 0; t < 3; t++) {
                const struct base_dtype *d = base_dtype(goldens[i].dtype);
                uint64_t each = ofl_dtype_bytes(tos[t]);
                uint8_t *block = malloc(d->block_bytes + 1), out[(256 + 2) * 4];

                memset(block, 0x35, d->block_bytes + 1);
                memset(out, 0xa5, sizeof out);
                if (unpack(goldens[i].dtype, (enum ofl_landing_form)form, tos[t], block + 1, d->block_elems,
                           out + each) == 0) {
                    for (uint64_t k = 0; k < each; k++)
                        assert_true(out[k] == 0xa5 && out[each * (1 + d->block_elems) + k] == 0xa5);
                    for (uint64_t k = 0; k < d->block_elems; k++)
                        assert_memory_not_equal(out + each * (1 + k), "\xa5\xa5\xa5\xa5", each);
                }
                free(block);
            }
}

/* All 65536 halves become floats and come back; numbers half way between two go to the even one. */
static void narrow_numbers(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = number_f16((uint16_t)h), b = number_bf16((uint16_t)h), next;

        if (isnan(f))
            assert_true((number_to_f16(f) & 0x7fff) > 0x7c00);
        else
            assert_int_equal(number_to_f16(f), h);
        if (isnan(b))
            assert_true((number_to_bf16(b) & 0x7fff) > 0x7f80);
        else
            assert_int_equal(number_to_bf16(b), h);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        next = number_f16((uint16_t)(h + 1));
        assert_int_equal(number_to_f16((f + next) / 2), h + (h & 1));
        assert_int_equal(number_to_f16(nextafterf((f + next) / 2, next)), h + 1);
        assert_int_equal(number_to_f16(nextafterf((f + next) / 2, f)), h);
    }
    assert_int_equal(number_to_f16(65519.0f), 0x7bff);
    assert_int_equal(number_to_f16(65520.0f), 0x7c00);
    assert_int_equal(number_to_bf16(number_of_bits(0x3f808000)), 0x3f80);
    assert_int_equal(number_to_bf16(number_of_bits(0x3f818000)), 0x3f82);
    assert_int_equal(number_to_bf16(number_of_bits(0x7f7fffff)), 0x7f80);
}

/* ---- calls ------------------------------------------------------------------- */

static void refusals(void **state)
{
    uint8_t block[256] = {0};
    float out[256] = {7};
    struct ofl_landing longer[2] = {{.size = sizeof longer}};
    static const struct {
        enum ofl_dtype dtype, to;
        uint64_t elems;
        int form, err;
        const char *words[2];
    } cases[] = {
        {OFL_Q4_0, OFL_F64, 32, 0, -EINVAL, {"q4_0", "f64"}},
        {OFL_Q4_0, OFL_Q4_0, 32, 0, -EINVAL, {"q4_0 to q4_0"}},
        {OFL_Q4_0, OFL_DTYPES, 32, 0, -EINVAL, {"unknown"}},
        {OFL_Q4_0, OFL_F32, 33, 0, -EINVAL, {"33 elements", "blocks of 32"}},
        {OFL_Q6_K, OFL_F32, 32, 0, -EINVAL, {"32 elements", "blocks of 256"}},
        {OFL_Q6_K, OFL_F32, UINT64_MAX - 255, 0, -EINVAL, {"q6_k"}},
        {OFL_I64, OFL_F32, 32, 0, -ENOTSUP, {"i64", "no landing transform"}},
        {OFL_DTYPES, OFL_F32, 32, 0, -EINVAL, {"dtype"}},
        {OFL_Q4_0, OFL_F32, 32, OFL_LANDING_FORMS, -EINVAL, {"form"}},
        {OFL_Q4_0, OFL_F32, 32, -1, -EINVAL, {"form"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(unpack(cases[i].dtype, (enum ofl_landing_form)cases[i].form, cases[i].to, block,
                                cases[i].elems, out),
                         cases[i].err);
        for (int w = 0; w < 2 && cases[i].words[w]; w++)
            if (!strstr(ofl_error(), cases[i].words[w]))
                fail_msg("no \"%s\" in: %s", cases[i].words[w], ofl_error());
        assert_true(out[0] == 7);
    }
    assert_int_equal(unpack(OFL_Q4_0, 0, OFL_F32, NULL, 32, out), -EINVAL);
    assert_int_equal(unpack(OFL_Q4_0, 0, OFL_F32, block, 32, NULL), -EINVAL);
    assert_int_equal(unpack(OFL_Q4_0, 0, OFL_F32, NULL, 0, NULL), 0);
    longer[0].dtype = OFL_Q4_0;
    longer[0].to = OFL_F32;
    assert_int_equal(ofl_landing_run(longer), 0);
    longer[1].elems = 1;
    assert_int_equal(ofl_landing_run(longer), -E2BIG);
    assert_int_equal(ofl_landing_find(OFL_Q4_0, OFL_LANDING_PLAIN), 0);
    assert_int_equal(ofl_landing_find(OFL_I64, OFL_LANDING_BEST), -ENOTSUP);
}

static void on_a_stream(void **state)
{
    struct ofl_config config = {
        .size = sizeof config, .device_bytes = 1 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct ofl_tensor_desc packed = {
        .size = sizeof packed, .name = "packed", .kind = OFL_KIND_WEIGHT, .dtype = OFL_Q8_0, .elems = 8192};
    struct ofl_tensor_desc rows = {.size = sizeof rows,
                                   .name = "rows",
                                   .kind = OFL_KIND_WORKSPACE,
                                   .dtype = OFL_BF16,
                                   .elems = 8192,
                                   .flags = OFL_TENSOR_TRANSIENT};
    struct ofl_lease leases[2] = {{.size = sizeof *leases, .mode = OFL_READ},
                                  {.size = sizeof *leases, .mode = OFL_OVERWRITE}};
    struct ofl_landing l = {.size = sizeof l, .dtype = OFL_Q8_0, .to = OFL_BF16, .elems = 8192};
    uint8_t bytes[8192 / 32 * 34];
    uint16_t want[8192];
    struct ofl_stream *stream;
    struct ofl_ctx *ctx;

    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = i % 34 == 1 ? 0x2c : mixed(i);
    assert_int_equal(unpack(OFL_Q8_0, OFL_LANDING_PLAIN, OFL_BF16, bytes, 8192, want), 0);
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &stream), 0);
    assert_int_equal(ofl_tensor_create(ctx, &packed, &leases[0].tensor), 0);
    assert_int_equal(ofl_tensor_create(ctx, &rows, &leases[1].tensor), 0);
    assert_int_equal(ofl_tensor_write(leases[0].tensor, 0, bytes, sizeof bytes), 0);
    assert_int_equal(ofl_acquire(ctx, leases, 2, stream), 0);
    l.packed = leases[0].ptr;
    l.out = leases[1].ptr;
    assert_int_equal(ofl_landing_launch(stream, &l), 0);
    assert_int_equal(ofl_stream_sync(stream), 0);
    assert_memory_equal(leases[1].ptr, want, sizeof want);
    l.elems--;
    assert_int_equal(ofl_landing_launch(stream, &l), -EINVAL);
    assert_int_equal(ofl_release(ctx, leases, 2, stream), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_the_references),
        cmocka_unit_test(forms_give_the_same_bits),
        cmocka_unit_test(nothing_else_is_touched),
        cmocka_unit_test(narrow_numbers),
        cmocka_unit_test(refusals),
        cmocka_unit_test(on_a_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
