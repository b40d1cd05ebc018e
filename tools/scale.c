/*
 * scale: what calls of the library cost, and whether that grows with the number of tensors and tiles. On the
 * public header alone, so that the same source measures any build: see scale.sh, which compiles it.
 *
 *     scale resident|evict|create|tiles N   prints nanoseconds: the median of each call, or, for tiles, those of
 *                                           the engine thread and of the caller for one tile moved
 *     scale drive DIR                       prints GB/s through a store there, and how busy the engine thread was,
 *                                           in percent, as it was and at 2.5 GB/s
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "include/offload.h"

#define CHECK(call)                                                                                          \
    do {                                                                                                     \
        int code_ = (call);                                                                                  \
        if (code_ < 0) {                                                                                     \
            fprintf(stderr, "%s: %d %s\n", #call, code_, ofl_error());                                       \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define TILE (64u << 10)

static struct ofl_ctx *ctx;
static struct ofl_stream *stream;
static struct ofl_tensor **tensors;

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

/* The line of a file that starts so: the figure behind that. 0: there is none. */
static uint64_t figure(const char *path, const char *start)
{
    FILE *f = fopen(path, "r");
    char line[256];
    uint64_t n = 0;

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, start, strlen(start)) == 0 && sscanf(line + strlen(start), "%lu", &n) == 1)
            break;
    if (f)
        fclose(f);
    return n;
}

/* CPU time of the thread of that name, and how often it has gone to sleep. */
static struct thread_use {
    uint64_t ns, sleeps;
} thread_use(const char *name)
{
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    struct thread_use use = {0};

    while (d && (e = readdir(d))) {
        char path[320], comm[32] = "";
        FILE *f;

        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        f = fopen(path, "r");
        if (!f || !fgets(comm, sizeof comm, f))
            comm[0] = '\0';
        if (f)
            fclose(f);
        comm[strcspn(comm, "\n")] = '\0';
        if (strcmp(comm, name) != 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", e->d_name);
        use.ns = figure(path, "");
        snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
        use.sleeps = figure(path, "voluntary_ctxt_switches:");
    }
    if (d)
        closedir(d);
    return use;
}

static void open_ctx(uint64_t device, uint64_t host)
{
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = device,
                           .host_bytes = host,
                           .leased_bytes = device, /* nothing lives on the device */
                           .tile_bytes = TILE,
                           .workers = 1};

    CHECK(ofl_open(&c, &ctx));
    CHECK(ofl_stream_create(ctx, &stream));
}

static void create(size_t n, uint64_t bytes, uint64_t *ns)
{
    tensors = calloc(n, sizeof *tensors);
    for (size_t i = 0; i < n; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d, .name = "t", .dtype = OFL_U32, .elems = bytes / 4};
        uint64_t start = now_ns(CLOCK_MONOTONIC);

        CHECK(ofl_tensor_create(ctx, &d, &tensors[i]));
        if (ns)
            ns[i] = now_ns(CLOCK_MONOTONIC) - start;
    }
}

/* A step that leases each tensor once. ns: time of each acquire and release. */
static void step(size_t n, enum ofl_mode mode, uint64_t *ns, int wait)
{
    CHECK(ofl_step_begin(ctx, "step"));
    for (size_t i = 0; i < n; i++) {
        struct ofl_lease l = {.tensor = tensors[i], .mode = mode};
        uint64_t start = now_ns(CLOCK_MONOTONIC);

        CHECK(ofl_acquire(ctx, &l, 1, stream));
        CHECK(ofl_release(ctx, &l, 1, stream));
        if (ns)
            ns[i] = now_ns(CLOCK_MONOTONIC) - start;
        if (wait)
            CHECK(ofl_stream_sync(stream));
    }
    CHECK(ofl_step_end(ctx));
    CHECK(ofl_stream_sync(stream));
}

static void resident(size_t n)
{
    size_t rounds = n < 20000 ? 20000 / n + 2 : 3;
    uint64_t *ns = calloc(n * rounds, sizeof *ns);

    open_ctx(n * 256 + (1u << 20), n * 4096 + (8u << 20));
    create(n, 64, NULL);
    step(n, OFL_READ, NULL, 0);
    step(n, OFL_READ, NULL, 0);
    for (size_t r = 0; r < rounds; r++)
        step(n, OFL_READ, ns + r * n, 0);
    printf("%lu\n", (unsigned long)median(ns, n * rounds));
}

