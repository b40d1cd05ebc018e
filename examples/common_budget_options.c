/* common: the options of budgets. See common_budget.h. */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/common_budget.h"

typedef unsigned long long ull;

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool common_set_directory(void *field, const char *text, struct common_complaint *c)
{
    struct ofl_nvme *n = field;
    const char *colon = strrchr(text, ':');
    size_t length = strlen(text);

    if (colon && strchr(colon, '/') == NULL && !is_directory(text)) {
        length = (size_t)(colon - text);
        if (common_parse_bytes(colon + 1, &n->bytes) < 0 || n->bytes == 0)
            return common_complain(c, "%s: not a size such as 4194304, 512M or 1.5G", colon + 1);
    }
    if (length == 0)
        return common_complain(c, "no directory");
    free((char *)n->dir);
    n->dir = strndup(text, length);
    return n->dir || common_complain(c, "out of memory");
}

/* Into the next place of a struct common_budget. */
static bool set_nvme(void *field, const char *text, struct common_complaint *c)
{
    struct common_budget *b = field;

    if (b->nvme_count == OFL_NVME_MAX)
        return common_complain(c, "one more than the %d directories that can be striped", OFL_NVME_MAX);
    if (!common_set_directory(&b->nvme[b->nvme_count], text, c))
        return false;
    b->nvme_count++;
    return true;
}

#define FIELD(name) offsetof(struct common_budget, name)

/* hide: whether --help leaves --nvme out. */
#define BUDGET_OPTIONS(hide)                                                                                 \
    {                                                                                                        \
        {.kind = COMMON_GROUP, .text = "Memory (SIZE: bytes, or 512M, 1.5G, ...):", .least = 2},             \
            {.kind = COMMON_TEXT,                                                                            \
             .name = "device",                                                                               \
             .value = "NAME",                                                                                \
             .field = FIELD(device),                                                                         \
             .text = "cuda:N, a GPU, or host, which emulates one in RAM (default: the first GPU, else "      \
                     "host)"},                                                                               \
            {.kind = COMMON_BYTES,                                                                           \
             .name = "device-mem",                                                                           \
             .value = "SIZE",                                                                                \
             .field = FIELD(device_bytes),                                                                   \
             .text = "Budget of the device's memory"},                                                       \
            {.kind = COMMON_BYTES,                                                                           \
             .name = "host-mem",                                                                             \
             .value = "SIZE",                                                                                \
             .field = FIELD(host_bytes),                                                                     \
             .text = "Budget of pinned host memory"},                                                        \
            {.kind = COMMON_CALL,                                                                            \
             .name = "nvme",                                                                                 \
             .value = "DIR[:SIZE]",                                                                          \
             .set = set_nvme,                                                                                \
             .hidden = hide,                                                                                 \
             .text = "Directory of the NVMe tier and its budget (default: what is free there, less 5 %); "   \
                     "given several times: striped over all, with shares by their speed"},                   \
            {.kind = COMMON_BYTES,                                                                           \
             .name = "max-written",                                                                          \
             .value = "SIZE",                                                                                \
             .field = FIELD(max_written),                                                                    \
             .hidden = hide,                                                                                 \
             .text = "Write so much to drives at most, in this run: it stops before the byte that would "    \
                     "pass that (exit status 5)"},                                                           \
            {.kind = COMMON_FLAG,                                                                            \
             .name = "in-memory",                                                                            \
             .field = FIELD(in_memory),                                                                      \
             .text = "Everything in device memory, as much as that takes: the reference"},                   \
            {.kind = COMMON_GROUP, .least = 6},                                                              \
            {.kind = COMMON_FLAG,                                                                            \
             .name = "quiet",                                                                                \
             .field = FIELD(quiet),                                                                          \
             .text = "Say nothing on standard error but complaints and warnings"},                           \
            {.kind = COMMON_TEXT,                                                                            \
             .name = "report",                                                                               \
             .value = "FILE",                                                                                \
             .field = FIELD(report),                                                                         \
             .text = "Write a report in JSON; docs/report.md describes it"},                                 \
            {.kind = COMMON_TEXT,                                                                            \
             .name = "timeline",                                                                             \
             .value = "FILE",                                                                                \
             .field = FIELD(timeline),                                                                       \
             .text = "Write what the run does when, and what it waits for, as a trace that "                 \
                     "https://ui.perfetto.dev opens"},                                                       \
        {                                                                                                    \
            .kind = COMMON_END                                                                               \
        }                                                                                                    \
    }

