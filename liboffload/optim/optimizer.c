/*
 * optimizer: AdamW as dataflow. Owns the bindings of weight, gradient and states, the
 * norm, and the order of updates. An update runs tile by tile on the host, on worker
 * threads (or in one piece on the device, where the device is the tensors' home); what
 * moves for it, and when, is core's business.
 *
 * The norm's partial sums are taken on the device, where gradients are whole, by jobs on
 * the optimizer's own stream, so their order does not depend on placement.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/base/sized.h"
#include "liboffload/core/context.h"
#include "liboffload/optim/adamw.h"

struct binding {
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weight, *grad, *mean, *square;
    struct ofl_tensor *master; /* the weight itself if F32 */
    struct core_update update; /* on the host */
    bool pending;              /* update queued and not done; guarded by lock */
    bool applied;              /* in this step */
    const float *grad_ptr;     /* of the job on the stream */
    void *ptr[CORE_UPDATE_TENSORS];
    double sum_squares;
    struct optim_coef coef;
    float scale; /* of the gradient: 1, or the clip coefficient once it is known */
};

struct ofl_optimizer {
    struct ofl_ctx *ctx;
    struct core_hook hook;
    struct ofl_stream *stream;
    struct binding **bindings; /* in the order of binding: the forward order */
    size_t count, room, applied;
    struct ofl_adamw settings;
    bool in_step, ended;
    double norm; /* of the last ended step, once its job has run */
    float scale; /* clip coefficient */
    struct optim_coef coef;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    size_t pending;
};

enum { AT_WEIGHT, AT_GRAD, AT_MEAN, AT_SQUARE, AT_MASTER };

/* ---- life -------------------------------------------------------------- */

static void close_hook(struct core_hook *h)
{
    ofl_optimizer_destroy((struct ofl_optimizer *)((char *)h - offsetof(struct ofl_optimizer, hook)));
}

int ofl_optimizer_create(struct ofl_ctx *ctx, struct ofl_optimizer **out)
{
    struct ofl_optimizer *o = calloc(1, sizeof *o);
    int err;

    *out = NULL;
    if (!o)
        return base_fail(-ENOMEM, "create optimizer: out of memory");
    o->ctx = ctx;
    if (dev_stream_native(ctx->own_stream->dev)) {
        free(o);
        return base_fail(-ENOTSUP, "create optimizer: device %s has no kernels for gradient norms yet",
                         dev_name(ctx->dev));
    }
    err = ofl_stream_create(ctx, &o->stream);
    if (err < 0) {
        free(o);
        return err;
    }
    dev_stream_uncounted(o->stream->dev);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->idle, NULL);
    o->hook.close = close_hook;
    core_hook_add(ctx, &o->hook);
    *out = o;
    return 0;
}

static void await_updates(struct ofl_optimizer *o, const struct binding *b)
{
    pthread_mutex_lock(&o->lock);
    while (b ? b->pending : o->pending > 0)
        pthread_cond_wait(&o->idle, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

static void binding_destroy(struct binding *b)
{
    if (b->weight)
        b->weight->refs--;
    if (b->grad)
        b->grad->refs--;
    /* A broken context keeps its tensors until it is closed. */
    ofl_tensor_destroy(b->mean);
    ofl_tensor_destroy(b->square);
    if (b->master != b->weight)
        ofl_tensor_destroy(b->master);
    free(b);
}

int ofl_optimizer_destroy(struct ofl_optimizer *o)
{
    int err;

    if (!o)
        return 0;
    core_hook_remove(o->ctx, &o->hook);
    err = ofl_stream_sync(o->stream);
    await_updates(o, NULL);
    ofl_stream_destroy(o->stream);
    for (size_t i = 0; i < o->count; i++)
        binding_destroy(o->bindings[i]);
    free(o->bindings);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->idle);
    free(o);
    return err;
}

/* ---- binding ----------------------------------------------------------- */

static struct binding *find(const struct ofl_optimizer *o, const struct ofl_tensor *weight)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->weight == weight)
            return o->bindings[i];
    return NULL;
}

