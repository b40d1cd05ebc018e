/* Generating with a Llama under liboffload. See generator.h. */
#include "examples/model/generator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/random.h"

enum { HELD_WORKSPACE, HELD_X, HELD_CACHE, HELD_PROMPT, HELD };

struct llama_generator {
    struct ofl_ctx *ctx;
    struct llama_generator_config config;
    struct ofl_stream *stream;
    struct llama_model model;
    struct ofl_lease
        held[HELD]; /* for as long as the generator lives; the prompt's for as long as it is fed */
    struct llama_compute *compute;
    uint64_t cache_bytes; /* of a layer's keys, and of its values */
    size_t fed;           /* tokens so far */
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

static size_t rows_of(const struct llama_generator_config *c)
{
    return c->piece < LLAMA_GENERATOR_ROWS ? c->piece : LLAMA_GENERATOR_ROWS;
}

/* Of a long piece. A short one, as each token alone, has its rows in the scratch that is always there. */
static uint64_t prompt_bytes(const struct llama_shape *shape, size_t piece)
{
    return piece > LLAMA_GENERATOR_ROWS ? (uint64_t)piece * shape->hidden * sizeof(float) : 0;
}

static struct llama_compute_config compute_config(const struct llama_generator_config *c,
                                                  enum ofl_dtype dtype)
{
    return (struct llama_compute_config){.shape = c->shape,
                                         .dtype = dtype,
                                         .cuda = c->cuda,
                                         .piece = c->piece,
                                         .positions = c->positions,
                                         .rows = rows_of(c)};
}

static uint64_t held_bytes(const struct llama_generator_config *c, enum ofl_dtype dtype, int which)
{
    struct llama_compute_config compute = compute_config(c, dtype);

    if (which == HELD_X)
        return (uint64_t)rows_of(c) * c->shape.hidden * sizeof(float);
    if (which == HELD_PROMPT)
        return prompt_bytes(&c->shape, c->piece);
    if (which == HELD_CACHE)
        return 2 * (uint64_t)c->shape.layers * kv_elems(c) * llama_compute_cache_elem(&compute);
    return llama_compute_workspace(&compute);
}

static const char *const held_names[HELD] = {"workspace", "x", "key-value cache", "x of the prompt"};

static struct llama_part part_of(const struct llama_generator_config *c, enum ofl_dtype dtype,
                                 const char *name)
{
    struct llama_part part = {0};

    snprintf(part.name, sizeof part.name, "%s", name);
    for (int i = 0; i < HELD; i++)
        if (held_bytes(c, dtype, i))
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
    out->scratch_bytes = part.device_bytes - ofl_device_footprint(out->cache_bytes);
    for (uint32_t i = 0; i < llama_tensor_count(&c->shape); i++) {
        struct llama_tensor_desc d;

        add_weight(&part, c, dtypes, i);
        llama_tensor_at(&c->shape, i, &d);
        out->weight_bytes += d.elems * ofl_dtype_bytes(dtypes[i]);
    }
    out->weights = llama_tensor_count(&c->shape);
    out->device_all_bytes = part.device_bytes;
}

/* Bytes that move beyond the first pass over the weights: each further piece reads again what is not kept, and
 * what the prompt's x displaced comes back for the tokens after it. */
static uint64_t piece_traffic(const struct llama_generator_need *need, uint64_t prompt, size_t pieces,
                              uint64_t device_bytes, uint64_t host_bytes)
{
    uint64_t held = need->device_all_bytes - need->weight_bytes, all = need->weight_bytes, moved = 0;
    uint64_t kept = device_bytes > held ? device_bytes - held : 0, beside = kept > prompt ? kept - prompt : 0;

    for (int drive = 0; drive < 2;
         drive++) { /* what is not on the device; what is not in host memory either */
        uint64_t more = drive ? host_bytes : 0;
        uint64_t with = all > beside + more ? all - beside - more : 0;
        uint64_t without = all > kept + more ? all - kept - more : 0;

        moved += (pieces - 1) * with + (with - without);
    }
    return moved;
}

size_t llama_generator_piece(const struct llama_shape *shape, const struct llama_generator_need *need,
                             size_t tokens, uint64_t device_bytes, uint64_t host_bytes)
{
    size_t parts = (tokens + LLAMA_GENERATOR_ROWS - 1) / LLAMA_GENERATOR_ROWS, best = tokens;
    uint64_t least = UINT64_MAX;

    for (size_t pieces = 1; pieces <= parts; pieces++) {
        size_t each = (parts + pieces - 1) / pieces * LLAMA_GENERATOR_ROWS,
               piece = each < tokens ? each : tokens;
        uint64_t bytes = prompt_bytes(shape, piece), room = bytes ? ofl_device_footprint(bytes) : 0, moved;

        if (room && need->device.device_bytes + room > device_bytes / 256 * 256)
            continue;
        moved = piece_traffic(need, room, pieces, device_bytes, host_bytes);
        if (moved < least) {
            least = moved;
            best = piece;
        }
    }
    return best;
}

/* ---- life ---------------------------------------------------------------- */

static int fail_ofl(const struct llama_generator *g, int err, char *error, size_t error_bytes)
{
    const char *why = llama_compute_error(g->compute);

    snprintf(error, error_bytes, "%s", why ? why : ofl_error());
    return err;
}

static int take_held(struct llama_generator *g)
{
    /* That of the prompt goes first: at the far end of the arena it leaves the rest in one piece. */
    static const enum ofl_kind kinds[HELD] = {OFL_KIND_WORKSPACE, OFL_KIND_WORKSPACE, OFL_KIND_CACHE,
                                              OFL_KIND_ACTIVATION};
    enum ofl_dtype dtype = widest(&g->config.shape, g->model.dtypes);
    int err = 0, count = held_bytes(&g->config, dtype, HELD_PROMPT) ? HELD : HELD_PROMPT;

    for (int i = 0; i < count && err == 0; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d,
                                    .name = held_names[i],
                                    .kind = kinds[i],
                                    .dtype = OFL_U8,
                                    .elems = held_bytes(&g->config, dtype, i),
                                    .flags = OFL_TENSOR_TRANSIENT};

        err = ofl_tensor_create(g->ctx, &d, &g->held[i].tensor);
        g->held[i].size = sizeof g->held[i];
        g->held[i].mode = OFL_OVERWRITE;
    }
    return err < 0 ? err : ofl_acquire(g->ctx, g->held, (size_t)count, g->stream);
}

