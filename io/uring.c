/*
 * The io_uring engine: owns one ring. Its eventfd is the queue's.
 *
 * The ring is set up without IORING_SETUP_SINGLE_ISSUER unless IO_QUEUE_DEFER asks for
 * it, since the thread that opens a queue need not be its owner. Note that the kernel cancels what a
 * thread has in flight when that thread ends: an owner collects first.
 */
#include "io/engine.h"

#include <errno.h>
#include <stdlib.h>

#ifndef OFL_WITH_URING
#define OFL_WITH_URING 1
#endif

#if OFL_WITH_URING

#include <inttypes.h>
#include <liburing.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "io/file.h"

#define BUFFERS_MAX  1024u /* registered regions, of at most REGION_BYTES: the kernel's limit */
#define REGION_BYTES (1ull << 30)
#define FILES_MAX    256u
#define IDLE_MS      50u /* after which the submission thread sleeps */
/* RLIMIT_MEMLOCK is a user's, and what his rings held comes back some time after they were closed (or
 * their process was killed): that long it is waited for. */
#define MEMLOCK_WAIT_MS 1000u

struct region {
    char *base;
    uint64_t bytes;
    unsigned index; /* in the kernel's table */
};

struct uring {
    struct io_backend base;
    struct io_uring ring;
    int event_fd;
    unsigned unfinished;      /* started, not collected */
    unsigned cancels;         /* cancellations, not collected */
    bool writes;              /* among what was started since the last complete flush */
    bool polled;              /* a kernel thread takes what is started, at any time */
    struct io_transfers back; /* called back before the kernel had them */
    struct region *regions;   /* by address */
    unsigned region_count, file_count;
    bool has_buffers, has_files; /* the ring's tables are there */
};

/* The registered region that holds the whole of t's buffer, or -1. */
static int find_region(const struct uring *u, const struct io_transfer *t)
{
    unsigned low = 0, high = u->region_count;
    const char *buf = t->buf;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        const struct region *r = &u->regions[mid];

        if (buf < r->base)
            high = mid;
        else if (buf >= r->base + r->bytes)
            low = mid + 1;
        else
            return (uint64_t)(buf - r->base) + t->bytes <= r->bytes ? (int)r->index : -1;
    }
    return -1;
}

static int uring_start(struct io_backend *b, struct io_transfer *t)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    int fd = t->slot >= 0 ? t->slot : t->fd, region = find_region(u, t);

    /* the ring has an entry for every transfer, so this is the queue's mistake */
    if (!sqe)
        return -EBUSY;
    if (t->op == IO_READ && region >= 0)
        io_uring_prep_read_fixed(sqe, fd, t->buf, t->bytes, t->offset, region);
    else if (t->op == IO_READ)
        io_uring_prep_read(sqe, fd, t->buf, t->bytes, t->offset);
    else if (region >= 0)
        io_uring_prep_write_fixed(sqe, fd, t->buf, t->bytes, t->offset, region);
    else
        io_uring_prep_write(sqe, fd, t->buf, t->bytes, t->offset);
    if (t->slot >= 0)
        sqe->flags |= IOSQE_FIXED_FILE;
    /* Buffered transfers copy: that is for the kernel's workers, not for the owner's thread. */
    if (t->block == 1)
        sqe->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(sqe, t);
    u->writes |= t->op == IO_WRITE;
    u->unfinished++;
    return 0;
}

static int submit_all(struct io_uring *ring)
{
    while (io_uring_sq_ready(ring)) {
        int rc = io_uring_submit(ring);

        if (rc < 0 && rc != -EINTR)
            return rc;
        if (rc == 0)
            return -EAGAIN;
    }
    return 0;
}

