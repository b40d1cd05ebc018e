/*
 * Proves that layouts of files are compared byte by byte: what is common to two is what lies in both at the same
 * place, whatever the extents are cut like; what has no place of its own is common to none.
 *
 * Negative control: each case that is common to the last byte also stands with one byte less.
 */
#include "tests/io_fixture.h"

#include <linux/fiemap.h>
#include <string.h>
#include <unistd.h>

#include "io/layout.h"

#define BLOCK 4096ull

/* In blocks; length 0 ends a list. */
struct part {
    unsigned logical, physical, length, flags;
};

static struct io_layout make(const struct part *parts, struct fiemap_extent *room)
{
    struct io_layout l = {.extents = room};

    for (; parts[l.count].length; l.count++)
        room[l.count] = (struct fiemap_extent){.fe_logical = parts[l.count].logical * BLOCK,
                                               .fe_physical = parts[l.count].physical * BLOCK,
                                               .fe_length = parts[l.count].length * BLOCK,
                                               .fe_flags = parts[l.count].flags};
    return l;
}

static void common_bytes(void **state)
{
    static const struct {
        struct part a[4], b[4];
        unsigned common; /* of 10 blocks */
    } cases[] = {
        {{{0, 100, 10, 0}}, {{0, 100, 10, 0}}, 10},
        {{{0, 100, 10, 0}}, {{0, 101, 10, 0}}, 0},
        {{{0, 100, 10, 0}},
         {{0, 100, 3, 0}, {3, 103, 7, FIEMAP_EXTENT_UNWRITTEN}},
         10}, /* cut, and forgotten */
        {{{0, 100, 10, 0}}, {{0, 100, 3, 0}, {3, 203, 7, 0}}, 3},
        {{{0, 100, 10, 0}}, {{3, 103, 2, 0}}, 2},
        {{{0, 100, 2, 0}, {2, 50, 8, 0}}, {{0, 100, 5, 0}, {5, 53, 5, 0}}, 7},
        {{{0, 100, 12, 0}}, {{0, 100, 12, 0}}, 10}, /* beyond the end */
        {{{0, 100, 10, FIEMAP_EXTENT_DELALLOC}}, {{0, 100, 10, 0}}, 0},
        {{{0, 100, 10, 0}}, {{0, 100, 10, FIEMAP_EXTENT_ENCODED}}, 0},
        {{{0, 0, 0, 0}}, {{0, 100, 10, 0}}, 0},
    };
    struct fiemap_extent a[4], b[4];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct io_layout x = make(cases[i].a, a), y = make(cases[i].b, b);

        assert_int_equal(io_layout_common(&x, &y, 10 * BLOCK), cases[i].common * BLOCK);
        assert_int_equal(io_layout_common(&y, &x, 10 * BLOCK), cases[i].common * BLOCK);
        if (cases[i].common == 10)
            assert_int_equal(io_layout_common(&x, &y, 10 * BLOCK - 1), 10 * BLOCK - 1);
    }
}

/* Of a real file, where its file system tells. */
static void of_a_file(void **state)
{
    struct io_layout l;
    struct io_file *f;
    uint64_t address;
    int rc;

    (void)state;
    assert_int_equal(io_file_open_scratch(io_test.dir, 0, &f), 0);
    assert_int_equal(io_file_reserve(f, 1 << 20), 0);
    rc = io_layout_get(io_file_fd(f, 0), 1 << 20, &l);
    if (rc == 0 && l.count) {
        assert_int_equal(io_layout_common(&l, &l, 1 << 20), 1 << 20);
        assert_true(io_layout_address(io_file_fd(f, 0), &address));
        assert_int_equal(address, l.extents[0].fe_physical);
        assert_false(io_layout_encoded(io_file_fd(f, 0)));
    }
    io_layout_free(&l);
    io_file_close(f);
    if (rc < 0) {
        fprintf(stderr, "skipped: the file system of %s doesn't tell where files lie\n", io_test.dir);
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(common_bytes),
        cmocka_unit_test(of_a_file),
    };

    return cmocka_run_group_tests_name("io layout", tests, io_test_set_up, io_test_tear_down);
}
