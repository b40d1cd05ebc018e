/*
 * What RAM this process may still take, and whether a run fits in it. Knows of budgets only what they
 * come to in bytes.
 */
#ifndef EXAMPLES_COMMON_MEMORY_H
#define EXAMPLES_COMMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* RAM that can be had now: the least of what the machine has available and of what the limit of each
 * memory cgroup above the process leaves. The page cache of files counts as free: the kernel gives it
 * back. Swap does not count: what is pinned can't go there. */
struct common_room {
    uint64_t bytes; /* that can be had */
    uint64_t limit; /* whatever is in use: the least of the machine's memory and the cgroups' limits */
    unsigned cgroup_version; /* of the memory controller's hierarchy; 0: none is mounted */
    uint64_t cgroup_limit;   /* the least of all; UINT64_MAX: none */
    /* What allows least: "the memory cgroup /a allows 400 MiB, of which 12.0 MiB are in use". */
    char text[1024];
};

void common_room(struct common_room *out);
/* The same with /proc and /sys, and the mount points that they name, under that folder: for tests. */
void common_room_under(const char *root, struct common_room *out);

/* The room's limit: how large this machine is to the process. */
uint64_t common_memory(void);

/* Bytes in use in a directory's file system are RAM: tmpfs, ramfs. */
bool common_dir_in_memory(const char *dir);

/* What a run takes of RAM. */
struct common_need {
    uint64_t device_bytes; /* budget of the host device; 0: a GPU has memory of its own */
    uint64_t host_bytes;   /* budget */
    uint64_t store_bytes;  /* that the store takes in directories that lie in memory */
    uint64_t tensor_bytes; /* of all tensors: for the tables of their tiles */
    uint64_t array_bytes;  /* that the program itself allocates after the check */
    bool gpu;
};

/* With all that is beside the budgets: see common_memory.c. */
uint64_t common_need_bytes(const struct common_need *n);
/* Bytes of budgets, of all kinds together, that room has place for beside the rest of n's need. */
uint64_t common_need_most(const struct common_need *n, const struct common_room *room);

#endif
