/*
 * The command line of `ofl-bench link`.
 */
#ifndef BENCH_LINK_OPTIONS_H
#define BENCH_LINK_OPTIONS_H

#include "bench/bench.h"

#define LINK_SIZES 32

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

/* Exits with EXIT_INPUT on what can't be parsed, and with 0 after --help and --version. */
int link_options_parse(int argc, char **argv, struct link_options *o);
const char *link_direction_name(enum link_direction d);
const char *link_memory_name(enum link_memory m);

#endif
