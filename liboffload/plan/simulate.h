/*
 * simulate: runs a program against the library's own pager and scheduler in virtual time. Device, link, drives and
 * workers are rates; no byte is held or moved, and arenas are addresses that nobody may touch. The same input
 * gives the same run, event by event.
 */
#ifndef OFL_PLAN_SIMULATE_H
#define OFL_PLAN_SIMULATE_H

#include <stddef.h>

#include "liboffload/plan/program.h"
#include "liboffload/plan/record.h"

#define PLAN_DRIVES 8u
#define PLAN_STEPS  64u

struct plan_drive {
    double read_bytes_s, write_bytes_s;
    double mixed_bytes_s; /* both together, of as many bytes read as written; 0: in turns */
    uint64_t latency_ns;
    uint64_t inflight_bytes,
        window_bytes; /* of all at once, of what nobody waits for; 0: the queue's defaults */
};

/* What the parts of a machine do. */
struct plan_rates {
    double device_flops_s, device_bytes_s;
    uint64_t launch_ns; /* of each kernel */
    double link_in_bytes_s, link_out_bytes_s;
    double link_both_bytes_s; /* both ways together; 0: they do not slow each other */
    uint64_t link_latency_ns;
    struct plan_drive drives[PLAN_DRIVES]; /* bytes are spread over all of them, by rate */
    uint32_t drives_count;
    uint32_t workers;
    double update_bytes_s, seal_bytes_s; /* of RAM, read and written, by all workers together */
    uint32_t run_ahead;                  /* leases and releases that a stream may be behind; 0: any number */
};

struct plan_budgets {
    uint64_t device_bytes, host_bytes, store_bytes; /* store: 0: none */
    uint64_t tile_bytes;                            /* 0: as the library chooses */
};

struct plan_simulation {
    const struct plan_program *program;
    const struct plan_program
        *other; /* every third step does this with the same tensors: off plan. NULL: none */
    struct plan_rates rates;
    struct plan_budgets budgets;
    uint32_t steps; /* 1 to PLAN_STEPS */
    bool sync;     /* the program waits for its streams at the end of each: a token is sampled, a loss read */
    double jitter; /* services take up to so much of their time more: 0 none, 0.1 a tenth */
    bool hold;     /* updates wait for what stream 1 had to do before them: the norm */
    uint64_t seed; /* of the jitter */
    uint64_t most_events;                                   /* gives up after so many; 0: never */
    void (*record)(void *arg, const struct plan_record *r); /* NULL: nobody listens */
    void *arg;
};

enum plan_resource {
    PLAN_DEVICE, /* the busiest of its streams: they run side by side */
    PLAN_LINK_IN,
    PLAN_LINK,  /* both ways */
    PLAN_DRIVE, /* the busiest of them, both ways */
    PLAN_WORKERS,
    PLAN_RESOURCES
};

struct plan_step {
    uint64_t ns;
    uint64_t stall_ns;                                     /* the model's stream stood at a gate */
    uint64_t stall_all_ns;                                 /* all streams did, added up */
    uint64_t busy_ns[PLAN_RESOURCES];                      /* what they had to do, as fast as they can */
    uint64_t in_bytes, out_bytes, read_bytes, write_bytes; /* read: of store and sources */
    uint64_t late_bytes;                                   /* of in_bytes: a stream stood waiting for them */
    uint64_t hits, misses, prefetches, evictions;
    uint64_t bound_ns; /* the largest busy time */
    enum plan_resource bound;
};

struct plan_simulated {
    struct plan_step steps[PLAN_STEPS];
    uint32_t count;
    uint64_t events, hash; /* hash: of all records */
    uint64_t tile_bytes, device_peak_bytes, host_peak_bytes, store_used_bytes;
    /* What the plan of the last step says that a steady one moves; all 0: there is no plan. */
    uint64_t planned_in_bytes, planned_out_bytes, planned_read_bytes, planned_write_bytes;
};

/* 0, or -errno with the sentence: budgets that can't work (-OFL_EBUDGET), a program that never ends (-EDEADLK). */
int plan_simulate(const struct plan_simulation *s, struct plan_simulated *out);

const char *plan_resource_name(enum plan_resource r);

#endif
