/*
 * optim: the calls of the optimizer: what is refused, with which words, and that a refusal costs
 * nothing. test_optimizer.c has the training itself.
 * On both devices, as there.
 *
 * Negative control of the step that is disturbed by a lease: the weights it is compared with have
 * moved, so an update that was lost or made twice shows.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/optim/update.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

static const struct {
    uint64_t device, host, nvme;
} places[] = {{MIB, 2 * MIB, 0}, {64 * KIB, 4 * MIB, 0}, {64 * KIB, 2 * MIB, 4 * MIB}};
#define PLACES (sizeof places / sizeof places[0])

static struct ofl_update_settings settings_of(uint64_t step, double clip)
{
    return (struct ofl_update_settings){.size = sizeof(struct ofl_update_settings),
                                        .lr = 1e-2,
                                        .beta1 = 0.9,
                                        .beta2 = 0.99,
                                        .eps = 1e-8,
                                        .weight_decay = 0.02,
                                        .clip = clip,
                                        .step = step};
}

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(ofl_error(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, ofl_error(), code, part);
}

/* As the tiers count them: what binding takes of the store. */
static void bytes_of_states(void **state)
{
    static const struct {
        enum ofl_dtype dtype;
        uint64_t elems, bytes;
    } cases[] = {{OFL_F32, 1, 2 * 4096},
                 {OFL_BF16, 1, 3 * 4096},
                 {OFL_F32, 1024, 2 * 4096},
                 {OFL_F32, 1025, 2 * 8192},
                 {OFL_BF16, 100000, 3 * 401408},
                 {OFL_F16, 10, 0},
                 {OFL_F32, UINT64_MAX, 0},
                 {OFL_F32, (uint64_t)INT64_MAX / 8, 0},
                 {OFL_F32, 0, 0},
                 {OFL_DTYPES, 10, 0}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ofl_config config = {.size = sizeof config,
                                    .device_bytes = MIB,
                                    .host_bytes = 2 * MIB,
                                    .nvme = fixture_nvme(*state, 16 * MIB),
                                    .nvme_count = 1};
        struct ofl_tensor_desc d = {
            .size = sizeof d, .name = "t", .dtype = cases[i].dtype, .elems = cases[i].elems};
        struct ofl_stats before = {.size = sizeof before}, after = before;
        struct ofl_tensor *weight, *grad;
        struct ofl_optimizer *o;
        struct ofl_ctx *ctx;

        assert_int_equal(ofl_optimizer_bytes(OFL_ADAMW, cases[i].dtype, cases[i].elems), cases[i].bytes);
        if (!cases[i].bytes)
            continue;
        assert_int_equal(ofl_open(&config, &ctx), 0);
        assert_int_equal(ofl_tensor_create(ctx, &d, &weight), 0);
        d.dtype = OFL_F32;
        assert_int_equal(ofl_tensor_create(ctx, &d, &grad), 0);
        assert_int_equal(ofl_optimizer_create(ctx, &o), 0);
        assert_int_equal(ofl_stats_get(ctx, &before), 0);
        assert_int_equal(ofl_optimizer_bind(o, weight, grad), 0);
        assert_int_equal(ofl_stats_get(ctx, &after), 0);
        assert_int_equal(after.used_bytes[OFL_NVME] - before.used_bytes[OFL_NVME], cases[i].bytes);
        assert_int_equal(ofl_close(ctx), 0);
    }
}

/* One or two moments, and the master. */
static void bytes_of_methods(void **state)
{
    (void)state;
    for (int m = 0; m < OFL_METHODS; m++) {
        uint64_t moments = m == OFL_ADAMW || m == OFL_ADAM ? 2 : 1;

        assert_int_equal(ofl_optimizer_bytes((enum ofl_method)m, OFL_F32, 1024), moments * 4096);
        assert_int_equal(ofl_optimizer_bytes((enum ofl_method)m, OFL_BF16, 1025), (moments + 1) * 8192);
    }
    assert_int_equal(ofl_optimizer_bytes(OFL_METHODS, OFL_F32, 1024), 0);
}

struct small {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weight[2], *grad[2];
};

