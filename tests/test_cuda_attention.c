/*
 * Attention on CUDA (examples/model/attention*.cu*, attention_cuda.c), on the stub driver, which runs the
 * kernels themselves on the CPU (or on a GPU: see llama_cuda_fixture.h). Proves, for shapes that fill
 * tiles and that don't, grouped heads, cached positions, batches:
 *  - outputs and gradients are those of kernels.h on the same rounded inputs, log-sum-exp that of a double
 *    reference; in f32 the gradients also agree with finite differences;
 *  - every number is written, and nothing around the buffers, scratch of exactly the size asked for
 *    included;
 *  - scores in the thousands overflow nothing; NaN and infinity stay where they belong, and end;
 *  - keys behind a query change not a bit of its output;
 *  - the same bits whatever the order of threads and blocks, and whatever else is in the batch;
 *  - a result that is a little wrong is refused (each comparison is made again with a number falsified).
 *
 * What may differ. In f32: 1e-5 of the largest number. Where numbers are stored in 16 bits: half a unit
 * in the last place more. In bf16, backward's delta comes of an output so rounded; on the tensor cores p
 * and ds are rounded too, by a relative error of at most u = 2^-8 each. Errors of one rounding are
 * independent of the next one's, so a sum of terms t gets one of u * sqrt(sum of t^2 / 3) or less; four times
 * u * sqrt(sum of t^2), seven times that, is allowed, of each number's own terms: `square` below.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/kernels_cuda.h"
#include "tests/llama_cuda_compare.h"

#define COUNT(a)  (sizeof(a) / sizeof *(a))
#define F32_SLACK 1e-5
#define BF16_UNIT 0x1p-8
#define F16_UNIT  0x1p-11

static const struct {
    uint32_t heads, kv_heads;
} groups[] = {{1, 1}, {4, 2}, {6, 2}, {8, 1}};

static const uint32_t dims[] = {8, 33, 64, 80, 128, 250};
static const size_t counts[] = {1, 2, 63, 64, 65, 127, 130, 200};
static const size_t firsts[] = {0, 1, 37, 100};

static bool light(void)
{
    return getenv("OFL_TEST_LIGHT") != NULL;
}

/* Of those of test_forward and test_backward, every other one: the two head sizes of the tensor cores get different
 * counts. Under sanitizers, where a second becomes a minute: one in eight, of two tiles at most. */
static bool left_out(size_t d, size_t c, size_t t)
{
    if (light())
        return (d + c + t) % 8 || dims[d] > 128 || counts[c] > (dims[d] == 64 ? 130u : 65u);
    return (d / 2 + c) % 2 && !getenv("OFL_TEST_FULL");
}

/* ---- a problem, on both sides --------------------------------------------------- */

enum { Q, K, V, DOUT, INPUTS };
enum { OUT, DQ, DK, DV, RESULTS };

struct problem {
    struct llama_shape shape;
    enum ofl_dtype dtype;
    size_t batch, first, n, q_row, k_row; /* numbers in a row */
    float *in[INPUTS];
    void *at[INPUTS];
    double slack; /* of f32 arithmetic: relative to the largest number, */
    double least; /* and at least */
    /* of gpu_forward and gpu_backward */
    void *result[RESULTS];
    float *lse;
};

/* Do the tensor cores take it? As attention_cuda.c chooses. */
static bool mma_forward(const struct problem *p)
{
    return p->dtype == OFL_BF16 && (p->shape.head_dim == 64 || p->shape.head_dim == 128) && p->n > 4;
}

static bool mma_backward(const struct problem *p)
{
    return p->dtype == OFL_BF16 && (p->shape.head_dim == 64 || p->shape.head_dim == 128);
}

/* Are there terms of its sums that are rounded to bf16? */
static bool has_rounded_terms(const struct problem *p, int result)
{
    return p->dtype == OFL_BF16 && (result == OUT ? mma_forward(p) : result != DV || mma_backward(p));
}

