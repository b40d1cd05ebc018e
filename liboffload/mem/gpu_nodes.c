/* gpu_nodes: memory of GPUs that the system counts as its own. Knows only files of the kernel. */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "liboffload/mem/mem.h"

#define PATH_BYTES 1024
#define GPUS       "/proc/driver/nvidia/gpus"

typedef unsigned long long ull;

/* What stands behind "MemTotal:" in a file, in bytes; 0: it isn't there. */
static uint64_t total_of(const char *path)
{
    FILE *f = fopen(path, "re");
    char line[256];
    ull kib = 0;

    while (f && kib == 0 && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, "MemTotal:");

        if (at)
            (void)sscanf(at, "MemTotal: %llu kB", &kib);
    }
    if (f)
        fclose(f);
    return (uint64_t)kib << 10;
}

/* The node that a GPU's memory is; -1: it is none, or not online. */
static int node_of(const char *root, const char *gpu)
{
    char path[PATH_BYTES], line[128];
    int node = -1;
    FILE *f;

    if (snprintf(path, sizeof path, "%s" GPUS "/%s/numa_status", root, gpu) >= (int)sizeof path)
        return -1;
    f = fopen(path, "re");
    while (f && node < 0 && fgets(line, sizeof line, f))
        (void)sscanf(line, "Node: %d", &node);
    if (f)
        fclose(f);
    return node;
}

uint64_t mem_host_bytes(const char *root)
{
    char path[PATH_BYTES];
    uint64_t total, gpus = 0;
    struct dirent *e;
    DIR *d;

    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    total = total_of(path);
    snprintf(path, sizeof path, "%s" GPUS, root);
    d = opendir(path);
    while (d && (e = readdir(d))) {
        int node = e->d_name[0] == '.' ? -1 : node_of(root, e->d_name);

        if (node >= 0 && snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d/meminfo", root,
                                  node) < (int)sizeof path)
            gpus += total_of(path);
    }
    if (d)
        closedir(d);
    return total > gpus ? total - gpus : 0;
}
