/* What `ofl-bench nvme` prints: first the facts, then tables. See nvme_report.h. */
#include "bench/nvme_report.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/nvme_advice.h"
#include "bench/nvme_sustained.h"
#include "bench/text.h"
#include "examples/common_memory.h"

/* ---- texts of numbers --------------------------------------------------------------- */

static struct common_text spread_text(const struct bench_spread *s)
{
    struct common_text t;

    snprintf(t.text, sizeof t.text, "%.3f (%.3f..%.3f)", s->median, s->min, s->max);
    return t;
}

static struct common_text ratio_text(const struct bench_spread *s)
{
    struct common_text t = {"-"}; /* fio's CPU time may round to nothing */

    if (isfinite(s->median))
        snprintf(t.text, sizeof t.text, "%.3f (%.3f..%.3f)", s->median, s->q1, s->q3);
    return t;
}

static struct common_text calls_text(const struct nvme_calls *c)
{
    struct common_text t = {"-"};

    if (c->per_gb >= 0)
        snprintf(t.text, sizeof t.text, "%.0f", c->per_gb);
    return t;
}

static struct common_text percent_text(double share)
{
    struct common_text t;

    snprintf(t.text, sizeof t.text, "%.1f %%", 100 * share);
    return t;
}

/* ---- facts ------------------------------------------------------------------------------ */

static void print_machine(void)
{
    char line[256], model[256] = "unknown processor", *colon;
    FILE *f = fopen("/proc/cpuinfo", "re");
    struct utsname u;
    cpu_set_t set;

    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon && colon[1]) {
            snprintf(model, sizeof model, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
    uname(&u);
    printf("machine   %s %s, %s, %d cores for this process, %s of memory\n", u.sysname, u.release, model,
           sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0,
           common_bytes(common_memory()).text);
}

static void print_drive(const char *dir, const struct io_drive *d)
{
    printf("drive     %s: %s", dir, d->name[0] ? d->name : "no drive of its own");
    if (d->model[0])
        printf(", %s", d->model);
    if (d->link[0])
        printf(", %s", d->link);
    if (d->backing[0])
        printf(", in %s", d->backing);
    if (d->members[0])
        printf(", of %s", d->members);
    if (d->drive_bytes)
        printf(", %s", common_bytes(d->drive_bytes).text);
    printf("; %s on %s, %s free\n", d->filesystem, d->mount, common_bytes(d->free_bytes).text);
}

static void print_engine(const struct nvme_target *t)
{
    uint32_t flags = t->options->flags;

    if (t->engine == IO_ENGINE_URING)
        printf("engine    io_uring%s%s%s; buffers and file %s%s%s\n",
               flags & IO_QUEUE_SQPOLL ? ", SQPOLL" : "", flags & IO_QUEUE_IOPOLL ? ", IOPOLL" : "",
               flags & IO_QUEUE_DEFER ? ", DEFER_TASKRUN" : "",
               t->registered ? "registered" : "not registered", t->registered ? "" : ": ",
               t->registered ? "" : t->registered_note);
    else
        printf("engine    %s\n", t->engine_note);
}

/* Whether a drive passes the page cache below the file system. */
static bool print_caveats(const struct nvme_target *t)
{
    bool cached = false;

    for (unsigned i = 0; i < io_file_parts(t->file); i++) {
        struct io_part_info part;

        io_file_part(t->file, i, &part);
        cached |= part.cached;
        if (part.drive_note[0])
            printf("drive     %s: %s\n", t->options->dirs[i], part.drive_note);
        if (part.space_note[0])
            printf("space     %s: %s\n", t->options->dirs[i], part.space_note);
    }
    return cached;
}

static void print_cache(const struct nvme_target *t)
{
    const bool direct = io_file_direct(t->file);
    const char *where = print_caveats(t) ? "used below the file system" : "not used";

    if (direct && t->cached_share >= 0)
        printf("cache     direct I/O: page cache %s, %.0f %% of the file is in it\n", where,
               100 * t->cached_share);
    else if (direct)
        printf("cache     direct I/O: page cache %s\n", where);
    else if (t->cached_share >= 0)
        printf("cache     buffered I/O: pages given back before each run: then at most "
               "%.0f %% "
               "of the file was in the page cache\n",
               100 * t->cached_share);
    else
        printf("cache     buffered I/O: how much of the file is in the page cache is not known\n");
}

static bool writes(const struct nvme_results *r)
{
    for (unsigned i = 0; i < r->count; i++)
        if (nvme_rw_writes(r->cases[i].c.rw))
            return true;
    return false;
}

void nvme_print_facts(const struct nvme_target *t, const struct nvme_results *r)
{
    const struct nvme_options *o = t->options;

    printf("ofl-bench nvme %s, %s\n", ofl_version(), bench_date().text);
    print_machine();
    for (unsigned i = 0; i < o->dir_count; i++)
        print_drive(o->dirs[i], &t->drives[i]);
    print_engine(t);
    printf("file      %s of %s, %s; %s\n", common_bytes(t->bytes).text,
           t->verify      ? "bytes that are compared"
           : t->sustained ? "reserved space"
                          : "random bytes",
           o->keep_file ? t->kept_path : "nameless",
           io_file_direct(t->file) ? "direct I/O"
           : o->direct == 0        ? "buffered I/O, as asked for"
                                   : io_file_note(t->file));
    if (t->weight_note[0])
        printf("shares    %s\n", t->weight_note);
    if (r->count || r->tensors)
        printf("runs      %u of each kind in turns, %.3g s each%s\n", r->repeat, r->time_s,
               !io_file_direct(t->file) ? ", or one pass over the file; flushes of writes count"
               : writes(r) ? "; those that write end after the file's size, and their flush counts"
                           : "");
    if (o->fio)
        printf("fio       %s, on the same file, with the same settings; first in every other pair\n",
               r->fio_version);
    if (io_file_direct(t->file))
        print_cache(t);
}

/* ---- tables ------------------------------------------------------------------------------- */

static void print_case(const struct nvme_result *r)
{
    struct bench_spread gb = nvme_result_rate(r), iops = nvme_result_iops(r), cpu = nvme_result_cpu(r);
    struct io_histogram all = r->latency[IO_READ];
    struct nvme_latency l;

    io_histogram_merge(&all, &r->latency[IO_WRITE]);
    nvme_latency_of(&all, &l);
    printf("%-9s %6s %5u  %-22s %8.0f %9s %9s %9s %9s %9.4f %8s %6s", nvme_rw_name(r->c.rw),
           bench_block_text(r->c.block_bytes).text, r->c.depth, spread_text(&gb).text, iops.median,
           bench_time_text((double)l.p50).text, bench_time_text((double)l.p99).text,
           bench_time_text((double)l.p999).text, bench_time_text((double)l.max).text, cpu.median,
           calls_text(&r->calls).text, percent_text(nvme_result_empty(r)).text);
    if (r->fio)
        printf(" %7s", percent_text(nvme_rate_ratio(r).median).text);
    putchar('\n');
}

/* The engine may have taken less than it was given. */
static void print_depth(const struct nvme_result *r)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < r->count; i++)
        most = r->samples[i].inflight_max > most ? r->samples[i].inflight_max : most;
    if (most < r->c.depth)
        printf("%-9s %6s %5u  only %u were in flight at once\n", nvme_rw_name(r->c.rw),
               bench_block_text(r->c.block_bytes).text, r->c.depth, most);
}

