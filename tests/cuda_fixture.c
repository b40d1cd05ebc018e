/* See cuda_fixture.h. */
#include "tests/cuda_fixture.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "include/offload_cuda.h"
#include "liboffload/device/cuda_driver.h"
#include "liboffload/device/device.h"

static struct {
    void *library;
    const struct cuda_stub *control;
    cuda_result (*launch)(cuda_stream, void (*)(void *), void *);
    cuda_result (*retain)(cuda_context *, cuda_device);
    cuda_result (*release)(cuda_device);
    cuda_result (*set)(cuda_context);
    cuda_result (*get)(cuda_context *);
} stub;

const struct cuda_stub *cuda_fixture(void)
{
    static char path[4096];
    ssize_t length;

    if (stub.control)
        return stub.control;
    length = readlink("/proc/self/exe", path, sizeof path - 64);
    assert_true(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, "libcuda_stub.so");
    setenv("OFL_CUDA_DRIVER", path, 1);
    stub.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!stub.library)
        fail_msg("%s", dlerror());
    strcpy(strrchr(path, '/') + 1, "libcublas_stub.so");
    setenv("OFL_CUBLAS", path, 1);
    *(void **)&stub.launch = dlsym(stub.library, "cuLaunchHostFunc");
    *(void **)&stub.retain = dlsym(stub.library, "cuDevicePrimaryCtxRetain");
    *(void **)&stub.release = dlsym(stub.library, "cuDevicePrimaryCtxRelease_v2");
    *(void **)&stub.set = dlsym(stub.library, "cuCtxSetCurrent");
    *(void **)&stub.get = dlsym(stub.library, "cuCtxGetCurrent");
    stub.control = dlsym(stub.library, "cuda_stub");
    assert_true(stub.launch && stub.retain && stub.release && stub.set && stub.get && stub.control);
    return stub.control;
}

void *cuda_fixture_symbol(const char *name)
{
    void *symbol;

    (void)cuda_fixture();
    symbol = dlsym(stub.library, name);
    if (!symbol)
        fail_msg("%s", dlerror());
    return symbol;
}

void cuda_fixture_needs_kernels(void)
{
    if (cuda_fixture()->emulates())
        return;
    print_message("the build had no C++ compiler: kernels can't run on the CPU\n");
    skip();
}

void cuda_fixture_launch(void *stream, void (*fn)(void *), void *arg)
{
    cuda_context context;

    assert_int_equal(stub.retain(&context, 0), 0);
    assert_int_equal(stub.set(context), 0);
    assert_int_equal(stub.launch(stream, fn, arg), 0);
    assert_int_equal(stub.set(NULL), 0);
    assert_int_equal(stub.release(0), 0);
}

void cuda_fixture_clean(void)
{
    cuda_context context;
    char text[200];

    if (stub.control->violations(text, sizeof text))
        fail_msg("the driver was misused: %s", text);
    assert_int_equal(stub.control->live(), 0);
    assert_int_equal(stub.get(&context), 0);
    assert_null(context);
}

bool fixture_on_cuda(void)
{
    const char *device = getenv("OFL_TEST_DEVICE");

    return device && strcmp(device, "cuda") == 0;
}

const char *fixture_device(void)
{
    static uint64_t seed;

    if (!fixture_on_cuda())
        return "host";
    if (fixture_on_gpu()) {
        gpu_fixture();
        return "cuda";
    }
    if (cuda_fixture()->live() == 0) /* what an earlier test left undone is lost, not checked */
        cuda_fixture()->reset(&(struct cuda_stub_config){.seed = ++seed, .pause_us = 50, .pageable = true});
    return "cuda";
}

void fixture_needs_kernels(void)
{
    if (fixture_on_cuda())
        cuda_fixture_needs_kernels();
}

static void launch(void *stream, void (*fn)(void *), void *arg, const struct fixture_range *range)
{
    if (fixture_on_gpu())
        gpu_fixture_launch(stream, fn, arg, range);
    else
        cuda_fixture_launch(stream, fn, arg);
}

int fixture_launch_on(struct dev_stream *s, void (*fn)(void *), void *arg)
{
    if (!fixture_on_cuda())
        return dev_stream_launch(s, fn, arg);
    launch(dev_stream_native(s), fn, arg, NULL);
    return 0;
}

int fixture_launch(struct ofl_stream *s, void (*fn)(void *), void *arg)
{
    if (!fixture_on_cuda())
        return ofl_stream_launch(s, fn, arg);
    launch(ofl_stream_cuda(s), fn, arg, NULL);
    return 0;
}

int fixture_kernel_on(struct dev_stream *s, void (*fn)(void *), void *arg, struct fixture_range range)
{
    if (!fixture_on_cuda())
        return dev_stream_launch(s, fn, arg);
    launch(dev_stream_native(s), fn, arg, &range);
    return 0;
}

int fixture_kernel(struct ofl_stream *s, void (*fn)(void *), void *arg, struct fixture_range range)
{
    if (!fixture_on_cuda())
        return ofl_stream_launch(s, fn, arg);
    launch(ofl_stream_cuda(s), fn, arg, &range);
    return 0;
}
