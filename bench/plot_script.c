/*
 * The gnuplot script that draws a report of `ofl-bench nvme`: throughput on the left,
 * latencies on the right. Knows the report only, not how it was measured. See bench.h.
 */
#include "bench/plot_script.h"
#include "bench/plot_sustained.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CURVES_MOST 8u /* of latencies: more can't be told apart */
#define FOCUS_BLOCK MIB
#define FINE_RANGE  2000.0 /* of the time axis: ticks between the powers of ten fit */

/* ---- looking things up -------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static bool is_random(const json_t *result)
{
    return strncmp(text_of(result, "rw"), "rand", 4) == 0;
}

static bool same_kind(const json_t *a, const json_t *b)
{
    return strcmp(text_of(a, "rw"), text_of(b, "rw")) == 0;
}

/* Whether the report goes through several blocks of one kind: a sweep. */
static bool has_blocks(const json_t *results)
{
    const json_t *first = json_array_get(results, 0), *r;
    size_t i;

    json_array_foreach(results, i,
                       r) if (same_kind(r, first) &&
                              number_of(r, "block_bytes") != number_of(first, "block_bytes")) return true;
    return false;
}

/* Text inside quotes of a gnuplot script: names of files and drives may hold anything. */
static void put_text(FILE *f, const char *text)
{
    for (; *text; text++)
        fputc((unsigned char)*text < ' ' || strchr("\"'`\\", *text) ? '_' : *text, f);
}

static void put_block(FILE *f, double bytes)
{
    if (bytes >= (double)MIB)
        fprintf(f, "%gM", bytes / (double)MIB);
    else
        fprintf(f, "%gK", bytes / 1024);
}

/* ---- throughput ---------------------------------------------------------------------- */

/* Rows of "block median min max" of one kind at one depth: of GB/s, or of thousands of transfers a second. Returns their
 * number. */
static unsigned put_rows(FILE *f, const json_t *results, const json_t *like, bool per_s)
{
    const double unit = per_s ? 1000 : 1;
    const json_t *r;
    unsigned rows = 0;
    size_t i;

    json_array_foreach(results, i, r)
    {
        const json_t *gb = json_object_get(r, per_s ? "iops" : "gb_per_s");

        if (!same_kind(r, like) || number_of(r, "depth") != number_of(like, "depth"))
            continue;
        fprintf(f, "%.0f %g %g %g\n", number_of(r, "block_bytes"), number_of(gb, "median") / unit,
                number_of(gb, "min") / unit, number_of(gb, "max") / unit);
        rows++;
    }
    return rows;
}

/* The first result of its kind and depth stands for its line. */
static bool leads(const json_t *results, size_t index)
{
    const json_t *r = json_array_get(results, index);

    for (size_t i = 0; i < index; i++) {
        const json_t *before = json_array_get(results, i);

        if (same_kind(before, r) && number_of(before, "depth") == number_of(r, "depth"))
            return false;
    }
    return true;
}

static const char *const colours[] = {"#440154", "#3b6fb5", "#1f9e89", "#7fb800",
                                      "#e69f00", "#d1495b", "#7a7a7a", "#000000"};

/* One colour for a depth, in both panels. */
static int colour(double depth)
{
    return 1 + (int)(log2(depth > 1 ? depth : 1) + 0.5) % (int)ARRAY_COUNT(colours);
}

static void put_block_tics(FILE *f, const json_t *results)
{
    const json_t *r;
    size_t i;

    fputs("set xtics (", f);
    json_array_foreach(results, i, r)
    {
        fputs(i ? ", \"" : "\"", f);
        put_block(f, number_of(r, "block_bytes"));
        fprintf(f, "\" %.0f", number_of(r, "block_bytes"));
    }
    fputs(")\n", f);
}

static void put_lines(FILE *f, const json_t *results)
{
    const json_t *first = json_array_get(results, 0), *r;
    const char *separator = "plot ";
    size_t i;

    json_array_foreach(results, i, r) if (leads(results, i))
    {
        fprintf(f, "$rate%zu << END\n", i);
        put_rows(f, results, r, !same_kind(r, first));
        fputs("END\n", f);
    }
    fputs("set title \"Throughput over block size, median and range\"\nset xlabel \"block (bytes)\"\n"
          "set logscale x 2\n",
          f);
    put_block_tics(f, results);
    /* Small blocks have few GB/s: how many there are is what counts. */
    if (!same_kind(json_array_get(results, json_array_size(results) - 1), first))
        fputs(
            "set y2label \"thousand transfers/s\"\nset y2tics nomirror\nset y2range [0:*]\nset rmargin 10\n",
            f);
    json_array_foreach(results, i, r)
    {
        bool other = !same_kind(r, first);

        if (!leads(results, i))
            continue;
        fprintf(f, "%s$rate%zu using 1:2:3:4%s with yerrorlines lw 2 pt %d lc %d ", separator, i,
                other ? " axes x1y2" : "", other ? 4 : 7, colour(number_of(r, "depth")));
        if (other) { /* in the colours of their depths */
            fputs("notitle", f);
        } else {
            fputs("title \"", f);
            put_text(f, text_of(r, "rw"));
            fprintf(f, ", depth %.0f\"", number_of(r, "depth"));
        }
        separator = ", \\\n  ";
    }
    r = json_array_get(results, json_array_size(results) - 1);
    if (!same_kind(r, first)) {
        fprintf(f, "%sNaN with points pt 4 lc rgb '#000000' title \"", separator);
        put_text(f, text_of(r, "rw"));
        fputs(": right axis\"", f);
    }
    fputs("\nunset logscale x\nset xtics autofreq\nunset y2tics\nunset y2label\nset rmargin 4\n", f);
}

