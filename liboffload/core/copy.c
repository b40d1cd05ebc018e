/*
 * copy: the DEVICE tier. Owns the ranges of the device arena: who gets which, what has
 * to leave, the bytes on their way in (fill) and out (drain).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "liboffload/core/pager.h"

/* Tiles that a fill looks ahead of the one that it copies next. */
#define FILL_AHEAD 16u
/* Fills that are looked at in a round: the most urgent. None waits for a less urgent one. */
#define FILLS_AT_ONCE 64u

/* A stretch of the arena: a live copy, or the gap between two. */
struct place_item {
    uint64_t off, len;
    struct core_copy *copy; /* NULL: gap */
};

uint64_t copy_footprint(uint64_t bytes)
{
    return (bytes + CORE_DEVICE_ALIGN - 1) / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
}

/* ---- placement --------------------------------------------------------- */

static struct place_item *list_items(struct pager *p, size_t *count)
{
    size_t n = 1, i = 0;
    uint64_t at = 0;

    for (struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        n += 2;
    if (n > p->items_room) {
        struct place_item *more = realloc(p->items, 2 * n * sizeof *more);

        if (!more)
            return NULL;
        p->items = more;
        p->items_room = 2 * n;
    }
    for (struct core_copy *c = p->live.next; c != &p->live; c = c->next) {
        if (c->off > at)
            p->items[i++] = (struct place_item){at, c->off - at, NULL};
        p->items[i++] = (struct place_item){c->off, c->len, c};
        at = c->off + c->len;
    }
    if (at < p->device_bytes)
        p->items[i++] = (struct place_item){at, p->device_bytes - at, NULL};
    *count = i;
    return p->items;
}

struct window {
    size_t first, last;
    uint64_t next_use; /* of what would have to leave, the soonest */
    bool evicts;
};

/* The shortest run of gaps and evictable copies from item i on that holds bytes. */
static bool window_at(const struct pager *p, const struct place_item *items, size_t count, size_t i,
                      uint64_t bytes, uint64_t limit, struct window *w)
{
    uint64_t total = 0;

    *w = (struct window){.first = i, .next_use = SCHED_NEVER};
    for (size_t j = i; j < count; j++) {
        const struct core_copy *c = items[j].copy;

        if (c) {
            uint64_t next = sched_next_use(p->sched, c->tensor->id);

            if (c->leases || c->home || (limit && next <= limit))
                return false;
            w->evicts = true;
            if (next < w->next_use)
                w->next_use = next;
        }
        total += items[j].len;
        if (total >= bytes) {
            w->last = j;
            return true;
        }
    }
    return false;
}

static bool better(const struct window *a, const struct window *b)
{
    if (a->evicts != b->evicts)
        return !a->evicts;
    return a->next_use > b->next_use;
}

static void insert_live(struct pager *p, struct core_copy *c)
{
    struct core_copy *at = p->live.next;

    while (at != &p->live && at->off < c->off)
        at = at->next;
    c->next = at;
    c->prev = at->prev;
    at->prev->next = c;
    at->prev = c;
}

static struct core_copy *copy_make(struct pager *p, struct ofl_tensor *t, uint64_t off, uint64_t len)
{
    struct core_copy *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->tensor = t;
    c->seq = ++p->seq;
    c->off = off;
    c->len = len;
    c->after_host = t->host_issued;
    insert_live(p, c);
    t->current = c;
    p->changes++;
    p->device_used += len;
    if (p->device_used > p->device_peak)
        p->device_peak = p->device_used;
    return c;
}

/* Copies leased while others are held nest inside them in time; given the far end of the arena
 * they do not cut the room of the longer leases into pieces. */
static bool from_top(const struct ofl_tensor *t)
{
    return t->kind == OFL_KIND_ACTIVATION;
}

struct core_copy *copy_place(struct pager *p, struct ofl_tensor *t, uint64_t limit)
{
    uint64_t bytes = copy_footprint(t->bytes), off;
    struct window best = {0}, w;
    struct place_item *items;
    bool found = false;
    size_t count;

    items = list_items(p, &count);
    if (!items)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (!window_at(p, items, count, i, bytes, limit, &w))
            continue;
        if (!found || better(&w, &best) || (from_top(t) && !better(&best, &w)))
            best = w;
        found = true;
    }
    if (!found)
        return NULL;
    off = from_top(t) ? items[best.last].off + items[best.last].len - bytes : items[best.first].off;
    for (size_t i = best.first; i <= best.last; i++)
        if (items[i].copy)
            copy_evict(p, items[i].copy);
    return copy_make(p, t, off, bytes);
}

