/*
 * optim/update: the optimizer's arithmetic. Bit for bit against a scalar loop in which every
 * operation is rounded by itself; to within rounding against double precision, and against
 * numbers of torch.optim.AdamW; independent of how the arrays are cut and where they lie; BF16
 * rounding over every pattern of the upper half; sums of squares.
 *
 * Negative controls: the scalar loop with a fused multiply-add, the double loop with L2 decay
 * and the one without bias correction, the sum in another order: each must differ.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "liboffload/optim/update.h"
#include "tests/core_fixture.h"

typedef unsigned long long ull;

static const struct ofl_update_settings settings[] = {
    {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01},
    {.lr = 0.05, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.3},
    {.lr = 2e-5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0},
    {.lr = 0.5, .beta1 = 0, .beta2 = 0.5, .eps = 1e-3, .weight_decay = 0.1},
};
#define SETTINGS (sizeof settings / sizeof settings[0])

static struct optim_coef coef_at(size_t i, uint64_t step)
{
    struct ofl_update_settings s = settings[i];

    s.step = step;
    return optim_coef_make(OFL_ADAMW, &s, 1);
}

/* A float of either sign, of magnitude 2^low to 2^high. */
static float random_float(struct random *r, int low, int high)
{
    uint64_t bits = random_next(r);
    double x =
        ldexp(1.0 + (double)(bits >> 40) / 16777216.0, low + (int)random_below(r, (uint64_t)(high - low)));

    return (float)(bits & 1 ? -x : x);
}

/* ---- arrays of a tensor ------------------------------------------------ */

struct arrays {
    float *p, *m, *v, *g;
    uint16_t *w16;
    uint64_t n;
};

static float *floats(uint64_t n)
{
    float *x = calloc(n + 1, sizeof *x);

    assert_non_null(x);
    return x;
}

static struct arrays arrays_make(uint64_t n, uint64_t seed)
{
    struct arrays a = {floats(n), floats(n), floats(n), floats(n), calloc(n + 1, 2), n};
    struct random r = {seed};

    assert_non_null(a.w16);
    for (uint64_t i = 0; i < n; i++) {
        a.p[i] = random_float(&r, -8, 2);
        a.m[i] = random_float(&r, -12, 1);
        a.v[i] = fabsf(random_float(&r, -20, 1));
        a.g[i] = random_float(&r, -12, 1);
    }
    return a;
}

static void arrays_free(struct arrays *a)
{
    free(a->p);
    free(a->m);
    free(a->v);
    free(a->g);
    free(a->w16);
}

static bool arrays_equal(const struct arrays *a, const struct arrays *b)
{
    return memcmp(a->p, b->p, a->n * 4) == 0 && memcmp(a->m, b->m, a->n * 4) == 0 &&
           memcmp(a->v, b->v, a->n * 4) == 0 && memcmp(a->w16, b->w16, a->n * 2) == 0;
}

/* ---- every operation rounded by itself --------------------------------- */

/* volatile: no compiler may contract or reorder. */
static void scalar_update(const struct optim_coef *c, float scale, struct arrays *a, bool fused)
{
    for (uint64_t i = 0; i < a->n; i++) {
        volatile float grad = a->g[i] * scale, kept = c->beta1 * a->m[i], added = c->rest1 * grad;
        volatile float mean = fused ? fmaf(c->beta1, a->m[i], added) : kept + added;
        volatile float kept2 = c->beta2 * a->v[i], part = c->rest2 * grad, added2 = part * grad;
        volatile float square = kept2 + added2, root = sqrtf(square), bottom = root * c->root;
        volatile float denominator = bottom + c->eps, top = c->rate * mean, change = top / denominator;
        volatile float decayed = a->p[i] * c->decay;

        a->m[i] = mean;
        a->v[i] = square;
        a->p[i] = decayed - change;
    }
}

