/* tile_zero: a tile that was never written, as zeros in host memory: for who has bytes for a part of it alone. See
 * tile.h. */
#include <assert.h>

#include "liboffload/core/tile.h"

bool tile_zero_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim)
{
    struct core_op *op;

    assert(!t->tiles[tile].stored && t->tiles[tile].state == TILE_NONE && !t->source);
    op = tile_arrive(p, t, tile, OP_ZERO, claim);
    if (!op)
        return false;
    p->env.zero(p->env.arg, tile_ptr(p, t, tile), tile_count_bytes(t, tile), op);
    return true;
}

/* Its zeros are in no other place. */
void tile_zero_done(struct pager *p, const struct core_op *op)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    pager_moves(p, t, -1);
    if (op->tile >= t->home_tiles)
        p->arriving_bytes -= x->len;
    x->state = TILE_VALID;
    tile_set_dirty(p, t, op->tile, true);
    if (x->stale)
        tile_drop(p, t, op->tile);
}
