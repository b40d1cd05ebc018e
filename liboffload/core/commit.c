/*
 * commit: see commit.h. Owns which tiles the commit in flight has taken. A tile is taken when the store has its bytes;
 * one that is newer in host memory is written first, one that is newer on the device was made a ghost when the commit
 * began, and is drained by copy.c.
 */
#include "liboffload/core/commit.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "liboffload/core/copy.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/slot.h"
#include "liboffload/core/tile.h"

/* Bytes that are being written for a commit, at most: what keeps a drive busy. What trains meanwhile has its own. */
#define WRITING_MOST (32ull << 20)

/* ---- names -------------------------------------------------------------- */

static const char *name_of(const struct base_node *n)
{
    return BASE_TREE_OWNER(n, struct core_keep, by_name)->tensor->name;
}

static bool name_before(const struct base_node *a, const struct base_node *b)
{
    return strcmp(name_of(a), name_of(b)) < 0;
}

void commit_open_books(struct pager *p)
{
    p->kept_names = (struct base_tree){.before = name_before};
    p->commit.ready_tail = &p->commit.ready;
}

struct ofl_tensor *commit_find(const struct pager *p, const char *name)
{
    const struct base_node *n = p->kept_names.root;

    while (n) {
        int order = strcmp(name, name_of(n));

        if (order == 0)
            return BASE_TREE_OWNER(n, struct core_keep, by_name)->tensor;
        n = order < 0 ? n->left : n->right;
    }
    return NULL;
}

void commit_admit(struct pager *p, struct ofl_tensor *t)
{
    base_tree_insert(&p->kept_names, &t->keep->by_name);
}

void commit_leave(struct pager *p, struct ofl_tensor *t)
{
    base_tree_remove(&p->kept_names, &t->keep->by_name);
    p->commit.dirty = true;
}

/* ---- the end ------------------------------------------------------------ */

static void over(struct pager *p)
{
    struct core_commit *m = &p->commit;

    for (struct ofl_tensor *t = p->tensors; t; t = t->next) {
        struct core_keep *k = t->keep;

        if (!k)
            continue;
        if (k->part && !m->failed)
            slot_settle(t);
        for (uint32_t i; (i = base_bits_next(&k->written, 0)) != BASE_BITS_NONE;)
            base_bits_put(&k->written, i, false);
        k->part = k->open = k->queued = false;
        if (k->held)
            tile_let_go(p, t);
        pager_look(p, t); /* what waited for the commit goes on */
    }
    m->ready = NULL;
    m->ready_tail = &m->ready;
    m->seq = m->writing = 0;
    m->unsettled = 0;
    m->wanted = NULL;
    m->flushing = false;
    p->changes++;
}

static void fail(struct pager *p, const struct base_error *why)
{
    p->commit.failed = true;
    p->commit.error = *why;
    over(p);
}

static void durable(void *arg, int code)
{
    struct pager *p = arg;

    if (code < 0) {
        fail(p, &p->commit.error);
        return;
    }
    p->commit.durable = p->commit.generation;
    p->commit.dirty = false; /* what was written since it began is its own: all else waits */
    p->stats.commits++;
    over(p);
}

static void flush(struct pager *p)
{
    struct core_op *op = pager_op(p, OP_CALL, NULL, 0);

    if (!op)
        return; /* again in the next round */
    p->commit.flushing = true;
    op->call = durable;
    op->arg = p;
    p->env.commit(p->env.arg, op);
}

/* ---- tiles -------------------------------------------------------------- */

static void fail_tensor(struct pager *p, const struct ofl_tensor *t)
{
    struct base_error why;

    if (t->lost)
        base_error_set(&why, t->lost->code, "commit: %s: its bytes are lost: %.900s", t->name, t->lost->text);
    else
        base_error_set(&why, -OFL_ESTATE, "commit: %s: its bytes were lost before they were written",
                       t->name);
    fail(p, &why);
}

/* All that is older is in its tiles: what lies in these can be written without room of the arena. So host works and
 * drains that came later may dirty what has been taken, which is not written before the commit is over. */
static void all_settled(struct pager *p)
{
    for (struct ofl_tensor *t = p->tensors; t; t = t->next)
        if (t->keep && t->keep->part)
            pager_look(p, t);
    p->changes++;
}

static void settle(struct pager *p, struct ofl_tensor *t)
{
    struct core_keep *k = t->keep;

    if (k->settled || t->host_done < k->ordinal || !copy_settled(t, p->commit.seq))
        return;
    k->settled = true;
    if (--p->commit.unsettled == 0)
        all_settled(p);
}

