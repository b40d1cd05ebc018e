/* plan_random: see plan_random.h. */
#include "tests/plan_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB       1024u
#define GROUP_MAX 5

/* ---- building ---------------------------------------------------------- */

static void *grown(void *at, uint32_t count, uint32_t *room, size_t each)
{
    if (count < *room)
        return at;
    *room = *room ? 2 * *room : 64;
    at = realloc(at, *room * each);
    if (!at)
        abort();
    return at;
}

uint32_t plan_add_tensor(struct plan_random *r, enum ofl_kind kind, enum ofl_dtype dtype, uint64_t bytes)
{
    struct plan_program *p = &r->program;
    struct plan_tensor *t;

    p->tensors = grown(p->tensors, p->tensors_count, &r->tensors_room, sizeof *p->tensors);
    t = &p->tensors[p->tensors_count];
    *t = (struct plan_tensor){.kind = kind, .dtype = dtype, .bytes = bytes};
    snprintf(t->name, sizeof t->name, "tensor-%u", p->tensors_count);
    return p->tensors_count++;
}

void plan_add_lease(struct plan_random *r, uint32_t tensor, enum ofl_mode mode, bool drop)
{
    struct plan_program *p = &r->program;

    p->leases = grown(p->leases, p->leases_count, &r->leases_room, sizeof *p->leases);
    p->leases[p->leases_count++] = (struct plan_lease){.tensor = tensor, .mode = mode, .drop = drop};
}

struct plan_op *plan_add_op(struct plan_random *r, enum plan_op_type type, uint32_t stream, uint32_t count)
{
    struct plan_program *p = &r->program;

    p->ops = grown(p->ops, p->ops_count, &r->ops_room, sizeof *p->ops);
    p->ops[p->ops_count] =
        (struct plan_op){.type = type, .first = p->leases_count - count, .count = count, .stream = stream};
    return &p->ops[p->ops_count++];
}

void plan_round_rates(struct plan_rates *rates)
{
    *rates = (struct plan_rates){.device_flops_s = 1e12,
                                 .device_bytes_s = 10e9,
                                 .link_in_bytes_s = 1e9,
                                 .link_out_bytes_s = 1e9,
                                 .drives = {{.read_bytes_s = 100e6, .write_bytes_s = 100e6}},
                                 .drives_count = 1,
                                 .workers = 4,
                                 .update_bytes_s = 4e9,
                                 .seal_bytes_s = 40e9};
}

/* ---- random ------------------------------------------------------------ */

static uint32_t below(struct plan_random *r, uint32_t n)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return n ? (uint32_t)((z >> 32) * n >> 32) : 0;
}

/* 4 bytes to 1.2 MiB: mostly no whole tiles. */
static uint64_t some_bytes(struct plan_random *r)
{
    return 4ull * (1 + below(r, below(r, 4) ? 80 * KIB : 300 * KIB));
}

/* A weight, its gradient and states: all are updated together. */
static void add_group(struct plan_random *r)
{
    bool low = below(r, 2);
    uint64_t elems = some_bytes(r) / 4;

    plan_add_tensor(r, OFL_KIND_WEIGHT, low ? OFL_BF16 : OFL_F32, elems * (low ? 2 : 4));
    plan_add_tensor(r, OFL_KIND_GRADIENT, OFL_F32, elems * 4);
    for (int i = 0; i < (low ? 3 : 2); i++)
        plan_add_tensor(r, OFL_KIND_OPTIMIZER, OFL_F32, elems * 4);
}

static void add_tensors(struct plan_random *r)
{
    uint32_t groups = below(r, 4), others = 2 + below(r, 10);

    for (uint32_t i = 0; i < groups; i++)
        add_group(r);
    for (uint32_t i = 0; i < others; i++) {
        uint32_t kind = below(r, 4);
        uint32_t t = plan_add_tensor(r, kind ? OFL_KIND_WEIGHT : OFL_KIND_ACTIVATION, OFL_F32, some_bytes(r));

        r->program.tensors[t].source = kind == 1;
        r->program.tensors[t].transient = kind == 0 && below(r, 2);
    }
}

static bool leased(const uint8_t *held, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        if (held[i])
            return true;
    return false;
}

/* The update of a group whose first tensor is the weight t. */
static void add_update(struct plan_random *r, uint32_t t, const uint8_t *held)
{
    bool low = r->program.tensors[t].dtype == OFL_BF16;
    uint32_t count = low ? 5 : 4;

    if (leased(held, t, count))
        return;
    plan_add_lease(r, t, low ? OFL_OVERWRITE : OFL_UPDATE, false);
    plan_add_lease(r, t + 1, OFL_READ, true);
    for (uint32_t i = 2; i < count; i++)
        plan_add_lease(r, t + i, OFL_UPDATE, false);
    plan_add_op(r, PLAN_UPDATE, 1, count);
}

