/*
 * A Llama in a GGUF file: its configuration comes from the metadata, its tensors are found by their names, in one file
 * or in parts; what the arithmetic does not do is refused by the key that asks for it; and packed weights give the
 * logits of the same numbers in a directory.
 *
 * Negative controls: the file that all refused ones are made from is accepted; without the rows of Q and K taken apart
 * the logits differ.
 */
#include <errno.h>
#include <inttypes.h>
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
#include "examples/model/gguf.h"
#include "include/offload_landing.h"
#include "tests/core_fixture.h"
#include "tests/gguf_fixture.h"
#include "tests/model_fixture.h"

enum { HIDDEN = 64, HEADS = 2, FFN = 96, VOCAB = 40, LAYERS = 1, HEAD = HIDDEN / HEADS, TOKENS = 5 };

#define Q8_0    8u
#define ROW(n)  ((n) / 32 * 34)
#define TENSORS 11u
#define ERROR   512

static char *dir;

/* ---- the file -------------------------------------------------------------- */

/* A key of a model file: its number, or its text. */
struct key {
    const char *key, *text;
    uint32_t type, number;
};

static const struct key keys[] = {
    {"general.architecture", "llama", 8, 0},
    {"llama.block_count", NULL, 4, LAYERS},
    {"llama.embedding_length", NULL, 4, HIDDEN},
    {"llama.attention.head_count", NULL, 4, HEADS},
    {"llama.feed_forward_length", NULL, 4, FFN},
    {"llama.context_length", NULL, 4, 128},
    {"llama.attention.layer_norm_rms_epsilon", NULL, 6, 0x3727c5ac}, /* 1e-5 */
    {"tokenizer.ggml.bos_token_id", NULL, 4, 1},
    {"tokenizer.ggml.eos_token_id", NULL, 4, 2},
};

#define KEYS (sizeof keys / sizeof keys[0])

