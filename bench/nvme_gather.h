/*
 * Row gathers of `ofl-bench nvme --rw gather`: the library's call, beside plain random reads of 4 KiB.
 */
#ifndef BENCH_NVME_GATHER_H
#define BENCH_NVME_GATHER_H

#include "bench/nvme_run.h"
#include "bench/nvme_target.h"

struct nvme_gather {
    uint64_t row_bytes, rows, long_rows;
    unsigned turns;
    struct io_histogram calls;  /* ns: one gather, from the call to the return */
    struct io_histogram plain;  /* ns: one read of 4 KiB among as many as a gather has rows */
    struct io_histogram single; /* ns: one read of 4 KiB, alone */
    double rows_per_s[64];      /* of long gathers, by turns */
    double reads_per_s[64];     /* of 4 KiB at depth 64 */
    uint64_t read_bytes, gathered_bytes;
};

#define NVME_GATHER_TURNS 64u

int nvme_gather_measure(struct nvme_target *t, struct nvme_gather *g);
void nvme_gather_print(const struct nvme_gather *g);
json_t *nvme_gather_json(const struct nvme_gather *g); /* NULL: null */

#endif
