/*
 * avx512: unpacking with AVX-512, sixteen floats at a time. Included by avx512.c and by avx512bf16.c, which is compiled
 * for the instruction that rounds to BF16, too.
 */
#ifndef OFL_LANDING_AVX512_H
#define OFL_LANDING_AVX512_H

#include "liboffload/landing/landing.h"

#include <immintrin.h>
#include <stdbool.h>

/* For x86.h: scales, and what is added. */
struct by {
    float d[2], m[2];
};

static inline __attribute__((always_inline)) __m512 sixteen(__m512i q, float d, float m, bool sum)
{
    __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(d));

    return sum ? _mm512_add_ps(f, _mm512_set1_ps(m)) : f;
}

#ifdef __AVX512BF16__
/* The instruction takes subnormals for zeros. */
#define PUT_TAKES_NAN       1
#define PUT_TAKES_SUBNORMAL 0

static inline __attribute__((always_inline)) __m512i to_bf16(__m512 a, __m512 b)
{
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}
#else
#define PUT_TAKES_NAN       0
#define PUT_TAKES_SUBNORMAL 1

/* To nearest, ties to even, in the upper half; then down to the lower one. */
static inline __attribute__((always_inline)) __m512i rounded(__m512 f)
{
    __m512i bits = _mm512_castps_si512(f);
    __m512i tie = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));

    return _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff))), 16);
}

static inline __attribute__((always_inline)) __m512i to_bf16(__m512 a, __m512 b)
{
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);

    return _mm512_permutexvar_epi64(order, _mm512_packus_epi32(rounded(a), rounded(b)));
}
#endif

static inline __attribute__((always_inline)) void put_floats(void *out, uint64_t at, enum landing_to to,
                                                             __m512 a, __m512 b)
{
    __m256i *half = (__m256i *)(void *)((uint16_t *)out + at);

    if (to == LANDING_F32) {
        _mm512_storeu_ps((float *)out + at, a);
        _mm512_storeu_ps((float *)out + at + 16, b);
    } else if (to == LANDING_BF16) {
        _mm512_storeu_si512(half, to_bf16(a, b));
    } else {
        _mm256_storeu_si256(half, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
        _mm256_storeu_si256(half + 1, _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
    }
}

static inline __attribute__((always_inline)) void put(void *out, uint64_t at, enum landing_to to, __m128i q0,
                                                      __m128i q1, struct by by, bool sum)
{
    put_floats(out, at, to, sixteen(_mm512_cvtepi8_epi32(q0), by.d[0], by.m[0], sum),
               sixteen(_mm512_cvtepi8_epi32(q1), by.d[1], by.m[1], sum));
}

/* Sixteen bytes as the numbers that they stand for. */
static inline __attribute__((always_inline)) __m512 numbers(enum landing_number number, __m128i q)
{
    __m512i wide = _mm512_cvtepu8_epi32(q), size;
    __m256i half = _mm256_cvtepu8_epi16(q);

    switch (number) {
    case LANDING_FP4: { /* the sign is put on by itself: a zero has one */
        __m128i twice = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)landing_fp4), q);
        __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(twice)), _mm512_set1_ps(0.5f));
        __m512i sign = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(8)), 28);

        return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(f), sign));
    }
    case LANDING_E4M3: { /* as an f16, 2^-8 of the value */
        __m256i sign = _mm256_slli_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x80)), 8);
        __m512 f;

        half = _mm256_slli_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x7f)), 7);
        f = _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(half, sign)), _mm512_set1_ps(256));
        size = _mm512_and_si512(wide, _mm512_set1_epi32(0x7f));
        return _mm512_mask_mov_ps(f, _mm512_cmpeq_epi32_mask(size, _mm512_set1_epi32(0x7f)),
                                  _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
    }
    case LANDING_E5M2: /* the upper half of an f16 */
        return _mm512_cvtph_ps(_mm256_slli_epi16(half, 8));
    default:
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
    }
}

static inline __attribute__((always_inline)) void put_numbers(void *out, uint64_t at, enum landing_to to,
                                                              enum landing_number number, __m128i q0,
                                                              __m128i q1, const float *scales)
{
    put_floats(out, at, to, _mm512_mul_ps(numbers(number, q0), _mm512_set1_ps(scales[0])),
               _mm512_mul_ps(numbers(number, q1), _mm512_set1_ps(scales[1])));
}

#include "liboffload/landing/x86.h"

#endif
