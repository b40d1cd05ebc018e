/*
 * program: what a step of a model does with its tensors, as the trainer and the generator do it: which are leased,
 * for how long, how much is computed meanwhile, and which updates follow. Made from a model's shape alone; what
 * estimates and the simulator work on.
 */
#ifndef OFL_PLAN_PROGRAM_H
#define OFL_PLAN_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "include/offload.h"

struct plan_tensor {
    char name[64];
    enum ofl_kind kind;
    enum ofl_dtype dtype;
    uint64_t bytes;
    bool source, transient; /* read in place; no bytes between uses */
};

enum plan_op_type {
    PLAN_ACQUIRE, /* of a lease for each of leases[first .. first + count), as one batch */
    PLAN_RELEASE, /* of the same leases */
    PLAN_COMPUTE, /* flops, bytes; between the acquires and the releases that stand around it */
    PLAN_UPDATE,  /* by the optimizer: tensors of leases[first ..]: weight, gradient, mean, square, master */
};

struct plan_lease {
    uint32_t tensor;
    enum ofl_mode mode;
    bool drop;
};

struct plan_op {
    enum plan_op_type type;
    uint32_t first, count; /* leases */
    uint32_t stream;       /* 0: the model's; 1: the optimizer's, which nothing of the model waits for */
    double flops;          /* of matrix products */
    double bytes;          /* of device memory that is read and written; an update: of its tensors */
};

struct plan_program {
    struct plan_tensor *tensors;
    uint32_t tensors_count;
    struct plan_lease *leases;
    uint32_t leases_count;
    struct plan_op *ops;
    uint32_t ops_count;
    uint64_t held_bytes; /* device memory leased for as long as the program runs */
    uint64_t tokens;     /* of a step */
};

#endif
