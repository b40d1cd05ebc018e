/* What trainer.c and trainer_step.c share. Only they include this. */
#ifndef LLAMA_TRAINER_IMPL_H
#define LLAMA_TRAINER_IMPL_H

#include "examples/model/compute.h"
#include "examples/model/trainer.h"

struct llama_trainer {
    struct ofl_ctx *ctx;
    struct llama_trainer_config config;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct llama_model weights, grads;
    struct ofl_tensor **x;  /* [layers + 1][accum]: inputs of layers, then the last one's output */
    struct ofl_tensor **dx; /* [accum] */
    struct ofl_lease workspace;
    struct llama_compute *compute;
    double *losses; /* [accum], of the step that runs */
};

/* Copies the sentence of what failed. Returns err. */
int trainer_fail(const struct llama_trainer *t, int err, char *error, size_t error_bytes);

#endif
