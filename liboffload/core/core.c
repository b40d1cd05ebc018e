/* core: see core.h. */
#include "liboffload/core/core.h"

#include <errno.h>

#include "liboffload/core/context.h"

/* ---- contexts and tensors, as known above ------------------------------ */

int core_forked(const char *call, const struct ofl_ctx *ctx)
{
    if (ctx->forks == base_forks)
        return 0;
    return base_fail(
        -EINVAL,
        "%s: its context was opened by the process that this one was forked from, and is that one's "
        "alone: a forked process opens its own",
        call);
}

struct dev *core_device(struct ofl_ctx *ctx)
{
    return ctx->engine.dev;
}

static int nothing(struct ofl_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

void core_settle(struct ofl_ctx *ctx)
{
    core_call(ctx, nothing, NULL);
}

struct ofl_ctx *core_tensor_ctx(const struct ofl_tensor *t)
{
    return t->ctx;
}

bool core_tensor_fixed(const struct ofl_tensor *t)
{
    return t->source || (t->flags & OFL_TENSOR_TRANSIENT);
}

bool core_tensor_kept(const struct ofl_tensor *t)
{
    return t->keep != NULL;
}

bool core_tensor_on_device(const struct ofl_tensor *t)
{
    return t->device_home;
}

int core_tensors_together(struct ofl_tensor *const *tensors, uint32_t count)
{
    const struct ofl_tensor *on = NULL, *off = NULL;

    for (uint32_t i = 0; i < count; i++) {
        if (!tensors[i])
            continue;
        if (tensors[i]->device_home)
            on = tensors[i];
        else
            off = tensors[i];
    }
    if (!on || !off)
        return 0;
    return base_fail(-ENOTSUP,
                     "bind %s: %s lives on the device and %s does not, and an update works on all of them in "
                     "one place: raise the NVMe or the host budget, or set leased_bytes to device_bytes, so "
                     "that none has to live on the device",
                     tensors[0]->name, on->name, off->name);
}

struct ref {
    struct ofl_tensor *tensor;
    int by;
};

static int ref_run(struct ofl_ctx *ctx, void *arg)
{
    const struct ref *r = arg;

    (void)ctx;
    r->tensor->refs += (uint32_t)r->by;
    return 0;
}

void core_tensor_ref(struct ofl_tensor *t, int by)
{
    struct ref r = {t, by};

    core_call(t->ctx, ref_run, &r);
}

/* ---- updates ----------------------------------------------------------- */

static int queue_run(struct ofl_ctx *ctx, void *arg)
{
    const struct core_updates *batch = arg;
    struct pager *p = &ctx->engine.pager;

    for (size_t i = 0; i < batch->count; i++) {
        int err = pager_update_check(p, batch->updates[i]);

        if (err < 0)
            return err;
    }
    for (size_t i = 0; i < batch->count && !batch->check; i++) {
        batch->before(batch->updates[i]->arg);
        pager_update(p, batch->updates[i], batch->held);
    }
    return pager_check(p);
}

int core_update_queue(struct ofl_ctx *ctx, const struct core_updates *batch)
{
    return core_call(ctx, queue_run, (void *)(uintptr_t)batch);
}

void core_update_let_go(struct ofl_ctx *ctx, struct core_update *u)
{
    pager_update_let_go(&ctx->engine.pager, u);
}

void core_update_count(struct ofl_ctx *ctx)
{
    ctx->engine.pager.stats.updates++;
}

void core_break(struct ofl_ctx *ctx, int code, const char *what)
{
    struct pager *p = &ctx->engine.pager;
    struct base_error error;

    base_error_set(&error, code, "%s: %s", what, p->env.why(p->env.arg, code));
    pager_break(p, &error);
}
