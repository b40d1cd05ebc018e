/*
 * The decoder layer and the model composed of it. Proves:
 *  - forward and backward agree with PyTorch (tests/golden/llama_block.txt, made by
 *    tools/golden_block.py), weights in F32, BF16 and F16, all rope scalings: the layer by itself,
 *    and embedding, two layers and head with the loss;
 *  - forward agrees with a plain double reference, and backward with finite differences of that,
 *    for odd shapes; a gradient changed by 1 in 1000 is refused (the negative control);
 *  - rows put in one by one or in pieces through the KV cache come out as from the whole forward;
 *  - the bits don't depend on where the buffers lie or on what scratch and overwritten gradients held;
 *  - nothing is written past the scratch's stated size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/llama/block.h"
#include "tests/llama_reference.h"

#define W REF_BLOCK_WEIGHTS

static const char *const part_names[W] = {
    "input_layernorm",  "self_attn.q_proj", "self_attn.k_proj",
    "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

/* ---- a layer with everything around it ------------------------------------ */

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

static bool is_norm(int part)
{
    return part == 0 || part == 5;
}

static void part_sizes(const struct llama_shape *s, size_t elems[W])
{
    size_t h = s->hidden, q = (size_t)s->heads * s->head_dim, k = (size_t)s->kv_heads * s->head_dim,
           f = s->ffn;
    size_t sizes[W] = {h, q * h, k * h, k * h, h * q, h, f * h, f * h, h * f};

    memcpy(elems, sizes, sizeof sizes);
}

static void point_at(struct llama_block_weights *w, struct llama_block_grads *g,
                     const struct llama_weight parts[W], float *const grad[W])
{
    *w = (struct llama_block_weights){parts[0], parts[1], parts[2], parts[3], parts[4],
                                      parts[5], parts[6], parts[7], parts[8]};
    *g = (struct llama_block_grads){grad[0], grad[1], grad[2], grad[3], grad[4],
                                    grad[5], grad[6], grad[7], grad[8]};
}

/* `number` from 0 chooses the streams of the weights, as in tools/golden_block.py. */
static struct layer *layer_create(const struct llama_shape *shape, size_t batch, size_t seq,
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

static void layer_destroy(struct layer *l)
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

static void layer_forward(struct layer *l)
{
    llama_block_forward(&l->shape, l->batch, l->seq, &l->weights, l->x, l->y, l->ws);
}

static void layer_backward(struct layer *l, bool first)
{
    memcpy(l->dx, l->dy, l->rows * l->shape.hidden * sizeof *l->dx);
    llama_block_backward(&l->shape, l->batch, l->seq, &l->weights, &l->grads, first, l->x, l->dx, l->ws);
}

static double layer_loss(void *arg)
{
    struct layer *l = arg;
    double loss = 0;

    ref_block(&l->shape, l->batch, l->seq, l->theta, l->x64, l->y64);
    for (size_t i = 0; i < l->rows * l->shape.hidden; i++)
        loss += l->dy64[i] * l->y64[i];
    return loss;
}

/* ---- against the double reference ------------------------------------------ */

#define SHAPE(h, q, kv, dim, f)                                                                              \
    {                                                                                                        \
        .layers = 1, .hidden = (h), .heads = (q), .kv_heads = (kv), .head_dim = (dim), .ffn = (f),           \
        .vocab = 32, .max_positions = 512, .rms_eps = 1e-5f, .rope_theta = 10000                             \
    }

static const struct {
    struct llama_shape shape;
    size_t batch, seq;
} shapes[] = {
    {SHAPE(16, 2, 2, 8, 32), 1, 1},   {SHAPE(16, 2, 1, 8, 32), 3, 1}, {SHAPE(20, 4, 2, 6, 28), 2, 7},
    {SHAPE(12, 6, 2, 2, 9), 1, 65},   /* two blocks of queries, the second of one row */
    {SHAPE(33, 3, 1, 16, 50), 2, 65}, /* hidden odd, heads wider than hidden */
    {SHAPE(8, 1, 1, 4, 5), 1, 130},
};

#define TOLERANCE 1e-5

static void test_forward_agrees_with_reference(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, OFL_F32, 0);
        double error;

        layer_forward(l);
        layer_loss(l);
        error = ref_error(l->y, l->y64, l->rows * l->shape.hidden);
        if (error > TOLERANCE)
            fail_msg("shape %zu: error %.3g", c, error);
        /* in place */
        llama_block_forward(&l->shape, l->batch, l->seq, &l->weights, l->x, l->x, l->ws);
        assert_memory_equal(l->x, l->y, l->rows * l->shape.hidden * sizeof *l->x);
        layer_destroy(l);
    }
}