static struct ofl_tensor *make(struct ofl_ctx *ctx, const char *name, enum ofl_dtype dtype, uint64_t elems,
                               uint32_t flags)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .name = name, .dtype = dtype, .elems = elems, .flags = flags};
    struct ofl_tensor *t;

    assert_int_equal(ofl_tensor_create(ctx, &d, &t), 0);
    return t;
}

static struct small small_open(size_t place, const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = places[place].device,
                                .host_bytes = places[place].host,
                                .nvme = fixture_nvme(dir, places[place].nvme),
                                .nvme_count = places[place].nvme > 0,
                                .log = fixture_log};
    struct small s;

    fixture_needs_kernels();
    assert_int_equal(ofl_open(&config, &s.ctx), 0);
    assert_int_equal(ofl_stream_create(s.ctx, &s.stream), 0);
    assert_int_equal(ofl_optimizer_create(s.ctx, &s.optimizer), 0);
    for (int i = 0; i < 2; i++) {
        s.weight[i] = make(s.ctx, i ? "w1" : "w0", OFL_F32, 1000, 0);
        s.grad[i] = make(s.ctx, i ? "g1" : "g0", OFL_F32, 1000, 0);
        assert_int_equal(ofl_optimizer_bind(s.optimizer, s.weight[i], s.grad[i]), 0);
    }
    return s;
}

static void write_grads(struct small *s, float value)
{
    float g[1000];

    for (int i = 0; i < 1000; i++)
        g[i] = value;
    for (int i = 0; i < 2; i++)
        assert_int_equal(ofl_tensor_write(s->grad[i], 0, g, sizeof g), 0);
}

static int no_change(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg)
{
    (void)buf, (void)bytes, (void)dtype, (void)arg;
    return 0;
}

static void bad_bindings(void **state)
{
    for (size_t i = 0; i < PLACES; i++) {
        struct small s = small_open(i, *state);
        struct ofl_tensor *w = make(s.ctx, "w", OFL_F32, 10, 0), *half = make(s.ctx, "half", OFL_F16, 10, 0);
        struct ofl_tensor *g = make(s.ctx, "g", OFL_F32, 10, 0),
                          *long_g = make(s.ctx, "long", OFL_F32, 11, 0);
        struct ofl_tensor *low_g = make(s.ctx, "low", OFL_BF16, 10, 0);
        struct ofl_tensor *brief = make(s.ctx, "brief", OFL_F32, 10, OFL_TENSOR_TRANSIENT), *out = w;
        struct ofl_update_settings a = settings_of(1, 0), rates = a;

        expect_error(ofl_optimizer_bind(s.optimizer, half, g), -EINVAL,
                     "bind half: weight f16 of 10 elements");
        expect_error(ofl_optimizer_bind(s.optimizer, w, low_g), -EINVAL, "gradient bf16 of 10");
        expect_error(ofl_optimizer_bind(s.optimizer, w, long_g), -EINVAL, "gradient f32 of 11");
        expect_error(ofl_optimizer_bind(s.optimizer, w, brief), -EROFS, "transient");
        expect_error(ofl_optimizer_bind(s.optimizer, s.weight[0], s.grad[0]), -EEXIST,
                     "bind w0: it is bound already");
        expect_error(ofl_optimizer_state(s.optimizer, w, OFL_STATE_EXP_AVG, &out), -ENOENT, "not bound");
        expect_error(ofl_optimizer_decay(s.optimizer, w, 0), -ENOENT, "not bound");
        expect_error(ofl_optimizer_decay(s.optimizer, s.weight[0], -1), -EINVAL,
                     "weight decay of w0: factor -1");
        expect_error(ofl_optimizer_decay(s.optimizer, s.weight[0], NAN), -EINVAL, "not a finite number");
        assert_int_equal(ofl_optimizer_decay(s.optimizer, s.weight[0], 0), 0);
        expect_error(ofl_optimizer_rates(s.optimizer, w, &a), -ENOENT, "not bound");
        rates.beta1 = 1;
        expect_error(ofl_optimizer_rates(s.optimizer, s.weight[0], &rates), -EINVAL, "beta1 1,");
        assert_int_equal(ofl_optimizer_rates(s.optimizer, s.weight[0], NULL), 0);
        if (!fixture_on_cuda())
            assert_int_equal(ofl_optimizer_reduce(s.optimizer, no_change, NULL), 0);
        else
            expect_error(ofl_optimizer_reduce(s.optimizer, no_change, NULL), -ENOTSUP, "use device host");
        assert_int_equal(ofl_optimizer_reduce(s.optimizer, NULL, NULL), 0);
        assert_null(out);
        assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0);
        expect_error(ofl_optimizer_bind(s.optimizer, w, g), -OFL_ESTATE, "an optimizer step is open");
        expect_error(ofl_optimizer_decay(s.optimizer, s.weight[0], 1), -OFL_ESTATE,
                     "an optimizer step is open");
        expect_error(ofl_optimizer_rates(s.optimizer, s.weight[0], NULL), -OFL_ESTATE,
                     "an optimizer step is open");
        assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
        expect_error(ofl_tensor_destroy(s.weight[0]), -OFL_ESTATE, "destroy w0: an optimizer is bound to it");
        expect_error(ofl_tensor_destroy(s.grad[1]), -OFL_ESTATE, "destroy g1");
        assert_int_equal(ofl_optimizer_state(s.optimizer, s.weight[0], OFL_STATE_MASTER, &out), 0);
        assert_ptr_equal(out, s.weight[0]); /* an F32 weight is its own master */
        assert_int_equal(ofl_optimizer_bind(s.optimizer, w, g), 0);
        expect_error(ofl_optimizer_method(s.optimizer, OFL_LION), -OFL_ESTATE, "weights are bound already");
        assert_int_equal(ofl_optimizer_destroy(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_create(s.ctx, &s.optimizer), 0);
        expect_error(ofl_optimizer_method(s.optimizer, OFL_METHODS), -EINVAL, "there are 4");
        assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0);
        expect_error(ofl_optimizer_method(s.optimizer, OFL_SGD), -OFL_ESTATE, "an optimizer step is open");
        assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_method(s.optimizer, OFL_SGD), 0);
        assert_int_equal(ofl_optimizer_bind(s.optimizer, w, g), 0);
        expect_error(ofl_optimizer_state(s.optimizer, w, OFL_STATE_EXP_AVG_SQ, &out), -ENOENT,
                     "optimizer state of w: the method has no second moment");
        assert_int_equal(ofl_optimizer_state(s.optimizer, w, OFL_STATE_EXP_AVG, &out), 0);
        assert_int_equal(ofl_optimizer_destroy(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_destroy(NULL), 0);
        assert_int_equal(ofl_tensor_destroy(s.weight[0]), 0);
        assert_int_equal(ofl_tensor_destroy(s.grad[1]), 0);
        assert_int_equal(ofl_tensor_destroy(w), 0);
        assert_int_equal(fixture_ctx_close(s.ctx), 0);
    }
}

