/*
 * verify: see verify.h. Reads everything and changes nothing. What is in the hands of others (tiles held by
 * callers and workers, bytes on their way) is checked as far as the pager itself can know it. What is kept up
 * lazily, once a tensor is looked at, is checked for tensors that nobody is to look at.
 */
#include "liboffload/core/verify.h"

#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/commit.h"
#include "liboffload/core/copy.h"
#include "liboffload/core/hint.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/slot.h"
#include "liboffload/core/tile.h"
#include "liboffload/core/verify_copy.h"

#define FAIL(why, ...) (base_error_set((why), -EINVAL, __VA_ARGS__), -EINVAL)

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- waits ------------------------------------------------------------- */

static uint32_t conds_in(const struct core_copy *c, const struct core_wait *w)
{
    uint32_t n = 0;

    for (const struct core_cond *cond = c->conds; cond; cond = cond->next)
        n += !w || cond->wait == w;
    return n;
}

static uint32_t conds_of(const struct pager *p, const struct core_wait *w)
{
    uint32_t n = 0;

    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        n += conds_in(c, w);
    for (const struct ofl_tensor *t = p->tensors; t; t = t->next)
        for (const struct core_copy *c = t->ghosts; c; c = c->next)
            n += conds_in(c, w);
    return n;
}

/* It has failed before its stream could wait: its gate opens next. */
static bool has_failed(const struct pager *p, const struct core_wait *w)
{
    const struct core_wait *f = p->failed_waits;

    while (f && f != w)
        f = f->failed_next;
    return f;
}

static int check_waits(const struct pager *p, struct base_error *why)
{
    uint64_t all = 0;

    for (const struct core_wait *w = p->waits.next; w != &p->waits; w = w->next) {
        uint32_t n = conds_of(p, w);

        if (has_failed(p, w) ? n || w->remaining != 1 : n == 0 || n != w->remaining)
            return FAIL(why, "waits: a gate has %u conditions, remaining is %u", n, w->remaining);
        all += n;
    }
    if (all != conds_of(p, NULL))
        return FAIL(why, "waits: copies have conditions of a wait that is not in the list");
    return 0;
}

/* ---- tiles ------------------------------------------------------------- */

/* Sums over all tiles; pages: what of the host arena is taken, a bit each. */
struct sums {
    uint64_t cached, in_stage, dirty, writing, arriving, wanted, edges, fetched, home_host, home_nvme;
    uint32_t ghosts, looks, sizes, moving;
    uint64_t *pages;
};

static uint64_t in_stage(const struct pager *p, uint64_t off, uint64_t len)
{
    return off >= p->stage_bytes ? 0 : off + len > p->stage_bytes ? p->stage_bytes - off : len;
}

static int take_pages(const struct pager *p, const char *name, uint64_t off, uint64_t len, struct sums *s,
                      struct base_error *why)
{
    if (off % CORE_HOST_ALIGN || len % CORE_HOST_ALIGN || len == 0 || off + len > p->host_bytes)
        return FAIL(why, "%s: range %llu, %llu bytes, of %llu", name, (ull)off, (ull)len, (ull)p->host_bytes);
    for (uint64_t page = off / CORE_HOST_ALIGN; page < (off + len) / CORE_HOST_ALIGN; page++) {
        if (s->pages[page / 64] >> page % 64 & 1)
            return FAIL(why, "%s: range %llu, %llu bytes: another tile's, too", name, (ull)off, (ull)len);
        s->pages[page / 64] |= 1ull << page % 64;
    }
    return 0;
}

static int check_tile_state(const struct pager *p, const struct ofl_tensor *t, uint32_t tile,
                            struct base_error *why)
{
    const struct core_tile *x = &t->tiles[tile];
    bool home = tile < t->home_tiles;

    if (x->state == TILE_NONE && (x->pins || x->dirty || x->writing || x->stale))
        return FAIL(why, "%s: tile %u is not there: pins %u%s%s%s", t->name, tile, x->pins,
                    x->dirty ? ", dirty" : "", x->writing ? ", writing" : "", x->stale ? ", stale" : "");
    if (x->state == TILE_ARRIVING && (x->pins || x->dirty || x->writing))
        return FAIL(why, "%s: tile %u arrives: pins %u%s%s", t->name, tile, x->pins,
                    x->dirty ? ", dirty" : "", x->writing ? ", writing" : "");
    if ((x->writing || x->stale) && x->state == TILE_VALID && x->pins == 0)
        return FAIL(why, "%s: tile %u: %s without a pin", t->name, tile, x->stale ? "stale" : "writing");
    if (home && (x->dirty || x->writing || x->stored))
        return FAIL(why, "%s: tile %u is at home in host memory: %s", t->name, tile,
                    x->dirty     ? "dirty"
                    : x->writing ? "writing"
                                 : "stored");
    if (!home && x->state == TILE_VALID && x->pins == 0 && !x->dirty && !x->stored && !p->broken.code)
        return FAIL(why, "%s: tile %u is idle, neither dirty nor stored: its eviction would lose it", t->name,
                    tile);
    if (t->source && (x->dirty || x->writing || !x->stored))
        return FAIL(why, "%s: tile %u of a source: %s", t->name, tile,
                    x->dirty     ? "dirty"
                    : x->writing ? "writing"
                                 : "not stored");
    return 0;
}

