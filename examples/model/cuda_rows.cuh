/*
 * Rows of numbers in device memory, four or eight at a time, whatever their dtype, length and
 * alignment. Included by the .cu files of this folder only.
 */
#ifndef LLAMA_CUDA_ROWS_CUH
#define LLAMA_CUDA_ROWS_CUH

#include "examples/model/cuda_kernel.cuh"

/* A weight's dtype as launchers pass it: enum ofl_dtype, whose header is not for kernels. */
#define DTYPE_F16  5u
#define DTYPE_BF16 6u
#define DTYPE_F32  9u

/* X(type, suffix), for every dtype of activations. */
#define ACTIVATIONS(X) X(float, f32) X(bf16, bf16) X(f16, f16)

/* ---- aligned: four numbers, or 16 bytes of them ------------------------------ */

DEVICE void load4(float v[4], const float *p)
{
    float4 q = *reinterpret_cast<const float4 *>(p);

    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
}

DEVICE void store4(float *p, const float v[4])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

DEVICE void unpack(float v[2], uint32_t pair, bf16)
{
    v[0] = __uint_as_float(pair << 16);
    v[1] = __uint_as_float(pair & 0xffff0000u);
}

DEVICE void unpack(float v[2], uint32_t pair, f16)
{
    v[0] = to_float(f16{(uint16_t)pair});
    v[1] = to_float(f16{(uint16_t)(pair >> 16)});
}

DEVICE uint32_t pack(const float v[2], bf16)
{
    return bf16_pair(v[0], v[1]);
}

DEVICE uint32_t pack(const float v[2], f16)
{
    return (uint32_t)f16_bits(v[0]) | (uint32_t)f16_bits(v[1]) << 16;
}

template <class T> DEVICE void load4(float v[4], const T *p)
{
    uint2 q = *reinterpret_cast<const uint2 *>(p);

    unpack(v, q.x, T());
    unpack(v + 2, q.y, T());
}

template <class T> DEVICE void store4(T *p, const float v[4])
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack(v, T()), pack(v + 2, T()));
}

/* How many of T are 16 bytes. */
template <class T> struct vec {
    static const unsigned n = 16 / sizeof(T);
};

DEVICE void load16(float v[4], const float *p)
{
    load4(v, p);
}

DEVICE void store16(float *p, const float v[4])
{
    store4(p, v);
}

template <class T> DEVICE void load16(float v[8], const T *p)
{
    uint4 q = *reinterpret_cast<const uint4 *>(p);

    unpack(v, q.x, T());
    unpack(v + 2, q.y, T());
    unpack(v + 4, q.z, T());
    unpack(v + 6, q.w, T());
}

template <class T> DEVICE void store16(T *p, const float v[8])
{
    *reinterpret_cast<uint4 *>(p) =
        make_uint4(pack(v, T()), pack(v + 2, T()), pack(v + 4, T()), pack(v + 6, T()));
}

/* ---- numbers at .. at + 3 of a row of n ---------------------------------------- */

/* wide: n is a multiple of 4, and so are the rows' places: four numbers are aligned. fill: what lies
 * behind the end. */
template <class T>
DEVICE void row_load(float v[4], const T *row, uint32_t at, uint32_t n, uint32_t wide, float fill = 0)
{
    if (wide && at < n) {
        load4(v, row + at);
        return;
    }
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
        v[k] = !wide && at + k < n ? to_float(row[at + k]) : fill;
}

template <class T> DEVICE void row_store(T *row, const float v[4], uint32_t at, uint32_t n, uint32_t wide)
{
    if (wide) {
        if (at < n)
            store4(row + at, v);
        return;
    }
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
        if (at + k < n)
            row[at + k] = from_float<T>(v[k]);
}

/* The same of a weight, whose dtype the kernel is told. */
DEVICE void weight_load(float v[4], const void *row, uint32_t dtype, uint32_t at, uint32_t n, uint32_t wide)
{
    if (dtype == DTYPE_F32)
        row_load(v, static_cast<const float *>(row), at, n, wide);
    else if (dtype == DTYPE_BF16)
        row_load(v, static_cast<const bf16 *>(row), at, n, wide);
    else
        row_load(v, static_cast<const f16 *>(row), at, n, wide);
}

DEVICE float dot4(const float a[4], const float b[4])
{
    return (a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3]);
}

/* Of all of the launch, in its x direction. */
DEVICE uint64_t thread_of_grid(void)
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

DEVICE uint64_t threads_of_grid(void)
{
    return (uint64_t)gridDim.x * blockDim.x;
}

#endif
