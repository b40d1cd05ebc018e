/*
 * What the tests of the CUDA kernels share: a device, a stream and the model's kernels on it, and
 * buffers of device memory between guard bytes.
 *
 * Kernels run on the stub driver, on the CPU; with OFL_TEST_GPU set ("cuda:0") on that GPU.
 */
#ifndef OFL_TESTS_LLAMA_CUDA_FIXTURE_H
#define OFL_TESTS_LLAMA_CUDA_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/cuda.h"

struct gpu {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensor; /* all buffers, in one */
    struct llama_cuda *cuda;
    struct ofl_lease lease;
    unsigned char *staging; /* pinned */
    size_t used;
    size_t starts[64], ends[64]; /* of buffers, in the tensor */
    size_t count;
};

/* A new one, on a stub that was reset with that seed. Fails the test if it can't. */
void gpu_open(struct gpu *g, uint64_t seed);
/* Fails the test if a call failed, if a guard was written to, or if the driver was misused. */
void gpu_close(struct gpu *g);

/* Buffers, 256-byte aligned, until gpu_forget. gpu_blank's holds ones in all bits: NaN. */
void *gpu_blank(struct gpu *g, size_t bytes);
void *gpu_upload(struct gpu *g, const void *src, size_t bytes);
/* Waits for the stream first. Any part of a buffer. */
void gpu_download(struct gpu *g, void *dst, const void *device, size_t bytes);
/* Waits for the stream, and fails the test if anything on it failed. */
void gpu_sync(struct gpu *g);
/* Is every byte around the buffers as it was? Fills text with the first that is not. */
bool gpu_guards_hold(struct gpu *g, char *text, size_t size);
/* Checks the guards and gives all buffers back. */
void gpu_forget(struct gpu *g);

#endif
