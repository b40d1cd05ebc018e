/*
 * Making, tuning, asking and ending a queue: see io.h. Owns which engine is taken and how
 * many transfers there are. What moves when: queue.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/queue.h"
#include "base/clock.h"

#define DEPTH_DEFAULT       64u
#define PIECE_DEFAULT       (1u << 20)
#define WINDOW_DEFAULT      (8ull << 20)
#define DEADLINE_DEFAULT_NS 60000000000u
#define DRIVES              8u /* that can have their full depth in flight at once */

static int check_config(const struct io_queue_config *c)
{
    if ((unsigned)c->engine > IO_ENGINE_THREADS)
        return base_fail(-EINVAL, "open I/O queue: unknown engine %d", (int)c->engine);
    if (c->flags & ~(unsigned)(IO_QUEUE_SQPOLL | IO_QUEUE_IOPOLL | IO_QUEUE_DEFER))
        return base_fail(-EINVAL, "open I/O queue: unknown flags 0x%" PRIx32, c->flags);
    if (c->depth > IO_DEPTH_MAX)
        return base_fail(-EINVAL, "open I/O queue: depth %" PRIu32 " is above %u", c->depth, IO_DEPTH_MAX);
    if (c->piece_bytes > IO_PIECE_MAX || (c->piece_bytes && c->piece_bytes < 512))
        return base_fail(-EINVAL, "open I/O queue: pieces of %" PRIu32 " bytes, 512 to %u are possible",
                         c->piece_bytes, IO_PIECE_MAX);
    return 0;
}

/* A queue without a backend. depth as wanted: the engine may lower it. */
static int create(const struct io_queue_config *config, struct io_queue **out)
{
    static atomic_uint_fast64_t ids;
    struct io_queue *q;
    int rc = check_config(config);

    *out = NULL;
    if (rc < 0)
        return rc;
    q = calloc(1, sizeof *q);
    if (!q)
        return base_fail_errno(-ENOMEM, "open I/O queue");
    q->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->event_fd < 0) {
        rc = -errno;
        free(q);
        return base_fail_errno(rc, "open I/O queue: eventfd");
    }
    q->id = atomic_fetch_add(&ids, 1) + 1;
    q->tuning = (struct io_tuning){
        .piece_bytes = config->piece_bytes ? config->piece_bytes : PIECE_DEFAULT,
        .depth = config->depth ? config->depth : DEPTH_DEFAULT,
        .window_bytes = config->window_bytes ? config->window_bytes : WINDOW_DEFAULT,
    };
    q->deadline_ns = config->deadline_ns ? config->deadline_ns : DEADLINE_DEFAULT_NS;
    q->expire_ns = UINT64_MAX;
    q->written = config->written;
    q->clock = base_now_ns;
    q->now_ns = q->clock();
    *out = q;
    return 0;
}

/* How many transfers there are: the depth of several drives, within reason. */
static uint32_t count_transfers(uint32_t depth)
{
    uint32_t count = depth * DRIVES < IO_DEPTH_MAX / 4 ? depth * DRIVES : IO_DEPTH_MAX / 4;

    return count < depth ? depth : count;
}

static int open_engine(struct io_queue *q, const struct io_queue_config *config)
{
    int rc = -ENOSYS;

    q->transfer_count = count_transfers(q->tuning.depth);
    if (config->engine != IO_ENGINE_THREADS) {
        q->engine = IO_ENGINE_URING;
        rc = io_backend_uring(q->transfer_count, config->flags, q->event_fd, &q->backend);
        if (rc == -ENOMEM && q->transfer_count > q->tuning.depth) {
            /* A small RLIMIT_MEMLOCK has room for a ring of one drive's depth. */
            q->transfer_count = q->tuning.depth;
            rc = io_backend_uring(q->transfer_count, config->flags, q->event_fd, &q->backend);
        }
        if (rc == 0)
            return 0;
        if (config->engine == IO_ENGINE_URING)
            return -OFL_EURING; /* with the engine's sentence */
    }
    snprintf(q->note, sizeof q->note, "threads instead of io_uring: %s",
             config->engine == IO_ENGINE_THREADS ? "asked for" : base_error_text());
    q->engine = IO_ENGINE_THREADS;
    if (q->tuning.depth > io_threads_depth_max())
        q->tuning.depth = io_threads_depth_max(); /* behind a busy pool nothing could be overtaken */
    q->transfer_count = q->tuning.depth;
    return io_backend_threads(q->transfer_count, q->event_fd, &q->backend);
}

static int decorate(struct io_queue *q, const struct io_queue_config *config)
{
    struct io_backend *outer;
    int rc;

    if (!config->faults.seed)
        return 0;
    rc = io_backend_fault(&config->faults, q->event_fd, q->backend, &outer);
    if (rc == 0)
        q->backend = outer;
    return rc;
}

