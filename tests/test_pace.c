/*
 * Proves of common_pace.h, on runs in invented seconds: commits take no more than their share of the time, whether
 * their cost lies in the call, in the steps beside them, or in both, and also where steps differ by a fifth; they use at
 * least a third of it; cheap ones come after every step; one that costs more than was known overspends once; the first
 * comes by COMMON_PACE_FIRST_S whatever is guessed.
 *
 * Negative controls: with a share of all the time the same run spends more than the share, so the figure can fail; and a
 * pace that is told of no cost beside the call overspends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "examples/common_pace.h"

/* A run of steps of a second. A commit costs call_s, and over_s more in the beside steps that follow. */
struct course {
    double call_s, over_s;
    unsigned beside, steps;
    double sway; /* of a step, up or down */
    double guess_s, share;
    bool hidden;     /* the pace hears of no longer steps */
    unsigned dearer; /* from this step on commits cost ten times as much; 0: never */
};

struct outcome {
    double elapsed_s, spent_s; /* truly */
    double first_s;            /* when the first commit was begun */
    unsigned commits;
};

static double sway(uint64_t *state, double most)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return most * (2.0 * (double)(*state >> 40) / (double)(1u << 24) - 1);
}

static struct outcome run(const struct course *c)
{
    struct common_pace p = {.share = c->share, .expected_s = c->guess_s};
    struct outcome out = {0};
    unsigned left = 0;
    uint64_t random = 1;

    for (unsigned step = 1; step <= c->steps; step++) {
        double times = c->dearer && step >= c->dearer ? 10 : 1, plain = 1 + sway(&random, c->sway);
        double over = left ? times * c->over_s / c->beside : 0;

        out.elapsed_s += plain + over;
        out.spent_s += over;
        common_pace_step(&p, c->hidden ? plain : plain + over);
        if (left && --left == 0)
            common_pace_end(&p);
        if (!common_pace_due(&p))
            continue;
        if (out.commits++ == 0)
            out.first_s = out.elapsed_s;
        out.elapsed_s += times * c->call_s;
        out.spent_s += times * c->call_s;
        common_pace_begin(&p, times * c->call_s);
        left = c->beside;
        if (left == 0)
            common_pace_end(&p);
    }
    return out;
}

static void at_most_the_share(const struct course *c, double least_of_it)
{
    struct outcome out = run(c);

    /* Where steps differ, what was above the usual is known to so much. */
    if (out.spent_s > c->share * out.elapsed_s * (c->sway > 0 ? 1.03 : 1.001))
        fail_msg("%u commits took %g of %g s", out.commits, out.spent_s, out.elapsed_s);
    if (out.spent_s < least_of_it * c->share * out.elapsed_s)
        fail_msg("%u commits took only %g of %g s", out.commits, out.spent_s, out.elapsed_s);
}

static void commits_keep_to_their_share(void **state)
{
    static const struct course courses[] = {
        {.call_s = 5, .steps = 20000, .share = 0.02},
        {.over_s = 5, .beside = 3, .steps = 20000, .share = 0.02},
        {.call_s = 0.5, .over_s = 2, .beside = 1, .steps = 20000, .share = 0.02},
        {.call_s = 0.5, .over_s = 2, .beside = 2, .steps = 20000, .share = 0.02, .sway = 0.2},
        {.call_s = 40, .steps = 40000, .share = 0.02, .guess_s = 1, .sway = 0.2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof courses / sizeof courses[0]; i++)
        at_most_the_share(&courses[i], 1.0 / 3);
}

static void cheap_commits_come_after_every_step(void **state)
{
    const struct course c = {.call_s = 0.001, .steps = 1000, .share = 0.02};

    (void)state;
    assert_int_equal(run(&c).commits, 1000);
}

static void the_first_comes_in_time(void **state)
{
    struct course c = {.call_s = 1, .steps = 2000, .share = 0.02, .guess_s = 1e9};
    struct outcome out = run(&c);

    (void)state;
    assert_true(out.first_s >= COMMON_PACE_FIRST_S && out.first_s <= COMMON_PACE_FIRST_S + 1);
    assert_true(out.commits > 10); /* the guess is forgotten */
    c.guess_s = 2;
    out = run(&c);
    assert_true(out.first_s >= 100 && out.first_s <= 101);
}

static void dearer_commits_overspend_once(void **state)
{
    const struct course c = {.call_s = 0.5, .steps = 30000, .share = 0.02, .dearer = 10000};
    struct outcome out = run(&c);

    (void)state;
    assert_true(out.spent_s <= c.share * out.elapsed_s + 5);
}

static void the_figures_can_fail(void **state)
{
    const struct course all = {.call_s = 5, .steps = 2000, .share = 1},
                        hidden = {.over_s = 5, .beside = 3, .steps = 2000, .share = 0.02, .hidden = true};
    struct outcome out = run(&all);

    (void)state;
    assert_true(out.spent_s > 0.5 * out.elapsed_s);
    out = run(&hidden);
    assert_true(out.spent_s > 0.1 * out.elapsed_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_keep_to_their_share), cmocka_unit_test(cheap_commits_come_after_every_step),
        cmocka_unit_test(the_first_comes_in_time),     cmocka_unit_test(dearer_commits_overspend_once),
        cmocka_unit_test(the_figures_can_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
