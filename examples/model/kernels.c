/*
 * Matrices, biases, norms, gated units and the embedding. See kernels.h for the rules all kernels keep.
 *
 * Matrix products are OpenBLAS's sgemm, but for a single row (kernels_row.c): there every weight is read once
 * and packing it would cost more than using it.
 */
#include <cblas.h>

#include "examples/model/kernels_inline.h"
#include "examples/model/kernels_row.h"

/* ---- helpers shared with the other files --------------------------------- */

LLAMA_WIDE float llama_exp_sum(float *a, size_t n, float max)
{
    for (size_t i = 0; i < n; i++)
        a[i] = llama_exp(a[i] - max);
    return llama_sum(a, n);
}

LLAMA_WIDE void llama_scale(float *a, size_t n, float c)
{
    for (size_t i = 0; i < n; i++)
        a[i] *= c;
}

LLAMA_WIDE void llama_add_scaled(float *y, const float *x, float c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += c * x[i];
}

LLAMA_WIDE void llama_cap(float *a, size_t n, float cap)
{
    for (size_t i = 0; i < n; i++)
        a[i] = cap * llama_tanh(a[i] / cap);
}

/* ---- matrices ------------------------------------------------------------ */

/* Rows of [out, in] that are widened at a time. A function of the shape alone: it decides the
 * order of sums. Multiples of 16 suit the BLAS kernels. */
static size_t panel_rows(size_t in, size_t out)
{
    size_t rows = LLAMA_PANEL_BYTES / (in * sizeof(float));

    if (rows >= out)
        return out;
    if (rows >= 16)
        rows -= rows % 16;
    return rows ? rows : 1;
}

size_t llama_matmul_workspace(size_t in, size_t out, enum ofl_dtype dtype)
{
    size_t most = LLAMA_PANEL_BYTES / (in * sizeof(float)), rows = most ? most : 1;

    return llama_wide_bytes((rows < out ? rows : out) * in, dtype);
}

size_t llama_wide_bytes(size_t n, enum ofl_dtype dtype)
{
    return dtype == OFL_F32 ? 0
                            : n * (llama_is_packed(dtype) ? 6 : sizeof(float)); /* as llama_unpack wants it */
}

/* On this thread: where products follow, OpenBLAS's threads stay awake, and a helper beside them waits for a core in the
 * middle of its part (a prompt of 339 tokens: 3.3 s with widening on all threads, 2.8 s without). */
const float *llama_weight_rows(struct llama_weight w, size_t row, size_t rows, size_t in, void *ws)
{
    if (w.packed)
        llama_unpack(ws, w.packed, row, rows);
    else if (w.dtype == OFL_F32)
        return llama_weight_row(w, row, in);
    else
        llama_widen(ws, llama_weight_row(w, row, in), w.dtype, rows * in);
    return ws;
}

void llama_matmul(float *y, const float *x, struct llama_weight w, size_t rows, size_t in, size_t out,
                  size_t stride, bool accumulate, void *ws)
{
    size_t step = w.dtype == OFL_F32 ? out : panel_rows(in, out);

    if (rows == 1) {
        llama_matmul_row(y, x, w, in, out, accumulate, ws);
        return;
    }
    for (size_t j = 0; j < out; j += step) {
        size_t n = out - j < step ? out - j : step;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)n, (blasint)in, 1, x,
                    (blasint)in, llama_weight_rows(w, j, n, in, ws), (blasint)in, accumulate ? 1 : 0, y + j,
                    (blasint)stride);
    }
}

void llama_matmul_dx(float *dx, const float *dy, struct llama_weight w, size_t rows, size_t in, size_t out,
                     bool accumulate, void *ws)
{
    size_t step = w.dtype == OFL_F32 ? out : panel_rows(in, out);

    for (size_t j = 0; j < out; j += step) {
        size_t n = out - j < step ? out - j : step;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)in, (blasint)n, 1,
                    dy + j, (blasint)out, llama_weight_rows(w, j, n, in, ws), (blasint)in,
                    accumulate || j ? 1 : 0, dx, (blasint)in);
    }
}

