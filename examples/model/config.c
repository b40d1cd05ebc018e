/* A model's configuration: see config.h. Knows nothing of checkpoints' tensors. */
#include "examples/model/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/gguf.h"

#define CONFIG_BYTES_MAX (4u << 20)
#define LAYERS_MAX       4096u
#define WIDTH_MAX        (1u << 20)
#define VOCAB_MAX        (1u << 24)
#define POSITIONS_MAX    (1u << 27)

/* Where a number comes from, and where its sentence goes. */
struct reader {
    const char *path;
    const json_t *object;
    char *error;
    size_t error_bytes;
};

#define REFUSE(r, ...) llama_fail(-OFL_EFORMAT, (r)->error, (r)->error_bytes, __VA_ARGS__)

/* ---- single values ----------------------------------------------------- */

static const json_t *get(const struct reader *r, const char *key)
{
    const json_t *value = json_object_get(r->object, key);

    return json_is_null(value) ? NULL : value;
}

/* fallback < 0: the key is required. */
static int get_u32(const struct reader *r, const char *key, int64_t fallback, uint32_t least, uint32_t most,
                   uint32_t *out)
{
    const json_t *value = get(r, key);
    int64_t number = value ? (int64_t)json_integer_value(value) : fallback;

    if (!value && fallback < 0)
        return REFUSE(r, "read %s: %s is missing", r->path, key);
    if (value && !json_is_integer(value))
        return REFUSE(r, "read %s: %s is not an integer", r->path, key);
    if (number < least || number > most)
        return REFUSE(r, "read %s: %s is %" PRId64 ": outside %" PRIu32 " to %" PRIu32, r->path, key, number,
                      least, most);
    *out = (uint32_t)number;
    return 0;
}

/* fallback NAN: the key is required. */
static int get_float(const struct reader *r, const char *key, double fallback, double least, double most,
                     float *out)
{
    const json_t *value = get(r, key);
    double number = value ? json_number_value(value) : fallback;

    if (!value && isnan(fallback))
        return REFUSE(r, "read %s: %s is missing", r->path, key);
    if (value && !json_is_number(value))
        return REFUSE(r, "read %s: %s is not a number", r->path, key);
    if (!(number >= least && number <= most))
        return REFUSE(r, "read %s: %s is %g: outside %g to %g", r->path, key, number, least, most);
    *out = (float)number;
    return 0;
}

static int get_bool(const struct reader *r, const char *key, bool *out)
{
    const json_t *value = get(r, key);

    if (value && !json_is_boolean(value))
        return REFUSE(r, "read %s: %s is not true or false", r->path, key);
    *out = json_is_true(value);
    return 0;
}

static int get_token(const struct reader *r, const char *key, const json_t *value, uint32_t vocab,
                     int32_t *out)
{
    if (!json_is_integer(value))
        return REFUSE(r, "read %s: %s is not an integer", r->path, key);
    if (json_integer_value(value) < 0 || json_integer_value(value) >= (json_int_t)vocab)
        return REFUSE(r, "read %s: %s is %" JSON_INTEGER_FORMAT ": outside the vocabulary of %" PRIu32,
                      r->path, key, json_integer_value(value), vocab);
    *out = (int32_t)json_integer_value(value);
    return 0;
}

/* ---- what must be so --------------------------------------------------- */

static int check_architecture(const struct reader *r)
{
    const json_t *list = get(r, "architectures"), *item;
    const char *type = json_string_value(get(r, "model_type")), *name = NULL;
    size_t i;

    json_array_foreach(list, i, item)
    {
        name = name ? name : json_string_value(item);
        if (json_is_string(item) && strcmp(json_string_value(item), "LlamaForCausalLM") == 0)
            return 0;
    }
    if (type && strcmp(type, "llama") == 0)
        return 0;
    if (!type && !name)
        return REFUSE(r, "read %s: neither architectures nor model_type says what the model is", r->path);
    return REFUSE(r, "read %s: architecture \"%s\" of model type \"%s\": only LlamaForCausalLM is supported",
                  r->path, llama_quote(name ? name : "").text, llama_quote(type ? type : "").text);
}

static int check_whole_rotation(const struct reader *r)
{
    const json_t *partial = get(r, "partial_rotary_factor");

    if (partial && json_number_value(partial) != 1.0)
        return REFUSE(r, "read %s: partial_rotary_factor is not 1: not supported", r->path);
    return 0;
}

