/*
 * pager: the state machine that decides where every byte is and what moves next. What its files share:
 * its objects. It performs nothing itself: what is to be done goes out through struct core_env and comes
 * back as a finished struct core_op. It has no thread, no clock and no lock: its owner (engine.c) calls it
 * from one thread at a time.
 *
 * Its files, each of which knows only those before it:
 *     tile.c   the HOST tier: ranges, reads, write-backs, what leaves it
 *     part.c   which copies hold which bytes of a tensor
 *     place.c  the device arena: copies and ghosts in it; place_find.c: who gets which range, what leaves for it
 *     blame.c  why what a stream waits for is not there
 *     copy.c   device copies: bytes in (fill), bytes out (drain), the end of a ghost; copy_below.c: when what lies
 *              below them goes
 *     slot.c   of kept tensors, which slot of a tile has what
 *     wait.c   what a stream waits for
 *     hold.c   who may lease which bytes together
 *     lease.c  acquire and release      work.c  host-side work on tiles      home.c  where tensors live
 *     commit.c what a commit is still to write
 *     pump.c   life, inputs, and what starts when
 *     verify.c balances all books, for tests
 *
 * Words: a copy holds bytes [from, to) of its tensor, a part or the whole, in a range of device memory. Live
 * copies of a tensor never overlap in it; a ghost is a copy whose range was given to another while its last use,
 * or its write-back, is still to complete. An edge is a tile that a copy has only a part of.
 *
 * Orders, by bytes of a tensor: copies that share none of them have none. Commands (acquire, release, host work) are numbered as they come, in pager.seq; work on
 * streams and on drives ends in any order. What keeps the order of the commands:
 *  1. A copy's bytes come in when its range is clear of older ghosts, when host works issued before it are
 *     done, and, tile by tile, when older dirty ghosts of these bytes are drained.
 *  2. A dirty ghost is drained when its uses have ended well, its own bytes have come in, older copies have
 *     theirs, older dirty ghosts are drained, and host works issued before its last lease are done. An edge is
 *     drained into a tile whose other bytes are in host memory, and keeps them.
 *  3. A host work runs in its turn, tile by tile when older dirty copies are drained; it writes a tile
 *     when copies older than it have theirs of it.
 *  4. A range is given on, in physics, when all that used it before has ended: its ghosts are gone.
 *  5. What lies below the device is dropped when a write has ended well that no other followed, unless older
 *     copies or host works are still to read it: tiles and ghosts of which the copy has all bytes. So it is when
 *     the plan has a copy stand alone, and when its last use was for good and the next host work overwrites all.
 *  6. What became a ghost for an update is drained in the update's turn: who waits for its range came later.
 *  7. A commit takes a tile when all writes issued before it have reached the tile. Host works and drains issued
 *     after it write a tile when it has been taken, and when all writes issued before the commit have reached their
 *     tiles, so that it needs no more room. What they wrote is held: it goes to the store when the commit is over.
 *     What lies below is not dropped while a commit is still to take tiles of it.
 */
#ifndef OFL_CORE_PAGER_H
#define OFL_CORE_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/extent.h"
#include "base/tree.h"
#include "include/offload.h"
#include "io/io.h"
#include "liboffload/core/update.h"
#include "liboffload/device/device.h"
#include "liboffload/store/kept.h"
#include "liboffload/store/store.h"
#include "scheduler/order.h"
#include "scheduler/plan.h"
#include "scheduler/trace.h"

#define CORE_HOST_ALIGN   4096u
#define CORE_DEVICE_ALIGN 256u

typedef unsigned long long ull;

/* ---- tiles ------------------------------------------------------------- */

enum tile_state { TILE_NONE, TILE_ARRIVING, TILE_VALID };

struct core_tile {
    uint64_t off;  /* range in the host arena, if state is not TILE_NONE (always, for one at home in HOST) */
    uint64_t seal; /* of the bytes below, if sealed */
    uint32_t len;  /* of that range */
    uint16_t pins; /* link copies, write-backs and host work that use the range */
    uint16_t wanted; /* by requests in flight that will pin it: not to be evicted meanwhile */
    uint8_t state;   /* enum tile_state */
    bool dirty;      /* newer than the store */
    bool stored;     /* the store (or the source) has bytes of it */
    bool sealed;     /* their seal is known */
    bool writing;    /* write-back in flight: the range must not change */
    bool stale;      /* dropped while in use: freed with the last use */
    bool fetched;    /* read, and nobody has used it since */
    uint8_t slot;    /* of a kept tensor: where its bytes below are */
};

