/*
 * x86: unpacking with vector instructions. Included by avx2.c and by avx512.h, compiled for their own, with
 *
 *     static inline void put(void *out, uint64_t at, enum landing_to to, __m128i q0, __m128i q1, struct by by, bool sum)
 *
 * in front of it: thirty-two values for elements at .. at + 31 of out, sixteen q0 * d[0] (+ m[0]), sixteen
 * q1 * d[1] (+ m[1]). Bytes are handled sixteen at a time in all. Each product and sum is rounded by itself, in the
 * order of plain.c. PUT_TAKES_NAN, PUT_TAKES_SUBNORMAL: whether it rounds these right to BF16; blocks that could come
 * to one are left to plain.c else. Whole numbers times F16 scales never come to a subnormal: they are multiples of
 * 2^-24, and no bit of them is lost.
 */
#ifndef OFL_LANDING_X86_H
#define OFL_LANDING_X86_H

#include "liboffload/landing/landing.h"
#include "liboffload/landing/number.h"

#define INLINE static inline __attribute__((always_inline))

/* The same for all thirty-two. */
INLINE struct by one(float d, float m)
{
    return (struct by){{d, d}, {m, m}};
}

INLINE __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

INLINE __m128i nibbles(__m128i v, int high)
{
    return _mm_and_si128(_mm_srli_epi16(v, high ? 4 : 0), _mm_set1_epi8(15));
}

/* Of each byte two bits. */
INLINE __m128i two_bits(__m128i v, int shift)
{
    return _mm_and_si128(_mm_srli_epi16(v, shift), _mm_set1_epi8(3));
}

INLINE float scale_at(const uint8_t *p)
{
    return _cvtsh_ss(number_u16(p));
}

INLINE __m128i values_of(const int8_t *table, __m128i q)
{
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)table), q);
}

/* Sixteen bits as bytes of 16 or 0. */
INLINE __m128i fifth(uint32_t bits)
{
    const __m128i which = _mm_set1_epi64x((long long)0x8040201008040201ull);
    __m128i v = _mm_shuffle_epi8(_mm_cvtsi32_si128((int)bits),
                                 _mm_set_epi64x(0x0101010101010101ll, 0x0000000000000000ll));

    return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(v, which), which), _mm_set1_epi8(16));
}

/* ---- blocks of 32 ------------------------------------------------------------ */

INLINE void q4_0(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p);
    __m128i v = load(p + 2);

    put(out, at, to, _mm_sub_epi8(nibbles(v, 0), _mm_set1_epi8(8)),
        _mm_sub_epi8(nibbles(v, 1), _mm_set1_epi8(8)), one(d, 0), false);
}

INLINE void q4_1(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p), m = scale_at(p + 2);
    __m128i v = load(p + 4);

    put(out, at, to, nibbles(v, 0), nibbles(v, 1), one(d, m), true);
}

INLINE void q5_0(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p);
    uint32_t high = number_u32(p + 2);
    __m128i v = load(p + 6), sixteen = _mm_set1_epi8(16);

    put(out, at, to, _mm_sub_epi8(_mm_or_si128(nibbles(v, 0), fifth(high)), sixteen),
        _mm_sub_epi8(_mm_or_si128(nibbles(v, 1), fifth(high >> 16)), sixteen), one(d, 0), false);
}

INLINE void q5_1(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p), m = scale_at(p + 2);
    uint32_t high = number_u32(p + 4);
    __m128i v = load(p + 8);

    put(out, at, to, _mm_or_si128(nibbles(v, 0), fifth(high)), _mm_or_si128(nibbles(v, 1), fifth(high >> 16)),
        one(d, m), true);
}

INLINE void q8_0(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p);

    put(out, at, to, load(p + 2), load(p + 18), one(d, 0), false);
}

INLINE void iq4_nl(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = scale_at(p);
    __m128i v = load(p + 2);

    put(out, at, to, values_of(landing_iq4, nibbles(v, 0)), values_of(landing_iq4, nibbles(v, 1)), one(d, 0),
        false);
}

INLINE void mxfp4(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d = number_of_bits(p[0] < 2 ? 0x00200000u << p[0] : (p[0] - 1u) << 23);
    __m128i v = load(p + 1);

    put(out, at, to, values_of(landing_fp4, nibbles(v, 0)), values_of(landing_fp4, nibbles(v, 1)), one(d, 0),
        false);
}

/* ---- blocks of 256 ----------------------------------------------------------- */

