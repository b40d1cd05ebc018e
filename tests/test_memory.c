/*
 * Proves of the memory that programs count with (examples/common_memory.h): on planted trees of /proc and
 * /sys, that the least of the machine and of every memory cgroup above the process is found, in version 1,
 * version 2 and both at once, seen from the host and from inside a container; that the page cache counts as
 * free and a GPU's memory that the system calls its own does not; and that what is named as the most that
 * fits does fit.
 *
 * Negative controls: each case differs from its neighbour in the one number that decides.
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

#include "examples/common_memory.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

struct file {
    const char *path, *text;
};

#define MACHINE                                                                                              \
    {                                                                                                        \
        "proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 25165824 kB\n"                  \
    }
#define MOUNT_1 "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
#define MOUNT_2 "31 25 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
#define MOUNT_U "31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
#define V1      "sys/fs/cgroup/memory"
#define V2      "sys/fs/cgroup"
#define NONE_1  "9223372036854771712\n"

static const struct {
    const char *what;
    struct file files[16];
    uint64_t bytes, limit;
    const char *words;
} cases[] = {
    {"no cgroups", {MACHINE}, 24 * GIB, 32 * GIB, "this machine has 32.0 GiB"},
    {"version 1, its own",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_1},
      {"proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/a/b\n"},
      {V1 "/a/b/memory.limit_in_bytes", "1073741824\n"},
      {V1 "/a/b/memory.usage_in_bytes", "314572800\n"},
      {V1 "/a/b/memory.stat",
       "inactive_file 1\ntotal_inactive_file 104857600\ntotal_active_file 104857600\n"},
      {V1 "/a/memory.limit_in_bytes", NONE_1},
      {V1 "/memory.limit_in_bytes", NONE_1}},
     924 * MIB,
     GIB,
     "/a/b allows 1.00 GiB, of which 100 MiB are in use"},
    {"version 1, one above",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_1},
      {"proc/self/cgroup", "4:memory:/a/b\n"},
      {V1 "/a/b/memory.limit_in_bytes", "1073741824\n"},
      {V1 "/a/memory.limit_in_bytes", "536870912\n"},
      {V1 "/a/memory.usage_in_bytes", "104857600\n"}},
     412 * MIB,
     512 * MIB,
     "cgroup /a allows 512 MiB"},
    {"version 1, a larger limit that is more in use",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_1},
      {"proc/self/cgroup", "4:memory:/a/b\n"},
      {V1 "/a/b/memory.limit_in_bytes", "536870912\n"},
      {V1 "/a/memory.limit_in_bytes", "1073741824\n"},
      {V1 "/a/memory.usage_in_bytes", "1021313024\n"}},
     50 * MIB,
     512 * MIB,
     "cgroup /a allows 1.00 GiB"},
    {"version 2",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_2},
      {"proc/self/cgroup", "0::/user.slice/run\n"},
      {V2 "/user.slice/run/memory.max", "max\n"},
      {V2 "/user.slice/run/memory.high", "max\n"},
      {V2 "/user.slice/memory.max", "2147483648\n"},
      {V2 "/user.slice/memory.current", "1073741824\n"},
      {V2 "/user.slice/memory.stat", "anon 5\nfile 900000000\ninactive_file 536870912\nactive_file 0\n"}},
     1536 * MIB,
     2 * GIB,
     "/user.slice allows 2.00 GiB, of which 512 MiB are in use"},
    {"version 2, held back before it is killed",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_2},
      {"proc/self/cgroup", "0::/a\n"},
      {V2 "/a/memory.max", "2147483648\n"},
      {V2 "/a/memory.high", "1073741824\n"}},
     GIB,
     GIB,
     "/a allows 1.00 GiB"},
    {"both versions, the controller in the first",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_U MOUNT_1},
      {"proc/self/cgroup", "4:memory:/m\n0::/u\n"},
      {V1 "/m/memory.limit_in_bytes", "3221225472\n"},
      {V1 "/u/memory.limit_in_bytes", "1\n"}},
     3 * GIB,
     3 * GIB,
     "/m allows"},
    {"a container that sees its part from the top",
     {MACHINE,
      {"proc/self/mountinfo", "30 25 0:26 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
      {"proc/self/cgroup", "4:memory:/docker/abc\n"},
      {V1 "/memory.limit_in_bytes", "4294967296\n"}},
     4 * GIB,
     4 * GIB,
     "cgroup / allows"},
    {"a container, and a cgroup in it",
     {MACHINE,
      {"proc/self/mountinfo", "30 25 0:26 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
      {"proc/self/cgroup", "4:memory:/docker/abc/in\n"},
      {V1 "/in/memory.limit_in_bytes", "1073741824\n"},
      {V1 "/memory.limit_in_bytes", "4294967296\n"}},
     GIB,
     GIB,
     "cgroup /in allows"},
    {"a namespace of cgroups that the process is outside of",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_2},
      {"proc/self/cgroup", "0::/../other\n"},
      {V2 "/memory.max", "1073741824\n"}},
     GIB,
     GIB,
     "cgroup / allows"},
    {"a mount point with a space",
     {MACHINE,
      {"proc/self/mountinfo", "31 25 0:27 / /my\\040groups rw - cgroup2 cgroup2 rw\n"},
      {"proc/self/cgroup", "0::/a\n"},
      {"my groups/a/memory.max", "1073741824\n"}},
     GIB,
     GIB,
     "/a allows"},
    {"more in use than allowed",
     {MACHINE,
      {"proc/self/mountinfo", MOUNT_2},
      {"proc/self/cgroup", "0::/a\n"},
      {V2 "/a/memory.max", "1073741824\n"},
      {V2 "/a/memory.current", "1173741824\n"}},
     0,
     GIB,
     "/a allows"},
    {"a GPU's memory is not the host's",
     {MACHINE,
      {"proc/driver/nvidia/gpus/0009:01:00.0/numa_status", "Node: 1\nStatus: online\n"},
      {"sys/devices/system/node/node1/meminfo",
       "Node 1 MemTotal:       16777216 kB\nNode 1 MemFree:        8388608 kB\n"},
      {"sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 16777216 kB\nNode 0 MemFree: 4096 kB\n"}},
     16 * GIB,
     16 * GIB,
     "this machine has 16.0 GiB of memory, of which 16.0 GiB"},
    {"a GPU whose memory is its own",
     {MACHINE, {"proc/driver/nvidia/gpus/0000:01:00.0/numa_status", "Status: disabled\n"}},
     24 * GIB,
     32 * GIB,
     "this machine"},
};

/* Makes the file, and the directories above it. */
static void plant(const char *root, const struct file *f)
{
    char path[512];
    FILE *out;

    snprintf(path, sizeof path, "%s/%s", root, f->path);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = '\0';
        (void)mkdir(path, 0755);
    }
    out = fopen(path, "we");
    assert_non_null(out);
    fputs(f->text, out);
    assert_int_equal(fclose(out), 0);
}