static void put_bars(FILE *f, const json_t *results)
{
    const json_t *r;
    size_t i;

    fputs("$rate << END\n", f);
    json_array_foreach(results, i, r)
    {
        const json_t *gb = json_object_get(r, "gb_per_s");

        fprintf(f, "%zu %g %g %g %d \"", i, number_of(gb, "median"), number_of(gb, "min"),
                number_of(gb, "max"), 1 + (int)i % 8);
        put_text(f, text_of(r, "rw"));
        fputs("\\n", f);
        put_block(f, number_of(r, "block_bytes"));
        fprintf(f, ", depth %.0f\"\n", number_of(r, "depth"));
    }
    fprintf(f,
            "END\nset title \"Throughput, median and range\"\nunset xlabel\nset xrange [-0.7:%.1f]\n"
            "set style fill solid 0.6\n"
            "plot $rate using 1:2:3:4:(0.6):5:xtic(6) with boxerrorbars lc variable lw 1.5 notitle, \\\n"
            "  $rate using 1:4:(sprintf(\"%%.2f\", $2)) with labels offset 0,0.7 notitle\n"
            "set xrange [*:*]\n",
            (double)json_array_size(results) - 0.3);
}

/* ---- latencies ---------------------------------------------------------------------------- */

/* On an axis of nines: 0.9 is 1, 0.99 is 2. The last transfer stands half a transfer below 1. */
static double nines(double seen, double total)
{
    return -log10(1 - fmin(seen, total - 0.5) / total);
}

/* Rows of "microseconds nines" of the reads and writes of a result together. False if none. */
static bool put_distribution(FILE *f, const json_t *result)
{
    const json_t *side[2] = {json_object_get(result, "read_histogram_ns"),
                             json_object_get(result, "write_histogram_ns")};
    size_t at[2] = {0, 0};
    double total = 0, seen = 0;

    for (int s = 0; s < 2; s++)
        for (size_t i = 0; i < json_array_size(side[s]); i++)
            total += json_number_value(json_array_get(json_array_get(side[s], i), 1));
    while (at[0] < json_array_size(side[0]) || at[1] < json_array_size(side[1])) {
        const json_t *bucket[2] = {json_array_get(side[0], at[0]), json_array_get(side[1], at[1])};
        double value[2];
        int s;

        for (s = 0; s < 2; s++)
            value[s] = bucket[s] ? json_number_value(json_array_get(bucket[s], 0)) : HUGE_VAL;
        s = value[1] < value[0];
        if (seen == 0)
            fprintf(f, "%g 0\n", value[s] / 1000);
        seen += json_number_value(json_array_get(bucket[s], 1));
        fprintf(f, "%g %g\n", value[s] / 1000, nines(seen, total));
        at[s]++;
    }
    return seen > 0;
}

/* In a sweep one block is shown: that of 1 MiB, and the random reads. */
static bool is_shown(const json_t *result, bool sweep)
{
    return !sweep || number_of(result, "block_bytes") == (double)FOCUS_BLOCK ||
           (is_random(result) && number_of(result, "depth") == 32);
}

/* The x axis counts microseconds. */
static void put_time_tics(FILE *f, bool fine)
{
    static const char *const units[] = {"us", "ms", "s"};

    fputs("set xtics (", f);
    for (unsigned power = 0; power < 9; power++)
        for (unsigned step = 1; step <= (fine ? 5 : 1); step += step == 1 ? 1 : 3) {
            double value = step * pow(10, power);

            fprintf(f, "%s\"%g %s\" %g", power + step > 1 ? ", " : "", value / pow(1000, power / 3),
                    units[power / 3], value);
        }
    fputs(")\n", f);
}

/* So much room on both sides that the curves' ends can be told, and ticks as they fit. */
static void put_time_axis(FILE *f, const json_t *results, bool sweep)
{
    double least = HUGE_VAL, most = 0;
    const json_t *r;
    size_t i;

    json_array_foreach(results, i, r) for (int side = 0; side < 2 && is_shown(r, sweep); side++)
    {
        const json_t *all = json_object_get(r, side ? "write_histogram_ns" : "read_histogram_ns");
        size_t count = json_array_size(all);

        if (!count)
            continue;
        least = fmin(least, json_number_value(json_array_get(json_array_get(all, 0), 0)));
        most = fmax(most, json_number_value(json_array_get(json_array_get(all, count - 1), 0)));
    }
    put_time_tics(f, most < least * FINE_RANGE);
    if (most > 0)
        fprintf(f, "set xrange [%g:%g]\n", least / 1000 / 1.3, most / 1000 * 1.3);
}

