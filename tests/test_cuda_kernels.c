/*
 * The CUDA kernels other than attention, on the stub driver, which runs the kernels themselves on the CPU
 * (or on a GPU: see llama_cuda_fixture.h), each beside its namesake of kernels.h. Proves, over odd and
 * even shapes, aligned and not, in all dtypes:
 *  - bits are the CPU's where arithmetic allows: rope with the same table, formats, embedding and its
 *    gradient, random numbers; elsewhere results lie within half a unit in the last place of the format
 *    and f32 noise of the CPU's;
 *  - NaN and infinity come through; what is overwritten held NaN; nothing around a buffer is written to;
 *  - results have the same bits whatever the order of threads and blocks, and whatever the grid;
 *  - closing waits for what is still on the stream;
 *  - a result that is a little wrong is refused: every comparison is made a second time with one number
 *    two units off (the negative control), and a guard that is written to is noticed.
 * The loss: tests/test_cuda_head.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/kernels_cuda.h"
#include "tests/llama_cuda_compare.h"

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};
static const size_t row_counts[] = {1, 3, 17, 64};
static const size_t hiddens[] = {8, 33, 64, 100, 288};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- norm ----------------------------------------------------------------------- */

/* shift: numbers by which every buffer is off its alignment. */
static void check_norm(struct gpu *g, size_t rows, size_t hidden, enum ofl_dtype dtype,
                       enum ofl_dtype w_dtype, size_t shift)
{
    size_t n = rows * hidden;
    float *x = gpu_normal(n, 1, 2), *w = gpu_normal(hidden, 2, 1), *want = ref_floats(n);
    float *ws = ref_alloc(llama_norm_workspace(hidden));
    struct llama_weight weight = {.data = gpu_put(g, w, hidden, w_dtype, shift), .dtype = w_dtype};
    void *y = gpu_room(g, n, dtype, shift);

    x[n / 2] = -0.0f;
    llama_norm(want, x, (struct llama_weight){.data = w, .dtype = OFL_F32}, rows, hidden, 1e-5f, ws);
    llama_cuda_norm(g->cuda, y, dtype, gpu_put(g, x, n, OFL_F32, shift), weight, rows, hidden, 1e-5f);
    gpu_expect(g, y, dtype, want, n, (struct allowed){1e-6, 1e-30}, "norm of %zu x %zu, %s, weight %s, + %zu",
               rows, hidden, ofl_dtype_name(dtype), ofl_dtype_name(w_dtype), shift);
    gpu_forget(g);
    free(x);
    free(w);
    free(want);
    free(ws);
}

static void norms(struct gpu *g)
{
    for (size_t r = 0; r < COUNT(row_counts); r++)
        for (size_t h = 0; h < COUNT(hiddens); h++)
            for (size_t d = 0; d < 3; d++)
                check_norm(g, row_counts[r], hiddens[h], dtypes[d], dtypes[(d + r + h) % 3], 0);
    for (size_t d = 0; d < 3; d++) {
        check_norm(g, 3, 64, dtypes[d], dtypes[d], 1);
        check_norm(g, 2, 16416, dtypes[d], OFL_BF16, 0); /* more than a thread's registers hold */
        check_norm(g, 1, 16387, dtypes[d], OFL_F32, 0);
    }
}

static void test_norm(void **state)
{
    (void)state;
    gpu_twice(norms);
}

/* One row with NaN, one with infinity, one clean: each stays in its row. */
static void norm_specials(struct gpu *g)
{
    float x[3 * 40], w[40], want[3 * 40], ws[64];

    for (size_t d = 0; d < 3; d++) {
        void *y = gpu_room(g, 120, dtypes[d], 0);

        llama_init_normal(x, 0, 120, 3, 1);
        llama_init_normal(w, 0, 40, 4, 1);
        x[7] = NAN;
        x[41] = INFINITY;
        llama_norm(want, x, (struct llama_weight){.data = w, .dtype = OFL_F32}, 3, 40, 1e-5f, ws);
        assert_true(isnan(want[0]) && isnan(want[41]) && want[42] == 0 && isfinite(want[80]));
        llama_cuda_norm(g->cuda, y, dtypes[d], gpu_put(g, x, 120, OFL_F32, 0),
                        (struct llama_weight){.data = gpu_put(g, w, 40, OFL_F32, 0), .dtype = OFL_F32}, 3, 40,
                        1e-5f);
        gpu_expect(g, y, dtypes[d], want, 120, (struct allowed){1e-6, 0}, "norm of NaN");
        gpu_forget(g);
    }
}

