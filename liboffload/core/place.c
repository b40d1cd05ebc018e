/*
 * place: see place.h. Live copies stand in a tree by address, each with the gap behind it, so that the lowest
 * or highest gap of a size is found by walking down; ghosts in another, by which a new copy counts those
 * that it waits for. What leaves when no gap is large enough is asked of the scheduler.
 */
#include "liboffload/core/place_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/part.h"
#include "liboffload/core/tile.h"

uint64_t place_footprint(uint64_t bytes)
{
    return (bytes + CORE_DEVICE_ALIGN - 1) / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
}

/* ---- the two trees ----------------------------------------------------- */

/* The head of the list is empty and ends where the first copy may begin: so it is the first by end. */
static bool live_before(const struct base_node *a, const struct base_node *b)
{
    return place_end(place_of(a)) < place_end(place_of(b));
}

static void live_sum(struct base_node *n)
{
    struct core_copy *c = place_of(n), *l = place_of(n->left), *r = place_of(n->right);

    c->gap_max = c->gap;
    if (l && l->gap_max > c->gap_max)
        c->gap_max = l->gap_max;
    if (r && r->gap_max > c->gap_max)
        c->gap_max = r->gap_max;
}

static bool grave_before(const struct base_node *a, const struct base_node *b)
{
    const struct core_copy *x = place_of(a), *y = place_of(b);

    return x->off != y->off ? x->off < y->off : x->seq < y->seq;
}

static void grave_sum(struct base_node *n)
{
    struct core_copy *c = place_of(n), *l = place_of(n->left), *r = place_of(n->right);

    c->end_max = place_end(c);
    if (l && l->end_max > c->end_max)
        c->end_max = l->end_max;
    if (r && r->end_max > c->end_max)
        c->end_max = r->end_max;
}

typedef void grave_fn(void *arg, struct core_copy *g);

/* Calls fn for each ghost below n that overlaps [from, to). */
static void graves_in(struct base_node *n, uint64_t from, uint64_t to, grave_fn *fn, void *arg)
{
    struct core_copy *g = place_of(n);

    if (!g || g->end_max <= from)
        return;
    graves_in(n->left, from, to, fn, arg);
    if (g->off >= to)
        return;
    if (place_end(g) > from)
        fn(arg, g);
    graves_in(n->right, from, to, fn, arg);
}

unsigned place_urgency(const struct core_copy *c)
{
    return c->late ? 3 : c->ghost && !copy_filling(c) ? 0 : c->waiting ? 1 : 2;
}

static bool turn_before(const struct base_node *a, const struct base_node *b)
{
    const struct core_copy *x = BASE_TREE_OWNER(a, struct core_copy, turn);
    const struct core_copy *y = BASE_TREE_OWNER(b, struct core_copy, turn);

    return place_urgency(x) != place_urgency(y) ? place_urgency(x) < place_urgency(y) : x->seq < y->seq;
}

void place_set_stuck(struct pager *p, struct core_copy *c, bool stuck)
{
    if (c->stuck == stuck)
        return;
    c->stuck = stuck;
    if (stuck)
        base_tree_insert(&p->stuck, &c->turn);
    else
        base_tree_remove(&p->stuck, &c->turn);
}

void place_open(struct pager *p)
{
    p->stuck = (struct base_tree){.before = turn_before};
    p->arena = (struct base_tree){.before = live_before, .sum = live_sum};
    p->graves = (struct base_tree){.before = grave_before, .sum = grave_sum};
    p->live.next = p->live.prev = &p->live;
    p->live.gap = p->device_bytes;
    p->homes_last = &p->live;
    base_tree_insert(&p->arena, &p->live.place);
}

static void copy_free(struct core_copy *c)
{
    pager_error_free(c->error);
    free(c);
}

void place_close(struct pager *p)
{
    while (p->live.next && p->live.next != &p->live) {
        struct core_copy *c = p->live.next;

        p->live.next = c->next;
        copy_free(c);
    }
    while (p->graves.root) {
        struct core_copy *c = place_of(p->graves.root);

        base_tree_remove(&p->graves, &c->place);
        copy_free(c);
    }
    while (p->spare_copies) {
        struct core_copy *c = p->spare_copies;

        p->spare_copies = c->next;
        free(c);
    }
}

/* ---- making and ending copies ------------------------------------------ */

int place_reserve(struct pager *p, uint32_t copies)
{
    while (p->spare_copies_count < copies) {
        struct core_copy *c = malloc(sizeof *c);

        if (!c)
            return base_fail(-ENOMEM, "place %u tensors: out of memory", copies);
        c->next = p->spare_copies;
        p->spare_copies = c;
        p->spare_copies_count++;
    }
    return 0;
}

/* One more copy of t, or one fewer, may be evicted. */
static void offer(struct pager *p, struct ofl_tensor *t, int by)
{
    t->loose += (uint32_t)by;
    if (t->loose)
        sched_offer(p->sched, SCHED_COPIES, t->id);
    else
        sched_withdraw(p->sched, SCHED_COPIES, t->id);
}

static void block(void *arg, struct core_copy *g)
{
    struct core_copy *c = arg;

    assert(g->seq < c->seq);
    c->blockers++;
}

/* The copy before off, by address. */
static struct core_copy *live_at(const struct pager *p, uint64_t off)
{
    struct core_copy key = {.off = off, .len = 1};

