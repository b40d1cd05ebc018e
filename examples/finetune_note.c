/*
 * The note of a commit: what a run has done, and what identifies it. A line of JSON, and behind it the arrays that the
 * line names, as little-endian numbers. The store seals it.
 *
 * Identity goes by what decides the numbers, not by names: files may lie elsewhere, and budgets, drives and threads may
 * be others.
 */
#include "examples/finetune.h"

#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "examples/model/files.h"

#define FORMAT       "ofl-finetune"
#define VERSION      1
#define SAMPLES      64
#define SAMPLE_BYTES (64u << 10)

typedef unsigned long long ull;

static int no_memory(void)
{
    return common_fail(EXIT_FULL, "make the note of a commit: out of memory");
}

/* ---- what was done ------------------------------------------------------------ */

int past_begin(struct past *p)
{
    *p = (struct past){.loss = json_array(),
                       .grad_norm = json_array(),
                       .step_s = json_array(),
                       .evals = json_array(),
                       .resumed = json_array(),
                       .changes = json_array()};
    return p->loss && p->grad_norm && p->step_s && p->evals && p->resumed && p->changes ? 0 : no_memory();
}

void past_free(struct past *p)
{
    json_decref(p->loss);
    json_decref(p->grad_norm);
    json_decref(p->step_s);
    json_decref(p->evals);
    json_decref(p->resumed);
    json_decref(p->changes);
    *p = (struct past){0};
}

/* ---- identity ----------------------------------------------------------------- */

static json_t *hex(XXH64_hash_t hash)
{
    char text[17];

    snprintf(text, sizeof text, "%016llx", (ull)hash);
    return json_string(text);
}

/* Size and samples of a file: a model that was trained further differs nearly everywhere. */
static int hash_file(XXH3_state_t *x, const char *path, void *piece)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    int status = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        status = common_fail(EXIT_INPUT, "read %s: %m", path);
    } else {
        uint64_t size = (uint64_t)st.st_size, last = size > SAMPLE_BYTES ? size - SAMPLE_BYTES : 0;

        XXH3_64bits_update(x, &size, sizeof size);
        for (unsigned i = 0; i < SAMPLES && status == 0; i++) {
            ssize_t n = pread(fd, piece, SAMPLE_BYTES, (off_t)((double)last * i / (SAMPLES - 1)));

            if (n < 0)
                status = common_fail(EXIT_RUNTIME, "read %s: %m", path);
            else
                XXH3_64bits_update(x, piece, (size_t)n);
        }
    }
    if (fd >= 0)
        close(fd);
    return status;
}

/* Of frozen weights: of a GGUF file, or the files of a directory. NULL after a complaint. */
static json_t *hash_weights(const char *model)
{
    XXH3_state_t *x = XXH3_createState();
    void *piece = malloc(SAMPLE_BYTES);
    char pattern[4096];
    glob_t files = {0};
    struct stat st;
    json_t *out = NULL;
    int status = 0;

    snprintf(pattern, sizeof pattern, "%s/*.safetensors", model);
    if (!x || !piece || XXH3_64bits_reset(x) != XXH_OK) {
        no_memory();
    } else if (stat(model, &st) == 0 && S_ISREG(st.st_mode)) {
        out = hash_file(x, model, piece) ? NULL : hex(XXH3_64bits_digest(x));
    } else if (glob(pattern, 0, NULL, &files) == 0) {
        for (size_t i = 0; i < files.gl_pathc && status == 0; i++)
            status = hash_file(x, files.gl_pathv[i], piece);
        out = status ? NULL : hex(XXH3_64bits_digest(x));
        globfree(&files);
    } else {
        common_fail(EXIT_INPUT, "read %s: no weights there", model);
    }
    XXH3_freeState(x);
    free(piece);
    return out;
}

