/*
 * Steps in a series of rates: where a drive's throughput changes for good, as when its cache is full. Arithmetic alone.
 */
#ifndef BENCH_NVME_STEPS_H
#define BENCH_NVME_STEPS_H

#define NVME_STEPS_MOST 64u
/* Two neighbours that differ by less are one step. */
#define NVME_STEP_SHARE 0.08
/* A step lasts for so many samples at least. */
#define NVME_STEP_SAMPLES 8u

struct nvme_step {
    unsigned first, end; /* samples [first, end) */
    double rate;         /* their mean */
};

/*
 * Cuts rates (of equal intervals, none negative) into steps of equal rates. A single sample that is far off, as where a
 * drive pauses, makes none. A constant series is one step, none at all is none. Returns their number.
 *
 * Binary segmentation: a part is cut where the means of both sides differ most (CUSUM), as long as that is more than its
 * noise explains, by the median of differences of neighbours; then neighbours that hardly differ are joined, and each cut
 * is moved to where both sides fit best.
 */
unsigned nvme_steps_find(const double *rates, unsigned count, struct nvme_step *out);

#endif
