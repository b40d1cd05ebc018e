/* What block_cuda.c and block_cuda_backward.c share: a layer's buffers on a GPU, and what forward makes. Only they include
 * this. */
#ifndef LLAMA_BLOCK_CUDA_IMPL_H
#define LLAMA_BLOCK_CUDA_IMPL_H

#include "examples/model/block_cuda.h"
#include "examples/model/kernels_inline.h"

/* One call's sizes and buffers, of the layer's dtype unless said. What is not used stays NULL. */
struct block_gpu {
    struct llama_block_cuda b;
    uint32_t layer;
    size_t rows, hidden, ffn, q_dim, kv_dim;
    void *normed, *q, *k, *v, *mixed; /* as in block.c */
    void *normed_mid, *gate, *up, *act;
    void *dy; /* the gradient dx, narrowed; dx itself in F32 */
    void *dmixed, *dq, *dk, *dv;
    float *mid, *lse, *dnormed; /* f32 */
    void *norm_ws, *attention_ws;
    void *q_raw, *k_raw;        /* before their norms; q and k themselves where that isn't needed after */
    float *branch, *mlp_branch; /* f32: what o and down give, where that is not added as it comes */
    float *vector;              /* f32: a norm's weight with its offset */
    float *heads, *dheads;      /* f32: q or k around its norm; its gradient */
};

/* One norm of q or k: of each head, or of all of them. */
struct head_norm {
    size_t rows, size;
};

struct block_gpu gpu_sizes_of(const struct llama_block_cuda *b, uint32_t layer);
void gpu_lay_out_backward(struct block_gpu *in, struct llama_arena *a);
/* By a kernel: a copy engine could be held up by the gate that the stream is at. */
void gpu_copy(struct llama_cuda *c, float *dst, const float *src, size_t n);
/* normed, and rotated q and k, and v. */
void gpu_project(const struct block_gpu *in, const struct llama_block_weights *w, const float *x);
/* From x after attention to gate and up. */
void gpu_feed(const struct block_gpu *in, const struct llama_block_weights *w, const float *mid);
void gpu_gated(const struct block_gpu *in);
/* x += branch, which is left normed. */
void gpu_add_branch(const struct block_gpu *in, float *x, float *branch, struct llama_weight post_norm);
/* x += a product of y, or that into the branch. */
void gpu_add(const struct block_gpu *in, float *x, const void *y, size_t from, struct llama_weight w,
             struct llama_weight b, float *branch);
void gpu_rope(const struct block_gpu *in, void *x, size_t heads, size_t first, bool backward);
/* A norm's weight as kernels take it. */
struct llama_weight gpu_usable(const struct block_gpu *in, struct llama_weight w, size_t n);
struct head_norm gpu_head_norm_of(const struct block_gpu *in, size_t heads);
/* What norms take, which is f32. */
const float *gpu_widened(const struct block_gpu *in, float *to, const void *x, size_t n);

#endif
