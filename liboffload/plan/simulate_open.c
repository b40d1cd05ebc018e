/* simulate_open: see simulate_impl.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "liboffload/core/place.h"
#include "liboffload/core/shape.h"
#include "liboffload/plan/simulate_impl.h"

/* ---- opening ----------------------------------------------------------- */

/* An address that is nobody's: whoever follows it is killed. */
static int reserve(uint64_t bytes, uint8_t **out)
{
    void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return base_fail_errno(-errno, "simulate: reserve %llu bytes of addresses", (ull)bytes);
    *out = at;
    return 0;
}

static bool lives_in_tiers(const struct plan_tensor *t)
{
    return !t->source && !t->transient;
}

/* Device memory that the program leases at once, at most. */
static uint64_t leased_most(const struct plan_program *p, struct hold *holds)
{
    uint64_t now = place_footprint(p->held_bytes), most = now;

    for (uint32_t k = 0; k < p->ops_count; k++)
        for (uint32_t i = p->ops[k].first; i < p->ops[k].first + p->ops[k].count; i++) {
            struct hold *h = &holds[p->leases[i].tensor];
            uint64_t bytes = place_footprint(p->tensors[p->leases[i].tensor].bytes);

            if (p->ops[k].type == PLAN_ACQUIRE)
                now += h->count++ == 0 ? bytes : 0;
            else if (p->ops[k].type == PLAN_RELEASE && h->count)
                now -= --h->count == 0 ? bytes : 0;
            if (now > most)
                most = now;
        }
    for (uint32_t i = 0; i < p->tensors_count; i++)
        holds[i].count = 0;
    return most;
}

int run_open(struct run *r)
{
    const struct plan_budgets *b = &r->s->budgets;
    const struct plan_program *program = r->s->program;
    struct world *w = &r->world;
    struct pager *p = &w->pager;
    struct ofl_config c = {
        .device_bytes = b->device_bytes, .host_bytes = b->host_bytes, .tile_bytes = b->tile_bytes};
    int err = 0;

    for (uint32_t i = 0; i < program->tensors_count; i++)
        if (lives_in_tiers(&program->tensors[i]))
            c.expected_bytes += program->tensors[i].bytes;
    c.leased_bytes = leased_most(program, r->holds);
    if (r->s->other && leased_most(r->s->other, r->holds) > c.leased_bytes)
        c.leased_bytes = leased_most(r->s->other, r->holds);
    if (c.leased_bytes > c.device_bytes)
        return base_fail(
            -OFL_EBUDGET,
            "simulate: the program leases %llu bytes of device memory at once, the budget is %llu",
            (ull)c.leased_bytes, (ull)c.device_bytes);
    p->device_bytes = b->device_bytes / CORE_DEVICE_ALIGN * CORE_DEVICE_ALIGN;
    p->host_bytes = b->host_bytes / CORE_HOST_ALIGN * CORE_HOST_ALIGN;
    err = reserve(p->device_bytes, &p->device);
    if (err == 0 && p->host_bytes)
        err = reserve(p->host_bytes, &p->host);
    if (err == 0 && b->store_bytes)
        err = store_open_space(b->store_bytes, (struct io_file *)w->drives, &p->store);
    if (err < 0)
        return err;
    p->tile_bytes = home_tile_bytes(&c, b->store_bytes);
    p->active_max = 2 * r->s->rates.workers + 2;
    err = pager_open(p);
    return err < 0 ? err : home_open(p, &c);
}

/* One after the other in a file of their own. The pager passes the file on to the world, which knows it. */
static void bind_source(struct run *r, struct ofl_tensor *t, uint64_t *at)
{
    t->source = (struct ofl_source *)&r->world;
    t->file = (struct io_file *)r->world.drives;
    *at += t->bytes;
    for (uint32_t i = 0; i < t->tiles_count; i++)
        t->tiles[i].stored = true;
}

