/* cuda_stub: see cuda_stub.h. Locks: one, over everything but the operations themselves. */
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tests/cuda_stub_state.h"

struct stub stub = {.lock = PTHREAD_MUTEX_INITIALIZER};
_Thread_local struct CUctx_st *current;

/* A build without a C++ compiler has none of them. */
#pragma weak emulate_find
#pragma weak emulate_run
#pragma weak emulate_settle

/* ---- rules ---------------------------------------------------------------- */

unsigned stub_violate(unsigned code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (stub.violations++ == 0)
        vsnprintf(stub.violation, sizeof stub.violation, fmt, ap);
    va_end(ap);
    return code;
}

/* Under the lock. */
unsigned stub_begin(const char *name, enum need need)
{
    unsigned i = 0;

    while (i < CALLS - 1 && stub.calls[i].name[0] && strcmp(stub.calls[i].name, name) != 0)
        i++;
    snprintf(stub.calls[i].name, sizeof stub.calls[i].name, "%s", name);
    stub.calls[i].count++;
    if (need != NOTHING && !stub.initialised)
        return stub_violate(NO_INIT, "%s before cuInit", name);
    if (need == CONTEXT_TOO && (!current || current->refs == 0))
        return stub_violate(CONTEXT, "%s without a live context", name);
    if (stub.config.fail_call && strcmp(stub.config.fail_call, name) == 0 &&
        ++stub.failable == stub.config.fail_nth)
        return stub.config.fail_code;
    return need == CONTEXT_TOO ? atomic_load(&stub.lost) : CUDA_OK;
}

struct range *stub_range(struct range *list, const void *p, size_t bytes)
{
    uintptr_t at = (uintptr_t)p;

    for (int i = 0; i < RANGES; i++)
        if (list[i].bytes && at >= list[i].base && at - list[i].base <= list[i].bytes &&
            bytes <= list[i].bytes - (at - list[i].base))
            return &list[i];
    return NULL;
}

struct range *stub_range_free(struct range *list)
{
    for (int i = 0; i < RANGES; i++)
        if (list[i].bytes == 0)
            return &list[i];
    return NULL;
}

unsigned stub_check_stream(const char *name, const struct CUstream_st *s)
{
    if (!s || s->alive != ALIVE)
        return stub_violate(HANDLE, "%s: stream is not alive", name);
    return s->context == current ? CUDA_OK : stub_violate(CONTEXT, "%s: stream of another context", name);
}

unsigned stub_check_device(const char *name, cuda_pointer p, size_t bytes)
{
    if (stub_range(stub.device, (void *)(uintptr_t)p, bytes))
        return CUDA_OK;
    return stub_violate(CUDA_INVALID_VALUE, "%s: %zu bytes outside device memory", name, bytes);
}

unsigned stub_check_event(const char *name, const struct CUevent_st *e)
{
    if (!e || e->alive != ALIVE)
        return stub_violate(HANDLE, "%s: event is not alive", name);
    return e->context == current ? CUDA_OK : stub_violate(CONTEXT, "%s: event of another context", name);
}

bool stub_idle(void)
{
    if (atomic_load(&stub.lost)) {
        if (emulate_settle)
            emulate_settle(); /* it ends after its block */
        return true;
    }
    for (struct CUstream_st *s = stub.streams; s; s = s->next)
        if (s->count && (!current || s->context == current))
            return false;
    return true;
}

/* ---- streams at work ------------------------------------------------------ */

static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void pause_for(uint64_t *random, unsigned longest_us)
{
    uint64_t r = random_next(random);

    if (longest_us && r % 8 == 0)
        nanosleep(&(struct timespec){.tv_nsec = (long)(r / 8 % longest_us + 1) * 1000}, NULL);
    else if (r % 8 < 3)
        sched_yield();
}

void stub_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static bool event_reached(const struct op *op)
{
    bool reached;

    pthread_mutex_lock(&stub.lock);
    reached = op->event->completed >= op->turn;
    pthread_mutex_unlock(&stub.lock);
    return reached;
}

/* A kernel's own mistake is a violation, and its end: as of a device that faults. */
static void launch(const struct emulate_launch *l)
{
    char error[sizeof stub.violation];

    if (emulate_run(l, error, sizeof error))
        return;
    pthread_mutex_lock(&stub.lock);
    (void)stub_violate(LOST, "%s", error);
    pthread_mutex_unlock(&stub.lock);
    atomic_store(&stub.lost, LOST);
}

