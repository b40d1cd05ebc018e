/*
 * Adapters over frozen weights, against PEFT: tests/golden/lora.json, made by tools/golden_lora.py. Proves for each case
 * (LoRA, rsLoRA, DoRA; matrices that files store as one) that
 *  - an adapter in PEFT's layout is read; losses of 8 training steps are within 1e-4, gradient norms within 1e-3 of their
 *    size, and the loss behind them within 1e-4;
 *  - the smallest budgets without a store give the bits of everything in memory, and write nothing to a drive;
 *  - a base whose rows of Q and K are paired, as in GGUF files, gives the same figures;
 *  - what is written reads back bit by bit; merged into a model it gives the logits that the generator has with it.
 * And: what dropout leaves out depends on the step alone, and evaluation drops nothing;
 * adapters that aren't supported are refused by name.
 * Negative controls: another scale, another rank's scale and a missing gain show; a figure off by its bound is refused.
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

#include "examples/model/generator.h"
#include "examples/model/lora_file.h"
#include "examples/model/output.h"
#include "examples/model/merge.h"
#include "examples/model/trainer.h"
#include "tests/llama_reference.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

#define GOLDEN      "tests/golden/lora.json"
#define ERROR_BYTES 1024
#define LOSS        1e-4
#define NORM        1e-3
#define LOGITS      1e-4

enum { STEPS = 8, BATCH = 2, SEQ = 48, COUNT = BATCH * SEQ, PROMPT = 70, VOCAB = 260 };

static char root[256];
static json_t *golden;

static int load_golden(void **state)
{
    (void)state;
    golden = json_load_file(GOLDEN, 0, NULL);
    if (!golden)
        fprintf(stderr, "%s: run from the repository's root\n", GOLDEN);
    return golden ? temporary_dir("lora", root, sizeof root) : -1;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(golden);
    files_remove(strdup(root));
    return 0;
}

static const json_t *case_at(size_t i)
{
    return json_array_get(json_object_get(golden, "cases"), i);
}

static const char *name_of(const json_t *c)
{
    return json_string_value(json_object_get(c, "name"));
}

/* ---- files ----------------------------------------------------------------- */

/* FNV-1a. */
static uint32_t stream_of(const char *name)
{
    uint32_t h = 0x811c9dc5u;

    while (*name)
        h = (h ^ (unsigned char)*name++) * 0x01000193u;
    return h;
}

static FILE *open_data(const char *dir, const char *name)
{
    char *path = files_path(dir, name);
    FILE *f = fopen(path, "r+b");
    uint64_t header;

    free(path);
    assert_non_null(f);
    assert_int_equal(fread(&header, sizeof header, 1, f), 1);
    assert_int_equal(fseek(f, (long)(8 + header), SEEK_SET), 0);
    return f;
}

/* Rows of heads as GGUF files pair them. */
static void pair_rows(float *v, uint64_t rows, uint64_t columns, uint64_t dim)
{
    float *copy = ref_floats(rows * columns);

    memcpy(copy, v, rows * columns * sizeof *v);
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t i = r % dim, from = r - i + i / 2 + i % 2 * (dim / 2);

        memcpy(v + r * columns, copy + from * columns, columns * sizeof *v);
    }
    free(copy);
}

static void put_base(const char *dir, const struct llama_shape *shape, bool paired)
{
    FILE *f = open_data(dir, "model.safetensors");
    struct llama_stored s;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count) {
        bool norm, turned;
        float *v;

        llama_stored_at(shape, i, &s);
        norm = strlen(s.name) > 11 && strcmp(s.name + strlen(s.name) - 11, "norm.weight") == 0;
        turned = strstr(s.name, "q_proj.weight") || strstr(s.name, "k_proj.weight");
        v = ref_random(s.elems, stream_of(s.name), strstr(s.name, "embed_tokens") ? 1 : 0.25f,
                       norm ? 1 - shape->norm_offset : 0);
        if (paired && turned)
            pair_rows(v, s.shape[0], s.shape[1], shape->head_dim);
        assert_int_equal(fwrite(v, sizeof *v, s.elems, f), s.elems);
        free(v);
    }
    assert_int_equal(fclose(f), 0);
}

