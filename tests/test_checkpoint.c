/*
 * Proves that the list of a Llama's tensors is the one of Hugging Face, and that a directory
 * with anything missing, left over or of another size is refused by name.
 *
 * Negative control: every refused directory is a right one, which opens, with one change
 * (opens_what_is_right), so a check that is gone lets its case open.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "examples/model/checkpoint.h"
#include "examples/model/config.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

#define STORY "../shared/models/story"

static char root[200];
static struct ofl_ctx *ctx;

static const struct llama_config small = {.shape = {.layers = 2,
                                                    .hidden = 16,
                                                    .heads = 4,
                                                    .kv_heads = 2,
                                                    .head_dim = 6,
                                                    .ffn = 20,
                                                    .vocab = 35,
                                                    .max_positions = 64,
                                                    .rms_eps = 1e-5f,
                                                    .rope_theta = 1e4f,
                                                    .rope = {.factor = 1.0f},
                                                    .tied = true},
                                          .bos_id = 1,
                                          .eos_count = 2,
                                          .eos_ids = {2, 3},
                                          .initializer_range = 0.02f};

/* ---- the list ---------------------------------------------------------- */

static void lists_the_tensors(void **state)
{
    static const struct {
        const char *name;
        uint64_t rows, columns;
        enum llama_role role;
        int layer;
    } expect[] = {
        {"model.embed_tokens.weight", 35, 16, LLAMA_EMBED, -1},
        {"model.layers.0.input_layernorm.weight", 16, 0, LLAMA_INPUT_NORM, 0},
        {"model.layers.0.self_attn.q_proj.weight", 24, 16, LLAMA_Q, 0},
        {"model.layers.0.self_attn.k_proj.weight", 12, 16, LLAMA_K, 0},
        {"model.layers.0.self_attn.v_proj.weight", 12, 16, LLAMA_V, 0},
        {"model.layers.0.self_attn.o_proj.weight", 16, 24, LLAMA_O, 0},
        {"model.layers.0.post_attention_layernorm.weight", 16, 0, LLAMA_MLP_NORM, 0},
        {"model.layers.0.mlp.gate_proj.weight", 20, 16, LLAMA_GATE, 0},
        {"model.layers.0.mlp.up_proj.weight", 20, 16, LLAMA_UP, 0},
        {"model.layers.0.mlp.down_proj.weight", 16, 20, LLAMA_DOWN, 0},
        {"model.norm.weight", 16, 0, LLAMA_NORM, -1},
        {"lm_head.weight", 35, 16, LLAMA_HEAD, -1},
    };
    const size_t n = sizeof expect / sizeof expect[0];
    struct llama_shape shape = small.shape;
    struct llama_tensor_desc d;

    (void)state;
    shape.layers = 1;
    assert_int_equal(llama_tensor_count(&shape), n - 1);
    assert_int_equal(llama_tensor_at(&shape, (uint32_t)n - 1, &d), -EINVAL);
    assert_int_equal(llama_tensor_index(&shape, LLAMA_HEAD, 0), 0);
    shape.tied = false;
    assert_int_equal(llama_tensor_count(&shape), n);
    assert_int_equal(llama_tensor_at(&shape, (uint32_t)n, &d), -EINVAL);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(llama_tensor_at(&shape, i, &d), 0);
        assert_string_equal(d.name, expect[i].name);
        assert_int_equal(d.role, expect[i].role);
        assert_int_equal(d.layer, expect[i].layer);
        assert_int_equal(d.dims, expect[i].columns ? 2 : 1);
        assert_int_equal(d.shape[0], expect[i].rows);
        assert_int_equal(d.shape[1], expect[i].columns);
        assert_int_equal(d.elems, expect[i].rows * (expect[i].columns ? expect[i].columns : 1));
    }
}

