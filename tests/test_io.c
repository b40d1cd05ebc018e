/*
 * Proves transfers on the real kernel: every byte that the queue reports is the byte in the file,
 * over both engines, direct and buffered, also when transfers are cut short and retried, and at the
 * end of a file; what fails comes back as a sentence, and what never comes back meets its deadline.
 * The queue's rules one by one: test_io_queue.c; the system's limits: test_io_system.c; the table of
 * faults: test_io_faults.c; random requests: test_io_fuzz.c.
 *
 * Negative controls: the fault decorator overwrites read bytes that it does not report, so a queue
 * that does not fetch them again fails the comparison; the deadline test also runs without the lost
 * completion; the alignment test ends with requests that are taken.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"

static const struct mode {
    const char *name;
    enum io_engine engine;
    unsigned flags;
} modes[] = {
    {"io_uring, direct", IO_ENGINE_URING, IO_FILE_REQUIRE_DIRECT},
    {"io_uring, buffered", IO_ENGINE_URING, IO_FILE_BUFFERED},
    {"threads, direct", IO_ENGINE_THREADS, IO_FILE_REQUIRE_DIRECT},
    {"threads, buffered", IO_ENGINE_THREADS, IO_FILE_BUFFERED},
};

#define MODES (sizeof modes / sizeof modes[0])

/* Says so, and counts as run: the other modes of the same test did. */
static bool mode_missing(const struct mode *m)
{
    if ((m->engine != IO_ENGINE_URING || io_test.uring) && (m->flags & IO_FILE_BUFFERED || io_test.direct))
        return false;
    fprintf(stderr, "skipped: %s: not on this machine, in %s\n", m->name, io_test.dir);
    return true;
}

static uint64_t draw(uint64_t *random, uint64_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random % below;
}

/* ---- round trips ------------------------------------------------------- */

#define REGIONS      48u
#define REGION_BYTES (128u << 10)
#define ROUNDS       1200u

struct region {
    struct io_request r;
    unsigned char *buf;
    bool busy;
};

/* A random program of reads and writes, at most one at a time in each region of the file. */
struct program {
    struct io_queue *q;
    struct io_file *file;
    struct region region[REGIONS];
    unsigned char *model;
    uint64_t random, read_bytes, write_bytes;
};

static void submit_random(struct program *p)
{
    uint32_t index = (uint32_t)draw(&p->random, REGIONS), block = io_file_block(p->file);
    struct region *g = &p->region[index];
    uint64_t blocks = REGION_BYTES / block, from, count;

    if (g->busy)
        return;
    from = draw(&p->random, blocks);
    count = 1 + draw(&p->random, blocks - from);
    g->r = (struct io_request){.op = draw(&p->random, 2) ? IO_READ : IO_WRITE,
                               .class = (enum io_class)draw(&p->random, IO_CLASSES),
                               .file = p->file,
                               .buf = g->buf,
                               .offset = (uint64_t)index * REGION_BYTES + from * block,
                               .bytes = count * block,
                               .cookie = g};
    if (g->r.op == IO_READ) {
        memset(g->buf, 0xcc, g->r.bytes);
        p->read_bytes += g->r.bytes;
    } else {
        for (uint64_t i = 0; i < g->r.bytes; i += 8) {
            uint64_t word = draw(&p->random, UINT64_MAX);

            memcpy(g->buf + i, &word, g->r.bytes - i < 8 ? g->r.bytes - i : 8);
        }
        memcpy(p->model + g->r.offset, g->buf, g->r.bytes);
        p->write_bytes += g->r.bytes;
    }
    g->busy = true;
    io_submit(p->q, &g->r);
}

static void check_done(struct program *p, const char *name, unsigned max)
{
    struct io_request *done[REGIONS];
    unsigned n = io_test_wait_reap(p->q, done, max);

    for (unsigned i = 0; i < n; i++) {
        struct region *g = done[i]->cookie;

        if (done[i]->error.code)
            fail_msg("%s, seed %lu: %s", name, (unsigned long)io_test.seed, done[i]->error.text);
        assert_int_equal(done[i]->done_bytes, done[i]->bytes);
        if (done[i]->op == IO_READ && memcmp(g->buf, p->model + done[i]->offset, done[i]->bytes) != 0)
            fail_msg("%s, seed %lu: read at %lu differs", name, (unsigned long)io_test.seed,
                     (unsigned long)done[i]->offset);
        g->busy = false;
    }
}