/* Of the configuration, whatever the order of its keys. A GGUF file's is among its weights. */
static json_t *hash_config(const char *model)
{
    char *path = llama_path(model, "config.json"), *text = NULL, error[COMMON_ERROR_BYTES];
    json_t *object = NULL, *out = NULL;
    struct stat st;

    if (stat(model, &st) == 0 && S_ISREG(st.st_mode))
        out = json_null();
    else if (!path)
        no_memory();
    else if (llama_json_load_loose(path, 64 << 20, &object, error, sizeof error) < 0)
        common_fail(EXIT_INPUT, "%s", error);
    else if ((text = json_dumps(object, JSON_SORT_KEYS | JSON_COMPACT)))
        out = hex(XXH3_64bits(text, strlen(text)));
    json_decref(object);
    free(text);
    free(path);
    return out;
}

static json_t *identify_model(const struct options *o, const struct lora *lora)
{
    const struct llama_lora *l = &lora->config;
    json_t *fixed = json_object(), *adapters = json_null();
    int err = 0;

    if (l->rank)
        adapters =
            json_pack("{s:i, s:f, s:f, s:b, s:b, s:i}", "rank", (int)l->rank, "alpha", l->alpha, "dropout",
                      l->dropout, "rslora", l->rank_stabilized, "dora", l->dora, "targets", (int)l->targets);
    if (o->preset)
        err |= json_object_set_new(fixed, "--preset", json_string(o->preset));
    else
        err |= json_object_set_new(fixed, "config.json of --model", hash_config(o->model));
    if (l->rank)
        err |= json_object_set_new(fixed, "weights of --model", hash_weights(o->model));
    err |= json_object_set_new(fixed, "adapters", adapters);
    err |= json_object_set_new(fixed, "--dtype", json_string(ofl_dtype_name(o->dtype)));
    err |= json_object_set_new(fixed, "--optimizer", json_string(common_method_name(o->method)));
    err |= json_object_set_new(fixed, "--seq", json_integer((json_int_t)o->seq));
    err |= json_object_set_new(fixed, "--batch", json_integer((json_int_t)o->batch));
    err |= json_object_set_new(fixed, "--accum", json_integer((json_int_t)o->accum));
    err |= json_object_set_new(fixed, "--seed", json_integer((json_int_t)o->seed));
    err |= json_object_set_new(fixed, "--shuffle", json_boolean(o->shuffle));
    if (err == 0)
        return fixed;
    json_decref(fixed);
    return NULL;
}

/* What --adjust may change. */
static json_t *identify_training(const struct options *o)
{
    return json_pack("{s:f, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:b, s:f}", "--lr", o->lr, "--schedule",
                     schedule_name(o), "--warmup", (json_int_t)o->warmup, "--decay-steps",
                     (json_int_t)o->decay, "--lr-end", o->lr_end, "--beta1", o->beta1, "--beta2", o->beta2,
                     "--eps", o->eps, "--weight-decay", o->weight_decay, "--decay-all", o->decay_all,
                     "--clip", o->clip);
}

/* An absolute path, for those who come later; what is no UTF-8 can't be said in JSON. */
static json_t *path_json(const char *path)
{
    char *whole = path ? realpath(path, NULL) : NULL;
    json_t *text = whole ? json_string(whole) : NULL;

    free(whole);
    return text ? text : json_null();
}

json_t *note_identity(const struct options *o, const struct lora *lora)
{
    json_t *fixed = identify_model(o, lora), *out = NULL;

    if (fixed)
        out = json_pack("{s:o, s:o, s:{s:s, s:i}, s:{s:o, s:o}}", "fixed", fixed, "training",
                        identify_training(o), "machine", "device", o->budget.chosen.gpu ? "cuda" : "host",
                        "threads", common_blas_count(), "source", "model", path_json(o->model), "preset",
                        o->preset ? json_string(o->preset) : json_null());
    if (!out && fixed)
        no_memory();
    return out;
}