static int submit_and_wait(struct io_uring *ring, uint64_t timeout_ns)
{
    struct __kernel_timespec t = {.tv_sec = (int64_t)(timeout_ns / 1000000000u),
                                  .tv_nsec = (long long)(timeout_ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &t, NULL);

    return rc == -ETIME || rc == -EINTR || rc == -EAGAIN ? 0 : rc < 0 ? rc : 0;
}

/* The kernel may run a write, and raise SIGXFSZ, inside the call: only where there is a limit. */
static bool guard(struct uring *u, struct io_sigxfsz *g)
{
    struct rlimit limit;

    if (!u->writes || getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    io_sigxfsz_block(g);
    return true;
}

static int uring_flush(struct io_backend *b)
{
    struct uring *u = (struct uring *)b;
    struct io_sigxfsz g;
    bool guarded;
    int rc;

    if (!io_uring_sq_ready(&u->ring))
        return 0;
    guarded = guard(u, &g);
    rc = submit_all(&u->ring);
    if (guarded)
        io_sigxfsz_restore(&g);
    if (rc == 0)
        u->writes = false;
    return rc;
}

static int uring_wait(struct io_backend *b, uint64_t timeout_ns)
{
    struct uring *u = (struct uring *)b;
    struct io_sigxfsz g;
    bool guarded;
    int rc;

    if (u->back.head)
        return uring_flush(b);
    guarded = guard(u, &g);
    rc = submit_and_wait(&u->ring, timeout_ns);

    if (guarded)
        io_sigxfsz_restore(&g);
    u->writes = u->writes && io_uring_sq_ready(&u->ring);
    return rc;
}

static int uring_arm(struct io_backend *b)
{
    struct uring *u = (struct uring *)b;

    return io_uring_register_eventfd(&u->ring, u->event_fd);
}

static unsigned uring_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_cqe *cqes[64];
    unsigned n = 0, called_back, got;

    while (n < max && (done[n] = io_transfers_pop(&u->back)))
        n++;
    called_back = n;
    do {
        unsigned room = max - n < 64 ? max - n : 64;

        got = io_uring_peek_batch_cqe(&u->ring, cqes, room);
        for (unsigned i = 0; i < got; i++) {
            struct io_transfer *t = io_uring_cqe_get_data(cqes[i]);

            if (!t) {
                u->cancels--;
                continue;
            }
            t->result = cqes[i]->res;
            done[n++] = t;
        }
        io_uring_cq_advance(&u->ring, got);
    } while (got && n < max);
    u->unfinished -= n - called_back;
    return n;
}

/* t's entry in the ring, if the kernel has not taken it yet. */
static struct io_uring_sqe *find_entry(struct uring *u, const struct io_transfer *t)
{
    unsigned count = u->polled ? 0 : io_uring_sq_ready(&u->ring), last = u->ring.sq.sqe_tail;

    for (unsigned i = 1; i <= count; i++) {
        struct io_uring_sqe *sqe = &u->ring.sq.sqes[(last - i) & *u->ring.sq.kring_mask];

        if (sqe->user_data == (uintptr_t)t)
            return sqe;
    }
    return NULL;
}

/* What the kernel does not have yet comes back at once, and leaves an empty operation. For the rest
 * it is best effort: transfers that the drive has can rarely be called back. */
static void uring_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_sqe *sqe = find_entry(u, t);

    if (sqe) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, NULL);
        u->unfinished--;
        u->cancels++;
        t->result = -ECANCELED;
        io_transfers_push(&u->back, t);
        io_event_signal(u->event_fd);
        return;
    }
    sqe = io_uring_get_sqe(&u->ring);
    if (!sqe)
        return;
    io_uring_prep_cancel(sqe, t, 0);
    io_uring_sqe_set_data(sqe, NULL);
    u->cancels++;
}

/* Whether a refusal for want of lockable memory is to be tried once more, now that some time has passed. */
static bool wait_for_memlock(int code, uint64_t bytes, unsigned *waited_ms)
{
    unsigned ms = *waited_ms < 16 ? 1 : *waited_ms < 128 ? 8 : 50;
    const struct timespec t = {.tv_nsec = ms * 1000000};
    struct rlimit limit;

    if (code != -ENOMEM || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur < bytes)
        return false; /* it never fits */
    if (*waited_ms >= MEMLOCK_WAIT_MS)
        return false;
    nanosleep(&t, NULL);
    *waited_ms += ms;
    return true;
}

