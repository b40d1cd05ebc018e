/*
 * optimizer: updates as dataflow. Owns the bindings of weight, gradient and states, the norm,
 * and the order of updates. An update runs tile by tile on the host, on worker threads (or in
 * one piece on the device, where the device is the tensors' home); what moves for it, and
 * when, is core's business.
 *
 * Sums of squares are taken on the device, where gradients are whole, on the optimizer's own
 * stream, so their order does not depend on placement. What runs there, for a device of a
 * kind, is behind struct optim_ops: functions of the host, or kernels. Both compute the same
 * bits (update_math.h).
 *
 * Shared by optimizer.c (life and bindings), optimizer_rates.c (what differs between weights), optimizer_reduce.c
 * (gradients of several processes), optimizer_step.c (a step), optimizer_host.c and optimizer_cuda.c (the two kinds).
 */
#ifndef OFL_OPTIM_OPTIMIZER_H
#define OFL_OPTIM_OPTIMIZER_H

#include <pthread.h>

#include "base/error.h"
#include "liboffload/core/core.h"
#include "liboffload/optim/update.h"

/* What a tensor is to an update. */
enum optim_role { AT_WEIGHT, AT_GRAD, AT_MEAN, AT_SQUARE, AT_MASTER, AT_ROLES };

struct optim_binding {
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weight, *grad, *mean;
    struct ofl_tensor *square; /* NULL for methods without */
    struct ofl_tensor *master; /* the weight itself if F32 */
    int8_t at[AT_ROLES];       /* place among the update's tensors; -1: not there */
    const char *name;          /* of the weight */
    uint64_t elems;
    bool low;                  /* the weight is BF16, with a master beside it */
    bool clipped;              /* of an update on the device: it reads the norm queued last */
    struct core_update update; /* on the host */
    bool pending;              /* update queued and not done; guarded by lock */
    bool applied;              /* in this step */
    bool updated;              /* and its update on the device is queued */
    double decay;              /* of the settings' weight decay */
    bool own_rates;            /* rates count, not the settings' */
    struct ofl_update_settings rates;
    struct optim_coef coef;
    float scale; /* of the gradient: 1, or the clip coefficient once it is known */
    bool skip;   /* the norm is no number: nothing is updated */

    /* Of the device's kind. */
    float *grad_ptr; /* host: of the job on the stream */
    void *ptr[CORE_UPDATE_TENSORS];
    double sum_squares;
    struct optim_parts parts; /* cuda */
};

/* What runs on the optimizer's stream, in order with its leases. */
struct optim_ops {
    bool reduces; /* sum() passes the gradient, in host memory, through optim_reduce first */
    /* Sets o->result. */
    int (*open)(struct ofl_optimizer *o);
    /* The stream is idle. Also of what open has left half done. */
    void (*close)(struct ofl_optimizer *o);
    /* o->method has been set. */
    int (*method)(struct ofl_optimizer *o);
    /* b, of so many elements, is about to be added; the stream is idle. */
    int (*bind)(struct optim_binding *b, uint64_t elems);
    /* Queues the sum of squares of b's gradient, whole at grad. */
    int (*sum)(struct optim_binding *b, float *grad);
    /* Queues the norm over the sums of all applied bindings, in the order of binding, and, with
     * clipping only, the scale. */
    int (*norm)(struct ofl_optimizer *o);
    /* Queues b's update on whole tensors. clipped: as the norm queued last says. */
    int (*update)(struct optim_binding *b, void *const ptr[CORE_UPDATE_TENSORS], bool clipped);
};

/* What a gradient passes through before its squares are summed: the caller's, and its first failure. Changed by the step
 * thread while the stream is idle, else by the stream's. */
struct optim_reduction {
    int (*reduce)(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg); /* NULL: none */
    void *arg;
    int code; /* of the call that failed in this step; 0: none */
    const struct optim_binding *failed;
    uint64_t at; /* bytes */
};

extern const struct optim_ops optim_ops_host, optim_ops_cuda;

struct ofl_optimizer {
    struct ofl_ctx *ctx;
    struct core_hook hook;
    struct ofl_stream *stream;
    const struct optim_ops *ops;
    struct optim_binding **bindings; /* in the order of binding: the forward order */
    struct core_update **queue;      /* as much room: those of a batch */
    size_t count, room, applied;
    enum ofl_method method;
    struct ofl_update_settings settings;
    bool in_step, ended;
    struct optim_reduction reduction;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    size_t pending;
    /* Of the last ended step, once the stream has passed its norm. The scale is written with
     * clipping only: the engine may not have read it yet when the next step begins. */
    const struct optim_norm *result;
    struct optim_norm own;   /* host */
    struct optim_cuda *cuda; /* cuda */
};

/* optimizer.c. Waits for the updates of b, or of all bindings (NULL). */
void optim_await_updates(struct ofl_optimizer *o, const struct optim_binding *b);
struct optim_binding *optim_find(const struct ofl_optimizer *o, const struct ofl_tensor *weight);
const char *optim_name_of(const struct ofl_tensor *t);
/* optimizer_step.c. Fills b->update; its tensors are known. */
void optim_describe_update(struct optim_binding *b);
/* optimizer_rates.c. The scalars of b's update in the step that is open. */
struct optim_coef optim_coef_of(const struct optim_binding *b);
/* optimizer_reduce.c. The stream's thread: the whole gradient of b, before it is summed. */
void optim_reduce(struct optim_binding *b, float *grad);
/* Waits for what is being reduced: 0, -ECANCELED if one of the calls failed, or the stream's error. */
int optim_reduce_await(struct ofl_optimizer *o);

/* What an update works on, of the pointers of its tensors. */
struct optim_arrays optim_arrays_of(const struct optim_binding *b, void *const *ptr);

/* Whether the weight is BF16, with a master beside it. */
static inline bool optim_low(const struct optim_binding *b)
{
    return b->low;
}

#endif
