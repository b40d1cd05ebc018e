/* verify_copy: see verify_copy.h. */
#include "liboffload/core/verify_copy.h"

#include <errno.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"

#define FAIL(why, ...) (base_error_set((why), -EINVAL, __VA_ARGS__), -EINVAL)

static uint64_t end_of(const struct core_copy *c)
{
    return c->off + c->len;
}

/* ---- trees ------------------------------------------------------------- */

uint32_t verify_tree(const struct base_node *n)
{
    return n ? 1 + verify_tree(n->left) + verify_tree(n->right) : 0;
}

static const struct core_copy *of_place(const struct base_node *n)
{
    return BASE_TREE_OWNER(n, struct core_copy, place);
}

static bool tree_has(const struct base_tree *t, const struct base_node *n)
{
    const struct base_node *at = t->root;

    while (at && at != n)
        at = t->before(n, at) ? at->left : at->right;
    return at == n;
}

/* The most free bytes behind a copy in the subtree; UINT64_MAX if a sum on the way is wrong. */
static uint64_t gap_max(const struct base_node *n)
{
    uint64_t most, below;

    if (!n)
        return 0;
    most = of_place(n)->gap;
    for (int k = 0; k < 2; k++) {
        below = gap_max(k ? n->left : n->right);
        if (below == UINT64_MAX)
            return below;
        most = below > most ? below : most;
    }
    return most == of_place(n)->gap_max ? most : UINT64_MAX;
}

