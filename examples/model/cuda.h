/*
 * A GPU as the model's kernels use it: modules of kernels, launches, cuBLAS, pinned memory for the few
 * numbers that go back and forth. Everything is put on one stream of the library's, in order.
 *
 * Nothing of CUDA is linked: the driver is the one that liboffload has loaded, cuBLAS is loaded when a
 * GPU is opened (libcublas.so.13 or .12, or the file that OFL_CUBLAS names).
 *
 * One thread uses it: the library's step thread. What is put on the stream returns nothing: the first
 * failure is kept, later calls do nothing, and llama_cuda_check tells.
 */
#ifndef LLAMA_CUDA_H
#define LLAMA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/shape.h"
#include "include/offload.h"

struct llama_cuda;

/* ctx: on a cuda device. s: of ctx. -ENODEV and the sentence where cuBLAS is missing, -ENOEXEC where no
 * kernels for this GPU were built. */
int llama_cuda_open(struct ofl_ctx *ctx, struct ofl_stream *s, struct llama_cuda **out, char *error,
                    size_t error_bytes);
/* Waits for the stream's work, which no closed gate may hold up. NULL accepted. */
void llama_cuda_close(struct llama_cuda *c);
/* 0, or the first failure of what was put on the stream, with its sentence. */
int llama_cuda_check(const struct llama_cuda *c, char *error, size_t error_bytes);

/*
 * Waits until the stream is at rest: to be called before a kernel is used for the first time. The driver
 * loads it then, and may wait for everything on the GPU meanwhile ("Lazy Loading" in the CUDA C++
 * Programming Guide). Were our stream at a gate, that would last until the library has opened it, for which
 * the library may need the driver. The optimizer's stream may be at one: what opens that has been
 * reported when ours is at rest, so it needs no call of the driver any more.
 */
void llama_cuda_rest(struct llama_cuda *c);

struct llama_launch {
    const char *name;     /* of the kernel, less "_f32", "_bf16" or "_f16". A string literal */
    enum ofl_dtype dtype; /* OFL_F32, OFL_BF16 or OFL_F16: gives the rest of the name */
    unsigned grid[3];     /* blocks; 0 means 1 */
    unsigned threads;     /* of a block */
    size_t shared_bytes;  /* dynamic shared memory of a block; more than 48 KiB are asked for */
};

/* args: the addresses of the kernel's parameters. They are read before it returns. */
void llama_cuda_launch(struct llama_cuda *c, const struct llama_launch *launch, void **args);

/* Zeros bytes of device memory. */
void llama_cuda_zero(struct llama_cuda *c, void *p, size_t bytes);
/* Device to device. Not behind a gate: it may take a copy engine. */
void llama_cuda_copy(struct llama_cuda *c, void *dst, const void *src, size_t bytes);
/* host: of llama_cuda_pinned, not to be touched before the stream has passed this point. */
void llama_cuda_in(struct llama_cuda *c, void *dst, const void *host, size_t bytes);
void llama_cuda_out(struct llama_cuda *c, void *host, const void *src, size_t bytes);
/* Host memory that copies can reach directly; freed by close. NULL and the failure kept if there is none. */
void *llama_cuda_pinned(struct llama_cuda *c, size_t bytes);

/* Device memory for cuBLAS to use in all products from now on: 32 MiB, as its manual wants for Hopper, less
 * for small models. */
size_t llama_cuda_scratch_bytes(const struct llama_shape *shape);
void llama_cuda_set_scratch(struct llama_cuda *c, void *scratch, size_t bytes);

/* Products of row-major matrices. `in` is the dtype of both inputs (F32: computed in F32, no TF32; BF16 and
 * F16: F32 sums), `out` that of the result. accumulate adds to what y holds. */
/* y[rows, out] (+)= x[rows, in] * w[out, in]^T. stride: from a row of y to the next, out or more. */
void llama_cuda_matmul(struct llama_cuda *c, void *y, enum ofl_dtype y_dtype, const void *x, const void *w,
                       enum ofl_dtype dtype, size_t rows, size_t in, size_t out, size_t stride,
                       bool accumulate);
/* dx[rows, in] (+)= dy[rows, out] * w[out, in] */
void llama_cuda_matmul_dx(struct llama_cuda *c, void *dx, enum ofl_dtype dx_dtype, const void *dy,
                          const void *w, enum ofl_dtype dtype, size_t rows, size_t in, size_t out,
                          bool accumulate);
/* dw[out, in] (+)= dy[rows, out]^T * x[rows, in], dw in F32 */
void llama_cuda_matmul_dw(struct llama_cuda *c, float *dw, const void *dy, const void *x,
                          enum ofl_dtype dtype, size_t rows, size_t in, size_t out, bool first);

/* Launches and calls of the driver and of cuBLAS so far. */
uint64_t llama_cuda_calls(const struct llama_cuda *c);

#endif
