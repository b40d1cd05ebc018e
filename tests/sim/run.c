/* run: executes a program, statement by statement, as the public functions would. See sim.h. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/slot.h"
#include "tests/sim/sim.h"

/* ---- errors ------------------------------------------------------------ */

/* An error is right if what it names has happened: to one of these tensors, or to the context. */
bool sim_fails_rightly(struct sim *s, int err, struct sim_tensor *const *tensors, uint32_t count,
                       const char *what)
{
    if (err == -ENOMEM && sim_alloc_failures() > s->allocs_failed)
        return true;
    if (s->pager.broken.code && (err == -OFL_EBROKEN || err == s->pager.broken.code))
        return true;
    for (uint32_t i = 0; i < count; i++)
        if (tensors[i]->hurt)
            return true;
    sim_fail(s, "%s fails without a cause: %d: %s", what, err, base_error_text());
    return false;
}

/* What is lost stays so, with its first error, until it is overwritten whole. */
void sim_check_lost(struct sim *s, struct sim_tensor *x, int err, bool whole, const char *what)
{
    if (err == -ENOMEM || err == -OFL_EBUDGET || s->pager.broken.code)
        return;
    if (whole && err == 0)
        x->lost = 0;
    else if (x->lost && err != x->lost)
        sim_fail(s, "%s of tensor %u gives %d: it is lost, and gave %d before", what, x->index, err, x->lost);
    else if (err < 0)
        x->lost = err;
}

/* ---- leases ------------------------------------------------------------ */

static bool rightly_over_budget(const struct sim *s, const struct sim_batch *b)
{
    const struct pager *p = &s->pager;
    uint64_t wanted = 0;

    for (const struct core_copy *c = p->live.next; c != &p->live; c = c->next)
        if (c->leases || c->home)
            return true; /* the arena may be in pieces between them */
    for (uint32_t i = 0; i < b->count; i++)
        wanted += place_footprint(b->uses[i].to - b->uses[i].from);
    return wanted > p->device_bytes;
}

/* Bytes that a lease names. */
static void range_of(const struct sim_tensor *x, const struct ofl_lease *l, uint32_t *from, uint32_t *to)
{
    *from = (uint32_t)l->offset_elems * x->spec.each;
    *to = l->count_elems ? *from + (uint32_t)l->count_elems * x->spec.each : 8 * x->spec.words;
}

static void use_of(struct sim_batch *b, uint32_t i)
{
    struct sim_tensor *x = b->tensors[i];
    struct sim_use *u = &b->uses[i];

    *u = (struct sim_use){.tensor = x, .undefined = -1, .wrote = b->leases[i].mode != OFL_READ};
    range_of(x, &b->leases[i], &u->from, &u->to);
    sim_slots_in(x, u->from, u->to, &u->slot, &u->slot_end);
}

static void note_acquired(struct sim_batch *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        struct sim_tensor *x = b->tensors[i];
        struct sim_use *u = &b->uses[i];

        if (x->spec.transient)
            x->writes[sim_write_add(x, u->slot, u->slot_end, true)].done = UINT32_MAX;
        if (b->leases[i].mode == OFL_OVERWRITE)
            u->undefined = sim_write_add(x, u->slot, u->slot_end, true);
        u->first = u->end = x->count;
        if (u->wrote)
            x->writers++;
        else
            x->readers++;
    }
}

/* The pointer is that of the part's first byte. What the lease holds: its own part, or that of the lease that it
 * lies inside. */
static void check_pointer(struct sim *s, struct sim_batch *b, uint32_t i)
{
    const struct sim_use *u = &b->uses[i];
    const struct core_copy *c = part_find(b->tensors[i]->t, u->from, u->to);

    if (!c || !copy_holds(c, u->from, u->to) || c->off % CORE_DEVICE_ALIGN ||
        b->leases[i].ptr != s->pager.device + c->off + (u->from - c->from)) {
        sim_fail(s, "acquire of tensor %u: the pointer is not its copy's", b->tensors[i]->index);
        return;
    }
    b->held_from[i] = c->home ? u->from : (uint32_t)c->from;
    b->held_to[i] = c->home ? u->to : (uint32_t)c->to;
}

