/*
 * Every family of models, from its directory to losses and text, against transformers: tests/golden/families.json, made
 * by tools/golden_families.py. Proves for each checkpoint that
 *  - losses of 8 training steps are within 1e-4, gradient norms within 1e-3 of their size, logits behind 200 tokens
 *    within 1e-4, and 64 tokens of greedy text are equal
 *    (a case without losses generates only);
 *  - the smallest budgets give the bits of everything in memory: losses, norms, logits;
 *  - what the writer makes of it reads back as the same model;
 *  - a GPU (here: the stub driver, kernels on the CPU) agrees with transformers too, in F32; and in BF16 with the host,
 *    within what its rounding of activations allows.
 * Negative controls: each trait taken out of the shape shows in the logits; each figure off by its bound is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/family.h"
#include "examples/model/generator.h"
#include "examples/model/trainer.h"
#include "examples/model/writer.h"
#include "tests/cuda_fixture.h"
#include "tests/llama_reference.h"
#include "tests/model_fixture.h"
#include "tests/temporary.h"

#define GOLDEN      "tests/golden/families.json"
#define ERROR_BYTES 1024
#define LOSS        1e-4
#define NORM        1e-3
#define LOGITS      1e-4
/* Inside a layer of the GPU every value is rounded to 2^-9 of its size, on the host none is: a handful of them in a row,
 * four layers, eight steps. */
#define BF16_LOSS 0.02

enum {
    STEPS = 8,
    BATCH = 2,
    SEQ = 48,
    COUNT = BATCH * SEQ,
    PROMPT = 200,
    TEXT = 64,
    STRIDE = 8,
    VOCAB = 260
};

static char root[256];
static json_t *golden;
static const char *device; /* NULL: host */

static int load_golden(void **state)
{
    (void)state;
    golden = json_load_file(GOLDEN, 0, NULL);
    if (!golden)
        fprintf(stderr, "%s: run from the repository's root\n", GOLDEN);
    return golden ? temporary_dir("families", root, sizeof root) : -1;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(golden);
    files_remove(strdup(root));
    return 0;
}

/* ---- a checkpoint ---------------------------------------------------------- */

/* FNV-1a. */
static uint32_t stream_of(const char *name)
{
    uint32_t h = 0x811c9dc5u;

    while (*name)
        h = (h ^ (unsigned char)*name++) * 0x01000193u;
    return h;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

static void put_values(const char *path, const struct llama_shape *shape)
{
    FILE *f = fopen(path, "r+b");
    struct llama_stored s;
    uint64_t header;

    assert_non_null(f);
    assert_int_equal(fread(&header, sizeof header, 1, f),
                     1); /* little-endian, as every machine that this runs on */
    assert_int_equal(fseek(f, (long)(8 + header), SEEK_SET), 0);
    for (uint32_t i = 0; i < llama_tensor_count(shape); i += s.count) {
        float *v;

        llama_stored_at(shape, i, &s);
        v = ref_random(s.elems, stream_of(s.name), strstr(s.name, "embed_tokens") ? 1 : 0.25f,
                       ends_with(s.name, "norm.weight") ? 1 - shape->norm_offset : 0);
        assert_int_equal(fwrite(v, sizeof *v, s.elems, f), s.elems);
        free(v);
    }
    assert_int_equal(fclose(f), 0);
}

/* A directory of one golden case; for files_remove. */
static char *make(const json_t *c, struct llama_config *config)
{
    char *dir = files_dir(root, "model"), error[ERROR_BYTES] = "",
         *path = files_path(dir, "model.safetensors");
    json_t *tensors = json_object();
    struct llama_stored s;

    files_put_json(dir, "config.json", json_deep_copy(json_object_get(c, "config")));
    if (llama_config_load(dir, config, error, sizeof error) < 0)
        fail_msg("%s: %s", json_string_value(json_object_get(c, "name")), error);
    for (uint32_t i = 0; i < llama_tensor_count(&config->shape); i += s.count) {
        llama_stored_at(&config->shape, i, &s);
        json_object_set_new(tensors, s.name, files_tensor("F32", s.dims, s.shape));
    }
    files_put_safetensors(dir, "model.safetensors", tensors);
    json_decref(tensors);
    put_values(path, &config->shape);
    free(path);
    if (llama_checkpoint_config(dir, config, error, sizeof error) < 0)
        fail_msg("%s: %s", json_string_value(json_object_get(c, "name")), error);
    return dir;
}

static void hashed_tokens(uint64_t stream, int32_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)(ref_hash(stream, i) % 250);
}

