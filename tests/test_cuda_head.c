/*
 * The loss on CUDA, as tests/test_cuda_kernels.c tests the other kernels. Proves:
 *  - cross-entropy of given logits and its gradient are a double reference's, over odd vocabularies and
 *    long ones, with extreme and infinite logits; NaN comes through; a negative target's row has neither;
 *  - the whole of it, norm, head and both products, is the CPU's in F32, and in BF16 and F16 what the
 *    CPU makes of numbers rounded where the GPU rounds; whatever the slices of rows;
 *  - `first` overwrites NaN, otherwise gradients are added to;
 *  - slices keep to their limit, and the scratch is no larger than measured (guard bytes).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/head_cuda.h"
#include "tests/llama_cuda_compare.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};

static int32_t *random_targets(size_t rows, size_t vocab)
{
    int32_t *targets = ref_alloc(rows * sizeof *targets);

    for (size_t r = 0; r < rows; r++)
        targets[r] = r % 5 == 3 ? -1 - (int32_t)r : (int32_t)(ref_hash(60, r) % vocab);
    return targets;
}

/* ---- cross-entropy of given logits -------------------------------------------------- */

/* losses, and where wanted the gradient of scale * loss, of rows of logits. */
static void reference(double *losses, float *grad, const float *logits, const int32_t *targets, size_t rows,
                      size_t vocab, float scale)
{
    for (size_t r = 0; r < rows; r++) {
        const float *row = logits + r * vocab;
        double max = -INFINITY, sum = 0;

        losses[r] = 0;
        for (size_t v = 0; v < vocab; v++)
            max = (double)row[v] > max ? (double)row[v] : max;
        for (size_t v = 0; v < vocab; v++)
            sum += exp((double)row[v] - max);
        if (targets[r] >= 0)
            losses[r] = log(sum) + max - (double)row[targets[r]];
        for (size_t v = 0; v < vocab; v++)
            grad[r * vocab + v] = targets[r] < 0
                                      ? 0
                                      : (float)((double)scale * (exp((double)row[v] - max) / sum -
                                                                 (targets[r] == (int32_t)v ? 1 : 0)));
    }
}

static bool is_loss(double got, double want)
{
    return isinf(want) ? got == want : fabs(got - want) <= 1e-6 * (1 + fabs(want));
}

static void expect_losses(struct gpu *g, const double *device, const double *want, size_t rows,
                          const char *what)
{
    double *got = ref_alloc(rows * sizeof *got);

    gpu_download(g, got, device, rows * sizeof *got);
    for (size_t r = 0; r < rows; r++)
        if (!(isnan(want[r]) ? isnan(got[r]) : is_loss(got[r], want[r])))
            fail_msg("%s: loss of row %zu is %.9g, not %.9g", what, r, got[r], want[r]);
    assert_false(isfinite(want[0]) && is_loss(want[0] + 3e-6 * (1 + fabs(want[0])), want[0]));
    free(got);
}

/* Overwrites the first rows by extremes: infinities, large numbers, all equal. */
static void add_extremes(float *logits, int32_t *targets, size_t rows, size_t vocab)
{
    for (size_t v = 0; v < vocab && rows > 5; v++) {
        if (v != (size_t)targets[0])
            logits[v] = -INFINITY; /* all but the target */
        logits[vocab + v] = 1e30f * (v % 2 ? 1.0f : -1.0f);
        logits[2 * vocab + v] = -80;
    }
    if (rows > 5 && vocab > 1) {
        logits[4 * vocab + (size_t)targets[4]] = -INFINITY; /* an infinite loss */
        logits[5 * vocab + vocab / 2] = NAN;
    }
}

