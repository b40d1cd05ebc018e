/*
 * optim/update: every method in every form that this machine has, bit for bit against a scalar loop in which every
 * operation is rounded by itself, over any bits that floats can have (NaN as NaN); to within rounding against double
 * precision and, for those that torch has, its numbers; sums of squares by form; and the public calls.
 *
 * Negative controls: the scalar loop of another method, and the double loop with another rate, must differ.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload_update.h"
#include "liboffload/optim/update.h"
#include "tests/core_fixture.h"

typedef unsigned long long ull;

#define MOST 5003u

static const char *const method_names[OFL_METHODS] = {"adamw", "adam", "sgd", "lion"};

struct arrays {
    float p[MOST], m[MOST], v[MOST], g[MOST];
    uint16_t w16[MOST];
};

static struct arrays a, b;

/* ---- every operation rounded by itself --------------------------------- */

/* volatile: no compiler may contract or reorder. */
static void scalar_adaptive(const struct optim_coef *c, float grad, float *p, float *m, float *v)
{
    volatile float kept = c->beta1 * *m, added = c->rest1 * grad, mean = kept + added;
    volatile float kept2 = c->beta2 * *v, part = c->rest2 * grad, added2 = part * grad,
                   square = kept2 + added2;
    volatile float root = sqrtf(square), scaled = root * c->root, bottom = scaled + c->eps;
    volatile float top = c->rate * mean, change = top / bottom, decayed = *p * c->decay;

    *m = mean;
    *v = square;
    *p = decayed - change;
}

static void scalar_element(enum ofl_method method, const struct optim_coef *c, float grad, float *p, float *m,
                           float *v)
{
    volatile float pull = c->coupled * *p, with = grad + pull, one, two, sum, change, decayed;

    if (method == OFL_ADAMW || method == OFL_ADAM) {
        scalar_adaptive(c, method == OFL_ADAM ? with : grad, p, m, v);
        return;
    }
    if (method == OFL_SGD) {
        one = c->beta1 * *m;
        sum = one + with;
        *m = sum;
        change = c->rate * sum;
        *p = *p - change;
        return;
    }
    one = c->beta1 * *m;
    two = c->rest1 * grad;
    sum = one + two;
    change = c->rate * (sum > 0 ? 1.0f : sum < 0 ? -1.0f : sum); /* zeros keep their sign */
    decayed = *p * c->decay;
    one = c->beta2 * *m;
    two = c->rest2 * grad;
    *m = one + two;
    *p = decayed - change;
}

static void scalar_update(enum ofl_method method, const struct optim_coef *c, float scale, struct arrays *x,
                          uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        volatile float grad = x->g[i] * scale;
        uint32_t bits;

        scalar_element(method, c, grad, &x->p[i], &x->m[i], &x->v[i]);
        memcpy(&bits, &x->p[i], sizeof bits);
        x->w16[i] = optim_bf16(bits);
    }
}

/* ---- bits --------------------------------------------------------------- */

