/* A model in GGUF files: see gguf.h. Moves no weights. */
#include "examples/model/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/model/family.h"
#include "examples/model/files.h"
#include "examples/model/gguf_families.h"
#include "examples/model/gguf_impl.h"
#include "examples/model/gguf_text.h"
#include "examples/model/kernels.h"

#define ARCHITECTURE "general.architecture"
#define PART_SUFFIX  "-%05u-of-%05u.gguf"
#define PARTS_MOST   4096u

bool llama_gguf_is(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* ---- the configuration ------------------------------------------------------- */

static int check_architecture(const struct gguf_reader *r)
{
    const char *name = gguf_get_text(r, ARCHITECTURE);
    char listed[256];
    uint32_t experts;
    int err;

    if (!name)
        return GGUF_REFUSE(r, "read %s: %s is missing: not a model in GGUF", r->path, ARCHITECTURE);
    if (gguf_family_is(name))
        return 0;
    if (strcmp(name, "llama") != 0) {
        gguf_family_list(listed, sizeof listed);
        return GGUF_REFUSE(r, "read %s: architecture \"%s\" is not supported in GGUF, only %s", r->path,
                           llama_quote(name).text, listed);
    }
    err = gguf_get_u32(r, "llama.expert_count", 0, &experts);
    if (err == 0 && experts)
        return GGUF_REFUSE(r, "read %s: llama.expert_count is %" PRIu32 ": experts are not supported in GGUF",
                           r->path, experts);
    return err;
}

static int read_sizes(const struct gguf_reader *r, struct llama_shape *s)
{
    struct ofl_source_entry embed = {0};
    uint32_t value_dim;
    int err = gguf_get_u32(r, "llama.block_count", -1, &s->layers);

    if (err == 0)
        err = gguf_get_u32(r, "llama.embedding_length", -1, &s->hidden);
    if (err == 0)
        err = gguf_get_u32(r, "llama.attention.head_count", -1, &s->heads);
    if (err == 0)
        err = gguf_get_u32(r, "llama.attention.head_count_kv", s->heads, &s->kv_heads);
    if (err == 0 && s->heads == 0)
        return GGUF_REFUSE(r, "read %s: llama.attention.head_count is 0", r->path);
    if (err == 0)
        err = gguf_get_u32(r, "llama.attention.key_length", s->hidden / s->heads, &s->head_dim);
    if (err == 0)
        err = gguf_get_u32(r, "llama.attention.value_length", s->head_dim, &value_dim);
    if (err == 0 && value_dim != s->head_dim)
        return GGUF_REFUSE(r,
                           "read %s: heads of %" PRIu32 " for keys and %" PRIu32 " for values: not supported",
                           r->path, s->head_dim, value_dim);
    if (err == 0 && s->head_dim > LLAMA_PAIRS_HEAD_MOST)
        return GGUF_REFUSE(r, "read %s: heads of %" PRIu32 ": at most %u are supported", r->path, s->head_dim,
                           LLAMA_PAIRS_HEAD_MOST);
    if (err == 0)
        err = gguf_get_u32(r, "llama.feed_forward_length", -1, &s->ffn);
    if (err == 0)
        err = gguf_get_u32(r, "llama.context_length", 2048, &s->max_positions);
    if (err == 0)
        err = gguf_get_float(r, "llama.attention.layer_norm_rms_epsilon", NAN, 1e-12, 1.0, &s->rms_eps);
    if (err < 0)
        return err;
    if (ofl_source_find(r->source, "token_embd.weight", &embed) < 0 || embed.dims != 2)
        return GGUF_REFUSE(r, "read %s: there is no matrix token_embd.weight in it", r->path);
    if (embed.shape[0] > UINT32_MAX)
        return GGUF_REFUSE(r, "read %s: token_embd.weight has %" PRIu64 " rows", r->path, embed.shape[0]);
    s->vocab = (uint32_t)embed.shape[0];
    return 0;
}

/* What each frequency is divided by, as in files of Llama 3.1 and later: as longrope does it, at any length. */
static int read_factors(const struct gguf_reader *r, struct llama_shape *s, const struct ofl_source_entry *e)
{
    struct ofl_tensor *t;
    int err;

    if (e->dtype != OFL_F32 || e->dims != 1 || e->shape[0] != s->head_dim / 2 ||
        e->shape[0] > LLAMA_ROPE_FACTORS_MAX)
        return GGUF_REFUSE(r,
                           "read %s: " LLAMA_GGUF_FACTORS ": f32 and one for each two of a head's %" PRIu32
                           " dimensions is wanted, at most %u",
                           r->path, s->head_dim, LLAMA_ROPE_FACTORS_MAX);
    err = ofl_source_bind(r->source, LLAMA_GGUF_FACTORS, OFL_KIND_OTHER, &t);
    if (err == 0) {
        err = ofl_tensor_read(t, 0, s->rope.near_factors, e->shape[0] * sizeof(float));
        ofl_tensor_destroy(t);
    }
    if (err < 0)
        return llama_fail(err, r->error, r->error_bytes, "%s", ofl_error());
    for (uint32_t i = 0; i < e->shape[0]; i++)
        if (!(s->rope.near_factors[i] > 0 && s->rope.near_factors[i] < 1e6f))
            return GGUF_REFUSE(r,
                               "read %s: " LLAMA_GGUF_FACTORS ": element %" PRIu32
                               " is %g: above 0 and below 1e6 is wanted",
                               r->path, i, (double)s->rope.near_factors[i]);
    memcpy(s->rope.far_factors, s->rope.near_factors, sizeof s->rope.far_factors);
    s->rope.kind = LLAMA_ROPE_LONG;
    s->rope.original_positions = s->max_positions;
    return 0;
}

/* What changes the arithmetic is done, or refused by name. */
static int read_rope(const struct gguf_reader *r, struct llama_shape *s)
{
    const char *type = gguf_get_text(r, "llama.rope.scaling.type");
    struct ofl_source_entry e = {0};
    uint32_t dims, window;
    int err = gguf_get_float(r, "llama.rope.freq_base", 10000.0, 1.0, 1e15, &s->rope_theta);

    s->rope_pairs = true;
    s->rope.kind = LLAMA_ROPE_PLAIN;
    s->rope.factor = 1.0f;
    if (err == 0)
        err = gguf_get_u32(r, "llama.rope.dimension_count", s->head_dim, &dims);
    if (err == 0 && dims != s->head_dim)
        return GGUF_REFUSE(
            r, "read %s: llama.rope.dimension_count is %" PRIu32 " of heads of %" PRIu32 ": not supported",
            r->path, dims, s->head_dim);
    if (err == 0)
        err = gguf_get_u32(r, "llama.attention.sliding_window", 0, &window);
    if (err == 0 && window && window < s->max_positions)
        return GGUF_REFUSE(r, "read %s: llama.attention.sliding_window is %" PRIu32 ": not supported",
                           r->path, window);
    if (err < 0)
        return err;
    if (ofl_source_find(r->source, LLAMA_GGUF_FACTORS, &e) == 0 && (!type || strcmp(type, "none") == 0))
        return read_factors(r, s, &e);
    if (e.dims)
        return GGUF_REFUSE(
            r, "read %s: " LLAMA_GGUF_FACTORS " beside llama.rope.scaling.type \"%s\": not supported",
            r->path, llama_quote(type).text);
    if (!type || strcmp(type, "none") == 0)
        return 0;
    if (strcmp(type, "linear") != 0)
        return GGUF_REFUSE(r,
                           "read %s: llama.rope.scaling.type \"%s\" is not supported, only none and linear",
                           r->path, llama_quote(type).text);
    s->rope.kind = LLAMA_ROPE_LINEAR;
    return gguf_get_float(r, "llama.rope.scaling.factor", NAN, 1.0, 1e6, &s->rope.factor);
}

/* The start token, unless the file says that there is none in front of texts; without a word of it byte-level
 * vocabularies have none, but those that are known to. */
static int read_start(const struct gguf_reader *r, struct llama_config *c)
{
    const char *model = gguf_get_text(r, "tokenizer.ggml.model");
    const struct gguf_pre *pre = llama_gguf_pre(gguf_get_text(r, "tokenizer.ggml.pre"));
    bool start = !model || strcmp(model, "gpt2") != 0 || (pre && pre->start);
    struct ofl_metadata m;
    uint32_t id;
    int err;

    c->bos_id = -1;
    if (!gguf_get_bool(r, "tokenizer.ggml.add_bos_token", start) ||
        !gguf_find(r, "tokenizer.ggml.bos_token_id", &m))
        return 0;
    err = gguf_get_u32(r, "tokenizer.ggml.bos_token_id", -1, &id);
    if (err == 0)
        c->bos_id = id < c->shape.vocab ? (int32_t)id : INT32_MAX; /* refused with the others */
    return err;
}

static int read_tokens(const struct gguf_reader *r, struct llama_config *c)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int err = read_start(r, c);

    c->eos_count = 0;
    for (size_t i = 0; err == 0 && i < sizeof ends / sizeof ends[0]; i++) {
        struct ofl_metadata m;
        uint32_t id;

        if (!gguf_find(r, ends[i], &m))
            continue;
        err = gguf_get_u32(r, ends[i], -1, &id);
        if (err == 0)
            c->eos_ids[c->eos_count++] = id < c->shape.vocab ? (int32_t)id : INT32_MAX;
    }
    return err;
}