static void taken(struct pager *p, struct ofl_tensor *t, uint32_t tile)
{
    slot_take(p, t, tile);
    p->changes++; /* for who waits to write it */
    if (t->dirty_ghosts)
        pager_look(p, t);
}

/* Tiles whose write has ended. */
static void take_written(struct pager *p, struct ofl_tensor *t)
{
    struct base_bits *written = &t->keep->written;
    uint32_t i = base_bits_next(written, 0);

    while (i != BASE_BITS_NONE) {
        if (!t->tiles[i].writing) {
            taken(p, t, i);
            base_bits_put(written, i, false);
            p->commit.writing -= tile_count_bytes(t, i);
            p->stats.commit_bytes += tile_count_bytes(t, i);
        }
        i = i + 1 < t->tiles_count ? base_bits_next(written, i + 1) : BASE_BITS_NONE;
    }
}

enum take { TAKE_GOES_ON, TAKE_WAITS, TAKE_FULL };

static enum take take_next(struct pager *p, struct ofl_tensor *t)
{
    struct core_keep *k = t->keep;
    uint32_t i = k->cursor;
    const struct core_tile *x = &t->tiles[i];
    uint64_t from = tile_start(t, i), bytes = tile_count_bytes(t, i);

    if (!copy_drained(t, from, from + bytes, p->commit.seq) || x->writing || x->stale)
        return TAKE_WAITS;
    assert(x->state != TILE_ARRIVING || x->stored); /* else a drain is under way */
    if (!x->dirty) {
        taken(p, t, i);
    } else {
        if (p->commit.writing && p->commit.writing + bytes > WRITING_MOST)
            return TAKE_FULL;
        if (!tile_write_start(p, t, i))
            return TAKE_FULL; /* no memory: later */
        base_bits_put(&k->written, i, true);
        p->commit.writing += bytes;
    }
    k->cursor++;
    return TAKE_GOES_ON;
}

static void put_off(struct pager *p, struct ofl_tensor *t)
{
    if (t->keep->queued)
        return;
    t->keep->queued = true;
    t->keep->ready_next = NULL;
    *p->commit.ready_tail = t;
    p->commit.ready_tail = &t->keep->ready_next;
}

static void take(struct pager *p, struct ofl_tensor *t)
{
    struct core_keep *k = t->keep;
    enum take how = TAKE_GOES_ON;

    if (t->lost || k->spoilt) {
        fail_tensor(p, t);
        return;
    }
    settle(p, t);
    if (t->host_done < k->ordinal)
        return;
    take_written(p, t);
    while (k->cursor < t->tiles_count && (how = take_next(p, t)) == TAKE_GOES_ON)
        ;
    if (how == TAKE_FULL)
        put_off(p, t);
    if (k->cursor < t->tiles_count || k->written.count)
        return;
    assert(k->settled);
    k->open = false;
    p->commit.left--;
    p->changes++;
}

void commit_look(struct pager *p, struct ofl_tensor *t)
{
    if (commit_open(t) && !t->keep->queued && !p->broken.code)
        take(p, t);
    else if (commit_open(t) && !p->broken.code)
        take_written(p, t);
}

/* What the oldest host work waits for comes first. */
static void hurry(struct core_commit *m)
{
    struct ofl_tensor *t = m->wanted, **at = &m->ready;

    m->wanted = NULL;
    if (!t || !t->keep->queued || m->ready == t)
        return;
    while (*at != t)
        at = &(*at)->keep->ready_next;
    *at = t->keep->ready_next;
    if (m->ready_tail == &t->keep->ready_next)
        m->ready_tail = at;
    t->keep->ready_next = m->ready;
    m->ready = t;
}

void commit_start(struct pager *p)
{
    struct core_commit *m = &p->commit;

    hurry(m);
    while (m->ready && m->writing < WRITING_MOST) {
        struct ofl_tensor *t = m->ready;
        uint32_t before = t->keep->cursor;

        m->ready = t->keep->ready_next;
        if (!m->ready)
            m->ready_tail = &m->ready;
        t->keep->queued = false;
        take(p, t);
        if (t->keep->queued && t->keep->cursor == before)
            break; /* it found no memory, or too little room beside what is being written */
    }
    if (m->seq && m->left == 0 && !m->flushing)
        flush(p);
}

void commit_fail_all(struct pager *p)
{
    if (p->commit.seq && !p->commit.flushing)
        fail(p, &p->broken);
}

