/* copy: see copy.h; the orders that it keeps are named in pager.h. */
#include "liboffload/core/copy.h"

#include <assert.h>

#include "liboffload/core/blame.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"

/* Tiles that a fill looks ahead of the one that it copies next. */
#define FILL_AHEAD 16u
/* Copies that are tried in a round of those that wait for room, and do not find any. */
#define STUCK_TRIES 8u

/* ---- what holds of a copy ---------------------------------------------- */

bool copy_bytes_ready(const struct core_copy *c)
{
    return c->blockers == 0 && (c->fill ? c->fill_done == c->end : c->moving == 0);
}

/* What c has of the tile: bytes of the tensor. */
struct span {
    uint64_t from, to;
};

static struct span span_of(const struct core_copy *c, uint32_t tile)
{
    uint64_t start = tile_start(c->tensor, tile), stop = start + tile_count_bytes(c->tensor, tile);

    return (struct span){c->from > start ? c->from : start, c->to < stop ? c->to : stop};
}

bool copy_is_edge(const struct core_copy *c, uint32_t tile)
{
    struct span s = span_of(c, tile);

    return s.to - s.from < tile_count_bytes(c->tensor, tile);
}

/* Where the first byte of the span lies. */
static uint8_t *on_device(const struct pager *p, const struct core_copy *c, struct span s)
{
    return p->device + c->off + (s.from - c->from);
}

static uint8_t *on_host(const struct pager *p, const struct core_copy *c, uint32_t tile, struct span s)
{
    return (uint8_t *)tile_ptr(p, c->tensor, tile) + (s.from - tile_start(c->tensor, tile));
}

bool copy_fill_before(const struct ofl_tensor *t, uint64_t ordinal, uint32_t tile)
{
    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c))
        if (copy_filling(c) && c->after_host < ordinal && c->fill_done <= tile && tile < c->end)
            return true;
    return false;
}

bool copy_fill_older(const struct core_copy *c)
{
    for (const struct core_copy *o = copy_first(c->tensor); o; o = copy_after(o))
        if (copy_filling(o) && o->seq < c->seq && copy_meets(o, c->from, c->to))
            return true;
    return false;
}

/* An older copy's bytes are still to be drained: they go first. */
static bool drain_older(const struct core_copy *c)
{
    for (const struct core_copy *g = c->prev; g; g = g->prev)
        if (!g->drop && copy_meets(g, c->from, c->to))
            return true;
    return false;
}

bool copy_in_use(const struct ofl_tensor *t)
{
    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c))
        if (c->waiting)
            return true;
    return t->used > 0;
}

bool copy_drained(const struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t seq)
{
    uint32_t tile = tile_of(t, from);

    for (const struct core_copy *c = part_find(t, from, to); c && c->from < to; c = part_behind(c))
        if (c->dirty && c->write_seq < seq)
            return false;
    if (t->dirty_ghosts)
        for (const struct core_copy *c = t->ghosts; c; c = c->next)
            if (!c->drop && c->write_seq < seq && copy_meets(c, from, to) && c->drain_done <= tile)
                return false;
    return true;
}

bool copy_settled(const struct ofl_tensor *t, uint64_t seq)
{
    for (const struct core_copy *c = part_find(t, 0, t->bytes); c; c = part_behind(c))
        if (c->dirty && c->write_seq < seq)
            return false;
    if (t->dirty_ghosts)
        for (const struct core_copy *c = t->ghosts; c; c = c->next)
            if (!c->drop && c->write_seq < seq && c->drain_done < c->end)
                return false;
    return true;
}

/* ---- who waits --------------------------------------------------------- */

static struct core_copy *of_turn(struct base_node *n)
{
    return BASE_TREE_OWNER(n, struct core_copy, turn);
}

/* One of the same kind waits for room that is more urgent: c does not overtake it. */
static bool must_queue(const struct pager *p, const struct core_copy *c)
{
    struct base_node *n = base_tree_before(&p->stuck, &c->turn);

    return n && place_urgency(of_turn(n)) == place_urgency(c);
}

