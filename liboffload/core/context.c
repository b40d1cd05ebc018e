/* context: see context.h. Opening and closing, the engine thread and its mailbox. */
#include "liboffload/core/context.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/sized.h"

typedef unsigned long long ull;

#define TILE_MIN_BYTES (64ull << 10)
/* Tiles that the smallest host arena holds: room for one update's tiles and the moves beside it. */
#define TILES_MIN 32u
/* How often deadlines are looked at while I/O is in flight. */
#define TICK_MS 500

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

/* ---- mailbox ----------------------------------------------------------- */

static void wake(struct ofl_ctx *ctx)
{
    uint64_t one = 1;

    /* The counter can't overflow in 2^64 wakes; a failed write means it is readable already. */
    while (write(ctx->mail_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

int core_call(struct ofl_ctx *ctx, int (*run)(struct ofl_ctx *, void *), void *arg)
{
    struct core_cmd cmd = {.run = run, .arg = arg};

    sem_init(&cmd.done, 0, 0);
    pthread_mutex_lock(&ctx->mail_lock);
    *ctx->cmds_tail = &cmd;
    ctx->cmds_tail = &cmd.next;
    pthread_mutex_unlock(&ctx->mail_lock);
    wake(ctx);
    while (sem_wait(&cmd.done) < 0)
        ;
    sem_destroy(&cmd.done);
    return cmd.result < 0 ? base_error_restore(&cmd.error) : cmd.result;
}

/* Device threads. */
static void device_done(void *sink, void *cookie, int code)
{
    struct ofl_ctx *ctx = sink;
    struct core_op *op = cookie;

    op->code = code;
    op->next = NULL;
    pthread_mutex_lock(&ctx->mail_lock);
    *ctx->ops_tail = op;
    ctx->ops_tail = &op->next;
    pthread_mutex_unlock(&ctx->mail_lock);
    wake(ctx);
}

/* ---- what the pager asks for ------------------------------------------- */

static void env_io(void *arg, struct core_op *op)
{
    io_submit(((struct ofl_ctx *)arg)->io, &op->io);
}

static void env_copy_in(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    dev_copy_in(((struct ofl_ctx *)arg)->dev, dst, src, bytes, op);
}

static void env_copy_out(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    dev_copy_out(((struct ofl_ctx *)arg)->dev, dst, src, bytes, op);
}

static void env_fill(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op)
{
    dev_fill(((struct ofl_ctx *)arg)->dev, dst, byte, bytes, op);
}

static int env_gate_create(void *arg, struct dev_gate **gate)
{
    return dev_gate_create(((struct ofl_ctx *)arg)->dev, gate);
}

static void env_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error)
{
    (void)arg;
    dev_gate_open(gate, error);
}

static const char *env_why(void *arg, int code)
{
    return dev_check(((struct ofl_ctx *)arg)->dev) == code ? base_error_text() : base_strerror(code);
}

static void env_log(void *arg, enum ofl_log_level level, const char *text)
{
    core_log(arg, level, "%s", text);
}

/* Worker thread. */
static void work_job(void *arg)
{
    struct core_request *r = arg;
    struct ofl_ctx *ctx = r->arg;
    struct core_update *u = r->update;
    struct ofl_tensor *t = r->refs[0].tensor;
    uint64_t first = r->refs[0].tile * t->tile_elems;
    uint64_t elems = t->elems - first < t->tile_elems ? t->elems - first : t->tile_elems;
    void *ptr[CORE_UPDATE_TENSORS] = {0};
    bool fresh[CORE_UPDATE_TENSORS] = {0};

    for (uint32_t i = 0; i < r->count; i++) {
        ptr[i] = r->refs[i].ptr;
        fresh[i] = r->refs[i].fresh;
    }
    u->tile(u->arg, ptr, fresh, first, elems);
    pthread_mutex_lock(&ctx->mail_lock);
    r->next = ctx->ended;
    ctx->ended = r;
    pthread_mutex_unlock(&ctx->mail_lock);
    wake(ctx);
}

static void env_work(void *arg, struct core_request *r)
{
    r->arg = arg;
    base_pool_submit(((struct ofl_ctx *)arg)->pool, work_job, r);
}

/* ---- engine thread ----------------------------------------------------- */

static void cmd_run(struct ofl_ctx *ctx, struct core_cmd *cmd)
{
    cmd->result = cmd->run(ctx, cmd->arg);
    if (cmd->result == -EAGAIN && ctx->pager.broken.code)
        cmd->result = pager_check(&ctx->pager);
    if (cmd->result == -EAGAIN) {
        cmd->next = ctx->blocked;
        ctx->blocked = cmd;
        return;
    }
    if (cmd->result < 0)
        base_error_save(&cmd->error, cmd->result);
    sem_post(&cmd->done); /* cmd is the caller's again */
}

static void take_mail(struct ofl_ctx *ctx)
{
    struct core_cmd *cmds;
    struct core_request *ended;
    struct core_op *ops;
    uint64_t count;

    while (read(ctx->mail_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&ctx->mail_lock);
    cmds = ctx->cmds;
    ops = ctx->ops;
    ended = ctx->ended;
    ctx->cmds = NULL;
    ctx->cmds_tail = &ctx->cmds;
    ctx->ops = NULL;
    ctx->ops_tail = &ctx->ops;
    ctx->ended = NULL;
    pthread_mutex_unlock(&ctx->mail_lock);
    while (ops) {
        struct core_op *next = ops->next;

        pager_done(&ctx->pager, ops);
        ops = next;
    }
    while (ended) {
        struct core_request *next = ended->next;

        pager_request_end(&ctx->pager, ended);
        ended = next;
    }
    while (cmds) {
        struct core_cmd *next = cmds->next;

        cmd_run(ctx, cmds);
        cmds = next;
    }
}

static void retry_blocked(struct ofl_ctx *ctx)
{
    struct core_cmd *cmd = ctx->blocked;

    ctx->blocked = NULL;
    while (cmd) {
        struct core_cmd *next = cmd->next;

        cmd_run(ctx, cmd);
        cmd = next;
    }
}

/* True if there is more to do that no event will announce. */
static bool serve(struct ofl_ctx *ctx)
{
    struct io_request *done[64];
    uint64_t before;
    bool more;
    unsigned n;

    take_mail(ctx);
    do {
        n = io_reap(ctx->io, done, 64);
        for (unsigned i = 0; i < n; i++)
            pager_done(&ctx->pager, done[i]->cookie);
        more = pager_pump(&ctx->pager);
        io_flush(ctx->io);
        before = ctx->pager.changes;
        retry_blocked(ctx);
    } while (n || ctx->pager.changes != before);
    return more;
}

static void *engine(void *arg)
{
    struct ofl_ctx *ctx = arg;
    struct pollfd fds[2] = {{.fd = ctx->mail_fd, .events = POLLIN},
                            {.fd = io_queue_fd(ctx->io), .events = POLLIN}};
    bool more = false;

    pthread_setname_np(pthread_self(), "ofl-engine");
    for (;;) {
        bool stopping;

        pthread_mutex_lock(&ctx->mail_lock);
        stopping = ctx->stopping && !ctx->cmds && !ctx->ops && !ctx->ended;
        pthread_mutex_unlock(&ctx->mail_lock);
        if (stopping && ctx->pager.broken.code == 0)
            base_error_set(&ctx->pager.broken, -ECANCELED, "the context is closing"); /* nothing new starts */
        if (stopping && ctx->pager.inflight == 0 && ctx->pager.active == 0)
            return NULL;
        /* A poll that fails (EINTR) is a wake-up like any other. */
        poll(fds, 2, more ? 0 : io_queue_pending(ctx->io) || stopping ? TICK_MS : -1);
        more = serve(ctx);
    }
}

/* ---- open and close ---------------------------------------------------- */

static int check_config(const struct ofl_config *c)
{
    const uint32_t known = OFL_FORBID_BUFFERED | OFL_FORBID_THREADS | OFL_FORBID_PAGEABLE | OFL_USE_THREADS |
                           OFL_USE_BUFFERED | OFL_POISON | OFL_NO_MEASURE;

    if (c->flags & ~known)
        return base_fail(-EINVAL, "open context: unknown flags 0x%x", c->flags & ~known);
    if ((c->flags & OFL_USE_BUFFERED && c->flags & OFL_FORBID_BUFFERED) ||
        (c->flags & OFL_USE_THREADS && c->flags & OFL_FORBID_THREADS))
        return base_fail(-EINVAL, "open context: flags 0x%x use what they forbid", c->flags);
    if (c->device_bytes == 0)
        return base_fail(-EINVAL, "open context: the device budget is 0 bytes");
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
    if (c->nvme_count && c->host_bytes == 0)
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
    if (dev_native(ctx->dev)) /* a GPU's driver pins every page */
        mem_arena_populate(&ctx->arena, machine.cores);
    err = dev_register_host(ctx->dev, ctx->arena.base, ctx->arena.mapped_bytes);

    if (err == 0) {
        ctx->arena.pinned |= dev_native(ctx->dev) != NULL; /* whatever mlock was allowed to */
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
    struct dev_config dev = {.arena_bytes = c->device_bytes, .done = device_done, .sink = ctx};
    int err;

    err = dev_open(c->device ? c->device : "host", &dev, &ctx->dev);
    if (err < 0 || c->host_bytes == 0)
        return err;
    /* a GPU's driver pins without regard to RLIMIT_MEMLOCK */
    err = mem_arena_create(c->host_bytes, dev_native(ctx->dev) ? 0 : flags, &ctx->arena);
    if (err < 0)
        return err;
    if (ctx->arena.note[0])
        core_log(ctx, ctx->arena.pinned ? OFL_LOG_INFO : OFL_LOG_WARNING, "host memory: %s", ctx->arena.note);
    return register_memory(ctx, flags);
}

static int open_pager(struct ofl_ctx *ctx, const struct ofl_config *c, uint32_t workers)
{
    struct pager *p = &ctx->pager;
    int err;

    p->env = (struct core_env){.arg = ctx,
                               .io = env_io,
                               .copy_in = env_copy_in,
                               .copy_out = env_copy_out,
                               .fill = env_fill,
                               .work = env_work,
                               .gate_create = env_gate_create,
                               .gate_open = env_gate_open,
                               .why = env_why,
                               .log = env_log};
    p->device = dev_arena(ctx->dev);
    p->device_bytes = c->device_bytes / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
    p->host = ctx->arena.base;
    p->host_bytes = c->host_bytes / CORE_HOST_ALIGN * CORE_HOST_ALIGN;
    p->tile_bytes = home_tile_bytes(c, ctx->store ? store_budget(ctx->store) : 0);
    p->store = ctx->store;
    p->poison = c->flags & OFL_POISON;
    p->active_max = 2 * workers + 2;
    err = pager_open(p);
    return err < 0 ? err : home_open(p, c);
}

static void ctx_free(struct ofl_ctx *ctx)
{
    pager_close(&ctx->pager);
    base_pool_destroy(ctx->pool);
    io_queue_close(ctx->io);
    store_close(ctx->store);
    dev_close(ctx->dev);
    mem_arena_destroy(&ctx->arena);
    if (ctx->mail_fd >= 0)
        close(ctx->mail_fd);
    pthread_mutex_destroy(&ctx->mail_lock);
    pthread_mutex_destroy(&ctx->log_lock);
    pthread_mutex_destroy(&ctx->lists_lock);
    free(ctx);
}

/* A GPU's memory is its own; the host device's is RAM. */
static void check_budgets(struct ofl_ctx *ctx, const struct ofl_config *c, uint64_t memory_bytes)
{
    bool ram = strcmp(dev_name(ctx->dev), "host") == 0;
    uint64_t bytes = c->host_bytes + (ram ? c->device_bytes : 0);

    if (memory_bytes && bytes > memory_bytes)
        core_log(ctx, OFL_LOG_WARNING, "budgets of %llu bytes exceed this machine's memory of %llu bytes",
                 (ull)bytes, (ull)memory_bytes);
}

static int start(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    struct mem_machine machine;
    uint32_t workers = c->workers;
    int err;

    mem_machine_get(&machine);
    if (workers == 0)
        workers = machine.cores ? machine.cores : 1;
    ctx->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ctx->mail_fd < 0)
        return base_fail_errno(-errno, "open context: eventfd");
    err = open_memory(ctx, c);
    if (err == 0)
        check_budgets(ctx, c, machine.memory_bytes);
    if (err == 0)
        err = core_io_open(ctx, c);
    if (err == 0)
        err = base_pool_create(workers, "ofl-work", &ctx->pool);
    if (err < 0)
        return err;
    err = open_pager(ctx, c, workers);
    if (err < 0)
        return err;
    err = -pthread_create(&ctx->thread, NULL, engine, ctx);
    if (err < 0)
        return base_fail_errno(err, "open context: start the engine thread");
    ctx->thread_runs = true;
    return 0;
}

int ofl_open(const struct ofl_config *config, struct ofl_ctx **out)
{
    struct ofl_config c;
    struct ofl_ctx *ctx;
    int err;

    *out = NULL;
    err = base_sized_read(&c, sizeof c, offsetof(struct ofl_config, host_bytes), config,
                          "open context: config");
    if (err == 0)
        err = check_config(&c);
    if (err < 0)
        return err;
    ctx = calloc(1, sizeof *ctx);
    if (!ctx)
        return base_fail(-ENOMEM, "open context: out of memory");
    ctx->mail_fd = -1;
    ctx->cmds_tail = &ctx->cmds;
    ctx->ops_tail = &ctx->ops;
    ctx->log = c.log;
    ctx->log_arg = c.log_arg;
    pthread_mutex_init(&ctx->mail_lock, NULL);
    pthread_mutex_init(&ctx->log_lock, NULL);
    pthread_mutex_init(&ctx->lists_lock, NULL);
    err = start(ctx, &c);
    if (err == 0)
        err = ofl_stream_create(ctx, &ctx->own_stream);
    if (err == 0)
        dev_stream_uncounted(ctx->own_stream->dev);
    if (err < 0) {
        struct base_error why;

        base_error_save(&why, err);
        if (ctx->thread_runs)
            ofl_close(ctx);
        else
            ctx_free(ctx);
        return base_error_restore(&why);
    }
    *out = ctx;
    return 0;
}

static void stop_engine(struct ofl_ctx *ctx)
{
    pthread_mutex_lock(&ctx->mail_lock);
    ctx->stopping = true;
    pthread_mutex_unlock(&ctx->mail_lock);
    wake(ctx);
    pthread_join(ctx->thread, NULL);
}

int ofl_close(struct ofl_ctx *ctx)
{
    struct base_error first;

    if (!ctx)
        return 0;
    while (ctx->hooks) {
        struct core_hook *h = ctx->hooks;

        ctx->hooks = h->next;
        h->close(h);
    }
    while (ctx->streams)
        ofl_stream_destroy(ctx->streams);
    stop_engine(ctx);
    first = ctx->pager.broken;
    if (first.code == -ECANCELED)
        first.code = 0;
    while (ctx->pager.tensors) {
        struct ofl_tensor *t = ctx->pager.tensors;

        ctx->pager.tensors = t->next;
        core_tensor_free(t);
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
