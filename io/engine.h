/*
 * Engines, inside the io room: how a transfer reaches the kernel and how its
 * result comes back. An engine knows descriptors, buffers and results; classes,
 * windows, deadlines, resubmission and error sentences are the queue's.
 */
#ifndef OFL_IO_ENGINE_H
#define OFL_IO_ENGINE_H

#include <stdint.h>

#include "io/io.h"

#define IO_PIECE_MAX (1u << 30) /* the kernel moves at most 2 GiB less a page per call */
#define IO_DEPTH_MAX 4096u

/* One read or write, of one piece of one request. The queue owns it, and keeps both until the
 * engine has returned it or is closed. */
struct io_transfer {
    /* the queue's, for the engine */
    enum io_op op;
    int fd;
    int slot;       /* of the registered file; -1: fd */
    uint32_t block; /* 1: buffered */
    void *buf;
    uint64_t offset;
    uint32_t bytes;
    /* the engine's, for the queue: bytes moved, or -errno */
    int64_t result;

    struct io_transfer *next; /* whoever holds it */

    /* the queue's: what the transfer is for */
    struct io_request *request; /* NULL: unused */
    struct io_member *member;
    struct io_path *path;
    uint64_t at, want; /* the piece: [at, at + want) of the request */
    uint32_t skip;     /* bytes that are read in front of it */
    void *bounce;      /* aligned memory for a piece that is not */
    uint64_t charged;  /* to the path's window */
    uint64_t start_ns;
    uint32_t asked_bytes; /* bytes, whatever a decorator did to it */
    bool handed_over;     /* the engine has it */

    uint32_t fault, fault_bytes, fault_rounds; /* the fault decorator's */
    uint64_t fault_due_ns;
};

struct io_backend;

/* Called by the owner of the queue only, from one thread at a time. */
struct io_backend_ops {
    /* Takes t; it may wait for flush. Never more than the count that the backend was opened with
     * are unfinished. 0, or -errno: t was not taken, and its request fails. */
    int (*start)(struct io_backend *b, struct io_transfer *t);
    /* Hands what was started to the kernel. 0, or -errno: some are left for the next flush. */
    int (*flush)(struct io_backend *b);
    /* Returns up to max finished transfers, in any order; never blocks. */
    unsigned (*collect)(struct io_backend *b, struct io_transfer **done, unsigned max);
    /* Waits until no transfer touches its buffer any more; results are lost. Frees b. */
    void (*close)(struct io_backend *b);

    /* The rest may be NULL. */

    /* flush, then wait until there is something to collect, or for timeout_ns. NULL: the event
     * descriptor is to be waited for. */
    int (*wait)(struct io_backend *b, uint64_t timeout_ns);
    /* From now on the event descriptor is written to. NULL: it always is. */
    int (*arm)(struct io_backend *b);
    /* Asks for an early end of t, which still is to be collected: at once, with -ECANCELED, if it
     * has not been handed over yet. */
    void (*cancel)(struct io_backend *b, struct io_transfer *t);
    int (*register_buffers)(struct io_backend *b, void *base, uint64_t bytes);
    /* The slot, or -errno. */
    int (*register_file)(struct io_backend *b, int fd);
};

struct io_backend {
    const struct io_backend_ops *ops;
};

/* Backends write to event_fd, the queue's eventfd, when a transfer has finished.
 * 0 or -errno with the sentence set. */
int io_backend_uring(uint32_t count, uint32_t flags, int event_fd, struct io_backend **out);
int io_backend_threads(uint32_t count, int event_fd, struct io_backend **out);
/* Owns inner once it has succeeded. */
int io_backend_fault(const struct io_faults *faults, int event_fd, struct io_backend *inner,
                     struct io_backend **out);

uint32_t io_threads_depth_max(void); /* threads beyond this buy nothing */

/* A queue on a backend that the caller made (tests); the queue owns it, also on failure. */
int io_queue_open_on(const struct io_queue_config *config, struct io_backend *backend, struct io_queue **out);

/* Adds to an eventfd. */
void io_event_signal(int event_fd);

/* Singly linked list of transfers, first in first out. */
struct io_transfers {
    struct io_transfer *head, *tail;
};

static inline void io_transfers_push(struct io_transfers *l, struct io_transfer *t)
{
    t->next = NULL;
    if (l->tail)
        l->tail->next = t;
    else
        l->head = t;
    l->tail = t;
}

static inline struct io_transfer *io_transfers_pop(struct io_transfers *l)
{
    struct io_transfer *t = l->head;

    if (t) {
        l->head = t->next;
        if (!l->head)
            l->tail = NULL;
        t->next = NULL;
    }
    return t;
}

/* Takes t out of l; false if it is not there. */
static inline bool io_transfers_remove(struct io_transfers *l, struct io_transfer *t)
{
    struct io_transfer **at = &l->head, *before = NULL;

    while (*at && *at != t) {
        before = *at;
        at = &(*at)->next;
    }
    if (!*at)
        return false;
    *at = t->next;
    if (l->tail == t)
        l->tail = before;
    t->next = NULL;
    return true;
}

#endif
