/*
 * The fault decorator: an engine in front of another that cuts transfers short, fails
 * them, asks for a retry, holds completions back so that others overtake them, has bytes
 * move long after they should have, whatever is done to stop them, or changes what was
 * read, as often as it is told to, from a seed. For tests.
 */
#include "io/engine.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define ROUNDS_MAX 8u /* collections that a delayed completion misses at most */

enum fault { FAULT_NONE, FAULT_SHORT, FAULT_SHORT_UNALIGNED, FAULT_CORRUPT };

struct faulty {
    struct io_backend base;
    struct io_backend_ops ops;
    struct io_backend *inner;
    int event_fd;
    uint64_t random;
    struct io_faults faults;
    struct io_transfers done; /* failed without asking inner */
    struct io_transfers held; /* finished, to be returned in some rounds */
    struct io_transfers late; /* inner gets them when they are due; nothing calls them back */
};

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014) */
static uint64_t draw(struct faulty *f)
{
    uint64_t z = f->random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool strikes(struct faulty *f, uint32_t per_thousand)
{
    return draw(f) % 1000 < per_thousand;
}

/* Shortens t to whole blocks, at least one. Every other time it will also come back with a count
 * inside a block, as file systems do that finish a direct transfer through the page cache. */
static void cut(struct faulty *f, struct io_transfer *t)
{
    uint32_t blocks = t->bytes / t->block;

    if (blocks >= 2)
        t->bytes = t->block * (uint32_t)(1 + draw(f) % (blocks - 1));
    t->fault = t->block > 1 && draw(f) % 2 ? FAULT_SHORT_UNALIGNED : FAULT_SHORT;
}

/* How t fails without being tried; 0: it does not. */
static int refusal(struct faulty *f, const struct io_transfer *t)
{
    const struct io_faults *c = &f->faults;

    if (t->offset < c->bad_offset + c->bad_bytes && c->bad_offset < t->offset + t->bytes)
        return -EIO;
    if (strikes(f, c->error))
        return -EIO;
    if (strikes(f, c->no_space) && t->op == IO_WRITE)
        return -ENOSPC;
    if (strikes(f, c->again))
        return draw(f) % 2 ? -EAGAIN : -EINTR;
    return 0;
}

static int fault_start(struct io_backend *b, struct io_transfer *t)
{
    struct faulty *f = (struct faulty *)b;

    t->fault = FAULT_NONE;
    t->fault_bytes = t->bytes;
    t->fault_rounds = strikes(f, f->faults.delay) ? 1 + (uint32_t)(draw(f) % ROUNDS_MAX) : 0;
    t->result = refusal(f, t);
    if (t->result < 0) {
        io_transfers_push(&f->done, t);
        io_event_signal(f->event_fd);
        return 0;
    }
    if (strikes(f, f->faults.late)) {
        t->fault_due_ns = f->faults.late_ns ? base_now_ns() + f->faults.late_ns : UINT64_MAX;
        io_transfers_push(&f->late, t);
        return 0;
    }
    if (strikes(f, f->faults.cut_short))
        cut(f, t);
    else if (strikes(f, f->faults.corrupt))
        t->fault = FAULT_CORRUPT;
    return f->inner->ops->start(f->inner, t);
}

static int fault_flush(struct io_backend *b)
{
    struct faulty *f = (struct faulty *)b;

    return f->inner->ops->flush(f->inner);
}

/* Undoes the disguise of a transfer that inner has finished. */
static void reveal(struct faulty *f, struct io_transfer *t)
{
    t->bytes = t->fault_bytes;
    if (t->fault == FAULT_CORRUPT && t->op == IO_READ && t->result > 0)
        ((unsigned char *)t->buf)[draw(f) % (uint64_t)t->result] ^= (unsigned char)(1u << draw(f) % 8);
    if (t->fault == FAULT_SHORT_UNALIGNED && t->result > 0) {
        uint64_t most = (uint64_t)t->result < t->block ? (uint64_t)t->result : t->block;
        uint32_t less = (uint32_t)(draw(f) % most);

        t->result -= less;
        /* what was not reported must not be there: else nobody notices if it isn't fetched again */
        if (t->op == IO_READ)
            memset((char *)t->buf + t->result, 0xa5, less);
    }
}

/* What has missed its rounds. The owner must come back for the rest. */
static unsigned release_held(struct faulty *f, struct io_transfer **done, unsigned max)
{
    struct io_transfer *t = f->held.head;
    unsigned n = 0;

    f->held = (struct io_transfers){0};
    while (t) {
        struct io_transfer *next = t->next;

        if (t->fault_rounds > 0 && --t->fault_rounds > 0)
            io_transfers_push(&f->held, t);
        else if (n < max)
            done[n++] = t;
        else
            io_transfers_push(&f->held, t);
        t = next;
    }
    if (f->held.head)
        io_event_signal(f->event_fd);
    return n;
}

static void start_late(struct faulty *f)
{
    uint64_t now_ns = f->late.head ? base_now_ns() : 0;
    struct io_transfer *t;

    /* all are late by the same time, so the first is due first */
    while (f->late.head && f->late.head->fault_due_ns <= now_ns) {
        t = io_transfers_pop(&f->late);
        t->result = f->inner->ops->start(f->inner, t);
        if (t->result < 0)
            io_transfers_push(&f->done, t);
    }
}

static unsigned fault_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct faulty *f = (struct faulty *)b;
    unsigned n = 0, got;

    start_late(f);
    while (n < max && (done[n] = io_transfers_pop(&f->done)))
        n++;
    n += release_held(f, done + n, max - n);
    /* until inner has no more: the queue takes a short answer for the end */
    while (n < max && (got = f->inner->ops->collect(f->inner, done + n, max - n)) > 0) {
        struct io_transfer **batch = done + n;

        for (unsigned i = 0; i < got; i++) {
            reveal(f, batch[i]);
            if (batch[i]->fault_rounds) {
                io_transfers_push(&f->held, batch[i]);
                io_event_signal(f->event_fd);
                continue;
            }
            done[n++] = batch[i];
        }
    }
    return n;
}

