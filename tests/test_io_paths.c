/*
 * Proves how a queue serves several drives, on the memory engine: each has its own depth, window
 * and classes, a slow one holds up nothing but its own share, and the statistics say what was done.
 * The engine checks each transfer (mem_engine.h).
 *
 * Negative controls: each table has cases on both sides of its rule; the slow drive is slow, and is
 * shown to hold up its own requests.
 */
#include "tests/io_fixture.h"
#include "base/clock.h"
#include "tests/mem_engine.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/offload.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define HOUR 3600000000000u
#define MANY 64u

/* Never returns anything by itself. */
#define STUCK (1ull << 40)

static struct io_file *open_one(uint64_t device, uint64_t bytes)
{
    const struct mem_part part = {.block = 4096, .device = device};

    return mem_file_open(&part, 1, bytes, 0);
}

static struct io_queue *open_queue(uint32_t depth, uint32_t piece_bytes, uint64_t window_bytes,
                                   struct mem_engine **e)
{
    const struct io_queue_config c = {
        .depth = depth, .piece_bytes = piece_bytes, .window_bytes = window_bytes, .deadline_ns = HOUR};
    const struct mem_config in_order = {.wait = true};

    return mem_queue_open(&c, &in_order, e);
}

static void *shared_buffer(void)
{
    static _Alignas(4096) unsigned char buf[MIB];

    return buf;
}

/* Submits `count` reads of `bytes` each, one behind the other. */
static void submit_reads(struct io_queue *q, struct io_file *f, struct io_request *r, unsigned count,
                         uint64_t bytes, enum io_class class)
{
    for (unsigned i = 0; i < count; i++) {
        r[i] = (struct io_request){.class = class, .file = f, .buf = shared_buffer(), .bytes = bytes};
        r[i].offset = i * bytes % io_file_bytes(f);
        io_submit(q, &r[i]);
    }
}

static struct io_path *path_of(struct io_queue *q, const struct io_file *f)
{
    struct io_path *path = io_path_get(q, f->member[0].device, "mem");

    assert_non_null(path);
    return path;
}

/* ---- depth, windows, classes ------------------------------------------------ */

static const struct {
    const char *name;
    enum io_class class;
    struct io_tuning tuning; /* of the queue: depth 64, pieces of 64 KiB, a window of 256 KiB */
    uint64_t bytes;          /* of each of 64 requests */
    unsigned inflight;
} window_cases[] = {
    {"demand fills the depth", IO_DEMAND, {0}, 64 * KIB, 64},
    {"demand fills its own depth", IO_DEMAND, {.depth = 5}, 64 * KIB, 5},
    {"no deeper than the engine", IO_DEMAND, {.depth = 1000}, 64 * KIB, 64},
    {"prefetch stops at the window", IO_PREFETCH, {0}, 64 * KIB, 4},
    {"write-back too", IO_WRITEBACK, {0}, 64 * KIB, 4},
    {"a window of the drive's own", IO_PREFETCH, {.window_bytes = MIB}, 64 * KIB, 16},
    {"its depth comes first", IO_PREFETCH, {.window_bytes = MIB, .depth = 3}, 64 * KIB, 3},
    {"one piece always", IO_PREFETCH, {.window_bytes = 1}, 64 * KIB, 1},
    {"one piece, not one request", IO_PREFETCH, {.window_bytes = 1, .piece_bytes = 8192}, 64 * KIB, 1},
    {"pieces of the drive's own", IO_PREFETCH, {.piece_bytes = 128 * KIB}, 128 * KIB, 2},
    {"small ones up to what a piece may add", IO_PREFETCH, {0}, 4 * KIB, 49},
    {"pieces below a page are a page", IO_PREFETCH, {.piece_bytes = 1, .window_bytes = 10000}, 64 * KIB, 2},
};

