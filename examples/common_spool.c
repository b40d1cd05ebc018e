/* An array that grows into a file: see common_spool.h. */
#include "examples/common_spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/common_memory.h"

#define KEPT_BYTES (32ull << 20) /* of memory, where a file lies in that */

void common_spool_begin(struct common_spool *s, const char *what, size_t each,
                        const struct common_budget *budget)
{
    *s = (struct common_spool){.what = what, .each = each, .budget = budget, .fd = -1};
}

/* ---- the file ------------------------------------------------------------------ */

static int open_in(const char *dir)
{
    char path[4096];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    if (snprintf(path, sizeof path, "%s/ofl-XXXXXX", dir) >= (int)sizeof path)
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* The first directory of them that is not in memory, else the first that is. */
static int open_file(struct common_spool *s)
{
    const char *dirs[OFL_NVME_MAX + 4];
    size_t count = 0;

    for (uint32_t i = 0; s->budget && i < s->budget->nvme_count; i++)
        dirs[count++] = s->budget->nvme[i].dir;
    if (s->budget && s->budget->store.dir && access(s->budget->store.dir, F_OK) == 0)
        dirs[count++] = s->budget->store.dir;
    if (getenv("TMPDIR") && *getenv("TMPDIR"))
        dirs[count++] = getenv("TMPDIR");
    dirs[count++] = "/var/tmp";
    dirs[count++] = "/tmp";
    for (int memory = 0; memory < 2; memory++)
        for (size_t i = 0; i < count; i++) {
            if (common_dir_in_memory(dirs[i]) != (memory == 1))
                continue;
            s->fd = open_in(dirs[i]);
            if (s->fd < 0)
                continue;
            snprintf(s->dir, sizeof s->dir, "%s", dirs[i]);
            s->in_memory = memory == 1;
            return 0;
        }
    return common_fail(EXIT_RUNTIME,
                       "keep %s: no file can be made in %s: set TMPDIR to a directory on a drive", s->what,
                       dirs[0]);
}

/* Who fills a file in memory is killed without a word where that ends. */
static int check_room(const struct common_spool *s)
{
    struct common_room room;

    if (!s->in_memory)
        return 0;
    common_room(&room);
    if (room.bytes > s->buffered + KEPT_BYTES)
        return 0;
    return common_fail(EXIT_FULL,
                       "keep %s: %llu bytes so far go to %s, which lies in memory, and %s: set TMPDIR to a "
                       "directory on a drive",
                       s->what, (unsigned long long)(s->count * s->each), s->dir, room.text);
}

static int flush(struct common_spool *s)
{
    size_t done = 0;
    int status = s->fd < 0 ? open_file(s) : 0;

    if (status == 0)
        status = check_room(s);
    while (status == 0 && done < s->buffered) {
        ssize_t n = write(s->fd, s->buffer + done, s->buffered - done);

        if (n < 0 && errno != EINTR)
            status = common_fail(common_status_late(-errno),
                                 "keep %s: %llu bytes in %s: %s: set TMPDIR to a directory with more room",
                                 s->what, (unsigned long long)(s->count * s->each), s->dir, strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    s->buffered = 0;
    return status;
}

/* ---- the array ------------------------------------------------------------------- */

int common_spool_add(struct common_spool *s, const void *items, size_t count)
{
    const char *from = items;
    size_t bytes = count * s->each;

    if (!s->buffer && !(s->buffer = malloc(COMMON_SPOOL_BYTES)))
        return common_fail(EXIT_FULL, "keep %s: out of memory", s->what);
    s->count += count;
    while (bytes > 0) {
        size_t room = COMMON_SPOOL_BYTES - s->buffered, n = bytes < room ? bytes : room;

        memcpy(s->buffer + s->buffered, from, n);
        s->buffered += n;
        from += n;
        bytes -= n;
        if (s->buffered == COMMON_SPOOL_BYTES && bytes > 0) {
            int status = flush(s);

            if (status)
                return status;
        }
    }
    return 0;
}

int common_spool_end(struct common_spool *s, const void **items)
{
    void *map;
    int status;

    *items = s->buffer;
    if (s->fd < 0)
        return 0;
    status = flush(s);
    if (status)
        return status;
    map = mmap(NULL, s->count * s->each, PROT_READ, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED)
        return common_fail(EXIT_RUNTIME, "map %s, %llu bytes in %s: %s", s->what,
                           (unsigned long long)(s->count * s->each), s->dir, strerror(errno));
    s->map = map;
    s->map_bytes = s->count * s->each;
    free(s->buffer);
    s->buffer = NULL;
    *items = map;
    return 0;
}

void common_spool_free(struct common_spool *s)
{
    if (s->map)
        munmap(s->map, s->map_bytes);
    if (s->each && s->fd >= 0)
        close(s->fd);
    free(s->buffer);
    *s = (struct common_spool){.fd = -1};
}
