/*
 * gpt_oss whose experts are MXFP4 (gate_up_proj_blocks, _scales and so on): logits are those of the same numbers in F32, in
 * the form [experts, inputs, outputs] that tests/test_families.c compares with transformers, in the smallest device too, with
 * the same bits there; matrices that are cut by rows included. What does not fit together is refused with its name.
 *
 * Negative controls: a changed byte of each part changes the logits; a model without changes opens.
 */
#include <math.h>
#include <errno.h>
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
#include "tests/model_fixture.h"

#define ERROR     512
#define TOLERANCE 1e-5f

enum { VOCAB = 40, TOKENS = 24 };

static char *root;

/* As wide as it says. */
static json_t *config_of(uint32_t hidden, uint32_t ffn)
{
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:{s:s, s:f}, s:{s:s}}",
        "model_type", "gpt_oss", "hidden_size", hidden, "intermediate_size", ffn, "num_hidden_layers",
        ffn > 1000 ? 1 : 2, "num_attention_heads", 2, "num_key_value_heads", 1, "head_dim", 32, "vocab_size",
        VOCAB, "num_local_experts", 4, "num_experts_per_tok", 2, "max_position_embeddings", 64,
        "sliding_window", 8, "tie_word_embeddings", 0, "attention_bias", 1, "rope_parameters", "rope_type",
        "default", "rope_theta", 10000.0, "quantization_config", "quant_method", "mxfp4");
}

static uint32_t mixed(uint32_t number, uint64_t i)
{
    uint32_t x = (uint32_t)i * 2654435761u + number * 97u;

    x ^= x >> 15;
    x *= 2246822519u;
    return x ^ x >> 13;
}

static unsigned char block_at(uint32_t number, uint64_t i)
{
    return (unsigned char)mixed(number, i);
}

static unsigned char scale_at(uint32_t number, uint64_t i)
{
    return (unsigned char)(120 + mixed(number + 1, i) % 4);
}

