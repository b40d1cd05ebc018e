/*
 * The rotary forms in config.json: rope_theta and rope_scaling of older files, rope_parameters of newer ones, and those
 * with an entry for each type of layer. See config.h.
 *
 * Where both are there, and where a number stands inside and outside, the one counts that transformers takes.
 */
#include <string.h>

#include "examples/model/config_impl.h"

#define THETA_MAX  1e15
#define FACTOR_MAX 1e6

static int read_theta(const struct config_reader *r, const char *key, float fallback, float *theta)
{
    return config_get_float(r, key, (double)fallback, 1.0, THETA_MAX, theta);
}

/* The name's kind; dynamic is plain, as its frequencies change beyond the model's positions only. */
static int kind_of(const struct config_reader *r, const char *key, const char *name, struct llama_config *c,
                   struct llama_rope *rope)
{
    static const struct {
        const char *name;
        int kind;
    } kinds[] = {{"default", LLAMA_ROPE_PLAIN}, {"dynamic", LLAMA_ROPE_PLAIN}, {"linear", LLAMA_ROPE_LINEAR},
                 {"llama3", LLAMA_ROPE_LLAMA3}, {"yarn", LLAMA_ROPE_YARN},     {"longrope", LLAMA_ROPE_LONG}};

    if (r->family->long_rope && (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0))
        name = "longrope";
    c->as_read |= strcmp(name, "dynamic") == 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(name, kinds[i].name) == 0) {
            rope->kind = kinds[i].kind;
            return 0;
        }
    return CONFIG_REFUSE(
        r,
        "read %s: %s of type \"%s\" is not supported, only default, linear, dynamic, llama3, "
        "yarn and longrope",
        r->path, key, llama_quote(name).text);
}

/* The number outside counts before the one inside; without either it is the model's positions. */
static int read_original(const struct config_reader *config, const struct config_reader *r,
                         uint32_t positions, uint32_t *out)
{
    static const char key[] = "original_max_position_embeddings";

    if (config_get(config, key))
        return config_get_u32(config, key, -1, 1, CONFIG_POSITIONS_MAX, out);
    if (config->family->long_rope)
        positions = config->family->positions;
    return config_get_u32(r, key, positions, 1, CONFIG_POSITIONS_MAX, out);
}

static int read_llama3(const struct config_reader *r, struct llama_rope *rope)
{
    int rc = config_get_float(r, "factor", NAN, 1.0, FACTOR_MAX, &rope->factor);

    if (rc == 0)
        rc = config_get_float(r, "low_freq_factor", NAN, 1e-6, FACTOR_MAX, &rope->low_freq_factor);
    if (rc == 0)
        rc = config_get_float(r, "high_freq_factor", NAN, 1e-6, FACTOR_MAX, &rope->high_freq_factor);
    return rc;
}

/* Peng et al., 2023: 0.1 m ln(factor) + 1. */
static double mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static int read_yarn(const struct config_reader *r, uint32_t positions, struct llama_rope *rope)
{
    float m, m_all, attention;
    bool truncate = true;
    int rc = config_get_float(r, "factor", (double)positions / rope->original_positions, 1e-3, FACTOR_MAX,
                              &rope->factor);

    if (rc == 0)
        rc = config_get_float(r, "mscale", 0, 0, FACTOR_MAX, &m);
    if (rc == 0)
        rc = config_get_float(r, "mscale_all_dim", 0, 0, FACTOR_MAX, &m_all);
    if (rc == 0) {
        double factor = (double)rope->factor;

        attention = (float)(m > 0 && m_all > 0 ? mscale(factor, (double)m) / mscale(factor, (double)m_all)
                                               : mscale(factor, 1));
        rc = config_get_float(r, "attention_factor", (double)attention, 1e-3, FACTOR_MAX,
                              &rope->attention_factor);
    }
    if (rc == 0)
        rc = config_get_float(r, "beta_fast", 32, 0, FACTOR_MAX, &rope->beta_fast);
    if (rc == 0)
        rc = config_get_float(r, "beta_slow", 1, 0, FACTOR_MAX, &rope->beta_slow);
    if (rc == 0)
        rc = config_get_bool(r, "truncate", true, &truncate);
    rope->beta_fast = rope->beta_fast > 0 ? rope->beta_fast : 32; /* 0 is as if left out */
    rope->beta_slow = rope->beta_slow > 0 ? rope->beta_slow : 1;
    rope->exact_range = !truncate;
    return rc;
}

