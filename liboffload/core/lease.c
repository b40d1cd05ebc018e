/*
 * lease: acquire and release. Owns the rules of who may hold what, and the waits:
 * what a stream must see complete before the work behind an acquire may run.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/pager.h"

typedef unsigned long long ull;

/* ---- waits ------------------------------------------------------------- */

static void cond_over(struct pager *p, struct core_cond *cond, const struct base_error *error)
{
    struct core_wait *w = cond->wait;

    free(cond);
    if (error && !w->error) {
        w->error = malloc(sizeof *w->error);
        if (w->error)
            *w->error = *error;
    }
    if (--w->remaining)
        return;
    w->prev->next = w->next;
    w->next->prev = w->prev;
    p->env.gate_open(p->env.arg, w->gate, w->error);
    p->changes++;
    free(w->error);
    free(w);
}

static int cond_add(struct core_wait *w, struct core_copy *c, bool bytes)
{
    struct core_cond *cond = calloc(1, sizeof *cond);

    if (!cond)
        return base_fail(-ENOMEM, "acquire %s: out of memory", c->tensor->name);
    cond->wait = w;
    cond->bytes = bytes;
    cond->upto = c->mark_seq;
    cond->count = c->marks;
    cond->next = c->conds;
    c->conds = cond;
    w->remaining++;
    if (bytes)
        c->waiting++;
    return 0;
}

/* Ends the copy's conditions that match: those for bytes, or all. */
static void conds_over(struct pager *p, struct core_copy *c, bool bytes_only, const struct base_error *error)
{
    struct core_cond **at = &c->conds;

    while (*at) {
        struct core_cond *cond = *at;

        if (bytes_only && !cond->bytes) {
            at = &cond->next;
            continue;
        }
        *at = cond->next;
        if (cond->bytes)
            c->waiting--;
        cond_over(p, cond, error);
    }
}

void lease_copy_ready(struct pager *p, struct core_copy *c)
{
    conds_over(p, c, true, c->error);
}

void lease_fail_all(struct pager *p)
{
    struct core_copy *lists[] = {&p->live, &p->ghosts};

    for (int k = 0; k < 2; k++)
        for (struct core_copy *c = lists[k]->next; c != lists[k]; c = c->next)
            if (c->conds && copy_at_rest(p, c))
                conds_over(p, c, false, &p->broken);
}

static bool needs_marks(const struct core_copy *c, enum ofl_mode mode, uint64_t stream)
{
    uint32_t pending = mode == OFL_READ ? c->write_marks : c->marks;

    return pending && c->mark_stream != stream;
}

/* Adds what the lease has to wait for; w is made when the first condition needs it. */
static int lease_wait(const struct ofl_lease *l, uint64_t stream, struct core_wait **w)
{
    struct core_copy *c = l->tensor->current;
    bool bytes = !copy_bytes_ready(c), marks = needs_marks(c, l->mode, stream);

    if (!bytes && !marks)
        return 0;
    if (!*w) {
        *w = calloc(1, sizeof **w);
        if (!*w)
            return base_fail(-ENOMEM, "acquire %s: out of memory", l->tensor->name);
    }
    if (bytes && cond_add(*w, c, true) < 0)
        return -ENOMEM;
    return marks ? cond_add(*w, c, false) : 0;
}

/* ---- acquire ----------------------------------------------------------- */

static const char *mode_name(enum ofl_mode mode)
{
    return mode == OFL_READ ? "read" : mode == OFL_UPDATE ? "update" : "overwrite";
}

static int check_lease(const struct ofl_lease *l, size_t i, const struct ofl_lease *all)
{
    const struct ofl_tensor *t = l->tensor;
    const struct core_copy *c = t ? t->current : NULL;

    if (!t || l->mode < OFL_READ || l->mode > OFL_OVERWRITE || (l->flags & ~OFL_LEASE_DROP))
        return base_fail(-EINVAL, "acquire: lease %zu: no tensor, or unknown mode %d or flags 0x%x", i,
                         (int)l->mode, l->flags);
    if (t->source && l->mode != OFL_READ)
        return base_fail(-EROFS, "acquire %s to %s: it lives in a source file", t->name, mode_name(l->mode));
    if (c && c->leases && (c->writer || l->mode != OFL_READ))
        return base_fail(-OFL_ESTATE, "acquire %s to %s: it is leased already to %s", t->name,
                         mode_name(l->mode), c->writer ? "write" : "read");
    if (c && c->leases && c->error)
        return base_error_restore(c->error);
    for (size_t k = 0; k < i; k++)
        if (all[k].tensor == t && (l->mode != OFL_READ || all[k].mode != OFL_READ))
            return base_fail(-OFL_ESTATE, "acquire %s: twice in one batch, not only to read", t->name);
    return 0;
}

