/*
 * Proves the fault table, as far as transfers go: each row ends in the right bytes or a precise
 * sentence, on real files, and nothing hangs.
 *
 *   unaligned buffer, offset, length    the same bytes, read and written, and none beside them
 *   unreadable sector                   EIO for whoever touches it, and for nobody else
 *   lost completion                     told at its own deadline, or the queue's; back, and its buffer
 *                                       with it, when its bytes have moved; the others go on
 *   cancel in flight                    back once, with all bytes or -ECANCELED; buffers left alone
 *   2.6 GB in one request               all of it
 *
 * The other rows: drive removed, drive full, RLIMIT_MEMLOCK (test_io_limits.c); full file system,
 * file-size limit, io_uring refused (test_io_system.c); truncated file (test_io.c); one drive much
 * slower than the other (test_io_paths.c, in memory).
 *
 * Negative controls: each row also has requests that are in order, and succeed.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"
#include "base/clock.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define MS  1000000ull

static const struct mode {
    const char *name;
    enum io_engine engine;
    unsigned flags;
    unsigned parts;
} modes[] = {
    {"io_uring, direct", IO_ENGINE_URING, 0, 1},
    {"io_uring, buffered", IO_ENGINE_URING, IO_FILE_BUFFERED, 1},
    {"io_uring, direct, striped", IO_ENGINE_URING, 0, 2},
    {"threads, direct", IO_ENGINE_THREADS, 0, 1},
    {"threads, buffered", IO_ENGINE_THREADS, IO_FILE_BUFFERED, 1},
};

#define MODES (sizeof modes / sizeof modes[0])

/* Says so, and counts as run: the other modes of the same test did. */
static bool is_missing(const struct mode *m)
{
    if (m->engine != IO_ENGINE_URING || io_test.uring)
        return false;
    fprintf(stderr, "skipped: %s: not on this machine\n", m->name);
    return true;
}

static struct io_file *open_scratch(const struct mode *m, uint64_t bytes)
{
    const struct io_stripe stripes[] = {{.dir = io_test.dir}, {.dir = io_test.dir}};
    struct io_file *f;

    assert_int_equal(io_file_open_striped(stripes, m->parts, m->flags, &f), 0);
    assert_int_equal(io_file_reserve(f, bytes), 0);
    return f;
}

static struct io_queue *open_queue(const struct io_queue_config *config)
{
    struct io_queue *q;

    assert_int_equal(io_queue_open(config, &q), 0);
    return q;
}

static unsigned char pattern(uint64_t i)
{
    return (unsigned char)(i * 2654435761u >> 11);
}

static void write_pattern(struct io_queue *q, struct io_file *f, uint64_t bytes)
{
    unsigned char *buf = io_test_aligned(bytes);
    struct io_request r = {.op = IO_WRITE, .file = f, .buf = buf, .bytes = bytes};

    for (uint64_t i = 0; i < bytes; i++)
        buf[i] = pattern(i);
    assert_int_equal(io_test_transfer(q, &r), 0);
    free(buf);
}

/* ---- alignment ----------------------------------------------------------------- */

#define SMALL_FILE (64 * KIB)

static const uint64_t offsets[] = {0, 1, 511, 512, 513, 4095, 4096, 5000, 8191};
static const uint64_t lengths[] = {1, 511, 512, 4096, 4097, 8195, 20000};
static const uint64_t shifts[] = {0, 1, 512, 4095};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

