/*
 * Proves of bounds (examples/common_bound.h), on planted figures: bytes of a step are those behind the ones that
 * settle; rates are of busy time, drives' added up; the least possible is what neither memory keeps; a bound is the
 * slowest side's, of either kind of bytes; and more than all of it is called an error of ours.
 *
 * Negative controls: just as much as a bound is no error, and a meter whose busy time is that of all steps
 * shows the lower rate.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "examples/common_bound.h"

#define GIB (1ull << 30)
#define SEC 1000000000ull

static const struct common_least unknown = {.known = false};

/* Four seconds and four steps: 8 GiB over the link in, 1 GiB out, 2 and 1 GiB of two drives. */
static struct common_meter planted(void)
{
    struct common_meter m = {.settle = 2, .steps = 6, .counted_steps = 4};

    m.counted = (struct common_flow){.at_s = 10,
                                     .link_bytes = {100 * GIB, 7 * GIB},
                                     .link_busy_ns = {50 * SEC, SEC},
                                     .path_bytes = {9 * GIB, GIB},
                                     .path_busy_ns = {2 * SEC, SEC},
                                     .paths = 2};
    m.last = (struct common_flow){.at_s = 14,
                                  .link_bytes = {108 * GIB, 8 * GIB},
                                  .link_busy_ns = {52 * SEC, 3 * SEC},
                                  .path_bytes = {11 * GIB, 2 * GIB},
                                  .path_busy_ns = {4 * SEC, 3 * SEC},
                                  .paths = 2};
    return m;
}

static void near(double value, double wanted)
{
    if (value < wanted * 0.999999 || value > wanted * 1.000001)
        fail_msg("%g, not %g", value, wanted);
}

static void bytes_and_rates_are_of_the_steps_that_count(void **state)
{
    struct common_meter m = planted();
    struct common_bound b;

    (void)state;
    common_bound_get(&m, &unknown, &b);
    assert_int_equal(b.steps, 4);
    near(b.step_s, 1);
    near(b.moved[COMMON_LINK_IN], 2.0 * GIB);
    near(b.moved[COMMON_LINK_OUT], 0.25 * GIB);
    near(b.moved[COMMON_DRIVES], 0.75 * GIB);
    near(b.bps[COMMON_LINK_IN], 4.0 * GIB);
    near(b.bps[COMMON_LINK_OUT], 0.5 * GIB);
    near(b.bps[COMMON_DRIVES], 1.5 * GIB); /* 1 and 0.5 */
    near(b.moved_s, 0.5);                  /* all three sides need as long */
    assert_true(b.least_s < 0);
}

static void a_better_window_is_the_rate(void **state)
{
    struct common_meter m = planted();
    struct common_bound b;

    (void)state;
    m.bps[COMMON_DRIVES] = 3.0 * GIB;
    m.bps[COMMON_LINK_IN] = 1.0 * GIB; /* and a worse one is not */
    common_bound_get(&m, &unknown, &b);
    near(b.bps[COMMON_DRIVES], 3.0 * GIB);
    near(b.bps[COMMON_LINK_IN], 4.0 * GIB);
}

static void the_least_is_what_no_memory_keeps(void **state)
{
    static const struct {
        uint64_t weights, device, host;
        double in, drives;
    } cases[] = {
        {12, 3, 4, 9, 5}, {12, 3, 9, 9, 0}, {12, 3, 100, 9, 0}, {12, 12, 0, 0, 0}, {12, 0, 0, 12, 12}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct common_least l =
            common_least_pass(cases[i].weights * GIB, cases[i].device * GIB, cases[i].host * GIB);

        assert_true(l.known);
        near(l.bytes[COMMON_LINK_IN], cases[i].in * GIB);
        near(l.bytes[COMMON_LINK_OUT], 0);
        near(l.bytes[COMMON_DRIVES], cases[i].drives * GIB);
    }
}

static void both_bounds_have_their_own_side(void **state)
{
    struct common_meter m = planted();
    struct common_least least = common_least_pass(3 * GIB, GIB / 2, 2 * GIB);
    struct common_bound b;

    (void)state;
    m.last.path_bytes[0] += 8 * GIB; /* of drives at 5.5 GiB/s, 2.75 GiB a step */
    common_bound_get(&m, &least, &b);
    near(b.moved_s, 0.5);
    near(b.least_s, 2.5 / 4);
    assert_int_equal(b.least_by, COMMON_LINK_IN);
    m.last.link_busy_ns[COMMON_LINK_IN] = m.counted.link_busy_ns[COMMON_LINK_IN] + SEC / 10;
    least = common_least_pass(3 * GIB, GIB / 2, GIB);
    common_bound_get(&m, &least, &b);
    near(b.least_s, 1.5 / 5.5);
    assert_int_equal(b.least_by, COMMON_DRIVES);
}

static void without_steps_there_is_no_bound(void **state)
{
    struct common_meter m = {.settle = 2};
    struct common_bound b;
    json_t *j;

    (void)state;
    common_bound_get(&m, &unknown, &b);
    near(b.moved_s, 0);
    j = common_bound_json(&b);
    assert_non_null(j);
    assert_true(json_is_null(json_object_get(j, "share_of_moved")));
    assert_true(json_is_null(json_object_get(j, "least_s")));
    json_decref(j);
}

static void json_says_both_shares(void **state)
{
    struct common_meter m = planted();
    struct common_least least = common_least_pass(3 * GIB, 2 * GIB, GIB);
    struct common_bound b;
    json_t *j;

    (void)state;
    common_bound_get(&m, &least, &b);
    j = common_bound_json(&b);
    assert_non_null(j);
    near(json_real_value(json_object_get(j, "share_of_moved")), 0.5);
    near(json_real_value(json_object_get(j, "share_of_least")), 0.25);
    near(json_real_value(json_object_get(json_object_get(j, "drives"), "least_bytes")), 0);
    near(json_real_value(json_object_get(json_object_get(j, "link_in"), "least_bytes")), 1.0 * GIB);
    json_decref(j);
}

/* What it says on stderr. */
static void said(double bound_s, double seconds, char *text, size_t size)
{
    int ends[2], kept = dup(STDERR_FILENO);
    ssize_t n;

    assert_true(kept >= 0 && pipe(ends) == 0);
    fflush(stderr);
    dup2(ends[1], STDERR_FILENO);
    common_bound_check(bound_s, seconds);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    n = read(ends[0], text, size - 1);
    close(ends[0]);
    text[n > 0 ? n : 0] = '\0';
}

static void more_than_all_is_an_error_of_ours(void **state)
{
    char text[256];

    (void)state;
    said(2.47, 1, text, sizeof text);
    assert_non_null(strstr(text, "247.0 %"));
    assert_non_null(strstr(text, "error of ours"));
    said(1, 1, text, sizeof text);
    assert_string_equal(text, "");
    said(-1, 1, text, sizeof text);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_rates_are_of_the_steps_that_count),
        cmocka_unit_test(a_better_window_is_the_rate),
        cmocka_unit_test(the_least_is_what_no_memory_keeps),
        cmocka_unit_test(both_bounds_have_their_own_side),
        cmocka_unit_test(without_steps_there_is_no_bound),
        cmocka_unit_test(json_says_both_shares),
        cmocka_unit_test(more_than_all_is_an_error_of_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
