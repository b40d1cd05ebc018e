/*
 * The training step: which leases, in which order. See trainer.h.
 *
 * A part of the model is leased together with the activations of its first micro-batch, in
 * one batch: later micro-batches need ranges of the same sizes, so what fits once fits for
 * all. trainer.c's need_device counts the same leases.
 */
#include "examples/model/trainer_impl.h"

#include <string.h>

/* ---- one part over all micro-batches -------------------------------------- */

struct ofl_lease trainer_lease(struct ofl_tensor *tensor, enum ofl_mode mode, uint32_t flags)
{
    return (struct ofl_lease){
        .size = sizeof(struct ofl_lease), .tensor = tensor, .mode = mode, .flags = flags};
}

int trainer_run_part(struct trainer_part *p, uint32_t layer, trainer_moving_fn *activations,
                     trainer_describe_fn *describe)
{
    struct llama_trainer *t = p->t;
    struct ofl_lease *moving = p->leases + p->held;
    int err = 0;

    for (size_t m = 0; m < t->config.accum && err == 0; m++) {
        struct llama_job *job = llama_compute_job(t->compute, p->run);

        for (size_t i = 0; i < p->moving; i++)
            moving[i] = activations(t, layer, m, (int)i);
        err = m == 0 ? ofl_acquire(t->ctx, p->leases, p->held + p->moving, t->stream)
                     : ofl_acquire(t->ctx, moving, p->moving, t->stream);
        if (err < 0)
            break;
        job->layer = layer;
        job->micro = m;
        job->first = m == 0;
        describe(p, layer, job);
        err = llama_compute_run(t->compute, job);
        if (err == 0)
            err = ofl_release(t->ctx, moving, p->moving, t->stream);
    }
    return err < 0 ? err : ofl_release(t->ctx, p->leases, p->held, t->stream);
}

/* ---- the parts ------------------------------------------------------------ */

struct ofl_tensor *trainer_x(const struct llama_trainer *t, uint32_t layer, size_t micro)
{
    return t->x[layer * t->config.accum + micro];
}

static struct ofl_lease embed_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                          int which)
{
    (void)which;
    return trainer_lease(trainer_x(t, layer, micro), OFL_OVERWRITE, 0);
}

static void embed_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *next = p->leases;

    (void)layer;
    job->table = trainer_weight(p->t, 0, &next, job->packed);
    job->y = next->ptr;
}

static int embed(struct llama_trainer *t)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_EMBED, .moving = 1};

    p.held = trainer_weight_leases(t, 0, 0, p.leases);
    return trainer_run_part(&p, 0, embed_activations, embed_describe);
}

static struct ofl_lease forward_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                            int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, 0)
                      : trainer_lease(trainer_x(t, layer + 1, micro), OFL_OVERWRITE, 0);
}

static void forward_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *adapters = trainer_layer_weights(p->t, layer, p->leases, job);

    trainer_lora_describe(p->t, adapters, NULL, job);
    job->x = p->leases[p->held].ptr;
    job->y = p->leases[p->held + 1].ptr;
}

static void lease_layer(struct trainer_part *p, uint32_t layer)
{
    p->held = trainer_layer_leases(p->t, layer, 0, p->leases);
    trainer_lora_leases(p->t, layer, false, p->leases + p->held);
    p->held += trainer_lora_each(&p->t->config);
}

static int forward(struct llama_trainer *t, uint32_t layer)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_FORWARD, .moving = 2};

    if (llama_layer_mixed(&t->config.shape, layer))
        return trainer_experts_forward(t, layer, true);
    lease_layer(&p, layer);
    return trainer_run_part(&p, layer, forward_activations, forward_describe);
}

/* Weights of less than 4 bytes have served when their gradients are there: the update makes them anew from its master. */
uint32_t trainer_last_use(const struct llama_trainer *t)
{
    return t->config.lora.rank || t->config.dtype == OFL_F32 ? 0 : OFL_LEASE_DROP;
}

