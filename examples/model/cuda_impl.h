/* What cuda.c and cuda_blas.c share. Only they include this. */
#ifndef LLAMA_CUDA_IMPL_H
#define LLAMA_CUDA_IMPL_H

#include "examples/model/cuda.h"

typedef unsigned long long cuda_address; /* of device memory, as the driver takes it */

/* Entry points of the driver: our name, the driver's, parameters. Handles are pointers. */
#define DRIVER_CALLS(X)                                                                                      \
    X(context_get, cuCtxGetCurrent, (void **))                                                               \
    X(context_set, cuCtxSetCurrent, (void *))                                                                \
    X(module_load, cuModuleLoadData, (void **, const void *))                                                \
    X(module_unload, cuModuleUnload, (void *))                                                               \
    X(function_get, cuModuleGetFunction, (void **, void *, const char *))                                    \
    X(function_set, cuFuncSetAttribute, (void *, int, int))                                                  \
    X(launch, cuLaunchKernel,                                                                                \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,        \
       void **))                                                                                             \
    X(copy_in, cuMemcpyHtoDAsync_v2, (cuda_address, const void *, size_t, void *))                           \
    X(copy_out, cuMemcpyDtoHAsync_v2, (void *, cuda_address, size_t, void *))                                \
    X(copy, cuMemcpyDtoDAsync_v2, (cuda_address, cuda_address, size_t, void *))                              \
    X(fill, cuMemsetD8Async, (cuda_address, unsigned char, size_t, void *))                                  \
    X(host_alloc, cuMemHostAlloc, (void **, size_t, unsigned))                                               \
    X(host_free, cuMemFreeHost, (void *))                                                                    \
    X(error_name, cuGetErrorName, (unsigned, const char **))                                                 \
    X(error_text, cuGetErrorString, (unsigned, const char **))

struct driver_calls {
#define X(name, symbol, params) unsigned(*name) params;
    DRIVER_CALLS(X)
#undef X
};

/* Entry points of cuBLAS. Numbers of its enums are passed as int. */
#define BLAS_CALLS(X)                                                                                        \
    X(create, cublasCreate_v2, (void **))                                                                    \
    X(destroy, cublasDestroy_v2, (void *))                                                                   \
    X(set_stream, cublasSetStream_v2, (void *, void *))                                                      \
    X(set_workspace, cublasSetWorkspace_v2, (void *, void *, size_t))                                        \
    X(gemm, cublasGemmEx,                                                                                    \
      (void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,        \
       const void *, void *, int, int, int, int))

struct blas_calls {
#define X(name, symbol, params) int(*name) params;
    BLAS_CALLS(X)
#undef X
};

#define MODULES_MAX   4
#define FUNCTIONS_MAX 96
#define PINNED_MAX    8

struct cuda_function {
    const char *name;
    enum ofl_dtype dtype;
    void *handle;
    size_t shared_bytes; /* of dynamic shared memory that it may take */
};

/* A product that cuBLAS has been asked for: sizes, types, transposes. */
struct blas_shape {
    size_t m, n, k, stride; /* of the result */
    int a_transposed, b_transposed, type, result_type;
};

#define SHAPES_MAX 128

struct llama_cuda {
    struct driver_calls driver;
    struct blas_calls blas;
    unsigned (*function_load)(void *); /* cuFuncLoad, since CUDA 12.4; or NULL */
    struct ofl_stream *ofl_stream;
    void *stream, *before; /* ofl_stream's; the thread's context when this was opened */
    void *modules[MODULES_MAX];
    struct cuda_function functions[FUNCTIONS_MAX];
    size_t modules_count, functions_count, pinned_count;
    void *pinned[PINNED_MAX];
    void *blas_handle;
    struct blas_shape shapes[SHAPES_MAX];
    size_t shapes_count;
    uint64_t calls;
    int code; /* of the first failure */
    char error[400];
};

/* Keeps the first failure. */
void llama_cuda_fail(struct llama_cuda *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* cuda_blas.c */
void llama_blas_open(struct llama_cuda *c);
void llama_blas_close(struct llama_cuda *c);

#endif
