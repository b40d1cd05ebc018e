/* tile: see tile.h. */
#include "liboffload/core/tile.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "liboffload/core/slot.h"

/* ---- geometry ---------------------------------------------------------- */

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Bytes of the tile: the last one may be shorter, and the first one of a source. */
uint64_t tile_count_bytes(const struct ofl_tensor *t, uint32_t tile)
{
    uint64_t start = tile_start(t, tile), end = tile_start(t, tile + 1);

    return (end < t->bytes ? end : t->bytes) - start;
}

/* A source's first tile starts anywhere in the file; direct reads start at a block. */
static uint64_t skew(const struct ofl_tensor *t, uint32_t tile)
{
    return tile ? 0 : t->lead;
}

static uint64_t range_bytes(const struct ofl_tensor *t, uint32_t tile)
{
    return round_up(skew(t, tile) + tile_count_bytes(t, tile), CORE_HOST_ALIGN);
}

/* That the tile takes of the arena. All tiles of tensors with several have slots of one length, the last and shorter
 * one, too: what it leaves can take any other. */
static uint64_t slot_bytes(const struct ofl_tensor *t, uint32_t tile)
{
    if (t->tiles_count == 1)
        return range_bytes(t, tile);
    return round_up(t->tile_bytes, CORE_HOST_ALIGN);
}

static unsigned class_of(uint64_t bytes)
{
    return bytes < 2 * CORE_HOST_ALIGN ? 0 : 63u - (unsigned)__builtin_clzll(bytes / CORE_HOST_ALIGN);
}

unsigned tile_class(const struct ofl_tensor *t)
{
    return class_of(slot_bytes(t, 0));
}

void *tile_ptr(const struct pager *p, const struct ofl_tensor *t, uint32_t tile)
{
    return p->host + t->tiles[tile].off + skew(t, tile);
}

/* Tiles at home in HOST have no room in the store: it begins with the first tile behind them. */
static uint64_t file_offset(const struct ofl_tensor *t, uint32_t tile, uint8_t slot)
{
    return t->file_off + slot_start(t, slot) + tile_start(t, tile) - tile_start(t, t->home_tiles);
}

/* ---- states ------------------------------------------------------------ */

static void set_dirty(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool dirty)
{
    struct core_tile *x = &t->tiles[tile];

    if (x->dirty == dirty || tile < t->home_tiles)
        return; /* a tile at home has nowhere to be written to */
    x->dirty = dirty;
    if (dirty)
        p->dirty_bytes += x->len;
    else
        p->dirty_bytes -= x->len;
}

void tile_set_dirty(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool dirty)
{
    set_dirty(p, t, tile, dirty);
    tile_touched(p, t, tile);
}

static void free_range(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    assert(x->pins == 0 && !x->writing);
    set_dirty(p, t, tile, false);
    tile_set_fetched(p, x, false);
    x->state = TILE_NONE;
    x->stale = false;
    if (tile >= t->home_tiles) {
        base_extents_give(p->host_ranges, x->off, x->len);
        p->cached_bytes -= x->len;
        t->host_tiles--;
    }
    tile_touched(p, t, tile);
}

/* The tile's bytes are not wanted any more, neither here nor in the store. */
void tile_drop(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    x->stored = t->source != NULL;
    x->sealed &= x->stored;
    tile_ahead(p, t, tile, false);
    if (x->state == TILE_NONE) {
        if (tile >= t->home_tiles)
            base_bits_put(&t->missing, tile, x->stored);
        return;
    }
    if (x->pins || x->state == TILE_ARRIVING)
        x->stale = true;
    else
        free_range(p, t, tile);
}

void tile_drop_all(struct pager *p, struct ofl_tensor *t)
{
    for (uint32_t i = 0; i < t->tiles_count; i++)
        tile_drop(p, t, i);
}

void tile_pin(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    assert(t->tiles[tile].state == TILE_VALID);
    t->tiles[tile].pins++;
    t->pins++;
    tile_touched(p, t, tile);
}