static int add_region(struct uring *u, char *base, uint64_t bytes)
{
    unsigned waited_ms = 0;
    struct iovec iov = {.iov_base = base, .iov_len = bytes};
    unsigned at = 0, index = u->region_count;
    struct region *all;
    int rc;

    if (index == BUFFERS_MAX)
        return -ENOSPC;
    while (at < index && u->regions[at].base < base)
        at++;
    if ((at > 0 && base < u->regions[at - 1].base + u->regions[at - 1].bytes) ||
        (at < index && base + bytes > u->regions[at].base))
        return -EINVAL; /* found by address: apart */
    all = realloc(u->regions, (index + 1) * sizeof *all);
    if (!all)
        return -ENOMEM;
    u->regions = all;
    do
        rc = io_uring_register_buffers_update_tag(&u->ring, index, &iov, NULL, 1);
    while (wait_for_memlock(rc, bytes, &waited_ms));
    if (rc < 0)
        return rc;
    memmove(all + at + 1, all + at, (index - at) * sizeof *all);
    all[at] = (struct region){base, bytes, index};
    u->region_count++;
    return 0;
}

static int uring_register_buffers(struct io_backend *b, void *base, uint64_t bytes)
{
    struct uring *u = (struct uring *)b;
    struct rlimit limit = {0};
    int rc = 0;

    if (!u->has_buffers) {
        rc = io_uring_register_buffers_sparse(&u->ring, BUFFERS_MAX);
        u->has_buffers = rc == 0;
    }
    for (uint64_t at = 0; at < bytes && rc == 0; at += REGION_BYTES)
        rc = add_region(u, (char *)base + at, bytes - at < REGION_BYTES ? bytes - at : REGION_BYTES);
    if (rc == -ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return base_fail(rc,
                         "register buffers of %" PRIu64 " bytes: RLIMIT_MEMLOCK (ulimit -l) is %" PRIu64
                         " bytes%s: %s",
                         bytes, (uint64_t)limit.rlim_cur,
                         limit.rlim_cur < bytes ? "" : " for all rings of this user", base_strerror(rc));
    return rc < 0 ? base_fail_errno(rc, "register buffers of %" PRIu64 " bytes", bytes) : 0;
}

static int uring_register_file(struct io_backend *b, int fd)
{
    struct uring *u = (struct uring *)b;
    int rc;

    if (!u->has_files) {
        rc = io_uring_register_files_sparse(&u->ring, FILES_MAX);
        if (rc < 0)
            return rc;
        u->has_files = true;
    }
    if (u->file_count == FILES_MAX)
        return -ENOSPC;
    rc = io_uring_register_files_update(&u->ring, u->file_count, &fd, 1);
    return rc < 0 ? rc : (int)u->file_count++;
}

static void uring_close(struct io_backend *b)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_cqe *cqe;

    /* what the kernel never got (sq_ready) can't touch a buffer */
    while (u->unfinished + u->cancels > io_uring_sq_ready(&u->ring)) {
        int rc = io_uring_wait_cqe(&u->ring, &cqe);

        if (rc == -EINTR || rc == -EAGAIN)
            continue;
        if (rc < 0)
            break;
        if (io_uring_cqe_get_data(cqe))
            u->unfinished--;
        else
            u->cancels--;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    /* A ring goes in its own time, and would keep files (and their space), and memory that the user
     * may lock, until then. */
    if (u->has_buffers)
        (void)io_uring_unregister_buffers(&u->ring);
    if (u->has_files)
        (void)io_uring_unregister_files(&u->ring);
    io_uring_queue_exit(&u->ring);
    free(u->regions);
    free(u);
}

static const struct io_backend_ops uring_ops = {
    .start = uring_start,
    .flush = uring_flush,
    .collect = uring_collect,
    .close = uring_close,
    .wait = uring_wait,
    .arm = uring_arm,
    .cancel = uring_cancel,
    .register_buffers = uring_register_buffers,
    .register_file = uring_register_file,
};

/* 0 if the kernel's io_uring has the two operations. */
static int has_operations(struct io_uring *ring)
{
    const unsigned ops = 256;
    struct io_uring_probe *probe = calloc(1, sizeof *probe + ops * sizeof probe->ops[0]);
    int rc;

    if (!probe)
        return -ENOMEM;
    rc = io_uring_register_probe(ring, probe, ops);
    if (rc == -EINVAL || (rc == 0 && (!io_uring_opcode_supported(probe, IORING_OP_READ) ||
                                      !io_uring_opcode_supported(probe, IORING_OP_WRITE))))
        rc = -EOPNOTSUPP; /* kernels that can't be asked are too old to have them */
    free(probe);
    return rc;
}

/* A ring that can be made may still be unusable: a filter may forbid io_uring_enter alone, and
 * kernels before 5.6 lack the operations. So one empty operation makes the round trip. */
static int prove(struct io_uring *ring)
{
    struct io_uring_sqe *sqe;
    struct io_uring_cqe *cqe;
    int rc = has_operations(ring);

    if (rc < 0)
        return rc;
    if (!(sqe = io_uring_get_sqe(ring)))
        return -EBUSY;
    io_uring_prep_nop(sqe);
    do
        rc = io_uring_submit(ring);
    while (rc == -EINTR);
    if (rc < 0)
        return rc;
    do
        rc = io_uring_wait_cqe(ring, &cqe);
    while (rc == -EINTR);
    if (rc < 0)
        return rc;
    rc = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return rc;
}

static int refuse(int code)
{
    struct rlimit limit = {0};

    switch (code) {
    case -EPERM:
    case -EACCES:
        return base_fail(code,
                         "open io_uring: forbidden, by kernel.io_uring_disabled or a seccomp filter: %s",
                         base_strerror(code));
    case -ENOSYS:
        return base_fail(code, "open io_uring: not in this kernel, or hidden by a seccomp filter: %s",
                         base_strerror(code));
    case -EOPNOTSUPP:
        return base_fail(code, "open io_uring: this kernel's has no read and write (Linux 5.6 has)");
    case -ENOMEM:
        (void)getrlimit(RLIMIT_MEMLOCK, &limit);
        return base_fail(
            code, "open io_uring: no memory, or more than RLIMIT_MEMLOCK (ulimit -l), %" PRIu64 " bytes: %s",
            (uint64_t)limit.rlim_cur, base_strerror(code));
    default:
        return base_fail_errno(code, "open io_uring");
    }
}

/* A ring as asked for. Without flags: completions that wait for the owner's next call instead of
 * interrupting it, where the kernel knows that (5.19). */
static int open_ring(uint32_t count, uint32_t flags, struct io_uring *ring)
{
    struct io_uring_params p = {0};
    uint32_t entries = count * 2; /* room for cancellations */
    /* what kernels that count rings count: entries, and twice as many completions */
    uint64_t bytes = entries * (sizeof(struct io_uring_sqe) + 2 * sizeof(struct io_uring_cqe));
    unsigned waited_ms = 0;
    int rc;

    if (flags & IO_QUEUE_SQPOLL) {
        p.flags |= IORING_SETUP_SQPOLL;
        p.sq_thread_idle = IDLE_MS;
    } else if (flags & IO_QUEUE_DEFER) {
        p.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    } else {
        p.flags |= IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    }
    if (flags & IO_QUEUE_IOPOLL)
        p.flags |= IORING_SETUP_IOPOLL;
    do
        rc = io_uring_queue_init_params(entries, ring, &p);
    while (wait_for_memlock(rc, bytes, &waited_ms));
    return rc == -EINVAL && !flags ? io_uring_queue_init(entries, ring, 0) : rc;
}

int io_backend_uring(uint32_t count, uint32_t flags, int event_fd, struct io_backend **out)
{
    struct uring *u = calloc(1, sizeof *u);
    int rc;

    if (!u)
        return base_fail_errno(-ENOMEM, "open io_uring");
    rc = open_ring(count, flags, &u->ring);
    if (rc < 0) {
        free(u);
        return refuse(rc);
    }
    rc = io_uring_ring_dontfork(&u->ring);     /* a forked child must not share the ring's memory */
    if (rc == 0 && !(flags & IO_QUEUE_IOPOLL)) /* which takes no empty operation */
        rc = prove(&u->ring);
    if (rc < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return refuse(rc);
    }
    u->event_fd = event_fd;
    u->polled = flags & IO_QUEUE_SQPOLL;
    u->base.ops = &uring_ops;
    *out = &u->base;
    return 0;
}

#else

int io_backend_uring(uint32_t count, uint32_t flags, int event_fd, struct io_backend **out)
{
    (void)count;
    (void)flags;
    (void)event_fd;
    (void)out;
    return base_fail(-ENOSYS, "open io_uring: this library was built without liburing");
}

#endif