static void evict(size_t n)
{
    size_t rounds = n < 5000 ? 5000 / n + 2 : 2;
    uint64_t *ns = calloc(n * rounds, sizeof *ns);

    open_ctx(n / 2 * 256, n * 4096 + (8u << 20));
    create(n, 64, NULL);
    for (int i = 0; i < 3; i++) /* recorded, solved, turned to */
        step(n, OFL_UPDATE, NULL, 1);
    for (size_t r = 0; r < rounds; r++)
        step(n, OFL_UPDATE, ns + r * n, 1);
    printf("%lu\n", (unsigned long)median(ns, n * rounds));
}

static void creation(size_t n)
{
    uint64_t *ns = calloc(n, sizeof *ns);

    open_ctx(64u << 20, n * 4096 + (8u << 20));
    create(n, 64, ns);
    printf("%lu\n", (unsigned long)median(ns + n / 2, n - n / 2));
}

/* Tensors of 16 tiles each, which live in host memory, through a device that holds few of them. */
static void tiles(size_t n)
{
    size_t count = n / 16, rounds = n < 20000 ? 20000 / n + 1 : 2;
    uint64_t engine, caller;

    open_ctx(16u << 20, n * TILE + (8u << 20));
    create(count, 16 * TILE, NULL);
    step(count, OFL_UPDATE, NULL, 0);
    step(count, OFL_UPDATE, NULL, 0);
    engine = thread_use("ofl-engine").ns;
    caller = now_ns(CLOCK_THREAD_CPUTIME_ID);
    for (size_t r = 0; r < rounds; r++)
        step(count, OFL_UPDATE, NULL, 0);
    engine = thread_use("ofl-engine").ns - engine;
    caller = now_ns(CLOCK_THREAD_CPUTIME_ID) - caller;
    printf("%lu %lu\n", (unsigned long)(engine / (2 * rounds * n)),
           (unsigned long)(caller / (2 * rounds * n)));
}

/* 2 GiB of tensors, sealed tiles of the size that the library chooses, through a store and back. */
static void drive(const char *dir)
{
    struct ofl_nvme nvme = {.dir = dir, .bytes = 3ull << 30};
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = 256u << 20,
                           .host_bytes = 512u << 20,
                           .leased_bytes = 256u << 20,
                           .nvme = &nvme,
                           .nvme_count = 1,
                           .flags = OFL_NO_MEASURE};
    struct ofl_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    struct thread_use from, to;
    uint64_t start;
    double seconds, gb, ms;

    CHECK(ofl_open(&c, &ctx));
    CHECK(ofl_stream_create(ctx, &stream));
    create(64, 32u << 20, NULL);
    step(64, OFL_UPDATE, NULL, 0);
    CHECK(ofl_stats_get(ctx, &before));
    from = thread_use("ofl-engine");
    start = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < 3; i++)
        step(64, OFL_UPDATE, NULL, 0);
    to = thread_use("ofl-engine");
    seconds = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    CHECK(ofl_stats_get(ctx, &after));
    gb = (double)(after.nvme_read_bytes + after.nvme_write_bytes - before.nvme_read_bytes -
                  before.nvme_write_bytes) /
         1e9;
    ms = (double)(to.ns - from.ns) / 1e6;
    printf("%.2f GB/s, tiles of %lu KiB, for each GB the engine thread ran %.2f ms and slept %.0f times; "
           "%.2f %% busy, %.2f %% at 2.5 GB/s\n",
           gb / seconds, (unsigned long)(after.tile_bytes >> 10), ms / gb,
           (double)(to.sleeps - from.sleeps) / gb, ms / 10 / seconds, ms / 10 / gb * 2.5);
}

int main(int argc, char **argv)
{
    size_t n = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

    if (argc == 3 && strcmp(argv[1], "drive") == 0) {
        drive(argv[2]);
        CHECK(ofl_close(ctx));
        return 0;
    }

    if (n < 16)
        return fprintf(stderr,
                       "usage: scale resident|evict|create|tiles N (16 or more), or scale drive DIR\n"),
               2;
    if (strcmp(argv[1], "resident") == 0)
        resident(n);
    else if (strcmp(argv[1], "evict") == 0)
        evict(n);
    else if (strcmp(argv[1], "create") == 0)
        creation(n);
    else if (strcmp(argv[1], "tiles") == 0)
        tiles(n);
    else
        return fprintf(stderr, "scale: unknown measurement %s\n", argv[1]), 2;
    CHECK(ofl_close(ctx));
    return 0;
}