static void indices_are_inverse(void **state)
{
    struct llama_shape shape = small.shape;
    struct llama_tensor_desc d;

    (void)state;
    shape.layers = 126;
    shape.tied = false;
    for (uint32_t i = 0; i < llama_tensor_count(&shape); i++) {
        assert_int_equal(llama_tensor_at(&shape, i, &d), 0);
        assert_int_equal(llama_tensor_index(&shape, d.role, d.layer < 0 ? 0 : (uint32_t)d.layer), i);
    }
    assert_string_equal(d.name, "lm_head.weight");
}

/* ---- opening ----------------------------------------------------------- */

/* Both files of a right directory of two shards, and what a case changes in it. */
enum { SHARD_A, SHARD_B, MAP };

static const struct {
    const char *what;
    const char *changes[3]; /* merged, key by key; "-" removes */
    int code;               /* 0: still right */
    const char *words[3];
} cases[] = {
    {"as it is", {NULL}, 0, {NULL}},
    {"old tables", {"{\"model.layers.0.self_attn.rotary_emb.inv_freq\":[\"F64\",3]}", NULL, NULL}, 0, {NULL}},
    {"lm_head of a tied model",
     {"{\"model.embed_tokens.weight\":\"-\",\"lm_head.weight\":[\"F32\",35,16]}", NULL,
      "{\"model.embed_tokens.weight\":\"-\",\"lm_head.weight\":\"a.safetensors\"}"},
     0,
     {NULL}},
    {"both names of a tied model",
     {NULL, "{\"lm_head.weight\":[\"F32\",35,16]}", "{\"lm_head.weight\":\"b.safetensors\"}"},
     0,
     {NULL}},
    {"bf16 and f16",
     {"{\"model.embed_tokens.weight\":[\"BF16\",35,16]}", "{\"model.norm.weight\":[\"F16\",16]}", NULL},
     0,
     {NULL}},
    {"tensor missing",
     {NULL, "{\"model.norm.weight\":\"-\"}", "{\"model.norm.weight\":\"-\"}"},
     -OFL_EFORMAT,
     {"model.norm.weight", "missing"}},
    {"mapped, but not there",
     {NULL, "{\"model.norm.weight\":\"-\"}", NULL},
     -OFL_EFORMAT,
     {"model.norm.weight", "missing"}},
    {"mapped, not there, not needed",
     {NULL, NULL, "{\"model.layers.0.self_attn.rotary_emb.inv_freq\":\"a.safetensors\"}"},
     0,
     {NULL}},
    {"there, but not mapped", {NULL, NULL, "{\"model.norm.weight\":\"-\"}"}, 0, {NULL}},
    {"in two files",
     {"{\"model.norm.weight\":[\"F32\",16]}", NULL, NULL},
     -OFL_EFORMAT,
     {"model.norm.weight", "b.safe"}},
    {"in the other file", {NULL, NULL, "{\"model.norm.weight\":\"a.safetensors\"}"}, 0, {NULL}},
    {"transposed",
     {NULL, "{\"model.layers.1.mlp.down_proj.weight\":[\"F32\",20,16]}", NULL},
     -OFL_EFORMAT,
     {"down_proj", "[20, 16]", "[16, 20]"}},
    {"too many dimensions",
     {NULL, "{\"model.norm.weight\":[\"F32\",16,1]}", NULL},
     -OFL_EFORMAT,
     {"model.norm.weight", "[16, 1]", "[16]"}},
    {"integers",
     {NULL, "{\"model.norm.weight\":[\"I32\",16]}", NULL},
     -OFL_EFORMAT,
     {"model.norm.weight", "i32"}},
    {"one layer too many",
     {NULL, "{\"model.layers.2.mlp.up_proj.weight\":[\"F32\",20,16]}",
      "{\"model.layers.2.mlp.up_proj.weight\":\"b.safetensors\"}"},
     -OFL_EFORMAT,
     {"model.layers.2.mlp.up_proj.weight", "2 layers"}},
    {"another spelling",
     {NULL, "{\"model.layers.01.mlp.up_proj.weight\":[\"F32\",20,16]}",
      "{\"model.layers.01.mlp.up_proj.weight\":\"b.safetensors\"}"},
     -OFL_EFORMAT,
     {"model.layers.01.mlp.up_proj.weight"}},
    {"biases of zeros",
     {NULL, "{\"model.layers.0.self_attn.q_proj.bias\":[\"F32\",24]}",
      "{\"model.layers.0.self_attn.q_proj.bias\":\"b.safetensors\"}"},
     0,
     {NULL}},
    {"weights of zeros",
     {NULL, "{\"model.layers.0.self_attn.q_norm.weight\":[\"F32\",24]}",
      "{\"model.layers.0.self_attn.q_norm.weight\":\"b.safetensors\"}"},
     -OFL_EFORMAT,
     {"q_norm.weight", "type llama"}},
    {"no such shard",
     {NULL, "{\"model.norm.weight\":\"-\"}", "{\"model.norm.weight\":\"c.safetensors\"}"},
     -ENOENT,
     {"c.safetensors"}},
    {"a path",
     {NULL, NULL, "{\"model.norm.weight\":\"../b.safetensors\"}"},
     -OFL_EFORMAT,
     {"../b.safetensors"}},
    {"an absolute path",
     {NULL, NULL, "{\"model.norm.weight\":\"/etc/passwd\"}"},
     -OFL_EFORMAT,
     {"/etc/passwd"}},
    {"a folder below",
     {NULL, NULL, "{\"model.norm.weight\":\"x/b.safetensors\"}"},
     -OFL_EFORMAT,
     {"x/b.safe"}},
    {"no name", {NULL, NULL, "{\"model.norm.weight\":\"\"}"}, -OFL_EFORMAT, {"model.norm.weight", "plain"}},
    {"not a string",
     {NULL, NULL, "{\"model.norm.weight\":7}"},
     -OFL_EFORMAT,
     {"model.norm.weight", "string"}},
};

