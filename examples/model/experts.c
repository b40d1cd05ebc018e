/* The tensors of experts. See experts.h. */
#include "examples/model/experts.h"

#include <stdio.h>
#include <string.h>

#include "examples/model/family.h"

/* What lies together for each expert, and the name of all of them as one. */
static const struct group {
    uint32_t count;
    enum llama_role roles[2];
    const char *fused;
} groups[] = {{2, {LLAMA_EXPERT_GATE, LLAMA_EXPERT_UP}, "gate_up_proj"},
              {1, {LLAMA_EXPERT_DOWN}, "down_proj"}};

#define GROUPS (sizeof groups / sizeof groups[0])

uint32_t llama_expert_tensors(const struct llama_shape *shape)
{
    uint32_t n = 0;

    (void)shape;
    for (size_t i = 0; i < GROUPS; i++)
        n += groups[i].count;
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

    for (size_t i = 0; i < GROUPS; index += shape->experts * groups[i++].count)
        for (uint32_t k = 0; k < groups[i].count; k++)
            if (groups[i].roles[k] == role)
                return index + expert * groups[i].count + k;
    return index;
}

enum llama_role llama_expert_role(const struct llama_shape *shape, uint32_t place, uint32_t *expert)
{
    size_t i = 0;

    for (; i + 1 < GROUPS && place >= shape->experts * groups[i].count; i++)
        place -= shape->experts * groups[i].count;
    *expert = place / groups[i].count;
    return groups[i].roles[place % groups[i].count];
}

/* ---- names --------------------------------------------------------------- */

static const char *end_of(const struct llama_shape *shape, enum llama_role role)
{
    return llama_family_at(shape->family)->expert_names[role - LLAMA_EXPERT_GATE];
}

void llama_expert_name(const struct llama_shape *shape, const struct llama_tensor_desc *d, char *out,
                       size_t bytes)
{
    snprintf(out, bytes, "model.layers.%d.%s.experts.%u.%s.weight", d->layer,
             llama_family_at(shape->family)->mixture_name, d->expert, end_of(shape, d->role));
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

/* One behind the other, as [experts, outputs, inputs]. */
static void all_of(const struct llama_shape *shape, uint32_t layer, const struct group *g,
                   struct llama_stored *out)
{
    struct llama_tensor_desc d;

    out->first = llama_expert_index(shape, g->roles[0], layer, 0);
    out->count = shape->experts * g->count;
    llama_tensor_at(shape, out->first, &d);
    out->dims = 3;
    out->shape[0] = shape->experts;
    out->shape[1] = g->count * d.shape[0];
    out->shape[2] = d.shape[1];
    out->elems = out->count * d.elems;
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
    for (size_t i = 0; i < GROUPS; i++) {
        if (strcmp(dot, groups[i].fused) != 0)
            continue;
        *out = (struct llama_stored){0};
        snprintf(out->name, sizeof out->name, "%.95s", name);
        all_of(shape, layer, &groups[i], out);
        return true;
    }
    if (sscanf(dot, "%4u.", &expert) < 1 || expert >= shape->experts)
        return false;
    for (int role = LLAMA_EXPERT_GATE; role < LLAMA_ROLES_ALL; role++) {
        llama_stored_at(shape, llama_expert_index(shape, (enum llama_role)role, layer, expert), out);
        if (strcmp(out->name, name) == 0)
            return true;
    }
    return false;
}
