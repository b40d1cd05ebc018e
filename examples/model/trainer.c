/* Life of a trainer: what it needs, its tensors. See trainer.h; the step is in trainer_step.c. */
#include "examples/model/trainer_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/experts.h"
#include "examples/model/files.h"
#include "examples/model/random.h"

/* ---- needs --------------------------------------------------------------- */

static size_t adapter_bytes(const struct llama_trainer_config *c)
{
    return c->lora.rank ? llama_lora_workspace(&c->shape, &c->lora, c->batch * c->seq) : 0;
}

static struct llama_compute_config compute_config(const struct llama_trainer_config *c)
{
    return (struct llama_compute_config){.shape = c->shape,
                                         .dtype = trainer_widest(c),
                                         .cuda = c->cuda,
                                         .batch = c->batch,
                                         .seq = c->seq,
                                         .accum = c->accum,
                                         .adapter_bytes = adapter_bytes(c)};
}

static size_t workspace_bytes(const struct llama_trainer_config *c)
{
    struct llama_compute_config compute = compute_config(c);

    return llama_compute_workspace(&compute);
}

static uint64_t activation_bytes(const struct llama_trainer_config *c)
{
    return (uint64_t)c->batch * c->seq * c->shape.hidden * sizeof(float);
}

/* Of what a layer with experts leaves for the next call. */
static uint64_t mixed_bytes(const struct llama_trainer_config *c)
{
    return c->shape.experts ? llama_experts_state_bytes(&c->shape, c->batch * c->seq) : 0;
}

static struct llama_part part_of(const struct llama_trainer_config *c, const char *name)
{
    struct llama_part part = {0};

    snprintf(part.name, sizeof part.name, "%s", name);
    llama_part_add(&part, "workspace", workspace_bytes(c));
    return part;
}

/* Of a weight's part, as leased; 0: there is none. */
static uint64_t part_bytes(const struct llama_trainer_config *c, uint32_t index, int part)
{
    return llama_frozen_part(&c->shape, trainer_dtype_of(c, index), index, (enum llama_part_kind)part).bytes;
}

/* Adds a weight, and its gradient if wanted. */
static void add_weight(struct llama_part *part, const struct llama_trainer_config *c, uint32_t index,
                       bool weight, bool grad)
{
    struct llama_tensor_desc d;
    char name[sizeof d.name + 8];

    llama_tensor_at(&c->shape, index, &d);
    snprintf(name, sizeof name, "%s.grad", d.name);
    for (int i = 0; weight && i < LLAMA_PARTS; i++) {
        uint64_t bytes = part_bytes(c, index, i);

        if (bytes)
            llama_part_add(part, d.name, bytes);
    }
    if (grad && !c->lora.rank)
        llama_part_add(part, name, d.elems * sizeof(float));
}

/* A layer's adapters and their gradients. */
static void add_adapters(struct llama_part *part, const struct llama_trainer_config *c)
{
    for (uint32_t i = 0; i < 2 * trainer_lora_each(c); i++) {
        struct llama_lora_tensor l;

        llama_lora_tensor_at(&c->shape, &c->lora, i / 2, &l);
        llama_part_add(part, l.name, l.elems * sizeof(float));
    }
}

static void add_activations(struct llama_part *part, const struct llama_trainer_config *c, int count)
{
    while (count--)
        llama_part_add(part, "activations", activation_bytes(c));
}

/* A layer with experts: all but these, and one of them. */
static void need_mixed(const struct llama_trainer_config *c, uint32_t layer, struct llama_need *need)
{
    struct llama_part part = part_of(c, "attention and router, backward");

    for (uint32_t i = 0; i < llama_layer_tensors(&c->shape, layer); i++)
        add_weight(&part, c, llama_layer_first(&c->shape, layer) + i, true, true);
    add_activations(&part, c, 2);
    llama_part_add(&part, "routes", mixed_bytes(c));
    llama_part_close(&part, need);

    part = part_of(c, "an expert's backward");
    for (int role = LLAMA_EXPERT_GATE; role <= LLAMA_EXPERT_DOWN; role++)
        add_weight(&part, c, llama_expert_index(&c->shape, (enum llama_role)role, layer, 0), true, true);
    add_activations(&part, c, 1);
    llama_part_add(&part, "routes", mixed_bytes(c));
    llama_part_close(&part, need);
}