int sim_acquire(struct sim *s, struct sim_batch *b)
{
    struct dev_gate *gate = NULL;
    int err;

    for (uint32_t i = 0; i < b->count; i++)
        use_of(b, i);
    sim_enter(s);
    err = pager_acquire(&s->pager, b->leases, b->count, s->streams[b->stream].id, &gate);
    sim_leave(s);
    s->due = true;
    for (uint32_t i = 0; i < b->count && (err == 0 || b->count == 1); i++)
        if (!b->tensors[i]->readers)
            sim_check_lost(s, b->tensors[i], err,
                           b->leases[i].mode == OFL_OVERWRITE &&
                               b->uses[i].to - b->uses[i].from == 8 * b->tensors[i]->spec.words,
                           "acquire");
    if (err == -OFL_EBUDGET && rightly_over_budget(s, b))
        return err;
    if (err < 0) {
        sim_fails_rightly(s, err, b->tensors, b->count, "acquire");
        return err;
    }
    if (gate) {
        gate->count = b->count;
        memcpy(gate->tensors, b->tensors, sizeof gate->tensors);
        sim_gate_wait(s, gate, b->stream);
    }
    for (uint32_t i = 0; i < b->count; i++)
        check_pointer(s, b, i);
    b->held = true;
    note_acquired(b);
    return 0;
}

void sim_launch(struct sim *s, struct sim_batch *b)
{
    struct sim_item *item = sim_item_get(s, ITEM_JOB);

    for (uint32_t i = 0; i < b->count; i++) {
        struct sim_tensor *x = b->tensors[i];
        struct sim_use *u = &b->uses[i];
        struct sim_access *a = &item->job.access[item->job.count++];
        uint32_t first = u->slot, end = u->slot_end;
        bool fresh = b->leases[i].mode == OFL_OVERWRITE && !u->written;

        *a = (struct sim_access){
            .tensor = x, .ptr = (uint8_t *)b->leases[i].ptr - u->from, .write = -1, .reads = !fresh};
        a->first = first;
        a->end = end;
        a->upto = x->count;
        if (!u->wrote || first == end || x->count + 2 > SIM_WRITES)
            continue;
        if (!fresh && sim_below(&s->random, 2)) {
            uint32_t tile = sim_slot_tile(first) +
                            sim_below(&s->random, sim_slot_tile(end - 1) - sim_slot_tile(first) + 1);

            first = tile * SIM_SLOTS > first ? tile * SIM_SLOTS : first;
            tile += 1 + sim_below(&s->random, x->tiles - tile);
            end = tile * SIM_SLOTS < end ? tile * SIM_SLOTS : end;
        }
        a->write = sim_write_add(x, first, end, false);
        u->written = true;
    }
    sim_stream_add(s, b->stream, item);
}

void sim_release(struct sim *s, struct sim_batch *b)
{
    struct sim_item *item;
    struct core_op *mark;
    bool drop[SIM_BATCH];
    int err;

    for (uint32_t i = 0; i < b->count; i++)
        drop[i] = b->leases[i].flags & OFL_LEASE_DROP;
    sim_enter(s);
    err = pager_release(&s->pager, b->leases, b->count, s->streams[b->stream].id, &mark);
    sim_leave(s);
    if (err == -ENOMEM && sim_alloc_failures() > s->allocs_failed)
        err = pager_release(&s->pager, b->leases, b->count, s->streams[b->stream].id, &mark);
    s->due = true;
    if (err < 0) {
        sim_fail(s, "release fails: %d: %s", err, base_error_text());
        return;
    }
    item = sim_item_get(s, ITEM_MARK);
    item->op = mark;
    item->uses_count = b->count;
    for (uint32_t i = 0; i < b->count; i++) {
        struct sim_tensor *x = b->tensors[i];
        struct sim_use *u = &b->uses[i];

        if (u->wrote) {
            x->writers--;
            u->end = x->count;
        } else {
            x->readers--;
        }
        item->uses[i] = *u;
        if (drop[i] || x->spec.transient)
            x->writes[sim_write_add(x, u->slot, u->slot_end, true)].done = UINT32_MAX;
    }
    b->held = false;
    sim_stream_add(s, b->stream, item);
}

