/*
 * The request queue at work: see io.h. Owns classes, windows, deadlines, cancellation,
 * resubmission and the verdict on requests. How bytes move is the engine's business
 * (engine.h), how a request is cut is piece.c's, what a queue is made of queue_open.c's.
 *
 * Every drive has its own waiting lists, depth and window, so a slow one holds up
 * nothing but its own share. Of prefetch and write-back only a window of bytes is in
 * flight, and none of them starts while demand waits: so demand finds little before it.
 * Transfers are records of their own: a request that missed its deadline leaves at once,
 * its transfers when the kernel lets go of them.
 */
#include "io/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "include/offload.h"
#include "base/clock.h"

#define COLLECT_BATCH 64u
/* Transfers go to the kernel in bundles of this: the drive starts on the first while the next are
 * prepared. All of them at once leave it idle for as long as that takes: 8 % of the 4 KiB reads at
 * depth 64, measured on a virtio disk. */
#define BUNDLE 8u

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

static void announce(const struct io_queue *q)
{
    if (q->done_head && q->armed)
        io_event_signal(q->event_fd);
}

/* ---- lists -------------------------------------------------------------- */

static void wait_push(struct io_share *s)
{
    struct io_shares *l = &s->path->waiting[s->request->class];

    s->waiting = true;
    s->next = NULL;
    s->prev = l->tail;
    if (l->tail)
        l->tail->next = s;
    else
        l->head = s;
    l->tail = s;
}

static void wait_remove(struct io_share *s)
{
    struct io_shares *l = &s->path->waiting[s->request->class];

    s->waiting = false;
    *(s->prev ? &s->prev->next : &l->head) = s->next;
    *(s->next ? &s->next->prev : &l->tail) = s->prev;
}

static void live_push(struct io_queue *q, struct io_request *r)
{
    r->live = true;
    r->prev = NULL;
    r->next = q->live;
    if (r->next)
        r->next->prev = r;
    q->live = r;
}

static void done_push(struct io_queue *q, struct io_request *r)
{
    if (r->live) {
        *(r->prev ? &r->prev->next : &q->live) = r->next;
        if (r->next)
            r->next->prev = r->prev;
        r->live = false;
    }
    r->next = NULL;
    if (q->done_tail)
        q->done_tail->next = r;
    else
        q->done_head = r;
    q->done_tail = r;
    r->elapsed_ns = q->now_ns - r->submit_ns;
    io_shares_close(r);
}

static struct io_request *done_pop(struct io_queue *q)
{
    struct io_request *r = q->done_head;

    q->done_head = r->next;
    if (!q->done_head)
        q->done_tail = NULL;
    r->next = NULL;
    return r;
}

/* ---- verdicts on requests ------------------------------------------------ */

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
    done_push(q, r);
}

/* cause NULL: the text of code */
static void fail(struct io_queue *q, struct io_request *r, int code, const char *cause)
{
    bool write = r->op == IO_WRITE;

    base_error_set(&r->error, code, "%s %s: offset %" PRIu64 ", %" PRIu64 " bytes: %s %" PRIu64 ": %s",
                   write ? "write" : "read",
                   r->culprit ? r->culprit
                   : r->file  ? r->file->path
                              : "(no file)",
                   r->offset, r->bytes, write ? "wrote" : "got", r->done_bytes,
                   cause ? cause : base_strerror(code));
    done_push(q, r);
}

/* Nothing of r is open any more. */
static void conclude(struct io_queue *q, struct io_request *r)
{
    uint64_t need = r->op == IO_READ && r->need_bytes ? r->need_bytes : r->bytes;

    if (r->error.code < 0) {
        fail(q, r, r->error.code, r->cause);
    } else if (r->eof_at < r->bytes) {
        r->done_bytes = r->eof_at;
        if (r->eof_at >= need)
            succeed(q, r);
        else
            fail(q, r, -ENODATA, "end of file");
    } else if (r->done_bytes < r->bytes) {
        fail(q, r, -ECANCELED, NULL);
    } else {
        succeed(q, r);
    }
}