static int check_features(const struct reader *r)
{
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    const json_t *act = get(r, "hidden_act");
    bool on = false;
    int rc;

    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) {
        rc = get_bool(r, off[i], &on);
        if (rc != 0)
            return rc;
        if (on)
            return REFUSE(r, "read %s: %s is true: not supported", r->path, off[i]);
    }
    if (act && !json_is_string(act))
        return REFUSE(r, "read %s: hidden_act is not a string", r->path);
    if (act && strcmp(json_string_value(act), "silu") != 0)
        return REFUSE(r, "read %s: hidden_act \"%s\" is not supported, only silu", r->path,
                      llama_quote(json_string_value(act)).text);
    if (get(r, "quantization_config"))
        return REFUSE(r, "read %s: quantization_config: quantized weights are not supported", r->path);
    return check_whole_rotation(r);
}

/* ---- RoPE -------------------------------------------------------------- */

/* The object of rope_scaling, or of rope_parameters (transformers 5, with rope_theta inside). */
static int parse_scaling(const struct reader *config, const char *key, const json_t *object,
                         struct llama_shape *shape)
{
    struct reader r = *config;
    const json_t *type;
    const char *name;
    int rc;

    if (!json_is_object(object))
        return REFUSE(&r, "read %s: %s is not an object", r.path, key);
    r.object = object;
    type = get(&r, "rope_type") ? get(&r, "rope_type") : get(&r, "type");
    if (type && !json_is_string(type))
        return REFUSE(&r, "read %s: %s: rope_type is not a string", r.path, key);
    if (!type && !get(&r, "rope_theta"))
        return REFUSE(&r, "read %s: %s: rope_type is missing", r.path, key);
    name = type ? json_string_value(type) : "default";
    rc = check_whole_rotation(&r);
    if (rc == 0)
        rc = get_float(&r, "rope_theta", (double)shape->rope_theta, 1.0, 1e15, &shape->rope_theta);
    if (rc != 0)
        return rc;
    if (strcmp(name, "default") == 0)
        return 0;
    if (strcmp(name, "linear") == 0) {
        shape->rope.kind = LLAMA_ROPE_LINEAR;
        return get_float(&r, "factor", NAN, 1.0, 1e6, &shape->rope.factor);
    }
    if (strcmp(name, "llama3") != 0)
        return REFUSE(&r, "read %s: %s of type \"%s\" is not supported, only default, linear and llama3",
                      r.path, key, llama_quote(name).text);
    shape->rope.kind = LLAMA_ROPE_LLAMA3;
    rc = get_float(&r, "factor", NAN, 1.0, 1e6, &shape->rope.factor);
    if (rc == 0)
        rc = get_float(&r, "low_freq_factor", NAN, 1e-6, 1e6, &shape->rope.low_freq_factor);
    if (rc == 0)
        rc = get_float(&r, "high_freq_factor", NAN, 1e-6, 1e6, &shape->rope.high_freq_factor);
    if (rc == 0)
        rc = get_u32(&r, "original_max_position_embeddings", -1, 1, POSITIONS_MAX,
                     &shape->rope.original_positions);
    return rc;
}

static int parse_rope(const struct reader *r, struct llama_shape *shape)
{
    const json_t *old = get(r, "rope_scaling"), *new = get(r, "rope_parameters");
    int rc = get_float(r, "rope_theta", 10000.0, 1.0, 1e15, &shape->rope_theta);

    shape->rope.kind = LLAMA_ROPE_PLAIN;
    shape->rope.factor = 1.0f;
    if (rc != 0)
        return rc;
    if (old && new)
        return REFUSE(r, "read %s: both rope_scaling and rope_parameters are given: ambiguous", r->path);
    if (old)
        return parse_scaling(r, "rope_scaling", old, shape);
    if (new)
        return parse_scaling(r, "rope_parameters", new, shape);
    return 0;
}

/* ---- the whole --------------------------------------------------------- */

