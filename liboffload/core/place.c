/*
 * place: see place.h. Live copies stand in a tree by address, each with the gap behind it, so that the lowest
 * or highest gap of a size is found by walking down; ghosts in another, by which a new copy counts those
 * that it waits for. What leaves when no gap is large enough is asked of the scheduler.
 */
#include "liboffload/core/place.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/part.h"
#include "liboffload/core/tile.h"

/* Copies that a window is laid around, farthest next use first, before the best of them is taken. */
#define WINDOWS_MAX 32u

static struct core_copy *of_place(const struct base_node *n)
{
    return n ? BASE_TREE_OWNER(n, struct core_copy, place) : NULL;
}

static uint64_t end_of(const struct core_copy *c)
{
    return c->off + c->len;
}

uint64_t place_footprint(uint64_t bytes)
{
    return (bytes + CORE_DEVICE_ALIGN - 1) / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
}

/* ---- the two trees ----------------------------------------------------- */

/* The head of the list is empty and ends where the first copy may begin: so it is the first by end. */
static bool live_before(const struct base_node *a, const struct base_node *b)
{
    return end_of(of_place(a)) < end_of(of_place(b));
}

static void live_sum(struct base_node *n)
{
    struct core_copy *c = of_place(n), *l = of_place(n->left), *r = of_place(n->right);

    c->gap_max = c->gap;
    if (l && l->gap_max > c->gap_max)
        c->gap_max = l->gap_max;
    if (r && r->gap_max > c->gap_max)
        c->gap_max = r->gap_max;
}

static bool grave_before(const struct base_node *a, const struct base_node *b)
{
    const struct core_copy *x = of_place(a), *y = of_place(b);

    return x->off != y->off ? x->off < y->off : x->seq < y->seq;
}

static void grave_sum(struct base_node *n)
{
    struct core_copy *c = of_place(n), *l = of_place(n->left), *r = of_place(n->right);

    c->end_max = end_of(c);
    if (l && l->end_max > c->end_max)
        c->end_max = l->end_max;
    if (r && r->end_max > c->end_max)
        c->end_max = r->end_max;
}

typedef void grave_fn(void *arg, struct core_copy *g);

/* Calls fn for each ghost that overlaps [from, to). */
static void graves_in(struct base_node *n, uint64_t from, uint64_t to, grave_fn *fn, void *arg)
{
    struct core_copy *g = of_place(n);

    if (!g || g->end_max <= from)
        return;
    graves_in(n->left, from, to, fn, arg);
    if (g->off >= to)
        return;
    if (end_of(g) > from)
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
        struct core_copy *c = of_place(p->graves.root);

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

    return of_place(base_tree_before(&p->arena, &key.place));
}

/* Bytes [from, to) of t in the gap at off, which holds them. */
static struct core_copy *make(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t off)
{
    struct core_copy *c, *prev = live_at(p, off);
    uint64_t len = place_footprint(to - from);
    uint32_t first = tile_of(t, from);

    assert(end_of(prev) <= off && end_of(prev) + prev->gap >= off + len);
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
    c->gap = end_of(prev) + prev->gap - (off + len);
    prev->gap = off - end_of(prev);
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
    graves_in(p->graves.root, c->off, end_of(c), unblock_ghost, &b);
    for (struct core_copy *l = live_at(p, c->off)->next; l != &p->live && l->off < end_of(c); l = l->next)
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

    graves_in(p->graves.root, c->off, end_of(c), moves, &moving);
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

/* ---- gaps -------------------------------------------------------------- */

/* The copy with the lowest (or highest) gap of at least so many bytes behind it. */
static struct core_copy *gap_find(const struct pager *p, uint64_t bytes, bool highest)
{
    struct base_node *n = p->arena.root;

