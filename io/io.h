/*
 * io: bytes and files. Owns open files, striping over several paths, the request
 * queue and its engines. Knows nothing of tensors, tiers or devices.
 *
 * A queue is shared by everybody in a context. Requests are submitted by one
 * thread at a time, complete in any order, and are handed to the kernel and
 * collected by one thread (the owner). Nothing here blocks the owner except
 * io_wait and io_queue_close.
 */
#ifndef OFL_IO_H
#define OFL_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/histogram.h"
#include "base/error.h"
#include "base/limit.h"

/* ---- files ------------------------------------------------------------- */

enum {
    IO_FILE_BUFFERED = 1u << 0,       /* do not try direct I/O */
    IO_FILE_REQUIRE_DIRECT = 1u << 1, /* fail (-OFL_EDIRECT) instead of falling back to buffered */
};

struct io_file;

/* Opens an existing file for reading. Direct I/O unless the file system refuses it, or passes the page cache
 * all the same. */
int io_file_open_read(const char *path, unsigned flags, struct io_file **out);

/* What is written at most to see what a file system does, each time that a scratch or named file is opened. */
#define IO_FILE_TRIAL_BYTES 65536u

/* Creates a nameless scratch file in directory dir, mode 0600: it is gone when
 * closed, also after kill -9, and two jobs can't meet in it. Where the file system copies on write, the file is
 * made without that. A few blocks are written to see what the file system does with them. */
int io_file_open_scratch(const char *dir, unsigned flags, struct io_file **out);

/*
 * A scratch file whose bytes lie in several directories, IO_STRIPE_BYTES at a time, in
 * proportion to their weights (any unit, for instance bytes per second). A directory that is
 * full, or has reached its limit, gets no more: the others take its share, and its note says so.
 */
#define IO_STRIPE_MAX   8u
#define IO_STRIPE_BYTES (1u << 20)

struct io_stripe {
    const char *dir;
    double weight;        /* > 0; 0: 1 */
    uint64_t limit_bytes; /* at most so many bytes here; 0: what is free */
};

int io_file_open_striped(const struct io_stripe *stripes, unsigned count, unsigned flags,
                         struct io_file **out);

/* For who can't do with larger blocks than `most`: parts that ask for them become buffered, before anything is
 * moved. -OFL_EDIRECT with the sentence if direct I/O is required. */
int io_file_limit_block(struct io_file *f, uint32_t most);

/*
 * A file with a name, for reading and writing: one that is there (no link, nothing but a regular file), or with
 * `create` a new one (-EEXIST if there is one), mode 0600, made as a scratch file is. What its file system does is
 * tried in a scratch file beside it: nothing is written to it. Holes of one that is there are backed by space, as far
 * as there is some: io_file_reserved says.
 */
int io_file_open_named(const char *path, bool create, unsigned flags, struct io_file **out);

void io_file_close(struct io_file *f); /* NULL accepted */

/* Grows the file so that [0, bytes) is backed by disk space; -ENOSPC if the
 * file systems are full, with nothing reserved beyond what was. Never shrinks. Where io_file_reserved says no,
 * a later write may find no space all the same. (It speaks of the file system: a drive that is thinly provisioned
 * can run out below it.) */
int io_file_reserve(struct io_file *f, uint64_t bytes);
/* Gives the space of whole blocks inside the range back to the file system: they read as zeros,
 * and a later write may find no space. Nothing that is in flight may touch them. */
int io_file_trim(struct io_file *f, uint64_t offset, uint64_t bytes);
/* Makes the whole blocks inside the range read as zeros without giving up their space: as just
 * reserved. -EOPNOTSUPP where the file system can't do that. */
int io_file_zero(struct io_file *f, uint64_t offset, uint64_t bytes);
int io_file_sync(struct io_file *f); /* fdatasync of all its parts; blocks */

