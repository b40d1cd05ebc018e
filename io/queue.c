/*
 * The request queue: see io.h. Owns classes, depth, deadlines, splitting,
 * resubmission, the verdict on every result, and statistics. How bytes move is
 * the engine's business (engine.h).
 *
 * A request has at most one transfer in flight. Between transfers it waits in its
 * class again, so that a demand read overtakes the rest of a long write-back.
 * Transfers are records of their own: a request that missed its deadline leaves
 * at once, its transfer when the kernel lets go of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/engine.h"
#include "io/file.h"
#include "io/io.h"
#include "liboffload/base/clock.h"

#define DEPTH_DEFAULT       32u
#define DEADLINE_DEFAULT_NS 60000000000u
#define COLLECT_BATCH       64u

struct requests {
    struct io_request *head, *tail;
};

struct io_queue {
    struct io_backend *backend;
    enum io_engine engine;
    int event_fd;
    uint32_t depth, inflight;
    uint64_t deadline_ns;
    struct requests waiting[IO_CLASSES]; /* by age, oldest first */
    struct requests done;
    unsigned pending;
    struct io_transfer *transfers; /* depth of them */
    struct io_transfers unused;
    int flush_code; /* of the last flush */
    struct io_stats stats;
    char note[256];
};

static void push(struct requests *l, struct io_request *r)
{
    r->next = NULL;
    if (l->tail)
        l->tail->next = r;
    else
        l->head = r;
    l->tail = r;
}

static struct io_request *pop(struct requests *l)
{
    struct io_request *r = l->head;

    if (r) {
        l->head = r->next;
        if (!l->head)
            l->tail = NULL;
        r->next = NULL;
    }
    return r;
}

/* Puts back a request that was started before: in front of all that never were. */
static void push_by_age(struct requests *l, struct io_request *r)
{
    struct io_request **at = &l->head;

    while (*at && (*at)->submit_ns < r->submit_ns)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
    if (!r->next)
        l->tail = r;
}

