/* context: see context.h. Opening and closing. */
#include "liboffload/core/context.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sized.h"
#include "liboffload/core/shape.h"

#define TILE_MIN_BYTES (64ull << 10)
/* Tiles that the smallest host arena holds: room for one update's tiles and the moves beside it. */
#define TILES_MIN 32u

/* ---- log --------------------------------------------------------------- */

void core_log(struct ofl_ctx *ctx, enum ofl_log_level level, const char *fmt, ...)
{
    char text[BASE_ERROR_TEXT];
    va_list ap;

    if (!ctx->log)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&ctx->log_lock);
    ctx->log(ctx->log_arg, level, text);
    pthread_mutex_unlock(&ctx->log_lock);
}

/* ---- commands ---------------------------------------------------------- */

struct call {
    int (*run)(struct ofl_ctx *, void *);
    void *arg;
};

static int call_run(void *ctx, void *arg)
{
    struct call *c = arg;

    return c->run(ctx, c->arg);
}

int core_call(struct ofl_ctx *ctx, int (*run)(struct ofl_ctx *, void *), void *arg)
{
    struct call c = {run, arg};

    return engine_call(&ctx->engine, call_run, ctx, &c);
}

/* Device threads. */
static void device_done(void *sink, void *cookie, int code)
{
    struct core_op *op = cookie;

    op->code = code;
    engine_post(&((struct ofl_ctx *)sink)->engine, op);
}

/* Device threads. */
static void device_span(void *sink, const struct dev_span *span)
{
    record_span(&((struct ofl_ctx *)sink)->engine.timeline, span);
}

static void env_log(void *arg, enum ofl_log_level level, const char *text)
{
    struct core_engine *e = arg;

    core_log((struct ofl_ctx *)((char *)e - offsetof(struct ofl_ctx, engine)), level, "%s", text);
}

/* ---- open and close ---------------------------------------------------- */

static int check_config(const struct ofl_config *c)
{
    const uint32_t known = OFL_FORBID_BUFFERED | OFL_FORBID_THREADS | OFL_FORBID_PAGEABLE | OFL_USE_THREADS |
                           OFL_USE_BUFFERED | OFL_POISON | OFL_NO_MEASURE | OFL_KEEP_IN_PLACE;

    if (c->flags & ~known)
        return base_fail(-EINVAL, "open context: unknown flags 0x%x", c->flags & ~known);
    if ((c->flags & OFL_USE_BUFFERED && c->flags & OFL_FORBID_BUFFERED) ||
        (c->flags & OFL_USE_THREADS && c->flags & OFL_FORBID_THREADS))
        return base_fail(-EINVAL, "open context: flags 0x%x use what they forbid", c->flags);
    if (c->device_bytes == 0)
        return base_fail(-EINVAL, "open context: the device budget is 0 bytes");
    if (c->workers > OFL_WORKERS_MAX)
        return base_fail(-EINVAL, "open context: %u workers: at most %u are possible; 0 is one for each core",
                         c->workers, OFL_WORKERS_MAX);
    if (c->leased_bytes > c->device_bytes)
        return base_fail(-EINVAL, "open context: leased_bytes %llu exceed the device budget of %llu bytes",
                         (ull)c->leased_bytes, (ull)c->device_bytes);
    if (c->host_bytes && c->host_bytes < OFL_HOST_MIN_BYTES)
        return base_fail(-OFL_EBUDGET,
                         "open context: the host budget is %llu bytes: the smallest workable is %u",
                         (ull)c->host_bytes, OFL_HOST_MIN_BYTES);
    if (c->nvme_count > OFL_NVME_MAX)
        return base_fail(-EINVAL, "open context: %u NVMe directories, at most %u are possible", c->nvme_count,
                         OFL_NVME_MAX);
    for (uint32_t i = 0; i < c->nvme_count; i++)
        if (!c->nvme || !c->nvme[i].dir || !c->nvme[i].dir[0])
            return base_fail(-EINVAL, "open context: NVMe directory %u has no name", i);
    if (c->keep_dir && !c->keep_dir[0])
        return base_fail(-EINVAL, "open context: the kept store's directory has no name");
    if ((c->nvme_count || c->keep_dir) && c->host_bytes == 0)
        return base_fail(
            -OFL_EBUDGET,
            "open context: an NVMe tier needs host memory to move bytes through: the smallest workable "
            "host budget is %u bytes",
            OFL_HOST_MIN_BYTES);
    if (c->tile_bytes & (c->tile_bytes - 1))
        return base_fail(-EINVAL, "open context: tile_bytes %llu is not a power of two", (ull)c->tile_bytes);
    if (c->tile_bytes && (c->tile_bytes < TILE_MIN_BYTES || c->tile_bytes > (32ull << 20) ||
                          (c->host_bytes && c->tile_bytes * TILES_MIN > c->host_bytes)))
        return base_fail(
            -OFL_EBUDGET,
            "open context: tile_bytes %llu: must be %llu to 33554432, and %u of them fit the host budget "
            "of %llu bytes",
            (ull)c->tile_bytes, TILE_MIN_BYTES, TILES_MIN, (ull)c->host_bytes);
    return 0;
}

