/* world: see world.h. Virtual time, the link, drives, workers and the log; streams are in world_stream.c. */
#include "liboffload/plan/world.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/tile.h"
#include "liboffload/plan/world_impl.h"

/* The I/O queue's own. */
#define INFLIGHT_DEFAULT (64ull << 20)
#define WINDOW_DEFAULT   (8ull << 20)
#define STRIPE_BYTES     IO_STRIPE_BYTES
/* A pump that goes on for longer is one that runs in circles. */
#define PUMPS_MAX 10000u

/* ---- the log ----------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

void world_record(struct world *w, struct plan_record r)
{
    r.time_ns = w->now;
    w->records++;
    w->hash = mix(mix(w->hash, r.time_ns), (uint64_t)r.type << 32 | r.stream);
    w->hash = mix(mix(w->hash, (uint64_t)r.tensor << 32 | r.tile), r.from);
    w->hash = mix(mix(mix(w->hash, r.to), r.bytes), r.value);
    if (w->record)
        w->record(w->record_arg, &r);
}

static uint64_t host_off(const struct world *w, const void *ptr)
{
    return (uint64_t)((const uint8_t *)ptr - w->pager.host);
}

static uint64_t device_off(const struct world *w, const void *ptr)
{
    return (uint64_t)((const uint8_t *)ptr - w->pager.device);
}

static struct plan_record of_op(const struct world *w, const struct core_op *op, uint32_t type)
{
    return (struct plan_record){.type = type, .tensor = w->number_of[op->tensor->id], .tile = op->tile};
}

/* ---- time -------------------------------------------------------------- */

void world_post(struct world *w, uint64_t time, enum world_event type, void *what, uint32_t index)
{
    if (base_events_full(&w->events)) {
        uint32_t room = w->events.room ? 2 * w->events.room : 256;
        struct base_event *more = realloc(w->events.heap, room * sizeof *more);

        if (!more) {
            w->out_of_memory = true; /* the run ends here */
            return;
        }
        w->events.heap = more;
        w->events.room = room;
    }
    base_events_post(&w->events,
                     (struct base_event){.time = time, .what = what, .type = type, .index = index});
}

static double times(struct world *w)
{
    uint64_t z;

    if (w->jitter <= 0)
        return 1;
    z = w->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return 1 + w->jitter * (double)(z >> 11) / 9007199254740992.0;
}

uint64_t world_ns(struct world *w, double ns)
{
    return (uint64_t)ceil(ns * times(w));
}

void *world_take(struct world *w, size_t bytes)
{
    void *got = calloc(1, bytes);

    if (!got)
        w->out_of_memory = true;
    return got;
}

/* ---- pipes ------------------------------------------------------------- */

static void follow_one(struct world *w, struct pipe *p)
{
    if (p->turn == p->posted || !p->head)
        return;
    p->posted = p->turn;
    world_post(w, pipe_next_ns(p, w->now), WORLD_PIPE, p, p->turn);
}

static void follow(struct world *w, struct pipe *p)
{
    follow_one(w, p);
    if (p->other)
        follow_one(w, p->other);
}

static struct world_part *part_get(struct world *w)
{
    struct world_part *p = w->free_parts;

    if (p) {
        w->free_parts = p->next;
        memset(p, 0, sizeof *p);
        return p;
    }
    return world_take(w, sizeof *p);
}

static void part_put(struct world *w, struct world_part *p)
{
    p->next = w->free_parts;
    w->free_parts = p;
}

static void put(struct world *w, struct pipe *p, struct world_part *part, uint64_t bytes, uint64_t latency_ns)
{
    part->item.what = part;
    pipe_put(p, &part->item, bytes, times(w), w->now + latency_ns);
    follow(w, p);
}

/* ---- the link ---------------------------------------------------------- */

static void link_put(struct world *w, int way, uint64_t bytes, uint64_t latency_ns, struct core_op *op,
                     struct plan_record r)
{
    struct world_part *part = part_get(w);

