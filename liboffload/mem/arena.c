/*
 * arena: host memory that the pager's transfers land in. Owns the mapping, its lock
 * and its NUMA policy. What the system refuses ends up in the arena's note, or, for
 * the lock, in an error if the caller insists.
 */
#include "liboffload/mem/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "include/offload.h"
#include "base/error.h"
#include "base/memlock.h"
#include "base/pool.h"

#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
#endif
#ifndef OFL_WITH_NUMA
#define OFL_WITH_NUMA 1
#endif

#if OFL_WITH_NUMA
#include <numa.h>
#include <numaif.h>
#endif

#define HUGE_BYTES ((uint64_t)2 << 20)
#define NODES_MAX  1024

/* Adds to the note, after what is there already. */
static void __attribute__((format(printf, 2, 3))) note(struct mem_arena *a, const char *fmt, ...)
{
    size_t used = strlen(a->note);
    va_list ap;

    if (used > 0 && used + 2 < sizeof a->note) {
        memcpy(a->note + used, "; ", 3);
        used += 2;
    }
    va_start(ap, fmt);
    vsnprintf(a->note + used, sizeof a->note - used, fmt, ap);
    va_end(ap);
}

static int map(struct mem_arena *a)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), align = a->bytes >= HUGE_BYTES ? HUGE_BYTES : page;
    uintptr_t start, base;
    void *at = MAP_FAILED;
    uint64_t slack = align - page;

    errno = ENOMEM;
    if (a->bytes <= SIZE_MAX / 2) {
        a->mapped_bytes = (a->bytes + page - 1) / page * page;
        at = mmap(NULL, a->mapped_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (at == MAP_FAILED)
        return base_fail_errno(-errno, "map host memory: %llu bytes", (unsigned long long)a->bytes);
    start = (uintptr_t)at;
    base = (start + align - 1) / align * align;
    a->base = (void *)base;
    /* cannot fail on the mapping's own ends, and would cost address space only */
    if (base > start)
        munmap(at, base - start);
    if (slack > base - start)
        munmap((void *)(base + a->mapped_bytes), slack - (base - start));
    /* a wish: where the kernel has no huge pages, the small ones do */
    if (a->mapped_bytes >= 2 * HUGE_BYTES)
        (void)madvise(a->base, a->mapped_bytes, MADV_HUGEPAGE);
    /* A child of fork has no business with it, and would have pages that drives write to copied,
     * huge ones in small pieces: slower I/O from then on. */
    (void)madvise(a->base, a->mapped_bytes, MADV_DONTFORK);
    return 0;
}

#if OFL_WITH_NUMA

/* Preferred, not strict: when the node is full, pages come from another one instead of
 * the process being killed. mbind itself, because libnuma's calls for it are strict
 * unless told otherwise for the whole process, and print when they fail. */
static void bind_near(struct mem_arena *a)
{
    unsigned long mask[NODES_MAX / (sizeof(unsigned long) * CHAR_BIT)] = {0};
    struct mem_machine machine;
    unsigned node, word = sizeof mask[0] * CHAR_BIT;

    if (numa_available() < 0) {
        note(a, "not bound to a NUMA node: the system has no NUMA calls, or refuses them");
        return;
    }
    mem_machine_get(&machine);
    if (machine.near_node < 0 || machine.near_node >= NODES_MAX) {
        note(a, "not bound to a NUMA node: the nearest one is unknown%s",
             OFL_WITH_HWLOC ? "" : ", built without hwloc");
        return;
    }
    node = (unsigned)machine.near_node;
    mask[node / word] = 1ul << node % word;
    /* the kernel reads one bit fewer than it is told */
    if (mbind(a->base, a->mapped_bytes, MPOL_PREFERRED, mask, NODES_MAX + 1, 0) != 0) {
        note(a, "not bound to NUMA node %u: mbind: %s", node, base_strerror(errno));
        return;
    }
    a->node = (int)node;
}

#else

static void bind_near(struct mem_arena *a)
{
    note(a, "not bound to a NUMA node: built without libnuma");
}

#endif

/* Bytes that the process has locked already: they count against the same limit. */
static uint64_t locked_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/self/status", "re");

    if (!f)
        return 0; /* only makes the sentence less exact */
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmLck: %llu kB", &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}

/* Pages stay from their first touch on: locking costs no memory before it is used. */
static int lock(struct mem_arena *a, unsigned flags)
{
    unsigned long long bytes = a->mapped_bytes, locked;
    struct mem_machine machine;
    char limit[64], command[BASE_MEMLOCK_BYTES];
    int code;

    if (mlock2(a->base, a->mapped_bytes, MLOCK_ONFAULT) == 0) {
        a->pinned = true;
        return 0;
    }
    code = -errno;
    locked = locked_bytes();
    mem_machine_get(&machine);
    if (machine.lock_bytes == UINT64_MAX)
        snprintf(limit, sizeof limit, "unlimited");
    else
        snprintf(limit, sizeof limit, "%llu bytes", (unsigned long long)machine.lock_bytes);
    if (flags & MEM_REQUIRE_PINNED)
        return base_fail(-OFL_EPINNED,
                         "pin host memory: %llu bytes wanted, %llu locked already, RLIMIT_MEMLOCK is %s: %s; "
                         "%s in this shell raises it, or allow pageable memory",
                         bytes, locked, limit, base_strerror(code),
                         base_memlock_command(bytes + locked, command));
    note(a,
         "pageable: %llu bytes to lock, %llu locked already, RLIMIT_MEMLOCK is %s: %s; it works, and copies "
         "and "
         "transfers cost more CPU time: %s in this shell, before, spares that",
         bytes, locked, limit, base_strerror(code), base_memlock_command(bytes + locked, command));
    return 0;
}

int mem_arena_create(uint64_t bytes, unsigned flags, struct mem_arena *out)
{
    struct mem_arena a = {.bytes = bytes, .node = -1};
    int rc;

    memset(out, 0, sizeof *out);
    if (bytes == 0)
        return base_fail(-EINVAL, "create host arena: 0 bytes: at least 1 is needed");
    if (flags & ~(unsigned)MEM_REQUIRE_PINNED)
        return base_fail(-EINVAL, "create host arena: unknown flags 0x%x",
                         flags & ~(unsigned)MEM_REQUIRE_PINNED);
    rc = map(&a);
    if (rc != 0)
        return rc;
    bind_near(&a);
    rc = lock(&a, flags);
    if (rc != 0) {
        munmap(a.base, a.mapped_bytes); /* our own whole mapping: cannot fail */
        return rc;
    }
    *out = a;
    return 0;
}

/* ---- pages ahead of their use ---------------------------------------------- */

#define SLICE_BYTES (64 * HUGE_BYTES)

struct populating {
    char *base;
    uint64_t bytes;
    _Atomic uint64_t next;
};

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void populate_slices(void *arg)
{
    struct populating *p = arg;
    uint64_t at;

    while ((at = atomic_fetch_add(&p->next, SLICE_BYTES)) < p->bytes)
        /* before Linux 5.14 it is refused, and the pages come when they are pinned */
        (void)madvise(p->base + at, p->bytes - at < SLICE_BYTES ? p->bytes - at : SLICE_BYTES,
                      MADV_POPULATE_WRITE);
}

void mem_arena_populate(const struct mem_arena *a, unsigned threads)
{
    struct populating p = {.base = a->base, .bytes = a->mapped_bytes};
    struct base_pool *pool;

    if (threads == 0 || base_pool_create(threads, "ofl-pages", &pool) != 0)
        return;
    for (unsigned i = 0; i < threads; i++)
        base_pool_submit(pool, populate_slices, &p);
    base_pool_destroy(pool);
}

void mem_arena_destroy(struct mem_arena *a)
{
    if (!a || !a->base)
        return;
    munmap(a->base, a->mapped_bytes); /* unlocks too; our own whole mapping: cannot fail */
    memset(a, 0, sizeof *a);
}
