/*
 * program: what a step of a model does with its tensors, as examples/model/trainer_step.c and generator.c do
 * it: which are leased, for how long, how much is computed meanwhile, and which updates follow. Made from the
 * shape alone; what estimates and the simulator work on. Knows nothing of machines, budgets or times.
 *
 * A step is to be repeated: its last operations are followed by its first ones.
 */
#ifndef OFL_PLAN_PROGRAM_H
#define OFL_PLAN_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload_estimate.h"

#define PLAN_NAME 64

struct plan_tensor {
    char name[PLAN_NAME];
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint64_t bytes;
    bool source;    /* read in place, never written */
    bool transient; /* without bytes between uses */
};

enum plan_op_type {
    PLAN_ACQUIRE, /* of a lease for each of leases[first .. first + count), as one batch */
    PLAN_RELEASE, /* of the same leases */
    PLAN_COMPUTE, /* flops, bytes; between the acquires and the releases that stand around it */
    PLAN_UPDATE,  /* by the optimizer: tensors of leases[first ..]: weight, gradient, mean, square, master */
};

/* Parts of a step that follow each other: what is moved for one of them is moved during it. */
enum plan_phase { PLAN_FORWARD, PLAN_BACKWARD, PLAN_PHASES };

struct plan_lease {
    uint32_t tensor;
    enum ofl_mode mode;
    bool drop; /* no bytes after it: OFL_LEASE_DROP; of an update, the gradient */
};

struct plan_op {
    enum plan_op_type type;
    enum plan_phase phase;
    uint32_t first, count; /* leases */
    uint32_t stream;       /* 0: the model's; 1: the optimizer's, which nothing of the model waits for */
    double flops;          /* of matrix products */
    double bytes;          /* of device memory that is read and written; an update: of its tensors */
};

struct plan_program {
    struct plan_tensor *tensors;
    struct plan_lease *leases;
    struct plan_op *ops;
    uint32_t tensors_count, leases_count, ops_count;
    uint64_t held_bytes;   /* device memory leased for as long as the program runs: workspace, rows, cache */
    uint64_t cache_bytes;  /* of these, keys and values */
    uint64_t weight_bytes; /* of all weights */
    uint64_t parameters;
    uint64_t least_bytes;         /* device memory that is leased at once at most, with what is held */
    char least_part[PLAN_NAME];   /* where: "backward of a layer" */
    char least_tensor[PLAN_NAME]; /* the largest tensor there */
    uint64_t least_tensor_bytes;
    uint64_t tokens;    /* of a step */
    double model_flops; /* that a step needs without computing anything twice, attention left out */
};

/* -EINVAL names what can't be; -ENOMEM. A failed make leaves nothing. */
int plan_program_make(const struct ofl_workload *workload, struct plan_program *out);
/* NULL and a zeroed one are accepted. */
void plan_program_free(struct plan_program *p);

#endif
