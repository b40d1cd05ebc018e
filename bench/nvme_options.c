/* The command line of `ofl-bench nvme`. */
#include "bench/nvme_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "examples/common_options.h"

static const struct common_word rw_words[] = {{"read", RW_READ},
                                              {"write", RW_WRITE},
                                              {"mixed", RW_MIXED},
                                              {"randread", RW_RANDREAD},
                                              {"randwrite", RW_RANDWRITE},
                                              {"gather", RW_GATHER},
                                              {NULL, 0}};
static const struct common_word engines[] = {
    {"uring", IO_ENGINE_URING}, {"threads", IO_ENGINE_THREADS}, {NULL, 0}};
static const struct common_word switches[] = {{"0", 0}, {"1", 1}, {NULL, 0}};
static const struct common_word flags[] = {
    {"sqpoll", IO_QUEUE_SQPOLL}, {"iopoll", IO_QUEUE_IOPOLL}, {"defer", IO_QUEUE_DEFER}, {NULL, 0}};
static const struct common_word others[] = {{"fio", true}, {NULL, 0}};

const char *nvme_rw_name(enum nvme_rw rw)
{
    return rw_words[rw].name;
}

static bool add_dir(void *options, const char *dir, struct common_complaint *c)
{
    struct nvme_options *o = options;

    if (o->dir_count == IO_STRIPE_MAX)
        return common_complain(c, "%u directories at most", IO_STRIPE_MAX);
    o->dirs[o->dir_count++] = dir;
    return true;
}

/* "90s", "5m", "1h"; 0: it is no time. */
static double time_of(const char *text)
{
    char *end;
    double value = strtod(text, &end), unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : 0;

    return unit > 0 && end != text && !end[1] && value > 0 && value * unit <= 86400 ? value * unit : 0;
}

static bool set_sustained(void *options, const char *text, struct common_complaint *c)
{
    struct nvme_options *o = options;

    o->sustained = true;
    o->sustained_bytes = 0;
    o->sustained_s = time_of(text);
    if (o->sustained_s > 0 || strcmp(text, "auto") == 0)
        return true;
    if (common_parse_bytes(text, &o->sustained_bytes) == 0 && o->sustained_bytes >= 64 * MIB)
        return true;
    return common_complain(c, "neither auto, nor a size of 64M at least such as 200G, nor a time of a day at "
                              "most such as 90s or 5m");
}