static bool is_key(int i)
{
    return i == K || i == V;
}

static size_t sequence(const struct problem *p, int i)
{
    return is_key(i) ? (p->first + p->n) * p->k_row : p->n * p->q_row;
}

static size_t result_size(const struct problem *p, int i)
{
    return p->batch * p->n * (i == DK || i == DV ? p->k_row : p->q_row);
}

static struct problem problem_make(uint32_t heads, uint32_t kv_heads, uint32_t dim, enum ofl_dtype dtype,
                                   size_t batch, size_t first, size_t n)
{
    struct problem p = {.shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = dim},
                        .dtype = dtype,
                        .batch = batch,
                        .first = first,
                        .n = n,
                        .q_row = (size_t)heads * dim,
                        .k_row = (size_t)kv_heads * dim,
                        .slack = F32_SLACK,
                        .least = 5e-6};

    for (int i = 0; i < INPUTS; i++)
        p.in[i] = gpu_normal(batch * sequence(&p, i), 10 + (uint64_t)i, 1);
    return p;
}

static void problem_free(struct problem *p)
{
    for (int i = 0; i < INPUTS; i++)
        free(p->in[i]);
}

/* Rounds the inputs to dtype, here and there. */
static void upload(struct gpu *g, struct problem *p)
{
    for (int i = 0; i < INPUTS; i++)
        p->at[i] = gpu_put(g, p->in[i], p->batch * sequence(p, i), p->dtype, 0);
}

static void gpu_forward(struct gpu *g, struct problem *p)
{
    p->result[OUT] = gpu_room(g, result_size(p, OUT), p->dtype, 0);
    p->lse = gpu_blank(g, p->batch * p->shape.heads * p->n * sizeof(float));
    llama_cuda_attention(g->cuda, p->result[OUT], p->lse, p->at[Q], p->at[K], p->at[V], p->dtype, &p->shape,
                         0, p->batch, p->first, p->n);
}

static void gpu_backward(struct gpu *g, struct problem *p)
{
    void *ws = gpu_blank(g, llama_cuda_attention_backward_bytes(&p->shape, p->dtype, p->batch, p->n));

    for (int i = DQ; i <= DV; i++)
        p->result[i] = gpu_room(g, result_size(p, i), p->dtype, 0);
    llama_cuda_attention_backward(g->cuda, p->result[DQ], p->result[DK], p->result[DV], p->at[DOUT],
                                  p->result[OUT], p->lse, p->at[Q], p->at[K], p->at[V], p->dtype, &p->shape,
                                  0, p->batch, p->n, ws);
}

static const char *describe(const struct problem *p)
{
    static char text[128];

    snprintf(text, sizeof text, "%s, heads %u/%u of %u, batch %zu, positions %zu + %zu",
             ofl_dtype_name(p->dtype), p->shape.heads, p->shape.kv_heads, p->shape.head_dim, p->batch,
             p->first, p->n);
    return text;
}

/* ---- what is wanted, and how far off it may be ------------------------------------- */

struct wanted {
    float *value[RESULTS], *lse;
    double *square[RESULTS]; /* sums of squares of the terms that are rounded, over u^2 */
};

/* A query of a head, in double. */
struct row {
    const float *q, *dout, *k, *v; /* k, v: of its kv head, from position 0 */
    size_t seen, stride, dim;
    double lse, *p;
};

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void row_softmax(struct row *r)
{
    double max = -INFINITY, sum = 0;

    for (size_t t = 0; t < r->seen; t++) {
        r->p[t] = dot(r->q, r->k + t * r->stride, r->dim) / sqrt((double)r->dim);
        max = fmax(max, r->p[t]);
    }
    for (size_t t = 0; t < r->seen; t++)
        sum += exp(r->p[t] - max);
    r->lse = max + log(sum);
    for (size_t t = 0; t < r->seen; t++)
        r->p[t] = exp(r->p[t] - r->lse);
}

