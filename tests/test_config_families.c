/*
 * What config.json says of each family. Proves that
 *  - keys become traits: windows by number, pattern, list and layer, biases, norms, caps, scales, rotary forms under both
 *    spellings; what is left out has the family's default, and null is not left out;
 *  - a key that another family has does not count where it has no say;
 *  - what is not covered is refused by its name;
 *  - config.json is read as Python reads it, and generation_config.json has the last word on ends of text.
 * The numbers that come of it: tests/test_families.c. Llama's own keys: tests/test_config.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/config.h"
#include "examples/model/family.h"
#include "include/offload.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

#define SIZES                                                                                                \
    "\"num_hidden_layers\":6,\"hidden_size\":64,\"num_attention_heads\":4,\"intermediate_size\":96,"         \
    "\"num_key_value_heads\":2,\"vocab_size\":300"

static char root[256];

static int setup(void **state)
{
    (void)state;
    return temporary_dir("config-families", root, sizeof root);
}

static int teardown(void **state)
{
    (void)state;
    files_remove(strdup(root));
    return 0;
}

/* Loads a configuration of these keys beside the sizes. */
static int load(const char *keys, struct llama_config *out, char *error, size_t error_bytes)
{
    char *dir = files_dir(root, "model"), text[4096];
    int rc;

    snprintf(text, sizeof text, "{" SIZES ",%s}", keys);
    files_put(dir, "config.json", text, strlen(text));
    rc = llama_config_load(dir, out, error, error_bytes);
    files_remove(dir);
    return rc;
}

static struct llama_config loaded(const char *keys)
{
    struct llama_config c;
    char error[1024] = "";

    if (load(keys, &c, error, sizeof error) != 0)
        fail_msg("%s: refused: %s", keys, error);
    return c;
}

/* ---- windows --------------------------------------------------------------- */

/* Windows of the six layers. */
static const struct {
    const char *keys;
    uint32_t windows[6];
} windows[] = {
    {"\"model_type\":\"llama\",\"sliding_window\":8", {0, 0, 0, 0, 0, 0}},
    {"\"model_type\":\"mistral\",\"sliding_window\":8", {8, 8, 8, 8, 8, 8}},
    {"\"model_type\":\"mistral\",\"sliding_window\":null", {0, 0, 0, 0, 0, 0}},
    {"\"model_type\":\"mistral\"", {4096, 4096, 4096, 4096, 4096, 4096}},
    {"\"model_type\":\"phi3\"", {0, 0, 0, 0, 0, 0}},
    {"\"model_type\":\"qwen2\",\"sliding_window\":8,\"max_window_layers\":2", {0, 0, 0, 0, 0, 0}},
    {"\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":2",
     {0, 0, 8, 8, 8, 8}},
    {"\"model_type\":\"qwen3\",\"use_sliding_window\":true,\"sliding_window\":8,\"layer_types\":[\"sliding_"
     "attention\","
     "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"]",
     {8, 0, 0, 0, 0, 8}},
    {"\"model_type\":\"gemma2\",\"sliding_window\":8", {8, 0, 8, 0, 8, 0}},
    {"\"model_type\":\"gemma3_text\",\"sliding_window\":8", {8, 8, 8, 8, 8, 0}},
    {"\"model_type\":\"gemma3_text\",\"sliding_window\":8,\"sliding_window_pattern\":3", {8, 8, 0, 8, 8, 0}},
    {"\"model_type\":\"smollm3\",\"use_sliding_window\":true,\"sliding_window\":8,\"no_rope_layer_interval\":"
     "3",
     {0, 0, 8, 0, 0, 8}},
    {"\"model_type\":\"smollm3\",\"sliding_window\":8,\"no_rope_layer_interval\":3", {0, 0, 0, 0, 0, 0}},
};

static void reads_windows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        struct llama_config c = loaded(windows[i].keys);

        for (uint32_t layer = 0; layer < 6; layer++)
            if (llama_layer_window(&c.shape, layer) != windows[i].windows[layer])
                fail_msg("%s: layer %u sees %u keys", windows[i].keys, layer,
                         llama_layer_window(&c.shape, layer));
    }
}

/* ---- other traits ------------------------------------------------------------ */

