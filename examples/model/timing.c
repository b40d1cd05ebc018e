/* Timing of a layer: see timing.h. */
#include "examples/model/timing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "examples/model/model.h"

#define TRIES 25

#define MOST_LAYERS 64

enum { WEIGHTS = LLAMA_LAYER_TENSORS_MAX, GRADS = 2 * LLAMA_LAYER_TENSORS_MAX };
enum { SCRATCH = GRADS, X, Y, CACHE, TENSORS };

/* The device's last-level cache, at most: NVIDIA's largest has 126 MB. A host's is known. */
#define CACHE_GPU  (UINT64_C(128) << 20)
#define CACHE_HOST (UINT64_C(32) << 20)

struct timing {
    struct llama_compute_config one; /* what was asked for, with room for a layer's jobs */
    const struct llama_compute_config *config;
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_lease leases[MOST_LAYERS]
                           [TENSORS]; /* in the order above; from the second layer on only up to GRADS */
    uint32_t layers;                  /* that are run in turns */
    struct llama_compute *compute;
    int32_t *tokens;
    size_t rows;
    double enough_s;
    char *error;
    size_t error_bytes;
};

static double now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const struct timing *t, int err)
{
    const char *why = llama_compute_error(t->compute);

    snprintf(t->error, t->error_bytes, "time a layer: %s",
             why              ? why
             : err == -ENOMEM ? "out of memory"
                              : ofl_error());
    return err;
}

/* ---- device memory ---------------------------------------------------------- */

static uint64_t bytes_of(const struct llama_compute_config *c, size_t rows, int which)
{
    uint64_t elem = ofl_dtype_bytes(c->dtype);
    struct llama_tensor_desc d;

    if (which < GRADS) {
        if ((uint32_t)which % WEIGHTS >= llama_layer_tensors(&c->shape, 0))
            return 0;
        llama_tensor_at(&c->shape, 1 + (uint32_t)which % WEIGHTS, &d);
        return which < WEIGHTS ? d.elems * elem : c->batch ? d.elems * sizeof(float) : 0;
    }
    switch (which) {
    case SCRATCH:
        return llama_compute_workspace(c);
    case CACHE:
        return c->batch ? 0
                        : 2 * (uint64_t)c->positions * c->shape.kv_heads * c->shape.head_dim *
                              llama_compute_cache_elem(c);
    default:
        return rows * c->shape.hidden * sizeof(float);
    }
}

static uint64_t layer_bytes(const struct llama_compute_config *c, size_t rows)
{
    uint64_t bytes = 0;

    for (int i = 0; i < GRADS; i++)
        bytes += ofl_device_footprint(bytes_of(c, rows, i));
    return bytes;
}

/* Each layer of a step comes from memory, since the others were used in between. What is run in turns is twice what the
 * device's cache holds, or as much as there are layers and memory. */
static uint32_t layers_in_turns(const struct llama_compute_config *c, size_t rows, uint64_t memory_bytes)
{
    long host = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t cache = c->cuda ? CACHE_GPU : host > 0 ? (uint64_t)host : CACHE_HOST;
    uint64_t each = layer_bytes(c, rows), n = 2 * cache / each + 1, room = memory_bytes / each;

    n = n > room ? room : n;
    n = n > c->shape.layers ? c->shape.layers : n;
    n = n > MOST_LAYERS ? MOST_LAYERS : n;
    return n ? (uint32_t)n : 1;
}

static int lease_layer(struct timing *t, uint32_t layer)
{
    struct ofl_lease batch[TENSORS];
    int of[TENSORS], err = 0;
    size_t n = 0;

    for (int i = 0; i < (layer ? GRADS : TENSORS) && err == 0; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d,
                                    .name = "timing",
                                    .kind = OFL_KIND_WORKSPACE,
                                    .dtype = OFL_U8,
                                    .elems = bytes_of(t->config, t->rows, i),
                                    .flags = OFL_TENSOR_TRANSIENT};

        if (d.elems == 0)
            continue;
        batch[n] = (struct ofl_lease){.size = sizeof batch[n], .mode = OFL_OVERWRITE};
        err = ofl_tensor_create(t->ctx, &d, &batch[n].tensor);
        of[n++] = i;
    }
    if (err == 0)
        err = ofl_acquire(t->ctx, batch, n, t->stream);
    for (size_t i = 0; i < n && err == 0; i++)
        t->leases[layer][of[i]] = batch[i];
    return err;
}

