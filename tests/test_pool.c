/*
 * Proves of the worker pool: jobs start in the order of submission, and with one thread
 * each sees what the ones before it wrote; none is lost or run twice, whoever submits;
 * jobs may submit jobs; several threads really run at once; destroy waits for all of it;
 * the threads take no signals.
 *
 * Negative controls: the order and the hand-over tests use plain (not atomic) memory, so
 * a pool that runs two jobs at once, or without a barrier between them, fails the counts
 * here and ThreadSanitizer outright; the rendezvous never ends in a pool with one thread.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/pool.h"

/* ---- order ------------------------------------------------------------- */

enum { ORDER_JOBS = 20000 };

struct order {
    unsigned next; /* plain on purpose */
    unsigned wrong;
};

struct order_job {
    struct order *order;
    unsigned index;
};

static void check_turn(void *arg)
{
    const struct order_job *job = arg;

    if (job->order->next != job->index)
        job->order->wrong++;
    job->order->next++;
}

static void one_thread_is_a_serial_queue(void **state)
{
    struct order order = {0};
    struct order_job *jobs = calloc(ORDER_JOBS, sizeof *jobs);
    struct base_pool *p;

    (void)state;
    assert_non_null(jobs);
    assert_int_equal(base_pool_create(1, "serial", &p), 0);
    for (unsigned i = 0; i < ORDER_JOBS; i++) {
        jobs[i] = (struct order_job){&order, i};
        base_pool_submit(p, check_turn, &jobs[i]);
    }
    base_pool_destroy(p);
    assert_int_equal(order.next, ORDER_JOBS);
    assert_int_equal(order.wrong, 0);
    free(jobs);
}

/* ---- the ring grows with its oldest job anywhere ------------------------ */

struct latch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned arrived;
    bool open;
};

static void latch_init(struct latch *l)
{
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->arrived = 0;
    l->open = false;
}

