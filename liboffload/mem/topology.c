/* topology: NUMA nodes as hwloc shows them. See topology.h. */
#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
#endif

#if OFL_WITH_HWLOC

#include "liboffload/mem/topology.h"

#include <hwloc/distances.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nodes hang at packages, dies and groups: without these, all would hang at the machine, and each would
 * seem near to every core. Caches aren't asked for: they cost time, and where a node hangs at one hwloc
 * puts a group in its place. */
bool mem_topology_load(hwloc_topology_t *out)
{
    /* Where /sys is not mounted hwloc says so on stderr, which is the program's. */
    if (access("/sys/devices/system/cpu", F_OK) < 0 && !getenv("HWLOC_SYNTHETIC") && !getenv("HWLOC_XMLFILE"))
        return false;
    if (hwloc_topology_init(out) != 0)
        return false;
    if (hwloc_topology_set_cache_types_filter(*out, HWLOC_TYPE_FILTER_KEEP_NONE) == 0 &&
        hwloc_topology_set_icache_types_filter(*out, HWLOC_TYPE_FILTER_KEEP_NONE) == 0 &&
        hwloc_topology_load(*out) == 0)
        return true;
    hwloc_topology_destroy(*out);
    return false;
}

static hwloc_obj_t next_node(hwloc_topology_t topology, hwloc_obj_t node)
{
    return hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node);
}

static bool is_gpu(hwloc_obj_t node)
{
    return node->subtype && strcmp(node->subtype, "GPUMemory") == 0;
}

static bool is_host(hwloc_obj_t node)
{
    return node->attr->numanode.local_memory > 0 && !is_gpu(node);
}

void mem_topology_nodes(hwloc_topology_t topology, uint32_t *nodes, uint64_t *bytes)
{
    hwloc_obj_t node = NULL;

    *nodes = 0;
    *bytes = 0;
    while ((node = next_node(topology, node))) {
        if (!is_host(node))
            continue;
        ++*nodes;
        *bytes += node->attr->numanode.local_memory;
    }
}

uint32_t mem_topology_cores(hwloc_topology_t topology, hwloc_const_bitmap_t bound)
{
    hwloc_obj_t core = NULL;
    uint32_t cores = 0;

    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)))
        cores += hwloc_bitmap_intersects(core->cpuset, bound) != 0;
    if (cores == 0) { /* some virtual machines show no cores */
        int units = hwloc_get_nbobjs_inside_cpuset_by_type(topology, bound, HWLOC_OBJ_PU);

        cores = units > 0 ? (uint32_t)units : 1;
    }
    return cores;
}

/* ---- the near node ------------------------------------------------------------ */

/* The kernel's word, where the topology is this machine's: a node without units of its own has an empty
 * list. hwloc shows such a node with the units that it is nearest to. */
static bool has_no_units(hwloc_topology_t topology, hwloc_obj_t node)
{
    char path[96], text[8] = "";
    bool empty;
    FILE *f;

    if (!hwloc_topology_is_thissystem(topology))
        return false;
    snprintf(path, sizeof path, "/sys/devices/system/node/node%u/cpulist", node->os_index);
    f = fopen(path, "re");
    if (!f)
        return false;
    empty = !fgets(text, sizeof text, f) || text[0] == '\n';
    fclose(f);
    return empty;
}

/* Memory beside the processors' own. */
static bool is_memory_only(hwloc_topology_t topology, hwloc_obj_t node)
{
    static const char *const kinds[] = {"HBM", "MCDRAM", "CXL-DRAM", "CXL-NVM", "NVM", "SPM"};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (node->subtype && strcmp(node->subtype, kinds[i]) == 0)
            return true;
    return hwloc_obj_get_info_by_name(node, "DAXDevice") != NULL || has_no_units(topology, node);
}

struct candidate {
    hwloc_obj_t node;
    bool memory_only;
    int units, votes;
};

/* Whether a is nearer to a unit of both, or the better choice. */
static bool is_better(const struct candidate *a, const struct candidate *b)
{
    if (a->memory_only != b->memory_only)
        return b->memory_only;
    if (a->units != b->units)
        return a->units < b->units;
    return a->node->os_index < b->node->os_index;
}

/* By the firmware's distances from a node without memory, whose unit it is. */
static struct candidate *nearest_to(hwloc_topology_t topology, hwloc_obj_t from, struct candidate *list,
                                    unsigned count)
{
    struct hwloc_distances_s *d = NULL;
    struct candidate *best = NULL;
    hwloc_uint64_t best_value = 0, there, back;
    unsigned one = 1;

    if (hwloc_distances_get_by_name(topology, "NUMALatency", &one, &d, 0) != 0 || one == 0)
        return NULL;
    for (unsigned i = 0; i < count; i++) {
        if (list[i].memory_only || hwloc_distances_obj_pair_values(d, from, list[i].node, &there, &back) != 0)
            continue;
        if (!best || there < best_value) {
            best = &list[i];
            best_value = there;
        }
    }
    hwloc_distances_release(topology, d);
    return best;
}

/* The node of one unit. */
static struct candidate *node_of(hwloc_topology_t topology, unsigned unit, struct candidate *list,
                                 unsigned count)
{
    struct candidate *best = NULL, *other;
    hwloc_obj_t node = NULL;

    for (unsigned i = 0; i < count; i++)
        if (hwloc_bitmap_isset(list[i].node->cpuset, unit) && (!best || is_better(&list[i], best)))
            best = &list[i];
    if (best && !best->memory_only)
        return best;
    while ((node = next_node(topology, node))) {
        if (node->attr->numanode.local_memory > 0 || !hwloc_bitmap_isset(node->cpuset, unit))
            continue;
        other = nearest_to(topology, node, list, count);
        if (other)
            return other;
    }
    return best ? best : count == 1 ? list : NULL;
}

int mem_topology_near_node(hwloc_topology_t topology, hwloc_const_bitmap_t bound, hwloc_const_bitmap_t last)
{
    int total = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE), near = -1, most = 0;
    struct candidate *list = calloc(total > 0 ? (size_t)total : 1, sizeof *list), *c;
    hwloc_obj_t node = NULL;
    unsigned count = 0, unit;

    while (list && (node = next_node(topology, node)))
        if (is_host(node))
            list[count++] = (struct candidate){.node = node,
                                               .memory_only = is_memory_only(topology, node),
                                               .units = hwloc_bitmap_weight(node->cpuset)};
    if (count > 0) {
        hwloc_bitmap_foreach_begin(unit, bound)
        {
            if (!hwloc_get_pu_obj_by_os_index(topology, unit))
                continue;
            c = node_of(topology, unit, list, count);
            if (c) /* half a vote more decides between equals only */
                c->votes = (c->votes + 2) | (hwloc_bitmap_isset(last, unit) ? 1 : 0);
        }
        hwloc_bitmap_foreach_end();
    }
    for (unsigned i = 0; i < count; i++) {
        if (list[i].votes > most ||
            (list[i].votes == most && near >= 0 && (int)list[i].node->os_index < near)) {
            most = list[i].votes;
            near = (int)list[i].node->os_index;
        }
    }
    free(list);
    return near;
}

#else

typedef int mem_topology_is_empty; /* a file of C has something in it */

#endif