static bool is_idle(struct sim *s, void *arg)
{
    (void)s;
    return sim_stream_idle(arg);
}

bool sim_sync(struct sim *s, uint32_t stream)
{
    return sim_await(s, is_idle, &s->streams[stream], "a stream at a gate");
}

/* Whether two leases of x may not be held together: they share bytes, and do not only read, or neither lies inside
 * the other. new: the second comes later, and is the one that has to. */
static bool excludes(bool reads, uint32_t from, uint32_t to, uint32_t other_from, uint32_t other_to,
                     bool later)
{
    if (from >= other_to || other_from >= to)
        return false;
    if (!reads)
        return true;
    if (from >= other_from && to <= other_to)
        return false;
    return later || other_from < from || other_to > to;
}

static bool conflicts(const struct sim *s, const struct sim_batch *own, const struct sim_tensor *x,
                      const struct ofl_lease *l)
{
    uint32_t from, to, other_from, other_to;

    range_of(x, l, &from, &to);
    for (uint32_t i = 0; i < SIM_BATCHES; i++)
        for (uint32_t k = 0; s->batches[i].held && k < s->batches[i].count; k++)
            if (s->batches[i].tensors[k] == x &&
                excludes(l->mode == OFL_READ && s->batches[i].leases[k].mode == OFL_READ, from, to,
                         s->batches[i].held_from[k], s->batches[i].held_to[k], true))
                return true;
    for (uint32_t k = 0; k < own->count; k++) {
        if (own->tensors[k] != x)
            continue;
        range_of(x, &own->leases[k], &other_from, &other_to);
        if (excludes(l->mode == OFL_READ && own->leases[k].mode == OFL_READ, from, to, other_from, other_to,
                     false))
            return true;
    }
    return false;
}

/* Fills b with what of the statement can be leased. */
static bool batch_of(struct sim *s, const struct sim_stmt *st, struct sim_batch *b)
{
    struct sim_random aside = {.state = st->id ^ 0x41534944};

    *b = (struct sim_batch){.stream = st->stream};
    for (uint32_t i = 0; i < st->count; i++) {
        bool unplanned = s->options->unplanned && sim_below(&aside, s->options->unplanned) == 0;
        struct sim_tensor *x = &s->tensors[st->tensor[i]];
        struct ofl_lease l = {.tensor = x->t, .mode = x->spec.source ? OFL_READ : st->mode[i]};
        uint32_t from, to;

        if (!x->t || x->count + 24 > SIM_WRITES)
            continue;
        sim_part(x, st->part[i], &from, &to);
        l.flags = st->drop[i] && !x->spec.source ? OFL_LEASE_DROP : 0;
        l.flags |= unplanned ? OFL_LEASE_UNPLANNED : 0;
        l.offset_elems = from / x->spec.each;
        l.count_elems = st->part[i] ? (to - from) / x->spec.each : 0;
        if (conflicts(s, b, x, &l))
            continue;
        b->tensors[b->count] = x;
        b->leases[b->count++] = l;
    }
    return b->count > 0;
}

/* ---- tensors ----------------------------------------------------------- */

struct command {
    struct ofl_tensor *t;
    int err;
    bool add;
};

static bool command_over(struct sim *s, void *arg)
{
    struct command *c = arg;

    sim_enter(s);
    c->err = c->add ? pager_tensor_add(&s->pager, c->t) : pager_tensor_remove(&s->pager, c->t);
    sim_leave(s);
    if (c->err == -EAGAIN && s->pager.broken.code)
        c->err = pager_check(&s->pager);
    return c->err != -EAGAIN;
}