void io_event_signal(int event_fd)
{
    const uint64_t one = 1;

    /* can fail only with EAGAIN, at 2^64 - 2 unread signals: then the fd is readable anyway */
    while (write(event_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void event_clear(int event_fd)
{
    uint64_t count;

    while (read(event_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

/* ---- verdicts ---------------------------------------------------------- */

static void succeed(struct io_queue *q, struct io_request *r)
{
    r->error.code = 0;
    r->error.text[0] = '\0';
    if (r->op == IO_READ) {
        q->stats.read_bytes += r->done_bytes;
        q->stats.read_ops++;
    } else {
        q->stats.write_bytes += r->done_bytes;
        q->stats.write_ops++;
    }
    push(&q->done, r);
}

/* cause NULL: the text of code */
static void fail(struct io_queue *q, struct io_request *r, int code, const char *cause)
{
    bool write = r->op == IO_WRITE;

    base_error_set(&r->error, code, "%s %s: offset %" PRIu64 ", %" PRIu64 " bytes: %s %" PRIu64 ": %s",
                   write ? "write" : "read", r->file ? r->file->path : "(no file)", r->offset, r->bytes,
                   write ? "wrote" : "got", r->done_bytes, cause ? cause : base_strerror(code));
    push(&q->done, r);
}

static void fail_deadline(struct io_queue *q, struct io_request *r, uint64_t now_ns, bool inflight)
{
    char cause[256];
    int used = snprintf(cause, sizeof cause, "%s (%s for %.3f s, allowed %.3f s)",
                        base_strerror(OFL_EDEADLINE), inflight ? "in flight" : "queued",
                        (double)(now_ns - r->submit_ns) / 1e9, (double)q->deadline_ns / 1e9);

    if (q->flush_code < 0 && used > 0 && (size_t)used < sizeof cause)
        snprintf(cause + used, sizeof cause - (size_t)used, "; hand-over to the kernel: %s",
                 base_strerror(q->flush_code));
    fail(q, r, -OFL_EDEADLINE, cause);
}

/* Direct I/O takes whole blocks only: which of the three is not? NULL if all are. */
static const char *misaligned(const struct io_request *r)
{
    uint32_t block = r->file->block;

    return r->offset % block           ? "offset"
           : r->bytes % block          ? "length"
           : (uintptr_t)r->buf % block ? "buffer address"
                                       : NULL;
}

/* What is wrong with r whatever its file: NULL if nothing is. */
static const char *malformed(const struct io_request *r)
{
    if (!r->file)
        return "no file";
    if ((unsigned)r->op > IO_WRITE)
        return "unknown operation";
    if ((unsigned)r->class >= IO_CLASSES)
        return "unknown class";
    if (r->offset > INT64_MAX || r->bytes > INT64_MAX - r->offset)
        return "range ends past any file";
    if (!r->buf && r->bytes)
        return "no buffer";
    return r->need_bytes > r->bytes ? "needs more than it asks for" : NULL;
}

/* What is wrong with r before any I/O: 0, or a code with the cause. */
static int find_mistake(const struct io_request *r, char *cause, size_t size)
{
    const char *text = malformed(r);

    if (text) {
        snprintf(cause, size, "%s", text);
        return -EINVAL;
    }
    if ((text = misaligned(r))) {
        snprintf(cause, size, "%s is not a multiple of %" PRIu32 " bytes, as direct I/O on this file needs",
                 text, r->file->block);
        return -EINVAL;
    }
    if (r->op == IO_WRITE && !r->file->writable) {
        snprintf(cause, size, "file is open for reading only");
        return -EBADF;
    }
    return 0;
}

/* A read that came back short: is it because the file ends there? */
static bool at_end(const struct io_request *r, int64_t result)
{
    uint64_t size;

    if (result == 0)
        return true;
    return io_file_size_now(r->file, &size) == 0 && r->offset + r->done_bytes >= size;
}

static void resubmit(struct io_queue *q, struct io_request *r)
{
    q->stats.resubmits++;
    push_by_age(&q->waiting[r->class], r);
}

/* r's transfer moved result of asked bytes, from byte `from` of r on. */
static void advance(struct io_queue *q, struct io_request *r, uint64_t from, uint32_t asked, int64_t result)
{
    uint64_t need = r->need_bytes ? r->need_bytes : r->bytes;

    /* a transfer that began anew at a block boundary may have ended before its predecessor */
    if (from + (uint64_t)result > r->done_bytes)
        r->done_bytes = from + (uint64_t)result;
    if (r->done_bytes == r->bytes)
        succeed(q, r);
    else if (result == asked)
        push_by_age(&q->waiting[r->class], r); /* the next piece */
    else if (r->op == IO_WRITE && result == 0)
        fail(q, r, -EIO, "the file system takes no more, and does not say why");
    else if (r->op == IO_WRITE || !at_end(r, result))
        resubmit(q, r);
    else if (r->done_bytes >= need)
        succeed(q, r);
    else
        fail(q, r, -ENODATA, "end of file");
}

static void recycle(struct io_queue *q, struct io_transfer *t)
{
    t->request = NULL;
    io_transfers_push(&q->unused, t);
    q->inflight--;
}

/* The engine has returned t. */
static void settle(struct io_queue *q, struct io_transfer *t)
{
    struct io_request *r = t->request;
    int64_t result = t->result;

    recycle(q, t);
    if (!r)
        return; /* given up at its deadline; only the record was left */
    if (result == -EAGAIN || result == -EINTR)
        resubmit(q, r);
    else if (result < 0)
        fail(q, r, (int)result, NULL);
    else if (result > t->asked_bytes)
        fail(q, r, -EIO, "the engine reports more bytes than were asked for");
    else
        advance(q, r, t->offset - r->offset, t->asked_bytes, result);
}

/* ---- moving ------------------------------------------------------------ */

static void start(struct io_queue *q, struct io_request *r)
{
    struct io_transfer *t = io_transfers_pop(&q->unused);
    uint32_t block = r->file->block;
    uint64_t from = r->done_bytes - r->done_bytes % block; /* direct I/O can't continue inside a block */
    uint64_t left = r->bytes - from;
    int rc;

    t->op = r->op;
    t->fd = r->file->fd;
    t->block = block;
    t->buf = (char *)r->buf + from;
    t->offset = r->offset + from;
    t->bytes = t->asked_bytes = (uint32_t)(left < IO_TRANSFER_MAX ? left : IO_TRANSFER_MAX);
    t->result = 0;
    t->request = r;
    if (++q->inflight > q->stats.inflight_max)
        q->stats.inflight_max = q->inflight;
    rc = q->backend->ops->start(q->backend, t);
    if (rc < 0) {
        recycle(q, t);
        fail(q, r, rc, NULL);
    }
}

/* Fills the depth, highest class first. */
static void refill(struct io_queue *q)
{
    for (int c = 0; c < IO_CLASSES; c++)
        while (q->unused.head && q->waiting[c].head)
            start(q, pop(&q->waiting[c]));
    q->flush_code = q->backend->ops->flush(q->backend);
}

static void collect(struct io_queue *q)
{
    struct io_transfer *done[COLLECT_BATCH];
    unsigned n;

    do {
        n = q->backend->ops->collect(q->backend, done, COLLECT_BATCH);
        for (unsigned i = 0; i < n; i++)
            settle(q, done[i]);
    } while (n == COLLECT_BATCH);
}

static void expire(struct io_queue *q)
{
    uint64_t now_ns = base_now_ns();

    for (int c = 0; c < IO_CLASSES; c++)
        while (q->waiting[c].head && now_ns - q->waiting[c].head->submit_ns > q->deadline_ns)
            fail_deadline(q, pop(&q->waiting[c]), now_ns, false);
    for (uint32_t i = 0; q->inflight && i < q->depth; i++) {
        struct io_transfer *t = &q->transfers[i];

        if (t->request && now_ns - t->request->submit_ns > q->deadline_ns) {
            fail_deadline(q, t->request, now_ns, true);
            t->request = NULL;
        }
    }
}

void io_submit(struct io_queue *q, struct io_request *r)
{
    char cause[128];
    int code;

    q->pending++;
    r->done_bytes = 0;
    r->error.code = 0;
    r->error.text[0] = '\0';
    r->submit_ns = base_now_ns();
    code = find_mistake(r, cause, sizeof cause);
    if (code == 0 && r->bytes) {
        push(&q->waiting[r->class], r);
        return;
    }
    if (code < 0)
        fail(q, r, code, cause);
    else
        succeed(q, r);
    io_event_signal(q->event_fd);
}

void io_flush(struct io_queue *q)
{
    collect(q); /* what has finished has not missed its deadline */
    expire(q);
    refill(q);
    if (q->done.head)
        io_event_signal(q->event_fd);
}

unsigned io_reap(struct io_queue *q, struct io_request **done, unsigned max)
{
    unsigned n = 0;

    event_clear(q->event_fd); /* before collecting: what finishes meanwhile signals anew */
    collect(q);
    expire(q);
    refill(q);
    while (n < max && q->done.head)
        done[n++] = pop(&q->done);
    q->pending -= n;
    if (q->done.head)
        io_event_signal(q->event_fd);
    return n;
}

/* ---- opening ----------------------------------------------------------- */

static int check_config(const struct io_queue_config *c)
{
    if ((unsigned)c->engine > IO_ENGINE_THREADS)
        return base_fail(-EINVAL, "open I/O queue: unknown engine %d", (int)c->engine);
    if (c->depth > IO_DEPTH_MAX)
        return base_fail(-EINVAL, "open I/O queue: depth %" PRIu32 " is above %u", c->depth, IO_DEPTH_MAX);
    return 0;
}

/* A queue without a backend. depth as wanted: the engine may lower it. */
static int create(const struct io_queue_config *config, struct io_queue **out)
{
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
    q->depth = config->depth ? config->depth : DEPTH_DEFAULT;
    q->deadline_ns = config->deadline_ns ? config->deadline_ns : DEADLINE_DEFAULT_NS;
    *out = q;
    return 0;
}

static int open_engine(struct io_queue *q, enum io_engine wanted)
{
    if (wanted != IO_ENGINE_THREADS) {
        q->engine = IO_ENGINE_URING;
        if (io_backend_uring(q->depth, q->event_fd, &q->backend) == 0)
            return 0;
        if (wanted == IO_ENGINE_URING)
            return -OFL_EURING; /* with the engine's sentence */
    }
    snprintf(q->note, sizeof q->note, "threads instead of io_uring: %s",
             wanted == IO_ENGINE_THREADS ? "asked for" : base_error_text());
    q->engine = IO_ENGINE_THREADS;
    if (q->depth > io_threads_depth_max())
        q->depth = io_threads_depth_max(); /* a transfer behind a busy pool could not be overtaken */
    return io_backend_threads(q->depth, q->event_fd, &q->backend);
}

static int decorate(struct io_queue *q, const struct io_queue_config *config)
{
    struct io_backend *outer;
    int rc;

    if (!config->fault_seed)
        return 0;
    rc = io_backend_fault(config, q->event_fd, q->backend, &outer);
    if (rc == 0)
        q->backend = outer;
    return rc;
}

static int make_transfers(struct io_queue *q)
{
    q->transfers = calloc(q->depth, sizeof *q->transfers);
    if (!q->transfers)
        return base_fail_errno(-ENOMEM, "open I/O queue: depth %" PRIu32, q->depth);
    for (uint32_t i = 0; i < q->depth; i++)
        io_transfers_push(&q->unused, &q->transfers[i]);
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
    return rc < 0 ? rc : finish_open(q, open_engine(q, config->engine), config, out);
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
    return finish_open(q, 0, config, out);
}

void io_queue_close(struct io_queue *q)
{
    if (!q)
        return;
    if (q->backend)
        q->backend->ops->close(q->backend);
    close(q->event_fd);
    free(q->transfers);
    free(q);
}

enum io_engine io_queue_engine(const struct io_queue *q)
{
    return q->engine;
}

const char *io_queue_note(const struct io_queue *q)
{
    return q->note;
}

int io_queue_fd(const struct io_queue *q)
{
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
