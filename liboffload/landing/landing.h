/*
 * landing: how packed bytes become numbers. Owns the arithmetic of each packed dtype, in several forms that give
 * the same bits: in plain C, which is the reference, for AVX2 and AVX-512, and for GPUs. Knows nothing of files, tensors and
 * tiers; of the core it sees streams.
 */
#ifndef OFL_LANDING_LANDING_H
#define OFL_LANDING_LANDING_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload_landing.h"

/* So many whole blocks, one behind the other, to F32, F16 or BF16. Memory needs no alignment. */
typedef void landing_blocks_fn(const uint8_t *packed, uint64_t blocks, void *out);

enum landing_to { LANDING_F32, LANDING_F16, LANDING_BF16, LANDING_TOS };

/* What a form has for a dtype; NULLs: nothing. */
struct landing_blocks {
    landing_blocks_fn *to[LANDING_TOS];
};

/* One table for each form, by dtype. */
extern const struct landing_blocks landing_plain[OFL_DTYPES];
extern const struct landing_blocks landing_avx2[OFL_DTYPES];
extern const struct landing_blocks landing_avx512[OFL_DTYPES];
extern const struct landing_blocks landing_avx512bf16[OFL_DTYPES];

/* The 16 values of a nibble: of IQ4_NL and IQ4_XS; of MXFP4 and NVFP4, doubled so that they are whole. */
extern const int8_t landing_iq4[16];
extern const int8_t landing_fp4[16];

/* Whether work on s runs on a GPU. */
bool landing_on_gpu(struct ofl_stream *s);
/* Checked. Its form is the kernel's. */
int landing_cuda_launch(struct ofl_stream *s, const struct ofl_landing *l);

#endif
