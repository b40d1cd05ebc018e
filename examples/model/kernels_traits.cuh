/*
 * The CUDA kernels of what Llama does not have: biases, gelu, scales, caps, heads rotated in part. A part of kernels.cu;
 * kernels_traits_cuda.c launches them. Bound by memory; element by element, but for the sums of a bias' gradient.
 */
#ifndef LLAMA_KERNELS_TRAITS_CUH
#define LLAMA_KERNELS_TRAITS_CUH

#include "examples/model/cuda_rows.cuh"

#define GELU_ROOT  0.79788456f /* sqrt(2 / pi) */
#define GELU_CUBIC 0.044715f
#define ROOT_HALF  0.70710678f
#define DENSITY    0.39894228f /* 1 / sqrt(2 pi) */

/* What is multiplied with g in gelu(g), and its derivative; exact: the normal distribution, else its approximation by
 * tanh, (1 + tanh z) / 2 = 1 / (1 + e^-2z). */
DEVICE void gelu_parts(float g, uint32_t exact, float &share, float &slope)
{
    if (exact) {
        share = 0.5f * (1.0f + erff(g * ROOT_HALF));
        slope = DENSITY * expf(-0.5f * g * g);
    } else {
        float z = GELU_ROOT * (g + GELU_CUBIC * g * g * g);

        share = 1.0f / (1.0f + expf(-2.0f * z > 88.0f ? 88.0f : -2.0f * z));
        slope = share * (1.0f - share) * 2.0f * GELU_ROOT * (1.0f + 3.0f * GELU_CUBIC * g * g);
    }
}

/* As swiglu of kernels.cu. */
template <class T> DEVICE void geglu(T *act, const T *gate, const T *up, uint64_t n, uint32_t exact)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid()) {
        float g = to_float(gate[i]), share, slope;

        gelu_parts(g, exact, share, slope);
        act[i] = from_float<T>(g * share * to_float(up[i]));
    }
}

template <class T> DEVICE void geglu_backward(T *gate, T *up, T *act, uint64_t n, uint32_t exact)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid()) {
        float g = to_float(gate[i]), u = to_float(up[i]), d = to_float(act[i]), share, slope;

        gelu_parts(g, exact, share, slope);
        act[i] = from_float<T>(g * share * u);
        gate[i] = from_float<T>(d * u * (share + g * slope));
        up[i] = from_float<T>(d * (g * share));
    }
}

/* y[rows, out] += bias */
template <class T> DEVICE void bias_add(T *y, const void *bias, uint32_t dtype, uint64_t rows, uint32_t out)
{
    for (uint64_t i = thread_of_grid(); i < rows * out; i += threads_of_grid()) {
        uint32_t column = (uint32_t)(i % out);
        float b = dtype == DTYPE_F32    ? static_cast<const float *>(bias)[column]
                  : dtype == DTYPE_BF16 ? to_float(static_cast<const bf16 *>(bias)[column])
                                        : to_float(static_cast<const f16 *>(bias)[column]);

        y[i] = from_float<T>(to_float(y[i]) + b);
    }
}

/* db[out] (+)= the sums of dy's columns: WARP of them to a block, by WARP groups of rows, added in order. */
template <class T>
DEVICE void bias_sum(float *db, const T *dy, uint64_t rows, uint32_t out, uint32_t first,
                     float (*sums)[WARP + 1])
{
    uint32_t column = blockIdx.x * WARP + threadIdx.x % WARP, group = threadIdx.x / WARP;
    float sum = 0;

    for (uint64_t r = group; r < rows && column < out; r += WARP)
        sum += to_float(dy[r * out + column]);
    sums[group][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (group != 0 || column >= out)
        return;
    sum = sums[0][threadIdx.x];
    for (uint32_t g = 1; g < WARP; g++)
        sum += sums[g][threadIdx.x];
    db[column] = first ? sum : db[column] + sum;
}

/* dst = src + offset */
template <class T> DEVICE void widen(float *dst, const T *src, uint64_t n, float offset)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid())
        dst[i] = to_float(src[i]) + offset;
}

