/* What is seen of file systems: see fs_seen.h. */
#include "tests/fs_seen.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB (1u << 20)

/* ---- pages ---------------------------------------------------------------- */

/* -1: may not be counted. For this process and all threads that it starts from now on, the kernel's too. */
static int count_open(int file)
{
    static const char *const places[] = {
        "/sys/kernel/tracing/events/filemap/mm_filemap_add_to_page_cache/id",
        "/sys/kernel/debug/tracing/events/filemap/mm_filemap_add_to_page_cache/id"};
    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr, .inherit = 1};
    unsigned long long id = 0;
    char filter[64];
    struct stat s;
    int fd;

    for (unsigned i = 0; i < 2 && id == 0; i++) {
        FILE *f = fopen(places[i], "re");

        if (f && fscanf(f, "%llu", &id) != 1)
            id = 0;
        if (f)
            fclose(f);
    }
    attr.config = id;
    if (id == 0 || fstat(file, &s) < 0)
        return -1;
    fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    snprintf(filter, sizeof filter, "i_ino==%llu", (unsigned long long)s.st_ino);
    if (fd >= 0 && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void count_take(int fd, struct fs_seen *out)
{
    uint64_t pages = 0;

    out->pages_known = fd >= 0 && read(fd, &pages, sizeof pages) == sizeof pages;
    out->pages = pages;
    if (fd >= 0)
        close(fd);
}

static uint64_t resident_bytes(int fd)
{
    unsigned char *seen = NULL;
    uint64_t pages = 0, bytes;
    void *map = MAP_FAILED;
    struct stat s;

    if (fd >= 0 && fstat(fd, &s) == 0 && s.st_size > 0) {
        bytes = (uint64_t)s.st_size;
        map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        seen = calloc(1, bytes / 4096 + 1);
        if (map != MAP_FAILED && seen && mincore(map, bytes, seen) == 0)
            for (uint64_t i = 0; i < bytes / 4096; i++)
                pages += seen[i] & 1;
        if (map != MAP_FAILED)
            munmap(map, bytes);
    }
    free(seen);
    return pages * 4096;
}

static uint64_t resident_bytes_at(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t bytes = resident_bytes(fd);

    if (fd >= 0)
        close(fd);
    return bytes;
}

static void drop_pages(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return;
    if (fdatasync(fd) == 0)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/* ---- memory ----------------------------------------------------------------- */

/* Of all tmpfs below root, which are nobody else's, and of all compressed drives. */
static uint64_t memory_taken(const char *root)
{
    char line[4096], point[2048], type[32], path[64];
    FILE *f = fopen("/proc/self/mountinfo", "re");
    unsigned long long used;
    uint64_t bytes = 0;
    struct statvfs fs;

    while (f && fgets(line, sizeof line, f)) {
        const char *rest = strstr(line, " - ");

        if (rest && sscanf(line, "%*s %*s %*s %*s %2047s", point) == 1 &&
            sscanf(rest, " - %31s", type) == 1 && strcmp(type, "tmpfs") == 0 &&
            strncmp(point, root, strlen(root)) == 0 && statvfs(point, &fs) == 0)
            bytes += (uint64_t)(fs.f_blocks - fs.f_bfree) * fs.f_frsize;
    }
    if (f)
        fclose(f);
    for (unsigned i = 0; i < 16; i++) {
        snprintf(path, sizeof path, "/sys/block/zram%u/mm_stat", i);
        f = fopen(path, "re");
        if (f && fscanf(f, "%*u %*u %llu", &used) == 1)
            bytes += used;
        if (f)
            fclose(f);
    }
    return bytes;
}

static uint64_t free_bytes(const char *dir)
{
    struct statvfs fs;

    return statvfs(dir, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

/* ---- loads -------------------------------------------------------------------- */

static uint64_t word_at(uint64_t offset, uint64_t round)
{
    uint64_t x = (offset + 1) * 0x9e3779b97f4a7c15u + round;

    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    return x ^ x >> 32;
}

/* Words that can't be compressed, and differ between rounds. */
static void fill(uint64_t *words, uint64_t offset, uint64_t bytes, uint64_t round)
{
    for (uint64_t i = 0; i < bytes / 8; i++)
        words[i] = word_at(offset + i, round);
}

static int one(struct io_queue *q, struct io_file *f, enum io_op op, void *buf, uint64_t offset,
               uint64_t bytes)
{
    struct io_request r = {
        .op = op, .class = IO_DEMAND, .file = f, .buf = buf, .offset = offset, .bytes = bytes};
    struct io_request *done;

    io_submit(q, &r);
    while (io_queue_pending(q))
        (void)io_wait(q, &done, 1, 100000000);
    return r.error.code;
}

/* Bytes that found no space. */
static uint64_t write_all(struct io_queue *q, struct io_file *f, uint64_t bytes, uint64_t round)
{
    uint64_t *buf = aligned_alloc(4096, 4 * MIB), failed = 0, n;

    if (!buf)
        return bytes;
    for (uint64_t at = 0; at < bytes; at += n) {
        n = bytes - at < 4 * MIB ? bytes - at : 4 * MIB;
        fill(buf, at, n, round);
        if (one(q, f, IO_WRITE, buf, at, n) < 0)
            failed += n;
    }
    /* what a file system put off may fail now */
    if (io_file_sync(f) < 0 && failed == 0)
        failed = bytes;
    free(buf);
    return failed;
}

/* Each time into memory that has no pages yet. false if it is not what was written in `round`; 0: not compared. */
static bool read_all(struct io_queue *q, struct io_file *f, uint64_t bytes, uint64_t round)
{
    bool same = true;
    uint64_t n;

    for (uint64_t at = 0; at < bytes && same; at += n) {
        uint64_t *buf = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        n = bytes - at < 4 * MIB ? bytes - at : 4 * MIB;
        if (buf == MAP_FAILED)
            return false;
        same = one(q, f, IO_READ, buf, at, n) == 0;
        for (uint64_t i = 0; same && round && i < n / 8; i++)
            same = buf[i] == word_at(at + i, round);
        munmap(buf, 4 * MIB);
    }
    return same;
}

/* Takes all that is free, as somebody else would: on a file system that was made for this. Elsewhere others need
 * the room, other tests among them. */
static int fill_up(const char *dir, bool *filled)
{
    int fd = free_bytes(dir) <= 1024 * MIB ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
    off_t at = 0;

    *filled = false;
    if (fd < 0)
        return -1;
    for (off_t step = 64 * MIB; step >= 4096; step /= 4)
        while (fallocate(fd, 0, at, step) == 0)
            at += step;
    *filled = errno == ENOSPC || errno == EDQUOT;
    return fd;
}

static int with_engine(enum io_engine engine, struct io_file *f, uint64_t bytes, uint64_t round,
                       struct fs_seen *out)
{
    struct io_queue_config config = {.engine = engine};
    struct io_queue *q;
    int rc = io_queue_open(&config, &q);

    if (rc < 0)
        return rc;
    out->failed_bytes += write_all(q, f, bytes, round);
    out->wrong |= out->failed_bytes == 0 && !read_all(q, f, bytes, round);
    io_queue_close(q);
    return 0;
}

int fs_seen_scratch(struct io_file *f, const char *dir, const struct fs_below *below, uint64_t bytes,
                    struct fs_seen *out)
{
    uint64_t free_before = free_bytes(dir), memory_before = memory_taken(below->root), after;
    int counter, filler, rc;

    *out = (struct fs_seen){0};
    if ((rc = io_file_reserve(f, bytes)) < 0)
        return rc;
    (void)syncfs(io_file_fd(f, 0)); /* btrfs tells it with the next transaction */
    after = free_bytes(dir);
    out->taken_bytes = after < free_before ? free_before - after : 0;
    filler = fill_up(dir, &out->filled);
    if (below->backing)
        drop_pages(below->backing);
    counter = count_open(io_file_fd(f, 0));
    rc = with_engine(IO_ENGINE_AUTO, f, bytes, 1, out);
    if (rc == 0)
        rc = with_engine(IO_ENGINE_THREADS, f, bytes, 2, out);
    count_take(counter, out);
    out->left_bytes = resident_bytes(io_file_fd(f, 0));
    if (below->backing)
        out->backing_bytes = resident_bytes_at(below->backing);
    if (filler >= 0)
        close(filler);
    after = memory_taken(below->root);
    out->memory_bytes = after > memory_before ? after - memory_before : 0;
    return rc;
}

int fs_seen_read(struct io_file *f, struct fs_seen *out)
{
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    struct io_queue *q;
    int counter, rc;

    *out = (struct fs_seen){0};
    (void)posix_fadvise(io_file_fd(f, 0), 0, 0, POSIX_FADV_DONTNEED);
    counter = count_open(io_file_fd(f, 0));
    rc = io_queue_open(&config, &q);
    if (rc == 0) {
        out->wrong = !read_all(q, f, io_file_bytes(f), 0);
        io_queue_close(q);
    }
    count_take(counter, out);
    return rc;
}
