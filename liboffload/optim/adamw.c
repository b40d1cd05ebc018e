/* adamw: see adamw.h. Compiled without contraction, so that vector body and tail agree bit for bit. */
#include "liboffload/optim/adamw.h"

#include <math.h>
#include <string.h>

/* Elements per block: p stays in the first-level cache until it is rounded. */
#define BLOCK 1024u
#define LANES 16u

struct optim_coef optim_coef_make(const struct ofl_adamw *s)
{
    double t = (double)s->step;

    return (struct optim_coef){
        .decay = (float)(1.0 - s->lr * s->weight_decay),
        .beta1 = (float)s->beta1,
        .rest1 = (float)(1.0 - s->beta1),
        .beta2 = (float)s->beta2,
        .rest2 = (float)(1.0 - s->beta2),
        .rate = (float)(s->lr / (1.0 - pow(s->beta1, t))),
        .root = (float)(1.0 / sqrt(1.0 - pow(s->beta2, t))),
        .eps = (float)s->eps,
    };
}

static void update_block(const struct optim_coef *c, float scale, float *restrict p, float *restrict m,
                         float *restrict v, const float *restrict g, uint64_t n)
{
    const struct optim_coef k = *c;

    for (uint64_t i = 0; i < n; i++) {
        float grad = g[i] * scale;
        float mean = k.beta1 * m[i] + k.rest1 * grad;
        float square = k.beta2 * v[i] + k.rest2 * grad * grad;

        m[i] = mean;
        v[i] = square;
        p[i] = p[i] * k.decay - k.rate * mean / (sqrtf(square) * k.root + k.eps);
    }
}

/* Round to nearest, ties to even; NaN stays NaN. */
static void round_block(uint16_t *restrict to, const float *restrict from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits, rounded;

        memcpy(&bits, &from[i], sizeof bits);
        rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
    }
}

void optim_adamw(const struct optim_coef *c, float scale, float *p, float *m, float *v, const float *g,
                 uint16_t *w16, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += BLOCK) {
        uint64_t some = n - i < BLOCK ? n - i : BLOCK;

        update_block(c, scale, p + i, m + i, v + i, g + i, some);
        if (w16)
            round_block(w16 + i, p + i, some);
    }
}

double optim_sum_squares(const float *x, uint64_t n)
{
    double lane[LANES] = {0}, sum = 0;
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (uint64_t k = 0; k < LANES; k++)
            lane[k] += (double)x[i + k] * (double)x[i + k];
    for (uint64_t k = 0; i + k < n; k++)
        lane[k] += (double)x[i + k] * (double)x[i + k];
    for (uint64_t k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}