#define FIELD(name) .field = offsetof(struct nvme_options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_GROUP, .text = "Where (SIZE: bytes, or 512M, 1.5G, ...):", .least = 1},
    {COMMON_CALL, "dir", "DIR", "Directory to measure; needed. Repeated: one file striped over all of them, in "
     "proportion to what each is worth", .set = add_dir},
    {COMMON_BYTES, "size", "SIZE", "Of the test file (default 1G, or less: it never takes more than half of what is "
     "free)", FIELD(size_bytes)},

    {COMMON_GROUP, .text = "What:", .least = 2},
    {COMMON_WORDS, "rw", "MODE", "read, write, mixed, randread, randwrite or gather; a list with commas, or repeated "
     "(default: read,write,mixed,randread)", FIELD(rw), .words = rw_words},
    {COMMON_BYTES, "block", "SIZE", "Bytes of a request, a multiple of 512 (default 1M; random: 4K)",
     FIELD(block_bytes)},
    {COMMON_COUNT, "depth", "N", "Requests kept in flight (default 32; random: 64)", FIELD(depth), .least = 1,
     .most = 1024},
    {COMMON_BYTES, "row", "SIZE", "Bytes of a row of --rw gather", FIELD(row_bytes), "256", 1, MIB},
    {COMMON_COUNT, "rows", "N", "Rows that one call of --rw gather reads, from wherever they lie", FIELD(rows), "48", 1, 65536},
    {COMMON_FLAG, "sweep", NULL, "Blocks of 64K, 256K, 1M and 4M at depths of 1 to 32, and 4K random reads; reads, "
     "unless --rw says otherwise", FIELD(sweep)},
    {COMMON_TEXT, "tensors", "LIST", "Replay the tensors of a model: 7b, 70b, 175b, mixed, or a file with lines of "
     "`name bytes`", FIELD(tensors)},
    {COMMON_FLAG, "demand", NULL, "Time of an urgent read, alone and behind 1 GiB of queued prefetch", FIELD(demand)},
    {COMMON_BYTES, "demand-bytes", "SIZE", "Of the urgent read (default 16M)", FIELD(demand_bytes)},

    {COMMON_CALL, "sustained", "SIZE|TIME|auto", "Write until the drive's cache is behind it: so many bytes (200G), so long (90s, "
     "5m), or until the rate has fallen and stays (auto); then throughput over time, when it fell, and what --idle-s gives "
     "back. It takes nothing else", .set = set_sustained},
    {COMMON_NUMBER, "idle-s", "X", "Seconds of rest behind --sustained (0: none)", FIELD(idle_s), "10", .low = 0,
     .high = 3600},

    {COMMON_GROUP, .text = "How:", .least = 3},
    {COMMON_WORD, "engine", "uring|threads", "Default: io_uring, or threads where it is forbidden", FIELD(engine),
     .words = engines},
    {COMMON_WORD, "direct", "0|1", "Page cache or direct I/O, by force (default: direct where possible)",
     FIELD(direct), .words = switches},
    {COMMON_SWITCH, "registered", "0|1", "Register buffers and file with the kernel", FIELD(registered), "1"},
    {COMMON_BITS, "flags", "LIST", "Of the ring, with commas: sqpoll, iopoll, defer", FIELD(flags), .words = flags},
    {COMMON_BYTES, "buffers", "SIZE", "Memory for buffers at most (default 256M)", FIELD(buffer_bytes)},

    {COMMON_GROUP, .text = "How often:", .least = 4},
    {COMMON_COUNT, "repeat", "N", "Runs of each kind, interleaved (default 5; --sweep 3; --compare 10)", FIELD(repeat),
     .least = 1, .most = 1000},
    {COMMON_NUMBER, "time-s", "X", "Seconds of a run (default 1.5; --sweep 0.5); one that writes also ends after "
     "--size bytes", FIELD(time_s), .low = 0.01, .high = 3600},
    {COMMON_BYTES, "max-written", "SIZE", "Write so much to drives at most; what could write more is refused before it "
     "begins", FIELD(max_written)},
    {COMMON_BYTES, "endurance", "SIZE", "Rated bytes written of the drive, as its data sheet has them (600T, say): then wear is "
     "told as a share of it, and in days", FIELD(endurance_bytes)},
    {COMMON_WORD, "compare", "fio", "Let fio do the same on the same file, in turns", FIELD(fio), .words = others},
    {COMMON_FLAG, "syscalls", NULL, "Count system calls too, in short runs of their own under strace",
     FIELD(syscalls)},

    {COMMON_GROUP, .text = "Whether bytes come back:", .least = 5},
    {COMMON_FLAG, "verify", NULL, "Write bytes that go by their offset, the run and --seed, compare all that is read, and the "
     "whole file at the end; exit status 3, with offset and both values, where they differ", FIELD(verify)},
    {COMMON_COUNT, "seed", "N", "Of --verify (default: another one each time, which is printed)", FIELD(seed), .least = 1,
     .most = INT64_MAX},
    {COMMON_TEXT, "keep-file", "NAME", "With --verify: the test file has this name, in --dir, and stays", FIELD(keep_file)},
    {COMMON_TEXT, "verify-file", "FILE", "Only compare what --keep-file has left with its --seed", FIELD(verify_file)},

    {COMMON_GROUP, .text = "Results:", .least = 5},
    {COMMON_TEXT, "json", "FILE", "Write everything, with all samples, in JSON", FIELD(json)},
    {COMMON_TEXT, "plot", "FILE", "Draw FILE.svg or FILE.png with gnuplot", FIELD(plot)},
    {.kind = COMMON_END}};
/* clang-format on */

static const char before[] =
    "Measures how fast the engine of liboffload moves bytes between memory and directories.";

static const char after[] =
    "Without --rw, --sweep, --tensors and --demand it prints one table: sequential reads, writes and both "
    "at once, and small random reads. The test file has no name: nothing is left, however the program "
    "ends.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench nvme --dir /mnt/nvme\n"
    "  ofl-bench nvme --dir /mnt/nvme --rw read --block 1M --depth 32 \\\n"
    "      --compare fio\n"
    "  ofl-bench nvme --dir /mnt/a --dir /mnt/b --tensors 70b\n"
    "  ofl-bench nvme --dir /mnt/nvme --sustained auto --plot sustained.svg\n"
    "  # what was written before a power cut, and is there behind it\n"
    "  ofl-bench nvme --dir /mnt/nvme --rw write --verify --seed 7 \\\n"
    "      --keep-file probe\n"
    "  ofl-bench nvme --verify-file /mnt/nvme/probe --seed 7\n"
    "  ofl-bench nvme --dir /mnt/nvme --sweep --json sweep.json --plot sweep.svg\n"
    "\n" COMMON_EXITS ". After anything but 0 there are no results, but those of --verify after 3.";

