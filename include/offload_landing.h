/*
 * Landing transforms: packed bytes become numbers where they are used.
 *
 * A quantised tensor is bound, cached, moved and leased as its file has it, so it takes the room and the bandwidth of
 * its packed bytes in every tier. Who leases it unpacks it: into a tensor of its own (OFL_TENSOR_TRANSIENT, leased
 * with OFL_OVERWRITE), or a part at a time into scratch that stays in the cache, in front of each product.
 *
 *     struct ofl_lease leases[] = {{.size = sizeof *leases, .tensor = packed, .mode = OFL_READ},
 *                                  {.size = sizeof *leases, .tensor = rows, .mode = OFL_OVERWRITE}};
 *
 *     ofl_acquire(ctx, leases, 2, stream);
 *     landing = (struct ofl_landing){.size = sizeof landing, .dtype = OFL_Q4_K, .to = OFL_BF16, .elems = n,
 *                                    .packed = leases[0].ptr, .out = leases[1].ptr};
 *     ofl_landing_launch(stream, &landing);    in order with the kernels launched on that stream
 *     ...
 *     ofl_release(ctx, leases, 2, stream);
 *
 * Values. Those of the format's reference implementation in F32, to the bit (NaNs are NaNs): for blocks of GGUF those
 * of the Python package gguf. F16 and BF16 are these, rounded to nearest, ties to even. They depend on the packed
 * bytes alone: not on the form, the machine, or how a tensor is cut into calls.
 */
#ifndef OFFLOAD_LANDING_H
#define OFFLOAD_LANDING_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The code that does it; all give the same bits. */
enum ofl_landing_form {
    OFL_LANDING_BEST, /* what this machine is fastest with */
    OFL_LANDING_PLAIN,
    OFL_LANDING_AVX2,
    OFL_LANDING_AVX512,
    OFL_LANDING_AVX512BF16,
    OFL_LANDING_FORMS
};

struct ofl_landing {
    size_t size;
    enum ofl_dtype dtype; /* of the packed bytes: see ofl_landing_find */
    enum ofl_dtype to;    /* OFL_F32, OFL_F16 or OFL_BF16 */
    uint64_t elems;       /* whole blocks of dtype */
    const void *packed;   /* its blocks, one behind the other; any alignment */
    void *out;            /* [elems] of `to`, aligned to an element; shares no byte with packed */
    enum ofl_landing_form form;
};

/* any. 0 if that dtype can be unpacked by that form on this machine; else -ENOTSUP, -EINVAL for what is none. */
OFL_API int ofl_landing_find(enum ofl_dtype dtype, enum ofl_landing_form form);
/* any; several at a time, on parts of a tensor, go as well. Unpacks, on the calling thread, in memory that it can
 * reach: that of leases on the host device once their stream has come to them, or its own. -EINVAL: not whole
 * blocks, or `to` is none of the three; -ENOTSUP as above. Nothing is written then. */
OFL_API int ofl_landing_run(const struct ofl_landing *l);
/* step thread. The same as work on s, behind what is on it. Everything is checked before it returns. *l must live
 * until the stream has run it, the leases of both sides until then, too. On cuda it is a kernel, whatever form is asked
 * for (of those that the machine has); -ENOEXEC if the library has none for the GPU. The first launch of a context
 * loads it, for which the driver may wait for all of the GPU's work: launch one of no elements while no stream is at a
 * gate (see offload_cuda.h). */
OFL_API int ofl_landing_launch(struct ofl_stream *s, const struct ofl_landing *l);

/* ---- matrices whose scales stand in tensors of their own ----------------- */

/* What a file has of a matrix [rows, columns], outputs by inputs; all row-major. g: groups of group_columns columns. */
enum ofl_packing {
    /* F8 of any kind but E8M0, F4, I8 or U8 [rows, columns]; scales [rows / group_rows, g]. FP8 with block scales. */
    OFL_PACKING_SCALED,
    /* U8 [rows, columns / 2], the lower nibble first, E2M1; scales as before. MXFP4 of gpt-oss (scales U8: 2^(n - 127),
     * groups of 32); NVFP4 and MXFP4 of compressed-tensors. */
    OFL_PACKING_FP4,
    /* I32 [rows, columns / 8], the lowest nibble first, n - 8; scales [rows, g]; zeros I32 [rows / 8, g], eight rows in
     * one, or none: 8. "pack-quantized" of compressed-tensors, 4 bits. */
    OFL_PACKING_INT4,
    /* I32 [columns / 8, rows], eight columns in one; scales [g, rows]; zeros I32 [g, rows / 8]; order I32 [columns], the
     * group of each column, or none: in turn. The files of version 1 have zeros less 1, a word at a time: 0x11111111 is
     * added to each word, carries and all, as GPTQModel does. */
    OFL_PACKING_GPTQ,
    OFL_PACKING_GPTQ_V2, /* zeros as they are */
    /* I32 [columns, rows / 8], eight rows in one in the order 0, 2, 4, 6, 1, 3, 5, 7; scales [g, rows]; zeros
     * I32 [g, rows / 8] in the same order. AWQ, "gemm". */
    OFL_PACKING_AWQ,
    OFL_PACKINGS
};

/*
 * A value is (number - zero) * scale in F32, the scale divided by *global first where there is one, each rounded once; then
 * rounded to `to`. These are the reference's bits (torch, compressed-tensors, GPTQModel) where `to` is the dtype that it
 * computes in: that of the scales.
 */
struct ofl_landing_matrix {
    size_t size;
    enum ofl_packing packing;
    enum ofl_dtype dtype; /* OFL_PACKING_SCALED: of packed; else not looked at */
    enum ofl_dtype
        scale_dtype;   /* OFL_F32, OFL_F16, OFL_BF16, OFL_F8_E4M3, OFL_F8_E8M0, or OFL_U8: a power of two */
    enum ofl_dtype to; /* OFL_F32, OFL_F16 or OFL_BF16 */
    uint64_t rows, columns;
    uint64_t group_rows,
        group_columns; /* that share a scale; 0: all. group_rows: SCALED and FP4 alone; rounded up */
    uint64_t first_row, row_count; /* what is unpacked; 0: up to the last */
    const void *packed, *scales;   /* of the whole matrix, whatever rows are wanted */
    const void *zeros, *order;     /* NULL: none. GPTQ and AWQ need zeros */
    const float *global;
    void *out;                  /* [row_count, columns] */
    enum ofl_landing_form form; /* what it has no code for is done by plain loops */
};

/* any; several at a time. Unpacks on the calling thread. -EINVAL with what does not fit together: sizes that are not
 * whole words, a group that `order` names and the matrix does not have. The latter is seen on the way: out is
 * undefined then. */
OFL_API int ofl_landing_matrix_run(const struct ofl_landing_matrix *m);
/* step thread. The same as work on s; as ofl_landing_launch, but that a wrong `order` makes NaNs. -ENOTSUP on cuda. */
OFL_API int ofl_landing_matrix_launch(struct ofl_stream *s, const struct ofl_landing_matrix *m);

#ifdef __cplusplus
}
#endif

#endif