/* The directory of a case's model; for files_remove. */
static char *make_base(const json_t *c, bool paired, struct llama_config *config)
{
    char *dir = files_dir(root, "model"), error[ERROR_BYTES] = "";
    json_t *tensors = json_object();
    struct llama_stored s;

    files_put_json(dir, "config.json", json_deep_copy(json_object_get(c, "config")));
    if (llama_config_load(dir, config, error, sizeof error) < 0)
        fail_msg("%s: %s", name_of(c), error);
    for (uint32_t i = 0; i < llama_tensor_count(&config->shape); i += s.count) {
        llama_stored_at(&config->shape, i, &s);
        json_object_set_new(tensors, s.name, files_tensor("F32", s.dims, s.shape));
    }
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    put_base(dir, &config->shape, paired);
    config->shape.rope_pairs = paired;
    return dir;
}

/* That of its adapter, with PEFT's names of the first layer's tensors for all. */
static char *make_adapter(const json_t *c, const struct llama_shape *shape)
{
    static const char first[] = "base_model.model.model.layers.0.";
    char *dir = files_dir(root, "adapter"), name[160];
    json_t *tensors = json_object(), *value;
    const char *key;
    FILE *f;

    files_put_json(dir, "adapter_config.json", json_deep_copy(json_object_get(c, "adapter_config")));
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        json_object_foreach(json_object_get(c, "tensors"), key, value)
        {
            uint64_t dims[2] = {(uint64_t)json_integer_value(json_array_get(value, 0)),
                                (uint64_t)json_integer_value(json_array_get(value, 1))};

            snprintf(name, sizeof name, "base_model.model.model.layers.%u.%s", layer, key + sizeof first - 1);
            json_object_set_new(tensors, name, files_tensor("F32", (uint32_t)json_array_size(value), dims));
        }
    files_put_safetensors(dir, "adapter_model.safetensors", tensors);
    f = open_data(dir, "adapter_model.safetensors");
    json_object_foreach(tensors, key, value)
    {
        const json_t *dims = json_object_get(value, "shape");
        uint64_t n = (uint64_t)json_integer_value(json_array_get(dims, 0));
        bool magnitude = strstr(key, "magnitude");
        float *v;

        n *= magnitude ? 1 : (uint64_t)json_integer_value(json_array_get(dims, 1));
        v = ref_random(n, stream_of(key), strstr(key, "lora_B") ? 0.0625f : 0.25f, magnitude ? 1 : 0);
        assert_int_equal(fwrite(v, sizeof *v, n, f), n);
        free(v);
    }
    assert_int_equal(fclose(f), 0);
    json_decref(tensors);
    return dir;
}

/* ---- training -------------------------------------------------------------- */

struct figures {
    double losses[STEPS], norms[STEPS], after;
    uint64_t adapters; /* hash of all their bits */
};

struct setting {
    struct llama_lora lora;
    bool small;
    const char *adapter; /* NULL: first values */
    const char *out;     /* NULL: not written */
    int steps;
};

static void hashed_tokens(uint64_t stream, int32_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)(ref_hash(stream, i) % 250);
}

static int put(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
               size_t error_bytes)
{
    (void)error;
    (void)error_bytes;
    return ofl_tensor_write(llama_trainer_adapter(arg, index), 0, values, t->elems * sizeof *values);
}

static int get(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
               size_t error_bytes)
{
    (void)error;
    (void)error_bytes;
    return ofl_tensor_read(llama_trainer_adapter(arg, index), 0, values, t->elems * sizeof *values);
}

