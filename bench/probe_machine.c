/*
 * ofl-bench probe: kernel, processors, NUMA nodes, memory. From /proc and sysfs, so that it
 * says the same with and without libnuma.
 */
#include "bench/probe_machine.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench/probe_text.h"
#include "examples/common_memory.h"

#define MEMINFO "/proc/meminfo"

/* ---- processors --------------------------------------------------------------- */

struct cores {
    unsigned threads, cores, sockets; /* cores and sockets: 0 if unknown */
    unsigned usable;                  /* threads that this process may run on; 0: unknown */
};

static int compare_numbers(const void *a, const void *b)
{
    const unsigned *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static unsigned count_different(unsigned *values, unsigned count)
{
    unsigned different = 0;

    qsort(values, count, sizeof *values, compare_numbers);
    for (unsigned i = 0; i < count; i++)
        different += i == 0 || values[i] != values[i - 1];
    return different;
}

/* A core is known by its number in its socket. */
static void count_cores(struct cores *c)
{
    enum { MOST = 4096 };
    unsigned *core = calloc(MOST, sizeof *core), *socket = calloc(MOST, sizeof *socket), found = 0;
    long configured = sysconf(_SC_NPROCESSORS_CONF), online = sysconf(_SC_NPROCESSORS_ONLN);
    char text[32], package[32];
    cpu_set_t *set = CPU_ALLOC(MOST);

    *c = (struct cores){.threads = online > 0 ? (unsigned)online : 0};
    for (long i = 0; core && socket && i < configured && i < MOST; i++) {
        if (!probe_read(text, sizeof text, "/sys/devices/system/cpu/cpu%ld/topology/core_id", i) ||
            !probe_read(package, sizeof package,
                        "/sys/devices/system/cpu/cpu%ld/topology/physical_package_id", i))
            continue;
        socket[found] = (unsigned)atoi(package);
        core[found++] = (unsigned)atoi(package) << 16 | (unsigned)atoi(text);
    }
    if (found) {
        c->cores = count_different(core, found);
        c->sockets = count_different(socket, found);
    }
    if (set && sched_getaffinity(0, CPU_ALLOC_SIZE(MOST), set) == 0)
        c->usable = (unsigned)CPU_COUNT_S(CPU_ALLOC_SIZE(MOST), set);
    CPU_FREE(set);
    free(core);
    free(socket);
}

static const char *plural(unsigned count)
{
    return count == 1 ? "" : "s";
}

static json_t *probe_processor(void)
{
    struct probe_list l = {0};
    struct cores c;
    char model[200];

    count_cores(&c);
    probe_find("/proc/cpuinfo", "model name", model, sizeof model);
    probe_add(&l, "%s", model[0] ? model : "model unknown");
    if (c.cores) {
        probe_add(&l, "%u socket%s", c.sockets, plural(c.sockets));
        probe_add(&l, "%u core%s", c.cores, plural(c.cores));
    }
    probe_add(&l, "%u thread%s", c.threads, plural(c.threads));
    if (c.usable && c.usable < c.threads)
        probe_add(&l, "%u of them for this process", c.usable);
    probe_line(0, "processor", "%s", l.text);
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "model", probe_json_text(model), "sockets",
                     probe_json_number(c.sockets > 0, c.sockets), "cores",
                     probe_json_number(c.cores > 0, c.cores), "threads",
                     probe_json_number(c.threads > 0, c.threads), "usable_threads",
                     probe_json_number(c.usable > 0, c.usable));
}

/* ---- nodes ---------------------------------------------------------------------- */

static int is_node(const struct dirent *e)
{
    return strncmp(e->d_name, "node", 4) == 0 && e->d_name[4] &&
           e->d_name[4 + strspn(e->d_name + 4, "0123456789")] == '\0';
}

static json_t *probe_node(const char *name, bool print)
{
    char path[400], key[80], cpus[200];
    uint64_t total, free_bytes;
    bool total_known, free_known;
    int node = atoi(name + 4);

    snprintf(path, sizeof path, "/sys/devices/system/node/%s/meminfo", name);
    snprintf(key, sizeof key, "Node %d MemTotal", node);
    total_known = probe_find_bytes(path, key, &total);
    snprintf(key, sizeof key, "Node %d MemFree", node);
    free_known = probe_find_bytes(path, key, &free_bytes);
    probe_read(cpus, sizeof cpus, "/sys/devices/system/node/%s/cpulist", name);
    snprintf(key, sizeof key, "node %d", node);
    if (print)
        probe_line(1, key, "threads %s, %s of %s free", cpus[0] ? cpus : "none",
                   free_known ? common_bytes(free_bytes).text : "unknown",
                   total_known ? common_bytes(total).text : "unknown");
    return json_pack("{s:i, s:o, s:o, s:o}", "node", node, "threads", probe_json_text(cpus), "memory_bytes",
                     probe_json_number(total_known, total), "free_bytes",
                     probe_json_number(free_known, free_bytes));
}

