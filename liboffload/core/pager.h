/*
 * pager: the only mover of bytes. A state machine over tensors, their copies on the
 * device and their tiles in host memory and in the store. It owns what is where, and
 * decides what to move; it performs nothing itself: moves go out through struct
 * core_env, and come back as finished struct core_op. It has no thread, no clock and
 * no lock: its owner (context.c) calls it from one thread.
 *
 * How a tensor's bytes live
 *  - DEVICE: whole tensors, as struct core_copy, one range of the arena each. A copy
 *    whose range was given to another tensor is a ghost until its last reader, copy
 *    or write-back has completed; the newcomer's bytes wait for its ghosts. So ranges
 *    are assigned at once, and the host never waits for the device.
 *  - HOST: tiles, each in a range of the host arena, assigned when bytes arrive.
 *  - NVME: tiles have a fixed range of the store (or of a source file).
 * Each tensor's home, where its bytes are when nothing wants them, is one of these (home.c): the
 * device, whole; or tile by tile, the first home_tiles of them HOST, the others NVME.
 *
 * Which copy is newest: a dirty device copy, else its dirty ghost (tile by tile, until
 * drained), else a host tile, else the store, else the tensor is zeros.
 *
 * Host-side work on tensors (optimizer updates) is ordered with device copies by two
 * counters per tensor, host_issued and host_done: a copy made after k host works were
 * issued moves no byte to or from host tiles until k are done, and the k-th work
 * starts when k - 1 are done.
 */
#ifndef OFL_CORE_PAGER_H
#define OFL_CORE_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload.h"
#include "io/io.h"
#include "base/error.h"
#include "base/extent.h"
#include "liboffload/device/device.h"
#include "liboffload/store/store.h"
#include "scheduler/trace.h"

#define CORE_HOST_ALIGN     4096u
#define CORE_DEVICE_ALIGN   256u
#define CORE_UPDATE_TENSORS 5

enum tile_state { TILE_NONE, TILE_ARRIVING, TILE_VALID };

struct core_tile {
    uint64_t off;  /* range in the host arena, if state is not TILE_NONE (always, for one at home in HOST) */
    uint64_t seal; /* of the bytes in the store, if stored */
    uint32_t len;  /* of that range */
    uint16_t pins; /* link copies, write-backs and host work that use the range */
    uint16_t wanted; /* by requests in flight that will pin it: not to be evicted meanwhile */
    uint8_t state;   /* enum tile_state */
    bool dirty;      /* newer than the store */
    bool stored;     /* the store (or the source) has bytes of it */
    bool writing;    /* write-back in flight: the range must not change */
    bool stale;      /* dropped while pinned: freed with the last pin */
};

struct core_cond;

struct core_copy {
    struct ofl_tensor *tensor;
    struct core_copy *prev, *next; /* live: by address; ghosts: by age */
    uint64_t seq, off, len;
    uint64_t after_host; /* host works to await before bytes move */
    uint32_t leases;
    bool writer;      /* the lease is exclusive */
    bool home;        /* never evicted: the device is this tensor's home */
    bool ghost, drop; /* drop: nothing to write back */
    bool dirty;
    bool clear;   /* no older ghost in the range */
    bool fill;    /* bytes are to be fetched */
    bool hollow;  /* placed ahead for an overwrite: has no bytes, and none on their way */
    bool fetched; /* started ahead of its acquire */
    bool poisoned;
    uint32_t fill_next, fill_done; /* tiles issued, landed */
    uint32_t drain_next, drain_done;
    uint32_t moving;                /* link copies in flight */
    uint32_t marks, write_marks;    /* released uses that have not completed */
    uint64_t mark_seq, mark_stream; /* of the latest release; stream 0: several */
    uint32_t waiting;               /* conditions below that await the bytes */
    struct core_cond *conds;
    struct base_error *error; /* the fill failed */
};

