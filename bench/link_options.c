/* The command line of `ofl-bench link`. */
#include "bench/link_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { KEY_DEVICE = 0x100, KEY_SIZE, KEY_BATCH, KEY_DIRECTION, KEY_MEMORY, KEY_REPEAT, KEY_CHECK, KEY_JSON };

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "What (SIZE: bytes, or 64K, 1.5G, ...):", 1},
    {"device", KEY_DEVICE, "cuda:N", 0, "The GPU (default cuda:0)", 1},
    {"size", KEY_SIZE, "LIST", 0, "Sizes of a copy, with commas, multiples of 8 (default 4K to 1G, times 4)",
     1},
    {"direction", KEY_DIRECTION, "LIST", 0, "in, out, both: with commas (default: all three)", 1},
    {"memory", KEY_MEMORY, "LIST", 0,
     "Of the host: pinned (on each NUMA node in turn), pageable; with commas (default: both)", 1},

    {NULL, 0, NULL, 0, "How often:", 2},
    {"batch", KEY_BATCH, "SIZE", 0,
     "Bytes of a sample, each way, queued at once (default 1G, a quarter of that from pageable memory); at "
     "most 4096 copies",
     2},
    {"repeat", KEY_REPEAT, "N", 0, "Pairs of samples of each row, interleaved (default 7)", 2},

    {NULL, 0, NULL, 0, "Results:", 3},
    {"check", KEY_CHECK, "RATIO", 0,
     "Exit with 1 if the median of a pinned row of copies of 1 MiB or more is below RATIO of the plain "
     "copies",
     3},
    {"json", KEY_JSON, "FILE", 0, "Write everything, with all samples, in JSON", 3},
    {0}};

static const char doc[] =
    "Measures how fast bytes get to the GPU and back: through the library's device room, as its pager "
    "copies, "
    "and through plain calls of the driver (what cudaMemcpyAsync calls) from memory of its own, in turns."
    "\v"
    "Each sample queues all its copies at once. Ours are timed from the first call to the last completion "
    "that "
    "the library reports, plain ones between events on the GPU. Every byte of one more run of each row is "
    "compared.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench link\n"
    "  ofl-bench link --memory pinned --check 0.97 --json link.json\n"
    "  ofl-bench link --device cuda:1 --size 64K,2M --direction both\n"
    "\n"
    "Exit status: 0 done; 1 no GPU, something failed on the way, or --check did not hold; 2 options that "
    "can't "
    "work; 130 ended by SIGINT or SIGTERM.";

static const char *const direction_names[LINK_DIRECTIONS] = {"in", "out", "both"};
static const char *const memory_names[LINK_MEMORIES] = {"pinned", "pageable"};

const char *link_direction_name(enum link_direction d)
{
    return direction_names[d];
}

const char *link_memory_name(enum link_memory m)
{
    return memory_names[m];
}

/* Calls set for every word of a list with commas. */
static void parse_list(struct argp_state *state, const char *text,
                       void (*set)(struct argp_state *state, const char *word))
{
    char copy[256], *rest = copy, *word;

    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        argp_error(state, "%s: too long a list", text);
    while ((word = strsep(&rest, ",")) != NULL)
        set(state, word);
}

static void set_size(struct argp_state *state, const char *word)
{
    struct link_options *o = state->input;
    uint64_t bytes;

    if (common_parse_bytes(word, &bytes) < 0 || bytes == 0 || bytes % 8 || bytes > 64 * GIB)
        argp_error(state, "--size %s: not a multiple of 8 such as 4096, 64K or 1.5G, up to 64G", word);
    if (o->size_count == LINK_SIZES)
        argp_error(state, "--size: %d sizes at most", LINK_SIZES);
    else
        o->sizes[o->size_count++] = bytes;
    o->sizes_given = true;
}

static void set_direction(struct argp_state *state, const char *word)
{
    struct link_options *o = state->input;

    for (unsigned i = 0; i < LINK_DIRECTIONS; i++) {
        if (strcmp(word, direction_names[i]) == 0) {
            o->direction[i] = true;
            return;
        }
    }
    argp_error(state, "--direction %s: in, out or both", word);
}

static void set_memory(struct argp_state *state, const char *word)
{
    struct link_options *o = state->input;

    for (unsigned i = 0; i < LINK_MEMORIES; i++) {
        if (strcmp(word, memory_names[i]) == 0) {
            o->memory[i] = true;
            return;
        }
    }
    argp_error(state, "--memory %s: pinned or pageable", word);
}

static void parse_device(struct argp_state *state, struct link_options *o, const char *text)
{
    uint64_t unit = 0;

    if (strcmp(text, "cuda") != 0 &&
        (strncmp(text, "cuda:", 5) != 0 || common_parse_count(text + 5, 0, 999, &unit) < 0))
        argp_error(state, "--device %s: cuda or cuda:N: there is no link to measure elsewhere", text);
    o->unit = (unsigned)unit;
}

static void finish(struct argp_state *state, struct link_options *o)
{
    int err = o->json ? common_report_check(o->json) : 0;
    bool directions = false, memories = false;

    if (err < 0)
        argp_error(state, "--json %s: %s", o->json, strerror(-err));
    for (unsigned i = 0; i < LINK_DIRECTIONS; i++)
        directions |= o->direction[i];
    for (unsigned i = 0; i < LINK_MEMORIES; i++)
        memories |= o->memory[i];
    for (unsigned i = 0; i < LINK_DIRECTIONS && !directions; i++)
        o->direction[i] = true;
    for (unsigned i = 0; i < LINK_MEMORIES && !memories; i++)
        o->memory[i] = true;
    for (uint64_t bytes = 4096; bytes <= GIB && !o->sizes_given; bytes *= 4)
        o->sizes[o->size_count++] = bytes;
    snprintf(o->device, sizeof o->device, "cuda:%u", o->unit);
    if (o->check > 0 && !o->memory[LINK_PINNED])
        argp_error(state, "--check is about pinned memory: it excludes --memory pageable alone");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct link_options *o = state->input;

    switch (key) {
    case KEY_DEVICE:
        parse_device(state, o, arg);
        return 0;
    case KEY_SIZE:
        parse_list(state, arg, set_size);
        return 0;
    case KEY_BATCH:
        if (common_parse_bytes(arg, &o->batch_bytes) < 0 || o->batch_bytes == 0 || o->batch_bytes > 64 * GIB)
            argp_error(state, "--batch %s: not a size up to 64G", arg);
        o->batch_given = true;
        return 0;
    case KEY_DIRECTION:
        parse_list(state, arg, set_direction);
        return 0;
    case KEY_MEMORY:
        parse_list(state, arg, set_memory);
        return 0;
    case KEY_REPEAT:
        if (common_parse_count(arg, 1, 1000, &o->repeat) < 0)
            argp_error(state, "--repeat %s: not a whole number from 1 to 1000", arg);
        return 0;
    case KEY_CHECK:
        if (common_parse_number(arg, 1e-9, 1e9, &o->check) < 0)
            argp_error(state, "--check %s: not a ratio such as 0.97", arg);
        return 0;
    case KEY_JSON:
        o->json = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: not an option", arg);
        return 0;
    case ARGP_KEY_END:
        finish(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int link_options_parse(int argc, char **argv, struct link_options *o)
{
    const struct argp argp = {.options = option_list, .parser = parse_option, .doc = doc};

    *o = (struct link_options){.batch_bytes = GIB, .repeat = 7};
    argp_err_exit_status = EXIT_INPUT;
    return argp_parse(&argp, argc, argv, 0, NULL, o) ? common_fail(EXIT_INPUT, "options: out of memory") : 0;
}
