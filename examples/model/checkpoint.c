/* The tensors of a Llama, and reading its directory: see checkpoint.h. Moves no weights:
 * the sources' tensors are bound and paged by whoever asks. */
#include "examples/model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/gguf.h"
#include "include/offload_landing.h"

#define INDEX_BYTES_MAX (64u << 20)
#define SHARDS_MAX      4096u
#define PER_LAYER       9u
#define SINGLE          "model.safetensors"
#define INDEX           "model.safetensors.index.json"
#define TIED_HEAD       "lm_head.weight"

/* ---- the list ---------------------------------------------------------- */

static const char *const role_names[LLAMA_ROLES] = {
    [LLAMA_EMBED] = "model.embed_tokens.weight",
    [LLAMA_INPUT_NORM] = "input_layernorm.weight",
    [LLAMA_Q] = "self_attn.q_proj.weight",
    [LLAMA_K] = "self_attn.k_proj.weight",
    [LLAMA_V] = "self_attn.v_proj.weight",
    [LLAMA_O] = "self_attn.o_proj.weight",
    [LLAMA_POST_NORM] = "post_attention_layernorm.weight",
    [LLAMA_GATE] = "mlp.gate_proj.weight",
    [LLAMA_UP] = "mlp.up_proj.weight",
    [LLAMA_DOWN] = "mlp.down_proj.weight",
    [LLAMA_NORM] = "model.norm.weight",
    [LLAMA_HEAD] = TIED_HEAD,
};

uint32_t llama_tensor_count(const struct llama_shape *shape)
{
    return 1 + PER_LAYER * shape->layers + (shape->tied ? 1 : 2);
}

uint32_t llama_tensor_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer)
{
    switch (role) {
    case LLAMA_EMBED:
        return 0;
    case LLAMA_NORM:
        return 1 + PER_LAYER * shape->layers;
    case LLAMA_HEAD:
        return shape->tied ? 0 : 2 + PER_LAYER * shape->layers;
    default:
        return 1 + PER_LAYER * layer + (uint32_t)role - LLAMA_INPUT_NORM;
    }
}

static void set_shape(const struct llama_shape *s, struct llama_tensor_desc *d)
{
    uint64_t hidden = s->hidden, heads = (uint64_t)s->heads * s->head_dim,
             kv = (uint64_t)s->kv_heads * s->head_dim;
    const uint64_t of_role[LLAMA_ROLES][2] = {
        [LLAMA_EMBED] = {s->vocab, hidden}, [LLAMA_INPUT_NORM] = {hidden, 0},
        [LLAMA_Q] = {heads, hidden},        [LLAMA_K] = {kv, hidden},
        [LLAMA_V] = {kv, hidden},           [LLAMA_O] = {hidden, heads},
        [LLAMA_POST_NORM] = {hidden, 0},    [LLAMA_GATE] = {s->ffn, hidden},
        [LLAMA_UP] = {s->ffn, hidden},      [LLAMA_DOWN] = {hidden, s->ffn},
        [LLAMA_NORM] = {hidden, 0},         [LLAMA_HEAD] = {s->vocab, hidden},
    };

    d->shape[0] = of_role[d->role][0];
    d->shape[1] = of_role[d->role][1];
    d->dims = d->shape[1] ? 2 : 1;
    d->elems = d->shape[0] * (d->shape[1] ? d->shape[1] : 1);
}

int llama_tensor_at(const struct llama_shape *shape, uint32_t index, struct llama_tensor_desc *out)
{
    uint32_t tail = 1 + PER_LAYER * shape->layers;

    if (index >= llama_tensor_count(shape))
        return -EINVAL;
    out->layer = -1;
    if (index == 0)
        out->role = LLAMA_EMBED;
    else if (index >= tail)
        out->role = index == tail ? LLAMA_NORM : LLAMA_HEAD;
    else {
        out->layer = (int)((index - 1) / PER_LAYER);
        out->role = (enum llama_role)(LLAMA_INPUT_NORM + (index - 1) % PER_LAYER);
    }
    if (out->layer < 0)
        snprintf(out->name, sizeof out->name, "%s", role_names[out->role]);
    else
        snprintf(out->name, sizeof out->name, "model.layers.%d.%s", out->layer, role_names[out->role]);
    set_shape(shape, out);
    return 0;
}

