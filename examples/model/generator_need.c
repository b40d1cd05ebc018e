/* What a generator will take, and how its leases are cut. See generator.h. */
#include <stdio.h>

#include "examples/model/experts.h"
#include "examples/model/generator_impl.h"

/* ---- units --------------------------------------------------------------- */

/* What belongs to a layer's matrix. Roles that the shape does not have are left out. */
static const struct {
    enum llama_role matrix, vectors[UNIT_VECTORS]; /* LLAMA_EMBED: none */
} roles[LLAMA_MATRICES_ALL] = {
    [LLAMA_MATRIX_Q] = {LLAMA_Q, {LLAMA_INPUT_NORM, LLAMA_Q_BIAS, LLAMA_Q_NORM}},
    [LLAMA_MATRIX_K] = {LLAMA_K, {LLAMA_EMBED, LLAMA_K_BIAS, LLAMA_K_NORM}},
    [LLAMA_MATRIX_V] = {LLAMA_V, {LLAMA_EMBED, LLAMA_V_BIAS, LLAMA_EMBED}},
    [LLAMA_MATRIX_O] = {LLAMA_O, {LLAMA_SINKS, LLAMA_O_BIAS, LLAMA_ATTN_POST_NORM}},
    [LLAMA_MATRIX_GATE] = {LLAMA_GATE, {LLAMA_MLP_NORM, LLAMA_GATE_BIAS, LLAMA_EMBED}},
    [LLAMA_MATRIX_UP] = {LLAMA_UP, {LLAMA_EMBED, LLAMA_UP_BIAS, LLAMA_EMBED}},
    [LLAMA_MATRIX_DOWN] = {LLAMA_DOWN, {LLAMA_EMBED, LLAMA_DOWN_BIAS, LLAMA_MLP_POST_NORM}},
    [LLAMA_MATRIX_ROUTER] = {LLAMA_ROUTER, {LLAMA_MLP_NORM, LLAMA_ROUTER_BIAS, LLAMA_EMBED}},
    [LLAMA_MATRIX_EXPERT_GATE] = {LLAMA_EXPERT_GATE, {LLAMA_EMBED, LLAMA_EMBED, LLAMA_EMBED}},
    [LLAMA_MATRIX_EXPERT_UP] = {LLAMA_EXPERT_UP, {LLAMA_EMBED, LLAMA_EMBED, LLAMA_EMBED}},
    [LLAMA_MATRIX_EXPERT_DOWN] = {LLAMA_EXPERT_DOWN, {LLAMA_EMBED, LLAMA_EMBED, LLAMA_EMBED}},
};

/* An expert's tensors. */
static void find_expert(const struct generator_walk *w, struct generator_unit *u)
{
    enum llama_role role = roles[w->matrix].matrix, bias = LLAMA_EXPERT_DOWN_BIAS;

    if (w->shape->expert_pairs && w->matrix == LLAMA_MATRIX_EXPERT_GATE) {
        role = LLAMA_EXPERT_PAIRS;
        bias = LLAMA_EXPERT_PAIRS_BIAS;
    }
    u->tensor = llama_expert_index(w->shape, role, w->part, w->expert);
    if (w->shape->expert_pairs)
        u->vectors[UNIT_BIAS] = llama_expert_index(w->shape, bias, w->part, w->expert);
}

/* The tensor of a part's matrix, and what may come with its slices. */
static void find(const struct generator_walk *w, struct generator_unit *u)
{
    u->part = w->part;
    for (int i = 0; i < UNIT_VECTORS; i++)
        u->vectors[i] = -1;
    if (w->part == w->shape->layers) {
        u->tensor = llama_tensor_index(w->shape, LLAMA_HEAD, 0);
        u->vectors[UNIT_NORM] = llama_tensor_index(w->shape, LLAMA_NORM, 0);
        return;
    }
    u->matrix = (enum llama_matrix)w->matrix;
    u->expert = w->expert;
    if (w->matrix > LLAMA_MATRIX_ROUTER) {
        find_expert(w, u);
        return;
    }
    u->tensor = llama_tensor_index(w->shape, roles[w->matrix].matrix, w->part);
    for (int i = 0; i < UNIT_VECTORS; i++) {
        enum llama_role role = roles[w->matrix].vectors[i];

        if (role != LLAMA_EMBED && llama_role_is_there(w->shape, role, w->part))
            u->vectors[i] = llama_tensor_index(w->shape, role, w->part);
    }
}