/* ---- both sides ------------------------------------------------------------ */

struct figures {
    size_t steps; /* that were trained */
    double losses[STEPS], norms[STEPS];
    float logits[VOCAB];
    int32_t tokens[TEXT];
};

static struct ofl_ctx *open_ctx(uint64_t device_bytes, uint64_t host, uint64_t expected, uint64_t leased)
{
    struct ofl_config open = {.size = sizeof open,
                              .device = device,
                              .device_bytes = device_bytes,
                              .host_bytes = host,
                              .expected_bytes = expected,
                              .leased_bytes = leased,
                              .workers = 1};
    struct ofl_ctx *ctx;

    if (ofl_open(&open, &ctx) < 0)
        fail_msg("%s", ofl_error());
    return ctx;
}

static void fill(struct ofl_ctx *ctx, struct llama_trainer *t, const char *dir,
                 const struct llama_shape *shape)
{
    struct llama_checkpoint *ck;
    char error[ERROR_BYTES] = "";

    assert_int_equal(llama_checkpoint_open(ctx, dir, shape, &ck, error, sizeof error), 0);
    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_tensor_desc d;
        struct ofl_tensor *source;
        float *values;

        llama_tensor_at(shape, i, &d);
        values = ref_floats(d.elems);
        assert_int_equal(llama_checkpoint_bind(ck, i, 0, d.elems, &source), 0);
        assert_int_equal(ofl_tensor_read(source, 0, values, d.elems * sizeof *values), 0);
        assert_int_equal(llama_trainer_set(t, i, 0, d.elems, values, error, sizeof error), 0);
        ofl_tensor_destroy(source);
        free(values);
    }
    assert_int_equal(llama_checkpoint_close(ck), 0);
}

static void train(const char *dir, const struct llama_shape *shape, bool small, enum ofl_dtype dtype,
                  struct figures *out)
{
    struct llama_trainer_config config = {
        .shape = *shape, .batch = BATCH, .seq = SEQ, .accum = 1, .dtype = dtype, .cuda = device != NULL};
    struct ofl_update_settings settings = {
        .size = sizeof settings, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    int32_t tokens[STEPS * COUNT + 1];
    struct llama_trainer_need need;
    struct llama_trainer *t;
    char error[ERROR_BYTES] = "";
    struct ofl_ctx *ctx;

