/*
 * examples/model/kernels_row: products with a single row. Every form of the BF16 sums has the bits of a scalar loop over
 * widened numbers, at every length and alignment; F32, F16 and blocks are close to double precision; the bits don't
 * depend on the number of threads. And parallel.c: every item once, whatever else runs.
 *
 * Negative control: another order of sums differs.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>
#include <cmocka.h>

#include "examples/model/kernels_row.h"
#include "examples/model/parallel.h"
#include "include/offload_landing.h"
#include "tests/core_fixture.h"

static float widened(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float x;

    memcpy(&x, &word, sizeof x);
    return x;
}

/* The order that kernels_row.c says: sixteen lanes, folded in halves, and the tail. */
static float in_order(const float *x, const uint16_t *w, size_t n, bool backwards)
{
    volatile float lane[16] = {0}, tail = 0;
    size_t whole = n - n % 16;

    for (size_t i = 0; i < whole; i++) {
        size_t at = backwards ? whole - 1 - i : i;
        volatile float product = x[at] * widened(w[at]);

        lane[at % 16] = lane[at % 16] + product;
    }
    for (size_t i = whole; i < n; i++) {
        volatile float product = x[i] * widened(w[i]);

        tail = tail + product;
    }
    for (size_t width = 8; width; width /= 2)
        for (size_t k = 0; k < width; k++)
            lane[k] = lane[k] + lane[k + width];
    return lane[0] + tail;
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void bits_of_every_form(void **state)
{
    enum { MOST = 3000, ROWS = 3 };
    static float x[MOST + 8];
    static uint16_t w[ROWS * MOST + 8];
    unsigned forms = 0, order = 0;

    (void)state;
    for (unsigned form = 0; form < LLAMA_DOTS_FORMS; form++) {
        llama_dots_fn *run = llama_dots_form(form);
        struct random r = {form + 1};

        if (!run)
            continue;
        forms++;
        for (size_t n = 1; n <= MOST; n += n < 100 ? 1 : 97) {
            size_t at = random_below(&r, 8);
            float y[ROWS];

            for (size_t i = 0; i < n; i++)
                x[at + i] = (float)(int32_t)random_next(&r) * 0x1p-31f;
            for (size_t i = 0; i < ROWS * n; i++)
                w[at + i] = n % 5 ? (uint16_t)(0x3c00 + random_below(&r, 0x800)) : (uint16_t)random_next(&r);
            run(y, x + at, w + at, n, ROWS);
            for (size_t j = 0; j < ROWS; j++) {
                if (!same(y[j], in_order(x + at, w + at + j * n, n, false)))
                    fail_msg("form %u, %zu numbers, row %zu: %a, in order %a", form, n, j, (double)y[j],
                             (double)in_order(x + at, w + at + j * n, n, false));
                order += !same(y[j], in_order(x + at, w + at + j * n, n, true));
            }
        }
    }
    print_message("%u forms\n", forms);
    assert_true(forms >= 1 && order > 50); /* the control */
}

/* ---- whole products ------------------------------------------------------- */

enum { IN = 1536, OUT = 517 };

static double exact(const float *x, const float *w)
{
    double sum = 0;

    for (size_t i = 0; i < IN; i++)
        sum += (double)x[i] * (double)w[i];
    return sum;
}

static void close_for_every_dtype(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16, OFL_Q8_0, OFL_Q4_K};
    static float x[IN], wide[OUT * IN], y[2][OUT];
    static uint8_t data[OUT * IN * 4];
    int threads = openblas_get_num_threads();

    (void)state;
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        struct llama_weight w = {.data = data, .dtype = dtypes[d]};
        struct random r = {d + 1};

        for (size_t i = 0; i < IN; i++)
            x[i] = (float)(int32_t)random_next(&r) * 0x1p-31f;
        if (dtypes[d] == OFL_F32)
            for (size_t i = 0; i < (size_t)OUT * IN; i++)
                ((float *)(void *)data)[i] = (float)(int32_t)random_next(&r) * 0x1p-31f;
        else
            for (size_t i = 0; i < sizeof data; i++)
                data[i] = (uint8_t)random_next(&r) & 0x3f; /* no infinities */
        llama_widen(wide, data, dtypes[d], (size_t)OUT * IN);
        for (int k = 0; k < 2; k++) {
            openblas_set_num_threads(k ? 4 : 1);
            for (size_t j = 0; j < OUT; j++)
                y[k][j] = (float)j;
            llama_matmul_row(y[k], x, w, IN, OUT, k == 0, NULL);
            if (k == 0)
                llama_matmul_row(y[0], x, w, IN, OUT, false, NULL); /* what was there is gone */
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        for (size_t j = 0; j < OUT; j++) {
            double want = exact(x, wide + j * IN), room = 1e-5 * (1 + fabs(want));

            for (size_t i = 0; i < IN; i++)
                room += 2e-7 * fabs((double)x[i] * (double)wide[j * IN + i]);
            if (fabs((double)y[0][j] - want) > room)
                fail_msg("%s, row %zu: %g, exactly %g", ofl_dtype_name(dtypes[d]), j, (double)y[0][j], want);
        }
        for (size_t j = 0; j < OUT; j++)
            y[1][j] = (float)j;
        llama_matmul_row(y[1], x, w, IN, OUT, true, NULL);
        for (size_t j = 0; j < OUT; j++)
            assert_true(y[1][j] == (float)j + y[0][j]);
    }
    openblas_set_num_threads(threads);
}

