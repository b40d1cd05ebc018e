/*
 * Proves the queue's own rules on an engine that the test plays by hand (io_fake.h), so that every
 * result and every order can be had: class order, depth, splitting at 1 GiB, what follows each kind of
 * result, end of file, the eventfd. Nothing here touches a drive. Deadlines: test_io_deadline.c.
 *
 * Negative controls: each table has cases on both sides of its rule (a redo that rounds down beside
 * one that needn't; need_bytes met beside one byte missed), so a queue that always, or never, does it
 * fails.
 */
#include "tests/io_fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "include/offload.h"

/* ---- order and depth --------------------------------------------------- */

static void class_order_at_depth_1(void **state)
{
    static const enum io_class submitted[] = {IO_WRITEBACK, IO_PREFETCH, IO_DEMAND,
                                              IO_WRITEBACK, IO_DEMAND,   IO_PREFETCH};
    static const unsigned expected[] = {2, 4, 1, 5, 0, 3};
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
    struct io_request r[6], late = {.file = file, .buf = fake_address(0), .bytes = 512, .offset = 99};
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    for (unsigned i = 0; i < 6; i++) {
        r[i] = (struct io_request){.class = submitted[i], .file = file, .buf = fake_address(0), .bytes = 512};
        io_submit(q, &r[i]);
    }
    assert_int_equal(f->held_count, 0); /* nothing before flush */
    io_flush(q);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(f->held_count, 1);
        assert_ptr_equal(f->held[0]->request, &r[expected[i]]);
        if (i == 2) { /* a demand read that comes in the middle is next */
            io_submit(q, &late);
            io_flush(q);
            fake_finish(f, 512);
            assert_ptr_equal(fake_reap(q), &r[expected[i]]);
            assert_ptr_equal(f->held[0]->request, &late);
            fake_finish(f, 512);
            assert_ptr_equal(fake_reap(q), &late);
            continue;
        }
        fake_finish(f, 512);
        assert_ptr_equal(fake_reap(q), &r[expected[i]]);
    }
    assert_int_equal(io_queue_pending(q), 0);
    io_queue_close(q);
    fake_file_drop(&file_);
}

static void depth_is_the_limit(void **state)
{
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
    struct io_request r[10], *done[10];
    struct io_stats stats;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(4, &f);
    for (unsigned i = 0; i < 10; i++) {
        r[i] = (struct io_request){.file = file, .buf = fake_address(0), .bytes = 100};
        io_submit(q, &r[i]);
    }
    io_flush(q);
    assert_int_equal(f->held_count, 4);
    fake_finish(f, 100);
    fake_finish(f, 100);
    assert_int_equal(io_reap(q, done, 10), 2);
    assert_int_equal(f->held_count, 4); /* refilled */
    while (f->held_count) {
        fake_finish(f, 100);
        io_reap(q, done, 10);
    }
    io_queue_stats(q, &stats);
    assert_int_equal(stats.inflight_max, 4);
    assert_int_equal(stats.read_ops, 10);
    assert_int_equal(stats.read_bytes, 1000);
    assert_int_equal(stats.resubmits, 0);
    io_queue_close(q);
    fake_file_drop(&file_);
}

/* Requests beyond 1 GiB go in pieces; between pieces a demand read overtakes. */
static void large_requests_are_split(void **state)
{
    const uint64_t total = 5 * GIB + 8192, start = 3 * GIB;
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 8 * GIB + 8192, 4096);
    struct io_stats stats;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        struct io_request big = {
            .op = (enum io_op)op, .class = IO_WRITEBACK, .file = file, .buf = fake_address(0)};
        struct io_request demand = {.class = IO_DEMAND, .file = file, .buf = fake_address(0), .bytes = 4096};
        uint64_t at = 0;

        big.offset = start;
        big.bytes = total;
        io_submit(q, &big);
        io_flush(q);
        for (unsigned piece = 0; at < total; piece++) {
            uint64_t expect = total - at < GIB ? total - at : GIB;

            assert_int_equal(f->held_count, 1);
            assert_int_equal(f->held[0]->bytes, expect);
            assert_int_equal(f->held[0]->offset, start + at);
            assert_ptr_equal(f->held[0]->buf, fake_address(at));
            if (piece == 2) {
                io_submit(q, &demand);
                fake_finish(f, (int64_t)expect);
                assert_null(fake_reap(q));
                assert_ptr_equal(f->held[0]->request, &demand);
                fake_finish(f, 4096);
                assert_ptr_equal(fake_reap(q), &demand);
            } else {
                fake_finish(f, (int64_t)expect);
                assert_ptr_equal(fake_reap(q), at + expect == total ? &big : NULL);
            }
            at += expect;
        }
        assert_int_equal(big.error.code, 0);
        assert_int_equal(big.done_bytes, total);
    }
    io_queue_stats(q, &stats);
    assert_int_equal(stats.write_bytes, total);
    assert_int_equal(stats.read_bytes, total + 8192);
    assert_int_equal(stats.resubmits, 0); /* a next piece is not a resubmission */
    io_queue_close(q);
    fake_file_drop(&file_);
}

