/*
 * One decoder layer on a GPU: what block.h does, put on the stream of a llama_cuda. The rules are those of
 * kernels_cuda.h: matrices and the activations inside are of one dtype; the residual stream x and its
 * gradient dx, and the gradients of weights, are f32.
 */
#ifndef LLAMA_BLOCK_CUDA_H
#define LLAMA_BLOCK_CUDA_H

#include "examples/model/block.h"
#include "examples/model/kernels_cuda.h"

struct llama_block_cuda {
    struct llama_cuda *cuda;
    const struct llama_shape *shape;
    enum ofl_dtype dtype;
    size_t batch, seq;        /* seq: also the new rows of an extend, with batch 1 */
    const float *table;       /* of llama_cuda_rope_table, for all positions */
    const float *local_table; /* of the layers with local positions; NULL: there are none */
    void *ws;                 /* scratch of the _bytes() below */
};

size_t llama_block_cuda_forward_bytes(const struct llama_shape *shape, size_t batch, size_t seq,
                                      enum ofl_dtype dtype);
size_t llama_block_cuda_backward_bytes(const struct llama_shape *shape, size_t batch, size_t seq,
                                       enum ofl_dtype dtype);
/* Of the scratch between the slices of an extend, which needs no other. */
size_t llama_block_cuda_between_bytes(const struct llama_shape *shape, size_t n, enum ofl_dtype dtype);

/* x_out may be x_in. */
void llama_block_cuda_forward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                              const float *x_in, float *x_out);
void llama_block_cuda_backward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                               const struct llama_block_grads *grads, bool first, const float *x_in,
                               float *dx);
/* As llama_block_extend. b: of batch 1, and seq = e->n. */
void llama_block_cuda_extend(const struct llama_block_cuda *b, const struct llama_extend *e,
                             enum llama_matrix matrix, const struct llama_slice *slice);

#endif