static void need_layer(const struct llama_trainer_config *c, uint32_t layer, struct llama_need *need)
{
    struct llama_part part = part_of(c, "a layer's backward");

    for (uint32_t i = 0; i < llama_layer_tensors(&c->shape, layer); i++)
        add_weight(&part, c, llama_layer_first(&c->shape, layer) + i, true, true);
    add_adapters(&part, c);
    add_activations(&part, c, 2);
    llama_part_close(&part, need);
}

/* The parts of a step, by the same leases that trainer_step.c takes. Layers are of two kinds at most, but for dtypes of
 * frozen ones. */
static void need_device(const struct llama_trainer_config *c, struct llama_need *need)
{
    uint32_t embed = llama_tensor_index(&c->shape, LLAMA_EMBED, 0);
    struct llama_part part;

    part = part_of(c, "the embedding");
    add_weight(&part, c, embed, true, false);
    add_activations(&part, c, 1);
    llama_part_close(&part, need);

    for (uint32_t i = 0; i < c->shape.layers; i++)
        if (i == 0 || c->frozen || llama_layer_mixed(&c->shape, i) != llama_layer_mixed(&c->shape, i - 1))
            (llama_layer_mixed(&c->shape, i) ? need_mixed : need_layer)(c, i, need);

    part = part_of(c, "the head");
    add_weight(&part, c, llama_tensor_index(&c->shape, LLAMA_NORM, 0), true, true);
    add_weight(&part, c, llama_tensor_index(&c->shape, LLAMA_HEAD, 0), true, true);
    add_activations(&part, c, 2);
    llama_part_close(&part, need);

    if (c->lora.rank)
        return;
    part = part_of(c, "the embedding's backward");
    add_weight(&part, c, embed, false, true);
    add_activations(&part, c, 1);
    llama_part_close(&part, need);
}

static void need_tensor(struct llama_trainer_need *need, uint64_t bytes, uint64_t count, bool kept)
{
    uint64_t room = count * ((bytes + 4095) / 4096 * 4096);

    need->device_all_bytes += count * ofl_device_footprint(bytes);
    *(kept ? &need->kept_bytes : &need->store_bytes) += room;
}

/* All of them are trained. */
static void need_weights(const struct llama_trainer_config *c, struct llama_trainer_need *out)
{
    uint64_t each = ofl_dtype_bytes(c->dtype);
    /* Of one element each state takes a block. */
    uint64_t wide = ofl_optimizer_bytes(c->method, c->dtype, 1) / 4096;

    for (uint32_t i = 0; i < llama_tensor_count(&c->shape); i++) {
        struct llama_tensor_desc d;

        llama_tensor_at(&c->shape, i, &d);
        need_tensor(out, d.elems * each, 1, c->keep);
        need_tensor(out, d.elems * sizeof(float), wide, c->keep);
        need_tensor(out, d.elems * sizeof(float), 1, false); /* gradient */
        out->state_bytes += d.elems * (each + (wide + 1) * sizeof(float));
    }
}

/* Frozen weights need no room below the device. */
static void need_adapters(const struct llama_trainer_config *c, struct llama_trainer_need *out)
{
    uint64_t moments = ofl_optimizer_bytes(c->method, OFL_F32, 1) / 4096;
    struct llama_lora_tensor l;

    for (uint32_t i = 0; llama_lora_tensor_at(&c->shape, &c->lora, i, &l) == 0; i++) {
        need_tensor(out, l.elems * sizeof(float), 1 + moments, c->keep);
        need_tensor(out, l.elems * sizeof(float), 1, false); /* gradient */
        out->state_bytes += (2 + moments) * l.elems * sizeof(float);
    }
    for (uint32_t i = 0; i < LLAMA_PARTS * llama_tensor_count(&c->shape); i++) {
        uint64_t bytes = part_bytes(c, i / LLAMA_PARTS, (int)(i % LLAMA_PARTS));

        out->device_all_bytes += bytes ? ofl_device_footprint(bytes) : 0;
        out->frozen_bytes += bytes;
    }
}