static const struct {
    const char *what;
    struct ofl_update_settings a;
    int code;
} bad_settings[] = {
    {"size 0", {.size = 0, .lr = 1, .step = 1}, -EINVAL},
    {"a larger size", {.size = sizeof(struct ofl_update_settings) + 8, .lr = 1, .step = 1}, -E2BIG},
    {"step 0", {.size = sizeof(struct ofl_update_settings), .lr = 1}, -EINVAL},
    {"beta1 of 1", {.size = sizeof(struct ofl_update_settings), .lr = 1, .beta1 = 1, .step = 1}, -EINVAL},
    {"beta1 below 0",
     {.size = sizeof(struct ofl_update_settings), .lr = 1, .beta1 = -0.1, .step = 1},
     -EINVAL},
    {"beta2 of 1", {.size = sizeof(struct ofl_update_settings), .lr = 1, .beta2 = 1, .step = 1}, -EINVAL},
    {"beta2 not a number",
     {.size = sizeof(struct ofl_update_settings), .lr = 1, .beta2 = NAN, .step = 1},
     -EINVAL},
    {"eps below 0", {.size = sizeof(struct ofl_update_settings), .lr = 1, .eps = -1e-8, .step = 1}, -EINVAL},
    {"clip below 0", {.size = sizeof(struct ofl_update_settings), .lr = 1, .clip = -1, .step = 1}, -EINVAL},
    {"clip not a number",
     {.size = sizeof(struct ofl_update_settings), .lr = 1, .clip = NAN, .step = 1},
     -EINVAL},
    {"lr not a number", {.size = sizeof(struct ofl_update_settings), .lr = NAN, .step = 1}, -EINVAL},
    {"lr without end", {.size = sizeof(struct ofl_update_settings), .lr = INFINITY, .step = 1}, -EINVAL},
    {"decay not a number",
     {.size = sizeof(struct ofl_update_settings), .lr = 1, .weight_decay = NAN, .step = 1},
     -EINVAL},
};

