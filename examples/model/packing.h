/*
 * Matrices whose numbers are packed, with scales in tensors of their own: how such a matrix is stored, which elements of
 * its parts belong to rows of it, and its rows as numbers. The formats are those of offload_landing.h; knows nothing of
 * files.
 */
#ifndef LLAMA_PACKING_H
#define LLAMA_PACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/offload_landing.h"

/* From here on a dtype of a model's tensor stands for shape.packings[dtype - LLAMA_PACKED]. */
#define LLAMA_PACKED       OFL_DTYPES
#define LLAMA_PACKINGS_MAX 8u /* that a model mixes */

/* What packed a directory's weights: quantization_config.quant_method. */
enum llama_packer {
    LLAMA_PACKER_NONE,
    LLAMA_PACKER_FP8,
    LLAMA_PACKER_COMPRESSED,
    LLAMA_PACKER_GPTQ,
    LLAMA_PACKER_AWQ,
    LLAMA_PACKER_MXFP4 /* the experts of gpt_oss, and nothing else of it */
};

struct llama_scheme {
    enum llama_packer packer;
    uint32_t block_rows, block_columns; /* FP8, with block scales; 0: there are none */
    bool gptq_v2;
    bool zeros, order; /* each packed matrix has them: INT4 that is not symmetric, GPTQ with desc_act */
};

/* In the order in which they are leased. */
enum llama_part_kind {
    LLAMA_PART_NUMBERS,
    LLAMA_PART_SCALES,
    LLAMA_PART_ZEROS,
    LLAMA_PART_ORDER,
    LLAMA_PART_GLOBAL,
    LLAMA_PARTS
};

struct llama_packing {
    enum ofl_packing packing;
    bool there[LLAMA_PARTS];
    enum ofl_dtype dtypes[LLAMA_PARTS];
    uint64_t group_rows, group_columns; /* as ofl_landing_matrix has them */
};

static inline bool llama_is_packed(enum ofl_dtype dtype)
{
    return dtype >= LLAMA_PACKED;
}

bool llama_packing_equal(const struct llama_packing *a, const struct llama_packing *b);
/* Rows are cut at multiples of it; 0: the matrix is used as a whole, since rows lie across its words. */
uint64_t llama_packing_step(const struct llama_packing *p);

struct llama_range {
    uint64_t first, elems, bytes; /* bytes 0: there is no such part */
};

/* Of a part of a matrix [rows, columns], what rows from .. from + count - 1 need: elements of that part's dtype. */
struct llama_range llama_packing_range(const struct llama_packing *p, enum llama_part_kind part,
                                       uint64_t rows, uint64_t columns, uint64_t from, uint64_t count);
/* Of all parts, of the whole matrix. */
uint64_t llama_packing_bytes(const struct llama_packing *p, uint64_t rows, uint64_t columns);

/* Rows of a matrix, as leased: a matrix of their own, or, where it can't be cut, all of it and where they begin. */
struct llama_packed {
    struct llama_packing packing;
    uint64_t rows, columns, first;
    const void *parts[LLAMA_PARTS]; /* NULL: there is none */
};

/* Numbers of rows row .. row + count - 1. dst has room for 6 bytes for each of them, of which 4 are the result. What is
 * wrong in a file (an order beyond the groups) becomes NaNs. */
void llama_unpack(float *dst, const struct llama_packed *p, uint64_t row, uint64_t count);

#endif