static void print_cases(const struct nvme_results *r)
{
    printf("\n%-9s %6s %5s  %-22s %8s %9s %9s %9s %9s %9s %8s %6s%s\n", "mode", "block", "depth",
           "GB/s (min..max)", "IOPS", "p50", "p99", "p99.9", "max", "CPU s/GB", "calls/GB", "empty",
           r->cases[0].fio ? "  of fio" : "");
    for (unsigned i = 0; i < r->count; i++)
        print_case(&r->cases[i]);
    for (unsigned i = 0; i < r->count; i++)
        print_depth(&r->cases[i]);
    for (unsigned i = 0; i < r->count; i++)
        if (r->cases[i].calls.per_gb < 0 && strncmp(r->cases[i].calls.note, "not counted", 11) != 0) {
            printf("calls/GB is not known: %s\n", r->cases[i].calls.note);
            return;
        }
}

static void print_fio(const struct nvme_results *r)
{
    printf("\n%s, pair by pair: ours over fio's\n%-9s %6s %5s  %-22s %-28s %9s %-28s %8s\n", r->fio_version,
           "mode", "block", "depth", "fio GB/s (min..max)", "GB/s ratio (quartiles)", "CPU s/GB",
           "CPU ratio (quartiles)", "calls/GB");
    for (unsigned i = 0; i < r->count; i++) {
        const struct nvme_result *c = &r->cases[i];
        struct bench_spread gb = nvme_fio_rate(c), ratio = nvme_rate_ratio(c), cpu = nvme_fio_cpu(c),
                            cpu_ratio = nvme_cpu_ratio(c);
        printf("%-9s %6s %5u  %-22s %-28s %9.4f %-28s %8s\n", nvme_rw_name(c->c.rw),
               bench_block_text(c->c.block_bytes).text, c->c.depth, spread_text(&gb).text,
               ratio_text(&ratio).text, cpu.median, ratio_text(&cpu_ratio).text,
               calls_text(&c->fio_calls).text);
    }
}

