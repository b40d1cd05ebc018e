/*
 * ofl-generate: continues a text with a language model, whose weights page in from the checkpoint inside
 * hard budgets of device and host memory. This file turns a prompt into tokens and tokens
 * into text.
 */
#include "examples/generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/common_bound.h"
#include "examples/common_predict.h"
#include "examples/model/kernels.h"
#include "examples/model/tokenizer.h"

#define DEFAULT_MAX_TOKENS 128

struct text {
    char *bytes;
    size_t used, room;
};

struct run {
    const struct options *options;
    struct llama_config config;
    struct tokenizer *tokenizer;
    enum ofl_dtype *dtypes; /* of the checkpoint's tensors */
    int32_t *prompt;        /* start token included */
    size_t prompt_tokens;
    size_t max_tokens;
    size_t piece;   /* of the prompt, fed at once */
    size_t feeding; /* where the piece in work begins; the prompt's end: none is */

    struct llama_generator *generator;
    float *logits;
    void *scratch;
    struct llama_rng rng;

    struct text text;
    size_t generated;
    double prefill_s, decode_s;
    size_t decoded; /* steps in decode_s */
    struct common_meter meter;
    struct common_bound bound; /* of a token */
    struct common_prediction predicted;
    bool ended; /* by an end token */
};

static int out_of_memory(void)
{
    return common_fail(EXIT_RUNTIME, "generate: out of memory");
}

static int setup_failed(int err, const char *sentence)
{
    return common_fail(common_status(err), "%s", sentence);
}

/* ---- prompt ---------------------------------------------------------------- */

static int take_prompt(struct run *r, const uint32_t *ids, size_t count)
{
    bool start = r->config.bos_id >= 0;

    r->prompt = calloc(count + 1, sizeof *r->prompt);
    if (!r->prompt)
        return out_of_memory();
    if (start)
        r->prompt[r->prompt_tokens++] = r->config.bos_id;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= r->config.shape.vocab)
            return common_fail(
                EXIT_INPUT,
                "--prompt: token %zu has id %u, the model's vocabulary has %u: tokenizer and model "
                "don't belong together",
                i, ids[i], r->config.shape.vocab);
        r->prompt[r->prompt_tokens++] = (int32_t)ids[i];
    }
    if (r->prompt_tokens == 0)
        return common_fail(EXIT_INPUT, "--prompt is empty, and the model has no start token");
    return 0;
}

/* The cache is made for the whole text, so its length has to be known. */
static int check_length(struct run *r)
{
    size_t positions = llama_shape_positions(&r->config.shape, r->prompt_tokens), most = positions;

    if (r->prompt_tokens >= most)
        return common_fail(EXIT_INPUT, "--prompt of %zu tokens: the model's positions end at %zu",
                           r->prompt_tokens, most);
    most -= r->prompt_tokens;
    if (r->options->max_tokens > most)
        return common_fail(EXIT_INPUT,
                           "--max-tokens %llu: %s end at %zu, and the prompt takes %zu: %zu are left",
                           (unsigned long long)r->options->max_tokens,
                           positions < r->config.shape.max_positions
                               ? "the original positions, beyond which longrope has other frequencies,"
                               : "the model's positions",
                           positions, r->prompt_tokens, most);
    r->max_tokens = r->options->max_tokens      ? (size_t)r->options->max_tokens
                    : most < DEFAULT_MAX_TOKENS ? most
                                                : DEFAULT_MAX_TOKENS;
    return 0;
}

static int read_prompt(struct run *r)
{
    char path[4096], error[COMMON_ERROR_BYTES];
    uint32_t *ids;
    size_t count;
    int err, status;

    if (snprintf(path, sizeof path, "%s/tokenizer.json", r->options->model) >= (int)sizeof path)
        return common_fail(EXIT_INPUT, "open %s: the path is too long", r->options->model);
    err = tokenizer_open(path, &r->tokenizer, error, sizeof error);
    if (err < 0)
        return setup_failed(err, error);
    err = tokenizer_encode(r->tokenizer, r->options->prompt, strlen(r->options->prompt), &ids, &count);
    if (err < 0)
        return common_fail(common_status(err), "encode --prompt: %s", strerror(-err));
    status = take_prompt(r, ids, count);
    free(ids);
    return status ? status : check_length(r);
}

