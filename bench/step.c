/*
 * ofl-bench step: training steps of a model's shape, with fresh weights and random tokens, inside
 * budgets: how fast, beside the same without budgets and beside what the machine's parts allow.
 */
#include "bench/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/model.h"
#include "bench/predict.h"
#include "bench/rates.h"
#include "examples/common_budget.h"
#include "examples/model/trainer.h"

struct options {
    const char *preset, *model, *save;
    uint64_t batch, seq, accum, steps, warmup;
    double clip;
    enum ofl_dtype dtype;
    bool compare;
    struct common_budget budget;
};

/* One series of steps. */
struct series {
    unsigned count;
    double *step_s; /* [count] */
    double loss;    /* of the last */
    struct common_meter meter;
    struct ofl_stats stats;                   /* of these steps alone, but for peaks and budgets */
    struct common_stall worst[COMMON_STALLS]; /* likewise */
    unsigned worst_count;
    json_t *stalls;
    struct ofl_estimate predicted;
};

static const struct common_word dtype_words[] = {{"f32", OFL_F32}, {"bf16", OFL_BF16}, {NULL, 0}};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option what_options[] = {
    {COMMON_GROUP, .text = "What:", .least = 1},
    {COMMON_TEXT, "preset", "NAME", "Shape of the model; the names are listed below", FIELD(preset)},
    {COMMON_TEXT, "model", "DIR", "The shape in DIR/config.json, as Hugging Face writes it", FIELD(model)},
    {COMMON_COUNT, "batch", "N", "Sequences per micro-batch", FIELD(batch), "1", 1, 1u << 16},
    {COMMON_COUNT, "seq", "N", "Tokens per sequence", FIELD(seq), "512", 1, 1u << 20},
    {COMMON_COUNT, "accum", "N", "Micro-batches per step", FIELD(accum), "1", 1, 1u << 16},
    {COMMON_WORD, "dtype", "f32|bf16", "Of weights", FIELD(dtype), "bf16", .words = dtype_words},
    {COMMON_NUMBER, "clip", "X", "Exact global norm to clip gradients to; 0: off", FIELD(clip), "1", .low = 0,
     .high = 1e30},
    {COMMON_GROUP, .text = "How often:", .least = 3},
    {COMMON_COUNT, "steps", "N", "Steps that count", FIELD(steps), "5", 1, 10000},
    {COMMON_COUNT, "warmup", "N", "Steps before them", FIELD(warmup), "2", 0, 10000},
    {COMMON_FLAG, "compare", NULL, "Run the same with everything in device memory, too", FIELD(compare)},
    {COMMON_GROUP, .least = 5},
    {COMMON_TEXT, "save-config", "FILE", "Only write the shape as a config.json, for other programs", FIELD(save)},
    {.kind = COMMON_END}};
/* clang-format on */

static const char doc[] =
    "Measures training steps: all parameters, AdamW, recomputation, under memory budgets.";

static const char more[] =
    "Tokens are random and none is padding. TFLOP/s count 6 P per token, P being the parameters that are "
    "multiplied; those with recomputation count 8 P; attention counts in neither. The bound is the largest "
    "of "
    "the times that each part of the machine needs, at rates measured in the same run, for the operations of "
    "the "
    "step and for the bytes that it moved.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench step --preset 1b --seq 2048 --batch 4 --in-memory\n"
    "  ofl-bench step --preset 7b --seq 2048 --accum 16 --device-mem 24G \\\n"
    "      --host-mem 96G --nvme /mnt/nvme --report step.json --timeline trace.json\n"
    "\n" COMMON_EXITS ".";

/* ---- running --------------------------------------------------------------- */