void llama_trainer_need(const struct llama_trainer_config *c, struct llama_trainer_need *out)
{
    uint64_t checkpoints = (uint64_t)c->accum * (c->shape.layers + 2); /* inputs, the last output, dx */

    *out = (struct llama_trainer_need){.workspace_bytes = workspace_bytes(c)};
    need_device(c, &out->device);
    out->device_all_bytes = ofl_device_footprint(out->workspace_bytes);
    if (c->lora.rank)
        need_adapters(c, out);
    else
        need_weights(c, out);
    out->activation_bytes = checkpoints * activation_bytes(c);
    need_tensor(out, activation_bytes(c), checkpoints, false);
    if (c->shape.experts) {
        out->activation_bytes += c->accum * mixed_bytes(c);
        need_tensor(out, mixed_bytes(c), c->accum, false);
    }
}

/* ---- life ---------------------------------------------------------------- */

int trainer_fail(const struct llama_trainer *t, int err, char *error, size_t error_bytes)
{
    const char *why = llama_compute_error(t->compute);

    snprintf(error, error_bytes, "%s", why ? why : ofl_error());
    return err;
}

static int create_activation(struct llama_trainer *t, const char *what, uint32_t layer, size_t micro,
                             uint64_t bytes, struct ofl_tensor **out)
{
    char name[64];
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = name,
                                .kind = OFL_KIND_ACTIVATION,
                                .dtype = OFL_F32,
                                .elems = bytes / sizeof(float)};

    snprintf(name, sizeof name, "%s.%u.%zu", what, layer, micro);
    return ofl_tensor_create(t->ctx, &d, out);
}

static int create_activations(struct llama_trainer *t)
{
    uint64_t bytes = activation_bytes(&t->config);
    int err = 0;

    for (uint32_t layer = 0; layer <= t->config.shape.layers; layer++)
        for (size_t m = 0; m < t->config.accum && err == 0; m++)
            err = create_activation(t, "x", layer, m, bytes, &t->x[layer * t->config.accum + m]);
    for (size_t m = 0; m < t->config.accum && err == 0; m++)
        err = create_activation(t, "dx", 0, m, bytes, &t->dx[m]);
    for (size_t m = 0; t->config.shape.experts && m < t->config.accum && err == 0; m++)
        err = create_activation(t, "routes", 0, m, mixed_bytes(&t->config), &t->mixed[m]);
    return err;
}

/* Leased for as long as the trainer lives. */
static int take_workspace(struct llama_trainer *t)
{
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = "workspace",
                                .kind = OFL_KIND_WORKSPACE,
                                .dtype = OFL_U8,
                                .elems = workspace_bytes(&t->config),
                                .flags = OFL_TENSOR_TRANSIENT};
    int err = ofl_tensor_create(t->ctx, &d, &t->workspace.tensor);

    if (err < 0)
        return err;
    t->workspace.size = sizeof t->workspace;
    t->workspace.mode = OFL_OVERWRITE;
    err = ofl_acquire(t->ctx, &t->workspace, 1, t->stream);
    if (err < 0) {
        ofl_tensor_destroy(t->workspace.tensor);
        t->workspace = (struct ofl_lease){0};
    }
    return err;
}

static int bind_all(struct llama_trainer *t)
{
    int err = ofl_optimizer_create(t->ctx, &t->optimizer);

    if (err == 0)
        err = ofl_optimizer_method(t->optimizer, t->config.method);
    if (t->config.lora.rank)
        return err < 0 ? err : trainer_lora_create(t);
    for (uint32_t i = 0; i < t->weights.count && err == 0; i++) {
        struct llama_tensor_desc d;

        err = ofl_optimizer_bind(t->optimizer, t->weights.tensors[i], t->grads.tensors[i]);
        llama_tensor_at(&t->config.shape, i, &d);
        if (err == 0 && t->config.spare && d.dims == 1)
            err = ofl_optimizer_decay(t->optimizer, t->weights.tensors[i], 0);
    }
    return err;
}

