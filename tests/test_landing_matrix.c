/*
 * Matrices with scales of their own: numbers are written into the layout of each packing, one by one, and must come
 * back as (number - zero) * scale, whatever rows are asked for; small floats are those of their definition; what does
 * not fit together is refused by name, and so is a group that the order names and the matrix does not have.
 * tools/check_formats.py compares with the reference implementations.
 *
 * Negative controls: zeros of GPTQ's version 1 read as those of version 2 differ; a number that is changed shows.
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

#include "include/offload_landing.h"
#include "liboffload/landing/number.h"
#include "tests/core_fixture.h"

enum { ROWS = 16, COLUMNS = 64, GROUP = 16, GROUPS = COLUMNS / GROUP };

/* What a matrix is made of, and the file's bytes of it. */
struct made {
    uint8_t numbers[ROWS][COLUMNS], zeros[ROWS][GROUPS];
    float scales[ROWS][GROUPS];
    uint32_t order[COLUMNS];
    uint32_t packed[ROWS * COLUMNS / 8], packed_zeros[ROWS * GROUPS / 8];
    float packed_scales[ROWS * GROUPS];
};

static void put_nibble(uint32_t *words, uint64_t word, unsigned place, unsigned value)
{
    words[word] |= (uint32_t)value << (4 * place);
}

/* Where AWQ has each of eight neighbours. */
static const unsigned awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static void lay_out(struct made *m, enum ofl_packing packing)
{
    bool across = packing >= OFL_PACKING_GPTQ;

    memset(m->packed, 0, sizeof m->packed);
    memset(m->packed_zeros, 0, sizeof m->packed_zeros);
    for (unsigned r = 0; r < ROWS; r++) {
        for (unsigned c = 0; c < COLUMNS; c++)
            if (packing == OFL_PACKING_AWQ)
                put_nibble(m->packed, (c * ROWS + r) / 8, awq[r % 8], m->numbers[r][c]);
            else if (across)
                put_nibble(m->packed, c / 8 * ROWS + r, c % 8, m->numbers[r][c]);
            else
                put_nibble(m->packed, (r * COLUMNS + c) / 8, c % 8, m->numbers[r][c]);
        for (unsigned g = 0; g < GROUPS; g++) {
            m->packed_scales[across ? g * ROWS + r : r * GROUPS + g] = m->scales[r][g];
            if (across)
                put_nibble(m->packed_zeros, (g * ROWS + r) / 8,
                           packing == OFL_PACKING_AWQ ? awq[r % 8] : r % 8, m->zeros[r][g]);
            else
                put_nibble(m->packed_zeros, r / 8 * GROUPS + g, r % 8, m->zeros[r][g]);
        }
    }
    for (unsigned i = 0; packing == OFL_PACKING_GPTQ && i < ROWS * GROUPS / 8; i++)
        m->packed_zeros[i] -= 0x11111111u; /* borrows and all */
}

static void make(struct made *m, enum ofl_packing packing)
{
    struct random random = {7};

    for (unsigned r = 0; r < ROWS; r++) {
        for (unsigned c = 0; c < COLUMNS; c++)
            m->numbers[r][c] = (uint8_t)random_below(&random, 16);
        for (unsigned g = 0; g < GROUPS; g++) {
            m->zeros[r][g] = (uint8_t)random_below(&random, 16);
            m->scales[r][g] = (float)(1 + random_below(&random, 1000)) / 4096;
        }
    }
    for (unsigned c = 0; c < COLUMNS; c++)
        m->order[c] = (c * 7 + 3) % GROUPS;
    lay_out(m, packing);
}

static struct ofl_landing_matrix matrix_of(const struct made *m, enum ofl_packing packing, void *out)
{
    return (struct ofl_landing_matrix){.size = sizeof(struct ofl_landing_matrix),
                                       .packing = packing,
                                       .scale_dtype = OFL_F32,
                                       .to = OFL_F32,
                                       .rows = ROWS,
                                       .columns = COLUMNS,
                                       .group_rows = 1,
                                       .group_columns = GROUP,
                                       .packed = m->packed,
                                       .scales = m->packed_scales,
                                       .zeros = m->packed_zeros,
                                       .out = out};
}

static unsigned differing(const struct made *m, const float *out, bool ordered, unsigned first,
                          unsigned count)
{
    unsigned wrong = 0;

    for (unsigned r = first; r < first + count; r++)
        for (unsigned c = 0; c < COLUMNS; c++) {
            unsigned g = ordered ? m->order[c] : c / GROUP;
            double want = ((double)m->numbers[r][c] - m->zeros[r][g]) * (double)m->scales[r][g];

            wrong += out[(r - first) * COLUMNS + c] != (float)want;
        }
    return wrong;
}