static void test_norm_of_nan(void **state)
{
    (void)state;
    gpu_twice(norm_specials);
}

static const struct backward_case {
    bool accumulate, first, in_place;
} backward_cases[] = {
    {false, true, false}, {true, false, false}, {true, true, false},
    {false, false, true}, {false, true, true},  {true, false, true},
};

static void check_norm_backward(struct gpu *g, const struct backward_case *b, size_t rows, size_t hidden,
                                enum ofl_dtype w_dtype, size_t shift)
{
    size_t n = rows * hidden;
    float *x = gpu_normal(n, 1, 2), *dy = gpu_normal(n, 3, 1), *w = gpu_normal(hidden, 2, 1);
    float *dx = b->in_place ? dy : gpu_normal(n, 4, 1), *dw = gpu_normal(hidden, 5, 1);
    struct llama_weight weight = {.data = gpu_put(g, w, hidden, w_dtype, shift), .dtype = w_dtype};
    void *x_at = gpu_put(g, x, n, OFL_F32, shift), *dy_at = gpu_put(g, dy, n, OFL_F32, shift);
    void *ws = gpu_blank(g, llama_cuda_norm_backward_bytes(rows, hidden)), *dx_at = dy_at, *dw_at;
    float *cpu_ws = ref_alloc(llama_norm_workspace(hidden));
    char what[128];

    if (!b->in_place)
        dx_at = b->accumulate ? gpu_put(g, dx, n, OFL_F32, shift) : gpu_room(g, n, OFL_F32, shift);
    dw_at = b->first ? gpu_room(g, hidden, OFL_F32, shift) : gpu_put(g, dw, hidden, OFL_F32, shift);
    llama_norm_backward(dx, dw, dy, x, (struct llama_weight){.data = w, .dtype = OFL_F32}, rows, hidden,
                        1e-5f, b->accumulate, b->first, cpu_ws);
    llama_cuda_norm_backward(g->cuda, dx_at, dw_at, dy_at, x_at, weight, rows, hidden, 1e-5f, b->accumulate,
                             b->first, ws);
    snprintf(what, sizeof what, "norm backward of %zu x %zu, + %zu, case %d", rows, hidden, shift,
             (int)(b - backward_cases));
    gpu_expect(g, dx_at, OFL_F32, dx, n, (struct allowed){0, 2e-6 * gpu_largest(dx, n)}, "%s, dx", what);
    gpu_expect(g, dw_at, OFL_F32, dw, hidden, (struct allowed){0, 2e-6 * gpu_largest(dw, hidden)}, "%s, dw",
               what);
    gpu_forget(g);
    if (!b->in_place)
        free(dx);
    free(x);
    free(dy);
    free(w);
    free(dw);
    free(cpu_ws);
}

static void norm_backwards(struct gpu *g)
{
    size_t next = 0;

    for (size_t r = 0; r < COUNT(row_counts); r++)
        for (size_t h = 0; h < COUNT(hiddens); h++, next++)
            check_norm_backward(g, &backward_cases[next % COUNT(backward_cases)], row_counts[r], hiddens[h],
                                dtypes[next % 3], 0);
    for (size_t b = 0; b < COUNT(backward_cases); b++) {
        check_norm_backward(g, &backward_cases[b], 9, 64, OFL_BF16, 1);
        check_norm_backward(g, &backward_cases[b], 9, 64, OFL_BF16, 0);
    }
    check_norm_backward(g, &backward_cases[1], 1100, 8, OFL_F32, 0);  /* blocks take several rows each */
    check_norm_backward(g, &backward_cases[2], 6, 8224, OFL_BF16, 0); /* beyond the registers */
    check_norm_backward(g, &backward_cases[3], 6, 8201, OFL_F16, 0);
    check_norm_backward(g, &backward_cases[1], 900, 7, OFL_F32, 0);
}

