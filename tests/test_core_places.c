/*
 * core: what a store lies on. Budgets that the machine or its memory cgroup can't hold are refused with the
 * numbers, before any memory is taken; a store on tmpfs counts as memory, and is cut to what is left of it;
 * ofl_place_get tells programs the same in advance, and ofl_stats afterwards. A drive is measured where the budget or what
 * is to come pays for it, not for what is free there.
 *
 * Negative controls: the same budgets are taken where they fit, and on a drive; in a memory cgroup the same store
 * is refused that is taken outside.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/mem/mem.h"
#include "tests/core_fixture.h"

#define MIB (1ull << 20)
#define OWN (16 * MIB) /* what the library leaves to the process */

typedef unsigned long long ull;

static bool make_in_memory(char *dir)
{
    struct statfs fs;

    strcpy(dir, "/dev/shm/test_core_places-XXXXXX");
    if (statfs("/dev/shm", &fs) == 0 && fs.f_type == TMPFS_MAGIC && mkdtemp(dir))
        return true;
    fprintf(stderr, "skipped: no tmpfs at /dev/shm\n");
    return false;
}

static struct ofl_config config(const char *dir, uint64_t nvme_bytes)
{
    return (struct ofl_config){.size = sizeof(struct ofl_config),
                               .device = "host",
                               .device_bytes = 4 * MIB,
                               .host_bytes = 4 * MIB,
                               .nvme = fixture_nvme(dir, nvme_bytes),
                               .nvme_count = 1};
}

static bool has(const char *part)
{
    if (strstr(ofl_error(), part))
        return true;
    fprintf(stderr, "\"%s\" instead of \"%s\"\n", ofl_error(), part);
    return false;
}

/* ---- budgets ----------------------------------------------------------------- */

static void budgets_beyond_memory(void **state)
{
    struct ofl_config c = config(*state, 64 * MIB);
    struct ofl_ctx *ctx;
    bool group;
    uint64_t limit = mem_limit_bytes(&group);
    char text[64];

    assert_true(limit > 64 * MIB);
    c.device_bytes = limit - OWN - c.host_bytes + 1;
    assert_int_equal(ofl_open(&c, &ctx), -OFL_EBUDGET);
    assert_null(ctx);
    snprintf(text, sizeof text, "%llu bytes", (ull)c.device_bytes);
    assert_true(has(text));
    snprintf(text, sizeof text, "%s's %llu bytes of memory", group ? "memory cgroup" : "machine", (ull)limit);
    assert_true(has(text));
    c.device_bytes = UINT64_MAX - 4096; /* the sum would wrap */
    assert_int_equal(ofl_open(&c, &ctx), -OFL_EBUDGET);
    c.device_bytes = 4 * MIB;
    c.host_bytes = UINT64_MAX - 4096;
    assert_int_equal(ofl_open(&c, &ctx), -OFL_EBUDGET);
    c.host_bytes = 4 * MIB;
    assert_int_equal(ofl_open(&c, &ctx), 0);
    ofl_close(ctx);
}

static void store_in_memory_is_counted(void **state)
{
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_config c;
    struct ofl_ctx *ctx;
    char dir[48];

    if (!make_in_memory(dir))
        skip();
    c = config(dir, 8 * MIB);
    assert_int_equal(ofl_open(&c, &ctx), 0);
    assert_int_equal(ofl_stats_get(ctx, &s), 0);
    assert_int_equal(s.nvme_memory_bytes, 8 * MIB);
    assert_int_equal(s.direct, 0);
    assert_int_equal(s.nvme_reserved, 1);
    ofl_close(ctx);
    c.flags = OFL_FORBID_BUFFERED;
    assert_int_equal(ofl_open(&c, &ctx), -OFL_EDIRECT);
    assert_true(has("memory"));
    assert_int_equal(rmdir(dir), 0);

    c = config(*state, 8 * MIB);
    assert_int_equal(ofl_open(&c, &ctx), 0);
    assert_int_equal(ofl_stats_get(ctx, &s), 0);
    if (s.direct) {
        assert_int_equal(s.nvme_memory_bytes, 0);
        assert_int_equal(s.nvme_reserved, 1);
    }
    ofl_close(ctx);
}

/* ---- a memory cgroup ------------------------------------------------------------ */

