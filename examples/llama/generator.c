/* Generating with a Llama under liboffload. See generator.h. */
#include "examples/llama/generator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* One kernel call on the stream; lives until the step is over. */
struct job {
    struct llama_generator *generator;
    uint32_t layer;
    struct llama_block_weights weights;
    struct llama_head_weights head;
    struct llama_weight table;
};

enum { HELD_WORKSPACE, HELD_X, HELD_CACHE, HELD };

struct llama_generator {
    struct ofl_ctx *ctx;
    struct llama_generator_config config;
    struct ofl_stream *stream;
    struct llama_model model;
    struct ofl_lease held[HELD]; /* for as long as the generator lives */
    struct job *jobs;
    size_t fed; /* tokens so far */

    /* Of the step that runs. */
    const int32_t *tokens;
    size_t n;
    float *logits;
};

/* ---- needs --------------------------------------------------------------- */

/* For scratch: one that stands for all of them. */
static enum ofl_dtype widest(const struct llama_shape *shape, const enum ofl_dtype *dtypes)
{
    for (uint32_t i = 0; i < llama_tensor_count(shape); i++)
        if (dtypes[i] != OFL_F32)
            return dtypes[i];
    return OFL_F32;
}

static uint64_t kv_elems(const struct llama_generator_config *c)
{
    return (uint64_t)c->positions * c->shape.kv_heads * c->shape.head_dim;
}

static uint64_t held_bytes(const struct llama_generator_config *c, enum ofl_dtype dtype, int which)
{
    uint64_t extend, head;

    if (which == HELD_X)
        return (uint64_t)c->piece * c->shape.hidden * sizeof(float);
    if (which == HELD_CACHE)
        return 2 * (uint64_t)c->shape.layers * kv_elems(c) * sizeof(float);
    extend = llama_block_extend_workspace(&c->shape, c->piece, c->positions, dtype);
    head = llama_head_workspace(&c->shape, 1, dtype);
    return extend > head ? extend : head;
}

static const char *const held_names[HELD] = {"workspace", "x", "key-value cache"};

static struct llama_part part_of(const struct llama_generator_config *c, enum ofl_dtype dtype,
                                 const char *name)
{
    struct llama_part part = {0};

    snprintf(part.name, sizeof part.name, "%s", name);
    for (int i = 0; i < HELD; i++)
        llama_part_add(&part, held_names[i], held_bytes(c, dtype, i));
    return part;
}

static void add_weight(struct llama_part *part, const struct llama_generator_config *c,
                       const enum ofl_dtype *dtypes, uint32_t index)
{
    struct llama_tensor_desc d;

    llama_tensor_at(&c->shape, index, &d);
    llama_part_add(part, d.name, d.elems * ofl_dtype_bytes(dtypes[index]));
}

void llama_generator_need(const struct llama_generator_config *c, const enum ofl_dtype *dtypes,
                          struct llama_generator_need *out)
{
    enum ofl_dtype dtype = widest(&c->shape, dtypes);
    struct llama_part part;

    *out = (struct llama_generator_need){.cache_bytes = held_bytes(c, dtype, HELD_CACHE),
                                         .workspace_bytes = held_bytes(c, dtype, HELD_WORKSPACE)};
    part = part_of(c, dtype, "the embedding");
    add_weight(&part, c, dtypes, llama_tensor_index(&c->shape, LLAMA_EMBED, 0));
    llama_part_close(&part, &out->device);
    for (uint32_t layer = 0; layer < c->shape.layers; layer++) {
        char name[32];

        snprintf(name, sizeof name, "layer %u", layer);
        part = part_of(c, dtype, name);
        for (uint32_t i = 0; i < LLAMA_LAYER_TENSORS; i++)
            add_weight(&part, c, dtypes, llama_layer_first(layer) + i);
        llama_part_close(&part, &out->device);
    }
    part = part_of(c, dtype, "the head");
    add_weight(&part, c, dtypes, llama_tensor_index(&c->shape, LLAMA_NORM, 0));
    add_weight(&part, c, dtypes, llama_tensor_index(&c->shape, LLAMA_HEAD, 0));
    llama_part_close(&part, &out->device);