static int parse_shape(const struct reader *r, struct llama_shape *s)
{
    int rc = get_u32(r, "num_hidden_layers", -1, 1, LAYERS_MAX, &s->layers);

    if (rc == 0)
        rc = get_u32(r, "hidden_size", -1, 1, WIDTH_MAX, &s->hidden);
    if (rc == 0)
        rc = get_u32(r, "num_attention_heads", -1, 1, WIDTH_MAX, &s->heads);
    if (rc == 0)
        rc = get_u32(r, "num_key_value_heads", s->heads, 1, WIDTH_MAX, &s->kv_heads);
    if (rc == 0 && !get(r, "head_dim") && s->hidden % s->heads != 0)
        return REFUSE(r, "read %s: hidden_size %" PRIu32 " is not a multiple of num_attention_heads %" PRIu32,
                      r->path, s->hidden, s->heads);
    if (rc == 0)
        rc = get_u32(r, "head_dim", s->hidden / s->heads, 1, WIDTH_MAX, &s->head_dim);
    if (rc == 0)
        rc = get_u32(r, "intermediate_size", -1, 1, WIDTH_MAX, &s->ffn);
    if (rc == 0)
        rc = get_u32(r, "vocab_size", -1, 1, VOCAB_MAX, &s->vocab);
    if (rc == 0)
        rc = get_u32(r, "max_position_embeddings", 2048, 1, POSITIONS_MAX, &s->max_positions);
    if (rc == 0)
        rc = get_float(r, "rms_norm_eps", 1e-6, 1e-12, 1.0, &s->rms_eps);
    if (rc == 0)
        rc = get_bool(r, "tie_word_embeddings", &s->tied);
    return rc;
}

/* An id that is left out has Llama's default, 1 and 2, as in transformers; null is none. */
static int parse_tokens(const struct reader *r, struct llama_config *c)
{
    const json_t *bos = json_object_get(r->object, "bos_token_id"),
                 *eos = json_object_get(r->object, "eos_token_id");
    size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    int rc = 0;

    c->bos_id = !bos && c->shape.vocab > 1 ? 1 : -1;
    if (bos && !json_is_null(bos))
        rc = get_token(r, "bos_token_id", bos, c->shape.vocab, &c->bos_id);
    if (rc != 0 || json_is_null(eos))
        return rc;
    if (!eos) {
        c->eos_ids[0] = 2;
        c->eos_count = c->shape.vocab > 2;
        return 0;
    }
    if (count > LLAMA_EOS_MAX)
        return REFUSE(r, "read %s: eos_token_id has %zu ids, at most %d are supported", r->path, count,
                      LLAMA_EOS_MAX);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = get_token(r, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos, c->shape.vocab,
                       &c->eos_ids[i]);
    c->eos_count = (uint32_t)count;
    return rc;
}

int llama_config_check(const struct llama_config *config, const char *source, char *error, size_t error_bytes)
{
    const struct reader reader = {.path = source, .error = error, .error_bytes = error_bytes}, *r = &reader;
    const struct llama_shape *s = &config->shape;

    if (s->layers - 1 >= LAYERS_MAX || s->hidden - 1 >= WIDTH_MAX || s->heads - 1 >= WIDTH_MAX ||
        s->kv_heads - 1 >= WIDTH_MAX || s->head_dim - 1 >= WIDTH_MAX || s->ffn - 1 >= WIDTH_MAX ||
        s->vocab - 1 >= VOCAB_MAX || s->max_positions - 1 >= POSITIONS_MAX)
        return REFUSE(r, "read %s: a size of the model is zero or too large", source);
    if (s->heads % s->kv_heads != 0)
        return REFUSE(
            r, "read %s: num_attention_heads %" PRIu32 " is not a multiple of num_key_value_heads %" PRIu32,
            source, s->heads, s->kv_heads);
    if (s->head_dim % 2 != 0)
        return REFUSE(r, "read %s: head_dim is %" PRIu32 ": RoPE needs an even number", source, s->head_dim);
    if ((uint64_t)s->heads * s->head_dim > WIDTH_MAX)
        return REFUSE(r, "read %s: %" PRIu32 " heads of %" PRIu32 ": wider than %u", source, s->heads,
                      s->head_dim, WIDTH_MAX);
    if (s->rope.kind == LLAMA_ROPE_LLAMA3 && !(s->rope.low_freq_factor < s->rope.high_freq_factor))
        return REFUSE(r, "read %s: low_freq_factor %g is not below high_freq_factor %g", source,
                      (double)s->rope.low_freq_factor, (double)s->rope.high_freq_factor);
    if (config->bos_id < -1 || config->bos_id >= (int32_t)s->vocab)
        return REFUSE(r, "read %s: bos_token_id is %" PRId32 ": outside the vocabulary of %" PRIu32, source,
                      config->bos_id, s->vocab);
    if (config->eos_count > LLAMA_EOS_MAX)
        return REFUSE(r, "read %s: eos_token_id has %" PRIu32 " ids, at most %d are supported", source,
                      config->eos_count, LLAMA_EOS_MAX);
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] < 0 || config->eos_ids[i] >= (int32_t)s->vocab)
            return REFUSE(r, "read %s: eos_token_id is %" PRId32 ": outside the vocabulary of %" PRIu32,
                          source, config->eos_ids[i], s->vocab);
    return 0;
}