static void test_norm_backward(void **state)
{
    (void)state;
    gpu_twice(norm_backwards);
}

/* NaN in one row: in its dx, and in dw where it is. */
static void norm_backward_specials(struct gpu *g)
{
    float x[3 * 12], dy[3 * 12], w[12], dx[3 * 12], dw[12], ws[16];
    void *dx_at = gpu_room(g, 36, OFL_F32, 0), *dw_at = gpu_room(g, 12, OFL_F32, 0);

    llama_init_normal(x, 0, 36, 1, 1);
    llama_init_normal(dy, 0, 36, 2, 1);
    llama_init_normal(w, 0, 12, 3, 1);
    dy[14] = NAN;
    llama_norm_backward(dx, dw, dy, x, (struct llama_weight){.data = w, .dtype = OFL_F32}, 3, 12, 1e-5f,
                        false, true, ws);
    llama_cuda_norm_backward(g->cuda, dx_at, dw_at, gpu_put(g, dy, 36, OFL_F32, 0),
                             gpu_put(g, x, 36, OFL_F32, 0),
                             (struct llama_weight){.data = gpu_put(g, w, 12, OFL_F32, 0), .dtype = OFL_F32},
                             3, 12, 1e-5f, false, true, gpu_blank(g, llama_cuda_norm_backward_bytes(3, 12)));
    assert_true(isfinite(dx[0]) && isnan(dx[12]) && isnan(dw[2]) && isfinite(dw[3]));
    gpu_expect(g, dx_at, OFL_F32, dx, 36, (struct allowed){0, 1e-5}, "norm backward of NaN, dx");
    gpu_expect(g, dw_at, OFL_F32, dw, 12, (struct allowed){0, 1e-5}, "norm backward of NaN, dw");
}

static void test_norm_backward_of_nan(void **state)
{
    (void)state;
    gpu_twice(norm_backward_specials);
}

/* ---- rotary embedding -------------------------------------------------------------- */

static void rope_tables(struct gpu *g)
{
    static const uint32_t dims[] = {2, 10, 64};

    for (size_t i = 0; i < COUNT(dims); i++) {
        struct llama_shape shape = {.head_dim = dims[i], .rope_theta = 500000};
        size_t n = i == 2 ? 600 : 3001;
        float *want = ref_floats(n * dims[i]), inv_freq[32];
        float *table = gpu_room(g, n * dims[i], OFL_F32, 1);

        llama_rope_inv_freq(inv_freq, &shape, 0);
        llama_rope_table(want, &shape, 0, 0, n);
        llama_cuda_rope_table(g->cuda, table, gpu_put(g, inv_freq, dims[i] / 2, OFL_F32, 0), n, dims[i]);
        gpu_expect(g, table, OFL_F32, want, n * dims[i], (struct allowed){0, 2.5e-7}, "rope table of %u",
                   dims[i]);
        gpu_forget(g);
        free(want);
    }
}

static void test_rope_table(void **state)
{
    (void)state;
    gpu_twice(rope_tables);
}

static const struct rope_case {
    size_t batch, seq, heads, dim, first, shift;
    bool backward;
} rope_cases[] = {
    {1, 1, 1, 2, 0, 0, false},  {1, 17, 3, 10, 5, 0, false}, {2, 9, 8, 64, 0, 0, false},
    {3, 5, 2, 16, 1, 0, true},  {2, 3, 5, 8, 0, 0, true},    {1, 3, 2, 64, 2, 1, false},
    {1, 2, 33, 24, 0, 0, true}, {2, 64, 4, 16, 0, 0, false},
};

