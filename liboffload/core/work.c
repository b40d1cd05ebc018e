/* work: see work.h. Owns requests (tiles of several tensors, wanted in host memory together) and updates (a
 * request per tile, several in flight). Host works of a tensor stand in its queue, and run one after the
 * other; an update takes up room only once it is the first in all its queues. */
#include "liboffload/core/work.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"

static bool writes(enum core_access a)
{
    return a == HOST_UPDATE || a == HOST_OVERWRITE;
}

/* ---- turns ------------------------------------------------------------- */

/* In order, so that updates run in the order of their weights' next use. */
static void ready_add(struct pager *p, struct core_update *u)
{
    struct core_update *at = p->ready_last;

    assert(!u->ready && !u->held && u->turns == u->count);
    while (at && at->seq > u->seq)
        at = at->ready_prev;
    u->ready = true;
    u->ready_prev = at;
    u->ready_next = at ? at->ready_next : p->ready;
    *(u->ready_prev ? &u->ready_prev->ready_next : &p->ready) = u;
    *(u->ready_next ? &u->ready_next->ready_prev : &p->ready_last) = u;
    p->changes++;
}

static void ready_remove(struct pager *p, struct core_update *u)
{
    if (!u->ready)
        return;
    *(u->ready_prev ? &u->ready_prev->ready_next : &p->ready) = u->ready_next;
    *(u->ready_next ? &u->ready_next->ready_prev : &p->ready_last) = u->ready_prev;
    u->ready = false;
}

static struct core_request *request_of(struct core_turn *turn)
{
    return BASE_TREE_OWNER(turn, struct core_request, turn);
}

static void request_finish(struct pager *p, struct core_request *r);

static void turn_come(struct pager *p, struct core_turn *turn)
{
    struct core_update *u = turn->update;

    if (u && ++u->turns == u->count && !u->held)
        ready_add(p, u);
    else if (!u && request_of(turn)->failing)
        request_finish(p, request_of(turn));
}

static uint64_t turn_take(struct pager *p, struct ofl_tensor *t, struct core_turn *turn,
                          struct core_update *u)
{
    turn->next = NULL;
    turn->update = u;
    if (!u)
        turn->rest = tile_rest_planned(p, t);
    if (t->turns)
        t->turns_last->next = turn;
    else
        t->turns = turn;
    t->turns_last = turn;
    if (t->turns == turn)
        turn_come(p, turn);
    return ++t->host_issued;
}

static void turn_over(struct pager *p, struct ofl_tensor *t)
{
    uint32_t rest = t->turns->next ? t->turns->rest : tile_rest_planned(p, t);

    tile_served(p, t, 0);
    t->host_done++;
    t->turns = t->turns->next;
    tile_rest(p, t, rest);
    pager_look(p, t);
    if (t->turns)
        turn_come(p, t->turns);
}

/* ---- tiles of a request ------------------------------------------------ */

/* May the tile be touched for this request at all, as far as order goes? */
static bool in_order(const struct pager *p, const struct core_request *r, uint32_t i)
{
    const struct core_tileref *ref = &r->refs[i];
    const struct ofl_tensor *t = ref->tensor;
    uint64_t from = tile_start(t, ref->tile);

    if (t->turns != (r->update ? &r->update->turn[i] : &r->turn) ||
        (writes(ref->access) && commit_bars(p, t, ref->tile, r->seq)) ||
        !copy_drained(t, from, from + tile_count_bytes(t, ref->tile), r->seq))
        return false;
    return ref->access == HOST_READ || !copy_fill_before(t, r->ordinal[i], ref->tile);
}

static void hold(struct pager *p, struct core_request *r, struct core_tileref *ref)
{
    tile_pin(p, ref->tensor, ref->tile);
    ref->ptr = tile_ptr(p, ref->tensor, ref->tile);
    ref->held = true;
    r->held++;
}

