/*
 * adamw_math: the arithmetic of one element, and the order in which squares are summed. For the
 * compiler of C (adamw.c) and that of CUDA (adamw.cu) alike, so that the two can't differ. Both
 * compile it without contraction, with IEEE division and roots, and keep subnormals.
 */
#ifndef OFL_OPTIM_ADAMW_MATH_H
#define OFL_OPTIM_ADAMW_MATH_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define OPTIM_INLINE static __device__ __forceinline__
#else
#define OPTIM_INLINE static inline
#endif

/* The scalars of one step, rounded to fp32 once. */
struct optim_coef {
    float decay;        /* 1 - lr * weight_decay */
    float beta1, rest1; /* beta1, 1 - beta1 */
    float beta2, rest2;
    float rate; /* lr / (1 - beta1^t) */
    float root; /* 1 / sqrt(1 - beta2^t) */
    float eps;
};

/* What a step's norm says. */
struct optim_norm {
    double norm; /* square root of the sum of squares over all gradients */
    float scale; /* what clipping multiplies them with, at most 1 */
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

OPTIM_INLINE void optim_norm_set(struct optim_norm *out, double sum, double clip)
{
    out->norm = sqrt(sum);
    if (clip > 0) {
        double scale = clip / (out->norm + 1e-6);

        out->scale = (float)(scale < 1.0 ? scale : 1.0); /* 1 for a norm that is no number */
    }
}

/* Updates the moments; returns the new p. grad: scaled. */
OPTIM_INLINE float optim_element(const struct optim_coef *k, float grad, float p, float *m, float *v)
{
    float mean = k->beta1 * *m + k->rest1 * grad;
    float square = k->beta2 * *v + k->rest2 * grad * grad;

    *m = mean;
    *v = square;
    return p * k->decay - k->rate * mean / (sqrtf(square) * k->root + k->eps);
}

/* The BF16 nearest to the float of these bits, ties to even; NaN stays NaN. */
OPTIM_INLINE uint16_t optim_bf16(uint32_t bits)
{
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

#endif
