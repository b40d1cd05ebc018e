/*
 * What the machine can do, measured in the same run as what is put beside it: before it, and by it.
 */
#ifndef BENCH_RATES_H
#define BENCH_RATES_H

#include "bench/bench.h"
#include "examples/common_bound.h"

/* Per second; 0: there is no such thing here. */
struct bench_rates {
    double matrix_flops;                    /* of a large square product in the model's dtype */
    double link_in_bps, link_out_bps;       /* pinned memory to and from the device, one way at a time */
    double device_bps;                      /* device memory: read and written bytes of a large copy */
    double host_bps;                        /* RAM: the same, on all cores */
    double drive_read_bps, drive_write_bps; /* of the --nvme directories together */
    double drive_run_bps;                   /* of the run itself, reads and writes together */
    double drive_age_s; /* of a rate that was kept, since now it can't be measured; 0: none was */
};

/* Takes seconds. Returns a status. */
int bench_rates_measure(const struct common_budget *b, enum ofl_dtype dtype, struct bench_rates *out);
/* Where the run itself moved bytes faster than what was measured before it, that is the rate. */
void bench_rates_raise(struct bench_rates *r, const struct common_bound *run);
/* Seconds that the drives need at least. */
double bench_drive_time(const struct bench_rates *r, double read_bytes, double write_bytes);
json_t *bench_rates_json(const struct bench_rates *r);
void bench_rates_print(const struct bench_rates *r);

#endif
