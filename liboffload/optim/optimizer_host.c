/* optimizer_host: what runs on the stream of the host device: plain functions, as jobs. */
#include "liboffload/optim/optimizer.h"

static int host_open(struct ofl_optimizer *o)
{
    o->result = &o->own;
    return 0;
}

static void host_close(struct ofl_optimizer *o)
{
    (void)o;
}

static int host_method(struct ofl_optimizer *o)
{
    (void)o;
    return 0;
}

static int host_bind(struct optim_binding *b, uint64_t elems)
{
    (void)elems;
    (void)b;
    return 0;
}

static void sum_job(void *arg)
{
    struct optim_binding *b = arg;

    optim_reduce(b, b->grad_ptr);
    b->sum_squares = optim_sum_squares(b->grad_ptr, b->elems);
}

static int host_sum(struct optim_binding *b, float *grad)
{
    b->grad_ptr = grad;
    return ofl_stream_launch(b->optimizer->stream, sum_job, b);
}

/* All sums are there. */
static void norm_job(void *arg)
{
    struct ofl_optimizer *o = arg;
    double sum = 0;

    for (size_t i = 0; i < o->count; i++)
        if (o->bindings[i]->applied)
            sum += o->bindings[i]->sum_squares;
    optim_norm_set(&o->own, sum, o->settings.clip, o->settings.skip_overflow);
}

static int host_norm(struct ofl_optimizer *o)
{
    return ofl_stream_launch(o->stream, norm_job, o);
}

/* The whole weight at once. */
static void update_job(void *arg)
{
    struct optim_binding *b = arg;
    struct ofl_optimizer *o = b->optimizer;

    if (b->clipped && o->own.skip)
        return;
    optim_update(o->method, &b->coef, b->clipped ? o->own.scale : 1.0f, optim_arrays_of(b, b->ptr), b->elems);
}

static int host_update(struct optim_binding *b, void *const ptr[CORE_UPDATE_TENSORS], bool clipped)
{
    b->clipped = clipped;
    for (uint32_t i = 0; i < b->update.count; i++)
        b->ptr[i] = ptr[i];
    return ofl_stream_launch(b->optimizer->stream, update_job, b);
}

const struct optim_ops optim_ops_host = {
    .reduces = true,
    .open = host_open,
    .close = host_close,
    .method = host_method,
    .bind = host_bind,
    .sum = host_sum,
    .norm = host_norm,
    .update = host_update,
};