static int fill(struct llama_trainer *t, const struct llama_config *config)
{
    uint32_t count = llama_tensor_count(&config->shape);
    char error[COMMON_ERROR_BYTES];

    for (uint32_t i = 0; i < count; i++) {
        if (llama_trainer_random(t, i, 1, config->initializer_range, error, sizeof error) < 0)
            return common_fail(EXIT_RUNTIME, "make the model: %s", error);
        common_progress("making the model: %u of %u tensors", i + 1, count);
        if (common_stopping())
            return common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    common_progress_clear();
    return 0;
}

static int run_step(const struct options *o, const struct llama_config *config, struct llama_trainer *t,
                    uint64_t step, int32_t *tokens, uint64_t *random, double *loss)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-4,
                                           .beta1 = 0.9,
                                           .beta2 = 0.95,
                                           .eps = 1e-8,
                                           .weight_decay = 0.1,
                                           .clip = o->clip,
                                           .step = step};
    uint64_t n = o->accum * o->batch * o->seq;
    char error[COMMON_ERROR_BYTES];
    double norm;

    for (uint64_t i = 0; i < 2 * n; i++)
        tokens[i] = (int32_t)(bench_random(random) % config->shape.vocab);
    if (llama_trainer_step(t, tokens, tokens + n, &settings, loss, &norm, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "step %llu: %s", (ull)step, error);
    if (!isfinite(*loss) || !isfinite(norm))
        return common_fail(EXIT_RUNTIME, "step %llu: loss %g, gradient norm %g: not numbers", (ull)step,
                           common_printable(*loss), common_printable(norm));
    return 0;
}

#define SUBTRACT(field) s->stats.field -= before.field

