/* world_drive: drives, as the I/O queue uses them. See world.h. */
#include "liboffload/core/tile.h"
#include "liboffload/plan/world_impl.h"

/* The I/O queue's own. */
#define INFLIGHT_DEFAULT (64ull << 20)
#define WINDOW_DEFAULT   (8ull << 20)
#define STRIPE_BYTES     IO_STRIPE_BYTES

static void open_one(struct world_drive *d, const struct plan_drive *rates)
{
    d->rates = *rates;
    if (!d->rates.inflight_bytes)
        d->rates.inflight_bytes = INFLIGHT_DEFAULT;
    if (!d->rates.window_bytes)
        d->rates.window_bytes = WINDOW_DEFAULT;
    pipe_open(&d->way[IO_READ], rates->read_bytes_s);
    pipe_open(&d->way[IO_WRITE], rates->write_bytes_s);
    pipe_couple(&d->way[IO_READ], &d->way[IO_WRITE], rates->mixed_bytes_s);
    for (int c = 0; c < IO_CLASSES; c++)
        d->waiting[c].tail = &d->waiting[c].head;
}

/* As the I/O queue: demands first; of the others a window's worth at once. */
static void drive_start(struct world *w, struct world_drive *d)
{
    for (int c = 0; c < IO_CLASSES; c++)
        while (d->waiting[c].head) {
            struct world_part *part = d->waiting[c].head;

            if (d->inflight_bytes && d->inflight_bytes + part->bytes > d->rates.inflight_bytes)
                return;
            if (c != IO_DEMAND && d->background_bytes >= d->rates.window_bytes)
                return;
            d->waiting[c].head = part->next;
            if (!part->next)
                d->waiting[c].tail = &d->waiting[c].head;
            d->inflight_bytes += part->bytes;
            d->background_bytes += c != IO_DEMAND ? part->bytes : 0;
            world_put(w, &d->way[part->op->io.op], part, part->bytes, d->rates.latency_ns);
        }
}

static void drive_put(struct world *w, uint32_t drive, struct world_part *whole, struct core_op *op,
                      uint64_t bytes)
{
    struct world_drive *d = &w->drives[drive];
    struct world_part *part = world_part_get(w);

    if (!part)
        return;
    part->op = op;
    part->drive = drive;
    part->whole = whole;
    part->bytes = bytes;
    part->next = NULL;
    whole->parts++;
    *d->waiting[op->io.class].tail = part;
    d->waiting[op->io.class].tail = &part->next;
    drive_start(w, d);
}

/* Pieces are dealt out to all drives: a store's by the library, a source's by its file system. */
static void spread(struct world *w, struct world_part *whole, struct core_op *op)
{
    uint64_t bytes[PLAN_DRIVES] = {0}, at = op->io.offset, end = at + op->io.bytes;

    if (w->rates.drives_count == 1) {
        drive_put(w, 0, whole, op, op->io.bytes);
        return;
    }
    while (at < end) {
        uint64_t next = (at / STRIPE_BYTES + 1) * STRIPE_BYTES;

        if (next > end)
            next = end;
        bytes[w->drive_of[at / STRIPE_BYTES % sizeof w->drive_of]] += next - at;
        at = next;
    }
    for (uint32_t i = 0; i < w->rates.drives_count; i++)
        if (bytes[i])
            drive_put(w, i, whole, op, bytes[i]);
}

void world_io(void *arg, struct core_op *op)
{
    struct world *w = arg;
    bool read = op->io.op == IO_READ;
    struct plan_record r = world_of_op(w, op, read ? PLAN_RECORD_READ : PLAN_RECORD_WRITE);
    struct world_part *whole = world_part_get(w);
    uint64_t skew = (uint64_t)((uint8_t *)tile_ptr(&w->pager, op->tensor, op->tile) - (uint8_t *)op->io.buf);

    r.from = read ? op->io.offset + skew : world_host_off(w, op->io.buf);
    r.to = read ? world_host_off(w, op->io.buf) + skew : op->io.offset;
    r.bytes = tile_count_bytes(op->tensor, op->tile);
    world_record(w, r);
    if (!whole)
        return;
    r.type++;
    whole->record = r;
    spread(w, whole, op);
}

void world_drive_out(struct world *w, struct world_part *part)
{
    struct world_drive *d = &w->drives[part->drive];
    struct world_part *whole = part->whole;
    struct core_op *op = part->op;

    d->inflight_bytes -= part->bytes;
    d->background_bytes -= op->io.class != IO_DEMAND ? part->bytes : 0;
    world_part_put(w, part);
    if (--whole->parts == 0) {
        world_record(w, whole->record);
        world_part_put(w, whole);
        op->io.done_bytes = op->io.bytes;
        pager_done(&w->pager, op);
    }
    drive_start(w, d);
}

/* In turns, each as often as it is fast; as the store, which writes as much as it reads. */
static void deal(struct world *w)
{
    double credit[PLAN_DRIVES] = {0}, weight[PLAN_DRIVES], all = 0;

    for (uint32_t i = 0; i < w->rates.drives_count; i++) {
        const struct plan_drive *d = &w->rates.drives[i];

        weight[i] = 1 / (1 / d->read_bytes_s + 1 / d->write_bytes_s);
        all += weight[i];
    }
    for (size_t k = 0; k < sizeof w->drive_of; k++) {
        uint32_t best = 0;

        for (uint32_t i = 0; i < w->rates.drives_count; i++) {
            credit[i] += weight[i] / all;
            if (credit[i] > credit[best])
                best = i;
        }
        credit[best]--;
        w->drive_of[k] = (uint8_t)best;
    }
}

void world_drives_open(struct world *w)
{
    for (uint32_t i = 0; i < w->rates.drives_count; i++)
        open_one(&w->drives[i], &w->rates.drives[i]);
    if (w->rates.drives_count)
        deal(w);
}
