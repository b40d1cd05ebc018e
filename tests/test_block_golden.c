/*
 * The decoder layer, and a model composed of it, against PyTorch. Proves that forward and backward
 * agree with tests/golden/llama_block.txt (made by tools/golden_block.py), weights in F32, BF16 and
 * F16, all rope scalings: the layer by itself, and embedding, two layers and head with the loss.
 * Negative controls: rope scaling left out, values off by 1e-4.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/llama_layer.h"

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
      .rope = {.kind = LLAMA_ROPE_LLAMA3,
               .factor = 8,
               .low_freq_factor = 1,
               .high_freq_factor = 4,
               .original_positions = 64}},
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
    llama_embed_backward(m->d_embed, a->dx, m->tokens, m->rows, s->vocab, m->hidden, 1, !s->tied);
    for (size_t from = 0, n = s->vocab / 2 + 1; from < s->vocab; from += n) { /* in two slices */
        struct llama_slice slice = {.from = from,
                                    .rows = s->vocab - from < n ? s->vocab - from : n,
                                    .weight = m->head.head,
                                    .norm = m->head.norm};

        slice.weight.data =
            (const char *)slice.weight.data + from * m->hidden * ofl_dtype_bytes(slice.weight.dtype);
        llama_head_logits(s, &slice, b->y + (m->rows - 1) * m->hidden, logits, ws);
    }
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

        llama_rope_inv_freq(inv_freq, &golden_cases[c].shape, 0);
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
    llama_rope_inv_freq(inv_freq, &wrong.shape, 0);
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
        cmocka_unit_test(test_agrees_with_pytorch),
        cmocka_unit_test(test_inv_freq_agrees_with_transformers),
        cmocka_unit_test(test_goldens_refuse_what_is_wrong),
    };

    return cmocka_run_group_tests(tests, load_goldens, free_goldens);
}
