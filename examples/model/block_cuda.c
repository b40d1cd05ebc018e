/*
 * The decoder layer on a GPU, composed of kernels and products. See block_cuda.h.
 *
 * Scratch is laid out by the same functions that measure it, as in block.c. Regions whose lifetimes don't
 * meet share bytes: the feed-forward half of backward with the attention half.
 */
#include "examples/model/block_cuda.h"

#include "examples/model/kernels_inline.h"

/* One call's sizes and buffers, of the layer's dtype unless said. What is not used stays NULL. */
struct inside {
    struct llama_block_cuda b;
    size_t rows, hidden, ffn, q_dim, kv_dim;
    void *normed, *q, *k, *v, *mixed; /* as in block.c */
    void *normed_mid, *gate, *up, *act;
    void *dy; /* the gradient dx, narrowed; dx itself in F32 */
    void *dmixed, *dq, *dk, *dv;
    float *mid, *lse, *dnormed; /* f32 */
    void *norm_ws, *attention_ws;
};

static struct inside sizes_of(const struct llama_block_cuda *b)
{
    const struct llama_shape *shape = b->shape;

    return (struct inside){
        .b = *b,
        .rows = b->batch * b->seq,
        .hidden = shape->hidden,
        .ffn = shape->ffn,
        .q_dim = (size_t)shape->heads * shape->head_dim,
        .kv_dim = (size_t)shape->kv_heads * shape->head_dim,
    };
}

static void *take(struct llama_arena *a, const struct inside *in, size_t columns)
{
    return llama_take(a, in->rows * columns * ofl_dtype_bytes(in->b.dtype));
}

/* With its own keys and values; with those of a cache, it is what a slice leaves for the next ones. */
static void lay_out_forward(struct inside *in, struct llama_arena *a, bool cached)
{
    size_t mark;

    in->normed = in->normed_mid = take(a, in, in->hidden);
    mark = a->used;
    in->q = take(a, in, in->q_dim);
    in->mixed = take(a, in, in->q_dim);
    if (!cached) {
        in->k = take(a, in, in->kv_dim);
        in->v = take(a, in, in->kv_dim);
    }
    a->used = mark; /* attention's output goes into the residual before the feed-forward starts */
    in->gate = in->act = take(a, in, in->ffn);
    in->up = take(a, in, in->ffn);
}

static void lay_out_backward(struct inside *in, struct llama_arena *a)
{
    const struct llama_block_cuda *b = &in->b;
    size_t mark;

    in->normed = take(a, in, in->hidden);
    in->q = take(a, in, in->q_dim);
    in->k = take(a, in, in->kv_dim);
    in->v = take(a, in, in->kv_dim);
    in->mixed = take(a, in, in->q_dim);
    in->lse = llama_take_floats(a, in->rows * b->shape->heads);
    in->dnormed = llama_take_floats(a, in->rows * in->hidden);
    in->norm_ws = llama_take(a, llama_cuda_norm_backward_bytes(in->rows, in->hidden));
    if (b->dtype != OFL_F32)
        in->dy = take(a, in, in->hidden);
    mark = a->used;
    in->mid = llama_take_floats(a, in->rows * in->hidden);
    in->normed_mid = take(a, in, in->hidden);
    in->gate = take(a, in, in->ffn);
    in->up = take(a, in, in->ffn);
    in->act = take(a, in, in->ffn);
    a->used = mark;
    in->dmixed = take(a, in, in->q_dim);
    in->dq = take(a, in, in->q_dim);
    in->dk = take(a, in, in->kv_dim);
    in->dv = take(a, in, in->kv_dim);
    in->attention_ws =
        llama_take(a, llama_cuda_attention_backward_bytes(b->shape, b->dtype, b->batch, b->seq));
}

static struct llama_block_cuda measured(const struct llama_shape *shape, size_t batch, size_t seq,
                                        enum ofl_dtype dtype)
{
    return (struct llama_block_cuda){.shape = shape, .dtype = dtype, .batch = batch, .seq = seq};
}

size_t llama_block_cuda_forward_bytes(const struct llama_shape *shape, size_t batch, size_t seq,
                                      enum ofl_dtype dtype)
{
    struct llama_block_cuda b = measured(shape, batch, seq, dtype);
    struct inside in = sizes_of(&b);
    struct llama_arena a = {0};

