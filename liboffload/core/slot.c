/* slot: see slot.h. */
#include "liboffload/core/slot.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int slot_make(struct ofl_tensor *t)
{
    uint64_t tiles = t->tiles_count * sizeof(struct kept_tile), words = base_bits_words(t->tiles_count);
    struct core_keep *k = calloc(1, sizeof *k + 2 * tiles + words * sizeof(uint64_t));

    if (!k)
        return base_fail(-ENOMEM, "create %s: %u tiles: out of memory", t->name, t->tiles_count);
    k->whole = (struct kept_tile *)(k + 1);
    k->next = k->whole + t->tiles_count;
    base_bits_init(&k->written, t->tiles_count, (uint64_t *)(k->next + t->tiles_count));
    k->slot_bytes = (t->bytes + KEPT_BLOCK - 1) / KEPT_BLOCK * KEPT_BLOCK;
    k->tensor = t;
    t->keep = k;
    return 0;
}

void slot_free(struct ofl_tensor *t)
{
    free(t->keep);
    t->keep = NULL;
}

void slot_resume(struct ofl_tensor *t)
{
    struct core_keep *k = t->keep;

    k->resumed = true;
    for (uint32_t i = 0; i < t->tiles_count; i++) {
        struct core_tile *x = &t->tiles[i];

        x->stored = x->sealed = k->whole[i].there;
        x->seal = k->whole[i].seal;
        x->slot = k->whole[i].slot;
    }
}

uint8_t slot_to_write(const struct pager *p, const struct ofl_tensor *t, uint32_t tile)
{
    const struct core_keep *k = t->keep;

    return k && !p->kept_in_place && k->whole[tile].there && !k->whole[tile].slot;
}

void slot_take(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    const struct core_tile *x = &t->tiles[tile];
    struct core_keep *k = t->keep;
    const struct kept_tile *was = &k->whole[tile];
    struct kept_tile *is = &k->next[tile];

    assert(k->open && !x->dirty && !x->writing && (!x->stored || x->sealed));
    *is =
        (struct kept_tile){.seal = x->stored ? x->seal : 0, .there = x->stored, .slot = x->stored && x->slot};
    is->generation = p->commit.generation & ((1ull << 62) - 1);
    if (was->generation && was->there == is->there && was->slot == is->slot && was->seal == is->seal)
        is->generation = was->generation;
}

bool slot_taken(const struct ofl_tensor *t, uint32_t tile)
{
    return t->keep->next[tile].generation != 0;
}

void slot_forget(struct ofl_tensor *t)
{
    memset(t->keep->next, 0, t->tiles_count * sizeof *t->keep->next);
}

void slot_settle(struct ofl_tensor *t)
{
    struct kept_tile *whole = t->keep->next;

    t->keep->next = t->keep->whole;
    t->keep->whole = whole;
}
