/* Adapters of a model: names and shapes. See lora.h. */
#include "examples/model/lora.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "examples/model/adapter.h"
#include "examples/model/files.h"

static const enum llama_role roles[LLAMA_MATRICES] = {
    [LLAMA_MATRIX_Q] = LLAMA_Q,       [LLAMA_MATRIX_K] = LLAMA_K,       [LLAMA_MATRIX_V] = LLAMA_V,
    [LLAMA_MATRIX_O] = LLAMA_O,       [LLAMA_MATRIX_GATE] = LLAMA_GATE, [LLAMA_MATRIX_UP] = LLAMA_UP,
    [LLAMA_MATRIX_DOWN] = LLAMA_DOWN,
};

static const char *const part_names[LLAMA_LORA_PARTS] = {
    [LLAMA_LORA_A] = "lora_A.weight",
    [LLAMA_LORA_B] = "lora_B.weight",
    [LLAMA_LORA_MAGNITUDE] = "lora_magnitude_vector",
};

enum llama_role llama_matrix_role(enum llama_matrix m)
{
    return roles[m];
}

static void matrix_at(const struct llama_shape *shape, enum llama_matrix m, struct llama_tensor_desc *out)
{
    llama_tensor_at(shape, llama_tensor_index(shape, roles[m], 0), out);
}

uint64_t llama_matrix_rows(const struct llama_shape *shape, enum llama_matrix m)
{
    struct llama_tensor_desc d;

    matrix_at(shape, m, &d);
    return d.shape[0];
}

float llama_lora_scale(const struct llama_lora *l)
{
    return (float)(l->rank_stabilized ? l->alpha / sqrt(l->rank) : l->alpha / l->rank);
}

/* ---- modules ------------------------------------------------------------- */

/* That which begins with this matrix; its count is 0 if the matrix is stored behind another one. */
static void module_at(const struct llama_shape *shape, enum llama_matrix m, struct llama_lora_module *out)
{
    static const char end[] = ".weight";
    struct llama_stored s;
    uint32_t index = llama_tensor_index(shape, roles[m], 0);
    const char *name = s.name + strlen("model.layers.0.");

    llama_stored_at(shape, index, &s);
    *out = (struct llama_lora_module){
        .first = m, .count = s.first == index ? s.count : 0, .in = s.shape[1], .out = s.shape[0]};
    snprintf(out->name, sizeof out->name, "%.*s", (int)(strlen(name) - (sizeof end - 1)), name);
}

uint32_t llama_lora_modules(const struct llama_shape *shape, const struct llama_lora *l,
                            struct llama_lora_module out[LLAMA_MATRICES])
{
    uint32_t n = 0;

    for (int m = 0; m < LLAMA_MATRICES; m++) {
        if (!(l->targets >> m & 1))
            continue;
        module_at(shape, (enum llama_matrix)m, &out[n]);
        n += out[n].count > 0;
    }
    return n;
}

/* "q_proj" of "self_attn.q_proj". */
static const char *short_name(const struct llama_lora_module *m)
{
    const char *dot = strrchr(m->name, '.');

    return dot ? dot + 1 : m->name;
}

static int no_target(const struct llama_shape *shape, const char *name, size_t n, char *error,
                     size_t error_bytes)
{
    const struct llama_lora all = {.targets = (1u << LLAMA_MATRICES) - 1};
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint32_t count = llama_lora_modules(shape, &all, modules);
    char known[128] = "", text[64];

    for (uint32_t i = 0; i < count; i++) {
        size_t used = strlen(known);

        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", short_name(&modules[i]));
    }
    snprintf(text, sizeof text, "%.*s", (int)(n < 60 ? n : 60), name);
    return llama_fail(-EINVAL, error, error_bytes,
                      "\"%s\": no linear layer of this model; there are %s, and all-linear for all of them",
                      llama_quote(text).text, known);
}

