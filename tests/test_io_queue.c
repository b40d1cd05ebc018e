/*
 * Proves the queue's own rules on an engine that the test plays by hand, so that every result and
 * every order can be had: class order, depth, splitting at 1 GiB, what follows each kind of result,
 * end of file, deadlines whose notice comes before the buffer, the eventfd. Nothing here touches a drive.
 *
 * Negative controls: each table has cases on both sides of its rule (a redo that rounds down beside
 * one that needn't; an aged request beside a young one; need_bytes met beside one byte missed), so a
 * queue that always, or never, does it fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/engine.h"
#include "io/file.h"
#include "io/queue.h"
#include "base/clock.h"

#define HELD_MAX 64
#define GIB      (1ull << 30)

/* ---- the engine played by hand ----------------------------------------- */

struct fake {
    struct io_backend base;
    struct io_transfer *held[HELD_MAX]; /* started, oldest first */
    unsigned held_count;
    struct io_transfers done;
    int start_code, flush_code;
    unsigned cancels;
    unsigned *closed;
};

static int fake_start(struct io_backend *b, struct io_transfer *t)
{
    struct fake *f = (struct fake *)b;

    if (f->start_code)
        return f->start_code;
    assert_true(f->held_count < HELD_MAX);
    f->held[f->held_count++] = t;
    return 0;
}

static int fake_flush(struct io_backend *b)
{
    return ((struct fake *)b)->flush_code;
}

static unsigned fake_collect(struct io_backend *b, struct io_transfer **done, unsigned max)
{
    struct fake *f = (struct fake *)b;
    unsigned n = 0;

    while (n < max && (done[n] = io_transfers_pop(&f->done)))
        n++;
    return n;
}

/* While the kernel takes nothing, what it should give up has never reached it. */
static void fake_cancel(struct io_backend *b, struct io_transfer *t)
{
    struct fake *f = (struct fake *)b;
    unsigned at = 0;

    f->cancels++;
    while (at < f->held_count && f->held[at] != t)
        at++;
    assert_true(at < f->held_count);
    if (!f->flush_code)
        return;
    memmove(f->held + at, f->held + at + 1, (--f->held_count - at) * sizeof f->held[0]);
    t->result = -ECANCELED;
    io_transfers_push(&f->done, t);
}

static void fake_close(struct io_backend *b)
{
    struct fake *f = (struct fake *)b;

    ++*f->closed;
    free(f);
}

static const struct io_backend_ops fake_ops = {.start = fake_start,
                                               .flush = fake_flush,
                                               .collect = fake_collect,
                                               .cancel = fake_cancel,
                                               .close = fake_close};
static unsigned closed;

/* The oldest started transfer ends with this result. */
static void finish_first(struct fake *f, int64_t result)
{
    assert_true(f->held_count > 0);
    f->held[0]->result = result;
    io_transfers_push(&f->done, f->held[0]);
    memmove(f->held, f->held + 1, --f->held_count * sizeof f->held[0]);
}

/* The queue's clock: of a machine that has been up for some hours, and where time may jump. */
static uint64_t clock_frozen_ns; /* 0: it goes */

static uint64_t fake_clock(void)
{
    return clock_frozen_ns ? clock_frozen_ns : base_now_ns() + 4 * 3600000000000u;
}

static void set_clock(struct io_queue *q)
{
    q->clock = fake_clock;
    q->now_ns = fake_clock();
}

static struct io_queue *open_fake(uint32_t depth, struct fake **out)
{
    /* pieces and windows out of the way: they have tests of their own */
    const struct io_queue_config config = {
        .depth = depth, .deadline_ns = 3600000000000u, .piece_bytes = IO_PIECE_MAX, .window_bytes = 64 * GIB};
    struct fake *f = calloc(1, sizeof *f);
    struct io_queue *q;

    assert_non_null(f);
    f->base.ops = &fake_ops;
    f->closed = &closed;
    assert_int_equal(io_queue_open_on(&config, &f->base, &q), 0);
    set_clock(q);
    *out = f;
    return q;
}

/* A file of so many bytes, for the questions that the queue puts to it. */
struct fake_file {
    struct io_file file;
    struct io_member member;
    char path[16];
};

