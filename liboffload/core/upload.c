/*
 * upload: bytes of the caller's that a stream writes into a tensor. A write lease, a copy in order on the stream, and
 * the release, in one call. What an upload needs until the stream has passed it is in a list of the context's, which
 * the next upload sweeps: the stream tells that it has passed under the engine's lock, where nothing may be freed
 * that a driver has to do with.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/dtype.h"
#include "liboffload/core/context.h"

struct core_upload {
    struct core_upload *next;
    atomic_bool over;
    void *staging; /* pinned, holds the bytes; NULL: the device reaches any memory */
    void *to;
    const void *from;
    uint64_t bytes;
};

/* Stream thread of the host device. */
static void copy_job(void *arg)
{
    struct core_upload *u = arg;

    memcpy(u->to, u->from, u->bytes);
}

/* Under the engine's lock; also where the stream has failed, and copied nothing. */
static void passed(void *arg, int code)
{
    (void)code;
    atomic_store(&((struct core_upload *)arg)->over, true);
}

static void free_one(struct ofl_ctx *ctx, struct core_upload *u)
{
    if (u->staging)
        dev_host_free(ctx->engine.dev, u->staging);
    free(u);
}

static void sweep(struct ofl_ctx *ctx)
{
    struct core_upload *done = NULL, **at;

    pthread_mutex_lock(&ctx->lists_lock);
    for (at = &ctx->uploads; *at;) {
        struct core_upload *u = *at;

        if (!atomic_load(&u->over)) {
            at = &u->next;
            continue;
        }
        *at = u->next;
        u->next = done;
        done = u;
    }
    pthread_mutex_unlock(&ctx->lists_lock);
    while (done) {
        struct core_upload *u = done;

        done = u->next;
        free_one(ctx, u);
    }
}

void core_uploads_free(struct ofl_ctx *ctx)
{
    while (ctx->uploads) {
        struct core_upload *u = ctx->uploads;

        ctx->uploads = u->next;
        free_one(ctx, u);
    }
}

static int make(struct ofl_tensor *t, const void *buf, uint64_t bytes, struct core_upload **out)
{
    struct core_upload *u = calloc(1, sizeof *u);
    void *unused;
    int err;

    if (!u)
        return base_fail(-ENOMEM, "write %s: out of memory", t->name);
    u->from = buf;
    u->bytes = bytes;
    err = dev_host_alloc(t->ctx->engine.dev, bytes, &u->staging, &unused);
    if (err == -ENOTSUP)
        err = 0;
    if (err < 0) {
        free(u);
        return err;
    }
    if (u->staging) /* a driver would wait, with the stream, to copy from memory that is not pinned */
        u->from = memcpy(u->staging, buf, bytes);
    *out = u;
    return 0;
}

static int launch(struct ofl_stream *s, struct core_upload *u)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int err;

    if (u->staging)
        return dev_stream_copy_in(s->dev, u->to, u->from, u->bytes);
    /* The lease is taken: what completes meanwhile frees memory. */
    while ((err = dev_stream_launch(s->dev, copy_job, u)) == -ENOMEM)
        nanosleep(&pause, NULL);
    return err;
}

static int upload(struct ofl_stream *s, struct core_upload *u, struct ofl_lease *lease)
{
    struct ofl_ctx *ctx = s->ctx;
    int err = ofl_acquire(ctx, lease, 1, s), released;

    if (err < 0) {
        free_one(ctx, u);
        return err;
    }
    u->to = lease->ptr;
    pthread_mutex_lock(&ctx->lists_lock);
    u->next = ctx->uploads;
    ctx->uploads = u;
    pthread_mutex_unlock(&ctx->lists_lock);
    err = launch(s, u);
    released = core_release(ctx, lease, 1, s);
    (void)core_stream_call(s, passed, u);
    return err < 0 ? err : released;
}

int ofl_tensor_write_async(struct ofl_tensor *t, uint64_t offset, const void *buf, uint64_t bytes,
                           struct ofl_stream *s)
{
    struct ofl_lease lease = {.size = sizeof lease, .tensor = t, .mode = OFL_OVERWRITE};
    const struct base_dtype *d;
    struct core_upload *u = NULL;
    int err;

    if (core_refused(t->ctx, t, s) || (bytes && base_need(buf) < 0) ||
        core_leases_ours(s->ctx, &lease, 1, "write") < 0)
        return -EINVAL;
    d = base_dtype(t->dtype);
    if (offset > t->bytes || bytes > t->bytes - offset)
        return base_fail(-EINVAL, "write %s: offset %llu, %llu bytes: it has %llu bytes", t->name,
                         (ull)offset, (ull)bytes, (ull)t->bytes);
    if (offset % d->block_bytes || bytes % d->block_bytes)
        return base_fail(-EINVAL, "write %s: offset %llu, %llu bytes: not multiples of the %u bytes of %s",
                         t->name, (ull)offset, (ull)bytes, d->block_bytes,
                         d->block_elems > 1 ? "a block" : "an element");
    if (t->flags & OFL_TENSOR_TRANSIENT)
        return base_fail(-OFL_ESTATE, "write %s: it is transient, and has bytes only while leased", t->name);
    sweep(t->ctx);
    if (bytes == 0)
        return 0;
    err = make(t, buf, bytes, &u);
    if (err < 0)
        return err;
    lease.offset_elems = offset / d->block_bytes * d->block_elems;
    lease.count_elems = bytes / d->block_bytes * d->block_elems;
    return upload(s, u, &lease);
}
