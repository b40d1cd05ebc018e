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

/* ---- options ---------------------------------------------------------------- */

struct probe_options {
    const char **dirs;
    unsigned dir_count; /* 0: the current directory */
    bool measure;
    const char *json;
};

enum { KEY_DIR = 0x100, KEY_JSON, KEY_MEASURE };

static const struct argp_option option_list[] = {
    {"dir", KEY_DIR, "DIR", 0,
     "Directory whose drive is looked at; repeatable (default: the current one). The drives of other mounted "
     "file systems are listed after them",
     1},
    {"measure", KEY_MEASURE, NULL, 0,
     "Measure the drives of these directories, some seconds each, in a scratch file that has no name, and "
     "keep the result for the library",
     1},
    {"json", KEY_JSON, "FILE", 0, "Write the same facts in JSON", 1},
    {0}};

static const char doc[] =
    "Tells what this machine is: cores, memory, limits, io_uring, drives, accelerators. Needs no "
    "privileges, and leaves no file.\v"
    "What is not known is said to be unknown, and is null in JSON.\n"
    "\n"
    "Examples:\n"
    "  ofl-bench probe\n"
    "  ofl-bench probe --dir /mnt/a --dir /mnt/b --measure\n"
    "  ofl-bench probe --json machine.json\n"
    "\n"
    "Exit status: 0 done; 1 something failed on the way; 2 options or directories that can't work; 130 "
    "ended by SIGINT or SIGTERM.";

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct probe_options *o = state->input;
    const char **more;

    switch (key) {
    case KEY_DIR:
        more = realloc(o->dirs, (o->dir_count + 1) * sizeof *more);
        if (!more)
            return ENOMEM;
        o->dirs = more;
        o->dirs[o->dir_count++] = arg;
        return 0;
    case KEY_JSON:
        o->json = arg;
        return 0;
    case KEY_MEASURE:
        o->measure = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: a directory goes behind --dir", arg);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void print_version(FILE *f, struct argp_state *state)
{
    (void)state;
    fprintf(f, "ofl-bench %s\n", ofl_version());
}

/* Before a line is printed: what can't work. */
static int check_options(const struct probe_options *o)
{
    struct stat s;
    int err = o->json ? common_report_check(o->json) : 0;

    if (err < 0)
        return common_fail(EXIT_INPUT, "--json %s: %s", o->json, strerror(-err));
    for (unsigned i = 0; i < o->dir_count; i++) {
        if (stat(o->dirs[i], &s) < 0)
            return common_fail(EXIT_INPUT, "--dir %s: %s", o->dirs[i], strerror(errno));
        if (!S_ISDIR(s.st_mode))
            return common_fail(EXIT_INPUT, "--dir %s: %s", o->dirs[i], strerror(ENOTDIR));
    }
    return 0;
}

/* ---- main --------------------------------------------------------------------- */

static int run(const struct probe_options *o)
{
    json_t *report = json_pack("{s:s, s:s, s:o}", "program", "ofl-bench probe", "version", ofl_version(),
                               "date", json_string(bench_date().text));
    int status;

    if (!report)
        return common_fail(EXIT_RUNTIME, "make the report: out of memory");
    probe_machine(report);
    probe_limits(report);
    status = probe_drives(report, o->dirs, o->dir_count, o->measure);
    if (status == 0) {
        probe_gpus(report);
        if (common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: no report written");
    }
    if (status == 0 && o->json)
        status = common_report_write(o->json, report);
    if (status == 0 && (fflush(stdout) == EOF || ferror(stdout)))
        status = common_fail(EXIT_RUNTIME, "write to stdout: %s", strerror(errno));
    json_decref(report);
    return status;
}

int bench_probe_main(int argc, char **argv)
{
    const struct argp argp = {.options = option_list, .parser = parse_option, .doc = doc};
    struct probe_options o = {0};
    int status = 0;

    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_INPUT;
    if (argp_parse(&argp, argc, argv, 0, NULL, &o))
        status = common_fail(EXIT_INPUT, "options: out of memory");
    if (status == 0)
        status = check_options(&o);
    if (status == 0) {
        common_signals();
        status = run(&o);
    }
    free(o.dirs);
    return status;
}