/* ---- device copies ----------------------------------------------------- */

struct core_cond;

/* A lease of a part of a copy, where several may write. */
struct core_hold {
    uint64_t from, to;
    uint64_t batch; /* the one that is releasing it */
    bool writes;
    struct core_hold *next;
};

/* What a lease of a copy that is there looks at comes first: as few cache lines as can be. */
struct core_copy {
    struct ofl_tensor *tensor;
    struct base_node part; /* live: of tensor->live */
    uint64_t from, to;     /* bytes of the tensor */
    uint64_t seq, off, len;
    uint64_t version;               /* of the last lease to write */
    uint64_t over_version;          /* of the last one that overwrote all that the copy holds */
    uint64_t batch;                 /* of leases that are released, the last that named it */
    uint64_t mark_seq, mark_stream; /* of the latest release; stream 0: several */
    struct base_error *error;       /* its bytes could not be had */
    uint32_t leases, writers;       /* held; those of them that write: of a home, each its own part */
    uint32_t named;                 /* in batch, so often */
    uint32_t blockers;              /* older ghosts in the range; 0: it is clear */
    uint32_t marks, write_marks;    /* released uses that have not completed */
    uint32_t waiting;               /* conditions below that await the bytes */
    uint32_t moving;                /* link copies in flight */
    uint32_t first, end;            /* tiles that its bytes lie in */
    uint32_t fill_next, fill_done;  /* the first tile that is not issued, that has not landed */
    uint32_t drain_next, drain_done;
    bool home;        /* never evicted: the device is this tensor's home */
    bool busy;        /* live: may be filling, awaited, or on the move */
    bool wants;       /* the edge at drain_next is counted as wanted: it is fetched, or has arrived */
    bool ghost, drop; /* drop: nothing to write back */
    bool done;        /* it has been released for good, and not been leased since */
    bool for_update;  /* it became a ghost for an update, which wants its bytes */
    bool dirty;       /* newer than what lies below, or will be when its uses have ended */
    bool wrote;       /* a write has ended well: what lay below is gone */
    bool fill;        /* bytes are to be fetched */
    bool hollow;      /* placed ahead for an overwrite: has no bytes, and none on their way */
    bool fetched;     /* started ahead of its acquire */
    bool planned;     /* by its acquire, as the plan had said */
    bool crowded; /* there was no room for it, here or in host memory: it began later than it might have */
    bool poisoned;
    bool stuck;           /* waits for room in the host arena */
    bool late;            /* stuck: it is not yet time for it to be drained */
    uint64_t write_seq;   /* of the first lease that made it dirty */
    uint64_t after_host;  /* host works to await before bytes come in */
    uint64_t drain_after; /* and before they go out */
    struct core_cond *conds;
    struct core_hold *holds;                 /* of a home: leases of parts */
    struct base_node place;                  /* live: of pager.arena; ghost: of pager.graves */
    struct base_node turn;                   /* of pager.stuck, if stuck */
    struct core_copy *prev, *next;           /* live: by address; ghosts: of the tensor, by end of life */
    struct core_copy *busy_prev, *busy_next; /* live: of tensor->busy, if busy */
    uint64_t gap, gap_max;                   /* live: free bytes behind it; the most of that in its subtree */
    uint64_t end_max;                        /* ghost: where the last range of its subtree ends */
};

/* One acquire that has to wait: its gate opens when the last condition holds. */
struct core_wait {
    struct dev_gate *gate;
    uint64_t stream;
    uint32_t remaining;
    struct ofl_tensor *last;   /* of the condition that held last; NULL: none yet */
    enum ofl_stall_reason why; /* it did not before */
    struct core_wait *prev, *next;
    struct core_wait *failed_next;
    struct base_error *error;
};

struct core_cond {
    struct core_wait *wait;
    struct core_cond *next;
    bool bytes;    /* awaits the copy's bytes; else the marks up to upto */
    bool readable; /* of marks: what they wrote is to be read */
    enum ofl_stall_reason why;
    uint64_t upto;
    uint32_t count;
};