/* base: where in the file the offsets begin. */
static void every_alignment(const struct mode *m, struct io_queue *q, struct io_file *f, uint64_t base)
{
    unsigned char *model = calloc(1, SMALL_FILE), *all = io_test_aligned(SMALL_FILE);
    unsigned char *memory = io_test_aligned(SMALL_FILE);
    struct io_request whole = {.file = f, .buf = all, .offset = base, .bytes = SMALL_FILE};
    uint64_t salt = 0;

    assert_non_null(model);
    for (size_t i = 0; i < COUNT(offsets) * COUNT(lengths) * COUNT(shifts); i++) {
        uint64_t offset = offsets[i % COUNT(offsets)], length = lengths[i / COUNT(offsets) % COUNT(lengths)];
        unsigned char *buf = memory + 4096 + shifts[i / COUNT(offsets) / COUNT(lengths)];
        struct io_request r = {.file = f, .buf = buf, .offset = base + offset, .bytes = length};

        /* reads what the writes before have left, into a buffer that has bytes beside it */
        memset(memory, 0x5a, SMALL_FILE);
        if (io_test_transfer(q, &r) != 0 || memcmp(buf, model + offset, length) != 0)
            fail_msg("%s: read of %lu bytes at %lu + %lu to %p: %s", m->name, (unsigned long)length,
                     (unsigned long)base, (unsigned long)offset, (void *)buf, r.error.text);
        for (unsigned char *p = memory; p < memory + SMALL_FILE; p++)
            if ((p < buf || p >= buf + length) && *p != 0x5a)
                fail_msg("%s: read of %lu bytes at %lu touched what it should not", m->name,
                         (unsigned long)length, (unsigned long)offset);
        r.op = IO_WRITE;
        for (uint64_t k = 0; k < length; k++)
            buf[k] = model[offset + k] = pattern(k + ++salt);
        if (io_test_transfer(q, &r) != 0)
            fail_msg("%s: %s", m->name, r.error.text);
        if (io_test_transfer(q, &whole) != 0 || memcmp(all, model, SMALL_FILE) != 0)
            fail_msg("%s: after a write of %lu bytes at %lu + %lu from %p the file differs: %s", m->name,
                     (unsigned long)length, (unsigned long)base, (unsigned long)offset, (void *)buf,
                     whole.error.text);
    }
    free(model);
    free(all);
    free(memory);
}

static void unaligned_buffers_and_offsets(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine};
        struct io_queue *q;
        struct io_file *f;

        if (is_missing(&modes[i]))
            continue;
        q = open_queue(&config);
        f = open_scratch(&modes[i], 4 * MIB);
        /* across the border of two units, where there is one */
        every_alignment(&modes[i], q, f, modes[i].parts > 1 ? MIB - 8192 : 0);
        io_queue_close(q);
        io_file_close(f);
    }
}

/* ---- sectors and completions that are lost ----------------------------------------- */

static void unreadable_sector(void **state)
{
    static const struct {
        uint64_t offset, bytes;
        int code;
    } cases[] = {
        {0, 4 * MIB, -EIO},       {2 * MIB, 4096, -EIO}, {2 * MIB + 100, 1, -EIO},  {0, 2 * MIB, 0},
        {2 * MIB + 4096, MIB, 0}, {MIB, MIB + 1, -EIO},  {2 * MIB - 4096, 4096, 0},
    };

    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine};
        struct io_request r[COUNT(cases)], *done[COUNT(cases)];
        struct io_queue *q;
        struct io_file *f;
        char expected[900];
        unsigned back = 0;

        if (is_missing(&modes[i]) || modes[i].parts > 1)
            continue;
        q = open_queue(&config);
        f = open_scratch(&modes[i], 4 * MIB);
        write_pattern(q, f, 4 * MIB);
        io_queue_close(q);
        config.faults = (struct io_faults){.seed = io_test.seed, .bad_offset = 2 * MIB, .bad_bytes = 512};
        q = open_queue(&config);
        for (size_t c = 0; c < COUNT(cases); c++) { /* all at once */
            r[c] = (struct io_request){.file = f, .offset = cases[c].offset, .bytes = cases[c].bytes};
            r[c].buf = io_test_aligned(cases[c].bytes);
            io_submit(q, &r[c]);
        }
        while (back < COUNT(cases))
            back += io_wait(q, done, COUNT(cases), 1000 * MS);
        for (size_t c = 0; c < COUNT(cases); c++) {
            snprintf(expected, sizeof expected, "read %s: offset %lu, %lu bytes: got %lu: Input/output error",
                     io_file_path(f), (unsigned long)cases[c].offset, (unsigned long)cases[c].bytes,
                     (unsigned long)r[c].done_bytes);
            if (r[c].error.code != cases[c].code ||
                strcmp(r[c].error.text, cases[c].code ? expected : "") != 0)
                fail_msg("%s: case %zu: %d: %s", modes[i].name, c, r[c].error.code, r[c].error.text);
            for (uint64_t k = 0; !cases[c].code && k < cases[c].bytes; k++)
                if (((unsigned char *)r[c].buf)[k] != pattern(cases[c].offset + k))
                    fail_msg("%s: case %zu: byte %lu", modes[i].name, c, (unsigned long)k);
            free(r[c].buf);
        }
        io_queue_close(q);
        io_file_close(f);
    }
}