/* A tile with no bytes anywhere: zeros. Readers need no memory for that. */
static void hold_fresh(struct pager *p, struct core_request *r, struct core_tileref *ref)
{
    struct core_tile *x = &ref->tensor->tiles[ref->tile];

    if (writes(ref->access)) {
        if (!tile_claim_range(p, ref->tensor, ref->tile, (struct tile_claim){.need = NEED_WORK}))
            return;
        x->state = TILE_VALID;
        ref->fresh = true;
        hold(p, r, ref);
        return;
    }
    ref->fresh = ref->held = true;
    ref->ptr = NULL;
    r->held++;
    p->changes++;
}

static void advance_ref(struct pager *p, struct core_request *r, uint32_t i)
{
    struct core_tileref *ref = &r->refs[i];
    struct core_tile *x = &ref->tensor->tiles[ref->tile];

    if (ref->held || !in_order(p, r, i) || x->state == TILE_ARRIVING)
        return;
    if (x->state == TILE_VALID) {
        /* A writer is alone: neither the drive nor the link may be reading the range. */
        if (ref->access == HOST_READ || x->pins == 0)
            hold(p, r, ref);
    } else if (x->stored && ref->access != HOST_OVERWRITE) {
        tile_read_start(p, ref->tensor, ref->tile, (struct tile_claim){.need = NEED_WORK},
                        r->update ? IO_PREFETCH : IO_DEMAND);
    } else {
        hold_fresh(p, r, ref);
    }
}

static void want(struct pager *p, struct core_request *r, int by)
{
    for (uint32_t i = 0; i < r->count; i++)
        tile_want(p, r->refs[i].tensor, r->refs[i].tile, by);
}

static void unlink_request(struct pager *p, struct core_request *r)
{
    want(p, r, -1);
    r->prev->next = r->next;
    r->next->prev = r->prev;
}

static void append_request(struct pager *p, struct core_request *r)
{
    want(p, r, 1);
    r->next = &p->requests;
    r->prev = p->requests.prev;
    p->requests.prev->next = r;
    p->requests.prev = r;
    p->changes++;
}

/* ---- updates ----------------------------------------------------------- */

static void update_unlink(struct pager *p, struct core_update *u)
{
    ready_remove(p, u);
    *(u->prev ? &u->prev->next : &p->updates) = u->next;
    *(u->next ? &u->next->prev : &p->updates_last) = u->prev;
    u->queued = false;
}

static void update_over(struct pager *p, struct core_update *u)
{
    update_unlink(p, u);
    for (uint32_t i = 0; i < u->count; i++)
        turn_over(p, u->tensors[i]);
    u->turns_left = 0;
    u->done(u->arg);
}

/* Tiles that the update's next request takes room for: those that have none of their own. */
static uint32_t claims_of(const struct core_update *u)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < u->count; i++)
        n += u->tiles_next >= u->tensors[i]->home_tiles;
    return n;
}

/* The plan's room is for those that could wait: the oldest must not. */
static uint32_t claims_most(const struct pager *p, bool oldest)
{
    return !oldest && p->planned && p->claims_planned < p->claims_max ? p->claims_planned : p->claims_max;
}

/* Whether u, the first of those whose turn has come, may have one more request. What waits for something waits
 * for what was issued before it: the oldest update never waits for a younger one, and always finds a place. */
static bool may_activate(const struct pager *p, const struct core_update *u)
{
    bool oldest = u == p->updates;
    uint32_t kept = oldest ? 0 : CORE_UPDATE_TENSORS;

    if (p->active + !oldest >= p->active_max)
        return false;
    return p->claims == 0 || p->claims + claims_of(u) + kept <= claims_most(p, oldest);
}

/* A commit is to take u's next tiles before u: in a request it would stand, and hold what others need. */
static bool barred(struct pager *p, const struct core_update *u)
{
    for (uint32_t i = 0; i < u->count; i++)
        if (writes(u->access[i]) && commit_bars(p, u->tensors[i], u->tiles_next, u->seq)) {
            u->tensors[i]->keep->barred = u->ordinal[i];
            p->commit.wanted = u->tensors[i];
            return true;
        }
    return false;
}

