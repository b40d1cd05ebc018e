/*
 * The kernels one by one. Proves:
 *  - matrix products in all dtypes, over one and several panels, adding and overwriting NaN;
 *  - forwards agree with a plain double reference and gradients with finite differences of it, for
 *    norm, rope, SwiGLU, attention, head; also the head with vocabularies in several slices;
 *  - a gradient that is a little wrong is refused (the negative control of those checks);
 *  - bits of BLAS products don't depend on addresses, and repeat.
 * Formats, random numbers and sampling: tests/test_kernels_numbers.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/kernels.h"
#include "tests/llama_reference.h"

#define TOLERANCE 1e-5

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

/* ---- matrices ----------------------------------------------------------------- */

static const struct {
    size_t rows, in, out;
} products[] = {
    {1, 1, 1},
    {1, 33, 17},
    {2, 7, 5},
    {65, 24, 40},
    {7, 4100, 600},
    {1, 4100, 600},            /* three panels */
    {3, (4 << 20) / 4 + 1, 2}, /* a row larger than a panel */
};

/* Small integers in f32 and everywhere exact: results must be equal, whatever the order of sums. */
static void check_product(size_t rows, size_t in, size_t out, enum ofl_dtype dtype)
{
    float *x = ref_random(rows * in, 1, 8, 0), *dy = ref_random(rows * out, 2, 8, 0),
          *w = ref_random(out * in, 3, 2, 0);
    float *y = ref_floats(rows * out), *dx = ref_floats(rows * in), *dw = ref_floats(out * in);
    double *x64, *w64, *y64 = ref_alloc(rows * out * 8);
    struct llama_weight weight;
    void *ws = ref_alloc(llama_matmul_workspace(in, out, dtype));
    double magnitude = (double)in * 8; /* of sums, for the f32 ones that aren't exact */

    x64 = ref_double(x, rows * in);
    w64 = ref_double(w, out * in);
    weight = ref_weight(w, out * in, dtype);
    ref_matmul(y64, x64, w64, rows, in, out, false);
    llama_matmul(y, x, weight, rows, in, out, out, false, ws);
    for (size_t i = 0; i < rows * out; i++)
        assert_true(fabs((double)y[i] - y64[i]) <= 1e-6 * magnitude);
    llama_matmul(y, x, weight, rows, in, out, out, true, ws);
    for (size_t i = 0; i < rows * out; i++)
        assert_true(fabs((double)y[i] - 2 * y64[i]) <= 2e-6 * magnitude);
    for (int pass = 0; pass < 2; pass++) { /* overwrites NaN, then adds */
        llama_matmul_dx(dx, dy, weight, rows, in, out, pass, ws);
        llama_matmul_dw(dw, dy, x, rows, in, out, !pass);
        for (uint64_t trial = 0; trial < 200; trial++) {
            size_t i = ref_hash(21, trial) % in, j = ref_hash(22, trial) % out,
                   r = ref_hash(23, trial) % rows;
            double want_dx = 0, want_dw = 0;

            for (size_t o = 0; o < out; o++)
                want_dx += (double)dy[r * out + o] * w64[o * in + i];
            for (size_t t = 0; t < rows; t++)
                want_dw += (double)dy[t * out + j] * x64[t * in + i];
            assert_true(fabs((double)dx[r * in + i] - want_dx * (1 + pass)) <= 2e-5 * (double)out);
            assert_true(fabs((double)dw[j * in + i] - want_dw * (1 + pass)) <= 2e-4 * (double)rows);
        }
    }
    free(x);
    free(dy);
    free(w);
    free(y);
    free(dx);
    free(dw);
    free(x64);
    free(w64);
    free(y64);
    free((void *)weight.data);
    free(ws);
}

/* A slice's product goes into columns of a wider result, and touches no others. */
static void check_slice(size_t rows, size_t in, size_t out, enum ofl_dtype dtype)
{
    size_t from = out / 3, n = out - from - out / 4, stride = out + 5;
    float *x = ref_random(rows * in, 1, 8, 0), *w = ref_random(out * in, 3, 2, 0);
    float *whole = ref_floats(rows * out), *y = ref_floats(rows * stride);
    void *ws = ref_alloc(llama_matmul_workspace(in, out, dtype));
    struct llama_weight weight = ref_weight(w, out * in, dtype), slice = weight;

    slice.data = (const char *)slice.data + from * in * ofl_dtype_bytes(dtype);
    llama_matmul(whole, x, weight, rows, in, out, out, false, ws);
    for (size_t i = 0; i < rows * stride; i++)
        y[i] = -1;
    llama_matmul(y + from, x, slice, rows, in, n, stride, false, ws);
    for (size_t i = 0; i < rows * stride; i++) {
        size_t r = i / stride, j = i % stride;

        if (j < from || j >= from + n)
            assert_true(y[i] == -1);
        else
            assert_true(fabsf(y[i] - whole[r * out + j]) <= 1e-6f * 8 * (float)in);
    }
    free(x);
    free(w);
    free(whole);
    free(y);
    free(ws);
    free((void *)weight.data);
}

