/* Adapters in ofl-finetune: what is adapted, first values, saving, merging. See finetune.h. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/adapter.h"
#include "examples/model/files.h"
#include "examples/model/lora_file.h"
#include "examples/model/merge.h"
#include "examples/model/writer.h"

/* ---- options --------------------------------------------------------------- */

bool lora_is_wanted(const struct options *o)
{
    return o->lora || o->adapter;
}

/* --merge makes a model of what is there: nothing is trained. */
static bool check_merge(const struct options *o, struct common_complaint *c)
{
    if (!o->adapter || !o->model || !o->out)
        return common_complain(c, "--merge needs --model DIR, --adapter DIR and --out DIR");
    if (o->data.count || o->eval.count)
        return common_complain(c, "--merge trains nothing: leave --data and --eval out, and train with "
                                  "--adapter and without --merge first");
    return true;
}

bool lora_check(const struct options *o, struct common_complaint *c)
{
    bool shape = o->lora_alpha > 0 || o->lora_dropout > 0 || o->lora_targets || o->rslora || o->dora;

    if (o->lora && o->adapter)
        return common_complain(c, "--lora and --adapter exclude each other: an adapter that goes on has its "
                                  "rank already");
    if (!o->lora && shape)
        return common_complain(c,
                               "--lora-alpha, --lora-dropout, --lora-targets, --rslora and --dora need "
                               "--lora RANK%s",
                               o->adapter ? ": an adapter that goes on has its own" : "");
    if (lora_is_wanted(o) && o->preset)
        return common_complain(c,
                               "--%s needs --model DIR: a preset's weights lie in no file that could stay "
                               "as it is",
                               o->lora ? "lora" : "adapter");
    if (lora_is_wanted(o) && o->dtype != OFL_F32)
        return common_complain(c,
                               "--dtype %s with --%s: frozen weights are used as the files have them, "
                               "adapters are f32; leave it out",
                               ofl_dtype_name(o->dtype), o->lora ? "lora" : "adapter");
    if (o->dora && o->lora_dropout > 0)
        return common_complain(c, "--dora with --lora-dropout %g: not supported together", o->lora_dropout);
    if (o->tokenizer && !lora_is_wanted(o))
        return common_complain(c, "--tokenizer DIR goes with --lora or --adapter: a model that is trained "
                                  "whole brings its own");
    return !o->merge || check_merge(o, c);
}

/* ---- set-up ---------------------------------------------------------------- */

static int failed(int err, const char *sentence)
{
    return common_fail(common_status(err), "%s", sentence);
}

