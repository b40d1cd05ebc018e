/*
 * host: an accelerator emulated in RAM. Owns an arena of its own, one thread per
 * direction of the link, and one thread per user stream. As asynchronous as a real
 * one, so that a missing wait shows without a GPU; never pinned, never bound.
 *
 * Each thread is a pool of one: a serial queue whose entries are the run_ functions
 * below. Locks: a gate's and a stream's, both leaves; none is held while the sink or
 * a job runs.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pool.h"
#include "liboffload/device/backend.h"

#define HUGE_BYTES ((size_t)2 << 20)

/* One direction of the link. */
struct link {
    struct base_pool *queue;
    _Atomic uint64_t bytes, copies, busy_ns;
};

struct host {
    struct dev base;
    size_t mapped_bytes;
    struct link in, out;
    _Atomic uint64_t stall_ns, job_ns;
};

struct stream {
    struct dev_stream base;
    struct host *host;
    struct base_pool *queue;
    struct base_error error;  /* the first; only the stream's thread touches it, and the next two */
    uint64_t label, label_ns; /* that is in force; 0: none. Since when */
    pthread_mutex_t lock;     /* guards every struct sync of this stream */
    pthread_cond_t synced;
};

struct gate {
    struct dev_gate base;
    atomic_uint refs; /* the creator's, and one per queued wait */
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    int code;   /* what it was opened with */
    char *text; /* sentence of code; NULL when there was no memory for it */
};

/* The stream whose thread this is, if any: it must not wait for itself. */
static _Thread_local const struct stream *own_stream;

static void count(_Atomic uint64_t *total, uint64_t more)
{
    atomic_fetch_add_explicit(total, more, memory_order_relaxed);
}

static uint64_t total(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Memory for a queued operation whose issuer can't be told of a failure: what completes
 * meanwhile frees some, so it waits. */
static void *op_alloc(size_t bytes)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    void *op;

    while (!(op = malloc(bytes)))
        nanosleep(&pause, NULL);
    return op;
}

/* ---- link -------------------------------------------------------------- */

struct copy {
    struct host *host;
    void *dst;
    const void *src; /* not of a fill */
    uint64_t bytes;
    void *cookie;
    uint8_t byte; /* of a fill */
};

static void tell(const struct copy *c, enum dev_span_kind kind, uint64_t start_ns, uint64_t end_ns)
{
    if (dev_traced(&c->host->base))
        dev_report(&c->host->base, &(struct dev_span){.kind = kind,
                                                      .start_ns = start_ns,
                                                      .end_ns = end_ns,
                                                      .bytes = c->bytes,
                                                      .cookie = c->cookie});
}

static void move(struct link *l, const struct copy *c, enum dev_span_kind kind)
{
    uint64_t start = base_now_ns(), end;

    if (c->bytes > 0)
        memcpy(c->dst, c->src, c->bytes);
    end = base_now_ns();
    count(&l->busy_ns, end - start);
    count(&l->bytes, c->bytes);
    count(&l->copies, 1);
    tell(c, kind, start, end);
}

static void finish(const struct copy *c, int code)
{
    const struct dev_config *config = &c->host->base.config;

    config->done(config->sink, c->cookie, code);
}

static void run_copy_in(void *arg)
{
    struct copy c = *(struct copy *)arg;
    bool valid = dev_holds(&c.host->base, c.dst, c.bytes);

    free(arg);
    if (valid)
        move(&c.host->in, &c, DEV_SPAN_IN);
    finish(&c, valid ? 0 : -EFAULT);
}

static void run_copy_out(void *arg)
{
    struct copy c = *(struct copy *)arg;
    bool valid = dev_holds(&c.host->base, c.src, c.bytes);

    free(arg);
    if (valid)
        move(&c.host->out, &c, DEV_SPAN_OUT);
    finish(&c, valid ? 0 : -EFAULT);
}

