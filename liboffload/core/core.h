/*
 * core: what the rooms above see of it beside the public header. Tensors and streams are known by name here;
 * how they are paged is not.
 */
#ifndef OFL_CORE_CORE_H
#define OFL_CORE_CORE_H

#include <stdbool.h>

#include "base/entry.h"
#include "liboffload/core/update.h"
#include "liboffload/device/device.h"

/* -EINVAL if ctx was opened by the process that this one was forked from. */
int core_forked(const char *call, const struct ofl_ctx *ctx);
/* What a public call begins with: whether one of the pointers is NULL, or else ctx (which may be read through them)
 * is another process's. Then there is a sentence, and the call is -EINVAL. */
#define core_refused(ctx, ...) (base_need(__VA_ARGS__) < 0 || core_forked(__func__, ctx) < 0)

/* Run by ofl_close before anything is torn down. */
struct core_hook {
    void (*close)(struct core_hook *h);
    bool (*open)(const struct core_hook *h); /* step thread: something of it is begun, and not ended */
    struct core_hook *next;
};

void core_hook_add(struct ofl_ctx *ctx, struct core_hook *h);
void core_hook_remove(struct ofl_ctx *ctx, struct core_hook *h);

struct dev *core_device(struct ofl_ctx *ctx);
struct dev_stream *core_stream_device(struct ofl_stream *s);
struct ofl_ctx *core_stream_ctx(const struct ofl_stream *s);
/* Any thread but the library's own: call(arg, code) runs once s has passed this point, under the engine's lock:
 * it must be short, and may call core_update_let_go and core_break alone. Waits where there is no memory. */
int core_stream_call(struct ofl_stream *s, void (*call)(void *arg, int code), void *arg);
/* ofl_release for leases that the library has taken for itself: nobody would try again, so it waits where there
 * is no memory. */
int core_release(struct ofl_ctx *ctx, struct ofl_lease *leases, size_t n, struct ofl_stream *s);
/* The same thread as that of a call: what has been reported until now has been heard. */
void core_settle(struct ofl_ctx *ctx);

/* What may be asked of a tensor without a lock: none of it changes while the tensor is there. */
struct ofl_ctx *core_tensor_ctx(const struct ofl_tensor *t);
/* Its bytes are a file's, or only there while it is leased: it can't be updated. */
bool core_tensor_fixed(const struct ofl_tensor *t);
/* OFL_TENSOR_KEPT. */
bool core_tensor_kept(const struct ofl_tensor *t);
/* t lives on the device: host-side work can't reach it. */
bool core_tensor_on_device(const struct ofl_tensor *t);
/* -ENOTSUP unless all of these live on the device, or none: updates work on them together. NULLs are left out. */
int core_tensors_together(struct ofl_tensor *const *tensors, uint32_t count);
/* As long as there are such, t can't be destroyed. */
void core_tensor_ref(struct ofl_tensor *t, int by);

/* Queues the updates, all or none of them: -OFL_ESTATE if a tensor is leased, -OFL_EBROKEN, or the error by which
 * a tensor is lost. before runs for each that is queued. held: they keep their places, and start once they are let
 * go. check: nothing is queued; says what would be refused. */
struct core_updates {
    struct core_update **updates;
    size_t count;
    void (*before)(void *arg);
    bool held, check;
};
int core_update_queue(struct ofl_ctx *ctx, const struct core_updates *batch);
/* From a core_stream_call. */
void core_update_let_go(struct ofl_ctx *ctx, struct core_update *u);
/* An update was done by other means: on the device. */
void core_update_count(struct ofl_ctx *ctx);
/* From a core_stream_call: an asynchronous failure that can't be repaired, with code's text behind what. */
void core_break(struct ofl_ctx *ctx, int code, const char *what);

#endif
