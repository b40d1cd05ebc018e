/*
 * ofl-finetune: fine-tunes all parameters of a language model inside hard budgets of device memory,
 * host memory and NVMe. This file sets a run up.
 */
#include "examples/finetune.h"

#include <errno.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common_bound.h"
#include "examples/common_budget.h"
#include "examples/common_predict.h"
#include "examples/model/directory.h"
#include "examples/model/writer.h"

/* Of --out beside weights: header, configuration, tokenizer. */
#define OUT_FILES_BYTES (1u << 20)

static int setup_failed(int err, const char *sentence)
{
    return common_fail(common_status(err), "%s", sentence);
}

/* ---- the run ------------------------------------------------------------------ */

static struct llama_trainer_config trainer_config(const struct options *o, const struct llama_shape *shape,
                                                  const struct lora *lora)
{
    return (struct llama_trainer_config){.shape = *shape,
                                         .batch = o->batch,
                                         .seq = o->seq,
                                         .accum = o->accum,
                                         .dtype = o->dtype,
                                         .method = o->method,
                                         .cuda = o->budget.chosen.gpu,
                                         .spare = !o->decay_all,
                                         .keep = o->budget.store.dir != NULL,
                                         .lora = lora->config,
                                         .frozen = lora->dtypes,
                                         .seed = o->seed};
}

static int run_trainer(struct state *s, const struct data *data, const struct data *eval)
{
    char error[COMMON_ERROR_BYTES];
    int err = llama_trainer_create(s->ctx, s->trainer_config, &s->trainer, error, sizeof error), status;

    if (err < 0)
        return setup_failed(err, error);
    status = s->keep ? keep_check(s->keep, s) : 0;
    if (status == 0 && !(s->keep && s->keep->resuming))
        status = state_fill(s);
    if (status == 0)
        status = state_out_open(s);
    if (status == 0)
        status = run_steps(s, data, eval);
    state_out_close(s);
    llama_trainer_destroy(s->trainer);
    return status;
}

/* Frozen weights stay in the checkpoint, which stays open. */
static int run_in_context(struct ofl_ctx *ctx, const struct options *o, const struct llama_config *config,
                          const struct llama_trainer_config *trainer, const struct data *data,
                          const struct data *eval, const struct common_prediction *predicted,
                          uint64_t most_written, struct keep *keep)
{
    struct llama_trainer_config with = *trainer;
    struct state s = {.ctx = ctx,
                      .options = o,
                      .config = config,
                      .trainer_config = &with,
                      .predicted = predicted,
                      .most_written = most_written,
                      .keep = keep};
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
                    (unsigned long long)lora_trained(trainer),
                    (unsigned long long)llama_param_count(&config->shape), o->model);
    status = run_trainer(&s, data, eval);
    if ((err = llama_checkpoint_close(ck)) < 0 && status == 0)
        status = common_fail_ofl(common_status_late(err), "close the model");
    return status;
}

int config_load(const struct options *o, struct llama_config *config)
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
    if (o->out && (err = llama_output_check(o->out, o->overwrite, error, sizeof error)) < 0)
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

/* --max-written has --out in it. */
static int reserve_out(const struct options *o, const struct llama_trainer_config *trainer,
                       struct ofl_config *out)
{
    uint64_t bytes = o->out ? lora_trained(trainer) * ofl_dtype_bytes(o->dtype) + OUT_FILES_BYTES : 0;

    if (!out->max_written_bytes)
        return 0;
    if (bytes >= out->max_written_bytes)
        return common_fail(EXIT_INPUT, "--max-written %llu bytes (%s): --out alone takes about %llu (%s)",
                           (unsigned long long)out->max_written_bytes,
                           common_bytes(out->max_written_bytes).text, (unsigned long long)bytes,
                           common_bytes(bytes).text);
    out->max_written_bytes -= bytes;
    return 0;
}

static int check_budgets(const struct options *o, const struct llama_trainer_config *trainer,
                         struct ofl_config *out)
{
    uint64_t tokens = o->accum * o->batch * o->seq;
    struct llama_trainer_need need;
    int status;

    llama_trainer_need(trainer, &need);
    status = common_budget_training(&o->budget, &need,
                                    2 * tokens * sizeof(int32_t) + out_bytes(o, &trainer->shape), out);
    return status ? status : reserve_out(o, trainer, out);
}

static struct llama_compute_config compute_config(const struct llama_trainer_config *t)
{
    return (struct llama_compute_config){.shape = t->shape,
                                         .dtype = t->dtype,
                                         .cuda = t->cuda,
                                         .batch = t->batch,
                                         .seq = t->seq,
                                         .accum = t->accum};
}

