/* The list of a model's tensors. See tensors.h. */
#include "examples/model/tensors.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "examples/model/experts.h"
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
    [LLAMA_SINKS] = "self_attn.sinks",
    [LLAMA_O] = "self_attn.o_proj.weight",
    [LLAMA_O_BIAS] = "self_attn.o_proj.bias",
    [LLAMA_ATTN_POST_NORM] = "post_attention_layernorm.weight",
    [LLAMA_MLP_NORM] = "post_attention_layernorm.weight",
    [LLAMA_ROUTER] = "mlp.gate.weight",
    [LLAMA_ROUTER_BIAS] = "mlp.router.bias",
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

bool llama_role_is_there(const struct llama_shape *s, enum llama_role role, uint32_t layer)
{
    bool mixed = llama_layer_mixed(s, layer);

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
    case LLAMA_SINKS:
        return s->sinks;
    case LLAMA_O_BIAS:
        return s->o_bias;
    case LLAMA_ATTN_POST_NORM:
    case LLAMA_MLP_POST_NORM:
        return s->post_norms;
    case LLAMA_ROUTER:
        return mixed;
    case LLAMA_ROUTER_BIAS:
        return mixed && s->router_bias;
    case LLAMA_GATE:
    case LLAMA_UP:
    case LLAMA_DOWN:
        return !mixed;
    case LLAMA_GATE_BIAS:
    case LLAMA_UP_BIAS:
    case LLAMA_DOWN_BIAS:
        return !mixed && s->mlp_bias;
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
static uint32_t place_of(const struct llama_shape *shape, enum llama_role role, uint32_t layer)
{
    uint32_t n = 0;

    for (int r = LLAMA_INPUT_NORM; r < (int)role; r++)
        n += llama_role_is_there(shape, (enum llama_role)r, layer);
    return n;
}

static enum llama_role role_at(const struct llama_shape *shape, uint32_t place, uint32_t layer)
{
    int role = LLAMA_INPUT_NORM;

    while (!llama_role_is_there(shape, (enum llama_role)role, layer) || place-- > 0)
        role++;
    return (enum llama_role)role;
}

uint32_t llama_layer_tensors(const struct llama_shape *shape, uint32_t layer)
{
    return place_of(shape, LLAMA_NORM, layer);
}

/* With those of experts. */
static uint32_t layer_all(const struct llama_shape *shape, uint32_t layer)
{
    return llama_layer_tensors(shape, layer) +
           (llama_layer_mixed(shape, layer) ? shape->experts * llama_expert_tensors(shape) : 0);
}

/* Layers are of two kinds at most. */
uint32_t llama_layer_first(const struct llama_shape *shape, uint32_t layer)
{
    uint32_t first = 1;

    if (shape->experts == 0)
        return first + llama_layer_tensors(shape, 0) * layer;
    for (uint32_t i = 0; i < layer; i++)
        first += layer_all(shape, i);
    return first;
}

/* The layer of the tensor of that index; *place in it. */
static uint32_t layer_of(const struct llama_shape *shape, uint32_t index, uint32_t *place)
{
    uint32_t each = llama_layer_tensors(shape, 0), layer = (index - 1) / each;

    *place = (index - 1) % each;
    if (shape->experts == 0)
        return layer;
    layer = 0;
    for (*place = index - 1; *place >= (each = layer_all(shape, layer)); layer++)
        *place -= each;
    return layer;
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
        return llama_layer_first(shape, layer) + place_of(shape, role, layer);
    }
}

static void set_shape(const struct llama_shape *s, struct llama_tensor_desc *d)
{
    uint64_t hidden = s->hidden, heads = (uint64_t)s->heads * s->head_dim,
             kv = (uint64_t)s->kv_heads * s->head_dim, expert = s->expert_ffn;
    bool each = s->qk_norm == LLAMA_QK_NORM_HEAD, turned = llama_experts_turned(s);
    const uint64_t of_role[LLAMA_ROLES_ALL][2] = {
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
        [LLAMA_SINKS] = {s->heads, 0},
        [LLAMA_O] = {hidden, heads},
        [LLAMA_O_BIAS] = {hidden, 0},
        [LLAMA_ATTN_POST_NORM] = {hidden, 0},
        [LLAMA_MLP_NORM] = {hidden, 0},
        [LLAMA_ROUTER] = {s->experts, hidden},
        [LLAMA_ROUTER_BIAS] = {s->experts, 0},
        [LLAMA_GATE] = {s->ffn, hidden},
        [LLAMA_UP] = {s->ffn, hidden},
        [LLAMA_GATE_BIAS] = {s->ffn, 0},
        [LLAMA_UP_BIAS] = {s->ffn, 0},
        [LLAMA_DOWN] = {hidden, s->ffn},
        [LLAMA_DOWN_BIAS] = {hidden, 0},
        [LLAMA_MLP_POST_NORM] = {hidden, 0},
        [LLAMA_NORM] = {hidden, 0},
        [LLAMA_HEAD] = {s->vocab, hidden},
        [LLAMA_EXPERT_GATE] = {s->expert_ffn, hidden},
        [LLAMA_EXPERT_UP] = {s->expert_ffn, hidden},
        [LLAMA_EXPERT_DOWN] = {turned ? expert : hidden, turned ? hidden : expert},
        [LLAMA_EXPERT_PAIRS] = {turned ? hidden : 2 * expert, turned ? 2 * expert : hidden},
        [LLAMA_EXPERT_PAIRS_BIAS] = {2 * (uint64_t)s->expert_ffn, 0},
        [LLAMA_EXPERT_DOWN_BIAS] = {hidden, 0},
    };

    d->shape[0] = of_role[d->role][0];
    d->shape[1] = of_role[d->role][1];
    d->dims = d->shape[1] ? 2 : 1;
    d->elems = d->shape[0] * (d->shape[1] ? d->shape[1] : 1);
}

