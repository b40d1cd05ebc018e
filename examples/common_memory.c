/* common: the RAM that can be had, and what a run takes of it. See common_memory.h. */
#include "examples/common_memory.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/common.h"
#include "include/offload.h"

typedef unsigned long long ull;

#define PATH_BYTES (2 * PATH_MAX)

/* ---- files of numbers --------------------------------------------------------- */

/* root, and two more parts of a path. */
static FILE *open_under(const char *root, const char *dir, const char *name)
{
    char path[PATH_BYTES];

    if (snprintf(path, sizeof path, "%s%s%s%s", root, dir, name[0] ? "/" : "", name) >= (int)sizeof path)
        return NULL;
    return fopen(path, "re");
}

/* The number that is all of a file; false: there is none, or it is a word ("max"). */
static bool read_number(const char *root, const char *dir, const char *name, uint64_t *out)
{
    FILE *f = open_under(root, dir, name);
    ull value;
    bool found = f && fscanf(f, "%llu", &value) == 1;

    if (f)
        fclose(f);
    if (found)
        *out = value;
    return found;
}

/* What stands behind key in a file of such lines, 0 if it isn't there. */
static uint64_t read_field(const char *root, const char *dir, const char *name, const char *key)
{
    FILE *f = open_under(root, dir, name);
    size_t length = strlen(key), room = 0;
    char *line = NULL;
    ull value = 0;

    while (f && getline(&line, &room, f) > 0)
        if (strncmp(line, key, length) == 0 && sscanf(line + length, " %llu", &value) == 1)
            break;
    free(line);
    if (f)
        fclose(f);
    return value;
}

/* ---- the machine --------------------------------------------------------------- */

/* A GPU whose memory the system counts as its own (NVIDIA's Grace): kB of key in its node. The driver
 * says which node that is. */
