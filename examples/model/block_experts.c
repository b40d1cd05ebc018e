/*
 * A layer whose feed-forward is a mixture of experts: in training one expert after the other, and of new rows slice by
 * slice. See block.h. Each expert's products are over the rows that use it; what it gives is added in the order of
 * experts.
 */
#include "examples/model/block_impl.h"

/* ---- what the calls of a layer have in common ------------------------------ */

struct state {
    struct llama_route *routes; /* [rows, experts_used] */
    float *normed, *dnormed;    /* [rows, hidden]: what experts are given */
    float *probs;               /* [rows, experts] */
    float *dweights;            /* [rows, experts_used] */
};

static size_t lay_out_state(const struct llama_shape *s, size_t rows, void *base, struct state *out)
{
    struct llama_arena a = {.base = base};

    out->routes = llama_take(&a, rows * s->experts_used * sizeof *out->routes);
    out->normed = llama_take_floats(&a, rows * s->hidden);
    out->dnormed = llama_take_floats(&a, rows * s->hidden);
    out->probs = llama_take_floats(&a, rows * s->experts);
    out->dweights = llama_take_floats(&a, rows * s->experts_used);
    return a.peak;
}

size_t llama_experts_state_bytes(const struct llama_shape *shape, size_t rows)
{
    struct state st;

    return lay_out_state(shape, rows, NULL, &st);
}

/* Of one expert. */
struct inside {
    struct llama_chosen chosen;
    float *x, *d, *gate, *up, *act, *dact;
    float *wide;
};

static size_t lay_out(const struct llama_shape *s, size_t rows, enum ofl_dtype dtype, void *base,
                      struct inside *out)
{
    struct block_inside in = block_sizes(s, 1, rows, 0);
    struct llama_arena a = {.base = base};

    out->chosen.rows = llama_take(&a, rows * sizeof *out->chosen.rows);
    out->chosen.places = llama_take(&a, rows * sizeof *out->chosen.places);
    out->x = llama_take_floats(&a, rows * s->hidden);
    out->d = llama_take_floats(&a, rows * s->hidden);
    out->gate = llama_take_floats(&a, rows * s->expert_ffn);
    out->up = llama_take_floats(&a, rows * s->expert_ffn);
    out->act = llama_take_floats(&a, rows * s->expert_ffn);
    out->dact = llama_take_floats(&a, rows * s->expert_ffn);
    out->wide = llama_take(&a, block_wide_bytes(&in, dtype)); /* the end differs by dtype only */
    return a.peak;
}

/* In front of what block.c lays out: x between attention and the feed-forward, where nobody else has it. */
static float *take_mid(const struct block_inside *in, struct llama_arena *a)
{
    return llama_take_floats(a, in->rows * in->shape->hidden);
}

size_t llama_experts_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                               enum ofl_dtype dtype)
{
    struct block_inside in = block_sizes(shape, batch, seq, 0);
    struct llama_arena enter = {0}, leave = {0};
    struct inside one;
    size_t bytes = lay_out(shape, in.rows, dtype, NULL, &one);

    take_mid(&in, &enter);
    block_lay_out_forward(&in, &enter);
    block_take_wide(&in, &enter, dtype);
    llama_take_floats(&leave, in.rows * shape->experts);
    block_lay_out_backward(&in, &leave);
    block_take_wide(&in, &leave, dtype);
    bytes = enter.peak > bytes ? enter.peak : bytes;
    return leave.peak > bytes ? leave.peak : bytes;
}

/* ---- training -------------------------------------------------------------- */

static void route(const struct block_inside *in, const struct llama_block_weights *w, struct state *st)
{
    const struct llama_shape *s = in->shape;

    llama_matmul(st->probs, st->normed, w->router, in->rows, s->hidden, s->experts, s->experts, false,
                 in->wide);
    if (w->router_bias.data)
        llama_bias(st->probs, w->router_bias, in->rows, s->experts, in->wide);
    llama_route_rows(s, st->routes, st->probs, in->rows);
}

void llama_block_enter(const struct llama_shape *shape, size_t batch, size_t seq,
                       const struct llama_block_weights *weights, const float *x_in, float *x_out,
                       void *state, void *ws)
{
    struct block_inside in = block_sizes(shape, batch, seq, weights->layer);
    struct llama_arena a = {.base = ws};
    size_t n = in.rows * shape->hidden;
    float *mid = take_mid(&in, &a);
    struct state st;

    mid = x_out ? x_out : mid;
    lay_out_state(shape, in.rows, state, &st);
    block_lay_out_forward(&in, &a);
    block_take_wide(&in, &a, weights->q.dtype);
    block_project(&in, weights, x_in);
    block_attend(&in);
    memcpy(mid, x_in, n * sizeof *mid);
    block_add_attention(&in, weights, mid);
    if (weights->mlp_norm.data)
        block_norm(&in, st.normed, mid, weights->mlp_norm);
    else
        memcpy(st.normed, mid, n * sizeof *mid);
    route(&in, weights, &st);
    memset(st.dnormed, 0, n * sizeof *st.dnormed);
}

