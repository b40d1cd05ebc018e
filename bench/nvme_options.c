/* The command line of `ofl-bench nvme`. */
#include "bench/nvme_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    KEY_DIR = 0x100,
    KEY_SIZE,
    KEY_BLOCK,
    KEY_DEPTH,
    KEY_RW,
    KEY_TIME,
    KEY_REPEAT,
    KEY_ENGINE,
    KEY_DIRECT,
    KEY_REGISTERED,
    KEY_FLAGS,
    KEY_BUFFERS,
    KEY_SWEEP,
    KEY_COMPARE,
    KEY_SYSCALLS,
    KEY_TENSORS,
    KEY_DEMAND,
    KEY_DEMAND_BYTES,
    KEY_JSON,
    KEY_PLOT
};

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Where (SIZE: bytes, or 512M, 1.5G, ...):", 1},
    {"dir", KEY_DIR, "DIR", 0,
     "Directory to measure; needed. Repeated: one file striped over all of them, in proportion to what each "
     "is worth",
     1},
    {"size", KEY_SIZE, "SIZE", 0,
     "Of the test file (default 1G, or less: it never takes more than half of what is free)", 1},

    {NULL, 0, NULL, 0, "What:", 2},
    {"rw", KEY_RW, "MODE", 0,
     "read, write, mixed, randread or randwrite; a list with commas, or repeated (default: "
     "read,write,mixed,randread)",
     2},
    {"block", KEY_BLOCK, "SIZE", 0, "Bytes of a request, a multiple of 512 (default 1M; random: 4K)", 2},
    {"depth", KEY_DEPTH, "N", 0, "Requests kept in flight (default 32; random: 64)", 2},
    {"sweep", KEY_SWEEP, NULL, 0,
     "Blocks of 64K, 256K, 1M and 4M at depths of 1 to 32, and 4K random reads; reads, unless --rw says "
     "otherwise",
     2},
    {"tensors", KEY_TENSORS, "LIST", 0,
     "Replay the tensors of a model: 7b, 70b, 175b, mixed, or a file with lines of `name bytes`", 2},
    {"demand", KEY_DEMAND, NULL, 0, "Time of an urgent read, alone and behind 1 GiB of queued prefetch", 2},
    {"demand-bytes", KEY_DEMAND_BYTES, "SIZE", 0, "Of the urgent read (default 16M)", 2},

    {NULL, 0, NULL, 0, "How:", 3},
    {"engine", KEY_ENGINE, "uring|threads", 0, "Default: io_uring, or threads where it is forbidden", 3},
    {"direct", KEY_DIRECT, "0|1", 0, "Page cache or direct I/O, by force (default: direct where possible)",
     3},
    {"registered", KEY_REGISTERED, "0|1", 0, "Register buffers and file with the kernel (default 1)", 3},
    {"flags", KEY_FLAGS, "LIST", 0, "Of the ring, with commas: sqpoll, iopoll, defer", 3},
    {"buffers", KEY_BUFFERS, "SIZE", 0, "Memory for buffers at most (default 256M)", 3},

    {NULL, 0, NULL, 0, "How often:", 4},
    {"repeat", KEY_REPEAT, "N", 0, "Runs of each kind, interleaved (default 5; --sweep 3; --compare 10)", 4},
    {"time-s", KEY_TIME, "X", 0,
     "Seconds of a run (default 1.5; --sweep 0.5); one that writes also ends after --size bytes", 4},
    {"compare", KEY_COMPARE, "fio", 0, "Let fio do the same on the same file, in turns", 4},
    {"syscalls", KEY_SYSCALLS, NULL, 0, "Count system calls too, in short runs of their own under strace", 4},

    {NULL, 0, NULL, 0, "Results:", 5},
    {"json", KEY_JSON, "FILE", 0, "Write everything, with all samples, in JSON", 5},
    {"plot", KEY_PLOT, "FILE", 0, "Draw FILE.svg or FILE.png with gnuplot", 5},
    {0}};

static const char doc[] =
    "Measures how fast the engine of liboffload moves bytes between memory and directories."
    "\v"
    "Without --rw, --sweep, --tensors and --demand it prints one table: sequential reads, writes and both "
    "at once, and small random reads. The test file has no name: nothing is left, however the program "
    "ends.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench nvme --dir /mnt/nvme\n"
    "  ofl-bench nvme --dir /mnt/nvme --rw read --block 1M --depth 32 --compare fio\n"
    "  ofl-bench nvme --dir /mnt/a --dir /mnt/b --tensors 70b\n"
    "  ofl-bench nvme --dir /mnt/nvme --sweep --json sweep.json --plot sweep.svg\n"
    "\n"
    "Exit status: 0 done; 1 something failed on the way; 2 options or directories that can't work; "
    "130 ended by SIGINT or SIGTERM. After anything but 0 there are no results.";

static const char *const rw_names[RW_COUNT] = {"read", "write", "mixed", "randread", "randwrite"};

const char *nvme_rw_name(enum nvme_rw rw)
{
    return rw_names[rw];
}

/* ---- values -------------------------------------------------------------------- */

