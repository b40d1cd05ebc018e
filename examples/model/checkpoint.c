/* Reading the directory of a model: see checkpoint.h. Moves no weights:
 * the sources' tensors are bound and paged by whoever asks. */
#include "examples/model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/checkpoint_packed.h"
#include "examples/model/family.h"
#include "examples/model/files.h"
#include "examples/model/gguf.h"
#include "include/offload_landing.h"

#define INDEX_BYTES_MAX (64u << 20)
#define SHARDS_MAX      4096u
#define SINGLE          "model.safetensors"
#define INDEX           "model.safetensors.index.json"

/* ---- the directory ----------------------------------------------------- */

#define TIED_HEAD   "lm_head.weight"
#define PIECE_BYTES (64u << 10) /* of what is looked at */

struct place {
    struct ofl_source *source; /* NULL: not found yet */
    char *name;
    enum ofl_dtype dtype;
    uint64_t first, all; /* element of the source's tensor; how many it has */
};

struct shard {
    char *file, *path;
    struct ofl_source *source;
};

struct llama_checkpoint {
    struct llama_shape shape;
    struct shard *shards;
    size_t shard_count;
    struct place *places;         /* by index */
    struct packed_matrix *packed; /* [place_count] by the index of a stored matrix's first, or NULL */
    uint32_t place_count;
    struct place head; /* of a tied model that has one all the same */
    char *unused;      /* the first tensor that the model does not have */
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
                       const struct llama_stored *s)
{
    char has[64 + 21 * OFL_DIMS_MAX], needs[64 + 21 * 3];
    bool same = e->dims == s->dims;

    if (e->dtype != OFL_F32 && e->dtype != OFL_F16 && e->dtype != OFL_BF16 &&
        ofl_landing_find(e->dtype, OFL_LANDING_BEST) < 0)
        return REFUSE(o, "open %s: tensor %s: dtype %s is not f32, f16, bf16 or one that can be unpacked",
                      shard->path, e->name, ofl_dtype_name(e->dtype));
    for (uint32_t i = 0; same && i < s->dims; i++)
        same = e->shape[i] == s->shape[i];
    if (same)
        return 0;
    print_shape(e->shape, e->dims, has, sizeof has);
    print_shape(s->shape, s->dims, needs, sizeof needs);
    return REFUSE(o, "open %s: tensor %s: shape %s, but the configuration needs %s", shard->path, e->name,
                  has, needs);
}

/* ---- bytes that decide ------------------------------------------------- */

/* 1 if the same bytes as b's, or zeros where b is NULL; 0 if not. */
static int compare(const struct opening *o, const struct place *a, const struct place *b)
{
    const struct place *of[2] = {a, b};
    struct ofl_tensor *t[2] = {0};
    struct ofl_tensor_info info = {.size = sizeof info};
    char *bytes = calloc(2, PIECE_BYTES);
    int rc = bytes ? 1 : -ENOMEM, err = 0;

    for (int i = 0; i < (b ? 2 : 1) && rc == 1 && err == 0; i++)
        err = ofl_source_bind(of[i]->source, of[i]->name, OFL_KIND_WEIGHT, &t[i]);
    if (rc == 1 && err == 0)
        err = ofl_tensor_info_get(t[0], &info);
    for (uint64_t at = 0; at < info.bytes && rc == 1 && err == 0; at += PIECE_BYTES) {
        uint64_t n = info.bytes - at < PIECE_BYTES ? info.bytes - at : PIECE_BYTES;

        for (int i = 0; i < (b ? 2 : 1) && err == 0; i++)
            err = ofl_tensor_read(t[i], at, bytes + i * PIECE_BYTES, n);
        rc = err == 0 && memcmp(bytes, bytes + PIECE_BYTES, n) == 0;
    }
    if (err < 0)
        llama_fail(err, o->error, o->error_bytes, "%s", ofl_error());
    for (int i = 0; i < 2; i++)
        ofl_tensor_destroy(t[i]);
    free(bytes);
    return rc < 0 ? NO_MEMORY(o) : err < 0 ? err : rc;
}