/* Sixteen whole numbers, each times d. */
INLINE void scaled(float *out, __m128i numbers, float d)
{
    _mm256_storeu_ps(out,
                     _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers)), _mm256_set1_ps(d)));
    numbers = _mm_srli_si128(numbers, 8);
    _mm256_storeu_ps(out + 8,
                     _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers)), _mm256_set1_ps(d)));
}

INLINE void q2_k(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d[16], m[16];

    scaled(d, nibbles(load(p), 0), scale_at(p + 80));
    scaled(m, nibbles(load(p), 1), -scale_at(p + 82));
    for (int half = 0; half < 2; half++) {
        __m128i a = load(p + 16 + half * 32), b = load(p + 32 + half * 32);

        for (int i = 0; i < 4; i++) {
            int s = half * 8 + 2 * i;

            put(out, at + 16 * (uint64_t)s, to, two_bits(a, 2 * i), two_bits(b, 2 * i),
                (struct by){{d[s], d[s + 1]}, {m[s], m[s + 1]}}, true);
        }
    }
}

INLINE __m128i q3_scales(const uint8_t *p)
{
    uint32_t a = number_u32(p), b = number_u32(p + 4), high = number_u32(p + 8);
    const uint32_t low = 0x0f0f0f0f, two = 0x03030303;
    __m128i s = _mm_set_epi32(
        (int)((b >> 4 & low) | (high >> 6 & two) << 4), (int)((a >> 4 & low) | (high >> 4 & two) << 4),
        (int)((b & low) | (high >> 2 & two) << 4), (int)((a & low) | (high & two) << 4));

    return _mm_sub_epi8(s, _mm_set1_epi8(32));
}

/* Less 4 where the mask has no such bit. */
INLINE __m128i q3_less(__m128i q, __m128i mask, __m128i bit)
{
    __m128i clear = _mm_cmpeq_epi8(_mm_and_si128(mask, bit), _mm_setzero_si128());

    return _mm_sub_epi8(q, _mm_and_si128(clear, _mm_set1_epi8(4)));
}

INLINE void q3_k(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    __m128i mask[2] = {load(p), load(p + 16)};
    float d[16];

    scaled(d, q3_scales(p + 96), scale_at(p + 108));
    for (int half = 0; half < 2; half++) {
        __m128i a = load(p + 32 + half * 32), b = load(p + 48 + half * 32);

        for (int i = 0; i < 4; i++) {
            int s = half * 8 + 2 * i;
            __m128i bit = _mm_set1_epi8((char)(1 << s / 2));

            put(out, at + 16 * (uint64_t)s, to, q3_less(two_bits(a, 2 * i), mask[0], bit),
                q3_less(two_bits(b, 2 * i), mask[1], bit), (struct by){{d[s], d[s + 1]}, {0, 0}}, false);
        }
    }
}

/* Eight scales, and behind them eight minima. */
INLINE __m128i q45_scales(const uint8_t *p)
{
    uint32_t a = number_u32(p), b = number_u32(p + 4), c = number_u32(p + 8);
    const uint32_t six = 0x3f3f3f3f, low = 0x0f0f0f0f, two = 0x30303030;

    return _mm_set_epi32((int)((c >> 4 & low) | (b >> 2 & two)), (int)(b & six),
                         (int)((c & low) | (a >> 2 & two)), (int)(a & six));
}

INLINE void q4_k(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    __m128i scales = q45_scales(p + 4);
    float d[16], m[16];

    scaled(d, scales, scale_at(p));
    scaled(m, scales, -scale_at(p + 2));
    for (int b = 0; b < 8; b++) {
        const uint8_t *q = p + 16 + b / 2 * 32;

        put(out, at + 32 * (uint64_t)b, to, nibbles(load(q), b % 2), nibbles(load(q + 16), b % 2),
            one(d[b], m[8 + b]), true);
    }
}

/* The fifth bits of a sub-block are one bit of each byte. */
INLINE __m128i q5_more(__m128i q, __m128i high, __m128i bit)
{
    __m128i set = _mm_cmpeq_epi8(_mm_and_si128(high, bit), bit);

    return _mm_or_si128(q, _mm_and_si128(set, _mm_set1_epi8(16)));
}

INLINE void q5_k(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    __m128i scales = q45_scales(p + 4), high[2] = {load(p + 16), load(p + 32)};
    float d[16], m[16];

    scaled(d, scales, scale_at(p));
    scaled(m, scales, -scale_at(p + 2));
    for (int b = 0; b < 8; b++) {
        const uint8_t *q = p + 48 + b / 2 * 32;
        __m128i bit = _mm_set1_epi8((char)(1 << b));

        put(out, at + 32 * (uint64_t)b, to, q5_more(nibbles(load(q), b % 2), high[0], bit),
            q5_more(nibbles(load(q + 16), b % 2), high[1], bit), one(d[b], m[8 + b]), true);
    }
}

