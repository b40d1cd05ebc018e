/*
 * sim: a deterministic simulation of the pager. The core's own files run behind a struct core_env
 * with virtual time: a drive, a link, workers and streams whose delays, order and failures come from
 * a seed. Random programs of the public calls run against it, and every byte that a kernel, a read
 * or an update sees is compared with a plain model of what include/offload.h promises.
 *
 *  - program.c  the programs: made from a seed, printed, shrunk
 *  - world.c    virtual time: drive, link, workers
 *  - stream.c   streams, gates, jobs
 *  - model.c    what each tensor must hold
 *  - run.c      the calls, as the public functions make them; host.c, optim.c: those on the host
 *  - alloc.c    failing allocations
 *  - store.c    the store, in memory
 *  - commit.c   the kept store, and commits
 */
#ifndef OFL_TESTS_SIM_H
#define OFL_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/events.h"
#include "liboffload/core/copy.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/pump.h"
#include "liboffload/core/tile.h"
#include "liboffload/core/verify.h"

#define SIM_GROUPS  3 /* of tensors that an optimizer works on */
#define SIM_TENSORS 24
#define SIM_STREAMS 4
#define SIM_OPTIMS  2
#define SIM_OWN     (SIM_STREAMS + SIM_OPTIMS) /* the library's own stream */
#define SIM_QUEUES  (SIM_OWN + 1)
#define SIM_BATCH   4
#define SIM_BATCHES 3 /* held by the program at once */
#define SIM_TILES   12
#define SIM_SLOTS   4 /* words of a tile that are written and compared */
#define SIM_WRITES  192
#define SIM_STMTS   240

/* ---- programs ---------------------------------------------------------- */

enum sim_stmt_type {
    STMT_NONE,
    STMT_CREATE,
    STMT_DESTROY,
    STMT_ACQUIRE, /* batch `slot` */
    STMT_LAUNCH,
    STMT_RELEASE,
    STMT_USE, /* the three in one */
    STMT_READ,
    STMT_WRITE,
    STMT_SYNC,
    STMT_RENEW, /* the stream is destroyed, and made again */
    STMT_BEGIN,
    STMT_END,
    STMT_APPLY,    /* optimizer step: group `slot` */
    STMT_OPTIMIZE, /* optimizer `slot`: end of its step */
    STMT_WAIT,
    STMT_WRONG, /* calls that are refused, and change nothing */
    STMT_QUIET, /* everything comes to rest */
    STMT_TYPES
};

struct sim_stmt {
    uint8_t type, stream, slot, count;
    uint8_t tensor[SIM_BATCH], mode[SIM_BATCH], drop[SIM_BATCH];
    uint8_t part[SIM_BATCH]; /* 0: the whole; else names a part, see sim_part */
    uint32_t arg, pause;     /* pause: virtual time that passes afterwards */
    uint64_t id;             /* seeds what happens from here on */
};

struct sim_spec {
    uint32_t words, each; /* of 8 bytes; bytes per element */
    enum ofl_kind kind;
    bool transient, source, kept;
};

struct sim_config {
    uint64_t tile_bytes, device_bytes, host_bytes, store_bytes, expected_bytes, leased_bytes;
    uint32_t streams, optims, clip, active_max;                   /* clip: bits */
    uint32_t drive, link, work, job, post;                        /* delays, at most */
    uint32_t read_error, read_bad, write_error, copy_error, late; /* per 1000 */
    uint32_t alloc_rate; /* of so many allocations one fails; 0: none */
    uint32_t alloc_at;   /* this one fails; 0: none */
    uint32_t store_full; /* per 1000 reservations */
    bool poison;
};

struct sim_program {
    uint64_t seed;
    struct sim_config config;
    struct sim_spec specs[SIM_TENSORS];
    bool low[SIM_GROUPS]; /* BF16 with a master beside it */
    struct sim_stmt stmts[SIM_STMTS];
    uint32_t count;
};

