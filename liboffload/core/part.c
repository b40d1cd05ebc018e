/* part: see part.h. */
#include "liboffload/core/part.h"

#include <assert.h>

#include "liboffload/core/tile.h"

static struct core_copy *of_part(const struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct core_copy, part) : NULL;
}

static bool part_before(const struct base_node *a, const struct base_node *b)
{
    return of_part(a)->from < of_part(b)->from;
}

void part_admit(struct ofl_tensor *t)
{
    t->live = (struct base_tree){.before = part_before};
}

struct core_copy *part_search(const struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    struct core_copy *best = NULL, *c = of_part(t->live.root);

    while (c) {
        if (c->to > from)
            best = c;
        c = of_part(c->to > from ? c->part.left : c->part.right);
    }
    return best && best->from < to ? best : NULL;
}

struct core_copy *part_behind(const struct core_copy *c)
{
    return of_part(base_tree_after(&c->tensor->live, &c->part));
}

void part_set_busy(struct core_copy *c, bool busy)
{
    struct ofl_tensor *t = c->tensor;

    if (c->ghost || c->busy == busy)
        return;
    c->busy = busy;
    if (busy) {
        c->busy_prev = NULL;
        c->busy_next = t->busy;
        if (t->busy)
            t->busy->busy_prev = c;
        t->busy = c;
        return;
    }
    *(c->busy_prev ? &c->busy_prev->busy_next : &t->busy) = c->busy_next;
    if (c->busy_next)
        c->busy_next->busy_prev = c->busy_prev;
}

void part_add(struct core_copy *c)
{
    base_tree_insert(&c->tensor->live, &c->part);
    part_set_busy(c, true);
}

void part_remove(struct core_copy *c)
{
    part_set_busy(c, false);
    base_tree_remove(&c->tensor->live, &c->part);
}

uint64_t part_next_use(const struct pager *p, const struct core_copy *c)
{
    if (copy_whole(c))
        return sched_next_use(p->sched, c->tensor->id);
    return sched_next_use_part(p->sched, c->tensor->id, c->from, c->to - c->from);
}

void part_set_wants(struct pager *p, struct core_copy *c, bool wants)
{
    if (c->wants == wants)
        return;
    c->wants = wants;
    tile_want(p, c->tensor, c->drain_next, wants ? 1 : -1);
}

/* ---- ghosts ------------------------------------------------------------ */

void part_ghost_add(struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    c->next = NULL;
    c->prev = t->ghosts_last;
    if (c->prev)
        c->prev->next = c;
    else
        t->ghosts = c;
    t->ghosts_last = c;
    t->ghosts_count++;
    if (!c->drop)
        t->dirty_ghosts++;
}

void part_ghost_remove(struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    *(c->prev ? &c->prev->next : &t->ghosts) = c->next;
    *(c->next ? &c->next->prev : &t->ghosts_last) = c->prev;
    t->ghosts_count--;
    if (!c->drop)
        t->dirty_ghosts--;
}

void part_drop(struct pager *p, struct core_copy *c)
{
    assert(c->ghost);
    part_set_wants(p, c, false);
    if (c->drop)
        return;
    c->drop = true;
    c->tensor->dirty_ghosts--;
}