    world_record(w, r);
    if (!part)
        return;
    r.type++;
    part->record = r;
    part->op = op;
    put(w, &w->link[way], part, bytes, latency_ns);
}

static void env_copy_in(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = of_op(w, op, PLAN_RECORD_IN);

    r.from = host_off(w, src);
    r.to = device_off(w, dst);
    r.bytes = bytes;
    link_put(w, 0, bytes, w->rates.link_latency_ns, op, r);
}

static void env_copy_out(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = of_op(w, op, PLAN_RECORD_OUT);

    r.from = device_off(w, src);
    r.to = host_off(w, dst);
    r.bytes = bytes;
    link_put(w, 1, bytes, w->rates.link_latency_ns, op, r);
}

/* Device memory alone, in the order of the copies in. */
static void env_fill(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = of_op(w, op, PLAN_RECORD_FILL);

    (void)byte;
    r.to = device_off(w, dst);
    r.bytes = bytes;
    link_put(w, 0, 0, world_ns(w, 1e9 * (double)bytes / w->rates.device_bytes_s), op, r);
}

static void link_out(struct world *w, struct world_part *part)
{
    struct core_op *op = part->op;

    world_record(w, part->record);
    if (part->record.type == PLAN_RECORD_IN_END)
        world_stream_late(w, part->record.to, part->record.bytes);
    part_put(w, part);
    op->code = 0;
    pager_done(&w->pager, op);
}

/* ---- drives ------------------------------------------------------------ */

static void drive_open(struct world_drive *d, const struct plan_drive *rates)
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
            put(w, &d->way[part->op->io.op], part, part->bytes, d->rates.latency_ns);
        }
}

