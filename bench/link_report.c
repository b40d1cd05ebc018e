/* The tables and the report of `ofl-bench link`. GB are 10^9 bytes; bytes of both ways count. */
#include "bench/link_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "examples/common_memory.h"

#define CHECKED_BYTES MIB

/* ---- figures ------------------------------------------------------------------ */

static uint64_t sample_bytes(const struct link_row *row)
{
    return row->bytes * row->copies * (row->direction == LINK_BOTH ? 2 : 1);
}

static void row_figures(struct link_row *row)
{
    double *values = calloc(3 * (size_t)row->count + 1, sizeof *values), *plain = values + row->count,
           *ratio = plain + row->count, bytes = (double)sample_bytes(row);

    if (!values)
        return; /* a row without figures: a dash */
    for (unsigned i = 0; i < row->count; i++) {
        const struct link_sample *s = &row->samples[i];

        values[i] = s->wall_s[LINK_OURS] > 0 ? bytes / s->wall_s[LINK_OURS] : 0;
        plain[i] = s->device_s[LINK_PLAIN] > 0 ? bytes / s->device_s[LINK_PLAIN] : 0;
        ratio[i] = plain[i] > 0 ? values[i] / plain[i] : 0;
    }
    row->ours = bench_spread(values, row->count);
    row->plain = bench_spread(plain, row->count);
    row->ratio = bench_spread(ratio, row->count);
    free(values);
}

void link_figures(struct link_results *r)
{
    for (unsigned i = 0; i < r->count; i++) {
        struct link_row *row = &r->rows[i];

        row_figures(row);
        if (row->memory != LINK_PINNED || row->bytes < CHECKED_BYTES)
            continue;
        if (!r->worst_row || row->ratio.median < r->worst) {
            r->worst_row = row;
            r->worst = row->ratio.median;
        }
    }
}

/* ---- tables ---------------------------------------------------------------------- */

/* What the kernel calls the processor. */
static const char *processor(void)
{
    static char text[64];
    char line[256];
    FILE *f = text[0] ? NULL : fopen("/proc/cpuinfo", "re");

    while (f && !text[0] && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon && colon[1])
            snprintf(text, sizeof text, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    }
    if (f)
        fclose(f);
    return text[0] ? text : "unknown";
}

static const char *known(const char *text)
{
    return text[0] ? text : "unknown";
}

void link_print_facts(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r)
{
    printf("date       %s, ofl-bench %s\n", bench_date().text, ofl_version());
    printf("GPU        %s (%s at %s), %s, compute %d.%d, %d copy engines\n", known(c->name), o->device,
           known(c->pci), common_bytes(c->memory_bytes).text, c->major, c->minor, c->copy_engines);
    printf("link       %s, ", known(c->link));
    if (c->node >= 0)
        printf("NUMA node %d\n", c->node);
    else
        printf("NUMA node unknown\n");
    printf("driver     CUDA %d.%d\n", c->driver_version / 1000, c->driver_version % 1000 / 10);
    printf("processor  %s, %u NUMA node%s, %s\n", processor(), r->node_count, r->node_count == 1 ? "" : "s",
           common_bytes(common_memory()).text);
    printf(
        "samples    %llu pairs a row, in turns; %s each way at most, queued at once; every byte compared\n",
        (ull)o->repeat, common_bytes(o->batch_bytes).text);
    if (r->note[0])
        printf("note       %s\n", r->note);
    fflush(stdout);
}

static void print_title(const struct link_row *row)
{
    if (row->node >= 0)
        printf("\n%s memory, node %d\n", link_memory_name(row->memory), row->node);
    else
        printf("\n%s memory\n", link_memory_name(row->memory));
    printf("%-5s %9s %7s %29s %29s %24s\n", "", "copy", "copies", "ours GB/s (quartiles)",
           "plain GB/s (quartiles)", "ratio (quartiles)");
}