int note_add_data(json_t *identity, const struct data *d)
{
    XXH3_state_t *x = XXH3_createState();
    uint64_t each = d->narrow ? sizeof(uint16_t) : sizeof(uint32_t);
    json_t *data;

    if (!x || XXH3_64bits_reset(x) != XXH_OK)
        return XXH3_freeState(x), no_memory();
    XXH3_64bits_update(x, d->ids, d->tokens_spool.count * each);
    if (d->begins)
        XXH3_64bits_update(x, d->begins, d->begins_spool.count * sizeof *d->begins);
    data = json_pack("{s:I, s:I, s:o}", "tokens", (json_int_t)d->tokens_spool.count, "rows",
                     (json_int_t)d->rows, "hash", hex(XXH3_64bits_digest(x)));
    XXH3_freeState(x);
    return json_object_set_new(identity, "data", data) < 0 ? no_memory() : 0;
}

/* ---- writing ------------------------------------------------------------------ */

static void add_numbers(char **to, const json_t *array)
{
    size_t index;
    json_t *value;

    json_array_foreach(array, index, value)
    {
        double number = json_number_value(value);

        memcpy(*to, &number, sizeof number);
        *to += sizeof number;
    }
}

int note_write(const struct options *o, const json_t *identity, const struct past *p, uint64_t rows,
               void **out, uint64_t *bytes)
{
    json_int_t steps = (json_int_t)p->step;
    json_t *head =
        json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:O, s:O, s:O, s:[{s:s, s:s, s:I}, {s:s, "
                  "s:s, s:I}, {s:s, "
                  "s:s, s:I}]}",
                  "format", FORMAT, "version", VERSION, "step", steps, "optimizer_step", steps, "steps",
                  (json_int_t)o->steps, "tokens", (json_int_t)p->tokens, "learned_tokens",
                  (json_int_t)p->learned, "next_row", (json_int_t)(p->step * o->accum * o->batch % rows),
                  "run", identity, "eval", p->evals, "resumed", p->resumed, "changes", p->changes, "arrays",
                  "name", "loss", "dtype", "f64", "count", steps, "name", "grad_norm", "dtype", "f64",
                  "count", steps, "name", "step_s", "dtype", "f64", "count", steps);
    char *text = head ? json_dumps(head, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL, *to;
    uint64_t length = text ? strlen(text) : 0, numbers = 3 * p->step * sizeof(double);

    json_decref(head);
    *bytes = length + 1 + numbers;
    *out = to = text ? malloc(*bytes) : NULL;
    if (to) {
        memcpy(to, text, length);
        to[length] = '\n';
        to += length + 1;
        add_numbers(&to, p->loss);
        add_numbers(&to, p->grad_norm);
        add_numbers(&to, p->step_s);
    }
    free(text);
    return *out ? 0 : no_memory();
}

/* ---- reading ------------------------------------------------------------------ */

/* Whole as the store has it: what does not fit was written by another program, or a newer one. */
static int refuse(const char *dir, const char *why)
{
    return common_fail(EXIT_INPUT, "--store %s: what is committed there can't go on here: %s", dir, why);
}

static bool take_numbers(json_t *array, const char **from, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++, *from += sizeof(double)) {
        double number;

        memcpy(&number, *from, sizeof number);
        if (json_array_append_new(array, json_real(number)) < 0)
            return false;
    }
    return true;
}

static bool take_array(const json_t *head, const char *name, json_t *to)
{
    const json_t *from = json_object_get(head, name);

    return json_is_array(from) && json_array_extend(to, (json_t *)(uintptr_t)from) == 0;
}

static int read_head(const char *dir, const json_t *head, struct note *n, uint64_t numbers)
{
    json_int_t step = -1, steps = 0, tokens = 0, learned = 0, row = 0, version = 0;
    const char *format = "";
    json_t *run = NULL;

    (void)json_unpack((json_t *)(uintptr_t)head, "{s?s, s?I, s?I, s?I, s?I, s?I, s?I, s?O}", "format",
                      &format, "version", &version, "step", &step, "steps", &steps, "tokens", &tokens,
                      "learned_tokens", &learned, "next_row", &row, "run", &run);
    n->identity = run;
    if (strcmp(format, FORMAT) != 0)
        return refuse(dir, "it is no run of ofl-finetune");
    if (version != VERSION)
        return refuse(dir, "its note is of another version of ofl-finetune");
    if (step < 1 || (uint64_t)step > NOTE_STEPS_MAX || steps < step || tokens < 0 || learned < 0 || row < 0 ||
        !run || numbers != 3 * (uint64_t)step * sizeof(double))
        return refuse(dir, "its note does not fit together");
    n->steps = (uint64_t)steps;
    n->next_row = (uint64_t)row;
    n->past.step = (uint64_t)step;
    n->past.tokens = (uint64_t)tokens;
    n->past.learned = (uint64_t)learned;
    return 0;
}

int note_read(const char *dir, const void *bytes, uint64_t count, struct note *n)
{
    const char *text = bytes, *end = count ? memchr(bytes, '\n', count) : NULL, *from = end ? end + 1 : text;
    json_t *head = end ? json_loadb(text, (size_t)(end - text), 0, NULL) : NULL;
    struct past *p = &n->past;
    int status;

    *n = (struct note){0};
    status = past_begin(p);
    if (status == 0)
        status = head ? read_head(dir, head, n, count - (uint64_t)(from - text))
                      : refuse(dir, "it has no note of a run of ofl-finetune");
    if (status == 0 &&
        (!take_numbers(p->loss, &from, p->step) || !take_numbers(p->grad_norm, &from, p->step) ||
         !take_numbers(p->step_s, &from, p->step) || !take_array(head, "eval", p->evals) ||
         !take_array(head, "resumed", p->resumed) || !take_array(head, "changes", p->changes)))
        status = refuse(dir, "its note does not fit together");
    json_decref(head);
    if (status)
        note_free(n);
    return status;
}

void note_free(struct note *n)
{
    json_decref(n->identity);
    past_free(&n->past);
    *n = (struct note){0};
}

/* ---- comparing ---------------------------------------------------------------- */

/* For sentences, and short. */
static void say(const json_t *value, char out[160])
{
    char *text = NULL;

    if (json_is_real(value))
        snprintf(out, 160, "%.9g", json_real_value(value));
    else if (value && (text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT)))
        snprintf(out, 160, "%.150s", text);
    else
        snprintf(out, 160, "none");
    free(text);
}