static void parse_size(struct argp_state *state, const char *name, const char *text, uint64_t *out)
{
    if (common_parse_bytes(text, out) < 0 || *out == 0)
        argp_error(state, "--%s %s: not a size such as 4096, 64K or 1.5G", name, text);
}

static void parse_count(struct argp_state *state, const char *name, const char *text, uint64_t most,
                        uint64_t *out)
{
    if (common_parse_count(text, 1, most, out) < 0)
        argp_error(state, "--%s %s: not a whole number from 1 to %llu", name, text, (ull)most);
}

static bool parse_switch(struct argp_state *state, const char *name, const char *text)
{
    if (strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
        argp_error(state, "--%s %s: 0 or 1", name, text);
    return text[0] == '1';
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

static void set_rw(struct argp_state *state, const char *word)
{
    struct nvme_options *o = state->input;

    for (unsigned i = 0; i < RW_COUNT; i++) {
        if (strcmp(word, rw_names[i]) == 0) {
            o->rw[i] = true;
            o->rw_given = true;
            return;
        }
    }
    argp_error(state, "--rw %s: read, write, mixed, randread or randwrite", word);
}

static void set_flag(struct argp_state *state, const char *word)
{
    static const struct {
        const char *name;
        uint32_t flag;
    } flags[] = {{"sqpoll", IO_QUEUE_SQPOLL}, {"iopoll", IO_QUEUE_IOPOLL}, {"defer", IO_QUEUE_DEFER}};
    struct nvme_options *o = state->input;

    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (strcmp(word, flags[i].name) == 0) {
            o->flags |= flags[i].flag;
            return;
        }
    }
    argp_error(state, "--flags %s: sqpoll, iopoll or defer", word);
}

static void parse_engine(struct argp_state *state, const char *text, enum io_engine *out)
{
    if (strcmp(text, "uring") == 0)
        *out = IO_ENGINE_URING;
    else if (strcmp(text, "threads") == 0)
        *out = IO_ENGINE_THREADS;
    else
        argp_error(state, "--engine %s: uring or threads", text);
}

static void add_dir(struct argp_state *state, const char *dir)
{
    struct nvme_options *o = state->input;

    if (o->dir_count == IO_STRIPE_MAX)
        argp_error(state, "--dir %s: %u directories at most", dir, IO_STRIPE_MAX);
    else
        o->dirs[o->dir_count++] = dir;
}

/* ---- what goes together ------------------------------------------------------------ */

static void check_combination(struct argp_state *state, const struct nvme_options *o)
{
    unsigned modes = 0;

    for (unsigned i = 0; i < RW_COUNT; i++)
        modes += o->rw[i];
    if (o->dir_count == 0)
        argp_error(state, "--dir DIR is needed");
    if (o->block_bytes % 512 || o->block_bytes > GIB)
        argp_error(state,
                   "--block %llu: not a multiple of 512 bytes up to 1G: drives have blocks of 512 or more",
                   (ull)o->block_bytes);
    if (o->sweep && (o->block_bytes || o->depth))
        argp_error(state, "--sweep goes through blocks and depths itself: it excludes --block and --depth");
    if (o->sweep && modes > 1)
        argp_error(state, "--sweep takes one --rw");
    if (o->fio && o->dir_count > 1)
        argp_error(state, "--compare fio takes one --dir: fio knows no stripes");
    if (o->fio && o->engine == IO_ENGINE_THREADS)
        argp_error(state, "--compare fio is against fio's io_uring: it excludes --engine threads");
    if (o->flags && o->engine == IO_ENGINE_THREADS)
        argp_error(state, "--flags are io_uring's: they exclude --engine threads");
    if ((o->flags & IO_QUEUE_IOPOLL) && o->direct == 0)
        argp_error(state, "--flags iopoll needs direct I/O: it excludes --direct 0");
}

static void check_files(struct argp_state *state, const struct nvme_options *o)
{
    int err = o->json ? common_report_check(o->json) : 0;

    if (err < 0)
        argp_error(state, "--json %s: %s", o->json, strerror(-err));
    for (unsigned i = 0; i < o->dir_count; i++)
        if (access(o->dirs[i], W_OK | X_OK) < 0)
            argp_error(state, "--dir %s: %s", o->dirs[i], strerror(errno));
}

static void finish(struct argp_state *state, struct nvme_options *o)
{
    bool table = !o->sweep && !o->tensors && !o->demand;

    check_combination(state, o);
    check_files(state, o);
    if (o->plot && !o->rw_given && !o->sweep && !table)
        argp_error(state, "--plot draws a table: it needs --rw or --sweep beside --tensors and --demand");
    if (!o->rw_given && o->sweep)
        o->rw[RW_READ] = true;
    if (!o->rw_given && table)
        o->rw[RW_READ] = o->rw[RW_WRITE] = o->rw[RW_MIXED] = o->rw[RW_RANDREAD] = true;
    if (!o->repeat)
        o->repeat = o->fio ? 10 : o->sweep ? 3 : 5;
    if (o->time_s == 0)
        o->time_s = o->sweep ? 0.5 : 1.5;
    if (!o->buffer_bytes)
        o->buffer_bytes = 256 * MIB;
    if (!o->demand_bytes)
        o->demand_bytes = 16 * MIB;
    if (o->demand && o->demand_bytes % 4096)
        argp_error(state, "--demand-bytes %llu: not a multiple of 4096", (ull)o->demand_bytes);
}

/* ---- argp ------------------------------------------------------------------------------ */

static error_t parse_how(int key, char *arg, struct argp_state *state)
{
    struct nvme_options *o = state->input;

    switch (key) {
    case KEY_ENGINE:
        parse_engine(state, arg, &o->engine);
        return 0;
    case KEY_DIRECT:
        o->direct = parse_switch(state, "direct", arg);
        return 0;
    case KEY_REGISTERED:
        o->registered = parse_switch(state, "registered", arg);
        return 0;
    case KEY_FLAGS:
        parse_list(state, arg, set_flag);
        return 0;
    case KEY_BUFFERS:
        parse_size(state, "buffers", arg, &o->buffer_bytes);
        return 0;
    case KEY_REPEAT:
        parse_count(state, "repeat", arg, 1000, &o->repeat);
        return 0;
    case KEY_TIME:
        if (common_parse_number(arg, 0.01, 3600, &o->time_s) < 0)
            argp_error(state, "--time-s %s: not a number from 0.01 to 3600", arg);
        return 0;
    case KEY_COMPARE:
        o->fio = true;
        if (strcmp(arg, "fio") != 0)
            argp_error(state, "--compare %s: only fio", arg);
        return 0;
    case KEY_SYSCALLS:
        o->syscalls = true;
        return 0;
    case KEY_JSON:
        o->json = arg;
        return 0;
    case KEY_PLOT:
        o->plot = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct nvme_options *o = state->input;

    switch (key) {
    case KEY_DIR:
        add_dir(state, arg);
        return 0;
    case KEY_SIZE:
        parse_size(state, "size", arg, &o->size_bytes);
        return 0;
    case KEY_RW:
        parse_list(state, arg, set_rw);
        return 0;
    case KEY_BLOCK:
        parse_size(state, "block", arg, &o->block_bytes);
        return 0;
    case KEY_DEPTH:
        parse_count(state, "depth", arg, 1024, &o->depth);
        return 0;
    case KEY_SWEEP:
        o->sweep = true;
        return 0;
    case KEY_TENSORS:
        o->tensors = arg;
        return 0;
    case KEY_DEMAND:
        o->demand = true;
        return 0;
    case KEY_DEMAND_BYTES:
        parse_size(state, "demand-bytes", arg, &o->demand_bytes);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: not an option; directories go behind --dir", arg);
        return 0;
    case ARGP_KEY_END:
        finish(state, o);
        return 0;
    default:
        return parse_how(key, arg, state);
    }
}

int nvme_options_parse(int argc, char **argv, struct nvme_options *o)
{
    const struct argp argp = {.options = option_list, .parser = parse_option, .doc = doc};

    *o = (struct nvme_options){.direct = -1, .registered = true};
    argp_err_exit_status = EXIT_INPUT;
    return argp_parse(&argp, argc, argv, 0, NULL, o) ? common_fail(EXIT_INPUT, "options: out of memory") : 0;
}

json_t *nvme_options_json(const struct nvme_options *o)
{
    static const char *const engines[] = {"auto", "uring", "threads"};
    json_t *dirs = json_array(), *modes = json_array(), *j;

    for (unsigned i = 0; i < o->dir_count; i++)
        json_array_append_new(dirs, bench_text_json(o->dirs[i]));
    for (unsigned i = 0; i < RW_COUNT; i++)
        if (o->rw[i])
            json_array_append_new(modes, json_string(rw_names[i]));
    j = json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:f, s:s, s:i, s:b, s:b, s:b, s:b}", "dir", dirs, "rw",
                  modes, "size", (json_int_t)o->size_bytes, "block", (json_int_t)o->block_bytes, "depth",
                  (json_int_t)o->depth, "repeat", (json_int_t)o->repeat, "time_s", o->time_s, "engine",
                  engines[o->engine], "direct", o->direct, "registered", o->registered, "sqpoll",
                  (o->flags & IO_QUEUE_SQPOLL) != 0, "iopoll", (o->flags & IO_QUEUE_IOPOLL) != 0, "defer",
                  (o->flags & IO_QUEUE_DEFER) != 0);
    if (!j)
        return NULL;
    json_object_set_new(j, "buffers", json_integer((json_int_t)o->buffer_bytes));
    json_object_set_new(j, "sweep", json_boolean(o->sweep));
    json_object_set_new(j, "compare", o->fio ? json_string("fio") : json_null());
    json_object_set_new(j, "syscalls", json_boolean(o->syscalls));
    json_object_set_new(j, "tensors", bench_text_json(o->tensors));
    json_object_set_new(j, "demand_bytes",
                        o->demand ? json_integer((json_int_t)o->demand_bytes) : json_null());
    return j;
}