static void tensor_free(struct ofl_tensor *t)
{
    pager_error_free(t->lost);
    pager_error_free(t->ruin);
    slot_free(t);
    free(t->tiles);
    free(t->name);
    free(t);
}

/* As core_tensor_make. */
static struct ofl_tensor *tensor_make(struct sim *s, struct sim_tensor *x)
{
    struct ofl_tensor *t = calloc(1, sizeof *t);
    char name[32];

    snprintf(name, sizeof name, "tensor-%u", x->index);
    if (!t || !(t->name = strdup(name)))
        abort();
    t->kind = x->spec.kind;
    t->dtype = x->spec.each == 2 ? OFL_F16 : x->spec.each == 4 ? OFL_F32 : OFL_F64;
    t->flags = x->spec.transient ? OFL_TENSOR_TRANSIENT : 0;
    t->bytes = 8ull * x->spec.words;
    t->elems = t->bytes / x->spec.each;
    t->tile_elems = s->pager.tile_bytes / (x->spec.each > 4 ? x->spec.each : 4);
    t->tile_bytes = t->tile_elems * x->spec.each;
    t->tiles_count = x->tiles;
    t->fill_seq = SCHED_NEVER;
    t->id = UINT32_MAX;
    t->tiles = calloc(1, t->tiles_count * sizeof *t->tiles + tile_sets_words(t) * sizeof(uint64_t));
    if (!t->tiles)
        abort();
    tile_sets_init(t, (uint64_t *)(t->tiles + t->tiles_count));
    if (x->spec.kept && s->kept.bytes && slot_make(t) < 0)
        abort();
    return t;
}

/* Somewhere in the file of sources, not at a block's start. */
static void bind_source(struct sim *s, struct sim_tensor *x, struct ofl_tensor *t)
{
    uint64_t at = s->source_used + 8 * sim_below(&s->random, 600);

    t->source = (struct ofl_source *)&s->source;
    t->file = &s->source;
    t->file_off = at;
    for (uint32_t i = 0; i < t->tiles_count; i++)
        t->tiles[i].stored = true;
    s->source_used = at + t->bytes;
    sim_fill(x, s->source.bytes + at, -1, 0, x->slots);
}

#define SOURCE_BYTES (1u << 20)

static void create(struct sim *s, uint32_t index)
{
    struct sim_tensor *x = &s->tensors[index];
    struct command c = {.add = true};

    if (x->t)
        return;
    *x = (struct sim_tensor){.spec = s->prog->specs[index], .index = index, .uid = ++s->uids};
    sim_tensor_shape(s->prog, x);
    if (x->spec.source &&
        (s->pager.host_bytes == 0 || s->source_used + 8ull * x->spec.words + 16384 > SOURCE_BYTES))
        return;
    c.t = tensor_make(s, x);
    if (x->spec.source)
        bind_source(s, x, c.t);
    s->due = true;
    if (sim_await(s, command_over, &c, "the creation of a tensor") && c.err == 0) {
        x->t = c.t;
        return;
    }
    if (c.err < 0 && c.err != -OFL_EBUDGET && !(c.err == -ENOSPC && s->prog->config.store_full))
        sim_fails_rightly(s, c.err, NULL, 0, "create");
    tensor_free(c.t);
}

static bool in_group(const struct sim *s, const struct sim_tensor *x)
{
    for (int i = 0; i < SIM_GROUPS; i++)
        for (int k = 0; k < CORE_UPDATE_TENSORS; k++)
            if (s->groups[i].pending && s->groups[i].tensors[k] == x)
                return true;
    return false;
}

static void destroy(struct sim *s, uint32_t index)
{
    struct sim_tensor *x = &s->tensors[index];
    struct command c = {.t = x->t};

    if (!x->t || x->writers || x->readers || in_group(s, x))
        return;
    s->due = true;
    if (!sim_await(s, command_over, &c, "the destruction of a tensor"))
        return;
    if (c.err < 0) {
        sim_fails_rightly(s, c.err, NULL, 0, "destroy");
        return;
    }
    tensor_free(x->t);
    x->t = NULL;
}

