/*
 * The kernels one by one. Proves:
 *  - matrix products in all dtypes, over one and several panels, adding and overwriting NaN;
 *  - forwards agree with a plain double reference and gradients with finite differences of it, for
 *    norm, rope, SwiGLU, attention, head; also the head with vocabularies in several slices;
 *  - a gradient that is a little wrong is refused (the negative control of those checks);
 *  - rounding to BF16 and F16 is to the nearest, ties to even, over all halves and random floats;
 *  - exp is good to 2e-7; normal numbers have normal's moments and tails, and depend on seed and index only;
 *  - sampling is greedy where it should be, keeps to the nucleus, follows the distribution, and
 *    refuses NaN;
 *  - bits of BLAS products don't depend on addresses, and repeat.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/llama/kernels_inline.h"
#include "tests/llama_reference.h"

#define TOLERANCE 1e-5

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

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

static void test_greedy(void **state)
{
    float logits[] = {1, 5, -3, 5, 2};
    struct llama_rng rng = {7};

    (void)state;
    assert_int_equal(llama_sample(logits, 5, 0, 1, &rng, NULL), 1);
    assert_int_equal(llama_sample(logits, 5, 1, 0, &rng, NULL), 1);
    assert_int_equal(rng.state, 7);
    logits[4] = INFINITY;
    assert_int_equal(llama_sample(logits, 5, 1, 1, &rng, NULL), 4);
    logits[0] = NAN;
    assert_int_equal(llama_sample(logits, 5, 0, 1, &rng, NULL), -1);
    assert_int_equal(llama_sample(logits, 5, 1, 0.5f, &rng, NULL), -1);
    for (int i = 0; i < 5; i++)
        logits[i] = -INFINITY;
    assert_int_equal(llama_sample(logits, 5, 1, 1, &rng, NULL), -1);
}

/* Draws from probabilities 0.1, 0.2, 0.3, 0.4 at several settings. */
static void test_sampling_follows_distribution(void **state)
{
    enum { DRAWS = 40000 };
    static const struct {
        float temperature, top_p;
        double p[4];
    } cases[] = {
        {1, 1, {0.1, 0.2, 0.3, 0.4}},
        {0.5f, 1, {1 / 30.0, 4 / 30.0, 9 / 30.0, 16 / 30.0}},
        {1, 0.65f, {0, 0, 3 / 7.0, 4 / 7.0}},
        {1, 0.85f, {0, 2 / 9.0, 3 / 9.0, 4 / 9.0}},
        {1, 0.3f, {0, 0, 0, 1}},
    };
    const float logits[] = {logf(0.1f), logf(0.2f), logf(0.3f), logf(0.4f)};
    void *ws = ref_alloc(llama_sample_workspace(4));

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct llama_rng rng = {c};
        int count[4] = {0};

        for (int i = 0; i < DRAWS; i++)
            count[llama_sample(logits, 4, cases[c].temperature, cases[c].top_p, &rng, ws)]++;
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
        assert_true(logits[llama_sample(logits, VOCAB, 1, 0.5f, &rng, ws)] >= floor);
    free(logits);
    free(ws);
}

/* ---- matrices ----------------------------------------------------------------- */

static const struct {
    size_t rows, in, out;
} products[] = {
    {1, 1, 1},
    {1, 33, 17},
    {2, 7, 5},
    {65, 24, 40},
    {7, 4100, 600},
    {1, 4100, 600},            /* three panels */
    {3, (4 << 20) / 4 + 1, 2}, /* a row larger than a panel */
};

