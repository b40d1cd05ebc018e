/*
 * ofl-bench decode: generating with a model's shape and fresh weights, made in place and spread over device,
 * host and drives: tokens per second beside what the machine's parts allow.
 */
#include "bench/decode.h"

#include <stdlib.h>
#include <string.h>

#include "bench/decode_budget.h"
#include "bench/model.h"
#include "bench/predict.h"
#include "bench/rates.h"
#include "examples/common_budget.h"
#include "examples/model/checkpoint.h"
#include "examples/model/generator.h"

struct options {
    const char *preset, *model;
    uint64_t prompt, tokens, warmup;
    enum ofl_dtype dtype;
    struct common_budget budget;
};

struct run {
    const struct options *options;
    struct llama_config config;
    struct llama_generator *generator;
    struct ofl_ctx *ctx;
    struct bench_decode_model model;
    struct bench_rates rates;
    float *logits;
    double fill_s, prompt_s, *token_s; /* [tokens] */
    unsigned count;
    struct ofl_stats before, after;           /* the tokens that count */
    struct common_stall worst[COMMON_STALLS]; /* of them */
    unsigned worst_count;
    struct ofl_estimate predicted;
    struct common_meter meter;
};

static const struct common_word dtype_words[] = {{"f32", OFL_F32}, {"bf16", OFL_BF16}, {NULL, 0}};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option what_options[] = {
    {COMMON_GROUP, .text = "What:", .least = 1},
    {COMMON_TEXT, "preset", "NAME", "Shape of the model; the names are listed below", FIELD(preset)},
    {COMMON_TEXT, "model", "DIR", "The shape in DIR/config.json, as Hugging Face writes it", FIELD(model)},
    {COMMON_COUNT, "prompt", "N", "Tokens of the prompt", FIELD(prompt), "32", 1, 1u << 20},
    {COMMON_COUNT, "tokens", "N", "Tokens that count", FIELD(tokens), "8", 1, 1u << 20},
    {COMMON_COUNT, "warmup", "N", "Tokens before them", FIELD(warmup), "2", 0, 1u << 20},
    {COMMON_WORD, "dtype", "f32|bf16", "Of weights", FIELD(dtype), "bf16", .words = dtype_words},
    {.kind = COMMON_END}};
/* clang-format on */

static const char doc[] =
    "Measures generation with a model's shape under memory budgets, one text at a time.";

static const char more[] =
    "Weights are random and made in place: no file is read. They are spread over the device, host memory and "
    "the --nvme directories, so that the sum of the budgets has to hold them. The bound of a token is the "
    "largest of the times that drives, link and device memory need, at rates measured in the same run, for "
    "the "
    "bytes that it moved; the bound of the least possible is the same for the bytes that no budgets like "
    "these "
    "can keep.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench decode --preset 7b --in-memory\n"
    "  ofl-bench decode --preset 100b --device-mem 70G --host-mem 100G \\\n"
    "      --nvme /mnt/nvme:45G --report decode.json\n"
    "\n" COMMON_EXITS ".";

/* ---- running --------------------------------------------------------------- */

static int fill(struct run *r)
{
    uint32_t count = llama_tensor_count(&r->config.shape);
    double start = common_seconds();
    uint64_t done = 0;
    char error[COMMON_ERROR_BYTES];

    for (uint32_t i = 0; i < count; i++) {
        struct llama_tensor_desc d;

        if (llama_generator_random(r->generator, i, 1, r->config.initializer_range, error, sizeof error) < 0)
            return common_fail(EXIT_RUNTIME, "make the model: %s", error);
        llama_tensor_at(&r->config.shape, i, &d);
        done += d.elems * ofl_dtype_bytes(r->options->dtype);
        common_progress_bytes("making the model:", done, r->model.need.weight_bytes);
        if (common_stopping())
            return common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    common_progress_clear();
    r->fill_s = common_seconds() - start;
    return 0;
}

static int32_t best_token(const struct run *r)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < r->config.shape.vocab; i++)
        if (r->logits[i] > r->logits[best])
            best = i;
    return (int32_t)best;
}