static void bits_of_the_scalar_loop(void **state)
{
    static const uint64_t sizes[] = {1, 3, 7, 16, 1023, 1024, 1025, 5000};
    unsigned fused_differs = 0;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t k = 0; k < SETTINGS; k++) {
            struct arrays a = arrays_make(sizes[i], i + 1), b = arrays_make(sizes[i], i + 1);
            struct arrays f = arrays_make(sizes[i], i + 1);

            for (uint64_t t = 1; t <= 5; t++) {
                struct optim_coef c = coef_at(k, t);
                float scale = t % 2 ? 1.0f : 0.37f;

                optim_update(OFL_ADAMW, &c, scale, (struct optim_arrays){a.p, a.m, a.v, a.g, NULL}, a.n);
                scalar_update(&c, scale, &b, false);
                scalar_update(&c, scale, &f, true);
            }
            if (!arrays_equal(&a, &b))
                fail_msg("%llu elements, settings %zu: other bits than the scalar loop's", (ull)sizes[i], k);
            fused_differs += !arrays_equal(&a, &f);
            arrays_free(&a);
            arrays_free(&b);
            arrays_free(&f);
        }
    assert_true(fused_differs > 10); /* the control */
}

/* ---- double precision -------------------------------------------------- */

enum variant { ADAMW, L2_DECAY, NO_CORRECTION };

struct element {
    double p, m, v;
};

static void double_update(const struct ofl_update_settings *s, double g, struct element *e,
                          enum variant variant)
{
    double t = (double)s->step, fix1 = 1 - pow(s->beta1, t), fix2 = 1 - pow(s->beta2, t);

    if (variant == NO_CORRECTION)
        fix1 = fix2 = 1;
    if (variant == L2_DECAY)
        g += s->weight_decay * e->p;
    else
        e->p -= s->lr * s->weight_decay * e->p;
    e->m = s->beta1 * e->m + (1 - s->beta1) * g;
    e->v = s->beta2 * e->v + (1 - s->beta2) * g * g;
    e->p -= s->lr * (e->m / fix1) / (sqrt(e->v / fix2) + s->eps);
}

/* The largest error after 20 steps from zero states, in units of what rounding to fp32 explains:
 * three roundings a step, of p, m or v and of what is added to it. */
static double worst_error(size_t k, enum variant variant)
{
    enum { N = 700, STEPS = 20 };
    static struct element e[N];
    struct arrays a = arrays_make(N, 77 + k);
    struct random r = {k};
    double worst = 0, largest = 0, rounding = 3 * STEPS * ldexp(1, -24);

    for (int i = 0; i < N; i++)
        e[i] = (struct element){.p = a.p[i]};
    memset(a.m, 0, N * 4);
    memset(a.v, 0, N * 4);
    for (uint64_t t = 1; t <= STEPS; t++) {
        struct ofl_update_settings s = settings[k];
        struct optim_coef c = coef_at(k, t);

        s.step = t;
        for (int i = 0; i < N; i++) {
            a.g[i] = random_float(&r, -6, 1);
            double_update(&s, 0.5 * (double)a.g[i], &e[i], variant);
            largest = fmax(largest, fabs((double)a.g[i]));
        }
        optim_update(OFL_ADAMW, &c, 0.5f, (struct optim_arrays){a.p, a.m, a.v, a.g, NULL}, N);
    }
    for (int i = 0; i < N; i++) {
        double of_p = fabs(a.p[i] - e[i].p) / (rounding * (fabs(e[i].p) + STEPS * settings[k].lr));
        double of_m = fabs(a.m[i] - e[i].m) / (rounding * largest);
        double of_v = fabs(a.v[i] - e[i].v) / (rounding * e[i].v);

        worst = fmax(worst, fmax(of_p, fmax(of_m, of_v)));
    }
    arrays_free(&a);
    return worst;
}

static void close_to_double_precision(void **state)
{
    (void)state;
    for (size_t k = 0; k < SETTINGS; k++) {
        double worst = worst_error(k, ADAMW);

        if (worst > 1)
            fail_msg("settings %zu: %g times the error that rounding explains", k, worst);
        assert_true(worst_error(k, NO_CORRECTION) > 10); /* the controls */
        assert_true(settings[k].weight_decay == 0 || worst_error(k, L2_DECAY) > 10);
    }
}

/* ---- torch ------------------------------------------------------------- */

#define GOLDEN_ELEMS 6
#define GOLDEN_STEPS 7

struct golden {
    double lr, beta1, beta2, eps, weight_decay;
    float p[GOLDEN_ELEMS], m[GOLDEN_ELEMS], v[GOLDEN_ELEMS]; /* after the last step */
};