/* ---- statements -------------------------------------------------------- */

static void slots_of(const struct sim_stmt *st, const struct sim_tensor *x, uint32_t *first, uint32_t *end)
{
    *first = 0;
    *end = x->slots;
    if (st->arg & 1 && x->slots) {
        *first = (st->arg >> 1) % x->slots;
        *end = *first + 1 + (st->arg >> 12) % (x->slots - *first);
    }
}

static void renew(struct sim *s, uint32_t stream)
{
    for (int i = 0; i < SIM_BATCHES; i++)
        if (s->batches[i].held && s->batches[i].stream == stream)
            return;
    if (sim_sync(s, stream))
        sim_stream_open(s, stream);
}

/* What is whole again is to be had again. */
static void recover(struct sim_tensor *x)
{
    for (uint32_t i = x->count; x->hurt && i-- > x->hurt_at;) {
        const struct sim_write *w = &x->writes[i];

        if (w->skipped || w->maybe || w->undefined)
            return;
        if (w->first == 0 && w->end == x->slots)
            x->hurt = false;
    }
}

static bool at_rest(struct sim *s, void *arg)
{
    const struct pager *p = &s->pager;

    (void)arg;
    return p->waits.next == &p->waits && p->requests.next == &p->requests && !p->updates &&
           p->inflight == 0 && p->commit.seq == 0;
}

static void rest(struct sim *s)
{
    sim_rest(s);
    for (uint32_t i = 0; i < SIM_QUEUES && !sim_failed(s); i++)
        if (!sim_stream_idle(&s->streams[i]))
            sim_sync(s, i); /* reports what hangs */
    if (sim_failed(s))
        return;
    if (!at_rest(s, NULL))
        sim_await(s, at_rest, NULL, "requests, updates, waits or operations that are left");
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t && !s->pager.broken.code)
            recover(&s->tensors[i]);
}

static void acquire(struct sim *s, const struct sim_stmt *st, struct sim_batch *b)
{
    if (b->held || !batch_of(s, st, b))
        return;
    sim_acquire(s, b);
}

static void use(struct sim *s, const struct sim_stmt *st)
{
    struct sim_batch b;

    if (!batch_of(s, st, &b) || sim_acquire(s, &b) < 0)
        return;
    sim_launch(s, &b);
    if (st->arg & 1)
        sim_until(s, s->now + sim_delay(s, st->arg >> 1 & 255));
    sim_release(s, &b);
}

static void step_begin(struct sim *s, uint32_t slot)
{
    static const char *const names[] = {"train", "eval"};
    int err;

    if (s->in_step || s->pager.broken.code)
        return;
    sim_enter(s);
    err = sched_step_begin(s->pager.sched, names[slot & 1]);
    sim_leave(s);
    s->due = true;
    s->in_step = err == 0;
    if (err < 0)
        sim_fails_rightly(s, err, NULL, 0, "begin step");
}

static void step_end(struct sim *s)
{
    int err;

    if (!s->in_step)
        return;
    sim_enter(s);
    err = pager_step_end(&s->pager);
    sim_leave(s);
    s->due = true;
    s->in_step = sched_in_step(s->pager.sched); /* still, if it failed */
    if (err < 0)
        sim_fails_rightly(s, err, NULL, 0, "end step");
}

/* ---- what is refused --------------------------------------------------- */

static void refused(struct sim *s, int err, int wanted, const char *what)
{
    if (err != wanted && err != -OFL_EBROKEN)
        sim_fail(s, "%s: %d instead of %d: %s", what, err, wanted, base_error_text());
}