static void depth_and_window_of_a_drive(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof window_cases / sizeof window_cases[0]; i++) {
        struct io_file *f = open_one(1, 8 * MIB), *other = open_one(2, MIB);
        struct io_request r[MANY], one;
        struct mem_engine *e;
        struct io_queue *q = open_queue(64, 64 * KIB, 256 * KIB, &e);

        mem_file_throttle(f, 0, STUCK);
        mem_file_throttle(other, 0, STUCK);
        io_path_tune(q, path_of(q, f), &window_cases[i].tuning);
        submit_reads(q, f, r, MANY, window_cases[i].bytes, window_cases[i].class);
        io_flush(q);
        if (path_of(q, f)->inflight != window_cases[i].inflight)
            fail_msg("%s: %u in flight", window_cases[i].name, path_of(q, f)->inflight);
        /* none of which is the other drive's business */
        submit_reads(q, other, &one, 1, 64 * KIB, IO_WRITEBACK);
        io_flush(q);
        assert_int_equal(path_of(q, other)->inflight, window_cases[i].inflight < 64);
        io_queue_close(q);
        mem_file_close(f);
        mem_file_close(other);
    }
}

/* A queue's own small pieces obey the window too: they are pages at least. */
static void small_pieces_of_a_queue(void **state)
{
    struct io_file *f = open_one(1, 8 * MIB);
    struct io_request r[MANY];
    struct mem_engine *e;
    struct io_queue *q = open_queue(64, 512, 10000, &e);

    (void)state;
    mem_file_throttle(f, 0, STUCK);
    submit_reads(q, f, r, MANY, 64 * KIB, IO_PREFETCH);
    io_flush(q);
    assert_int_equal(path_of(q, f)->background_bytes, 8192);
    io_queue_close(q);
    mem_file_close(f);
}

/* On one drive the classes come one after the other, whatever the order of submission; what waits
 * on another drive does not matter. */
static void classes_are_a_drives_own(void **state)
{
    static const enum io_class submitted[] = {IO_WRITEBACK, IO_PREFETCH, IO_DEMAND, IO_PREFETCH, IO_DEMAND};
    static const unsigned expected[] = {2, 4, 1, 3, 0};
    struct io_file *f = open_one(1, MIB), *other = open_one(2, MIB);
    struct io_request r[5], background, *done;
    struct mem_engine *e;
    struct io_queue *q = open_queue(4, 0, 0, &e);

    (void)state;
    io_path_tune(q, path_of(q, f), &(struct io_tuning){.depth = 1});
    mem_file_throttle(other, 0, STUCK);
    for (unsigned i = 0; i < 5; i++)
        submit_reads(q, f, &r[i], 1, 4096, submitted[i]);
    submit_reads(q, other, &background, 1, 4096, IO_WRITEBACK);
    io_flush(q);
    assert_int_equal(path_of(q, other)->inflight, 1); /* though demand waits on f's drive */
    for (unsigned i = 0; i < 5; i++) {
        while (io_reap(q, &done, 1) == 0)
            ;
        assert_ptr_equal(done, &r[expected[i]]);
    }
    assert_int_equal(io_queue_pending(q), 1);
    io_queue_close(q);
    mem_file_close(f);
    mem_file_close(other);
}

/* ---- pieces --------------------------------------------------------------------- */

/* In pieces of 64 KiB: how many transfers there are, and what goes through a copy. */
static const struct {
    const char *name;
    enum io_op op;
    uint32_t block;
    uint64_t offset, bytes, shift; /* shift: of the address from a page */
    uint64_t transfers, copied;
} piece_cases[] = {
    {"aligned", IO_READ, 4096, 65536, 262144, 0, 4, 0},
    {"one byte", IO_READ, 4096, 77, 1, 77, 1, 1},
    {"odd tail: only that is copied", IO_READ, 4096, 0, 131172, 0, 3, 100},
    {"odd head and tail, address alike", IO_READ, 4096, 100, 131072, 100, 4, 4096},
    {"odd address: all of it", IO_READ, 4096, 0, 131072, 1, 2, 131072},
    {"odd offset: all of it", IO_READ, 4096, 100, 131072, 0, 3, 131072},
    {"a block is enough", IO_READ, 512, 512, 65536, 512, 1, 0},
    {"buffered: nothing is odd", IO_READ, 1, 3, 131072, 1, 2, 0},
    {"write, aligned", IO_WRITE, 4096, 65536, 262144, 0, 4, 0},
    {"write, odd address", IO_WRITE, 4096, 0, 131072, 1, 2, 131072},
    {"write, odd head and tail: through the page cache", IO_WRITE, 4096, 100, 131072, 100, 4, 0},
    {"the same, odd address: whole pages are copied", IO_WRITE, 4096, 100, 131072, 0, 4, 126976},
    {"write of blocks that are parts of pages: likewise", IO_WRITE, 512, 512, 65536, 0, 3, 0},
    {"write, buffered", IO_WRITE, 1, 3, 131072, 1, 2, 0},
};

