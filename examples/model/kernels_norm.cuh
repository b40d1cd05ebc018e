/*
 * The CUDA kernels of RMSNorm, forward and backward. A part of kernels.cu; kernels_cuda.c launches them.
 */
#ifndef LLAMA_KERNELS_NORM_CUH
#define LLAMA_KERNELS_NORM_CUH

#include "examples/model/cuda_rows.cuh"

#define NORM_QUADS     4 /* of a row, in each thread's registers */
#define BACKWARD_QUADS 2

template <class T>
DEVICE void norm_store(T *y, const float v[4], const void *w, uint32_t w_dtype, float rstd, uint32_t at,
                       uint32_t hidden, uint32_t wide)
{
    float scale[4];

    weight_load(scale, w, w_dtype, at, hidden, wide);
#pragma unroll
    for (unsigned k = 0; k < 4; k++)
        scale[k] *= v[k] * rstd;
    row_store(y, scale, at, hidden, wide);
}

/* A block per row, which stays in registers; what a long row has beyond them is read twice.
 * Bytes per number: 4 + those of T. */
template <class T>
DEVICE void norm(T *y, const float *x, const void *w, uint32_t w_dtype, uint64_t rows, uint32_t hidden,
                 float eps, uint32_t wide, float *scratch)
{
    const uint32_t begin = threadIdx.x * 4, step = blockDim.x * 4;

    for (uint64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const float *row = x + r * hidden;
        float v[NORM_QUADS][4], more[4], rstd, sum = 0;

#pragma unroll
        for (unsigned q = 0; q < NORM_QUADS; q++)
            row_load(v[q], row, begin + q * step, hidden, wide);
#pragma unroll
        for (unsigned q = 0; q < NORM_QUADS; q++)
            sum += dot4(v[q], v[q]);
        for (uint32_t at = begin + NORM_QUADS * step; at < hidden; at += step) {
            row_load(more, row, at, hidden, wide);
            sum += dot4(more, more);
        }
        rstd = 1.0f / sqrtf(block_sum(sum, scratch) / (float)hidden + eps);
#pragma unroll
        for (unsigned q = 0; q < NORM_QUADS; q++)
            norm_store(y + r * hidden, v[q], w, w_dtype, rstd, begin + q * step, hidden, wide);
        for (uint32_t at = begin + NORM_QUADS * step; at < hidden; at += step) {
            row_load(more, row, at, hidden, wide);
            norm_store(y + r * hidden, more, w, w_dtype, rstd, at, hidden, wide);
        }
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL __launch_bounds__(1024, 1)                                                                        \
        norm_##suffix(T *y, const float *x, const void *w, uint32_t w_dtype, uint64_t rows, uint32_t hidden, \
                      float eps, uint32_t wide)                                                              \
    {                                                                                                        \
        __shared__ float scratch[WARP];                                                                      \
                                                                                                             \
        norm(y, x, w, w_dtype, rows, hidden, eps, wide, scratch);                                            \
    }
ACTIVATIONS(X)
#undef X

/* A row's constants: rstd, and rstd^3 / hidden * sum(w dy x); see kernels.c for the formula. */
struct norm_factors {
    float rstd, back;
};

/* From each thread's sums of x^2 and w dy x. scratch: 2 * WARP floats; not free before the next barrier. */
DEVICE norm_factors norm_factors_of(float square, float product, uint32_t hidden, float eps, float *scratch)
{
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const bool used = lane < blockDim.x / WARP;
    norm_factors f;

    square = warp_sum(square);
    product = warp_sum(product);
    if (lane == 0) {
        scratch[warp] = square;
        scratch[WARP + warp] = product;
    }
    __syncthreads();
    square = warp_sum(used ? scratch[lane] : 0.0f);
    product = warp_sum(used ? scratch[WARP + lane] : 0.0f);
    f.rstd = 1.0f / sqrtf(square / (float)hidden + eps);
    f.back = product * f.rstd * f.rstd * f.rstd / (float)hidden;
    return f;
}

/* W: the weight's type. */
template <class W> struct norm_args {
    float *dx;
    const float *dy, *x;
    const W *w;
    uint32_t hidden, accumulate, wide;
};

/* Four numbers of dx at `from` + at; adds theirs to dw. */
template <class W>
DEVICE void norm_gradient(const norm_args<W> &a, norm_factors f, const float x[4], const float dy[4],
                          float dw[4], uint64_t from, uint32_t at)
{
    float w[4], old[4] = {0, 0, 0, 0};

    row_load(w, a.w, at, a.hidden, a.wide);
    if (a.accumulate)
        row_load(old, a.dx + from, at, a.hidden, a.wide);
#pragma unroll
    for (unsigned k = 0; k < 4; k++) {
        dw[k] += dy[k] * (x[k] * f.rstd);
        old[k] += f.rstd * (w[k] * dy[k]) - x[k] * f.back;
    }
    row_store(a.dx + from, old, at, a.hidden, a.wide);
}

/* What a long row has beyond the registers: its sums; then, once the factors are known, its gradients,
 * with dw in memory. */
template <class W>
DEVICE void norm_rest_sums(const norm_args<W> &a, uint64_t from, uint32_t begin, uint32_t step, float *square,
                           float *product)
{
    float x[4], dy[4], w[4];

    for (uint32_t at = begin; at < a.hidden; at += step) {
        row_load(x, a.x + from, at, a.hidden, a.wide);
        row_load(dy, a.dy + from, at, a.hidden, a.wide);
        row_load(w, a.w, at, a.hidden, a.wide);
        *square += dot4(x, x);
#pragma unroll
        for (unsigned k = 0; k < 4; k++)
            *product += w[k] * dy[k] * x[k];
    }
}

template <class W>
DEVICE void norm_rest_gradient(const norm_args<W> &a, norm_factors f, uint64_t from, uint32_t begin,
                               uint32_t step, float *partial, bool first)
{
    float x[4], dy[4], dw[4] = {0, 0, 0, 0};

    for (uint32_t at = begin; at < a.hidden; at += step) {
        row_load(x, a.x + from, at, a.hidden, a.wide);
        row_load(dy, a.dy + from, at, a.hidden, a.wide);
        row_load(dw, partial, at, first ? 0 : a.hidden, a.wide);
        norm_gradient(a, f, x, dy, dw, from, at);
        row_store(partial, dw, at, a.hidden, a.wide);
    }
}

/* What a thread holds of a row. */
struct norm_part {
    float x[BACKWARD_QUADS][4], dy[BACKWARD_QUADS][4];
};

template <class W> DEVICE void norm_part_load(norm_part &part, const norm_args<W> &a, uint64_t from)
{
#pragma unroll
    for (unsigned q = 0; q < BACKWARD_QUADS; q++) {
        uint32_t at = (threadIdx.x + q * blockDim.x) * 4;

        row_load(part.x[q], a.x + from, at, a.hidden, a.wide);
        row_load(part.dy[q], a.dy + from, at, a.hidden, a.wide);
    }
}

template <class W>
DEVICE void norm_part_sums(const norm_part &part, const norm_args<W> &a, float *square, float *product)
{
    float w[4];

#pragma unroll
    for (unsigned q = 0; q < BACKWARD_QUADS; q++) {
        row_load(w, a.w, (threadIdx.x + q * blockDim.x) * 4, a.hidden, a.wide);
        *square += dot4(part.x[q], part.x[q]);
#pragma unroll
        for (unsigned k = 0; k < 4; k++)
            *product += w[k] * part.dy[q][k] * part.x[q][k];
    }
}

/*
 * partial[gridDim.x, hidden]: each block's sum of the gradient of w over its rows, of which the grid leaves
 * every block at least one. The next row is on its way while one is at work. A row's dy is read in full
 * before its dx is written, so that dx may be dy. Bytes per number: 12, with accumulate 16.
 */
template <class W>
DEVICE void norm_backward(const norm_args<W> &a, float *partial, uint64_t rows, float eps,
                          float (*scratch)[2 * WARP])
{
    const uint32_t step = blockDim.x * 4, rest = (threadIdx.x + BACKWARD_QUADS * blockDim.x) * 4;
    float dw[BACKWARD_QUADS][4] = {};
    unsigned turn = 0;
    norm_part row, next;

    partial += (uint64_t)blockIdx.x * a.hidden;
    norm_part_load(next, a, (uint64_t)blockIdx.x * a.hidden);
    for (uint64_t r = blockIdx.x; r < rows; r += gridDim.x, turn ^= 1) {
        uint64_t from = r * a.hidden;
        float square = 0, product = 0;
        norm_factors f;

        row = next;
        if (r + gridDim.x < rows)
            norm_part_load(next, a, (r + gridDim.x) * a.hidden);
        norm_part_sums(row, a, &square, &product);
        norm_rest_sums(a, from, rest, step, &square, &product);
        f = norm_factors_of(square, product, a.hidden, eps, scratch[turn]);
#pragma unroll
        for (unsigned q = 0; q < BACKWARD_QUADS; q++)
            norm_gradient(a, f, row.x[q], row.dy[q], dw[q], from, (threadIdx.x + q * blockDim.x) * 4);
        norm_rest_gradient(a, f, from, rest, step, partial, r == blockIdx.x);
    }
#pragma unroll
    for (unsigned q = 0; q < BACKWARD_QUADS; q++)
        row_store(partial, dw[q], (threadIdx.x + q * blockDim.x) * 4, a.hidden, a.wide);
}

/* Of aligned rows, and of others, which cost more registers: so their blocks are smaller. */
#define X(W, suffix)                                                                                         \
    KERNEL __launch_bounds__(1024)                                                                           \
        norm_backward_##suffix(float *dx, float *partial, const float *dy, const float *x, const W *w,       \
                               uint64_t rows, uint32_t hidden, float eps, uint32_t accumulate)               \
    {                                                                                                        \
        __shared__ float scratch[2][2 * WARP]; /* by turns, so that one barrier per row is enough */         \
                                                                                                             \
        norm_backward(norm_args<W>{dx, dy, x, w, hidden, accumulate, 1}, partial, rows, eps, scratch);       \
    }                                                                                                        \
    KERNEL __launch_bounds__(512, 1)                                                                         \
        norm_backward_odd_##suffix(float *dx, float *partial, const float *dy, const float *x, const W *w,   \
                                   uint64_t rows, uint32_t hidden, float eps, uint32_t accumulate)           \
    {                                                                                                        \
        __shared__ float scratch[2][2 * WARP];                                                               \
                                                                                                             \
        norm_backward(norm_args<W>{dx, dy, x, w, hidden, accumulate, 0}, partial, rows, eps, scratch);       \
    }
ACTIVATIONS(X)
#undef X

/* dw[hidden] (+)= the sum over partial[blocks, hidden], by WARP columns and WARP groups of its rows. */
KERNEL norm_weight_f32(float *dw, const float *partial, uint32_t blocks, uint32_t hidden, uint32_t first)
{
    __shared__ float sums[WARP][WARP + 1];
    uint32_t column = blockIdx.x * WARP + threadIdx.x % WARP, group = threadIdx.x / WARP;
    float sum = 0;

    for (uint32_t b = group; b < blocks && column < hidden; b += WARP)
        sum += partial[(uint64_t)b * hidden + column];
    sums[group][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (group != 0 || column >= hidden)
        return;
    sum = sums[0][threadIdx.x];
    for (uint32_t g = 1; g < WARP; g++)
        sum += sums[g][threadIdx.x];
    dw[column] = first ? sum : dw[column] + sum;
}

#endif
