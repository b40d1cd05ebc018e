/*
 * Tables of `ofl-bench nvme`.
 */
#ifndef BENCH_NVME_REPORT_H
#define BENCH_NVME_REPORT_H

#include "bench/nvme_figures.h"

void nvme_print_facts(const struct nvme_target *t, const struct nvme_results *r);
void nvme_print_results(const struct nvme_target *t, const struct nvme_results *r);

#endif
