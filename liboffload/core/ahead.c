/* ahead: see ahead.h. */
#include "liboffload/core/ahead.h"

#include <stdlib.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/hint.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"

/* Events of the plan that are looked ahead. */
#define AHEAD_EVENTS 1024u

/* ---- the plan ---------------------------------------------------------- */

static struct sched_item item_of(const struct ofl_tensor *t)
{
    return (struct sched_item){.device_bytes = place_footprint(t->bytes),
                               .bytes = t->bytes,
                               .tile_bytes = t->tile_bytes,
                               .lead = t->lead,
                               .home_tiles = t->home_tiles,
                               .device_home = t->device_home,
                               .transient = t->flags & OFL_TENSOR_TRANSIENT};
}

/* What of them is used in parts, and how much of it at once. */
static void note_parts(const struct pager *p, struct sched_item *items, uint32_t count)
{
    struct sched_event e;

    for (uint64_t k = 0; sched_ahead(p->sched, k, &e); k++)
        if (e.len && e.id < count && !items[e.id].parts) {
            items[e.id].parts = true;
            items[e.id].device_bytes = 0;
        }
    for (uint64_t k = 0; sched_ahead(p->sched, k, &e); k++) {
        struct sched_item *x = e.id < count ? &items[e.id] : NULL;
        uint64_t bytes = x ? place_footprint(e.len ? e.len : x->bytes) : 0;

        if (x && x->parts && bytes > x->device_bytes)
            x->device_bytes = bytes;
    }
    for (uint32_t id = 0; id < count; id++)
        if (items[id].device_bytes > p->device_bytes)
            items[id].device_bytes = 0; /* it is not leased whole, and not in this step */
}

void ahead_plan(struct pager *p)
{
    struct sched_room room = {.device_bytes = p->device_bytes - p->held_bytes, .host_bytes = p->stage_bytes};
    struct sched_item *items;
    bool updates;

    if (room.device_bytes != p->planned_device || room.host_bytes != p->planned_host)
        sched_plan_unsolve(p->sched);
    p->planned_device = room.device_bytes;
    p->planned_host = room.host_bytes;
    if (!sched_plan_unsolved(p->sched))
        return;
    items = calloc(p->next_id + 1, sizeof *items);
    if (!items)
        return; /* unplanned, what leaves is what is needed last */
    for (uint32_t id = 0; id < p->next_id; id++)
        if (p->by_id[id])
            items[id] = item_of(p->by_id[id]);
    note_parts(p, items, p->next_id);
    updates = sched_plan_on_host(p->sched);
    sched_room_windows(&room, items, p->next_id, p->tile_bytes, updates);
    p->claims_planned = (uint32_t)(room.host_window / (p->tile_bytes + CORE_HOST_ALIGN) / 2);
    /* The rest is for the copies that have been placed, for what comes from the device, and for updates. */
    p->fetched_max = room.host_window / (updates ? 4 : 2);
    /* Once, so that what rests all the time lies in one piece from then on. */
    if (sched_plan_solve(p->sched, items, p->next_id, &room) == 0 && sched_resting_always(p->sched))
        place_compact(p);
    free(items);
}

/* What was on its way for another plan would stand before what this one wants. */
static void turn_to_plan(struct pager *p, struct ofl_tensor *t)
{
    uint32_t served = t->served;
    struct core_copy *c, *next;

    for (c = t->busy; c; c = next) {
        next = c->busy_next;
        if (copy_filling(c) && !c->waiting && !c->leases && !c->home)
            place_evict(p, c);
    }
    tile_ahead_all(p, t, 0, t->tiles_count, false);
    tile_served(p, t, 0); /* what rests of the tiles served is the first turn's to say, which changes */
    for (struct core_turn *turn = t->turns; turn; turn = turn->next)
        turn->rest = tile_rest_planned(p, t);
    tile_rest(p, t, tile_rest_planned(p, t));
    tile_served(p, t, served);
}