static const struct golden goldens[] = {
    /* tools/golden_adamw.py, torch 2.15.0+cu132 */
    {
        0.001,
        0.9,
        0.999,
        1e-08,
        0.01,
        {-0x1.4f3d5ap+0f, 0x1.ffb3a8p-1f, -0x1.61362ep-1f, 0x1.9f5fdp+0f, -0x1.dd1bd4p-5f, -0x1.bfc666p+0f},
        {0x1.0cc424p-7f, -0x1.955566p-10f, -0x1.572272p-6f, 0x1.5ead52p-7f, 0x1.11ba8ap-5f, 0x1.1df202p-3f},
        {0x1.148832p-17f, 0x1.378a58p-15f, 0x1.498bacp-13f, 0x1.3adde8p-11f, 0x1.041672p-9f, 0x1.2f6ef6p-7f},
    },
    {
        0.05,
        0.8,
        0.95,
        1e-06,
        0.3,
        {-0x1.14b3bp+0f, 0x1.baee34p-1f, -0x1.6b4044p-1f, 0x1.5f487ep+0f, 0x1.d4cbe4p-4f, -0x1.9100d6p+0f},
        {0x1.2a242cp-6f, -0x1.21c948p-7f, -0x1.633a2ep-5f, 0x1.54e6e8p-7f, 0x1.24d02ep-3f, 0x1.9dfebap-3f},
        {0x1.896d3p-12f, 0x1.c034bcp-10f, 0x1.b7dbe2p-8f, 0x1.89389p-6f, 0x1.5a8278p-4f, 0x1.ba363cp-2f},
    },
    {
        2e-05,
        0.9,
        0.999,
        1e-08,
        0.0,
        {-0x1.4ffc3cp+0f, 0x1.fffeaap-1f, -0x1.600654p-1f, 0x1.9ffcfp+0f, -0x1.ff4d88p-5f, -0x1.bfff02p+0f},
        {0x1.0cc424p-7f, -0x1.955566p-10f, -0x1.572272p-6f, 0x1.5ead52p-7f, 0x1.11ba8ap-5f, 0x1.1df202p-3f},
        {0x1.148832p-17f, 0x1.378a58p-15f, 0x1.498bacp-13f, 0x1.3adde8p-11f, 0x1.041672p-9f, 0x1.2f6ef6p-7f},
    },
    {
        0.5,
        0.0,
        0.5,
        0.001,
        0.1,
        {-0x1.049f88p+1f, 0x1.ee8004p-3f, -0x1.7a699cp-2f, 0x1.851904p-1f, -0x1.2693f8p-1f, -0x1.10a662p+1f},
        {0x1.ep-5f, -0x1.38p-4f, -0x1.4p-5f, 0x1.3p-3f, 0x1.8p-1f, -0x1.98p+0f},
        {0x1.292b8p-9f, 0x1.fb0e8p-8f, 0x1.91fap-7f, 0x1.a88ap-6f, 0x1.707fp-2f, 0x1.36494p+1f},
    },
};

/* The same formulas as in tools/golden_adamw.py. */
static float golden_weight(int i)
{
    return (float)((37 * i + 11) % 64 - 32) / 16.0f;
}

static float golden_gradient(int i, int t)
{
    return ldexpf((float)((29 * i + 17 * t + 5) % 128 - 64) / 64.0f, i - 4);
}

static void golden_run(const struct golden *g, double decay, struct arrays *a)
{
    for (int i = 0; i < GOLDEN_ELEMS; i++) {
        a->p[i] = golden_weight(i);
        a->m[i] = a->v[i] = 0;
    }
    for (int t = 1; t <= GOLDEN_STEPS; t++) {
        struct ofl_update_settings s = {.lr = g->lr,
                                        .beta1 = g->beta1,
                                        .beta2 = g->beta2,
                                        .eps = g->eps,
                                        .weight_decay = decay,
                                        .step = (uint64_t)t};
        struct optim_coef c = optim_coef_make(OFL_ADAMW, &s, 1);

        for (int i = 0; i < GOLDEN_ELEMS; i++)
            a->g[i] = golden_gradient(i, t);
        optim_update(OFL_ADAMW, &c, 1.0f, (struct optim_arrays){a->p, a->m, a->v, a->g, NULL}, GOLDEN_ELEMS);
    }
}

