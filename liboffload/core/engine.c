/* engine: see engine.h. */
#include "liboffload/core/engine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "liboffload/core/tile.h"

/* How often deadlines are looked at while I/O is in flight. */
#define TICK_MS 500
/* How soon what there was no memory for is tried again. */
#define HUNGRY_MS 5
#define REAP_MAX  64u
/* How often who holds the lock hears what was posted meanwhile, before it leaves that to the engine thread. */
#define HEAR_ROUNDS 4

/* ---- the lock, and the mail that comes meanwhile ------------------------ */

/* The engine thread has something to do. */
static void wake(struct core_engine *e)
{
    uint64_t one = 1;

    if (!atomic_exchange(&e->asleep, false))
        return;
    /* The counter can't overflow in 2^64 wakes; a failed write means it is readable already. */
    while (write(e->mail_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Under lock. */
static void take_mail(struct core_engine *e)
{
    struct core_request *ended;
    struct core_op *ops;

    if (!atomic_load(&e->mail))
        return;
    pthread_mutex_lock(&e->mail_lock);
    ops = e->ops;
    ended = e->ended;
    e->ops = NULL;
    e->ops_tail = &e->ops;
    e->ended = NULL;
    atomic_store(&e->mail, false);
    pthread_mutex_unlock(&e->mail_lock);
    while (ops) {
        struct core_op *next = ops->next;

        pager_done(&e->pager, ops);
        ops = next;
    }
    while (ended) {
        struct core_request *next = ended->next;

        pager_request_end(&e->pager, ended);
        ended = next;
    }
}

/* Under lock: gives the I/O that the pager wants to the queue. Where that is taken, by who flushes it or asks
 * for statistics, it is left to the engine thread. */
static void queue_io(struct core_engine *e)
{
    struct core_op *op = e->submit;

    if (!op || pthread_mutex_trylock(&e->io_lock) != 0)
        return;
    while (op) {
        struct core_op *next = op->next;

        io_submit(e->io, &op->io);
        op = next;
    }
    e->submit = NULL;
    e->submit_tail = &e->submit;
    e->startable = io_queue_startable(e->io);
    pthread_mutex_unlock(&e->io_lock);
}

/* Under lock: what the tiers hold, if anybody wants to know. */
static void tell_levels(struct core_engine *e)
{
    struct pager *p = &e->pager;

    if (timeline_on(&e->timeline))
        record_levels(&e->timeline, &e->levels,
                      (const uint64_t[OFL_TIERS]){[OFL_DEVICE] = p->device_used,
                                                  [OFL_HOST] = tile_host_used(p),
                                                  [OFL_NVME] = p->store ? store_used(p->store) : 0});
}

/* Under lock: starts what can start. */
static void advance(struct core_engine *e)
{
    e->more = pager_pump(&e->pager);
    queue_io(e);
    tell_levels(e);
    if (e->blocked && e->pager.changes != e->progress_seen) {
        e->progress_seen = e->pager.changes;
        pthread_cond_broadcast(&e->progress);
    }
}

static void hold(struct core_engine *e)
{
    pthread_mutex_lock(&e->lock);
    atomic_store(&e->held, true);
}

/* Under lock, which is to be given up: true if there is mail that nobody else will hear of. */
static bool detained(struct core_engine *e)
{
    atomic_store(&e->held, false);
    if (!atomic_load(&e->mail))
        return false;
    atomic_store(&e->held, true);
    return true;
}

/* Under lock: hears what was posted meanwhile. True: the rest is the engine thread's. */
static bool conclude(struct core_engine *e)
{
    for (int i = 0; detained(e); i++) {
        if (i == HEAR_ROUNDS) {
            atomic_store(&e->held, false);
            return true;
        }
        take_mail(e);
        advance(e);
    }
    return e->submit || e->startable || e->more || e->closing;
}

/* Gives up the lock, and sees to it that somebody goes on with what is left. */
static void let_go(struct core_engine *e)
{
    bool left = conclude(e);

    if (left)
        atomic_store(&e->due, true);
    pthread_mutex_unlock(&e->lock);
    if (left)
        wake(e);
}

/* There is mail: see engine.h. */
static void deliver(struct core_engine *e)
{
    if (atomic_load(&e->held))
        return;
    if (pthread_mutex_trylock(&e->lock) != 0) {
        wake(e);
        return;
    }
    if (!atomic_load(&e->mail)) { /* heard already; the pager may be gone by now */
        pthread_mutex_unlock(&e->lock);
        return;
    }
    atomic_store(&e->held, true);
    take_mail(e);
    advance(e);
    let_go(e);
}

void engine_post(struct core_engine *e, struct core_op *op)
{
    op->next = NULL;
    pthread_mutex_lock(&e->mail_lock);
    *e->ops_tail = op;
    e->ops_tail = &op->next;
    atomic_store(&e->mail, true);
    pthread_mutex_unlock(&e->mail_lock);
    deliver(e);
}

static void post_request(struct core_engine *e, struct core_request *r)
{
    pthread_mutex_lock(&e->mail_lock);
    r->next = e->ended;
    e->ended = r;
    atomic_store(&e->mail, true);
    pthread_mutex_unlock(&e->mail_lock);
    deliver(e);
}

/* ---- what the pager asks for ------------------------------------------- */

static void env_io(void *arg, struct core_op *op)
{
    struct core_engine *e = arg;

    op->next = NULL;
    *e->submit_tail = op;
    e->submit_tail = &op->next;
}

/* Worker thread. */
static void seal_job(void *arg)
{
    struct core_op *op = arg;
    struct core_engine *e = op->env;
    uint64_t start = record_now(&e->timeline);

    op->seal = store_seal(op->seal_bytes, op->seal_count);
    record_job(&e->timeline, TIMELINE_SEAL, op->tensor, start, op->seal_count);
    engine_post(e, op);
}

static void env_seal(void *arg, struct core_op *op)
{
    struct core_engine *e = arg;

    op->env = e;
    base_pool_submit_first(e->pool, seal_job, op);
}

/* Worker thread. */
static void zero_job(void *arg)
{
    struct core_op *op = arg;

    memset(op->zero_bytes, 0, op->seal_count);
    engine_post(op->env, op);
}

static void env_zero(void *arg, void *bytes, uint64_t count, struct core_op *op)
{
    struct core_engine *e = arg;

    op->env = e;
    op->zero_bytes = bytes;
    op->seal_count = count;
    base_pool_submit_first(e->pool, zero_job, op);
}

static void env_copy_in(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    dev_copy_in(((struct core_engine *)arg)->dev, dst, src, bytes, op);
}

static void env_copy_out(void *arg, void *dst, const void *src, uint64_t bytes, struct core_op *op)
{
    dev_copy_out(((struct core_engine *)arg)->dev, dst, src, bytes, op);
}

static void env_fill(void *arg, void *dst, uint8_t byte, uint64_t bytes, struct core_op *op)
{
    dev_fill(((struct core_engine *)arg)->dev, dst, byte, bytes, op);
}

static int env_gate_create(void *arg, struct dev_gate **gate)
{
    return dev_gate_create(((struct core_engine *)arg)->dev, gate);
}

static void env_gate_open(void *arg, struct dev_gate *gate, const struct base_error *error)
{
    (void)arg;
    dev_gate_open(gate, error);
}

static void env_blame(void *arg, struct dev_gate *gate, struct ofl_tensor *t, enum ofl_stall_reason why)
{
    dev_gate_note(gate, record_note(&((struct core_engine *)arg)->timeline, t, why));
}

static const char *env_why(void *arg, int code)
{
    return dev_check(((struct core_engine *)arg)->dev) == code ? base_error_text() : base_strerror(code);
}

/* Worker thread. */
static void work_job(void *arg)
{
    struct core_request *r = arg;
    struct core_engine *e = r->arg;
    uint64_t start = record_now(&e->timeline);

    pager_request_run(r, UINT64_MAX);
    record_job(&e->timeline, TIMELINE_UPDATE, r->refs[0].tensor, start, 0);
    post_request(e, r);
}

static void env_work(void *arg, struct core_request *r)
{
    r->arg = arg;
    base_pool_submit(((struct core_engine *)arg)->pool, work_job, r);
}

/* ---- commands ---------------------------------------------------------- */

/* Under lock: waits for progress, unless there is some already. */
static void await_progress(struct core_engine *e)
{
    if (detained(e)) {
        take_mail(e);
        advance(e);
        return;
    }
    if (e->submit || e->startable || e->more) {
        atomic_store(&e->due, true);
        wake(e);
    }
    e->blocked++;
    pthread_cond_wait(&e->progress, &e->lock);
    e->blocked--;
    atomic_store(&e->held, true);
}

int engine_call(struct core_engine *e, int (*run)(void *self, void *arg), void *self, void *arg)
{
    int err;

    hold(e);
    take_mail(e);
    for (;;) {
        uint64_t then;

        err = run(self, arg);
        if (err == -EAGAIN && e->pager.broken.code)
            err = pager_check(&e->pager);
        then = e->pager.changes;
        advance(e);
        if (err != -EAGAIN)
            break;
        if (e->pager.changes == then)
            await_progress(e);
    }
    let_go(e);
    return err;
}

/* ---- the engine thread ------------------------------------------------- */

/* Takes what the drive has finished. True: there may be more. */
static bool reap(struct core_engine *e)
{
    struct io_request *done[REAP_MAX], *late[REAP_MAX];
    unsigned done_count, late_count;

    pthread_mutex_lock(&e->io_lock);
    done_count = io_reap(e->io, done, REAP_MAX);
    late_count = io_late(e->io, late, REAP_MAX);
    pthread_mutex_unlock(&e->io_lock);
    for (unsigned i = 0; i < done_count; i++)
        if (done[i]->op == IO_READ)
            e->read_ended(done[i]->cookie);
    hold(e);
    for (unsigned i = 0; i < late_count; i++)
        pager_late(&e->pager, late[i]->cookie);
    for (unsigned i = 0; i < done_count; i++)
        pager_done(&e->pager, done[i]->cookie);
    return done_count == REAP_MAX || late_count == REAP_MAX;
}

/* Has the queue start what it can, ops among it. True: something is in flight. */
static bool start_io(struct core_engine *e, struct core_op *ops, bool startable)
{
    bool pending;

    pthread_mutex_lock(&e->io_lock);
    startable |= ops != NULL;
    while (ops) {
        struct core_op *next = ops->next;

        io_submit(e->io, &ops->io);
        ops = next;
    }
    if (startable)
        io_flush(e->io);
    pending = io_queue_pending(e->io) > 0;
    pthread_mutex_unlock(&e->io_lock);
    return pending;
}

/* One round. Returns how long nothing is to be done, in ms; -1: until somebody says so. */
static int serve(struct core_engine *e)
{
    struct core_op *ops;
    bool more, hungry, waiting, startable;

    while (reap(e))
        pthread_mutex_unlock(&e->lock);
    take_mail(e);
    advance(e);
    (void)conclude(e);
    ops = e->submit;
    startable = e->startable;
    e->submit = NULL;
    e->submit_tail = &e->submit;
    e->startable = false;
    more = e->more;
    hungry = e->pager.hungry;
    waiting = e->blocked > 0;
    pthread_mutex_unlock(&e->lock);
    waiting |= start_io(e, ops, startable);
    if (more)
        return hungry ? HUNGRY_MS : 0;
    return waiting ? TICK_MS : -1;
}

/* True: nothing is in flight, and nobody is to come any more. */
static bool over(struct core_engine *e, int *timeout_ms)
{
    bool stopping, over;

    pthread_mutex_lock(&e->mail_lock);
    stopping = e->stopping;
    pthread_mutex_unlock(&e->mail_lock);
    if (!stopping)
        return false;
    hold(e);
    e->closing = true;
    if (e->pager.broken.code == 0) {
        base_error_set(&e->pager.broken, -ECANCELED, "the context is closing"); /* nothing new starts */
        e->pager.changes++;
        *timeout_ms = 0;
    }
    (void)conclude(e);
    over = !e->submit && e->pager.inflight == 0 && e->pager.active == 0;
    pthread_mutex_unlock(&e->lock);
    if (*timeout_ms < 0)
        *timeout_ms = TICK_MS;
    return over;
}

static void *engine(void *arg)
{
    struct core_engine *e = arg;
    struct pollfd fds[2] = {{.fd = e->mail_fd, .events = POLLIN},
                            {.fd = io_queue_fd(e->io), .events = POLLIN}};
    int timeout_ms = 0;

    pthread_setname_np(pthread_self(), "ofl-engine");
    while (!over(e, &timeout_ms)) {
        uint64_t count;

        atomic_store(&e->asleep, true);
        /* A poll that fails (EINTR) is a wake-up like any other. */
        if (!atomic_exchange(&e->due, false) && !atomic_load(&e->mail))
            poll(fds, 2, timeout_ms);
        atomic_store(&e->asleep, false);
        if (fds[0].revents)
            while (read(e->mail_fd, &count, sizeof count) < 0 && errno == EINTR)
                ;
        fds[0].revents = 0;
        timeout_ms = serve(e);
    }
    return NULL;
}

/* ---- life -------------------------------------------------------------- */

int engine_open(struct core_engine *e)
{
    e->ops_tail = &e->ops;
    e->submit_tail = &e->submit;
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->io_lock, NULL);
    pthread_mutex_init(&e->mail_lock, NULL);
    pthread_cond_init(&e->progress, NULL);
    timeline_init(&e->timeline);
    e->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->mail_fd < 0 ? base_fail_errno(-errno, "open context: eventfd") : 0;
}

int engine_start(struct core_engine *e)
{
    struct core_env *env = &e->pager.env;
    sigset_t all, old;
    int err;

    env->arg = e;
    env->io = env_io;
    env->seal = env_seal;
    env->zero = env_zero;
    env->copy_in = env_copy_in;
    env->copy_out = env_copy_out;
    env->fill = env_fill;
    env->work = env_work;
    env->gate_create = env_gate_create;
    env->gate_open = env_gate_open;
    env->blame = env_blame;
    env->why = env_why;
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = -pthread_create(&e->thread, NULL, engine, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err < 0)
        return base_fail_errno(err, "open context: start the engine thread");
    e->runs = true;
    return 0;
}

void engine_stop(struct core_engine *e)
{
    if (!e->runs)
        return;
    pthread_mutex_lock(&e->mail_lock);
    e->stopping = true;
    pthread_mutex_unlock(&e->mail_lock);
    atomic_store(&e->asleep, true); /* it may be about to: one wake too many does no harm */
    wake(e);
    pthread_join(e->thread, NULL);
    e->runs = false;
}

void engine_close(struct core_engine *e)
{
    if (e->mail_fd >= 0)
        close(e->mail_fd);
    timeline_destroy(&e->timeline);
    pthread_cond_destroy(&e->progress);
    pthread_mutex_destroy(&e->mail_lock);
    pthread_mutex_destroy(&e->io_lock);
    pthread_mutex_destroy(&e->lock);
}

uint64_t engine_busy_ns(const struct core_engine *e)
{
    struct timespec t = {0};
    clockid_t clock;

    if (!e->runs || pthread_getcpuclockid(e->thread, &clock) != 0 || clock_gettime(clock, &t) < 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
