/*
 * Proves both engines' edges on the real kernel: who waits is woken, however late it began to
 * listen, and no longer than it asked for; registered buffers and files, and every kind of ring,
 * move the same bytes; a storm of cancellations leaves room for transfers; trimming gives space
 * back and takes no byte too many. Kinds of rings that this machine refuses are named. What is late:
 * test_io_late.c.
 *
 * Negative controls: the waits run once with a completion and once without; the files are read
 * before they are trimmed.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"
#include "base/clock.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define MS  1000000ull

#define EVER UINT64_MAX

static void fill(unsigned char *p, uint64_t bytes, uint64_t salt)
{
    for (uint64_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)((i + salt) * 2654435761u >> 13);
}

/* ---- waiting ------------------------------------------------------------------- */

enum when { BEFORE_SUBMIT, BEFORE_FLUSH, AFTER_FLUSH, MUCH_LATER, WHENS };

/* The first question for the descriptor may come when everything has finished already. */
static void who_listens_is_woken(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * WHENS * 2; i++) {
        const struct io_test_engine *e = &io_test_engines[i % 2];
        enum when when = (enum when)(i / 2 % WHENS);
        struct io_queue_config config = {.engine = e->engine};
        struct io_request r = {.bytes = 4096, .buf = io_test_aligned(4096)}, *done;
        struct io_queue *q;
        struct pollfd p = {.events = POLLIN};

        if (io_test_is_missing(e)) {
            free(r.buf);
            continue;
        }
        r.file = io_test_scratch(i / 2 / WHENS ? IO_FILE_BUFFERED : 0, 4096);
        assert_int_equal(io_queue_open(&config, &q), 0);
        if (when == BEFORE_SUBMIT)
            (void)io_queue_fd(q);
        io_submit(q, &r);
        if (when == BEFORE_FLUSH)
            (void)io_queue_fd(q);
        io_flush(q);
        if (when == MUCH_LATER)
            usleep(20000);
        p.fd = io_queue_fd(q);
        if (poll(&p, 1, IO_TEST_HANG_MS) != 1)
            fail_msg("%s: listening from moment %d on: not woken", e->name, (int)when);
        while (io_reap(q, &done, 1) == 0)
            assert_int_equal(poll(&p, 1, IO_TEST_HANG_MS), 1);
        assert_int_equal(r.error.code, 0);
        io_queue_close(q);
        io_file_close(r.file);
        free(r.buf);
    }
}

/* Whether it was fast enough or not: its owner hears of it. */
static void who_cancels_is_woken(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        const struct io_test_engine *e = &io_test_engines[i % 2];
        struct io_queue_config config = {.engine = e->engine, .depth = 4};
        struct io_request r = {.bytes = 64 * KIB, .buf = io_test_aligned(64 * KIB)}, *done;
        struct io_queue *q;
        struct pollfd p = {.events = POLLIN};

        if (io_test_is_missing(e)) {
            free(r.buf);
            continue;
        }
        r.file = io_test_scratch(i / 2 % 2 ? IO_FILE_BUFFERED : 0, 64 * KIB);
        assert_int_equal(io_queue_open(&config, &q), 0);
        p.fd = io_queue_fd(q);
        io_submit(q, &r);
        if (i % 8 > 1)
            io_flush(q);
        io_cancel(q, &r);
        while (io_queue_pending(q)) {
            if (poll(&p, 1, IO_TEST_HANG_MS) != 1)
                fail_msg("%s: not woken after a cancellation", e->name);
            (void)io_reap(q, &done, 1);
        }
        assert_true(r.error.code == 0 || r.error.code == -ECANCELED);
        io_queue_close(q);
        io_file_close(r.file);
        free(r.buf);
    }
}