/* A batch of what is not held, a kernel, the release; some are held on for a while. */
static void add_use(struct plan_random *r, uint8_t *held, uint32_t streams)
{
    struct plan_program *p = &r->program;
    uint32_t stream = below(r, streams), want = 1 + below(r, 4), count = 0, first = p->leases_count;

    while (want--) {
        uint32_t t = below(r, p->tensors_count);
        const struct plan_tensor *x = &p->tensors[t];
        uint32_t mode = below(r, 3);

        if (held[t])
            continue;
        held[t] = 1;
        plan_add_lease(r, t,
                       x->source      ? OFL_READ
                       : x->transient ? OFL_OVERWRITE
                                      : (enum ofl_mode[]){OFL_READ, OFL_UPDATE, OFL_OVERWRITE}[mode],
                       !x->source && below(r, 12) == 0);
        count++;
    }
    if (!count)
        return;
    plan_add_op(r, PLAN_ACQUIRE, stream, count);
    for (uint32_t k = 1 + below(r, 2); k; k--)
        plan_add_op(r, PLAN_COMPUTE, stream, 0)->bytes = 1e5 * below(r, 200);
    if (below(r, 3) == 0)
        add_use(r, held, streams); /* beside it */
    for (uint32_t i = first; i < first + count; i++)
        held[p->leases[i].tensor] = 0;
    plan_add_op(r, PLAN_RELEASE, stream, count)->first = first;
}

static void set_budgets(struct plan_random *r)
{
    const struct plan_program *p = &r->program;
    struct plan_budgets *b = &r->simulation.budgets;
    uint64_t homes = 0;

    for (uint32_t i = 0; i < p->tensors_count; i++) {
        uint64_t bytes = (p->tensors[i].bytes + 4095) / 4096 * 4096;

        homes += p->tensors[i].source || p->tensors[i].transient ? 0 : bytes;
    }
    b->tile_bytes = 64 * KIB;
    b->host_bytes = 32 * b->tile_bytes + 4096 * below(r, 1024);
    b->store_bytes = homes + 4096;
    if (below(r, 4) == 0) { /* no store */
        b->host_bytes += homes + 64 * KIB * p->tensors_count;
        b->store_bytes = 0;
    } else if (below(r, 2)) { /* homes in host memory, too */
        uint64_t there = homes / 8 * below(r, 8);

        b->host_bytes += there;
        b->store_bytes -= there / 4096 * 4096;
        b->store_bytes += 64 * KIB;
    }
}

static void set_rates(struct plan_random *r)
{
    struct plan_rates *rates = &r->simulation.rates;

    plan_round_rates(rates);
    rates->launch_ns = below(r, 5000);
    rates->link_latency_ns = below(r, 20000);
    rates->link_in_bytes_s *= 1 + below(r, 20);
    rates->link_out_bytes_s *= 1 + below(r, 20);
    rates->drives_count = 1 + below(r, 3);
    for (uint32_t i = 0; i < rates->drives_count; i++)
        rates->drives[i] = (struct plan_drive){.read_bytes_s = 1e8 * (1 + below(r, 50)),
                                               .write_bytes_s = 1e8 * (1 + below(r, 50)),
                                               .mixed_bytes_s = 1e8 * below(r, 60),
                                               .latency_ns = below(r, 300000)};
    rates->workers = 1 + below(r, 8);
    rates->run_ahead = below(r, 2) ? 2 + below(r, 16) : 0;
}

/* What is leased at once, and a little: now and then it does not fit in one piece, and is refused. */
static void squeeze(struct plan_random *r, const struct plan_program *p)
{
    uint64_t now = 0, most = 0, largest = 0, bytes;

    for (uint32_t k = 0; k < p->ops_count; k++)
        for (uint32_t i = p->ops[k].first; i < p->ops[k].first + p->ops[k].count; i++) {
            bytes = p->tensors[p->leases[i].tensor].bytes + 256;
            largest = bytes > largest ? bytes : largest;
            if (p->ops[k].type == PLAN_ACQUIRE)
                now += bytes;
            else if (p->ops[k].type == PLAN_RELEASE)
                now -= bytes;
            most = now > most ? now : most;
        }
    bytes = r->program.held_bytes + most + largest / 2 * (1 + below(r, 6)) + 4096;
    if (bytes > r->simulation.budgets.device_bytes)
        r->simulation.budgets.device_bytes = bytes;
}

static void add_uses(struct plan_random *r, uint32_t streams)
{
    uint8_t held[64] = {0};

    for (uint32_t uses = 4 + below(r, 24); uses; uses--) {
        uint32_t t = below(r, r->program.tensors_count);

        if (below(r, 3) == 0 && t + 1 < r->program.tensors_count &&
            r->program.tensors[t + 1].kind == OFL_KIND_GRADIENT)
            add_update(r, t, held);
        add_use(r, held, streams);
    }
}

/* Another program with the same tensors. */
static void add_other(struct plan_random *r, uint32_t streams)
{
    r->other = r->program;
    r->program.leases = NULL;
    r->program.ops = NULL;
    r->program.leases_count = r->program.ops_count = r->leases_room = r->ops_room = 0;
    add_uses(r, streams);
}

void plan_random_make(struct plan_random *r, uint64_t seed)
{
    uint32_t streams;

    *r = (struct plan_random){.state = seed};
    streams = 1 + below(r, 3);
    add_tensors(r);
    add_uses(r, streams);
    if (below(r, 2))
        add_other(r, streams);
    r->program.held_bytes = 1 + below(r, 100000);
    set_budgets(r);
    set_rates(r);
    squeeze(r, &r->program);
    squeeze(r, &r->other);
    r->simulation.program = &r->program;
    r->simulation.other = r->other.ops_count ? &r->other : NULL;
    r->simulation.steps = 2 + below(r, 6);
    r->simulation.sync = below(r, 2);
    r->simulation.jitter = below(r, 3) ? 0.5 : 0;
    r->simulation.seed = seed;
    r->simulation.most_events = 2000000;
}

void plan_random_free(struct plan_random *r)
{
    free(r->program.tensors);
    free(r->program.leases);
    free(r->program.ops);
    free(r->other.leases);
    free(r->other.ops);
}
