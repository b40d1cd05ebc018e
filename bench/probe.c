/*
 * ofl-bench probe: what this machine is. This file reads the command line and writes the report.
 */
#include "bench/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/probe_drives.h"
#include "bench/probe_gpu.h"
#include "bench/probe_limits.h"
#include "bench/probe_machine.h"
#include "examples/common_options.h"

/* ---- options ---------------------------------------------------------------- */

struct options {
    struct common_texts dirs; /* none: the current directory */
    bool measure;
    const char *json;
};

#define FIELD(name) .field = offsetof(struct options, name)

/* clang-format off */
static const struct common_option option_list[] = {
    {COMMON_TEXTS, "dir", "DIR", "Directory whose drive is looked at; repeatable (default: the current one). The "
     "drives of other mounted file systems are listed after them", FIELD(dirs)},
    {COMMON_FLAG, "measure", NULL, "Measure the drives of these directories, some seconds each, in a scratch file "
     "that has no name, and keep the result for the library", FIELD(measure)},
    {COMMON_TEXT, "json", "FILE", "Write the same facts in JSON", FIELD(json)},
    {.kind = COMMON_END}};
/* clang-format on */

static const struct common_command command = {
    .title = "ofl-bench probe",
    .before = "Tells what this machine is: cores, memory, limits, io_uring, drives, accelerators. Needs no "
              "privileges, and leaves no file.",
    .after = "What is not known is said to be unknown, and is null in JSON.\n"
             "\n"
             "Examples:\n"
             "  ofl-bench probe\n"
             "  ofl-bench probe --dir /mnt/a --dir /mnt/b --measure\n"
             "  ofl-bench probe --json machine.json\n"
             "\n" COMMON_EXITS ".",
    .hint = "a directory goes behind --dir",
    .tables = {{option_list, 0}}};

/* Before a line is printed: what can't work. */
static int check_options(const struct options *o)
{
    struct stat s;
    int err = o->json ? common_report_check(o->json) : 0;

    if (err < 0)
        return common_fail(EXIT_INPUT, "--json %s: %s", o->json, strerror(-err));
    for (size_t i = 0; i < o->dirs.count; i++) {
        if (stat(o->dirs.texts[i], &s) < 0)
            return common_fail(EXIT_INPUT, "--dir %s: %s", o->dirs.texts[i], strerror(errno));
        if (!S_ISDIR(s.st_mode))
            return common_fail(EXIT_INPUT, "--dir %s: %s", o->dirs.texts[i], strerror(ENOTDIR));
    }
    return 0;
}

/* ---- main --------------------------------------------------------------------- */

static int run(const struct options *o)
{
    json_t *report = json_pack("{s:s, s:s, s:o}", "program", "ofl-bench probe", "version", ofl_version(),
                               "date", json_string(bench_date().text));
    int status;

    if (!report)
        return common_fail(EXIT_FULL, "make the report: out of memory");
    probe_machine(report);
    probe_limits(report);
    status = probe_drives(report, o->dirs.texts, (unsigned)o->dirs.count, o->measure);
    if (status == 0) {
        probe_gpus(report);
        if (common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: no report written");
    }
    if (status == 0 && o->json)
        status = common_report_write(o->json, report);
    if (status == 0 && (fflush(stdout) == EOF || ferror(stdout)))
        status = common_fail(common_status_late(-errno), "write to stdout: %s", strerror(errno));
    json_decref(report);
    return status;
}

int bench_probe_main(int argc, char **argv)
{
    struct options o = {.measure = false};
    int status = common_options_parse(&command, argc, argv, &o);

    if (status == 0)
        status = check_options(&o);
    if (status == 0) {
        common_signals();
        status = run(&o);
    }
    common_options_free(&command, &o);
    return status;
}
