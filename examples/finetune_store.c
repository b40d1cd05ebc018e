/* Kept stores of ofl-finetune: what is there, when to commit, how to go on. See finetune.h. */
#include "examples/finetune.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long long ull;

#define SHARE        0.018 /* of the time: what is measured of a cost leaves some out, and 2 % are promised */
#define GUESS_BPS    1e9   /* what a first commit is guessed to cost: all that is kept, at this rate */
#define EXPORT_BYTES (32u << 20) /* of host memory, to read with */
#define RETRY_MOST   64u         /* steps from a failed commit to the next try */

/* What is left to be said of any end that comes too early. */
#define GO_ON "the same command with --resume goes on from there"

/* ---- looking ------------------------------------------------------------------ */

/* For sentences. */
static const char *option_of(const struct options *o)
{
    return o->export_store ? "--export-store" : "--store";
}

static int store_failed(const struct options *o, const char *dir, int err)
{
    if (err == -OFL_ETORN || err == -OFL_ECHECKSUM)
        return common_fail(EXIT_DAMAGED, "%s %s: %s; ofl-bench store verify says what is whole there",
                           option_of(o), dir, ofl_error());
    return common_fail(common_status(err), "%s %s: %s", option_of(o), dir, ofl_error());
}

static int read_note(const struct options *o, const char *dir, struct ofl_ctx *ctx, struct note *note,
                     uint64_t *generation, bool *found)
{
    struct ofl_resumed r = {.size = sizeof r};
    int err = ofl_resume(ctx, &r);

    *found = err == 0;
    if (err == -ENOENT)
        return 0;
    if (err < 0)
        return store_failed(o, dir, err);
    *generation = r.generation;
    return note_read(dir, r.note, r.note_bytes, note);
}

int keep_peek(const struct options *o, const char *dir, struct ofl_ctx **ctx, struct note *note,
              uint64_t *generation, bool *found)
{
    struct ofl_config small = {.size = sizeof small,
                               .device_bytes = 4096,
                               .host_bytes = ctx ? EXPORT_BYTES : OFL_HOST_MIN_BYTES,
                               .workers = 1,
                               .flags = OFL_NO_MEASURE,
                               .log = common_log,
                               .keep_dir = dir};
    struct ofl_ctx *opened;
    struct stat st;
    int status, err;

    *found = false;
    if (stat(dir, &st) < 0 && errno == ENOENT)
        return 0;
    err = ofl_open(&small, &opened);
    if (err < 0)
        return store_failed(o, dir, err);
    status = read_note(o, dir, opened, note, generation, found);
    if (ctx && status == 0 && *found) {
        *ctx = opened;
        return 0;
    }
    return common_close(opened, status);
}

static int refuse_begun(const struct options *o, const struct note *was)
{
    return common_fail(
        EXIT_INPUT,
        "--store %s: a run is there, at step %llu of %llu: --resume goes on with it; or give another "
        "directory, or --export-store to write it out",
        o->budget.store.dir, (ull)was->past.step, (ull)was->steps);
}

int keep_look(struct keep *k, const struct options *o, const struct lora *lora)
{
    const char *dir = o->budget.store.dir;
    int status = keep_peek(o, dir, NULL, &k->was, &k->generation, &k->resuming);

    k->options = o;
    if (status)
        return status;
    if (k->resuming && !o->resume)
        return refuse_begun(o, &k->was);
    k->identity = note_identity(o, lora);
    if (!k->identity)
        return EXIT_INPUT;
    if (!k->resuming) {
        if (o->resume)
            common_line("--resume: nothing was committed in %s yet: the run starts at its beginning", dir);
        return 0;
    }
    k->committed = k->was.past.step;
    return note_compare(o, &k->was, k->identity, k->was.past.changes);
}

int keep_look_data(struct keep *k, const struct data *data)
{
    int status = note_add_data(k->identity, data);

    k->rows = data->rows;
    return status || !k->resuming ? status : note_compare_data(k->options, &k->was, k->identity);
}

int keep_open(struct keep *k, struct ofl_ctx *ctx)
{
    const char *dir = k->options->budget.store.dir;
    struct note note = {0};
    uint64_t generation = 0;
    bool found;
    int status = read_note(k->options, dir, ctx, &note, &generation, &found);

    if (status == 0 && (found != k->resuming || generation != k->generation))
        status = common_fail(EXIT_RUNTIME, "--store %s: another run has committed there meanwhile", dir);
    if (status == 0 && found)
        common_line("going on in %s behind step %llu of %llu", dir, (ull)note.past.step,
                    (ull)k->options->steps);
    note_free(&note);
    k->ctx = ctx;
    return status;
}

