/* See compare_reports.h. */
#include "bench/compare_reports.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *compare_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

struct compare_figure compare_figure(const json_t *run, const char *name)
{
    const json_t *f = json_object_get(run, name), *median = json_object_get(f, "median");
    struct compare_figure out = {.known = json_is_number(median)};

    out.median = json_number_value(median);
    out.min = json_number_value(json_object_get(f, "min"));
    out.max = json_number_value(json_object_get(f, "max"));
    return out;
}

double compare_latency(const json_t *run, const char *name)
{
    return json_number_value(json_object_get(json_object_get(run, "latency_ns"), name));
}

/* ---- loading ------------------------------------------------------------------------ */

static bool is_run(const json_t *run)
{
    return json_is_string(json_object_get(run, "rw")) &&
           json_is_integer(json_object_get(run, "block_bytes")) &&
           json_is_integer(json_object_get(run, "depth")) && compare_figure(run, "gb_per_s").median > 0;
}

static int load_one(const char *name, json_t **out)
{
    json_error_t error;
    const json_t *results;

    *out = json_load_file(name, 0, &error);
    if (!*out)
        return error.line < 1 ? common_fail(EXIT_INPUT, "%s", error.text) /* it can't be opened */
                              : common_fail(EXIT_INPUT, "%s: line %d: %s", name, error.line, error.text);
    if (strcmp(compare_text(*out, "program"), "ofl-bench nvme") != 0)
        return common_fail(EXIT_INPUT, "%s: not a report of ofl-bench nvme", name);
    results = json_object_get(*out, "results");
    if (json_array_size(results) == 0)
        return common_fail(EXIT_INPUT, "%s: the report has no runs to compare", name);
    for (size_t i = 0; i < json_array_size(results); i++)
        if (!is_run(json_array_get(results, i)))
            return common_fail(EXIT_INPUT, "%s: its run %zu has no mode, block, depth or rate", name, i + 1);
    return 0;
}

static bool same_kind(const json_t *a, const json_t *b)
{
    return strcmp(compare_text(a, "rw"), compare_text(b, "rw")) == 0 &&
           json_equal(json_object_get(a, "block_bytes"), json_object_get(b, "block_bytes")) &&
           json_equal(json_object_get(a, "depth"), json_object_get(b, "depth"));
}

static void add_rows(struct compare_reports *c, unsigned index)
{
    const json_t *results = json_object_get(c->reports[index], "results");

    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *run = json_array_get(results, i);
        unsigned row = 0;

        while (row < c->rows && !same_kind(c->first[row], run))
            row++;
        if (row == c->rows)
            c->first[c->rows++] = run;
    }
}

int compare_load(struct compare_reports *c, const char *const *names, unsigned count)
{
    size_t runs = 0;
    int status = 0;

    *c = (struct compare_reports){.count = count};
    for (unsigned i = 0; i < count && status == 0; i++) {
        c->names[i] = names[i];
        status = load_one(names[i], &c->reports[i]);
        runs += json_array_size(json_object_get(c->reports[i], "results"));
    }
    c->first = calloc(runs + 1, sizeof *c->first);
    if (status == 0 && !c->first)
        status = common_fail(EXIT_FULL, "compare: out of memory");
    for (unsigned i = 0; i < count && status == 0; i++)
        add_rows(c, i);
    return status;
}

void compare_free(struct compare_reports *c)
{
    for (unsigned i = 0; i < c->count; i++)
        json_decref(c->reports[i]);
    free(c->first);
    *c = (struct compare_reports){0};
}

/* ---- asking --------------------------------------------------------------------------- */

const json_t *compare_run(const struct compare_reports *c, unsigned row, unsigned index)
{
    const json_t *results = json_object_get(c->reports[index], "results"), *run;
    size_t i;

    json_array_foreach(results, i, run) if (same_kind(run, c->first[row])) return run;
    return NULL;
}

double compare_ratio(const struct compare_reports *c, unsigned row, unsigned index, bool *apart)
{
    struct compare_figure a = compare_figure(compare_run(c, row, 0), "gb_per_s"),
                          b = compare_figure(compare_run(c, row, index), "gb_per_s");

    *apart = a.known && b.known && (a.max < b.min || b.max < a.min);
    return a.known && b.known ? b.median / a.median : 0;
}

char *compare_drives(const json_t *report)
{
    const json_t *paths = json_object_get(report, "paths"), *path;
    char *text = NULL;
    size_t bytes, i;
    FILE *f = open_memstream(&text, &bytes);

    if (!f)
        return NULL;
    json_array_foreach(paths, i, path)
    {
        const json_t *drive = json_object_get(path, "drive");
        const char *name = compare_text(drive, "name"), *model = compare_text(drive, "model");

        fprintf(f, "%s%s", i ? " + " : "", *name ? name : compare_text(path, "dir"));
        if (*model)
            fprintf(f, " (%s)", model);
        fprintf(f, ", %s", compare_text(drive, "filesystem"));
    }
    if (fclose(f) == EOF) {
        free(text);
        return NULL;
    }
    common_clean(text);
    return text;
}
