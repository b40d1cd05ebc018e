/* The list of a model's tensors. See tensors.h. */
#include "examples/model/tensors.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "examples/model/family.h"

static const char *const role_names[LLAMA_ROLES] = {
    [LLAMA_EMBED] = "model.embed_tokens.weight",
    [LLAMA_INPUT_NORM] = "input_layernorm.weight",
    [LLAMA_Q] = "self_attn.q_proj.weight",
    [LLAMA_K] = "self_attn.k_proj.weight",
    [LLAMA_V] = "self_attn.v_proj.weight",
    [LLAMA_Q_BIAS] = "self_attn.q_proj.bias",
    [LLAMA_K_BIAS] = "self_attn.k_proj.bias",
    [LLAMA_V_BIAS] = "self_attn.v_proj.bias",
    [LLAMA_Q_NORM] = "self_attn.q_norm.weight",
    [LLAMA_K_NORM] = "self_attn.k_norm.weight",
    [LLAMA_O] = "self_attn.o_proj.weight",
    [LLAMA_O_BIAS] = "self_attn.o_proj.bias",
    [LLAMA_ATTN_POST_NORM] = "post_attention_layernorm.weight",
    [LLAMA_MLP_NORM] = "post_attention_layernorm.weight",
    [LLAMA_GATE] = "mlp.gate_proj.weight",
    [LLAMA_UP] = "mlp.up_proj.weight",
    [LLAMA_GATE_BIAS] = "mlp.gate_proj.bias",
    [LLAMA_UP_BIAS] = "mlp.up_proj.bias",
    [LLAMA_DOWN] = "mlp.down_proj.weight",
    [LLAMA_DOWN_BIAS] = "mlp.down_proj.bias",
    [LLAMA_MLP_POST_NORM] = "post_feedforward_layernorm.weight",
    [LLAMA_NORM] = "model.norm.weight",
    [LLAMA_HEAD] = "lm_head.weight",
};

bool llama_role_is_there(const struct llama_shape *s, enum llama_role role)
{
    switch (role) {
    case LLAMA_INPUT_NORM:
    case LLAMA_MLP_NORM:
        return !s->no_pre_norms;
    case LLAMA_Q_BIAS:
    case LLAMA_K_BIAS:
    case LLAMA_V_BIAS:
        return s->qkv_bias;
    case LLAMA_Q_NORM:
    case LLAMA_K_NORM:
        return s->qk_norm != LLAMA_QK_PLAIN;
    case LLAMA_O_BIAS:
        return s->o_bias;
    case LLAMA_ATTN_POST_NORM:
    case LLAMA_MLP_POST_NORM:
        return s->post_norms;
    case LLAMA_GATE_BIAS:
    case LLAMA_UP_BIAS:
    case LLAMA_DOWN_BIAS:
        return s->mlp_bias;
    case LLAMA_HEAD:
        return !s->tied;
    default:
        return true;
    }
}

bool llama_role_is_norm(enum llama_role role)
{
    switch (role) {
    case LLAMA_INPUT_NORM:
    case LLAMA_Q_NORM:
    case LLAMA_K_NORM:
    case LLAMA_ATTN_POST_NORM:
    case LLAMA_MLP_NORM:
    case LLAMA_MLP_POST_NORM:
    case LLAMA_NORM:
        return true;
    default:
        return false;
    }
}

/* Of a layer's tensors, those in front of that role. */
static uint32_t place_of(const struct llama_shape *shape, enum llama_role role)
{
    uint32_t n = 0;

    for (int r = LLAMA_INPUT_NORM; r < (int)role; r++)
        n += llama_role_is_there(shape, (enum llama_role)r);
    return n;
}

static enum llama_role role_at(const struct llama_shape *shape, uint32_t place)
{
    int role = LLAMA_INPUT_NORM;

    while (!llama_role_is_there(shape, (enum llama_role)role) || place-- > 0)
        role++;
    return (enum llama_role)role;
}

uint32_t llama_layer_tensors(const struct llama_shape *shape)
{
    return place_of(shape, LLAMA_NORM);
}

uint32_t llama_layer_first(const struct llama_shape *shape, uint32_t layer)
{
    return 1 + llama_layer_tensors(shape) * layer;
}

uint32_t llama_tensor_count(const struct llama_shape *shape)
{
    return llama_layer_first(shape, shape->layers) + (shape->tied ? 1 : 2);
}

uint32_t llama_tensor_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer)
{
    switch (role) {
    case LLAMA_EMBED:
        return 0;
    case LLAMA_NORM:
        return llama_layer_first(shape, shape->layers);
    case LLAMA_HEAD:
        return shape->tied ? 0 : llama_layer_first(shape, shape->layers) + 1;
    default:
        return llama_layer_first(shape, layer) + place_of(shape, role);
    }
}

