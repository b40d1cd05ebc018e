/* cuda_lane: lanes, gates and the poller. See cuda.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "liboffload/device/cuda.h"

/* The poller sleeps so long between looks at events that are not ready: from the first, twice
 * as long each time, to the second. */
#define CUDA_AHEAD 16 /* waits and marks of leases: with 50 launches a lease, half of what a stream takes */
#define NAP_MIN_NS 2000
#define NAP_MAX_NS 64000

/* The device whose poller this thread is, if any: it must not wait for itself. */
static _Thread_local const struct cuda *own_poller;

static void add(_Atomic uint64_t *total, uint64_t more)
{
    atomic_fetch_add_explicit(total, more, memory_order_relaxed);
}

/* ---- errors and the context --------------------------------------------- */

void cuda_broke(struct cuda *c, int code)
{
    pthread_mutex_lock(&c->lock);
    if (c->error.code == 0) {
        base_error_save(&c->error, code);
        atomic_store(&c->broken, true);
    }
    c->kicks++;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
}

static bool call_failed(struct cuda *c, cuda_result result, const char *call, const struct cuda_op *op)
{
    static const char *const kinds[] = {
        "copy to the device", "copy from the device", "fill", "mark", "wait at a gate", "label", "sync"};

    if (result == CUDA_OK)
        return false;
    cuda_broke(c, cuda_driver_fail(&c->driver, result, "%s: %s of %llu bytes: %s", c->base.name,
                                   kinds[op->kind], (unsigned long long)op->bytes, call));
    return true;
}

cuda_context cuda_enter(struct cuda *c)
{
    cuda_context before = NULL;

    (void)CUDA_CALL(&c->driver, context_get, &before);
    if (before != c->context && CUDA_CALL(&c->driver, context_set, c->context) != CUDA_OK)
        return c->context; /* what is called next says why */
    return before;
}

void cuda_leave(struct cuda *c, cuda_context before)
{
    if (before != c->context)
        (void)CUDA_CALL(&c->driver, context_set, before);
}

/* ---- events -------------------------------------------------------------- */

