/*
 * work: host-side work on tiles. Owns requests (tiles of several tensors, wanted in
 * host memory together) and updates (a request per tile, several in flight). The order
 * against device copies is that of the counters host_issued and host_done.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "liboffload/core/pager.h"

static bool writes(enum core_access a)
{
    return a == HOST_UPDATE || a == HOST_OVERWRITE;
}

/* May the tile be touched for this request at all, as far as order goes? */
static bool in_order(const struct pager *p, const struct core_request *r, uint32_t i)
{
    const struct core_tileref *ref = &r->refs[i];
    const struct ofl_tensor *t = ref->tensor;

    if (t->host_done + 1 != r->ordinal[i] || !copy_drained(p, t, ref->tile, r->seq))
        return false;
    return ref->access == HOST_READ || !copy_fill_before(p, t, r->ordinal[i]);
}

static void hold(struct pager *p, struct core_request *r, struct core_tileref *ref)
{
    struct core_tile *x = &ref->tensor->tiles[ref->tile];

    x->pins++;
    ref->ptr = tile_ptr(p, ref->tensor, ref->tile);
    ref->held = true;
    r->held++;
    p->changes++;
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

static void want(struct core_request *r, int by)
{
    for (uint32_t i = 0; i < r->count; i++)
        r->refs[i].tensor->tiles[r->refs[i].tile].wanted += (uint16_t)by;
}

static void unlink_request(struct core_request *r)
{
    want(r, -1);
    r->prev->next = r->next;
    r->next->prev = r->prev;
}

static void append_request(struct pager *p, struct core_request *r)
{
    want(r, 1);
    r->next = &p->requests;
    r->prev = p->requests.prev;
    p->requests.prev->next = r;
    p->requests.prev = r;
    p->changes++;
}

/* ---- updates ----------------------------------------------------------- */

static void update_over(struct pager *p, struct core_update *u)
{
    struct core_update **at = &p->updates;

    while (*at != u)
        at = &(*at)->next;
    *at = u->next;
    if (p->updates_tail == &u->next)
        p->updates_tail = at;
    for (uint32_t i = 0; i < u->count; i++)
        u->tensors[i]->host_done++;
    p->stats.updates++;
    p->changes++;
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

/* Turns the next tiles of the queued updates into requests, as many as may be in flight: held tiles
 * must always leave a hole for one more (see "The host arena" in docs/design.md). */
static void activate(struct pager *p)
{
    struct core_update *u = p->updates;

    while (p->active < p->active_max) {
        struct core_request *r;

        while (u && (u->held || u->tiles_next == u->tiles))
            u = u->next;
        if (!u || (p->claims && p->claims + claims_of(u) > p->claims_max) || !(r = calloc(1, sizeof *r)))
            return;
        r->claims = claims_of(u);
        p->claims += r->claims;
        r->count = u->count;
        r->update = u;
        r->seq = u->seq;
        for (uint32_t i = 0; i < u->count; i++) {
            r->refs[i] =
                (struct core_tileref){.tensor = u->tensors[i], .tile = u->tiles_next, .access = u->access[i]};
            r->ordinal[i] = u->ordinal[i];
        }
        u->tiles_next++;
        p->active++;
        append_request(p, r);
    }
}

int pager_update(struct pager *p, struct core_update *u)
{
    int err = pager_check(p);

    for (uint32_t i = 0; i < u->count && err == 0; i++)
        if (u->tensors[i]->current && u->tensors[i]->current->leases)
            err = base_fail(-OFL_ESTATE, "update %s: %s is leased", u->tensors[0]->name, u->tensors[i]->name);
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < u->count; i++) {
        struct ofl_tensor *t = u->tensors[i];

        if (t->current)
            copy_evict(p, t->current);
        u->ordinal[i] = ++t->host_issued;
        t->version += u->access[i] != HOST_READ;
        if (sched_use(p->sched, (struct sched_event){t->id, SCHED_ON_HOST, u->access[i] == HOST_OVERWRITE}) ==
            -ENOMEM)
            p->changes++; /* unrecorded: the plan will miss it, nothing else */
    }
    u->seq = ++p->seq;
    u->tiles = u->tensors[0]->tiles_count;
    u->tiles_next = u->tiles_done = 0;
    u->next = NULL;
    *p->updates_tail = u;
    p->updates_tail = &u->next;
    p->changes++;
    return 0;
}

/* ---- requests ---------------------------------------------------------- */

/* Queues a caller's request: read or write of one tile, in order with all that was issued before. */
int pager_request(struct pager *p, struct core_request *r)
{
    struct ofl_tensor *t = r->refs[0].tensor;
    int err = pager_check(p);

    if (err < 0)
        return err;
    if (t->current && t->current->leases)
        return base_fail(-OFL_ESTATE, "access %s: it is leased", t->name);
    if (t->current && (t->current->dirty || writes(r->refs[0].access)))
        copy_evict(p, t->current);
    r->ordinal[0] = ++t->host_issued;
    t->version += writes(r->refs[0].access);
    r->seq = ++p->seq;
    append_request(p, r);
    return 0;
}

static void release_refs(struct pager *p, struct core_request *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        struct core_tileref *ref = &r->refs[i];

        if (!ref->held || !ref->ptr)
            continue;
        if (writes(ref->access)) {
            tile_set_dirty(p, ref->tensor, ref->tile, true);
            ref->tensor->tiles[ref->tile].stored = false;
        }
        tile_unpin(p, ref->tensor, ref->tile);
        if (ref->access == HOST_CONSUME)
            tile_drop(p, ref->tensor, ref->tile);
    }
}

/* The holder is done with the tiles. */
void pager_request_end(struct pager *p, struct core_request *r)
{
    struct core_update *u = r->update;

    release_refs(p, r);
    p->changes++;
    if (!u) {
        r->refs[0].tensor->host_done++;
        return;
    }
    p->active--;
    p->claims -= r->claims;
    free(r);
    if (++u->tiles_done == u->tiles)
        update_over(p, u);
}

static void request_fail(struct pager *p, struct core_request *r, const struct base_error *error)
{
    unlink_request(r);
    release_refs(p, r);
    r->refs[0].tensor->host_done++;
    r->held = 0;
    r->error = *error;
    r->done(r);
}

/* The tile can't be had: a caller's request fails; an update can't be half done, so the
 * context breaks. */
void work_fail(struct pager *p, struct ofl_tensor *t, uint32_t tile, const struct base_error *error)
{
    struct core_request *r = p->requests.next, *next;

    for (; r != &p->requests; r = next) {
        bool hit = false;

        next = r->next;
        for (uint32_t i = 0; i < r->count; i++)
            hit |= r->refs[i].tensor == t && r->refs[i].tile == tile;
        if (!hit)
            continue;
        if (r->update)
            pager_break(p, error);
        else
            request_fail(p, r, error);
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
            continue;
        }
        unlink_request(r);
        for (uint32_t i = 0; i < r->count; i++)
            if (r->refs[i].held && r->refs[i].ptr)
                tile_unpin(p, r->refs[i].tensor, r->refs[i].tile);
        p->active--;
        p->claims -= r->claims;
        free(r);
    }
    while (p->updates && p->active == 0) {
        struct core_update *u = p->updates;

        p->updates = u->next;
        if (!p->updates)
            p->updates_tail = &p->updates;
        for (uint32_t i = 0; i < u->count; i++)
            u->tensors[i]->host_done++;
        u->done(u->arg);
    }
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
        unlink_request(r);
        if (r->update)
            p->env.work(p->env.arg, r);
        else
            r->done(r);
    }
}