static void test_backward_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, OFL_F32, 0);

        layer_backward(l, true);
        for (int i = 0; i < W; i++)
            if (!ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                 TOLERANCE, false))
                fail_msg("shape %zu", c);
        if (!ref_is_gradient("x", layer_loss, l, l->x64, l->dx, l->rows * l->shape.hidden, TOLERANCE, false))
            fail_msg("shape %zu", c);
        layer_destroy(l);
    }
}

/* The check above must refuse a gradient that is a little wrong, in all elements or in the largest. */
static void test_wrong_gradient_is_refused(void **state)
{
    struct layer *l = layer_create(&shapes[2].shape, shapes[2].batch, shapes[2].seq, OFL_F32, 0);

    (void)state;
    layer_backward(l, true);
    for (int i = 0; i < W; i++) {
        size_t largest = 0;

        for (size_t e = 0; e < l->elems[i]; e++)
            largest = fabsf(l->grad[i][e]) > fabsf(l->grad[i][largest]) ? e : largest;
        l->grad[i][largest] *= 1.01f;
        assert_false(ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                     TOLERANCE, true));
        layer_backward(l, true);
        for (size_t e = 0; e < l->elems[i]; e++)
            l->grad[i][e] *= 1.001f;
        assert_false(ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                     TOLERANCE, true));
    }
    layer_destroy(l);
}

/* A second pass with first = false doubles the gradients; alloc fills them with NaN before the first. */
static void test_gradients_accumulate(void **state)
{
    struct layer *l = layer_create(&shapes[4].shape, shapes[4].batch, shapes[4].seq, OFL_BF16, 0);

    (void)state;
    layer_backward(l, true);
    for (int i = 0; i < W; i++) {
        free(l->theta[i]);
        l->theta[i] = ref_double(l->grad[i], l->elems[i]);
    }
    layer_backward(l, false);
    for (int i = 0; i < W; i++) {
        for (size_t e = 0; e < l->elems[i]; e++)
            l->theta[i][e] *= 2;
        assert_true(ref_error(l->grad[i], l->theta[i], l->elems[i]) < 1e-6);
    }
    layer_destroy(l);
}

/* ---- the KV cache ----------------------------------------------------------- */

static void extend_in_pieces(struct layer *l, const size_t *pieces, float *x, float *k, float *v)
{
    size_t first = 0;

    for (; first < l->seq; pieces++) {
        size_t n = *pieces < l->seq - first ? *pieces : l->seq - first;
        void *ws = ref_alloc(llama_block_extend_workspace(&l->shape, n, l->seq, l->weights.q.dtype));

        llama_block_extend(&l->shape, first, n, l->seq, &l->weights, k, v, x + first * l->shape.hidden, ws);
        first += n;
        free(ws);
    }
}

static void test_cache_agrees_with_forward(void **state)
{
    static const size_t pieces[][132] = {
        {132},                    /* prefill of all */
        {64, 1, 132},             /* prefill, decode, prefill */
        {[0 ... 131] = 1},        /* decode from the start */
        {3, 66, 1, 1, 1, 1, 132}, /* blocks that begin inside others */
    };
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t p = 0; p < 4; p++) {
            struct layer *l = layer_create(&shapes[c].shape, 1, shapes[c].seq, dtypes[(c + p) % 3], 0);
            size_t kv = (size_t)l->shape.kv_heads * l->shape.head_dim * l->seq;
            float *k = ref_floats(kv), *v = ref_floats(kv); /* NaN: rows not written yet must not count */
            double *want;

            layer_forward(l);
            want = ref_double(l->y, l->rows * l->shape.hidden);
            extend_in_pieces(l, pieces[p], l->x, k, v);
            for (size_t r = 0; r < l->rows; r++)
                if (ref_error(l->x + r * l->shape.hidden, want + r * l->shape.hidden, l->shape.hidden) >
                    TOLERANCE)
                    fail_msg("shape %zu, pieces %zu, row %zu", c, p, r);
            free(k);
            free(v);
            free(want);
            layer_destroy(l);
        }
}

