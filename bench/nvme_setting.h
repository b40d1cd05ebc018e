/*
 * Which block and depth to take, of those that were measured. Arithmetic alone.
 */
#ifndef BENCH_NVME_SETTING_H
#define BENCH_NVME_SETTING_H

#include <stdbool.h>
#include <stdint.h>

/* Of the best rate, what a setting has to reach. */
#define NVME_SETTING_SHARE 0.97

struct nvme_setting {
    uint64_t block_bytes;
    uint32_t depth;
    double rate, p99_ns; /* rate: bytes per second, in any unit */
};

struct nvme_choice {
    unsigned chosen, best; /* indices */
    double share;          /* of the best rate */
};

/* Of those that reach the share of the best rate the one with the fewest bytes in flight, so that an urgent request finds
 * little before it; of equal ones that with the lower p99. False: there are fewer than two, or none has a rate. */
bool nvme_setting_choose(const struct nvme_setting *s, unsigned count, struct nvme_choice *out);

#endif
