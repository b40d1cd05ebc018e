/* What fuzzing starts from: a right file for each target, which uses as much of the format as a few lines can. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "tests/gguf_fixture.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 8, "
    "\"hidden_size\": 32,"
    " \"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
    "\"num_key_value_heads\": 1,"
    " \"head_dim\": 16, \"hidden_act\": \"silu\", \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05,"
    " \"tie_word_embeddings\": true, \"bos_token_id\": 1, \"eos_token_id\": [2, 3], \"attention_dropout\": "
    "0.0,"
    " \"initializer_range\": 0.02, \"attention_bias\": false, \"mlp_bias\": false, \"torch_dtype\": "
    "\"float32\","
    " \"rope_theta\": 10000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
    "\"low_freq_factor\": 1.0,"
    " \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 32}}";

static const char machine[] = "{\"like\": \"rtx-4090\", \"name\": \"mine\", \"host_bytes\": 68719476736, "
                              "\"host_bps\": 5e10, \"drives\": 2,"
                              " \"drive_read_bps\": 7e9, \"drive_write_bps\": 5e9, \"drive_mixed_bps\": 6e9}";

static const char profile[] =
    "{\"format\": \"liboffload drive profile\", \"version\": 2, \"key\": \"KEY\", \"drive\": \"nvme0n1\", "
    "\"model\": \"\","
    " \"piece_bytes\": 262144, \"depth\": 128, \"window_bytes\": 33554432, \"flags\": 0, \"read_bps\": 1.3e9,"
    " \"write_bps\": 4e9, \"mixed_bps\": 1.1e9, \"first_write_ratio\": 0.5, \"read_latency_ns\": 62103,"
    " \"unwritten_ratio\": 0.9, \"measure_s\": 3.4, \"measured_at\": 1796134850, \"note\": \"\"}";

static const char config_newer[] =
    "{\"model_type\": \"gemma3_text\", \"vocab_size\": 8, \"hidden_size\": 32, \"intermediate_size\": 32,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 16,"
    " \"hidden_activation\": \"gelu_pytorch_tanh\", \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-06,"
    " \"query_pre_attn_scalar\": 16, \"sliding_window\": 8, \"final_logit_softcapping\": null,"
    " \"layer_types\": [\"sliding_attention\", \"full_attention\"], \"dtype\": \"bfloat16\","
    " \"rope_parameters\": {\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0, \"rope_theta\": "
    "1000000.0},"
    " \"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}}}";

static const char config_fused[] =
    "{\"model_type\": \"phi3\", \"vocab_size\": 8, \"hidden_size\": 32, \"intermediate_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"hidden_act\": "
    "\"silu\","
    " \"max_position_embeddings\": 64, \"original_max_position_embeddings\": 32, \"rms_norm_eps\": 1e-05,"
    " \"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1.0, "
    "1.1, 1.2, 1.3],"
    " \"long_factor\": [1.0, 2.0, 3.0, 4.0]}, \"sliding_window\": 16, \"pad_token_id\": 0}";

static const char safetensors[] =
    "{\"__metadata__\": {\"format\": \"pt\"}, "
    "\"model.embed_tokens.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [8,32], \"data_offsets\": [0, 1024]}, "
    "\"model.layers.0.input_layernorm.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32], \"data_offsets\": [1024, 1152]}, "
    "\"model.layers.0.self_attn.q_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32,32], \"data_offsets\": [1152, 5248]}, "
    "\"model.layers.0.self_attn.k_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [16,32], \"data_offsets\": [5248, 7296]}, "
    "\"model.layers.0.self_attn.v_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [16,32], \"data_offsets\": [7296, 9344]}, "
    "\"model.layers.0.self_attn.o_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32,32], \"data_offsets\": [9344, 13440]}, "
    "\"model.layers.0.post_attention_layernorm.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32], \"data_offsets\": [13440, 13568]}, "
    "\"model.layers.0.mlp.gate_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32,32], \"data_offsets\": [13568, 17664]}, "
    "\"model.layers.0.mlp.up_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32,32], \"data_offsets\": [17664, 21760]}, "
    "\"model.layers.0.mlp.down_proj.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32,32], \"data_offsets\": [21760, 25856]}, "
    "\"model.norm.weight\":"
    " {\"dtype\": \"F32\", \"shape\": [32], \"data_offsets\": [25856, 25984]}}";

static const char index_file[] = "{\"metadata\": {\"total_size\": 25984}, \"weight_map\": "
                                 "{\"model.embed_tokens.weight\": \"a.safetensors\","
                                 " \"model.norm.weight\": \"b.safetensors\"}}";

static const char tokenizer[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "{\"id\": 0, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": true, \"rstrip\": false, "
    "\"normalized\": false,"
    " \"special\": true}, {\"id\": 1, \"content\": \"</s>\", \"single_word\": false, \"lstrip\": false, "
    "\"rstrip\": true,"
    " \"normalized\": true, \"special\": false}], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": ["
    "{\"type\": \"NFC\"}, {\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \" \"}]},"
    " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
    "{\"Regex\":"
    " \"'(?:s|ll)|\\\\p{N}{1,3}| ?\\\\p{L}+|\\\\s+(?!\\\\S)\"}, \"behavior\": \"Isolated\", \"invert\": "
    "false},"
    " {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},"
    " \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
    "\"<s>\","
    " \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": "
    "{\"<s>\":"
    " {\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}}, \"decoder\": {\"type\": \"ByteLevel\"},"
    " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": "
    "null,"
    " \"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": true,"
    " \"vocab\": {\"<s>\": 0, \"</s>\": 1, \"h\": 2, \"e\": 3, \"l\": 4, \"o\": 5, \"\\u0120\": 6, \"1\": 7,"
    " \"ll\": 8, \"he\": 9, \"hell\": 10, \"\\u00c3\": 11}, \"merges\": [[\"l\", \"l\"], \"h e\", [\"he\", "
    "\"ll\"]]}}";

static const char tokenizer_spaces[] =
    "{\"added_tokens\": [], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": "
    "\"Prepend\","
    " \"prepend\": \"\\u2581\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
    "\"\\u2581\"}]},"
    " \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": "
    "\"first\","
    " \"split\": true}, \"post_processor\": null, \"decoder\": {\"type\": \"Sequence\", \"decoders\": "
    "[{\"type\":"
    " \"Replace\", \"pattern\": {\"String\": \"\\u2581\"}, \"content\": \" \"}, {\"type\": "
    "\"ByteFallback\"}, {\"type\":"
    " \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}, \"model\": "
    "{\"type\": \"BPE\","
    " \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {\"<unk>\": 0, "
    "\"<0xC3>\": 1,"
    " \"<0xA9>\": 2, \"\\u2581\": 3, \"H\": 4, \"e\": 5, \"\\u2581H\": 6}, \"merges\": [\"\\u2581 H\"]}}";

static const char tokenizer_config[] =
    "{\"add_bos_token\": true, \"add_eos_token\": false, \"bos_token\": \"<s>\", \"eos_token\": "
    "{\"content\": \"</s>\","
    " \"special\": true, \"lstrip\": true}, \"unk_token\": null, \"clean_up_tokenization_spaces\": false,"
    " \"added_tokens_decoder\": {\"1\": {\"content\": \"</s>\", \"lstrip\": false, \"normalized\": false, "
    "\"rstrip\":"
    " true, \"single_word\": true, \"special\": true}, \"12\": {\"content\": \"wor\", \"special\": false}},"
    " \"additional_special_tokens\": [\"wor\"], \"model_max_length\": 64, \"tokenizer_class\":"
    " \"PreTrainedTokenizerFast\", \"chat_template\": \"{% for m in messages %}<s>{{ m['role'] }}\\n{% "
    "generation %}"
    "{{ m['content'] }}</s>{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<s>assistant\\n{% "
    "endif %}\"}";

static const char template[] =
    "{%- set ns = namespace(n=0, last='') -%}\n{% macro line(role, text='') %}{{ role | upper ~ ': ' ~ text "
    "| trim }}"
    "{% endmacro %}\n{# a comment #}{% for m in messages if m.role != 'none' %}{% set ns.n = ns.n + 1 %}"
    "{% if loop.first and m['role'] == 'system' %}{{ m.content[:4] }}{% elif m.role is defined %}"
    "{% generation %}{{ line(m.role, m.content) }}{% endgeneration %}{% else %}{{ raise_exception('no role') "
    "}}"
    "{% endif %}{% if m.tool_calls %}{{ m.tool_calls | tojson(indent=2) }}{% endif %}{% endfor %}"
    "{{ [1, 2.5, ns.n // 2, 7 % 3, -1 ** 2] | join(', ') }}{{ messages | length }} {{ strftime_now('%Y') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last }}"
    "{{ 'a' in 'abc' and not (1 > 2 or none) }}{{ 'x,y'.split(',')[-1] }}{% if add_generation_prompt %}>{% "
    "endif %}";

static const char variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": "
    "\" Hi \"},"
    " {\"role\": \"assistant\", \"content\": \"Yes\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": "
    "{\"a\": [1]}}]}],"
    " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"tools\": null}";

static const char chat[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": "
    "\"Hello\"},"
    " {\"role\": \"assistant\", \"content\": \"hell o 1\"}, {\"role\": \"user\", \"content\": \"\"},"
    " {\"role\": \"assistant\", \"content\": \"ok\"}], \"tools\": []}";

static const char adapter[] =
    "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"base_model_name_or_path\": \"base\", \"r\": 2,"
    " \"lora_alpha\": 4.0, \"lora_dropout\": 0.1, \"target_modules\": [\"q_proj\"], \"use_rslora\": true,"
    " \"use_dora\": false, \"bias\": \"none\", \"fan_in_fan_out\": false, \"inference_mode\": true,"
    " \"init_lora_weights\": true, \"modules_to_save\": null, \"rank_pattern\": {}, \"alpha_pattern\": {},"
    " \"layers_to_transform\": null, \"exclude_modules\": null}";

static const char adapter_weights[] = "{\"__metadata__\": {\"format\": \"pt\"}, "
                                      "\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":"
                                      " {\"dtype\": \"F32\", \"shape\": [2, 32], \"data_offsets\": [0, 256]},"
                                      " \"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight\": "
                                      "{\"dtype\": \"F32\", \"shape\": [32, 2],"
                                      " \"data_offsets\": [256, 512]}}";

/* A mixture of experts, with packed weights beside it. */
static const char config_experts[] =
    "{\"model_type\": \"qwen3_moe\", \"vocab_size\": 8, \"hidden_size\": 32, \"intermediate_size\": 32,"
    " \"moe_intermediate_size\": 16, \"num_experts\": 4, \"num_experts_per_tok\": 2, \"norm_topk_prob\": "
    "true,"
    " \"decoder_sparse_step\": 1, \"mlp_only_layers\": [1], \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2,"
    " \"num_key_value_heads\": 1, \"head_dim\": 16, \"hidden_act\": \"silu\", \"max_position_embeddings\": "
    "64,"
    " \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, \"router_aux_loss_coef\": 0.001}";