#define MANY 300u

struct lost {
    struct io_request r[MANY];
    bool told[MANY], back[MANY];
    unsigned char *buf;
    unsigned told_count, back_count;
};

static bool is_filled(const unsigned char *p, unsigned char with)
{
    for (unsigned i = 0; i < 4096; i++)
        if (p[i] != with)
            return false;
    return true;
}

/* What is told is not back, and no byte of it has come; what is back is ours, and of no other use. */
static void take_lost(const struct mode *m, struct lost *l, struct io_queue *q, uint64_t wait_ns)
{
    struct io_request *done[64];
    unsigned n = io_wait(q, done, 64, wait_ns);

    for (unsigned i = 0; i < n; i++) {
        unsigned k = (unsigned)(done[i] - l->r);

        assert_false(l->back[k]);
        l->back[k] = true;
        l->back_count++;
        if (l->told[k] && is_filled(done[i]->buf, 0x5a))
            fail_msg("%s: request %u came back before its bytes had moved", m->name, k);
        memset(done[i]->buf, 0xee, 4096);
    }
    n = io_late(q, done, 64);
    for (unsigned i = 0; i < n; i++) {
        unsigned k = (unsigned)(done[i] - l->r);

        assert_false(l->back[k] || l->told[k]);
        assert_true(done[i]->late);
        assert_int_equal(done[i]->error.code, -OFL_EDEADLINE);
        l->told[k] = true;
        l->told_count++;
    }
}

static void check_lost(const struct mode *m, const struct lost *l, const uint64_t allowed_ns[2])
{
    static const char *const allowed[] = {"allowed 0.100 s", "allowed 0.020 s"};

    for (unsigned k = 0; k < MANY; k++) {
        const struct io_request *r = &l->r[k];

        if (!is_filled(r->buf, 0xee))
            fail_msg("%s: buffer %u was written after its request had come back", m->name, k);
        assert_int_equal(r->late, r->error.code != 0);
        if (!r->late)
            continue;
        assert_int_equal(r->error.code, -OFL_EDEADLINE);
        assert_non_null(strstr(r->error.text, "no completion before the deadline ("));
        assert_non_null(strstr(r->error.text, allowed[k % 2]));
        assert_true(r->elapsed_ns > allowed_ns[k % 2]);
    }
    /* How many more a busy machine makes late is its own affair. */
    if (l->told_count == 0)
        fail_msg("%s, seed %lu: none was lost", m->name, (unsigned long)io_test.seed);
}

