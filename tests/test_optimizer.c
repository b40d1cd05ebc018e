/*
 * optim: training on the public API against a plain loop in memory, bit for bit: weights and
 * states of every size at the end, every norm asked for, and in every forward pass a checksum of
 * the weights as the kernels saw them. Over placements, clipping, dtypes, and with the host
 * running ahead of the device, for long enough that every buffer is reused many times.
 *
 * A gradient is a hash of the weight's bits, the element and the step, so a single stale or torn
 * bit anywhere changes all that follows. Negative controls: the same program with gradients of
 * the weights before the last update (read with ofl_tensor_read ahead of apply) must differ, and
 * so must a run that leaves out one gradient of one step.
 *
 * On the host device, and on the cuda device with the stub driver, where norms and updates in
 * device memory are kernels: cuda.sh.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/optim/update.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define STEPS   64u
#define WEIGHTS 13u

typedef unsigned long long ull;

/* Around the tile (16384 elements at the smallest host budget), and far beyond it. */
static const uint64_t sizes[WEIGHTS] = {1,     3,     257,   16384, 1023, 16385, 4099,
                                        20011, 70001, 16383, 32768, 50,   33000};

/* ---- what a step computes ---------------------------------------------- */

struct element_of {
    uint64_t weight, step, part; /* part: of the gradient, which is a sum of two for some weights */
    bool overflow;               /* now and then one of its numbers is none */
};

static float gradient(uint32_t bits, uint64_t i, struct element_of at)
{
    uint64_t z = ((uint64_t)bits << 32 ^ i) + (at.step * 64 + at.weight * 2 + at.part) * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((int32_t)(z >> 40) - (1 << 23)) / (float)(1 << 26);
}

static uint32_t bits_at(const void *weight, bool low, uint64_t i)
{
    uint32_t bits;
    uint16_t half;

    if (low) {
        memcpy(&half, (const uint16_t *)weight + i, sizeof half);
        return half;
    }
    memcpy(&bits, (const float *)weight + i, sizeof bits);
    return bits;
}

static void fill_gradient(float *g, const void *weight, bool low, uint64_t n, struct element_of at)
{
    for (uint64_t i = 0; i < n; i++)
        g[i] = gradient(bits_at(weight, low, i), i, at) + (at.part ? g[i] : 0.0f);
    if (at.overflow && at.weight == 8 && at.step % 5 == 2)
        g[n / 2] = at.step % 2 ? INFINITY : NAN;
}

static uint64_t checksum(const void *weight, bool low, uint64_t n)
{
    uint64_t sum = n;

    for (uint64_t i = 0; i < n; i++)
        sum = sum * 0x100000001b3u + bits_at(weight, low, i);
    return sum;
}

static bool in_two_parts(unsigned w)
{
    return w % 4 == 1;
}

/* Now and then a weight has no gradient in a step. */
static bool skipped(unsigned w, uint64_t step)
{
    return (w * 5 + step) % 17 == 0;
}

static struct ofl_update_settings settings_of(uint64_t step, double clip)
{
    return (struct ofl_update_settings){.size = sizeof(struct ofl_update_settings),
                                        .lr = 1e-3 * (double)(1 + step % 5),
                                        .beta1 = 0.9,
                                        .beta2 = 0.99,
                                        .eps = 1e-8,
                                        .weight_decay = 0.02,
                                        .clip = clip,
                                        .step = step};
}

/* Weights whose decay is not that of the settings. */
static double decay_of(unsigned w)
{
    return w % 3 == 1 ? 0 : w % 3 == 2 ? 2.5 : 1;
}

/* Weights with rates of their own; clip and step are the step's. */
static bool rates_of(unsigned w, struct ofl_update_settings *s)
{
    if (w % 4 != 2)
        return false;
    s->lr = 3e-3;
    s->beta1 = 0.5 + w / 100.0;
    s->beta2 = 0.95;
    s->eps = 1e-6;
    s->weight_decay = 0.3;
    return true;
}

