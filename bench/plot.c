/* `ofl-bench plot`, and the plot of `ofl-bench nvme`: gnuplot as a child. See bench.h. */
#include "bench/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);

    return length > tail && strcmp(text + length - tail, end) == 0;
}

static int write_whole(const char *path, const char *bytes, size_t count)
{
    char *temporary;
    int fd = common_file_begin(path, &temporary), err = 0;

    if (fd < 0)
        return fd;
    if (write(fd, bytes, count) != (ssize_t)count)
        err = -EIO;
    close(fd);
    return common_file_end(path, temporary, err);
}

int bench_plot_check(const char *path)
{
    char *const argv[] = {(char[]){"gnuplot"}, (char[]){"--version"}, NULL};
    struct bench_output out = {0};
    struct stat s;
    int err;

    if (!ends_with(path, ".svg") && !ends_with(path, ".png"))
        return common_fail(EXIT_INPUT, "plot %s: the name has to end with .svg or .png", path);
    if (lstat(path, &s) == 0 && !S_ISREG(s.st_mode))
        return common_fail(EXIT_INPUT, "plot %s: there is something of that name that is no regular file",
                           path);
    err = common_report_check(path);
    if (err < 0)
        return common_fail(EXIT_INPUT, "plot %s: %s", path, strerror(-err));
    err = bench_child_run(argv, NULL, -1, &out);
    bench_output_free(&out);
    if (err == -ENOENT)
        return common_fail(EXIT_INPUT,
                           "plot: gnuplot is not installed; on Debian: apt-get install gnuplot-nox");
    return err < 0 ? common_fail(EXIT_INPUT, "plot: gnuplot does not run: %s", strerror(-err)) : 0;
}

int bench_plot(const json_t *report, const char *path)
{
    char *const argv[] = {(char[]){"gnuplot"}, NULL};
    struct bench_output out = {0};
    char *script = NULL;
    int err = 0, status = 0;

    if (json_array_size(json_object_get(report, "results")) == 0)
        return common_fail(EXIT_INPUT, "plot %s: the report has no runs to draw", path);
    script = bench_plot_script(report, ends_with(path, ".svg"));
    err = script ? bench_child_run(argv, script, -1, &out) : -ENOMEM;
    /* What it says without failing are warnings, of locales for instance. */
    if (err == -EIO || (err == 0 && out.out_bytes == 0))
        status = common_fail(EXIT_RUNTIME, "plot %s: gnuplot: %s", path, bench_first_line(out.err));
    else if (err == 0)
        err = write_whole(path, out.out, out.out_bytes);
    if (status == 0 && err < 0)
        status = common_fail(err == -ECANCELED ? EXIT_INTERRUPTED : EXIT_RUNTIME, "plot %s: %s", path,
                             strerror(-err));
    bench_output_free(&out);
    free(script);
    return status;
}

/* ---- the command --------------------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    const char **files = state->input;

    switch (key) {
    case ARGP_KEY_ARG:
        if (state->arg_num >= 2)
            argp_error(state, "%s: one more than REPORT and PLOT", arg);
        else
            files[state->arg_num] = arg;
        return 0;
    case ARGP_KEY_END:
        if (state->arg_num < 2)
            argp_error(state, "REPORT and PLOT are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool is_report(const json_t *report)
{
    const char *program = json_string_value(json_object_get(report, "program"));

    return program && strcmp(program, "ofl-bench nvme") == 0;
}

int bench_plot_main(int argc, char **argv)
{
    static const char doc[] = "Draws what `ofl-bench nvme --json REPORT` has written into PLOT, a file that "
                              "ends with .svg or .png: "
                              "throughput and the distribution of latencies. Needs gnuplot.\v"
                              "Example:\n"
                              "  ofl-bench plot sweep.json sweep.svg";
    const struct argp argp = {.parser = parse, .args_doc = "REPORT PLOT", .doc = doc};
    const char *files[2] = {NULL, NULL};
    json_error_t error;
    json_t *report;
    int status;

    argp_err_exit_status = EXIT_INPUT;
    if (argp_parse(&argp, argc, argv, 0, NULL, files))
        return common_fail(EXIT_INPUT, "options: out of memory");
    common_signals();
    report = json_load_file(files[0], 0, &error);
    if (!report)
        return common_fail(EXIT_INPUT, "%s: line %d: %s", files[0], error.line, error.text);
    status = is_report(report) ? bench_plot_check(files[1])
                               : common_fail(EXIT_INPUT, "%s: not a report of ofl-bench nvme", files[0]);
    if (status == 0)
        status = bench_plot(report, files[1]);
    json_decref(report);
    return status;
}
