/*
 * optimizer: its life, and its bindings. See optimizer.h.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/optim/optimizer.h"

/* ---- life -------------------------------------------------------------- */

static void close_hook(struct core_hook *h)
{
    ofl_optimizer_destroy((struct ofl_optimizer *)((char *)h - offsetof(struct ofl_optimizer, hook)));
}

static bool open_hook(const struct core_hook *h)
{
    return ((const struct ofl_optimizer *)((const char *)h - offsetof(struct ofl_optimizer, hook)))->in_step;
}

/* What both ends of its life have in common; the stream is idle. */
static void optimizer_free(struct ofl_optimizer *o)
{
    struct base_error why;

    base_error_save(&why, 0); /* closing must not hide why */
    o->ops->close(o);
    ofl_stream_destroy(o->stream);
    base_error_restore(&why);
    free(o->bindings);
    free(o->queue);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->idle);
    free(o);
}

int ofl_optimizer_create(struct ofl_ctx *ctx, struct ofl_optimizer **out)
{
    struct ofl_optimizer *o;
    int err;

    if (out)
        *out = NULL;
    if (core_refused(ctx, ctx, out))
        return -EINVAL;
    o = calloc(1, sizeof *o);
    if (!o)
        return base_fail(-ENOMEM, "create optimizer: out of memory");
    o->ctx = ctx;
    o->ops = dev_native(core_device(ctx)) ? &optim_ops_cuda : &optim_ops_host;
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->idle, NULL);
    err = ofl_stream_create(ctx, &o->stream);
    if (err == 0)
        err = o->ops->open(o);
    if (err < 0) {
        optimizer_free(o);
        return err;
    }
    dev_stream_uncounted(core_stream_device(o->stream));
    o->hook.close = close_hook;
    o->hook.open = open_hook;
    core_hook_add(ctx, &o->hook);
    *out = o;
    return 0;
}

int ofl_optimizer_method(struct ofl_optimizer *o, enum ofl_method method)
{
    enum ofl_method before;
    int err;

    if (core_refused(o->ctx, o))
        return -EINVAL;
    if ((unsigned)method >= OFL_METHODS)
        return base_fail(-EINVAL, "set optimizer method %d: there are %d", (int)method, (int)OFL_METHODS);
    if (o->count || o->in_step)
        return base_fail(-OFL_ESTATE, "set optimizer method: %s",
                         o->count ? "weights are bound already: their states are another method's"
                                  : "an optimizer step is open");
    before = o->method;
    o->method = method;
    err = o->ops->method(o);
    if (err < 0)
        o->method = before;
    return err;
}

void optim_await_updates(struct ofl_optimizer *o, const struct optim_binding *b)
{
    pthread_mutex_lock(&o->lock);
    while (b ? b->pending : o->pending > 0)
        pthread_cond_wait(&o->idle, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

static void binding_destroy(struct optim_binding *b)
{
    if (b->weight)
        core_tensor_ref(b->weight, -1);
    if (b->grad)
        core_tensor_ref(b->grad, -1);
    /* A broken context keeps its tensors until it is closed. */
    ofl_tensor_destroy(b->mean);
    ofl_tensor_destroy(b->square);
    if (b->master != b->weight)
        ofl_tensor_destroy(b->master);
    free(b);
}

int ofl_optimizer_destroy(struct ofl_optimizer *o)
{
    struct base_error first;

    if (!o)
        return 0;
    if (core_refused(o->ctx, o))
        return -EINVAL;
    core_hook_remove(o->ctx, &o->hook);
    base_error_save(&first, ofl_stream_sync(o->stream));
    optim_await_updates(o, NULL);
    core_settle(o->ctx); /* what the stream reported of o has been heard */
    for (size_t i = 0; i < o->count; i++)
        binding_destroy(o->bindings[i]);
    optimizer_free(o);
    return first.code < 0 ? base_error_restore(&first) : 0;
}

/* ---- binding ----------------------------------------------------------- */

struct optim_binding *optim_find(const struct ofl_optimizer *o, const struct ofl_tensor *weight)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->weight == weight)
            return o->bindings[i];
    return NULL;
}

static int create_state(const struct ofl_tensor *weight, const struct ofl_tensor_info *info,
                        const char *suffix, struct ofl_tensor **out)
{
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .kind = OFL_KIND_OPTIMIZER,
                                .dtype = OFL_F32,
                                .elems = info->elems,
                                .flags = core_tensor_kept(weight) ? OFL_TENSOR_KEPT : 0};
    size_t length = strlen(info->name) + strlen(suffix) + 1;
    char *name = malloc(length);
    int err;

    if (!name)
        return base_fail(-ENOMEM, "bind %s: out of memory", info->name);
    strcpy(stpcpy(name, info->name), suffix);
    d.name = name;
    err = ofl_tensor_create(core_tensor_ctx(weight), &d, out);
    free(name);
    return err;
}

