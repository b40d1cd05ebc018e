/* simulate: see simulate.h. Opens a pager over a world, and takes the program's part: its commands, step by step. */
#include "liboffload/plan/simulate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "liboffload/core/shape.h"
#include "liboffload/plan/simulate_impl.h"

/* The optimizer's stream. */
#define OPTIMIZER 1u

/* ---- figures ----------------------------------------------------------- */

static const char *const resource_names[PLAN_RESOURCES] = {
    [PLAN_DEVICE] = "device", [PLAN_LINK_IN] = "link in",      [PLAN_LINK] = "link",
    [PLAN_DRIVE] = "drive",   [PLAN_WORKERS] = "host workers",
};

const char *plan_resource_name(enum plan_resource r)
{
    return r < PLAN_RESOURCES ? resource_names[r] : "?";
}

/* All that is counted, so far. */
static struct plan_step counters(const struct run *r)
{
    const struct world *w = &r->world;
    const struct ofl_stats *stats = &w->pager.stats;
    struct plan_step c = {.ns = w->now,
                          .stall_ns = w->streams[0].stall_ns,
                          .stall_all_ns = w->stall_ns,
                          .late_bytes = w->late_bytes,
                          .in_bytes = w->link[0].bytes,
                          .out_bytes = w->link[1].bytes,
                          .read_bytes = stats->nvme_read_bytes + stats->source_read_bytes,
                          .write_bytes = stats->nvme_write_bytes,
                          .hits = stats->hits,
                          .misses = stats->misses,
                          .prefetches = stats->prefetches,
                          .evictions = stats->evictions};

    for (uint32_t i = 0; i < WORLD_STREAMS; i++)
        if (w->streams[i].busy_ns > c.busy_ns[PLAN_DEVICE])
            c.busy_ns[PLAN_DEVICE] = w->streams[i].busy_ns;
    c.busy_ns[PLAN_WORKERS] = w->rates.workers ? w->workers_busy_ns / w->rates.workers : 0;
    return c;
}

static struct plan_step less(const struct plan_step *a, const struct plan_step *b)
{
    struct plan_step d = *a;

    d.ns -= b->ns;
    d.stall_ns -= b->stall_ns;
    d.stall_all_ns -= b->stall_all_ns;
    d.late_bytes -= b->late_bytes;
    d.in_bytes -= b->in_bytes;
    d.out_bytes -= b->out_bytes;
    d.read_bytes -= b->read_bytes;
    d.write_bytes -= b->write_bytes;
    d.hits -= b->hits;
    d.misses -= b->misses;
    d.prefetches -= b->prefetches;
    d.evictions -= b->evictions;
    for (int i = 0; i < PLAN_RESOURCES; i++)
        d.busy_ns[i] -= b->busy_ns[i];
    return d;
}

/* What both ways of a link or a drive have done since the last time: how long that takes at least. */
static uint64_t moved_ns(const struct pipe way[2], double before[2])
{
    double ns[2];

    for (int i = 0; i < 2; i++) {
        ns[i] = way[i].work_ns - before[i];
        before[i] = way[i].work_ns;
    }
    return (uint64_t)pipe_least_ns(&way[0], ns[0], ns[1]);
}

/* What had most to do. */
static void find_bound(struct run *r, struct plan_step *step)
{
    const struct world *w = &r->world;
    double in_ns = w->link[0].work_ns - r->moved_ns[0][0];
    uint64_t link_ns = moved_ns(w->link, r->moved_ns[0]);

    step->busy_ns[PLAN_LINK_IN] = (uint64_t)in_ns;
    step->busy_ns[PLAN_LINK] = link_ns;
    for (uint32_t i = 0; i < w->rates.drives_count; i++) {
        uint64_t ns = moved_ns(w->drives[i].way, r->moved_ns[1 + i]);

        if (ns > step->busy_ns[PLAN_DRIVE])
            step->busy_ns[PLAN_DRIVE] = ns;
    }
    for (int i = 0; i < PLAN_RESOURCES; i++)
        if (step->busy_ns[i] > step->bound_ns) {
            step->bound_ns = step->busy_ns[i];
            step->bound = (enum plan_resource)i;
        }
}

