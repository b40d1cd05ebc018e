/* avx2: unpacking with AVX2 and F16C, eight floats at a time. Compiled for them: see the Makefile. */
#include "liboffload/landing/landing.h"

#ifdef __AVX2__
#include <immintrin.h>
#include <stdbool.h>

static inline __attribute__((always_inline)) void put_eight(void *out, uint64_t at, enum landing_to to,
                                                            __m128i q, float d, float m, bool sum)
{
    __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), _mm256_set1_ps(d));

    if (sum)
        f = _mm256_add_ps(f, _mm256_set1_ps(m));
    if (to == LANDING_F32) {
        _mm256_storeu_ps((float *)out + at, f);
    } else if (to == LANDING_F16) {
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)out + at),
                         _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT));
    } else { /* to nearest, ties to even; NaN stays NaN */
        __m256i bits = _mm256_castps_si256(f), high = _mm256_srli_epi32(bits, 16);
        __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        __m256i near =
            _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q)), both;

        near = _mm256_blendv_epi8(near, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
        both = _mm256_permute4x64_epi64(_mm256_packus_epi32(near, near), 0x08);
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)out + at), _mm256_castsi256_si128(both));
    }
}

static inline __attribute__((always_inline)) void put(void *out, uint64_t at, enum landing_to to, __m128i q,
                                                      float d, float m, bool sum)
{
    put_eight(out, at, to, q, d, m, sum);
    put_eight(out, at + 8, to, _mm_srli_si128(q, 8), d, m, sum);
}

#include "liboffload/landing/x86.h"

const struct landing_blocks landing_avx2[OFL_DTYPES] = FORMS_TABLE;
#else
const struct landing_blocks landing_avx2[OFL_DTYPES];
#endif
