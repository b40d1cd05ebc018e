/* A model's configuration: see config.h. Knows nothing of checkpoints' tensors. */
#include "examples/model/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/config_impl.h"
#include "examples/model/gguf.h"

#define CONFIG_BYTES_MAX (4u << 20)
#define LISTED_BYTES     256

/* ---- single values ----------------------------------------------------- */

const json_t *config_get(const struct config_reader *r, const char *key)
{
    const json_t *value = json_object_get(r->object, key);

    return json_is_null(value) ? NULL : value;
}

int config_get_u32(const struct config_reader *r, const char *key, int64_t fallback, uint32_t least,
                   uint32_t most, uint32_t *out)
{
    const json_t *value = config_get(r, key);
    int64_t number = value ? (int64_t)json_integer_value(value) : fallback;

    if (!value && fallback < 0)
        return CONFIG_REFUSE(r, "read %s: %s is missing", r->path, key);
    if (value && !json_is_integer(value))
        return CONFIG_REFUSE(r, "read %s: %s is not an integer", r->path, key);
    if (number < least || number > most)
        return CONFIG_REFUSE(r, "read %s: %s is %" PRId64 ": outside %" PRIu32 " to %" PRIu32, r->path, key,
                             number, least, most);
    *out = (uint32_t)number;
    return 0;
}

int config_get_float(const struct config_reader *r, const char *key, double fallback, double least,
                     double most, float *out)
{
    const json_t *value = config_get(r, key);
    double number = value ? json_number_value(value) : fallback;

    if (!value && isnan(fallback))
        return CONFIG_REFUSE(r, "read %s: %s is missing", r->path, key);
    if (value && !json_is_number(value))
        return CONFIG_REFUSE(r, "read %s: %s is not a number", r->path, key);
    if (!(number >= least && number <= most))
        return CONFIG_REFUSE(r, "read %s: %s is %g: outside %g to %g", r->path, key, number, least, most);
    *out = (float)number;
    return 0;
}

int config_get_bool(const struct config_reader *r, const char *key, bool fallback, bool *out)
{
    const json_t *value = config_get(r, key);

    if (value && !json_is_boolean(value))
        return CONFIG_REFUSE(r, "read %s: %s is not true or false", r->path, key);
    *out = value ? json_is_true(value) : fallback;
    return 0;
}

static int get_token(const struct config_reader *r, const char *key, const json_t *value, uint32_t vocab,
                     int32_t *out)
{
    if (!json_is_integer(value))
        return CONFIG_REFUSE(r, "read %s: %s is not an integer", r->path, key);
    if (json_integer_value(value) < 0 || json_integer_value(value) >= (json_int_t)vocab)
        return CONFIG_REFUSE(r, "read %s: %s is %" JSON_INTEGER_FORMAT ": outside the vocabulary of %" PRIu32,
                             r->path, key, json_integer_value(value), vocab);
    *out = (int32_t)json_integer_value(value);
    return 0;
}

/* ---- the family --------------------------------------------------------- */

/* model_type decides, as in transformers; architectures only where there is none. */
static int find_family(struct config_reader *r, struct llama_shape *s)
{
    const json_t *list = config_get(r, "architectures"), *item;
    const char *type = json_string_value(config_get(r, "model_type")), *name = NULL;
    int found = type ? llama_family_find(type, NULL) : -1;
    char listed[LISTED_BYTES];
    size_t i;

    json_array_foreach(list, i, item)
    {
        name = name ? name : json_string_value(item);
        if (!type && found < 0 && json_is_string(item))
            found = llama_family_find(NULL, json_string_value(item));
    }
    if (found >= 0) {
        s->family = (uint32_t)found;
        r->family = llama_family_at(s->family);
        return 0;
    }
    if (!type && !name)
        return CONFIG_REFUSE(r, "read %s: neither architectures nor model_type says what the model is",
                             r->path);
    if (type && llama_family_lacks(type))
        return CONFIG_REFUSE(r, "read %s: model type \"%s\" is not supported: it has %s", r->path, type,
                             llama_family_lacks(type));
    llama_family_list(listed, sizeof listed);
    return CONFIG_REFUSE(r, "read %s: architecture \"%s\" of model type \"%s\" is not supported, only %s",
                         r->path, llama_quote(name ? name : "").text, llama_quote(type ? type : "").text,
                         listed);
}

/* ---- the sizes ---------------------------------------------------------- */

