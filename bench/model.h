/*
 * What `ofl-bench step` and `ofl-bench decode` share: the model that is run, and what the machine can do,
 * measured in the same run, so that a figure can be put beside its bound. Only step.c, decode.c, model.c and
 * rates.c include this.
 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include "bench/bench.h"
#include "examples/model/config.h"

/* From --preset or --model DIR; both NULL is an error. Returns a status. */
int bench_model_load(const char *preset, const char *dir, struct llama_config *out);
/* Multiply-adds of a token in matrices: parameters less those that are only looked up. */
double bench_model_products(const struct llama_shape *shape);
json_t *bench_model_json(const struct llama_shape *shape);

/* Per second; 0: there is no such thing here. */
struct bench_rates {
    double matrix_flops;                    /* of a large square product in the model's dtype */
    double link_in_bps, link_out_bps;       /* pinned memory to and from the device, one way at a time */
    double device_bps;                      /* device memory: read and written bytes of a large copy */
    double host_bps;                        /* RAM: the same, on all cores */
    double drive_read_bps, drive_write_bps; /* of the --nvme directories together */
};

/* Takes seconds. Returns a status. */
int bench_rates_measure(const struct common_budget *b, enum ofl_dtype dtype, struct bench_rates *out);
json_t *bench_rates_json(const struct bench_rates *r);
void bench_rates_print(const struct bench_rates *r);

/* One resource, and the seconds that the work needs of it at least. */
struct bench_need {
    const char *name;
    double seconds;
};

/* Of that much, at that rate; 0 where there is no such thing. */
static inline double bench_time(double amount, double rate)
{
    return rate > 0 ? amount / rate : 0;
}

/* The largest; the index of it in *binding. */
double bench_bound(const struct bench_need *needs, size_t n, size_t *binding);

#endif