static struct io_file *make_file(struct fake_file *f, uint64_t bytes, uint32_t block)
{
    *f = (struct fake_file){
        .file = {.member = &f->member, .count = 1, .block = block, .writable = true, .bytes = bytes},
        .member = {.cached_fd = -1, .block = block, .direct = block > 1, .bytes = bytes, .weight = 1},
        .path = "pool-0",
    };
    f->file.path = f->member.path = f->path;
    f->member.fd = memfd_create("test_io_queue", MFD_CLOEXEC);
    assert_true(f->member.fd >= 0);
    assert_int_equal(ftruncate(f->member.fd, (off_t)bytes), 0);
    return &f->file;
}

static void drop_file(struct fake_file *f)
{
    close(f->member.fd);
}

static struct io_request *reap_one(struct io_queue *q)
{
    struct io_request *r = NULL;

    return io_reap(q, &r, 1) == 1 ? r : NULL;
}

static bool readable(struct io_queue *q)
{
    struct pollfd p = {.fd = io_queue_fd(q), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

/* Made-up buffer addresses: the fake engine never follows them. */
static void *address(uint64_t at)
{
    return (void *)(uintptr_t)(GIB + at);
}

/* As if it had been submitted two hours ago. */
static void age(struct io_queue *q, struct io_request *r)
{
    r->submit_ns = q->clock() - 7200000000000u;
    r->expire_ns = r->submit_ns - q->away_ns + 3600000000000u;
    q->expire_ns = 0;
}

/* ---- order and depth --------------------------------------------------- */

static void class_order_at_depth_1(void **state)
{
    static const enum io_class submitted[] = {IO_WRITEBACK, IO_PREFETCH, IO_DEMAND,
                                              IO_WRITEBACK, IO_DEMAND,   IO_PREFETCH};
    static const unsigned expected[] = {2, 4, 1, 5, 0, 3};
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 1);
    struct io_request r[6], late = {.file = file, .buf = address(0), .bytes = 512, .offset = 99};
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    for (unsigned i = 0; i < 6; i++) {
        r[i] = (struct io_request){.class = submitted[i], .file = file, .buf = address(0), .bytes = 512};
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
            finish_first(f, 512);
            assert_ptr_equal(reap_one(q), &r[expected[i]]);
            assert_ptr_equal(f->held[0]->request, &late);
            finish_first(f, 512);
            assert_ptr_equal(reap_one(q), &late);
            continue;
        }
        finish_first(f, 512);
        assert_ptr_equal(reap_one(q), &r[expected[i]]);
    }
    assert_int_equal(io_queue_pending(q), 0);
    io_queue_close(q);
    drop_file(&file_);
}

static void depth_is_the_limit(void **state)
{
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 1);
    struct io_request r[10], *done[10];
    struct io_stats stats;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(4, &f);
    for (unsigned i = 0; i < 10; i++) {
        r[i] = (struct io_request){.file = file, .buf = address(0), .bytes = 100};
        io_submit(q, &r[i]);
    }
    io_flush(q);
    assert_int_equal(f->held_count, 4);
    finish_first(f, 100);
    finish_first(f, 100);
    assert_int_equal(io_reap(q, done, 10), 2);
    assert_int_equal(f->held_count, 4); /* refilled */
    while (f->held_count) {
        finish_first(f, 100);
        io_reap(q, done, 10);
    }
    io_queue_stats(q, &stats);
    assert_int_equal(stats.inflight_max, 4);
    assert_int_equal(stats.read_ops, 10);
    assert_int_equal(stats.read_bytes, 1000);
    assert_int_equal(stats.resubmits, 0);
    io_queue_close(q);
    drop_file(&file_);
}