/* A bias of zeros changes nothing; anything else that the model does not have is not this model. */
static int check_unknown(const struct opening *o, const struct shard *shard, const struct ofl_source_entry *e)
{
    static const char end[] = ".bias";
    struct place p = {.source = shard->source, .name = (char *)(uintptr_t)e->name};
    size_t n = strlen(e->name);
    int zeros =
        n >= sizeof end && strcmp(e->name + n - (sizeof end - 1), end) == 0 ? compare(o, &p, NULL) : 0;

    if (zeros < 0)
        return zeros;
    if (!zeros)
        return REFUSE(o, "open %s: tensor %s: not a tensor of a model of type %s, %" PRIu32 " layers%s",
                      shard->path, llama_quote(e->name).text,
                      llama_family_at(o->ck->shape.family)->model_type, o->ck->shape.layers,
                      o->ck->shape.tied ? ", with a tied output matrix" : "");
    if (!o->ck->unused)
        o->ck->unused = strdup(e->name);
    return o->ck->unused ? 0 : NO_MEMORY(o);
}

/* ---- finding all ------------------------------------------------------- */

static int put(const struct opening *o, const struct shard *shard, const struct ofl_source_entry *e,
               uint64_t first, struct place *p)
{
    if (p->source && strcmp(e->name, p->name) == 0)
        return REFUSE(o, "open %s: tensor %s: another file has it too", shard->path, e->name);
    if (p->source)
        return REFUSE(o, "open %s: tensor %s: it is there as %s too", shard->path, e->name, p->name);
    free(p->name);
    *p = (struct place){
        .name = strdup(e->name), .source = shard->source, .dtype = e->dtype, .first = first, .all = e->elems};
    return p->name ? 0 : NO_MEMORY(o);
}

static bool find_gguf(const struct llama_shape *shape, const char *name, struct llama_stored *out)
{
    int64_t index = llama_gguf_index(shape, name);

    if (index < 0)
        return false;
    llama_stored_at(shape, (uint32_t)index, out);
    return true;
}

/* Keeps what the entry tells about its tensors, after all checks. */
static int place_entry(const struct opening *o, const struct shard *shard, const struct ofl_source_entry *e)
{
    const struct llama_shape *shape = &o->ck->shape;
    bool head = shape->tied && strcmp(e->name, TIED_HEAD) == 0;
    struct llama_tensor_desc d;
    struct llama_stored s;
    uint64_t first = 0;
    int rc;

    if (is_ignored(e->name) || (o->gguf && shape->rope.kind == LLAMA_ROPE_LONG &&
                                (strcmp(e->name, LLAMA_GGUF_FACTORS) == 0 ||
                                 strncmp(e->name, LLAMA_GGUF_LONG, sizeof LLAMA_GGUF_LONG - 1) == 0)))
        return 0;
    if (o->ck->packed) {
        rc = packed_put(shape, o->ck->packed, shard->path, shard->source, e, o->error, o->error_bytes);
        if (rc != 0)
            return rc < 0 ? rc : 0;
    }
    if (head)
        llama_stored_at(shape, 0, &s);
    else if (!(o->gguf ? find_gguf(shape, e->name, &s) : llama_stored_find(shape, e->name, &s)))
        return check_unknown(o, shard, e);
    rc = check_entry(o, shard, e, &s);
    if (rc == 0 && head)
        rc = put(o, shard, e, 0, &o->ck->head);
    for (uint32_t i = s.first; rc == 0 && !head && i < s.first + s.count; i++) {
        rc = put(o, shard, e, first, &o->ck->places[i]);
        llama_tensor_at(shape, i, &d);
        first += d.elems;
    }
    return rc;
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
        rc = ofl_source_entry_get(shard->source, i, &e);
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

/* Matrices of which there are parts become places like others. */
static int place_packed(const struct opening *o)
{
    struct llama_checkpoint *ck = o->ck;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && ck->packed && i < ck->place_count; i++) {
        const struct packed_matrix *m = &ck->packed[i];
        const struct packed_part *numbers = &m->parts[LLAMA_PART_NUMBERS];
        enum ofl_dtype dtype = OFL_F32;
        struct llama_stored s;

        if (!m->path)
            continue;
        llama_stored_at(&ck->shape, i, &s);
        rc = packed_dtype(&ck->shape, m, i, &dtype, o->error, o->error_bytes);
        for (uint32_t k = s.first; rc == 0 && k < s.first + s.count; k++) {
            struct place *p = &ck->places[k];

            if (p->source)
                return REFUSE(o, "open %s: tensor %s: it is there as %s too", m->path, numbers->name,
                              p->name);
            *p = (struct place){.source = numbers->source, .name = strdup(numbers->name), .dtype = dtype};
            rc = p->name ? 0 : NO_MEMORY(o);
        }
    }
    return rc;
}

static bool is_expert_matrix(const struct llama_shape *shape, uint32_t tensor)
{
    struct llama_tensor_desc d;

    llama_tensor_at(shape, tensor, &d);
    return d.role >= LLAMA_ROLES && d.dims == 2;
}

