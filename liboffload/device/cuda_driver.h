/*
 * cuda_driver: the part of the CUDA driver's interface that cuda.c uses, found at run time.
 * Owns the table of entry points, how often each was called, and how a failure of the driver
 * becomes a code and a sentence. Knows nothing of devices, streams or copies.
 *
 * Nothing of CUDA is needed to build this: types and constants are declared here, with the
 * tags of the toolkit's own header, so that tests/test_cuda_driver.c can compare each of them
 * with it where that header is installed.
 */
#ifndef OFL_DEVICE_CUDA_DRIVER_H
#define OFL_DEVICE_CUDA_DRIVER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned cuda_result;
typedef int cuda_device;
typedef unsigned long long cuda_pointer; /* an address in device memory */
typedef struct CUctx_st *cuda_context;
typedef struct CUstream_st *cuda_stream;
typedef struct CUevent_st *cuda_event;
typedef struct CUmod_st *cuda_module;
typedef struct CUfunc_st *cuda_function;

enum {
    CUDA_OK = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NO_DEVICE = 100,
    CUDA_INVALID_DEVICE = 101,
    CUDA_INVALID_IMAGE = 200,
    CUDA_NO_BINARY = 209, /* in the image, for this GPU */
    CUDA_INVALID_PTX = 218,
    CUDA_UNSUPPORTED_PTX = 222,
    CUDA_NOT_FOUND = 500,
    CUDA_NO_COMPILER = 221, /* for PTX */
    CUDA_NOT_READY = 600,
    CUDA_ALREADY_REGISTERED = 712,
    CUDA_NOT_PERMITTED = 800,
    CUDA_NOT_SUPPORTED = 801,

    CUDA_STREAM_NON_BLOCKING = 1, /* not ordered with the legacy default stream */
    CUDA_EVENT_DEFAULT = 0,
    CUDA_REGISTER_PORTABLE = 1,
    CUDA_REGISTER_DEVICEMAP = 2,
    CUDA_ALLOC_PORTABLE = 1,
    CUDA_ALLOC_DEVICEMAP = 2,
    CUDA_WAIT_GEQ = 0, /* until (int32_t)(*address - value) >= 0 */
};

/* Every entry point: our name, the driver's, parameters. The ABI's names: where cuda.h has a
 * macro that adds _v2, so has this list. */
#define CUDA_CALLS(X)                                                                                        \
    X(init, cuInit, (unsigned))                                                                              \
    X(device_count, cuDeviceGetCount, (int *))                                                               \
    X(device_get, cuDeviceGet, (cuda_device *, int))                                                         \
    X(context_retain, cuDevicePrimaryCtxRetain, (cuda_context *, cuda_device))                               \
    X(context_set, cuCtxSetCurrent, (cuda_context))                                                          \
    X(context_get, cuCtxGetCurrent, (cuda_context *))                                                        \
    X(priorities, cuCtxGetStreamPriorityRange, (int *, int *))                                               \
    X(mem_alloc, cuMemAlloc_v2, (cuda_pointer *, size_t))                                                    \
    X(mem_free, cuMemFree_v2, (cuda_pointer))                                                                \
    X(mem_info, cuMemGetInfo_v2, (size_t *, size_t *))                                                       \
    X(host_register, cuMemHostRegister_v2, (void *, size_t, unsigned))                                       \
    X(host_unregister, cuMemHostUnregister, (void *))                                                        \
    X(host_alloc, cuMemHostAlloc, (void **, size_t, unsigned))                                               \
    X(host_free, cuMemFreeHost, (void *))                                                                    \
    X(host_pointer, cuMemHostGetDevicePointer_v2, (cuda_pointer *, void *, unsigned))                        \
    X(stream_create, cuStreamCreateWithPriority, (cuda_stream *, unsigned, int))                             \
    X(stream_destroy, cuStreamDestroy_v2, (cuda_stream))                                                     \
    X(stream_wait_value, cuStreamWaitValue32_v2, (cuda_stream, cuda_pointer, uint32_t, unsigned))            \
    X(event_create, cuEventCreate, (cuda_event *, unsigned))                                                 \
    X(event_destroy, cuEventDestroy_v2, (cuda_event))                                                        \
    X(event_record, cuEventRecord, (cuda_event, cuda_stream))                                                \
    X(event_query, cuEventQuery, (cuda_event))                                                               \
    X(event_elapsed, cuEventElapsedTime, (float *, cuda_event, cuda_event))                                  \
    X(copy_in, cuMemcpyHtoDAsync_v2, (cuda_pointer, const void *, size_t, cuda_stream))                      \
    X(copy_out, cuMemcpyDtoHAsync_v2, (void *, cuda_pointer, size_t, cuda_stream))                           \
    X(fill, cuMemsetD8Async, (cuda_pointer, unsigned char, size_t, cuda_stream))                             \
    X(module_load, cuModuleLoadData, (cuda_module *, const void *))                                          \
    X(module_unload, cuModuleUnload, (cuda_module))                                                          \
    X(module_function, cuModuleGetFunction, (cuda_function *, cuda_module, const char *))                    \
    X(launch, cuLaunchKernel,                                                                                \
      (cuda_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cuda_stream,     \
       void **, void **))                                                                                    \
    X(error_name, cuGetErrorName, (cuda_result, const char **))                                              \
    X(error_string, cuGetErrorString, (cuda_result, const char **))

struct cuda_calls {
#define X(name, symbol, params) cuda_result(*name) params;
    CUDA_CALLS(X)
#undef X
};

/* How often each was called. */
struct cuda_counts {
#define X(name, symbol, params) _Atomic uint64_t name;
    CUDA_CALLS(X)
#undef X
};

struct cuda_driver {
    void *library; /* dlopen's */
    struct cuda_calls calls;
    struct cuda_counts counts;
};

/* Calls an entry point of d, and counts it. */
#define CUDA_CALL(d, name, ...)                                                                              \
    (atomic_fetch_add_explicit(&(d)->counts.name, 1, memory_order_relaxed), (d)->calls.name(__VA_ARGS__))

/* Any thread. Loads libcuda.so.1, or what OFL_CUDA_DRIVER names, fills d and initialises the
 * driver. -ENODEV if there is none, with a sentence that says why. The driver is never
 * unloaded: it has threads of its own. what begins the sentence: "open device ...". */
int cuda_driver_load(struct cuda_driver *d, const char *what);

/* Any thread. Its entry point of that name, of the ABI, in CUDA_CALLS or not; NULL: none. */
void *cuda_driver_symbol(const struct cuda_driver *d, const char *symbol);

/* Any thread. Sets this thread's sentence, "<the given one>: <name of result>: <its text>", and
 * returns the errno code nearest to result. */
int cuda_driver_fail(struct cuda_driver *d, cuda_result result, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