static void close_one(struct io_queue *q, struct io_request *r)
{
    if (--r->open == 0)
        conclude(q, r);
}

/* No more pieces of r are started. The caller holds one `open` of its own. */
static void stop(struct io_queue *q, struct io_request *r)
{
    for (unsigned i = 0; i < r->share_count; i++) {
        if (!r->shares[i].waiting)
            continue;
        wait_remove(&r->shares[i]);
        close_one(q, r);
    }
}

static void note_error(struct io_request *r, int code, const char *cause, const struct io_member *m)
{
    if (r->error.code < 0)
        return; /* the first one counts */
    r->error.code = code;
    r->cause = cause;
    r->culprit = m->path;
}

/* ---- transfers ----------------------------------------------------------- */

static void release(struct io_queue *q, struct io_transfer *t)
{
    free(t->bounce);
    t->bounce = NULL;
    t->path->background_bytes -= t->charged;
    t->charged = 0;
    io_path_ended(t->path, q->now_ns);
    t->request = NULL;
    io_transfers_push(&q->unused, t);
    q->inflight--;
}

/* The end of one transfer of r, which it still holds open. */
static void end_piece(struct io_queue *q, struct io_transfer *t, enum io_verdict verdict, int code,
                      const char *cause)
{
    struct io_request *r = t->request;

    if (verdict == IO_PIECE_FAILED) {
        t->path->stats.errors += code != -ECANCELED; /* which is no fault of the drive */
        note_error(r, code, cause, t->member);
    }
    /* A part that ends says nothing of the others: what they hold before that is still to be read. */
    if (verdict == IO_PIECE_FAILED || (verdict == IO_PIECE_END && r->share_count == 1))
        stop(q, r);
    release(q, t);
    close_one(q, r);
}

/* Hands t to the engine, for the first time or once more. */
static void hand_over(struct io_queue *q, struct io_transfer *t)
{
    int rc = t->request->cancelled ? -ECANCELED : io_piece_prepare(q, t);

    t->start_ns = q->now_ns;
    if (rc == 0)
        rc = q->backend->ops->start(q->backend, t);
    t->handed_over = rc == 0;
    if (rc < 0)
        end_piece(q, t, IO_PIECE_FAILED, rc, NULL);
}

static void start(struct io_queue *q, struct io_share *s)
{
    struct io_transfer *t = io_transfers_pop(&q->unused);
    struct io_request *r = s->request;

    io_piece_cut(s, t);
    r->open++;
    if (s->at >= r->bytes) {
        wait_remove(s);
        r->open--;
    }
    t->charged = r->class == IO_DEMAND ? 0 : t->want;
    t->path->background_bytes += t->charged;
    io_path_started(t->path, q->now_ns);
    if (++q->inflight > q->stats.inflight_max)
        q->stats.inflight_max = q->inflight;
    hand_over(q, t);
}

/* The engine has returned t. */
static void settle(struct io_queue *q, struct io_transfer *t)
{
    enum io_verdict verdict;
    const char *cause = NULL;
    uint64_t before;
    int code = 0;

    t->handed_over = false;
    if (!t->request) { /* given up at its deadline; only the record was left */
        release(q, t);
        return;
    }
    before = t->request->done_bytes;
    verdict = io_piece_judge(t, &code, &cause);
    if (t->request->done_bytes > before)
        io_path_count(t->path, t, t->request->done_bytes - before, q->now_ns);
    if (verdict == IO_PIECE_AGAIN) {
        q->stats.resubmits++;
        io_transfers_push(&q->again, t);
    } else {
        end_piece(q, t, verdict, code, cause);
    }
}

/* ---- moving -------------------------------------------------------------- */

/* Whether the next piece of s, which is a block at least, fits the window. */
static bool fits(const struct io_path *path, const struct io_share *s)
{
    uint64_t piece = path->tuning.piece_bytes;

    if (piece < s->member->block)
        piece = s->member->block;
    return path->background_bytes == 0 || path->background_bytes + piece <= path->tuning.window_bytes;
}