/* Small integers in f32 and everywhere exact: results must be equal, whatever the order of sums. */
static void check_product(size_t rows, size_t in, size_t out, enum ofl_dtype dtype)
{
    float *x = ref_random(rows * in, 1, 8, 0), *dy = ref_random(rows * out, 2, 8, 0),
          *w = ref_random(out * in, 3, 2, 0);
    float *y = ref_floats(rows * out), *dx = ref_floats(rows * in), *dw = ref_floats(out * in);
    double *x64, *w64, *y64 = ref_alloc(rows * out * 8);
    struct llama_weight weight;
    void *ws = ref_alloc(llama_matmul_workspace(in, out, dtype));
    double magnitude = (double)in * 8; /* of sums, for the f32 ones that aren't exact */

    x64 = ref_double(x, rows * in);
    w64 = ref_double(w, out * in);
    weight = ref_weight(w, out * in, dtype);
    ref_matmul(y64, x64, w64, rows, in, out, false);
    llama_matmul(y, x, weight, rows, in, out, false, ws);
    for (size_t i = 0; i < rows * out; i++)
        assert_true(fabs((double)y[i] - y64[i]) <= 1e-6 * magnitude);
    llama_matmul(y, x, weight, rows, in, out, true, ws);
    for (size_t i = 0; i < rows * out; i++)
        assert_true(fabs((double)y[i] - 2 * y64[i]) <= 2e-6 * magnitude);
    for (int pass = 0; pass < 2; pass++) { /* overwrites NaN, then adds */
        llama_matmul_dx(dx, dy, weight, rows, in, out, pass, ws);
        llama_matmul_dw(dw, dy, x, rows, in, out, !pass);
        for (uint64_t trial = 0; trial < 200; trial++) {
            size_t i = ref_hash(21, trial) % in, j = ref_hash(22, trial) % out,
                   r = ref_hash(23, trial) % rows;
            double want_dx = 0, want_dw = 0;

            for (size_t o = 0; o < out; o++)
                want_dx += (double)dy[r * out + o] * w64[o * in + i];
            for (size_t t = 0; t < rows; t++)
                want_dw += (double)dy[t * out + j] * x64[t * in + i];
            assert_true(fabs((double)dx[r * in + i] - want_dx * (1 + pass)) <= 2e-5 * (double)out);
            assert_true(fabs((double)dw[j * in + i] - want_dw * (1 + pass)) <= 2e-4 * (double)rows);
        }
    }
    free(x);
    free(dy);
    free(w);
    free(y);
    free(dx);
    free(dw);
    free(x64);
    free(w64);
    free(y64);
    free((void *)weight.data);
    free(ws);
}

static void test_products(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t d = 0; d < 3; d++)
            check_product(products[p].rows, products[p].in, products[p].out, dtypes[d]);
}

/* What the "any address" promise rests on: sgemm itself, on sizes around its kernels' and threads' limits. */
static void test_products_do_not_depend_on_addresses(void **state)
{
    static const size_t sizes[][3] = {{2, 64, 64},   {7, 33, 65},    {64, 64, 128},  {65, 24, 65},
                                      {256, 96, 72}, {16, 512, 300}, {130, 130, 130}};
    enum { MAX = 512 * 300 + 64, SLACK = 64 };
    float *a = ref_floats(MAX), *b = ref_floats(MAX), *y = ref_floats(MAX), *first = ref_floats(3 * MAX);

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t rows = sizes[s][0], in = sizes[s][1], out = sizes[s][2];

        for (uint64_t trial = 0; trial < 10; trial++) {
            float *x = a + ref_hash(trial, 0) % SLACK, *w = b + ref_hash(trial, 1) % SLACK;
            float *z = y + ref_hash(trial, 2) % SLACK, *want = first;
            struct llama_weight weight = {w, OFL_F32};

            memset(a, 0xff, MAX * sizeof *a);
            memset(b, 0xff, MAX * sizeof *b);
            memset(y, 0xff, MAX * sizeof *y);
            for (int kind = 0; kind < 3; kind++, want += MAX) {
                size_t n = kind == 0 ? rows * out : kind == 1 ? rows * in : out * in;

                ref_values(x, rows * (kind ? out : in), 31, 0.7f, 0);
                ref_values(w, kind == 2 ? rows * in : out * in, 32, 0.3f, 0);
                if (kind == 0)
                    llama_matmul(z, x, weight, rows, in, out, false, NULL);
                else if (kind == 1)
                    llama_matmul_dx(z, x, weight, rows, in, out, false, NULL);
                else
                    llama_matmul_dw(z, x, w, rows, in, out, true);
                if (trial == 0)
                    memcpy(want, z, n * sizeof *z);
                assert_memory_equal(want, z, n * sizeof *z);
            }
        }
    }
    free(a);
    free(b);
    free(y);
    free(first);
}

