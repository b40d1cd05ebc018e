/*
 * optim/update.cu: the optimizer's kernels against update.c, bit for bit: updates over any bits that
 * floats can have (NaN as NaN), sums and norms over every size at which parts, blocks and batches
 * begin. And how the device room finds and launches kernels, and what it says when it can't.
 *
 * On the stub driver, which runs kernels on the CPU; with OFL_TEST_GPU set, on the machine's GPU.
 *
 * Negative controls: an update with one input's last bit changed, and a norm over the same
 * gradients in another order, must differ.
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
#include <time.h>

#include <cmocka.h>

#include "liboffload/optim/update.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"
#include "tests/device_fixture.h"

typedef unsigned long long ull;

extern const unsigned char optim_update_fatbin[];

/* A device, a stream, the kernels; arrays lie in host memory that kernels reach. */
struct rig {
    struct sink sink;
    struct dev *dev;
    struct dev_stream *stream;
    struct dev_kernel *sum, *norm, *update[OFL_METHODS];
};

static void rig_open_bare(struct rig *r, const struct cuda_stub_config *stub)
{
    struct dev_config config = {.arena_bytes = 1 << 20, .done = sink_done, .sink = &r->sink};

    if (!getenv("OFL_TEST_GPU")) {
        cuda_fixture_needs_kernels();
        cuda_fixture()->reset(stub);
    }
    sink_init(&r->sink);
    assert_int_equal(dev_open("cuda", &config, &r->dev), 0);
    assert_int_equal(dev_stream_create(r->dev, &r->stream), 0);
}

static struct rig rig_open(uint64_t seed)
{
    static const char *const names[OFL_METHODS] = {[OFL_ADAMW] = "optim_adamw_kernel",
                                                   [OFL_ADAM] = "optim_adam_kernel",
                                                   [OFL_SGD] = "optim_sgd_kernel",
                                                   [OFL_LION] = "optim_lion_kernel"};
    struct rig r;

    rig_open_bare(&r, &(struct cuda_stub_config){.seed = seed, .pause_us = 20});
    assert_int_equal(dev_kernel_find(r.dev, optim_update_fatbin, "optim_sum_kernel", &r.sum), 0);
    assert_int_equal(dev_kernel_find(r.dev, optim_update_fatbin, "optim_norm_kernel", &r.norm), 0);
    for (int m = 0; m < OFL_METHODS; m++)
        assert_int_equal(dev_kernel_find(r.dev, optim_update_fatbin, names[m], &r.update[m]), 0);
    return r;
}

static void rig_close(struct rig *r)
{
    dev_stream_destroy(r->stream);
    dev_close(r->dev);
    sink_free(&r->sink);
    if (!getenv("OFL_TEST_GPU"))
        cuda_fixture_clean();
}

struct range {
    void *host, *device;
};

static struct range range_of(struct rig *r, uint64_t bytes)
{
    struct range a;

    assert_int_equal(dev_host_alloc(r->dev, bytes, &a.host, &a.device), 0);
    return a;
}

/* ---- updates ----------------------------------------------------------- */

enum { P, M, V, G, FLOATS };

/* Any bits at all, subnormals, magnitudes near either end, and such as occur. */
static uint32_t any_bits(struct random *r)
{
    uint64_t z = random_next(r);
    uint32_t sign = (uint32_t)(z >> 32) & 0x80000000u, fraction = (uint32_t)z & 0x7fffffu;

    switch (random_below(r, 8)) {
    case 0:
        return (uint32_t)z;
    case 1:
        return sign | fraction;
    case 2:
        return sign | (uint32_t)(250 + z % 5) << 23 | fraction;
    case 3:
        return sign | (uint32_t)(1 + z % 30) << 23 | fraction;
    case 4:
        return z % 3 == 0 ? 0x7f800000u | sign : z % 3 == 1 ? 0x7fc00000u | sign : sign;
    default:
        return sign | (uint32_t)(110 + z % 25) << 23 | fraction;
    }
}

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static bool same_half(uint16_t a, uint16_t b)
{
    return a == b || ((a & 0x7fffu) > 0x7f80u && (b & 0x7fffu) > 0x7f80u);
}

