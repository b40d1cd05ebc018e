/*
 * Rows of `ofl-bench link`: a kind of host memory, a direction and a size of copies. Each sample moves the same
 * bytes twice: through the library's device room, as the pager has it do, and through plain calls of the
 * driver.
 */
#ifndef BENCH_LINK_RUN_H
#define BENCH_LINK_RUN_H

#include <pthread.h>
#include <sys/types.h>

#include "bench/cuda.h"
#include "bench/link_options.h"
#include "liboffload/device/device.h"
#include "liboffload/mem/mem.h"

/* Seconds of the same bytes. device_s: between events on the GPU. */
struct link_sample {
    double wall_s[LINK_SIDES], device_s[LINK_SIDES];
};

struct link_row {
    enum link_memory memory;
    int node; /* of the thread and of pinned memory; -1: any */
    enum link_direction direction;
    uint64_t bytes;  /* of a copy */
    uint64_t copies; /* of a sample, each way */
    unsigned count;
    struct link_sample *samples;
    /* Figures of them. */
    struct bench_spread ours, plain; /* bytes of both ways by second */
    struct bench_spread ratio;       /* plain device time over our wall time, pair by pair */
};

/* One kind of memory, on one node: device, buffers, streams. */
struct link_rig {
    const struct link_options *options;
    struct bench_cuda *cuda;
    struct dev *dev;
    struct mem_arena arena;
    enum link_memory memory;
    uint64_t ring_bytes; /* of each buffer: copies go round in it */
    unsigned char *src[LINK_SIDES], *dst[LINK_SIDES];
    unsigned char *device_in, *device_out; /* device_out holds what src has */
    unsigned char *plain;                  /* src and dst of the plain side; owned */
    void *stream[2], *start, *end[2];
    pthread_mutex_t lock;
    pthread_cond_t more;
    uint64_t done, failed;
    int code; /* of the first that failed */
};

/* All return a status. */
int link_rig_open(struct link_rig *rig, const struct link_options *o, struct bench_cuda *cuda,
                  enum link_memory memory, uint64_t ring_bytes);
void link_rig_close(struct link_rig *rig);
/* Copies of a row by one side; fills its half of *sample. */
int link_run(struct link_rig *rig, const struct link_row *row, enum link_side side,
             struct link_sample *sample);
/* Runs that side once more, on cleared memory, and compares every byte that it moved. */
int link_verify(struct link_rig *rig, const struct link_row *row, enum link_side side);

#endif
