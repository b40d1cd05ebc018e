/*
 * The decoder layer, composed of kernels. See block.h.
 *
 * Scratch is laid out by the same function that measures it. Regions whose lifetimes don't meet
 * share bytes: attention's scores with the feed-forward's activations, gradients with what they
 * replace.
 */
#include "examples/model/block.h"

#include "examples/model/kernels_inline.h"

/* One call's sizes and buffers. What is not used stays NULL. */
struct inside {
    const struct llama_shape *shape;
    size_t batch, seq, rows, q_dim, kv_dim;
    float *table;      /* rope */
    float *wide;       /* widened weights */
    float *normed;     /* after attn_norm */
    float *q, *k, *v;  /* rotated */
    float *mixed;      /* attention's output; q itself where q isn't needed after */
    float *mid;        /* x after attention */
    float *normed_mid; /* after mlp_norm */
    float *gate, *up, *act;
    float *dk, *dv;
    float *scores;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t wide_bytes(const struct inside *in, enum ofl_dtype dtype)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;
    size_t bytes = llama_norm_workspace(hidden);

    bytes = max_size(bytes, llama_matmul_workspace(hidden, in->q_dim, dtype));
    bytes = max_size(bytes, llama_matmul_workspace(in->q_dim, hidden, dtype));
    bytes = max_size(bytes, llama_matmul_workspace(hidden, in->kv_dim, dtype));
    bytes = max_size(bytes, llama_matmul_workspace(hidden, ffn, dtype));
    return max_size(bytes, llama_matmul_workspace(ffn, hidden, dtype));
}

static struct inside sizes_of(const struct llama_shape *shape, size_t batch, size_t seq)
{
    return (struct inside){
        .shape = shape,
        .batch = batch,
        .seq = seq,
        .rows = batch * seq,
        .q_dim = (size_t)shape->heads * shape->head_dim,
        .kv_dim = (size_t)shape->kv_heads * shape->head_dim,
    };
}

/* The scratch's end differs by dtype only, so that everything before is measured without it. */
static void take_wide(struct inside *in, struct llama_arena *a, enum ofl_dtype dtype)
{
    in->table = llama_take_floats(a, in->seq * in->shape->head_dim);
    in->wide = llama_take(a, wide_bytes(in, dtype));
}

static void lay_out_forward(struct inside *in, struct llama_arena *a)
{
    size_t mark;

    in->normed = in->normed_mid = llama_take_floats(a, in->rows * in->shape->hidden);
    mark = a->used;
    in->q = in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    in->k = llama_take_floats(a, in->rows * in->kv_dim);
    in->v = llama_take_floats(a, in->rows * in->kv_dim);
    in->scores = llama_take(a, llama_attention_workspace(in->seq));
    a->used = mark;
    in->gate = in->act = llama_take_floats(a, in->rows * in->shape->ffn);
    in->up = llama_take_floats(a, in->rows * in->shape->ffn);
    a->used = a->peak;
}

/* What a slice leaves for the next ones. */
static void lay_out_between(struct inside *in, struct llama_arena *a)
{
    size_t mark;

    in->normed = in->normed_mid = llama_take_floats(a, in->rows * in->shape->hidden);
    mark = a->used;
    in->q = in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    a->used = mark;
    in->gate = in->act = llama_take_floats(a, in->rows * in->shape->ffn);
    in->up = llama_take_floats(a, in->rows * in->shape->ffn);
}

/* `positions`: of the longest row of scores. */
static void lay_out_extend(struct inside *in, struct llama_arena *a, size_t positions, enum ofl_dtype dtype)
{
    in->table = llama_take_floats(a, in->seq * in->shape->head_dim);
    in->wide = in->scores =
        llama_take(a, max_size(wide_bytes(in, dtype), llama_attention_workspace(positions)));
}