void copy_note_fills(struct pager *p, struct ofl_tensor *t)
{
    bool before = t->filling;

    t->filling = false;
    t->fill_seq = SCHED_NEVER;
    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c)) {
        t->filling |= copy_filling(c);
        if (copy_filling(c) && c->waiting && c->seq < t->fill_seq)
            t->fill_seq = c->seq;
    }
    if (t->filling != before)
        tile_offer(p, t);
}

void copy_set_fill(struct pager *p, struct core_copy *c, bool fill)
{
    if (c->fill == fill)
        return;
    place_set_stuck(p, c, false); /* its urgency may be another one */
    part_set_busy(c, true);
    c->fill = fill;
    tile_ahead_all(p, c->tensor, c->fill_next, c->end, fill);
    copy_note_fills(p, c->tensor);
    pager_look(p, c->tensor);
}

void copy_await(struct pager *p, struct core_copy *c, int by)
{
    place_set_stuck(p, c, false);
    part_set_busy(c, true);
    c->waiting += (uint32_t)by;
    copy_note_fills(p, c->tensor);
    pager_look(p, c->tensor);
}

/* ---- bytes in ---------------------------------------------------------- */

static bool fill_tile(struct pager *p, struct core_copy *c, uint32_t tile)
{
    struct ofl_tensor *t = c->tensor;
    bool zero = t->tiles[tile].state == TILE_NONE;
    struct core_op *op = pager_op(p, zero ? OP_FILL : OP_IN, t, tile);
    struct span s = span_of(c, tile);

    assert(c->blockers == 0 && tile == c->fill_next);
    if (!op)
        return false;
    op->copy = c;
    c->moving++;
    c->fill_next++;
    pager_moves(p, t, 1);
    if (zero) {
        p->env.fill(p->env.arg, on_device(p, c, s), 0, s.to - s.from, op);
    } else {
        tile_pin(p, t, tile);
        p->env.copy_in(p->env.arg, on_device(p, c, s), on_host(p, c, tile, s), s.to - s.from, op);
    }
    return true;
}

/* False: c waits for room in the host arena. */
static bool fill_advance(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;
    struct tile_claim claim = {.need = NEED_FILL, .seq = c->seq, .landed = c->fill_done};
    enum io_class class = c->waiting ? IO_DEMAND : IO_PREFETCH;

    /* What is read before the range is clear would be evicted by the drains that free it. */
    if (t->host_done < c->after_host || c->blockers)
        return true;
    if (!c->waiting) {
        claim.need = NEED_AHEAD;
        claim.ahead = part_next_use(p, c);
    }
    for (uint32_t i = c->fill_next; i < c->end && i < c->fill_next + FILL_AHEAD; i++) {
        struct core_tile *x = &t->tiles[i];
        struct span s = span_of(c, i);

        if (!copy_drained(t, s.from, s.to, c->seq))
            return true;
        if (x->state == TILE_NONE && x->stored) {
            if (must_queue(p, c) || !tile_read_start(p, t, i, claim, class))
                return false;
        } else if (x->state != TILE_ARRIVING && i == c->fill_next) {
            if (!fill_tile(p, c, i))
                return false; /* no memory: with those that wait for room it is tried again */
        }
    }
    return true;
}

bool copy_start_ahead(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to, uint64_t limit,
                      bool no_fetch)
{
    struct core_copy *c = place_copy(p, t, from, to, limit);

    if (!c)
        return false;
    copy_set_fill(p, c, !no_fetch);
    c->hollow = no_fetch;
    c->fetched = true;
    p->stats.prefetches++;
    return true;
}

/* ---- bytes out --------------------------------------------------------- */

/* Whether the tile can be drained as soon as there is room. */
static bool drain_may(const struct core_tile *x)
{
    return x->state != TILE_ARRIVING && !x->pins && !x->writing;
}