/* Whether any part has a matrix of its own for the output. */
static int read_tied(struct ofl_ctx *ctx, const struct gguf_reader *r, struct llama_shape *s)
{
    struct ofl_source_entry e = {0};
    uint32_t count;
    int err = llama_gguf_parts(r->source, r->path, &count, r->error, r->error_bytes);

    s->tied = err == 0 && ofl_source_find(r->source, "output.weight", &e) < 0;
    for (uint32_t i = 1; err == 0 && s->tied && i < count; i++) {
        char *part = llama_gguf_part(r->path, i, count);
        struct ofl_source *source;

        if (!part)
            return llama_fail(-ENOMEM, r->error, r->error_bytes, "open %s: no memory", r->path);
        err = ofl_source_open(ctx, part, &source);
        free(part);
        if (err < 0)
            return llama_fail(err, r->error, r->error_bytes, "%s", ofl_error());
        s->tied = ofl_source_find(source, "output.weight", &e) < 0;
        ofl_source_close(source);
    }
    return err;
}

/* tied is known. */
static int read_shape(const struct gguf_reader *r, struct llama_config *c)
{
    const char *name = gguf_get_text(r, ARCHITECTURE);
    int err;

    if (gguf_family_is(name))
        return gguf_family_config(r, name, c->shape.tied, c);
    err = read_sizes(r, &c->shape);
    return err == 0 ? read_rope(r, &c->shape) : err;
}