static void bad_steps(void **state)
{
    for (size_t i = 0; i < PLACES; i++) {
        struct small s = small_open(i, *state);
        struct ofl_tensor *loose = make(s.ctx, "loose", OFL_F32, 10, 0);
        struct ofl_update_settings a = settings_of(1, i % 2 ? 0.5 : 0);
        double norm = 1;

        for (size_t k = 0; k < sizeof bad_settings / sizeof bad_settings[0]; k++)
            if (ofl_optimizer_begin(s.optimizer, &bad_settings[k].a) != bad_settings[k].code)
                fail_msg("settings with %s: %s", bad_settings[k].what, ofl_error());
        expect_error(ofl_optimizer_norm(s.optimizer, &norm), -OFL_ESTATE, "no step has ended");
        expect_error(ofl_optimizer_apply(s.optimizer, s.weight[0]), -OFL_ESTATE, "no optimizer step is open");
        expect_error(ofl_optimizer_end(s.optimizer), -OFL_ESTATE, "none is open");
        write_grads(&s, 2);
        assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0);
        expect_error(ofl_optimizer_begin(s.optimizer, &a), -OFL_ESTATE, "one is open");
        expect_error(ofl_optimizer_apply(s.optimizer, loose), -OFL_ESTATE, "apply loose: it is not bound");
        assert_int_equal(ofl_optimizer_apply(s.optimizer, s.weight[0]), 0);
        expect_error(ofl_optimizer_apply(s.optimizer, s.weight[0]), -OFL_ESTATE,
                     "w0: it was applied already");
        assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_norm(s.optimizer, &norm), 0);
        assert_true(norm == sqrt(4000.0)); /* of what was applied */
        a.step = 2;
        assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0); /* a step without gradients */
        assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_norm(s.optimizer, &norm), 0);
        assert_true(norm == 0);
        assert_int_equal(fixture_ctx_close(s.ctx), 0); /* the optimizer goes with it */
    }
}

/* A lease in the way of an update is refused, costs nothing, and is not held against the step:
 * released, the call that failed succeeds, and the bits are those of an undisturbed step. */
static void leases_in_the_way(void **state)
{
    float undisturbed[1000], got[1000];

    for (size_t i = 0; i < 4 * PLACES; i++) {
        bool clipped = i / 2 % 2, disturbed = i % 2;
        struct small s = small_open(i / 4, *state);
        struct ofl_update_settings a = settings_of(1, clipped ? 0.5 : 0);
        struct ofl_lease l = {.tensor = s.weight[1], .mode = OFL_READ};
        double norm;

        write_grads(&s, 3);
        assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0);
        if (disturbed)
            assert_int_equal(ofl_acquire(s.ctx, &l, 1, s.stream), 0);
        assert_int_equal(ofl_optimizer_apply(s.optimizer, s.weight[0]), 0);
        if (disturbed && !clipped) {
            expect_error(ofl_optimizer_apply(s.optimizer, s.weight[1]), -OFL_ESTATE, "leased");
            assert_int_equal(ofl_release(s.ctx, &l, 1, s.stream), 0);
        }
        assert_int_equal(ofl_optimizer_apply(s.optimizer, s.weight[1]), 0);
        if (disturbed && clipped) {
            expect_error(ofl_optimizer_end(s.optimizer), -OFL_ESTATE, "leased");
            assert_int_equal(ofl_release(s.ctx, &l, 1, s.stream), 0);
        }
        assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
        assert_int_equal(ofl_optimizer_norm(s.optimizer, &norm), 0);
        assert_true(norm == sqrt(18000.0));
        for (int k = 0; k < 2; k++) {
            assert_int_equal(ofl_tensor_read(s.weight[k], 0, disturbed ? got : undisturbed, sizeof got), 0);
            if (disturbed)
                assert_memory_equal(got, undisturbed, sizeof got);
        }
        assert_true(undisturbed[0] < 0); /* it went down the gradient */
        assert_int_equal(fixture_ctx_close(s.ctx), 0);
    }
}

