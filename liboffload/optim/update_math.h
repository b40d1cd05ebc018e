/*
 * update_math: the arithmetic of one element, and the order in which squares are summed. For the
 * compiler of C (update.c) and that of CUDA (update.cu) alike, so that the two can't differ. Both
 * compile it without contraction, with IEEE division and roots, and keep subnormals.
 */
#ifndef OFL_OPTIM_UPDATE_MATH_H
#define OFL_OPTIM_UPDATE_MATH_H

#include <math.h>
#include <stdint.h>

#include "include/offload.h"

#ifdef __CUDACC__
#define OPTIM_INLINE static __device__ __forceinline__
#else
#define OPTIM_INLINE static inline
#endif

/* The scalars of one step, rounded to fp32 once. */
struct optim_coef {
    float decay;        /* 1 - lr * weight_decay, where decay is decoupled; else 1 */
    float coupled;      /* weight_decay, where it is added to the gradient; else 0 */
    float beta1, rest1; /* beta1, 1 - beta1 */
    float beta2, rest2;
    float rate; /* lr / (1 - beta1^t) of methods with two states; else lr */
    float root; /* 1 / sqrt(1 - beta2^t) */
    float eps;
};

/* What a step's norm says. */
struct optim_norm {
    double norm;   /* square root of the sum of squares over all gradients */
    float scale;   /* what clipping multiplies them with, at most 1 */
    uint32_t skip; /* 1: nothing is to be updated by them */
};

/* The sums of the parts of one gradient. */
struct optim_parts {
    const double *sums;
    uint64_t count;
};

/* A gradient is summed in parts, a block of threads each; a part in lanes, a thread each, of
 * every 256th element; lanes are folded: the upper half onto the lower one, until one is left.
 * The parts, then, in 32 lanes, likewise. Of all gradients the sums are added up one by one. */
#define OPTIM_PARTS     512u  /* at most */
#define OPTIM_PART_MIN  4096u /* elements, but for the last part */
#define OPTIM_LANES     256u
#define OPTIM_SUM_LANES 32u

/* Elements of each part but the last, of n. */
static inline uint64_t optim_part_elems(uint64_t n)
{
    uint64_t each = (n / OPTIM_PARTS + OPTIM_LANES) / OPTIM_LANES * OPTIM_LANES;

    return each < OPTIM_PART_MIN ? OPTIM_PART_MIN : each;
}

static inline uint32_t optim_parts_count(uint64_t n)
{
    uint64_t each = optim_part_elems(n);

    return (uint32_t)((n + each - 1) / each);
}

/* What an earlier step's updates may still read is written only by steps whose updates wait for the norm, too. */
OPTIM_INLINE void optim_norm_set(struct optim_norm *out, double sum, double clip, uint32_t skip_overflow)
{
    out->norm = sqrt(sum);
    if (clip > 0 || skip_overflow) {
        out->scale = 1.0f;
        out->skip = skip_overflow && !(out->norm <= 1.7976931348623157e308); /* the largest finite number */
    }
    if (clip > 0) {
        double scale = clip / (out->norm + 1e-6);

        out->scale = (float)(scale < 1.0 ? scale : 1.0); /* 1 for a norm that is no number */
    }
}

/* Of methods with a mean and a mean square: Adam and AdamW. */
OPTIM_INLINE float optim_adaptive(const struct optim_coef *k, float grad, float p, float *m, float *v)
{
    float mean = k->beta1 * *m + k->rest1 * grad;
    float square = k->beta2 * *v + k->rest2 * grad * grad;

    *m = mean;
    *v = square;
    return p * k->decay - k->rate * mean / (sqrtf(square) * k->root + k->eps);
}

/* -1, 0 or 1; NaN stays NaN. */
OPTIM_INLINE float optim_sign(float x)
{
    return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
}

/* Updates the states; returns the new p. grad: scaled. v: NULL for methods with one state. The method is known when
 * this is compiled. */
OPTIM_INLINE float optim_element(enum ofl_method method, const struct optim_coef *k, float grad, float p,
                                 float *m, float *v)
{
    float ahead;

    switch (method) {
    case OFL_ADAM:
        return optim_adaptive(k, grad + k->coupled * p, p, m, v);
    case OFL_SGD:
        *m = k->beta1 * *m + (grad + k->coupled * p);
        return p - k->rate * *m;
    case OFL_LION:
        ahead = k->beta1 * *m + k->rest1 * grad;
        *m = k->beta2 * *m + k->rest2 * grad;
        return p * k->decay - k->rate * optim_sign(ahead);
    default:
        return optim_adaptive(k, grad, p, m, v);
    }
}

/* The upper half onto the lower one, until one is left. */
OPTIM_INLINE double optim_fold(double *x, uint32_t count)
{
    for (uint32_t half = count / 2; half; half /= 2)
        for (uint32_t k = 0; k < half; k++)
            x[k] += x[k + half];
    return x[0];
}

/* The BF16 nearest to the float of these bits, ties to even; NaN stays NaN. */
OPTIM_INLINE uint16_t optim_bf16(uint32_t bits)
{
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

#endif