    part = part_of(c, dtype, "everything");
    for (uint32_t i = 0; i < llama_tensor_count(&c->shape); i++) {
        struct llama_tensor_desc d;

        add_weight(&part, c, dtypes, i);
        llama_tensor_at(&c->shape, i, &d);
        out->weight_bytes += d.elems * ofl_dtype_bytes(dtypes[i]);
    }
    out->device_all_bytes = part.device_bytes;
}

/* ---- life ---------------------------------------------------------------- */

static int fail_ofl(int err, char *error, size_t error_bytes)
{
    snprintf(error, error_bytes, "%s", ofl_error());
    return err;
}

static int take_held(struct llama_generator *g)
{
    static const enum ofl_kind kinds[HELD] = {OFL_KIND_WORKSPACE, OFL_KIND_WORKSPACE, OFL_KIND_CACHE};
    enum ofl_dtype dtype = widest(&g->config.shape, g->model.dtypes);
    int err = 0;

    for (int i = 0; i < HELD && err == 0; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d,
                                    .name = held_names[i],
                                    .kind = kinds[i],
                                    .dtype = OFL_U8,
                                    .elems = held_bytes(&g->config, dtype, i),
                                    .flags = OFL_TENSOR_TRANSIENT};

        err = ofl_tensor_create(g->ctx, &d, &g->held[i].tensor);
        g->held[i].mode = OFL_OVERWRITE;
    }
    return err < 0 ? err : ofl_acquire(g->ctx, g->held, HELD, g->stream);
}

int llama_generator_create(struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                           const struct llama_generator_config *config, struct llama_generator **out,
                           char *error, size_t error_bytes)
{
    struct llama_generator *g = calloc(1, sizeof *g);
    int err;

    *out = NULL;
    if (g)
        g->jobs = calloc((size_t)config->shape.layers + 2, sizeof *g->jobs);
    if (!g || !g->jobs) {
        free(g);
        snprintf(error, error_bytes, "make a generator of %u layers: out of memory", config->shape.layers);
        return -ENOMEM;
    }
    g->ctx = ctx;
    g->config = *config;
    err = llama_model_bind(ck, &g->config.shape, &g->model, error, error_bytes);
    if (err == 0) {
        err = ofl_stream_create(ctx, &g->stream);
        if (err == 0)
            err = take_held(g);
        if (err < 0)
            fail_ofl(err, error, error_bytes);
    }
    if (err < 0) {
        llama_generator_destroy(g);
        return err;
    }
    *out = g;
    return 0;
}

void llama_generator_destroy(struct llama_generator *g)
{
    if (!g)
        return;
    if (g->stream)
        ofl_stream_sync(g->stream);
    if (g->held[0].ptr)
        ofl_release(g->ctx, g->held, HELD, g->stream);
    ofl_stream_destroy(g->stream);
    for (int i = 0; i < HELD; i++)
        ofl_tensor_destroy(g->held[i].tensor);
    llama_model_destroy(&g->model);
    free(g->jobs);
    free(g);
}

/* ---- feeding ------------------------------------------------------------- */

static void embed_job(void *arg)
{
    const struct job *j = arg;
    const struct llama_generator *g = j->generator;

    llama_embed(g->held[HELD_X].ptr, j->table, g->tokens, g->n, g->config.shape.hidden);
}

static void layer_job(void *arg)
{
    const struct job *j = arg;
    const struct llama_generator *g = j->generator;
    uint64_t each = kv_elems(&g->config);
    float *cache = (float *)g->held[HELD_CACHE].ptr + 2 * j->layer * each;

    llama_block_extend(&g->config.shape, g->fed, g->n, g->config.positions, &j->weights, cache, cache + each,
                       g->held[HELD_X].ptr, g->held[HELD_WORKSPACE].ptr);
}

