/*
 * The fault decorator: an engine in front of another that cuts transfers short,
 * fails them, asks for a retry or withholds their completion, as often as the
 * queue's configuration says, from a seed. For tests.
 */
#include "io/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum fault { FAULT_NONE, FAULT_SHORT, FAULT_SHORT_UNALIGNED, FAULT_LATE };

struct faulty {
    struct io_backend base;
    struct io_backend *inner;
    int event_fd;
    uint64_t random;
    uint32_t per_short, per_error, per_again, per_late;
    struct io_transfers done; /* failed without asking inner */
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

static int fault_start(struct io_backend *b, struct io_transfer *t)
{
    struct faulty *f = (struct faulty *)b;

    t->fault = FAULT_NONE;
    t->fault_bytes = t->bytes;
    t->result = strikes(f, f->per_error)   ? -EIO
                : strikes(f, f->per_again) ? (draw(f) % 2 ? -EAGAIN : -EINTR)
                                           : 0;
    if (t->result < 0) {
        io_transfers_push(&f->done, t);
        io_event_signal(f->event_fd);
        return 0;
    }
    if (strikes(f, f->per_late))
        t->fault = FAULT_LATE;
    else if (strikes(f, f->per_short))
        cut(f, t);
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
    if (t->fault == FAULT_SHORT_UNALIGNED && t->result > 0) {
        uint64_t most = (uint64_t)t->result < t->block ? (uint64_t)t->result : t->block;
        uint32_t less = (uint32_t)(draw(f) % most);

        t->result -= less;
        /* what was not reported must not be there: else nobody notices if it isn't fetched again */
        if (t->op == IO_READ)
            memset((char *)t->buf + t->result, 0xa5, less);
    }
}

static unsigned fault_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct faulty *f = (struct faulty *)b;
    unsigned n = 0, got;

    while (n < max && (done[n] = io_transfers_pop(&f->done)))
        n++;
    /* until inner has no more: the queue takes a short answer for the end */
    while (n < max && (got = f->inner->ops->collect(f->inner, done + n, max - n)) > 0) {
        struct io_transfer **batch = done + n;

        for (unsigned i = 0; i < got; i++) {
            /* withheld: the queue, which owns it, frees it when it closes */
            if (batch[i]->fault == FAULT_LATE)
                continue;
            reveal(f, batch[i]);
            done[n++] = batch[i];
        }
    }
    return n;
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
};

int io_backend_fault(const struct io_queue_config *config, int event_fd, struct io_backend *inner,
                     struct io_backend **out)
{
    struct faulty *f = calloc(1, sizeof *f);

    if (!f)
        return base_fail_errno(-ENOMEM, "open I/O fault decorator");
    f->base.ops = &fault_ops;
    f->inner = inner;
    f->event_fd = event_fd;
    f->random = config->fault_seed;
    f->per_short = config->fault_short;
    f->per_error = config->fault_error;
    f->per_again = config->fault_again;
    f->per_late = config->fault_late;
    *out = &f->base;
    return 0;
}