    if (of_place(n)->gap_max < bytes)
        return NULL;
    for (;;) {
        struct base_node *first = highest ? n->right : n->left, *second = highest ? n->left : n->right;

        if (first && of_place(first)->gap_max >= bytes)
            n = first;
        else if (of_place(n)->gap >= bytes)
            return of_place(n);
        else
            n = second;
    }
}

/* ---- windows ----------------------------------------------------------- */

/* A run of copies that may leave, with the gaps in it and around it. */
struct window {
    struct core_copy *first, *last;
    uint64_t next_use; /* of what would have to leave, the soonest */
};

struct search {
    struct pager *p;
    uint64_t bytes, limit;
    struct window best;
    unsigned looks;
};

/* What counts of a copy whose next use is so far away: what passes leaves before what rests. */
static uint64_t worth_of(const struct search *s, uint32_t id, uint64_t distance)
{
    if (distance >= SCHED_NEVER / 4)
        return distance;
    return distance + 1 + (sched_passing(s->p->sched, id) ? SCHED_NEVER / 4 : 0);
}

/* It may not leave for what is only ahead. */
static bool kept_from(const struct search *s, uint32_t id, uint64_t distance)
{
    if (s->limit == 0)
        return false;
    return distance <= s->limit || (s->p->planned && !sched_passing(s->p->sched, id));
}

/* The larger, the sooner c may leave; 0: it may not. */
static uint64_t use_of(const struct search *s, const struct core_copy *c)
{
    uint32_t id;
    uint64_t next;

    if (c == &s->p->live || c->leases || c->home)
        return 0;
    id = c->tensor->id;
    next = part_next_use(s->p, c);
    return kept_from(s, id, next) ? 0 : worth_of(s, id, next);
}

/* The window around c: neighbours are taken in, the one that is needed later first, until it is large enough. */
static bool window_around(const struct search *s, struct core_copy *c, struct window *w)
{
    uint64_t total = c->prev->gap + c->len + c->gap;

    *w = (struct window){c, c, use_of(s, c)};
    while (total < s->bytes) {
        uint64_t low = use_of(s, w->first->prev), high = use_of(s, w->last->next), taken;

        if (!low && !high)
            return false;
        if (low > high) {
            w->first = w->first->prev;
            total += w->first->len + w->first->prev->gap;
            taken = low;
        } else {
            w->last = w->last->next;
            total += w->last->len + w->last->gap;
            taken = high;
        }
        if (taken < w->next_use)
            w->next_use = taken;
    }
    return true;
}

/* The windows around the copies of t. */
static void windows_of(struct search *s, const struct ofl_tensor *t)
{
    struct core_copy *c = part_find(t, 0, t->bytes);
    struct window w;

    for (; c && s->looks < WINDOWS_MAX; c = part_behind(c)) {
        if (!use_of(s, c))
            continue;
        s->looks++;
        if (window_around(s, c, &w) && (!s->best.first || w.next_use > s->best.next_use))
            s->best = w;
    }
}

static enum sched_verdict judge(void *arg, uint32_t id, uint64_t distance)
{
    struct search *s = arg;