static void reads_biases_and_norms(void **state)
{
    struct llama_config c = loaded("\"model_type\":\"qwen2\"");

    (void)state;
    assert_true(c.shape.qkv_bias && !c.shape.o_bias && !c.shape.mlp_bias);
    c = loaded("\"model_type\":\"qwen2\",\"num_key_value_heads\":null"); /* left out it would be 32 */
    assert_int_equal(c.shape.kv_heads, 4);
    c = loaded("\"model_type\":\"llama\",\"attention_bias\":true");
    assert_true(c.shape.qkv_bias && c.shape.o_bias && !c.shape.mlp_bias && c.as_read);
    c = loaded(
        "\"model_type\":\"mistral\",\"attention_bias\":true,\"mlp_bias\":true"); /* which it does not have */
    assert_true(!c.shape.qkv_bias && !c.shape.o_bias && !c.shape.mlp_bias);
    c = loaded("\"model_type\":\"olmo2\"");
    assert_true(c.shape.no_pre_norms && c.shape.post_norms && c.shape.qk_norm == LLAMA_QK_NORM_ALL);
    c = loaded("\"model_type\":\"gemma2\"");
    assert_true(!c.shape.no_pre_norms && c.shape.post_norms && c.shape.norm_offset == 1 && c.shape.tied);
    assert_true(c.shape.activation == LLAMA_GELU_TANH && c.shape.head_dim == 256);
    c = loaded("\"model_type\":\"gemma2\",\"hidden_act\":\"silu\",\"hidden_activation\":\"gelu\"");
    assert_int_equal(c.shape.activation, LLAMA_GELU);
}

static void reads_scales(void **state)
{
    struct llama_config c = loaded("\"model_type\":\"gemma2\"");

    (void)state;
    assert_true(c.shape.attn_cap == 50 && c.shape.logit_cap == 30 && c.shape.embed_scale == 8);
    assert_true(c.shape.embed_scale_rounded && c.shape.attn_scale == 1.0f / 16);
    c = loaded("\"model_type\":\"gemma2\",\"attn_logit_softcapping\":null,\"final_logit_softcapping\":null");
    assert_true(c.shape.attn_cap == 0 && c.shape.logit_cap == 0);
    c = loaded("\"model_type\":\"gemma3_text\",\"attn_logit_softcapping\":50,\"final_logit_softcapping\":30");
    assert_true(c.shape.attn_cap == 0 &&
                c.shape.logit_cap == 30); /* it has no cap of scores, whatever the key says */
    c = loaded("\"model_type\":\"granite\",\"embedding_multiplier\":12,\"residual_multiplier\":0.25,"
               "\"attention_multiplier\":0.5,\"logits_scaling\":8");
    assert_true(c.shape.embed_scale == 12 && c.shape.branch_scale == 0.25f && c.shape.attn_scale == 0.5f);
    assert_true(c.shape.logit_scale == 1.0f / 8 && !c.shape.embed_scale_rounded);
    c = loaded("\"model_type\":\"granite\"");
    assert_true(c.shape.embed_scale == 0 && c.shape.branch_scale == 0 && c.shape.attn_scale == 1);
    c = loaded("\"model_type\":\"llama\",\"embedding_multiplier\":12,\"query_pre_attn_scalar\":4");
    assert_true(c.shape.embed_scale == 0 && c.shape.attn_scale == 0);
}