static void four_bits(void **state)
{
    static const struct {
        enum ofl_packing packing;
        bool ordered;
    } cases[] = {{OFL_PACKING_INT4, false}, {OFL_PACKING_GPTQ, false},    {OFL_PACKING_GPTQ, true},
                 {OFL_PACKING_AWQ, false},  {OFL_PACKING_GPTQ_V2, false}, {OFL_PACKING_GPTQ_V2, true}};
    float out[ROWS * COLUMNS];
    struct made made;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ofl_landing_matrix m;

        make(&made, cases[i].packing);
        m = matrix_of(&made, cases[i].packing, out);
        m.order = cases[i].ordered ? made.order : NULL;
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        assert_int_equal(differing(&made, out, cases[i].ordered, 0, ROWS), 0);
        m.first_row = 5;
        m.row_count = 7;
        memset(out, 0xff, sizeof out);
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        assert_int_equal(differing(&made, out, cases[i].ordered, 5, 7), 0);
        assert_true(isnan(out[7 * COLUMNS])); /* not touched */
        made.packed[(5 * COLUMNS + 3) / 8] ^= 0x1000;
        made.packed[5] ^= 0x1000;
        m.first_row = m.row_count = 0;
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        assert_in_range(differing(&made, out, cases[i].ordered, 0, ROWS), 1, 2);
        if (cases[i].packing == OFL_PACKING_GPTQ) {
            m.packing = OFL_PACKING_GPTQ_V2;
            assert_int_equal(ofl_landing_matrix_run(&m), 0);
            assert_true(differing(&made, out, cases[i].ordered, 0, ROWS) > ROWS * COLUMNS / 2);
        }
    }
    make(&made, OFL_PACKING_INT4);
    memset(made.zeros, 8, sizeof made.zeros);
    struct ofl_landing_matrix m = matrix_of(&made, OFL_PACKING_INT4, out);

    m.zeros = NULL;
    assert_int_equal(ofl_landing_matrix_run(&m), 0);
    assert_int_equal(differing(&made, out, false, 0, ROWS), 0);
}

/* Nibbles of E2M1; scales that are powers of two, or E4M3 over another one. */
static void four_bit_floats(void **state)
{
    static const float values[16] = {0,     0.5f,  1,     1.5f,  2,     3,     4,     6,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    static const uint8_t packed[4] = {0x10, 0x32, 0x98, 0xfe}, scales[2] = {128, 126}, e4m3[2] = {0x40, 0xb8};
    const float whole = 4;
    float out[8];
    struct ofl_landing_matrix m = {.size = sizeof m,
                                   .packing = OFL_PACKING_FP4,
                                   .scale_dtype = OFL_U8,
                                   .to = OFL_F32,
                                   .rows = 1,
                                   .columns = 8,
                                   .group_columns = 4,
                                   .packed = packed,
                                   .scales = scales,
                                   .out = out};
    static const unsigned index[8] = {0, 1, 2, 3, 8, 9, 14, 15};

    (void)state;
    assert_int_equal(ofl_landing_matrix_run(&m), 0);
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == values[index[i]] * (i < 4 ? 2.0f : 0.5f));
    assert_true(signbit(out[4]) && !signbit(out[0]));
    m.scale_dtype = OFL_F8_E4M3;
    m.scales = e4m3; /* 2, -1 */
    m.global = &whole;
    assert_int_equal(ofl_landing_matrix_run(&m), 0);
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == values[index[i]] * (i < 4 ? 0.5f : -0.25f));
}