static int read_factors(const struct config_reader *r, const char *key, uint32_t count, float *out)
{
    const json_t *list = config_get(r, key), *item;
    size_t i;

    if (!json_is_array(list))
        return CONFIG_REFUSE(r, "read %s: longrope: %s is not a list of numbers", r->path, key);
    if (json_array_size(list) != count)
        return CONFIG_REFUSE(r, "read %s: longrope: %s has %zu numbers, the rotated dimensions need %" PRIu32,
                             r->path, key, json_array_size(list), count);
    json_array_foreach(list, i, item)
    {
        double number = json_number_value(item);

        if (!json_is_number(item) || !(number >= 1e-6 && number <= FACTOR_MAX))
            return CONFIG_REFUSE(r, "read %s: longrope: %s: number %zu is none from 1e-6 to %g", r->path, key,
                                 i, FACTOR_MAX);
        out[i] = (float)number;
    }
    return 0;
}

static int read_long(const struct config_reader *r, const struct llama_shape *s, struct llama_rope *rope)
{
    uint32_t count = llama_rope_dims(s) / 2;
    double original = rope->original_positions, attention;
    int rc;

    if (count > LLAMA_ROPE_FACTORS_MAX)
        return CONFIG_REFUSE(r, "read %s: longrope of %" PRIu32 " dimensions: at most %u are supported",
                             r->path, 2 * count, 2 * LLAMA_ROPE_FACTORS_MAX);
    rc = read_factors(r, "short_factor", count, rope->near_factors);
    if (rc == 0)
        rc = read_factors(r, "long_factor", count, rope->far_factors);
    if (rc == 0)
        rc = config_get_float(r, "factor", s->max_positions / original, 1e-3, FACTOR_MAX, &rope->factor);
    if (rc != 0)
        return rc;
    attention = rope->factor <= 1 || original <= 1 ? 1 : sqrt(1 + log((double)rope->factor) / log(original));
    return config_get_float(r, "attention_factor", attention, 1e-3, FACTOR_MAX, &rope->attention_factor);
}

/* The rotated share of a head, by the key inside or outside. */
static int read_dims(const struct config_reader *config, const struct config_reader *r, struct llama_shape *s)
{
    const struct config_reader *from = config_get(r, "partial_rotary_factor") ? r : config;
    float share;
    int rc = config_get_float(from, "partial_rotary_factor", 1.0, 0.0, 1.0, &share);
    uint32_t dims;

    if (rc != 0 || share == 1)
        return rc;
    dims = (uint32_t)((double)s->head_dim * (double)share);
    if (!config->family->partial_rope)
        return CONFIG_REFUSE(r, "read %s: partial_rotary_factor is not 1: not supported in model type %s",
                             r->path, config->family->model_type);
    if (dims == 0 || dims % 2)
        return CONFIG_REFUSE(r,
                             "read %s: partial_rotary_factor %g of a head of %" PRIu32 " leaves %" PRIu32
                             " dimensions: RoPE needs an even number",
                             r->path, (double)share, s->head_dim, dims);
    s->rope_dims = dims;
    return 0;
}

/* Queries beyond the original positions are scaled by them, which no kernel does: the model's positions end there. */
static int end_unscaled(const struct config_reader *r, uint32_t original, struct llama_shape *s)
{
    float beta;
    int rc = config_get_float(r, "llama_4_scaling_beta", 0, -FACTOR_MAX, FACTOR_MAX, &beta);

    if (rc == 0 && beta != 0 && original < s->max_positions)
        s->max_positions = original;
    return rc;
}