#define MOST_ELEMS 20011u

struct update {
    enum ofl_method method;
    uint64_t n, seed;
    uint32_t blocks;
    bool low, clipped;
};

static struct optim_coef coef_of(enum ofl_method method, uint64_t seed)
{
    struct ofl_update_settings s = {
        .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01, .step = 1 + seed % 9};

    if (seed % 3 == 1)
        s = (struct ofl_update_settings){.lr = 0.5, .beta2 = 0.5, .eps = 0, .step = 1};
    return optim_coef_make(method, &s, 1);
}

/* Elements whose results differ; flip: the weights' last bits go to the kernel inverted. */
static uint64_t run_update(struct rig *r, struct update u, bool flip)
{
    struct range at[FLOATS], low = range_of(r, 2 * MOST_ELEMS), norm = range_of(r, sizeof(struct optim_norm));
    struct random random = {u.seed};
    struct optim_coef coef = coef_of(u.method, u.seed);
    float scale = u.clipped ? 0.37f : 1.0f, *want[FLOATS];
    uint16_t *want_low = malloc(2 * u.n);
    void *scale_from = u.clipped ? norm.device : NULL, *w16 = u.low ? low.device : NULL;
    void *none = NULL, *args[] = {&coef,         &scale_from,   &at[P].device, &at[M].device,
                                  &at[V].device, &at[G].device, &w16,          &u.n};
    uint64_t wrong = 0;

    assert_non_null(want_low);
    if (!optim_squares(u.method))
        args[4] = &none;
    *(struct optim_norm *)norm.host = (struct optim_norm){.scale = 0.37f};
    for (int k = 0; k < FLOATS; k++) {
        uint32_t *bits;

        at[k] = range_of(r, 4 * MOST_ELEMS);
        want[k] = malloc(4 * u.n);
        assert_non_null(want[k]);
        bits = at[k].host;
        for (uint64_t i = 0; i < u.n; i++)
            bits[i] = any_bits(&random);
        memcpy(want[k], bits, 4 * u.n);
        for (uint64_t i = 0; i < u.n && flip && k == P; i++)
            bits[i] ^= 1;
    }
    optim_update(u.method, &coef, scale,
                 (struct optim_arrays){want[P], want[M], want[V], want[G], u.low ? want_low : NULL}, u.n);
    assert_int_equal(dev_stream_kernel(r->stream, r->update[u.method], u.blocks, 256, args), 0);
    assert_int_equal(dev_stream_sync(r->stream), 0);
    for (uint64_t i = 0; i < u.n; i++) {
        bool same = !u.low || same_half(((uint16_t *)low.host)[i], want_low[i]);

        for (int k = 0; k < FLOATS; k++)
            same = same && same_float(((float *)at[k].host)[i], want[k][i]);
        wrong += !same;
    }
    for (int k = 0; k < FLOATS; k++) {
        dev_host_free(r->dev, at[k].host);
        free(want[k]);
    }
    dev_host_free(r->dev, low.host);
    dev_host_free(r->dev, norm.host);
    free(want_low);
    return wrong;
}

static void updates_have_the_host_s_bits(void **state)
{
    static const uint64_t sizes[] = {1, 3, 31, 32, 33, 255, 256, 257, 1023, 4099, MOST_ELEMS};
    unsigned seeds = fixture_rounds(8), seen = 0;
    struct rig r = rig_open(1);

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (uint64_t seed = 1; seed <= seeds; seed++) {
            uint32_t all = (uint32_t)((sizes[i] + 255) / 256);
            struct update u = {.method = (enum ofl_method)((seed + i) % OFL_METHODS),
                               .n = sizes[i],
                               .seed = seed,
                               .blocks = seed % 2 && all > 3 ? 3 : all, /* several elements a thread */
                               .low = seed / 2 % 2,
                               .clipped = seed / 4 % 2};
            uint64_t wrong = run_update(&r, u, false);

            if (wrong)
                fail_msg("%llu elements, seed %llu: %llu differ", (ull)u.n, (ull)seed, (ull)wrong);
            seen += run_update(&r, u, true) > 0;
        }
    assert_true(seen > seeds * 8); /* the control */
    rig_close(&r);
}

