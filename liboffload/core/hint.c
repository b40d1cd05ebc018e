/*
 * hint: see hint.h. A hint stands in a queue until its copy has its range on the device, or is there already; the
 * scheduler takes its tensor for needed soon until it is used.
 */
#include "liboffload/core/hint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/hold.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"

/* Events from now to the use that is hinted at: what is needed sooner stays where it is. */
#define NEXT_EVENTS  1u
#define LATER_EVENTS 1024u

struct core_hint {
    struct core_hint *next;
    struct ofl_tensor *tensor;
    uint64_t from, to;
    uint64_t distance;
    bool no_fetch;
    bool denied; /* the device has no room: its tiles are kept in host memory meanwhile */
};

/* ---- the queue ---------------------------------------------------------- */

static bool shares(const struct core_hint *h, const struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    return h->tensor == t && h->from < to && from < h->to;
}

/* Its tiles are not kept any more, but for those that a fill is about to use. */
static void tiles_free(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    uint32_t end = tile_of(t, to - 1) + 1;

    for (const struct core_copy *c = t->busy; c; c = c->busy_next)
        if (copy_filling(c) && copy_meets(c, from, to))
            return; /* they go as it lands */
    tile_ahead_all(p, t, tile_of(t, from), end, false);
}

static void take_out(struct pager *p, struct core_hint **at)
{
    struct core_hint *h = *at;

    if (h->denied)
        tiles_free(p, h->tensor, h->from, h->to);
    *at = h->next;
    if (!h->next)
        p->hints_tail = at;
    free(h);
}

/* Of the tensor's bytes; all of them: it is going. */
static void take_out_of(struct pager *p, const struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    struct core_hint **at = &p->hints;

    while (*at)
        if (shares(*at, t, from, to))
            take_out(p, at);
        else
            at = &(*at)->next;
}

void hint_forget(struct pager *p, const struct ofl_tensor *t)
{
    take_out_of(p, t, 0, t->bytes);
}

void hint_close(struct pager *p)
{
    while (p->hints) {
        struct core_hint *h = p->hints;

        p->hints = h->next;
        free(h);
    }
}

bool hint_verify(const struct pager *p)
{
    struct core_hint *const *at = &p->hints;

    for (; *at; at = &(*at)->next) {
        const struct ofl_tensor *t = p->tensors;

        while (t && t != (*at)->tensor)
            t = t->next;
        if (!t)
            return false;
    }
    return at == p->hints_tail;
}

/* ---- calls --------------------------------------------------------------- */

/* What is on its way for nobody else is given up. */
static void cancel(struct pager *p, struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    struct core_copy *c, *next;

    take_out_of(p, t, from, to);
    sched_hint_over(p->sched, t->id);
    for (c = t->busy; c; c = next) {
        next = c->busy_next;
        if (copy_meets(c, from, to) && c->fetched && copy_filling(c) && !c->waiting && !c->leases && !c->home)
            place_evict(p, c);
    }
    tiles_free(p, t, from, to);
    p->changes++;
}

static int check(const struct pager *p, const struct ofl_lease *l)
{
    uint64_t from, to;
    int err;

    if (!hold_known(l))
        return base_fail(-EINVAL, "hint: no tensor, or unknown mode %d or flags 0x%x", (int)l->mode,
                         l->flags);
    err = hold_bytes(l, &from, &to);
    if (err == 0 && place_footprint(to - from) > p->device_bytes)
        err = base_fail(-OFL_EBUDGET, "hint %s: %llu bytes: the device has %llu", l->tensor->name,
                        (ull)(to - from), (ull)p->device_bytes);
    return err;
}

static int make_all(struct pager *p, const struct ofl_lease *leases, size_t n, uint64_t distance,
                    struct core_hint **out)
{
    struct core_hint **tail = out;

    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        struct core_hint *h = calloc(1, sizeof *h);

        if (!h)
            return base_fail(-ENOMEM, "hint: out of memory");
        *tail = h;
        tail = &h->next;
        h->tensor = leases[i].tensor;
        h->distance = distance;
        h->no_fetch = leases[i].mode == OFL_OVERWRITE;
        (void)hold_bytes(&leases[i], &h->from, &h->to);
        if (sched_hint_reserve(p->sched, h->tensor->id) < 0)
            return -ENOMEM;
    }
    return 0;
}

