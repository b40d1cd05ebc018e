/*
 * The CUDA driver as a plain program uses it, for comparisons: entry points found at run time,
 * the context of one GPU made current, and what that GPU is. Knows nothing of the library.
 *
 * Functions that return an int called status return 0, or the exit status with which the
 * program is to end, after they have said why on stderr.
 */
#ifndef BENCH_CUDA_H
#define BENCH_CUDA_H

#include "bench/bench.h"

typedef int bench_cuda_result; /* 0: success */
typedef unsigned long long bench_cuda_pointer;

/* Our name, the driver's, parameters. Handles are pointers to us. */
#define BENCH_CUDA_CALLS(X)                                                                                  \
    X(init, cuInit, (unsigned))                                                                              \
    X(version, cuDriverGetVersion, (int *))                                                                  \
    X(device_count, cuDeviceGetCount, (int *))                                                               \
    X(device_get, cuDeviceGet, (int *, int))                                                                 \
    X(device_name, cuDeviceGetName, (char *, int, int))                                                      \
    X(device_attribute, cuDeviceGetAttribute, (int *, int, int))                                             \
    X(device_pci, cuDeviceGetPCIBusId, (char *, int, int))                                                   \
    X(context_retain, cuDevicePrimaryCtxRetain, (void **, int))                                              \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (int))                                                  \
    X(context_set, cuCtxSetCurrent, (void *))                                                                \
    X(mem_info, cuMemGetInfo_v2, (size_t *, size_t *))                                                       \
    X(host_alloc, cuMemHostAlloc, (void **, size_t, unsigned))                                               \
    X(host_free, cuMemFreeHost, (void *))                                                                    \
    X(stream_create, cuStreamCreateWithPriority, (void **, unsigned, int))                                   \
    X(stream_destroy, cuStreamDestroy_v2, (void *))                                                          \
    X(stream_sync, cuStreamSynchronize, (void *))                                                            \
    X(stream_wait_event, cuStreamWaitEvent, (void *, void *, unsigned))                                      \
    X(event_create, cuEventCreate, (void **, unsigned))                                                      \
    X(event_destroy, cuEventDestroy_v2, (void *))                                                            \
    X(event_record, cuEventRecord, (void *, void *))                                                         \
    X(event_elapsed, cuEventElapsedTime, (float *, void *, void *))                                          \
    X(copy_in, cuMemcpyHtoDAsync_v2, (bench_cuda_pointer, const void *, size_t, void *))                     \
    X(copy_out, cuMemcpyDtoHAsync_v2, (void *, bench_cuda_pointer, size_t, void *))                          \
    X(error_name, cuGetErrorName, (bench_cuda_result, const char **))                                        \
    X(error_string, cuGetErrorString, (bench_cuda_result, const char **))

struct bench_cuda {
#define X(name, symbol, params) bench_cuda_result(*name) params;
    BENCH_CUDA_CALLS(X)
#undef X
    int device;
    void *context; /* current in the thread that opened it */

    /* What it is; "" or -1: not known. */
    char name[128], pci[32], link[96];
    int driver_version, node;
    int major, minor, multiprocessors, copy_engines;
    uint64_t memory_bytes, free_bytes;
};

/* Loads libcuda.so.1, or what OFL_CUDA_DRIVER names, and opens GPU number unit. The driver stays
 * loaded: it has threads of its own. Returns a status. */
int bench_cuda_open(struct bench_cuda *c, unsigned unit);
void bench_cuda_close(struct bench_cuda *c);
/* Says that a call failed; returns EXIT_RUNTIME. */
int bench_cuda_fail(const struct bench_cuda *c, bench_cuda_result result, const char *call);
json_t *bench_cuda_json(const struct bench_cuda *c);

#endif
