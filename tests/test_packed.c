/*
 * Directories whose weights are packed: the logits are those of transformers with the same weights unpacked, for each packing
 * (tests/golden/packed.json, made by tools/golden_packed.py), and have the same bits in a device that holds all of the model
 * and in one that holds little more than a slice; a matrix that is leased whole gives its values and products; slices of a matrix have all of its parts, each element once; what does not
 * fit together is refused with its name. Adapters trained over them come to the bits that they come to over the same numbers
 * in F32, in the smallest budgets too.
 *
 * Negative controls: a changed byte of any part changes the logits; the model that all refused ones are made from opens.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <fcntl.h>

#include "examples/model/frozen.h"
#include "examples/model/generator.h"
#include "examples/model/slices.h"
#include "examples/model/trainer.h"
#include "tests/core_fixture.h"
#include "tests/model_fixture.h"

#define ERROR     512
#define TOLERANCE 1e-4f

enum { RANK = 4, SEQ = 12, STEPS = 3 };

static json_t *golden;
static char *dir;

/* ---- files -------------------------------------------------------------------- */

static uint32_t mixed(uint32_t number, uint32_t i)
{
    uint32_t x = i * 2654435761u + number * 97u;

    x ^= x >> 15;
    x *= 2246822519u;
    return x ^ x >> 13;
}

static const char *text_of(const json_t *t, const char *key)
{
    return json_string_value(json_object_get(t, key));
}

static void put_float(unsigned char *to, const char *dtype, float value)
{
    uint16_t half;

    if (strcmp(dtype, "F32") == 0) {
        memcpy(to, &value, 4);
        return;
    }
    if (strcmp(dtype, "BF16") == 0)
        llama_to_bf16(&half, &value, 1);
    else
        llama_to_f16(&half, &value, 1);
    memcpy(to, &half, 2);
}

/* By the rules of tools/golden_packed.py. */
static void fill(const json_t *t, unsigned char *to, size_t bytes)
{
    const char *rule = text_of(t, "rule"), *dtype = text_of(t, "dtype");
    uint32_t number = (uint32_t)json_integer_value(json_object_get(t, "number")),
             group = (uint32_t)json_integer_value(json_object_get(golden, "group"));
    float base = (float)json_number_value(json_object_get(t, "base"));
    size_t each = strcmp(rule, "bytes") == 0 || strncmp(rule, "f8", 2) == 0 ? 1
                  : strcmp(dtype, "F32") == 0                               ? 4
                                                                            : 2;

    each = strcmp(rule, "ordered") == 0 ? 4 : each;
    for (uint32_t i = 0; i < bytes / each; i++) {
        uint32_t h = mixed(number, i), at = (i * 7 + 3) % (uint32_t)(bytes / each) / group;

        if (strcmp(rule, "bytes") == 0)
            to[i] = (unsigned char)h;
        else if (strcmp(rule, "f8") == 0)
            to[i] = (h & 0x87) | 0x30;
        else if (strcmp(rule, "f8 scale") == 0)
            to[i] = (h & 7) | 0x38;
        else if (strcmp(rule, "ordered") == 0)
            memcpy(to + 4 * i, &at, 4);
        else if (strcmp(rule, "scale") == 0)
            put_float(to + each * i, dtype, (float)(4 + h % 4) / 4 * base);
        else if (strcmp(rule, "weights") == 0)
            put_float(to + each * i, dtype, (float)(h % 17) / 64 - 8.0f / 64);
        else
            put_float(to + each * i, dtype, 1 + (float)(h % 5) / 16);
    }
}

static void put_old(const char *path, const void *file, size_t count)
{
    const struct timespec old[2] = {{0, 1}, {0, 1}};

    files_put(dir, "model.safetensors", file, count);
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0); /* what is new is waited for */
}