static int refuse_change(const struct options *o, const char *key, const json_t *was, const json_t *now,
                         const char *way)
{
    char before[160], after[160];

    say(was, before);
    say(now, after);
    return common_fail(EXIT_INPUT, "--resume: %s is %s, and %s in the run in %s%s", key, after, before,
                       o->budget.store.dir, way);
}

static int compare_fixed(const struct options *o, const json_t *was, const json_t *now)
{
    const char *key;
    json_t *value;

    json_object_foreach(
        (json_t *)(uintptr_t)was, key,
        value) if (!json_equal(value,
                               json_object_get(
                                   now,
                                   key))) return refuse_change(o, key, value, json_object_get(now, key),
                                                               ": a run goes on with what it was begun with");
    json_object_foreach(
        (json_t *)(uintptr_t)now, key,
        value) if (!json_object_get(was,
                                    key)) return refuse_change(o, key, NULL, value,
                                                               ": a run goes on with what it was begun with");
    return 0;
}

static int compare_training(const struct options *o, const struct note *was, const json_t *now,
                            json_t *changes)
{
    const json_t *before = json_object_get(was->identity, "training");
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)now, key, value)
    {
        const json_t *old = json_object_get(before, key);
        char from[160], to[160];

        if (json_equal((json_t *)(uintptr_t)old, value))
            continue;
        if (!o->adjust)
            return refuse_change(o, key, old, value,
                                 ": its steps would be others; --adjust takes it from here on all the same");
        say(old, from);
        say(value, to);
        common_line("%s is %s from step %llu on, it was %s", key, to, (ull)was->past.step + 1, from);
        if (json_array_append_new(changes,
                                  json_pack("{s:I, s:s, s:O?, s:O}", "after_step", (json_int_t)was->past.step,
                                            "option", key, "from", old, "to", value)) < 0)
            return no_memory();
    }
    return 0;
}

