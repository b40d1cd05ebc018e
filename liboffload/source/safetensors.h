/*
 * The header of a safetensors file: which tensors it holds, and where.
 *
 * Reads and checks the header only; the data is somebody else's to page in. What
 * is accepted is safe to address: every range lies inside the file, has the size
 * that its shape and dtype say, and the ranges cover the data exactly once.
 *
 * The format: 8 bytes little-endian length N, N bytes of JSON, then the data.
 *     {"__metadata__": {...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
 */
#ifndef OFL_SOURCE_SAFETENSORS_H
#define OFL_SOURCE_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "include/offload.h"

#define STORE_SAFETENSORS_HEADER_MAX 100000000u /* bytes; the format's own limit */

struct store_entry {
    char *name;
    enum ofl_dtype dtype;
    uint32_t dims; /* 0: a scalar, of one element */
    uint64_t shape[OFL_DIMS_MAX];
    uint64_t elems, bytes;
    uint64_t offset; /* absolute, in the file */
};

struct store_safetensors {
    char *path;
    uint64_t file_bytes;
    size_t count;
    struct store_entry *entries; /* by name, in the order of strcmp */
};

/* Reads the header (buffered) and checks all of it. -OFL_EFORMAT or an errno value, with a
 * sentence that names the file, the tensor and the numbers; *out is then untouched. */
int store_safetensors_open(const char *path, struct store_safetensors **out);
void store_safetensors_close(struct store_safetensors *s); /* NULL accepted */

/* NULL if there is none of that name. */
const struct store_entry *store_safetensors_find(const struct store_safetensors *s, const char *name);

#endif
