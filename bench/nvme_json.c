/* The report of `ofl-bench nvme` in JSON. Sizes are bytes, times seconds unless a name says
 * otherwise; GB are 10^9 bytes. What is not known is null. See nvme_json.h. */
#include "bench/nvme_json.h"

#include <sys/utsname.h>

#include "bench/nvme_advice.h"
#include "bench/nvme_sustained.h"
#include "bench/nvme_verify_pass.h"
#include "examples/common_memory.h"

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* null if it is empty */
static json_t *text(const char *known)
{
    return known[0] ? bench_text_json(known) : json_null();
}

static json_t *latency_json(const struct nvme_latency *l)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "p50", integer(l->p50), "p99", integer(l->p99), "p999",
                     integer(l->p999), "max", integer(l->max));
}

/* [[largest value of the bucket, how many], ...] */
static json_t *histogram_json(const struct io_histogram *h)
{
    json_t *buckets = json_array();

    for (unsigned i = 0; i < IO_HISTOGRAM_BUCKETS; i++)
        if (h->bucket[i])
            json_array_append_new(
                buckets,
                json_pack("[o, o]", integer(io_histogram_high(i) < h->max ? io_histogram_high(i) : h->max),
                          integer(h->bucket[i])));
    return buckets;
}

static json_t *calls_json(const struct nvme_calls *c)
{
    return c->per_gb < 0 ? json_null() : bench_real_json(c->per_gb);
}

/* ---- where -------------------------------------------------------------------------------- */

static json_t *machine_json(void)
{
    struct utsname u;

    uname(&u);
    return json_pack("{s:s, s:s, s:s, s:o}", "system", u.sysname, "kernel", u.release, "machine", u.machine,
                     "memory_bytes", integer(common_memory()));
}

static json_t *drive_json(const struct io_drive *d)
{
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:o, s:o}", "name", text(d->name), "model",
        text(d->model), "link", text(d->link), "backing", text(d->backing), "members", text(d->members),
        "filesystem", text(d->filesystem), "mount", text(d->mount), "bytes", integer(d->drive_bytes),
        "logical_block", (int)d->logical_block, "numa_node", d->numa_node, "rotational",
        d->rotational_known ? json_boolean(d->rotational) : json_null(), "scheduler", text(d->scheduler));
}

static json_t *paths_json(const struct nvme_target *t)
{
    json_t *paths = json_array();

    for (unsigned i = 0; i < io_file_parts(t->file); i++) {
        struct io_part_info info;

        io_file_part(t->file, i, &info);
        json_array_append_new(
            paths, json_pack("{s:o, s:o, s:f, s:b, s:b, s:b, s:b, s:b, s:o, s:o, s:o, s:o}", "dir",
                             bench_text_json(t->options->dirs[i]), "bytes", integer(info.bytes), "weight",
                             info.weight, "direct", info.direct, "full", info.full, "reserved", info.reserved,
                             "in_memory", info.in_memory, "cached", info.cached, "note", text(info.note),
                             "space_note", text(info.space_note), "drive_note", text(info.drive_note),
                             "drive", drive_json(&t->drives[i])));
    }
    return paths;
}

static json_t *engine_json(const struct nvme_target *t)
{
    return json_pack("{s:s, s:o, s:b, s:o, s:b, s:o, s:o}", "name",
                     t->engine == IO_ENGINE_URING ? "io_uring" : "threads", "note", text(t->engine_note),
                     "registered", t->registered, "registered_note",
                     text(t->registered ? "" : t->registered_note), "direct", io_file_direct(t->file),
                     "direct_note", text(io_file_note(t->file)), "cached_share",
                     t->cached_share < 0 ? json_null() : json_real(t->cached_share));
}

/* ---- one kind of run -------------------------------------------------------------------------- */

static json_t *sample_json(const struct nvme_sample *s)
{
    json_t *j = json_pack("{s:f, s:f, s:o, s:o, s:o, s:o, s:f, s:f, s:i}", "seconds", s->seconds, "cpu_s",
                          s->cpu_s, "read_bytes", integer(s->bytes[IO_READ]), "write_bytes",
                          integer(s->bytes[IO_WRITE]), "ops", integer(s->ops[IO_READ] + s->ops[IO_WRITE]),
                          "latency_ns", latency_json(&s->latency), "busy_s", (double)s->busy_ns * 1e-9,
                          "empty_s", (double)s->empty_ns * 1e-9, "inflight_max", (int)s->inflight_max);

    return j ? j : json_null();
}