/* All 256 of each kind, by what is known of each; blocks of two rows and four columns, the last ones cut. */
static void small_floats(void **state)
{
    static const struct {
        enum ofl_dtype dtype;
        uint8_t bits;
        float value;
    } known[] = {
        {OFL_F8_E4M3, 0x7e, 448},
        {OFL_F8_E4M3, 0x7f, NAN},
        {OFL_F8_E4M3, 0xff, NAN},
        {OFL_F8_E4M3, 0x01, 0x1p-9f},
        {OFL_F8_E4M3, 0x08, 0x1p-6f},
        {OFL_F8_E4M3, 0xb8, -1},
        {OFL_F8_E5M2, 0x7b, 57344},
        {OFL_F8_E5M2, 0x7c, INFINITY},
        {OFL_F8_E5M2, 0xfc, -INFINITY},
        {OFL_F8_E5M2, 0x7d, NAN},
        {OFL_F8_E5M2, 0x01, 0x1p-16f},
        {OFL_F8_E5M2, 0x3c, 1},
        {OFL_F8_E4M3FNUZ, 0x7f, 240},
        {OFL_F8_E4M3FNUZ, 0x80, NAN},
        {OFL_F8_E4M3FNUZ, 0x01, 0x1p-10f},
        {OFL_F8_E5M2FNUZ, 0x7f, 57344},
        {OFL_F8_E5M2FNUZ, 0x80, NAN},
        {OFL_F8_E5M2FNUZ, 0x01, 0x1p-17f},
        {OFL_I8, 0xff, -1},
        {OFL_U8, 0xff, 255},
        {OFL_I8, 0x80, -128},
    };
    static const float scales[2 * 2] = {1, 2, 4, 8};
    uint8_t packed[3 * 6];
    float out[3 * 6];

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct ofl_landing_matrix m = {.size = sizeof m,
                                       .dtype = known[i].dtype,
                                       .scale_dtype = OFL_F32,
                                       .to = OFL_F32,
                                       .rows = 3,
                                       .columns = 6,
                                       .group_rows = 2,
                                       .group_columns = 4,
                                       .packed = packed,
                                       .scales = scales,
                                       .out = out};

        memset(packed, known[i].bits, sizeof packed);
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        for (unsigned r = 0; r < 3; r++)
            for (unsigned c = 0; c < 6; c++) {
                float want = known[i].value * scales[r / 2 * 2 + c / 4];

                assert_true(out[r * 6 + c] == want || (isnan(want) && isnan(out[r * 6 + c])));
            }
        m.group_rows = m.group_columns = 0;
        m.to = OFL_BF16;
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        if (!isnan(known[i].value)) /* of which the sign is free */
            assert_int_equal(((uint16_t *)(void *)out)[17], number_to_bf16(known[i].value));
    }
}

/* ---- forms ---------------------------------------------------------------------- */

static bool nan_of(const void *values, enum ofl_dtype to, uint64_t i)
{
    uint32_t bits = to == OFL_F32 ? ((const uint32_t *)values)[i] : ((const uint16_t *)values)[i];
    uint32_t infinity = to == OFL_F32 ? 0x7f800000 : to == OFL_F16 ? 0x7c00 : 0x7f80;

    return (bits & (to == OFL_F32 ? 0x7fffffff : 0x7fff)) > infinity;
}

static bool same_bits(const void *a, const void *b, enum ofl_dtype to)
{
    uint64_t each = ofl_dtype_bytes(to);

    for (uint64_t i = 0; i < ROWS * COLUMNS; i++)
        if (memcmp((const char *)a + i * each, (const char *)b + i * each, each) != 0 &&
            !(nan_of(a, to, i) && nan_of(b, to, i)))
            return false;
    return true;
}

/* Any bytes are numbers, scales and zeros. */
static void forms_give_the_same_bits(void **state)
{
    static const enum ofl_dtype tos[] = {OFL_F32, OFL_F16, OFL_BF16};
    static const enum ofl_dtype dtypes[] = {OFL_F8_E4M3, OFL_F8_E5M2, OFL_F8_E4M3FNUZ,
                                            OFL_I8,      OFL_U8,      OFL_F4};
    static const enum ofl_dtype scale_dtypes[] = {OFL_F32, OFL_F16, OFL_BF16, OFL_F8_E4M3, OFL_U8};
    static const uint64_t groups[] = {0, 8, 16, 32};
    uint8_t packed[ROWS * COLUMNS], scales[ROWS * COLUMNS * 4];
    float want[ROWS * COLUMNS], got[ROWS * COLUMNS];
    struct random random = {23};
    unsigned compared = 0;

    (void)state;
    for (unsigned i = 0; i < fixture_rounds(4000); i++) {
        struct ofl_landing_matrix m = {.size = sizeof m,
                                       .packing = (enum ofl_packing)random_below(&random, OFL_PACKINGS),
                                       .dtype = dtypes[random_below(&random, 6)],
                                       .scale_dtype = scale_dtypes[random_below(&random, 5)],
                                       .to = tos[random_below(&random, 3)],
                                       .rows = ROWS,
                                       .columns = COLUMNS,
                                       .group_rows = 1,
                                       .group_columns = groups[random_below(&random, 4)],
                                       .packed = packed,
                                       .scales = scales,
                                       .zeros = packed,
                                       .form = OFL_LANDING_PLAIN,
                                       .out = want};
        bool usual = random_below(&random, 2);

        for (size_t k = 0; k < sizeof packed; k++)
            packed[k] = (uint8_t)(random_next(&random) >> 40);
        for (size_t k = 0; k < sizeof scales; k++) /* half of the time without infinities and the like */
            scales[k] =
                usual ? 0x38 + (uint8_t)random_below(&random, 4) : (uint8_t)(random_next(&random) >> 40);
        assert_int_equal(ofl_landing_matrix_run(&m), 0);
        for (int form = 0; form < OFL_LANDING_FORMS; form++) {
            m.form = (enum ofl_landing_form)form;
            m.out = got;
            memset(got, 0x5a, sizeof got);
            if (ofl_landing_matrix_run(&m) == 0) {
                if (!same_bits(want, got, m.to))
                    fail_msg("round %u: packing %d of %s, scales %s, to %s: form %d differs", i,
                             (int)m.packing, ofl_dtype_name(m.dtype), ofl_dtype_name(m.scale_dtype),
                             ofl_dtype_name(m.to), form);
                compared++;
            }
        }
    }
    assert_true(compared >= fixture_rounds(4000) * 2);
}

