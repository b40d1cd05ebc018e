/*
 * lease: see lease.h. Everything that an acquire may want memory for is asked for before anything changes, so
 * it happens whole or not at all.
 */
#include "liboffload/core/lease.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/blame.h"
#include "liboffload/core/copy.h"
#include "liboffload/core/hold.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"
#include "liboffload/core/wait.h"

/* Of one lease of a batch, while it is acquired. */
struct lease_item {
    uint32_t lease;         /* its index; items are sorted for placement */
    uint64_t from, to;      /* bytes of the tensor */
    struct core_copy *copy; /* that it holds */
    bool made;              /* for it */
    bool inside;            /* it lies inside the range of one before it */
};

/* ---- waits ------------------------------------------------------------- */

/* Whether the stream has to wait for uses of c. */
static bool needs_marks(const struct core_copy *c, enum ofl_mode mode, uint64_t stream)
{
    uint32_t pending = mode == OFL_READ ? c->write_marks : c->marks;

    return pending && c->mark_stream != stream;
}

/* The same of its bytes: they are to come, or could not be had, which those who wait already have still to hear. */
static bool needs_bytes(const struct core_copy *c, enum ofl_mode mode)
{
    return !copy_bytes_ready(c) || (c->error && mode != OFL_OVERWRITE);
}

/* Adds what the lease has to wait for. */
static void lease_wait(struct pager *p, enum ofl_mode mode, struct core_copy *c, struct core_wait *w)
{
    if (needs_bytes(c, mode))
        wait_add(p, w, c, true, true);
    if (needs_marks(c, mode, w->stream))
        wait_add(p, w, c, false, mode != OFL_OVERWRITE);
}

void lease_close(struct pager *p)
{
    free(p->items);
    p->items = NULL;
    hold_close(p);
}

/* ---- acquire: checks --------------------------------------------------- */

/* Whether a lease of these bytes lies in c without a range of its own: a home, what is held, or its own. */
static bool fits(const struct core_copy *c, uint64_t from, uint64_t to)
{
    return c && copy_holds(c, from, to) && (c->home || c->leases || c->to - c->from == to - from);
}

static struct core_copy *copy_for(const struct ofl_tensor *t, uint64_t from, uint64_t to)
{
    struct core_copy *c = part_find(t, from, to);

    return fits(c, from, to) ? c : NULL;
}

/* Fills item, but for what depends on the others of the batch. */
static int check_lease(const struct ofl_lease *l, size_t i, struct lease_item *item)
{
    const struct ofl_tensor *t = l->tensor;
    struct core_copy *c;
    int err;

    *item = (struct lease_item){.lease = (uint32_t)i};
    if (!hold_known(l))
        return base_fail(-EINVAL, "acquire: lease %zu: no tensor, or unknown mode %d or flags 0x%x", i,
                         (int)l->mode, l->flags);
    err = hold_bytes(l, &item->from, &item->to);
    if (err < 0)
        return err;
    if (t->source && l->mode != OFL_READ)
        return base_fail(-EROFS, "acquire %s to %s: it lives in a source file", t->name, hold_mode(l->mode));
    c = part_find(t, item->from, item->to);
    if (c && (c->leases || c->to < item->to) && (err = hold_conflict(l, c, item->from, item->to)) < 0)
        return err;
    if (fits(c, item->from, item->to))
        item->copy = c;
    if (!t->lost || (l->mode == OFL_OVERWRITE && item->to - item->from == t->bytes))
        return 0;
    return copy_check_lost(t, "acquire");
}

static int larger_first(const void *left, const void *right)
{
    const struct lease_item *a = left, *b = right;

    if (a->to - a->from != b->to - b->from)
        return a->to - a->from > b->to - b->from ? -1 : 1;
    return a->lease < b->lease ? -1 : a->lease > b->lease;
}

/* Against those of the batch that are placed before it. */
static int check_pairs(const struct pager *p, const struct ofl_lease *leases, size_t i)
{
    struct lease_item *item = &p->items[i];
    const struct ofl_lease *l = &leases[item->lease];

    for (size_t k = 0; k < i; k++) {
        const struct lease_item *other = &p->items[k];
        const struct ofl_lease *o = &leases[other->lease];

        if (o->tensor != l->tensor || item->from >= other->to || other->from >= item->to)
            continue;
        if (l->mode != OFL_READ || o->mode != OFL_READ)
            return base_fail(-OFL_ESTATE, "acquire %s: twice in one batch, not only to read",
                             l->tensor->name);
        if (item->from < other->from || item->to > other->to)
            return base_fail(-OFL_ESTATE, "acquire %s: two parts of it in one batch overlap",
                             l->tensor->name);
        item->inside = true;
    }
    return 0;
}

