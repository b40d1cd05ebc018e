/* The command line of ofl-finetune. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_MODEL = 0x100,
    KEY_PRESET,
    KEY_DATA,
    KEY_OUT,
    KEY_SEQ,
    KEY_BATCH,
    KEY_ACCUM,
    KEY_STEPS,
    KEY_LR,
    KEY_BETA1,
    KEY_BETA2,
    KEY_EPS,
    KEY_DECAY,
    KEY_CLIP,
    KEY_WARMUP,
    KEY_SEED,
    KEY_DTYPE,
    KEY_SHUFFLE
};

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Model and data:", 1},
    {"model", KEY_MODEL, "DIR", 0,
     "Hugging Face directory of a Llama: config.json, model.safetensors (or shards with an index), "
     "tokenizer.json",
     1},
    {"preset", KEY_PRESET, "NAME", 0, "Fresh model with a byte tokenizer; the names are listed below", 1},
    {"data", KEY_DATA, "FILE", 0, "Text to train on; more may follow, or the option be repeated", 1},
    {"seq", KEY_SEQ, "N", 0, "Tokens per sequence (default 128)", 1},
    {"batch", KEY_BATCH, "N", 0, "Sequences per micro-batch (default 1)", 1},
    {"accum", KEY_ACCUM, "N", 0, "Micro-batches per step (default 1)", 1},
    {"shuffle", KEY_SHUFFLE, NULL, 0,
     "Take slices of the text in an order drawn from --seed, not one after another", 1},
    {"out", KEY_OUT, "DIR", 0,
     "Write the result as a Hugging Face directory, which must not exist or be empty", 1},

    {NULL, 0, NULL, 0, "Training:", 3},
    {"steps", KEY_STEPS, "N", 0, "Optimizer steps (default 100)", 3},
    {"lr", KEY_LR, "X", 0, "Learning rate (default 1e-4)", 3},
    {"warmup", KEY_WARMUP, "N", 0, "Steps over which the rate rises linearly; constant after (default 0)", 3},
    {"beta1", KEY_BETA1, "X", 0, "AdamW (default 0.9)", 3},
    {"beta2", KEY_BETA2, "X", 0, "AdamW (default 0.999)", 3},
    {"eps", KEY_EPS, "X", 0, "AdamW (default 1e-8)", 3},
    {"weight-decay", KEY_DECAY, "X", 0,
     "AdamW; on all parameters, norms too, as torch.optim.AdamW does (default 0.01)", 3},
    {"clip", KEY_CLIP, "X", 0, "Exact global norm to clip gradients to; 0: off (default 0)", 3},
    {"dtype", KEY_DTYPE, "f32|bf16", 0,
     "Of weights on the device, and of --out; masters and moments are f32 (default f32)", 3},
    {"seed", KEY_SEED, "N", 0, "Of --preset's weights and of --shuffle (default 1)", 3},
    {0}};

static const char before[] = "Fine-tunes all parameters of a Llama inside hard memory budgets.";

static const char after[] =
    "Without --device-mem, --host-mem and --nvme everything is kept in device memory, if it fits (RAM: a "
    "third of it). "
    "With any of them, --device-mem is needed; --host-mem is 64M by default where --nvme is given. With "
    "--nvme the drive and host memory hold all tensors together; without, one of the two memories has to. "
    "Budgets that can't work are refused at once, with the smallest that can.\n"
    "\n"
    "Examples:\n"
    "  ofl-finetune --model story --data text.txt --steps 200 --lr 1e-3 --out tuned\n"
    "  ofl-finetune --preset 300m --data text.txt --seq 512 --accum 4 --dtype bf16 \\\n"
    "      --device-mem 512M --host-mem 256M --nvme /mnt/scratch:8G --report run.json\n"
    "\n"
    "Exit status: 0 done; 1 something failed on the way; 2 options, budgets or data that can't work, or a "
    "loss that is not a number; 130 ended by SIGINT or SIGTERM after the current step (the second one ends "
    "at once). After 2 and 130 neither --out nor --report is written; after 1, neither is half-written.";

static void parse_count(struct argp_state *state, const char *name, const char *arg, uint64_t least,
                        uint64_t most, uint64_t *out)
{
    if (common_parse_count(arg, least, most, out) < 0)
        argp_error(state, "--%s %s: not a whole number from %llu to %llu", name, arg,
                   (unsigned long long)least, (unsigned long long)most);
}

static void parse_number(struct argp_state *state, const char *name, const char *arg, double least,
                         double most, double *out)
{
    if (common_parse_number(arg, least, most, out) < 0)
        argp_error(state, "--%s %s: not a number from %g to %g", name, arg, least, most);
}

static error_t add_data(struct options *o, char *arg)
{
    char **more = realloc(o->data, (o->data_count + 1) * sizeof *more);

    if (!more)
        return ENOMEM;
    o->data = more;
    o->data[o->data_count++] = arg;
    return 0;
}

static void parse_dtype(struct argp_state *state, const char *arg, enum ofl_dtype *out)
{
    if (strcmp(arg, "f32") == 0)
        *out = OFL_F32;
    else if (strcmp(arg, "bf16") == 0)
        *out = OFL_BF16;
    else
        argp_error(state, "--dtype %s: f32 or bf16", arg);
}

static void parse_end(struct argp_state *state, const struct options *o)
{
    if (!o->model == !o->preset)
        argp_error(state, o->model ? "--model and --preset exclude each other"
                                   : "--model DIR or --preset NAME is needed");
    if (o->data_count == 0)
        argp_error(state, "--data FILE is needed");
}

/* Below 1 by enough that bias correction works. */
#define BETA_MOST 0.999999999

