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
    size_t ffn;           /* 0: all layers have experts instead */
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
    float *probs;     /* of new rows: of experts */
    float *picked;    /* rows that use an expert: its input, or what it gives */
    uint32_t *chosen; /* [2 * rows]: which these are */
    float *sinks;     /* [heads] */
};

struct block_inside block_sizes(const struct llama_shape *shape, size_t batch, size_t seq, uint32_t layer);
/* Of what widens weights. */
size_t block_wide_bytes(const struct block_inside *in, enum ofl_dtype dtype);

/* The whole of a layer, for block_experts.c as for block.c. */
void block_take_wide(struct block_inside *in, struct llama_arena *a, enum ofl_dtype dtype);
void block_lay_out_forward(struct block_inside *in, struct llama_arena *a);
void block_lay_out_backward(struct block_inside *in, struct llama_arena *a);
void block_project(const struct block_inside *in, const struct llama_block_weights *w, const float *x);
void block_attend(const struct block_inside *in);
/* x += what attention gives, or its branch does. */
void block_add_attention(const struct block_inside *in, const struct llama_block_weights *w, float *x);
/* The same into mid, for backward. */
void block_mid(const struct block_inside *in, const struct llama_block_weights *w, const float *x_in);
void block_attend_backward(const struct block_inside *in, const struct llama_block_weights *w,
                           const struct llama_block_grads *g, bool first, const float *x_in, float *dx);
/* A slice of an expert's matrix. */
void block_extend_expert(const struct block_inside *in, const struct llama_extend *e,
                         enum llama_matrix matrix, const struct llama_slice *slice);

void block_norm(const struct block_inside *in, float *y, const float *x, struct llama_weight w);
/* q or k of so many heads: each head by itself, or all of them; `to` may be `from`. */
void block_norm_heads(const struct block_inside *in, float *to, const float *from, struct llama_weight w,
                      size_t heads);
void block_rotate(const struct block_inside *in, size_t first);
/* x += what a branch gives; that is left normed in place. */
void block_add_branch(const struct block_inside *in, float *x, float *branch, struct llama_weight post_norm);

#endif
