/* check: see check.h. Commands and kernels; moves are in check_move.c. */
#include "liboffload/plan/check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "liboffload/plan/check_impl.h"

static const char *const names[PLAN_FAULTS] = {
    [PLAN_FAULT_NONE] = "none",           [PLAN_FAULT_BUDGET] = "over budget",
    [PLAN_FAULT_SHARED] = "shared range", [PLAN_FAULT_FENCE] = "before its fence",
    [PLAN_FAULT_STALE] = "old bytes",     [PLAN_FAULT_BYTES] = "other bytes",
    [PLAN_FAULT_LOST] = "lost bytes",     [PLAN_FAULT_LIFETIME] = "lifetime",
    [PLAN_FAULT_SEAL] = "no seal",        [PLAN_FAULT_PAIR] = "no end",
    [PLAN_FAULT_ORDER] = "order",         [PLAN_FAULT_LEASE] = "not leased",
    [PLAN_FAULT_STALL] = "stall",         [PLAN_FAULT_HIDDEN] = "late, not hidden",
    [PLAN_FAULT_COUNT] = "count",         [PLAN_FAULT_REST] = "rest given up",
};

const char *plan_fault_name(enum plan_fault fault)
{
    return fault < PLAN_FAULTS ? names[fault] : "?";
}

void check_fault(struct plan_check *c, enum plan_fault fault, const char *fmt, ...)
{
    struct plan_checked *out = &c->out;
    va_list ap;
    int used;

    if (out->faults++ > 0)
        return;
    out->fault = fault;
    used = snprintf(out->text, sizeof out->text,
                    "%s: record %llu, %s of tensor %u, tile %u, at %llu ns: ", plan_fault_name(fault),
                    (ull)out->records, plan_record_name(c->now->type), c->now->tensor, c->now->tile,
                    (ull)c->now->time_ns);
    va_start(ap, fmt);
    vsnprintf(out->text + used, sizeof out->text - (size_t)used, fmt, ap);
    va_end(ap);
}

/* ---- tables by number -------------------------------------------------- */

/* Makes at[index] exist, zeroed. NULL: no memory. */
void *check_grow(struct plan_check *c, void **at, uint64_t *room, uint64_t index, size_t each)
{
    if (index >= *room) {
        uint64_t more = *room ? *room : 64;
        void *to;

        while (more <= index)
            more *= 2;
        to = realloc(*at, more * each);
        if (!to || index > (1u << 30)) {
            c->out_of_memory = true;
            return NULL;
        }
        memset((char *)to + *room * each, 0, (more - *room) * each);
        *at = to;
        *room = more;
    }
    return (char *)*at + index * each;
}

struct check_tensor *check_tensor(struct plan_check *c, uint32_t number)
{
    if (number < c->tensors_room && c->tensors[number].alive)
        return &c->tensors[number];
    check_fault(c, PLAN_FAULT_LIFETIME, "there is no such tensor");
    return NULL;
}

static struct check_lease *lease_of(struct plan_check *c, uint64_t number)
{
    return number < c->leases_room && c->leases[number].held ? &c->leases[number] : NULL;
}

/* ---- tensors ----------------------------------------------------------- */

static void create(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t =
        check_grow(c, (void **)&c->tensors, &c->tensors_room, r->tensor, sizeof *c->tensors);
    uint64_t lead = 0;

    if (!t)
        return;
    if (t->tiles || r->value == 0 || r->bytes == 0) {
        check_fault(c, PLAN_FAULT_LIFETIME, "its number was another's, or it has no bytes");
        return;
    }
    if (r->stream & PLAN_RECORD_SOURCE)
        lead = r->from % CHECK_BLOCK_BYTES;
    *t = (struct check_tensor){.alive = true,
                               .source = r->stream & PLAN_RECORD_SOURCE,
                               .transient = r->stream & PLAN_RECORD_TRANSIENT,
                               .bytes = r->bytes,
                               .tile_bytes = r->value,
                               .file_off = r->from,
                               .lead = lead,
                               .count = (uint32_t)((lead + r->bytes + r->value - 1) / r->value)};
    t->garbage = t->transient;
    t->tiles = calloc(t->count, sizeof *t->tiles);
    c->out_of_memory |= !t->tiles;
}

static void destroy(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);

    if (t)
        t->alive = false;
}

/* A write is announced, in the order of the program. whole: nothing of what was there counts any more. */
static void announce(struct check_tensor *t, bool whole, bool garbage)
{
    t->version++;
    if (whole)
        t->whole = t->version;
    t->garbage = garbage || (!whole && t->garbage);
}