/* ---- layers: forward and gradient ------------------------------------------------ */

/* One kernel with up to three inputs, and the loss sum(c * y). */
struct probe {
    struct llama_shape shape;
    size_t rows, n, inputs, elems[3];
    float *in[3], *grad[3], *y, *c;
    double *in64[3], *y64, *c64;
    void (*reference)(struct probe *p);
    int32_t *targets;
};

static void probe_input(struct probe *p, size_t elems, float scale, float offset)
{
    size_t i = p->inputs++;

    p->elems[i] = elems;
    p->in[i] = ref_random(elems, 40 + i, scale, offset);
    p->in64[i] = ref_double(p->in[i], elems);
    p->grad[i] = ref_floats(elems);
}

static void probe_output(struct probe *p, size_t n)
{
    p->n = n;
    p->y = ref_floats(n);
    p->y64 = ref_alloc(n * sizeof *p->y64);
    p->c = ref_random(n, 50, 1, 0);
    p->c64 = ref_double(p->c, n);
}

static void probe_free(struct probe *p)
{
    for (size_t i = 0; i < p->inputs; i++) {
        free(p->in[i]);
        free(p->in64[i]);
        free(p->grad[i]);
    }
    free(p->y);
    free(p->y64);
    free(p->c);
    free(p->c64);
}

static double probe_loss(void *arg)
{
    struct probe *p = arg;
    double loss = 0;

    p->reference(p);
    for (size_t i = 0; i < p->n; i++)
        loss += p->c64[i] * p->y64[i];
    return loss;
}

/* Forward against the reference, every gradient against differences; then each of them falsified. */
static void probe_check(struct probe *p, const char *name)
{
    double error;

    probe_loss(p);
    error = ref_error(p->y, p->y64, p->n);
    if (error > TOLERANCE)
        fail_msg("%s: error %.3g", name, error);
    for (size_t i = 0; i < p->inputs; i++) {
        if (!ref_is_gradient(name, probe_loss, p, p->in64[i], p->grad[i], p->elems[i], TOLERANCE, false))
            fail_msg("%s: input %zu", name, i);
        for (size_t e = 0; e < p->elems[i]; e++)
            p->grad[i][e] *= 1.001f;
        assert_false(
            ref_is_gradient(name, probe_loss, p, p->in64[i], p->grad[i], p->elems[i], TOLERANCE, true));
    }
    probe_free(p);
}

static void norm_reference(struct probe *p)
{
    ref_norm(p->y64, p->in64[0], p->in64[1], p->rows, p->shape.hidden, (double)p->shape.rms_eps);
}

