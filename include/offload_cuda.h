/*
 * offload_cuda: what a program needs to run its own CUDA work on the library's streams. No header
 * of CUDA is included, and none is needed to build the library.
 *
 *     struct ofl_config config = {.device = "cuda:0", ...};
 *     CUstream stream = ofl_stream_cuda(s);               a cudaStream_t, too
 *
 *     ofl_acquire(ctx, &lease, 1, s);
 *     kernel<<<grid, block, 0, stream>>>(lease.ptr);      waits on the GPU for its bytes
 *     ofl_release(ctx, &lease, 1, s);
 *
 * The context is the device's primary one: the runtime's own, which cudaSetDevice(0) or
 * cuDevicePrimaryCtxRetain makes current; once opened it is kept for the life of the process. The
 * library leaves the context that is current in a calling thread as it was. Streams do not wait for the default stream, nor it for them.
 *
 * A stream's queue is finite, and who adds to a full one waits inside the driver, possibly with all other
 * threads that call it. So ofl_acquire waits while more than 16 leases and releases of its stream have not
 * been reached by the GPU: nothing may make the stream wait for work that this thread adds later. Launch less
 * than about 50 kernels for each lease.
 *
 * Streams that wait at gates must not share a hardware queue with those that would open them: processes
 * with more than a few streams set CUDA_DEVICE_MAX_CONNECTIONS=32 before the driver starts. And a kernel's
 * first launch may load it, for which the driver may wait for all of the GPU's work: launch each once, or
 * cuFuncLoad it, while no stream is at a gate (ofl_stream_sync); CUDA_MODULE_LOADING=EAGER does it for all.
 *
 * A fetch that fails can't take back what has been launched: it runs, on undefined bytes, and
 * ofl_stream_sync has the error. Check it before results are used.
 */
#ifndef OFFLOAD_CUDA_H
#define OFFLOAD_CUDA_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* any. The CUstream of s, valid as long as s; NULL on the host device. Not to be destroyed. */
OFL_API void *ofl_stream_cuda(struct ofl_stream *s);

/* For programs that are not linked with CUDA. */

/* any. The CUcontext, to be made current before the driver is called; NULL on the host device. */
OFL_API void *ofl_cuda_context(struct ofl_ctx *ctx);
/* any. The entry point of that name of the driver that the library has loaded, such as
 * "cuLaunchKernel"; NULL on the host device, or if there is none. The name is the ABI's: where
 * cuda.h has a macro that adds _v2, so must the name. */
OFL_API void *ofl_cuda_symbol(struct ofl_ctx *ctx, const char *name);

#ifdef __cplusplus
}
#endif

#endif