/* Torch rounds in another order (it interpolates m): a few units in the last place of the terms. */
static bool golden_close(const struct golden *g, const struct arrays *a)
{
    for (int i = 0; i < GOLDEN_ELEMS; i++) {
        double top = ldexp(1.0, i - 4); /* no gradient is larger */

        if (fabs((double)a->p[i] - (double)g->p[i]) > 6e-7 * (fabs((double)g->p[i]) + g->lr) ||
            fabs((double)a->m[i] - (double)g->m[i]) > 3e-7 * top ||
            fabs((double)a->v[i] - (double)g->v[i]) > 1e-6 * (double)g->v[i])
            return false;
    }
    return true;
}

static void same_as_torch(void **state)
{
    struct arrays a = arrays_make(GOLDEN_ELEMS, 1);

    (void)state;
    for (size_t k = 0; k < sizeof goldens / sizeof goldens[0]; k++) {
        const struct golden *g = &goldens[k];

        golden_run(g, g->weight_decay, &a);
        if (!golden_close(g, &a))
            fail_msg("golden %zu: other numbers than torch's", k);
        golden_run(g, g->weight_decay + 0.01, &a); /* the control */
        assert_false(golden_close(g, &a) && g->lr >= 1e-3);
    }
    arrays_free(&a);
}

/* ---- cuts and alignments ----------------------------------------------- */

/* Copies of the arrays, each at its own distance from an aligned address, updated in pieces. */
static void update_in_pieces(const struct optim_coef *c, struct arrays *a, struct random *r)
{
    float *p = floats(a->n + 16), *m = floats(a->n + 16), *v = floats(a->n + 16), *g = floats(a->n + 16);
    uint64_t op = random_below(r, 16), om = random_below(r, 16), ov = random_below(r, 16),
             og = random_below(r, 16);
    uint16_t *w = calloc(a->n + 33, 2);
    uint64_t ow = random_below(r, 32), longest = 1 + random_below(r, random_below(r, 2) ? a->n : 40);

    assert_non_null(w);
    memcpy(p + op, a->p, a->n * 4);
    memcpy(m + om, a->m, a->n * 4);
    memcpy(v + ov, a->v, a->n * 4);
    memcpy(g + og, a->g, a->n * 4);
    for (uint64_t i = 0, some; i < a->n; i += some) {
        some = 1 + random_below(r, longest);
        if (some > a->n - i)
            some = a->n - i;
        optim_update(OFL_ADAMW, c, 0.7f,
                     (struct optim_arrays){p + op + i, m + om + i, v + ov + i, g + og + i, w + ow + i}, some);
    }
    memcpy(a->p, p + op, a->n * 4);
    memcpy(a->m, m + om, a->n * 4);
    memcpy(a->v, v + ov, a->n * 4);
    memcpy(a->w16, w + ow, a->n * 2);
    free(p);
    free(m);
    free(v);
    free(g);
    free(w);
}

static void cuts_do_not_matter(void **state)
{
    unsigned seeds = fixture_rounds(200);

    (void)state;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct random r = {seed};
        uint64_t n = 1 + random_below(&r, 4000);
        struct arrays whole = arrays_make(n, seed), cut = arrays_make(n, seed);
        struct optim_coef c = coef_at(seed % SETTINGS, 1 + random_below(&r, 1000));

        optim_update(OFL_ADAMW, &c, 0.7f,
                     (struct optim_arrays){whole.p, whole.m, whole.v, whole.g, whole.w16}, n);
        update_in_pieces(&c, &cut, &r);
        if (!arrays_equal(&whole, &cut))
            fail_msg("seed %llu: %llu elements: other bits when cut", (ull)seed, (ull)n);
        arrays_free(&whole);
        arrays_free(&cut);
    }
}