/* One dictionary. theta has what counts if it does not say. */
static int read_form(const struct config_reader *config, const char *key, const json_t *object,
                     struct llama_config *c, struct llama_rope *rope, float *theta)
{
    uint32_t positions = c->shape.max_positions;
    struct config_reader r = *config;
    const json_t *type;
    int rc;

    if (!json_is_object(object))
        return CONFIG_REFUSE(&r, "read %s: %s is not an object", r.path, key);
    if (json_object_get(object, "full_attention") || json_object_get(object, "sliding_attention"))
        return CONFIG_REFUSE(&r, "read %s: %s is by types of layers: not supported in model type %s", r.path,
                             key, r.family->model_type);
    r.object = object;
    type = config_get(&r, "rope_type") ? config_get(&r, "rope_type") : config_get(&r, "type");
    if (type && !json_is_string(type))
        return CONFIG_REFUSE(&r, "read %s: %s: rope_type is not a string", r.path, key);
    rc = kind_of(&r, key, type ? json_string_value(type) : "default", c, rope);
    if (rc == 0)
        rc = read_dims(config, &r, &c->shape);
    if (rc == 0)
        rc = read_theta(&r, "rope_theta", *theta, theta);
    if (rc != 0 || rope->kind == LLAMA_ROPE_PLAIN)
        return rc;
    if (rope->kind == LLAMA_ROPE_LINEAR)
        return config_get_float(&r, "factor", NAN, 1.0, FACTOR_MAX, &rope->factor);
    rc = read_original(config, &r, positions, &rope->original_positions);
    if (rc != 0)
        return rc;
    rc = end_unscaled(&r, rope->original_positions, &c->shape);
    if (rc != 0)
        return rc;
    if (rope->kind == LLAMA_ROPE_LLAMA3)
        return read_llama3(&r, rope);
    return rope->kind == LLAMA_ROPE_YARN ? read_yarn(&r, positions, rope) : read_long(&r, &c->shape, rope);
}

/* Two forms: of the layers that see all, and of those that see a window. */
static int read_both(const struct config_reader *r, struct llama_config *c)
{
    const json_t *old = config_get(r, "rope_scaling"), *new = config_get(r, "rope_parameters");
    const json_t *full = new ? json_object_get(new, "full_attention") : old,
                 *local = json_object_get(new, "sliding_attention");
    struct llama_shape *s = &c->shape;
    int rc = read_theta(r, "rope_theta", r->family->rope_theta, &s->rope_theta);

    if (rc == 0)
        rc = read_theta(r, "rope_local_base_freq", r->family->local_theta, &s->local_theta);
    if (rc == 0 && new && !json_is_object(full) && !json_is_object(local))
        return CONFIG_REFUSE(
            r,
            "read %s: rope_parameters has neither full_attention nor sliding_attention, which "
            "model type %s needs",
            r->path, r->family->model_type);
    if (rc == 0 && full && !json_is_null(full))
        rc = read_form(r, new ? "rope_parameters.full_attention" : "rope_scaling", full, c, &s->rope,
                       &s->rope_theta);
    if (rc == 0 && local && !json_is_null(local))
        rc = read_form(r, "rope_parameters.sliding_attention", local, c, &s->local_rope, &s->local_theta);
    return rc;
}

int config_read_rope(const struct config_reader *r, struct llama_config *c)
{
    const json_t *old = config_get(r, "rope_scaling"), *new = config_get(r, "rope_parameters");
    struct llama_shape *s = &c->shape;
    int rc;

    s->rope.factor = s->local_rope.factor = 1.0f;
    if (r->family->local_theta > 0)
        rc = read_both(r, c);
    else
        rc = read_theta(r, "rope_theta", r->family->rope_theta, &s->rope_theta);
    if (rc != 0 || r->family->local_theta > 0)
        return rc;
    if (old && (!json_is_object(old) || json_object_size(old) > 0))
        return read_form(r, "rope_scaling", old, c, &s->rope, &s->rope_theta);
    if (new)
        return read_form(r, "rope_parameters", new, c, &s->rope, &s->rope_theta);
    return read_dims(r, r, s);
}