/* How one result's bytes spread over directories. */
static void print_parts(const struct nvme_target *t, const struct nvme_result *r)
{
    uint64_t part[IO_STRIPE_MAX] = {0}, total = 0;
    double seconds = 0;

    for (unsigned i = 0; i < r->count; i++) {
        seconds += r->samples[i].seconds;
        for (unsigned p = 0; p < io_file_parts(t->file); p++) {
            part[p] += r->samples[i].part_bytes[p];
            total += r->samples[i].part_bytes[p];
        }
    }
    for (unsigned p = 0; p < io_file_parts(t->file) && total; p++) {
        struct io_part_info info;

        io_file_part(t->file, p, &info);
        printf("%-9s %6s %5u  %s: %.1f %% of the bytes, %.3f GB/s%s%s\n", nvme_rw_name(r->c.rw),
               bench_block_text(r->c.block_bytes).text, r->c.depth, t->options->dirs[p],
               100 * (double)part[p] / (double)total, (double)part[p] / 1e9 / seconds,
               info.note[0] ? "; " : "", info.note);
    }
}

static void print_tensors(const struct nvme_tensors *s)
{
    struct bench_spread of_ratio = nvme_tensors_ratio(s), of_gb = nvme_tensors_rate(s),
                        of_plain = nvme_tensors_plain(s);

    printf("\ntensors   %s: %u of them, %s, the largest %s\n", s->path, s->tensors,
           common_bytes(s->total_bytes).text, common_bytes(s->largest_bytes).text);
    printf("          %s GB/s; plain reads of 1 MiB into the same buffers %s GB/s\n",
           spread_text(&of_gb).text, spread_text(&of_plain).text);
    printf("          ratio %.3f (%.3f..%.3f), quartiles %.3f..%.3f, of %u pairs in turns\n", of_ratio.median,
           of_ratio.min, of_ratio.max, of_ratio.q1, of_ratio.q3, of_ratio.count);
    for (unsigned i = 0; i < NVME_CLASSES; i++) {
        const struct nvme_class *c = &s->classes[i];
        char below[40];

        if (!c->listed)
            continue;
        if (c->below_bytes == UINT64_MAX)
            snprintf(below, sizeof below, "larger");
        else
            snprintf(below, sizeof below, "below %s", common_bytes(c->below_bytes).text);
        printf("          %-14s %5llu tensors, %9s", below, (ull)c->listed,
               common_bytes(c->listed_bytes).text);
        if (c->latency.count)
            printf(": %9s from queueing to the last byte (median of %llu)",
                   bench_time_text((double)io_histogram_quantile(&c->latency, 0.5)).text,
                   (ull)c->latency.count);
        putchar('\n');
    }
}

static void print_demand(const struct nvme_demand *d)
{
    struct nvme_latency idle, busy;

    nvme_demand_latency(d->idle_ns, d->idle_count, &idle);
    nvme_demand_latency(d->busy_ns, d->busy_count, &busy);
    printf("\ndemand    an urgent read of %s, alone: p50 %s, p99 %s, max %s (%u samples)\n",
           common_bytes(d->bytes).text, bench_time_text((double)idle.p50).text,
           bench_time_text((double)idle.p99).text, bench_time_text((double)idle.max).text, d->idle_count);
    printf("          behind %s of prefetch:      p50 %s, p99 %s, max %s (%u samples)\n",
           common_bytes(d->queued_bytes).text, bench_time_text((double)busy.p50).text,
           bench_time_text((double)busy.p99).text, bench_time_text((double)busy.max).text, d->busy_count);
    printf("          ratio of p50 %.2f, of p99 %.2f; prefetch moved %s meanwhile, %.3f GB/s\n",
           (double)busy.p50 / (double)idle.p50, (double)busy.p99 / (double)idle.p99,
           common_bytes(d->prefetched_bytes).text, (double)d->prefetched_bytes / 1e9 / d->busy_s);
    if (d->tuned)
        printf("          queue as the drive's profile has it: pieces of %u bytes, depth %u, window of %llu "
               "bytes\n",
               d->tuning.piece_bytes, d->tuning.depth, (ull)d->tuning.window_bytes);
    else
        printf("          queue with its defaults: the drive has no profile\n");
}

void nvme_print_results(const struct nvme_target *t, const struct nvme_results *r)
{
    if (r->count)
        print_cases(r);
    nvme_print_advice(r);
    if (r->count && r->cases[0].fio)
        print_fio(r);
    if (t->options->dir_count > 1 && r->count)
        putchar('\n');
    for (unsigned i = 0; i < r->count && t->options->dir_count > 1; i++)
        print_parts(t, &r->cases[i]);
    if (t->sustained)
        nvme_sustained_print(t->sustained);
    if (r->tensors)
        print_tensors(r->tensors);
    if (r->demand)
        print_demand(r->demand);
    if (r->gather)
        nvme_gather_print(r->gather);
    putchar('\n');
    if (!io_file_direct(t->file))
        print_cache(t);
    printf("written   %s by this benchmark in %.1f s; at this rate %.1f TB/day\n",
           common_bytes(t->written_bytes).text, r->elapsed_s,
           (double)t->written_bytes / 1e12 / r->elapsed_s * 86400);
    for (unsigned i = 0; i < t->options->dir_count; i++)
        nvme_health_print(t->options->dirs[i], &t->before[i], &t->after[i],
                          (double)t->options->endurance_bytes, nvme_part_per_day(t, r, i));
}
