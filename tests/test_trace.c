/*
 * scheduler: recorded steps as plans. Distances to the next use against a search of the
 * sequence itself, through replay, skips, insertions, re-planning and forgetting; then what
 * they are for: a cache that evicts by them keeps half of a model twice its size, where the
 * least recently used order keeps nothing.
 *
 * Negative controls: distances measured from one event further on must differ, and the same
 * cache driven by the fallback (no plan: recency) must miss every time.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/plan.h"
#include "scheduler/trace.h"
#include "tests/core_fixture.h"

#define EVENTS_MAX 300u
#define IDS        40u

struct sequence {
    struct sched_event at[EVENTS_MAX];
    uint32_t count;
};

static struct sched_event event(uint32_t id)
{
    return (struct sched_event){.id = id, .where = SCHED_ON_DEVICE};
}

static struct sequence random_sequence(struct random *r)
{
    struct sequence s = {.count = 1 + (uint32_t)random_below(r, EVENTS_MAX)};
    uint64_t ids = 1 + random_below(r, IDS);

    for (uint32_t i = 0; i < s.count; i++)
        s.at[i] = (struct sched_event){.id = (uint32_t)random_below(r, ids),
                                       .where = (uint8_t)random_below(r, 2),
                                       .no_fetch = (uint8_t)random_below(r, 2)};
    return s;
}

/* The numbers 0 to count - 1, in order. */
static struct sequence scan(uint32_t count)
{
    struct sequence s = {.count = count};

    for (uint32_t i = 0; i < count; i++)
        s.at[i] = event(i);
    return s;
}

/* The oracle: walks round the sequence from position until id comes. */
static uint64_t distance(const struct sequence *s, uint32_t position, uint32_t id)
{
    for (uint64_t k = 0; k < s->count; k++)
        if (s->at[(position + k) % s->count].id == id)
            return k;
    return SCHED_NEVER;
}

static struct sched *make(void)
{
    struct sched *s;

    assert_int_equal(sched_create(&s), 0);
    return s;
}

/* Runs a whole step, every use of which must return expected. */
static void run_step(struct sched *s, const char *name, const struct sequence *q, int expected)
{
    assert_int_equal(sched_step_begin(s, name), 0);
    for (uint32_t i = 0; i < q->count; i++)
        assert_int_equal(sched_use(s, q->at[i]), expected);
    assert_int_equal(sched_step_end(s), 0);
}

/* The number of ids in 0 .. IDS for which the scheduler and the oracle differ. */
static unsigned differing(const struct sched *s, const struct sequence *q, uint32_t position)
{
    unsigned wrong = 0;

    for (uint32_t id = 0; id <= IDS; id++)
        wrong += sched_next_use(s, id) != distance(q, position, id);
    return wrong;
}

/* ---- replay ------------------------------------------------------------ */

static void check_position(const struct sched *s, const struct sequence *q, uint32_t position, uint64_t seed)
{
    struct sched_event e;

    if (differing(s, q, position % q->count))
        fail_msg("seed %llu: position %u of %u: wrong distances", (unsigned long long)seed, position,
                 q->count);
    for (uint64_t k = 0; k < q->count; k++) {
        const struct sched_event *want = &q->at[(position + k) % q->count];

        if (!sched_ahead(s, k, &e) || e.id != want->id || e.where != want->where ||
            e.no_fetch != want->no_fetch)
            fail_msg("seed %llu: position %u of %u: event %llu ahead is wrong", (unsigned long long)seed,
                     position, q->count, (unsigned long long)k);
    }
    assert_false(sched_ahead(s, q->count, &e));
}

static void replay_matches_oracle(void **state)
{
    unsigned seeds = fixture_rounds(60), shifted = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct random r = {seed};
        struct sequence q = random_sequence(&r);
        struct sched *s = make();
        struct sched_counts counts;

        run_step(s, "step", &q, 0); /* recorded */
        for (int round = 0; round < 2; round++) {
            check_position(s, &q, 0, seed); /* between steps: the same step again */
            assert_int_equal(sched_step_begin(s, "step"), 0);
            for (uint32_t i = 0; i < q.count; i++) {
                if (i % 7 == 0)
                    check_position(s, &q, i, seed);
                shifted += differing(s, &q, (i + 1) % q.count);
                assert_int_equal(sched_use(s, q.at[i]), 1);
            }
            check_position(s, &q, q.count, seed); /* wraps round */
            assert_int_equal(sched_step_end(s), 0);
        }
        sched_counts_get(s, &counts);
        assert_int_equal(counts.steps, 3);
        assert_int_equal(counts.planned, 2 * q.count);
        assert_int_equal(counts.off_plan, 0);
        sched_destroy(s);
    }
    assert_true(shifted > 1000); /* the control: one event off is seen */
}