static void lay_out_backward(struct inside *in, struct llama_arena *a)
{
    size_t mark;

    in->normed = llama_take_floats(a, in->rows * in->shape->hidden);
    in->q = llama_take_floats(a, in->rows * in->q_dim);
    in->k = llama_take_floats(a, in->rows * in->kv_dim);
    in->v = llama_take_floats(a, in->rows * in->kv_dim);
    in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    mark = a->used;
    in->dk = llama_take_floats(a, in->rows * in->kv_dim);
    in->dv = llama_take_floats(a, in->rows * in->kv_dim);
    in->scores = llama_take(a, llama_attention_backward_workspace(in->seq));
    a->used = mark;
    in->mid = llama_take_floats(a, in->rows * in->shape->hidden);
    in->normed_mid = llama_take_floats(a, in->rows * in->shape->hidden);
    in->gate = llama_take_floats(a, in->rows * in->shape->ffn);
    in->up = llama_take_floats(a, in->rows * in->shape->ffn);
    in->act = llama_take_floats(a, in->rows * in->shape->ffn);
    a->used = a->peak;
}

size_t llama_block_forward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                     enum ofl_dtype dtype)
{
    struct inside in = sizes_of(shape, batch, seq);
    struct llama_arena a = {0};

    lay_out_forward(&in, &a);
    take_wide(&in, &a, dtype);
    return a.peak;
}

size_t llama_block_backward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                      enum ofl_dtype dtype)
{
    struct inside in = sizes_of(shape, batch, seq);
    struct llama_arena a = {0};

    lay_out_backward(&in, &a);
    take_wide(&in, &a, dtype);
    return a.peak;
}

size_t llama_block_between_bytes(const struct llama_shape *shape, size_t n)
{
    struct inside in = sizes_of(shape, 1, n);
    struct llama_arena a = {0};

    lay_out_between(&in, &a);
    return a.peak;
}

size_t llama_block_extend_workspace(const struct llama_shape *shape, size_t n, size_t positions,
                                    enum ofl_dtype dtype)
{
    struct inside in = sizes_of(shape, 1, n);
    struct llama_arena a = {0};

    lay_out_extend(&in, &a, positions, dtype);
    return a.peak;
}

/* ---- forward ------------------------------------------------------------- */

static void norm(const struct inside *in, float *y, const float *x, struct llama_weight w)
{
    llama_norm(y, x, w, in->rows, in->shape->hidden, in->shape->rms_eps, in->wide);
}

static void rotate(const struct inside *in, size_t first)
{
    const struct llama_shape *shape = in->shape;

    if (shape->rope_pairs) {
        llama_rope_apart(in->q, in->rows, shape->heads, shape->head_dim);
        llama_rope_apart(in->k, in->rows, shape->kv_heads, shape->head_dim);
    }
    llama_rope_table(in->table, shape, first, in->seq);
    llama_rope(in->q, in->batch, in->seq, shape->heads, shape->head_dim, in->table, false);
    llama_rope(in->k, in->batch, in->seq, shape->kv_heads, shape->head_dim, in->table, false);
}

/* in->normed, and rotated q and k, and v. */
static void project(const struct inside *in, const struct llama_block_weights *w, const float *x)
{
    size_t hidden = in->shape->hidden;

    norm(in, in->normed, x, w->attn_norm);
    llama_matmul(in->q, in->normed, w->q, in->rows, hidden, in->q_dim, in->q_dim, false, in->wide);
    llama_matmul(in->k, in->normed, w->k, in->rows, hidden, in->kv_dim, in->kv_dim, false, in->wide);
    llama_matmul(in->v, in->normed, w->v, in->rows, hidden, in->kv_dim, in->kv_dim, false, in->wide);
    rotate(in, 0);
}

static void attend(const struct inside *in)
{
    for (size_t b = 0; b < in->batch; b++) {
        size_t q = b * in->seq * in->q_dim, k = b * in->seq * in->kv_dim;

        llama_attention(in->mixed + q, in->q + q, in->k + k, in->v + k, in->shape, 0, in->seq, in->scores);
    }
}

/* From x after attention to gate and up. */
static void feed(const struct inside *in, const struct llama_block_weights *w, const float *mid)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;

    norm(in, in->normed_mid, mid, w->mlp_norm);
    llama_matmul(in->gate, in->normed_mid, w->gate, in->rows, hidden, ffn, ffn, false, in->wide);
    llama_matmul(in->up, in->normed_mid, w->up, in->rows, hidden, ffn, ffn, false, in->wide);
}