static void execute(const struct op *op, uint64_t *random, unsigned pause_us)
{
    unsigned char *dst = stub_reach(op->dst), *src = stub_reach(op->src);
    size_t half = op->bytes / 2;

    if (op->kind == COPY || op->kind == SET)
        if (atomic_fetch_add(&stub.copies, 1) + 1 == stub.config.fail_copy)
            atomic_store(&stub.lost, LOST);
    if (atomic_fetch_add(&stub.operations, 1) + 1 == stub.config.lose_after)
        atomic_store(&stub.lost, LOST);
    if (op->kind == WAIT_VALUE)
        while ((int32_t)(atomic_load_explicit(op->word, memory_order_acquire) - op->value) < 0 &&
               !atomic_load(&stub.lost))
            stub_nap();
    if (op->kind == WAIT_EVENT)
        while (!event_reached(op) && !atomic_load(&stub.lost))
            stub_nap();
    if (atomic_load(&stub.lost))
        return;
    if (op->kind == COPY) {
        memcpy(dst, src, half);
        pause_for(random, pause_us);
        memcpy(dst + half, src + half, op->bytes - half);
    } else if (op->kind == SET) {
        memset(dst, op->byte, op->bytes);
    } else if (op->kind == HOST) {
        op->fn(op->arg);
    } else if (op->kind == LAUNCH) {
        launch(op->launch);
    }
}

/* Under the lock. */
void stub_ask(struct CUstream_st *s, uint64_t upto)
{
    if (s->asked >= upto)
        return;
    s->asked = upto;
    pthread_cond_signal(&s->more);
}

void *stub_stream(void *arg)
{
    struct CUstream_st *s = arg;
    unsigned pause_us;

    pthread_mutex_lock(&stub.lock);
    pause_us = stub.config.pause_us;
    for (;;) {
        struct op *op;

        while ((!s->head || (s->lazy && s->executed >= s->asked)) && !s->closing)
            pthread_cond_wait(&s->more, &stub.lock);
        op = s->head;
        if (!op)
            break;
        pthread_mutex_unlock(&stub.lock);
        pause_for(&s->random, pause_us);
        execute(op, &s->random, pause_us);
        pthread_mutex_lock(&stub.lock);
        if (op->kind == RECORD && !atomic_load(&stub.lost)) {
            if (op->turn > op->event->completed) /* a record that was taken as over too early is late */
                op->event->completed = op->turn;
            op->event->at_ns = base_now_ns();
        }
        s->head = op->next;
        if (!s->head)
            s->tail = &s->head;
        s->count--;
        s->executed++;
        pthread_cond_broadcast(&s->room);
        free(op->owned);
        free(op);
    }
    pthread_mutex_unlock(&stub.lock);
    return NULL;
}

/* Under the lock, which is given up while the stream is full. Returns op's place in the order. */
uint64_t stub_enqueue(struct CUstream_st *s, const struct op *op)
{
    unsigned depth = stub.config.depth ? stub.config.depth : 1024;
    struct op *own = malloc(sizeof *own);

    if (!own)
        abort();
    if (s->count >= depth)
        stub_ask(s, s->issued);
    while (s->count >= depth && !atomic_load(&stub.lost))
        pthread_cond_timedwait(&s->room, &stub.lock, &(struct timespec){.tv_sec = time(NULL) + 1});
    *own = *op;
    own->next = NULL;
    *s->tail = own;
    s->tail = &own->next;
    s->count++;
    stub.deepest = s->count > stub.deepest ? s->count : stub.deepest;
    pthread_cond_signal(&s->more);
    return ++s->issued;
}

void stub_drain(struct CUstream_st *s, uint64_t upto)
{
    stub_ask(s, upto);
    while (s->executed < upto && !atomic_load(&stub.lost))
        pthread_cond_timedwait(&s->room, &stub.lock, &(struct timespec){.tv_sec = time(NULL) + 1});
}

/* ---- control -------------------------------------------------------------- */

