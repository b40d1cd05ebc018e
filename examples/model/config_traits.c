/* What sets a family's models apart from Llama's, out of config.json and the table of families. See config.h. */
#include <string.h>

#include "examples/model/config_impl.h"

/* ---- what must be so --------------------------------------------------- */

static int read_activation(const struct config_reader *r, struct llama_shape *s)
{
    static const struct {
        const char *name;
        enum llama_activation act;
    } names[] = {{"silu", LLAMA_SILU},
                 {"swish", LLAMA_SILU},
                 {"gelu_pytorch_tanh", LLAMA_GELU_TANH},
                 {"gelu_new", LLAMA_GELU_TANH},
                 {"gelu", LLAMA_GELU}};
    const char *key = r->family->activation_key;
    const json_t *act = config_get(r, key);

    s->activation = r->family->activation;
    if (!act)
        return 0;
    if (!json_is_string(act))
        return CONFIG_REFUSE(r, "read %s: %s is not a string", r->path, key);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(json_string_value(act), names[i].name) == 0) {
            s->activation = names[i].act;
            return 0;
        }
    return CONFIG_REFUSE(r, "read %s: %s \"%s\" is not supported, only silu, gelu and gelu_pytorch_tanh",
                         r->path, key, llama_quote(json_string_value(act)).text);
}

static int read_biases(const struct config_reader *r, struct llama_shape *s)
{
    bool attention = false, mlp = false;
    int rc = config_get_bool(r, "attention_bias", r->family->biased, &attention);

    if (rc == 0)
        rc = config_get_bool(r, "mlp_bias", false, &mlp);
    /* A family without the key does not look at it. */
    s->qkv_bias = r->family->bias == LLAMA_BIAS_QKV || (attention && r->family->bias == LLAMA_BIAS_BY_KEY);
    s->o_bias = attention && r->family->bias == LLAMA_BIAS_BY_KEY;
    s->mlp_bias = mlp && r->family->mlp_bias;
    return rc;
}

/* ---- windows ----------------------------------------------------------- */

/* 1: layer_types says it for all layers; 0: it is not there. */
static int read_types(const struct config_reader *r, struct llama_shape *s)
{
    const json_t *list = config_get(r, "layer_types"), *item;
    size_t i;

    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) < s->layers)
        return CONFIG_REFUSE(r, "read %s: layer_types is not a list of %" PRIu32 " layers", r->path,
                             s->layers);
    json_array_foreach(list, i, item)
    {
        const char *type = json_is_string(item) ? json_string_value(item) : "";

        if (i >= s->layers)
            break;
        if (strcmp(type, "sliding_attention") == 0)
            llama_layer_put(s->windowed, (uint32_t)i);
        else if (strcmp(type, "full_attention") != 0)
            return CONFIG_REFUSE(r,
                                 "read %s: layer_types: layer %zu is \"%s\": only full_attention and "
                                 "sliding_attention are supported",
                                 r->path, i, llama_quote(type).text);
    }
    return 1;
}

static bool sees_window(const struct config_reader *r, const struct llama_shape *s, uint32_t layer,
                        uint32_t since, uint32_t cycle)
{
    switch (r->family->windows) {
    case LLAMA_WINDOW_LATE:
        return layer >= since;
    case LLAMA_WINDOW_NOPE:
        return llama_layer_in(s->unrotated, layer);
    case LLAMA_WINDOW_CYCLE:
        return (layer + 1) % cycle != 0;
    default:
        return true;
    }
}

static int read_windows(const struct config_reader *r, struct llama_shape *s)
{
    enum llama_windows windows = r->family->windows;
    const json_t *given = json_object_get(r->object, "sliding_window");
    uint32_t since = 28, cycle = r->family->window_cycle;
    bool on = windows != LLAMA_WINDOW_NEVER;
    int rc = 0, types = 0;

    if (windows == LLAMA_WINDOW_LATE || windows == LLAMA_WINDOW_NOPE || windows == LLAMA_WINDOW_SWITCH)
        rc = config_get_bool(r, "use_sliding_window", false, &on);
    if (rc == 0 && windows != LLAMA_WINDOW_NEVER && windows != LLAMA_WINDOW_ALL &&
        windows != LLAMA_WINDOW_SWITCH)
        types = read_types(r, s);
    if (rc == 0 && windows == LLAMA_WINDOW_LATE)
        rc = config_get_u32(r, "max_window_layers", since, 0, LLAMA_LAYERS_MAX, &since);
    if (rc == 0 && windows == LLAMA_WINDOW_CYCLE && r->family->local_theta > 0)
        rc = config_get_u32(r, "sliding_window_pattern", cycle, 1, LLAMA_LAYERS_MAX, &cycle);
    for (uint32_t i = 0; rc == 0 && types == 0 && on && i < s->layers; i++)
        if (sees_window(r, s, i, since, cycle))
            llama_layer_put(s->windowed, i);
    if (rc != 0 || types < 0)
        return rc != 0 ? rc : types;
    if (!on || json_is_null(given) || (!given && r->family->window == 0))
        return 0; /* layers of that type see all */
    return config_get_u32(r, "sliding_window", r->family->window, 1, CONFIG_POSITIONS_MAX, &s->window);
}

