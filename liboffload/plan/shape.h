/*
 * shape: the arithmetic of a model's shape: its weights, and what its parts cost to compute. Knows nothing of
 * the order in which a step uses them.
 *
 * Weights have the order of the model's files: embedding, those of each layer, norm, head; a tied head is the
 * embedding.
 */
#ifndef OFL_PLAN_SHAPE_H
#define OFL_PLAN_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload_estimate.h"

#define PLAN_LAYER_TENSORS_MAX 20
#define PLAN_MATRIX_VECTORS    3 /* that a matrix may come with */

struct plan_shape {
    uint64_t layers, hidden, q_dim, kv_dim, head_dim, ffn, vocab;
    uint64_t layer_elems; /* of a layer's matrices */
    bool tied;
    uint32_t vectors;
    uint32_t layer_tensors;
    unsigned char roles[PLAN_LAYER_TENSORS_MAX]; /* of a layer's weights, in their order */
};

/* Fills in what is left to us. -EINVAL names what can't be. */
int plan_workload_read(const struct ofl_workload *from, struct ofl_workload *w, struct plan_shape *shape);

uint32_t plan_weights(const struct plan_shape *s);
uint32_t plan_norm(const struct plan_shape *s);
uint32_t plan_head(const struct plan_shape *s);
uint64_t plan_weight_elems(const struct plan_shape *s, uint32_t index);
/* Norms and biases are. */
bool plan_is_vector(const struct plan_shape *s, uint32_t index);
/* Of a matrix; a vector's only one has all its elements. */
uint64_t plan_weight_rows(const struct plan_shape *s, uint32_t index);
/* The vectors that are used with a matrix: the norm in front of it first, with its first rows; the others with its last
 * ones. -1: there is none. */
void plan_matrix_vectors(const struct plan_shape *s, uint32_t index, int64_t vectors[PLAN_MATRIX_VECTORS]);
/* Generating, weights are cut by rows: so many make a slice, the last one may have fewer. As
 * examples/model/slices.c cuts them. elem: bytes of an element. */
uint64_t plan_slice_rows(const struct plan_shape *s, uint32_t index, uint64_t elem);
/* To a buffer of 64 bytes. */
void plan_weight_name(const struct plan_shape *s, uint32_t index, char *name);
uint64_t plan_cache_bytes(const struct plan_shape *s, const struct ofl_workload *w);

/* Operations in matrix products, and device memory that is read and written. */
struct plan_cost {
    double flops, bytes;
};

struct plan_cost plan_cost_rows(const struct plan_shape *s,
                                const struct ofl_workload *w); /* embedding, either way */
struct plan_cost plan_cost_forward(const struct plan_shape *s, const struct ofl_workload *w);
/* first: gradients are written; else they are added to. */
struct plan_cost plan_cost_backward(const struct plan_shape *s, const struct ofl_workload *w, bool first);
struct plan_cost plan_cost_head(const struct plan_shape *s, const struct ofl_workload *w, bool first);
struct plan_cost plan_cost_extend(const struct plan_shape *s, const struct ofl_workload *w);
struct plan_cost plan_cost_logits(const struct plan_shape *s, const struct ofl_workload *w);

/* Of a step: 2 for each multiplied parameter and token, 6 in training. */
double plan_model_flops(const struct plan_shape *s, const struct ofl_workload *w);

#endif