/* Trained ones with gradients, or frozen ones. */
static int make_weights(struct llama_trainer *t, char *error, size_t error_bytes)
{
    const struct llama_shape *shape = &t->config.shape;
    int err;

    if (t->config.lora.rank)
        return llama_frozen_bind(t->config.base, shape, &t->base, error, error_bytes);
    err = llama_model_create(t->ctx, shape, t->config.dtype, OFL_KIND_WEIGHT, trainer_keep_flag(&t->config),
                             "", &t->weights, error, error_bytes);
    return err < 0 ? err
                   : llama_model_create(t->ctx, shape, OFL_F32, OFL_KIND_GRADIENT, 0, ".grad", &t->grads,
                                        error, error_bytes);
}

static int create_all(struct llama_trainer *t, char *error, size_t error_bytes)
{
    struct llama_compute_config compute = compute_config(&t->config);
    int err = ofl_stream_create(t->ctx, &t->stream);

    if (err == 0)
        err = take_workspace(t);
    if (err < 0)
        return trainer_fail(t, err, error, error_bytes);
    err = llama_compute_open(t->ctx, t->stream, &compute, t->workspace.ptr, &t->compute, error, error_bytes);
    if (err == 0)
        err = make_weights(t, error, error_bytes);
    if (err < 0)
        return err;
    err = bind_all(t);
    if (err == 0)
        err = create_activations(t);
    return err < 0 ? trainer_fail(t, err, error, error_bytes) : 0;
}

int llama_trainer_create(struct ofl_ctx *ctx, const struct llama_trainer_config *config,
                         struct llama_trainer **out, char *error, size_t error_bytes)
{
    struct llama_trainer *t = calloc(1, sizeof *t);
    int err = -ENOMEM;

    *out = NULL;
    if (config->lora.rank && config->cuda)
        return free(t), llama_fail(-ENOTSUP, error, error_bytes,
                                   "adapters are trained on the host device only: use --device host");
    if (t) {
        t->ctx = ctx;
        t->config = *config;
        t->config.shape.rope.far = config->seq > config->shape.rope.original_positions;
        t->x = calloc((config->shape.layers + 1) * config->accum, sizeof *t->x);
        t->dx = calloc(config->accum, sizeof *t->dx);
        t->mixed = calloc(config->accum, sizeof *t->mixed);
        t->losses = calloc(config->accum, sizeof *t->losses);
    }
    if (t && t->x && t->dx && t->mixed && t->losses)
        err = create_all(t, error, error_bytes);
    else
        snprintf(error, error_bytes, "make a trainer of %u layers: out of memory", config->shape.layers);
    if (err < 0) {
        llama_trainer_destroy(t);
        return err;
    }
    *out = t;
    return 0;
}

void llama_trainer_destroy(struct llama_trainer *t)
{
    if (!t)
        return;
    if (t->stream)
        ofl_stream_sync(t->stream);
    ofl_optimizer_destroy(t->optimizer);
    llama_compute_close(t->compute);
    if (t->workspace.ptr)
        ofl_release(t->ctx, &t->workspace, 1, t->stream);
    ofl_stream_destroy(t->stream);
    ofl_tensor_destroy(t->workspace.tensor);
    llama_model_destroy(&t->weights);
    llama_model_destroy(&t->grads);
    llama_frozen_destroy(&t->base);
    trainer_lora_destroy(t);
    for (size_t i = 0; t->x && i < (t->config.shape.layers + 1) * t->config.accum; i++)
        ofl_tensor_destroy(t->x[i]);
    for (size_t m = 0; t->dx && m < t->config.accum; m++)
        ofl_tensor_destroy(t->dx[m]);
    for (size_t m = 0; t->mixed && m < t->config.accum; m++)
        ofl_tensor_destroy(t->mixed[m]);
    free(t->x);
    free(t->dx);
    free(t->mixed);
    free(t->losses);
    free(t);
}

