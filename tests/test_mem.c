/*
 * Proves of host arenas: alignment and size; memory is zero, usable, and costs nothing
 * before its first touch; what the arena says of its lock and its node is what the
 * kernel says; under a small RLIMIT_MEMLOCK it is pageable with a note, or refused with
 * -OFL_EPINNED and a sentence that helps; destroy gives everything back. And of the
 * machine: counts follow the binding.
 *
 * Negative controls: each claim is checked against the kernel (mincore, VmLck,
 * get_mempolicy), and in both directions: resident after a touch and not before,
 * mapped before destroy and not after, locked with a large limit and not with a small one.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "base/error.h"
#include "liboffload/mem/mem.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

#ifndef OFL_WITH_HWLOC
#define OFL_WITH_HWLOC 1
#endif

/* ThreadSanitizer keeps its shadow of unmapped memory: address space can't be counted there. */
#ifdef __SANITIZE_THREAD__
#define COUNTS_SPACE 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define COUNTS_SPACE 0
#endif
#endif
#ifndef COUNTS_SPACE
#define COUNTS_SPACE 1
#endif

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A "Name: n kB" line of /proc/self/status, in bytes. */
static uint64_t status_bytes(const char *name)
{
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long long kib = 0;
    char line[256];

    if (!f)
        return UINT64_MAX;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0)
            sscanf(line + strlen(name), ": %llu", &kib);
    fclose(f);
    return kib * KIB;
}

/* 1: resident, 0: mapped but not resident, -1: not mapped. */
static int resident(const void *page)
{
    unsigned char byte = 0;

    return mincore((void *)page, page_bytes(), &byte) == 0 ? byte & 1 : -1;
}

/* ---- arenas ------------------------------------------------------------ */

static const struct {
    uint64_t bytes, align;
} sizes[] = {
    {1, 4 * KIB},           {4 * KIB, 4 * KIB},         {4 * KIB + 1, 4 * KIB},
    {2 * MIB - 1, 4 * KIB}, {2 * MIB, 2 * MIB},         {2 * MIB + 1, 2 * MIB},
    {4 * MIB, 2 * MIB},     {7 * MIB + 12345, 2 * MIB}, {64 * MIB, 2 * MIB},
};

static void aligned_zeroed_usable(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct mem_arena a;
        unsigned char *p, *last;

        assert_int_equal(mem_arena_create(sizes[i].bytes, 0, &a), 0);
        assert_int_equal((uintptr_t)a.base % sizes[i].align, 0);
        assert_int_equal(a.bytes, sizes[i].bytes);
        assert_true(a.mapped_bytes >= a.bytes && a.mapped_bytes < a.bytes + page_bytes());
        assert_int_equal(a.mapped_bytes % page_bytes(), 0);
        p = a.base;
        last = p + a.mapped_bytes - 1;
        assert_int_equal(resident(p), 0);
        assert_int_equal(*p | *last, 0);
        *p = 17;
        *last = 18;
        assert_int_equal(*p, a.mapped_bytes == 1 ? 18 : 17);
        assert_int_equal(resident(p), 1);
        mem_arena_destroy(&a);
        assert_int_equal(resident(p), -1);
        assert_null(a.base);
        mem_arena_destroy(&a); /* nothing left: no effect */
    }
    mem_arena_destroy(NULL);
}

static void lock_is_what_the_kernel_says(void **state)
{
    uint64_t before = status_bytes("VmLck"), resident_before = status_bytes("VmRSS");
    struct mem_arena a;

    (void)state;
    assert_int_equal(mem_arena_create(256 * MIB, 0, &a), 0);
    assert_int_equal(status_bytes("VmLck") - before, a.pinned ? a.mapped_bytes : 0);
    assert_int_equal(a.pinned, strstr(a.note, "pageable") == NULL);
    /* locked on fault: the lock itself brings no page in */
    assert_true(status_bytes("VmRSS") < resident_before + 128 * MIB);
    mem_arena_destroy(&a);
    assert_int_equal(status_bytes("VmLck"), before);
}

#define POLICY_PREFERRED 1 /* of <linux/mempolicy.h>: the test needs no libnuma */
#define POLICY_OF_ADDR   2

