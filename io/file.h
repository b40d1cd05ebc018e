/*
 * Files, inside the io room: what an open file is, where its bytes lie, and the
 * guard against SIGXFSZ. The queue and the tests see this; other rooms see io/io.h.
 */
#ifndef OFL_IO_FILE_H
#define OFL_IO_FILE_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "io/io.h"

/* One descriptor: the whole of a file, or its part in one directory. */
struct io_member {
    int fd;
    int cached_fd; /* the same file without O_DIRECT, for parts of pages; -1 until it is needed */
    bool direct, full;
    bool reserved;        /* what was reserved is enough for every later write */
    bool in_memory;       /* its bytes lie in memory of this machine */
    bool cached;          /* a drive below passes the page cache */
    bool touch_first;     /* direct reads into memory that has no pages yet pass the page cache */
    uint32_t block;       /* 1 if buffered */
    uint32_t read_block;  /* of reads, where it is smaller; 0: block */
    uint64_t device;      /* st_dev */
    uint64_t bytes;       /* size at open, then what was reserved */
    uint64_t limit_bytes; /* never more than this */
    double weight;
    uint64_t moved_bytes[2];                          /* by enum io_op; the queue's owner counts */
    int slot;                                         /* in the registered files of queue slot_queue */
    uint64_t slot_queue;                              /* 0: of none */
    char *path;                                       /* as opened; scratch files: "<dir>/(scratch)" */
    char note[160], space_note[160], drive_note[160]; /* as in struct io_part_info */
};

/* Where IO_STRIPE_BYTES of a striped file lie. */
struct io_unit {
    uint32_t member, at; /* at: in units */
};

struct io_file {
    struct io_member *member;
    unsigned count;
    bool writable, require_direct;
    uint32_t block; /* the largest of the members' */
    uint64_t bytes;
    struct io_unit *units; /* NULL: member 0 holds everything */
    uint64_t unit_count;
    char *path;
    char note[160];
};

/* What a transfer of m is made of. */
static inline uint32_t io_member_block(const struct io_member *m, enum io_op op)
{
    return op == IO_READ && m->read_block ? m->read_block : m->block;
}

/* m is as file_create made it; whatever they return, member_close follows. 0 or -errno with the sentence. */
int io_member_open_read(struct io_member *m, const char *path, unsigned flags);
int io_member_open_scratch(struct io_member *m, const char *dir, unsigned flags);
int io_member_open_named(struct io_member *m, const char *path, bool create, unsigned flags);
int io_member_limit_block(struct io_member *m, uint32_t most,
                          bool require_direct); /* as io_file_limit_block */
/* A descriptor for writes of parts of pages, or -errno. */
int io_member_cached_fd(struct io_member *m);
/* Grows m from m->bytes to `bytes`, or leaves it as it was. 0 or -errno, no sentence. */
int io_member_grow(struct io_member *m, uint64_t bytes);
/* Back to `bytes`, as far as the file system takes it. */
void io_member_shrink(struct io_member *m, uint64_t bytes);
uint64_t io_member_free_bytes(const struct io_member *m);
/* Size of the file now; it may have been truncated since it was opened. 0 or -errno. */
int io_member_size_now(const struct io_member *m, uint64_t *bytes);
int io_stripe_reserve(struct io_file *f, uint64_t bytes);

/* Where byte `offset` of f lies: in which member, at which offset of it, and how many bytes from
 * there on are in one piece. The caller stays below f->bytes if f is striped. */
static inline uint64_t io_file_locate(const struct io_file *f, uint64_t offset, unsigned *member,
                                      uint64_t *run)
{
    const struct io_unit *u;

    if (!f->units) {
        *member = 0;
        *run = UINT64_MAX - offset;
        return offset;
    }
    u = &f->units[offset / IO_STRIPE_BYTES];
    *member = u->member;
    *run = IO_STRIPE_BYTES - offset % IO_STRIPE_BYTES;
    return (uint64_t)u->at * IO_STRIPE_BYTES + offset % IO_STRIPE_BYTES;
}

/*
 * The kernel kills a thread that writes past RLIMIT_FSIZE with SIGXFSZ, unless
 * the signal is blocked; then the call just fails with EFBIG. A library has no
 * business with the process's handlers, so we block it around such calls, and
 * swallow it if it was raised meanwhile.
 */
struct io_sigxfsz {
    sigset_t saved;
    bool armed; /* it was neither blocked nor pending before: what is pending after is ours */
};

static inline void io_sigxfsz_block(struct io_sigxfsz *g)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    g->armed = !pthread_sigmask(SIG_BLOCK, &set, &g->saved) && !sigismember(&g->saved, SIGXFSZ);
}

static inline void io_sigxfsz_restore(const struct io_sigxfsz *g)
{
    const struct timespec now = {0};
    sigset_t set;

    if (!g->armed)
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    (void)sigtimedwait(&set, NULL, &now); /* EAGAIN: none was raised */
    pthread_sigmask(SIG_SETMASK, &g->saved, NULL);
}

#endif
