/*
 * ofl-finetune: fine-tunes all parameters of a language model inside hard budgets of device memory,
 * host memory and NVMe. This file runs the steps and reports them.
 */
#include "examples/finetune.h"

#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common_bound.h"
#include "examples/common_predict.h"
#include "examples/model/directory.h"
#include "examples/model/writer.h"

struct run {
    const struct options *options;
    const struct data *data, *eval; /* eval without rows: there is none */
    struct state *state;
    int32_t *inputs, *targets; /* of one step */
    json_t *loss, *grad_norm, *step_s, *evals;
    struct common_meter meter;
    struct common_bound bound;
    uint64_t tokens, learned;
};

static int setup_failed(int err, const char *sentence)
{
    return common_fail(common_status(err), "%s", sentence);
}

/* ---- steps ---------------------------------------------------------------- */

static double rate(const struct options *o, uint64_t step)
{
    struct schedule s = {.kind = o->schedule,
                         .rate = o->lr,
                         .end = o->lr_end,
                         .steps = o->steps,
                         .warmup = o->warmup,
                         .decay = decay_steps(o)};

    return schedule_rate(&s, step);
}

static void print_step(const struct run *r, uint64_t step, double tokens, double loss, double norm,
                       double seconds)
{
    const struct options *o = r->options;
    struct ofl_stats s = {.size = sizeof s};

    if (!isatty(STDERR_FILENO)) {
        common_line("step %llu/%llu loss %.5f norm %.5f lr %.4g %.0f tokens/s %.3f s",
                    (unsigned long long)step, (unsigned long long)o->steps, loss, norm, rate(o, step),
                    tokens / seconds, seconds);
        return;
    }
    if (!common_progress_due() || ofl_stats_get(r->state->ctx, &s) < 0)
        return;
    common_progress(
        "step %llu/%llu loss %.4f norm %.3f lr %.3g %.0f tokens/s | D %s H %s N %s | stall %.1f s",
        (unsigned long long)step, (unsigned long long)o->steps, loss, norm, rate(o, step), tokens / seconds,
        common_bytes(s.used_bytes[OFL_DEVICE]).text, common_bytes(s.used_bytes[OFL_HOST]).text,
        common_bytes(s.used_bytes[OFL_NVME]).text, (double)s.stall_ns * 1e-9);
}

static int run_step(struct run *r, uint64_t step)
{
    const struct options *o = r->options;
    struct ofl_adamw settings = {.size = sizeof settings,
                                 .lr = rate(o, step),
                                 .beta1 = o->beta1,
                                 .beta2 = o->beta2,
                                 .eps = o->eps,
                                 .weight_decay = o->weight_decay,
                                 .clip = o->clip,
                                 .step = step};
    uint64_t rows = o->accum * o->batch, tokens;
    double start = common_seconds(), seconds, loss, norm;
    char error[COMMON_ERROR_BYTES];

    tokens = data_rows(r->data, (step - 1) * rows, rows, r->inputs, r->targets);
    if (llama_trainer_step(r->state->trainer, r->inputs, r->targets, &settings, &loss, &norm, error,
                           sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "step %llu: %s", (unsigned long long)step, error);
    seconds = common_seconds() - start;
    if (!isfinite(loss) || !isfinite(norm))
        return common_fail(EXIT_INPUT,
                           "step %llu: the loss is %g, the gradient norm %g: stopped; try a smaller --lr, "
                           "or --clip and --warmup",
                           (unsigned long long)step, loss, norm);
    r->tokens += tokens;
    for (uint64_t i = 0; i < rows * o->seq; i++)
        r->learned += r->targets[i] >= 0;
    if (json_array_append_new(r->loss, json_real(loss)) < 0 ||
        json_array_append_new(r->grad_norm, json_real(norm)) < 0 ||
        json_array_append_new(r->step_s, json_real(seconds)) < 0)
        return common_fail(EXIT_RUNTIME, "step %llu: out of memory", (unsigned long long)step);
    print_step(r, step, (double)tokens, loss, norm, seconds);
    return 0;
}

static bool is_eval_step(const struct run *r, uint64_t step)
{
    const struct options *o = r->options;

    return r->eval->rows && (step == o->steps || (o->eval_every && step % o->eval_every == 0));
}

static int run_eval(struct run *r, uint64_t step)
{
    double loss;
    int status = eval_run(r->state, r->eval, r->inputs, r->targets, &loss);

    if (status)
        return status;
    common_line("eval at step %llu: loss %.5f over %llu tokens", (unsigned long long)step, loss,
                (unsigned long long)r->eval->learned);
    if (json_array_append_new(r->evals, json_pack("{s:I, s:f, s:I}", "step", (json_int_t)step, "loss", loss,
                                                  "tokens", (json_int_t)r->eval->learned)) < 0)
        return common_fail(EXIT_RUNTIME, "step %llu: out of memory", (unsigned long long)step);
    return common_meter_skip(&r->meter, r->state->ctx);
}

static int run_steps(struct run *r)
{
    const struct options *o = r->options;
    int status = common_meter_start(&r->meter, r->state->ctx, COMMON_SETTLE);

    for (uint64_t step = 1; step <= o->steps && status == 0; step++) {
        status = run_step(r, step);
        if (status == 0)
            status = common_meter_step(&r->meter, r->state->ctx);
        if (status == 0 && is_eval_step(r, step) && !common_stopping())
            status = run_eval(r, step);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted after step %llu of %llu: nothing written",
                                 (unsigned long long)step, (unsigned long long)o->steps);
    }
    return status;
}

