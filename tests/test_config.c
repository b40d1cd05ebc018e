/*
 * Proves that config.json of a Llama is read as transformers reads it, old and new spelling,
 * that everything the programs do not compute is refused by a sentence that names it, that
 * what is saved reads back the same, and that the presets are the models they say they are.
 *
 * Negative controls: every refused configuration differs from an accepted one in the keys
 * of its line only, so a check that is gone makes its line fail; the comparison of
 * configurations is shown a difference in every field (comparison_sees_differences).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
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
#include "tests/temporary.h"

static char dir[200];
static char file[sizeof dir + 16];

/* ---- helpers ----------------------------------------------------------- */

static const char base[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":128,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":8,\"num_key_value_heads\":4,"
    "\"intermediate_size\":384,\"vocab_size\":2048,\"max_position_embeddings\":512,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":500000,\"hidden_act\":\"silu\","
    "\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":true}";

static void put(const char *text)
{
    FILE *f = fopen(file, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* The base with changes; a key whose new value is "-" is left out. */
static void put_changed(const char *changes)
{
    json_t *root = json_loads(base, 0, NULL), *diff = json_loads(changes, 0, NULL), *value;
    const char *key;
    char *text;

    assert_non_null(root);
    if (!diff)
        fail_msg("not JSON: %s", changes);
    json_object_foreach(diff, key, value)
    {
        if (json_is_string(value) && strcmp(json_string_value(value), "-") == 0)
            json_object_del(root, key);
        else
            json_object_set(root, key, value);
    }
    text = json_dumps(root, 0);
    put(text);
    free(text);
    json_decref(diff);
    json_decref(root);
}

static bool same(const struct llama_config *a, const struct llama_config *b)
{
    const struct llama_shape *s = &a->shape, *t = &b->shape;

    if (s->layers != t->layers || s->hidden != t->hidden || s->heads != t->heads ||
        s->kv_heads != t->kv_heads || s->head_dim != t->head_dim || s->ffn != t->ffn ||
        s->vocab != t->vocab || s->max_positions != t->max_positions || s->rms_eps != t->rms_eps ||
        s->rope_theta != t->rope_theta || s->tied != t->tied || s->rope.kind != t->rope.kind)
        return false;
    if (s->rope.kind != LLAMA_ROPE_PLAIN && s->rope.factor != t->rope.factor)
        return false;
    if (s->rope.kind == LLAMA_ROPE_LLAMA3 && (s->rope.low_freq_factor != t->rope.low_freq_factor ||
                                              s->rope.high_freq_factor != t->rope.high_freq_factor ||
                                              s->rope.original_positions != t->rope.original_positions))
        return false;
    return a->bos_id == b->bos_id && a->initializer_range == b->initializer_range &&
           a->eos_count == b->eos_count &&
           memcmp(a->eos_ids, b->eos_ids, a->eos_count * sizeof a->eos_ids[0]) == 0;
}

static struct llama_config expected_base(void)
{
    return (struct llama_config){.shape = {.layers = 3,
                                           .hidden = 128,
                                           .heads = 8,
                                           .kv_heads = 4,
                                           .head_dim = 16,
                                           .ffn = 384,
                                           .vocab = 2048,
                                           .max_positions = 512,
                                           .rms_eps = 1e-5f,
                                           .rope_theta = 500000.0f,
                                           .tied = true},
                                 .bos_id = 1,
                                 .eos_count = 1,
                                 .eos_ids = {2},
                                 .initializer_range = 0.02f};
}

/* ---- reading ----------------------------------------------------------- */

#define LLAMA3                                                                                               \
    "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"                   \
    "\"original_max_position_embeddings\":256}"
#define ROPE(k, f, l, h, o)                                                                                  \
    c->shape.rope.kind = (k), c->shape.rope.factor = (f), c->shape.rope.low_freq_factor = (l),               \
    c->shape.rope.high_freq_factor = (h), c->shape.rope.original_positions = (o)

enum { GOOD = 31 };

/* Which of two spellings counts. */
static const char *good_rope(int n, struct llama_config *c)
{
    switch (n) {
    case 25:
        return "{\"rope_scaling\":{}}";
    case 26: /* as in transformers: the older name */
        return ROPE(LLAMA_ROPE_LINEAR, 4, 0, 0, 0), "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},"
                                                    "\"rope_parameters\":" LLAMA3 "}";
    case 27: /* and the number outside */
        return ROPE(LLAMA_ROPE_LLAMA3, 8, 1, 4, 100),
               "{\"rope_scaling\":" LLAMA3 ",\"original_max_position_embeddings\":100}";
    case 28: /* or the model's positions */
        return ROPE(LLAMA_ROPE_LLAMA3, 8, 1, 4, 512),
               "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
               "\"high_freq_factor\":4}}";
    case 29: /* within the model's positions */
        return "{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}";
    default:
        return "{\"quantization_config\":null,\"partial_rotary_factor\":1.0}";
    }
}

/* Line n of the table: its changes of the base, and what they change in the result. */
static const char *good(int n, struct llama_config *c)
{
    switch (n) {
    case 0:
        return "{}";
    case 1:
        return c->shape.kv_heads = 8, "{\"num_key_value_heads\":\"-\"}";
    case 2:
        return c->shape.kv_heads = 8, "{\"num_key_value_heads\":null}";
    case 3:
        return c->shape.head_dim = 32, "{\"head_dim\":32}";
    case 4:
        return "{\"head_dim\":null}";
    case 5:
        return "{\"rope_scaling\":null,\"rope_parameters\":null}";
    case 6:
        return ROPE(LLAMA_ROPE_LINEAR, 2.5f, 0, 0, 0),
               "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}";
    case 7:
        return ROPE(LLAMA_ROPE_LINEAR, 4, 0, 0, 0),
               "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}}";
    case 8:
        return ROPE(LLAMA_ROPE_LLAMA3, 8, 1, 4, 256), "{\"rope_scaling\":" LLAMA3 "}";
    case 9:
        return ROPE(LLAMA_ROPE_LLAMA3, 8, 1, 4, 256), "{\"rope_parameters\":" LLAMA3 "}";
    case 10:
        return "{\"rope_scaling\":{\"rope_type\":\"default\"}}";
    case 11:
        return c->shape
                   .rope_theta = 7e4f,
           "{\"rope_theta\":\"-\",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":70000.0}}";
    case 12:
        return c->shape.rope_theta = 7e4f,
               "{\"rope_theta\":\"-\",\"rope_parameters\":{\"rope_theta\":70000.0}}";
    case 13:
        return c->eos_count = 2, c->eos_ids[1] = 7, "{\"eos_token_id\":[2,7]}";
    case 14:
        return c->eos_count = 0, c->bos_id = -1, "{\"eos_token_id\":null,\"bos_token_id\":null}";
    case 15:
        return "{\"eos_token_id\":\"-\",\"bos_token_id\":\"-\"}";
    case 16:
        return c->eos_count = 0, "{\"eos_token_id\":[]}";
    case 17:
        return c->shape.tied = false, "{\"tie_word_embeddings\":\"-\"}";
    case 18:
        return "{\"architectures\":\"-\"}";
    case 19:
        return "{\"model_type\":\"-\"}";
    case 20:
        return "{\"architectures\":[\"Other\",\"LlamaForCausalLM\"],\"hidden_act\":\"-\"}";
    case 21:
        return c->shape.rms_eps = 1e-6f, c->shape.rope_theta = 1e4f, c->shape.max_positions = 2048,
               "{\"rms_norm_eps\":\"-\",\"rope_theta\":\"-\",\"max_position_embeddings\":\"-\"}";
    case 22:
        return "{\"attention_bias\":false,\"mlp_bias\":null,\"pretraining_tp\":1,\"torch_dtype\":"
               "\"float32\"}";
    case 23:
        return c->shape.heads = 3, c->shape.kv_heads = 1, c->shape.head_dim = 64,
               "{\"num_attention_heads\":3,\"num_key_value_heads\":1,\"head_dim\":64}";
    case 24:
        return c->initializer_range = 0.5f, "{\"initializer_range\":0.5}";
    default:
        return good_rope(n, c);
    }
}

