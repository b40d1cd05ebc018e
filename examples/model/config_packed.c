/*
 * quantization_config of config.json: what packed the weights, and how. Which tensors are packed, and with which groups,
 * the files say; here is what they can't. The keys are those of transformers' quantizers and of compressed-tensors.
 */
#include <string.h>

#include "examples/model/config_impl.h"

#define QUANT "quantization_config"

static int read_block(const struct config_reader *r, const char *key, struct llama_scheme *s)
{
    const json_t *block = config_get(r, key);

    if (!block)
        return 0;
    if (json_array_size(block) != 2 || json_integer_value(json_array_get(block, 0)) <= 0 ||
        json_integer_value(json_array_get(block, 1)) <= 0 ||
        json_integer_value(json_array_get(block, 0)) > CONFIG_WIDTH_MAX ||
        json_integer_value(json_array_get(block, 1)) > CONFIG_WIDTH_MAX)
        return CONFIG_REFUSE(r, "read %s: " QUANT ": %s is not two sizes", r->path, key);
    s->block_rows = (uint32_t)json_integer_value(json_array_get(block, 0));
    s->block_columns = (uint32_t)json_integer_value(json_array_get(block, 1));
    return 0;
}

/* Groups of layers; each says how its weights are packed. */
static int read_groups(const struct config_reader *r, struct llama_scheme *s)
{
    json_t *groups = json_object_get(r->object, "config_groups"), *group;
    const char *name;
    bool zeros = json_object_size(groups) > 0;
    int rc = 0;

    json_object_foreach(groups, name, group)
    {
        struct config_reader weights = *r;
        uint32_t bits = 8;

        weights.object = json_object_get(group, "weights");
        if (rc != 0 || !json_is_object(weights.object))
            continue;
        rc = config_get_u32(&weights, "num_bits", 8, 1, 64, &bits);
        if (rc == 0 && bits != 4 && bits != 8)
            return CONFIG_REFUSE(
                r, "read %s: " QUANT ": weights of %" PRIu32 " bits: only 4 and 8 are supported", r->path,
                bits);
        if (rc == 0)
            rc = read_block(&weights, "block_structure", s);
        zeros = zeros && bits == 4 && json_is_false(json_object_get(weights.object, "symmetric"));
    }
    s->zeros = zeros;
    return rc;
}

static int read_bits(const struct config_reader *r)
{
    uint32_t bits;
    int rc = config_get_u32(r, "bits", 4, 0, 64, &bits);

    if (rc == 0 && bits != 4)
        return CONFIG_REFUSE(r, "read %s: " QUANT ": weights of %" PRIu32 " bits: only 4 are supported",
                             r->path, bits);
    return rc;
}

static int read_awq(const struct config_reader *r)
{
    const char *version = json_string_value(config_get(r, "version"));

    if (version && strcasecmp(version, "gemm") != 0)
        return CONFIG_REFUSE(r, "read %s: " QUANT ": version \"%s\" of awq is not supported, only gemm",
                             r->path, llama_quote(version).text);
    return read_bits(r);
}

static int read_gptq(const struct config_reader *r, struct llama_scheme *s)
{
    const char *format = json_string_value(config_get(r, "checkpoint_format"));

    if (format && strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return CONFIG_REFUSE(
            r, "read %s: " QUANT ": checkpoint_format \"%s\" is not supported, only gptq and gptq_v2",
            r->path, llama_quote(format).text);
    s->gptq_v2 = format && strcmp(format, "gptq_v2") == 0;
    s->order = json_is_true(config_get(r, "desc_act"));
    return read_bits(r);
}

static int read_scheme(const struct config_reader *r, struct llama_scheme *s)
{
    const char *method = json_string_value(config_get(r, "quant_method"));

    if (!method)
        return CONFIG_REFUSE(r, "read %s: " QUANT ".quant_method is missing", r->path);
    if (strcmp(method, "fp8") == 0) {
        s->packer = LLAMA_PACKER_FP8;
        return read_block(r, "weight_block_size", s);
    }
    if (strcmp(method, "compressed-tensors") == 0) {
        s->packer = LLAMA_PACKER_COMPRESSED;
        return read_groups(r, s);
    }
    if (strcmp(method, "gptq") == 0) {
        s->packer = LLAMA_PACKER_GPTQ;
        return read_gptq(r, s);
    }
    if (strcmp(method, "awq") == 0) {
        s->packer = LLAMA_PACKER_AWQ;
        return read_awq(r);
    }
    if (strcmp(method, "mxfp4") == 0 && r->family->expert_pairs) {
        s->packer = LLAMA_PACKER_MXFP4;
        return 0;
    }
    return CONFIG_REFUSE(r,
                         "read %s: " QUANT
                         ": quant_method \"%s\" is not supported, only fp8, compressed-tensors, "
                         "gptq, awq, and mxfp4 of gpt_oss",
                         r->path, llama_quote(method).text);
}

int config_read_packed(const struct config_reader *r, struct llama_shape *s)
{
    struct config_reader inner = *r;

    inner.object = config_get(r, QUANT) ? config_get(r, QUANT) : config_get(r, "compression_config");
    if (!inner.object)
        return 0;
    if (!json_is_object(inner.object))
        return CONFIG_REFUSE(r, "read %s: " QUANT " is not an object", r->path);
    return read_scheme(&inner, &s->scheme);
}