static bool put(const char *dir, const char *name, const char *text)
{
    char path[300];
    int fd;
    bool done;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* In a child. 0: as expected; 1: not; 77: no right to make a cgroup. */
static int in_cgroup(const char *group, const char *dir)
{
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_config c = config(dir, 200 * MIB);
    struct ofl_ctx *ctx;
    char pid[16];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (!put(group, "memory.limit_in_bytes", "134217728") && !put(group, "memory.max", "134217728"))
        return 77;
    if (!put(group, "cgroup.procs", pid))
        return 77;
    if (ofl_open(&c, &ctx) != -OFL_EBUDGET || !has("209715200 bytes wanted") ||
        !has("memory cgroup's 134217728 bytes"))
        return 1;
    c = config(dir, 0);
    if (ofl_open(&c, &ctx) < 0 || ofl_stats_get(ctx, &s) < 0)
        return 1;
    ofl_close(ctx);
    return s.nvme_memory_bytes <= 134217728 - OWN - 8 * MIB ? 0 : 1;
}

static void store_beyond_the_cgroup(void **state)
{
    static const char *const roots[] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"};
    struct ofl_config c;
    struct ofl_ctx *ctx;
    int status = 0x4d00; /* skipped */
    char dir[48], group[100];
    pid_t child;

    (void)state;
    if (!make_in_memory(dir))
        skip();
    for (unsigned i = 0; i < 2 && status == 0x4d00; i++) {
        snprintf(group, sizeof group, "%s/test_core_places-%d", roots[i], (int)getpid());
        if (mkdir(group, 0755) < 0)
            continue;
        fflush(NULL);
        child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(in_cgroup(group, dir));
        assert_int_equal(waitpid(child, &status, 0), child);
        for (unsigned tries = 0; rmdir(group) < 0 && tries < 50; tries++)
            usleep(20000);
    }
    if (status == 0x4d00) {
        assert_int_equal(rmdir(dir), 0);
        fprintf(stderr, "skipped: no right to make a memory cgroup\n");
        skip();
    }
    assert_int_equal(status, 0);
    c = config(dir, 200 * MIB); /* and outside it is taken */
    if (ofl_open(&c, &ctx) < 0)
        assert_true(has("free") || has("left"));
    else
        ofl_close(ctx);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- places ------------------------------------------------------------------------ */

static void places(void **state)
{
    struct ofl_place p = {.size = sizeof p};
    char dir[48], file[80];
    FILE *f;

    assert_int_equal(ofl_place_get("/proc/self/nowhere/at/all", &p), -ENOENT);
    assert_true(has("/proc/self/nowhere/at/all"));
    assert_int_equal(ofl_place_get(*state, &p), 0);
    assert_true(p.free_bytes > 0);
    assert_int_equal(p.direct && p.reserved && !p.in_memory && !p.cached, p.note[0] == '\0');
    if (!make_in_memory(dir))
        skip();
    assert_int_equal(ofl_place_get(dir, &p), 0);
    assert_int_equal(p.in_memory, 1);
    assert_int_equal(p.direct, 0);
    assert_int_equal(p.reserved, 1);
    assert_non_null(strstr(p.note, "memory"));
    snprintf(file, sizeof file, "%s/file", dir);
    f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(fputs("bytes", f) < 0, 0);
    assert_int_equal(fclose(f), 0);
    p = (struct ofl_place){.size = offsetof(struct ofl_place, direct), .direct = 7};
    assert_int_equal(ofl_place_get(file, &p), 0);
    assert_int_equal(p.in_memory, 1);
    assert_int_equal(p.direct, 7); /* beyond its size */
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- measuring ---------------------------------------------------------------- */

/* Whether opening, with a budget of so many bytes and so many to come, has left a profile; takes it away. */
static bool measures(const char *dir, uint64_t budget, uint64_t expected, uint32_t flags)
{
    struct ofl_config c = config(dir, budget);
    char profiles[128], line[256];
    struct ofl_ctx *ctx;
    DIR *d;
    bool found = false;

    c.expected_bytes = expected;
    c.flags = flags;
    snprintf(profiles, sizeof profiles, "%s/profiles", dir);
    assert_int_equal(setenv("OFL_PROFILE_DIR", profiles, 1), 0);
    fixture_ok(ofl_open(&c, &ctx));
    fixture_ok(ofl_close(ctx));
    d = opendir(profiles);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        found = true;
        snprintf(line, sizeof line, "%.120s/%.120s", profiles, e->d_name);
        assert_int_equal(unlink(line), 0);
    }
    if (d) {
        closedir(d);
        assert_int_equal(rmdir(profiles), 0);
    }
    assert_int_equal(unsetenv("OFL_PROFILE_DIR"), 0);
    return found;
}

/* What is free on a drive says nothing of what will come to it. */
static void drives_are_measured_where_it_pays(void **state)
{
    const char *dir = *state;
    const uint64_t much = 4ull << 30;
    struct ofl_place p = {.size = sizeof p};

    assert_false(measures(dir, 0, 0, 0));
    assert_false(measures(dir, 0, much - 4096, 0));
    assert_false(measures(dir, 64 * MIB, 0, 0));
    assert_false(measures(dir, 64 * MIB, much, 0));
    assert_false(measures(dir, 0, much, OFL_NO_MEASURE));
    assert_int_equal(ofl_place_get(dir, &p), 0);
    if (p.direct != 1 || p.in_memory) {
        fprintf(stderr, "skipped: nothing is measured without direct I/O\n");
        skip();
    }
    assert_true(measures(dir, 0, much, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_beyond_memory),
        cmocka_unit_test(store_in_memory_is_counted),
        cmocka_unit_test(store_beyond_the_cgroup),
        cmocka_unit_test(places),
        cmocka_unit_test(drives_are_measured_where_it_pays),
    };

    return cmocka_run_group_tests_name("core places", tests, scratch_setup, scratch_teardown);
}