/* The base version is still to be read, by a lease or an update. */
static void expect(struct plan_check *c, struct check_tensor *t, uint64_t base, uint64_t lease,
                   uint64_t update)
{
    struct check_reader *reader =
        check_grow(c, (void **)&t->readers, &t->readers_room, t->readers_count, sizeof *t->readers);

    if (!reader)
        return;
    *reader = (struct check_reader){.base = base, .lease = lease, .update = update, .left = t->count};
    if (!lease && !(reader->done = calloc(t->count, 1)))
        c->out_of_memory = true;
    else
        t->readers_count++;
}

/* The lease has passed, or the update's tile is done. */
void check_expected(struct check_tensor *t, uint64_t lease, uint64_t update, uint32_t tile)
{
    for (uint64_t i = 0; i < t->readers_count; i++) {
        struct check_reader *reader = &t->readers[i];

        if (reader->lease != lease || reader->update != update)
            continue;
        if (!lease && !reader->done[tile]) {
            reader->done[tile] = 1;
            reader->left--;
        }
        if (lease || reader->left == 0) {
            free(reader->done);
            *reader = t->readers[--t->readers_count];
        }
        return;
    }
}

/* The next use: what was to rest until then has. */
static void unrest(struct check_tensor *t)
{
    t->rests = false;
    t->rest_tiles = 0;
}

static void rest(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);

    if (!t)
        return;
    t->rests = r->value != 0;
    t->rest_tiles = (uint32_t)r->to;
}

/* ---- leases ------------------------------------------------------------ */

static void acquire(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);
    struct check_lease *l = check_grow(c, (void **)&c->leases, &c->leases_room, r->from, sizeof *c->leases);

    if (!t || !l)
        return;
    if (l->held || r->bytes != t->bytes)
        check_fault(c, PLAN_FAULT_LEASE, "lease %llu is another's, or not of the whole tensor", (ull)r->from);
    *l = (struct check_lease){.held = true,
                              .tensor = r->tensor,
                              .stream = r->stream,
                              .off = r->to,
                              .access = (uint32_t)r->value,
                              .base = t->version,
                              .garbage = t->garbage};
    check_range(c, CHECK_DEVICE, r->to, r->bytes);
    unrest(t);
    if (r->value & PLAN_RECORD_READS && !t->garbage)
        expect(c, t, t->version, r->from, 0);
    if (r->value & PLAN_RECORD_WRITES)
        announce(t, !(r->value & PLAN_RECORD_READS), false);
    l->version = t->version;
}

static void release(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);
    struct check_lease *l = lease_of(c, r->from);

    if (!t || !l || l->released || l->tensor != r->tensor) {
        check_fault(c, PLAN_FAULT_LEASE, "lease %llu is not held", (ull)r->from);
        return;
    }
    l->released = true;
    if (r->value & PLAN_RECORD_DROP || t->transient)
        announce(t, true, true);
}

static void passed(struct plan_check *c, const struct plan_record *r)
{
    struct check_lease *l = lease_of(c, r->from);

    if (!l || !l->released)
        check_fault(c, PLAN_FAULT_LEASE, "lease %llu was not released", (ull)r->from);
    else
        l->held = false;
    if (l && r->tensor < c->tensors_room)
        check_expected(&c->tensors[r->tensor], r->from, 0, 0);
}

/* ---- kernels ----------------------------------------------------------- */

static void launch(struct plan_check *c, const struct plan_record *r)
{
    struct check_kernel *k =
        check_grow(c, (void **)&c->kernels, &c->kernels_room, r->from, sizeof *c->kernels);

    if (!k || r->stream >= CHECK_STREAMS)
        return;
    *k = (struct check_kernel){.stream = r->stream, .launch_ns = r->time_ns, .first = c->uses_count};
    c->launched = r->from;
}

static void use(struct plan_check *c, const struct plan_record *r)
{
    struct check_kernel_use *u =
        check_grow(c, (void **)&c->uses, &c->uses_room, c->uses_count, sizeof *c->uses);

    if (!u || r->from != c->launched) {
        check_fault(c, PLAN_FAULT_ORDER, "kernel %llu was not the last one launched", (ull)r->from);
        return;
    }
    *u = (struct check_kernel_use){.lease = r->to};
    c->uses_count++;
    c->kernels[r->from].count++;
    if (!lease_of(c, r->to) || c->leases[r->to].released)
        check_fault(c, PLAN_FAULT_LEASE, "kernel %llu uses lease %llu, which is not held", (ull)r->from,
                    (ull)r->to);
}

