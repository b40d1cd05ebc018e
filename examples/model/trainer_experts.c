/*
 * A layer with a mixture of experts in a training step: attention and router, then one expert after the other, with all
 * micro-batches under one lease of its weights; in backward the other way round. What they have in common is an
 * activation of its own, which lives as long as the layer is passed through. See trainer.h.
 */
#include "examples/model/experts.h"
#include "examples/model/trainer_impl.h"

#define EXPERT_TENSORS 3u

static const enum llama_role roles[EXPERT_TENSORS] = {LLAMA_EXPERT_GATE, LLAMA_EXPERT_UP, LLAMA_EXPERT_DOWN};

static uint32_t tensor_of(const struct llama_trainer *t, uint32_t layer, uint32_t expert, uint32_t i)
{
    return llama_expert_index(&t->config.shape, roles[i], layer, expert);
}

static struct llama_weight weight_of(const struct trainer_part *p, uint32_t i)
{
    return (struct llama_weight){.data = p->leases[i].ptr, .dtype = p->t->config.dtype};
}

static struct llama_expert expert_of(const struct trainer_part *p)
{
    return (struct llama_expert){p->expert, weight_of(p, 0), weight_of(p, 1), weight_of(p, 2)};
}

/* ---- forward ---------------------------------------------------------------- */

static struct ofl_lease enter_moving(const struct llama_trainer *t, uint32_t layer, size_t micro, int which)
{
    return which == 0   ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, 0)
           : which == 1 ? trainer_lease(t->mixed[micro], OFL_OVERWRITE, 0)
                        : trainer_lease(trainer_x(t, layer + 1, micro), OFL_OVERWRITE, 0);
}

static struct ofl_lease enter_moving_last(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                          int which)
{
    struct ofl_lease l = enter_moving(t, layer, micro, which);

    l.flags = which == 0 ? OFL_LEASE_DROP : 0;
    return l;
}

static void enter_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *moving = p->leases + p->held;

    trainer_layer_weights(p->t, layer, p->leases, job);
    job->x = moving[0].ptr;
    job->state = moving[1].ptr;
    job->y = p->moving > 2 ? moving[2].ptr : NULL;
}

static int enter(struct llama_trainer *t, uint32_t layer, size_t moving, trainer_moving_fn *fn)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_ENTER_EXPERTS, .moving = moving};

    p.held = trainer_layer_leases(t, layer, 0, p.leases);
    return trainer_run_part(&p, layer, fn, enter_describe);
}

static struct ofl_lease forward_moving(const struct llama_trainer *t, uint32_t layer, size_t micro, int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer + 1, micro), OFL_UPDATE, 0)
                      : trainer_lease(t->mixed[micro], OFL_READ, 0);
}

static struct ofl_lease forward_moving_last(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                            int which)
{
    struct ofl_lease l = forward_moving(t, layer, micro, which);

    l.flags = which == 1 ? OFL_LEASE_DROP : 0;
    return l;
}

static void forward_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    (void)layer;
    job->experts = expert_of(p);
    job->y = p->leases[p->held].ptr;
    job->state = p->leases[p->held + 1].ptr;
}

int trainer_experts_forward(struct llama_trainer *t, uint32_t layer, bool keep)
{
    uint32_t count = t->config.shape.experts;
    int err = enter(t, layer, 3, keep ? enter_moving : enter_moving_last);

    for (uint32_t e = 0; e < count && err == 0; e++) {
        struct trainer_part p = {
            .t = t, .run = LLAMA_RUN_EXPERT, .expert = e, .held = EXPERT_TENSORS, .moving = 2};

        for (uint32_t i = 0; i < EXPERT_TENSORS; i++)
            p.leases[i] = trainer_lease(t->weights.tensors[tensor_of(t, layer, e, i)], OFL_READ, 0);
        err = trainer_run_part(&p, layer, e + 1 < count ? forward_moving : forward_moving_last,
                               forward_describe);
    }
    return err;
}

/* ---- backward --------------------------------------------------------------- */

static struct ofl_lease backward_moving(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                        int which)
{
    (void)layer;
    return which == 0 ? trainer_lease(t->dx[micro], OFL_READ, 0)
                      : trainer_lease(t->mixed[micro], OFL_UPDATE, 0);
}

static void backward_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *grads = p->leases + EXPERT_TENSORS;

    (void)layer;
    job->experts = expert_of(p);
    job->expert_grads = (struct llama_expert_grads){grads[0].ptr, grads[1].ptr, grads[2].ptr};
    job->dx = p->leases[p->held].ptr;
    job->state = p->leases[p->held + 1].ptr;
}

static int expert_backward(struct llama_trainer *t, uint32_t layer, uint32_t expert)
{
    struct trainer_part p = {
        .t = t, .run = LLAMA_RUN_EXPERT_BACKWARD, .expert = expert, .held = 2 * EXPERT_TENSORS, .moving = 2};
    int err;

    for (uint32_t i = 0; i < EXPERT_TENSORS; i++) {
        uint32_t tensor = tensor_of(t, layer, expert, i);

        p.leases[i] = trainer_lease(t->weights.tensors[tensor], OFL_READ, trainer_last_use(t));
        p.leases[EXPERT_TENSORS + i] = trainer_lease(t->grads.tensors[tensor], OFL_OVERWRITE, 0);
    }
    err = trainer_run_part(&p, layer, backward_moving, backward_describe);
    for (uint32_t i = 0; i < EXPERT_TENSORS && err == 0; i++)
        err = ofl_optimizer_apply(t->optimizer, t->weights.tensors[tensor_of(t, layer, expert, i)]);
    return err;
}

/* The layer's input has served when its gradient is there. */
static struct ofl_lease leave_moving(const struct llama_trainer *t, uint32_t layer, size_t micro, int which)
{
    return which == 0   ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, OFL_LEASE_DROP)
           : which == 1 ? trainer_lease(t->dx[micro], OFL_UPDATE, 0)
                        : trainer_lease(t->mixed[micro], OFL_UPDATE, OFL_LEASE_DROP);
}

static void leave_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *moving = p->leases + p->held;

    trainer_layer_weights(p->t, layer, p->leases, job);
    llama_layer_grads(&p->t->config.shape, layer, p->leases + p->held / 2, &job->grads);
    job->x = moving[0].ptr;
    job->dx = moving[1].ptr;
    job->state = moving[2].ptr;
}

static int leave(struct llama_trainer *t, uint32_t layer)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_LEAVE_EXPERTS, .moving = 3};
    uint32_t first = llama_layer_first(&t->config.shape, layer),
             count = llama_layer_tensors(&t->config.shape, layer);
    int err;

    p.held = 2 * (size_t)count;
    trainer_layer_leases(t, layer, trainer_last_use(t), p.leases);
    llama_layer_leases(&t->grads, layer, OFL_OVERWRITE, p.leases + count);
    err = trainer_run_part(&p, layer, leave_moving, leave_describe);
    for (uint32_t i = 0; i < count && err == 0; i++)
        err = ofl_optimizer_apply(t->optimizer, t->weights.tensors[first + i]);
    return err;
}

int trainer_experts_backward(struct llama_trainer *t, uint32_t layer)
{
    int err = enter(t, layer, 2, enter_moving);

    for (uint32_t e = 0; e < t->config.shape.experts && err == 0; e++)
        err = expert_backward(t, layer, e);
    return err < 0 ? err : leave(t, layer);
}