int llama_lora_targets(const struct llama_shape *shape, const char *text, uint32_t *targets, char *error,
                       size_t error_bytes)
{
    const struct llama_lora all = {.targets = (1u << LLAMA_MATRICES) - 1};
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint32_t count = llama_lora_modules(shape, &all, modules), found = 0;

    if (shape->experts)
        return llama_fail(-ENOTSUP, error, error_bytes, "adapters of a mixture of experts are not supported");
    if (strcmp(text, "all-linear") == 0) {
        *targets = all.targets;
        return 0;
    }
    for (const char *at = text; at;) {
        const char *end = strchr(at, ',');
        size_t n = end ? (size_t)(end - at) : strlen(at);
        uint32_t i = 0;

        while (i < count &&
               (strlen(short_name(&modules[i])) != n || strncmp(short_name(&modules[i]), at, n) != 0))
            i++;
        if (i == count)
            return no_target(shape, at, n, error, error_bytes);
        found |= ((1u << modules[i].count) - 1) << modules[i].first;
        at = end ? end + 1 : NULL;
    }
    *targets = found;
    return 0;
}

/* ---- tensors ------------------------------------------------------------- */

static uint32_t parts(const struct llama_lora *l)
{
    return l->dora ? LLAMA_LORA_PARTS : LLAMA_LORA_MAGNITUDE;
}

uint32_t llama_lora_layer_tensors(const struct llama_shape *shape, const struct llama_lora *l)
{
    struct llama_lora_module modules[LLAMA_MATRICES];

    return parts(l) * llama_lora_modules(shape, l, modules);
}

uint32_t llama_lora_count(const struct llama_shape *shape, const struct llama_lora *l)
{
    return shape->layers * llama_lora_layer_tensors(shape, l);
}

int llama_lora_tensor_at(const struct llama_shape *shape, const struct llama_lora *l, uint32_t index,
                         struct llama_lora_tensor *out)
{
    struct llama_lora_module modules[LLAMA_MATRICES], *m;
    uint32_t each = parts(l) * llama_lora_modules(shape, l, modules);

    if (each == 0 || index / each >= shape->layers)
        return -EINVAL;
    *out = (struct llama_lora_tensor){.layer = index / each,
                                      .module = index % each / parts(l),
                                      .part = (enum llama_lora_part)(index % each % parts(l))};
    m = &modules[out->module];
    out->dims = out->part == LLAMA_LORA_MAGNITUDE ? 1 : 2;
    out->shape[0] = out->part == LLAMA_LORA_A ? l->rank : m->out;
    out->shape[1] = out->part == LLAMA_LORA_A ? m->in : out->part == LLAMA_LORA_B ? l->rank : 0;
    out->elems = out->shape[0] * (out->dims == 2 ? out->shape[1] : 1);
    snprintf(out->name, sizeof out->name, "model.layers.%u.%s.%s", out->layer, m->name,
             part_names[out->part]);
    return 0;
}

uint64_t llama_lora_params(const struct llama_shape *shape, const struct llama_lora *l)
{
    struct llama_lora_tensor t;
    uint64_t layer = 0;

    for (uint32_t i = 0; i < llama_lora_layer_tensors(shape, l); i++)
        layer += llama_lora_tensor_at(shape, l, i, &t) == 0 ? t.elems : 0;
    return layer * shape->layers;
}

size_t llama_lora_workspace(const struct llama_shape *shape, const struct llama_lora *l, size_t rows)
{
    size_t most = 0;

    for (int m = 0; m < LLAMA_MATRICES; m++) {
        struct llama_tensor_desc d;
        size_t bytes;

        if (!(l->targets >> m & 1))
            continue;
        matrix_at(shape, (enum llama_matrix)m, &d);
        bytes = llama_adapter_workspace(rows, d.shape[1], d.shape[0], l->rank, l->dora, l->dropout > 0);
        most = bytes > most ? bytes : most;
    }
    return most;
}