/* Experts' are gone through by themselves. */
static bool has_matrix(const struct generator_walk *w)
{
    return llama_role_is_there(w->shape, roles[w->matrix].matrix, w->part);
}

static void step(struct generator_walk *w, const struct llama_cut *cut)
{
    bool expert = w->matrix > LLAMA_MATRIX_ROUTER;

    w->from = cut->from + cut->rows;
    w->slice++;
    if (w->from < cut->desc.shape[0])
        return;
    w->from = w->slice = 0;
    if (expert) {
        w->matrix += w->shape->expert_pairs ? 2 : 1; /* gate and up are one */
        w->part = w->matrix < LLAMA_MATRICES_ALL ? w->part : w->shape->layers + 1;
        return;
    }
    while (w->part < w->shape->layers && ++w->matrix <= LLAMA_MATRIX_ROUTER)
        if (has_matrix(w))
            return;
    w->matrix = 0;
    w->part++;
    w->leased = 0;
}

bool generator_walk_next(struct generator_walk *w, struct generator_unit *out)
{
    struct llama_cut cut, vector;

    if (w->part > w->shape->layers)
        return false;
    *out = (struct generator_unit){.from = w->from, .slice = w->slice};
    find(w, out);
    llama_cut_at(w->shape, w->dtypes, w->limit, out->tensor, w->from, &cut);
    out->rows = cut.rows;
    out->bytes = cut.bytes;
    for (int i = 0; i < UNIT_VECTORS; i++) {
        /* the norm in front comes with the first slice, the others with the last one */
        if (i == UNIT_NORM ? w->from > 0 : cut.from + cut.rows < cut.desc.shape[0])
            out->vectors[i] = -1;
        if (out->vectors[i] < 0)
            continue;
        llama_cut_at(w->shape, w->dtypes, w->limit, (uint32_t)out->vectors[i], 0, &vector);
        out->bytes += vector.bytes;
    }
    out->opens = w->leased == 0 || w->leased > w->batch || out->bytes > w->batch - w->leased;
    w->leased = out->opens ? out->bytes : w->leased + out->bytes;
    step(w, &cut);
    return true;
}

struct generator_walk generator_walk_begin(const struct llama_shape *shape, const enum ofl_dtype *dtypes)
{
    struct generator_walk begin = {
        .shape = shape, .dtypes = dtypes, .limit = llama_slice_limit(shape, dtypes)};
    struct generator_walk w = begin;
    struct generator_unit u;

    while (generator_walk_next(&w, &u))
        begin.batch = u.bytes > begin.batch ? u.bytes : begin.batch;
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t e = 0; e < shape->experts && llama_layer_mixed(shape, layer); e++)
            for (w = generator_walk_expert(&begin, layer, e); generator_walk_next(&w, &u);)
                begin.batch = u.bytes > begin.batch ? u.bytes : begin.batch;
    return begin;
}

struct generator_walk generator_walk_expert(const struct generator_walk *of, uint32_t layer, uint32_t expert)
{
    struct generator_walk w = *of;

    w.part = layer;
    w.expert = expert;
    w.matrix = LLAMA_MATRIX_EXPERT_GATE;
    w.slice = 0;
    w.from = w.leased = 0;
    return w;
}

/* ---- needs --------------------------------------------------------------- */

enum ofl_dtype generator_widest(const struct llama_shape *shape, const enum ofl_dtype *dtypes)
{
    enum ofl_dtype widest = OFL_F32;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++)
        if (llama_is_packed(dtypes[i]) || widest == OFL_F32)
            widest = dtypes[i];
    return widest;
}