static void predict(const struct options *o, const struct llama_trainer_config *t,
                    const struct ofl_config *open, struct common_prediction *out)
{
    const struct llama_compute_config compute = compute_config(t);
    char place[4096];
    struct ofl_nvme store = {.dir = o->budget.store.dir ? common_keep_place(&o->budget, place) : NULL};
    struct ofl_config with;
    struct common_plan plan = {.budget = &o->budget,
                               .compute = &compute,
                               .open = open,
                               .clip = o->clip > 0,
                               .method = o->method,
                               .what = "step"};

    /* Without --nvme a kept store's directory serves as one. */
    if (!open->nvme_count && open->keep_dir) {
        with = *open;
        with.nvme = &store;
        with.nvme_count = 1;
        plan.open = &with;
    }
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

/* keep NULL: no --store. */
static int run_opened(const struct options *o, const struct llama_config *config,
                      const struct llama_trainer_config *trainer, const struct ofl_config *open,
                      const struct data *data, const struct data *eval, struct keep *keep)
{
    struct common_prediction predicted = {0};
    struct ofl_ctx *ctx;
    int status, err;

    /* Estimates know no frozen weights yet; and what steps take, a run that goes on has said. */
    if (!trainer->lora.rank && !(keep && keep->resuming))
        predict(o, trainer, open, &predicted);
    err = ofl_open(open, &ctx);
    if (err < 0)
        return setup_failed(err, ofl_error());
    status = keep ? keep_open(keep, ctx) : 0;
    if (status == 0)
        status = common_timeline_open(ctx, o->budget.timeline);
    if (status == 0) {
        status =
            run_in_context(ctx, o, config, trainer, data, eval, &predicted, open->max_written_bytes, keep);
        err = common_timeline_close(ctx, o->budget.timeline);
        status = status ? status : err;
    }
    return common_close(ctx, status);
}

/* Of the data no more than that it is there. */
static int run_dry(const struct options *o, const struct llama_trainer_config *t,
                   const struct ofl_config *open)
{
    const struct llama_compute_config compute = compute_config(t);
    const struct common_texts *texts[] = {&o->data, &o->eval};
    struct common_plan plan = {.budget = &o->budget,
                               .compute =
                                   t->lora.rank ? NULL : &compute, /* estimates know no frozen weights yet */
                               .open = open,
                               .clip = o->clip > 0,
                               .method = o->method,
                               .what = "step"};
    struct llama_trainer_need need;
    struct common_ways ways;

    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < texts[k]->count; i++)
            if (access(texts[k]->texts[i], R_OK) < 0)
                return common_fail(EXIT_INPUT, "read %s: %s", texts[k]->texts[i], strerror(errno));
    llama_trainer_need(t, &need);
    ways = common_budget_ways(&o->budget, &need, open);
    printf("model      %llu parameters, %llu of them trained\n",
           (unsigned long long)llama_param_count(&t->shape), (unsigned long long)lora_trained(t));
    printf("takes      %s of weights, gradients and states, %s of activations, %s of workspace\n",
           common_bytes(need.state_bytes).text, common_bytes(need.activation_bytes).text,
           common_bytes(need.workspace_bytes).text);
    common_dry_run(&plan, &ways);
    return fflush(stdout) == EOF
               ? common_fail(common_status_late(-errno), "write the plan: %s", strerror(errno))
               : 0;
}

/* What is in a store is looked at before data is read: that may take long. */
static int run_training(const struct options *o, const struct llama_config *config, const struct lora *lora,
                        struct data *data, struct data *eval)
{
    struct llama_trainer_config trainer = trainer_config(o, &config->shape, lora);
    bool kept = o->budget.store.dir && !o->show;
    struct keep keep = {0};
    struct ofl_config open;
    int status = check_budgets(o, &trainer, &open);

    if (status == 0 && o->dry)
        return run_dry(o, &trainer, &open);
    if (status == 0 && kept)
        status = keep_look(&keep, o, lora);
    if (status == 0)
        status = load_data(o, config, &trainer, &open, data, eval);
    if (status == 0 && kept)
        status = keep_look_data(&keep, data);
    if (status == 0)
        status = o->show ? data_show(o, data)
                         : run_opened(o, config, &trainer, &open, data, eval, kept ? &keep : NULL);
    keep_free(&keep);
    return status;
}

/* A report replaces neither model nor data. */
static int check_outputs(const struct options *o)
{
    const struct common_use out[] = {
        {"--report", o->budget.report}, {"--timeline", o->budget.timeline}, {"--log", o->log}};
    const struct common_use dirs[] = {{"--model", o->model},
                                      {"--adapter", o->adapter},
                                      {"--tokenizer", o->tokenizer},
                                      {"--store", o->budget.store.dir},
                                      {"--export-store", o->export_store}};
    int status = common_outputs_check(out, 3, dirs, sizeof dirs / sizeof dirs[0], o->out);

    for (size_t i = 0; i < o->data.count && status == 0; i++)
        status = common_outputs_check(out, 3, &(struct common_use){"--data", o->data.texts[i]}, 1, NULL);
    for (size_t i = 0; i < o->eval.count && status == 0; i++)
        status = common_outputs_check(out, 3, &(struct common_use){"--eval", o->eval.texts[i]}, 1, NULL);
    return status;
}

static int run_all(const struct options *o, struct data *data, struct data *eval)
{
    struct llama_config config;
    struct lora lora = {0};
    int status = common_budget_check(&o->budget), err;

    if (status == 0 && o->log && (err = common_report_check(o->log)) < 0)
        return common_fail(EXIT_INPUT, "--log %s: %s", o->log, strerror(-err));
    if (status == 0)
        status = check_outputs(o);
    if (status == 0 && o->export_store)
        return export_run(o);
    if (status == 0)
        status = config_load(o, &config);
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
        common_signals_hangup(options.budget.store.dir != NULL);
        common_signals_ask();
        common_stop_text("stopping after this piece; again to end now");
        common_blas_threads();
        status = run_all(&options, &data, &eval);
    }
    data_free(&data);
    data_free(&eval);
    options_free(&options);
    return common_end(status);
}