/* ---- departures -------------------------------------------------------- */

/* A step that leaves out events[from .. from + n): the plan is met again, and the new order is
 * the next plan. */
static void skip_case(uint32_t from, uint32_t n)
{
    struct sequence q = scan(100), left = q;
    struct sched *s = make();
    struct sched_counts counts;

    memmove(&left.at[from], &left.at[from + n], (left.count - from - n) * sizeof left.at[0]);
    left.count -= n;
    run_step(s, "step", &q, 0);
    assert_int_equal(sched_step_begin(s, "step"), 0);
    for (uint32_t i = 0; i < left.count; i++) {
        assert_int_equal(sched_use(s, left.at[i]), 1);
        /* the distances are the old plan's, from behind the event just met */
        assert_int_equal(differing(s, &q, (left.at[i].id + 1) % q.count), 0);
    }
    assert_int_equal(sched_step_end(s), 0);
    assert_int_equal(differing(s, &left, 0), 0);
    run_step(s, "step", &left, 1);
    sched_counts_get(s, &counts);
    assert_int_equal(counts.off_plan, 0);
    sched_destroy(s);
}

static void skips(void **state)
{
    (void)state;
    skip_case(0, 1);
    skip_case(10, 5);
    skip_case(30, 60);
    skip_case(80, 20); /* the end is missing */
    skip_case(0, 60);
}

static void insertions(void **state)
{
    struct sequence q = scan(20), more = q;
    struct sched *s = make();
    struct sched_counts counts;

    (void)state;
    memmove(&more.at[8], &more.at[5], 15 * sizeof more.at[0]);
    for (uint32_t i = 5; i < 8; i++)
        more.at[i] = event(30 + i);
    more.count = 23;
    run_step(s, "step", &q, 0);
    assert_int_equal(sched_step_begin(s, "step"), 0);
    for (uint32_t i = 0; i < more.count; i++)
        assert_int_equal(sched_use(s, more.at[i]), i >= 5 && i < 8 ? -EAGAIN : 1);
    assert_int_equal(sched_step_end(s), 0);
    sched_counts_get(s, &counts);
    assert_int_equal(counts.off_plan, 3);
    assert_int_equal(differing(s, &more, 0), 0);
    run_step(s, "step", &more, 1);
    sched_destroy(s);
}

/* Anything may follow anything: no departure is an error, and the last step is the next plan. */
static void any_step_is_replanned(void **state)
{
    unsigned seeds = fixture_rounds(40);

    (void)state;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct random r = {seed};
        struct sched *s = make();

        for (int step = 0; step < 6; step++) {
            struct sequence q = random_sequence(&r);

            assert_int_equal(sched_step_begin(s, "step"), 0);
            for (uint32_t i = 0; i < q.count; i++) {
                int got = sched_use(s, q.at[i]);

                assert_true(got == (step ? 1 : 0) || (step && got == -EAGAIN));
            }
            assert_int_equal(sched_step_end(s), 0);
            check_position(s, &q, 0, seed);
            run_step(s, "step", &q, 1);
        }
        sched_destroy(s);
    }
}

/* The same ids in the same order, but one is used on the host now, one is fetched now. */
static void kinds_of_use_are_planned(void **state)
{
    struct sequence q = scan(10), other = q;
    struct sched *s = make();
    struct sched_event e;

    (void)state;
    q.at[7].no_fetch = 1;
    other.at[3].where = SCHED_ON_HOST;
    run_step(s, "step", &q, 0);
    assert_int_equal(sched_step_begin(s, "step"), 0);
    for (uint32_t i = 0; i < other.count; i++)
        assert_int_equal(sched_use(s, other.at[i]), i == 3 ? -EAGAIN : 1);
    assert_int_equal(sched_step_end(s), 0);
    check_position(s, &other, 0, 0);
    other.at[7].no_fetch = 1; /* a use that matches, and overwrites: the plan learns that too */
    run_step(s, "step", &other, 1);
    assert_true(sched_ahead(s, 7, &e));
    assert_int_equal(e.no_fetch, 1);
    sched_destroy(s);
}