/* What the steps did, from the statistics before and after. */
static int count_steps(struct ofl_ctx *ctx, struct ofl_stats before, struct series *s)
{
    s->stats = (struct ofl_stats){.size = sizeof s->stats};
    if (ofl_stats_get(ctx, &s->stats) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    SUBTRACT(source_read_bytes);
    SUBTRACT(nvme_read_bytes);
    SUBTRACT(nvme_write_bytes);
    SUBTRACT(device_in_bytes);
    SUBTRACT(device_out_bytes);
    SUBTRACT(hits);
    SUBTRACT(misses);
    SUBTRACT(evictions);
    SUBTRACT(prefetches);
    SUBTRACT(off_plan);
    SUBTRACT(updates);
    SUBTRACT(stall_ns);
    SUBTRACT(device_in_busy_ns);
    SUBTRACT(device_out_busy_ns);
    SUBTRACT(steps);
    SUBTRACT(driver_calls);
    s->worst_count = common_stalls(ctx, s->worst);
    s->stalls = common_stalls_json(ctx);
    return 0;
}

static int run_steps(const struct options *o, const struct llama_config *config, struct ofl_ctx *ctx,
                     struct llama_trainer *t, struct series *s, const char *what)
{
    uint64_t n = o->accum * o->batch * o->seq, random = 7;
    int32_t *tokens = calloc(2 * n, sizeof *tokens);
    struct ofl_stats before = {.size = sizeof before};
    int status = tokens ? common_meter_start(&s->meter, ctx, (unsigned)o->warmup)
                        : common_fail(EXIT_FULL, "run steps: out of memory");

    for (uint64_t i = 0; i < o->warmup + o->steps && status == 0; i++) {
        double start;

        common_progress("%s: step %llu of %llu", what, (ull)i + 1, (ull)(o->warmup + o->steps));
        if (i == o->warmup && (ofl_stats_get(ctx, &before) < 0 || ofl_stall_clear(ctx) < 0))
            status = common_fail_ofl(EXIT_RUNTIME, "get statistics");
        start = common_seconds();
        if (status == 0)
            status = run_step(o, config, t, i + 1, tokens, &random, &s->loss);
        if (i >= o->warmup)
            s->step_s[s->count++] = common_seconds() - start;
        if (status == 0)
            status = common_meter_step(&s->meter, ctx);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    common_progress_clear();
    free(tokens);
    return status ? status : count_steps(ctx, before, s);
}

static int run_series(const struct options *o, const struct llama_config *config,
                      const struct llama_trainer_config *trainer, const struct ofl_config *open,
                      struct series *s, const char *what, const char *timeline)
{
    char error[COMMON_ERROR_BYTES];
    struct llama_trainer *t = NULL;
    struct ofl_ctx *ctx;
    int status = 0, err;

    s->step_s = calloc(o->steps, sizeof *s->step_s);
    if (!s->step_s)
        return common_fail(EXIT_FULL, "run steps: out of memory");
    if ((err = ofl_open(open, &ctx)) < 0)
        return common_fail_ofl(common_status(err), what);
    if ((err = llama_trainer_create(ctx, trainer, &t, error, sizeof error)) < 0)
        status = common_fail(common_status(err), "%s: %s", what, error);
    if (status == 0)
        status = fill(t, config);
    if (status == 0)
        status = common_timeline_open(ctx, timeline);
    if (status == 0) {
        status = run_steps(o, config, ctx, t, s, what);
        err = common_timeline_close(ctx, timeline);
        status = status ? status : err;
    }
    llama_trainer_destroy(t);
    return common_close(ctx, status);
}

/* ---- figures --------------------------------------------------------------- */

enum { COMPUTE, LINK_IN, LINK_OUT, DRIVE, UPDATE, NEEDS };

#define UPDATE_BYTES                                                                                         \
    28.0 /* of RAM touched for a parameter: gradient read; master, moments read and written */

/* Of one step, for what moved. Reads and writes of a drive add up: few do both at full speed. */
static void needs_of(const struct options *o, const struct llama_shape *shape, const struct series *s,
                     const struct bench_rates *r, struct bench_need needs[NEEDS])
{
    double n = s->count, tokens = (double)(o->accum * o->batch * o->seq);
    bool on_device = s->stats.device_out_bytes == 0;

    needs[COMPUTE] =
        (struct bench_need){"compute", bench_time(8 * bench_model_products(shape) * tokens, r->matrix_flops)};
    needs[LINK_IN] =
        (struct bench_need){"link in", bench_time((double)s->stats.device_in_bytes / n, r->link_in_bps)};
    needs[LINK_OUT] =
        (struct bench_need){"link out", bench_time((double)s->stats.device_out_bytes / n, r->link_out_bps)};
    needs[DRIVE] = (struct bench_need){"drive", bench_drive_time(r, (double)s->stats.nvme_read_bytes / n,
                                                                 (double)s->stats.nvme_write_bytes / n)};
    needs[UPDATE] = (struct bench_need){"update", bench_time(UPDATE_BYTES * (double)llama_param_count(shape),
                                                             on_device ? r->device_bps : r->host_bps)};
}

struct figures {
    struct bench_spread step_s;
    struct bench_rates rates; /* measured before, or by the run */
    struct common_bound run;
    struct bench_need needs[NEEDS];
    size_t binding;
    double mean_s, tokens_per_s, flops, bound_s;
    double stall_share, in_share, out_share; /* of the time; link: busy */
};

static void figures_of(const struct options *o, const struct llama_shape *shape, const struct series *s,
                       const struct bench_rates *r, struct figures *f)
{
    double tokens = (double)(o->accum * o->batch * o->seq), all = 0;

    for (unsigned i = 0; i < s->count; i++)
        all += s->step_s[i];
    f->mean_s = all / s->count;
    f->step_s = bench_spread(s->step_s, s->count);
    f->tokens_per_s = tokens / f->step_s.median;
    f->flops = 6 * bench_model_products(shape) * f->tokens_per_s;
    f->stall_share = (double)s->stats.stall_ns * 1e-9 / all;
    f->in_share = (double)s->stats.device_in_busy_ns * 1e-9 / all;
    f->out_share = (double)s->stats.device_out_busy_ns * 1e-9 / all;
    common_bound_get(&s->meter, &(struct common_least){.known = false}, &f->run);
    f->rates = *r;
    bench_rates_raise(&f->rates, &f->run);
    needs_of(o, shape, s, &f->rates, f->needs);
    f->bound_s = bench_bound(f->needs, NEEDS, &f->binding);
}

static void print_figures(const char *what, const struct series *s, const struct figures *f,
                          const struct bench_rates *r)
{
    double n = s->count;

    printf(
        "%-9s %.3f s a step (%.3f to %.3f, %u steps), %.0f tokens/s, %.1f TFLOP/s; with recomputation %.1f "
        "%% of the product rate\n",
        what, f->step_s.median, f->step_s.q1, f->step_s.q3, s->count, f->tokens_per_s, f->flops * 1e-12,
        100 * f->flops * 8 / 6 / r->matrix_flops);
    printf("          bound of what moved %.3f s by %s: %.1f %% of it reached;", f->bound_s,
           f->needs[f->binding].name, 100 * f->bound_s / f->mean_s);
    for (size_t i = 0; i < NEEDS; i++)
        printf(" %s %.3f%s", f->needs[i].name, f->needs[i].seconds, i + 1 < NEEDS ? "," : " s\n");
    common_bound_check(f->bound_s, f->mean_s);
    printf(
        "          stall %.1f %%, link in %.1f %% busy, out %.1f %%; a step moves in %s, out %s, reads %s, "
        "writes %s; %.0f driver calls, off plan %llu\n",
        100 * f->stall_share, 100 * f->in_share, 100 * f->out_share,
        common_bytes((uint64_t)((double)s->stats.device_in_bytes / n)).text,
        common_bytes((uint64_t)((double)s->stats.device_out_bytes / n)).text,
        common_bytes((uint64_t)((double)s->stats.nvme_read_bytes / n)).text,
        common_bytes((uint64_t)((double)s->stats.nvme_write_bytes / n)).text,
        (double)s->stats.driver_calls / n, (ull)s->stats.off_plan);
    printf(
        "          peak of budget: device %s of %s, host %s of %s, NVMe %s of %s\n",
        common_bytes(s->stats.peak_bytes[OFL_DEVICE]).text,
        common_bytes(s->stats.budget_bytes[OFL_DEVICE]).text,
        common_bytes(s->stats.peak_bytes[OFL_HOST]).text, common_bytes(s->stats.budget_bytes[OFL_HOST]).text,
        common_bytes(s->stats.peak_bytes[OFL_NVME]).text, common_bytes(s->stats.budget_bytes[OFL_NVME]).text);
    for (unsigned i = 0; i < s->worst_count; i++)
        printf("          %s\n", s->worst[i].text);
}

static struct llama_compute_config compute_of(const struct llama_trainer_config *t)
{
    return (struct llama_compute_config){.shape = t->shape,
                                         .dtype = t->dtype,
                                         .cuda = t->cuda,
                                         .batch = t->batch,
                                         .seq = t->seq,
                                         .accum = t->accum};
}

/* Takes its stalls. */
static json_t *series_json(struct series *s, const struct figures *f, const struct bench_rates *r)
{
    json_t *samples = json_array(), *needs = json_object(), *j;

    for (unsigned i = 0; i < s->count; i++)
        json_array_append_new(samples, bench_real_json(s->step_s[i]));
    for (size_t i = 0; i < NEEDS; i++)
        json_object_set_new(needs, f->needs[i].name, bench_real_json(f->needs[i].seconds));
    j = json_pack(
        "{s:f, s:f, s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:s, s:f, s:o, s:o, s:o, s:f, s:f, s:f}",
        "link_in_share", f->in_share, "link_out_share", f->out_share, "step_s", bench_spread_json(&f->step_s),
        "samples_s", samples, "tokens_per_s", f->tokens_per_s, "tflops", f->flops * 1e-12, "tflops_recompute",
        f->flops * 8 / 6 * 1e-12, "share_of_product_rate", f->flops * 8 / 6 / r->matrix_flops, "bound_s",
        f->bound_s, "binding", f->needs[f->binding].name, "share_of_bound", f->bound_s / f->mean_s, "needs_s",
        needs, "rates", bench_rates_json(&f->rates), "bound", common_bound_json(&f->run), "stall_share",
        f->stall_share, "loss", s->loss, "driver_calls_per_step", (double)s->stats.driver_calls / s->count);
    if (j)
        json_object_set_new(j, "predicted", bench_predict_json(&s->predicted, f->step_s.median));
    else
        json_decref(s->stalls);
    if (j && common_report_stats(j, &s->stats, json_array(), s->stalls) != 0)
        return NULL;
    return j;
}

static int write_report(const struct options *o, const struct llama_shape *shape, const struct bench_rates *r,
                        json_t *budgeted, json_t *in_memory)
{
    json_t *j = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:o, s:{s:I, s:I, s:I, s:I, s:I, s:f, s:s}, s:o, s:o, s:o}", "program",
        "ofl-bench step", "version", ofl_version(), "date", bench_date().text, "device",
        o->budget.chosen.device, "device_name", o->budget.chosen.name, "model", bench_model_json(shape),
        "settings", "batch", (json_int_t)o->batch, "seq", (json_int_t)o->seq, "accum", (json_int_t)o->accum,
        "steps", (json_int_t)o->steps, "warmup", (json_int_t)o->warmup, "clip", o->clip, "dtype",
        ofl_dtype_name(o->dtype), "rates", bench_rates_json(r), "budgeted", budgeted ? budgeted : json_null(),
        "in_memory", in_memory ? in_memory : json_null());
    int status = j ? common_report_write(o->budget.report, j)
                   : common_fail(EXIT_FULL, "make the report: out of memory");

    json_decref(j);
    return status;
}