void tile_unpin(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    assert(x->pins > 0);
    t->pins--;
    if (--x->pins == 0 && x->stale)
        free_range(p, t, tile);
    else
        tile_touched(p, t, tile);
}

void tile_want(struct pager *p, struct ofl_tensor *t, uint32_t tile, int by)
{
    t->tiles[tile].wanted = (uint16_t)(t->tiles[tile].wanted + by);
    tile_touched(p, t, tile);
}

/* Something still uses a range of t. */
bool tile_busy(const struct ofl_tensor *t)
{
    return t->moving || t->pins;
}

/* ---- victims ----------------------------------------------------------- */

struct search {
    struct pager *p;
    struct tile_claim claim;
    uint64_t bytes; /* at least so long */
    enum sched_set set;
    uint32_t tile;
};

static const struct base_bits *members_of(const struct ofl_tensor *t, enum sched_set set)
{
    switch (set) {
    case SCHED_SPENT:
        return &t->spent;
    case SCHED_PASSING:
        return &t->passing;
    default:
        return set == SCHED_DIRTY ? &t->dirty : &t->clean;
    }
}

/* The last of the idle tiles before `before` that may leave for the claim, so that a fixed front part of each
 * tensor stays. BASE_BITS_NONE: there is none. */
static uint32_t last_idle(const struct ofl_tensor *t, const struct search *s, uint32_t before)
{
    const struct base_bits *idle = members_of(t, s->set);
    const struct tile_claim *c = &s->claim;
    uint32_t i = before ? base_bits_last(idle, before - 1) : BASE_BITS_NONE;

    if (i == BASE_BITS_NONE || c->need != NEED_FILL || t->fill_seq != c->seq)
        return i;
    if (i <= c->tile && i >= c->landed) /* its own, still to be copied */
        return c->landed ? base_bits_last(idle, c->landed - 1) : BASE_BITS_NONE;
    return i;
}

static enum sched_verdict judge(void *arg, uint32_t id, uint64_t distance)
{
    struct search *s = arg;
    const struct ofl_tensor *t = s->p->by_id[id];
    uint32_t i;

    /* What has passed, as the plan says, is not what is needed next. */
    if (s->set != SCHED_SPENT && s->claim.need == NEED_AHEAD && distance <= s->claim.ahead)
        return SCHED_STOP;
    if (s->claim.need == NEED_FILL && t->fill_seq < s->claim.seq)
        return SCHED_SKIP;
    i = last_idle(t, s, t->tiles_count);
    if (i != BASE_BITS_NONE && t->tiles[i].len < s->bytes)
        i = last_idle(t, s, i); /* only the last one is shorter than the others */
    if (i == BASE_BITS_NONE || t->tiles[i].len < s->bytes)
        return SCHED_SKIP;
    s->tile = i;
    return SCHED_TAKE;
}

static struct ofl_tensor *choose(struct search *s, enum sched_set set)
{
    uint32_t id;

    s->set = set;
    if (!sched_choose(s->p->sched, set, class_of(s->bytes), judge, s, &id))
        return NULL;
    return s->p->by_id[id];
}

/* From set: a tile as long as what is wanted makes room at once, shorter ones only piece by piece. */
static bool evict_from(struct pager *p, enum sched_set set, uint64_t bytes, struct tile_claim claim,
                       bool pieces)
{
    struct search s = {.p = p, .claim = claim, .bytes = bytes};
    struct ofl_tensor *t = choose(&s, set);

    if (!t && pieces) {
        s.bytes = 0;
        t = choose(&s, set);
    }
    if (!t)
        return false;
    free_range(p, t, s.tile);
    if (sched_far(p->sched, t->id) < p->ahead_host)
        p->ahead_host = sched_far(p->sched, t->id); /* it may be worth fetching again */
    return true;
}

bool tile_room_comes(const struct pager *p)
{
    return p->moving || p->running;
}

/* Piece by piece is not done for what is ahead: it may not succeed, and what has left would be fetched again, for
 * ever. What is being filled leaves last: it has landed and would be read again. That, and what is to rest, only
 * when nothing else is about to leave. */
