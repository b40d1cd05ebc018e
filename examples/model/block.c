/*
 * The decoder layer, composed of kernels. See block.h; slice by slice: block_extend.c.
 *
 * Scratch is laid out by the same function that measures it. Regions whose lifetimes don't meet
 * share bytes: attention's scores with the feed-forward's activations, gradients with what they
 * replace.
 */
#include "examples/model/block_impl.h"

/* ---- sizes ----------------------------------------------------------------- */

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Norms of all heads, and biases, are the longer ones. */
static size_t vector_bytes(const struct block_inside *in)
{
    const struct llama_shape *s = in->shape;
    size_t elems = s->hidden;

    if (s->qkv_bias || s->qk_norm != LLAMA_QK_PLAIN)
        elems = max_size(elems, max_size(in->q_dim, in->kv_dim));
    return llama_norm_workspace(s->mlp_bias ? max_size(elems, s->ffn) : elems);
}

size_t block_wide_bytes(const struct block_inside *in, enum ofl_dtype dtype)
{
    size_t hidden = in->shape->hidden, ffn = in->ffn ? in->ffn : 1;
    size_t bytes = vector_bytes(in);

    bytes = max_size(bytes, llama_matmul_workspace(hidden, in->q_dim, dtype));
    bytes = max_size(bytes, llama_matmul_workspace(in->q_dim, hidden, dtype));
    bytes = max_size(bytes, llama_matmul_workspace(hidden, in->kv_dim, dtype));
    if (in->shape->experts) {
        size_t expert = in->shape->expert_ffn * (in->shape->expert_pairs ? 2 : 1);

        bytes = max_size(bytes, llama_norm_workspace(expert));
        bytes = max_size(bytes, llama_norm_workspace(in->shape->experts));
        bytes = max_size(bytes, llama_matmul_workspace(hidden, in->shape->experts, dtype));
        bytes = max_size(bytes, llama_matmul_workspace(hidden, expert, dtype));
        bytes = max_size(bytes, llama_matmul_workspace(expert, hidden, dtype));
        bytes = max_size(bytes, llama_matmul_workspace(in->shape->expert_ffn, hidden, dtype));
    }
    bytes = max_size(bytes, llama_matmul_workspace(hidden, ffn, dtype));
    return max_size(bytes, llama_matmul_workspace(ffn, hidden, dtype));
}

/* The feed-forward's of those layers that have one of their own. */
static size_t dense_ffn(const struct llama_shape *shape)
{
    for (uint32_t i = 0; i < shape->layers && shape->experts; i++)
        if (!llama_layer_mixed(shape, i))
            return shape->ffn;
    return shape->experts ? 0 : shape->ffn;
}

struct block_inside block_sizes(const struct llama_shape *shape, size_t batch, size_t seq, uint32_t layer)
{
    return (struct block_inside){
        .shape = shape,
        .layer = layer,
        .batch = batch,
        .seq = seq,
        .rows = batch * seq,
        .q_dim = (size_t)shape->heads * shape->head_dim,
        .kv_dim = (size_t)shape->kv_heads * shape->head_dim,
        .ffn = dense_ffn(shape),
    };
}

/* The scratch's end differs by dtype only, so that everything before is measured without it. */
void block_take_wide(struct block_inside *in, struct llama_arena *a, enum ofl_dtype dtype)
{
    in->table = llama_take_floats(a, in->seq * llama_rope_dims(in->shape));
    in->wide = llama_take(a, block_wide_bytes(in, dtype));
}

void block_lay_out_forward(struct block_inside *in, struct llama_arena *a)
{
    size_t mark;

    if (llama_shape_branches(in->shape))
        in->branch = in->mlp_branch = llama_take_floats(a, in->rows * in->shape->hidden);
    in->normed = in->normed_mid = llama_take_floats(a, in->rows * in->shape->hidden);
    mark = a->used;
    in->q = in->q_raw = in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    in->k = in->k_raw = llama_take_floats(a, in->rows * in->kv_dim);
    in->v = llama_take_floats(a, in->rows * in->kv_dim);
    in->scores = llama_take(a, llama_attention_workspace(in->seq));
    a->used = mark;
    in->gate = in->act = llama_take_floats(a, in->rows * in->ffn);
    in->up = llama_take_floats(a, in->rows * in->ffn);
    a->used = a->peak;
}