static void check_rope(struct gpu *g, const struct rope_case *r, enum ofl_dtype dtype)
{
    struct llama_shape shape = {.head_dim = (uint32_t)r->dim, .rope_theta = 10000};
    size_t n = r->batch * r->seq * r->heads * r->dim, positions = r->first + r->seq;
    float *x = gpu_normal(n, 1, 1), *table = ref_floats(positions * r->dim);
    void *x_at;

    x[0] = NAN;
    x[n - 1] = -INFINITY;
    x_at = gpu_put(g, x, n, dtype, r->shift);
    llama_rope_table(table, &shape, 0, 0, positions);
    llama_rope(x, r->batch, r->seq, r->heads, r->dim, r->dim, table + r->first * r->dim, r->backward);
    llama_cuda_rope(g->cuda, x_at, dtype, r->batch, r->seq, r->heads, r->dim,
                    gpu_put(g, table, positions * r->dim, OFL_F32, r->shift), r->first, r->backward);
    gpu_expect(g, x_at, dtype, x, n, exactly, "rope case %zu, %s", (size_t)(r - rope_cases),
               ofl_dtype_name(dtype));
    gpu_forget(g);
    free(x);
    free(table);
}

static void ropes(struct gpu *g)
{
    for (size_t i = 0; i < COUNT(rope_cases); i++)
        for (size_t d = 0; d < 3; d++)
            check_rope(g, &rope_cases[i], dtypes[d]);
}

static void test_rope(void **state)
{
    (void)state;
    gpu_twice(ropes);
}

/* ---- SwiGLU -------------------------------------------------------------------------- */

static const size_t counts[] = {1, 3, 8, 31, 1000, 4099};
static const float specials[] = {NAN,    INFINITY, -INFINITY, 0.0f,  -0.0f,  100,    -100,    88.5f,
                                 -88.5f, -87.2f,   87.2f,     1e30f, -1e30f, 1e-30f, -1e-30f, 12};

/* Every pair of special numbers, where n has room for them. */
static void add_specials(float *a, float *b, size_t n)
{
    for (size_t i = 0; i < COUNT(specials) * COUNT(specials) && i < n; i++)
        if (n > 900) {
            a[n - 1 - i] = specials[i % COUNT(specials)];
            b[n - 1 - i] = specials[i / COUNT(specials)];
        }
}

/* place: where the result goes; 1: over gate, 2: over up. */
static void check_swiglu(struct gpu *g, size_t n, enum ofl_dtype dtype, size_t shift, int place)
{
    float *gate = gpu_normal(n, 1, 8), *up = gpu_normal(n, 2, 2), *want = ref_floats(n);
    void *gate_at, *up_at, *act;

    add_specials(gate, up, n);
    gate_at = gpu_put(g, gate, n, dtype, shift);
    up_at = gpu_put(g, up, n, dtype, shift);
    act = place == 1 ? gate_at : place == 2 ? up_at : gpu_room(g, n, dtype, shift);
    llama_gated(LLAMA_SILU, want, gate, up, n);
    llama_cuda_swiglu(g->cuda, act, gate_at, up_at, dtype, n);
    gpu_expect(g, act, dtype, want, n, (struct allowed){1e-6, 1e-37}, "swiglu of %zu, %s, + %zu, place %d", n,
               ofl_dtype_name(dtype), shift, place);
    gpu_forget(g);
    free(gate);
    free(up);
    free(want);
}

static void swiglus(struct gpu *g)
{
    for (size_t i = 0; i < COUNT(counts); i++)
        for (size_t d = 0; d < 3; d++) {
            check_swiglu(g, counts[i], dtypes[d], 0, (int)(i % 3));
            check_swiglu(g, counts[i], dtypes[d], 1, (int)(d % 3));
        }
}

static void test_swiglu(void **state)
{
    (void)state;
    gpu_twice(swiglus);
}