static void reads_good_configurations(void **state)
{
    char error[512] = "";

    (void)state;
    for (int i = 0; i < GOOD; i++) {
        struct llama_config expect = expected_base(), got;
        const char *changes = good(i, &expect);

        put_changed(changes);
        if (llama_config_load(dir, &got, error, sizeof error) != 0)
            fail_msg("%s: refused: %s", changes, error);
        if (!same(&got, &expect))
            fail_msg("%s: read wrong", changes);
    }
}

static const struct {
    const char *changes, *words[3];
} bad[] = {
    {"{\"architectures\":[\"BloomForCausalLM\"],\"model_type\":\"bloom\"}",
     {"BloomForCausalLM", "bloom", "only llama, "}},
    {"{\"model_type\":\"bloom\"}", {"LlamaForCausalLM", "bloom"}}, /* model_type decides */
    {"{\"architectures\":\"-\",\"model_type\":\"gpt2\"}", {"gpt2"}},
    {"{\"architectures\":\"-\",\"model_type\":\"-\"}", {"architectures", "model_type"}},
    {"{\"architectures\":[7],\"model_type\":7}", {"architectures"}},
    {"{\"hidden_act\":\"relu\"}", {"hidden_act", "relu"}},
    {"{\"hidden_act\":3}", {"hidden_act"}},
    {"{\"attention_bias\":\"yes\"}", {"attention_bias"}},
    {"{\"mlp_bias\":1}", {"mlp_bias"}},
    {"{\"quantization_config\":{}}", {"quantization_config"}},
    {"{\"partial_rotary_factor\":0.5}", {"partial_rotary_factor"}},
    {"{\"num_hidden_layers\":\"-\"}", {"num_hidden_layers", "missing"}},
    {"{\"num_hidden_layers\":0}", {"num_hidden_layers is 0"}},
    {"{\"num_hidden_layers\":-3}", {"num_hidden_layers is -3"}},
    {"{\"num_hidden_layers\":4294967299}", {"num_hidden_layers is 4294967299"}},
    {"{\"num_hidden_layers\":3.0}", {"num_hidden_layers", "integer"}},
    {"{\"hidden_size\":\"-\"}", {"hidden_size", "missing"}},
    {"{\"hidden_size\":\"128\"}", {"hidden_size", "integer"}},
    {"{\"hidden_size\":100}", {"hidden_size 100", "num_attention_heads 8"}},
    {"{\"hidden_size\":2097152}", {"hidden_size is 2097152"}},
    {"{\"num_attention_heads\":\"-\"}", {"num_attention_heads"}},
    {"{\"num_attention_heads\":0}", {"num_attention_heads is 0"}},
    {"{\"num_key_value_heads\":3}", {"num_attention_heads 8", "num_key_value_heads 3"}},
    {"{\"num_key_value_heads\":16}", {"num_key_value_heads 16"}},
    {"{\"num_key_value_heads\":0}", {"num_key_value_heads is 0"}},
    {"{\"head_dim\":15}", {"head_dim is 15", "even"}},
    {"{\"head_dim\":0}", {"head_dim is 0"}},
    {"{\"head_dim\":1048576}", {"8 heads of 1048576"}},
    {"{\"intermediate_size\":\"-\"}", {"intermediate_size"}},
    {"{\"intermediate_size\":-1}", {"intermediate_size is -1"}},
    {"{\"vocab_size\":\"-\"}", {"vocab_size"}},
    {"{\"vocab_size\":99999999}", {"vocab_size is 99999999"}},
    {"{\"max_position_embeddings\":0}", {"max_position_embeddings is 0"}},
    {"{\"rms_norm_eps\":0}", {"rms_norm_eps is 0"}},
    {"{\"rms_norm_eps\":\"1e-6\"}", {"rms_norm_eps", "number"}},
    {"{\"rope_theta\":0}", {"rope_theta is 0"}},
    {"{\"rope_theta\":1e300}", {"rope_theta is 1e+300"}},
    {"{\"tie_word_embeddings\":\"yes\"}", {"tie_word_embeddings"}},
    {"{\"initializer_range\":-1}", {"initializer_range"}},
    {"{\"bos_token_id\":2048}", {"bos_token_id is 2048", "vocabulary of 2048"}},
    {"{\"bos_token_id\":\"1\"}", {"bos_token_id"}},
    {"{\"eos_token_id\":-1}", {"eos_token_id is -1"}},
    {"{\"eos_token_id\":[2,5000]}", {"eos_token_id is 5000"}},
    {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", {"eos_token_id has 9"}},
    {"{\"eos_token_id\":{}}", {"eos_token_id"}},
    {"{\"rope_scaling\":\"linear\"}", {"rope_scaling", "object"}},
    {"{\"rope_scaling\":{\"type\":\"ntk\",\"factor\":2}}", {"rope_scaling", "ntk"}},
    {"{\"rope_scaling\":{\"type\":7,\"factor\":2}}", {"rope_scaling", "rope_type"}},
    {"{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":-2}}", {"factor is -2"}},
    {"{\"rope_parameters\":{\"rope_theta\":1e4,\"partial_rotary_factor\":0.5}}", {"partial_rotary_factor"}},
    {"{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
     {"rope_parameters", "types of layers"}},
    {"{\"rope_scaling\":{\"type\":\"linear\"}}", {"factor", "missing"}},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}", {"factor is 0.5"}},
    {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", {"low_freq_factor", "missing"}},
    {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":256}}",
     {"low_freq_factor 4", "high_freq_factor 4"}},
};