void block_lay_out_backward(struct block_inside *in, struct llama_arena *a)
{
    size_t mark, hidden = in->shape->hidden;

    in->normed = llama_take_floats(a, in->rows * hidden);
    in->q = in->q_raw = llama_take_floats(a, in->rows * in->q_dim);
    in->k = in->k_raw = llama_take_floats(a, in->rows * in->kv_dim);
    in->v = llama_take_floats(a, in->rows * in->kv_dim);
    if (in->shape->qk_norm != LLAMA_QK_PLAIN) {
        in->q_raw = llama_take_floats(a, in->rows * in->q_dim);
        in->k_raw = llama_take_floats(a, in->rows * in->kv_dim);
    }
    in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    if (llama_shape_branches(in->shape)) {
        in->branch = llama_take_floats(a, in->rows * hidden);
        in->mlp_branch = llama_take_floats(a, in->rows * hidden);
    }
    mark = a->used;
    in->dk = llama_take_floats(a, in->rows * in->kv_dim);
    in->dv = llama_take_floats(a, in->rows * in->kv_dim);
    in->scores = llama_take(a, llama_attention_backward_workspace(in->seq));
    a->used = mark;
    in->mid = llama_take_floats(a, in->rows * hidden);
    in->normed_mid = llama_take_floats(a, in->rows * hidden);
    in->gate = llama_take_floats(a, in->rows * in->ffn);
    in->up = llama_take_floats(a, in->rows * in->ffn);
    in->act = llama_take_floats(a, in->rows * in->ffn);
    a->used = a->peak;
}

size_t llama_block_forward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                     enum ofl_dtype dtype)
{
    struct block_inside in = block_sizes(shape, batch, seq, 0);
    struct llama_arena a = {0};

    block_lay_out_forward(&in, &a);
    block_take_wide(&in, &a, dtype);
    return a.peak;
}

size_t llama_block_backward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                      enum ofl_dtype dtype)
{
    struct block_inside in = block_sizes(shape, batch, seq, 0);
    struct llama_arena a = {0};

    block_lay_out_backward(&in, &a);
    block_take_wide(&in, &a, dtype);
    return a.peak;
}

/* ---- parts ----------------------------------------------------------------- */

void block_norm(const struct block_inside *in, float *y, const float *x, struct llama_weight w)
{
    llama_norm(y, x, w, in->rows, in->shape->hidden, in->shape->rms_eps, in->wide);
}

void block_norm_heads(const struct block_inside *in, float *to, const float *from, struct llama_weight w,
                      size_t heads)
{
    const struct llama_shape *s = in->shape;

    if (s->qk_norm == LLAMA_QK_NORM_HEAD)
        llama_norm(to, from, w, in->rows * heads, s->head_dim, s->rms_eps, in->wide);
    else if (s->qk_norm == LLAMA_QK_NORM_ALL)
        llama_norm(to, from, w, in->rows, heads * s->head_dim, s->rms_eps, in->wide);
}

void block_rotate(const struct block_inside *in, size_t first)
{
    const struct llama_shape *s = in->shape;
    size_t dims = llama_rope_dims(s);

    if (llama_layer_in(s->unrotated, in->layer))
        return;
    if (s->rope_pairs) {
        llama_rope_apart(in->q, in->rows, s->heads, s->head_dim);
        llama_rope_apart(in->k, in->rows, s->kv_heads, s->head_dim);
    }
    llama_rope_table(in->table, s, in->layer, first, in->seq);
    llama_rope(in->q, in->batch, in->seq, s->heads, s->head_dim, dims, in->table, false);
    llama_rope(in->k, in->batch, in->seq, s->kv_heads, s->head_dim, dims, in->table, false);
}

static float branch_scale(const struct block_inside *in)
{
    return in->shape->branch_scale != 0 ? in->shape->branch_scale : 1;
}

void block_add_branch(const struct block_inside *in, float *x, float *branch, struct llama_weight post_norm)
{
    if (post_norm.data)
        block_norm(in, branch, branch, post_norm);
    llama_add_scaled(x, branch, branch_scale(in), in->rows * in->shape->hidden);
}

/* ---- forward ------------------------------------------------------------- */