static const struct {
    const char *name, *hf;
    uint64_t rows, columns; /* columns 0: a norm */
} tensors[TENSORS] = {
    {"token_embd.weight", "model.embed_tokens.weight", VOCAB, HIDDEN},
    {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", HIDDEN, 0},
    {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", HIDDEN, HIDDEN},
    {"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", HIDDEN, HIDDEN},
    {"blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", HIDDEN, HIDDEN},
    {"blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", HIDDEN, HIDDEN},
    {"blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", HIDDEN, 0},
    {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", FFN, HIDDEN},
    {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", FFN, HIDDEN},
    {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", HIDDEN, FFN},
    {"output_norm.weight", "model.norm.weight", HIDDEN, 0},
};

static uint64_t bytes_of(size_t i)
{
    return tensors[i].columns ? tensors[i].rows * ROW(tensors[i].columns) : tensors[i].rows * sizeof(float);
}

static void add_key(struct gguf_file *f, const struct key *k)
{
    unsigned char byte = (unsigned char)k->number;

    gguf_add_key(f, k->key, k->type);
    if (k->type == 8)
        gguf_add_text(f, k->text);
    else if (k->type == 7)
        gguf_add(f, &byte, 1);
    else
        gguf_add32(f, k->number);
}

/* What a file has otherwise: a key changed, or one more; a tensor of another name; tensors from .. to - 1 only. */
struct change {
    struct key key;
    const char *without; /* this key */
    const char *from_name, *to_name;
    size_t from, to;
    const float *factors; /* [HEAD / 2]: behind all, rope_freqs.weight */
};

static void make(struct gguf_file *f, const struct change *c)
{
    size_t to = c->to ? c->to : TENSORS, n = KEYS, added = 0;
    uint64_t at = 0;

    for (size_t i = 0; i < KEYS; i++) {
        n -= c->without && strcmp(keys[i].key, c->without) == 0;
        added |= c->key.key && strcmp(keys[i].key, c->key.key) == 0;
    }
    gguf_begin(f, to - c->from + (c->factors != NULL), n + (c->key.key && !added) + (c->to ? 2 : 0));
    for (size_t i = 0; i < KEYS; i++)
        if (!c->without || strcmp(keys[i].key, c->without) != 0)
            add_key(f, c->key.key && strcmp(keys[i].key, c->key.key) == 0 ? &c->key : &keys[i]);
    if (c->key.key && !added)
        add_key(f, &c->key);
    if (c->to) {
        add_key(f, &(struct key){"split.count", NULL, 4, 2});
        add_key(f, &(struct key){"split.no", NULL, 4, c->from > 0});
    }
    for (size_t i = c->from; i < to; i++) {
        uint64_t shape[2] = {tensors[i].columns ? tensors[i].columns : tensors[i].rows, tensors[i].rows};
        bool renamed = c->from_name && strcmp(tensors[i].name, c->from_name) == 0;

        gguf_add_tensor(f, renamed ? c->to_name : tensors[i].name, tensors[i].columns ? 2 : 1, shape,
                        tensors[i].columns ? Q8_0 : 0, at);
        at += (bytes_of(i) + 31) / 32 * 32;
    }
    if (c->factors)
        gguf_add_tensor(f, "rope_freqs.weight", 1, (uint64_t[]){HEAD / 2}, 0, at);
    gguf_end(f, 32, at + (c->factors ? HEAD / 2 * sizeof(float) : 0));
    if (c->factors)
        memcpy(f->bytes + f->data + at, c->factors, HEAD / 2 * sizeof(float));
}

/* Quants of any value, scales of about 1/1000; norms of about 1. */
static void fill(struct gguf_file *f, size_t from, size_t to)
{
    unsigned char *p = f->bytes + f->data;
    struct random random = {9};

    for (size_t i = 0; i < to; i++) {
        unsigned char *begin = p;

        for (uint64_t k = 0; k < bytes_of(i); k++) {
            unsigned char byte = (unsigned char)(random_next(&random) >> 33);

            if (tensors[i].columns)
                byte = k % 34 == 1 ? 0x14 : byte;
            else
                byte = k % 4 == 3 ? 0x3f : k % 4 == 2 ? byte & 0x1f : byte;
            if (i >= from)
                *p++ = byte;
        }
        p = i >= from ? begin + (bytes_of(i) + 31) / 32 * 32 : p;
    }
}

static char *put(const char *name, const struct gguf_file *f)
{
    char *path = files_path(dir, name);

    gguf_put(path, f->bytes, f->count);
    return path;
}

/* ---- configuration ------------------------------------------------------------ */

static void configuration(void **state)
{
    struct llama_config c;
    struct gguf_file f;
    char error[ERROR], *path;

    (void)state;
    make(&f, &(struct change){.to = 0});
    path = put("m.gguf", &f);
    assert_true(llama_gguf_is(path) && !llama_gguf_is(dir));
    if (llama_config_load(path, &c, error, sizeof error) < 0)
        fail_msg("%s", error);
    assert_true(c.shape.layers == LAYERS && c.shape.hidden == HIDDEN && c.shape.heads == HEADS);
    assert_true(c.shape.kv_heads == HEADS && c.shape.head_dim == HEAD && c.shape.ffn == FFN);
    assert_true(c.shape.vocab == VOCAB && c.shape.max_positions == 128 && c.shape.rms_eps == 1e-5f);
    assert_true(c.shape.tied && c.shape.rope_pairs && c.shape.rope.kind == LLAMA_ROPE_PLAIN);
    assert_true(c.bos_id == 1 && c.eos_count == 1 && c.eos_ids[0] == 2);
    make(&f, &(struct change){.key = {"tokenizer.ggml.add_bos_token", NULL, 7, 0}});
    free(put("m.gguf", &f));
    assert_int_equal(llama_config_load(path, &c, error, sizeof error), 0);
    assert_int_equal(c.bos_id, -1);
    make(&f, &(struct change){.from_name = "output_norm.weight", .to_name = "output.weight"});
    free(put("m.gguf", &f));
    assert_int_equal(llama_config_load(path, &c, error, sizeof error), 0);
    assert_false(c.shape.tied);
    free(path);
}

static void refused_by_name(void **state)
{
    static const struct {
        struct change change;
        const char *words;
    } cases[] = {
        {{.without = "general.architecture"}, "general.architecture is missing: not a model in GGUF"},
        {{.key = {"general.architecture", "mamba", 8, 0}}, "architecture \"mamba\""},
        {{.without = "llama.block_count"}, "llama.block_count is missing"},
        {{.key = {"llama.block_count", "one", 8, 0}}, "llama.block_count is not an integer"},
        {{.key = {"llama.block_count", NULL, 5, UINT32_MAX}}, "llama.block_count is -1"},
        {{.without = "llama.attention.layer_norm_rms_epsilon"}, "layer_norm_rms_epsilon is missing"},
        {{.key = {"llama.attention.layer_norm_rms_epsilon", NULL, 6, 0x7fc00000}}, "epsilon is nan"},
        {{.key = {"llama.attention.head_count", NULL, 4, 0}}, "head_count is 0"},
        {{.key = {"llama.attention.head_count_kv", NULL, 4, 3}}, "not a multiple of num_key_value_heads 3"},
        {{.key = {"llama.attention.value_length", NULL, 4, 16}}, "32 for keys and 16 for values"},
        {{.key = {"llama.embedding_length", NULL, 4, 4096}}, "heads of 2048: at most 1024"},
        {{.key = {"llama.expert_count", NULL, 4, 8}}, "llama.expert_count is 8"},
        {{.key = {"llama.rope.dimension_count", NULL, 4, 16}}, "dimension_count is 16 of heads of 32"},
        {{.key = {"llama.rope.scaling.type", "yarn", 8, 0}}, "llama.rope.scaling.type \"yarn\""},
        {{.key = {"llama.rope.scaling.type", "linear", 8, 0}}, "llama.rope.scaling.factor is missing"},
        {{.key = {"llama.attention.sliding_window", NULL, 4, 64}}, "sliding_window is 64"},
        {{.key = {"tokenizer.ggml.bos_token_id", NULL, 4, VOCAB}}, "bos_token_id"},
        {{.key = {"tokenizer.ggml.eos_token_id", NULL, 4, VOCAB}}, "eos_token_id"},
        {{.key = {"split.count", NULL, 4, 3}},
         "the first of 3 parts, but its name does not end in -00001-of-00003"},
        {{.from_name = "token_embd.weight", .to_name = "embd"}, "no matrix token_embd.weight"},
        {{.from_name = "output_norm.weight", .to_name = "rope_freqs.weight"}, "rope_freqs.weight"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llama_config c;
        struct gguf_file f;
        char error[ERROR] = "", *path;

        make(&f, &cases[i].change);
        path = put("m.gguf", &f);
        assert_true(llama_config_load(path, &c, error, sizeof error) < 0);
        if (!strstr(error, cases[i].words))
            fail_msg("%zu: no \"%s\" in: %s", i, cases[i].words, error);
        assert_non_null(strstr(error, path));
        free(path);
    }
}

/* ---- tensors -------------------------------------------------------------------- */

static struct ofl_ctx *open_ctx(void)
{
    const struct ofl_config config = {
        .size = sizeof config, .device_bytes = 8 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct ofl_ctx *ctx;

    assert_int_equal(ofl_open(&config, &ctx), 0);
    return ctx;
}

static void expect_refused(const char *path, const char *words)
{
    struct ofl_ctx *ctx = open_ctx();
    const struct llama_shape shape = {.layers = LAYERS,
                                      .hidden = HIDDEN,
                                      .heads = HEADS,
                                      .kv_heads = HEADS,
                                      .head_dim = HEAD,
                                      .ffn = FFN,
                                      .vocab = VOCAB,
                                      .tied = true};
    struct llama_checkpoint *ck = NULL;
    char error[ERROR] = "";

    assert_true(llama_checkpoint_open(ctx, path, &shape, &ck, error, sizeof error) < 0);
    if (!strstr(error, words))
        fail_msg("no \"%s\" in: %s", words, error);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void wrong_tensors(void **state)
{
    struct gguf_file f;
    char *path, *second;

    (void)state;
    make(&f, &(struct change){.from_name = "blk.0.attn_q.weight", .to_name = "blk.00.attn_q.weight"});
    path = put("m.gguf", &f);
    expect_refused(path, "blk.00.attn_q.weight: not a tensor of a model of type llama, 1 layers");
    make(&f, &(struct change){.from_name = "blk.0.ffn_up.weight", .to_name = "blk.1.ffn_up.weight"});
    free(put("m.gguf", &f));
    expect_refused(path, "blk.1.ffn_up.weight: not a tensor");
    make(&f, &(struct change){.from_name = "blk.0.ffn_down.weight", .to_name = "blk.0.ffn_up.weight"});
    free(put("m.gguf", &f));
    expect_refused(path, "\"blk.0.ffn_up.weight\": it is there twice");
    make(&f, &(struct change){.from_name = "blk.0.ffn_down.weight", .to_name = "blk.0.attn_norm.weight"});
    free(put("m.gguf", &f));
    expect_refused(path, "it is there twice");
    free(path);

    make(&f, &(struct change){.to = 4});
    path = put("p-00001-of-00002.gguf", &f);
    expect_refused(path, "p-00002-of-00002.gguf: No such file");
    make(&f, &(struct change){.from = 4, .to = TENSORS - 1});
    second = put("p-00002-of-00002.gguf", &f);
    expect_refused(path, "output_norm.weight is missing");
    expect_refused(second, "part 2 of 2: name the first one");
    make(&f, &(struct change){.from = 3, .to = TENSORS});
    free(put("p-00002-of-00002.gguf", &f));
    expect_refused(path, "blk.0.attn_k.weight: another file has it too");
    make(&f, &(struct change){.to = 4});
    free(put("p-00002-of-00002.gguf", &f));
    expect_refused(path, "it is part 1 of 2, not 2 of 2");
    remove(path);
    remove(second);
    free(path);
    free(second);
}

/* ---- logits ----------------------------------------------------------------------- */

/* What the file has, as F32, in a directory: rows of Q and K half a head apart, if they are to be. */
static void put_directory(const struct gguf_file *f, bool apart)
{
    const unsigned char *p = f->bytes + f->data;
    json_t *all = json_object();
    unsigned char *file;
    char *path = files_path(dir, "model.safetensors");
    size_t count, at;

    for (size_t i = 0; i < TENSORS; i++) {
        uint64_t shape[2] = {tensors[i].rows, tensors[i].columns};

        json_object_set_new(all, tensors[i].hf, files_tensor("F32", tensors[i].columns ? 2 : 1, shape));
    }
    files_put_safetensors(dir, "model.safetensors", all);
    json_decref(all);
    file = files_get(path, &count);
    at = count;
    for (size_t i = 0; i < TENSORS; i++)
        at -= tensors[i].rows * (tensors[i].columns ? tensors[i].columns : 1) * sizeof(float);
    for (size_t i = 0; i < TENSORS; i++) {
        uint64_t columns = tensors[i].columns ? tensors[i].columns : 1, elems = tensors[i].rows * columns;
        float *values = malloc(elems * sizeof *values);
        struct ofl_landing l = {
            .size = sizeof l, .dtype = OFL_Q8_0, .to = OFL_F32, .elems = elems, .packed = p, .out = values};

        if (tensors[i].columns)
            assert_int_equal(ofl_landing_run(&l), 0);
        else
            memcpy(values, p, bytes_of(i));
        for (uint64_t r = 0; r < tensors[i].rows; r++) {
            uint64_t to = r, in = r % HEAD;

            if (apart && (i == 2 || i == 3))
                to = r - in + in % 2 * (HEAD / 2) + in / 2;
            memcpy(file + at + to * columns * sizeof(float), values + r * columns, columns * sizeof(float));
        }
        at += elems * sizeof(float);
        p += (bytes_of(i) + 31) / 32 * 32;
        free(values);
    }
    files_put(dir, "model.safetensors", file, count);
    free(file);
    free(path);
}

static void logits_of(const char *model, const struct llama_shape *shape, float *logits)
{
    static const int32_t tokens[TOKENS] = {1, 17, 4, 39, 8};
    struct llama_generator_config config = {.shape = *shape, .positions = 16, .piece = TOKENS};
    struct ofl_ctx *ctx = open_ctx();
    struct llama_checkpoint *ck;
    struct llama_generator *g = NULL;
    char error[ERROR] = "";

    if (llama_checkpoint_open(ctx, model, shape, &ck, error, sizeof error) < 0 ||
        llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0 ||
        llama_generator_feed(g, NULL, tokens, TOKENS, logits, error, sizeof error) < 0 ||
        llama_generator_feed(g, "decode", tokens, 1, logits, error, sizeof error) < 0)
        fail_msg("%s: %s", model, error);
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void logits_of_the_same_numbers(void **state)
{
    float whole[VOCAB], parts[VOCAB], plain[VOCAB], wrong[VOCAB];
    struct llama_config c;
    struct llama_shape shape;
    struct gguf_file f;
    char error[ERROR], *path, *first;

    (void)state;
    make(&f, &(struct change){.to = 4});
    fill(&f, 0, 4);
    first = put("p-00001-of-00002.gguf", &f);
    make(&f, &(struct change){.from = 4, .to = TENSORS});
    fill(&f, 4, TENSORS);
    free(put("p-00002-of-00002.gguf", &f));
    make(&f, &(struct change){.to = 0});
    fill(&f, 0, TENSORS);
    path = put("m.gguf", &f);
    assert_int_equal(llama_config_load(path, &c, error, sizeof error), 0);
    logits_of(path, &c.shape, whole);
    assert_int_equal(llama_config_load(first, &c, error, sizeof error), 0);
    logits_of(first, &c.shape, parts);
    assert_memory_equal(whole, parts, sizeof whole);
    shape = c.shape;
    shape.rope_pairs = false;
    put_directory(&f, true);
    logits_of(dir, &shape, plain);
    assert_true(largest_difference(whole, plain, VOCAB) < 1e-5f);
    put_directory(&f, false);
    logits_of(dir, &shape, wrong);
    assert_true(largest_difference(whole, wrong, VOCAB) > 1e-3f);
    free(path);
    free(first);
}

/* As files of Llama 3.1 have them. Without them, and in a part that nobody reads, the numbers are others. */
static void factors_of_frequencies(void **state)
{
    float factors[HEAD / 2], with[VOCAB], plain[VOCAB], without[VOCAB];
    struct llama_config c;
    struct llama_shape shape;
    struct gguf_file f;
    char error[ERROR] = "", *path;

    (void)state;
    for (int i = 0; i < HEAD / 2; i++)
        factors[i] = i < 3 ? 1 : 1 + 0.5f * (float)i;
    make(&f, &(struct change){.factors = factors});
    fill(&f, 0, TENSORS);
    path = put("m.gguf", &f);
    if (llama_config_load(path, &c, error, sizeof error) < 0)
        fail_msg("%s", error);
    logits_of(path, &c.shape, with);
    shape = c.shape;
    shape.rope_pairs = false;
    put_directory(&f, true);
    logits_of(dir, &shape, plain);
    assert_true(largest_difference(with, plain, VOCAB) < 1e-5f);
    shape.rope.kind = LLAMA_ROPE_PLAIN;
    logits_of(dir, &shape, without);
    assert_true(largest_difference(with, without, VOCAB) > 1e-3f);
    factors[5] = 0;
    make(&f, &(struct change){.factors = factors});
    free(put("m.gguf", &f));
    assert_true(llama_config_load(path, &c, error, sizeof error) < 0);
    assert_non_null(strstr(error, "rope_freqs.weight: element 5 is 0"));
    factors[5] = 2;
    make(&f, &(struct change){.factors = factors, .key = {"llama.rope.scaling.type", "linear", 8, 0}});
    free(put("m.gguf", &f));
    assert_true(llama_config_load(path, &c, error, sizeof error) < 0);
    assert_non_null(strstr(error, "rope_freqs.weight beside llama.rope.scaling.type \"linear\""));
    make(&f, &(struct change){.to = 4});
    fill(&f, 0, 4);
    free(path);
    path = put("p-00001-of-00002.gguf", &f);
    factors[5] = 3;
    make(&f, &(struct change){.from = 4, .to = TENSORS, .factors = factors});
    fill(&f, 4, TENSORS);
    free(put("p-00002-of-00002.gguf", &f));
    expect_refused(path, "rope_freqs.weight: not a tensor");
    free(path);
}

static int make_dir(void **state)
{
    (void)state;
    dir = files_dir("/var/tmp", "ofl-test-gguf");
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    files_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration),          cmocka_unit_test(refused_by_name),
        cmocka_unit_test(wrong_tensors),          cmocka_unit_test(logits_of_the_same_numbers),
        cmocka_unit_test(factors_of_frequencies),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
