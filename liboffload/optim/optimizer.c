/*
 * optimizer: its life, and its bindings. See optimizer.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/optim/optimizer.h"

/* ---- life -------------------------------------------------------------- */

static void close_hook(struct core_hook *h)
{
    ofl_optimizer_destroy((struct ofl_optimizer *)((char *)h - offsetof(struct ofl_optimizer, hook)));
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
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->idle);
    free(o);
}

int ofl_optimizer_create(struct ofl_ctx *ctx, struct ofl_optimizer **out)
{
    struct ofl_optimizer *o = calloc(1, sizeof *o);
    int err;

    *out = NULL;
    if (!o)
        return base_fail(-ENOMEM, "create optimizer: out of memory");
    o->ctx = ctx;
    o->ops = dev_native(ctx->dev) ? &optim_ops_cuda : &optim_ops_host;
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->idle, NULL);
    err = ofl_stream_create(ctx, &o->stream);
    if (err == 0)
        err = o->ops->open(o);
    if (err < 0) {
        optimizer_free(o);
        return err;
    }
    dev_stream_uncounted(o->stream->dev);
    o->hook.close = close_hook;
    core_hook_add(ctx, &o->hook);
    *out = o;
    return 0;
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

static int passed_run(struct ofl_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

int ofl_optimizer_destroy(struct ofl_optimizer *o)
{
    struct base_error first;

    if (!o)
        return 0;
    core_hook_remove(o->ctx, &o->hook);
    base_error_save(&first, ofl_stream_sync(o->stream));
    optim_await_updates(o, NULL);
    core_call(o->ctx, passed_run, NULL); /* the engine has taken what the stream reported of o */
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
    if (optim_find(o, weight))
        return base_fail(-EEXIST, "bind %s: it is bound already", weight->name);
    return core_tensors_together(
        (struct ofl_tensor *[]){(struct ofl_tensor *)(uintptr_t)weight, (struct ofl_tensor *)(uintptr_t)grad},
        2);
}

static int make_room(struct ofl_optimizer *o)
{
    size_t room = o->room ? 2 * o->room : 64;
    struct optim_binding **more;

    if (o->count < o->room)
        return 0;
    more = realloc(o->bindings, room * sizeof(struct optim_binding *));
    if (!more)
        return base_fail(-ENOMEM, "bind: out of memory");
    o->bindings = more;
    o->room = room;
    return 0;
}

int ofl_optimizer_bind(struct ofl_optimizer *o, struct ofl_tensor *weight, struct ofl_tensor *grad)
{
    struct optim_binding *b;
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
    if (err == 0)
        err = o->ops->bind(b, grad->elems);
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
    optim_describe_update(b);
    o->bindings[o->count++] = b;
    return 0;
}

int ofl_optimizer_state(struct ofl_optimizer *o, struct ofl_tensor *weight, enum ofl_optimizer_state which,
                        struct ofl_tensor **out)
{
    struct optim_binding *b = optim_find(o, weight);

    *out = NULL;
    if (!b || (unsigned)which >= OFL_STATES)
        return base_fail(-ENOENT, "optimizer state %d of %s: not bound", (int)which, weight->name);
    *out = which == OFL_STATE_MASTER ? b->master : which == OFL_STATE_EXP_AVG ? b->mean : b->square;
    return 0;
}
