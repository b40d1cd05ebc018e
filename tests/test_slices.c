/*
 * A Llama's tensors cut by rows, and what generation leases of them at a time. Proves:
 *  - slices follow each other and cover each tensor once, in multiples of 16 rows, near the limit at most;
 *  - small models are not cut, and large ones not into more slices than a plan can do with;
 *  - units are the slices of all matrices in their order, each norm with the first slice behind it; batches of
 *    them are not larger than the largest unit, and leave no room for the next one (the negative control: they are
 *    not single units all of them).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "examples/model/config.h"
#include "examples/model/generator_impl.h"

#define TENSORS_MAX 2000

static enum ofl_dtype dtypes[TENSORS_MAX];

static struct llama_shape shape_of(const char *preset, enum ofl_dtype dtype)
{
    struct llama_config config;

    assert_int_equal(llama_preset(preset, &config), 0);
    assert_true(llama_tensor_count(&config.shape) <= TENSORS_MAX);
    for (size_t i = 0; i < TENSORS_MAX; i++)
        dtypes[i] = dtype;
    return config.shape;
}

static uint32_t check_cuts(const struct llama_shape *shape, uint64_t limit)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_cut cut = {0};
        uint64_t at = 0, elems = 0;

        do {
            llama_cut_at(shape, dtypes, limit, i, at, &cut);
            assert_int_equal(cut.from, at);
            assert_int_equal(cut.first, elems);
            at += cut.rows;
            elems += cut.elems;
            assert_true(at == cut.desc.shape[0] || cut.rows % LLAMA_SLICE_ROWS == 0);
            assert_true(cut.bytes <= limit + LLAMA_SLICE_ROWS * (cut.bytes / cut.rows));
            count++;
        } while (at < cut.desc.shape[0]);
        assert_int_equal(elems, cut.desc.elems);
    }
    return count;
}

static void test_slices_cover_tensors(void **state)
{
    static const char *const presets[] = {"tiny", "300m", "1b", "7b", "100b"};

    (void)state;
    for (size_t p = 0; p < sizeof presets / sizeof presets[0]; p++)
        for (int f32 = 0; f32 < 2; f32++) {
            struct llama_shape shape = shape_of(presets[p], f32 ? OFL_F32 : OFL_BF16);
            uint64_t limit = llama_slice_limit(&shape, dtypes);
            uint32_t count = check_cuts(&shape, limit), tensors = llama_tensor_count(&shape);

            assert_true(limit >= LLAMA_SLICE_LEAST);
            assert_true(p > 0 || count == tensors);
            assert_true(p < 2 || count > tensors);
            assert_true(count <= 2 * tensors + 2 * LLAMA_SLICE_SHARE_LEAST);
        }
}

static void check_units(const struct llama_shape *shape, bool small)
{
    struct generator_walk w = generator_walk_begin(shape, dtypes);
    uint64_t batch = 0, most = w.batch, all = 0, weights = 0;
    uint32_t part = 0, norms = 0, units = 0, batches = 0;
    struct generator_unit u;

    while (generator_walk_next(&w, &u)) {
        assert_true(u.part == part || (u.part == part + 1 && u.opens));
        assert_true(u.opens || batch + u.bytes <= most);
        assert_true(!u.opens || u.part != part || batch == 0 || batch + u.bytes > most);
        assert_true(u.vectors[UNIT_NORM] < 0 || u.slice == 0);
        batch = u.opens ? u.bytes : batch + u.bytes;
        part = u.part;
        norms += u.vectors[UNIT_NORM] >= 0;
        batches += u.opens;
        units++;
        all += u.bytes;
    }
    assert_int_equal(part, shape->layers);
    assert_int_equal(norms, 2 * shape->layers + 1);
    assert_true(!small || batches < units);
    for (uint32_t i = shape->tied ? 0 : 1; i < llama_tensor_count(shape); i++) {
        struct llama_tensor_desc d;

        llama_tensor_at(shape, i, &d);
        weights += d.elems * ofl_dtype_bytes(dtypes[i]);
    }
    assert_int_equal(all, weights);
}

static void test_units(void **state)
{
    static const char *const presets[] = {"tiny", "300m", "1b", "7b"};

    (void)state;
    for (size_t p = 0; p < sizeof presets / sizeof presets[0]; p++)
        for (int tied = 0; tied < 2; tied++) {
            struct llama_shape shape = shape_of(presets[p], OFL_BF16);

            shape.tied = tied;
            check_units(&shape, p == 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices_cover_tensors),
        cmocka_unit_test(test_units),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