/* What the kernel finds where its lease says. */
static void find(struct plan_check *c, const struct check_lease *l, struct check_tensor *t, uint64_t ready_ns)
{
    struct check_space *s = &c->space[CHECK_DEVICE];

    for (uint32_t i = 0; i < t->count; i++) {
        uint64_t off = l->off + check_tile_start(t, i), len = check_tile_bytes(t, i);
        const struct check_label *found = check_space_at(s, off, len);

        c->out.uses++;
        c->out.late_bytes += found && found->in_ns > ready_ns ? len : 0;
        if (!l->written && !(l->access & PLAN_RECORD_READS))
            check_space_clear(s, off, len);
        else if (l->written || !l->garbage)
            check_label(c, found, l->tensor, i, l->written ? l->version : l->base);
    }
}

static void run(struct plan_check *c, const struct plan_record *r)
{
    struct check_kernel *k = r->from < c->kernels_room ? &c->kernels[r->from] : NULL;
    struct check_stream *s = r->stream < CHECK_STREAMS ? &c->streams[r->stream] : NULL;
    uint64_t ready_ns;

    if (!k || !s || s->kernel || k->stream != r->stream || r->from <= s->last || k->launch_ns > r->time_ns) {
        check_fault(c, PLAN_FAULT_ORDER,
                    "kernel %llu runs before another of its stream has ended, or was launched", (ull)r->from);
        return;
    }
    s->kernel = s->last = r->from;
    ready_ns = s->free_ns > k->launch_ns ? s->free_ns : k->launch_ns;
    c->out.stall_ns += r->time_ns - ready_ns;
    for (uint64_t i = k->first; i < k->first + k->count; i++) {
        struct check_lease *l = lease_of(c, c->uses[i].lease);
        struct check_tensor *t = l ? check_tensor(c, l->tensor) : NULL;
        bool writes;

        if (!t) {
            check_fault(c, PLAN_FAULT_LEASE, "kernel %llu runs after lease %llu", (ull)r->from,
                        (ull)c->uses[i].lease);
            continue;
        }
        writes = l->access & PLAN_RECORD_WRITES;
        check_busy(c, CHECK_DEVICE, l->off, t->bytes, writes);
        find(c, l, t, ready_ns);
        c->uses[i].at = check_space_begin(&c->space[CHECK_DEVICE], l->off, t->bytes, writes, false);
    }
}

static void run_end(struct plan_check *c, const struct plan_record *r)
{
    struct check_stream *s = r->stream < CHECK_STREAMS ? &c->streams[r->stream] : NULL;
    const struct check_kernel *k;

    if (!s || r->from == 0 || s->kernel != r->from) {
        check_fault(c, PLAN_FAULT_PAIR, "kernel %llu does not run", (ull)r->from);
        return;
    }
    s->kernel = 0;
    s->free_ns = r->time_ns;
    k = &c->kernels[r->from];
    for (uint64_t i = k->first; i < k->first + k->count; i++) {
        struct check_lease *l = lease_of(c, c->uses[i].lease);
        struct check_tensor *t = l ? check_tensor(c, l->tensor) : NULL;

        if (!t)
            continue;
        check_space_end(&c->space[CHECK_DEVICE], c->uses[i].at, l->access & PLAN_RECORD_WRITES);
        if (!(l->access & PLAN_RECORD_WRITES))
            continue;
        l->written = true;
        for (uint32_t tile = 0; tile < t->count; tile++)
            check_put(c, CHECK_DEVICE, l->off + check_tile_start(t, tile), check_tile_bytes(t, tile),
                      (struct check_label){.tensor = l->tensor, .tile = tile, .version = l->version});
    }
}

/* ---- updates ----------------------------------------------------------- */

static void update(struct plan_check *c, const struct plan_record *r)
{
    struct check_tensor *t = check_tensor(c, r->tensor);
    struct check_update *u =
        check_grow(c, (void **)&c->updates, &c->updates_room, r->from, sizeof *c->updates);
    struct check_update_part *part;

    if (!t || !u || r->to >= CHECK_UPDATE_PARTS)
        return;
    unrest(t);
    part = &u->part[r->to];
    if (r->value & PLAN_RECORD_READS && !t->garbage)
        expect(c, t, t->version, 0, r->from);
    *part = (struct check_update_part){
        .known = true, .tensor = r->tensor, .base = t->version, .garbage = t->garbage};
    if (r->value & PLAN_RECORD_WRITES)
        announce(t, !(r->value & PLAN_RECORD_READS), false);
    part->version = t->version;
    if (r->value & PLAN_RECORD_DROP)
        announce(t, true, true);
}