static void reads_rotary_forms(void **state)
{
    struct llama_config c =
        loaded("\"model_type\":\"gemma3_text\",\"rope_theta\":5e5,\"rope_local_base_freq\":2e4,"
               "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}");

    (void)state;
    assert_true(c.shape.rope_theta == 5e5f && c.shape.local_theta == 2e4f && c.shape.rope.factor == 8);
    assert_true(c.shape.rope.kind == LLAMA_ROPE_LINEAR && c.shape.local_rope.kind == LLAMA_ROPE_PLAIN);
    c = loaded(
        "\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\","
        "\"rope_theta\":7e5},\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}");
    assert_true(c.shape.rope_theta == 7e5f && c.shape.local_theta == 1e4f);
    assert_true(c.shape.rope.kind == LLAMA_ROPE_PLAIN && c.shape.local_rope.kind == LLAMA_ROPE_LINEAR);
    c = loaded("\"model_type\":\"smollm3\"");
    assert_true(c.shape.rope_theta == 2e6f && llama_layer_in(c.shape.unrotated, 3));
    assert_false(llama_layer_in(c.shape.unrotated, 4));
    c = loaded(
        "\"model_type\":\"phi3\",\"partial_rotary_factor\":0.5,\"original_max_position_embeddings\":100,"
        "\"max_position_embeddings\":400,\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,2,3,4],"
        "\"long_factor\":[5,6,7,8]}");
    assert_true(c.shape.rope.kind == LLAMA_ROPE_LONG && c.shape.rope_dims == 8);
    assert_true(c.shape.rope.near_factors[3] == 4 && c.shape.rope.far_factors[0] == 5);
    assert_true(fabs((double)c.shape.rope.attention_factor - sqrt(1 + log(4) / log(100))) < 1e-6);
    assert_int_equal(llama_shape_positions(&c.shape, 100), 100); /* a text does not cross the original ones */
    assert_int_equal(llama_shape_positions(&c.shape, 101), 400);
    c = loaded(
        "\"model_type\":\"ministral3\",\"max_position_embeddings\":400,\"rope_parameters\":{\"rope_type\":"
        "\"yarn\",\"factor\":4,\"original_max_position_embeddings\":100,\"llama_4_scaling_beta\":0.1}");
    assert_int_equal(c.shape.max_positions, 100);
    assert_true(c.shape.rope.factor == 4);
}

/* ---- refused ----------------------------------------------------------------- */

static const struct {
    const char *keys, *words[2];
} refused[] = {
    {"\"model_type\":\"phimoe\"", {"phimoe", "experts"}},
    {"\"model_type\":\"mixtral\",\"num_local_experts\":4,\"num_experts_per_tok\":5",
     {"num_experts_per_tok is 5", "1 to 4"}},
    {"\"model_type\":\"mixtral\",\"num_local_experts\":0", {"num_local_experts is 0"}},
    {"\"model_type\":\"qwen3_moe\",\"num_local_experts\":16,\"num_experts\":32",
     {"num_local_experts is 16", "num_experts is 32"}},
    {"\"model_type\":\"qwen3_moe\",\"mlp_only_layers\":[0,\"a\"]", {"mlp_only_layers", "item 1"}},
    {"\"model_type\":\"qwen3_moe\",\"mlp_only_layers\":3", {"mlp_only_layers", "list"}},
    {"\"model_type\":\"olmoe\",\"clip_qkv\":8.0", {"clip_qkv"}},
    {"\"model_type\":\"gpt_oss\"", {"rope_parameters", "rope_scaling"}},
    {"\"model_type\":\"gemma3\"", {"gemma3", "images"}},
    {"\"model_type\":\"gpt2\"", {"gpt2", "layer norms"}},
    {"\"model_type\":\"llama\",\"partial_rotary_factor\":0.5", {"partial_rotary_factor", "llama"}},
    {"\"model_type\":\"phi3\",\"partial_rotary_factor\":2.0", {"partial_rotary_factor", "2"}},
    {"\"model_type\":\"phi3\",\"partial_rotary_factor\":0.2", {"partial_rotary_factor 0.2", "even"}},
    {"\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":["
     "1]}",
     {"short_factor has 1", "8"}},
    {"\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1]}",
     {"short_factor", "list"}},
    {"\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0],"
     "\"long_factor\":[1,1,1,1,1,1,1,1]}",
     {"short_factor", "number 7"}},
    {"\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\"]", {"layer_types", "6 layers"}},
    {"\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"chunked_attention\",\"full_attention\","
     "\"full_attention\",\"full_attention\",\"full_attention\"]",
     {"layer 1", "chunked_attention"}},
    {"\"model_type\":\"mistral\",\"sliding_window\":0", {"sliding_window is 0"}},
    {"\"model_type\":\"smollm3\",\"no_rope_layers\":[1]", {"no_rope_layers", "6 layers"}},
    {"\"model_type\":\"smollm3\",\"no_rope_layer_interval\":0", {"no_rope_layer_interval is 0"}},
    {"\"model_type\":\"gemma3_text\",\"use_bidirectional_attention\":true", {"use_bidirectional_attention"}},
    {"\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"rope_type\":\"default\"}", {"full_attention"}},
    {"\"model_type\":\"gemma2\",\"attn_logit_softcapping\":-1", {"attn_logit_softcapping is -1"}},
    {"\"model_type\":\"granite\",\"residual_multiplier\":0", {"residual_multiplier is 0"}},
    {"\"model_type\":\"granite\",\"logits_scaling\":0", {"logits_scaling is 0"}},
    {"\"model_type\":\"qwen3\",\"rope_parameters\":{\"full_attention\":{}}", {"types of layers", "qwen3"}},
    {"\"model_type\":\"llama\",\"rope_theta\":Infinity", {"rope_theta", "not a number"}},
    {"\"model_type\":\"gemma2\",\"hidden_activation\":\"relu\"", {"hidden_activation", "relu"}},
};

static void refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct llama_config c;
        char error[1024] = "";
        int rc = load(refused[i].keys, &c, error, sizeof error);

        if (rc != -ENOTSUP)
            fail_msg("%s: %d: %s", refused[i].keys, rc, error);
        for (size_t w = 0; w < 2 && refused[i].words[w]; w++)
            if (!strstr(error, refused[i].words[w]))
                fail_msg("%s: no %s in the sentence: %s", refused[i].keys, refused[i].words[w], error);
    }
}