static int read_heads(const struct config_reader *r, struct llama_shape *s)
{
    const struct llama_family *f = r->family;
    bool divided = f->head_dim == 0 || json_is_null(json_object_get(r->object, "head_dim"));
    bool as_heads = f->kv_heads == 0 || json_is_null(json_object_get(r->object, "num_key_value_heads"));
    int rc = config_get_u32(r, "num_attention_heads", -1, 1, CONFIG_WIDTH_MAX, &s->heads);

    if (rc == 0)
        rc = config_get_u32(r, "num_key_value_heads", as_heads ? s->heads : f->kv_heads, 1, CONFIG_WIDTH_MAX,
                            &s->kv_heads);
    if (rc == 0 && !config_get(r, "head_dim") && divided && s->hidden % s->heads != 0)
        return CONFIG_REFUSE(
            r, "read %s: hidden_size %" PRIu32 " is not a multiple of num_attention_heads %" PRIu32, r->path,
            s->hidden, s->heads);
    if (rc == 0)
        rc = config_get_u32(r, "head_dim", divided ? s->hidden / s->heads : f->head_dim, 1, CONFIG_WIDTH_MAX,
                            &s->head_dim);
    return rc;
}

static int read_sizes(const struct config_reader *r, struct llama_shape *s)
{
    int rc = config_get_u32(r, "num_hidden_layers", -1, 1, LLAMA_LAYERS_MAX, &s->layers);

    if (rc == 0)
        rc = config_get_u32(r, "hidden_size", -1, 1, CONFIG_WIDTH_MAX, &s->hidden);
    if (rc == 0)
        rc = read_heads(r, s);
    if (rc == 0)
        rc = config_get_u32(r, "intermediate_size", -1, 1, CONFIG_WIDTH_MAX, &s->ffn);
    if (rc == 0)
        rc = config_get_u32(r, "vocab_size", -1, 1, CONFIG_VOCAB_MAX, &s->vocab);
    if (rc == 0)
        rc = config_get_u32(r, "max_position_embeddings", r->family->positions, 1, CONFIG_POSITIONS_MAX,
                            &s->max_positions);
    if (rc == 0)
        rc = config_get_float(r, "rms_norm_eps", (double)r->family->rms_eps, 1e-12, 1.0, &s->rms_eps);
    if (rc == 0)
        rc = config_get_bool(r, "tie_word_embeddings", r->family->tied, &s->tied);
    return rc;
}

/* ---- tokens ------------------------------------------------------------- */

static int read_ends(const struct config_reader *r, const json_t *eos, struct llama_config *c)
{
    size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    int rc = 0;

    if (count > LLAMA_EOS_MAX)
        return CONFIG_REFUSE(r, "read %s: eos_token_id has %zu ids, at most %d are supported", r->path, count,
                             LLAMA_EOS_MAX);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = get_token(r, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos, c->shape.vocab,
                       &c->eos_ids[i]);
    c->eos_count = (uint32_t)count;
    return rc;
}

/* An id that is left out has the family's default, as in transformers; null is none. */
static int read_tokens(const struct config_reader *r, struct llama_config *c)
{
    const json_t *bos = json_object_get(r->object, "bos_token_id"),
                 *eos = json_object_get(r->object, "eos_token_id");
    const struct llama_family *f = r->family;
    int rc = 0;

    c->bos_id = !bos && f->bos_id < (int32_t)c->shape.vocab ? f->bos_id : -1;
    if (bos && !json_is_null(bos))
        rc = get_token(r, "bos_token_id", bos, c->shape.vocab, &c->bos_id);
    if (rc != 0 || json_is_null(eos))
        return rc;
    if (eos)
        return read_ends(r, eos, c);
    c->eos_ids[0] = f->eos_id;
    c->eos_count = f->eos_id >= 0 && f->eos_id < (int32_t)c->shape.vocab;
    return 0;
}

/* Where dir/generation_config.json names ends, they count, and not those of config.json. */
static int read_generation(const char *dir, struct llama_config *c, char *error, size_t error_bytes)
{
    char *path = llama_path(dir, "generation_config.json");
    struct config_reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    json_t *root = NULL;
    int rc = path ? llama_json_load_loose(path, CONFIG_BYTES_MAX, &root, error, error_bytes)
                  : llama_fail(-ENOMEM, error, error_bytes, "read %s: no memory", dir);

    r.object = root;
    if (rc == 0 && config_get(&r, "eos_token_id"))
        rc = read_ends(&r, config_get(&r, "eos_token_id"), c);
    json_decref(root);
    free(path);
    return rc == -ENOENT ? 0 : rc;
}

/* ---- the whole ---------------------------------------------------------- */