/* ---- the end --------------------------------------------------------------- */

static void print_summary(const struct run *r, const struct ofl_stats *s)
{
    size_t steps = json_array_size(r->loss);
    double seconds = 0;

    for (size_t i = 0; i < steps; i++)
        seconds += json_real_value(json_array_get(r->step_s, i));
    common_line("%zu steps, loss %.5f -> %.5f, %llu tokens, %.0f tokens/s, stall %.1f of %.1f s", steps,
                json_real_value(json_array_get(r->loss, 0)),
                json_real_value(json_array_get(r->loss, steps - 1)), (unsigned long long)r->tokens,
                (double)r->tokens / seconds, (double)s->stall_ns * 1e-9, seconds);
    if (r->learned < r->tokens)
        common_line("learned: %llu of these tokens", (unsigned long long)r->learned);
    common_line("peak of budget: device %s of %s, host %s of %s, NVMe %s of %s",
                common_bytes(s->peak_bytes[OFL_DEVICE]).text, common_bytes(s->budget_bytes[OFL_DEVICE]).text,
                common_bytes(s->peak_bytes[OFL_HOST]).text, common_bytes(s->budget_bytes[OFL_HOST]).text,
                common_bytes(s->peak_bytes[OFL_NVME]).text, common_bytes(s->budget_bytes[OFL_NVME]).text);
    common_line("moved: device in %s, out %s; NVMe read %s, written %s; checkpoint read %s",
                common_bytes(s->device_in_bytes).text, common_bytes(s->device_out_bytes).text,
                common_bytes(s->nvme_read_bytes).text, common_bytes(s->nvme_write_bytes).text,
                common_bytes(s->source_read_bytes).text);
    common_bound_print(&r->bound, "step");
    common_predict_end(r->state->predicted, "step", r->bound.step_s);
}

static struct llama_trainer_config trainer_config(const struct options *o, const struct llama_shape *shape,
                                                  const struct lora *lora)
{
    return (struct llama_trainer_config){.shape = *shape,
                                         .batch = o->batch,
                                         .seq = o->seq,
                                         .accum = o->accum,
                                         .dtype = o->dtype,
                                         .cuda = o->budget.chosen.gpu,
                                         .lora = lora->config,
                                         .frozen = lora->dtypes,
                                         .seed = o->seed};
}

static uint64_t trained(const struct llama_trainer_config *c)
{
    return c->lora.rank ? llama_lora_params(&c->shape, &c->lora) : llama_param_count(&c->shape);
}