static void product(const struct block_inside *in, float *y, const float *x, struct llama_weight w,
                    size_t from, size_t to, bool accumulate)
{
    if (w.adapter)
        llama_adapter_matmul(y, x, w, in->rows, from, to, to, accumulate, in->wide);
    else
        llama_matmul(y, x, w, in->rows, from, to, to, accumulate, in->wide);
}

static void matmul(const struct block_inside *in, float *y, const float *x, struct llama_weight w,
                   struct llama_weight bias, size_t from, size_t to)
{
    product(in, y, x, w, from, to, false);
    if (bias.data)
        llama_bias(y, bias, in->rows, to, in->wide);
}

/* What a half of the layer computes from: x itself where no norm stands in front. */
static const float *input(const struct block_inside *in, float *normed, const float *x, struct llama_weight w)
{
    if (!w.data)
        return x;
    block_norm(in, normed, x, w);
    return normed;
}

/* Rotated q and k, and v. */
void block_project(const struct block_inside *in, const struct llama_block_weights *w, const float *x)
{
    size_t hidden = in->shape->hidden;
    const float *from = input(in, in->normed, x, w->attn_norm);

    matmul(in, in->q_raw, from, w->q, w->q_bias, hidden, in->q_dim);
    matmul(in, in->k_raw, from, w->k, w->k_bias, hidden, in->kv_dim);
    matmul(in, in->v, from, w->v, w->v_bias, hidden, in->kv_dim);
    block_norm_heads(in, in->q, in->q_raw, w->q_norm, in->shape->heads);
    block_norm_heads(in, in->k, in->k_raw, w->k_norm, in->shape->kv_heads);
    block_rotate(in, 0);
}

void block_attend(const struct block_inside *in)
{
    for (size_t b = 0; b < in->batch; b++) {
        size_t q = b * in->seq * in->q_dim, k = b * in->seq * in->kv_dim;

        llama_attention(in->mixed + q, in->q + q, in->k + k, in->v + k, in->shape, in->layer, 0, in->seq,
                        in->scores);
    }
}

/* x += what a half of the layer gives: a product of y[rows, from]; or that into the branch. */
static void add(const struct block_inside *in, float *x, const float *y, size_t from, struct llama_weight w,
                struct llama_weight bias, float *branch)
{
    size_t hidden = in->shape->hidden;

    if (branch) {
        matmul(in, branch, y, w, bias, from, hidden);
        return;
    }
    product(in, x, y, w, from, hidden, true);
    if (bias.data)
        llama_bias(x, bias, in->rows, hidden, in->wide);
}

/* From x after attention to gate and up. */
static void feed(const struct block_inside *in, const struct llama_block_weights *w, const float *mid)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;
    const float *from = input(in, in->normed_mid, mid, w->mlp_norm);

    matmul(in, in->gate, from, w->gate, w->gate_bias, hidden, ffn);
    matmul(in, in->up, from, w->up, w->up_bias, hidden, ffn);
}

void block_add_attention(const struct block_inside *in, const struct llama_block_weights *w, float *x)
{
    add(in, x, in->mixed, in->q_dim, w->o, w->o_bias, in->branch);
    if (in->branch)
        block_add_branch(in, x, in->branch, w->attn_post_norm);
}

/* The second half of a forward pass; x holds the layer's input and gets its output. */
static void finish(const struct block_inside *in, const struct llama_block_weights *w, float *x)
{
    size_t ffn = in->shape->ffn;

    block_add_attention(in, w, x);
    feed(in, w, x);
    llama_gated(in->shape->activation, in->act, in->gate, in->up, in->rows * ffn);
    add(in, x, in->act, ffn, w->down, w->down_bias, in->mlp_branch);
    if (in->mlp_branch)
        block_add_branch(in, x, in->mlp_branch, w->mlp_post_norm);
}

void llama_block_forward(const struct llama_shape *shape, size_t batch, size_t seq,
                         const struct llama_block_weights *weights, const float *x_in, float *x_out, void *ws)
{
    struct block_inside in = block_sizes(shape, batch, seq, weights->layer);
    struct llama_arena a = {.base = ws};

    block_lay_out_forward(&in, &a);
    block_take_wide(&in, &a, weights->q.dtype);
    block_project(&in, weights, x_in);
    block_attend(&in);
    if (x_out != x_in)
        memcpy(x_out, x_in, in.rows * shape->hidden * sizeof *x_out);
    finish(&in, weights, x_out);
}

/* ---- backward ------------------------------------------------------------ */

