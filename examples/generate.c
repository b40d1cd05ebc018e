/*
 * ofl-generate: continues texts with a language model, whose weights page in from the checkpoint inside
 * hard budgets of device and host memory. This file generates, one prompt after another.
 */
#include "examples/generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common_bound.h"
#include "examples/common_predict.h"
#include "examples/common_tokenizer.h"
#include "examples/model/directory.h"
#include "examples/model/gguf.h"
#include "examples/model/kernels.h"
#include "examples/model/tokenizer.h"

struct run {
    const struct options *options;
    struct llama_config config;
    struct tokenizer *tokenizer;
    enum ofl_dtype *dtypes; /* of the checkpoint's tensors */
    struct prompts prompts;
    struct adapters adapters;
    size_t piece; /* of a prompt, fed at once */

    /* Of the prompt in work. */
    const struct prompt *prompt;
    size_t feeding; /* where the piece in work begins; the prompt's end: none is */
    struct text text;
    size_t generated;
    bool ended; /* by an end token */

    struct llama_generator *generator;
    float *logits;
    void *scratch;
    bool *seen;       /* [vocab], for the penalty */
    int32_t *history; /* prompt and text, for the penalty */
    struct llama_rng rng;

    size_t prompt_tokens, generated_tokens; /* of all prompts */
    double prefill_s, decode_s;
    size_t decoded; /* steps in decode_s */
    json_t *texts;  /* of reports */
    struct common_meter meter;
    struct common_bound bound; /* of a token */
    struct common_prediction predicted;
};

static int out_of_memory(void)
{
    return common_fail(EXIT_FULL, "generate: out of memory");
}

static int setup_failed(int err, const char *sentence)
{
    return common_fail(common_status(err), "%s", sentence);
}

/* ---- generating ------------------------------------------------------------ */

static bool is_end(const struct llama_config *c, int32_t token)
{
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] == token)
            return true;
    return false;
}

/* Ids that no token has, and special ones, are no text. */
static int emit(struct run *r, int32_t token)
{
    bool first = r->text.used == 0 && r->prompt->empty;
    const char *bytes;
    size_t count;

    if (tokenizer_special(r->tokenizer, (uint32_t)token) ||
        tokenizer_decode_piece(r->tokenizer, (uint32_t)token, first, &bytes, &count) < 0)
        return 0;
    return text_put(&r->text, bytes, count);
}

static int feed(struct run *r, const char *step, const int32_t *tokens, size_t n, bool last)
{
    char error[COMMON_ERROR_BYTES];
    int err =
        llama_generator_feed(r->generator, step, tokens, n, last ? r->logits : NULL, error, sizeof error);

    if (err == -ECANCELED)
        return EXIT_INTERRUPTED;
    return err < 0 ? common_fail(common_status_late(err), "%s: %s", step ? step : "prefill", error) : 0;
}

/* A piece may take long. Tokens of the text are fed to their end. */
static bool going(void *arg, uint32_t layer)
{
    const struct run *r = arg;

    if (r->feeding == r->prompt->count)
        return true;
    common_progress("prompt: %zu of %zu tokens, layer %u of %u", r->feeding, r->prompt->count, layer,
                    r->config.shape.layers);
    return !common_stopping();
}

static int prefill(struct run *r)
{
    const char *step = r->piece < r->prompt->count ? "prefill" : NULL;
    double start = common_seconds();
    int status = 0;

    for (size_t at = 0; at < r->prompt->count && status == 0; at += r->piece) {
        size_t n = r->prompt->count - at < r->piece ? r->prompt->count - at : r->piece;

        r->feeding = at;
        status = feed(r, step, r->prompt->tokens + at, n, at + n == r->prompt->count);
        if (common_stopping())
            status = EXIT_INTERRUPTED;
    }
    r->feeding = r->prompt->count;
    common_progress_clear();
    r->prefill_s += common_seconds() - start;
    return status;
}

