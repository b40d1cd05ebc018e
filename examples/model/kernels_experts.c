/* Kernels of a mixture of experts. See kernels_experts.h. */
#include "examples/model/kernels_experts.h"

#include "examples/model/kernels_inline.h"

/* ---- routes -------------------------------------------------------------- */

static void softmax(float *a, size_t n)
{
    float sum = llama_exp_sum(a, n, llama_max(a, n));

    for (size_t i = 0; i < n; i++)
        a[i] /= sum;
}

static bool is_taken(const struct llama_route *routes, uint32_t n, uint32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (routes[i].expert == expert)
            return true;
    return false;
}

/* The most likely one that is not among the first n of them. Where none is a number, some are taken all the same. */
static uint32_t most_likely(const struct llama_shape *s, const struct llama_route *routes, uint32_t n,
                            const float *probs)
{
    uint32_t best = UINT32_MAX;

    for (uint32_t e = 0; e < s->experts; e++)
        if ((best == UINT32_MAX || probs[e] > probs[best]) && !is_taken(routes, n, e))
            best = e;
    return best;
}

static float weight_sum(const struct llama_shape *s, const struct llama_route *routes, const float *probs)
{
    float sum = 0;

    for (uint32_t i = 0; i < s->experts_used; i++)
        sum += probs[routes[i].expert];
    return sum;
}

/* Over the scores of those used, the first of which has the largest one. */
static void softmax_used(const struct llama_shape *s, struct llama_route *routes, const float *scores)
{
    float sum = 0;

    for (uint32_t i = 0; i < s->experts_used; i++) {
        routes[i].weight = llama_exp(scores[routes[i].expert] - scores[routes[0].expert]);
        sum += routes[i].weight;
    }
    for (uint32_t i = 0; i < s->experts_used; i++)
        routes[i].weight /= sum;
}

void llama_route_rows(const struct llama_shape *s, struct llama_route *routes, float *probs, size_t rows)
{
    for (size_t r = 0; r < rows; r++, probs += s->experts, routes += s->experts_used) {
        float sum = 1;

        if (!s->router_chosen)
            softmax(probs, s->experts);
        for (uint32_t i = 0; i < s->experts_used; i++)
            routes[i].expert = most_likely(s, routes, i, probs);
        if (s->router_chosen) {
            softmax_used(s, routes, probs);
            continue;
        }
        if (s->router_normed)
            sum = weight_sum(s, routes, probs);
        for (uint32_t i = 0; i < s->experts_used; i++)
            routes[i].weight = probs[routes[i].expert] / sum;
    }
}

/*
 * With weights w = p / s, s their sum (1 where they are not normed): dp = (dw - sum(dw w)) / s for those used, or dw; 0
 * for all others; dscore = p (dp - sum(dp p)).
 */
void llama_route_backward(const struct llama_shape *s, float *dscores, const float *dweights,
                          const struct llama_route *routes, const float *probs, size_t rows)
{
    uint32_t used = s->experts_used;

    for (size_t r = 0; r < rows; r++, dscores += s->experts, dweights += used, routes += used) {
        const float *p = probs + r * s->experts;
        float sum = s->router_normed ? weight_sum(s, routes, p) : 1, along = 0, total = 0;

        memset(dscores, 0, s->experts * sizeof *dscores);
        for (uint32_t i = 0; i < used && s->router_normed; i++)
            along += dweights[i] * routes[i].weight;
        for (uint32_t i = 0; i < used; i++) {
            float dp = (dweights[i] - along) / sum;

            dscores[routes[i].expert] = dp;
            total += dp * p[routes[i].expert];
        }
        for (uint32_t e = 0; e < s->experts; e++)
            dscores[e] = p[e] * (dscores[e] - total);
    }
}

/* ---- rows ---------------------------------------------------------------- */

void llama_choose(const struct llama_shape *s, const struct llama_route *routes, uint32_t expert, size_t rows,
                  struct llama_chosen *out)
{
    out->count = 0;
    for (size_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < s->experts_used; i++)
            if (routes[r * s->experts_used + i].expert == expert) {
                out->rows[out->count] = (uint32_t)r;
                out->places[out->count++] = (uint32_t)(r * s->experts_used + i);
            }
}

void llama_gather(float *to, const float *from, const struct llama_chosen *c, size_t n)
{
    for (size_t i = 0; i < c->count; i++)
        memcpy(to + i * n, from + c->rows[i] * n, n * sizeof *to);
}