INLINE __m128i q6_of(const uint8_t *low, const uint8_t *high, int i)
{
    __m128i h = _mm_slli_epi16(two_bits(load(high), i / 2 * 2), 4);

    return _mm_sub_epi8(_mm_or_si128(nibbles(load(low), i / 4), h), _mm_set1_epi8(32));
}

INLINE void q6_k(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d[16];

    scaled(d, load(p + 192), scale_at(p + 208));
    for (int s = 0; s < 16; s += 2) {
        int i = s % 8;
        const uint8_t *low = p + s / 8 * 64 + i % 4 * 16, *high = p + 128 + s / 8 * 32;

        put(out, at + 16 * (uint64_t)s, to, q6_of(low, high, i), q6_of(low + 16, high + 16, i),
            (struct by){{d[s], d[s + 1]}, {0, 0}}, false);
    }
}

/* The eight scales: low nibbles in 4 bytes, upper two bits in a word. */
INLINE __m128i xs_scales(const uint8_t *p)
{
    uint32_t high = number_u16(p), low = number_u32(p + 2), a, b;

    /* as bytes, in the order of the blocks: even ones are low nibbles */
    a = (low & 15) | (low >> 4 & 15) << 8 | (low >> 8 & 15) << 16 | (low >> 12 & 15) << 24;
    b = (low >> 16 & 15) | (low >> 20 & 15) << 8 | (low >> 24 & 15) << 16 | low >> 28 << 24;
    a |= (high & 3) << 4 | (high >> 2 & 3) << 12 | (high >> 4 & 3) << 20 | (high >> 6 & 3) << 28;
    b |= (high >> 8 & 3) << 4 | (high >> 10 & 3) << 12 | (high >> 12 & 3) << 20 | high >> 14 << 28;
    return _mm_sub_epi8(_mm_set_epi32(0, 0, (int)b, (int)a), _mm_set1_epi8(32));
}

INLINE void iq4_xs(const uint8_t *p, uint64_t at, enum landing_to to, void *out)
{
    float d[16];

    scaled(d, xs_scales(p + 2), scale_at(p));
    for (int b = 0; b < 8; b++) {
        __m128i v = load(p + 8 + b * 16);

        put(out, at + 32 * (uint64_t)b, to, values_of(landing_iq4, nibbles(v, 0)),
            values_of(landing_iq4, nibbles(v, 1)), one(d[b], 0), false);
    }
}

/* ---- the table ----------------------------------------------------------------- */

/* Blocks that put can't round to BF16: with an F16 number that is infinite or NaN; of MXFP4 where results may be
 * subnormal. */
INLINE bool infinite(const uint8_t *p)
{
    return !PUT_TAKES_NAN && (number_u16(p) & 0x7c00) == 0x7c00;
}

INLINE bool subnormal(const uint8_t *p)
{
    return !PUT_TAKES_SUBNORMAL && p[0] < 2;
}

/* odd: of a block p. Those that are not are done in runs, so that a loop of nothing else can keep its constants. */
#define FORM(name, NAME, elems, bytes, odd)                                                                  \
    static void name##_f32(const uint8_t *p, uint64_t n, void *out)                                          \
    {                                                                                                        \
        for (uint64_t b = 0; b < n; b++)                                                                     \
            name(p + b * (bytes), b * (elems), LANDING_F32, out);                                            \
    }                                                                                                        \
    static void name##_f16(const uint8_t *p, uint64_t n, void *out)                                          \
    {                                                                                                        \
        for (uint64_t b = 0; b < n; b++)                                                                     \
            name(p + b * (bytes), b * (elems), LANDING_F16, out);                                            \
    }                                                                                                        \
    static uint64_t name##_run(const uint8_t *p, uint64_t n)                                                 \
    {                                                                                                        \
        uint64_t run = 0;                                                                                    \
                                                                                                             \
        for (; run < n && !(odd); run++)                                                                     \
            p += (bytes);                                                                                    \
        return run;                                                                                          \
    }                                                                                                        \
    static void name##_bf16(const uint8_t *p, uint64_t n, void *out)                                         \
    {                                                                                                        \
        for (uint64_t b = 0; b < n;) {                                                                       \
            uint64_t end = b + name##_run(p + b * (bytes), n - b < RUN_MOST ? n - b : RUN_MOST);             \
                                                                                                             \
            if (b == end) {                                                                                  \
                landing_plain[OFL_##NAME].to[LANDING_BF16](p + b * (bytes), 1,                               \
                                                           (uint16_t *)out + b * (elems));                   \
                b++;                                                                                         \
            }                                                                                                \
            for (; b < end; b++)                                                                             \
                name(p + b * (bytes), b * (elems), LANDING_BF16, out);                                       \
        }                                                                                                    \
    }

