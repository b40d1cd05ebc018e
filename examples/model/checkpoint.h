/*
 * The Hugging Face directory that holds a model's tensors.
 */
#ifndef LLAMA_CHECKPOINT_H
#define LLAMA_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"
#include "examples/model/config.h"
#include "examples/model/tensors.h"

/* ---- reading ----------------------------------------------------------- */

struct llama_checkpoint;

/* llama_config_load, and whether the output matrix is tied by what the files hold: an lm_head.weight that differs from
 * the embedding counts. */
int llama_checkpoint_config(const char *dir, struct llama_config *out, char *error, size_t error_bytes);

/*
 * Opens dir/model.safetensors, or else the files of dir/model.safetensors.index.json, as
 * sources of ctx, and checks that every tensor of the shape is there once, with its size,
 * as F32, F16, BF16 or a dtype that can be unpacked, and nothing else, but for biases of zeros. dir may be a GGUF file,
 * the first one where the model is split. What an index says beyond the names of the files does not count. A tied
 * matrix may be stored as the embedding, as lm_head.weight, or both. Names may lack the "model." in front, as in files
 * of a base model. 0, or a negative code with the sentence in error.
 */
int llama_checkpoint_open(struct ofl_ctx *ctx, const char *dir, const struct llama_shape *shape,
                          struct llama_checkpoint **out, char *error, size_t error_bytes);
/* 0 if all files are what they were when they were opened; else -OFL_ECHANGED with the sentence. What was read
 * until now is then of one checkpoint. */
int llama_checkpoint_check(const struct llama_checkpoint *ck, char *error, size_t error_bytes);
/* Closes the sources: -OFL_ESTATE while tensors are bound to one of them, which then stays
 * open until ofl_close. NULL accepted. */
int llama_checkpoint_close(struct llama_checkpoint *ck);
/* Where the tensor of that index is, alone or with others, and under which name (valid as long as ck); of a packed matrix,
 * whose dtype is LLAMA_PACKED or above, its numbers. -EINVAL past the end. */
int llama_checkpoint_find(const struct llama_checkpoint *ck, uint32_t index, struct ofl_source **source,
                          const char **name, enum ofl_dtype *dtype);
/* A tensor whose home is the checkpoint: these elements of that of that index. As ofl_source_bind_part. */
int llama_checkpoint_bind(const struct llama_checkpoint *ck, uint32_t index, uint64_t first, uint64_t elems,
                          struct ofl_tensor **out);
/* The same for a packed matrix: of a part of what is stored, these elements. */
int llama_checkpoint_bind_part(const struct llama_checkpoint *ck, uint32_t index, enum llama_part_kind part,
                               const struct llama_range *range, struct ofl_tensor **out);
/* How its matrices are packed: into the shape, for which dtypes from LLAMA_PACKED on stand. */
void llama_checkpoint_packings(const struct llama_checkpoint *ck, struct llama_shape *shape);
/* A tensor that is there and is not used, for a warning; NULL: there is none. */
const char *llama_checkpoint_unused(const struct llama_checkpoint *ck);

#endif
