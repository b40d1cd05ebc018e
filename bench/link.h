/*
 * What the files of `ofl-bench link` share: link.c decides what is run in which order,
 * link_options.c reads the command line, link_run.c runs and times one row, link_report.c
 * has tables and JSON. Only they include this.
 *
 * A row is a kind of host memory, a direction and a size of copies. Each sample moves the same
 * bytes twice: through the library's device room, as the pager has it do, and through plain
 * calls of the driver.
 */
#ifndef BENCH_LINK_H
#define BENCH_LINK_H

#include <pthread.h>
#include <sched.h>
#include <sys/types.h>

#include "bench/cuda.h"
#include "liboffload/device/device.h"
#include "liboffload/mem/mem.h"

#define LINK_SIZES 32
#define LINK_NODES 64

enum link_direction { LINK_IN, LINK_OUT, LINK_BOTH, LINK_DIRECTIONS };
enum link_memory { LINK_PINNED, LINK_PAGEABLE, LINK_MEMORIES };
enum link_side { LINK_OURS, LINK_PLAIN, LINK_SIDES };

struct link_options {
    char device[24]; /* "cuda:N" */
    unsigned unit;
    uint64_t sizes[LINK_SIZES];
    unsigned size_count;
    bool sizes_given, batch_given;
    uint64_t batch_bytes; /* of a sample, each way */
    bool direction[LINK_DIRECTIONS], memory[LINK_MEMORIES];
    uint64_t repeat;
    double check; /* 0: no check */
    const char *json;
};

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

/* Where there is memory and a core. */
struct link_node {
    int id; /* -1: the whole machine, nodes are not known */
    cpu_set_t cores;
};

struct link_results {
    struct link_row *rows;
    unsigned count, room;
    struct link_node nodes[LINK_NODES];
    unsigned node_count;
    char note[256]; /* what was left out */
    double worst;   /* of the rows that --check is about; 0: none */
    const struct link_row *worst_row;
    double elapsed_s;
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
int link_options_parse(int argc, char **argv, struct link_options *o);
int link_rig_open(struct link_rig *rig, const struct link_options *o, struct bench_cuda *cuda,
                  enum link_memory memory, uint64_t ring_bytes);
void link_rig_close(struct link_rig *rig);
/* Copies of a row by one side; fills its half of *sample. */
int link_run(struct link_rig *rig, const struct link_row *row, enum link_side side,
             struct link_sample *sample);
/* Runs that side once more, on cleared memory, and compares every byte that it moved. */
int link_verify(struct link_rig *rig, const struct link_row *row, enum link_side side);

const char *link_direction_name(enum link_direction d);
const char *link_memory_name(enum link_memory m);
void link_figures(struct link_results *r);
void link_print_facts(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r);
void link_print_results(const struct link_options *o, const struct link_results *r);
json_t *link_report(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r);

#endif
