/*
 * Element types: the table is complete and consistent, its bytes are those of C's types, sizes of blocks
 * are exact or refused, and the public questions answer from it.
 *
 * Negative control: sizes are computed again in 128 bits, without the table's function.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/error.h"

static void the_table_is_whole(void **state)
{
    static const size_t bytes[OFL_DTYPES] = {
        [OFL_U8] = sizeof(uint8_t),
        [OFL_I8] = sizeof(int8_t),
        [OFL_BOOL] = 1,
        [OFL_I16] = sizeof(int16_t),
        [OFL_U16] = sizeof(uint16_t),
        [OFL_F16] = 2,
        [OFL_BF16] = 2,
        [OFL_I32] = sizeof(int32_t),
        [OFL_U32] = sizeof(uint32_t),
        [OFL_F32] = sizeof(float),
        [OFL_I64] = sizeof(int64_t),
        [OFL_U64] = sizeof(uint64_t),
        [OFL_F64] = sizeof(double),
        [OFL_C64] = 2 * sizeof(float),
        [OFL_F8_E4M3] = 1,
        [OFL_F8_E5M2] = 1,
        [OFL_F8_E4M3FNUZ] = 1,
        [OFL_F8_E5M2FNUZ] = 1,
        [OFL_F8_E8M0] = 1,
    };
    /* elements and bytes of a block, as safetensors 0.8 and gguf 0.19 have them */
    static const uint32_t blocks[OFL_DTYPES][2] = {
        [OFL_F6_E2M3] = {4, 3},  [OFL_F6_E3M2] = {4, 3},  [OFL_F4] = {2, 1},         [OFL_Q4_0] = {32, 18},
        [OFL_Q4_1] = {32, 20},   [OFL_Q5_0] = {32, 22},   [OFL_Q5_1] = {32, 24},     [OFL_Q8_0] = {32, 34},
        [OFL_Q2_K] = {256, 84},  [OFL_Q3_K] = {256, 110}, [OFL_Q4_K] = {256, 144},   [OFL_Q5_K] = {256, 176},
        [OFL_Q6_K] = {256, 210}, [OFL_IQ4_NL] = {32, 18}, [OFL_IQ4_XS] = {256, 136}, [OFL_MXFP4] = {32, 17},
    };

    (void)state;
    for (int i = 0; i < OFL_DTYPES; i++) {
        const struct base_dtype *d = base_dtype((enum ofl_dtype)i);
        enum ofl_dtype back = OFL_DTYPES;

        assert_non_null(d);
        assert_true(d->name && d->name[0] && d->block_elems > 0);
        assert_int_equal(d->block_elems, blocks[i][0] ? blocks[i][0] : 1);
        assert_int_equal(d->block_bytes, blocks[i][1] ? blocks[i][1] : bytes[i]);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(d->name, base_dtype((enum ofl_dtype)j)->name);
        if (i >= OFL_Q4_0) { /* a format of GGUF's alone */
            assert_null(d->safetensors);
            continue;
        }
        assert_int_equal(base_dtype_of_safetensors(d->safetensors, &back), 0);
        assert_int_equal(back, i);
    }
    assert_null(base_dtype(OFL_DTYPES));
    assert_null(base_dtype((enum ofl_dtype) - 1));
}

static void bytes_are_exact_or_refused(void **state)
{
    /* plain; and as quantised files have them */
    static const struct base_dtype shapes[] = {
        {"one", NULL, 1, 1}, {"wide", NULL, 1, 8}, {"q4", NULL, 32, 18}, {"k", NULL, 256, 144}};
    static const uint64_t elems[] = {0,         1,          31,         32,         33,
                                     64,        255,        256,        512,        INT64_MAX / 8,
                                     INT64_MAX, UINT64_MAX, 1ull << 63, 1ull << 60, UINT64_MAX - 255};

    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t e = 0; e < sizeof elems / sizeof elems[0]; e++) {
            const struct base_dtype *d = &shapes[s];
            unsigned __int128 bytes = (unsigned __int128)elems[e] * d->block_bytes / d->block_elems;
            int want = elems[e] % d->block_elems ? -EINVAL : bytes > INT64_MAX ? -EOVERFLOW : 0;
            uint64_t got = 7;

            assert_int_equal(base_dtype_bytes(d, elems[e], &got), want);
            assert_true(got == (want ? 7 : (uint64_t)bytes));
        }
}

static void public_questions(void **state)
{
    struct ofl_dtype_info info = {.size = sizeof info};

    (void)state;
    assert_int_equal(ofl_dtype_info_get(OFL_BF16, &info), 0);
    assert_string_equal(info.name, "bf16");
    assert_string_equal(info.safetensors, "BF16");
    assert_int_equal(info.block_elems, 1);
    assert_int_equal(info.block_bytes, 2);
    assert_int_equal(ofl_dtype_bytes(OFL_BF16), 2);
    assert_string_equal(ofl_dtype_name(OFL_BF16), "bf16");
    assert_int_equal(ofl_dtype_info_get(OFL_DTYPES, &info), -EINVAL);
    assert_non_null(strstr(base_error_text(), "dtype"));
    assert_int_equal(ofl_dtype_bytes(OFL_DTYPES), 0);
    assert_null(ofl_dtype_name(OFL_DTYPES));
    info.size = 3;
    assert_int_equal(ofl_dtype_info_get(OFL_BF16, &info), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_whole),
        cmocka_unit_test(bytes_are_exact_or_refused),
        cmocka_unit_test(public_questions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
