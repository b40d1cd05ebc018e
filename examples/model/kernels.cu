/*
 * The model's CUDA kernels other than attention: rotary embedding, SwiGLU, embedding, number formats,
 * random numbers; norm and loss have files of their own, included at the end. Each does what its namesake
 * in kernels.h does; kernels_cuda.c launches them, and says what `wide` needs.
 *
 * All of them are bound by memory: they load and store 16 bytes per thread where they may, and read
 * numbers once. Sums have an order that depends on the shapes only.
 */
#include "examples/model/cuda_rows.cuh"

/* ---- rotary embedding --------------------------------------------------------- */

/* A thread per angle. The product is rounded as the CPU's is; cosines of it may differ in the last bit. */
KERNEL rope_table_f32(float *table, const float *inv_freq, uint64_t n, uint32_t half)
{
    for (uint64_t i = thread_of_grid(); i < n * half; i += threads_of_grid()) {
        uint64_t p = i / half, k = i % half;
        float angle = __fmul_rn((float)p, inv_freq[k]);

        table[p * 2 * half + k] = cosf(angle);
        table[p * 2 * half + half + k] = sinf(angle);
    }
}

/* a, b = a c - b s, b c + a s: in the CPU's roundings, so that the same table gives the same bits. */
DEVICE void rotate(float &a, float &b, float c, float s)
{
    float turned = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));

    b = __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s));
    a = turned;
}

template <class T> DEVICE void rotate_16(T *x, const float *cosines, uint32_t half, float sign)
{
    const unsigned n = vec<T>::n;
    float a[n], b[n], c[4], s[4];

    load16(a, x);
    load16(b, x + half);
#pragma unroll
    for (unsigned k = 0; k < n; k += 4) {
        load4(c, cosines + k);
        load4(s, cosines + half + k);
#pragma unroll
        for (unsigned l = 0; l < 4; l++)
            rotate(a[k + l], b[k + l], c[l], sign * s[l]);
    }
    store16(x, a);
    store16(x + half, b);
}

