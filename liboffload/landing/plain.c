/*
 * plain: the reference form of unpacking, one block at a time, in plain C. Other forms must give its bits.
 *
 * Layouts are those of GGUF files (ggml's blocks). The order of operations is that of the Python package gguf, whose
 * values these are to the bit: scales first, each product and sum rounded to F32.
 */
#include "base/dtype.h"
#include "liboffload/landing/landing.h"
#include "liboffload/landing/number.h"

#define BLOCK_MOST 256

const int8_t landing_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t landing_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* One block to F32. */
typedef void one_fn(const uint8_t *p, float *out);

/* ---- blocks of 32: a scale, nibbles of values 0 to 15 and 16 to 31 ---------- */

static void q4_0(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p));

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p)), m = number_f16(number_u16(p + 2));

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(p[4 + i] & 15) + m;
        out[i + 16] = d * (float)(p[4 + i] >> 4) + m;
    }
}

/* The fifth bits stand in a word of their own. */
static void q5_0(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p));
    uint32_t high = number_u32(p + 2);

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((p[6 + i] & 15u) | (high >> i & 1) << 4) - 16);
        out[i + 16] = d * (float)((int)((p[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void q5_1(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p)), m = number_f16(number_u16(p + 2));
    uint32_t high = number_u32(p + 4);

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[8 + i] & 15u) | (high >> i & 1) << 4) + m;
        out[i + 16] = d * (float)((unsigned)(p[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
    }
}

static void q8_0(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p));

    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(int8_t)p[2 + i];
}

static void iq4_nl(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p));

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)landing_iq4[p[2 + i] & 15];
        out[i + 16] = d * (float)landing_iq4[p[2 + i] >> 4];
    }
}

/* The scale is a power of two alone, 2^(e - 128): half of what E8M0 says, as the values are doubled. */
static void mxfp4(const uint8_t *p, float *out)
{
    float d = number_of_bits(p[0] < 2 ? 0x00200000u << p[0] : (p[0] - 1u) << 23);

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)landing_fp4[p[1 + i] & 15];
        out[i + 16] = d * (float)landing_fp4[p[1 + i] >> 4];
    }
}

/* ---- blocks of 256, with scales of 16 or 32 values that are themselves scaled - */

static void q2_k(const uint8_t *p, float *out)
{
    const uint8_t *scales = p, *qs = p + 16;
    float d = number_f16(number_u16(p + 80)), min = number_f16(number_u16(p + 82));

    for (int i = 0; i < 256; i++) {
        int q = qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3, s = scales[i / 16];

        out[i] = d * (float)(s & 15) * (float)q - min * (float)(s >> 4);
    }
}

/* The sixteen scales of 6 bits: low halves in 8 bytes, the upper two bits in 4. */
static int q3_scale(const uint8_t *scales, int i)
{
    int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4, high = scales[8 + i % 4] >> i / 4 * 2 & 3;

    return (low | high << 4) - 32;
}

