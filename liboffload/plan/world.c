/* world: see world.h. Virtual time, the link, drives, workers and the log; streams are in world_stream.c. */
#include "liboffload/plan/world.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "liboffload/core/tile.h"
#include "liboffload/plan/world_impl.h"

/* A pump that goes on for longer is one that runs in circles. */
#define PUMPS_MAX 1000u

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

uint64_t world_host_off(const struct world *w, const void *ptr)
{
    return (uint64_t)((const uint8_t *)ptr - w->pager.host);
}

static uint64_t device_off(const struct world *w, const void *ptr)
{
    return (uint64_t)((const uint8_t *)ptr - w->pager.device);
}

struct plan_record world_of_op(const struct world *w, const struct core_op *op, uint32_t type)
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

struct world_part *world_part_get(struct world *w)
{
    struct world_part *p = w->free_parts;

    if (p) {
        w->free_parts = p->next;
        memset(p, 0, sizeof *p);
        return p;
    }
    return world_take(w, sizeof *p);
}

void world_part_put(struct world *w, struct world_part *p)
{
    p->next = w->free_parts;
    w->free_parts = p;
}

void world_put(struct world *w, struct pipe *p, struct world_part *part, uint64_t bytes, uint64_t latency_ns)
{
    part->item.what = part;
    pipe_put(p, &part->item, bytes, times(w), w->now + latency_ns);
    follow(w, p);
}

/* ---- the link ---------------------------------------------------------- */

static void link_put(struct world *w, int way, uint64_t bytes, uint64_t latency_ns, struct core_op *op,
                     struct plan_record r)
{
    struct world_part *part = world_part_get(w);

    world_record(w, r);
    if (!part)
        return;
    r.type++;
    part->record = r;
    part->op = op;
    world_put(w, &w->link[way], part, bytes, latency_ns);
}

static void env_copy_in(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = world_of_op(w, op, PLAN_RECORD_IN);

    r.from = world_host_off(w, src);
    r.to = device_off(w, dst);
    r.bytes = bytes;
    link_put(w, 0, bytes, w->rates.link_latency_ns, op, r);
}

static void env_copy_out(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = world_of_op(w, op, PLAN_RECORD_OUT);

    r.from = device_off(w, src);
    r.to = world_host_off(w, dst);
    r.bytes = bytes;
    link_put(w, 1, bytes, w->rates.link_latency_ns, op, r);
}

/* Device memory alone, in the order of the copies in. */
static void env_fill(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op)
{
    struct world *w = arg;
    struct plan_record r = world_of_op(w, op, PLAN_RECORD_FILL);

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
    world_part_put(w, part);
    op->code = 0;
    pager_done(&w->pager, op);
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
    struct plan_record r = world_of_op(w, op, type);

    r.from = world_host_off(w, op->seal_bytes);
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
                                             .to = ref->ptr ? world_host_off(w, ref->ptr) : 0,
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
        bytes += tile_count_bytes(r->refs[i].tensor, r->refs[i].tile) *
                 (r->refs[i].access == HOST_UPDATE ? 2 : 1); /* read and written */
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
    while (pager_pump(&w->pager) && !w->pager.hungry && !w->circles)
        w->circles = ++rounds == PUMPS_MAX;
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
            world_drive_out(w, item->what);
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
    case WORLD_CALL:
        w->called(&w->pager, e.what);
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
    if (w->rates.link_both_bytes_s > 0)
        pipe_couple(&w->link[0], &w->link[1], w->rates.link_both_bytes_s);
    world_drives_open(w);
    w->workers_idle = w->rates.workers;
    w->jobs_tail[0] = &w->jobs[0];
    w->jobs_tail[1] = &w->jobs[1];
    for (uint32_t i = 0; i < WORLD_STREAMS; i++) {
        w->streams[i].id = i + 1;
        w->streams[i].tail = &w->streams[i].head;
    }
    w->pager.env = (struct core_env){.arg = w,
                                     .io = world_io,
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
