/*
 * Proves of a context on the cuda device, on the stub driver: it opens and says what it lacks;
 * its context and the driver's entry points are given out, its streams are CUDA streams, and
 * its host memory is registered, so that every copy of a paging program is between registered
 * and device memory (the stub refuses others); the host never waits for the GPU in a step;
 * registration that fails is an error where pinned memory is demanded and a warning elsewhere;
 * a device lost on the way breaks the context with the first error, and closing it returns.
 * A thread does not run so far ahead of its stream that a GPU's queue would be full.
 * The random programs of test_core.c run on it: cuda.sh.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "include/offload.h"
#include "include/offload_cuda.h"
#include "liboffload/device/cuda_driver.h"
#include "tests/core_fixture.h"
#include "tests/cuda_fixture.h"

#define MIB     (1ull << 20)
#define TENSORS 12
#define BYTES   (256u << 10)

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[TENSORS];
    unsigned char *bytes;
};

static char warning[1024];

static void keep_warning(void *arg, enum ofl_log_level level, const char *text)
{
    (void)arg;
    if (level == OFL_LOG_WARNING)
        snprintf(warning, sizeof warning, "%s", text);
}

static struct ofl_config config_of(const char *dir, uint32_t flags)
{
    warning[0] = '\0';
    return (struct ofl_config){.size = sizeof(struct ofl_config),
                               .device = "cuda:0",
                               .device_bytes = 3 * BYTES,
                               .host_bytes = 2 * MIB,
                               .nvme = fixture_nvme(dir, 16 * MIB),
                               .nvme_count = 1,
                               .flags = flags,
                               .log = keep_warning};
}

static int rig_open(struct rig *r, const struct ofl_config *config)
{
    int err;

    memset(r, 0, sizeof *r);
    r->bytes = malloc(BYTES);
    assert_non_null(r->bytes);
    err = ofl_open(config, &r->ctx);
    if (err == 0)
        err = ofl_stream_create(r->ctx, &r->stream);
    for (int i = 0; i < TENSORS && err == 0; i++) {
        char name[32];
        struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U8, .elems = BYTES};

        snprintf(name, sizeof name, "tensor-%d", i);
        err = ofl_tensor_create(r->ctx, &d, &r->tensors[i]);
    }
    return err;
}

static int rig_close(struct rig *r)
{
    free(r->bytes);
    return fixture_ctx_close(r->ctx);
}

/* Takes all tensors through the device, for writing. */
static int rig_pass(struct rig *r)
{
    int err = 0;

    for (int i = 0; i < TENSORS && err == 0; i++) {
        struct ofl_lease l = {.tensor = r->tensors[i], .mode = OFL_UPDATE};

        err = ofl_acquire(r->ctx, &l, 1, r->stream);
        if (err == 0)
            err = ofl_release(r->ctx, &l, 1, r->stream);
    }
    return err;
}

static int rig_write(struct rig *r)
{
    int err = 0;

    for (int i = 0; i < TENSORS && err == 0; i++) {
        memset(r->bytes, i + 1, BYTES);
        err = ofl_tensor_write(r->tensors[i], 0, r->bytes, BYTES);
    }
    return err;
}

static void ok(int err)
{
    if (err != 0)
        fail_msg("%d: %s", err, ofl_error());
}

static void pages_without_waiting(void **state)
{
    struct ofl_config config = config_of(*state, OFL_POISON);
    const struct cuda_stub *stub = cuda_fixture();
    struct ofl_stats stats = {.size = sizeof stats};
    uint64_t calls;
    struct rig r;

    stub->reset(&(struct cuda_stub_config){.seed = 3, .pause_us = 50, .depth = 6});
    ok(rig_open(&r, &config));
    ok(rig_write(&r));
    for (int step = 0; step < 4; step++) {
        ok(ofl_step_begin(r.ctx, "step"));
        ok(rig_pass(&r));
        ok(ofl_step_end(r.ctx));
    }
    ok(ofl_stream_sync(r.stream));
    calls = stub->calls("cuStreamSynchronize") + stub->calls("cuCtxSynchronize") +
            stub->calls("cuEventSynchronize");
    assert_int_equal(calls, 0);
    for (int i = 0; i < TENSORS; i++) {
        ok(ofl_tensor_read(r.tensors[i], 0, r.bytes, BYTES));
        for (unsigned k = 0; k < BYTES; k++)
            if (r.bytes[k] != i + 1)
                fail_msg("tensor %d: byte %u is %d", i, k, r.bytes[k]);
    }
    ok(ofl_stats_get(r.ctx, &stats));
    assert_true(stats.device_in_bytes >= 4 * (TENSORS - 3) * BYTES);
    assert_true(stats.driver_calls > 0);
    ok(rig_close(&r));
    cuda_fixture_clean();
}