/* The index of a stored name, or -1. A name of the list only: "layers.01" is not one. */
static int64_t index_of(const struct llama_shape *shape, const char *name)
{
    struct llama_tensor_desc d;
    unsigned layer = 0;

    if (shape->tied && strcmp(name, TIED_HEAD) == 0)
        return 0;
    sscanf(name, "model.layers.%4u.", &layer);
    for (int role = 0; role < LLAMA_ROLES; role++) {
        uint32_t index = llama_tensor_index(shape, (enum llama_role)role, layer);

        if (llama_tensor_at(shape, index, &d) == 0 && strcmp(d.name, name) == 0)
            return index;
    }
    return -1;
}

/* ---- the directory ----------------------------------------------------- */

struct place {
    struct ofl_source *source; /* NULL: not found yet */
    char *name;
    enum ofl_dtype dtype;
};

struct shard {
    char *file, *path;
    struct ofl_source *source;
};

struct llama_checkpoint {
    struct llama_shape shape;
    struct shard *shards;
    size_t shard_count;
    struct place *places; /* by index */
    uint32_t place_count;
};

/* While opening. */
struct opening {
    struct llama_checkpoint *ck;
    struct ofl_ctx *ctx;
    const char *dir;
    const json_t *weight_map; /* NULL: one file, no index */
    bool gguf;                /* dir is a file */
    char *error;
    size_t error_bytes;
};

#define REFUSE(o, ...) llama_fail(-OFL_EFORMAT, (o)->error, (o)->error_bytes, __VA_ARGS__)
#define NO_MEMORY(o)   llama_fail(-ENOMEM, (o)->error, (o)->error_bytes, "open %s: no memory", (o)->dir)

/* Old files carry tables that are computed from the configuration. */
static bool is_ignored(const char *name)
{
    static const char end[] = "rotary_emb.inv_freq";
    size_t n = strlen(name);

    return n >= sizeof end - 1 && strcmp(name + n - (sizeof end - 1), end) == 0;
}

