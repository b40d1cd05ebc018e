/* `ofl-bench compare`: see compare.h. */
#include "bench/compare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/compare_report.h"
#include "bench/compare_script.h"
#include "bench/plot.h"
#include "examples/common_options.h"

struct options {
    const char *names[COMPARE_MOST];
    unsigned count;
    bool csv;
    const char *plot, *json;
};

#define FIELD(name) .field = offsetof(struct options, name)

static const struct common_option option_list[] = {
    {COMMON_FLAG, "csv", NULL, "Print comma-separated values, a line for each run, instead of the table",
     FIELD(csv)},
    {COMMON_TEXT, "plot", "FILE", "Draw FILE.svg or FILE.png with gnuplot", FIELD(plot)},
    {COMMON_TEXT, "json", "FILE", "Write the comparison in JSON", FIELD(json)},
    {.kind = COMMON_END}};

static bool add_name(void *options, const char *text, struct common_complaint *c)
{
    struct options *o = options;

    if (o->count == COMPARE_MOST)
        return common_complain(c, "%u reports at most", COMPARE_MOST);
    o->names[o->count++] = text;
    return true;
}

static bool check(void *options, struct common_complaint *c)
{
    const struct options *o = options;
    int err = o->json ? common_report_check(o->json) : 0;

    if (o->count < 2)
        return common_complain(c, "two reports at least are needed");
    return err == 0 || common_complain(c, "--json %s: %s", o->json, strerror(-err));
}

/* What is read is not what is replaced. */
static int check_outputs(const struct options *o)
{
    const struct common_use out[] = {{"--plot", o->plot}, {"--json", o->json}};
    int status = 0;

    for (unsigned i = 0; i < o->count && status == 0; i++)
        status = common_outputs_check(out, ARRAY_COUNT(out), &(struct common_use){"the report", o->names[i]},
                                      1, NULL);
    return status;
}

static int plot(const struct compare_reports *c, const char *path)
{
    char *script = compare_script(c, bench_plot_is_svg(path));
    int status = bench_plot_draw(script, path);

    free(script);
    return status;
}

static int hand_over(const struct compare_reports *c, const struct options *o)
{
    json_t *j;
    int status = 0;

    if (o->csv)
        compare_print_csv(c);
    else
        compare_print_table(c);
    if (fflush(stdout) == EOF)
        return common_fail(common_status_late(-errno), "write the comparison: %m");
    if (o->json) {
        j = compare_json(c);
        status = j ? common_report_write(o->json, j) : common_fail(EXIT_FULL, "compare: out of memory");
        json_decref(j);
    }
    return status == 0 && o->plot ? plot(c, o->plot) : status;
}

int bench_compare_main(int argc, char **argv)
{
    static const struct common_command command = {
        .title = "ofl-bench compare",
        .before = "Puts reports that `ofl-bench nvme --json` has written beside each other, run by run: "
                  "rates, latencies, CPU "
                  "time, and each rate over the first report's.",
        .after = "A ratio with ~ shows no difference: the ranges of the repeats overlap.\n"
                 "\n"
                 "Examples:\n"
                 "  ofl-bench compare before.json after.json\n"
                 "  ofl-bench compare a.json b.json c.json --plot drives.svg\n"
                 "  ofl-bench compare a.json b.json --csv >drives.csv\n"
                 "\n" COMMON_EXITS ".",
        .arguments = "REPORT REPORT...",
        .argument = add_name,
        .check = check,
        .tables = {{option_list, 0}}};
    struct options o = {.count = 0};
    struct compare_reports c = {.count = 0};
    int status = common_options_parse(&command, argc, argv, &o);

    if (status)
        return status;
    common_signals();
    status = check_outputs(&o);
    if (status == 0 && o.plot)
        status = bench_plot_check(o.plot);
    if (status == 0)
        status = compare_load(&c, o.names, o.count);
    if (status == 0)
        status = hand_over(&c, &o);
    compare_free(&c);
    return status;
}