static uint64_t kv_elems(const struct llama_generator_config *c)
{
    return (uint64_t)c->positions * c->shape.kv_heads * c->shape.head_dim;
}

size_t generator_rows(const struct llama_generator_config *c)
{
    return c->piece < LLAMA_GENERATOR_ROWS ? c->piece : LLAMA_GENERATOR_ROWS;
}

struct llama_compute_config generator_compute(const struct llama_generator_config *c, enum ofl_dtype dtype)
{
    return (struct llama_compute_config){
        .shape = c->shape,
        .dtype = dtype,
        .cuda = c->cuda,
        .piece = c->piece,
        .positions = c->positions,
        .rows = generator_rows(c),
        .adapter_bytes = llama_adapters_workspace(&c->shape, &c->adapters, generator_rows(c))};
}

/* Of a long piece: x, and what each part of its rows has between a layer's slices. A short one, as each token alone,
 * has its rows in the scratch that is always there. */
static uint64_t prompt_bytes(uint64_t part_bytes, size_t piece)
{
    uint64_t parts = (piece + LLAMA_GENERATOR_ROWS - 1) / LLAMA_GENERATOR_ROWS;

    return piece > LLAMA_GENERATOR_ROWS ? parts * part_bytes : 0;
}

static uint64_t part_bytes(const struct llama_generator_config *c, enum ofl_dtype dtype)
{
    struct llama_compute_config compute = generator_compute(c, dtype);

    return llama_compute_between(&compute, compute.rows) +
           (uint64_t)compute.rows * c->shape.hidden * sizeof(float);
}

uint64_t generator_held_bytes(const struct llama_generator_config *c, enum ofl_dtype dtype, int which)
{
    struct llama_compute_config compute = generator_compute(c, dtype);

    if (which == HELD_X)
        return (uint64_t)compute.rows * c->shape.hidden * sizeof(float);
    if (which == HELD_PROMPT)
        return prompt_bytes(part_bytes(c, dtype), c->piece);
    if (which == HELD_CACHE)
        return 2 * (uint64_t)c->shape.layers * kv_elems(c) * llama_compute_cache_elem(&compute);
    return llama_compute_workspace(&compute);
}

const char *const generator_held_names[HELD] = {"workspace", "x", "key-value cache", "rows of the prompt"};

static struct llama_part part_of(const struct llama_generator_config *c, enum ofl_dtype dtype,
                                 const char *name)
{
    struct llama_part part = {0};

    snprintf(part.name, sizeof part.name, "%s", name);
    for (int i = 0; i < HELD; i++)
        if (generator_held_bytes(c, dtype, i))
            llama_part_add(&part, generator_held_names[i], generator_held_bytes(c, dtype, i));
    if (c->adapters.count)
        llama_part_add(&part, "adapters", llama_adapters_bytes(&c->shape, &c->adapters));
    return part;
}

/* Each part of a slice is a lease of its own. */
static uint32_t add_parts(struct llama_part *part, const struct llama_cut *cut)
{
    uint32_t count = 0;

    for (int i = 0; i < LLAMA_PARTS; i++) {
        if (cut->parts[i].bytes == 0)
            continue;
        llama_part_add(part, cut->name, cut->parts[i].bytes);
        count++;
    }
    return count;
}

static void add_slice(struct llama_part *part, const struct generator_walk *w, uint32_t tensor, uint64_t from)
{
    struct llama_cut cut;

    llama_cut_at(w->shape, w->dtypes, w->limit, tensor, from, &cut);
    add_parts(part, &cut);
}

/* By the same batches of leases that are taken; so with the next. */
static void need_walk(const struct llama_generator_config *c, const enum ofl_dtype *dtypes,
                      struct generator_walk w, struct llama_generator_need *out)
{
    enum ofl_dtype dtype = generator_widest(&c->shape, dtypes);
    bool experts = w.matrix > LLAMA_MATRIX_ROUTER;
    struct llama_part part = {0};
    struct generator_unit u;

