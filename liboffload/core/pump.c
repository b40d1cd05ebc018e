/* pump: see pump.h. */
#include "liboffload/core/pump.h"

#include <errno.h>
#include <stdlib.h>

#include "liboffload/core/commit.h"
#include "liboffload/core/copy.h"
#include "liboffload/core/part.h"
#include "liboffload/core/place.h"
#include "liboffload/core/tile.h"
#include "liboffload/core/wait.h"

/* Rounds of the pump before it leaves the rest to the next event. */
#define PUMP_ROUNDS 64

/* ---- life -------------------------------------------------------------- */

static bool size_before(const struct base_node *a, const struct base_node *b)
{
    const struct ofl_tensor *x = BASE_TREE_OWNER(a, struct ofl_tensor, by_size);
    const struct ofl_tensor *y = BASE_TREE_OWNER(b, struct ofl_tensor, by_size);

    return x->bytes != y->bytes ? x->bytes < y->bytes : x->id < y->id;
}

int pager_open(struct pager *p)
{
    int err;

    p->waits.next = p->waits.prev = &p->waits;
    p->requests.next = p->requests.prev = &p->requests;
    p->looks_tail = &p->looks;
    p->hints_tail = &p->hints;
    p->sizes = (struct base_tree){.before = size_before};
    place_open(p);
    commit_open_books(p);
    err = sched_create(&p->sched);
    if (err == 0)
        err = base_extents_create(p->host_bytes, &p->host_ranges);
    if (err < 0)
        pager_close(p);
    return err;
}

void pager_close(struct pager *p)
{
    wait_close(p);
    lease_close(p);
    hint_close(p);
    place_close(p);
    while (p->free_ops) {
        struct core_op *op = p->free_ops;

        p->free_ops = op->next;
        free(op);
    }
    sched_destroy(p->sched);
    home_close(p);
    base_extents_destroy(p->host_ranges);
    free(p->by_id);
    free(p->free_ids);
    p->sched = NULL;
    p->host_ranges = NULL;
}

/* ---- tensors ----------------------------------------------------------- */

static int take_id(struct pager *p, struct ofl_tensor *t)
{
    uint32_t id;
    int err;

    if (t->id != UINT32_MAX)
        return 0; /* from an earlier try */
    if (p->next_id == p->ids_room) {
        uint32_t room = p->ids_room ? 2 * p->ids_room : 256;
        struct ofl_tensor **more = realloc(p->by_id, room * sizeof(struct ofl_tensor *));
        uint32_t *ids = more ? realloc(p->free_ids, room * sizeof *ids) : NULL;

        if (more)
            p->by_id = more;
        if (ids)
            p->free_ids = ids;
        if (!more || !ids)
            return base_fail(-ENOMEM, "create %s: out of memory", t->name);
        p->ids_room = room;
    }
    id = p->free_ids_count ? p->free_ids[p->free_ids_count - 1] : p->next_id;
    err = sched_admit(p->sched, id, tile_class(t));
    if (err < 0)
        return err;
    if (id == p->next_id)
        p->next_id++;
    else
        p->free_ids_count--;
    t->id = id;
    p->by_id[id] = t;
    return 0;
}

static void unlook(struct pager *p, struct ofl_tensor *t)
{
    struct ofl_tensor **at = &p->looks;

    if (!t->looked_for)
        return;
    while (*at != t)
        at = &(*at)->look_next;
    *at = t->look_next;
    if (p->looks_tail == &t->look_next)
        p->looks_tail = at;
    t->looked_for = false;
}

/* t is known no more, and has no home. */
static void unadmit(struct pager *p, struct ofl_tensor *t)
{
    unlook(p, t);
    if (t->homed)
        home_give(p, t);
    if (t->homed && t->keep)
        commit_leave(p, t);
    t->homed = false;
    if (t->id == UINT32_MAX)
        return;
    sched_forget(p->sched, t->id);
    p->by_id[t->id] = NULL;
    p->free_ids[p->free_ids_count++] =
        t->id; /* what is kept by id must not grow with tensors that have gone */
}

/* Whole, beside homes: what is larger than the device is leased in parts. */
static bool may_be_leased(const struct pager *p, const struct ofl_tensor *t)
{
    return !t->device_home && place_footprint(t->bytes) <= p->device_bytes;
}

int pager_tensor_add(struct pager *p, struct ofl_tensor *t)
{
    int err = pager_check(p);

    if (err == 0 && !t->homed) {
        part_admit(t);
        err = take_id(p, t);
        if (err == 0)
            err = home_take(p, t);
        t->homed = err == 0;
        if (t->homed && t->keep)
            commit_admit(p, t);
    }
    if (err == 0 && t->home_tiles && !tile_vacate(p))
        return -EAGAIN;
    if (err < 0) {
        if (err != -EAGAIN)
            unadmit(p, t);
        return err;
    }
    t->added = true;
    if (may_be_leased(p, t))
        base_tree_insert(&p->sizes, &t->by_size);
    t->next = p->tensors;
    if (p->tensors)
        p->tensors->prev = t;
    p->tensors = t;
    for (uint32_t i = t->home_tiles; i < t->tiles_count; i++)
        if (t->tiles[i].stored) /* of a source */
            tile_touched(p, t, i);
    pager_look(p, t);
    return 0;
}