/* The sets by which what could leave, and what is missing, is found. */
static int check_bits(const struct pager *p, const struct ofl_tensor *t, uint32_t tile,
                      struct base_error *why)
{
    const struct core_tile *x = &t->tiles[tile];
    bool idle = x->state == TILE_VALID && !x->pins && !x->writing;
    bool held = x->dirty && slot_held(p, t, tile);
    bool kept = tile < tile_rest_of(t, tile) || base_bits_has(&t->ahead, tile) || x->wanted;

    if (base_bits_has(&t->spent, tile) != (idle && !x->dirty && !kept) ||
        base_bits_has(&t->passing, tile) != (idle && x->dirty && !kept && !held))
        return FAIL(why, "%s: tile %u is counted as%s%s: %u rest%s%s", t->name, tile,
                    base_bits_has(&t->spent, tile) ? " spent" : "",
                    base_bits_has(&t->passing, tile) ? " passing" : "", tile_rest_of(t, tile),
                    base_bits_has(&t->ahead, tile) ? ", somebody is about to use it" : "",
                    x->dirty ? ", dirty" : "");
    if (base_bits_has(&t->clean, tile) != (idle && !x->wanted && !x->dirty) ||
        base_bits_has(&t->dirty, tile) != (idle && x->dirty && !held) ||
        base_bits_has(&t->missing, tile) != (x->state == TILE_NONE && x->stored))
        return FAIL(why, "%s: tile %u is counted as%s%s%s: state %d, pins %u, wanted %u%s%s", t->name, tile,
                    base_bits_has(&t->clean, tile) ? " clean" : "",
                    base_bits_has(&t->dirty, tile) ? " dirty" : "",
                    base_bits_has(&t->missing, tile) ? " missing" : "", (int)x->state, x->pins, x->wanted,
                    x->dirty ? ", dirty" : "", x->stored ? ", stored" : "");
    return 0;
}

/* What of t's tiles is in flight or in use, together. */
struct busy {
    uint32_t here, arriving, writing, pins;
};

/* Operations in flight on t: those of its copies, reads, late ones too, and write-backs. */
static int check_moving(const struct pager *p, const struct ofl_tensor *t, const struct busy *b,
                        struct base_error *why)
{
    uint32_t draining = 0, moving = 0, orphans = 0;

    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c)) {
        draining += c->drain_next - c->drain_done;
        moving += c->moving;
    }
    for (const struct core_op *op = p->orphans; op; op = op->orphan_next)
        orphans += op->tensor == t;
    if (b->arriving < draining || t->moving != moving + orphans + b->arriving - draining + b->writing)
        return FAIL(
            why,
            "%s: moving is %u: %u link copies, %u tiles arriving, %u of them from the device, %u late, %u "
            "written back",
            t->name, t->moving, moving, b->arriving, draining, orphans, b->writing);
    if (b->pins != t->pins || b->here != t->host_tiles)
        return FAIL(why, "%s: %u pins and %u tiles in host memory; counted are pins %u, host_tiles %u",
                    t->name, b->pins, b->here, t->pins, t->host_tiles);
    return 0;
}

static int check_tile(const struct pager *p, const struct ofl_tensor *t, uint32_t i, struct sums *s,
                      struct busy *b, struct base_error *why)
{
    const struct core_tile *x = &t->tiles[i];
    bool home = i < t->home_tiles, here = home || x->state != TILE_NONE;
    int err = check_tile_state(p, t, i, why);

