/* avx512: unpacking with AVX-512 (F, BW, VL), sixteen floats at a time. Compiled for them: see the Makefile. */
#include "liboffload/landing/landing.h"

#ifdef __AVX512BW__
#include <immintrin.h>
#include <stdbool.h>

static inline __attribute__((always_inline)) void put(void *out, uint64_t at, enum landing_to to, __m128i q,
                                                      float d, float m, bool sum)
{
    __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), _mm512_set1_ps(d));

    if (sum)
        f = _mm512_add_ps(f, _mm512_set1_ps(m));
    if (to == LANDING_F32) {
        _mm512_storeu_ps((float *)out + at, f);
    } else if (to == LANDING_F16) {
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)out + at),
                            _mm512_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT));
    } else { /* to nearest, ties to even; NaN stays NaN */
        __m512i bits = _mm512_castps_si512(f), high = _mm512_srli_epi32(bits, 16);
        __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        __m512i near =
            _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);

        near =
            _mm512_mask_or_epi32(near, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), high, _mm512_set1_epi32(0x40));
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)out + at), _mm512_cvtepi32_epi16(near));
    }
}

#include "liboffload/landing/x86.h"

const struct landing_blocks landing_avx512[OFL_DTYPES] = FORMS_TABLE;
#else
const struct landing_blocks landing_avx512[OFL_DTYPES];
#endif