static uint64_t gpu_nodes_kib(const char *root, const char *key)
{
    static const char gpus[] = "/proc/driver/nvidia/gpus";
    char path[PATH_BYTES], dir[PATH_BYTES], name[64];
    uint64_t kib = 0;
    struct dirent *e;
    DIR *d;

    snprintf(path, sizeof path, "%s%s", root, gpus);
    d = opendir(path);
    while (d && (e = readdir(d))) {
        FILE *f;
        char line[128];
        int node = -1;

        if (e->d_name[0] == '.' || snprintf(dir, sizeof dir, "%s/%s", gpus, e->d_name) >= (int)sizeof dir)
            continue;
        f = open_under(root, dir, "numa_status");
        while (f && node < 0 && fgets(line, sizeof line, f))
            (void)sscanf(line, "Node: %d", &node);
        if (f)
            fclose(f);
        if (node < 0)
            continue;
        snprintf(dir, sizeof dir, "/sys/devices/system/node/node%d", node);
        snprintf(name, sizeof name, "Node %d %s:", node, key);
        kib += read_field(root, dir, "meminfo", name);
    }
    if (d)
        closedir(d);
    return kib;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static void room_of_machine(const char *root, struct common_room *out)
{
    uint64_t total = read_field(root, "/proc", "meminfo", "MemTotal:");
    uint64_t available = read_field(root, "/proc", "meminfo", "MemAvailable:");

    if (available == 0) /* before Linux 3.14 */
        available = read_field(root, "/proc", "meminfo", "MemFree:") +
                    read_field(root, "/proc", "meminfo", "Cached:");
    total = less(total, gpu_nodes_kib(root, "MemTotal")) << 10;
    available = less(available, gpu_nodes_kib(root, "MemFree")) << 10;
    if (total == 0) /* no /proc: nothing is known, and nothing refused */
        total = available = UINT64_MAX / 4;
    *out = (struct common_room){.bytes = available, .limit = total, .cgroup_limit = UINT64_MAX};
    snprintf(out->text, sizeof out->text, "this machine has %s of memory, of which %s are available",
             common_bytes(total).text, common_bytes(available).text);
}

/* ---- memory cgroups -------------------------------------------------------------- */

/* The files of a memory cgroup, by version. */
static const struct cgroup_files {
    const char *limits[2]; /* each is one; above "high" a process is held back until it stands still */
    const char *usage, *cache[2];
} cgroup_files[] = {
    {{"memory.limit_in_bytes", NULL},
     "memory.usage_in_bytes",
     {"total_inactive_file ", "total_active_file "}},
    {{"memory.max", "memory.high"}, "memory.current", {"inactive_file ", "active_file "}},
};

/* What one cgroup leaves, if that is less than what is known of. */
static void room_of_cgroup(const char *root, const char *dir, const char *shown, const struct cgroup_files *f,
                           struct common_room *out)
{
    uint64_t limit = UINT64_MAX, value, usage = 0, cache = 0, used;

    for (int i = 0; i < 2; i++)
        if (f->limits[i] && read_number(root, dir, f->limits[i], &value) && value < limit)
            limit = value;
    if (limit >= UINT64_MAX / 4) /* version 1 writes a number near 2^63 for none */
        return;
    if (limit < out->limit)
        out->limit = limit;
    if (limit < out->cgroup_limit)
        out->cgroup_limit = limit;
    (void)read_number(root, dir, f->usage, &usage);
    for (int i = 0; i < 2; i++)
        cache += read_field(root, dir, "memory.stat", f->cache[i]);
    used = less(usage, cache);
    if (less(limit, used) >= out->bytes)
        return;
    out->bytes = less(limit, used);
    snprintf(out->text, sizeof out->text, "the memory cgroup %.512s allows %s, of which %s are in use",
             shown[0] ? shown : "/", common_bytes(limit).text, common_bytes(used).text);
}

/* In mountinfo a space is \040. */
static void unescape(char *text)
{
    char *to = text;

    for (; *text; text++) {
        unsigned code;

        if (text[0] == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
            *to++ = (char)code;
            text += 3;
        } else {
            *to++ = *text;
        }
    }
    *to = '\0';
}

/* The process' path in a hierarchy: lines are "4:memory:/path", of version 1, and "0::/path". */
static bool find_path(const char *root, int version, char *path)
{
    FILE *f = open_under(root, "/proc/self", "cgroup");
    char *line = NULL;
    bool found = false;
    size_t room = 0;

    while (f && !found && getline(&line, &room, f) > 0) {
        char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;
        char list[256];

        if (!at)
            continue;
        *at++ = '\0';
        at[strcspn(at, "\n")] = '\0';
        snprintf(list, sizeof list, ",%.250s,", controllers + 1);
        found = version == 2 ? controllers[1] == '\0' : strstr(list, ",memory,") != NULL;
        if (found && snprintf(path, PATH_MAX, "%s", at) >= PATH_MAX)
            found = false;
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

/* All cgroups from the process' own up to the mount point. seen: of the hierarchy, what is mounted here.
 * A container may see a part of it, and its path from the top; or a path that leads out of what it sees. */
static void walk_up(const char *root, const char *point, const char *seen, char *path,
                    const struct cgroup_files *files, struct common_room *out)
{
    size_t cut = strcmp(seen, "/") != 0 ? strlen(seen) : 0;
    char dir[PATH_BYTES], *shown = path;

    if (cut && strncmp(path, seen, cut) == 0 && (path[cut] == '/' || path[cut] == '\0'))
        shown = path + cut;
    if (strncmp(shown, "/..", 3) == 0 || strcmp(shown, "/") == 0)
        shown[0] = '\0';
    for (;;) {
        char *slash;

        if (snprintf(dir, sizeof dir, "%s%s", point, shown) < (int)sizeof dir)
            room_of_cgroup(root, dir, shown, files, out);
        slash = strrchr(shown, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

static void room_of_cgroups(const char *root, struct common_room *out)
{
    FILE *f = open_under(root, "/proc/self", "mountinfo");
    char *line = NULL, *seen = malloc(PATH_MAX), *point = malloc(PATH_MAX), *path = malloc(PATH_MAX);
    size_t room = 0;

    while (f && seen && point && path && getline(&line, &room, f) > 0) {
        const char *rest = strstr(line, " - ");
        char type[32], options[512], list[520];
        int version;

        if (!rest || strlen(line) >= PATH_MAX || sscanf(line, "%*s %*s %*s %s %s", seen, point) != 2 ||
            sscanf(rest, " - %31s %*s %511s", type, options) != 2)
            continue;
        snprintf(list, sizeof list, ",%s,", options);
        version = strcmp(type, "cgroup2") == 0                              ? 2
                  : strcmp(type, "cgroup") == 0 && strstr(list, ",memory,") ? 1
                                                                            : 0;
        unescape(seen);
        unescape(point);
        if (!version || !find_path(root, version, path))
            continue;
        /* beside version 1's, the hierarchy of version 2 has no memory controller */
        out->cgroup_version = out->cgroup_version == 1 ? 1 : (unsigned)version;
        walk_up(root, point, seen, path, &cgroup_files[version - 1], out);
    }
    free(line);
    free(seen);
    free(point);
    free(path);
    if (f)
        fclose(f);
}

void common_room_under(const char *root, struct common_room *out)
{
    room_of_machine(root, out);
    room_of_cgroups(root, out);
}

void common_room(struct common_room *out)
{
    common_room_under("", out);
}

uint64_t common_memory(void)
{
    struct common_room room;

    common_room(&room);
    return room.limit;
}

/* ---- directories ------------------------------------------------------------------ */

bool common_dir_in_memory(const char *dir)
{
    struct ofl_place place = {.size = sizeof place};

    return ofl_place_get(dir, &place) == 0 && place.in_memory;
}

/* ---- what a run takes ---------------------------------------------------------------- */

/*
 * Beside the budgets, as measured on the resident and kernel memory of whole runs in a cgroup:
 * - the programs' own pages, libraries, rings, stacks and tables of tensors come to 9 to 18 MiB,
 *   OpenBLAS' buffers to 33 MiB at most (products with tens of thousands of rows), and half a MiB more for
 *   each thread: 64 MiB, and 1 MiB for each core, leave a margin of 15 to 40 MiB;
 * - page tables take 8 bytes for each page of 4 KiB, a registered buffer 16: 3/512, taken as 1/128;
 * - a tile has 40 bytes of state, and is 64 KiB or more: taken as 1/1024.
 * A GPU's driver keeps some 200 MiB more (not measured: no GPU was at hand).
 */
#define OWN_BYTES    (64ull << 20)
#define THREAD_BYTES (1ull << 20)
#define GPU_BYTES    (256ull << 20)
#define SWAY_BYTES   (4ull << 20) /* between two runs: what is named has to hold in the next one */
#define PAGES_SHARE  128
#define TILES_SHARE  1024

static uint64_t own_bytes(const struct common_need *n)
{
    cpu_set_t set;
    uint64_t threads = 64; /* more than a cpu_set_t holds */

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        threads = (uint64_t)CPU_COUNT(&set);
    return OWN_BYTES + threads * THREAD_BYTES + (n->gpu ? GPU_BYTES : 0) + n->array_bytes +
           n->tensor_bytes / TILES_SHARE;
}

uint64_t common_need_bytes(const struct common_need *n)
{
    uint64_t budgets = n->device_bytes + n->host_bytes + n->store_bytes;

    return budgets + budgets / PAGES_SHARE + own_bytes(n);
}

uint64_t common_need_most(const struct common_need *n, const struct common_room *room)
{
    return less(room->bytes, own_bytes(n) + SWAY_BYTES) / (PAGES_SHARE + 1) * PAGES_SHARE;
}