/* Takes its turn on the inward stream, but nothing crosses the link: not counted. */
static void run_fill(void *arg)
{
    struct copy c = *(struct copy *)arg;
    bool valid = dev_holds(&c.host->base, c.dst, c.bytes);
    uint64_t start = base_now_ns();

    free(arg);
    if (valid)
        memset(c.dst, c.byte, c.bytes);
    tell(&c, DEV_SPAN_FILL, start, base_now_ns());
    finish(&c, valid ? 0 : -EFAULT);
}

static void host_copy_in(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    struct host *h = (struct host *)d;
    struct copy *c = op_alloc(sizeof *c);

    *c = (struct copy){.host = h, .dst = dst, .src = src, .bytes = bytes, .cookie = cookie};
    base_pool_submit(h->in.queue, run_copy_in, c);
}

static void host_copy_out(struct dev *d, void *dst, const void *src, uint64_t bytes, void *cookie)
{
    struct host *h = (struct host *)d;
    struct copy *c = op_alloc(sizeof *c);

    *c = (struct copy){.host = h, .dst = dst, .src = src, .bytes = bytes, .cookie = cookie};
    base_pool_submit(h->out.queue, run_copy_out, c);
}

static void host_fill(struct dev *d, void *dst, uint8_t byte, uint64_t bytes, void *cookie)
{
    struct host *h = (struct host *)d;
    struct copy *c = op_alloc(sizeof *c);

    *c = (struct copy){.host = h, .dst = dst, .byte = byte, .bytes = bytes, .cookie = cookie};
    base_pool_submit(h->in.queue, run_fill, c);
}

/* ---- gates ------------------------------------------------------------- */

static int host_gate_create(struct dev *d, struct dev_gate **out)
{
    struct gate *g = calloc(1, sizeof *g);

    (void)d;
    if (!g)
        return base_fail_errno(-ENOMEM, "create gate: %zu bytes", sizeof *g);
    atomic_init(&g->refs, 1);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->opened, NULL);
    *out = &g->base;
    return 0;
}

