/* pager: life, inputs, the pump, prefetch. See pager.h. */
#include "liboffload/core/pager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Events of the plan that prefetch looks ahead. */
#define AHEAD_EVENTS 256u
/* Rounds of the pump before it leaves the rest to the next event. */
#define PUMP_ROUNDS 64

/* ---- operations -------------------------------------------------------- */

struct core_op *pager_op(struct pager *p, enum core_op_type type, struct ofl_tensor *t, uint32_t tile)
{
    struct core_op *op = p->free_ops;

    if (op)
        p->free_ops = op->next;
    else if (!(op = malloc(sizeof *op)))
        return NULL;
    memset(op, 0, offsetof(struct core_op, io));
    memset(&op->io, 0, offsetof(struct io_request, error));
    op->io.error.code = 0;
    op->io.next = NULL;
    op->io.submit_ns = 0;
    op->io.cookie = op;
    op->type = type;
    op->tensor = t;
    op->tile = tile;
    p->inflight++;
    p->changes++;
    return op;
}

void pager_op_free(struct pager *p, struct core_op *op)
{
    free(op->uses);
    op->uses = NULL;
    op->next = p->free_ops;
    p->free_ops = op;
    p->inflight--;
}

void pager_op_cancel(struct pager *p, struct core_op *op)
{
    p->changes--;
    pager_op_free(p, op);
}

/* ---- life -------------------------------------------------------------- */

int pager_open(struct pager *p)
{
    int err;

    p->live.next = p->live.prev = &p->live;
    p->ghosts.next = p->ghosts.prev = &p->ghosts;
    p->waits.next = p->waits.prev = &p->waits;
    p->requests.next = p->requests.prev = &p->requests;
    p->updates_tail = &p->updates;
    err = sched_create(&p->sched);
    if (err == 0)
        err = base_extents_create(p->host_bytes, &p->host_ranges);
    if (err < 0)
        pager_close(p);
    return err;
}

/* Nothing may be in flight. Tensors have been removed, or are abandoned by their owner. */
void pager_close(struct pager *p)
{
    struct core_copy *lists[] = {&p->live, &p->ghosts};

    for (int k = 0; k < 2; k++)
        while (lists[k]->next && lists[k]->next != lists[k]) {
            struct core_copy *c = lists[k]->next;

            lists[k]->next = c->next;
            free(c->error);
            free(c);
        }
    while (p->free_ops) {
        struct core_op *op = p->free_ops;

        p->free_ops = op->next;
        free(op);
    }
    sched_destroy(p->sched);
    home_close(p);
    base_extents_destroy(p->host_ranges);
    free(p->items);
    free(p->fills);
    free(p->by_id);
    p->sched = NULL;
    p->host_ranges = NULL;
}

int pager_check(const struct pager *p)
{
    if (p->broken.code == 0)
        return 0;
    return base_fail(-OFL_EBROKEN, "%s", p->broken.text);
}

void pager_break(struct pager *p, const struct base_error *error)
{
    if (p->broken.code)
        return; /* the first error wins */
    p->broken = *error;
    p->changes++;
    p->env.log(p->env.arg, OFL_LOG_WARNING, error->text);
}

/* ---- tensors ----------------------------------------------------------- */

static int take_id(struct pager *p, struct ofl_tensor *t)
{
    if (p->next_id == p->ids_room) {
        uint32_t room = p->ids_room ? 2 * p->ids_room : 256;
        struct ofl_tensor **more = realloc(p->by_id, room * sizeof(struct ofl_tensor *));

        if (!more)
            return base_fail(-ENOMEM, "create %s: out of memory", t->name);
        p->by_id = more;
        p->ids_room = room;
    }
    if (t->id != UINT32_MAX)
        return 0; /* from an earlier try */
    t->id = p->next_id++;
    p->by_id[t->id] = NULL;
    return 0;
}