static int create_state(const struct ofl_tensor *weight, const char *suffix, struct ofl_tensor **out)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .kind = OFL_KIND_OPTIMIZER, .dtype = OFL_F32, .elems = weight->elems};
    size_t length = strlen(weight->name) + strlen(suffix) + 1;
    char *name = malloc(length);
    int err;

    if (!name)
        return base_fail(-ENOMEM, "bind %s: out of memory", weight->name);
    strcpy(stpcpy(name, weight->name), suffix);
    d.name = name;
    err = ofl_tensor_create(weight->ctx, &d, out);
    free(name);
    return err;
}

static int check_bind(const struct ofl_optimizer *o, const struct ofl_tensor *weight,
                      const struct ofl_tensor *grad)
{
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "bind %s: an optimizer step is open", weight->name);
    if ((weight->dtype != OFL_F32 && weight->dtype != OFL_BF16) || grad->dtype != OFL_F32 ||
        grad->elems != weight->elems)
        return base_fail(
            -EINVAL,
            "bind %s: weight %s of %llu elements, gradient %s of %llu: f32 or bf16, and f32, of equal "
            "number are wanted",
            weight->name, ofl_dtype_name(weight->dtype), (unsigned long long)weight->elems,
            ofl_dtype_name(grad->dtype), (unsigned long long)grad->elems);
    if (weight->source || grad->source || ((weight->flags | grad->flags) & OFL_TENSOR_TRANSIENT))
        return base_fail(-EROFS, "bind %s: a source's or transient tensor can't be trained", weight->name);
    if (find(o, weight))
        return base_fail(-EEXIST, "bind %s: it is bound already", weight->name);
    return core_tensors_together(
        (struct ofl_tensor *[]){(struct ofl_tensor *)(uintptr_t)weight, (struct ofl_tensor *)(uintptr_t)grad},
        2);
}

static int make_room(struct ofl_optimizer *o)
{
    size_t room = o->room ? 2 * o->room : 64;
    struct binding **more;

    if (o->count < o->room)
        return 0;
    more = realloc(o->bindings, room * sizeof(struct binding *));
    if (!more)
        return base_fail(-ENOMEM, "bind: out of memory");
    o->bindings = more;
    o->room = room;
    return 0;
}

static void update_tile(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems);
static void update_done(void *arg);

static void describe_update(struct binding *b)
{
    bool low = b->master != b->weight;
    struct core_update *u = &b->update;

    u->tensors[AT_WEIGHT] = b->weight;
    u->access[AT_WEIGHT] = low ? HOST_OVERWRITE : HOST_UPDATE;
    u->tensors[AT_GRAD] = b->grad;
    u->access[AT_GRAD] = HOST_CONSUME;
    u->tensors[AT_MEAN] = b->mean;
    u->tensors[AT_SQUARE] = b->square;
    u->access[AT_MEAN] = u->access[AT_SQUARE] = HOST_UPDATE;
    u->tensors[AT_MASTER] = low ? b->master : NULL;
    u->access[AT_MASTER] = HOST_UPDATE;
    u->count = low ? 5 : 4;
    u->tile = update_tile;
    u->done = update_done;
    u->arg = b;
}

int ofl_optimizer_bind(struct ofl_optimizer *o, struct ofl_tensor *weight, struct ofl_tensor *grad)
{
    struct binding *b;
    int err = check_bind(o, weight, grad);

    if (err == 0)
        err = ofl_stream_sync(o->stream); /* the last step's norm job reads the bindings */
    if (err < 0)
        return err;
    b = calloc(1, sizeof *b);
    if (!b)
        return base_fail(-ENOMEM, "bind %s: out of memory", weight->name);
    b->optimizer = o;
    err = create_state(weight, ".exp_avg", &b->mean);
    if (err == 0)
        err = create_state(weight, ".exp_avg_sq", &b->square);
    if (err == 0 && weight->dtype == OFL_BF16)
        err = create_state(weight, ".master", &b->master);
    if (err == 0)
        err = core_tensors_together((struct ofl_tensor *[]){weight, grad, b->mean, b->square, b->master}, 5);
    if (err == 0)
        err = make_room(o); /* the engine has answered: it has released the last step's updates */
    if (err < 0) {
        struct base_error why;

        base_error_save(&why, err);
        binding_destroy(b);
        return base_error_restore(&why);
    }
    if (!b->master)
        b->master = weight;
    b->weight = weight;
    b->grad = grad;
    weight->refs++;
    grad->refs++;
    describe_update(b);
    o->bindings[o->count++] = b;
    return 0;
}

