/*
 * The setting that a report recommends, as a line and in JSON.
 */
#ifndef BENCH_NVME_ADVICE_H
#define BENCH_NVME_ADVICE_H

#include "bench/nvme_figures.h"

/* A line for each kind of run that was measured with several settings. */
void nvme_print_advice(const struct nvme_results *r);
/* An array; empty if there is none. */
json_t *nvme_advice_json(const struct nvme_results *r);

#endif