/* ---- tensors ----------------------------------------------------------- */

/* Of a kept tensor: what the last commit has of it, and what the one in flight will have. */
struct core_keep {
    struct kept_tile *whole, *next; /* by tile. next: generation 0: not taken yet */
    struct base_bits written; /* tiles that are being written for the commit: taken when that has ended */
    uint64_t slot_bytes;
    uint64_t ordinal; /* host works issued before the commit */
    uint64_t barred;  /* the last host work that had to wait for a commit; 0: none */
    uint32_t cursor;  /* the tiles before it are taken, or are being written */
    bool resumed;     /* its bytes came back at its creation */
    bool part;        /* the commit in flight has it */
    bool open;        /* and is still to take tiles of it */
    bool settled;     /* what was written before it has reached the tiles */
    bool held;        /* a tile of it may have been held: see slot_held */
    bool spoilt;      /* bytes that it was to take are gone */
    bool queued;      /* in commit.ready */
    struct ofl_tensor *ready_next;
    struct base_node by_name; /* of pager.kept_names */
    struct ofl_tensor *tensor;
};

struct ofl_tensor {
    struct ofl_ctx *ctx;
    struct ofl_tensor *prev, *next;
    char *name;
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint32_t id, flags;
    uint64_t elems, bytes, tile_elems, tile_bytes;
    uint64_t
        lead; /* the first tile is so much shorter: of a source, so that all others begin at a block of its file */
    uint32_t tiles_count;
    struct core_tile *tiles;
    /* Tiles of the stage: idle and clean, idle and dirty, only below; those that somebody is about to use, wherever
     * they are; clean and dirty ones that are neither that nor to rest. */
    struct base_bits clean, dirty, missing, ahead, spent, passing;
    uint32_t rest;   /* so many at the front rest until the next use; without a plan all of them do */
    uint32_t served; /* the first host work in its queue is done with so many of them: its rest holds there */
    struct io_file *file; /* the store's, or the source's; NULL: no tile has its home below HOST */
    uint64_t file_off;    /* of tile home_tiles */
    struct ofl_source *source;
    struct core_keep *keep;   /* NULL: it is not kept */
    struct base_node by_size; /* of pager.sizes, unless device_home */
    bool added;
    bool leaving;           /* being destroyed: nothing is fetched for it */
    bool homed;             /* it has its home already, and awaits that nothing else is there */
    bool device_home;       /* its copy is never evicted; nothing of it is below */
    uint32_t home_tiles;    /* the first so many own their ranges of the host arena for good */
    struct base_tree live;  /* copies, by their part */
    struct core_copy *busy; /* those of them that something may be to happen to */
    uint32_t leased, loose; /* live copies: leased ones, ones that may be evicted */
    uint32_t used;          /* released uses that have not completed, of all copies */
    struct core_copy *ghosts, *ghosts_last; /* oldest first */
    uint32_t dirty_ghosts, ghosts_count;
    uint64_t host_issued, host_done;
    struct core_turn *turns, *turns_last; /* host works issued and not done */
    uint64_t version, whole_version;      /* of writes, as acquired; of the last that wrote all of it */
    uint64_t whole_seq;                   /* of that one, among the commands */
    struct base_error *lost;              /* its bytes: why. NULL: it has them */
    bool gone;                            /* nothing good lies below the device */
    struct base_error *ruin; /* what should have been drained for host works of these numbers is not there */
    uint64_t ruin_from, ruin_to;
    uint64_t fill_seq;      /* the oldest copy whose bytes somebody awaits, or SCHED_NEVER */
    bool filling;           /* a copy is being filled, awaited or not */
    bool ahead_failed;      /* a fetch ahead of its acquire failed: not again before that */
    bool denied;            /* there was no room on the device to fetch it ahead */
    _Atomic uint32_t label; /* in timelines; 0: not known yet. record.c's */
    uint32_t host_tiles;    /* with a range of the host arena, home or not */
    uint32_t moving;        /* operations in flight on its tiles */
    uint32_t pins;          /* of its tiles together */
    uint32_t refs;          /* what else holds it: optimizers */
    uint64_t batch;         /* the last batch of leases that named it */
    struct ofl_tensor *look_next;
    bool looked_for; /* it is to be looked at in this round */
};