/* ---- loops ---------------------------------------------------------------- */

enum { ITEMS = 1000 };

struct loop {
    atomic_uint done[ITEMS];
    bool nested;
};

static void count_items(void *arg, size_t first, size_t count)
{
    struct loop *l = arg;

    for (size_t i = first; i < first + count; i++)
        atomic_fetch_add(&l->done[i], 1);
    if (l->nested) {
        struct loop *inner = calloc(1, sizeof *inner);

        assert_non_null(inner);
        llama_parallel(ITEMS, 100, count_items, inner); /* while another loop runs: here */
        for (size_t i = 0; i < ITEMS; i++)
            assert_int_equal(atomic_load(&inner->done[i]), 1);
        free(inner);
    }
}

static void *loops(void *arg)
{
    struct random r = {(uint64_t)(uintptr_t)arg};
    unsigned rounds = fixture_rounds(2000);

    for (unsigned k = 0; k < rounds; k++) {
        static _Thread_local struct loop l;
        size_t items = random_below(&r, ITEMS + 1), grain = 1 + random_below(&r, 64);

        memset(&l, 0, sizeof l);
        l.nested = k % 97 == 0;
        llama_parallel(items, grain, count_items, &l);
        for (size_t i = 0; i < ITEMS; i++)
            if (atomic_load(&l.done[i]) != (i < items))
                fail_msg("loop %u: %zu items in pieces of %zu: item %zu was done %u times", k, items, grain,
                         i, atomic_load(&l.done[i]));
    }
    return NULL;
}

static void every_item_once(void **state)
{
    int threads = openblas_get_num_threads();
    pthread_t other;

    (void)state;
    openblas_set_num_threads(4);
    loops((void *)(uintptr_t)1);
    assert_int_equal(pthread_create(&other, NULL, loops, (void *)(uintptr_t)2), 0); /* two at a time */
    loops((void *)(uintptr_t)3);
    assert_int_equal(pthread_join(other, NULL), 0);
    openblas_set_num_threads(1);
    loops((void *)(uintptr_t)4);
    openblas_set_num_threads(threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_of_every_form),
        cmocka_unit_test(close_for_every_dtype),
        cmocka_unit_test(every_item_once),
    };

    return cmocka_run_group_tests_name("row products", tests, NULL, NULL);
}
