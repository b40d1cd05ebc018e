/*
 * What the files of `ofl-bench nvme` share: nvme.c decides what is run, nvme_options.c reads
 * the command line, nvme_target.c owns the test file and the buffers, nvme_run.c measures,
 * nvme_fio.c lets fio do the same, nvme_syscalls.c counts system calls, nvme_tensors.c replays
 * lists of tensors, nvme_demand.c measures urgent reads, nvme_report.c prints, nvme_json.c
 * reports. Only they include this.
 */
#ifndef BENCH_NVME_H
#define BENCH_NVME_H

#include "bench/bench.h"
#include "io/drive.h"
#include "io/io.h"

/* ---- what is measured ------------------------------------------------------- */

enum nvme_rw { RW_READ, RW_WRITE, RW_MIXED, RW_RANDREAD, RW_RANDWRITE, RW_COUNT };

const char *nvme_rw_name(enum nvme_rw rw);
static inline bool nvme_rw_random(enum nvme_rw rw)
{
    return rw == RW_RANDREAD || rw == RW_RANDWRITE;
}
static inline bool nvme_rw_writes(enum nvme_rw rw)
{
    return rw == RW_WRITE || rw == RW_MIXED || rw == RW_RANDWRITE;
}

struct nvme_case {
    enum nvme_rw rw;
    uint64_t block_bytes;
    uint32_t depth;
};

struct nvme_options {
    const char *dirs[IO_STRIPE_MAX];
    unsigned dir_count;
    uint64_t size_bytes, block_bytes, buffer_bytes, demand_bytes; /* 0: not given */
    uint64_t depth, repeat;                                       /* 0: not given */
    double time_s;                                                /* 0: not given */
    bool rw[RW_COUNT], rw_given;
    enum io_engine engine;
    uint32_t flags;
    int direct; /* -1: if the file system takes it */
    bool registered, sweep, fio, syscalls, demand;
    const char *tensors, *json, *plot;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int nvme_options_parse(int argc, char **argv, struct nvme_options *o);
json_t *nvme_options_json(const struct nvme_options *o);

/* ---- where (nvme_target.c) --------------------------------------------------- */

struct nvme_target {
    const struct nvme_options *options;
    struct io_drive drives[IO_STRIPE_MAX];
    struct io_stripe stripes[IO_STRIPE_MAX];
    struct io_file *file;
    uint64_t bytes;
    uint8_t *buffers; /* of random bytes; whole pages */
    uint64_t buffer_bytes;
    uint64_t written_bytes; /* to the drives, by everything */
    double started;
    /* Of the engine, as the first queue showed it. */
    enum io_engine engine;
    bool registered;
    char engine_note[256], registered_note[256];
    /* Buffered files: the largest share of it in the page cache before a read; -1: unknown. */
    double cached_share;
    char weight_note[256];
};

/* Chooses sizes, makes the file, fills it with random bytes. cases: all that are to come. */
int nvme_target_open(struct nvme_target *t, const struct nvme_options *o, const struct nvme_case *cases,
                     unsigned count);
void nvme_target_close(struct nvme_target *t);
/* Other memory for the buffers: where it lies decides on speed, and must not be the same by luck in
 * all runs. */
int nvme_target_renew_buffers(struct nvme_target *t);
/* For reads of a buffered file: gives its pages back, and looks how many are still there. */
void nvme_target_drop_cache(struct nvme_target *t);

/* ---- progress (nvme.c) --------------------------------------------------------- */

/* What is going on: drawn with a percentage when a run calls nvme_tick, every now and then. */
struct nvme_progress {
    const char *what;
    unsigned step, steps;
    double drawn;
    bool quiet;
};

extern struct nvme_progress nvme_progress;
void nvme_tick(double now);

/* Whether a run ends after the file's size, if that comes before its time: those that write, since
 * drives wear, and buffered ones, which would meet pages of their own. The same goes for fio. */
bool nvme_once(const struct nvme_target *t, enum nvme_rw rw);

/* ---- one run (nvme_run.c) -------------------------------------------------------- */

struct nvme_latency {
    uint64_t p50, p99, p999, max; /* ns */
};

struct nvme_sample {
    double seconds, cpu_s;
    uint64_t bytes[2], ops[2]; /* by enum io_op */
    struct nvme_latency latency;
    uint64_t busy_ns, empty_ns;
    uint64_t part_bytes[IO_STRIPE_MAX];
    uint32_t inflight_max;
};

/* A queue with everything that is to be kept moving. */
struct nvme_run {
    struct nvme_target *target;
    struct nvme_case c;
    struct io_queue *queue;
    struct io_request *requests; /* depth of them */
    uint64_t next[2], issued_bytes, random;
    bool rotate;             /* the buffers: all are used in turn, not the first of them only */
    struct base_error error; /* the first */
};

/* A queue as the options want it, with the buffers and the file registered. Returns a status. */
int nvme_queue_open(struct nvme_target *t, uint32_t depth, uint64_t piece_bytes, uint64_t window_bytes,
                    struct io_queue **out);
int nvme_run_open(struct nvme_run *r, struct nvme_target *t, const struct nvme_case *c, uint64_t seed);
/* Keeps depth requests in flight for so many seconds, or until so many bytes are issued. */
int nvme_run_move(struct nvme_run *r, double seconds, uint64_t bytes, struct nvme_sample *out);
/* Adds the latencies of all transfers, by enum io_op, to what is there. */
void nvme_run_close(struct nvme_run *r, struct nvme_sample *sample, struct io_histogram *latency);
/* All three. seed chooses the places of a random run. */
int nvme_run_case(struct nvme_target *t, const struct nvme_case *c, double seconds, uint64_t bytes,
                  uint64_t seed, struct nvme_sample *out, struct io_histogram *latency);
void nvme_latency_of(const struct io_histogram *h, struct nvme_latency *out);
double nvme_process_cpu(void);

/* ---- fio (nvme_fio.c) --------------------------------------------------------------- */

struct nvme_fio_sample {
    double seconds, cpu_s;
    uint64_t bytes[2];
    struct nvme_latency latency; /* of reads, or of writes if there are none */
    double start_s;              /* that it took before its job, nearly all of it, and after */
};

/* Looks for fio; leaves its version. Returns a status. */
int nvme_fio_check(char *version, size_t bytes);
int nvme_fio_run(struct nvme_target *t, const struct nvme_case *c, double seconds,
                 struct nvme_fio_sample *out);
/* The arguments, ended by NULL, to be freed with nvme_fio_free_command. Wants `bytes` moved at most;
 * 0: as nvme_once has it. NULL without memory. */
char **nvme_fio_command(const struct nvme_target *t, const struct nvme_case *c, double seconds,
                        uint64_t bytes);
void nvme_fio_free_command(char **argv);

/* ---- system calls (nvme_syscalls.c) --------------------------------------------------- */

struct nvme_calls {
    double per_gb; /* < 0: not known */
    char note[200];
};

void nvme_count_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out);
void nvme_count_fio_calls(struct nvme_target *t, const struct nvme_case *c, struct nvme_calls *out);