/* The engine has them for a while, whatever it is asked: then their bytes come. */
static void lost_completions(void **state)
{
    const uint64_t allowed_ns[] = {100 * MS, 20 * MS}, late_ns = 400 * MS;

    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine, .deadline_ns = allowed_ns[0]};
        struct lost *l = calloc(1, sizeof *l);
        struct io_queue *q;
        struct io_file *f;

        l->buf = io_test_aligned(MANY * 4096);
        if (is_missing(&modes[i]))
            goto next;
        f = open_scratch(&modes[i], MANY * 4096);
        q = open_queue(&(struct io_queue_config){.engine = modes[i].engine});
        write_pattern(q, f, MANY * 4096);
        io_queue_close(q);
        memset(l->buf, 0x5a, MANY * 4096);
        config.faults = (struct io_faults){.seed = io_test.seed, .late = 30, .late_ns = late_ns};
        q = open_queue(&config);
        for (unsigned k = 0; k < MANY; k++) {
            l->r[k] =
                (struct io_request){.file = f, .buf = l->buf + k * 4096, .offset = k * 4096, .bytes = 4096};
            l->r[k].deadline_ns = k % 2 ? allowed_ns[1] : 0;
            io_submit(q, &l->r[k]);
            if (k % 10 == 9)
                take_lost(&modes[i], l, q, k % 20 * MS);
        }
        while (l->back_count < MANY)
            take_lost(&modes[i], l, q, 1000 * MS);
        assert_int_equal(io_queue_pending(q), 0);
        io_queue_close(q);
        check_lost(&modes[i], l, allowed_ns);
        io_file_close(f);
    next:
        free(l->buf);
        free(l);
    }
}

/* ---- cancel ------------------------------------------------------------------------- */

#define CANCELS 48u

struct cancelled {
    struct io_request r[CANCELS];
    unsigned char back[CANCELS];
    unsigned char *buf;
    uint64_t each;
    unsigned count[2]; /* whole, cancelled */
};

/* Takes note of what has come back, and makes its buffer unfit for any further use. */
static void take_back(const struct mode *m, struct cancelled *c, struct io_request *r)
{
    unsigned k = (unsigned)(r - c->r);
    unsigned char *buf = r->buf;

    assert_int_equal(c->back[k]++, 0);
    if (r->error.code != 0 && r->error.code != -ECANCELED)
        fail_msg("%s: %s", m->name, r->error.text);
    c->count[r->error.code != 0]++;
    if (r->error.code) {
        assert_non_null(strstr(r->error.text, r->op == IO_READ ? "read " : "write "));
        assert_non_null(strstr(r->error.text, ": Operation canceled"));
    }
    for (uint64_t i = 0; r->op == IO_READ && r->error.code == 0 && i < c->each; i++)
        if (buf[i] != pattern(r->offset + i))
            fail_msg("%s: request %u, byte %lu", m->name, k, (unsigned long)i);
    memset(buf, 0xee, c->each);
}

/* Half are cancelled before the flush or right behind it, a few later, and one in eight never. */
static void run_cancels(const struct mode *m, struct io_queue *q, struct io_file *f, struct cancelled *c,
                        enum io_op op)
{
    struct io_request *done[CANCELS];
    unsigned left = CANCELS, n;

    memset(c->back, 0, sizeof c->back);
    for (unsigned k = 0; k < CANCELS; k++) {
        unsigned char *buf = c->buf + k * c->each;

        c->r[k] =
            (struct io_request){.op = op, .file = f, .buf = buf, .offset = k * c->each, .bytes = c->each};
        for (uint64_t i = 0; i < c->each; i++)
            buf[i] = op == IO_WRITE ? pattern(c->r[k].offset + i) : 0;
        io_submit(q, &c->r[k]);
        if (k % 8 == 1)
            io_cancel(q, &c->r[k]);
    }
    io_flush(q);
    for (unsigned k = 0; k < CANCELS; k++)
        if (k % 8 > 1 && k % 8 < 6)
            io_cancel(q, &c->r[CANCELS - 1 - k]);
    while (left) {
        n = io_wait(q, done, 2, UINT64_MAX);
        left -= n;
        while (n > 0)
            take_back(m, c, done[--n]);
        for (unsigned k = 0; k < CANCELS; k++)
            if (k % 8 == 7) /* also what has come back: no effect */
                io_cancel(q, &c->r[k]);
    }
    assert_int_equal(io_queue_pending(q), 0);
}

