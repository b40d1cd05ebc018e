/* shape: see shape.h. */
#include "liboffload/core/shape.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "liboffload/core/slot.h"
#include "liboffload/core/tile.h"

#define SOURCE_TILE_LEAST (64u << 10)

/* The tiles, and behind them what is kept of them together. */
static int make_tiles(struct ofl_tensor *t)
{
    uint64_t tiles = t->tiles_count * sizeof *t->tiles;

    t->tiles = calloc(1, tiles + tile_sets_words(t) * sizeof(uint64_t));
    if (!t->tiles)
        return -ENOMEM;
    tile_sets_init(t, (uint64_t *)((char *)t->tiles + tiles));
    return 0;
}

static void cut(struct ofl_tensor *t, const struct base_dtype *d, uint64_t tile_bytes)
{
    t->tile_elems = tile_bytes / 4;
    if (d->block_bytes > 4 * d->block_elems)
        t->tile_elems = tile_bytes / d->block_bytes * d->block_elems;
    t->tile_elems -= t->tile_elems % d->block_elems;
    t->tile_bytes = t->tile_elems / d->block_elems * d->block_bytes;
}

/* Nothing is written back or updated: smaller ones cost little, and windows of them take less of the budget. */
static uint64_t source_tile(uint64_t tile_bytes)
{
    return tile_bytes > SOURCE_TILE_LEAST ? tile_bytes / 2 : tile_bytes;
}

static void cut_source(struct ofl_tensor *t, uint64_t tile_bytes, uint64_t file_off)
{
    t->tile_bytes = source_tile(tile_bytes);
    t->file_off = file_off;
    t->lead = file_off % CORE_HOST_ALIGN;
}

int pager_tensor_make(uint64_t tile_bytes, const struct ofl_tensor_desc *desc, const uint64_t *file_off,
                      struct ofl_tensor **out)
{
    const uint32_t flags = OFL_TENSOR_TRANSIENT | OFL_TENSOR_KEPT; /* not both */
    const struct base_dtype *d = base_dtype(desc->dtype);
    uint64_t bytes = 0, tiles;
    struct ofl_tensor *t;

    *out = NULL;
    if (!d || desc->elems == 0 || (unsigned)desc->kind >= OFL_KINDS || (desc->flags & ~flags) ||
        (desc->flags & flags) == flags)
        return base_fail(-EINVAL, "create %s: dtype %d, kind %d, %llu elements, flags 0x%x: not a tensor",
                         desc->name, (int)desc->dtype, (int)desc->kind, (ull)desc->elems, desc->flags);
    switch (base_dtype_bytes(d, desc->elems, &bytes)) {
    case 0:
        break;
    case -EOVERFLOW:
        return base_fail(-EOVERFLOW, "create %s: %llu elements of %s: more than any memory", desc->name,
                         (ull)desc->elems, d->name);
    default:
        return base_fail(-EINVAL, "create %s: %llu elements of %s: not whole blocks of %u", desc->name,
                         (ull)desc->elems, d->name, d->block_elems);
    }
    t = calloc(1, sizeof *t);
    if (!t || !(t->name = strdup(desc->name))) {
        free(t);
        return base_fail(-ENOMEM, "create %s: out of memory", desc->name);
    }
    t->kind = desc->kind;
    t->dtype = desc->dtype;
    t->flags = desc->flags;
    t->elems = desc->elems;
    t->bytes = bytes;
    if (file_off)
        cut_source(t, tile_bytes, *file_off);
    else
        cut(t, d, tile_bytes);
    tiles = (t->lead + t->bytes + t->tile_bytes - 1) / t->tile_bytes;
    if (tiles > UINT32_MAX) {
        base_fail(-EOVERFLOW, "create %s: %llu tiles of %llu bytes: at most %u are possible", desc->name,
                  (ull)tiles, (ull)t->tile_bytes, UINT32_MAX);
        pager_tensor_free(t);
        return -EOVERFLOW;
    }
    t->tiles_count = (uint32_t)tiles;
    t->fill_seq = SCHED_NEVER;
    t->id = UINT32_MAX;
    if (make_tiles(t) < 0) {
        pager_tensor_free(t);
        return base_fail(-ENOMEM, "create %s: %llu tiles: out of memory", desc->name, (ull)tiles);
    }
    if ((t->flags & OFL_TENSOR_KEPT) && slot_make(t) < 0) {
        pager_tensor_free(t);
        return -ENOMEM;
    }
    *out = t;
    return 0;
}

void pager_tensor_free(struct ofl_tensor *t)
{
    if (!t)
        return;
    pager_error_free(t->lost);
    pager_error_free(t->ruin);
    slot_free(t);
    free(t->tiles);
    free(t->name);
    free(t);
}