static void test_norm(void **state)
{
    static const struct {
        size_t rows;
        uint32_t hidden;
        float eps;
    } cases[] = {{1, 2, 1e-5f}, {7, 33, 1e-6f}, {65, 48, 0.5f}};

    (void)state;
    for (size_t c = 0; c < 3; c++) {
        size_t rows = cases[c].rows, hidden = cases[c].hidden;
        struct probe p = {.rows = rows, .shape = {.hidden = cases[c].hidden, .rms_eps = cases[c].eps}};
        float ws[64], *again;
        struct llama_weight w;

        p.reference = norm_reference;
        probe_input(&p, rows * hidden, 2, 0.25f);
        probe_input(&p, hidden, 0.5f, 1);
        probe_output(&p, rows * hidden);
        w = ref_weight(p.in[1], hidden, dtypes[c]);
        llama_norm(p.y, p.in[0], w, rows, hidden, cases[c].eps, ws);
        llama_norm_backward(p.grad[0], p.grad[1], p.c, p.in[0], w, rows, hidden, cases[c].eps, false, true,
                            ws);
        /* in place, adding to dw, gives the same dx and twice the dw */
        again = ref_random(rows * hidden, 50, 1, 0);
        llama_norm_backward(again, p.grad[1], again, p.in[0], w, rows, hidden, cases[c].eps, false, false,
                            ws);
        assert_memory_equal(again, p.grad[0], rows * hidden * sizeof *again);
        for (size_t i = 0; i < hidden; i++)
            p.grad[1][i] /= 2;
        /* and adding to dx adds */
        memset(again, 0, rows * hidden * sizeof *again);
        llama_norm_backward(again, ws, p.c, p.in[0], w, rows, hidden, cases[c].eps, true, true, p.y64);
        assert_memory_equal(again, p.grad[0], rows * hidden * sizeof *again);
        probe_check(&p, "norm");
        free(again);
        free((void *)w.data);
    }
}

static void rope_reference(struct probe *p)
{
    size_t dim = p->shape.head_dim, heads = p->shape.heads, seq = p->rows / 2;
    float inv_freq[16];

    llama_rope_inv_freq(inv_freq, &p->shape);
    memcpy(p->y64, p->in64[0], p->n * sizeof *p->y64);
    for (size_t r = 0; r < p->rows; r++)
        ref_rope(p->y64 + r * heads * dim, heads, dim, inv_freq, 3 + r % seq);
}

static void test_rope(void **state)
{
    struct probe p = {.rows = 14, .shape = {.heads = 3, .head_dim = 10, .rope_theta = 100}};
    float table[70];

    (void)state;
    p.reference = rope_reference;
    probe_input(&p, 14 * 30, 1, 0);
    probe_output(&p, 14 * 30);
    llama_rope_table(table, &p.shape, 3, 7);
    memcpy(p.y, p.in[0], p.n * sizeof *p.y);
    llama_rope(p.y, 2, 7, 3, 10, table, false);
    memcpy(p.grad[0], p.c, p.n * sizeof *p.c);
    llama_rope(p.grad[0], 2, 7, 3, 10, table, true);
    probe_check(&p, "rope");
}

static void swiglu_reference(struct probe *p)
{
    ref_swiglu(p->y64, p->in64[0], p->in64[1], p->n);
}

static void test_swiglu(void **state)
{
    static const float scales[] = {1, 8, 64}; /* up to where the exponential leaves f32's range */

    (void)state;
    for (size_t c = 0; c < 3; c++) {
        struct probe p = {.reference = swiglu_reference};

        probe_input(&p, 333, 2 * scales[c], 0);
        probe_input(&p, 333, 2, 0);
        probe_output(&p, 333);
        llama_swiglu(p.y, p.in[0], p.in[1], 333);
        memcpy(p.grad[0], p.in[0], 333 * sizeof(float));
        memcpy(p.grad[1], p.in[1], 333 * sizeof(float));
        llama_swiglu_backward(p.grad[0], p.grad[1], p.c, 333);
        probe_check(&p, "swiglu");
    }
}

static void attention_reference(struct probe *p)
{
    ref_attention(p->y64, p->in64[0], p->in64[1], p->in64[2], &p->shape, p->rows);
}