    llama_trainer_need(&config, &need);
    ctx = small ? open_ctx(need.device.device_bytes, need.store_bytes + OFL_HOST_MIN_BYTES, need.store_bytes,
                           need.device.device_bytes)
                : open_ctx(need.device_all_bytes + OFL_HOST_MIN_BYTES, OFL_HOST_MIN_BYTES, 0, 0);
    if (llama_trainer_create(ctx, &config, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    fill(ctx, t, dir, shape);
    hashed_tokens(5, tokens, STEPS * COUNT + 1);
    /* A GPU's kernels are emulated; a second step touches the bytes of the first. */
    out->steps = !device || getenv("OFL_TEST_FULL") ? STEPS : getenv("OFL_TEST_LIGHT") ? 1 : 2;
    for (size_t i = 0; i < out->steps; i++) {
        settings.step = i + 1;
        if (llama_trainer_step(t, tokens + i * COUNT, tokens + i * COUNT + 1, &settings, &out->losses[i],
                               &out->norms[i], error, sizeof error) < 0)
            fail_msg("%s", error);
    }
    llama_trainer_destroy(t);
    assert_int_equal(ofl_close(ctx), 0);
}

static int32_t likeliest(const float *logits)
{
    int32_t best = 0;

    for (int32_t i = 1; i < VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* shape: that the text is computed with. */
static void generate(const char *dir, const struct llama_shape *shape, bool small, size_t text,
                     struct figures *out)
{
    struct llama_generator_config config = {.shape = *shape,
                                            .positions = PROMPT + TEXT,
                                            .piece = small ? LLAMA_GENERATOR_ROWS : PROMPT,
                                            .cuda = device != NULL};
    uint32_t count = llama_tensor_count(shape);
    enum ofl_dtype *dtypes = calloc(count, sizeof *dtypes);
    struct llama_generator_need need;
    struct llama_checkpoint *ck;
    struct llama_generator *g;
    int32_t prompt[PROMPT];
    char error[ERROR_BYTES] = "";
    float logits[VOCAB];
    struct ofl_ctx *ctx;

    for (uint32_t i = 0; i < count; i++)
        dtypes[i] = OFL_F32;
    llama_generator_need(&config, dtypes, &need);
    ctx = open_ctx(small ? need.device.device_bytes : need.device_all_bytes, OFL_HOST_MIN_BYTES, 0, 0);
    assert_int_equal(llama_checkpoint_open(ctx, dir, shape, &ck, error, sizeof error), 0);
    if (llama_generator_create(ctx, ck, &config, &g, error, sizeof error) < 0)
        fail_msg("%s", error);
    hashed_tokens(6, prompt, PROMPT);
    for (size_t at = 0; at < PROMPT; at += config.piece) {
        size_t n = PROMPT - at < config.piece ? PROMPT - at : config.piece;

        assert_int_equal(llama_generator_feed(g, NULL, prompt + at, n, at + n == PROMPT ? out->logits : NULL,
                                              error, sizeof error),
                         0);
    }
    memcpy(logits, out->logits, sizeof logits);
    for (size_t i = 0; i < text; i++) {
        out->tokens[i] = likeliest(logits);
        if (i + 1 < text)
            assert_int_equal(
                llama_generator_feed(g, "decode", &out->tokens[i], 1, logits, error, sizeof error), 0);
    }
    llama_generator_destroy(g);
    assert_int_equal(llama_checkpoint_close(ck), 0);
    assert_int_equal(ofl_close(ctx), 0);
    free(dtypes);
}

/* ---- comparing ------------------------------------------------------------- */

static double number(const json_t *c, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(c, key), i));
}

/* Not a number stays. */
static double worse(double a, double b)
{
    return isnan(a) || a > b ? a : b;
}

static double loss_error(const json_t *c, const struct figures *f)
{
    double worst = 0;

    for (size_t i = 0; i < f->steps && i < json_array_size(json_object_get(c, "losses")); i++)
        worst = worse(worst, fabs(f->losses[i] - number(c, "losses", i)));
    return worst;
}

static double norm_error(const json_t *c, const struct figures *f)
{
    double worst = 0;

    for (size_t i = 0; i < f->steps && i < json_array_size(json_object_get(c, "norms")); i++)
        worst = worse(worst, fabs(f->norms[i] / number(c, "norms", i) - 1));
    return worst;
}

static double logit_error(const json_t *c, const struct figures *f)
{
    double worst = 0;

    for (size_t i = 0; i * STRIDE < VOCAB; i++)
        worst = worse(worst, fabs((double)f->logits[i * STRIDE] - number(c, "logits", i)));
    return worst;
}

static size_t equal_tokens(const json_t *c, const struct figures *f)
{
    size_t n = 0;

    while (n < TEXT && f->tokens[n] == (int32_t)number(c, "tokens", n))
        n++;
    return n;
}

static void check_case(const json_t *c)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    struct figures all = {0}, small = {0};
    bool trains = json_object_get(c, "losses");
    struct llama_config config;
    char *dir = make(c, &config);

    if (trains) {
        train(dir, &config.shape, false, OFL_F32, &all);
        train(dir, &config.shape, true, OFL_F32, &small);
    }
    generate(dir, &config.shape, false, TEXT, &all);
    generate(dir, &config.shape, true, TEXT, &small);
    if (!(loss_error(c, &all) <= LOSS && norm_error(c, &all) <= NORM && logit_error(c, &all) <= LOGITS))
        fail_msg("%s: losses are off by %.2g, norms by %.2g, logits by %.2g", name, loss_error(c, &all),
                 norm_error(c, &all), logit_error(c, &all));
    if (equal_tokens(c, &all) < TEXT)
        fail_msg("%s: token %zu is another", name, equal_tokens(c, &all));
    if (memcmp(&all, &small, sizeof all) != 0)
        fail_msg("%s: the smallest budgets give other bits", name);
    files_remove(dir);
}

static const json_t *case_of(const char *name)
{
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        if (strcmp(json_string_value(json_object_get(c, "name")), name) == 0)
            return c;
    }
    fail_msg("%s: no such case", name);
    return NULL;
}

#define GPU_TEXT 12 /* tokens, of TEXT */

/* On the stub driver: what all budgets give is checked on the host. */
static void check_gpu(const json_t *c)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    struct figures gpu, host;
    struct llama_config config;
    char *dir = make(c, &config);