/* The gradient at what a product gave, from dx at the layer's stream: dx itself, or in the branch, which holds what
 * the product gave. */
static const float *branch_backward(const struct block_inside *in, float *branch, const float *dx,
                                    struct llama_weight post_norm, float *dnorm, bool first)
{
    size_t n = in->rows * in->shape->hidden;

    if (!branch)
        return dx;
    if (post_norm.data)
        llama_norm_backward(branch, dnorm, dx, branch, post_norm, in->rows, in->shape->hidden,
                            in->shape->rms_eps, false, first, in->wide);
    else
        memcpy(branch, dx, n * sizeof *branch);
    if (in->shape->branch_scale != 0)
        llama_scale(branch, n, in->shape->branch_scale);
    return branch;
}

/* The gradients of a matrix and its bias, as far as they are wanted, and of its adapter. */
static void matmul_dw(const struct block_inside *in, float *dw, float *db, struct llama_weight w,
                      const float *dy, const float *x, size_t from, size_t to, bool first)
{
    if (dw)
        llama_matmul_dw(dw, dy, x, in->rows, from, to, first);
    if (db)
        llama_bias_backward(db, dy, in->rows, to, first);
    if (w.adapter)
        llama_adapter_backward(dy, x, w, in->rows, from, to, first, in->wide);
}

static void matmul_dx(const struct block_inside *in, float *dx, const float *dy, struct llama_weight w,
                      size_t from, size_t to, bool accumulate)
{
    if (w.adapter)
        llama_adapter_matmul_dx(dx, dy, w, in->rows, from, to, accumulate, in->wide);
    else
        llama_matmul_dx(dx, dy, w, in->rows, from, to, accumulate, in->wide);
}

/* Feed-forward half: dx from the gradient at x_out to that at mid. Each gradient lands on what it is
 * last needed with. */
static void feed_backward(const struct block_inside *in, const struct llama_block_weights *w,
                          const struct llama_block_grads *g, bool first, float *dx)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn, rows = in->rows;
    bool normed = w->mlp_norm.data;
    const float *from = normed ? in->normed_mid : in->mid;
    const float *dy = branch_backward(in, in->mlp_branch, dx, w->mlp_post_norm, g->mlp_post_norm, first);
    float *dact = in->act, *dfrom = normed ? in->normed_mid : dx;

    llama_gated(in->shape->activation, in->act, in->gate, in->up, rows * ffn);
    matmul_dw(in, g->down, g->down_bias, w->down, dy, in->act, ffn, hidden, first);
    matmul_dx(in, dact, dy, w->down, ffn, hidden, false);
    llama_gated_backward(in->shape->activation, in->gate, in->up, dact, rows * ffn);
    matmul_dw(in, g->gate, g->gate_bias, w->gate, in->gate, from, hidden, ffn, first);
    matmul_dw(in, g->up, g->up_bias, w->up, in->up, from, hidden, ffn, first);
    matmul_dx(in, dfrom, in->gate, w->gate, hidden, ffn, !normed);
    matmul_dx(in, dfrom, in->up, w->up, hidden, ffn, true);
    if (normed)
        llama_norm_backward(dx, g->mlp_norm, dfrom, in->mid, w->mlp_norm, rows, hidden, in->shape->rms_eps,
                            true, first, in->wide);
}

/* d: the gradient at normed q or k, and then at what the projection gave. */
static void norm_heads_backward(const struct block_inside *in, float *d, float *dw, const float *raw,
                                struct llama_weight w, size_t heads, bool first)
{
    const struct llama_shape *s = in->shape;
    bool each = s->qk_norm == LLAMA_QK_NORM_HEAD;

    if (s->qk_norm != LLAMA_QK_PLAIN)
        llama_norm_backward(d, dw, d, raw, w, each ? in->rows * heads : in->rows,
                            each ? s->head_dim : heads * s->head_dim, s->rms_eps, false, first, in->wide);
}

static void rotate_back(const struct block_inside *in, float *dq)
{
    const struct llama_shape *s = in->shape;
    size_t dims = llama_rope_dims(s);

    if (llama_layer_in(s->unrotated, in->layer))
        return;
    llama_rope(dq, in->batch, in->seq, s->heads, s->head_dim, dims, in->table, true);
    llama_rope(in->dk, in->batch, in->seq, s->kv_heads, s->head_dim, dims, in->table, true);
    if (s->rope_pairs) {
        llama_rope_together(dq, in->rows, s->heads, s->head_dim);
        llama_rope_together(in->dk, in->rows, s->kv_heads, s->head_dim);
    }
}

