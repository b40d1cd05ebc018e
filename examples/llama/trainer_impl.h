/* What trainer.c and trainer_step.c share. Only they include this. */
#ifndef LLAMA_TRAINER_IMPL_H
#define LLAMA_TRAINER_IMPL_H

#include "examples/llama/trainer.h"

/* One kernel call on the stream; must live until it has run. */
struct trainer_job {
    struct llama_trainer *trainer;
    size_t micro;
    bool first; /* overwrites the gradients */
    struct llama_block_weights weights;
    struct llama_block_grads grads;
    struct llama_head_weights head;
    struct llama_head_grads head_grads;
    struct llama_weight table;
    float *table_grad;
    const float *x;
    float *y, *dx;
};

struct llama_trainer {
    struct ofl_ctx *ctx;
    struct llama_trainer_config config;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct llama_model weights, grads;
    struct ofl_tensor **x;  /* [layers + 1][accum]: inputs of layers, then the last one's output */
    struct ofl_tensor **dx; /* [accum] */
    struct ofl_lease workspace;

    /* Of the step that runs. */
    struct trainer_job *jobs;
    size_t jobs_used;
    const int32_t *inputs, *targets;
    double *losses; /* [accum] */
    float scale;
};

/* Copies the library's sentence. Returns err. */
int trainer_fail(int err, char *error, size_t error_bytes);

#endif