static int feed(struct run *r, const char *step, const int32_t *tokens, size_t n)
{
    char error[COMMON_ERROR_BYTES];

    if (llama_generator_feed(r->generator, step, tokens, n, r->logits, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "%s: %s", step ? step : "prefill", error);
    return common_stopping() ? common_fail(EXIT_INTERRUPTED, "interrupted") : 0;
}

static int prefill(struct run *r)
{
    uint64_t n = r->options->prompt, random = 7;
    int32_t *tokens = calloc(n, sizeof *tokens);
    double start = common_seconds();
    int status;

    if (!tokens)
        return common_fail(EXIT_FULL, "feed the prompt: out of memory");
    for (uint64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(bench_random(&random) % r->config.shape.vocab);
    common_progress("prompt of %llu tokens", (ull)n);
    status = feed(r, NULL, tokens, n);
    common_progress_clear();
    r->prompt_s = common_seconds() - start;
    free(tokens);
    return status;
}

static int decode(struct run *r)
{
    const struct options *o = r->options;
    int status = common_meter_start(&r->meter, r->ctx, (unsigned)o->warmup);

    for (uint64_t i = 0; i < o->warmup + o->tokens && status == 0; i++) {
        int32_t token = best_token(r);
        double start;

        if (i == o->warmup && (ofl_stats_get(r->ctx, &r->before) < 0 || ofl_stall_clear(r->ctx) < 0))
            return common_fail_ofl(EXIT_RUNTIME, "get statistics");
        common_progress("token %llu of %llu", (ull)i + 1, (ull)(o->warmup + o->tokens));
        start = common_seconds();
        status = feed(r, "decode", &token, 1);
        if (i >= o->warmup)
            r->token_s[r->count++] = common_seconds() - start;
        if (status == 0)
            status = common_meter_step(&r->meter, r->ctx);
    }
    common_progress_clear();
    if (status == 0 && ofl_stats_get(r->ctx, &r->after) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "get statistics");
    r->worst_count = common_stalls(r->ctx, r->worst);
    return status;
}

static int generate(struct run *r)
{
    const char *timeline = r->options->budget.timeline;
    int status = common_timeline_open(r->ctx, timeline), closed;

    if (status)
        return status;
    status = prefill(r);
    if (status == 0)
        status = decode(r);
    closed = common_timeline_close(r->ctx, timeline);
    return status ? status : closed;
}

/* ---- figures --------------------------------------------------------------- */

enum { DEVICE, LINK_IN, DRIVE, NEEDS };

struct figures {
    struct bench_spread token_s;
    struct bench_rates rates; /* measured before, or by the run */
    struct common_bound run;
    struct bench_need needs[NEEDS], least[NEEDS]; /* for what moved, and for the least possible */
    size_t binding, least_binding;
    double mean_s, bound_s, least_s, stall_share;
};

/* What is held beside weights for good leaves less of the device for them. */
static void least_of(const struct run *r, struct figures *f)
{
    uint64_t device = r->after.budget_bytes[OFL_DEVICE], weights = r->model.need.weight_bytes;
    uint64_t held = r->model.need.device_all_bytes - weights;
    uint64_t passed = weights - r->model.need.looked_up_bytes;
    struct common_least least =
        common_least_pass(passed, device > held ? device - held : 0, r->after.budget_bytes[OFL_HOST]);

    common_bound_get(&r->meter, &least, &f->run);
    f->rates = r->rates;
    bench_rates_raise(&f->rates, &f->run);
    f->least[DEVICE] = (struct bench_need){"device memory", bench_time((double)passed, f->rates.device_bps)};
    f->least[LINK_IN] =
        (struct bench_need){"link in", bench_time(least.bytes[COMMON_LINK_IN], f->rates.link_in_bps)};
    f->least[DRIVE] =
        (struct bench_need){"drive", bench_drive_time(&f->rates, least.bytes[COMMON_DRIVES], 0)};
    f->least_s = bench_bound(f->least, NEEDS, &f->least_binding);
}

static void figures_of(const struct run *r, struct figures *f)
{
    double n = r->count, all = 0;
    const struct ofl_stats *a = &r->before, *b = &r->after;

    for (unsigned i = 0; i < r->count; i++)
        all += r->token_s[i];
    f->mean_s = all / n;
    f->token_s = bench_spread(r->token_s, r->count);
    f->stall_share = (double)(r->after.stall_ns - r->before.stall_ns) * 1e-9 / all;
    least_of(r, f);
    f->needs[DEVICE] = f->least[DEVICE];
    f->needs[LINK_IN] = (struct bench_need){
        "link in", bench_time((double)(b->device_in_bytes - a->device_in_bytes) / n, f->rates.link_in_bps)};
    f->needs[DRIVE] = (struct bench_need){
        "drive", bench_drive_time(&f->rates, (double)(b->nvme_read_bytes - a->nvme_read_bytes) / n,
                                  (double)(b->nvme_write_bytes - a->nvme_write_bytes) / n)};
    f->bound_s = bench_bound(f->needs, NEEDS, &f->binding);
}

static void print_figures(const struct run *r, const struct figures *f)
{
    double n = r->count;
    const struct ofl_stats *s = &r->after;

    printf("filled    in %.1f s; prompt of %llu tokens in %.2f s\n", r->fill_s, (ull)r->options->prompt,
           r->prompt_s);
    printf("decode    %.3f s a token (%.3f to %.3f, %u tokens), %.3f tokens/s; stall %.1f %%\n",
           f->token_s.median, f->token_s.q1, f->token_s.q3, r->count, 1 / f->token_s.median,
           100 * f->stall_share);
    printf("          bound of what moved %.3f s by %s: %.1f %% of it reached; device memory %.3f, link in "
           "%.3f, drive "
           "%.3f s\n",
           f->bound_s, f->needs[f->binding].name, 100 * f->bound_s / f->mean_s, f->needs[DEVICE].seconds,
           f->needs[LINK_IN].seconds, f->needs[DRIVE].seconds);
    printf(
        "          of the least possible %.3f s by %s: %.1f %% of it reached; link in %.3f, drive %.3f s\n",
        f->least_s, f->least[f->least_binding].name, 100 * f->least_s / f->mean_s, f->least[LINK_IN].seconds,
        f->least[DRIVE].seconds);
    common_bound_check(f->bound_s, f->mean_s);
    common_bound_check(f->least_s, f->mean_s);
    printf("          a token moves in %s, reads %s; %.0f driver calls\n",
           common_bytes((uint64_t)((double)(s->device_in_bytes - r->before.device_in_bytes) / n)).text,
           common_bytes((uint64_t)((double)(s->nvme_read_bytes - r->before.nvme_read_bytes) / n)).text,
           (double)(s->driver_calls - r->before.driver_calls) / n);
    printf("          peak of budget: device %s of %s, host %s of %s, NVMe %s of %s\n",
           common_bytes(s->peak_bytes[OFL_DEVICE]).text, common_bytes(s->budget_bytes[OFL_DEVICE]).text,
           common_bytes(s->peak_bytes[OFL_HOST]).text, common_bytes(s->budget_bytes[OFL_HOST]).text,
           common_bytes(s->peak_bytes[OFL_NVME]).text, common_bytes(s->budget_bytes[OFL_NVME]).text);
    for (unsigned i = 0; i < r->worst_count; i++)
        printf("          %s\n", r->worst[i].text);
}

static int write_report(const struct run *r, const struct figures *f)
{
    const struct options *o = r->options;
    double n = r->count;
    json_t *j = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:I, s:{s:I, s:I, s:I, s:s}, s:o, s:f, s:f, s:o, s:f, s:f, s:s, "
        "s:f, s:f, s:s, s:f, s:o, s:f, s:f, s:f}",
        "program", "ofl-bench decode", "version", ofl_version(), "date", bench_date().text, "device",
        o->budget.chosen.device, "device_name", o->budget.chosen.name, "model",
        bench_model_json(&r->config.shape), "cache_bytes", (json_int_t)r->model.need.cache_bytes,
        "workspace_bytes", (json_int_t)r->model.need.workspace_bytes, "settings", "prompt",
        (json_int_t)o->prompt, "tokens", (json_int_t)o->tokens, "warmup", (json_int_t)o->warmup, "dtype",
        ofl_dtype_name(o->dtype), "rates", bench_rates_json(&f->rates), "fill_s", r->fill_s, "prompt_s",
        r->prompt_s, "token_s", bench_spread_json(&f->token_s), "tokens_per_s", 1 / f->token_s.median,
        "bound_s", f->bound_s, "binding", f->needs[f->binding].name, "share_of_bound", f->bound_s / f->mean_s,
        "least_s", f->least_s, "least_binding", f->least[f->least_binding].name, "share_of_least",
        f->least_s / f->mean_s, "bound", common_bound_json(&f->run), "stall_share", f->stall_share,
        "device_in_per_token", (double)(r->after.device_in_bytes - r->before.device_in_bytes) / n,
        "nvme_read_per_token", (double)(r->after.nvme_read_bytes - r->before.nvme_read_bytes) / n);
    int status =
        j ? json_object_set_new(j, "predicted", bench_predict_json(&r->predicted, f->token_s.median)) : 0;

    status = j && status == 0
                 ? common_report_stats(j, &r->after, common_drives_json(r->ctx), common_stalls_json(r->ctx))
                 : common_fail(EXIT_FULL, "make the report: out of memory");

    if (status == 0)
        status = common_report_write(o->budget.report, j);
    json_decref(j);
    return status;
}

/* ---- the whole ------------------------------------------------------------- */

static int run_in_context(struct run *r, const struct llama_generator_config *config)
{
    char error[COMMON_ERROR_BYTES];
    struct figures f;
    int status = 0;

    if (llama_generator_create(r->ctx, NULL, config, &r->generator, error, sizeof error) < 0)
        return common_fail(EXIT_INPUT, "%s", error);
    status = fill(r);
    if (status == 0)
        status = generate(r);
    if (status == 0) {
        figures_of(r, &f);
        print_figures(r, &f);
        bench_predict_end(&r->predicted, f.token_s.median);
        status = r->options->budget.report ? write_report(r, &f) : 0;
    }
    llama_generator_destroy(r->generator);
    return status;
}

/* What it will take, and budgets for that; refuses what can't work. */
static int plan(struct run *r, const struct llama_generator_config *config, struct ofl_config *open)
{
    const struct options *o = r->options;
    int status;

    r->logits = calloc(r->config.shape.vocab, sizeof *r->logits);
    r->token_s = calloc(o->tokens, sizeof *r->token_s);
    if (!r->logits || !r->token_s)
        return common_fail(EXIT_FULL, "decode: out of memory");
    status = bench_decode_model_make(&r->model, config);
    return status ? status : bench_decode_budgets(&o->budget, &r->model, open);
}

static int predict(struct run *r, const struct llama_generator_config *config, const struct ofl_config *open)
{
    struct llama_compute_config compute = {.shape = config->shape,
                                           .dtype = config->fresh,
                                           .cuda = config->cuda,
                                           .piece = 1,
                                           .rows = 1,
                                           .positions = config->positions};
    uint64_t row =
        ofl_device_footprint(r->config.shape.hidden * sizeof(float)); /* an estimate has it itself */

    /* what is held for the prompt stays held */
    return bench_predict(&r->options->budget, &compute, false, r->model.need.scratch_bytes - row, open,
                         &r->rates, &r->predicted);
}

static int run_all(struct run *r)
{
    const struct options *o = r->options;
    struct llama_generator_config config = {.shape = r->config.shape,
                                            .positions = o->prompt + o->warmup + o->tokens,
                                            .piece = o->prompt,
                                            .cuda = o->budget.chosen.gpu,
                                            .fresh = o->dtype};
    struct ofl_config open;
    int status = plan(r, &config, &open), err;

    if (status == 0)
        status = bench_rates_measure(&o->budget, o->dtype, &r->rates);
    if (status == 0) {
        bench_rates_print(&r->rates);
        printf("model     %.3f B parameters, %s of weights; keys and values %s, scratch %s\n",
               (double)llama_param_count(&r->config.shape) * 1e-9,
               common_bytes(r->model.need.weight_bytes).text, common_bytes(r->model.need.cache_bytes).text,
               common_bytes(r->model.need.workspace_bytes).text);
        status = predict(r, &config, &open);
        if (status == 0 && (err = ofl_open(&open, &r->ctx)) < 0)
            status = common_fail_ofl(common_status(err), "open");
    }
    if (status == 0) {
        status = run_in_context(r, &config);
        status = common_close(r->ctx, status);
    }
    bench_decode_model_free(&r->model);
    free(r->logits);
    free(r->token_s);
    return status;
}

int bench_decode_main(int argc, char **argv)
{
    struct common_command command = {
        .title = "ofl-bench decode",
        .before = doc,
        .tables = {{what_options, 0}, {common_budget_options, offsetof(struct options, budget)}}};
    struct options o = {0};
    struct run r = {.options = &o, .before.size = sizeof r.before, .after.size = sizeof r.after};
    int status = bench_model_options(&command, more, argc, argv, &o);

    if (status == 0)
        status = bench_model_load(o.preset, o.model, &r.config);
    if (status == 0)
        status = common_budget_check(&o.budget);
    if (status == 0)
        status = common_device_choose(&o.budget);
    common_signals();
    common_blas_threads();
    if (status == 0)
        status = run_all(&r);
    common_budget_free(&o.budget);
    return status;
}