static bool evict_one(struct pager *p, uint64_t bytes, struct tile_claim claim)
{
    bool ahead = claim.need == NEED_AHEAD;

    if (evict_from(p, SCHED_SPENT, bytes, claim, !ahead))
        return true;
    if (p->planned && (ahead || tile_room_comes(p)))
        return false;
    return evict_from(p, SCHED_CLEAN, bytes, claim, !ahead) ||
           (!ahead && !tile_room_comes(p) && evict_from(p, SCHED_FILLING, bytes, claim, true));
}

/* Gives the tile a range, evicting clean idle tiles if needed. False: none now; a later
 * completion may change that. */
bool tile_claim_range(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim)
{
    struct core_tile *x = &t->tiles[tile];
    uint64_t bytes = slot_bytes(t, tile);

    if (x->state != TILE_NONE || tile < t->home_tiles)
        return true;
    if (!base_extents_ready(p->host_ranges)) {
        p->hungry = true;
        return false;
    }
    /* It would take the holes that others make piece by piece, and lose them to these again, for ever. */
    if (claim.need == NEED_AHEAD && p->crowded)
        return false;
    claim.tile = tile;
    for (;;) {
        x->off = base_extents_take(p->host_ranges, bytes);
        if (x->off != BASE_EXTENT_NONE)
            break;
        if (!evict_one(p, bytes, claim)) {
            p->crowded |= claim.need != NEED_AHEAD;
            p->starved |= claim.need != NEED_AHEAD && !(p->planned && tile_room_comes(p));
            return false;
        }
    }
    x->len = (uint32_t)bytes;
    t->host_tiles++;
    p->cached_bytes += bytes;
    tile_note_peak(p);
    return true;
}

/* ---- reads ------------------------------------------------------------- */

static void seal_start(struct pager *p, struct core_op *op)
{
    op->sealing = true;
    op->seal_bytes = tile_ptr(p, op->tensor, op->tile);
    op->seal_count = tile_count_bytes(op->tensor, op->tile);
    p->env.seal(p->env.arg, op);
}

struct core_op *tile_arrive(struct pager *p, struct ofl_tensor *t, uint32_t tile, enum core_op_type type,
                            struct tile_claim claim)
{
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op = pager_op(p, type, t, tile);

    if (!op)
        return NULL;
    if (!tile_claim_range(p, t, tile, claim)) {
        pager_op_cancel(p, op);
        return NULL;
    }
    x->state = TILE_ARRIVING;
    if (tile >= t->home_tiles)
        p->arriving_bytes += x->len;
    pager_moves(p, t, 1);
    tile_touched(p, t, tile);
    return op;
}

/* Fetches the tile from the store or its source. False: no room now, or too much in flight. */
bool tile_read_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim,
                     enum io_class class)
{
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op;

    assert(x->stored && x->state == TILE_NONE && tile >= t->home_tiles);
    /* Half without a store: nothing else passes through the stage then. */
    if (p->arriving_bytes && p->arriving_bytes + slot_bytes(t, tile) > p->stage_bytes / (p->store ? 4 : 2))
        return false;
    if (p->planned && claim.need == NEED_AHEAD && p->fetched_bytes &&
        p->fetched_bytes + slot_bytes(t, tile) > p->fetched_max)
        return false;
    op = tile_arrive(p, t, tile, OP_READ, claim);
    if (!op)
        return false;
    tile_ahead(p, t, tile, true);
    tile_set_fetched(p, x, true);
    op->io.op = IO_READ;
    op->io.class = class;
    op->io.file = t->file;
    op->io.buf = p->host + x->off;
    op->io.offset = file_offset(t, tile, x->slot) - skew(t, tile);
    op->io.bytes = range_bytes(t, tile);
    op->io.need_bytes = skew(t, tile) + tile_count_bytes(t, tile);
    p->env.io(p->env.arg, op);
    return true;
}

/* Bytes of the store are those that were written; of a source, those that were there when the tile was
 * first read, since a file can be written without a trace in its time. */