/* ---- the beginning ------------------------------------------------------ */

int pager_commit_over(struct pager *p)
{
    if (p->commit.seq)
        return -EAGAIN;
    if (!p->commit.failed)
        return pager_check(p);
    p->commit.failed = false;
    return base_error_restore(&p->commit.error);
}

static int check(const struct pager *p)
{
    if (!p->kept)
        return base_fail(-OFL_ESTATE, "commit: the context has no kept store: see ofl_config.keep_dir");
    for (const struct ofl_tensor *t = p->tensors; t; t = t->next) {
        if (!t->keep)
            continue;
        if (t->leased)
            return base_fail(-OFL_ESTATE, "commit: %s is leased", t->name);
        if (t->lost)
            return copy_check_lost(t, "commit");
    }
    return 0;
}

/* What is newer on the device leaves it, in order with all else. */
static void send_down(struct pager *p, struct ofl_tensor *t)
{
    struct core_copy *c = part_find(t, 0, t->bytes), *next;

    for (; c; c = next) {
        next = part_behind(c);
        if (c->dirty)
            place_evict(p, c);
    }
}

int pager_commit(struct pager *p)
{
    struct core_commit *m = &p->commit;
    int err = pager_commit_over(p);

    if (err == 0)
        err = check(p);
    if (err < 0)
        return err;
    m->generation = m->durable + 1;
    m->tensors = m->left = m->unsettled = 0;
    for (struct ofl_tensor *t = p->tensors; t; t = t->next) {
        struct core_keep *k = t->keep;

        if (!k || !t->added || t->leaving)
            continue;
        send_down(p, t);
        slot_forget(t);
        k->part = k->open = true;
        k->spoilt = k->settled = false;
        k->cursor = 0;
        k->ordinal = t->host_issued;
        m->tensors++;
        m->left++;
        m->unsettled++;
        pager_look(p, t);
    }
    m->seq = ++p->seq;
    p->changes++;
    return 0;
}

/* ---- the books ---------------------------------------------------------- */

/* Of a tensor that the commit in flight has: every tile before the cursor is taken, or on its way. */
static int verify_part(const struct ofl_tensor *t, uint64_t *writing, struct base_error *why)
{
    const struct core_keep *k = t->keep;

    for (uint32_t i = 0; i < t->tiles_count; i++) {
        bool written = base_bits_has(&k->written, i), taken = slot_taken(t, i);

        if (taken + written != (i < k->cursor) || (written && !t->tiles[i].dirty && !t->tiles[i].stored)) {
            base_error_set(why, -EINVAL, "commit: tile %u of %s, %u are begun: %s%s", i, t->name, k->cursor,
                           taken ? "taken" : "", written ? " written" : "");
            return -EINVAL;
        }
        *writing += written ? tile_count_bytes(t, i) : 0;
    }
    if (!k->open && (k->cursor < t->tiles_count || k->written.count)) {
        base_error_set(why, -EINVAL, "commit: %s is over at tile %u of %u", t->name, k->cursor,
                       t->tiles_count);
        return -EINVAL;
    }
    return 0;
}

int commit_verify(const struct pager *p, struct base_error *why)
{
    const struct core_commit *m = &p->commit;
    uint32_t parts = 0, open = 0, unsettled = 0, queued = 0, names = 0;
    uint64_t writing = 0;
    int err = 0;

    for (const struct ofl_tensor *t = p->tensors; t && err == 0; t = t->next) {
        const struct core_keep *k = t->keep;

        if (!k)
            continue;
        names += commit_find(p, t->name) == t;
        names -= 1;
        parts += k->part;
        open += k->open;
        unsettled += k->part && !k->settled;
        queued += k->queued;
        if (k->part)
            err = verify_part(t, &writing, why);
    }
    for (const struct ofl_tensor *t = m->ready; t; t = t->keep->ready_next)
        queued--;
    if (err < 0)
        return err;
    if (parts != (m->seq ? m->tensors : 0) || open != (m->seq ? m->left : 0) || unsettled != m->unsettled ||
        queued || names || writing != m->writing || (m->flushing && (!m->seq || m->left))) {
        base_error_set(why, -EINVAL,
                       "commit: %u tensors, %u open, %llu bytes being written; counted are %u, %u, %llu%s",
                       parts, open, (ull)writing, m->tensors, m->left, (ull)m->writing,
                       queued || names ? "; its lists are wrong" : "");
        return -EINVAL;
    }
    return 0;
}
