/*
 * limit: how much memory the process may have before it is killed. Read anew at each call, from
 * both versions of cgroups.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "liboffload/mem/mem.h"

/* The least of bytes and of the limits in the files `name` of the cgroup and all above it. */
static uint64_t least(uint64_t bytes, const char *root, const char *cgroup, const char *name)
{
    char path[PATH_MAX];
    size_t length = strlen(cgroup);

    for (;;) {
        unsigned long long limit;
        FILE *f = NULL;

        if (snprintf(path, sizeof path, "%s%.*s/%s", root, (int)length, cgroup, name) < (int)sizeof path)
            f = fopen(path, "re");
        if (f && fscanf(f, "%llu", &limit) == 1 && limit < bytes) /* "max" is no number */
            bytes = limit;
        if (f)
            fclose(f);
        if (length == 0)
            return bytes;
        while (length && cgroup[--length] != '/')
            ;
    }
}

/* A line is "0::/path" for version 2, "4:cpu,memory:/path" for version 1. */
static uint64_t limit_of(char *line, uint64_t bytes)
{
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL, *save;

    if (!path)
        return bytes;
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    if (controllers[1] == '\0')
        return least(bytes, "/sys/fs/cgroup", path, "memory.max");
    for (char *c = strtok_r(controllers + 1, ",", &save); c; c = strtok_r(NULL, ",", &save))
        if (strcmp(c, "memory") == 0)
            return least(bytes, "/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
    return bytes;
}

uint64_t mem_limit_bytes(bool *group)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const uint64_t all = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    uint64_t bytes = all;
    char line[PATH_MAX];

    while (f && fgets(line, sizeof line, f))
        bytes = limit_of(line, bytes);
    if (f)
        fclose(f);
    *group = bytes < all;
    return bytes;
}