static const char config_packed[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 32, \"intermediate_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"hidden_act\": \"silu\", \"rms_norm_eps\": "
    "1e-05,"
    " \"max_position_embeddings\": 64, \"quantization_config\": {\"quant_method\": \"compressed-tensors\","
    " \"format\": \"pack-quantized\", \"ignore\": [\"lm_head\"], \"config_groups\": {\"group_0\": "
    "{\"targets\":"
    " [\"Linear\"], \"weights\": {\"num_bits\": 4, \"type\": \"int\", \"symmetric\": true, \"strategy\": "
    "\"group\","
    " \"group_size\": 32}, \"input_activations\": null}}}}";

static const char config_gptq[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 32, \"intermediate_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"hidden_act\": \"silu\", \"rms_norm_eps\": "
    "1e-05,"
    " \"max_position_embeddings\": 64, \"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4,"
    " \"group_size\": 32, \"desc_act\": true, \"sym\": true, \"checkpoint_format\": \"gptq_v2\"}}";

const struct fuzz_seed fuzz_seeds[] = {
    {"config", config},
    {"config", config_newer},
    {"config", config_fused},
    {"config", config_experts},
    {"config", config_packed},
    {"config", config_gptq},
    {"generation",
     "{\"bos_token_id\": 1, \"eos_token_id\": [2, 7], \"temperature\": 0.6, \"do_sample\": true}"},
    {"safetensors", safetensors},
    {"index", index_file},
    {"tokenizer", tokenizer},
    {"tokenizer", tokenizer_spaces},
    {"tokenizer_config", tokenizer_config},
    {"regex",
     "(?i:'s|'t|'re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}]+[\\r\\n]*|\\s+(?!\\S)|\\s+"},
    {"regex", "(?<=[a-z&&[^l]])(?>o|w)++?|^\\h*$|\\bH(?=e){0,2}[[:alpha:]\\x{41}-\\u0043]*?(?m:.)"},
    {"template", template},
    {"variables", variables},
    {"chat", chat},
    {"machine", machine},
    {"profile", profile},
    {"adapter", adapter},
    {"adapter_weights", adapter_weights},
    {NULL, NULL},
};

/* ---- GGUF ---------------------------------------------------------------------- */

static void add_number(struct gguf_file *f, const char *key, uint32_t type, uint32_t value)
{
    gguf_add_key(f, key, type);
    gguf_add32(f, value);
}

static void add_texts(struct gguf_file *f, const char *key, const char *const *texts, size_t count)
{
    gguf_add_key(f, key, 9);
    gguf_add32(f, 8);
    gguf_add64(f, count);
    for (size_t i = 0; i < count; i++)
        gguf_add_text(f, texts[i]);
}

static void add_words(struct gguf_file *f, const char *key, uint32_t type, const uint32_t *words,
                      size_t count)
{
    gguf_add_key(f, key, 9);
    gguf_add32(f, type);
    gguf_add64(f, count);
    gguf_add(f, words, count * sizeof *words);
}

static void add_keys(struct gguf_file *f)
{
    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x41>", "\xe2\x96\x81", "a", "b", "ab"};
    static const char *const merges[] = {"a b"};
    static const uint32_t types[] = {2, 3, 3, 6, 1, 1, 1, 4},
                          scores[] = {0, 0, 0, 0, 0xbf800000, 0xc0000000, 0xc0400000, 0xc0800000};

    gguf_add_key(f, "general.architecture", 8);
    gguf_add_text(f, "llama");
    add_number(f, "llama.block_count", 4, 1);
    add_number(f, "llama.embedding_length", 4, 32);
    add_number(f, "llama.attention.head_count", 4, 2);
    add_number(f, "llama.attention.head_count_kv", 4, 1);
    add_number(f, "llama.feed_forward_length", 4, 32);
    add_number(f, "llama.context_length", 4, 64);
    add_number(f, "llama.attention.layer_norm_rms_epsilon", 6, 0x3727c5ac); /* 1e-5 */
    gguf_add_key(f, "tokenizer.ggml.model", 8);
    gguf_add_text(f, "llama");
    add_texts(f, "tokenizer.ggml.tokens", tokens, 8);
    add_texts(f, "tokenizer.ggml.merges", merges, 1);
    add_words(f, "tokenizer.ggml.token_type", 5, types, 8);
    add_words(f, "tokenizer.ggml.scores", 6, scores, 8);
    add_number(f, "tokenizer.ggml.bos_token_id", 4, 1);
    add_number(f, "tokenizer.ggml.eos_token_id", 4, 2);
}

unsigned char *fuzz_gguf(size_t *bytes)
{
    static const struct {
        const char *name;
        uint64_t columns, rows;
    } tensors[] = {
        {"token_embd.weight", 32, 8},     {"blk.0.attn_norm.weight", 32, 1},
        {"blk.0.attn_q.weight", 32, 32},  {"blk.0.attn_k.weight", 32, 16},
        {"blk.0.attn_v.weight", 32, 16},  {"blk.0.attn_output.weight", 32, 32},
        {"blk.0.ffn_norm.weight", 32, 1}, {"blk.0.ffn_gate.weight", 32, 32},
        {"blk.0.ffn_up.weight", 32, 32},  {"blk.0.ffn_down.weight", 32, 32},
        {"output_norm.weight", 32, 1},
    };
    struct gguf_file *f = calloc(1, sizeof *f);
    unsigned char *out;
    uint64_t at = 0;

    if (!f)
        abort();
    gguf_begin(f, sizeof tensors / sizeof *tensors, 15);
    add_keys(f);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        bool norm = tensors[i].rows == 1;

        gguf_add_tensor(f, tensors[i].name, norm ? 1 : 2, (uint64_t[]){tensors[i].columns, tensors[i].rows},
                        norm ? 0 : 8 /* Q8_0 */, at);
        at += norm ? 128 : (tensors[i].rows * 34 + 31) / 32 * 32;
    }
    gguf_end(f, 32, at);
    *bytes = f->count;
    out = malloc(f->count);
    if (!out)
        abort();
    memcpy(out, f->bytes, f->count);
    free(f);
    return out;
}