static void nothing_else_is_touched(void **state)
{
    struct arrays a = arrays_make(40, 3), b = arrays_make(40, 3);
    struct optim_coef c = coef_at(0, 1);

    (void)state;
    optim_update(OFL_ADAMW, &c, 1.0f, (struct optim_arrays){a.p, a.m, a.v, a.g, a.w16}, 0);
    assert_true(arrays_equal(&a, &b));
    optim_update(OFL_ADAMW, &c, 1.0f,
                 (struct optim_arrays){a.p + 10, a.m + 10, a.v + 10, a.g + 10, a.w16 + 10}, 20);
    assert_memory_equal(a.p, b.p, 40);
    assert_memory_equal(a.p + 30, b.p + 30, 40);
    assert_memory_equal(a.w16, b.w16, 20);
    assert_memory_equal(a.w16 + 30, b.w16 + 30, 20);
    assert_memory_equal(a.g, b.g, 160);
    arrays_free(&a);
    arrays_free(&b);
}

/* ---- BF16 -------------------------------------------------------------- */

static double value_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* The nearer of the two neighbours, in double; of two as near the even one. */
static uint16_t nearest(uint32_t bits)
{
    uint32_t down = bits & 0xffff0000u, up = down + 0x10000u;
    double x = fabs(value_of(bits)), low = fabs(value_of(down));
    /* beyond the largest finite value, 2^128 stands for infinity */
    double high = (up & 0x7fffffffu) == 0x7f800000u ? ldexp(1, 128) : fabs(value_of(up));

    if (isinf(x))
        return (uint16_t)(down >> 16);
    if (x - low == high - x)
        return (uint16_t)((down & 0x10000u ? up : down) >> 16);
    return (uint16_t)((x - low < high - x ? down : up) >> 16);
}

/* Settings that leave p as it is: nothing but the rounding is left. */
static const struct optim_coef still = {.decay = 1, .eps = 1, .root = 1};

static void check_rounding(uint32_t bits, uint32_t kept, uint16_t got)
{
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;

    if (nan) {
        if ((got & 0x7fffu) <= 0x7f80u || (got ^ (bits >> 16)) & 0x8000u)
            fail_msg("NaN 0x%08x becomes 0x%04x", bits, got);
        return;
    }
    if (kept != bits || got != nearest(bits))
        fail_msg("0x%08x becomes 0x%04x, expected 0x%04x; the master 0x%08x", bits, got, nearest(bits), kept);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    static const uint32_t lows[] = {0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff};
    enum { LOWS = 8, ROUNDS = 65536 / 128, N = 128 * (LOWS + 2) };
    static uint32_t bits[N];
    struct arrays a = arrays_make(N, 1);
    struct random r = {11};

    (void)state;
    memset(a.m, 0, N * 4);
    memset(a.v, 0, N * 4);
    memset(a.g, 0, N * 4);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < N; i++) {
            uint32_t low = i % (LOWS + 2);

            low = low < LOWS ? lows[low] : (uint32_t)random_below(&r, 65536);
            bits[i] = (round * 128 + i / (LOWS + 2)) << 16 | low;
        }
        memcpy(a.p, bits, sizeof bits);
        optim_update(OFL_ADAMW, &still, 1.0f, (struct optim_arrays){a.p, a.m, a.v, a.g, a.w16}, N);
        for (uint32_t i = 0; i < N; i++) {
            uint32_t kept;

            memcpy(&kept, &a.p[i], 4);
            check_rounding(bits[i], kept, a.w16[i]);
        }
    }
    arrays_free(&a);
}

static const struct {
    const char *what;
    uint32_t bits;
    uint16_t rounded;
} roundings[] = {
    {"one", 0x3f800000, 0x3f80},
    {"tie to even, down", 0x3f808000, 0x3f80},
    {"tie to even, up", 0x3f818000, 0x3f82},
    {"above a tie", 0x3f808001, 0x3f81},
    {"carry into the exponent", 0x3fffff00, 0x4000},
    {"minus zero", 0x80000000, 0x8000},
    {"infinity", 0x7f800000, 0x7f80},
    {"minus infinity", 0xff800000, 0xff80},
    {"the largest, to infinity", 0x7f7fffff, 0x7f80},
    {"smallest subnormal", 0x00000001, 0x0000},
    {"subnormal tie", 0x00018000, 0x0002},
    {"subnormal to normal", 0x007fffff, 0x0080},
};

