/*
 * Metadata of GGUF files as a config.json: see gguf_families.h. Keys are those of gguf-py (constants.py), and what files
 * don't say is as llama.cpp has it (src/models/): the scale of Gemma's scores, SmolLM3's layers without positions, and
 * whose rows of Q and K lie in pairs. Gemma's norms have their 1 added in the file.
 */
#include "examples/model/gguf_families.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/kernels.h"

#define KEY_BYTES 128

static const struct known {
    const char *architecture, *model_type;
    bool pairs;
    uint32_t large; /* layers of the model whose scores are scaled by hidden / heads; 0: none are */
} known[] = {
    {"qwen2", "qwen2", false, 0},         {"qwen3", "qwen3", false, 0},    {"gemma2", "gemma2", false, 46},
    {"gemma3", "gemma3_text", false, 62}, {"phi3", "phi3", false, 0},      {"granite", "granite", true, 0},
    {"olmo2", "olmo2", false, 0},         {"smollm3", "smollm3", true, 0},
};

#define KNOWN (sizeof known / sizeof known[0])

static const struct known *find(const char *architecture)
{
    for (size_t i = 0; i < KNOWN; i++)
        if (strcmp(architecture, known[i].architecture) == 0)
            return &known[i];
    return NULL;
}

bool gguf_family_is(const char *architecture)
{
    return find(architecture) != NULL;
}

void gguf_family_list(char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "llama");

    for (size_t i = 0; i < KNOWN && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, ", %s", known[i].architecture);
}

/* ---- single keys --------------------------------------------------------------- */

/* A file, and the config.json that it becomes. */
struct making {
    const struct gguf_reader *r;
    const struct known *known;
    json_t *config;
    char key[KEY_BYTES];
};

/* "qwen2.block_count" */
static const char *full(struct making *m, const char *key)
{
    snprintf(m->key, sizeof m->key, "%s.%s", m->known->architecture, key);
    return m->key;
}

static bool is_there(struct making *m, const char *key)
{
    struct ofl_metadata found;

    return gguf_find(m->r, full(m, key), &found);
}

static int put_u32(struct making *m, const char *key, const char *as, int64_t fallback, uint32_t *out)
{
    int rc = gguf_get_u32(m->r, full(m, key), fallback, out);

    if (rc == 0)
        json_object_set_new(m->config, as, json_integer(*out));
    return rc;
}

/* Left out where the file has none. */
static int put_float(struct making *m, json_t *object, const char *key, const char *as)
{
    float value;
    int rc;

    if (!is_there(m, key))
        return 0;
    rc = gguf_get_float(m->r, full(m, key), NAN, -1e15, 1e15, &value);
    if (rc == 0)
        json_object_set_new(object, as, json_real((double)value));
    return rc;
}

/* ---- sizes --------------------------------------------------------------------- */

struct sizes {
    uint32_t layers, hidden, heads, head_dim, positions;
};

static int put_sizes(struct making *m, struct sizes *s)
{
    struct ofl_source_entry embed = {0};
    uint32_t other, experts;
    int rc = put_u32(m, "block_count", "num_hidden_layers", -1, &s->layers);

    if (rc == 0)
        rc = put_u32(m, "embedding_length", "hidden_size", -1, &s->hidden);
    if (rc == 0)
        rc = put_u32(m, "feed_forward_length", "intermediate_size", -1, &other);
    if (rc == 0)
        rc = put_u32(m, "attention.head_count", "num_attention_heads", -1, &s->heads);
    if (rc == 0 && s->heads == 0)
        return GGUF_REFUSE(m->r, "read %s: %s is 0", m->r->path, m->key);
    if (rc == 0)
        rc = put_u32(m, "attention.head_count_kv", "num_key_value_heads", s->heads, &other);
    if (rc == 0)
        rc = put_u32(m, "context_length", "max_position_embeddings", -1, &s->positions);
    if (rc == 0)
        rc = put_u32(m, "attention.key_length", "head_dim", s->hidden / s->heads, &s->head_dim);
    if (rc == 0)
        rc = gguf_get_u32(m->r, full(m, "attention.value_length"), s->head_dim, &other);
    if (rc == 0 && other != s->head_dim)
        return GGUF_REFUSE(m->r,
                           "read %s: heads of %" PRIu32 " for keys and %" PRIu32 " for values: not supported",
                           m->r->path, s->head_dim, other);
    if (rc == 0)
        rc = gguf_get_u32(m->r, full(m, "expert_count"), 0, &experts);
    if (rc == 0 && experts)
        return GGUF_REFUSE(m->r, "read %s: %s is %" PRIu32 ": experts are not supported in GGUF", m->r->path,
                           m->key, experts);
    if (rc < 0)
        return rc;
    if (ofl_source_find(m->r->source, "token_embd.weight", &embed) < 0 || embed.dims != 2)
        return GGUF_REFUSE(m->r, "read %s: there is no matrix token_embd.weight in it", m->r->path);
    json_object_set_new(m->config, "vocab_size", json_integer((json_int_t)embed.shape[0]));
    return put_float(m, m->config, "attention.layer_norm_rms_epsilon", "rms_norm_eps");
}

