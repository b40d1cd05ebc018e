/* traffic: see traffic.h. */
#include "liboffload/plan/traffic.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

/* By tensor, while a step is walked. Bytes of host memory are those at the front, homes included. */
struct state {
    uint64_t here, newer;  /* that lie in host memory; of these, that the drive does not have */
    bool copy, copy_newer; /* it is on the device; and is newer than what lies below */
    bool none;             /* it has no bytes */
};

struct walk {
    const struct plan_program *p;
    const struct plan_place *place;
    const struct sched_rest *rest;
    struct state *state;
    struct plan_traffic *out;
};

static uint64_t front(const struct sched_item *x, uint64_t tiles)
{
    uint64_t bytes = tiles * x->tile_bytes;

    return bytes < x->bytes ? bytes : x->bytes;
}

/* What a use brings, during its phase. */
static void fetch(struct walk *w, uint32_t use, const struct sched_item *x, struct state *s)
{
    const struct sched_use *u = &w->place->uses[use];
    struct sched_moved *m = &w->out->moved[w->place->phases[use]];
    bool on_device = u->event.where == SCHED_ON_DEVICE, wanted = !u->event.no_fetch && !s->none && !s->copy;

    if (!on_device && s->copy && s->copy_newer) { /* it has waited on the device */
        m->device_out += x->bytes;
        s->here = s->newer = x->bytes;
        s->copy_newer = false;
    } else if (wanted) {
        m->drive_read += x->bytes - s->here;
        m->device_in += on_device ? x->bytes : 0;
        s->here = x->bytes;
    }
    s->none = false;
    s->copy = on_device;
    if (!u->event.writes)
        return;
    s->copy_newer = on_device;
    s->here = s->newer = on_device ? 0 : x->bytes;
}

/* What leaves the device, and then host memory, once it is over. */
static void leave(struct walk *w, uint32_t use, const struct sched_item *x, struct state *s)
{
    const struct sched_use *u = &w->place->uses[use];
    struct sched_moved *m = &w->out->moved[w->place->phases[use]];
    uint64_t home = front(x, x->home_tiles), rest = front(x, w->rest[use].tiles);

    if (u->drops) {
        *s = (struct state){.none = true};
        return;
    }
    if (s->copy && s->copy_newer && !w->rest[use].device) {
        m->device_out += x->bytes;
        s->copy_newer = false;
        s->here = s->newer = x->bytes;
    }
    if (u->event.where == SCHED_ON_HOST && w->rest[use].device) { /* it goes up at once */
        m->device_in += x->bytes;
        s->copy = true;
    }
    s->copy &= w->rest[use].device;
    if (w->rest[use].alone) {
        s->copy_newer = true;
        s->here = s->newer = 0;
    }
    rest = rest > home ? rest : home; /* what lives in host memory is never written to a drive */
    if (s->newer > rest) {
        m->drive_write += s->newer - rest;
        s->newer = rest;
    }
    s->here = s->here < rest ? s->here : rest;
}

static void walk_step(struct walk *w)
{
    for (int i = 0; i < PLAN_PHASES; i++)
        w->out->moved[i] = (struct sched_moved){0};
    for (uint32_t i = 0; i < w->place->uses_count; i++) {
        uint32_t id = w->place->uses[i].event.id;
        const struct sched_item *x = &w->place->items[id];

        if (x->device_home)
            continue;
        fetch(w, i, x, &w->state[id]);
        leave(w, i, x, &w->state[id]);
    }
}

static void count_placed(struct walk *w)
{
    struct plan_traffic *out = w->out;

    for (uint32_t id = 0; id < w->p->tensors_count; id++) {
        const struct sched_item *x = &w->place->items[id];
        const struct state *s = &w->state[id];
        enum ofl_kind kind = w->p->tensors[id].kind;
        uint64_t home = front(x, x->home_tiles), host = s->here > home ? s->here : home;

        if (x->device_home || s->copy)
            out->placed_bytes[OFL_DEVICE][kind] += x->bytes;
        out->placed_bytes[OFL_HOST][kind] += host; /* room of its own counts, whatever is in it */
        if (!x->device_home && !s->copy && !s->none)
            out->placed_bytes[OFL_NVME][kind] += x->bytes - host;
    }
    out->placed_bytes[OFL_DEVICE][OFL_KIND_WORKSPACE] += w->p->held_bytes - w->p->cache_bytes;
    out->placed_bytes[OFL_DEVICE][OFL_KIND_CACHE] += w->p->cache_bytes;
}

int plan_traffic_make(const struct plan_program *p, const struct plan_place *place, struct plan_traffic *out)
{
    struct sched_rest *rest = calloc(place->uses_count + 1, sizeof *rest);
    struct walk w = {.p = p, .place = place, .rest = rest, .out = out};
    struct sched_moved moved;
    int err = rest ? sched_solve(place->uses, place->uses_count, place->items, p->tensors_count, &place->room,
                                 rest, &moved)
                   : -ENOMEM;

    *out = (struct plan_traffic){0};
    w.state = calloc(p->tensors_count + 1, sizeof *w.state);
    if (err == 0 && w.state) {
        walk_step(&w); /* comes to what a steady step begins with */
        walk_step(&w);
        count_placed(&w);
    } else {
        err = base_fail(-ENOMEM, "estimate: a step of %u uses: out of memory", place->uses_count);
    }
    free(rest);
    free(w.state);
    return err;
}
