/* stream: the public calls on streams, leases and steps. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/sized.h"
#include "include/offload.h"
#include "include/offload_cuda.h"
#include "liboffload/core/context.h"
#include "liboffload/core/place.h"

const char *ofl_error(void)
{
    return base_error_text();
}

const char *ofl_strerror(int code)
{
    return base_strerror(code);
}

#define TEXT(x)          #x
#define VERSION(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *ofl_version(void)
{
    return VERSION(OFL_VERSION_MAJOR, OFL_VERSION_MINOR, OFL_VERSION_PATCH);
}

/* ---- streams ----------------------------------------------------------- */

int ofl_stream_create(struct ofl_ctx *ctx, struct ofl_stream **out)
{
    struct ofl_stream *s;
    int err;

    if (out)
        *out = NULL;
    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    s = calloc(1, sizeof *s);
    if (!s)
        return base_fail(-ENOMEM, "create stream: out of memory");
    err = dev_stream_create(ctx->engine.dev, &s->dev);
    if (err < 0) {
        free(s);
        return err;
    }
    s->ctx = ctx;
    pthread_mutex_lock(&ctx->lists_lock);
    s->next = ctx->streams;
    if (s->next)
        s->next->prev = s;
    ctx->streams = s;
    pthread_mutex_unlock(&ctx->lists_lock);
    *out = s;
    return 0;
}

void ofl_stream_destroy(struct ofl_stream *s)
{
    if (!s || core_refused(s->ctx, s))
        return;
    dev_stream_destroy(s->dev);
    pthread_mutex_lock(&s->ctx->lists_lock);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->ctx->streams = s->next;
    if (s->next)
        s->next->prev = s->prev;
    pthread_mutex_unlock(&s->ctx->lists_lock);
    free(s);
}

int core_stream_take(struct ofl_ctx *ctx, struct ofl_stream **out)
{
    int err = 0;

    pthread_mutex_lock(&ctx->lists_lock);
    *out = ctx->own_stream;
    ctx->own_stream = NULL;
    pthread_mutex_unlock(&ctx->lists_lock);
    if (!*out)
        err = ofl_stream_create(ctx, out);
    if (err == 0)
        dev_stream_uncounted((*out)->dev);
    return err;
}

void core_stream_give(struct ofl_stream *s, bool failed)
{
    struct ofl_ctx *ctx = s->ctx;

    pthread_mutex_lock(&ctx->lists_lock);
    if (!failed && !ctx->own_stream) {
        ctx->own_stream = s;
        s = NULL;
    }
    pthread_mutex_unlock(&ctx->lists_lock);
    ofl_stream_destroy(s);
}

int ofl_stream_sync(struct ofl_stream *s)
{
    if (core_refused(s->ctx, s))
        return -EINVAL;
    return dev_stream_sync(s->dev);
}

void *ofl_stream_cuda(struct ofl_stream *s)
{
    return core_refused(s->ctx, s) ? NULL : dev_stream_native(s->dev);
}

void *ofl_cuda_context(struct ofl_ctx *ctx)
{
    return core_refused(ctx, ctx) ? NULL : dev_native(ctx->engine.dev);
}

void *ofl_cuda_symbol(struct ofl_ctx *ctx, const char *name)
{
    return core_refused(ctx, ctx, name) ? NULL : dev_symbol(ctx->engine.dev, name);
}

int ofl_stream_launch(struct ofl_stream *s, void (*fn)(void *arg), void *arg)
{
    if (core_refused(s->ctx, s))
        return -EINVAL;
    if (!fn)
        return base_fail(-EINVAL, "%s: fn is NULL", __func__);
    return dev_stream_launch(s->dev, fn, arg);
}

/* Runs a command that puts something on s, and hands that to the device once the lock is given up: a thread
 * must never wait, under it, for a queue that only the pager may set moving again. */
static int call_on(struct ofl_stream *s, int (*run)(struct ofl_ctx *, void *), void *arg)
{
    int err = core_call(s->ctx, run, arg);

    dev_stream_flush(s->dev);
    return err;
}

/* For what nobody would try again: what completes meanwhile frees memory. */
static int call_on_for_sure(struct ofl_stream *s, int (*run)(struct ofl_ctx *, void *), void *arg)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int err;

    while ((err = call_on(s, run, arg)) == -ENOMEM)
        nanosleep(&pause, NULL);
    return err;
}

/* op is done once s has passed this point: at once, if s is known to have. */
static void mark(struct ofl_stream *s, struct core_op *op)
{
    if (dev_stream_idle(s->dev, &op->code))
        pager_done(&s->ctx->engine.pager, op);
    else
        dev_stream_mark_later(s->dev, op);
}

struct call {
    struct ofl_stream *stream;
    void (*call)(void *arg, int code);
    void *arg;
};

static int call_run(struct ofl_ctx *ctx, void *arg)
{
    struct call *c = arg;
    struct core_op *op = pager_op(&ctx->engine.pager, OP_CALL, NULL, 0);

    if (!op)
        return base_fail(-ENOMEM, "mark stream: out of memory");
    op->call = c->call;
    op->arg = c->arg;
    mark(c->stream, op);
    return 0;
}

int core_stream_call(struct ofl_stream *s, void (*call)(void *arg, int code), void *arg)
{
    struct call c = {s, call, arg};

    return call_on_for_sure(s, call_run, &c);
}

struct dev_stream *core_stream_device(struct ofl_stream *s)
{
    return s->dev;
}

struct ofl_ctx *core_stream_ctx(const struct ofl_stream *s)
{
    return s->ctx;
}