/* Turns the next tiles of updates whose turn has come into requests, as many as may be in flight: held tiles
 * must always leave a hole for one more (see "The host arena" in docs/design.md). */
static void activate(struct pager *p)
{
    while (p->ready && !barred(p, p->ready) && may_activate(p, p->ready)) {
        struct core_update *u = p->ready;
        struct core_request *r = calloc(1, sizeof *r);

        if (!r) {
            p->hungry = true;
            return;
        }
        *r = (struct core_request){.claims = claims_of(u), .count = u->count, .update = u, .seq = u->seq};
        p->claims += r->claims;
        for (uint32_t i = 0; i < u->count; i++) {
            r->refs[i] =
                (struct core_tileref){.tensor = u->tensors[i], .tile = u->tiles_next, .access = u->access[i]};
            r->ordinal[i] = u->ordinal[i];
        }
        p->active++;
        append_request(p, r);
        if (++u->tiles_next == u->tiles)
            ready_remove(p, u);
    }
}

int pager_update_check(const struct pager *p, const struct core_update *u)
{
    int err = pager_check(p);

    for (uint32_t i = 0; i < u->count && err == 0; i++) {
        const struct ofl_tensor *t = u->tensors[i];

        if (t->leased)
            err = base_fail(-OFL_ESTATE, "update %s: %s is leased", u->tensors[0]->name, t->name);
        else if (u->access[i] != HOST_OVERWRITE)
            err = copy_check_lost(t, "update");
    }
    return err;
}

int pager_update(struct pager *p, struct core_update *u, bool held)
{
    int err = pager_update_check(p, u);

    if (err < 0)
        return err;
    assert(!u->queued);
    u->held = held;
    u->queued = true;
    u->ready = false;
    u->seq = ++p->seq;
    u->tiles = u->tensors[0]->tiles_count;
    u->tiles_next = u->tiles_done = u->turns = 0;
    u->turns_left = u->count;
    u->next = NULL;
    u->prev = p->updates_last;
    *(u->prev ? &u->prev->next : &p->updates) = u;
    p->updates_last = u;
    for (uint32_t i = 0; i < u->count; i++) {
        struct ofl_tensor *t = u->tensors[i];
        struct core_copy *c;

        while ((c = part_find(t, 0, t->bytes))) {
            place_evict(p, c);
            c->for_update = true;
        }
        t->version += u->access[i] != HOST_READ;
        if (u->access[i] == HOST_OVERWRITE) {
            t->whole_version = t->version;
            t->whole_seq = u->seq;
            copy_found(t);
        }
        if (sched_use(p->sched, (struct sched_event){.id = t->id,
                                                     .where = SCHED_ON_HOST,
                                                     .no_fetch = u->access[i] == HOST_OVERWRITE,
                                                     .writes = writes(u->access[i])}) == -ENOMEM)
            p->changes++; /* unrecorded: the plan will miss it, nothing else */
        if (u->access[i] == HOST_CONSUME)
            sched_use_over(p->sched, t->id, true);
        u->turn[i].rest = tile_rest_planned(p, t);
        u->ordinal[i] = turn_take(p, t, &u->turn[i], u);
    }
    p->changes++;
    return 0;
}

void pager_update_let_go(struct pager *p, struct core_update *u)
{
    if (!u->queued || !u->held)
        return;
    u->held = false;
    if (u->turns == u->count)
        ready_add(p, u);
    p->changes++;
}

/* ---- requests ---------------------------------------------------------- */

/* What the device has of the tile leaves if it is newer than what is below, or is to be older. */
static void evict_tile(struct pager *p, struct ofl_tensor *t, uint32_t tile, bool write)
{
    uint64_t from = tile_start(t, tile), to = from + tile_count_bytes(t, tile);
    struct core_copy *c = part_find(t, from, to), *next;

    for (; c && c->from < to; c = next) {
        next = part_behind(c);
        if (c->dirty || write)
            place_evict(p, c);
    }
}

