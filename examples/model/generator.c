/* Generating with a Llama under liboffload. See generator.h. */
#include "examples/model/generator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/files.h"
#include "examples/model/generator_impl.h"
#include "examples/model/random.h"

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
    enum ofl_dtype dtype = generator_widest(&g->config.shape, g->model.dtypes);
    int err = 0, count = generator_held_bytes(&g->config, dtype, HELD_PROMPT) ? HELD : HELD_PROMPT;

    for (int i = 0; i < count && err == 0; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d,
                                    .name = generator_held_names[i],
                                    .kind = kinds[i],
                                    .dtype = OFL_U8,
                                    .elems = generator_held_bytes(&g->config, dtype, i),
                                    .flags = OFL_TENSOR_TRANSIENT};

        err = ofl_tensor_create(g->ctx, &d, &g->held[i].tensor);
        g->held[i].size = sizeof g->held[i];
        g->held[i].mode = OFL_OVERWRITE;
    }
    return err < 0 ? err : ofl_acquire(g->ctx, g->held, (size_t)count, g->stream);
}

/* Of the host device, whose memory is the program's own. */
static int take_adapters(struct llama_generator *g, char *error, size_t error_bytes)
{
    const struct llama_adapters *a = &g->config.adapters;
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = "adapters",
                                .kind = OFL_KIND_WORKSPACE,
                                .dtype = OFL_U8,
                                .elems = llama_adapters_bytes(&g->config.shape, a),
                                .flags = OFL_TENSOR_TRANSIENT};
    int err;

    if (a->count == 0)
        return 0;
    if (g->config.cuda)
        return llama_fail(-ENOTSUP, error, error_bytes,
                          "--adapter %s: adapters are used on the host device only: use --device host",
                          a->list[0].dir);
    g->adapters = (struct ofl_lease){.size = sizeof g->adapters, .mode = OFL_OVERWRITE};
    err = ofl_tensor_create(g->ctx, &d, &g->adapters.tensor);
    if (err == 0)
        err = ofl_acquire(g->ctx, &g->adapters, 1, g->stream);
    if (err == 0)
        err = ofl_stream_sync(g->stream);
    return err < 0 ? fail_ofl(g, err, error, error_bytes)
                   : llama_adapters_fill(g->ctx, a, &g->model, g->adapters.ptr, error, error_bytes);
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
    if (g->config.cuda && g->config.shape.rope_pairs) {
        snprintf(error, error_bytes, "a GGUF file is unpacked on the host only: use --device host");
        return -ENOTSUP;
    }
    if (g->config.cuda && g->config.shape.packing_count) {
        snprintf(error, error_bytes, "packed matrices are unpacked on the host only: use --device host");
        return -ENOTSUP;
    }
    for (uint32_t i = 0; g->config.cuda && i < g->model.tensors; i++) {
        struct llama_tensor_desc d;

        llama_tensor_at(&g->config.shape, i, &d);
        if (ofl_dtype_bytes(g->model.dtypes[i]) == 0) {
            snprintf(error, error_bytes, "%s is %s, which is unpacked on the host only: use --device host",
                     d.name, ofl_dtype_name(g->model.dtypes[i]));
            return -ENOTSUP;
        }
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
    enum ofl_dtype dtype = generator_widest(&g->config.shape, g->model.dtypes);
    struct llama_compute_config compute = generator_compute(&g->config, dtype);

    compute.jobs = g->units_count + g->expert_units_most;
    g->prompt_between = llama_compute_between(&compute, g->config.piece);
    g->cache_bytes = g->config.shape.layers
                         ? generator_held_bytes(&g->config, dtype, HELD_CACHE) / (2 * g->config.shape.layers)
                         : 0;
    return llama_compute_open(g->ctx, g->stream, &compute, g->held[HELD_WORKSPACE].ptr, &g->compute, error,
                              error_bytes);
}

static int out_of_memory(const struct llama_generator_config *config, char *error, size_t error_bytes)
{
    snprintf(error, error_bytes, "make a generator of %u layers: out of memory", config->shape.layers);
    return -ENOMEM;
}

/* Slice by slice, or layer by layer where all of them stay on the device: no room is needed for others then, and
 * every lease takes time. */