/* With a plan, what left for an update goes out as the update comes to it: much sooner, it would take the room that
 * those before it need. Who waits for the range was issued later than the update, which waits for nothing such. */
static bool drain_early(const struct pager *p, const struct core_copy *c, uint32_t tile)
{
    const struct ofl_tensor *t = c->tensor;

    return p->planned && c->for_update && t->turns && t->turns->update && !t->tiles[tile].wanted &&
           p->fetched_bytes + t->tile_bytes > p->fetched_max / 2;
}

static void set_late(struct pager *p, struct core_copy *c, bool late)
{
    if (c->late == late)
        return;
    place_set_stuck(p, c, false); /* its urgency is another one */
    c->late = late;
}

/* What c has not of the tile comes to host memory first, and stays there until c's bytes are drained over the
 * rest: the tile is the unit that is kept below. */
static bool fetch_edge(struct pager *p, struct core_copy *c, uint32_t tile)
{
    const struct tile_claim claim = {.need = NEED_WORK};
    struct ofl_tensor *t = c->tensor;

    part_set_wants(p, c, true);
    if (tile >= t->home_tiles && must_queue(p, c))
        return false;
    if (t->tiles[tile].stored)
        return tile_read_start(p, t, tile, claim, IO_DEMAND);
    return tile_zero_start(p, t, tile, claim);
}

static bool drain_tile(struct pager *p, struct core_copy *c, uint32_t tile)
{
    struct ofl_tensor *t = c->tensor;
    struct core_tile *x = &t->tiles[tile];
    struct span s = span_of(c, tile);
    bool edge = copy_is_edge(c, tile);
    struct core_op *op;

    if (edge && x->state == TILE_NONE)
        return fetch_edge(p, c, tile);
    /* Into a tile's home, or an edge, nothing is claimed: there is no need to wait for a turn. */
    if (tile >= t->home_tiles && !edge && drain_early(p, c, tile)) {
        set_late(p, c, true); /* it stands in nobody's way */
        return false;
    }
    if (tile >= t->home_tiles && !edge &&
        (must_queue(p, c) || (p->arriving_bytes && p->arriving_bytes + t->tile_bytes > p->stage_bytes / 2)))
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
    x->stored = x->sealed = x->stale = false;
    if (tile >= t->home_tiles)
        p->arriving_bytes += x->len;
    if (t->turns && tile >= t->home_tiles) {
        tile_ahead(p, t, tile, true); /* it does not pass: the host's work is about to use it */
        tile_set_fetched(p, x, true);
    }
    op->copy = c;
    part_set_wants(p, c, false);
    c->moving++;
    c->drain_next++;
    pager_moves(p, t, 1);
    tile_touched(p, t, tile);
    p->env.copy_out(p->env.arg, on_host(p, c, tile, s), on_device(p, c, s), s.to - s.from, op);
    return true;
}

/* False: c waits for room in the host arena. */
static bool drain_advance(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    if (c->drop || c->marks || c->waiting || copy_filling(c) || t->host_done < c->drain_after ||
        copy_fill_older(c) || drain_older(c))
        return true;
    while (c->drain_next < c->end && !commit_bars(p, t, c->drain_next, c->write_seq) &&
           drain_may(&t->tiles[c->drain_next]))
        if (!drain_tile(p, c, c->drain_next))
            return false;
    return true;
}

/* ---- progress ---------------------------------------------------------- */

void copy_advance(struct pager *p, struct core_copy *c)
{
    bool room = true;

    if (p->broken.code)
        return;
    set_late(p, c, false);
    if (copy_filling(c))
        room = fill_advance(p, c);
    else if (c->ghost)
        room = drain_advance(p, c);
    place_set_stuck(p, c, !room);
    if (!room)
        blame_stuck(p, c);
}

