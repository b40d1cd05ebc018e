/* What compute.c and compute_cuda.c share. Only they include this. */
#ifndef LLAMA_COMPUTE_IMPL_H
#define LLAMA_COMPUTE_IMPL_H

#include "examples/model/compute.h"

#define COMPUTE_ERROR_BYTES 512

struct compute_gpu;

struct llama_compute {
    struct llama_compute_config config;
    struct ofl_stream *stream;
    void *workspace;
    struct compute_gpu *gpu; /* NULL: the host device */
    struct llama_job *jobs;  /* of the step; they live until it has run */
    size_t jobs_used;
    char error[COMPUTE_ERROR_BYTES];

    /* Of the step that runs. */
    const int32_t *inputs, *targets;
    size_t tokens;
    float scale;
    double *losses; /* [accum] */
    float *logits;  /* [vocab] */
};

/* Tokens of a micro-batch. */
static inline size_t compute_rows(const struct llama_compute_config *c)
{
    return c->batch * c->seq;
}

size_t compute_gpu_workspace(const struct llama_compute_config *config);
int compute_gpu_open(struct llama_compute *c, struct ofl_ctx *ctx);
void compute_gpu_close(struct llama_compute *c);
int compute_gpu_begin(struct llama_compute *c);
int compute_gpu_run(struct llama_compute *c, const struct llama_job *job);
int compute_gpu_end(struct llama_compute *c);
void compute_gpu_fetch(const struct llama_compute *c);

#endif