/* ---- values -------------------------------------------------------------- */

int llama_trainer_set(struct llama_trainer *t, uint32_t tensor, uint64_t first, uint64_t elems,
                      const float *values, char *error, size_t error_bytes)
{
    struct ofl_tensor *weight = t->weights.tensors[tensor], *master;
    uint16_t rounded[4096];
    int err = ofl_optimizer_state(t->optimizer, weight, OFL_STATE_MASTER, &master);

    if (err == 0)
        err = ofl_tensor_write(master, first * sizeof *values, values, elems * sizeof *values);
    for (uint64_t i = 0; err == 0 && master != weight && i < elems; i += 4096) {
        uint64_t n = elems - i < 4096 ? elems - i : 4096;

        llama_to_bf16(rounded, values + i, n);
        err = ofl_tensor_write(weight, (first + i) * sizeof *rounded, rounded, n * sizeof *rounded);
    }
    return err < 0 ? trainer_fail(t, err, error, error_bytes) : 0;
}

int llama_trainer_random(struct llama_trainer *t, uint32_t tensor, uint64_t seed, float std, char *error,
                         size_t error_bytes)
{
    struct ofl_tensor *weight = t->weights.tensors[tensor], *master;
    struct llama_tensor_desc d;
    int err = ofl_optimizer_state(t->optimizer, weight, OFL_STATE_MASTER, &master);

    llama_tensor_at(&t->config.shape, tensor, &d);
    if (err == 0)
        err = llama_random_fill(t->ctx, t->stream, t->compute, weight, &d, tensor, 0, seed, std);
    if (err == 0 && master != weight)
        err = llama_random_fill(t->ctx, t->stream, t->compute, master, &d, tensor, 0, seed, std);
    return err < 0 ? trainer_fail(t, err, error, error_bytes) : 0;
}

int llama_trainer_get(struct llama_trainer *t, uint32_t tensor, uint64_t first, uint64_t elems, void *out,
                      char *error, size_t error_bytes)
{
    uint64_t each = ofl_dtype_bytes(t->config.dtype);
    int err = ofl_tensor_read(t->weights.tensors[tensor], first * each, out, elems * each);

    return err < 0 ? trainer_fail(t, err, error, error_bytes) : 0;
}

struct ofl_tensor *llama_trainer_state(struct llama_trainer *t, uint32_t index)
{
    bool lora = t->config.lora.rank;
    enum ofl_dtype dtype = lora ? OFL_F32 : t->config.dtype;
    /* The weight, its moments, its master. */
    uint32_t each = 1 + (uint32_t)(ofl_optimizer_bytes(t->config.method, dtype, 1) / 4096),
             kind = index % each;
    enum ofl_state which = kind == 1                              ? OFL_STATE_EXP_AVG
                           : dtype != OFL_F32 && kind == each - 1 ? OFL_STATE_MASTER
                                                                  : OFL_STATE_EXP_AVG_SQ;
    struct ofl_tensor *weight, *state;

    if (index / each >= (lora ? t->lora_count : t->weights.count))
        return NULL;
    weight = (lora ? t->lora : t->weights.tensors)[index / each];
    if (kind == 0)
        return weight;
    return ofl_optimizer_state(t->optimizer, weight, which, &state) < 0 ? NULL : state;
}

int llama_trainer_resumed(struct llama_trainer *t, char *error, size_t error_bytes)
{
    struct ofl_tensor_info there = {.size = sizeof there}, absent = {.size = sizeof absent};
    struct ofl_tensor *tensor, *back = NULL, *fresh = NULL;

    for (uint32_t i = 0; (tensor = llama_trainer_state(t, i)); i++)
        *(ofl_tensor_resumed(tensor) ? &back : &fresh) = tensor;
    if (!back || !fresh)
        return back != NULL;
    ofl_tensor_info_get(back, &there);
    ofl_tensor_info_get(fresh, &absent);
    return llama_fail(-OFL_EFORMAT, error, error_bytes,
                      "the kept store has tensor %s, and no %s: it is another model's", there.name,
                      absent.name);
}