    device = "cuda:0";
    train(dir, &config.shape, true, OFL_F32, &gpu);
    generate(dir, &config.shape, true, GPU_TEXT, &gpu);
    if (!(loss_error(c, &gpu) <= LOSS && norm_error(c, &gpu) <= NORM && logit_error(c, &gpu) <= LOGITS))
        fail_msg("%s: losses are off by %.2g, norms by %.2g, logits by %.2g", name, loss_error(c, &gpu),
                 norm_error(c, &gpu), logit_error(c, &gpu));
    if (equal_tokens(c, &gpu) < GPU_TEXT)
        fail_msg("%s: token %zu is another", name, equal_tokens(c, &gpu));
    train(dir, &config.shape, true, OFL_BF16, &gpu);
    device = NULL;
    train(dir, &config.shape, true, OFL_BF16, &host);
    for (size_t i = 0; i < gpu.steps; i++)
        if (!(fabs(gpu.losses[i] / host.losses[i] - 1) <= BF16_LOSS))
            fail_msg("%s, bf16: loss %zu is %.4f, on the host %.4f", name, i, gpu.losses[i], host.losses[i]);
    files_remove(dir);
}

static void a_gpu_agrees_too(void **state)
{
    static const char *const names[] = {"gemma3-older", "phi3-long",  "granite-bias", "smollm3-window",
                                        "mistral",      "qwen3-bias", "olmo2-older",  "gemma2"};
    /* Emulated kernels take ten seconds each, and a minute under AddressSanitizer. */
    const size_t count = getenv("OFL_TEST_LIGHT")  ? 1
                         : getenv("OFL_TEST_FULL") ? sizeof names / sizeof names[0]
                                                   : 4;

    (void)state;
    if (getenv("TSAN_OPTIONS")) {
        fprintf(stderr,
                "ThreadSanitizer: minutes of emulated kernels, which test_cuda_block and others run too\n");
        skip();
    }
    cuda_fixture_needs_kernels();
    for (size_t i = 0; i < count; i++) {
        cuda_fixture()->reset(&(struct cuda_stub_config){.seed = i + 1});
        check_gpu(case_of(names[i]));
    }
}