/* ---- text ------------------------------------------------------------------ */

static int text_add(struct text *t, const char *bytes, size_t count)
{
    if (t->used + count > t->room) {
        size_t room = 2 * (t->used + count) + 256;
        char *more = realloc(t->bytes, room);

        if (!more)
            return out_of_memory();
        t->bytes = more;
        t->room = room;
    }
    memcpy(t->bytes + t->used, bytes, count);
    t->used += count;
    return 0;
}

static int emit(struct run *r, int32_t token)
{
    bool first = r->text.used == 0 && r->prompt_tokens == (r->config.bos_id >= 0);
    const char *bytes;
    size_t count;

    /* Ids that no token has, and special ones, are no text. */
    if (tokenizer_special(r->tokenizer, (uint32_t)token) ||
        tokenizer_decode_piece(r->tokenizer, (uint32_t)token, first, &bytes, &count) < 0)
        return 0;
    if (fwrite(bytes, 1, count, stdout) < count || fflush(stdout) == EOF)
        return common_fail(EXIT_RUNTIME, "write the text: %s", strerror(errno));
    return text_add(&r->text, bytes, count);
}

/* Bytes of the well-formed UTF-8 character at text, 0 if there is none (Unicode 15, table 3-7). */
static size_t character(const unsigned char *text, size_t count)
{
    unsigned char a = text[0], low = 0x80, high = 0xBF;
    size_t bytes = a < 0x80                 ? 1
                   : a >= 0xC2 && a <= 0xDF ? 2
                   : a >= 0xE0 && a <= 0xEF ? 3
                   : a >= 0xF0 && a <= 0xF4 ? 4
                                            : 0;

    if (bytes == 0 || bytes > count)
        return 0;
    low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : low;
    high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : high;
    for (size_t i = 1; i < bytes; i++) {
        if (text[i] < low || text[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return bytes;
}

/* Tokens may be parts of characters: what is left over becomes U+FFFD. */
static json_t *text_json(const struct text *t)
{
    struct text clean = {0};
    json_t *value;

    for (size_t i = 0; i < t->used;) {
        size_t bytes = character((const unsigned char *)t->bytes + i, t->used - i);

        if (text_add(&clean, bytes ? t->bytes + i : "\xEF\xBF\xBD", bytes ? bytes : 3)) {
            free(clean.bytes);
            return NULL;
        }
        i += bytes ? bytes : 1;
    }
    value = json_stringn(clean.used ? clean.bytes : "", clean.used);
    free(clean.bytes);
    return value;
}

/* ---- generating ------------------------------------------------------------ */

static bool is_end(const struct llama_config *c, int32_t token)
{
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] == token)
            return true;
    return false;
}

static int feed(struct run *r, const char *step, const int32_t *tokens, size_t n, bool last)
{
    char error[COMMON_ERROR_BYTES];
    int err =
        llama_generator_feed(r->generator, step, tokens, n, last ? r->logits : NULL, error, sizeof error);

    if (err == -ECANCELED)
        return EXIT_INTERRUPTED;
    return err < 0 ? common_fail(EXIT_RUNTIME, "%s: %s", step ? step : "prefill", error) : 0;
}

/* A piece may take long. Tokens of the text are fed to their end. */
static bool going(void *arg, uint32_t layer)
{
    const struct run *r = arg;

    if (r->feeding == r->prompt_tokens)
        return true;
    common_progress("prompt: %zu of %zu tokens, layer %u of %u", r->feeding, r->prompt_tokens, layer,
                    r->config.shape.layers);
    return !common_stopping();
}

static int prefill(struct run *r)
{
    const char *step = r->piece < r->prompt_tokens ? "prefill" : NULL;
    double start = common_seconds();
    int status = 0;

    for (size_t at = 0; at < r->prompt_tokens && status == 0; at += r->piece) {
        size_t n = r->prompt_tokens - at < r->piece ? r->prompt_tokens - at : r->piece;

        r->feeding = at;
        status = feed(r, step, r->prompt + at, n, at + n == r->prompt_tokens);
        if (common_stopping())
            status = EXIT_INTERRUPTED;
    }
    r->feeding = r->prompt_tokens;
    common_progress_clear();
    r->prefill_s = common_seconds() - start;
    return status;
}

static int decode(struct run *r, struct ofl_ctx *ctx)
{
    const struct options *o = r->options;
    int status = common_meter_start(&r->meter, ctx, COMMON_SETTLE);

    while (status == 0) {
        int32_t token = llama_sample(r->logits, r->config.shape.vocab, (float)o->temperature, (float)o->top_p,
                                     &r->rng, r->scratch);
        double start;

        if (token < 0)
            return common_fail(EXIT_INPUT, "token %zu: the logits are not numbers: the model is damaged",
                               r->generated + 1);
        r->ended = is_end(&r->config, token);
        if (r->ended)
            return 0;
        r->generated++;
        status = emit(r, token);
        if (status || r->generated == r->max_tokens)
            return status;
        if (common_stopping())
            return EXIT_INTERRUPTED;
        start = common_seconds();
        status = feed(r, "decode", &token, 1, true);
        r->decode_s += common_seconds() - start;
        r->decoded++;
        if (status == 0)
            status = common_meter_step(&r->meter, ctx);
    }
    return status;
}

/* ---- the end ---------------------------------------------------------------- */

static double tokens_per_s(const struct run *r)
{
    return r->decoded ? (double)r->decoded / r->decode_s : 0;
}

/* What is held beside weights for good leaves less of the device for them. */
static void bound_of(struct run *r, const struct llama_generator_need *need, const struct ofl_stats *s)
{
    uint64_t device = s->budget_bytes[OFL_DEVICE], held = need->device_all_bytes - need->weight_bytes;
    struct common_least least =
        common_least_pass(need->weight_bytes - need->looked_up_bytes, device > held ? device - held : 0,
                          s->budget_bytes[OFL_HOST]);

    common_bound_get(&r->meter, &least, &r->bound);
}

static void print_summary(const struct run *r, const struct ofl_stats *s)
{
    common_line("%zu tokens of prompt in %.3f s, %zu generated at %.1f tokens/s, stall %.2f s",
                r->prompt_tokens, r->prefill_s, r->generated, tokens_per_s(r), (double)s->stall_ns * 1e-9);
    common_line(
        "peak of budget: device %s of %s, host %s of %s; read from the checkpoint %s, to the device %s",
        common_bytes(s->peak_bytes[OFL_DEVICE]).text, common_bytes(s->budget_bytes[OFL_DEVICE]).text,
        common_bytes(s->peak_bytes[OFL_HOST]).text, common_bytes(s->budget_bytes[OFL_HOST]).text,
        common_bytes(s->source_read_bytes).text, common_bytes(s->device_in_bytes).text);
    common_bound_print(&r->bound, "token");
    common_predict_end(&r->predicted, "token", r->bound.step_s);
}

static json_t *model_json(const struct run *r, const struct llama_generator_need *need)
{
    const struct llama_shape *shape = &r->config.shape;

    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "parameters", (json_int_t)llama_param_count(shape),
                     "layers", (json_int_t)shape->layers, "weight_bytes", (json_int_t)need->weight_bytes,
                     "cache_bytes", (json_int_t)need->cache_bytes, "workspace_bytes",
                     (json_int_t)need->workspace_bytes);
}

