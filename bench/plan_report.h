/*
 * The report of `ofl-bench plan`, as text and in JSON.
 */
#ifndef BENCH_PLAN_REPORT_H
#define BENCH_PLAN_REPORT_H

#include "bench/bench.h"
#include "examples/model/shape.h"
#include "include/offload_estimate.h"

#define BENCH_PLAN_NO EXIT_FULL /* it does not fit */

/* Of one step, once it is steady. */
struct bench_simulated {
    double step_s, bound_s, stall_s;
    const char *binds; /* NULL: nothing was simulated */
    uint64_t device_in_bytes, device_out_bytes, drive_read_bytes, drive_write_bytes, events;
};

struct bench_plan {
    const char *model;
    struct llama_shape shape;
    struct ofl_machine machine;
    struct ofl_workload workload;
    struct ofl_budgets budgets;
    struct ofl_estimate estimate;
    bool has_ways;
    struct ofl_estimate_ways ways;
    struct bench_simulated simulated;
};

void bench_plan_print(const struct bench_plan *p);
/* Returns a status. */
int bench_plan_write(const struct bench_plan *p, const char *path);

#endif