/* Adds the squares of the query's terms. out: its output; delta's errors are common to all its ds. */
static void row_squares(const struct row *r, const float *out, double *squares[RESULTS], bool backward)
{
    double scale2 = 1 / (double)r->dim, delta = 0, delta2 = 0;

    for (size_t i = 0; i < r->dim; i++) {
        double sum = 0;

        for (size_t t = 0; t < r->seen; t++)
            sum += r->p[t] * r->p[t] * (double)r->v[t * r->stride + i] * (double)r->v[t * r->stride + i];
        squares[OUT][i] = sum;
        delta += (double)r->dout[i] * (double)out[i];
        delta2 += (double)r->dout[i] * (double)r->dout[i] * (sum + (double)out[i] * (double)out[i]);
    }
    for (size_t i = 0; backward && i < r->dim; i++) {
        double q = (double)r->q[i], d = (double)r->dout[i], mean = 0, sum = 0;

        for (size_t t = 0; t < r->seen; t++) {
            double p = r->p[t], k = (double)r->k[t * r->stride + i];
            double ds = i == 0 ? p * (dot(r->dout, r->v + t * r->stride, r->dim) - delta) : 0;

            if (i == 0) /* kept where p is no longer needed by itself: see below */
                r->p[r->seen + t] = ds;
            ds = r->p[r->seen + t];
            mean += p * k;
            sum += ds * ds * k * k;
            squares[DK][t * r->stride + i] += (ds * ds + p * p * delta2) * q * q * scale2;
            squares[DV][t * r->stride + i] += p * p * d * d;
        }
        squares[DQ][i] = (sum + mean * mean * delta2) * scale2;
    }
}

/* Of a sequence. */
static void reference(const struct problem *p, size_t b, const struct wanted *w, bool backward)
{
    size_t positions = p->first + p->n, dim = p->shape.head_dim, group = p->shape.heads / p->shape.kv_heads;
    size_t q_at = b * p->n * p->q_row, k_at = b * positions * p->k_row;
    void *ws = ref_alloc(llama_attention_backward_workspace(positions));
    double *probabilities = ref_alloc(2 * positions * sizeof *probabilities);

    llama_attention(w->value[OUT] + q_at, p->in[Q] + q_at, p->in[K] + k_at, p->in[V] + k_at, &p->shape, 0,
                    p->first, p->n, ws);
    if (backward)
        llama_attention_backward(w->value[DQ] + q_at, w->value[DK] + k_at, w->value[DV] + k_at,
                                 p->in[DOUT] + q_at, p->in[Q] + q_at, p->in[K] + k_at, p->in[V] + k_at,
                                 &p->shape, 0, p->n, ws);
    for (size_t h = 0; h < p->shape.heads; h++)
        for (size_t i = 0; i < p->n; i++) {
            size_t at = q_at + i * p->q_row + h * dim, from = k_at + h / group * dim;
            struct row r = {.q = p->in[Q] + at,
                            .dout = p->in[DOUT] + at,
                            .k = p->in[K] + from,
                            .v = p->in[V] + from,
                            .seen = p->first + i + 1,
                            .stride = p->k_row,
                            .dim = dim,
                            .p = probabilities};

            row_softmax(&r);
            w->lse[(b * p->shape.heads + h) * p->n + i] = (float)r.lse;
            if (p->dtype == OFL_BF16)
                row_squares(&r, w->value[OUT] + at,
                            (double *[RESULTS]){w->square[OUT] + at, w->square[DQ] + at, w->square[DK] + from,
                                                w->square[DV] + from},
                            backward);
        }
    free(ws);
    free(probabilities);
}

static struct wanted want(const struct problem *p, bool backward)
{
    struct wanted w = {.lse = ref_floats(p->batch * p->shape.heads * p->n)};