/* ---- the plain loop ---------------------------------------------------- */

struct plain {
    enum ofl_method method;
    bool overflow; /* some steps are skipped */
    bool low;
    double clip;
    unsigned steps;
    float *p[WEIGHTS], *m[WEIGHTS], *v[WEIGHTS], *g[WEIGHTS];
    uint16_t *w16[WEIGHTS];
    uint64_t seen[STEPS + 1][WEIGHTS];
    double norm[STEPS + 1];
};

static void *zeros(uint64_t bytes)
{
    void *x = calloc(1, bytes);

    assert_non_null(x);
    return x;
}

static uint16_t bf16_of(float x)
{
    struct optim_coef still = {.decay = 1, .eps = 1, .root = 1};
    float p = x, m = 0, v = 0, g = 0;
    uint16_t w;

    optim_update(OFL_ADAMW, &still, 1.0f, (struct optim_arrays){&p, &m, &v, &g, &w}, 1);
    return w;
}

static void *plain_weight(const struct plain *a, unsigned w)
{
    return a->low ? (void *)a->w16[w] : (void *)a->p[w];
}

static struct plain *plain_make(bool low, double clip, unsigned steps)
{
    struct plain *a = zeros(sizeof *a);

    a->low = low;
    a->clip = clip;
    a->steps = steps;
    for (unsigned w = 0; w < WEIGHTS; w++) {
        struct random r = {w + 1};

        a->p[w] = zeros(4 * sizes[w]);
        a->m[w] = zeros(4 * sizes[w]);
        a->v[w] = zeros(4 * sizes[w]);
        a->g[w] = zeros(4 * sizes[w]);
        a->w16[w] = zeros(2 * sizes[w]);
        for (uint64_t i = 0; i < sizes[w]; i++) {
            a->p[w][i] = (float)((int64_t)random_below(&r, 1 << 24) - (1 << 23)) / (float)(1 << 23);
            a->w16[w][i] = bf16_of(a->p[w][i]);
        }
    }
    return a;
}

static void plain_free(struct plain *a)
{
    for (unsigned w = 0; w < WEIGHTS; w++) {
        free(a->p[w]);
        free(a->m[w]);
        free(a->v[w]);
        free(a->g[w]);
        free(a->w16[w]);
    }
    free(a);
}

static void plain_step(struct plain *a, uint64_t t)
{
    struct ofl_update_settings s = settings_of(t, a->clip);
    double sum = 0, scale = 1;

    for (unsigned w = 0; w < WEIGHTS; w++) {
        a->seen[t][w] = checksum(plain_weight(a, w), a->low, sizes[w]);
        if (skipped(w, t))
            continue;
        for (unsigned part = 0; part <= in_two_parts(w); part++)
            fill_gradient(a->g[w], plain_weight(a, w), a->low, sizes[w],
                          (struct element_of){w, t, part, a->overflow});
        sum += optim_sum_squares(a->g[w], sizes[w]);
    }
    a->norm[t] = sqrt(sum);
    if (a->clip > 0)
        scale = fmin(1.0, a->clip / (a->norm[t] + 1e-6));
    for (unsigned w = 0; w < WEIGHTS; w++) {
        struct ofl_update_settings own = s;
        struct optim_coef c;

        if (skipped(w, t))
            continue;
        rates_of(w, &own);
        own.weight_decay *= decay_of(w);
        if (a->overflow && !isfinite(a->norm[t]))
            continue;
        c = optim_coef_make(a->method, &own, 1);
        optim_update(a->method, &c, (float)scale,
                     (struct optim_arrays){a->p[w], a->m[w], optim_squares(a->method) ? a->v[w] : NULL,
                                           a->g[w], a->low ? a->w16[w] : NULL},
                     sizes[w]);
    }
}

/* ---- the same on the library ------------------------------------------- */