static const struct {
    const char *name;
    bool submit;
    uint32_t late, again; /* of 1000 transfers: lost, to be retried */
    uint64_t deadline_ns, timeout_ns;
    uint64_t least_ns; /* that it takes; where it should take no time it could take for ever */
    unsigned reaped;
    bool told; /* that it is late */
} wait_cases[] = {
    {"nothing is out", false, 0, 0, 0, EVER, 0, 0, false},
    {"it comes", true, 0, 0, 0, EVER, 0, 1, false},
    {"a long timeout", true, 0, 0, 0, 1000000 * MS, 0, 1, false},
    {"it does not come", true, 1000, 0, 0, 40 * MS, 40 * MS, 0, false},
    {"no patience", true, 1000, 0, 0, 0, 0, 0, false},
    {"the deadline comes first", true, 1000, 0, 30 * MS, EVER, 30 * MS, 0, true},
    {"the drive is always busy", true, 0, 1000, 30 * MS, EVER, 30 * MS, 1, true},
};

static void waiting_ends_in_time(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4 * (sizeof wait_cases / sizeof wait_cases[0]); i++) {
        const struct io_test_engine *e = &io_test_engines[i % 2];
        bool armed = i / 2 % 2;
        size_t c = i / 4;
        struct io_queue_config config = {.engine = e->engine};
        struct io_request r = {.bytes = 4096, .deadline_ns = wait_cases[c].deadline_ns}, *done;
        struct io_queue *q;
        uint64_t begin_ns, took_ns;

        if (io_test_is_missing(e))
            continue;
        r.file = io_test_scratch(0, 4096);
        r.buf = io_test_aligned(4096);
        config.faults.seed = io_test.seed;
        config.faults.late = wait_cases[c].late;
        config.faults.again = wait_cases[c].again;
        assert_int_equal(io_queue_open(&config, &q), 0);
        if (armed)
            (void)io_queue_fd(q);
        begin_ns = base_now_ns(); /* deadlines count from the submission */
        if (wait_cases[c].submit)
            io_submit(q, &r);
        assert_int_equal(io_wait(q, &done, 1, wait_cases[c].timeout_ns), wait_cases[c].reaped);
        took_ns = base_now_ns() - begin_ns;
        if (took_ns < wait_cases[c].least_ns)
            fail_msg("%s, %s: %.3f ms", e->name, wait_cases[c].name, (double)took_ns / 1e6);
        if (wait_cases[c].submit)
            assert_int_equal(r.error.code, wait_cases[c].told ? -OFL_EDEADLINE : 0);
        assert_int_equal(io_late(q, &done, 1), wait_cases[c].told && !wait_cases[c].reaped);
        io_queue_close(q);
        io_file_close(r.file);
        free(r.buf);
    }
}

/* ---- registered buffers and files ------------------------------------------------ */

/* Writes and reads through `buf`, at an odd place too, and compares. */
static void round_trip(const char *name, struct io_queue *q, struct io_file *f, unsigned char *buf)
{
    static const struct {
        uint64_t offset, bytes;
    } places[] = {{0, 256 * KIB}, {MIB, 4096}, {MIB + 5, 10001}, {2 * MIB - 3, 3}};
    unsigned char *expected = io_test_aligned(256 * KIB);

    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct io_request r = {
            .op = IO_WRITE, .file = f, .buf = buf, .offset = places[i].offset, .bytes = places[i].bytes};

        fill(expected, r.bytes, i);
        memcpy(buf, expected, r.bytes);
        if (io_test_transfer(q, &r) != 0)
            fail_msg("%s: %s", name, r.error.text);
        memset(buf, 0, r.bytes);
        r.op = IO_READ;
        if (io_test_transfer(q, &r) != 0 || memcmp(buf, expected, r.bytes) != 0)
            fail_msg("%s: place %u: %s", name, i, r.error.text);
    }
    free(expected);
}