/* A tied matrix may be stored under either name. */
static int check_complete(const struct opening *o)
{
    struct llama_checkpoint *ck = o->ck;
    struct llama_stored s;
    int rc = place_packed(o);

    if (rc < 0)
        return rc;
    if (ck->shape.tied && !ck->places[0].source && ck->head.source) {
        ck->places[0] = ck->head;
        ck->head = (struct place){0};
    }
    for (uint32_t i = 0; i < ck->place_count; i++) {
        llama_stored_at(&ck->shape, i, &s);
        if (o->gguf)
            llama_gguf_name(&ck->shape, i, s.name, sizeof s.name);
        if (ck->shape.scheme.packer == LLAMA_PACKER_MXFP4 && is_expert_matrix(&ck->shape, i) &&
            !llama_is_packed(ck->places[i].dtype))
            return REFUSE(o, "open %s: tensor %s: the configuration says mxfp4, but %s_blocks is missing",
                          o->dir, s.name, s.name);
        if (!ck->places[i].source)
            return REFUSE(o, "open %s: tensor %s is missing%s", o->dir, s.name,
                          !ck->shape.tied && i == ck->place_count - 1
                              ? ", and the configuration does not tie it to the embedding"
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
        if (shape->scheme.packer != LLAMA_PACKER_NONE)
            ck->packed = calloc(ck->place_count, sizeof *ck->packed);
    }
    o.gguf = llama_gguf_is(dir);
    if (!ck || !ck->places || (shape->scheme.packer && !ck->packed) || !single || !index)
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
    free(ck->head.name);
    free(ck->unused);
    free(ck->shards);
    free(ck->places);
    free(ck->packed);
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

int llama_checkpoint_bind(const struct llama_checkpoint *ck, uint32_t index, uint64_t first, uint64_t elems,
                          struct ofl_tensor **out)
{
    const struct place *p = &ck->places[index];

    if (elems == p->all)
        return ofl_source_bind(p->source, p->name, OFL_KIND_WEIGHT, out);
    return ofl_source_bind_part(p->source, p->name, p->first + first, elems, OFL_KIND_WEIGHT, out);
}

int llama_checkpoint_bind_part(const struct llama_checkpoint *ck, uint32_t index, enum llama_part_kind part,
                               const struct llama_range *range, struct ofl_tensor **out)
{
    const struct packed_part *p;
    struct llama_stored s;

    llama_stored_at(&ck->shape, index, &s);
    p = &ck->packed[s.first].parts[part];
    if (range->elems == p->shape[0] * p->shape[1])
        return ofl_source_bind(p->source, p->name, OFL_KIND_WEIGHT, out);
    return ofl_source_bind_part(p->source, p->name, range->first, range->elems, OFL_KIND_WEIGHT, out);
}

void llama_checkpoint_packings(const struct llama_checkpoint *ck, struct llama_shape *shape)
{
    shape->packing_count = ck->shape.packing_count;
    memcpy(shape->packings, ck->shape.packings, sizeof shape->packings);
}

const char *llama_checkpoint_unused(const struct llama_checkpoint *ck)
{
    return ck->unused;
}

/* ---- with its configuration -------------------------------------------- */

/* As transformers: a head of its own in the files counts, whatever the configuration ties. */
static int untie(const char *dir, struct llama_shape *shape, char *error, size_t error_bytes)
{
    struct ofl_config small = {
        .size = sizeof small, .device_bytes = 4096, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct opening o = {.dir = dir, .error = error, .error_bytes = error_bytes};
    struct llama_checkpoint *ck;
    struct ofl_ctx *ctx;
    int rc = ofl_open(&small, &ctx), same = 1;

    if (rc != 0)
        return llama_fail(rc, error, error_bytes, "%s", ofl_error());
    rc = llama_checkpoint_open(ctx, dir, shape, &ck, error, error_bytes);
    if (rc == 0) {
        if (ck->head.source)
            same = ck->head.dtype == ck->places[0].dtype ? compare(&o, &ck->head, &ck->places[0]) : 0;
        llama_checkpoint_close(ck);
    }
    ofl_close(ctx);
    shape->tied = same != 0;
    return rc != 0 ? rc : same < 0 ? same : 0;
}

int llama_checkpoint_config(const char *dir, struct llama_config *out, char *error, size_t error_bytes)
{
    int rc = llama_config_load(dir, out, error, error_bytes);

    return rc == 0 && out->shape.tied && !llama_gguf_is(dir) ? untie(dir, &out->shape, error, error_bytes)
                                                             : rc;
}
