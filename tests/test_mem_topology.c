/*
 * Proves of NUMA nodes, on machines that hwloc makes up or reads from a record: bound to each processing unit
 * in turn, the near node is that of the unit's package, die, group or cache; bound to several, that of most
 * of them, and between equals that of the last one run on; memory without units (CXL, HBM) never wins over
 * memory that has some; units without memory of their own get the nearest by the firmware's distances; memory
 * of a GPU is not counted; cores are.
 *
 * Negative controls: nodes without units have the lower index and the larger memory, so that each rule left
 * out gives another answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "liboffload/mem/mem.h"

#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
#endif

#if OFL_WITH_HWLOC

#include "liboffload/mem/topology.h"

#include <hwloc/distances.h> /* wants hwloc.h before it */

#define UNITS 16

static const struct machine {
    const char *synthetic, *xml; /* one of them */
    int near[UNITS];             /* of each unit, up to -2 */
    uint32_t nodes, cores;
    uint64_t bytes;
} machines[] = {
    {"pack:2 [numa(memory=8MB)] core:2 pu:1(indexes=0,2,1,3)", NULL, {0, 1, 0, 1, -2}, 2, 4, 16000000},
    {"pack:2 l3:2 [numa(memory=4MB)] core:2 pu:1", NULL, {0, 0, 1, 1, 2, 2, 3, 3, -2}, 4, 8, 16000000},
    {"pack:2 group:2 [numa(memory=4MB)] core:1 pu:2", NULL, {0, 0, 1, 1, 2, 2, 3, 3, -2}, 4, 4, 16000000},
    {"die:2 [numa(memory=4MB)] core:2 pu:2", NULL, {0, 0, 0, 0, 1, 1, 1, 1, -2}, 2, 4, 8000000},
    {"numa:2(memory=4MB) core:1 pu:1", NULL, {0, 1, -2}, 2, 2, 8000000},
    /* a node at the machine has all units, and would have most of any binding */
    {"[numa(memory=16MB indexes=2,1,0)] pack:2 [numa(memory=8MB)] core:2 pu:1",
     NULL,
     {2, 2, 1, 1, -2},
     3,
     4,
     32000000},
    {"core:2 pu:1", NULL, {0, 0, -2}, 1, 2, 0},
    {NULL, "tests/golden/topology_grace.xml", {2, 4, 2, 4, -2}, 4, 4, 74000000},
};

static hwloc_topology_t load(const struct machine *m)
{
    hwloc_topology_t t;
    bool done;

    if (m->xml)
        setenv("HWLOC_XMLFILE", m->xml, 1);
    else
        setenv("HWLOC_SYNTHETIC", m->synthetic, 1);
    done = mem_topology_load(&t);
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_SYNTHETIC");
    assert_true(done);
    return t;
}

static int near_of(hwloc_topology_t t, const char *bound, const char *last)
{
    hwloc_bitmap_t b = hwloc_bitmap_alloc(), l = hwloc_bitmap_alloc();
    int near;

    hwloc_bitmap_list_sscanf(b, bound);
    hwloc_bitmap_list_sscanf(l, last);
    near = mem_topology_near_node(t, b, l);
    hwloc_bitmap_free(b);
    hwloc_bitmap_free(l);
    return near;
}

static hwloc_obj_t node(hwloc_topology_t t, unsigned index)
{
    hwloc_obj_t n = NULL;

    while ((n = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_NUMANODE, n)))
        if (n->os_index == index)
            return n;
    fail();
    return NULL;
}

static void each_unit_has_its_node(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        const struct machine *m = &machines[i];
        hwloc_topology_t t = load(m);

        for (int unit = 0; m->near[unit] != -2; unit++) {
            char bound[16];
            int near;

            snprintf(bound, sizeof bound, "%d", unit);
            near = near_of(t, bound, bound);
            if (near != m->near[unit])
                fail_msg("%s: bound to %d: node %d, not %d", m->xml ? m->xml : m->synthetic, unit, near,
                         m->near[unit]);
        }
        hwloc_topology_destroy(t);
    }
}

static void memory_and_cores_are_counted(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        const struct machine *m = &machines[i];
        hwloc_topology_t t = load(m);
        uint32_t nodes;
        uint64_t bytes;

        mem_topology_nodes(t, &nodes, &bytes);
        assert_int_equal(nodes, m->nodes);
        if (m->bytes)
            assert_int_equal(bytes, m->bytes);
        assert_int_equal(mem_topology_cores(t, hwloc_topology_get_allowed_cpuset(t)), m->cores);
        assert_int_equal(mem_topology_cores(t, hwloc_get_pu_obj_by_os_index(t, 0)->cpuset), 1);
        hwloc_topology_destroy(t);
    }
}

