/*
 * Proves when a request is late, and what follows, on an engine that the test plays by hand and a clock
 * of its own (io_fake.h): the notice comes once and before the buffer, which comes with the last
 * transfer, whatever its result; what waits comes back at once; what had finished is in time, however
 * late the owner looks; time that was taken from the process does not count. On the real kernel:
 * test_io_late.c.
 *
 * Negative controls: aged requests beside young ones, owners that ask beside those that don't, stops
 * beside time that passes.
 */
#include "tests/io_fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "include/offload.h"

static struct io_request *late_one(struct io_queue *q)
{
    struct io_request *r = NULL;

    return io_late(q, &r, 1) == 1 ? r : NULL;
}

/* Of the aged ones that which waits comes back, and that which is in flight is told of; the young one
 * goes on. What the engine has stays the queue's until the engine has returned it, whatever the result. */
static void late_is_told_before_it_is_returned(void **state)
{
    static const int64_t results[] = {64, 10, -EIO, -ECANCELED, -EINTR};

    (void)state;
    for (unsigned i = 0; i < 2 * sizeof results / sizeof results[0]; i++) {
        struct fake_file file_;
        struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
        struct io_request lost = {.file = file, .buf = fake_address(0), .bytes = 64, .offset = 7},
                          queued = lost;
        struct io_request young = {.file = file, .buf = fake_address(0), .bytes = 64}, *done[4];
        bool asks = i % 2; /* an owner that does not just gets it later */
        struct io_queue *q;
        struct fake *f;

        q = fake_open(1, &f);
        (void)io_queue_fd(q);
        io_submit(q, &lost);
        io_flush(q);
        io_submit(q, &queued);
        io_submit(q, &young);
        assert_int_equal(io_reap(q, done, 4), 0);
        assert_null(late_one(q));
        fake_age(q, &lost);
        fake_age(q, &queued);
        io_flush(q);
        assert_true(fake_readable(q));
        assert_ptr_equal(fake_reap(q), &queued);
        assert_null(fake_reap(q));
        assert_int_equal(f->cancels, 1);
        assert_true(lost.late && queued.late && !young.late);
        if (asks) {
            assert_ptr_equal(late_one(q), &lost);
            assert_null(late_one(q)); /* once */
        }
        assert_false(fake_readable(q));
        assert_int_equal(lost.error.code, -OFL_EDEADLINE);
        assert_int_equal(queued.error.code, -OFL_EDEADLINE);
        assert_non_null(strstr(lost.error.text, "read pool-0: offset 7, 64 bytes: got 0: no completion"));
        assert_non_null(strstr(lost.error.text, "in flight for 7200."));
        assert_non_null(strstr(queued.error.text, "queued for 7200."));
        io_cancel(q, &lost); /* it is as stopped as can be */
        assert_int_equal(f->cancels, 1);
        assert_int_equal(f->held_count, 1); /* it still takes up the depth */
        assert_ptr_equal(f->held[0]->request, &lost);
        assert_int_equal(io_queue_pending(q), 2);
        fake_finish(f, results[i / 2]);
        assert_ptr_equal(fake_reap(q), &lost);
        assert_int_equal(lost.error.code, -OFL_EDEADLINE);
        assert_non_null(strstr(lost.error.text, "in flight for 7200."));
        assert_int_equal(lost.done_bytes, results[i / 2] > 0 ? results[i / 2] : 0);
        assert_true(lost.elapsed_ns >= 7200000000000u);
        assert_null(late_one(q));
        assert_int_equal(f->held_count, 1);
        assert_ptr_equal(f->held[0]->request, &young);
        fake_finish(f, 64);
        assert_ptr_equal(fake_reap(q), &young);
        assert_int_equal(young.error.code, 0);
        assert_int_equal(io_queue_pending(q), 0);
        io_queue_close(q);
        fake_file_drop(&file_);
    }
}

/* Many at once, of several pieces each: every one is told once, and comes back with its last piece. */
static void late_ones_are_told_in_portions(void **state)
{
    const struct io_queue_config config = {.depth = 16, .piece_bytes = 4096, .deadline_ns = 3600000000000u};
    struct io_request r[5], *late[5];
    struct fake *f;
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 4096);
    struct io_queue *q;
    unsigned told = 0;

    (void)state;
    q = fake_queue_open(&config, &f);
    (void)io_queue_fd(q);
    for (unsigned i = 0; i < 5; i++) {
        r[i] = (struct io_request){.file = file, .buf = fake_address(0), .bytes = 4 * 4096};
        io_submit(q, &r[i]);
    }
    io_flush(q);
    assert_int_equal(f->held_count, 16); /* all of four, and none of the fifth */
    for (unsigned i = 0; i < 5; i++)
        fake_age(q, &r[i]);
    io_flush(q);
    assert_int_equal(f->cancels, 16);
    assert_ptr_equal(fake_reap(q), &r[4]);
    for (unsigned n = 3; n > 0; told += n) {
        n = io_late(q, late, 3);
        for (unsigned i = 0; i < n; i++)
            assert_true(late[i] >= r && late[i] < r + 4);
        assert_int_equal(fake_readable(q), told + n < 4 && n > 0);
        (void)io_reap(q, late, 0);
    }
    assert_int_equal(told, 4);
    for (unsigned i = 0; i < 16; i++) {
        fake_finish(f, i % 3 ? 4096 : -EIO);
        assert_ptr_equal(fake_reap(q), i % 4 == 3 ? &r[i / 4] : NULL);
    }
    io_queue_close(q);
    fake_file_drop(&file_);
}