static void expect_refusal(const char *what, int code, const char *const *words, size_t count)
{
    struct llama_config got = {.bos_id = 77};
    char error[512] = "";
    int rc = llama_config_load(dir, &got, error, sizeof error);

    if (rc != code)
        fail_msg("%s: %d instead of %d: %s", what, rc, code, error);
    assert_int_equal(got.bos_id, 77);
    if (!strstr(error, file))
        fail_msg("%s: the sentence does not name the file: %s", what, error);
    for (size_t i = 0; i < count && words[i]; i++)
        if (!strstr(error, words[i]))
            fail_msg("%s: no %s in the sentence: %s", what, words[i], error);
}

static void refuses_bad_configurations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_changed(bad[i].changes);
        expect_refusal(bad[i].changes, -ENOTSUP, bad[i].words, 3);
    }
}

static void refuses_bad_files(void **state)
{
    static const char *const texts[] = {"", "[]", "{", "{}}", "\xff\xfe"};
    const char *word = "No such file";
    FILE *f;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        put(texts[i]);
        expect_refusal(texts[i], -OFL_EFORMAT, NULL, 0);
    }
    f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), 5 << 20), 0);
    fclose(f);
    word = "5242880 bytes";
    expect_refusal("too large", -OFL_EFORMAT, &word, 1);
    assert_int_equal(unlink(file), 0);
    word = "No such file";
    expect_refusal("missing", -ENOENT, &word, 1);
}