/* Requests beyond 1 GiB go in pieces; between pieces a demand read overtakes. */
static void large_requests_are_split(void **state)
{
    const uint64_t total = 5 * GIB + 8192, start = 3 * GIB;
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 8 * GIB + 8192, 4096);
    struct io_stats stats;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        struct io_request big = {
            .op = (enum io_op)op, .class = IO_WRITEBACK, .file = file, .buf = address(0)};
        struct io_request demand = {.class = IO_DEMAND, .file = file, .buf = address(0), .bytes = 4096};
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
            assert_ptr_equal(f->held[0]->buf, address(at));
            if (piece == 2) {
                io_submit(q, &demand);
                finish_first(f, (int64_t)expect);
                assert_null(reap_one(q));
                assert_ptr_equal(f->held[0]->request, &demand);
                finish_first(f, 4096);
                assert_ptr_equal(reap_one(q), &demand);
            } else {
                finish_first(f, (int64_t)expect);
                assert_ptr_equal(reap_one(q), at + expect == total ? &big : NULL);
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
    drop_file(&file_);
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
        struct io_file *file = make_file(&file_, 1 << 20, c->block);
        struct io_request r = {.op = c->op, .file = file, .buf = address(0), .offset = 8192, .bytes = 16384};
        struct io_stats stats;
        struct io_queue *q;
        struct fake *f;

        q = open_fake(2, &f);
        io_submit(q, &r);
        io_flush(q);
        for (unsigned s = 0; c->results[s] != END; s++) {
            if (f->held_count != 1 || f->held[0]->offset != 8192 + (uint64_t)c->starts[s])
                fail_msg("%s: transfer %u does not begin at %d", c->name, s, (int)c->starts[s]);
            assert_ptr_equal(f->held[0]->buf, address((uint64_t)c->starts[s]));
            assert_int_equal(f->held[0]->bytes, 16384 - c->starts[s]);
            finish_first(f, c->results[s]);
            if (reap_one(q) != (c->results[s + 1] == END ? &r : NULL))
                fail_msg("%s: after transfer %u", c->name, s);
        }
        io_queue_stats(q, &stats);
        if (r.error.code != c->code || r.done_bytes != c->done || strcmp(r.error.text, c->text) != 0)
            fail_msg("%s: code %d, done %lu, %s", c->name, r.error.code, (unsigned long)r.done_bytes,
                     r.error.text);
        assert_int_equal(stats.resubmits, c->resubmits);
        assert_int_equal(f->held_count, 0);
        io_queue_close(q);
        drop_file(&file_);
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
        struct io_file *file = make_file(&file_, c->size, c->block);
        struct io_request r = {.file = file, .buf = address(0), .bytes = 16384, .need_bytes = c->need};
        struct io_queue *q;
        struct fake *f;

        q = open_fake(1, &f);
        io_submit(q, &r);
        io_flush(q);
        for (unsigned s = 0; c->results[s] != END; s++) {
            finish_first(f, c->results[s]);
            if (reap_one(q) != (c->results[s + 1] == END ? &r : NULL))
                fail_msg("%s: after transfer %u", c->name, s);
        }
        if (r.error.code != c->code || r.done_bytes != c->done)
            fail_msg("%s: code %d, done %lu", c->name, r.error.code, (unsigned long)r.done_bytes);
        if (c->code)
            assert_non_null(strstr(r.error.text, ": end of file"));
        io_queue_close(q);
        drop_file(&file_);
    }
}

static void mistakes_are_refused(void **state)
{
    struct fake_file direct_, source_;
    struct io_file *direct = make_file(&direct_, 1 << 20, 4096);
    struct io_file *source = make_file(&source_, 1 << 20, 4096);
    const struct {
        struct io_request r;
        int code;
        const char *text;
    } cases[] = {
        {{.buf = address(0), .bytes = 4096}, -EINVAL, "no file"},
        {{.file = direct, .bytes = 4096}, -EINVAL, "no buffer"},
        {{.file = direct, .buf = address(0), .bytes = 4096, .op = (enum io_op)7},
         -EINVAL,
         "unknown operation"},
        {{.file = direct, .buf = address(0), .bytes = 4096, .class = IO_CLASSES}, -EINVAL, "unknown class"},
        {{.file = direct, .buf = address(0), .bytes = 4096, .need_bytes = 4097}, -EINVAL, "needs more"},
        {{.file = direct, .buf = address(0), .offset = 1ull << 63, .bytes = 4096}, -EINVAL, "past any file"},
        {{.file = direct, .buf = address(0), .offset = INT64_MAX - 4095, .bytes = 4096},
         -EINVAL,
         "past any file"},
        {{.op = IO_WRITE, .file = source, .buf = address(0), .bytes = 4096}, -EBADF, "for reading only"},
        {{.file = direct, .buf = NULL, .bytes = 0}, 0, ""}, /* nothing to do is no mistake */
    };
    struct io_queue *q;
    struct fake *f;

    (void)state;
    source->writable = false;
    q = open_fake(4, &f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct io_request r = cases[i].r;

        io_submit(q, &r);
        assert_true(readable(q));
        assert_int_equal(io_queue_pending(q), 1);
        assert_ptr_equal(reap_one(q), &r);
        if (r.error.code != cases[i].code || !strstr(r.error.text, cases[i].text))
            fail_msg("case %zu: %d, %s", i, r.error.code, r.error.text);
        assert_false(readable(q));
    }
    assert_int_equal(f->held_count, 0);
    io_queue_close(q);
    drop_file(&direct_);
    drop_file(&source_);
}

