/* stats: what a context has counted, as the public header shows it. */
#include <errno.h>
#include <string.h>

#include "base/sized.h"
#include "liboffload/core/context.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"

static bool is_cached(const struct io_file *f)
{
    struct io_part_info part;
    bool cached = false;

    for (unsigned i = 0; i < io_file_parts(f); i++) {
        io_file_part(f, i, &part);
        cached |= part.cached;
    }
    return cached;
}

static int stats_run(struct ofl_ctx *ctx, void *arg)
{
    struct pager *p = &ctx->engine.pager;
    struct ofl_stats *s = arg;
    struct sched_counts counts;

    *s = p->stats;
    s->budget_bytes[OFL_DEVICE] = p->device_bytes;
    s->used_bytes[OFL_DEVICE] = p->device_used;
    s->peak_bytes[OFL_DEVICE] = p->device_peak;
    s->budget_bytes[OFL_HOST] = p->host_bytes;
    s->used_bytes[OFL_HOST] = tile_host_used(p);
    s->peak_bytes[OFL_HOST] = p->host_peak;
    if (p->store) {
        s->budget_bytes[OFL_NVME] = store_budget(p->store);
        s->used_bytes[OFL_NVME] = store_used(p->store);
        s->peak_bytes[OFL_NVME] = store_reserved(p->store);
        s->nvme_memory_bytes = store_memory(p->store);
        s->direct = io_file_direct(store_file(p->store));
        s->nvme_reserved = io_file_reserved(store_file(p->store));
    }
    core_keep_stats(ctx, s);
    pthread_mutex_lock(&ctx->lists_lock);
    if (!p->store)
        s->direct = ctx->sources != NULL;
    for (const struct ofl_source *x = ctx->sources; x; x = core_source_next(x))
        s->direct &= core_source_direct(x);
    pthread_mutex_unlock(&ctx->lists_lock);
    s->tile_bytes = p->tile_bytes;
    if (sched_solved(p->sched)) {
        const struct sched_moved *m = sched_moved(p->sched);

        s->planned_in_bytes = m->device_in;
        s->planned_out_bytes = m->device_out;
        s->planned_read_bytes = m->drive_read;
        s->planned_write_bytes = m->drive_write;
    }
    sched_counts_get(p->sched, &counts);
    s->steps = counts.steps;
    s->engine_ns = engine_busy_ns(&ctx->engine);
    s->off_plan = counts.off_plan;
    pthread_mutex_lock(&ctx->engine.io_lock);
    s->io_uring = io_queue_engine(ctx->engine.io) == IO_ENGINE_URING;
    s->paths = io_queue_paths(ctx->engine.io);
    s->nvme_cached = p->store && is_cached(store_file(p->store));
    pthread_mutex_unlock(&ctx->engine.io_lock);
    s->registered = ctx->registered;
    s->written_bytes = atomic_load(&ctx->written.taken);
    s->pinned = ctx->arena.pinned;
    s->numa_node = p->host_bytes ? ctx->arena.node : -1;
    return 0;
}

int ofl_stats_get(struct ofl_ctx *ctx, struct ofl_stats *out)
{
    struct ofl_stats s;
    struct dev_stats dev;

    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    core_call(ctx, stats_run, &s);
    dev_stats_get(ctx->engine.dev, &dev);
    s.device_in_bytes = dev.in_bytes;
    s.device_out_bytes = dev.out_bytes;
    s.stall_ns = dev.stall_ns;
    s.driver_calls = dev.driver_calls;
    s.device_in_busy_ns = dev.in_busy_ns;
    s.device_out_busy_ns = dev.out_busy_ns;
    return base_sized_write(out, &s, sizeof s, "get statistics: stats");
}

struct path_query {
    struct ofl_path_stats *out;
    uint32_t index;
};

static int path_stats_run(struct ofl_ctx *ctx, void *arg)
{
    struct path_query *query = arg;
    struct ofl_path_stats *s = query->out;
    struct io_path_stats path;
    bool known;
    const struct io_histogram *in = &path.latency[IO_READ], *out = &path.latency[IO_WRITE];

    pthread_mutex_lock(&ctx->engine.io_lock);
    known = query->index < io_queue_paths(ctx->engine.io);
    if (known)
        io_queue_path_stats(ctx->engine.io, query->index, &path);
    pthread_mutex_unlock(&ctx->engine.io_lock);
    if (!known)
        return -ENOENT;
    *s = (struct ofl_path_stats){
        .read_bytes = path.bytes[IO_READ],
        .write_bytes = path.bytes[IO_WRITE],
        .read_transfers = path.transfers[IO_READ],
        .write_transfers = path.transfers[IO_WRITE],
        .errors = path.errors,
        .read_p50_ns = io_histogram_quantile(in, 0.5),
        .read_p99_ns = io_histogram_quantile(in, 0.99),
        .read_p999_ns = io_histogram_quantile(in, 0.999),
        .write_p50_ns = io_histogram_quantile(out, 0.5),
        .write_p99_ns = io_histogram_quantile(out, 0.99),
        .write_p999_ns = io_histogram_quantile(out, 0.999),
        .busy_ns = path.busy_ns,
        .empty_ns = path.empty_ns,
        .since_ns = path.since_ns,
    };
    memcpy(s->name, path.name, sizeof s->name);
    return 0;
}

int ofl_path_stats_get(struct ofl_ctx *ctx, uint32_t index, struct ofl_path_stats *out)
{
    struct ofl_path_stats s = {0};
    struct path_query query = {&s, index};
    int err;

    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    err = core_call(ctx, path_stats_run, &query);
    if (err == -ENOENT)
        return base_fail(err, "get statistics: no drive %u", index);
    return err < 0 ? err : base_sized_write(out, &s, sizeof s, "get statistics: drive");
}
