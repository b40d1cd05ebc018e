/*
 * Wear, as `ofl-bench nvme` tells it of a health page: of the rating that was given; without, of what the drive's percentage
 * stands for, from where that says enough; and nothing of a drive that tells nothing, or is past its rating.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/nvme_health.h"

#define TB 1e12

static void near(double value, double wanted)
{
    if (value < wanted * 0.999999 || value > wanted * 1.000001)
        fail_msg("%g, not %g", value, wanted);
}

static void wear_is_a_share_of_the_rating(void **state)
{
    struct io_smart s = {.used = 2, .units_written = (io_smart_count)(60 * TB / IO_SMART_UNIT_BYTES)};
    struct nvme_wear w = nvme_wear_of(&s, 600 * TB, 2 * TB);

    (void)state;
    near(w.written_bytes, 60 * TB);
    near(w.share, 0.1);
    near(w.days_left, 270);
    assert_false(w.by_drive);
    w = nvme_wear_of(&s, 600 * TB, 0);
    assert_true(w.days_left == 0);
    w = nvme_wear_of(&s, 50 * TB, 1 * TB); /* past it */
    near(w.share, 1.2);
    assert_true(w.days_left == 0);
}

static void a_percentage_stands_for_a_rating(void **state)
{
    struct io_smart s = {.used = 20, .units_written = (io_smart_count)(60 * TB / IO_SMART_UNIT_BYTES)};
    struct nvme_wear w = nvme_wear_of(&s, 0, 1 * TB);

    (void)state;
    assert_true(w.by_drive);
    near(w.rated_bytes, 300 * TB);
    near(w.share, 0.2);
    near(w.days_left, 240);
    s.used = 2;
    assert_true(nvme_wear_of(&s, 0, 1).rated_bytes == 0); /* 1.5 % or 2.5 %: nobody knows */
    s.used = 255;
    assert_true(nvme_wear_of(&s, 0, 1).rated_bytes == 0);
    s = (struct io_smart){.used = 50};
    assert_true(nvme_wear_of(&s, 0, 1).rated_bytes == 0);
    s.units_written = (io_smart_count)1 << 100; /* beyond 64 bits */
    assert_true(nvme_wear_of(&s, 600 * TB, 1).written_bytes > 1e35);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wear_is_a_share_of_the_rating),
        cmocka_unit_test(a_percentage_stands_for_a_rating),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
