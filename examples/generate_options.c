/* The command line and the budgets of ofl-generate. */
#include "examples/generate.h"

#include <stdio.h>
#include <stdlib.h>

#include "examples/common_budget.h"

typedef unsigned long long ull;

#define HOST_BYTES (64ull << 20) /* by default: weights pass through it */

enum { KEY_MODEL = 0x100, KEY_PROMPT, KEY_MAX_TOKENS, KEY_TEMPERATURE, KEY_TOP_P, KEY_SEED };

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Text:", 1},
    {"model", KEY_MODEL, "DIR", 0,
     "Hugging Face directory of a Llama: config.json, model.safetensors (or shards with an index), "
     "tokenizer.json",
     1},
    {"prompt", KEY_PROMPT, "TEXT", 0, "What to continue; the model's start token goes in front", 1},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0,
     "Tokens to generate at most (default 128); an end token ends sooner", 1},
    {"temperature", KEY_TEMPERATURE, "X", 0, "0: always the likeliest token (default 0.8)", 1},
    {"top-p", KEY_TOP_P, "X", 0,
     "Draw from the likeliest tokens that have this probability together (default 0.95)", 1},
    {"seed", KEY_SEED, "N", 0, "Of drawing (default 1)", 1},
    {0}};

static const char before[] = "Generates text with a Llama inside hard memory budgets.";

static const char after[] =
    "Weights are paged in from the checkpoint itself, layer by layer, and need no second copy: there is no "
    "--nvme here. By default the whole model is kept on the device if it fits, else as much as does: all of "
    "a GPU's memory; of RAM a third, or a quarter. --host-mem is 64M by default. Keys and values of earlier "
    "tokens stay on the device.\n"
    "\n"
    "The text goes to standard output as it comes, figures to standard error. Tokens per second count "
    "generated "
    "tokens only, without the time of the prompt.\n"
    "\n"
    "Examples:\n"
    "  ofl-generate --model story --prompt \"Once upon a time\" --temperature 0\n"
    "  ofl-generate --model llama-7b --prompt \"The sea\" --device-mem 2G --host-mem 1G --report run.json\n"
    "\n"
    "Exit status: 0 done; 1 something failed on the way; 2 options, budgets or data that can't work; "
    "130 ended by SIGINT or SIGTERM after the current token.";

static void parse_number(struct argp_state *state, const char *name, const char *arg, double most,
                         double *out)
{
    if (common_parse_number(arg, 0, most, out) < 0)
        argp_error(state, "--%s %s: not a number from 0 to %g", name, arg, most);
}

static void parse_count(struct argp_state *state, const char *name, const char *arg, uint64_t least,
                        uint64_t most, uint64_t *out)
{
    if (common_parse_count(arg, least, most, out) < 0)
        argp_error(state, "--%s %s: not a whole number from %llu to %llu", name, arg, (ull)least, (ull)most);
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
    case KEY_PROMPT:
        o->prompt = arg;
        return 0;
    case KEY_MAX_TOKENS:
        parse_count(state, "max-tokens", arg, 1, 1u << 30, &o->max_tokens);
        return 0;
    case KEY_TEMPERATURE:
        parse_number(state, "temperature", arg, 1e6, &o->temperature);
        return 0;
    case KEY_TOP_P:
        parse_number(state, "top-p", arg, 1, &o->top_p);
        return 0;
    case KEY_SEED:
        parse_count(state, "seed", arg, 0, INT64_MAX, &o->seed);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: not an option; the text to continue goes behind --prompt", arg);
        return 0;
    case ARGP_KEY_END:
        if (!o->model || !o->prompt)
            argp_error(state, "--model DIR and --prompt TEXT are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void print_version(FILE *f, struct argp_state *state)
{
    (void)state;
    fprintf(f, "ofl-generate %s\n", ofl_version());
}

int options_parse(int argc, char **argv, struct options *o)
{
    static const struct argp_child children[] = {{&common_read_argp, 0, NULL, 0}, {0}};
    static char doc[sizeof before + sizeof after + 1];
    const struct argp argp = {
        .options = option_list, .parser = parse_option, .doc = doc, .children = children};

    *o = (struct options){.seed = 1, .temperature = 0.8, .top_p = 0.95};
    snprintf(doc, sizeof doc, "%s\v%s", before, after);
    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_INPUT;
    return argp_parse(&argp, argc, argv, 0, NULL, o) ? common_fail(EXIT_INPUT, "options: out of memory") : 0;
}

json_t *options_json(const struct options *o)
{
    json_t *j = json_object();
    /* Arguments need not be UTF-8, which JSON is. */
    json_t *model = json_string(o->model), *prompt = json_string(o->prompt);

    json_object_set_new(j, "model", model ? model : json_null());
    json_object_set_new(j, "prompt", prompt ? prompt : json_null());
    json_object_set_new(j, "max_tokens", json_integer((json_int_t)o->max_tokens));
    json_object_set_new(j, "temperature", json_real(o->temperature));
    json_object_set_new(j, "top_p", json_real(o->top_p));
    json_object_set_new(j, "seed", json_integer((json_int_t)o->seed));
    json_object_set_new(j, "device", json_string(o->budget.chosen.device));
    json_object_set_new(j, "in_memory", json_boolean(o->budget.in_memory));
    json_object_set_new(j, "device_mem", json_integer((json_int_t)o->budget.device_bytes));
    json_object_set_new(j, "host_mem", json_integer((json_int_t)o->budget.host_bytes));
    return j;
}

/* ---- budgets -------------------------------------------------------------- */

static int refuse_device(uint64_t bytes, const struct llama_generator_need *need)
{
    const struct llama_need *d = &need->device;

    return common_fail(
        EXIT_INPUT,
        "device memory of %llu bytes: %s needs %llu bytes at once, with a key-value cache of %llu "
        "bytes, the largest tensor of it is %s with %llu bytes; the smallest workable --device-mem is "
        "%llu bytes (%s)",
        (ull)bytes, d->part, (ull)d->device_bytes, (ull)need->cache_bytes, d->largest, (ull)d->largest_bytes,
        (ull)d->device_bytes, common_bytes(d->device_bytes).text);
}

int budget_check(const struct options *o, const struct llama_generator_need *need, struct ofl_config *out)
{
    const struct common_budget *b = &o->budget;
    uint64_t memory = common_device_memory(b), least = need->device.device_bytes;
    uint64_t most = b->chosen.gpu ? memory : memory / 3; /* RAM has other uses, too */
    const struct common_ways ways = {.device_least = least, .host_least = OFL_HOST_MIN_BYTES};

    *out = (struct ofl_config){.size = sizeof *out, .device = b->chosen.device, .log = common_log};
    out->host_bytes = o->budget.host_bytes ? o->budget.host_bytes : HOST_BYTES;
    out->device_bytes = o->budget.device_bytes;
    if (o->budget.in_memory || (!out->device_bytes && need->device_all_bytes <= most))
        out->device_bytes = need->device_all_bytes;
    else if (!out->device_bytes)
        out->device_bytes = b->chosen.gpu ? memory : memory / 4 > least ? memory / 4 : least;
    if (out->device_bytes / 256 * 256 < least)
        return refuse_device(out->device_bytes, need);
    return common_budget_fits(b, out, need->weight_bytes, 0, &ways);
}
