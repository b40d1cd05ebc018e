/* Histograms: see histogram.h. Values below 8 have a bucket each; above, the leading bit
 * and the three after it choose the bucket. */
#include "io/histogram.h"

static unsigned bucket_of(uint64_t value)
{
    unsigned log;

    if (value < 8)
        return (unsigned)value;
    log = 63u - (unsigned)__builtin_clzll(value);
    return 8 * (log - 2) + (unsigned)(value >> (log - 3) & 7);
}

uint64_t io_histogram_low(unsigned bucket)
{
    return bucket < 8 ? bucket : (uint64_t)(8 + bucket % 8) << (bucket / 8 - 1);
}

uint64_t io_histogram_high(unsigned bucket)
{
    return bucket + 1 < IO_HISTOGRAM_BUCKETS ? io_histogram_low(bucket + 1) - 1 : UINT64_MAX;
}

void io_histogram_add(struct io_histogram *h, uint64_t value)
{
    h->bucket[bucket_of(value)]++;
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
}

void io_histogram_merge(struct io_histogram *to, const struct io_histogram *from)
{
    for (unsigned i = 0; i < IO_HISTOGRAM_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
    to->count += from->count;
    to->sum += from->sum;
    if (from->max > to->max)
        to->max = from->max;
}

uint64_t io_histogram_quantile(const struct io_histogram *h, double share)
{
    uint64_t seen = 0, rank = (uint64_t)(share * (double)h->count);

    if ((double)rank < share * (double)h->count || rank == 0)
        rank++;
    for (unsigned i = 0; i < IO_HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank && h->bucket[i])
            return io_histogram_high(i) < h->max ? io_histogram_high(i) : h->max;
    }
    return h->max;
}
