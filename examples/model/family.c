/* The families of models. See family.h; the defaults are those of transformers' configuration classes. */
#include "examples/model/family.h"

#include <stdio.h>
#include <string.h>

static const struct llama_family families[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .positions = 2048,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 2,
     .bias = LLAMA_BIAS_BY_KEY,
     .mlp_bias = true,
     .activation_key = "hidden_act"},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .kv_heads = 8,
     .positions = 131072,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 2,
     .window = 4096,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_ALL},
    {.model_type = "ministral",
     .architecture = "MinistralForCausalLM",
     .kv_heads = 8,
     .positions = 131072,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 2,
     .window = 4096,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_TYPES},
    {.model_type = "ministral3",
     .architecture = "Ministral3ForCausalLM",
     .kv_heads = 8,
     .head_dim = 128,
     .positions = 262144,
     .rms_eps = 1e-5f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 2,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_ALL},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .kv_heads = 32,
     .positions = 32768,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = -1,
     .eos_id = -1,
     .window = 4096,
     .bias = LLAMA_BIAS_QKV,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_LATE},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .kv_heads = 32,
     .head_dim = 128,
     .positions = 32768,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = -1,
     .eos_id = -1,
     .window = 4096,
     .bias = LLAMA_BIAS_BY_KEY,
     .qk_norm = LLAMA_QK_NORM_HEAD,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_LATE},
    {.model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .positions = 4096,
     .rms_eps = 1e-5f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 32000,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_ALL,
     .fused = true,
     .partial_rope = true,
     .long_rope = true},
    {.model_type = "granite",
     .architecture = "GraniteForCausalLM",
     .positions = 2048,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .bos_id = 1,
     .eos_id = 2,
     .bias = LLAMA_BIAS_BY_KEY,
     .mlp_bias = true,
     .activation_key = "hidden_act",
     .multipliers = true},
    {.model_type = "olmo2",
     .architecture = "Olmo2ForCausalLM",
     .positions = 2048,
     .rms_eps = 1e-5f,
     .rope_theta = 1e4f,
     .bos_id = -1,
     .eos_id = 50279,
     .bias = LLAMA_BIAS_BY_KEY,
     .qk_norm = LLAMA_QK_NORM_ALL,
     .post_norms = true,
     .no_pre_norms = true,
     .activation_key = "hidden_act"},
    {.model_type = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .kv_heads = 4,
     .positions = 32768,
     .rms_eps = 1e-6f,
     .rope_theta = 2e6f,
     .tied = true,
     .bos_id = 128000,
     .eos_id = 128001,
     .bias = LLAMA_BIAS_BY_KEY,
     .mlp_bias = true,
     .activation_key = "hidden_act",
     .windows = LLAMA_WINDOW_NOPE,
     .no_rope = true},
    {.model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .kv_heads = 4,
     .head_dim = 256,
     .positions = 8192,
     .rms_eps = 1e-6f,
     .rope_theta = 1e4f,
     .tied = true,
     .bos_id = 2,
     .eos_id = 1,
     .window = 4096,
     .window_cycle = 2,
     .attn_cap = 50,
     .logit_cap = 30,
     .bias = LLAMA_BIAS_BY_KEY,
     .post_norms = true,
     .norm_offset = 1,
     .activation_key = "hidden_activation",
     .activation = LLAMA_GELU_TANH,
     .windows = LLAMA_WINDOW_CYCLE,
     .query_scalar = true,
     .attn_capped = true,
     .logit_capped = true,
     .embed_sqrt = true},
    {.model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .kv_heads = 4,
     .head_dim = 256,
     .positions = 131072,
     .rms_eps = 1e-6f,
     .rope_theta = 1e6f,
     .local_theta = 1e4f,
     .tied = true,
     .bos_id = 2,
     .eos_id = 1,
     .window = 4096,
     .window_cycle = 6,
     .bias = LLAMA_BIAS_BY_KEY,
     .qk_norm = LLAMA_QK_NORM_HEAD,
     .post_norms = true,
     .norm_offset = 1,
     .activation_key = "hidden_activation",
     .activation = LLAMA_GELU_TANH,
     .windows = LLAMA_WINDOW_CYCLE,
     .query_scalar = true,
     .logit_capped = true,
     .embed_sqrt = true},
};

/* What is known and not covered, by what is missing. */
static const struct {
    const char *model_type, *trait;
} lacking[] = {
    {"mixtral", "experts"},
    {"qwen2_moe", "experts"},
    {"qwen3_moe", "experts"},
    {"olmoe", "experts"},
    {"gpt_oss", "experts"},
    {"phimoe", "experts"},
    {"granitemoe", "experts"},
    {"deepseek_v2", "experts"},
    {"deepseek_v3", "experts"},
    {"llama4", "experts"},
    {"gemma3", "images"},
    {"gemma3n", "images"},
    {"mistral3", "images"},
    {"mllama", "images"},
    {"qwen2_vl", "images"},
    {"qwen2_5_vl", "images"},
    {"qwen3_next", "linear attention"},
    {"mamba", "state spaces"},
    {"mamba2", "state spaces"},
    {"falcon_mamba", "state spaces"},
    {"gpt2", "layer norms"},
    {"phi", "layer norms"},
    {"stablelm", "layer norms"},
    {"gpt_neox", "layer norms"},
    {"cohere", "layer norms"},
    {"starcoder2", "layer norms"},
    {"olmo", "layer norms without weights"},
};

const char *llama_family_lacks(const char *model_type)
{
    for (size_t i = 0; i < sizeof lacking / sizeof lacking[0]; i++)
        if (strcmp(model_type, lacking[i].model_type) == 0)
            return lacking[i].trait;
    return NULL;
}

#define FAMILIES (sizeof families / sizeof families[0])

const struct llama_family *llama_family_at(uint32_t index)
{
    return index < FAMILIES ? &families[index] : NULL;
}

int llama_family_find(const char *model_type, const char *architecture)
{
    for (size_t i = 0; i < FAMILIES; i++)
        if ((model_type && strcmp(families[i].model_type, model_type) == 0) ||
            (architecture && strcmp(families[i].architecture, architecture) == 0))
            return (int)i;
    return -1;
}

void llama_family_list(char *text, size_t bytes)
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < FAMILIES && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", families[i].model_type);
}
