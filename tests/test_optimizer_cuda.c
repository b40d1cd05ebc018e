/*
 * optim on the cuda device, with the stub driver: the same weights and norms, bit for bit, as on
 * the host device, in both homes, clipped or not; a step makes one launch per sum, one per norm,
 * one per update in device memory, allocates nothing and never waits for the GPU; kernels that
 * can't be had, memory that is refused, launches that fail and a device that is lost end in an
 * error that says so, and everything returns. test_optimizer.c runs on the stub, too: cuda.sh.
 *
 * Negative control: with one of the waits taken out of the driver, norms or weights differ.
 */
#include <errno.h>
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
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define MIB     (1ull << 20)
#define WEIGHTS 10u
#define ELEMS   5001u
#define STEPS   3u

static const struct {
    const char *name;
    uint64_t device, host, nvme;
    bool on_device;
} places[] = {
    {"device is home", 4 * MIB, 2 * MIB, 0, true},
    {"host is home, small device", 64 << 10, 8 * MIB, 0, false},
    {"nvme", 64 << 10, 2 * MIB, 16 * MIB, false},
};
#define PLACES (sizeof places / sizeof places[0])

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weights[WEIGHTS], *grads[WEIGHTS];
    float weight[WEIGHTS][ELEMS]; /* read at the end */
    double norm[STEPS];
};

static int make(struct rig *r, const char *name, unsigned i, struct ofl_tensor **out)
{
    char text[32];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = text, .dtype = OFL_F32, .elems = ELEMS};

    snprintf(text, sizeof text, "%s%u", name, i);
    return ofl_tensor_create(r->ctx, &d, out);
}

static int rig_open(struct rig *r, const char *device, size_t place, const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = device,
                                .device_bytes = places[place].device,
                                .host_bytes = places[place].host,
                                .nvme = fixture_nvme(dir, places[place].nvme),
                                .nvme_count = places[place].nvme > 0,
                                .flags = OFL_POISON | OFL_NO_MEASURE};
    int err;

    r->ctx = NULL;
    err = ofl_open(&config, &r->ctx);
    if (err == 0)
        err = ofl_optimizer_create(r->ctx, &r->optimizer);
    for (unsigned i = 0; i < WEIGHTS && err == 0; i++) {
        err = make(r, "weight", i, &r->weights[i]);
        if (err == 0)
            err = make(r, "grad", i, &r->grads[i]);
        if (err == 0)
            err = ofl_optimizer_bind(r->optimizer, r->weights[i], r->grads[i]);
    }
    return err;
}

static int step(struct rig *r, uint64_t t, double clip)
{
    struct ofl_update_settings s = {.size = sizeof s,
                                    .lr = 1e-2,
                                    .beta1 = 0.9,
                                    .beta2 = 0.99,
                                    .eps = 1e-8,
                                    .weight_decay = 0.02,
                                    .clip = clip,
                                    .step = t};
    int err = ofl_optimizer_begin(r->optimizer, &s);

    for (unsigned i = 0; i < WEIGHTS && err == 0; i++) {
        static float g[ELEMS];

        for (unsigned k = 0; k < ELEMS; k++)
            g[k] = (float)((int)((k * 7 + i * 13 + t * 29) % 101) - 50) / 37.0f;
        err = ofl_tensor_write(r->grads[i], 0, g, sizeof g);
        if (err == 0)
            err = ofl_optimizer_apply(r->optimizer, r->weights[i]);
    }
    return err == 0 ? ofl_optimizer_end(r->optimizer) : err;
}

/* 0, or the first error. */
static int train(struct rig *r, double clip)
{
    int err = 0;

    for (uint64_t t = 1; t <= STEPS && err == 0; t++) {
        err = step(r, t, clip);
        if (err == 0 && t != 2) /* now and then the host runs ahead */
            err = ofl_optimizer_norm(r->optimizer, &r->norm[t - 1]);
    }
    for (unsigned i = 0; i < WEIGHTS && err == 0; i++)
        err = ofl_tensor_read(r->weights[i], 0, r->weight[i], sizeof r->weight[i]);
    return err;
}

static struct rig *rig_make(void)
{
    struct rig *r = calloc(1, sizeof *r);

    assert_non_null(r);
    return r;
}

static bool same(const struct rig *a, const struct rig *b)
{
    return memcmp(a->weight, b->weight, sizeof a->weight) == 0 &&
           memcmp(a->norm, b->norm, sizeof a->norm) == 0;
}

static void ok(int err)
{
    if (err != 0)
        fail_msg("%d: %s", err, ofl_error());
}

