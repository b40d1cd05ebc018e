/*
 * update_loops: the loops over memory. Included by update_plain.c, update_avx2.c and update_avx512.c, compiled for
 * their own, with OPTIM_FORM in front of it, the name of the table. Plain C: the compiler finds the vectors, in which
 * an element meets the same operations as alone. Without contraction, so that vector body and tail agree bit for bit.
 */
#ifndef OFL_OPTIM_UPDATE_LOOPS_H
#define OFL_OPTIM_UPDATE_LOOPS_H

#include <string.h>

#include "liboffload/optim/update.h"

/* Elements per block: p stays in the first-level cache until it is rounded. */
#define BLOCK 1024u

static const float zeros[BLOCK];

static void round_block(uint16_t *restrict to, const float *restrict from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &from[i], sizeof bits);
        to[i] = optim_bf16(bits);
    }
}

#define ADVANCED(ptr, by) ((ptr) ? (ptr) + (by) : NULL)

/* Two functions for a method: the pass over memory, and its inner loop. second: the second state of element i. */
#define UPDATE(name, method, second)                                                                         \
    static void name##_block(const struct optim_coef *c, float scale, float *restrict p, float *restrict m,  \
                             float *restrict v, const float *restrict g, uint64_t n)                         \
    {                                                                                                        \
        const struct optim_coef k = *c;                                                                      \
                                                                                                             \
        (void)v;                                                                                             \
                                                                                                             \
        for (uint64_t i = 0; i < n; i++)                                                                     \
            p[i] = optim_element(method, &k, g[i] * scale, p[i], &m[i], second);                             \
    }                                                                                                        \
    static void name(const struct optim_coef *c, float scale, struct optim_arrays a, uint64_t n)             \
    {                                                                                                        \
        for (uint64_t i = 0; i < n; i += BLOCK) {                                                            \
            uint64_t some = n - i < BLOCK ? n - i : BLOCK;                                                   \
                                                                                                             \
            name##_block(c, scale, a.p + i, a.m + i, ADVANCED(a.v, i), a.g ? a.g + i : zeros, some);         \
            if (a.w16)                                                                                       \
                round_block(a.w16 + i, a.p + i, some);                                                       \
        }                                                                                                    \
    }

UPDATE(adamw, OFL_ADAMW, &v[i])
UPDATE(adam, OFL_ADAM, &v[i])
UPDATE(sgd, OFL_SGD, NULL)
UPDATE(lion, OFL_LION, NULL)

static double sum_part(const float *x, uint64_t n)
{
    double lane[OPTIM_LANES] = {0};
    uint64_t i = 0;

    for (; i + OPTIM_LANES <= n; i += OPTIM_LANES)
        for (uint64_t k = 0; k < OPTIM_LANES; k++)
            lane[k] += (double)x[i + k] * (double)x[i + k];
    for (uint64_t k = 0; i + k < n; k++)
        lane[k] += (double)x[i + k] * (double)x[i + k];
    return optim_fold(lane, OPTIM_LANES);
}

const struct optim_form OPTIM_FORM = {
    .update = {[OFL_ADAMW] = adamw, [OFL_ADAM] = adam, [OFL_SGD] = sgd, [OFL_LION] = lion},
    .sum_part = sum_part,
    .round = round_block};

#endif