static json_t *model_json(const struct run *r)
{
    const struct llama_shape *shape = &r->state->config->shape;
    const struct llama_trainer_config *config = r->state->trainer_config;
    struct llama_trainer_need need;

    llama_trainer_need(config, &need);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I}",
                     "parameters", (json_int_t)llama_param_count(shape), "trained_parameters",
                     (json_int_t)trained(config), "frozen_parameters",
                     (json_int_t)(config->lora.rank ? llama_param_count(shape) : 0), "frozen_bytes",
                     (json_int_t)need.frozen_bytes, "layers", (json_int_t)shape->layers, "hidden",
                     (json_int_t)shape->hidden, "heads", (json_int_t)shape->heads, "kv_heads",
                     (json_int_t)shape->kv_heads, "head_dim", (json_int_t)shape->head_dim, "ffn",
                     (json_int_t)shape->ffn, "vocab", (json_int_t)shape->vocab, "tied", shape->tied,
                     "state_bytes", (json_int_t)need.state_bytes, "activation_bytes",
                     (json_int_t)need.activation_bytes, "workspace_bytes", (json_int_t)need.workspace_bytes);
}

/* Takes drives and stalls. */
static int write_report(struct run *r, const struct ofl_stats *stats, json_t *drives, json_t *stalls,
                        const char *hash)
{
    json_t *j =
        json_pack("{s:s, s:s, s:O, s:O, s:O, s:I, s:I, s:O, s:s, s:o, s:o, s:o}", "program", "ofl-finetune",
                  "version", ofl_version(), "loss", r->loss, "grad_norm", r->grad_norm, "eval", r->evals,
                  "tokens", (json_int_t)r->tokens, "learned_tokens", (json_int_t)r->learned, "step_s",
                  r->step_s, "state_hash", hash, "model", model_json(r), "settings", options_json(r->options),
                  "bound", common_bound_json(&r->bound));
    int status = j ? common_report_stats(j, stats, drives, stalls)
                   : common_fail(EXIT_RUNTIME, "make the report: out of memory");

    if (status == 0)
        status = common_report_write(r->options->budget.report, j);
    json_decref(j);
    return status;
}