/* ---- names, forgetting, the open step ---------------------------------- */

static void named_steps_have_their_own_plans(void **state)
{
    struct sequence train = scan(30), eval = {.count = 0};
    struct sched *s = make();
    struct sched_counts counts;

    (void)state;
    for (uint32_t i = 0; i < 12; i++)
        eval.at[eval.count++] = event(29 - 2 * i);
    run_step(s, "train", &train, 0);
    run_step(s, "eval", &eval, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(differing(s, &eval, 0), 0);
        run_step(s, "train", &train, 1);
        run_step(s, "train", &train, 1);
        assert_int_equal(differing(s, &train, 0), 0);
        run_step(s, "eval", &eval, 1);
    }
    sched_counts_get(s, &counts);
    assert_int_equal(counts.off_plan, 0);
    assert_int_equal(counts.steps, 11);
    sched_destroy(s);
}

static bool predicted(const struct sched *s, uint32_t id)
{
    struct sched_event e;

    for (uint64_t k = 0; sched_ahead(s, k, &e); k++)
        if (e.id == id)
            return true;
    return false;
}

/* Solves the plan of the step that has ended, if the scheduler asks for it. */
static bool solve(struct sched *s)
{
    static const struct sched_item items[IDS + 1];
    const struct sched_room room = {.device_bytes = 1};

    if (!sched_plan_unsolved(s))
        return false;
    assert_int_equal(sched_plan_solve(s, items, IDS + 1, &room), 0);
    return true;
}

/* Steps that are never alike are not solved again and again; what comes twice is, and what departs once is at once. */
static void what_is_never_alike_is_not_solved(void **state)
{
    struct sequence q[5];
    struct sched *s = make();

    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        q[i].count = 2;
        q[i].at[0] = (struct sched_event){.id = i};
        q[i].at[1] = (struct sched_event){.id = i + 1};
    }
    run_step(s, "step", &q[0], 0);
    assert_true(solve(s));
    for (uint32_t i = 1; i < 5; i++) {
        (void)sched_step_begin(s, "step");
        for (uint32_t k = 0; k < 2; k++)
            (void)sched_use(s, q[i].at[k]);
        assert_int_equal(sched_step_end(s), 0);
        assert_false(solve(s));
    }
    run_step(s, "step", &q[4], 1);
    assert_true(solve(s));
    run_step(s, "step", &q[4], 1);
    assert_false(solve(s)); /* it is solved */
    (void)sched_step_begin(s, "step");
    (void)sched_use(s, q[0].at[0]);
    assert_int_equal(sched_step_end(s), 0);
    assert_true(solve(s));
    sched_destroy(s);
}

static void forgotten_between_steps(void **state)
{
    struct sequence a = scan(20), b = scan(10);
    struct sched_event e;
    struct sched *s = make();

    (void)state;
    run_step(s, "a", &a, 0);
    run_step(s, "b", &b, 0);
    sched_forget(s, 15); /* of a alone */
    assert_int_equal(differing(s, &b, 0), 0);
    run_step(s, "b", &b, 1);
    assert_int_equal(sched_step_begin(s, "a"), 0);
    assert_false(sched_ahead(s, 0, &e)); /* a is to be recorded anew */
    assert_int_equal(sched_use(s, event(3)), 0);
    assert_int_equal(sched_step_end(s), 0);
    assert_int_equal(sched_next_use(s, 15), SCHED_NEVER);
    sched_forget(s, 1000); /* never seen */
    assert_int_equal(sched_next_use(s, 3), 0);
    sched_destroy(s);
}

/* Gone in the midst of a step: whether the plan named it, or only the step so far. */
static void forgotten_within_a_step(void **state)
{
    struct sequence q = scan(20);

    (void)state;
    for (uint32_t id = 5; id < 40; id += 20) {
        struct sched *s = make();

        run_step(s, "step", &q, 0);
        assert_int_equal(sched_step_begin(s, "step"), 0);
        for (uint32_t i = 0; i < 10; i++)
            assert_int_equal(sched_use(s, q.at[i]), 1);
        if (id >= 20)
            assert_int_equal(sched_use(s, event(id)), -EAGAIN);
        sched_forget(s, id);
        assert_false(predicted(s, id));
        for (uint32_t i = 10; i < 20; i++)
            assert_int_equal(sched_use(s, q.at[i]), id >= 20 ? 1 : 0);
        assert_int_equal(sched_step_end(s), 0);
        assert_false(predicted(s, id));
        assert_int_equal(sched_next_use(s, id), SCHED_NEVER);
        assert_int_equal(sched_next_use(s, 0), 0);
        sched_destroy(s);
    }
}