/* What may start next on a path; NULL: nothing. */
static struct io_share *next_share(const struct io_path *path)
{
    for (int c = 0; c < IO_CLASSES; c++) {
        struct io_share *s = path->waiting[c].head;

        if (s)
            return c == IO_DEMAND || fits(path, s) ? s : NULL;
    }
    return NULL;
}

/* Each drive is sure of half of its part of the engine's depth, so that one that is slow, or hangs,
 * can't end up with all of it. */
static bool may_take(const struct io_queue *q, const struct io_path *path)
{
    uint32_t sure = q->transfer_count / (2 * q->path_count), owed = 0;

    if (path->inflight >= path->tuning.depth || !q->unused.head)
        return false;
    for (unsigned i = 0; i < q->path_count; i++)
        if (q->path[i] != path && q->path[i]->inflight < sure)
            owed += sure - q->path[i]->inflight;
    return path->inflight < sure || q->transfer_count - q->inflight > owed;
}

static void fill_path(struct io_queue *q, struct io_path *path)
{
    struct io_share *s;

    while (may_take(q, path) && (s = next_share(path))) {
        start(q, s);
        if (++q->started % BUNDLE == 0)
            q->flush_code = q->backend->ops->flush(q->backend);
    }
}

static void refill(struct io_queue *q)
{
    struct io_transfer *again = q->again.head;

    q->again = (struct io_transfers){0};
    while (again) {
        struct io_transfer *t = again;

        again = t->next;
        if (t->request)
            hand_over(q, t);
        else
            release(q, t);
    }
    /* In turns, so that none starves where all share the engine's depth. */
    for (unsigned i = 0; i < q->path_count; i++)
        fill_path(q, q->path[(q->turn + i) % q->path_count]);
    q->turn++;
}

static void collect(struct io_queue *q)
{
    struct io_transfer *done[COLLECT_BATCH];
    unsigned n;

    q->now_ns = base_now_ns();
    do {
        n = q->backend->ops->collect(q->backend, done, COLLECT_BATCH);
        for (unsigned i = 0; i < n; i++)
            settle(q, done[i]);
    } while (n == COLLECT_BATCH);
}

/* r leaves now; its transfers are orphans until the engine returns them. */
static void give_up(struct io_queue *q, struct io_request *r)
{
    bool inflight = false;
    char cause[256];
    int used;

    for (unsigned i = 0; i < r->share_count; i++)
        if (r->shares[i].waiting)
            wait_remove(&r->shares[i]);
    for (uint32_t i = 0; i < q->transfer_count; i++)
        if (q->transfers[i].request == r) {
            inflight |= q->transfers[i].handed_over;
            q->transfers[i].request = NULL;
        }
    used = snprintf(cause, sizeof cause, "%s (%s for %.3f s, allowed %.3f s)", base_strerror(OFL_EDEADLINE),
                    inflight ? "in flight" : "queued", (double)(q->now_ns - r->submit_ns) / 1e9,
                    (double)(r->expire_ns - r->submit_ns) / 1e9);
    if (q->flush_code < 0 && used > 0 && (size_t)used < sizeof cause)
        snprintf(cause + used, sizeof cause - (size_t)used, "; hand-over to the kernel: %s",
                 base_strerror(q->flush_code));
    fail(q, r, -OFL_EDEADLINE, cause);
}

static void expire(struct io_queue *q)
{
    struct io_request *r = q->live, *next;

    if (q->now_ns <= q->expire_ns)
        return;
    q->expire_ns = UINT64_MAX;
    for (; r; r = next) {
        next = r->next;
        if (q->now_ns > r->expire_ns)
            give_up(q, r);
        else if (r->expire_ns < q->expire_ns)
            q->expire_ns = r->expire_ns;
    }
}