static void round_trips(const struct mode *m, bool faults)
{
    struct io_queue_config config = {.engine = m->engine, .depth = faults ? 3 : 8};
    struct program p = {.random = io_test.seed, .model = calloc(REGIONS, REGION_BYTES)};
    struct io_request all = {.bytes = REGIONS * REGION_BYTES, .buf = io_test_aligned(REGIONS * REGION_BYTES)};
    struct io_stats stats;

    if (faults)
        config.faults.seed = io_test.seed, config.faults.cut_short = 300, config.faults.again = 200;
    assert_int_equal(io_queue_open(&config, &p.q), 0);
    assert_int_equal(io_queue_engine(p.q), m->engine);
    assert_int_equal(io_file_open_scratch(io_test.dir, m->flags, &p.file), 0);
    assert_int_equal(io_file_reserve(p.file, all.bytes), 0);
    for (unsigned i = 0; i < REGIONS; i++)
        p.region[i].buf = io_test_aligned(REGION_BYTES);
    for (unsigned round = 0; round < ROUNDS; round++) {
        submit_random(&p);
        if (draw(&p.random, 4) == 0) {
            io_flush(p.q);
            check_done(&p, m->name, 1 + (unsigned)draw(&p.random, REGIONS));
        }
    }
    io_flush(p.q);
    while (io_queue_pending(p.q))
        check_done(&p, m->name, REGIONS);
    all.file = p.file;
    if (io_test_transfer(p.q, &all) != 0 || memcmp(all.buf, p.model, all.bytes) != 0)
        fail_msg("%s, seed %lu: the file differs at the end: %s", m->name, (unsigned long)io_test.seed,
                 all.error.text);
    io_queue_stats(p.q, &stats);
    assert_int_equal(stats.read_bytes, p.read_bytes + all.bytes);
    assert_int_equal(stats.write_bytes, p.write_bytes);
    assert_true(stats.inflight_max <= config.depth);
    if (faults)
        assert_true(stats.resubmits > 100);
    io_queue_close(p.q);
    io_file_close(p.file);
    for (unsigned i = 0; i < REGIONS; i++)
        free(p.region[i].buf);
    free(p.model);
    free(all.buf);
}

static void random_round_trips(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODES; i++)
        if (!mode_missing(&modes[i]))
            round_trips(&modes[i], false);
}

static void random_round_trips_with_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODES; i++)
        if (!mode_missing(&modes[i]))
            round_trips(&modes[i], true);
}

/* ---- ends, faults, deadlines ------------------------------------------- */

/* The file shrinks after it was opened: what is left is read, what is needed beyond it is missed. */
static void truncated_file(void **state)
{
    const uint64_t whole = 65536, left = 20000;
    unsigned char *buf = io_test_aligned(whole);

    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine};
        struct io_request r = {.buf = buf, .bytes = whole};
        const char *path = io_test_make_source("truncated", whole);
        struct io_queue *q;

        if (mode_missing(&modes[i]))
            continue;
        assert_int_equal(io_queue_open(&config, &q), 0);
        assert_int_equal(io_file_open_read(path, modes[i].flags, &r.file), 0);
        assert_int_equal(io_test_transfer(q, &r), 0);
        assert_true(io_test_is_pattern(buf, 0, whole));
        assert_int_equal(truncate(path, (off_t)left), 0);
        memset(buf, 0, whole);
        assert_int_equal(io_test_transfer(q, &r), -ENODATA);
        assert_non_null(strstr(r.error.text, "offset 0, 65536 bytes: got 20000: end of file"));
        r.need_bytes = left;
        assert_int_equal(io_test_transfer(q, &r), 0);
        assert_int_equal(r.done_bytes, left);
        assert_true(io_test_is_pattern(buf, 0, left));
        r.need_bytes = left + 1;
        assert_int_equal(io_test_transfer(q, &r), -ENODATA);
        r.offset = whole, r.need_bytes = 1;
        assert_int_equal(io_test_transfer(q, &r), -ENODATA);
        assert_int_equal(r.done_bytes, 0);
        io_queue_close(q);
        io_file_close(r.file);
        unlink(path);
    }
    free(buf);
}