static void step_over(struct run *r)
{
    struct plan_step now = counters(r);

    r->out->steps[r->step] = less(&now, &r->before);
    find_bound(r, &r->out->steps[r->step]);
    r->out->count = ++r->step;
    r->before = now;
    world_record(&r->world, (struct plan_record){.type = PLAN_RECORD_STEP_END,
                                                 .value = r->step - 1,
                                                 .from = now.stall_all_ns,
                                                 .to = now.late_bytes,
                                                 .bytes = now.in_bytes});
}

/* ---- commands ---------------------------------------------------------- */

int run_deadlock(const struct run *r, const char *what)
{
    return base_fail(-EDEADLK, "simulate: %s: nothing is left that could end it (operation %u of step %u)",
                     what, r->op, r->step);
}

static struct world_batch *batch_of(const struct run *r, const struct plan_lease *leases, uint32_t count)
{
    struct world_batch *b = calloc(1, sizeof *b + count * sizeof b->at[0]);

    for (uint32_t i = 0; b && i < count; i++) {
        const struct hold *h = &r->holds[leases[i].tensor];

        b->at[i].tensor = leases[i].tensor;
        b->at[i].lease = h->number;
        b->at[i].off = (uint64_t)((uint8_t *)h->lease.ptr - r->world.pager.device);
        b->at[i].end = b->at[i].off + h->lease.tensor->bytes;
        b->count++;
    }
    return b;
}

static void hold(struct run *r, uint32_t tensor, uint32_t stream, const struct ofl_lease *lease)
{
    struct hold *h = &r->holds[tensor];

    if (h->count++ > 0)
        return;
    h->lease = *lease;
    h->stream = stream;
    h->number = ++r->leases_made;
    h->next = &r->held;
    h->prev = r->held.prev;
    h->prev->next = h->next->prev = h;
    world_record(&r->world, (struct plan_record){
                                .type = PLAN_RECORD_ACQUIRE,
                                .stream = stream,
                                .tensor = tensor,
                                .from = h->number,
                                .to = (uint64_t)((uint8_t *)lease->ptr - r->world.pager.device),
                                .bytes = lease->tensor->bytes,
                                .value = lease->mode == OFL_READ     ? PLAN_RECORD_READS
                                         : lease->mode == OFL_UPDATE ? PLAN_RECORD_READS | PLAN_RECORD_WRITES
                                                                     : PLAN_RECORD_WRITES});
}

int run_acquire(struct run *r, uint32_t stream, const struct plan_lease *leases, uint32_t count)
{
    struct world *w = &r->world;
    struct world_batch *batch;
    struct dev_gate *gate;
    int err;

    for (uint32_t i = 0; i < count; i++) {
        const struct plan_lease *l = &leases[i];

        r->leases[i] = (struct ofl_lease){
            .tensor = r->tensors[l->tensor], .mode = l->mode, .flags = l->drop ? OFL_LEASE_DROP : 0};
    }
    err = pager_acquire(&w->pager, r->leases, count, w->streams[stream].id, &gate);
    w->due = true;
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < count; i++)
        hold(r, leases[i].tensor, stream, &r->leases[i]);
    batch = batch_of(r, leases, count);
    if (!batch)
        return base_fail(-ENOMEM, "simulate: out of memory");
    world_wait(w, stream, gate, batch);
    return 0;
}

/* What the plan says of t, from the use that has been told to the scheduler last to the next one. */
static void record_rest(struct run *r, uint32_t tensor)
{
    struct world *w = &r->world;
    struct sched_rest rest = sched_rest_now(w->pager.sched, r->tensors[tensor]->id);

    if (sched_solved(w->pager.sched))
        world_record(w,
                     (struct plan_record){
                         .type = PLAN_RECORD_REST, .tensor = tensor, .to = rest.tiles, .value = rest.device});
}