    lay_out_forward(&in, &a, false);
    return a.peak;
}

size_t llama_block_cuda_backward_bytes(const struct llama_shape *shape, size_t batch, size_t seq,
                                       enum ofl_dtype dtype)
{
    struct llama_block_cuda b = measured(shape, batch, seq, dtype);
    struct inside in = sizes_of(&b);
    struct llama_arena a = {0};

    lay_out_backward(&in, &a);
    return a.peak;
}

size_t llama_block_cuda_between_bytes(const struct llama_shape *shape, size_t n, enum ofl_dtype dtype)
{
    struct llama_block_cuda b = measured(shape, 1, n, dtype);
    struct inside in = sizes_of(&b);
    struct llama_arena a = {0};

    lay_out_forward(&in, &a, true);
    return a.peak;
}

/* By a kernel: a copy engine could be held up by the gate that the stream is at. */
static void copy(struct llama_cuda *c, float *dst, const float *src, size_t n)
{
    llama_cuda_narrow(c, dst, OFL_F32, src, n);
}

/* ---- forward ------------------------------------------------------------- */

/* Of the layer's dtype, all of them. */
static void matmul(const struct inside *in, void *y, const void *x, struct llama_weight w, size_t from,
                   size_t to)
{
    llama_cuda_matmul(in->b.cuda, y, in->b.dtype, x, w.data, in->b.dtype, in->rows, from, to, to, false);
}

/* Onto the residual stream. */
static void matmul_add(const struct inside *in, float *x, const void *y, struct llama_weight w, size_t from)
{
    llama_cuda_matmul(in->b.cuda, x, OFL_F32, y, w.data, in->b.dtype, in->rows, from, in->hidden, in->hidden,
                      true);
}

static void norm(const struct inside *in, void *y, const float *x, struct llama_weight w)
{
    llama_cuda_norm(in->b.cuda, y, in->b.dtype, x, w, in->rows, in->hidden, in->b.shape->rms_eps);
}

static void rope(const struct inside *in, void *x, size_t heads, size_t first, bool backward)
{
    const struct llama_block_cuda *b = &in->b;

    llama_cuda_rope(b->cuda, x, b->dtype, b->batch, b->seq, heads, b->shape->head_dim, b->table, first,
                    backward);
}

static void rotate(const struct inside *in, size_t first)
{
    rope(in, in->q, in->b.shape->heads, first, false);
    rope(in, in->k, in->b.shape->kv_heads, first, false);
}

/* in->normed, and rotated q and k, and v. */
static void project(const struct inside *in, const struct llama_block_weights *w, const float *x)
{
    norm(in, in->normed, x, w->attn_norm);
    matmul(in, in->q, in->normed, w->q, in->hidden, in->q_dim);
    matmul(in, in->k, in->normed, w->k, in->hidden, in->kv_dim);
    matmul(in, in->v, in->normed, w->v, in->hidden, in->kv_dim);
    rotate(in, 0);
}

/* From x after attention to gate and up. */
static void feed(const struct inside *in, const struct llama_block_weights *w, const float *mid)
{
    norm(in, in->normed_mid, mid, w->mlp_norm);
    matmul(in, in->gate, in->normed_mid, w->gate, in->hidden, in->ffn);
    matmul(in, in->up, in->normed_mid, w->up, in->hidden, in->ffn);
}

/* The second half of a forward pass; x holds the layer's input and gets its output. */
static void finish(const struct inside *in, const struct llama_block_weights *w, float *x)
{
    matmul_add(in, x, in->mixed, w->o, in->q_dim);
    feed(in, w, x);
    llama_cuda_swiglu(in->b.cuda, in->act, in->gate, in->up, in->b.dtype, in->rows * in->ffn);
    matmul_add(in, x, in->act, w->down, in->ffn);
}

