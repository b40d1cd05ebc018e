/*
 * offload_estimate: what a model's step will take of a machine, before anything runs: whether it fits, where its
 * bytes rest, what moves, how long it takes and what binds. Arithmetic alone: nothing is opened, measured or
 * allocated on a device.
 */
#ifndef OFFLOAD_ESTIMATE_H
#define OFFLOAD_ESTIMATE_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what is to be done --------------------------------------------------- */

enum ofl_work {
    OFL_DECODE, /* one text: new tokens behind those that a cache of keys and values holds */
    OFL_TRAIN,  /* all parameters, AdamW; layers computed anew in backward */
};

/* A step of a model of the Llama architecture, as ofl-finetune and ofl-generate run it. */
struct ofl_workload {
    size_t size;
    enum ofl_work work;
    uint32_t layers, hidden, heads, kv_heads, vocab;
    uint32_t head_dim;         /* 0: hidden / heads */
    uint32_t intermediate;     /* of the feed-forward part */
    uint32_t tied;             /* 1: the head is the embedding */
    enum ofl_dtype dtype;      /* of weights on the device: OFL_F32 or OFL_BF16 */
    uint64_t batch;            /* training: sequences of a micro-batch; 0: 1 */
    uint64_t seq;              /* training: tokens of a sequence; decode: new tokens of a step; 0: 1 */
    uint64_t accum;            /* training: micro-batches of a step; 0: 1 */
    uint64_t positions;        /* decode: of the text that the cache holds, all of them looked at; 0: seq */
    uint32_t clip;             /* training: 1: gradients are clipped to their norm, updates wait for it */
    uint32_t source;           /* decode: 1: weights are read in place from a checkpoint */
    uint32_t cache_elem_bytes; /* decode: of a number in the cache; 0: as the weights */
    uint32_t inner_elem_bytes; /* of an activation inside a layer; 0: as the weights */
    uint64_t
        workspace_bytes; /* device memory that the kernels hold all the time; 0: guessed from the shape */
};

#ifdef __cplusplus
}
#endif

#endif