/* ---- the whole ------------------------------------------------------------- */

/* Of the series under budgets, and of the one with everything in device memory; refuses either. */
static int choose_budgets(const struct options *o, const struct llama_trainer_need *need,
                          const bool wanted[2], struct ofl_config out[2])
{
    uint64_t arrays = 2 * o->accum * o->batch * o->seq * sizeof(int32_t);
    struct common_budget all = {.chosen = o->budget.chosen, .in_memory = true};
    int status = wanted[0] ? common_budget_training(&o->budget, need, arrays, &out[0]) : 0;

    if (status == 0 && wanted[1])
        status = common_budget_training(&all, need, arrays, &out[1]);
    out[1].device = o->budget.chosen.device; /* it outlives all's */
    return status;
}

static int run_all(const struct options *o, const struct llama_config *config)
{
    struct llama_trainer_config trainer = {.shape = config->shape,
                                           .batch = o->batch,
                                           .seq = o->seq,
                                           .accum = o->accum,
                                           .dtype = o->dtype,
                                           .cuda = o->budget.chosen.gpu};
    const struct common_budget *b = &o->budget;
    bool budgeted = b->device_bytes || b->host_bytes || b->nvme_count, in_memory = o->compare || !budgeted;
    const bool wanted[2] = {budgeted, in_memory};
    struct series series[2] = {{0}, {0}};
    struct ofl_config open[2];
    struct llama_trainer_need need;
    struct llama_compute_config compute = compute_of(&trainer);
    json_t *reports[2] = {NULL, NULL};
    struct figures figures[2];
    struct bench_rates rates;
    int status;

    llama_trainer_need(&trainer, &need);
    status = choose_budgets(o, &need, wanted, open);
    if (status == 0)
        status = bench_rates_measure(&o->budget, o->dtype, &rates);
    if (status)
        return status;
    bench_rates_print(&rates);
    printf("model     %.3f B parameters; %llu sequences of %llu tokens in %llu micro-batches; state %s, "
           "activations %s, scratch %s\n",
           (double)llama_param_count(&config->shape) * 1e-9, (ull)(o->batch * o->accum), (ull)o->seq,
           (ull)o->accum, common_bytes(need.state_bytes).text, common_bytes(need.activation_bytes).text,
           common_bytes(need.workspace_bytes).text);
    for (int i = 0; i < 2 && status == 0; i++) {
        const char *what = i == 0 ? "budgets" : "in memory";

        if (!wanted[i])
            continue;
        status = bench_predict(b, &compute, o->clip > 0, 0, &open[i], &rates, &series[i].predicted);
        if (status == 0)
            status = run_series(o, config, &trainer, &open[i], &series[i], what,
                                i == 0 || !budgeted ? o->budget.timeline : NULL);
        if (status)
            break;
        figures_of(o, &config->shape, &series[i], &rates, &figures[i]);
        print_figures(what, &series[i], &figures[i], &rates);
        bench_predict_end(&series[i].predicted, figures[i].step_s.median);
        reports[i] = series_json(&series[i], &figures[i], &rates);
    }
    if (status == 0 && budgeted && in_memory)
        printf("budgets   %.3f of the in-memory speed\n",
               figures[1].step_s.median / figures[0].step_s.median);
    if (status == 0 && o->budget.report) {
        status = write_report(o, &config->shape, &rates, reports[0], reports[1]);
    } else {
        json_decref(reports[0]);
        json_decref(reports[1]);
    }
    for (int i = 0; i < 2; i++)
        free(series[i].step_s);
    return status;
}

int bench_step_main(int argc, char **argv)
{
    struct common_command command = {
        .title = "ofl-bench step",
        .before = doc,
        .tables = {{what_options, 0}, {common_budget_options, offsetof(struct options, budget)}}};
    struct options o = {0};
    char error[COMMON_ERROR_BYTES];
    struct llama_config config;
    int status = bench_model_options(&command, more, argc, argv, &o);

    if (status == 0)
        status = bench_model_load(o.preset, o.model, &config);
    if (status == 0 && o.save) {
        if (llama_config_save(o.save, &config, o.dtype, error, sizeof error) < 0)
            status = common_fail(EXIT_INPUT, "%s", error);
    } else if (status == 0) {
        status = common_budget_check(&o.budget);
        if (status == 0)
            status = common_device_choose(&o.budget);
        common_signals();
        common_blas_threads();
        if (status == 0)
            status = run_all(&o, &config);
    }
    common_budget_free(&o.budget);
    return status;
}