/* changes: of the tensors' headers, as files_change has them. flip: a tensor, of which one byte changes. */
static void put_model(const json_t *one, const char *quantization, const char *changes, const char *flip)
{
    json_t *config = json_deep_copy(json_object_get(golden, "config")), *all = json_object(), *t;
    char *path = files_path(dir, "model.safetensors");
    unsigned char *file;
    size_t count, i, data;

    json_object_set(config, "quantization_config", json_object_get(one, "quantization_config"));
    files_change(config, quantization);
    files_put_json(dir, "config.json", config);
    json_array_foreach(json_object_get(one, "tensors"), i, t)
    {
        json_object_set_new(all, text_of(t, "name"),
                            json_pack("{s:O, s:O}", "dtype", json_object_get(t, "dtype"), "shape",
                                      json_object_get(t, "shape")));
    }
    files_change(all, changes);
    files_put_safetensors(dir, "model.safetensors", all);
    file = files_get(path, &count);
    data = 8 + file[0] + ((size_t)file[1] << 8);
    json_array_foreach(json_object_get(one, "tensors"), i, t)
    {
        json_t *to = json_object_get(json_object_get(all, text_of(t, "name")), "data_offsets");
        size_t from = (size_t)json_integer_value(json_array_get(to, 0)),
               end = (size_t)json_integer_value(json_array_get(to, 1));

        if (!changes)
            fill(t, file + data + from, end - from);
        if (flip && strcmp(flip, text_of(t, "name")) == 0)
            file[data + from] ^= 1;
    }
    put_old(path, file, count);
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

static void read_dtypes(const struct llama_checkpoint *ck, const struct llama_shape *shape,
                        enum ofl_dtype *dtypes)
{
    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct ofl_source *source;
        const char *name;

        llama_checkpoint_find(ck, i, &source, &name, &dtypes[i]);
    }
}

/* Of the model in dir, behind the golden's tokens; little: in the smallest device. */
static void logits_of(bool little, float *logits, size_t vocab)
{
    const json_t *list = json_object_get(golden, "tokens");
    struct llama_generator_need need;
    struct llama_config c;
    struct ofl_ctx *ctx = open_ctx(8 << 20);
    struct llama_checkpoint *ck;
    struct llama_generator *g;
    int32_t tokens[16];
    enum ofl_dtype dtypes[64];
    char error[ERROR] = "";
    size_t n = json_array_size(list);

    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)json_integer_value(json_array_get(list, i));
    if (llama_checkpoint_config(dir, &c, error, sizeof error) < 0 ||
        llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error) < 0)
        fail_msg("%s", error);
    assert_int_equal(c.shape.vocab, vocab);
    struct llama_generator_config config = {.shape = c.shape, .positions = 16, .piece = n};
    llama_checkpoint_packings(ck, &config.shape);
    read_dtypes(ck, &c.shape, dtypes);
    llama_generator_need(&config, dtypes, &need);
    assert_true(need.device.device_bytes < need.device_all_bytes);
    if (little) {
        llama_checkpoint_close(ck);
        assert_int_equal(fixture_ctx_close(ctx), 0);
        ctx = open_ctx(need.device.device_bytes);
        assert_int_equal(llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error), 0);
    }
    if (llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0 ||
        llama_generator_feed(g, NULL, tokens, n, logits, error, sizeof error) < 0)
        fail_msg("%s", error);
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static float difference(const float *a, const json_t *b)
{
    float most = 0;

    for (size_t i = 0; i < json_array_size(b); i++) {
        assert_true(isfinite(a[i]));
        most = fmaxf(most, fabsf(a[i] - (float)json_number_value(json_array_get(b, i))));
    }
    return most;
}

