/*
 * machine: what the process may use of the machine. Owns nothing that lasts: the
 * topology is read anew at each call, since bindings change. Without hwloc, the
 * kernel's own counts serve, and the near node stays unknown.
 */
#include "liboffload/mem/mem.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
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
    long pages = sysconf(_SC_PHYS_PAGES);

    return pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

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

#include <hwloc.h>

/* Cores that share a processing unit with set: a core is usable if one of its threads is. */
static uint32_t count_cores(hwloc_topology_t topology, hwloc_const_bitmap_t set)
{
    hwloc_obj_t core = NULL;
    uint32_t cores = 0;

    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)))
        cores += hwloc_bitmap_intersects(core->cpuset, set) != 0;
    if (cores == 0) { /* some virtual machines show no cores */
        int units = hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, HWLOC_OBJ_PU);

        cores = units > 0 ? (uint32_t)units : 1;
    }
    return cores;
}

/* The node that has most of the thread's processing units; between equals the one the
 * thread ran on last, then the lowest index (fast memory without cores comes after). */
static int find_near_node(hwloc_topology_t topology, hwloc_const_bitmap_t bound, hwloc_const_bitmap_t last)
{
    hwloc_bitmap_t shared = hwloc_bitmap_alloc();
    hwloc_obj_t node = NULL;
    int near = -1, best = 0;

    while (shared && (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node))) {
        int score;

        if (node->attr->numanode.local_memory == 0)
            continue;
        if (hwloc_bitmap_and(shared, node->cpuset, bound) != 0)
            continue;
        score = 2 * hwloc_bitmap_weight(shared) + (hwloc_bitmap_intersects(node->cpuset, last) != 0);
        if (score > best) {
            best = score;
            near = (int)node->os_index;
        }
    }
    hwloc_bitmap_free(shared);
    return near;
}

/* The calling thread's binding, since the threads it starts inherit that. */
static bool read_topology(hwloc_topology_t topology, struct mem_machine *m)
{
    hwloc_bitmap_t bound = hwloc_bitmap_alloc(), last = hwloc_bitmap_alloc();
    hwloc_obj_t node = NULL;
    bool done = false;

    if (!bound || !last)
        goto out;
    /* a binding that can't be read is taken for none, a place for anywhere */
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD) != 0 || hwloc_bitmap_iszero(bound))
        if (hwloc_bitmap_copy(bound, hwloc_topology_get_allowed_cpuset(topology)) != 0)
            goto out;
    if (hwloc_get_last_cpu_location(topology, last, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_zero(last);
    while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node))) {
        m->nodes += node->attr->numanode.local_memory > 0;
        m->memory_bytes += node->attr->numanode.local_memory;
    }
    if (m->nodes == 0)
        goto out;
    /* nodes are seen to leave out memory plugged in later: with all of them, all counts */
    if (hwloc_bitmap_isequal(hwloc_topology_get_allowed_nodeset(topology),
                             hwloc_topology_get_complete_nodeset(topology)) &&
        m->memory_bytes < all_memory())
        m->memory_bytes = all_memory();
    m->cores = count_cores(topology, bound);
    m->near_node = find_near_node(topology, bound, last);
    done = true;
out:
    hwloc_bitmap_free(bound);
    hwloc_bitmap_free(last);
    return done;
}

static bool read_machine(struct mem_machine *m)
{
    hwloc_topology_t topology;
    bool done = false;

    if (hwloc_topology_init(&topology) != 0)
        return false;
    /* cores, processing units and nodes are all that is asked for: the rest costs time */
    if (hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE) == 0 &&
        hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL) == 0 &&
        hwloc_topology_load(topology) == 0)
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
