/* --max-written of ofl-finetune: what a step and an end write at most, and whether the budget has room for both. See
 * finetune.h. The library's own limit stands behind it, for steps that write more than any before. */
#include "examples/finetune.h"

#include <string.h>

#include "examples/common_predict.h"

typedef unsigned long long ull;

/* Of a commit beside tensors, at most: records of tiles, names, and three numbers a step. */
static uint64_t record_bytes(uint64_t kept, uint64_t steps)
{
    return kept / 256 + 128 * steps + (128u << 10);
}

/* What is newer in memory than in the store is written where it has to be kept, or makes room for what is saved. */
static uint64_t end_bytes(const struct written *w, const struct ofl_stats *s, bool kept)
{
    uint64_t memory = s->budget_bytes[OFL_DEVICE] + s->budget_bytes[OFL_HOST];
    uint64_t tensors = kept ? s->kept_bytes : s->used_bytes[OFL_NVME];

    return (tensors < memory ? tensors : memory) + (kept ? record_bytes(s->kept_bytes, w->steps) : 0);
}

static uint64_t left(const struct written *w)
{
    return w->most > w->now ? w->most - w->now : 0;
}

static int look(struct written *w, struct ofl_ctx *ctx, struct ofl_stats *s)
{
    *s = (struct ofl_stats){.size = sizeof *s};
    if (ofl_stats_get(ctx, s) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "get statistics");
    w->now = s->written_bytes;
    return 0;
}

int written_begin(struct written *w, const struct state *s, uint64_t steps)
{
    const struct common_prediction *p = s->predicted;
    struct ofl_stats stats;
    int status;

    *w = (struct written){.most = s->most_written, .steps = s->options->steps};
    if (!w->most)
        return 0;
    status = look(w, s->ctx, &stats);
    if (status)
        return status;
    w->predicted_bytes = p->known ? p->estimate.drive_write_bytes : 0;
    w->end_bytes = end_bytes(w, &stats, s->keep != NULL);
    if (p->known && p->estimate.drive_write_bytes &&
        left(w) / p->estimate.drive_write_bytes < steps) /* without what commits write */
        common_line("--max-written: loading has written %s, a step is predicted to write %s: about %llu of "
                    "%llu steps "
                    "fit what is left",
                    common_bytes(w->now).text, common_bytes(p->estimate.drive_write_bytes).text,
                    (ull)(left(w) / p->estimate.drive_write_bytes), (ull)steps);
    return 0;
}

int written_step(struct written *w, struct ofl_ctx *ctx)
{
    uint64_t before = w->now;
    struct ofl_stats stats;
    int status;

    if (!w->most)
        return 0;
    status = look(w, ctx, &stats);
    if (status == 0 && w->now - before > w->step_bytes)
        w->step_bytes = w->now - before;
    w->seen++;
    return status;
}

/* Steps are alike, but for the first ones, which find states that were never written, and commits beside them. */
static uint64_t next_bytes(const struct written *w)
{
    uint64_t seen = w->step_bytes + (w->seen < 3 ? w->step_bytes : w->step_bytes / 8);

    return seen > w->predicted_bytes ? seen : w->predicted_bytes;
}

bool written_fits(const struct written *w, unsigned ends)
{
    uint64_t next = next_bytes(w);

    return !w->most || (left(w) >= next && (left(w) - next) / ends >= w->end_bytes);
}

/* With words like "stopped after step 3 of 10, which is committed". */
int written_tell(const struct written *w, const char *words, const char *way)
{
    return common_fail(
        EXIT_WRITTEN,
        "--max-written: %s: %llu bytes are written to drives, the next step may write %llu, what comes "
        "behind it %llu, and %llu is the limit for all; %s",
        words, (ull)w->now, (ull)next_bytes(w), (ull)w->end_bytes, (ull)w->most, way);
}