static void skip_deliberate_race(void)
{
#ifdef __SANITIZE_THREAD__
    fprintf(stderr, "skipped: the race that this test makes on purpose is what ThreadSanitizer stops at\n");
    skip();
#endif
}

static uint64_t waits(const struct cuda_stub *stub)
{
    return stub->calls("cuStreamSynchronize") + stub->calls("cuCtxSynchronize") +
           stub->calls("cuEventSynchronize");
}

static void trained_on_the_host_device(struct rig *r, double clip, const char *dir)
{
    ok(rig_open(r, "host", 1, dir));
    ok(train(r, clip));
    ok(ofl_close(r->ctx));
}

static void same_bits_and_no_waiting(void **state)
{
    static const double clips[] = {0, 0.5, 1e6};
    struct rig *plain = rig_make(), *r = rig_make();

    cuda_fixture_needs_kernels();
    for (size_t c = 0; c < sizeof clips / sizeof clips[0]; c++) {
        trained_on_the_host_device(plain, clips[c], *state);
        for (size_t p = 0; p < PLACES; p++) {
            uint64_t launches = STEPS * (WEIGHTS + 1 + (places[p].on_device ? WEIGHTS : 0)), modules, allocs;
            const struct cuda_stub *stub = cuda_fixture();

            stub->reset(&(struct cuda_stub_config){.seed = c * PLACES + p, .pause_us = 50, .pageable = true});
            ok(rig_open(r, "cuda", p, *state));
            modules = stub->calls("cuModuleLoadData");
            allocs = stub->calls("cuMemHostAlloc");
            assert_int_equal(modules, 1);
            ok(train(r, clips[c]));
            assert_int_equal(stub->calls("cuLaunchKernel"), launches);
            assert_int_equal(stub->calls("cuModuleLoadData"), modules);
            /* the results are read at the end: bytes that live on the device come by pinned memory */
            assert_int_equal(stub->calls("cuMemHostAlloc"), allocs + places[p].on_device);
            assert_int_equal(waits(stub), 0);
            ok(ofl_close(r->ctx));
            cuda_fixture_clean();
            if (!same(plain, r))
                fail_msg("%s, clip %g: other bits than on the host device", places[p].name, clips[c]);
        }
    }
    free(plain);
    free(r);
}

/* ---- failures ---------------------------------------------------------- */

static const struct {
    const char *call;
    unsigned code;
    int result;
    const char *part;
} uncreated[] = {
    {"cuModuleLoadData", 209, -ENOEXEC, "has no CUDA kernels for this GPU"},
    {"cuModuleLoadData", 200, -ENOEXEC, "rebuild it with the CUDA toolkit, or use device host"},
    {"cuModuleGetFunction", 500, -ENOENT, "load kernel optim_sum_kernel"},
    {"cuMemHostAlloc", 2, -ENOMEM, "cuMemHostAlloc of 4096 bytes"},
};

static void no_kernels_no_optimizer(void **state)
{
    struct rig *r = rig_make();

    cuda_fixture_needs_kernels();
    for (size_t i = 0; i < sizeof uncreated / sizeof uncreated[0]; i++) {
        int err;

        cuda_fixture()->reset(&(struct cuda_stub_config){
            .fail_call = uncreated[i].call, .fail_nth = 1, .fail_code = uncreated[i].code, .pageable = true});
        err = rig_open(r, "cuda", 0, *state);
        if (err != uncreated[i].result || !strstr(ofl_error(), uncreated[i].part))
            fail_msg("%s: %d: %s", uncreated[i].call, err, ofl_error());
        assert_null(r->optimizer);
        ok(ofl_optimizer_create(r->ctx, &r->optimizer)); /* that was once */
        ok(ofl_optimizer_destroy(r->optimizer));
        r->optimizer = NULL;
        ok(ofl_close(r->ctx));
        cuda_fixture_clean();
    }
    free(r);
}

