/*
 * The tensors of experts: where they stand in the list of tensors.h, and how files call them. Behind a layer's others
 * come gate and up of the first expert, of the second one and so on, then down of each. A file may have all experts of
 * a layer as one tensor with a dimension more: gate and up, each expert's one behind the other, and down.
 */
#ifndef LLAMA_EXPERTS_H
#define LLAMA_EXPERTS_H

#include "examples/model/tensors.h"

/* Of one expert. */
uint32_t llama_expert_tensors(const struct llama_shape *shape);
/* The index of a role of an expert, in a layer that has them. */
uint32_t llama_expert_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer,
                            uint32_t expert);
/* What stands at that place among a layer's tensors of experts. */
enum llama_role llama_expert_role(const struct llama_shape *shape, uint32_t place, uint32_t *expert);
/* As most files have it: each by itself. */
void llama_expert_name(const struct llama_shape *shape, const struct llama_tensor_desc *d, char *out,
                       size_t bytes);
/* A name of the newer spelling of a family that has another one becomes the older one's. */
void llama_expert_respell(const struct llama_shape *shape, char *name, size_t bytes);
/* All of a layer's as one, with that tensor. */
void llama_expert_all(const struct llama_shape *shape, const struct llama_tensor_desc *d,
                      struct llama_stored *out);
/* By a name; false: it is none of an expert, or of all experts of a layer. */
bool llama_expert_find(const struct llama_shape *shape, const char *name, struct llama_stored *out);

#endif
