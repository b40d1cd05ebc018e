/*
 * dtype: the one table of element types. Elements come in blocks: quantised types store a number of them
 * together, plain ones are blocks of one.
 */
#ifndef OFL_BASE_DTYPE_H
#define OFL_BASE_DTYPE_H

#include <stdint.h>

#include "include/offload.h"

struct base_dtype {
    const char *name;        /* as "bf16" */
    const char *safetensors; /* its name in safetensors files; NULL: they don't have it */
    uint32_t block_elems, block_bytes;
};

/* NULL if there is none. */
const struct base_dtype *base_dtype(enum ofl_dtype dtype);

/* By the name in safetensors files. 0, or -ENOENT without a sentence. */
int base_dtype_of_safetensors(const char *name, enum ofl_dtype *out);

/* Bytes of so many elements. 0; -EINVAL if they are not whole blocks, -EOVERFLOW if the bytes are no file's
 * and no memory's (more than INT64_MAX): without a sentence. */
int base_dtype_bytes(const struct base_dtype *d, uint64_t elems, uint64_t *bytes);

#endif