static void test_attention(void **state)
{
    static const struct {
        uint32_t heads, kv_heads, dim;
        size_t n;
    } cases[] = {{1, 1, 2, 1}, {4, 2, 6, 7}, {6, 1, 4, 65}, {2, 2, 16, 129}};

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t n = cases[c].n, qd = cases[c].heads * cases[c].dim, kd = cases[c].kv_heads * cases[c].dim;
        struct probe p = {.rows = n, .reference = attention_reference};
        void *ws = ref_alloc(llama_attention_backward_workspace(n));

        p.shape.heads = cases[c].heads;
        p.shape.kv_heads = cases[c].kv_heads;
        p.shape.head_dim = cases[c].dim;
        probe_input(&p, n * qd, 2, 0);
        probe_input(&p, n * kd, 2, 0);
        probe_input(&p, n * kd, 1, 0);
        probe_output(&p, n * qd);
        llama_attention(p.y, p.in[0], p.in[1], p.in[2], &p.shape, 0, n, ws);
        llama_attention_backward(p.grad[0], p.grad[1], p.grad[2], p.c, p.in[0], p.in[1], p.in[2], &p.shape, n,
                                 ws);
        if (n > 1)
            probe_check(&p, "attention");
        else
            probe_free(&p); /* one key: its weight is 1, and the gradients of q and k are 0 */
        free(ws);
    }
}

static void head_reference(struct probe *p)
{
    *p->y64 = ref_head_loss(&p->shape, p->rows, p->in64[1], p->in64[2], p->in64[0], p->targets);
}

static const struct head_case {
    size_t rows;
    uint32_t hidden, vocab;
    enum ofl_dtype dtype;
} head_cases[] = {
    {1, 8, 16, OFL_F32},     {7, 20, 33, OFL_F16},
    {65, 12, 50, OFL_BF16},  {3, 4096, 530, OFL_BF16}, /* three slices, for the widened weights */
    {300, 4, 8000, OFL_F32},                           /* two slices, for the logits */
};

static void test_head(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof head_cases / sizeof *head_cases; c++) {
        const struct head_case *h = &head_cases[c];
        struct probe p = {.rows = h->rows, .reference = head_reference};
        struct llama_head_weights w;
        struct llama_head_grads g;
        void *ws;

        p.shape = (struct llama_shape){.hidden = h->hidden, .vocab = h->vocab, .rms_eps = 1e-5f};
        probe_input(&p, h->rows * h->hidden, 1, 0);
        probe_input(&p, h->hidden, 0.5f, 1);
        probe_input(&p, (size_t)h->vocab * h->hidden, h->hidden > 1000 ? 0.0625f : 1, 0);
        probe_output(&p, 1);
        *p.c = 0.75f;
        *p.c64 = 0.75;
        p.targets = ref_alloc(h->rows * sizeof *p.targets);
        for (size_t r = 0; r < h->rows; r++)
            p.targets[r] = r % 4 == 3 ? -1 : (int32_t)(ref_hash(60, r) % h->vocab);
        w.norm = ref_weight(p.in[1], p.elems[1], h->dtype);
        w.head = ref_weight(p.in[2], p.elems[2], h->dtype);
        g = (struct llama_head_grads){p.grad[1], p.grad[2]};
        ws = ref_alloc(llama_head_workspace(&p.shape, h->rows, h->dtype));
        *p.y =
            (float)llama_head_loss(&p.shape, h->rows, &w, &g, true, p.in[0], p.targets, 0.75f, p.grad[0], ws);
        assert_true((float)llama_head_loss(&p.shape, h->rows, &w, NULL, true, p.in[0], p.targets, 0, NULL,
                                           ws) == *p.y);
        if ((size_t)h->vocab * h->rows < 100000) {
            probe_check(&p, "head");
        } else { /* too slow for differences of everything */
            probe_loss(&p);
            assert_true(ref_error(p.y, p.y64, 1) < 1e-6);
            assert_true(
                ref_is_gradient("x", probe_loss, &p, p.in64[0], p.grad[0], p.elems[0], TOLERANCE, false));
            assert_true(
                ref_is_gradient("head", probe_loss, &p, p.in64[2], p.grad[2], p.elems[2], TOLERANCE, false));
            probe_free(&p);
        }
        free(p.targets);
        free((void *)w.norm.data);
        free((void *)w.head.data);
        free(ws);
    }
}

