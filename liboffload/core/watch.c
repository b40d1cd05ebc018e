/* watch: the public calls on stalls and timelines. */
#include <errno.h>
#include <string.h>

#include "base/sized.h"
#include "liboffload/core/context.h"

int ofl_stall_get(struct ofl_ctx *ctx, uint32_t rank, struct ofl_stall *out)
{
    struct timeline_stall found;
    struct ofl_stall s = {0};

    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    if (!timeline_worst(&ctx->engine.timeline, rank, &found))
        return base_fail(-ENOENT, "get stall: none has rank %u", rank);
    s.reason = found.reason;
    s.text = timeline_reason(found.reason);
    s.count = found.count;
    s.total_ns = found.total_ns;
    s.longest_ns = found.longest_ns;
    _Static_assert(sizeof s.tensor == TIMELINE_TEXT, "a name fits");
    strcpy(s.tensor, timeline_text(&ctx->engine.timeline, found.name));
    return base_sized_write(out, &s, sizeof s, "get stall: stall");
}

int ofl_stall_clear(struct ofl_ctx *ctx)
{
    if (core_refused(ctx, ctx))
        return -EINVAL;
    timeline_forget_stalls(&ctx->engine.timeline);
    return 0;
}

/* Whether drives and the device tell what they do. */
static void trace(struct ofl_ctx *ctx, bool on)
{
    dev_trace(ctx->engine.dev, on);
    pthread_mutex_lock(&ctx->engine.io_lock);
    io_queue_trace(ctx->engine.io, on ? record_transfer : NULL, &ctx->engine.timeline);
    pthread_mutex_unlock(&ctx->engine.io_lock);
}

static int tell_levels(struct ofl_ctx *ctx, void *arg)
{
    (void)arg;
    ctx->engine.levels.known = false; /* the next look at the pager tells them */
    return 0;
}

int ofl_timeline_open(struct ofl_ctx *ctx, const char *path)
{
    int err;

    if (core_refused(ctx, ctx, path))
        return -EINVAL;
    err = timeline_open(&ctx->engine.timeline, path, 0);
    if (err < 0)
        return err;
    trace(ctx, true);
    (void)core_call(ctx, tell_levels, NULL);
    return 0;
}

int ofl_timeline_close(struct ofl_ctx *ctx, uint64_t *events, uint64_t *dropped)
{
    uint64_t counts[2];
    int err;

    if (core_refused(ctx, ctx))
        return -EINVAL;
    trace(ctx, false);
    err = timeline_close(&ctx->engine.timeline, &counts[0], &counts[1]);
    if (events)
        *events = counts[0];
    if (dropped)
        *dropped = counts[1];
    return err;
}

void core_timeline_end(struct ofl_ctx *ctx)
{
    uint64_t events, dropped;

    if (ctx->engine.timeline.writer && timeline_close(&ctx->engine.timeline, &events, &dropped) < 0)
        core_log(ctx, OFL_LOG_WARNING, "%s", base_error_text());
}

int ofl_stream_label(struct ofl_stream *s, const char *name)
{
    struct timeline *t;

    if (core_refused(s->ctx, s))
        return -EINVAL;
    t = &s->ctx->engine.timeline;
    if (timeline_on(t))
        dev_stream_label(s->dev, name ? timeline_name(t, name) : 0);
    return 0;
}
