/* Worker pool: see pool.h. Owns its threads and a ring of jobs that doubles when full. */
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

#define RING_MIN 64 /* power of two */

struct job {
    void (*fn)(void *arg);
    void *arg;
};

struct base_pool {
    pthread_mutex_t lock; /* guards everything below up to threads; innermost: held over no call out */
    pthread_cond_t work;  /* a job was queued, or the last one ended while stopping */
    struct job *ring;
    size_t capacity; /* power of two */
    size_t head;     /* index of the oldest job, modulo capacity */
    size_t count;
    unsigned active; /* jobs running: each may still submit more */
    bool stopping;
    char name[16];
    unsigned threads;
    pthread_t id[];
};

static void *worker(void *arg)
{
    struct base_pool *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct job job;

        while (p->count == 0 && !(p->stopping && p->active == 0))
            pthread_cond_wait(&p->work, &p->lock);
        if (p->count == 0)
            break;
        job = p->ring[p->head];
        p->head = (p->head + 1) & (p->capacity - 1);
        p->count--;
        p->active++;
        pthread_mutex_unlock(&p->lock);
        job.fn(job.arg);
        pthread_mutex_lock(&p->lock);
        p->active--;
        if (p->stopping && p->count == 0 && p->active == 0)
            pthread_cond_broadcast(&p->work);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Doubles the ring, oldest job first. Called with the lock held. */
static bool grow(struct base_pool *p)
{
    size_t first = p->capacity - p->head;
    struct job *ring;

    if (p->capacity > SIZE_MAX / 2 / sizeof *ring)
        return false;
    ring = malloc(2 * p->capacity * sizeof *ring);
    if (!ring)
        return false;
    memcpy(ring, p->ring + p->head, first * sizeof *ring);
    memcpy(ring + first, p->ring, p->head * sizeof *ring);
    free(p->ring);
    p->ring = ring;
    p->head = 0;
    p->capacity *= 2;
    return true;
}

static void submit(struct base_pool *p, struct job job, bool first)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    pthread_mutex_lock(&p->lock);
    /* out of memory: the workers make room in the ring, so waiting beats losing the job */
    while (p->count == p->capacity && !grow(p)) {
        pthread_mutex_unlock(&p->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&p->lock);
    }
    if (first)
        p->head = (p->head - 1) & (p->capacity - 1);
    p->ring[first ? p->head : (p->head + p->count) & (p->capacity - 1)] = job;
    p->count++;
    /* Under the lock: once it is free the job may run, and whoever waits for that may destroy the pool. */
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void base_pool_submit(struct base_pool *p, void (*fn)(void *arg), void *arg)
{
    submit(p, (struct job){fn, arg}, false);
}

void base_pool_submit_first(struct base_pool *p, void (*fn)(void *arg), void *arg)
{
    submit(p, (struct job){fn, arg}, true);
}

bool base_pool_idle(struct base_pool *p)
{
    bool idle;

    pthread_mutex_lock(&p->lock);
    idle = p->count == 0 && p->active == 0;
    pthread_mutex_unlock(&p->lock);
    return idle;
}

/* Starts the threads with every signal blocked, which they inherit. Returns 0 or an errno;
 * p->threads is how many run. */
static int start(struct base_pool *p, unsigned threads)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    rc = pthread_sigmask(SIG_SETMASK, &all, &old);
    if (rc != 0)
        return rc;
    while (rc == 0 && p->threads < threads) {
        rc = pthread_create(&p->id[p->threads], NULL, worker, p);
        if (rc == 0)
            pthread_setname_np(p->id[p->threads++], p->name); /* for debuggers only */
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int base_pool_create(unsigned threads, const char *name, struct base_pool **out)
{
    struct base_pool *p;
    int rc;

    *out = NULL;
    if (threads == 0)
        return base_fail(-EINVAL, "create pool %s: 0 threads: at least 1 is needed", name);
    p = calloc(1, sizeof *p + threads * sizeof p->id[0]);
    if (p)
        p->ring = malloc(RING_MIN * sizeof *p->ring);
    if (!p || !p->ring) {
        free(p);
        return base_fail_errno(-ENOMEM, "create pool %s: %u threads", name, threads);
    }
    p->capacity = RING_MIN;
    strncpy(p->name, name, sizeof p->name - 1);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    rc = start(p, threads);
    if (rc != 0) {
        unsigned running = p->threads;

        base_pool_destroy(p);
        return base_fail_errno(-rc, "create pool %s: thread %u of %u", name, running + 1, threads);
    }
    *out = p;
    return 0;
}

void base_pool_destroy(struct base_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->threads; i++)
        pthread_join(p->id[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p);
}
