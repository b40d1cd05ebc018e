/* Writing config.json. See config.h. */
#include "examples/model/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/family.h"
#include "examples/model/files.h"

#define CONFIG_BYTES_MAX (4u << 20)

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
    default:
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

int llama_config_copy(const char *dir, const char *path, const struct llama_config *config,
                      enum ofl_dtype dtype, char *error, size_t error_bytes)
{
    const char *class = llama_family_at(config->shape.family)->architecture;
    char *from = llama_path(dir, "config.json");
    json_t *root = NULL;
    int rc = from ? llama_json_load_loose(from, CONFIG_BYTES_MAX, &root, error, error_bytes) : -ENOMEM;

    if (rc == 0) {
        json_object_del(root, "dtype"); /* the newer name of the same */
        if (json_object_set_new(root, "torch_dtype", json_string(torch_name(dtype))) != 0 ||
            json_object_set_new(root, "tie_word_embeddings", json_boolean(config->shape.tied)) != 0 ||
            json_object_set_new(root, "architectures", json_pack("[s]", class)) != 0)
            rc = -ENOMEM;
    }
    if (rc == 0)
        rc = llama_json_save(path, root, error, error_bytes);
    else if (rc == -ENOMEM)
        llama_fail(rc, error, error_bytes, "write %s: no memory", path);
    json_decref(root);
    free(from);
    return rc;
}