/* The gradient at gate passes through zero, by a difference of numbers near 1: hence `least`. */
static void check_swiglu_backward(struct gpu *g, size_t n, enum ofl_dtype dtype, size_t shift)
{
    float *gate = gpu_normal(n, 1, 8), *up = gpu_normal(n, 2, 2), *dact = gpu_normal(n, 3, 1);
    float *act = gpu_normal(n, 4, 1);
    void *gate_at, *up_at, *dact_at;

    add_specials(gate, n > 4000 ? dact : up, n);
    gate_at = gpu_put(g, gate, n, dtype, shift);
    up_at = gpu_put(g, up, n, dtype, shift);
    dact_at = gpu_put(g, dact, n, dtype, shift);
    llama_gated(LLAMA_SILU, act, gate, up, n);
    llama_gated_backward(LLAMA_SILU, gate, up, dact, n);
    llama_cuda_swiglu_backward(g->cuda, gate_at, up_at, dact_at, dtype, n);
    gpu_expect(g, gate_at, dtype, gate, n, (struct allowed){2e-6, 2e-6}, "swiglu backward of %zu, %s, gate",
               n, ofl_dtype_name(dtype));
    gpu_expect(g, up_at, dtype, up, n, (struct allowed){1e-6, 1e-37}, "swiglu backward of %zu, %s, up", n,
               ofl_dtype_name(dtype));
    gpu_expect(g, dact_at, dtype, act, n, (struct allowed){1e-6, 1e-37}, "swiglu backward of %zu, %s, act", n,
               ofl_dtype_name(dtype));
    gpu_forget(g);
    free(gate);
    free(up);
    free(dact);
    free(act);
}

static void swiglu_backwards(struct gpu *g)
{
    for (size_t i = 0; i < COUNT(counts); i++)
        for (size_t d = 0; d < 3; d++)
            check_swiglu_backward(g, counts[i], dtypes[d], (i + d) % 2);
}

static void test_swiglu_backward(void **state)
{
    (void)state;
    gpu_twice(swiglu_backwards);
}

/* ---- formats, random numbers --------------------------------------------------------- */

static void narrows(struct gpu *g)
{
    static const size_t sizes[] = {0, 1, 3, 64, 4095, 4100, 10001};

    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t d = 0; d < 6; d++) {
            size_t n = sizes[i], shift = d / 3;
            float *x = gpu_normal(n, 1, 1);
            void *dst = gpu_room(g, n, dtypes[d % 3], shift);

            for (size_t k = 0; k < n; k++) /* all exponents */
                x[k] = ldexpf(x[k], (int)(ref_hash(5, k) % 300) - 150);
            for (size_t k = 0; k < COUNT(specials) && k < n; k++)
                x[n - 1 - k] = specials[k];
            llama_cuda_narrow(g->cuda, dst, dtypes[d % 3], gpu_put(g, x, n, OFL_F32, shift), n);
            gpu_expect(g, dst, dtypes[d % 3], x, n, exactly, "narrow %zu to %s", n,
                       ofl_dtype_name(dtypes[d % 3]));
            gpu_forget(g);
            free(x);
        }
}

static void test_narrow(void **state)
{
    (void)state;
    gpu_twice(narrows);
}

static void inits(struct gpu *g)
{
    static const struct {
        uint64_t first, n, seed;
        float std;
    } cases[] = {{0, 1, 0, 1}, {1, 1000, 7, 0.02f}, {(1ull << 40) + 1, 4097, 0xffffffffffffffff, 1}};

    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t d = 0; d < 3; d++) {
            size_t n = cases[i].n;
            float *want = ref_floats(n);
            void *dst = gpu_room(g, n, dtypes[d], 0);

            llama_init_normal(want, cases[i].first, n, cases[i].seed, cases[i].std);
            llama_cuda_init_normal(g->cuda, dst, dtypes[d], cases[i].first, n, cases[i].seed, cases[i].std);
            gpu_expect(g, dst, dtypes[d], want, n, exactly, "random numbers %zu, %s", i,
                       ofl_dtype_name(dtypes[d]));
            for (size_t k = 0; k < n; k++)
                want[k] = 1.3f;
            llama_cuda_init_value(g->cuda, dst, dtypes[d], n, 1.3f);
            gpu_expect(g, dst, dtypes[d], want, n, exactly, "one number %zu", i);
            gpu_forget(g);
            free(want);
        }
}

