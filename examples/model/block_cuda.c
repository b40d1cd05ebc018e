/*
 * The decoder layer on a GPU, composed of kernels and products. See block_cuda.h; backward: block_cuda_backward.c.
 *
 * Scratch is laid out by the same functions that measure it, as in block.c. Regions whose lifetimes don't
 * meet share bytes: the feed-forward half of backward with the attention half.
 */
#include "examples/model/block_cuda_impl.h"

struct block_gpu gpu_sizes_of(const struct llama_block_cuda *b, uint32_t layer)
{
    const struct llama_shape *shape = b->shape;

    return (struct block_gpu){
        .b = *b,
        .layer = layer,
        .rows = b->batch * b->seq,
        .hidden = shape->hidden,
        .ffn = shape->ffn,
        .q_dim = (size_t)shape->heads * shape->head_dim,
        .kv_dim = (size_t)shape->kv_heads * shape->head_dim,
    };
}

static void *take(struct llama_arena *a, const struct block_gpu *in, size_t columns)
{
    return llama_take(a, in->rows * columns * ofl_dtype_bytes(in->b.dtype));
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* What Llama does not need. */
static void take_traits(struct block_gpu *in, struct llama_arena *a)
{
    const struct llama_shape *s = in->b.shape;
    bool heads = s->qk_norm != LLAMA_QK_PLAIN;

    if (s->norm_offset != 0)
        in->vector = llama_take_floats(a, max_size(in->hidden, max_size(in->q_dim, in->kv_dim)));
    if (heads)
        in->heads = llama_take_floats(a, in->rows * max_size(in->q_dim, in->kv_dim));
    if (llama_shape_branches(s))
        in->branch = in->mlp_branch = llama_take_floats(a, in->rows * in->hidden);
}

/* With its own keys and values; with those of a cache, it is what a slice leaves for the next ones. */
static void lay_out_forward(struct block_gpu *in, struct llama_arena *a, bool cached)
{
    size_t mark;

    take_traits(in, a);
    in->normed = in->normed_mid = take(a, in, in->hidden);
    mark = a->used;
    in->q = in->q_raw = take(a, in, in->q_dim);
    in->mixed = take(a, in, in->q_dim);
    if (!cached) {
        in->k = in->k_raw = take(a, in, in->kv_dim);
        in->v = take(a, in, in->kv_dim);
    }
    a->used = mark; /* attention's output goes into the residual before the feed-forward starts */
    in->gate = in->act = take(a, in, in->ffn);
    in->up = take(a, in, in->ffn);
}

static size_t norm_ws_bytes(const struct block_gpu *in)
{
    const struct llama_shape *s = in->b.shape;
    size_t bytes = llama_cuda_norm_backward_bytes(in->rows, in->hidden);

    if (s->qk_norm == LLAMA_QK_NORM_HEAD)
        bytes = max_size(bytes, llama_cuda_norm_backward_bytes(in->rows * s->heads, s->head_dim));
    else if (s->qk_norm == LLAMA_QK_NORM_ALL)
        bytes = max_size(bytes, llama_cuda_norm_backward_bytes(in->rows, max_size(in->q_dim, in->kv_dim)));
    return bytes;
}

void gpu_lay_out_backward(struct block_gpu *in, struct llama_arena *a)
{
    const struct llama_block_cuda *b = &in->b;
    size_t mark;

    take_traits(in, a);
    in->normed = take(a, in, in->hidden);
    in->q = in->q_raw = take(a, in, in->q_dim);
    in->k = in->k_raw = take(a, in, in->kv_dim);
    if (b->shape->qk_norm != LLAMA_QK_PLAIN) {
        in->q_raw = take(a, in, in->q_dim);
        in->k_raw = take(a, in, in->kv_dim);
        in->dheads = llama_take_floats(a, in->rows * max_size(in->q_dim, in->kv_dim));
    }
    if (llama_shape_branches(b->shape))
        in->mlp_branch = llama_take_floats(a, in->rows * in->hidden);
    in->v = take(a, in, in->kv_dim);
    in->mixed = take(a, in, in->q_dim);
    in->lse = llama_take_floats(a, in->rows * b->shape->heads);
    in->dnormed = llama_take_floats(a, in->rows * in->hidden);
    in->norm_ws = llama_take(a, norm_ws_bytes(in));
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
    struct block_gpu in = gpu_sizes_of(&b, 0);
    struct llama_arena a = {0};

    lay_out_forward(&in, &a, false);
    return a.peak;
}

size_t llama_block_cuda_backward_bytes(const struct llama_shape *shape, size_t batch, size_t seq,
                                       enum ofl_dtype dtype)
{
    struct llama_block_cuda b = measured(shape, batch, seq, dtype);
    struct block_gpu in = gpu_sizes_of(&b, 0);
    struct llama_arena a = {0};

    gpu_lay_out_backward(&in, &a);
    return a.peak;
}

size_t llama_block_cuda_between_bytes(const struct llama_shape *shape, size_t n, enum ofl_dtype dtype)
{
    struct llama_block_cuda b = measured(shape, 1, n, dtype);
    struct block_gpu in = gpu_sizes_of(&b, 0);
    struct llama_arena a = {0};

    lay_out_forward(&in, &a, true);
    return a.peak;
}

/* By a kernel: a copy engine could be held up by the gate that the stream is at. */
void gpu_copy(struct llama_cuda *c, float *dst, const float *src, size_t n)
{
    llama_cuda_narrow(c, dst, OFL_F32, src, n);
}

/* ---- forward ------------------------------------------------------------- */

/* Of the layer's dtype, all of them. */
static void matmul(const struct block_gpu *in, void *y, const void *x, struct llama_weight w, size_t from,
                   size_t to)
{
    llama_cuda_matmul(in->b.cuda, y, in->b.dtype, x, w.data, in->b.dtype, in->rows, from, to, to, false);
}

/* Onto the residual stream. */
static void matmul_add(const struct block_gpu *in, float *x, const void *y, struct llama_weight w,
                       size_t from)
{
    llama_cuda_matmul(in->b.cuda, x, OFL_F32, y, w.data, in->b.dtype, in->rows, from, in->hidden, in->hidden,
                      true);
}

/* A norm's weight as kernels take it. */
struct llama_weight gpu_usable(const struct block_gpu *in, struct llama_weight w, size_t n)
{
    if (w.offset == 0)
        return w;
    llama_cuda_widen(in->b.cuda, in->vector, w.data, w.dtype, n, w.offset);
    return (struct llama_weight){.data = in->vector, .dtype = OFL_F32};
}

static void norm(const struct block_gpu *in, void *y, const float *x, struct llama_weight w)
{
    if (w.data)
        llama_cuda_norm(in->b.cuda, y, in->b.dtype, x, gpu_usable(in, w, in->hidden), in->rows, in->hidden,
                        in->b.shape->rms_eps);
    else
        llama_cuda_narrow(in->b.cuda, y, in->b.dtype, x, in->rows * in->hidden);
}

struct head_norm gpu_head_norm_of(const struct block_gpu *in, size_t heads)
{
    const struct llama_shape *s = in->b.shape;
    bool each = s->qk_norm == LLAMA_QK_NORM_HEAD;

    return (struct head_norm){each ? in->rows * heads : in->rows, each ? s->head_dim : heads * s->head_dim};
}

/* What norms take, which is f32. */
const float *gpu_widened(const struct block_gpu *in, float *to, const void *x, size_t n)
{
    if (in->b.dtype == OFL_F32)
        return x;
    llama_cuda_widen(in->b.cuda, to, x, in->b.dtype, n, 0);
    return to;
}

static void norm_heads(const struct block_gpu *in, void *to, const void *from, struct llama_weight w,
                       size_t heads)
{
    struct head_norm h = gpu_head_norm_of(in, heads);

    if (w.data)
        llama_cuda_norm(in->b.cuda, to, in->b.dtype, gpu_widened(in, in->heads, from, h.rows * h.size),
                        gpu_usable(in, w, h.size), h.rows, h.size, in->b.shape->rms_eps);
}

void gpu_rope(const struct block_gpu *in, void *x, size_t heads, size_t first, bool backward)
{
    const struct llama_block_cuda *b = &in->b;
    const struct llama_shape *s = b->shape;
    const float *table = llama_layer_local(s, in->layer) ? b->local_table : b->table;

    if (llama_layer_in(s->unrotated, in->layer))
        return;
    if (s->rope_dims)
        llama_cuda_rope_part(b->cuda, x, b->dtype, b->batch, b->seq, heads, s->head_dim, s->rope_dims, table,
                             first, backward);
    else
        llama_cuda_rope(b->cuda, x, b->dtype, b->batch, b->seq, heads, s->head_dim, table, first, backward);
}

static void rotate(const struct block_gpu *in, size_t first)
{
    gpu_rope(in, in->q, in->b.shape->heads, first, false);
    gpu_rope(in, in->k, in->b.shape->kv_heads, first, false);
}

static void bias(const struct block_gpu *in, void *y, enum ofl_dtype dtype, struct llama_weight b, size_t to)
{
    if (b.data)
        llama_cuda_bias(in->b.cuda, y, dtype, b, in->rows, to);
}

/* in->normed, and rotated q and k, and v. */
void gpu_project(const struct block_gpu *in, const struct llama_block_weights *w, const float *x)
{
    enum ofl_dtype dtype = in->b.dtype;

    norm(in, in->normed, x, w->attn_norm);
    matmul(in, in->q_raw, in->normed, w->q, in->hidden, in->q_dim);
    matmul(in, in->k_raw, in->normed, w->k, in->hidden, in->kv_dim);
    matmul(in, in->v, in->normed, w->v, in->hidden, in->kv_dim);
    bias(in, in->q_raw, dtype, w->q_bias, in->q_dim);
    bias(in, in->k_raw, dtype, w->k_bias, in->kv_dim);
    bias(in, in->v, dtype, w->v_bias, in->kv_dim);
    norm_heads(in, in->q, in->q_raw, w->q_norm, in->b.shape->heads);
    norm_heads(in, in->k, in->k_raw, w->k_norm, in->b.shape->kv_heads);
    rotate(in, 0);
}

/* From x after attention to gate and up. */
void gpu_feed(const struct block_gpu *in, const struct llama_block_weights *w, const float *mid)
{
    norm(in, in->normed_mid, mid, w->mlp_norm);
    matmul(in, in->gate, in->normed_mid, w->gate, in->hidden, in->ffn);
    matmul(in, in->up, in->normed_mid, w->up, in->hidden, in->ffn);
    bias(in, in->gate, in->b.dtype, w->gate_bias, in->ffn);
    bias(in, in->up, in->b.dtype, w->up_bias, in->ffn);
}

void gpu_gated(const struct block_gpu *in)
{
    size_t n = in->rows * in->ffn;

    if (in->b.shape->activation == LLAMA_SILU)
        llama_cuda_swiglu(in->b.cuda, in->act, in->gate, in->up, in->b.dtype, n);
    else
        llama_cuda_geglu(in->b.cuda, in->b.shape->activation == LLAMA_GELU, in->act, in->gate, in->up,
                         in->b.dtype, n);
}

/* x += branch, which is left normed. */
void gpu_add_branch(const struct block_gpu *in, float *x, float *branch, struct llama_weight post_norm)
{
    const struct llama_shape *s = in->b.shape;

    if (post_norm.data)
        llama_cuda_norm(in->b.cuda, branch, OFL_F32, branch, gpu_usable(in, post_norm, in->hidden), in->rows,
                        in->hidden, s->rms_eps);
    llama_cuda_add_scaled(in->b.cuda, x, branch, s->branch_scale != 0 ? s->branch_scale : 1,
                          in->rows * in->hidden);
}

/* x += a product of y, or that into the branch. */
void gpu_add(const struct block_gpu *in, float *x, const void *y, size_t from, struct llama_weight w,
             struct llama_weight b, float *branch)
{
    if (branch)
        llama_cuda_matmul(in->b.cuda, branch, OFL_F32, y, w.data, in->b.dtype, in->rows, from, in->hidden,
                          in->hidden, false);
    else
        matmul_add(in, x, y, w, from);
    bias(in, branch ? branch : x, OFL_F32, b, in->hidden);
}

/* The second half of a forward pass; x holds the layer's input and gets its output. */
static void finish(const struct block_gpu *in, const struct llama_block_weights *w, float *x)
{
    gpu_add(in, x, in->mixed, in->q_dim, w->o, w->o_bias, in->branch);
    if (in->branch)
        gpu_add_branch(in, x, in->branch, w->attn_post_norm);
    gpu_feed(in, w, x);
    gpu_gated(in);
    gpu_add(in, x, in->act, in->ffn, w->down, w->down_bias, in->mlp_branch);
    if (in->mlp_branch)
        gpu_add_branch(in, x, in->mlp_branch, w->mlp_post_norm);
}

void llama_block_cuda_forward(const struct llama_block_cuda *b, const struct llama_block_weights *weights,
                              const float *x_in, float *x_out)
{
    struct block_gpu in = gpu_sizes_of(b, weights->layer);
    struct llama_arena a = {.base = b->ws};

    lay_out_forward(&in, &a, false);
    gpu_project(&in, weights, x_in);
    llama_cuda_attention(b->cuda, in.mixed, NULL, in.q, in.k, in.v, b->dtype, b->shape, in.layer, b->batch, 0,
                         b->seq);
    if (x_out != x_in)
        gpu_copy(b->cuda, x_out, x_in, in.rows * in.hidden);
    finish(&in, weights, x_out);
}

/* ---- slice by slice ------------------------------------------------------ */

/* What comes between the matrix before and this one. */
static void before(const struct block_gpu *in, const struct llama_extend *e, enum llama_matrix matrix,
                   struct llama_weight weight)
{
    const struct llama_block_cuda *b = &in->b;

    if (matrix == LLAMA_MATRIX_Q || matrix == LLAMA_MATRIX_GATE) {
        norm(in, in->normed, e->x, weight);
    } else if (matrix == LLAMA_MATRIX_O) {
        rotate(in, e->first);
        llama_cuda_attention(b->cuda, in->mixed, NULL, in->q, e->k_cache, e->v_cache, b->dtype, b->shape,
                             in->layer, 1, e->first, e->n);
    } else if (matrix == LLAMA_MATRIX_DOWN) {
        gpu_gated(in);
    }
}

/* y[n, out] (+)= x[n, in] * matrix^T */
struct product {
    const void *x;
    void *y;
    size_t in, out;
};

static struct product product_of(const struct block_gpu *in, const struct llama_extend *e,
                                 enum llama_matrix matrix)
{
    float *out = in->branch ? in->branch : e->x;
    const struct product all[LLAMA_MATRICES] = {
        [LLAMA_MATRIX_Q] = {in->normed, in->q, in->hidden, in->q_dim},
        [LLAMA_MATRIX_K] = {in->normed, in->k, in->hidden, in->kv_dim},
        [LLAMA_MATRIX_V] = {in->normed, in->v, in->hidden, in->kv_dim},
        [LLAMA_MATRIX_O] = {in->mixed, out, in->q_dim, in->hidden},
        [LLAMA_MATRIX_GATE] = {in->normed_mid, in->gate, in->hidden, in->ffn},
        [LLAMA_MATRIX_UP] = {in->normed_mid, in->up, in->hidden, in->ffn},
        [LLAMA_MATRIX_DOWN] = {in->act, out, in->ffn, in->hidden},
    };

    return all[matrix];
}

/* What comes behind the matrix. */
static void behind(const struct block_gpu *in, const struct llama_extend *e, enum llama_matrix matrix,
                   const struct product *p, enum ofl_dtype dtype, const struct llama_slice *slice)
{
    bias(in, p->y, dtype, slice->bias, p->out);
    if (matrix == LLAMA_MATRIX_Q)
        norm_heads(in, in->q, in->q, slice->post_norm, in->b.shape->heads);
    else if (matrix == LLAMA_MATRIX_K)
        norm_heads(in, in->k, in->k, slice->post_norm, in->b.shape->kv_heads);
    else if (in->branch && p->y == in->branch)
        gpu_add_branch(in, e->x, in->branch, slice->post_norm);
}

void llama_block_cuda_extend(const struct llama_block_cuda *b, const struct llama_extend *e,
                             enum llama_matrix matrix, const struct llama_slice *slice)
{
    struct block_gpu in = gpu_sizes_of(b, e->layer);
    struct llama_arena between = {.base = e->between};
    size_t each = ofl_dtype_bytes(b->dtype), earlier = e->first * in.kv_dim * each;
    struct product p;
    enum ofl_dtype dtype;

    lay_out_forward(&in, &between, true);
    in.k = (char *)e->k_cache + earlier;
    in.v = (char *)e->v_cache + earlier;
    if (slice->from == 0)
        before(&in, e, matrix, slice->norm);
    p = product_of(&in, e, matrix);
    dtype = p.y == e->x || p.y == in.branch ? OFL_F32 : b->dtype; /* the residual stream, and what is added */
    llama_cuda_matmul(b->cuda, (char *)p.y + slice->from * ofl_dtype_bytes(dtype), dtype, p.x,
                      slice->weight.data, b->dtype, in.rows, p.in, slice->rows, p.out, p.y == e->x);
    if (slice->from + slice->rows == p.out)
        behind(&in, e, matrix, &p, dtype, slice);
}