/* ---- positions ------------------------------------------------------------------- */

/* What each frequency is divided by, as Phi-3's files have it in tensors. */
static int put_factors(struct making *m, json_t *scaling, const char *name, const char *as)
{
    struct ofl_source_entry e = {0};
    struct ofl_tensor *t = NULL;
    json_t *list = json_array();
    float values[LLAMA_ROPE_FACTORS_MAX];
    int err;

    if (ofl_source_find(m->r->source, name, &e) < 0 || e.dtype != OFL_F32 || e.dims != 1 ||
        e.elems > LLAMA_ROPE_FACTORS_MAX) {
        json_decref(list);
        return GGUF_REFUSE(m->r, "read %s: %s: at most %u numbers of f32 are expected", m->r->path, name,
                           LLAMA_ROPE_FACTORS_MAX);
    }
    err = ofl_source_bind(m->r->source, name, OFL_KIND_OTHER, &t);
    if (err == 0)
        err = ofl_tensor_read(t, 0, values, e.elems * sizeof *values);
    ofl_tensor_destroy(t);
    for (uint64_t i = 0; err == 0 && i < e.elems; i++)
        json_array_append_new(list, json_real((double)values[i]));
    json_object_set_new(scaling, as, list);
    return err < 0 ? llama_fail(err, m->r->error, m->r->error_bytes, "%s", ofl_error()) : 0;
}

static int put_longrope(struct making *m, json_t *scaling)
{
    uint32_t original;
    int rc =
        put_u32(m, "rope.scaling.original_context_length", "original_max_position_embeddings", -1, &original);

    json_object_set_new(scaling, "rope_type", json_string("longrope"));
    if (rc == 0)
        rc = put_factors(m, scaling, "rope_factors_short.weight", "short_factor");
    if (rc == 0)
        rc = put_factors(m, scaling, "rope_factors_long.weight", "long_factor");
    return rc == 0 ? put_float(m, scaling, "rope.scaling.attn_factor", "attention_factor") : rc;
}

static int put_scaling(struct making *m, json_t *scaling)
{
    const char *type = gguf_get_text(m->r, full(m, "rope.scaling.type"));
    struct ofl_source_entry e;
    uint32_t original;
    int rc;

    if (ofl_source_find(m->r->source, "rope_factors_long.weight", &e) == 0)
        return put_longrope(m, scaling);
    if (!type || strcmp(type, "none") == 0)
        return 0;
    if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0)
        return GGUF_REFUSE(
            m->r, "read %s: %s.rope.scaling.type \"%s\" is not supported, only none, linear and yarn",
            m->r->path, m->known->architecture, llama_quote(type).text);
    json_object_set_new(scaling, "rope_type", json_string(type));
    rc = put_float(m, scaling, "rope.scaling.factor", "factor");
    if (rc < 0 || strcmp(type, "yarn") != 0)
        return rc;
    rc = gguf_get_u32(m->r, full(m, "rope.scaling.original_context_length"), -1, &original);
    if (rc == 0)
        json_object_set_new(scaling, "original_max_position_embeddings", json_integer(original));
    if (rc == 0)
        rc = put_float(m, scaling, "rope.scaling.yarn_beta_fast", "beta_fast");
    return rc == 0 ? put_float(m, scaling, "rope.scaling.yarn_beta_slow", "beta_slow") : rc;
}