/* The prompt has been fed, and the stream has run that. */
static int give_prompt(struct llama_generator *g)
{
    struct ofl_lease *x = &g->held[HELD_PROMPT];
    int err = x->ptr ? ofl_release(g->ctx, x, 1, g->stream) : 0;

    x->ptr = NULL;
    ofl_tensor_destroy(x->tensor);
    x->tensor = NULL;
    return err;
}

/* A GPU's products take matrices of one dtype. */
static int check_dtypes(const struct llama_generator *g, enum ofl_dtype dtype, char *error,
                        size_t error_bytes)
{
    for (uint32_t i = 0; g->config.cuda && i < g->model.count; i++) {
        struct llama_tensor_desc d;

        llama_tensor_at(&g->config.shape, i, &d);
        if (g->model.dtypes[i] == dtype || d.dims < 2)
            continue;
        snprintf(error, error_bytes,
                 "%s is %s, other matrices are %s: on a GPU they must be alike; use "
                 "--device host",
                 d.name, ofl_dtype_name(g->model.dtypes[i]), ofl_dtype_name(dtype));
        return -ENOTSUP;
    }
    return 0;
}

static int open_compute(struct llama_generator *g, char *error, size_t error_bytes)
{
    enum ofl_dtype dtype = widest(&g->config.shape, g->model.dtypes);
    struct llama_compute_config compute = compute_config(&g->config, dtype);
    int err = check_dtypes(g, dtype, error, error_bytes);

    g->cache_bytes = kv_elems(&g->config) * llama_compute_cache_elem(&compute);
    return err < 0 ? err
                   : llama_compute_open(g->ctx, g->stream, &compute, g->held[HELD_WORKSPACE].ptr, &g->compute,
                                        error, error_bytes);
}

int llama_generator_create(struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                           const struct llama_generator_config *config, struct llama_generator **out,
                           char *error, size_t error_bytes)
{
    struct llama_generator *g = calloc(1, sizeof *g);
    int err;

    *out = NULL;
    if (!g) {
        snprintf(error, error_bytes, "make a generator of %u layers: out of memory", config->shape.layers);
        return -ENOMEM;
    }
    g->ctx = ctx;
    g->config = *config;
    if (ck)
        err = llama_model_bind(ck, &g->config.shape, &g->model, error, error_bytes);
    else
        err = llama_model_create(ctx, &g->config.shape, config->fresh, OFL_KIND_WEIGHT, "", &g->model, error,
                                 error_bytes);
    if (err == 0) {
        err = ofl_stream_create(ctx, &g->stream);
        if (err == 0)
            err = take_held(g);
        if (err < 0)
            fail_ofl(g, err, error, error_bytes);
    }
    if (err == 0)
        err = open_compute(g, error, error_bytes);
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
    llama_compute_close(g->compute);
    if (g->held[0].ptr)
        ofl_release(g->ctx, g->held, HELD_PROMPT, g->stream);
    if (g->stream)
        give_prompt(g);
    ofl_stream_destroy(g->stream);
    for (int i = 0; i < HELD_PROMPT; i++)
        ofl_tensor_destroy(g->held[i].tensor);
    llama_model_destroy(&g->model);
    free(g);
}

int llama_generator_random(struct llama_generator *g, uint32_t tensor, uint64_t seed, float std, char *error,
                           size_t error_bytes)
{
    struct llama_tensor_desc d;
    int err;

    llama_tensor_at(&g->config.shape, tensor, &d);
    err = llama_random_fill(g->ctx, g->stream, g->compute, g->model.tensors[tensor], &d, tensor, seed, std);
    return err < 0 ? fail_ofl(g, err, error, error_bytes) : 0;
}

/* ---- feeding ------------------------------------------------------------- */

