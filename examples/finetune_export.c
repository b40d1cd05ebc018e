/* Writing a committed store out as a Hugging Face directory, without training: a small context reads the weights one
 * after another. See finetune.h. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/lora_file.h"
#include "examples/model/writer.h"

struct export
{
    struct options options; /* of the run, as far as they matter here */
    struct ofl_ctx *ctx;
    struct llama_config config;
    struct llama_lora lora;
    struct ofl_tensor *tensor; /* the one that is read */
    uint32_t index;
};

/* ---- tensors ------------------------------------------------------------------- */

/* A tensor of the commit, by its name. */
static int open_tensor(struct export *x, const char *name, enum ofl_dtype dtype, uint64_t elems, char *error,
                       size_t error_bytes)
{
    struct ofl_tensor_desc d = {.size = sizeof d,
                                .name = name,
                                .kind = OFL_KIND_WEIGHT,
                                .dtype = dtype,
                                .elems = elems,
                                .flags = OFL_TENSOR_KEPT};
    int err = ofl_tensor_create(x->ctx, &d, &x->tensor);

    if (err < 0)
        return llama_fail(err, error, error_bytes, "%s", ofl_error());
    if (ofl_tensor_resumed(x->tensor))
        return 0;
    return llama_fail(-OFL_EFORMAT, error, error_bytes, "%s: what is committed there has no tensor %s",
                      x->options.export_store, name);
}

static int read_tensor(struct export *x, uint64_t offset, void *buf, uint64_t bytes, enum ofl_dtype dtype,
                       const char *name, char *error, size_t error_bytes)
{
    int err = ofl_tensor_read(x->tensor, offset, buf, bytes);

    if (err < 0)
        return llama_fail(err, error, error_bytes, "%s", ofl_error());
    if (!state_all_finite(dtype, buf, bytes))
        return llama_fail(-EDOM, error, error_bytes, "%s: %s holds a value that is not a finite number",
                          x->options.export_store, name);
    return 0;
}

static int read_weight(void *arg, uint32_t index, uint64_t first, uint64_t elems, void *buf, char *error,
                       size_t error_bytes)
{
    struct export *x = arg;
    uint64_t each = ofl_dtype_bytes(x->options.dtype);
    struct llama_tensor_desc d;
    int err = 0;

    llama_tensor_at(&x->config.shape, index, &d);
    if (x->tensor && x->index != index) {
        ofl_tensor_destroy(x->tensor);
        x->tensor = NULL;
    }
    x->index = index;
    if (!x->tensor)
        err = open_tensor(x, d.name, x->options.dtype, d.elems, error, error_bytes);
    return err < 0 ? err
                   : read_tensor(x, first * each, buf, elems * each, x->options.dtype, d.name, error,
                                 error_bytes);
}

static int read_adapter(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values,
                        char *error, size_t error_bytes)
{
    struct export *x = arg;
    int err = open_tensor(x, t->name, OFL_F32, t->elems, error, error_bytes);

    (void)index;
    if (err == 0)
        err = read_tensor(x, 0, values, t->elems * sizeof *values, OFL_F32, t->name, error, error_bytes);
    ofl_tensor_destroy(x->tensor);
    x->tensor = NULL;
    return err < 0 ? err : common_stopping() ? -ECANCELED : 0;
}

/* ---- writing ------------------------------------------------------------------- */

static int progress(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    common_progress_bytes("writing", done, total);
    return common_stopping() ? -ECANCELED : 0;
}

static int write_model(struct export *x, char *error, size_t error_bytes)
{
    struct llama_writer w = {.dir = x->options.out,
                             .replace = x->options.overwrite,
                             .config = &x->config,
                             .dtype = x->options.dtype,
                             .copy_from_dir = x->options.model,
                             .read = read_weight,
                             .progress = progress,
                             .add_files = x->options.model ? NULL : state_save_tokenizer,
                             .arg = x};

    return llama_checkpoint_write(&w, error, error_bytes);
}

static int write_adapter(struct export *x, char *error, size_t error_bytes)
{
    struct llama_lora_writer w = {
        .base = x->options.model, .shape = &x->config.shape, .lora = &x->lora, .get = read_adapter, .arg = x};
    struct llama_output *out = NULL;
    int err = llama_output_open(x->options.out, x->options.overwrite, &out, error, error_bytes);

    if (err == 0)
        err = llama_lora_write(&w, out, error, error_bytes);
    llama_output_close(out, error, error_bytes);
    return err;
}

/* ---- the run's own options ------------------------------------------------------- */

/* From the note; --model and --preset go before, since files may have moved. */
static int take_options(struct export *x, const struct note *note)
{
    struct options *o = &x->options;
    const json_t *fixed = json_object_get(note->identity, "fixed"),
                 *source = json_object_get(note->identity, "source"), *l = json_object_get(fixed, "adapters");
    const char *dtype = json_string_value(json_object_get(fixed, "--dtype"));
    int rank = 0, rs = 0, dora = 0, targets = 0;
    json_int_t seq = 1;

    if (!o->model && !o->preset) {
        o->model = json_string_value(json_object_get(source, "model"));
        o->preset = json_string_value(json_object_get(source, "preset"));
    }
    if (!o->model && !o->preset)
        return common_fail(EXIT_INPUT,
                           "--export-store %s: give --model DIR, the model that the run began with",
                           o->export_store);
    o->dtype = dtype && strcmp(dtype, "bf16") == 0 ? OFL_BF16 : OFL_F32;
    if (json_is_object(l) && json_unpack((json_t *)(uintptr_t)l, "{s:i, s:F, s:F, s:b, s:b, s:i}", "rank",
                                         &rank, "alpha", &x->lora.alpha, "dropout", &x->lora.dropout,
                                         "rslora", &rs, "dora", &dora, "targets", &targets) == 0) {
        x->lora.rank = (uint32_t)rank;
        x->lora.rank_stabilized = rs;
        x->lora.dora = dora;
        x->lora.targets = (uint32_t)targets;
    }
    o->lora = x->lora.rank;
    (void)json_unpack((json_t *)(uintptr_t)fixed, "{s?I}", "--seq", &seq);
    o->seq = (uint64_t)seq;
    return 0;
}

static int write_out(struct export *x, const struct note *note)
{
    char error[COMMON_ERROR_BYTES] = "";
    int status = take_options(x, note), err;

    if (status == 0)
        status = config_load(&x->options, &x->config);
    if (status)
        return status;
    err = x->lora.rank ? write_adapter(x, error, sizeof error) : write_model(x, error, sizeof error);
    common_progress_clear();
    if (err == -ECANCELED)
        return common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
    if (err < 0)
        return common_fail(err == -EDOM ? EXIT_RUNTIME : common_status(err), "%s", error);
    common_line("wrote step %llu of %llu of the run in %s to %s", (unsigned long long)note->past.step,
                (unsigned long long)note->steps, x->options.export_store, x->options.out);
    return 0;
}

int export_run(const struct options *o)
{
    struct export x = {.options = *o};
    struct note note = {0};
    uint64_t generation;
    bool found;
    int status = keep_peek(o, o->export_store, &x.ctx, &note, &generation, &found);

    if (status == 0 && !found)
        status = common_fail(EXIT_INPUT, "--export-store %s: nothing is committed there", o->export_store);
    if (status == 0)
        status = write_out(&x, &note);
    if (x.ctx)
        status = common_close(x.ctx, status);
    note_free(&note);
    return status;
}