/* ---- operations -------------------------------------------------------- */

/* OP_ZERO: a tile that was never written becomes zeros in host memory. */
enum core_op_type { OP_READ, OP_ZERO, OP_WRITE, OP_IN, OP_OUT, OP_FILL, OP_MARK, OP_CALL };

struct core_use {
    struct core_copy *copy;
    uint64_t seq, version;
    bool wrote, drop, whole; /* whole: the lease was of all the tensor */
};

struct core_op {
    enum core_op_type type;
    int code; /* result of device operations */
    struct core_op *next;
    struct ofl_tensor *tensor;
    struct core_copy *copy;
    uint32_t tile, uses_count;
    uint64_t stream;                   /* OP_MARK */
    struct core_use *uses, one;        /* OP_MARK; &one where one is enough */
    void (*call)(void *arg, int code); /* OP_CALL: under the engine's lock */
    void *arg;
    void *env;                       /* whoever performs it */
    bool sealing;                    /* OP_READ, OP_WRITE: a worker has it */
    bool late;                       /* its deadline has passed; it is still to come back */
    uint8_t slot;                    /* OP_WRITE of a kept tensor: where to */
    uint64_t orphan_off, orphan_len; /* of a late read: its range, which is no tile's any more */
    struct core_op *orphan_next;
    const void *seal_bytes;
    void *zero_bytes;
    uint64_t seal_count, seal;
    struct io_request io;
};

/* ---- host work --------------------------------------------------------- */

struct core_tileref {
    struct ofl_tensor *tensor;
    uint32_t tile;
    enum core_access access;
    bool held, fresh; /* fresh: never written, the memory is undefined and means zeros */
    void *ptr;        /* NULL for a HOST_READ of a fresh tile */
};

/* Tiles of several tensors, wanted in host memory together. */
struct core_request {
    struct core_request *prev, *next;
    struct core_tileref refs[CORE_UPDATE_TENSORS];
    uint32_t count, held;
    uint32_t claims;                       /* of an update: tiles that are not at home in HOST */
    uint64_t ordinal[CORE_UPDATE_TENSORS]; /* of the host work, by tensor */
    uint64_t seq;                          /* copies older than this count */
    struct core_update *update;            /* NULL: a caller's */
    struct core_turn turn;                 /* a caller's */
    bool failing;                          /* error is set, but its turn has not come */
    bool whole;                            /* a caller's write: all of the tensor is being written */
    void (*done)(struct core_request *r);  /* a caller's: tiles are held, or error is set */
    void *arg;
    struct base_error error;
};

/* What the pager asks for. Everything comes back through pager_done, except gates. */
struct core_env {
    void *arg;
    void (*io)(void *arg, struct core_op *op);
    /* op->seal is to become the seal of op->seal_count bytes at op->seal_bytes. */
    void (*seal)(void *arg, struct core_op *op);
    void (*zero)(void *arg, void *bytes, uint64_t count, struct core_op *op);
    void (*copy_in)(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op);
    void (*copy_out)(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op);
    void (*fill)(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op);
    /* Runs update->tile on a worker, then pager_request_end. */
    void (*work)(void *arg, struct core_request *r);
    int (*gate_create)(void *arg, struct dev_gate **gate);
    void (*gate_open)(void *arg, struct dev_gate *gate, const struct base_error *error);
    /* gate, which is opened next, was closed for t, and why. NULL: nobody wants to know. */
    void (*blame)(void *arg, struct dev_gate *gate, struct ofl_tensor *t, enum ofl_stall_reason why);
    const char *(*why)(void *arg, int code); /* a device operation failed: its cause, in words */
    /* All that the commit in flight has is in the store: makes it durable. op is an OP_CALL; commit.error is
     * set before it comes back. */
    void (*commit)(void *arg, struct core_op *op);
    void (*log)(void *arg, enum ofl_log_level level, const char *text);
};

/* ---- the pager --------------------------------------------------------- */

