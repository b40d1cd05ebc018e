/*
 * All results of `ofl-bench nvme`, and the figures that are computed from them.
 */
#ifndef BENCH_NVME_FIGURES_H
#define BENCH_NVME_FIGURES_H

#include "bench/nvme_demand.h"
#include "bench/nvme_fio.h"
#include "bench/nvme_gather.h"
#include "bench/nvme_syscalls.h"
#include "bench/nvme_tensors.h"

struct nvme_result {
    struct nvme_case c;
    unsigned count; /* of samples, and of fio's if there are any */
    struct nvme_sample *samples;
    struct nvme_fio_sample *fio; /* NULL: no comparison */
    struct io_histogram latency[2];
    struct nvme_calls calls, fio_calls;
};

struct nvme_results {
    struct nvme_result *cases;
    unsigned count;
    double time_s;
    unsigned repeat;
    char fio_version[64];         /* "": not compared */
    double fio_start_s;           /* that it takes, as it was the last time */
    struct nvme_tensors *tensors; /* NULL: not wanted */
    struct nvme_demand *demand;
    struct nvme_gather *gather;
    double elapsed_s;
};

/* Figures of a result, each computed over its samples. */
struct bench_spread nvme_result_rate(const struct nvme_result *r); /* GB/s */
struct bench_spread nvme_result_iops(const struct nvme_result *r);
struct bench_spread nvme_result_cpu(const struct nvme_result *r); /* s per GB */
struct bench_spread nvme_fio_rate(const struct nvme_result *r);
struct bench_spread nvme_fio_cpu(const struct nvme_result *r);
/* Ours over fio's, pair by pair. */
struct bench_spread nvme_rate_ratio(const struct nvme_result *r);
struct bench_spread nvme_cpu_ratio(const struct nvme_result *r);
double nvme_result_empty(const struct nvme_result *r); /* share of time with nothing in flight */

/* Bytes that this run would write to a drive in a day: of several, by their shares of the file. */
double nvme_part_per_day(const struct nvme_target *t, const struct nvme_results *r, unsigned index);

/* GB/s, and the ratio of each pair. */
struct bench_spread nvme_tensors_rate(const struct nvme_tensors *s);
struct bench_spread nvme_tensors_plain(const struct nvme_tensors *s);
struct bench_spread nvme_tensors_ratio(const struct nvme_tensors *s);
/* Exact ones: of the samples themselves. */
void nvme_demand_latency(const double *ns, unsigned count, struct nvme_latency *out);

#endif
