/* What `ofl-bench compare` prints. See compare_report.h. */
#include "bench/compare_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/text.h"

static uint64_t count_of(const json_t *run, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(run, key));
}

/* ---- the table ------------------------------------------------------------------- */

static void print_head(const struct compare_reports *c)
{
    for (unsigned i = 0; i < c->count; i++) {
        const json_t *r = c->reports[i], *engine = json_object_get(r, "engine");
        char *drives = compare_drives(r), name[4096];

        snprintf(name, sizeof name, "%s", c->names[i]);
        common_clean(name);
        printf("%c         %s: %s; %s; %s, %s; ofl-bench %s, %s\n", 'A' + (int)i, name, drives ? drives : "?",
               common_bytes(count_of(r, "file_bytes")).text, compare_text(engine, "name"),
               json_is_true(json_object_get(engine, "direct")) ? "direct I/O" : "buffered I/O",
               compare_text(r, "version"), compare_text(r, "date"));
        free(drives);
    }
}

static void print_run(const struct compare_reports *c, unsigned row, unsigned index)
{
    const json_t *run = compare_run(c, row, index);
    struct compare_figure gb = compare_figure(run, "gb_per_s"), iops = compare_figure(run, "iops"),
                          cpu = compare_figure(run, "cpu_s_per_gb");
    struct common_text rate, ratio = {"-"};
    bool apart;
    double r = compare_ratio(c, row, index, &apart);

    if (!run) {
        printf(" %c  not measured\n", 'A' + (int)index);
        return;
    }
    snprintf(rate.text, sizeof rate.text, "%.3f (%.3f..%.3f)", gb.median, gb.min, gb.max);
    if (r > 0 && index)
        snprintf(ratio.text, sizeof ratio.text, "%.3f%s", r, apart ? "" : " ~");
    printf(" %c  %-22s %9.0f %9s %9s %9s %9.4f  %s\n", 'A' + (int)index, rate.text, iops.median,
           bench_time_text(compare_latency(run, "p50")).text,
           bench_time_text(compare_latency(run, "p99")).text,
           bench_time_text(compare_latency(run, "p999")).text, cpu.median, ratio.text);
}

void compare_print_table(const struct compare_reports *c)
{
    print_head(c);
    printf("\n%-9s %6s %5s      %-22s %9s %9s %9s %9s %9s  %s\n", "mode", "block", "depth", "GB/s (min..max)",
           "IOPS", "p50", "p99", "p99.9", "CPU s/GB", "of A's rate");
    for (unsigned row = 0; row < c->rows; row++)
        for (unsigned i = 0; i < c->count; i++) {
            const json_t *kind = c->first[row];
            char mode[16];

            snprintf(mode, sizeof mode, "%s", compare_text(kind, "rw"));
            common_clean(mode);
            if (i == 0)
                printf("%-9s %6s %5llu ", mode, bench_block_text(count_of(kind, "block_bytes")).text,
                       (ull)count_of(kind, "depth"));
            else
                printf("%-23s", "");
            print_run(c, row, i);
        }
    printf("\n~: the ranges of both overlap: no difference is shown\n");
}

/* ---- CSV, JSON --------------------------------------------------------------------- */

/* Quoted, and without control characters. */
static void put_csv(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
    }
    putchar('"');
}

static void put_number(bool known, double value)
{
    putchar(',');
    if (known)
        printf("%.9g", value);
}

static void put_figure(const json_t *run, const char *name)
{
    struct compare_figure f = compare_figure(run, name);

    put_number(f.known, f.median);
    put_number(f.known, f.min);
    put_number(f.known, f.max);
}

static void put_row(const struct compare_reports *c, unsigned row, unsigned index)
{
    static const char *const latencies[] = {"p50", "p99", "p999", "max"};
    const json_t *run = compare_run(c, row, index);
    bool apart;
    double ratio = compare_ratio(c, row, index, &apart);

    if (!run)
        return;
    put_csv(c->names[index]);
    putchar(',');
    put_csv(compare_text(c->reports[index], "date"));
    putchar(',');
    put_csv(compare_text(run, "rw"));
    printf(",%llu,%llu", (ull)count_of(run, "block_bytes"), (ull)count_of(run, "depth"));
    put_figure(run, "gb_per_s");
    put_figure(run, "iops");
    put_figure(run, "cpu_s_per_gb");
    for (size_t i = 0; i < ARRAY_COUNT(latencies); i++)
        put_number(true, compare_latency(run, latencies[i]));
    put_number(ratio > 0, ratio);
    printf(",%s\n", ratio > 0 ? apart ? "1" : "0" : "");
}

void compare_print_csv(const struct compare_reports *c)
{
    printf("report,date,rw,block_bytes,depth,gb_per_s,gb_per_s_min,gb_per_s_max,iops,iops_min,iops_max,cpu_s_"
           "per_gb,"
           "cpu_s_per_gb_min,cpu_s_per_gb_max,p50_ns,p99_ns,p999_ns,max_ns,ratio,apart\n");
    for (unsigned row = 0; row < c->rows; row++)
        for (unsigned i = 0; i < c->count; i++)
            put_row(c, row, i);
}

static json_t *row_json(const struct compare_reports *c, unsigned row)
{
    json_t *runs = json_array();

    for (unsigned i = 0; i < c->count; i++) {
        const json_t *run = compare_run(c, row, i);
        bool apart;
        double ratio = compare_ratio(c, row, i, &apart);

        json_array_append_new(
            runs, run ? json_pack("{s:O?, s:O?, s:O?, s:O?, s:o, s:b}", "gb_per_s",
                                  json_object_get(run, "gb_per_s"), "iops", json_object_get(run, "iops"),
                                  "cpu_s_per_gb", json_object_get(run, "cpu_s_per_gb"), "latency_ns",
                                  json_object_get(run, "latency_ns"), "ratio",
                                  ratio > 0 ? json_real(ratio) : json_null(), "apart", apart)
                      : json_null());
    }
    return json_pack("{s:s, s:I, s:I, s:o}", "rw", compare_text(c->first[row], "rw"), "block_bytes",
                     (json_int_t)count_of(c->first[row], "block_bytes"), "depth",
                     (json_int_t)count_of(c->first[row], "depth"), "runs", runs);
}

json_t *compare_json(const struct compare_reports *c)
{
    json_t *files = json_array(), *rows = json_array();

    for (unsigned i = 0; i < c->count; i++) {
        char *drives = compare_drives(c->reports[i]);

        json_array_append_new(files,
                              json_pack("{s:o, s:o, s:o, s:s}", "file", bench_text_json(c->names[i]),
                                        "drives", bench_text_json(drives ? drives : ""), "file_bytes",
                                        json_integer((json_int_t)count_of(c->reports[i], "file_bytes")),
                                        "date", compare_text(c->reports[i], "date")));
        free(drives);
    }
    for (unsigned row = 0; row < c->rows; row++)
        json_array_append_new(rows, row_json(c, row));
    return json_pack("{s:s, s:s, s:o, s:o}", "program", "ofl-bench compare", "version", ofl_version(),
                     "reports", files, "rows", rows);
}