static void logits_of_transformers(void **state)
{
    json_t *one;
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, one)
    {
        const json_t *want = json_object_get(one, "logits");
        size_t vocab = json_array_size(want);
        float whole[64], paged[64];

        put_model(one, NULL, NULL, NULL);
        logits_of(false, whole, vocab);
        if (!(difference(whole, want) < TOLERANCE))
            fail_msg("%s: logits are off by %g", text_of(one, "name"), (double)difference(whole, want));
        logits_of(true, paged, vocab);
        assert_memory_equal(whole, paged, vocab * sizeof *whole);
    }
}

/* Each part counts: of a matrix in the middle, its first byte. */
static void every_part_counts(void **state)
{
    json_t *one, *t;
    size_t i, k;

    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, one)
    {
        json_array_foreach(json_object_get(one, "tensors"), k, t)
        {
            const json_t *want = json_object_get(one, "logits");
            float changed[64];

            if (!strstr(text_of(t, "name"), "down_proj"))
                continue;
            put_model(one, NULL, NULL, text_of(t, "name"));
            logits_of(false, changed, json_array_size(want));
            if (!(difference(changed, want) > 0))
                fail_msg("%s: %s does not count", text_of(one, "name"), text_of(t, "name"));
        }
    }
}

/* ---- whole tensors ------------------------------------------------------------------ */

/* What a tensor's rows are, by the rules and int8 with a scale for each row. */
static float int8_value(const json_t *one, const char *begin, uint32_t row, uint32_t at)
{
    uint32_t scale = 0, numbers = 0;
    float base = 0, value;
    uint16_t half;
    json_t *t;
    size_t i;

    json_array_foreach(json_object_get(one, "tensors"), i, t)
    {
        if (strncmp(text_of(t, "name"), begin, strlen(begin)) != 0)
            continue;
        if (strstr(text_of(t, "name"), "scale")) {
            scale = (uint32_t)json_integer_value(json_object_get(t, "number"));
            base = (float)json_number_value(json_object_get(t, "base"));
        } else {
            numbers = (uint32_t)json_integer_value(json_object_get(t, "number"));
        }
    }
    value = (float)(int8_t)mixed(numbers, at) * ((float)(4 + mixed(scale, row) % 4) / 4 * base);
    llama_to_bf16(&half, &value, 1);
    llama_widen(&value, &half, OFL_BF16, 1);
    return value;
}