static void test_products(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t d = 0; d < 3; d++)
            check_product(products[p].rows, products[p].in, products[p].out, dtypes[d]);
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t d = 0; d < 3; d++)
            check_slice(products[p].rows, products[p].in, products[p].out, dtypes[d]);
}

/* What the "any address" promise rests on: sgemm itself, on sizes around its kernels' and threads' limits. */
static void test_products_do_not_depend_on_addresses(void **state)
{
    static const size_t sizes[][3] = {{2, 64, 64},   {7, 33, 65},    {64, 64, 128},  {65, 24, 65},
                                      {256, 96, 72}, {16, 512, 300}, {130, 130, 130}};
    enum { MAX = 512 * 300 + 64, SLACK = 64 };
    float *a = ref_floats(MAX), *b = ref_floats(MAX), *y = ref_floats(MAX), *first = ref_floats(3 * MAX);

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t rows = sizes[s][0], in = sizes[s][1], out = sizes[s][2];

        for (uint64_t trial = 0; trial < 10; trial++) {
            float *x = a + ref_hash(trial, 0) % SLACK, *w = b + ref_hash(trial, 1) % SLACK;
            float *z = y + ref_hash(trial, 2) % SLACK, *want = first;
            struct llama_weight weight = {.data = w, .dtype = OFL_F32};

            memset(a, 0xff, MAX * sizeof *a);
            memset(b, 0xff, MAX * sizeof *b);
            memset(y, 0xff, MAX * sizeof *y);
            for (int kind = 0; kind < 3; kind++, want += MAX) {
                size_t n = kind == 0 ? rows * out : kind == 1 ? rows * in : out * in;

                ref_values(x, rows * (kind ? out : in), 31, 0.7f, 0);
                ref_values(w, kind == 2 ? rows * in : out * in, 32, 0.3f, 0);
                if (kind == 0)
                    llama_matmul(z, x, weight, rows, in, out, out, false, NULL);
                else if (kind == 1)
                    llama_matmul_dx(z, x, weight, rows, in, out, false, NULL);
                else
                    llama_matmul_dw(z, x, w, rows, in, out, true);
                if (trial == 0)
                    memcpy(want, z, n * sizeof *z);
                assert_memory_equal(want, z, n * sizeof *z);
            }
        }
    }
    free(a);
    free(b);
    free(y);
    free(first);
}

/* ---- layers: forward and gradient ------------------------------------------------ */

/* One kernel with up to three inputs, and the loss sum(c * y). */
struct probe {
    struct llama_shape shape;
    size_t rows, n, inputs, elems[3];
    float *in[3], *grad[3], *y, *c;
    double *in64[3], *y64, *c64;
    void (*reference)(struct probe *p);
    int32_t *targets;
};

static void probe_input(struct probe *p, size_t elems, float scale, float offset)
{
    size_t i = p->inputs++;

    p->elems[i] = elems;
    p->in[i] = ref_random(elems, 40 + i, scale, offset);
    p->in64[i] = ref_double(p->in[i], elems);
    p->grad[i] = ref_floats(elems);
}

static void probe_output(struct probe *p, size_t n)
{
    p->n = n;
    p->y = ref_floats(n);
    p->y64 = ref_alloc(n * sizeof *p->y64);
    p->c = ref_random(n, 50, 1, 0);
    p->c64 = ref_double(p->c, n);
}

static void probe_free(struct probe *p)
{
    for (size_t i = 0; i < p->inputs; i++) {
        free(p->in[i]);
        free(p->in64[i]);
        free(p->grad[i]);
    }
    free(p->y);
    free(p->y64);
    free(p->c);
    free(p->c64);
}

static double probe_loss(void *arg)
{
    struct probe *p = arg;
    double loss = 0;

    p->reference(p);
    for (size_t i = 0; i < p->n; i++)
        loss += p->c64[i] * p->y64[i];
    return loss;
}