static void agree_with_transformers(void **state)
{
    const json_t *c;
    size_t i;

    (void)state;
    assert_true(json_array_size(json_object_get(golden, "cases")) >= 16);
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        if (!getenv("OFL_TEST_LIGHT") || i % 4 == 0)
            check_case(c);
    }
}

/* Every row of the table has a case, or its traits are another row's. */
static void every_family_is_there(void **state)
{
    for (uint32_t i = 0; llama_family_at(i); i++) {
        const json_t *c;
        bool found = false;
        size_t k;

        json_array_foreach(json_object_get(golden, "cases"), k, c) found |=
            strcmp(llama_family_at(i)->model_type,
                   json_string_value(json_object_get(json_object_get(c, "config"), "model_type"))) == 0;
        if (!found)
            fail_msg("%s: no golden case", llama_family_at(i)->model_type);
    }
    (void)state;
}

/* ---- what must be noticed ---------------------------------------------------- */

enum {
    WINDOW,
    LOCAL,
    CAP,
    SCALE,
    EMBED,
    LOGIT_CAP,
    BRANCH,
    LOGIT_SCALE,
    OFFSET,
    ACT,
    NOPE,
    DIMS,
    FACTOR,
    NORMED,
    USED,
    LIMIT,
    ALPHA,
    YARN
};

static void take_out(struct llama_shape *s, int trait)
{
    switch (trait) {
    case WINDOW:
        s->window++;
        break;
    case LOCAL:
        s->local_theta = 0;
        break;
    case CAP:
        s->attn_cap = 0;
        break;
    case SCALE:
        s->attn_scale = 0;
        break;
    case EMBED:
        s->embed_scale = 0;
        break;
    case LOGIT_CAP:
        s->logit_cap = 0;
        break;
    case BRANCH:
        s->branch_scale = 0;
        break;
    case LOGIT_SCALE:
        s->logit_scale = 0;
        break;
    case OFFSET:
        s->norm_offset = 0;
        break;
    case ACT:
        s->activation = LLAMA_GELU;
        break;
    case NOPE:
        memset(s->unrotated, 0, sizeof s->unrotated);
        break;
    case DIMS:
        s->rope_dims = 0;
        break;
    case FACTOR:
        s->rope.attention_factor = 0;
        break;
    case NORMED:
        s->router_normed = !s->router_normed;
        break;
    case USED:
        s->experts_used--;
        break;
    case LIMIT:
        s->unit_limit *= 2;
        break;
    case ALPHA:
        s->unit_alpha *= 2;
        break;
    default:
        s->rope.beta_slow *= 2;
    }
}

static void a_trait_left_out_shows(void **state)
{
    static const struct {
        const char *name;
        int trait;
    } cases[] = {{"mistral", WINDOW},
                 {"ministral", WINDOW},
                 {"gemma2", CAP},
                 {"gemma2", SCALE},
                 {"gemma2", EMBED},
                 {"gemma2", LOGIT_CAP},
                 {"gemma2", OFFSET},
                 {"gemma2", ACT},
                 {"gemma3", LOCAL},
                 {"granite-bias", BRANCH},
                 {"granite-bias", EMBED},
                 {"granite-bias", SCALE},
                 {"smollm3-window", NOPE},
                 {"smollm3-window", WINDOW},
                 {"phi3-long", DIMS},
                 {"phi3-long", FACTOR},
                 {"granite-bias", LOGIT_SCALE},
                 {"mixtral", NORMED},
                 {"qwen3_moe-dense", NORMED},
                 {"olmoe", USED},
                 {"gpt_oss-older", LIMIT},
                 {"gpt_oss-older", ALPHA},
                 {"gpt_oss-older", WINDOW},
                 {"llama-yarn-mscale", YARN}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const json_t *c = case_of(cases[i].name);
        struct llama_config config;
        struct figures f;
        char *dir = make(c, &config);

        take_out(&config.shape, cases[i].trait);
        generate(dir, &config.shape, false, 0, &f);
        if (logit_error(c, &f) <= LOGITS)
            fail_msg("%s without trait %d: nobody sees it", cases[i].name, cases[i].trait);
        files_remove(dir);
    }
}