/* To the gated unit. */
static void feed(const struct llama_shape *s, const struct llama_expert *e, const struct state *st,
                 struct inside *in)
{
    size_t rows = in->chosen.count, ffn = s->expert_ffn;

    llama_gather(in->x, st->normed, &in->chosen, s->hidden);
    llama_matmul(in->gate, in->x, e->gate, rows, s->hidden, ffn, ffn, false, in->wide);
    llama_matmul(in->up, in->x, e->up, rows, s->hidden, ffn, ffn, false, in->wide);
    llama_gated(s->activation, in->act, in->gate, in->up, rows * ffn);
}

void llama_expert_forward(const struct llama_shape *shape, size_t rows, const struct llama_expert *expert,
                          float *x_out, void *state, void *ws)
{
    size_t hidden = shape->hidden;
    struct inside in;
    struct state st;

    lay_out_state(shape, rows, state, &st);
    lay_out(shape, rows, expert->gate.dtype, ws, &in);
    llama_choose(shape, st.routes, expert->expert, rows, &in.chosen);
    if (in.chosen.count == 0)
        return;
    feed(shape, expert, &st, &in);
    llama_matmul(in.x, in.act, expert->down, in.chosen.count, shape->expert_ffn, hidden, hidden, false,
                 in.wide);
    for (size_t i = 0; i < in.chosen.count; i++)
        llama_add_scaled(x_out + in.chosen.rows[i] * hidden, in.x + i * hidden,
                         st.routes[in.chosen.places[i]].weight, hidden);
}

/* From the gradients at the outputs of the rows, in d, to those of the routes' weights, and of what was weighted. */
static void weights_backward(const struct llama_shape *s, const struct state *st, struct inside *in)
{
    size_t hidden = s->hidden, ffn = s->expert_ffn;

    for (size_t i = 0; i < in->chosen.count; i++) {
        uint32_t place = in->chosen.places[i];

        st->dweights[place] = llama_dot(in->dact + i * ffn, in->act + i * ffn, ffn);
        llama_scale(in->dact + i * ffn, ffn, st->routes[place].weight);
        llama_scale(in->d + i * hidden, hidden, st->routes[place].weight);
    }
}

static void no_rows(const struct llama_shape *s, const struct llama_expert_grads *g)
{
    size_t bytes = (size_t)s->hidden * s->expert_ffn * sizeof(float);

    memset(g->gate, 0, bytes);
    memset(g->up, 0, bytes);
    memset(g->down, 0, bytes);
}

void llama_expert_backward(const struct llama_shape *shape, size_t rows, const struct llama_expert *expert,
                           const struct llama_expert_grads *grads, bool first, const float *dx, void *state,
                           void *ws)
{
    size_t hidden = shape->hidden, ffn = shape->expert_ffn, n;
    struct inside in;
    struct state st;

    lay_out_state(shape, rows, state, &st);
    lay_out(shape, rows, expert->gate.dtype, ws, &in);
    llama_choose(shape, st.routes, expert->expert, rows, &in.chosen);
    n = in.chosen.count;
    if (n == 0 && first)
        no_rows(shape, grads);
    if (n == 0)
        return;
    feed(shape, expert, &st, &in);
    llama_gather(in.d, dx, &in.chosen, hidden);
    llama_matmul_dx(in.dact, in.d, expert->down, n, ffn, hidden, false, in.wide);
    weights_backward(shape, &st, &in);
    llama_matmul_dw(grads->down, in.d, in.act, n, ffn, hidden, first);
    llama_gated_backward(shape->activation, in.gate, in.up, in.dact, n * ffn);
    llama_matmul_dw(grads->gate, in.gate, in.x, n, hidden, ffn, first);
    llama_matmul_dw(grads->up, in.up, in.x, n, hidden, ffn, first);
    llama_matmul_dx(in.x, in.gate, expert->gate, n, hidden, ffn, false, in.wide);
    llama_matmul_dx(in.x, in.up, expert->up, n, hidden, ffn, true, in.wide);
    for (size_t i = 0; i < n; i++)
        llama_add_scaled(st.dnormed + in.chosen.rows[i] * hidden, in.x + i * hidden, 1, hidden);
}

void llama_block_leave(const struct llama_shape *shape, size_t batch, size_t seq,
                       const struct llama_block_weights *w, const struct llama_block_grads *g, bool first,
                       const float *x_in, float *dx, void *state, void *ws)
{
    struct block_inside in = block_sizes(shape, batch, seq, w->layer);
    struct llama_arena a = {.base = ws};
    size_t rows = in.rows, hidden = shape->hidden;
    float *dscores = llama_take_floats(&a, rows * shape->experts);
    struct state st;

    lay_out_state(shape, rows, state, &st);
    block_lay_out_backward(&in, &a);
    block_take_wide(&in, &a, w->q.dtype);
    block_project(&in, w, x_in);
    block_attend(&in);
    block_mid(&in, w, x_in);
    llama_route_backward(shape, dscores, st.dweights, st.routes, st.probs, rows);
    llama_matmul_dw(g->router, dscores, st.normed, rows, hidden, shape->experts, first);
    if (g->router_bias)
        llama_bias_backward(g->router_bias, dscores, rows, shape->experts, first);
    llama_matmul_dx(st.dnormed, dscores, w->router, rows, hidden, shape->experts, true, in.wide);
    if (w->mlp_norm.data)
        llama_norm_backward(dx, g->mlp_norm, st.dnormed, in.mid, w->mlp_norm, rows, hidden, shape->rms_eps,
                            true, first, in.wide);
    else
        llama_add_scaled(dx, st.dnormed, 1, rows * hidden);
    block_attend_backward(&in, w, g, first, x_in, dx);
}

