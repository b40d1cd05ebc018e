/*
 * optimizer_step: a step of the optimizer, and its updates: what is queued, when, and what runs it on
 * the host, tile by tile. See optimizer.h.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "liboffload/optim/optimizer.h"

/* ---- the update -------------------------------------------------------- */

struct optim_arrays optim_arrays_of(const struct optim_binding *b, void *const *ptr)
{
    bool low = optim_low(b);

    return (struct optim_arrays){.p = ptr[b->at[low ? AT_MASTER : AT_WEIGHT]],
                                 .m = ptr[b->at[AT_MEAN]],
                                 .v = b->square ? ptr[b->at[AT_SQUARE]] : NULL,
                                 .g = ptr[b->at[AT_GRAD]],
                                 .w16 = low ? ptr[b->at[AT_WEIGHT]] : NULL};
}

/* Worker thread. */
static void update_tile(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems)
{
    struct optim_binding *b = arg;
    struct optim_arrays a = optim_arrays_of(b, ptr);

    (void)first;
    if (fresh[b->at[AT_MEAN]])
        memset(a.m, 0, elems * sizeof *a.m);
    if (a.v && fresh[b->at[AT_SQUARE]])
        memset(a.v, 0, elems * sizeof *a.v);
    if (fresh[b->at[optim_low(b) ? AT_MASTER : AT_WEIGHT]])
        memset(a.p, 0, elems * sizeof *a.p);
    if (!b->skip)
        optim_update(b->optimizer->method, &b->coef, b->scale, a, elems);
    else if (a.w16)
        optim_round(a.w16, a.p, elems); /* its bytes were not fetched: they are to be overwritten */
}

/* Under the engine's lock. */
static void update_done(void *arg)
{
    struct optim_binding *b = arg;
    struct ofl_optimizer *o = b->optimizer;

    pthread_mutex_lock(&o->lock);
    b->pending = false;
    o->pending--;
    pthread_cond_broadcast(&o->idle);
    pthread_mutex_unlock(&o->lock);
}

static void describe(struct optim_binding *b, enum optim_role role, struct ofl_tensor *t,
                     enum core_access access)
{
    struct core_update *u = &b->update;

    b->at[role] = -1;
    if (!t)
        return;
    b->at[role] = (int8_t)u->count;
    u->tensors[u->count] = t;
    u->access[u->count++] = access;
}

void optim_describe_update(struct optim_binding *b)
{
    bool low = optim_low(b);
    struct core_update *u = &b->update;

    u->count = 0;
    describe(b, AT_WEIGHT, b->weight, low ? HOST_OVERWRITE : HOST_UPDATE);
    describe(b, AT_GRAD, b->grad, HOST_CONSUME);
    describe(b, AT_MEAN, b->mean, HOST_UPDATE);
    describe(b, AT_SQUARE, b->square, HOST_UPDATE);
    describe(b, AT_MASTER, low ? b->master : NULL, HOST_UPDATE);
    u->tile = update_tile;
    u->done = update_done;
    u->arg = b;
}

/* Under the engine's lock. */
static void count_update(void *arg, int code)
{
    if (code == 0)
        core_update_count(arg);
}

/* By what updates multiply gradients, or whether they are made at all. */
static bool norm_decides(const struct ofl_optimizer *o)
{
    return o->settings.clip > 0 || o->settings.skip_overflow;
}

/* The whole weight at once, in device memory, which is its home. */
static int queue_on_device(struct optim_binding *b)
{
    struct ofl_optimizer *o = b->optimizer;
    struct ofl_lease leases[CORE_UPDATE_TENSORS] = {0};
    void *ptr[CORE_UPDATE_TENSORS] = {0};
    uint32_t n = b->update.count;
    int err, released;

    for (uint32_t i = 0; i < n; i++) {
        leases[i].size = sizeof leases[i];
        leases[i].tensor = b->update.tensors[i];
        leases[i].mode = i == AT_GRAD ? OFL_READ : OFL_UPDATE;
        leases[i].flags = i == AT_GRAD ? OFL_LEASE_DROP : 0;
    }
    err = ofl_acquire(o->ctx, leases, n, o->stream);
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < n; i++)
        ptr[i] = leases[i].ptr;
    err = o->ops->update(b, ptr, norm_decides(o));
    b->updated = err == 0;
    if (b->updated)
        err = core_stream_call(o->stream, count_update, o->ctx);
    else
        leases[AT_GRAD].flags = 0; /* it is still to be used */
    released = core_release(o->ctx, leases, n, o->stream);
    return err < 0 ? err : released;
}

/* Under the engine's lock. */
static void mark_pending(void *arg)
{
    struct optim_binding *b = arg;

    pthread_mutex_lock(&b->optimizer->lock);
    b->pending = true;
    b->optimizer->pending++;
    pthread_mutex_unlock(&b->optimizer->lock);
}

/* Those of all bindings that were applied; held: until the norm is known. */
static int queue_all(struct ofl_optimizer *o, bool held, bool check)
{
    struct core_updates batch = {.updates = o->queue, .before = mark_pending, .held = held, .check = check};

    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->applied)
            o->queue[batch.count++] = &o->bindings[i]->update;
    return core_update_queue(o->ctx, &batch);
}

