/* The command line of `ofl-bench link`. */
#include "bench/link_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "examples/common_options.h"

static const struct common_word directions[] = {
    {"in", LINK_IN}, {"out", LINK_OUT}, {"both", LINK_BOTH}, {NULL, 0}};
static const struct common_word memories[] = {
    {"pinned", LINK_PINNED}, {"pageable", LINK_PAGEABLE}, {NULL, 0}};

const char *link_direction_name(enum link_direction d)
{
    return directions[d].name;
}

const char *link_memory_name(enum link_memory m)
{
    return memories[m].name;
}

static bool add_size(void *options, const char *word, struct common_complaint *c)
{
    struct link_options *o = options;
    uint64_t bytes;

    if (common_parse_bytes(word, &bytes) < 0 || bytes == 0 || bytes % 8 || bytes > 64 * GIB)
        return common_complain(c, "%s is not a multiple of 8 such as 4096, 64K or 1.5G, up to 64G", word);
    if (o->size_count == LINK_SIZES)
        return common_complain(c, "%d sizes at most", LINK_SIZES);
    o->sizes[o->size_count++] = bytes;
    o->sizes_given = true;
    return true;
}

static bool set_sizes(void *options, const char *text, struct common_complaint *c)
{
    return common_each_word(options, text, add_size, c);
}

static bool set_device(void *options, const char *text, struct common_complaint *c)
{
    struct link_options *o = options;
    uint64_t unit = 0;

    if (strcmp(text, "cuda") != 0 &&
        (strncmp(text, "cuda:", 5) != 0 || common_parse_count(text + 5, 0, 999, &unit) < 0))
        return common_complain(c, "cuda or cuda:N: there is no link to measure elsewhere");
    o->unit = (unsigned)unit;
    return true;
}

#define FIELD(name) .field = offsetof(struct link_options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_GROUP, .text = "What (SIZE: bytes, or 64K, 1.5G, ...):", .least = 1},
    {COMMON_CALL, "device", "cuda:N", "The GPU", .initial = "cuda:0", .set = set_device},
    {COMMON_CALL, "size", "LIST", "Sizes of a copy, with commas, multiples of 8 (default 4K to 1G, times 4)",
     .set = set_sizes},
    {COMMON_WORDS, "direction", "LIST", "in, out, both: with commas (default: all three)", FIELD(direction),
     .words = directions},
    {COMMON_WORDS, "memory", "LIST", "Of the host: pinned (on each NUMA node in turn), pageable; with commas "
     "(default: both)", FIELD(memory), .words = memories},
    {COMMON_GROUP, .text = "How often:", .least = 2},
    {COMMON_BYTES, "batch", "SIZE", "Bytes of a sample, each way, queued at once (default 1G, a quarter of that from "
     "pageable memory); at most 4096 copies", FIELD(batch_bytes), .most = 64 * GIB},
    {COMMON_COUNT, "repeat", "N", "Pairs of samples of each row, interleaved", FIELD(repeat), "7", 1, 1000},
    {COMMON_GROUP, .text = "Results:", .least = 3},
    {COMMON_NUMBER, "check", "RATIO", "Exit with 1 if the median of a pinned row of copies of 1 MiB or more is below "
     "RATIO of the plain copies, such as 0.97", FIELD(check), .low = 1e-9, .high = 1e9},
    {COMMON_TEXT, "json", "FILE", "Write everything, with all samples, in JSON", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static const char before[] =
    "Measures how fast bytes get to the GPU and back: through the library's device room, as its pager "
    "copies, "
    "and through plain calls of the driver (what cudaMemcpyAsync calls) from memory of its own, in turns.";

static const char after[] =
    "Each sample queues all its copies at once. Ours are timed from the first call to the last completion "
    "that "
    "the library reports, plain ones between events on the GPU. Every byte of one more run of each row is "
    "compared.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench link\n"
    "  ofl-bench link --memory pinned --check 0.97 --json link.json\n"
    "  ofl-bench link --device cuda:1 --size 64K,2M --direction both\n"
    "\n" COMMON_EXITS ". No GPU, or --check did not hold: 1.";

static bool finish(void *options, struct common_complaint *c)
{
    struct link_options *o = options;
    int err = o->json ? common_report_check(o->json) : 0;
    bool all_directions = true, all_memories = true;

    if (err < 0)
        return common_complain(c, "--json %s: %s", o->json, strerror(-err));
    for (unsigned i = 0; i < LINK_DIRECTIONS; i++)
        all_directions &= !o->direction[i];
    for (unsigned i = 0; i < LINK_MEMORIES; i++)
        all_memories &= !o->memory[i];
    for (unsigned i = 0; i < LINK_DIRECTIONS; i++)
        o->direction[i] |= all_directions;
    for (unsigned i = 0; i < LINK_MEMORIES; i++)
        o->memory[i] |= all_memories;
    for (uint64_t bytes = 4096; bytes <= GIB && !o->sizes_given; bytes *= 4)
        o->sizes[o->size_count++] = bytes;
    o->batch_given = o->batch_bytes != 0;
    if (!o->batch_given)
        o->batch_bytes = GIB;
    snprintf(o->device, sizeof o->device, "cuda:%u", o->unit);
    return o->check <= 0 || o->memory[LINK_PINNED] ||
           common_complain(c, "--check is about pinned memory: it excludes --memory pageable alone");
}

int link_options_parse(int argc, char **argv, struct link_options *o)
{
    static const struct common_command command = {.title = "ofl-bench link",
                                                  .before = before,
                                                  .after = after,
                                                  .check = finish,
                                                  .tables = {{option_list, 0}}};

    *o = (struct link_options){.unit = 0};
    return common_options_parse(&command, argc, argv, o);
}