/* Any bits at all, subnormals, magnitudes near either end, and such as occur. */
static float any_float(struct random *r)
{
    uint64_t z = random_next(r), kind = random_below(r, 8);
    uint32_t bits = (uint32_t)z, sign = bits & 0x80000000u, fraction = bits & 0x7fffffu;
    float x;

    if (kind == 1)
        bits = sign | fraction;
    else if (kind == 2)
        bits = sign | (uint32_t)(250 + (z >> 32) % 5) << 23 | fraction;
    else if (kind == 3)
        bits = z >> 32 & 1 ? 0x7f800000u | sign : sign;
    else if (kind > 3)
        bits = sign | (uint32_t)(110 + (z >> 32) % 25) << 23 | fraction;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void fill(struct arrays *x, uint64_t n, uint64_t seed)
{
    struct random r = {seed};

    memset(x, 0, sizeof *x);
    for (uint64_t i = 0; i < n; i++) {
        x->p[i] = any_float(&r);
        x->m[i] = any_float(&r);
        x->v[i] = any_float(&r);
        x->g[i] = any_float(&r);
    }
}

static bool same(float x, float y)
{
    return memcmp(&x, &y, sizeof x) == 0 || (isnan(x) && isnan(y));
}

static uint64_t differing(const struct arrays *x, const struct arrays *y, uint64_t n)
{
    uint64_t wrong = 0;

    for (uint64_t i = 0; i < n; i++) {
        bool nan = (x->w16[i] & 0x7fffu) > 0x7f80u && (y->w16[i] & 0x7fffu) > 0x7f80u;

        wrong += !same(x->p[i], y->p[i]) || !same(x->m[i], y->m[i]) || !same(x->v[i], y->v[i]) ||
                 (x->w16[i] != y->w16[i] && !nan);
    }
    return wrong;
}

static struct ofl_update_settings settings_of(uint64_t seed)
{
    return seed % 3 == 1 ? (struct ofl_update_settings){.size = sizeof(struct ofl_update_settings),
                                                        .lr = 0.5,
                                                        .beta2 = 0.5,
                                                        .weight_decay = 0.3,
                                                        .step = 1}
                         : (struct ofl_update_settings){.size = sizeof(struct ofl_update_settings),
                                                        .lr = 1e-3,
                                                        .beta1 = 0.9,
                                                        .beta2 = 0.99,
                                                        .eps = 1e-8,
                                                        .weight_decay = 0.01,
                                                        .step = 1 + seed % 9};
}

/* Pieces that begin anywhere. */
static void run_in_pieces(const struct ofl_update_settings *s, struct ofl_update u, struct arrays *x,
                          uint64_t n, struct random *r)
{
    for (uint64_t i = 0, some; i < n; i += some) {
        some = 1 + random_below(r, random_below(r, 2) ? n : 50);
        if (some > n - i)
            some = n - i;
        u.elems = some;
        u.grad = x->g + i;
        u.weight = x->p + i;
        u.mean = x->m + i;
        u.square = optim_squares(u.method) ? x->v + i : NULL;
        u.bf16 = x->w16 + i;
        assert_int_equal(ofl_update_run(s, &u), 0);
    }
}

static void bits_of_the_scalar_loop(void **state)
{
    static const uint64_t sizes[] = {1, 7, 16, 33, 1023, 1025, MOST};
    unsigned rounds = fixture_rounds(6), forms = 0, others = 0;

    (void)state;
    for (int form = OFL_UPDATE_BEST; form < OFL_UPDATE_FORMS; form++) {
        if (ofl_update_find((enum ofl_update_form)form) < 0)
            continue;
        forms++;
        for (int m = 0; m < OFL_METHODS; m++)
            for (uint64_t k = 0; k < rounds * (sizeof sizes / sizeof sizes[0]); k++) {
                uint64_t n = sizes[k % (sizeof sizes / sizeof sizes[0])], wrong;
                struct ofl_update u = {.size = sizeof u,
                                       .method = (enum ofl_method)m,
                                       .form = (enum ofl_update_form)form,
                                       .grad_scale = k % 2 ? 1.0f : 0.37f};
                struct ofl_update_settings s = settings_of(k);
                struct optim_coef c = optim_coef_make(u.method, &s, 1);
                struct random r = {k + 1};

                fill(&a, n, k + 1);
                b = a;
                run_in_pieces(&s, u, &a, n, &r);
                scalar_update(u.method, &c, u.grad_scale, &b, n);
                wrong = differing(&a, &b, n);
                if (wrong)
                    fail_msg("%s, form %d, %llu elements, seed %llu: %llu differ", method_names[m], form,
                             (ull)n, (ull)k + 1, (ull)wrong);
                fill(&b, n, k + 1);
                scalar_update((enum ofl_method)((m + 1) % OFL_METHODS), &c, u.grad_scale, &b, n);
                others += n > 16 && differing(&a, &b, n) > 0;
            }
    }
    print_message("%u forms\n", forms);
    assert_true(forms >= 2 && others > forms * rounds * 8); /* best is one of them; the control */
}

static void sums_by_form(void **state)
{
    static const uint64_t sizes[] = {0, 1, 255, 256, 257, 4096, 4097, MOST};
    struct random r = {5};

    (void)state;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        double want, got;

        for (uint64_t i = 0; i < sizes[k]; i++)
            a.g[i] = ldexpf((float)(int32_t)random_next(&r), (int)random_below(&r, 40) - 50);
        assert_int_equal(ofl_update_sum_squares(OFL_UPDATE_PLAIN, a.g, sizes[k], &want), 0);
        assert_true(want == optim_sum_squares(a.g, sizes[k]) && (want > 0) == (sizes[k] > 0));
        for (int form = OFL_UPDATE_PLAIN + 1; form < OFL_UPDATE_FORMS; form++)
            if (ofl_update_find((enum ofl_update_form)form) == 0) {
                assert_int_equal(ofl_update_sum_squares((enum ofl_update_form)form, a.g, sizes[k], &got), 0);
                assert_true(got == want);
            }
    }
}