/* With norms on both sides the name of Llama's second one is the first one's behind attention. */
static const char *name_of(const struct llama_shape *shape, enum llama_role role)
{
    const struct llama_family *f = llama_family_at(shape->family);

    if (role == LLAMA_ROUTER && f->router_name)
        return f->router_name;
    return role == LLAMA_MLP_NORM && shape->post_norms ? "pre_feedforward_layernorm.weight"
                                                       : role_names[role];
}

int llama_tensor_at(const struct llama_shape *shape, uint32_t index, struct llama_tensor_desc *out)
{
    uint32_t tail = llama_layer_first(shape, shape->layers), place, common;

    if (index >= llama_tensor_count(shape))
        return -EINVAL;
    out->layer = -1;
    if (index == 0)
        out->role = LLAMA_EMBED;
    else if (index >= tail)
        out->role = index == tail ? LLAMA_NORM : LLAMA_HEAD;
    else {
        out->layer = (int)layer_of(shape, index, &place);
        common = llama_layer_tensors(shape, (uint32_t)out->layer);
        if (place < common)
            out->role = role_at(shape, place, (uint32_t)out->layer);
        else
            out->role = llama_expert_role(shape, place - common, &out->expert);
    }
    if (out->layer < 0)
        snprintf(out->name, sizeof out->name, "%s", role_names[out->role]);
    else if (out->role >= LLAMA_ROLES)
        llama_expert_name(shape, out, out->name, sizeof out->name);
    else
        snprintf(out->name, sizeof out->name, "model.layers.%d.%s", out->layer, name_of(shape, out->role));
    set_shape(shape, out);
    return 0;
}

uint64_t llama_param_count(const struct llama_shape *shape)
{
    uint32_t tail = llama_layer_first(shape, shape->layers);
    uint64_t sum = 0, each = 0;
    struct llama_tensor_desc d;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i = i == 0 ? tail : i + 1) {
        llama_tensor_at(shape, i, &d);
        sum += d.elems;
    }
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        bool known = layer && llama_layer_mixed(shape, layer) == llama_layer_mixed(shape, layer - 1);
        uint32_t first = known ? 0 : llama_layer_first(shape, layer),
                 count = known ? 0 : layer_all(shape, layer);

        each = known ? each : 0;
        for (uint32_t i = first; i < first + count; i++) {
            llama_tensor_at(shape, i, &d);
            each += d.elems;
        }
        sum += each;
    }
    return sum;
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
    if (d.role >= LLAMA_ROLES && shape->expert_pairs)
        llama_expert_all(shape, &d, out);
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
    llama_tensor_at(shape, index, &d);
    if (d.role == LLAMA_EXPERT_PAIRS || (d.role == LLAMA_EXPERT_DOWN && shape->expert_pairs))
        return (index - s.first) * d.shape[0]; /* all of one size, and many */
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
    llama_expert_respell(shape, full, sizeof full);
    if (llama_expert_find(shape, full, out))
        return true;
    sscanf(full, "model.layers.%4u.", &layer);
    for (int role = 0; role < LLAMA_ROLES; role++) {
        bool inside = role > LLAMA_EMBED && role < LLAMA_NORM;

        if ((inside && layer >= shape->layers) ||
            !llama_role_is_there(shape, (enum llama_role)role, inside ? layer : 0))
            continue;
        llama_stored_at(shape, llama_tensor_index(shape, (enum llama_role)role, inside ? layer : 0), out);
        if (strcmp(out->name, full) == 0)
            return true;
    }
    return false;
}
