/*
 * Measuring a drive, inside the io room: see io/profile.h for what it is good for.
 */
#ifndef OFL_IO_TUNE_H
#define OFL_IO_TUNE_H

#include "io/io.h"
#include "io/profile.h"

/* ---- one load (load.c) --------------------------------------------------- */

/* A scratch file, and buffers of bytes that can't be compressed. */
struct io_bench {
    struct io_file *file;
    uint64_t file_bytes;   /* reserved */
    uint64_t filled_bytes; /* written at least once, from the beginning */
    uint8_t *buffers;
    uint64_t buffer_bytes;
};

/* Reads, writes, or both: half the bytes in flight each, reads from the first half of the range
 * and writes to the second. */
struct io_load {
    bool read, write;
    bool once;      /* ends at the end of the range, instead of beginning again */
    uint32_t flags; /* of the queue */
    uint32_t block_bytes;
    uint64_t window_bytes; /* in flight */
    uint64_t from, to;
    double seconds;
};

struct io_load_rate {
    double bps;            /* of both directions, while the queue was full */
    double cpu_s_per_byte; /* of this process */
    uint64_t end;          /* what lies before it in the range was moved at least once, if `once` */
};

/* A file of up to `bytes`, an eighth of what is free, and the file-size limit; -ENOSPC if that is
 * less than 64 MiB, -OFL_EDIRECT if it would go through the page cache. What fails leaves nothing. */
int io_bench_open(struct io_bench *b, const char *dir, uint64_t bytes);
void io_bench_close(struct io_bench *b);
/* Lasts about load->seconds; somewhat longer on drives that complete next to nothing in the time. */
int io_load_run(struct io_bench *b, const struct io_load *load, struct io_load_rate *out);
/* Median of one read of `bytes` at a time, anywhere in what is filled. */
int io_load_latency(struct io_bench *b, uint64_t bytes, double seconds, uint64_t *median_ns);

/* ---- choices (tune.c) ------------------------------------------------------ */

/* Fills p's tuning, flags and figures. 0, -ECANCELED, or -errno with the sentence that says why it
 * can't be measured here; then p is as it was. */
int io_tune_measure(const char *dir, bool (*progress)(void *arg, double share), void *arg,
                    struct io_profile *p);

#endif