/* ---- sums and norms ---------------------------------------------------- */

/* Sums of n floats at x, queued. */
static struct optim_parts queue_sum(struct rig *r, const struct range *x, uint64_t n,
                                    const struct range *sums)
{
    uint64_t each = optim_part_elems(n);
    void *device = x->device, *to = sums->device, *args[] = {&device, &n, &each, &to};
    uint32_t parts = optim_parts_count(n);

    assert_true(parts > 0 && parts <= OPTIM_PARTS);
    assert_int_equal(dev_stream_kernel(r->stream, r->sum, parts, OPTIM_LANES, args), 0);
    return (struct optim_parts){to, parts};
}

static struct optim_norm norm_of(struct rig *r, const struct optim_parts *parts, uint64_t count, double clip)
{
    struct range list = range_of(r, (count + 1) * sizeof *parts),
                 out = range_of(r, sizeof(struct optim_norm));
    uint32_t skip = 0;
    void *args[] = {&list.device, &count, &clip, &skip, &out.device};
    struct optim_norm got;

    memcpy(list.host, parts, count * sizeof *parts);
    *(struct optim_norm *)out.host = (struct optim_norm){-1, -1, 7};
    assert_int_equal(dev_stream_kernel(r->stream, r->norm, 1, 512, args), 0);
    assert_int_equal(dev_stream_sync(r->stream), 0);
    got = *(struct optim_norm *)out.host;
    dev_host_free(r->dev, list.host);
    dev_host_free(r->dev, out.host);
    return got;
}

static void fill(float *x, uint64_t n, uint64_t seed)
{
    struct random r = {seed};

    for (uint64_t i = 0; i < n; i++)
        x[i] = ldexpf((float)(int32_t)random_next(&r), (int)random_below(&r, 40) - 50);
}

static void sums_have_the_host_s_bits(void **state)
{
    static const uint64_t sizes[] = {1,    2,    31,    255,   256,   257,    4095,    4096,   4097,
                                     8192, 8193, 70001, 65536, 20011, 999999, 2097152, 2097153};
    size_t count = sizeof sizes / sizeof sizes[0] - (getenv("OFL_TEST_LIGHT") ? 2 : 0);

    (void)state;
    for (uint64_t seed = 1; seed <= 2; seed++) { /* of the stub's: threads run in another order */
        struct rig r = rig_open(seed);
        struct range x = range_of(&r, 4 * sizes[16]), sums = range_of(&r, OPTIM_PARTS * sizeof(double));

        for (size_t i = 0; i < count; i++) {
            struct optim_parts parts;
            struct optim_norm got;
            double sum;

            fill(x.host, sizes[i], i);
            sum = optim_sum_squares(x.host, sizes[i]);
            parts = queue_sum(&r, &x, sizes[i], &sums);
            got = norm_of(&r, &parts, 1, 0);
            if (got.norm != sqrt(sum) || got.scale != -1)
                fail_msg("%llu elements: %.17g, expected %.17g", (ull)sizes[i], got.norm, sqrt(sum));
        }
        rig_close(&r);
    }
}

