/*
 * Adapters that a text is generated with. Several add up, each by a weight: together they are one adapter of the ranks'
 * sum, which stays on the device as long as the generator. Host device only.
 */
#ifndef LLAMA_ADAPTERS_H
#define LLAMA_ADAPTERS_H

#include "examples/model/adapter.h"
#include "examples/model/lora.h"
#include "examples/model/slices.h"

struct llama_adapters_one {
    const char *dir;
    struct llama_lora lora; /* of llama_lora_load */
    double weight;          /* of what it adds */
};

struct llama_adapters {
    size_t count; /* 0: none */
    const struct llama_adapters_one *list;
};

/* -EINVAL with the sentence: DoRA's adapters do not add up. */
int llama_adapters_check(const struct llama_adapters *s, char *error, size_t error_bytes);
/* Device memory for all, and scratch for rows. */
uint64_t llama_adapters_bytes(const struct llama_shape *shape, const struct llama_adapters *s);
size_t llama_adapters_workspace(const struct llama_shape *shape, const struct llama_adapters *s, size_t rows);
/* Reads them into memory; DoRA's gains come of the model's weights. 0, or a negative code with the sentence. */
int llama_adapters_fill(struct ofl_ctx *ctx, const struct llama_adapters *s, const struct llama_slices *model,
                        float *memory, char *error, size_t error_bytes);
/* That of a layer's matrix; false: it has none. */
bool llama_adapters_of(const struct llama_shape *shape, const struct llama_adapters *s, const float *memory,
                       uint32_t layer, enum llama_matrix matrix, struct llama_adapter *out);

#endif
