/* What compute.c and compute_cuda.c share. Only they include this. */
#ifndef LLAMA_COMPUTE_IMPL_H
#define LLAMA_COMPUTE_IMPL_H

#include "examples/model/compute.h"

#define COMPUTE_ERROR_BYTES 512

struct compute_gpu;

struct llama_compute {
    struct llama_compute_config config;
    struct ofl_stream *stream;
    void *workspace, *adapter_ws;
    struct compute_gpu *gpu; /* NULL: the host device */
    struct llama_job *jobs;  /* of the step; they live until it has run */
    size_t jobs_used;
    char error[COMPUTE_ERROR_BYTES];

    /* Of the step that runs. */
    const int32_t *inputs, *targets;
    size_t tokens;
    float scale;
    double *losses;             /* [accum] */
    float *logits;              /* [vocab] */
    float *rows;                /* [rows, hidden] that enter */
    struct llama_route *routes; /* [piece, experts_used] */
};

/* Tokens of a micro-batch. */
static inline size_t compute_rows(const struct llama_compute_config *c)
{
    return c->batch * c->seq;
}

/* The next part of an extend's rows, from *at on; false behind the last. between: the workspace's. */
static inline bool compute_extend(const struct llama_job *j, void *between, size_t *at,
                                  struct llama_extend *e)
{
    const struct llama_compute_config *c = &j->compute->config;
    size_t n = j->rows - *at < c->rows ? j->rows - *at : c->rows;

    *e = (struct llama_extend){
        .shape = &c->shape,
        .layer = j->layer,
        .first = j->fed + *at,
        .n = n,
        .positions = c->positions,
        .k_cache = j->k_cache,
        .v_cache = j->v_cache,
        .x = j->y + *at * c->shape.hidden,
        .expert = j->expert,
        .routes = j->compute->routes + *at * c->shape.experts_used,
        .between = j->between ? (char *)j->between + llama_compute_between(c, *at) : between,
    };
    *at += n;
    return n > 0;
}

size_t compute_gpu_workspace(const struct llama_compute_config *config);
int compute_gpu_open(struct llama_compute *c, struct ofl_ctx *ctx);
void compute_gpu_close(struct llama_compute *c);
size_t compute_gpu_between(const struct llama_compute_config *config, size_t n);
float *compute_gpu_rows(struct llama_compute *c);
int compute_gpu_begin(struct llama_compute *c);
int compute_gpu_run(struct llama_compute *c, const struct llama_job *job);
int compute_gpu_end(struct llama_compute *c);
void compute_gpu_fetch(const struct llama_compute *c);

#endif