/* Where tensors live: see home.c. */
struct core_homes {
    bool device_only;          /* on the device, all of them */
    uint64_t expected_bytes;   /* announced; 0: unknown */
    uint64_t leased_bytes;     /* device memory that homes leave to leases */
    uint64_t stage_min_bytes;  /* host memory that homes leave for moving bytes */
    uint64_t nvme_bytes;       /* the store's budget; 0: there is none */
    uint64_t share[OFL_TIERS]; /* of the bytes announced; all 0: tiers are filled one after another */
    uint64_t bytes[OFL_TIERS]; /* of homes, as allocated */
    struct base_extents *host; /* ranges of homes in HOST, counted from the arena's end down */
};

/* The commit in flight: see commit.c. */
struct core_commit {
    uint64_t seq;            /* commands before it count; 0: there is none */
    uint64_t generation;     /* that it will be */
    uint64_t durable;        /* of the last one that is whole; 0: none */
    uint32_t tensors, left;  /* that it has; those of them of which tiles are to be taken */
    uint32_t unsettled;      /* those that are not settled */
    uint64_t writing;        /* bytes being written for it */
    bool flushing;           /* all is in the store, and is being made durable */
    bool failed;             /* error is to be told */
    bool dirty;              /* something was written to kept tensors since the last one */
    struct base_error error; /* of the last one that failed */
    struct ofl_tensor *ready,
        **ready_tail; /* those that may go on as soon as fewer bytes are being written */
    struct ofl_tensor
        *wanted; /* the oldest host work waits for tiles of it. NULL: of none, or nobody said so */
};

/* A stream that failed, and why: what was released on it afterwards has no good bytes. */
struct core_stream_error {
    uint64_t stream;
    struct base_error error;
    struct core_stream_error *next;
};

struct pager {
    struct core_env env;
    struct base_error broken; /* code 0: healthy; first error wins */
    struct sched *sched;
    struct ofl_tensor *tensors;
    struct ofl_tensor **by_id;
    struct base_tree sizes; /* of what is not at home on the device */
    uint32_t next_id, ids_room;
    uint32_t *free_ids, free_ids_count; /* of tensors that have gone; as much room */
    uint64_t changes;                   /* grows with every decision: the pump runs until it stands still */
    struct ofl_tensor *looks, **looks_tail;
    uint64_t seq, batch, tile_bytes;
    bool poison;
    bool hungry; /* out of memory for an operation: to be tried again soon */
    /* device */
    uint8_t *device;
    uint64_t device_bytes, device_used, device_peak;
    uint64_t held_bytes; /* leased, or a home */
    struct core_copy
        live; /* head of the copies by address; lies before all of them, in the arena's tree, too */
    struct base_tree arena;       /* live copies by address */
    struct base_tree graves;      /* ghosts by address */
    struct base_tree stuck;       /* copies that wait for room, most urgent first */
    struct core_copy *homes_last; /* the end of the homes at the arena's beginning */
    struct core_copy *spare_copies;
    uint32_t spare_copies_count, spare_conds_count;
    struct core_cond *spare_conds;
    struct core_hold *spare_holds;
    uint32_t spare_holds_count;
    struct core_wait waits;
    struct core_wait
        *failed_waits; /* over with an error before their stream could wait: their gates open next */
    struct core_stream_error *stream_errors;
    struct lease_item *items; /* scratch of lease.c */
    size_t items_room;
    /* what the plan says next has been looked at up to these events */
    uint64_t ahead_plan, ahead_device, ahead_host;
    struct core_hint *hints, **hints_tail; /* what is to be fetched for them, oldest first */
    bool planned;                          /* the plan that tensors were told of last is solved */
    uint64_t
        passing_off; /* in front of it lies what rests all the time, behind it what passes. 0: no such plan */
    /* host */
    uint8_t *host;
    uint64_t host_bytes, host_peak;
    /* Homes end the arena; before them lie stage_bytes through which all else moves. These count the
     * ranges there: taken, dirty, in write-backs, being filled. */
    uint64_t stage_bytes, cached_bytes, dirty_bytes, writing_bytes, arriving_bytes;
    struct base_extents *host_ranges;
    bool crowded;    /* in this round of the pump a claim that cannot wait found no room */
    bool starved;    /* a claim found no clean idle tile: write-backs must run */
    uint32_t moving; /* transfers under way that somebody still waits for */
    uint64_t fetched_bytes,
        fetched_max; /* of tiles read that nobody has used yet; ahead of their use, at most */
    uint64_t planned_device, planned_host;      /* room that plans were solved for */
    struct core_request requests;               /* list head, in order */
    uint32_t active, active_max, running;       /* update requests; those that workers have */
    uint32_t claims, claims_max;                /* tiles that they may hold in the stage */
    uint32_t claims_planned;                    /* with a plan, which has room for no more */
    struct core_update *updates, *updates_last; /* all that are queued, oldest first */
    struct core_update *ready, *ready_last;     /* those whose turn has come, in order */
    /* nvme */
    struct store *store;
    struct kept *kept;           /* the kept store; NULL: there is none */
    bool kept_in_place;          /* it has one slot of each tile */
    struct base_tree kept_names; /* of kept tensors */
    struct core_commit commit;
    struct core_homes homes;
    /* operations */
    struct core_op *free_ops, *orphans;
    uint32_t inflight;
    struct ofl_stats stats;
};

