/* storage: opens what a context moves bytes to and from drives with: queue, store, profiles. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/memlock.h"
#include "io/profile.h"
#include "liboffload/core/context.h"

/* Stores from this size on are worth the seconds, and the bytes written, of a measurement. */
#define MEASURE_BYTES (4ull << 30)

/* What one directory of a store is to hold, as far as the caller said: its budget, or its part of all that is to come if that is
 * less. 0: neither is known, and what is free there says nothing of what will be used. */
static uint64_t said_bytes(const struct ofl_config *c, uint64_t budget, uint32_t count)
{
    uint64_t coming = c->expected_bytes / count;

    return coming && (!budget || coming < budget) ? coming : budget;
}
/* What the process needs beside the budgets, at the least: code, stacks, tables. */
#define OWN_BYTES (16ull << 20)

/* What is known of the drive decides how it is driven. A store that pays for a measurement gets
 * one where no profile is kept. bytes: as said_bytes. */
static void tune(struct ofl_ctx *ctx, const struct ofl_config *c, const char *dir, uint64_t bytes)
{
    unsigned measure =
        bytes >= MEASURE_BYTES && !(c->flags & (OFL_NO_MEASURE | OFL_USE_BUFFERED)) && !ctx->written.most;
    struct io_profile profile;

    if (io_profile_get(dir, measure ? IO_PROFILE_MEASURE : 0, NULL, NULL, &profile) < 0) {
        core_log(ctx, OFL_LOG_INFO, "%s: no profile: %s", dir, base_error_text());
        return;
    }
    if (profile.origin == IO_PROFILE_DEFAULT) {
        if (!bytes && !(c->flags & (OFL_NO_MEASURE | OFL_USE_BUFFERED)))
            core_log(ctx, OFL_LOG_INFO,
                     "%s: drive not measured: neither a budget nor expected_bytes says that %llu bytes come",
                     dir, (ull)MEASURE_BYTES);
        return;
    }
    if (io_queue_tune(ctx->engine.io, dir, &profile.tuning) == 0)
        core_log(ctx, OFL_LOG_INFO,
                 "%s: drive %s: read %.2f GB/s, write %.2f GB/s; pieces of %u bytes, %llu in flight", dir,
                 profile.origin == IO_PROFILE_MEASURED ? "measured" : "measured earlier",
                 profile.read_bps / 1e9, profile.write_bps / 1e9, profile.tuning.piece_bytes,
                 (ull)profile.tuning.window_bytes);
}

/* A GPU's memory is its own; the host device's is RAM. */
static bool takes_ram(const char *device)
{
    return !device || strcmp(device, "host") == 0;
}

int core_budgets_check(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    const uint64_t device = takes_ram(c->device) ? c->device_bytes : 0;
    bool group;
    uint64_t limit = mem_limit_bytes(&group);
    const char *of = group ? "memory cgroup" : "machine";

    if (device > limit || c->host_bytes > limit - device || OWN_BYTES > limit - device - c->host_bytes)
        return base_fail(
            -OFL_EBUDGET,
            "open context: budgets of %llu bytes (host) and %llu bytes (device, in host memory), and "
            "%llu bytes for the process itself, exceed this %s's %llu bytes of memory",
            (ull)c->host_bytes, (ull)device, (ull)OWN_BYTES, of, (ull)limit);
    ctx->memory_left = limit - c->host_bytes - device - OWN_BYTES;
    snprintf(ctx->memory_text, sizeof ctx->memory_text,
             "of this %s's %llu bytes beside host budget, device and process", of, (ull)limit);
    return 0;
}

static void log_parts(struct ofl_ctx *ctx, struct io_file *f)
{
    for (unsigned i = 0; i < io_file_parts(f); i++) {
        struct io_part_info part;

        io_file_part(f, i, &part);
        if (!part.direct)
            core_log(ctx, OFL_LOG_WARNING, "store in %s: %s", part.dir, part.note);
        if (part.space_note[0])
            core_log(ctx, OFL_LOG_WARNING, "store in %s: %s", part.dir, part.space_note);
        if (part.drive_note[0])
            core_log(ctx, OFL_LOG_WARNING, "store in %s: %s", part.dir, part.drive_note);
        if (io_file_parts(f) > 1)
            core_log(ctx, OFL_LOG_INFO, "store in %s: share %g of the bytes, by its speed", part.dir,
                     part.weight);
    }
}

