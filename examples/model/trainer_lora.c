/* Adapters of a trainer over frozen weights: their tensors, leases and first values. See trainer.h. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/model/files.h"
#include "examples/model/trainer_impl.h"

#define PIECE_BYTES (1u << 20)

uint32_t trainer_lora_each(const struct llama_trainer_config *c)
{
    return c->lora.rank ? llama_lora_layer_tensors(&c->shape, &c->lora) : 0;
}

/* ---- life ---------------------------------------------------------------- */

static int create(struct llama_trainer *t, uint32_t index, bool gradient, struct ofl_tensor **out)
{
    struct llama_lora_tensor l;
    char name[sizeof l.name + 8];
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = name,
                                .kind = gradient ? OFL_KIND_GRADIENT : OFL_KIND_WEIGHT,
                                .dtype = OFL_F32,
                                .flags = gradient ? 0 : trainer_keep_flag(&t->config)};

    llama_lora_tensor_at(&t->config.shape, &t->config.lora, index, &l);
    snprintf(name, sizeof name, "%s%s", l.name, gradient ? ".grad" : "");
    d.elems = l.elems;
    return ofl_tensor_create(t->ctx, &d, out);
}

int trainer_lora_create(struct llama_trainer *t)
{
    const struct llama_trainer_config *c = &t->config;
    uint32_t count = llama_lora_count(&c->shape, &c->lora);
    int err = 0;

    t->module_count = llama_lora_modules(&c->shape, &c->lora, t->modules);
    t->lora = calloc(count + 1, sizeof *t->lora);
    t->lora_grads = calloc(count + 1, sizeof *t->lora_grads);
    if (!t->lora || !t->lora_grads)
        return -ENOMEM;
    t->lora_count = count;
    for (uint32_t i = 0; i < count && err == 0; i++) {
        err = create(t, i, false, &t->lora[i]);
        if (err == 0)
            err = create(t, i, true, &t->lora_grads[i]);
        if (err == 0)
            err = ofl_optimizer_bind(t->optimizer, t->lora[i], t->lora_grads[i]);
    }
    return err;
}

void trainer_lora_destroy(struct llama_trainer *t)
{
    for (uint32_t i = 0; i < t->lora_count; i++) {
        ofl_tensor_destroy(t->lora[i]);
        ofl_tensor_destroy(t->lora_grads[i]);
    }
    free(t->lora);
    free(t->lora_grads);
}

/* ---- a step -------------------------------------------------------------- */

void trainer_lora_leases(const struct llama_trainer *t, uint32_t layer, bool gradients,
                         struct ofl_lease *leases)
{
    uint32_t each = trainer_lora_each(&t->config);

    for (uint32_t i = 0; i < each; i++)
        leases[i] = (struct ofl_lease){.size = sizeof *leases,
                                       .tensor = (gradients ? t->lora_grads : t->lora)[layer * each + i],
                                       .mode = gradients ? OFL_OVERWRITE : OFL_READ};
}

/* What is left out depends on the step and the place in the model, never on where or when it is computed. */
static uint64_t dropout_key(const struct llama_trainer *t, uint32_t layer, uint32_t module, size_t micro)
{
    uint64_t key = t->config.seed;
    const uint64_t parts[] = {t->step, layer, module, micro};

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        key = (key ^ (parts[i] + 1)) * 0x9E3779B97F4A7C15u + (key >> 29);
    return key;
}

/* Of one module; leases: its A, B and magnitude. Each of its matrices has its rows of the latter two. */
static void describe_module(const struct llama_trainer *t, uint32_t module, const struct ofl_lease *leases,
                            const struct ofl_lease *grads, struct llama_job *job)
{
    const struct llama_lora *l = &t->config.lora;
    const struct llama_lora_module *m = &t->modules[module];
    uint64_t row = 0;

    for (uint32_t i = 0; i < m->count; i++) {
        enum llama_matrix matrix = (enum llama_matrix)(m->first + i);
        struct llama_adapter *ad = &job->adapters[matrix];

        *ad = (struct llama_adapter){.a = leases[LLAMA_LORA_A].ptr,
                                     .b = (const float *)leases[LLAMA_LORA_B].ptr + row * l->rank,
                                     .rank = l->rank,
                                     .scale = llama_lora_scale(l),
                                     .dropout = t->evaluating ? 0 : (float)l->dropout,
                                     .key = dropout_key(t, job->layer, module, job->micro),
                                     .joined = i > 0};
        if (l->dora)
            ad->magnitude = (const float *)leases[LLAMA_LORA_MAGNITUDE].ptr + row;
        if (grads) {
            ad->da = grads[LLAMA_LORA_A].ptr;
            ad->db = (float *)grads[LLAMA_LORA_B].ptr + row * l->rank;
        }
        if (grads && l->dora)
            ad->dmagnitude = (float *)grads[LLAMA_LORA_MAGNITUDE].ptr + row;
        llama_weight_field(&job->weights, llama_matrix_role(matrix))->adapter = ad;
        row += llama_matrix_rows(&t->config.shape, matrix);
    }
}