int run_release(struct run *r, uint32_t stream, const struct plan_lease *leases, uint32_t count)
{
    struct world *w = &r->world;
    struct world_batch *batch = batch_of(r, leases, count);
    struct core_op *mark;
    int err;

    if (!batch)
        return base_fail(-ENOMEM, "simulate: out of memory");
    for (uint32_t i = 0; i < count; i++) {
        const struct plan_lease *l = &leases[i];
        struct hold *h = &r->holds[l->tensor];

        r->leases[i] = h->lease;
        r->leases[i].flags = l->drop ? OFL_LEASE_DROP : 0;
        if (h->count == 0 || --h->count > 0)
            continue;
        h->prev->next = h->next;
        h->next->prev = h->prev;
        world_record(w, (struct plan_record){.type = PLAN_RECORD_RELEASE,
                                             .stream = stream,
                                             .tensor = l->tensor,
                                             .from = h->number,
                                             .value = l->drop ? PLAN_RECORD_DROP : 0});
    }
    err = pager_release(&w->pager, r->leases, count, w->streams[stream].id, &mark);
    w->due = true;
    if (err < 0) {
        free(batch);
        return err;
    }
    for (uint32_t i = 0; i < count; i++)
        record_rest(r, leases[i].tensor);
    world_mark(w, stream, mark, batch);
    return 0;
}

void run_launch(struct run *r, const struct plan_op *op)
{
    const struct plan_rates *rates = &r->s->rates;
    struct world *w = &r->world;
    double flops_ns = 1e9 * op->flops / rates->device_flops_s;
    double bytes_ns = 1e9 * op->bytes / rates->device_bytes_s;
    uint64_t kernel = ++w->kernels;

    world_record(w, (struct plan_record){.type = PLAN_RECORD_LAUNCH, .stream = op->stream, .from = kernel});
    for (struct hold *h = r->held.next; h != &r->held; h = h->next)
        if (h->stream == op->stream)
            world_record(w, (struct plan_record){.type = PLAN_RECORD_USE,
                                                 .stream = op->stream,
                                                 .tensor = (uint32_t)(h - r->holds),
                                                 .from = kernel,
                                                 .to = h->number});
    world_launch(w, op->stream, kernel,
                 rates->launch_ns + world_ns(w, flops_ns > bytes_ns ? flops_ns : bytes_ns));
}

/* ---- updates ----------------------------------------------------------- */

static void update_tile(void *arg, void *const *ptr, const bool *fresh, uint64_t first, uint64_t elems)
{
    (void)arg;
    (void)ptr;
    (void)fresh;
    (void)first;
    (void)elems;
    abort(); /* workers of the world compute nothing */
}

static void update_done(void *arg)
{
    ((struct update *)arg)->pending = false;
}

static void update_let_go(struct pager *p, void *arg)
{
    pager_update_let_go(p, &((struct update *)arg)->core);
}

static enum core_access access_of(const struct plan_lease *l)
{
    return l->mode == OFL_READ     ? l->drop ? HOST_CONSUME : HOST_READ
           : l->mode == OFL_UPDATE ? HOST_UPDATE
                                   : HOST_OVERWRITE;
}

static int update_on_host(struct run *r, const struct plan_op *op)
{
    const struct plan_lease *leases = &r->program->leases[op->first];
    struct update *u = &r->updates[leases[0].tensor];
    int err;

    u->number = ++r->updates_made;
    u->core = (struct core_update){.count = op->count, .tile = update_tile, .done = update_done, .arg = u};
    for (uint32_t i = 0; i < op->count; i++) {
        u->core.tensors[i] = r->tensors[leases[i].tensor];
        u->core.access[i] = access_of(&leases[i]);
    }
    err = pager_update(&r->world.pager, &u->core, r->s->hold);
    r->world.due = true;
    if (err < 0)
        return err;
    u->pending = true;
    for (uint32_t i = 0; i < op->count; i++)
        world_record(&r->world, (struct plan_record){.type = PLAN_RECORD_UPDATE,
                                                     .tensor = leases[i].tensor,
                                                     .from = u->number,
                                                     .to = i,
                                                     .value = world_access(u->core.access[i])});
    if (r->s->hold)
        world_call(&r->world, OPTIMIZER, u);
    return 0;
}