/* The layer's input has served when its gradient is there. */
static struct ofl_lease backward_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                             int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, OFL_LEASE_DROP)
                      : trainer_lease(t->dx[micro], OFL_UPDATE, 0);
}

/* The gradient at the embedding is not wanted where that is frozen. */
static struct ofl_lease last_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                         int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, OFL_LEASE_DROP)
                      : trainer_lease(t->dx[micro], OFL_UPDATE, OFL_LEASE_DROP);
}

static void adapters_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *adapters = trainer_layer_weights(p->t, layer, p->leases, job);

    trainer_lora_describe(p->t, adapters, adapters + trainer_lora_each(&p->t->config), job);
    job->x = p->leases[p->held].ptr;
    job->dx = p->leases[p->held + 1].ptr;
}

static int backward_adapters(struct llama_trainer *t, uint32_t layer)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_BACKWARD, .moving = 2};
    int err;

    lease_layer(&p, layer);
    trainer_lora_leases(t, layer, true, p.leases + p.held);
    p.held += trainer_lora_each(&t->config);
    err = trainer_run_part(&p, layer, layer ? backward_activations : last_activations, adapters_describe);
    return err < 0 ? err : trainer_lora_apply(t, layer);
}

static void backward_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    (void)trainer_layer_weights(p->t, layer, p->leases, job);
    llama_layer_grads(&p->t->config.shape, layer, p->leases + p->held / 2, &job->grads);
    job->x = p->leases[p->held].ptr;
    job->dx = p->leases[p->held + 1].ptr;
}

static int backward(struct llama_trainer *t, uint32_t layer)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_BACKWARD, .moving = 2};
    uint32_t first = llama_layer_first(&t->config.shape, layer),
             count = llama_layer_tensors(&t->config.shape, layer);
    int err;

    if (llama_layer_mixed(&t->config.shape, layer))
        return trainer_experts_backward(t, layer);
    p.held = 2 * (size_t)count;
    (void)trainer_layer_leases(t, layer, trainer_last_use(t), p.leases);
    llama_layer_leases(&t->grads, layer, OFL_OVERWRITE, p.leases + count);
    err = trainer_run_part(&p, layer, backward_activations, backward_describe);
    for (uint32_t i = 0; i < count && err == 0; i++)
        err = ofl_optimizer_apply(t->optimizer, t->weights.tensors[first + i]);
    return err;
}

static struct ofl_lease head_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                         int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, OFL_LEASE_DROP)
                      : trainer_lease(t->dx[micro], OFL_OVERWRITE, 0);
}

static size_t head_leases(const struct llama_trainer *t, uint32_t flags, struct ofl_lease *leases)
{
    const struct llama_shape *shape = &t->config.shape;
    size_t n = trainer_weight_leases(t, llama_tensor_index(shape, LLAMA_NORM, 0), flags, leases);

    return n + trainer_weight_leases(t, llama_tensor_index(shape, LLAMA_HEAD, 0), flags, leases + n);
}

/* Returns what is behind their leases. */
static const struct ofl_lease *head_weights(const struct trainer_part *p, struct llama_job *job)
{
    const struct llama_shape *shape = &p->t->config.shape;
    const struct ofl_lease *next = p->leases;

    job->head.norm = trainer_weight(p->t, llama_tensor_index(shape, LLAMA_NORM, 0), &next, &job->packed[0]);
    job->head.head = trainer_weight(p->t, llama_tensor_index(shape, LLAMA_HEAD, 0), &next, &job->packed[1]);
    return next;
}

static void head_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    const struct ofl_lease *grads = head_weights(p, job);

    (void)layer;
    if (!p->t->config.lora.rank)
        job->head_grads = (struct llama_head_grads){grads[0].ptr, grads[1].ptr};
    job->x = p->leases[p->held].ptr;
    job->dx = p->leases[p->held + 1].ptr;
}

