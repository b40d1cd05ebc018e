/* hold: see hold.h. */
#include "liboffload/core/hold.h"

#include <errno.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "liboffload/core/part.h"

const char *hold_mode(enum ofl_mode mode)
{
    return mode == OFL_READ ? "read" : mode == OFL_UPDATE ? "update" : "overwrite";
}

/* The bytes that the lease names. */
int hold_part(const struct ofl_lease *l, uint64_t *from, uint64_t *to)
{
    const struct ofl_tensor *t = l->tensor;
    const struct base_dtype *d;
    uint64_t count = l->count_elems ? l->count_elems : t->elems - l->offset_elems;

    if (l->offset_elems > t->elems || l->count_elems > t->elems - l->offset_elems)
        return base_fail(-EINVAL, "acquire %s: %llu elements from %llu on: it has %llu", t->name,
                         (ull)l->count_elems, (ull)l->offset_elems, (ull)t->elems);
    if (count == t->elems)
        return 0;
    if (count == 0)
        return base_fail(-EINVAL, "acquire %s: no elements, from the end on: it has %llu", t->name,
                         (ull)t->elems);
    d = base_dtype(t->dtype);
    if (base_dtype_bytes(d, l->offset_elems, from) < 0 || base_dtype_bytes(d, count, to) < 0)
        return base_fail(-EINVAL, "acquire %s: %llu elements from %llu on: not whole blocks of %u", t->name,
                         (ull)count, (ull)l->offset_elems, d->block_elems);
    *to += *from;
    return 0;
}

static bool overlaps(uint64_t from, uint64_t to, uint64_t other_from, uint64_t other_to)
{
    return from < other_to && other_from < to;
}

static int refuse(const struct ofl_lease *l, bool writes)
{
    if (l->mode == OFL_READ && !writes)
        return base_fail(-OFL_ESTATE,
                         "acquire %s to read: a part of these bytes is leased already to read, and the lease "
                         "is not of some of that part alone",
                         l->tensor->name);
    return base_fail(-OFL_ESTATE, "acquire %s to %s: it is leased already to %s", l->tensor->name,
                     hold_mode(l->mode), writes ? "write" : "read");
}

/* Leases of parts of a home each hold their own; those of the whole are not among the holds. */
static int check_holds(const struct core_copy *c, const struct ofl_lease *l, uint64_t from, uint64_t to)
{
    uint32_t parts = 0;

    for (const struct core_hold *h = c->holds; h; h = h->next, parts++)
        if (overlaps(from, to, h->from, h->to) &&
            (h->writes || l->mode != OFL_READ || from < h->from || to > h->to))
            return refuse(l, h->writes);
    if (c->leases > parts && (l->mode != OFL_READ || (c->writers && !parts)))
        return refuse(l, c->writers && !parts);
    return 0;
}

int hold_conflict(const struct ofl_lease *l, const struct core_copy *c, uint64_t from, uint64_t to)
{
    int err = 0;

    for (; c && c->from < to && err == 0; c = c->to < to ? part_behind(c) : NULL) {
        if (!c->leases)
            continue;
        if (c->home)
            err = check_holds(c, l, from, to);
        else if (c->writers || l->mode != OFL_READ || !copy_holds(c, from, to))
            err = refuse(l, c->writers);
        if (err == 0 && c->error)
            err = base_error_restore(c->error);
    }
    return err;
}

int hold_reserve(struct pager *p, size_t count)
{
    while (p->spare_holds_count < count) {
        struct core_hold *h = malloc(sizeof *h);

        if (!h)
            return base_fail(-ENOMEM, "acquire: %zu parts of tensors: out of memory", count);
        h->next = p->spare_holds;
        p->spare_holds = h;
        p->spare_holds_count++;
    }
    return 0;
}

void hold_take(struct pager *p, struct core_copy *c, uint64_t from, uint64_t to, bool writes)
{
    struct core_hold *h = p->spare_holds;

    p->spare_holds = h->next;
    p->spare_holds_count--;
    *h = (struct core_hold){.from = from, .to = to, .writes = writes, .next = c->holds};
    c->holds = h;
}

static struct core_hold **place_of(struct core_copy *c, uint64_t from, uint64_t to, bool writes,
                                   uint64_t batch)
{
    struct core_hold **at = &c->holds;

    while (*at && ((*at)->from != from || (*at)->to != to || (*at)->writes != writes ||
                   (batch && (*at)->batch == batch)))
        at = &(*at)->next;
    return at;
}

struct core_hold *hold_find(struct core_copy *c, uint64_t from, uint64_t to, bool writes, uint64_t batch)
{
    return *place_of(c, from, to, writes, batch);
}

void hold_give(struct pager *p, struct core_copy *c, uint64_t from, uint64_t to, bool writes)
{
    struct core_hold **at = place_of(c, from, to, writes, 0), *h = *at;

    *at = h->next;
    h->next = p->spare_holds;
    p->spare_holds = h;
    p->spare_holds_count++;
}

void hold_close(struct pager *p)
{
    while (p->spare_holds) {
        struct core_hold *h = p->spare_holds;

        p->spare_holds = h->next;
        free(h);
    }
}
