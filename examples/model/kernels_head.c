/*
 * Final norm, output head and cross-entropy, fused so that the logits of all rows and the whole
 * vocabulary never exist at once.
 *
 * The vocabulary is walked in slices: each slice of the head is widened, used for all rows and
 * left. A first walk finds each row's maximum and sum of exponentials, a second one makes the
 * gradients; so the head and its gradient cross the caches once per walk, however many rows
 * there are, at the price of computing the logits twice when there is more than one slice.
 */
#include <cblas.h>

#include "examples/model/kernels_inline.h"

struct head {
    size_t rows, hidden, vocab;
    float scale, cap; /* of logits; 0: none */
    size_t slice;     /* vocabulary entries at a time: a function of the shape, rows and dtype */
    float *normed, *logits, *max, *wide;
    double *sum;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Sets the sizes of h and takes its scratch. */
static void lay_out(struct head *h, struct llama_arena *a, const struct llama_shape *shape, size_t rows,
                    enum ofl_dtype dtype)
{
    size_t slice = LLAMA_LOGITS_BYTES / (rows * sizeof(float));

    if (dtype != OFL_F32)
        slice = min_size(slice, LLAMA_PANEL_BYTES / (shape->hidden * sizeof(float)));
    slice = slice < 16 ? 16 : slice - slice % 16;
    h->rows = rows;
    h->hidden = shape->hidden;
    h->vocab = shape->vocab;
    h->scale = shape->logit_scale;
    h->cap = shape->logit_cap;
    h->slice = min_size(slice, shape->vocab);
    h->normed = llama_take_floats(a, rows * h->hidden);
    h->logits = llama_take_floats(a, rows * h->slice);
    h->max = llama_take_floats(a, rows);
    h->sum = llama_take(a, rows * sizeof *h->sum);
    h->wide = llama_take(a, dtype == OFL_F32 ? h->hidden * sizeof(float)
                                             : llama_wide_bytes(h->slice * h->hidden, dtype));
}

size_t llama_head_workspace(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype)
{
    struct llama_arena a = {0};
    struct head h;

    lay_out(&h, &a, shape, rows, dtype);
    return a.peak;
}

/* The head's rows from .. from + n - 1 as a weight of their own, in f32. */
static struct llama_weight widen_slice(const struct head *h, struct llama_weight head, size_t from, size_t n)
{
    return (struct llama_weight){.data = llama_weight_rows(head, from, n, h->hidden, h->wide),
                                 .dtype = OFL_F32};
}

static void slice_logits(const struct head *h, struct llama_weight slice, size_t n)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)h->rows, (blasint)n, (blasint)h->hidden, 1,
                h->normed, (blasint)h->hidden, slice.data, (blasint)h->hidden, 0, h->logits, (blasint)n);
    if (h->cap > 0)
        llama_cap(h->logits, h->rows * n, h->cap);
}

static LLAMA_WIDE float exp_sum_of(const float *a, size_t n, float max)
{
    float lanes[LLAMA_LANES] = {0}, sum = 0;
    size_t i = 0;

    for (; i + LLAMA_LANES <= n; i += LLAMA_LANES)
        for (size_t l = 0; l < LLAMA_LANES; l++)
            lanes[l] += llama_exp(a[i + l] - max);
    for (; i < n; i++)
        sum += llama_exp(a[i] - max);
    for (size_t l = 0; l < LLAMA_LANES; l++)
        sum += lanes[l];
    return sum;
}

/* Takes the slice into each row's running maximum and sum; subtracts targets' logits from loss. */
static double add_slice(const struct head *h, size_t from, size_t n, const int32_t *targets)
{
    double loss = 0;

    for (size_t r = 0; r < h->rows; r++) {
        const float *row = h->logits + r * n;
        float max;

        if (targets[r] < 0)
            continue;
        max = llama_max(row, n);
        if (max > h->max[r]) {
            h->sum[r] *= llama_exp(h->max[r] - max);
            h->max[r] = max;
        }
        h->sum[r] += exp_sum_of(row, n, h->max[r]);
        if ((size_t)targets[r] >= from && (size_t)targets[r] < from + n)
            loss -= row[(size_t)targets[r] - from];
    }
    return loss;
}

static LLAMA_WIDE void to_gradient(float *row, size_t n, float max, float factor)
{
    for (size_t i = 0; i < n; i++)
        row[i] = llama_exp(row[i] - max) * factor;
}