/* ---- new rows, slice by slice ---------------------------------------------- */

static void add_down(const struct block_inside *in, const struct llama_extend *e,
                     const struct llama_chosen *c, const struct llama_slice *slice)
{
    size_t ffn = in->shape->expert_ffn, hidden = in->shape->hidden;

    llama_matmul(in->picked, in->act, slice->weight, c->count, ffn, slice->rows, slice->rows, false,
                 in->wide);
    for (size_t i = 0; i < c->count; i++)
        llama_add_scaled(e->x + c->rows[i] * hidden + slice->from, in->picked + i * slice->rows,
                         e->routes[c->places[i]].weight, slice->rows);
}

/* ---- gate and up in pairs -------------------------------------------------- */

/* Of the rows that use the expert, or of the first so many, inputs from .. from + n - 1. */
static void gather_part(float *to, const float *from, const uint32_t *rows, size_t count, size_t width,
                        size_t first, size_t n)
{
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * n, from + (rows ? rows[i] : i) * width + first, n * sizeof *to);
}

/* act may be pairs. */
static void clamped_units(const struct llama_shape *s, float *act, const float *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float gate = pairs[2 * i], up = pairs[2 * i + 1], limit = s->unit_limit;

        gate = gate > limit ? limit : gate; /* NaN stays */
        up = up > limit ? limit : up < -limit ? -limit : up;
        act[i] = (up + 1) * (gate / (1 + llama_exp(-s->unit_alpha * gate)));
    }
}

/* y[c->count, out], as far as the slice gives it. Matrices [inputs, outputs]: each slice has some of the inputs, and
 * outputs add up over slices, in their order. */
static void multiply_pairs(const struct block_inside *in, float *y, bool down, const struct llama_chosen *c,
                           const struct llama_slice *slice, size_t width, size_t out)
{
    const float *x = down ? in->act : in->picked;

    if (llama_experts_turned(in->shape)) {
        gather_part(in->picked, down ? in->act : in->normed, down ? NULL : c->rows, c->count, width,
                    slice->from, slice->rows);
        llama_matmul_dx(y, in->picked, slice->weight, c->count, out, slice->rows, slice->from > 0, in->wide);
        return;
    }
    if (!down)
        llama_gather(in->picked, in->normed, c, width);
    llama_matmul(y + slice->from, x, slice->weight, c->count, width, slice->rows, out, false, in->wide);
}

static void extend_pairs(const struct block_inside *in, const struct llama_extend *e,
                         enum llama_matrix matrix, const struct llama_chosen *c,
                         const struct llama_slice *slice)
{
    size_t hidden = in->shape->hidden, ffn = in->shape->expert_ffn;
    bool down = matrix == LLAMA_MATRIX_EXPERT_DOWN;
    size_t width = down ? ffn : hidden, out = down ? hidden : 2 * ffn;
    float *y = down ? in->up : in->gate;

    if (down && slice->from == 0)
        clamped_units(in->shape, in->act, in->gate, c->count * ffn);
    multiply_pairs(in, y, down, c, slice, width, out);
    if (slice->from + slice->rows < (llama_experts_turned(in->shape) ? width : out))
        return;
    llama_bias(y, slice->bias, c->count, out, in->wide);
    for (size_t i = 0; down && i < c->count; i++)
        llama_add_scaled(e->x + c->rows[i] * hidden, y + i * hidden, e->routes[c->places[i]].weight, hidden);
}

void block_extend_expert(const struct block_inside *in, const struct llama_extend *e,
                         enum llama_matrix matrix, const struct llama_slice *slice)
{
    const struct llama_shape *s = in->shape;
    struct llama_chosen c = {.rows = in->chosen, .places = in->chosen + in->rows};
    size_t ffn = s->expert_ffn;

    llama_choose(s, e->routes, e->expert, in->rows, &c);
    if (c.count == 0)
        return;
    if (s->expert_pairs) {
        extend_pairs(in, e, matrix, &c, slice);
        return;
    }
    if (matrix == LLAMA_MATRIX_EXPERT_DOWN) {
        if (slice->from == 0)
            llama_gated(s->activation, in->act, in->gate, in->up, c.count * ffn);
        add_down(in, e, &c, slice);
        return;
    }
    llama_gather(in->picked, s->no_pre_norms ? e->x : in->normed, &c, s->hidden);
    llama_matmul((matrix == LLAMA_MATRIX_EXPERT_GATE ? in->gate : in->up) + slice->from, in->picked,
                 slice->weight, c.count, s->hidden, slice->rows, ffn, false, in->wide);
}