static void drive_put(struct world *w, uint32_t drive, struct world_part *whole, struct core_op *op,
                      uint64_t bytes)
{
    struct world_drive *d = &w->drives[drive];
    struct world_part *part = part_get(w);

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

/* Sources lie on the first drive; the store's pieces are dealt out to all. */
static void spread(struct world *w, struct world_part *whole, struct core_op *op)
{
    uint64_t bytes[PLAN_DRIVES] = {0}, at = op->io.offset, end = at + op->io.bytes;

    if (op->tensor->source || w->rates.drives_count == 1) {
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

static void env_io(void *arg, struct core_op *op)
{
    struct world *w = arg;
    bool read = op->io.op == IO_READ;
    struct plan_record r = of_op(w, op, read ? PLAN_RECORD_READ : PLAN_RECORD_WRITE);
    struct world_part *whole = part_get(w);
    uint64_t skew = (uint64_t)((uint8_t *)tile_ptr(&w->pager, op->tensor, op->tile) - (uint8_t *)op->io.buf);

    r.from = read ? op->io.offset + skew : host_off(w, op->io.buf);
    r.to = read ? host_off(w, op->io.buf) + skew : op->io.offset;
    r.bytes = tile_count_bytes(op->tensor, op->tile);
    world_record(w, r);
    if (!whole)
        return;
    r.type++;
    whole->record = r;
    spread(w, whole, op);
}

static void drive_out(struct world *w, struct world_part *part)
{
    struct world_drive *d = &w->drives[part->drive];
    struct world_part *whole = part->whole;
    struct core_op *op = part->op;

    d->inflight_bytes -= part->bytes;
    d->background_bytes -= op->io.class != IO_DEMAND ? part->bytes : 0;
    part_put(w, part);
    if (--whole->parts == 0) {
        world_record(w, whole->record);
        part_put(w, whole);
        op->io.done_bytes = op->io.bytes;
        pager_done(&w->pager, op);
    }
    drive_start(w, d);
}

/* In turns, each as often as it is fast; as the store, which writes as much as it reads. */
static void deal_drives(struct world *w)
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

uint64_t world_drive_busy_ns(const struct world *w)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < w->rates.drives_count; i++) {
        const struct pipe *way = w->drives[i].way;

        /* Of a shared drive both count, of one that duplexes only what does not overlap. */
        double both = way[0].both > 0.5 ? 2 - 2 * way[0].both : 1;
        uint64_t longer = way[0].busy_ns > way[1].busy_ns ? way[0].busy_ns : way[1].busy_ns;
        uint64_t sum = way[0].busy_ns + way[1].busy_ns;

        sum = longer + (uint64_t)((double)(sum - longer) * both);
        if (sum > most)
            most = sum;
    }
    return most;
}

/* ---- workers ----------------------------------------------------------- */

static void job_put(struct world *w, int kind, struct core_op *op, struct core_request *r, uint64_t ns)
{
    struct world_job *j = w->free_jobs;

    if (j)
        w->free_jobs = j->next;
    else if (!(j = world_take(w, sizeof *j)))
        return;
    *j = (struct world_job){.op = op, .request = r, .ns = ns};
    *w->jobs_tail[kind] = j;
    w->jobs_tail[kind] = &j->next;
}

static void jobs_start(struct world *w)
{
    for (int kind = 0; kind < 2; kind++)
        while (w->workers_idle && w->jobs[kind]) {
            struct world_job *j = w->jobs[kind];

            w->jobs[kind] = j->next;
            if (!j->next)
                w->jobs_tail[kind] = &w->jobs[kind];
            w->workers_idle--;
            w->workers_busy_ns += j->ns;
            if (j->request)
                world_record_work(w, j->request, PLAN_RECORD_WORK);
            world_post(w, w->now + j->ns, WORLD_JOB, j, 0);
        }
}

static double worker_ns(const struct world *w, uint64_t bytes, double bytes_s)
{
    return 1e9 * (double)bytes * w->rates.workers / bytes_s;
}

static struct plan_record of_seal(const struct world *w, const struct core_op *op, uint32_t type)
{
    struct plan_record r = of_op(w, op, type);

    r.from = host_off(w, op->seal_bytes);
    r.bytes = op->seal_count;
    return r;
}

static void env_seal(void *arg, struct core_op *op)
{
    struct world *w = arg;

    world_record(w, of_seal(w, op, PLAN_RECORD_SEAL));
    job_put(w, 0, op, NULL, world_ns(w, worker_ns(w, op->seal_count, w->rates.seal_bytes_s)));
    jobs_start(w);
}

uint32_t world_access(enum core_access access)
{
    switch (access) {
    case HOST_READ:
        return PLAN_RECORD_READS;
    case HOST_UPDATE:
        return PLAN_RECORD_READS | PLAN_RECORD_WRITES;
    case HOST_OVERWRITE:
        return PLAN_RECORD_WRITES;
    case HOST_CONSUME:
        return PLAN_RECORD_READS | PLAN_RECORD_DROP;
    }
    return 0;
}

void world_record_work(struct world *w, const struct core_request *r, uint32_t type)
{
    for (uint32_t i = 0; i < r->count; i++) {
        const struct core_tileref *ref = &r->refs[i];

        world_record(w, (struct plan_record){.type = type,
                                             .tensor = w->number_of[ref->tensor->id],
                                             .tile = ref->tile,
                                             .from = *(uint64_t *)r->update->arg,
                                             .to = ref->ptr ? host_off(w, ref->ptr) : 0,
                                             .bytes = ref->ptr ? tile_count_bytes(ref->tensor, ref->tile) : 0,
                                             .value = world_access(ref->access) |
                                                      (ref->fresh ? PLAN_RECORD_FRESH : 0)});
    }
}

static void env_work(void *arg, struct core_request *r)
{
    struct world *w = arg;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < r->count; i++)
        bytes += tile_count_bytes(r->refs[i].tensor, r->refs[i].tile);
    job_put(w, 1, NULL, r, world_ns(w, worker_ns(w, bytes, w->rates.update_bytes_s)));
    jobs_start(w);
}