static void check_cross_entropy(struct gpu *g, size_t rows, size_t vocab, enum ofl_dtype dtype, unsigned grid)
{
    size_t n = rows * vocab;
    float *logits = gpu_normal(n, 1, 5), *want = ref_floats(n), scale = 0.37f;
    int32_t *targets = random_targets(rows, vocab), *targets_at;
    double *losses = ref_alloc(rows * sizeof *losses), *losses_at, sum;
    float *logits_at, *loss_at;
    void *grad_at;
    uint64_t rows_arg = rows;
    uint32_t vocab_arg = (uint32_t)vocab, wide = vocab % 4 == 0;
    char what[128];

    snprintf(what, sizeof what, "cross-entropy of %zu x %zu, %s", rows, vocab, ofl_dtype_name(dtype));
    add_extremes(logits, targets, rows, vocab);
    reference(losses, want, logits, targets, rows, vocab, scale);
    targets_at = gpu_upload(g, targets, rows * 4);
    logits_at = gpu_put(g, logits, n, OFL_F32, 0);
    losses_at = gpu_blank(g, rows * sizeof *losses_at);
    grad_at = dtype == OFL_F32 ? logits_at : gpu_room(g, n, dtype, 0); /* in place, or not */
    llama_cuda_launch(
        g->cuda, &(struct llama_launch){"cross_entropy", dtype, {grid}, vocab > 4096 ? 1024 : 64, 0},
        (void *[]){&grad_at, &losses_at, &logits_at, &targets_at, &rows_arg, &vocab_arg, &scale, &wide});
    expect_losses(g, losses_at, losses, rows, what);
    gpu_expect(g, grad_at, dtype, want, n, (struct allowed){2e-6, 1e-7 * (double)scale}, "%s", what);
    loss_at = gpu_blank(g, sizeof sum);
    llama_cuda_launch(g->cuda, &(struct llama_launch){"loss_sum", OFL_F32, {1}, 256, 0},
                      (void *[]){&loss_at, &losses_at, &rows_arg});
    sum = 0;
    for (size_t r = 0; r < rows; r++)
        sum += losses[r];
    expect_losses(g, (double *)(void *)loss_at, &sum, 1, "sum of losses");
    gpu_forget(g);
    free(logits);
    free(want);
    free(targets);
    free(losses);
}

static void cross_entropies(struct gpu *g)
{
    static const size_t vocabs[] = {1, 7, 100, 1000, 1001};

    for (size_t v = 0; v < COUNT(vocabs); v++)
        for (size_t d = 0; d < 3; d++) {
            check_cross_entropy(g, 1, vocabs[v], dtypes[d], 1);
            check_cross_entropy(g, 17, vocabs[v], dtypes[d], d == 1 ? 5 : 17);
        }
    check_cross_entropy(g, 2, 16404, OFL_BF16, 2); /* two batches */
    check_cross_entropy(g, 6, 32771, OFL_F32, 6);
    check_cross_entropy(g, 300, 3, OFL_F32, 300);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    gpu_twice(cross_entropies);
}

/* cuBLAS demands some. */
static void add_scratch(struct gpu *g, const struct llama_shape *shape)
{
    size_t bytes = llama_cuda_scratch_bytes(shape);

    llama_cuda_set_scratch(g->cuda, gpu_blank(g, bytes), bytes);
}

/* ---- the whole loss ------------------------------------------------------------------- */

struct loss_case {
    size_t rows;
    uint32_t hidden, vocab;
    size_t slice; /* rows; 0: all */
    bool first;
};

static const struct loss_case loss_cases[] = {
    {1, 8, 7, 0, true},      {3, 33, 100, 0, false},  {17, 64, 1000, 5, true},   {17, 100, 7, 1, false},
    {64, 288, 100, 0, true}, {200, 16, 33, 64, true}, {130, 8, 100, 100, false},
};

/* What both sides are given, rounded to what the GPU sees; and what the CPU makes of it. */
struct loss {
    struct llama_shape shape;
    size_t rows, hidden, vocab;
    enum ofl_dtype dtype;
    float *x, *norm, *head, *dx, *dnorm, *dhead, *normed, *logits, *logits_grad;
    int32_t *targets;
    double *losses, sum;
};

static void round_to(float *x, size_t n, enum ofl_dtype dtype)
{
    uint16_t *half = ref_alloc(n * 2);

    if (dtype == OFL_BF16)
        llama_to_bf16(half, x, n);
    else if (dtype == OFL_F16)
        llama_to_f16(half, x, n);
    if (dtype != OFL_F32)
        llama_widen(x, half, dtype, n);
    free(half);
}