/* A range for good: the lowest that holds no lease and no other home, so that homes lie side by side
 * and the rest stays in one piece. */
struct core_copy *copy_place_home(struct pager *p, struct ofl_tensor *t)
{
    uint64_t bytes = copy_footprint(t->bytes), off;
    struct place_item *items;
    struct window w;
    size_t count, at = 0;

    items = list_items(p, &count);
    if (!items)
        return NULL;
    while (at < count && !window_at(p, items, count, at, bytes, 0, &w))
        at++;
    if (at == count)
        return NULL;
    off = items[at].off;
    for (size_t i = w.first; i <= w.last; i++)
        if (items[i].copy)
            copy_evict(p, items[i].copy);
    return copy_make(p, t, off, bytes);
}

/* ---- ghosts ------------------------------------------------------------ */

static void unlink_copy(struct core_copy *c)
{
    c->prev->next = c->next;
    c->next->prev = c->prev;
}

/* Gives the range up. What the copy still has to do, it does as a ghost. */
void copy_evict(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    unlink_copy(c);
    p->device_used -= c->len;
    t->current = NULL;
    c->ghost = true;
    c->drop = !c->dirty || (t->flags & OFL_TENSOR_TRANSIENT);
    if (!c->waiting && c->fill_done < t->tiles_count)
        c->fill = false; /* nobody will use what has not landed */
    if (!c->drop)
        t->dirty_ghosts++;
    t->ghosts++;
    c->next = &p->ghosts;
    c->prev = p->ghosts.prev;
    p->ghosts.prev->next = c;
    p->ghosts.prev = c;
    p->stats.evictions++;
    p->changes++;
}

/* Evicts all that is not leased: the last resort against fragmentation. */
void copy_evict_all(struct pager *p)
{
    struct core_copy *c = p->live.next;

    while (c != &p->live) {
        struct core_copy *next = c->next;

        if (!c->leases && !c->home)
            copy_evict(p, c);
        c = next;
    }
}

/* The ghost's bytes are obsolete: nothing to write back any more. */
void copy_ghost_drop(struct core_copy *c)
{
    if (c->drop)
        return;
    c->drop = true;
    c->tensor->dirty_ghosts--;
}

bool copy_in_use(const struct pager *p, const struct ofl_tensor *t)
{
    if (t->current && (t->current->marks || t->current->waiting))
        return true;
    if (t->ghosts)
        for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next)
            if (c->tensor == t && (c->marks || c->waiting))
                return true;
    return false;
}

bool copy_drained(const struct pager *p, const struct ofl_tensor *t, uint32_t tile, uint64_t seq)
{
    if (t->current && t->current->dirty && t->current->seq < seq)
        return false;
    if (t->dirty_ghosts)
        for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next)
            if (c->tensor == t && !c->drop && c->seq < seq && c->drain_done <= tile)
                return false;
    return true;
}

/* True once no older ghost uses any of the range. */
static bool range_clear(const struct pager *p, struct core_copy *c)
{
    if (c->clear)
        return true;
    for (const struct core_copy *g = p->ghosts.next; g != &p->ghosts; g = g->next)
        if (g->seq < c->seq && g->off < c->off + c->len && c->off < g->off + g->len)
            return false;
    c->clear = true;
    return true;
}

/* No link copy into or out of the range is in flight. */
bool copy_at_rest(const struct pager *p, const struct core_copy *c)
{
    if (c->moving)
        return false;
    for (const struct core_copy *g = p->ghosts.next; g != &p->ghosts; g = g->next)
        if (g->moving && g->off < c->off + c->len && c->off < g->off + g->len)
            return false;
    return true;
}

bool copy_bytes_ready(const struct core_copy *c)
{
    return c->clear && (c->fill ? c->fill_done == c->tensor->tiles_count : c->moving == 0);
}

/* ---- bytes in ---------------------------------------------------------- */

static bool fill_pending(const struct core_copy *c)
{
    return c->fill && c->fill_done < c->tensor->tiles_count;
}

static bool awaits(const struct core_copy *c, uint64_t ordinal)
{
    return fill_pending(c) && c->after_host < ordinal;
}

bool copy_fill_before(const struct pager *p, const struct ofl_tensor *t, uint64_t ordinal)
{
    if (t->current && awaits(t->current, ordinal))
        return true;
    if (t->ghosts)
        for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next)
            if (c->tensor == t && awaits(c, ordinal))
                return true;
    return false;
}