    for (int i = 0; i < RESULTS; i++) {
        size_t n = result_size(p, i);

        w.value[i] = ref_floats(n);
        w.square[i] = ref_alloc(n * sizeof(double));
        memset(w.square[i], 0, n * sizeof(double));
    }
    for (size_t b = 0; b < p->batch; b++)
        reference(p, b, &w, backward);
    return w;
}

static void wanted_free(struct wanted *w)
{
    for (int i = 0; i < RESULTS; i++) {
        free(w->value[i]);
        free(w->square[i]);
    }
    free(w->lse);
}

/* ---- comparison ------------------------------------------------------------------- */

static uint64_t digest; /* of all that was compared */

/* n numbers of dtype on the device, as float. To be freed. */
static float *fetch(struct gpu *g, const void *device, enum ofl_dtype dtype, size_t n)
{
    unsigned char *stored = ref_alloc(n * ofl_dtype_bytes(dtype));
    float *x = ref_floats(n);

    gpu_download(g, stored, device, n * ofl_dtype_bytes(dtype));
    for (size_t i = 0; i < n * ofl_dtype_bytes(dtype); i++)
        digest = (digest ^ stored[i]) * 0x100000001b3u;
    llama_widen(x, stored, dtype, n);
    free(stored);
    return x;
}

/* The first of n that is too far off; n: none. square NULL: nothing was rounded but the result. */
static size_t first_wrong(const float *got, const float *wanted, const double *square, size_t n,
                          enum ofl_dtype dtype, double least)
{
    double unit = dtype == OFL_BF16 ? BF16_UNIT : dtype == OFL_F16 ? F16_UNIT : 0;

    for (size_t i = 0; i < n; i++) {
        double x = (double)wanted[i], slack = least + unit * fabs(x);

        slack += square ? 4 * BF16_UNIT * sqrt(square[i]) : 0;
        if (!(fabs((double)got[i] - x) <= slack))
            return i;
    }
    return n;
}

/* As gpu_expect of llama_cuda_compare.h, with a slack for each number. */
static void expect(struct gpu *g, const struct problem *p, const char *what, const void *device,
                   enum ofl_dtype dtype, const float *wanted, const double *square, size_t n)
{
    float *got = fetch(g, device, dtype, n);
    double largest = gpu_largest(wanted, n), least = p->slack * largest + p->least;
    size_t wrong = first_wrong(got, wanted, square, n, dtype, least), at = ref_hash(n, 5) % n;

    if (wrong < n)
        fail_msg("%s of %s: number %zu of %zu is %.9g, not %.9g", what, describe(p), wrong, n,
                 (double)got[wrong], (double)wanted[wrong]);
    got[at] = wanted[at] + (float)(3 * least + largest * (dtype == OFL_F32 ? 0 : 0.05));
    got[at] += square ? (float)(8 * BF16_UNIT * sqrt(square[at])) : 0;
    if (first_wrong(got, wanted, square, n, dtype, least) != at)
        fail_msg("%s of %s: a falsified number is not noticed", what, describe(p));
    free(got);
}

/* ---- forward ----------------------------------------------------------------------- */

static void check_forward(struct gpu *g, struct problem *p)
{
    struct wanted w;

    upload(g, p);
    w = want(p, false);
    gpu_forward(g, p);
    expect(g, p, "output", p->result[OUT], p->dtype, w.value[OUT],
           has_rounded_terms(p, OUT) ? w.square[OUT] : NULL, result_size(p, OUT));
    expect(g, p, "log-sum-exp", p->lse, OFL_F32, w.lse, NULL, p->batch * p->shape.heads * p->n);
    wanted_free(&w);
    gpu_forget(g);
}