/* ---- deadlines, wake-ups, engine failures ------------------------------ */

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
        struct io_file *file = make_file(&file_, 1 << 20, 1);
        struct io_request lost = {.file = file, .buf = address(0), .bytes = 64, .offset = 7}, queued = lost;
        struct io_request young = {.file = file, .buf = address(0), .bytes = 64}, *done[4];
        bool asks = i % 2; /* an owner that does not just gets it later */
        struct io_queue *q;
        struct fake *f;

        q = open_fake(1, &f);
        (void)io_queue_fd(q);
        io_submit(q, &lost);
        io_flush(q);
        io_submit(q, &queued);
        io_submit(q, &young);
        assert_int_equal(io_reap(q, done, 4), 0);
        assert_null(late_one(q));
        age(q, &lost);
        age(q, &queued);
        io_flush(q);
        assert_true(readable(q));
        assert_ptr_equal(reap_one(q), &queued);
        assert_null(reap_one(q));
        assert_int_equal(f->cancels, 1);
        assert_true(lost.late && queued.late && !young.late);
        if (asks) {
            assert_ptr_equal(late_one(q), &lost);
            assert_null(late_one(q)); /* once */
        }
        assert_false(readable(q));
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
        finish_first(f, results[i / 2]);
        assert_ptr_equal(reap_one(q), &lost);
        assert_int_equal(lost.error.code, -OFL_EDEADLINE);
        assert_non_null(strstr(lost.error.text, "in flight for 7200."));
        assert_int_equal(lost.done_bytes, results[i / 2] > 0 ? results[i / 2] : 0);
        assert_true(lost.elapsed_ns >= 7200000000000u);
        assert_null(late_one(q));
        assert_int_equal(f->held_count, 1);
        assert_ptr_equal(f->held[0]->request, &young);
        finish_first(f, 64);
        assert_ptr_equal(reap_one(q), &young);
        assert_int_equal(young.error.code, 0);
        assert_int_equal(io_queue_pending(q), 0);
        io_queue_close(q);
        drop_file(&file_);
    }
}

/* Many at once, of several pieces each: every one is told once, and comes back with its last piece. */
static void late_ones_are_told_in_portions(void **state)
{
    const struct io_queue_config config = {.depth = 16, .piece_bytes = 4096, .deadline_ns = 3600000000000u};
    struct io_request r[5], *late[5];
    struct fake *f = calloc(1, sizeof *f);
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 4096);
    struct io_queue *q;
    unsigned told = 0;

    (void)state;
    f->base.ops = &fake_ops;
    f->closed = &closed;
    assert_int_equal(io_queue_open_on(&config, &f->base, &q), 0);
    set_clock(q);
    (void)io_queue_fd(q);
    for (unsigned i = 0; i < 5; i++) {
        r[i] = (struct io_request){.file = file, .buf = address(0), .bytes = 4 * 4096};
        io_submit(q, &r[i]);
    }
    io_flush(q);
    assert_int_equal(f->held_count, 16); /* all of four, and none of the fifth */
    for (unsigned i = 0; i < 5; i++)
        age(q, &r[i]);
    io_flush(q);
    assert_int_equal(f->cancels, 16);
    assert_ptr_equal(reap_one(q), &r[4]);
    for (unsigned n = 3; n > 0; told += n) {
        n = io_late(q, late, 3);
        for (unsigned i = 0; i < n; i++)
            assert_true(late[i] >= r && late[i] < r + 4);
        assert_int_equal(readable(q), told + n < 4 && n > 0);
        (void)io_reap(q, late, 0);
    }
    assert_int_equal(told, 4);
    for (unsigned i = 0; i < 16; i++) {
        finish_first(f, i % 3 ? 4096 : -EIO);
        assert_ptr_equal(reap_one(q), i % 4 == 3 ? &r[i / 4] : NULL);
    }
    io_queue_close(q);
    drop_file(&file_);
}