/* ---- bits ------------------------------------------------------------------- */

/* A copy of n floats that begins `offset` floats after a page's start; the bytes around are NaN. */
static float *shifted(float **base, const void *src, size_t n, size_t offset)
{
    *base = ref_floats(n + 128);
    memcpy(*base + offset, src, n * sizeof(float));
    return *base + offset;
}

static void test_bits_do_not_depend_on_addresses(void **state)
{
    static const struct llama_shape shape = SHAPE(136, 6, 2, 24, 200);
    struct layer *l = layer_create(&shape, 2, 67, OFL_F32, 0);
    size_t n = l->rows * shape.hidden, bytes = llama_block_backward_workspace(&shape, 2, 67, OFL_F32);

    (void)state;
    layer_forward(l);
    layer_backward(l, true);
    for (size_t trial = 0; trial < 12; trial++) {
        struct llama_weight parts[W];
        struct llama_block_weights weights;
        struct llama_block_grads grads;
        float *base[2 * W + 3], *grad[W], *x, *dx, *y, *ws;

        for (size_t i = 0; i < W; i++) {
            parts[i].dtype = OFL_F32;
            parts[i].data = shifted(&base[i], l->values[i], l->elems[i], ref_hash(trial, i) % 64);
            grad[i] = shifted(&base[W + i], l->values[i], l->elems[i], ref_hash(trial, W + i) % 64);
            memset(grad[i], 0xff, l->elems[i] * sizeof(float));
        }
        point_at(&weights, &grads, parts, grad);
        x = shifted(&base[2 * W], l->x, n, ref_hash(trial, 50) % 64);
        dx = shifted(&base[2 * W + 1], l->dy, n, ref_hash(trial, 51) % 64);
        y = shifted(&base[2 * W + 2], l->dy, n, ref_hash(trial, 52) % 64);
        ws = (float *)ref_alloc(bytes + 8192);
        memset(ws, trial % 2 ? 0xff : 0x3f, bytes);
        llama_block_forward(&shape, 2, 67, &weights, x, y, ws + 16 * trial);
        llama_block_backward(&shape, 2, 67, &weights, &grads, true, x, dx, ws + 16 * trial);
        assert_memory_equal(y, l->y, n * sizeof *y);
        assert_memory_equal(dx, l->dx, n * sizeof *dx);
        for (size_t i = 0; i < W; i++)
            assert_memory_equal(grad[i], l->grad[i], l->elems[i] * sizeof(float));
        for (size_t i = 0; i < 2 * W + 3; i++)
            free(base[i]);
        free(ws);
    }
    layer_destroy(l);
}

/* Past the sizes that the _workspace functions say, nothing may change. */
static void test_scratch_is_enough(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16};

    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t d = 0; d < 2; d++) {
            struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, dtypes[d], 0);
            size_t bytes[2] = {llama_block_forward_workspace(&l->shape, l->batch, l->seq, dtypes[d]),
                               llama_block_backward_workspace(&l->shape, l->batch, l->seq, dtypes[d])};

            for (size_t pass = 0; pass < 2; pass++) {
                unsigned char *ws = ref_alloc(bytes[pass] + 4096);

                memset(ws + bytes[pass], 0xa5, 4096);
                free(l->ws);
                l->ws = ws;
                if (pass)
                    layer_backward(l, true);
                else
                    layer_forward(l);
                for (size_t i = 0; i < 4096; i++)
                    assert_int_equal(ws[bytes[pass] + i], 0xa5);
            }
            layer_destroy(l);
        }
}

/* ---- against PyTorch ---------------------------------------------------------- */

