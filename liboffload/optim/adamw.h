/*
 * adamw: the optimizer's arithmetic on plain memory. No tensors, no threads. Results do
 * not depend on where the arrays lie or how a tensor is cut into calls.
 */
#ifndef OFL_OPTIM_ADAMW_H
#define OFL_OPTIM_ADAMW_H

#include <stdint.h>

#include "include/offload.h"
#include "liboffload/optim/adamw_math.h"

struct optim_coef optim_coef_make(const struct ofl_adamw *settings);

/* One fused pass over n elements: reads g, updates p, m, v in place; writes p rounded to BF16
 * to w16 unless that is NULL. scale multiplies the gradient. */
void optim_adamw(const struct optim_coef *c, float scale, float *p, float *m, float *v, const float *g,
                 uint16_t *w16, uint64_t n);

/* Sum of squares in double, in the order of adamw_math.h, which depends on n alone. */
double optim_sum_squares(const float *x, uint64_t n);

#endif
