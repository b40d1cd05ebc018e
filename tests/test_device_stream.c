/*
 * Proves of streams and gates of the host device: marks come in order and after what they
 * follow; a gate holds work back until it is opened, and what was written before it opened
 * is seen behind it; a gate opened with an error fails the stream, with its sentence; any
 * thread may sync, and sees all that it waited for.
 *
 * Negative controls: the bytes behind gates are plain memory, written by one thread just
 * before it opens the gate and read by a job: a wait that doesn't wait reads the round
 * before (and is a race for ThreadSanitizer). The same program with the wait left out is
 * run too, and must be seen to fail.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/device/device.h"
#include "tests/cuda_fixture.h"
#include "tests/device_fixture.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

/* ---- marks --------------------------------------------------------------- */

struct tally {
    unsigned next; /* plain on purpose: jobs of one stream run one after the other */
    unsigned wrong;
};

struct turn {
    struct tally *tally;
    unsigned index;
};

static void take_turn(void *arg)
{
    struct turn *turn = arg;

    turn->tally->wrong += turn->tally->next != turn->index;
    turn->tally->next++;
}

static struct {
    struct sink sink;
    struct tally *tally;
} marks; /* the sink of the next test, which also looks at how far the jobs are */

static void mark_done(void *sink, void *cookie, int code)
{
    /* on the host device's stream, between its jobs: the tally holds still */
    if (!fixture_on_cuda())
        marks.tally->wrong += marks.tally->next != (uintptr_t)cookie;
    sink_done(sink, cookie, code);
}

static void marks_follow_their_jobs(void **state)
{
    enum { JOBS = 3000, EVERY = 7 };
    struct dev_config config = {.arena_bytes = 4096, .done = mark_done, .sink = &marks.sink};
    struct tally tally = {0};
    struct turn *turns = calloc(JOBS, sizeof *turns);
    struct dev_stream *s, *other;
    struct dev *d;
    size_t count = 0;

    (void)state;
    assert_non_null(turns);
    sink_init(&marks.sink);
    marks.tally = &tally;
    assert_int_equal(dev_open(fixture_device(), &config, &d), 0);
    assert_int_equal(dev_stream_create(d, &s), 0);
    assert_int_equal(dev_stream_create(d, &other), 0);
    assert_true(dev_stream_id(s) != 0 && dev_stream_id(other) != 0);
    assert_true(dev_stream_id(s) != dev_stream_id(other));
    for (unsigned i = 0; i < JOBS; i++) {
        turns[i] = (struct turn){&tally, i};
        assert_int_equal(fixture_launch_on(s, take_turn, &turns[i]), 0);
        if (i % EVERY == 0) {
            dev_stream_mark(s, (void *)(uintptr_t)(i + 1));
            count++;
        }
    }
    assert_int_equal(dev_stream_sync(s), 0);
    assert_int_equal(tally.next, JOBS);
    assert_int_equal(tally.wrong, 0);
    assert_int_equal(sink_count(&marks.sink), count); /* a sync is behind the marks too */
    for (size_t i = 0; i < count; i++)
        assert_int_equal((uintptr_t)marks.sink.list[i].cookie, i * EVERY + 1);
    dev_stream_destroy(s);
    dev_stream_destroy(other);
    dev_close(d);
    sink_free(&marks.sink);
    free(turns);
}

/* ---- gates --------------------------------------------------------------- */

enum { GATE_ROUNDS = 400, GATE_BYTES = 2048 };

struct look {
    unsigned char *at;
    unsigned char expected;
    unsigned stale;
};

static void look_at_bytes(void *arg)
{
    struct look *look = arg;
    const unsigned char *at = fixture_view(look->at);

    for (unsigned i = 0; i < GATE_BYTES; i++)
        if (at[i] != look->expected) {
            look->stale++;
            return;
        }
}

/* The bytes change only after the stream had time to get to the gate and, were it open,
 * past it; the gate opens right after they have changed. */