struct ofl_tensor {
    struct ofl_ctx *ctx;
    struct ofl_tensor *prev, *next;
    char *name;
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint32_t id, flags;
    uint64_t elems, bytes, tile_elems, tile_bytes;
    uint32_t tiles_count;
    struct core_tile *tiles;
    struct io_file *file; /* the store's, or the source's; NULL: no tile has its home below HOST */
    uint64_t file_off;    /* of tile home_tiles */
    struct ofl_source *source;
    bool leaving;        /* being destroyed: nothing is fetched for it */
    bool homed;          /* it has its home already, and awaits that nothing else is there */
    bool device_home;    /* its copy is never evicted; nothing of it is below */
    uint32_t home_tiles; /* the first so many own their ranges of the host arena for good */
    struct core_copy *current;
    uint32_t dirty_ghosts, ghosts;
    uint64_t host_issued, host_done, version;
    uint64_t fill_seq;   /* as of this round: the oldest copy whose bytes somebody awaits, or SCHED_NEVER */
    bool fill_ahead;     /* as of this round: a copy is being filled that nobody awaits yet */
    uint32_t host_tiles; /* with a range of the host arena, home or not */
    uint32_t moving;     /* operations in flight on its tiles */
    uint32_t refs;       /* what else holds it: optimizers */
};

enum core_op_type { OP_READ, OP_WRITE, OP_IN, OP_OUT, OP_FILL, OP_MARK, OP_CALL };

struct core_use {
    struct core_copy *copy;
    uint64_t seq, version;
    bool wrote, drop;
};

struct core_op {
    enum core_op_type type;
    int code; /* result of device operations */
    struct core_op *next;
    struct ofl_tensor *tensor;
    struct core_copy *copy;
    uint32_t tile, uses_count;
    struct core_use *uses;             /* OP_MARK */
    void (*call)(void *arg, int code); /* OP_CALL: engine thread */
    void *arg;
    struct io_request io;
};

/* One acquire that has to wait: its gate opens when the last condition holds. */
struct core_wait {
    struct dev_gate *gate;
    uint32_t remaining;
    struct core_wait *prev, *next;
    struct base_error *error;
};

struct core_cond {
    struct core_wait *wait;
    struct core_cond *next;
    bool bytes; /* awaits the copy's bytes; else the marks up to upto */
    uint64_t upto;
    uint32_t count;
};

enum core_access { HOST_READ, HOST_UPDATE, HOST_OVERWRITE, HOST_CONSUME };

struct core_tileref {
    struct ofl_tensor *tensor;
    uint32_t tile;
    enum core_access access;
    bool held, fresh; /* fresh: never written, the memory is undefined and means zeros */
    void *ptr;        /* NULL for a HOST_READ of a fresh tile */
};

struct core_update;

/* Tiles of several tensors, wanted in host memory together. */
struct core_request {
    struct core_request *prev, *next;
    struct core_tileref refs[CORE_UPDATE_TENSORS];
    uint32_t count, held;
    uint32_t claims;                       /* of an update: tiles that are not at home in HOST */
    uint64_t ordinal[CORE_UPDATE_TENSORS]; /* of the host work, by tensor */
    uint64_t seq;                          /* copies older than this count */
    struct core_update *update;            /* NULL: a caller's */
    void (*done)(struct core_request *r);  /* a caller's: tiles are held, or error is set */
    void *arg;
    struct base_error error;
};

/* An optimizer update of one weight: host work on all its tiles, in tile order. */
struct core_update {
    struct core_update *next;
    struct ofl_tensor *tensors[CORE_UPDATE_TENSORS];
    enum core_access access[CORE_UPDATE_TENSORS];
    uint64_t ordinal[CORE_UPDATE_TENSORS];
    uint32_t count;
    uint64_t seq;
    uint32_t tiles, tiles_next, tiles_done;
    bool held; /* queued for its place in the order; not to start before held is cleared */
    /* Worker thread. ptr and fresh by tensor; elems of them from element first. */
    void (*tile)(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems);
    void (*done)(void *arg); /* engine thread; the update is free afterwards */
    void *arg;
};

