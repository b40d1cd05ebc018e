/* The tensors of a Llama under liboffload. See model.h. */
#include "examples/model/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int make_arrays(const struct llama_shape *shape, struct llama_model *m, char *error,
                       size_t error_bytes)
{
    *m = (struct llama_model){.shape = shape, .count = llama_tensor_count(shape)};
    m->tensors = calloc(m->count, sizeof *m->tensors);
    m->dtypes = calloc(m->count, sizeof *m->dtypes);
    if (m->tensors && m->dtypes)
        return 0;
    llama_model_destroy(m);
    snprintf(error, error_bytes, "make a model of %u layers: out of memory", shape->layers);
    return -ENOMEM;
}

static int fail_ofl(int err, struct llama_model *m, char *error, size_t error_bytes)
{
    snprintf(error, error_bytes, "%s", ofl_error());
    llama_model_destroy(m);
    return err;
}

int llama_model_create(struct ofl_ctx *ctx, const struct llama_shape *shape, enum ofl_dtype dtype,
                       enum ofl_kind kind, const char *suffix, struct llama_model *out, char *error,
                       size_t error_bytes)
{
    int err = make_arrays(shape, out, error, error_bytes);

    if (err < 0)
        return err;
    for (uint32_t i = 0; i < out->count; i++) {
        struct llama_tensor_desc d;
        struct ofl_tensor_desc t = {.size = sizeof t, .kind = kind, .dtype = dtype};
        char name[sizeof d.name + 32];

        llama_tensor_at(shape, i, &d);
        snprintf(name, sizeof name, "%s%s", d.name, suffix);
        t.name = name;
        t.elems = d.elems;
        out->dtypes[i] = dtype;
        err = ofl_tensor_create(ctx, &t, &out->tensors[i]);
        if (err < 0)
            return fail_ofl(err, out, error, error_bytes);
    }
    return 0;
}

void llama_model_destroy(struct llama_model *m)
{
    for (uint32_t i = 0; m->tensors && i < m->count; i++)
        ofl_tensor_destroy(m->tensors[i]);
    free(m->tensors);
    free(m->dtypes);
    *m = (struct llama_model){0};
}

uint32_t llama_layer_first(uint32_t layer)
{
    return 1 + LLAMA_LAYER_TENSORS * layer;
}

void llama_layer_leases(const struct llama_model *m, uint32_t layer, enum ofl_mode mode,
                        struct ofl_lease leases[LLAMA_LAYER_TENSORS])
{
    for (uint32_t i = 0; i < LLAMA_LAYER_TENSORS; i++)
        leases[i] = (struct ofl_lease){.size = sizeof(struct ofl_lease),
                                       .tensor = m->tensors[llama_layer_first(layer) + i],
                                       .mode = mode};
}

void llama_layer_weights(const struct llama_model *m, uint32_t layer,
                         const struct ofl_lease leases[LLAMA_LAYER_TENSORS], struct llama_block_weights *out)
{
    struct llama_weight *const to[LLAMA_LAYER_TENSORS] = {&out->attn_norm, &out->q,  &out->k,
                                                          &out->v,         &out->o,  &out->mlp_norm,
                                                          &out->gate,      &out->up, &out->down};

    for (uint32_t i = 0; i < LLAMA_LAYER_TENSORS; i++)
        *to[i] = (struct llama_weight){leases[i].ptr, m->dtypes[llama_layer_first(layer) + i]};
}

void llama_layer_grads(const struct ofl_lease leases[LLAMA_LAYER_TENSORS], struct llama_block_grads *out)
{
    float **const to[LLAMA_LAYER_TENSORS] = {&out->attn_norm, &out->q,    &out->k,  &out->v,   &out->o,
                                             &out->mlp_norm,  &out->gate, &out->up, &out->down};

    for (uint32_t i = 0; i < LLAMA_LAYER_TENSORS; i++)
        *to[i] = leases[i].ptr;
}

/* ---- device memory ------------------------------------------------------- */

void llama_part_add(struct llama_part *part, const char *tensor, uint64_t bytes)
{
    part->device_bytes += ofl_device_footprint(bytes);
    if (bytes <= part->largest_bytes)
        return;
    part->largest_bytes = bytes;
    snprintf(part->largest, sizeof part->largest, "%s", tensor);
}

void llama_part_close(const struct llama_part *part, struct llama_need *need)
{
    if (part->device_bytes <= need->device_bytes)
        return;
    need->device_bytes = part->device_bytes;
    need->largest_bytes = part->largest_bytes;
    snprintf(need->part, sizeof need->part, "%s", part->name);
    snprintf(need->largest, sizeof need->largest, "%s", part->largest);
}