struct trainer {
    const char *name;
    const struct plain *plain; /* initial weights, from a second one that never trained */
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weights[WEIGHTS], *grads[WEIGHTS];
    void *stale[WEIGHTS]; /* the control's: weights before the last update */
    uint64_t seen[STEPS + 1][WEIGHTS];
    unsigned norm_every; /* 0: at the end only */
    uint64_t left_out;   /* the control's: in this step one gradient is not applied */
    bool spoilt;         /* the control's: steps are not skipped */
};

static void ok(const struct trainer *t, int err, const char *what)
{
    if (err < 0)
        fail_msg("%s: %s: %d: %s", t->name, what, err, ofl_error());
}

/* A kernel touches one range of device memory: backward takes two, the first of which copies the weight. */
struct job {
    void *weight, *copy;
    float *grad;
    uint64_t *seen; /* forward */
    bool low, update;
    uint64_t elems;
    struct element_of at;
};

static void job_run(void *arg)
{
    struct job *j = arg;

    if (j->seen) {
        *j->seen = checksum(fixture_view(j->weight), j->low, j->elems);
    } else if (j->grad) {
        fill_gradient(fixture_view(j->grad), j->copy, j->low, j->elems, j->at);
        free(j->copy);
    } else {
        memcpy(j->copy, fixture_view(j->weight), j->elems * (j->low ? 2 : 4));
    }
    free(j);
}

static void launch(struct trainer *t, struct job job)
{
    struct job *j = malloc(sizeof *j);
    struct fixture_range range = {.at = job.grad ? (void *)job.grad : job.weight,
                                  .bytes = job.elems * (job.grad || !job.low ? 4 : 2),
                                  .writes = job.grad != NULL};

    assert_non_null(j);
    *j = job;
    ok(t, fixture_kernel(t->stream, job_run, j, range), "launch");
}

/* The weight as it is when the stream comes to it, or the control's stale one. */
static void *copy_weight(struct trainer *t, unsigned w, void *weight)
{
    uint64_t bytes = sizes[w] * (t->plain->low ? 2 : 4);
    void *copy = malloc(bytes);

    assert_non_null(copy);
    if (t->stale[w])
        memcpy(copy, t->stale[w], bytes);
    else
        launch(t, (struct job){.weight = weight, .copy = copy, .low = t->plain->low, .elems = sizes[w]});
    return copy;
}

static void forward(struct trainer *t, unsigned w, uint64_t step)
{
    struct ofl_lease l = {.tensor = t->weights[w], .mode = OFL_READ};

    ok(t, ofl_acquire(t->ctx, &l, 1, t->stream), "acquire weight");
    launch(t,
           (struct job){.weight = l.ptr, .seen = &t->seen[step][w], .low = t->plain->low, .elems = sizes[w]});
    ok(t, ofl_release(t->ctx, &l, 1, t->stream), "release weight");
}

static void backward(struct trainer *t, unsigned w, uint64_t step)
{
    for (unsigned part = 0; part <= in_two_parts(w); part++) {
        struct ofl_lease l[2] = {{.tensor = t->weights[w], .mode = OFL_READ},
                                 {.tensor = t->grads[w], .mode = part ? OFL_UPDATE : OFL_OVERWRITE}};

        ok(t, ofl_acquire(t->ctx, l, 2, t->stream), "acquire weight and gradient");
        launch(t, (struct job){.copy = copy_weight(t, w, l[0].ptr),
                               .grad = l[1].ptr,
                               .low = t->plain->low,
                               .elems = sizes[w],
                               .at = {w, step, part, t->plain->overflow}});
        ok(t, ofl_release(t->ctx, l, 2, t->stream), "release weight and gradient");
    }
}

static void check_norm(struct trainer *t, uint64_t step)
{
    double norm;

    ok(t, ofl_optimizer_norm(t->optimizer, &norm), "norm");
    if (isnan(norm) && isnan(t->plain->norm[step]))
        return;
    if (norm != t->plain->norm[step] && !t->stale[0] && !t->left_out && !t->spoilt)
        fail_msg("%s: step %llu: norm %.17g, expected %.17g", t->name, (ull)step, norm, t->plain->norm[step]);
}

