/* Merging an adapter into its base. See merge.h. */
#include "examples/model/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/adapter.h"
#include "examples/model/checkpoint.h"
#include "examples/model/files.h"
#include "examples/model/gguf.h"
#include "examples/model/lora_file.h"
#include "examples/model/writer.h"

#define DEVICE_BYTES (1u << 20)
#define HOST_BYTES   (16u << 20)

struct merging {
    const struct llama_merge *m;
    struct llama_checkpoint *ck;
    float **values; /* of the adapter, in the order of llama_lora_tensor_at */
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint32_t module_count, parts;
    enum ofl_dtype dtype; /* of the files that are written */
    float *row;           /* of the widest matrix */
    void *raw;
};

static int keep(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values, char *error,
                size_t error_bytes)
{
    struct merging *g = arg;

    g->values[index] = malloc(t->elems * sizeof *values);
    if (!g->values[index])
        return llama_fail(-ENOMEM, error, error_bytes, "read %s: out of memory", g->m->adapter);
    memcpy(g->values[index], values, t->elems * sizeof *values);
    return 0;
}

/* The adapter of a matrix; false: it has none. */
static bool adapter_of(const struct merging *g, const struct llama_tensor_desc *d, struct llama_adapter *out)
{
    const struct llama_shape *shape = &g->m->config->shape;

    for (uint32_t i = 0; i < g->module_count && d->layer >= 0; i++) {
        uint64_t row = 0;

        for (uint32_t k = 0; k < g->modules[i].count; k++) {
            enum llama_matrix matrix = (enum llama_matrix)(g->modules[i].first + k);
            float **parts = g->values + ((uint32_t)d->layer * g->module_count + i) * g->parts;

            *out = (struct llama_adapter){.a = parts[LLAMA_LORA_A],
                                          .b = parts[LLAMA_LORA_B] + row * g->m->lora->rank,
                                          .rank = g->m->lora->rank,
                                          .scale = llama_lora_scale(g->m->lora)};
            if (g->m->lora->dora)
                out->magnitude = parts[LLAMA_LORA_MAGNITUDE] + row;
            if (d->role == llama_matrix_role(matrix))
                return true;
            row += llama_matrix_rows(shape, matrix);
        }
    }
    return false;
}

/* A row of the merged matrix, whole or a part of it: DoRA's gain needs all of it. */
static int merge_row(const struct merging *g, struct ofl_tensor *base, enum ofl_dtype dtype, uint64_t j,
                     uint64_t in, const struct llama_adapter *ad)
{
    uint64_t bytes = llama_dtype_bytes(dtype, in);
    int err = ofl_tensor_read(base, j * bytes, g->raw, bytes);

    if (err < 0)
        return err;
    llama_widen(g->row, g->raw, dtype, in);
    for (size_t k = 0; k < ad->rank; k++)
        llama_add_scaled(g->row, ad->a + k * in, ad->scale * ad->b[j * ad->rank + k], in);
    if (ad->magnitude) {
        const struct llama_adapter none = {0};
        const struct llama_weight whole = {.data = g->row, .dtype = OFL_F32};
        float norm;

        llama_adapter_norms(&norm, &none, whole, in, 1, g->raw);
        llama_scale(g->row, in, ad->magnitude[j] / norm);
    }
    return 0;
}

static void narrow(enum ofl_dtype dtype, void *to, const float *from, uint64_t n)
{
    if (dtype == OFL_F32)
        memcpy(to, from, n * sizeof *from);
    else if (dtype == OFL_BF16)
        llama_to_bf16(to, from, n);
    else
        llama_to_f16(to, from, n);
}

static int read_plain(const struct merging *g, struct ofl_tensor *base, enum ofl_dtype dtype, uint64_t first,
                      uint64_t elems, void *buf)
{
    const uint64_t most = 4096; /* whole blocks of any dtype */
    int err = 0;

    for (uint64_t at = 0; at < elems && err == 0; at += most) {
        uint64_t n = elems - at < most ? elems - at : most;

        err =
            ofl_tensor_read(base, llama_dtype_bytes(dtype, first + at), g->raw, llama_dtype_bytes(dtype, n));
        if (err == 0)
            llama_widen(g->row, g->raw, dtype, n);
        if (err == 0)
            narrow(g->dtype, (char *)buf + at * ofl_dtype_bytes(g->dtype), g->row, n);
    }
    return err;
}

static int read_merged(const struct merging *g, struct ofl_tensor *base, enum ofl_dtype dtype,
                       const struct llama_tensor_desc *d, const struct llama_adapter *ad, uint64_t first,
                       uint64_t elems, void *buf)
{
    uint64_t in = d->shape[1];
    int err = 0;

    for (uint64_t at = first; at < first + elems && err == 0;) {
        uint64_t column = at % in, n = in - column < first + elems - at ? in - column : first + elems - at;

        err = merge_row(g, base, dtype, at / in, in, ad);
        if (err == 0)
            narrow(g->dtype, (char *)buf + (at - first) * ofl_dtype_bytes(g->dtype), g->row + column, n);
        at += n;
    }
    return err;
}