/* ---- results ----------------------------------------------------------- */

/* A request for 16 KiB at offset 8192 of a 1 MiB file: what the engine answers, where the next
 * transfer must begin (relative to the request), and how it ends. */
struct result_case {
    const char *name;
    enum io_op op;
    uint32_t block;
    int64_t results[4]; /* up to END */
    int64_t starts[4];
    int code;
    uint64_t done;
    unsigned resubmits;
    const char *text;
};

#define END INT64_MIN

static const struct result_case result_cases[] = {
    {"whole", IO_READ, 4096, {16384, END}, {0}, 0, 16384, 0, ""},
    {"aligned short read goes on", IO_READ, 4096, {4096, 12288, END}, {0, 4096}, 0, 16384, 1, ""},
    {"unaligned short read, direct, rounds down",
     IO_READ,
     4096,
     {5000, 12288, END},
     {0, 4096},
     0,
     16384,
     1,
     ""},
    {"unaligned short read, buffered, goes on", IO_READ, 1, {5000, 11384, END}, {0, 5000}, 0, 16384, 1, ""},
    {"redo shorter than before", IO_READ, 4096, {5000, 100, 12288, END}, {0, 4096, 4096}, 0, 16384, 2, ""},
    {"short within the first block", IO_READ, 4096, {1, 16384, END}, {0, 0}, 0, 16384, 1, ""},
    {"short write, direct", IO_WRITE, 4096, {9000, 8192, END}, {0, 8192}, 0, 16384, 1, ""},
    {"short write, buffered", IO_WRITE, 1, {9000, 7384, END}, {0, 9000}, 0, 16384, 1, ""},
    {"EAGAIN and EINTR", IO_READ, 4096, {-EAGAIN, -EINTR, 16384, END}, {0, 0, 0}, 0, 16384, 2, ""},
    {"EIO",
     IO_READ,
     4096,
     {-EIO, END},
     {0},
     -EIO,
     0,
     0,
     "read pool-0: offset 8192, 16384 bytes: got 0: Input/output error"},
    {"EIO after a part",
     IO_READ,
     4096,
     {4096, -EIO, END},
     {0, 4096},
     -EIO,
     4096,
     1,
     "read pool-0: offset 8192, 16384 bytes: got 4096: Input/output error"},
    {"full file system",
     IO_WRITE,
     4096,
     {8192, -ENOSPC, END},
     {0, 8192},
     -ENOSPC,
     8192,
     1,
     "write pool-0: offset 8192, 16384 bytes: wrote 8192: No space left on device"},
    {"write of nothing",
     IO_WRITE,
     1,
     {0, END},
     {0},
     -EIO,
     0,
     0,
     "write pool-0: offset 8192, 16384 bytes: wrote 0: the file system takes no more, and does not say why"},
    {"more than asked",
     IO_READ,
     1,
     {16385, END},
     {0},
     -EIO,
     0,
     0,
     "read pool-0: offset 8192, 16384 bytes: got 0: the engine reports more bytes than were asked for"},
};

