/*
 * verify: balances the pager's books. Reads everything and changes nothing; tests call it between
 * inputs. What is in the hands of others (tiles held by callers and workers, bytes on their way) is
 * checked as far as the pager itself can know it.
 */
#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/pager.h"

typedef unsigned long long ull;

#define FAIL(why, ...) (base_error_set((why), -EINVAL, __VA_ARGS__), -EINVAL)

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- device copies ----------------------------------------------------- */

static int check_conds(const struct core_copy *c, struct base_error *why)
{
    uint32_t bytes = 0;

    for (const struct core_cond *cond = c->conds; cond; cond = cond->next) {
        bytes += cond->bytes;
        if (!cond->wait || !cond->wait->gate)
            return FAIL(why, "%s: copy %llu: a condition of no gate", c->tensor->name, (ull)c->seq);
        if (!cond->bytes && (cond->count == 0 || cond->count > c->marks || cond->upto > c->mark_seq))
            return FAIL(why, "%s: copy %llu: a condition on %u marks up to %llu, of %u up to %llu",
                        c->tensor->name, (ull)c->seq, cond->count, (ull)cond->upto, c->marks,
                        (ull)c->mark_seq);
    }
    if (bytes != c->waiting)
        return FAIL(why, "%s: copy %llu: %u conditions await its bytes, waiting is %u", c->tensor->name,
                    (ull)c->seq, bytes, c->waiting);
    return 0;
}

/* Moves in flight: a poisoned copy has one more, which counts as landed when it ends. */
static int check_progress(const struct core_copy *c, struct base_error *why)
{
    uint32_t tiles = c->tensor->tiles_count;

    if (c->fill_next > tiles || c->drain_next > tiles || c->drain_done > c->drain_next ||
        (!c->poisoned && c->fill_done > c->fill_next))
        return FAIL(why, "%s: copy %llu: filled %u of %u, drained %u of %u, of %u tiles", c->tensor->name,
                    (ull)c->seq, c->fill_done, c->fill_next, c->drain_done, c->drain_next, tiles);
    if (!c->poisoned && c->moving != c->fill_next - c->fill_done + c->drain_next - c->drain_done)
        return FAIL(why, "%s: copy %llu: moving is %u: filled %u of %u, drained %u of %u", c->tensor->name,
                    (ull)c->seq, c->moving, c->fill_done, c->fill_next, c->drain_done, c->drain_next);
    if (c->write_marks > c->marks)
        return FAIL(why, "%s: copy %llu: %u writes among %u released uses", c->tensor->name, (ull)c->seq,
                    c->write_marks, c->marks);
    return 0;
}

/* What is clear stays so: only older copies can be in the way, and those are ghosts already. */
static int check_clear(const struct pager *p, const struct core_copy *c, struct base_error *why)
{
    if (!c->clear)
        return 0;
    for (const struct core_copy *g = p->ghosts.next; g != &p->ghosts; g = g->next)
        if (g->seq < c->seq && g->off < c->off + c->len && c->off < g->off + g->len)
            return FAIL(why, "%s: copy %llu is called clear: a ghost of %s, %llu, is in its range",
                        c->tensor->name, (ull)c->seq, g->tensor->name, (ull)g->seq);
    return 0;
}

static int check_copy(const struct pager *p, const struct core_copy *c, struct base_error *why)
{
    int err;

    if (c->prev->next != c || c->next->prev != c)
        return FAIL(why, "%s: copy %llu: its list is cut", c->tensor->name, (ull)c->seq);
    if (c->off + c->len > p->device_bytes || c->len != copy_footprint(c->tensor->bytes))
        return FAIL(why, "%s: copy %llu: range %llu, %llu bytes, of %llu", c->tensor->name, (ull)c->seq,
                    (ull)c->off, (ull)c->len, (ull)p->device_bytes);
    if (c->tensor->source && c->dirty)
        return FAIL(why, "%s: copy %llu is dirty: it lives in a source", c->tensor->name, (ull)c->seq);
    err = check_conds(c, why);
    if (err == 0)
        err = check_progress(c, why);
    return err < 0 ? err : check_clear(p, c, why);
}