static void wrong_acquire(struct sim *s, struct sim_tensor *x, enum ofl_mode mode, int wanted)
{
    struct ofl_lease l[2] = {{.tensor = x->t, .mode = mode}, {.tensor = x->t, .mode = mode}};
    struct dev_gate *gate;

    if (x->hurt)
        return; /* it may be refused for being lost */
    refused(s, pager_acquire(&s->pager, l, wanted == -EINVAL ? 2 : 1, s->streams[0].id, &gate),
            wanted == -EINVAL ? -OFL_ESTATE : wanted, "a wrong acquire");
}

static void wrong_calls(struct sim *s)
{
    for (int i = 0; i < SIM_TENSORS && !sim_failed(s); i++) {
        struct sim_tensor *x = &s->tensors[i];
        struct ofl_lease l = {.tensor = x->t, .mode = OFL_READ};
        struct core_op *mark;

        if (!x->t)
            continue;
        refused(s, pager_release(&s->pager, &l, 1, 1, &mark), -OFL_ESTATE, "a wrong release");
        if (x->spec.source)
            wrong_acquire(s, x, OFL_UPDATE, -EROFS);
        else
            wrong_acquire(s, x, OFL_UPDATE, -EINVAL); /* twice in a batch */
        if (x->writers)
            wrong_acquire(s, x, OFL_READ, -OFL_ESTATE);
        if (x->readers && !x->spec.source)
            wrong_acquire(s, x, OFL_OVERWRITE, -OFL_ESTATE);
        if (x->readers || x->writers)
            refused(s, pager_tensor_remove(&s->pager, x->t), -OFL_ESTATE, "a wrong destroy");
    }
}

/* Where the bytes are adds up. */
static void ask(struct sim *s, const struct sim_tensor *x, uint64_t from, uint64_t to)
{
    struct ofl_residency r;

    pager_resident(x->t, from, to, &r);
    if (r.bytes != to - from || r.device_bytes + r.device_coming_bytes > r.bytes ||
        r.host_bytes + r.host_coming_bytes + r.below_bytes > r.bytes)
        sim_fail(
            s,
            "resident: of %llu bytes %llu and %llu on the device, %llu and %llu in host memory, %llu below",
            (unsigned long long)r.bytes, (unsigned long long)r.device_bytes,
            (unsigned long long)r.device_coming_bytes, (unsigned long long)r.host_bytes,
            (unsigned long long)r.host_coming_bytes, (unsigned long long)r.below_bytes);
    if (x->t->device_home && !s->pager.broken.code && r.device_bytes + r.device_coming_bytes != r.bytes)
        sim_fail(s, "resident: a home on the device has %llu of %llu bytes",
                 (unsigned long long)r.device_bytes, (unsigned long long)r.bytes);
}

/* At what one of the next statements uses, or at anything; a few are taken back. */
static void hint(struct sim *s)
{
    const struct sim_stmt *st = &s->prog->stmts[s->stmt];
    struct sim_random r = {.state = st->id ^ 0x48494E54};
    uint32_t ahead = s->stmt + sim_below(&r, 6);
    struct ofl_lease l[SIM_BATCH] = {{0}};
    uint32_t n = 0;
    int err;

    if (sim_below(&r, s->options->hints))
        return;
    st = &s->prog->stmts[ahead < s->prog->count ? ahead : s->stmt];
    for (uint32_t i = 0; i < SIM_BATCH; i++) {
        struct sim_tensor *x = &s->tensors[sim_below(&r, 3) ? st->tensor[i] : sim_below(&r, SIM_TENSORS)];
        uint32_t from, to;

        if (!x->t)
            continue;
        sim_part(x, st->part[i], &from, &to);
        if (place_footprint(to - from) > s->pager.device_bytes)
            continue;
        l[n].tensor = x->t;
        l[n].mode = x->spec.source || sim_below(&r, 4) ? OFL_READ : OFL_OVERWRITE;
        l[n].offset_elems = from / x->spec.each;
        l[n++].count_elems = st->part[i] ? (to - from) / x->spec.each : 0;
        ask(s, x, from, to);
    }
    sim_enter(s);
    err = pager_hint(&s->pager, l, n, OFL_HINT_NEXT + sim_below(&r, 3));
    sim_leave(s);
    s->due = true;
    if (err < 0)
        sim_fails_rightly(s, err, NULL, 0, "hint");
}