int pager_tensor_add(struct pager *p, struct ofl_tensor *t)
{
    int err = pager_check(p);

    if (err == 0 && !t->homed) {
        err = take_id(p, t);
        if (err == 0)
            err = home_take(p, t);
        t->homed = err == 0;
    }
    if (err < 0)
        return err;
    if (t->home_tiles && !tile_vacate(p))
        return -EAGAIN;
    p->by_id[t->id] = t;
    t->next = p->tensors;
    if (p->tensors)
        p->tensors->prev = t;
    p->tensors = t;
    return 0;
}

int pager_tensor_remove(struct pager *p, struct ofl_tensor *t)
{
    struct core_copy *c = t->current;

    if (c && c->leases)
        return base_fail(-OFL_ESTATE, "destroy %s: it is leased", t->name);
    t->leaving = true;
    if (copy_in_use(p, t))
        return -EAGAIN; /* released, but work on streams is still to see the bytes */
    if (c) {
        c->dirty = false;
        copy_evict(p, c);
    }
    if (t->dirty_ghosts)
        for (c = p->ghosts.next; c != &p->ghosts; c = c->next)
            if (c->tensor == t)
                copy_ghost_drop(c);
    if (t->ghosts || t->host_issued != t->host_done || tile_busy(t))
        return -EAGAIN;
    tile_drop_all(p, t);
    home_give(p, t);
    sched_forget(p->sched, t->id);
    p->by_id[t->id] = NULL;
    if (t->prev)
        t->prev->next = t->next;
    else
        p->tensors = t->next;
    if (t->next)
        t->next->prev = t->prev;
    return 0;
}

/* ---- inputs ------------------------------------------------------------ */

void pager_done(struct pager *p, struct core_op *op)
{
    switch (op->type) {
    case OP_READ:
    case OP_WRITE:
        tile_io_done(p, op);
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
    p->changes++;
    pager_op_free(p, op);
}

/* ---- prefetch ---------------------------------------------------------- */

/* Gives ranges to what the plan acquires next, in order, as long as nothing that is needed
 * sooner has to leave. Returns the event at which the device was full. */
static uint64_t prefetch_device(struct pager *p)
{
    struct sched_event e;
    uint64_t k;

    for (k = 0; k < AHEAD_EVENTS && sched_ahead(p->sched, k, &e); k++) {
        struct ofl_tensor *t = p->by_id[e.id];

        if (e.where != SCHED_ON_DEVICE || !t || t->current || t->leaving || t->fetch_failed)
            continue;
        if (!copy_place(p, t, k ? k : 1))
            break;
        t->current->fill = !e.no_fetch;
        t->current->hollow = e.no_fetch;
        t->current->fetched = true;
        p->stats.prefetches++;
    }
    return k;
}

/* Beyond that, brings tiles from the drive to the host, in order, under the same rule. */
static void prefetch_host(struct pager *p, uint64_t from)
{
    struct sched_event e;

    for (uint64_t k = from; k < from + AHEAD_EVENTS && sched_ahead(p->sched, k, &e); k++) {
        struct tile_claim claim = {.need = NEED_AHEAD, .ahead = k};
        struct ofl_tensor *t = p->by_id[e.id];

        if (!t || t->leaving || t->fetch_failed || e.no_fetch || t->current || !t->file ||
            t->host_tiles == t->tiles_count || t->host_issued != t->host_done || t->dirty_ghosts)
            continue;
        for (uint32_t i = 0; i < t->tiles_count; i++) {
            if (t->tiles[i].state != TILE_NONE || !t->tiles[i].stored)
                continue;
            if (!tile_read_start(p, t, i, claim, IO_PREFETCH))
                return;
        }
    }
}

bool pager_pump(struct pager *p)
{
    uint64_t before;
    int rounds = 0;

    do {
        before = p->changes;
        p->fills_stuck = p->ahead_stuck = false;
        copy_advance(p);
        if (p->broken.code) {
            lease_fail_all(p);
            work_fail_all(p);
            continue;
        }
        work_advance(p);
        if (!p->homes.device_only)
            prefetch_host(p, prefetch_device(p));
        tile_write_behind(p);
    } while (p->changes != before && ++rounds < PUMP_ROUNDS);
    return p->changes != before;
}