static void put_case(const char *dir, size_t n)
{
    json_t *parts[3] = {json_object(), json_object(), json_object()};
    struct llama_tensor_desc d;

    for (uint32_t i = 0; llama_tensor_at(&small.shape, i, &d) == 0; i++) {
        int shard = i < 9 ? SHARD_A : SHARD_B;

        json_object_set_new(parts[shard], d.name, files_tensor("F32", d.dims, d.shape));
        json_object_set_new(parts[MAP], d.name,
                            json_string(shard == SHARD_A ? "a.safetensors" : "b.safetensors"));
    }
    for (int p = 0; p < 3; p++)
        files_change(parts[p], cases[n].changes[p]);
    files_put_safetensors(dir, "a.safetensors", parts[SHARD_A]);
    files_put_safetensors(dir, "b.safetensors", parts[SHARD_B]);
    files_put_json(dir, "model.safetensors.index.json",
                   json_pack("{s:{s:i}, s:O}", "metadata", "total_size", 1, "weight_map", parts[MAP]));
    for (int p = 0; p < 3; p++)
        json_decref(parts[p]);
}

static void check_found(const struct llama_checkpoint *ck, const struct llama_shape *shape, const char *what)
{
    struct llama_tensor_desc d;
    struct ofl_source_entry e = {0};
    struct ofl_source *source;
    enum ofl_dtype dtype;
    const char *name;

    for (uint32_t i = 0; llama_tensor_at(shape, i, &d) == 0; i++) {
        assert_int_equal(llama_checkpoint_find(ck, i, &source, &name, &dtype), 0);
        if (strcmp(name, d.name) != 0 &&
            (i != 0 || !strstr(what, "lm_head") || strcmp(name, "lm_head.weight") != 0))
            fail_msg("%s: %s is %s", what, d.name, name);
        assert_int_equal(ofl_source_find(source, name, &e), 0);
        assert_int_equal(e.dtype, dtype);
        assert_int_equal(e.elems, d.elems);
    }
    assert_int_equal(llama_checkpoint_find(ck, llama_tensor_count(shape), &source, &name, &dtype), -EINVAL);
}

