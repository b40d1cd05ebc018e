/* PEFT's directory of an adapter. See lora_file.h. */
#include "examples/model/lora_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/output.h"
#include "include/offload_writer.h"

#define CONFIG     "adapter_config.json"
#define WEIGHTS    "adapter_model.safetensors"
#define PREFIX     "base_model.model."
#define CONFIG_MAX (4u << 20)
#define ALPHA_MAX  1e9

/* While an adapter is read. */
struct reading {
    const char *dir;
    const struct llama_shape *shape;
    struct ofl_ctx *ctx;
    struct ofl_source *source;
    char *error;
    size_t error_bytes;
};

#define REFUSE(r, ...) llama_fail(-ENOTSUP, (r)->error, (r)->error_bytes, __VA_ARGS__)

/* ---- adapter_config.json ------------------------------------------------- */

/* Keys that change what an adapter computes in a way that isn't built; with these values they don't. */
static bool harmless(const char *key, const json_t *v)
{
    if (!v || json_is_null(v) || json_is_false(v) ||
        ((json_is_object(v) || json_is_array(v)) && json_object_size(v) == 0 && json_array_size(v) == 0))
        return true;
    if (strcmp(key, "bias") == 0)
        return json_is_string(v) && strcmp(json_string_value(v), "none") == 0;
    return false;
}

static int check_keys(const struct reading *r, const json_t *root)
{
    static const char *const keys[] = {"bias",
                                       "lora_bias",
                                       "fan_in_fan_out",
                                       "use_qalora",
                                       "modules_to_save",
                                       "rank_pattern",
                                       "alpha_pattern",
                                       "layer_replication",
                                       "trainable_token_indices",
                                       "use_bdlora",
                                       "alora_invocation_tokens",
                                       "target_parameters",
                                       "arrow_config",
                                       "kasa_config",
                                       "monteclora_config",
                                       "velora_config"};
    const char *type = json_string_value(json_object_get(root, "peft_type"));
    const json_t *init = json_object_get(root, "init_lora_weights");

    if (!type || strcmp(type, "LORA") != 0)
        return REFUSE(r, "read %s/%s: peft_type is %s: adapters of type LORA are supported", r->dir, CONFIG,
                      type ? llama_quote(type).text : "missing");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (!harmless(keys[i], json_object_get(root, keys[i])))
            return REFUSE(r, "read %s/%s: %s is set: not supported", r->dir, CONFIG, keys[i]);
    if (json_is_string(init) && strcmp(json_string_value(init), "gaussian") != 0 &&
        strcmp(json_string_value(init), "orthogonal") != 0 && strcmp(json_string_value(init), "eva") != 0)
        return REFUSE(r,
                      "read %s/%s: init_lora_weights is \"%s\", which changes the base model's weights: not "
                      "supported; save it with path_initial_model_for_weight_conversion",
                      r->dir, CONFIG, llama_quote(json_string_value(init)).text);
    return 0;
}

static int read_config(const struct reading *r, struct llama_lora *out)
{
    char *path = llama_path(r->dir, CONFIG);
    json_t *root = NULL, *rank, *alpha, *dropout;
    int rc = path ? llama_json_load(path, CONFIG_MAX, &root, r->error, r->error_bytes)
                  : llama_fail(-ENOMEM, r->error, r->error_bytes, "read %s: out of memory", r->dir);

    free(path);
    if (rc == 0)
        rc = check_keys(r, root);
    if (rc < 0) {
        json_decref(root);
        return rc;
    }
    rank = json_object_get(root, "r");
    alpha = json_object_get(root, "lora_alpha");
    dropout = json_object_get(root, "lora_dropout");
    *out = (struct llama_lora){
        .rank = json_integer_value(rank) > 0 && json_integer_value(rank) <= LLAMA_LORA_RANK_MOST
                    ? (uint32_t)json_integer_value(rank)
                    : 0,
        .alpha = json_number_value(alpha),
        .dropout = json_number_value(dropout),
        .rank_stabilized = json_is_true(json_object_get(root, "use_rslora")),
        .dora = json_is_true(json_object_get(root, "use_dora")),
    };
    if (out->rank == 0)
        rc = REFUSE(r, "read %s/%s: r is not a whole number from 1 to %u", r->dir, CONFIG,
                    LLAMA_LORA_RANK_MOST);
    else if (!json_is_number(alpha) || !(fabs(out->alpha) <= ALPHA_MAX))
        rc = REFUSE(r, "read %s/%s: lora_alpha is not a number up to %g", r->dir, CONFIG, ALPHA_MAX);
    else if ((dropout && !json_is_number(dropout)) || !(out->dropout >= 0 && out->dropout < 1))
        rc = REFUSE(r, "read %s/%s: lora_dropout is not from 0 to below 1", r->dir, CONFIG);
    json_decref(root);
    return rc;
}

