/* What block.c and block_extend.c share: a layer's buffers, and the kernels with a layer's numbers. Only they include
 * this. */
#ifndef LLAMA_BLOCK_IMPL_H
#define LLAMA_BLOCK_IMPL_H

#include "examples/model/adapter.h"
#include "examples/model/block.h"
#include "examples/model/kernels_inline.h"

/* One call's sizes and buffers. What is not used stays NULL. */
struct block_inside {
    const struct llama_shape *shape;
    uint32_t layer;
    size_t batch, seq, rows, q_dim, kv_dim;
    float *table;         /* rope */
    float *wide;          /* widened weights */
    float *normed;        /* after attn_norm */
    float *q, *k, *v;     /* rotated */
    float *q_raw, *k_raw; /* before their norms */
    float *mixed;         /* attention's output; q itself where q isn't needed after */
    float *mid;           /* x after attention */
    float *normed_mid;    /* after mlp_norm */
    float *gate, *up, *act;
    float *branch, *mlp_branch; /* what o and down give, where that is not added as it comes */
    float *dk, *dv;
    float *scores;
};

struct block_inside block_sizes(const struct llama_shape *shape, size_t batch, size_t seq, uint32_t layer);
/* Of what widens weights. */
size_t block_wide_bytes(const struct block_inside *in, enum ofl_dtype dtype);

void block_norm(const struct block_inside *in, float *y, const float *x, struct llama_weight w);
/* q or k of so many heads: each head by itself, or all of them; `to` may be `from`. */
void block_norm_heads(const struct block_inside *in, float *to, const float *from, struct llama_weight w,
                      size_t heads);
void block_rotate(const struct block_inside *in, size_t first);
/* x += what a branch gives; that is left normed in place. */
void block_add_branch(const struct block_inside *in, float *x, float *branch, struct llama_weight post_norm);

#endif