static void registered_buffers_and_files(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        const struct io_test_engine *e = &io_test_engines[i % 2];
        struct io_queue_config config = {.engine = e->engine};
        unsigned char *memory = io_test_aligned(4 * MIB), *other = io_test_aligned(MIB);
        struct io_file *f = io_test_scratch(i / 2 ? IO_FILE_BUFFERED : 0, 4 * MIB);
        struct io_stats stats;
        struct io_queue *q;

        if (io_test_is_missing(e))
            goto next;
        config.faults.seed = i / 2; /* the decorator, which has no more than what it decorates */
        assert_int_equal(io_queue_open(&config, &q), 0);
        /* in any order of addresses */
        assert_int_equal(io_queue_register(q, memory + 2 * MIB, MIB), 0);
        assert_int_equal(io_queue_register(q, memory, MIB), 0);
        assert_int_equal(io_queue_register(q, memory + 3 * MIB, 4096), 0);
        if (e->engine == IO_ENGINE_URING) /* twice the same memory is a mistake */
            assert_int_equal(io_queue_register(q, memory + MIB - 4096, 8192), -EINVAL);
        assert_int_equal(io_queue_attach(q, f), 0);
        assert_int_equal(f->member[0].slot_queue != 0, e->engine == IO_ENGINE_URING);
        io_queue_stats(q, &stats);
        assert_int_equal(stats.registered_buffers, e->engine == IO_ENGINE_URING);
        round_trip(e->name, q, f, memory + 2 * MIB);
        round_trip(e->name, q, f, memory + 100);            /* odd, inside */
        round_trip(e->name, q, f, memory + MIB - 64 * KIB); /* across the border */
        round_trip(e->name, q, f, memory + 3 * MIB);        /* beyond a small one */
        round_trip(e->name, q, f, other);                   /* not registered */
        io_queue_close(q);
        assert_int_equal(io_queue_open(&config, &q), 0); /* to which f is not attached */
        round_trip(e->name, q, f, memory);
        io_queue_close(q);
    next:
        io_file_close(f);
        free(memory);
        free(other);
    }
}

/* The kernel's table has an end; the file that does not fit works without. */
static void more_files_than_slots(void **state)
{
    struct io_queue_config config = {.engine = IO_ENGINE_URING};
    struct io_file *f = io_test_scratch(0, 4 * MIB);
    unsigned char *buf = io_test_aligned(256 * KIB);
    struct io_queue *q;
    int rc = 0;

    (void)state;
    if (io_test_is_missing(&io_test_engines[0])) {
        io_file_close(f);
        free(buf);
        skip();
    }
    assert_int_equal(io_queue_open(&config, &q), 0);
    for (unsigned i = 0; i < 1000 && rc == 0; i++)
        rc = io_queue_attach(q, f);
    assert_int_equal(rc, -ENOSPC);
    assert_non_null(strstr(base_error_text(), io_file_path(f)));
    round_trip("table full", q, f, buf);
    io_queue_close(q);
    io_file_close(f);
    free(buf);
}

/* ---- kinds of rings ---------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t flags;
} rings[] = {
    {"SQPOLL", IO_QUEUE_SQPOLL},
    {"DEFER", IO_QUEUE_DEFER},
    {"IOPOLL", IO_QUEUE_IOPOLL},
    {"SQPOLL and IOPOLL", IO_QUEUE_SQPOLL | IO_QUEUE_IOPOLL},
    {"DEFER and IOPOLL", IO_QUEUE_DEFER | IO_QUEUE_IOPOLL},
};

static int wait_for(struct io_queue *q, struct io_request *r)
{
    struct io_request *done;

    io_submit(q, r);
    while (io_wait(q, &done, 1, 1000 * MS) == 0)
        ;
    return r->error.code;
}

/* False: said why not. */
static bool run_ring(const char *name, uint32_t flags)
{
    struct io_queue_config config = {.engine = IO_ENGINE_URING, .flags = flags, .deadline_ns = 20000 * MS};
    struct io_request r = {.op = IO_WRITE, .bytes = 3 * MIB, .buf = io_test_aligned(3 * MIB)};
    unsigned char *expected = io_test_aligned(3 * MIB);
    struct io_queue *q;
    int rc = io_queue_open(&config, &q);

    if (rc < 0) {
        fprintf(stderr, "skipped: %s: %s\n", name, base_error_text());
        goto out;
    }
    r.file = io_test_scratch(0, 4 * MIB);
    fill(expected, r.bytes, 1);
    memcpy(r.buf, expected, r.bytes);
    rc = wait_for(q, &r);
    usleep(120000); /* a submission thread sleeps by now */
    memset(r.buf, 0, r.bytes);
    r.op = IO_READ;
    if (rc == 0)
        rc = wait_for(q, &r);
    if (rc == -EOPNOTSUPP && flags & IO_QUEUE_IOPOLL) {
        fprintf(stderr, "skipped: %s: %s\n", name, r.error.text);
        goto close;
    }
    assert_int_equal(rc, 0);
    assert_memory_equal(r.buf, expected, r.bytes);
    if (!(flags & IO_QUEUE_IOPOLL)) { /* for which only whole blocks are */
        round_trip(name, q, r.file, r.buf);
        io_cancel(q, &r); /* has come back: no effect */
    }
close:
    io_queue_close(q);
    io_file_close(r.file);
out:
    free(r.buf);
    free(expected);
    return rc == 0;
}

