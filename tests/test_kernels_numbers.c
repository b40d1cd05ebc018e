/*
 * The kernels' numbers: formats, exp, random numbers, sampling. Proves:
 *  - rounding to BF16 and F16 is to the nearest, ties to even, over all halves and random floats;
 *  - exp is good to 2e-7;
 *  - normal numbers are normally distributed, which one with a spread 2 % off is not (the negative
 *    control), and depend on seed and index only;
 *  - sampling is greedy where it should be, keeps to the nucleus, follows the distribution, and
 *    refuses NaN.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/kernels_inline.h"
#include "tests/llama_reference.h"

/* ---- formats -------------------------------------------------------------- */

static void test_halves_survive(void **state)
{
    uint16_t *half = ref_alloc(65536 * 2), *back = ref_alloc(65536 * 2);
    float *wide = ref_floats(65536);

    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        half[i] = (uint16_t)i;
    for (int format = 0; format < 2; format++) {
        llama_widen(wide, half, format ? OFL_F16 : OFL_BF16, 65536);
        (format ? llama_to_f16 : llama_to_bf16)(back, wide, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            if (isnan(wide[i]))
                assert_int_equal(back[i] | (format ? 0x200 : 0x40),
                                 i | (format ? 0x200 : 0x40)); /* made quiet */
            else
                assert_int_equal(back[i], i);
    }
    assert_true(wide[0x3c00] == 1 && wide[0xc000] == -2 && wide[0x0001] == 0x1p-24f && wide[0x7bff] == 65504);
    assert_true(isinf(wide[0xfc00]) && isnan(wide[0x7c01]) && signbit(wide[0x8000]));
    free(half);
    free(back);
    free(wide);
}

/* No neighbour of the result is nearer; where one is as near, the result is even. */
static void check_nearest(float f, uint16_t got, enum ofl_dtype dtype)
{
    for (int step = -1; step <= 1; step += 2) {
        uint16_t other = (uint16_t)(got + step);
        double here, there;
        float a, b;

        if ((other ^ got) & 0x8000)
            continue;
        llama_widen(&a, &got, dtype, 1);
        llama_widen(&b, &other, dtype, 1);
        if (!isfinite(a) || !isfinite(b))
            continue;
        here = fabs((double)f - (double)a);
        there = fabs((double)f - (double)b);
        if (here > there || (here == there && (got & 1)))
            fail_msg("%a in dtype %d: %#x is no nearer than %#x", (double)f, (int)dtype, got, other);
    }
}

static void test_rounding(void **state)
{
    static const struct {
        float f;
        uint16_t bf16, f16;
    } known[] = {
        {1.00390625f, 0x3f80, 0x3c04},    /* a tie in BF16: down to even */
        {1.01171875f, 0x3f82, 0x3c0c},    /* a tie in BF16: up to even */
        {1.00048828125f, 0x3f80, 0x3c00}, /* a tie in F16 */
        {65519.0f, 0x4780, 0x7bff},       /* the last below half way to infinity */
        {65520.0f, 0x4780, 0x7c00},       /* and half way */
        {0x1p-25f, 0x3300, 0x0000},       /* half the least F16: to even */
        {0x1.8p-25f, 0x3340, 0x0001},     /* above it */
        {-0.0f, 0x8000, 0x8000},          {3.4028234e38f, 0x7f80, 0x7c00}, /* rounds up to infinity */
    };

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint16_t b, h;

        llama_to_bf16(&b, &known[i].f, 1);
        llama_to_f16(&h, &known[i].f, 1);
        if (b != known[i].bf16 || h != known[i].f16)
            fail_msg("%a: bf16 %#x, f16 %#x", (double)known[i].f, b, h);
    }
    for (uint64_t i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)ref_hash(9, i);
        float f = llama_bits_to_float(bits);
        /* in F16's range, every other one with few bits, so that ties are common */
        float near_half = llama_bits_to_float((bits & 0x80000000u) |
                                              ((0x33000000u + bits % 0x14800000u) & (i % 2 ? ~0u : ~0xfffu)));
        uint16_t half;

        if (!isfinite(f))
            continue;
        llama_to_bf16(&half, &f, 1);
        check_nearest(f, half, OFL_BF16);
        llama_to_f16(&half, &f, 1);
        check_nearest(f, half, OFL_F16);
        llama_to_f16(&half, &near_half, 1);
        check_nearest(near_half, half, OFL_F16);
    }
}

