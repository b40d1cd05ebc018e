/*
 * sized structs: callers of older and newer versions are understood, and a newer caller who
 * asks for what is not there is refused, not ignored.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/sized.h"

struct known {
    size_t size;
    uint64_t first, second;
};

struct newer {
    struct known known;
    uint64_t third;
};

static void reads_any_version(void **state)
{
    struct known to, same = {sizeof same, 1, 2}, older = {offsetof(struct known, second), 3, 99};
    struct newer newer = {{sizeof newer, 5, 6}, 0};

    (void)state;
    assert_int_equal(base_sized_read(&to, sizeof to, sizeof to, &same, "x"), 0);
    assert_true(to.first == 1 && to.second == 2);
    assert_int_equal(base_sized_read(&to, sizeof to, older.size, &older, "x"), 0);
    assert_true(to.first == 3 && to.second == 0); /* what it lacks is zero, not what lies behind */
    assert_int_equal(base_sized_read(&to, sizeof to, sizeof to, &older, "x"), -EINVAL);
    assert_int_equal(base_sized_read(&to, sizeof to, sizeof to, &newer, "x"), 0);
    assert_true(to.first == 5 && to.second == 6);
    newer.third = 1;
    assert_int_equal(base_sized_read(&to, sizeof to, sizeof to, &newer, "read it"), -E2BIG);
    assert_non_null(strstr(base_error_text(), "read it: 32 bytes"));
}

static void writes_any_version(void **state)
{
    struct known from = {sizeof from, 1, 2}, older = {offsetof(struct known, second), 0, 99};
    struct newer newer = {{sizeof newer, 0, 0}, 7};

    (void)state;
    assert_int_equal(base_sized_write(&older, &from, sizeof from, "x"), 0);
    assert_true(older.first == 1 && older.second == 99 && older.size == offsetof(struct known, second));
    assert_int_equal(base_sized_write(&newer, &from, sizeof from, "x"), 0);
    assert_true(newer.known.second == 2 && newer.third == 0 && newer.known.size == sizeof newer);
    older.size = 1;
    assert_int_equal(base_sized_write(&older, &from, sizeof from, "x"), -EINVAL);
}

/* A size that nobody set is no struct's: nothing is read or written there. */
static void sizes_of_nothing(void **state)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 2, 1u << 20, BASE_SIZED_MAX + 1};
    struct known known = {sizeof known, 1, 2}, wild = known;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        wild.size = sizes[i];
        assert_int_equal(base_sized_read(&known, sizeof known, sizeof known, &wild, "read it"), -EINVAL);
        assert_non_null(strstr(base_error_text(), "read it: size is "));
        assert_int_equal(base_sized_write(&wild, &known, sizeof known, "write it"), -EINVAL);
        assert_true(wild.first == 1 && wild.second == 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_any_version),
        cmocka_unit_test(writes_any_version),
        cmocka_unit_test(sizes_of_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