void copy_advance_stuck(struct pager *p)
{
    struct base_node *n = base_tree_first(&p->stuck), *next;
    unsigned failed[4] = {0};

    for (; n; n = next) {
        struct core_copy *c = of_turn(n);
        unsigned class = place_urgency(c);
        struct core_copy behind = {
            .seq = SCHED_NEVER, .waiting = class == 1, .ghost = class == 0, .late = class == 3};

        if (failed[class] >= STUCK_TRIES) { /* on to those of the next kind */
            next = base_tree_after(&p->stuck, &behind.turn);
            if (next && place_urgency(of_turn(next)) == class)
                next = NULL;
            continue;
        }
        next = base_tree_after(&p->stuck, n);
        place_set_stuck(p, c, false); /* or it would stand in its own way */
        copy_advance(p, c);
        failed[class] += c->stuck && place_urgency(c) == class; /* who need not go yet has not failed */
    }
}

void copy_moved(struct pager *p, struct core_op *op)
{
    struct core_copy *c = op->copy;
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    c->moving--;
    pager_moves(p, t, -1);
    pager_look(p, t);
    if (op->code < 0) {
        struct base_error error;

        base_error_set(&error, op->code, "copy %s %s the device: tile %u, %llu bytes: %s", t->name,
                       op->type == OP_OUT ? "from" : "to", op->tile, (ull)tile_count_bytes(t, op->tile),
                       p->env.why(p->env.arg, op->code));
        pager_break(p, &error);
    }
    if (op->type == OP_OUT) {
        if (op->tile >= t->home_tiles)
            p->arriving_bytes -= x->len;
        x->state = TILE_VALID;
        c->drain_done++;
        tile_set_dirty(p, t, op->tile, true);
        if (copy_is_edge(c, op->tile) && !t->turns)
            tile_ahead(p, t, op->tile, false); /* if it was fetched, it was for this */
        if (x->stale || (c->drop && !copy_is_edge(c, op->tile)))
            tile_drop(p, t, op->tile);
        return;
    }
    if (op->type == OP_IN) {
        tile_ahead(p, t, op->tile, false); /* it has served */
        tile_unpin(p, t, op->tile);
    }
    if (!c->poisoned)
        c->fill_done++;
    if (c->fill_done < c->end)
        return;
    copy_note_fills(p, t);
    copy_stand_alone(p, c);
    copy_let_go(p, c);
}

bool copy_over(struct pager *p, struct core_copy *c)
{
    if (c->marks || c->moving || c->waiting || copy_filling(c))
        return false;
    if (!c->drop && c->drain_done < c->end)
        return false;
    if (p->poison && !c->poisoned && !p->broken.code && c->blockers == 0) {
        struct core_op *op = pager_op(p, OP_FILL, c->tensor, 0);

        if (op) {
            op->copy = c;
            c->poisoned = true;
            c->moving++;
            pager_moves(p, c->tensor, 1);
            p->env.fill(p->env.arg, p->device + c->off, 0xFF, c->len, op);
            return false;
        }
    }
    place_set_stuck(p, c, false);
    return true;
}

/* ---- failures ---------------------------------------------------------- */

static void note_error(struct core_copy *c, const struct base_error *error)
{
    if (!c->error)
        c->error = pager_error_copy(error);
}

/* c's bytes are not those of its tensor: nothing of it is written back. */
static void spoil(struct pager *p, struct core_copy *c, const struct base_error *error)
{
    note_error(c, error);
    copy_set_fill(p, c, false);
    place_set_stuck(p, c, false);
    c->dirty = false;
    if (c->ghost)
        part_drop(p, c);
    pager_look(p, c->tensor);
}

/* What awaits the bytes fails, nothing else. Not before the range is clear, though: a GPU runs what was
 * launched behind the gate all the same, and what it writes must not meet bytes of another tensor that are
 * still to be drained from there. */