static void requests_are_cut_where_it_costs_least(void **state)
{
    unsigned char *buf = io_test_aligned(MIB);

    (void)state;
    memset(buf, 1, MIB);
    for (size_t i = 0; i < sizeof piece_cases / sizeof piece_cases[0]; i++) {
        const struct mem_part part = {.block = piece_cases[i].block, .device = 1};
        struct io_file *f = mem_file_open(&part, 1, MIB, 0);
        struct io_request r = {.op = piece_cases[i].op, .file = f, .buf = buf + piece_cases[i].shift}, *done;
        struct mem_engine *e;
        struct io_queue *q = open_queue(64, 64 * KIB, 0, &e);

        r.offset = piece_cases[i].offset;
        r.bytes = piece_cases[i].bytes;
        io_submit(q, &r);
        while (io_reap(q, &done, 1) == 0)
            ;
        assert_int_equal(r.error.code, 0);
        if (e->started != piece_cases[i].transfers || q->stats.copied_bytes != piece_cases[i].copied)
            fail_msg("%s: %lu transfers, %lu bytes copied", piece_cases[i].name, (unsigned long)e->started,
                     (unsigned long)q->stats.copied_bytes);
        io_queue_close(q);
        mem_file_close(f);
    }
    free(buf);
}

/* Once a file has ended, the drive is not asked for what lies behind. */
static void nothing_is_read_behind_the_end(void **state)
{
    struct io_file *f = open_one(1, MIB);
    struct io_request r = {.file = f, .buf = shared_buffer(), .bytes = 1024 * MIB, .need_bytes = 1}, *done;
    struct mem_engine *e;
    struct io_queue *q = open_queue(4, 64 * KIB, 0, &e);

    (void)state;
    io_submit(q, &r);
    while (io_reap(q, &done, 1) == 0)
        ;
    assert_int_equal(r.error.code, 0);
    assert_int_equal(r.done_bytes, MIB);
    assert_true(e->started < 16 + 2 * 4);
    io_queue_close(q);
    mem_file_close(f);
}

/* ---- a slow drive ------------------------------------------------------------- */

/* Rounds that 400 reads of a sound drive take, while a second one gets as many, and completes one
 * in `period` rounds. */
static uint64_t rounds_beside(uint64_t period, const struct io_tuning *tuning, unsigned *slow_done)
{
    struct io_file *sound = open_one(1, 4 * MIB), *slow = open_one(2, 4 * MIB);
    struct io_request *r = calloc(800, sizeof *r), *done[MANY];
    struct mem_engine *e;
    struct io_queue *q = open_queue(16, 0, 0, &e);
    unsigned sound_done = 0;
    uint64_t rounds;

    assert_non_null(r);
    io_path_tune(q, path_of(q, slow), tuning);
    io_path_tune(q, path_of(q, sound), tuning);
    mem_file_throttle(slow, 0, period);
    mem_file_throttle(sound, 0, 1);
    submit_reads(q, slow, r, 400, 4096, IO_DEMAND);
    submit_reads(q, sound, r + 400, 400, 4096, IO_WRITEBACK);
    *slow_done = 0;
    while (sound_done < 400) {
        unsigned n = io_reap(q, done, MANY);

        for (unsigned i = 0; i < n; i++)
            *(done[i]->file == sound ? &sound_done : slow_done) += 1;
        if (e->round > 100000)
            fail_msg("the sound drive completed %u of 400, beside %u of the slow one", sound_done,
                     *slow_done);
    }
    rounds = e->round;
    io_queue_close(q);
    free(r);
    mem_file_close(sound);
    mem_file_close(slow);
    return rounds;
}

/* With depths of their own, and where both share what the engine has. */
static void slow_drive_holds_up_nothing_else(void **state)
{
    static const struct io_tuning tunings[] = {{.depth = 8}, {0}};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        unsigned n, quick;
        uint64_t beside_quick = rounds_beside(1, &tunings[i], &quick);
        uint64_t beside_slow = rounds_beside(50, &tunings[i], &n);
        uint64_t beside_dead = rounds_beside(STUCK, &tunings[i], &n);

        assert_true(quick > 350 && n == 0);
        assert_true(beside_slow <= beside_quick + beside_quick / 10);
        assert_true(beside_dead <= beside_quick + beside_quick / 10);
    }
}