static uint64_t hash_adapters(struct llama_trainer *t)
{
    uint64_t h = 0xcbf29ce484222325u;
    struct ofl_tensor *tensor;

    for (uint32_t i = 0; (tensor = llama_trainer_adapter(t, i)) != NULL; i++) {
        struct ofl_tensor_info info = {.size = sizeof info};
        unsigned char *bytes;

        assert_int_equal(ofl_tensor_info_get(tensor, &info), 0);
        bytes = malloc(info.bytes);
        assert_non_null(bytes);
        assert_int_equal(ofl_tensor_read(tensor, 0, bytes, info.bytes), 0);
        for (uint64_t k = 0; k < info.bytes; k++)
            h = (h ^ bytes[k]) * 0x100000001b3u;
        free(bytes);
    }
    return h;
}

static void run_steps(struct llama_trainer *t, int steps, struct figures *out)
{
    struct ofl_update_settings settings = {
        .size = sizeof settings, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    int32_t tokens[STEPS * COUNT + 1];
    char error[ERROR_BYTES] = "";

    hashed_tokens(5, tokens, STEPS * COUNT + 1);
    for (int i = 0; i < steps; i++) {
        settings.step = (uint64_t)i + 1;
        if (llama_trainer_step(t, tokens + i * COUNT, tokens + i * COUNT + 1, &settings, &out->losses[i],
                               &out->norms[i], error, sizeof error) < 0)
            fail_msg("%s", error);
    }
    assert_int_equal(llama_trainer_eval(t, tokens, tokens + 1, &out->after, error, sizeof error), 0);
    out->after /= COUNT;
    out->adapters = hash_adapters(t);
}

static struct ofl_ctx *open_ctx(const struct llama_trainer_need *need, bool small)
{
    struct ofl_config open = {.size = sizeof open,
                              .device_bytes = need->device_all_bytes + OFL_HOST_MIN_BYTES,
                              .host_bytes = OFL_HOST_MIN_BYTES,
                              .workers = 1};
    struct ofl_ctx *ctx;

    if (small) {
        open.device_bytes = open.leased_bytes = need->device.device_bytes;
        open.expected_bytes = need->store_bytes;
        open.host_bytes += need->store_bytes;
    }
    if (ofl_open(&open, &ctx) < 0)
        fail_msg("%s", ofl_error());
    return ctx;
}

static void train(const char *dir, const struct llama_shape *shape, const struct setting *s,
                  struct figures *out)
{
    enum ofl_dtype *dtypes = calloc(llama_tensor_count(shape), sizeof *dtypes);
    struct llama_trainer_config config = {.shape = *shape,
                                          .batch = 1,
                                          .seq = SEQ,
                                          .accum = BATCH,
                                          .lora = s->lora,
                                          .frozen = dtypes,
                                          .seed = 9};
    struct ofl_stats stats = {.size = sizeof stats};
    struct llama_trainer_need need;
    struct llama_checkpoint *ck;
    struct llama_trainer *t;
    char error[ERROR_BYTES] = "";
    struct ofl_ctx *ctx;
    int err;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++)
        dtypes[i] = OFL_F32;
    llama_trainer_need(&config, &need);
    ctx = open_ctx(&need, s->small);
    assert_int_equal(llama_checkpoint_open(ctx, dir, shape, &ck, error, sizeof error), 0);
    config.base = ck;
    if (llama_trainer_create(ctx, &config, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    err = s->adapter ? llama_lora_read(ctx, s->adapter, shape, &s->lora, put, t, error, sizeof error)
                     : llama_trainer_adapters_init(t, error, sizeof error);
    if (err < 0)
        fail_msg("%s", error);
    run_steps(t, s->steps, out);
    if (s->out) {
        struct llama_lora_writer w = {.base = "base", .shape = shape, .lora = &s->lora, .get = get, .arg = t};
        struct llama_output *to;

        if (llama_output_open(s->out, false, &to, error, sizeof error) < 0 ||
            llama_lora_write(&w, to, error, sizeof error) < 0)
            fail_msg("%s", error);
        llama_output_close(to, error, sizeof error);
    }
    assert_int_equal(ofl_stats_get(ctx, &stats), 0);
    assert_int_equal(stats.nvme_write_bytes, 0);
    assert_true(stats.source_read_bytes > 0);
    llama_trainer_destroy(t);
    assert_int_equal(llama_checkpoint_close(ck), 0); /* nothing is bound any more */
    assert_int_equal(ofl_close(ctx), 0);
    free(dtypes);
}

/* ---- against PEFT ---------------------------------------------------------- */

static double number(const json_t *c, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(c, key), i));
}

