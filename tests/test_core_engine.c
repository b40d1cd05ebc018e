/*
 * core: nobody waits for ever. What streams, link and workers have finished is heard by whoever has the engine's
 * lock, or by the engine thread, which sleeps when nothing is to be done; what it does not hear stays there until
 * the next call. So several threads make a few short calls on tiny tensors, then all wait for their streams and
 * call nothing: whoever was not told then is never told. A round that does not end is a failure.
 *
 * Negative controls: tools/mutants.sh engine-NAME, which takes looks at the mail and wake-ups out; each hangs here.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define CALLERS 3 /* at most */
#define CALLS   6 /* of one thread before it waits, at most */
/* A round that takes longer never ends, however busy the machine. */
#define HANG_SECONDS 20

static const struct setting {
    const char *name;
    uint64_t device_bytes, nvme_bytes, bytes;
    unsigned callers;
    unsigned tensors; /* of each */
    unsigned rounds;
    uint32_t flags;
} settings[] = {
    {"host memory", 64 * KIB, 0, 4 * KIB, 3, 12, 6000, 0},
    {"in turns over a full device", 20 * KIB, 0, 4 * KIB, 3, 12, 3000, 0},
    {"store", 128 * KIB, 32 * MIB, 16 * KIB, 3, 100, 1000, 0},
    {"store, one caller", 64 * KIB, 32 * MIB, 16 * KIB, 1, 300, 2000, 0},
    {"store, thread engine", 128 * KIB, 32 * MIB, 16 * KIB, 3, 100, 500, OFL_USE_THREADS},
};

static struct ofl_ctx *ctx;
static const struct setting *setting;
static unsigned rounds;
static pthread_barrier_t together;
static atomic_uint ended, failures; /* rounds; calls */
static atomic_bool over;

/* ---- locks (the linker sends all of the program's here) ------------------- */

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);

/* Now and then the thread goes no further for a while: between any two looks of one, another does all it can. */
static void dawdle(void)
{
    static atomic_uint seeds;
    static _Thread_local struct random random;

    if (!random.state)
        random.state = atomic_fetch_add(&seeds, 1) + 1;
    if (random_below(&random, 100) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
    int err = __real_pthread_mutex_lock(lock);

    dawdle();
    return err;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
    int err;

    dawdle();
    err = __real_pthread_mutex_unlock(lock);
    dawdle();
    return err;
}

/* ---- who notices --------------------------------------------------------- */

static void *watch(void *arg)
{
    unsigned seen = 0, seconds = 0;

    (void)arg;
    while (!atomic_load(&over)) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        if (atomic_load(&ended) != seen)
            seconds = 0;
        seen = atomic_load(&ended);
        if (++seconds < 10 * HANG_SECONDS)
            continue;
        fprintf(stderr, "%s: round %u of %u has not ended in %d s: somebody was not told\n", setting->name,
                seen, rounds, HANG_SECONDS);
        _exit(1);
    }
    return NULL;
}

static void must(int err, const char *what)
{
    if (err == 0)
        return;
    fprintf(stderr, "%s: %s: %d %s\n", setting->name, what, err, ofl_error());
    atomic_fetch_add(&failures, 1);
}

/* ---- who calls ----------------------------------------------------------- */

struct caller {
    struct random random;
    struct ofl_stream *stream;
    struct ofl_tensor **tensors;
};

static void create(struct ofl_tensor **t)
{
    struct ofl_tensor_desc d = {.size = sizeof d, .name = "tiny", .dtype = OFL_U8, .elems = setting->bytes};

    must(ofl_tensor_create(ctx, &d, t), "create");
}

static void call(struct caller *c)
{
    static const enum ofl_mode modes[] = {OFL_READ, OFL_UPDATE, OFL_OVERWRITE};
    struct ofl_tensor **t = &c->tensors[random_below(&c->random, setting->tensors)];
    struct ofl_lease l = {.size = sizeof l, .tensor = *t, .mode = modes[random_below(&c->random, 3)]};
    uint64_t word = random_next(&c->random);

    switch (random_below(&c->random, 16)) {
    case 0: /* these wait themselves */
        must(ofl_tensor_destroy(*t), "destroy");
        create(t);
        break;
    case 1:
        must(ofl_tensor_write(*t, 0, &word, sizeof word), "write");
        break;
    case 2:
        must(ofl_tensor_read(*t, 0, &word, sizeof word), "read");
        break;
    default:
        must(ofl_acquire(ctx, &l, 1, c->stream), "acquire");
        must(ofl_release(ctx, &l, 1, c->stream), "release");
    }
}

static void *run(void *arg)
{
    struct caller *c = arg;

    for (unsigned i = 0; i < rounds; i++) {
        for (uint64_t n = 1 + random_below(&c->random, CALLS); n; n--)
            call(c);
        must(ofl_stream_sync(c->stream), "sync");
        if (pthread_barrier_wait(&together) == PTHREAD_BARRIER_SERIAL_THREAD)
            atomic_fetch_add(&ended, 1);
    }
    return NULL;
}

/* ---- the test ------------------------------------------------------------ */

static void open_context(const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = setting->device_bytes,
                                .host_bytes = 2 * MIB,
                                .leased_bytes = setting->device_bytes,
                                .nvme = fixture_nvme(dir, setting->nvme_bytes),
                                .nvme_count = setting->nvme_bytes ? 1 : 0,
                                .workers = 2,
                                .flags = setting->flags | OFL_NO_MEASURE,
                                .log = fixture_log};

    assert_int_equal(ofl_open(&config, &ctx), 0);
}

static void run_setting(const char *dir, const struct setting *s)
{
    struct caller callers[CALLERS];
    pthread_t threads[CALLERS], watcher;

    setting = s;
    rounds = fixture_rounds(s->rounds);
    atomic_store(&ended, 0);
    atomic_store(&over, false);
    open_context(dir);
    pthread_barrier_init(&together, NULL, s->callers);
    for (unsigned i = 0; i < s->callers; i++) {
        callers[i] = (struct caller){.random = {i + 1}, .tensors = calloc(s->tensors, sizeof(void *))};
        assert_non_null(callers[i].tensors);
        must(ofl_stream_create(ctx, &callers[i].stream), "stream");
        for (unsigned k = 0; k < s->tensors; k++)
            create(&callers[i].tensors[k]);
    }
    assert_int_equal(pthread_create(&watcher, NULL, watch, NULL), 0);
    for (unsigned i = 0; i < s->callers; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run, &callers[i]), 0);
    for (unsigned i = 0; i < s->callers; i++)
        pthread_join(threads[i], NULL);
    must(fixture_ctx_close(ctx), "close"); /* watched, too */
    atomic_store(&over, true);
    pthread_join(watcher, NULL);
    for (unsigned i = 0; i < s->callers; i++)
        free(callers[i].tensors);
    pthread_barrier_destroy(&together);
    assert_int_equal(atomic_load(&ended), rounds);
    assert_int_equal(atomic_load(&failures), 0);
}

static void nobody_waits_for_ever(void **state)
{
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        run_setting(*state, &settings[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nobody_waits_for_ever)};

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