/* ---- double precision --------------------------------------------------- */

struct exact {
    double p, m, v;
};

static void exact_element(enum ofl_method method, const struct ofl_update_settings *s, double g,
                          struct exact *e)
{
    double t = (double)s->step, ahead = s->beta1 * e->m + (1 - s->beta1) * g;

    if (method == OFL_ADAM || method == OFL_SGD)
        g += s->weight_decay * e->p;
    else
        e->p -= s->lr * s->weight_decay * e->p;
    if (method == OFL_SGD) {
        e->m = s->beta1 * e->m + g;
        e->p -= s->lr * e->m;
    } else if (method == OFL_LION) {
        e->m = s->beta2 * e->m + (1 - s->beta2) * g;
        e->p -= s->lr * (ahead > 0 ? 1 : ahead < 0 ? -1 : 0);
    } else {
        e->m = s->beta1 * e->m + (1 - s->beta1) * g;
        e->v = s->beta2 * e->v + (1 - s->beta2) * g * g;
        e->p -= s->lr * (e->m / (1 - pow(s->beta1, t))) / (sqrt(e->v / (1 - pow(s->beta2, t))) + s->eps);
    }
}

/* The largest error of a weight after 20 steps from zero states, in units of what rounding explains. */
static double worst_error(enum ofl_method method, double factor)
{
    enum { N = 500, STEPS = 20 };
    static struct exact e[N];
    struct random r = {(uint64_t)method + 1};
    double worst = 0;

    memset(&a, 0, sizeof a);
    for (int i = 0; i < N; i++) {
        a.p[i] = (float)((double)random_below(&r, 4000) / 1000 - 2);
        e[i] = (struct exact){.p = (double)a.p[i]};
    }
    for (uint64_t t = 1; t <= STEPS; t++) {
        struct ofl_update_settings s = settings_of(0), wrong = s;
        struct optim_coef c;

        s.step = wrong.step = t;
        wrong.lr *= factor;
        c = optim_coef_make(method, &wrong, 1);
        for (int i = 0; i < N; i++) {
            a.g[i] = (float)random_below(&r, 4000) / 1000 - 2;
            exact_element(method, &s, 0.5 * (double)a.g[i], &e[i]);
        }
        optim_update(method, &c, 0.5f, (struct optim_arrays){a.p, a.m, a.v, a.g, NULL}, N);
    }
    for (int i = 0; i < N; i++)
        worst =
            fmax(worst, fabs((double)a.p[i] - e[i].p) / (3 * STEPS * ldexp(1, -24) * (fabs(e[i].p) + 0.02)));
    return worst;
}

static void close_to_double_precision(void **state)
{
    (void)state;
    for (int m = 0; m < OFL_METHODS; m++) {
        double worst = worst_error((enum ofl_method)m, 1);

        if (worst > 1)
            fail_msg("%s: %g times the error that rounding explains", method_names[m], worst);
        assert_true(worst_error((enum ofl_method)m, 1.01) > 10); /* the control */
    }
}

/* ---- torch -------------------------------------------------------------- */

#define GOLDEN_ELEMS 6
#define GOLDEN_STEPS 7