static json_t *samples_json(const struct nvme_result *r)
{
    json_t *samples = json_array();

    for (unsigned i = 0; i < r->count; i++)
        json_array_append_new(samples, sample_json(&r->samples[i]));
    return samples;
}

static json_t *fio_samples_json(const struct nvme_result *r)
{
    json_t *samples = json_array();

    for (unsigned i = 0; i < r->count; i++) {
        const struct nvme_fio_sample *s = &r->fio[i];

        json_array_append_new(samples, json_pack("{s:f, s:f, s:o, s:o, s:o}", "seconds", s->seconds, "cpu_s",
                                                 s->cpu_s, "read_bytes", integer(s->bytes[IO_READ]),
                                                 "write_bytes", integer(s->bytes[IO_WRITE]), "latency_ns",
                                                 latency_json(&s->latency)));
    }
    return samples;
}

static json_t *fio_json(const struct nvme_target *t, const struct nvme_result *r, double time_s)
{
    struct bench_spread gb = nvme_fio_rate(r), cpu = nvme_fio_cpu(r), ratio = nvme_rate_ratio(r),
                        cpu_ratio = nvme_cpu_ratio(r);
    char **argv = nvme_fio_command(t, &r->c, time_s, 0);
    json_t *command = json_array();

    for (unsigned i = 0; argv && argv[i]; i++)
        json_array_append_new(command, json_string(argv[i]));
    nvme_fio_free_command(argv);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "command", command, "gb_per_s",
                     bench_spread_json(&gb), "cpu_s_per_gb", bench_spread_json(&cpu), "ratio",
                     bench_spread_json(&ratio), "cpu_ratio", bench_spread_json(&cpu_ratio), "calls_per_gb",
                     calls_json(&r->fio_calls), "calls_note", text(r->fio_calls.note), "samples",
                     fio_samples_json(r));
}

static json_t *parts_json(const struct nvme_target *t, const struct nvme_result *r)
{
    json_t *parts = json_array();

    for (unsigned p = 0; p < io_file_parts(t->file); p++) {
        uint64_t bytes = 0;
        double seconds = 0;

        for (unsigned i = 0; i < r->count; i++) {
            bytes += r->samples[i].part_bytes[p];
            seconds += r->samples[i].seconds;
        }
        json_array_append_new(parts, json_pack("{s:o, s:o, s:o}", "dir", bench_text_json(t->options->dirs[p]),
                                               "bytes", integer(bytes), "gb_per_s",
                                               bench_real_json((double)bytes / 1e9 / seconds)));
    }
    return parts;
}

static json_t *result_json(const struct nvme_target *t, const struct nvme_result *r, double time_s)
{
    struct bench_spread gb = nvme_result_rate(r), iops = nvme_result_iops(r), cpu = nvme_result_cpu(r);
    struct io_histogram all = r->latency[IO_READ];
    struct nvme_latency l;
    json_t *j;

    io_histogram_merge(&all, &r->latency[IO_WRITE]);
    nvme_latency_of(&all, &l);
    j = json_pack("{s:s, s:o, s:i, s:o, s:o, s:o, s:o}", "rw", nvme_rw_name(r->c.rw), "block_bytes",
                  integer(r->c.block_bytes), "depth", (int)r->c.depth, "gb_per_s", bench_spread_json(&gb),
                  "iops", bench_spread_json(&iops), "cpu_s_per_gb", bench_spread_json(&cpu), "latency_ns",
                  latency_json(&l));
    if (!j)
        return NULL;
    json_object_set_new(j, "calls_per_gb", calls_json(&r->calls));
    json_object_set_new(j, "calls_note", text(r->calls.note));
    json_object_set_new(j, "empty_share", bench_real_json(nvme_result_empty(r)));
    json_object_set_new(j, "read_histogram_ns", histogram_json(&r->latency[IO_READ]));
    json_object_set_new(j, "write_histogram_ns", histogram_json(&r->latency[IO_WRITE]));
    json_object_set_new(j, "paths", parts_json(t, r));
    json_object_set_new(j, "fio", r->fio ? fio_json(t, r, time_s) : json_null());
    json_object_set_new(j, "samples", samples_json(r));
    return j;
}

/* ---- tensors, demand ----------------------------------------------------------------------------- */

static json_t *reals(const double *values, unsigned count, double unit)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < count; i++)
        json_array_append_new(all, bench_real_json(values[i] / unit));
    return all;
}

static json_t *ratios(const struct nvme_tensors *s)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < s->count; i++)
        json_array_append_new(all, bench_real_json(s->replayed[i] / s->sequential[i]));
    return all;
}