/* ---- adapter_model.safetensors ------------------------------------------- */

static int open_source(struct reading *r)
{
    char *path = llama_path(r->dir, WEIGHTS);
    int rc = path ? llama_file_check(path, r->error, r->error_bytes) : -ENOMEM;

    if (!path)
        llama_fail(rc, r->error, r->error_bytes, "open %s: out of memory", r->dir);
    else if (rc == -ENOENT)
        llama_fail(rc, r->error, r->error_bytes,
                   "open %s: %s is not there (adapter_model.bin is not read: save it as safetensors)", r->dir,
                   WEIGHTS);
    if (rc == 0 && (rc = ofl_source_open(r->ctx, path, &r->source)) < 0)
        llama_fail(rc, r->error, r->error_bytes, "%s", ofl_error());
    free(path);
    return rc;
}

static void file_name(const struct llama_lora_tensor *t, char *out, size_t bytes)
{
    snprintf(out, bytes, PREFIX "%s", t->name);
}

static int check_tensor(const struct reading *r, const struct llama_lora_tensor *t)
{
    struct ofl_source_entry e;
    char name[160];

    file_name(t, name, sizeof name);
    if (ofl_source_find(r->source, name, &e) < 0)
        return REFUSE(r, "open %s/%s: tensor %s is missing: each layer needs the same adapters", r->dir,
                      WEIGHTS, name);
    if (e.dtype != OFL_F32 && e.dtype != OFL_F16 && e.dtype != OFL_BF16)
        return REFUSE(r, "open %s/%s: tensor %s: dtype %s is not f32, f16 or bf16", r->dir, WEIGHTS, name,
                      ofl_dtype_name(e.dtype));
    if (e.dims == t->dims && e.shape[0] == t->shape[0] && (t->dims == 1 || e.shape[1] == t->shape[1]))
        return 0;
    return REFUSE(r,
                  "open %s/%s: tensor %s: shape [%" PRIu64 ", %" PRIu64
                  "], but r and the model need [%" PRIu64 ", %" PRIu64 "]",
                  r->dir, WEIGHTS, name, e.shape[0], e.dims > 1 ? e.shape[1] : 0, t->shape[0],
                  t->dims > 1 ? t->shape[1] : 0);
}

/* The first layer's names say which modules there are. */
static void find_targets(const struct reading *r, struct llama_lora *l)
{
    struct llama_lora all = *l;
    struct llama_lora_module modules[LLAMA_MATRICES];
    struct ofl_source_entry e;
    struct llama_lora_tensor t;
    char name[160];

    all.targets = (1u << LLAMA_MATRICES) - 1;
    llama_lora_modules(r->shape, &all, modules);
    for (uint32_t i = 0; i < llama_lora_layer_tensors(r->shape, &all); i++) {
        llama_lora_tensor_at(r->shape, &all, i, &t);
        file_name(&t, name, sizeof name);
        if (ofl_source_find(r->source, name, &e) == 0)
            l->targets |= ((1u << modules[t.module].count) - 1) << modules[t.module].first;
    }
}

static bool is_known(const struct reading *r, const struct llama_lora *l, const char *name)
{
    struct llama_lora_tensor t;
    char known[160];
    uint32_t each = llama_lora_layer_tensors(r->shape, l);
    unsigned layer = 0;

    sscanf(name, PREFIX "model.layers.%4u.", &layer);
    for (uint32_t i = 0; i < each; i++) {
        if (layer >= r->shape->layers || llama_lora_tensor_at(r->shape, l, layer * each + i, &t) < 0)
            return false;
        file_name(&t, known, sizeof known);
        if (strcmp(name, known) == 0)
            return true;
    }
    return false;
}

/* name is no tensor of l's. */
static int refuse_tensor(const struct reading *r, const struct llama_lora *l, const char *name)
{
    struct llama_lora all = *l;
    unsigned layer;

    all.targets = (1u << LLAMA_MATRICES) - 1;
    if (sscanf(name, PREFIX "model.layers.%9u.", &layer) == 1 && layer >= r->shape->layers)
        return REFUSE(r, "open %s/%s: tensor %s: the model has %" PRIu32 " layers", r->dir, WEIGHTS,
                      llama_quote(name).text, r->shape->layers);
    if (is_known(r, &all, name))
        return REFUSE(r,
                      "open %s/%s: tensor %s: the first layer has none: adapters of some layers only are not "
                      "supported, each layer needs the same",
                      r->dir, WEIGHTS, llama_quote(name).text);
    return REFUSE(r, "open %s/%s: tensor %s: not an adapter of a linear layer in this model's blocks", r->dir,
                  WEIGHTS, llama_quote(name).text);
}

