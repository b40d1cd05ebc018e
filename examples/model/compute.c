/* What computes the parts of a model: jobs, and the host device. See compute.h. */
#include "examples/model/compute_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILL_ELEMS 4096u

/* ---- jobs on the host device: run by the stream's thread -------------------- */

static void embed(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;
    size_t rows = compute_rows(&c->config);

    llama_embed(j->y, j->table, c->inputs + j->micro * rows, rows, c->config.shape.hidden);
    if (c->config.shape.embed_scale != 0)
        llama_scale(j->y, rows * c->config.shape.hidden, llama_embed_scale(&c->config.shape, j->table.dtype));
}

static void enter(void *arg)
{
    const struct llama_job *j = arg;
    size_t hidden = j->compute->config.shape.hidden;

    for (size_t i = 0; i < j->rows; i++)
        memcpy(j->y + j->order[i] * hidden, j->compute->rows + i * hidden, hidden * sizeof *j->y);
}

static void forward(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_block_forward(&c->config.shape, c->config.batch, c->config.seq, &j->weights, j->x, j->y,
                        c->workspace);
}

static void head(void *arg)
{
    const struct llama_job *j = arg;
    struct llama_compute *c = j->compute;
    size_t rows = compute_rows(&c->config);

    c->losses[j->micro] = llama_head_loss(&c->config.shape, rows, &j->head, &j->head_grads, j->first, j->x,
                                          c->targets + j->micro * rows, c->scale, j->dx, c->workspace);
}

static void backward(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_block_backward(&c->config.shape, c->config.batch, c->config.seq, &j->weights, &j->grads, j->first,
                         j->x, j->dx, c->workspace);
}

static void enter_experts(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_block_enter(&c->config.shape, c->config.batch, c->config.seq, &j->weights, j->x, j->y, j->state,
                      c->workspace);
}

static void expert_forward(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_expert_forward(&c->config.shape, compute_rows(&c->config), &j->experts, j->y, j->state,
                         c->workspace);
}

static void expert_backward(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_expert_backward(&c->config.shape, compute_rows(&c->config), &j->experts, &j->expert_grads, j->first,
                          j->dx, j->state, c->workspace);
}

static void leave_experts(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_block_leave(&c->config.shape, c->config.batch, c->config.seq, &j->weights, &j->grads, j->first,
                      j->x, j->dx, j->state, c->workspace);
}

static void embed_backward(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;
    size_t rows = compute_rows(&c->config);

    llama_embed_backward(j->table_grad, j->dx, c->inputs + j->micro * rows, rows, c->config.shape.vocab,
                         c->config.shape.hidden, llama_embed_scale(&c->config.shape, c->config.dtype),
                         j->first);
}

static void extend(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;
    char *scratch = (char *)c->workspace + llama_compute_between(&c->config, c->config.rows);
    struct llama_extend e;

    for (size_t at = 0; compute_extend(j, c->workspace, &at, &e);)
        llama_block_extend(&e, j->matrix, &j->slice, scratch);
}

static void logits(void *arg)
{
    const struct llama_job *j = arg;
    const struct llama_compute *c = j->compute;

    llama_head_logits(&c->config.shape, &j->slice, j->x, c->logits, c->workspace);
}

static void fill(void *arg)
{
    const struct llama_fill *f = &((const struct llama_job *)arg)->fill;
    float values[FILL_ELEMS];

    for (uint64_t i = 0; i < f->elems; i += FILL_ELEMS) {
        uint64_t n = f->elems - i < FILL_ELEMS ? f->elems - i : FILL_ELEMS;

        for (uint64_t k = 0; k < n && f->std == 0; k++)
            values[k] = f->mean;
        if (f->std != 0)
            llama_init_normal(values, f->first + i, n, f->seed, f->std);
        if (f->dtype == OFL_F32)
            memcpy((float *)f->dst + i, values, n * sizeof *values);
        else
            llama_to_bf16((uint16_t *)f->dst + i, values, n);
    }
}

