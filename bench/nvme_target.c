/*
 * The test file and the buffers of `ofl-bench nvme`: how large they may be, the file's
 * contents, and what of it lies in the page cache. Must not measure. See nvme_target.h.
 */
#include "bench/nvme_target.h"
#include "bench/nvme_sustained_plan.h"
#include "bench/nvme_wait.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/nvme_progress.h"
#include "examples/common_memory.h"
#include "io/profile.h"

#define FILE_BYTES   GIB /* by default */
#define LAYOUT_BLOCK MIB
#define LAYOUT_DEPTH 16u
#define PAGE_BYTES   4096u
#define LOOK_BYTES   (256 * MIB) /* of the file, looked for in the page cache at a time */
#define WAIT_NS      100000000u

/* ---- sizes ---------------------------------------------------------------------- */

/* Bytes that all requests of a case take together. */
static uint64_t case_bytes(const struct nvme_case *c)
{
    return c->block_bytes * c->depth;
}

static const struct nvme_case *largest_case(const struct nvme_case *cases, unsigned count)
{
    const struct nvme_case *most = NULL;

    for (unsigned i = 0; i < count; i++)
        if (!most || case_bytes(&cases[i]) > case_bytes(most))
            most = &cases[i];
    return most;
}

/* A file of so many bytes takes half of the memory that can be had at most, where it lies there. */
static uint64_t least_in_memory(const struct nvme_target *t, uint64_t bytes, unsigned *tightest)
{
    struct common_room room;

    common_room(&room);
    for (unsigned i = 0; i < t->options->dir_count; i++)
        if (common_dir_in_memory(t->options->dirs[i]) && room.bytes / 2 < bytes) {
            bytes = room.bytes / 2;
            *tightest = i;
        }
    return bytes;
}

/* Bytes of a file of which no file system has to give more than half of what it has free; the one
 * that decides is *tightest. */
static uint64_t allowed_bytes(const struct nvme_target *t, unsigned *tightest)
{
    unsigned count = t->options->dir_count;
    double total = 0, allowed = 0x1p62;

    for (unsigned i = 0; i < count; i++)
        total += t->stripes[i].weight;
    for (unsigned i = 0; i < count; i++) {
        double here = 0, fits;

        for (unsigned k = 0; k < count; k++)
            if (t->drives[k].device == t->drives[i].device)
                here += t->stripes[k].weight;
        fits = (double)t->drives[i].free_bytes / 2 * total / here;
        if (fits < allowed) {
            allowed = fits;
            *tightest = i;
        }
    }
    return least_in_memory(t, (uint64_t)allowed, tightest) / MIB * MIB;
}

static int choose_sustained(struct nvme_target *t)
{
    unsigned tightest = 0;
    uint64_t allowed = allowed_bytes(t, &tightest);

    t->bytes = t->options->size_bytes / PAGE_BYTES * PAGE_BYTES;
    if (t->bytes > allowed || allowed < 64 * MIB)
        return common_fail(
            EXIT_INPUT,
            "--sustained: the test file takes half of what is free at most, in %s %llu bytes (%s)",
            t->options->dirs[tightest], (ull)allowed, common_bytes(allowed).text);
    return nvme_sustained_limits(t->options, allowed, t->sustained, &t->bytes);
}

static int choose_size(struct nvme_target *t, const struct nvme_case *largest)
{
    const struct nvme_options *o = t->options;
    unsigned tightest = 0;
    uint64_t allowed = allowed_bytes(t, &tightest), least = o->demand ? o->demand_bytes : 16 * MIB;
    const char *dir = o->dirs[tightest];
    uint64_t free_bytes = t->drives[tightest].free_bytes;
    struct common_text free_text = common_bytes(free_bytes / 2 < allowed ? free_bytes : 2 * allowed);

    if (largest && case_bytes(largest) > least)
        least = case_bytes(largest);
    t->bytes = o->size_bytes / PAGE_BYTES * PAGE_BYTES;
    if (!t->bytes)
        t->bytes = least > FILE_BYTES ? least : FILE_BYTES;
    if (!o->size_bytes && t->bytes > allowed)
        t->bytes = allowed;
    if (t->bytes > allowed)
        return common_fail(EXIT_INPUT,
                           "--size %llu: %s has %s free, and the test file takes half of that at most: %llu "
                           "bytes",
                           (ull)o->size_bytes, dir, free_text.text, (ull)allowed);
    if (t->bytes < least && o->size_bytes)
        return common_fail(EXIT_INPUT, "--size %llu: the test file has to hold what is in flight: %llu bytes",
                           (ull)o->size_bytes, (ull)least);
    if (t->bytes < least)
        return common_fail(EXIT_INPUT,
                           "%s has %s free: the test file has to hold %llu bytes, and takes half of what is "
                           "free at most",
                           dir, free_text.text, (ull)least);
    return 0;
}

