/*
 * The queue, inside the io room: what it keeps. queue_open.c makes it, queue.c decides what moves when,
 * piece.c what one transfer is and what its result means, path.c keeps one drive.
 */
#ifndef OFL_IO_QUEUE_H
#define OFL_IO_QUEUE_H

#include "io/engine.h"
#include "io/file.h"
#include "io/io.h"

struct io_shares {
    struct io_share *head, *tail;
};

/* One drive. */
struct io_path {
    uint64_t device;
    struct io_tuning tuning; /* what is in force */
    struct io_shares waiting[IO_CLASSES];
    uint32_t inflight;
    uint64_t background_bytes; /* of prefetch and write-back in flight */
    uint64_t first_ns, idle_since_ns;
    struct io_path_stats stats;
};

struct io_queue {
    struct io_backend *backend;
    enum io_engine engine;
    uint64_t id; /* of this queue alone in the process: for registered files */
    int event_fd;
    bool armed; /* the owner waits for event_fd */
    struct io_tuning tuning;
    uint32_t depth_max;
    uint64_t deadline_ns;
    struct io_path **path;
    unsigned path_count, turn;
    struct io_request *live; /* submitted and not done */
    struct io_request *done_head, *done_tail;
    unsigned pending;
    uint64_t expire_ns; /* nothing expires before */
    uint64_t now_ns;    /* of the last look at the clock */
    uint32_t started;   /* transfers, ever */
    struct io_transfer *transfers;
    uint32_t transfer_count, inflight;
    struct io_transfers unused, again; /* again: to be handed over once more */
    int flush_code;                    /* of the last flush */
    struct io_stats stats;
    char note[256];
};

/* ---- path.c ------------------------------------------------------------- */

/* The path of a device; made if it is new. NULL: no memory. */
struct io_path *io_path_get(struct io_queue *q, uint64_t device, const char *name);
/* Zero fields of t: the queue's own. */
void io_path_tune(struct io_queue *q, struct io_path *path, const struct io_tuning *t);
void io_path_started(struct io_path *path, uint64_t now_ns);
void io_path_ended(struct io_path *path, uint64_t now_ns);
/* One good result of t. */
void io_path_count(struct io_path *path, const struct io_transfer *t, uint64_t bytes, uint64_t now_ns);

/* ---- piece.c ------------------------------------------------------------ */

/* Points each share at its first piece. 0 or -errno. */
int io_shares_open(struct io_queue *q, struct io_request *r);
void io_shares_close(struct io_request *r);
/* t becomes the next piece of share s, which moves on; s->at is the request's bytes after its last. */
void io_piece_cut(struct io_share *s, struct io_transfer *t);
/* Points t at what is left of its piece. 0 or -errno. */
int io_piece_prepare(struct io_queue *q, struct io_transfer *t);

enum io_verdict { IO_PIECE_DONE, IO_PIECE_AGAIN, IO_PIECE_END, IO_PIECE_FAILED };

/* What t->result means. The bytes that moved are counted and, from a bounce buffer, copied.
 * END: the file ends inside the piece, and r->eof_at says where. FAILED: *code and *cause. */
enum io_verdict io_piece_judge(struct io_transfer *t, int *code, const char **cause);

/* What is wrong with r itself: 0 or -errno and a cause. */
int io_request_check(const struct io_request *r, const char **cause);

#endif