static void loss_make(struct loss *l, const struct loss_case *c, enum ofl_dtype dtype)
{
    l->rows = c->rows;
    l->hidden = c->hidden;
    l->vocab = c->vocab;
    l->dtype = dtype;
    l->shape = (struct llama_shape){.hidden = c->hidden, .vocab = c->vocab, .rms_eps = 1e-5f};
    l->x = gpu_normal(l->rows * l->hidden, 1, 1);
    l->norm = gpu_normal(l->hidden, 2, 1);
    l->head = gpu_normal(l->vocab * l->hidden, 3, 0.3f);
    l->dx = ref_floats(l->rows * l->hidden);
    l->dnorm = gpu_normal(l->hidden, 4, 1);
    l->dhead = gpu_normal(l->vocab * l->hidden, 5, 1);
    l->normed = ref_floats(l->rows * l->hidden);
    l->logits = ref_floats(l->rows * l->vocab);
    l->logits_grad = ref_floats(l->rows * l->vocab);
    l->targets = random_targets(l->rows, l->vocab);
    l->losses = ref_alloc(l->rows * sizeof *l->losses);
    round_to(l->norm, l->hidden, dtype);
    round_to(l->head, l->vocab * l->hidden, dtype);
}

static void loss_free(struct loss *l)
{
    float *all[] = {l->x, l->norm, l->head, l->dx, l->dnorm, l->dhead, l->normed, l->logits, l->logits_grad};

    for (size_t i = 0; i < COUNT(all); i++)
        free(all[i]);
    free(l->targets);
    free(l->losses);
}

/* On the CPU, rounded where the GPU rounds. */
static void loss_reference(struct loss *l, float scale, bool first)
{
    struct llama_weight norm = {.data = l->norm, .dtype = OFL_F32},
                        head = {.data = l->head, .dtype = OFL_F32};
    float *ws = ref_alloc(llama_norm_workspace(l->hidden));

    llama_norm(l->normed, l->x, norm, l->rows, l->hidden, l->shape.rms_eps, ws);
    round_to(l->normed, l->rows * l->hidden, l->dtype);
    llama_matmul(l->logits, l->normed, head, l->rows, l->hidden, l->vocab, l->vocab, false, NULL);
    reference(l->losses, l->logits_grad, l->logits, l->targets, l->rows, l->vocab, scale);
    round_to(l->logits_grad, l->rows * l->vocab, l->dtype);
    llama_matmul_dx(l->dx, l->logits_grad, head, l->rows, l->hidden, l->vocab, false, NULL);
    llama_matmul_dw(l->dhead, l->logits_grad, l->normed, l->rows, l->hidden, l->vocab, first);
    llama_norm_backward(l->dx, l->dnorm, l->dx, l->x, norm, l->rows, l->hidden, l->shape.rms_eps, false,
                        first, ws);
    l->sum = 0;
    for (size_t r = 0; r < l->rows; r++)
        l->sum += l->losses[r];
    free(ws);
}

/* A number that rounds the other way on the GPU moves a gradient by a unit of the format. */
static struct allowed allowed_of(const struct loss *l, const float *want, size_t n)
{
    double noise = l->dtype == OFL_F32 ? 5e-6 : l->dtype == OFL_BF16 ? 4e-3 : 5e-4;

    return (struct allowed){0, noise * gpu_largest(want, n)};
}

static void expect_loss(struct gpu *g, const struct loss *l, const double *device, const char *what)
{
    double got, slack = (l->dtype == OFL_F32 ? 1e-6 : 1e-3) * (1 + fabs(l->sum));

    gpu_download(g, &got, device, sizeof got);
    if (!(fabs(got - l->sum) <= slack))
        fail_msg("%s: loss %.9g, not %.9g", what, got, l->sum);
    assert_false(fabs(got * 1.01 + 0.01 - l->sum) <= slack);
}

