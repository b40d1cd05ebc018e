/* The steps of ofl-finetune, and what comes of them. See finetune.h. */
#include "examples/finetune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/common_bound.h"
#include "examples/common_predict.h"

struct run {
    const struct options *options;
    const struct data *data, *eval; /* eval without rows: there is none */
    struct state *state;
    int32_t *inputs, *targets; /* of one step */
    struct past *past;
    size_t before;      /* steps of earlier processes */
    double seconds;     /* of this one's */
    uint64_t stalls_ns; /* until the last step */
    double stall_s;     /* of steps */
    struct log log;
    struct common_meter meter;
    struct common_bound bound;
};

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

/* Behind the line of a step, which stays: how far the run is. */
static void draw_progress(const struct run *r, uint64_t step, const struct ofl_stats *s)
{
    uint64_t steps = r->options->steps;
    double each = r->seconds / (double)(step - r->before);

    common_progress("%llu of %llu steps, ETA %s | D %s H %s N %s | stall %.1f s", (unsigned long long)step,
                    (unsigned long long)steps, common_clock(each * (double)(steps - step)).text,
                    common_bytes(s->used_bytes[OFL_DEVICE]).text, common_bytes(s->used_bytes[OFL_HOST]).text,
                    common_bytes(s->used_bytes[OFL_NVME]).text, r->stall_s);
}

static int tell_step(struct run *r, const struct log_line *line)
{
    struct ofl_stats s = {.size = sizeof s};
    struct log_line l = *line;

    common_line_above("step %llu/%llu loss %.5f norm %.5f lr %.4g %.0f tokens/s %.3f s",
                      (unsigned long long)l.step, (unsigned long long)l.steps, l.loss, l.norm, l.lr,
                      (double)l.tokens / l.seconds, l.seconds);
    if (ofl_stats_get(r->state->ctx, &s) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    r->seconds += l.seconds;
    l.stall_s = (double)(s.stall_ns - r->stalls_ns) * 1e-9;
    l.stall_s = l.stall_s < l.seconds ? l.stall_s : l.seconds; /* a wait may have begun before the step */
    r->stall_s += l.stall_s;
    r->stalls_ns = s.stall_ns;
    draw_progress(r, l.step, &s);
    return log_step(&r->log, &l);
}

/* Its update has run already: what the tensors hold now is never committed. */
static int not_finite(const struct run *r, uint64_t step, double loss, double norm)
{
    const struct keep *k = r->state->keep;

    if (!k)
        return common_fail(EXIT_RUNTIME,
                           "step %llu: the loss is %g, the gradient norm %g: stopped; try a smaller --lr, "
                           "or --clip and --warmup",
                           (unsigned long long)step, common_printable(loss), common_printable(norm));
    return common_fail(
        EXIT_RUNTIME,
        "step %llu: the loss is %g, the gradient norm %g: stopped, and not committed; go on with "
        "--resume --adjust and a smaller --lr, or --clip",
        (unsigned long long)step, common_printable(loss), common_printable(norm));
}

static int run_step(struct run *r, uint64_t step, double *seconds)
{
    const struct options *o = r->options;
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = rate(o, step),
                                           .beta1 = o->beta1,
                                           .beta2 = o->beta2,
                                           .eps = o->eps,
                                           .weight_decay = o->weight_decay,
                                           .clip = o->clip,
                                           .step = step,
                                           /* without clipping updates would have to wait for the norm */
                                           .skip_overflow = o->clip > 0};
    uint64_t rows = o->accum * o->batch, tokens;
    double start = common_seconds(), loss, norm;
    struct past *p = r->past;
    char error[COMMON_ERROR_BYTES];
    int err;

    tokens = data_rows(r->data, (step - 1) * rows, rows, r->inputs, r->targets);
    err = llama_trainer_step(r->state->trainer, r->inputs, r->targets, &settings, &loss, &norm, error,
                             sizeof error);
    if (err < 0)
        return common_fail(common_status_late(err), "step %llu: %s", (unsigned long long)step, error);
    *seconds = common_seconds() - start;
    if (!isfinite(loss) || !isfinite(norm))
        return not_finite(r, step, loss, norm);
    p->tokens += tokens;
    for (uint64_t i = 0; i < rows * o->seq; i++)
        p->learned += r->targets[i] >= 0;
    if (json_array_append_new(p->loss, json_real(loss)) < 0 ||
        json_array_append_new(p->grad_norm, json_real(norm)) < 0 ||
        json_array_append_new(p->step_s, json_real(*seconds)) < 0)
        return common_fail(EXIT_FULL, "step %llu: out of memory", (unsigned long long)step);
    p->step = step;
    return tell_step(r, &(struct log_line){.step = step,
                                           .steps = o->steps,
                                           .tokens = tokens,
                                           .loss = loss,
                                           .norm = norm,
                                           .lr = settings.lr,
                                           .seconds = *seconds});
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
    if (json_array_append_new(r->past->evals, json_pack("{s:I, s:f, s:I}", "step", (json_int_t)step, "loss",
                                                        loss, "tokens", (json_int_t)r->eval->learned)) < 0)
        return common_fail(EXIT_FULL, "step %llu: out of memory", (unsigned long long)step);
    status = log_eval(&r->log, step, r->options->steps, loss);
    return status ? status : common_meter_skip(&r->meter, r->state->ctx);
}