struct sim_options {
    bool no_faults, no_alloc_failures, no_streams, no_optimizers, no_steps, no_parts;
    uint32_t
        hints; /* before one of so many statements the program hints at what comes, right or wrong; 0: never */
    uint32_t unplanned; /* one of so many leases is no part of its step's record; 0: none */
    uint32_t commits;   /* before one of so many statements the program commits; 0: nothing is kept */
    bool (*spoil)(struct pager *p); /* tests: makes a book wrong, true once it could */
    uint32_t verify_every;          /* books are balanced after so many events; 0: only at rest */
    bool trace, dump;
};

void sim_program_make(struct sim_program *prog, uint64_t seed, const struct sim_options *options);
void sim_program_print(const struct sim_program *prog);

#define SIM_TEXT 1024

struct sim_result {
    bool failed;
    const char *kind; /* the sentence without its numbers */
    char what[SIM_TEXT];
    uint64_t events, checks, evictions, misses, prefetches, read, written, updates, commits;
};

void sim_run(const struct sim_program *prog, const struct sim_options *options, struct sim_result *out);
/* Drops statements as long as it still fails. */
void sim_shrink(struct sim_program *prog, const struct sim_options *options, struct sim_result *out);

/* ---- the world --------------------------------------------------------- */

struct sim_random {
    uint64_t state;
};

uint64_t sim_next(struct sim_random *r);
uint32_t sim_below(struct sim_random *r, uint32_t n); /* n 0: 0 */

struct sim_write {
    uint16_t first, end; /* slots */
    bool undefined;      /* contents are anything from here on */
    bool skipped;        /* it did not happen */
    bool must_skip;      /* somebody who comes later has not seen it */
    bool maybe;          /* its stream failed afterwards: it may count or not */
    uint32_t done;       /* by tile */
};

struct sim_tensor {
    struct ofl_tensor *t; /* NULL: does not exist */
    struct sim_spec spec;
    uint32_t uid, index, tiles, tile_bytes, slots;
    uint32_t readers, writers; /* leases of all or a part */
    bool hurt;                 /* an injected failure met it: errors are to be expected */
    uint32_t hurt_at;          /* writes when it was */
    int lost;            /* the error by which it is refused until it is overwritten whole; 0: it is not */
    uint32_t updates;    /* pending */
    bool source, spoilt; /* spoilt: the file has other bytes than were written */
    struct sim_write writes[SIM_WRITES];
    uint32_t count;
};

struct sim_access {
    struct sim_tensor *tensor;
    uint8_t *ptr;
    uint32_t first, end; /* slots that it may touch: ptr is where the tensor would begin */
    uint32_t upto;       /* writes before it, in the order of the program */
    int32_t write;       /* its own; -1: none */
    bool reads;
};

struct sim_job {
    struct sim_access access[SIM_BATCH];
    uint32_t count;
};

/* What a release closes. */
struct sim_use {
    struct sim_tensor *tensor;
    uint32_t first, end; /* its writes */
    int32_t undefined;   /* that of an overwrite; -1 */
    uint32_t from, to;   /* bytes */
    uint32_t slot, slot_end;
    bool wrote, written; /* written: by a kernel that was launched */
};

enum sim_item_type { ITEM_WAIT, ITEM_JOB, ITEM_MARK };

struct sim_item {
    enum sim_item_type type;
    struct dev_gate *gate;
    struct core_op *op;
    struct sim_job job;
    struct sim_use uses[SIM_BATCH];
    uint32_t uses_count;
    struct sim_item *next;
};

struct sim_stream {
    struct sim_item *head, **tail;
    bool busy, kicked;
    int failed;
    uint64_t id, reported; /* when the latest mark is heard of */
};

struct dev_gate {
    bool open, waited;
    uint32_t parts;
    int code;
    uint32_t stream;
    struct sim_tensor *tensors[SIM_BATCH];
    uint32_t count;
};

struct io_file {
    uint8_t *bytes;
    uint64_t size;
};

/* A tensor, as a commit has it. */
struct sim_snap {
    uint32_t uid;  /* 0: none */
    uint32_t upto; /* writes before it */
    uint32_t slots, there;
    bool spoilt;
    uint64_t offset, at[SIM_TILES]; /* of the tensor, and its tiles, in the file */
    uint32_t word[SIM_TILES * SIM_SLOTS];
    uint64_t words[SIM_TILES * SIM_SLOTS];
};

