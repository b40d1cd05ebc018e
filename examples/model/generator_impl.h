/* What generator.c and generator_need.c share: what a generator holds, and what it leases at a time. Only they include
 * this. */
#ifndef LLAMA_GENERATOR_IMPL_H
#define LLAMA_GENERATOR_IMPL_H

#include "examples/model/compute.h"
#include "examples/model/generator.h"
#include "examples/model/slices.h"

/* Leased for as long as the generator lives; the prompt's for as long as it is fed. */
enum { HELD_WORKSPACE, HELD_X, HELD_CACHE, HELD_PROMPT, HELD };
extern const char *const generator_held_names[HELD];

/* For scratch: one that stands for all of them. */
enum ofl_dtype generator_widest(const struct llama_shape *shape, const enum ofl_dtype *dtypes);
struct llama_compute_config generator_compute(const struct llama_generator_config *c, enum ofl_dtype dtype);
uint64_t generator_held_bytes(const struct llama_generator_config *c, enum ofl_dtype dtype, int which);
size_t generator_rows(const struct llama_generator_config *c);

/* ---- units: a slice of a matrix, with what stands in front of it or behind ---- */

/* In the order in which a unit leases them, in front of its slice. */
enum { UNIT_NORM, UNIT_BIAS, UNIT_POST_NORM, UNIT_VECTORS };

struct generator_unit {
    uint32_t part; /* the layer; behind the last one comes the head */
    enum llama_matrix matrix;
    uint32_t expert;               /* of an expert's matrix */
    uint32_t tensor;               /* of llama_tensor_at */
    int64_t vectors[UNIT_VECTORS]; /* likewise; -1: none */
    uint32_t slice;                /* of the tensor: which */
    uint64_t from, rows;
    uint64_t bytes; /* with the vectors */
    bool opens;     /* a batch of leases; what follows goes with it */
};

/* Goes through all units in the order in which a text's tokens use them. Zeroed but for the first row to begin. */
struct generator_walk {
    const struct llama_shape *shape;
    const enum ofl_dtype *dtypes;
    uint64_t limit, batch; /* of a slice; of what is leased at a time */
    uint32_t part, matrix, slice;
    uint32_t expert;       /* whose matrices alone it goes through; with an expert's matrix to begin */
    uint64_t from, leased; /* leased: in the batch so far */
};

/* So that a batch is not more than the largest unit, which must have room in any case. */
struct generator_walk generator_walk_begin(const struct llama_shape *shape, const enum ofl_dtype *dtypes);
/* Through those of an expert alone. of: any walk over the model. */
struct generator_walk generator_walk_expert(const struct generator_walk *of, uint32_t layer, uint32_t expert);
/* False behind the last. */
bool generator_walk_next(struct generator_walk *w, struct generator_unit *out);

/* ---- a generator ------------------------------------------------------------ */

/* A token of a piece: they are looked up in their order in the embedding, so that nothing of it is read twice. */
struct generator_entry {
    int32_t token;
    uint32_t row;
};

struct llama_generator {
    struct ofl_ctx *ctx;
    struct llama_generator_config config;
    struct ofl_stream *stream;
    struct llama_slices model;
    struct generator_unit *units; /* in the order in which a text's tokens use them */
    uint32_t units_count;
    uint64_t batch;                      /* of leases of experts, which are taken by themselves */
    struct generator_unit *expert_units; /* those that a layer's rows use */
    uint32_t expert_units_most;
    bool *used;                  /* [experts] */
    struct llama_packed *packed; /* [units_count + expert_units_most]: where a unit's parts are leased */
    struct ofl_lease *leases;    /* of a batch, with room for all units of a layer's experts, or of a step */
    struct ofl_lease held[HELD], adapters;
    struct llama_compute *compute;
    struct generator_entry *entries; /* [piece] */
    uint32_t *order;                 /* [piece]: their rows */
    void *row;                       /* of the embedding, as it is stored */
    uint64_t cache_bytes;            /* of a layer's keys, and of its values */
    uint64_t prompt_between;
    size_t fed; /* tokens so far */
};

/* ---- feeding ------------------------------------------------------------------ */

/* The leases of a unit, from out on; returns what lies behind them. */
struct ofl_lease *generator_leases(const struct llama_generator *g, const struct generator_unit *u,
                                   struct ofl_lease *out);
/* Puts a unit on the stream, for all n new rows. *leases: its own, acquired; gets what lies behind. */
int generator_run(struct llama_generator *g, const struct generator_unit *u, const struct ofl_lease **leases,
                  size_t n);
/* generator_experts.c: room for what follows. -ENOMEM. */
int generator_experts_open(struct llama_generator *g, const struct generator_walk *begin);
void generator_experts_close(struct llama_generator *g);
/* The experts of a layer that the new rows use; its router is on the stream. */
int generator_experts_feed(struct llama_generator *g, uint32_t layer, size_t n);

#endif