/* Not even a waiting owner that never asks is woken twice by one notice. */
static void waiting_ends_with_a_notice(void **state)
{
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = fake_address(0), .bytes = 64}, *done;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    io_submit(q, &r);
    io_flush(q);
    fake_age(q, &r);
    assert_int_equal(io_wait(q, &done, 1, UINT64_MAX), 0); /* for ever, but for the notice */
    assert_true(r.late);
    assert_int_equal(io_wait(q, &done, 1, 1000000), 0);
    assert_ptr_equal(late_one(q), &r);
    fake_finish(f, 64);
    assert_int_equal(io_wait(q, &done, 1, UINT64_MAX), 1);
    io_queue_close(q);
    fake_file_drop(&file_);
}

/* Two requests, of an hour and of a second, while the owner looks at the queue in such steps: what is
 * late after the last one. */
static const struct {
    const char *name;
    uint64_t step_ms;
    unsigned steps;
    bool second_late, hour_late;
} stop_cases[] = {
    {"within it", 300, 3, false, false},
    {"it passes", 300, 4, true, false},
    {"an hour passes", 1000, 3601, true, true},
    {"stopped for two hours", 7200000, 1, false, false},
    {"stopped twice", 7200000, 2, true, false},
    {"stopped a lot: a second each counts", 7200000, 3601, true, true},
};

static void time_that_was_taken_does_not_count(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stop_cases / sizeof stop_cases[0]; i++) {
        struct fake_file file_;
        struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
        struct io_request hour = {.file = file, .buf = fake_address(0), .bytes = 64}, second = hour, *late[2];
        struct io_queue *q;
        struct fake *f;

        second.deadline_ns = 1001000000; /* a second counts whole */
        q = fake_open(2, &f);
        fake_now_ns = fake_clock();
        io_submit(q, &hour);
        io_submit(q, &second);
        io_flush(q);
        for (unsigned k = 0; k < stop_cases[i].steps; k++) {
            fake_now_ns += stop_cases[i].step_ms * 1000000;
            io_flush(q);
        }
        if (second.late != stop_cases[i].second_late || hour.late != stop_cases[i].hour_late)
            fail_msg("%s: %d, %d", stop_cases[i].name, second.late, hour.late);
        assert_int_equal(io_late(q, late, 2), (unsigned)second.late + hour.late);
        if (stop_cases[i].steps == 2) /* a second of each, and what was missing */
            assert_non_null(strstr(second.error.text,
                                   "in flight for 14400.000 s, 14398.000 s of it kept from "
                                   "running, allowed 1.001 s)"));
        if (stop_cases[i].step_ms == 300 && second.late)
            assert_non_null(strstr(second.error.text, "(in flight for 1.200 s, allowed 1.001 s)"));
        fake_finish(f, 64);
        fake_finish(f, 64);
        assert_int_equal(io_reap(q, late, 2), 2);
        assert_true(hour.elapsed_ns == stop_cases[i].step_ms * 1000000 * stop_cases[i].steps);
        fake_now_ns = 0;
        io_queue_close(q);
        fake_file_drop(&file_);
    }
}

/* Finished but not yet collected is in time, however late the owner looks. */
static void finished_in_time_is_no_miss(void **state)
{
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = fake_address(0), .bytes = 64};
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    io_submit(q, &r);
    io_flush(q);
    fake_finish(f, 64);
    fake_age(q, &r);
    io_flush(q);
    assert_true(fake_readable(q));
    assert_ptr_equal(fake_reap(q), &r);
    assert_int_equal(r.error.code, 0);
    io_queue_close(q);
    fake_file_drop(&file_);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late_is_told_before_it_is_returned),
        cmocka_unit_test(late_ones_are_told_in_portions),
        cmocka_unit_test(time_that_was_taken_does_not_count),
        cmocka_unit_test(waiting_ends_with_a_notice),
        cmocka_unit_test(finished_in_time_is_no_miss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
