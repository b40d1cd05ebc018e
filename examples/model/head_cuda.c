/*
 * Final norm, output head and cross-entropy on a GPU, by slices of rows: a slice's logits are made,
 * turned into its gradient at them, and used for both products before the next slice's take their
 * place. Unlike on the CPU nothing is computed twice: a row has all its logits at once.
 */
#include "examples/model/head_cuda.h"

#include "examples/model/kernels_cuda_inline.h"
#include "examples/model/kernels_inline.h"

#define SLICE_ROWS 64 /* slices are multiples of it, where they hold as many: whole tiles for cuBLAS */

struct head {
    const struct llama_shape *shape;
    enum ofl_dtype dtype;
    size_t rows, slice; /* rows at a time */
    char *normed, *dlogits;
    float *logits;
    double *losses; /* [rows] */
    void *norm_ws;
    float *vector; /* the norm's weight with its offset */
};

/* As few slices as the limit allows, and as equal as may be. */
static size_t slice_rows(size_t vocab, size_t rows, size_t logits_bytes)
{
    size_t most = logits_bytes / (vocab * sizeof(float)), slices, slice;

    if (most == 0)
        return 1;
    if (rows <= most)
        return rows;
    if (most < SLICE_ROWS)
        return most;
    most -= most % SLICE_ROWS;
    slices = (rows + most - 1) / most;
    slice = (rows + slices - 1) / slices;
    return (slice + SLICE_ROWS - 1) / SLICE_ROWS * SLICE_ROWS;
}

/* The gradient takes the place of the logits where both are f32, and nobody needs these after. */
static size_t lay_out(struct head *h, struct llama_arena *a, size_t logits_bytes)
{
    size_t bytes = ofl_dtype_bytes(h->dtype), n;

    h->slice = slice_rows(h->shape->vocab, h->rows, logits_bytes);
    n = h->slice * h->shape->vocab;
    h->normed = llama_take(a, h->rows * h->shape->hidden * bytes);
    h->losses = llama_take(a, h->rows * sizeof *h->losses);
    h->norm_ws = llama_take(a, llama_cuda_norm_backward_bytes(h->rows, h->shape->hidden));
    h->logits = llama_take_floats(a, n);
    h->dlogits =
        h->dtype == OFL_F32 && h->shape->logit_cap == 0 ? (char *)h->logits : llama_take(a, n * bytes);
    if (h->shape->norm_offset != 0)
        h->vector = llama_take_floats(a, h->shape->hidden);
    return a->peak;
}

size_t llama_cuda_head_bytes_within(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype,
                                    size_t logits_bytes)
{
    struct head h = {.shape = shape, .dtype = dtype, .rows = rows};
    struct llama_arena a = {0};

    return lay_out(&h, &a, logits_bytes);
}

size_t llama_cuda_head_bytes(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype)
{
    return llama_cuda_head_bytes_within(shape, rows, dtype, LLAMA_CUDA_LOGITS_BYTES);
}

/* As kernels take it. */
static struct llama_weight usable(struct llama_cuda *c, struct llama_weight w, float *vector, size_t n)
{
    if (w.offset == 0)
        return w;
    llama_cuda_widen(c, vector, w.data, w.dtype, n, w.offset);
    return (struct llama_weight){.data = vector, .dtype = OFL_F32};
}

/* Scaled rows instead of scaled logits: there are fewer. */
static void norm_rows(struct llama_cuda *c, void *normed, enum ofl_dtype dtype,
                      const struct llama_shape *shape, const float *x, struct llama_weight w, size_t rows)
{
    llama_cuda_norm(c, normed, dtype, x, w, rows, shape->hidden, shape->rms_eps);
    if (shape->logit_scale != 0)
        llama_cuda_scale(c, normed, dtype, shape->logit_scale, rows * shape->hidden);
}

/* The losses of n rows from `from` on, from their logits; with grad the logits' gradient, in dlogits. */
static void cross_entropy(struct llama_cuda *c, struct head *h, size_t from, size_t n, const int32_t *targets,
                          float scale, bool with_grad)
{
    void *grad = with_grad ? h->dlogits : NULL;
    double *losses = h->losses + from;
    const int32_t *slice_targets = targets + from;
    uint64_t rows = n;
    uint32_t vocab = h->shape->vocab, wide = vocab % 4 == 0; /* scratch is aligned */
    size_t quads = (vocab + 3) / 4, warps = (quads + LLAMA_CUDA_WARP - 1) / LLAMA_CUDA_WARP;
    struct llama_launch launch = {"cross_entropy", h->dtype, {llama_cuda_grid(rows)}, LLAMA_CUDA_THREADS, 0};

    if (warps * LLAMA_CUDA_WARP < LLAMA_CUDA_THREADS)
        launch.threads = (unsigned)(warps * LLAMA_CUDA_WARP);
    llama_cuda_launch(c, &launch,
                      (void *[]){&grad, &losses, &h->logits, &slice_targets, &rows, &vocab, &scale, &wide});
}