static void calls_out_of_order(void **state)
{
    struct sched *s = make();

    (void)state;
    assert_false(sched_in_step(s));
    assert_int_equal(sched_step_end(s), -EINVAL);
    assert_int_equal(sched_step_begin(s, "one"), 0);
    assert_true(sched_in_step(s));
    assert_int_equal(sched_step_begin(s, "two"), -EBUSY);
    assert_int_equal(sched_step_end(s), 0); /* an empty step */
    assert_false(sched_in_step(s));
    assert_int_equal(sched_use(s, event(1)), 0); /* outside a step */
    sched_destroy(s);
    sched_destroy(NULL);
}

/* ---- without a plan ---------------------------------------------------- */

/* The order of ids by distance is that of their last uses, never used ones farthest. */
static void recency_without_a_plan(void **state)
{
    static const uint32_t order[] = {7, 300, 2, 9, 1, 64, 128};
    struct sched *s = make();
    uint64_t before = SCHED_NEVER;

    (void)state;
    assert_int_equal(sched_use(s, event(1)), 0);
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(sched_use(s, event(order[i])), 0);
    assert_true(sched_next_use(s, 5000) > sched_next_use(s, order[0]));
    assert_true(sched_next_use(s, 6) > sched_next_use(s, order[0]));
    for (size_t i = 0; i < 7; i++) {
        uint64_t d = sched_next_use(s, order[i]);

        assert_true(d < before);
        before = d;
    }
    sched_destroy(s);
}

/* ---- a cache ----------------------------------------------------------- */

/* Hits of `rounds` scans of `model` ids by a cache of `slots`, in per cent. */
static unsigned cache_hits(uint32_t model, uint32_t slots, bool plan)
{
    bool in[EVENTS_MAX] = {false};
    struct sequence q = scan(model);
    struct sched *s = make();
    uint32_t held = 0, hits = 0, uses = 0, rounds = 12;

    for (uint32_t round = 0; round < rounds; round++) {
        if (plan)
            assert_int_equal(sched_step_begin(s, "scan"), 0);
        for (uint32_t i = 0; i < q.count; i++) {
            uint32_t id = q.at[i].id, victim = EVENTS_MAX;

            assert_true(sched_use(s, q.at[i]) >= 0);
            if (round >= 2) {
                uses++;
                hits += in[id];
            }
            for (uint32_t k = 0; k < model && !in[id] && held == slots; k++)
                if (in[k] && (victim == EVENTS_MAX || sched_next_use(s, k) > sched_next_use(s, victim)))
                    victim = k;
            if (victim < EVENTS_MAX) {
                in[victim] = false;
                held--;
            }
            held += !in[id];
            in[id] = true;
        }
        if (plan)
            assert_int_equal(sched_step_end(s), 0);
    }
    sched_destroy(s);
    return 100 * hits / uses;
}

static void plan_beats_recency(void **state)
{
    static const uint32_t models[] = {40, 100, 150};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_true(cache_hits(models[i], models[i] / 2, true) >= 45);
        assert_int_equal(cache_hits(models[i], models[i] / 2, false), 0);
        assert_int_equal(cache_hits(models[i], models[i], true), 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_matches_oracle),
        cmocka_unit_test(skips),
        cmocka_unit_test(insertions),
        cmocka_unit_test(any_step_is_replanned),
        cmocka_unit_test(kinds_of_use_are_planned),
        cmocka_unit_test(named_steps_have_their_own_plans),
        cmocka_unit_test(what_is_never_alike_is_not_solved),
        cmocka_unit_test(forgotten_between_steps),
        cmocka_unit_test(forgotten_within_a_step),
        cmocka_unit_test(calls_out_of_order),
        cmocka_unit_test(recency_without_a_plan),
        cmocka_unit_test(plan_beats_recency),
    };

    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
