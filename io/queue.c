/*
 * The request queue at work: see io.h. Owns classes, windows, cancellation and
 * resubmission. How bytes move is the engine's business (engine.h), how a request is cut
 * is piece.c's, what it comes back with queue_request.c's, when it is late
 * queue_deadline.c's, what a queue is made of queue_open.c's.
 *
 * Every drive has its own waiting lists, depth and window, so a slow one holds up
 * nothing but its own share. Of prefetch and write-back only a window of bytes is in
 * flight, and none of them starts while demand waits: so demand finds little before it.
 */
#include "io/queue.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define COLLECT_BATCH 64u
/* Transfers go to the kernel in bundles of this: the drive starts on the first while the next are
 * prepared. All of them at once leave it idle for as long as that takes: 8 % of the 4 KiB reads at
 * depth 64, measured on a virtio disk. */
#define BUNDLE 8u
/* Who waits looks at the clock so often, and may be so late: what is beyond that the process was kept
 * from running. */
#define LOOK_NS 100000000u
/* After which the kernel is offered again what it did not take. */
#define RETRY_NS 1000000

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
        io_request_note(r, code, cause, t->member);
    }
    /* A part that ends says nothing of the others: what they hold before that is still to be read. */
    if (verdict == IO_PIECE_FAILED || (verdict == IO_PIECE_END && r->share_count == 1))
        io_request_stop(q, r);
    release(q, t);
    io_request_close(q, r);
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
        io_share_leave(s);
        r->open--;
    }
    t->charged = r->class == IO_DEMAND ? 0 : t->want;
    t->path->background_bytes += t->charged;
    io_path_started(t->path, q->now_ns);
    if (++q->inflight > q->stats.inflight_max)
        q->stats.inflight_max = q->inflight;
    hand_over(q, t);
}

static void tell(struct io_queue *q, const struct io_transfer *t, uint64_t bytes)
{
    q->span(q->span_arg, &(struct io_span){.request = t->request,
                                           .drive = t->path->stats.name,
                                           .start_ns = t->start_ns,
                                           .end_ns = q->now_ns,
                                           .bytes = bytes});
}

/* The engine has returned t. */
static void settle(struct io_queue *q, struct io_transfer *t)
{
    enum io_verdict verdict;
    const char *cause = NULL;
    uint64_t before;
    int code = 0;

    t->handed_over = false;
    before = t->request->done_bytes;
    verdict = io_piece_judge(t, &code, &cause);
    if (t->request->done_bytes > before) {
        io_path_count(t->path, t, t->request->done_bytes - before, q->now_ns);
        if (q->span)
            tell(q, t, t->request->done_bytes - before);
    }
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

bool io_queue_startable(const struct io_queue *q)
{
    for (unsigned i = 0; i < q->path_count; i++)
        if (may_take(q, q->path[i]) && next_share(q->path[i]))
            return true;
    return q->again.head;
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
        hand_over(q, t);
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

    do {
        n = q->backend->ops->collect(q->backend, done, COLLECT_BATCH);
        for (unsigned i = 0; i < n; i++)
            settle(q, done[i]);
    } while (n == COLLECT_BATCH);
}

void io_queue_trace(struct io_queue *q, io_span_fn *fn, void *arg)
{
    q->span = fn;
    q->span_arg = arg;
}

void io_submit(struct io_queue *q, struct io_request *r)
{
    const char *cause = NULL;
    char over[200];
    int code;

    q->pending++;
    io_queue_look(q, IO_STRIDE_NS);
    r->submit_ns = q->now_ns;
    r->done_bytes = 0;
    r->eof_at = UINT64_MAX;
    r->culprit = r->cause = NULL;
    r->cancelled = r->live = r->late = r->unnoticed = false;
    r->error.code = 0;
    r->error.text[0] = '\0';
    r->shares = &r->share;
    r->share_count = 0;
    code = io_request_check(r, &cause);
    if (code == 0 && r->bytes)
        code = io_shares_open(q, r);
    if (code == 0 && r->bytes && (code = io_request_charge(q, r, over, sizeof over)) < 0)
        cause = over;
    if (code < 0 || !r->bytes) {
        if (code < 0)
            io_request_fail(q, r, code, cause);
        else
            io_request_succeed(q, r);
        io_queue_announce(q);
        return;
    }
    io_request_live(q, r);
    io_queue_allow(q, r);
    for (unsigned i = 0; i < r->share_count; i++)
        if (r->shares[i].at < r->bytes) {
            r->open++;
            io_share_wait(&r->shares[i]);
        }
}

/* One round: what has finished, what is late, what may start. stride_ns: see io_queue_look. */
static void turn(struct io_queue *q, uint64_t stride_ns)
{
    io_queue_look(q, stride_ns);
    collect(q); /* first: what has finished has not missed its deadline */
    if (io_queue_expire(q))
        collect(q); /* what the engine could call back at once */
    refill(q);
}

void io_flush(struct io_queue *q)
{
    turn(q, IO_STRIDE_NS);
    q->flush_code = q->backend->ops->flush(q->backend);
    io_queue_announce(q);
}

void io_cancel(struct io_queue *q, struct io_request *r)
{
    if (!r->live || r->cancelled)
        return;
    io_queue_look(q, IO_STRIDE_NS);
    r->open++; /* so that r is not over before this is */
    io_request_call_off(q, r);
    io_request_close(q, r);
    io_queue_announce(q);
}

unsigned io_reap(struct io_queue *q, struct io_request **done, unsigned max)
{
    unsigned n;

    if (q->armed)
        event_clear(q->event_fd); /* before collecting: what finishes meanwhile signals anew */
    q->late_news = false;         /* was announced: an owner that does not ask is not to be kept awake */
    turn(q, IO_STRIDE_NS);
    q->flush_code = q->backend->ops->flush(q->backend);
    n = io_requests_take(q, done, max);
    io_queue_announce(q);
    return n;
}

unsigned io_wait(struct io_queue *q, struct io_request **done, unsigned max, uint64_t timeout_ns)
{
    uint64_t end_ns;
    unsigned n;

    turn(q, IO_STRIDE_NS);
    end_ns = timeout_ns < UINT64_MAX - q->now_ns ? q->now_ns + timeout_ns : UINT64_MAX;
    while (!q->done_head && !q->late_news && q->pending && q->now_ns < end_ns) {
        uint64_t left_ns = LOOK_NS;

        if (end_ns - q->now_ns < left_ns)
            left_ns = end_ns - q->now_ns;
        if (io_queue_left_ns(q) < left_ns)
            left_ns = io_queue_left_ns(q);
        left_ns += 1000;

        if (q->backend->ops->wait) {
            q->flush_code = q->backend->ops->wait(q->backend, left_ns);
            if (q->flush_code < 0) /* nor did it wait */
                nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
        } else {
            struct pollfd p = {.fd = q->event_fd, .events = POLLIN};
            const struct timespec t = {(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};

            q->flush_code = q->backend->ops->flush(q->backend);
            if (ppoll(&p, 1, &t, NULL) == 1)
                event_clear(q->event_fd);
        }
        turn(q, left_ns + LOOK_NS);
    }
    q->flush_code = q->backend->ops->flush(q->backend);
    n = io_requests_take(q, done, max);
    io_queue_announce(q);
    q->late_news = false;
    return n;
}
