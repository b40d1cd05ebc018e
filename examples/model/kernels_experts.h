/*
 * Kernels of a mixture of experts (Shazeer et al., 2017): which experts a row uses, and one expert over the rows that
 * use it. The rules are those of kernels.h.
 */
#ifndef LLAMA_KERNELS_EXPERTS_H
#define LLAMA_KERNELS_EXPERTS_H

#include "examples/model/kernels.h"

/* An expert that a row uses, and by how much its output counts there. */
struct llama_route {
    uint32_t expert;
    float weight;
};

/* probs[rows, experts]: scores, which become their softmax over all unless that is over those used. routes[rows, experts_used]: of each row the most
 * likely ones, of equal ones the first. */
void llama_route_rows(const struct llama_shape *shape, struct llama_route *routes, float *probs, size_t rows);
/* dscores[rows, experts] from dweights[rows, experts_used], those of the routes' weights. probs: as they were left. */
void llama_route_backward(const struct llama_shape *shape, float *dscores, const float *dweights,
                          const struct llama_route *routes, const float *probs, size_t rows);

/* Which of the rows use an expert. */
struct llama_chosen {
    size_t count;
    uint32_t *rows, *places; /* [count], ascending; the row's route */
};

/* rows, places: [rows]. */
void llama_choose(const struct llama_shape *shape, const struct llama_route *routes, uint32_t expert,
                  size_t rows, struct llama_chosen *out);
/* to[count, n] = those rows of from[., n] */
void llama_gather(float *to, const float *from, const struct llama_chosen *c, size_t n);

#endif