void io_submit(struct io_queue *q, struct io_request *r)
{
    uint64_t deadline_ns = r->deadline_ns ? r->deadline_ns : q->deadline_ns;
    const char *cause = NULL;
    int code;

    q->pending++;
    q->now_ns = r->submit_ns = base_now_ns();
    r->expire_ns = deadline_ns < UINT64_MAX - r->submit_ns ? r->submit_ns + deadline_ns : UINT64_MAX;
    r->done_bytes = 0;
    r->eof_at = UINT64_MAX;
    r->culprit = r->cause = NULL;
    r->cancelled = r->live = false;
    r->error.code = 0;
    r->error.text[0] = '\0';
    r->shares = &r->share;
    r->share_count = 0;
    code = io_request_check(r, &cause);
    if (code == 0 && r->bytes)
        code = io_shares_open(q, r);
    if (code < 0 || !r->bytes) {
        if (code < 0)
            fail(q, r, code, cause);
        else
            succeed(q, r);
        announce(q);
        return;
    }
    live_push(q, r);
    if (r->expire_ns < q->expire_ns)
        q->expire_ns = r->expire_ns;
    for (unsigned i = 0; i < r->share_count; i++)
        if (r->shares[i].at < r->bytes) {
            r->open++;
            wait_push(&r->shares[i]);
        }
}

/* One round: what has finished, what is late, what may start. */
static void turn(struct io_queue *q)
{
    collect(q); /* first: what has finished has not missed its deadline */
    expire(q);
    refill(q);
}

void io_flush(struct io_queue *q)
{
    turn(q);
    q->flush_code = q->backend->ops->flush(q->backend);
    announce(q);
}

void io_cancel(struct io_queue *q, struct io_request *r)
{
    if (!r->live || r->cancelled)
        return;
    r->cancelled = true;
    q->now_ns = base_now_ns();
    r->open++;
    stop(q, r);
    if (q->backend->ops->cancel)
        for (uint32_t i = 0; i < q->transfer_count; i++)
            if (q->transfers[i].request == r && q->transfers[i].handed_over)
                q->backend->ops->cancel(q->backend, &q->transfers[i]);
    close_one(q, r);
    announce(q);
}

static unsigned take_done(struct io_queue *q, struct io_request **done, unsigned max)
{
    unsigned n = 0;

    while (n < max && q->done_head)
        done[n++] = done_pop(q);
    q->pending -= n;
    return n;
}

unsigned io_reap(struct io_queue *q, struct io_request **done, unsigned max)
{
    unsigned n;

    if (q->armed)
        event_clear(q->event_fd); /* before collecting: what finishes meanwhile signals anew */
    turn(q);
    q->flush_code = q->backend->ops->flush(q->backend);
    n = take_done(q, done, max);
    announce(q);
    return n;
}

unsigned io_wait(struct io_queue *q, struct io_request **done, unsigned max, uint64_t timeout_ns)
{
    uint64_t end_ns;
    unsigned n;

    turn(q);
    end_ns = timeout_ns < UINT64_MAX - q->now_ns ? q->now_ns + timeout_ns : UINT64_MAX;
    while (!q->done_head && q->pending && q->now_ns < end_ns) {
        uint64_t until_ns = q->expire_ns < end_ns ? q->expire_ns : end_ns;
        uint64_t left_ns = until_ns > q->now_ns ? until_ns - q->now_ns + 1000 : 1000;

        if (q->backend->ops->wait) {
            q->flush_code = q->backend->ops->wait(q->backend, left_ns);
        } else {
            struct pollfd p = {.fd = q->event_fd, .events = POLLIN};
            const struct timespec t = {(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};

            q->flush_code = q->backend->ops->flush(q->backend);
            if (ppoll(&p, 1, &t, NULL) == 1)
                event_clear(q->event_fd);
        }
        turn(q);
    }
    q->flush_code = q->backend->ops->flush(q->backend);
    n = take_done(q, done, max);
    announce(q);
    return n;
}