struct sim_range {
    uint64_t offset, bytes;
};

struct store {
    struct io_file file;
    struct base_extents *ranges;
    uint64_t budget, used;
};

enum sim_event_type {
    EVENT_IO,
    EVENT_LINK,
    EVENT_WORK,
    EVENT_KICK,
    EVENT_JOB,
    EVENT_DONE,
    EVENT_HOST,
    EVENT_SEAL,
    EVENT_ZERO,
    EVENT_COMMIT,
    EVENT_TICK
};

struct sim_move {
    uint8_t *to;
    const uint8_t *from;
    uint64_t bytes;
    uint8_t byte; /* if from is NULL */
    struct core_op *op;
    uint32_t phase, fault;
    uint64_t at[3];
    struct core_request *request;
    struct sim_move *next;
};

struct sim_batch {
    bool held;
    uint32_t count, stream;
    struct ofl_lease leases[SIM_BATCH];
    struct sim_tensor *tensors[SIM_BATCH];
    struct sim_use uses[SIM_BATCH];
    uint32_t held_from[SIM_BATCH],
        held_to[SIM_BATCH]; /* bytes that nobody else may lease but inside of them */
};

struct sim_group {
    struct core_update update;
    struct sim_tensor *tensors[CORE_UPDATE_TENSORS];
    uint32_t upto[CORE_UPDATE_TENSORS];
    int32_t write[CORE_UPDATE_TENSORS];
    bool applied, pending, held;
    struct sim *sim;
};

struct sim_norm {
    struct sim *sim;
    bool pending;
};

struct sim {
    const struct sim_program *prog;
    const struct sim_options *options;
    struct sim_result *result;
    struct pager pager;
    struct store store;
    struct io_file source, kept;
    struct base_extents *kept_ranges;
    struct sim_snap taken[SIM_TENSORS], whole[SIM_TENSORS]; /* by the commit in flight, and the last one */
    struct sim_range gone[SIM_TENSORS];                     /* free once the next commit is whole */
    uint32_t gone_count;
    bool commit_failed; /* an injected failure is still to be told */
    uint64_t source_used;
    struct sim_random random;
    uint64_t now, events_run;
    struct base_events events;
    struct sim_move *free_moves;
    struct sim_item *free_items;
    struct sim_move *link[2], **link_tail[2];
    struct sim_stream streams[SIM_QUEUES];
    struct sim_tensor tensors[SIM_TENSORS];
    struct sim_batch batches[SIM_BATCHES];
    struct sim_group groups[SIM_GROUPS];
    struct sim_norm norms[SIM_OPTIMS];
    uint32_t uids, stmt;
    bool ticking;   /* the pump is to run again soon */
    bool due;       /* the pump is to run */
    bool may_break; /* something failed that breaks the context */
    bool no_more_faults;
    bool in_step;
    uint64_t stream_ids, allocs_failed; /* before the call in progress */
};

/* The first one wins. */
void sim_fail(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool sim_failed(const struct sim *s);
/* Between these two the core runs, and allocations may fail. */
void sim_enter(struct sim *s);
void sim_leave(struct sim *s);

/* world.c */
void sim_env(struct sim *s, struct core_env *env);
void sim_post(struct sim *s, uint64_t delay, enum sim_event_type type, void *what, uint32_t index);
uint32_t sim_delay(struct sim *s, uint32_t most);
bool sim_chance(struct sim *s, uint32_t per_1000);
/* Runs the next event; false: there is none. */
bool sim_step(struct sim *s);
void sim_pump(struct sim *s);
void sim_until(struct sim *s, uint64_t time);
/* Runs until over(arg); a violation if nothing is left that could end it. */
bool sim_await(struct sim *s, bool (*over)(struct sim *s, void *arg), void *arg, const char *what);
void sim_rest(struct sim *s); /* until nothing moves */
void sim_link(struct sim *s, int way, void *to, const void *from, uint8_t byte, uint64_t bytes,
              struct core_op *op);
struct sim_move *sim_move_get(struct sim *s);
void sim_move_put(struct sim *s, struct sim_move *m);

/* stream.c */
void sim_stream_open(struct sim *s, uint32_t index);
bool sim_stream_idle(const struct sim_stream *q);
void sim_stream_kick(struct sim *s, uint32_t index);
void sim_stream_add(struct sim *s, uint32_t index, struct sim_item *item);
struct sim_item *sim_item_get(struct sim *s, enum sim_item_type type);
void sim_job_end(struct sim *s, uint32_t index);
void sim_gate_wait(struct sim *s, struct dev_gate *gate, uint32_t stream);
int sim_gate_create(void *arg, struct dev_gate **gate);
void sim_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error);

