/*
 * The tensors of a model: which there are, in an order that is the same for every program, file and report, and how
 * files call them.
 *     embedding
 *     of each layer: norm in front of attention, q, k, v, their biases, norms of q and k, sinks, o, its bias, norm behind it,
 *                    norm in front of the feed-forward, router, its bias, gate, up, their biases, down, its bias, norm
 *                    behind it; then, where the feed-forward is a mixture of experts, those of experts.h;
 *                    of these what the shape's traits say; Llama has the matrices and the norms in front
 *     norm
 *     head, if it is not tied to the embedding
 * Matrices are [outputs, inputs], as the files have them. A file may hold several of them as one, one behind the other.
 */
#ifndef LLAMA_TENSORS_H
#define LLAMA_TENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "examples/model/shape.h"

/* In the order above. */
enum llama_role {
    LLAMA_EMBED,
    LLAMA_INPUT_NORM,
    LLAMA_Q,
    LLAMA_K,
    LLAMA_V,
    LLAMA_Q_BIAS,
    LLAMA_K_BIAS,
    LLAMA_V_BIAS,
    LLAMA_Q_NORM,
    LLAMA_K_NORM,
    LLAMA_SINKS,
    LLAMA_O,
    LLAMA_O_BIAS,
    LLAMA_ATTN_POST_NORM,
    LLAMA_MLP_NORM,
    LLAMA_ROUTER,
    LLAMA_ROUTER_BIAS,
    LLAMA_GATE,
    LLAMA_UP,
    LLAMA_GATE_BIAS,
    LLAMA_UP_BIAS,
    LLAMA_DOWN,
    LLAMA_DOWN_BIAS,
    LLAMA_MLP_POST_NORM,
    LLAMA_NORM,
    LLAMA_HEAD,
    LLAMA_ROLES,
    /* of each expert */
    LLAMA_EXPERT_GATE = LLAMA_ROLES,
    LLAMA_EXPERT_UP,
    LLAMA_EXPERT_DOWN,
    LLAMA_EXPERT_PAIRS, /* gate and up */
    LLAMA_EXPERT_PAIRS_BIAS,
    LLAMA_EXPERT_DOWN_BIAS,
    LLAMA_ROLES_ALL
};

#define LLAMA_LAYER_TENSORS_MAX (LLAMA_NORM - LLAMA_INPUT_NORM)

struct llama_tensor_desc {
    char name[96];
    int layer;       /* -1: outside the layers */
    uint32_t expert; /* of a role behind LLAMA_ROLES */
    enum llama_role role;
    uint32_t dims;
    uint64_t shape[2]; /* [outputs, inputs]; [elements, 0] for norms and biases */
    uint64_t elems;
};

/* In one layer, without those of experts, which are behind. */
uint32_t llama_layer_tensors(const struct llama_shape *shape, uint32_t layer);
/* The index of a layer's first. */
uint32_t llama_layer_first(const struct llama_shape *shape, uint32_t layer);
uint32_t llama_tensor_count(const struct llama_shape *shape);
/* -EINVAL past the end. */
int llama_tensor_at(const struct llama_shape *shape, uint32_t index, struct llama_tensor_desc *out);
bool llama_role_is_there(const struct llama_shape *shape, enum llama_role role, uint32_t layer);
/* Norms are, and nothing else. */
bool llama_role_is_norm(enum llama_role role);
/* The index of a role that is there; layer matters inside the layers only. LLAMA_HEAD of a tied model is LLAMA_EMBED. */
uint32_t llama_tensor_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer);

/* Parameters; a tied matrix counts once. */
uint64_t llama_param_count(const struct llama_shape *shape);

/* ---- in files ----------------------------------------------------------- */

/* How a file stores tensors first .. first + count - 1 of the list: one behind the other, as one of that name. */
struct llama_stored {
    char name[96];
    uint32_t first, count, dims;
    uint64_t shape[3], elems;
};

/* The row of what a file stores as one, from which on a matrix lies. */
uint64_t llama_stored_row(const struct llama_shape *shape, uint32_t index);

/* That with which the tensor of that index lies. */
void llama_stored_at(const struct llama_shape *shape, uint32_t index, struct llama_stored *out);
/* By a name, those of other spellings included, with or without the base model's "model." in front: false if the shape has none of that name. "layers.01"
 * is none. */
bool llama_stored_find(const struct llama_shape *shape, const char *name, struct llama_stored *out);

#endif
