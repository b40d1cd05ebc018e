/*
 * Results of `ofl-bench link`: figures, tables, JSON.
 */
#ifndef BENCH_LINK_REPORT_H
#define BENCH_LINK_REPORT_H

#include <sched.h>

#include "bench/link_run.h"

#define LINK_NODES 64

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

void link_figures(struct link_results *r);
void link_print_facts(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r);
void link_print_results(const struct link_options *o, const struct link_results *r);
json_t *link_report(const struct link_options *o, const struct bench_cuda *c, const struct link_results *r);

#endif