/* Not even a waiting owner that never asks is woken twice by one notice. */
static void waiting_ends_with_a_notice(void **state)
{
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = address(0), .bytes = 64}, *done;
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    io_submit(q, &r);
    io_flush(q);
    age(q, &r);
    assert_int_equal(io_wait(q, &done, 1, UINT64_MAX), 0); /* for ever, but for the notice */
    assert_true(r.late);
    assert_int_equal(io_wait(q, &done, 1, 1000000), 0);
    assert_ptr_equal(late_one(q), &r);
    finish_first(f, 64);
    assert_int_equal(io_wait(q, &done, 1, UINT64_MAX), 1);
    io_queue_close(q);
    drop_file(&file_);
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
        struct io_file *file = make_file(&file_, 1 << 20, 1);
        struct io_request hour = {.file = file, .buf = address(0), .bytes = 64}, second = hour, *late[2];
        struct io_queue *q;
        struct fake *f;

        second.deadline_ns = 1001000000; /* a second counts whole */
        q = open_fake(2, &f);
        clock_frozen_ns = fake_clock();
        io_submit(q, &hour);
        io_submit(q, &second);
        io_flush(q);
        for (unsigned k = 0; k < stop_cases[i].steps; k++) {
            clock_frozen_ns += stop_cases[i].step_ms * 1000000;
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
        finish_first(f, 64);
        finish_first(f, 64);
        assert_int_equal(io_reap(q, late, 2), 2);
        assert_true(hour.elapsed_ns == stop_cases[i].step_ms * 1000000 * stop_cases[i].steps);
        clock_frozen_ns = 0;
        io_queue_close(q);
        drop_file(&file_);
    }
}

/* Finished but not yet collected is in time, however late the owner looks. */
static void finished_in_time_is_no_miss(void **state)
{
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = address(0), .bytes = 64};
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    io_submit(q, &r);
    io_flush(q);
    finish_first(f, 64);
    age(q, &r);
    io_flush(q);
    assert_true(readable(q));
    assert_ptr_equal(reap_one(q), &r);
    assert_int_equal(r.error.code, 0);
    io_queue_close(q);
    drop_file(&file_);
}

static void fd_stays_readable_until_all_is_reaped(void **state)
{
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 4096);
    struct io_request r[3];
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    for (unsigned i = 0; i < 3; i++) {
        r[i] = (struct io_request){.file = file, .bytes = 1}; /* no buffer: a mistake, known at once */
        io_submit(q, &r[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_true(readable(q));
        assert_ptr_equal(reap_one(q), &r[i]);
    }
    assert_false(readable(q));
    io_queue_close(q);
    drop_file(&file_);
}

static void engine_refuses(void **state)
{
    struct fake_file file_;
    struct io_file *file = make_file(&file_, 1 << 20, 1);
    struct io_request r = {.file = file, .buf = address(0), .bytes = 64}, *done[2];
    struct io_queue *q;
    struct fake *f;

    (void)state;
    q = open_fake(1, &f);
    f->start_code = -EBUSY;
    io_submit(q, &r);
    io_flush(q);
    assert_ptr_equal(reap_one(q), &r);
    assert_int_equal(r.error.code, -EBUSY);

    /* what the kernel would not take is named when time is up */
    f->start_code = 0;
    f->flush_code = -ENOMEM;
    io_submit(q, &r);
    io_flush(q);
    age(q, &r);
    assert_int_equal(io_reap(q, done, 2), 1);
    assert_int_equal(r.error.code, -OFL_EDEADLINE);
    assert_non_null(strstr(r.error.text, "hand-over to the kernel: Cannot allocate memory"));
    io_queue_close(q);
    drop_file(&file_);
}

static void bad_config_is_refused(void **state)
{
    const struct io_queue_config cases[] = {{.depth = IO_DEPTH_MAX + 1}, {.engine = (enum io_engine)9}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake *f = calloc(1, sizeof *f);
        struct io_queue *q;

        f->base.ops = &fake_ops;
        f->closed = &closed;
        closed = 0;
        assert_int_equal(io_queue_open_on(&cases[i], &f->base, &q), -EINVAL);
        assert_null(q);
        assert_int_equal(closed, 1);
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
        cmocka_unit_test(late_is_told_before_it_is_returned),
        cmocka_unit_test(late_ones_are_told_in_portions),
        cmocka_unit_test(time_that_was_taken_does_not_count),
        cmocka_unit_test(waiting_ends_with_a_notice),
        cmocka_unit_test(finished_in_time_is_no_miss),
        cmocka_unit_test(fd_stays_readable_until_all_is_reaped),
        cmocka_unit_test(engine_refuses),
        cmocka_unit_test(bad_config_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