/* model.c */
void sim_tensor_shape(const struct sim_program *prog, struct sim_tensor *x);
uint32_t sim_slot_offset(const struct sim_tensor *x, uint32_t slot); /* in the tensor */
uint32_t sim_slot_tile(uint32_t slot);
/* The part that code names: bytes. One code names the same part of a tensor each time. */
void sim_part(const struct sim_tensor *x, uint32_t code, uint32_t *from, uint32_t *to);
/* The slots whose words lie in these bytes. */
void sim_slots_in(const struct sim_tensor *x, uint32_t from, uint32_t to, uint32_t *first, uint32_t *end);
uint64_t sim_value(const struct sim_tensor *x, int32_t write, uint32_t slot); /* -1: as created */
int32_t sim_write_add(struct sim_tensor *x, uint32_t first, uint32_t end, bool undefined);
/* word is what somebody sees who comes after so many writes. */
void sim_check_word(struct sim *s, struct sim_tensor *x, uint32_t slot, uint32_t upto, uint64_t word,
                    const char *who);
void sim_check(struct sim *s, struct sim_tensor *x, const uint8_t *ptr, uint32_t first, uint32_t end,
               uint32_t upto, const char *who);
void sim_fill(const struct sim_tensor *x, uint8_t *ptr, int32_t write, uint32_t first, uint32_t end);
void sim_hurt(struct sim_tensor *x);
struct sim_tensor *sim_find(struct sim *s, const struct ofl_tensor *t);

/* run.c */
bool sim_fails_rightly(struct sim *s, int err, struct sim_tensor *const *tensors, uint32_t count,
                       const char *what);
/* A call on x alone, at once: err is what it returned. whole: it overwrites all of x. */
void sim_check_lost(struct sim *s, struct sim_tensor *x, int err, bool whole, const char *what);
int sim_acquire(struct sim *s, struct sim_batch *b);
void sim_launch(struct sim *s, struct sim_batch *b);
void sim_release(struct sim *s, struct sim_batch *b);
bool sim_sync(struct sim *s, uint32_t stream);

/* host.c */
void sim_read(struct sim *s, struct sim_tensor *x, uint32_t first, uint32_t end);
void sim_write(struct sim *s, struct sim_tensor *x, uint32_t first, uint32_t end);
void sim_host_event(struct sim *s, void *what);

/* optim.c */
void sim_apply(struct sim *s, uint32_t group);
void sim_optimize(struct sim *s, uint32_t optim);

/* alloc.c */
void sim_alloc_start(const struct sim_config *c, uint64_t seed);
void sim_alloc_arm(bool armed);
uint64_t sim_alloc_failures(void);
int64_t sim_alloc_live(void);
void *sim_take(size_t bytes); /* for the simulation itself: never fails */

/* dump.c: prints the pager's state. */
void sim_dump(const struct sim *s);

/* commit.c */
void sim_kept_open(struct sim *s);
void sim_kept_close(struct sim *s);
void sim_commit(struct sim *s);
void sim_check_whole(struct sim *s);
void sim_env_commit(void *arg, struct core_op *op);
void sim_commit_event(struct sim *s, struct core_op *op);

/* store.c */
int sim_store_open(struct sim *s);
void sim_store_close(struct sim *s);

#endif
