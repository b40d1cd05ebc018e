/*
 * Weights of a checkpoint that are used and never changed, a tensor at a time: bound whole, packed ones in parts, and handed
 * to the kernels as they are. For who computes with whole layers, such as a training beside them; slices.h is for one part
 * of a matrix after the other.
 *
 *     n = llama_frozen_leases(&f, index, leases);
 *     ofl_acquire(ctx, leases, n, stream);
 *     w = llama_frozen_weight(&f, index, leases, &packed);     used by what is launched on the stream
 *     ...
 *     ofl_release(ctx, leases, n, stream);
 *
 * llama_matmul and llama_matmul_dx take w as it is, unpacking a panel at a time; llama_weight_rows gives rows of it in F32,
 * and llama_to_bf16 makes BF16 of those.
 */
#ifndef LLAMA_FROZEN_H
#define LLAMA_FROZEN_H

#include "examples/model/checkpoint.h"
#include "examples/model/kernels.h"

struct llama_frozen {
    struct llama_shape shape; /* with how its matrices are packed */
    uint32_t count;
    enum ofl_dtype *dtypes;    /* [count], as llama_checkpoint_find has them */
    struct ofl_tensor **parts; /* [count * LLAMA_PARTS]; NULL: there is none */
};

/* What is leased of a part of that tensor; none: bytes 0. The shape has its packings. A tensor that is not packed has the first
 * part only. */
struct llama_range llama_frozen_part(const struct llama_shape *shape, enum ofl_dtype dtype, uint32_t index,
                                     enum llama_part_kind part);

/* ck must outlive it. On failure *out is zeroed, and error has the sentence. */
int llama_frozen_bind(const struct llama_checkpoint *ck, const struct llama_shape *shape,
                      struct llama_frozen *out, char *error, size_t error_bytes);
/* Destroys the tensors too. A zeroed one is accepted. */
void llama_frozen_destroy(struct llama_frozen *f);

/* Leases of the tensor of that index, to be read: how many. */
size_t llama_frozen_leases(const struct llama_frozen *f, uint32_t index,
                           struct ofl_lease leases[LLAMA_PARTS]);
/* The weight whose leases those are. packed: written where it is packed, and used as long as the weight is. */
struct llama_weight llama_frozen_weight(const struct llama_frozen *f, uint32_t index,
                                        const struct ofl_lease *leases, struct llama_packed *packed);

/* Rows of a tensor, read into memory of their own, for what happens outside of steps. */
struct llama_rows {
    struct llama_weight weight; /* of count rows; never copied: it points to what follows */
    struct llama_packed packed;
    uint64_t count;
    void *memory; /* to be freed, on failure too */
};

/* Rows from .. from + count - 1 of what parts hold: place says how they lie there, of a tensor that is not packed its columns
 * only. Packed ones are read as a whole where they can't be cut. -ENOMEM, or what ofl_tensor_read says. */
int llama_rows_read(struct ofl_tensor *const parts[LLAMA_PARTS], enum ofl_dtype dtype,
                    const struct llama_packed *place, uint64_t from, uint64_t count, struct llama_rows *out);
/* Rows of the tensor of that index from `from` on: about that many bytes of them, or what can't be cut. */
int llama_frozen_read(const struct llama_frozen *f, uint32_t index, uint64_t from, uint64_t bytes,
                      struct llama_rows *out);

#endif
