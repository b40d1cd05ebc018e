/* Mixtures of experts, out of config.json. See config.h; keys and defaults are those of transformers' classes. */
#include "examples/model/config_impl.h"

/* The number of experts has two names; a file that has both means the same by them. */
static int read_counts(const struct config_reader *r, struct llama_shape *s)
{
    static const char *const keys[] = {"num_local_experts", "num_experts"};
    const struct llama_family *f = r->family;
    uint32_t counts[2];
    int rc = 0;

    for (int i = 0; rc == 0 && i < 2; i++)
        rc = config_get_u32(r, keys[i], f->experts, 1, LLAMA_EXPERTS_MAX, &counts[i]);
    if (rc != 0)
        return rc;
    if (config_get(r, keys[0]) && config_get(r, keys[1]) && counts[0] != counts[1])
        return CONFIG_REFUSE(r, "read %s: %s is %" PRIu32 ", %s is %" PRIu32, r->path, keys[0], counts[0],
                             keys[1], counts[1]);
    s->experts = config_get(r, keys[0]) ? counts[0] : counts[1];
    return config_get_u32(r, "num_experts_per_tok", f->experts_used, 1, s->experts, &s->experts_used);
}

/* Layers whose feed-forward is none of experts. */
static int read_dense(const struct config_reader *r, struct llama_shape *s)
{
    const json_t *list = config_get(r, "mlp_only_layers"), *item;
    uint32_t step = 1;
    size_t i;
    int rc;

    if (!r->family->dense_layers)
        return 0;
    rc = config_get_u32(r, "decoder_sparse_step", step, 1, LLAMA_LAYERS_MAX, &step);
    for (uint32_t layer = 0; rc == 0 && layer < s->layers; layer++)
        if ((layer + 1) % step != 0)
            llama_layer_put(s->dense, layer);
    if (rc == 0 && list && !json_is_array(list))
        return CONFIG_REFUSE(r, "read %s: mlp_only_layers is not a list", r->path);
    json_array_foreach(list, i, item)
    {
        if (!json_is_integer(item))
            return CONFIG_REFUSE(r, "read %s: mlp_only_layers: item %zu is not a number", r->path, i);
        if (json_integer_value(item) >= 0 && json_integer_value(item) < (json_int_t)s->layers)
            llama_layer_put(s->dense, (uint32_t)json_integer_value(item));
    }
    return rc;
}

/* gpt_oss. Its RoPE, where the file says nothing, would be yarn with numbers of its own. */
static int read_pairs(const struct config_reader *r, struct llama_shape *s)
{
    int rc;

    s->router_chosen = r->family->router_chosen;
    s->router_bias = s->expert_pairs = r->family->expert_pairs;
    s->sinks = r->family->sinks;
    if (!s->expert_pairs)
        return 0;
    if (!config_get(r, "rope_parameters") && !config_get(r, "rope_scaling"))
        return CONFIG_REFUSE(r, "read %s: neither rope_parameters nor rope_scaling is there", r->path);
    rc = config_get_float(r, "swiglu_alpha", 1.702, 1e-3, 1e3, &s->unit_alpha);
    return rc == 0 ? config_get_float(r, "swiglu_limit", 7, 1e-3, 1e6, &s->unit_limit) : rc;
}

int config_read_experts(const struct config_reader *r, struct llama_config *c)
{
    const struct llama_family *f = r->family;
    struct llama_shape *s = &c->shape;
    int rc;

    if (f->experts == 0)
        return 0;
    if (config_get(r, "clip_qkv"))
        return CONFIG_REFUSE(r, "read %s: clip_qkv: not supported", r->path);
    rc = read_counts(r, s);
    s->expert_ffn = s->ffn;
    if (rc == 0 && f->expert_ffn)
        rc = config_get_u32(r, "moe_intermediate_size", f->expert_ffn, 1, CONFIG_WIDTH_MAX, &s->expert_ffn);
    if (rc == 0)
        rc = read_dense(r, s);
    if (rc == 0)
        rc = read_pairs(r, s);
    s->router_normed = f->router_normed;
    if (rc == 0 && f->router_normed_key)
        rc = config_get_bool(r, "norm_topk_prob", false, &s->router_normed);
    if (rc == 0)
        rc = config_get_bool(r, "output_router_logits", false, &c->router_loss);
    return rc;
}