static void head_job(void *arg)
{
    const struct job *j = arg;
    const struct llama_generator *g = j->generator;
    const float *x = g->held[HELD_X].ptr;

    llama_head_logits(&g->config.shape, &j->head, x + (g->n - 1) * g->config.shape.hidden, g->logits,
                      g->held[HELD_WORKSPACE].ptr);
}

static int feed_embed(struct llama_generator *g, struct job *job)
{
    struct ofl_lease lease = {.tensor = g->model.tensors[0], .mode = OFL_READ};
    int err = ofl_acquire(g->ctx, &lease, 1, g->stream);

    if (err < 0)
        return err;
    *job = (struct job){.generator = g, .table = {lease.ptr, g->model.dtypes[0]}};
    err = ofl_stream_launch(g->stream, embed_job, job);
    return err < 0 ? err : ofl_release(g->ctx, &lease, 1, g->stream);
}

static int feed_layer(struct llama_generator *g, uint32_t layer, struct job *job)
{
    struct ofl_lease leases[LLAMA_LAYER_TENSORS];
    int err;

    llama_layer_leases(&g->model, layer, OFL_READ, leases);
    err = ofl_acquire(g->ctx, leases, LLAMA_LAYER_TENSORS, g->stream);
    if (err < 0)
        return err;
    *job = (struct job){.generator = g, .layer = layer};
    llama_layer_weights(&g->model, layer, leases, &job->weights);
    err = ofl_stream_launch(g->stream, layer_job, job);
    return err < 0 ? err : ofl_release(g->ctx, leases, LLAMA_LAYER_TENSORS, g->stream);
}

static int feed_head(struct llama_generator *g, struct job *job)
{
    uint32_t norm = llama_tensor_index(&g->config.shape, LLAMA_NORM, 0);
    uint32_t head = llama_tensor_index(&g->config.shape, LLAMA_HEAD, 0);
    struct ofl_lease leases[] = {{.tensor = g->model.tensors[norm], .mode = OFL_READ},
                                 {.tensor = g->model.tensors[head], .mode = OFL_READ}};
    int err = ofl_acquire(g->ctx, leases, 2, g->stream);

    if (err < 0)
        return err;
    *job = (struct job){
        .generator = g,
        .head = {{leases[0].ptr, g->model.dtypes[norm]}, {leases[1].ptr, g->model.dtypes[head]}},
    };
    err = ofl_stream_launch(g->stream, head_job, job);
    return err < 0 ? err : ofl_release(g->ctx, leases, 2, g->stream);
}

int llama_generator_feed(struct llama_generator *g, const char *step, const int32_t *tokens, size_t n,
                         float *logits, char *error, size_t error_bytes)
{
    uint32_t layers = g->config.shape.layers;
    int err;

    if (n == 0 || n > g->config.piece || n > g->config.positions - g->fed) {
        snprintf(error, error_bytes, "feed %zu tokens behind %zu: pieces have %zu at most, texts %zu", n,
                 g->fed, g->config.piece, g->config.positions);
        return -EINVAL;
    }
    g->tokens = tokens;
    g->n = n;
    g->logits = logits;
    err = ofl_step_begin(g->ctx, step);
    if (err == 0)
        err = feed_embed(g, &g->jobs[0]);
    for (uint32_t layer = 0; layer < layers && err == 0; layer++)
        err = feed_layer(g, layer, &g->jobs[1 + layer]);
    if (err == 0 && logits)
        err = feed_head(g, &g->jobs[1 + layers]);
    if (err == 0)
        err = ofl_step_end(g->ctx);
    if (err == 0)
        err = ofl_stream_sync(g->stream);
    if (err < 0)
        return fail_ofl(err, error, error_bytes);
    g->fed += n;
    return 0;
}