/* tools/golden_adamw.py --methods: weights after the last step. */
static const struct {
    enum ofl_method method;
    double lr, beta1, beta2, eps, decay;
    float p[GOLDEN_ELEMS];
} goldens[] = {
    {OFL_ADAM,
     0.001,
     0.9,
     0.999,
     1e-08,
     0.3,
     {-0x1.4e3922p+0f, 0x1.fc718cp-1f, -0x1.5ce06ap-1f, 0x1.9e7584p+0f, -0x1.dc431p-5f, -0x1.bf187ep+0f}},
    {OFL_ADAM,
     0.05,
     0.8,
     0.95,
     1e-06,
     0.01,
     {-0x1.210f1cp+0f, 0x1.cfc974p-1f, -0x1.8ef49cp-1f, 0x1.840a16p+0f, 0x1.edefccp-4f, -0x1.bb142ap+0f}},
    {OFL_SGD,
     0.01,
     0.9,
     0,
     0,
     0.1,
     {-0x1.47fb78p+0f, 0x1.f28b5ep-1f, -0x1.58f07ep-1f, 0x1.92926ap+0f, 0x1.45c24p-10f, -0x1.c0cfp+0f}},
    {OFL_SGD,
     0.1,
     0,
     0,
     0,
     0,
     {-0x1.519334p+0f, 0x1.fefffep-1f, -0x1.576668p-1f, 0x1.99999ap+0f, -0x1.e66662p-6f, -0x1.eb3334p+0f}},
};

/* The same formulas as in tools/golden_adamw.py. */
static void same_as_torch(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof goldens / sizeof goldens[0]; k++) {
        memset(&a, 0, sizeof a);
        for (int i = 0; i < GOLDEN_ELEMS; i++)
            a.p[i] = (float)((37 * i + 11) % 64 - 32) / 16.0f;
        for (int t = 1; t <= GOLDEN_STEPS; t++) {
            struct ofl_update_settings s = {.lr = goldens[k].lr,
                                            .beta1 = goldens[k].beta1,
                                            .beta2 = goldens[k].beta2,
                                            .eps = goldens[k].eps,
                                            .weight_decay = goldens[k].decay,
                                            .step = (uint64_t)t};
            struct optim_coef c = optim_coef_make(goldens[k].method, &s, 1);

            for (int i = 0; i < GOLDEN_ELEMS; i++)
                a.g[i] = ldexpf((float)((29 * i + 17 * t + 5) % 128 - 64) / 64.0f, i - 4);
            optim_update(goldens[k].method, &c, 1, (struct optim_arrays){a.p, a.m, a.v, a.g, NULL},
                         GOLDEN_ELEMS);
        }
        for (int i = 0; i < GOLDEN_ELEMS; i++)
            if (fabs((double)a.p[i] - (double)goldens[k].p[i]) >
                6e-7 * (fabs((double)a.p[i]) + goldens[k].lr))
                fail_msg("golden %zu, element %d: %a, torch %a", k, i, (double)a.p[i],
                         (double)goldens[k].p[i]);
    }
}

/* ---- refusals ------------------------------------------------------------ */

static void what_can_t_be_is_refused(void **state)
{
    struct ofl_update_settings s = settings_of(0), bad = s;
    struct ofl_update u = {
        .size = sizeof u, .elems = 8, .grad = a.g, .grad_scale = 1, .weight = a.p, .mean = a.m};
    double sum;

    (void)state;
    fill(&a, 8, 3);
    b = a;
    assert_int_equal(ofl_update_run(&s, &u), -EINVAL); /* AdamW without square */
    assert_non_null(strstr(ofl_error(), "square is NULL"));
    u.square = a.v;
    bad.step = 0;
    assert_int_equal(ofl_update_run(&bad, &u), -EINVAL);
    assert_non_null(strstr(ofl_error(), "steps count from 1"));
    u.method = OFL_METHODS;
    assert_int_equal(ofl_update_run(&s, &u), -EINVAL);
    u.method = OFL_LION;
    u.form = OFL_UPDATE_FORMS;
    assert_int_equal(ofl_update_run(&s, &u), -EINVAL);
    assert_int_equal(ofl_update_sum_squares(OFL_UPDATE_FORMS, a.g, 8, &sum), -EINVAL);
    assert_int_equal(differing(&a, &b, 8), 0);
    u.form = OFL_UPDATE_BEST;
    u.square = NULL;
    assert_int_equal(ofl_update_run(&s, &u), 0);
    assert_true(differing(&a, &b, 8) > 0);
    u = (struct ofl_update){.size = sizeof u};
    assert_int_equal(ofl_update_run(&s, &u), 0); /* no elements, no arrays */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_of_the_scalar_loop),   cmocka_unit_test(sums_by_form),
        cmocka_unit_test(close_to_double_precision), cmocka_unit_test(same_as_torch),
        cmocka_unit_test(what_can_t_be_is_refused),
    };

    return cmocka_run_group_tests_name("update methods", tests, NULL, NULL);
}