/* The tile that a byte lies in, and the first byte of a tile. */
static inline uint32_t tile_of(const struct ofl_tensor *t, uint64_t byte)
{
    return (uint32_t)((byte + t->lead) / t->tile_bytes);
}

static inline uint64_t tile_start(const struct ofl_tensor *t, uint32_t tile)
{
    return tile ? tile * t->tile_bytes - t->lead : 0;
}

/* What was issued as command seq, and writes the tile, waits for the commit in flight. */
static inline bool commit_bars(const struct pager *p, const struct ofl_tensor *t, uint32_t tile, uint64_t seq)
{
    const struct core_keep *k = t->keep;

    return k && k->part && seq > p->commit.seq && (p->commit.unsettled || !k->next[tile].generation);
}

/* A commit is still to take tiles of t. */
static inline bool commit_open(const struct ofl_tensor *t)
{
    return t->keep && t->keep->open;
}

/* c's bytes are to come. */
static inline bool copy_filling(const struct core_copy *c)
{
    return c->fill && c->fill_done < c->end;
}

static inline bool copy_whole(const struct core_copy *c)
{
    return c->to - c->from == c->tensor->bytes;
}

/* c has some of these bytes, all of them. */
static inline bool copy_meets(const struct core_copy *c, uint64_t from, uint64_t to)
{
    return c->from < to && from < c->to;
}

static inline bool copy_holds(const struct core_copy *c, uint64_t from, uint64_t to)
{
    return c->from <= from && to <= c->to;
}

/* All copies of t that something may be to happen to: ghosts, oldest first, then busy live ones. */
static inline struct core_copy *copy_first(const struct ofl_tensor *t)
{
    return t->ghosts ? t->ghosts : t->busy;
}

static inline struct core_copy *copy_after(const struct core_copy *c)
{
    if (!c->ghost)
        return c->busy_next;
    return c->next ? c->next : c->tensor->busy;
}

/* A transfer of t's tiles begins (1) or ends (-1). */
static inline void pager_moves(struct pager *p, struct ofl_tensor *t, int by)
{
    t->moving += (uint32_t)by;
    p->moving += (uint32_t)by;
}

/* t's state has changed: what it allows to happen next is found in this round. */
static inline void pager_look(struct pager *p, struct ofl_tensor *t)
{
    p->changes++;
    if (t->looked_for)
        return;
    t->looked_for = true;
    t->look_next = NULL;
    *p->looks_tail = t;
    p->looks_tail = &t->look_next;
}

/* op.c: the operations, and the first error. */
struct core_op *pager_op(struct pager *p, enum core_op_type type, struct ofl_tensor *t, uint32_t tile);
void pager_op_free(struct pager *p, struct core_op *op);
/* op was not issued after all. */
void pager_op_cancel(struct pager *p, struct core_op *op);
void pager_break(struct pager *p, const struct base_error *error);
/* A copy of its own, or, where there is no memory for one, a sentence that says so. NULL stays NULL. */
struct base_error *pager_error_copy(const struct base_error *error);
void pager_error_free(struct base_error *error);
int pager_check(const struct pager *p); /* -OFL_EBROKEN with the first error, or 0 */

#endif