/* A striped file with one slow part: that part alone lags behind. */
static void slow_part_of_a_striped_file(void **state)
{
    const struct mem_part parts[] = {{.block = 4096, .device = 1}, {.block = 4096, .device = 2}};
    struct io_file *f = mem_file_open(parts, 2, 8 * MIB, 0);
    struct io_request r = {.file = f, .bytes = 8 * MIB, .buf = io_test_aligned(8 * MIB)}, *done;
    struct io_part_info part[2];
    struct mem_engine *e;
    struct io_queue *q = open_queue(16, 64 * KIB, 0, &e);

    (void)state;
    mem_file_throttle(f, 0, 100);
    io_submit(q, &r);
    while (e->round < 200)
        assert_int_equal(io_reap(q, &done, 1), 0);
    io_file_part(f, 0, &part[0]);
    io_file_part(f, 1, &part[1]);
    assert_int_equal(part[1].read_bytes, 4 * MIB);
    assert_true(part[0].read_bytes <= 2 * 64 * KIB);
    mem_file_throttle(f, 0, 0);
    while (io_reap(q, &done, 1) == 0)
        ;
    assert_int_equal(r.error.code, 0);
    io_queue_close(q);
    free(r.buf);
    mem_file_close(f);
}

/* ---- statistics ----------------------------------------------------------------- */

static void pass_ms(unsigned ms)
{
    usleep(ms * 1000);
}

static void reap_all(struct io_queue *q)
{
    struct io_request *done[MANY];

    while (io_queue_pending(q))
        io_reap(q, done, MANY);
}

static void statistics_of_a_drive(void **state)
{
    struct io_file *f = open_one(1, 4 * MIB), *silent = open_one(7, MIB);
    struct io_request r[20], lost;
    struct io_path_stats s;
    struct mem_engine *e;
    struct io_queue *q = open_queue(64, 0, 0, &e);
    uint64_t begin_ns = base_now_ns();

    (void)state;
    (void)path_of(q, silent);
    submit_reads(q, f, r, 20, 4096, IO_DEMAND);
    io_flush(q);
    pass_ms(30);
    reap_all(q);
    pass_ms(50); /* nothing to do */
    for (unsigned i = 0; i < 10; i++) {
        r[i] = (struct io_request){.op = IO_WRITE, .file = f, .buf = shared_buffer(), .bytes = 8192};
        io_submit(q, &r[i]);
    }
    io_flush(q);
    reap_all(q);
    pass_ms(10); /* after the last one: not known to be a gap */
    assert_int_equal(io_queue_paths(q), 2);
    io_queue_path_stats(q, 1, &s);
    assert_int_equal(s.device, 1);
    assert_string_equal(s.name, "mem-0"); /* the first that was opened there */
    assert_int_equal(s.transfers[IO_READ], 20);
    assert_int_equal(s.transfers[IO_WRITE], 10);
    assert_int_equal(s.bytes[IO_READ], 20 * 4096);
    assert_int_equal(s.bytes[IO_WRITE], 10 * 8192);
    assert_int_equal(s.latency[IO_READ].count, 20);
    assert_int_equal(s.latency[IO_WRITE].count, 10);
    assert_true(io_histogram_quantile(&s.latency[IO_READ], 0.5) >= 30000000);
    assert_true(s.busy_ns >= 30000000 && s.busy_ns <= base_now_ns() - begin_ns - 60000000);
    assert_true(s.empty_ns >= 50000000);
    assert_true(s.since_ns >= s.busy_ns + s.empty_ns + 10000000);
    assert_int_equal(s.errors, 0);
    io_queue_path_stats(q, 0, &s);
    assert_int_equal(s.device, 7);
    assert_int_equal(s.since_ns + s.busy_ns + s.empty_ns + s.transfers[IO_READ] + s.latency[IO_READ].count,
                     0);

    /* what the owner takes back is no failure of the drive; what the drive refuses is */
    mem_file_throttle(f, 0, STUCK);
    submit_reads(q, f, &lost, 1, 4096, IO_DEMAND);
    io_flush(q);
    io_cancel(q, &lost);
    reap_all(q);
    assert_int_equal(lost.error.code, -ECANCELED);
    io_queue_path_stats(q, 1, &s);
    assert_int_equal(s.errors, 0);
    assert_int_equal(s.transfers[IO_READ], 20);
    mem_file_throttle(f, 0, 0);
    e->random = 1;
    e->config.error = 1000;
    submit_reads(q, f, &lost, 1, 4096, IO_DEMAND);
    reap_all(q);
    assert_int_equal(lost.error.code, -EIO);
    io_queue_path_stats(q, 1, &s);
    assert_int_equal(s.errors, 1);
    io_queue_close(q);
    mem_file_close(f);
    mem_file_close(silent);
}

