/* world: virtual time, the drive, the link, the workers, and the engine's turn. See sim.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

/* More than any program needs that does not run in circles. */
#define EVENTS_MAX 400000u
#define PUMPS_MAX  2000u

enum { PHASE_FIRST_HALF, PHASE_SECOND_HALF, PHASE_DONE, PHASE_LATE };

enum { FAULT_NONE, FAULT_ERROR, FAULT_BAD, FAULT_BAD_FOR_GOOD, FAULT_LATE };

#define LATE_DELAY 5000u
#define TICK_DELAY 50u

uint64_t sim_next(struct sim_random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t sim_below(struct sim_random *r, uint32_t n)
{
    return n ? (uint32_t)((sim_next(r) >> 32) * n >> 32) : 0;
}

/* Mostly short; now and then the whole of it. */
uint32_t sim_delay(struct sim *s, uint32_t most)
{
    uint32_t kind = sim_below(&s->random, 8);

    if (kind < 3)
        return sim_below(&s->random, 1 + most / 16);
    return sim_below(&s->random, 1 + (kind < 7 ? most / 2 : most));
}

bool sim_chance(struct sim *s, uint32_t per_1000)
{
    return per_1000 && !s->no_more_faults && sim_below(&s->random, 1000) < per_1000;
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
    va_list ap;
    int used;

    if (s->result->failed)
        return;
    s->result->failed = true;
    s->result->kind = fmt;
    used =
        snprintf(s->result->what, SIM_TEXT, "statement %u, time %llu: ", s->stmt, (unsigned long long)s->now);
    va_start(ap, fmt);
    vsnprintf(s->result->what + used, SIM_TEXT - (size_t)used, fmt, ap);
    va_end(ap);
}

bool sim_failed(const struct sim *s)
{
    return s->result->failed;
}

void sim_enter(struct sim *s)
{
    s->allocs_failed = sim_alloc_failures();
    sim_alloc_arm(!s->no_more_faults);
}

void sim_leave(struct sim *s)
{
    sim_alloc_arm(false);
    if (s->pager.broken.code && !s->may_break && s->pager.broken.code != -ECANCELED && !sim_alloc_failures())
        sim_fail(s, "the context broke without a cause: %s", s->pager.broken.text);
}

/* ---- events ------------------------------------------------------------ */

void sim_post(struct sim *s, uint64_t delay, enum sim_event_type type, void *what, uint32_t index)
{
    struct base_events *e = &s->events;

    if (base_events_full(e)) {
        struct base_event *old = e->heap;

        e->room = e->room ? 2 * e->room : 256;
        e->heap = sim_take(e->room * sizeof *e->heap);
        if (old)
            memcpy(e->heap, old, e->count * sizeof *e->heap);
        free(old);
    }
    base_events_post(e,
                     (struct base_event){.time = s->now + delay, .what = what, .type = type, .index = index});
}

struct sim_move *sim_move_get(struct sim *s)
{
    struct sim_move *m = s->free_moves;

    if (m)
        s->free_moves = m->next;
    else
        m = sim_take(sizeof *m);
    memset(m, 0, sizeof *m);
    return m;
}

void sim_move_put(struct sim *s, struct sim_move *m)
{
    m->next = s->free_moves;
    s->free_moves = m;
}

/* ---- the drive --------------------------------------------------------- */

static void drive_copy(struct sim_move *m, int half)
{
    struct io_request *io = &m->op->io;
    uint64_t from = half ? io->bytes / 2 : 0, to = half ? io->bytes : io->bytes / 2;
    uint8_t *file = io->file->bytes + io->offset, *buf = io->buf;

    if (io->op == IO_READ)
        memcpy(buf + from, file + from, to - from);
    else
        memcpy(file + from, buf + from, to - from);
}

static void env_io(void *arg, struct core_op *op)
{
    struct sim *s = arg;
    struct sim_move *m = sim_move_get(s);
    const struct sim_config *c = &s->prog->config;
    bool read = op->io.op == IO_READ;

    m->op = op;
    if (op->io.offset + op->io.bytes > op->io.file->size)
        sim_fail(s, "I/O of %s beyond the file: offset %llu, %llu bytes", op->tensor->name,
                 (unsigned long long)op->io.offset, (unsigned long long)op->io.bytes);
    if (sim_chance(s, read ? c->read_error : c->write_error))
        m->fault = FAULT_ERROR;
    else if (read && op->tensor->tiles[op->tile].sealed && sim_chance(s, c->read_bad))
        m->fault = FAULT_BAD + sim_below(&s->random, 2);
    m->at[0] = sim_delay(s, c->drive);
    m->at[1] = m->at[0] + sim_delay(s, c->drive);
    m->at[2] = m->at[1] + sim_delay(s, c->drive);
    if (sim_failed(s))
        return;
    if (sim_chance(s, c->late)) {
        m->fault = FAULT_LATE;
        sim_post(s, m->at[2], EVENT_IO, m, PHASE_LATE);
        m->at[0] = 0;
        m->at[1] = sim_delay(s, LATE_DELAY);
        m->at[2] = m->at[1] + sim_delay(s, LATE_DELAY);
        return;
    }
    sim_post(s, m->at[0], EVENT_IO, m, PHASE_FIRST_HALF);
}

/* A byte that somebody looks at comes back changed; in the file, too, if it is for good. */
static void spoil_byte(struct sim *s, struct sim_move *m, struct sim_tensor *x)
{
    const struct core_op *op = m->op;
    uint32_t slot = op->tile * SIM_SLOTS + sim_below(&s->random, SIM_SLOTS);
    uint8_t *ptr = tile_ptr(&s->pager, op->tensor, op->tile);
    uint32_t at = sim_slot_offset(x, slot) - op->tile * x->tile_bytes;

    ptr[at] ^= 0x10;
    if (m->fault == FAULT_BAD_FOR_GOOD)
        x->spoilt = true;
    for (int i = 0; i < SIM_TENSORS && m->fault == FAULT_BAD_FOR_GOOD; i++) {
        s->whole[i].spoilt |= s->whole[i].uid == x->uid;
        s->taken[i].spoilt |= s->taken[i].uid == x->uid;
    }
    if (m->fault == FAULT_BAD_FOR_GOOD)
        op->io.file->bytes[op->io.offset + (uint64_t)(ptr - (uint8_t *)op->io.buf) + at] ^= 0x10;
}

static void drive_fault(struct sim *s, struct sim_move *m)
{
    struct core_op *op = m->op;
    struct sim_tensor *x = sim_find(s, op->tensor);
    bool read = op->io.op == IO_READ;

    if (m->fault == FAULT_NONE)
        return;
    if (m->fault == FAULT_LATE)
        base_error_set(&op->io.error, -OFL_EDEADLINE, "simulated: %s", base_strerror(-OFL_EDEADLINE));
    else if (m->fault == FAULT_ERROR)
        base_error_set(&op->io.error, -EIO, "simulated: %s", base_strerror(-EIO));
    else if (x)
        spoil_byte(s, m, x);
    if (read && x)
        sim_hurt(x);
    if (!read || (x && x->updates))
        s->may_break = true;
}

static void io_event(struct sim *s, struct sim_move *m, uint32_t phase)
{
    struct core_op *op = m->op;
    bool lost;

    if (phase == PHASE_LATE) {
        drive_fault(s, m);
        sim_enter(s);
        pager_late(&s->pager, op);
        sim_leave(s);
        s->due = true;
        sim_post(s, sim_delay(s, LATE_DELAY), EVENT_IO, m, PHASE_FIRST_HALF);
        return;
    }
    if (phase < PHASE_DONE) {
        if (!(m->fault == FAULT_ERROR && phase))
            drive_copy(m, (int)phase);
        sim_post(s, m->at[phase + 1] - m->at[phase], EVENT_IO, m, phase + 1);
        return;
    }
    drive_fault(s, m);
    op->io.done_bytes = op->io.error.code ? 0 : op->io.bytes;
    sim_move_put(s, m);
    lost = op->io.op == IO_WRITE && op->io.error.code;
    sim_enter(s);
    pager_done(&s->pager, op);
    sim_leave(s);
    if (lost && !s->pager.broken.code)
        sim_fail(s, "a write-back is lost, and the context does not say so");
    s->due = true;
}

/* A worker seals what is there at a moment of its own. */
static void env_seal(void *arg, struct core_op *op)
{
    struct sim *s = arg;

    sim_post(s, sim_delay(s, s->prog->config.work), EVENT_SEAL, op, 0);
}

static void env_zero(void *arg, void *bytes, uint64_t count, struct core_op *op)
{
    struct sim *s = arg;
    struct sim_move *m = sim_move_get(s);

    *m = (struct sim_move){.to = bytes, .bytes = count, .op = op};
    sim_post(s, sim_delay(s, s->prog->config.work), EVENT_ZERO, m, 0);
}

static void zero_event(struct sim *s, struct sim_move *m)
{
    memset(m->to, 0, m->bytes);
    sim_post(s, sim_delay(s, s->prog->config.post), EVENT_DONE, m->op, 0);
    sim_move_put(s, m);
}

static void seal_event(struct sim *s, struct core_op *op)
{
    op->seal = store_seal(op->seal_bytes, op->seal_count);
    sim_post(s, sim_delay(s, s->prog->config.post), EVENT_DONE, op, 0);
}

/* ---- the link ---------------------------------------------------------- */

static void link_start(struct sim *s, int way)
{
    sim_post(s, sim_delay(s, s->prog->config.link), EVENT_LINK, s->link[way], (uint32_t)way);
}

void sim_link(struct sim *s, int way, void *to, const void *from, uint8_t byte, uint64_t bytes,
              struct core_op *op)
{
    struct sim_move *m = sim_move_get(s);

    m->to = to;
    m->from = from;
    m->byte = byte;
    m->bytes = bytes;
    m->op = op;
    *s->link_tail[way] = m;
    s->link_tail[way] = &m->next;
    if (s->link[way] == m)
        link_start(s, way);
}

static void env_copy_in(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    sim_link(arg, 0, dst, src, 0, bytes, op);
}

static void env_copy_out(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    sim_link(arg, 1, dst, src, 0, bytes, op);
}

static void env_fill(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op)
{
    sim_link(arg, 0, dst, NULL, byte, bytes, op);
}

static void link_event(struct sim *s, struct sim_move *m, int way)
{
    uint64_t half = m->bytes / 2, from = m->phase ? half : 0, bytes = m->phase ? m->bytes - half : half;
    struct core_op *op = m->op;

    if (m->phase < 2) {
        if (m->from)
            memcpy(m->to + from, m->from + from, bytes);
        else
            memset(m->to + from, m->byte, bytes);
        m->phase++;
        link_start(s, way);
        return;
    }
    s->link[way] = m->next;
    if (!s->link[way])
        s->link_tail[way] = &s->link[way];
    else
        link_start(s, way);
    op->code = 0;
    if (sim_chance(s, s->prog->config.copy_error)) {
        op->code = -EIO;
        s->may_break = true;
    }
    sim_move_put(s, m);
    sim_enter(s);
    pager_done(&s->pager, op);
    sim_leave(s);
    s->due = true;
}

/* ---- workers ----------------------------------------------------------- */

static void env_work(void *arg, struct core_request *r)
{
    struct sim *s = arg;
    struct sim_move *m = sim_move_get(s);

    m->request = r;
    sim_post(s, sim_delay(s, s->prog->config.work), EVENT_WORK, m, 0);
}

static void work_event(struct sim *s, struct sim_move *m)
{
    struct core_request *r = m->request;

    /* Begun twice: what is there must not change while a worker is at it. */
    pager_request_run(r, m->phase ? UINT64_MAX : 0);
    if (m->phase == 0) {
        m->phase = 1;
        sim_post(s, sim_delay(s, s->prog->config.work), EVENT_WORK, m, 0);
        return;
    }
    sim_move_put(s, m);
    sim_enter(s);
    pager_request_end(&s->pager, r);
    sim_leave(s);
    s->due = true;
}

/* ---- the engine's turn ------------------------------------------------- */

static const char *env_why(void *arg, int code)
{
    (void)arg;
    return base_strerror(code);
}

static void env_log(void *arg, enum ofl_log_level level, const char *text)
{
    struct sim *s = arg;

    if (s->options->trace)
        fprintf(stderr, "  log %d: %s\n", (int)level, text);
}

void sim_env(struct sim *s, struct core_env *env)
{
    *env = (struct core_env){.arg = s,
                             .io = env_io,
                             .seal = env_seal,
                             .zero = env_zero,
                             .copy_in = env_copy_in,
                             .copy_out = env_copy_out,
                             .fill = env_fill,
                             .work = env_work,
                             .gate_create = sim_gate_create,
                             .gate_open = sim_gate_open,
                             .why = env_why,
                             .commit = sim_env_commit,
                             .log = env_log};
}

static void verify(struct sim *s)
{
    struct base_error why;

    if (s->options->spoil && s->options->spoil(&s->pager) && pager_verify(&s->pager, &why) == 0)
        sim_fail(s, "a book was made wrong, and nobody noticed");
    if (pager_verify(&s->pager, &why) < 0)
        sim_fail(s, "books: %s", why.text);
    sim_check_whole(s);
}

static void tick(struct sim *s)
{
    if (!s->ticking)
        sim_post(s, TICK_DELAY, EVENT_TICK, NULL, 0);
    s->ticking = true;
}

void sim_pump(struct sim *s)
{
    uint32_t rounds = 0;
    bool more = true;

    s->due = false;
    while (more && rounds++ < PUMPS_MAX) {
        sim_enter(s);
        more = pager_pump(&s->pager);
        sim_leave(s);
        if (more && s->pager.hungry) { /* as the engine: again, but not at once */
            tick(s);
            return;
        }
    }
    if (more)
        sim_fail(s, "the pump never stands still");
}

bool sim_step(struct sim *s)
{
    struct base_event e;

    if (s->due && (s->events.count == 0 || sim_below(&s->random, 4)))
        sim_pump(s);
    if (s->events.count == 0 || sim_failed(s))
        return false;
    e = base_events_take(&s->events);
    if (e.time > s->now && s->due) {
        sim_pump(s); /* the engine does not sleep on what has come */
        if (sim_failed(s))
            return false;
    }
    s->now = e.time;
    switch ((enum sim_event_type)e.type) {
    case EVENT_IO:
        io_event(s, e.what, e.index);
        break;
    case EVENT_LINK:
        link_event(s, e.what, (int)e.index);
        break;
    case EVENT_WORK:
        work_event(s, e.what);
        break;
    case EVENT_KICK:
        sim_stream_kick(s, e.index);
        break;
    case EVENT_JOB:
        sim_job_end(s, e.index);
        break;
    case EVENT_DONE:
        sim_enter(s);
        pager_done(&s->pager, e.what);
        sim_leave(s);
        s->due = true;
        break;
    case EVENT_SEAL:
        seal_event(s, e.what);
        break;
    case EVENT_COMMIT:
        sim_commit_event(s, e.what);
        break;
    case EVENT_ZERO:
        zero_event(s, e.what);
        break;
    case EVENT_TICK:
        s->ticking = false;
        s->due = true;
        break;
    case EVENT_HOST:
        sim_host_event(s, e.what);
        break;
    }
    if (++s->events_run > EVENTS_MAX)
        sim_fail(s, "more than %u events: it runs in circles", EVENTS_MAX);
    if (s->options->verify_every && s->events_run % s->options->verify_every == 0 && !sim_failed(s)) {
        verify(s);
    }
    return true;
}

void sim_until(struct sim *s, uint64_t time)
{
    while (!sim_failed(s) && s->events.count && s->events.heap[0].time <= time && sim_step(s))
        ;
    if (s->due && !sim_failed(s) && sim_below(&s->random, 4))
        sim_pump(s); /* else a command comes before the pump: it hears of what has ended first */
    if (s->now < time)
        s->now = time;
}

/* Nothing is left to happen. Would the pump go on if it had memory? */
static void stuck(struct sim *s, const char *what)
{
    uint64_t before = s->pager.changes;
    bool faults = s->no_more_faults;

    s->no_more_faults = true;
    sim_pump(s);
    s->no_more_faults = faults;
    if (s->pager.changes != before && sim_alloc_failures())
        sim_fail(s, "hang: %s: an allocation failed, and nothing would try again", what);
    else
        sim_fail(s, "hang: %s: nothing is left that could end it", what);
}

bool sim_await(struct sim *s, bool (*over)(struct sim *s, void *arg), void *arg, const char *what)
{
    while (!sim_failed(s)) {
        uint64_t before;

        if (s->due)
            sim_pump(s);
        before = s->pager.changes;
        if (over(s, arg))
            return true;
        if (s->pager.changes != before) {
            s->due = true;
            continue;
        }
        if (!sim_step(s) && !s->due && !sim_failed(s)) {
            stuck(s, what);
            return false;
        }
    }
    return false;
}

void sim_rest(struct sim *s)
{
    if (s->due)
        sim_pump(s);
    while (sim_step(s) || (s->due && !sim_failed(s)))
        ;
    if (!sim_failed(s))
        verify(s);
}