/* Checks the batch, and sorts it for placement. */
static int check_batch(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    uint64_t wanted = 0, largest_bytes = 0;
    const struct ofl_tensor *largest = NULL;
    int err;

    p->batch++;
    for (size_t i = 0; i < n; i++) {
        err = check_lease(&leases[i], i, &p->items[i]);
        if (err < 0)
            return err;
    }
    if (n > 1)
        qsort(p->items, n, sizeof *p->items, larger_first);
    for (size_t i = 0; i < n; i++) {
        struct lease_item *item = &p->items[i];
        struct ofl_tensor *t = leases[item->lease].tensor;
        const struct core_copy *c = item->copy;

        err = t->batch == p->batch ? check_pairs(p, leases, i) : 0;
        if (err < 0)
            return err;
        t->batch = p->batch;
        if (item->inside) {
            item->copy = NULL; /* it will lie in that of another */
            continue;
        }
        if (c && (c->leases || c->home))
            continue;
        wanted += place_footprint(item->to - item->from);
        if (item->to - item->from > largest_bytes) {
            largest_bytes = item->to - item->from;
            largest = t;
        }
    }
    /* What can't fit beside the leases held is refused before anything moves. */
    if (p->held_bytes + wanted <= p->device_bytes)
        return 0;
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: %llu bytes of device memory needed beside %llu bytes leased, the largest "
        "%s with %llu bytes: the device budget is %llu bytes; the smallest that holds this is %llu",
        n, (ull)wanted, (ull)p->held_bytes, largest ? largest->name : "-", (ull)largest_bytes,
        (ull)p->device_bytes, (ull)(p->held_bytes + wanted));
}

static int reserve_items(struct pager *p, size_t n)
{
    struct lease_item *more;

    if (n > UINT32_MAX / 2)
        return base_fail(-EINVAL, "lease %zu tensors: more than can be", n);
    more = realloc(p->items, n * sizeof *more);
    if (!more)
        return base_fail(-ENOMEM, "lease %zu tensors: out of memory", n);
    p->items = more;
    p->items_room = n;
    return 0;
}

static int reserve(struct pager *p, size_t n)
{
    return n > p->items_room ? reserve_items(p, n) : 0;
}

static int reserve_holds(struct pager *p, size_t n)
{
    size_t needed = 0;

    for (size_t i = 0; i < n; i++)
        needed += p->items[i].copy->home;
    return hold_reserve(p, needed);
}

/* ---- acquire: places --------------------------------------------------- */

static struct ofl_tensor *tensor_of(const struct pager *p, const struct ofl_lease *leases, size_t i)
{
    return leases[p->items[i].lease].tensor;
}

/* Holds what is there, so that it is not evicted for the others. */
static void hold_all(struct pager *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct lease_item *item = &p->items[i];
        struct core_copy *c = item->copy;

        if (c && c->error && !c->leases && !c->waiting) { /* an earlier fetch, or write, failed: anew */
            pager_error_free(c->error);
            c->error = NULL;
            if (!c->home) {
                place_evict(p, c);
                item->copy = c = NULL;
            }
        }
        if (c)
            place_hold(p, c);
    }
}

/* Gives all others of the batch a range, largest first. What lies across it leaves: it holds bytes of the tensor,
 * of which there is one place on the device. */
static bool place_all(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct lease_item *item = &p->items[i];
        struct ofl_tensor *t = tensor_of(p, leases, i);
        struct core_copy *across;

        if (item->copy)
            continue;
        item->copy = copy_for(t, item->from, item->to);
        if (!item->copy) {
            while ((across = part_find(t, item->from, item->to)))
                place_evict(p, across);
            item->copy = place_copy(p, t, item->from, item->to, 0);
            if (!item->copy)
                return false;
            item->made = true;
        }
        place_hold(p, item->copy); /* against the placements to come */
    }
    return true;
}

/* Takes back what hold_all and place_all did for this batch. */
static void unhold_all(struct pager *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p->items[i].copy)
            place_unhold(p, p->items[i].copy);
    for (size_t i = 0; i < n; i++) {
        if (p->items[i].made)
            place_evict(p, p->items[i].copy);
        p->items[i].copy = NULL;
        p->items[i].made = false;
    }
}