int ofl_optimizer_state(struct ofl_optimizer *o, struct ofl_tensor *weight, enum ofl_optimizer_state which,
                        struct ofl_tensor **out)
{
    struct binding *b = find(o, weight);

    *out = NULL;
    if (!b || (unsigned)which >= OFL_STATES)
        return base_fail(-ENOENT, "optimizer state %d of %s: not bound", (int)which, weight->name);
    *out = which == OFL_STATE_MASTER ? b->master : which == OFL_STATE_EXP_AVG ? b->mean : b->square;
    return 0;
}

/* ---- the update -------------------------------------------------------- */

/* Worker thread. */
static void update_tile(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems)
{
    static const float zeros[1024];
    struct binding *b = arg;
    bool low = b->master != b->weight;
    float *p = ptr[low ? AT_MASTER : AT_WEIGHT], *m = ptr[AT_MEAN], *v = ptr[AT_SQUARE];
    const float *g = ptr[AT_GRAD];
    uint16_t *w16 = low ? ptr[AT_WEIGHT] : NULL;

    (void)first;
    if (fresh[AT_MEAN])
        memset(m, 0, elems * sizeof *m);
    if (fresh[AT_SQUARE])
        memset(v, 0, elems * sizeof *v);
    if (fresh[low ? AT_MASTER : AT_WEIGHT])
        memset(p, 0, elems * sizeof *p);
    if (g) {
        optim_adamw(&b->coef, b->scale, p, m, v, g, w16, elems);
        return;
    }
    for (uint64_t i = 0; i < elems; i += 1024) {
        uint64_t n = elems - i < 1024 ? elems - i : 1024;

        optim_adamw(&b->coef, b->scale, p + i, m + i, v + i, zeros, w16 ? w16 + i : NULL, n);
    }
}

/* Engine thread. */
static void update_done(void *arg)
{
    struct binding *b = arg;
    struct ofl_optimizer *o = b->optimizer;

    pthread_mutex_lock(&o->lock);
    b->pending = false;
    o->pending--;
    pthread_cond_broadcast(&o->idle);
    pthread_mutex_unlock(&o->lock);
}

/* Stream thread: the whole weight at once, in device memory. */
static void update_on_device(void *arg)
{
    struct binding *b = arg;
    bool low = b->master != b->weight, clipped = b->update.held;

    optim_adamw(&b->coef, clipped ? b->optimizer->scale : 1.0f, b->ptr[low ? AT_MASTER : AT_WEIGHT],
                b->ptr[AT_MEAN], b->ptr[AT_SQUARE], b->ptr[AT_GRAD], low ? b->ptr[AT_WEIGHT] : NULL,
                b->weight->elems);
}

/* Engine thread. */
static void count_update(void *arg, int code)
{
    struct ofl_ctx *ctx = arg;

    ctx->pager.stats.updates += code == 0;
}

