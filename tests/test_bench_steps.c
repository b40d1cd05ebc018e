/*
 * Steps in a series of rates: those that were put in are found, where they were put, with their rates, under noise, pauses
 * and lumps; and no others. A constant, a ramp's ends, short series and none at all. Random series, printed seeds.
 *
 * It can fail: a step that is smaller than what counts as one is not found.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bench/bench.h"
#include "bench/nvme_steps.h"

#define MOST 6000u

static double rates[MOST];

static double unit(uint64_t *random)
{
    return (double)(bench_random(random) >> 11) * 0x1p-53;
}

/* Normal, by twelve uniform ones. */
static double normal(uint64_t *random)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += unit(random);
    return sum;
}

static void put(unsigned from, unsigned end, double rate, double noise, uint64_t *random)
{
    for (unsigned i = from; i < end; i++)
        rates[i] = fmax(0, rate * (1 + noise * normal(random)));
}

static void steps_are_found(void **state)
{
    struct nvme_step s[NVME_STEPS_MOST];
    uint64_t random = 1;

    (void)state;
    put(0, 100, 80, 0.05, &random);
    put(100, 250, 30, 0.05, &random);
    put(250, 400, 50, 0.05, &random);
    rates[120] = 0; /* pauses */
    rates[300] = 0;
    rates[301] = 140; /* and a lump behind one */
    assert_int_equal(nvme_steps_find(rates, 400, s), 3);
    assert_true(abs((int)s[0].end - 100) <= 2 && abs((int)s[1].end - 250) <= 2);
    assert_true(fabs(s[0].rate / 80 - 1) < 0.03 && fabs(s[1].rate / 30 - 1) < 0.03 &&
                fabs(s[2].rate / 50 - 1) < 0.03);
    assert_int_equal(s[0].first, 0);
    assert_int_equal(s[2].end, 400);
}

static void none_are_made_up(void **state)
{
    struct nvme_step s[NVME_STEPS_MOST];
    uint64_t random = 2;

    (void)state;
    assert_int_equal(nvme_steps_find(rates, 0, s), 0);
    put(0, 1, 10, 0, &random);
    assert_int_equal(nvme_steps_find(rates, 1, s), 1);
    assert_true(s[0].first == 0 && s[0].end == 1 && s[0].rate == 10);
    put(0, 600, 0, 0, &random);
    assert_int_equal(nvme_steps_find(rates, 600, s), 1);
    for (unsigned round = 0; round < 300; round++) {
        double noise = 0.3 * unit(&random);

        put(0, 600, 1e9, noise, &random);
        if (nvme_steps_find(rates, 600, s) != 1)
            fail_msg("round %u: a step in noise of %g", round, noise);
    }
    put(0, 300, 100, 0.005, &random); /* less than counts as one */
    put(300, 600, 95, 0.005, &random);
    assert_int_equal(nvme_steps_find(rates, 600, s), 1);
}

/* One to six steps that differ by a fifth at least and last for 3 s, in samples of 0.1 s. */
static void random_steps_are_found(void **state)
{
    uint64_t random = 3;

    (void)state;
    for (unsigned round = 0; round < 1000; round++) {
        unsigned count = 1 + (unsigned)(bench_random(&random) % 6), ends[6], at = 0, found;
        struct nvme_step s[NVME_STEPS_MOST];
        double rate[6], noise = 0.1 * unit(&random);

        for (unsigned i = 0; i < count; i++) {
            double factor = 1.25 + 3 * unit(&random);

            rate[i] = i == 0 ? 100 : bench_random(&random) % 2 ? rate[i - 1] * factor : rate[i - 1] / factor;
            ends[i] = at + 30 + (unsigned)(bench_random(&random) % 300);
            put(at, ends[i], rate[i], noise, &random);
            at = ends[i];
        }
        found = nvme_steps_find(rates, at, s);
        if (found != count)
            fail_msg("round %u: %u steps, not %u, noise %g", round, found, count, noise);
        for (unsigned i = 0; i < count; i++)
            if (abs((int)s[i].end - (int)ends[i]) > 5 || fabs(s[i].rate / rate[i] - 1) > 0.12 ||
                s[i].first != (i ? s[i - 1].end : 0))
                fail_msg("round %u: step %u is [%u, %u) of %g, not up to %u of %g, noise %g", round, i,
                         s[i].first, s[i].end, s[i].rate, ends[i], rate[i], noise);
    }
}

/* As a drive that is held back by a meter: nothing for a while, then all at once, at a steady rate. Lumps of as much as a
 * sample or two have are close to what can be told: in up to a tenth of the rounds a short step more is seen, or one less. */
static void lumps_are_no_steps(void **state)
{
    const double rate[] = {120, 40, 75};
    unsigned exact = 0;
    uint64_t random = 5;

    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        double owed = 0, lump = 20 + 40 * unit(&random);
        struct nvme_step s[NVME_STEPS_MOST];
        unsigned found;

        for (unsigned i = 0; i < 390; i++) {
            owed += rate[i / 130] * (0.8 + 0.4 * unit(&random));
            rates[i] = floor(owed / lump) * lump;
            owed -= rates[i];
        }
        found = nvme_steps_find(rates, 390, s);
        for (unsigned i = 0; i < 3 && found == 3; i++)
            if (fabs(s[i].rate / rate[i] - 1) > 0.05 || abs((int)s[i].end - (int)(130 * (i + 1))) > 20)
                found = 0;
        exact += found == 3;
    }
    assert_true(exact >= 180);
}

/* Whatever comes: all samples are in one step each, in order. */
static void anything_is_covered(void **state)
{
    uint64_t random = 4;

    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        unsigned count = (unsigned)(bench_random(&random) % 700), found;
        struct nvme_step s[NVME_STEPS_MOST];
        double sum = 0, all = 0;

        for (unsigned i = 0; i < count; i++)
            rates[i] = round % 3 == 0   ? unit(&random) * 1e9
                       : round % 3 == 1 ? (double)i
                                        : exp(20 * unit(&random));
        found = nvme_steps_find(rates, count, s);
        assert_true(found <= NVME_STEPS_MOST && (found > 0) == (count > 0));
        for (unsigned i = 0; i < found; i++) {
            assert_int_equal(s[i].first, i ? s[i - 1].end : 0);
            assert_true(s[i].end > s[i].first);
            sum += s[i].rate * (s[i].end - s[i].first);
        }
        for (unsigned i = 0; i < count; i++)
            all += rates[i];
        assert_true(fabs(sum - all) <= 1e-9 * all);
        if (found)
            assert_int_equal(s[found - 1].end, count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_found),        cmocka_unit_test(none_are_made_up),
        cmocka_unit_test(random_steps_are_found), cmocka_unit_test(lumps_are_no_steps),
        cmocka_unit_test(anything_is_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