static void test_exp(void **state)
{
    double worst = 0;

    (void)state;
    for (int i = -870000; i <= 880000; i += 7) {
        float x = (float)i / 10000;
        double error = fabs((double)llama_exp(x) / exp((double)x) - 1);

        worst = error > worst ? error : worst;
    }
    if (worst > 2e-7)
        fail_msg("error of exp: %.3g", worst);
    assert_true(llama_exp(0) == 1 && llama_exp(-INFINITY) == 0 && llama_exp(-1e30f) == 0);
    assert_true(isnan(llama_exp(NAN)) && isfinite(llama_exp(INFINITY)));
}

/* ---- random numbers ---------------------------------------------------------- */

static void test_normal_numbers(void **state)
{
    enum { N = 1 << 20 };
    float *a = ref_floats(N), *b = ref_floats(N), max = 0;
    double sum = 0, square = 0, fourth = 0, neighbours = 0, others = 0;
    size_t within = 0;

    (void)state;
    llama_init_normal(a, 0, N, 42, 1);
    for (size_t at = 0, i = 0; at < N; i++) { /* in pieces of odd sizes */
        size_t n = 1 + ref_hash(3, i) % 5000;

        n = n < N - at ? n : N - at;
        llama_init_normal(b + at, at, n, 42, 1);
        at += n;
    }
    assert_memory_equal(a, b, N * sizeof *a);
    llama_init_normal(b, 0, N, 43, 0.5f);
    for (size_t i = 0; i < N; i++) {
        double x = (double)a[i];

        sum += x;
        square += x * x;
        fourth += x * x * x * x;
        neighbours += x * (double)a[i ^ 1];
        others += x * (double)b[i];
        within += fabs(x) < 1;
        max = fabsf(a[i]) > max ? fabsf(a[i]) : max;
    }
    /* five standard errors each: 1, sqrt 2, sqrt 96, 1, 1/2, sqrt(p (1 - p)) over sqrt N */
    assert_true(fabs(sum / N) < 5 / 1024.0);
    assert_true(fabs(square / N - 1) < 5 * 1.42 / 1024);
    assert_true(fabs(fourth / N - 3) < 5 * 9.8 / 1024);
    assert_true(fabs(neighbours / N) < 5 * 1.42 / 1024);
    assert_true(fabs(others / N) < 2.5 / 1024);
    assert_true(fabs((double)within / N - 0.682689) < 5 * 0.466 / 1024);
    assert_true(max > 4 && max < 7);
    llama_init_normal(b, 1ull << 40, 4, 42, 1);
    assert_memory_not_equal(a, b, 4 * sizeof *a);
    free(a);
    free(b);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Kolmogorov and Smirnov: the largest distance between the samples' distribution and the normal one;
 * above 2 / sqrt(n) in one of 1500 fair samples. It must also tell a spread that is 2 % off. */
static void test_normal_distribution(void **state)
{
    enum { N = 1 << 18 };
    float *a = ref_floats(N);
    double far = 0, far_if_wider = 0;

    (void)state;
    llama_init_normal(a, 1000, N, 7, 0.25f);
    qsort(a, N, sizeof *a, by_value);
    for (size_t i = 0; i < N; i++) {
        double x = (double)a[i] * 4 * M_SQRT1_2, at = ((double)i + 0.5) / N;

        far = fmax(far, fabs(0.5 * erfc(-x) - at));
        far_if_wider = fmax(far_if_wider, fabs(0.5 * erfc(-x * 1.02) - at));
    }
    assert_true(far < 2.0 / 512);
    assert_true(far_if_wider > 2.0 / 512);
    free(a);
}

/* ---- sampling --------------------------------------------------------------- */

static int32_t sample(const float *logits, size_t vocab, float temperature, float top_p,
                      struct llama_rng *rng, void *ws)
{
    struct llama_sampling s = {.temperature = temperature, .top_p = top_p};

    return llama_sample(logits, vocab, &s, rng, ws);
}

static void test_greedy(void **state)
{
    float logits[] = {1, 5, -3, 5, 2};
    struct llama_rng rng = {7};

    (void)state;
    assert_int_equal(sample(logits, 5, 0, 1, &rng, NULL), 1);
    assert_int_equal(sample(logits, 5, 1, 0, &rng, NULL), 1);
    assert_int_equal(rng.state, 7);
    logits[4] = INFINITY;
    assert_int_equal(sample(logits, 5, 1, 1, &rng, NULL), 4);
    logits[0] = NAN;
    assert_int_equal(sample(logits, 5, 0, 1, &rng, NULL), -1);
    assert_int_equal(sample(logits, 5, 1, 0.5f, &rng, NULL), -1);
    for (int i = 0; i < 5; i++)
        logits[i] = -INFINITY;
    assert_int_equal(sample(logits, 5, 1, 1, &rng, NULL), -1);
}

/* Draws from probabilities 0.1, 0.2, 0.3, 0.4 at several settings. */
static void test_sampling_follows_distribution(void **state)
{
    enum { DRAWS = 40000 };
    static const struct {
        struct llama_sampling s; /* temperature, top k, top p, min p */
        double p[4];
    } cases[] = {
        {{1, 0, 1, 0}, {0.1, 0.2, 0.3, 0.4}},
        {{0.5f, 0, 1, 0}, {1 / 30.0, 4 / 30.0, 9 / 30.0, 16 / 30.0}},
        {{1, 0, 0.65f, 0}, {0, 0, 3 / 7.0, 4 / 7.0}},
        {{1, 0, 0.85f, 0}, {0, 2 / 9.0, 3 / 9.0, 4 / 9.0}},
        {{1, 0, 0.3f, 0}, {0, 0, 0, 1}},
        {{1, 1, 1, 0}, {0, 0, 0, 1}},
        {{1, 3, 1, 0}, {0, 2 / 9.0, 3 / 9.0, 4 / 9.0}},
        {{1, 9, 1, 0}, {0.1, 0.2, 0.3, 0.4}},
        {{1, 3, 0.72f, 0}, {0, 0, 3 / 7.0, 4 / 7.0}}, /* 0.7 of 0.9: not of all, which would take three */
        {{1, 0, 1, 0.6f}, {0, 0, 3 / 7.0, 4 / 7.0}},
        {{1, 0, 1, 0.45f}, {0, 2 / 9.0, 3 / 9.0, 4 / 9.0}},
        {{1, 0, 0.85f, 0.6f}, {0, 0, 3 / 7.0, 4 / 7.0}},
        {{1, 3, 0.99f, 0.6f}, {0, 0, 3 / 7.0, 4 / 7.0}},
        {{2, 0, 1, 0.72f}, {0, 0, 0.4640, 0.5360}}, /* by the probabilities at that temperature */
    };
    const float logits[] = {logf(0.1f), logf(0.2f), logf(0.3f), logf(0.4f)};
    void *ws = ref_alloc(llama_sample_workspace(4));

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct llama_rng rng = {c};
        int count[4] = {0};

        for (int i = 0; i < DRAWS; i++)
            count[llama_sample(logits, 4, &cases[c].s, &rng, ws)]++;
        for (int i = 0; i < 4; i++) {
            double p = cases[c].p[i];

            if (fabs(count[i] - DRAWS * p) > 5 * sqrt(DRAWS * p * (1 - p)))
                fail_msg("case %zu: token %d drawn %d times of %d, expected %.0f", c, i, count[i], DRAWS,
                         DRAWS * p);
        }
    }
    free(ws);
}

