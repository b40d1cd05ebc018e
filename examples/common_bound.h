/*
 * Bounds of steps or tokens, from the rates that drives and link showed in the same run: how long they need at
 * least for the bytes that moved, and for the least that could have. Waste raises the first, so that a high share
 * of it means little beside the second.
 */
#ifndef EXAMPLES_COMMON_BOUND_H
#define EXAMPLES_COMMON_BOUND_H

#include "examples/common.h"

enum { COMMON_LINK_IN, COMMON_LINK_OUT, COMMON_DRIVES, COMMON_SIDES }; /* drives: reads and writes together */

#define COMMON_PATHS 64 /* more drives than that are not looked at */

/* What has moved since the context was opened, and when that was asked. */
struct common_flow {
    double at_s;
    uint64_t link_bytes[2], link_busy_ns[2]; /* COMMON_LINK_IN, COMMON_LINK_OUT */
    uint64_t path_bytes[COMMON_PATHS], path_busy_ns[COMMON_PATHS];
    uint32_t paths;
};

/* Watches a run, step by step. Begins as zeros. */
struct common_meter {
    struct common_flow last, window,
        counted;              /* after the last step; where a window, and what counts, began */
    double bps[COMMON_SIDES]; /* the best rate of a window, of time with something on its way */
    unsigned settle, steps,
        counted_steps; /* those that count: behind the first `settle`, or all if that is none */
};

/* Of a step of a name the first is recorded and the second follows the first plan. */
#define COMMON_SETTLE 2u

/* Before the first step, and after each. Returns a status. */
int common_meter_start(struct common_meter *m, struct ofl_ctx *ctx, unsigned settle);
int common_meter_step(struct common_meter *m, struct ofl_ctx *ctx);
/* After what was no step: it counts for none. */
int common_meter_skip(struct common_meter *m, struct ofl_ctx *ctx);

/* Of one step, in bytes. */
struct common_least {
    bool known;
    double bytes[COMMON_SIDES];
};

/* Of a pass over weights of which the device keeps device_bytes and host memory host_bytes more: what is in
 * neither comes from the drives, what is not on the device over the link, each time. */
struct common_least common_least_pass(uint64_t weight_bytes, uint64_t device_bytes, uint64_t host_bytes);

struct common_bound {
    double step_s; /* the mean of those that count, from one end to the next */
    unsigned steps;
    double bps[COMMON_SIDES]; /* 0: nothing moved there */
    double moved[COMMON_SIDES];
    struct common_least least;
    double moved_s, least_s; /* the longest of the sides' times; 0: nothing moves; least_s < 0: not known */
    int moved_by, least_by;  /* the side that takes it */
};

void common_bound_get(const struct common_meter *m, const struct common_least *least,
                      struct common_bound *out);
/* More than all of a bound can't be reached: says so on stderr, since that is an error of ours. */
void common_bound_check(double bound_s, double seconds);
/* Lines on stderr. what: "token", "step". */
void common_bound_print(const struct common_bound *b, const char *what);
/* NULL: no memory. */
json_t *common_bound_json(const struct common_bound *b);

#endif