/* From the gradient at capped logits, which overwrites them, to that before the cap. */
static LLAMA_WIDE void to_gradient_capped(float *row, size_t n, float max, float factor, float scale,
                                          size_t target, float cap)
{
    for (size_t i = 0; i < n; i++) {
        float t = row[i] / cap, g = llama_exp(row[i] - max) * factor;

        row[i] = (i == target ? g - scale : g) * (1.0f - t * t);
    }
}

/* Logits become the gradient of scale * loss at them: scale * (softmax - one at the target). */
static void slice_gradient(const struct head *h, size_t from, size_t n, const int32_t *targets, float scale)
{
    for (size_t r = 0; r < h->rows; r++) {
        float *row = h->logits + r * n;

        if (targets[r] < 0) {
            memset(row, 0, n * sizeof *row);
            continue;
        }
        if (h->cap > 0) {
            to_gradient_capped(row, n, h->max[r], (float)(scale / h->sum[r]), scale,
                               (size_t)targets[r] - from, h->cap);
            continue;
        }
        to_gradient(row, n, h->max[r], (float)(scale / h->sum[r]));
        if ((size_t)targets[r] >= from && (size_t)targets[r] < from + n)
            row[(size_t)targets[r] - from] -= scale;
    }
}

static double forward(const struct head *h, struct llama_weight head, const int32_t *targets)
{
    double loss = 0;

    for (size_t r = 0; r < h->rows; r++) {
        h->max[r] = -INFINITY;
        h->sum[r] = 0;
    }
    for (size_t from = 0; from < h->vocab; from += h->slice) {
        size_t n = min_size(h->slice, h->vocab - from);

        slice_logits(h, widen_slice(h, head, from, n), n);
        loss += add_slice(h, from, n, targets);
    }
    for (size_t r = 0; r < h->rows; r++)
        if (targets[r] >= 0)
            loss += log(h->sum[r]) + h->max[r];
    return loss;
}

/* dx becomes the gradient at the normed rows. A single slice's logits and weights are still there. */
static void backward(const struct head *h, struct llama_weight head, float *dhead, bool first,
                     const int32_t *targets, float scale, float *dx)
{
    for (size_t from = 0; from < h->vocab; from += h->slice) {
        size_t n = min_size(h->slice, h->vocab - from);
        bool kept = h->slice == h->vocab;
        struct llama_weight slice = kept && head.dtype != OFL_F32
                                        ? (struct llama_weight){.data = h->wide, .dtype = OFL_F32}
                                        : widen_slice(h, head, from, n);

        if (!kept)
            slice_logits(h, slice, n);
        slice_gradient(h, from, n, targets, scale);
        llama_matmul_dx(dx, h->logits, slice, h->rows, h->hidden, n, from > 0, NULL);
        if (dhead)
            llama_matmul_dw(dhead + from * h->hidden, h->logits, h->normed, h->rows, h->hidden, n, first);
    }
}

/* Scaled rows instead of scaled logits: there are fewer. */
static void norm_rows(const struct head *h, struct llama_weight norm, const float *x, float eps)
{
    llama_norm(h->normed, x, norm, h->rows, h->hidden, eps, h->wide);
    if (h->scale != 0)
        llama_scale(h->normed, h->rows * h->hidden, h->scale);
}

double llama_head_loss(const struct llama_shape *shape, size_t rows, const struct llama_head_weights *weights,
                       const struct llama_head_grads *grads, bool first, const float *x,
                       const int32_t *targets, float scale, float *dx, void *ws)
{
    struct llama_arena a = {.base = ws};
    struct head h;
    double loss;

    lay_out(&h, &a, shape, rows, weights->head.dtype);
    norm_rows(&h, weights->norm, x, shape->rms_eps);
    loss = forward(&h, weights->head, targets);
    if (dx) {
        backward(&h, weights->head, grads->head, first, targets, scale, dx);
        if (h.scale != 0)
            llama_scale(dx, rows * h.hidden, h.scale);
        llama_norm_backward(dx, grads->norm, dx, x, weights->norm, rows, h.hidden, shape->rms_eps, false,
                            first, h.wide);
    }
    return loss;
}

void llama_head_logits(const struct llama_shape *shape, const struct llama_slice *head, const float *x,
                       float *logits, void *ws)
{
    struct llama_arena a = {.base = ws};
    struct head h;

    lay_out(&h, &a, shape, 1, head->weight.dtype);
    if (head->from == 0)
        norm_rows(&h, head->norm, x, shape->rms_eps);
    llama_matmul(logits + head->from, h.normed, head->weight, 1, h.hidden, head->rows, head->rows, false,
                 h.wide);
    if (h.cap > 0)
        llama_cap(logits + head->from, head->rows, h.cap);
}
