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

/* Numbers behind each other, of which each sixteen have a scale and a zero: of matrices with scales of their own. */
enum landing_number { LANDING_WHOLE, LANDING_FP4, LANDING_E4M3, LANDING_E5M2 };

struct landing_run {
    enum landing_number number;
    bool nibbles;        /* two in a byte, the lower one first: of WHOLE from 0 to 15, of FP4 always */
    const uint8_t *q;    /* WHOLE: int8_t where they are bytes */
    uint64_t n;          /* a multiple of 32 */
    const float *scales; /* [n / 16] */
    const int8_t *zeros; /* [n / 16]; of WHOLE: no difference may leave int8_t */
    void *out;
};

typedef void landing_run_fn(const struct landing_run *r);

/* To BF16 scales must be finite, and 0 or such that no result is subnormal; takes_nan: E4M3 and E5M2 may go there. */
struct landing_runs {
    landing_run_fn *to[LANDING_TOS];
    bool takes_nan;
};

extern const struct landing_runs landing_runs_avx2, landing_runs_avx512, landing_runs_avx512bf16;

/* Whether the form is there on this machine; OFL_LANDING_BEST is not asked for. */
bool landing_machine_has(enum ofl_landing_form form);
/* The best of that form; NULL: plain loops, or not on this machine. */
const struct landing_runs *landing_find_runs(enum ofl_landing_form form);

/* The 16 values of a nibble: of IQ4_NL and IQ4_XS; of MXFP4 and NVFP4, doubled so that they are whole. */
extern const int8_t landing_iq4[16];
extern const int8_t landing_fp4[16];

/* Whether work on s runs on a GPU. */
bool landing_on_gpu(struct ofl_stream *s);
/* Checked. Its form is the kernel's. */
int landing_cuda_launch(struct ofl_stream *s, const struct ofl_landing *l);

#endif