/* The same of where ghosts end. */
static uint64_t end_max(const struct base_node *n)
{
    uint64_t most, below;

    if (!n)
        return 0;
    most = end_of(of_place(n));
    for (int k = 0; k < 2; k++) {
        below = end_max(k ? n->left : n->right);
        if (below == UINT64_MAX)
            return below;
        most = below > most ? below : most;
    }
    return most == of_place(n)->end_max ? most : UINT64_MAX;
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

static int check_progress(const struct core_copy *c, struct base_error *why)
{
    uint32_t moving = c->fill_next - c->fill_done + c->drain_next - c->drain_done;

    if (c->fill_next > c->end || c->drain_next > c->end || c->drain_done > c->drain_next ||
        c->fill_done > c->fill_next || c->fill_done < c->first || c->drain_done < c->first)
        return FAIL(why, "%s: copy %llu: filled %u of %u, drained %u of %u, of tiles %u to %u",
                    c->tensor->name, (ull)c->seq, c->fill_done, c->fill_next, c->drain_done, c->drain_next,
                    c->first, c->end);
    if (c->wants && (!c->ghost || c->drop || c->drain_next == c->end))
        return FAIL(why, "%s: copy %llu wants tile %u, into which nothing is to be drained", c->tensor->name,
                    (ull)c->seq, c->drain_next);
    if (c->moving < moving || c->moving > moving + c->poisoned)
        return FAIL(why, "%s: copy %llu: moving is %u: filled %u of %u, drained %u of %u", c->tensor->name,
                    (ull)c->seq, c->moving, c->fill_done, c->fill_next, c->drain_done, c->drain_next);
    if (c->write_marks > c->marks)
        return FAIL(why, "%s: copy %llu: %u writes among %u released uses", c->tensor->name, (ull)c->seq,
                    c->write_marks, c->marks);
    return 0;
}

struct overlap {
    const struct core_copy *copy;
    uint32_t older;
};

static void overlaps(const struct base_node *n, struct overlap *o)
{
    const struct core_copy *g;

    if (!n)
        return;
    g = of_place(n);
    o->older += g->seq < o->copy->seq && g->off < end_of(o->copy) && o->copy->off < end_of(g);
    overlaps(n->left, o);
    overlaps(n->right, o);
}

static int check_blockers(const struct pager *p, const struct core_copy *c, struct base_error *why)
{
    struct overlap o = {.copy = c};

    overlaps(p->graves.root, &o);
    if (o.older != c->blockers)
        return FAIL(why, "%s: copy %llu: %u older ghosts in its range, blockers is %u", c->tensor->name,
                    (ull)c->seq, o.older, c->blockers);
    return 0;
}

static int check_copy(const struct pager *p, const struct core_copy *c, struct base_error *why)
{
    const struct ofl_tensor *t = c->tensor;
    int err;

    if (end_of(c) > p->device_bytes || c->len != place_footprint(c->to - c->from))
        return FAIL(why, "%s: copy %llu: range %llu, %llu bytes, of %llu", t->name, (ull)c->seq, (ull)c->off,
                    (ull)c->len, (ull)p->device_bytes);
    if (c->from >= c->to || c->to > t->bytes || c->first != tile_of(t, c->from) ||
        c->end != tile_of(t, c->to - 1) + 1)
        return FAIL(why, "%s: copy %llu: bytes %llu to %llu of %llu, tiles %u to %u", t->name, (ull)c->seq,
                    (ull)c->from, (ull)c->to, (ull)t->bytes, c->first, c->end);
    if (c->tensor->source && c->dirty)
        return FAIL(why, "%s: copy %llu is dirty: it lives in a source", c->tensor->name, (ull)c->seq);
    if (c->stuck && !tree_has(&p->stuck, &c->turn))
        return FAIL(why, "%s: copy %llu: stuck, and not among those", c->tensor->name, (ull)c->seq);
    err = check_conds(c, why);
    if (err == 0)
        err = check_progress(c, why);
    return err < 0 ? err : check_blockers(p, c, why);
}

/* Leases that write share no byte with another. */
static int check_leases(const struct core_copy *c, struct base_error *why)
{
    uint32_t parts = 0, writers = 0;

    for (const struct core_hold *h = c->holds; h; h = h->next, parts++) {
        writers += h->writes;
        for (const struct core_hold *o = h->next; o; o = o->next)
            if ((h->writes || o->writes) && h->from < o->to && o->from < h->to)
                return FAIL(why, "%s: copy %llu: two leases of bytes %llu to %llu, one to write",
                            c->tensor->name, (ull)c->seq, (ull)h->from, (ull)h->to);
    }
    if (c->home ? parts > c->leases || c->writers < writers || (c->writers > writers && c->leases != 1)
                : parts || (c->writers && (c->leases != 1 || c->writers != 1)))
        return FAIL(why, "%s: copy %llu: %u leases, %u writers, %u of parts", c->tensor->name, (ull)c->seq,
                    c->leases, c->writers, parts);
    if (c->hollow && (c->fill || c->leases))
        return FAIL(why, "%s: copy %llu: %u leases, hollow", c->tensor->name, (ull)c->seq, c->leases);
    return 0;
}

static int check_live_copy(const struct pager *p, const struct core_copy *c, struct base_error *why)
{
    uint64_t next = c->next == &p->live ? p->device_bytes : c->next->off;
    int err;

    if (c->prev->next != c || c->next->prev != c || !tree_has(&p->arena, &c->place))
        return FAIL(why, "%s: copy %llu: its list is cut, or it is not in the arena's tree", c->tensor->name,
                    (ull)c->seq);
    if (c->ghost || !tree_has(&c->tensor->live, &c->part))
        return FAIL(why, "%s: copy %llu is live, and not the tensor's own", c->tensor->name, (ull)c->seq);
    if (!c->busy && (c->waiting || c->moving || copy_filling(c)))
        return FAIL(why, "%s: copy %llu is busy, and not among those", c->tensor->name, (ull)c->seq);
    if (end_of(c) > next || c->gap != next - end_of(c))
        return FAIL(why,
                    "%s: copy %llu ends at %llu, the next begins at %llu: its gap is %llu: it overlaps, or "
                    "the order is wrong",
                    c->tensor->name, (ull)c->seq, (ull)end_of(c), (ull)next, (ull)c->gap);
    err = check_leases(c, why);
    return err < 0 ? err : check_copy(p, c, why);
}

int verify_live(const struct pager *p, struct base_error *why)
{
    uint64_t used = 0, homes = 0, held = 0;
    uint32_t count = 1; /* the head */
    int err;

    if (p->live.gap != (p->live.next == &p->live ? p->device_bytes : p->live.next->off))
        return FAIL(why, "device: the gap before the first copy is %llu bytes", (ull)p->live.gap);
    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next, count++) {
        used += c->len;
        homes += c->home ? c->len : 0;
        held += c->home || c->leases ? c->len : 0;
        err = check_live_copy(p, c, why);
        if (err < 0)
            return err;
    }
    if (count != verify_tree(p->arena.root) || gap_max(p->arena.root) == UINT64_MAX)
        return FAIL(why, "device: the arena's tree has %u copies instead of %u, or a wrong sum",
                    verify_tree(p->arena.root), count);
    if (used != p->device_used || used > p->device_bytes || used > p->device_peak)
        return FAIL(why, "device: live copies take %llu bytes, device_used is %llu, its peak %llu", (ull)used,
                    (ull)p->device_used, (ull)p->device_peak);
    if (held != p->held_bytes)
        return FAIL(why, "device: leases and homes take %llu bytes, held_bytes is %llu", (ull)held,
                    (ull)p->held_bytes);
    /* That of a tensor which is being destroyed is a ghost's until it is gone. */
    if (homes > p->homes.bytes[OFL_DEVICE])
        return FAIL(why, "device: homes take %llu bytes, counted are %llu", (ull)homes,
                    (ull)p->homes.bytes[OFL_DEVICE]);
    return 0;
}