static json_t *probe_nodes(void)
{
    json_t *nodes = json_array();
    struct dirent **entries;
    int count = scandir("/sys/devices/system/node", &entries, is_node, versionsort);

    if (count <= 0)
        probe_line(0, "NUMA", "unknown: the kernel lists no nodes");
    else
        probe_line(0, "NUMA", "%d node%s", count, plural((unsigned)count));
    for (int i = 0; i < count; i++) {
        json_array_append_new(nodes, probe_node(entries[i]->d_name, count > 1));
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return nodes;
}

/* ---- memory ----------------------------------------------------------------------- */

static json_t *probe_group(void)
{
    struct common_room room;
    bool limited;

    common_room(&room);
    limited = room.cgroup_limit != UINT64_MAX;
    if (!room.cgroup_version)
        probe_line(0, "memory cgroup", "unknown: no cgroup file system is mounted");
    else if (limited)
        probe_line(0, "memory cgroup", "at most %s (version %u)", common_bytes(room.cgroup_limit).text,
                   room.cgroup_version);
    else
        probe_line(0, "memory cgroup", "no limit (version %u)", room.cgroup_version);
    probe_line(0, "can be had", "%s: %s", common_bytes(room.bytes).text, room.text);
    return json_pack("{s:o, s:o, s:I}", "version",
                     probe_json_number(room.cgroup_version > 0, room.cgroup_version), "limit_bytes",
                     probe_json_number(limited, room.cgroup_limit), "room_bytes", (json_int_t)room.bytes);
}

static json_t *probe_huge_pages(void)
{
    char text[64], transparent[100], *from, *end;
    uint64_t size;
    long total = -1, free_pages = -1;
    bool known = probe_find_bytes(MEMINFO, "Hugepagesize", &size);

    if (probe_find(MEMINFO, "HugePages_Total", text, sizeof text))
        total = atol(text);
    if (probe_find(MEMINFO, "HugePages_Free", text, sizeof text))
        free_pages = atol(text);
    probe_read(transparent, sizeof transparent, "/sys/kernel/mm/transparent_hugepage/enabled");
    from = strchr(transparent, '['); /* "always [madvise] never" */
    end = from ? strchr(from, ']') : NULL;
    if (end)
        *end = '\0';
    from = end ? from + 1 : transparent;
    if (total > 0)
        probe_line(0, "huge pages", "%ld of %ld free, %s each; transparent ones: %s", free_pages, total,
                   common_bytes(size).text, from[0] ? from : "unknown");
    else
        probe_line(0, "huge pages", "%s reserved; transparent ones: %s", total == 0 ? "none" : "unknown",
                   from[0] ? from : "unknown");
    return json_pack("{s:o, s:o, s:o, s:o}", "size_bytes", probe_json_number(known, size), "total",
                     probe_json_number(total >= 0, (uint64_t)total), "free",
                     probe_json_number(free_pages >= 0, (uint64_t)free_pages), "transparent",
                     probe_json_text(from));
}

static void probe_memory(json_t *machine)
{
    static const struct {
        const char *key, *name;
    } fields[] = {{"MemTotal", "memory_bytes"},
                  {"MemAvailable", "memory_available_bytes"},
                  {"SwapTotal", "swap_bytes"},
                  {"SwapFree", "swap_free_bytes"}};
    uint64_t bytes[ARRAY_COUNT(fields)];
    bool known[ARRAY_COUNT(fields)];
    struct probe_list l = {0};

    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        known[i] = probe_find_bytes(MEMINFO, fields[i].key, &bytes[i]);
        json_object_set_new(machine, fields[i].name, probe_json_number(known[i], bytes[i]));
    }
    probe_add(&l, "%s", known[0] ? common_bytes(bytes[0]).text : "unknown");
    if (known[1])
        probe_add(&l, "%s available", common_bytes(bytes[1]).text);
    if (known[2] && bytes[2])
        probe_add(&l, "swap %s, %s free", common_bytes(bytes[2]).text, common_bytes(bytes[3]).text);
    else
        probe_add(&l, "%s", known[2] ? "no swap" : "swap unknown");
    probe_line(0, "memory", "%s", l.text);
}

/* ---- all of it ---------------------------------------------------------------------- */

void probe_machine(json_t *report)
{
    struct utsname u = {.sysname = "unknown", .release = "", .machine = "unknown"};
    json_t *machine = json_object();

    (void)uname(&u); /* can't fail: u is ours */
    probe_title("Machine");
    probe_line(0, "system", "%s %s, %s", u.sysname, u.release, u.machine);
    json_object_set_new(machine, "system", bench_text_json(u.sysname));
    json_object_set_new(machine, "kernel", bench_text_json(u.release));
    json_object_set_new(machine, "architecture", bench_text_json(u.machine));
    json_object_set_new(machine, "processor", probe_processor());
    json_object_set_new(machine, "nodes", probe_nodes());
    probe_memory(machine);
    json_object_set_new(machine, "memory_cgroup", probe_group());
    json_object_set_new(machine, "huge_pages", probe_huge_pages());
    json_object_set_new(report, "machine", machine);
}