/* The second half of a forward pass; x holds the layer's input and gets its output. */
static void finish(const struct inside *in, const struct llama_block_weights *w, float *x)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;

    llama_matmul(x, in->mixed, w->o, in->rows, in->q_dim, hidden, hidden, true, in->wide);
    feed(in, w, x);
    llama_swiglu(in->act, in->gate, in->up, in->rows * ffn);
    llama_matmul(x, in->act, w->down, in->rows, ffn, hidden, hidden, true, in->wide);
}

void llama_block_forward(const struct llama_shape *shape, size_t batch, size_t seq,
                         const struct llama_block_weights *weights, const float *x_in, float *x_out, void *ws)
{
    struct inside in = sizes_of(shape, batch, seq);
    struct llama_arena a = {.base = ws};

    lay_out_forward(&in, &a);
    take_wide(&in, &a, weights->q.dtype);
    project(&in, weights, x_in);
    attend(&in);
    if (x_out != x_in)
        memcpy(x_out, x_in, in.rows * shape->hidden * sizeof *x_out);
    finish(&in, weights, x_out);
}

/* ---- slice by slice ------------------------------------------------------ */

/* What comes between the matrix before and this one. */
static void before(const struct inside *in, const struct llama_extend *e, enum llama_matrix matrix,
                   struct llama_weight weight)
{
    if (matrix == LLAMA_MATRIX_Q || matrix == LLAMA_MATRIX_GATE) {
        norm(in, in->normed, e->x, weight);
    } else if (matrix == LLAMA_MATRIX_O) {
        rotate(in, e->first);
        llama_attention(in->mixed, in->q, e->k_cache, e->v_cache, in->shape, e->first, in->seq, in->scores);
    } else if (matrix == LLAMA_MATRIX_DOWN) {
        llama_swiglu(in->act, in->gate, in->up, in->rows * in->shape->ffn);
    }
}

/* y[n, out] (+)= x[n, in] * matrix^T */
struct product {
    const float *x;
    float *y;
    size_t in, out;
};

static struct product product_of(const struct inside *in, const struct llama_extend *e,
                                 enum llama_matrix matrix)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;
    const struct product all[LLAMA_MATRICES] = {
        [LLAMA_MATRIX_Q] = {in->normed, in->q, hidden, in->q_dim},
        [LLAMA_MATRIX_K] = {in->normed, in->k, hidden, in->kv_dim},
        [LLAMA_MATRIX_V] = {in->normed, in->v, hidden, in->kv_dim},
        [LLAMA_MATRIX_O] = {in->mixed, e->x, in->q_dim, hidden},
        [LLAMA_MATRIX_GATE] = {in->normed_mid, in->gate, hidden, ffn},
        [LLAMA_MATRIX_UP] = {in->normed_mid, in->up, hidden, ffn},
        [LLAMA_MATRIX_DOWN] = {in->act, e->x, ffn, hidden},
    };

    return all[matrix];
}

void llama_block_extend(const struct llama_extend *e, enum llama_matrix matrix,
                        const struct llama_slice *slice, void *ws)
{
    struct inside in = sizes_of(e->shape, 1, e->n);
    struct llama_arena a = {.base = ws}, between = {.base = e->between};
    struct product p;

    lay_out_between(&in, &between);
    lay_out_extend(&in, &a, e->positions, slice->weight.dtype);
    in.k = (float *)e->k_cache + e->first * in.kv_dim;
    in.v = (float *)e->v_cache + e->first * in.kv_dim;
    if (slice->from == 0)
        before(&in, e, matrix, slice->norm);
    p = product_of(&in, e, matrix);
    llama_matmul(p.y + slice->from, p.x, slice->weight, in.rows, p.in, slice->rows, p.out, p.y == e->x,
                 in.wide);
}

/* ---- backward ------------------------------------------------------------ */

/* Feed-forward half: dx from the gradient at x_out to that at mid. Each gradient lands on what it is
 * last needed with. */