static void every_kind_of_ring_moves_bytes(void **state)
{
    unsigned ran = 0;

    (void)state;
    if (io_test_is_missing(&io_test_engines[0]))
        skip();
    for (size_t i = 0; i < sizeof rings / sizeof rings[0]; i++)
        ran += run_ring(rings[i].name, rings[i].flags);
    if (!ran)
        skip();
}

/* All that is in flight is cancelled before any of it has come back, and as many are submitted anew:
 * cancellations must not take the room of transfers in the ring. */
static void storm_of_cancellations(void **state)
{
    enum { DEPTH = 4096 };
    const struct io_queue_config config = {.engine = IO_ENGINE_URING, .depth = DEPTH};
    struct io_request *r = calloc(2 * DEPTH, sizeof *r), *done[64];
    struct io_file *f = io_test_scratch(IO_FILE_BUFFERED, MIB);
    unsigned char *buf = io_test_aligned(MIB);
    unsigned back = 0;
    struct io_queue *q = NULL;

    (void)state;
    for (unsigned i = 0; i < 2 * DEPTH; i++)
        r[i] = (struct io_request){
            .file = f, .buf = buf + i % 256 * 4096, .offset = i % 256 * 4096, .bytes = 4096};
    if (io_test_is_missing(&io_test_engines[0]))
        goto out;
    assert_int_equal(io_queue_open(&config, &q), 0);
    for (unsigned i = 0; i < DEPTH; i++)
        io_submit(q, &r[i]);
    io_flush(q);
    usleep(50000);
    for (unsigned i = 0; i < DEPTH; i++)
        io_cancel(q, &r[i]);
    for (unsigned i = DEPTH; i < 2 * DEPTH; i++)
        io_submit(q, &r[i]);
    while (io_queue_pending(q))
        back += io_wait(q, done, 64, 1000 * MS);
    assert_int_equal(back, 2 * DEPTH);
    for (unsigned i = 0; i < 2 * DEPTH; i++)
        if (r[i].error.code && (r[i].error.code != -ECANCELED || i >= DEPTH))
            fail_msg("request %u: %s", i, r[i].error.text);
    io_queue_close(q);
out:
    io_file_close(f);
    free(buf);
    free(r);
    if (!q)
        skip();
}

/* ---- trimming ------------------------------------------------------------------------ */

/* Bytes of fd that have a place on the drive; -1: the file system does not say. */
static int64_t mapped_bytes(int fd)
{
    union {
        struct fiemap map;
        char room[sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)];
    } u;
    uint64_t at = 0, bytes = 0;

    do {
        memset(&u, 0, sizeof u);
        u.map.fm_start = at;
        u.map.fm_length = FIEMAP_MAX_OFFSET - at;
        u.map.fm_flags = FIEMAP_FLAG_SYNC;
        u.map.fm_extent_count = 64;
        if (ioctl(fd, FS_IOC_FIEMAP, &u.map) < 0)
            return -1;
        for (uint32_t i = 0; i < u.map.fm_mapped_extents; i++) {
            bytes += u.map.fm_extents[i].fe_length;
            at = u.map.fm_extents[i].fe_logical + u.map.fm_extents[i].fe_length;
        }
    } while (u.map.fm_mapped_extents);
    return (int64_t)bytes;
}

