/*
 * Other programs that update the same arrays as `ofl-bench adam`.
 */
#ifndef BENCH_ADAM_PEERS_H
#define BENCH_ADAM_PEERS_H

#include "bench/adam_options.h"

/* The arrays of one tensor, in memory that a child can map: fd, at the offsets of their order here. */
struct adam_arrays {
    int fd;
    uint64_t elems, bytes;
    float *weight, *mean, *square, *grad;
    uint16_t *bf16; /* NULL for F32 weights */
};

/* Another program that updates the same arrays. */
struct adam_peer {
    const char *name;
    char version[64];
    int to, from, pid; /* pipes; pid 0: not running */
    double seconds[ADAM_REPEATS_MOST];
    struct bench_spread spread;
};

#define ADAM_PEERS 2

/* Starts those that --compare names; what can't be had is said on stderr, and ends the run. Returns a status. */
int adam_peers_open(const struct adam_options *o, const struct adam_arrays *a,
                    struct adam_peer peers[ADAM_PEERS]);
/* One update of all arrays, and its time by the peer's clock. Returns a status. */
int adam_peer_update(struct adam_peer *p, double *seconds);
void adam_peers_close(struct adam_peer peers[ADAM_PEERS]);

#endif