/* Loss, and where backward starts. A tied matrix' gradient is not final yet. */
static int head(struct llama_trainer *t)
{
    const struct llama_shape *shape = &t->config.shape;
    uint32_t norm = llama_tensor_index(shape, LLAMA_NORM, 0),
             matrix = llama_tensor_index(shape, LLAMA_HEAD, 0);
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_HEAD, .moving = 2};

    /* Who is told of the loss may want all weights. */
    p.held = head_leases(t, t->at_loss ? 0 : trainer_last_use(t), p.leases);
    if (t->config.lora.rank)
        return trainer_run_part(&p, shape->layers, head_activations, head_describe);
    p.leases[p.held++] = trainer_lease(t->grads.tensors[norm], OFL_OVERWRITE, 0);
    p.leases[p.held++] = trainer_lease(t->grads.tensors[matrix], OFL_OVERWRITE, 0);
    return trainer_run_part(&p, shape->layers, head_activations, head_describe);
}

static int head_apply(struct llama_trainer *t)
{
    const struct llama_shape *shape = &t->config.shape;
    struct ofl_tensor **weights = t->weights.tensors;
    int err;

    if (t->config.lora.rank)
        return 0;
    err = ofl_optimizer_apply(t->optimizer, weights[llama_tensor_index(shape, LLAMA_NORM, 0)]);
    if (err == 0 && !shape->tied)
        err = ofl_optimizer_apply(t->optimizer, weights[llama_tensor_index(shape, LLAMA_HEAD, 0)]);
    return err;
}

static struct ofl_lease embed_backward_activations(const struct llama_trainer *t, uint32_t layer,
                                                   size_t micro, int which)
{
    (void)layer;
    (void)which;
    return trainer_lease(t->dx[micro], OFL_READ, OFL_LEASE_DROP);
}

static void embed_backward_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    (void)layer;
    job->table_grad = p->leases[0].ptr;
    job->dx = p->leases[1].ptr;
    job->first &= !p->t->config.shape.tied; /* the head has written it already */
}

static int embed_backward(struct llama_trainer *t)
{
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_EMBED_BACKWARD, .held = 1, .moving = 1};
    int err;

    p.leases[0] = trainer_lease(t->grads.tensors[0], t->config.shape.tied ? OFL_UPDATE : OFL_OVERWRITE, 0);
    err = trainer_run_part(&p, 0, embed_backward_activations, embed_backward_describe);
    return err < 0 ? err : ofl_optimizer_apply(t->optimizer, t->weights.tensors[0]);
}

/* ---- the step ------------------------------------------------------------- */

/* Targets that are not left out; 1 where all are, since something is divided by it. */
static double count_targets(const int32_t *targets, size_t tokens)
{
    size_t count = 0;

    for (size_t i = 0; i < tokens; i++)
        count += targets[i] >= 0;
    return count ? (double)count : 1;
}

static double sum_losses(struct llama_trainer *t)
{
    double sum = 0;

    llama_compute_fetch(t->compute, t->losses, NULL);
    for (size_t m = 0; m < t->config.accum; m++)
        sum += t->losses[m];
    return sum;
}

void llama_trainer_at_loss(struct llama_trainer *t, llama_trainer_loss_fn *fn, void *arg)
{
    t->at_loss = fn;
    t->at_loss_arg = arg;
}

static int tell_loss(struct llama_trainer *t)
{
    llama_trainer_loss_fn *fn = t->at_loss;
    int err = llama_compute_end(t->compute);

    t->at_loss = NULL;
    if (err == 0)
        err = ofl_stream_sync(t->stream);
    if (err == 0)
        fn(t->at_loss_arg, sum_losses(t) / t->learned);
    return err;
}

static int run_step(struct llama_trainer *t, const struct ofl_update_settings *settings)
{
    uint32_t layers = t->config.shape.layers;
    int err = embed(t);

    for (uint32_t layer = 0; layer < layers && err == 0; layer++)
        err = forward(t, layer);
    if (err == 0)
        err = head(t);
    if (err == 0 && t->at_loss)
        err = tell_loss(t);
    if (err == 0)
        err = ofl_optimizer_begin(t->optimizer, settings);
    if (err == 0)
        err = head_apply(t);
    for (uint32_t layer = layers; layer-- > 0 && err == 0;)
        err = t->config.lora.rank ? backward_adapters(t, layer) : backward(t, layer);
    if (err == 0 && !t->config.lora.rank)
        err = embed_backward(t);
    if (err == 0)
        err = ofl_optimizer_end(t->optimizer);
    return err;
}

