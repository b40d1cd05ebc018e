/* The decoder layer for new rows of one text, slice by slice. See block.h. */
#include "examples/model/block_impl.h"

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Pairs of gate and up are one row; up's has what an expert gives until it is weighted. */
static size_t gate_width(const struct block_inside *in)
{
    size_t each = in->shape->expert_pairs ? 2 : 1;

    return max_size(each * in->shape->expert_ffn, in->ffn);
}

static size_t up_width(const struct block_inside *in)
{
    return in->shape->expert_pairs ? in->shape->hidden : gate_width(in);
}

/* What a slice leaves for the next ones. */
static void lay_out_between(struct block_inside *in, struct llama_arena *a)
{
    size_t mark;

    if (llama_shape_branches(in->shape))
        in->branch = llama_take_floats(a, in->rows * in->shape->hidden);
    in->normed = in->normed_mid = llama_take_floats(a, in->rows * in->shape->hidden);
    mark = a->used;
    in->q = in->mixed = llama_take_floats(a, in->rows * in->q_dim);
    a->used = mark;
    in->gate = in->act = llama_take_floats(a, in->rows * gate_width(in));
    in->up = llama_take_floats(a, in->rows * up_width(in));
    if (in->shape->experts)
        in->probs = llama_take_floats(a, in->rows * in->shape->experts);
}

/* `positions`: of the longest row of scores. */
static void lay_out_extend(struct block_inside *in, struct llama_arena *a, size_t positions,
                           enum ofl_dtype dtype)
{
    size_t wide = block_wide_bytes(in, dtype), scores = llama_attention_workspace(positions);

    in->table = llama_take_floats(a, in->seq * llama_rope_dims(in->shape));
    if (in->shape->experts) {
        in->picked = llama_take_floats(a, in->rows * max_size(in->shape->hidden, in->shape->expert_ffn));
        in->chosen = llama_take(a, 2 * in->rows * sizeof *in->chosen);
    }
    if (in->shape->sinks)
        in->sinks = llama_take_floats(a, in->shape->heads);
    in->wide = in->scores = llama_take(a, wide > scores ? wide : scores);
}

size_t llama_block_between_bytes(const struct llama_shape *shape, size_t n)
{
    struct block_inside in = block_sizes(shape, 1, n, 0);
    struct llama_arena a = {0};

    lay_out_between(&in, &a);
    return a.peak;
}

size_t llama_block_extend_workspace(const struct llama_shape *shape, size_t n, size_t positions,
                                    enum ofl_dtype dtype)
{
    struct block_inside in = block_sizes(shape, 1, n, 0);
    struct llama_arena a = {0};

    lay_out_extend(&in, &a, positions, dtype);
    return a.peak;
}

/* What comes between the matrix before and this one. */
static void before(const struct block_inside *in, const struct llama_extend *e, enum llama_matrix matrix,
                   struct llama_weight weight)
{
    if (matrix == LLAMA_MATRIX_Q || matrix == LLAMA_MATRIX_GATE || matrix == LLAMA_MATRIX_ROUTER) {
        if (weight.data)
            block_norm(in, in->normed, e->x, weight);
    } else if (matrix == LLAMA_MATRIX_O) {
        block_rotate(in, e->first);
        if (weight.data)
            llama_widen(in->sinks, weight.data, weight.dtype, in->shape->heads);
        llama_attention_sinks(in->mixed, in->q, e->k_cache, e->v_cache, in->shape, in->layer,
                              weight.data ? in->sinks : NULL, e->first, in->seq, in->scores);
    } else if (matrix == LLAMA_MATRIX_DOWN) {
        llama_gated(in->shape->activation, in->act, in->gate, in->up, in->rows * in->ffn);
    }
}

/* y[n, out] (+)= x[n, in] * matrix^T */
struct product {
    const float *x;
    float *y;
    size_t in, out;
};

static struct product product_of(const struct block_inside *in, const struct llama_extend *e,
                                 enum llama_matrix matrix)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->ffn;
    float *out = in->branch ? in->branch : e->x, *from = in->shape->no_pre_norms ? e->x : in->normed;
    const struct product all[LLAMA_MATRICES_ALL] = {
        [LLAMA_MATRIX_Q] = {from, in->q, hidden, in->q_dim},
        [LLAMA_MATRIX_K] = {from, in->k, hidden, in->kv_dim},
        [LLAMA_MATRIX_V] = {from, in->v, hidden, in->kv_dim},
        [LLAMA_MATRIX_O] = {in->mixed, out, in->q_dim, hidden},
        [LLAMA_MATRIX_GATE] = {from, in->gate, hidden, ffn},
        [LLAMA_MATRIX_UP] = {from, in->up, hidden, ffn},
        [LLAMA_MATRIX_DOWN] = {in->act, out, ffn, hidden},
        [LLAMA_MATRIX_ROUTER] = {from, in->probs, hidden, in->shape->experts},
    };

    return all[matrix];
}

/* What comes behind the matrix. */
static void behind(const struct block_inside *in, const struct llama_extend *e, enum llama_matrix matrix,
                   const struct product *p, const struct llama_slice *slice)
{
    if (slice->bias.data)
        llama_bias(p->y, slice->bias, in->rows, p->out, in->wide);
    if (matrix == LLAMA_MATRIX_Q)
        block_norm_heads(in, in->q, in->q, slice->post_norm, in->shape->heads);
    else if (matrix == LLAMA_MATRIX_K)
        block_norm_heads(in, in->k, in->k, slice->post_norm, in->shape->kv_heads);
    else if (matrix == LLAMA_MATRIX_ROUTER)
        llama_route_rows(in->shape, e->routes, in->probs, in->rows);
    else if (in->branch && p->y == in->branch)
        block_add_branch(in, e->x, in->branch, slice->post_norm);
}

static void multiply(const struct block_inside *in, float *y, const float *x, struct llama_weight w,
                     size_t from, size_t rows, size_t stride, bool accumulate)
{
    if (w.adapter)
        llama_adapter_matmul(y, x, w, in->rows, from, rows, stride, accumulate, in->wide);
    else
        llama_matmul(y, x, w, in->rows, from, rows, stride, accumulate, in->wide);
}

void llama_block_extend(const struct llama_extend *e, enum llama_matrix matrix,
                        const struct llama_slice *slice, void *ws)
{
    struct block_inside in = block_sizes(e->shape, 1, e->n, e->layer);
    struct llama_arena a = {.base = ws}, between = {.base = e->between};
    struct product p;

    lay_out_between(&in, &between);
    lay_out_extend(&in, &a, e->positions, slice->weight.dtype);
    in.k = (float *)e->k_cache + e->first * in.kv_dim;
    in.v = (float *)e->v_cache + e->first * in.kv_dim;
    if (matrix > LLAMA_MATRIX_ROUTER) {
        block_extend_expert(&in, e, matrix, slice);
        return;
    }
    if (slice->from == 0)
        before(&in, e, matrix, slice->norm);
    p = product_of(&in, e, matrix);
    multiply(&in, p.y + slice->from, p.x, slice->weight, p.in, slice->rows, p.out, p.y == e->x);
    if (slice->from + slice->rows == p.out)
        behind(&in, e, matrix, &p, slice);
}