static int check_live(const struct pager *p, struct base_error *why)
{
    uint64_t used = 0, homes = 0, end = 0;
    int err;

    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next) {
        if (c->ghost || c->tensor->current != c)
            return FAIL(why, "%s: copy %llu is live, and not the tensor's own", c->tensor->name, (ull)c->seq);
        if (c->off < end)
            return FAIL(why, "%s: copy %llu at %llu overlaps what ends at %llu, or is out of order",
                        c->tensor->name, (ull)c->seq, (ull)c->off, (ull)end);
        if ((c->writer && c->leases != 1) || (c->hollow && (c->fill || c->leases)))
            return FAIL(why, "%s: copy %llu: %u leases%s%s", c->tensor->name, (ull)c->seq, c->leases,
                        c->writer ? ", a writer" : "", c->hollow ? ", hollow" : "");
        end = c->off + c->len;
        used += c->len;
        homes += c->home ? c->len : 0;
        err = check_copy(p, c, why);
        if (err < 0)
            return err;
    }
    if (used != p->device_used || used > p->device_bytes || used > p->device_peak)
        return FAIL(why, "device: live copies take %llu bytes, device_used is %llu, its peak %llu", (ull)used,
                    (ull)p->device_used, (ull)p->device_peak);
    /* That of a tensor which is being destroyed is a ghost's until it is gone. */
    if (homes > p->homes.bytes[OFL_DEVICE])
        return FAIL(why, "device: homes take %llu bytes, counted are %llu", (ull)homes,
                    (ull)p->homes.bytes[OFL_DEVICE]);
    return 0;
}

static int check_ghosts(const struct pager *p, struct base_error *why)
{
    int err = 0;

    for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts && err == 0; c = c->next) {
        if (!c->ghost || c->tensor->current == c || c->leases || (c->home && !c->tensor->leaving))
            return FAIL(why, "%s: copy %llu among the ghosts: current, leased, or a home", c->tensor->name,
                        (ull)c->seq);
        err = check_copy(p, c, why);
    }
    return err;
}

/* ---- waits ------------------------------------------------------------- */

static uint32_t conds_of(const struct core_copy *list, const struct core_wait *w)
{
    uint32_t n = 0;

    for (const struct core_copy *c = list->next; c != list; c = c->next)
        for (const struct core_cond *cond = c->conds; cond; cond = cond->next)
            n += !w || cond->wait == w;
    return n;
}

static int check_waits(const struct pager *p, struct base_error *why)
{
    uint64_t all = 0;

    for (const struct core_wait *w = p->waits.next; w != &p->waits; w = w->next) {
        uint32_t n = conds_of(&p->live, w) + conds_of(&p->ghosts, w);

        if (n == 0 || n != w->remaining)
            return FAIL(why, "waits: a gate has %u conditions, remaining is %u", n, w->remaining);
        all += n;
    }
    if (all != (uint64_t)conds_of(&p->live, NULL) + conds_of(&p->ghosts, NULL))
        return FAIL(why, "waits: copies have conditions of a wait that is not in the list");
    return 0;
}

/* ---- tiles ------------------------------------------------------------- */

/* Sums over all tiles; pages: what of the host arena is taken, a bit each. */
struct sums {
    uint64_t cached, in_stage, dirty, writing, arriving, wanted, home_host, home_nvme;
    uint64_t *pages;
};

static int take_pages(const struct pager *p, const struct ofl_tensor *t, uint32_t tile, struct sums *s,
                      struct base_error *why)
{
    const struct core_tile *x = &t->tiles[tile];
    uint64_t end = x->off + x->len;