static void norms_add_up_in_order(void **state)
{
    enum { MOST = 1500 };
    static const uint64_t counts[] = {0, 1, 2, 16, 17, 511, 512, 513, MOST};
    struct rig r = rig_open(3);
    struct range sums = range_of(&r, MOST * 40 * sizeof(double));
    static struct optim_parts parts[MOST], turned[MOST];
    struct optim_norm got = {0};
    unsigned differs = 0;

    (void)state;
    fill((float *)sums.host, 1, 1);
    for (int i = 0; i < MOST; i++) {
        parts[i] = (struct optim_parts){(double *)sums.device + 40 * i, 1 + (unsigned)i % 40};
        for (int k = 0; k < 40; k++)
            ((double *)sums.host)[40 * i + k] = 1.0 / (1 + i * 40 + k);
    }
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        double sum = 0, scale;

        for (uint64_t i = 0; i < counts[c]; i++) {
            double lane[32] = {0};

            for (uint64_t k = 0; k < parts[i].count; k++)
                lane[k % 32] += ((double *)sums.host)[40 * i + k];
            for (int half = 16; half; half /= 2)
                for (int k = 0; k < half; k++)
                    lane[k] += lane[k + half];
            sum += lane[0];
            turned[counts[c] - 1 - i] = parts[i];
        }
        got = norm_of(&r, parts, counts[c], 0.5);
        scale = 0.5 / (sqrt(sum) + 1e-6);
        if (got.norm != sqrt(sum) || got.scale != (float)(scale < 1 ? scale : 1))
            fail_msg("%llu gradients: norm %.17g, expected %.17g; scale %g", (ull)counts[c], got.norm,
                     sqrt(sum), (double)got.scale);
        differs += norm_of(&r, turned, counts[c], 0).norm != got.norm;
    }
    assert_true(differs > 1); /* the control */
    rig_close(&r);
}

static void norms_that_are_no_numbers(void **state)
{
    struct rig r = rig_open(4);
    struct range x = range_of(&r, 4 * 5000), sums = range_of(&r, OPTIM_PARTS * sizeof(double));
    float *v = x.host;

    (void)state;
    for (int i = 0; i < 5000; i += 499) {
        struct optim_parts parts;
        struct optim_norm got;

        memset(v, 0, 4 * 5000);
        v[i] = NAN;
        parts = queue_sum(&r, &x, 5000, &sums);
        got = norm_of(&r, &parts, 1, 1.0);
        assert_true(isnan(got.norm) && got.scale == 1);
        v[i] = -INFINITY;
        parts = queue_sum(&r, &x, 5000, &sums);
        got = norm_of(&r, &parts, 1, 1.0);
        assert_true(isinf(got.norm) && got.scale == 0);
        v[i] = 3e38f;
        parts = queue_sum(&r, &x, 5000, &sums);
        got = norm_of(&r, &parts, 1, 1.0);
        assert_true(got.norm == (double)3e38f);
    }
    rig_close(&r);
}

/* ---- the device room ------------------------------------------------------ */

static void kernels_are_found_once(void **state)
{
    struct dev_config config = {.arena_bytes = 4096, .done = sink_done};
    struct rig r = rig_open(5);
    struct dev_kernel *again = NULL;
    struct range a, b;
    struct dev *host;

    (void)state;
    assert_int_equal(dev_kernel_find(r.dev, optim_update_fatbin, "optim_norm_kernel", &again), 0);
    assert_ptr_equal(again, r.norm);
    assert_int_equal(dev_kernel_find(r.dev, optim_update_fatbin, "no_such_kernel", &again), -ENOENT);
    assert_null(again);
    assert_non_null(strstr(base_error_text(), "load kernel no_such_kernel: cuModuleGetFunction"));
    a = range_of(&r, 1000);
    dev_host_free(r.dev, a.host);
    dev_host_free(r.dev, NULL);
    b = range_of(&r, 900);
    assert_ptr_equal(a.host, b.host); /* kept, not freed: that may wait for all work */
    if (!getenv("OFL_TEST_GPU")) {
        assert_int_equal(cuda_fixture()->calls("cuModuleLoadData"), 1);
        assert_int_equal(cuda_fixture()->calls("cuMemFreeHost"), 0);
    }
    rig_close(&r);
    config.sink = &r.sink;
    assert_int_equal(dev_open("host", &config, &host), 0);
    assert_int_equal(dev_kernel_find(host, optim_update_fatbin, "optim_norm_kernel", &again), -ENOTSUP);
    assert_int_equal(dev_host_alloc(host, 10, &a.host, &a.device), -ENOTSUP);
    assert_null(a.host);
    dev_close(host);
}