/* The dtypes of the frozen weights, and how they are packed: budgets depend on them. */
static int read_dtypes(const struct options *o, struct llama_shape *shape, struct lora *l)
{
    struct ofl_config small = {
        .size = sizeof small, .device_bytes = 4096, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    uint32_t count = llama_tensor_count(shape);
    struct llama_checkpoint *ck = NULL;
    char error[COMMON_ERROR_BYTES];
    struct ofl_ctx *ctx;
    int err;

    l->dtypes = calloc(count, sizeof *l->dtypes);
    if (!l->dtypes)
        return common_fail(EXIT_FULL, "open %s: out of memory", o->model);
    if (ofl_open(&small, &ctx) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "open the model");
    err = llama_checkpoint_open(ctx, o->model, shape, &ck, error, sizeof error);
    for (uint32_t i = 0; i < count && err == 0; i++) {
        struct ofl_source *source;
        const char *name;

        llama_checkpoint_find(ck, i, &source, &name, &l->dtypes[i]);
    }
    if (err == 0)
        llama_checkpoint_packings(ck, shape);
    llama_checkpoint_close(ck);
    ofl_close(ctx);
    return err < 0 ? failed(err, error) : 0;
}

int lora_prepare(const struct options *o, struct llama_shape *shape, struct lora *l)
{
    char error[COMMON_ERROR_BYTES];
    int err;

    if (o->adapter) {
        err = llama_lora_load(o->adapter, shape, &l->config, error, sizeof error);
    } else {
        l->config = (struct llama_lora){.rank = (uint32_t)o->lora,
                                        .alpha = o->lora_alpha > 0 ? o->lora_alpha : 2 * (double)o->lora,
                                        .dropout = o->lora_dropout,
                                        .rank_stabilized = o->rslora,
                                        .dora = o->dora};
        err = llama_lora_targets(shape, o->lora_targets ? o->lora_targets : "all-linear", &l->config.targets,
                                 error, sizeof error);
        if (err < 0)
            return common_fail(EXIT_INPUT, "--lora-targets %s: %s",
                               o->lora_targets ? o->lora_targets : "all-linear", error);
    }
    if (err < 0)
        return failed(err, error);
    if (l->config.dora && l->config.dropout > 0 && !o->merge)
        return common_fail(EXIT_INPUT,
                           "--adapter %s: use_dora with a lora_dropout of %g: not supported together; set "
                           "lora_dropout to 0 there",
                           o->adapter, l->config.dropout);
    return read_dtypes(o, shape, l);
}

void lora_free(struct lora *l)
{
    free(l->dtypes);
    *l = (struct lora){0};
}

uint64_t lora_trained(const struct llama_trainer_config *c)
{
    return c->lora.rank ? llama_lora_params(&c->shape, &c->lora) : llama_param_count(&c->shape);
}

/* ---- values ------------------------------------------------------------------ */

static int put(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
               size_t error_bytes)
{
    int err = ofl_tensor_write(llama_trainer_adapter(arg, index), 0, values, t->elems * sizeof *values);

    return err < 0 ? llama_fail(err, error, error_bytes, "load the adapter: %s", ofl_error()) : 0;
}

int lora_fill(struct state *s)
{
    const struct llama_trainer_config *c = s->trainer_config;
    char error[COMMON_ERROR_BYTES];
    int err = s->options->adapter ? llama_lora_read(s->ctx, s->options->adapter, &s->config->shape, &c->lora,
                                                    put, s->trainer, error, sizeof error)
                                  : llama_trainer_adapters_init(s->trainer, error, sizeof error);

    return err < 0 ? failed(err, error) : 0;
}

static int get(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
               size_t error_bytes)
{
    int err = ofl_tensor_read(llama_trainer_adapter(arg, index), 0, values, t->elems * sizeof *values);

    if (err < 0)
        return llama_fail(err, error, error_bytes, "read the adapter: %s", ofl_error());
    if (!state_all_finite(OFL_F32, values, t->elems * sizeof *values))
        return llama_fail(-EDOM, error, error_bytes, STATE_NOT_FINITE, t->name);
    return common_stopping() ? -ECANCELED : 0;
}

int lora_out_open(struct state *s)
{
    char error[COMMON_ERROR_BYTES];
    int err = llama_output_open(s->options->out, s->options->overwrite, &s->adapter_out, error, sizeof error);

    return err < 0 ? failed(err, error) : 0;
}

int lora_save(struct state *s)
{
    struct llama_lora_writer w = {.base = s->options->model,
                                  .shape = &s->config->shape,
                                  .lora = &s->trainer_config->lora,
                                  .get = get,
                                  .arg = s->trainer};
    char error[COMMON_ERROR_BYTES] = "";
    int err = llama_checkpoint_check(s->trainer_config->base, error, sizeof error);

    if (err < 0)
        return common_fail(common_status_late(err), "after the last step: %s", error);
    err = llama_lora_write(&w, s->adapter_out, error, sizeof error);
    if (err == -ECANCELED)
        return common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
    return err < 0 ? common_fail(common_status_late(err), "%s", error) : 0;
}

/* ---- merging ----------------------------------------------------------------- */

static int merge_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    common_progress_bytes("merging", done, total);
    return common_stopping() ? -ECANCELED : 0;
}

int lora_merge(const struct options *o, struct llama_config *config)
{
    struct lora l = {0};
    char error[COMMON_ERROR_BYTES] = "";
    int status = lora_prepare(o, &config->shape, &l), err;

    if (status == 0) {
        struct llama_merge m = {.model = o->model,
                                .adapter = o->adapter,
                                .out = o->out,
                                .replace = o->overwrite,
                                .config = config,
                                .lora = &l.config,
                                .dtypes = l.dtypes,
                                .progress = merge_progress};

        err = llama_merge(&m, error, sizeof error);
        common_progress_clear();
        if (err == -ECANCELED)
            status = common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
        else if (err < 0)
            status = failed(err, error);
        else
            common_line("merged %s with %s into %s", o->model, o->adapter, o->out);
    }
    lora_free(&l);
    return status;
}
