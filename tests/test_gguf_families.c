/*
 * GGUF files of each architecture beside directories of the same family with the same numbers, whose logits
 * tests/test_families.c holds to transformers: the logits are equal, where the file has keys, names and values as
 * llama.cpp's converter writes them (rows of Q and K in pairs, 1 added to Gemma's norms, matrices in one). Against
 * transformers itself: tools/check_gguf_families.py.
 *
 * Negative controls: a file without what the converter does to values, or without one of its keys, gives other logits.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/model/generator.h"
#include "tests/core_fixture.h"
#include "tests/gguf_fixture.h"
#include "tests/llama_reference.h"
#include "tests/model_fixture.h"

enum { VOCAB = 40, TOKENS = 24, U32 = 4, F32 = 6, TEXT = 8, ERROR = 512, KEYS = 8 };

#define BASE                                                                                                 \
    "\"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 4, \"num_attention_heads\": 2, " \
    "\"num_key_value_heads\": 1, \"vocab_size\": 40, \"max_position_embeddings\": 128, \"rms_norm_eps\": "   \
    "1e-5"

struct key {
    const char *key, *text;
    float number;
    uint32_t integer;
};

static const struct architecture {
    const char *name, *config;
    uint32_t head;
    bool pairs, plus_one;
    struct key keys[KEYS];
} all[] = {
    {.name = "qwen2",
     .config = "\"model_type\": \"qwen2\", \"rope_theta\": 5000, \"rope_scaling\": {\"rope_type\": \"yarn\", "
               "\"factor\": 4, "
               "\"original_max_position_embeddings\": 16}",
     .head = 16,
     .keys = {{"rope.freq_base", NULL, 5000, 0},
              {"rope.scaling.type", "yarn", 0, 0},
              {"rope.scaling.factor", NULL, 4, 0},
              {"rope.scaling.original_context_length", NULL, 0, 16}}},
    {.name = "qwen3", .config = "\"model_type\": \"qwen3\", \"head_dim\": 24", .head = 24},
    {.name = "gemma2",
     .config = "\"model_type\": \"gemma2\", \"head_dim\": 24, \"query_pre_attn_scalar\": 24, "
               "\"sliding_window\": 8, "
               "\"attn_logit_softcapping\": 4, \"final_logit_softcapping\": 8",
     .head = 24,
     .plus_one = true,
     .keys = {{"attention.sliding_window", NULL, 0, 8},
              {"attn_logit_softcapping", NULL, 4, 0},
              {"final_logit_softcapping", NULL, 8, 0}}},
    {.name = "gemma3",
     .config = "\"model_type\": \"gemma3_text\", \"head_dim\": 24, \"query_pre_attn_scalar\": 24, "
               "\"sliding_window\": 8, "
               "\"sliding_window_pattern\": 2, \"rope_theta\": 100000, \"rope_local_base_freq\": 3000, "
               "\"rope_scaling\": "
               "{\"rope_type\": \"linear\", \"factor\": 8}",
     .head = 24,
     .plus_one = true,
     .keys = {{"attention.sliding_window", NULL, 0, 8},
              {"attention.sliding_window_pattern", NULL, 0, 2},
              {"rope.freq_base", NULL, 100000, 0},
              {"rope.freq_base_swa", NULL, 3000, 0},
              {"rope.scaling.type", "linear", 0, 0},
              {"rope.scaling.factor", NULL, 8, 0}}},
    {.name = "phi3",
     .config = "\"model_type\": \"phi3\", \"sliding_window\": 8, \"rope_theta\": 10000, "
               "\"partial_rotary_factor\": 0.5",
     .head = 16,
     .keys = {{"attention.sliding_window", NULL, 0, 8}, {"rope.dimension_count", NULL, 0, 8}}},
    {.name = "granite",
     .config = "\"model_type\": \"granite\", \"embedding_multiplier\": 6, \"residual_multiplier\": 0.5, "
               "\"attention_multiplier\": 0.125, \"logits_scaling\": 4",
     .head = 16,
     .pairs = true,
     .keys = {{"embedding_scale", NULL, 6, 0},
              {"residual_scale", NULL, 0.5f, 0},
              {"attention.scale", NULL, 0.125f, 0},
              {"logit_scale", NULL, 4, 0}}},
    {.name = "olmo2", .config = "\"model_type\": \"olmo2\"", .head = 16},
    {.name = "smollm3",
     .config = "\"model_type\": \"smollm3\", \"tie_word_embeddings\": false, \"rope_theta\": 10000",
     .head = 16,
     .pairs = true,
     .keys = {{"rope.freq_base", NULL, 10000, 0}}},
};

#define COUNT (sizeof all / sizeof all[0])

static char *dir, *file;

/* ---- the directory ------------------------------------------------------------- */

static uint32_t stream_of(const char *name)
{
    uint32_t h = 0x811c9dc5u;

    while (*name)
        h = (h ^ (unsigned char)*name++) * 0x01000193u;
    return h;
}

