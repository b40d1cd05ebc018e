/* The tensors of experts. See experts.h. */
#include "examples/model/experts.h"

#include <stdio.h>
#include <string.h>

#include "examples/model/family.h"

/* What lies together for each expert, and the name of all of them as one. */
struct group {
    uint32_t count;
    enum llama_role roles[2];
    const char *fused;
};

#define GROUPS_MAX 4

/* Up to count 0. */
static const struct group *groups_of(const struct llama_shape *shape)
{
    static const struct group plain[GROUPS_MAX + 1] = {
        {2, {LLAMA_EXPERT_GATE, LLAMA_EXPERT_UP}, "gate_up_proj"}, {1, {LLAMA_EXPERT_DOWN}, "down_proj"}};
    static const struct group pairs[GROUPS_MAX + 1] = {{1, {LLAMA_EXPERT_PAIRS}, "gate_up_proj"},
                                                       {1, {LLAMA_EXPERT_PAIRS_BIAS}, "gate_up_proj_bias"},
                                                       {1, {LLAMA_EXPERT_DOWN}, "down_proj"},
                                                       {1, {LLAMA_EXPERT_DOWN_BIAS}, "down_proj_bias"}};

    return shape->expert_pairs ? pairs : plain;
}

uint32_t llama_expert_tensors(const struct llama_shape *shape)
{
    uint32_t n = 0;

    for (const struct group *g = groups_of(shape); g->count; g++)
        n += g->count;
    return n;
}

static uint32_t first_of(const struct llama_shape *shape, uint32_t layer)
{
    return llama_layer_first(shape, layer) + llama_layer_tensors(shape, layer);
}

uint32_t llama_expert_index(const struct llama_shape *shape, enum llama_role role, uint32_t layer,
                            uint32_t expert)
{
    uint32_t index = first_of(shape, layer);

    for (const struct group *g = groups_of(shape); g->count; index += shape->experts * g++->count)
        for (uint32_t k = 0; k < g->count; k++)
            if (g->roles[k] == role)
                return index + expert * g->count + k;
    return index;
}

enum llama_role llama_expert_role(const struct llama_shape *shape, uint32_t place, uint32_t *expert)
{
    const struct group *g = groups_of(shape);

    for (; g[1].count && place >= shape->experts * g->count; g++)
        place -= shape->experts * g->count;
    *expert = place / g->count;
    return g->roles[place % g->count];
}

/* ---- names --------------------------------------------------------------- */

static const struct group *group_of(const struct llama_shape *shape, enum llama_role role)
{
    const struct group *g = groups_of(shape);

    while (g[1].count && g->roles[0] != role && g->roles[1] != role)
        g++;
    return g;
}

/* Where files have those of a layer as one only, what stands behind the expert's number is that one's. */
void llama_expert_name(const struct llama_shape *shape, const struct llama_tensor_desc *d, char *out,
                       size_t bytes)
{
    const struct llama_family *f = llama_family_at(shape->family);
    bool alone = !shape->expert_pairs;

    snprintf(out, bytes, "model.layers.%d.%s.experts.%u.%s%s", d->layer, f->mixture_name, d->expert,
             alone ? f->expert_names[d->role - LLAMA_EXPERT_GATE] : group_of(shape, d->role)->fused,
             alone ? ".weight" : "");
}

void llama_expert_respell(const struct llama_shape *shape, char *name, size_t bytes)
{
    static const char newer[] = "mlp.";
    const char *older = llama_family_at(shape->family)->mixture_name;
    char rest[256];
    int at = 0;

    if (!older || sscanf(name, "model.layers.%*u.%n", &at) < 0 || at == 0 ||
        strncmp(name + at, newer, sizeof newer - 1) != 0)
        return;
    snprintf(rest, sizeof rest, "%s", name + at + sizeof newer - 1);
    snprintf(name + at, bytes - (size_t)at, "%s.%s", older, rest);
}

/* One behind the other, as [experts, outputs, inputs]; packed ones as one matrix [experts * outputs, inputs]. */
static void all_of(const struct llama_shape *shape, uint32_t layer, const struct group *g,
                   struct llama_stored *out)
{
    struct llama_tensor_desc d;

    out->first = llama_expert_index(shape, g->roles[0], layer, 0);
    out->count = shape->experts * g->count;
    llama_tensor_at(shape, out->first, &d);
    out->dims = d.dims + 1;
    out->shape[0] = shape->experts;
    out->shape[1] = g->count * d.shape[0];
    out->shape[2] = d.shape[1];
    out->elems = out->count * d.elems;
    if (d.dims < 2 || !shape->expert_pairs || llama_experts_turned(shape))
        return;
    out->dims = 2;
    out->shape[0] = out->count * d.shape[0];
    out->shape[1] = d.shape[1];
}

void llama_expert_all(const struct llama_shape *shape, const struct llama_tensor_desc *d,
                      struct llama_stored *out)
{
    const struct group *g = group_of(shape, d->role);

    snprintf(out->name, sizeof out->name, "model.layers.%d.%s.experts.%s", d->layer,
             llama_family_at(shape->family)->mixture_name, g->fused);
    all_of(shape, (uint32_t)d->layer, g, out);
}

bool llama_expert_find(const struct llama_shape *shape, const char *name, struct llama_stored *out)
{
    const char *mixture = llama_family_at(shape->family)->mixture_name, *dot;
    unsigned layer, expert;
    char base[96];
    int at = 0;

    if (!mixture || sscanf(name, "model.layers.%4u.%n", &layer, &at) < 1 || at == 0 ||
        layer >= shape->layers || !llama_layer_mixed(shape, layer))
        return false;
    snprintf(base, sizeof base, "model.layers.%u.%s.experts.", layer, mixture);
    if (strncmp(name, base, strlen(base)) != 0)
        return false;
    dot = name + strlen(base);
    for (const struct group *g = groups_of(shape); g->count; g++) {
        if (strcmp(dot, g->fused) != 0)
            continue;
        *out = (struct llama_stored){0};
        snprintf(out->name, sizeof out->name, "%.95s", name);
        all_of(shape, layer, g, out);
        return true;
    }
    if (shape->expert_pairs || sscanf(dot, "%4u.", &expert) < 1 || expert >= shape->experts)
        return false;
    for (int role = LLAMA_EXPERT_GATE; role <= LLAMA_EXPERT_DOWN; role++) {
        llama_stored_at(shape, llama_expert_index(shape, (enum llama_role)role, layer, expert), out);
        if (strcmp(out->name, name) == 0)
            return true;
    }
    return false;
}