/* By extents where there are some: the count of blocks has those in which extents are listed, too, and a
 * hole in a file that lies in many pieces may need one more. */
static uint64_t bytes_on_disk(const struct io_file *f)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < f->count; i++) {
        int64_t mapped = mapped_bytes(f->member[i].fd);
        struct stat st;

        assert_int_equal(fstat(f->member[i].fd, &st), 0);
        bytes += mapped < 0 ? (uint64_t)st.st_blocks * 512 : (uint64_t)mapped;
    }
    return bytes;
}

/* What is trimmed: whole pages inside [begin, end) read as zeros, the rest as before. */
static void check_trimmed(struct io_queue *q, struct io_file *f, uint64_t begin, uint64_t end)
{
    const uint64_t total = 8 * MIB;
    unsigned char *got = io_test_aligned(total), *expected = io_test_aligned(total);
    struct io_request r = {.op = IO_WRITE, .file = f, .buf = expected, .bytes = total};
    uint64_t first = (begin + 4095) / 4096 * 4096, last = (end < total ? end : total) / 4096 * 4096, before;

    fill(expected, total, begin);
    assert_int_equal(io_test_transfer(q, &r), 0);
    assert_int_equal(io_file_sync(f), 0);
    r.op = IO_READ;
    r.buf = got;
    assert_int_equal(io_test_transfer(q, &r), 0);
    assert_memory_equal(got, expected, total);
    before = bytes_on_disk(f);
    assert_int_equal(io_file_trim(f, begin, end - begin), 0);
    if (last > first) {
        memset(expected + first, 0, last - first);
        assert_true(bytes_on_disk(f) <= before - (last - first));
    } else {
        assert_true(bytes_on_disk(f) == before);
    }
    memset(got, 0xee, total);
    assert_int_equal(io_test_transfer(q, &r), 0);
    assert_memory_equal(got, expected, total);
    assert_int_equal(io_file_bytes(f), total);
    free(got);
    free(expected);
}

static void trimming_gives_space_back(void **state)
{
    static const struct {
        uint64_t begin, end;
    } ranges[] = {{MIB, 3 * MIB}, {1000, 2 * MIB + 100},     {5 * MIB - 1, 5 * MIB + 4097}, {4096, 8191},
                  {100, 100},     {7 * MIB + 1, UINT64_MAX}, {9 * MIB, 10 * MIB},           {0, 8 * MIB}};
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    const struct io_stripe stripes[] = {{.dir = io_test.dir, .weight = 3}, {.dir = io_test.dir}};
    struct io_queue *q;

    (void)state;
    assert_int_equal(io_queue_open(&config, &q), 0);
    for (unsigned striped = 0; striped < 2; striped++) {
        struct io_file *f;

        assert_int_equal(io_file_open_striped(stripes, 1 + striped, 0, &f), 0);
        assert_int_equal(io_file_reserve(f, 8 * MIB), 0);
        for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
            check_trimmed(q, f, ranges[i].begin, ranges[i].end);
        io_file_close(f);
    }
    io_queue_close(q);
}

static void sources_are_not_trimmed(void **state)
{
    const char *path = io_test_make_source("source", 8192);
    struct io_file *f;

    (void)state;
    assert_int_equal(io_file_open_read(path, 0, &f), 0);
    assert_int_equal(io_file_trim(f, 0, 8192), -EBADF);
    assert_non_null(strstr(base_error_text(), "reading only"));
    io_file_close(f);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_listens_is_woken),           cmocka_unit_test(who_cancels_is_woken),
        cmocka_unit_test(waiting_ends_in_time),

        cmocka_unit_test(registered_buffers_and_files),   cmocka_unit_test(more_files_than_slots),
        cmocka_unit_test(every_kind_of_ring_moves_bytes), cmocka_unit_test(storm_of_cancellations),
        cmocka_unit_test(trimming_gives_space_back),      cmocka_unit_test(sources_are_not_trimmed),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
