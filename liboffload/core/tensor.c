/* tensor: the public calls on tensors, and the copies between them and the caller's memory. */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/sized.h"
#include "liboffload/core/context.h"
#include "liboffload/core/place.h"
#include "liboffload/core/shape.h"
#include "liboffload/core/tile.h"

/* ---- making -------------------------------------------------------------- */

int core_tensor_make(struct ofl_ctx *ctx, const struct ofl_tensor_desc *desc, const uint64_t *file_off,
                     struct ofl_tensor **out)
{
    int err = pager_tensor_make(ctx->engine.pager.tile_bytes, desc, file_off, out);

    if (err == 0)
        (*out)->ctx = ctx;
    return err;
}

static int add_run(struct ofl_ctx *ctx, void *arg)
{
    struct ofl_tensor *t = arg;
    int err = t->keep && !t->homed ? core_keep_check(ctx, t) : 0;

    if (err < 0)
        return err;
    pthread_mutex_lock(&ctx->engine.io_lock); /* the store's file may grow, which the queue reads */
    err = pager_tensor_add(&ctx->engine.pager, t);
    pthread_mutex_unlock(&ctx->engine.io_lock);
    return err;
}

int core_tensor_add(struct ofl_tensor *t)
{
    return core_call(t->ctx, add_run, t);
}

int ofl_tensor_create(struct ofl_ctx *ctx, const struct ofl_tensor_desc *desc, struct ofl_tensor **out)
{
    struct ofl_tensor_desc d;
    struct ofl_tensor *t;
    int err;

    if (out)
        *out = NULL;
    if (core_refused(ctx, ctx, desc, out))
        return -EINVAL;
    err = base_sized_read(&d, sizeof d, offsetof(struct ofl_tensor_desc, flags), desc, "create tensor: desc");
    if (err < 0)
        return err;
    if (!d.name)
        return base_fail(-EINVAL, "create tensor: no name");
    err = core_tensor_make(ctx, &d, NULL, &t);
    if (err < 0)
        return err;
    err = t->keep ? core_keep_prepare(t) : 0;
    if (err == 0)
        err = core_tensor_add(t);
    if (err < 0) {
        pager_tensor_free(t);
        return err;
    }
    *out = t;
    return 0;
}

static int remove_run(struct ofl_ctx *ctx, void *arg)
{
    struct ofl_tensor *t = arg;

    if (t->refs)
        return base_fail(-OFL_ESTATE, "destroy %s: an optimizer is bound to it", t->name);
    return pager_tensor_remove(&ctx->engine.pager, t);
}

int ofl_tensor_destroy(struct ofl_tensor *t)
{
    int err;

    if (!t)
        return 0;
    if (core_refused(t->ctx, t))
        return -EINVAL;
    err = core_call(t->ctx, remove_run, t);
    if (err == 0)
        pager_tensor_free(t);
    return err;
}

int ofl_tensor_info_get(const struct ofl_tensor *t, struct ofl_tensor_info *out)
{
    struct ofl_tensor_info info;

    if (core_refused(t->ctx, t, out))
        return -EINVAL;
    info = (struct ofl_tensor_info){
        .name = t->name, .kind = t->kind, .dtype = t->dtype, .elems = t->elems, .bytes = t->bytes};
    return base_sized_write(out, &info, sizeof info, "get info of a tensor: info");
}

/* ---- copies to and from the caller ------------------------------------- */

struct access {
    struct core_request request;
    sem_t held;
};

static void access_held(struct core_request *r)
{
    sem_post(&((struct access *)r->arg)->held);
}

static int access_begin_run(struct ofl_ctx *ctx, void *arg)
{
    return pager_request(&ctx->engine.pager, arg);
}

static int access_end_run(struct ofl_ctx *ctx, void *arg)
{
    pager_request_end(&ctx->engine.pager, arg);
    return 0;
}

/* One tile, by way of host memory. skip: first byte within the tile. all: every tile is being written. */
static int access_tile(struct ofl_tensor *t, uint32_t tile, uint64_t skip, uint8_t *buf, uint64_t bytes,
                       bool write, bool all)
{
    uint64_t whole = tile_count_bytes(t, tile);
    enum core_access how = !write ? HOST_READ : bytes == whole ? HOST_OVERWRITE : HOST_UPDATE;
    struct access a = {.request = {.count = 1, .whole = all, .done = access_held, .arg = &a}};
    struct core_tileref *ref = &a.request.refs[0];
    int err;

    *ref = (struct core_tileref){.tensor = t, .tile = tile, .access = how};
    sem_init(&a.held, 0, 0);
    err = core_call(t->ctx, access_begin_run, &a.request);
    if (err == 0) {
        while (sem_wait(&a.held) < 0)
            ;
        if (a.request.error.code < 0) {
            err = base_error_restore(&a.request.error);
        } else {
            if (write && ref->fresh && bytes < whole)
                memset(ref->ptr, 0, whole);
            if (write)
                memcpy((uint8_t *)ref->ptr + skip, buf, bytes);
            else if (ref->fresh)
                memset(buf, 0, bytes);
            else
                memcpy(buf, (uint8_t *)ref->ptr + skip, bytes);
            core_call(t->ctx, access_end_run, &a.request);
        }
    }
    sem_destroy(&a.held);
    return err;
}

struct link_copy {
    struct ofl_tensor *tensor;
    uint8_t *device, *buf;
    uint64_t bytes;
    bool write;
    int code;
    sem_t done;
};

static void link_copy_done(void *arg, int code)
{
    struct link_copy *l = arg;

    l->code = code;
    sem_post(&l->done);
}

