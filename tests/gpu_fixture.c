/* See gpu_fixture.h. */
#include "tests/gpu_fixture.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#include "liboffload/device/cuda_driver.h"

#define POOL_BYTES ((uint64_t)256 << 20)
#define CLASS_MIN  12u /* 4 KiB, then powers of two */
#define CLASSES    17u
#define PATIENCE_S 60

struct piece {
    struct piece *next; /* idle ones of the class */
    unsigned char *host;
    unsigned class;
    unsigned char *device;
    uint64_t bytes;
    void (*fn)(void *);
    void *arg;
};

static struct {
    struct cuda_driver driver;
    cuda_result (*launch)(cuda_stream, void (*)(void *), void *);
    cuda_result (*sync)(cuda_stream);
    cuda_context context;
    cuda_stream stream; /* of fixture_set and fixture_get */
    unsigned char *pool;
    uint64_t used;
    pthread_mutex_t lock; /* guards used and idle */
    pthread_cond_t more;
    struct piece *idle[CLASSES];
} gpu = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static _Thread_local const struct piece *view; /* of the kernel that this thread runs */

bool fixture_on_gpu(void)
{
    const char *driver = getenv("OFL_TEST_DRIVER");

    return driver && strcmp(driver, "real") == 0;
}

static void check(cuda_result result, const char *call)
{
    const char *name = NULL;

    if (result == CUDA_OK)
        return;
    (void)gpu.driver.calls.error_name(result, &name);
    fail_msg("%s: %s (%u)", call, name ? name : "unknown error", result);
}

/* The test's thread has no context current but in here. */
static void enter(void)
{
    check(gpu.driver.calls.context_set(gpu.context), "cuCtxSetCurrent");
}

static void leave(void)
{
    check(gpu.driver.calls.context_set(NULL), "cuCtxSetCurrent");
}

/* ---- opening ---------------------------------------------------------------- */

/* All pinned memory at once, before there is work: pinning may wait for a device that stands at a gate. */
static void open_pool(void)
{
    gpu.pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(gpu.pool, MAP_FAILED);
    check(gpu.driver.calls.host_register(gpu.pool, POOL_BYTES, CUDA_REGISTER_PORTABLE), "cuMemHostRegister");
}

void gpu_fixture(void)
{
    const char *other = getenv("OFL_CUDA_DRIVER"), *file = other && other[0] ? other : "libcuda.so.1";
    cuda_device device;
    void *library;

    if (gpu.context)
        return;
    if (cuda_driver_load(&gpu.driver, "the tests' GPU") != 0)
        fail_msg("%s cannot be used", file);
    library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    *(void **)&gpu.launch = dlsym(library, "cuLaunchHostFunc");
    *(void **)&gpu.sync = dlsym(library, "cuStreamSynchronize");
    assert_true(gpu.launch && gpu.sync);
    check(gpu.driver.calls.device_get(&device, 0), "cuDeviceGet");
    check(gpu.driver.calls.context_retain(&gpu.context, device), "cuDevicePrimaryCtxRetain");
    enter();
    check(gpu.driver.calls.stream_create(&gpu.stream, CUDA_STREAM_NON_BLOCKING, 0), "cuStreamCreate");
    open_pool();
    leave();
}

/* ---- pinned pieces ------------------------------------------------------------ */

static struct piece *piece_find(unsigned class)
{
    uint64_t bytes = (uint64_t)1 << (class + CLASS_MIN);
    struct piece *p = gpu.idle[class];

    if (p) {
        gpu.idle[class] = p->next;
        return p;
    }
    if (gpu.used + bytes > POOL_BYTES)
        return NULL;
    p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->host = gpu.pool + gpu.used;
    p->class = class;
    gpu.used += bytes;
    return p;
}

/* Waits for one: those in flight come back. */
static struct piece *piece_take(uint64_t bytes)
{
    struct timespec until;
    struct piece *p;
    unsigned class = 0;
    int late = 0;

    while (class < CLASSES && (uint64_t)1 << (class + CLASS_MIN) < bytes)
        class ++;
    assert_true(class < CLASSES);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&gpu.lock);
    while (!(p = piece_find(class)) && !late)
        late = pthread_cond_timedwait(&gpu.more, &gpu.lock, &until);
    pthread_mutex_unlock(&gpu.lock);
    if (!p)
        fail_msg("no %llu bytes of pinned memory in %d s", (unsigned long long)bytes, PATIENCE_S);
    return p;
}

/* ---- kernels: host functions, which may not call the driver ---------------------- */

static void kernel_run(void *arg)
{
    const struct piece *p = arg;

    view = p;
    p->fn(p->arg);
    view = NULL;
}

static void kernel_end(void *arg)
{
    struct piece *p = arg;

    pthread_mutex_lock(&gpu.lock);
    p->next = gpu.idle[p->class];
    gpu.idle[p->class] = p;
    pthread_cond_broadcast(&gpu.more);
    pthread_mutex_unlock(&gpu.lock);
}

void gpu_fixture_launch(void *stream, void (*fn)(void *), void *arg, const struct fixture_range *range)
{
    struct piece *p;

    if (!range) {
        enter();
        check(gpu.launch(stream, fn, arg), "cuLaunchHostFunc");
        leave();
        return;
    }
    p = piece_take(range->bytes);
    p->device = range->at;
    p->bytes = range->bytes;
    p->fn = fn;
    p->arg = arg;
    enter();
    if (p->bytes > 0)
        check(gpu.driver.calls.copy_out(p->host, (cuda_pointer)(uintptr_t)p->device, p->bytes, stream),
              "cuMemcpyDtoHAsync");
    check(gpu.launch(stream, kernel_run, p), "cuLaunchHostFunc");
    if (p->bytes > 0 && range->writes)
        check(gpu.driver.calls.copy_in((cuda_pointer)(uintptr_t)p->device, p->host, p->bytes, stream),
              "cuMemcpyHtoDAsync");
    check(gpu.launch(stream, kernel_end, p), "cuLaunchHostFunc");
    leave();
}

void *fixture_view(void *at)
{
    uintptr_t offset;

    if (!fixture_on_gpu())
        return at;
    assert_non_null(view);
    offset = (uintptr_t)at - (uintptr_t)view->device;
    assert_true(offset <= view->bytes);
    return view->host + offset;
}

/* ---- the test itself ----------------------------------------------------------------- */

void fixture_set(void *at, uint8_t byte, uint64_t bytes)
{
    if (!fixture_on_gpu()) {
        memset(at, byte, bytes);
        return;
    }
    enter();
    check(gpu.driver.calls.fill((cuda_pointer)(uintptr_t)at, byte, bytes, gpu.stream), "cuMemsetD8Async");
    check(gpu.sync(gpu.stream), "cuStreamSynchronize");
    leave();
}

void fixture_get(void *to, const void *at, uint64_t bytes)
{
    struct piece *p;

    if (!fixture_on_gpu()) {
        memcpy(to, at, bytes);
        return;
    }
    p = piece_take(bytes);
    enter();
    check(gpu.driver.calls.copy_out(p->host, (cuda_pointer)(uintptr_t)at, bytes, gpu.stream),
          "cuMemcpyDtoHAsync");
    check(gpu.sync(gpu.stream), "cuStreamSynchronize");
    leave();
    memcpy(to, p->host, bytes);
    kernel_end(p);
}
