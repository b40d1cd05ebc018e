/* Writing a model as a Hugging Face directory: see writer.h. The weights come through a callback, at most one chunk
 * of them is in memory. */
#include "examples/model/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/model/checkpoint.h"
#include "examples/model/files.h"
#include "examples/model/output.h"
#include "include/offload_writer.h"

struct llama_writing {
    struct llama_writer w;
    struct llama_output *output;
    struct ofl_writer *weights; /* room for them is taken */
    char *path;
    void *buf;
    uint64_t data_bytes, done_bytes; /* of the tensors */
    char *error;                     /* of the call */
    size_t error_bytes;
};

/* Copied if the model that was read has them. */
static const char *const copied[] = {
    "tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "added_tokens.json", "chat_template.jinja",   "generation_config.json"};

static int fail_errno(struct llama_writing *x, const char *what, const char *path, int code)
{
    return llama_fail(code, x->error, x->error_bytes, "%s %s: %s", what, path, ofl_strerror(code));
}

/* ---- model.safetensors ------------------------------------------------- */

/* The library's sentence, of its last call. */
static int fail_library(struct llama_writing *x, int code)
{
    return llama_fail(code, x->error, x->error_bytes, "%s", ofl_error());
}

/* Tensors stored as one lie one behind the other. */
static int open_entries(struct llama_writing *x, struct ofl_source_entry *e, struct llama_stored *d)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const struct llama_shape *shape = &x->w.config->shape;
    size_t n = 0;
    int rc;

    for (uint32_t i = 0; i < llama_tensor_count(shape); i += d[n++].count) {
        llama_stored_at(shape, i, &d[n]);
        e[n] = (struct ofl_source_entry){.name = d[n].name, .dtype = x->w.dtype, .dims = d[n].dims};
        for (uint32_t k = 0; k < d[n].dims; k++)
            e[n].shape[k] = d[n].shape[k];
        x->data_bytes += d[n].elems * ofl_dtype_bytes(x->w.dtype);
    }
    rc = ofl_writer_open(x->path, e, n, metadata, &x->weights);
    return rc < 0 ? fail_library(x, rc) : 0;
}

static int open_weights(struct llama_writing *x)
{
    uint32_t most = llama_tensor_count(&x->w.config->shape);
    struct ofl_source_entry *e = calloc(most, sizeof *e);
    struct llama_stored *d = calloc(most, sizeof *d);
    int rc = -ENOMEM;

    x->path = llama_path(llama_output_dir(x->output), "model.safetensors");
    x->buf = malloc(LLAMA_WRITE_CHUNK_BYTES);
    if (x->path && x->buf && e && d)
        rc = open_entries(x, e, d);
    else
        fail_errno(x, "write", x->w.dir, rc);
    free(e);
    free(d);
    return rc;
}

static int write_chunk(struct llama_writing *x, uint32_t tensor, const struct llama_tensor_desc *d,
                       uint64_t first, uint64_t elems)
{
    uint64_t bytes = elems * ofl_dtype_bytes(x->w.dtype);
    int rc = x->w.read(x->w.arg, tensor, first, elems, x->buf, x->error, x->error_bytes);

    if (rc != 0 && x->error_bytes && x->error[0] == '\0')
        llama_fail(rc, x->error, x->error_bytes,
                   "write %s: tensor %s, elements %" PRIu64 " to %" PRIu64 ": %s", x->path, d->name, first,
                   first + elems, ofl_strerror(rc));
    if (rc != 0)
        return rc;
    rc = ofl_writer_put(x->weights, x->buf, bytes);
    if (rc < 0)
        return fail_library(x, rc);
    x->done_bytes += bytes;
    rc = x->w.progress ? x->w.progress(x->w.arg, x->done_bytes, x->data_bytes) : 0;
    if (rc != 0)
        llama_fail(rc, x->error, x->error_bytes,
                   "write %s: stopped after %" PRIu64 " of %" PRIu64 " bytes: %s", x->path, x->done_bytes,
                   x->data_bytes, ofl_strerror(rc));
    return rc;
}

static int write_weights(struct llama_writing *x)
{
    const struct llama_shape *shape = &x->w.config->shape;
    const uint64_t most = LLAMA_WRITE_CHUNK_BYTES / ofl_dtype_bytes(x->w.dtype);
    struct llama_tensor_desc d;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < llama_tensor_count(shape); i++) {
        llama_tensor_at(shape, i, &d);
        for (uint64_t at = 0; rc == 0 && at < d.elems; at += most)
            rc = write_chunk(x, i, &d, at, d.elems - at < most ? d.elems - at : most);
    }
    if (rc == 0 && (rc = ofl_writer_finish(x->weights)) < 0)
        fail_library(x, rc);
    return rc;
}

/* ---- the small files --------------------------------------------------- */