static void says_what_it_lacks(void **state)
{
    struct ofl_config config = config_of(*state, 0);
    struct ofl_stream *s;
    struct ofl_ctx *ctx;
    struct rig r;

    cuda_fixture()->reset(&(struct cuda_stub_config){0});
    ok(rig_open(&r, &config));
    assert_non_null(ofl_stream_cuda(r.stream));
    assert_int_equal(ofl_stream_launch(r.stream, free, NULL), -ENOTSUP);
    assert_non_null(strstr(ofl_error(), "device \"cuda:0\" does not run host functions"));
    ok(rig_close(&r));
    cuda_fixture_clean();
    config.device = NULL; /* the host's, still */
    ok(ofl_open(&config, &ctx));
    ok(ofl_stream_create(ctx, &s));
    assert_null(ofl_stream_cuda(s));
    ok(fixture_ctx_close(ctx));
    cuda_fixture()->reset(&(struct cuda_stub_config){.no_device = true});
    config.device = "cuda";
    assert_int_equal(ofl_open(&config, &ctx), -ENODEV);
    assert_non_null(strstr(ofl_error(), "CUDA_ERROR_NO_DEVICE"));
}

/* What a program that is not linked with CUDA starts from. */
static void gives_context_and_entry_points(void **state)
{
    struct ofl_config config = config_of(*state, 0);
    cuda_result (*set)(cuda_context), (*get)(cuda_context *);
    cuda_context context = NULL;
    struct ofl_ctx *ctx;

    cuda_fixture()->reset(&(struct cuda_stub_config){0});
    ok(ofl_open(&config, &ctx));
    *(void **)&set = ofl_cuda_symbol(ctx, "cuCtxSetCurrent");
    *(void **)&get = ofl_cuda_symbol(ctx, "cuCtxGetCurrent");
    assert_true(set && get);
    assert_non_null(ofl_cuda_symbol(ctx, "cuMemAlloc_v2")); /* the ABI's name */
    assert_null(ofl_cuda_symbol(ctx, "cuMemAlloc"));
    assert_null(ofl_cuda_symbol(ctx, "cuNoSuchCall"));
    assert_null(ofl_cuda_symbol(ctx, NULL));
    assert_non_null(ofl_cuda_context(ctx));
    assert_int_equal(set(ofl_cuda_context(ctx)), CUDA_OK);
    assert_int_equal(get(&context), CUDA_OK);
    assert_ptr_equal(context, ofl_cuda_context(ctx));
    assert_int_equal(set(NULL), CUDA_OK);
    ok(fixture_ctx_close(ctx));
    cuda_fixture_clean();
    config.device = "host";
    ok(ofl_open(&config, &ctx));
    assert_null(ofl_cuda_symbol(ctx, "cuCtxSetCurrent"));
    assert_null(ofl_cuda_context(ctx));
    ok(fixture_ctx_close(ctx));
}

static void registration_fails(void **state)
{
    const struct cuda_stub_config stub = {
        .pageable = true, .fail_call = "cuMemHostRegister_v2", .fail_nth = 2, .fail_code = 2};
    struct ofl_config config = config_of(*state, OFL_FORBID_PAGEABLE);
    struct ofl_stats stats = {.size = sizeof stats};
    struct rig r;

    cuda_fixture()->reset(&stub);
    if (ofl_open(&config, &r.ctx) != -OFL_EPINNED)
        fail_msg("%s", ofl_error());
    cuda_fixture_clean();
    cuda_fixture()->reset(&stub);
    config.flags = 0;
    ok(rig_open(&r, &config));
    assert_non_null(strstr(warning, "pageable for the device: cuda:0: cuMemHostRegister of 2097152 bytes"));
    ok(ofl_stats_get(r.ctx, &stats));
    assert_int_equal(stats.pinned, 0);
    ok(rig_write(&r));
    ok(rig_pass(&r));
    ok(rig_close(&r));
    cuda_fixture_clean();
}

