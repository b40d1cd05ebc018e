/*
 * context: what stands behind an ofl_ctx. Owns the engine thread, which owns the pager;
 * the mailbox that brings it commands and completions; and the device, arena, queue,
 * store and workers that perform what the pager asks for.
 *
 * Locks: mail_lock and log_lock; neither is held while anything is called.
 */
#ifndef OFL_CORE_CONTEXT_H
#define OFL_CORE_CONTEXT_H

#include <pthread.h>
#include <semaphore.h>

#include "base/pool.h"
#include "liboffload/core/pager.h"
#include "liboffload/mem/mem.h"

struct ofl_stream {
    struct ofl_ctx *ctx;
    struct dev_stream *dev;
    struct ofl_stream *prev, *next;
};

/* Something to be run by the engine thread; lives on the caller's stack until it is done. */
struct core_cmd {
    int (*run)(struct ofl_ctx *ctx, void *arg); /* -EAGAIN: again after the next progress */
    void *arg;
    int result;
    struct base_error error;
    sem_t done;
    struct core_cmd *next;
};

/* Run by ofl_close before anything is torn down. */
struct core_hook {
    void (*close)(struct core_hook *h);
    struct core_hook *next;
};

struct ofl_ctx {
    struct pager pager;
    struct dev *dev;
    struct mem_arena arena;
    struct io_queue *io;
    struct store *store;
    struct base_pool *pool;
    unsigned file_flags;
    bool registered; /* the arena, with the ring */
    ofl_log_fn *log;
    void *log_arg;
    pthread_mutex_t log_lock;

    pthread_t thread;
    bool thread_runs;
    int mail_fd;
    pthread_mutex_t mail_lock; /* guards what follows, to stopping */
    struct core_cmd *cmds, **cmds_tail;
    struct core_op *ops, **ops_tail;
    struct core_request *ended;
    bool stopping;
    struct core_cmd *blocked; /* engine thread */

    pthread_mutex_t lists_lock; /* guards streams, sources, hooks */
    struct ofl_stream *streams;
    struct ofl_source *sources;
    struct core_hook *hooks;
    struct ofl_stream *own_stream; /* for the library's own copies */
};

/* Any thread but the engine's: runs run(ctx, arg) on the engine thread, and waits. */
int core_call(struct ofl_ctx *ctx, int (*run)(struct ofl_ctx *, void *), void *arg);
/* Any thread. */
void core_log(struct ofl_ctx *ctx, enum ofl_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Any thread but the engine's: engine calls call(arg, code) once s has passed this point. */
int core_stream_call(struct ofl_stream *s, void (*call)(void *arg, int code), void *arg);
void core_hook_add(struct ofl_ctx *ctx, struct core_hook *h);
void core_hook_remove(struct ofl_ctx *ctx, struct core_hook *h);

/* storage.c: queue, store; part of opening. */
int core_io_open(struct ofl_ctx *ctx, const struct ofl_config *c);

/* tensor.c: makes the internal object without adding it. */
int core_tensor_make(struct ofl_ctx *ctx, const struct ofl_tensor_desc *desc, struct ofl_tensor **out);
void core_tensor_free(struct ofl_tensor *t);
int core_tensor_add(struct ofl_tensor *t);
/* t lives on the device: host-side work can't reach it. */
bool core_tensor_on_device(const struct ofl_tensor *t);
/* -ENOTSUP unless all of these live on the device, or none: updates work on them together. NULLs are left out. */
int core_tensors_together(struct ofl_tensor *const *tensors, uint32_t count);
/* source.c */
void core_source_free(struct ofl_source *s);
bool core_source_direct(const struct ofl_source *s);
const struct ofl_source *core_source_next(const struct ofl_source *s); /* of the context's list */

#endif