static void node_is_what_the_kernel_says(void **state)
{
    unsigned long mask[1024 / (sizeof(unsigned long) * CHAR_BIT)] = {0};
    unsigned word = sizeof mask[0] * CHAR_BIT;
    struct mem_machine m;
    struct mem_arena a;
    int mode = -1;

    (void)state;
    mem_machine_get(&m);
    assert_int_equal(mem_arena_create(8 * MIB, 0, &a), 0);
    if (a.node < 0) {
        assert_non_null(strstr(a.note, "not bound"));
        assert_null(strstr(a.note, "Invalid argument")); /* that would be our mistake */
        fprintf(stderr, "node_is_what_the_kernel_says: skipped: %s\n", a.note);
        mem_arena_destroy(&a);
        skip();
    }
    assert_null(strstr(a.note, "not bound"));
    assert_int_equal(a.node, m.near_node);
    assert_int_equal(syscall(SYS_get_mempolicy, &mode, mask, 1024ul, a.base, (unsigned long)POLICY_OF_ADDR),
                     0);
    assert_int_equal(mode, POLICY_PREFERRED);
    assert_true(mask[(unsigned)a.node / word] >> (unsigned)a.node % word & 1);
    mem_arena_destroy(&a);
}

/* Ends cut off for alignment are given back at once, the rest at destroy. */
static void address_space_is_what_it_says(void **state)
{
    enum { ARENAS = 40, SPARE = 20 }; /* one end kept per arena would be 40 to 80 MiB */
    struct mem_arena a[ARENAS];
    uint64_t before, held, mapped = 0;

    (void)state;
    if (!COUNTS_SPACE) {
        fprintf(stderr, "address_space_is_what_it_says: skipped: ThreadSanitizer keeps its shadow\n");
        skip();
    }
    for (int i = 0; i < 2; i++) { /* what libraries allocate once is there then */
        assert_int_equal(mem_arena_create(1, 0, &a[0]), 0);
        mem_arena_destroy(&a[0]);
    }
    before = status_bytes("VmSize");
    for (int i = 0; i < ARENAS; i++) {
        assert_int_equal(mem_arena_create(5 * MIB + 4 * KIB * (uint64_t)i, 0, &a[i]), 0);
        mapped += a[i].mapped_bytes;
    }
    held = status_bytes("VmSize");
    assert_true(held >= before + mapped && held < before + mapped + SPARE * MIB);
    for (int i = 0; i < ARENAS; i++)
        mem_arena_destroy(&a[i]);
    assert_true(status_bytes("VmSize") < before + SPARE * MIB);
}

static void bad_arguments(void **state)
{
    static const struct {
        uint64_t bytes;
        unsigned flags;
        int code;
    } cases[] = {
        {0, 0, -EINVAL},
        {4096, 1u << 7, -EINVAL},
        {UINT64_MAX, 0, -ENOMEM},
        {UINT64_MAX / 2, 0, -ENOMEM},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mem_arena a, zero;

        memset(&a, 0xff, sizeof a);
        memset(&zero, 0, sizeof zero);
        assert_int_equal(mem_arena_create(cases[i].bytes, cases[i].flags, &a), cases[i].code);
        assert_memory_equal(&a, &zero, sizeof a);
        assert_non_null(strstr(base_error_text(), "host"));
    }
}

/* ---- a system that refuses ----------------------------------------------- */

/* These stand before the C library's and libnuma's at link time: the kernel's calls, unless
 * the test plays a container that forbids them. */
static bool refuse;

long mbind(void *at, unsigned long bytes, int mode, const unsigned long *mask, unsigned long bits,
           unsigned flags)
{
    if (!refuse)
        return syscall(SYS_mbind, at, bytes, mode, mask, bits, flags);
    errno = EPERM;
    return -1;
}

int mlock2(const void *at, size_t bytes, unsigned flags)
{
    if (!refuse)
        return (int)syscall(SYS_mlock2, at, bytes, flags);
    errno = ENOSYS;
    return -1;
}