/* One path: the pages that direct I/O fills are those that the copy engines read. Without it
 * copies still work, by way of the driver's own buffers, and hold up who issues them. */
static int register_memory(struct ofl_ctx *ctx, unsigned flags)
{
    struct mem_machine machine;
    int err;

    mem_machine_get(&machine);
    if (dev_native(ctx->engine.dev)) /* a GPU's driver pins every page */
        mem_arena_populate(&ctx->arena, machine.cores);
    err = dev_register_host(ctx->engine.dev, ctx->arena.base, ctx->arena.mapped_bytes);

    if (err == 0) {
        ctx->arena.pinned |= dev_native(ctx->engine.dev) != NULL; /* whatever mlock was allowed to */
        return 0;
    }
    if (flags & MEM_REQUIRE_PINNED)
        return -OFL_EPINNED; /* with the device's sentence */
    ctx->arena.pinned = false;
    core_log(ctx, OFL_LOG_WARNING, "host memory: pageable for the device: %s", base_error_text());
    return 0;
}

static int open_memory(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    unsigned flags = c->flags & OFL_FORBID_PAGEABLE ? MEM_REQUIRE_PINNED : 0;
    struct dev_config dev = {
        .arena_bytes = c->device_bytes, .done = device_done, .span = device_span, .sink = ctx};
    int err;

    err = dev_open(c->device ? c->device : "host", &dev, &ctx->engine.dev);
    if (err < 0 || c->host_bytes == 0)
        return err;
    /* a GPU's driver pins without regard to RLIMIT_MEMLOCK */
    err = mem_arena_create(c->host_bytes, dev_native(ctx->engine.dev) ? 0 : flags, &ctx->arena);
    if (err < 0)
        return err;
    err = register_memory(ctx, flags);
    if (err == 0 && ctx->arena.note[0]) /* behind the device, which may have pinned what mlock could not */
        core_log(ctx, ctx->arena.pinned ? OFL_LOG_INFO : OFL_LOG_WARNING, "host memory: %s", ctx->arena.note);
    return err;
}

static int open_pager(struct ofl_ctx *ctx, const struct ofl_config *c, uint32_t workers)
{
    struct pager *p = &ctx->engine.pager;
    int err;

    p->env.log = env_log;
    p->device = dev_arena(ctx->engine.dev);
    p->device_bytes = c->device_bytes / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
    p->host = ctx->arena.base;
    p->host_bytes = c->host_bytes / CORE_HOST_ALIGN * CORE_HOST_ALIGN;
    p->kept = core_kept(ctx);
    p->kept_in_place = c->flags & OFL_KEEP_IN_PLACE;
    p->tile_bytes = home_tile_bytes_kept(c, ctx->store ? store_budget(ctx->store) : 0, p->kept);
    p->store = ctx->store;
    p->poison = c->flags & OFL_POISON;
    p->active_max = 2 * workers + 2;
    err = pager_open(p);
    return err < 0 ? err : home_open(p, c);
}

