/* number: how floats of two bytes become floats of four, and back. For all forms of the landing room,
 * by the compilers of C and of CUDA. */
#ifndef OFL_LANDING_NUMBER_H
#define OFL_LANDING_NUMBER_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define NUMBER_INLINE static __device__ __forceinline__
#else
#define NUMBER_INLINE static inline
#endif

NUMBER_INLINE float number_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

NUMBER_INLINE uint32_t number_bits(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Files are little-endian, and so is every machine that this runs on. */
NUMBER_INLINE uint16_t number_u16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

NUMBER_INLINE uint32_t number_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* Exponent and mantissa put into an f32 stand for 2^-112 of the value, subnormal or not. */
NUMBER_INLINE float number_f16(uint16_t half)
{
    uint32_t size = (half & 0x7fffu) << 13;
    uint32_t bits = number_bits(number_of_bits(size) * 0x1p112f);

    bits = size >= 0x0f800000u ? size | 0x7f800000u : bits; /* infinity, NaN */
    return number_of_bits(bits | (half & 0x8000u) << 16);
}

NUMBER_INLINE float number_bf16(uint16_t v)
{
    return number_of_bits((uint32_t)v << 16);
}

/* To nearest, ties to even; NaN stays NaN. */
NUMBER_INLINE uint16_t number_to_bf16(float f)
{
    uint32_t bits = number_bits(f), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40 : rounded);
}

/* The same; without branches, so that loops of it become vectors. */
NUMBER_INLINE uint16_t number_to_f16(float f)
{
    uint32_t bits = number_bits(f), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    uint32_t rounded = ((size + 0xfffu + (size >> 13 & 1)) >> 13) - (112u << 10);
    /* below 2^-14: adding 1/2 rounds to multiples of 2^-24 */
    uint32_t subnormal = number_bits(number_of_bits(size) + 0.5f) - 0x3f000000u;

    rounded = size < 0x38800000u ? subnormal : rounded;
    rounded = size >= 0x477ff000u ? 0x7c00u : rounded; /* 65520, half way to 2^16, and above */
    rounded = size > 0x7f800000u ? 0x7e00u | (size >> 13 & 0x3ffu) : rounded;
    return (uint16_t)(sign | rounded);
}

#endif