/* Until the device is lost all is well; from then on calls fail, and every one returns. */
static void a_lost_device_breaks_the_context(void **state)
{
    unsigned broken = 0, seeds = fixture_rounds(40);
    struct rig r;

    for (unsigned seed = 1; seed <= seeds; seed++) {
        struct ofl_config config = config_of(*state, 0);
        int err;

        cuda_fixture()->reset(
            &(struct cuda_stub_config){.seed = seed, .pause_us = 20, .lose_after = 2 + 7 * seed});
        err = rig_open(&r, &config);
        if (err == 0)
            err = rig_write(&r);
        for (int i = 0; i < 3 && err == 0; i++)
            err = rig_pass(&r);
        if (err == 0)
            err = ofl_stream_sync(r.stream);
        broken += err < 0;
        if (err < 0 && err != -OFL_EBROKEN && err != -EIO)
            fail_msg("seed %u: %d: %s", seed, err, ofl_error());
        if (err < 0 && !strstr(ofl_error(), "CUDA_ERROR_LAUNCH_FAILED (719)"))
            fail_msg("seed %u: %d: %s", seed, err, ofl_error());
        (void)rig_close(&r); /* returns, whatever it says */
    }
    assert_true(broken > seeds / 2);
}

static void names_say_what_they_are(void **state)
{
    struct ofl_device_info info = {.size = sizeof info};
    char *driver = strdup(cuda_fixture() ? getenv("OFL_CUDA_DRIVER") : "");

    (void)state;
    cuda_fixture()->reset(&(struct cuda_stub_config){.devices = 2, .memory_bytes = 5 * MIB});
    assert_int_equal(ofl_device_info_get(NULL, &info), 0);
    assert_string_equal(info.device, "cuda:0");
    assert_true(info.gpu == 1 && info.memory_bytes == 5 * MIB && info.name[0]);
    assert_int_equal(ofl_device_info_get("cuda:1", &info), 0);
    assert_string_equal(info.device, "cuda:1");
    assert_int_equal(ofl_device_info_get("host", &info), 0);
    assert_string_equal(info.device, "host");
    assert_true(info.gpu == 0 && info.memory_bytes > MIB);
    assert_int_equal(ofl_device_info_get("cuda:2", &info), -ENODEV);
    assert_non_null(strstr(ofl_error(), "the driver has 2"));
    assert_int_equal(ofl_device_info_get("tpu", &info), -ENODEV);
    info.size = 3;
    assert_true(ofl_device_info_get("host", &info) < 0);
    info.size = sizeof info;

    /* where there is no GPU, or no driver, the default is the host device */
    cuda_fixture()->reset(&(struct cuda_stub_config){.no_device = true});
    assert_int_equal(ofl_device_info_get(NULL, &info), 0);
    assert_string_equal(info.device, "host");
    setenv("OFL_CUDA_DRIVER", "/proc/self/absent/libcuda.so", 1);
    assert_int_equal(ofl_device_info_get(NULL, &info), 0);
    assert_string_equal(info.device, "host");
    assert_int_equal(ofl_device_info_get("cuda", &info), -ENODEV);
    assert_non_null(strstr(ofl_error(), "/proc/self/absent/libcuda.so"));
    setenv("OFL_CUDA_DRIVER", driver, 1);
    free(driver);

    /* one that fails is not passed over in silence */
    cuda_fixture()->reset(
        &(struct cuda_stub_config){.fail_call = "cuDeviceTotalMem_v2", .fail_nth = 1, .fail_code = 999});
    assert_int_equal(ofl_device_info_get(NULL, &info), -ENOTSUP);
}

static void slow(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
}

/* A stream takes about 1000 operations. Behind one that lasts, hundreds of leases would be far more. */
static void queues_stay_short(void **state)
{
    const struct cuda_stub *stub = cuda_fixture();
    struct ofl_config config = config_of(*state, 0);
    struct rig r;

    stub->reset(&(struct cuda_stub_config){.depth = 100000, .pageable = true});
    assert_int_equal(rig_open(&r, &config), 0);
    assert_int_equal(rig_write(&r), 0);
    cuda_fixture_launch(ofl_stream_cuda(r.stream), slow, NULL);
    for (int i = 0; i < 60; i++)
        assert_int_equal(rig_pass(&r), 0);
    assert_true(stub->deepest() > 16);
    assert_true(stub->deepest() < 150);
    assert_int_equal(rig_close(&r), 0);
    cuda_fixture_clean();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_without_waiting),
        cmocka_unit_test(says_what_it_lacks),
        cmocka_unit_test(gives_context_and_entry_points),
        cmocka_unit_test(names_say_what_they_are),
        cmocka_unit_test(queues_stay_short),
        cmocka_unit_test(registration_fails),
        cmocka_unit_test(a_lost_device_breaks_the_context),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