static uint64_t weight_bytes(const struct trainer *t, unsigned w)
{
    return sizes[w] * (t->plain->low ? 2 : 4);
}

static void train_step(struct trainer *t, uint64_t step)
{
    struct ofl_update_settings s = settings_of(step, t->plain->clip);

    s.skip_overflow = t->plain->overflow && !t->spoilt;
    ok(t, ofl_step_begin(t->ctx, "train"), "step begin");
    for (unsigned w = 0; w < WEIGHTS; w++)
        forward(t, w, step);
    ok(t, ofl_optimizer_begin(t->optimizer, &s), "optimizer begin");
    for (unsigned w = WEIGHTS; w-- > 0;) {
        if (skipped(w, step))
            continue;
        backward(t, w, step);
        if (t->stale[w]) { /* the next step's gradient will be of these bytes */
            ok(t, ofl_stream_sync(t->stream), "sync");
            ok(t, ofl_tensor_read(t->weights[w], 0, t->stale[w], weight_bytes(t, w)), "read");
        }
        if (step != t->left_out || w != 8)
            ok(t, ofl_optimizer_apply(t->optimizer, t->weights[w]), "apply");
    }
    ok(t, ofl_optimizer_end(t->optimizer), "optimizer end");
    ok(t, ofl_step_end(t->ctx), "step end");
    if (t->norm_every && step % t->norm_every == 0)
        check_norm(t, step);
}

static void open_trainer(struct trainer *t, const struct ofl_config *config)
{
    struct plain *start = plain_make(t->plain->low, 0, 0);
    struct ofl_update_settings rates = settings_of(1, 0);

    ok(t, ofl_open(config, &t->ctx), "open");
    ok(t, ofl_stream_create(t->ctx, &t->stream), "create stream");
    ok(t, ofl_optimizer_create(t->ctx, &t->optimizer), "create optimizer");
    if (t->plain->method != OFL_ADAMW)
        ok(t, ofl_optimizer_method(t->optimizer, t->plain->method), "set method");
    for (unsigned w = 0; w < WEIGHTS; w++) {
        char name[32];
        struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .elems = sizes[w]};
        struct ofl_tensor *master;

        snprintf(name, sizeof name, "w%u", w);
        d.kind = OFL_KIND_WEIGHT;
        d.dtype = t->plain->low ? OFL_BF16 : OFL_F32;
        ok(t, ofl_tensor_create(t->ctx, &d, &t->weights[w]), "create weight");
        snprintf(name, sizeof name, "w%u.grad", w);
        d.kind = OFL_KIND_GRADIENT;
        d.dtype = OFL_F32;
        ok(t, ofl_tensor_create(t->ctx, &d, &t->grads[w]), "create gradient");
        ok(t, ofl_optimizer_bind(t->optimizer, t->weights[w], t->grads[w]), "bind");
        if (rates_of(w, &rates))
            ok(t, ofl_optimizer_rates(t->optimizer, t->weights[w], &rates), "rates");
        if (decay_of(w) != 1)
            ok(t, ofl_optimizer_decay(t->optimizer, t->weights[w], decay_of(w)), "decay");
        ok(t, ofl_tensor_write(t->weights[w], 0, plain_weight(start, w), weight_bytes(t, w)), "write weight");
        ok(t, ofl_optimizer_state(t->optimizer, t->weights[w], OFL_STATE_MASTER, &master), "master");
        if (t->plain->low)
            ok(t, ofl_tensor_write(master, 0, start->p[w], 4 * sizes[w]), "write master");
    }
    plain_free(start);
}

