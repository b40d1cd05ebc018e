/*
 * The tensors of a model under liboffload: which of them a part of the model needs, and how
 * leases become what the kernels take. Knows nothing of steps.
 *
 * Functions that can fail return 0 or a negative code, with the sentence in error.
 */
#ifndef LLAMA_MODEL_H
#define LLAMA_MODEL_H

#include "examples/model/block.h"
#include "examples/model/checkpoint.h"
#include "examples/model/config.h"

struct llama_model {
    const struct llama_shape *shape;
    uint32_t count; /* of the arrays, in the order of llama_tensor_at */
    struct ofl_tensor **tensors;
    enum ofl_dtype *dtypes;
};

/* A tensor's bytes for the kernels. */
struct llama_weight llama_weight_of(const struct llama_shape *shape, enum llama_role role, const void *data,
                                    enum ofl_dtype dtype);

/* Makes tensors of that dtype, kind and flags (OFL_TENSOR_), named as in llama_tensor_at with suffix behind. The shape
 * must outlive the model. On failure *out is zeroed. */
int llama_model_create(struct ofl_ctx *ctx, const struct llama_shape *shape, enum ofl_dtype dtype,
                       enum ofl_kind kind, uint32_t flags, const char *suffix, struct llama_model *out,
                       char *error, size_t error_bytes);
/* Destroys the tensors too. A zeroed model is accepted. */
void llama_model_destroy(struct llama_model *m);

/* Fills a layer's leases, of llama_layer_tensors: without those of experts. */
void llama_layer_leases(const struct llama_model *m, uint32_t layer, enum ofl_mode mode,
                        struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX]);
/* The field of a role that layers have. */
struct llama_weight *llama_weight_field(struct llama_block_weights *w, enum llama_role role);
/* From acquired leases, of weights and of gradients. What the layer does not have is NULL. */
void llama_layer_weights(const struct llama_model *m, uint32_t layer,
                         const struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX],
                         struct llama_block_weights *out);
void llama_layer_grads(const struct llama_shape *shape, uint32_t layer,
                       const struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX], struct llama_block_grads *out);

/* ---- device memory ------------------------------------------------------- */

/* Collects what one part of a program leases at once; the largest part is what a budget must hold. */
struct llama_need {
    uint64_t device_bytes; /* of the largest part so far, in the footprints of ofl_device_footprint */
    char part[64];         /* its name: "layer 3, backward" */
    char largest[112];     /* its largest tensor, and the bytes of that */
    uint64_t largest_bytes;
};

struct llama_part {
    char name[64], largest[112];
    uint64_t device_bytes, largest_bytes;
};

void llama_part_add(struct llama_part *part, const char *tensor, uint64_t bytes);
void llama_part_close(const struct llama_part *part, struct llama_need *need);

#endif