/* Two finish at once, and the owner takes one of them by io_wait: the other still wakes it. */
static void what_is_left_wakes_the_owner(void **state)
{
    const struct io_queue_config c = {.deadline_ns = HOUR};
    const struct mem_config no_wait = {0};
    struct io_file *f = open_one(1, MIB), *other = open_one(2, MIB);
    struct io_request r[2], *done[2];
    struct mem_engine *e;
    struct io_queue *q = mem_queue_open(&c, &no_wait, &e);
    struct pollfd p = {.fd = io_queue_fd(q), .events = POLLIN};

    (void)state;
    mem_file_throttle(f, 0, 5);
    mem_file_throttle(other, 0, 5);
    submit_reads(q, f, &r[0], 1, 4096, IO_DEMAND);
    submit_reads(q, other, &r[1], 1, 4096, IO_DEMAND);
    assert_int_equal(io_wait(q, done, 1, HOUR), 1);
    assert_int_equal(mem_engine_inside(e), 0);
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_int_equal(io_reap(q, done, 2), 1);
    assert_int_equal(poll(&p, 1, 0), 0);
    io_queue_close(q);
    mem_file_close(f);
    mem_file_close(other);
}

/* ---- tuning ----------------------------------------------------------------- */

static void tuning_is_per_drive(void **state)
{
    const struct io_queue_config c = {.depth = 32, .window_bytes = MIB};
    struct io_tuning t = {.piece_bytes = 64 * KIB, .depth = 3};
    struct mem_config config = {.wait = true};
    struct mem_engine *e;
    struct io_queue *q = mem_queue_open(&c, &config, &e);
    struct io_path_stats s;
    struct io_request r;
    struct io_file *f;
    struct stat st;

    (void)state;
    assert_int_equal(stat(io_test.dir, &st), 0);
    assert_int_equal(io_queue_tune(q, io_test.dir, &t), 0);
    assert_int_equal(io_queue_paths(q), 1);
    assert_int_equal(q->path[0]->tuning.piece_bytes, 64 * KIB);
    assert_int_equal(q->path[0]->tuning.depth, 3);
    assert_int_equal(q->path[0]->tuning.window_bytes, MIB); /* not given: the queue's */
    f = open_one(st.st_dev, MIB);
    submit_reads(q, f, &r, 1, MIB, IO_DEMAND);
    reap_all(q);
    io_queue_path_stats(q, 0, &s);
    assert_int_equal(s.transfers[IO_READ], 16);
    assert_true(q->stats.inflight_max == 3);
    t = (struct io_tuning){.depth = 4000, .window_bytes = 7};
    assert_int_equal(io_queue_tune(q, io_test.dir, &t), 0); /* again: instead */
    assert_int_equal(io_queue_paths(q), 1);
    assert_int_equal(q->path[0]->tuning.depth, 32);
    assert_int_equal(q->path[0]->tuning.piece_bytes, MIB);
    assert_int_equal(q->path[0]->tuning.window_bytes, 7);
    assert_int_equal(io_queue_tune(q, "/proc/self/absent", &t), -ENOENT);
    assert_non_null(strstr(base_error_text(), "/proc/self/absent"));
    io_queue_close(q);
    mem_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depth_and_window_of_a_drive),
        cmocka_unit_test(small_pieces_of_a_queue),
        cmocka_unit_test(classes_are_a_drives_own),
        cmocka_unit_test(requests_are_cut_where_it_costs_least),
        cmocka_unit_test(nothing_is_read_behind_the_end),
        cmocka_unit_test(slow_drive_holds_up_nothing_else),
        cmocka_unit_test(slow_part_of_a_striped_file),
        cmocka_unit_test(statistics_of_a_drive),
        cmocka_unit_test(what_is_left_wakes_the_owner),
        cmocka_unit_test(tuning_is_per_drive),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