    while (generator_walk_next(&w, &u)) {
        char name[48] = "the head";

        if (u.part < c->shape.layers)
            snprintf(name, sizeof name, "layer %u%s", u.part, experts ? ", an expert" : "");
        if (u.opens) {
            llama_part_close(&part, &out->device);
            part = part_of(c, dtype, name);
        }
        for (int i = 0; i < UNIT_VECTORS; i++)
            if (u.vectors[i] >= 0)
                add_slice(&part, &w, (uint32_t)u.vectors[i], 0);
        add_slice(&part, &w, u.tensor, u.from);
    }
    llama_part_close(&part, &out->device);
}

static void need_device(const struct llama_generator_config *c, const enum ofl_dtype *dtypes,
                        struct llama_generator_need *out)
{
    struct generator_walk w = generator_walk_begin(&c->shape, dtypes);

    need_walk(c, dtypes, w, out);
    for (uint32_t layer = 0; layer < c->shape.layers; layer++)
        for (uint32_t e = 0; e < c->shape.experts && llama_layer_mixed(&c->shape, layer); e++)
            need_walk(c, dtypes, generator_walk_expert(&w, layer, e), out);
}

static void need_all(const struct llama_generator_config *c, const enum ofl_dtype *dtypes,
                     struct llama_generator_need *out)
{
    struct llama_part part = part_of(c, generator_widest(&c->shape, dtypes), "everything");
    uint64_t limit = llama_slice_limit(&c->shape, dtypes);

    out->scratch_bytes = part.device_bytes - ofl_device_footprint(out->cache_bytes);
    for (uint32_t i = 0; i < llama_tensor_count(&c->shape); i++) {
        struct llama_cut cut = {0};

        do {
            llama_cut_at(&c->shape, dtypes, limit, i, cut.from + cut.rows, &cut);
            out->weights += add_parts(&part, &cut);
            out->weight_bytes += cut.bytes;
        } while (cut.from + cut.rows < cut.desc.shape[0]);
        if (i == llama_tensor_index(&c->shape, LLAMA_EMBED, 0) && !c->shape.tied)
            out->looked_up_bytes = out->weight_bytes;
    }
    out->device_all_bytes = part.device_bytes;
}

void llama_generator_need(const struct llama_generator_config *c, const enum ofl_dtype *dtypes,
                          struct llama_generator_need *out)
{
    enum ofl_dtype dtype = generator_widest(&c->shape, dtypes);

    *out = (struct llama_generator_need){.cache_bytes = generator_held_bytes(c, dtype, HELD_CACHE),
                                         .workspace_bytes = generator_held_bytes(c, dtype, HELD_WORKSPACE),
                                         .adapter_bytes = llama_adapters_bytes(&c->shape, &c->adapters),
                                         .part_bytes = part_bytes(c, dtype)};
    need_device(c, dtypes, out);
    need_all(c, dtypes, out);
}

/* Bytes that move beyond the first pass over the weights: each further piece reads again what is not kept, and
 * what the prompt's x displaced comes back for the tokens after it. */
static uint64_t piece_traffic(const struct llama_generator_need *need, uint64_t prompt, size_t pieces,
                              uint64_t device_bytes, uint64_t host_bytes)
{
    uint64_t held = need->device_all_bytes - need->weight_bytes, moved = 0,
             all = need->weight_bytes - need->looked_up_bytes;
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

size_t llama_generator_piece(const struct llama_generator_need *need, size_t tokens, uint64_t device_bytes,
                             uint64_t host_bytes)
{
    size_t parts = (tokens + LLAMA_GENERATOR_ROWS - 1) / LLAMA_GENERATOR_ROWS, best = tokens;
    uint64_t least = UINT64_MAX;

    for (size_t pieces = 1; pieces <= parts; pieces++) {
        size_t each = (parts + pieces - 1) / pieces * LLAMA_GENERATOR_ROWS,
               piece = each < tokens ? each : tokens;
        uint64_t bytes = prompt_bytes(need->part_bytes, piece),
                 room = bytes ? ofl_device_footprint(bytes) : 0, moved;

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
