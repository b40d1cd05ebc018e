/*
 * How long a layer of a model's shape takes on a device, by its own kernels with everything at hand: for
 * predictions. Weights are random, so that a GPU draws the power that real ones would.
 */
#ifndef LLAMA_TIMING_H
#define LLAMA_TIMING_H

#include "examples/model/compute.h"

struct llama_timing {
    double forward_s, backward_s; /* of a micro-batch, training */
    double extend_s;              /* of new rows behind a cache that is full but for them, generating */
    double cores;                 /* share of the machine's cores that computing took */
};

/* Takes the weights and gradients of a layer, of several ones if memory_bytes of the device's memory hold them (so that
 * they come from memory and not from a cache, as those of a step do), and scratch; about twice enough_s, of large
 * layers as long as two runs of each kind take. config: as a trainer's or a generator's, accum 1. 0 or a negative code,
 * with the sentence in error. */
int llama_timing_measure(const char *device, const struct llama_compute_config *config, uint64_t memory_bytes,
                         double enough_s, struct llama_timing *out, char *error, size_t error_bytes);

#endif