static bool repeated(const struct ofl_lease *leases, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (leases[k].tensor == leases[i].tensor)
            return true;
    return false;
}

/* Refuses what can't fit beside the leases held, before anything moves. */
static int check_budget(struct pager *p, const struct ofl_lease *leases, size_t n)
{
    uint64_t held = 0, wanted = 0;
    const struct ofl_tensor *largest = NULL;

    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        if (c->leases || c->home)
            held += c->len;
    for (size_t i = 0; i < n; i++) {
        const struct ofl_tensor *t = leases[i].tensor;
        bool counted = t->current && (t->current->leases || t->current->home);

        if (counted || repeated(leases, i))
            continue;
        wanted += copy_footprint(t->bytes);
        if (!largest || t->bytes > largest->bytes)
            largest = t;
    }
    if (held + wanted <= p->device_bytes)
        return 0;
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: %llu bytes of device memory needed beside %llu bytes leased, the largest "
        "%s with %llu bytes: the device budget is %llu bytes; the smallest that holds this is %llu",
        n, (ull)wanted, (ull)held, largest ? largest->name : "-", (ull)(largest ? largest->bytes : 0),
        (ull)p->device_bytes, (ull)(held + wanted));
}

/* Gives every tensor of the batch a range, largest first. made[i]: it has a new one. */
static bool place_all(struct pager *p, struct ofl_lease *leases, size_t n, bool *made)
{
    for (;;) {
        struct ofl_tensor *largest = NULL;
        size_t at = 0;

        for (size_t i = 0; i < n; i++)
            if (!leases[i].tensor->current && (!largest || leases[i].tensor->bytes > largest->bytes)) {
                largest = leases[i].tensor;
                at = i;
            }
        if (!largest)
            return true;
        if (!copy_place(p, largest, 0))
            return false;
        made[at] = true;
        largest->current->leases++; /* held against the placements to come */
    }
}

/* Takes back what place_all and the caller's holds did for this batch. */
static void unhold(struct pager *p, struct ofl_lease *leases, size_t n, const bool *had, bool *made)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = leases[i].tensor->current;

        if (had[i] || made[i])
            c->leases--;
        if (made[i])
            copy_evict(p, c);
        made[i] = false;
    }
}

static int place_batch(struct pager *p, struct ofl_lease *leases, size_t n, bool *had, bool *made)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = leases[i].tensor->current;

        if (c && c->error && !c->leases) {
            copy_evict(p, c); /* an earlier fetch failed: try again */
            c = NULL;
        }
        had[i] = c && !repeated(leases, i);
        if (had[i])
            c->leases++;
    }
    if (place_all(p, leases, n, made))
        return 0;
    /* It fits by bytes, but the free ranges are in pieces: clear the arena of all that isn't
     * leased by others, this batch's own copies included, and lay the batch out afresh. */
    unhold(p, leases, n, had, made);
    copy_evict_all(p);
    for (size_t i = 0; i < n; i++) {
        had[i] = leases[i].tensor->current && !repeated(leases, i);
        if (had[i])
            leases[i].tensor->current->leases++;
    }
    if (place_all(p, leases, n, made))
        return 0;
    unhold(p, leases, n, had, made);
    return base_fail(
        -OFL_EBUDGET,
        "acquire %zu tensors: no contiguous device memory left between leases held (%llu bytes budget): "
        "acquire long leases first, or raise the device budget",
        n, (ull)p->device_bytes);
}

static void drop_ghosts(struct pager *p, struct ofl_tensor *t)
{
    /* A host work still to come, or a fill that an earlier use awaits, may read what they drain. */
    if (t->host_done != t->host_issued || !t->dirty_ghosts || copy_fill_before(p, t, UINT64_MAX))
        return;
    for (struct core_copy *c = p->ghosts.next; c != &p->ghosts; c = c->next)
        if (c->tensor == t)
            copy_ghost_drop(c);
}

/* The range is there: says what bytes it needs. */
static void lease_start(struct pager *p, struct ofl_lease *l, bool made)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = t->current;

    if (l->mode != OFL_OVERWRITE) {
        if (made || c->hollow)
            p->stats.misses++;
        else
            p->stats.hits++;
        c->fill |= made || c->hollow;
    } else {
        if (c->fill && !c->waiting && c->fill_done < t->tiles_count)
            c->fill = false; /* fetched in vain */
        drop_ghosts(p, t);
    }
    c->hollow = false;
    if (l->mode != OFL_READ) {
        c->writer = true;
        t->version++;
    }
    l->ptr = p->device + c->off;
    l->cookie = c->seq;
}

static void wait_abandon(struct ofl_lease *leases, size_t n, struct core_wait *w)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = leases[i].tensor->current;
        struct core_cond **at = &c->conds;

        while (*at) {
            struct core_cond *cond = *at;

            if (cond->wait != w) {
                at = &cond->next;
                continue;
            }
            *at = cond->next;
            if (cond->bytes)
                c->waiting--;
            free(cond);
        }
    }
    free(w);
}