static bool agrees(const json_t *c, const struct figures *f)
{
    bool good = fabs(f->after - json_number_value(json_object_get(c, "after"))) <= LOSS;

    for (size_t i = 0; i < STEPS; i++)
        good &= fabs(f->losses[i] - number(c, "losses", i)) <= LOSS &&
                fabs(f->norms[i] / number(c, "norms", i) - 1) <= NORM;
    return good;
}

static void check_case(const json_t *c, bool paired)
{
    struct llama_config config;
    char *dir = make_base(c, paired, &config), *adapter = make_adapter(c, &config.shape);
    struct setting s = {.adapter = adapter, .steps = STEPS};
    struct figures all = {0}, small = {0};
    char error[ERROR_BYTES] = "";

    if (llama_lora_load(adapter, &config.shape, &s.lora, error, sizeof error) < 0)
        fail_msg("%s: %s", name_of(c), error);
    train(dir, &config.shape, &s, &all);
    if (!agrees(c, &all))
        fail_msg("%s: loss %.6f, norm %.6f at first, loss %.6f behind all", name_of(c), all.losses[0],
                 all.norms[0], all.after);
    s.small = true;
    train(dir, &config.shape, &s, &small);
    if (memcmp(&all, &small, sizeof all) != 0)
        fail_msg("%s: the smallest budgets give other bits", name_of(c));
    small.losses[STEPS - 1] += 2 * LOSS;
    assert_false(agrees(c, &small));
    if (!getenv("OFL_TEST_LIGHT")) { /* another scale shows */
        s.lora.alpha *= 1.01;
        s.small = false;
        train(dir, &config.shape, &s, &small);
        assert_false(agrees(c, &small));
    }
    files_remove(dir);
    files_remove(adapter);
}

static void agree_with_peft(void **state)
{
    size_t count = json_array_size(json_object_get(golden, "cases"));

    (void)state;
    assert_true(count >= 5);
    for (size_t i = 0; i < count; i += getenv("OFL_TEST_LIGHT") ? 3 : 1)
        check_case(case_at(i), false);
}

/* Written by a base with paired rows, it reads back there: the file has them in their own order. */
static void paired_rows_agree_too(void **state)
{
    const json_t *c = case_at(0);
    struct llama_config config;
    char *dir = make_base(c, true, &config), *adapter = make_adapter(c, &config.shape),
         *out = files_path(root, "paired"), error[ERROR_BYTES] = "";
    struct setting s = {.adapter = adapter, .out = out};
    struct figures first = {0}, again = {0};

    (void)state;
    check_case(c, true);
    assert_int_equal(llama_lora_load(adapter, &config.shape, &s.lora, error, sizeof error), 0);
    train(dir, &config.shape, &s, &first);
    s.adapter = out;
    s.out = NULL;
    train(dir, &config.shape, &s, &again);
    assert_memory_equal(&first, &again, sizeof first);
    files_remove(dir);
    files_remove(adapter);
    files_remove(out);
}

/* ---- files, merging, generating ---------------------------------------------- */