static void results_are_judged(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof result_cases / sizeof result_cases[0]; i++) {
        const struct result_case *c = &result_cases[i];
        struct fake_file file_;
        struct io_file *file = fake_file_make(&file_, 1 << 20, c->block);
        struct io_request r = {
            .op = c->op, .file = file, .buf = fake_address(0), .offset = 8192, .bytes = 16384};
        struct io_stats stats;
        struct io_queue *q;
        struct fake *f;

        q = fake_open(2, &f);
        io_submit(q, &r);
        io_flush(q);
        for (unsigned s = 0; c->results[s] != END; s++) {
            if (f->held_count != 1 || f->held[0]->offset != 8192 + (uint64_t)c->starts[s])
                fail_msg("%s: transfer %u does not begin at %d", c->name, s, (int)c->starts[s]);
            assert_ptr_equal(f->held[0]->buf, fake_address((uint64_t)c->starts[s]));
            assert_int_equal(f->held[0]->bytes, 16384 - c->starts[s]);
            fake_finish(f, c->results[s]);
            if (fake_reap(q) != (c->results[s + 1] == END ? &r : NULL))
                fail_msg("%s: after transfer %u", c->name, s);
        }
        io_queue_stats(q, &stats);
        if (r.error.code != c->code || r.done_bytes != c->done || strcmp(r.error.text, c->text) != 0)
            fail_msg("%s: code %d, done %lu, %s", c->name, r.error.code, (unsigned long)r.done_bytes,
                     r.error.text);
        assert_int_equal(stats.resubmits, c->resubmits);
        assert_int_equal(f->held_count, 0);
        io_queue_close(q);
        fake_file_drop(&file_);
    }
}

/* A read of 16 KiB from the start of a file of `size` bytes. */
static const struct end_case {
    const char *name;
    uint32_t block;
    uint64_t size, need;
    int64_t results[3];
    int code;
    uint64_t done;
} end_cases[] = {
    {"need met inside a block", 4096, 10000, 10000, {10000, END}, 0, 10000},
    {"need missed by one", 4096, 10000, 10001, {10000, END}, -ENODATA, 10000},
    {"no need given: all", 4096, 10000, 0, {10000, END}, -ENODATA, 10000},
    {"need met, end at a block", 4096, 8192, 8192, {8192, END}, 0, 8192},
    {"not the end yet, though need is met", 4096, 12288, 4000, {5000, 8192, END}, 0, 12288},
    {"nothing there", 4096, 0, 1, {0, END}, -ENODATA, 0},
    {"buffered", 1, 10000, 10000, {10000, END}, 0, 10000},
    {"file shrank between transfers", 4096, 65536, 12288, {5000, 0, END}, -ENODATA, 4096},
};

static void end_of_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof end_cases / sizeof end_cases[0]; i++) {
        const struct end_case *c = &end_cases[i];
        struct fake_file file_;
        struct io_file *file = fake_file_make(&file_, c->size, c->block);
        struct io_request r = {.file = file, .buf = fake_address(0), .bytes = 16384, .need_bytes = c->need};
        struct io_queue *q;
        struct fake *f;

        q = fake_open(1, &f);
        io_submit(q, &r);
        io_flush(q);
        for (unsigned s = 0; c->results[s] != END; s++) {
            fake_finish(f, c->results[s]);
            if (fake_reap(q) != (c->results[s + 1] == END ? &r : NULL))
                fail_msg("%s: after transfer %u", c->name, s);
        }
        if (r.error.code != c->code || r.done_bytes != c->done)
            fail_msg("%s: code %d, done %lu", c->name, r.error.code, (unsigned long)r.done_bytes);
        if (c->code)
            assert_non_null(strstr(r.error.text, ": end of file"));
        io_queue_close(q);
        fake_file_drop(&file_);
    }
}