/* The memory for the kernels' sums runs out at some binding: that one alone is not made. */
static void a_binding_without_memory(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device = "cuda", .device_bytes = 4 * MIB};
    struct ofl_optimizer *o;
    struct ofl_ctx *ctx;
    unsigned failed = 0;

    (void)state;
    cuda_fixture_needs_kernels();
    cuda_fixture()->reset(&(struct cuda_stub_config){
        .fail_call = "cuMemHostAlloc", .fail_nth = 2, .fail_code = 2, .pageable = true});
    ok(ofl_open(&config, &ctx));
    ok(ofl_optimizer_create(ctx, &o));
    for (unsigned i = 0; i < 150; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d, .name = "t", .dtype = OFL_F32, .elems = 3};
        struct ofl_tensor *w, *g, *moment;
        int err;

        ok(ofl_tensor_create(ctx, &d, &w));
        ok(ofl_tensor_create(ctx, &d, &g));
        err = ofl_optimizer_bind(o, w, g);
        if (err == 0)
            continue;
        failed++;
        assert_int_equal(err, -ENOMEM);
        assert_non_null(strstr(ofl_error(), "cuMemHostAlloc of 8192 bytes"));
        assert_int_equal(ofl_optimizer_state(o, w, OFL_STATE_EXP_AVG, &moment), -ENOENT);
        ok(ofl_optimizer_bind(o, w, g));
    }
    assert_int_equal(failed, 1);
    ok(ofl_close(ctx));
    cuda_fixture_clean();
}

/* Every launch in turn, and the device at any time: an error with the driver's words, and an end. */
static unsigned ends_with(struct rig *r, size_t place, const struct cuda_stub_config *stub, const char *dir)
{
    int err, again;

    cuda_fixture()->reset(stub);
    memset(r, 0, sizeof *r);
    err = rig_open(r, "cuda", place, dir);
    if (err == 0)
        err = train(r, place == 0 ? 0.5 : 0);
    if (err < 0 && ((err != -OFL_EBROKEN && err != -EIO) ||
                    (!strstr(ofl_error(), "(719)") && !strstr(ofl_error(), "copy grad"))))
        fail_msg("launch %u, operation %u: %d: %s", stub->fail_nth, stub->lose_after, err, ofl_error());
    if (err < 0 && r->optimizer) {
        again = step(r, STEPS + 1, 1);
        if (again == 0)
            fail_msg("launch %u, operation %u: a step after the failure", stub->fail_nth, stub->lose_after);
        (void)ofl_optimizer_destroy(r->optimizer);
    }
    (void)ofl_close(r->ctx);
    assert_int_equal(cuda_fixture()->live(), 0);
    return err < 0;
}

/* After the failure nothing is waited for, while what the driver has taken goes on. */
static void launches_that_fail_end_everything(void **state)
{
    struct rig *r = rig_make();
    unsigned failed = 0;

    cuda_fixture_needs_kernels();
    skip_deliberate_race();
    for (unsigned i = 1; i <= STEPS * (WEIGHTS + 1); i++)
        failed += ends_with(r, i % PLACES,
                            &(struct cuda_stub_config){.seed = i,
                                                       .pause_us = 20,
                                                       .pageable = true,
                                                       .fail_call = "cuLaunchKernel",
                                                       .fail_nth = i,
                                                       .fail_code = 719},
                            *state);
    assert_int_equal(failed, STEPS * (WEIGHTS + 1));
    free(r);
}

static void a_lost_device_ends_everything(void **state)
{
    unsigned lost = 0, rounds = fixture_rounds(40);
    struct rig *r = rig_make();

    cuda_fixture_needs_kernels();
    for (unsigned i = 1; i <= rounds; i++)
        lost += ends_with(
            r, i % PLACES,
            &(struct cuda_stub_config){.seed = i, .pause_us = 20, .pageable = true, .lose_after = 5 * i},
            *state);
    assert_true(lost > rounds / 3);
    free(r);
}

/* ---- the control ------------------------------------------------------- */

static void a_wait_that_is_left_out_is_seen(void **state)
{
    struct rig *plain = rig_make(), *r = rig_make();
    unsigned seen = 0;

    cuda_fixture_needs_kernels();
    skip_deliberate_race();
    trained_on_the_host_device(plain, 0.5, *state);
    for (unsigned i = 1; i <= 40 && seen < 3; i++) {
        cuda_fixture()->reset(
            &(struct cuda_stub_config){.seed = i, .pause_us = 200, .pageable = true, .drop_wait = i});
        ok(rig_open(r, "cuda", 1, *state));
        (void)train(r, 0.5);
        seen += !same(plain, r);
        (void)ofl_close(r->ctx);
    }
    assert_true(seen > 0);
    free(plain);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_and_no_waiting),      cmocka_unit_test(no_kernels_no_optimizer),
        cmocka_unit_test(a_binding_without_memory),      cmocka_unit_test(launches_that_fail_end_everything),
        cmocka_unit_test(a_lost_device_ends_everything), cmocka_unit_test(a_wait_that_is_left_out_is_seen),
    };

    return cmocka_run_group_tests_name("optimizer on cuda", tests, scratch_setup, scratch_teardown);
}
