/*
 * The packed matrices of a checkpoint: which of a directory's tensors are parts of one, and how it is packed. Only
 * checkpoint.c includes this.
 */
#ifndef LLAMA_CHECKPOINT_PACKED_H
#define LLAMA_CHECKPOINT_PACKED_H

#include "examples/model/tensors.h"
#include "include/offload.h"

struct packed_part {
    struct ofl_source *source; /* NULL: there is none */
    const char *name;          /* the source's */
    enum ofl_dtype dtype;
    uint32_t dims;
    uint64_t shape[2];
};

/* A matrix as stored. */
struct packed_matrix {
    struct packed_part parts[LLAMA_PARTS];
    const char *path; /* of the file of the part that came last */
};

/* 1: the entry is put among the parts of its matrix, matrices[] by the index of its first tensor, or passed over; 0: it is
 * none; or a code with its sentence. */
int packed_put(const struct llama_shape *shape, struct packed_matrix *matrices, const char *path,
               struct ofl_source *source, const struct ofl_source_entry *e, char *error, size_t error_bytes);
/* The dtype of a matrix whose parts are all there, after all checks; its packing is among the shape's then. */
int packed_dtype(struct llama_shape *shape, const struct packed_matrix *m, uint32_t tensor,
                 enum ofl_dtype *out, char *error, size_t error_bytes);

#endif