static void most_units_decide(void **state)
{
    hwloc_topology_t t = load(&machines[1]); /* four nodes of two units */

    (void)state;
    assert_int_equal(near_of(t, "0-7", ""), 0);
    assert_int_equal(near_of(t, "0-7", "5"), 2);
    assert_int_equal(near_of(t, "0,2-4", "0"), 1);
    assert_int_equal(near_of(t, "1,6-7", ""), 3);
    assert_int_equal(near_of(t, "1,3", ""), 0);
    assert_int_equal(near_of(t, "100", ""), -1);
    hwloc_topology_destroy(t);
    t = load(&machines[5]); /* node 0 is at the machine */
    assert_int_equal(near_of(t, "0-3", ""), 1);
    assert_int_equal(near_of(t, "0-3", "1"), 2);
    assert_int_equal(near_of(t, "1-3", "0"), 1);
    hwloc_topology_destroy(t);
    t = load(&machines[7]); /* CXL, a GPU and HBM, each before the memory of the units */
    assert_int_equal(near_of(t, "0-3", ""), 2);
    assert_int_equal(near_of(t, "0-3", "3"), 4);
    hwloc_topology_destroy(t);
}

/* Memory without units serves who has no other. */
static void memory_alone_is_better_than_none(void **state)
{
    const struct machine m = {.synthetic = "numa:1(memory=4MB) core:2 pu:1"};
    hwloc_topology_t t = load(&m);

    (void)state;
    free(node(t, 0)->subtype);
    node(t, 0)->subtype = strdup("HBM");
    assert_int_equal(near_of(t, "0", ""), 0);
    hwloc_topology_destroy(t);
}

static void units_without_memory_take_the_nearest(void **state)
{
    const struct machine m = {.synthetic = "pack:3 [numa(memory=4MB)] core:1 pu:1"};
    hwloc_uint64_t values[] = {10, 32, 21, 32, 10, 32, 21, 32, 10};
    hwloc_topology_t t = load(&m);
    hwloc_obj_t nodes[3];
    hwloc_distances_add_handle_t handle;

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        nodes[i] = node(t, i);
    nodes[0]->attr->numanode.local_memory = 0;
    assert_int_equal(near_of(t, "0", ""), -1); /* two are left, and nothing says which */
    handle = hwloc_distances_add_create(t, "NUMALatency",
                                        HWLOC_DISTANCES_KIND_FROM_OS | HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0);
    assert_non_null(handle);
    assert_int_equal(hwloc_distances_add_values(t, handle, 3, nodes, values, 0), 0);
    assert_int_equal(hwloc_distances_add_commit(t, handle, 0), 0);
    assert_int_equal(near_of(t, "0", ""), 2);
    assert_int_equal(near_of(t, "1", ""), 1);
    node(t, 2)->attr->numanode.local_memory = 0;
    assert_int_equal(near_of(t, "0", ""), 1);
    hwloc_topology_destroy(t);
}

#else

static void skipped(void **state)
{
    (void)state;
    print_message("built without hwloc\n");
    skip();
}

#endif

/* ---- memory of the system ------------------------------------------------------ */

static void plant(const char *root, const char *dir, const char *name, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", root, dir);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = '\0';
        (void)mkdir(path, 0755);
    }
    (void)mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%s/%s", root, dir, name);
    f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void memory_of_gpus_is_not_the_hosts(void **state)
{
    char root[] = "/tmp/ofl-topology.XXXXXX", command[64];

    (void)state;
    assert_non_null(mkdtemp(root));
    assert_int_equal(mem_host_bytes(root), 0);
    plant(root, "proc", "meminfo", "MemTotal:       1000 kB\nMemFree:        10 kB\n");
    plant(root, "sys/devices/system/node/node0", "meminfo", "Node 0 MemTotal:     700 kB\n");
    plant(root, "sys/devices/system/node/node4", "meminfo", "Node 4 MemTotal:     300 kB\n");
    assert_int_equal(mem_host_bytes(root), 1000 << 10);
    plant(root, "proc/driver/nvidia/gpus/0009:01:00.0", "numa_status", "Status: offline\n");
    assert_int_equal(mem_host_bytes(root), 1000 << 10);
    plant(root, "proc/driver/nvidia/gpus/0009:01:00.0", "numa_status", "Node: 4\nStatus: online\n");
    assert_int_equal(mem_host_bytes(root), 700 << 10);
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#if OFL_WITH_HWLOC
        cmocka_unit_test(each_unit_has_its_node),
        cmocka_unit_test(memory_and_cores_are_counted),
        cmocka_unit_test(most_units_decide),
        cmocka_unit_test(memory_alone_is_better_than_none),
        cmocka_unit_test(units_without_memory_take_the_nearest),
#else
        cmocka_unit_test(skipped),
#endif
        cmocka_unit_test(memory_of_gpus_is_not_the_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
