/*
 * optimizer_reduce: gradients of several processes: each passes through the caller's function before its squares are
 * summed. Knows nothing of networks. See optimizer.h.
 */
#include <errno.h>

#include "liboffload/optim/optimizer.h"

int ofl_optimizer_reduce(struct ofl_optimizer *o,
                         int (*reduce)(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg), void *arg)
{
    int err;

    if (core_refused(o->ctx, o))
        return -EINVAL;
    if (o->in_step)
        return base_fail(-OFL_ESTATE, "reduce gradients: an optimizer step is open");
    if (reduce && !o->ops->reduces)
        return base_fail(
            -ENOTSUP, "reduce gradients: on a cuda device they are not in host memory when norms are made: "
                      "reduce them before ofl_optimizer_apply, or use device host");
    err = ofl_stream_sync(o->stream); /* the last step's jobs read it */
    if (err < 0)
        return err;
    o->reduction = (struct optim_reduction){.reduce = reduce, .arg = arg};
    return 0;
}

void optim_reduce(struct optim_binding *b, float *grad)
{
    struct optim_reduction *r = &b->optimizer->reduction;
    uint64_t bytes = b->elems * sizeof *grad;

    for (uint64_t at = 0; r->reduce && r->code == 0 && at < bytes; at += OFL_REDUCE_BYTES) {
        uint64_t part = bytes - at < OFL_REDUCE_BYTES ? bytes - at : OFL_REDUCE_BYTES;

        r->code = r->reduce((char *)grad + at, part, OFL_F32, r->arg);
        r->failed = b;
        r->at = at;
    }
}

int optim_reduce_await(struct ofl_optimizer *o)
{
    struct optim_reduction *r = &o->reduction;
    int err = ofl_stream_sync(o->stream);

    if (err < 0 || r->code == 0)
        return err;
    return base_fail(
        -ECANCELED,
        "end optimizer step %llu: reducing the gradient of %s, from byte %llu of %llu on, returned %d: "
        "nothing is updated",
        (unsigned long long)o->settings.step, r->failed->name, (unsigned long long)r->at,
        (unsigned long long)(r->failed->elems * sizeof(float)), r->code);
}