static void (*const host_jobs[])(void *) = {
    [LLAMA_RUN_EMBED] = embed,
    [LLAMA_RUN_FORWARD] = forward,
    [LLAMA_RUN_HEAD] = head,
    [LLAMA_RUN_BACKWARD] = backward,
    [LLAMA_RUN_EXTEND] = extend,
    [LLAMA_RUN_EMBED_BACKWARD] = embed_backward,
    [LLAMA_RUN_LOGITS] = logits,
    [LLAMA_RUN_FILL] = fill,
    [LLAMA_RUN_ENTER] = enter,
    [LLAMA_RUN_ENTER_EXPERTS] = enter_experts,
    [LLAMA_RUN_EXPERT] = expert_forward,
    [LLAMA_RUN_EXPERT_BACKWARD] = expert_backward,
    [LLAMA_RUN_LEAVE_EXPERTS] = leave_experts,
};

/* ---- sizes ---------------------------------------------------------------- */

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Without that of adapters. */
static size_t parts_workspace(const struct llama_compute_config *c)
{
    size_t bytes;

    if (c->cuda)
        return compute_gpu_workspace(c);
    if (c->batch == 0) {
        bytes = llama_compute_between(c, c->rows);
        bytes += llama_block_extend_workspace(&c->shape, c->rows, c->positions, c->dtype);
        return max_size(bytes, llama_head_workspace(&c->shape, 1, c->dtype));
    }
    bytes = llama_block_forward_workspace(&c->shape, c->batch, c->seq, c->dtype);
    bytes = max_size(bytes, llama_block_backward_workspace(&c->shape, c->batch, c->seq, c->dtype));
    if (c->shape.experts)
        bytes = max_size(bytes, llama_experts_workspace(&c->shape, c->batch, c->seq, c->dtype));
    return max_size(bytes, llama_head_workspace(&c->shape, compute_rows(c), c->dtype));
}

size_t llama_compute_workspace(const struct llama_compute_config *c)
{
    return parts_workspace(c) + c->adapter_bytes;
}

/* Each part of the rows has its own, one behind the other. */
size_t llama_compute_between(const struct llama_compute_config *c, size_t n)
{
    size_t each = c->cuda ? compute_gpu_between(c, c->rows) : llama_block_between_bytes(&c->shape, c->rows);

    return (n + c->rows - 1) / c->rows * each;
}

size_t llama_compute_cache_elem(const struct llama_compute_config *c)
{
    return c->cuda ? ofl_dtype_bytes(c->dtype) : sizeof(float);
}

/* ---- life ----------------------------------------------------------------- */

static size_t jobs_room(const struct llama_compute_config *c)
{
    if (c->batch)
        return ((3 + 2 * (size_t)c->shape.experts) * (size_t)c->shape.layers + 3) * c->accum;
    return c->jobs + (c->piece + c->rows - 1) / c->rows + 1;
}

int llama_compute_open(struct ofl_ctx *ctx, struct ofl_stream *s, const struct llama_compute_config *config,
                       void *workspace, struct llama_compute **out, char *error, size_t error_bytes)
{
    struct llama_compute *c = calloc(1, sizeof *c);
    int err = 0;

    *out = NULL;
    if (config->cuda && config->shape.experts) {
        snprintf(error, error_bytes,
                 "a mixture of experts (%u of %u) is computed on the host only: use --device host",
                 config->shape.experts_used, config->shape.experts);
        free(c);
        return -ENOTSUP;
    }
    if (c) {
        c->config = *config;
        c->stream = s;
        c->workspace = workspace;
        c->adapter_ws = (char *)workspace + parts_workspace(config);
        c->jobs = calloc(jobs_room(config), sizeof *c->jobs);
        c->losses = calloc(config->accum + 1, sizeof *c->losses);
        c->logits = calloc(config->batch ? 1 : config->shape.vocab, sizeof *c->logits);
        c->routes = calloc(config->piece * config->shape.experts_used + 1, sizeof *c->routes);
        c->rows = calloc(config->rows * config->shape.hidden + 1, sizeof *c->rows);
    }
    if (!c || !c->jobs || !c->losses || !c->logits || !c->rows || !c->routes) {
        snprintf(error, error_bytes, "compute %u layers: out of memory", config->shape.layers);
        llama_compute_close(c);
        return -ENOMEM;
    }
    if (config->cuda)
        err = compute_gpu_open(c, ctx);
    if (err < 0) {
        snprintf(error, error_bytes, "%s", c->error);
        llama_compute_close(c);
        return err;
    }
    *out = c;
    return 0;
}