static float *x_of(const struct llama_generator *g)
{
    return g->held[g->held[HELD_PROMPT].ptr ? HELD_PROMPT : HELD_X].ptr;
}

static size_t most_of(const struct llama_generator *g)
{
    return g->held[HELD_PROMPT].ptr ? g->config.piece : rows_of(&g->config);
}

static int feed_embed(struct llama_generator *g)
{
    struct llama_job *job = llama_compute_job(g->compute, LLAMA_RUN_EMBED);
    struct ofl_lease lease = {.size = sizeof lease, .tensor = g->model.tensors[0], .mode = OFL_READ};
    int err = ofl_acquire(g->ctx, &lease, 1, g->stream);

    if (err < 0)
        return err;
    job->table = (struct llama_weight){lease.ptr, g->model.dtypes[0]};
    job->y = x_of(g);
    err = llama_compute_run(g->compute, job);
    return err < 0 ? err : ofl_release(g->ctx, &lease, 1, g->stream);
}

/* All n rows, part by part, while the layer's weights are there. */
static int feed_layer(struct llama_generator *g, uint32_t layer, size_t n)
{
    struct ofl_lease leases[LLAMA_LAYER_TENSORS];
    size_t rows = rows_of(&g->config);
    int err;

    llama_layer_leases(&g->model, layer, OFL_READ, leases);
    err = ofl_acquire(g->ctx, leases, LLAMA_LAYER_TENSORS, g->stream);
    for (size_t at = 0; at < n && err == 0; at += rows) {
        struct llama_job *job = llama_compute_job(g->compute, LLAMA_RUN_EXTEND);

        llama_layer_weights(&g->model, layer, leases, &job->weights);
        job->layer = layer;
        job->k_cache = (char *)g->held[HELD_CACHE].ptr + 2 * layer * g->cache_bytes;
        job->v_cache = (char *)job->k_cache + g->cache_bytes;
        job->fed = g->fed + at;
        job->rows = n - at < rows ? n - at : rows;
        job->y = x_of(g) + at * g->config.shape.hidden;
        err = llama_compute_run(g->compute, job);
    }
    return err < 0 ? err : ofl_release(g->ctx, leases, LLAMA_LAYER_TENSORS, g->stream);
}

static bool going(const struct llama_generator *g, uint32_t layer)
{
    return !g->config.going || g->config.going(g->config.going_arg, layer);
}

static int feed_head(struct llama_generator *g, size_t n)
{
    struct llama_job *job = llama_compute_job(g->compute, LLAMA_RUN_LOGITS);
    uint32_t norm = llama_tensor_index(&g->config.shape, LLAMA_NORM, 0);
    uint32_t head = llama_tensor_index(&g->config.shape, LLAMA_HEAD, 0);
    struct ofl_lease leases[] = {
        {.size = sizeof(struct ofl_lease), .tensor = g->model.tensors[norm], .mode = OFL_READ},
        {.size = sizeof(struct ofl_lease), .tensor = g->model.tensors[head], .mode = OFL_READ}};
    int err = ofl_acquire(g->ctx, leases, 2, g->stream);

    if (err < 0)
        return err;
    job->head = (struct llama_head_weights){{leases[0].ptr, g->model.dtypes[norm]},
                                            {leases[1].ptr, g->model.dtypes[head]}};
    job->x = x_of(g) + (n - 1) * g->config.shape.hidden;
    err = llama_compute_run(g->compute, job);
    return err < 0 ? err : ofl_release(g->ctx, leases, 2, g->stream);
}

int llama_generator_feed(struct llama_generator *g, const char *step, const int32_t *tokens, size_t n,
                         float *logits, char *error, size_t error_bytes)
{
    uint32_t layers = g->config.shape.layers;
    int err;

    if (n == 0 || n > most_of(g) || n > g->config.positions - g->fed) {
        snprintf(error, error_bytes, "feed %zu tokens behind %zu: pieces have %zu at most, texts %zu", n,
                 g->fed, most_of(g), g->config.positions);
        return -EINVAL;
    }
    err = step ? ofl_step_begin(g->ctx, step) : 0;
    if (err == 0)
        err = llama_compute_begin(g->compute, tokens, NULL, n, 0);
    if (err == 0)
        err = feed_embed(g);
    for (uint32_t layer = 0; layer < layers && err == 0; layer++)
        err = going(g, layer) ? feed_layer(g, layer, n) : -ECANCELED;
    if (err == 0 && logits)
        err = feed_head(g, n);
    if (err == 0)
        err = llama_compute_end(g->compute);
    if (err == 0 && step)
        err = ofl_step_end(g->ctx);
    if (err == 0)
        err = ofl_stream_sync(g->stream);
    if (err < 0) {
        fail_ofl(g, err, error, error_bytes);
        (void)ofl_stream_sync(g->stream); /* what was queued before reads the caller's tokens */
        return err;
    }
    llama_compute_fetch(g->compute, NULL, logits);
    g->fed += n;
    err = logits ? give_prompt(g) : 0;
    return err < 0 ? fail_ofl(g, err, error, error_bytes) : 0;
}