int llama_gguf_config(const char *path, struct llama_config *out, char *error, size_t error_bytes)
{
    struct gguf_reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    struct llama_config config = {.bos_id = -1};
    int err = gguf_open(&r);

    if (err < 0)
        return err;
    err = check_architecture(&r);
    if (err == 0)
        err = read_tied(r.ctx, &r, &config.shape);
    if (err == 0)
        err = read_shape(&r, &config);
    if (err == 0)
        err = read_tokens(&r, &config);
    if (err == 0)
        err = llama_config_check(&config, path, error, error_bytes);
    if (err == 0)
        *out = config;
    gguf_close(&r);
    return err;
}

/* ---- parts --------------------------------------------------------------------- */

static int get_split(struct ofl_source *s, const char *path, uint32_t *index, uint32_t *count, char *error,
                     size_t error_bytes)
{
    struct gguf_reader r = {.source = s, .path = path, .error = error, .error_bytes = error_bytes};
    int err = gguf_get_u32(&r, "split.count", 1, count);

    return err < 0 ? err : gguf_get_u32(&r, "split.no", 0, index);
}

/* Where a name has its number, or NULL. */
static const char *part_begins(const char *path, uint32_t index, uint32_t count)
{
    char end[64];
    int n = snprintf(end, sizeof end, PART_SUFFIX, index + 1, count);
    size_t length = strlen(path);

    return n > 0 && length > (size_t)n && strcmp(path + length - n, end) == 0 ? path + length - n : NULL;
}

int llama_gguf_parts(struct ofl_source *s, const char *path, uint32_t *out, char *error, size_t error_bytes)
{
    uint32_t index;
    int err = get_split(s, path, &index, out, error, error_bytes);

    if (err < 0)
        return err;
    *out = *out ? *out : 1;
    if (*out > PARTS_MOST)
        return llama_fail(-OFL_EFORMAT, error, error_bytes,
                          "open %s: split.count is %" PRIu32 ": more than %u", path, *out, PARTS_MOST);
    if (*out > 1 && index != 0)
        return llama_fail(-OFL_EFORMAT, error, error_bytes,
                          "open %s: part %" PRIu32 " of %" PRIu32 ": name the first one", path, index + 1,
                          *out);
    if (*out > 1 && !part_begins(path, 0, *out))
        return llama_fail(-OFL_EFORMAT, error, error_bytes,
                          "open %s: the first of %" PRIu32 " parts, but its name does not end in " PART_SUFFIX
                          ", by which the others are found",
                          path, *out, 1u, *out);
    return 0;
}

