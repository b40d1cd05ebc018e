/*
 * The CUDA kernels of what Llama does not have (here: on the stub driver, kernels on the CPU), beside those of kernels.h:
 *  - gelu by tanh and by erf, biases and the sums of their gradients, caps, scales, heads rotated in part: any length and
 *    dtype;
 *  - attention with a window, a cap, or both, forward, backward and of a few queries behind a cache, heads of every
 *    kernel.
 * Negative controls: another window, and no cap, are noticed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "examples/model/kernels_cuda.h"
#include "tests/llama_cuda_compare.h"
#include "tests/llama_cuda_fixture.h"
#include "tests/llama_reference.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

/* Of the largest value: f32's rounding over sums of some hundred numbers; one of bf16 and of f16 at the end. */
static double tolerance(enum ofl_dtype dtype)
{
    return dtype == OFL_F32 ? 2e-5 : dtype == OFL_BF16 ? 1.0 / 128 : 1.0 / 1024;
}

/* Largest difference, by the largest value; NaN if any is. Where all should be 0, by what is usual. */
static double error_of(struct gpu *g, const void *device, enum ofl_dtype dtype, const float *want, size_t n)
{
    size_t bytes = n * ofl_dtype_bytes(dtype);
    void *raw = ref_alloc(bytes);
    float *got = ref_floats(n);
    double worst = 0, size = 0.1;

    gpu_download(g, raw, device, bytes);
    llama_widen(got, raw, dtype, n);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);

        worst = d > worst || isnan(d) ? d : worst;
        size = fabs((double)want[i]) > size ? fabs((double)want[i]) : size;
    }
    free(raw);
    free(got);
    return worst / size;
}

static void expect(struct gpu *g, const void *device, enum ofl_dtype dtype, const float *want, size_t n,
                   const char *what)
{
    double error = error_of(g, device, dtype, want, n);

    if (!(error <= tolerance(dtype)))
        fail_msg("%s, %s, %zu numbers: error %.3g", what, ofl_dtype_name(dtype), n, error);
}

/* ---- element by element ------------------------------------------------------- */

static void check_gelu(struct gpu *g, enum ofl_dtype dtype, enum llama_activation f, size_t n)
{
    float *gate = gpu_normal(n, 1, 2), *up = gpu_normal(n, 2, 1), *dact = gpu_normal(n, 3, 1),
          *act = ref_floats(n);
    void *gate_at = gpu_put(g, gate, n, dtype, 0), *up_at = gpu_put(g, up, n, dtype, 0),
         *dact_at = gpu_put(g, dact, n, dtype, 0), *act_at = gpu_room(g, n, dtype, 0);

    llama_gated(f, act, gate, up, n);
    llama_cuda_geglu(g->cuda, f == LLAMA_GELU, act_at, gate_at, up_at, dtype, n);
    expect(g, act_at, dtype, act, n, "gelu");
    llama_gated_backward(f, gate, up, dact, n);
    llama_cuda_geglu_backward(g->cuda, f == LLAMA_GELU, gate_at, up_at, dact_at, dtype, n);
    expect(g, gate_at, dtype, gate, n, "gelu's gradient of the gate");
    expect(g, up_at, dtype, up, n, "gelu's gradient of up");
    expect(g, dact_at, dtype, act, n, "gelu, again");
    free(gate);
    free(up);
    free(dact);
    free(act);
    gpu_forget(g);
}

static void check_bias(struct gpu *g, enum ofl_dtype dtype, size_t rows, size_t out)
{
    size_t n = rows * out;
    float *y = gpu_normal(n, 4, 1), *b = gpu_normal(out, 5, 1), *db = gpu_normal(out, 6, 1),
          *ws = ref_floats(out);
    void *y_at = gpu_put(g, y, n, dtype, 1), *b_at = gpu_put(g, b, out, OFL_BF16, 1),
         *db_at = gpu_put(g, db, out, OFL_F32, 0);

    llama_bias_backward(db, y, rows, out, false);
    llama_cuda_bias_backward(g->cuda, db_at, y_at, dtype, rows, out, false);
    expect(g, db_at, OFL_F32, db, out, "a bias' gradient, added");
    llama_bias_backward(db, y, rows, out, true);
    llama_cuda_bias_backward(g->cuda, db_at, y_at, dtype, rows, out, true);
    expect(g, db_at, OFL_F32, db, out, "a bias' gradient");
    llama_bias(y, (struct llama_weight){.data = b, .dtype = OFL_F32}, rows, out, ws);
    llama_cuda_bias(g->cuda, y_at, dtype, (struct llama_weight){.data = b_at, .dtype = OFL_BF16}, rows, out);
    expect(g, y_at, dtype, y, n, "a bias");
    free(y);
    free(b);
    free(db);
    free(ws);
    gpu_forget(g);
}