static int copy_file(struct llama_writing *x, const char *name)
{
    char *from = llama_path(x->w.copy_from_dir, name), *to = llama_path(llama_output_dir(x->output), name);
    int rc =
        from && to ? llama_file_check(from, x->error, x->error_bytes) : fail_errno(x, "copy", name, -ENOMEM);

    if (rc == -ENOENT) {
        rc = 0;
        llama_fail(0, x->error, x->error_bytes, "%s", "");
    } else if (rc == 0) {
        rc = llama_file_copy(from, to, x->error, x->error_bytes);
    }
    free(from);
    free(to);
    return rc;
}

/* Unless it was copied. */
static int write_generation(struct llama_writing *x)
{
    const struct llama_config *c = x->w.config;
    char *path = llama_path(llama_output_dir(x->output), "generation_config.json");
    json_t *root = json_object(), *eos = json_array();
    int rc = path && root && eos ? 0 : fail_errno(x, "write", x->w.dir, -ENOMEM);

    if (rc == 0 && access(path, F_OK) != 0) {
        if (c->bos_id >= 0)
            json_object_set_new(root, "bos_token_id", json_integer(c->bos_id));
        for (uint32_t i = 0; i < c->eos_count; i++)
            json_array_append_new(eos, json_integer(c->eos_ids[i]));
        if (c->eos_count > 0)
            json_object_set(root, "eos_token_id", c->eos_count == 1 ? json_array_get(eos, 0) : eos);
        rc = llama_json_save(path, root, x->error, x->error_bytes);
    }
    json_decref(eos);
    json_decref(root);
    free(path);
    return rc;
}

static int write_small(struct llama_writing *x)
{
    char *path = llama_path(llama_output_dir(x->output), "config.json");
    const struct llama_writer *w = &x->w;
    int rc = !path                 ? fail_errno(x, "write", x->w.dir, -ENOMEM)
             : !w->config->as_read ? llama_config_save(path, w->config, w->dtype, x->error, x->error_bytes)
             : w->copy_from_dir
                 ? llama_config_copy(w->copy_from_dir, path, w->config, w->dtype, x->error, x->error_bytes)
                 : fail_errno(x, "copy config.json for", x->w.dir, -ENOENT);

    free(path);
    for (size_t i = 0; rc == 0 && x->w.copy_from_dir && i < sizeof copied / sizeof copied[0]; i++)
        rc = copy_file(x, copied[i]);
    if (rc == 0)
        rc = write_generation(x);
    return rc;
}

static int add_files(struct llama_writing *x)
{
    int rc =
        x->w.add_files ? x->w.add_files(x->w.arg, llama_output_dir(x->output), x->error, x->error_bytes) : 0;

    if (rc != 0 && x->error_bytes && x->error[0] == '\0')
        fail_errno(x, "write files of", x->w.dir, rc);
    return rc;
}

/* ---- all of it --------------------------------------------------------- */

int llama_writer_open(const struct llama_writer *w, struct llama_writing **out, char *error,
                      size_t error_bytes)
{
    struct llama_writing *x = calloc(1, sizeof *x);
    int rc;

    *out = NULL;
    if (error && error_bytes)
        error[0] = '\0';
    if (!x)
        return llama_fail(-ENOMEM, error, error_bytes, "write %s: %s", w->dir, ofl_strerror(-ENOMEM));
    *x = (struct llama_writing){.w = *w, .error = error, .error_bytes = error ? error_bytes : 0};
    if (w->dtype != OFL_F32 && w->dtype != OFL_BF16 && w->dtype != OFL_F16)
        rc = llama_fail(-EINVAL, error, error_bytes, "write %s: dtype is not f32, bf16 or f16", w->dir);
    else
        rc = llama_config_check(w->config, w->dir, error, error_bytes);
    if (rc == 0)
        rc = llama_output_open(w->dir, w->replace, &x->output, error, error_bytes);
    if (rc == 0)
        rc = write_small(x);
    if (rc == 0)
        rc = add_files(x);
    if (rc == 0)
        rc = open_weights(x);
    if (rc == 0)
        *out = x;
    else
        llama_writer_close(x, error, error_bytes);
    return rc;
}

int llama_writer_finish(struct llama_writing *x, char *error, size_t error_bytes)
{
    int rc;

    x->error = error;
    x->error_bytes = error ? error_bytes : 0;
    if (x->error_bytes)
        error[0] = '\0';
    rc = write_weights(x);
    return rc == 0 ? llama_output_publish(x->output, error, error_bytes) : rc;
}

void llama_writer_close(struct llama_writing *x, char *error, size_t error_bytes)
{
    if (!x)
        return;
    ofl_writer_destroy(x->weights);
    llama_output_close(x->output, error, error_bytes);
    free(x->path);
    free(x->buf);
    free(x);
}

int llama_checkpoint_write(const struct llama_writer *w, char *error, size_t error_bytes)
{
    struct llama_writing *x;
    int rc = llama_writer_open(w, &x, error, error_bytes);

    if (rc == 0)
        rc = llama_writer_finish(x, error, error_bytes);
    llama_writer_close(x, error, error_bytes);
    return rc;
}