char *llama_gguf_part(const char *path, uint32_t index, uint32_t count)
{
    const char *end = count > 1 ? part_begins(path, 0, count) : NULL;
    char *part;

    if (count <= 1)
        return strdup(path);
    if (!end || asprintf(&part, "%.*s" PART_SUFFIX, (int)(end - path), path, index + 1, count) < 0)
        return NULL;
    return part;
}

int llama_gguf_part_check(struct ofl_source *s, const char *path, uint32_t index, uint32_t count, char *error,
                          size_t error_bytes)
{
    uint32_t is = 0, of = 0;
    int err = get_split(s, path, &is, &of, error, error_bytes);

    if (err == 0 && (is != index || (of ? of : 1) != count))
        return llama_fail(-OFL_EFORMAT, error, error_bytes,
                          "open %s: it is part %" PRIu32 " of %" PRIu32 ", not %" PRIu32 " of %" PRIu32, path,
                          is + 1, of, index + 1, count);
    return err;
}

/* ---- names ----------------------------------------------------------------------- */

static const char *const role_names[LLAMA_ROLES] = {
    [LLAMA_EMBED] = "token_embd.weight",
    [LLAMA_INPUT_NORM] = "attn_norm.weight",
    [LLAMA_Q] = "attn_q.weight",
    [LLAMA_K] = "attn_k.weight",
    [LLAMA_V] = "attn_v.weight",
    [LLAMA_Q_BIAS] = "attn_q.bias",
    [LLAMA_K_BIAS] = "attn_k.bias",
    [LLAMA_V_BIAS] = "attn_v.bias",
    [LLAMA_Q_NORM] = "attn_q_norm.weight",
    [LLAMA_K_NORM] = "attn_k_norm.weight",
    [LLAMA_O] = "attn_output.weight",
    [LLAMA_O_BIAS] = "attn_output.bias",
    [LLAMA_ATTN_POST_NORM] = "post_attention_norm.weight",
    [LLAMA_MLP_NORM] = "ffn_norm.weight",
    [LLAMA_GATE] = "ffn_gate.weight",
    [LLAMA_UP] = "ffn_up.weight",
    [LLAMA_GATE_BIAS] = "ffn_gate.bias",
    [LLAMA_UP_BIAS] = "ffn_up.bias",
    [LLAMA_DOWN] = "ffn_down.weight",
    [LLAMA_DOWN_BIAS] = "ffn_down.bias",
    [LLAMA_MLP_POST_NORM] = "post_ffw_norm.weight",
    [LLAMA_NORM] = "output_norm.weight",
    [LLAMA_HEAD] = "output.weight",
};

/* Where several are stored as one, it has one name. */
static const char *name_of(const struct llama_shape *shape, enum llama_role role)
{
    bool fused = llama_family_at(shape->family)->fused;

    if (fused && role >= LLAMA_Q && role <= LLAMA_V)
        return "attn_qkv.weight";
    return fused && role == LLAMA_GATE ? role_names[LLAMA_UP] : role_names[role];
}

void llama_gguf_name(const struct llama_shape *shape, uint32_t index, char *out, size_t bytes)
{
    struct llama_tensor_desc d = {.role = LLAMA_EMBED, .layer = -1};

    llama_tensor_at(shape, index, &d);
    if (d.layer < 0)
        snprintf(out, bytes, "%s", role_names[d.role]);
    else
        snprintf(out, bytes, "blk.%d.%s", d.layer, name_of(shape, d.role));
}

int64_t llama_gguf_index(const struct llama_shape *shape, const char *name)
{
    unsigned layer = 0;
    char own[64];

    sscanf(name, "blk.%4u.", &layer);
    for (int role = 0; role < LLAMA_ROLES; role++) {
        uint32_t index = llama_tensor_index(shape, (enum llama_role)role, layer);

        if (!role_names[role] || !llama_role_is_there(shape, (enum llama_role)role, layer) ||
            index >= llama_tensor_count(shape))
            continue;
        llama_gguf_name(shape, index, own, sizeof own);
        if (strcmp(own, name) == 0)
            return index;
    }
    return -1;
}