static void check_scales(struct gpu *g, enum ofl_dtype dtype, size_t n)
{
    float *x = gpu_normal(n, 7, 3), *d = gpu_normal(n, 8, 1), *want = ref_floats(n);
    float *x_at = gpu_put(g, x, n, OFL_F32, 0), *wide_at = gpu_room(g, n, OFL_F32, 0);
    void *d_at = gpu_put(g, d, n, dtype, 0);

    for (size_t i = 0; i < n; i++)
        want[i] = 4 * tanhf(x[i] / 4);
    llama_cuda_cap(g->cuda, x_at, 4, n);
    expect(g, x_at, OFL_F32, want, n, "a cap");
    llama_cuda_widen(g->cuda, wide_at, d_at, dtype, n, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = d[i] + 1;
    expect(g, wide_at, OFL_F32, x, n, "an offset");
    llama_cuda_add_scaled(g->cuda, wide_at, x_at, -0.5f, n);
    llama_add_scaled(x, want, -0.5f, n);
    expect(g, wide_at, OFL_F32, x, n, "a scaled sum");
    for (size_t i = 0; i < n; i++)
        d[i] *= 1 - want[i] / 4 * (want[i] / 4);
    llama_cuda_cap_backward(g->cuda, d_at, dtype, x_at, 4, n);
    expect(g, d_at, dtype, d, n, "a cap's gradient");
    llama_scale(d, n, 3);
    llama_cuda_scale(g->cuda, d_at, dtype, 3, n);
    expect(g, d_at, dtype, d, n, "a scale");
    free(x);
    free(d);
    free(want);
    gpu_forget(g);
}

static void check_rope(struct gpu *g, enum ofl_dtype dtype, size_t dims)
{
    const size_t batch = 2, seq = 5, heads = 3, dim = 12, first = 2, n = batch * seq * heads * dim;
    struct llama_shape shape = {.head_dim = 12, .rope_dims = (uint32_t)dims, .rope_theta = 100};
    float *x = gpu_normal(n, 9, 1), *table = ref_floats((first + seq) * dims);
    float *table_at;
    void *x_at = gpu_put(g, x, n, dtype, 0);

    llama_rope_table(table, &shape, 0, 0, first + seq);
    table_at = gpu_upload(g, table, (first + seq) * dims * sizeof *table);
    for (int back = 0; back < 2; back++) {
        llama_rope(x, batch, seq, heads, dim, dims, table + (back ? 0 : first * dims), back);
        llama_cuda_rope_part(g->cuda, x_at, dtype, batch, seq, heads, dim, dims, table_at, back ? 0 : first,
                             back);
        expect(g, x_at, dtype, x, n, "heads rotated in part");
    }
    free(x);
    free(table);
    gpu_forget(g);
}

static void test_elements(void **state)
{
    static const size_t lengths[] = {1, 255, 1031};
    struct gpu g;

    (void)state;
    gpu_open(&g, 1);
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        for (size_t i = 0; i < COUNT(lengths); i++) {
            check_gelu(&g, dtypes[d], LLAMA_GELU, lengths[i]);
            check_gelu(&g, dtypes[d], LLAMA_GELU_TANH, lengths[i]);
            check_scales(&g, dtypes[d], lengths[i]);
        }
        check_bias(&g, dtypes[d], 1, 7);
        check_bias(&g, dtypes[d], 70, 33);
        check_rope(&g, dtypes[d], 4);
        check_rope(&g, dtypes[d], 10);
    }
    gpu_close(&g);
}

/* ---- attention with limits ----------------------------------------------------- */

struct problem {
    uint32_t dim, window;
    float cap;
    size_t n, first; /* first: forward only */
    enum ofl_dtype dtype;
};

static struct llama_shape shape_of(const struct problem *p)
{
    struct llama_shape s = {.heads = 4,
                            .kv_heads = 2,
                            .head_dim = p->dim,
                            .attn_cap = p->cap,
                            .attn_scale = 0.2f,
                            .window = p->window};

    llama_layer_put(s.windowed, 3);
    return s;
}

enum { Q, K, V, DOUT, OUT, DQ, DK, DV, PARTS };

struct tensors {
    float *cpu[PARTS], *lse;
    void *gpu[PARTS];
    size_t elems[PARTS];
};

static void make(struct gpu *g, const struct problem *p, struct tensors *t)
{
    size_t q = p->n * 4 * p->dim, k = (p->first + p->n) * 2 * p->dim;
    const size_t elems[PARTS] = {q, k, k, q, q, q, k, k};

    for (int i = 0; i < PARTS; i++) {
        t->elems[i] = elems[i];
        t->cpu[i] = i < OUT ? gpu_normal(elems[i], 20 + (uint64_t)i, 1) : ref_floats(elems[i]);
        t->gpu[i] =
            i < OUT ? gpu_put(g, t->cpu[i], elems[i], p->dtype, 0) : gpu_room(g, elems[i], p->dtype, 0);
    }
    t->lse = gpu_room(g, p->n * 4, OFL_F32, 0);
}