static void gate_holds_a_job_back(void **state)
{
    struct look look = {0};
    struct dev_stream *s, *free_running;
    struct fixture f;
    size_t early = 0;

    (void)state;
    fixture_open(&f, 64 * KIB);
    assert_int_equal(dev_stream_create(f.dev, &s), 0);
    assert_int_equal(dev_stream_create(f.dev, &free_running), 0);
    look.at = f.arena;
    for (unsigned i = 0; i < GATE_ROUNDS; i++) {
        struct dev_gate *g;

        assert_int_equal(dev_gate_create(f.dev, &g), 0);
        look.expected = (unsigned char)(i % 255 + 1);
        dev_stream_wait(s, g);
        assert_int_equal(
            fixture_kernel_on(s, look_at_bytes, &look, (struct fixture_range){look.at, GATE_BYTES, false}),
            0);
        dev_stream_mark(s, NULL);
        for (unsigned j = 0; j < 3; j++) { /* an unrelated stream runs freely meanwhile */
            assert_int_equal(dev_stream_sync(free_running), 0);
            sched_yield();
        }
        early += sink_count(&f.sink) != i;
        fixture_set(f.arena, look.expected, GATE_BYTES);
        dev_gate_open(g, NULL);
        assert_int_equal(dev_stream_sync(s), 0);
    }
    assert_int_equal(look.stale, 0);
    assert_int_equal(early, 0);
    dev_stream_destroy(s);
    dev_stream_destroy(free_running);
    fixture_end(&f);
}

/* The control: the same rounds without the wait. Atomic bytes, so that the mistake is
 * visible without being undefined. Rounds go on until the job has read too early. */
struct early_look {
    atomic_uint *at;
    unsigned expected;
    atomic_uint stale;
};

static void look_early(void *arg)
{
    struct early_look *look = arg;

    atomic_fetch_add(&look->stale, atomic_load(look->at) != look->expected);
}

static void without_the_wait_it_fails(void **state)
{
    atomic_uint value = 0;
    struct early_look look = {.at = &value};
    struct dev_stream *s, *free_running;
    struct fixture f;

    (void)state;
    fixture_open(&f, 4096);
    assert_int_equal(dev_stream_create(f.dev, &s), 0);
    assert_int_equal(dev_stream_create(f.dev, &free_running), 0);
    for (unsigned i = 1; atomic_load(&look.stale) == 0; i++) {
        look.expected = i;
        assert_int_equal(fixture_launch_on(s, look_early, &look), 0);
        for (unsigned j = 0; j < 3; j++) {
            assert_int_equal(dev_stream_sync(free_running), 0);
            sched_yield();
        }
        atomic_store(&value, i);
        assert_int_equal(dev_stream_sync(s), 0);
    }
    dev_stream_destroy(s);
    dev_stream_destroy(free_running);
    fixture_end(&f);
}

/* As the pager uses them: the completion of a copy opens the gate, from the link's thread. */
static void open_gate_when_copied(void *sink, void *cookie, int code)
{
    (void)sink;
    assert_int_equal(code, 0);
    if (cookie)
        dev_gate_open(cookie, NULL);
}

static void gate_opened_by_a_completion(void **state)
{
    struct dev_config config = {.arena_bytes = MIB, .done = open_gate_when_copied};
    unsigned char *host = malloc(GATE_ROUNDS * GATE_BYTES);
    struct look *looks = calloc(GATE_ROUNDS, sizeof *looks);
    struct dev_stream *s;
    struct dev *d;

    (void)state;
    assert_non_null(host);
    assert_non_null(looks);
    assert_int_equal(dev_open(fixture_device(), &config, &d), 0);
    assert_int_equal(dev_stream_create(d, &s), 0);
    for (unsigned i = 0; i < GATE_ROUNDS; i++) {
        unsigned char *target = (unsigned char *)dev_arena(d) + i * GATE_BYTES;
        struct dev_gate *g;

        memset(host + i * GATE_BYTES, (int)(i % 255 + 1), GATE_BYTES);
        looks[i] = (struct look){target, (unsigned char)(i % 255 + 1), 0};
        assert_int_equal(dev_gate_create(d, &g), 0);
        dev_stream_wait(s, g);
        assert_int_equal(
            fixture_kernel_on(s, look_at_bytes, &looks[i], (struct fixture_range){target, GATE_BYTES, false}),
            0);
        dev_copy_in(d, target, host + i * GATE_BYTES, GATE_BYTES, g);
    }
    assert_int_equal(dev_stream_sync(s), 0);
    for (unsigned i = 0; i < GATE_ROUNDS; i++)
        assert_int_equal(looks[i].stale, 0);
    dev_stream_destroy(s);
    dev_close(d);
    free(host);
    free(looks);
}