/* Attention half: dx from the gradient at mid to that at x_in. */
void block_attend_backward(const struct block_inside *in, const struct llama_block_weights *w,
                           const struct llama_block_grads *g, bool first, const float *x_in, float *dx)
{
    const struct llama_shape *shape = in->shape;
    size_t hidden = shape->hidden, rows = in->rows;
    bool normed = w->attn_norm.data;
    const float *from = normed ? in->normed : x_in;
    const float *dy = branch_backward(in, in->branch, dx, w->attn_post_norm, g->attn_post_norm, first);
    float *dmixed = in->mixed, *dq = in->q, *dfrom = normed ? in->normed : dx;

    matmul_dw(in, g->o, g->o_bias, w->o, dy, in->mixed, in->q_dim, hidden, first);
    matmul_dx(in, dmixed, dy, w->o, in->q_dim, hidden, false);
    for (size_t b = 0; b < in->batch; b++) {
        size_t q = b * in->seq * in->q_dim, k = b * in->seq * in->kv_dim;

        llama_attention_backward(dq + q, in->dk + k, in->dv + k, dmixed + q, in->q + q, in->k + k, in->v + k,
                                 shape, in->layer, in->seq, in->scores);
    }
    rotate_back(in, dq);
    norm_heads_backward(in, dq, g->q_norm, in->q_raw, w->q_norm, shape->heads, first);
    norm_heads_backward(in, in->dk, g->k_norm, in->k_raw, w->k_norm, shape->kv_heads, first);
    matmul_dw(in, g->q, g->q_bias, w->q, dq, from, hidden, in->q_dim, first);
    matmul_dw(in, g->k, g->k_bias, w->k, in->dk, from, hidden, in->kv_dim, first);
    matmul_dw(in, g->v, g->v_bias, w->v, in->dv, from, hidden, in->kv_dim, first);
    matmul_dx(in, dfrom, dq, w->q, hidden, in->q_dim, !normed);
    matmul_dx(in, dfrom, in->dk, w->k, hidden, in->kv_dim, true);
    matmul_dx(in, dfrom, in->dv, w->v, hidden, in->kv_dim, true);
    if (normed)
        llama_norm_backward(dx, g->attn_norm, dfrom, x_in, w->attn_norm, rows, hidden, shape->rms_eps, true,
                            first, in->wide);
}

/* x after attention, from what attention gave. A branch keeps what it was before its norm: what is added passes through
 * normed_mid, which is not in use yet. */
void block_mid(const struct block_inside *in, const struct llama_block_weights *w, const float *x_in)
{
    size_t n = in->rows * in->shape->hidden;

    memcpy(in->mid, x_in, n * sizeof *in->mid);
    add(in, in->mid, in->mixed, in->q_dim, w->o, w->o_bias, in->branch);
    if (!in->branch)
        return;
    memcpy(in->normed_mid, in->branch, n * sizeof *in->normed_mid);
    block_add_branch(in, in->mid, in->normed_mid, w->attn_post_norm);
}

void llama_block_backward(const struct llama_shape *shape, size_t batch, size_t seq,
                          const struct llama_block_weights *weights, const struct llama_block_grads *grads,
                          bool first, const float *x_in, float *dx, void *ws)
{
    struct block_inside in = block_sizes(shape, batch, seq, weights->layer);
    struct llama_arena a = {.base = ws};

    block_lay_out_backward(&in, &a);
    block_take_wide(&in, &a, weights->q.dtype);
    block_project(&in, weights, x_in);
    block_attend(&in);
    block_mid(&in, weights, x_in);
    feed(&in, weights, in.mid);
    if (in.mlp_branch && weights->mlp_post_norm.data) { /* whose norm's backward needs it */
        llama_gated(shape->activation, in.act, in.gate, in.up, in.rows * in.ffn);
        matmul(&in, in.mlp_branch, in.act, weights->down, weights->down_bias, shape->ffn, shape->hidden);
    }
    feed_backward(&in, weights, grads, first, dx);
    block_attend_backward(&in, weights, grads, first, x_in, dx);
}
