/* Figures of a result of `ofl-bench nvme`, over its samples. See nvme_figures.h. */
#include "bench/nvme_figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t moved(const uint64_t bytes[2])
{
    return bytes[IO_READ] + bytes[IO_WRITE];
}

static double rate(const struct nvme_result *r, unsigned i)
{
    const struct nvme_sample *s = &r->samples[i];

    return (double)moved(s->bytes) / 1e9 / s->seconds;
}

static double iops(const struct nvme_result *r, unsigned i)
{
    const struct nvme_sample *s = &r->samples[i];

    return (double)(s->ops[IO_READ] + s->ops[IO_WRITE]) / s->seconds;
}

static double cpu(const struct nvme_result *r, unsigned i)
{
    const struct nvme_sample *s = &r->samples[i];

    return s->cpu_s / ((double)moved(s->bytes) / 1e9);
}

static double fio_rate(const struct nvme_result *r, unsigned i)
{
    return (double)moved(r->fio[i].bytes) / 1e9 / r->fio[i].seconds;
}

static double fio_cpu(const struct nvme_result *r, unsigned i)
{
    return r->fio[i].cpu_s / ((double)moved(r->fio[i].bytes) / 1e9);
}

static double rate_ratio(const struct nvme_result *r, unsigned i)
{
    return rate(r, i) / fio_rate(r, i);
}

static double cpu_ratio(const struct nvme_result *r, unsigned i)
{
    return cpu(r, i) / fio_cpu(r, i);
}

static struct bench_spread spread(const struct nvme_result *r,
                                  double (*figure)(const struct nvme_result *r, unsigned i))
{
    double *values = calloc(r->count, sizeof *values);
    struct bench_spread s = {0};

    for (unsigned i = 0; values && i < r->count; i++)
        values[i] = figure(r, i);
    if (values)
        s = bench_spread(values, r->count);
    free(values);
    return s;
}

struct bench_spread nvme_result_rate(const struct nvme_result *r)
{
    return spread(r, rate);
}

struct bench_spread nvme_result_iops(const struct nvme_result *r)
{
    return spread(r, iops);
}

struct bench_spread nvme_result_cpu(const struct nvme_result *r)
{
    return spread(r, cpu);
}

struct bench_spread nvme_fio_rate(const struct nvme_result *r)
{
    return spread(r, fio_rate);
}

struct bench_spread nvme_fio_cpu(const struct nvme_result *r)
{
    return spread(r, fio_cpu);
}

struct bench_spread nvme_rate_ratio(const struct nvme_result *r)
{
    return spread(r, rate_ratio);
}

struct bench_spread nvme_cpu_ratio(const struct nvme_result *r)
{
    return spread(r, cpu_ratio);
}

double nvme_result_empty(const struct nvme_result *r)
{
    uint64_t busy = 0, empty = 0;

    for (unsigned i = 0; i < r->count; i++) {
        busy += r->samples[i].busy_ns;
        empty += r->samples[i].empty_ns;
    }
    return busy + empty ? (double)empty / (double)(busy + empty) : 0;
}

/* Of values over divisors, or over unit if there are none. */
static struct bench_spread spread_over(const double *values, const double *divisors, double unit,
                                       unsigned count)
{
    double *quotients = calloc(count + 1, sizeof *quotients);
    struct bench_spread s = {0};

    for (unsigned i = 0; quotients && i < count; i++)
        quotients[i] = values[i] / (divisors ? divisors[i] : unit);
    if (quotients)
        s = bench_spread(quotients, count);
    free(quotients);
    return s;
}

struct bench_spread nvme_tensors_rate(const struct nvme_tensors *s)
{
    return spread_over(s->replayed, NULL, 1e9, s->count);
}

struct bench_spread nvme_tensors_plain(const struct nvme_tensors *s)
{
    return spread_over(s->sequential, NULL, 1e9, s->count);
}

struct bench_spread nvme_tensors_ratio(const struct nvme_tensors *s)
{
    return spread_over(s->replayed, s->sequential, 1, s->count);
}

void nvme_demand_latency(const double *ns, unsigned count, struct nvme_latency *out)
{
    const double shares[] = {0.5, 0.99, 0.999, 1};
    uint64_t *const places[] = {&out->p50, &out->p99, &out->p999, &out->max};
    double *sorted = calloc(count + 1, sizeof *sorted);

    *out = (struct nvme_latency){0};
    if (sorted && count) {
        memcpy(sorted, ns, count * sizeof *sorted);
        (void)bench_spread(sorted, count);
        for (size_t i = 0; i < ARRAY_COUNT(shares); i++)
            *places[i] = (uint64_t)sorted[(unsigned)ceil(shares[i] * count) - 1];
    }
    free(sorted);
}

double nvme_part_per_day(const struct nvme_target *t, const struct nvme_results *r, unsigned index)
{
    double all = (double)t->written_bytes / r->elapsed_s * 86400, total = 0;
    struct io_part_info info;

    for (unsigned i = 0; i < io_file_parts(t->file); i++) {
        io_file_part(t->file, i, &info);
        total += (double)info.bytes;
    }
    io_file_part(t->file, index, &info);
    return total > 0 ? all * (double)info.bytes / total : all;
}