static int make_transfers(struct io_queue *q)
{
    q->transfers = calloc(q->transfer_count, sizeof *q->transfers);
    if (!q->transfers)
        return base_fail_errno(-ENOMEM, "open I/O queue: depth %" PRIu32, q->tuning.depth);
    for (uint32_t i = 0; i < q->transfer_count; i++)
        io_transfers_push(&q->unused, &q->transfers[i]);
    q->depth_max = q->transfer_count;
    return 0;
}

/* Completes the opening of q, or closes it. */
static int finish_open(struct io_queue *q, int rc, const struct io_queue_config *config,
                       struct io_queue **out)
{
    if (rc == 0)
        rc = decorate(q, config);
    if (rc == 0)
        rc = make_transfers(q);
    if (rc == 0)
        *out = q;
    else
        io_queue_close(q);
    return rc;
}

int io_queue_open(const struct io_queue_config *config, struct io_queue **out)
{
    struct io_queue *q;
    int rc = create(config, &q);

    *out = NULL;
    return rc < 0 ? rc : finish_open(q, open_engine(q, config), config, out);
}

int io_queue_open_on(const struct io_queue_config *config, struct io_backend *backend, struct io_queue **out)
{
    struct io_queue *q;
    int rc = create(config, &q);

    *out = NULL;
    if (rc < 0) {
        backend->ops->close(backend);
        return rc;
    }
    q->backend = backend;
    q->transfer_count = q->tuning.depth;
    return finish_open(q, 0, config, out);
}

void io_queue_close(struct io_queue *q)
{
    if (!q)
        return;
    if (q->backend)
        q->backend->ops->close(q->backend);
    close(q->event_fd);
    for (struct io_request *r = q->live, *next; r; r = next) {
        next = r->next;
        r->live = false;
        io_shares_close(r);
    }
    for (uint32_t i = 0; q->transfers && i < q->transfer_count; i++)
        free(q->transfers[i].bounce);
    for (unsigned i = 0; i < q->path_count; i++)
        free(q->path[i]);
    free(q->path);
    free(q->transfers);
    free(q);
}

int io_queue_tune(struct io_queue *q, const char *dir, const struct io_tuning *t)
{
    struct io_path *path;
    struct stat st;

    if (stat(dir, &st) < 0)
        return base_fail_errno(-errno, "tune I/O on %s", dir);
    path = io_path_get(q, st.st_dev, dir);
    if (!path)
        return base_fail_errno(-ENOMEM, "tune I/O on %s", dir);
    io_path_tune(q, path, t);
    return 0;
}

int io_queue_register(struct io_queue *q, void *base, uint64_t bytes)
{
    int rc =
        q->backend->ops->register_buffers ? q->backend->ops->register_buffers(q->backend, base, bytes) : 0;

    q->stats.registered_buffers |= rc == 0 && q->backend->ops->register_buffers;
    return rc;
}

int io_queue_attach(struct io_queue *q, struct io_file *f)
{
    for (unsigned i = 0; i < f->count && q->backend->ops->register_file; i++) {
        struct io_member *m = &f->member[i];
        int slot = q->backend->ops->register_file(q->backend, m->fd);

        if (slot < 0)
            return base_fail_errno(slot, "register %s with the ring", m->path);
        m->slot = slot;
        m->slot_queue = q->id;
    }
    return 0;
}

enum io_engine io_queue_engine(const struct io_queue *q)
{
    return q->engine;
}

const char *io_queue_note(const struct io_queue *q)
{
    return q->note;
}

int io_queue_fd(struct io_queue *q)
{
    if (!q->armed) {
        int rc = q->backend->ops->arm ? q->backend->ops->arm(q->backend) : 0;

        /* What has finished until now was not announced; and where the ring can't announce, the
         * owner's regular look at it has to do. */
        q->armed = true;
        if (rc < 0 || q->done_head || q->inflight)
            io_event_signal(q->event_fd);
    }
    return q->event_fd;
}

unsigned io_queue_pending(const struct io_queue *q)
{
    return q->pending;
}

void io_queue_stats(const struct io_queue *q, struct io_stats *out)
{
    *out = q->stats;
}

unsigned io_queue_paths(const struct io_queue *q)
{
    return q->path_count;
}

void io_queue_path_stats(const struct io_queue *q, unsigned index, struct io_path_stats *out)
{
    const struct io_path *path = q->path[index];
    uint64_t now_ns = q->clock();

    *out = path->stats;
    if (!path->first_ns)
        return;
    out->since_ns = now_ns - path->first_ns;
    /* up to the last transfer: what follows is not known to be a gap */
    out->busy_ns = (path->inflight ? now_ns : path->idle_since_ns) - path->first_ns - out->empty_ns;
}