/* ---- what goes together ------------------------------------------------------------ */

static bool check_combination(const struct nvme_options *o, unsigned modes, struct common_complaint *c)
{
    if (o->dir_count == 0)
        return common_complain(c, "--dir DIR is needed");
    if (o->block_bytes % 512 || o->block_bytes > GIB)
        return common_complain(
            c, "--block %llu: not a multiple of 512 bytes up to 1G: drives have blocks of 512 or more",
            (ull)o->block_bytes);
    if (o->sweep && (o->block_bytes || o->depth))
        return common_complain(c, "--sweep goes through blocks and depths itself: it excludes --block and "
                                  "--depth");
    if (o->sweep && modes > 1)
        return common_complain(c, "--sweep takes one --rw");
    if (o->fio && o->dir_count > 1)
        return common_complain(c, "--compare fio takes one --dir: fio knows no stripes");
    if (o->fio && o->engine == IO_ENGINE_THREADS)
        return common_complain(c, "--compare fio is against fio's io_uring: it excludes --engine threads");
    if (o->flags && o->engine == IO_ENGINE_THREADS)
        return common_complain(c, "--flags are io_uring's: they exclude --engine threads");
    if ((o->flags & IO_QUEUE_IOPOLL) && o->direct == 0)
        return common_complain(c, "--flags iopoll needs direct I/O: it excludes --direct 0");
    if (o->demand_bytes % 4096)
        return common_complain(c, "--demand-bytes %llu: not a multiple of 4096", (ull)o->demand_bytes);
    return true;
}

static bool check_verify(const struct nvme_options *o, struct common_complaint *c)
{
    if (!o->verify && o->keep_file)
        return common_complain(c, "--keep-file goes with --verify");
    if (!o->verify && o->seed && !o->verify_file)
        return common_complain(c, "--seed goes with --verify or --verify-file");
    if (!o->verify)
        return true;
    if (o->rw[RW_MIXED])
        return common_complain(c, "--verify excludes --rw mixed, which reads what is being written");
    if (o->fio || o->syscalls)
        return common_complain(c, "--verify excludes --compare and --syscalls, which write other bytes");
    if (o->keep_file && o->dir_count > 1)
        return common_complain(c, "--keep-file takes one --dir");
    if (o->keep_file && (strchr(o->keep_file, '/') || !o->keep_file[0]))
        return common_complain(c, "--keep-file %s: a name in --dir, without slashes", o->keep_file);
    return true;
}

/* Of all other options it takes few. */
static bool check_verify_file(const struct nvme_options *o, struct common_complaint *c)
{
    if (!o->seed)
        return common_complain(c, "--verify-file needs the --seed that it was written with");
    if (o->dir_count || o->verify || o->tensors || o->demand || o->sweep || o->fio || o->plot)
        return common_complain(c, "--verify-file FILE goes with --seed, --json, --engine and --direct alone");
    return true;
}

static bool check_files(const struct nvme_options *o, struct common_complaint *c)
{
    int err = o->json ? common_report_check(o->json) : 0;

    if (err < 0)
        return common_complain(c, "--json %s: %s", o->json, strerror(-err));
    for (unsigned i = 0; i < o->dir_count; i++)
        if (access(o->dirs[i], W_OK | X_OK) < 0)
            return common_complain(c, "--dir %s: %s", o->dirs[i], strerror(errno));
    return true;
}