const char *io_file_path(const struct io_file *f);
uint64_t io_file_bytes(const struct io_file *f);
uint32_t io_file_block(const struct io_file *f);      /* alignment that costs no copy; 1 if buffered */
uint32_t io_file_read_block(const struct io_file *f); /* the same of reads alone: never more */
bool io_file_direct(const struct io_file *f);         /* every part of it */
bool io_file_reserved(const struct io_file *f);  /* likewise: space, once reserved, is there at every write */
bool io_file_in_memory(const struct io_file *f); /* any part of it: its bytes are memory of this machine */
const char *io_file_note(const struct io_file *f); /* why it is not direct; "" if it is */

/* A file's part in one directory; count is 1 unless it is striped. */
struct io_part_info {
    const char *dir; /* as messages name it: "DIR/(scratch)", or the path of a file opened to read */
    uint64_t bytes;  /* reserved there, or the file's size */
    uint64_t read_bytes, write_bytes;
    double weight;
    bool direct, full;
    bool reserved, in_memory, cached; /* cached: a drive below passes the page cache */
    char note[160];                   /* why it is not direct, or full; "" */
    char space_note[160]; /* why its space is not reserved; "" if it is, and for files opened to read */
    char drive_note
        [160]; /* its bytes are memory, or pass the page cache below the file system; "" if neither */
};

unsigned io_file_parts(const struct io_file *f);
/* For questions to the kernel about it, not for moving bytes. */
int io_file_fd(const struct io_file *f, unsigned index);
void io_file_part(const struct io_file *f, unsigned index, struct io_part_info *out);

/* What a path's bytes lie on. Of a directory that may be written to, what a scratch file in it would be. */
struct io_place {
    bool writable; /* it was tried: else reserved is false, direct too unless it is a file */
    bool direct, reserved, in_memory;
    bool cached; /* a drive below passes this machine's page cache */
    uint64_t free_bytes;
    char note[160], space_note[160], drive_note[160];
};

/* -errno with the sentence if path can't be looked at. */
int io_place_get(const char *path, struct io_place *out);

/* ---- requests ---------------------------------------------------------- */

enum io_op { IO_READ, IO_WRITE };

/* Served in this order, on each drive: a class waits while a lower one has requests queued there. */
enum io_class { IO_DEMAND, IO_PREFETCH, IO_WRITEBACK, IO_CLASSES };

struct io_request;

/* What a request wants of one part of its file: the queue's. */
struct io_share {
    struct io_request *request;
    struct io_member *member;
    struct io_path *path;
    struct io_share *next, *prev; /* in the path's class */
    uint64_t at;                  /* everything of this share before it has been started */
    bool waiting;
};

/*
 * The owner fills the first part and keeps the struct, the buffer and the file alive until the
 * request comes back from io_reap: until then the queue, and the kernel, may use them.
 *
 * Any size, offset, length and address. What is aligned to io_file_block moves without a copy;
 * reads of anything else fetch the blocks around it and are trimmed. Writes of parts of a 4 KiB
 * page go through the page cache, unless IO_FILE_REQUIRE_DIRECT: then they are -EINVAL.
 */
struct io_request {
    enum io_op op;
    enum io_class class;
    struct io_file *file;
    void *buf;
    uint64_t offset;
    uint64_t bytes;
    uint64_t need_bytes;  /* reads: at least this many up to the end of file is success; 0: all bytes */
    uint64_t deadline_ns; /* from its submission; 0: the queue's. See io_late, and io_reap */
    void *cookie;

    /* result: error.code 0, or negative with the sentence naming file, offset, bytes, errno */
    uint64_t done_bytes; /* moved; on success all of them, or up to the end of file */
    uint64_t elapsed_ns; /* from submission to its last completion */
    struct base_error error;
    bool late; /* its deadline has passed: error says so, also before it is back */

