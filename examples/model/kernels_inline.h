/*
 * What the kernel files share: a scratch layout, fixed-order sums, exp. Internal to
 * examples/model/kernels*.c and block.c.
 */
#ifndef LLAMA_KERNELS_INLINE_H
#define LLAMA_KERNELS_INLINE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "examples/model/kernels.h"

#define LLAMA_INLINE static inline __attribute__((always_inline))

/*
 * Loops worth wider registers than the baseline's. The variants give the same bits: they differ
 * in register width only, as contraction to FMA is off and sums have a fixed number of lanes.
 * The run-time choice is made before a sanitizer's run-time is up, so not under those.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define LLAMA_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LLAMA_WIDE
#endif

/* Hands out pieces of a scratch buffer. With base NULL it only measures. */
struct llama_arena {
    char *base;
    size_t used, peak;
};

static inline void *llama_take(struct llama_arena *a, size_t bytes)
{
    char *p = a->base ? a->base + a->used : NULL;

    a->used += (bytes + LLAMA_ALIGN - 1) / LLAMA_ALIGN * LLAMA_ALIGN;
    if (a->used > a->peak)
        a->peak = a->used;
    return p;
}

static inline float *llama_take_floats(struct llama_arena *a, size_t n)
{
    return llama_take(a, n * sizeof(float));
}

/* Sixteen sums side by side: a reduction whose order no compiler flag or register width changes. */
#define LLAMA_LANES 16
typedef float llama_lanes __attribute__((vector_size(4 * LLAMA_LANES), aligned(4), may_alias));

LLAMA_INLINE float llama_lane_sum(const llama_lanes *lanes)
{
    float s[LLAMA_LANES];

    memcpy(s, lanes, sizeof s);
    for (size_t width = LLAMA_LANES / 2; width; width /= 2)
        for (size_t i = 0; i < width; i++)
            s[i] += s[i + width];
    return s[0];
}

LLAMA_INLINE float llama_dot(const float *a, const float *b, size_t n)
{
    llama_lanes sum = {0};
    float tail = 0;
    size_t i = 0;

    for (; i + LLAMA_LANES <= n; i += LLAMA_LANES)
        sum += *(const llama_lanes *)(a + i) * *(const llama_lanes *)(b + i);
    for (; i < n; i++)
        tail += a[i] * b[i];
    return llama_lane_sum(&sum) + tail;
}

LLAMA_INLINE float llama_sum(const float *a, size_t n)
{
    llama_lanes sum = {0};
    float tail = 0;
    size_t i = 0;

    for (; i + LLAMA_LANES <= n; i += LLAMA_LANES)
        sum += *(const llama_lanes *)(a + i);
    for (; i < n; i++)
        tail += a[i];
    return llama_lane_sum(&sum) + tail;
}

/* The maximum does not depend on order; lanes only make it fast. NaNs are passed over. */
LLAMA_INLINE float llama_max(const float *a, size_t n)
{
    float lanes[LLAMA_LANES], max = -INFINITY;
    size_t i = 0;

    for (size_t l = 0; l < LLAMA_LANES; l++)
        lanes[l] = -INFINITY;
    for (; i + LLAMA_LANES <= n; i += LLAMA_LANES)
        for (size_t l = 0; l < LLAMA_LANES; l++)
            lanes[l] = a[i + l] > lanes[l] ? a[i + l] : lanes[l];
    for (; i < n; i++)
        max = a[i] > max ? a[i] : max;
    for (size_t l = 0; l < LLAMA_LANES; l++)
        max = lanes[l] > max ? lanes[l] : max;
    return max;
}

LLAMA_INLINE float llama_bits_to_float(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

LLAMA_INLINE uint32_t llama_float_to_bits(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/*
 * e^x to about one unit in the last place, in operations that vectorise: x = n ln 2 + r with
 * |r| <= ln 2 / 2, Taylor's series of e^r to the 7th power (next term below 6e-9), exponent n put
 * in by integer addition. Zero below the normal numbers, e^88 above it; NaN stays NaN.
 */
LLAMA_INLINE float llama_exp(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    float top = x > 88.0f ? 88.0f : x;
    float shifted = top * 1.44269504f + round;
    float n = shifted - round;
    float r = top - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first one short */
    float p = 1.0f / 5040;

    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p *= llama_bits_to_float((llama_float_to_bits(shifted) << 23) + 0x3f800000u);
    return x < -87.0f ? 0.0f : p;
}

/* a[i] = exp(a[i] - max); returns the sum. */
float llama_exp_sum(float *a, size_t n, float max);
/* tanh, to about two units in the last place. Near 0 by its series, where the quotient would cancel. */
LLAMA_INLINE float llama_tanh(float x)
{
    float square = x * x,
          near = x * (1.0f - square * (1.0f / 3 - square * (2.0f / 15 - square * (17.0f / 315))));
    float far = 1.0f - 2.0f / (1.0f + llama_exp(2.0f * x));

    return square < 0.04f ? near : far;
}

/* a[i] = cap * tanh(a[i] / cap) */
void llama_cap(float *a, size_t n, float cap);

#endif