/* Every dim with every count; groups, cached positions and batches in turn. */
static void test_forward(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};
    struct gpu g;

    (void)state;
    gpu_open(&g, 1);
    for (size_t d = 0; d < COUNT(dims); d++)
        for (size_t c = 0; c < COUNT(counts); c++)
            for (size_t t = 0; t < 3; t++) {
                size_t turn = d + 3 * c + t, group = turn % COUNT(groups);
                struct problem p;

                if ((t == 2 && (d + c) % 2) || left_out(d, c, t))
                    continue; /* F16: every other one */
                p = problem_make(groups[group].heads, groups[group].kv_heads, dims[d], dtypes[t],
                                 1 + (turn / 4 + c) % 2, firsts[(turn / 2 + d + c) % COUNT(firsts)],
                                 counts[c]);
                check_forward(&g, &p);
                problem_free(&p);
            }
    gpu_close(&g);
}

/* Nobody asks for lse when there is no backward. */
static void test_forward_without_lse(void **state)
{
    struct gpu g;

    (void)state;
    gpu_open(&g, 1);
    for (size_t d = 2; d < 4; d++)
        for (size_t n = 1; n < 40; n += 19) {
            struct problem p = problem_make(2, 1, dims[d], OFL_BF16, 1, 3, n);
            float *with, *without;

            upload(&g, &p);
            gpu_forward(&g, &p);
            with = fetch(&g, p.result[OUT], p.dtype, result_size(&p, OUT));
            p.result[OUT] = gpu_room(&g, result_size(&p, OUT), p.dtype, 0);
            llama_cuda_attention(g.cuda, p.result[OUT], NULL, p.at[Q], p.at[K], p.at[V], p.dtype, &p.shape, 0,
                                 p.batch, p.first, p.n);
            without = fetch(&g, p.result[OUT], p.dtype, result_size(&p, OUT));
            assert_memory_equal(with, without, result_size(&p, OUT) * sizeof *with);
            free(with);
            free(without);
            problem_free(&p);
            gpu_forget(&g);
        }
    gpu_close(&g);
}

/* ---- backward ---------------------------------------------------------------------- */

static void check_backward(struct gpu *g, struct problem *p)
{
    static const char *const names[] = {"output", "dq", "dk", "dv"};
    struct wanted w;

    upload(g, p);
    w = want(p, true);
    gpu_forward(g, p);
    gpu_backward(g, p);
    for (int i = OUT; i < RESULTS; i++)
        expect(g, p, names[i], p->result[i], p->dtype, w.value[i],
               has_rounded_terms(p, i) ? w.square[i] : NULL, result_size(p, i));
    wanted_free(&w);
    gpu_forget(g);
}

static void test_backward(void **state)
{
    struct gpu g;

    (void)state;
    gpu_open(&g, 2);
    for (size_t d = 0; d < COUNT(dims); d++)
        for (size_t c = 0; c < COUNT(counts); c++)
            for (size_t t = 0; t < 2; t++) {
                size_t turn = d + 3 * c + t, group = turn % COUNT(groups);
                struct problem p;

                if (left_out(d, c, t))
                    continue;
                p = problem_make(groups[group].heads, groups[group].kv_heads, dims[d], t ? OFL_BF16 : OFL_F32,
                                 1 + (turn / 4 + c) % 2, 0, counts[c]);
                check_backward(&g, &p);
                problem_free(&p);
            }
    gpu_close(&g);
}

/* The loss whose gradients backward computes: sum(dout * out), in double. */
struct loss {
    const struct problem *p;
    double *in[INPUTS], *out;
};

static double loss_of(void *arg)
{
    struct loss *l = arg;
    double sum = 0;

    ref_attention(l->out, l->in[Q], l->in[K], l->in[V], &l->p->shape, l->p->n);
    for (size_t i = 0; i < l->p->n * l->p->q_row; i++)
        sum += l->out[i] * l->in[DOUT][i];
    return sum;
}