static const struct golden_case {
    const char *name;
    struct llama_shape shape;
    size_t batch, seq;
} golden_cases[] = {
    {"plain",
     {.layers = 2,
      .hidden = 48,
      .heads = 4,
      .kv_heads = 2,
      .head_dim = 12,
      .ffn = 72,
      .vocab = 96,
      .max_positions = 512,
      .rms_eps = 1e-6f,
      .rope_theta = 10000},
     2,
     7},
    {"llama3",
     {.layers = 2,
      .hidden = 40,
      .heads = 4,
      .kv_heads = 1,
      .head_dim = 16,
      .ffn = 56,
      .vocab = 64,
      .max_positions = 512,
      .rms_eps = 1e-5f,
      .rope_theta = 500000,
      .tied = true,
      .rope = {LLAMA_ROPE_LLAMA3, 8, 1, 4, 64}},
     1,
     65},
    {"linear",
     {.layers = 2,
      .hidden = 24,
      .heads = 3,
      .kv_heads = 3,
      .head_dim = 8,
      .ffn = 40,
      .vocab = 50,
      .max_positions = 512,
      .rms_eps = 1e-5f,
      .rope_theta = 10000,
      .tied = true,
      .rope = {.kind = LLAMA_ROPE_LINEAR, .factor = 4}},
     3,
     5},
};

static struct golden {
    char case_name[32], name[64];
    size_t elems, stride;
    double norm, *kept;
} goldens[128];
static size_t golden_count;

static int load_goldens(void **state)
{
    FILE *f = fopen("tests/golden/llama_block.txt", "r");
    char word[64], case_name[32] = "";

    (void)state;
    if (!f) {
        fprintf(stderr, "tests/golden/llama_block.txt: run from the repository's root\n");
        return -1;
    }
    if (fscanf(f, "#%*[^\n]") != 0)
        goto bad;
    while (fscanf(f, "%63s", word) == 1 && strcmp(word, "end") != 0) {
        struct golden *g = &goldens[golden_count];

        if (strcmp(word, "case") == 0) {
            if (fscanf(f, "%31s", case_name) != 1)
                goto bad;
            continue;
        }
        if (strcmp(word, "tensor") != 0 || golden_count == sizeof goldens / sizeof *goldens ||
            fscanf(f, "%63s %zu %zu %lf", g->name, &g->elems, &g->stride, &g->norm) != 4)
            goto bad;
        memcpy(g->case_name, case_name, sizeof case_name);
        g->kept = ref_alloc(g->elems * sizeof *g->kept);
        golden_count++;
        for (size_t i = 0; i < g->elems; i += g->stride)
            if (fscanf(f, "%lf", &g->kept[i / g->stride]) != 1)
                goto bad;
    }
    fclose(f);
    return strcmp(word, "end") == 0 ? 0 : -1;
bad:
    fprintf(stderr, "tests/golden/llama_block.txt: near tensor %zu: not as golden_block.py writes it\n",
            golden_count);
    fclose(f);
    return -1;
}

static int free_goldens(void **state)
{
    (void)state;
    for (size_t i = 0; i < golden_count; i++)
        free(goldens[i].kept);
    golden_count = 0;
    return 0;
}

static bool matches_golden(const char *case_name, const char *name, const float *got, size_t elems,
                           bool quiet)
{
    double error = 0, size = 1e-30, norm = 0;

    for (size_t i = 0; i < golden_count; i++) {
        const struct golden *g = &goldens[i];

        if (strcmp(g->case_name, case_name) != 0 || strcmp(g->name, name) != 0)
            continue;
        assert_int_equal(g->elems, elems);
        for (size_t e = 0; e < elems; e++)
            norm += (double)got[e] * (double)got[e];
        for (size_t e = 0; e < elems; e += g->stride) {
            double want = g->kept[e / g->stride], d = fabs((double)got[e] - want);

            error = d > error ? d : error; /* a NaN shows in the norm */
            size = fabs(want) > size ? fabs(want) : size;
        }
        if (error <= TOLERANCE * size && fabs(sqrt(norm) - g->norm) <= TOLERANCE * g->norm)
            return true;
        if (!quiet)
            fprintf(stderr, "%s %s: error %.3g of largest, norm %.9g for %.9g\n", case_name, name,
                    error / size, sqrt(norm), g->norm);
        return false;
    }
    fprintf(stderr, "%s %s: not in the file\n", case_name, name);
    return false;
}

static void check_golden(const char *case_name, const char *name, const float *got, size_t elems)
{
    if (!matches_golden(case_name, name, got, elems, false))
        fail();
}