    if (x->off % CORE_HOST_ALIGN || x->len % CORE_HOST_ALIGN || x->len < tile_count_bytes(t, tile) ||
        end > p->host_bytes)
        return FAIL(why, "%s: tile %u: range %llu, %u bytes, of %llu", t->name, tile, (ull)x->off, x->len,
                    (ull)p->host_bytes);
    if (tile < t->home_tiles && x->off < p->stage_bytes)
        return FAIL(why, "%s: tile %u has its home at %llu, in the stage of %llu bytes", t->name, tile,
                    (ull)x->off, (ull)p->stage_bytes);
    for (uint64_t page = x->off / CORE_HOST_ALIGN; page < end / CORE_HOST_ALIGN; page++) {
        if (s->pages[page / 64] >> page % 64 & 1)
            return FAIL(why, "%s: tile %u: range %llu, %u bytes: another tile's, too", t->name, tile,
                        (ull)x->off, x->len);
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

/* Operations in flight on t: those of its copies, reads, and write-backs. */
static int check_moving(const struct pager *p, const struct ofl_tensor *t, uint32_t arriving,
                        uint32_t writing, struct base_error *why)
{
    uint32_t ghosts = 0, dirty_ghosts = 0, draining = 0, moving = 0;

    if (t->ghosts || t->dirty_ghosts)
        for (const struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next) {
            if (c->tensor != t)
                continue;
            ghosts++;
            dirty_ghosts += !c->drop;
            draining += c->drain_next - c->drain_done;
            moving += c->moving;
        }
    if (ghosts != t->ghosts || dirty_ghosts != t->dirty_ghosts)
        return FAIL(why, "%s: %u ghosts, %u of them dirty; counted are %u and %u", t->name, ghosts,
                    dirty_ghosts, t->ghosts, t->dirty_ghosts);
    if (t->current)
        moving += t->current->moving;
    if (arriving < draining || t->moving != moving + arriving - draining + writing)
        return FAIL(why,
                    "%s: moving is %u: %u link copies, %u tiles arriving, %u of them from the device, %u "
                    "written back",
                    t->name, t->moving, moving, arriving, draining, writing);
    return 0;
}

static int check_tiles(const struct pager *p, const struct ofl_tensor *t, struct sums *s,
                       struct base_error *why)
{
    uint32_t here = 0, arriving = 0, writing = 0;
    int err = 0;

    for (uint32_t i = 0; i < t->tiles_count && err == 0; i++) {
        const struct core_tile *x = &t->tiles[i];
        bool home = i < t->home_tiles;

        s->wanted += x->wanted;
        if (x->state == TILE_NONE && !home && !x->pins && !x->dirty && !x->writing && !x->stale)
            continue;
        err = check_tile_state(p, t, i, why);
        if (err == 0 && (home || x->state != TILE_NONE))
            err = take_pages(p, t, i, s, why);
        here += home || x->state != TILE_NONE;
        arriving += x->state == TILE_ARRIVING;
        writing += x->writing;
        if (home) {
            s->home_host += x->len;
            continue;
        }
        s->cached += x->len;
        s->in_stage += x->off >= p->stage_bytes           ? 0
                       : x->off + x->len > p->stage_bytes ? p->stage_bytes - x->off
                                                          : x->len;
        s->dirty += x->dirty ? x->len : 0;
        s->writing += x->writing ? x->len : 0;
        s->arriving += x->state == TILE_ARRIVING ? x->len : 0;
    }
    if (err == 0 && here != t->host_tiles)
        return FAIL(why, "%s: %u tiles have a range of host memory, host_tiles is %u", t->name, here,
                    t->host_tiles);
    return err < 0 ? err : check_moving(p, t, arriving, writing, why);
}

/* ---- tensors ----------------------------------------------------------- */

static int check_tensor(const struct pager *p, const struct ofl_tensor *t, struct sums *s,
                        struct base_error *why)
{
    if (t->id >= p->next_id || p->by_id[t->id] != t)
        return FAIL(why, "%s: its number %u is another's", t->name, t->id);
    if (t->prev ? t->prev->next != t : p->tensors != t)
        return FAIL(why, "%s: the list of tensors is cut", t->name);
    if (t->host_done > t->host_issued)
        return FAIL(why, "%s: %llu host works done of %llu", t->name, (ull)t->host_done, (ull)t->host_issued);
    if (t->device_home && !t->leaving &&
        (!t->current || !t->current->home || t->dirty_ghosts || t->host_tiles || t->file))
        return FAIL(why, "%s lives on the device: it has %s", t->name,
                    !t->current || !t->current->home ? "no copy there" : "something below");
    if ((t->flags & OFL_TENSOR_TRANSIENT) && (t->host_tiles || t->dirty_ghosts || t->file))
        return FAIL(why, "%s is transient: it has something below the device", t->name);
    if (t->file && !t->source)
        s->home_nvme += round_up(t->bytes, CORE_HOST_ALIGN) - t->home_tiles * t->tile_bytes;
    return check_tiles(p, t, s, why);
}

static int check_sums(const struct pager *p, const struct sums *s, struct base_error *why)
{
    const struct core_homes *h = &p->homes;
    uint64_t home_span = p->host_bytes - p->stage_bytes;

    if (s->cached != p->cached_bytes || s->dirty != p->dirty_bytes || s->writing != p->writing_bytes ||
        s->arriving != p->arriving_bytes)
        return FAIL(why,
                    "host: cached, dirty, writing, arriving are %llu, %llu, %llu, %llu bytes; counted are "
                    "%llu, %llu, %llu, %llu",
                    (ull)s->cached, (ull)s->dirty, (ull)s->writing, (ull)s->arriving, (ull)p->cached_bytes,
                    (ull)p->dirty_bytes, (ull)p->writing_bytes, (ull)p->arriving_bytes);
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
    uint64_t in_stage = 0, homes = p->homes.host ? p->host_bytes - p->stage_bytes : 0;

    for (const struct ofl_tensor *t = p->tensors; t; t = t->next)
        for (uint32_t i = t->home_tiles; i < t->tiles_count; i++) {
            const struct core_tile *x = &t->tiles[i];

            if (x->state != TILE_NONE && x->off < p->stage_bytes)
                in_stage += x->off + x->len > p->stage_bytes ? p->stage_bytes - x->off : x->len;
        }
    if (p->homes.host)
        homes -= p->homes.bytes[OFL_HOST] + base_extents_free_bytes(p->homes.host);
    return p->stage_bytes - in_stage - base_extents_free_bytes(p->host_ranges) + homes;
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
        if ((r->ordinal[i] <= ref->tensor->host_done && !p->broken.code) ||
            r->ordinal[i] > ref->tensor->host_issued)
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
    if (active > p->active || claims > p->claims || (p->active == 0 && p->claims))
        return FAIL(why, "requests: of updates %u wait, with %llu claims; counted are %u and %u", active,
                    (ull)claims, p->active, p->claims);
    return 0;
}

/* Once broken, updates are given up while some of their tiles are still out. */
static int check_updates(const struct pager *p, struct base_error *why)
{
    struct core_update *const *tail = &p->updates;
    uint32_t active = 0;

    for (struct core_update *u = p->updates; u; u = u->next) {
        if (u->tiles_done > u->tiles_next || u->tiles_next > u->tiles || (u->held && u->tiles_next))
            return FAIL(why, "update of %s: %u tiles done of %u begun of %u%s", u->tensors[0]->name,
                        u->tiles_done, u->tiles_next, u->tiles, u->held ? ", held" : "");
        for (uint32_t i = 0; i < u->count && !p->broken.code; i++)
            if (u->ordinal[i] <= u->tensors[i]->host_done || u->ordinal[i] > u->tensors[i]->host_issued)
                return FAIL(why, "update of %s: host work %llu of %s: %llu done of %llu", u->tensors[0]->name,
                            (ull)u->ordinal[i], u->tensors[i]->name, (ull)u->tensors[i]->host_done,
                            (ull)u->tensors[i]->host_issued);
        active += u->tiles_next - u->tiles_done;
        tail = &u->next;
    }
    if (p->updates_tail != tail)
        return FAIL(why, "updates: the tail is not the last one's");
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
    return err < 0 ? err : check_sums(p, s, why);
}

int pager_verify(const struct pager *p, struct base_error *why)
{
    struct sums sums = {.pages = calloc(p->host_bytes / CORE_HOST_ALIGN / 64 + 1, sizeof(uint64_t))};
    int err;

    if (!sums.pages)
        return FAIL(why, "verify: out of memory");
    err = check_live(p, why);
    if (err == 0)
        err = check_ghosts(p, why);
    if (err == 0)
        err = check_waits(p, why);
    if (err == 0)
        err = check_all_tensors(p, &sums, why);
    if (err == 0)
        err = check_requests(p, sums.wanted, why);
    if (err == 0)
        err = check_updates(p, why);
    free(sums.pages);
    return err;
}