int llama_config_load(const char *dir, struct llama_config *out, char *error, size_t error_bytes)
{
    char *path = llama_path(dir, "config.json");
    struct reader r = {.path = path, .error = error, .error_bytes = error_bytes};
    struct llama_config config = {.bos_id = -1};
    json_t *root = NULL;
    int rc;

    if (!path)
        return llama_fail(-ENOMEM, error, error_bytes, "read %s: no memory", dir);
    if (llama_gguf_is(dir)) {
        free(path);
        return llama_gguf_config(dir, out, error, error_bytes);
    }
    rc = llama_json_load(path, CONFIG_BYTES_MAX, &root, error, error_bytes);
    r.object = root;
    if (rc == 0)
        rc = check_architecture(&r);
    if (rc == 0)
        rc = check_features(&r);
    if (rc == 0)
        rc = parse_shape(&r, &config.shape);
    if (rc == 0)
        rc = parse_rope(&r, &config.shape);
    if (rc == 0)
        rc = parse_tokens(&r, &config);
    if (rc == 0)
        rc = get_float(&r, "initializer_range", 0.02, 0.0, 10.0, &config.initializer_range);
    if (rc == 0)
        rc = llama_config_check(&config, path, error, error_bytes);
    if (rc == 0)
        *out = config;
    json_decref(root);
    free(path);
    return rc;
}

/* ---- writing ----------------------------------------------------------- */

/* The shortest decimal that reads back as the same float: 1e-06, not 9.99999997e-07. */
static json_t *real(float value)
{
    char text[32];

    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return json_real(strtod(text, NULL));
}

/* rope_theta and rope_scaling, not rope_parameters: transformers 5 reads the old names too. */
static json_t *rope_json(const struct llama_shape *s)
{
    switch (s->rope.kind) {
    case LLAMA_ROPE_LINEAR:
        return json_pack("{s:s, s:o}", "type", "linear", "factor", real(s->rope.factor));
    case LLAMA_ROPE_LLAMA3:
        return json_pack("{s:s, s:o, s:o, s:o, s:I}", "rope_type", "llama3", "factor", real(s->rope.factor),
                         "low_freq_factor", real(s->rope.low_freq_factor), "high_freq_factor",
                         real(s->rope.high_freq_factor), "original_max_position_embeddings",
                         (json_int_t)s->rope.original_positions);
    case LLAMA_ROPE_PLAIN:
        break;
    }
    return json_null();
}

static json_t *eos_json(const struct llama_config *c)
{
    json_t *list;

    if (c->eos_count == 0)
        return json_null();
    if (c->eos_count == 1)
        return json_integer(c->eos_ids[0]);
    list = json_array();
    for (uint32_t i = 0; i < c->eos_count; i++)
        json_array_append_new(list, json_integer(c->eos_ids[i]));
    return list;
}

static const char *torch_name(enum ofl_dtype dtype)
{
    return dtype == OFL_BF16 ? "bfloat16" : dtype == OFL_F16 ? "float16" : "float32";
}

static json_t *config_json(const struct llama_config *c, enum ofl_dtype dtype)
{
    const struct llama_shape *s = &c->shape;
    json_t *bos = c->bos_id < 0 ? json_null() : json_integer(c->bos_id);

    return json_pack(
        "{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:b, s:b, s:b, "
        "s:f, s:o, s:o, s:s, s:b}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_act", "silu", "num_hidden_layers",
        (json_int_t)s->layers, "hidden_size", (json_int_t)s->hidden, "num_attention_heads",
        (json_int_t)s->heads, "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim",
        (json_int_t)s->head_dim, "intermediate_size", (json_int_t)s->ffn, "vocab_size", (json_int_t)s->vocab,
        "max_position_embeddings", (json_int_t)s->max_positions, "rms_norm_eps", real(s->rms_eps),
        "rope_theta", real(s->rope_theta), "rope_scaling", rope_json(s), "initializer_range",
        real(c->initializer_range), "tie_word_embeddings", (int)s->tied, "attention_bias", 0, "mlp_bias", 0,
        "attention_dropout", 0.0, "bos_token_id", bos, "eos_token_id", eos_json(c), "torch_dtype",
        torch_name(dtype), "use_cache", 1);
}

