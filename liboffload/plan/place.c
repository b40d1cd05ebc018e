/* place: see place.h. */
#include "liboffload/plan/place.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define BLOCK_BYTES    4096u
#define TILE_MIN_BYTES (64ull << 10)
#define TILE_MAX_BYTES (8ull << 20)
/* As the core has them (home.c; a test compares what both come to): tiles that host memory holds before they grow. */
#define WIDE_TILES 128u
/* Host memory that stays free of homes: room for so many tiles on the move, with drives and without. */
#define MOVING_TILES          32u
#define MOVING_TILES_NO_STORE 4u

static uint64_t in_blocks(uint64_t bytes)
{
    return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- uses -------------------------------------------------------------------- */

struct recorder {
    const struct plan_program *p;
    struct plan_place *place;
    uint32_t *event_of; /* by lease */
    bool on_device;     /* updates run there */
};

static void add_use(struct recorder *r, const struct plan_op *op, uint32_t lease, enum sched_where where)
{
    const struct plan_lease *l = &r->p->leases[lease];
    struct plan_place *place = r->place;
    uint32_t i = place->uses_count++;

    place->phases[i] = op->phase;
    place->uses[i] = (struct sched_use){.event = {.id = l->tensor,
                                                  .where = (uint8_t)where,
                                                  .no_fetch = l->mode == OFL_OVERWRITE,
                                                  .writes = l->mode != OFL_READ},
                                        .until = i + 1,
                                        .drops = l->drop};
    r->event_of[lease] = i;
}

static void record(struct recorder *r)
{
    for (uint32_t i = 0; i < r->p->ops_count; i++) {
        const struct plan_op *op = &r->p->ops[i];
        enum sched_where where = op->type == PLAN_UPDATE && !r->on_device ? SCHED_ON_HOST : SCHED_ON_DEVICE;

        for (uint32_t k = op->first; k < op->first + op->count; k++)
            if (op->type == PLAN_RELEASE)
                r->place->uses[r->event_of[k]].until = r->place->uses_count;
            else if (op->type != PLAN_COMPUTE)
                add_use(r, op, k, where);
        for (uint32_t k = op->first; op->type == PLAN_UPDATE && k < op->first + op->count; k++)
            if (r->on_device)
                r->place->uses[r->event_of[k]].until = r->place->uses_count;
    }
}

static int make_uses(const struct plan_program *p, struct plan_place *place)
{
    struct recorder r = {.p = p, .place = place, .on_device = place->home == OFL_DEVICE};

    place->uses = calloc(p->leases_count + 1, sizeof *place->uses);
    place->phases = calloc(p->leases_count + 1, sizeof *place->phases);
    r.event_of = calloc(p->leases_count + 1, sizeof *r.event_of);
    if (place->uses && place->phases && r.event_of)
        record(&r);
    free(r.event_of);
    return place->uses && place->phases && r.event_of
               ? 0
               : base_fail(-ENOMEM, "estimate: %u uses: out of memory", p->leases_count);
}

/* ---- room of their own ---------------------------------------------------------- */

static uint64_t moving_bytes(const struct plan_place *place, bool store)
{
    return store ? MOVING_TILES * place->tile_bytes
                 : MOVING_TILES_NO_STORE * (place->tile_bytes + 2 * BLOCK_BYTES);
}

static uint64_t tile_bytes(uint64_t host_bytes)
{
    uint64_t tile = TILE_MIN_BYTES;

    while (tile * 2 <= TILE_MAX_BYTES && tile * 2 * WIDE_TILES <= host_bytes)
        tile *= 2;
    return tile;
}

/* What updates work on has to be reachable from the host. */
static bool may_live_on_device(const struct plan_tensor *t)
{
    return t->kind != OFL_KIND_GRADIENT && t->kind != OFL_KIND_OPTIMIZER;
}

/* Each tensor in the same proportion, as far as whole tiles and whole tensors allow. */
static void share_out(const struct plan_program *p, struct plan_place *place, uint64_t on_device,
                      uint64_t on_host)
{
    uint64_t device_done = 0, host_done = 0, done = 0;

    for (uint32_t i = 0; i < p->tensors_count; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        struct sched_item *x = &place->items[i];
        uint64_t tiles = (t->bytes + x->tile_bytes - 1) / x->tile_bytes;
        double upto;

        if (t->source)
            continue;
        done += in_blocks(t->bytes);
        upto = (double)done / (double)place->tensor_bytes;
        if (may_live_on_device(t) && upto * (double)on_device >= (double)device_done + (double)t->bytes / 2) {
            x->device_home = true;
            device_done += t->bytes;
        } else if (on_host) {
            uint64_t want = less((uint64_t)(upto * (double)on_host), host_done) + x->tile_bytes / 2;

            x->home_tiles = (uint32_t)least(want / x->tile_bytes, tiles);
            host_done += x->home_tiles == tiles ? in_blocks(t->bytes) : x->home_tiles * x->tile_bytes;
        }
    }
}

/* As pager_tensor_make cuts it. */
static uint64_t tile_of(const struct plan_tensor *t, uint64_t tile_bytes)
{
    uint64_t element = ofl_dtype_bytes(t->dtype);

    if (t->source)
        return tile_bytes > TILE_MIN_BYTES ? tile_bytes / 2 : tile_bytes;
    return element > 4 ? tile_bytes : tile_bytes / 4 * element;
}

static int make_items(const struct plan_program *p, struct plan_place *place)
{
    place->items = calloc(p->tensors_count + 1, sizeof *place->items);
    if (!place->items)
        return base_fail(-ENOMEM, "estimate: %u tensors: out of memory", p->tensors_count);
    for (uint32_t i = 0; i < p->tensors_count; i++) {
        const struct plan_tensor *t = &p->tensors[i];

        place->items[i] = (struct sched_item){.device_bytes = ofl_device_footprint(t->bytes),
                                              .bytes = t->bytes,
                                              .tile_bytes = tile_of(t, place->tile_bytes)};
        place->device_all_bytes += place->items[i].device_bytes;
        place->tensor_bytes += t->source ? 0 : in_blocks(t->bytes);
    }
    place->device_all_bytes += p->held_bytes;
    return 0;
}

/* Device memory for homes of weights, beside a part of the model that is in use. */
static uint64_t device_room(const struct plan_program *p, const struct plan_place *place)
{
    return less(place->budget_bytes[OFL_DEVICE], p->least_bytes);
}

static void settle(const struct plan_program *p, struct plan_place *place, bool must_store)
{
    uint64_t host = place->budget_bytes[OFL_HOST], need = place->tensor_bytes,
             nvme = place->budget_bytes[OFL_NVME];
    uint64_t room = less(host, moving_bytes(place, false));

    if (place->budget_bytes[OFL_DEVICE] >= place->device_all_bytes && !must_store) {
        place->home = OFL_DEVICE;
        for (uint32_t i = 0; i < p->tensors_count; i++)
            place->items[i].device_home = true;
    } else if (need && room >= need && !must_store) {
        place->home = OFL_HOST;
        place->budget_bytes[OFL_NVME] = 0;
        for (uint32_t i = 0; i < p->tensors_count; i++)
            if (!p->tensors[i].source)
                place->items[i].home_tiles =
                    (uint32_t)((p->tensors[i].bytes + place->items[i].tile_bytes - 1) /
                               place->items[i].tile_bytes);
    } else if (need) {
        place->home = OFL_NVME;
        if (nvme < need) {
            uint64_t beside = less(need, nvme);

            room = less(host, moving_bytes(place, nvme > 0));
            share_out(p, place, less(beside, room), beside < room ? beside : room);
        }
    } else {
        place->home = OFL_NVME; /* the files' drive */
    }
}

static bool updates_on_host(const struct plan_program *p, const struct plan_place *place)
{
    for (uint32_t i = 0; i < p->ops_count; i++)
        if (p->ops[i].type == PLAN_UPDATE)
            return place->home != OFL_DEVICE;
    return false;
}

/* What of device and host passes by, and what is there for tensors that rest. */
static void make_room(const struct plan_program *p, struct plan_place *place)
{
    struct sched_room *r = &place->room;
    uint64_t homes_device = 0, homes_host = 0;

    for (uint32_t i = 0; i < p->tensors_count; i++) {
        const struct sched_item *x = &place->items[i];

        homes_device += x->device_home ? x->device_bytes : 0;
        homes_host +=
            x->home_tiles * x->tile_bytes < x->bytes ? x->home_tiles * x->tile_bytes : in_blocks(x->bytes);
    }
    r->device_bytes = less(place->budget_bytes[OFL_DEVICE], p->held_bytes + homes_device);
    r->host_bytes = less(place->budget_bytes[OFL_HOST], homes_host);
    sched_room_windows(r, place->items, p->tensors_count, place->tile_bytes, updates_on_host(p, place));
}

/* ---- what does not fit ------------------------------------------------------------ */

static void check_device(const struct plan_program *p, const struct plan_place *place, struct plan_missing *m)
{
    if (place->budget_bytes[OFL_DEVICE] >= p->least_bytes)
        return;
    snprintf(m->text, sizeof m->text,
             "device memory of %" PRIu64 " bytes: %s needs %" PRIu64 " bytes at once, %" PRIu64
             " of them scratch and caches, the largest tensor is %s with %" PRIu64 " bytes",
             place->budget_bytes[OFL_DEVICE], p->least_part, p->least_bytes, p->held_bytes, p->least_tensor,
             p->least_tensor_bytes);
}

/* All tiers together hold what has no file of its own. Gradients and states are never on the device. */
static void check_rooms(const struct plan_program *p, const struct plan_place *place, struct plan_missing *m)
{
    bool store = place->budget_bytes[OFL_NVME] > 0;
    uint64_t need = place->tensor_bytes, nvme = place->budget_bytes[OFL_NVME], movable = 0;
    struct plan_place wide = {.tile_bytes = TILE_MAX_BYTES}; /* with more memory tiles are larger */
    uint64_t moving = moving_bytes(place, store), cut = store && nvme < need ? place->tile_bytes : 0;
    uint64_t host = less(place->budget_bytes[OFL_HOST], moving), device = device_room(p, place);

    for (uint32_t i = 0; i < p->tensors_count; i++)
        movable +=
            may_live_on_device(&p->tensors[i]) && !p->tensors[i].source ? in_blocks(p->tensors[i].bytes) : 0;
    device = device < movable ? device : movable;
    if (store && p->tensors_count && device < movable)
        device = less(device, p->least_tensor_bytes); /* whole tensors: the last one may not go in */
    m->least_bytes[OFL_HOST] =
        larger(less(need + (cut ? TILE_MAX_BYTES : 0) + moving_bytes(&wide, store), nvme + device),
               OFL_HOST_MIN_BYTES);
    m->least_bytes[OFL_NVME] = less(need + cut, host + device);
    if (nvme + host + device >= need + cut || place->home != OFL_NVME || m->text[0])
        return;
    snprintf(m->text, sizeof m->text,
             "all tensors take %" PRIu64 " bytes, and there is room for %" PRIu64 " on the drives, %" PRIu64
             " in host memory (%" PRIu64 " are kept for moves) and %" PRIu64 " on the device: %" PRIu64
             " bytes more on drives, or in host memory, would do",
             need, nvme, host, moving, device, need + cut - nvme - host - device);
}

int plan_place_make(const struct plan_program *p, const uint64_t budgets[OFL_TIERS], bool must_store,
                    struct plan_place *out, struct plan_missing *missing)
{
    int err;

    *out = (struct plan_place){.tile_bytes = tile_bytes(budgets[OFL_HOST])};
    *missing = (struct plan_missing){.least_bytes = {p->least_bytes, OFL_HOST_MIN_BYTES, 0}};
    memcpy(out->budget_bytes, budgets, sizeof out->budget_bytes);
    err = make_items(p, out);
    if (err == 0) {
        settle(p, out, must_store);
        check_device(p, out, missing);
        if (out->home != OFL_DEVICE)
            check_rooms(p, out, missing);
        if (budgets[OFL_HOST] < OFL_HOST_MIN_BYTES && !missing->text[0])
            snprintf(missing->text, sizeof missing->text,
                     "host memory of %" PRIu64 " bytes: at least %u are needed", budgets[OFL_HOST],
                     OFL_HOST_MIN_BYTES);
        make_room(p, out);
        err = make_uses(p, out);
    }
    if (err < 0)
        plan_place_free(out);
    return err;
}

void plan_place_free(struct plan_place *place)
{
    free(place->items);
    free(place->uses);
    free(place->phases);
    *place = (struct plan_place){0};
}
