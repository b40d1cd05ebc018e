/* optim: an optimizer's steps, as liboffload/optim/optimizer_step.c makes them. See sim.h. */
#include <errno.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { AT_WEIGHT, AT_GRAD, AT_MEAN, AT_SQUARE, AT_MASTER };

static uint32_t count_of(const struct sim_group *g)
{
    return g->tensors[AT_MASTER] ? 5 : 4;
}

static void check_tile(struct sim *s, const struct sim_group *g, uint32_t i, const uint8_t *ptr, bool fresh,
                       uint32_t tile)
{
    struct sim_tensor *x = g->tensors[i];

    for (uint32_t slot = tile * SIM_SLOTS; slot < (tile + 1) * SIM_SLOTS; slot++) {
        uint64_t word = 0;

        if (!fresh && ptr)
            memcpy(&word, ptr + sim_slot_offset(x, slot) - tile * x->tile_bytes, 8);
        sim_check_word(s, x, slot, g->upto[i], word, "an update");
    }
}

/* A worker: elems 0 when it begins. */
static void update_tile(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems)
{
    struct sim_group *g = arg;
    struct sim *s = g->sim;
    uint32_t tile = (uint32_t)(first / g->tensors[AT_WEIGHT]->t->tile_elems);

    if (g->held)
        sim_fail(s, "an update of tensor %u starts before the norm is known", g->tensors[AT_WEIGHT]->index);
    for (uint32_t i = 0; i < count_of(g); i++) {
        struct sim_tensor *x = g->tensors[i];
        bool low = g->tensors[AT_MASTER] && i == AT_WEIGHT;

        if (!low)
            check_tile(s, g, i, ptr[i], fresh[i], tile);
        if (elems == 0 || sim_failed(s))
            continue;
        if (i != AT_GRAD)
            sim_fill(x, (uint8_t *)ptr[i] - tile * x->tile_bytes, g->write[i], tile * SIM_SLOTS,
                     (tile + 1) * SIM_SLOTS);
        x->writes[g->write[i]].done |= 1u << tile;
    }
}

static void update_done(void *arg)
{
    struct sim_group *g = arg;

    g->pending = false;
    for (uint32_t i = 0; i < count_of(g); i++) {
        struct sim_tensor *x = g->tensors[i];

        x->updates--;
        if (x->writes[g->write[i]].done != (1u << x->tiles) - 1)
            x->writes[g->write[i]].skipped = true;
    }
}

static bool leased(const struct sim_group *g)
{
    for (uint32_t i = 0; i < count_of(g); i++)
        if (g->tensors[i]->writers || g->tensors[i]->readers)
            return true;
    return false;
}

static int queue(struct sim *s, struct sim_group *g, bool hold)
{
    static const enum core_access access[] = {HOST_UPDATE, HOST_CONSUME, HOST_UPDATE, HOST_UPDATE,
                                              HOST_UPDATE};
    struct core_update *u = &g->update;
    int err;

    *u = (struct core_update){.count = count_of(g), .tile = update_tile, .done = update_done, .arg = g};
    for (uint32_t i = 0; i < u->count; i++) {
        u->tensors[i] = g->tensors[i]->t;
        u->access[i] = i == AT_WEIGHT && u->count == 5 ? HOST_OVERWRITE : access[i];
    }
    sim_enter(s);
    err = pager_update(&s->pager, u, hold);
    sim_leave(s);
    s->due = true;
    if (err < 0) {
        sim_fails_rightly(s, err, g->tensors, u->count, "an update");
        return err;
    }
    g->pending = true;
    g->held = hold;
    if (u->count == 5)
        g->tensors[AT_WEIGHT]->lost = 0; /* it is overwritten whole */
    for (uint32_t i = 0; i < u->count; i++) {
        struct sim_tensor *x = g->tensors[i];

        g->upto[i] = x->count;
        g->write[i] = sim_write_add(x, 0, x->slots, i == AT_GRAD);
        x->updates++;
        if (x->hurt)
            s->may_break = true; /* what can't be fetched is still to be asked for */
    }
    return 0;
}

/* The whole weight at once, where the device is its home. */
static void queue_on_device(struct sim *s, struct sim_group *g, uint32_t stream)
{
    struct sim_batch rest = {.count = 4, .stream = stream};
    uint32_t n = 0;

    for (uint32_t i = 0; i < count_of(g) && n < SIM_BATCH; i++) {
        rest.tensors[n] = g->tensors[i];
        rest.leases[n++] = (struct ofl_lease){.tensor = g->tensors[i]->t,
                                              .mode = i == AT_GRAD ? OFL_READ : OFL_UPDATE,
                                              .flags = i == AT_GRAD ? OFL_LEASE_DROP : 0};
    }
    if (sim_acquire(s, &rest) < 0)
        return;
    sim_launch(s, &rest);
    sim_release(s, &rest);
}

