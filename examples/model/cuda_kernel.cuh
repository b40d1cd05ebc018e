/*
 * What the CUDA kernels of the model share: number formats, reductions of a warp and of a block, the
 * tensor cores. Included by the .cu files of this folder only.
 *
 * The same files are compiled a second time for the CPU, with CUDA_EMULATE defined and
 * tests/cuda_emulate.h included ahead: so that the kernels themselves run in tests anywhere. So
 * they keep to the part of CUDA that header knows: no atomics, no libraries of CUDA, shared
 * memory of a size set at launch through KERNEL_SHARED, all of PTX in this file. Every KERNEL, made by
 * hand or by a macro, is found there by its name without another line; names differ between files.
 */
#ifndef LLAMA_CUDA_KERNEL_CUH
#define LLAMA_CUDA_KERNEL_CUH

#include <stddef.h>
#include <stdint.h>

#define KERNEL        extern "C" __global__ void
#define DEVICE        static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__ /* of a struct */

#ifndef CUDA_EMULATE
/* The launch's dynamic shared memory, as an array of type. Once per kernel. */
#define KERNEL_SHARED(type, name)                                                                            \
    extern __shared__ __align__(128) unsigned char kernel_shared[];                                          \
    type *name = reinterpret_cast<type *>(kernel_shared)
#endif

#define WARP     32u
#define ALL_LANE 0xffffffffu

/* ---- number formats ------------------------------------------------------- */

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

DEVICE float to_float(float x)
{
    return x;
}

DEVICE float to_float(bf16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

/* An f16's exponent and mantissa put into an f32 stand for 2^-112 of its value, subnormal or not. */
DEVICE float to_float(f16 x)
{
#ifdef CUDA_EMULATE
    uint32_t size = (x.bits & 0x7fffu) << 13;
    uint32_t bits = __float_as_uint(__uint_as_float(size) * 0x1p112f);

    bits = size >= 0x0f800000u ? size | 0x7f800000u : bits; /* infinity, NaN */
    return __uint_as_float(bits | (x.bits & 0x8000u) << 16);
#else
    float wide;

    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#endif
}

/* To nearest even; NaN stays NaN. */
DEVICE uint16_t bf16_bits(float x)
{
    uint32_t bits = __float_as_uint(x);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40 : rounded);
}

/* Two at once, the first in the low half: one instruction on the device. */
DEVICE uint32_t bf16_pair(float low, float high)
{
#ifdef CUDA_EMULATE
    return (uint32_t)bf16_bits(low) | (uint32_t)bf16_bits(high) << 16;
#else
    uint32_t pair;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

DEVICE uint16_t f16_bits(float x)
{
#ifdef CUDA_EMULATE
    uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;

    if (size > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (size >> 13 & 0x3ffu));
    if (size >= 0x477ff000u) /* 65520, half way to 2^16, and above */
        return (uint16_t)(sign | 0x7c00u);
    if (size < 0x38800000u) /* below 2^-14: adding 1/2 rounds to multiples of 2^-24 */
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u));
    size += 0xfffu + (size >> 13 & 1);
    return (uint16_t)(sign | ((size >> 13) - (112u << 10)));
#else
    uint16_t bits;

    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

template <class T> DEVICE T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ bf16 from_float<bf16>(float x)
{
    return bf16{bf16_bits(x)};
}

template <> __device__ __forceinline__ f16 from_float<f16>(float x)
{
    return f16{f16_bits(x)};
}

/* ---- sums and maxima, in a fixed order ------------------------------------ */

DEVICE float warp_sum(float x)
{
    for (unsigned offset = WARP / 2; offset; offset /= 2)
        x += __shfl_xor_sync(ALL_LANE, x, offset);
    return x;
}

DEVICE float warp_max(float x)
{
    for (unsigned offset = WARP / 2; offset; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANE, x, offset));
    return x;
}

/* Of all threads, at most 1024 and whole warps; every thread gets it. scratch: WARP floats of shared
 * memory, free again when it returns. */
DEVICE float block_sum(float x, float *scratch)
{
    unsigned warps = blockDim.x / WARP;

    x = warp_sum(x);
    if (threadIdx.x % WARP == 0)
        scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = warp_sum(threadIdx.x % WARP < warps ? scratch[threadIdx.x % WARP] : 0.0f);
    __syncthreads();
    return x;
}

DEVICE float block_max(float x, float *scratch)
{
    unsigned warps = blockDim.x / WARP;

    x = warp_max(x);
    if (threadIdx.x % WARP == 0)
        scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = warp_max(scratch[threadIdx.x % WARP < warps ? threadIdx.x % WARP : 0]);
    __syncthreads();
    return x;
}

/* ---- tensor cores (PTX ISA, "Matrix fragments for mma.m16n8k16") ---------- */

/* d[16, 8] += a[16, 16] * b[16, 8], bf16 products, f32 sums, over a warp. With group = lane / 4 and
 * pair = lane % 4 * 2: a[0] holds row group, columns pair and pair + 1; a[1] row group + 8; a[2] and a[3]
 * the same rows, columns + 8. b[0]: column group, rows pair and pair + 1; b[1] rows + 8. d[0], d[1]: row
 * group, columns pair, pair + 1; d[2], d[3]: row group + 8. */
DEVICE void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef CUDA_EMULATE
    emulate_mma_bf16(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four 8x8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
 * aligned, in shared memory), and gets of matrix i in r[i]: row lane / 4, columns lane % 4 * 2 and + 1. */
DEVICE void load_matrices(uint32_t r[4], const void *row)
{
#ifdef CUDA_EMULATE
    emulate_ldmatrix(r, row, false);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* The same, each matrix transposed: in r[i], column lane / 4, rows lane % 4 * 2 and + 1. */
DEVICE void load_matrices_transposed(uint32_t r[4], const void *row)
{
#ifdef CUDA_EMULATE
    emulate_ldmatrix(r, row, true);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* ---- copies to shared memory that a thread does not wait for --------------- */

/* 16 bytes, both ends aligned to that; zeros if !valid (src is not read, but must be an address). */
DEVICE void copy_async(void *shared, const void *src, bool valid)
{
#ifdef CUDA_EMULATE
    emulate_copy_async(shared, src, valid);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(src), "r"(valid ? 16 : 0)
                 : "memory");
#endif
}

/* Ends a group of this thread's copies. */
DEVICE void copy_async_commit(void)
{
#ifdef CUDA_EMULATE
    emulate_copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most `groups` of this thread's groups are in flight. __syncthreads() shows others. */
template <int groups> DEVICE void copy_async_wait(void)
{
#ifdef CUDA_EMULATE
    emulate_copy_async_wait(groups);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}

#endif