static void put_latencies(FILE *f, const json_t *results, bool sweep)
{
    const char *separator = "plot ";
    unsigned curves = 0;
    const json_t *r;
    size_t i;

    fputs("set title \"Latency of one transfer, cumulative\"\nset xlabel \"latency\"\n"
          "set ylabel \"transfers that took no longer (%)\"\nset yrange [0:*]\nset logscale x 10\n"
          "set ytics (\"0\" 0, \"50\" 0.30103, \"90\" 1, \"99\" 2, \"99.9\" 3, \"99.99\" 4, \"99.999\" 5, "
          "\"99.9999\" 6)\n",
          f);
    put_time_axis(f, results, sweep);
    json_array_foreach(results, i, r)
    {
        if (!is_shown(r, sweep))
            continue;
        fprintf(f, "$wait%zu << END\n", i);
        put_distribution(f, r);
        fputs("END\n", f);
    }
    json_array_foreach(results, i, r)
    {
        if (!is_shown(r, sweep) || curves == CURVES_MOST)
            continue;
        fprintf(f, "%s$wait%zu using 1:2 with lines lw 2 lc %d dt %d title \"", separator, i,
                sweep ? colour(number_of(r, "depth")) : 1 + (int)i % 8, sweep && is_random(r) ? 2 : 1);
        put_text(f, text_of(r, "rw"));
        fputc(' ', f);
        put_block(f, number_of(r, "block_bytes"));
        fprintf(f, ", depth %.0f\"", number_of(r, "depth"));
        separator = ", \\\n  ";
        curves++;
    }
    fputc('\n', f);
}

/* ---- the script ------------------------------------------------------------------------------ */

static void put_title(FILE *f, const json_t *report)
{
    const json_t *paths = json_object_get(report, "paths"), *path,
                 *engine = json_object_get(report, "engine");
    size_t i;

    fprintf(f, "set multiplot layout 1,%d title \"",
            json_is_object(json_object_get(report, "sustained")) ? 1 : 2);
    json_array_foreach(paths, i, path)
    {
        const json_t *drive = json_object_get(path, "drive");
        const char *name = text_of(drive, "name"), *model = text_of(drive, "model");

        fputs(i ? " + " : "", f);
        put_text(f, *name ? name : text_of(path, "dir"));
        if (*model) {
            fputs(" (", f);
            put_text(f, model);
            fputc(')', f);
        }
        if (*text_of(drive, "link")) {
            fputs(", ", f);
            put_text(f, text_of(drive, "link"));
        }
        if (number_of(drive, "bytes") > 0)
            fprintf(f, ", %s", common_bytes((uint64_t)number_of(drive, "bytes")).text);
        fputs(", ", f);
        put_text(f, text_of(drive, "filesystem"));
    }
    if (number_of(report, "file_bytes") > 0)
        fprintf(f, "; file of %s", common_bytes((uint64_t)number_of(report, "file_bytes")).text);
    fprintf(f, "; %s, %s; ", text_of(engine, "name"),
            json_is_true(json_object_get(engine, "direct")) ? "direct I/O" : "buffered I/O");
    put_text(f, text_of(report, "date"));
    fputs("\"\n", f);
}

char *bench_plot_script(const json_t *report, bool svg)
{
    const json_t *results = json_object_get(report, "results"),
                 *sustained = json_object_get(report, "sustained");
    bool sweep = has_blocks(results);
    char *script = NULL;
    size_t bytes;
    FILE *f = open_memstream(&script, &bytes);

    if (!f)
        return NULL;
    fputs(
        svg ? "set terminal svg size 1280,560 dynamic noenhanced font 'sans-serif,13' background '#ffffff'\n"
            : "set terminal pngcairo size 1600,700 noenhanced font 'sans,12' background '#ffffff'\n",
        f);
    for (size_t i = 0; i < ARRAY_COUNT(colours); i++)
        fprintf(f, "set linetype %zu lc rgb '%s'\n", i + 1, colours[i]);
    fputs("set encoding utf8\nset grid lc rgb '#b0b0b0'\nset border 3\nset tics nomirror out\nset bars 0.6\n"
          "set ylabel \"GB/s (10^9 bytes)\"\nset yrange [0:*]\nset offsets 0,0,graph 0.08,0\n"
          "set key below horizontal\nset bmargin 9\nset rmargin 4\n",
          f);
    put_title(f, report);
    if (json_is_object(sustained)) {
        bench_plot_sustained(f, sustained);
    } else {
        if (sweep)
            put_lines(f, results);
        else
            put_bars(f, results);
        fputs("set offsets\n", f);
        put_latencies(f, results, sweep);
    }
    fputs("unset multiplot\n", f);
    if (fclose(f) == EOF) {
        free(script);
        return NULL;
    }
    return script;
}