static void latch_open(struct latch *l)
{
    pthread_mutex_lock(&l->lock);
    l->open = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void latch_free(struct latch *l)
{
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

static void hold(void *arg)
{
    struct latch *l = arg;

    pthread_mutex_lock(&l->lock);
    l->arrived++;
    pthread_cond_broadcast(&l->changed);
    while (!l->open)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void wait_arrived(struct latch *l, unsigned n)
{
    pthread_mutex_lock(&l->lock);
    while (l->arrived < n)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

/* Moves the oldest job to each place of a ring of 64, then fills it past its end. */
static void order_survives_growth(void **state)
{
    (void)state;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        struct order order = {0};
        struct order_job jobs[400];
        struct latch latch;
        struct base_pool *p;
        unsigned i = 0;

        latch_init(&latch);
        assert_int_equal(base_pool_create(1, "growing", &p), 0);
        for (; i < shift; i++) {
            jobs[i] = (struct order_job){&order, i};
            base_pool_submit(p, check_turn, &jobs[i]);
        }
        base_pool_submit(p, hold, &latch);
        wait_arrived(&latch, 1);
        for (; i < 400; i++) {
            jobs[i] = (struct order_job){&order, i};
            base_pool_submit(p, check_turn, &jobs[i]);
        }
        latch_open(&latch);
        base_pool_destroy(p);
        assert_int_equal(order.next, 400);
        assert_int_equal(order.wrong, 0);
        latch_free(&latch);
    }
}

/* ---- many submitters ---------------------------------------------------- */

enum { SUBMITTERS = 4, EACH = 3000 };

struct submitter {
    struct base_pool *pool;
    atomic_uint runs[EACH];
};

static void count_run(void *arg)
{
    atomic_fetch_add_explicit((atomic_uint *)arg, 1, memory_order_relaxed);
}

static void *submit_all(void *arg)
{
    struct submitter *s = arg;

    for (unsigned i = 0; i < EACH; i++)
        base_pool_submit(s->pool, count_run, &s->runs[i]);
    return NULL;
}

static void every_job_runs_once(void **state)
{
    struct submitter *all = calloc(SUBMITTERS, sizeof *all);
    pthread_t id[SUBMITTERS];
    struct base_pool *p;

    (void)state;
    assert_non_null(all);
    assert_int_equal(base_pool_create(3, "a name longer than the kernel keeps", &p), 0);
    for (unsigned i = 0; i < SUBMITTERS; i++) {
        all[i].pool = p;
        assert_int_equal(pthread_create(&id[i], NULL, submit_all, &all[i]), 0);
    }
    for (unsigned i = 0; i < SUBMITTERS; i++)
        pthread_join(id[i], NULL);
    base_pool_destroy(p);
    for (unsigned i = 0; i < SUBMITTERS; i++)
        for (unsigned j = 0; j < EACH; j++)
            assert_int_equal(atomic_load(&all[i].runs[j]), 1);
    free(all);
}

/* ---- jobs that submit, while the pool is being destroyed ---------------- */

struct chain {
    struct base_pool *pool;
    unsigned left; /* plain: links of a chain run one after the other */
    atomic_uint *ends;
};

static void next_link(void *arg)
{
    struct chain *c = arg;

    if (c->left == 0) {
        atomic_fetch_add(c->ends, 1);
        return;
    }
    c->left--;
    base_pool_submit(c->pool, next_link, c);
}

static void destroy_waits_for_what_jobs_submit(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 4; threads++) {
        atomic_uint ends = 0;
        struct chain chains[5];
        struct base_pool *p;

        assert_int_equal(base_pool_create(threads, "chains", &p), 0);
        for (unsigned i = 0; i < 5; i++) {
            chains[i] = (struct chain){p, 500, &ends};
            base_pool_submit(p, next_link, &chains[i]);
        }
        base_pool_destroy(p);
        assert_int_equal(atomic_load(&ends), 5);
    }
}

struct pair {
    struct base_pool *pool;
    struct latch begun, partner;
    atomic_bool destroying;
};

static void open_latch(void *arg)
{
    latch_open(arg);
}

static void wait_for_partner(void *arg)
{
    struct pair *pair = arg;

    latch_open(&pair->begun);
    while (!atomic_load(&pair->destroying))
        sched_yield();
    for (unsigned i = 0; i < 200; i++) /* the idle thread has time to end, if it would */
        sched_yield();
    base_pool_submit(pair->pool, open_latch, &pair->partner);
    hold(&pair->partner);
}

/* Hangs if an idle thread ends while a running job may still submit. */
static void idle_threads_stay_while_a_job_runs(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        struct pair pair = {.destroying = false};

        latch_init(&pair.begun);
        latch_init(&pair.partner);
        assert_int_equal(base_pool_create(2, "pair", &pair.pool), 0);
        base_pool_submit(pair.pool, wait_for_partner, &pair);
        hold(&pair.begun);
        atomic_store(&pair.destroying, true);
        base_pool_destroy(pair.pool);
        latch_free(&pair.begun);
        latch_free(&pair.partner);
    }
}

/* ---- at once, and apart ------------------------------------------------- */

static void threads_run_at_once(void **state)
{
    struct latch latch;
    struct base_pool *p;

    (void)state;
    latch_init(&latch);
    assert_int_equal(base_pool_create(4, "together", &p), 0);
    for (unsigned i = 0; i < 4; i++)
        base_pool_submit(p, hold, &latch);
    wait_arrived(&latch, 4); /* hangs unless four jobs run side by side */
    latch_open(&latch);
    base_pool_destroy(p);
    latch_free(&latch);
}

static void look_at_thread(void *arg)
{
    sigset_t *blocked = arg;

    pthread_sigmask(SIG_BLOCK, NULL, blocked);
}

static void signals_stay_with_the_program(void **state)
{
    sigset_t inside, before, after;
    struct base_pool *p;

    (void)state;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(base_pool_create(1, "quiet", &p), 0);
    base_pool_submit(p, look_at_thread, &inside);
    base_pool_destroy(p);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_int_equal(sigismember(&inside, SIGINT), 1);
    assert_int_equal(sigismember(&inside, SIGTERM), 1);
    assert_int_equal(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
    assert_int_equal(sigismember(&after, SIGINT), 0);
}

static void bad_arguments(void **state)
{
    struct base_pool *p = (void *)&p;

    (void)state;
    assert_int_equal(base_pool_create(0, "none", &p), -EINVAL);
    assert_null(p);
    assert_non_null(strstr(base_error_text(), "none"));
    base_pool_destroy(NULL);
}

static void clock_never_goes_back(void **state)
{
    uint64_t last = base_now_ns(), start = last;

    (void)state;
    assert_true(start > 0);
    while (last < start + 1000) {
        uint64_t now = base_now_ns();

        assert_true(now >= last);
        last = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_is_a_serial_queue),
        cmocka_unit_test(order_survives_growth),
        cmocka_unit_test(every_job_runs_once),
        cmocka_unit_test(destroy_waits_for_what_jobs_submit),
        cmocka_unit_test(idle_threads_stay_while_a_job_runs),
        cmocka_unit_test(threads_run_at_once),
        cmocka_unit_test(signals_stay_with_the_program),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(clock_never_goes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