int pager_tensor_remove(struct pager *p, struct ofl_tensor *t)
{
    struct core_copy *c;

    if (t->leased)
        return base_fail(-OFL_ESTATE, "destroy %s: it is leased", t->name);
    if (t->keep && t->keep->part)
        return -EAGAIN; /* a commit is to have its bytes */
    t->leaving = true;
    hint_forget(p, t);
    if (copy_in_use(t))
        return -EAGAIN; /* released, but work on streams is still to see the bytes */
    while ((c = part_find(t, 0, t->bytes))) {
        c->dirty = false;
        place_evict(p, c);
    }
    for (c = t->ghosts; c; c = c->next)
        if (!c->drop) {
            part_drop(p, c);
            pager_look(p, t);
        }
    if (t->ghosts || t->turns || tile_busy(t))
        return -EAGAIN;
    tile_drop_all(p, t);
    unadmit(p, t);
    if (may_be_leased(p, t))
        base_tree_remove(&p->sizes, &t->by_size);
    if (t->prev)
        t->prev->next = t->next;
    else
        p->tensors = t->next;
    if (t->next)
        t->next->prev = t->prev;
    copy_found(t);
    pager_error_free(t->ruin);
    t->ruin = NULL;
    t->added = false;
    return 0;
}

/* ---- inputs ------------------------------------------------------------ */

/* The bytes of op's tile can't be had, or can't be kept. */
static void io_failed(struct pager *p, struct core_op *op, const struct base_error *why)
{
    struct ofl_tensor *t = op->tensor;
    uint64_t from = tile_start(t, op->tile);

    if (op->type == OP_WRITE) {
        pager_break(p, why);
        return;
    }
    t->ahead_failed = true; /* nobody who only looks ahead tries again */
    copy_fail(p, t, 0, from, from + tile_count_bytes(t, op->tile), why);
    copy_fail_edge(p, t, op->tile, why);
    work_fail_tile(p, t, op->tile, why);
}

void pager_late(struct pager *p, struct core_op *op)
{
    struct base_error why;

    p->changes++;
    if (tile_io_late(p, op, &why) == TILE_IO_FAILED)
        io_failed(p, op, &why);
}

void pager_done(struct pager *p, struct core_op *op)
{
    struct base_error why;

    p->changes++;
    switch (op->type) {
    case OP_READ:
    case OP_WRITE:
        switch (tile_io_done(p, op, &why)) {
        case TILE_IO_GOES_ON:
            return;
        case TILE_IO_FAILED:
            io_failed(p, op, &why);
            break;
        case TILE_IO_DONE:
            break;
        }
        break;
    case OP_ZERO:
        tile_zero_done(p, op);
        break;
    case OP_IN:
    case OP_OUT:
    case OP_FILL:
        copy_moved(p, op);
        break;
    case OP_MARK:
        lease_mark_done(p, op);
        break;
    case OP_CALL:
        op->call(op->arg, op->code);
        break;
    }
    pager_op_free(p, op);
}

/* ---- looking ----------------------------------------------------------- */

static void look_at_copy(struct pager *p, struct core_copy *c)
{
    copy_advance(p, c);
    if (c->waiting && copy_bytes_ready(c))
        wait_copy_ready(p, c);
    if (c->ghost && copy_over(p, c))
        place_bury(p, c);
    else if (!c->ghost && !c->waiting && !c->moving && !copy_filling(c) && !ahead_pass(p, c))
        part_set_busy(c, false);
}

/* What t's state allows: its copies, oldest first. Requests are looked at in their own order. */
static void look_at(struct pager *p, struct ofl_tensor *t)
{
    struct core_copy *c, *next;

    copy_note_fills(p, t);
    if (t->ruin) {
        struct base_error *why = t->ruin;

        t->ruin = NULL;
        work_fail_between(p, t, t->ruin_from, t->ruin_to, why);
        pager_error_free(why);
    }
    for (c = copy_first(t); c; c = next) {
        next = copy_after(c);
        look_at_copy(p, c);
    }
    commit_look(p, t);
}

static void look_at_all(struct pager *p)
{
    struct ofl_tensor *t;

    while ((t = p->looks)) {
        p->looks = t->look_next;
        if (!p->looks)
            p->looks_tail = &p->looks;
        t->looked_for = false;
        if (t->added || t->busy || t->ghosts)
            look_at(p, t);
    }
}

/* ---- the pump ---------------------------------------------------------- */

static bool pump(struct pager *p)
{
    uint64_t before;
    int rounds = 0;

    p->hungry = false;
    do {
        before = p->changes;
        p->crowded = false;
        look_at_all(p);
        if (p->broken.code) {
            wait_fail_all(p);
            work_fail_all(p);
            commit_fail_all(p);
            continue;
        }
        if (p->stuck.root)
            copy_advance_stuck(p);
        work_advance(p);
        commit_start(p);
        ahead_start(p);
        tile_write_behind(p);
    } while (p->changes != before && ++rounds < PUMP_ROUNDS);
    return p->changes != before || p->hungry;
}

bool pager_pump(struct pager *p)
{
    wait_settle_failed(p);
    return pump(p);
}

int pager_acquire(struct pager *p, struct ofl_lease *leases, size_t n, uint64_t stream,
                  struct dev_gate **gate)
{
    struct core_wait *wait;
    int err = lease_acquire(p, leases, n, stream, &wait);

    *gate = NULL;
    if (err < 0)
        return err;
    if (wait)
        pump(p); /* what can be ready at once need not be waited for */
    *gate = wait_settle(p, wait);
    return 0;
}

int pager_step_end(struct pager *p)
{
    int err = sched_step_end(p->sched);

    if (err == 0)
        ahead_plan(p);
    return err;
}