void copy_fail(struct pager *p, struct ofl_tensor *t, uint64_t seq, uint64_t from, uint64_t to,
               const struct base_error *error)
{
    struct core_copy *c, *next;

    for (c = copy_first(t); c; c = next) {
        next = copy_after(c);
        if (!copy_filling(c) || c->seq <= seq || !copy_meets(c, from, to))
            continue;
        spoil(p, c, error);
        if (!c->ghost && !c->waiting && !c->leases && !c->home) {
            t->ahead_failed = true;
            place_evict(p, c);
        }
    }
}

void copy_fail_edge(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error)
{
    for (struct core_copy *c = t->ghosts; c; c = c->next)
        if (c->wants && c->drain_next == tile)
            copy_ruin(p, c, c->version, error);
}

void copy_lose(struct ofl_tensor *t, const struct base_error *error)
{
    if (!t->lost) /* the first error counts */
        t->lost = pager_error_copy(error);
    t->gone = true;
    if (commit_open(t))
        t->keep->spoilt = true; /* also if it is found again before the commit looks */
}

void copy_found(struct ofl_tensor *t)
{
    pager_error_free(t->lost);
    t->lost = NULL;
}

int copy_check_lost(const struct ofl_tensor *t, const char *what)
{
    if (!t->lost)
        return 0;
    return base_fail(t->lost->code, "%s %s: its bytes are lost until it is overwritten whole: %.850s", what,
                     t->name, t->lost->text);
}

static bool fills(const struct ofl_tensor *t)
{
    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c))
        if (copy_filling(c))
            return true;
    return false;
}

/* Host works issued since, up to to, count on it as well. */
static void ruin_works(const struct core_copy *c, uint64_t to, const struct base_error *error)
{
    struct ofl_tensor *t = c->tensor;

    if (!t->turns)
        return;
    if (!t->ruin) {
        t->ruin = pager_error_copy(error);
        t->ruin_from = c->write_seq;
        t->ruin_to = to;
    }
    if (c->write_seq < t->ruin_from)
        t->ruin_from = c->write_seq;
    if (to > t->ruin_to)
        t->ruin_to = to;
}

/* Somebody has overwritten all of t since: what it holds is not touched, but who reads what lay between the two
 * fails. */
static void ruin_superseded(struct pager *p, struct core_copy *c, const struct base_error *error)
{
    struct ofl_tensor *t = c->tensor;

    for (struct core_copy *g = copy_first(t); g; g = copy_after(g)) {
        if (!copy_filling(g) || g->seq <= c->seq || g->seq >= t->whole_seq || !copy_meets(g, c->from, c->to))
            continue;
        if (g->ghost && g->version < t->whole_version) {
            spoil(p, g, error);
        } else { /* who only overwrites it keeps it; what it holds is that write's to say */
            note_error(g, error);
            copy_set_fill(p, g, false);
        }
    }
    ruin_works(c, t->whole_seq, error);
    t->gone |= c->wrote; /* what lay below was dropped for it */
    if (commit_open(t) && c->write_seq < p->commit.seq)
        t->keep->spoilt = true; /* it is to have what lay between the two */
    spoil(p, c, error);
}

void copy_ruin(struct pager *p, struct core_copy *c, uint64_t version, const struct base_error *error)
{
    struct ofl_tensor *t = c->tensor;

    if (version < c->over_version)
        return; /* nobody has read it since, and the end of the newer write decides */
    if (version < t->whole_version) {
        ruin_superseded(p, c, error);
        return;
    }
    spoil(p, c, error);
    copy_fail(p, t, c->seq, c->from, c->to, error); /* they were promised what was to be written */
    ruin_works(c, p->seq, error);
    if (!(t->flags & OFL_TENSOR_TRANSIENT) && (c->wrote || c->home || t->gone)) {
        if (!fills(t)) /* of other parts, or of what there was before */
            tile_drop_all(p, t);
        copy_lose(t, error);
    }
    if (!c->ghost && !c->leases && !c->home && !c->waiting)
        place_evict(p, c);
}
