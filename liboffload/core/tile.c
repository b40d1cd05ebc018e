/*
 * tile: the HOST tier. Owns the ranges of the host arena, reads into them, write-backs
 * out of them, and the choice of victims. Knows copies only to protect the tiles that
 * a pending fill awaits.
 */
#include <errno.h>
#include <stdio.h>

#include "liboffload/core/pager.h"

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Bytes of the tile: the last one is shorter. */
uint64_t tile_count_bytes(const struct ofl_tensor *t, uint32_t tile)
{
    uint64_t start = tile * t->tile_bytes;

    return t->bytes - start < t->tile_bytes ? t->bytes - start : t->tile_bytes;
}

/* A source's tiles start anywhere in the file; direct reads start at a block. */
static uint64_t skew(const struct ofl_tensor *t, uint32_t tile)
{
    return t->source ? (t->file_off + tile * t->tile_bytes) % CORE_HOST_ALIGN : 0;
}

static uint64_t range_bytes(const struct ofl_tensor *t, uint32_t tile)
{
    return round_up(skew(t, tile) + tile_count_bytes(t, tile), CORE_HOST_ALIGN);
}

void *tile_ptr(const struct pager *p, const struct ofl_tensor *t, uint32_t tile)
{
    return p->host + t->tiles[tile].off + skew(t, tile);
}

void tile_set_dirty(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool dirty)
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

static void free_range(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    tile_set_dirty(p, t, tile, false);
    x->state = TILE_NONE;
    x->stale = false;
    if (tile < t->home_tiles)
        return;
    /* A range lost for want of memory only wastes space. */
    base_extents_give(p->host_ranges, x->off, x->len);
    p->cached_bytes -= x->len;
    t->host_tiles--;
}

/* The tile's bytes are not wanted any more, neither here nor in the store. */
void tile_drop(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    x->stored = t->source != NULL;
    if (x->state == TILE_NONE)
        return;
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

void tile_unpin(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];

    if (--x->pins == 0 && x->stale)
        free_range(p, t, tile);
}

/* ---- victims ----------------------------------------------------------- */

static bool may_evict_from(const struct ofl_tensor *t, struct tile_claim claim, uint64_t distance)
{
    if (claim.need == NEED_WORK)
        return true;
    if (claim.need == NEED_FILL)
        return t->fill_seq >= claim.seq;
    return t->fill_seq == SCHED_NEVER && !t->fill_ahead && distance > claim.ahead;
}

static bool idle(const struct core_tile *x, bool dirty)
{
    return x->state == TILE_VALID && x->pins == 0 && (dirty || !x->wanted) && !x->writing &&
           x->dirty == dirty;
}

struct victim {
    struct ofl_tensor *tensor;
    uint32_t tile;
};

/* The idle tile whose next use is farthest, of at least so many bytes. Within a tensor the
 * last tiles go first, so that a fixed front part of it stays. */
static bool choose(struct pager *p, uint64_t min_bytes, bool dirty, struct tile_claim claim,
                   struct victim *out)
{
    uint64_t farthest = 0;
    bool found = false;

    for (struct ofl_tensor *t = p->tensors; t; t = t->next) {
        bool own = claim.need == NEED_FILL && t->fill_seq == claim.seq;
        uint64_t distance;

        if (t->host_tiles == t->home_tiles)
            continue;
        distance = sched_next_use(p->sched, t->id);
        if (found && distance <= farthest)
            continue;
        if (!may_evict_from(t, claim, distance))
            continue;
        for (uint32_t i = t->tiles_count; i-- > t->home_tiles;) {
            if (own && i >= claim.landed && i <= claim.tile)
                continue;
            if (!idle(&t->tiles[i], dirty) || t->tiles[i].len < min_bytes)
                continue;
            *out = (struct victim){t, i};
            farthest = distance;
            found = true;
            break;
        }
    }
    return found;
}

static bool evict_one(struct pager *p, uint64_t bytes, struct tile_claim claim)
{
    struct victim v;

    /* A tile as long as what is wanted makes room at once; shorter ones only piece by piece. */
    if (!choose(p, bytes, false, claim, &v) && !choose(p, 0, false, claim, &v))
        return false;
    free_range(p, v.tensor, v.tile);
    return true;
}

