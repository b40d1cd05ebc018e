/*
 * place_find: where a copy goes: a gap, or a run of copies that leave for it. What leaves is asked of the scheduler.
 */
#include "liboffload/core/place_impl.h"

#include <assert.h>

#include "liboffload/core/part.h"

/* Copies that a window is laid around, farthest next use first, before the best of them is taken. */
#define WINDOWS_MAX 32u

/* ---- gaps -------------------------------------------------------------- */

/* The copy with the lowest (or highest) gap of at least so many bytes behind it. */
static struct core_copy *gap_find(const struct pager *p, uint64_t bytes, bool highest)
{
    struct base_node *n = p->arena.root;

    if (place_of(n)->gap_max < bytes)
        return NULL;
    for (;;) {
        struct base_node *first = highest ? n->right : n->left, *second = highest ? n->left : n->right;

        if (first && place_of(first)->gap_max >= bytes)
            n = first;
        else if (place_of(n)->gap >= bytes)
            return place_of(n);
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
    uint64_t floor; /* nothing in front of it may leave */
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

    if (c == &s->p->live || c->leases || c->home || c->off < s->floor)
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

        if (c->off < off + bytes && place_end(c) > off)
            place_evict(p, c);
        c = next;
    }
}

/* Of those in front of the floor only what can't be had elsewhere. */
static void find_window(struct search *s, const struct ofl_tensor *t, bool part)
{
    uint32_t id;

    if (part)
        windows_of(s, t); /* the next use of t is that of its next part: of others it may be far away */
    s->looks = 0;
    (void)sched_choose(s->p->sched, SCHED_COPIES, 0, judge, s, &id);
    s->floor = 0;
    if (!s->best.first && s->limit == 0)
        window_anywhere(s);
}

struct core_copy *place_copy(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to,
                             uint64_t limit)
{
    struct search s = {.p = p, .bytes = place_footprint(to - from), .limit = limit};
    bool top = from_top(p, t);
    struct core_copy *gap = gap_find(p, s.bytes, top);
    uint64_t off = gap ? top ? place_end(gap) + gap->gap - s.bytes : place_end(gap) : 0;

    if (place_reserve(p, 1) < 0)
        return NULL;
    if (top && p->planned)
        s.floor = p->passing_off;
    if (gap && off >= s.floor)
        return place_make(p, t, from, to, off);
    find_window(&s, t, to - from < t->bytes);
    if (s.best.first) {
        off = top ? place_end(s.best.last) + s.best.last->gap - s.bytes : place_end(s.best.first->prev);
        clear_range(p, &s.best, off, s.bytes);
    } else if (!gap || limit) {
        return NULL;
    }
    return place_make(p, t, from, to, off);
}

struct core_copy *place_home(struct pager *p, struct ofl_tensor *t)
{
    struct search s = {.p = p, .bytes = place_footprint(t->bytes)};
    struct core_copy *at = gap_find(p, s.bytes, false);
    struct core_copy *c;

    if (place_reserve(p, 1) < 0)
        return NULL;
    /* A gap among the homes, or the first run behind them that is free of leases. */
    if (!at || place_end(at) > place_end(p->homes_last)) {
        struct window w = {p->homes_last->next, p->homes_last, 0};
        uint64_t from = place_end(p->homes_last), total = p->homes_last->gap;

        while (total < s.bytes) {
            c = w.last->next;
            if (c == &p->live)
                return NULL;
            if (!use_of(&s, c)) {
                w.first = c->next;
                from = place_end(c);
                total = c->gap;
            } else {
                total += c->len + c->gap;
            }
            w.last = c;
        }
        clear_range(p, &w, from, s.bytes);
        c = place_make(p, t, 0, t->bytes, from);
    } else {
        c = place_make(p, t, 0, t->bytes, place_end(at));
    }
    return c;
}

void place_compact(struct pager *p)
{
    struct core_copy *c = p->live.next, *next;
    bool whole = p->live.gap == 0;

    for (; c != &p->live; c = next) {
        bool held = c->leases || c->home;

        next = c->next;
        whole = whole && (held || !sched_passing(p->sched, c->tensor->id));
        if (!whole && !held)
            place_evict(p, c);
        else
            whole = whole && c->gap == 0;
    }
}