static void test_init(void **state)
{
    (void)state;
    gpu_twice(inits);
}

/* ---- embedding ------------------------------------------------------------------------ */

static int32_t *random_tokens(size_t n, size_t vocab)
{
    int32_t *tokens = ref_alloc(n * sizeof *tokens);

    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(ref_hash(9, i) % vocab);
    return tokens;
}

static void embeds(struct gpu *g)
{
    const size_t vocab = 29;

    for (size_t r = 0; r < COUNT(row_counts); r++)
        for (size_t h = 0; h < COUNT(hiddens); h++) {
            size_t n = row_counts[r], hidden = hiddens[h], shift = r % 2;
            enum ofl_dtype dtype = dtypes[(r + h) % 3];
            float *table = gpu_normal(vocab * hidden, 1, 1), *want = ref_floats(n * hidden);
            int32_t *tokens = random_tokens(n, vocab);
            float *x = gpu_room(g, n * hidden, OFL_F32, shift);
            struct llama_weight weight;

            table[(size_t)tokens[n - 1] * hidden] = NAN;
            weight = (struct llama_weight){.data = gpu_put(g, table, vocab * hidden, dtype, shift),
                                           .dtype = dtype};
            llama_embed(want, (struct llama_weight){.data = table, .dtype = OFL_F32}, tokens, n, hidden);
            llama_cuda_embed(g->cuda, x, weight, gpu_upload(g, tokens, n * 4), n, hidden);
            gpu_expect(g, x, OFL_F32, want, n * hidden, exactly, "embedding of %zu x %zu", n, hidden);
            gpu_forget(g);
            free(table);
            free(want);
            free(tokens);
        }
}

static void test_embed(void **state)
{
    (void)state;
    gpu_twice(embeds);
}

static const struct plan_case {
    size_t n, vocab;
} plan_cases[] = {{1, 1}, {2, 1}, {100, 3}, {1000, 50}, {1000, 128256}, {5000, 0x7fffffff}};

/* Rows by token, in order, each once; ids ascend. */
static void test_embed_plan(void **state)
{
    (void)state;
    for (size_t c = 0; c < COUNT(plan_cases); c++) {
        size_t n = plan_cases[c].n, elems = llama_embed_plan_elems(n), rows = 0;
        int32_t *tokens = random_tokens(n, plan_cases[c].vocab), *buffer = ref_alloc((elems + 1) * 4),
                *scratch = ref_alloc((n + 1) * 4);
        struct llama_embed_plan plan;

        buffer[elems] = scratch[n] = 0x5eed;
        llama_embed_plan_make(&plan, buffer, scratch, tokens, n);
        assert_true(buffer[elems] == 0x5eed && scratch[n] == 0x5eed);
        assert_true(plan.ids >= buffer && plan.order + n <= buffer + elems);
        for (size_t i = 0; i < plan.distinct; i++) {
            assert_true(i == 0 || plan.ids[i] > plan.ids[i - 1]);
            assert_true(plan.starts[i] == (int32_t)rows && plan.starts[i + 1] > plan.starts[i]);
            for (int32_t k = plan.starts[i]; k < plan.starts[i + 1]; k++, rows++) {
                assert_int_equal(tokens[plan.order[k]], plan.ids[i]);
                assert_true(k == plan.starts[i] || plan.order[k] > plan.order[k - 1]);
            }
        }
        assert_int_equal(rows, n);
        free(tokens);
        free(buffer);
        free(scratch);
    }
}