void llama_block_cuda_forward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                              const float *x_in, float *x_out)
{
    struct inside in = sizes_of(b);
    struct llama_arena a = {.base = b->ws};

    lay_out_forward(&in, &a, false);
    project(&in, weights, x_in);
    llama_cuda_attention(b->cuda, in.mixed, NULL, in.q, in.k, in.v, b->dtype, b->shape, b->batch, 0, b->seq);
    if (x_out != x_in)
        copy(b->cuda, x_out, x_in, in.rows * in.hidden);
    finish(&in, weights, x_out);
}

/* ---- slice by slice ------------------------------------------------------ */

/* What comes between the matrix before and this one. */
static void before(const struct inside *in, const struct llama_extend *e, enum llama_matrix matrix,
                   struct llama_weight weight)
{
    const struct llama_block_cuda *b = &in->b;

    if (matrix == LLAMA_MATRIX_Q || matrix == LLAMA_MATRIX_GATE) {
        norm(in, in->normed, e->x, weight);
    } else if (matrix == LLAMA_MATRIX_O) {
        rotate(in, e->first);
        llama_cuda_attention(b->cuda, in->mixed, NULL, in->q, e->k_cache, e->v_cache, b->dtype, b->shape, 1,
                             e->first, e->n);
    } else if (matrix == LLAMA_MATRIX_DOWN) {
        llama_cuda_swiglu(b->cuda, in->act, in->gate, in->up, b->dtype, in->rows * in->ffn);
    }
}

/* y[n, out] (+)= x[n, in] * matrix^T */
struct product {
    const void *x;
    void *y;
    size_t in, out;
};

static struct product product_of(const struct inside *in, const struct llama_extend *e,
                                 enum llama_matrix matrix)
{
    const struct product all[LLAMA_MATRICES] = {
        [LLAMA_MATRIX_Q] = {in->normed, in->q, in->hidden, in->q_dim},
        [LLAMA_MATRIX_K] = {in->normed, in->k, in->hidden, in->kv_dim},
        [LLAMA_MATRIX_V] = {in->normed, in->v, in->hidden, in->kv_dim},
        [LLAMA_MATRIX_O] = {in->mixed, e->x, in->q_dim, in->hidden},
        [LLAMA_MATRIX_GATE] = {in->normed_mid, in->gate, in->hidden, in->ffn},
        [LLAMA_MATRIX_UP] = {in->normed_mid, in->up, in->hidden, in->ffn},
        [LLAMA_MATRIX_DOWN] = {in->act, e->x, in->ffn, in->hidden},
    };

    return all[matrix];
}

void llama_block_cuda_extend(const struct llama_block_cuda *b, const struct llama_extend *e,
                             enum llama_matrix matrix, const struct llama_slice *slice)
{
    struct inside in = sizes_of(b);
    struct llama_arena between = {.base = e->between};
    size_t each = ofl_dtype_bytes(b->dtype), behind = e->first * in.kv_dim * each;
    struct product p;
    enum ofl_dtype dtype;

    lay_out_forward(&in, &between, true);
    in.k = (char *)e->k_cache + behind;
    in.v = (char *)e->v_cache + behind;
    if (slice->from == 0)
        before(&in, e, matrix, slice->norm);
    p = product_of(&in, e, matrix);
    dtype = p.y == e->x ? OFL_F32 : b->dtype; /* the residual stream */
    llama_cuda_matmul(b->cuda, (char *)p.y + slice->from * ofl_dtype_bytes(dtype), dtype, p.x,
                      slice->weight.data, b->dtype, in.rows, p.in, slice->rows, p.out, p.y == e->x);
}

/* ---- backward ------------------------------------------------------------ */

/* What products take for the gradient dx. */
static const void *narrowed(const struct inside *in, const float *dx)
{
    if (in->b.dtype == OFL_F32)
        return dx;
    llama_cuda_narrow(in->b.cuda, in->dy, in->b.dtype, dx, in->rows * in->hidden);
    return in->dy;
}

static void matmul_dx(const struct inside *in, void *dx, const void *dy, struct llama_weight w, size_t from,
                      size_t to)
{
    llama_cuda_matmul_dx(in->b.cuda, dx, in->b.dtype, dy, w.data, in->b.dtype, in->rows, from, to, false);
}

