/* The model that ofl-finetune trains: first values, hash, saving. Moves bytes in pieces, so that
 * the process stays near its budgets. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "examples/model/checkpoint.h"
#include "examples/model/kernels.h"
#include "examples/model/writer.h"

#define PIECE_BYTES (1u << 20)
#define PIECE_ELEMS (PIECE_BYTES / sizeof(float))

/* ---- first values ---------------------------------------------------------- */

struct filling {
    struct state *state;
    struct llama_checkpoint *checkpoint;
    float *values;        /* PIECE_ELEMS */
    void *raw;            /* PIECE_BYTES */
    uint64_t done, total; /* parameters */
};

static int cancelled(void)
{
    common_progress_clear();
    return common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
}

static int filled(struct filling *f, uint64_t elems)
{
    f->done += elems;
    common_progress_bytes("loading", f->done * sizeof(float), f->total * sizeof(float));
    return common_stopping() ? cancelled() : 0;
}

static int fill_piece(struct filling *f, uint32_t index, struct ofl_tensor *source, enum ofl_dtype dtype,
                      uint64_t first, uint64_t elems)
{
    uint64_t each = ofl_dtype_bytes(dtype);
    char error[COMMON_ERROR_BYTES];
    int err = ofl_tensor_read(source, first * each, f->raw, elems * each);

    if (err < 0)
        return common_fail_ofl(common_status_late(err), "load the model");
    llama_widen(f->values, f->raw, dtype, elems);
    err = llama_trainer_set(f->state->trainer, index, first, elems, f->values, error, sizeof error);
    if (err < 0)
        return common_fail(common_status_late(err), "load the model: %s", error);
    return filled(f, elems);
}

static int fill_random(struct filling *f, uint32_t index, uint64_t elems)
{
    char error[COMMON_ERROR_BYTES];

    if (llama_trainer_random(f->state->trainer, index, f->state->options->seed,
                             f->state->config->initializer_range, error, sizeof error) < 0)
        return common_fail(EXIT_RUNTIME, "make the model: %s", error);
    return filled(f, elems);
}

static int fill_tensor(struct filling *f, uint32_t index)
{
    struct llama_tensor_desc d;
    struct ofl_tensor *source = NULL;
    struct ofl_source *file;
    const char *name;
    enum ofl_dtype dtype = OFL_F32;
    int status = 0;

    llama_tensor_at(&f->state->config->shape, index, &d);
    if (!f->checkpoint)
        return fill_random(f, index, d.elems);
    if (llama_checkpoint_find(f->checkpoint, index, &file, &name, &dtype) < 0 ||
        llama_checkpoint_bind(f->checkpoint, index, 0, d.elems, &source) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "load the model");
    for (uint64_t first = 0; first < d.elems && status == 0; first += PIECE_ELEMS)
        status = fill_piece(f, index, source, dtype, first,
                            d.elems - first < PIECE_ELEMS ? d.elems - first : PIECE_ELEMS);
    if (ofl_tensor_destroy(source) < 0 && status == 0)
        status = common_fail_ofl(EXIT_RUNTIME, "load the model");
    return status;
}

int state_fill(struct state *s)
{
    struct filling f = {.state = s, .total = llama_param_count(&s->config->shape)};
    uint32_t count = llama_tensor_count(&s->config->shape);
    char error[COMMON_ERROR_BYTES];
    int status = 0, err;

    if (s->trainer_config->lora.rank)
        return lora_fill(s);
    f.values = malloc(PIECE_ELEMS * sizeof *f.values);
    f.raw = malloc(PIECE_BYTES);
    if (!f.values || !f.raw)
        status = common_fail(EXIT_FULL, "load the model: out of memory");
    if (status == 0 && s->options->model) {
        err = llama_checkpoint_open(s->ctx, s->options->model, &s->config->shape, &f.checkpoint, error,
                                    sizeof error);
        if (err < 0)
            status = common_fail(common_status(err), "%s", error);
    }
    if (status == 0 && f.checkpoint && llama_checkpoint_unused(f.checkpoint))
        common_line("%s: tensor %s is not used: the model has none of that name", s->options->model,
                    llama_checkpoint_unused(f.checkpoint));
    for (uint32_t i = 0; i < count && status == 0; i++)
        status = fill_tensor(&f, i);
    /* Nothing is read of it from here on: what the training starts from is one model. */
    if (status == 0 && f.checkpoint && (err = llama_checkpoint_check(f.checkpoint, error, sizeof error)) < 0)
        status = common_fail(common_status_late(err), "load the model: %s", error);
    if ((err = llama_checkpoint_close(f.checkpoint)) < 0 && status == 0)
        status = common_fail_ofl(common_status_late(err), "load the model");
    free(f.values);
    free(f.raw);
    return status;
}