    if (err == 0 && !home)
        err = check_bits(p, t, i, why);
    if (err == 0 && here)
        err = take_pages(p, t->name, x->off, x->len, s, why);
    if (err < 0)
        return err;
    if (home && x->off < p->stage_bytes)
        return FAIL(why, "%s: tile %u has its home at %llu, in the stage of %llu bytes", t->name, i,
                    (ull)x->off, (ull)p->stage_bytes);
    s->wanted += x->wanted;
    s->fetched += x->fetched ? x->len : 0;
    b->here += here;
    b->arriving += x->state == TILE_ARRIVING;
    b->writing += x->writing;
    b->pins += x->pins;
    if (home) {
        s->home_host += x->len;
    } else if (here) {
        s->cached += x->len;
        s->in_stage += in_stage(p, x->off, x->len);
        s->dirty += x->dirty ? x->len : 0;
        s->writing += x->writing ? x->len : 0;
        s->arriving += x->state == TILE_ARRIVING ? x->len : 0;
    }
    return 0;
}

static int check_orphans(const struct pager *p, struct sums *s, struct base_error *why)
{
    for (const struct core_op *op = p->orphans; op; op = op->orphan_next) {
        int err = take_pages(p, op->tensor->name, op->orphan_off, op->orphan_len, s, why);

        if (err < 0)
            return err;
        s->cached += op->orphan_len;
        s->in_stage += in_stage(p, op->orphan_off, op->orphan_len);
    }
    return 0;
}

/* ---- tensors ----------------------------------------------------------- */

static int check_fills(const struct ofl_tensor *t, struct base_error *why)
{
    uint64_t seq = SCHED_NEVER;
    bool filling = false;

    for (const struct core_copy *c = copy_first(t); c; c = copy_after(c)) {
        filling |= copy_filling(c);
        if (copy_filling(c) && c->waiting && c->seq < seq)
            seq = c->seq;
    }
    if (!t->looked_for && (filling != t->filling || seq != t->fill_seq))
        return FAIL(why, "%s: the oldest awaited fill is %llu, fill_seq is %llu, filling %d", t->name,
                    (ull)seq, (ull)t->fill_seq, t->filling);
    return 0;
}

static int check_turns(const struct ofl_tensor *t, struct base_error *why)
{
    const struct core_turn *last = NULL;
    uint64_t count = 0;

    for (const struct core_turn *turn = t->turns; turn; turn = turn->next, count++)
        last = turn;
    if (t->host_done + count != t->host_issued || (last && last != t->turns_last))
        return FAIL(why, "%s: %llu host works wait, %llu are done of %llu", t->name, (ull)count,
                    (ull)t->host_done, (ull)t->host_issued);
    return 0;
}

static int check_home(const struct pager *p, const struct ofl_tensor *t, struct base_error *why)
{
    const struct core_copy *c = part_find(t, 0, t->bytes);
    bool home = c && c->home && copy_whole(c);

    if (t->device_home && !t->leaving && (!home || t->dirty_ghosts || t->host_tiles || t->file))
        return FAIL(why, "%s lives on the device: it has %s", t->name,
                    !home ? "no copy there" : "something below");
    if ((t->flags & OFL_TENSOR_TRANSIENT) && (t->host_tiles || t->dirty_ghosts || t->file))
        return FAIL(why, "%s is transient: it has something below the device", t->name);
    if (t->lost && !t->gone && !p->broken.code)
        return FAIL(why, "%s is lost, and what lies below is not gone", t->name);
    return 0;
}

static uint32_t wants(const struct ofl_tensor *t)
{
    uint32_t n = 0;

    for (const struct core_copy *c = t->ghosts; c; c = c->next)
        n += c->wants;
    return n;
}

static int check_tensor(const struct pager *p, const struct ofl_tensor *t, struct sums *s,
                        struct base_error *why)
{
    struct busy b = {0};
    int err;

    if (t->id >= p->next_id || p->by_id[t->id] != t)
        return FAIL(why, "%s: its number %u is another's", t->name, t->id);
    if (t->prev ? t->prev->next != t : p->tensors != t)
        return FAIL(why, "%s: the list of tensors is cut", t->name);
    err = check_home(p, t, why);
    if (err == 0)
        err = verify_parts(t, why);
    if (err == 0)
        err = verify_ghosts(p, t, &s->ghosts, why);
    if (err == 0)
        err = check_fills(t, why);
    if (err == 0)
        err = check_turns(t, why);
    for (uint32_t i = 0; i < t->tiles_count && err == 0; i++)
        err = check_tile(p, t, i, s, &b, why);
    if (err < 0)
        return err;
    s->looks += t->looked_for;
    s->edges += wants(t);
    s->moving += t->moving;
    s->sizes += !t->device_home && place_footprint(t->bytes) <= p->device_bytes;
    if (t->file && !t->source && !t->keep)
        s->home_nvme += round_up(t->bytes, CORE_HOST_ALIGN) - t->home_tiles * t->tile_bytes;
    return check_moving(p, t, &b, why);
}

