/*
 * topology: which NUMA node is near to which processing units, and what memory is the host's, as hwloc
 * shows a machine: this one, or a recorded one. Only mem and its tests include this.
 */
#ifndef OFL_MEM_TOPOLOGY_H
#define OFL_MEM_TOPOLOGY_H

#include <hwloc.h>
#include <stdbool.h>
#include <stdint.h>

/* Cores, nodes and what nodes hang at; to be destroyed. False, and nothing to destroy, if it can't. */
bool mem_topology_load(hwloc_topology_t *out);

/* Nodes whose memory is the host's: not that of a GPU which the system counts as its own. */
void mem_topology_nodes(hwloc_topology_t topology, uint32_t *nodes, uint64_t *bytes);

/* Cores that share a processing unit with bound. */
uint32_t mem_topology_cores(hwloc_topology_t topology, hwloc_const_bitmap_t bound);

/*
 * OS index of the node that most units of bound are nearest to; between equals the one that a unit of last
 * is near to, then the lowest. Nodes that have no units of their own (CXL, HBM) are for those only who have
 * no other. -1: unknown.
 */
int mem_topology_near_node(hwloc_topology_t topology, hwloc_const_bitmap_t bound, hwloc_const_bitmap_t last);

#endif