static bool finish(void *options, struct common_complaint *c)
{
    struct nvme_options *o = options;
    bool table = !o->sweep && !o->tensors && !o->demand && !o->sustained && !o->rw[RW_GATHER];
    unsigned modes = 0;

    for (unsigned i = 0; i < RW_COUNT; i++)
        modes += o->rw[i];
    if (o->verify_file)
        return check_verify_file(o, c) && check_files(o, c);
    if (o->rw[RW_GATHER] && o->rows * o->row_bytes > 256 * MIB)
        return common_complain(c, "--rows %llu of --row %llu bytes: 256 MiB at most", (ull)o->rows,
                               (ull)o->row_bytes);
    if (o->sustained && (o->rw[RW_GATHER] || modes || o->sweep || o->tensors || o->demand || o->fio ||
                         o->syscalls || o->verify || o->keep_file))
        return common_complain(c, "--sustained takes no other kind of run beside it");
    if (!check_combination(o, modes, c) || !check_verify(o, c) || !check_files(o, c))
        return false;
    if (o->verify && !o->seed) /* so that what an earlier run has left is not taken for this one's */
        o->seed = (uint64_t)getpid() << 32 | ((uint64_t)time(NULL) & 0x7fffffff);
    if (o->plot && modes == 0 && !o->sweep && !table && !o->sustained)
        return common_complain(c, "--plot draws a table: it needs --rw or --sweep beside --tensors and "
                                  "--demand");
    if (modes == 0 && o->sweep)
        o->rw[RW_READ] = true;
    if (modes == 0 && table)
        o->rw[RW_READ] = o->rw[RW_WRITE] = o->rw[RW_RANDREAD] = true;
    if (modes == 0 && table && !o->verify)
        o->rw[RW_MIXED] = true;
    if (!o->repeat)
        o->repeat = o->fio ? 10 : o->sweep ? 3 : 5;
    if (o->time_s == 0)
        o->time_s = o->sweep ? 0.5 : 1.5;
    if (!o->buffer_bytes)
        o->buffer_bytes = 256 * MIB;
    if (!o->demand_bytes)
        o->demand_bytes = 16 * MIB;
    return true;
}

int nvme_options_parse(int argc, char **argv, struct nvme_options *o)
{
    static const struct common_command command = {.title = "ofl-bench nvme",
                                                  .before = before,
                                                  .after = after,
                                                  .hint = "directories go behind --dir",
                                                  .check = finish,
                                                  .tables = {{option_list, 0}}};

    *o = (struct nvme_options){.direct = -1};
    return common_options_parse(&command, argc, argv, o);
}

json_t *nvme_options_json(const struct nvme_options *o)
{
    static const char *const names[] = {"auto", "uring", "threads"};
    json_t *dirs = json_array(), *modes = json_array(), *j;

    for (unsigned i = 0; i < o->dir_count; i++)
        json_array_append_new(dirs, bench_text_json(o->dirs[i]));
    for (unsigned i = 0; i < RW_COUNT; i++)
        if (o->rw[i])
            json_array_append_new(modes, json_string(rw_words[i].name));
    j = json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:f, s:s, s:i, s:b, s:b, s:b, s:b}", "dir", dirs, "rw",
                  modes, "size", (json_int_t)o->size_bytes, "block", (json_int_t)o->block_bytes, "depth",
                  (json_int_t)o->depth, "repeat", (json_int_t)o->repeat, "time_s", o->time_s, "engine",
                  names[o->engine], "direct", o->direct, "registered", o->registered, "sqpoll",
                  (o->flags & IO_QUEUE_SQPOLL) != 0, "iopoll", (o->flags & IO_QUEUE_IOPOLL) != 0, "defer",
                  (o->flags & IO_QUEUE_DEFER) != 0);
    if (!j)
        return NULL;
    json_object_set_new(j, "buffers", json_integer((json_int_t)o->buffer_bytes));
    json_object_set_new(j, "sweep", json_boolean(o->sweep));
    json_object_set_new(j, "compare", o->fio ? json_string("fio") : json_null());
    json_object_set_new(j, "syscalls", json_boolean(o->syscalls));
    json_object_set_new(j, "max_written",
                        o->max_written ? json_integer((json_int_t)o->max_written) : json_null());
    json_object_set_new(j, "gather", json_boolean(o->rw[RW_GATHER]));
    json_object_set_new(j, "sustained", json_boolean(o->sustained));
    json_object_set_new(j, "verify", json_boolean(o->verify));
    json_object_set_new(j, "keep_file", o->keep_file ? bench_text_json(o->keep_file) : json_null());
    json_object_set_new(j, "tensors", bench_text_json(o->tensors));
    json_object_set_new(j, "demand_bytes",
                        o->demand ? json_integer((json_int_t)o->demand_bytes) : json_null());
    return j;
}