uint64_t ofl_optimizer_bytes(enum ofl_method method, enum ofl_dtype dtype, uint64_t elems)
{
    uint64_t states = optim_squares(method) ? 2 : 1;

    if (dtype == OFL_BF16)
        states++;
    else if (dtype != OFL_F32)
        return 0;
    if ((unsigned)method >= OFL_METHODS || elems > (uint64_t)INT64_MAX / 16)
        return 0;
    return states * ((elems * sizeof(float) + 4095) / 4096 * 4096);
}

static int check_bind(const struct ofl_optimizer *o, struct ofl_tensor *weight, struct ofl_tensor *grad,
                      struct ofl_tensor_info *w)
{
    struct ofl_tensor_info g = {.size = sizeof g};

    w->size = sizeof *w;
    ofl_tensor_info_get(weight, w);
    ofl_tensor_info_get(grad, &g);
    if (core_tensor_ctx(weight) != o->ctx || core_tensor_ctx(grad) != o->ctx)
        return base_fail(-EINVAL, "bind %s: it, or its gradient, is another context's", w->name);
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "bind %s: an optimizer step is open", w->name);
    if ((w->dtype != OFL_F32 && w->dtype != OFL_BF16) || g.dtype != OFL_F32 || g.elems != w->elems)
        return base_fail(
            -EINVAL,
            "bind %s: weight %s of %llu elements, gradient %s of %llu: f32 or bf16, and f32, of equal "
            "number are wanted",
            w->name, ofl_dtype_name(w->dtype), (unsigned long long)w->elems, ofl_dtype_name(g.dtype),
            (unsigned long long)g.elems);
    if (core_tensor_fixed(weight) || core_tensor_fixed(grad))
        return base_fail(-EROFS, "bind %s: a source's or transient tensor can't be trained", w->name);
    if (optim_find(o, weight))
        return base_fail(-EEXIST, "bind %s: it is bound already", w->name);
    return core_tensors_together((struct ofl_tensor *[]){weight, grad}, 2);
}

static int make_room(struct ofl_optimizer *o)
{
    size_t room = o->room ? 2 * o->room : 64;
    struct optim_binding **more;
    struct core_update **queue;

    if (o->count < o->room)
        return 0;
    more = realloc(o->bindings, room * sizeof(struct optim_binding *));
    if (more)
        o->bindings = more;
    queue = realloc(o->queue, room * sizeof(struct core_update *));
    if (queue)
        o->queue = queue;
    if (!more || !queue)
        return base_fail(-ENOMEM, "bind: out of memory");
    o->room = room;
    return 0;
}

int ofl_optimizer_bind(struct ofl_optimizer *o, struct ofl_tensor *weight, struct ofl_tensor *grad)
{
    struct ofl_tensor_info info;
    struct optim_binding *b;
    int err;

    if (core_refused(o->ctx, o, weight, grad))
        return -EINVAL;
    err = check_bind(o, weight, grad, &info);
    if (err == 0)
        err = ofl_stream_sync(o->stream); /* the last step's norm job reads the bindings */
    if (err < 0)
        return err;
    b = calloc(1, sizeof *b);
    if (!b)
        return base_fail(-ENOMEM, "bind %s: out of memory", info.name);
    b->optimizer = o;
    b->name = info.name;
    b->elems = info.elems;
    b->low = info.dtype == OFL_BF16;
    b->decay = 1;
    err = create_state(weight, &info, ".exp_avg", &b->mean);
    if (err == 0 && optim_squares(o->method))
        err = create_state(weight, &info, ".exp_avg_sq", &b->square);
    if (err == 0 && b->low)
        err = create_state(weight, &info, ".master", &b->master);
    if (err == 0)
        err = core_tensors_together((struct ofl_tensor *[]){weight, grad, b->mean, b->square, b->master}, 5);
    if (err == 0)
        err = make_room(o); /* what the stream reported has been heard: the last step's updates are let go */
    if (err == 0)
        err = o->ops->bind(b, b->elems);
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
    core_tensor_ref(weight, 1);
    core_tensor_ref(grad, 1);
    optim_describe_update(b);
    o->bindings[o->count++] = b;
    return 0;
}

const char *optim_name_of(const struct ofl_tensor *t)
{
    struct ofl_tensor_info info = {.size = sizeof info};

    ofl_tensor_info_get(t, &info);
    return info.name;
}

int ofl_optimizer_state(struct ofl_optimizer *o, struct ofl_tensor *weight, enum ofl_state which,
                        struct ofl_tensor **out)
{
    struct optim_binding *b;

    if (out)
        *out = NULL;
    if (core_refused(o->ctx, o, weight, out))
        return -EINVAL;
    b = optim_find(o, weight);
    if (!b || (unsigned)which >= OFL_STATES)
        return base_fail(-ENOENT, "optimizer state %d of %s: not bound", (int)which, optim_name_of(weight));
    if (which == OFL_STATE_EXP_AVG_SQ && !b->square)
        return base_fail(-ENOENT, "optimizer state of %s: the method has no second moment", b->name);
    *out = which == OFL_STATE_MASTER ? b->master : which == OFL_STATE_EXP_AVG ? b->mean : b->square;
    return 0;
}