/* OCP Microscaling Formats 1.0: E2M1, times 2^(scale - 127) of 32 numbers. */
static float value_at(uint32_t number, uint64_t i)
{
    static const float numbers[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    unsigned nibble = block_at(number, i / 2) >> (i % 2 ? 4 : 0) & 15;

    return ldexpf(nibble & 8 ? -numbers[nibble & 7] : numbers[nibble & 7], scale_at(number, i / 32) - 127);
}

/* ---- files -------------------------------------------------------------------- */

/* A tensor of the file: the stored one that it is of, and what of it. */
struct part {
    struct llama_stored s;
    enum { PLAIN, BLOCKS, SCALES, TURNED } what;
};

static bool is_packed(const struct llama_stored *s)
{
    return strstr(s->name, "experts.") && !strstr(s->name, "bias");
}

static void describe(json_t *all, const struct part *p, uint32_t experts)
{
    uint64_t rows = p->s.shape[0] / experts, columns = p->s.shape[1],
             blocks[4] = {experts, rows, columns / 32, 16}, turned[3] = {experts, columns, rows};
    char name[128];

    snprintf(name, sizeof name, "%s%s", p->s.name,
             p->what == BLOCKS   ? "_blocks"
             : p->what == SCALES ? "_scales"
                                 : "");
    json_object_set_new(all, name,
                        p->what == PLAIN    ? files_tensor("F32", p->s.dims, p->s.shape)
                        : p->what == TURNED ? files_tensor("F32", 3, turned)
                                            : files_tensor("U8", p->what == BLOCKS ? 4 : 3, blocks));
}

/* Returns the bytes. */
static size_t fill(unsigned char *to, const struct part *p, uint32_t experts)
{
    uint64_t rows = p->s.shape[0] / experts, columns = p->s.shape[1], n = p->s.elems;
    float scale = strstr(p->s.name, "norm") ? 1 : 0;

    for (uint64_t i = 0; p->what == BLOCKS && i < n / 2; i++)
        to[i] = block_at(p->s.first, i);
    for (uint64_t i = 0; p->what == SCALES && i < n / 32; i++)
        to[i] = scale_at(p->s.first, i);
    for (uint64_t i = 0; p->what == PLAIN && i < n; i++) {
        float v = scale + (float)(mixed(p->s.first, i) % 33) / 128 - 16.0f / 128;

        memcpy(to + 4 * i, &v, 4);
    }
    for (uint64_t i = 0; p->what == TURNED && i < n; i++) {
        uint64_t row = i / columns, at = (row / rows * columns + i % columns) * rows + row % rows;
        float v = value_at(p->s.first, i);

        memcpy(to + 4 * at, &v, 4);
    }
    return p->what == BLOCKS ? n / 2 : p->what == SCALES ? n / 32 : 4 * n;
}

/* flip: of the last layer, part of the name of a tensor whose last byte changes. */
static void put_model(char *dir, uint32_t hidden, uint32_t ffn, bool packed, const char *flip)
{
    json_t *config = config_of(hidden, ffn), *all = json_object();
    char error[ERROR] = "", *path = files_path(dir, "model.safetensors");
    struct part parts[128];
    unsigned char *file;
    struct llama_config c;
    size_t count = 0, bytes, at;

    files_put_json(dir, "config.json", json_deep_copy(config));
    if (llama_config_load(dir, &c, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (uint32_t i = 0; i < llama_tensor_count(&c.shape); i += parts[count - 1].s.count) {
        struct part p = {0};

        llama_stored_at(&c.shape, i, &p.s);
        p.what = !is_packed(&p.s) ? PLAIN : packed ? BLOCKS : TURNED;
        parts[count++] = p;
        if (p.what == BLOCKS) {
            p.what = SCALES;
            parts[count++] = p;
        }
        assert_true(count < 127);
    }
    for (size_t i = 0; i < count; i++)
        describe(all, &parts[i], c.shape.experts);
    if (!packed) {
        json_object_del(config, "quantization_config");
        files_put_json(dir, "config.json", json_incref(config));
    }
    files_put_safetensors(dir, "model.safetensors", all);
    file = files_get(path, &bytes);
    at = 8 + file[0] + ((size_t)file[1] << 8);
    for (size_t i = 0; i < count; i++) {
        at += fill(file + at, &parts[i], c.shape.experts);
        if (flip && strstr(flip, "_blocks") && parts[i].what == BLOCKS)
            file[at - 1] ^= strstr(parts[i].s.name, "down") && strstr(flip, "down") ? 0x22 : 0;
        else if (flip && parts[i].what == SCALES)
            file[at - 1] ^=
                (strstr(parts[i].s.name, "down") != NULL) == (strstr(flip, "down") != NULL) ? 2 : 0;
    }
    assert_true(at == bytes);
    files_put(dir, "model.safetensors", file, bytes);
    json_decref(config);
    json_decref(all);
    free(file);
    free(path);
}

/* ---- runs ----------------------------------------------------------------------- */

static struct ofl_ctx *open_ctx(uint64_t device_bytes)
{
    const struct ofl_config config = {
        .size = sizeof config, .device_bytes = device_bytes, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct ofl_ctx *ctx;

    if (ofl_open(&config, &ctx) < 0)
        fail_msg("%s", ofl_error());
    return ctx;
}

static void logits_of(const char *dir, bool little, float *logits)
{
    struct llama_generator_config config = {.positions = TOKENS + 1, .piece = TOKENS};
    struct llama_generator_need need;
    struct llama_checkpoint *ck;
    struct llama_generator *g;
    struct llama_config c;
    struct ofl_ctx *ctx = open_ctx(1 << 20);
    enum ofl_dtype dtypes[128];
    char error[ERROR] = "";
    int32_t tokens[TOKENS];

    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(mixed(77, i) % VOCAB);
    for (int again = 0; again < 2; again++) {
        if (llama_checkpoint_config(dir, &c, error, sizeof error) < 0 ||
            llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error) < 0)
            fail_msg("%s", error);
        if (again)
            break;
        config.shape = c.shape;
        llama_checkpoint_packings(ck, &config.shape);
        assert_true(llama_tensor_count(&c.shape) <= 128);
        for (uint32_t i = 0; i < llama_tensor_count(&c.shape); i++) {
            struct ofl_source *source;
            const char *name;

            llama_checkpoint_find(ck, i, &source, &name, &dtypes[i]);
        }
        llama_generator_need(&config, dtypes, &need);
        assert_true(need.device.device_bytes < need.device_all_bytes);
        llama_checkpoint_close(ck);
        assert_int_equal(fixture_ctx_close(ctx), 0);
        ctx = open_ctx(little ? need.device.device_bytes : need.device_all_bytes);
    }
    if (llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0 ||
        llama_generator_feed(g, NULL, tokens, TOKENS, logits, error, sizeof error) < 0)
        fail_msg("%s", error);
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static void logits_of_the_same_numbers(void **state)
{
    static const uint32_t sizes[][2] = {{64, 32},
                                        {96, 96},     /* down is square */
                                        {64, 16448}}; /* the last one's are cut */
    char *dir = files_dir(root, "model");

    (void)state;
    for (size_t i = 0; i < (getenv("OFL_TEST_LIGHT") ? 2 : 3); i++) {
        float plain[VOCAB], packed[VOCAB], little[VOCAB];

        put_model(dir, sizes[i][0], sizes[i][1], false, NULL);
        logits_of(dir, false, plain);
        put_model(dir, sizes[i][0], sizes[i][1], true, NULL);
        logits_of(dir, false, packed);
        logits_of(dir, true, little);
        if (!(largest_difference(plain, packed, VOCAB) < TOLERANCE * (1 + fabsf(plain[0]))))
            fail_msg("%u, %u: logits are off by %g", sizes[i][0], sizes[i][1],
                     (double)largest_difference(plain, packed, VOCAB));
        assert_memory_equal(packed, little, sizeof packed);
    }
    files_remove(dir);
}

static void every_part_counts(void **state)
{
    static const char *const parts[] = {"down_blocks", "down_scales", "gate_up_scales"};
    char *dir = files_dir(root, "model");
    float right[VOCAB], changed[VOCAB];

    (void)state;
    put_model(dir, 64, 32, true, NULL);
    logits_of(dir, false, right);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        put_model(dir, 64, 32, true, parts[i]);
        logits_of(dir, false, changed);
        if (!(largest_difference(right, changed, VOCAB) > 0))
            fail_msg("%s does not count", parts[i]);
    }
    files_remove(dir);
}

/* ---- refusals ----------------------------------------------------------------------- */

static void refused_by_name(void **state)
{
#define EXPERTS "model.layers.1.mlp.experts."
    static const struct {
        const char *config, *tensors, *says; /* says NULL: opens */
    } cases[] = {
        {NULL, NULL, NULL},
        {NULL, "{\"" EXPERTS "down_proj_scales\": \"-\"}", "its scales are missing"},
        {NULL, "{\"" EXPERTS "down_proj_blocks\": \"-\"}", "its numbers are missing"},
        {NULL, "{\"" EXPERTS "down_proj_blocks\": [\"U8\", 4, 96, 3, 15]}",
         "4 experts of 96 rows of 3 groups"},
        {NULL, "{\"" EXPERTS "gate_up_proj_scales\": [\"F32\", 4, 192, 3]}", "4 experts of 192 rows"},
        {NULL, "{\"" EXPERTS "gate_up_proj_scales\": [\"U8\", 192, 4, 3]}", "4 experts of 192 rows"},
        {NULL,
         "{\"" EXPERTS "down_proj_blocks\": \"-\", \"" EXPERTS "down_proj_scales\": \"-\", \"" EXPERTS
         "down_proj\": [\"BF16\", 4, 96, 96]}",
         EXPERTS "down_proj"},
        {NULL, "{\"" EXPERTS "down_proj\": [\"BF16\", 384, 96]}", "it is there as"},
        {NULL,
         "{\"" EXPERTS "down_proj_blocks\": \"-\", \"" EXPERTS "down_proj_scales\": \"-\", \"" EXPERTS
         "down_proj\": [\"BF16\", 384, 96]}",
         "down_proj_blocks is missing"},
        {"{\"quantization_config\": {\"quant_method\": \"mxfp4\"}, \"model_type\": \"llama\"}", NULL,
         "mxfp4 of gpt_oss"},
        {"{\"quantization_config\": \"-\"}", NULL, "not a tensor of a model"},
    };
    char *dir = files_dir(root, "model"), error[ERROR];

    (void)state;
    put_model(dir, 96, 96, true, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ofl_ctx *ctx = open_ctx(1 << 20);
        json_t *config = config_of(96, 96), *all = json_object();
        struct llama_checkpoint *ck = NULL;
        struct llama_config c;
        int err;

        files_put_json(dir, "config.json", json_deep_copy(config));
        assert_int_equal(llama_config_load(dir, &c, error, sizeof error), 0);
        for (uint32_t k = 0, n; k < llama_tensor_count(&c.shape); k += n) {
            struct part p = {0};

            llama_stored_at(&c.shape, k, &p.s);
            n = p.s.count;
            p.what = is_packed(&p.s) ? BLOCKS : PLAIN;
            describe(all, &p, c.shape.experts);
            p.what = p.what == BLOCKS ? SCALES : PLAIN;
            describe(all, &p, c.shape.experts);
        }
        files_change(all, cases[i].tensors);
        files_put_safetensors(dir, "model.safetensors", all);
        files_change(config, cases[i].config);
        files_put_json(dir, "config.json", config);
        err = llama_checkpoint_config(dir, &c, error, sizeof error);
        if (err == 0)
            err = llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error);
        if (cases[i].says ? (err != -OFL_EFORMAT && err != -ENOTSUP) || !strstr(error, cases[i].says)
                          : err < 0)
            fail_msg("%s: %s", cases[i].says ? cases[i].says : "opens", err < 0 ? error : "accepted");
        if (err == 0)
            llama_checkpoint_close(ck);
        json_decref(all);
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
    files_remove(dir);
}

static int set_up(void **state)
{
    (void)state;
    root = files_dir("/var/tmp", "ofl-test-packed-experts");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    files_remove(root);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_of_the_same_numbers),
        cmocka_unit_test(every_part_counts),
        cmocka_unit_test(refused_by_name),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