/* ---- writing ----------------------------------------------------------- */

static void round_trip(const struct llama_config *config)
{
    struct llama_config got;
    char error[512] = "";

    unlink(file);
    if (llama_config_save(file, config, OFL_BF16, error, sizeof error) != 0)
        fail_msg("%s", error);
    if (llama_config_load(dir, &got, error, sizeof error) != 0)
        fail_msg("%s", error);
    assert_true(same(&got, config));
}

static void saves_what_it_reads(void **state)
{
    static const float odd[] = {1e-6f, 1e-5f, 0.1f, 0.3333333f, 1.0000001f, 9.9999994e-7f};
    struct llama_config c;
    char error[512];

    (void)state;
    for (int i = 0; i < GOOD; i++) {
        c = expected_base();
        good(i, &c);
        round_trip(&c);
    }
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        c = expected_base();
        c.shape.rms_eps = odd[i] < 1.0f ? odd[i] : 1.0f;
        c.shape.rope_theta = odd[i] * 1e7f;
        round_trip(&c);
    }
    for (size_t i = 0; llama_preset_at(i); i++) {
        assert_int_equal(llama_preset(llama_preset_at(i)->name, &c), 0);
        round_trip(&c);
    }
    assert_int_equal(llama_config_save(file, &c, OFL_F32, error, sizeof error), -EEXIST);
    assert_non_null(strstr(error, file));
}

