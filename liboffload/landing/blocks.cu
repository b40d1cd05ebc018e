/*
 * blocks.cu: plain.c's values on the GPU, to the same bits: a thread finds the block of its value and computes it alone,
 * so neighbours read the same few bytes from the cache and write side by side. Launched by landing_cuda.c. Compiled with
 * -fmad=false -ftz=false, and for tests on the CPU (tests/cuda_emulate.h).
 */
#include "include/offload.h"
#include "liboffload/landing/number.h"

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

DEVICE float f16_at(const uint8_t *p)
{
    return number_f16((uint16_t)(p[0] | p[1] << 8));
}

DEVICE int nibble(const uint8_t *p, unsigned i, int high)
{
    return p[i] >> 4 * high & 15;
}

/* As whole numbers: of IQ4; of MXFP4, doubled. Packed into words, as an array would lie in memory: a byte each, and a
 * nibble for each size. */
DEVICE int iq4(int q)
{
    const uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;

    return (int8_t)((q < 8 ? low : high) >> q % 8 * 8);
}

DEVICE int fp4(int q)
{
    int size = (int)(0xc8643210u >> q % 8 * 4 & 15);

    return q < 8 ? size : -size;
}

/* Value i of a block of 32: the lower nibbles come first. */
DEVICE float of_32(uint32_t dtype, const uint8_t *p, unsigned i)
{
    float d = f16_at(p);
    unsigned at = i % 16;
    int high = (int)i / 16;

    switch (dtype) {
    case OFL_Q4_0:
        return d * (float)(nibble(p + 2, at, high) - 8);
    case OFL_Q4_1:
        return d * (float)nibble(p + 4, at, high) + f16_at(p + 2);
    case OFL_Q5_0:
        return d * (float)((nibble(p + 6, at, high) | (p[2 + i / 8] >> i % 8 & 1) << 4) - 16);
    case OFL_Q5_1:
        return d * (float)(nibble(p + 8, at, high) | (p[4 + i / 8] >> i % 8 & 1) << 4) + f16_at(p + 2);
    case OFL_Q8_0:
        return d * (float)(int8_t)p[2 + i];
    case OFL_IQ4_NL:
        return d * (float)iq4(nibble(p + 2, at, high));
    default: /* OFL_MXFP4 */
        d = number_of_bits(p[0] < 2 ? 0x00200000u << p[0] : (p[0] - 1u) << 23);
        return d * (float)fp4(nibble(p + 1, at, high));
    }
}

DEVICE float q2_k(const uint8_t *p, unsigned i)
{
    int q = p[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3, s = p[i / 16];

    return f16_at(p + 80) * (float)(s & 15) * (float)q - f16_at(p + 82) * (float)(s >> 4);
}

DEVICE float q3_k(const uint8_t *p, unsigned i)
{
    const uint8_t *scales = p + 96;
    unsigned s = i / 16;
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = scales[8 + s % 4] >> s / 4 * 2 & 3;
    int q = (p[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - (p[i % 32] >> i / 32 & 1 ? 0 : 4);

    return f16_at(p + 108) * (float)((low | high << 4) - 32) * (float)q;
}

/* Q4_K, and Q5_K, which has fifth bits in front of the nibbles. */
DEVICE float q45_k(const uint8_t *p, unsigned i, bool five)
{
    const uint8_t *scales = p + 4, *low = p + (five ? 48 : 16);
    unsigned b = i / 32;
    int s = b < 4 ? scales[b] & 63 : (scales[b + 4] & 15) | scales[b - 4] >> 6 << 4;
    int m = b < 4 ? scales[b + 4] & 63 : scales[b + 4] >> 4 | scales[b] >> 6 << 4;
    int q = nibble(low + b / 2 * 32, i % 32, (int)b % 2);

    if (five)
        q |= (p[16 + i % 32] >> b & 1) << 4;
    return f16_at(p) * (float)s * (float)q - f16_at(p + 2) * (float)m;
}

DEVICE float q6_k(const uint8_t *p, unsigned i)
{
    unsigned half = i / 128, at = i % 128;
    int low = nibble(p + half * 64, at % 64, (int)at / 64);
    int high = p[128 + half * 32 + at % 32] >> at / 32 * 2 & 3;

    return f16_at(p + 208) * (float)(int8_t)p[192 + i / 16] * (float)((low | high << 4) - 32);
}

DEVICE float iq4_xs(const uint8_t *p, unsigned i)
{
    unsigned b = i / 32, high = p[2] | (unsigned)p[3] << 8;
    int scale = nibble(p + 4, b / 2, (int)b % 2) | (int)(high >> 2 * b & 3) << 4;

    return f16_at(p) * (float)(scale - 32) * (float)iq4(nibble(p + 8 + b * 16, i % 16, (int)i % 32 / 16));
}

DEVICE float value(uint32_t dtype, const uint8_t *p, unsigned i)
{
    switch (dtype) {
    case OFL_Q2_K:
        return q2_k(p, i);
    case OFL_Q3_K:
        return q3_k(p, i);
    case OFL_Q4_K:
        return q45_k(p, i, false);
    case OFL_Q5_K:
        return q45_k(p, i, true);
    case OFL_Q6_K:
        return q6_k(p, i);
    case OFL_IQ4_XS:
        return iq4_xs(p, i);
    default:
        return of_32(dtype, p, i);
    }
}

/* elems values, in blocks of so many elements and bytes. */
KERNEL landing_blocks_kernel(const uint8_t *__restrict__ packed, uint64_t elems, uint32_t dtype,
                             uint32_t block_elems, uint32_t block_bytes, uint32_t to, void *__restrict__ out)
{
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < elems; i += step) {
        float v = value(dtype, packed + i / block_elems * block_bytes, (unsigned)(i % block_elems));

        if (to == OFL_F32)
            ((float *)out)[i] = v;
        else
            ((uint16_t *)out)[i] = to == OFL_F16 ? number_to_f16(v) : number_to_bf16(v);
    }
}