/* Tensors of weight w that are not what the plain loop has. */
static unsigned differing(struct trainer *t, unsigned w)
{
    static const enum ofl_state which[] = {OFL_STATE_MASTER, OFL_STATE_EXP_AVG, OFL_STATE_EXP_AVG_SQ};
    const float *want[] = {t->plain->p[w], t->plain->m[w], t->plain->v[w]};
    void *got = zeros(4 * sizes[w]);
    unsigned wrong = 0;

    ok(t, ofl_tensor_read(t->weights[w], 0, got, weight_bytes(t, w)), "read weight");
    wrong += memcmp(got, plain_weight(t->plain, w), weight_bytes(t, w)) != 0;
    for (int k = 0; k < 3; k++) {
        struct ofl_tensor *state;

        if (which[k] == OFL_STATE_EXP_AVG_SQ && !optim_squares(t->plain->method)) {
            assert_int_equal(ofl_optimizer_state(t->optimizer, t->weights[w], which[k], &state), -ENOENT);
            continue;
        }
        ok(t, ofl_optimizer_state(t->optimizer, t->weights[w], which[k], &state), "state");
        ok(t, ofl_tensor_read(state, 0, got, 4 * sizes[w]), "read state");
        wrong += memcmp(got, want[k], 4 * sizes[w]) != 0;
    }
    free(got);
    return wrong;
}

static void check_budgets(struct trainer *t)
{
    struct ofl_stats s = {.size = sizeof s};
    uint64_t updates = 0;

    ok(t, ofl_stats_get(t->ctx, &s), "stats");
    for (int i = 0; i < OFL_TIERS; i++)
        if (s.peak_bytes[i] > s.budget_bytes[i])
            fail_msg("%s: tier %d peaked at %llu of %llu bytes", t->name, i, (ull)s.peak_bytes[i],
                     (ull)s.budget_bytes[i]);
    for (uint64_t step = 1; step <= t->plain->steps; step++)
        for (unsigned w = 0; w < WEIGHTS; w++)
            updates += !skipped(w, step);
    if (s.updates != updates && !t->left_out)
        fail_msg("%s: %llu updates counted, %llu made", t->name, (ull)s.updates, (ull)updates);
}

/* Returns how many tensors and forward checksums differ from the plain loop's. */
static unsigned run_trainer(struct trainer *t, const struct ofl_config *config)
{
    unsigned wrong = 0;

    open_trainer(t, config);
    for (uint64_t step = 1; step <= t->plain->steps; step++)
        train_step(t, step);
    check_norm(t, t->plain->steps);
    ok(t, ofl_stream_sync(t->stream), "sync");
    for (unsigned w = 0; w < WEIGHTS; w++) {
        wrong += differing(t, w);
        for (uint64_t step = 1; step <= t->plain->steps; step++)
            wrong += t->seen[step][w] != t->plain->seen[step][w];
    }
    check_budgets(t);
    ok(t, fixture_ctx_close(t->ctx), "close");
    return wrong;
}

/* ---- the cases --------------------------------------------------------- */

static const struct {
    const char *name;
    uint64_t device, host, nvme, test_seed;
    uint32_t flags;
    uint64_t expected, tile; /* all tensors take 3.6 MB, with bf16 4.1 MB */
} places[] = {
    {"device is home", 8 * MIB, 2 * MIB, 0, 0, 0, 0, 0},
    {"host is home, small device", 600 * KIB, 16 * MIB, 0, 0, OFL_POISON, 0, 0},
    {"nvme, smallest host, small device", 600 * KIB, 2 * MIB, 32 * MIB, 0, OFL_POISON, 0, 0},
    {"nvme, smallest host, short transfers", 600 * KIB, 2 * MIB, 32 * MIB, 5, 0, 0, 0},
    {"nvme, roomy host", 4 * MIB, 24 * MIB, 32 * MIB, 0, 0, 0, 0},
    {"half at home in host, small device", 600 * KIB, 5 * MIB, 3 * MIB / 2, 0, OFL_POISON, 4200000, 0},
    {"most at home in host, short transfers", 600 * KIB, 6 * MIB, 512 * KIB, 3, 0, 4200000, 0},
    {"host filled behind nvme", 600 * KIB, 9 * MIB / 2, 2 * MIB, 0, OFL_POISON, 0, 64 * KIB},
};
#define PLACES (sizeof places / sizeof places[0])