static void check_seal(struct core_op *op)
{
    const struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    if (!x->sealed) {
        x->seal = op->seal;
        x->sealed = true;
    }
    if (op->seal == x->seal)
        return;
    if (t->source)
        base_error_set(&op->io.error, -OFL_ECHECKSUM,
                       "read %s: tile %u of %s, file offset %llu, %llu bytes: other bytes than when it was "
                       "first read: the file was written meanwhile, or the drive is at fault",
                       io_file_path(t->file), op->tile, t->name, (ull)file_offset(t, op->tile, x->slot),
                       (ull)op->seal_count);
    else
        base_error_set(&op->io.error, -OFL_ECHECKSUM,
                       "read %s back from the store: tile %u, file offset %llu, %llu bytes: %s", t->name,
                       op->tile, (ull)op->io.offset, (ull)op->seal_count, base_strerror(-OFL_ECHECKSUM));
}

static void count_read(struct pager *p, const struct core_op *op)
{
    if (op->tensor->source)
        p->stats.source_read_bytes += op->io.done_bytes;
    else
        p->stats.nvme_read_bytes += op->io.done_bytes;
}

/* The read is late: its range is its own until it comes back, and the tile is free to be read again. */
static void orphan_make(struct pager *p, struct core_op *op)
{
    struct core_tile *x = &op->tensor->tiles[op->tile];

    op->orphan_off = x->off;
    op->orphan_len = x->len;
    op->orphan_next = p->orphans;
    p->orphans = op;
    p->arriving_bytes -= x->len;
    p->moving--; /* nobody waits for it */
    tile_set_fetched(p, x, false);
    x->state = TILE_NONE;
    x->stale = false;
    op->tensor->host_tiles--;
    tile_touched(p, op->tensor, op->tile);
}

static void orphan_free(struct pager *p, struct core_op *op)
{
    struct core_op **at = &p->orphans;

    while (*at != op)
        at = &(*at)->orphan_next;
    *at = op->orphan_next;
    base_extents_give(p->host_ranges, op->orphan_off, op->orphan_len);
    p->cached_bytes -= op->orphan_len;
    p->moving++;
    pager_moves(p, op->tensor, -1);
    pager_look(p, op->tensor);
}

static enum tile_io read_done(struct pager *p, struct core_op *op, struct base_error *why)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    if (op->sealing) {
        op->sealing = false;
        if (op->io.error.code == 0)
            check_seal(op);
    } else {
        count_read(p, op);
        if (op->orphan_len) {
            orphan_free(p, op);
            return TILE_IO_DONE; /* of its failure they know already */
        }
        if (op->io.error.code == 0 && !x->stale) {
            seal_start(p, op);
            return TILE_IO_GOES_ON;
        }
    }
    pager_moves(p, t, -1);
    p->arriving_bytes -= x->len;
    x->state = TILE_VALID;
    if (op->io.error.code < 0 || x->stale)
        free_range(p, t, op->tile);
    else
        tile_touched(p, t, op->tile);
    if (op->io.error.code == 0)
        return TILE_IO_DONE;
    base_error_set(why, op->io.error.code, "fetch %s: %.900s", t->name, op->io.error.text);
    return TILE_IO_FAILED;
}

/* ---- write-backs ------------------------------------------------------- */

bool tile_write_start(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op = pager_op(p, OP_WRITE, t, tile);

    assert(x->state == TILE_VALID && x->dirty && !x->writing && tile >= t->home_tiles &&
           !slot_held(p, t, tile));
    if (!op)
        return false;
    x->writing = true;
    p->writing_bytes += x->len;
    pager_moves(p, t, 1);
    tile_pin(p, t, tile);
    op->io.op = IO_WRITE;
    op->io.class = IO_WRITEBACK;
    op->io.file = t->file;
    op->io.buf = p->host + x->off;
    op->slot = slot_to_write(p, t, tile);
    p->commit.dirty |= t->keep != NULL;
    op->io.offset = file_offset(t, tile, op->slot);
    op->io.bytes = op->io.need_bytes = range_bytes(t, tile);
    seal_start(p, op);
    return true;
}