/* What the pager asks for. Everything comes back through pager_done, except gates. */
struct core_env {
    void *arg;
    void (*io)(void *arg, struct core_op *op);
    void (*copy_in)(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op);
    void (*copy_out)(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op);
    void (*fill)(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op);
    void (*work)(void *arg,
                 struct core_request *r); /* runs update->tile on a worker, then pager_request_end */
    int (*gate_create)(void *arg, struct dev_gate **gate);
    void (*gate_open)(void *arg, struct dev_gate *gate, const struct base_error *error);
    const char *(*why)(void *arg, int code); /* a device operation failed: its cause, in words */
    void (*log)(void *arg, enum ofl_log_level level, const char *text);
};

/* Where tensors live: see home.c. */
struct core_homes {
    bool device_only;          /* on the device, all of them */
    uint64_t expected_bytes;   /* announced; 0: unknown */
    uint64_t leased_bytes;     /* device memory that homes leave to leases */
    uint64_t stage_min_bytes;  /* host memory that homes leave for moving bytes */
    uint64_t share[OFL_TIERS]; /* of the bytes announced; all 0: tiers are filled one after another */
    uint64_t bytes[OFL_TIERS]; /* of homes, as allocated */
    struct base_extents *host; /* ranges of homes in HOST, counted from the arena's end down */
};

struct pager {
    struct core_env env;
    struct base_error broken; /* code 0: healthy; first error wins */
    struct sched *sched;
    struct ofl_tensor *tensors;
    struct ofl_tensor **by_id;
    uint32_t next_id, ids_room;
    uint64_t changes; /* grows with every decision: the pump runs until it stands still */
    uint64_t seq, tile_bytes;
    bool poison;
    /* device */
    uint8_t *device;
    uint64_t device_bytes, device_used, device_peak;
    struct core_copy live, ghosts; /* list heads; live by address */
    struct core_wait waits;
    struct place_item *items; /* scratch of copy.c */
    struct core_copy **fills;
    size_t items_room, fills_room;
    /* host */
    uint8_t *host;
    uint64_t host_bytes, host_peak;
    /* Homes end the arena; before them lie stage_bytes through which all else moves. These count the
     * ranges there: taken, dirty, in write-backs, being filled. */
    uint64_t stage_bytes, cached_bytes, dirty_bytes, writing_bytes, arriving_bytes;
    struct base_extents *host_ranges;
    bool starved;                  /* a claim found no clean idle tile: write-backs must run */
    bool fills_stuck, ahead_stuck; /* in this round a claim of that need failed: later ones would, too */
    struct core_request requests;  /* list head, in order */
    uint32_t active, active_max;   /* update requests */
    uint32_t claims, claims_max;   /* tiles that they may hold in the stage */
    struct core_update *updates, **updates_tail;
    /* nvme */
    struct store *store;
    struct core_homes homes;
    /* operations */
    struct core_op *free_ops;
    uint32_t inflight;
    struct ofl_stats stats;
};

/* pager.c: life, inputs, the pump */
int pager_open(struct pager *p);
void pager_close(struct pager *p);
/* Starts whatever can start. True if it stopped before everything stood still: call again. */
bool pager_pump(struct pager *p);
void pager_done(struct pager *p, struct core_op *op);
void pager_break(struct pager *p, const struct base_error *error);
int pager_check(const struct pager *p); /* -OFL_EBROKEN with the first error, or 0 */
struct core_op *pager_op(struct pager *p, enum core_op_type type, struct ofl_tensor *t, uint32_t tile);
void pager_op_free(struct pager *p, struct core_op *op);
/* op was not issued after all. */
void pager_op_cancel(struct pager *p, struct core_op *op);
/* -EAGAIN while something else still lies where it is to live. */
int pager_tensor_add(struct pager *p, struct ofl_tensor *t);
/* -EAGAIN while something of it is in flight. */
int pager_tensor_remove(struct pager *p, struct ofl_tensor *t);