/* Norms are small: a clip of 0.5 always binds, one of 100 never. */
static const double clips[] = {0, 0.5, 100};

static struct ofl_config config_of(size_t i, const char *dir)
{
    return (struct ofl_config){.size = sizeof(struct ofl_config),
                               .device = fixture_device(),
                               .device_bytes = places[i].device,
                               .host_bytes = places[i].host,
                               .nvme = fixture_nvme(dir, places[i].nvme),
                               .nvme_count = places[i].nvme > 0,
                               .flags = places[i].flags,
                               .test_seed = places[i].test_seed,
                               .tile_bytes = places[i].tile,
                               .expected_bytes = places[i].expected,
                               .leased_bytes = places[i].nvme ? places[i].device : 0,
                               .log = fixture_log};
}

static struct plain *plain_run_of(enum ofl_method method, bool low, double clip, unsigned steps)
{
    struct plain *a = plain_make(low, clip, steps);

    a->method = method;
    for (uint64_t t = 1; t <= a->steps; t++)
        plain_step(a, t);
    return a;
}

/* Steps with a gradient that is no number leave everything as it was, with clipping and without. */
static struct plain *plain_run_overflow(enum ofl_method method, bool low, double clip)
{
    struct plain *a = plain_make(low, clip, fixture_rounds(24));

    a->method = method;
    a->overflow = true;
    for (uint64_t t = 1; t <= a->steps; t++)
        plain_step(a, t);
    return a;
}

static struct plain *plain_run(bool low, double clip)
{
    return plain_run_of(OFL_ADAMW, low, clip, fixture_rounds(STEPS));
}

static void run_case(const struct plain *plain, size_t place, unsigned norm_every, const char *dir)
{
    struct ofl_config config = config_of(place, dir);
    struct trainer *t = zeros(sizeof *t);
    char name[160];
    unsigned wrong;

    snprintf(name, sizeof name, "method %d, %s, %s, clip %g, norm %s", (int)plain->method, places[place].name,
             plain->low ? "bf16" : "f32", plain->clip, norm_every ? "now and then" : "at the end");
    print_message("  %s\n", name);
    *t = (struct trainer){.name = name, .plain = plain, .norm_every = norm_every};
    wrong = run_trainer(t, &config);
    if (wrong)
        fail_msg("%s: %u tensors or checksums differ from the plain loop's", name, wrong);
    free(t);
}

static void run_cases(bool low, const char *dir)
{
    for (size_t k = 0; k < sizeof clips / sizeof clips[0]; k++) {
        struct plain *plain = plain_run(low, clips[k]);

        for (size_t i = 0; i < PLACES; i++) {
            if (fixture_rounds(4) < 4 && (k == 2 || i == 4 || (low && i != 2)))
                continue; /* sanitizers are slow */
            if (k == 1 || i == 2)
                run_case(plain, i, 5, dir);
            if (k < 2 || i % 2 == 0)
                run_case(plain, i, 0, dir);
        }
        plain_free(plain);
    }
}

static void same_bits_as_the_plain_loop_f32(void **state)
{
    fixture_needs_kernels();
    run_cases(false, *state);
}

static void same_bits_as_the_plain_loop_bf16(void **state)
{
    fixture_needs_kernels();
    run_cases(true, *state);
}

/* Every place once for each method, weights and clipping in turns; the methods differ. */
static void same_bits_by_other_methods(void **state)
{
    enum { FEW = 40 };
    struct plain *adamw = plain_run_of(OFL_ADAMW, false, 0, fixture_rounds(FEW));

    fixture_needs_kernels();
    for (int m = OFL_ADAM; m < OFL_METHODS; m++)
        for (size_t i = 0; i < PLACES; i++) {
            struct plain *plain =
                plain_run_of((enum ofl_method)m, ((size_t)m + i) % 2, clips[i / 2 % 2], fixture_rounds(FEW));

            run_case(plain, i, 0, *state);
            assert_true(memcmp(plain->p[8], adamw->p[8], 4 * sizes[8]) != 0);
            plain_free(plain);
        }
    plain_free(adamw);
}