static void job_over(struct world *w, struct world_job *j)
{
    struct core_request *r = j->request;
    struct core_op *op = j->op;

    j->next = w->free_jobs;
    w->free_jobs = j;
    w->workers_idle++;
    if (r) {
        world_record_work(w, r, PLAN_RECORD_WORK_END);
        pager_request_end(&w->pager, r);
    } else {
        world_record(w, of_seal(w, op, PLAN_RECORD_SEAL_END));
        op->seal = 1; /* nobody has the bytes: what was written is what comes back */
        pager_done(&w->pager, op);
    }
    jobs_start(w);
}

/* ---- the pager's turn -------------------------------------------------- */

static const char *env_why(void *arg, int code)
{
    (void)arg;
    return base_strerror(code);
}

static void env_log(void *arg, enum ofl_log_level level, const char *text)
{
    (void)arg;
    (void)level;
    (void)text;
}

void world_pump(struct world *w)
{
    uint32_t rounds = 0;

    w->due = false;
    while (pager_pump(&w->pager) && rounds++ < PUMPS_MAX && !w->pager.hungry)
        ;
    if (w->pager.hungry)
        w->out_of_memory = true;
}

static void event(struct world *w, struct base_event e)
{
    struct pipe *p = e.what;
    struct pipe_item *item;

    switch ((enum world_event)e.type) {
    case WORLD_PIPE:
        if (p->turn != e.index)
            return;
        item = pipe_advance(p, w->now);
        follow(w, p);
        if (item && (p == &w->link[0] || p == &w->link[1]))
            link_out(w, item->what);
        else if (item)
            drive_out(w, item->what);
        break;
    case WORLD_JOB:
        job_over(w, e.what);
        break;
    case WORLD_KERNEL:
        world_kernel_over(w, e.index);
        break;
    case WORLD_MARK:
        pager_done(&w->pager, e.what);
        break;
    }
    w->due = true;
}

bool world_step(struct world *w)
{
    bool any = false;

    if (w->due)
        world_pump(w);
    if (!w->events.count)
        return false;
    w->now = w->events.heap[0].time;
    while (w->events.count && w->events.heap[0].time == w->now) {
        event(w, base_events_take(&w->events));
        any = true;
    }
    if (w->due)
        world_pump(w);
    return any;
}

/* ---- life -------------------------------------------------------------- */

void world_open(struct world *w)
{
    pipe_open(&w->link[0], w->rates.link_in_bytes_s);
    pipe_open(&w->link[1], w->rates.link_out_bytes_s);
    for (uint32_t i = 0; i < w->rates.drives_count; i++)
        drive_open(&w->drives[i], &w->rates.drives[i]);
    if (w->rates.drives_count)
        deal_drives(w);
    w->workers_idle = w->rates.workers;
    w->jobs_tail[0] = &w->jobs[0];
    w->jobs_tail[1] = &w->jobs[1];
    for (uint32_t i = 0; i < WORLD_STREAMS; i++) {
        w->streams[i].id = i + 1;
        w->streams[i].tail = &w->streams[i].head;
    }
    w->pager.env = (struct core_env){.arg = w,
                                     .io = env_io,
                                     .seal = env_seal,
                                     .copy_in = env_copy_in,
                                     .copy_out = env_copy_out,
                                     .fill = env_fill,
                                     .work = env_work,
                                     .gate_create = world_gate_create,
                                     .gate_open = world_gate_open,
                                     .why = env_why,
                                     .log = env_log};
}

static void parts_free(struct world_part *p)
{
    while (p) {
        struct world_part *next = p->next;

        free(p);
        p = next;
    }
}

static void jobs_free(struct world_job *j)
{
    while (j) {
        struct world_job *next = j->next;

        free(j);
        j = next;
    }
}

void world_close(struct world *w)
{
    world_streams_close(w);
    parts_free(w->free_parts);
    jobs_free(w->free_jobs);
    jobs_free(w->jobs[0]);
    jobs_free(w->jobs[1]);
    free(w->events.heap);
}