/* Leased whole, a matrix gives its values, and products forward and backward. */
static void whole_tensors(void **state)
{
    const json_t *cases = json_object_get(golden, "cases");
    json_t *one = NULL;
    float values[64 * 96], x[64] = {0}, y[96], dx[64], dy[96] = {0};
    char error[ERROR] = "", ws[6 * 64 * 96];
    struct ofl_lease leases[LLAMA_PARTS];
    struct ofl_ctx *ctx = open_ctx(1 << 20);
    struct llama_checkpoint *ck;
    struct llama_packed packed;
    struct llama_frozen f;
    struct llama_config c;
    struct llama_weight w;
    struct ofl_stream *s;
    uint32_t up;

    (void)state;
    for (size_t i = 0; i < json_array_size(cases); i++)
        if (strcmp(text_of(json_array_get(cases, i), "name"), "int8 channels") == 0)
            one = json_array_get(cases, i);
    put_model(one, NULL, NULL, NULL);
    if (llama_checkpoint_config(dir, &c, error, sizeof error) < 0 ||
        llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error) < 0 ||
        llama_frozen_bind(ck, &c.shape, &f, error, sizeof error) < 0)
        fail_msg("%s", error);
    up = llama_tensor_index(&c.shape, LLAMA_UP, 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    assert_int_equal(llama_frozen_leases(&f, up, leases), 2);
    assert_int_equal(ofl_acquire(ctx, leases, 2, s), 0);
    assert_int_equal(ofl_stream_sync(s), 0);
    w = llama_frozen_weight(&f, up, leases, &packed);
    memcpy(values, llama_weight_rows(w, 0, 96, 64, ws), sizeof values);
    for (uint32_t i = 0; i < 96 * 64; i++)
        assert_true(values[i] == int8_value(one, "model.layers.0.mlp.up_proj.", i / 64, i));
    x[5] = 1;
    dy[7] = 1;
    llama_matmul(y, x, w, 1, 64, 96, 96, false, ws);
    llama_matmul_dx(dx, dy, w, 1, 64, 96, false, ws);
    for (uint32_t i = 0; i < 96; i++)
        assert_true(y[i] == values[i * 64 + 5]);
    assert_memory_equal(dx, values + 7 * 64, sizeof dx);
    assert_int_equal(ofl_release(ctx, leases, 2, s), 0);
    assert_int_equal(llama_frozen_leases(&f, llama_tensor_index(&c.shape, LLAMA_Q, 0), leases), 1);
    ofl_stream_destroy(s);
    llama_frozen_destroy(&f);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* ---- adapters over them ------------------------------------------------------------ */

struct trained {
    double losses[STEPS], norms[STEPS];
    float adapter[RANK * 64]; /* the last of them */
};

static void steps_of(struct ofl_ctx *ctx, const struct llama_trainer_config *config, struct trained *out)
{
    struct ofl_update_settings settings = {
        .size = sizeof settings, .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    int32_t tokens[2 * SEQ + 1];
    struct llama_trainer *t;
    struct ofl_tensor *last = NULL;
    struct ofl_tensor_info info = {.size = sizeof info};
    char error[ERROR] = "";

    for (uint32_t i = 0; i < 2 * SEQ + 1; i++)
        tokens[i] = (int32_t)(mixed(9, i) % 40);
    if (llama_trainer_create(ctx, config, &t, error, sizeof error) < 0 ||
        llama_trainer_adapters_init(t, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (uint32_t i = 0; i < STEPS; i++) {
        settings.step = i + 1;
        if (llama_trainer_step(t, tokens, tokens + 1, &settings, &out->losses[i], &out->norms[i], error,
                               sizeof error) < 0)
            fail_msg("%s", error);
    }
    for (uint32_t i = 0; llama_trainer_adapter(t, i); i++)
        last = llama_trainer_adapter(t, i);
    assert_int_equal(ofl_tensor_info_get(last, &info), 0);
    assert_true(info.bytes <= sizeof out->adapter);
    assert_int_equal(ofl_tensor_read(last, 0, out->adapter, info.bytes), 0);
    llama_trainer_destroy(t);
}

/* Over the model in dir; little: in the smallest device. */
static void train(bool dora, bool little, struct trained *out)
{
    struct llama_trainer_config config = {.batch = 2, .seq = SEQ, .accum = 1, .seed = 3};
    struct llama_trainer_need need;
    struct llama_checkpoint *ck;
    struct ofl_ctx *ctx = open_ctx(1 << 20);
    struct llama_config c;
    enum ofl_dtype dtypes[64];
    char error[ERROR] = "";

    memset(out, 0, sizeof *out);
    for (int again = 0; again < 2; again++) {
        if (llama_checkpoint_config(dir, &c, error, sizeof error) < 0 ||
            llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error) < 0)
            fail_msg("%s", error);
        if (again)
            break;
        config.shape = c.shape;
        config.lora = (struct llama_lora){.rank = RANK, .alpha = 8, .targets = 127, .dora = dora};
        llama_checkpoint_packings(ck, &config.shape);
        read_dtypes(ck, &c.shape, dtypes);
        config.frozen = dtypes;
        llama_trainer_need(&config, &need);
        assert_true(need.device.device_bytes < need.device_all_bytes);
        assert_int_equal(llama_checkpoint_close(ck), 0);
        assert_int_equal(fixture_ctx_close(ctx), 0);
        ctx = open_ctx(little ? need.device.device_bytes : need.device_all_bytes);
    }
    config.base = ck;
    steps_of(ctx, &config, out);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* The model in dir with each matrix in F32. */
static void unpack_model(void)
{
    struct ofl_ctx *ctx = open_ctx(1 << 20);
    json_t *config = json_deep_copy(json_object_get(golden, "config")), *all = json_object();
    char *path = files_path(dir, "model.safetensors"), error[ERROR] = "";
    struct llama_checkpoint *ck;
    struct llama_frozen f;
    struct llama_config c;
    struct llama_tensor_desc d;
    float *values[64], ws[96 * 64 * 3 / 2];
    unsigned char *file;
    size_t count, at;

    if (llama_checkpoint_config(dir, &c, error, sizeof error) < 0 ||
        llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error) < 0 ||
        llama_frozen_bind(ck, &c.shape, &f, error, sizeof error) < 0)
        fail_msg("%s", error);
    for (uint32_t i = 0; i < f.count; i++) {
        uint64_t rows, columns;

        llama_tensor_at(&c.shape, i, &d);
        rows = d.dims == 1 ? 1 : d.shape[0];
        columns = d.elems / rows;
        values[i] = calloc(d.elems, sizeof(float));
        for (uint64_t r = 0; d.dims > 1 && r < rows;) { /* in pieces of few rows, or one */
            struct llama_rows piece;

            assert_int_equal(llama_frozen_read(&f, i, r, 1000, &piece), 0);
            memcpy(values[i] + r * columns, llama_weight_rows(piece.weight, 0, piece.count, columns, ws),
                   piece.count * columns * sizeof(float));
            r += piece.count;
            free(piece.memory);
        }
        if (d.dims == 1)
            assert_int_equal(ofl_tensor_read(f.parts[i * LLAMA_PARTS], 0, values[i], columns * 4), 0);
        json_object_set_new(all, d.name, files_tensor("F32", d.dims, d.shape));
    }
    files_put_json(dir, "config.json", config);
    files_put_safetensors(dir, "model.safetensors", all);
    file = files_get(path, &count);
    at = 8 + file[0] + ((size_t)file[1] << 8);
    for (uint32_t i = 0; i < f.count; i++) {
        llama_tensor_at(&c.shape, i, &d);
        memcpy(file + at, values[i], d.elems * sizeof(float));
        at += d.elems * sizeof(float);
        free(values[i]);
    }
    assert_true(at == count);
    llama_frozen_destroy(&f);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    put_old(path, file, count);
    json_decref(all);
    free(file);
    free(path);
}

/* Adapters come to the bits that they come to over the same numbers in F32, in any budget. */
static void adapters_over_packed(void **state)
{
    json_t *one;
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, one)
    {
        struct trained packed[2], little[2], plain[2];

        if (getenv("OFL_TEST_LIGHT") && i % 3)
            continue;
        put_model(one, NULL, NULL, NULL);
        for (int dora = 0; dora < 2; dora++) {
            train(dora, false, &packed[dora]);
            train(dora, true, &little[dora]);
        }
        unpack_model();
        for (int dora = 0; dora < 2; dora++)
            train(dora, false, &plain[dora]);
        assert_true(isfinite(packed[0].losses[STEPS - 1]) &&
                    packed[0].losses[STEPS - 1] < packed[0].losses[0]);
        if (memcmp(packed, little, sizeof packed) != 0)
            fail_msg("%s: the smallest budgets give other bits", text_of(one, "name"));
        if (memcmp(packed, plain, sizeof packed) != 0)
            fail_msg("%s: loss %.9g, unpacked %.9g", text_of(one, "name"), packed[0].losses[STEPS - 1],
                     plain[0].losses[STEPS - 1]);
    }
}

/* ---- slices ----------------------------------------------------------------------- */

static void slices_have_all(void **state)
{
    static const struct llama_packing packings[] = {
        {.packing = OFL_PACKING_SCALED,
         .there = {true, true},
         .dtypes = {OFL_F8_E4M3, OFL_F32},
         .group_rows = 128,
         .group_columns = 128},
        {.packing = OFL_PACKING_SCALED, .there = {true, true}, .dtypes = {OFL_I8, OFL_BF16}, .group_rows = 1},
        {.packing = OFL_PACKING_FP4,
         .there = {true, true},
         .dtypes = {OFL_U8, OFL_U8},
         .group_rows = 1,
         .group_columns = 32},
        {.packing = OFL_PACKING_INT4,
         .there = {true, true, true},
         .dtypes = {OFL_I32, OFL_BF16, OFL_I32},
         .group_rows = 1,
         .group_columns = 128},
        {.packing = OFL_PACKING_AWQ,
         .there = {true, true, true},
         .dtypes = {OFL_I32, OFL_F16, OFL_I32},
         .group_rows = 1,
         .group_columns = 64},
    };
    struct llama_shape shape = {.layers = 1,
                                .hidden = 512,
                                .heads = 8,
                                .kv_heads = 8,
                                .head_dim = 64,
                                .ffn = 9000,
                                .vocab = 40,
                                .packing_count = 1};
    uint32_t up = llama_tensor_index(&shape, LLAMA_UP, 0);
    enum ofl_dtype dtypes[16];

    (void)state;
    for (size_t i = 0; i < sizeof packings / sizeof packings[0]; i++) {
        uint64_t behind[LLAMA_PARTS] = {0}, bytes = 0, slices = 0;
        struct llama_cut cut = {0};

        shape.packings[0] = packings[i];
        for (uint32_t t = 0; t < llama_tensor_count(&shape); t++)
            dtypes[t] = t == up ? LLAMA_PACKED : OFL_F32;
        do {
            llama_cut_at(&shape, dtypes, LLAMA_SLICE_LEAST, up, cut.from + cut.rows, &cut);
            slices++;
            bytes += cut.bytes;
            for (int p = 0; p < LLAMA_PARTS; p++) {
                assert_true(!cut.parts[p].bytes || cut.parts[p].first == behind[p]);
                behind[p] += cut.parts[p].elems;
            }
        } while (cut.from + cut.rows < shape.ffn);
        assert_int_equal(bytes, llama_tensor_bytes(&shape, up, LLAMA_PACKED));
        assert_int_equal(slices > 1, packings[i].packing != OFL_PACKING_AWQ);
        for (int p = 0; p < LLAMA_PARTS; p++)
            assert_int_equal(behind[p], llama_packing_range(&packings[i], (enum llama_part_kind)p, shape.ffn,
                                                            shape.hidden, 0, shape.ffn)
                                            .elems);
    }
}

/* ---- refusals ----------------------------------------------------------------------- */

static void refused_by_name(void **state)
{
#define UP "model.layers.0.mlp.up_proj."
    static const struct {
        const char *of, *quantization, *tensors, *says;
    } cases[] = {
        {"fp8", "{\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}}", NULL,
         "quant_method \"bitsandbytes\""},
        {"fp8", "{\"quantization_config\": 3}", NULL, "quantization_config is not an object"},
        {"fp8", "{\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [64]}}", NULL,
         "weight_block_size is not two sizes"},
        {"fp8", "{\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [64, 64]}}",
         NULL, "needs [1, 1]"},
        {"gptq", "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 3}}", NULL,
         "weights of 3 bits"},
        {"awq", "{\"quantization_config\": {\"quant_method\": \"awq\", \"version\": \"gemv\"}}", NULL,
         "version \"gemv\""},
        {"fp8", NULL, "{\"" UP "weight_scale_inv\": \"-\"}", "its scales are missing"},
        {"int4", NULL, "{\"" UP "weight_packed\": \"-\"}", "its numbers are missing"},
        {"gptq", NULL, "{\"" UP "qzeros\": \"-\"}", "its zeros are missing"},
        {"nvfp4", NULL, "{\"" UP "weight_global_scale\": \"-\"}", "its global scale are missing"},
        {"int4", NULL, "{\"" UP "weight_packed\": [\"I32\", 96, 4]}",
         "shape [96, 4], but a matrix [96, 64] needs [96, 8]"},
        {"int4", NULL, "{\"" UP "weight_packed\": [\"I32\", 8, 96]}", "needs [96, 8]"}, /* turned */
        {"nvfp4", NULL, "{\"" UP "weight_packed\": [\"U8\", 32, 96]}", "needs [96, 32]"},
        {"gptq", NULL, "{\"" UP "qweight\": [\"I32\", 96, 8]}", "needs [8, 96]"},
        {"awq", NULL, "{\"" UP "qweight\": [\"I32\", 12, 64]}", "needs [64, 12]"},
        {"gptq", NULL, "{\"" UP "qzeros\": [\"I32\", 12, 2]}", "needs [2, 12]"},
        {"nvfp4", NULL, "{\"" UP "weight_scale\": [\"F8_E4M3\", 96, 2]}", "each of 16 numbers"},
        {"int4", NULL,
         "{\"" UP "weight_zero_point\": [\"I32\", 12, 3], \"" UP "weight_scale\": [\"BF16\", 96, 3]}",
         "not as many groups of one size"},
        {"gptq", "{\"quantization_config\": {\"quant_method\": \"gptq\", \"checkpoint_format\": \"marlin\"}}",
         NULL, "checkpoint_format \"marlin\""},
        {"gptq", "{\"quantization_config\": {\"quant_method\": \"gptq\", \"desc_act\": true}}",
         "{\"" UP "g_idx\": \"-\"}", "its order of groups are missing"},
        {"int4",
         "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
         "{\"group_0\": {\"weights\": {\"num_bits\": 4, \"symmetric\": false}}}}}",
         "{\"" UP "weight_zero_point\": \"-\"}", "its zeros are missing"},
        {"int4", NULL, "{\"" UP "weight_g_idx\": [\"I32\", 64]}",
         "order of groups beside numbers of this packing"},
        {"int4", NULL, "{\"" UP "weight\": [\"F32\", 96, 64]}", "it is there as"},
        {"gptq", NULL, "{\"" UP "g_idx\": [\"I64\", 64]}", "orders are to be i32"},
        {"int4", NULL, "{\"" UP "weight_packed\": [\"I64\", 96, 8]}", "numbers of i64"},
        {"fp8", NULL, "{\"" UP "weight_scale_inv\": [\"I32\", 3, 2]}", "scales of i32"},
    };
    char error[ERROR];
    json_t *one;
    size_t k;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llama_checkpoint *ck = NULL;
        struct ofl_ctx *ctx = open_ctx(1 << 20);
        struct llama_config c;
        int err;

        json_array_foreach(json_object_get(golden, "cases"), k, one)
        {
            if (strcmp(text_of(one, "name"), cases[i].of) == 0)
                put_model(one, cases[i].quantization, cases[i].tensors ? cases[i].tensors : "{}", NULL);
        }
        err = llama_checkpoint_config(dir, &c, error, sizeof error);
        if (err == 0)
            err = llama_checkpoint_open(ctx, dir, &c.shape, &ck, error, sizeof error);
        if ((err != -OFL_EFORMAT && err != -ENOTSUP) || !strstr(error, cases[i].says))
            fail_msg("%s: %s", cases[i].says, err < 0 ? error : "accepted");
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
}

static int set_up(void **state)
{
    (void)state;
    golden = json_load_file("tests/golden/packed.json", 0, NULL);
    dir = files_dir("/var/tmp", "ofl-test-packed");
    return golden ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(golden);
    files_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_of_transformers), cmocka_unit_test(every_part_counts),
        cmocka_unit_test(whole_tensors),          cmocka_unit_test(slices_have_all),
        cmocka_unit_test(refused_by_name),        cmocka_unit_test(adapters_over_packed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