static void opens_what_is_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llama_checkpoint *ck = NULL;
        char *dir = files_dir(root, "open"), error[1024] = "";
        int rc;

        put_case(dir, i);
        rc = llama_checkpoint_open(ctx, dir, &small.shape, &ck, error, sizeof error);
        if (rc != cases[i].code)
            fail_msg("%s: %d instead of %d: %s", cases[i].what, rc, cases[i].code, error);
        for (size_t w = 0; w < 3 && cases[i].words[w]; w++)
            if (!strstr(error, cases[i].words[w]))
                fail_msg("%s: no %s in the sentence: %s", cases[i].what, cases[i].words[w], error);
        if (rc == 0) {
            assert_int_equal(llama_checkpoint_unused(ck) != NULL, strstr(cases[i].what, "biases") != NULL);
            check_found(ck, &small.shape, cases[i].what);
            assert_int_equal(llama_checkpoint_close(ck), 0);
        } else {
            assert_non_null(strstr(error, dir));
        }
        files_remove(dir);
    }
    assert_int_equal(llama_checkpoint_close(NULL), 0);
}

/* One file of these tensors, whose last byte is not zero. */
static char *put_single(json_t *tensors)
{
    char *dir = files_dir(root, "single"), *path = files_path(dir, "model.safetensors");
    FILE *f;

    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    assert_int_equal(fputc(0x3f, f), 0x3f);
    assert_int_equal(fclose(f), 0);
    free(path);
    return dir;
}

static json_t *small_tensors(bool base)
{
    json_t *tensors = json_object();
    struct llama_tensor_desc d;

    for (uint32_t i = 0; llama_tensor_at(&small.shape, i, &d) == 0; i++)
        json_object_set_new(tensors, d.name + (base ? strlen("model.") : 0),
                            files_tensor("F32", d.dims, d.shape));
    return tensors;
}

static void refuses_biases_that_count(void **state)
{
    const uint64_t shape[] = {24};
    json_t *tensors = small_tensors(false);
    struct llama_checkpoint *ck = NULL;
    char *dir, error[1024] = "";

    (void)state;
    json_object_set_new(tensors, "model.layers.0.self_attn.q_proj.bias", files_tensor("F32", 1, shape));
    dir = put_single(tensors);
    assert_int_equal(llama_checkpoint_open(ctx, dir, &small.shape, &ck, error, sizeof error), -OFL_EFORMAT);
    assert_non_null(strstr(error, "q_proj.bias"));
    files_remove(dir);
}

static void opens_a_base_model(void **state)
{
    struct llama_checkpoint *ck = NULL;
    char *dir = put_single(small_tensors(true)), error[1024] = "";
    struct ofl_source *source;
    enum ofl_dtype dtype;
    const char *name;

    (void)state;
    if (llama_checkpoint_open(ctx, dir, &small.shape, &ck, error, sizeof error) != 0)
        fail_msg("%s", error);
    assert_int_equal(llama_checkpoint_find(ck, 0, &source, &name, &dtype), 0);
    assert_string_equal(name, "embed_tokens.weight");
    assert_null(llama_checkpoint_unused(ck));
    assert_int_equal(llama_checkpoint_close(ck), 0);
    files_remove(dir);
}

/* What the files hold decides, not the configuration. */
static void an_own_head_unties(void **state)
{
    const uint64_t shape[] = {35, 16};
    static const char *const config =
        "{\"model_type\":\"llama\",\"num_hidden_layers\":2,\"hidden_size\":16,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"head_dim\":6,\"intermediate_size\":20,\"vocab_size\":35,"
        "\"tie_word_embeddings\":true}";

    (void)state;
    for (int own = 0; own < 2; own++) {
        json_t *tensors = small_tensors(false);
        struct llama_config c;
        char *dir, error[1024] = "";

        if (own) /* the last one, so that its last byte is another than the embedding's */
            json_object_set_new(tensors, "lm_head.weight", files_tensor("F32", 2, shape));
        dir = put_single(tensors);
        files_put(dir, "config.json", config, strlen(config));
        if (llama_checkpoint_config(dir, &c, error, sizeof error) != 0)
            fail_msg("%s", error);
        assert_int_equal(c.shape.tied, !own);
        files_remove(dir);
    }
}