/* A step that is clipped hard, then one without gradients, again and again: the scale of the one
 * must not be taken for the other's, though the host runs ahead. */
static void scales_do_not_mix(void **state)
{
    for (size_t i = 0; i < PLACES; i++) {
        struct small s = small_open(i, *state);
        float p = 0, m = 0, v = 0, got[1000];

        for (uint64_t t = 1; t <= 60; t++) {
            struct ofl_update_settings a = settings_of(t, t % 2 ? 0.25 : 0);
            struct optim_coef c = optim_coef_make(OFL_ADAMW, &a, 1);
            float g = (float)t;
            double norm = sqrt(2000.0 * (double)t * (double)t), scale = 0.25 / (norm + 1e-6);

            if (t % 2)
                write_grads(&s, g);
            assert_int_equal(ofl_optimizer_begin(s.optimizer, &a), 0);
            for (int k = 0; k < 2 && t % 2; k++)
                assert_int_equal(ofl_optimizer_apply(s.optimizer, s.weight[k]), 0);
            assert_int_equal(ofl_optimizer_end(s.optimizer), 0);
            if (t % 2)
                optim_update(OFL_ADAMW, &c, (float)scale, (struct optim_arrays){&p, &m, &v, &g, NULL}, 1);
        }
        assert_int_equal(ofl_tensor_read(s.weight[1], 0, got, sizeof got), 0);
        for (int k = 0; k < 1000; k++)
            assert_true(got[k] == p);
        assert_int_equal(fixture_ctx_close(s.ctx), 0);
    }
}

/* A skipped step leaves a BF16 weight as it was, also where its bytes are on a drive and updates overwrite them. */
static void overflow_of_a_weight_that_is_away(void **state)
{
    enum { N = 1 << 20 };
    static float values[N], g[N];
    static uint16_t low[N], got[N];
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 8 * MIB,
                                .host_bytes = 2 * MIB,
                                .nvme = fixture_nvme(*state, 64 * MIB),
                                .nvme_count = 1,
                                .flags = OFL_POISON,
                                .log = fixture_log};
    struct ofl_update_settings a = settings_of(1, 0);
    struct ofl_tensor *weight, *grad, *master;
    struct ofl_optimizer *o;
    struct ofl_ctx *ctx;
    double norm;

    fixture_needs_kernels();
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_optimizer_create(ctx, &o), 0);
    weight = make(ctx, "w", OFL_BF16, N, 0);
    grad = make(ctx, "g", OFL_F32, N, 0);
    assert_int_equal(ofl_optimizer_bind(o, weight, grad), 0);
    assert_int_equal(ofl_optimizer_state(o, weight, OFL_STATE_MASTER, &master), 0);
    for (int i = 0; i < N; i++) {
        low[i] = (uint16_t)(0x3f80 + i % 100);
        values[i] = (float)(1 + i % 100 / 128.0);
        g[i] = i == N / 2 ? NAN : 0.5f;
    }
    assert_int_equal(ofl_tensor_write(weight, 0, low, sizeof low), 0);
    assert_int_equal(ofl_tensor_write(master, 0, values, sizeof values), 0);
    assert_int_equal(ofl_tensor_write(grad, 0, g, sizeof g), 0);
    a.skip_overflow = 1;
    assert_int_equal(ofl_optimizer_begin(o, &a), 0);
    assert_int_equal(ofl_optimizer_apply(o, weight), 0);
    assert_int_equal(ofl_optimizer_end(o), 0);
    assert_int_equal(ofl_optimizer_norm(o, &norm), 0);
    assert_true(isnan(norm));
    assert_int_equal(ofl_tensor_read(weight, 0, got, sizeof got), 0);
    assert_memory_equal(got, low, sizeof low);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_states),
        cmocka_unit_test(bytes_of_methods),
        cmocka_unit_test(bad_bindings),
        cmocka_unit_test(bad_steps),
        cmocka_unit_test(leases_in_the_way),
        cmocka_unit_test(scales_do_not_mix),
        cmocka_unit_test(overflow_of_a_weight_that_is_away),
    };

    return cmocka_run_group_tests_name("optimizer calls", tests, scratch_setup, scratch_teardown);
}
