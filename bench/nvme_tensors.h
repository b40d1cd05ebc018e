/*
 * Lists of tensors, and how fast they are replayed.
 */
#ifndef BENCH_NVME_TENSORS_H
#define BENCH_NVME_TENSORS_H

#include "bench/nvme_target.h"

#define NVME_CLASSES 6u

/* A list of tensors, and how fast it was replayed. */
struct nvme_tensors {
    char *path;
    uint64_t *bytes;
    unsigned tensors;
    uint64_t total_bytes, largest_bytes;
    unsigned count;                /* of pairs */
    double *sequential, *replayed; /* bytes per second */
    struct nvme_class {
        uint64_t below_bytes; /* upper limit of the sizes; UINT64_MAX in the last */
        uint64_t listed, listed_bytes;
        struct io_histogram latency; /* from queueing to the last byte */
    } classes[NVME_CLASSES];
};

/* Reads FILE, or the shipped list of that name. Returns a status. */
int nvme_tensors_load(const char *name, struct nvme_tensors *out);
void nvme_tensors_free(struct nvme_tensors *s);
int nvme_tensors_measure(struct nvme_target *t, struct nvme_tensors *s);

#endif
