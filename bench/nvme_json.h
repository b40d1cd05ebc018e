/*
 * The report of `ofl-bench nvme` in JSON.
 */
#ifndef BENCH_NVME_JSON_H
#define BENCH_NVME_JSON_H

#include "bench/nvme_figures.h"

/* NULL without memory. */
json_t *nvme_report(const struct nvme_target *t, const struct nvme_results *r);

#endif
