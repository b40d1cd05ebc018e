/* See nvme_gather.h. */
#include "bench/nvme_gather.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench/nvme_progress.h"
#include "bench/text.h"
#include "io/gather.h"

#define CALLS      200u /* a turn */
#define LONG_BYTES (64 * MIB)
#define LONG_ROWS  8192u /* at most, of a gather that is to show how many rows a second */
#define DEPTH      64u
#define PLAIN_S    0.2

struct work {
    struct nvme_target *target;
    struct nvme_gather *out;
    struct io_gather *gather;
    uint64_t *rows;
    uint8_t *bytes;
    uint64_t random;
};

/* One call; its nanoseconds, or a negative status. */
static double call(struct work *w, uint64_t count)
{
    const uint64_t rows = w->target->bytes / w->out->row_bytes;
    uint64_t read_bytes;
    double start;
    int err;

    for (uint64_t i = 0; i < count; i++)
        w->rows[i] = (uint64_t)((unsigned __int128)bench_random(&w->random) * rows >> 64);
    start = common_seconds();
    err = io_gather_rows(w->gather, w->target->file, 0, w->out->row_bytes, w->rows, count, w->bytes,
                         &read_bytes);
    if (err < 0)
        return -common_fail_ofl(common_status_late(err), "--rw gather");
    w->out->read_bytes += read_bytes;
    w->out->gathered_bytes += count * w->out->row_bytes;
    return (common_seconds() - start) * 1e9;
}

static int gathers(struct work *w, unsigned turn)
{
    double ns = 0;

    nvme_target_drop_cache(w->target);
    for (unsigned i = 0; i < CALLS && ns >= 0 && !common_stopping(); i++) {
        ns = call(w, w->out->rows);
        if (ns >= 0)
            io_histogram_add(&w->out->calls, (uint64_t)ns);
        nvme_tick(common_seconds());
    }
    if (ns >= 0)
        ns = call(w, w->out->long_rows);
    if (ns > 0)
        w->out->rows_per_s[turn] = (double)w->out->long_rows / (ns * 1e-9);
    return ns < 0 ? -(int)ns : 0;
}

static int plain(struct work *w, uint32_t depth, unsigned turn, struct io_histogram *into, double *per_s)
{
    const struct nvme_case c = {.rw = RW_RANDREAD, .block_bytes = 4096, .depth = depth};
    struct io_histogram latency[2] = {{0}, {0}};
    struct nvme_sample sample;
    int status = nvme_run_case(w->target, &c, PLAIN_S, UINT64_MAX, turn + 2, &sample, latency);

    if (into)
        io_histogram_merge(into, &latency[IO_READ]);
    if (per_s && sample.seconds > 0)
        *per_s = (double)sample.ops[IO_READ] / sample.seconds;
    return status;
}

/* Gathers and plain reads in turns, each first every other time. */
static int one_turn(struct work *w, unsigned turn)
{
    struct nvme_gather *g = w->out;
    int status = turn % 2 ? gathers(w, turn) : 0;

    if (status == 0)
        status = plain(w, (uint32_t)(g->rows < 1024 ? g->rows : 1024), turn, &g->plain, NULL);
    if (status == 0)
        status = plain(w, 1, turn, &g->single, NULL);
    if (status == 0)
        status = plain(w, DEPTH, turn, NULL, &g->reads_per_s[turn]);
    if (status == 0 && turn % 2 == 0)
        status = gathers(w, turn);
    return status;
}

int nvme_gather_measure(struct nvme_target *t, struct nvme_gather *g)
{
    struct work w = {.target = t, .out = g, .random = 1};
    uint64_t most;
    int status = 0;

    g->row_bytes = t->options->row_bytes;
    g->rows = t->options->rows;
    g->long_rows = LONG_BYTES / g->row_bytes < LONG_ROWS ? LONG_BYTES / g->row_bytes : LONG_ROWS;
    most = g->rows > g->long_rows ? g->rows : g->long_rows;
    g->turns = t->options->repeat < NVME_GATHER_TURNS ? (unsigned)t->options->repeat : NVME_GATHER_TURNS;
    w.rows = calloc(most, sizeof *w.rows);
    w.bytes = calloc(most, g->row_bytes);
    nvme_progress.what = "gathering rows, and plain reads";
    if (!w.rows || !w.bytes)
        status = common_fail(EXIT_FULL, "--rw gather: out of memory");
    else if (io_gather_open(t->options->engine, &w.gather) < 0)
        status = common_fail_ofl(EXIT_RUNTIME, "--rw gather");
    for (unsigned i = 0; i < g->turns && status == 0; i++)
        status = one_turn(&w, i);
    if (status == 0 && common_stopping())
        status = common_fail(EXIT_INTERRUPTED, "interrupted: no results");
    io_gather_close(w.gather);
    free(w.rows);
    free(w.bytes);
    return status;
}