static void check(struct gpu *g, const struct problem *p, struct tensors *t, int part)
{
    double error = error_of(g, t->gpu[part], p->dtype, t->cpu[part], t->elems[part]),
           most = p->dtype == OFL_F32
                      ? 2e-5
                      : 0.03; /* p and ds are rounded to bf16 by nobody here; out is, once more */

    if (!(error <= most))
        fail_msg("part %d, dim %u, window %u, cap %g, %zu behind %zu, %s: error %.3g", part, p->dim,
                 p->window, (double)p->cap, p->n, p->first, ofl_dtype_name(p->dtype), error);
}

static void run(struct gpu *g, const struct problem *p)
{
    struct llama_shape s = shape_of(p);
    void *ws = ref_alloc(llama_attention_backward_workspace(p->first + p->n));
    struct tensors t;

    make(g, p, &t);
    llama_attention(t.cpu[OUT], t.cpu[Q], t.cpu[K], t.cpu[V], &s, 3, p->first, p->n, ws);
    llama_cuda_attention(g->cuda, t.gpu[OUT], t.lse, t.gpu[Q], t.gpu[K], t.gpu[V], p->dtype, &s, 3, 1,
                         p->first, p->n);
    check(g, p, &t, OUT);
    if (p->first == 0) {
        void *gpu_ws = gpu_blank(g, llama_cuda_attention_backward_bytes(&s, p->dtype, 1, p->n));

        llama_attention_backward(t.cpu[DQ], t.cpu[DK], t.cpu[DV], t.cpu[DOUT], t.cpu[Q], t.cpu[K], t.cpu[V],
                                 &s, 3, p->n, ws);
        llama_cuda_attention_backward(g->cuda, t.gpu[DQ], t.gpu[DK], t.gpu[DV], t.gpu[DOUT], t.gpu[OUT],
                                      t.lse, t.gpu[Q], t.gpu[K], t.gpu[V], p->dtype, &s, 3, 1, p->n, gpu_ws);
        for (int i = DQ; i < PARTS; i++)
            check(g, p, &t, i);
    }
    for (int i = 0; i < PARTS; i++)
        free(t.cpu[i]);
    free(ws);
    gpu_forget(g);
}

static void test_limits(void **state)
{
    static const struct problem problems[] = {
        {.dim = 6, .window = 1, .n = 40},
        {.dim = 16, .window = 7, .n = 100},
        {.dim = 16, .cap = 2, .n = 70},
        {.dim = 16, .window = 33, .cap = 2, .n = 100},
        {.dim = 64, .window = 40, .n = 130, .dtype = OFL_BF16},
        {.dim = 128, .cap = 3, .n = 65, .dtype = OFL_BF16},
        {.dim = 136, .window = 20, .cap = 2, .n = 50},
        {.dim = 16, .window = 9, .n = 1, .first = 100},
        {.dim = 64, .window = 9, .cap = 2, .n = 3, .first = 70, .dtype = OFL_BF16},
        {.dim = 16, .window = 50, .n = 33, .first = 100},
        {.dim = 16, .window = 500, .n = 33, .first = 10}, /* wider than the text */
    };
    struct gpu g;

    (void)state;
    gpu_open(&g, 2);
    for (size_t i = 0; i < COUNT(problems); i++) {
        struct problem p = problems[i];

        p.dtype = p.dtype == OFL_BF16 ? OFL_BF16 : OFL_F32;
        run(&g, &p);
    }
    gpu_close(&g);
}

/* A window that is one key wider, or a cap that is not there. */
static void test_other_limits_are_noticed(void **state)
{
    struct problem p = {.dim = 16, .window = 7, .cap = 2, .n = 60, .dtype = OFL_F32};
    void *ws = ref_alloc(llama_attention_workspace(p.n));
    struct gpu g;

    (void)state;
    gpu_open(&g, 3);
    for (int other = 0; other < 2; other++) {
        struct llama_shape s = shape_of(&p), wrong = s;
        struct tensors t;

        wrong.window += other == 0;
        wrong.attn_cap = other == 1 ? 0 : s.attn_cap;
        make(&g, &p, &t);
        llama_attention(t.cpu[OUT], t.cpu[Q], t.cpu[K], t.cpu[V], &s, 3, 0, p.n, ws);
        llama_cuda_attention(g.cuda, t.gpu[OUT], NULL, t.gpu[Q], t.gpu[K], t.gpu[V], p.dtype, &wrong, 3, 1, 0,
                             p.n);
        assert_false(error_of(&g, t.gpu[OUT], p.dtype, t.cpu[OUT], t.elems[OUT]) < 1e-3);
        for (int i = 0; i < PARTS; i++)
            free(t.cpu[i]);
        gpu_forget(&g);
    }
    free(ws);
    gpu_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_other_limits_are_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