/* ---- hash ------------------------------------------------------------------ */

struct named {
    struct ofl_tensor *tensor;
    struct ofl_tensor_info info;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->info.name, ((const struct named *)b)->info.name);
}

static int list_state(struct state *s, struct named **out, uint32_t *count, uint64_t *bytes)
{
    uint32_t n = 0;
    struct named *list;

    while (llama_trainer_state(s->trainer, n))
        n++;
    list = calloc(n ? n : 1, sizeof *list);
    if (!list)
        return common_fail(EXIT_FULL, "hash the state: out of memory");
    *bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        list[i].tensor = llama_trainer_state(s->trainer, i);
        list[i].info.size = sizeof list[i].info;
        if (ofl_tensor_info_get(list[i].tensor, &list[i].info) < 0) {
            free(list);
            return common_fail_ofl(EXIT_RUNTIME, "hash the state");
        }
        *bytes += list[i].info.bytes;
    }
    qsort(list, n, sizeof *list, by_name);
    *out = list;
    *count = n;
    return 0;
}

/* The last step's loss came before its update: only the state itself shows what that did. */
bool state_all_finite(enum ofl_dtype dtype, const void *data, uint64_t bytes)
{
    const uint16_t *half = data;
    const uint32_t *single = data;
    bool finite = true;

    if (dtype == OFL_BF16)
        for (uint64_t i = 0; i < bytes / 2; i++)
            finite &= (half[i] & 0x7f80) != 0x7f80;
    if (dtype == OFL_F32)
        for (uint64_t i = 0; i < bytes / 4; i++)
            finite &= (single[i] & 0x7f800000) != 0x7f800000;
    return finite;
}

static int hash_tensor(XXH3_state_t *x, const struct named *n, void *piece, uint64_t *done, uint64_t total)
{
    XXH3_128bits_update(x, n->info.name, strlen(n->info.name));
    for (uint64_t at = 0; at < n->info.bytes; at += PIECE_BYTES) {
        uint64_t bytes = n->info.bytes - at < PIECE_BYTES ? n->info.bytes - at : PIECE_BYTES;

        if (ofl_tensor_read(n->tensor, at, piece, bytes) < 0)
            return common_fail_ofl(EXIT_RUNTIME, "hash the state");
        if (!state_all_finite(n->info.dtype, piece, bytes))
            return common_fail(EXIT_RUNTIME, STATE_NOT_FINITE, n->info.name);
        XXH3_128bits_update(x, piece, bytes);
        *done += bytes;
        common_progress_bytes("hashing", *done, total);
        if (common_stopping())
            return cancelled();
    }
    return 0;
}

/* Weights only: a moment that is not finite makes its weight so, or has no effect. */
static int look_at(struct state *s, struct ofl_tensor *tensor, void *piece)
{
    struct ofl_tensor_info info = {.size = sizeof info};

    if (ofl_tensor_info_get(tensor, &info) < 0)
        return common_fail_ofl(EXIT_RUNTIME, "look at the weights");
    for (uint64_t at = 0; at < info.bytes && info.kind == OFL_KIND_WEIGHT; at += PIECE_BYTES) {
        uint64_t bytes = info.bytes - at < PIECE_BYTES ? info.bytes - at : PIECE_BYTES;

        if (ofl_tensor_read(tensor, at, piece, bytes) < 0)
            return common_fail_ofl(EXIT_RUNTIME, "look at the weights");
        if (!state_all_finite(info.dtype, piece, bytes))
            return s->keep ? common_fail(
                                 EXIT_RUNTIME,
                                 "%s holds a value that is not a finite number: stopped, and not committed; "
                                 "go on with --resume --adjust and a smaller --lr, or --clip",
                                 info.name)
                           : common_fail(EXIT_RUNTIME, STATE_NOT_FINITE, info.name);
    }
    return 0;
}