static void logits_of(const char *dir, const struct llama_shape *shape, struct llama_adapters adapters,
                      bool small, float *out)
{
    struct llama_generator_config config = {
        .shape = *shape, .positions = PROMPT + 1, .piece = LLAMA_GENERATOR_ROWS, .adapters = adapters};
    enum ofl_dtype *dtypes = calloc(llama_tensor_count(shape), sizeof *dtypes);
    struct ofl_config open = {.size = sizeof open, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct llama_generator_need need;
    struct llama_checkpoint *ck;
    struct llama_generator *g;
    char error[ERROR_BYTES] = "";
    int32_t prompt[PROMPT];
    struct ofl_ctx *ctx;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++)
        dtypes[i] = OFL_F32;
    llama_generator_need(&config, dtypes, &need);
    open.device_bytes = small ? need.device.device_bytes : need.device_all_bytes;
    assert_int_equal(ofl_open(&open, &ctx), 0);
    assert_int_equal(llama_checkpoint_open(ctx, dir, shape, &ck, error, sizeof error), 0);
    if (llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0)
        fail_msg("%s", error);
    hashed_tokens(6, prompt, PROMPT);
    assert_int_equal(llama_generator_feed(g, NULL, prompt, LLAMA_GENERATOR_ROWS, NULL, error, sizeof error),
                     0);
    assert_int_equal(llama_generator_feed(g, NULL, prompt + LLAMA_GENERATOR_ROWS,
                                          PROMPT - LLAMA_GENERATOR_ROWS, out, error, sizeof error),
                     0);
    llama_generator_destroy(g);
    llama_checkpoint_close(ck);
    ofl_close(ctx);
    free(dtypes);
}

static double apart(const float *a, const float *b)
{
    double worst = 0;

    for (size_t i = 0; i < VOCAB; i++)
        worst = fabs((double)a[i] - (double)b[i]) > worst ? fabs((double)a[i] - (double)b[i]) : worst;
    return worst;
}

static void check_merge(const json_t *c)
{
    struct llama_config config;
    char *dir = make_base(c, false, &config), *adapter = make_adapter(c, &config.shape), *out, *merged,
         error[ERROR_BYTES] = "";
    struct setting s = {.adapter = adapter, .steps = 2};
    struct llama_adapters_one one[2];
    float with[VOCAB], small[VOCAB], without[VOCAB], other[VOCAB];
    struct figures before = {0}, again = {0};
    enum ofl_dtype *dtypes = calloc(llama_tensor_count(&config.shape), sizeof *dtypes);
    struct llama_merge m = {.model = dir, .config = &config, .dtypes = dtypes};

    out = files_path(root, "written");
    merged = files_path(root, "merged");
    s.out = out;
    assert_int_equal(llama_lora_load(adapter, &config.shape, &s.lora, error, sizeof error), 0);
    train(dir, &config.shape, &s, &before);
    s.adapter = out;
    s.out = NULL;
    s.steps = 0;
    assert_int_equal(llama_lora_load(out, &config.shape, &s.lora, error, sizeof error), 0);
    train(dir, &config.shape, &s, &again);
    assert_true(before.adapters == again.adapters && memcmp(&before.after, &again.after, 8) == 0);

    one[0] = one[1] = (struct llama_adapters_one){.dir = out, .lora = s.lora, .weight = 1};
    logits_of(dir, &config.shape, (struct llama_adapters){1, one}, false, with);
    logits_of(dir, &config.shape, (struct llama_adapters){1, one}, true, small);
    logits_of(dir, &config.shape, (struct llama_adapters){0}, false, without);
    assert_memory_equal(with, small, sizeof with);
    assert_true(apart(with, without) > 0.01);
    for (uint32_t i = 0; i < llama_tensor_count(&config.shape); i++)
        dtypes[i] = OFL_F32;
    m.adapter = out;
    m.out = merged;
    m.lora = &s.lora;
    if (llama_merge(&m, error, sizeof error) < 0)
        fail_msg("%s", error);
    logits_of(merged, &config.shape, (struct llama_adapters){0}, false, other);
    if (!(apart(with, other) <= LOGITS))
        fail_msg("%s: merged, logits are off by %.2g", name_of(c), apart(with, other));
    if (!s.lora.dora) { /* halves add up */
        one[0].weight = 0.25;
        one[1].weight = 0.75;
        logits_of(dir, &config.shape, (struct llama_adapters){2, one}, false, other);
        assert_true(apart(with, other) <= LOGITS);
    } else {
        assert_int_equal(llama_adapters_check(&(struct llama_adapters){2, one}, error, sizeof error),
                         -EINVAL);
    }
    files_remove(dir);
    files_remove(adapter);
    files_remove(out);
    files_remove(merged);
    free(dtypes);
}