    /* the queue's */
    struct io_request *next, *prev;
    struct io_share share, *shares; /* shares: &share, or one for each part of a striped file */
    unsigned share_count, open;     /* open: shares not used up, and transfers that are not settled */
    uint64_t submit_ns, expire_ns, eof_at;
    const char *culprit, *cause;     /* of error.code */
    bool live, cancelled, unnoticed; /* unnoticed: late, and still to be told */
};

enum io_engine { IO_ENGINE_AUTO, IO_ENGINE_URING, IO_ENGINE_THREADS };

enum {
    IO_QUEUE_SQPOLL = 1u << 0, /* a kernel thread takes what is submitted */
    IO_QUEUE_IOPOLL = 1u << 1, /* completions are polled for: direct files only, and io_wait only */
    IO_QUEUE_DEFER = 1u << 2,  /* completions are processed in the owner's calls only; the thread that
                                  opens the queue must be its owner and close it */
};

/* Of 1000 transfers, how many meet what; seeded. Tests only. */
struct io_faults {
    uint64_t seed;                  /* 0: no faults at all */
    uint32_t cut_short;             /* ends early (and is resubmitted) */
    uint32_t error;                 /* fails with EIO */
    uint32_t no_space;              /* a write fails with ENOSPC */
    uint32_t again;                 /* EAGAIN or EINTR, to be retried */
    uint32_t late;                  /* its bytes move, and it completes, only after late_ns */
    uint32_t delay;                 /* its completion is held back for some collections, and overtaken */
    uint32_t corrupt;               /* reads: one byte comes back changed, without an error */
    uint64_t late_ns;               /* 0: not before io_queue_close, and then not at all */
    uint64_t bad_offset, bad_bytes; /* transfers that touch this range of a file fail with EIO */
};

struct io_queue_config {
    enum io_engine engine; /* AUTO: io_uring, else threads with a note */
    uint32_t flags;
    uint32_t depth;        /* transfers in flight at once on each drive; 0: 64; threads: at most 16 */
    uint32_t piece_bytes;  /* requests move in pieces of at most this; 0: 1 MiB */
    uint64_t window_bytes; /* of prefetch and write-back in flight on each drive, so that demand is
                              served soon; one piece at least always is. 0: 8 MiB */
    uint64_t deadline_ns;  /* a request older than this is late, and fails; 0: 60 s */
    struct base_limit
        *written; /* bytes of writes, in whole blocks, are taken of it as they are submitted; what it refuses
                                   fails with -OFL_EWRITTEN, and nothing of it is written. NULL: none. Outlives the queue */
    struct io_faults faults;
};

struct io_stats {
    uint64_t read_bytes, write_bytes; /* of requests completed without error */
    uint64_t read_ops, write_ops;     /* those requests */
    uint64_t resubmits;               /* after short transfers, EAGAIN, EINTR */
    uint64_t copied_bytes;            /* through a buffer of the queue, for want of alignment */
    uint32_t inflight_max;            /* transfers */
    bool registered_buffers;          /* at least one region */
};

/* One drive (one device number), as the queue sees it. Latencies are those of single transfers,
 * from their hand-over to the engine to their collection. */
struct io_path_stats {
    char name[64]; /* a directory or file on it */
    uint64_t device;
    uint64_t transfers[2], bytes[2]; /* by enum io_op */
    uint64_t errors;                 /* transfers that failed for good */
    uint64_t busy_ns;                /* something was in flight */
    uint64_t empty_ns;               /* nothing was, between the first and the last transfer */
    uint64_t since_ns;               /* from the first transfer until now: for bytes written per day */
    struct io_histogram latency[2];  /* nanoseconds */
};

/* What a drive was measured to want: see io/profile.h. */
struct io_tuning {
    uint32_t piece_bytes, depth;
    uint64_t window_bytes;
};

struct io_queue;

/* A transfer that has moved bytes, from its hand-over to the engine to its collection. */
struct io_span {
    const struct io_request *request;
    const char *drive; /* io_path_stats.name */
    uint64_t start_ns, end_ns, bytes;
};