/* The next token of the text; -1: there is none. */
static int32_t draw(struct run *r)
{
    const struct options *o = r->options;
    const struct llama_sampling s = {.temperature = (float)o->temperature,
                                     .top_k = (size_t)o->top_k,
                                     .top_p = (float)o->top_p,
                                     .min_p = (float)o->min_p};

    if (o->repetition_penalty != 1)
        llama_penalize(r->logits, r->config.shape.vocab, r->history, r->prompt->count + r->generated,
                       (float)o->repetition_penalty, r->seen);
    return llama_sample(r->logits, r->config.shape.vocab, &s, &r->rng, r->scratch);
}

static int decode(struct run *r, struct ofl_ctx *ctx)
{
    int status = r->meter.last.at_s > 0 ? common_meter_skip(&r->meter, ctx)
                                        : common_meter_start(&r->meter, ctx, COMMON_SETTLE);

    while (status == 0) {
        int32_t token = draw(r);
        double start;

        if (token < 0)
            return common_fail(EXIT_DAMAGED, "token %zu: the logits are not numbers: the model is damaged",
                               r->generated + 1);
        r->ended = is_end(&r->config, token);
        if (r->ended)
            return 0;
        r->history[r->prompt->count + r->generated++] = token;
        status = emit(r, token);
        if (status || r->generated == r->prompt->max_tokens)
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

    least.known &= r->config.shape.experts == 0; /* which ones a token needs is not known */
    common_bound_get(&r->meter, &least, &r->bound);
}

static void print_summary(const struct run *r, const struct ofl_stats *s)
{
    double stall = (double)s->stall_ns * 1e-9, time = r->prefill_s + r->decode_s;
    char speed[48] = ""; /* the prompt gives the first token of each text: one alone has no time of its own */

    if (r->decoded)
        snprintf(speed, sizeof speed, " at %.1f tokens/s", tokens_per_s(r));
    common_line("%zu tokens of prompt in %.3f s, %zu generated%s, stall %.2f s", r->prompt_tokens,
                r->prefill_s, r->generated_tokens, speed, stall < time ? stall : time);
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

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "adapter_bytes", (json_int_t)need->adapter_bytes,
                     "parameters", (json_int_t)llama_param_count(shape), "layers", (json_int_t)shape->layers,
                     "weight_bytes", (json_int_t)need->weight_bytes, "cache_bytes",
                     (json_int_t)need->cache_bytes, "workspace_bytes", (json_int_t)need->workspace_bytes);
}

/* Of a prompt, for reports. */
static int note_text(struct run *r)
{
    json_t *one = json_pack("{s:o, s:s, s:I, s:I}", "text", text_json(&r->text), "end",
                            r->ended ? "end token" : "max tokens", "prompt_tokens",
                            (json_int_t)r->prompt->count, "generated_tokens", (json_int_t)r->generated);

    r->prompt_tokens += r->prompt->count;
    r->generated_tokens += r->generated;
    return one && json_array_append_new(r->texts, one) == 0 ? 0 : out_of_memory();
}

static int write_report(struct run *r, const struct llama_generator_need *need, const struct ofl_stats *stats,
                        struct ofl_ctx *ctx)
{
    const json_t *first = json_array_get(r->texts, 0);
    json_t *j = json_pack("{s:s, s:s, s:O, s:O, s:O, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o}", "program",
                          "ofl-generate", "version", ofl_version(), "text", json_object_get(first, "text"),
                          "end", json_object_get(first, "end"), "texts", r->texts, "prompt_tokens",
                          (json_int_t)r->prompt_tokens, "generated_tokens", (json_int_t)r->generated_tokens,
                          "prefill_s", r->prefill_s, "decode_s", r->decode_s, "tokens_per_s", tokens_per_s(r),
                          "model", model_json(r, need), "settings", options_json(r->options), "bound",
                          common_bound_json(&r->bound));
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