int llama_config_check(const struct llama_config *config, const char *source, char *error, size_t error_bytes)
{
    const struct config_reader reader = {.path = source, .error = error, .error_bytes = error_bytes},
                               *r = &reader;
    const struct llama_shape *s = &config->shape;

    if (s->layers - 1 >= LLAMA_LAYERS_MAX || s->hidden - 1 >= CONFIG_WIDTH_MAX ||
        s->heads - 1 >= CONFIG_WIDTH_MAX || s->kv_heads - 1 >= CONFIG_WIDTH_MAX ||
        s->head_dim - 1 >= CONFIG_WIDTH_MAX || s->ffn - 1 >= CONFIG_WIDTH_MAX ||
        s->vocab - 1 >= CONFIG_VOCAB_MAX || s->max_positions - 1 >= CONFIG_POSITIONS_MAX)
        return CONFIG_REFUSE(r, "read %s: a size of the model is zero or too large", source);
    if (s->experts > LLAMA_EXPERTS_MAX || s->experts_used > s->experts ||
        (s->experts && (s->experts_used == 0 || s->expert_ffn - 1 >= CONFIG_WIDTH_MAX)))
        return CONFIG_REFUSE(
            r, "read %s: a token uses %" PRIu32 " of %" PRIu32 " experts: not 1 to all of at most %u", source,
            s->experts_used, s->experts, LLAMA_EXPERTS_MAX);
    if (s->heads % s->kv_heads != 0)
        return CONFIG_REFUSE(
            r, "read %s: num_attention_heads %" PRIu32 " is not a multiple of num_key_value_heads %" PRIu32,
            source, s->heads, s->kv_heads);
    if (s->head_dim % 2 != 0)
        return CONFIG_REFUSE(r, "read %s: head_dim is %" PRIu32 ": RoPE needs an even number", source,
                             s->head_dim);
    if ((uint64_t)s->heads * s->head_dim > CONFIG_WIDTH_MAX)
        return CONFIG_REFUSE(r, "read %s: %" PRIu32 " heads of %" PRIu32 ": wider than %u", source, s->heads,
                             s->head_dim, CONFIG_WIDTH_MAX);
    if (s->rope.kind == LLAMA_ROPE_LLAMA3 && !(s->rope.low_freq_factor < s->rope.high_freq_factor))
        return CONFIG_REFUSE(r, "read %s: low_freq_factor %g is not below high_freq_factor %g", source,
                             (double)s->rope.low_freq_factor, (double)s->rope.high_freq_factor);
    if (config->bos_id < -1 || config->bos_id >= (int32_t)s->vocab)
        return CONFIG_REFUSE(r, "read %s: bos_token_id is %" PRId32 ": outside the vocabulary of %" PRIu32,
                             source, config->bos_id, s->vocab);
    if (config->eos_count > LLAMA_EOS_MAX)
        return CONFIG_REFUSE(r, "read %s: eos_token_id has %" PRIu32 " ids, at most %d are supported", source,
                             config->eos_count, LLAMA_EOS_MAX);
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] < 0 || config->eos_ids[i] >= (int32_t)s->vocab)
            return CONFIG_REFUSE(r,
                                 "read %s: eos_token_id is %" PRId32 ": outside the vocabulary of %" PRIu32,
                                 source, config->eos_ids[i], s->vocab);
    return 0;
}

/* What llama_config_save can't say is copied from the file that said it. */
static bool said_by_keys(const struct llama_shape *s)
{
    return s->family == 0 && !s->qkv_bias && !s->mlp_bias && s->activation == LLAMA_SILU &&
           (s->rope.kind == LLAMA_ROPE_PLAIN || s->rope.kind == LLAMA_ROPE_LINEAR ||
            s->rope.kind == LLAMA_ROPE_LLAMA3);
}

static int read_all(struct config_reader *r, struct llama_config *c)
{
    int rc = find_family(r, &c->shape);

    if (rc == 0)
        rc = read_sizes(r, &c->shape);
    if (rc == 0)
        rc = config_read_traits(r, c);
    if (rc == 0)
        rc = config_read_experts(r, c);
    if (rc == 0)
        rc = config_read_rope(r, c);
    if (rc == 0)
        rc = read_tokens(r, c);
    if (rc == 0)
        rc = config_get_float(r, "initializer_range", 0.02, 0.0, 10.0, &c->initializer_range);
    c->as_read |= !said_by_keys(&c->shape);
    return rc == 0 ? llama_config_check(c, r->path, r->error, r->error_bytes) : rc;
}

int llama_config_read(const char *path, const json_t *object, struct llama_config *out, char *error,
                      size_t error_bytes)
{
    struct config_reader r = {.path = path, .object = object, .error = error, .error_bytes = error_bytes};

    *out = (struct llama_config){.bos_id = -1};
    return read_all(&r, out);
}

int llama_config_load(const char *dir, struct llama_config *out, char *error, size_t error_bytes)
{
    char *path = llama_path(dir, "config.json");
    struct config_reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    struct llama_config config = {.bos_id = -1};
    json_t *root = NULL;
    int rc;

    if (!path)
        return llama_fail(-ENOMEM, error, error_bytes, "read %s: no memory", dir);
    if (llama_gguf_is(dir)) {
        free(path);
        return llama_gguf_config(dir, out, error, error_bytes);
    }
    rc = llama_json_load_loose(path, CONFIG_BYTES_MAX, &root, error, error_bytes);
    r.object = root;
    if (rc == 0)
        rc = read_all(&r, &config);
    if (rc == 0)
        rc = read_generation(dir, &config, error, error_bytes);
    if (rc == 0)
        *out = config;
    json_decref(root);
    free(path);
    return rc;
}
