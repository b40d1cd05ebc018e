/*
 * The tensors of a Llama, and the Hugging Face directory that holds them.
 *
 * Tensors have a fixed order, the same for every program, file and report:
 *     0          model.embed_tokens.weight
 *     1 + 9 n    model.layers.n.: input_layernorm, self_attn.q_proj, k_proj, v_proj, o_proj,
 *                post_attention_layernorm, mlp.gate_proj, up_proj, down_proj
 *     1 + 9 L    model.norm.weight
 *     2 + 9 L    lm_head.weight, if it is not tied to the embedding
 * Matrices are [outputs, inputs], as the files have them.
 */
#ifndef LLAMA_CHECKPOINT_H
#define LLAMA_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"
#include "examples/model/shape.h"

enum llama_role {
    LLAMA_EMBED,
    LLAMA_INPUT_NORM,
    LLAMA_Q,
    LLAMA_K,
    LLAMA_V,
    LLAMA_O,
    LLAMA_POST_NORM,
    LLAMA_GATE,
    LLAMA_UP,
    LLAMA_DOWN,
    LLAMA_NORM,
    LLAMA_HEAD,
    LLAMA_ROLES
};

struct llama_tensor_desc {
    char name[96];
    int layer; /* -1: outside the layers */
    enum llama_role role;
    uint32_t dims;
    uint64_t shape[2]; /* [outputs, inputs]; [hidden, 0] for norms */
    uint64_t elems;
};

uint32_t llama_tensor_count(const struct llama_shape *shape);
/* -EINVAL past the end. */
int llama_tensor_at(const struct llama_shape *shape, uint32_t index, struct llama_tensor_desc *out);
/* The index of a role; layer matters inside the layers only. LLAMA_HEAD of a tied model is LLAMA_EMBED. */
uint32_t llama_tensor_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer);

/* ---- reading ----------------------------------------------------------- */

struct llama_checkpoint;

/*
 * Opens dir/model.safetensors, or else the files of dir/model.safetensors.index.json, as
 * sources of ctx, and checks that every tensor of the shape is there once, with its size,
 * as F32, F16, BF16 or a dtype that can be unpacked, and nothing else. dir may be a GGUF file, the first one where the
 * model is split. A tied matrix may be stored as the embedding, as
 * lm_head.weight, or both, of which the embedding counts. 0, or a negative code with the
 * sentence in error.
 */
int llama_checkpoint_open(struct ofl_ctx *ctx, const char *dir, const struct llama_shape *shape,
                          struct llama_checkpoint **out, char *error, size_t error_bytes);
/* 0 if all files are what they were when they were opened; else -OFL_ECHANGED with the sentence. What was read
 * until now is then of one checkpoint. */
int llama_checkpoint_check(const struct llama_checkpoint *ck, char *error, size_t error_bytes);
/* Closes the sources: -OFL_ESTATE while tensors are bound to one of them, which then stays
 * open until ofl_close. NULL accepted. */
int llama_checkpoint_close(struct llama_checkpoint *ck);
/* Where the tensor of that index is, and under which name (valid as long as ck). -EINVAL past the end. */
int llama_checkpoint_find(const struct llama_checkpoint *ck, uint32_t index, struct ofl_source **source,
                          const char **name, enum ofl_dtype *dtype);

#endif