/* Gives the tile a range, evicting clean idle tiles if needed. False: none now; a later
 * completion may change that. */
bool tile_claim_range(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim)
{
    struct core_tile *x = &t->tiles[tile];
    uint64_t bytes = range_bytes(t, tile);

    if (x->state != TILE_NONE || tile < t->home_tiles)
        return true;
    if ((claim.need == NEED_FILL && p->fills_stuck) || (claim.need == NEED_AHEAD && p->ahead_stuck))
        return false;
    claim.tile = tile;
    for (;;) {
        x->off = base_extents_take(p->host_ranges, bytes);
        if (x->off != BASE_EXTENT_NONE)
            break;
        if (!evict_one(p, bytes, claim)) {
            p->starved |= claim.need != NEED_AHEAD;
            p->fills_stuck |= claim.need == NEED_FILL;
            p->ahead_stuck = true;
            return false;
        }
    }
    x->len = (uint32_t)bytes;
    t->host_tiles++;
    p->cached_bytes += bytes;
    tile_note_peak(p);
    return true;
}

uint64_t tile_host_used(const struct pager *p)
{
    return p->host_bytes - base_extents_free_bytes(p->host_ranges) - base_extents_free_bytes(p->homes.host);
}

void tile_note_peak(struct pager *p)
{
    if (tile_host_used(p) > p->host_peak)
        p->host_peak = tile_host_used(p);
}

/* ---- reads and write-backs --------------------------------------------- */

/* Tiles at home in HOST have no room in the store: it begins with the first tile behind them. */
static uint64_t file_offset(const struct ofl_tensor *t, uint32_t tile)
{
    return t->file_off + (tile - t->home_tiles) * t->tile_bytes;
}

/* Fetches the tile from the store or its source. False: no room now, or too much in flight. */
bool tile_read_start(struct pager *p, struct ofl_tensor *t, uint32_t tile, struct tile_claim claim,
                     enum io_class class)
{
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op;

    if (p->arriving_bytes && p->arriving_bytes + range_bytes(t, tile) > p->stage_bytes / 4)
        return false;
    op = pager_op(p, OP_READ, t, tile);
    if (!op)
        return false;
    if (!tile_claim_range(p, t, tile, claim)) {
        pager_op_cancel(p, op);
        return false;
    }
    x->state = TILE_ARRIVING;
    p->arriving_bytes += x->len;
    t->moving++;
    if (class == IO_DEMAND)
        t->fetch_failed = false;
    op->io.op = IO_READ;
    op->io.class = class;
    op->io.file = t->file;
    op->io.buf = p->host + x->off;
    op->io.offset = file_offset(t, tile) - skew(t, tile);
    op->io.bytes = x->len;
    op->io.need_bytes = skew(t, tile) + tile_count_bytes(t, tile);
    p->env.io(p->env.arg, op);
    return true;
}

static void write_start(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    struct core_tile *x = &t->tiles[tile];
    struct core_op *op = pager_op(p, OP_WRITE, t, tile);

    if (!op)
        return;
    x->seal = store_seal(p->host + x->off, tile_count_bytes(t, tile));
    x->pins++;
    x->writing = true;
    p->writing_bytes += x->len;
    t->moving++;
    op->io.op = IO_WRITE;
    op->io.class = IO_WRITEBACK;
    op->io.file = t->file;
    op->io.buf = p->host + x->off;
    op->io.offset = file_offset(t, tile);
    op->io.bytes = op->io.need_bytes = x->len;
    p->env.io(p->env.arg, op);
}

/* Keeps some of the arena free, clean or on its way to clean, so that claims seldom wait for
 * a write. What is needed last is written first. */
void tile_write_behind(struct pager *p)
{
    uint64_t low = p->stage_bytes / 8, free_bytes, clean, ready;
    struct tile_claim claim = {.need = NEED_WORK};
    struct victim v;

    if (!p->store || p->dirty_bytes == 0)
        return;
    free_bytes = base_extents_free_bytes(p->host_ranges);
    clean = p->cached_bytes > p->dirty_bytes ? p->cached_bytes - p->dirty_bytes : 0;
    ready = free_bytes + clean;
    while (ready + p->writing_bytes < low || (p->starved && p->writing_bytes < low)) {
        uint64_t before = p->writing_bytes;

        if (!choose(p, 0, true, claim, &v))
            break;
        write_start(p, v.tensor, v.tile);
        if (p->writing_bytes == before)
            break; /* out of memory for an operation: later */
    }
    p->starved = false;
}