static json_t *tensors_json(const struct nvme_tensors *s)
{
    struct bench_spread ratio = nvme_tensors_ratio(s), gb = nvme_tensors_rate(s),
                        plain = nvme_tensors_plain(s);
    json_t *classes = json_array();

    for (unsigned i = 0; i < NVME_CLASSES; i++) {
        const struct nvme_class *c = &s->classes[i];
        struct nvme_latency l;

        nvme_latency_of(&c->latency, &l);
        json_array_append_new(classes,
                              json_pack("{s:o, s:o, s:o, s:o, s:o}", "below_bytes",
                                        c->below_bytes == UINT64_MAX ? json_null() : integer(c->below_bytes),
                                        "tensors", integer(c->listed), "bytes", integer(c->listed_bytes),
                                        "read", integer(c->latency.count), "latency_ns", latency_json(&l)));
    }
    return json_pack("{s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "list",
                     bench_text_json(s->path), "tensors", (int)s->tensors, "bytes", integer(s->total_bytes),
                     "largest_bytes", integer(s->largest_bytes), "gb_per_s", bench_spread_json(&gb),
                     "sequential_gb_per_s", bench_spread_json(&plain), "ratio", bench_spread_json(&ratio),
                     "classes", classes, "gb_per_s_samples", reals(s->replayed, s->count, 1e9),
                     "sequential_samples", reals(s->sequential, s->count, 1e9), "ratio_samples", ratios(s));
}

static json_t *demand_json(const struct nvme_demand *d)
{
    struct nvme_latency idle, busy;

    nvme_demand_latency(d->idle_ns, d->idle_count, &idle);
    nvme_demand_latency(d->busy_ns, d->busy_count, &busy);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "bytes", integer(d->bytes),
                     "queued_bytes", integer(d->queued_bytes), "idle_ns", latency_json(&idle), "busy_ns",
                     latency_json(&busy), "p50_ratio", bench_real_json((double)busy.p50 / (double)idle.p50),
                     "p99_ratio", bench_real_json((double)busy.p99 / (double)idle.p99), "prefetched_bytes",
                     integer(d->prefetched_bytes), "prefetch_gb_per_s",
                     bench_real_json((double)d->prefetched_bytes / 1e9 / d->busy_s), "tuning",
                     d->tuned ? json_pack("{s:o, s:o, s:o}", "piece_bytes", integer(d->tuning.piece_bytes),
                                          "depth", integer(d->tuning.depth), "window_bytes",
                                          integer(d->tuning.window_bytes))
                              : json_null(),
                     "idle_samples_ns", reals(d->idle_ns, d->idle_count, 1), "busy_samples_ns",
                     reals(d->busy_ns, d->busy_count, 1));
}

static json_t *health_json(const struct nvme_target *t, const struct nvme_results *r)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < t->options->dir_count; i++)
        json_array_append_new(all, nvme_health_json(t->options->dirs[i], &t->before[i], &t->after[i],
                                                    (double)t->options->endurance_bytes,
                                                    nvme_part_per_day(t, r, i)));
    return all;
}

json_t *nvme_report(const struct nvme_target *t, const struct nvme_results *r)
{
    json_t *results = json_array(), *j;

    for (unsigned i = 0; i < r->count; i++)
        json_array_append_new(results, result_json(t, &r->cases[i], r->time_s));
    j = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "program", "ofl-bench nvme", "version",
                  ofl_version(), "date", bench_date().text, "machine", machine_json(), "paths", paths_json(t),
                  "settings", nvme_options_json(t->options), "engine", engine_json(t), "results", results);
    if (!j)
        return NULL;
    json_object_set_new(j, "file_bytes", integer(t->bytes));
    json_object_set_new(j, "fio_version", t->options->fio ? bench_text_json(r->fio_version) : json_null());
    json_object_set_new(j, "tensors", r->tensors ? tensors_json(r->tensors) : json_null());
    json_object_set_new(j, "demand", r->demand ? demand_json(r->demand) : json_null());
    json_object_set_new(j, "sustained", nvme_sustained_json(t->sustained));
    json_object_set_new(j, "gather", nvme_gather_json(r->gather));
    json_object_set_new(j, "health", health_json(t, r));
    json_object_set_new(j, "recommended", nvme_advice_json(r));
    json_object_set_new(j, "verify", nvme_verify_json(t));
    json_object_set_new(j, "written_bytes", integer(t->written_bytes));
    json_object_set_new(j, "elapsed_s", json_real(r->elapsed_s));
    json_object_set_new(j, "written_tb_per_day",
                        bench_real_json((double)t->written_bytes / 1e12 / r->elapsed_s * 86400));
    return j;
}
