/*
 * The io_uring engine: owns one ring. Its eventfd is the queue's.
 *
 * The ring is set up without IORING_SETUP_SINGLE_ISSUER, since the thread that
 * opens a queue need not be its owner. Note that the kernel cancels what a
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

#include "io/file.h"

struct uring {
    struct io_backend base;
    struct io_uring ring;
    unsigned unfinished; /* started, not collected */
    bool writes;         /* among what was started since the last complete flush */
};

static int uring_start(struct io_backend *b, struct io_transfer *t)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    /* the ring has an entry for every transfer of the depth, so this is the queue's mistake */
    if (!sqe)
        return -EBUSY;
    if (t->op == IO_READ) {
        io_uring_prep_read(sqe, t->fd, t->buf, t->bytes, t->offset);
    } else {
        io_uring_prep_write(sqe, t->fd, t->buf, t->bytes, t->offset);
        u->writes = true;
    }
    /* Buffered transfers copy: that is for the kernel's workers, not for the owner's thread. */
    if (t->block == 1)
        sqe->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(sqe, t);
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

static int uring_flush(struct io_backend *b)
{
    struct uring *u = (struct uring *)b;
    struct io_sigxfsz guard;
    int rc;

    if (!u->writes)
        return submit_all(&u->ring);
    /* the kernel may run a write, and raise the signal, inside the call */
    io_sigxfsz_block(&guard);
    rc = submit_all(&u->ring);
    io_sigxfsz_restore(&guard);
    if (rc == 0)
        u->writes = false;
    return rc;
}

static unsigned uring_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_cqe *cqe;
    unsigned n = 0;

    while (n < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct io_transfer *t = io_uring_cqe_get_data(cqe);

        t->result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        done[n++] = t;
    }
    u->unfinished -= n;
    return n;
}

static void uring_close(struct io_backend *b)
{
    struct uring *u = (struct uring *)b;
    struct io_uring_cqe *cqe;

    /* what the kernel never got (sq_ready) can't touch a buffer */
    while (u->unfinished > io_uring_sq_ready(&u->ring)) {
        int rc = io_uring_wait_cqe(&u->ring, &cqe);

        if (rc == -EINTR || rc == -EAGAIN)
            continue;
        if (rc < 0)
            break;
        io_uring_cqe_seen(&u->ring, cqe);
        u->unfinished--;
    }
    io_uring_queue_exit(&u->ring);
    free(u);
}

static const struct io_backend_ops uring_ops = {
    .start = uring_start,
    .flush = uring_flush,
    .collect = uring_collect,
    .close = uring_close,
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

int io_backend_uring(uint32_t depth, int event_fd, struct io_backend **out)
{
    struct uring *u = calloc(1, sizeof *u);
    int rc;

    if (!u)
        return base_fail_errno(-ENOMEM, "open io_uring");
    rc = io_uring_queue_init(depth, &u->ring, 0);
    if (rc < 0) {
        free(u);
        return refuse(rc);
    }
    rc = io_uring_ring_dontfork(&u->ring); /* a forked child must not share the ring's memory */
    if (rc == 0)
        rc = prove(&u->ring);
    if (rc == 0)
        rc = io_uring_register_eventfd(&u->ring, event_fd);
    if (rc < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return refuse(rc);
    }
    u->base.ops = &uring_ops;
    *out = &u->base;
    return 0;
}

#else

int io_backend_uring(uint32_t depth, int event_fd, struct io_backend **out)
{
    (void)depth;
    (void)event_fd;
    (void)out;
    return base_fail(-ENOSYS, "open io_uring: this library was built without liburing");
}

#endif