/* What it is to be before anything is moved, and what is said of it. */
static int settle_file(struct ofl_ctx *ctx, struct io_file *f)
{
    int err = io_file_limit_block(f, STORE_BLOCK);

    if (err < 0)
        return err;
    log_parts(ctx, f);
    if (io_queue_attach(ctx->engine.io, f) < 0)
        core_log(ctx, OFL_LOG_INFO, "%s", base_error_text()); /* costs a look-up a transfer */
    return 0;
}

static int open_kept(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    int err = core_keep_open(ctx, c);

    if (err < 0)
        return err;
    err = settle_file(ctx, kept_file(core_kept(ctx)));
    if (err == 0)
        tune(ctx, c, c->keep_dir, said_bytes(c, c->keep_bytes, 1));
    return err;
}

/* A kept store has room for what is not kept, too. */
static int open_store(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    uint32_t count = c->nvme_count ? c->nvme_count : 1;
    struct store_path paths[OFL_NVME_MAX] = {{c->keep_dir, 0}};
    struct store_config store = {.paths = paths,
                                 .count = count,
                                 .file_flags = ctx->file_flags,
                                 .memory_bytes = ctx->memory_left,
                                 .memory_text = ctx->memory_text,
                                 .unmeasured = ctx->written.most > 0};
    int err;

    for (uint32_t i = 0; i < c->nvme_count; i++)
        paths[i] = (struct store_path){c->nvme[i].dir, c->nvme[i].bytes};
    err = store_open(&store, &ctx->store);
    if (err < 0)
        return err;
    err = settle_file(ctx, store_file(ctx->store));
    for (uint32_t i = 0; i < c->nvme_count && err == 0; i++)
        tune(ctx, c, c->nvme[i].dir, said_bytes(c, c->nvme[i].bytes, count));
    return err;
}

/* Host memory moves to and from drives only: registered, it is pinned once instead of each time. What could not be locked
 * was warned of, with the way out of the same limit: once is enough. */
static void register_memory(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    char command[BASE_MEMLOCK_BYTES];
    struct io_stats stats;

    if (c->host_bytes && io_queue_register(ctx->engine.io, ctx->arena.base, c->host_bytes) < 0)
        core_log(
            ctx, ctx->arena.pinned ? OFL_LOG_WARNING : OFL_LOG_INFO,
            "%s: each transfer pins its pages, which costs CPU time: %s in this shell, before, spares that",
            base_error_text(), base_memlock_command(2 * c->host_bytes, command));
    io_queue_stats(ctx->engine.io, &stats);
    ctx->registered = stats.registered_buffers;
}

/* What opening a file writes to see where it is. */
static int charge_trials(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    /* Without directories a kept store's serves as one. */
    uint64_t files = c->nvme_count + (c->keep_dir ? c->nvme_count ? 1 : 2 : 0),
             bytes = files * IO_FILE_TRIAL_BYTES;

    if (base_limit_take(&ctx->written, bytes))
        return 0;
    return base_fail(-OFL_EWRITTEN, "open context: " BASE_LIMIT_WRITTEN, 0ull, (ull)bytes,
                     (ull)ctx->written.most);
}

int core_io_open(struct ofl_ctx *ctx, const struct ofl_config *c)
{
    struct io_queue_config io = {.engine = c->flags & OFL_USE_THREADS ? IO_ENGINE_THREADS : IO_ENGINE_AUTO,
                                 .written = &ctx->written};
    int err;

    ctx->written.most = c->max_written_bytes;

    if (c->flags & OFL_FORBID_THREADS)
        io.engine = IO_ENGINE_URING;
    if (c->test_seed) {
        io.faults.seed = c->test_seed;
        io.faults.cut_short = io.faults.again = io.faults.delay = 100;
        io.faults.error = c->test_errors;
    }
    if (c->flags & OFL_USE_BUFFERED)
        ctx->file_flags |= IO_FILE_BUFFERED;
    if (c->flags & OFL_FORBID_BUFFERED)
        ctx->file_flags |= IO_FILE_REQUIRE_DIRECT;
    err = io_queue_open(&io, &ctx->engine.io);
    if (err == 0 && io_queue_note(ctx->engine.io)[0])
        core_log(ctx, OFL_LOG_WARNING, "I/O by threads: %s", io_queue_note(ctx->engine.io));
    if (err == 0)
        register_memory(ctx, c);
    if (err == 0)
        err = charge_trials(ctx, c);
    if (err == 0 && c->keep_dir)
        err = open_kept(ctx, c);
    if (err == 0 && (c->nvme_count || c->keep_dir))
        err = open_store(ctx, c);
    return err;
}
