/*
 * What `ofl-bench step` and `ofl-bench decode` share: the model that is run, and its bound.
 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include "bench/bench.h"
#include "examples/common_options.h"
#include "examples/model/checkpoint.h"

/* The command line of one of them, with the presets before after in --help. Returns a status. */
int bench_model_options(struct common_command *command, const char *after, int argc, char **argv,
                        void *options);
/* From --preset or --model DIR; both NULL is an error. Returns a status. */
int bench_model_load(const char *preset, const char *dir, struct llama_config *out);
/* Multiply-adds of a token in matrices: parameters less those that are only looked up. */
double bench_model_products(const struct llama_shape *shape);
json_t *bench_model_json(const struct llama_shape *shape);

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