int pager_request(struct pager *p, struct core_request *r)
{
    struct ofl_tensor *t = r->refs[0].tensor;
    bool write = writes(r->refs[0].access);
    int err = pager_check(p);

    if (err < 0)
        return err;
    if (t->leased)
        return base_fail(-OFL_ESTATE, "access %s: it is leased", t->name);
    t->ahead_failed = false;
    if (r->whole && r->refs[0].tile == 0)
        copy_found(t);
    err = copy_check_lost(t, write ? "write" : "read");
    if (err < 0)
        return err;
    evict_tile(p, t, r->refs[0].tile, write);
    t->version += write;
    if (r->whole) {
        t->whole_version = t->version;
        t->whole_seq = p->seq + 1; /* its own */
    }
    r->failing = false;
    r->ordinal[0] = turn_take(p, t, &r->turn, NULL);
    r->seq = ++p->seq;
    append_request(p, r);
    return 0;
}

void pager_request_run(const struct core_request *r, uint64_t most_elems)
{
    const struct core_update *u = r->update;
    const struct ofl_tensor *t = r->refs[0].tensor;
    uint64_t first = r->refs[0].tile * t->tile_elems;
    uint64_t elems = t->elems - first < t->tile_elems ? t->elems - first : t->tile_elems;
    void *ptr[CORE_UPDATE_TENSORS] = {0};
    bool fresh[CORE_UPDATE_TENSORS] = {0};

    for (uint32_t i = 0; i < r->count; i++) {
        ptr[i] = r->refs[i].ptr;
        fresh[i] = r->refs[i].fresh;
    }
    u->tile(u->arg, ptr, fresh, first, elems < most_elems ? elems : most_elems);
}

/* A fill is about to use the tile. */
static bool fill_ahead(const struct ofl_tensor *t, uint32_t tile)
{
    for (const struct core_copy *c = t->busy; c; c = c->busy_next)
        if (copy_filling(c) && tile >= c->fill_next && tile < c->end)
            return true;
    return false;
}

static void release_refs(struct pager *p, struct core_request *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        struct core_tileref *ref = &r->refs[i];
        struct core_tile *x = &ref->tensor->tiles[ref->tile];

        if (!ref->held || !ref->ptr)
            continue;
        if (writes(ref->access)) {
            x->stored = x->sealed = false;
            tile_set_dirty(p, ref->tensor, ref->tile, true);
        }
        if (!fill_ahead(ref->tensor, ref->tile))
            tile_ahead(p, ref->tensor, ref->tile, false); /* it has served */
        tile_unpin(p, ref->tensor, ref->tile);
        if (ref->access == HOST_CONSUME)
            tile_drop(p, ref->tensor, ref->tile);
        if (r->update && ref->tile >= ref->tensor->served)
            tile_served(p, ref->tensor, ref->tile + 1);
    }
}

void pager_request_end(struct pager *p, struct core_request *r)
{
    struct core_update *u = r->update;

    release_refs(p, r);
    p->changes++;
    if (!u) {
        struct ofl_tensor *t = r->refs[0].tensor;

        if (r->whole && r->refs[0].tile == t->tiles_count - 1)
            t->gone = false;
        turn_over(p, t);
        return;
    }
    p->active--;
    p->running--;
    p->claims -= r->claims;
    free(r);
    if (++u->tiles_done == u->tiles) {
        p->stats.updates++;
        update_over(p, u);
    }
}

/* r has failed, and it is its turn. */
static void request_finish(struct pager *p, struct core_request *r)
{
    release_refs(p, r);
    r->held = 0;
    r->failing = false;
    turn_over(p, r->refs[0].tensor);
    r->done(r);
}