/* A home is to lie beyond stage_bytes: moves what is cached there out of the way. */
bool tile_vacate(struct pager *p)
{
    bool clear = true;

    for (struct ofl_tensor *t = p->tensors; t && p->cached_bytes; t = t->next) {
        if (t->host_tiles == t->home_tiles)
            continue;
        for (uint32_t i = t->home_tiles; i < t->tiles_count; i++) {
            struct core_tile *x = &t->tiles[i];

            if (x->state == TILE_NONE || x->off + x->len <= p->stage_bytes)
                continue;
            if (idle(x, false)) {
                free_range(p, t, i);
                p->changes++;
                continue;
            }
            if (idle(x, true))
                write_start(p, t, i);
            clear = false;
        }
    }
    return clear;
}

/* Bytes of the store are those that were written; of a source, those that were there when the tile was
 * first read, since a file can be written without a trace in its time. */
static void check_seal(struct pager *p, struct core_op *op)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];
    uint64_t bytes = tile_count_bytes(t, op->tile), seal = store_seal(tile_ptr(p, t, op->tile), bytes);

    if (t->source && x->seal == 0)
        x->seal = seal;
    if (seal == x->seal)
        return;
    if (t->source)
        base_error_set(&op->io.error, -OFL_ECHECKSUM,
                       "read %s: tile %u of %s, file offset %llu, %llu bytes: other bytes than when it was "
                       "first read: the file was written meanwhile, or the drive is at fault",
                       io_file_path(t->file), op->tile, t->name, (unsigned long long)file_offset(t, op->tile),
                       (unsigned long long)bytes);
    else
        base_error_set(&op->io.error, -OFL_ECHECKSUM,
                       "read %s back from the store: tile %u, file offset %llu, %llu bytes: %s", t->name,
                       op->tile, (unsigned long long)op->io.offset, (unsigned long long)bytes,
                       base_strerror(-OFL_ECHECKSUM));
}

static void read_done(struct pager *p, struct core_op *op)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];
    struct base_error *error = &op->io.error;

    p->arriving_bytes -= x->len;
    if (t->source)
        p->stats.source_read_bytes += op->io.done_bytes;
    else
        p->stats.nvme_read_bytes += op->io.done_bytes;
    x->state = TILE_VALID;
    if (error->code == 0)
        check_seal(p, op);
    if (error->code < 0) {
        struct base_error named;

        base_error_set(&named, error->code, "fetch %s: %.900s", t->name, error->text);
        t->fetch_failed = true;
        free_range(p, t, op->tile);
        copy_fail(p, t, &named);
        work_fail(p, t, op->tile, &named);
    } else if (x->stale) {
        free_range(p, t, op->tile);
    }
}

static void write_done(struct pager *p, struct core_op *op)
{
    struct ofl_tensor *t = op->tensor;
    struct core_tile *x = &t->tiles[op->tile];

    p->writing_bytes -= x->len;
    x->writing = false;
    if (op->io.error.code < 0) {
        struct base_error named;

        base_error_set(&named, op->io.error.code, "write %s back to the store: %.900s", t->name,
                       op->io.error.text);
        pager_break(p, &named);
    } else if (!x->stale) {
        p->stats.nvme_write_bytes += op->io.done_bytes;
        x->stored = true;
        tile_set_dirty(p, t, op->tile, false);
    }
    tile_unpin(p, t, op->tile);
}

void tile_io_done(struct pager *p, struct core_op *op)
{
    op->tensor->moving--;
    if (op->type == OP_READ)
        read_done(p, op);
    else
        write_done(p, op);
}

/* Something still uses a range of t. */
bool tile_busy(const struct ofl_tensor *t)
{
    if (t->moving)
        return true;
    for (uint32_t i = 0; i < t->tiles_count; i++)
        if (t->tiles[i].pins || t->tiles[i].state == TILE_ARRIVING)
            return true;
    return false;
}