int state_finite(struct state *s)
{
    void *piece = malloc(PIECE_BYTES);
    struct ofl_tensor *tensor;
    int status = piece ? 0 : common_fail(EXIT_FULL, "look at the weights: out of memory");

    for (uint32_t i = 0; status == 0 && (tensor = llama_trainer_state(s->trainer, i)); i++)
        status = look_at(s, tensor, piece);
    free(piece);
    return status;
}

int state_hash(struct state *s, char hex[33])
{
    XXH3_state_t *x = XXH3_createState();
    void *piece = malloc(PIECE_BYTES);
    struct named *list = NULL;
    uint64_t total = 0, done = 0;
    uint32_t count = 0;
    int status = x && piece ? list_state(s, &list, &count, &total)
                            : common_fail(EXIT_FULL, "hash the state: out of memory");

    if (x)
        XXH3_128bits_reset(x);
    for (uint32_t i = 0; i < count && status == 0; i++)
        status = hash_tensor(x, &list[i], piece, &done, total);
    if (status == 0) {
        XXH128_hash_t h = XXH3_128bits_digest(x);

        snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    }
    XXH3_freeState(x);
    free(piece);
    free(list);
    return status;
}

/* ---- saving ---------------------------------------------------------------- */

static int save_read(void *arg, uint32_t tensor, uint64_t first, uint64_t elems, void *buf, char *error,
                     size_t error_bytes)
{
    struct state *s = arg;
    struct llama_tensor_desc d;
    int err = llama_trainer_get(s->trainer, tensor, first, elems, buf, error, error_bytes);

    if (err < 0 || state_all_finite(s->options->dtype, buf, elems * ofl_dtype_bytes(s->options->dtype)))
        return err;
    llama_tensor_at(&s->config->shape, tensor, &d);
    snprintf(error, error_bytes, STATE_NOT_FINITE, d.name);
    return -EDOM;
}

static int save_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    common_progress_bytes("saving", done, total);
    return common_stopping() ? -ECANCELED : 0;
}

static int write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wxe");
    int err = 0;

    if (!f)
        return -errno;
    errno = EIO;
    if (fputs(text, f) == EOF)
        err = -errno;
    if (fclose(f) == EOF && err == 0)
        err = -errno;
    return err;
}

/* Of bytes. */
int state_save_tokenizer(void *arg, const char *dir, char *error, size_t error_bytes)
{
    static const char settings[] = "{\n"
                                   "  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
                                   "  \"bos_token\": \"<|begin|>\",\n"
                                   "  \"eos_token\": \"<|end|>\",\n"
                                   "  \"clean_up_tokenization_spaces\": false\n"
                                   "}\n";
    char path[4096];
    int err;

    (void)arg;
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", dir) >= (int)sizeof path)
        return -ENAMETOOLONG;
    err = write_text(path, settings);
    if (err == 0) {
        snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        err = tokenizer_save_bytes(path);
    }
    if (err < 0)
        snprintf(error, error_bytes, "write %s: %s", path, strerror(-err));
    return err;
}

int state_out_open(struct state *s)
{
    const struct options *o = s->options;
    struct llama_writer w = {.dir = o->out,
                             .replace = o->overwrite,
                             .config = s->config,
                             .dtype = o->dtype,
                             .copy_from_dir = o->model,
                             .read = save_read,
                             .progress = save_progress,
                             .add_files = o->model ? NULL : state_save_tokenizer,
                             .arg = s};
    char error[COMMON_ERROR_BYTES] = "";
    int err;

    if (!o->out)
        return 0;
    if (s->trainer_config->lora.rank)
        return lora_out_open(s);
    err = llama_writer_open(&w, &s->model_out, error, sizeof error);
    return err < 0 ? common_fail(common_status(err), "%s", error) : 0;
}

int state_save(struct state *s)
{
    char error[COMMON_ERROR_BYTES] = "";
    int err;

    if (s->trainer_config->lora.rank)
        return lora_save(s);
    err = llama_writer_finish(s->model_out, error, sizeof error);
    if (err == -ECANCELED)
        return cancelled();
    return err < 0 ? common_fail(common_status_late(err), "%s", error) : 0;
}

void state_out_close(struct state *s)
{
    char error[COMMON_ERROR_BYTES] = "";

    llama_writer_close(s->model_out, error, sizeof error);
    llama_output_close(s->adapter_out, error, sizeof error);
    s->model_out = NULL;
    s->adapter_out = NULL;
    if (*error)
        common_line("%s", error);
}