static error_t parse_training(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    switch (key) {
    case KEY_STEPS:
        parse_count(state, "steps", arg, 1, 1u << 30, &o->steps);
        return 0;
    case KEY_LR:
        parse_number(state, "lr", arg, 0, 1e6, &o->lr);
        return 0;
    case KEY_WARMUP:
        parse_count(state, "warmup", arg, 0, 1u << 30, &o->warmup);
        return 0;
    case KEY_BETA1:
        parse_number(state, "beta1", arg, 0, BETA_MOST, &o->beta1);
        return 0;
    case KEY_BETA2:
        parse_number(state, "beta2", arg, 0, BETA_MOST, &o->beta2);
        return 0;
    case KEY_EPS:
        parse_number(state, "eps", arg, 1e-30, 1, &o->eps); /* 0: 0/0 where nothing has a gradient */
        return 0;
    case KEY_DECAY:
        parse_number(state, "weight-decay", arg, 0, 1e6, &o->weight_decay);
        return 0;
    case KEY_CLIP:
        parse_number(state, "clip", arg, 0, 1e30, &o->clip);
        return 0;
    case KEY_SEED:
        parse_count(state, "seed", arg, 0, INT64_MAX, &o->seed);
        return 0;
    case KEY_DTYPE:
        parse_dtype(state, arg, &o->dtype);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->budget;
        return 0;
    case KEY_MODEL:
        o->model = arg;
        return 0;
    case KEY_PRESET:
        o->preset = arg;
        return 0;
    case KEY_OUT:
        o->out = arg;
        return 0;
    case KEY_DATA:
        return add_data(o, arg);
    case ARGP_KEY_ARG:
        if (o->data_count == 0)
            argp_error(state, "%s: files of text go behind --data", arg);
        return add_data(o, arg);
    case KEY_SEQ:
        parse_count(state, "seq", arg, 1, 1u << 20, &o->seq);
        return 0;
    case KEY_BATCH:
        parse_count(state, "batch", arg, 1, 1u << 20, &o->batch);
        return 0;
    case KEY_ACCUM:
        parse_count(state, "accum", arg, 1, 1u << 20, &o->accum);
        return 0;
    case KEY_SHUFFLE:
        o->shuffle = true;
        return 0;
    case ARGP_KEY_END:
        parse_end(state, o);
        return 0;
    default:
        return parse_training(key, arg, state);
    }
}