/* The last one out frees it; everybody has left the lock before giving up a reference. */
static void gate_put(struct gate *g)
{
    if (atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    pthread_cond_destroy(&g->opened);
    pthread_mutex_destroy(&g->lock);
    free(g->text);
    free(g);
}

static void host_gate_open(struct dev_gate *base, const struct base_error *error)
{
    struct gate *g = (struct gate *)base;
    char *text = error ? strdup(error->text) : NULL;

    pthread_mutex_lock(&g->lock);
    g->open = true;
    g->code = error ? error->code : 0;
    g->text = text;
    pthread_cond_broadcast(&g->opened);
    pthread_mutex_unlock(&g->lock);
    gate_put(g);
}

/* ---- user streams ------------------------------------------------------ */

struct job {
    struct stream *stream;
    dev_job_fn *fn;
    void *arg;
};

struct mark {
    struct stream *stream;
    void *cookie;
};

struct wait {
    struct stream *stream;
    struct gate *gate;
};

struct label {
    struct stream *stream;
    uint64_t note;
};

struct sync {
    struct stream *stream;
    bool reached;
    struct base_error error; /* the stream's, when it got here */
};

static void run_job(void *arg)
{
    struct job job = *(struct job *)arg;
    uint64_t start;

    free(arg);
    own_stream = job.stream;
    if (job.stream->error.code != 0)
        return;
    start = base_now_ns();
    job.fn(job.arg);
    if (!job.stream->base.uncounted)
        count(&job.stream->host->job_ns, base_now_ns() - start);
}

static void run_mark(void *arg)
{
    struct mark mark = *(struct mark *)arg;
    const struct dev_config *config = &mark.stream->host->base.config;

    free(arg);
    own_stream = mark.stream;
    config->done(config->sink, mark.cookie, mark.stream->error.code);
}

/* A stream that has failed waits all the same: its later marks must not overtake the
 * copies behind those gates. */
static void run_wait(void *arg)
{
    struct wait wait = *(struct wait *)arg;
    struct stream *s = wait.stream;
    struct gate *g = wait.gate;

    struct dev_span stall = {.kind = DEV_SPAN_STALL, .stream = s->base.id};

    free(arg);
    pthread_mutex_lock(&g->lock);
    if (!g->open) {
        stall.start_ns = base_now_ns();
        while (!g->open)
            pthread_cond_wait(&g->opened, &g->lock);
        stall.end_ns = base_now_ns();
    }
    pthread_mutex_unlock(&g->lock);
    if (stall.end_ns && !s->base.uncounted) {
        stall.note = g->base.note;
        count(&s->host->stall_ns, stall.end_ns - stall.start_ns);
        dev_report(&s->host->base, &stall);
    }
    /* opened once: code and text don't change any more */
    if (g->code != 0 && s->error.code == 0)
        base_error_set(&s->error, g->code, "%s", g->text ? g->text : base_strerror(g->code));
    gate_put(g);
}

static void run_label(void *arg)
{
    struct label label = *(struct label *)arg;
    struct stream *s = label.stream;
    uint64_t now = base_now_ns(), since = dev_traced(&s->host->base);

    free(arg);
    if (s->label && since && s->label_ns >= since)
        dev_report(&s->host->base, &(struct dev_span){.kind = DEV_SPAN_WORK,
                                                      .start_ns = s->label_ns,
                                                      .end_ns = now,
                                                      .stream = s->base.id,
                                                      .note = s->label});
    s->label = label.note;
    s->label_ns = now;
}

static void run_sync(void *arg)
{
    struct sync *sync = arg;
    struct stream *s = sync->stream;

    pthread_mutex_lock(&s->lock);
    if (s->error.code != 0)
        sync->error = s->error;
    sync->reached = true;
    pthread_cond_broadcast(&s->synced);
    pthread_mutex_unlock(&s->lock);
}

static int host_stream_launch(struct dev_stream *base, dev_job_fn *fn, void *arg)
{
    struct stream *s = (struct stream *)base;
    struct job *job = malloc(sizeof *job);

    if (!job)
        return base_fail_errno(-ENOMEM, "launch on stream %llu: %zu bytes", (unsigned long long)base->id,
                               sizeof *job);
    *job = (struct job){s, fn, arg};
    base_pool_submit(s->queue, run_job, job);
    return 0;
}

static void host_stream_label(struct dev_stream *base, uint64_t note)
{
    struct stream *s = (struct stream *)base;
    struct label *label = op_alloc(sizeof *label);

    *label = (struct label){s, note};
    base_pool_submit(s->queue, run_label, label);
}

static void host_stream_mark(struct dev_stream *base, void *cookie)
{
    struct stream *s = (struct stream *)base;
    struct mark *mark = op_alloc(sizeof *mark);

    *mark = (struct mark){s, cookie};
    base_pool_submit(s->queue, run_mark, mark);
}

/* What the stream's thread has written is seen by who has found it idle. */
static bool host_stream_idle(struct dev_stream *base, int *code)
{
    struct stream *s = (struct stream *)base;

    if (!base_pool_idle(s->queue))
        return false;
    *code = s->error.code;
    return true;
}

static void host_stream_wait(struct dev_stream *base, struct dev_gate *gate)
{
    struct stream *s = (struct stream *)base;
    struct wait *wait = op_alloc(sizeof *wait);

    *wait = (struct wait){s, (struct gate *)gate};
    atomic_fetch_add(&wait->gate->refs, 1);
    base_pool_submit(s->queue, run_wait, wait);
}

/* Queues itself as the last operation: exact, whoever else is issuing. */
static int host_stream_sync(struct dev_stream *base)
{
    struct stream *s = (struct stream *)base;
    struct sync sync;

    if (own_stream == s)
        return base_fail(-EDEADLK, "sync stream %llu: called from a job or a completion of that stream",
                         (unsigned long long)base->id);
    sync.stream = s;
    sync.reached = false;
    sync.error.code = 0;
    base_pool_submit(s->queue, run_sync, &sync);
    pthread_mutex_lock(&s->lock);
    while (!sync.reached)
        pthread_cond_wait(&s->synced, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return sync.error.code != 0 ? base_error_restore(&sync.error) : 0;
}

static int host_stream_create(struct dev *d, struct dev_stream **out)
{
    struct stream *s = calloc(1, sizeof *s);
    int rc;

    if (!s)
        return base_fail_errno(-ENOMEM, "create stream: %zu bytes", sizeof *s);
    rc = base_pool_create(1, "ofl-stream", &s->queue);
    if (rc != 0) {
        free(s);
        return rc;
    }
    s->host = (struct host *)d;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->synced, NULL);
    *out = &s->base;
    return 0;
}

static void host_stream_destroy(struct dev_stream *base)
{
    struct stream *s = (struct stream *)base;

    base_pool_destroy(s->queue);
    pthread_cond_destroy(&s->synced);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- device ------------------------------------------------------------ */

/* Reserves address space only: a page costs memory from its first touch on. */
static int arena_map(struct host *h)
{
    uint64_t bytes = h->base.config.arena_bytes, page = (uint64_t)sysconf(_SC_PAGESIZE);
    uintptr_t start, base;
    size_t slack;
    void *map = MAP_FAILED;

    errno = ENOMEM;
    if (bytes <= SIZE_MAX / 2) {
        h->mapped_bytes = (bytes + page - 1) / page * page;
        map = mmap(NULL, h->mapped_bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (map == MAP_FAILED)
        return base_fail_errno(-errno, "map device arena: %llu bytes", (unsigned long long)bytes);
    start = (uintptr_t)map;
    base = (start + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    slack = HUGE_BYTES - (base - start);
    h->base.arena = (void *)base;
    /* cannot fail on the mapping's own ends, and would cost address space only */
    if (base > start)
        munmap(map, base - start);
    if (slack > 0)
        munmap((void *)(base + h->mapped_bytes), slack);
    /* a wish: where the kernel has no huge pages, the small ones do */
    if (h->mapped_bytes >= 2 * HUGE_BYTES)
        (void)madvise(h->base.arena, h->mapped_bytes, MADV_HUGEPAGE);
    /* no child of fork can use it: it need not pay for what is written to it meanwhile */
    (void)madvise(h->base.arena, h->mapped_bytes, MADV_DONTFORK);
    return 0;
}

static void host_close(struct dev *d)
{
    struct host *h = (struct host *)d;

    base_pool_destroy(h->in.queue);
    base_pool_destroy(h->out.queue);
    if (h->base.arena)
        munmap(h->base.arena, h->mapped_bytes);
    free(h);
}

static int host_open(unsigned unit, const struct dev_config *config, struct dev **out)
{
    struct host *h = calloc(1, sizeof *h);
    int rc;

    (void)unit;
    if (!h)
        return base_fail_errno(-ENOMEM, "open device \"host\": %zu bytes", sizeof *h);
    h->base.config = *config;
    strcpy(h->base.name, "host");
    rc = arena_map(h);
    if (rc == 0)
        rc = base_pool_create(1, "ofl-in", &h->in.queue);
    if (rc == 0)
        rc = base_pool_create(1, "ofl-out", &h->out.queue);
    if (rc != 0) {
        host_close(&h->base);
        return rc;
    }
    *out = &h->base;
    return 0;
}

static void host_stats(struct dev *d, struct dev_stats *out)
{
    const struct host *h = (const struct host *)d;

    *out = (struct dev_stats){
        .in_bytes = total(&h->in.bytes),
        .out_bytes = total(&h->out.bytes),
        .in_copies = total(&h->in.copies),
        .out_copies = total(&h->out.copies),
        .in_busy_ns = total(&h->in.busy_ns),
        .out_busy_ns = total(&h->out.busy_ns),
        .stall_ns = total(&h->stall_ns),
        .job_ns = total(&h->job_ns),
    };
}

const struct dev_backend dev_backend_host = {
    .name = "host",
    .units = 1,
    .open = host_open,
    .close = host_close,
    .stats = host_stats,
    .copy_in = host_copy_in,
    .copy_out = host_copy_out,
    .fill = host_fill,
    .stream_create = host_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_mark = host_stream_mark,
    .stream_idle = host_stream_idle,
    .stream_wait = host_stream_wait,
    .stream_label = host_stream_label,
    .stream_launch = host_stream_launch,
    .stream_sync = host_stream_sync,
    .gate_create = host_gate_create,
    .gate_open = host_gate_open,
};
