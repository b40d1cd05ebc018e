/*
 * System calls of a case, ours and fio's, counted by strace.
 */
#ifndef BENCH_NVME_SYSCALLS_H
#define BENCH_NVME_SYSCALLS_H

#include "bench/nvme_target.h"

struct nvme_calls {
    double per_gb; /* < 0: not known */
    char note[200];
};

void nvme_count_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out);
void nvme_count_fio_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out);

#endif