/* Of the current plan, which was solved for what was not held between steps. */
static uint64_t passing_off(const struct pager *p)
{
    uint64_t resting = sched_resting_always(p->sched);

    return resting ? p->device_bytes - p->planned_device + resting : 0;
}

/* What has been looked at stays so as the position moves on, unless the plan has changed. */
static void sync(struct pager *p)
{
    uint64_t now = sched_now(p->sched);

    if (p->ahead_plan != sched_plan_changes(p->sched)) {
        p->ahead_device = p->ahead_host = now;
        p->ahead_plan = sched_plan_changes(p->sched);
        p->planned = sched_solved(p->sched);
        p->passing_off = p->planned ? passing_off(p) : 0;
        for (struct ofl_tensor *t = p->tensors; t; t = t->next)
            turn_to_plan(p, t);
    }
    if (p->ahead_device < now)
        p->ahead_device = now;
    if (p->ahead_host < p->ahead_device)
        p->ahead_host = p->ahead_device;
}

/* ---- what is fetched --------------------------------------------------- */

static uint64_t end_of(const struct ofl_tensor *t, const struct sched_event *e)
{
    return e->len ? e->from + e->len : t->bytes;
}

/* Gives ranges to what the plan acquires next, in order, as long as nothing that is needed
 * sooner, or is to rest, has to leave: up to the event at which the device is full. */
static void start_device(struct pager *p)
{
    uint64_t now = sched_now(p->sched);
    struct sched_event e;

    for (; p->ahead_device < now + AHEAD_EVENTS && sched_ahead(p->sched, p->ahead_device - now, &e);
         p->ahead_device++) {
        struct ofl_tensor *t = p->by_id[e.id];
        uint64_t k = p->ahead_device - now;

        if (e.where != SCHED_ON_DEVICE || !t || t->leaving || !t->added ||
            ((t->lost || t->ahead_failed) && !e.no_fetch) || part_find(t, e.from, end_of(t, &e)))
            continue;
        t->denied = !copy_start_ahead(p, t, e.from, end_of(t, &e), k ? k : 1, e.no_fetch);
        if (t->denied)
            return;
    }
}

/* Beyond that, brings tiles from the drive to the host, in order, under the same rule. */
static void start_host(struct pager *p)
{
    uint64_t now = sched_now(p->sched), from = p->ahead_device;
    struct sched_event e;

    for (; p->ahead_host < from + AHEAD_EVENTS && sched_ahead(p->sched, p->ahead_host - now, &e);
         p->ahead_host++) {
        struct tile_claim claim = {.need = NEED_AHEAD, .ahead = p->ahead_host - now};
        struct ofl_tensor *t = p->by_id[e.id];
        uint32_t first, end;

        if (!t || t->leaving || !t->added || t->ahead_failed || e.no_fetch || t->turns || t->dirty_ghosts ||
            part_find(t, e.from, end_of(t, &e)))
            continue;
        first = tile_of(t, e.from);
        end = tile_of(t, end_of(t, &e) - 1) + 1;
        tile_ahead_all(p, t, first, end, true);
        if (!t->file || !t->missing.count)
            continue;
        for (uint32_t i = base_bits_next(&t->missing, first); i < end; i = base_bits_next(&t->missing, i))
            if (!tile_read_start(p, t, i, claim, IO_PREFETCH))
                return;
    }
}

void ahead_start(struct pager *p)
{
    sync(p);
    hint_start(p);
    start_device(p);
    if (!p->looks) /* the copies that were placed just now read first */
        start_host(p);
}

bool ahead_pass(struct pager *p, struct core_copy *c)
{
    /* What passes and is newer than what lies below goes out at once, so that its room is free when it is wanted. */
    if (!p->planned || !c->dirty || c->leases || c->marks || c->home || c->hollow ||
        !sched_passing(p->sched, c->tensor->id))
        return false;
    place_evict(p, c);
    return true;
}