void llama_matmul_dw(float *dw, const float *dy, const float *x, size_t rows, size_t in, size_t out,
                     bool first)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)out, (blasint)in, (blasint)rows, 1, dy,
                (blasint)out, x, (blasint)in, first ? 0 : 1, dw, (blasint)in);
}

/* ---- biases -------------------------------------------------------------- */

void llama_bias(float *y, struct llama_weight bias, size_t rows, size_t out, void *ws)
{
    const float *b = llama_weight_rows(bias, 0, 1, out, ws);

    for (size_t r = 0; r < rows; r++)
        llama_add_scaled(y + r * out, b, 1, out);
}

void llama_bias_backward(float *db, const float *dy, size_t rows, size_t out, bool first)
{
    if (first)
        memset(db, 0, out * sizeof *db);
    for (size_t r = 0; r < rows; r++)
        llama_add_scaled(db, dy + r * out, 1, out);
}

/* ---- RMSNorm ------------------------------------------------------------- */

size_t llama_norm_workspace(size_t hidden)
{
    return hidden * sizeof(float);
}

/* As it is used: in f32, offset added. */
static const float *norm_weight(struct llama_weight w, size_t hidden, float *ws)
{
    if (w.offset == 0)
        return llama_weight_rows(w, 0, 1, hidden, ws);
    llama_widen(ws, w.data, w.dtype, hidden);
    for (size_t i = 0; i < hidden; i++)
        ws[i] += w.offset;
    return ws;
}

LLAMA_INLINE float row_rstd(const float *x, size_t hidden, float eps)
{
    return 1.0f / sqrtf(llama_dot(x, x, hidden) / (float)hidden + eps);
}

static LLAMA_WIDE void norm_rows(float *y, const float *x, const float *w, size_t rows, size_t hidden,
                                 float eps)
{
    for (size_t r = 0; r < rows; r++, x += hidden, y += hidden) {
        float rstd = row_rstd(x, hidden, eps);

        for (size_t i = 0; i < hidden; i++)
            y[i] = w[i] * (x[i] * rstd);
    }
}

void llama_norm(float *y, const float *x, struct llama_weight w, size_t rows, size_t hidden, float eps,
                void *ws)
{
    norm_rows(y, x, norm_weight(w, hidden, ws), rows, hidden, eps);
}

/*
 * With r = rstd and h = hidden:  dx_i = r w_i dy_i - x_i r^3 / h sum_k(w_k dy_k x_k).
 * A row's dy is read in full before its dx is written, so that dx may be dy; or x, of which an element is read last for
 * its own dx.
 */
static LLAMA_WIDE void norm_backward_rows(float *dx, float *dw, const float *dy, const float *x,
                                          const float *w, size_t rows, size_t hidden, float eps,
                                          bool accumulate)
{
    for (size_t r = 0; r < rows; r++, x += hidden, dy += hidden, dx += hidden) {
        float rstd = row_rstd(x, hidden, eps), tail = 0, back;
        llama_lanes lanes = {0};
        size_t i = 0;

        for (; i + LLAMA_LANES <= hidden; i += LLAMA_LANES)
            lanes += *(const llama_lanes *)(w + i) * *(const llama_lanes *)(dy + i) *
                     *(const llama_lanes *)(x + i);
        for (; i < hidden; i++)
            tail += w[i] * dy[i] * x[i];
        back = (llama_lane_sum(&lanes) + tail) * rstd * rstd * rstd / (float)hidden;
        for (i = 0; dw && i < hidden; i++)
            dw[i] += dy[i] * (x[i] * rstd);
        if (accumulate)
            for (i = 0; i < hidden; i++)
                dx[i] += rstd * (w[i] * dy[i]) - x[i] * back;
        else
            for (i = 0; i < hidden; i++)
                dx[i] = rstd * (w[i] * dy[i]) - x[i] * back;
    }
}

void llama_norm_backward(float *dx, float *dw, const float *dy, const float *x, struct llama_weight w,
                         size_t rows, size_t hidden, float eps, bool accumulate, bool first, void *ws)
{
    if (dw && first)
        memset(dw, 0, hidden * sizeof *dw);
    norm_backward_rows(dx, dw, dy, x, norm_weight(w, hidden, ws), rows, hidden, eps, accumulate);
}

