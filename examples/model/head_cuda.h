/* The loss on a GPU with a limit of its own on the logits in flight. For head_cuda.c, and for tests,
 * whose shapes are small. */
#ifndef LLAMA_HEAD_CUDA_H
#define LLAMA_HEAD_CUDA_H

#include "examples/model/kernels_cuda.h"

/* As llama_cuda_head_bytes and llama_cuda_head_loss, with that limit in place of LLAMA_CUDA_LOGITS_BYTES. */
size_t llama_cuda_head_bytes_within(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype,
                                    size_t logits_bytes);
void llama_cuda_head_loss_within(struct llama_cuda *c, double *loss, enum ofl_dtype dtype,
                                 const struct llama_shape *shape, size_t rows,
                                 const struct llama_head_weights *weights,
                                 const struct llama_head_grads *grads, bool first, const float *x,
                                 const int32_t *targets, float scale, float *dx, void *ws,
                                 size_t logits_bytes);

#endif
