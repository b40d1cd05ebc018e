/*
 * lease: see lease.h. Everything that an acquire may want memory for is asked for before anything changes, so
 * it happens whole or not at all.
 */
#include "liboffload/core/lease.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"
#include "liboffload/core/wait.h"

/* Of one lease of a batch, while it is acquired. */
struct lease_item {
    uint32_t lease; /* its index; items are sorted for placement */
    uint64_t bytes;
    bool repeated; /* an earlier one of the batch has the same tensor */
    bool had;      /* it holds a copy that was there */
    bool made;     /* it holds a new one */
};

/* ---- waits ------------------------------------------------------------- */

static bool needs_marks(const struct core_copy *c, enum ofl_mode mode, uint64_t stream)
{
    uint32_t pending = mode == OFL_READ ? c->write_marks : c->marks;

    return pending && c->mark_stream != stream;
}

/* Adds what the lease has to wait for. */
static void lease_wait(struct pager *p, const struct ofl_lease *l, struct core_wait *w)
{
    struct core_copy *c = l->tensor->current;

    if (!copy_bytes_ready(c))
        wait_add(p, w, c, true, true);
    if (needs_marks(c, l->mode, w->stream))
        wait_add(p, w, c, false, l->mode != OFL_OVERWRITE);
}

/* ---- acquire: checks --------------------------------------------------- */

static const char *mode_name(enum ofl_mode mode)
{
    return mode == OFL_READ ? "read" : mode == OFL_UPDATE ? "update" : "overwrite";
}

static int check_lease(const struct ofl_lease *l, size_t i)
{
    const struct ofl_tensor *t = l->tensor;
    const struct core_copy *c = t ? t->current : NULL;

    if (!t || l->mode < OFL_READ || l->mode > OFL_OVERWRITE || (l->flags & ~OFL_LEASE_DROP))
        return base_fail(-EINVAL, "acquire: lease %zu: no tensor, or unknown mode %d or flags 0x%x", i,
                         (int)l->mode, l->flags);
    if (l->offset_elems > t->elems || l->count_elems > t->elems - l->offset_elems)
        return base_fail(-EINVAL, "acquire %s: %llu elements from %llu on: it has %llu", t->name,
                         (ull)l->count_elems, (ull)l->offset_elems, (ull)t->elems);
    if (l->offset_elems || (l->count_elems && l->count_elems != t->elems))
        return base_fail(
            -ENOTSUP, "acquire %s: a part of it, %llu of %llu elements: this version leases whole tensors",
            t->name, (ull)(l->count_elems ? l->count_elems : t->elems - l->offset_elems), (ull)t->elems);
    if (t->source && l->mode != OFL_READ)
        return base_fail(-EROFS, "acquire %s to %s: it lives in a source file", t->name, mode_name(l->mode));
    if (c && c->leases && (c->writer || l->mode != OFL_READ))
        return base_fail(-OFL_ESTATE, "acquire %s to %s: it is leased already to %s", t->name,
                         mode_name(l->mode), c->writer ? "write" : "read");
    if (c && c->leases && c->error)
        return base_error_restore(c->error);
    return l->mode == OFL_OVERWRITE ? 0 : copy_check_lost(t, "acquire");
}

/* Checks the batch, and notes in items which tensors it names more than once. */
static int check_batch(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    uint64_t wanted = 0;
    const struct ofl_tensor *largest = NULL;

    p->batch++;
    for (size_t i = 0; i < n; i++) {
        struct ofl_tensor *t = leases[i].tensor;
        int err = check_lease(&leases[i], i);

        if (err < 0)
            return err;
        p->items[i] =
            (struct lease_item){.lease = (uint32_t)i, .bytes = t->bytes, .repeated = t->batch == p->batch};
        if (p->items[i].repeated) {
            for (size_t k = 0; k < i; k++)
                if (leases[k].tensor == t && (leases[i].mode != OFL_READ || leases[k].mode != OFL_READ))
                    return base_fail(-OFL_ESTATE, "acquire %s: twice in one batch, not only to read",
                                     t->name);
            continue;
        }
        t->batch = p->batch;
        if (t->current && (t->current->leases || t->current->home))
            continue;
        wanted += place_footprint(t->bytes);
        if (!largest || t->bytes > largest->bytes)
            largest = t;
    }
    /* What can't fit beside the leases held is refused before anything moves. */
    if (p->held_bytes + wanted <= p->device_bytes)
        return 0;
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: %llu bytes of device memory needed beside %llu bytes leased, the largest "
        "%s with %llu bytes: the device budget is %llu bytes; the smallest that holds this is %llu",
        n, (ull)wanted, (ull)p->held_bytes, largest ? largest->name : "-",
        (ull)(largest ? largest->bytes : 0), (ull)p->device_bytes, (ull)(p->held_bytes + wanted));
}

