/* avx2: unpacking with AVX2 and F16C, eight floats at a time. Compiled for them: see the Makefile. */
#include "liboffload/landing/landing.h"

#ifdef __AVX2__
#include <immintrin.h>
#include <stdbool.h>

/* For x86.h: scales, and what is added. */
struct by {
    float d[2], m[2];
};

static inline __attribute__((always_inline)) __m256 eight(__m128i q, float d, float m, bool sum)
{
    __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), _mm256_set1_ps(d));

    return sum ? _mm256_add_ps(f, _mm256_set1_ps(m)) : f;
}

/* To nearest, ties to even, in the upper half; then down to the lower one. */
static inline __attribute__((always_inline)) __m256i rounded(__m256 f)
{
    __m256i bits = _mm256_castps_si256(f);
    __m256i tie = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));

    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(tie, _mm256_set1_epi32(0x7fff))), 16);
}

static inline __attribute__((always_inline)) void put_floats(void *out, uint64_t at, enum landing_to to,
                                                             __m256 a, __m256 b)
{
    __m128i *half = (__m128i *)(void *)((uint16_t *)out + at);

    if (to == LANDING_F32) {
        _mm256_storeu_ps((float *)out + at, a);
        _mm256_storeu_ps((float *)out + at + 8, b);
    } else if (to == LANDING_F16) {
        _mm_storeu_si128(half, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(half + 1, _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
    } else {
        __m256i both = _mm256_packus_epi32(rounded(a), rounded(b));

        _mm256_storeu_si256((__m256i *)(void *)half, _mm256_permute4x64_epi64(both, 0xd8));
    }
}

static inline __attribute__((always_inline)) void put(void *out, uint64_t at, enum landing_to to, __m128i q0,
                                                      __m128i q1, struct by by, bool sum)
{
    put_floats(out, at, to, eight(q0, by.d[0], by.m[0], sum),
               eight(_mm_srli_si128(q0, 8), by.d[0], by.m[0], sum));
    put_floats(out, at + 16, to, eight(q1, by.d[1], by.m[1], sum),
               eight(_mm_srli_si128(q1, 8), by.d[1], by.m[1], sum));
}

/* Eight bytes as the numbers that they stand for. */
static inline __attribute__((always_inline)) __m256 numbers(enum landing_number number, __m128i q)
{
    __m256i wide = _mm256_cvtepu8_epi32(q), size;
    __m128i half = _mm_cvtepu8_epi16(q);

    switch (number) {
    case LANDING_FP4: { /* the sign is put on by itself: a zero has one */
        __m128i twice = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)landing_fp4), q);
        __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(twice)), _mm256_set1_ps(0.5f));
        __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(8)), 28);

        return _mm256_or_ps(f, _mm256_castsi256_ps(sign));
    }
    case LANDING_E4M3: { /* as an f16, 2^-8 of the value */
        __m128i sign = _mm_slli_epi16(_mm_and_si128(half, _mm_set1_epi16(0x80)), 8);
        __m256 f, nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));

        half = _mm_slli_epi16(_mm_and_si128(half, _mm_set1_epi16(0x7f)), 7);
        f = _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(half, sign)), _mm256_set1_ps(256));
        size = _mm256_cmpeq_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x7f)), _mm256_set1_epi32(0x7f));
        return _mm256_blendv_ps(f, nan, _mm256_castsi256_ps(size));
    }
    case LANDING_E5M2: /* the upper half of an f16 */
        return _mm256_cvtph_ps(_mm_slli_epi16(half, 8));
    default:
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
    }
}

static inline __attribute__((always_inline)) void put_numbers(void *out, uint64_t at, enum landing_to to,
                                                              enum landing_number number, __m128i q0,
                                                              __m128i q1, const float *scales)
{
    const __m256 d0 = _mm256_set1_ps(scales[0]), d1 = _mm256_set1_ps(scales[1]);

    put_floats(out, at, to, _mm256_mul_ps(numbers(number, q0), d0),
               _mm256_mul_ps(numbers(number, _mm_srli_si128(q0, 8)), d0));
    put_floats(out, at + 16, to, _mm256_mul_ps(numbers(number, q1), d1),
               _mm256_mul_ps(numbers(number, _mm_srli_si128(q1, 8)), d1));
}

#define PUT_TAKES_NAN       0
#define PUT_TAKES_SUBNORMAL 1
#include "liboffload/landing/x86.h"

const struct landing_blocks landing_avx2[OFL_DTYPES] = FORMS_TABLE;
const struct landing_runs landing_runs_avx2 = RUNS_TABLE;
#else
const struct landing_blocks landing_avx2[OFL_DTYPES];
const struct landing_runs landing_runs_avx2;
#endif