static void sum_losses(struct llama_cuda *c, struct head *h, double *loss)
{
    struct llama_launch launch = {"loss_sum", OFL_F32, {1}, 256, 0}; /* LOSS_THREADS */
    uint64_t rows = h->rows;

    llama_cuda_launch(c, &launch, (void *[]){&loss, &h->losses, &rows});
}

void llama_cuda_head_loss_within(struct llama_cuda *c, double *loss, enum ofl_dtype dtype,
                                 const struct llama_shape *shape, size_t rows,
                                 const struct llama_head_weights *weights,
                                 const struct llama_head_grads *grads, bool first, const float *x,
                                 const int32_t *targets, float scale, float *dx, void *ws,
                                 size_t logits_bytes)
{
    size_t hidden = shape->hidden, vocab = shape->vocab, row_bytes = hidden * ofl_dtype_bytes(dtype);
    struct head h = {.shape = shape, .dtype = dtype, .rows = rows};
    struct llama_arena a = {.base = ws};

    lay_out(&h, &a, logits_bytes);
    norm_rows(c, h.normed, dtype, shape, x, usable(c, weights->norm, h.vector, hidden), rows);
    for (size_t from = 0; from < rows; from += h.slice) {
        size_t n = rows - from < h.slice ? rows - from : h.slice;
        const char *normed = h.normed + from * row_bytes;

        llama_cuda_matmul(c, h.logits, OFL_F32, normed, weights->head.data, dtype, n, hidden, vocab, vocab,
                          false);
        if (shape->logit_cap > 0)
            llama_cuda_cap(c, h.logits, shape->logit_cap, n * vocab);
        cross_entropy(c, &h, from, n, targets, scale, dx != NULL);
        if (!dx)
            continue;
        if (shape->logit_cap > 0)
            llama_cuda_cap_backward(c, h.dlogits, dtype, h.logits, shape->logit_cap, n * vocab);
        llama_cuda_matmul_dx(c, dx + from * hidden, OFL_F32, h.dlogits, weights->head.data, dtype, n, hidden,
                             vocab, false);
        llama_cuda_matmul_dw(c, grads->head, h.dlogits, normed, dtype, n, hidden, vocab, first && from == 0);
    }
    sum_losses(c, &h, loss);
    if (dx && shape->logit_scale != 0)
        llama_cuda_scale(c, dx, OFL_F32, shape->logit_scale, rows * hidden);
    if (dx)
        llama_cuda_norm_backward(c, dx, grads->norm, dx, x, usable(c, weights->norm, h.vector, hidden), rows,
                                 hidden, shape->rms_eps, false, first, h.norm_ws);
}

void llama_cuda_head_loss(struct llama_cuda *c, double *loss, enum ofl_dtype dtype,
                          const struct llama_shape *shape, size_t rows,
                          const struct llama_head_weights *weights, const struct llama_head_grads *grads,
                          bool first, const float *x, const int32_t *targets, float scale, float *dx,
                          void *ws)
{
    llama_cuda_head_loss_within(c, loss, dtype, shape, rows, weights, grads, first, x, targets, scale, dx, ws,
                                LLAMA_CUDA_LOGITS_BYTES);
}

void llama_cuda_head_logits(struct llama_cuda *c, enum ofl_dtype dtype, const struct llama_shape *shape,
                            const struct llama_slice *head, const float *x, float *logits, void *ws)
{
    struct head h = {.shape = shape, .dtype = dtype, .rows = 1};
    struct llama_arena a = {.base = ws};

    lay_out(&h, &a, LLAMA_CUDA_LOGITS_BYTES);
    if (head->from == 0)
        norm_rows(c, h.normed, dtype, shape, x, usable(c, head->norm, h.vector, shape->hidden), 1);
    llama_cuda_matmul(c, logits + head->from, OFL_F32, h.normed, head->weight.data, dtype, 1, shape->hidden,
                      head->rows, head->rows, false);
    if (shape->logit_cap > 0)
        llama_cuda_cap(c, logits + head->from, shape->logit_cap, head->rows);
}