void trainer_lora_describe(const struct llama_trainer *t, const struct ofl_lease *leases,
                           const struct ofl_lease *grads, struct llama_job *job)
{
    uint32_t parts = t->config.lora.dora ? LLAMA_LORA_PARTS : LLAMA_LORA_MAGNITUDE;

    for (uint32_t m = 0; m < t->module_count; m++)
        describe_module(t, m, leases + m * parts, grads ? grads + m * parts : NULL, job);
}

int trainer_lora_apply(struct llama_trainer *t, uint32_t layer)
{
    uint32_t each = trainer_lora_each(&t->config);
    int err = 0;

    for (uint32_t i = layer * each; i < (layer + 1) * each && err == 0; i++)
        err = ofl_optimizer_apply(t->optimizer, t->lora[i]);
    return err;
}

/* ---- values -------------------------------------------------------------- */

struct ofl_tensor *llama_trainer_adapter(const struct llama_trainer *t, uint32_t index)
{
    return index < t->lora_count ? t->lora[index] : NULL;
}

/* The norms of a matrix' rows, without adapters, a piece at a time. */
static int matrix_norms(const struct llama_trainer *t, uint32_t index, uint64_t rows, uint64_t in,
                        float *norms)
{
    const struct llama_adapter none = {0};
    float *row = malloc(llama_wide_bytes(in, LLAMA_PACKED));
    int err = row ? 0 : -ENOMEM;

    for (uint64_t r = 0; r < rows && err == 0;) {
        struct llama_rows piece;

        err = llama_frozen_read(&t->base, index, r, PIECE_BYTES, &piece);
        if (err == 0)
            llama_adapter_norms(norms + r, &none, piece.weight, in, piece.count, row);
        r += piece.count;
        free(piece.memory);
    }
    free(row);
    return err;
}

static int module_norms(const struct llama_trainer *t, const struct llama_lora_tensor *l, float *norms)
{
    const struct llama_shape *shape = &t->config.shape;
    const struct llama_lora_module *m = &t->modules[l->module];
    int err = 0;

    for (uint32_t i = 0; i < m->count && err == 0; i++) {
        enum llama_matrix matrix = (enum llama_matrix)(m->first + i);
        uint64_t rows = llama_matrix_rows(shape, matrix);

        err = matrix_norms(t, llama_tensor_index(shape, llama_matrix_role(matrix), l->layer), rows, m->in,
                           norms);
        norms += rows;
    }
    return err;
}

static int init(struct llama_trainer *t, uint32_t index)
{
    struct llama_lora_tensor l;
    float *values;
    int err = 0;

    llama_lora_tensor_at(&t->config.shape, &t->config.lora, index, &l);
    if (l.part == LLAMA_LORA_B)
        return 0; /* zeros, as it is */
    values = malloc(l.elems * sizeof *values);
    if (!values)
        return -ENOMEM;
    if (l.part == LLAMA_LORA_A) /* He et al., 2015, with a = sqrt(5), as PEFT has it: gain^2 is 1 / 3 */
        llama_init_uniform(values, 0, l.elems, t->config.seed + 0x9E3779B97F4A7C15u * (index + 1),
                           1 / sqrtf((float)l.shape[1]));
    else
        err = module_norms(t, &l, values);
    if (err == 0)
        err = ofl_tensor_write(t->lora[index], 0, values, l.elems * sizeof *values);
    free(values);
    return err;
}

int llama_trainer_adapters_init(struct llama_trainer *t, char *error, size_t error_bytes)
{
    int err = 0;

    for (uint32_t i = 0; i < t->lora_count && err == 0; i++)
        err = init(t, i);
    return err == -ENOMEM ? llama_fail(err, error, error_bytes, "make adapters: out of memory")
           : err < 0      ? trainer_fail(t, err, error, error_bytes)
                          : 0;
}