/* Makes the gate that the stream waits at, if anything is to be waited for. */
static int lease_gate(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                      struct dev_gate **gate)
{
    struct core_wait *w = NULL;
    int err = 0;

    for (size_t i = 0; i < n && err == 0; i++)
        err = lease_wait(&leases[i], stream, &w);
    if (err == 0 && w)
        err = p->env.gate_create(p->env.arg, gate);
    if (err < 0) {
        if (w)
            wait_abandon(leases, n, w);
        return err;
    }
    if (w) {
        w->gate = *gate;
        w->next = &p->waits;
        w->prev = p->waits.prev;
        p->waits.prev->next = w;
        p->waits.prev = w;
    }
    return 0;
}

static void lease_undo(struct pager *p, struct ofl_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = leases[i].tensor->current;

        c->leases--;
        if (leases[i].mode != OFL_READ)
            c->writer = false;
        leases[i].ptr = NULL;
    }
    for (size_t i = 0; i < n; i++) {
        struct core_copy *c = leases[i].tensor->current;

        /* Overwritten copies have no bytes of their own; the rest is only cached. */
        if (c && !c->leases && !c->home && !c->dirty && !c->marks)
            copy_evict(p, c);
    }
}

int pager_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct dev_gate **gate)
{
    bool *flags;
    int err = pager_check(p);

    *gate = NULL;
    for (size_t i = 0; i < n && err == 0; i++)
        err = check_lease(&leases[i], i, leases);
    if (err == 0)
        err = check_budget(p, leases, n);
    if (err < 0 || n == 0)
        return err;
    flags = calloc(2 * n, sizeof *flags); /* had, made */
    if (!flags)
        return base_fail(-ENOMEM, "acquire %zu tensors: out of memory", n);
    for (size_t i = 0; i < n && err == 0; i++)
        if (sched_use(p->sched, (struct sched_event){leases[i].tensor->id, SCHED_ON_DEVICE,
                                                     leases[i].mode == OFL_OVERWRITE}) == -ENOMEM)
            err = -ENOMEM;
    if (err == 0)
        err = place_batch(p, leases, n, flags, flags + n);
    if (err == 0) {
        for (size_t i = 0; i < n; i++) {
            if (repeated(leases, i))
                leases[i].tensor->current->leases++;
            lease_start(p, &leases[i], flags[n + i]);
        }
        pager_pump(p); /* what can be ready at once need not be waited for */
        err = lease_gate(p, leases, n, stream, gate);
        if (err < 0)
            lease_undo(p, leases, n);
    }
    free(flags);
    return err;
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

static void release_one(struct ofl_lease *l, uint64_t stream, struct core_use *use)
{
    struct ofl_tensor *t = l->tensor;
    struct core_copy *c = t->current;
    bool wrote = l->mode != OFL_READ, drop = l->flags & OFL_LEASE_DROP;

    c->leases--;
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
}

int pager_release(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream, struct core_op **mark)
{
    struct core_op *op;

    *mark = NULL;
    for (size_t i = 0; i < n; i++) {
        int err = check_release(&leases[i]);

        if (err < 0)
            return err;
    }
    if (n == 0)
        return 0;
    op = pager_op(p, OP_MARK, NULL, 0);
    if (op)
        op->uses = calloc(n, sizeof *op->uses);
    if (!op || !op->uses) {
        if (op)
            pager_op_free(p, op);
        return base_fail(-ENOMEM, "release %zu tensors: out of memory", n);
    }
    op->uses_count = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        release_one(&leases[i], stream, &op->uses[i]);
    *mark = op;
    return 0;
}

/* The stream has passed the release: the use is over. */
static void use_over(struct pager *p, struct core_use *u)
{
    struct core_copy *c = u->copy;
    struct ofl_tensor *t = c->tensor;
    struct core_cond **at = &c->conds;

    c->marks--;
    c->write_marks -= u->wrote;
    while (*at) {
        struct core_cond *cond = *at;

        if (cond->bytes || u->seq > cond->upto || --cond->count) {
            at = &cond->next;
            continue;
        }
        *at = cond->next;
        cond_over(p, cond, NULL);
    }
    /* What lies below the device is obsolete now, unless host work or the fill of an older copy is
     * still to read it, or a later write has made it so already. */
    if ((u->wrote || u->drop) && u->version == t->version && t->host_issued == t->host_done && !t->source &&
        c->drain_next == 0 && !copy_fill_older(p, t, c->seq))
        tile_drop_all(p, t);
}

void lease_mark_done(struct pager *p, struct core_op *op)
{
    for (uint32_t i = 0; i < op->uses_count; i++)
        use_over(p, &op->uses[i]);
}