static int queue_on_device(struct binding *b)
{
    struct ofl_optimizer *o = b->optimizer;
    struct ofl_lease leases[CORE_UPDATE_TENSORS] = {0};
    uint32_t n = b->update.count;
    int err, released;

    b->update.held = o->settings.clip > 0;
    for (uint32_t i = 0; i < n; i++) {
        leases[i].tensor = b->update.tensors[i];
        leases[i].mode = i == AT_GRAD ? OFL_READ : OFL_UPDATE;
        leases[i].flags = i == AT_GRAD ? OFL_LEASE_DROP : 0;
    }
    err = ofl_acquire(o->ctx, leases, n, o->stream);
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < n; i++)
        b->ptr[i] = leases[i].ptr;
    err = ofl_stream_launch(o->stream, update_on_device, b);
    if (err == 0)
        err = core_stream_call(o->stream, count_update, o->ctx);
    released = ofl_release(o->ctx, leases, n, o->stream);
    return err < 0 ? err : released;
}

static void mark_pending(struct binding *b)
{
    pthread_mutex_lock(&b->optimizer->lock);
    b->pending = true;
    b->optimizer->pending++;
    pthread_mutex_unlock(&b->optimizer->lock);
}

struct queue_call {
    struct ofl_optimizer *optimizer;
    struct binding *only; /* NULL: all that were applied, held */
};

static bool queued_by(const struct queue_call *q, const struct binding *b)
{
    return q->only ? b == q->only : b->applied;
}

/* Engine thread. All or nothing: a lease in the way is found before anything is queued. */
static int check_run(struct ofl_ctx *ctx, void *arg)
{
    const struct queue_call *q = arg;
    const struct ofl_optimizer *o = q->optimizer;

    for (size_t i = 0; i < o->count; i++) {
        const struct core_update *u = &o->bindings[i]->update;

        for (uint32_t k = 0; k < u->count && queued_by(q, o->bindings[i]); k++)
            if (u->tensors[k]->current && u->tensors[k]->current->leases)
                return base_fail(-OFL_ESTATE, "update %s: %s is leased", u->tensors[0]->name,
                                 u->tensors[k]->name);
    }
    return pager_check(&ctx->pager);
}

static int queue_run(struct ofl_ctx *ctx, void *arg)
{
    struct queue_call *q = arg;
    struct ofl_optimizer *o = q->optimizer;

    for (size_t i = 0; i < o->count; i++) {
        struct binding *b = o->bindings[i];
        int err;

        if (!queued_by(q, b))
            continue;
        b->update.held = !q->only;
        mark_pending(b);
        err = pager_update(&ctx->pager, &b->update);
        if (err < 0) {
            update_done(b);
            return err;
        }
    }
    return 0;
}

/* ---- the step ---------------------------------------------------------- */

static int check_settings(const struct ofl_adamw *s)
{
    if (s->step && s->beta1 >= 0 && s->beta1 < 1 && s->beta2 >= 0 && s->beta2 < 1 && s->eps >= 0 &&
        s->clip >= 0 && isfinite(s->lr) && isfinite(s->weight_decay))
        return 0;
    return base_fail(
        -EINVAL,
        "begin optimizer step %llu: lr %g, beta1 %g, beta2 %g, eps %g, weight decay %g, clip %g: "
        "steps count from 1, betas lie in [0, 1), eps and clip are not negative",
        (unsigned long long)s->step, s->lr, s->beta1, s->beta2, s->eps, s->weight_decay, s->clip);
}

int ofl_optimizer_begin(struct ofl_optimizer *o, const struct ofl_adamw *settings)
{
    struct ofl_adamw s;
    int err;

    if (o->in_step)
        return base_fail(-OFL_ESTATE, "begin optimizer step: one is open");
    err = base_sized_read(&s, sizeof s, sizeof s, settings, "begin optimizer step: settings");
    if (err == 0)
        err = check_settings(&s);
    if (err < 0)
        return err;
    /* The last step's norm job reads what is about to change. Its updates go on. */
    err = ofl_stream_sync(o->stream);
    if (err < 0)
        return err;
    o->settings = s;
    o->coef = optim_coef_make(&s);
    o->in_step = true;
    o->applied = 0;
    for (size_t i = 0; i < o->count; i++)
        o->bindings[i]->applied = false;
    return 0;
}

static void sum_job(void *arg)
{
    struct binding *b = arg;

    b->sum_squares = optim_sum_squares(b->grad_ptr, b->grad->elems);
}