static int make_buffers(struct nvme_target *t, const struct nvme_case *largest)
{
    const struct nvme_options *o = t->options;
    uint64_t wanted = LAYOUT_BLOCK * LAYOUT_DEPTH,
             of_case = largest ? case_bytes(largest) * (o->verify ? 2 : 1) : 0;
    struct common_room room;

    if (of_case > o->buffer_bytes)
        return common_fail(
            EXIT_INPUT, "%u blocks of %llu bytes in flight%s are %llu bytes: more than --buffers, %llu bytes",
            largest->depth, (ull)largest->block_bytes, o->verify ? ", and as many to be compared," : "",
            (ull)of_case, (ull)o->buffer_bytes);
    if (o->demand && o->buffer_bytes / 2 < o->demand_bytes)
        return common_fail(EXIT_INPUT, "--demand-bytes %llu: --buffers has to be twice that at least",
                           (ull)o->demand_bytes);
    if (of_case > wanted)
        wanted = of_case;
    if (o->tensors || o->demand)
        wanted = wanted > o->buffer_bytes ? wanted : o->buffer_bytes;
    wanted = (wanted + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    common_room(&room);
    if (wanted > room.bytes / 2)
        return common_fail(EXIT_INPUT,
                           "%llu bytes (%s) of buffers: half of the memory that can be had is taken at most, "
                           "%llu bytes, and %s; give smaller --buffers, --block or --depth",
                           (ull)wanted, common_bytes(wanted).text, (ull)room.bytes / 2, room.text);
    t->buffer_bytes = wanted;
    return nvme_target_renew_buffers(t);
}

int nvme_target_renew_buffers(struct nvme_target *t)
{
    uint64_t bytes = t->buffer_bytes, state = 1;
    void *fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (fresh == MAP_FAILED)
        return common_fail(EXIT_RUNTIME, "get %llu bytes of buffers: %s", (ull)bytes, strerror(errno));
    /* A child that shares them would make the kernel copy them, in small pages, when it pins them. */
    madvise(fresh, bytes, MADV_DONTFORK);
    madvise(fresh, bytes, MADV_HUGEPAGE);
    bench_fill(fresh, bytes, &state);
    if (t->buffers)
        munmap(t->buffers, bytes);
    t->buffers = fresh;
    return 0;
}

/* ---- shares of several directories ------------------------------------------------- */

/* What counts: the direction that is measured, or both. */
static double worth(const struct nvme_case *cases, unsigned count, double read_bps, double write_bps)
{
    bool reads = count == 0, writes = false;

    for (unsigned i = 0; i < count; i++) {
        writes |= nvme_rw_writes(cases[i].rw);
        reads |= cases[i].rw != RW_WRITE && cases[i].rw != RW_RANDWRITE;
    }
    return reads && writes ? read_bps + write_bps : writes ? write_bps : read_bps;
}

static void choose_weights(struct nvme_target *t, const struct nvme_case *cases, unsigned count)
{
    const struct nvme_options *o = t->options;
    bool known = true;

    nvme_progress.what = "measuring what each directory is worth";
    for (unsigned i = 0; i < o->dir_count; i++) {
        double read_bps = 0, write_bps = 0;

        t->stripes[i] = (struct io_stripe){.dir = o->dirs[i], .weight = 1};
        if (o->dir_count == 1)
            return;
        if (o->max_written) {
            snprintf(t->weight_note, sizeof t->weight_note,
                     "equal shares: with --max-written nothing is written to measure them");
            continue;
        }
        nvme_tick(common_seconds());
        if (io_profile_measure_rates(o->dirs[i], &read_bps, &write_bps) < 0) {
            snprintf(t->weight_note, sizeof t->weight_note, "equal shares: %s", ofl_error());
            known = false;
        }
        t->stripes[i].weight = worth(cases, count, read_bps, write_bps);
        known = known && t->stripes[i].weight > 0;
    }
    for (unsigned i = 0; i < o->dir_count && !known; i++)
        t->stripes[i].weight = 1;
}

/* ---- the queue ------------------------------------------------------------------ */

/* What was found out about the engine belongs to the results. */
static void note_engine(struct nvme_target *t, const struct io_queue *q)
{
    t->engine = io_queue_engine(q);
    snprintf(t->engine_note, sizeof t->engine_note, "%s", io_queue_note(q));
}

static void register_all(struct nvme_target *t, struct io_queue *q)
{
    t->registered = false;
    if (!t->options->registered || t->engine != IO_ENGINE_URING) {
        snprintf(t->registered_note, sizeof t->registered_note, "%s",
                 t->options->registered ? "threads have none" : "not wanted");
        return;
    }
    if (io_queue_register(q, t->buffers, t->buffer_bytes) < 0 || io_queue_attach(q, t->file) < 0)
        snprintf(t->registered_note, sizeof t->registered_note, "%s", ofl_error());
    else
        t->registered = true;
}

int nvme_queue_open(struct nvme_target *t, uint32_t depth, uint64_t piece_bytes, uint64_t window_bytes,
                    struct io_queue **out)
{
    const struct io_queue_config config = {.engine = t->options->engine,
                                           .flags = t->options->flags,
                                           .depth = depth,
                                           .piece_bytes = (uint32_t)piece_bytes,
                                           .window_bytes = window_bytes,
                                           .written = &t->written};

    if (io_queue_open(&config, out) < 0)
        return common_fail(EXIT_RUNTIME, "%s", ofl_error());
    note_engine(t, *out);
    register_all(t, *out);
    return 0;
}

bool nvme_once(const struct nvme_target *t, enum nvme_rw rw)
{
    return nvme_rw_writes(rw) || !io_file_direct(t->file);
}

/* ---- the file ------------------------------------------------------------------------ */

/* Writes of parts of pages go past the page cache only if direct I/O is required. */
static bool writes_parts(const struct nvme_case *cases, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (nvme_rw_writes(cases[i].rw) && cases[i].block_bytes % PAGE_BYTES)
            return true;
    return false;
}

static int open_named(struct nvme_target *t, unsigned flags)
{
    int err;

    if (asprintf(&t->kept_path, "%s/%s", t->options->dirs[0], t->options->keep_file) < 0)
        t->kept_path = NULL;
    err = t->kept_path ? io_file_open_named(t->kept_path, true, flags, &t->file) : -ENOMEM;
    if (err < 0) { /* not this run's to remove */
        free(t->kept_path);
        t->kept_path = NULL;
    }
    return err;
}

static int open_file(struct nvme_target *t, bool require_direct)
{
    const struct nvme_options *o = t->options;
    unsigned flags = o->direct == 0 ? IO_FILE_BUFFERED : require_direct ? IO_FILE_REQUIRE_DIRECT : 0;
    int err = o->keep_file       ? open_named(t, flags)
              : o->dir_count > 1 ? io_file_open_striped(t->stripes, o->dir_count, flags, &t->file)
                                 : io_file_open_scratch(o->dirs[0], flags, &t->file);

    if (err < 0)
        return common_fail(common_status(err), "%s", ofl_error());
    err = io_file_reserve(t->file, t->bytes);
    if (err < 0)
        return common_fail(common_status(err), "%s", ofl_error());
    return 0;
}

/* Writes the blocks from *at on as requests become free, each with bytes of its own. */
static int write_blocks(struct nvme_target *t, struct io_queue *q, struct io_request *requests)
{
    struct io_request *done[LAYOUT_DEPTH], *idle[LAYOUT_DEPTH];
    uint64_t at = 0, state = (uint64_t)getpid();
    unsigned idle_count = LAYOUT_DEPTH;
    int status = 0;

    for (unsigned i = 0; i < LAYOUT_DEPTH; i++)
        idle[i] = &requests[i];
    while (idle_count < LAYOUT_DEPTH || (at < t->bytes && status == 0)) {
        while (idle_count && at < t->bytes && status == 0) {
            struct io_request *r = idle[--idle_count];
            uint64_t bytes = t->bytes - at < LAYOUT_BLOCK ? t->bytes - at : LAYOUT_BLOCK;

            r->op = IO_WRITE;
            r->file = t->file;
            r->buf = t->buffers + (uint64_t)(r - requests) * LAYOUT_BLOCK;
            r->offset = at;
            r->bytes = bytes;
            if (t->verify)
                nvme_verify_fill(t->verify, r->buf, at, bytes);
            else
                bench_fill(r->buf, bytes, &state);
            io_submit(q, r);
            io_flush(q);
            at += bytes;
        }
        for (unsigned n = nvme_wait(q, done, LAYOUT_DEPTH, WAIT_NS), i = 0; i < n; i++) {
            idle[idle_count++] = done[i];
            if (done[i]->error.code && status == 0)
                status = common_fail(common_status_late(done[i]->error.code), "%s", done[i]->error.text);
        }
        common_progress_bytes("filling the test file:", at, t->bytes);
        if (common_stopping() && status == 0)
            status = common_fail(EXIT_INTERRUPTED, "interrupted");
    }
    t->written_bytes += at;
    return status;
}

static int fill_file(struct nvme_target *t)
{
    struct io_request *requests = calloc(LAYOUT_DEPTH, sizeof *requests);
    struct io_queue *q = NULL;
    int status = requests ? nvme_queue_open(t, LAYOUT_DEPTH, LAYOUT_BLOCK, LAYOUT_DEPTH * LAYOUT_BLOCK, &q)
                          : common_fail(EXIT_FULL, "fill the test file: out of memory");

    if (status == 0)
        status = write_blocks(t, q, requests);
    if (status == 0 && io_file_sync(t->file) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "fill the test file");
    io_queue_close(q);
    free(requests);
    return status;
}

/* ---- the page cache ----------------------------------------------------------------------- */

/* Pages of the first `bytes` bytes of fd that are in the page cache, or -1. */
static int64_t resident_pages(int fd, uint64_t bytes)
{
    static unsigned char present[LOOK_BYTES / PAGE_BYTES];
    int64_t pages = 0;

    for (uint64_t at = 0; at < bytes; at += LOOK_BYTES) {
        size_t here = bytes - at < LOOK_BYTES ? bytes - at : LOOK_BYTES;
        void *map = mmap(NULL, here, PROT_READ, MAP_SHARED, fd, (off_t)at);
        int err;

        if (map == MAP_FAILED)
            return -1;
        err = mincore(map, here, present);
        munmap(map, here);
        if (err < 0)
            return -1;
        for (size_t i = 0; i < (here + PAGE_BYTES - 1) / PAGE_BYTES; i++)
            pages += present[i] & 1;
    }
    return pages;
}

/* Share of the file in the page cache, or -1. */
static double resident_share(const struct nvme_target *t)
{
    int64_t pages = 0;
    struct stat s;

    for (unsigned i = 0; i < io_file_parts(t->file); i++) {
        int64_t here = fstat(io_file_fd(t->file, i), &s) == 0
                           ? resident_pages(io_file_fd(t->file, i), (uint64_t)s.st_size)
                           : -1;

        if (here < 0)
            return -1;
        pages += here;
    }
    return (double)pages * PAGE_BYTES / (double)t->bytes;
}

void nvme_target_drop_cache(struct nvme_target *t)
{
    double share;

    if (io_file_direct(t->file))
        return;
    /* Pages that are not written yet can't be dropped. */
    io_file_sync(t->file);
    for (unsigned i = 0; i < io_file_parts(t->file); i++)
        posix_fadvise(io_file_fd(t->file, i), 0, 0, POSIX_FADV_DONTNEED);
    share = resident_share(t);
    if (share < 0 || t->cached_share < 0)
        t->cached_share = -1;
    else if (share > t->cached_share)
        t->cached_share = share;
}

/* ---- --max-written ------------------------------------------------------------------------- */

/* That a case writes at most, in all its runs: each ends after the file's size, and so does fio. */
static void add_case(const struct nvme_target *t, const struct nvme_case *c, uint64_t *ours, uint64_t *fio)
{
    const struct nvme_options *o = t->options;
    uint64_t runs = o->repeat + (o->syscalls ? 1 : 0);

    if (!nvme_rw_writes(c->rw))
        return;
    *ours += NVME_WARM_UP_BYTES + runs * t->bytes;
    /* Its shares of reads and writes are drawn. Counting calls it runs twice. */
    *fio += o->fio ? (1 + o->repeat + (o->syscalls ? 2 : 0)) * t->bytes : 0;
}

/* What can't be sure to keep the limit is refused. */
static int set_written(struct nvme_target *t, const struct nvme_case *cases, unsigned count)
{
    const uint64_t limit = t->options->max_written;
    uint64_t ours = (t->sustained ? t->sustained->limit_bytes + nvme_sustained_recovery(t->sustained)
                                  : t->bytes) +
                    t->options->dir_count * (uint64_t)IO_FILE_TRIAL_BYTES,
             fio = 0;

    for (unsigned i = 0; i < count; i++)
        add_case(t, &cases[i], &ours, &fio);
    if (!limit)
        return 0;
    if (ours + fio > limit)
        return common_fail(
            EXIT_INPUT,
            "--max-written %llu (%s): these runs could write %llu (%s): %llu to fill the test file, %llu in "
            "runs of it, %llu in those of fio; give a smaller --size or --repeat, or modes that read",
            (ull)limit, common_bytes(limit).text, (ull)(ours + fio), common_bytes(ours + fio).text,
            (ull)t->bytes, (ull)(ours - t->bytes), (ull)fio);
    t->written.most = limit - fio;
    (void)base_limit_take(&t->written, t->options->dir_count * (uint64_t)IO_FILE_TRIAL_BYTES);
    return 0;
}

static int open_verify(struct nvme_target *t, const struct nvme_case *cases, unsigned count)
{
    uint64_t unit = PAGE_BYTES;

    for (unsigned i = 0; i < count; i++)
        if (cases[i].block_bytes % PAGE_BYTES)
            unit = NVME_SECTOR;
    return nvme_verify_open(t->verify, t->options->seed, t->bytes, unit, true) < 0
               ? common_fail(EXIT_FULL, "verify: out of memory")
               : 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int nvme_target_open(struct nvme_target *t, const struct nvme_options *o, const struct nvme_case *cases,
                     unsigned count)
{
    const struct nvme_case *largest = largest_case(cases, count);
    int status = 0;

    *t = (struct nvme_target){
        .options = o, .verify = t->verify, .sustained = t->sustained, .started = common_seconds()};
    for (unsigned i = 0; i < o->dir_count; i++) {
        if (io_drive_get(o->dirs[i], &t->drives[i]) < 0)
            return common_fail(EXIT_INPUT, "--dir %s: %s", o->dirs[i], ofl_error());
        nvme_health_get(&t->drives[i], &t->before[i]);
        if ((o->flags & IO_QUEUE_IOPOLL) && !t->drives[i].io_poll)
            return common_fail(EXIT_INPUT, "--flags iopoll: %s lies on %s, which is not set up to be polled",
                               o->dirs[i], t->drives[i].name[0] ? t->drives[i].name : "no drive of its own");
    }
    choose_weights(t, cases, count);
    status = t->sustained ? choose_sustained(t) : choose_size(t, largest);
    if (status == 0)
        status = set_written(t, cases, count);
    if (status == 0 && t->verify)
        status = open_verify(t, cases, count);
    if (status == 0)
        status = make_buffers(t, largest);
    if (status == 0)
        status = open_file(t, o->direct == 1 || writes_parts(cases, count));
    if (status == 0 && !t->sustained)
        status = fill_file(t);
    if (status == 0)
        t->cached_share = resident_share(t);
    if (status == 0 && !io_file_direct(t->file))
        t->cached_share = t->cached_share < 0 ? -1 : 0;
    return status;
}

void nvme_target_close(struct nvme_target *t)
{
    io_file_close(t->file);
    t->file = NULL;
    if (t->kept_path && !t->stays)
        unlink(t->kept_path);
    free(t->kept_path);
    t->kept_path = NULL;
    if (t->verify)
        nvme_verify_close(t->verify);
    if (t->buffers)
        munmap(t->buffers, t->buffer_bytes);
    t->buffers = NULL;
}
