/*
 * A model and an adapter made one: a whole model directory whose matrices are W + scale * B A, for DoRA times the gain,
 * summed in F32 and rounded to the base's dtype.
 */
#ifndef LLAMA_MERGE_H
#define LLAMA_MERGE_H

#include "examples/model/config.h"
#include "examples/model/lora.h"
#include "include/offload.h"

struct llama_merge {
    const char *model, *adapter, *out;
    bool replace; /* what was written before at out */
    const struct llama_config *config;
    const struct llama_lora *lora;                                         /* of llama_lora_load */
    const enum ofl_dtype *dtypes;                                          /* of the model's tensors */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes); /* as of struct llama_writer */
    void *arg;
};

/* All or nothing. The files have the dtype of the first matrix. 0, or a negative code with the sentence. */
int llama_merge(const struct llama_merge *m, char *error, size_t error_bytes);

#endif
