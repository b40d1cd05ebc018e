/*
 * mem: memory of the machine. Owns arenas of pinned, page-aligned host memory on
 * the right NUMA node, and what is known of the machine. Knows nothing of tensors.
 */
#ifndef OFL_MEM_H
#define OFL_MEM_H

#include <stdbool.h>
#include <stdint.h>

enum {
    MEM_REQUIRE_PINNED = 1u << 0, /* fail with -OFL_EPINNED rather than run pageable */
};

struct mem_arena {
    void *base; /* 2 MiB aligned when bytes >= 2 MiB, else page aligned */
    uint64_t bytes;
    uint64_t mapped_bytes;
    bool pinned;    /* pages stay in RAM from first touch on (mlock on fault) */
    int node;       /* OS index of the NUMA node it is bound to; -1: not bound */
    char note[512]; /* why it is not pinned or not bound; "" if it is both */
};

/* Any thread. On failure *out is zeroed and nothing is left. */
int mem_arena_create(uint64_t bytes, unsigned flags, struct mem_arena *out);
void mem_arena_destroy(struct mem_arena *a);
/* Any thread. Has all pages of a made now, by so many threads: who pins them all at once would make them
 * one after the other. Does what it can: a page that can't be had is found missing when it is touched. */
void mem_arena_populate(const struct mem_arena *a, unsigned threads);

struct mem_machine {
    uint32_t cores;        /* usable by the calling thread, and so by threads that it starts */
    uint32_t nodes;        /* NUMA nodes with memory of the host that this process may use */
    uint64_t memory_bytes; /* of those nodes */
    uint64_t lock_bytes;   /* RLIMIT_MEMLOCK; UINT64_MAX: no limit */
    int near_node;         /* OS index of the node nearest to the calling thread's cores; -1: unknown */
};

void mem_machine_get(struct mem_machine *out);

/* Any thread. RAM of the machine, or the limit of the memory cgroup that the process is in, or of one above
 * it, where that is less: *group says whether. */
uint64_t mem_limit_bytes(bool *group);
/* Memory of the system, less that of GPUs which the system counts as its own (NVIDIA's Grace: the driver
 * says which nodes those are). root: "", or a folder that holds a /proc and a /sys, for tests. 0: unknown. */
uint64_t mem_host_bytes(const char *root);

#endif
