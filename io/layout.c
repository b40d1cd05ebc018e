/* Layouts: see layout.h. */
#include "io/layout.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define BATCH 256u
#define MOST  16384u /* extents that are looked at */

/* What has no address yet, or none of its own. */
#define NOWHERE                                                                                              \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_INLINE)

/* Extents from byte `from` on, at most `most`. Their number, or -errno. */
static int ask(int fd, uint64_t from, struct fiemap_extent *out, unsigned most)
{
    struct fiemap *map = calloc(1, sizeof *map + most * sizeof *out);
    int rc;

    if (!map)
        return -ENOMEM;
    map->fm_start = from;
    map->fm_length = UINT64_MAX - from;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = most;
    rc = ioctl(fd, FS_IOC_FIEMAP, map) < 0 ? -errno : (int)map->fm_mapped_extents;
    if (rc > 0)
        memcpy(out, map->fm_extents, (size_t)rc * sizeof *out);
    free(map);
    return rc;
}

static uint64_t end_of(const struct fiemap_extent *e)
{
    return e->fe_logical + e->fe_length;
}

int io_layout_get(int fd, uint64_t bytes, struct io_layout *out)
{
    uint64_t from = 0;
    int count = 1;

    *out = (struct io_layout){0};
    while (count > 0 && from < bytes) {
        struct fiemap_extent *more = realloc(out->extents, (out->count + BATCH) * sizeof *more);

        if (more)
            out->extents = more;
        count = !more ? -ENOMEM : out->count >= MOST ? -E2BIG : ask(fd, from, more + out->count, BATCH);
        if (count <= 0)
            break;
        out->count += (unsigned)count;
        from = end_of(&out->extents[out->count - 1]);
        if (out->extents[out->count - 1].fe_flags & FIEMAP_EXTENT_LAST)
            break;
    }
    if (count < 0)
        io_layout_free(out);
    return count < 0 ? count : 0;
}

void io_layout_free(struct io_layout *l)
{
    free(l->extents);
    *l = (struct io_layout){0};
}

uint64_t io_layout_common(const struct io_layout *a, const struct io_layout *b, uint64_t bytes)
{
    uint64_t common = 0;

    for (unsigned i = 0, k = 0; i < a->count && k < b->count;) {
        const struct fiemap_extent *x = &a->extents[i], *y = &b->extents[k];
        uint64_t from = x->fe_logical > y->fe_logical ? x->fe_logical : y->fe_logical,
                 to = end_of(x) < end_of(y) ? end_of(x) : end_of(y);

        if (to > bytes)
            to = bytes;
        if (from < to && !((x->fe_flags | y->fe_flags) & NOWHERE) &&
            x->fe_physical - x->fe_logical == y->fe_physical - y->fe_logical)
            common += to - from;
        if (end_of(x) < end_of(y))
            i++;
        else
            k++;
    }
    return common;
}

bool io_layout_address(int fd, uint64_t *address)
{
    struct fiemap_extent e;

    if (ask(fd, 0, &e, 1) != 1 || e.fe_logical != 0 || (e.fe_flags & NOWHERE))
        return false;
    *address = e.fe_physical;
    return true;
}

bool io_layout_encoded(int fd)
{
    struct fiemap_extent list[BATCH];
    uint64_t from = 0;
    int count;

    for (unsigned seen = 0; seen < MOST; seen += (unsigned)count) {
        count = ask(fd, from, list, BATCH);
        if (count <= 0)
            return false;
        for (int i = 0; i < count; i++)
            if (list[i].fe_flags & (FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_INLINE))
                return true;
        if (list[count - 1].fe_flags & FIEMAP_EXTENT_LAST)
            return false;
        from = end_of(&list[count - 1]);
    }
    return false;
}