static int write_report(struct run *r, const struct llama_generator_need *need, const struct ofl_stats *stats,
                        struct ofl_ctx *ctx)
{
    json_t *j = json_pack(
        "{s:s, s:s, s:o, s:s, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o}", "program", "ofl-generate", "version",
        ofl_version(), "text", text_json(&r->text), "end", r->ended ? "end token" : "max tokens",
        "prompt_tokens", (json_int_t)r->prompt_tokens, "generated_tokens", (json_int_t)r->generated,
        "prefill_s", r->prefill_s, "decode_s", r->decode_s, "tokens_per_s", tokens_per_s(r), "model",
        model_json(r, need), "settings", options_json(r->options), "bound", common_bound_json(&r->bound));
    int status =
        j ? common_report_stats(j, stats, common_drives_json(ctx), common_stalls_json(ctx)) : out_of_memory();

    if (status == 0)
        status = common_report_write(r->options->budget.report, j);
    json_decref(j);
    return status;
}

/* That the text is one model's. */
static int check_files(const struct llama_checkpoint *ck)
{
    char error[COMMON_ERROR_BYTES];
    int err = llama_checkpoint_check(ck, error, sizeof error);

    return err < 0 ? common_fail(EXIT_RUNTIME, "after the last token: %s", error) : 0;
}