int keep_check(struct keep *k, struct state *s)
{
    struct ofl_stats stats = {.size = sizeof stats};
    char error[COMMON_ERROR_BYTES];
    int back = llama_trainer_resumed(s->trainer, error, sizeof error);

    if (back < 0)
        return common_fail(EXIT_INPUT, "--store %s: %s", k->options->budget.store.dir, error);
    if (back != k->resuming)
        return common_fail(EXIT_INPUT, "--store %s: what is committed there has none of this model's tensors",
                           k->options->budget.store.dir);
    if (ofl_stats_get(k->ctx, &stats) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    k->state = s;
    k->pace = (struct common_pace){.share = SHARE, .expected_s = (double)stats.kept_bytes / GUESS_BPS};
    return 0;
}

/* ---- committing --------------------------------------------------------------- */

static void tell_failure(struct keep *k, uint64_t step)
{
    k->failures++;
    if (k->committed)
        common_line("warning: the commit of step %llu failed: %s; the last one is that of step %llu",
                    (ull)step, ofl_error(), (ull)k->committed);
    else
        common_line("warning: the commit of step %llu failed: %s; there is none yet", (ull)step, ofl_error());
}

/* The outcome of the commit under way, if there is one; waits for it. Not to be had is not an error here. */
static void settle(struct keep *k)
{
    if (!k->begun)
        return;
    k->error = ofl_commit_wait(k->ctx, NULL);
    if (k->error < 0) {
        tell_failure(k, k->begun);
    } else {
        k->committed = k->begun;
        k->commits++;
        if (!isatty(STDERR_FILENO))
            common_line("committed step %llu", (ull)k->committed);
    }
    k->begun = 0;
    common_pace_end(&k->pace);
}

static bool is_durable(const struct keep *k)
{
    struct ofl_stats stats = {.size = sizeof stats};

    return ofl_stats_get(k->ctx, &stats) == 0 && stats.commits > k->durable_before;
}

static int begin(struct keep *k)
{
    struct ofl_stats stats = {.size = sizeof stats};
    uint64_t bytes;
    void *note;
    int status = note_write(k->options, k->identity, k->past, k->rows, &note, &bytes);

    if (status)
        return status;
    (void)ofl_stats_get(k->ctx, &stats);
    k->durable_before = stats.commits;
    k->error = ofl_commit(k->ctx, note, bytes);
    if (k->error < 0) {
        tell_failure(k, k->past->step);
        k->wait = k->past->step + (k->failures < 6 ? 1u << k->failures : RETRY_MOST);
    } else {
        k->begun = k->past->step;
        common_pace_begin(&k->pace, 0); /* the call is part of a step's time */
    }
    free(note);
    return 0;
}

/* What is committed is what the step before has left: with a loss that is a number it is sound, and a run that goes on
 * from there with other settings gets at least so far. */
static void on_loss(void *arg, double loss)
{
    struct keep *k = arg;

    if (!isfinite(loss))
        return;
    settle(k);
    k->status = begin(k);
}

int keep_turn(struct keep *k, double step_s)
{
    uint64_t every = k->options->commit_every, step = k->past->step;
    bool due;

    common_pace_step(&k->pace, step_s);
    if (k->begun && is_durable(k))
        settle(k);
    due = every ? step % every == 0 : common_pace_due(&k->pace) && step >= k->wait;
    if (due && !written_fits(&k->state->written, 2))
        due = false;                     /* what is left is for the step and one commit behind it */
    if (due && step < k->options->steps) /* the last one is for keep_commit */
        llama_trainer_at_loss(k->state->trainer, on_loss, k);
    return k->status;
}

int keep_commit(struct keep *k)
{
    uint64_t step = k->past->step;
    int status;

    settle(k);
    if (k->committed == step)
        return 0;
    status = state_finite(k->state);
    k->unsound = status != 0;
    if (status == 0)
        status = begin(k);
    settle(k);
    if (status || k->committed == step)
        return status;
    if (k->committed)
        return common_fail(common_status_late(k->error),
                           "--store %s: the steps behind %llu are not committed: " GO_ON,
                           k->options->budget.store.dir, (ull)k->committed);
    return common_fail(common_status_late(k->error), "--store %s: nothing is committed",
                       k->options->budget.store.dir);
}

int keep_tell(struct keep *k, int status)
{
    settle(k);
    if (k->committed)
        common_line("the last commit in %s is that of step %llu: " GO_ON, k->options->budget.store.dir,
                    (ull)k->committed);
    else
        common_line("nothing is committed in %s", k->options->budget.store.dir);
    return status;
}

void keep_free(struct keep *k)
{
    json_decref(k->identity);
    note_free(&k->was);
    *k = (struct keep){0};
}

json_t *keep_json(const struct keep *k, const struct ofl_stats *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I}", "committed_step", (json_int_t)k->committed,
                     "commits", (json_int_t)k->commits, "failures", (json_int_t)k->failures, "commit_bytes",
                     (json_int_t)s->commit_bytes, "commit_s", (double)s->commit_ns * 1e-9, "cost_s",
                     k->pace.spent_s, "kept_bytes", (json_int_t)s->kept_bytes, "reserved_bytes",
                     (json_int_t)s->kept_reserved_bytes);
}
