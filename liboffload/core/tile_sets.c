/*
 * tile_sets: the sets of a tensor's tiles by which what could leave, and what is missing, is found, and what the
 * scheduler is told of them; and how much of the arena is taken. See tile.h.
 */
#include "liboffload/core/tile.h"

#include "liboffload/core/slot.h"

/* ---- who could leave --------------------------------------------------- */

#define TILE_SETS 6u

uint64_t tile_sets_words(const struct ofl_tensor *t)
{
    return TILE_SETS * base_bits_words(t->tiles_count);
}

void tile_sets_init(struct ofl_tensor *t, uint64_t *words)
{
    struct base_bits *sets[TILE_SETS] = {&t->clean, &t->dirty, &t->missing,
                                         &t->ahead, &t->spent, &t->passing};

    for (uint32_t i = 0; i < TILE_SETS; i++)
        base_bits_init(sets[i], t->tiles_count, words + i * base_bits_words(t->tiles_count));
    t->rest = t->tiles_count;
}

static void offer(struct pager *p, const struct ofl_tensor *t, enum sched_set set, bool offered)
{
    if (offered)
        sched_offer(p->sched, set, t->id);
    else
        sched_withdraw(p->sched, set, t->id);
}

void tile_offer(struct pager *p, struct ofl_tensor *t)
{
    if (!t->added)
        return;
    offer(p, t, SCHED_CLEAN, t->clean.count && !t->filling);
    offer(p, t, SCHED_FILLING, t->clean.count && t->filling);
    offer(p, t, SCHED_DIRTY, t->dirty.count);
    offer(p, t, SCHED_SPENT, t->spent.count);
    offer(p, t, SCHED_PASSING, t->passing.count);
}

/* Which of the sets have members. */
static unsigned members(const struct ofl_tensor *t)
{
    return (t->clean.count ? 1u : 0) | (t->dirty.count ? 2u : 0) | (t->spent.count ? 4u : 0) |
           (t->passing.count ? 8u : 0);
}

static void sort_tile(const struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    const struct core_tile *x = &t->tiles[tile];
    bool idle = x->state == TILE_VALID && !x->pins && !x->writing;
    bool kept = tile < tile_rest_of(t, tile) || base_bits_has(&t->ahead, tile) || x->wanted;
    bool held = x->dirty && slot_held(p, t, tile);

    base_bits_put(&t->clean, tile, idle && !x->wanted && !x->dirty);
    base_bits_put(&t->dirty, tile, idle && x->dirty && !held);
    base_bits_put(&t->missing, tile, x->state == TILE_NONE && x->stored);
    base_bits_put(&t->spent, tile, idle && !x->dirty && !kept);
    base_bits_put(&t->passing, tile, idle && x->dirty && !kept && !held);
    if (held)
        t->keep->held = true;
}

void tile_touched(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    unsigned before = members(t);

    pager_look(p, t);
    if (tile < t->home_tiles)
        return;
    sort_tile(p, t, tile);
    if (members(t) != before)
        tile_offer(p, t);
}

uint32_t tile_rest_planned(const struct pager *p, const struct ofl_tensor *t)
{
    struct sched_rest rest = sched_rest_now(p->sched, t->id);

    /* Where what lies below is not to be written, tiles go when the device's copy is there, or has served. */
    return !sched_solved(p->sched) || rest.alone ? t->tiles_count : rest.tiles;
}

static void sort_tiles(struct pager *p, struct ofl_tensor *t, uint32_t from, uint32_t to)
{
    if (from < t->home_tiles)
        from = t->home_tiles;
    if (to > t->tiles_count)
        to = t->tiles_count;
    if (from >= to)
        return;
    for (uint32_t i = from; i < to; i++)
        sort_tile(p, t, i);
    tile_offer(p, t);
    pager_look(p, t);
}

void tile_rest(struct pager *p, struct ofl_tensor *t, uint32_t rest)
{
    uint32_t low = rest < t->rest ? rest : t->rest, high = rest < t->rest ? t->rest : rest;

    t->rest = rest;
    sort_tiles(p, t, low, high);
}

void tile_served(struct pager *p, struct ofl_tensor *t, uint32_t tiles)
{
    uint32_t low = tiles < t->served ? tiles : t->served, high = tiles < t->served ? t->served : tiles;

    t->served = tiles;
    sort_tiles(p, t, low, high);
}

void tile_let_go(struct pager *p, struct ofl_tensor *t)
{
    t->keep->held = false;
    sort_tiles(p, t, 0, t->tiles_count);
}

void tile_set_fetched(struct pager *p, struct core_tile *x, bool fetched)
{
    if (x->fetched == fetched)
        return;
    x->fetched = fetched;
    if (fetched)
        p->fetched_bytes += x->len;
    else
        p->fetched_bytes -= x->len;
}

void tile_ahead(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool ahead)
{
    if (tile < t->home_tiles)
        return;
    if (!ahead)
        tile_set_fetched(p, &t->tiles[tile], false);
    else if (t->tiles[tile].state != TILE_NONE && tile >= tile_rest_of(t, tile))
        tile_set_fetched(p, &t->tiles[tile],
                         true); /* it need not be read, but takes the room of one that was */
    if (base_bits_has(&t->ahead, tile) == ahead)
        return;
    base_bits_put(&t->ahead, tile, ahead);
    tile_touched(p, t, tile);
}

void tile_ahead_all(struct pager *p, struct ofl_tensor *t, uint32_t from, uint32_t end, bool ahead)
{
    if (!p->planned && t->ahead.count == 0)
        return;
    for (uint32_t i = from < t->home_tiles ? t->home_tiles : from; i < end; i++)
        tile_ahead(p, t, i, ahead);
}

/* ---- what is taken ----------------------------------------------------- */

uint64_t tile_host_used(const struct pager *p)
{
    return p->host_bytes - base_extents_free_bytes(p->host_ranges) - base_extents_free_bytes(p->homes.host);
}

void tile_note_peak(struct pager *p)
{
    if (tile_host_used(p) > p->host_peak)
        p->host_peak = tile_host_used(p);
}