static int generate(struct run *r, struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                    const struct llama_generator_need *need)
{
    struct ofl_stats stats = {.size = sizeof stats};
    struct common_stall worst[COMMON_STALLS];
    unsigned worst_count;
    int status;

    r->rng.state = r->options->seed;
    r->logits = calloc(r->config.shape.vocab, sizeof *r->logits);
    r->scratch = malloc(llama_sample_workspace(r->config.shape.vocab));
    if (!r->logits || !r->scratch)
        return out_of_memory();
    status = prefill(r);
    if (status == 0)
        status = decode(r, ctx);
    if (r->text.used && (putchar('\n') == EOF || fflush(stdout) == EOF) && status == 0)
        status = common_fail(EXIT_RUNTIME, "write the text: %s", strerror(errno));
    if (status == 0)
        status = check_files(ck);
    if (status)
        return status;
    if (ofl_stats_get(ctx, &stats) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    bound_of(r, need, &stats);
    worst_count = common_stalls(ctx, worst);
    print_summary(r, &stats);
    for (unsigned i = 0; i < worst_count; i++)
        common_line("%s", worst[i].text);
    return r->options->budget.report ? write_report(r, need, &stats, ctx) : 0;
}

/* ---- set-up ------------------------------------------------------------------ */

/* Budgets depend on the weights' dtypes: a look at the checkpoint comes first, in a context of
 * the smallest size. */
static int read_dtypes(struct run *r)
{
    struct ofl_config small = {
        .size = sizeof small, .device_bytes = 4096, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    uint32_t count = llama_tensor_count(&r->config.shape);
    struct llama_checkpoint *ck;
    char error[COMMON_ERROR_BYTES];
    struct ofl_ctx *ctx;
    int err = ofl_open(&small, &ctx);

    if (err < 0)
        return setup_failed(err, ofl_error());
    r->dtypes = calloc(count, sizeof *r->dtypes);
    err = r->dtypes
              ? llama_checkpoint_open(ctx, r->options->model, &r->config.shape, &ck, error, sizeof error)
              : -ENOMEM;
    if (err == 0) {
        for (uint32_t i = 0; i < count; i++) {
            struct ofl_source *source;
            const char *name;

            llama_checkpoint_find(ck, i, &source, &name, &r->dtypes[i]);
        }
        llama_checkpoint_close(ck);
    }
    ofl_close(ctx);
    return err == 0 ? 0 : !r->dtypes ? out_of_memory() : setup_failed(err, error);
}

static int run_in_context(struct run *r, struct ofl_ctx *ctx, const struct llama_generator_config *config,
                          const struct llama_generator_need *need)
{
    struct llama_checkpoint *ck;
    char error[COMMON_ERROR_BYTES];
    int err = llama_checkpoint_open(ctx, r->options->model, &r->config.shape, &ck, error, sizeof error),
        status;

    if (err < 0)
        return setup_failed(err, error);
    if (llama_checkpoint_unused(ck))
        common_line("%s: tensor %s is not used: the model has none of that name", r->options->model,
                    llama_checkpoint_unused(ck));
    err = llama_generator_create(ctx, ck, config, &r->generator, error, sizeof error);
    status = err < 0 ? setup_failed(err, error) : generate(r, ctx, ck, need);
    llama_generator_destroy(r->generator);
    if (llama_checkpoint_close(ck) < 0 && status == 0)
        status = common_fail_ofl(EXIT_RUNTIME, "close the checkpoint");
    return status;
}

/* Of a token. Matrices of mixed types are taken for the narrower ones. */
static void predict(struct run *r, const struct llama_generator_config *config, const struct ofl_config *open)
{
    struct llama_compute_config compute = {.shape = config->shape,
                                           .dtype = OFL_F32,
                                           .cuda = config->cuda,
                                           .piece = 1,
                                           .rows = 1,
                                           .positions = config->positions};
    struct common_plan plan = {.budget = &r->options->budget,
                               .compute = &compute,
                               .open = open,
                               .source = r->options->model,
                               .what = "token"};
    struct llama_generator_need need;

    for (uint32_t i = 0; i < llama_tensor_count(&config->shape); i++)
        if (r->dtypes[i] != OFL_F32)
            compute.dtype = OFL_BF16;
    llama_generator_need(config, r->dtypes, &need);
    plan.scratch_bytes = need.scratch_bytes - ofl_device_footprint(config->shape.hidden * sizeof(float));
    common_predict(&plan, &r->predicted);
}

static int run_all(struct run *r)
{
    struct llama_generator_config config;
    struct llama_generator_need need;
    struct ofl_config open;
    struct ofl_ctx *ctx;
    char error[COMMON_ERROR_BYTES];
    int status = 0, err;

    if (r->options->budget.nvme_count)
        return common_fail(EXIT_INPUT,
                           "--nvme %s: weights are read from the checkpoint itself, and nothing else "
                           "needs a drive; leave it out",
                           r->options->budget.nvme[0].dir);
    status = common_budget_check(&r->options->budget);
    if (status)
        return status;
    err = llama_checkpoint_config(r->options->model, &r->config, error, sizeof error);
    if (err < 0)
        return setup_failed(err, error);
    status = read_prompt(r);
    if (status == 0)
        status = read_dtypes(r);
    if (status)
        return status;
    config = (struct llama_generator_config){
        .shape = r->config.shape,
        .positions = r->prompt_tokens + r->max_tokens,
        .piece = r->prompt_tokens < LLAMA_GENERATOR_ROWS ? r->prompt_tokens : LLAMA_GENERATOR_ROWS,
        .cuda = r->options->budget.chosen.gpu,
        .going = going,
        .going_arg = r,
    };
    llama_generator_need(&config, r->dtypes, &need);
    status = budget_check(r->options, &need, &open);
    if (status)
        return status;
    config.piece = r->piece =
        llama_generator_piece(&need, r->prompt_tokens, open.device_bytes, open.host_bytes);
    predict(r, &config, &open);
    err = ofl_open(&open, &ctx);
    if (err < 0)
        return setup_failed(err, ofl_error());
    status = common_timeline_open(ctx, r->options->budget.timeline);
    if (status == 0) {
        status = run_in_context(r, ctx, &config, &need);
        err = common_timeline_close(ctx, r->options->budget.timeline);
        status = status ? status : err;
    }
    err = ofl_close(ctx);
    return err < 0 && status == 0 ? common_fail_ofl(EXIT_RUNTIME, "close") : status;
}

int main(int argc, char **argv)
{
    struct options options;
    struct run run = {.options = &options};
    int status = options_parse(argc, argv, &options);

    if (status == 0)
        status = common_device_choose(&options.budget);
    if (status == 0) {
        common_signals();
        common_blas_threads();
        status = run_all(&run);
    }
    tokenizer_close(run.tokenizer);
    common_budget_free(&options.budget);
    free(run.dtypes);
    free(run.prompt);
    free(run.logits);
    free(run.scratch);
    free(run.text.bytes);
    return status;
}