/* Forward against the reference, every gradient against differences; then each of them falsified. */
static void probe_check(struct probe *p, const char *name)
{
    double error;

    probe_loss(p);
    error = ref_error(p->y, p->y64, p->n);
    if (error > TOLERANCE)
        fail_msg("%s: error %.3g", name, error);
    for (size_t i = 0; i < p->inputs; i++) {
        if (!ref_is_gradient(name, probe_loss, p, p->in64[i], p->grad[i], p->elems[i], TOLERANCE, false))
            fail_msg("%s: input %zu", name, i);
        for (size_t e = 0; e < p->elems[i]; e++)
            p->grad[i][e] *= 1.001f;
        assert_false(
            ref_is_gradient(name, probe_loss, p, p->in64[i], p->grad[i], p->elems[i], TOLERANCE, true));
    }
    probe_free(p);
}

static void norm_reference(struct probe *p)
{
    ref_norm(p->y64, p->in64[0], p->in64[1], p->rows, p->shape.hidden, (double)p->shape.rms_eps);
}

static void test_norm(void **state)
{
    static const struct {
        size_t rows;
        uint32_t hidden;
        float eps;
    } cases[] = {{1, 2, 1e-5f}, {7, 33, 1e-6f}, {65, 48, 0.5f}};

    (void)state;
    for (size_t c = 0; c < 3; c++) {
        size_t rows = cases[c].rows, hidden = cases[c].hidden;
        struct probe p = {.rows = rows, .shape = {.hidden = cases[c].hidden, .rms_eps = cases[c].eps}};
        float ws[64], *again;
        struct llama_weight w;

        p.reference = norm_reference;
        probe_input(&p, rows * hidden, 2, 0.25f);
        probe_input(&p, hidden, 0.5f, 1);
        probe_output(&p, rows * hidden);
        w = ref_weight(p.in[1], hidden, dtypes[c]);
        llama_norm(p.y, p.in[0], w, rows, hidden, cases[c].eps, ws);
        llama_norm_backward(p.grad[0], p.grad[1], p.c, p.in[0], w, rows, hidden, cases[c].eps, false, true,
                            ws);
        /* in place, adding to dw, gives the same dx and twice the dw */
        again = ref_random(rows * hidden, 50, 1, 0);
        llama_norm_backward(again, p.grad[1], again, p.in[0], w, rows, hidden, cases[c].eps, false, false,
                            ws);
        assert_memory_equal(again, p.grad[0], rows * hidden * sizeof *again);
        for (size_t i = 0; i < hidden; i++)
            p.grad[1][i] /= 2;
        /* and adding to dx adds */
        memset(again, 0, rows * hidden * sizeof *again);
        llama_norm_backward(again, ws, p.c, p.in[0], w, rows, hidden, cases[c].eps, true, true, p.y64);
        assert_memory_equal(again, p.grad[0], rows * hidden * sizeof *again);
        probe_check(&p, "norm");
        free(again);
        free((void *)w.data);
    }
}

static void rope_reference(struct probe *p)
{
    size_t dim = p->shape.head_dim, heads = p->shape.heads, seq = p->rows / 2;
    float inv_freq[16];

    llama_rope_inv_freq(inv_freq, &p->shape, 0);
    memcpy(p->y64, p->in64[0], p->n * sizeof *p->y64);
    for (size_t r = 0; r < p->rows; r++)
        ref_rope(p->y64 + r * heads * dim, heads, dim, inv_freq, 3 + r % seq);
}

static void test_rope(void **state)
{
    struct probe p = {.rows = 14, .shape = {.heads = 3, .head_dim = 10, .rope_theta = 100}};
    float table[70];

    (void)state;
    p.reference = rope_reference;
    probe_input(&p, 14 * 30, 1, 0);
    probe_output(&p, 14 * 30);
    llama_rope_table(table, &p.shape, 0, 3, 7);
    memcpy(p.y, p.in[0], p.n * sizeof *p.y);
    llama_rope(p.y, 2, 7, 3, 10, 10, table, false);
    memcpy(p.grad[0], p.c, p.n * sizeof *p.c);
    llama_rope(p.grad[0], 2, 7, 3, 10, 10, table, true);
    probe_check(&p, "rope");
}

static void swiglu_reference(struct probe *p)
{
    ref_swiglu(p->y64, p->in64[0], p->in64[1], p->n);
}

