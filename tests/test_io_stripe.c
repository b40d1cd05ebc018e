/*
 * Proves where striped files put their bytes: in proportion to the weights, within limits, and with
 * nothing kept of what could not be reserved; and that a part that lost its end is not passed off as
 * read. Parts are in memory (mem_engine.h), reserved by the real code.
 *
 * Negative controls: the table has parts with and without limits, at once and in steps; what is a
 * little less than too much works.
 */
#include "tests/io_fixture.h"
#include "tests/mem_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "include/offload.h"

#define KIB 1024ull
#define MIB (1024 * KIB)

static const struct {
    const char *name;
    unsigned count;
    double weight[4];
    uint64_t limit[4]; /* units */
    uint64_t units;    /* reserved at once, after `first` */
    uint64_t first;
    uint64_t expected[4];
} stripe_cases[] = {
    {"even", 2, {1, 1}, {0}, 16, 0, {8, 8}},
    {"three to one", 2, {3, 1}, {0}, 32, 0, {24, 8}},
    {"bytes per second", 3, {3.2e9, 1.6e9, 1.6e9}, {0}, 32, 0, {16, 8, 8}},
    {"no weights", 4, {0}, {0}, 32, 0, {8, 8, 8, 8}},
    {"odd", 3, {1, 1, 1}, {0}, 17, 0, {6, 6, 5}},
    {"grown in two steps", 2, {3, 1}, {0}, 32, 5, {24, 8}},
    {"less than one unit each", 4, {1, 1, 1, 1}, {0}, 2, 0, {1, 1, 0, 0}},
    {"the first at its limit", 2, {3, 1}, {10, 0}, 32, 0, {10, 22}},
    {"two at their limits", 3, {1, 1, 1}, {2, 3, 0}, 32, 0, {2, 3, 27}},
    {"at its limit from the first step on", 2, {1, 1}, {2, 0}, 16, 8, {2, 14}},
    {"limits to the last unit", 2, {1, 1}, {7, 9}, 16, 0, {7, 9}},
};

/* Each unit of a part is used once, from its start on; and any stretch of the file since the last
 * step is spread as the whole is, to less than a unit of each. */
static void check_layout(const char *name, const struct io_file *f, uint64_t from, uint64_t units)
{
    uint64_t used[4] = {0}, total[4] = {0}, next[4] = {0};

    assert_int_equal(f->unit_count, units);
    for (uint64_t u = 0; u < units; u++) {
        if (f->units[u].at != next[f->units[u].member]++)
            fail_msg("%s: unit %lu is out of its order", name, (unsigned long)u);
        total[f->units[u].member] += u >= from;
    }
    for (uint64_t u = from; u < units; u++) {
        used[f->units[u].member]++;
        for (unsigned i = 0; i < f->count; i++) {
            double even = (double)total[i] * (double)(u - from + 1) / (double)(units - from);

            if ((double)used[i] > even + f->count || (double)used[i] < even - f->count)
                fail_msg("%s: at unit %lu part %u has %lu, of %.1f", name, (unsigned long)u, i,
                         (unsigned long)used[i], even);
        }
    }
}

static void striped_bytes_follow_the_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stripe_cases / sizeof stripe_cases[0]; i++) {
        struct mem_part parts[4] = {{0}};
        struct io_file *f;

        for (unsigned k = 0; k < 4; k++)
            parts[k] = (struct mem_part){4096, k, stripe_cases[i].weight[k], stripe_cases[i].limit[k] * MIB};
        f = mem_file_open(parts, stripe_cases[i].count, stripe_cases[i].first * MIB, 0);
        assert_non_null(f);
        assert_int_equal(io_file_reserve(f, stripe_cases[i].units * MIB), 0);
        assert_int_equal(io_file_bytes(f), stripe_cases[i].units * MIB);
        check_layout(stripe_cases[i].name, f, stripe_cases[i].first, stripe_cases[i].units);
        for (unsigned k = 0; k < stripe_cases[i].count; k++) {
            struct io_part_info part;

            io_file_part(f, k, &part);
            if (part.bytes != stripe_cases[i].expected[k] * MIB)
                fail_msg("%s: part %u has %lu bytes", stripe_cases[i].name, k, (unsigned long)part.bytes);
            if (!part.full != !strstr(part.note, "full at"))
                fail_msg("%s: part %u: full %d, note: %s", stripe_cases[i].name, k, part.full, part.note);
            if (part.full && stripe_cases[i].limit[k] != stripe_cases[i].expected[k])
                fail_msg("%s: part %u is not full", stripe_cases[i].name, k);
        }
        mem_file_close(f);
    }
}

