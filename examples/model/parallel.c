/*
 * parallel: see parallel.h. Helpers are started when they are first needed, and wait for the next loop: a short while
 * awake, since one layer's loops follow each other, and then asleep.
 */
#include "examples/model/parallel.h"

#include <cblas.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define THREADS_MOST 64
#define LOOKS        4000 /* at the number of loops, before a helper sleeps: some 20 microseconds */

static struct {
    pthread_mutex_t turn; /* held by whose loop runs */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t begun, left;
    int helpers, asleep;
    int inside; /* helpers that work on the loop */
    int wanted; /* of helpers, more than there are inside */
    bool open;  /* there may be items left */
    size_t items, grain;
    llama_loop_fn *run;
    void *arg;
    atomic_size_t next;
    atomic_uint loops; /* that were begun */
} pool = {.turn = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .begun = PTHREAD_COND_INITIALIZER,
          .left = PTHREAD_COND_INITIALIZER};

static void take_items(size_t items, size_t grain, llama_loop_fn *run, void *arg)
{
    size_t first;

    while ((first = atomic_fetch_add_explicit(&pool.next, grain, memory_order_relaxed)) < items)
        run(arg, first, items - first < grain ? items - first : grain);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Until a loop was begun since `seen`, or it has been awake long enough. */
static void stay_awake(unsigned seen)
{
    for (int i = 0; i < LOOKS && atomic_load_explicit(&pool.loops, memory_order_acquire) == seen; i++)
        relax();
}

/* Under the lock, which is open meanwhile. */
static void help(void)
{
    size_t items = pool.items, grain = pool.grain;
    llama_loop_fn *run = pool.run;
    void *arg = pool.arg;

    pool.inside++;
    pool.wanted--;
    pthread_mutex_unlock(&pool.lock);
    take_items(items, grain, run, arg);
    pthread_mutex_lock(&pool.lock);
    pool.open = false; /* none are left */
    if (--pool.inside == 0)
        pthread_cond_signal(&pool.left);
}

static void *helper(void *arg)
{
    unsigned seen = 0;

    (void)arg;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        if (pool.open && pool.wanted > 0) {
            help();
            continue;
        }
        seen = atomic_load_explicit(&pool.loops, memory_order_relaxed);
        pthread_mutex_unlock(&pool.lock);
        stay_awake(seen);
        pthread_mutex_lock(&pool.lock);
        if (atomic_load_explicit(&pool.loops, memory_order_relaxed) == seen) {
            pool.asleep++;
            pthread_cond_wait(&pool.begun, &pool.lock);
            pool.asleep--;
        }
    }
    return NULL;
}

/* Under the lock. Where one can't be had there are fewer. */
static void have_helpers(int count)
{
    while (pool.helpers < count) {
        pthread_attr_t attr;
        pthread_t thread;
        int err;

        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        err = pthread_create(&thread, &attr, helper, NULL);
        pthread_attr_destroy(&attr);
        if (err != 0)
            return;
        pool.helpers++;
    }
}

void llama_parallel(size_t items, size_t grain, llama_loop_fn *run, void *arg)
{
    int threads = openblas_get_num_threads();

    threads = threads < THREADS_MOST ? threads : THREADS_MOST;
    if (threads < 2 || items <= grain || pthread_mutex_trylock(&pool.turn) != 0) {
        if (items)
            run(arg, 0, items);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    have_helpers(threads - 1);
    pool.items = items;
    pool.grain = grain;
    pool.run = run;
    pool.arg = arg;
    pool.open = true;
    pool.wanted = threads - 1;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool.loops, 1, memory_order_release);
    if (pool.asleep)
        pthread_cond_broadcast(&pool.begun);
    pthread_mutex_unlock(&pool.lock);
    take_items(items, grain, run, arg);
    pthread_mutex_lock(&pool.lock);
    pool.open = false;
    while (pool.inside > 0)
        pthread_cond_wait(&pool.left, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.turn);
}