/* A model of two layers and one batch of tokens. */
struct model {
    const struct golden_case *c;
    size_t rows, hidden, table;
    struct layer *layers[2];
    float *embed_values, *head_values, *norm_values;
    struct llama_weight embed;
    struct llama_head_weights head;
    float *d_embed, *d_head, *d_norm;
    int32_t *tokens, *targets;
};

static struct model *model_create(const struct golden_case *c, enum ofl_dtype dtype)
{
    struct model *m = ref_alloc(sizeof *m);
    const struct llama_shape *s = &c->shape;

    *m = (struct model){
        .c = c, .rows = c->batch * c->seq, .hidden = s->hidden, .table = s->vocab * (size_t)s->hidden};
    for (unsigned l = 0; l < 2; l++)
        m->layers[l] = layer_create(s, c->batch, c->seq, dtype, l);
    m->embed_values = ref_random(m->table, 1, 1, 0);
    m->norm_values = ref_random(m->hidden, 2, 0.5f, 1);
    m->head_values = ref_random(m->table, 3, 0.5f, 0);
    m->embed = ref_weight(m->embed_values, m->table, dtype);
    m->head.norm = ref_weight(m->norm_values, m->hidden, dtype);
    m->head.head = s->tied ? m->embed : ref_weight(m->head_values, m->table, dtype);
    m->d_embed = ref_floats(m->table);
    m->d_head = s->tied ? m->d_embed : ref_floats(m->table);
    m->d_norm = ref_floats(m->hidden);
    m->tokens = ref_alloc(m->rows * 4);
    m->targets = ref_alloc(m->rows * 4);
    for (size_t i = 0; i < m->rows; i++) {
        m->tokens[i] = (int32_t)(ref_hash(4, i) % s->vocab);
        m->targets[i] = i % 5 ? (int32_t)(ref_hash(5, i) % s->vocab) : -100;
    }
    return m;
}

static void model_destroy(struct model *m)
{
    layer_destroy(m->layers[0]);
    layer_destroy(m->layers[1]);
    if (!m->c->shape.tied) {
        free(m->d_head);
        free((void *)m->head.head.data);
    }
    free(m->embed_values);
    free(m->head_values);
    free(m->norm_values);
    free((void *)m->embed.data);
    free((void *)m->head.norm.data);
    free(m->d_embed);
    free(m->d_norm);
    free(m->tokens);
    free(m->targets);
    free(m);
}

static void check_layer(struct model *m)
{
    struct layer *l = m->layers[0];
    char name[64];

    llama_embed(l->x, m->embed, m->tokens, m->rows, m->hidden);
    layer_forward(l);
    check_golden(m->c->name, "layer.out", l->y, m->rows * m->hidden);
    layer_backward(l, true);
    check_golden(m->c->name, "layer.dx", l->dx, m->rows * m->hidden);
    for (int i = 0; i < W; i++) {
        snprintf(name, sizeof name, "layer.d.%s", part_names[i]);
        check_golden(m->c->name, name, l->grad[i], l->elems[i]);
    }
}

/* One training step's forward and backward. */
static double run_model(struct model *m, float *logits)
{
    const struct llama_shape *s = &m->c->shape;
    struct layer *a = m->layers[0], *b = m->layers[1];
    struct llama_head_grads head_grads = {m->d_norm, m->d_head};
    void *ws = ref_alloc(llama_head_workspace(s, m->rows, m->embed.dtype));
    double loss;

    llama_embed(a->x, m->embed, m->tokens, m->rows, m->hidden);
    layer_forward(a);
    memcpy(b->x, a->y, m->rows * m->hidden * sizeof(float));
    layer_forward(b);
    loss = llama_head_loss(s, m->rows, &m->head, &head_grads, true, b->y, m->targets, 1 / (float)m->rows,
                           b->dy, ws);
    layer_backward(b, true);
    memcpy(a->dy, b->dx, m->rows * m->hidden * sizeof(float));
    layer_backward(a, true);
    llama_embed_backward(m->d_embed, a->dx, m->tokens, m->rows, s->vocab, m->hidden, !s->tied);
    llama_head_logits(s, &m->head, b->y + (m->rows - 1) * m->hidden, logits, ws);
    free(ws);
    return loss;
}

