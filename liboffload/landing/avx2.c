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

static inline __attribute__((always_inline)) void sixteen(void *out, uint64_t at, enum landing_to to,
                                                          __m128i q, float d, float m, bool sum)
{
    __m256 a = eight(q, d, m, sum), b = eight(_mm_srli_si128(q, 8), d, m, sum);
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
    sixteen(out, at, to, q0, by.d[0], by.m[0], sum);
    sixteen(out, at + 16, to, q1, by.d[1], by.m[1], sum);
}

#define PUT_TAKES_NAN       0
#define PUT_TAKES_SUBNORMAL 1
#include "liboffload/landing/x86.h"

const struct landing_blocks landing_avx2[OFL_DTYPES] = FORMS_TABLE;
#else
const struct landing_blocks landing_avx2[OFL_DTYPES];
#endif