static int link_copy_run(struct ofl_ctx *ctx, void *arg)
{
    struct link_copy *l = arg;
    struct core_op *op = pager_op(&ctx->engine.pager, OP_CALL, l->tensor, 0);

    if (!op)
        return base_fail(-ENOMEM, "copy %s: out of memory", l->tensor->name);
    op->call = link_copy_done;
    op->arg = l;
    if (l->write)
        dev_copy_in(ctx->engine.dev, l->device, l->buf, l->bytes, op);
    else
        dev_copy_out(ctx->engine.dev, l->buf, l->device, l->bytes, op);
    return 0;
}

#define STAGING_BYTES (4ull << 20)

static int copy_over_link(struct link_copy *l)
{
    int err;

    sem_init(&l->done, 0, 0);
    err = core_call(l->tensor->ctx, link_copy_run, l);
    while (err == 0 && sem_wait(&l->done) < 0)
        ;
    sem_destroy(&l->done);
    return err < 0 ? err : l->code;
}

/* The caller's memory is not pinned: its bytes pass through some that is. */
static int copy_staged(struct ofl_tensor *t, uint8_t *device, uint8_t *buf, uint64_t bytes, bool write)
{
    struct ofl_ctx *ctx = t->ctx;
    uint64_t most = bytes < STAGING_BYTES ? bytes : STAGING_BYTES;
    void *staging = NULL, *unused;
    int err = dev_host_alloc(ctx->engine.dev, most, &staging, &unused);

    if (err == -ENOTSUP) { /* the host device reaches any memory */
        err = 0;
        most = bytes;
    }
    for (uint64_t at = 0, n; at < bytes && err == 0; at += n) {
        struct link_copy l = {.tensor = t, .device = device + at, .write = write};

        n = l.bytes = bytes - at < most ? bytes - at : most;
        l.buf = staging ? staging : buf + at;
        if (staging && write)
            memcpy(staging, buf + at, n);
        err = copy_over_link(&l);
        if (err == 0 && staging && !write)
            memcpy(buf + at, staging, n);
    }
    if (staging)
        dev_host_free(ctx->engine.dev, staging);
    return err;
}

/* Under a lease on s, which is the caller's alone. */
static int access_on(struct ofl_stream *s, struct ofl_tensor *t, uint64_t offset, uint8_t *buf,
                     uint64_t bytes, bool write, bool *failed)
{
    bool all = write && bytes == t->bytes;
    struct ofl_lease lease = {.tensor = t, .mode = all ? OFL_OVERWRITE : write ? OFL_UPDATE : OFL_READ};
    int err = ofl_acquire(t->ctx, &lease, 1, s), released;

    if (err < 0)
        return err;
    err = ofl_stream_sync(s);
    *failed = err < 0;
    if (err == 0) {
        err = copy_staged(t, (uint8_t *)lease.ptr + offset, buf, bytes, write);
        if (err < 0)
            err = base_fail_errno(err, "copy %s: offset %llu, %llu bytes", t->name, (ull)offset, (ull)bytes);
    }
    released = core_release(t->ctx, &lease, 1, s);
    return err < 0 ? err : released;
}

/* The device is t's home: over the link. */
static int access_device(struct ofl_tensor *t, uint64_t offset, uint8_t *buf, uint64_t bytes, bool write)
{
    struct base_error why;
    struct ofl_stream *s;
    bool failed = false;
    int err = core_stream_take(t->ctx, &s);

    if (err < 0)
        return err;
    err = access_on(s, t, offset, buf, bytes, write, &failed);
    base_error_save(&why, err);
    core_stream_give(s, failed);
    return err < 0 ? base_error_restore(&why) : 0;
}

static int access_bytes(struct ofl_tensor *t, uint64_t offset, uint8_t *buf, uint64_t bytes, bool write)
{
    const char *what = write ? "write" : "read";
    bool all = write && bytes == t->bytes;
    int err = 0;

    if (offset > t->bytes || bytes > t->bytes - offset)
        return base_fail(-EINVAL, "%s %s: offset %llu, %llu bytes: it has %llu bytes", what, t->name,
                         (ull)offset, (ull)bytes, (ull)t->bytes);
    if (t->flags & OFL_TENSOR_TRANSIENT)
        return base_fail(-OFL_ESTATE, "%s %s: it is transient, and has bytes only while leased", what,
                         t->name);
    if (write && t->source)
        return base_fail(-EROFS, "write %s: it lives in a source file", t->name);
    if (core_tensor_on_device(t))
        return access_device(t, offset, buf, bytes, write);
    while (bytes && err == 0) {
        uint32_t tile = tile_of(t, offset);
        uint64_t skip = offset - tile_start(t, tile), part = tile_count_bytes(t, tile) - skip;

        if (part > bytes)
            part = bytes;
        err = access_tile(t, tile, skip, buf, part, write, all);
        offset += part;
        buf += part;
        bytes -= part;
    }
    return err;
}

int ofl_tensor_read(struct ofl_tensor *t, uint64_t offset, void *buf, uint64_t bytes)
{
    if (core_refused(t->ctx, t) || (bytes && base_need(buf) < 0))
        return -EINVAL;
    return access_bytes(t, offset, buf, bytes, false);
}

int ofl_tensor_write(struct ofl_tensor *t, uint64_t offset, const void *buf, uint64_t bytes)
{
    if (core_refused(t->ctx, t) || (bytes && base_need(buf) < 0))
        return -EINVAL;
    return access_bytes(t, offset, (uint8_t *)(uintptr_t)buf, bytes, true);
}