/* An evaluation that a signal kept from its end comes first when the run goes on. */
static bool eval_is_missing(const struct run *r)
{
    const struct past *p = r->past;
    const json_t *last = json_array_get(p->evals, json_array_size(p->evals) - 1);

    return p->step && is_eval_step(r, p->step) &&
           (uint64_t)json_integer_value(json_object_get(last, "step")) != p->step;
}

/* A signal came: what is done is kept, if there is where. */
static int stopped(struct run *r)
{
    const struct options *o = r->options;
    unsigned long long step = r->past->step, steps = o->steps;
    int status;

    if (!r->state->keep)
        return common_fail(EXIT_INTERRUPTED, "interrupted after step %llu of %llu: nothing written", step,
                           steps);
    if (step == 0)
        return common_fail(EXIT_INTERRUPTED, "interrupted before the first step: nothing written");
    common_stop_text("stopping once this is committed; again to end now");
    status = keep_commit(r->state->keep);
    return status ? status
                  : common_fail(
                        EXIT_INTERRUPTED,
                        "stopped after step %llu of %llu, which is committed in %s: the same command with "
                        "--resume goes on from there",
                        step, steps, o->budget.store.dir);
}

/* The model as it is, beside --out. That it can't be written is told, and ends nothing. false: it is not. */
static bool save_now(const struct run *r)
{
    struct options with = *r->options;
    struct state s = *r->state;
    char dir[4096];
    int status = 0;

    if (!with.out) {
        common_line("SIGUSR1 writes the model beside --out DIR, which is not given");
        return false;
    }
    if (snprintf(dir, sizeof dir, "%s.step-%llu", with.out, (unsigned long long)r->past->step) >=
        (int)sizeof dir)
        return false;
    with.out = dir;
    s.options = &with;
    s.model_out = NULL;
    s.adapter_out = NULL;
    status = state_out_open(&s);
    if (status == 0)
        status = state_save(&s);
    state_out_close(&s);
    common_line(status ? "%s is not written: the run goes on" : "wrote %s", dir);
    return status == 0;
}

/* --max-written has no room for one more step: what is done is kept, if there is where. */
static int used_up(struct run *r)
{
    const struct options *o = r->options;
    unsigned long long step = r->past->step, steps = o->steps;
    char words[4400];
    int status;

    if (r->state->keep && step) {
        status = keep_commit(r->state->keep);
        if (status)
            return status;
        snprintf(words, sizeof words, "stopped after step %llu of %llu, which is committed in %s", step,
                 steps, o->budget.store.dir);
        return written_tell(&r->state->written, words,
                            "the same command with --resume goes on from there, with a limit of its own");
    }
    if (step && o->out) {
        bool saved = save_now(r);

        snprintf(words, sizeof words, "stopped after step %llu of %llu; %s.step-%llu %s", step, steps, o->out,
                 step, saved ? "has the model as it is" : "could not be written");
        return written_tell(&r->state->written, words, "--store keeps a run so that it can go on");
    }
    snprintf(words, sizeof words, "stopped after step %llu of %llu, and nothing is kept", step, steps);
    return written_tell(&r->state->written, words, "raise it; --store keeps a run so that it can go on");
}

static int after_step(struct run *r, double seconds)
{
    struct keep *k = r->state->keep;
    uint64_t step = r->past->step;
    int status = common_meter_step(&r->meter, r->state->ctx);

    if (status == 0 && is_eval_step(r, step) && !common_stopping())
        status = run_eval(r, step);
    if (status == 0 && common_asked()) {
        save_now(r);
        status = common_meter_skip(&r->meter, r->state->ctx);
    }
    if (status == 0 && !common_stopping() && k)
        status = keep_turn(k, seconds);
    return status;
}

static int do_steps(struct run *r)
{
    const struct options *o = r->options;
    struct keep *k = r->state->keep;
    int status = common_meter_start(&r->meter, r->state->ctx, COMMON_SETTLE);
    struct written *w = &r->state->written;
    double seconds = 0;

    common_progress_clear(); /* of loading */
    common_stop_text("stopping after this step; again to end now");
    if (status == 0) {
        struct ofl_stats s = {.size = sizeof s};

        (void)ofl_stats_get(r->state->ctx, &s);
        r->stalls_ns = s.stall_ns;
        status = log_open(&r->log, o, r->past->step);
    }
    if (status == 0 && eval_is_missing(r) && !common_stopping())
        status = run_eval(r, r->past->step);
    if (status == 0)
        status = written_begin(w, r->state, o->steps - r->past->step);
    while (status == 0 && r->past->step < o->steps && !common_stopping() && written_fits(w, 1)) {
        status = run_step(r, r->past->step + 1, &seconds);
        if (status == 0)
            status = after_step(r, seconds);
        if (status == 0)
            status = written_step(w, r->state->ctx);
    }
    common_progress_clear();
    if ((status == 0 && common_stopping()) || status == EXIT_INTERRUPTED)
        return stopped(r);
    common_stop_text("stopping after this piece; again to end now");
    if (status == 0 && r->past->step < o->steps)
        return used_up(r);
    return status && k ? keep_tell(k, status) : status;
}