/* Random numbers for the first layer; they take a while on a host, and the others only have to be there. */
static int fill(struct timing *t, uint32_t layer)
{
    int err = 0;

    for (int i = 0; i < TENSORS && err == 0; i++) {
        struct llama_job *job;
        bool weight = i < WEIGHTS, grad = !weight && i < GRADS;
        enum ofl_dtype dtype = weight ? t->config->dtype : OFL_F32;

        if (!t->leases[layer][i].ptr || grad || i == SCRATCH || i == CACHE)
            continue;
        job = llama_compute_alone(t->compute, LLAMA_RUN_FILL);
        job->fill = (struct llama_fill){.dst = t->leases[layer][i].ptr,
                                        .dtype = dtype,
                                        .elems = bytes_of(t->config, t->rows, i) / ofl_dtype_bytes(dtype),
                                        .seed = (uint64_t)i + 1,
                                        .mean = layer ? 0.02f : 0,
                                        .std = layer ? 0 : 0.02f};
        err = llama_compute_run(t->compute, job);
        if (err == 0)
            err = ofl_stream_sync(t->stream);
    }
    return err;
}

/* ---- running ------------------------------------------------------------------- */

static void describe(struct timing *t, uint32_t layer, struct llama_job *job)
{
    const struct llama_compute_config *c = t->config;
    enum ofl_dtype dtypes[1 + WEIGHTS];
    struct llama_model model = {.shape = &c->shape, .dtypes = dtypes};

    for (int i = 0; i <= WEIGHTS; i++)
        dtypes[i] = c->dtype;
    llama_layer_weights(&model, 0, t->leases[layer], &job->weights);
    llama_layer_grads(&c->shape, 0, t->leases[layer] + WEIGHTS, &job->grads);
    job->first = true;
    job->x = t->leases[0][X].ptr;
    job->y = job->dx = t->leases[0][Y].ptr;
    job->k_cache = t->leases[0][CACHE].ptr;
    job->rows = t->rows;
    if (job->k_cache) {
        job->v_cache = (char *)job->k_cache + bytes_of(c, t->rows, CACHE) / 2;
        job->fed = c->positions - c->piece;
    }
}

/* A layer's matrix as its only slice. */
static void whole_matrix(const struct timing *t, enum llama_matrix matrix, struct llama_job *job)
{
    const struct llama_block_weights *w = &job->weights;
    const struct llama_weight none = {0};
    const struct {
        enum llama_role role;
        struct llama_weight weight, norm, bias, post_norm;
    } all[LLAMA_MATRICES] = {
        [LLAMA_MATRIX_Q] = {LLAMA_Q, w->q, w->attn_norm, w->q_bias, w->q_norm},
        [LLAMA_MATRIX_K] = {LLAMA_K, w->k, none, w->k_bias, w->k_norm},
        [LLAMA_MATRIX_V] = {LLAMA_V, w->v, none, w->v_bias, none},
        [LLAMA_MATRIX_O] = {LLAMA_O, w->o, none, w->o_bias, w->attn_post_norm},
        [LLAMA_MATRIX_GATE] = {LLAMA_GATE, w->gate, w->mlp_norm, w->gate_bias, none},
        [LLAMA_MATRIX_UP] = {LLAMA_UP, w->up, none, w->up_bias, none},
        [LLAMA_MATRIX_DOWN] = {LLAMA_DOWN, w->down, none, w->down_bias, w->mlp_post_norm},
    };
    struct llama_tensor_desc d;

    llama_tensor_at(&t->config->shape, llama_tensor_index(&t->config->shape, all[matrix].role, 0), &d);
    job->matrix = matrix;
    job->slice = (struct llama_slice){.rows = d.shape[0],
                                      .weight = all[matrix].weight,
                                      .norm = all[matrix].norm,
                                      .bias = all[matrix].bias,
                                      .post_norm = all[matrix].post_norm};
}