/* Where the device is the tensors' home: a kernel, as the optimizer has one. */
static int update_on_device(struct run *r, const struct plan_op *op)
{
    const struct plan_lease *leases = &r->program->leases[op->first];
    struct plan_op kernel = {.stream = OPTIMIZER, .bytes = op->bytes};
    int err = run_acquire(r, OPTIMIZER, leases, op->count);

    if (err < 0)
        return err;
    run_launch(r, &kernel);
    return run_release(r, OPTIMIZER, leases, op->count);
}

static int update(struct run *r, const struct plan_op *op)
{
    if (r->tensors[r->program->leases[op->first].tensor]->device_home)
        return update_on_device(r, op);
    return update_on_host(r, op);
}

/* ---- the program ------------------------------------------------------- */

static bool streams_idle(const struct world *w)
{
    for (uint32_t i = 0; i < WORLD_STREAMS; i++)
        if (w->streams[i].head)
            return false;
    return true;
}

/* The next operation has to wait for something. */
static bool blocked(const struct run *r)
{
    const struct plan_program *p = r->program;
    const struct plan_op *op = &p->ops[r->op];
    const struct world_stream *s;

    if (r->op == p->ops_count)
        return r->s->sync && !streams_idle(&r->world);
    s = &r->world.streams[op->stream];
    if (op->type == PLAN_UPDATE && r->updates[p->leases[op->first].tensor].pending)
        return true;
    return r->s->rates.run_ahead && s->ahead > r->s->rates.run_ahead;
}

static int perform(struct run *r, const struct plan_op *op)
{
    const struct plan_lease *leases = &r->program->leases[op->first];

    switch (op->type) {
    case PLAN_ACQUIRE:
        return run_acquire(r, op->stream, leases, op->count);
    case PLAN_RELEASE:
        return run_release(r, op->stream, leases, op->count);
    case PLAN_COMPUTE:
        run_launch(r, op);
        return 0;
    case PLAN_UPDATE:
        return update(r, op);
    }
    return base_fail(-EINVAL, "simulate: operation %u is of no known type", r->op);
}

static int step_begin(struct run *r)
{
    world_record(&r->world, (struct plan_record){.type = PLAN_RECORD_STEP, .value = r->step});
    r->world.due = true;
    return sched_step_begin(r->world.pager.sched, "step");
}

/* As far as the program gets now. */
static int advance(struct run *r)
{
    int err = 0;

    while (err == 0 && !r->over && !blocked(r)) {
        if (r->op == r->program->ops_count) { /* what the step has queued has run, if that matters */
            step_over(r);
            r->over = r->step == r->s->steps;
            r->op = 0;
            r->program = r->s->other && r->step % 3 == 2 ? r->s->other : r->s->program;
            continue;
        }
        if (r->op == 0)
            err = step_begin(r);
        if (err == 0)
            err = perform(r, &r->program->ops[r->op]);
        if (err == 0 && ++r->op == r->program->ops_count) {
            err = pager_step_end(&r->world.pager);
            r->world.due = true;
        }
    }
    return err;
}

static int check_world(const struct run *r)
{
    const struct world *w = &r->world;

    if (w->out_of_memory)
        return base_fail(-ENOMEM, "simulate: out of memory");
    if (w->circles)
        return base_fail(-EDEADLK, "simulate: the pump never stands still (operation %u of step %u, %llu ns)",
                         r->op, r->step, (ull)w->now);
    if (r->s->most_events && w->records > r->s->most_events)
        return base_fail(-EDEADLK, "simulate: more than %llu events by operation %u of step %u",
                         (ull)r->s->most_events, r->op, r->step);
    return pager_check(&w->pager);
}

static int run(struct run *r)
{
    int err = 0;

    struct plan_step none = {0};

    find_bound(r, &none); /* what came before counts to no step */
    r->before = counters(r);
    while (err == 0) {
        err = advance(r);
        if (err == 0)
            err = check_world(r);
        if (err < 0 || r->over)
            break;
        if (!world_step(&r->world) && !r->world.due && blocked(r))
            err = run_deadlock(r, "the program waits");
    }
    while (err == 0 && world_step(&r->world))
        err = check_world(r);
    return err;
}