static void overflow_skips_the_step(void **state)
{
    fixture_needs_kernels();
    for (size_t i = 0; i < PLACES; i++) {
        struct plain *plain =
            plain_run_overflow((enum ofl_method)(i % OFL_METHODS), i % 3 != 0, clips[i / 2 % 2]);
        struct ofl_config config = config_of(i, *state);
        struct trainer *t = zeros(sizeof *t);
        unsigned none = 0;

        for (uint64_t k = 1; k <= plain->steps; k++)
            none += !isfinite(plain->norm[k]);
        assert_true(none >= plain->steps / 6 && isfinite((double)plain->p[8][sizes[8] / 2]));
        run_case(plain, i, i % 2 ? 1 : 0, *state);
        *t = (struct trainer){.name = "spoilt", .plain = plain, .spoilt = true}; /* the control */
        assert_true(run_trainer(t, &config) > 2);
        free(t);
        plain_free(plain);
    }
}

/* ---- controls ---------------------------------------------------------- */

static void clip_binds_where_it_should(void **state)
{
    struct plain *tight = plain_run(false, clips[1]), *wide = plain_run(false, clips[2]),
                 *off = plain_run(false, 0);

    (void)state;
    for (uint64_t t = 1; t <= tight->steps; t++)
        assert_true(tight->norm[t] > clips[1] && wide->norm[t] < clips[2]);
    assert_true(memcmp(tight->p[8], off->p[8], 4 * sizes[8]) != 0);
    assert_memory_equal(wide->p[8], off->p[8], 4 * sizes[8]);
    plain_free(tight);
    plain_free(wide);
    plain_free(off);
}

static void stale_weights_are_seen(void **state)
{
    struct plain *plain = plain_run(false, 0), *start = plain_make(false, 0, 0);

    fixture_needs_kernels();
    plain->steps = 4;
    for (size_t i = 0; i < PLACES; i++) {
        struct ofl_config config = config_of(i, *state);
        struct trainer *t = zeros(sizeof *t);

        *t = (struct trainer){.name = "stale", .plain = plain};
        for (unsigned w = 0; w < WEIGHTS; w++) {
            t->stale[w] = zeros(4 * sizes[w]);
            memcpy(t->stale[w], start->p[w], 4 * sizes[w]);
        }
        assert_true(run_trainer(t, &config) > WEIGHTS);
        for (unsigned w = 0; w < WEIGHTS; w++)
            free(t->stale[w]);
        free(t);
    }
    plain_free(plain);
    plain_free(start);
}

static void a_missing_update_is_seen(void **state)
{
    struct plain *plain = plain_make(true, 0, 0);
    struct ofl_config config = config_of(2, *state);
    struct trainer *t = zeros(sizeof *t);

    fixture_needs_kernels();
    plain->steps = 3;
    for (uint64_t k = 1; k <= 3; k++)
        plain_step(plain, k);
    *t = (struct trainer){.name = "left out", .plain = plain, .left_out = 3};
    assert_int_equal(run_trainer(t, &config), 4); /* weight, master and both moments of w8, nothing else */
    free(t);
    plain_free(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clip_binds_where_it_should),       cmocka_unit_test(stale_weights_are_seen),
        cmocka_unit_test(a_missing_update_is_seen),         cmocka_unit_test(same_bits_as_the_plain_loop_f32),
        cmocka_unit_test(same_bits_as_the_plain_loop_bf16), cmocka_unit_test(same_bits_by_other_methods),
        cmocka_unit_test(overflow_skips_the_step),
    };

    return cmocka_run_group_tests_name("optimizer", tests, scratch_setup, scratch_teardown);
}
