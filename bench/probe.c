/*
 * ofl-bench probe: what this machine is. This file reads the command line, owns the look of
 * the lines, and writes the report; see probe.h for the others.
 */
#include "bench/probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LABEL_WIDTH 16

/* ---- lines ---------------------------------------------------------------- */

void probe_title(const char *title)
{
    static bool later;

    common_progress_clear();
    printf("%s%s\n", later ? "\n" : "", title);
    later = true;
}

void probe_line(unsigned depth, const char *label, const char *format, ...)
{
    va_list ap;

    common_progress_clear();
    printf("%*s%-*s", 2 + 2 * (int)depth, "", LABEL_WIDTH - 2 * (int)depth, label);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

void probe_add(struct probe_list *l, const char *format, ...)
{
    size_t at = strlen(l->text);
    va_list ap;

    if (at && at + 2 < sizeof l->text) {
        memcpy(l->text + at, ", ", 3);
        at += 2;
    }
    va_start(ap, format);
    vsnprintf(l->text + at, sizeof l->text - at, format, ap);
    va_end(ap);
}

/* ---- facts ----------------------------------------------------------------- */

bool probe_read(char *text, size_t bytes, const char *format, ...)
{
    char path[1024];
    va_list ap;
    FILE *f;

    text[0] = '\0';
    va_start(ap, format);
    vsnprintf(path, sizeof path, format, ap);
    va_end(ap);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (!fgets(text, (int)bytes, f))
        text[0] = '\0';
    fclose(f);
    text[strcspn(text, "\n")] = '\0';
    return text[0] != '\0';
}

/* What stands behind the colon if line is that of key, else NULL. */
static char *value_of(char *line, const char *key)
{
    size_t length = strlen(key);

    if (strncmp(line, key, length) != 0)
        return NULL;
    line += length + strspn(line + length, " \t");
    if (*line != ':')
        return NULL;
    line += 1 + strspn(line + 1, " \t");
    line[strcspn(line, "\n")] = '\0';
    return line;
}

bool probe_find(const char *path, const char *key, char *text, size_t bytes)
{
    FILE *f = fopen(path, "re");
    char *line = NULL, *value = NULL;
    size_t room = 0;

    text[0] = '\0';
    if (!f)
        return false;
    while (!value && getline(&line, &room, f) > 0)
        value = value_of(line, key);
    if (value)
        snprintf(text, bytes, "%s", value);
    free(line);
    fclose(f);
    return text[0] != '\0';
}

bool probe_find_bytes(const char *path, const char *key, uint64_t *out)
{
    char text[64];
    ull value;

    *out = 0;
    if (!probe_find(path, key, text, sizeof text) || sscanf(text, "%llu kB", &value) != 1)
        return false;
    *out = value << 10;
    return true;
}

json_t *probe_json_text(const char *text)
{
    return text[0] ? bench_text_json(text) : json_null();
}

json_t *probe_json_number(bool known, uint64_t value)
{
    return known ? json_integer((json_int_t)value) : json_null();
}

/* ---- options ---------------------------------------------------------------- */

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
    status = probe_drives(report, o);
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