/* ---- as others read it --------------------------------------------------------- */

static void reads_as_python_does(void **state)
{
    struct llama_config c = loaded("\"model_type\":\"qwen2\",\"vocab_size\":500,\"max_weight\":Infinity,"
                                   "\"least\":-Infinity,\"none\":NaN,\"text\":\"NaN \\\" Infinity\"");

    (void)state;
    assert_int_equal(c.shape.vocab, 500); /* the last one */
    c = loaded("\"model_type\":\"mistral\",\"architectures\":[\"LlamaForCausalLM\"],\"sliding_window\":8");
    assert_int_equal(llama_layer_window(&c.shape, 0), 8); /* model_type decides */
    c = loaded("\"architectures\":[\"Other\",\"Qwen2ForCausalLM\"]");
    assert_true(c.shape.qkv_bias);
    c = loaded("\"model_type\":\"llama\",\"attention_dropout\":0.25");
    assert_true(c.dropout == 0.25f);
    assert_string_equal(c.dropout_key, "attention_dropout");
    c = loaded("\"model_type\":\"phi3\",\"resid_pdrop\":0.5");
    assert_string_equal(c.dropout_key, "resid_pdrop");
}

static void generation_settings_have_the_last_word(void **state)
{
    static const struct {
        const char *text;
        uint32_t count;
        int32_t last;
    } cases[] = {{"{\"eos_token_id\":[5,6]}", 2, 6},
                 {"{\"eos_token_id\":9}", 1, 9},
                 {"{\"eos_token_id\":null}", 1, 2},
                 {"{}", 1, 2}};
    static const char *const config = "{" SIZES ",\"model_type\":\"llama\"}";

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *dir = files_dir(root, "model"), error[1024] = "";
        struct llama_config c;

        files_put(dir, "config.json", config, strlen(config));
        files_put(dir, "generation_config.json", cases[i].text, strlen(cases[i].text));
        if (llama_config_load(dir, &c, error, sizeof error) != 0)
            fail_msg("%s: %s", cases[i].text, error);
        assert_int_equal(c.eos_count, cases[i].count);
        assert_int_equal(c.eos_ids[c.eos_count - 1], cases[i].last);
        files_remove(dir);
    }
}

static void lists_the_families(void **state)
{
    char text[256];

    (void)state;
    llama_family_list(text, sizeof text);
    for (uint32_t i = 0; llama_family_at(i); i++) {
        assert_non_null(strstr(text, llama_family_at(i)->model_type));
        assert_int_equal(llama_family_find(llama_family_at(i)->model_type, NULL), i);
        assert_int_equal(llama_family_find(NULL, llama_family_at(i)->architecture), i);
        assert_null(llama_family_lacks(llama_family_at(i)->model_type));
    }
    assert_int_equal(llama_family_find("bloom", "BloomForCausalLM"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_windows),
        cmocka_unit_test(reads_biases_and_norms),
        cmocka_unit_test(reads_scales),
        cmocka_unit_test(reads_rotary_forms),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(reads_as_python_does),
        cmocka_unit_test(generation_settings_have_the_last_word),
        cmocka_unit_test(lists_the_families),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
