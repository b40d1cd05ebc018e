/*
 * Landing transforms: packed bytes become numbers where they are used.
 *
 * A quantised tensor is bound, cached, moved and leased as its file has it, so it takes the room and the bandwidth of
 * its packed bytes in every tier. Who leases it unpacks it: into a tensor of its own (OFL_TENSOR_TRANSIENT, leased
 * with OFL_OVERWRITE), or bit by bit into scratch that stays in the cache, in front of each product.
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
 * until the stream has run it, the leases of both sides until then, too. -ENOTSUP on cuda. */
OFL_API int ofl_landing_launch(struct ofl_stream *s, const struct ofl_landing *l);

#ifdef __cplusplus
}
#endif

#endif