const struct common_option common_budget_options[] = BUDGET_OPTIONS(false);
const struct common_option common_read_options[] = BUDGET_OPTIONS(true);

void common_budget_free(struct common_budget *b)
{
    while (b->nvme_count)
        free((char *)b->nvme[--b->nvme_count].dir);
    free((char *)b->store.dir);
    b->store.dir = NULL;
}

/* What follows a colon was taken for a size: it may have been meant as a part of the name. */
static int refuse_directory(const struct ofl_nvme *n)
{
    if (errno == ENOENT && n->bytes)
        return common_fail(
            EXIT_INPUT,
            "--nvme %s, with a budget of %s: no such directory; nor is there one whose name goes on "
            "with the colon (it is written DIR:SIZE)",
            n->dir, common_bytes(n->bytes).text);
    return common_fail(EXIT_INPUT, "--nvme %s: %s", n->dir, strerror(errno));
}

/* It is made by the first run: then what it is made in has to allow that. */
static int check_keep(const struct common_budget *b)
{
    const char *dir = b->store.dir, *parent;
    char above[4096];

    if (b->in_memory)
        return common_fail(
            EXIT_INPUT,
            "--in-memory and --store: what is kept lives in the store, not in device memory; leave "
            "--in-memory out: without budgets memory holds all that it can");
    if (access(dir, F_OK) == 0) {
        if (is_directory(dir) && access(dir, R_OK | W_OK | X_OK) == 0)
            return 0;
        return common_fail(EXIT_INPUT, "--store %s: %s", dir,
                           is_directory(dir) ? strerror(errno) : "not a directory");
    }
    if (snprintf(above, sizeof above, "%s", dir) >= (int)sizeof above)
        return common_fail(EXIT_INPUT, "--store %s: %s", dir, strerror(ENAMETOOLONG));
    parent = dirname(above);
    if (access(parent, W_OK | X_OK) == 0)
        return 0;
    return common_fail(EXIT_INPUT, "--store %s: it is not there, and can't be made in %s: %s", dir, parent,
                       strerror(errno));
}

int common_budget_check(const struct common_budget *b)
{
    int err;

    if (b->quiet)
        common_quiet();
    if (b->store.dir && (err = check_keep(b)))
        return err;
    if (b->in_memory && (b->device_bytes || b->host_bytes || b->nvme_count))
        return common_fail(EXIT_INPUT,
                           "--in-memory takes what it needs: it excludes --device-mem, --host-mem and "
                           "--nvme");
    if (b->host_bytes && b->host_bytes < OFL_HOST_MIN_BYTES)
        return common_fail(
            EXIT_INPUT,
            "--host-mem of %llu bytes: bytes move through host memory in tiles; the smallest workable "
            "--host-mem is %u bytes (%s)",
            (ull)b->host_bytes, OFL_HOST_MIN_BYTES, common_bytes(OFL_HOST_MIN_BYTES).text);
    for (uint32_t i = 0; i < b->nvme_count; i++)
        if (access(b->nvme[i].dir, W_OK | X_OK) < 0)
            return refuse_directory(&b->nvme[i]);
    err = b->report ? common_report_check(b->report) : 0;
    if (err < 0)
        return common_fail(EXIT_INPUT, "--report %s: %s", b->report, strerror(-err));
    err = b->timeline ? common_report_check(b->timeline) : 0;
    if (err < 0)
        return common_fail(EXIT_INPUT, "--timeline %s: %s", b->timeline, strerror(-err));
    return 0;
}