static int finish(struct run *r)
{
    const struct options *o = r->options;
    struct ofl_stats stats = {.size = sizeof stats};
    json_t *drives = NULL, *stalls = NULL;
    struct common_stall worst[COMMON_STALLS];
    unsigned worst_count = common_stalls(r->state->ctx, worst);
    char hash[33];
    int status = 0;

    /* The training's figures: saving and hashing come after. */
    if (ofl_stats_get(r->state->ctx, &stats) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    common_bound_get(&r->meter, &(struct common_least){.known = false}, &r->bound);
    if (o->budget.report) {
        drives = common_drives_json(r->state->ctx);
        stalls = common_stalls_json(r->state->ctx);
    }
    if (o->out) /* first: the weights wait for nothing that they do not need */
        status = state_save(r->state);
    if (status == 0 && o->budget.report)
        status = state_hash(r->state, hash);
    if (status == 0 && o->budget.report) {
        status = write_report(r, &stats, drives, stalls, hash);
        drives = stalls = NULL;
    }
    json_decref(drives);
    json_decref(stalls);
    if (status)
        return status;
    print_summary(r, &stats);
    for (unsigned i = 0; i < worst_count; i++)
        common_line("%s", worst[i].text);
    if (o->budget.report)
        common_line("state hash %s", hash);
    return 0;
}

/* ---- set-up ----------------------------------------------------------------- */

static int train(struct state *s, const struct data *data, const struct data *eval)
{
    const struct options *o = s->options;
    uint64_t tokens = o->accum * o->batch * o->seq;
    struct run r = {.options = o,
                    .data = data,
                    .eval = eval,
                    .evals = json_array(),
                    .state = s,
                    .inputs = calloc(tokens, sizeof *r.inputs),
                    .targets = calloc(tokens, sizeof *r.targets),
                    .loss = json_array(),
                    .grad_norm = json_array(),
                    .step_s = json_array()};
    int status = 0;

    if (!r.inputs || !r.targets || !r.loss || !r.grad_norm || !r.step_s || !r.evals)
        status = common_fail(EXIT_RUNTIME, "train: out of memory");
    if (status == 0)
        status = run_steps(&r);
    if (status == 0)
        status = finish(&r);
    json_decref(r.loss);
    json_decref(r.grad_norm);
    json_decref(r.step_s);
    json_decref(r.evals);
    free(r.inputs);
    free(r.targets);
    return status;
}

static int run_trainer(struct state *s, const struct data *data, const struct data *eval)
{
    char error[COMMON_ERROR_BYTES];
    int err = llama_trainer_create(s->ctx, s->trainer_config, &s->trainer, error, sizeof error), status;

    if (err < 0)
        return setup_failed(err, error);
    status = state_fill(s);
    if (status == 0)
        status = state_out_open(s);
    if (status == 0)
        status = train(s, data, eval);
    state_out_close(s);
    llama_trainer_destroy(s->trainer);
    return status;
}

/* Frozen weights stay in the checkpoint, which stays open. */
static int run_in_context(struct ofl_ctx *ctx, const struct options *o, const struct llama_config *config,
                          const struct llama_trainer_config *trainer, const struct data *data,
                          const struct data *eval, const struct common_prediction *predicted)
{
    struct llama_trainer_config with = *trainer;
    struct state s = {
        .ctx = ctx, .options = o, .config = config, .trainer_config = &with, .predicted = predicted};
    struct llama_checkpoint *ck = NULL;
    char error[COMMON_ERROR_BYTES];
    int err = trainer->lora.rank
                  ? llama_checkpoint_open(ctx, o->model, &config->shape, &ck, error, sizeof error)
                  : 0,
        status;

    if (err < 0)
        return setup_failed(err, error);
    with.base = ck;
    if (trainer->lora.rank)
        common_line("training %llu parameters of adapters over %llu that are frozen, in %s",
                    (unsigned long long)trained(trainer),
                    (unsigned long long)llama_param_count(&config->shape), o->model);
    status = run_trainer(&s, data, eval);
    if (llama_checkpoint_close(ck) < 0 && status == 0)
        status = common_fail_ofl(EXIT_RUNTIME, "close the model");
    return status;
}

static int load_config(const struct options *o, struct llama_config *config)
{
    char error[COMMON_ERROR_BYTES];
    int err;

    if (o->model) {
        err = llama_directory_check(o->model, lora_is_wanted(o), error, sizeof error);
        if (err == 0)
            err = llama_checkpoint_config(o->model, config, error, sizeof error);
        if (err < 0)
            return setup_failed(err, error);
        if (config->dropout > 0)
            return common_fail(
                EXIT_INPUT,
                "read %s/config.json: %s is %g: training with dropout is not supported; set it to "
                "0 there",
                o->model, config->dropout_key, (double)config->dropout);
        if (config->shape.expert_pairs || config->shape.sinks)
            return common_fail(
                EXIT_INPUT,
                "read %s/config.json: models of this type generate only: their training is not "
                "supported",
                o->model);
        if (config->shape.scheme.packer != LLAMA_PACKER_NONE && (o->merge || !lora_is_wanted(o)))
            return common_fail(
                EXIT_INPUT,
                "read %s/config.json: quantization_config: packed weights are not %s: give the "
                "directory that they were made from%s",
                o->model, o->merge ? "merged into" : "trained",
                o->merge ? "" : ", or --lora, which leaves them as they are");
        if (config->router_loss)
            return common_fail(
                EXIT_INPUT,
                "read %s/config.json: output_router_logits is true: the routers' auxiliary loss is not "
                "supported; set it to false there",
                o->model);
    } else if (llama_preset(o->preset, config) < 0) {
        return common_fail(EXIT_INPUT, "--preset %s: there is none of that name; --help lists them",
                           o->preset);
    }
    if (!o->merge && o->seq > config->shape.max_positions)
        return common_fail(EXIT_INPUT, "--seq %llu: the model's positions end at %u",
                           (unsigned long long)o->seq, config->shape.max_positions);
    if (o->accum * o->batch * o->seq > 1u << 28)
        return common_fail(EXIT_INPUT, "--accum %llu --batch %llu --seq %llu: a step has 2^28 tokens at most",
                           (unsigned long long)o->accum, (unsigned long long)o->batch,
                           (unsigned long long)o->seq);
    if (o->out && (err = llama_output_check(o->out, error, sizeof error)) < 0)
        return setup_failed(err, error);
    return 0;
}

/* What --out takes of memory, where it lies there. It may not exist yet: what it is made in tells. */
static uint64_t out_bytes(const struct options *o, const struct llama_shape *shape)
{
    char above[4096];

    if (!o->out || snprintf(above, sizeof above, "%s", o->out) >= (int)sizeof above)
        return 0;
    return common_dir_in_memory(o->out) || common_dir_in_memory(dirname(above))
               ? lora_is_wanted(o) ? 0 : llama_param_count(shape) * ofl_dtype_bytes(o->dtype)
               : 0;
}

static int check_budgets(const struct options *o, const struct llama_trainer_config *trainer,
                         struct ofl_config *out)
{
    uint64_t tokens = o->accum * o->batch * o->seq;
    struct llama_trainer_need need;

    llama_trainer_need(trainer, &need);
    return common_budget_training(&o->budget, &need,
                                  2 * tokens * sizeof(int32_t) + out_bytes(o, &trainer->shape), out);
}

static void predict(const struct options *o, const struct llama_trainer_config *t,
                    const struct ofl_config *open, struct common_prediction *out)
{
    struct llama_compute_config compute = {.shape = t->shape,
                                           .dtype = t->dtype,
                                           .cuda = t->cuda,
                                           .batch = t->batch,
                                           .seq = t->seq,
                                           .accum = t->accum};
    struct common_plan plan = {
        .budget = &o->budget, .compute = &compute, .open = open, .clip = o->clip > 0, .what = "step"};

    common_predict(&plan, out);
}

/* The check of budgets comes again behind it: the tokens take of what was there. */
static int load_data(const struct options *o, const struct llama_config *config,
                     const struct llama_trainer_config *trainer, struct ofl_config *open, struct data *data,
                     struct data *eval)
{
    int status = data_load(o, &o->data, "--data", DATA_TRAIN, config, data);

    if (status == 0 && o->eval.count)
        status = data_load(o, &o->eval, "--eval", DATA_EVAL, config, eval);
    return status ? status : check_budgets(o, trainer, open);
}

static int run_training(const struct options *o, const struct llama_config *config, const struct lora *lora,
                        struct data *data, struct data *eval)
{
    struct common_prediction predicted = {0};
    struct ofl_config open;
    struct ofl_ctx *ctx;
    struct llama_trainer_config trainer;
    int status, err;

    trainer = trainer_config(o, &config->shape, lora);
    status = check_budgets(o, &trainer, &open);
    if (status == 0)
        status = load_data(o, config, &trainer, &open, data, eval);
    if (status || o->show)
        return status ? status : data_show(o, data);
    if (!lora->config.rank) /* estimates know no frozen weights yet */
        predict(o, &trainer, &open, &predicted);
    err = ofl_open(&open, &ctx);
    if (err < 0)
        return setup_failed(err, ofl_error());
    status = common_timeline_open(ctx, o->budget.timeline);
    if (status == 0) {
        status = run_in_context(ctx, o, config, &trainer, data, eval, &predicted);
        err = common_timeline_close(ctx, o->budget.timeline);
        status = status ? status : err;
    }
    err = ofl_close(ctx);
    if (err < 0 && status == 0)
        status = common_fail_ofl(EXIT_RUNTIME, "close");
    return status;
}

static int run_all(const struct options *o, struct data *data, struct data *eval)
{
    struct llama_config config;
    struct lora lora = {0};
    int status = common_budget_check(&o->budget);

    if (status == 0)
        status = load_config(o, &config);
    if (status == 0 && o->merge)
        return lora_merge(o, &config);
    if (status == 0 && lora_is_wanted(o))
        status = lora_prepare(o, &config.shape, &lora);
    if (status == 0)
        status = run_training(o, &config, &lora, data, eval);
    lora_free(&lora);
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    struct data data = {0}, eval = {0};
    int status = options_parse(argc, argv, &options);

    if (status == 0)
        status = common_device_choose(&options.budget);
    if (status == 0) {
        common_signals();
        common_blas_threads();
        status = run_all(&options, &data, &eval);
    }
    data_free(&data);
    data_free(&eval);
    options_free(&options);
    return status;
}