static void test_gradients_by_differences(void **state)
{
    static const char *const names[] = {"q", "k", "v"};
    struct problem p = problem_make(4, 2, 12, OFL_F32, 1, 0, 37);
    struct loss l = {.p = &p, .out = ref_alloc(p.n * p.q_row * sizeof(double))};
    struct gpu g;

    (void)state;
    gpu_open(&g, 3);
    upload(&g, &p);
    for (int i = 0; i < INPUTS; i++)
        l.in[i] = ref_double(p.in[i], sequence(&p, i));
    gpu_forward(&g, &p);
    gpu_backward(&g, &p);
    for (int i = Q; i <= V; i++) {
        size_t n = sequence(&p, i);
        float *grad = fetch(&g, p.result[DQ + i], OFL_F32, n);

        if (!ref_is_gradient(names[i], loss_of, &l, l.in[i], grad, n, F32_SLACK, false))
            fail_msg("gradient of %s", names[i]);
        for (size_t k = 0; k < n; k++)
            grad[k] *= 1.001f;
        assert_false(ref_is_gradient(names[i], loss_of, &l, l.in[i], grad, n, F32_SLACK, true));
        free(grad);
    }
    gpu_close(&g);
    for (int i = 0; i < INPUTS; i++)
        free(l.in[i]);
    free(l.out);
    problem_free(&p);
}

/* ---- extremes ------------------------------------------------------------------------ */

/* Scores in the thousands: softmax is nearly a choice of one key. f32 sums are off by about 2^-22 of the size
 * of their terms: scores, and so, relatively, probabilities; and dp - delta, which is near 0, times k. */
static void test_large_scores(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16};
    struct gpu g;

    (void)state;
    gpu_open(&g, 4);
    for (size_t d = 2; d < (light() ? 3 : 5); d++)
        for (size_t t = 0; t < 2; t++)
            for (size_t n = 3; n <= 70; n += 67) {
                struct problem p = problem_make(2, 1, dims[d], dtypes[t], 1, 0, n);

                for (int i = 0; i < INPUTS; i++)
                    for (size_t k = 0; k < sequence(&p, i); k++)
                        p.in[i][k] *= i == DOUT ? 1 : 30;
                p.slack = 900 * sqrt((double)dims[d]) * 8 * 0x1p-22;
                p.least = 30 * sqrt((double)dims[d]) * 8 * 0x1p-22 * 90;
                check_backward(&g, &p);
                problem_free(&p);
            }
    gpu_close(&g);
}

/* A head's NaN reaches its group's queries from there on, infinity is no worse, others stay as they are. */
static void check_specials(struct gpu *g, uint32_t dim, enum ofl_dtype dtype, size_t n, float special)
{
    struct problem p = problem_make(4, 2, dim, dtype, 1, 0, n);
    size_t at = n / 2;
    float *clean, *got;

    upload(g, &p);
    gpu_forward(g, &p);
    gpu_backward(g, &p);
    clean = fetch(g, p.result[OUT], dtype, n * p.q_row);
    p.in[K][at * p.k_row + 1] = special; /* kv head 0: query heads 0 and 1 */
    upload(g, &p);
    gpu_forward(g, &p);
    gpu_backward(g, &p);
    got = fetch(g, p.result[OUT], dtype, n * p.q_row);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < p.q_row; k++) {
            float x = got[i * p.q_row + k];

            if (i < at || k >= 2 * dim)
                assert_true(memcmp(&x, &clean[i * p.q_row + k], sizeof x) == 0);
            else if (isnan(special) && !isnan(x))
                fail_msg("%s: NaN did not reach query %zu", describe(&p), i);
        }
    gpu_sync(g);
    free(clean);
    free(got);
    problem_free(&p);
    gpu_forget(g);
}

static void test_specials(void **state)
{
    static const float specials[] = {NAN, INFINITY, -INFINITY};
    struct gpu g;

    (void)state;
    gpu_open(&g, 5);
    for (size_t s = 0; s < (light() ? 1 : 3); s++)
        for (size_t n = 4; n <= (light() ? 4 : 70); n += 66) {
            check_specials(&g, 64, OFL_BF16, n, specials[s]);
            check_specials(&g, 40, OFL_F32, n, specials[s]);
        }
    gpu_close(&g);
}