static int reserve(struct pager *p, size_t n)
{
    if (n > UINT32_MAX / 2)
        return base_fail(-EINVAL, "acquire %zu tensors: more than can be", n);
    if (n > p->items_room) {
        struct lease_item *more = realloc(p->items, n * sizeof *more);

        if (!more)
            return base_fail(-ENOMEM, "acquire %zu tensors: out of memory", n);
        p->items = more;
        p->items_room = n;
    }
    return 0;
}

/* ---- acquire: places --------------------------------------------------- */

static int larger_first(const void *left, const void *right)
{
    const struct lease_item *a = left, *b = right;

    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    return a->lease < b->lease ? -1 : a->lease > b->lease;
}

static struct ofl_tensor *tensor_of(const struct pager *p, const struct ofl_lease *leases, size_t i)
{
    return leases[p->items[i].lease].tensor;
}

/* Holds what is there, so that it is not evicted for the others. */
static void hold_all(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = tensor_of(p, leases, i)->current;

        if (c && c->error && !c->leases && !c->waiting) { /* an earlier fetch, or write, failed: anew */
            pager_error_free(c->error);
            c->error = NULL;
            if (!c->home) {
                place_evict(p, c);
                c = NULL;
            }
        }
        p->items[i].had = c && !p->items[i].repeated;
        if (p->items[i].had)
            place_hold(p, c);
    }
}

/* Gives every other tensor of the batch a range, largest first. */
static bool place_all(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct ofl_tensor *t = tensor_of(p, leases, i);

        if (t->current)
            continue;
        if (!place_copy(p, t, 0))
            return false;
        p->items[i].made = true;
        place_hold(p, t->current); /* against the placements to come */
    }
    return true;
}

/* Takes back what hold_all and place_all did for this batch. */
static void unhold_all(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = tensor_of(p, leases, i)->current;

        if (p->items[i].had || p->items[i].made)
            place_unhold(p, c);
        if (p->items[i].made)
            place_evict(p, c);
        p->items[i].had = p->items[i].made = false;
    }
}

static int place_batch(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    if (n > 1)
        qsort(p->items, n, sizeof *p->items, larger_first);
    hold_all(p, leases, n);
    if (place_all(p, leases, n))
        return 0;
    /* It fits by bytes, but the free ranges are in pieces: clear the arena of all that isn't
     * leased by others, this batch's own copies included, and lay the batch out afresh. */
    unhold_all(p, leases, n);
    place_evict_all(p);
    hold_all(p, leases, n);
    if (place_all(p, leases, n))
        return 0;
    unhold_all(p, leases, n);
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: no contiguous device memory left between leases held (%llu bytes budget): "
        "acquire long leases first, or raise the device budget",
        n, (ull)p->device_bytes);
}

/* ---- acquire ----------------------------------------------------------- */

/* The range is there: says what bytes it needs. */
static void lease_start(struct pager *p, struct ofl_lease *l, const struct lease_item *item)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = t->current;

    if (item->repeated)
        place_hold(p, c);
    if (l->mode != OFL_OVERWRITE) {
        if (item->made || c->hollow) {
            p->stats.misses++;
            copy_set_fill(p, c, true);
        } else {
            p->stats.hits++;
        }
    } else if (copy_filling(c) && !c->waiting) {
        copy_set_fill(p, c, false); /* fetched in vain */
    }
    c->hollow = false;
    t->ahead_failed = false;
    if (l->mode != OFL_READ) {
        c->writer = true;
        c->drain_after = t->host_issued;
        if (!c->dirty)
            c->write_seq = ++p->seq;
        c->version = ++t->version;
    }
    if (l->mode == OFL_OVERWRITE) {
        t->whole_version = t->version;
        t->whole_seq = ++p->seq;
        copy_found(t);
    }
    l->ptr = p->device + c->off;
    l->cookie = c->seq;
    if (sched_use(p->sched, (struct sched_event){.id = t->id,
                                                 .where = SCHED_ON_DEVICE,
                                                 .no_fetch = l->mode == OFL_OVERWRITE,
                                                 .writes = l->mode != OFL_READ}) == -ENOMEM)
        p->changes++; /* unrecorded: the plan will miss it, nothing else */
    if (!t->turns)    /* else when these are over */
        tile_rest(p, t, tile_rest_planned(p, t));
}