static int run_once(struct timing *t, enum llama_run run, uint32_t layer)
{
    struct llama_job *job;
    int err = llama_compute_begin(t->compute, t->tokens, t->tokens, t->rows, 1.0f);

    for (int i = 0; i < (run == LLAMA_RUN_EXTEND ? LLAMA_MATRICES : 1) && err == 0; i++) {
        job = llama_compute_job(t->compute, run);
        describe(t, layer, job);
        if (run == LLAMA_RUN_EXTEND)
            whole_matrix(t, (enum llama_matrix)i, job);
        err = llama_compute_run(t->compute, job);
    }
    return err < 0 ? err : ofl_stream_sync(t->stream);
}

/* The lower quartile of a few runs, the first of which warms up: what disturbs them only adds, and is more in the
 * first ones. */
static int time_run(struct timing *t, enum llama_run run, double *seconds, double *cpu, double *wall)
{
    double tries[TRIES], all = 0;
    int n = 0, err = 0;

    for (uint32_t i = 0; i < t->layers && err == 0; i++)
        err = run_once(t, run, i);
    while (err == 0 && n < TRIES && (n == 0 || all < t->enough_s)) {
        double start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID), value;
        int at = n;

        err = run_once(t, run, (uint32_t)n % t->layers);
        value = now(CLOCK_MONOTONIC) - start;
        *cpu += now(CLOCK_PROCESS_CPUTIME_ID) - used;
        all += value;
        for (; at > 0 && tries[at - 1] > value; at--)
            tries[at] = tries[at - 1];
        tries[at] = value;
        n++;
    }
    *wall += all;
    *seconds = n ? tries[n / 4] : 0;
    return err;
}

static int measure(struct timing *t, struct llama_timing *out)
{
    double cpu = 0, wall = 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int err = 0;

    for (uint32_t i = 0; i < t->layers && err == 0; i++)
        err = fill(t, i);
    if (err == 0 && t->config->batch) {
        err = time_run(t, LLAMA_RUN_FORWARD, &out->forward_s, &cpu, &wall);
        if (err == 0)
            err = time_run(t, LLAMA_RUN_BACKWARD, &out->backward_s, &cpu, &wall);
    } else if (err == 0) {
        err = time_run(t, LLAMA_RUN_EXTEND, &out->extend_s, &cpu, &wall);
    }
    out->cores = wall > 0 && cores > 0 ? cpu / wall / (double)cores : 0;
    out->cores = out->cores > 1 ? 1 : out->cores;
    return err;
}

static int run_all(struct timing *t, struct llama_timing *out)
{
    int err = ofl_stream_create(t->ctx, &t->stream);

    for (uint32_t i = 0; i < t->layers && err == 0; i++)
        err = lease_layer(t, i);
    if (err < 0)
        return fail(t, err);
    err = llama_compute_open(t->ctx, t->stream, t->config, t->leases[0][SCRATCH].ptr, &t->compute, t->error,
                             t->error_bytes);
    if (err < 0)
        return err;
    err = measure(t, out);
    return err < 0 ? fail(t, err) : 0;
}

int llama_timing_measure(const char *device, const struct llama_compute_config *config, uint64_t memory_bytes,
                         double enough_s, struct llama_timing *out, char *error, size_t error_bytes)
{
    struct timing t = {.one = *config,
                       .config = &t.one,
                       .rows = config->batch ? config->batch * config->seq : config->piece,
                       .enough_s = enough_s,
                       .error = error,
                       .error_bytes = error_bytes};
    struct ofl_config open = {
        .size = sizeof open, .device = device, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    int err;

    *out = (struct llama_timing){0};
    t.one.jobs = LLAMA_MATRICES;
    t.layers = layers_in_turns(config, t.rows, memory_bytes);
    for (int i = GRADS; i < TENSORS; i++)
        open.device_bytes += ofl_device_footprint(bytes_of(config, t.rows, i));
    open.device_bytes += t.layers * layer_bytes(config, t.rows);
    t.tokens = calloc(t.rows + 1, sizeof *t.tokens);
    err = t.tokens ? ofl_open(&open, &t.ctx) : -ENOMEM;
    if (err == 0)
        err = run_all(&t, out);
    else
        fail(&t, err);
    llama_compute_close(t.compute);
    if (t.ctx)
        ofl_close(t.ctx);
    free(t.tokens);
    return err;
}