static void control_reset(const struct cuda_stub_config *config)
{
    pthread_mutex_lock(&stub.lock);
    while (stub.streams) {
        struct CUstream_st *s = stub.streams;

        stub.streams = s->next;
        if (s->alive == ALIVE)
            continue; /* a failed test left it, and its thread: later ones are to run all the same */
        pthread_cond_destroy(&s->more);
        pthread_cond_destroy(&s->room);
        free(s);
    }
    while (stub.events) {
        struct CUevent_st *e = stub.events;

        stub.events = e->next;
        free(e);
    }
    /* What could not be freed while the library still copied ahead: a driver would have waited for that. */
    for (int i = 0; i < RANGES; i++)
        if (stub.host[i].bytes && stub.host[i].owned) {
            free((void *)stub.host[i].base);
            stub.host[i] = (struct range){0};
            stub.live--;
        }
    stub_forget();
    stub.config = *config;
    stub.violations = stub.failable = stub.waits = stub.early = stub.created = stub.launches = 0;
    stub.deepest = 0;
    memset(stub.calls, 0, sizeof stub.calls);
    atomic_store(&stub.copies, 0);
    atomic_store(&stub.operations, 0);
    atomic_store(&stub.lost, 0);
    pthread_mutex_unlock(&stub.lock);
}

static uint64_t control_calls(const char *name)
{
    uint64_t sum = 0;

    pthread_mutex_lock(&stub.lock);
    for (int i = 0; i < CALLS; i++)
        if (stub.calls[i].name[0] && (!name || strcmp(name, stub.calls[i].name) == 0))
            sum += stub.calls[i].count;
    pthread_mutex_unlock(&stub.lock);
    return sum;
}

static unsigned control_violations(char *text, size_t size)
{
    unsigned n;

    pthread_mutex_lock(&stub.lock);
    n = stub.violations;
    snprintf(text, size, "%s", n ? stub.violation : "");
    pthread_mutex_unlock(&stub.lock);
    return n;
}

static unsigned control_deepest(void)
{
    unsigned n;

    pthread_mutex_lock(&stub.lock);
    n = stub.deepest;
    pthread_mutex_unlock(&stub.lock);
    return n;
}

static unsigned control_pending(void)
{
    unsigned n = 0;

    pthread_mutex_lock(&stub.lock);
    for (const struct CUstream_st *s = stub.streams; s; s = s->next)
        n += s->count;
    pthread_mutex_unlock(&stub.lock);
    return n;
}

static void control_arm(const struct cuda_stub_config *config)
{
    pthread_mutex_lock(&stub.lock);
    stub.config = *config;
    stub.failable = stub.waits = stub.early = 0;
    atomic_store(&stub.copies, 0);
    atomic_store(&stub.operations, 0);
    pthread_mutex_unlock(&stub.lock);
}

static unsigned control_live(void)
{
    unsigned n;

    pthread_mutex_lock(&stub.lock);
    n = stub.live;
    pthread_mutex_unlock(&stub.lock);
    return n;
}

static bool control_emulates(void)
{
    return emulate_find != NULL;
}

static bool control_inside(const void *p, size_t bytes)
{
    bool inside;

    pthread_mutex_lock(&stub.lock);
    inside = stub_range(stub.device, p, bytes) != NULL;
    pthread_mutex_unlock(&stub.lock);
    return inside;
}

static void control_violate(const char *text)
{
    pthread_mutex_lock(&stub.lock);
    (void)stub_violate(0, "%s", text);
    pthread_mutex_unlock(&stub.lock);
}

static unsigned control_run(const char *name, void *stream, void (*fn)(void *), void *owned)
{
    unsigned rc;

    pthread_mutex_lock(&stub.lock);
    rc = stub_begin(name, CONTEXT_TOO);
    if (rc == CUDA_OK)
        rc = stub_check_stream(name, stream);
    if (rc == CUDA_OK)
        stub_enqueue(stream, &(struct op){.kind = HOST, .fn = fn, .arg = owned, .owned = owned});
    else
        free(owned);
    return leave(rc);
}

API const struct cuda_stub cuda_stub;
API const struct cuda_stub cuda_stub = {
    .reset = control_reset,
    .calls = control_calls,
    .violations = control_violations,
    .deepest = control_deepest,
    .pending = control_pending,
    .live = control_live,
    .emulates = control_emulates,
    .arm = control_arm,
    .inside = control_inside,
    .violate = control_violate,
    .run = control_run,
};