static void statement(struct sim *s, const struct sim_stmt *st)
{
    struct sim_batch *b = &s->batches[st->slot % SIM_BATCHES];
    struct sim_tensor *x = &s->tensors[st->tensor[0]];
    uint32_t first, end;

    slots_of(st, x, &first, &end);
    switch (st->type) {
    case STMT_CREATE:
        create(s, st->tensor[0]);
        if (st->arg)
            sim_write(s, x, 0, x->slots);
        break;
    case STMT_DESTROY:
        destroy(s, st->tensor[0]);
        break;
    case STMT_ACQUIRE:
        acquire(s, st, b);
        break;
    case STMT_LAUNCH:
        if (b->held)
            sim_launch(s, b);
        break;
    case STMT_RELEASE:
        if (b->held)
            sim_release(s, b);
        break;
    case STMT_USE:
        use(s, st);
        break;
    case STMT_READ:
        sim_read(s, x, first, end);
        break;
    case STMT_WRITE:
        sim_write(s, x, first, end);
        break;
    case STMT_SYNC:
        sim_sync(s, st->stream);
        break;
    case STMT_RENEW:
        renew(s, st->stream);
        break;
    case STMT_BEGIN:
        step_begin(s, st->slot);
        break;
    case STMT_END:
        step_end(s);
        break;
    case STMT_APPLY:
        sim_apply(s, st->slot);
        break;
    case STMT_OPTIMIZE:
        sim_optimize(s, st->slot);
        break;
    case STMT_WRONG:
        wrong_calls(s);
        break;
    case STMT_QUIET:
        rest(s);
        break;
    default:
        break;
    }
    if (st->pause)
        sim_until(s, s->now + sim_delay(s, st->pause));
    else if (s->due && sim_below(&s->random, 4))
        sim_pump(s);
}

/* ---- the whole --------------------------------------------------------- */

static void open_all(struct sim *s)
{
    const struct sim_config *c = &s->prog->config;
    struct pager *p = &s->pager;
    struct ofl_config config = {.device_bytes = c->device_bytes,
                                .host_bytes = c->host_bytes,
                                .tile_bytes = c->tile_bytes,
                                .expected_bytes = c->expected_bytes,
                                .leased_bytes = c->leased_bytes};

    s->link_tail[0] = &s->link[0];
    s->link_tail[1] = &s->link[1];
    s->source = (struct io_file){.bytes = calloc(1, SOURCE_BYTES), .size = SOURCE_BYTES};
    if (c->store_bytes && sim_store_open(s) < 0)
        abort();
    if (c->store_bytes && s->options->commits)
        sim_kept_open(s);
    for (uint32_t i = 0; i < SIM_QUEUES; i++)
        sim_stream_open(s, i);
    sim_env(s, &p->env);
    p->device = malloc(c->device_bytes);
    p->device_bytes = c->device_bytes;
    p->host = c->host_bytes ? aligned_alloc(CORE_HOST_ALIGN, c->host_bytes) : NULL;
    p->host_bytes = c->host_bytes;
    if (!p->device || !s->source.bytes || (c->host_bytes && !p->host))
        abort();
    memset(p->device, 0xA5, c->device_bytes);
    if (p->host)
        memset(p->host, 0xA5, c->host_bytes);
    p->tile_bytes = c->tile_bytes;
    p->store = c->store_bytes ? &s->store : NULL;
    p->kept = s->kept.bytes ? (struct kept *)&s->kept : NULL;
    p->poison = c->poison;
    p->active_max = c->active_max;
    if (pager_open(p) < 0 || home_open(p, &config) < 0)
        abort();
}