/* Norms lie about 1 as they are used. */
static float *values_of(const struct llama_stored *s, float offset)
{
    bool norm = strstr(s->name, "norm.weight") != NULL;

    return ref_random(s->elems, stream_of(s->name), strstr(s->name, "embed") ? 1 : 0.25f,
                      norm ? 1 - offset : 0);
}

static void put_directory(const struct architecture *a, struct llama_config *config)
{
    char text[2048], error[ERROR];
    json_t *tensors = json_object();
    char *path = files_path(dir, "model.safetensors");
    unsigned char *bytes;
    size_t count, at;
    struct llama_stored s;

    snprintf(text, sizeof text, "{" BASE ", %s}", a->config);
    files_put_json(dir, "config.json", json_loads(text, 0, NULL));
    if (llama_config_load(dir, config, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (uint32_t i = 0; i < llama_tensor_count(&config->shape); i += s.count) {
        llama_stored_at(&config->shape, i, &s);
        json_object_set_new(tensors, s.name, files_tensor("F32", s.dims, s.shape));
    }
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    bytes = files_get(path, &count);
    at = 8 + bytes[0] + ((size_t)bytes[1] << 8);
    for (uint32_t i = 0; i < llama_tensor_count(&config->shape); i += s.count) {
        float *v;

        llama_stored_at(&config->shape, i, &s);
        v = values_of(&s, config->shape.norm_offset);
        memcpy(bytes + at, v, s.elems * sizeof *v);
        at += s.elems * sizeof *v;
        free(v);
    }
    assert_int_equal(at, count);
    gguf_put(path, bytes, count); /* as of long ago */
    free(bytes);
    free(path);
}

/* ---- the file -------------------------------------------------------------------- */

/* gguf-py's names. */
static void name_of(const char *hf, char *out, size_t bytes)
{
    static const char *const names[][2] = {
        {"input_layernorm", "attn_norm"},
        {"self_attn.qkv_proj", "attn_qkv"},
        {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_up_proj", "ffn_up"},
        {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
        {"pre_feedforward_layernorm", "ffn_norm"},
        {"post_feedforward_layernorm", "post_ffw_norm"},
    };
    static const char *const outside[][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                             {"model.norm.weight", "output_norm.weight"},
                                             {"lm_head.weight", "output.weight"}};
    unsigned layer;
    char rest[96];

    for (size_t i = 0; i < 3; i++)
        if (strcmp(hf, outside[i][0]) == 0)
            snprintf(out, bytes, "%s", outside[i][1]);
    if (sscanf(hf, "model.layers.%u.%95s", &layer, rest) != 2)
        return;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i][0]);

        if (strncmp(rest, names[i][0], n) == 0 && rest[n] == '.')
            snprintf(out, bytes, "blk.%u.%s%s", layer, names[i][1], rest + n);
    }
}

/* Where there are norms on both sides, or behind only, this one is behind attention. */
static void post_attention(const struct llama_shape *shape, const char *hf, char *out, size_t bytes)
{
    unsigned layer;

    if (strstr(hf, "post_attention_layernorm") && sscanf(hf, "model.layers.%u.", &layer) == 1)
        snprintf(out, bytes, "blk.%u.%s.weight", layer,
                 shape->post_norms ? "post_attention_norm" : "ffn_norm");
}

/* What the converter does to values. */
static void convert(const struct architecture *a, const struct llama_stored *s, float *v)
{
    uint64_t columns = s->dims == 2 ? s->shape[1] : 1, half = a->head / 2;
    float *from = malloc(s->elems * sizeof *from);

    memcpy(from, v, s->elems * sizeof *v);
    for (uint64_t i = 0; a->plus_one && strstr(s->name, "norm.weight") && i < s->elems; i++)
        v[i] += 1;
    for (uint64_t r = 0; a->pairs && (strstr(s->name, "q_proj.weight") || strstr(s->name, "k_proj.weight")) &&
                         r < s->shape[0];
         r++) {
        uint64_t in = r % a->head, to = r - in + in % half * 2 + in / half;

        memcpy(v + to * columns, from + r * columns, columns * sizeof *v);
    }
    free(from);
}

static void put_key(struct gguf_file *f, const char *architecture, const struct key *k)
{
    char key[128];

    snprintf(key, sizeof key, "%s.%s", architecture, k->key);
    gguf_add_key(f, key, k->text ? TEXT : k->integer ? U32 : F32);
    if (k->text)
        gguf_add_text(f, k->text);
    else if (k->integer)
        gguf_add32(f, k->integer);
    else
        gguf_add(f, &k->number, sizeof k->number);
}

/* left_out: of the architecture's keys, that one; -1: none. changed: values are the converter's. */
static void put_file(const struct architecture *a, const struct llama_shape *shape, int left_out,
                     bool changed)
{
    const struct key sizes[] = {{"block_count", NULL, 0, 4},
                                {"embedding_length", NULL, 0, 32},
                                {"feed_forward_length", NULL, 0, 48},
                                {"attention.head_count", NULL, 0, 2},
                                {"attention.head_count_kv", NULL, 0, shape->kv_heads},
                                {"attention.key_length", NULL, 0, a->head},
                                {"context_length", NULL, 0, 128},
                                {"attention.layer_norm_rms_epsilon", NULL, 1e-5f, 0}};
    static struct gguf_file f;
    uint64_t keys = 1 + sizeof sizes / sizeof sizes[0], tensors = 0, offset = 0;
    struct llama_stored s;

    for (int i = 0; i < KEYS; i++)
        keys += a->keys[i].key && i != left_out;
    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count, tensors++)
        llama_stored_at(shape, i, &s);
    gguf_begin(&f, tensors, keys);
    gguf_add_key(&f, "general.architecture", TEXT);
    gguf_add_text(&f, a->name);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        put_key(&f, a->name, &sizes[i]);
    for (int i = 0; i < KEYS; i++)
        if (a->keys[i].key && i != left_out)
            put_key(&f, a->name, &a->keys[i]);
    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count) {
        char name[96] = "";

        llama_stored_at(shape, i, &s);
        name_of(s.name, name, sizeof name);
        post_attention(shape, s.name, name, sizeof name);
        gguf_add_tensor(&f, name, s.dims, s.dims == 2 ? (uint64_t[]){s.shape[1], s.shape[0]} : s.shape, 0,
                        offset);
        offset += (s.elems * sizeof(float) + 31) / 32 * 32;
    }
    gguf_end(&f, 32, offset);
    offset = f.data;
    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count) {
        float *v;

        llama_stored_at(shape, i, &s);
        v = values_of(&s, shape->norm_offset);
        if (changed)
            convert(a, &s, v);
        memcpy(f.bytes + offset, v, s.elems * sizeof *v);
        offset += (s.elems * sizeof(float) + 31) / 32 * 32;
        free(v);
    }
    gguf_put(file, f.bytes, f.count);
}

