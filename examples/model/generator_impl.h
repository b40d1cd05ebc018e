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
    uint64_t from, leased; /* leased: in the batch so far */
};

/* So that a batch is not more than the largest unit, which must have room in any case. */
struct generator_walk generator_walk_begin(const struct llama_shape *shape, const enum ofl_dtype *dtypes);
/* False behind the last. */
bool generator_walk_next(struct generator_walk *w, struct generator_unit *out);

#endif
