/*
 * A model in GGUF files: its configuration, from the metadata, the names of its tensors, and the files that it is split
 * into. The tensors are those of checkpoint.h; of some families rows of Q and K lie in pairs (shape.rope_pairs).
 */
#ifndef LLAMA_GGUF_H
#define LLAMA_GGUF_H

#include <stdbool.h>

#include "examples/model/checkpoint.h"
#include "examples/model/config.h"
#include "include/offload_metadata.h"

/* No tensor of the model: part of its configuration. */
#define LLAMA_GGUF_FACTORS "rope_freqs.weight"
#define LLAMA_GGUF_LONG    "rope_factors_" /* long and short */

/* Whether --model names a file rather than a directory. What kind of file is found when it is opened. */
bool llama_gguf_is(const char *path);

/* 0, -OFL_EFORMAT (damaged), -ENOTSUP (what it says can't be used) or an errno value, with the sentence in error; so with all below. */
int llama_gguf_config(const char *path, struct llama_config *out, char *error, size_t error_bytes);

/* Files of the model whose first one is s, opened from path: 1, or as many as it is split into. */
int llama_gguf_parts(struct ofl_source *s, const char *path, uint32_t *out, char *error, size_t error_bytes);
/* The path of that part, for free(). NULL without memory, and where path is not named as a part. */
char *llama_gguf_part(const char *path, uint32_t index, uint32_t count);
/* That s is this part. */
int llama_gguf_part_check(struct ofl_source *s, const char *path, uint32_t index, uint32_t count, char *error,
                          size_t error_bytes);

/* The index of a stored name in the list of checkpoint.h, or -1. */
int64_t llama_gguf_index(const struct llama_shape *shape, const char *name);
/* "blk.3.attn_q.weight" */
void llama_gguf_name(const struct llama_shape *shape, uint32_t index, char *out, size_t bytes);

#endif