/* Adds the presets to what --help says at the end. */
static char *help_filter(int key, const char *text, void *input)
{
    char *help = NULL;
    size_t bytes;
    FILE *f;

    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || !text)
        return (char *)(uintptr_t)text;
    f = open_memstream(&help, &bytes);
    if (!f)
        return (char *)(uintptr_t)text;
    fputs("Presets:\n", f);
    for (size_t i = 0; llama_preset_at(i); i++)
        fprintf(f, "  %-6s %s\n", llama_preset_at(i)->name, llama_preset_at(i)->text);
    fprintf(f, "\n%s", text);
    return fclose(f) == 0 ? help : (char *)(uintptr_t)text;
}

static void print_version(FILE *f, struct argp_state *state)
{
    (void)state;
    fprintf(f, "ofl-finetune %s\n", ofl_version());
}

int options_parse(int argc, char **argv, struct options *o)
{
    static const struct argp_child children[] = {{&common_budget_argp, 0, NULL, 0}, {0}};
    static char doc[sizeof before + sizeof after + 1];
    const struct argp argp = {option_list, parse_option, "[FILE...]", doc, children, help_filter, NULL};

    *o = (struct options){.seq = 128,
                          .batch = 1,
                          .accum = 1,
                          .steps = 100,
                          .seed = 1,
                          .lr = 1e-4,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .eps = 1e-8,
                          .weight_decay = 0.01,
                          .dtype = OFL_F32};
    snprintf(doc, sizeof doc, "%s\v%s", before, after);
    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_INPUT;
    return argp_parse(&argp, argc, argv, 0, NULL, o) ? common_fail(EXIT_INPUT, "options: out of memory") : 0;
}

void options_free(struct options *o)
{
    free(o->data);
    common_budget_free(&o->budget);
}

static json_t *text_or_null(const char *text)
{
    /* Names of files need not be UTF-8, which JSON is. */
    json_t *value = text ? json_string(text) : NULL;

    return value ? value : json_null();
}

json_t *options_json(const struct options *o)
{
    json_t *files = json_array(), *nvme = json_array(), *j = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"seq", o->seq},     {"batch", o->batch},   {"accum", o->accum},
                  {"steps", o->steps}, {"warmup", o->warmup}, {"seed", o->seed}};
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"lr", o->lr},
                   {"beta1", o->beta1},
                   {"beta2", o->beta2},
                   {"eps", o->eps},
                   {"weight_decay", o->weight_decay},
                   {"clip", o->clip}};

    for (size_t i = 0; i < o->data_count; i++)
        json_array_append_new(files, text_or_null(o->data[i]));
    for (uint32_t i = 0; i < o->budget.nvme_count; i++)
        json_array_append_new(nvme, json_pack("{s:o, s:I}", "dir", text_or_null(o->budget.nvme[i].dir),
                                              "bytes", (json_int_t)o->budget.nvme[i].bytes));
    json_object_set_new(j, "model", text_or_null(o->model));
    json_object_set_new(j, "preset", text_or_null(o->preset));
    json_object_set_new(j, "data", files);
    json_object_set_new(j, "out", text_or_null(o->out));
    json_object_set_new(j, "dtype", json_string(ofl_dtype_name(o->dtype)));
    json_object_set_new(j, "shuffle", json_boolean(o->shuffle));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(j, counts[i].name, json_integer((json_int_t)counts[i].value));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        json_object_set_new(j, numbers[i].name, json_real(numbers[i].value));
    json_object_set_new(j, "device", json_string(o->budget.chosen.device));
    json_object_set_new(j, "in_memory", json_boolean(o->budget.in_memory));
    json_object_set_new(j, "device_mem", json_integer((json_int_t)o->budget.device_bytes));
    json_object_set_new(j, "host_mem", json_integer((json_int_t)o->budget.host_bytes));
    json_object_set_new(j, "nvme", nvme);
    return j;
}
