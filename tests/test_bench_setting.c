/*
 * The setting that `ofl-bench nvme` recommends: of all that were measured none reaches the share of the best rate with
 * fewer bytes in flight, or with as many and a lower p99; whatever the order. And where there is no choice none is made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/bench.h"
#include "bench/nvme_setting.h"

static void the_knee_is_found(void **state)
{
    const struct nvme_setting s[] = {{65536, 1, 0.5, 1e5},       {65536, 32, 2.0, 1e6},
                                     {1u << 20, 2, 2.96, 1.1e6}, {1u << 20, 4, 3.0, 2e6},
                                     {512u << 10, 4, 2.95, 9e5}, {4u << 20, 32, 3.02, 6e7},
                                     {1u << 20, 1, 2.92, 5e5}};
    struct nvme_choice c;

    (void)state;
    assert_true(nvme_setting_choose(s, 7, &c));
    assert_int_equal(c.best, 5);
    assert_int_equal(c.chosen, 4); /* as many bytes as index 2, which waits longer; index 6 is too slow */
    assert_true(c.share > 0.976 && c.share < 0.978);
}

static void there_may_be_no_choice(void **state)
{
    const struct nvme_setting none[2] = {{4096, 1, 0, 0}, {4096, 2, 0, 0}};
    struct nvme_choice c;

    (void)state;
    assert_false(nvme_setting_choose(none, 2, &c));
    assert_false(nvme_setting_choose(none, 0, &c));
    assert_false(nvme_setting_choose(&(struct nvme_setting){4096, 1, 1, 1}, 1, &c));
}

static void none_is_better(void **state)
{
    uint64_t random = 3;

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        unsigned count = 2 + (unsigned)(bench_random(&random) % 30);
        struct nvme_setting s[32];
        struct nvme_choice c;
        double best = 0;

        for (unsigned i = 0; i < count; i++) {
            s[i] = (struct nvme_setting){.block_bytes = 4096ull << bench_random(&random) % 10,
                                         .depth = 1u << bench_random(&random) % 6,
                                         .rate = 1 + (double)(bench_random(&random) % 100) / 1000,
                                         .p99_ns = (double)(bench_random(&random) % 10)};
            best = s[i].rate > best ? s[i].rate : best;
        }
        assert_true(nvme_setting_choose(s, count, &c));
        assert_true(s[c.best].rate >= best && s[c.chosen].rate >= NVME_SETTING_SHARE * best);
        for (unsigned i = 0; i < count; i++) {
            uint64_t a = s[i].block_bytes * s[i].depth, b = s[c.chosen].block_bytes * s[c.chosen].depth;

            if (s[i].rate >= NVME_SETTING_SHARE * best)
                assert_false(a < b || (a == b && s[i].p99_ns < s[c.chosen].p99_ns));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_knee_is_found),
        cmocka_unit_test(there_may_be_no_choice),
        cmocka_unit_test(none_is_better),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