/* The live copies of t: no two share a byte. */
int verify_parts(const struct ofl_tensor *t, struct base_error *why)
{
    const struct base_node *n = base_tree_first(&t->live);
    uint32_t count = 0, leased = 0, loose = 0, busy = 0, listed = 0, used = 0;
    uint64_t end = 0;

    for (; n; n = base_tree_after(&t->live, n), count++) {
        const struct core_copy *c = BASE_TREE_OWNER(n, struct core_copy, part);

        if (c->ghost || c->tensor != t || c->from < end)
            return FAIL(why, "%s: copy %llu of bytes %llu to %llu: a ghost, or not alone there", t->name,
                        (ull)c->seq, (ull)c->from, (ull)c->to);
        end = c->to;
        leased += c->leases > 0;
        loose += !c->leases && !c->home;
        busy += c->busy;
        used += c->marks;
    }
    for (const struct core_copy *c = t->busy; c; c = c->busy_next)
        listed += c->busy && (c->busy_prev ? c->busy_prev->busy_next == c : t->busy == c);
    for (const struct core_copy *c = t->ghosts; c; c = c->next)
        used += c->marks;
    if (used != t->used)
        return FAIL(why, "%s: %u released uses have not completed; counted are %u", t->name, used, t->used);
    if (count != verify_tree(t->live.root) || leased != t->leased || loose != t->loose || busy != listed)
        return FAIL(why, "%s: %u live copies, %u leased, %u loose, %u busy; counted are %u, %u, %u and %u",
                    t->name, count, leased, loose, busy, verify_tree(t->live.root), t->leased, t->loose,
                    listed);
    return 0;
}

/* Ghosts of the same bytes stand in the order in which they were made. */
static bool in_order(const struct core_copy *c)
{
    for (const struct core_copy *g = c->prev; g; g = g->prev)
        if (g->seq >= c->seq && copy_meets(g, c->from, c->to))
            return false;
    return true;
}

int verify_ghosts(const struct pager *p, const struct ofl_tensor *t, uint32_t *all, struct base_error *why)
{
    const struct core_copy *last = NULL;
    uint32_t ghosts = 0, dirty = 0;
    int err = 0;

    for (const struct core_copy *c = t->ghosts; c && err == 0; c = c->next) {
        if (!c->ghost || c->busy || c->leases || c->home || c->tensor != t)
            return FAIL(why, "%s: copy %llu among the ghosts: live, leased, or a home", t->name, (ull)c->seq);
        if (c->prev != last || !in_order(c) || !tree_has(&p->graves, &c->place))
            return FAIL(why, "%s: ghost %llu: its list is cut or out of order, or it is not in the tree",
                        t->name, (ull)c->seq);
        ghosts++;
        dirty += !c->drop;
        last = c;
        err = check_copy(p, c, why);
    }
    if (err < 0)
        return err;
    if (ghosts != t->ghosts_count || dirty != t->dirty_ghosts || (last && t->ghosts_last != last))
        return FAIL(why, "%s: %u ghosts, %u of them dirty; counted are %u and %u", t->name, ghosts, dirty,
                    t->ghosts_count, t->dirty_ghosts);
    *all += ghosts;
    return 0;
}

bool verify_graves(const struct pager *p)
{
    return end_max(p->graves.root) != UINT64_MAX;
}