typedef void io_span_fn(void *arg, const struct io_span *span);

/* From now on fn is told of each, by the owner in its calls; NULL: of none. */
void io_queue_trace(struct io_queue *q, io_span_fn *fn, void *arg);

int io_queue_open(const struct io_queue_config *config, struct io_queue **out);
/* Waits for what is in flight, without a deadline, and forgets requests that were not reaped.
 * NULL accepted. */
void io_queue_close(struct io_queue *q);
enum io_engine io_queue_engine(const struct io_queue *q);
const char *io_queue_note(const struct io_queue *q); /* why it is not io_uring; "" if it is */

/* Transfers on the drive that dir lies on follow t from now on; zero fields: the queue's own. */
int io_queue_tune(struct io_queue *q, const char *dir, const struct io_tuning *t);
/* Buffers inside [base, base + bytes) are registered with the kernel: transfers of them pin no
 * pages. The memory must stay mapped until io_queue_close. -errno with the reason where limits
 * forbid it: everything works as before. May take a second where the kernel is to give back what
 * this user had locked before. 0 and no effect with threads. */
int io_queue_register(struct io_queue *q, void *base, uint64_t bytes);
/* The file's descriptors are registered: the kernel keeps the file until io_queue_close. */
int io_queue_attach(struct io_queue *q, struct io_file *f);

/* Queues r. Never blocks, never fails: what is wrong with r comes back from io_reap. */
void io_submit(struct io_queue *q, struct io_request *r);
/* Hands what is queued to the kernel, in class order, up to depth. Call once per batch. */
void io_flush(struct io_queue *q);
/* Whether a flush would start something now: else the next completion does, in its io_reap. */
bool io_queue_startable(const struct io_queue *q);
/* Starts no more of r, and has the next flush ask the kernel to give up what is in flight of it.
 * r comes back from io_reap as soon as nothing touches its buffer: -ECANCELED, or its result if
 * it was faster. No effect on a request that is late, or has come back already. */
void io_cancel(struct io_queue *q, struct io_request *r);
/*
 * Collects up to max finished requests; never blocks; refills the depth. Call it at least once a
 * second even if the fd stays silent: deadlines are checked here and in io_flush. Of the time between
 * two calls at most a second counts for them (io_wait looks ten times a second): a process that was
 * stopped has not missed them.
 *
 * What comes back is the owner's, buffer and all: nothing of the kernel or of the engine's threads
 * touches it any more, also if its deadline has passed.
 */
unsigned io_reap(struct io_queue *q, struct io_request **done, unsigned max);
/*
 * Up to max requests that have passed their deadline since they were last asked for, and that
 * something is in flight of: the notice, ahead of the return. Each is told once. Its error is
 * -OFL_EDEADLINE from now on, whatever its transfers come to; no more of it is started, and the
 * kernel is asked to give up the rest. Struct, buffer and file stay the queue's until it comes back
 * from io_reap, once the kernel has let go; until then it takes up its part of the depth.
 *
 * Late requests of which nothing is in flight just come back. So do the others to an owner that
 * never calls this: later.
 */
unsigned io_late(struct io_queue *q, struct io_request **late, unsigned max);
/* As io_reap, but waits up to timeout_ns while nothing has finished and nothing is late: for owners
 * that wait for nothing else. One system call hands over and waits. */
unsigned io_wait(struct io_queue *q, struct io_request **done, unsigned max, uint64_t timeout_ns);
/* Readable while io_reap may have something, and when a request is late (an eventfd; io_reap clears
 * it: call io_late after it). */
int io_queue_fd(struct io_queue *q);
/* Requests submitted and not yet reaped. */
unsigned io_queue_pending(const struct io_queue *q);
void io_queue_stats(const struct io_queue *q, struct io_stats *out);
unsigned io_queue_paths(const struct io_queue *q);
void io_queue_path_stats(const struct io_queue *q, unsigned index, struct io_path_stats *out);

#endif