static enum tile_io write_done(struct pager *p, struct core_op *op, struct base_error *why)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];
    bool sealed = op->sealing;

    op->sealing = false;
    if (sealed && !p->broken.code && !x->stale) {
        x->seal = op->seal;
        x->sealed = true;
        p->env.io(p->env.arg, op);
        return TILE_IO_GOES_ON;
    }
    pager_moves(p, t, -1);
    p->writing_bytes -= x->len;
    x->writing = false;
    if (!sealed)
        p->stats.nvme_write_bytes += op->io.done_bytes; /* moved, whether or not anybody wants it any more */
    if (!sealed && op->io.error.code == 0 && !x->stale) {
        x->stored = true;
        x->slot = op->slot;
        set_dirty(p, t, op->tile, false);
    }
    tile_unpin(p, t, op->tile);
    if (sealed || op->io.error.code == 0 || op->late)
        return TILE_IO_DONE;
    base_error_set(why, op->io.error.code, "write %s back to the store: %.900s", t->name, op->io.error.text);
    return TILE_IO_FAILED;
}

enum tile_io tile_io_done(struct pager *p, struct core_op *op, struct base_error *why)
{
    return op->type == OP_READ ? read_done(p, op, why) : write_done(p, op, why);
}

enum tile_io tile_io_late(struct pager *p, struct core_op *op, struct base_error *why)
{
    const char *name = op->tensor->name, *text = op->io.error.text;

    op->late = true;
    if (op->type == OP_READ) {
        orphan_make(p, op);
        base_error_set(why, op->io.error.code, "fetch %s: %.900s", name, text);
    } else {
        base_error_set(why, op->io.error.code, "write %s back to the store: %.900s", name, text);
    }
    return TILE_IO_FAILED;
}

/* Writes of set, what is needed last first, while free, clean and written bytes are less than enough. */
static void write_some(struct pager *p, enum sched_set set, uint64_t ready, uint64_t enough)
{
    struct search s = {.p = p, .claim = {.need = NEED_WORK}};

    while (ready + p->writing_bytes < enough) {
        struct ofl_tensor *t = choose(&s, set);

        if (!t || !tile_write_start(p, t, s.tile))
            return; /* out of memory for an operation: later */
    }
}

/* Keeps some of the arena free, clean or on its way to clean, so that claims seldom wait for a write. A plan says
 * what passes: that is written when it has served, and what rests only if nothing else helps. */
void tile_write_behind(struct pager *p)
{
    uint64_t low = p->stage_bytes / 8, free_bytes, clean;

    if (!p->store || p->dirty_bytes == 0)
        return;
    free_bytes = base_extents_free_bytes(p->host_ranges);
    clean = p->cached_bytes > p->dirty_bytes ? p->cached_bytes - p->dirty_bytes : 0;
    if (p->planned)
        write_some(p, SCHED_PASSING, 0, low);
    else
        write_some(p, SCHED_DIRTY, free_bytes + clean, low);
    if (p->starved)
        write_some(p, SCHED_DIRTY, 0, low);
    p->starved = false;
}

/* A home is to lie beyond stage_bytes: moves what is cached there out of the way. */
bool tile_vacate(struct pager *p)
{
    bool clear = true;

    for (const struct core_op *op = p->orphans; op; op = op->orphan_next)
        if (op->orphan_off + op->orphan_len > p->stage_bytes)
            return false;
    if (base_extents_span(p->host_ranges) - base_extents_free_bytes(p->host_ranges) == p->cached_bytes)
        return true; /* all that is cached lies inside */
    for (struct ofl_tensor *t = p->tensors; t && p->cached_bytes; t = t->next) {
        if (t->host_tiles == t->home_tiles)
            continue;
        for (uint32_t i = t->home_tiles; i < t->tiles_count; i++) {
            struct core_tile *x = &t->tiles[i];

            if (x->state == TILE_NONE || x->off + x->len <= p->stage_bytes)
                continue;
            if (base_bits_has(&t->clean, i)) {
                free_range(p, t, i);
                continue;
            }
            if (base_bits_has(&t->dirty, i))
                tile_write_start(p, t, i);
            clear = false;
        }
    }
    return clear;
}