static int check_sums(const struct pager *p, const struct sums *s, struct base_error *why)
{
    const struct core_homes *h = &p->homes;
    uint64_t home_span = p->host_bytes - p->stage_bytes;
    uint32_t looks = 0, late = 0;

    for (const struct ofl_tensor *t = p->looks; t; t = t->look_next)
        looks += t->added;
    if (looks != s->looks || s->sizes != verify_tree(p->sizes.root) ||
        s->ghosts != verify_tree(p->graves.root) || !verify_graves(p))
        return FAIL(
            why, "lists: %u of %u tensors to be looked at, %u of %u by size, %u of %u ghosts, or a wrong sum",
            looks, s->looks, verify_tree(p->sizes.root), s->sizes, verify_tree(p->graves.root), s->ghosts);
    if (s->cached != p->cached_bytes || s->dirty != p->dirty_bytes || s->writing != p->writing_bytes ||
        s->arriving != p->arriving_bytes)
        return FAIL(why,
                    "host: cached, dirty, writing, arriving are %llu, %llu, %llu, %llu bytes; counted are "
                    "%llu, %llu, %llu, %llu",
                    (ull)s->cached, (ull)s->dirty, (ull)s->writing, (ull)s->arriving, (ull)p->cached_bytes,
                    (ull)p->dirty_bytes, (ull)p->writing_bytes, (ull)p->arriving_bytes);
    for (const struct core_op *op = p->orphans; op; op = op->orphan_next)
        late++;
    if (s->fetched != p->fetched_bytes || s->moving != p->moving + late)
        return FAIL(why, "host: %llu bytes fetched and not used, %u transfers, %u late; counted are %llu, %u",
                    (ull)s->fetched, s->moving, late, (ull)p->fetched_bytes, p->moving);
    /* A range whose return found no memory is lost: see pager_lost_bytes. */
    if (s->in_stage + base_extents_free_bytes(p->host_ranges) > p->stage_bytes)
        return FAIL(why, "host: %llu bytes of the stage taken, %llu free, of %llu", (ull)s->in_stage,
                    (ull)base_extents_free_bytes(p->host_ranges), (ull)p->stage_bytes);
    /* Homes of a tensor that is still being created are counted, and not in the list yet. */
    if (s->home_host > h->bytes[OFL_HOST] || s->home_nvme > h->bytes[OFL_NVME])
        return FAIL(
            why, "homes: tensors have %llu bytes in host memory, %llu in the store; counted are %llu, %llu",
            (ull)s->home_host, (ull)s->home_nvme, (ull)h->bytes[OFL_HOST], (ull)h->bytes[OFL_NVME]);
    if (h->host && h->bytes[OFL_HOST] + base_extents_free_bytes(h->host) > home_span)
        return FAIL(why, "homes: %llu bytes of host memory taken, %llu free, of %llu",
                    (ull)h->bytes[OFL_HOST], (ull)base_extents_free_bytes(h->host), (ull)home_span);
    return 0;
}

uint64_t pager_lost_bytes(const struct pager *p)
{
    uint64_t taken = 0, homes = p->homes.host ? p->host_bytes - p->stage_bytes : 0;

    for (const struct ofl_tensor *t = p->tensors; t; t = t->next)
        for (uint32_t i = t->home_tiles; i < t->tiles_count; i++)
            if (t->tiles[i].state != TILE_NONE)
                taken += in_stage(p, t->tiles[i].off, t->tiles[i].len);
    for (const struct core_op *op = p->orphans; op; op = op->orphan_next)
        taken += in_stage(p, op->orphan_off, op->orphan_len);
    if (p->homes.host)
        homes -= p->homes.bytes[OFL_HOST] + base_extents_free_bytes(p->homes.host);
    return p->stage_bytes - taken - base_extents_free_bytes(p->host_ranges) + homes;
}

/* ---- host-side work ---------------------------------------------------- */

static int check_request(const struct pager *p, const struct core_request *r, struct base_error *why)
{
    uint32_t held = 0;

    for (uint32_t i = 0; i < r->count; i++) {
        const struct core_tileref *ref = &r->refs[i];
        const struct core_tile *x = &ref->tensor->tiles[ref->tile];

        held += ref->held;
        if (ref->held && ref->ptr && x->pins == 0)
            return FAIL(why, "request: tile %u of %s is held without a pin", ref->tile, ref->tensor->name);
        if (x->wanted == 0)
            return FAIL(why, "request: tile %u of %s is not counted as wanted", ref->tile, ref->tensor->name);
        if (!p->broken.code &&
            (r->ordinal[i] <= ref->tensor->host_done || r->ordinal[i] > ref->tensor->host_issued))
            return FAIL(why, "request: host work %llu of %s: %llu done of %llu", (ull)r->ordinal[i],
                        ref->tensor->name, (ull)ref->tensor->host_done, (ull)ref->tensor->host_issued);
    }
    if (held != r->held)
        return FAIL(why, "request: %u tiles held, counted are %u", held, r->held);
    return 0;
}