static void test_swiglu(void **state)
{
    static const float scales[] = {1, 8, 64}; /* up to where the exponential leaves f32's range */

    (void)state;
    for (size_t c = 0; c < 3; c++) {
        struct probe p = {.reference = swiglu_reference};

        probe_input(&p, 333, 2 * scales[c], 0);
        probe_input(&p, 333, 2, 0);
        probe_output(&p, 333);
        llama_gated(LLAMA_SILU, p.y, p.in[0], p.in[1], 333);
        memcpy(p.grad[0], p.in[0], 333 * sizeof(float));
        memcpy(p.grad[1], p.in[1], 333 * sizeof(float));
        llama_gated_backward(LLAMA_SILU, p.grad[0], p.grad[1], p.c, 333);
        probe_check(&p, "swiglu");
    }
}

static void attention_reference(struct probe *p)
{
    ref_attention(p->y64, p->in64[0], p->in64[1], p->in64[2], &p->shape, p->rows);
}

static void test_attention(void **state)
{
    static const struct {
        uint32_t heads, kv_heads, dim;
        size_t n;
    } cases[] = {{1, 1, 2, 1}, {4, 2, 6, 7}, {6, 1, 4, 65}, {2, 2, 16, 129}};

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t n = cases[c].n, qd = cases[c].heads * cases[c].dim, kd = cases[c].kv_heads * cases[c].dim;
        struct probe p = {.rows = n, .reference = attention_reference};
        void *ws = ref_alloc(llama_attention_backward_workspace(n));

        p.shape.heads = cases[c].heads;
        p.shape.kv_heads = cases[c].kv_heads;
        p.shape.head_dim = cases[c].dim;
        probe_input(&p, n * qd, 2, 0);
        probe_input(&p, n * kd, 2, 0);
        probe_input(&p, n * kd, 1, 0);
        probe_output(&p, n * qd);
        llama_attention(p.y, p.in[0], p.in[1], p.in[2], &p.shape, 0, 0, n, ws);
        llama_attention_backward(p.grad[0], p.grad[1], p.grad[2], p.c, p.in[0], p.in[1], p.in[2], &p.shape, 0,
                                 n, ws);
        if (n > 1)
            probe_check(&p, "attention");
        else
            probe_free(&p); /* one key: its weight is 1, and the gradients of q and k are 0 */
        free(ws);
    }
}

static void head_reference(struct probe *p)
{
    *p->y64 = ref_head_loss(&p->shape, p->rows, p->in64[1], p->in64[2], p->in64[0], p->targets);
}

static const struct head_case {
    size_t rows;
    uint32_t hidden, vocab;
    enum ofl_dtype dtype;
} head_cases[] = {
    {1, 8, 16, OFL_F32},     {7, 20, 33, OFL_F16},
    {65, 12, 50, OFL_BF16},  {3, 4096, 530, OFL_BF16}, /* three slices, for the widened weights */
    {300, 4, 8000, OFL_F32},                           /* two slices, for the logits */
};

static void test_head(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof head_cases / sizeof *head_cases; c++) {
        const struct head_case *h = &head_cases[c];
        struct probe p = {.rows = h->rows, .reference = head_reference};
        struct llama_head_weights w;
        struct llama_head_grads g;
        void *ws;

        p.shape = (struct llama_shape){.hidden = h->hidden, .vocab = h->vocab, .rms_eps = 1e-5f};
        probe_input(&p, h->rows * h->hidden, 1, 0);
        probe_input(&p, h->hidden, 0.5f, 1);
        probe_input(&p, (size_t)h->vocab * h->hidden, h->hidden > 1000 ? 0.0625f : 1, 0);
        probe_output(&p, 1);
        *p.c = 0.75f;
        *p.c64 = 0.75;
        p.targets = ref_alloc(h->rows * sizeof *p.targets);
        for (size_t r = 0; r < h->rows; r++)
            p.targets[r] = r % 4 == 3 ? -1 : (int32_t)(ref_hash(60, r) % h->vocab);
        w.norm = ref_weight(p.in[1], p.elems[1], h->dtype);
        w.head = ref_weight(p.in[2], p.elems[2], h->dtype);
        g = (struct llama_head_grads){p.grad[1], p.grad[2]};
        ws = ref_alloc(llama_head_workspace(&p.shape, h->rows, h->dtype));
        *p.y =
            (float)llama_head_loss(&p.shape, h->rows, &w, &g, true, p.in[0], p.targets, 0.75f, p.grad[0], ws);
        assert_true((float)llama_head_loss(&p.shape, h->rows, &w, NULL, true, p.in[0], p.targets, 0, NULL,
                                           ws) == *p.y);
        if ((size_t)h->vocab * h->rows < 100000) {
            probe_check(&p, "head");
        } else { /* too slow for differences of everything */
            probe_loss(&p);
            assert_true(ref_error(p.y, p.y64, 1) < 1e-6);
            assert_true(
                ref_is_gradient("x", probe_loss, &p, p.in64[0], p.grad[0], p.elems[0], TOLERANCE, false));
            assert_true(
                ref_is_gradient("head", probe_loss, &p, p.in64[2], p.grad[2], p.elems[2], TOLERANCE, false));
            probe_free(&p);
        }
        free(p.targets);
        free((void *)w.norm.data);
        free((void *)w.head.data);
        free(ws);
    }
}