/* Numbers as people write them: not 9.99999975e-06, and one id is not a list. */
static void saves_plain_numbers(void **state)
{
    struct llama_config c = expected_base();
    char text[4096] = "", error[512];
    FILE *f;

    (void)state;
    unlink(file);
    assert_int_equal(llama_config_save(file, &c, OFL_F32, error, sizeof error), 0);
    f = fopen(file, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-5,"));
    assert_non_null(strstr(text, "\"rope_theta\": 500000.0,"));
    assert_non_null(strstr(text, "\"eos_token_id\": 2,"));
    assert_non_null(strstr(text, "\"torch_dtype\": \"float32\""));
}

/* Configurations that did not come from a file. */
static void checks_structs(void **state)
{
    struct llama_config good_one = expected_base(), c;
    char error[512];

    (void)state;
    assert_int_equal(llama_config_check(&good_one, "x", error, sizeof error), 0);
    for (int i = 0; i < 8; i++) { /* layers to max_positions */
        c = good_one, ((uint32_t *)&c.shape)[i] = 0;
        assert_int_equal(llama_config_check(&c, "x", error, sizeof error), -ENOTSUP);
        c = good_one, ((uint32_t *)&c.shape)[i] = UINT32_MAX;
        assert_int_equal(llama_config_check(&c, "x", error, sizeof error), -ENOTSUP);
    }
    c = good_one, c.bos_id = 2048;
    assert_int_equal(llama_config_check(&c, "x", error, sizeof error), -ENOTSUP);
    c = good_one, c.eos_count = LLAMA_EOS_MAX + 1;
    assert_int_equal(llama_config_check(&c, "x", error, sizeof error), -ENOTSUP);
    c = good_one, c.eos_ids[0] = 2048;
    assert_int_equal(llama_config_check(&c, "x", error, sizeof error), -ENOTSUP);
}

static void comparison_sees_differences(void **state)
{
    struct llama_config a = expected_base(), b;
    unsigned char *bytes = (unsigned char *)&b.shape;

    (void)state;
    a.shape.rope.kind = LLAMA_ROPE_LLAMA3;
    assert_true(same(&a, &a));
    for (size_t i = 0; i < offsetof(struct llama_shape, rope.attention_factor); i += 4) {
        b = a;
        bytes[i + 2] ^= 1;
        assert_false(same(&a, &b));
    }
    b = a, b.shape.tied = !a.shape.tied;
    assert_false(same(&a, &b));
    b = a, b.bos_id++;
    assert_false(same(&a, &b));
    b = a, b.eos_ids[0]++;
    assert_false(same(&a, &b));
    b = a, b.eos_count++;
    assert_false(same(&a, &b));
    b = a, b.initializer_range = 1;
    assert_false(same(&a, &b));
}

/* ---- presets ----------------------------------------------------------- */

static const struct {
    const char *name;
    uint64_t least, most;
} sizes[] = {
    {"tiny", 900000, 1100000},
    {"20m", 20000000, 22000000},
    {"300m", 300000000, 320000000},
    {"1b", 1100048384, 1100048384},    /* TinyLlama */
    {"7b", 6738415616, 6738415616},    /* Llama 2 7B */
    {"8b", 8030261248, 8030261248},    /* Llama 3.1 8B */
    {"13b", 13015864320, 13015864320}, /* Llama 2 13B */
    {"70b", 68976648192, 68976648192}, /* Llama 2 70B */
    {"100b", 100691363840, 100691363840},
    {"175b", 175183663104, 175183663104},
};

static void presets_have_their_sizes(void **state)
{
    struct llama_config c;
    char error[512];
    size_t count = 0;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct llama_tensor_desc d;
        uint64_t sum = 0, params;

        assert_int_equal(llama_preset(sizes[i].name, &c), 0);
        params = llama_param_count(&c.shape);
        if (params < sizes[i].least || params > sizes[i].most)
            fail_msg("%s: %llu parameters", sizes[i].name, (unsigned long long)params);
        if (llama_config_check(&c, sizes[i].name, error, sizeof error) != 0)
            fail_msg("%s", error);
        for (uint32_t t = 0; llama_tensor_at(&c.shape, t, &d) == 0; t++)
            sum += d.elems;
        assert_int_equal(sum, params);
        assert_true(c.bos_id == 256 && c.eos_count == 1 && c.eos_ids[0] == 257 && c.shape.vocab >= 258);
    }
    while (llama_preset_at(count))
        assert_true(strlen(llama_preset_at(count++)->text) > 0);
    assert_int_equal(count, sizeof sizes / sizeof sizes[0]);
    assert_int_equal(llama_preset("8x7b", &c), -ENOENT);
}

static int setup(void **state)
{
    (void)state;
    if (temporary_dir("config", dir, sizeof dir) < 0)
        return -1;
    snprintf(file, sizeof file, "%s/config.json", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_good_configurations),   cmocka_unit_test(refuses_bad_configurations),
        cmocka_unit_test(refuses_bad_files),           cmocka_unit_test(saves_what_it_reads),
        cmocka_unit_test(saves_plain_numbers),         cmocka_unit_test(checks_structs),
        cmocka_unit_test(comparison_sees_differences), cmocka_unit_test(presets_have_their_sizes),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