/* A copy made before seq still awaits bytes from the tiles: what is newer must not replace them yet. */
bool copy_fill_older(const struct pager *p, const struct ofl_tensor *t, uint64_t seq)
{
    if (t->current && fill_pending(t->current) && t->current->seq < seq)
        return true;
    if (t->ghosts)
        for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next)
            if (c->tensor == t && fill_pending(c) && c->seq < seq)
                return true;
    return false;
}

static void fill_tile(struct pager *p, struct core_copy *c, uint32_t tile)
{
    struct ofl_tensor *t = c->tensor;
    bool zero = t->tiles[tile].state == TILE_NONE;
    struct core_op *op = pager_op(p, zero ? OP_FILL : OP_IN, t, tile);
    uint8_t *to = p->device + c->off + tile * t->tile_bytes;

    if (!op)
        return;
    op->copy = c;
    c->moving++;
    c->fill_next++;
    t->moving++;
    if (zero) {
        p->env.fill(p->env.arg, to, 0, tile_count_bytes(t, tile), op);
    } else {
        t->tiles[tile].pins++;
        p->env.copy_in(p->env.arg, to, tile_ptr(p, t, tile), tile_count_bytes(t, tile), op);
    }
}

static void fill_advance(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;
    struct tile_claim claim = {.need = NEED_FILL, .seq = c->seq, .landed = c->fill_done};
    bool clear = range_clear(p, c);

    if (t->host_done < c->after_host)
        return;
    if (!c->waiting) {
        claim.need = NEED_AHEAD;
        claim.ahead = sched_next_use(p->sched, t->id);
    }
    for (uint32_t i = c->fill_next; i < t->tiles_count && i < c->fill_next + FILL_AHEAD; i++) {
        struct core_tile *x = &t->tiles[i];

        if (!copy_drained(p, t, i, c->seq))
            return;
        if (x->state == TILE_NONE && x->stored) {
            if (!clear)
                return; /* a drain is still to free the range, and would evict what is read too early */
            if (!tile_read_start(p, t, i, claim, c->waiting ? IO_DEMAND : IO_PREFETCH))
                return;
        } else if (x->state != TILE_ARRIVING && clear && i == c->fill_next) {
            fill_tile(p, c, i);
        }
    }
}

/* The bytes of t can't be had: what awaits them fails, nothing else. Not before the range is
 * clear, though: a GPU runs what was launched behind the gate all the same, and what it writes
 * must not meet bytes of another tensor that are still to be drained from there. */
void copy_fail(struct pager *p, struct ofl_tensor *t, const struct base_error *error)
{
    struct core_copy *lists[] = {&p->live, &p->ghosts};

    for (int k = 0; k < 2; k++) {
        struct core_copy *c = lists[k]->next, *next;

        for (; c != lists[k]; c = next) {
            next = c->next;
            if (c->tensor != t || !fill_pending(c))
                continue;
            if (!c->error)
                c->error = malloc(sizeof *c->error);
            if (c->error)
                *c->error = *error;
            c->fill = false;
            c->dirty = false;
            if (!c->waiting && !c->ghost && !c->leases && !c->home)
                copy_evict(p, c);
        }
    }
}

/* ---- bytes out --------------------------------------------------------- */

static bool drain_tile(struct pager *p, struct core_copy *c, uint32_t tile)
{
    struct ofl_tensor *t = c->tensor;
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op;

    if (x->state == TILE_ARRIVING || x->pins || x->writing)
        return false;
    /* Into a tile's home nothing is claimed: there is no need to wait for a turn. */
    if (tile >= t->home_tiles && p->arriving_bytes && p->arriving_bytes + t->tile_bytes > p->stage_bytes / 2)
        return false;
    op = pager_op(p, OP_OUT, t, tile);
    if (!op)
        return false;
    if (!tile_claim_range(p, t, tile, (struct tile_claim){.need = NEED_WORK})) {
        pager_op_cancel(p, op);
        return false;
    }
    tile_set_dirty(p, t, tile, false);
    x->state = TILE_ARRIVING;
    x->stored = false;
    x->stale = false;
    if (tile >= t->home_tiles)
        p->arriving_bytes += x->len;
    op->copy = c;
    c->moving++;
    c->drain_next++;
    t->moving++;
    p->env.copy_out(p->env.arg, tile_ptr(p, t, tile), p->device + c->off + tile * t->tile_bytes,
                    tile_count_bytes(t, tile), op);
    return true;
}

