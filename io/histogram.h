/*
 * io: a histogram of times in logarithmic buckets, eight to each doubling, so a
 * percentile is known to 1/8 at worst. Fixed size, no allocation.
 */
#ifndef OFL_IO_HISTOGRAM_H
#define OFL_IO_HISTOGRAM_H

#include <stdint.h>

#define IO_HISTOGRAM_BUCKETS 496u /* values up to 2^64 - 1 */

struct io_histogram {
    uint64_t count, sum, max;
    uint64_t bucket[IO_HISTOGRAM_BUCKETS];
};

void io_histogram_add(struct io_histogram *h, uint64_t value);
void io_histogram_merge(struct io_histogram *to, const struct io_histogram *from);
/* The value that a share (0 to 1) of all values do not exceed: the upper end of its bucket, at
 * most the maximum; 0 if there are none. */
uint64_t io_histogram_quantile(const struct io_histogram *h, double share);
/* Smallest and largest value of a bucket. */
uint64_t io_histogram_low(unsigned bucket);
uint64_t io_histogram_high(unsigned bucket);

#endif