/* Open before the wait, waited at by several streams or twice by one, or by nobody. */
static void gates_in_every_order(void **state)
{
    struct tally tally = {0};
    struct turn turns[3] = {{&tally, 0}, {&tally, 1}, {&tally, 2}};
    struct dev_stream *s[3];
    struct dev_gate *g, *unused;
    struct fixture f;

    (void)state;
    fixture_open(&f, 4096);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(dev_stream_create(f.dev, &s[i]), 0);
    for (unsigned round = 0; round < 50; round++) {
        tally.next = 0;
        assert_int_equal(dev_gate_create(f.dev, &g), 0);
        assert_int_equal(dev_gate_create(f.dev, &unused), 0);
        dev_gate_open(unused, NULL);
        for (unsigned i = 0; i < 3; i++) {
            dev_stream_wait(s[i], g);
            dev_stream_wait(s[i], g);
            dev_stream_mark(s[i], NULL);
        }
        assert_int_equal(sink_count(&f.sink), 3 * round);
        dev_gate_open(g, &(struct base_error){.code = 0}); /* no error either */
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(fixture_launch_on(s[i], take_turn, &turns[i]), 0);
            assert_int_equal(dev_stream_sync(s[i]), 0);
        }
        assert_int_equal(tally.next, 3);
        assert_int_equal(tally.wrong, 0);
    }
    for (unsigned i = 0; i < 3; i++)
        dev_stream_destroy(s[i]);
    fixture_end(&f);
}

/* ---- failure -------------------------------------------------------------- */

static void failing_gate_skips_jobs(void **state)
{
    struct tally before = {0}, after = {0}, bystander = {0};
    struct turn early = {&before, 0}, late = {&after, 0}, other = {&bystander, 0};
    struct base_error first, second;
    struct dev_stream *s, *t;
    struct dev_gate *g1, *g2;
    struct fixture f;

    (void)state;
    base_error_set(&first, -EIO, "read pool-0.ofl: offset %d, %d bytes: got %d", 4096, 2097152, 512000);
    base_error_set(&second, -ENOSPC, "another one");
    fixture_open(&f, 4096);
    assert_int_equal(dev_stream_create(f.dev, &s), 0);
    assert_int_equal(dev_stream_create(f.dev, &t), 0);
    assert_int_equal(dev_gate_create(f.dev, &g1), 0);
    assert_int_equal(dev_gate_create(f.dev, &g2), 0);

    assert_int_equal(fixture_launch_on(s, take_turn, &early), 0);
    dev_stream_mark(s, (void *)1);
    dev_stream_wait(s, g1);
    assert_int_equal(fixture_launch_on(s, take_turn, &late), 0);
    dev_stream_mark(s, (void *)2);
    dev_stream_wait(s, g2);
    dev_stream_mark(s, (void *)3);
    assert_int_equal(fixture_launch_on(t, take_turn, &other), 0);
    dev_gate_open(g1, &first);

    /* a failed stream still keeps its marks behind the gates that are to come */
    assert_int_equal(sink_wait(&f.sink, 2, 0).code, 0);
    assert_int_equal(sink_wait(&f.sink, 2, 1).code, -EIO);
    assert_int_equal(dev_stream_sync(t), 0);
    assert_int_equal(sink_count(&f.sink), 2);
    dev_gate_open(g2, &second);

    for (int i = 0; i < 3; i++) { /* sticky, and the first error wins */
        base_fail(-EINVAL, "something else");
        assert_int_equal(dev_stream_sync(s), -EIO);
        assert_string_equal(base_error_text(), first.text);
    }
    assert_int_equal(sink_wait(&f.sink, 3, 2).code, -EIO);
    assert_int_equal(before.next, 1);
    assert_true(fixture_on_cuda() || after.next == 0); /* what CUDA was given it runs */
    assert_int_equal(bystander.next, 1);

    assert_int_equal(fixture_launch_on(s, take_turn, &late), 0); /* accepted, and skipped */
    assert_int_equal(dev_stream_sync(s), -EIO);
    assert_true(fixture_on_cuda() || after.next == 0);
    dev_stream_destroy(s);
    dev_stream_destroy(t);
    fixture_end(&f);
}