void link_print_results(const struct link_options *o, const struct link_results *r)
{
    for (unsigned i = 0; i < r->count; i++) {
        const struct link_row *row = &r->rows[i];

        if (i == 0 || row->memory != row[-1].memory || row->node != row[-1].node)
            print_title(row);
        printf("%-5s %9s %7llu %12.2f (%6.2f..%6.2f) %12.2f (%6.2f..%6.2f) %8.3f (%5.3f..%5.3f)\n",
               link_direction_name(row->direction), common_bytes(row->bytes).text, (ull)row->copies,
               row->ours.median * 1e-9, row->ours.q1 * 1e-9, row->ours.q3 * 1e-9, row->plain.median * 1e-9,
               row->plain.q1 * 1e-9, row->plain.q3 * 1e-9, row->ratio.median, row->ratio.q1, row->ratio.q3);
    }
    if (r->worst_row)
        printf("\nlowest median ratio of pinned copies of 1 MiB or more: %.3f (%s, %s, node %d)%s\n",
               r->worst, link_direction_name(r->worst_row->direction), common_bytes(r->worst_row->bytes).text,
               r->worst_row->node,
               o->check <= 0         ? ""
               : r->worst < o->check ? ": below what --check asks for"
                                     : ": as --check asks for");
}

/* ---- JSON --------------------------------------------------------------------------- */

static json_t *sample_json(const struct link_sample *s)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "wall_s", bench_real_json(s->wall_s[LINK_OURS]), "device_s",
                     bench_real_json(s->device_s[LINK_OURS]), "plain_wall_s",
                     bench_real_json(s->wall_s[LINK_PLAIN]), "plain_device_s",
                     bench_real_json(s->device_s[LINK_PLAIN]));
}

static json_t *spread_gb(const struct bench_spread *s)
{
    struct bench_spread gb = {s->count,     s->median * 1e-9, s->q1 * 1e-9,
                              s->q3 * 1e-9, s->min * 1e-9,    s->max * 1e-9};

    return bench_spread_json(&gb);
}

static json_t *row_json(const struct link_row *row)
{
    json_t *samples = json_array();

    for (unsigned i = 0; i < row->count; i++)
        json_array_append_new(samples, sample_json(&row->samples[i]));
    return json_pack(
        "{s:s, s:o, s:s, s:I, s:I, s:o, s:o, s:o, s:b, s:o}", "memory", link_memory_name(row->memory),
        "numa_node", row->node >= 0 ? json_integer(row->node) : json_null(), "direction",
        link_direction_name(row->direction), "copy_bytes", (json_int_t)row->bytes, "copies",
        (json_int_t)row->copies, "gb_per_s", spread_gb(&row->ours), "plain_gb_per_s", spread_gb(&row->plain),
        "ratio", bench_spread_json(&row->ratio), "verified", 1, "samples", samples);
}

static json_t *machine_json(const struct link_results *r)
{
    struct utsname u;

    uname(&u);
    return json_pack("{s:s, s:s, s:s, s:o, s:I, s:i}", "system", u.sysname, "kernel", u.release, "machine",
                     u.machine, "processor", bench_text_json(processor()), "memory_bytes",
                     (json_int_t)common_memory(), "numa_nodes", (int)r->node_count);
}

static json_t *check_json(const struct link_options *o, const struct link_results *r)
{
    if (o->check <= 0 || !r->worst_row)
        return json_null();
    return json_pack("{s:f, s:o, s:b}", "ratio", o->check, "lowest", bench_real_json(r->worst), "passed",
                     r->worst >= o->check);
}

json_t *link_report(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r)
{
    json_t *results = json_array();

    for (unsigned i = 0; i < r->count; i++)
        json_array_append_new(results, row_json(&r->rows[i]));
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:{s:s, s:I, s:I}, s:o, s:o, s:o, s:f}", "program",
                     "ofl-bench link", "version", ofl_version(), "date", bench_date().text, "gpu",
                     bench_cuda_json(c), "machine", machine_json(r), "settings", "device", o->device,
                     "batch_bytes", (json_int_t)o->batch_bytes, "repeat", (json_int_t)o->repeat, "note",
                     bench_text_json(r->note[0] ? r->note : NULL), "check", check_json(o, r), "results",
                     results, "elapsed_s", r->elapsed_s);
}
