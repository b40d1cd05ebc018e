/* host: ofl_tensor_read and ofl_tensor_write, as liboffload/core/tensor.c makes them. See sim.h. */
#include <errno.h>
#include <string.h>

#include "tests/sim/sim.h"

/* One tile, in the caller's hands between its request's two ends. */
struct access {
    struct core_request request;
    struct sim *sim;
    struct sim_tensor *tensor;
    uint32_t tile, first, end, upto; /* slots */
    int32_t write;                   /* -1: a read */
    bool begun, over;
};

static void held(struct core_request *r)
{
    struct access *a = r->arg;

    sim_post(a->sim, sim_delay(a->sim, a->sim->prog->config.post), EVENT_HOST, a, 0);
}

static void touch(struct sim *s, struct access *a)
{
    struct core_tileref *ref = &a->request.refs[0];
    struct sim_tensor *x = a->tensor;
    uint64_t whole = tile_count_bytes(x->t, a->tile);

    if (a->write < 0 && ref->fresh) {
        for (uint32_t slot = a->first; slot < a->end; slot++)
            sim_check_word(s, x, slot, a->upto, 0, "a read");
        return;
    }
    if (a->write >= 0 && ref->fresh && ref->access == HOST_UPDATE)
        memset(ref->ptr, 0, whole);
    if (a->write >= 0)
        sim_fill(x, (uint8_t *)ref->ptr - a->tile * x->tile_bytes, a->write, a->first, a->end);
    else
        sim_check(s, x, (uint8_t *)ref->ptr - a->tile * x->tile_bytes, a->first, a->end, a->upto, "a read");
}

void sim_host_event(struct sim *s, void *what)
{
    struct access *a = what;

    if (a->request.error.code < 0) {
        a->over = true;
        return;
    }
    touch(s, a);
    if (!a->begun) {
        a->begun = true;
        sim_post(s, sim_delay(s, s->prog->config.post), EVENT_HOST, a, 0);
        return;
    }
    if (a->write >= 0)
        a->tensor->writes[a->write].done = UINT32_MAX;
    sim_enter(s);
    pager_request_end(&s->pager, &a->request);
    sim_leave(s);
    s->due = true;
    a->over = true;
}

static bool is_over(struct sim *s, void *arg)
{
    (void)s;
    return ((struct access *)arg)->over;
}

static int access_tile(struct sim *s, struct sim_tensor *x, uint32_t tile, uint32_t first, uint32_t end,
                       bool write, bool all)
{
    struct access a = {
        .request = {.count = 1, .whole = all, .done = held, .arg = &a}, .sim = s, .tensor = x, .tile = tile};
    bool whole = end - first == SIM_SLOTS;
    int err;

    a.first = first;
    a.end = end;
    a.upto = x->count;
    a.request.refs[0] = (struct core_tileref){.tensor = x->t,
                                              .tile = tile,
                                              .access = !write  ? HOST_READ
                                                        : whole ? HOST_OVERWRITE
                                                                : HOST_UPDATE};
    sim_enter(s);
    err = pager_request(&s->pager, &a.request);
    sim_leave(s);
    s->due = true;
    sim_check_lost(s, x, err, all, write ? "a write from the host" : "a read by the host");
    if (err == 0) {
        a.write = write ? sim_write_add(x, first, end, false) : -1;
        if (!sim_await(s, is_over, &a, write ? "a write from the host" : "a read by the host"))
            return 0;
        err = a.request.error.code < 0 ? base_error_restore(&a.request.error) : 0;
        if (err < 0 && a.write >= 0)
            x->writes[a.write].skipped = true;
    }
    if (err < 0)
        sim_fails_rightly(s, err, &x, 1, write ? "a write from the host" : "a read by the host");
    return err;
}

/* The device is its home: under a lease, on the library's own stream. */
static void access_device(struct sim *s, struct sim_tensor *x, bool write)
{
    struct sim_batch b = {.count = 1, .stream = SIM_OWN, .tensors = {x}};

    b.leases[0] = (struct ofl_lease){.tensor = x->t, .mode = write ? OFL_UPDATE : OFL_READ};
    if (sim_acquire(s, &b) < 0)
        return;
    sim_launch(s, &b);
    sim_sync(s, SIM_OWN);
    sim_release(s, &b);
}

static void access_slots(struct sim *s, struct sim_tensor *x, uint32_t first, uint32_t end, bool write)
{
    bool all;

    if (!x->t || x->spec.transient || x->writers || x->readers || (write && x->spec.source))
        return;
    if (x->count + SIM_TILES + 2 > SIM_WRITES)
        return;
    if (x->t->device_home) {
        access_device(s, x, write);
        return;
    }
    all = write && first == 0 && end == x->slots;
    while (first < end && !sim_failed(s)) {
        uint32_t tile = sim_slot_tile(first), stop = (tile + 1) * SIM_SLOTS;

        if (stop > end)
            stop = end;
        if (access_tile(s, x, tile, first, stop, write, all) < 0)
            return;
        first = stop;
    }
}

/* Whole words: slots of a short tile share them. */
static void widen(const struct sim_tensor *x, uint32_t *first, uint32_t *end)
{
    while (*first % SIM_SLOTS && sim_slot_offset(x, *first - 1) == sim_slot_offset(x, *first))
        --*first;
    while (*end % SIM_SLOTS && sim_slot_offset(x, *end - 1) == sim_slot_offset(x, *end))
        ++*end;
}

void sim_read(struct sim *s, struct sim_tensor *x, uint32_t first, uint32_t end)
{
    access_slots(s, x, first, end, false);
}

void sim_write(struct sim *s, struct sim_tensor *x, uint32_t first, uint32_t end)
{
    widen(x, &first, &end);
    access_slots(s, x, first, end, true);
}