static int read_unrotated(const struct config_reader *r, struct llama_shape *s)
{
    const json_t *list = config_get(r, "no_rope_layers"), *item;
    uint32_t interval = 4;
    size_t i;
    int rc;

    if (!r->family->no_rope)
        return 0;
    if (!list) {
        rc = config_get_u32(r, "no_rope_layer_interval", interval, 1, LLAMA_LAYERS_MAX, &interval);
        for (uint32_t k = interval - 1; rc == 0 && k < s->layers; k += interval)
            llama_layer_put(s->unrotated, k);
        return rc;
    }
    if (!json_is_array(list) || json_array_size(list) < s->layers)
        return CONFIG_REFUSE(r, "read %s: no_rope_layers is not a list of %" PRIu32 " layers", r->path,
                             s->layers);
    json_array_foreach(list, i, item)
    {
        bool zero = json_is_integer(item) && json_integer_value(item) == 0;

        if (!json_is_integer(item) && !json_is_boolean(item))
            return CONFIG_REFUSE(r, "read %s: no_rope_layers: layer %zu is not a number", r->path, i);
        if (i < s->layers && (zero || json_is_false(item)))
            llama_layer_put(s->unrotated, (uint32_t)i);
    }
    return 0;
}

/* ---- scales ------------------------------------------------------------ */

/* 0, which is 1 without a pass over the numbers, where it is 1. */
static float unless_one(float scale)
{
    return scale == 1 ? 0 : scale;
}

static int read_multipliers(const struct config_reader *r, struct llama_shape *s)
{
    float embed = 1, branch = 1, attention = 1, logits = 1;
    int rc;

    if (!r->family->multipliers)
        return 0;
    rc = config_get_float(r, "embedding_multiplier", 1, -1e6, 1e6, &embed);
    if (rc == 0)
        rc = config_get_float(r, "residual_multiplier", 1, -1e6, 1e6, &branch);
    if (rc == 0)
        rc = config_get_float(r, "attention_multiplier", 1, 1e-9, 1e6, &attention);
    if (rc == 0)
        rc = config_get_float(r, "logits_scaling", 1, 1e-9, 1e9, &logits);
    if (rc == 0 && (embed == 0 || branch == 0))
        return CONFIG_REFUSE(r, "read %s: %s is 0", r->path,
                             embed == 0 ? "embedding_multiplier" : "residual_multiplier");
    s->embed_scale = unless_one(embed);
    s->branch_scale = unless_one(branch);
    s->attn_scale = attention;
    s->logit_scale = unless_one(1 / logits);
    return rc;
}

/* null is none; what is left out has the family's. */
static int read_cap(const struct config_reader *r, const char *key, bool has, float fallback, float *out)
{
    *out = 0;
    if (!has || json_is_null(json_object_get(r->object, key)) ||
        (!json_object_get(r->object, key) && fallback == 0))
        return 0;
    return config_get_float(r, key, (double)fallback, 1e-3, 1e6, out);
}

static int read_scales(const struct config_reader *r, struct llama_shape *s)
{
    float scalar = 256;
    int rc = read_multipliers(r, s);

    if (rc == 0 && r->family->query_scalar) {
        rc = config_get_float(r, "query_pre_attn_scalar", (double)scalar, 1e-6, 1e9, &scalar);
        s->attn_scale = 1 / sqrtf(scalar);
    }
    if (rc == 0)
        rc = read_cap(r, "attn_logit_softcapping", r->family->attn_capped, r->family->attn_cap, &s->attn_cap);
    if (rc == 0)
        rc = read_cap(r, "final_logit_softcapping", r->family->logit_capped, r->family->logit_cap,
                      &s->logit_cap);
    if (r->family->embed_sqrt) {
        s->embed_scale = (float)sqrt((double)s->hidden);
        s->embed_scale_rounded = true;
    }
    return rc;
}

/* ---- the whole --------------------------------------------------------- */

/* The largest of what would be dropped in training. */
static int read_dropout(const struct config_reader *r, struct llama_config *c)
{
    static const char *const keys[] = {"attention_dropout", "resid_pdrop", "embd_pdrop",
                                       "router_jitter_noise"};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        float share;
        int rc = config_get_float(r, keys[i], 0, 0, 1, &share);

        if (rc != 0)
            return rc;
        if (share > c->dropout) {
            c->dropout = share;
            c->dropout_key = keys[i];
        }
    }
    return 0;
}

int config_read_traits(const struct config_reader *r, struct llama_config *c)
{
    struct llama_shape *s = &c->shape;
    bool both = false;
    int rc = read_activation(r, s);

    s->qk_norm = r->family->qk_norm;
    s->post_norms = r->family->post_norms;
    s->no_pre_norms = r->family->no_pre_norms;
    s->norm_offset = r->family->norm_offset;
    if (rc == 0)
        rc = read_biases(r, s);
    if (rc == 0)
        rc = read_unrotated(r, s);
    if (rc == 0)
        rc = read_windows(r, s);
    if (rc == 0)
        rc = read_scales(r, s);
    if (rc == 0)
        rc = read_dropout(r, c);
    if (rc == 0)
        rc = config_get_bool(r, "use_bidirectional_attention", false, &both);
    if (rc == 0 && both)
        return CONFIG_REFUSE(r, "read %s: use_bidirectional_attention is true: not supported", r->path);
    return rc == 0 ? config_read_packed(r, s) : rc;
}