static uint64_t size_on_disk(const struct io_member *m)
{
    struct stat st;

    assert_int_equal(fstat(m->fd, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size);
    return (uint64_t)st.st_size;
}

/* All parts are at their limits: nothing of it is kept, and a little less works. */
static void reservation_is_rolled_back(void **state)
{
    const struct mem_part parts[] = {{.block = 4096, .device = 1, .limit_bytes = 8 * MIB},
                                     {.block = 512, .device = 2, .limit_bytes = 4 * MIB + 4096}};
    struct io_file *f = mem_file_open(parts, 2, 6 * MIB, 0);
    struct io_part_info part;

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(io_file_reserve(f, 13 * MIB), -ENOSPC);
        assert_non_null(strstr(base_error_text(), "13631488 bytes wanted, 6291456 held, 1048576 missing in 2 "
                                                  "directories: No space left on device"));
        assert_int_equal(io_file_bytes(f), 6 * MIB);
        for (unsigned i = 0; i < 2; i++) {
            io_file_part(f, i, &part);
            assert_int_equal(part.bytes, 3 * MIB);
            assert_int_equal(size_on_disk(&f->member[i]), 3 * MIB);
            assert_false(part.full);
            assert_string_equal(part.note, "");
        }
    }
    assert_int_equal(io_file_reserve(f, 12 * MIB), 0);
    check_layout("after a roll-back", f, 6, 12);
    assert_int_equal(size_on_disk(&f->member[0]), 8 * MIB);
    assert_int_equal(size_on_disk(&f->member[1]), 4 * MIB);
    mem_file_close(f);
}

/* A part lost its end. What lies before the gap is read all the same, or the read fails: it never
 * passes off as read what was not. */
static void end_inside_a_striped_file(void **state)
{
    const struct mem_part parts[] = {{.block = 4096, .device = 1}, {.block = 4096, .device = 2}};
    const struct io_queue_config c = {.depth = 16, .piece_bytes = 64 * KIB};
    const struct mem_config in_order = {.wait = true};
    struct io_file *f = mem_file_open(parts, 2, 8 * MIB, 0);
    struct io_request r = {.file = f, .bytes = 8 * MIB, .buf = io_test_aligned(8 * MIB)}, *done;
    struct mem_engine *e;
    struct io_queue *q = mem_queue_open(&c, &in_order, &e);
    unsigned char *got = r.buf;

    (void)state;
    for (uint64_t at = 0, run; at < 8 * MIB; at += run)
        memset(mem_file_at(f, at, &run), 0x11, MIB);
    mem_file_truncate(f, 0, 2 * MIB); /* of its 4 */
    mem_file_throttle(f, 1, 10);      /* so that the end is met before the other part is read */
    r.need_bytes = 1;
    memset(got, 0xee, 8 * MIB);
    io_submit(q, &r);
    while (io_reap(q, &done, 1) == 0)
        ;
    assert_int_equal(r.error.code, 0);
    assert_int_equal(r.done_bytes, 4 * MIB); /* two units of each, in turns */
    for (uint64_t i = 0; i < r.done_bytes; i++)
        if (got[i] != 0x11)
            fail_msg("byte %lu was not read", (unsigned long)i);
    r.need_bytes = 0;
    io_submit(q, &r);
    while (io_reap(q, &done, 1) == 0)
        ;
    assert_int_equal(r.error.code, -ENODATA);
    io_queue_close(q);
    free(r.buf);
    mem_file_close(f);
}

static void beyond_what_was_reserved(void **state)
{
    const struct mem_part parts[] = {{.block = 4096, .device = 1}, {.block = 4096, .device = 2}};
    const struct io_queue_config c = {.depth = 1};
    const struct mem_config in_order = {.wait = true};
    struct io_file *f = mem_file_open(parts, 2, 2 * MIB, 0);
    struct io_request r = {.file = f, .offset = MIB + 1, .bytes = MIB, .buf = io_test_aligned(MIB)}, *done;
    struct mem_engine *e;
    struct io_queue *q = mem_queue_open(&c, &in_order, &e);

    (void)state;
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        r.op = (enum io_op)op;
        io_submit(q, &r);
        assert_int_equal(io_reap(q, &done, 1), 1);
        assert_int_equal(r.error.code, -EINVAL);
        assert_non_null(strstr(r.error.text, "beyond what was reserved"));
    }
    assert_int_equal(e->started, 0);
    io_queue_close(q);
    free(r.buf);
    mem_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(striped_bytes_follow_the_weights),
        cmocka_unit_test(reservation_is_rolled_back),
        cmocka_unit_test(end_inside_a_striped_file),
        cmocka_unit_test(beyond_what_was_reserved),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