static int list_units(struct llama_generator *g, char *error, size_t error_bytes)
{
    const struct llama_shape *shape = &g->config.shape;
    struct generator_walk begin = generator_walk_begin(shape, g->model.dtypes), w = begin;
    struct ofl_stats s = {.size = sizeof s};
    struct llama_generator_need need;
    struct generator_unit u;
    int err = ofl_stats_get(g->ctx, &s);

    if (err < 0)
        return fail_ofl(g, err, error, error_bytes);
    llama_generator_need(&g->config, g->model.dtypes, &need);
    if (s.budget_bytes[OFL_DEVICE] >= need.device_all_bytes)
        begin.batch = UINT64_MAX;
    while (generator_walk_next(&w, &u))
        g->units_count++;
    err = generator_experts_open(g, &begin);
    g->units = calloc(g->units_count, sizeof *g->units);
    g->packed = calloc(g->units_count + g->expert_units_most, sizeof *g->packed);
    g->entries = calloc(g->config.piece, sizeof *g->entries);
    g->order = calloc(g->config.piece, sizeof *g->order);
    g->row = malloc(llama_dtype_bytes(g->model.dtypes[0], shape->hidden));
    if (err < 0 || !g->units || !g->packed || !g->entries || !g->order || !g->row)
        return out_of_memory(&g->config, error, error_bytes);
    w = begin;
    for (uint32_t i = 0; i < g->units_count; i++)
        generator_walk_next(&w, &g->units[i]);
    return 0;
}

int llama_generator_create(struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                           const struct llama_generator_config *config, struct llama_generator **out,
                           char *error, size_t error_bytes)
{
    struct llama_generator *g = calloc(1, sizeof *g);
    int err;

    *out = NULL;
    if (!g)
        return out_of_memory(config, error, error_bytes);
    g->ctx = ctx;
    g->config = *config;
    g->config.shape.rope.far = config->positions > config->shape.rope.original_positions;
    if (ck)
        err = llama_slices_bind(ck, &g->config.shape, &g->model, error, error_bytes);
    else
        err = llama_slices_create(ctx, &g->config.shape, config->fresh, &g->model, error, error_bytes);
    if (err == 0) {
        g->config.shape = g->model.shape; /* with how it is packed */
        err = check_dtypes(g, generator_widest(&g->config.shape, g->model.dtypes), error, error_bytes);
    }
    if (err == 0)
        err = list_units(g, error, error_bytes);
    if (err == 0) {
        err = ofl_stream_create(ctx, &g->stream);
        if (err == 0)
            err = take_held(g);
        if (err < 0)
            fail_ofl(g, err, error, error_bytes);
    }
    if (err == 0)
        err = open_compute(g, error, error_bytes);
    if (err == 0)
        err = take_adapters(g, error, error_bytes);
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
    if (g->adapters.ptr)
        ofl_release(g->ctx, &g->adapters, 1, g->stream);
    if (g->stream)
        give_prompt(g);
    ofl_stream_destroy(g->stream);
    for (int i = 0; i < HELD_PROMPT; i++)
        ofl_tensor_destroy(g->held[i].tensor);
    ofl_tensor_destroy(g->adapters.tensor);
    llama_slices_destroy(&g->model);
    free(g->units);
    generator_experts_close(g);
    free(g->packed);
    free(g->entries);
    free(g->order);
    free(g->row);
    free(g);
}

int llama_generator_random(struct llama_generator *g, uint32_t tensor, uint64_t seed, float std, char *error,
                           size_t error_bytes)
{
    const struct llama_slices *m = &g->model;
    struct llama_cut cut = {0};
    int err = 0;

    for (uint32_t i = m->first[tensor]; i < m->first[tensor + 1] && err == 0; i++) {
        llama_cut_at(&m->shape, m->dtypes, m->limit, tensor, cut.from + cut.rows, &cut);
        err = llama_random_fill(g->ctx, g->stream, g->compute, m->slices[i], &cut.desc, tensor, cut.first,
                                seed, std);
    }
    return err < 0 ? fail_ofl(g, err, error, error_bytes) : 0;
}

/* ---- the embedding ------------------------------------------------------- */

/* The memory of a prompt's rows: what they have between a layer's slices, and x behind it. */
static void *between_of(const struct llama_generator *g)
{
    return g->held[HELD_PROMPT].ptr;
}

static float *x_of(const struct llama_generator *g)
{
    char *between = between_of(g);

    return between ? (float *)(void *)(between + g->prompt_between) : g->held[HELD_X].ptr;
}

static size_t most_of(const struct llama_generator *g)
{
    return g->held[HELD_PROMPT].ptr ? g->config.piece : generator_rows(&g->config);
}