static void drain_advance(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    if (c->drop || c->marks || c->waiting || fill_pending(c) || t->host_done < c->after_host)
        return;
    if (copy_fill_older(p, t, c->seq))
        return;
    while (c->drain_next < t->tiles_count && drain_tile(p, c, c->drain_next))
        ;
}

void copy_moved(struct pager *p, struct core_op *op)
{
    struct core_copy *c = op->copy;
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    c->moving--;
    t->moving--;
    if (op->code < 0) {
        struct base_error error;

        base_error_set(&error, op->code, "copy %s %s the device: tile %u, %llu bytes: %s", t->name,
                       op->type == OP_OUT ? "from" : "to", op->tile,
                       (unsigned long long)tile_count_bytes(t, op->tile), p->env.why(p->env.arg, op->code));
        pager_break(p, &error);
    }
    if (op->type == OP_OUT) {
        if (op->tile >= t->home_tiles)
            p->arriving_bytes -= x->len;
        x->state = TILE_VALID;
        c->drain_done++;
        tile_set_dirty(p, t, op->tile, true);
        if (c->drop || x->stale)
            tile_drop(p, t, op->tile);
        return;
    }
    if (op->type == OP_IN)
        tile_unpin(p, t, op->tile);
    c->fill_done++;
}

/* ---- progress ---------------------------------------------------------- */

static bool ghost_over(struct pager *p, struct core_copy *c)
{
    if (c->marks || c->moving || c->waiting || fill_pending(c))
        return false;
    if (!c->drop && c->drain_done < c->tensor->tiles_count)
        return false;
    if (p->poison && !c->poisoned && !p->broken.code && range_clear(p, c)) {
        struct core_op *op = pager_op(p, OP_FILL, c->tensor, 0);

        if (op) {
            op->copy = c;
            c->poisoned = true;
            c->moving++;
            c->tensor->moving++;
            p->env.fill(p->env.arg, p->device + c->off, 0xFF, c->len, op);
            return false;
        }
    }
    return true;
}

static void ghosts_advance(struct pager *p)
{
    struct core_copy *c = p->ghosts.next, *next;

    for (; c != &p->ghosts; c = next) {
        next = c->next;
        if (!p->broken.code)
            drain_advance(p, c);
        if (!ghost_over(p, c))
            continue;
        unlink_copy(c);
        c->tensor->ghosts--;
        if (!c->drop)
            c->tensor->dirty_ghosts--;
        p->changes++;
        free(c->error);
        free(c);
    }
}

static int by_urgency(const void *left, const void *right)
{
    const struct core_copy *a = *(struct core_copy *const *)left, *b = *(struct core_copy *const *)right;

    if ((a->waiting > 0) != (b->waiting > 0))
        return a->waiting ? -1 : 1;
    return a->seq < b->seq ? -1 : a->seq > b->seq;
}

/* Copies whose bytes (or whose range) somebody awaits, most urgent first. */
static size_t list_fills(struct pager *p)
{
    struct core_copy *lists[] = {&p->ghosts, &p->live};
    size_t n = 0;

    for (struct ofl_tensor *t = p->tensors; t; t = t->next) {
        t->fill_seq = SCHED_NEVER;
        t->fill_ahead = false;
    }
    for (int k = 0; k < 2; k++)
        for (struct core_copy *c = lists[k]->next; c != lists[k]; c = c->next) {
            if (!c->waiting && !fill_pending(c))
                continue;
            if (fill_pending(c) && !c->waiting)
                c->tensor->fill_ahead = true;
            else if (fill_pending(c) && c->seq < c->tensor->fill_seq)
                c->tensor->fill_seq = c->seq;
            if (n == p->fills_room) {
                size_t room = n ? 2 * n : 64;
                struct core_copy **more = realloc(p->fills, room * sizeof(struct core_copy *));

                if (!more)
                    return n; /* the rest moves when there is memory again */
                p->fills = more;
                p->fills_room = room;
            }
            p->fills[n++] = c;
        }
    if (n > 1)
        qsort(p->fills, n, sizeof(struct core_copy *), by_urgency);
    return n;
}

void copy_advance(struct pager *p)
{
    size_t n;

    ghosts_advance(p);
    n = list_fills(p);
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = p->fills[i];

        if (fill_pending(c) && i < FILLS_AT_ONCE && !p->broken.code)
            fill_advance(p, c);
        else
            range_clear(p, c);
        if (c->waiting && copy_bytes_ready(c))
            lease_copy_ready(p, c);
    }
}