/* Llama 3's vocabulary: loss in double, and the head's gradient, of which every column sums to zero. */
static void test_head_of_128256(void **state)
{
    struct llama_shape shape = {.hidden = 16, .vocab = 128256, .rms_eps = 1e-5f};
    size_t rows = 33, n = (size_t)shape.vocab * shape.hidden;
    float *x = ref_random(rows * 16, 1, 1, 0), *norm = ref_random(16, 2, 0.5f, 1),
          *head = ref_random(n, 3, 1, 0);
    double *x64 = ref_double(x, rows * 16), *norm64 = ref_double(norm, 16), *head64 = ref_double(head, n),
           want;
    struct llama_head_weights w = {{.data = norm, .dtype = OFL_F32}, ref_weight(head, n, OFL_BF16)};
    float dnorm[16], *dhead = ref_floats(n), *dx = ref_floats(rows * 16), *logits = ref_floats(shape.vocab);
    struct llama_head_grads g = {dnorm, dhead};
    void *ws = ref_alloc(llama_head_workspace(&shape, rows, OFL_BF16));
    int32_t targets[33];

    (void)state;
    assert_true(llama_head_workspace(&shape, rows, OFL_BF16) < 14u << 20);
    for (size_t r = 0; r < rows; r++)
        targets[r] = (int32_t)(128255 - r * 4000);
    want = ref_head_loss(&shape, rows, norm64, head64, x64, targets);
    assert_true(fabs(llama_head_loss(&shape, rows, &w, &g, true, x, targets, 1, dx, ws) - want) <
                1e-6 * want);
    for (size_t i = 0; i < 16; i++) {
        double sum = 0;

        for (size_t v = 0; v < shape.vocab; v++)
            sum += (double)dhead[v * 16 + i];
        assert_true(fabs(sum) < 1e-4);
    }
    llama_head_logits(&shape, &(struct llama_slice){.rows = shape.vocab, .weight = w.head, .norm = w.norm}, x,
                      logits, ws);
    for (size_t v = 0; v < shape.vocab; v += 1001) {
        double sum = 0, square = 0;

        for (size_t i = 0; i < 16; i++)
            square += x64[i] * x64[i];
        for (size_t i = 0; i < 16; i++)
            sum += head64[v * 16 + i] * norm64[i] * x64[i] / sqrt(square / 16 + 1e-5);
        assert_true(fabs((double)logits[v] - sum) < 1e-4);
    }
    x[5] = NAN; /* NaN must show */
    assert_true(isnan(llama_head_loss(&shape, rows, &w, NULL, true, x, targets, 1, NULL, ws)));
    free(x);
    free(norm);
    free(head);
    free(x64);
    free(norm64);
    free(head64);
    free((void *)w.head.data);
    free(dhead);
    free(dx);
    free(logits);
    free(ws);
}

static void test_embedding(void **state)
{
    static const int32_t tokens[] = {4, 0, 4, 2, 4};
    float *table = ref_random(5 * 7, 1, 1, 0), *dtable = ref_floats(5 * 7), x[35];

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        struct llama_weight w = ref_weight(table, 5 * 7, dtypes[d]);

        llama_embed(x, w, tokens, 5, 7);
        for (size_t i = 0; i < 5; i++)
            assert_memory_equal(x + i * 7, table + tokens[i] * 7, 7 * sizeof *x);
        free((void *)w.data);
    }
    for (int pass = 1; pass <= 2; pass++) {
        llama_embed_backward(dtable, x, tokens, 5, 5, 7, 1, pass == 1);
        for (size_t i = 0; i < 35; i++) {
            size_t v = i / 7, times = v == 4 ? 3 : v == 0 || v == 2;

            assert_true(dtable[i] == (float)(times * (size_t)pass) * table[i]);
        }
    }
    free(table);
    free(dtable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),  cmocka_unit_test(test_products_do_not_depend_on_addresses),
        cmocka_unit_test(test_norm),      cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),    cmocka_unit_test(test_attention),
        cmocka_unit_test(test_head),      cmocka_unit_test(test_head_of_128256),
        cmocka_unit_test(test_embedding),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