/* Under the context. Of a broken device nobody knows whether e has come to pass: not for use again. */
static void event_give(struct cuda *c, cuda_event e)
{
    bool kept = false;

    if (!e)
        return;
    pthread_mutex_lock(&c->lock);
    if (c->events_count == c->events_room) {
        size_t room = c->events_room ? 2 * c->events_room : 64;
        cuda_event *more = realloc(c->events, room * sizeof(cuda_event));

        if (more) {
            c->events = more;
            c->events_room = room;
        }
    }
    if (c->events_count < c->events_room && !atomic_load(&c->broken)) {
        c->events[c->events_count++] = e;
        kept = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (!kept)
        (void)CUDA_CALL(&c->driver, event_destroy, e);
}

/* An event at this point of the lane's stream, for op; NULL once the device is broken. */
static cuda_event event_record(struct cuda_lane *l, const struct cuda_op *op)
{
    struct cuda *c = l->cuda;
    cuda_event e = NULL;

    pthread_mutex_lock(&c->lock);
    if (c->events_count > 0)
        e = c->events[--c->events_count];
    pthread_mutex_unlock(&c->lock);
    if (!e &&
        call_failed(c, CUDA_CALL(&c->driver, event_create, &e, CUDA_EVENT_DEFAULT), "cuEventCreate", op))
        return NULL;
    if (call_failed(c, CUDA_CALL(&c->driver, event_record, e, l->stream), "cuEventRecord", op)) {
        event_give(c, e);
        return NULL;
    }
    return e;
}

static uint64_t elapsed_ns(struct cuda *c, cuda_event from, cuda_event to)
{
    float ms = 0;

    if (!from || !to || CUDA_CALL(&c->driver, event_elapsed, &ms, from, to) != CUDA_OK || ms < 0)
        return 0;
    return (uint64_t)((double)ms * 1e6);
}

/* ---- issuing -------------------------------------------------------------- */

/* Memory for a queued operation whose issuer can't be told of a failure: what completes
 * meanwhile frees some, so it waits. */
static struct cuda_op *op_alloc(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct cuda_op *op;

    while (!(op = malloc(sizeof *op)))
        nanosleep(&pause, NULL);
    return op;
}

void cuda_lane_put(struct cuda_lane *l, const struct cuda_op *op)
{
    struct cuda_op *own = op_alloc();

    *own = *op;
    own->lane = l;
    pthread_mutex_lock(&l->cuda->lock);
    *l->tail = own;
    l->tail = &own->next;
    l->queued += own->kind != CUDA_LABEL;
    if (!l->unissued)
        l->unissued = own;
    if (own->kind == CUDA_WAIT) {
        own->gate->refs++;
        own->number = ++l->number;
        *l->waits_tail = own;
        l->waits_tail = &own->next_wait;
        own->next_of_gate = own->gate->waiting;
        own->gate->waiting = own;
        if (own->gate->open)
            cuda_gate_pass(l->cuda, own->gate);
    }
    pthread_mutex_unlock(&l->cuda->lock);
}

/*
 * A stream takes about a thousand entries. Who adds one more waits inside the driver, and may keep others
 * out of it meanwhile: the poller, too, without whose news the gate at the stream's head stays shut. So
 * threads stop here long before that, where they hold nothing.
 */
void cuda_lane_room(struct cuda_lane *l)
{
    struct cuda *c = l->cuda;

    if (own_poller == c)
        return;
    pthread_mutex_lock(&c->lock);
    while (l->queued > CUDA_AHEAD)
        pthread_cond_wait(&c->synced, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static void issue_copy(struct cuda_lane *l, struct cuda_op *op, bool idle)
{
    struct cuda_driver *d = &l->cuda->driver;
    const char *call;
    cuda_result result;

    if (op->code != 0 || op->bytes == 0)
        return;
    if (idle)
        op->start = event_record(l, op);
    if (op->kind == CUDA_IN) {
        call = "cuMemcpyHtoDAsync";
        result = CUDA_CALL(d, copy_in, (cuda_pointer)(uintptr_t)op->dst, op->src, op->bytes, l->stream);
    } else if (op->kind == CUDA_OUT) {
        call = "cuMemcpyDtoHAsync";
        result = CUDA_CALL(d, copy_out, op->dst, (cuda_pointer)(uintptr_t)op->src, op->bytes, l->stream);
    } else {
        call = "cuMemsetD8Async";
        result = CUDA_CALL(d, fill, (cuda_pointer)(uintptr_t)op->dst, op->byte, op->bytes, l->stream);
    }
    if (!call_failed(l->cuda, result, call, op))
        op->end = event_record(l, op);
}

static void issue_wait(struct cuda_lane *l, struct cuda_op *op)
{
    cuda_pointer word = l->cuda->words_device + l->word * sizeof *l->cuda->words;
    bool timed = !l->owner->uncounted;

    if (timed)
        op->start = event_record(l, op);
    (void)call_failed(
        l->cuda, CUDA_CALL(&l->cuda->driver, stream_wait_value, l->stream, word, op->number, CUDA_WAIT_GEQ),
        "cuStreamWaitValue32", op);
    if (timed)
        op->end = event_record(l, op);
}

static void issue(struct cuda_lane *l, struct cuda_op *op, bool idle, bool passed)
{
    cuda_context before;

    if (atomic_load(&l->cuda->broken))
        return;
    before = cuda_enter(l->cuda);
    if (op->kind <= CUDA_FILL)
        issue_copy(l, op, idle);
    else if (op->kind != CUDA_WAIT)
        op->end = event_record(l, op);
    else if (!passed)
        issue_wait(l, op);
    cuda_leave(l->cuda, before);
}

void cuda_lane_flush(struct cuda_lane *l)
{
    struct cuda *c = l->cuda;
    struct cuda_op *op;

    pthread_mutex_lock(&l->issuing);
    pthread_mutex_lock(&c->lock);
    while ((op = l->unissued)) {
        bool idle = l->timed == 0, passed = op->passed;

        pthread_mutex_unlock(&c->lock);
        issue(l, op, idle, passed);
        pthread_mutex_lock(&c->lock);
        op->issued = true;
        l->timed += op->end != NULL;
        l->unissued = op->next;
        c->kicks++;
        pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_unlock(&l->issuing);
}

/* ---- gates ---------------------------------------------------------------- */

void cuda_gate_put(struct cuda_gate *g)
{
    struct cuda *c = (struct cuda *)g->base.dev;
    bool last;

    pthread_mutex_lock(&c->lock);
    last = --g->refs == 0;
    pthread_mutex_unlock(&c->lock);
    if (!last)
        return;
    free(g->text);
    free(g);
}

/* Stores the number of the last wait before which all gates are open. */
static void advance(struct cuda_lane *l)
{
    struct cuda_op *op;

    while ((op = l->waits) && op->gate->open) {
        atomic_store_explicit(&l->cuda->words[l->word], op->number, memory_order_release);
        op->passed = true;
        l->waits = op->next_wait;
        if (!l->waits)
            l->waits_tail = &l->waits;
    }
}

void cuda_gate_pass(struct cuda *c, struct cuda_gate *g)
{
    struct cuda_op *op = g->waiting;

    g->waiting = NULL;
    for (; op; op = op->next_of_gate)
        advance(op->lane);
    c->kicks++;
    pthread_cond_signal(&c->work);
}

/* ---- the poller ----------------------------------------------------------- */

/* What was recorded behind op has come to pass, or will not any more. */
static bool completed(struct cuda *c, const struct cuda_op *op)
{
    cuda_result result;

    if (!op->end || atomic_load(&c->broken))
        return true;
    result = CUDA_CALL(&c->driver, event_query, op->end);
    if (result == CUDA_NOT_READY)
        return false;
    (void)call_failed(c, result, "cuEventQuery", op);
    return true;
}

static void fail_lane(struct cuda_lane *l, int code, const char *text)
{
    if (l->error.code == 0)
        base_error_set(&l->error, code, "%s", text ? text : base_strerror(code));
}

/* When op ended, by the host's clock. The poller hears of it a nap or more late, of several at once: counted from
 * what was reported before on this lane, unless that would be in the future, or far in the past. */
static uint64_t ended_ns(const struct cuda_lane *l, const struct cuda_op *op)
{
    uint64_t now = base_now_ns(), counted = l->last_ns + elapsed_ns(l->cuda, l->last, op->end);

    return l->last_ns && counted <= now && now - counted < 4 * NAP_MAX_NS ? counted : now;
}

/* What a lane does it does one after the other, and has begun when it ends. */
static uint64_t later(uint64_t start_ns, uint64_t last_ns, uint64_t end_ns)
{
    if (start_ns < last_ns)
        start_ns = last_ns;
    return start_ns < end_ns ? start_ns : end_ns;
}

static void report_copy(struct cuda_lane *l, const struct cuda_op *op, uint64_t end_ns)
{
    static const enum dev_span_kind kinds[] = {DEV_SPAN_IN, DEV_SPAN_OUT, DEV_SPAN_FILL};
    const struct dev_config *config = &l->cuda->base.config;
    int code = op->code ? op->code : l->error.code;
    uint64_t took = 0;

    if (code == 0 && (op->kind != CUDA_FILL || end_ns))
        took = elapsed_ns(l->cuda, op->start ? op->start : l->last, op->end);
    if (code == 0 && op->kind != CUDA_FILL) {
        add(&l->bytes, op->bytes);
        add(&l->copies, 1);
        add(&l->busy_ns, took);
    }
    if (code == 0 && end_ns)
        dev_report(&l->cuda->base, &(struct dev_span){.kind = kinds[op->kind],
                                                      .start_ns = later(end_ns - took, l->last_ns, end_ns),
                                                      .end_ns = end_ns,
                                                      .bytes = op->bytes,
                                                      .cookie = op->cookie});
    config->done(config->sink, op->cookie, code);
}

static void report_wait(struct cuda_lane *l, const struct cuda_op *op, uint64_t end_ns)
{
    uint64_t took = elapsed_ns(l->cuda, op->start, op->end);

    if (op->gate->code != 0)
        fail_lane(l, op->gate->code, op->gate->text); /* opened once: neither changes any more */
    add(&l->cuda->stall_ns, took);
    end_ns = end_ns ? end_ns : base_now_ns();
    if (took)
        dev_report(&l->cuda->base, &(struct dev_span){.kind = DEV_SPAN_STALL,
                                                      .start_ns = end_ns - took,
                                                      .end_ns = end_ns,
                                                      .stream = l->owner->id,
                                                      .note = op->gate->base.note});
    cuda_gate_put(op->gate);
}

static void report_label(struct cuda_lane *l, const struct cuda_op *op, uint64_t end_ns)
{
    if (l->label && end_ns && l->label_ns >= dev_traced(&l->cuda->base))
        dev_report(&l->cuda->base, &(struct dev_span){.kind = DEV_SPAN_WORK,
                                                      .start_ns = later(l->label_ns, 0, end_ns),
                                                      .end_ns = end_ns,
                                                      .stream = l->owner->id,
                                                      .note = l->label});
    l->label = op->note;
    l->label_ns = end_ns;
}

static void report_sync(struct cuda_lane *l, const struct cuda_op *op)
{
    struct cuda *c = l->cuda;

    pthread_mutex_lock(&c->lock);
    if (op->sync->last) {
        if (l->next)
            l->next->prev = l->prev;
        if (l->prev)
            l->prev->next = l->next;
        else
            c->lanes = l->next;
    }
    if (l->error.code != 0)
        op->sync->error = l->error;
    op->sync->reached = true;
    pthread_cond_broadcast(&c->synced);
    pthread_mutex_unlock(&c->lock);
}

/* False if the lane is gone. */
static bool report(struct cuda_lane *l, struct cuda_op *op)
{
    const struct dev_config *config = &l->cuda->base.config;
    struct cuda *c = l->cuda;
    cuda_event old[2] = {op->start, op->end ? l->last : NULL};
    uint64_t end_ns = op->end && dev_traced(&c->base) ? ended_ns(l, op) : 0;
    bool stays = true;

    if (atomic_load(&c->broken))
        fail_lane(l, c->error.code, c->error.text); /* set once, before broken */
    if (op->kind <= CUDA_FILL)
        report_copy(l, op, end_ns);
    else if (op->kind == CUDA_MARK)
        config->done(config->sink, op->cookie, l->error.code);
    else if (op->kind == CUDA_WAIT)
        report_wait(l, op, end_ns);
    else if (op->kind == CUDA_LABEL)
        report_label(l, op, end_ns);
    else
        stays = !op->sync->last;
    if (op->end) {
        l->last = op->end;
        l->last_ns = end_ns;
    }
    event_give(c, old[0]);
    event_give(c, old[1]);
    if (op->kind == CUDA_SYNC)
        report_sync(l, op); /* last of all: its issuer may free the lane */
    free(op);
    return stays;
}

/* Reports what has completed on l, in order. 0: nothing more to look at, until a kick;
 * 1: its next event is not ready. *any: something was reported. */
static unsigned poll_lane(struct cuda_lane *l, bool *any)
{
    struct cuda *c = l->cuda;

    for (;;) {
        struct cuda_op *op;
        bool ready;

        pthread_mutex_lock(&c->lock);
        op = l->head;
        ready = op && op->issued && (op->kind != CUDA_WAIT || op->passed);
        pthread_mutex_unlock(&c->lock);
        if (!ready)
            return 0;
        if (!completed(c, op))
            return 1;
        pthread_mutex_lock(&c->lock);
        l->head = op->next;
        if (!l->head)
            l->tail = &l->head;
        l->timed -= op->end != NULL;
        if (op->kind != CUDA_LABEL && l->queued-- == CUDA_AHEAD + 1)
            pthread_cond_broadcast(&c->synced);
        pthread_mutex_unlock(&c->lock);
        *any = true;
        if (!report(l, op))
            return 0;
    }
}

static struct cuda_lane *lane_after(struct cuda *c, const struct cuda_lane *l)
{
    struct cuda_lane *next;

    pthread_mutex_lock(&c->lock);
    next = l ? l->next : c->lanes;
    pthread_mutex_unlock(&c->lock);
    return next;
}

void cuda_poll(void *cuda)
{
    struct cuda *c = cuda;
    long nap_ns = NAP_MIN_NS;
    uint64_t seen;
    bool stopping;

    own_poller = c;
    (void)prctl(PR_SET_TIMERSLACK, 1000ul); /* by default naps take 50 us longer than they should */
    (void)cuda_enter(c);
    do {
        unsigned pending = 0;
        bool any = false;

        pthread_mutex_lock(&c->lock);
        seen = c->kicks;
        pthread_mutex_unlock(&c->lock);
        for (struct cuda_lane *l = lane_after(c, NULL), *next; l; l = next) {
            next = lane_after(c, l); /* only this thread takes lanes out */
            pending += poll_lane(l, &any);
        }
        nap_ns = any ? NAP_MIN_NS : nap_ns < NAP_MAX_NS ? 2 * nap_ns : nap_ns;
        if (pending && !any)
            nanosleep(&(struct timespec){.tv_nsec = nap_ns}, NULL);
        pthread_mutex_lock(&c->lock);
        while (!pending && c->kicks == seen && !c->stopping)
            pthread_cond_wait(&c->work, &c->lock);
        stopping = c->stopping;
        pthread_mutex_unlock(&c->lock);
    } while (!stopping);
}

/* ---- waiting, open and close ---------------------------------------------- */

static int sync_lane(struct cuda_lane *l, bool last)
{
    struct cuda *c = l->cuda;
    struct cuda_sync sync = {.last = last};

    sync.error.code = 0;
    cuda_lane_put(l, &(struct cuda_op){.kind = CUDA_SYNC, .sync = &sync});
    cuda_lane_flush(l);
    pthread_mutex_lock(&c->lock);
    while (!sync.reached)
        pthread_cond_wait(&c->synced, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return sync.error.code != 0 ? base_error_restore(&sync.error) : 0;
}

int cuda_lane_sync(struct cuda_lane *l)
{
    if (own_poller == l->cuda)
        return base_fail(-EDEADLK, "sync stream %llu: called from a completion of %s",
                         (unsigned long long)l->owner->id, l->cuda->base.name);
    return sync_lane(l, false);
}

int cuda_lane_open(struct cuda_lane *l, int priority)
{
    struct cuda *c = l->cuda;
    cuda_context before = cuda_enter(c);
    cuda_result result = CUDA_CALL(&c->driver, stream_create, &l->stream, CUDA_STREAM_NON_BLOCKING, priority);

    cuda_leave(c, before);
    if (result != CUDA_OK)
        return cuda_driver_fail(&c->driver, result, "%s: create stream", c->base.name);
    pthread_mutex_init(&l->issuing, NULL);
    l->tail = &l->head;
    l->waits_tail = &l->waits;
    pthread_mutex_lock(&c->lock);
    l->next = c->lanes;
    if (l->next)
        l->next->prev = l;
    c->lanes = l;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

void cuda_lane_close(struct cuda_lane *l)
{
    struct cuda *c = l->cuda;
    cuda_context before;

    if (!l->stream)
        return;
    (void)sync_lane(l, true); /* its error has been reported, or nobody asked */
    before = cuda_enter(c);
    (void)CUDA_CALL(&c->driver, stream_destroy, l->stream);
    event_give(c, l->last);
    cuda_leave(c, before);
    pthread_mutex_destroy(&l->issuing);
}
