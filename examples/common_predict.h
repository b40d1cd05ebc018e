/*
 * What a run will take of this machine, said before it starts and compared at its end: the library's estimate, with
 * rates that are measured first.
 */
#ifndef EXAMPLES_COMMON_PREDICT_H
#define EXAMPLES_COMMON_PREDICT_H

#include "examples/common.h"
#include "examples/model/compute.h"
#include "include/offload_estimate.h"

/* Bytes per second that all cores read and write as they copy; takes at most so much memory. Returns a status. */
int common_copy_rate(uint64_t most_bytes, double *bps);

/* A step of what compute computes, as estimates want it. source: weights are read in place. */
/* ofl_workload.vectors of a shape. */
uint32_t common_vectors(const struct llama_shape *shape);
struct ofl_workload common_workload(const struct llama_compute_config *compute, bool clip, bool source);
/* Times a layer, for about so many seconds in so much memory (examples/model/timing.h), and sets m's rates to that.
 * Returns 0, or -1 with the sentence. */
int common_machine_fit(const struct common_budget *b, const struct llama_compute_config *compute,
                       uint64_t memory_bytes, double enough_s, struct ofl_machine *m, char *error,
                       size_t error_bytes);
/* What passes between host memory and the device, each way, by copies of at most so many bytes. 0, or -1. */
int common_link_rates(const char *device, uint64_t most_bytes, double *in_bps, double *out_bps, char *error,
                      size_t error_bytes);

struct common_prediction {
    bool known;
    struct ofl_estimate estimate;
};

/* What is to be run. */
struct common_plan {
    const struct common_budget *budget;
    const struct llama_compute_config *compute;
    const struct ofl_config *open;
    const char *source;     /* a directory that weights are read from in place; NULL: none */
    uint64_t scratch_bytes; /* of device memory; 0: as compute has it */
    bool clip;
    enum ofl_method method;
    const char *what; /* "step", "token" */
};

/* As estimates want it. */
struct ofl_workload common_plan_workload(const struct common_plan *plan);
/* Prints what a step will take, or why that can't be said: a line on stderr. Takes a second or two. */
void common_predict(const struct common_plan *plan, struct common_prediction *out);
/* As estimates want them. */
struct ofl_budgets common_budgets_of(const struct ofl_config *open);
struct common_ways;
/* --dry-run, on standard output: budgets, what rests where and moves (plan->compute NULL: it is not known), and the smallest
 * budgets. Measures nothing. */
void common_dry_run(const struct common_plan *plan, const struct common_ways *ways);
/* How far from it the run was. */
void common_predict_end(const struct common_prediction *p, const char *what, double step_s);
/* The names of enum ofl_resource. */
const char *common_resource(enum ofl_resource r);

#endif