static void the_least_is_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char root[] = "/tmp/ofl-memory.XXXXXX", command[64];
        struct common_room room;

        assert_non_null(mkdtemp(root));
        for (const struct file *f = cases[i].files; f->path; f++)
            plant(root, f);
        common_room_under(root, &room);
        snprintf(command, sizeof command, "rm -r %s", root);
        assert_int_equal(system(command), 0);
        if (room.bytes != cases[i].bytes || room.limit != cases[i].limit ||
            !strstr(room.text, cases[i].words))
            fail_msg("%s: %llu bytes of %llu: %s", cases[i].what, (unsigned long long)room.bytes,
                     (unsigned long long)room.limit, room.text);
    }
}

static void this_machine_has_some(void **state)
{
    struct common_room room;

    (void)state;
    common_room(&room);
    assert_true(room.bytes > MIB && room.bytes <= room.limit);
    assert_int_equal(common_memory(), room.limit);
}

/* What is named as the most fits with the rest, and is no more than some MiB below what does not. */
static void the_most_fits(void **state)
{
    (void)state;
    for (uint64_t bytes = 128 * MIB; bytes <= 4096 * GIB; bytes *= 4) {
        struct common_need n = {.tensor_bytes = bytes / 3, .array_bytes = 12345};
        const struct common_room room = {.bytes = bytes};
        uint64_t most = common_need_most(&n, &room);

        if (common_need_bytes(&n) > bytes) {
            assert_int_equal(most, 0);
            continue;
        }
        n.device_bytes = most / 2;
        n.host_bytes = most - n.device_bytes;
        assert_true(common_need_bytes(&n) <= bytes);
        n.store_bytes = 8 * MIB;
        assert_true(common_need_bytes(&n) > bytes);
    }
}

static void tmpfs_is_memory(void **state)
{
    FILE *f = fopen("/proc/self/mounts", "re");
    char line[1024], dir[256], type[32];
    bool found = false;

    (void)state;
    assert_false(common_dir_in_memory("/proc"));
    assert_false(common_dir_in_memory("/nowhere at all"));
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "%*s %255s %31s", dir, type) == 2 && strcmp(type, "tmpfs") == 0 &&
                access(dir, X_OK) == 0;
    if (f)
        fclose(f);
    if (!found) {
        print_message("no tmpfs is mounted\n");
        skip();
    }
    assert_true(common_dir_in_memory(dir));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_is_found),
        cmocka_unit_test(this_machine_has_some),
        cmocka_unit_test(the_most_fits),
        cmocka_unit_test(tmpfs_is_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
