/*
 * The thread engine: a pool of threads that call pread and pwrite. For machines
 * that forbid io_uring. Owns the threads and the lists between them and the owner.
 *
 * One lock, threads.lock, guards both lists and stop. Nothing is called under it.
 */
#include "io/engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS_MAX 16u

struct threads {
    struct io_backend base;
    int event_fd;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct io_transfers todo, done;
    bool stop;
    struct io_transfers started; /* the owner's alone: not handed over before flush */
    uint32_t count;
    pthread_t thread[];
};

uint32_t io_threads_depth_max(void)
{
    return THREADS_MAX;
}

static void *worker(void *arg)
{
    struct threads *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct io_transfer *t;
        ssize_t n;

        while (!p->stop && !p->todo.head)
            pthread_cond_wait(&p->work, &p->lock);
        if (p->stop)
            break;
        t = io_transfers_pop(&p->todo);
        pthread_mutex_unlock(&p->lock);
        n = t->op == IO_READ ? pread(t->fd, t->buf, t->bytes, (off_t)t->offset)
                             : pwrite(t->fd, t->buf, t->bytes, (off_t)t->offset);
        t->result = n < 0 ? -errno : n;
        pthread_mutex_lock(&p->lock);
        io_transfers_push(&p->done, t);
        pthread_mutex_unlock(&p->lock);
        io_event_signal(p->event_fd);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int threads_start(struct io_backend *b, struct io_transfer *t)
{
    io_transfers_push(&((struct threads *)b)->started, t);
    return 0;
}

static int threads_flush(struct io_backend *b)
{
    struct threads *p = (struct threads *)b;
    struct io_transfer *t;

    if (!p->started.head)
        return 0;
    pthread_mutex_lock(&p->lock);
    while ((t = io_transfers_pop(&p->started))) {
        io_transfers_push(&p->todo, t);
        pthread_cond_signal(&p->work); /* one thread each, not all for one */
    }
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static unsigned threads_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct threads *p = (struct threads *)b;
    unsigned n = 0;

    pthread_mutex_lock(&p->lock);
    while (n < max && (done[n] = io_transfers_pop(&p->done)))
        n++;
    pthread_mutex_unlock(&p->lock);
    return n;
}

static void threads_close(struct io_backend *b)
{
    struct threads *p = (struct threads *)b;

    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    pthread_cond_broadcast(&p->work);
    for (uint32_t i = 0; i < p->count; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* What no thread has taken yet comes back at once; the rest can't be stopped. */
static void threads_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct threads *p = (struct threads *)b;
    bool found;

    pthread_mutex_lock(&p->lock);
    found = io_transfers_remove(&p->started, t) || io_transfers_remove(&p->todo, t);
    if (found) {
        t->result = -ECANCELED;
        io_transfers_push(&p->done, t);
    }
    pthread_mutex_unlock(&p->lock);
    if (found)
        io_event_signal(p->event_fd);
}

static const struct io_backend_ops threads_ops = {
    .start = threads_start,
    .flush = threads_flush,
    .collect = threads_collect,
    .close = threads_close,
    .cancel = threads_cancel,
};

int io_backend_threads(uint32_t count, int event_fd, struct io_backend **out)
{
    uint32_t want = count < THREADS_MAX ? count : THREADS_MAX;
    struct threads *p = calloc(1, sizeof *p + want * sizeof p->thread[0]);
    sigset_t all, saved;
    int rc;

    if (!p)
        return base_fail_errno(-ENOMEM, "start %u I/O threads", want);
    p->base.ops = &threads_ops;
    p->event_fd = event_fd;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    /* The process's signals are for its own threads; and SIGXFSZ, blocked, becomes EFBIG. */
    sigfillset(&all);
    rc = pthread_sigmask(SIG_SETMASK, &all, &saved);
    while (rc == 0 && p->count < want) {
        rc = pthread_create(&p->thread[p->count], NULL, worker, p);
        p->count += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (rc != 0) {
        uint32_t got = p->count;

        threads_close(&p->base);
        return base_fail_errno(-rc, "start %u I/O threads: got %u", want, got);
    }
    *out = &p->base;
    return 0;
}