static int add(struct run *r, uint32_t index, const struct plan_tensor *desc, uint64_t *source_at)
{
    struct world *w = &r->world;
    struct ofl_tensor_desc d = {.name = desc->name,
                                .kind = desc->kind,
                                .dtype = desc->dtype,
                                .elems = desc->bytes / ofl_dtype_bytes(desc->dtype),
                                .flags = desc->transient ? OFL_TENSOR_TRANSIENT : 0};
    struct ofl_tensor *t;
    int err = pager_tensor_make(w->pager.tile_bytes, &d, desc->source ? source_at : NULL, &t);

    if (err < 0)
        return err;
    r->tensors[index] = t;
    if (desc->source)
        bind_source(r, t, source_at);
    if (place_footprint(t->bytes) > w->pager.device_bytes)
        return base_fail(-OFL_EBUDGET,
                         "simulate: %s: a lease takes %llu bytes of device memory, the budget is %llu",
                         t->name, (ull)place_footprint(t->bytes), (ull)w->pager.device_bytes);
    while ((err = pager_tensor_add(&w->pager, t)) == -EAGAIN) {
        w->due = true;
        if (!world_step(w))
            return run_deadlock(r, "a tensor is created");
    }
    if (err < 0)
        return err;
    w->number_of[t->id] = index;
    world_record(w, (struct plan_record){.type = PLAN_RECORD_CREATE,
                                         .tensor = index,
                                         .bytes = t->bytes,
                                         .value = t->tile_bytes,
                                         .from = t->source ? t->file_off : 0,
                                         .stream = (t->source ? PLAN_RECORD_SOURCE : 0) |
                                                   (desc->transient ? PLAN_RECORD_TRANSIENT : 0)});
    return 0;
}

/* Workspace and the like: leased once, before all else. */
static int hold_for_good(struct run *r)
{
    struct world *w = &r->world;
    struct ofl_lease lease = {.tensor = r->tensors[r->count - 1], .mode = OFL_OVERWRITE};
    struct world_batch *batch = calloc(1, sizeof *batch);
    struct dev_gate *gate;
    int err = batch ? pager_acquire(&w->pager, &lease, 1, w->streams[0].id, &gate)
                    : base_fail(-ENOMEM, "simulate: out of memory");

    if (err < 0) {
        free(batch);
        return err;
    }
    world_wait(w, 0, gate, batch);
    return 0;
}

/* A weight gets its first bytes, as a program makes them: by a kernel, outside of steps. */
static int fill(struct run *r, uint32_t tensor)
{
    struct world *w = &r->world;
    struct plan_lease lease = {.tensor = tensor, .mode = OFL_OVERWRITE};
    struct plan_op kernel = {.bytes = (double)r->s->program->tensors[tensor].bytes};
    int err = run_acquire(r, 0, &lease, 1);

    if (err < 0)
        return err;
    run_launch(r, &kernel);
    err = run_release(r, 0, &lease, 1);
    while (err == 0 && w->streams[0].head)
        if (!world_step(w))
            err = run_deadlock(r, "a weight gets its first bytes");
    return err;
}

int run_create(struct run *r)
{
    const struct plan_program *p = r->s->program;
    struct plan_tensor held = {.name = "held for good",
                               .kind = OFL_KIND_WORKSPACE,
                               .dtype = OFL_U8,
                               .bytes = p->held_bytes,
                               .transient = true};
    uint64_t source_at = CORE_HOST_ALIGN / 2; /* files do not begin with the first tensor */
    int err = 0;

    world_record(&r->world, (struct plan_record){.type = PLAN_RECORD_OPEN,
                                                 .from = r->world.pager.device_bytes,
                                                 .to = r->world.pager.host_bytes,
                                                 .bytes = r->s->budgets.store_bytes});
    for (uint32_t i = 0; i < p->tensors_count && err == 0; i++)
        err = add(r, i, &p->tensors[i], &source_at);
    if (err == 0 && p->held_bytes) {
        err = add(r, r->count - 1, &held, &source_at);
        if (err == 0)
            err = hold_for_good(r);
    }
    for (uint32_t i = 0; i < p->tensors_count && err == 0; i++)
        if (p->tensors[i].kind == OFL_KIND_WEIGHT && !p->tensors[i].source)
            err = fill(r, i);
    return err;
}