/* ---- bits ---------------------------------------------------------------------------- */

static const struct {
    uint32_t dim;
    enum ofl_dtype dtype;
    size_t n;
} paths[] = {
    /* Which bytes a path touches is seen in test_forward and test_backward: under sanitizers two of these will do. */
    {64, OFL_BF16, 150}, {128, OFL_BF16, 150}, {40, OFL_BF16, 70}, {40, OFL_F32, 70},
    {200, OFL_F32, 40},  {64, OFL_BF16, 3},    {33, OFL_F32, 4},
};

/* Keys and values behind a query: no bit of its output, nor of its lse, depends on them. */
static void test_causality(void **state)
{
    struct gpu g;

    (void)state;
    gpu_open(&g, 6);
    for (size_t c = light() ? 3 : 0; c < COUNT(paths); c += light() ? 3 : 1) {
        struct problem p = problem_make(4, 2, paths[c].dim, paths[c].dtype, 1, 5, paths[c].n);
        size_t from = p.n * 2 / 3; /* the first query that sees a change */
        float *before, *after;

        upload(&g, &p);
        gpu_forward(&g, &p);
        before = fetch(&g, p.result[OUT], p.dtype, p.n * p.q_row);
        for (size_t i = (p.first + from) * p.k_row; i < sequence(&p, K); i++) {
            p.in[K][i] *= -20;
            p.in[V][i] += 7;
        }
        upload(&g, &p);
        gpu_forward(&g, &p);
        after = fetch(&g, p.result[OUT], p.dtype, p.n * p.q_row);
        if (memcmp(before, after, from * p.q_row * sizeof *before) != 0)
            fail_msg("%s: a query's output depends on later keys", describe(&p));
        for (size_t i = from; i < p.n; i++)
            assert_true(memcmp(before + i * p.q_row, after + i * p.q_row, p.q_row * sizeof *before) != 0);
        free(before);
        free(after);
        problem_free(&p);
        gpu_forget(&g);
    }
    gpu_close(&g);
}

/* Forward and backward of sequences begin .. begin + batch - 1, as a digest of all results. */
static uint64_t bits_of(uint64_t seed, size_t path, size_t begin, size_t batch)
{
    struct problem p = problem_make(4, 2, paths[path].dim, paths[path].dtype, 3, 0, paths[path].n);
    uint64_t sum = 0;
    struct gpu g;

    for (int i = 0; i < INPUTS; i++)
        memmove(p.in[i], p.in[i] + begin * sequence(&p, i), batch * sequence(&p, i) * sizeof(float));
    p.batch = batch;
    gpu_open(&g, seed);
    upload(&g, &p);
    gpu_forward(&g, &p);
    gpu_backward(&g, &p);
    for (size_t b = 0; b < batch; b++) { /* a sequence's own digest, so that they add up */
        digest = 0;
        for (int i = OUT; i < RESULTS; i++) {
            size_t n = result_size(&p, i) / batch;

            free(fetch(&g, (char *)p.result[i] + b * n * ofl_dtype_bytes(p.dtype), p.dtype, n));
        }
        sum += digest;
    }
    gpu_close(&g);
    problem_free(&p);
    return sum;
}

static void test_bits(void **state)
{
    (void)state;
    for (size_t c = light() ? 3 : 0; c < COUNT(paths); c += light() ? 3 : 1) {
        uint64_t all = bits_of(1, c, 0, 2), first = bits_of(2, c, 0, 1), second = bits_of(3, c, 1, 1);

        if (all != first + second)
            fail_msg("path %zu: other bits in a batch, or in another order of threads", c);
        assert_true(first != second);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),      cmocka_unit_test(test_forward_without_lse),
        cmocka_unit_test(test_backward),     cmocka_unit_test(test_gradients_by_differences),
        cmocka_unit_test(test_large_scores), cmocka_unit_test(test_specials),
        cmocka_unit_test(test_causality),    cmocka_unit_test(test_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