void llama_compute_close(struct llama_compute *c)
{
    if (!c)
        return;
    compute_gpu_close(c);
    free(c->jobs);
    free(c->losses);
    free(c->logits);
    free(c->rows);
    free(c->routes);
    free(c);
}

const char *llama_compute_error(const struct llama_compute *c)
{
    return c && c->error[0] ? c->error : NULL;
}

/* ---- a step --------------------------------------------------------------- */

int llama_compute_begin(struct llama_compute *c, const int32_t *inputs, const int32_t *targets, size_t n,
                        float scale)
{
    c->inputs = inputs;
    c->targets = targets;
    c->tokens = n;
    c->scale = scale;
    c->jobs_used = 0;
    return c->gpu ? compute_gpu_begin(c) : 0;
}

struct llama_job *llama_compute_job(struct llama_compute *c, enum llama_run run)
{
    struct llama_job *job = &c->jobs[c->jobs_used++];

    *job = (struct llama_job){.compute = c, .run = run};
    return job;
}

float *llama_compute_rows(struct llama_compute *c)
{
    return c->gpu ? compute_gpu_rows(c) : c->rows;
}

void llama_compute_again(struct llama_compute *c)
{
    c->jobs_used = 0;
}

const struct llama_route *llama_compute_routes(const struct llama_compute *c)
{
    return c->routes;
}

struct llama_job *llama_compute_alone(struct llama_compute *c, enum llama_run run)
{
    c->jobs_used = 0;
    return llama_compute_job(c, run);
}

static int label(struct llama_compute *c, const struct llama_job *job)
{
    static const char *const names[] = {
        [LLAMA_RUN_EMBED] = "embedding",
        [LLAMA_RUN_FORWARD] = "forward",
        [LLAMA_RUN_HEAD] = "head",
        [LLAMA_RUN_BACKWARD] = "backward",
        [LLAMA_RUN_EXTEND] = "extend",
        [LLAMA_RUN_EMBED_BACKWARD] = "embedding backward",
        [LLAMA_RUN_LOGITS] = "head",
        [LLAMA_RUN_FILL] = "fill",
        [LLAMA_RUN_ENTER] = "embedding",
        [LLAMA_RUN_ENTER_EXPERTS] = "attention",
        [LLAMA_RUN_EXPERT] = "experts",
        [LLAMA_RUN_EXPERT_BACKWARD] = "experts backward",
        [LLAMA_RUN_LEAVE_EXPERTS] = "attention backward",
    };
    bool layer = job->run == LLAMA_RUN_FORWARD || job->run == LLAMA_RUN_BACKWARD ||
                 job->run == LLAMA_RUN_EXTEND ||
                 (job->run >= LLAMA_RUN_ENTER_EXPERTS && job->run <= LLAMA_RUN_LEAVE_EXPERTS);
    char text[64];

    if (!layer)
        return ofl_stream_label(c->stream, names[job->run]);
    snprintf(text, sizeof text, "layer %u %s", job->layer, names[job->run]);
    return ofl_stream_label(c->stream, text);
}

int llama_compute_run(struct llama_compute *c, struct llama_job *job)
{
    int err = label(c, job);

    for (int i = 0; i < LLAMA_MATRICES; i++)
        job->adapters[i].ws = c->adapter_ws;
    if (err == 0)
        err = c->gpu ? compute_gpu_run(c, job) : ofl_stream_launch(c->stream, host_jobs[job->run], job);
    return err < 0 ? err : ofl_stream_label(c->stream, NULL);
}

int llama_compute_end(struct llama_compute *c)
{
    return c->gpu ? compute_gpu_end(c) : 0;
}

void llama_compute_fetch(struct llama_compute *c, double *losses, float *values)
{
    if (c->gpu)
        compute_gpu_fetch(c);
    if (losses)
        memcpy(losses, c->losses, c->config.accum * sizeof *losses);
    if (values)
        memcpy(values, c->logits, c->config.shape.vocab * sizeof *values);
}