static int put_rope(struct making *m, const struct sizes *s)
{
    json_t *scaling = json_object();
    uint32_t dims;
    int rc = gguf_get_u32(m->r, full(m, "rope.dimension_count"), s->head_dim, &dims);

    if (rc == 0 && dims != s->head_dim && s->head_dim)
        json_object_set_new(m->config, "partial_rotary_factor", json_real((double)dims / s->head_dim));
    if (rc == 0)
        rc = put_float(m, m->config, "rope.freq_base", "rope_theta");
    if (rc == 0)
        rc = put_float(m, m->config, "rope.freq_base_swa", "rope_local_base_freq");
    if (rc == 0)
        rc = put_scaling(m, scaling);
    if (json_object_size(scaling))
        json_object_set(m->config, "rope_scaling", scaling);
    json_decref(scaling);
    return rc;
}

/* ---- traits ---------------------------------------------------------------------- */

/* A window, and which layers have it: all, each but the n-th, or those that a list names. */
static int put_windows(struct making *m, const struct sizes *s)
{
    struct ofl_metadata pattern;
    uint32_t window = 0;
    int rc = gguf_get_u32(m->r, full(m, "attention.sliding_window"), 0, &window);

    if (rc < 0)
        return rc;
    json_object_set_new(m->config, "sliding_window",
                        window && window < s->positions ? json_integer(window) : json_null());
    if (!gguf_find(m->r, full(m, "attention.sliding_window_pattern"), &pattern) || !pattern.uints)
        return 0;
    if (!pattern.array) {
        json_object_set_new(m->config, "sliding_window_pattern", json_integer((json_int_t)pattern.uints[0]));
        return 0;
    }
    json_t *types = json_array();
    for (uint64_t i = 0; i < pattern.count; i++)
        json_array_append_new(types, json_string(pattern.uints[i] ? "sliding_attention" : "full_attention"));
    json_object_set_new(m->config, "layer_types", types);
    return 0;
}

/* Gemma's scores: by the head, but in its largest models by what hidden and heads give. */
static void put_query_scalar(struct making *m, const struct sizes *s)
{
    double scalar = s->layers == m->known->large ? (double)s->hidden / s->heads : s->head_dim;

    if (m->known->large)
        json_object_set_new(m->config, "query_pre_attn_scalar", json_real(scalar));
}

static int put_traits(struct making *m, const struct sizes *s)
{
    static const char *const scales[][2] = {{"attn_logit_softcapping", "attn_logit_softcapping"},
                                            {"final_logit_softcapping", "final_logit_softcapping"},
                                            {"attention.scale", "attention_multiplier"},
                                            {"embedding_scale", "embedding_multiplier"},
                                            {"residual_scale", "residual_multiplier"},
                                            {"logit_scale", "logits_scaling"}};
    struct ofl_source_entry e;
    int rc = put_windows(m, s);

    for (size_t i = 0; rc == 0 && i < sizeof scales / sizeof scales[0]; i++)
        rc = put_float(m, m->config, scales[i][0], scales[i][1]);
    put_query_scalar(m, s);
    json_object_set_new(m->config, "attention_bias",
                        json_boolean(ofl_source_find(m->r->source, "blk.0.attn_q.bias", &e) == 0));
    json_object_set_new(m->config, "mlp_bias",
                        json_boolean(ofl_source_find(m->r->source, "blk.0.ffn_gate.bias", &e) == 0));
    return rc;
}

int gguf_family_config(const struct gguf_reader *r, const char *architecture, bool tied,
                       struct llama_config *out)
{
    struct making m = {.r = r, .known = find(architecture), .config = json_object()};
    struct sizes s = {0};
    int rc = m.config ? put_sizes(&m, &s)
                      : llama_fail(-ENOMEM, r->error, r->error_bytes, "read %s: no memory", r->path);

    json_object_set_new(m.config, "model_type", json_string(m.known->model_type));
    json_object_set_new(m.config, "tie_word_embeddings", json_boolean(tied));
    if (rc == 0)
        rc = put_rope(&m, &s);
    if (rc == 0)
        rc = put_traits(&m, &s);
    if (rc == 0)
        rc = llama_config_read(r->path, m.config, out, r->error, r->error_bytes);
    json_decref(m.config);
    if (rc < 0)
        return rc;
    if (m.known->pairs && out->shape.head_dim > LLAMA_PAIRS_HEAD_MOST)
        return GGUF_REFUSE(r, "read %s: heads of %" PRIu32 ": at most %u are supported", r->path,
                           out->shape.head_dim, LLAMA_PAIRS_HEAD_MOST);
    out->shape.rope_pairs = m.known->pairs;
    out->shape.norm_offset = 0;
    out->shape.embed_scale_rounded = false;
    return 0;
}
