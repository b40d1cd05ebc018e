/* The tensors of a model under liboffload. See model.h. */
#include "examples/model/model.h"

#include <errno.h>
#include <stddef.h>
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
                       enum ofl_kind kind, uint32_t flags, const char *suffix, struct llama_model *out,
                       char *error, size_t error_bytes)
{
    int err = make_arrays(shape, out, error, error_bytes);

    if (err < 0)
        return err;
    for (uint32_t i = 0; i < out->count; i++) {
        struct llama_tensor_desc d;
        struct ofl_tensor_desc t = {.size = sizeof t, .kind = kind, .dtype = dtype, .flags = flags};
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

void llama_layer_leases(const struct llama_model *m, uint32_t layer, enum ofl_mode mode,
                        struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX])
{
    for (uint32_t i = 0; i < llama_layer_tensors(m->shape, layer); i++)
        leases[i] = (struct ofl_lease){.size = sizeof(struct ofl_lease),
                                       .tensor = m->tensors[llama_layer_first(m->shape, layer) + i],
                                       .mode = mode};
}

struct llama_weight llama_weight_of(const struct llama_shape *shape, enum llama_role role, const void *data,
                                    enum ofl_dtype dtype)
{
    return (struct llama_weight){
        .data = data, .dtype = dtype, .offset = llama_role_is_norm(role) ? shape->norm_offset : 0};
}

/* Where a layer's roles lie in both structures. */
#define PLACE(field)                                                                                         \
    {                                                                                                        \
        offsetof(struct llama_block_weights, field), offsetof(struct llama_block_grads, field)               \
    }

static const struct {
    size_t weight, grad;
} places[LLAMA_ROLES] = {
    [LLAMA_INPUT_NORM] = PLACE(attn_norm),
    [LLAMA_Q] = PLACE(q),
    [LLAMA_K] = PLACE(k),
    [LLAMA_V] = PLACE(v),
    [LLAMA_Q_BIAS] = PLACE(q_bias),
    [LLAMA_K_BIAS] = PLACE(k_bias),
    [LLAMA_V_BIAS] = PLACE(v_bias),
    [LLAMA_Q_NORM] = PLACE(q_norm),
    [LLAMA_K_NORM] = PLACE(k_norm),
    [LLAMA_O] = PLACE(o),
    [LLAMA_O_BIAS] = PLACE(o_bias),
    [LLAMA_ATTN_POST_NORM] = PLACE(attn_post_norm),
    [LLAMA_MLP_NORM] = PLACE(mlp_norm),
    [LLAMA_ROUTER] = PLACE(router),
    [LLAMA_ROUTER_BIAS] = PLACE(router_bias),
    [LLAMA_GATE] = PLACE(gate),
    [LLAMA_UP] = PLACE(up),
    [LLAMA_GATE_BIAS] = PLACE(gate_bias),
    [LLAMA_UP_BIAS] = PLACE(up_bias),
    [LLAMA_DOWN] = PLACE(down),
    [LLAMA_DOWN_BIAS] = PLACE(down_bias),
    [LLAMA_MLP_POST_NORM] = PLACE(mlp_post_norm),
};

#undef PLACE

struct llama_weight *llama_weight_field(struct llama_block_weights *w, enum llama_role role)
{
    return (struct llama_weight *)((char *)w + places[role].weight);
}

void llama_layer_weights(const struct llama_model *m, uint32_t layer,
                         const struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX],
                         struct llama_block_weights *out)
{
    uint32_t first = llama_layer_first(m->shape, layer);
    struct llama_tensor_desc d;

    *out = (struct llama_block_weights){.layer = layer};
    for (uint32_t i = 0; i < llama_layer_tensors(m->shape, layer); i++) {
        llama_tensor_at(m->shape, first + i, &d);
        *llama_weight_field(out, d.role) =
            llama_weight_of(m->shape, d.role, leases[i].ptr, m->dtypes[first + i]);
    }
}

void llama_layer_grads(const struct llama_shape *shape, uint32_t layer,
                       const struct ofl_lease leases[LLAMA_LAYER_TENSORS_MAX], struct llama_block_grads *out)
{
    uint32_t first = llama_layer_first(shape, layer);
    struct llama_tensor_desc d;

    *out = (struct llama_block_grads){0};
    for (uint32_t i = 0; i < llama_layer_tensors(shape, layer); i++) {
        llama_tensor_at(shape, first + i, &d);
        *(float **)((char *)out + places[d.role].grad) = leases[i].ptr;
    }
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