int llama_config_save(const char *path, const struct llama_config *config, enum ofl_dtype dtype, char *error,
                      size_t error_bytes)
{
    json_t *root = config_json(config, dtype);
    int rc;

    if (!root)
        return llama_fail(-ENOMEM, error, error_bytes, "write %s: no memory", path);
    rc = llama_json_save(path, root, error, error_bytes);
    json_decref(root);
    return rc;
}

/* ---- presets ----------------------------------------------------------- */

/* All go with the byte tokenizer, 256 bytes, a start and an end token; the larger ones have the
 * vocabulary of the models whose shape they take. */
static const struct llama_preset presets[] = {
    {"tiny", "1 M parameters, bytes", 5, 128, 4, 2, 384, 258, 512, 1, 256, 257},
    {"20m", "20 M parameters, bytes", 7, 512, 8, 4, 1344, 258, 1024, 1, 256, 257},
    {"300m", "307 M parameters, bytes", 26, 1024, 16, 8, 2816, 258, 2048, 1, 256, 257},
    {"1b", "1.1 B parameters, the shape of TinyLlama", 22, 2048, 32, 4, 5632, 32000, 2048, 0, 256, 257},
    {"7b", "6.7 B parameters, the shape of Llama 2 7B", 32, 4096, 32, 32, 11008, 32000, 4096, 0, 256, 257},
    {"8b", "8.0 B parameters, the shape of Llama 3.1 8B", 32, 4096, 32, 8, 14336, 128256, 8192, 0, 256, 257},
    {"13b", "13 B parameters, the shape of Llama 2 13B", 40, 5120, 40, 40, 13824, 32000, 4096, 0, 256, 257},
    {"70b", "69 B parameters, the shape of Llama 2 70B", 80, 8192, 64, 8, 28672, 32000, 4096, 0, 256, 257},
    {"100b", "101 B parameters, wider and deeper than Llama 2 70B", 90, 10240, 80, 8, 28672, 32000, 4096, 0,
     256, 257},
    {"175b", "175 B parameters, as deep and wide as GPT-3", 96, 12288, 96, 96, 32768, 50257, 2048, 0, 256,
     257},
};

const struct llama_preset *llama_preset_at(size_t index)
{
    return index < sizeof presets / sizeof presets[0] ? &presets[index] : NULL;
}

int llama_preset(const char *name, struct llama_config *out)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        const struct llama_preset *p = &presets[i];

        if (strcmp(p->name, name) != 0)
            continue;
        *out = (struct llama_config){.bos_id = p->bos_id, .eos_count = 1, .eos_ids = {p->eos_id}};
        out->initializer_range = 0.02f;
        out->shape = (struct llama_shape){.layers = p->layers,
                                          .hidden = p->hidden,
                                          .heads = p->heads,
                                          .kv_heads = p->kv_heads,
                                          .head_dim = p->hidden / p->heads,
                                          .ffn = p->ffn,
                                          .vocab = p->vocab,
                                          .max_positions = p->positions,
                                          .rms_eps = 1e-5f,
                                          .rope_theta = 10000.0f,
                                          .rope = {.kind = LLAMA_ROPE_PLAIN, .factor = 1.0f},
                                          .tied = p->tied};
        return 0;
    }
    return -ENOENT;
}

uint64_t llama_param_count(const struct llama_shape *s)
{
    uint64_t heads = (uint64_t)s->heads * s->head_dim, kv = (uint64_t)s->kv_heads * s->head_dim;
    uint64_t layer = 2 * (uint64_t)s->hidden * heads + 2 * (uint64_t)s->hidden * kv +
                     3 * (uint64_t)s->hidden * s->ffn + 2 * (uint64_t)s->hidden;

    return s->layers * layer + (s->tied ? 1 : 2) * (uint64_t)s->vocab * s->hidden + s->hidden;
}
