/*
 * The queue, inside the io room: what it keeps. queue_open.c makes it, queue.c decides what moves when,
 * queue_deadline.c what is late, queue_request.c what a request comes back with, piece.c what one
 * transfer is and what its result means, path.c keeps one drive.
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
    unsigned unnoticed; /* late ones among the live that io_late has not given out */
    bool late_news;     /* some of them are to be announced */
    uint64_t expire_ns; /* nothing becomes late before; as in requests, without away_ns */
    uint64_t (*clock)(void);
    uint64_t now_ns;  /* of the last look at the clock */
    uint64_t away_ns; /* of all time until then, what does not count for deadlines */
    uint32_t started; /* transfers, ever */
    struct io_transfer *transfers;
    uint32_t transfer_count, inflight;
    struct io_transfers unused, again; /* again: to be handed over once more */
    int flush_code;                    /* of the last flush */
    struct base_limit *written;        /* NULL: not counted */
    io_span_fn *span;                  /* NULL: nobody wants to know */
    void *span_arg;
    struct io_stats stats;
    char note[256];
};

/* ---- queue_request.c ----------------------------------------------------- */

/* Adds to event_fd if the owner waits for it and has something to take. */
void io_queue_announce(const struct io_queue *q);
/* Into the waiting list of its path, and out of it. */
void io_share_wait(struct io_share *s);
void io_share_leave(struct io_share *s);
void io_request_live(struct io_queue *q, struct io_request *r);
/* To be reaped, with this result. cause NULL: the text of code. */
void io_request_succeed(struct io_queue *q, struct io_request *r);
void io_request_fail(struct io_queue *q, struct io_request *r, int code, const char *cause);
/* Sets the error and its sentence. */
void io_request_word(struct io_request *r, int code, const char *cause);
/* Takes what r writes of the queue's limit. -OFL_EWRITTEN with the cause, in a buffer of its own. */
int io_request_charge(struct io_queue *q, const struct io_request *r, char *cause, size_t cause_bytes);
/* Remembers the first thing that went wrong. */
void io_request_note(struct io_request *r, int code, const char *cause, const struct io_member *m);
/* No more pieces of r are started. The caller holds one `open` of its own, here and below. */
void io_request_stop(struct io_queue *q, struct io_request *r);
/* Stops r, and asks the engine to give up what it has of it. */
void io_request_call_off(struct io_queue *q, struct io_request *r);
/* One less is open; with the last one r is to be reaped. */
void io_request_close(struct io_queue *q, struct io_request *r);
unsigned io_requests_take(struct io_queue *q, struct io_request **done, unsigned max);

/* ---- queue_deadline.c ---------------------------------------------------- */

/* Of the time between two looks at the clock at most so much counts, where nothing else is said. */
#define IO_STRIDE_NS 1000000000u

/* Looks at the clock; at most stride_ns of the time since the last look counts for deadlines. */
void io_queue_look(struct io_queue *q, uint64_t stride_ns);
/* r has so long from now on. */
void io_queue_allow(struct io_queue *q, struct io_request *r);
/* How long until something becomes late, if nothing is held up. */
uint64_t io_queue_left_ns(const struct io_queue *q);
/* Calls off what has passed its deadline; false: nothing has. */
bool io_queue_expire(struct io_queue *q);

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