static void feed_backward(const struct inside *in, const struct llama_block_weights *w,
                          const struct llama_block_grads *g, bool first, float *dx)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn, rows = in->rows;
    float *dact = in->act, *dnormed = in->normed_mid;

    llama_swiglu(in->act, in->gate, in->up, rows * ffn);
    llama_matmul_dw(g->down, dx, in->act, rows, ffn, hidden, first);
    llama_matmul_dx(dact, dx, w->down, rows, ffn, hidden, false, in->wide);
    llama_swiglu_backward(in->gate, in->up, dact, rows * ffn);
    llama_matmul_dw(g->gate, in->gate, in->normed_mid, rows, hidden, ffn, first);
    llama_matmul_dw(g->up, in->up, in->normed_mid, rows, hidden, ffn, first);
    llama_matmul_dx(dnormed, in->gate, w->gate, rows, hidden, ffn, false, in->wide);
    llama_matmul_dx(dnormed, in->up, w->up, rows, hidden, ffn, true, in->wide);
    llama_norm_backward(dx, g->mlp_norm, dnormed, in->mid, w->mlp_norm, rows, hidden, in->shape->rms_eps,
                        true, first, in->wide);
}

/* Attention half: dx from the gradient at mid to that at x_in. */
static void attend_backward(const struct inside *in, const struct llama_block_weights *w,
                            const struct llama_block_grads *g, bool first, const float *x_in, float *dx)
{
    const struct llama_shape *shape = in->shape;
    size_t hidden = shape->hidden, rows = in->rows;
    float *dmixed = in->mixed, *dq = in->q, *dnormed = in->normed;

    llama_matmul_dw(g->o, dx, in->mixed, rows, in->q_dim, hidden, first);
    llama_matmul_dx(dmixed, dx, w->o, rows, in->q_dim, hidden, false, in->wide);
    for (size_t b = 0; b < in->batch; b++) {
        size_t q = b * in->seq * in->q_dim, k = b * in->seq * in->kv_dim;

        llama_attention_backward(dq + q, in->dk + k, in->dv + k, dmixed + q, in->q + q, in->k + k, in->v + k,
                                 shape, in->seq, in->scores);
    }
    llama_rope(dq, in->batch, in->seq, shape->heads, shape->head_dim, in->table, true);
    llama_rope(in->dk, in->batch, in->seq, shape->kv_heads, shape->head_dim, in->table, true);
    llama_matmul_dw(g->q, dq, in->normed, rows, hidden, in->q_dim, first);
    llama_matmul_dw(g->k, in->dk, in->normed, rows, hidden, in->kv_dim, first);
    llama_matmul_dw(g->v, in->dv, in->normed, rows, hidden, in->kv_dim, first);
    llama_matmul_dx(dnormed, dq, w->q, rows, hidden, in->q_dim, false, in->wide);
    llama_matmul_dx(dnormed, in->dk, w->k, rows, hidden, in->kv_dim, true, in->wide);
    llama_matmul_dx(dnormed, in->dv, w->v, rows, hidden, in->kv_dim, true, in->wide);
    llama_norm_backward(dx, g->attn_norm, dnormed, x_in, w->attn_norm, rows, hidden, shape->rms_eps, true,
                        first, in->wide);
}

void llama_block_backward(const struct llama_shape *shape, size_t batch, size_t seq,
                          const struct llama_block_weights *weights, const struct llama_block_grads *grads,
                          bool first, const float *x_in, float *dx, void *ws)
{
    struct inside in = sizes_of(shape, batch, seq);
    struct llama_arena a = {.base = ws};

    lay_out_backward(&in, &a);
    take_wide(&in, &a, weights->q.dtype);
    project(&in, weights, x_in);
    attend(&in);
    memcpy(in.mid, x_in, in.rows * shape->hidden * sizeof *in.mid);
    llama_matmul(in.mid, in.mixed, weights->o, in.rows, in.q_dim, shape->hidden, shape->hidden, true,
                 in.wide);
    feed(&in, weights, in.mid);
    feed_backward(&in, weights, grads, first, dx);
    attend_backward(&in, weights, grads, first, x_in, dx);
}