/* Only where direct I/O is required, and only for writes: these would go through the page cache. */
static void misaligned_writes_are_refused_if_direct_is_required(void **state)
{
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    unsigned char *buf = io_test_aligned(8192);
    struct io_queue *q;
    struct io_file *f;

    (void)state;
    if (!io_test.direct) {
        fprintf(stderr, "skipped: no direct I/O in %s\n", io_test.dir);
        skip();
    }
    assert_int_equal(io_queue_open(&config, &q), 0);
    assert_int_equal(io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &f), 0);
    for (unsigned i = 0; i < 4; i++) {
        static const char *const named[] = {"offset", "length", "", ""};
        struct io_request r = {.op = IO_WRITE, .file = f, .buf = buf, .bytes = 4096};

        r.offset = i == 0;
        r.bytes -= i == 1;
        r.buf = buf + (i == 2);
        memset(buf, 1, 8192);
        assert_int_equal(io_test_transfer(q, &r), i < 2 ? -EINVAL : 0);
        assert_non_null(strstr(r.error.text, named[i]));
    }
    io_queue_close(q);
    io_file_close(f);
    free(buf);
}

static void injected_error_is_reported(void **state)
{
    unsigned char *buf = io_test_aligned(8192);

    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine,
                                         .faults = {.seed = io_test.seed, .error = 1000}};
        struct io_request r = {.buf = buf, .offset = 4096, .bytes = 8192};
        struct io_queue *q;
        char expected[700];

        if (mode_missing(&modes[i]))
            continue;
        assert_int_equal(io_queue_open(&config, &q), 0);
        assert_int_equal(io_file_open_scratch(io_test.dir, modes[i].flags, &r.file), 0);
        assert_int_equal(io_file_reserve(r.file, 16384), 0);
        assert_int_equal(io_test_transfer(q, &r), -EIO);
        snprintf(expected, sizeof expected, "read %s: offset 4096, 8192 bytes: got 0: Input/output error",
                 io_file_path(r.file));
        assert_string_equal(r.error.text, expected);
        io_queue_close(q);
        io_file_close(r.file);
    }
    free(buf);
}

/* A completion that never comes: its request does not either. The one that waited behind it does. */
static void lost_completion_meets_the_deadline(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODES * 2; i++) {
        const struct mode *m = &modes[i / 2];
        bool lost = i % 2;
        struct io_queue_config config = {.engine = m->engine, .depth = 1};
        struct io_request r[2], *done;
        unsigned char *buf = io_test_aligned(8192);
        struct io_file *f;
        struct io_queue *q;

        if (lost)
            config.faults.seed = io_test.seed, config.faults.late = 1000, config.deadline_ns = 2000000;
        if (mode_missing(m)) {
            free(buf);
            continue;
        }
        assert_int_equal(io_queue_open(&config, &q), 0);
        assert_int_equal(io_file_open_scratch(io_test.dir, m->flags, &f), 0);
        for (unsigned k = 0; k < 2; k++) {
            memset(buf, 1, 8192);
            r[k] = (struct io_request){.op = IO_WRITE, .file = f, .buf = buf + 4096 * k, .bytes = 4096};
            io_submit(q, &r[k]);
        }
        io_flush(q);
        for (unsigned n = 0, told = 0; n + told < 2;) {
            n += io_reap(q, &done, 1);
            if (io_late(q, &done, 1)) {
                told++;
                assert_ptr_equal(done, &r[0]);
            }
        }
        for (unsigned k = 0; k < 2; k++) {
            assert_int_equal(r[k].error.code, lost ? -OFL_EDEADLINE : 0);
            assert_int_equal(strstr(r[k].error.text, "no completion before the deadline") != NULL, lost);
        }
        assert_int_equal(io_queue_pending(q), lost);
        io_queue_close(q);
        io_file_close(f);
        free(buf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_round_trips),
        cmocka_unit_test(random_round_trips_with_faults),
        cmocka_unit_test(truncated_file),
        cmocka_unit_test(misaligned_writes_are_refused_if_direct_is_required),
        cmocka_unit_test(injected_error_is_reported),
        cmocka_unit_test(lost_completion_meets_the_deadline),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