/* ---- the end --------------------------------------------------------------- */

static void print_summary(const struct run *r, const struct ofl_stats *s)
{
    size_t steps = json_array_size(r->past->loss);
    double seconds = 0, here = 0;

    for (size_t i = 0; i < steps; i++) {
        double step_s = json_real_value(json_array_get(r->past->step_s, i));

        seconds += step_s;
        here += i < r->before ? 0 : step_s;
    }
    common_line("%zu steps, loss %.5f -> %.5f, %llu tokens, %.0f tokens/s, stall %.1f of %.1f s", steps,
                json_real_value(json_array_get(r->past->loss, 0)),
                json_real_value(json_array_get(r->past->loss, steps - 1)),
                (unsigned long long)r->past->tokens, (double)r->past->tokens / seconds, r->stall_s, here);
    if (r->before)
        common_line("of these, %zu came from the store; resumed so far: %zu", r->before,
                    json_array_size(r->past->resumed));
    if (r->past->learned < r->past->tokens)
        common_line("learned: %llu of these tokens", (unsigned long long)r->past->learned);
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

static json_t *model_json(const struct run *r)
{
    const struct llama_shape *shape = &r->state->config->shape;
    const struct llama_trainer_config *config = r->state->trainer_config;
    struct llama_trainer_need need;

    llama_trainer_need(config, &need);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I}",
                     "parameters", (json_int_t)llama_param_count(shape), "trained_parameters",
                     (json_int_t)lora_trained(config), "frozen_parameters",
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
    const struct past *p = r->past;
    const struct keep *k = r->state->keep;
    json_t *j =
        json_pack("{s:s, s:s, s:O, s:O, s:O, s:I, s:I, s:O, s:s, s:o, s:o, s:o, s:O, s:O, s:o}", "program",
                  "ofl-finetune", "version", ofl_version(), "loss", p->loss, "grad_norm", p->grad_norm,
                  "eval", p->evals, "tokens", (json_int_t)p->tokens, "learned_tokens", (json_int_t)p->learned,
                  "step_s", p->step_s, "state_hash", hash, "model", model_json(r), "settings",
                  options_json(r->options), "bound", common_bound_json(&r->bound), "resumed", p->resumed,
                  "changes", p->changes, "store", k ? keep_json(k, stats) : json_null());
    int status = j ? common_report_stats(j, stats, drives, stalls)
                   : common_fail(EXIT_FULL, "make the report: out of memory");

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

/* What can't be committed may still be saved. */
static int do_all(struct run *r)
{
    const struct options *o = r->options;
    struct keep *k = r->state->keep;
    int status = do_steps(r), kept = 0, closed = log_close(&r->log);

    status = status ? status : closed;
    if (status)
        return status;
    if (k) {
        kept = keep_commit(k);
        if (k->unsound) /* there is nothing to save */
            return keep_tell(k, kept);
    } else if (!o->out && !o->budget.report && (status = state_finite(r->state))) {
        return status;
    }
    status = finish(r);
    if (status && k)
        return keep_tell(k, status);
    if (k && k->failures)
        common_line("%llu commits failed", (unsigned long long)k->failures);
    return status ? status : kept;
}

int run_steps(struct state *s, const struct data *data, const struct data *eval)
{
    const struct options *o = s->options;
    uint64_t tokens = o->accum * o->batch * o->seq;
    struct past fresh = {0};
    struct run r = {.options = o,
                    .data = data,
                    .eval = eval,
                    .state = s,
                    .log = {.fd = -1},
                    .past = s->keep && s->keep->resuming ? &s->keep->was.past : &fresh,
                    .inputs = calloc(tokens, sizeof *r.inputs),
                    .targets = calloc(tokens, sizeof *r.targets)};
    int status = past_begin(&fresh);

    r.before = r.past->step;
    if (status == 0 && r.before &&
        json_array_append_new(r.past->resumed, json_integer((json_int_t)r.before)) < 0)
        status = EXIT_RUNTIME;
    if (status || !r.inputs || !r.targets)
        status = common_fail(EXIT_FULL, "train: out of memory");
    if (s->keep)
        s->keep->past = r.past;
    if (status == 0)
        status = do_all(&r);
    past_free(&fresh);
    free(r.inputs);
    free(r.targets);
    return status;
}