template <class T> DEVICE void scale(T *x, float by, uint64_t n)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid())
        x[i] = from_float<T>(to_float(x[i]) * by);
}

/* From the gradient at capped numbers to that before the cap. */
template <class T> DEVICE void cap_backward(T *d, const float *capped, float cap, uint64_t n)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid()) {
        float t = capped[i] / cap;

        d[i] = from_float<T>(to_float(d[i]) * (1.0f - t * t));
    }
}

/* As rope of kernels.cu, of the first 2 * half of dim numbers of each head. A block per row. */
template <class T>
DEVICE void rope_part(T *x, const float *table, uint64_t rows, uint64_t seq, uint32_t heads, uint32_t dim,
                      uint32_t half, float sign)
{
    for (uint64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const float *cosines = table + r % seq * 2 * half;

        for (uint32_t i = threadIdx.x; i < heads * half; i += blockDim.x) {
            uint32_t k = i % half;
            T *at = x + (r * heads + i / half) * dim + k;
            float a = to_float(at[0]), b = to_float(at[half]);

            rotate(a, b, cosines[k], sign * cosines[half + k]);
            at[0] = from_float<T>(a);
            at[half] = from_float<T>(b);
        }
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL geglu_##suffix(T *act, const T *gate, const T *up, uint64_t n, uint32_t exact)                    \
    {                                                                                                        \
        geglu(act, gate, up, n, exact);                                                                      \
    }                                                                                                        \
    KERNEL geglu_backward_##suffix(T *gate, T *up, T *act, uint64_t n, uint32_t exact)                       \
    {                                                                                                        \
        geglu_backward(gate, up, act, n, exact);                                                             \
    }                                                                                                        \
    KERNEL bias_##suffix(T *y, const void *bias, uint32_t dtype, uint64_t rows, uint32_t out)                \
    {                                                                                                        \
        bias_add(y, bias, dtype, rows, out);                                                                 \
    }                                                                                                        \
    KERNEL __launch_bounds__(1024)                                                                           \
        bias_sum_##suffix(float *db, const T *dy, uint64_t rows, uint32_t out, uint32_t first)               \
    {                                                                                                        \
        __shared__ float sums[WARP][WARP + 1];                                                               \
                                                                                                             \
        bias_sum(db, dy, rows, out, first, sums);                                                            \
    }                                                                                                        \
    KERNEL widen_##suffix(float *dst, const T *src, uint64_t n, float offset)                                \
    {                                                                                                        \
        widen(dst, src, n, offset);                                                                          \
    }                                                                                                        \
    KERNEL scale_##suffix(T *x, float by, uint64_t n)                                                        \
    {                                                                                                        \
        scale(x, by, n);                                                                                     \
    }                                                                                                        \
    KERNEL cap_backward_##suffix(T *d, const float *capped, float cap, uint64_t n)                           \
    {                                                                                                        \
        cap_backward(d, capped, cap, n);                                                                     \
    }                                                                                                        \
    KERNEL __launch_bounds__(1024)                                                                           \
        rope_part_##suffix(T *x, const float *table, uint64_t rows, uint64_t seq, uint32_t heads,            \
                           uint32_t dim, uint32_t half, float sign)                                          \
    {                                                                                                        \
        rope_part(x, table, rows, seq, heads, dim, half, sign);                                              \
    }
ACTIVATIONS(X)
#undef X

KERNEL cap_f32(float *x, float cap, uint64_t n)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid())
        x[i] = cap * tanhf(x[i] / cap);
}

/* y += by * x */
KERNEL add_scaled_f32(float *y, const float *x, float by, uint64_t n)
{
    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid())
        y[i] += by * x[i];
}

#endif
