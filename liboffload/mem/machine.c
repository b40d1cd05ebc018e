/*
 * machine: what the process may use of the machine. Owns nothing that lasts: the
 * topology is read anew at each call, since bindings change. Without hwloc, the
 * kernel's own counts serve, and the near node stays unknown.
 */
#include "liboffload/mem/mem.h"

#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
#endif
#if OFL_WITH_HWLOC
#include "liboffload/mem/topology.h"
#endif

static uint64_t lock_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return 0; /* unknown: claim nothing */
    return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}

static uint64_t all_memory(void)
{
    uint64_t bytes = mem_host_bytes("");
    long pages = bytes ? 0 : sysconf(_SC_PHYS_PAGES); /* no /proc here */

    return bytes ? bytes : pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

#if OFL_WITH_HWLOC

/* Nodes with memory of this system, those of GPUs too; 0: unknown. */
static uint32_t count_nodes(void)
{
    FILE *f = fopen("/sys/devices/system/node/has_memory", "re");
    unsigned from, to;
    uint32_t count = 0;

    while (f && fscanf(f, "%u", &from) == 1) { /* "0-1,4" */
        to = from;
        if (fscanf(f, "-%u", &to) == EOF)
            to = from;
        count += to >= from ? to - from + 1 : 1;
        if (fgetc(f) != ',')
            break;
    }
    if (f)
        fclose(f);
    return count;
}

#endif

/* One node of unknown place, with all memory. */
static void count_plainly(struct mem_machine *m)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;

    m->cores = online > 0 ? (uint32_t)online : 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        m->cores = (uint32_t)CPU_COUNT(&set);
    m->nodes = 1;
    m->memory_bytes = all_memory();
    m->near_node = -1;
}

#if OFL_WITH_HWLOC

/* The calling thread's binding, since the threads it starts inherit that. */
static bool read_topology(hwloc_topology_t topology, struct mem_machine *m)
{
    hwloc_bitmap_t bound = hwloc_bitmap_alloc(), last = hwloc_bitmap_alloc();
    bool done = false;

    if (!bound || !last)
        goto out;
    /* a binding that can't be read is taken for none, a place for anywhere */
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD) != 0 || hwloc_bitmap_iszero(bound))
        if (hwloc_bitmap_copy(bound, hwloc_topology_get_allowed_cpuset(topology)) != 0)
            goto out;
    if (hwloc_get_last_cpu_location(topology, last, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_zero(last);
    mem_topology_nodes(topology, &m->nodes, &m->memory_bytes);
    if (m->nodes == 0)
        goto out;
    /* nodes are seen to leave out memory plugged in later: with all of them, all counts */
    if (hwloc_topology_is_thissystem(topology) && m->nodes == count_nodes() &&
        hwloc_bitmap_isequal(hwloc_topology_get_allowed_nodeset(topology),
                             hwloc_topology_get_complete_nodeset(topology)) &&
        m->memory_bytes < all_memory())
        m->memory_bytes = all_memory();
    m->cores = mem_topology_cores(topology, bound);
    m->near_node = mem_topology_near_node(topology, bound, last);
    done = true;
out:
    hwloc_bitmap_free(bound);
    hwloc_bitmap_free(last);
    return done;
}

static bool read_machine(struct mem_machine *m)
{
    hwloc_topology_t topology;
    bool done;

    if (!mem_topology_load(&topology))
        return false;
    done = read_topology(topology, m);
    hwloc_topology_destroy(topology);
    return done;
}

#else

static bool read_machine(struct mem_machine *m)
{
    (void)m;
    return false;
}

#endif

void mem_machine_get(struct mem_machine *out)
{
    struct mem_machine m = {.near_node = -1};

    if (!read_machine(&m))
        count_plainly(&m);
    m.lock_bytes = lock_limit();
    *out = m;
}
