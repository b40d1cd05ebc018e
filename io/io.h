/*
 * io: bytes and files. Owns open files, the request queue and its engines.
 * Knows nothing of tensors, tiers or devices.
 *
 * A queue is shared by everybody in a context. Requests are submitted by one
 * thread (the owner), complete in any order, and are collected by the same
 * thread. Nothing here blocks the owner except io_queue_close.
 */
#ifndef OFL_IO_H
#define OFL_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "liboffload/base/error.h"

/* ---- files ------------------------------------------------------------- */

enum {
    IO_FILE_BUFFERED = 1u << 0,       /* do not try direct I/O */
    IO_FILE_REQUIRE_DIRECT = 1u << 1, /* fail (-OFL_EDIRECT) instead of falling back to buffered */
};

struct io_file;

/* Opens an existing file for reading. Direct I/O unless refused by the file system. */
int io_file_open_read(const char *path, unsigned flags, struct io_file **out);

/* Creates a nameless scratch file in directory dir, mode 0600: it is gone when
 * closed, also after kill -9, and two jobs can't meet in it. */
int io_file_open_scratch(const char *dir, unsigned flags, struct io_file **out);

void io_file_close(struct io_file *f); /* NULL accepted */

/* Grows the file so that [0, bytes) is backed by disk space; -ENOSPC if the
 * file system is full, with nothing reserved beyond what was. Never shrinks. */
int io_file_reserve(struct io_file *f, uint64_t bytes);

const char *io_file_path(const struct io_file *f);
uint64_t io_file_bytes(const struct io_file *f);
uint32_t io_file_block(const struct io_file *f); /* alignment of offset, length and buffer; 1 if buffered */
bool io_file_direct(const struct io_file *f);
const char *io_file_note(const struct io_file *f); /* why it is not direct; "" if it is */

/* ---- requests ---------------------------------------------------------- */

enum io_op { IO_READ, IO_WRITE };

/* Served in this order; a class waits while a lower one has requests queued. */
enum io_class { IO_DEMAND, IO_PREFETCH, IO_WRITEBACK, IO_CLASSES };

/* The owner fills the first part and keeps the struct and the buffer alive until
 * the request comes back from io_reap. */
struct io_request {
    enum io_op op;
    enum io_class class;
    struct io_file *file;
    void *buf;
    uint64_t offset;
    uint64_t bytes;      /* any size: split, and resubmitted after short transfers */
    uint64_t need_bytes; /* reads: at least this many up to the end of file is success; 0: all bytes */
    void *cookie;

    /* result: error.code 0, or negative with the sentence naming file, offset, bytes, errno */
    uint64_t done_bytes;
    struct base_error error;

    /* the queue's */
    struct io_request *next;
    uint64_t submit_ns;
};

enum io_engine { IO_ENGINE_AUTO, IO_ENGINE_URING, IO_ENGINE_THREADS };

struct io_queue_config {
    enum io_engine engine; /* AUTO: io_uring, else threads with a note */
    uint32_t depth;        /* transfers in flight at once; 0: 32; threads: at most 16 */
    uint64_t deadline_ns;  /* a request older than this fails with -OFL_EDEADLINE; 0: 60 s */
    uint64_t fault_seed;   /* tests only: non-zero puts the fault decorator in front */
    uint32_t fault_short;  /* per 1000 transfers: ends early (and is resubmitted) */
    uint32_t fault_error;  /* per 1000 transfers: fails with EIO */
    uint32_t fault_again;  /* per 1000 transfers: EAGAIN or EINTR, to be retried */
    uint32_t fault_late;   /* per 1000 transfers: completion is withheld until io_queue_close */
};

struct io_stats {
    uint64_t read_bytes, write_bytes; /* of requests completed without error */
    uint64_t read_ops, write_ops;     /* those requests */
    uint64_t resubmits;               /* after short transfers, EAGAIN, EINTR */
    uint32_t inflight_max;
};

struct io_queue;

int io_queue_open(const struct io_queue_config *config, struct io_queue **out);
/* Waits for what is in flight, without a deadline, and forgets requests that were not reaped.
 * NULL accepted. */
void io_queue_close(struct io_queue *q);
enum io_engine io_queue_engine(const struct io_queue *q);
const char *io_queue_note(const struct io_queue *q); /* why it is not io_uring; "" if it is */

/* Queues r. Never blocks, never fails: what is wrong with r comes back from io_reap. */
void io_submit(struct io_queue *q, struct io_request *r);
/* Hands what is queued to the kernel, in class order, up to depth. Call once per batch. */
void io_flush(struct io_queue *q);
/*
 * Collects up to max finished requests; never blocks; refills the depth. Call it at least once a
 * second even if the fd stays silent: deadlines are checked here and in io_flush.
 *
 * A request that comes back with -OFL_EDEADLINE may still be running. The struct is the owner's
 * again, but the kernel may still use the buffer and the file: leave both alone until
 * io_queue_close. Its late completion is dropped, and until then it takes up one of the depth.
 */
unsigned io_reap(struct io_queue *q, struct io_request **done, unsigned max);
/* Readable while io_reap may have something (an eventfd; io_reap clears it). */
int io_queue_fd(const struct io_queue *q);
/* Requests submitted and not yet reaped. */
unsigned io_queue_pending(const struct io_queue *q);
void io_queue_stats(const struct io_queue *q, struct io_stats *out);

#endif
