/*
 * The test file and the buffers of `ofl-bench nvme`, and queues on them.
 */
#ifndef BENCH_NVME_TARGET_H
#define BENCH_NVME_TARGET_H

#include "bench/nvme_health.h"
#include "bench/nvme_options.h"
#include "bench/nvme_verify.h"
#include "io/drive.h"

struct nvme_target {
    const struct nvme_options *options;
    struct io_drive drives[IO_STRIPE_MAX];
    struct nvme_health before[IO_STRIPE_MAX], after[IO_STRIPE_MAX]; /* of the drives */
    struct io_stripe stripes[IO_STRIPE_MAX];
    struct io_file *file;
    uint64_t bytes;
    uint8_t *buffers; /* of random bytes; whole pages */
    uint64_t buffer_bytes;
    uint64_t written_bytes;    /* to the drives, by everything */
    struct base_limit written; /* --max-written: of our own queues. What fio writes was set aside before */
    struct nvme_sustained *sustained; /* NULL: no --sustained; its file is not filled before */
    struct nvme_verify *verify;       /* NULL: no --verify */
    char *kept_path;                  /* of --keep-file, made by this run; NULL: it has no name */
    bool stays;                       /* what has the name: all of it is written */
    double started;
    /* Of the engine, as the first queue showed it. */
    enum io_engine engine;
    bool registered;
    char engine_note[256], registered_note[256];
    /* Buffered files: the largest share of it in the page cache before a read; -1: unknown. */
    double cached_share;
    char weight_note[256];
};

/* Of a run that warms up. */
#define NVME_WARM_UP_BYTES (64 * MIB)

/* Chooses sizes, makes the file, fills it with random bytes. cases: all that are to come. */
int nvme_target_open(struct nvme_target *t, const struct nvme_options *o, const struct nvme_case *cases,
                     unsigned count);
/* A file with a name is removed unless it is to stay. */
void nvme_target_close(struct nvme_target *t);
/* Other memory for the buffers: where it lies decides on speed, and must not be the same by luck in
 * all runs. */
int nvme_target_renew_buffers(struct nvme_target *t);
/* For reads of a buffered file: gives its pages back, and looks how many are still there. */
void nvme_target_drop_cache(struct nvme_target *t);
/* A queue as the options want it, with the buffers and the file registered. Returns a status. */
int nvme_queue_open(struct nvme_target *t, uint32_t depth, uint64_t piece_bytes, uint64_t window_bytes,
                    struct io_queue **out);

/* Whether a run ends after the file's size, if that comes before its time: those that write, since
 * drives wear, and buffered ones, which would meet pages of their own. The same goes for fio. */
bool nvme_once(const struct nvme_target *t, enum nvme_rw rw);

#endif
