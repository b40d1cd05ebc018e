/*
 * context: what stands behind an ofl_ctx. Owns the engine, which runs the pager, and the device, arena,
 * queue, store and workers that perform what the pager asks for.
 *
 * Locks: the engine's, then lists_lock and log_lock, which are leaves. None is held while anything of the user's is
 * called, but for the log function: log_lock then is, and the engine's may be, so it must not call the library.
 */
#ifndef OFL_CORE_CONTEXT_H
#define OFL_CORE_CONTEXT_H

#include <pthread.h>

#include "liboffload/core/core.h"
#include "liboffload/core/engine.h"
#include "liboffload/mem/mem.h"

struct ofl_stream {
    struct ofl_ctx *ctx;
    struct dev_stream *dev;
    struct ofl_stream *prev, *next;
};

struct ofl_ctx {
    struct core_engine engine;
    unsigned forks; /* base_forks of the process that opened it */
    struct mem_arena arena;
    struct store *store;
    struct core_keeper *keeper; /* NULL: there is no kept store */
    unsigned file_flags;
    uint64_t memory_left;      /* of what the process may have, beside the arenas */
    char memory_text[160];     /* what was subtracted from what */
    bool registered;           /* the arena, with the ring */
    struct base_limit written; /* bytes, to drives */
    ofl_log_fn *log;
    void *log_arg;
    pthread_mutex_t log_lock;

    pthread_mutex_t lists_lock; /* guards what follows */
    struct ofl_stream *streams;
    struct ofl_source *sources;
    struct core_hook *hooks;
    struct core_upload *uploads;   /* upload.c's */
    struct ofl_stream *own_stream; /* for the library's own copies; NULL: somebody has it */
};

/* Any thread but the library's own: runs run(ctx, arg) under the engine's lock, again after the next progress
 * as long as it returns -EAGAIN. */
int core_call(struct ofl_ctx *ctx, int (*run)(struct ofl_ctx *, void *), void *arg);
/* Any thread. */
void core_log(struct ofl_ctx *ctx, enum ofl_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* storage.c: queue, store; part of opening. The budgets are checked before anything takes memory: ctx keeps
 * what they leave to a store whose bytes are memory. */
int core_budgets_check(struct ofl_ctx *ctx, const struct ofl_config *c);
int core_io_open(struct ofl_ctx *ctx, const struct ofl_config *c);

/* stream.c: a stream for copies of the library's own. Each has one to itself meanwhile, and one that has failed
 * is not used again: what fails for one must not for the next. */
int core_stream_take(struct ofl_ctx *ctx, struct ofl_stream **out);
void core_stream_give(struct ofl_stream *s, bool failed);

/* stream.c: the caller's leases, one of another size after the other, as an array of ours. *out is the caller's own
 * where that is the same, else to be freed. */
int core_leases_in(struct ofl_lease *from, size_t n, const char *what, struct ofl_lease **out);

/* -EINVAL if one of the tensors is another context's. */
int core_leases_ours(const struct ofl_ctx *ctx, const struct ofl_lease *leases, size_t n, const char *what);

/* tensor.c: makes the internal object without adding it. */
int core_tensor_make(struct ofl_ctx *ctx, const struct ofl_tensor_desc *desc, const uint64_t *file_off,
                     struct ofl_tensor **out);
int core_tensor_add(struct ofl_tensor *t);
/* keep.c: the kept store of a context: part of opening, and of closing. */
int core_keep_open(struct ofl_ctx *ctx, const struct ofl_config *c);
void core_keep_close(struct ofl_ctx *ctx);
struct kept *core_kept(const struct ofl_ctx *ctx); /* NULL: there is none */
void core_keep_stats(struct ofl_ctx *ctx, struct ofl_stats *s);
/* Whether t can be made, under the engine's lock; before that, and without it: what was kept of it is cut as t is. */
int core_keep_check(struct ofl_ctx *ctx, const struct ofl_tensor *t);
int core_keep_prepare(struct ofl_tensor *t);
/* upload.c: what uploads have left; all streams are gone. */
void core_uploads_free(struct ofl_ctx *ctx);
/* watch.c: closes the timeline, if one is open. Nothing may be under way. */
void core_timeline_end(struct ofl_ctx *ctx);
/* source.c */
void core_source_free(struct ofl_source *s);
void core_source_read(struct core_op *op); /* the engine's read_ended */
bool core_source_direct(const struct ofl_source *s);
const struct ofl_source *core_source_next(const struct ofl_source *s); /* of the context's list */

#endif
