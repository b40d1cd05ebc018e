/*
 * What the command line of `ofl-bench adam` says.
 */
#ifndef BENCH_ADAM_OPTIONS_H
#define BENCH_ADAM_OPTIONS_H

#include "bench/bench.h"
#include "include/offload_update.h"

#define ADAM_REPEATS_MOST 64u
#define ADAM_THREADS_MOST 1024u

struct adam_options {
    uint64_t elems, threads, repeats, host_bytes, tensors;
    enum ofl_method method;
    enum ofl_dtype dtype;
    int form;             /* of enum ofl_update_form */
    struct ofl_nvme nvme; /* dir NULL: in memory */
    const char *compare, *json;
    double clip;
    bool check;
};

#endif