/* ---- results ------------------------------------------------------------------------------ */

struct nvme_result {
    struct nvme_case c;
    unsigned count; /* of samples, and of fio's if there are any */
    struct nvme_sample *samples;
    struct nvme_fio_sample *fio; /* NULL: no comparison */
    struct io_histogram latency[2];
    struct nvme_calls calls, fio_calls;
};

#define NVME_CLASSES 6u

/* A list of tensors, and how fast it was replayed. */
struct nvme_tensors {
    char *path;
    uint64_t *bytes;
    unsigned tensors;
    uint64_t total_bytes, largest_bytes;
    unsigned count;                /* of pairs */
    double *sequential, *replayed; /* bytes per second */
    struct nvme_class {
        uint64_t below_bytes; /* upper limit of the sizes; UINT64_MAX in the last */
        uint64_t listed, listed_bytes;
        struct io_histogram latency; /* from queueing to the last byte */
    } classes[NVME_CLASSES];
};

/* Reads FILE, or the shipped list of that name. Returns a status. */
int nvme_tensors_load(const char *name, struct nvme_tensors *out);
void nvme_tensors_free(struct nvme_tensors *s);
int nvme_tensors_measure(struct nvme_target *t, struct nvme_tensors *s);

/* GB/s, and the ratio of each pair. */
struct bench_spread nvme_tensors_rate(const struct nvme_tensors *s);
struct bench_spread nvme_tensors_plain(const struct nvme_tensors *s);
struct bench_spread nvme_tensors_ratio(const struct nvme_tensors *s);

struct nvme_demand {
    uint64_t bytes, queued_bytes;
    unsigned idle_count, busy_count;
    double *idle_ns, *busy_ns;
    uint64_t prefetched_bytes; /* while the busy samples were taken */
    double busy_s;
    bool tuned;
    struct io_tuning tuning;
};

void nvme_demand_free(struct nvme_demand *d);
/* Exact ones: of the samples themselves. */
void nvme_demand_latency(const double *ns, unsigned count, struct nvme_latency *out);
int nvme_demand_measure(struct nvme_target *t, struct nvme_demand *d);

struct nvme_results {
    struct nvme_result *cases;
    unsigned count;
    double time_s;
    unsigned repeat;
    char fio_version[64];         /* "": not compared */
    double fio_start_s;           /* that it takes, as it was the last time */
    struct nvme_tensors *tensors; /* NULL: not wanted */
    struct nvme_demand *demand;
    double elapsed_s;
};

/* Figures of a result, each computed over its samples. */
struct bench_spread nvme_result_rate(const struct nvme_result *r); /* GB/s */
struct bench_spread nvme_result_iops(const struct nvme_result *r);
struct bench_spread nvme_result_cpu(const struct nvme_result *r); /* s per GB */
struct bench_spread nvme_fio_rate(const struct nvme_result *r);
struct bench_spread nvme_fio_cpu(const struct nvme_result *r);
/* Ours over fio's, pair by pair. */
struct bench_spread nvme_rate_ratio(const struct nvme_result *r);
struct bench_spread nvme_cpu_ratio(const struct nvme_result *r);
double nvme_result_empty(const struct nvme_result *r); /* share of time with nothing in flight */

void nvme_print_facts(const struct nvme_target *t, const struct nvme_results *r);
void nvme_print_results(const struct nvme_target *t, const struct nvme_results *r);
/* NULL without memory. */
json_t *nvme_report(const struct nvme_target *t, const struct nvme_results *r);

#endif
