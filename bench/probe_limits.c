/*
 * ofl-bench probe: limits of this process, and whether io_uring works here. What a limit
 * means is said where it is printed.
 */
#include "bench/probe_limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "bench/probe_text.h"
#include "io/io.h"

#define REGISTER_BYTES  (64 * MIB) /* about what a context's host memory begins with */
#define CAP_IPC_LOCK_AT 14         /* of linux/capability.h */

static bool exempt_from_memlock(void)
{
    char text[64];

    return probe_find("/proc/self/status", "CapEff", text, sizeof text) &&
           (strtoull(text, NULL, 16) >> CAP_IPC_LOCK_AT & 1);
}

/* The soft limit; null in JSON if there is none. */
static json_t *limit_json(int resource, uint64_t *value)
{
    struct rlimit l = {.rlim_cur = RLIM_INFINITY};

    (void)getrlimit(resource, &l); /* can't fail: the resources exist */
    *value = l.rlim_cur == RLIM_INFINITY ? UINT64_MAX : l.rlim_cur;
    return probe_json_number(*value != UINT64_MAX, *value);
}

static void print_memlock(uint64_t bytes, bool exempt)
{
    struct common_text t = common_bytes(bytes);

    if (bytes == UINT64_MAX)
        probe_line(0, "locked memory", "unlimited");
    else if (exempt)
        probe_line(0, "locked memory", "%s (ulimit -l), which does not bind this process: CAP_IPC_LOCK",
                   t.text);
    else
        probe_line(0, "locked memory",
                   "%s (ulimit -l): larger buffers are not registered with io_uring, and cost more CPU",
                   t.text);
}

static json_t *probe_rlimits(void)
{
    uint64_t memlock, file_size, files;
    bool exempt = exempt_from_memlock();
    json_t *limits =
        json_pack("{s:o, s:b, s:o, s:o}", "locked_memory_bytes", limit_json(RLIMIT_MEMLOCK, &memlock),
                  "locked_memory_exempt", exempt, "file_size_bytes", limit_json(RLIMIT_FSIZE, &file_size),
                  "open_files", limit_json(RLIMIT_NOFILE, &files));

    print_memlock(memlock, exempt);
    if (file_size == UINT64_MAX)
        probe_line(0, "file size", "unlimited");
    else
        probe_line(0, "file size", "%s (ulimit -f): no store, and no test file, can be larger",
                   common_bytes(file_size).text);
    if (files == UINT64_MAX)
        probe_line(0, "open files", "unlimited");
    else
        probe_line(0, "open files", "%llu (ulimit -n)", (ull)files);
    return limits;
}

/* Tries it, since a limit doesn't tell how much of it is used already. */
static json_t *probe_registration(struct io_queue *q)
{
    void *p = mmap(NULL, REGISTER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool works = p != MAP_FAILED && io_queue_register(q, p, REGISTER_BYTES) == 0;
    const char *why = works ? "" : p == MAP_FAILED ? "out of memory" : base_error_text();

    if (works)
        probe_line(0, "buffers", "can be registered with io_uring: tried with %s",
                   common_bytes(REGISTER_BYTES).text);
    else
        probe_line(0, "buffers", "can't be registered with io_uring: %s", why);
    return json_pack("{s:b, s:o, s:o}", "works", works, "tried_bytes", json_integer(REGISTER_BYTES), "reason",
                     probe_json_text(why));
}

static json_t *probe_uring(void)
{
    const struct io_queue_config config = {.engine = IO_ENGINE_URING};
    json_t *uring = json_object(), *buffers = json_null();
    char disabled[32], reason[BASE_ERROR_TEXT] = "";
    struct io_queue *q = NULL;
    struct probe_list l = {0};
    bool works = io_queue_open(&config, &q) == 0;

    if (!works)
        snprintf(reason, sizeof reason, "%s", base_error_text());
    probe_read(disabled, sizeof disabled, "/proc/sys/kernel/io_uring_disabled");
    if (works)
        probe_add(&l, "works");
    else
        probe_add(&l, "does not work: %s", reason);
    if (disabled[0])
        probe_add(&l, "kernel.io_uring_disabled is %s", disabled);
    probe_line(0, "io_uring", "%s", l.text);
    if (!works)
        probe_line(0, "", "transfers go through a pool of threads instead");
    if (works)
        buffers = probe_registration(q);
    io_queue_close(q);
    json_object_set_new(uring, "works", json_boolean(works));
    json_object_set_new(uring, "reason", probe_json_text(reason));
    json_object_set_new(uring, "disabled", disabled[0] ? json_integer(atoi(disabled)) : json_null());
    json_object_set_new(uring, "registered_buffers", buffers);
    return uring;
}

void probe_limits(json_t *report)
{
    probe_title("Limits");
    json_object_set_new(report, "limits", probe_rlimits());
    json_object_set_new(report, "io_uring", probe_uring());
}