static int read_tensor(void *arg, uint32_t tensor, uint64_t first, uint64_t elems, void *buf, char *error,
                       size_t error_bytes)
{
    const struct merging *g = arg;
    enum ofl_dtype dtype = g->m->dtypes[tensor];
    struct ofl_tensor *base;
    struct llama_tensor_desc d;
    struct llama_adapter ad;
    int err;

    llama_tensor_at(&g->m->config->shape, tensor, &d);
    err = llama_checkpoint_bind(g->ck, tensor, 0, d.elems, &base);
    if (err == 0) {
        err = adapter_of(g, &d, &ad) ? read_merged(g, base, dtype, &d, &ad, first, elems, buf)
                                     : read_plain(g, base, dtype, first, elems, buf);
        ofl_tensor_destroy(base);
    }
    return err < 0 ? llama_fail(err, error, error_bytes, "%s", ofl_error()) : 0;
}

static int progress(void *arg, uint64_t done, uint64_t total)
{
    const struct merging *g = arg;
    int err = g->m->progress ? g->m->progress(g->m->arg, done, total) : 0;

    /* before it gets its name: it is of one model */
    return err == 0 && done == total ? llama_checkpoint_check(g->ck, NULL, 0) : err;
}

static int write_all(struct merging *g, char *error, size_t error_bytes)
{
    struct llama_writer w = {.dir = g->m->out,
                             .replace = g->m->replace,
                             .config = g->m->config,
                             .dtype = g->dtype,
                             .copy_from_dir = g->m->model,
                             .read = read_tensor,
                             .progress = progress,
                             .arg = g};

    return llama_checkpoint_write(&w, error, error_bytes);
}

static int make_room(struct merging *g)
{
    const struct llama_shape *shape = &g->m->config->shape;
    uint64_t widest = 4096;

    for (uint32_t i = 0; i < g->module_count; i++)
        widest = g->modules[i].in > widest ? g->modules[i].in : widest;
    g->values = calloc(llama_lora_count(shape, g->m->lora), sizeof *g->values);
    g->row = malloc(widest * sizeof *g->row);
    g->raw = malloc(widest * sizeof(float));
    return g->values && g->row && g->raw ? 0 : -ENOMEM;
}

int llama_merge(const struct llama_merge *m, char *error, size_t error_bytes)
{
    struct ofl_config small = {.size = sizeof small, .device_bytes = DEVICE_BYTES, .host_bytes = HOST_BYTES};
    const struct llama_shape *shape = &m->config->shape;
    struct merging g = {.m = m, .dtype = m->dtypes[llama_tensor_index(shape, LLAMA_Q, 0)]};
    struct ofl_ctx *ctx;
    int err;

    if (shape->scheme.packer != LLAMA_PACKER_NONE)
        return llama_fail(-EINVAL, error, error_bytes,
                          "--merge: the weights of %s are packed: an adapter is merged into plain ones (f32, "
                          "bf16, f16): give the directory that they were made from",
                          m->model);
    if (llama_gguf_is(m->model) || ofl_dtype_bytes(g.dtype) == 0 ||
        (g.dtype != OFL_F32 && g.dtype != OFL_BF16 && g.dtype != OFL_F16))
        return llama_fail(-EINVAL, error, error_bytes,
                          "--merge: the weights of %s are %s: an adapter is merged into plain ones (f32, "
                          "bf16, f16): give the directory that they were made from",
                          m->model, ofl_dtype_name(g.dtype));
    g.module_count = llama_lora_modules(shape, m->lora, g.modules);
    g.parts = m->lora->dora ? LLAMA_LORA_PARTS : LLAMA_LORA_MAGNITUDE;
    err = ofl_open(&small, &ctx);
    if (err < 0)
        return llama_fail(err, error, error_bytes, "%s", ofl_error());
    err = make_room(&g);
    if (err < 0)
        llama_fail(err, error, error_bytes, "merge %s: out of memory", m->adapter);
    if (err == 0)
        err = llama_checkpoint_open(ctx, m->model, shape, &g.ck, error, error_bytes);
    if (err == 0)
        err = llama_lora_read(ctx, m->adapter, shape, m->lora, keep, &g, error, error_bytes);
    if (err == 0)
        err = write_all(&g, error, error_bytes);
    for (uint32_t i = 0; g.values && i < llama_lora_count(shape, m->lora); i++)
        free(g.values[i]);
    free(g.values);
    free(g.row);
    free(g.raw);
    llama_checkpoint_close(g.ck);
    ofl_close(ctx);
    return err;
}