/* Into in->dnormed, in f32, since several products add up there. */
static void matmul_dnormed(const struct inside *in, const void *dy, struct llama_weight w, size_t to,
                           bool accumulate)
{
    llama_cuda_matmul_dx(in->b.cuda, in->dnormed, OFL_F32, dy, w.data, in->b.dtype, in->rows, in->hidden, to,
                         accumulate);
}

static void matmul_dw(const struct inside *in, float *dw, const void *dy, const void *x, size_t from,
                      size_t to, bool first)
{
    llama_cuda_matmul_dw(in->b.cuda, dw, dy, x, in->b.dtype, in->rows, from, to, first);
}

static void norm_backward(const struct inside *in, float *dx, float *dw, const float *x,
                          struct llama_weight w, bool first)
{
    llama_cuda_norm_backward(in->b.cuda, dx, dw, in->dnormed, x, w, in->rows, in->hidden,
                             in->b.shape->rms_eps, true, first, in->norm_ws);
}

/* Feed-forward half: dx from the gradient at x_out to that at mid. */
static void feed_backward(const struct inside *in, const struct llama_block_weights *w,
                          const struct llama_block_grads *g, bool first, float *dx)
{
    const void *dy = narrowed(in, dx);

    matmul_dx(in, in->act, dy, w->down, in->ffn, in->hidden);
    llama_cuda_swiglu_backward(in->b.cuda, in->gate, in->up, in->act, in->b.dtype, in->rows * in->ffn);
    matmul_dw(in, g->down, dy, in->act, in->ffn, in->hidden, first);
    matmul_dw(in, g->gate, in->gate, in->normed_mid, in->hidden, in->ffn, first);
    matmul_dw(in, g->up, in->up, in->normed_mid, in->hidden, in->ffn, first);
    matmul_dnormed(in, in->gate, w->gate, in->ffn, false);
    matmul_dnormed(in, in->up, w->up, in->ffn, true);
    norm_backward(in, dx, g->mlp_norm, in->mid, w->mlp_norm, first);
}

/* Attention half: dx from the gradient at mid to that at x_in. */
static void attend_backward(const struct inside *in, const struct llama_block_weights *w,
                            const struct llama_block_grads *g, bool first, const float *x_in, float *dx)
{
    const struct llama_block_cuda *b = &in->b;
    const void *dy = narrowed(in, dx);

    matmul_dw(in, g->o, dy, in->mixed, in->q_dim, in->hidden, first);
    matmul_dx(in, in->dmixed, dy, w->o, in->q_dim, in->hidden);
    llama_cuda_attention_backward(b->cuda, in->dq, in->dk, in->dv, in->dmixed, in->mixed, in->lse, in->q,
                                  in->k, in->v, b->dtype, b->shape, b->batch, b->seq, in->attention_ws);
    rope(in, in->dq, b->shape->heads, 0, true);
    rope(in, in->dk, b->shape->kv_heads, 0, true);
    matmul_dw(in, g->q, in->dq, in->normed, in->hidden, in->q_dim, first);
    matmul_dw(in, g->k, in->dk, in->normed, in->hidden, in->kv_dim, first);
    matmul_dw(in, g->v, in->dv, in->normed, in->hidden, in->kv_dim, first);
    matmul_dnormed(in, in->dq, w->q, in->q_dim, false);
    matmul_dnormed(in, in->dk, w->k, in->kv_dim, true);
    matmul_dnormed(in, in->dv, w->v, in->kv_dim, true);
    norm_backward(in, dx, g->attn_norm, x_in, w->attn_norm, first);
}

void llama_block_cuda_backward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                               const struct llama_block_grads *grads, bool first, const float *x_in,
                               float *dx)
{
    struct inside in = sizes_of(b);
    struct llama_arena a = {.base = b->ws};

    lay_out_backward(&in, &a);
    project(&in, weights, x_in);
    llama_cuda_attention(b->cuda, in.mixed, in.lse, in.q, in.k, in.v, b->dtype, b->shape, b->batch, 0,
                         b->seq);
    copy(b->cuda, in.mid, x_in, in.rows * in.hidden);
    matmul_add(&in, in.mid, in.mixed, weights->o, in.q_dim);
    feed(&in, weights, in.mid);
    feed_backward(&in, weights, grads, first, dx);
    attend_backward(&in, weights, grads, first, x_in, dx);
}