/* Whether the stream will have to wait for something, as things stand. */
static bool must_wait(const struct ofl_lease *l, const struct lease_item *item, uint64_t stream)
{
    const struct core_copy *c = l->tensor->current;

    return item->made || c->hollow || !copy_bytes_ready(c) || needs_marks(c, l->mode, stream);
}

static int start_batch(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                       struct core_wait **out)
{
    struct core_wait *w = NULL;
    bool waits = false;

    for (size_t i = 0; i < n; i++)
        waits |= must_wait(&leases[p->items[i].lease], &p->items[i], stream);
    if (waits && (wait_reserve(p, 2 * n) < 0 || !(w = wait_make(p, stream)))) {
        unhold_all(p, leases, n);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        struct ofl_lease *l = &leases[p->items[i].lease];

        lease_start(p, l, &p->items[i]);
        if (w)
            lease_wait(p, l, w);
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

static int check_release(const struct ofl_lease *l)
{
    const struct ofl_tensor *t = l->tensor;

    if (!t || !l->ptr || !t->current || !t->current->leases || t->current->seq != l->cookie)
        return base_fail(-OFL_ESTATE, "release %s: it is not leased by this lease",
                         t ? t->name : "(no tensor)");
    return 0;
}

/* Every lease is one that is held, and as many are as the batch names of a tensor. */
static int check_releases(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    p->batch++;
    for (size_t i = 0; i < n; i++) {
        struct ofl_tensor *t = leases[i].tensor;
        uint32_t before = 0;
        int err = check_release(&leases[i]);

        if (err < 0)
            return err;
        for (size_t k = 0; k < i && t->batch == p->batch; k++)
            before += leases[k].tensor == t;
        t->batch = p->batch;
        if (before == t->current->leases)
            return base_fail(-OFL_ESTATE, "release %s: more often than it is leased", t->name);
    }
    return 0;
}

static void release_one(struct pager *p, struct ofl_lease *l, uint64_t stream, struct core_use *use)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = t->current;
    bool wrote = l->mode != OFL_READ, drop = l->flags & OFL_LEASE_DROP;

    place_unhold(p, c);
    sched_use_over(p->sched, t->id, drop);
    c->mark_stream = c->marks == 0 || c->mark_stream == stream ? stream : 0;
    c->marks++;
    if (wrote) {
        c->write_marks++;
        c->writer = false;
        c->dirty = true;
    }
    if (drop)
        c->dirty = false;
    *use = (struct core_use){
        .copy = c, .seq = ++c->mark_seq, .version = t->version, .wrote = wrote, .drop = drop};
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
        release_one(p, &leases[i], stream, &op->uses[i]);
    *mark = op;
    return 0;
}

/* The stream has passed the release: the use is over. why: it has failed, and what it wrote is not there. */
static void use_over(struct pager *p, struct core_use *u, const struct base_error *why)
{
    struct core_copy *c = u->copy;
    bool failed = why && u->wrote && !u->drop;

    c->marks--;
    c->write_marks -= u->wrote;
    wait_mark_over(p, c, u->seq, failed ? why : NULL);
    pager_look(p, c->tensor);
    if (u->drop)
        copy_forget(p, c, u->version);
    else if (failed)
        copy_ruin(p, c, u->version, why);
    else if (u->wrote)
        copy_publish(p, c, u->version);
}

void lease_mark_done(struct pager *p, struct core_op *op)
{
    struct base_error why;

    if (op->code < 0)
        wait_stream_why(p, op, &why);
    for (uint32_t i = 0; i < op->uses_count; i++)
        use_over(p, &op->uses[i], op->code < 0 ? &why : NULL);
}
