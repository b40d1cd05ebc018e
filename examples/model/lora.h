/*
 * Which adapters a model has, and their tensors: names and shapes as PEFT has them. A matrix that files store with
 * others as one (phi3's qkv_proj) has an adapter of the whole. Knows nothing of memory or files.
 */
#ifndef LLAMA_LORA_H
#define LLAMA_LORA_H

#include "examples/model/block.h"
#include "examples/model/tensors.h"

#define LLAMA_LORA_RANK_MOST 4096u

struct llama_lora {
    uint32_t rank; /* 0: no adapters */
    double alpha, dropout;
    bool rank_stabilized; /* scale: alpha / sqrt(rank) (Kalajdzievski, 2023), else alpha / rank */
    bool dora;
    uint32_t targets; /* a bit for each of enum llama_matrix */
};

float llama_lora_scale(const struct llama_lora *l);

/* A layer's adapted module: as many matrices, from the first one on, as files store as one. */
struct llama_lora_module {
    char name[48]; /* "self_attn.q_proj" */
    enum llama_matrix first;
    uint32_t count;
    uint64_t in, out;
};

/* Of the targets, in the order of enum llama_matrix. Returns how many. */
uint32_t llama_lora_modules(const struct llama_shape *shape, const struct llama_lora *l,
                            struct llama_lora_module out[LLAMA_MATRICES]);
/* The role of a matrix, and the rows of it. */
enum llama_role llama_matrix_role(enum llama_matrix m);
uint64_t llama_matrix_rows(const struct llama_shape *shape, enum llama_matrix m);

/* Sets targets from "q_proj,v_proj" or "all-linear". -EINVAL with the sentence: what else there is. */
int llama_lora_targets(const struct llama_shape *shape, const char *text, uint32_t *targets, char *error,
                       size_t error_bytes);

enum llama_lora_part { LLAMA_LORA_A, LLAMA_LORA_B, LLAMA_LORA_MAGNITUDE, LLAMA_LORA_PARTS };

struct llama_lora_tensor {
    char name[112]; /* "model.layers.0.self_attn.q_proj.lora_A.weight" */
    uint32_t layer, module;
    enum llama_lora_part part;
    uint32_t dims;
    uint64_t shape[2], elems;
};

/* Of one layer, and of all. */
uint32_t llama_lora_layer_tensors(const struct llama_shape *shape, const struct llama_lora *l);
uint32_t llama_lora_count(const struct llama_shape *shape, const struct llama_lora *l);
/* Layer by layer, module by module. -EINVAL past the end. */
int llama_lora_tensor_at(const struct llama_shape *shape, const struct llama_lora *l, uint32_t index,
                         struct llama_lora_tensor *out);
uint64_t llama_lora_params(const struct llama_shape *shape, const struct llama_lora *l);
/* Scratch of a layer's adapters for so many rows. */
size_t llama_lora_workspace(const struct llama_shape *shape, const struct llama_lora *l, size_t rows);

#endif