/* A wait whose handing over was left for later is ahead of the kernel: behind it the kernel finds
 * what was stored just before the gate was opened. */
static void kernels_keep_their_place(void **state)
{
    struct rig r = rig_open(6);
    struct range list = range_of(&r, sizeof(struct optim_parts)),
                 out = range_of(&r, sizeof(struct optim_norm));
    struct range sums = range_of(&r, sizeof(double));
    uint64_t count = 1;
    double clip = 0, *sum = sums.host;
    uint32_t skip = 0;
    void *args[] = {&list.device, &count, &clip, &skip, &out.device};
    struct dev_gate *gate;

    (void)state;
    *(struct optim_parts *)list.host = (struct optim_parts){sums.device, 1};
    *sum = 1;
    assert_int_equal(dev_gate_create(r.dev, &gate), 0);
    dev_stream_wait_later(r.stream, gate);
    assert_int_equal(dev_stream_kernel(r.stream, r.norm, 1, 512, args), 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* for one that does not wait */
    *sum = 4;
    dev_gate_open(gate, NULL);
    assert_int_equal(dev_stream_sync(r.stream), 0);
    assert_true(((struct optim_norm *)out.host)->norm == 2);
    rig_close(&r);
}

/* Fails the call; what it says. A launch that fails breaks the device, the others do not. */
static const struct {
    const char *call;
    unsigned code;
    int result;
    const char *part;
    bool breaks;
} failures[] = {
    {"cuModuleLoadData", 200, -ENOEXEC, "load kernel optim_norm_kernel: cuModuleLoadData", false},
    {"cuModuleLoadData", 209, -ENOEXEC, "(209)", false},
    {"cuModuleGetFunction", 500, -ENOENT, "cuModuleGetFunction", false},
    {"cuMemHostAlloc", 2, -ENOMEM, "cuMemHostAlloc of 4096 bytes: CUDA_ERROR_OUT_OF_MEMORY", false},
    {"cuLaunchKernel", 1, -EINVAL, "launch optim_norm_kernel, 1 blocks of 512 threads: cuLaunchKernel", true},
};

static void failures_have_their_sentence(void **state)
{
    (void)state;
    if (getenv("OFL_TEST_GPU"))
        skip();
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        struct dev_kernel *k = NULL;
        struct range a = {NULL, NULL};
        uint64_t count = 0;
        double clip = 0;
        void *args[] = {&a.device, &count, &clip, &a.device};
        struct rig r;
        int rc;

        rig_open_bare(&r, &(struct cuda_stub_config){
                              .fail_call = failures[i].call, .fail_nth = 1, .fail_code = failures[i].code});
        rc = dev_kernel_find(r.dev, optim_update_fatbin, "optim_norm_kernel", &k);
        if (rc == 0)
            rc = dev_host_alloc(r.dev, 4096, &a.host, &a.device);
        if (rc == 0)
            rc = dev_stream_kernel(r.stream, k, 1, 512, args);
        if (rc != failures[i].result || !strstr(base_error_text(), failures[i].part))
            fail_msg("%s: %d: %s", failures[i].call, rc, base_error_text());
        assert_int_equal(dev_check(r.dev), failures[i].breaks ? rc : 0);
        assert_int_equal(dev_stream_sync(r.stream), failures[i].breaks ? rc : 0);
        if (failures[i].breaks) /* the first error, without a call */
            assert_int_equal(dev_stream_kernel(r.stream, k, 1, 512, args), rc);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_have_the_host_s_bits), cmocka_unit_test(sums_have_the_host_s_bits),
        cmocka_unit_test(norms_add_up_in_order),        cmocka_unit_test(norms_that_are_no_numbers),
        cmocka_unit_test(kernels_keep_their_place),     cmocka_unit_test(kernels_are_found_once),
        cmocka_unit_test(failures_have_their_sentence),
    };

    return cmocka_run_group_tests_name("adamw on cuda", tests, NULL, NULL);
}