static int queue_sum(struct binding *b)
{
    struct ofl_optimizer *o = b->optimizer;
    struct ofl_lease lease = {.tensor = b->grad, .mode = OFL_READ};
    int err = ofl_acquire(o->ctx, &lease, 1, o->stream), released;

    if (err < 0)
        return err;
    b->grad_ptr = lease.ptr;
    err = ofl_stream_launch(o->stream, sum_job, b);
    released = ofl_release(o->ctx, &lease, 1, o->stream);
    return err < 0 ? err : released;
}

int ofl_optimizer_apply(struct ofl_optimizer *o, struct ofl_tensor *weight)
{
    struct binding *b = find(o, weight);
    struct queue_call q = {o, b};
    int err;

    if (!o->in_step || !b || b->applied)
        return base_fail(-OFL_ESTATE, "apply %s: %s", weight->name,
                         !o->in_step ? "no optimizer step is open"
                         : !b        ? "it is not bound"
                                     : "it was applied already in this step");
    await_updates(o, b);
    b->coef = o->coef;
    b->scale = 1.0f;
    err = o->settings.clip > 0 ? 0 : core_call(o->ctx, check_run, &q);
    if (err == 0)
        err = queue_sum(b);
    if (err < 0)
        return err;
    b->applied = true;
    o->applied++;
    if (o->settings.clip > 0)
        return 0;
    if (core_tensor_on_device(weight))
        return queue_on_device(b);
    return core_call(o->ctx, queue_run, &q);
}

/* Stream thread: all sums are there. */
static void norm_job(void *arg)
{
    struct ofl_optimizer *o = arg;
    double sum = 0;

    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->applied)
            sum += o->bindings[i]->sum_squares;
    o->norm = sqrt(sum);
    if (o->settings.clip > 0) {
        double scale = o->settings.clip / (o->norm + 1e-6);

        o->scale = (float)(scale < 1.0 ? scale : 1.0);
    }
}

/* Engine thread: the norm is known, the held updates may start. */
static void release_updates(void *arg, int code)
{
    struct ofl_optimizer *o = arg;

    if (code < 0) {
        struct base_error error;

        base_error_set(&error, code, "optimizer step %llu: a gradient could not be read: %s",
                       (unsigned long long)o->settings.step, base_strerror(code));
        pager_break(&o->ctx->pager, &error);
    }
    for (size_t i = 0; i < o->count; i++) {
        struct binding *b = o->bindings[i];

        if (!b->update.held)
            continue;
        b->scale = o->scale;
        b->update.held = false;
    }
    o->ctx->pager.changes++;
}

int ofl_optimizer_end(struct ofl_optimizer *o)
{
    int err;

    if (!o->in_step)
        return base_fail(-OFL_ESTATE, "end optimizer step: none is open");
    err = o->settings.clip > 0 ? core_call(o->ctx, check_run, &(struct queue_call){o, NULL}) : 0;
    if (err < 0)
        return err;
    o->in_step = false;
    o->ended = true;
    err = ofl_stream_launch(o->stream, norm_job, o);
    if (err < 0 || o->settings.clip == 0)
        return err;
    if (o->count && core_tensor_on_device(o->bindings[0]->weight)) {
        for (size_t i = 0; i < o->count && err == 0; i++)
            if (o->bindings[i]->applied)
                err = queue_on_device(o->bindings[i]);
        return err;
    }
    err = core_call(o->ctx, queue_run, &(struct queue_call){o, NULL});
    return err < 0 ? err : core_stream_call(o->stream, release_updates, o);
}

int ofl_optimizer_norm(struct ofl_optimizer *o, double *norm)
{
    int err;

    *norm = 0;
    if (!o->ended)
        return base_fail(-OFL_ESTATE, "optimizer norm: no step has ended");
    err = ofl_stream_sync(o->stream);
    if (err < 0)
        return err;
    *norm = o->norm;
    return 0;
}
