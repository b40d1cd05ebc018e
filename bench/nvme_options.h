/*
 * What `ofl-bench nvme` measures, and its command line.
 */
#ifndef BENCH_NVME_OPTIONS_H
#define BENCH_NVME_OPTIONS_H

#include "bench/bench.h"
#include "io/io.h"

enum nvme_rw { RW_READ, RW_WRITE, RW_MIXED, RW_RANDREAD, RW_RANDWRITE, RW_COUNT };
/* No kind of run, but of its own: see nvme_gather.h. */
#define RW_GATHER RW_COUNT

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
    uint64_t max_written, endurance_bytes;                        /* 0: no limit; not known */
    uint64_t depth, repeat;                                       /* 0: not given */
    double time_s;                                                /* 0: not given */
    bool rw[RW_COUNT + 1];
    uint64_t row_bytes, rows; /* of --rw gather */
    enum io_engine engine;
    uint32_t flags;
    int direct; /* -1: if the file system takes it */
    int fio;    /* 1: compared with it */
    bool registered, sweep, syscalls, demand, verify;
    uint64_t seed;           /* of --verify; 0: not given */
    const char *keep_file;   /* a path below the one directory; NULL: the test file has no name */
    const char *verify_file; /* NULL: none; else it is all that is looked at */
    bool sustained;
    uint64_t sustained_bytes; /* 0: by time */
    double sustained_s;       /* 0: by bytes; both 0: auto */
    double idle_s;            /* before the recovery */
    const char *tensors, *json, *plot;
};

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int nvme_options_parse(int argc, char **argv, struct nvme_options *o);
json_t *nvme_options_json(const struct nvme_options *o);

#endif