static int check_weights(const struct reading *r, struct llama_lora *l)
{
    struct llama_lora_tensor t;
    struct ofl_source_entry e;
    int rc = 0;

    find_targets(r, l);
    for (size_t i = 0; i < ofl_source_count(r->source) && rc == 0; i++)
        if (ofl_source_entry_get(r->source, i, &e) == 0 && !is_known(r, l, e.name))
            rc = refuse_tensor(r, l, e.name);
    if (rc == 0 && l->targets == 0)
        rc = REFUSE(r, "open %s/%s: there are no adapters in it", r->dir, WEIGHTS);
    for (uint32_t i = 0; rc == 0 && llama_lora_tensor_at(r->shape, l, i, &t) == 0; i++)
        rc = check_tensor(r, &t);
    return rc;
}

int llama_lora_load(const char *dir, const struct llama_shape *shape, struct llama_lora *out, char *error,
                    size_t error_bytes)
{
    struct ofl_config small = {
        .size = sizeof small, .device_bytes = 4096, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct reading r = {.dir = dir, .shape = shape, .error = error, .error_bytes = error_bytes};
    int rc = read_config(&r, out);

    if (rc == 0 && shape->experts)
        rc = llama_fail(-ENOTSUP, error, error_bytes,
                        "%s: an adapter of a mixture of experts is not supported", dir);
    if (rc < 0)
        return rc;
    rc = ofl_open(&small, &r.ctx);
    if (rc < 0)
        return llama_fail(rc, error, error_bytes, "%s", ofl_error());
    rc = open_source(&r);
    if (rc == 0)
        rc = check_weights(&r, out);
    ofl_close(r.ctx);
    return rc;
}

/* ---- rows ---------------------------------------------------------------- */

/*
 * GGUF files have the rows of Q and K of a head in another order (rope_pairs): number 2 j there is j here, 2 j + 1 is
 * j + half. values: [rows, columns] of B or the magnitude, to the base's order or back.
 */
static int order_rows(const struct llama_shape *shape, const struct llama_lora *l,
                      const struct llama_lora_tensor *t, float *values, bool back)
{
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint64_t columns = t->dims == 2 ? t->shape[1] : 1, dim = shape->head_dim;
    float *head;

    llama_lora_modules(shape, l, modules);
    if (!shape->rope_pairs || t->part == LLAMA_LORA_A || modules[t->module].first > LLAMA_MATRIX_K)
        return 0;
    head = malloc(dim * columns * sizeof *head);
    if (!head)
        return -ENOMEM;
    for (uint64_t at = 0; at < t->elems; at += dim * columns) {
        memcpy(head, values + at, dim * columns * sizeof *head);
        for (uint64_t i = 0; i < dim; i++) {
            uint64_t theirs = i / 2 + i % 2 * (dim / 2); /* i: the row in the base's order */

            memcpy(values + at + (back ? theirs : i) * columns, head + (back ? i : theirs) * columns,
                   columns * sizeof *head);
        }
    }
    free(head);
    return 0;
}

/* ---- reading ------------------------------------------------------------- */

static int read_values(const struct reading *r, const struct llama_lora_tensor *t, float *values)
{
    struct ofl_source_entry e;
    struct ofl_tensor *tensor = NULL;
    char name[160];
    void *raw;
    int err;

    file_name(t, name, sizeof name);
    err = ofl_source_find(r->source, name, &e);
    if (err == 0)
        err = ofl_source_bind(r->source, name, OFL_KIND_OTHER, &tensor);
    raw = err == 0 ? malloc(e.bytes) : NULL;
    if (err == 0 && raw)
        err = ofl_tensor_read(tensor, 0, raw, e.bytes);
    if (err == 0 && raw)
        llama_widen(values, raw, e.dtype, e.elems);
    if (err < 0)
        llama_fail(err, r->error, r->error_bytes, "%s", ofl_error());
    free(raw);
    ofl_tensor_destroy(tensor);
    return err == 0 && !raw ? -ENOMEM : err;
}

int llama_lora_read(struct ofl_ctx *ctx, const char *dir, const struct llama_shape *shape,
                    const struct llama_lora *l, llama_lora_fn *put, void *arg, char *error,
                    size_t error_bytes)
{
    struct reading r = {.dir = dir, .shape = shape, .ctx = ctx, .error = error, .error_bytes = error_bytes};
    struct llama_lora_tensor t;
    int rc = open_source(&r);

    for (uint32_t i = 0; rc == 0 && llama_lora_tensor_at(shape, l, i, &t) == 0; i++) {
        float *values = malloc(t.elems * sizeof *values);

        rc = values ? check_tensor(&r, &t) : -ENOMEM;
        if (rc == 0)
            rc = read_values(&r, &t, values);
        if (rc == 0)
            rc = order_rows(shape, l, &t, values, false);
        if (rc == 0)
            rc = put(arg, i, &t, values, error, error_bytes);
        free(values);
    }
    if (rc == -ENOMEM)
        llama_fail(rc, error, error_bytes, "read %s/%s: out of memory", dir, WEIGHTS);
    if (rc == 0 && (rc = ofl_source_check(r.source)) < 0)
        llama_fail(rc, error, error_bytes, "%s", ofl_error());
    if (r.source)
        ofl_source_close(r.source);
    return rc;
}

/* ---- writing ------------------------------------------------------------- */

static json_t *config_json(const struct llama_lora_writer *w)
{
    const struct llama_lora *l = w->lora;
    struct llama_lora_module modules[LLAMA_MATRICES];
    uint32_t count = llama_lora_modules(w->shape, l, modules);
    json_t *targets = json_array(), *base = w->base ? json_string(w->base) : NULL;

    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(targets, json_string(strrchr(modules[i].name, '.') + 1));
    return json_pack("{s:s, s:s, s:o, s:i, s:f, s:f, s:o, s:b, s:b, s:s, s:b, s:b, s:b, s:n, s:{}, s:{}}",
                     "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path",
                     base ? base : json_null(), "r", (int)l->rank, "lora_alpha", (double)l->alpha,
                     "lora_dropout", (double)l->dropout, "target_modules", targets, "use_rslora",
                     l->rank_stabilized, "use_dora", l->dora, "bias", "none", "fan_in_fan_out", false,
                     "inference_mode", true, "init_lora_weights", true, "modules_to_save", "rank_pattern",
                     "alpha_pattern");
}

/* The library's sentence, of its last call. */
static int fail_library(int code, char *error, size_t error_bytes)
{
    return code < 0 ? llama_fail(code, error, error_bytes, "%s", ofl_error()) : 0;
}

static int open_weights(const struct llama_lora_writer *w, const char *path, struct ofl_writer **out,
                        char *error, size_t error_bytes)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    struct llama_lora_tensor t;
    struct ofl_source_entry *e;
    char(*names)[160];
    size_t n = 0, i = 0;
    int rc = -ENOMEM;

    while (llama_lora_tensor_at(w->shape, w->lora, (uint32_t)n, &t) == 0)
        n++;
    e = calloc(n + 1, sizeof *e);
    names = calloc(n + 1, sizeof *names);
    for (; e && names && i < n; i++) {
        llama_lora_tensor_at(w->shape, w->lora, (uint32_t)i, &t);
        file_name(&t, names[i], sizeof names[i]);
        e[i] = (struct ofl_source_entry){.name = names[i], .dtype = OFL_F32, .dims = t.dims};
        for (uint32_t k = 0; k < t.dims; k++)
            e[i].shape[k] = t.shape[k];
    }
    *out = NULL;
    if (e && names)
        rc = fail_library(ofl_writer_open(path, e, n, metadata, out), error, error_bytes);
    free(e);
    free(names);
    return rc;
}