static void check_embed_backward(struct gpu *g, size_t n, size_t vocab, size_t hidden, size_t shift,
                                 bool first)
{
    float *dx = gpu_normal(n * hidden, 1, 1), *dtable = gpu_normal(vocab * hidden, 2, 1);
    int32_t *tokens = random_tokens(n, vocab), *buffer = ref_alloc(llama_embed_plan_elems(n) * 4),
            *scratch = ref_alloc(n * 4), *buffer_at;
    struct llama_embed_plan plan;
    float *dtable_at;

    dx[n * hidden / 2] = NAN;
    llama_embed_plan_make(&plan, buffer, scratch, tokens, n);
    buffer_at = gpu_upload(g, buffer, llama_embed_plan_elems(n) * 4);
    plan.ids = buffer_at + (plan.ids - buffer);
    plan.starts = buffer_at + (plan.starts - buffer);
    plan.order = buffer_at + (plan.order - buffer);
    dtable_at = first ? gpu_room(g, vocab * hidden, OFL_F32, shift)
                      : gpu_put(g, dtable, vocab * hidden, OFL_F32, shift);
    llama_embed_backward(dtable, dx, tokens, n, vocab, hidden, 1, first);
    llama_cuda_embed_backward(g->cuda, dtable_at, gpu_put(g, dx, n * hidden, OFL_F32, shift), &plan, vocab,
                              hidden, first);
    gpu_expect(g, dtable_at, OFL_F32, dtable, vocab * hidden, exactly,
               "embedding's gradient of %zu x %zu, vocabulary %zu", n, hidden, vocab);
    gpu_forget(g);
    free(dx);
    free(dtable);
    free(tokens);
    free(buffer);
    free(scratch);
}

static void embed_backwards(struct gpu *g)
{
    static const size_t vocabs[] = {1, 7, 100};

    for (size_t r = 0; r < COUNT(row_counts); r++)
        for (size_t v = 0; v < COUNT(vocabs); v++)
            check_embed_backward(g, row_counts[r], vocabs[v], hiddens[(r + v) % COUNT(hiddens)], v % 2,
                                 (r + v) % 2);
    check_embed_backward(g, 40, 7, 1100, 0, true); /* pieces of a row */
}

static void test_embed_backward(void **state)
{
    (void)state;
    gpu_twice(embed_backwards);
}

/* ---- grids ------------------------------------------------------------------------------ */

/* A launcher's grid covers what it is given; a smaller one, which strides, must give the same bits. Only
 * more elements than tests can hold would do that otherwise. */
static void expect_same(struct gpu *g, const void *a, const void *b, size_t bytes, const char *what)
{
    unsigned char *x = ref_alloc(bytes), *y = ref_alloc(bytes);

    gpu_download(g, x, a, bytes);
    gpu_download(g, y, b, bytes);
    if (memcmp(x, y, bytes) != 0)
        fail_msg("%s: another grid gives other bits", what);
    free(x);
    free(y);
}

static void elements_by_small_grids(struct gpu *g)
{
    uint64_t n = 10007, first = 5, seed = 3;
    float *x = gpu_normal(n, 1, 1), *y = gpu_normal(n, 2, 1), std = 0.5f;
    void *x_at = gpu_put(g, x, n, OFL_F32, 0), *y_at = gpu_put(g, y, n, OFL_F32, 0);
    uint16_t *want = gpu_blank(g, n * 2), *got = gpu_blank(g, n * 2);
    float *want_f32 = gpu_blank(g, n * 4), *got_f32 = gpu_blank(g, n * 4);
    uint32_t wide = 1;

    llama_cuda_narrow(g->cuda, want, OFL_BF16, x_at, n);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"narrow", OFL_BF16, {2}, 64, 0},
                      (void *[]){&got, &x_at, &n, &wide});
    expect_same(g, want, got, n * 2, "narrow");
    llama_cuda_init_normal(g->cuda, want_f32, OFL_F32, first, n, seed, std);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"init_normal", OFL_F32, {3}, 32, 0},
                      (void *[]){&got_f32, &first, &n, &seed, &std});
    expect_same(g, want_f32, got_f32, n * 4, "init_normal");
    llama_cuda_swiglu(g->cuda, want_f32, x_at, y_at, OFL_F32, n);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"swiglu", OFL_F32, {3}, 32, 0},
                      (void *[]){&got_f32, &x_at, &y_at, &n, &wide});
    expect_same(g, want_f32, got_f32, n * 4, "swiglu");
    free(x);
    free(y);
}