static int check_requests(const struct pager *p, uint64_t wanted, struct base_error *why)
{
    uint64_t refs = 0, claims = 0;
    uint32_t active = 0;

    for (const struct core_request *r = p->requests.next; r != &p->requests; r = r->next) {
        int err = check_request(p, r, why);

        if (err < 0)
            return err;
        refs += r->count;
        active += r->update != NULL;
        claims += r->update ? r->claims : 0;
    }
    if (refs != wanted)
        return FAIL(why, "requests: %llu tiles are asked for, %llu are counted as wanted", (ull)refs,
                    (ull)wanted);
    if (active > p->active || claims > p->claims || (p->active == 0 && p->claims) ||
        p->active > p->active_max)
        return FAIL(why, "requests: of updates %u wait, with %llu claims; counted are %u and %u", active,
                    (ull)claims, p->active, p->claims);
    return 0;
}

static int check_update(const struct core_update *u, struct base_error *why)
{
    uint32_t first = 0;

    for (uint32_t i = 0; i < u->count; i++)
        first += u->tensors[i]->turns == &u->turn[i];
    if (u->tiles_done > u->tiles_next || u->tiles_next > u->tiles || (u->held && u->tiles_next))
        return FAIL(why, "update of %s: %u tiles done of %u begun of %u%s", u->tensors[0]->name,
                    u->tiles_done, u->tiles_next, u->tiles, u->held ? ", held" : "");
    if (u->turns != first || u->ready != (!u->held && first == u->count && u->tiles_next < u->tiles))
        return FAIL(why, "update of %s: the first in %u queues of %u, turns is %u%s", u->tensors[0]->name,
                    first, u->count, u->turns, u->ready ? ", ready" : "");
    return 0;
}

/* Once broken, updates are given up while some of their tiles are still out. */
static int check_updates(const struct pager *p, struct base_error *why)
{
    const struct core_update *last = NULL;
    uint32_t active = 0, ready = 0;

    for (const struct core_update *u = p->updates; u; u = u->next) {
        int err = p->broken.code ? 0 : check_update(u, why);

        if (err < 0)
            return err;
        if (u->prev != last || (last && last->seq >= u->seq) || !u->queued)
            return FAIL(why, "updates: the list is cut or out of order at %s", u->tensors[0]->name);
        active += u->tiles_next - u->tiles_done;
        ready += u->ready;
        last = u;
    }
    if (p->updates_last != last && last)
        return FAIL(why, "updates: the tail is not the last one's");
    last = NULL;
    for (const struct core_update *u = p->ready; u; u = u->ready_next, ready--) {
        if (!u->ready || u->ready_prev != last || (last && last->seq >= u->seq))
            return FAIL(why, "updates: the list of those whose turn has come is cut or out of order");
        last = u;
    }
    if (ready)
        return FAIL(why, "updates: the list of those whose turn has come lacks some, or has others");
    if (!p->broken.code && active != p->active)
        return FAIL(why, "updates: %u tiles are begun and not done, counted are %u", active, p->active);
    return 0;
}

/* ---- all --------------------------------------------------------------- */

static int check_all_tensors(const struct pager *p, struct sums *s, struct base_error *why)
{
    int err = 0;

    for (const struct ofl_tensor *t = p->tensors; t && err == 0; t = t->next)
        err = check_tensor(p, t, s, why);
    if (err == 0)
        err = check_orphans(p, s, why);
    return err < 0 ? err : check_sums(p, s, why);
}

int pager_verify(const struct pager *p, struct base_error *why)
{
    struct sums sums = {.pages = calloc(p->host_bytes / CORE_HOST_ALIGN / 64 + 1, sizeof(uint64_t))};
    int err;

    if (!sums.pages)
        return FAIL(why, "verify: out of memory");
    err = verify_live(p, why);
    if (err == 0)
        err = check_waits(p, why);
    if (err == 0)
        err = check_all_tensors(p, &sums, why);
    if (err == 0)
        err = check_requests(p, sums.wanted - sums.edges, why);
    if (err == 0)
        err = check_updates(p, why);
    if (err == 0)
        err = commit_verify(p, why);
    if (err == 0 && !hint_verify(p))
        err = FAIL(why, "a hint is of a tensor that is not there, or the end of their queue is another one");
    free(sums.pages);
    return err;
}