static void mistakes_are_refused(void **state)
{
    struct fake_file direct_, source_;
    struct io_file *direct = fake_file_make(&direct_, 1 << 20, 4096);
    struct io_file *source = fake_file_make(&source_, 1 << 20, 4096);
    const struct {
        struct io_request r;
        int code;
        const char *text;
    } cases[] = {
        {{.buf = fake_address(0), .bytes = 4096}, -EINVAL, "no file"},
        {{.file = direct, .bytes = 4096}, -EINVAL, "no buffer"},
        {{.file = direct, .buf = fake_address(0), .bytes = 4096, .op = (enum io_op)7},
         -EINVAL,
         "unknown operation"},
        {{.file = direct, .buf = fake_address(0), .bytes = 4096, .class = IO_CLASSES},
         -EINVAL,
         "unknown class"},
        {{.file = direct, .buf = fake_address(0), .bytes = 4096, .need_bytes = 4097}, -EINVAL, "needs more"},
        {{.file = direct, .buf = fake_address(0), .offset = 1ull << 63, .bytes = 4096},
         -EINVAL,
         "past any file"},
        {{.file = direct, .buf = fake_address(0), .offset = INT64_MAX - 4095, .bytes = 4096},
         -EINVAL,
         "past any file"},
        {{.op = IO_WRITE, .file = source, .buf = fake_address(0), .bytes = 4096}, -EBADF, "for reading only"},
        {{.file = direct, .buf = NULL, .bytes = 0}, 0, ""}, /* nothing to do is no mistake */
    };
    struct io_queue *q;
    struct fake *f;

    (void)state;
    source->writable = false;
    q = fake_open(4, &f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct io_request r = cases[i].r;

        io_submit(q, &r);
        assert_true(fake_readable(q));
        assert_int_equal(io_queue_pending(q), 1);
        assert_ptr_equal(fake_reap(q), &r);
        if (r.error.code != cases[i].code || !strstr(r.error.text, cases[i].text))
            fail_msg("case %zu: %d, %s", i, r.error.code, r.error.text);
        assert_false(fake_readable(q));
    }
    assert_int_equal(f->held_count, 0);
    io_queue_close(q);
    fake_file_drop(&direct_);
    fake_file_drop(&source_);
}

/* ---- wake-ups, engine failures ------------------------------ */

static void fd_stays_readable_until_all_is_reaped(void **state)
{
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 4096);
    struct io_request r[3];
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    for (unsigned i = 0; i < 3; i++) {
        r[i] = (struct io_request){.file = file, .bytes = 1}; /* no buffer: a mistake, known at once */
        io_submit(q, &r[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_true(fake_readable(q));
        assert_ptr_equal(fake_reap(q), &r[i]);
    }
    assert_false(fake_readable(q));
    io_queue_close(q);
    fake_file_drop(&file_);
}

static void engine_refuses(void **state)
{
    struct fake_file file_;
    struct io_file *file = fake_file_make(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = fake_address(0), .bytes = 64}, *done[2];
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = fake_open(1, &f);
    f->start_code = -EBUSY;
    io_submit(q, &r);
    io_flush(q);
    assert_ptr_equal(fake_reap(q), &r);
    assert_int_equal(r.error.code, -EBUSY);

    /* what the kernel would not take is named when time is up */
    f->start_code = 0;
    f->flush_code = -ENOMEM;
    io_submit(q, &r);
    io_flush(q);
    fake_age(q, &r);
    assert_int_equal(io_reap(q, done, 2), 1);
    assert_int_equal(r.error.code, -OFL_EDEADLINE);
    assert_non_null(strstr(r.error.text, "hand-over to the kernel: Cannot allocate memory"));
    io_queue_close(q);
    fake_file_drop(&file_);
}

static void bad_config_is_refused(void **state)
{
    const struct io_queue_config cases[] = {{.depth = IO_DEPTH_MAX + 1}, {.engine = (enum io_engine)9}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake *f = fake_create();
        struct io_queue *q;

        fake_closed = 0;
        assert_int_equal(io_queue_open_on(&cases[i], &f->base, &q), -EINVAL);
        assert_null(q);
        assert_int_equal(fake_closed, 1);
        assert_int_equal(io_queue_open(&cases[i], &q), -EINVAL);
        assert_null(q);
    }
    io_queue_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(class_order_at_depth_1),
        cmocka_unit_test(depth_is_the_limit),
        cmocka_unit_test(large_requests_are_split),
        cmocka_unit_test(results_are_judged),
        cmocka_unit_test(end_of_file),
        cmocka_unit_test(mistakes_are_refused),
        cmocka_unit_test(fd_stays_readable_until_all_is_reaped),
        cmocka_unit_test(engine_refuses),
        cmocka_unit_test(bad_config_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