static void check_loss(struct gpu *g, const struct loss_case *c, enum ofl_dtype dtype,
                       enum ofl_dtype norm_dtype)
{
    size_t limit = c->slice ? c->slice * c->vocab * sizeof(float) + 3 : LLAMA_CUDA_LOGITS_BYTES, nx, nh;
    struct llama_head_weights weights;
    struct llama_head_grads grads;
    struct loss l;
    const float scale = 0.75f;
    double *loss = gpu_blank(g, sizeof *loss);
    void *x, *targets, *dx, *ws;
    char what[128];

    loss_make(&l, c, dtype);
    add_scratch(g, &l.shape);
    nx = l.rows * l.hidden;
    nh = l.vocab * l.hidden;
    weights.norm =
        (struct llama_weight){.data = gpu_put(g, l.norm, l.hidden, norm_dtype, 0), .dtype = norm_dtype};
    weights.head = (struct llama_weight){.data = gpu_put(g, l.head, nh, dtype, 0), .dtype = dtype};
    x = gpu_put(g, l.x, nx, OFL_F32, 0);
    targets = gpu_upload(g, l.targets, l.rows * 4);
    dx = gpu_room(g, nx, OFL_F32, 0);
    grads.norm = c->first ? gpu_room(g, l.hidden, OFL_F32, 0) : gpu_put(g, l.dnorm, l.hidden, OFL_F32, 0);
    grads.head = c->first ? gpu_room(g, nh, OFL_F32, 0) : gpu_put(g, l.dhead, nh, OFL_F32, 0);
    ws = gpu_blank(g, llama_cuda_head_bytes_within(&l.shape, l.rows, dtype, limit));
    loss_reference(&l, scale, c->first);
    snprintf(what, sizeof what, "loss case %d, %s", (int)(c - loss_cases), ofl_dtype_name(dtype));
    llama_cuda_head_loss_within(g->cuda, loss, dtype, &l.shape, l.rows, &weights, NULL, c->first, x, targets,
                                0, NULL, ws, limit);
    expect_loss(g, &l, loss, what);
    llama_cuda_head_loss_within(g->cuda, loss, dtype, &l.shape, l.rows, &weights, &grads, c->first, x,
                                targets, scale, dx, ws, limit);
    expect_loss(g, &l, loss, what);
    gpu_expect(g, dx, OFL_F32, l.dx, nx, allowed_of(&l, l.dx, nx), "%s, dx", what);
    gpu_expect(g, grads.norm, OFL_F32, l.dnorm, l.hidden, allowed_of(&l, l.dnorm, l.hidden), "%s, norm",
               what);
    gpu_expect(g, grads.head, OFL_F32, l.dhead, nh, allowed_of(&l, l.dhead, nh), "%s, head", what);
    gpu_forget(g);
    loss_free(&l);
}

static void losses(struct gpu *g)
{
    for (size_t c = 0; c < COUNT(loss_cases); c++)
        for (size_t d = 0; d < 3; d++)
            check_loss(g, &loss_cases[c], dtypes[d], d ? dtypes[c % 2 ? d : 0] : OFL_F32);
}

static void test_loss(void **state)
{
    (void)state;
    gpu_twice(losses);
}

