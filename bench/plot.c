/* `ofl-bench plot`, and the plot of `ofl-bench nvme`: gnuplot as a child. See bench.h. */
#include "bench/plot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/plot_script.h"
#include "bench/plot_tiers.h"
#include "examples/common_options.h"

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

bool bench_plot_is_svg(const char *path)
{
    return ends_with(path, ".svg");
}

int bench_plot_draw(const char *script, const char *path)
{
    char *const argv[] = {(char[]){"gnuplot"}, NULL};
    struct bench_output out = {0};
    int err = script ? bench_child_run(argv, script, -1, &out) : -ENOMEM, status = 0;

    /* What it says without failing are warnings, of locales for instance. */
    if (err == -EIO || (err == 0 && out.out_bytes == 0))
        status = common_fail(EXIT_RUNTIME, "plot %s: gnuplot: %s", path, bench_first_line(out.err));
    else if (err == 0)
        err = write_whole(path, out.out, out.out_bytes);
    if (status == 0 && err < 0)
        status = common_fail(err == -ECANCELED ? EXIT_INTERRUPTED : EXIT_RUNTIME, "plot %s: %s", path,
                             strerror(-err));
    bench_output_free(&out);
    return status;
}

int bench_plot(const json_t *report, const char *path)
{
    char *script;
    int status;

    if (json_array_size(json_object_get(report, "results")) == 0 &&
        !json_is_object(json_object_get(report, "sustained")))
        return common_fail(EXIT_INPUT, "plot %s: the report has no runs to draw", path);
    script = bench_plot_script(report, bench_plot_is_svg(path));
    status = bench_plot_draw(script, path);
    free(script);
    return status;
}

static int plot_tiers(const json_t *timeline, const char *path)
{
    char *script;
    int status;

    if (!bench_tiers_are_there(timeline))
        return common_fail(EXIT_INPUT, "plot %s: the timeline does not say what tiers held", path);
    script = bench_plot_tiers_script(timeline, bench_plot_is_svg(path));
    status = bench_plot_draw(script, path);
    free(script);
    return status;
}

/* ---- the command --------------------------------------------------------------------------------- */

struct files {
    const char *names[2];
    unsigned count;
};

static bool add_file(void *options, const char *text, struct common_complaint *c)
{
    struct files *f = options;

    if (f->count == 2)
        return common_complain(c, "one more than REPORT and PLOT");
    f->names[f->count++] = text;
    return true;
}

static bool check_files(void *options, struct common_complaint *c)
{
    const struct files *f = options;

    return f->count == 2 || common_complain(c, "REPORT and PLOT are needed");
}

static bool is_report(const json_t *report)
{
    const char *program = json_string_value(json_object_get(report, "program"));

    return program && strcmp(program, "ofl-bench nvme") == 0;
}

int bench_plot_main(int argc, char **argv)
{
    static const struct common_command command = {
        .title = "ofl-bench plot",
        .before =
            "Draws what `ofl-bench nvme --json REPORT` has written into PLOT, a file that ends with .svg "
            "or .png: throughput and the distribution of latencies; or a timeline, what device, host and "
            "drives "
            "held over its time. Needs gnuplot.",
        .after = "Example:\n  ofl-bench plot sweep.json sweep.svg\n\n"
                 "A timeline is what --timeline=FILE of a run writes.",
        .arguments = "REPORT PLOT",
        .argument = add_file,
        .check = check_files};
    struct files f = {.count = 0};
    json_error_t error;
    json_t *report;
    int status;

    status = common_options_parse(&command, argc, argv, &f);
    if (status)
        return status;
    common_signals();
    report = json_load_file(f.names[0], 0, &error);
    if (!report)
        return error.line < 1
                   ? common_fail(EXIT_INPUT, "%s", error.text) /* it can't be opened */
                   : common_fail(EXIT_INPUT, "%s: line %d: %s", f.names[0], error.line, error.text);
    status =
        is_report(report) || json_is_array(report)
            ? bench_plot_check(f.names[1])
            : common_fail(EXIT_INPUT, "%s: neither a report of ofl-bench nvme nor a timeline", f.names[0]);
    if (status == 0)
        status = json_is_array(report) ? plot_tiers(report, f.names[1]) : bench_plot(report, f.names[1]);
    json_decref(report);
    return status;
}
