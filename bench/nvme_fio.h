/*
 * Lets fio do what a run of ours does, on the same file.
 */
#ifndef BENCH_NVME_FIO_H
#define BENCH_NVME_FIO_H

#include "bench/nvme_run.h"

struct nvme_fio_sample {
    double seconds, cpu_s;
    uint64_t bytes[2];
    struct nvme_latency latency; /* of reads, or of writes if there are none */
    double start_s;              /* that it took before its job, nearly all of it, and after */
};

/* Looks for fio; leaves its version. Returns a status. */
int nvme_fio_check(char *version, size_t bytes);
int nvme_fio_run(struct nvme_target *t, const struct nvme_case *c, double seconds,
                 struct nvme_fio_sample *out);
/* The arguments, ended by NULL, to be freed with nvme_fio_free_command. Wants `bytes` moved at most;
 * 0: as nvme_once has it. NULL without memory. */
char **nvme_fio_command(const struct nvme_target *t, const struct nvme_case *c, double seconds,
                        uint64_t bytes);
void nvme_fio_free_command(char **argv);

#endif