#define RUN_MOST 64 /* blocks: what is looked at stays in the first cache */

FORM(q4_0, Q4_0, 32, 18, infinite(p))
FORM(q4_1, Q4_1, 32, 20, infinite(p) || infinite(p + 2))
FORM(q5_0, Q5_0, 32, 22, infinite(p))
FORM(q5_1, Q5_1, 32, 24, infinite(p) || infinite(p + 2))
FORM(q8_0, Q8_0, 32, 34, infinite(p))
FORM(q2_k, Q2_K, 256, 84, infinite(p + 80) || infinite(p + 82))
FORM(q3_k, Q3_K, 256, 110, infinite(p + 108))
FORM(q4_k, Q4_K, 256, 144, infinite(p) || infinite(p + 2))
FORM(q5_k, Q5_K, 256, 176, infinite(p) || infinite(p + 2))
FORM(q6_k, Q6_K, 256, 210, infinite(p + 208))
FORM(iq4_nl, IQ4_NL, 32, 18, infinite(p))
FORM(iq4_xs, IQ4_XS, 256, 136, infinite(p))
FORM(mxfp4, MXFP4, 32, 17, subnormal(p))

#define FORMS(name)                                                                                          \
    {                                                                                                        \
        {                                                                                                    \
            name##_f32, name##_f16, name##_bf16                                                              \
        }                                                                                                    \
    }
#define FORMS_TABLE                                                                                          \
    {                                                                                                        \
        [OFL_Q4_0] = FORMS(q4_0), [OFL_Q4_1] = FORMS(q4_1), [OFL_Q5_0] = FORMS(q5_0),                        \
        [OFL_Q5_1] = FORMS(q5_1), [OFL_Q8_0] = FORMS(q8_0), [OFL_Q2_K] = FORMS(q2_k),                        \
        [OFL_Q3_K] = FORMS(q3_k), [OFL_Q4_K] = FORMS(q4_k), [OFL_Q5_K] = FORMS(q5_k),                        \
        [OFL_Q6_K] = FORMS(q6_k), [OFL_IQ4_NL] = FORMS(iq4_nl), [OFL_IQ4_XS] = FORMS(iq4_xs),                \
        [OFL_MXFP4] = FORMS(mxfp4),                                                                          \
    }

/* ---- runs ------------------------------------------------------------------------ */

INLINE void run_as(const struct landing_run *r, enum landing_to to, enum landing_number number, bool nibbled)
{
    for (uint64_t i = 0; i < r->n; i += 32) {
        __m128i v = load(r->q + (nibbled ? i / 2 : i)), q0 = v, q1;

        if (nibbled) {
            q0 = _mm_unpacklo_epi8(nibbles(v, 0), nibbles(v, 1));
            q1 = _mm_unpackhi_epi8(nibbles(v, 0), nibbles(v, 1));
        } else {
            q1 = load(r->q + i + 16);
        }
        if (number == LANDING_WHOLE) {
            q0 = _mm_sub_epi8(q0, _mm_set1_epi8(r->zeros[i / 16]));
            q1 = _mm_sub_epi8(q1, _mm_set1_epi8(r->zeros[i / 16 + 1]));
        }
        put_numbers(r->out, i, to, number, q0, q1, r->scales + i / 16);
    }
}

INLINE void run_to(const struct landing_run *r, enum landing_to to)
{
    if (r->number == LANDING_FP4)
        run_as(r, to, LANDING_FP4, true);
    else if (r->number == LANDING_E4M3)
        run_as(r, to, LANDING_E4M3, false);
    else if (r->number == LANDING_E5M2)
        run_as(r, to, LANDING_E5M2, false);
    else if (r->nibbles)
        run_as(r, to, LANDING_WHOLE, true);
    else
        run_as(r, to, LANDING_WHOLE, false);
}

static void run_f32(const struct landing_run *r)
{
    run_to(r, LANDING_F32);
}

static void run_f16(const struct landing_run *r)
{
    run_to(r, LANDING_F16);
}

static void run_bf16(const struct landing_run *r)
{
    run_to(r, LANDING_BF16);
}

#define RUNS_TABLE                                                                                           \
    {                                                                                                        \
        .to = {run_f32, run_f16, run_bf16}, .takes_nan = PUT_TAKES_NAN                                       \
    }

#endif
