/*
 * The gnuplot script of `ofl-bench compare`: rates over those of the first report, so that all kinds of runs have one axis;
 * below, their p99 latencies. See compare_script.h.
 */
#include "bench/compare_script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/text.h"

static const char *const colours[COMPARE_MOST] = {"#7a7a7a", "#3b6fb5", "#e69f00", "#1f9e89",
                                                  "#d1495b", "#7fb800", "#440154", "#000000"};

/* Text inside quotes of a script: names of files and drives may hold anything. */
static void put_text(FILE *f, const char *text)
{
    for (; *text; text++)
        fputc((unsigned char)*text < ' ' || strchr("\"'`\\", *text) ? '_' : *text, f);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* What report `index` has beside the first one that has the row at all, in whose unit it is drawn. */
static double unit_of(const struct compare_reports *c, unsigned row)
{
    for (unsigned i = 0; i < c->count; i++) {
        struct compare_figure g = compare_figure(compare_run(c, row, i), "gb_per_s");

        if (g.known)
            return g.median;
    }
    return 1;
}

static double place(const struct compare_reports *c, unsigned row, unsigned index)
{
    return row + (index - (c->count - 1) / 2.0) * 0.8 / c->count;
}

static void put_data(FILE *f, const struct compare_reports *c, unsigned index)
{
    fprintf(f, "$rate%u << END\n", index);
    for (unsigned row = 0; row < c->rows; row++) {
        const json_t *run = compare_run(c, row, index);
        struct compare_figure g = compare_figure(run, "gb_per_s");
        double unit = unit_of(c, row);

        if (run)
            fprintf(f, "%g %g %g %g %.2f\n", place(c, row, index), g.median / unit, g.min / unit,
                    g.max / unit, g.median);
    }
    fprintf(f, "END\n$wait%u << END\n", index);
    for (unsigned row = 0; row < c->rows; row++) {
        double p50 = compare_latency(compare_run(c, row, index), "p50"),
               p99 = compare_latency(compare_run(c, row, index), "p99");

        if (p50 > 0 && p99 > 0)
            fprintf(f, "%g %g %g\n", place(c, row, index), p50 / 1000, p99 / 1000);
    }
    fputs("END\n", f);
}

static void put_kinds(FILE *f, const struct compare_reports *c)
{
    fputs("set xtics (", f);
    for (unsigned row = 0; row < c->rows; row++) {
        const json_t *run = c->first[row];

        fputs(row ? ", \"" : "\"", f);
        put_text(f, compare_text(run, "rw"));
        fprintf(f, " %s, %lld\" %u",
                bench_block_text((uint64_t)json_integer_value(json_object_get(run, "block_bytes"))).text,
                (long long)json_integer_value(json_object_get(run, "depth")), row);
    }
    fprintf(f, ")%s\nset xrange [-0.6:%g]\n", c->rows > 6 ? " rotate by -45" : "", c->rows - 0.4);
}

static void put_rates(FILE *f, const struct compare_reports *c)
{
    const char *separator = "plot ";
    bool labels = c->rows * c->count <= 24;

    fprintf(f,
            "set title \"Throughput over that of the first report that has the run, median and range%s\"\n"
            "set ylabel \"of the first report's\"\nset yrange [0:*]\nset offsets 0,0,graph 0.08,0\n",
            labels ? "; numbers: GB/s" : "");
    for (unsigned i = 0; i < c->count; i++) {
        fprintf(f, "%s$rate%u using 1:2:3:4:(%g) with boxerrorbars lc rgb '%s' title \"%c: ", separator, i,
                0.8 / c->count, colours[i], 'A' + (int)i);
        put_text(f, base_name(c->names[i]));
        fputc('"', f);
        separator = ", \\\n  ";
        if (labels)
            fprintf(f, "%s$rate%u using 1:4:5 with labels offset 0,0.6 font ',10' notitle", separator, i);
    }
    fputs("\nset offsets\n", f);
}

static void put_waits(FILE *f, const struct compare_reports *c)
{
    const char *separator = "plot ";

    fputs(
        "set title \"Latency of one transfer, median to p99\"\nset ylabel \"latency\"\nset logscale y 10\n"
        "set yrange [*:*]\nset ytics (\"1 us\" 1, \"10 us\" 10, \"100 us\" 100, \"1 ms\" 1e3, \"10 ms\" 1e4, "
        "\"100 ms\" 1e5, \"1 s\" 1e6, \"10 s\" 1e7)\n",
        f);
    for (unsigned i = 0; i < c->count; i++) {
        fprintf(f, "%s$wait%u using 1:2:2:3 with yerrorbars lw 2 pt 7 lc rgb '%s' notitle", separator, i,
                colours[i]);
        separator = ", \\\n  ";
    }
    fputc('\n', f);
}

static void put_title(FILE *f, const struct compare_reports *c)
{
    fputs("set multiplot layout 2,1 title \"", f);
    for (unsigned i = 0; i < c->count; i++) {
        char *drives = compare_drives(c->reports[i]);

        fprintf(f, "%s%c: ", i ? "; " : "", 'A' + (int)i);
        put_text(f, drives ? drives : "");
        fputs(", ", f);
        put_text(f, compare_text(c->reports[i], "date"));
        free(drives);
    }
    fputs("\"\n", f);
}

char *compare_script(const struct compare_reports *c, bool svg)
{
    unsigned width = 1000 + 24 * c->rows * c->count;
    char *script = NULL;
    size_t bytes;
    FILE *f = open_memstream(&script, &bytes);

    if (!f)
        return NULL;
    width = width < 2400 ? width : 2400;
    fprintf(
        f,
        svg ? "set terminal svg size %u,820 dynamic noenhanced font 'sans-serif,13' background '#ffffff'\n"
            : "set terminal pngcairo size %u,820 noenhanced font 'sans,12' background '#ffffff'\n",
        width);
    fputs(
        "set encoding utf8\nset grid y lc rgb '#b0b0b0'\nset border 3\nset tics nomirror out\nset bars 0.6\n"
        "set style fill solid 0.6\nset key below horizontal\nset lmargin 13\nset rmargin 9\n",
        f);
    for (unsigned i = 0; i < c->count; i++)
        put_data(f, c, i);
    put_title(f, c);
    put_kinds(f, c);
    put_rates(f, c);
    put_waits(f, c);
    fputs("unset multiplot\n", f);
    if (fclose(f) == EOF) {
        free(script);
        return NULL;
    }
    return script;
}