/* ---- refusals ------------------------------------------------------------------- */

static void refusals(void **state)
{
    float out[ROWS * COLUMNS] = {7};
    struct made made;
    struct ofl_landing_matrix good, m;

    (void)state;
    make(&made, OFL_PACKING_GPTQ);
    good = matrix_of(&made, OFL_PACKING_GPTQ, out);
#define REFUSED(change, error, words)                                                                        \
    do {                                                                                                     \
        m = good;                                                                                            \
        change;                                                                                              \
        assert_int_equal(ofl_landing_matrix_run(&m), error);                                                 \
        if (!strstr(ofl_error(), words))                                                                     \
            fail_msg("no \"%s\" in: %s", words, ofl_error());                                                \
        assert_true(out[0] == 7);                                                                            \
    } while (0)
    REFUSED(m.packing = OFL_PACKINGS, -EINVAL, "packing 6");
    REFUSED((m.packing = OFL_PACKING_SCALED, m.dtype = OFL_I64), -ENOTSUP, "i64");
    REFUSED((m.packing = OFL_PACKING_SCALED, m.dtype = OFL_DTYPES), -ENOTSUP, "unknown");
    REFUSED(m.scale_dtype = OFL_I32, -EINVAL, "scales of i32");
    REFUSED(m.to = OFL_F64, -EINVAL, "to f64");
    REFUSED(m.form = OFL_LANDING_FORMS, -EINVAL, "form 5");
    REFUSED(m.rows = 12, -EINVAL, "12 rows");
    REFUSED(m.columns = 60, -EINVAL, "60 columns");
    REFUSED(m.columns = 0, -EINVAL, "0 columns");
    REFUSED((m.rows = 1ull << 40, m.columns = 1ull << 40), -EINVAL, "too many");
    REFUSED(m.first_row = ROWS + 1, -EINVAL, "rows from 17 on");
    REFUSED((m.first_row = ROWS - 1, m.row_count = 2), -EINVAL, "2 rows from 15 on");
    REFUSED(m.group_rows = 2, -EINVAL, "groups of 2 rows");
    REFUSED(m.zeros = NULL, -EINVAL, "zeros");
    REFUSED(m.scales = NULL, -EINVAL, "scales");
    REFUSED(m.packed = NULL, -EINVAL, "numbers");
    REFUSED((m.packing = OFL_PACKING_AWQ, m.order = made.order), -EINVAL, "order");
    REFUSED((m.packing = OFL_PACKING_FP4, m.columns = 63), -EINVAL, "63 columns");
#undef REFUSED
    m = good;
    m.order = made.order;
    made.order[41] = GROUPS;
    assert_int_equal(ofl_landing_matrix_run(&m), -EINVAL);
    assert_non_null(strstr(ofl_error(), "column 41 is of group 4: it has 4"));
}

static void on_a_stream(void **state)
{
    const struct ofl_config config = {
        .size = sizeof config, .device_bytes = 1 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    float out[ROWS * COLUMNS];
    struct ofl_landing_matrix m;
    struct ofl_stream *stream;
    struct ofl_ctx *ctx;
    struct made made;

    (void)state;
    make(&made, OFL_PACKING_AWQ);
    m = matrix_of(&made, OFL_PACKING_AWQ, out);
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &stream), 0);
    assert_int_equal(ofl_landing_matrix_launch(stream, &m), 0);
    assert_int_equal(ofl_stream_sync(stream), 0);
    assert_int_equal(differing(&made, out, false, 0, ROWS), 0);
    m.rows = 0;
    assert_int_equal(ofl_landing_matrix_launch(stream, &m), -EINVAL);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bits),    cmocka_unit_test(four_bit_floats),
        cmocka_unit_test(small_floats), cmocka_unit_test(forms_give_the_same_bits),
        cmocka_unit_test(refusals),     cmocka_unit_test(on_a_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