static void cancel_in_flight(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        struct io_queue_config config = {.engine = modes[i].engine, .depth = 8, .piece_bytes = 64 * KIB};
        struct cancelled *c = calloc(1, sizeof *c);
        struct io_request all = {.bytes = CANCELS * 256 * KIB};
        unsigned char *got;

        c->each = 256 * KIB;
        c->buf = io_test_aligned(all.bytes);
        all.buf = got = io_test_aligned(all.bytes);
        if (!is_missing(&modes[i])) {
            struct io_queue *q = open_queue(&config);

            all.file = open_scratch(&modes[i], all.bytes);
            run_cancels(&modes[i], q, all.file, c, IO_WRITE);
            assert_int_equal(io_test_transfer(q, &all), 0);
            for (uint64_t k = 0; k < all.bytes; k++) /* old or new, and nothing from later */
                if (got[k] != 0 && got[k] != pattern(k))
                    fail_msg("%s: byte %lu of the file", modes[i].name, (unsigned long)k);
            write_pattern(q, all.file, all.bytes);
            run_cancels(&modes[i], q, all.file, c, IO_READ);
            io_queue_close(q);
            for (uint64_t k = 0; k < all.bytes; k++)
                if (c->buf[k] != 0xee)
                    fail_msg("%s: buffer written after its request had come back", modes[i].name);
            if (c->count[0] == 0 || c->count[1] < CANCELS / 4)
                fail_msg("%s: %u whole, %u cancelled", modes[i].name, c->count[0], c->count[1]);
            io_file_close(all.file);
        }
        free(c->buf);
        free(all.buf);
        free(c);
    }
}

/* ---- size ----------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#define THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define THREAD_SANITIZER 0
#endif

/* One request of 2.6 GB, more than the kernel moves per call, read from a sparse file into many
 * windows on the same 32 MiB, so that it costs no memory. Neither its start nor its end is that of a
 * block. The last window shows the file's end. */
static void more_than_two_gib(void **state)
{
    const uint64_t window = 32 * MIB, windows = 78, total = 2600000001u, from = 4097;
    const char *path = io_test_make_source("sparse", 0);
    int memory = memfd_create("window", MFD_CLOEXEC), fd;
    unsigned char *base =
        mmap(NULL, windows * window, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    static const char mark[] = "the last bytes";
    unsigned ran = 0;

    (void)state;
    assert_true(memory >= 0 && base != MAP_FAILED);
    assert_int_equal(ftruncate(memory, (off_t)window), 0);
    for (uint64_t i = 0; i < windows; i++)
        assert_ptr_equal(
            mmap(base + i * window, window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0),
            base + i * window);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, mark, sizeof mark, (off_t)(from + total - sizeof mark)), sizeof mark);
    close(fd);
    for (size_t i = 0; i < MODES; i++) {
        /* so few that no two of them meet in a window */
        struct io_queue_config config = {.engine = modes[i].engine, .depth = 16};
        struct io_request r = {.buf = base + 1, .offset = from, .bytes = total};
        struct io_queue *q;

        if (modes[i].parts > 1 || modes[i].flags || is_missing(&modes[i]))
            continue; /* buffered would fill the page cache */
        if (THREAD_SANITIZER && modes[i].engine == IO_ENGINE_THREADS) {
            fprintf(stderr, "skipped: %s: ThreadSanitizer would shadow 2.6 GB with 10\n", modes[i].name);
            continue;
        }
        ran++;
        memset(base, 0x77, window);
        q = open_queue(&config);
        assert_int_equal(io_file_open_read(path, 0, &r.file), 0);
        assert_int_equal(io_test_transfer(q, &r), 0);
        assert_int_equal(r.done_bytes, total);
        assert_string_equal((char *)r.buf + total - sizeof mark, mark);
        assert_int_equal(((unsigned char *)r.buf)[total - 2 * MIB], 0);
        io_queue_close(q);
        io_file_close(r.file);
    }
    munmap(base, windows * window);
    close(memory);
    unlink(path);
    if (!ran)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unaligned_buffers_and_offsets),
        cmocka_unit_test(unreadable_sector),
        cmocka_unit_test(lost_completions),
        cmocka_unit_test(cancel_in_flight),
        cmocka_unit_test(more_than_two_gib),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
