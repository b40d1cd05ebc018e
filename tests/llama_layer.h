/*
 * One decoder layer with weights, gradients, inputs and scratch, in f32 and for the double reference:
 * the fixture of tests/test_block.c and tests/test_block_golden.c. After cmocka.h.
 */
#ifndef TESTS_LLAMA_LAYER_H
#define TESTS_LLAMA_LAYER_H

#include "examples/model/block.h"
#include "tests/llama_reference.h"

#define W         REF_BLOCK_WEIGHTS
#define TOLERANCE 1e-5 /* of f32 results, by the largest value */

static const char *const part_names[W] = {
    "input_layernorm",  "self_attn.q_proj", "self_attn.k_proj",
    "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

struct layer {
    struct llama_shape shape;
    size_t batch, seq, rows;
    size_t elems[W];
    float *values[W], *grad[W];
    struct llama_block_weights weights;
    struct llama_block_grads grads;
    double *theta[W], *x64, *dy64, *y64; /* the reference's */
    float *x, *dy, *y, *dx;
    void *ws;
};

static inline bool is_norm(int part)
{
    return part == 0 || part == 5;
}

static inline void part_sizes(const struct llama_shape *s, size_t elems[W])
{
    size_t h = s->hidden, q = (size_t)s->heads * s->head_dim, k = (size_t)s->kv_heads * s->head_dim,
           f = s->ffn;
    size_t sizes[W] = {h, q * h, k * h, k * h, h * q, h, f * h, f * h, h * f};

    memcpy(elems, sizes, sizeof sizes);
}

static inline void point_at(struct llama_block_weights *w, struct llama_block_grads *g,
                            const struct llama_weight parts[W], float *const grad[W])
{
    *w = (struct llama_block_weights){.attn_norm = parts[0],
                                      .q = parts[1],
                                      .k = parts[2],
                                      .v = parts[3],
                                      .o = parts[4],
                                      .mlp_norm = parts[5],
                                      .gate = parts[6],
                                      .up = parts[7],
                                      .down = parts[8]};
    *g = (struct llama_block_grads){.attn_norm = grad[0],
                                    .q = grad[1],
                                    .k = grad[2],
                                    .v = grad[3],
                                    .o = grad[4],
                                    .mlp_norm = grad[5],
                                    .gate = grad[6],
                                    .up = grad[7],
                                    .down = grad[8]};
}

/* `number` from 0 chooses the streams of the weights, as in tools/golden_block.py. */
static inline struct layer *layer_create(const struct llama_shape *shape, size_t batch, size_t seq,
                                         enum ofl_dtype dtype, unsigned number)
{
    struct layer *l = ref_alloc(sizeof *l);
    struct llama_weight parts[W];
    size_t n = batch * seq * shape->hidden, bytes;

    *l = (struct layer){.shape = *shape, .batch = batch, .seq = seq, .rows = batch * seq};
    part_sizes(shape, l->elems);
    for (int i = 0; i < W; i++) {
        l->values[i] = ref_random(l->elems[i], 10 * (number + 1) + (unsigned)i, is_norm(i) ? 0.5f : 0.25f,
                                  is_norm(i) ? 1 : 0);
        l->theta[i] = ref_double(l->values[i], l->elems[i]);
        l->grad[i] = ref_floats(l->elems[i]);
        parts[i] = ref_weight(l->values[i], l->elems[i], dtype);
    }
    point_at(&l->weights, &l->grads, parts, l->grad);
    l->x = ref_random(n, 7, 1, 0);
    l->dy = ref_random(n, 6, 1, 0);
    l->y = ref_floats(n);
    l->dx = ref_floats(n);
    l->x64 = ref_double(l->x, n);
    l->dy64 = ref_double(l->dy, n);
    l->y64 = ref_alloc(n * sizeof *l->y64);
    bytes = llama_block_backward_workspace(shape, batch, seq, dtype);
    assert_true(bytes >= llama_block_forward_workspace(shape, batch, seq, dtype));
    l->ws = ref_alloc(bytes);
    return l;
}

static inline void layer_destroy(struct layer *l)
{
    const struct llama_weight parts[W] = {l->weights.attn_norm, l->weights.q,  l->weights.k,
                                          l->weights.v,         l->weights.o,  l->weights.mlp_norm,
                                          l->weights.gate,      l->weights.up, l->weights.down};

    for (int i = 0; i < W; i++) {
        free(l->values[i]);
        free(l->grad[i]);
        free(l->theta[i]);
        free((void *)parts[i].data);
    }
    free(l->x);
    free(l->dy);
    free(l->y);
    free(l->dx);
    free(l->x64);
    free(l->dy64);
    free(l->y64);
    free(l->ws);
    free(l);
}

static inline void layer_forward(struct layer *l)
{
    llama_block_forward(&l->shape, l->batch, l->seq, &l->weights, l->x, l->y, l->ws);
}

static inline void layer_backward(struct layer *l, bool first)
{
    memcpy(l->dx, l->dy, l->rows * l->shape.hidden * sizeof *l->dx);
    llama_block_backward(&l->shape, l->batch, l->seq, &l->weights, &l->grads, first, l->x, l->dx, l->ws);
}

/* What is to be done with one slice of one matrix. */
typedef void layer_slice_fn(void *arg, const struct llama_extend *e, enum llama_matrix matrix,
                            const struct llama_slice *slice);

/* All slices of a layer with these weights, of `rows` rows each, in their order. */
static inline void layer_slices(const struct llama_block_weights *w, const struct llama_extend *e,
                                size_t rows, layer_slice_fn *run, void *arg)
{
    const struct llama_shape *s = e->shape;
    size_t q = (size_t)s->heads * s->head_dim, kv = (size_t)s->kv_heads * s->head_dim;
    const struct llama_weight none = {0};
    const struct {
        struct llama_weight weight, norm;
        size_t out, in;
    } all[LLAMA_MATRICES] = {
        {w->q, w->attn_norm, q, s->hidden},
        {w->k, none, kv, s->hidden},
        {w->v, none, kv, s->hidden},
        {w->o, none, s->hidden, q},
        {w->gate, w->mlp_norm, s->ffn, s->hidden},
        {w->up, none, s->ffn, s->hidden},
        {w->down, none, s->hidden, s->ffn},
    };

    for (int m = 0; m < LLAMA_MATRICES; m++)
        for (size_t from = 0; from < all[m].out; from += rows) {
            struct llama_slice slice = {.from = from,
                                        .rows = all[m].out - from < rows ? all[m].out - from : rows,
                                        .weight = all[m].weight,
                                        .norm = from ? none : all[m].norm};

            slice.weight.data =
                (const char *)slice.weight.data + from * all[m].in * ofl_dtype_bytes(slice.weight.dtype);
            run(arg, e, (enum llama_matrix)m, &slice);
        }
}

static inline double layer_loss(void *arg)
{
    struct layer *l = arg;
    double loss = 0;

    ref_block(&l->shape, l->batch, l->seq, l->theta, l->x64, l->y64);
    for (size_t i = 0; i < l->rows * l->shape.hidden; i++)
        loss += l->dy64[i] * l->y64[i];
    return loss;
}

#endif