    return err < 0 ? common_fail(common_status_late(err), "after the last token: %s", error) : 0;
}

static int make_room(struct run *r)
{
    size_t vocab = r->config.shape.vocab;

    r->rng.state = r->options->seed;
    r->logits = calloc(vocab, sizeof *r->logits);
    r->scratch = malloc(llama_sample_workspace(vocab));
    r->seen = calloc(vocab, sizeof *r->seen);
    r->history = calloc(r->prompts.positions, sizeof *r->history);
    r->texts = json_array();
    return r->logits && r->scratch && r->seen && r->history && r->texts ? 0 : out_of_memory();
}

/* One prompt's text. */
static int continue_text(struct run *r, struct ofl_ctx *ctx, const struct prompt *prompt)
{
    int status, err;

    r->prompt = prompt;
    r->generated = 0;
    r->ended = false;
    memcpy(r->history, prompt->tokens, prompt->count * sizeof *r->history);
    status = prefill(r);
    if (status == 0)
        status = decode(r, ctx);
    err = text_finish(&r->text);
    status = status ? status : err;
    if (status == 0)
        status = note_text(r);
    text_free(&r->text);
    return status;
}

static int finish(struct run *r, struct ofl_ctx *ctx, const struct llama_generator_need *need)
{
    struct ofl_stats stats = {.size = sizeof stats};
    struct common_stall worst[COMMON_STALLS];
    unsigned worst_count;

    if (ofl_stats_get(ctx, &stats) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    bound_of(r, need, &stats);
    worst_count = common_stalls(ctx, worst);
    print_summary(r, &stats);
    for (unsigned i = 0; i < worst_count; i++)
        common_line("%s", worst[i].text);
    return r->options->budget.report ? write_report(r, need, &stats, ctx) : 0;
}

/* A generator for each text: it begins without keys and values of another. */
static int generate(struct run *r, struct ofl_ctx *ctx, const struct llama_checkpoint *ck,
                    const struct llama_generator_config *config, const struct llama_generator_need *need)
{
    struct llama_generator_config one = *config;
    char error[COMMON_ERROR_BYTES];
    int status = make_room(r), err;

    for (size_t i = 0; i < r->prompts.count && status == 0; i++) {
        if (r->prompts.count > 1)
            common_line("prompt %zu of %zu", i + 1, r->prompts.count);
        one.adapters = adapters_of(&r->adapters, &r->prompts.list[i]);
        err = llama_generator_create(ctx, ck, &one, &r->generator, error, sizeof error);
        status = err < 0 ? setup_failed(err, error) : continue_text(r, ctx, &r->prompts.list[i]);
        llama_generator_destroy(r->generator);
        r->generator = NULL;
    }
    if (status == 0)
        status = check_files(ck);
    return status ? status : finish(r, ctx, need);
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
        llama_checkpoint_packings(ck, &r->config.shape);
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
    status = generate(r, ctx, ck, config, need);
    if ((err = llama_checkpoint_close(ck)) < 0 && status == 0)
        status = common_fail_ofl(common_status_late(err), "close the checkpoint");
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
    if (r->options->dry) {
        printf("model      %llu parameters, %s of weights; keys and values %s\n",
               (unsigned long long)llama_param_count(&config->shape), common_bytes(need.weight_bytes).text,
               common_bytes(need.cache_bytes).text);
        common_dry_run(&plan, &(struct common_ways){.device_least = need.device.device_bytes,
                                                    .host_least = OFL_HOST_MIN_BYTES});
        return;
    }
    common_predict(&plan, &r->predicted);
}

static int open_tokenizer(struct run *r)
{
    const char *dir = r->options->tokenizer ? r->options->tokenizer : r->options->model;

    return common_tokenizer_open(dir, &r->tokenizer);
}

static int read_input(struct run *r)
{
    const char *model = r->options->model;
    char error[COMMON_ERROR_BYTES];
    int err = llama_directory_check(model, true, error, sizeof error), status;

    if (err == 0)
        err = llama_checkpoint_config(model, &r->config, error, sizeof error);
    if (err < 0)
        return setup_failed(err, error);
    status = open_tokenizer(r);
    if (status == 0)
        status = prompts_read(r->options, &r->config, r->tokenizer, &r->prompts);
    if (status == 0)
        status = adapters_open(r->options, &r->config, &r->prompts, &r->adapters);
    return status ? status : read_dtypes(r);
}

/* A report replaces no model, and no prompts. */
static int check_outputs(const struct options *o)
{
    const struct common_use out[] = {{"--report", o->budget.report}, {"--timeline", o->budget.timeline}};
    const struct common_use in[] = {{"--model", o->model},
                                    {"--tokenizer", o->tokenizer},
                                    {"--prompt-file", o->prompt_file},
                                    {"--prompts", o->prompts}};

    int status = common_outputs_check(out, 2, in, sizeof in / sizeof in[0], NULL);

    for (size_t i = 0; i < o->adapters.count && status == 0; i++) {
        char dir[4096], *colon;

        snprintf(dir, sizeof dir, "%s", o->adapters.texts[i]);
        colon = access(dir, F_OK) == 0 ? NULL : strrchr(dir, ':'); /* :WEIGHT */
        if (colon)
            *colon = '\0';
        status = common_outputs_check(out, 2, &(struct common_use){"--adapter", dir}, 1, NULL);
    }
    return status;
}

static int run_all(struct run *r)
{
    struct llama_generator_config config;
    struct llama_generator_need need;
    struct ofl_config open;
    struct ofl_ctx *ctx;
    int status = 0, err;

    if (r->options->budget.nvme_count)
        return common_fail(EXIT_INPUT,
                           "--nvme %s: weights are read from the checkpoint itself, and nothing else "
                           "needs a drive; leave it out",
                           r->options->budget.nvme[0].dir);
    if (r->options->budget.max_written)
        return common_fail(EXIT_INPUT, "--max-written: generating writes nothing to drives; leave it out");
    status = common_budget_check(&r->options->budget);
    if (status == 0)
        status = check_outputs(r->options);
    if (status == 0)
        status = read_input(r);
    if (status)
        return status;
    config = (struct llama_generator_config){
        .shape = r->config.shape,
        .positions = r->prompts.positions,
        .piece = r->prompts.longest < LLAMA_GENERATOR_ROWS ? r->prompts.longest : LLAMA_GENERATOR_ROWS,
        .cuda = r->options->budget.chosen.gpu,
        .going = going,
        .going_arg = r,
        .adapters = {.count = r->adapters.count, .list = r->adapters.list},
    };
    llama_generator_need(&config, r->dtypes, &need);
    status = budget_check(r->options, &need, &open);
    if (status)
        return status;
    config.piece = r->piece =
        llama_generator_piece(&need, r->prompts.longest, open.device_bytes, open.host_bytes);
    predict(r, &config, &open);
    if (r->options->dry)
        return fflush(stdout) == EOF ? common_fail(common_status_late(-errno), "write the plan: %m") : 0;
    err = ofl_open(&open, &ctx);
    if (err < 0)
        return setup_failed(err, ofl_error());
    status = common_timeline_open(ctx, r->options->budget.timeline);
    if (status == 0) {
        status = run_in_context(r, ctx, &config, &need);
        err = common_timeline_close(ctx, r->options->budget.timeline);
        status = status ? status : err;
    }
    return common_close(ctx, status);
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
    options_free(&options);
    adapters_free(&run.adapters);
    free(run.dtypes);
    prompts_free(&run.prompts);
    free(run.logits);
    free(run.scratch);
    free(run.seen);
    free(run.history);
    json_decref(run.texts);
    return common_end(status);
}