static void every_stream_at_a_failing_gate_fails(void **state)
{
    struct base_error error;
    struct dev_stream *s[4];
    struct dev_gate *g;
    struct fixture f;

    (void)state;
    base_error_set(&error, -EIO, "the sentence");
    fixture_open(&f, 4096);
    assert_int_equal(dev_gate_create(f.dev, &g), 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(dev_stream_create(f.dev, &s[i]), 0);
        if (i < 3)
            dev_stream_wait(s[i], g);
    }
    dev_gate_open(g, &error);
    for (unsigned i = 0; i < 3; i++) {
        base_fail(-EINVAL, "something else");
        assert_int_equal(dev_stream_sync(s[i]), -EIO);
        assert_string_equal(base_error_text(), "the sentence");
    }
    assert_int_equal(dev_stream_sync(s[3]), 0);
    for (unsigned i = 0; i < 4; i++)
        dev_stream_destroy(s[i]);
    fixture_end(&f);
}

/* ---- sync --------------------------- ---------------------------------- */

enum { SYNCERS = 4, SYNC_ROUNDS = 300 };

struct syncer {
    struct dev_stream *shared, *own;
    unsigned done, expected; /* plain: written by jobs, read after sync */
    unsigned wrong;
};

static void add_one(void *arg)
{
    ++*(unsigned *)arg;
}

static void *sync_rounds(void *arg)
{
    struct syncer *s = arg;

    for (unsigned i = 0; i < SYNC_ROUNDS; i++) {
        struct dev_stream *stream = i % 3 ? s->shared : s->own;

        for (unsigned j = 0; j <= i % 4; j++) {
            s->wrong += fixture_launch_on(stream, add_one, &s->done) != 0;
            s->expected++;
        }
        s->wrong += dev_stream_sync(stream) != 0;
        s->wrong += s->done != s->expected;
    }
    return NULL;
}

static void sync_from_several_threads(void **state)
{
    struct syncer syncers[SYNCERS] = {0};
    pthread_t id[SYNCERS];
    struct dev_stream *shared;
    struct fixture f;

    (void)state;
    fixture_open(&f, 4096);
    assert_int_equal(dev_stream_create(f.dev, &shared), 0);
    for (unsigned i = 0; i < SYNCERS; i++) {
        syncers[i].shared = shared;
        assert_int_equal(dev_stream_create(f.dev, &syncers[i].own), 0);
        assert_int_equal(pthread_create(&id[i], NULL, sync_rounds, &syncers[i]), 0);
    }
    for (unsigned i = 0; i < SYNCERS; i++) {
        pthread_join(id[i], NULL);
        assert_int_equal(syncers[i].wrong, 0);
        dev_stream_destroy(syncers[i].own);
    }
    dev_stream_destroy(shared);
    fixture_end(&f);
}

struct self {
    struct dev_stream *stream;
    int code;
};

static void sync_self(void *arg)
{
    struct self *self = arg;

    self->code = dev_stream_sync(self->stream);
}

static void a_stream_cannot_wait_for_itself(void **state)
{
    struct self itself, other;
    struct dev_stream *s, *t;
    struct fixture f;

    (void)state;
    if (fixture_on_cuda())
        skip(); /* a host function may not call CUDA at all */
    fixture_open(&f, 4096);
    assert_int_equal(dev_stream_create(f.dev, &s), 0);
    assert_int_equal(dev_stream_create(f.dev, &t), 0);
    itself = (struct self){s, 1};
    other = (struct self){t, 1};
    assert_int_equal(fixture_launch_on(s, sync_self, &itself), 0);
    assert_int_equal(fixture_launch_on(s, sync_self, &other), 0);
    assert_int_equal(dev_stream_sync(s), 0);
    assert_int_equal(itself.code, -EDEADLK);
    assert_int_equal(other.code, 0);
    dev_stream_destroy(s);
    dev_stream_destroy(t);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_follow_their_jobs),
        cmocka_unit_test(gate_holds_a_job_back),
        cmocka_unit_test(without_the_wait_it_fails),
        cmocka_unit_test(gate_opened_by_a_completion),
        cmocka_unit_test(gates_in_every_order),
        cmocka_unit_test(failing_gate_skips_jobs),
        cmocka_unit_test(every_stream_at_a_failing_gate_fails),
        cmocka_unit_test(sync_from_several_threads),
        cmocka_unit_test(a_stream_cannot_wait_for_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