/* Before its turn it keeps its place in the queue: those behind it count on that. */
static void request_fail(struct pager *p, struct core_request *r, const struct base_error *error)
{
    unlink_request(p, r);
    r->error = *error;
    r->failing = true;
    if (r->refs[0].tensor->turns == &r->turn)
        request_finish(p, r);
}

static bool waits_for(const struct pager *p, const struct core_request *r, const struct ofl_tensor *t,
                      uint32_t tile)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->refs[i].tensor == t && r->refs[i].tile == tile && r->refs[i].access != HOST_OVERWRITE &&
            !r->refs[i].held && in_order(p, r, i))
            return true;
    return false;
}

/* A caller's request fails; an update can't be half done, so the context breaks. */
void work_fail_tile(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error)
{
    struct core_request *r = p->requests.next, *next;

    for (; r != &p->requests; r = next) {
        next = r->next;
        if (!waits_for(p, r, t, tile))
            continue;
        if (r->update)
            pager_break(p, error);
        else
            request_fail(p, r, error);
    }
}

static enum core_access access_of(const struct core_update *u, const struct ofl_tensor *t)
{
    uint32_t i = 0;

    while (u->tensors[i] != t)
        i++;
    return u->access[i];
}

void work_fail_between(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to,
                       const struct base_error *error)
{
    struct core_turn *turn = t->turns, *next;

    for (; turn; turn = next) {
        struct core_update *u = turn->update;
        struct core_request *r = u ? NULL : request_of(turn);
        uint64_t seq = u ? u->seq : r->seq;
        bool first;

        next = turn->next;
        if (seq < from || seq > to)
            continue;
        if (u && access_of(u, t) != HOST_OVERWRITE)
            pager_break(p, error);
        if (!r || r->held == r->count || r->failing || r->refs[0].access == HOST_OVERWRITE)
            continue;
        first = turn == t->turns;
        request_fail(p, r, error);
        if (first)
            next = t->turns; /* those behind it that had failed have gone with it */
    }
}

/* All that waits in t's queue, up to a caller's request that holds its tile: its holder ends it. */
static void abandon(struct pager *p, struct ofl_tensor *t)
{
    tile_served(p, t, 0); /* what the first turn said of them goes with it */
    while (t->turns) {
        struct core_turn *turn = t->turns;
        struct core_update *u = turn->update;

        if (!u)
            return; /* failed ones have gone with their turn */
        t->turns = turn->next;
        t->host_done++;
        pager_look(p, t);
        if (--u->turns_left == 0) {
            update_unlink(p, u);
            u->done(u->arg);
        }
        if (t->turns && !t->turns->update && request_of(t->turns)->failing)
            request_finish(p, request_of(t->turns));
    }
}

/* The context is broken: callers get the error; updates are abandoned with their tiles. */
void work_fail_all(struct pager *p)
{
    struct core_request *r = p->requests.next, *next;

    for (; r != &p->requests; r = next) {
        next = r->next;
        if (!r->update) {
            request_fail(p, r, &p->broken);
            next = p->requests.next; /* others may have gone with it */
            continue;
        }
        unlink_request(p, r);
        for (uint32_t i = 0; i < r->count; i++)
            if (r->refs[i].held && r->refs[i].ptr)
                tile_unpin(p, r->refs[i].tensor, r->refs[i].tile);
        p->active--;
        p->claims -= r->claims;
        free(r);
        p->changes++;
    }
    if (p->updates && p->active == 0)
        for (struct ofl_tensor *t = p->tensors; t; t = t->next)
            abandon(p, t);
}

void work_advance(struct pager *p)
{
    struct core_request *r, *next;

    activate(p);
    for (r = p->requests.next; r != &p->requests; r = next) {
        next = r->next;
        for (uint32_t i = 0; i < r->count; i++)
            advance_ref(p, r, i);
        if (r->held < r->count)
            continue;
        unlink_request(p, r);
        p->running += r->update != NULL;
        if (r->update)
            p->env.work(p->env.arg, r);
        else
            r->done(r);
    }
}