/* As ofl_close: streams run out, nothing new starts, what is in flight ends. */
static void close_pager(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_QUEUES && !sim_failed(s); i++)
        sim_sync(s, i);
    if (!s->pager.broken.code)
        base_error_set(&s->pager.broken, -ECANCELED, "the context is closing");
    s->may_break = true;
    s->due = true;
    sim_rest(s);
    if (!sim_failed(s) && (s->pager.inflight || s->pager.active))
        sim_fail(s, "close: %u operations and %u requests are still in flight", s->pager.inflight,
                 s->pager.active);
}

static void finish(struct sim *s)
{
    bool abrupt = sim_below(&s->random, 8) == 0;

    s->stmt = s->prog->count;
    for (int i = 0; i < SIM_BATCHES; i++)
        if (s->batches[i].held)
            sim_release(s, &s->batches[i]);
    if (!abrupt) {
        s->no_more_faults = true;
        rest(s);
        for (uint32_t i = 0; i < SIM_TENSORS && !sim_failed(s); i++)
            if (s->tensors[i].t)
                sim_read(s, &s->tensors[i], 0, s->tensors[i].slots);
        for (uint32_t i = 0; i < SIM_TENSORS && !sim_failed(s); i++)
            destroy(s, i);
        if (!sim_failed(s))
            rest(s);
        if (!sim_failed(s) && !s->pager.broken.code && (s->pager.cached_bytes || s->pager.device_used))
            sim_fail(s, "all tensors are gone, and %llu bytes of host memory, %llu of the device are taken",
                     (unsigned long long)s->pager.cached_bytes, (unsigned long long)s->pager.device_used);
    }
    if (!sim_failed(s))
        close_pager(s);
}

static void free_all(struct sim *s)
{
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t)
            tensor_free(s->tensors[i].t);
    pager_close(&s->pager);
    sim_store_close(s);
    sim_kept_close(s);
    free(s->source.bytes);
    free(s->pager.device);
    free(s->pager.host);
    free(s->events.heap);
    while (s->free_moves) {
        struct sim_move *m = s->free_moves;

        s->free_moves = m->next;
        free(m);
    }
    while (s->free_items) {
        struct sim_item *item = s->free_items;

        s->free_items = item->next;
        free(item);
    }
}

static sigjmp_buf crashed;

static void on_signal(int number)
{
    siglongjmp(crashed, number);
}

static void run(struct sim *s)
{
    open_all(s);
    for (s->stmt = 0; s->stmt < s->prog->count && !sim_failed(s); s->stmt++) {
        if (s->options->hints)
            hint(s);
        if (s->options->commits)
            sim_commit(s);
        s->random.state = s->prog->stmts[s->stmt].id;
        statement(s, &s->prog->stmts[s->stmt]);
    }
    if (!sim_failed(s))
        finish(s);
}

void sim_run(const struct sim_program *prog, const struct sim_options *options, struct sim_result *out)
{
    static struct sim sim;
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    struct sim *s = &sim;
    int64_t live = sim_alloc_live();
    int number;

    memset(out, 0, sizeof *out);
    memset(s, 0, sizeof *s);
    s->prog = prog;
    s->options = options;
    s->result = out;
    s->random.state = prog->seed;
    sim_alloc_start(&prog->config, prog->seed);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], on_signal);
    number = sigsetjmp(crashed, 1);
    if (number == 0) {
        run(s);
        out->evictions = s->pager.stats.evictions;
        out->misses = s->pager.stats.misses;
        out->prefetches = s->pager.stats.prefetches;
        out->updates = s->pager.stats.updates;
        out->read = s->pager.stats.nvme_read_bytes / CORE_HOST_ALIGN;
        out->written = s->pager.stats.nvme_write_bytes / CORE_HOST_ALIGN;
        if (!sim_failed(s)) {
            free_all(s);
            if (sim_alloc_live() != live)
                sim_fail(s, "%lld allocations are left after close", (long long)(sim_alloc_live() - live));
        }
    } else {
        sim_alloc_arm(false);
        sim_fail(s, "signal %d: %s", number, strsignal(number));
    }
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
    if (out->failed && options->dump && number == 0)
        sim_dump(s);
    out->events = s->events_run;
}
