/* Three panels with one axis of time, above each other: what device, host and drives held. See plot_tiers.h. */
#include "bench/plot_tiers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *counter, *title;
} tiers[] = {{"device bytes", "device memory"}, {"host bytes", "host memory"}, {"nvme bytes", "drives"}};

static bool is_counter(const json_t *event, const char *counter)
{
    const char *ph = json_string_value(json_object_get(event, "ph")),
               *name = json_string_value(json_object_get(event, "name"));

    return ph && name && strcmp(ph, "C") == 0 && (!counter || strcmp(name, counter) == 0);
}

static double seconds_of(const json_t *event)
{
    return json_number_value(json_object_get(event, "ts")) * 1e-6;
}

/* From the first to the last that is known of any tier. */
static void span_of(const json_t *timeline, double *from, double *to)
{
    const json_t *e;
    bool first = true;
    size_t i;

    *from = *to = 0;
    json_array_foreach(timeline, i, e)
    {
        if (!is_counter(e, NULL))
            continue;
        *from = first ? seconds_of(e) : *from;
        *to = seconds_of(e);
        first = false;
    }
}

bool bench_tiers_are_there(const json_t *timeline)
{
    double from, to;

    span_of(timeline, &from, &to);
    return to > from;
}

/* A level lasts until the next one: to the end, the last. */
static void put_levels(FILE *f, const json_t *timeline, const char *counter, double from, double to)
{
    double level = 0;
    const json_t *e;
    size_t i;

    json_array_foreach(timeline, i, e)
    {
        if (!is_counter(e, counter))
            continue;
        level = json_number_value(json_object_get(json_object_get(e, "args"), "bytes")) / (double)MIB;
        fprintf(f, "%.6f %.4f\n", seconds_of(e) - from, level);
    }
    fprintf(f, "%.6f %.4f\n", to - from, level);
}

char *bench_plot_tiers_script(const json_t *timeline, bool svg)
{
    char *script = NULL;
    double from, to;
    size_t bytes;
    FILE *f = open_memstream(&script, &bytes);

    if (!f)
        return NULL;
    span_of(timeline, &from, &to);
    fputs(svg ? "set terminal svg size 960,640 dynamic noenhanced font 'sans-serif,13' background '#ffffff'\n"
              : "set terminal pngcairo size 1280,860 noenhanced font 'sans,12' background '#ffffff'\n",
          f);
    for (size_t i = 0; i < ARRAY_COUNT(tiers); i++) {
        fprintf(f, "$tier%zu << END\n", i);
        put_levels(f, timeline, tiers[i].counter, from, to);
        fputs("END\n", f);
    }
    /* The same margins, so that a moment is at one place in all three. */
    fprintf(
        f,
        "set encoding utf8\nset border 3\nset tics nomirror out\nset grid lc rgb '#b0b0b0'\nunset key\n"
        "set lmargin 12\nset rmargin 4\nset xrange [0:%.6f]\nset yrange [0:*]\nset offsets 0,0,graph 0.08,0\n"
        "set ylabel 'MiB'\nset style fill solid 1\n"
        "set multiplot layout 3,1 title 'Bytes that each tier held'\n",
        to - from);
    for (size_t i = 0; i < ARRAY_COUNT(tiers); i++)
        fprintf(f,
                "set title '%s'\n%splot $tier%zu using 1:2 with fillsteps lc rgb '#c8c8c8', '' using 1:2 "
                "with steps lw 1 "
                "lc rgb '#202020'\n",
                tiers[i].title, i + 1 == ARRAY_COUNT(tiers) ? "set xlabel 'time (s)'\n" : "", i);
    fputs("unset multiplot\n", f);
    if (fclose(f) == EOF) {
        free(script);
        return NULL;
    }
    return script;
}
