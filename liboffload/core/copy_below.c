/*
 * copy_below: when what lies below a copy is obsolete, and goes: the copy is newer, or the only one that is wanted, or
 * nobody wants the bytes any more. See copy.h.
 */
#include "liboffload/core/copy.h"

#include "liboffload/core/part.h"
#include "liboffload/core/tile.h"

/* Nobody reads what lies below for its old bytes any more. */
static bool below_is_idle(const struct core_copy *c, uint64_t version)
{
    const struct ofl_tensor *t = c->tensor;
    /* Who writes to bytes of a live copy has its lease, or makes a ghost of it. */
    uint64_t newest = c->ghost ? t->version : c->version;

    return version == newest && t->host_issued == t->host_done && !t->source && !commit_open(t) &&
           c->drain_next == c->first && !copy_fill_older(c);
}

static void drop_below(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;

    for (struct core_copy *g = t->ghosts; g; g = g->next)
        if (g->seq < c->seq && copy_holds(c, g->from, g->to))
            part_drop(p, g);
    for (uint32_t i = c->first; i < c->end; i++)
        if (!copy_is_edge(c, i))
            tile_drop(p, t, i);
    pager_look(p, t);
}

void copy_stand_alone(struct pager *p, struct core_copy *c)
{
    struct ofl_tensor *t = c->tensor;
    struct sched_rest rest = sched_rest_now(p->sched, t->id);

    if (!p->planned || !rest.alone || !(rest.device || c->leases || c->marks) || c->dirty || c->writers ||
        c->ghost || c->home || c->error || c->hollow || copy_filling(c) || t->source || t->lost ||
        c->to - c->from < t->bytes || !below_is_idle(c, c->version))
        return;
    c->dirty = c->wrote = true;
    c->write_seq = ++p->seq;
    c->drain_after = t->host_issued;
    drop_below(p, c);
}

/* The host's work that comes next writes all of t anew, has not begun, and comes after c. */
static bool made_anew(const struct core_copy *c)
{
    const struct ofl_tensor *t = c->tensor;
    const struct core_update *u = t->turns ? t->turns->update : NULL;

    for (uint32_t i = 0; u && i < u->count; i++)
        if (u->tensors[i] == t)
            return u->access[i] == HOST_OVERWRITE && u->tiles_next == 0 && c->after_host == t->host_done;
    return false;
}

void copy_let_go(struct pager *p, struct core_copy *c)
{
    if (c->done && !copy_filling(c) && !c->error && c->drain_next == c->first && !c->tensor->source &&
        !commit_open(c->tensor) && !copy_fill_older(c) && made_anew(c))
        drop_below(p, c);
}

void copy_publish(struct pager *p, struct core_copy *c, uint64_t version, bool whole)
{
    c->wrote = true;
    if (whole && version >= c->tensor->whole_version)
        c->tensor->gone = false;
    if (below_is_idle(c, version))
        drop_below(p, c);
}

void copy_forget(struct pager *p, struct core_copy *c, uint64_t version)
{
    if (!below_is_idle(c, version)) {
        copy_let_go(p, c);
        return;
    }
    drop_below(p, c);
    if (c->ghost)
        part_drop(p, c);
    else if (!c->home)
        c->dirty = false; /* it may have come to stand alone since its release */
}