/* With a feed-forward that is cut into slices, and one layer. */
static json_t *wide_case(const json_t *c)
{
    json_t *wide = json_deep_copy(c), *config = json_object_get(wide, "config"), *value;
    const char *key;

    json_object_set_new(config, "intermediate_size", json_integer(8192));
    json_object_set_new(config, "num_hidden_layers", json_integer(1));
    json_object_foreach(json_object_get(wide, "tensors"), key, value)
    {
        for (size_t i = 0; i < json_array_size(value); i++)
            if (json_integer_value(json_array_get(value, i)) == 96)
                json_array_set_new(value, i, json_integer(8192));
    }
    return wide;
}

static void written_and_merged(void **state)
{
    json_t *wide = wide_case(case_at(0));

    (void)state;
    check_merge(wide);
    json_decref(wide);
    if (!getenv("OFL_TEST_LIGHT"))
        check_merge(case_at(3));
}

/* ---- dropout, first values ------------------------------------------------------ */

static void dropout_is_the_steps(void **state)
{
    const json_t *c = case_at(2); /* phi3: q, k and v of one matrix lose the same inputs */
    struct llama_config config;
    char *dir = make_base(c, false, &config), *adapter = make_adapter(c, &config.shape),
         error[ERROR_BYTES] = "";
    struct setting s = {.adapter = adapter, .steps = 3};
    struct figures all = {0}, small = {0}, plain = {0};

    (void)state;
    assert_int_equal(llama_lora_load(adapter, &config.shape, &s.lora, error, sizeof error), 0);
    train(dir, &config.shape, &s, &plain);
    s.lora.dropout = 0.5;
    train(dir, &config.shape, &s, &all);
    s.small = true;
    train(dir, &config.shape, &s, &small);
    assert_memory_equal(&all, &small, sizeof all);
    assert_true(fabs(all.losses[0] - plain.losses[0]) > 1e-3);
    s.steps = 0;
    train(dir, &config.shape, &s, &all);
    s.lora.dropout = 0;
    train(dir, &config.shape, &s, &plain);
    assert_memory_equal(&all.after, &plain.after, sizeof all.after); /* an evaluation drops nothing */
    files_remove(dir);
    files_remove(adapter);
}

/* B is zero, so the model is its base; DoRA starts with a gain of 1. */
static void first_values(void **state)
{
    const json_t *c = case_at(0);
    struct llama_config config;
    char *dir = make_base(c, false, &config);
    struct setting s = {.lora = {.rank = 8, .alpha = 16, .targets = 127}};
    struct figures lora = {0}, dora = {0};

    (void)state;
    train(dir, &config.shape, &s, &lora);
    s.lora.dora = true;
    train(dir, &config.shape, &s, &dora);
    assert_true(fabs(lora.after - dora.after) < 1e-6);
    files_remove(dir);
}

/* ---- what is refused -------------------------------------------------------------- */