static void rows_by_small_grids(struct gpu *g)
{
    uint64_t rows = 11, seq = 11;
    uint32_t hidden = 48, w_dtype = OFL_F32, wide = 1, heads = 3, half = 8;
    float *x = gpu_normal(rows * hidden, 1, 1), *w = gpu_normal(hidden, 2, 1), eps = 1e-5f, sign = 1;
    float *x_at = gpu_put(g, x, rows * hidden, OFL_F32, 0), *w_at = gpu_put(g, w, hidden, OFL_F32, 0);
    float *want = gpu_blank(g, rows * hidden * 4), *got = gpu_blank(g, rows * hidden * 4);

    llama_cuda_norm(g->cuda, want, OFL_F32, x_at, (struct llama_weight){.data = w_at, .dtype = OFL_F32}, rows,
                    hidden, eps);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"norm", OFL_F32, {4}, 32, 0},
                      (void *[]){&got, &x_at, &w_at, &w_dtype, &rows, &hidden, &eps, &wide});
    expect_same(g, want, got, rows * hidden * 4, "norm");
    /* any table will do: rows of x */
    llama_cuda_rope(g->cuda, want, OFL_F32, 1, seq, heads, 2 * half, x_at, 0, false);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"rope", OFL_F32, {4}, 32, 0},
                      (void *[]){&got, &x_at, &rows, &seq, &heads, &half, &sign, &wide});
    expect_same(g, want, got, rows * hidden * 4, "rope");
    free(x);
    free(w);
}

static void test_grids(void **state)
{
    struct gpu g;

    (void)state;
    gpu_open(&g, 1);
    elements_by_small_grids(&g);
    gpu_forget(&g);
    rows_by_small_grids(&g);
    gpu_close(&g);
}

/* ---- the fixture's own controls ------------------------------------------------------------ */

/* A byte written before or behind a buffer is noticed. */
static void test_guards(void **state)
{
    struct gpu g;
    char text[128];

    (void)state;
    gpu_open(&g, 1);
    for (int behind = 0; behind < 2; behind++) {
        char *p = gpu_blank(&g, 100);

        gpu_blank(&g, 3);
        assert_true(gpu_guards_hold(&g, text, sizeof text));
        llama_cuda_zero(g.cuda, behind ? p + 100 : p - 1, 1);
        assert_false(gpu_guards_hold(&g, text, sizeof text));
        assert_non_null(strstr(text, behind ? "before buffer 1" : "byte 1 before buffer 0"));
        g.count = g.used = 0;
    }
    gpu_close(&g);
}

/* What a program that failed half-way has left on the stream reads pinned memory: close waits before it frees
 * that. On a stub that executes nothing that nobody has asked for. */
static void test_close_waits(void **state)
{
    struct gpu g;

    (void)state;
    setenv("OFL_STUB_LAZY", "1", 1);
    gpu_open(&g, 1);
    unsetenv("OFL_STUB_LAZY");
    llama_cuda_in(g.cuda, g.lease.ptr, g.staging, 64);
    gpu_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),           cmocka_unit_test(test_norm_of_nan),
        cmocka_unit_test(test_norm_backward),  cmocka_unit_test(test_norm_backward_of_nan),
        cmocka_unit_test(test_rope_table),     cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),         cmocka_unit_test(test_swiglu_backward),
        cmocka_unit_test(test_narrow),         cmocka_unit_test(test_init),
        cmocka_unit_test(test_embed),          cmocka_unit_test(test_embed_plan),
        cmocka_unit_test(test_embed_backward), cmocka_unit_test(test_grids),
        cmocka_unit_test(test_guards),         cmocka_unit_test(test_close_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