/* Bits depend on the threads of products: as many as before, whatever this machine has. */
static void settle_machine(const struct note *was, json_t *now)
{
    const char *device = "",
               *here = json_string_value(json_object_get(json_object_get(now, "machine"), "device"));
    int threads = 0;

    (void)json_unpack(json_object_get(was->identity, "machine"), "{s?s, s?i}", "device", &device, "threads",
                      &threads);
    if (strcmp(device, here) != 0) {
        common_line(
            "warning: the run was on the device %s, this is %s: losses go on, but not to the same bits",
            device, here);
        return;
    }
    if (strcmp(device, "host") == 0 && !common_blas_use(threads))
        common_line(
            "warning: the run had %d threads of OpenBLAS, and has %d here: losses go on, but not to the same "
            "bits; OPENBLAS_NUM_THREADS=%d gives them",
            threads, common_blas_count(), threads);
    json_object_set_new(json_object_get(now, "machine"), "threads", json_integer(common_blas_count()));
}

int note_compare(const struct options *o, const struct note *was, json_t *now, json_t *changes)
{
    int status = compare_fixed(o, json_object_get(was->identity, "fixed"), json_object_get(now, "fixed"));

    if (status == 0)
        status = compare_training(o, was, json_object_get(now, "training"), changes);
    if (status)
        return status;
    if (o->steps < was->steps)
        return common_fail(
            EXIT_INPUT,
            "--resume: --steps %llu, and %llu in the run in %s, which is at step %llu: more may be "
            "given, not fewer",
            (ull)o->steps, (ull)was->steps, o->budget.store.dir, (ull)was->past.step);
    if (o->steps > was->steps && o->schedule != SCHEDULE_CONSTANT)
        common_line("--steps %llu, it was %llu: rates follow the longer schedule from step %llu on",
                    (ull)o->steps, (ull)was->steps, (ull)was->past.step + 1);
    settle_machine(was, now);
    return 0;
}

int note_compare_data(const struct options *o, const struct note *was, const json_t *now)
{
    json_int_t tokens[2] = {0, 0}, rows[2] = {0, 0};
    const json_t *before = json_object_get(was->identity, "data"), *after = json_object_get(now, "data");

    if (!json_equal((json_t *)(uintptr_t)before, (json_t *)(uintptr_t)after)) {
        (void)json_unpack((json_t *)(uintptr_t)before, "{s?I, s?I}", "tokens", &tokens[0], "rows", &rows[0]);
        (void)json_unpack((json_t *)(uintptr_t)after, "{s?I, s?I}", "tokens", &tokens[1], "rows", &rows[1]);
        return common_fail(
            EXIT_INPUT,
            "--resume: --data gives %lld tokens in %lld rows, and the run in %s was begun on %lld in "
            "%lld%s: give the same files, in the same order",
            (long long)tokens[1], (long long)rows[1], o->budget.store.dir, (long long)tokens[0],
            (long long)rows[0], tokens[0] == tokens[1] ? ", of which some are others" : "");
    }
    (void)json_unpack((json_t *)(uintptr_t)after, "{s?I}", "rows", &rows[1]);
    if (was->next_row != was->past.step * o->accum * o->batch % (uint64_t)rows[1])
        return refuse(o->budget.store.dir, "its note does not fit together");
    return 0;
}