/* home.c: where tensors live */
/* The tile that config's budgets are served best with. store_bytes: the store's budget, 0: none. */
uint64_t home_tile_bytes(const struct ofl_config *config, uint64_t store_bytes);
/* After pager_open. */
int home_open(struct pager *p, const struct ofl_config *config);
void home_close(struct pager *p);
/* A home for t: -OFL_EBUDGET with the numbers of all tiers. Nothing for sources and what is transient. */
int home_take(struct pager *p, struct ofl_tensor *t);
void home_give(struct pager *p, struct ofl_tensor *t);

/* lease.c: acquire and release */
int pager_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct dev_gate **gate);
/* *mark is to be posted on the stream; NULL for an empty batch. */
int pager_release(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_op **mark);
void lease_copy_ready(struct pager *p, struct core_copy *c);
void lease_mark_done(struct pager *p, struct core_op *op);
void lease_fail_all(struct pager *p);

/* copy.c: device copies: placement, fill, drain */
uint64_t copy_footprint(uint64_t bytes);
/* A range for t, at the expense of copies whose next use is further than limit events away;
 * NULL if there is none. */
struct core_copy *copy_place(struct pager *p, struct ofl_tensor *t, uint64_t limit);
struct core_copy *copy_place_home(struct pager *p, struct ofl_tensor *t);
void copy_evict(struct pager *p, struct core_copy *c);
void copy_evict_all(struct pager *p);
bool copy_bytes_ready(const struct core_copy *c);
bool copy_at_rest(const struct pager *p, const struct core_copy *c);
void copy_ghost_drop(struct core_copy *c);
void copy_advance(struct pager *p);
void copy_moved(struct pager *p, struct core_op *op);
void copy_fail(struct pager *p, struct ofl_tensor *t, const struct base_error *error);
/* A copy made before that host work still awaits bytes from the tiles. */
bool copy_fill_before(const struct pager *p, const struct ofl_tensor *t, uint64_t ordinal);
bool copy_fill_older(const struct pager *p, const struct ofl_tensor *t, uint64_t seq);
/* Work on streams has still to pass a use of t. */
bool copy_in_use(const struct pager *p, const struct ofl_tensor *t);
/* The tile's newest bytes are below the device, as far as copies older than seq are concerned. */
bool copy_drained(const struct pager *p, const struct ofl_tensor *t, uint32_t tile, uint64_t seq);

/* tile.c: host tiles: ranges, reads, write-backs */
enum tile_need { NEED_WORK, NEED_FILL, NEED_AHEAD };
/* NEED_WORK may evict any idle tile; NEED_FILL (of the copy with that seq) none that an older awaited
 * fill still needs, but those of its own that have served; NEED_AHEAD only tiles that no fill needs and
 * whose next use is further than ahead events away. */
struct tile_claim {
    enum tile_need need;
    uint64_t seq, ahead;
    uint32_t tile;   /* that is claimed */
    uint32_t landed; /* NEED_FILL: tiles of its own tensor before this one have served */
};
uint64_t tile_count_bytes(const struct ofl_tensor *t, uint32_t tile);
void *tile_ptr(const struct pager *p, const struct ofl_tensor *t, uint32_t tile);
bool tile_claim_range(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim);
bool tile_read_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim,
                     enum io_class class);
void tile_set_dirty(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool dirty);
void tile_drop(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_unpin(struct pager *p, struct ofl_tensor *t, uint32_t tile);
void tile_drop_all(struct pager *p, struct ofl_tensor *t);
void tile_write_behind(struct pager *p);
void tile_io_done(struct pager *p, struct core_op *op);
uint64_t tile_host_used(const struct pager *p);
void tile_note_peak(struct pager *p);
/* Nothing but homes lies beyond stage_bytes; false: something still does, and is on its way out. */
bool tile_vacate(struct pager *p);
bool tile_busy(const struct ofl_tensor *t);

/* work.c: tile requests and updates */
int pager_request(struct pager *p, struct core_request *r);
void pager_request_end(struct pager *p, struct core_request *r);
int pager_update(struct pager *p, struct core_update *u);
void work_advance(struct pager *p);
void work_fail(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error);
void work_fail_all(struct pager *p);

#endif