/* The CPU's own function, with the limit that programs have. */
static void loss_like_the_cpus(struct gpu *g)
{
    struct llama_head_weights cpu, gpu;
    struct llama_head_grads cpu_grads, gpu_grads;
    struct loss l;
    double *loss = gpu_blank(g, sizeof *loss);
    void *dx, *ws, *cpu_ws, *x, *logits;

    loss_make(&l, &loss_cases[2], OFL_F32);
    add_scratch(g, &l.shape);
    cpu = (struct llama_head_weights){{.data = l.norm, .dtype = OFL_F32}, {.data = l.head, .dtype = OFL_F32}};
    cpu_grads = (struct llama_head_grads){l.dnorm, l.dhead};
    cpu_ws = ref_alloc(llama_head_workspace(&l.shape, l.rows, OFL_F32));
    gpu.norm = (struct llama_weight){.data = gpu_put(g, l.norm, l.hidden, OFL_F32, 0), .dtype = OFL_F32};
    gpu.head =
        (struct llama_weight){.data = gpu_put(g, l.head, l.vocab * l.hidden, OFL_F32, 0), .dtype = OFL_F32};
    gpu_grads.norm = gpu_room(g, l.hidden, OFL_F32, 0);
    gpu_grads.head = gpu_room(g, l.vocab * l.hidden, OFL_F32, 0);
    dx = gpu_room(g, l.rows * l.hidden, OFL_F32, 0);
    x = gpu_put(g, l.x, l.rows * l.hidden, OFL_F32, 0);
    ws = gpu_blank(g, llama_cuda_head_bytes(&l.shape, l.rows, OFL_F32));
    l.sum = llama_head_loss(&l.shape, l.rows, &cpu, &cpu_grads, true, l.x, l.targets, 0.5f, l.dx, cpu_ws);
    llama_cuda_head_loss(g->cuda, loss, OFL_F32, &l.shape, l.rows, &gpu, &gpu_grads, true, x,
                         gpu_upload(g, l.targets, l.rows * 4), 0.5f, dx, ws);
    expect_loss(g, &l, loss, "as the CPU");
    gpu_expect(g, dx, OFL_F32, l.dx, l.rows * l.hidden, allowed_of(&l, l.dx, l.rows * l.hidden), "dx");
    gpu_expect(g, gpu_grads.norm, OFL_F32, l.dnorm, l.hidden, allowed_of(&l, l.dnorm, l.hidden), "norm");
    gpu_expect(g, gpu_grads.head, OFL_F32, l.dhead, l.vocab * l.hidden,
               allowed_of(&l, l.dhead, l.vocab * l.hidden), "head");
    ws = gpu_blank(g, llama_cuda_head_bytes(&l.shape, 1, OFL_F32));
    logits = gpu_room(g, l.vocab, OFL_F32, 0);
    for (size_t from = 0, n = l.vocab / 2 + 1; from < l.vocab; from += n) { /* in two slices */
        size_t count = l.vocab - from < n ? l.vocab - from : n;
        struct llama_slice on_cpu = {.from = from,
                                     .rows = count,
                                     .weight = {.data = l.head + from * l.hidden, .dtype = OFL_F32},
                                     .norm = cpu.norm};
        struct llama_slice on_gpu = {
            .from = from,
            .rows = count,
            .weight = {.data = (const float *)gpu.head.data + from * l.hidden, .dtype = OFL_F32},
            .norm = gpu.norm};

        llama_head_logits(&l.shape, &on_cpu, l.x, l.logits, cpu_ws);
        llama_cuda_head_logits(g->cuda, OFL_F32, &l.shape, &on_gpu, x, logits, ws);
    }
    gpu_expect(g, logits, OFL_F32, l.logits, l.vocab, allowed_of(&l, l.logits, l.vocab), "logits");
    free(cpu_ws);
    loss_free(&l);
}

static void test_loss_like_the_cpus(void **state)
{
    (void)state;
    gpu_twice(loss_like_the_cpus);
}

/* Scratch grows with the rows up to the limit, then stays. */
static void test_limit(void **state)
{
    static const struct {
        uint32_t vocab;
        size_t rows, slice; /* rows of logits that there is room for */
    } cases[] = {{128256, 8192, 512}, {32000, 8192, 2048}, {128256, 523, 523},
                 {128256, 524, 320},  {1u << 25, 3, 2},    {1u << 27, 3, 1}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct llama_shape shape = {.hidden = 64, .vocab = cases[i].vocab};
        size_t rows = cases[i].rows, bytes = llama_cuda_head_bytes(&shape, rows, OFL_BF16),
               logits = cases[i].slice * cases[i].vocab * 6, /* and their gradient */
            rest = rows * (64 * 2 + 8) + llama_cuda_norm_backward_bytes(rows, 64);

        assert_true(bytes >= logits + rest && bytes < logits + rest + 1024);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_loss_like_the_cpus),
        cmocka_unit_test(test_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
