/* Backward of the decoder layer on a GPU. See block_cuda.h. */
#include "examples/model/block_cuda_impl.h"

/* What products take for the gradient dx. */
static const void *narrowed(const struct block_gpu *in, const float *dx)
{
    if (in->b.dtype == OFL_F32)
        return dx;
    llama_cuda_narrow(in->b.cuda, in->dy, in->b.dtype, dx, in->rows * in->hidden);
    return in->dy;
}

static void matmul_dx(const struct block_gpu *in, void *dx, const void *dy, struct llama_weight w,
                      size_t from, size_t to)
{
    llama_cuda_matmul_dx(in->b.cuda, dx, in->b.dtype, dy, w.data, in->b.dtype, in->rows, from, to, false);
}

/* Into in->dnormed, in f32, since several products add up there. */
static void matmul_dnormed(const struct block_gpu *in, const void *dy, struct llama_weight w, size_t to,
                           bool accumulate)
{
    llama_cuda_matmul_dx(in->b.cuda, in->dnormed, OFL_F32, dy, w.data, in->b.dtype, in->rows, in->hidden, to,
                         accumulate);
}

static void matmul_dw(const struct block_gpu *in, float *dw, const void *dy, const void *x, size_t from,
                      size_t to, bool first)
{
    llama_cuda_matmul_dw(in->b.cuda, dw, dy, x, in->b.dtype, in->rows, from, to, first);
}

/* dx += the gradient through a norm in front, or as it is. */
static void norm_backward(const struct block_gpu *in, float *dx, float *dw, const float *x,
                          struct llama_weight w, bool first)
{
    if (w.data)
        llama_cuda_norm_backward(in->b.cuda, dx, dw, in->dnormed, x, gpu_usable(in, w, in->hidden), in->rows,
                                 in->hidden, in->b.shape->rms_eps, true, first, in->norm_ws);
    else
        llama_cuda_add_scaled(in->b.cuda, dx, in->dnormed, 1, in->rows * in->hidden);
}

/* d, the gradient at normed q or k, becomes that at what the projection gave. */
static void norm_heads_backward(const struct block_gpu *in, void *d, float *dw, const void *raw,
                                struct llama_weight w, size_t heads, bool first)
{
    struct head_norm h = gpu_head_norm_of(in, heads);
    float *dy = in->b.dtype == OFL_F32 ? d : in->dheads;
    const float *x;

    if (!w.data)
        return;
    x = gpu_widened(in, in->heads, raw, h.rows * h.size);
    gpu_widened(in, dy, d, h.rows * h.size);
    llama_cuda_norm_backward(in->b.cuda, dy, dw, dy, x, gpu_usable(in, w, h.size), h.rows, h.size,
                             in->b.shape->rms_eps, false, first, in->norm_ws);
    if (dy != d)
        llama_cuda_narrow(in->b.cuda, d, in->b.dtype, dy, h.rows * h.size);
}

static void bias_backward(const struct block_gpu *in, float *db, const void *dy, size_t to, bool first)
{
    if (db)
        llama_cuda_bias_backward(in->b.cuda, db, dy, in->b.dtype, in->rows, to, first);
}

/* The gradient at what a product gave, as products take it: from dx, or through the branch, which holds what the
 * product gave. */
static const void *branch_backward(const struct block_gpu *in, float *branch, const float *dx,
                                   struct llama_weight post_norm, float *dnorm, bool first)
{
    const struct llama_shape *s = in->b.shape;
    size_t n = in->rows * in->hidden;

    if (!branch)
        return narrowed(in, dx);
    if (post_norm.data)
        llama_cuda_norm_backward(in->b.cuda, branch, dnorm, dx, branch, gpu_usable(in, post_norm, in->hidden),
                                 in->rows, in->hidden, s->rms_eps, false, first, in->norm_ws);
    else
        gpu_copy(in->b.cuda, branch, dx, n);
    if (s->branch_scale != 0)
        llama_cuda_scale(in->b.cuda, branch, OFL_F32, s->branch_scale, n);
    return narrowed(in, branch);
}

static void gated_backward(const struct block_gpu *in)
{
    size_t n = in->rows * in->ffn;

    if (in->b.shape->activation == LLAMA_SILU)
        llama_cuda_swiglu_backward(in->b.cuda, in->gate, in->up, in->act, in->b.dtype, n);
    else
        llama_cuda_geglu_backward(in->b.cuda, in->b.shape->activation == LLAMA_GELU, in->gate, in->up,
                                  in->act, in->b.dtype, n);
}