static void ctx_free(struct ofl_ctx *ctx)
{
    pager_close(&ctx->engine.pager);
    base_pool_destroy(ctx->engine.pool);
    io_queue_close(ctx->engine.io);
    core_keep_close(ctx);
    core_uploads_free(ctx);
    store_close(ctx->store);
    dev_close(ctx->engine.dev);
    mem_arena_destroy(&ctx->arena);
    core_timeline_end(ctx);
    engine_close(&ctx->engine);
    pthread_mutex_destroy(&ctx->log_lock);
    pthread_mutex_destroy(&ctx->lists_lock);
    free(ctx);
}

static int start(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    struct mem_machine machine;
    uint32_t workers = c->workers;
    int err;

    mem_machine_get(&machine);
    if (workers == 0)
        workers = machine.cores < 1 ? 1 : machine.cores > OFL_WORKERS_MAX ? OFL_WORKERS_MAX : machine.cores;
    err = engine_open(&ctx->engine);
    if (err == 0)
        err = core_budgets_check(ctx, c);
    if (err == 0)
        err = open_memory(ctx, c);
    if (err == 0)
        err = core_io_open(ctx, c);
    if (err == 0)
        err = base_pool_create(workers, "ofl-work", &ctx->engine.pool);
    if (err < 0)
        return err;
    err = open_pager(ctx, c, workers);
    if (err < 0)
        return err;
    ctx->engine.read_ended = core_source_read;
    return engine_start(&ctx->engine);
}

int ofl_open(const struct ofl_config *config, struct ofl_ctx **out)
{
    struct ofl_config c;
    struct ofl_ctx *ctx;
    int err;

    if (out)
        *out = NULL;
    err = base_need(config, out);
    if (err == 0)
        err = base_forks_watch();
    if (err < 0)
        return err;
    err = base_sized_read(&c, sizeof c, offsetof(struct ofl_config, host_bytes), config,
                          "open context: config");
    if (err == 0)
        err = check_config(&c);
    if (err < 0)
        return err;
    ctx = calloc(1, sizeof *ctx);
    if (!ctx)
        return base_fail(-ENOMEM, "open context: out of memory");
    ctx->forks = base_forks;
    ctx->engine.mail_fd = -1;
    ctx->log = c.log;
    ctx->log_arg = c.log_arg;
    pthread_mutex_init(&ctx->log_lock, NULL);
    pthread_mutex_init(&ctx->lists_lock, NULL);
    err = start(ctx, &c);
    if (err == 0)
        err = core_stream_take(ctx, &ctx->own_stream); /* so that the first access need not make one */
    if (err < 0) {
        struct base_error why;

        base_error_save(&why, err);
        if (ctx->engine.runs)
            ofl_close(ctx);
        else
            ctx_free(ctx);
        return base_error_restore(&why);
    }
    *out = ctx;
    return 0;
}

int ofl_close(struct ofl_ctx *ctx)
{
    struct base_error first;

    if (!ctx)
        return 0;
    if (core_refused(ctx, ctx))
        return -EINVAL;
    while (ctx->hooks) {
        struct core_hook *h = ctx->hooks;

        ctx->hooks = h->next;
        h->close(h);
    }
    while (ctx->streams)
        ofl_stream_destroy(ctx->streams);
    engine_stop(&ctx->engine);
    first = ctx->engine.pager.broken;
    if (first.code == -ECANCELED)
        first.code = 0;
    while (ctx->engine.pager.tensors) {
        struct ofl_tensor *t = ctx->engine.pager.tensors;

        ctx->engine.pager.tensors = t->next;
        pager_tensor_free(t);
    }
    while (ctx->sources)
        core_source_free(ctx->sources);
    ctx_free(ctx);
    return first.code ? base_error_restore(&first) : 0;
}

void core_hook_add(struct ofl_ctx *ctx, struct core_hook *h)
{
    pthread_mutex_lock(&ctx->lists_lock);
    h->next = ctx->hooks;
    ctx->hooks = h;
    pthread_mutex_unlock(&ctx->lists_lock);
}

void core_hook_remove(struct ofl_ctx *ctx, struct core_hook *h)
{
    struct core_hook **at;

    pthread_mutex_lock(&ctx->lists_lock);
    for (at = &ctx->hooks; *at && *at != h; at = &(*at)->next)
        ;
    if (*at)
        *at = h->next;
    pthread_mutex_unlock(&ctx->lists_lock);
}