int pager_hint(struct pager *p, const struct ofl_lease *leases, size_t n, enum ofl_hint_kind hint)
{
    struct core_hint *made, *h;
    int err = pager_check(p);

    if (err == 0 && (hint < OFL_HINT_NEXT || hint > OFL_HINT_CANCEL))
        err = base_fail(-EINVAL, "hint: unknown kind %d", (int)hint);
    for (size_t i = 0; i < n && err == 0; i++)
        err = check(p, &leases[i]);
    if (err < 0)
        return err;
    if (hint == OFL_HINT_CANCEL) {
        for (size_t i = 0; i < n; i++) {
            uint64_t from, to;

            (void)hold_bytes(&leases[i], &from, &to);
            cancel(p, leases[i].tensor, from, to);
        }
        return 0;
    }
    err = make_all(p, leases, n, hint == OFL_HINT_NEXT ? NEXT_EVENTS : LATER_EVENTS, &made);
    while ((h = made)) {
        made = h->next;
        if (err < 0) {
            free(h);
            continue;
        }
        take_out_of(p, h->tensor, h->from, h->to); /* the newer one counts */
        sched_hint(p->sched, h->tensor->id, h->distance);
        h->next = NULL;
        *p->hints_tail = h;
        p->hints_tail = &h->next;
        p->changes++;
    }
    return err;
}

/* ---- fetching ------------------------------------------------------------ */

/* There is nothing to fetch for it, now or later. */
static bool is_idle(const struct pager *p, const struct core_hint *h)
{
    const struct ofl_tensor *t = h->tensor;

    return t->leaving || !t->added || !sched_hinted(p->sched, t->id) ||
           ((t->lost || t->ahead_failed) && !h->no_fetch) || part_find(t, h->from, h->to) != NULL;
}

static void start_in_host(struct pager *p, struct core_hint *h)
{
    struct tile_claim claim = {.need = NEED_AHEAD, .ahead = h->distance};
    struct ofl_tensor *t = h->tensor;
    uint32_t first = tile_of(t, h->from), end = tile_of(t, h->to - 1) + 1;

    if (h->no_fetch || t->turns || t->dirty_ghosts)
        return;
    if (!h->denied)
        tile_ahead_all(p, t, first, end, true);
    h->denied = true;
    if (!t->file || !t->missing.count)
        return;
    for (uint32_t i = base_bits_next(&t->missing, first); i < end; i = base_bits_next(&t->missing, i))
        if (!tile_read_start(p, t, i, claim, IO_PREFETCH))
            return;
}

void hint_start(struct pager *p)
{
    while (p->hints) {
        struct core_hint *h = p->hints;

        if (!is_idle(p, h) && !copy_start_ahead(p, h->tensor, h->from, h->to, h->distance, h->no_fetch)) {
            start_in_host(p, h);
            return; /* those behind it come later */
        }
        take_out(p, &p->hints);
    }
}

/* ---- residency ----------------------------------------------------------- */

/* Bytes [from, to) of c that have landed. */
static uint64_t landed(const struct core_copy *c, uint64_t from, uint64_t to)
{
    uint64_t low = c->from > from ? c->from : from, high = c->to < to ? c->to : to;

    if (c->hollow || low >= high)
        return 0;
    if (copy_filling(c)) {
        uint64_t end =
            c->fill_done < c->tensor->tiles_count ? tile_start(c->tensor, c->fill_done) : c->tensor->bytes;

        high = high < end ? high : end;
    }
    return low < high ? high - low : 0;
}

static void count_tile(const struct ofl_tensor *t, uint32_t tile, uint64_t from, uint64_t to,
                       struct ofl_residency *out)
{
    const struct core_tile *x = &t->tiles[tile];
    uint64_t here = 0, coming = 0;

    for (const struct core_copy *c = part_find(t, from, to); c && c->from < to; c = part_behind(c)) {
        uint64_t low = c->from > from ? c->from : from, high = c->to < to ? c->to : to;
        uint64_t done = landed(c, from, to);

        here += done;
        coming += copy_filling(c) ? high - low - done : 0;
    }
    out->device_bytes += here;
    out->device_coming_bytes += coming;
    if (x->state == TILE_VALID)
        out->host_bytes += to - from;
    else if (x->state == TILE_ARRIVING)
        out->host_coming_bytes += to - from;
    else if (x->stored)
        out->below_bytes += to - from - here;
}

void pager_resident(const struct ofl_tensor *t, uint64_t from, uint64_t to, struct ofl_residency *out)
{
    *out = (struct ofl_residency){.bytes = to - from};
    for (uint32_t i = tile_of(t, from); i < t->tiles_count && tile_start(t, i) < to; i++) {
        uint64_t low = tile_start(t, i), high = i + 1 < t->tiles_count ? tile_start(t, i + 1) : t->bytes;

        count_tile(t, i, low > from ? low : from, high < to ? high : to, out);
    }
}