/* A bit that is set in the mask stands for no offset. */
static void q3_k(const uint8_t *p, float *out)
{
    const uint8_t *mask = p, *qs = p + 32;
    float d = number_f16(number_u16(p + 108));

    for (int i = 0; i < 256; i++) {
        int q = (qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - (mask[i % 32] >> i / 32 & 1 ? 0 : 4);

        out[i] = d * (float)q3_scale(p + 96, i / 16) * (float)q;
    }
}

/* The eight scales and minima of 6 bits. */
static void q45_scales(const uint8_t *p, int i, float *scale, float *min)
{
    int s = i < 4 ? p[i] & 63 : (p[i + 4] & 15) | p[i - 4] >> 6 << 4;
    int m = i < 4 ? p[i + 4] & 63 : p[i + 4] >> 4 | p[i] >> 6 << 4;

    *scale *= (float)s;
    *min *= (float)m;
}

static void q4_k(const uint8_t *p, float *out)
{
    for (int b = 0; b < 8; b++) {
        float d = number_f16(number_u16(p)), min = number_f16(number_u16(p + 2));

        q45_scales(p + 4, b, &d, &min);
        for (int i = 0; i < 32; i++)
            out[b * 32 + i] = d * (float)(p[16 + b / 2 * 32 + i] >> b % 2 * 4 & 15) - min;
    }
}

static void q5_k(const uint8_t *p, float *out)
{
    for (int b = 0; b < 8; b++) {
        float d = number_f16(number_u16(p)), min = number_f16(number_u16(p + 2));

        q45_scales(p + 4, b, &d, &min);
        for (int i = 0; i < 32; i++) {
            int low = p[48 + b / 2 * 32 + i] >> b % 2 * 4 & 15, high = p[16 + i] >> b & 1;

            out[b * 32 + i] = d * (float)(low | high << 4) - min;
        }
    }
}

static void q6_k(const uint8_t *p, float *out)
{
    const uint8_t *low = p, *high = p + 128, *scales = p + 192;
    float d = number_f16(number_u16(p + 208));

    for (int i = 0; i < 256; i++) {
        int half = i / 128, at = i % 128;
        int l = low[half * 64 + at % 64] >> at / 64 * 4 & 15,
            h = high[half * 32 + at % 32] >> at / 32 * 2 & 3;

        out[i] = d * (float)(int8_t)scales[i / 16] * (float)((l | h << 4) - 32);
    }
}

static void iq4_xs(const uint8_t *p, float *out)
{
    float d = number_f16(number_u16(p));
    uint16_t high = number_u16(p + 2);

    for (int b = 0; b < 8; b++) {
        int scale = (p[4 + b / 2] >> b % 2 * 4 & 15) | (high >> 2 * b & 3) << 4;
        float by = d * (float)(scale - 32);

        for (int i = 0; i < 16; i++) {
            out[b * 32 + i] = by * (float)landing_iq4[p[8 + b * 16 + i] & 15];
            out[b * 32 + i + 16] = by * (float)landing_iq4[p[8 + b * 16 + i] >> 4];
        }
    }
}

/* ---- all blocks -------------------------------------------------------------- */

static inline __attribute__((always_inline)) void all(one_fn *one, enum ofl_dtype dtype, enum landing_to to,
                                                      const uint8_t *packed, uint64_t blocks, void *out)
{
    const struct base_dtype *d = base_dtype(dtype);
    float values[BLOCK_MOST];

    for (uint64_t b = 0; b < blocks; b++) {
        const uint8_t *p = packed + b * d->block_bytes;
        uint64_t at = b * d->block_elems;

        one(p, values);
        if (to == LANDING_F32)
            memcpy((float *)out + at, values, d->block_elems * sizeof *values);
        for (uint32_t i = 0; to != LANDING_F32 && i < d->block_elems; i++)
            ((uint16_t *)out)[at + i] =
                to == LANDING_F16 ? number_to_f16(values[i]) : number_to_bf16(values[i]);
    }
}

#define FORM(name, NAME)                                                                                     \
    static void name##_f32(const uint8_t *p, uint64_t n, void *out)                                          \
    {                                                                                                        \
        all(name, OFL_##NAME, LANDING_F32, p, n, out);                                                       \
    }                                                                                                        \
    static void name##_f16(const uint8_t *p, uint64_t n, void *out)                                          \
    {                                                                                                        \
        all(name, OFL_##NAME, LANDING_F16, p, n, out);                                                       \
    }                                                                                                        \
    static void name##_bf16(const uint8_t *p, uint64_t n, void *out)                                         \
    {                                                                                                        \
        all(name, OFL_##NAME, LANDING_BF16, p, n, out);                                                      \
    }
FORM(q4_0, Q4_0)
FORM(q4_1, Q4_1)
FORM(q5_0, Q5_0)
FORM(q5_1, Q5_1)
FORM(q8_0, Q8_0)
FORM(q2_k, Q2_K)
FORM(q3_k, Q3_K)
FORM(q4_k, Q4_K)
FORM(q5_k, Q5_K)
FORM(q6_k, Q6_K)
FORM(iq4_nl, IQ4_NL)
FORM(iq4_xs, IQ4_XS)
FORM(mxfp4, MXFP4)

#define FORMS(name)                                                                                          \
    {                                                                                                        \
        {                                                                                                    \
            name##_f32, name##_f16, name##_bf16                                                              \
        }                                                                                                    \
    }

const struct landing_blocks landing_plain[OFL_DTYPES] = {
    [OFL_Q4_0] = FORMS(q4_0),   [OFL_Q4_1] = FORMS(q4_1),     [OFL_Q5_0] = FORMS(q5_0),
    [OFL_Q5_1] = FORMS(q5_1),   [OFL_Q8_0] = FORMS(q8_0),     [OFL_Q2_K] = FORMS(q2_k),
    [OFL_Q3_K] = FORMS(q3_k),   [OFL_Q4_K] = FORMS(q4_k),     [OFL_Q5_K] = FORMS(q5_k),
    [OFL_Q6_K] = FORMS(q6_k),   [OFL_IQ4_NL] = FORMS(iq4_nl), [OFL_IQ4_XS] = FORMS(iq4_xs),
    [OFL_MXFP4] = FORMS(mxfp4),
};