static void bf16_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof roundings / sizeof roundings[0]; i++) {
        float p, m = 0, v = 0, g = 0;
        uint16_t w;

        memcpy(&p, &roundings[i].bits, 4);
        optim_update(OFL_ADAMW, &still, 1.0f, (struct optim_arrays){&p, &m, &v, &g, &w}, 1);
        if (w != roundings[i].rounded || nearest(roundings[i].bits) != roundings[i].rounded)
            fail_msg("%s: 0x%04x, expected 0x%04x", roundings[i].what, w, roundings[i].rounded);
    }
}

/* ---- sums of squares --------------------------------------------------- */

/* The order that update_math.h gives, without its constants. */
static double fold(const double *x, unsigned count)
{
    double half[128];

    if (count == 1)
        return x[0];
    for (unsigned k = 0; k < count / 2; k++)
        half[k] = x[k] + x[count / 2 + k];
    return fold(half, count / 2);
}

static double sum_in_order(const float *x, uint64_t n)
{
    uint64_t each = n <= 512 * 4096 ? 4096 : (n / 512 + 256) / 256 * 256;
    double lane[256], sums[32] = {0};

    for (uint64_t part = 0; part * each < n; part++) {
        memset(lane, 0, sizeof lane);
        for (uint64_t i = part * each; i < n && i < (part + 1) * each; i++)
            lane[(i - part * each) % 256] += (double)x[i] * (double)x[i];
        sums[part % 32] += fold(lane, 256);
    }
    return fold(sums, 32);
}

static double sum_one_by_one(const float *x, uint64_t n)
{
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static void sum_of_squares(void **state)
{
    unsigned seeds = fixture_rounds(100), order_matters = 0;

    (void)state;
    assert_true(optim_sum_squares(NULL, 0) == 0);
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct random r = {seed};
        uint64_t n = 1 + random_below(&r, seed % 2 ? 50 : 20000) + (seed % 25 == 0 ? 3000000 : 0);
        float *x = floats(n), *shifted = floats(n + 20);
        long double exact = 0;
        double sum;

        for (uint64_t i = 0; i < n; i++) {
            x[i] = random_float(&r, -20, 20);
            exact += (long double)x[i] * (long double)x[i];
        }
        sum = optim_sum_squares(x, n);
        if (fabsl(sum - exact) > (long double)n * 1.2e-16L * exact)
            fail_msg("seed %llu: %llu elements: %.17g, expected %.17Lg", (ull)seed, (ull)n, sum, exact);
        if (sum != sum_in_order(x, n))
            fail_msg("seed %llu: %llu elements: %.17g, in order %.17g", (ull)seed, (ull)n, sum,
                     sum_in_order(x, n));
        for (uint64_t off = 0; off < 17 && n < 30000; off++) {
            memcpy(shifted + off, x, n * 4);
            if (optim_sum_squares(shifted + off, n) != sum)
                fail_msg("seed %llu: %llu elements: another sum %llu floats further on", (ull)seed, (ull)n,
                         (ull)off);
        }
        order_matters += sum_one_by_one(x, n) != sum;
        free(x);
        free(shifted);
    }
    assert_true(order_matters > seeds / 4); /* the control: bits tell orders apart */
}

static void extremes_do_not_overflow(void **state)
{
    float x[3] = {3e38f, -3e38f, 1e-30f}, bad[20] = {0};
    double three = (double)3e38f;

    (void)state;
    assert_true(optim_sum_squares(x, 3) == three * three * 2); /* far beyond fp32 */
    assert_true(optim_sum_squares(x + 2, 1) > 0);
    for (int i = 0; i < 20; i++) {
        bad[i] = NAN;
        assert_true(isnan(optim_sum_squares(bad, 20))); /* no gradient's NaN is lost */
        bad[i] = INFINITY;
        assert_true(isinf(optim_sum_squares(bad, 20)));
        bad[i] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_of_the_scalar_loop),
        cmocka_unit_test(close_to_double_precision),
        cmocka_unit_test(same_as_torch),
        cmocka_unit_test(cuts_do_not_matter),
        cmocka_unit_test(nothing_else_is_touched),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_cases),
        cmocka_unit_test(sum_of_squares),
        cmocka_unit_test(extremes_do_not_overflow),
    };

    return cmocka_run_group_tests_name("adamw", tests, NULL, NULL);
}