/* ---- both sides ---------------------------------------------------------------------- */

static void logits_of(const char *model, float *logits)
{
    const struct ofl_config open = {
        .size = sizeof open, .device_bytes = 8 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct llama_generator_config config = {.positions = TOKENS, .piece = TOKENS};
    int32_t tokens[TOKENS];
    struct llama_config c;
    struct llama_checkpoint *ck;
    struct llama_generator *g = NULL;
    struct ofl_ctx *ctx;
    char error[ERROR] = "";

    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(ref_hash(3, i) % VOCAB);
    assert_int_equal(ofl_open(&open, &ctx), 0);
    if (llama_checkpoint_config(model, &c, error, sizeof error) < 0)
        fail_msg("%s", error);
    config.shape = c.shape;
    if (llama_checkpoint_open(ctx, model, &c.shape, &ck, error, sizeof error) < 0 ||
        llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0 ||
        llama_generator_feed(g, NULL, tokens, TOKENS, logits, error, sizeof error) < 0)
        fail_msg("%s", error);
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void logits_of_the_same_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        float want[VOCAB], got[VOCAB];
        struct llama_config c;

        put_directory(&all[i], &c);
        logits_of(dir, want);
        put_file(&all[i], &c.shape, -1, true);
        logits_of(file, got);
        if (!(largest_difference(want, got, VOCAB) < 2e-5f))
            fail_msg("%s: logits are %g apart", all[i].name, (double)largest_difference(want, got, VOCAB));
        for (int k = 0; k < KEYS && all[i].keys[k].key; k++) {
            put_file(&all[i], &c.shape, k, true);
            if (strstr(all[i].keys[k].key, "scaling.original") ||
                strcmp(all[i].keys[k].key, "rope.scaling.factor") == 0 ||
                strcmp(all[i].keys[k].key, "attention.sliding_window_pattern") == 0)
                continue; /* refused, or other layers have the window: below */
            logits_of(file, got);
            if (!(largest_difference(want, got, VOCAB) > 1e-4f))
                fail_msg("%s without %s: the same logits", all[i].name, all[i].keys[k].key);
        }
        if (!all[i].pairs && !all[i].plus_one)
            continue;
        put_file(&all[i], &c.shape, -1, false);
        logits_of(file, got);
        assert_true(largest_difference(want, got, VOCAB) > 1e-3f);
    }
}

static void missing_keys(void **state)
{
    struct llama_config c;
    char error[ERROR];

    (void)state;
    put_directory(&all[0], &c);
    put_file(&all[0], &c.shape, 3, true);
    assert_true(llama_config_load(file, &c, error, sizeof error) < 0);
    assert_non_null(strstr(error, "qwen2.rope.scaling.original_context_length is missing"));
    put_directory(&all[0], &c);
    put_file(&all[0], &c.shape, 2, true);
    assert_true(llama_config_load(file, &c, error, sizeof error) < 0 || c.shape.rope.factor != 4);
}

static int make_dir(void **state)
{
    (void)state;
    dir = files_dir("/var/tmp", "ofl-test-gguf-families");
    file = files_path(dir, "m.gguf");
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    free(file);
    files_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_of_the_same_numbers),
        cmocka_unit_test(missing_keys),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