static void refuses_directories(void **state)
{
    static const struct {
        const char *file, *text;
        int code;
        const char *word;
    } bad[] = {
        {NULL, NULL, -ENOENT, "neither"},
        {"model.safetensors", "short", -OFL_EFORMAT, "model.safetensors"},
        {"model.safetensors.index.json", "{", -OFL_EFORMAT, "index.json"},
        {"model.safetensors.index.json", "{}", -OFL_EFORMAT, "weight_map"},
        {"model.safetensors.index.json", "{\"weight_map\":{}}", -OFL_EFORMAT, "weight_map"},
        {"model.safetensors.index.json", "{\"weight_map\":[\"a\"]}", -OFL_EFORMAT, "weight_map"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *dir = files_dir(root, "bad"), error[1024] = "";
        struct llama_checkpoint *ck = NULL;

        if (bad[i].file)
            files_put(dir, bad[i].file, bad[i].text, strlen(bad[i].text));
        assert_int_equal(llama_checkpoint_open(ctx, dir, &small.shape, &ck, error, sizeof error),
                         bad[i].code);
        if (!strstr(error, bad[i].word) || !strstr(error, dir))
            fail_msg("case %zu: %s", i, error);
        assert_null(ck);
        files_remove(dir);
    }
}

static void refuses_too_many_files(void **state)
{
    char *dir = files_dir(root, "many"), error[1024] = "", name[64], file[64];
    json_t *map = json_object();
    struct llama_checkpoint *ck = NULL;

    (void)state;
    for (int i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "tensor%d", i);
        snprintf(file, sizeof file, "file%d", i);
        json_object_set_new(map, name, json_string(file));
    }
    files_put_json(dir, "model.safetensors.index.json", json_pack("{s:o}", "weight_map", map));
    assert_int_equal(llama_checkpoint_open(ctx, dir, &small.shape, &ck, error, sizeof error), -OFL_EFORMAT);
    assert_non_null(strstr(error, "more than"));
    files_remove(dir);
}

static void opens_the_story(void **state)
{
    struct llama_checkpoint *ck = NULL;
    struct llama_config config;
    char error[1024] = "";

    (void)state;
    if (access(STORY, R_OK) != 0) {
        fprintf(stderr, "no %s here\n", STORY);
        skip();
    }
    assert_int_equal(llama_config_load(STORY, &config, error, sizeof error), 0);
    assert_true(config.shape.tied && config.shape.layers == 2 && config.shape.vocab == 2048);
    assert_int_equal(llama_param_count(&config.shape), 656000);
    if (llama_checkpoint_open(ctx, STORY, &config.shape, &ck, error, sizeof error) != 0)
        fail_msg("%s", error);
    check_found(ck, &config.shape, "lm_head of a tied model");
    assert_int_equal(llama_checkpoint_close(ck), 0);
    config.shape.tied = false; /* the embedding is then missing */
    assert_int_equal(llama_checkpoint_open(ctx, STORY, &config.shape, &ck, error, sizeof error),
                     -OFL_EFORMAT);
    assert_non_null(strstr(error, "model.embed_tokens.weight"));
}

static int setup(void **state)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = 1 << 20, .host_bytes = 4 << 20};

    (void)state;
    return temporary_dir("checkpoint", root, sizeof root) == 0 ? ofl_open(&config, &ctx) : -1;
}

static int teardown(void **state)
{
    (void)state;
    files_remove(strdup(root));
    return ofl_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_the_tensors),         cmocka_unit_test(indices_are_inverse),
        cmocka_unit_test(opens_what_is_right),       cmocka_unit_test(refuses_directories),
        cmocka_unit_test(refuses_too_many_files),    cmocka_unit_test(opens_the_story),
        cmocka_unit_test(refuses_biases_that_count), cmocka_unit_test(opens_a_base_model),
        cmocka_unit_test(an_own_head_unties),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