/* ---- leases ------------------------------------------------------------ */

struct batch {
    struct ofl_lease *leases;
    size_t count;
    struct ofl_stream *stream;
};

int core_leases_in(struct ofl_lease *from, size_t n, const char *what, struct ofl_lease **out)
{
    const size_t stride = n && from->size ? from->size : sizeof *from;
    struct ofl_lease *own;
    int err = 0;

    *out = from;
    if (n > OFL_LEASES_MAX)
        return base_fail(-EINVAL, "%s, one of %zu: at most %u are possible in a batch", what, n,
                         OFL_LEASES_MAX);
    for (size_t i = 0; i < n && stride == sizeof *from; i++)
        if (from[i].size && from[i].size != stride)
            return base_fail(-EINVAL, "%s %zu has %zu bytes, the first one %zu", what, i, from[i].size,
                             stride);
    if (stride == sizeof *from)
        return 0;
    own = calloc(n, sizeof *own);
    if (!own)
        return base_fail(-ENOMEM, "%s, one of %zu: out of memory", what, n);
    for (size_t i = 0; i < n && err == 0; i++)
        err = base_sized_read(&own[i], sizeof *own, sizeof *own, (char *)from + i * stride, what);
    if (err == 0)
        *out = own;
    else
        free(own);
    return err;
}

/* No tensor at all is for the pager to tell. */
int core_leases_ours(const struct ofl_ctx *ctx, const struct ofl_lease *leases, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (leases[i].tensor && leases[i].tensor->ctx != ctx)
            return base_fail(-EINVAL, "%s %s: it is another context's", what, leases[i].tensor->name);
    return 0;
}

static void leases_out(struct ofl_lease *own, struct ofl_lease *to, size_t n)
{
    if (own == to)
        return;
    for (size_t i = 0; i < n; i++) {
        struct ofl_lease *l = (struct ofl_lease *)((char *)to + i * to->size);

        l->ptr = own[i].ptr;
        l->cookie = own[i].cookie;
    }
    free(own);
}

static int check_batch(const char *call, const struct ofl_ctx *ctx, const struct batch *b)
{
    const struct ofl_lease *leases = b->leases;
    struct ofl_stream *s = b->stream;

    if (base_need_all(call, "ctx, s, leases", BASE_POINTERS(ctx, s, b->count ? leases : (void *)b), 3) < 0 ||
        core_forked(call, ctx) < 0)
        return -EINVAL;
    return s->ctx == ctx ? 0 : base_fail(-EINVAL, "%s: the stream is another context's", call);
}

static int acquire_run(struct ofl_ctx *ctx, void *arg)
{
    struct batch *b = arg;
    struct dev_gate *gate;
    int err = core_leases_ours(ctx, b->leases, b->count, "acquire");

    if (err < 0)
        return err;
    err = pager_acquire(&ctx->engine.pager, b->leases, b->count, dev_stream_id(b->stream->dev), &gate);
    /* Gates are opened under the lock, so this one is still closed. */
    if (err == 0 && gate)
        dev_stream_wait_later(b->stream->dev, gate);
    return err;
}

int ofl_acquire(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s)
{
    struct batch b = {leases, n, s};
    int err = check_batch(__func__, ctx, &b);

    if (err == 0)
        err = core_leases_in(leases, n, "acquire: lease", &b.leases);
    if (err < 0)
        return err;
    err = call_on(s, acquire_run, &b);
    leases_out(b.leases, leases, n);
    dev_stream_room(s->dev);
    return err;
}

static int release_run(struct ofl_ctx *ctx, void *arg)
{
    struct batch *b = arg;
    struct core_op *op;
    int err = pager_release(&ctx->engine.pager, b->leases, b->count, dev_stream_id(b->stream->dev), &op);

    if (err == 0 && op)
        mark(b->stream, op);
    return err;
}

int ofl_release(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s)
{
    struct batch b = {leases, n, s};
    int err = check_batch(__func__, ctx, &b);

    if (err == 0)
        err = core_leases_in(leases, n, "release: lease", &b.leases);
    if (err < 0)
        return err;
    err = call_on(s, release_run, &b);
    leases_out(b.leases, leases, n);
    return err;
}

int core_release(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s)
{
    struct batch b = {leases, n, s};

    (void)ctx;
    return call_on_for_sure(s, release_run, &b);
}

uint64_t ofl_device_footprint(uint64_t bytes)
{
    return place_footprint(bytes);
}

/* ---- steps ------------------------------------------------------------- */

static int step_begin_run(struct ofl_ctx *ctx, void *arg)
{
    int err = pager_check(&ctx->engine.pager);

    if (err == 0)
        err = sched_step_begin(ctx->engine.pager.sched, arg);
    return err == -EBUSY ? -OFL_ESTATE : err;
}

int ofl_step_begin(struct ofl_ctx *ctx, const char *name)
{
    if (core_refused(ctx, ctx, name))
        return -EINVAL;
    return core_call(ctx, step_begin_run, (void *)(uintptr_t)name);
}

static int step_end_run(struct ofl_ctx *ctx, void *arg)
{
    int err = pager_step_end(&ctx->engine.pager);

    (void)arg;
    if (err == -EINVAL)
        return -OFL_ESTATE;
    return err < 0 ? err : pager_check(&ctx->engine.pager);
}

int ofl_step_end(struct ofl_ctx *ctx)
{
    if (core_refused(ctx, ctx))
        return -EINVAL;
    return core_call(ctx, step_end_run, NULL);
}