/* Feed-forward half: dx from the gradient at x_out to that at mid. */
static void feed_backward(const struct block_gpu *in, const struct llama_block_weights *w,
                          const struct llama_block_grads *g, bool first, float *dx)
{
    const void *dy = branch_backward(in, in->mlp_branch, dx, w->mlp_post_norm, g->mlp_post_norm, first);

    matmul_dx(in, in->act, dy, w->down, in->ffn, in->hidden);
    gated_backward(in);
    matmul_dw(in, g->down, dy, in->act, in->ffn, in->hidden, first);
    bias_backward(in, g->down_bias, dy, in->hidden, first);
    matmul_dw(in, g->gate, in->gate, in->normed_mid, in->hidden, in->ffn, first);
    matmul_dw(in, g->up, in->up, in->normed_mid, in->hidden, in->ffn, first);
    bias_backward(in, g->gate_bias, in->gate, in->ffn, first);
    bias_backward(in, g->up_bias, in->up, in->ffn, first);
    matmul_dnormed(in, in->gate, w->gate, in->ffn, false);
    matmul_dnormed(in, in->up, w->up, in->ffn, true);
    norm_backward(in, dx, g->mlp_norm, in->mid, w->mlp_norm, first);
}

/* From the gradients at rotated q and k, and v, to those at the projections and their input. */
static void project_backward(const struct block_gpu *in, const struct llama_block_weights *w,
                             const struct llama_block_grads *g, bool first)
{
    const struct llama_shape *s = in->b.shape;

    gpu_rope(in, in->dq, s->heads, 0, true);
    gpu_rope(in, in->dk, s->kv_heads, 0, true);
    norm_heads_backward(in, in->dq, g->q_norm, in->q_raw, w->q_norm, s->heads, first);
    norm_heads_backward(in, in->dk, g->k_norm, in->k_raw, w->k_norm, s->kv_heads, first);
    matmul_dw(in, g->q, in->dq, in->normed, in->hidden, in->q_dim, first);
    matmul_dw(in, g->k, in->dk, in->normed, in->hidden, in->kv_dim, first);
    matmul_dw(in, g->v, in->dv, in->normed, in->hidden, in->kv_dim, first);
    bias_backward(in, g->q_bias, in->dq, in->q_dim, first);
    bias_backward(in, g->k_bias, in->dk, in->kv_dim, first);
    bias_backward(in, g->v_bias, in->dv, in->kv_dim, first);
    matmul_dnormed(in, in->dq, w->q, in->q_dim, false);
    matmul_dnormed(in, in->dk, w->k, in->kv_dim, true);
    matmul_dnormed(in, in->dv, w->v, in->kv_dim, true);
}

/* Attention half: dx from the gradient at mid to that at x_in. */
static void attend_backward(const struct block_gpu *in, const struct llama_block_weights *w,
                            const struct llama_block_grads *g, bool first, const float *x_in, float *dx)
{
    const struct llama_block_cuda *b = &in->b;
    const void *dy = branch_backward(in, in->branch, dx, w->attn_post_norm, g->attn_post_norm, first);

    matmul_dw(in, g->o, dy, in->mixed, in->q_dim, in->hidden, first);
    bias_backward(in, g->o_bias, dy, in->hidden, first);
    matmul_dx(in, in->dmixed, dy, w->o, in->q_dim, in->hidden);
    llama_cuda_attention_backward(b->cuda, in->dq, in->dk, in->dv, in->dmixed, in->mixed, in->lse, in->q,
                                  in->k, in->v, b->dtype, b->shape, in->layer, b->batch, b->seq,
                                  in->attention_ws);
    project_backward(in, w, g, first);
    norm_backward(in, dx, g->attn_norm, x_in, w->attn_norm, first);
}

/* x after attention. A branch keeps what it was before its norm: what is added passes through dnormed, which is not in
 * use yet. */
static void add_attention(const struct block_gpu *in, const struct llama_block_weights *w, const float *x_in)
{
    size_t n = in->rows * in->hidden;

    gpu_copy(in->b.cuda, in->mid, x_in, n);
    gpu_add(in, in->mid, in->mixed, in->q_dim, w->o, w->o_bias, in->branch);
    if (!in->branch)
        return;
    gpu_copy(in->b.cuda, in->dnormed, in->branch, n);
    gpu_add_branch(in, in->mid, in->dnormed, w->attn_post_norm);
}

void llama_block_cuda_backward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                               const struct llama_block_grads *grads, bool first, const float *x_in,
                               float *dx)
{
    struct block_gpu in = gpu_sizes_of(b, weights->layer);
    struct llama_arena a = {.base = b->ws};

    gpu_lay_out_backward(&in, &a);
    gpu_project(&in, weights, x_in);
    llama_cuda_attention(b->cuda, in.mixed, in.lse, in.q, in.k, in.v, b->dtype, b->shape, in.layer, b->batch,
                         0, b->seq);
    add_attention(&in, weights, x_in);
    gpu_feed(&in, weights, in.mid);
    if (in.mlp_branch && weights->mlp_post_norm.data) { /* whose norm's backward needs it */
        gpu_gated(&in);
        gpu_add(&in, NULL, in.act, in.ffn, weights->down, weights->down_bias, in.mlp_branch);
    }
    feed_backward(&in, weights, grads, first, dx);
    attend_backward(&in, weights, grads, first, x_in, dx);
}
