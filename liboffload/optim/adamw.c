/* adamw: see adamw.h. Compiled without contraction, so that vector body and tail agree bit for bit. */
#include "liboffload/optim/adamw.h"

#include <math.h>
#include <string.h>

/* Elements per block: p stays in the first-level cache until it is rounded. */
#define BLOCK 1024u

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

    for (uint64_t i = 0; i < n; i++)
        p[i] = optim_element(&k, g[i] * scale, p[i], &m[i], &v[i]);
}

static void round_block(uint16_t *restrict to, const float *restrict from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &from[i], sizeof bits);
        to[i] = optim_bf16(bits);
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

/* The upper half onto the lower one, until one is left. */
static double fold(double *x, uint64_t count)
{
    for (uint64_t half = count / 2; half; half /= 2)
        for (uint64_t k = 0; k < half; k++)
            x[k] += x[k + half];
    return x[0];
}

static double sum_part(const float *x, uint64_t n)
{
    double lane[OPTIM_LANES] = {0};
    uint64_t i = 0;

    for (; i + OPTIM_LANES <= n; i += OPTIM_LANES)
        for (uint64_t k = 0; k < OPTIM_LANES; k++)
            lane[k] += (double)x[i + k] * (double)x[i + k];
    for (uint64_t k = 0; i + k < n; k++)
        lane[k] += (double)x[i + k] * (double)x[i + k];
    return fold(lane, OPTIM_LANES);
}

double optim_sum_squares(const float *x, uint64_t n)
{
    uint64_t each = optim_part_elems(n), part = 0;
    double lane[OPTIM_SUM_LANES] = {0};

    for (uint64_t i = 0; i < n; i += each)
        lane[part++ % OPTIM_SUM_LANES] += sum_part(x + i, n - i < each ? n - i : each);
    return fold(lane, OPTIM_SUM_LANES);
}