/* ---- what is told ---------------------------------------------------------------------- */

static struct nvme_latency latency_of(const struct io_histogram *h)
{
    struct nvme_latency l;

    nvme_latency_of(h, &l);
    return l;
}

static struct bench_spread spread_of(const double *values, unsigned count)
{
    double copy[NVME_GATHER_TURNS];

    for (unsigned i = 0; i < count; i++)
        copy[i] = values[i];
    return bench_spread(copy, count);
}

static struct bench_spread ratio_of(const struct nvme_gather *g)
{
    double ratios[NVME_GATHER_TURNS];

    for (unsigned i = 0; i < g->turns; i++)
        ratios[i] = g->rows_per_s[i] / g->reads_per_s[i];
    return bench_spread(ratios, g->turns);
}

void nvme_gather_print(const struct nvme_gather *g)
{
    struct nvme_latency call_l = latency_of(&g->calls), plain_l = latency_of(&g->plain),
                        single = latency_of(&g->single);
    struct bench_spread rows = spread_of(g->rows_per_s, g->turns),
                        reads = spread_of(g->reads_per_s, g->turns), ratio = ratio_of(g);

    printf("\ngather    %llu rows of %llu bytes in one call: p50 %s, p99 %s (%llu calls; %.1f bytes read for "
           "each that was asked "
           "for)\n",
           (ull)g->rows, (ull)g->row_bytes, bench_time_text((double)call_l.p50).text,
           bench_time_text((double)call_l.p99).text, (ull)g->calls.count,
           (double)g->read_bytes / (double)g->gathered_bytes);
    printf("          one read of 4K among %llu in flight: p50 %s, p99 %s; alone: p50 %s, p99 %s\n",
           (ull)g->rows, bench_time_text((double)plain_l.p50).text, bench_time_text((double)plain_l.p99).text,
           bench_time_text((double)single.p50).text, bench_time_text((double)single.p99).text);
    printf("          p99 of a call over that of a read at its depth: %.2f\n",
           (double)call_l.p99 / (double)plain_l.p99);
    printf("          %.0f rows/s in calls of %llu (%.0f..%.0f), random reads of 4K at depth %u %.0f/s "
           "(%.0f..%.0f): ratio %.3f, "
           "quartiles %.3f..%.3f\n",
           rows.median, (ull)g->long_rows, rows.min, rows.max, DEPTH, reads.median, reads.min, reads.max,
           ratio.median, ratio.q1, ratio.q3);
}

static json_t *latency_json(const struct io_histogram *h)
{
    struct nvme_latency l = latency_of(h);

    return json_pack("{s:I, s:I, s:I, s:I}", "p50", (json_int_t)l.p50, "p99", (json_int_t)l.p99, "p999",
                     (json_int_t)l.p999, "max", (json_int_t)l.max);
}

json_t *nvme_gather_json(const struct nvme_gather *g)
{
    struct bench_spread rows, reads, ratio;

    if (!g)
        return json_null();
    rows = spread_of(g->rows_per_s, g->turns);
    reads = spread_of(g->reads_per_s, g->turns);
    ratio = ratio_of(g);
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "rows", (json_int_t)g->rows,
                     "row_bytes", (json_int_t)g->row_bytes, "call_ns", latency_json(&g->calls),
                     "read_at_depth_ns", latency_json(&g->plain), "read_alone_ns", latency_json(&g->single),
                     "rows_per_s", bench_spread_json(&rows), "reads_per_s", bench_spread_json(&reads),
                     "ratio", bench_spread_json(&ratio), "read_bytes", (json_int_t)g->read_bytes,
                     "gathered_bytes", (json_int_t)g->gathered_bytes);
}
