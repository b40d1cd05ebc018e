/*
 * Requests of a queue: the lists that they are in, and what they come back with. See queue.h.
 *
 * A request is open as long as pieces of it are to be started or transfers are with the engine. It
 * comes back when nothing is open: not before, whatever has been decided about it.
 */
#include "io/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "include/offload.h"

void io_queue_announce(const struct io_queue *q)
{
    if (q->armed && (q->done_head || q->late_news))
        io_event_signal(q->event_fd);
}

/* ---- lists -------------------------------------------------------------- */

void io_share_wait(struct io_share *s)
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

void io_share_leave(struct io_share *s)
{
    struct io_shares *l = &s->path->waiting[s->request->class];

    s->waiting = false;
    *(s->prev ? &s->prev->next : &l->head) = s->next;
    *(s->next ? &s->next->prev : &l->tail) = s->prev;
}

void io_request_live(struct io_queue *q, struct io_request *r)
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
    if (r->unnoticed) { /* its return says it all */
        r->unnoticed = false;
        q->unnoticed--;
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

unsigned io_requests_take(struct io_queue *q, struct io_request **done, unsigned max)
{
    unsigned n = 0;

    while (n < max && q->done_head)
        done[n++] = done_pop(q);
    q->pending -= n;
    return n;
}

/* ---- verdicts ------------------------------------------------------------ */

void io_request_succeed(struct io_queue *q, struct io_request *r)
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

void io_request_word(struct io_request *r, int code, const char *cause)
{
    bool write = r->op == IO_WRITE;

    base_error_set(&r->error, code, "%s %s: offset %" PRIu64 ", %" PRIu64 " bytes: %s %" PRIu64 ": %s",
                   write ? "write" : "read",
                   r->culprit ? r->culprit
                   : r->file  ? r->file->path
                              : "(no file)",
                   r->offset, r->bytes, write ? "wrote" : "got", r->done_bytes,
                   cause ? cause : base_strerror(code));
}

void io_request_fail(struct io_queue *q, struct io_request *r, int code, const char *cause)
{
    io_request_word(r, code, cause);
    done_push(q, r);
}

/* Nothing of r is open any more. */
static void conclude(struct io_queue *q, struct io_request *r)
{
    uint64_t need = r->op == IO_READ && r->need_bytes ? r->need_bytes : r->bytes;

    if (r->late) {
        done_push(q, r); /* with the sentence of its deadline, whatever has come since */
    } else if (r->error.code < 0) {
        io_request_fail(q, r, r->error.code, r->cause);
    } else if (r->eof_at < r->bytes) {
        r->done_bytes = r->eof_at;
        if (r->eof_at >= need)
            io_request_succeed(q, r);
        else
            io_request_fail(q, r, -ENODATA, "end of file");
    } else if (r->done_bytes < r->bytes) {
        io_request_fail(q, r, -ECANCELED, NULL);
    } else {
        io_request_succeed(q, r);
    }
}

/* Whole blocks: that is what reaches the drive. */
static uint64_t written_bytes(const struct io_request *r)
{
    const uint64_t block = io_file_block(r->file) > 1 ? io_file_block(r->file) : 4096;
    const uint64_t from = r->offset / block * block, end = (r->offset + r->bytes + block - 1) / block * block;

    return end - from;
}

int io_request_charge(struct io_queue *q, const struct io_request *r, char *cause, size_t cause_bytes)
{
    uint64_t bytes;

    if (!q->written || r->op != IO_WRITE)
        return 0;
    bytes = written_bytes(r);
    if (base_limit_take(q->written, bytes))
        return 0;
    snprintf(cause, cause_bytes, BASE_LIMIT_WRITTEN, (unsigned long long)atomic_load(&q->written->taken),
             (unsigned long long)bytes, (unsigned long long)q->written->most);
    return -OFL_EWRITTEN;
}

void io_request_close(struct io_queue *q, struct io_request *r)
{
    if (--r->open == 0)
        conclude(q, r);
}

void io_request_stop(struct io_queue *q, struct io_request *r)
{
    for (unsigned i = 0; i < r->share_count; i++) {
        if (!r->shares[i].waiting)
            continue;
        io_share_leave(&r->shares[i]);
        io_request_close(q, r);
    }
}

void io_request_note(struct io_request *r, int code, const char *cause, const struct io_member *m)
{
    if (r->error.code < 0)
        return; /* the first one counts */
    r->error.code = code;
    r->cause = cause;
    r->culprit = m->path;
}

void io_request_call_off(struct io_queue *q, struct io_request *r)
{
    r->cancelled = true;
    io_request_stop(q, r);
    if (!q->backend->ops->cancel)
        return;
    for (uint32_t i = 0; i < q->transfer_count; i++)
        if (q->transfers[i].request == r && q->transfers[i].handed_over)
            q->backend->ops->cancel(q->backend, &q->transfers[i]);
}