/* As the queue does it for engines that can't wait. */
static int wait_for_event(struct faulty *f, uint64_t timeout_ns)
{
    const struct timespec t = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    struct pollfd p = {.fd = f->event_fd, .events = POLLIN};
    int rc = f->inner->ops->flush(f->inner);
    uint64_t count;

    if (ppoll(&p, 1, &t, NULL) == 1)
        while (read(f->event_fd, &count, sizeof count) < 0 && errno == EINTR)
            ;
    return rc;
}

static int fault_wait(struct io_backend *b, uint64_t timeout_ns)
{
    struct faulty *f = (struct faulty *)b;

    if (f->done.head || f->held.head)
        return f->inner->ops->flush(f->inner);
    if (f->late.head) {
        uint64_t now_ns = base_now_ns(), due_ns = f->late.head->fault_due_ns;
        uint64_t left_ns = due_ns > now_ns ? due_ns - now_ns : 0;

        timeout_ns = left_ns < timeout_ns ? left_ns : timeout_ns;
    }
    return f->inner->ops->wait ? f->inner->ops->wait(f->inner, timeout_ns) : wait_for_event(f, timeout_ns);
}

static int fault_arm(struct io_backend *b)
{
    struct faulty *f = (struct faulty *)b;

    return f->inner->ops->arm ? f->inner->ops->arm(f->inner) : 0;
}

static bool is_in(const struct io_transfers *l, const struct io_transfer *t)
{
    const struct io_transfer *at = l->head;

    while (at && at != t)
        at = at->next;
    return at != NULL;
}

static void fault_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct faulty *f = (struct faulty *)b;

    /* What inner has finished, or never saw, can't be cancelled any more; what is late never. */
    if (f->inner->ops->cancel && !is_in(&f->done, t) && !is_in(&f->held, t) && !is_in(&f->late, t))
        f->inner->ops->cancel(f->inner, t);
}

static int fault_register_buffers(struct io_backend *b, void *base, uint64_t bytes)
{
    struct faulty *f = (struct faulty *)b;

    return f->inner->ops->register_buffers(f->inner, base, bytes);
}

static int fault_register_file(struct io_backend *b, int fd)
{
    struct faulty *f = (struct faulty *)b;

    return f->inner->ops->register_file(f->inner, fd);
}

static void fault_close(struct io_backend *b)
{
    struct faulty *f = (struct faulty *)b;

    f->inner->ops->close(f->inner);
    free(f);
}

static const struct io_backend_ops fault_ops = {
    .start = fault_start,
    .flush = fault_flush,
    .collect = fault_collect,
    .close = fault_close,
    .wait = fault_wait,
    .arm = fault_arm,
    .cancel = fault_cancel,
    .register_buffers = fault_register_buffers,
    .register_file = fault_register_file,
};

int io_backend_fault(const struct io_faults *faults, int event_fd, struct io_backend *inner,
                     struct io_backend **out)
{
    struct faulty *f = calloc(1, sizeof *f);

    if (!f)
        return base_fail_errno(-ENOMEM, "open I/O fault decorator");
    f->ops = fault_ops; /* but for what inner can't do: the queue must see that */
    if (!inner->ops->register_buffers)
        f->ops.register_buffers = NULL;
    if (!inner->ops->register_file)
        f->ops.register_file = NULL;
    f->base.ops = &f->ops;
    f->inner = inner;
    f->event_fd = event_fd;
    f->random = faults->seed;
    f->faults = *faults;
    *out = &f->base;
    return 0;
}