/* A block per row: its heads share a row of the table. Twice T's bytes per number. */
template <class T>
DEVICE void rope(T *x, const float *table, uint64_t rows, uint64_t seq, uint32_t heads, uint32_t half,
                 float sign, uint32_t wide)
{
    const uint32_t n = wide ? vec<T>::n : 1, parts = half / n;

    for (uint64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const float *cosines = table + r % seq * 2 * half;
        T *row = x + r * heads * 2 * half;

        for (uint32_t i = threadIdx.x; i < heads * parts; i += blockDim.x) {
            uint32_t k = i % parts * n;
            T *at = row + (uint64_t)(i / parts) * 2 * half + k;

            if (wide) {
                rotate_16(at, cosines + k, half, sign);
            } else {
                float a = to_float(at[0]), b = to_float(at[half]);

                rotate(a, b, cosines[k], sign * cosines[half + k]);
                at[0] = from_float<T>(a);
                at[half] = from_float<T>(b);
            }
        }
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL __launch_bounds__(1024, 1)                                                                        \
        rope_##suffix(T *x, const float *table, uint64_t rows, uint64_t seq, uint32_t heads, uint32_t half,  \
                      float sign, uint32_t wide)                                                             \
    {                                                                                                        \
        rope(x, table, rows, seq, heads, half, sign, wide);                                                  \
    }
ACTIVATIONS(X)
#undef X

/* ---- SwiGLU --------------------------------------------------------------------- */

/* 1 + e^-g. Bounded like the CPU's: g / inf would hide an infinite g. NaN stays. */
DEVICE float silu_divisor(float g)
{
    return 1.0f + expf(-g > 88.0f ? 88.0f : -g);
}

/* Three times T's bytes per number. */
template <class T> DEVICE void swiglu(T *act, const T *gate, const T *up, uint64_t n, uint32_t wide)
{
    const unsigned width = vec<T>::n;
    uint64_t vectors = wide ? n / width : 0;

    for (uint64_t i = thread_of_grid(); i < vectors; i += threads_of_grid()) {
        float g[width], u[width];

        load16(g, gate + i * width);
        load16(u, up + i * width);
#pragma unroll
        for (unsigned k = 0; k < width; k++)
            u[k] = g[k] / silu_divisor(g[k]) * u[k];
        store16(act + i * width, u);
    }
    for (uint64_t i = vectors * width + thread_of_grid(); i < n; i += threads_of_grid()) {
        float g = to_float(gate[i]);

        act[i] = from_float<T>(g / silu_divisor(g) * to_float(up[i]));
    }
}

/* act holds its gradient, and gets what forward made of gate and up. */
DEVICE void swiglu_gradient(float &gate, float &up, float &act)
{
    float g = gate, d = act, s = 1.0f / silu_divisor(g);

    act = g / silu_divisor(g) * up; /* the bits of forward */
    gate = d * up * (s * (1.0f + g * (1.0f - s)));
    up = d * (g * s);
}

/* Six times T's bytes per number. */
template <class T> DEVICE void swiglu_backward(T *gate, T *up, T *act, uint64_t n, uint32_t wide)
{
    const unsigned width = vec<T>::n;
    uint64_t vectors = wide ? n / width : 0;

    for (uint64_t i = thread_of_grid(); i < vectors; i += threads_of_grid()) {
        float g[width], u[width], d[width];

        load16(g, gate + i * width);
        load16(u, up + i * width);
        load16(d, act + i * width);
#pragma unroll
        for (unsigned k = 0; k < width; k++)
            swiglu_gradient(g[k], u[k], d[k]);
        store16(gate + i * width, g);
        store16(up + i * width, u);
        store16(act + i * width, d);
    }
    for (uint64_t i = vectors * width + thread_of_grid(); i < n; i += threads_of_grid()) {
        float g = to_float(gate[i]), u = to_float(up[i]), d = to_float(act[i]);

        swiglu_gradient(g, u, d);
        gate[i] = from_float<T>(g);
        up[i] = from_float<T>(u);
        act[i] = from_float<T>(d);
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL swiglu_##suffix(T *act, const T *gate, const T *up, uint64_t n, uint32_t wide)                    \
    {                                                                                                        \
        swiglu(act, gate, up, n, wide);                                                                      \
    }                                                                                                        \
    KERNEL swiglu_backward_##suffix(T *gate, T *up, T *act, uint64_t n, uint32_t wide)                       \
    {                                                                                                        \
        swiglu_backward(gate, up, act, n, wide);                                                             \
    }
ACTIVATIONS(X)
#undef X

/* ---- number formats -------------------------------------------------------------- */

/* Four quads per thread, a block's next to each other. Bytes per number: 4 + those of T. */
template <class T> DEVICE void narrow(T *dst, const float *src, uint64_t n, uint32_t wide)
{
    const uint64_t quads = wide ? n / 4 : 0, block = (uint64_t)blockDim.x * 4;

    for (uint64_t from = blockIdx.x * block; from < quads; from += gridDim.x * block) {
        float v[4][4];

#pragma unroll
        for (unsigned q = 0; q < 4; q++)
            if (from + q * blockDim.x + threadIdx.x < quads)
                load4(v[q], src + (from + q * blockDim.x + threadIdx.x) * 4);
#pragma unroll
        for (unsigned q = 0; q < 4; q++)
            if (from + q * blockDim.x + threadIdx.x < quads)
                store4(dst + (from + q * blockDim.x + threadIdx.x) * 4, v[q]);
    }
    for (uint64_t i = quads * 4 + thread_of_grid(); i < n; i += threads_of_grid())
        dst[i] = from_float<T>(src[i]);
}

#define X(T, suffix)                                                                                         \
    KERNEL narrow_##suffix(T *dst, const float *src, uint64_t n, uint32_t wide)                              \
    {                                                                                                        \
        narrow(dst, src, n, wide);                                                                           \
    }
ACTIVATIONS(X)
#undef X

/* ---- embedding -------------------------------------------------------------------- */

/* A block per token. Bytes per number: 4 + those of the table. */
KERNEL __launch_bounds__(1024, 1) embed_f32(float *x, const void *table, uint32_t dtype,
                                            const int32_t *tokens, uint64_t n, uint32_t hidden, uint32_t wide)
{
    const uint64_t row_bytes = (uint64_t)hidden * (dtype == DTYPE_F32 ? 4 : 2);
    float v[4];

    for (uint64_t i = blockIdx.x; i < n; i += gridDim.x) {
        const void *row = static_cast<const char *>(table) + (uint64_t)tokens[i] * row_bytes;

        for (uint32_t at = threadIdx.x * 4; at < hidden; at += blockDim.x * 4) {
            weight_load(v, row, dtype, at, hidden, wide);
            row_store(x + i * hidden, v, at, hidden, wide);
        }
    }
}

/* A block per token and piece of its row; the token's rows of dx are added in order. */
KERNEL embed_backward_f32(float *dtable, const float *dx, const int32_t *ids, const int32_t *starts,
                          const int32_t *order, uint64_t distinct, uint32_t hidden, uint32_t wide)
{
    for (uint64_t i = blockIdx.x; i < distinct; i += gridDim.x) {
        float *row = dtable + (uint64_t)ids[i] * hidden;

        for (uint32_t at = (blockIdx.y * blockDim.x + threadIdx.x) * 4; at < hidden;
             at += gridDim.y * blockDim.x * 4) {
            float sum[4], v[4];

            row_load(sum, row, at, hidden, wide);
#pragma unroll 4
            for (int32_t k = starts[i]; k < starts[i + 1]; k++) {
                row_load(v, dx + (uint64_t)order[k] * hidden, at, hidden, wide);
                for (unsigned l = 0; l < 4; l++)
                    sum[l] += v[l];
            }
            row_store(row, sum, at, hidden, wide);
        }
    }
}

/* ---- random numbers ------------------------------------------------------------- */

/* Bit by bit those of kernels_numbers.c, which has the reasons: no sum here may become an FMA. */
DEVICE uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15u

/* c + q p */
DEVICE float horner(float c, float q, float p)
{
    return __fadd_rn(c, __fmul_rn(q, p));
}

DEVICE float log_of(float u)
{
    uint32_t bits = __float_as_uint(u) - 0x3f3504f3u;
    float e = (float)((int32_t)bits >> 23), m = __uint_as_float((bits & 0x7fffffu) + 0x3f3504f3u);
    float s = __fdiv_rn(__fsub_rn(m, 1.0f), __fadd_rn(m, 1.0f)), q = __fmul_rn(s, s);
    float p = horner(1.0f / 5, q, horner(1.0f / 7, q, 1.0f / 9));

    p = horner(1.0f, q, horner(1.0f / 3, q, p));
    return __fadd_rn(__fmul_rn(e, 0.69314718f), __fmul_rn(__fmul_rn(2.0f, s), p));
}

DEVICE float sin_of_turn(float t)
{
    float x, q, p;

    t = t > 0.5f ? __fsub_rn(t, 1.0f) : t;
    t = t > 0.25f ? __fsub_rn(0.5f, t) : t;
    t = t < -0.25f ? __fsub_rn(-0.5f, t) : t;
    x = __fmul_rn(t, 6.28318531f);
    q = __fmul_rn(x, x);
    p = horner(1.0f / 362880, q, horner(-1.0f / 39916800, q, 1.0f / 6227020800.0f));
    p = horner(-1.0f / 6, q, horner(1.0f / 120, q, horner(-1.0f / 5040, q, p)));
    return __fmul_rn(x, horner(1.0f, q, p));
}

template <class T> DEVICE void init_normal(T *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float std)
{
    uint64_t key = mix(seed + GOLDEN_GAMMA);

    for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid()) {
        uint64_t elem = first_elem + i, bits = mix(mix((elem >> 1) * GOLDEN_GAMMA + key) ^ key);
        float u = __fmul_rn(__fadd_rn((float)(int32_t)(bits >> 33), 1.0f), 0x1p-31f);
        float t = __fmul_rn((float)((int32_t)(bits & 0xffffffu) - 0x800000), 0x1p-24f);
        float turn = __fadd_rn(t, (float)(int32_t)(elem & 1) * 0.25f);
        float radius = __fsqrt_rn(__fmul_rn(-2.0f, log_of(u)));

        dst[i] = from_float<T>(__fmul_rn(std, __fmul_rn(radius, sin_of_turn(turn))));
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL init_normal_##suffix(T *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float std)           \
    {                                                                                                        \
        init_normal(dst, first_elem, n, seed, std);                                                          \
    }                                                                                                        \
    KERNEL init_value_##suffix(T *dst, uint64_t n, float value)                                              \
    {                                                                                                        \
        for (uint64_t i = thread_of_grid(); i < n; i += threads_of_grid())                                   \
            dst[i] = from_float<T>(value);                                                                   \
    }
ACTIVATIONS(X)
#undef X

/* The same module. */
#include "examples/model/kernels_norm.cuh"
#include "examples/model/kernels_head.cuh"
#include "examples/model/kernels_traits.cuh"