/* ---- the whole --------------------------------------------------------- */

static uint32_t largest_batch(const struct plan_program *p)
{
    uint32_t most = 1;

    for (uint32_t i = 0; p && i < p->ops_count; i++)
        if (p->ops[i].count > most)
            most = p->ops[i].count;
    return most;
}

static int allocate(struct run *r)
{
    uint32_t most = largest_batch(r->s->program), other = largest_batch(r->s->other);

    if (other > most)
        most = other;
    r->program = r->s->program;
    r->count = r->program->tensors_count + 1;
    r->held.prev = r->held.next = &r->held;
    r->tensors = calloc(r->count, sizeof(struct ofl_tensor *));
    r->holds = calloc(r->count, sizeof *r->holds);
    r->updates = calloc(r->count, sizeof *r->updates);
    r->leases = calloc(most, sizeof *r->leases);
    r->world.number_of = calloc(r->count, sizeof *r->world.number_of);
    if (r->tensors && r->holds && r->updates && r->leases && r->world.number_of)
        return 0;
    return base_fail(-ENOMEM, "simulate: out of memory");
}

/* As ofl_close: what is in flight ends, nothing new starts. */
static void close_all(struct run *r)
{
    struct world *w = &r->world;
    struct pager *p = &w->pager;
    struct base_error why = {0};

    if (p->sched) {
        if (!p->broken.code)
            base_error_set(&why, -ECANCELED, "the run is over");
        if (why.code)
            p->broken = why;
        w->due = true;
        while (!w->out_of_memory && !w->circles && world_step(w))
            ;
        pager_close(p);
    }
    for (uint32_t i = 0; r->tensors && i < r->count; i++)
        pager_tensor_free(r->tensors[i]);
    world_close(w);
    store_close(p->store);
    if (p->device)
        munmap(p->device, p->device_bytes);
    if (p->host)
        munmap(p->host, p->host_bytes);
    free(r->tensors);
    free(r->holds);
    free(r->updates);
    free(r->leases);
    free(w->number_of);
}

static void report(struct run *r)
{
    const struct world *w = &r->world;
    const struct sched_moved *moved;

    r->out->events = w->records;
    r->out->hash = w->hash;
    r->out->tile_bytes = w->pager.tile_bytes;
    r->out->device_peak_bytes = w->pager.device_peak;
    r->out->host_peak_bytes = w->pager.host_peak;
    r->out->store_used_bytes = w->pager.store ? store_used(w->pager.store) : 0;
    if (!w->pager.sched || !sched_solved(w->pager.sched))
        return;
    moved = sched_moved(w->pager.sched);
    r->out->planned_in_bytes = moved->device_in;
    r->out->planned_out_bytes = moved->device_out;
    r->out->planned_read_bytes = moved->drive_read;
    r->out->planned_write_bytes = moved->drive_write;
}

int plan_simulate(const struct plan_simulation *s, struct plan_simulated *out)
{
    struct run *r;
    struct base_error why;
    int err = run_check(s);

    memset(out, 0, sizeof *out);
    if (err < 0)
        return err;
    r = calloc(1, sizeof *r);
    if (!r)
        return base_fail(-ENOMEM, "simulate: out of memory");
    r->s = s;
    r->out = out;
    r->world.rates = s->rates;
    r->world.jitter = s->jitter;
    r->world.random = s->seed;
    r->world.record = s->record;
    r->world.record_arg = s->arg;
    r->world.called = update_let_go;
    err = allocate(r);
    if (err == 0) {
        world_open(&r->world);
        err = run_open(r);
    }
    if (err == 0)
        err = run_create(r);
    if (err == 0)
        err = run(r);
    report(r);
    base_error_save(&why, err);
    r->world.record = NULL;
    close_all(r);
    free(r);
    return err < 0 ? base_error_restore(&why) : 0;
}
