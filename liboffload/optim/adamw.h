/*
 * adamw: the optimizer's arithmetic on plain memory. No tensors, no threads. Results do
 * not depend on where the arrays lie or how a tensor is cut into calls.
 */
#ifndef OFL_OPTIM_ADAMW_H
#define OFL_OPTIM_ADAMW_H

#include <stdint.h>

#include "include/offload.h"

/* The scalars of one step, rounded to fp32 once. */
struct optim_coef {
    float decay;        /* 1 - lr * weight_decay */
    float beta1, rest1; /* beta1, 1 - beta1 */
    float beta2, rest2;
    float rate; /* lr / (1 - beta1^t) */
    float root; /* 1 / sqrt(1 - beta2^t) */
    float eps;
};

struct optim_coef optim_coef_make(const struct ofl_adamw *settings);

/* One fused pass over n elements: reads g, updates p, m, v in place; writes p rounded to BF16
 * to w16 unless that is NULL. scale multiplies the gradient. */
void optim_adamw(const struct optim_coef *c, float scale, float *p, float *m, float *v, const float *g,
                 uint16_t *w16, uint64_t n);

/* Sum of squares in double, in an order that depends on n alone. */
double optim_sum_squares(const float *x, uint64_t n);

#endif