static int queue_one(struct optim_binding *b, bool check)
{
    struct core_update *u = &b->update;
    struct core_updates batch = {.updates = &u, .count = 1, .before = mark_pending, .check = check};

    return core_update_queue(b->optimizer->ctx, &batch);
}

/* ---- the step ---------------------------------------------------------- */

int ofl_optimizer_begin(struct ofl_optimizer *o, const struct ofl_update_settings *settings)
{
    struct ofl_update_settings s;
    int err;

    if (core_refused(o->ctx, o, settings))
        return -EINVAL;
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "begin optimizer step: one is open");
    err = optim_settings_read(&s, settings, "begin optimizer step");
    if (err < 0)
        return err;
    /* The last step's norm job reads what is about to change. Its updates go on. */
    err = ofl_stream_sync(o->stream);
    if (err < 0)
        return err;
    o->settings = s;
    o->reduction.code = 0;
    o->in_step = true;
    o->applied = 0;
    for (size_t i = 0; i < o->count; i++)
        o->bindings[i]->applied = o->bindings[i]->updated = false;
    return 0;
}

static int queue_sum(struct optim_binding *b)
{
    struct ofl_optimizer *o = b->optimizer;
    struct ofl_lease lease = {
        .size = sizeof lease, .tensor = b->grad, .mode = o->reduction.reduce ? OFL_UPDATE : OFL_READ};
    int err = ofl_acquire(o->ctx, &lease, 1, o->stream), released;

    if (err < 0)
        return err;
    err = o->ops->sum(b, lease.ptr);
    released = core_release(o->ctx, &lease, 1, o->stream);
    return err < 0 ? err : released;
}

/* For the end of the step: for the norm, or until all is reduced, since what fails there must change nothing. */
static bool updates_wait(const struct ofl_optimizer *o)
{
    return norm_decides(o) || o->reduction.reduce;
}

int ofl_optimizer_apply(struct ofl_optimizer *o, struct ofl_tensor *weight)
{
    struct optim_binding *b;
    int err;

    if (core_refused(o->ctx, o, weight))
        return -EINVAL;
    b = optim_find(o, weight);
    if (!o->in_step || !b || b->applied)
        return base_fail(-OFL_ESTATE, "apply %s: %s", optim_name_of(weight),
                         !o->in_step ? "no optimizer step is open"
                         : !b        ? "it is not bound"
                                     : "it was applied already in this step");
    optim_await_updates(o, b);
    b->coef = optim_coef_of(b);
    b->scale = 1.0f;
    b->skip = false;
    err = updates_wait(o) ? 0 : queue_one(b, true);
    if (err == 0)
        err = queue_sum(b);
    if (err == 0 && !updates_wait(o))
        err = core_tensor_on_device(weight) ? queue_on_device(b) : queue_one(b, false);
    if (err < 0)
        return err; /* may be tried again */
    b->applied = true;
    o->applied++;
    return 0;
}

/* Under the engine's lock: the norm is known, the held updates may start. */
static void release_updates(void *arg, int code)
{
    struct ofl_optimizer *o = arg;

    if (code < 0)
        core_break(o->ctx, code, "optimizer step: a gradient could not be read");
    for (size_t i = 0; i < o->count; i++) {
        struct optim_binding *b = o->bindings[i];

        if (!b->update.held)
            continue;
        b->scale = o->result->scale;
        b->skip = o->result->skip;
        core_update_let_go(o->ctx, &b->update);
    }
}

/* The updates that have waited. Where the norm decides it is queued. */
static int queue_waiting(struct ofl_optimizer *o)
{
    const bool held = norm_decides(o);
    int err = 0;

    if (!o->count || !core_tensor_on_device(o->bindings[0]->weight)) {
        err = queue_all(o, held, false);
        return err < 0 || !held ? err : core_stream_call(o->stream, release_updates, o);
    }
    for (size_t i = 0; i < o->count && err == 0; i++)
        if (o->bindings[i]->applied && !o->bindings[i]->updated)
            err = queue_on_device(o->bindings[i]);
    return err;
}

int ofl_optimizer_end(struct ofl_optimizer *o)
{
    int err;

    if (core_refused(o->ctx, o))
        return -EINVAL;
    if (!o->in_step)
        return base_fail(-OFL_ESTATE, "end optimizer step: none is open");
    err = updates_wait(o) ? queue_all(o, true, true) : 0;
    if (err == 0 && o->reduction.reduce)
        err = optim_reduce_await(o);
    if (err == -ECANCELED)
        o->in_step = false;
    if (err < 0)
        return err;
    err = o->ops->norm(o);
    if (err == 0 && updates_wait(o))
        err = queue_waiting(o);
    if (err < 0) {
        struct base_error why;

        base_error_save(&why, err);
        ofl_stream_sync(o->stream); /* the step is still open: its norm, if queued, reads what calls change */
        return base_error_restore(&why);
    }
    o->in_step = false;
    o->ended = true;
    return 0;
}

int ofl_optimizer_norm(struct ofl_optimizer *o, double *norm)
{
    int err;

    if (core_refused(o->ctx, o, norm))
        return -EINVAL;
    *norm = 0;
    if (!o->ended)
        return base_fail(-OFL_ESTATE, "optimizer norm: no step has ended");
    err = ofl_stream_sync(o->stream);
    if (err < 0)
        return err;
    *norm = o->result->norm;
    return 0;
}