int llama_trainer_step(struct llama_trainer *t, const int32_t *inputs, const int32_t *targets,
                       const struct ofl_update_settings *settings, double *loss, double *norm, char *error,
                       size_t error_bytes)
{
    size_t tokens = t->config.accum * t->config.batch * t->config.seq;
    int err = ofl_step_begin(t->ctx, "train");

    *loss = *norm = 0;
    t->learned = count_targets(targets, tokens);
    t->step = settings->step;
    if (err == 0)
        err = llama_compute_begin(t->compute, inputs, targets, tokens, (float)(1.0 / t->learned));
    if (err == 0)
        err = run_step(t, settings);
    if (err == 0)
        err = llama_compute_end(t->compute);
    if (err == 0)
        err = ofl_step_end(t->ctx);
    if (err == 0)
        err = ofl_stream_sync(t->stream);
    if (err == 0)
        err = ofl_optimizer_norm(t->optimizer, norm);
    if (err < 0) {
        trainer_fail(t, err, error, error_bytes);
        (void)ofl_stream_sync(t->stream); /* what was queued before reads the caller's tokens */
        return err;
    }
    *loss = sum_losses(t) / t->learned;
    return 0;
}

/* ---- evaluation ----------------------------------------------------------- */

/* A layer's input has served when its output is there. */
static struct ofl_lease eval_activations(const struct llama_trainer *t, uint32_t layer, size_t micro,
                                         int which)
{
    return which == 0 ? trainer_lease(trainer_x(t, layer, micro), OFL_READ, OFL_LEASE_DROP)
                      : trainer_lease(trainer_x(t, layer + 1, micro), OFL_OVERWRITE, 0);
}

static void eval_describe(const struct trainer_part *p, uint32_t layer, struct llama_job *job)
{
    (void)layer;
    (void)head_weights(p, job);
    job->x = p->leases[p->held].ptr;
}

static int eval_layers(struct llama_trainer *t)
{
    const struct llama_shape *shape = &t->config.shape;
    struct trainer_part p = {.t = t, .run = LLAMA_RUN_FORWARD, .moving = 2};
    struct trainer_part h = {.t = t, .run = LLAMA_RUN_HEAD, .moving = 1};
    int err = embed(t);

    for (uint32_t layer = 0; layer < shape->layers && err == 0; layer++) {
        if (llama_layer_mixed(shape, layer)) {
            err = trainer_experts_forward(t, layer, false);
            continue;
        }
        lease_layer(&p, layer);
        err = trainer_run_part(&p, layer, eval_activations, forward_describe);
    }
    h.held = head_leases(t, 0, h.leases);
    return err < 0 ? err : trainer_run_part(&h, shape->layers, eval_activations, eval_describe);
}

int llama_trainer_eval(struct llama_trainer *t, const int32_t *inputs, const int32_t *targets, double *sum,
                       char *error, size_t error_bytes)
{
    size_t tokens = t->config.accum * t->config.batch * t->config.seq;
    int err = ofl_step_begin(t->ctx, "eval");

    *sum = 0;
    t->evaluating = true;
    if (err == 0)
        err = llama_compute_begin(t->compute, inputs, targets, tokens, 1);
    if (err == 0)
        err = eval_layers(t);
    if (err == 0)
        err = llama_compute_end(t->compute);
    if (err == 0)
        err = ofl_step_end(t->ctx);
    if (err == 0)
        err = ofl_stream_sync(t->stream);
    t->evaluating = false;
    if (err < 0) {
        trainer_fail(t, err, error, error_bytes);
        (void)ofl_stream_sync(t->stream);
        return err;
    }
    *sum = sum_losses(t);
    return 0;
}