static void set_shape(const struct llama_shape *s, struct llama_tensor_desc *d)
{
    uint64_t hidden = s->hidden, heads = (uint64_t)s->heads * s->head_dim,
             kv = (uint64_t)s->kv_heads * s->head_dim;
    bool each = s->qk_norm == LLAMA_QK_NORM_HEAD;
    const uint64_t of_role[LLAMA_ROLES][2] = {
        [LLAMA_EMBED] = {s->vocab, hidden},
        [LLAMA_INPUT_NORM] = {hidden, 0},
        [LLAMA_Q] = {heads, hidden},
        [LLAMA_K] = {kv, hidden},
        [LLAMA_V] = {kv, hidden},
        [LLAMA_Q_BIAS] = {heads, 0},
        [LLAMA_K_BIAS] = {kv, 0},
        [LLAMA_V_BIAS] = {kv, 0},
        [LLAMA_Q_NORM] = {each ? s->head_dim : heads, 0},
        [LLAMA_K_NORM] = {each ? s->head_dim : kv, 0},
        [LLAMA_O] = {hidden, heads},
        [LLAMA_O_BIAS] = {hidden, 0},
        [LLAMA_ATTN_POST_NORM] = {hidden, 0},
        [LLAMA_MLP_NORM] = {hidden, 0},
        [LLAMA_GATE] = {s->ffn, hidden},
        [LLAMA_UP] = {s->ffn, hidden},
        [LLAMA_GATE_BIAS] = {s->ffn, 0},
        [LLAMA_UP_BIAS] = {s->ffn, 0},
        [LLAMA_DOWN] = {hidden, s->ffn},
        [LLAMA_DOWN_BIAS] = {hidden, 0},
        [LLAMA_MLP_POST_NORM] = {hidden, 0},
        [LLAMA_NORM] = {hidden, 0},
        [LLAMA_HEAD] = {s->vocab, hidden},
    };

    d->shape[0] = of_role[d->role][0];
    d->shape[1] = of_role[d->role][1];
    d->dims = d->shape[1] ? 2 : 1;
    d->elems = d->shape[0] * (d->shape[1] ? d->shape[1] : 1);
}

/* With norms on both sides the name of Llama's second one is the first one's behind attention. */
static const char *name_of(const struct llama_shape *shape, enum llama_role role)
{
    return role == LLAMA_MLP_NORM && shape->post_norms ? "pre_feedforward_layernorm.weight"
                                                       : role_names[role];
}

int llama_tensor_at(const struct llama_shape *shape, uint32_t index, struct llama_tensor_desc *out)
{
    uint32_t each = llama_layer_tensors(shape), tail = 1 + each * shape->layers;

    if (index >= llama_tensor_count(shape))
        return -EINVAL;
    out->layer = -1;
    if (index == 0)
        out->role = LLAMA_EMBED;
    else if (index >= tail)
        out->role = index == tail ? LLAMA_NORM : LLAMA_HEAD;
    else {
        out->layer = (int)((index - 1) / each);
        out->role = role_at(shape, (index - 1) % each);
    }
    if (out->layer < 0)
        snprintf(out->name, sizeof out->name, "%s", role_names[out->role]);
    else
        snprintf(out->name, sizeof out->name, "model.layers.%d.%s", out->layer, name_of(shape, out->role));
    set_shape(shape, out);
    return 0;
}

uint64_t llama_param_count(const struct llama_shape *shape)
{
    struct llama_tensor_desc d;
    uint64_t outside = 0, layer = 0;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        llama_tensor_at(shape, i, &d);
        if (d.layer < 0)
            outside += d.elems;
        else if (d.layer == 0)
            layer += d.elems;
        else
            i = llama_tensor_index(shape, LLAMA_NORM, 0) - 1; /* layers are alike */
    }
    return outside + layer * shape->layers;
}

/* ---- in files ----------------------------------------------------------- */

void llama_stored_at(const struct llama_shape *shape, uint32_t index, struct llama_stored *out)
{
    static const struct {
        enum llama_role first;
        uint32_t count;
        const char *name;
    } fused[] = {{LLAMA_Q, 3, "self_attn.qkv_proj.weight"}, {LLAMA_GATE, 2, "mlp.gate_up_proj.weight"}};
    struct llama_tensor_desc d;

    llama_tensor_at(shape, index, &d);
    *out = (struct llama_stored){
        .first = index, .count = 1, .dims = d.dims, .shape = {d.shape[0], d.shape[1]}, .elems = d.elems};
    snprintf(out->name, sizeof out->name, "%s", d.name);
    for (size_t i = 0; llama_family_at(shape->family)->fused && i < sizeof fused / sizeof fused[0]; i++) {
        if (d.role < fused[i].first || d.role >= fused[i].first + fused[i].count)
            continue;
        out->first = index - (uint32_t)(d.role - fused[i].first);
        out->count = fused[i].count;
        out->shape[0] = out->elems = 0;
        for (uint32_t k = out->first; k < out->first + out->count; k++) {
            llama_tensor_at(shape, k, &d);
            out->shape[0] += d.shape[0];
            out->elems += d.elems;
        }
        snprintf(out->name, sizeof out->name, "model.layers.%d.%s", d.layer, fused[i].name);
    }
}

uint64_t llama_stored_row(const struct llama_shape *shape, uint32_t index)
{
    struct llama_tensor_desc d;
    struct llama_stored s;
    uint64_t row = 0;

    llama_stored_at(shape, index, &s);
    for (uint32_t i = s.first; i < index; i++) {
        llama_tensor_at(shape, i, &d);
        row += d.shape[0];
    }
    return row;
}

bool llama_stored_find(const struct llama_shape *shape, const char *name, struct llama_stored *out)
{
    static const char base[] = "model.";
    const char *end =
        strcmp(name, role_names[LLAMA_HEAD]) == 0 || strncmp(name, base, sizeof base - 1) == 0 ? "" : base;
    unsigned layer = 0;
    char full[256];

    snprintf(full, sizeof full, "%s%s", end, name);
    sscanf(full, "model.layers.%4u.", &layer);
    for (int role = 0; role < LLAMA_ROLES; role++) {
        bool inside = role > LLAMA_EMBED && role < LLAMA_NORM;

        if (!llama_role_is_there(shape, (enum llama_role)role) || (inside && layer >= shape->layers))
            continue;
        llama_stored_at(shape, llama_tensor_index(shape, (enum llama_role)role, inside ? layer : 0), out);
        if (strcmp(out->name, full) == 0)
            return true;
    }
    return false;
}