static void refused_calls_go_to_the_note(void **state)
{
    struct mem_arena a;

    (void)state;
    refuse = true;
    assert_int_equal(mem_arena_create(4 * MIB, 0, &a), 0);
    assert_int_equal(a.node, -1);
    assert_false(a.pinned);
    assert_non_null(strstr(a.note, "not bound to"));
    assert_non_null(strstr(a.note, "; pageable"));
    assert_non_null(strstr(a.note, "Function not implemented"));
    if (!strstr(a.note, "built without") && !strstr(a.note, "NUMA calls"))
        assert_non_null(strstr(a.note, "mbind: Operation not permitted"));
    memset(a.base, 1, a.bytes);
    mem_arena_destroy(&a);
    assert_int_equal(mem_arena_create(4 * MIB, MEM_REQUIRE_PINNED, &a), -OFL_EPINNED);
    refuse = false;
}

/* ---- as an ordinary user with a small limit ---------------------------- */

enum { CHILD_PASSED = 0, CHILD_SKIPPED = 77 };

#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "line %d: %s is false\n", __LINE__, #condition);                                 \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

/* Runs fn in a child that may lock only so much, and let itself lock hard_bytes; skips where the child can't be made
 * ordinary. */
static void as_ordinary_user(rlim_t lock_bytes, rlim_t hard_bytes, int (*fn)(void))
{
    struct rlimit limit = {lock_bytes, hard_bytes};
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0)
            _exit(CHILD_SKIPPED);
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(CHILD_SKIPPED);
        _exit(fn());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == CHILD_SKIPPED) {
        fprintf(stderr, "skipped: this process may not lower its rights or its limit\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), CHILD_PASSED);
}

/* What a sentence says of the way out: the hard limit decides. */
static bool says(const char *sentence, const char *command)
{
    struct rlimit limit;

    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    return strstr(sentence,
                  limit.rlim_max > limit.rlim_cur ? command : "`sudo prlimit --pid $$ --memlock=") != NULL;
}

static int small_limit(void)
{
    struct mem_machine m;
    struct mem_arena a, fits;

    mem_machine_get(&m);
    EXPECT(m.lock_bytes == 64 * KIB);

    EXPECT(mem_arena_create(4 * MIB, 0, &a) == 0);
    EXPECT(!a.pinned);
    EXPECT(strstr(a.note, "pageable") && strstr(a.note, "4194304") && strstr(a.note, "65536"));
    EXPECT(says(a.note, "`ulimit -l 4096`"));
    memset(a.base, 1, 4 * MIB);
    mem_arena_destroy(&a);

    EXPECT(mem_arena_create(4 * MIB, MEM_REQUIRE_PINNED, &a) == -OFL_EPINNED);
    EXPECT(a.base == NULL && a.mapped_bytes == 0);
    EXPECT(strstr(base_error_text(), "4194304") && strstr(base_error_text(), "65536"));
    EXPECT(says(base_error_text(), "`ulimit -l 4096`"));

    /* the limit counts all locks: what fits alone does not fit twice */
    EXPECT(mem_arena_create(48 * KIB, MEM_REQUIRE_PINNED, &fits) == 0);
    EXPECT(fits.pinned && !strstr(fits.note, "pageable"));
    EXPECT(mem_arena_create(48 * KIB, MEM_REQUIRE_PINNED, &a) == -OFL_EPINNED);
    EXPECT(strstr(base_error_text(), "49152 locked already") && says(base_error_text(), "`ulimit -l 96`"));
    mem_arena_destroy(&fits);
    EXPECT(mem_arena_create(48 * KIB, MEM_REQUIRE_PINNED, &a) == 0);
    mem_arena_destroy(&a);
    return CHILD_PASSED;
}

static int no_limit_left(void)
{
    struct mem_arena a;

    EXPECT(mem_arena_create(4 * KIB, 0, &a) == 0);
    EXPECT(!a.pinned && strstr(a.note, "RLIMIT_MEMLOCK is 0 bytes"));
    mem_arena_destroy(&a);
    EXPECT(mem_arena_create(4 * KIB, MEM_REQUIRE_PINNED, &a) == -OFL_EPINNED);
    return CHILD_PASSED;
}

/* A refused mapping gives nothing away: the address space is what it was. */
static int refusals_leave_nothing(void)
{
    uint64_t before = 0;

    for (int i = 0; i < 42; i++) {
        struct mem_arena a;

        if (i == 2)
            before = status_bytes("VmSize");
        EXPECT(mem_arena_create(5 * MIB, MEM_REQUIRE_PINNED, &a) == -OFL_EPINNED);
    }
    EXPECT(!COUNTS_SPACE || status_bytes("VmSize") < before + 20 * MIB);
    return CHILD_PASSED;
}

static void small_lock_limit(void **state)
{
    (void)state;
    as_ordinary_user(64 * KIB, 64 * KIB, small_limit);
    as_ordinary_user(64 * KIB, 8 * MIB, small_limit);
}

static void zero_lock_limit(void **state)
{
    (void)state;
    as_ordinary_user(0, 0, no_limit_left);
}

static void refused_arenas_are_unmapped(void **state)
{
    (void)state;
    as_ordinary_user(64 * KIB, 64 * KIB, refusals_leave_nothing);
}

/* ---- machine ----------------------------------------------------------- */

static void machine_is_plausible(void **state)
{
    long units = sysconf(_SC_NPROCESSORS_CONF);
    struct rlimit limit;
    struct mem_machine m;

    (void)state;
    memset(&m, 0xff, sizeof m);
    mem_machine_get(&m);
    assert_true(m.cores >= 1 && m.cores <= (uint32_t)units);
    assert_true(m.nodes >= 1 && m.nodes <= 1024);
    assert_true(m.memory_bytes >= 16 * MIB && m.memory_bytes < (uint64_t)1 << 50);
    if (m.nodes == 1 && !OFL_WITH_HWLOC)
        assert_int_equal(m.memory_bytes, (uint64_t)sysconf(_SC_PHYS_PAGES) * page_bytes());
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    assert_true(m.lock_bytes == (limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur));
    if (OFL_WITH_HWLOC)
        assert_true(m.near_node >= 0);
    else
        assert_int_equal(m.near_node, -1);
}

static int bound_to_one(void)
{
    struct mem_machine m;
    cpu_set_t all, one;

    EXPECT(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        EXPECT(sched_setaffinity(0, sizeof one, &one) == 0);
        mem_machine_get(&m);
        EXPECT(m.cores == 1);
    }
    return CHILD_PASSED;
}

static void cores_follow_the_binding(void **state)
{
    (void)state;
    as_ordinary_user(64 * KIB, 64 * KIB, bound_to_one);
}

/* mincore tells which pages are there; a fresh arena has none. */
static void pages_come_ahead(void **state)
{
    enum { PAGES = 3 * 512 + 5 };
    unsigned char there[PAGES];
    struct mem_arena a;
    size_t before = 0, after = 0;

    (void)state;
    assert_int_equal(mem_arena_create(PAGES * 4096, 0, &a), 0);
    assert_int_equal(mincore(a.base, PAGES * 4096, there), 0);
    for (size_t i = 0; i < PAGES; i++)
        before += there[i] & 1;
    mem_arena_populate(&a, 3);
    assert_int_equal(mincore(a.base, PAGES * 4096, there), 0);
    for (size_t i = 0; i < PAGES; i++)
        after += there[i] & 1;
    mem_arena_destroy(&a);
    assert_int_equal(before, 0);
    if (after == 0) {
        print_message("skipped: this kernel has no MADV_POPULATE_WRITE (Linux 5.14)\n");
        skip();
    }
    assert_int_equal(after, PAGES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligned_zeroed_usable),
        cmocka_unit_test(lock_is_what_the_kernel_says),
        cmocka_unit_test(node_is_what_the_kernel_says),
        cmocka_unit_test(address_space_is_what_it_says),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(small_lock_limit),
        cmocka_unit_test(zero_lock_limit),
        cmocka_unit_test(refused_arenas_are_unmapped),
        cmocka_unit_test(refused_calls_go_to_the_note),
        cmocka_unit_test(machine_is_plausible),
        cmocka_unit_test(cores_follow_the_binding),
        cmocka_unit_test(pages_come_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