static bool usable(struct sim *s, struct sim_group *g, uint32_t group)
{
    uint32_t on = 0;

    g->sim = s;
    for (uint32_t i = 0; i < CORE_UPDATE_TENSORS; i++) {
        g->tensors[i] = &s->tensors[group * CORE_UPDATE_TENSORS + i];
        if (i == AT_MASTER && !s->prog->low[group]) {
            g->tensors[i] = NULL;
            break;
        }
        if (!g->tensors[i]->t || g->tensors[i]->count + 4 > SIM_WRITES)
            return false;
        on += g->tensors[i]->t->device_home;
    }
    return on == 0 || on == count_of(g);
}

static bool not_pending(struct sim *s, void *arg)
{
    (void)s;
    return !((struct sim_group *)arg)->pending;
}

static bool norm_known(struct sim *s, void *arg)
{
    (void)s;
    return !((struct sim_norm *)arg)->pending;
}

void sim_apply(struct sim *s, uint32_t group)
{
    struct sim_group *g = &s->groups[group];
    uint32_t optim = group % s->prog->config.optims, stream = SIM_STREAMS + optim;
    bool clip = s->prog->config.clip >> optim & 1;
    struct sim_batch sum = {.count = 1, .stream = stream};

    if (s->norms[optim].pending &&
        !sim_await(s, norm_known, &s->norms[optim], "the norm of an optimizer's last step"))
        return;
    if (g->pending && !sim_await(s, not_pending, g, "the update of a weight that is applied again"))
        return;
    if (!usable(s, g, group) || g->applied || leased(g))
        return;
    sum.tensors[0] = g->tensors[AT_GRAD];
    sum.leases[0] = (struct ofl_lease){.tensor = g->tensors[AT_GRAD]->t, .mode = OFL_READ};
    if (sim_acquire(s, &sum) < 0)
        return;
    sim_launch(s, &sum);
    sim_release(s, &sum);
    if (sim_failed(s))
        return;
    if (clip)
        g->applied = true;
    else if (g->tensors[AT_WEIGHT]->t->device_home)
        queue_on_device(s, g, stream);
    else
        queue(s, g, false);
}

/* Engine: the norm is known, the held updates may start. */
static void release_updates(void *arg, int code)
{
    struct sim_norm *norm = arg;
    struct sim *s = norm->sim;
    uint32_t optim = (uint32_t)(norm - s->norms);

    norm->pending = false;
    if (code < 0) {
        struct base_error error;

        s->may_break = true;
        base_error_set(&error, code, "optimizer: a gradient could not be read");
        pager_break(&s->pager, &error);
    }
    for (uint32_t i = optim; i < SIM_GROUPS; i += s->prog->config.optims) {
        s->groups[i].held = false;
        pager_update_let_go(&s->pager, &s->groups[i].update);
    }
}

void sim_optimize(struct sim *s, uint32_t optim)
{
    uint32_t stream = SIM_STREAMS + optim, any = 0;
    struct sim_item *item;
    struct core_op *op;

    if (!(s->prog->config.clip >> optim & 1) || s->norms[optim].pending)
        return;
    for (uint32_t i = optim; i < SIM_GROUPS; i += s->prog->config.optims)
        if (s->groups[i].applied && (!usable(s, &s->groups[i], i) || leased(&s->groups[i])))
            return;
    for (uint32_t i = optim; i < SIM_GROUPS; i += s->prog->config.optims) {
        struct sim_group *g = &s->groups[i];

        if (!g->applied)
            continue;
        g->applied = false;
        if (g->tensors[AT_WEIGHT]->t->device_home) {
            queue_on_device(s, g, stream);
            continue;
        }
        if (queue(s, g, true) == 0)
            any++;
    }
    if (!any || sim_failed(s))
        return;
    op = pager_op(&s->pager, OP_CALL, NULL, 0);
    op->call = release_updates;
    op->arg = &s->norms[optim];
    s->norms[optim] = (struct sim_norm){.sim = s, .pending = true};
    item = sim_item_get(s, ITEM_MARK);
    item->op = op;
    sim_stream_add(s, stream, item);
}
