/*
 * `ofl-bench nvme --sustained`: writes for so long that the drive's cache is behind it.
 */
#ifndef BENCH_NVME_SUSTAINED_H
#define BENCH_NVME_SUSTAINED_H

#include "bench/nvme_sustained_plan.h"
#include "bench/nvme_target.h"

int nvme_sustained_measure(struct nvme_target *t, struct nvme_sustained *s);
void nvme_sustained_free(struct nvme_sustained *s);
void nvme_sustained_print(const struct nvme_sustained *s);
json_t *nvme_sustained_json(const struct nvme_sustained *s); /* NULL: null */

#endif