/* Llama 3's vocabulary: loss in double, and the head's gradient, of which every column sums to zero. */
static void test_head_of_128256(void **state)
{
    struct llama_shape shape = {.hidden = 16, .vocab = 128256, .rms_eps = 1e-5f};
    size_t rows = 33, n = (size_t)shape.vocab * shape.hidden;
    float *x = ref_random(rows * 16, 1, 1, 0), *norm = ref_random(16, 2, 0.5f, 1),
          *head = ref_random(n, 3, 1, 0);
    double *x64 = ref_double(x, rows * 16), *norm64 = ref_double(norm, 16), *head64 = ref_double(head, n),
           want;
    struct llama_head_weights w = {{norm, OFL_F32}, ref_weight(head, n, OFL_BF16)};
    float dnorm[16], *dhead = ref_floats(n), *dx = ref_floats(rows * 16), *logits = ref_floats(shape.vocab);
    struct llama_head_grads g = {dnorm, dhead};
    void *ws = ref_alloc(llama_head_workspace(&shape, rows, OFL_BF16));
    int32_t targets[33];

    (void)state;
    assert_true(llama_head_workspace(&shape, rows, OFL_BF16) < 14u << 20);
    for (size_t r = 0; r < rows; r++)
        targets[r] = (int32_t)(128255 - r * 4000);
    want = ref_head_loss(&shape, rows, norm64, head64, x64, targets);
    assert_true(fabs(llama_head_loss(&shape, rows, &w, &g, true, x, targets, 1, dx, ws) - want) <
                1e-6 * want);
    for (size_t i = 0; i < 16; i++) {
        double sum = 0;

        for (size_t v = 0; v < shape.vocab; v++)
            sum += (double)dhead[v * 16 + i];
        assert_true(fabs(sum) < 1e-4);
    }
    llama_head_logits(&shape, &w, x, logits, ws);
    for (size_t v = 0; v < shape.vocab; v += 1001) {
        double sum = 0, square = 0;

        for (size_t i = 0; i < 16; i++)
            square += x64[i] * x64[i];
        for (size_t i = 0; i < 16; i++)
            sum += head64[v * 16 + i] * norm64[i] * x64[i] / sqrt(square / 16 + 1e-5);
        assert_true(fabs((double)logits[v] - sum) < 1e-4);
    }
    x[5] = NAN; /* NaN must show */
    assert_true(isnan(llama_head_loss(&shape, rows, &w, NULL, true, x, targets, 1, NULL, ws)));
    free(x);
    free(norm);
    free(head);
    free(x64);
    free(norm64);
    free(head64);
    free((void *)w.head.data);
    free(dhead);
    free(dx);
    free(logits);
    free(ws);
}

static void test_embedding(void **state)
{
    static const int32_t tokens[] = {4, 0, 4, 2, 4};
    float *table = ref_random(5 * 7, 1, 1, 0), *dtable = ref_floats(5 * 7), x[35];

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        struct llama_weight w = ref_weight(table, 5 * 7, dtypes[d]);

        llama_embed(x, w, tokens, 5, 7);
        for (size_t i = 0; i < 5; i++)
            assert_memory_equal(x + i * 7, table + tokens[i] * 7, 7 * sizeof *x);
        free((void *)w.data);
    }
    for (int pass = 1; pass <= 2; pass++) {
        llama_embed_backward(dtable, x, tokens, 5, 5, 7, pass == 1);
        for (size_t i = 0; i < 35; i++) {
            size_t v = i / 7, times = v == 4 ? 3 : v == 0 || v == 2;

            assert_true(dtable[i] == (float)(times * (size_t)pass) * table[i]);
        }
    }
    free(table);
    free(dtable);
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
        cmocka_unit_test(test_nucleus_is_smallest),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_products_do_not_depend_on_addresses),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_head_of_128256),
        cmocka_unit_test(test_embedding),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
