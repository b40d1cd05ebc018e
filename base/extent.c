/* extent: see extent.h. Free ranges as an array sorted by offset, neighbours always merged. */
#include "base/extent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct range {
    uint64_t offset, bytes;
};

struct base_extents {
    uint64_t span, free;
    size_t count, room;
    struct range *ranges;
};

int base_extents_create(uint64_t span_bytes, struct base_extents **out)
{
    struct base_extents *x = calloc(1, sizeof *x);

    *out = NULL;
    if (!x || !(x->ranges = malloc(16 * sizeof *x->ranges))) {
        free(x);
        return base_fail(-ENOMEM, "create range allocator: out of memory");
    }
    x->room = 16;
    x->span = x->free = span_bytes;
    if (span_bytes) {
        x->count = 1;
        x->ranges[0] = (struct range){0, span_bytes};
    }
    *out = x;
    return 0;
}

void base_extents_destroy(struct base_extents *x)
{
    if (!x)
        return;
    free(x->ranges);
    free(x);
}

static void remove_at(struct base_extents *x, size_t i)
{
    x->count--;
    memmove(&x->ranges[i], &x->ranges[i + 1], (x->count - i) * sizeof *x->ranges);
}

uint64_t base_extents_take(struct base_extents *x, uint64_t bytes)
{
    size_t best = x->count;
    uint64_t offset;

    for (size_t i = 0; i < x->count; i++) {
        uint64_t have = x->ranges[i].bytes;

        if (have >= bytes && (best == x->count || have < x->ranges[best].bytes))
            best = i;
        if (have == bytes)
            break;
    }
    if (best == x->count || bytes == 0)
        return BASE_EXTENT_NONE;
    offset = x->ranges[best].offset;
    x->ranges[best].offset += bytes;
    x->ranges[best].bytes -= bytes;
    if (x->ranges[best].bytes == 0)
        remove_at(x, best);
    x->free -= bytes;
    return offset;
}

/* Index of the first range at or after offset. */
static size_t position(const struct base_extents *x, uint64_t offset)
{
    size_t low = 0, high = x->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (x->ranges[mid].offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int insert(struct base_extents *x, uint64_t offset, uint64_t bytes)
{
    size_t i = position(x, offset);
    int left = i > 0 && x->ranges[i - 1].offset + x->ranges[i - 1].bytes == offset;
    int right = i < x->count && offset + bytes == x->ranges[i].offset;

    if (left && right) {
        x->ranges[i - 1].bytes += bytes + x->ranges[i].bytes;
        remove_at(x, i);
    } else if (left) {
        x->ranges[i - 1].bytes += bytes;
    } else if (right) {
        x->ranges[i].offset = offset;
        x->ranges[i].bytes += bytes;
    } else {
        if (x->count == x->room) {
            struct range *more = realloc(x->ranges, 2 * x->room * sizeof *more);

            if (!more)
                return base_fail(-ENOMEM, "free a range of %llu bytes: out of memory",
                                 (unsigned long long)bytes);
            x->ranges = more;
            x->room *= 2;
        }
        memmove(&x->ranges[i + 1], &x->ranges[i], (x->count - i) * sizeof *x->ranges);
        x->ranges[i] = (struct range){offset, bytes};
        x->count++;
    }
    x->free += bytes;
    return 0;
}

int base_extents_give(struct base_extents *x, uint64_t offset, uint64_t bytes)
{
    if (offset >= x->span)
        return 0; /* the span was shortened meanwhile */
    return insert(x, offset, bytes < x->span - offset ? bytes : x->span - offset);
}

int base_extents_grow(struct base_extents *x, uint64_t span_bytes)
{
    int err;

    if (span_bytes <= x->span)
        return 0;
    err = insert(x, x->span, span_bytes - x->span);
    if (err == 0)
        x->span = span_bytes;
    return err;
}

void base_extents_shrink(struct base_extents *x, uint64_t span_bytes)
{
    while (x->count && x->ranges[x->count - 1].offset + x->ranges[x->count - 1].bytes > span_bytes) {
        struct range *last = &x->ranges[x->count - 1];
        uint64_t kept = last->offset < span_bytes ? span_bytes - last->offset : 0;

        x->free -= last->bytes - kept;
        last->bytes = kept;
        if (kept)
            break;
        x->count--;
    }
    if (span_bytes < x->span)
        x->span = span_bytes;
}

uint64_t base_extents_free_bytes(const struct base_extents *x)
{
    return x->free;
}

uint64_t base_extents_tail(const struct base_extents *x)
{
    const struct range *last = x->count ? &x->ranges[x->count - 1] : NULL;

    return last && last->offset + last->bytes == x->span ? last->bytes : 0;
}

uint64_t base_extents_largest(const struct base_extents *x)
{
    uint64_t largest = 0;

    for (size_t i = 0; i < x->count; i++)
        if (x->ranges[i].bytes > largest)
            largest = x->ranges[i].bytes;
    return largest;
}