/* The nucleus of a large vocabulary, against one found by trying. */
static void test_nucleus_is_smallest(void **state)
{
    enum { VOCAB = 5000 };
    float *logits = ref_random(VOCAB, 11, 4, 0), floor = 4;
    void *ws = ref_alloc(llama_sample_workspace(VOCAB));
    struct llama_rng rng = {1};
    double total = 0, above = 0;

    (void)state;
    for (size_t i = 0; i < VOCAB; i++)
        total += exp((double)logits[i]);
    for (; above < 0.5 * total; floor -= 1 / 16.0f) { /* logits are multiples of 1/16 */
        above = 0;
        for (size_t i = 0; i < VOCAB; i++)
            above += logits[i] >= floor ? exp((double)logits[i]) : 0;
    }
    floor += 1 / 16.0f;
    for (int i = 0; i < 300; i++)
        assert_true(logits[sample(logits, VOCAB, 1, 0.5f, &rng, ws)] >= floor);
    free(logits);
    free(ws);
}

static void test_penalty(void **state)
{
    float logits[] = {2, -2, 0, 3, -1};
    const float want[] = {1, -4, 0, 3, -1};
    const int32_t tokens[] = {0, 1, 0, 2, 0};
    bool seen[5];

    (void)state;
    llama_penalize(logits, 5, tokens, 5, 2, seen);
    for (int i = 0; i < 5; i++)
        assert_true(logits[i] == want[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves_survive),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_normal_numbers),
        cmocka_unit_test(test_normal_distribution),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_sampling_follows_distribution),
        cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_nucleus_is_smallest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