    if ((s->best.first && worth_of(s, id, distance) < s->best.next_use) || s->looks >= WINDOWS_MAX)
        return SCHED_STOP; /* those to come can't be better */
    if (kept_from(s, id, distance))
        return SCHED_STOP; /* what passes comes first, the farthest of it: then what rests */
    windows_of(s, s->p->by_id[id]);
    return SCHED_SKIP;
}

/* Any run that is long enough: the shortest. For when no window was found around what is needed last. */
static void window_anywhere(struct search *s)
{
    uint64_t best = UINT64_MAX;

    for (struct core_copy *c = s->p->live.next; c != &s->p->live; c = c->next) {
        struct core_copy *first = c;
        uint64_t total;

        if (!use_of(s, c))
            continue;
        total = c->prev->gap + c->len + c->gap;
        while (use_of(s, c->next)) {
            c = c->next;
            total += c->len + c->gap;
        }
        if (total < s->bytes || total >= best)
            continue;
        best = total;
        s->best = (struct window){first, c, 0};
    }
}

/* Copies leased while others are held nest inside them in time; given the far end of the arena
 * they do not cut the room of the longer leases into pieces. Nor do those that pass cut that of those that rest. */
static bool from_top(const struct pager *p, const struct ofl_tensor *t)
{
    return p->planned ? !sched_rest_next(p->sched, t->id).device : t->kind == OFL_KIND_ACTIVATION;
}

/* Evicts what lies in [off, off + bytes), which is within w. */
static void clear_range(struct pager *p, const struct window *w, uint64_t off, uint64_t bytes)
{
    struct core_copy *c = w->first, *end = w->last->next;

    while (c != end) {
        struct core_copy *next = c->next;

        if (c->off < off + bytes && end_of(c) > off)
            place_evict(p, c);
        c = next;
    }
}

static uint64_t offset_in(const struct core_copy *c, uint64_t bytes, bool top)
{
    return top ? end_of(c) + c->gap - bytes : end_of(c);
}

static void latest(void *arg, struct core_copy *g)
{
    const struct core_update *u = g->for_update && g->tensor->turns ? g->tensor->turns->update : NULL;
    uint64_t *most = arg, seq = u ? u->seq : 1;

    if (seq > *most)
        *most = seq;
}

/* When the range will be clear: 0 now; else the larger the later, by the last of the updates that clear it. */
static uint64_t clear_after(const struct pager *p, uint64_t off, uint64_t bytes)
{
    uint64_t most = 0;

    graves_in(p->graves.root, off, off + bytes, latest, &most);
    return most;
}

/* A gap of so many bytes at that end of the arena, or at the other one if that is clear sooner. False: there is none. */
static bool find_gap(const struct pager *p, uint64_t bytes, bool top, uint64_t *off)
{
    const struct core_copy *gap = gap_find(p, bytes, top);
    uint64_t wait, other;

    if (!gap)
        return false;
    *off = offset_in(gap, bytes, top);
    wait = clear_after(p, *off, bytes);
    if (wait < 2)
        return true;
    other = offset_in(gap_find(p, bytes, !top), bytes, !top);
    if (clear_after(p, other, bytes) < wait)
        *off = other;
    return true;
}

struct core_copy *place_copy(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to,
                             uint64_t limit)
{
    struct search s = {.p = p, .bytes = place_footprint(to - from), .limit = limit};
    bool top = from_top(p, t);
    uint64_t off;
    uint32_t id;

    if (place_reserve(p, 1) < 0)
        return NULL;
    if (find_gap(p, s.bytes, top, &off))
        return make(p, t, from, to, off);
    if (to - from < t->bytes)
        windows_of(&s, t); /* the next use of t is that of its next part: of others it may be far away */
    s.looks = 0;
    (void)sched_choose(p->sched, SCHED_COPIES, 0, judge, &s, &id);
    if (!s.best.first && limit == 0)
        window_anywhere(&s);
    if (!s.best.first)
        return NULL;
    off = top ? end_of(s.best.last) + s.best.last->gap - s.bytes : end_of(s.best.first->prev);
    clear_range(p, &s.best, off, s.bytes);
    return make(p, t, from, to, off);
}

struct core_copy *place_home(struct pager *p, struct ofl_tensor *t)
{
    struct search s = {.p = p, .bytes = place_footprint(t->bytes)};
    struct core_copy *at = gap_find(p, s.bytes, false);
    struct core_copy *c;

    if (place_reserve(p, 1) < 0)
        return NULL;
    /* A gap among the homes, or the first run behind them that is free of leases. */
    if (!at || end_of(at) > end_of(p->homes_last)) {
        struct window w = {p->homes_last->next, p->homes_last, 0};
        uint64_t from = end_of(p->homes_last), total = p->homes_last->gap;

        while (total < s.bytes) {
            c = w.last->next;
            if (c == &p->live)
                return NULL;
            if (!use_of(&s, c)) {
                w.first = c->next;
                from = end_of(c);
                total = c->gap;
            } else {
                total += c->len + c->gap;
            }
            w.last = c;
        }
        clear_range(p, &w, from, s.bytes);
        c = make(p, t, 0, t->bytes, from);
    } else {
        c = make(p, t, 0, t->bytes, end_of(at));
    }
    return c;
}