static void print_shape(const uint64_t *shape, uint32_t dims, char *out, size_t bytes)
{
    size_t used = 0;

    snprintf(out, bytes, "[");
    for (uint32_t i = 0; i < dims && used < bytes; i++) {
        used = strlen(out);
        snprintf(out + used, bytes - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    }
    used = strlen(out);
    snprintf(out + used, bytes - used, "]");
}

static int check_entry(const struct opening *o, const struct shard *shard, const struct ofl_source_entry *e,
                       uint32_t index)
{
    struct llama_tensor_desc d;
    char has[64 + 21 * OFL_DIMS_MAX], needs[64];

    llama_tensor_at(&o->ck->shape, index, &d);
    if (e->dtype != OFL_F32 && e->dtype != OFL_F16 && e->dtype != OFL_BF16 &&
        ofl_landing_find(e->dtype, OFL_LANDING_BEST) < 0)
        return REFUSE(o, "open %s: tensor %s: dtype %s is not f32, f16, bf16 or one that can be unpacked",
                      shard->path, e->name, ofl_dtype_name(e->dtype));
    if (e->dims == d.dims && e->shape[0] == d.shape[0] && (d.dims == 1 || e->shape[1] == d.shape[1]))
        return 0;
    print_shape(e->shape, e->dims, has, sizeof has);
    print_shape(d.shape, d.dims, needs, sizeof needs);
    return REFUSE(o, "open %s: tensor %s: shape %s, but the configuration needs %s", shard->path, e->name,
                  has, needs);
}

/* Keeps what the entry tells about its tensor, after all checks. */
static int place_entry(const struct opening *o, const struct shard *shard, const struct ofl_source_entry *e)
{
    const char *mapped = json_string_value(json_object_get(o->weight_map, e->name));
    int64_t index = o->gguf ? llama_gguf_index(&o->ck->shape, e->name) : index_of(&o->ck->shape, e->name);
    struct place *p;
    int rc;

    if (is_ignored(e->name))
        return 0;
    if (o->weight_map && (!mapped || strcmp(mapped, shard->file) != 0))
        return REFUSE(o, "open %s: tensor %s: %s says that it is in %s", shard->path,
                      llama_quote(e->name).text, INDEX, mapped ? llama_quote(mapped).text : "no file");
    if (index < 0)
        return REFUSE(o, "open %s: tensor %s: not a tensor of a Llama of %" PRIu32 " layers%s", shard->path,
                      llama_quote(e->name).text, o->ck->shape.layers,
                      o->ck->shape.tied ? " with a tied output matrix" : "");
    rc = check_entry(o, shard, e, (uint32_t)index);
    if (rc != 0)
        return rc;
    p = &o->ck->places[index];
    if (p->source && strcmp(e->name, TIED_HEAD) == 0)
        return 0; /* both names of a tied matrix: the embedding counts */
    if (p->source && o->gguf)
        return REFUSE(o, "open %s: tensor %s: another part has it too", shard->path,
                      llama_quote(e->name).text);
    free(p->name);
    p->name = strdup(e->name);
    if (!p->name)
        return NO_MEMORY(o);
    p->source = shard->source;
    p->dtype = e->dtype;
    return 0;
}

static int open_source(const struct opening *o, struct shard *shard)
{
    int rc = ofl_source_open(o->ctx, shard->path, &shard->source);

    return rc != 0 ? llama_fail(rc, o->error, o->error_bytes, "%s", ofl_error()) : 0;
}

static int place_entries(const struct opening *o, const struct shard *shard)
{
    struct ofl_source_entry e = {0};
    int rc;

    for (size_t i = 0; i < ofl_source_count(shard->source); i++) {
        rc = ofl_source_entry(shard->source, i, &e);
        if (rc != 0)
            return llama_fail(rc, o->error, o->error_bytes, "open %s: entry %zu: %s", shard->path, i,
                              ofl_error());
        rc = place_entry(o, shard, &e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int add_shard(const struct opening *o, const char *file)
{
    struct llama_checkpoint *ck = o->ck;
    struct shard *shard;

    for (size_t i = 0; i < ck->shard_count; i++)
        if (strcmp(ck->shards[i].file, file) == 0)
            return 0;
    if (ck->shard_count == SHARDS_MAX)
        return REFUSE(o, "read %s/%s: more than %u files", o->dir, INDEX, SHARDS_MAX);
    shard = realloc(ck->shards, (ck->shard_count + 1) * sizeof *shard);
    if (!shard)
        return NO_MEMORY(o);
    ck->shards = shard;
    shard = &ck->shards[ck->shard_count++];
    *shard = (struct shard){.file = strdup(file), .path = llama_path(o->dir, file)};
    return shard->file && shard->path ? 0 : NO_MEMORY(o);
}

/* Files of an index are names in its own directory: a path could lead anywhere. */
static int add_index(const struct opening *o, const char *path)
{
    const char *name, *file;
    json_t *value;
    int rc;

    if (!json_is_object(o->weight_map) || json_object_size(o->weight_map) == 0)
        return REFUSE(o, "read %s: weight_map is missing or empty", path);
    json_object_foreach((json_t *)(uintptr_t)o->weight_map, name, value)
    {
        file = json_string_value(value);
        if (!file)
            return REFUSE(o, "read %s: weight_map: tensor %s: its file is not a string", path,
                          llama_quote(name).text);
        if (file[0] == '\0' || file[0] == '.' || strchr(file, '/') || strlen(file) > 255)
            return REFUSE(o, "read %s: weight_map: tensor %s: \"%s\" is not a plain file name", path,
                          llama_quote(name).text, llama_quote(file).text);
        rc = add_shard(o, file);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Everything that the index names must be in its file, and all tensors must have been found. */
static int check_complete(const struct opening *o)
{
    struct llama_checkpoint *ck = o->ck;
    struct ofl_source_entry e;
    struct llama_tensor_desc d;
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)o->weight_map, name, value)
    {
        for (size_t i = 0; i < ck->shard_count; i++)
            if (strcmp(ck->shards[i].file, json_string_value(value)) == 0 &&
                ofl_source_find(ck->shards[i].source, name, &e) != 0)
                return REFUSE(o, "open %s: tensor %s: %s names it, but it is not there", ck->shards[i].path,
                              llama_quote(name).text, INDEX);
    }
    for (uint32_t i = 0; i < ck->place_count; i++) {
        llama_tensor_at(&ck->shape, i, &d);
        if (o->gguf)
            llama_gguf_name(&ck->shape, i, d.name, sizeof d.name);
        if (!ck->places[i].source)
            return REFUSE(o, "open %s: tensor %s is missing%s", o->dir, d.name,
                          d.role == LLAMA_HEAD ? ", and the configuration does not tie it to the embedding"
                                               : "");
    }
    return 0;
}

/* All parts, found by the name of the first. */
static int open_gguf(struct opening *o)
{
    uint32_t count = 1;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        struct shard *shards = realloc(o->ck->shards, (i + 1) * sizeof *shards), *shard = &shards[i];

        if (!shards)
            return NO_MEMORY(o);
        o->ck->shards = shards;
        *shard = (struct shard){.path = llama_gguf_part(o->dir, i, count)};
        o->ck->shard_count++;
        if (!shard->path)
            return NO_MEMORY(o);
        rc = open_source(o, shard);
        if (rc == 0 && i == 0)
            rc = llama_gguf_parts(shard->source, shard->path, &count, o->error, o->error_bytes);
        if (rc == 0)
            rc = llama_gguf_part_check(shard->source, shard->path, i, count, o->error, o->error_bytes);
        if (rc == 0)
            rc = place_entries(o, shard);
    }
    return rc == 0 ? check_complete(o) : rc;
}

static int open_files(struct opening *o, const char *single, const char *index, json_t **root)
{
    int rc = llama_file_check(single, o->error, o->error_bytes);

    if (rc == 0) {
        rc = add_shard(o, SINGLE);
    } else if (rc == -ENOENT) {
        rc = llama_file_check(index, o->error, o->error_bytes);
        if (rc == -ENOENT)
            return llama_fail(rc, o->error, o->error_bytes, "open %s: neither %s nor %s is there", o->dir,
                              SINGLE, INDEX);
        if (rc == 0)
            rc = llama_json_load(index, INDEX_BYTES_MAX, root, o->error, o->error_bytes);
        o->weight_map = json_object_get(*root, "weight_map");
        if (rc == 0)
            rc = add_index(o, index);
    }
    for (size_t i = 0; rc == 0 && i < o->ck->shard_count; i++) {
        rc = open_source(o, &o->ck->shards[i]);
        if (rc == 0)
            rc = place_entries(o, &o->ck->shards[i]);
    }
    return rc == 0 ? check_complete(o) : rc;
}

int llama_checkpoint_open(struct ofl_ctx *ctx, const char *dir, const struct llama_shape *shape,
                          struct llama_checkpoint **out, char *error, size_t error_bytes)
{
    struct llama_checkpoint *ck = calloc(1, sizeof *ck);
    struct opening o = {.ck = ck, .ctx = ctx, .dir = dir, .error = error, .error_bytes = error_bytes};
    char *single = llama_path(dir, SINGLE), *index = llama_path(dir, INDEX);
    json_t *root = NULL;
    int rc;

    if (ck) {
        ck->shape = *shape;
        ck->place_count = llama_tensor_count(shape);
        ck->places = calloc(ck->place_count, sizeof *ck->places);
    }
    o.gguf = llama_gguf_is(dir);
    if (!ck || !ck->places || !single || !index)
        rc = NO_MEMORY(&o);
    else
        rc = o.gguf ? open_gguf(&o) : open_files(&o, single, index, &root);
    json_decref(root);
    free(single);
    free(index);
    if (rc == 0)
        *out = ck;
    else
        llama_checkpoint_close(ck);
    return rc;
}

int llama_checkpoint_check(const struct llama_checkpoint *ck, char *error, size_t error_bytes)
{
    for (size_t i = 0; i < ck->shard_count; i++) {
        int rc = ofl_source_check(ck->shards[i].source);

        if (rc != 0)
            return llama_fail(rc, error, error_bytes, "%s", ofl_error());
    }
    return 0;
}

int llama_checkpoint_close(struct llama_checkpoint *ck)
{
    int first = 0, rc;

    if (!ck)
        return 0;
    for (size_t i = 0; i < ck->shard_count; i++) {
        rc = ck->shards[i].source ? ofl_source_close(ck->shards[i].source) : 0;
        first = first ? first : rc;
        free(ck->shards[i].file);
        free(ck->shards[i].path);
    }
    for (uint32_t i = 0; ck->places && i < ck->place_count; i++)
        free(ck->places[i].name);
    free(ck->shards);
    free(ck->places);
    free(ck);
    return first;
}

int llama_checkpoint_find(const struct llama_checkpoint *ck, uint32_t index, struct ofl_source **source,
                          const char **name, enum ofl_dtype *dtype)
{
    if (index >= ck->place_count)
        return -EINVAL;
    *source = ck->places[index].source;
    *name = ck->places[index].name;
    *dtype = ck->places[index].dtype;
    return 0;
}