/* A tensor without its kind in the first layer says what is wrong with it. */
static void tensors_of_others(void **state)
{
    static const struct {
        const char *name, *says;
    } rows[] = {{"model.layers.1.self_attn.q_proj.lora_A.weight", "adapters of some layers only"},
                {"model.layers.4000.self_attn.q_proj.lora_A.weight", "the model has "},
                {"model.layers.0.mlp.other_proj.lora_A.weight", "not an adapter of a linear layer"},
                {"lm_head.lora_A.weight", "not an adapter of a linear layer"}};
    const json_t *c = case_at(0);
    struct llama_config config;
    char *dir = make_base(c, false, &config), error[ERROR_BYTES], name[160];
    struct llama_lora lora;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *adapter = make_adapter(c, &config.shape);
        json_t *tensors = json_object();

        snprintf(name, sizeof name, "base_model.model.%s", rows[i].name);
        json_object_set_new(tensors, name, files_tensor("F32", 2, (const uint64_t[]){8, 64}));
        files_put_safetensors(adapter, "adapter_model.safetensors", tensors);
        json_decref(tensors);
        assert_true(llama_lora_load(adapter, &config.shape, &lora, error, sizeof error) < 0);
        if (!strstr(error, rows[i].says) || !strstr(error, name))
            fail_msg("%s: \"%s\" is not in: %s", name, rows[i].says, error);
        files_remove(adapter);
    }
    files_remove(dir);
}

static void refused(void **state)
{
    static const struct {
        const char *key, *value, *says;
    } rows[] = {{"peft_type", "\"LOHA\"", "peft_type is LOHA"},
                {"bias", "\"all\"", "bias is set"},
                {"rank_pattern", "{\"q_proj\": 4}", "rank_pattern is set"},
                {"modules_to_save", "[\"lm_head\"]", "modules_to_save is set"},
                {"init_lora_weights", "\"pissa\"", "init_lora_weights is \"pissa\""},
                {"kasa_config", "{\"beta\": 1}", "kasa_config is set"},
                {"r", "0", "r is not a whole number"},
                {"r", "4", "shape [8, "},
                {"lora_alpha", "null", "lora_alpha is not a number"},
                {"lora_alpha", "1e300", "lora_alpha is not a number up to"},
                {"lora_dropout", "1", "lora_dropout is not from 0"},
                {"lora_dropout", "\"a\"", "lora_dropout is not from 0"},
                {"use_dora", "true", "lora_magnitude_vector is missing"}};
    const json_t *c = case_at(0);
    struct llama_config config;
    char *dir = make_base(c, false, &config), error[ERROR_BYTES];
    struct llama_lora lora;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *adapter = make_adapter(c, &config.shape);
        json_t *changed = json_deep_copy(json_object_get(c, "adapter_config"));

        json_object_set_new(changed, rows[i].key, json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        files_put_json(adapter, "adapter_config.json", changed);
        assert_true(llama_lora_load(adapter, &config.shape, &lora, error, sizeof error) < 0);
        if (!strstr(error, rows[i].says))
            fail_msg("%s %s: \"%s\" is not in: %s", rows[i].key, rows[i].value, rows[i].says, error);
        files_remove(adapter);
    }
    {
        struct llama_trainer_config gpu = {.shape = config.shape, .cuda = true, .lora = {.rank = 8}};
        struct llama_trainer *t;

        assert_int_equal(llama_trainer_create(NULL, &gpu, &t, error, sizeof error), -ENOTSUP);
        assert_non_null(strstr(error, "--device host"));
    }
    assert_int_equal(llama_lora_targets(&config.shape, "q_proj,qkv_proj", &lora.targets, error, sizeof error),
                     -EINVAL);
    assert_non_null(strstr(error, "\"qkv_proj\": no linear layer of this model; there are q_proj, k_proj"));
    assert_int_equal(
        llama_lora_targets(&config.shape, "down_proj,q_proj", &lora.targets, error, sizeof error), 0);
    assert_int_equal(lora.targets, 1u << LLAMA_MATRIX_Q | 1u << LLAMA_MATRIX_DOWN);
    files_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agree_with_peft),    cmocka_unit_test(paired_rows_agree_too),
        cmocka_unit_test(written_and_merged), cmocka_unit_test(dropout_is_the_steps),
        cmocka_unit_test(first_values),       cmocka_unit_test(refused),
        cmocka_unit_test(tensors_of_others),
    };

    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