    return place_of(base_tree_before(&p->arena, &key.place));
}

struct core_copy *place_make(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t off)
{
    struct core_copy *c, *prev = live_at(p, off);
    uint64_t len = place_footprint(to - from);
    uint32_t first = tile_of(t, from);

    assert(place_end(prev) <= off && place_end(prev) + prev->gap >= off + len);
    assert(from < to && to <= t->bytes && !part_find(t, from, to));
    if (place_reserve(p, 1) < 0)
        return NULL;
    c = p->spare_copies;
    p->spare_copies = c->next;
    p->spare_copies_count--;
    *c = (struct core_copy){.tensor = t,
                            .from = from,
                            .to = to,
                            .first = first,
                            .end = tile_of(t, to - 1) + 1,
                            .fill_next = first,
                            .fill_done = first,
                            .drain_next = first,
                            .drain_done = first,
                            .version = t->version,
                            .seq = ++p->seq,
                            .off = off,
                            .len = len,
                            .after_host = t->host_issued,
                            .drain_after = t->host_issued,
                            .prev = prev,
                            .next = prev->next};
    c->gap = place_end(prev) + prev->gap - (off + len);
    prev->gap = off - place_end(prev);
    base_tree_resum(&p->arena, &prev->place);
    c->prev->next = c->next->prev = c;
    base_tree_insert(&p->arena, &c->place);
    graves_in(p->graves.root, off, off + len, block, c);
    part_add(c);
    offer(p, t, 1);
    pager_look(p, t);
    p->device_used += len;
    if (p->device_used > p->device_peak)
        p->device_peak = p->device_used;
    return c;
}

void place_evict(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;
    uint64_t far;

    assert(!c->ghost && c->leases == 0);
    place_set_stuck(p, c, false);
    if (!c->waiting && copy_filling(c)) {
        c->fill = false; /* nobody will use what has not landed */
        tile_ahead_all(p, t, c->fill_next, c->end, false);
    }
    if (p->homes_last == c)
        p->homes_last = c->prev;
    if (c->home)
        p->held_bytes -= c->len;
    base_tree_remove(&p->arena, &c->place);
    c->prev->gap += c->len + c->gap;
    base_tree_resum(&p->arena, &c->prev->place);
    c->prev->next = c->next;
    c->next->prev = c->prev;
    p->device_used -= c->len;
    part_remove(c);
    c->ghost = true;
    if (!c->home)
        offer(p, t, -1);
    c->home = false;
    c->drop = !c->dirty || (t->flags & OFL_TENSOR_TRANSIENT);
    part_ghost_add(c);
    base_tree_insert(&p->graves, &c->place);
    far = sched_far(p->sched, t->id);
    if (far < p->ahead_device)
        p->ahead_device = far; /* it may be worth placing again */
    if (far < p->ahead_host)
        p->ahead_host = far;
    p->stats.evictions++;
    pager_look(p, t);
}

void place_evict_all(struct pager *p)
{
    struct core_copy *c = p->live.next;

    while (c != &p->live) {
        struct core_copy *next = c->next;

        if (!c->leases && !c->home)
            place_evict(p, c);
        c = next;
    }
}

static void unblock(struct pager *p, struct core_copy *c)
{
    assert(c->blockers > 0);
    if (--c->blockers == 0)
        pager_look(p, c->tensor);
}

struct buried {
    struct pager *p;
    const struct core_copy *ghost;
};

static void unblock_ghost(void *arg, struct core_copy *g)
{
    const struct buried *b = arg;

    if (g->seq > b->ghost->seq)
        unblock(b->p, g);
}

void place_bury(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;
    struct buried b = {p, c};

    assert(!c->wants);
    base_tree_remove(&p->graves, &c->place);
    graves_in(p->graves.root, c->off, place_end(c), unblock_ghost, &b);
    for (struct core_copy *l = live_at(p, c->off)->next; l != &p->live && l->off < place_end(c); l = l->next)
        if (l->seq > c->seq)
            unblock(p, l);
    part_ghost_remove(c);
    pager_look(p, t);
    copy_free(c);
}

static void moves(void *arg, struct core_copy *g)
{
    *(bool *)arg |= g->moving > 0;
}

bool place_at_rest(const struct pager *p, const struct core_copy *c)
{
    bool moving = c->moving > 0;

    graves_in(p->graves.root, c->off, place_end(c), moves, &moving);
    return !moving;
}

/* ---- leases ------------------------------------------------------------ */

void place_hold(struct pager *p, struct core_copy *c)
{
    if (c->leases++)
        return;
    c->tensor->leased++;
    if (c->home)
        return;
    p->held_bytes += c->len;
    offer(p, c->tensor, -1);
}

void place_unhold(struct pager *p, struct core_copy *c)
{
    assert(c->leases > 0);
    if (--c->leases)
        return;
    c->tensor->leased--;
    if (c->home)
        return;
    p->held_bytes -= c->len;
    offer(p, c->tensor, 1);
}

void place_keep(struct pager *p, struct core_copy *c)
{
    assert(c->leases == 0 && !c->home);
    c->home = true;
    p->held_bytes += c->len;
    offer(p, c->tensor, -1);
    while (p->homes_last->next->home)
        p->homes_last = p->homes_last->next;
}
