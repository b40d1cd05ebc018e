/*
 * The kernels of adapters. Proves that
 *  - gradients of x, A, B and the magnitude are what differences say, with dropout, too, and where A is shared;
 *  - a gain that is known gives what the magnitude over the norm gives;
 *  - first values fill their range.
 * Negative control: a gradient that is off is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/adapter.h"
#include "tests/llama_reference.h"

enum { ROWS = 5, IN = 12, OUT = 9, RANK = 3 };

/* The sum of dy * y, where y is that of x, A, B and the magnitude. */
static double value_of(const struct llama_adapter *ad, struct llama_weight w, const float *x, const float *dy)
{
    float y[ROWS * OUT];
    double sum = 0;

    w.adapter = ad;
    llama_adapter_matmul(y, x, w, ROWS, IN, OUT, OUT, false, NULL);
    for (size_t i = 0; i < ROWS * OUT; i++)
        sum += (double)y[i] * (double)dy[i];
    return sum;
}

/* What the sum changes by as each element moves by one: it is linear in them. */
static bool agrees(const float *gradient, float *values, size_t n, const struct llama_adapter *ad,
                   struct llama_weight w, const float *x, const float *dy)
{
    double base = value_of(ad, w, x, dy);
    bool good = true;

    for (size_t i = 0; i < n; i++) {
        double moved;

        values[i] += 1;
        moved = value_of(ad, w, x, dy) - base;
        values[i] -= 1;
        good &= fabs(moved - (double)gradient[i]) <= 1e-4 * (1 + fabs(moved));
    }
    return good;
}

static void check_gradient(const char *what, float *gradient, float *values, size_t n,
                           const struct llama_adapter *ad, struct llama_weight w, const float *x,
                           const float *dy)
{
    if (!agrees(gradient, values, n, ad, w, x, dy))
        fail_msg("%s: the gradient is not what differences say", what);
    gradient[n / 2] += 0.01f * (1 + fabsf(gradient[n / 2]));
    assert_false(agrees(gradient, values, n, ad, w, x, dy));
}

/* DoRA's norms count as constants in the gradients of A and B, so these are not checked with it. */
static void check_gradients(float dropout, bool dora, bool joined)
{
    float *x = ref_random(ROWS * IN, 1, 1, 0), *dy = ref_random(ROWS * OUT, 2, 1, 0),
          *a = ref_random(RANK * IN, 3, 1, 0), *b = ref_random(OUT * RANK, 4, 1, 0),
          *w = ref_random(OUT * IN, 5, 1, 0), *m = ref_random(OUT, 6, 0.5f, 2), *ws;
    float dx[ROWS * IN] = {0}, da[RANK * IN], db[OUT * RANK], dm[OUT], none[RANK * IN] = {0};
    struct llama_adapter ad = {.a = a,
                               .b = b,
                               .rank = RANK,
                               .scale = 0.5f,
                               .dropout = dropout,
                               .key = 7,
                               .da = joined ? none : da,
                               .db = db,
                               .dmagnitude = dm,
                               .joined = joined};
    struct llama_weight weight = {.data = w, .dtype = OFL_F32, .adapter = &ad};

    ws = ref_alloc(llama_adapter_workspace(ROWS, IN, OUT, RANK, dora, dropout > 0));
    ad.ws = ws;
    ad.magnitude = dora ? m : NULL;
    llama_adapter_backward(dy, x, weight, ROWS, IN, OUT, true, NULL);
    llama_adapter_matmul_dx(dx, dy, weight, ROWS, IN, OUT, true, NULL);
    check_gradient("x", dx, x, ROWS * IN, &ad, weight, x, dy);
    if (dora)
        check_gradient("magnitude", dm, m, OUT, &ad, weight, x, dy);
    if (!dora) {
        check_gradient("A", ad.da, a, RANK * IN, &ad, weight, x, dy);
        check_gradient("B", db, b, OUT * RANK, &ad, weight, x, dy);
    }
    free(x);
    free(dy);
    free(a);
    free(b);
    free(w);
    free(m);
    free(ws);
}

static void test_gradients(void **state)
{
    (void)state;
    check_gradients(0, false, false);
    check_gradients(0.5f, false, false);
    check_gradients(0, true, false);
    check_gradients(0, false, true); /* to zeros, here */
}

static void test_gains(void **state)
{
    float *x = ref_random(ROWS * IN, 1, 1, 0), *a = ref_random(RANK * IN, 3, 1, 0),
          *b = ref_random(OUT * RANK, 4, 1, 0), *w = ref_random(OUT * IN, 5, 1, 0),
          *m = ref_random(OUT, 6, 0.5f, 2), row[IN], gain[OUT], y[2][ROWS * OUT];
    struct llama_adapter ad = {.a = a, .b = b, .rank = RANK, .scale = 0.5f, .magnitude = m};
    struct llama_weight weight = {.data = w, .dtype = OFL_F32, .adapter = &ad};

    (void)state;
    ad.ws = ref_alloc(llama_adapter_workspace(ROWS, IN, OUT, RANK, true, false));
    llama_adapter_matmul(y[0], x, weight, ROWS, IN, OUT, OUT, false, NULL);
    llama_adapter_norms(gain, &ad, weight, IN, OUT, row);
    for (size_t j = 0; j < OUT; j++)
        gain[j] = m[j] / gain[j];
    ad.gain = gain;
    ad.magnitude = NULL;
    llama_adapter_matmul(y[1], x, weight, ROWS, IN, OUT, OUT, false, NULL);
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    free(ad.ws);
    free(x);
    free(a);
    free(b);
    free(w);
    free(m);
}

static void test_first_values(void **state)
{
    float a[4096], most = 0, sum = 0;

    (void)state;
    llama_init_uniform(a, 0, 4096, 3, 0.125f);
    for (int i = 0; i < 4096; i++) {
        most = fabsf(a[i]) > most ? fabsf(a[i]) : most;
        sum += a[i];
    }
    assert_true(most <= 0.125f && most > 0.12f && fabsf(sum / 4096) < 0.005f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_gains),
                                       cmocka_unit_test(test_first_values)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