static int place_batch(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    hold_all(p, n);
    if (place_all(p, leases, n))
        return 0;
    /* It fits by bytes, but the free ranges are in pieces: clear the arena of all that isn't
     * leased by others, this batch's own copies included, and lay the batch out afresh. */
    unhold_all(p, n);
    place_evict_all(p);
    for (size_t i = 0; i < n; i++)
        if (!p->items[i].inside)
            p->items[i].copy = copy_for(tensor_of(p, leases, i), p->items[i].from, p->items[i].to);
    hold_all(p, n);
    if (place_all(p, leases, n))
        return 0;
    unhold_all(p, n);
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: no contiguous device memory left between leases held (%llu bytes budget): "
        "acquire long leases first, or raise the device budget",
        n, (ull)p->device_bytes);
}

/* ---- acquire ----------------------------------------------------------- */

/* What its bytes will be wanted for is known: of a lease that overwrites all that the copy holds, none. */
static void start_bytes(struct pager *p, const struct ofl_lease *l, const struct lease_item *item)
{
    struct core_copy *c = item->copy;

    if (l->mode != OFL_OVERWRITE || c->to - c->from > item->to - item->from) {
        if (item->made || c->hollow) {
            p->stats.misses++;
            copy_set_fill(p, c, true);
        } else {
            p->stats.hits++;
        }
    } else if (copy_filling(c) && !c->waiting) {
        copy_set_fill(p, c, false); /* fetched in vain */
    }
    c->hollow = c->done = false;
}

/* The range is there: says what bytes it needs. */
static void lease_start(struct pager *p, struct ofl_lease *l, const struct lease_item *item)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = item->copy;
    int predicted;
    bool whole = item->to - item->from == t->bytes;
    struct sched_event e = {.id = t->id,
                            .where = SCHED_ON_DEVICE,
                            .no_fetch = l->mode == OFL_OVERWRITE,
                            .writes = l->mode != OFL_READ};

    start_bytes(p, l, item);
    t->ahead_failed = false;
    if (hold_needed(c, item->from, item->to))
        hold_take(p, c, item->from, item->to, l->mode != OFL_READ);
    if (l->mode != OFL_READ) {
        c->writers++;
        c->drain_after = t->host_issued;
        if (!c->dirty)
            c->write_seq = ++p->seq;
        c->version = ++t->version;
    }
    if (l->mode == OFL_OVERWRITE && c->to - c->from == item->to - item->from)
        c->over_version = c->version;
    if (l->mode == OFL_OVERWRITE && whole) {
        t->whole_version = t->version;
        t->whole_seq = ++p->seq;
        copy_found(t);
    }
    l->ptr = p->device + c->off + (item->from - c->from);
    l->cookie = c->seq;
    if (!whole) {
        e.from = item->from;
        e.len = item->to - item->from;
    }
    predicted = l->flags & OFL_LEASE_UNPLANNED ? sched_use_aside(p->sched, t->id) : sched_use(p->sched, e);
    if (predicted == -ENOMEM)
        p->changes++; /* unrecorded: the plan will miss it, nothing else */
    blame_acquired(c, item->made, predicted);
    if (!t->turns) /* else when these are over */
        tile_rest(p, t, tile_rest_planned(p, t));
    copy_stand_alone(p, c);
}

/* Whether the stream will have to wait for something, as things stand. */
static bool must_wait(const struct ofl_lease *l, const struct lease_item *item, uint64_t stream)
{
    const struct core_copy *c = item->copy;

    return item->made || c->hollow || needs_bytes(c, l->mode) || needs_marks(c, l->mode, stream);
}

static int start_batch(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                       struct core_wait **out)
{
    struct core_wait *w = NULL;
    bool waits = false;

    for (size_t i = 0; i < n; i++)
        waits |= must_wait(&leases[p->items[i].lease], &p->items[i], stream);
    if (reserve_holds(p, n) < 0 || (waits && (wait_reserve(p, 2 * n) < 0 || !(w = wait_make(p, stream))))) {
        unhold_all(p, n);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        struct ofl_lease *l = &leases[p->items[i].lease];

        lease_start(p, l, &p->items[i]);
        if (w)
            lease_wait(p, l->mode, p->items[i].copy, w);
    }
    *out = w;
    return 0;
}

int lease_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct core_wait **wait)
{
    int err = pager_check(p);

    *wait = NULL;
    if (err == 0)
        err = reserve(p, n);
    if (err == 0)
        err = check_batch(p, leases, n);
    if (err == 0)
        err = place_reserve(p, 2 * (uint32_t)n); /* it may be laid out twice */
    if (err == 0 && n)
        err = place_batch(p, leases, n);
    return err < 0 || n == 0 ? err : start_batch(p, leases, n, stream, wait);
}