/* ---- gated units --------------------------------------------------------- */

static LLAMA_WIDE void swiglu(float *act, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        act[i] = gate[i] / (1.0f + llama_exp(-gate[i])) * up[i];
}

static LLAMA_WIDE void swiglu_backward(float *gate, float *up, const float *dact, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dact[i];
        float s = 1.0f / (1.0f + llama_exp(-g));

        gate[i] = d * u * (s * (1.0f + g * (1.0f - s)));
        up[i] = d * (g * s);
    }
}

/* (1 + tanh(z)) / 2 = 1 / (1 + e^-2z), z = sqrt(2 / pi) (g + 0.044715 g^3) */
#define GELU_ROOT  0.79788456f
#define GELU_CUBIC 0.044715f

static LLAMA_WIDE void geglu_tanh(float *act, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], z = GELU_ROOT * (g + GELU_CUBIC * g * g * g);

        act[i] = g / (1.0f + llama_exp(-2.0f * z)) * up[i];
    }
}

static LLAMA_WIDE void geglu_tanh_backward(float *gate, float *up, const float *dact, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dact[i], z = GELU_ROOT * (g + GELU_CUBIC * g * g * g);
        float s = 1.0f / (1.0f + llama_exp(-2.0f * z)),
              slope = GELU_ROOT * (1.0f + 3.0f * GELU_CUBIC * g * g);

        gate[i] = d * u * (s + g * s * (1.0f - s) * 2.0f * slope);
        up[i] = d * (g * s);
    }
}

/* The normal distribution's function and density. */
static void geglu(float *act, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        act[i] = gate[i] * 0.5f * (1.0f + erff(gate[i] * (float)M_SQRT1_2)) * up[i];
}

static void geglu_backward(float *gate, float *up, const float *dact, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dact[i];
        float s = 0.5f * (1.0f + erff(g * (float)M_SQRT1_2)), density = 0.39894228f * expf(-0.5f * g * g);

        gate[i] = d * u * (s + g * density);
        up[i] = d * (g * s);
    }
}

void llama_gated(enum llama_activation f, float *act, const float *gate, const float *up, size_t n)
{
    void (*const of[])(float *, const float *, const float *, size_t) = {
        [LLAMA_SILU] = swiglu, [LLAMA_GELU_TANH] = geglu_tanh, [LLAMA_GELU] = geglu};

    of[f](act, gate, up, n);
}

void llama_gated_backward(enum llama_activation f, float *gate, float *up, const float *dact, size_t n)
{
    void (*const of[])(float *, float *, const float *, size_t) = {[LLAMA_SILU] = swiglu_backward,
                                                                   [LLAMA_GELU_TANH] = geglu_tanh_backward,
                                                                   [LLAMA_GELU] = geglu_backward};

    of[f](gate, up, dact, n);
}

/* ---- embedding ----------------------------------------------------------- */

void llama_embed(float *x, struct llama_weight table, const int32_t *tokens, size_t n, size_t hidden)
{
    for (size_t i = 0; i < n; i++)
        llama_widen(x + i * hidden, llama_weight_row(table, (size_t)tokens[i], hidden), table.dtype, hidden);
}

void llama_embed_backward(float *dtable, const float *dx, const int32_t *tokens, size_t n, size_t vocab,
                          size_t hidden, float scale, bool first)
{
    if (first)
        memset(dtable, 0, vocab * hidden * sizeof *dtable);
    for (size_t i = 0; i < n; i++) {
        float *row = dtable + (size_t)tokens[i] * hidden;

        for (size_t c = 0; c < hidden; c++)
            row[c] += scale * dx[i * hidden + c];
    }
}

float llama_embed_scale(const struct llama_shape *shape, enum ofl_dtype dtype)
{
    float scale = shape->embed_scale != 0 ? shape->embed_scale : 1;
    uint16_t narrow;

    if (!shape->embed_scale_rounded || dtype == OFL_F32)
        return scale;
    if (dtype == OFL_BF16)
        llama_to_bf16(&narrow, &scale, 1);
    else
        llama_to_f16(&narrow, &scale, 1);
    llama_widen(&scale, &narrow, dtype, 1);
    return scale;
}