static int by_token(const void *left, const void *right)
{
    const struct generator_entry *a = left, *b = right;

    if (a->token != b->token)
        return a->token < b->token ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static int read_row(const struct llama_generator *g, int32_t token, float *out)
{
    const struct llama_slices *m = &g->model;
    uint64_t hidden = m->shape.hidden, bytes = llama_dtype_bytes(m->dtypes[0], hidden);
    struct llama_tensor_desc d;
    uint64_t rows;
    int err;

    llama_tensor_at(&m->shape, 0, &d);
    rows = llama_slice_rows(&d, m->dtypes[0], m->limit);
    err = ofl_tensor_read(m->slices[(uint64_t)token / rows], (uint64_t)token % rows * bytes, g->row, bytes);
    if (err == 0)
        llama_widen(out, g->row, m->dtypes[0], hidden);
    if (err == 0 && m->shape.embed_scale != 0)
        llama_scale(out, hidden, llama_embed_scale(&m->shape, m->dtypes[0]));
    return err;
}

/*
 * By the host, before the step begins: which rows these are is no part of what steps have in common, and slices of
 * a tied head must not be leased meanwhile.
 */
static int feed_embed(struct llama_generator *g, const int32_t *tokens, size_t n)
{
    size_t rows = generator_rows(&g->config);
    float *values = llama_compute_rows(g->compute);
    int err = 0;

    for (size_t i = 0; i < n; i++)
        g->entries[i] = (struct generator_entry){tokens[i], (uint32_t)i};
    qsort(g->entries, n, sizeof *g->entries, by_token);
    for (size_t at = 0; at < n && err == 0; at += rows) {
        struct llama_job *job = llama_compute_job(g->compute, LLAMA_RUN_ENTER);

        job->rows = n - at < rows ? n - at : rows;
        job->order = g->order + at;
        job->y = x_of(g);
        if (at)
            err = ofl_stream_sync(g->stream); /* for the same memory */
        for (size_t i = 0; i < job->rows && err == 0; i++) {
            g->order[at + i] = g->entries[at + i].row;
            err = read_row(g, g->entries[at + i].token, values + i * g->config.shape.hidden);
        }
        if (err == 0)
            err = llama_compute_run(g->compute, job);
    }
    return err;
}

/* ---- feeding ------------------------------------------------------------- */

static struct ofl_lease *lease_of(const struct llama_generator *g, uint32_t tensor, uint32_t slice,
                                  struct ofl_lease *out)
{
    size_t at = g->model.first[tensor] + slice;

    *out++ = (struct ofl_lease){.size = sizeof *out, .tensor = g->model.slices[at], .mode = OFL_READ};
    for (size_t i = 0; g->model.parts && i < LLAMA_PARTS; i++)
        if (g->model.parts[at * LLAMA_PARTS + i])
            *out++ = (struct ofl_lease){
                .size = sizeof *out, .tensor = g->model.parts[at * LLAMA_PARTS + i], .mode = OFL_READ};
    return out;
}

/* The slice of a matrix whose parts are leased. */
static struct llama_weight weight_of(const struct llama_generator *g, const struct generator_unit *u,
                                     const struct ofl_lease **next)
{
    enum ofl_dtype dtype = g->model.dtypes[u->tensor];
    bool of_expert = u->matrix >= LLAMA_MATRIX_EXPERT_GATE;
    struct llama_packed *p = g->packed + (of_expert ? g->units_count + (u - g->expert_units) : u - g->units);

    if (!llama_is_packed(dtype))
        return (struct llama_weight){.data = (*next)++->ptr, .dtype = dtype};
    p->packing = g->model.shape.packings[dtype - LLAMA_PACKED];
    for (int i = 0; i < LLAMA_PARTS; i++)
        p->parts[i] = p->packing.there[i] ? (*next)++->ptr : NULL;
    llama_slices_place(&g->model, u->tensor, u->rows, p);
    return (struct llama_weight){.dtype = dtype, .packed = p};
}

/* Leased: the vectors that it has, and the slice. next gets what lies behind. */
static struct llama_slice slice_of(const struct llama_generator *g, const struct generator_unit *u,
                                   const struct ofl_lease **next)
{
    struct llama_slice s = {.from = u->from, .rows = u->rows};
    struct llama_weight *const to[UNIT_VECTORS] = {
        [UNIT_NORM] = &s.norm, [UNIT_BIAS] = &s.bias, [UNIT_POST_NORM] = &s.post_norm};

    for (int i = 0; i < UNIT_VECTORS; i++) {
        struct llama_tensor_desc d;

        if (u->vectors[i] < 0)
            continue;
        llama_tensor_at(&g->config.shape, (uint32_t)u->vectors[i], &d);
        *to[i] = llama_weight_of(&g->config.shape, d.role, (*next)++->ptr, g->model.dtypes[u->vectors[i]]);
    }
    s.weight = weight_of(g, u, next);
    return s;
}

/* That of the slice's rows. */
static void adapt(const struct llama_generator *g, const struct generator_unit *u, struct llama_job *job)
{
    struct llama_adapter *ad = job->adapters + u->matrix % LLAMA_MATRICES;

    if (u->matrix >= LLAMA_MATRICES ||
        !llama_adapters_of(&g->config.shape, &g->config.adapters, g->adapters.ptr, u->part, u->matrix, ad))
        return;
    ad->b += u->from * ad->rank;
    if (ad->gain)
        ad->gain += u->from;
    job->slice.weight.adapter = ad;
}

int generator_run(struct llama_generator *g, const struct generator_unit *u, const struct ofl_lease **leases,
                  size_t n)
{
    bool head = u->part == g->config.shape.layers;
    struct llama_job *job = llama_compute_job(g->compute, head ? LLAMA_RUN_LOGITS : LLAMA_RUN_EXTEND);

    job->slice = slice_of(g, u, leases);
    if (head) {
        job->x = x_of(g) + (n - 1) * g->config.shape.hidden;
    } else {
        job->layer = u->part;
        job->matrix = u->matrix;
        job->expert = u->expert;
        adapt(g, u, job);
        job->k_cache = (char *)g->held[HELD_CACHE].ptr + 2 * u->part * g->cache_bytes;
        job->v_cache = (char *)job->k_cache + g->cache_bytes;
        job->fed = g->fed;
        job->rows = n;
        job->y = x_of(g);
        job->between = between_of(g);
    }
    return llama_compute_run(g->compute, job);
}

struct ofl_lease *generator_leases(const struct llama_generator *g, const struct generator_unit *u,
                                   struct ofl_lease *out)
{
    for (int i = 0; i < UNIT_VECTORS; i++)
        if (u->vectors[i] >= 0)
            out = lease_of(g, (uint32_t)u->vectors[i], 0, out);
    return lease_of(g, u->tensor, u->slice, out);
}

/* A batch of leases, from the unit *at on, for all n rows. */
static int feed_batch(struct llama_generator *g, uint32_t *at, size_t n)
{
    const struct generator_unit *first = &g->units[*at], *end = g->units + g->units_count, *behind = first;
    struct ofl_lease *next = g->leases;
    const struct ofl_lease *held = g->leases;
    size_t count;
    int err;

    do {
        next = generator_leases(g, behind++, next);
    } while (behind < end && !behind->opens);
    count = (size_t)(next - g->leases);
    err = ofl_acquire(g->ctx, g->leases, count, g->stream);
    for (const struct generator_unit *u = first; u < behind && err == 0; u++)
        err = generator_run(g, u, &held, n);
    *at = (uint32_t)(behind - g->units);
    return err < 0 ? err : ofl_release(g->ctx, g->leases, count, g->stream);
}

/* A layer, or the head. */
static int feed_part(struct llama_generator *g, uint32_t part, uint32_t *at, size_t n)
{
    int err = 0;

    while (*at < g->units_count && g->units[*at].part == part && err == 0)
        err = feed_batch(g, at, n);
    if (err == 0 && part < g->config.shape.layers && llama_layer_mixed(&g->config.shape, part))
        err = generator_experts_feed(g, part, n);
    return err;
}

static bool going(const struct llama_generator *g, uint32_t layer)
{
    return !g->config.going || g->config.going(g->config.going_arg, layer);
}

int llama_generator_feed(struct llama_generator *g, const char *step, const int32_t *tokens, size_t n,
                         float *logits, char *error, size_t error_bytes)
{
    uint32_t layers = g->config.shape.layers, at = 0;
    int err;

    if (n == 0 || n > most_of(g) || n > g->config.positions - g->fed) {
        snprintf(error, error_bytes, "feed %zu tokens behind %zu: pieces have %zu at most, texts %zu", n,
                 g->fed, most_of(g), g->config.positions);
        return -EINVAL;
    }
    err = llama_compute_begin(g->compute, NULL, NULL, n, 0);
    if (err == 0)
        err = feed_embed(g, tokens, n);
    if (err == 0 && step)
        err = ofl_step_begin(g->ctx, step);
    for (uint32_t layer = 0; layer < layers && err == 0; layer++)
        err = going(g, layer) ? feed_part(g, layer, &at, n) : -ECANCELED;
    if (err == 0 && logits)
        err = feed_part(g, layers, &at, n);
    if (err == 0)
        err = llama_compute_end(g->compute);
    if (err == 0 && step)
        err = ofl_step_end(g->ctx);
    if (err == 0)
        err = ofl_stream_sync(g->stream);
    if (err < 0) {
        fail_ofl(g, err, error, error_bytes);
        (void)ofl_stream_sync(g->stream);
        return err;
    }
    llama_compute_fetch(g->compute, NULL, logits);
    g->fed += n;
    err = logits ? give_prompt(g) : 0;
    return err < 0 ? fail_ofl(g, err, error, error_bytes) : 0;
}