/* ---- release ----------------------------------------------------------- */

/* Notes in item what the lease holds. */
static int check_release(struct pager *p, const struct ofl_lease *l, struct lease_item *item)
{
    const struct ofl_tensor *t = l->tensor;
    struct core_copy *c = NULL;
    struct core_hold *h = NULL;

    if (t && l->ptr && hold_bytes(l, &item->from, &item->to) == 0)
        c = part_find(t, item->from, item->to);
    if (c && (!c->leases || c->seq != l->cookie || !copy_holds(c, item->from, item->to)))
        c = NULL;
    if (c && hold_needed(c, item->from, item->to)) {
        h = hold_find(c, item->from, item->to, l->mode != OFL_READ, p->batch);
        if (h)
            h->batch = p->batch;
        else
            c = NULL;
    }
    if (!c)
        return base_fail(-OFL_ESTATE, "release %s: it is not leased by this lease",
                         t ? t->name : "(no tensor)");
    item->copy = c;
    c->named = c->batch == p->batch ? c->named + 1 : 1;
    c->batch = p->batch;
    if (c->named > c->leases)
        return base_fail(-OFL_ESTATE, "release %s: more often than it is leased", t->name);
    return 0;
}

/* Every lease is one that is held, and as many are as the batch names of a copy. */
static int check_releases(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    int err = reserve(p, n);

    p->batch++;
    for (size_t i = 0; i < n && err == 0; i++)
        err = check_release(p, &leases[i], &p->items[i]);
    return err;
}

static void release_one(struct pager *p, struct ofl_lease *l, uint64_t stream, const struct lease_item *item,
                        struct core_use *use)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = item->copy;
    uint64_t bytes = item->to - item->from;
    bool wrote = l->mode != OFL_READ, drop = l->flags & OFL_LEASE_DROP;

    if (hold_needed(c, item->from, item->to))
        hold_give(p, c, item->from, item->to, wrote);
    place_unhold(p, c);
    t->used++;
    sched_use_over(p->sched, t->id, drop);
    c->mark_stream = c->marks == 0 || c->mark_stream == stream ? stream : 0;
    c->marks++;
    if (wrote) {
        c->write_marks++;
        c->writers--;
        c->dirty = true;
    }
    drop &= bytes == c->to - c->from; /* of what the copy holds besides nobody is done */
    if (drop)
        c->dirty = false;
    c->done = drop && bytes == t->bytes && !c->leases;
    *use = (struct core_use){.copy = c,
                             .seq = ++c->mark_seq,
                             .version = c->version,
                             .wrote = wrote,
                             .drop = drop,
                             .whole = bytes == t->bytes};
    l->ptr = NULL;
    pager_look(p, t);
}

int pager_release(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream, struct core_op **mark)
{
    struct core_op *op;
    int err = check_releases(p, leases, n);

    *mark = NULL;
    if (err < 0 || n == 0)
        return err;
    op = pager_op(p, OP_MARK, NULL, 0);
    if (op)
        op->uses = n == 1 ? &op->one : calloc(n, sizeof *op->uses);
    if (!op || !op->uses) {
        if (op)
            pager_op_cancel(p, op);
        return base_fail(-ENOMEM, "release %zu tensors: out of memory", n);
    }
    op->stream = stream;
    op->uses_count = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        release_one(p, &leases[i], stream, &p->items[i], &op->uses[i]);
    *mark = op;
    return 0;
}

/* The stream has passed the release: the use is over. why: it has failed, and what it wrote is not there. */
static void use_over(struct pager *p, struct core_use *u, const struct base_error *why)
{
    struct core_copy *c = u->copy;
    bool failed = why && u->wrote && !u->drop;

    c->marks--;
    c->tensor->used--;
    if (p->planned && c->dirty)
        part_set_busy(c, true); /* it may be to leave */
    c->write_marks -= u->wrote;
    wait_mark_over(p, c, u->seq, failed ? why : NULL);
    pager_look(p, c->tensor);
    if (u->drop)
        copy_forget(p, c, u->version);
    else if (failed)
        copy_ruin(p, c, u->version, why);
    else if (u->wrote)
        copy_publish(p, c, u->version, u->whole);
}

void lease_mark_done(struct pager *p, struct core_op *op)
{
    struct base_error why;

    if (op->code < 0)
        wait_stream_why(p, op, &why);
    for (uint32_t i = 0; i < op->uses_count; i++)
        use_over(p, &op->uses[i], op->code < 0 ? &why : NULL);
}
