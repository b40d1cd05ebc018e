/*
 * Fresh weights, made in place: on the device, in a lease, so that no file and no second copy of them is
 * needed. The bits depend on the seed and the tensor's place in the model only, not on device or placement.
 */
#ifndef LLAMA_RANDOM_H
#define LLAMA_RANDOM_H

#include "examples/model/checkpoint.h"
#include "examples/model/compute.h"

/*
 * Fills t, which is the model's index-th tensor d from element `first` on, in F32 or BF16 as t is: norms with ones, matrices with normal
 * numbers of that standard deviation. Outside of steps; waits for s. c computes on s. 0, or a negative
 * code: llama_compute_error and ofl_error have the sentence.
 */
int llama_random_fill(struct ofl_ctx *ctx, struct ofl_stream *s, struct llama_compute *c,
                      struct ofl_tensor *t, const struct llama_tensor_desc *d, uint32_t index, uint64_t first,
                      uint64_t seed, float std);

#endif
