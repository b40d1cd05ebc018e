/*
 * A Llama's tensors cut by rows, for who uses one part of a matrix after the other: slices of a matrix are tensors
 * of the library by themselves, so that little is leased at a time.
 *
 * How a model is cut depends on its shape and dtypes only, never on budgets: products are made slice by slice, and
 * their bits must not depend on where tensors are.
 */
#ifndef LLAMA_SLICES_H
#define LLAMA_SLICES_H

#include "examples/model/checkpoint.h"

/* A slice has about this part of the model: some pass through the device at a time, and are lost to what rests there.
 * Within these bounds: smaller ones cost more calls than they save; larger ones save none. */
#define LLAMA_SLICE_SHARE 256u
#define LLAMA_SLICE_LEAST (1u << 20)
#define LLAMA_SLICE_MOST  (8u << 20)
/* But never less than this part of it: there would be too many. */
#define LLAMA_SLICE_SHARE_LEAST 1024u
#define LLAMA_SLICE_ROWS        16u /* slices are multiples of it, but for the last: suits the products */

/* Bytes of a tensor of that dtype, of all its parts. */
uint64_t llama_tensor_bytes(const struct llama_shape *shape, uint32_t tensor, enum ofl_dtype dtype);
/* What a slice of this model may have. dtypes: of the tensors, in the order of llama_tensor_at. */
uint64_t llama_slice_limit(const struct llama_shape *shape, const enum ofl_dtype *dtypes);
/* Rows of each of a tensor's slices but the last, which may have fewer. A norm is one slice. The dtype is not packed. */
uint64_t llama_slice_rows(const struct llama_tensor_desc *d, enum ofl_dtype dtype, uint64_t limit);

/* Rows from .. from + rows - 1 of a tensor. */
struct llama_cut {
    struct llama_tensor_desc desc; /* of the whole tensor */
    char name[160];                /* as ofl_source_bind_part gives it */
    uint64_t from, rows, bytes;
    uint64_t first, elems; /* in elements of the whole tensor */
    /* Of each part of a packed matrix, of the whole that is stored; the first alone, where it is not packed. bytes is
     * their sum. */
    struct llama_range parts[LLAMA_PARTS];
};

/* That which holds row `from`, the first of it. */
void llama_cut_at(const struct llama_shape *shape, const enum ofl_dtype *dtypes, uint64_t limit,
                  uint32_t tensor, uint64_t from, struct llama_cut *out);

/* The tensors of the library. */
struct llama_slices {
    struct llama_shape shape;
    uint64_t limit;
    uint32_t tensors, count;    /* of the model; of the library */
    uint32_t *first;            /* [tensors + 1]: where a model's tensor begins in the list below */
    enum ofl_dtype *dtypes;     /* [tensors] */
    struct ofl_tensor **slices; /* [count] */
    struct ofl_tensor *
        *parts; /* [count * LLAMA_PARTS] of a packed model: those beside the numbers, or NULL */
};

/* Of a packed matrix, whose packing is set: where so many rows lie in what is leased for a slice of them. */
void llama_slices_place(const struct llama_slices *s, uint32_t tensor, uint64_t rows,
                        struct llama_packed *out);

/* Tensors of that dtype. On failure *out is zeroed, and error has the sentence; so with the next. */
int llama_slices_create(struct ofl_ctx *ctx, const struct llama_shape *shape, enum ofl_dtype dtype,
                        struct llama_slices *out, char *error, size_t error_bytes);
/* Tensors whose home is the checkpoint, with its dtypes. ck must outlive them. */
int llama_slices_bind(const struct llama_checkpoint *ck, const struct llama_shape *shape,
                      struct llama_slices *out, char *error, size_t error_bytes);
/* Destroys the tensors too. A zeroed one is accepted. */
void llama_slices_destroy(struct llama_slices *s);

#endif