/* ---- claims ------------------------------------------------------------ */

static void step_end(struct plan_check *c, const struct plan_record *r)
{
    if (r->from < c->out.stall_ns)
        check_fault(c, PLAN_FAULT_STALL, "%llu ns are claimed, streams stood for %llu", (ull)r->from,
                    (ull)c->out.stall_ns);
    if (r->to < c->out.late_bytes)
        check_fault(c, PLAN_FAULT_HIDDEN, "%llu bytes are said to have come late, %llu have", (ull)r->to,
                    (ull)c->out.late_bytes);
    if (r->bytes != c->out.in_bytes)
        check_fault(c, PLAN_FAULT_COUNT, "%llu bytes are said to have come in, %llu have", (ull)r->bytes,
                    (ull)c->out.in_bytes);
}

/* ---- the whole --------------------------------------------------------- */

int plan_check_open(bool rests, struct plan_check **out)
{
    struct plan_check *c = *out = calloc(1, sizeof *c);

    if (!c)
        return base_fail(-ENOMEM, "check a run: out of memory");
    c->rests = rests;
    for (int i = 0; i < CHECK_SPACES; i++)
        check_space_open(&c->space[i], i, 0, check_gone, c);
    return 0;
}

static void command(struct plan_check *c, const struct plan_record *r)
{
    switch (r->type) {
    case PLAN_RECORD_OPEN:
        c->space[CHECK_DEVICE].limit = r->from;
        c->space[CHECK_HOST].limit = r->to;
        c->space[CHECK_STORE].limit = r->bytes;
        break;
    case PLAN_RECORD_CREATE:
        create(c, r);
        break;
    case PLAN_RECORD_DESTROY:
        destroy(c, r);
        break;
    case PLAN_RECORD_STEP_END:
        step_end(c, r);
        break;
    case PLAN_RECORD_ACQUIRE:
        acquire(c, r);
        break;
    case PLAN_RECORD_RELEASE:
        release(c, r);
        break;
    case PLAN_RECORD_PASSED:
        passed(c, r);
        break;
    case PLAN_RECORD_LAUNCH:
        launch(c, r);
        break;
    case PLAN_RECORD_USE:
        use(c, r);
        break;
    case PLAN_RECORD_RUN:
        run(c, r);
        break;
    case PLAN_RECORD_RUN_END:
        run_end(c, r);
        break;
    case PLAN_RECORD_UPDATE:
        update(c, r);
        break;
    case PLAN_RECORD_REST:
        rest(c, r);
        break;
    default:
        break;
    }
}

void plan_check_record(struct plan_check *c, const struct plan_record *r)
{
    c->now = r;
    c->out.records++;
    if (r->time_ns < c->time_ns)
        check_fault(c, PLAN_FAULT_ORDER, "time goes backwards");
    c->time_ns = r->time_ns;
    if (c->out_of_memory)
        return;
    if (r->type >= PLAN_RECORD_READ)
        check_move(c, r);
    else
        command(c, r);
}

int plan_check_close(struct plan_check *c, struct plan_checked *out)
{
    struct plan_record end = {.time_ns = c->time_ns};
    bool failed = c->out_of_memory;

    c->now = &end;
    if (!failed && (c->moves))
        check_fault(c, PLAN_FAULT_PAIR, "moves, or host works, have not ended");
    for (int i = 0; i < CHECK_SPACES; i++) {
        failed |= c->space[i].out_of_memory;
        c->closing = true;
        check_space_close(&c->space[i]);
    }
    *out = c->out;
    check_moves_free(c);
    for (uint64_t i = 0; i < c->tensors_room; i++) {
        for (uint64_t k = 0; k < c->tensors[i].readers_count; k++)
            free(c->tensors[i].readers[k].done);
        free(c->tensors[i].readers);
        free(c->tensors[i].tiles);
    }
    free(c->tensors);
    free(c->leases);
    free(c->kernels);
    free(c->uses);
    free(c->updates);
    free(c);
    return failed ? base_fail(-ENOMEM, "check a run: out of memory") : 0;
}
