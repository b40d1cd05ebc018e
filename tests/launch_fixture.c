/* See launch_fixture.h. */
#include "tests/launch_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cuda_fixture.h"

struct launch_calls launch_cu;
struct launch_on launch_on;

void launch_load(void)
{
    const struct {
        void *at;
        const char *name;
    } symbols[] = {{&launch_cu.init, "cuInit"},
                   {&launch_cu.retain, "cuDevicePrimaryCtxRetain"},
                   {&launch_cu.release, "cuDevicePrimaryCtxRelease_v2"},
                   {&launch_cu.set, "cuCtxSetCurrent"},
                   {&launch_cu.sync, "cuCtxSynchronize"},
                   {&launch_cu.alloc, "cuMemAlloc_v2"},
                   {&launch_cu.free, "cuMemFree_v2"},
                   {&launch_cu.host_alloc, "cuMemHostAlloc"},
                   {&launch_cu.host_free, "cuMemFreeHost"},
                   {&launch_cu.in, "cuMemcpyHtoDAsync_v2"},
                   {&launch_cu.out, "cuMemcpyDtoHAsync_v2"},
                   {&launch_cu.copy, "cuMemcpyDtoDAsync_v2"},
                   {&launch_cu.stream, "cuStreamCreateWithPriority"},
                   {&launch_cu.stream_end, "cuStreamDestroy_v2"},
                   {&launch_cu.load, "cuModuleLoadData"},
                   {&launch_cu.unload, "cuModuleUnload"},
                   {&launch_cu.find, "cuModuleGetFunction"},
                   {&launch_cu.allow, "cuFuncSetAttribute"},
                   {&launch_cu.attribute, "cuDeviceGetAttribute"},
                   {&launch_cu.launch, "cuLaunchKernel"}};

    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
        *(void **)symbols[i].at = cuda_fixture_symbol(symbols[i].name);
    launch_cu.control = cuda_fixture();
}

void launch_begin(const struct cuda_stub_config *config)
{
    cuda_context context;

    if (launch_cu.control->live())
        fail_msg("an earlier test left something open");
    launch_cu.control->reset(config);
    assert_int_equal(launch_cu.init(0), 0);
    assert_int_equal(launch_cu.retain(&context, 0), 0);
    assert_int_equal(launch_cu.set(context), 0);
    assert_int_equal(launch_cu.stream(&launch_on.stream, CUDA_STREAM_NON_BLOCKING, 0), 0);
    assert_int_equal(launch_cu.load(&launch_on.module, "any image"), 0);
    assert_int_equal(launch_cu.alloc(&launch_on.in, LAUNCH_BYTES), 0);
    assert_int_equal(launch_cu.alloc(&launch_on.out, LAUNCH_BYTES), 0);
    assert_int_equal(launch_cu.host_alloc((void **)&launch_on.host, LAUNCH_BYTES, 0), 0);
    memset(launch_on.host, 0, LAUNCH_BYTES);
}

unsigned launch_end(char *text, size_t size)
{
    unsigned rc = launch_cu.sync();

    (void)launch_cu.stream_end(launch_on.stream);
    (void)launch_cu.unload(launch_on.module);
    (void)launch_cu.free(launch_on.in);
    (void)launch_cu.free(launch_on.out);
    (void)launch_cu.host_free(launch_on.host);
    assert_int_equal(launch_cu.set(NULL), 0);
    assert_int_equal(launch_cu.release(0), 0);
    (void)launch_cu.control->violations(text, size);
    assert_int_equal(launch_cu.control->live(), 0);
    return rc;
}

void launch_end_well(void)
{
    char text[300];
    unsigned rc = launch_end(text, sizeof text);

    assert_string_equal(text, "");
    assert_int_equal(rc, 0);
}

unsigned launch_try(const char *name, struct launch_dims grid, struct launch_dims block, unsigned shared,
                    void **args)
{
    void *function;
    unsigned rc = launch_cu.find(&function, launch_on.module, name);

    return rc ? rc
              : launch_cu.launch(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                                 launch_on.stream, args, NULL);
}

void launch_kernel(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **args)
{
    assert_int_equal(launch_try(name, (struct launch_dims){blocks, 1, 1}, (struct launch_dims){threads, 1, 1},
                                shared, args),
                     0);
}

void launch_send(cuda_pointer to, const void *data, size_t bytes)
{
    assert_int_equal(launch_cu.sync(), 0); /* host may be on its way */
    memcpy(launch_on.host, data, bytes);
    assert_int_equal(launch_cu.in(to, launch_on.host, bytes, launch_on.stream), 0);
    assert_int_equal(launch_cu.sync(), 0);
}

void launch_receive(void *data, cuda_pointer from, size_t bytes)
{
    assert_int_equal(launch_cu.out(launch_on.host, from, bytes, launch_on.stream), 0);
    assert_int_equal(launch_cu.sync(), 0);
    memcpy(data, launch_on.host, bytes);
}

void launch_fill(float *x, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i * 7 + seed * 13) % 31) - 15.0f;
}