static int write_tensors(const struct llama_lora_writer *w, struct ofl_writer *to, char *error,
                         size_t error_bytes)
{
    struct llama_lora_tensor t;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && llama_lora_tensor_at(w->shape, w->lora, i, &t) == 0; i++) {
        float *values = malloc(t.elems * sizeof *values);

        rc = values ? w->get(w->arg, i, &t, values, error, error_bytes) : -ENOMEM;
        if (rc == 0)
            rc = order_rows(w->shape, w->lora, &t, values, true);
        if (rc == 0)
            rc = fail_library(ofl_writer_put(to, values, t.elems * sizeof *values), error, error_bytes);
        free(values);
    }
    return rc == 0 ? fail_library(ofl_writer_finish(to), error, error_bytes) : rc;
}

static int write_files(const struct llama_lora_writer *w, const char *dir, char *error, size_t error_bytes)
{
    char *path = llama_path(dir, WEIGHTS), *config = llama_path(dir, CONFIG);
    json_t *root = config_json(w);
    struct ofl_writer *weights = NULL;
    int rc = path && config && root ? 0 : -ENOMEM;

    if (rc == 0)
        rc = llama_json_save(config, root, error, error_bytes);
    if (rc == 0)
        rc = open_weights(w, path, &weights, error, error_bytes);
    if (rc == 0)
        rc = write_tensors(w, weights, error, error_bytes);
    ofl_writer_destroy(weights);
    free(path);
    free(config);
    json_decref(root);
    return rc;
}

int llama_lora_write(const struct llama_lora_writer *w, struct llama_output *to, char *error,
                     size_t error_bytes)
{
    int rc = write_files(w, llama_output_dir(to), error, error_bytes);

    return rc == 0 ? llama_output_publish(to, error, error_bytes) : rc;
}