static void check_model(struct model *m)
{
    static const int parts[] = {1, 3, 8, 0};
    const char *name = m->c->name;
    float *logits = ref_floats(m->c->shape.vocab), loss = (float)run_model(m, logits);
    char part[64];

    check_golden(name, "loss", &loss, 1);
    check_golden(name, "logits", logits, m->c->shape.vocab);
    check_golden(name, "d.embed", m->d_embed, m->table);
    check_golden(name, "d.norm", m->d_norm, m->hidden);
    if (!m->c->shape.tied)
        check_golden(name, "d.head", m->d_head, m->table);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < 4; i++) {
            snprintf(part, sizeof part, "d.%d.%s", l, part_names[parts[i]]);
            check_golden(name, part, m->layers[l]->grad[parts[i]], m->layers[l]->elems[parts[i]]);
        }
    free(logits);
}

static void test_agrees_with_pytorch(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

    (void)state;
    for (size_t c = 0; c < sizeof golden_cases / sizeof *golden_cases; c++)
        for (size_t d = 0; d < 3; d++) {
            struct model *m = model_create(&golden_cases[c], dtypes[d]);

            check_layer(m);
            check_model(m);
            model_destroy(m);
        }
}

static void test_inv_freq_agrees_with_transformers(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof golden_cases / sizeof *golden_cases; c++) {
        size_t n = golden_cases[c].shape.head_dim / 2;
        float inv_freq[32];

        llama_rope_inv_freq(inv_freq, &golden_cases[c].shape);
        check_golden(golden_cases[c].name, "inv_freq", inv_freq, n);
        for (size_t i = 0; i < golden_count; i++) {
            const struct golden *g = &goldens[i];

            if (strcmp(g->case_name, golden_cases[c].name) != 0 || strcmp(g->name, "inv_freq") != 0)
                continue;
            for (size_t e = 0; e < n; e++) /* the smallest ones too: two units in the last place */
                assert_true(fabs((double)inv_freq[e] - g->kept[e]) <= 2.4e-7 * g->kept[e]);
        }
    }
}

/* A scaling left out, or a value off by 1e-4, must not pass for the golden one. */
static void test_goldens_refuse_what_is_wrong(void **state)
{
    struct golden_case wrong = golden_cases[1];
    struct model *m;
    float inv_freq[32];

    (void)state;
    wrong.shape.rope.kind = LLAMA_ROPE_PLAIN;
    llama_rope_inv_freq(inv_freq, &wrong.shape);
    assert_false(matches_golden("llama3", "inv_freq", inv_freq, 8, true));
    m = model_create(&wrong, OFL_F32);
    llama_embed(m->layers[0]->x, m->embed, m->tokens, m->rows, m->hidden);
    layer_forward(m->layers[0]);
    assert_false(matches_golden("llama3", "layer.out", m->layers[0]->y, m->rows * m->hidden, true));
    model_destroy(m);
    m = model_create(&golden_cases[0], OFL_F32);
    llama_embed(m->layers[0]->x, m->embed, m->tokens, m->rows, m->hidden);
    layer_forward(m->layers[0]);
    assert_true(matches_golden("plain", "layer.out", m->layers[0]->y, m->rows * m->hidden, true));
    for (size_t i = 0; i < m->rows * m->hidden; i++)
        m->layers[0]->y[i] *= 1.0001f;
    assert_false(matches_golden("plain", "layer.out", m->layers[0]->y, m->rows * m->hidden, true));
    model_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_agrees_with_reference),
        cmocka_unit_test(test_backward_agrees_with_differences),
        cmocka_unit_test(test_wrong_gradient_is_refused),
        cmocka_unit_test(test_gradients_accumulate),
        cmocka_unit_test(test_cache_agrees_with_forward),
        cmocka_unit_test(test_bits_do_not_depend_on_addresses),
        cmocka_unit_test(test_scratch_is_enough),
        cmocka_unit_test(test_inv_freq_agrees_with_transformers),
        cmocka_unit_test(test_agrees_with_pytorch),
        cmocka_unit_test(test_goldens_refuse_what_is_wrong),
    };

    return cmocka_run_group_tests(tests, load_goldens, free_goldens);
}