static void figures_that_are_off_are_refused(void **state)
{
    const json_t *c = case_of("mistral");
    struct figures f = {.steps = STEPS};

    (void)state;
    for (size_t i = 0; i < STEPS; i++) {
        f.losses[i] = number(c, "losses", i);
        f.norms[i] = number(c, "norms", i);
    }
    for (size_t i = 0; i < VOCAB; i++)
        f.logits[i] = (float)number(c, "logits", i / STRIDE);
    for (size_t i = 0; i < TEXT; i++)
        f.tokens[i] = (int32_t)number(c, "tokens", i);
    assert_true(loss_error(c, &f) <= LOSS && norm_error(c, &f) <= NORM && logit_error(c, &f) <= LOGITS);
    assert_int_equal(equal_tokens(c, &f), TEXT);
    f.losses[7] += 2 * LOSS;
    f.norms[7] += 2 * NORM * f.norms[7];
    f.logits[256] += (float)(2 * LOGITS);
    f.tokens[63]++;
    assert_false(loss_error(c, &f) <= LOSS || norm_error(c, &f) <= NORM || logit_error(c, &f) <= LOGITS);
    assert_int_equal(equal_tokens(c, &f), TEXT - 1);
}

/* ---- writing ----------------------------------------------------------------- */

struct copying {
    const struct llama_checkpoint *ck;
};

static int copy_out(void *arg, uint32_t tensor, uint64_t first, uint64_t elems, void *buf, char *error,
                    size_t error_bytes)
{
    const struct copying *c = arg;
    struct ofl_tensor *t;
    int err = llama_checkpoint_bind(c->ck, tensor, first, elems, &t);

    if (err == 0)
        err = ofl_tensor_read(t, 0, buf, elems * sizeof(float));
    ofl_tensor_destroy(t);
    if (err < 0)
        snprintf(error, error_bytes, "%s", ofl_error());
    return err;
}

static void written_models_are_the_same(void **state)
{
    static const char *const names[] = {"phi3-long", "granite-bias", "gemma3-older", "llama-yarn-mscale"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *c = case_of(names[i]);
        struct llama_config config, again;
        char *dir = make(c, &config), *out = files_path(root, "written"), error[ERROR_BYTES] = "";
        struct ofl_ctx *ctx = open_ctx(1 << 20, OFL_HOST_MIN_BYTES, 0, 0);
        struct copying copying;
        struct llama_checkpoint *ck;
        struct llama_writer w = {.dir = out,
                                 .config = &config,
                                 .dtype = OFL_F32,
                                 .copy_from_dir = dir,
                                 .read = copy_out,
                                 .arg = &copying};
        struct figures f;

        assert_int_equal(llama_checkpoint_open(ctx, dir, &config.shape, &ck, error, sizeof error), 0);
        copying.ck = ck;
        if (llama_checkpoint_write(&w, error, sizeof error) < 0)
            fail_msg("%s: %s", names[i], error);
        assert_int_equal(llama_checkpoint_close(ck), 0);
        assert_int_equal(ofl_close(ctx), 0);
        if (llama_checkpoint_config(out, &again, error, sizeof error) < 0)
            fail_msg("%s: %s", names[i], error);
        generate(out, &again.shape, false, 0, &f);
        if (!(logit_error(c, &f) <= LOGITS))
            fail_msg("%s, written: logits are off by %.2g", names[i], logit_error(c, &f));
        files_remove(out);
        files_remove(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agree_with_transformers),     cmocka_unit_test(every_family_is_there),
        cmocka_unit_test(a_trait_left_out_shows),      cmocka_unit_test(figures_that_are_off_are_refused),
        cmocka_unit_test(written_models_are_the_same), cmocka_unit_test(a_gpu_agrees_too),
    };

    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
