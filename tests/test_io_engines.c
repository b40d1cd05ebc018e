/*
 * Proves both engines' edges on the real kernel: who waits is woken, however late it began to
 * listen, and no longer than it asked for; a buffer that the kernel has comes back when the kernel has let
 * go; time in which the process is stopped does not count; registered buffers and files, and every kind of ring,
 * move the same bytes; a storm of cancellations leaves room for transfers; trimming gives space
 * back and takes no byte too many. Kinds of rings that this machine refuses are named.
 *
 * Negative controls: the waits run once with a completion and once without; the files are read
 * before they are trimmed.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"
#include "base/clock.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define MS  1000000ull

static const struct engine {
    const char *name;
    enum io_engine engine;
} engines[] = {{"io_uring", IO_ENGINE_URING}, {"threads", IO_ENGINE_THREADS}};

/* Says so, and counts as run: the other engine did. */
static bool is_missing(const struct engine *e)
{
    static bool said;

    if (e->engine != IO_ENGINE_URING || io_test.uring)
        return false;
    if (!said)
        fprintf(stderr, "skipped: io_uring: not on this machine\n");
    said = true;
    return true;
}

static struct io_file *open_scratch(unsigned flags, uint64_t bytes)
{
    struct io_file *f;

    assert_int_equal(io_file_open_scratch(io_test.dir, flags, &f), 0);
    assert_int_equal(io_file_reserve(f, bytes), 0);
    return f;
}

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
        const struct engine *e = &engines[i % 2];
        enum when when = (enum when)(i / 2 % WHENS);
        struct io_queue_config config = {.engine = e->engine};
        struct io_request r = {.bytes = 4096, .buf = io_test_aligned(4096)}, *done;
        struct io_queue *q;
        struct pollfd p = {.events = POLLIN};

        if (is_missing(e)) {
            free(r.buf);
            continue;
        }
        r.file = open_scratch(i / 2 / WHENS ? IO_FILE_BUFFERED : 0, 4096);
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
        if (poll(&p, 1, 5000) != 1)
            fail_msg("%s: listening from moment %d on: not woken", e->name, (int)when);
        while (io_reap(q, &done, 1) == 0)
            assert_int_equal(poll(&p, 1, 5000), 1);
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
        const struct engine *e = &engines[i % 2];
        struct io_queue_config config = {.engine = e->engine, .depth = 4};
        struct io_request r = {.bytes = 64 * KIB, .buf = io_test_aligned(64 * KIB)}, *done;
        struct io_queue *q;
        struct pollfd p = {.events = POLLIN};

        if (is_missing(e)) {
            free(r.buf);
            continue;
        }
        r.file = open_scratch(i / 2 % 2 ? IO_FILE_BUFFERED : 0, 64 * KIB);
        assert_int_equal(io_queue_open(&config, &q), 0);
        p.fd = io_queue_fd(q);
        io_submit(q, &r);
        if (i % 8 > 1)
            io_flush(q);
        io_cancel(q, &r);
        while (io_queue_pending(q)) {
            if (poll(&p, 1, 5000) != 1)
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
    uint64_t least_ns; /* that it takes; five seconds more is a hang */
    unsigned reaped;
    bool told; /* that it is late */
} wait_cases[] = {
    {"nothing is out", false, 0, 0, 0, 10000 * MS, 0, 0, false},
    {"it comes", true, 0, 0, 0, 10000 * MS, 0, 1, false},
    {"no timeout at all", true, 0, 0, 0, UINT64_MAX, 0, 1, false},
    {"it does not come", true, 1000, 0, 0, 40 * MS, 40 * MS, 0, false},
    {"no patience", true, 1000, 0, 0, 0, 0, 0, false},
    {"the deadline comes first", true, 1000, 0, 30 * MS, 10000 * MS, 30 * MS, 0, true},
    {"the drive is always busy", true, 0, 1000, 30 * MS, 10000 * MS, 30 * MS, 1, true},
};

static void waiting_ends_in_time(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4 * (sizeof wait_cases / sizeof wait_cases[0]); i++) {
        const struct engine *e = &engines[i % 2];
        bool armed = i / 2 % 2;
        size_t c = i / 4;
        struct io_queue_config config = {.engine = e->engine};
        struct io_request r = {.bytes = 4096, .deadline_ns = wait_cases[c].deadline_ns}, *done;
        struct io_queue *q;
        uint64_t begin_ns, took_ns;

        if (is_missing(e))
            continue;
        r.file = open_scratch(0, 4096);
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
        if (took_ns < wait_cases[c].least_ns || took_ns > wait_cases[c].least_ns + 5000 * MS)
            fail_msg("%s, %s: %.3f ms", e->name, wait_cases[c].name, (double)took_ns / 1e6);
        if (wait_cases[c].submit)
            assert_int_equal(r.error.code, wait_cases[c].told ? -OFL_EDEADLINE : 0);
        assert_int_equal(io_late(q, &done, 1), wait_cases[c].told && !wait_cases[c].reaped);
        io_queue_close(q);
        io_file_close(r.file);
        free(r.buf);
    }
}

/* ---- buffers that the kernel has ---------------------------------------------------- */

/* Memory whose pages come when the test gives them: until then the kernel waits inside the copy, as
 * it does in a drive that hangs. 0, or -errno. */
static int open_missing_pages(void **memory, uint64_t bytes)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    if (fd < 0)
        return -errno;
    *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(*memory != MAP_FAILED);
    range.range = (struct uffdio_range){(uintptr_t)*memory, bytes};
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
    return fd;
}

static void give_pages(int fd, const void *memory, uint64_t bytes)
{
    struct uffdio_zeropage zero = {.range = {(uintptr_t)memory, bytes}};

    assert_int_equal(ioctl(fd, UFFDIO_ZEROPAGE, &zero), 0);
}

/* A read that the kernel is in the middle of when its time is up: the notice comes then, the buffer
 * when the kernel has let go of it, and not a byte is written to it after that. */
static void the_kernel_lets_go_first(void **state)
{
    const uint64_t bytes = 64 * KIB;
    unsigned ran = 0;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct io_queue_config config = {.engine = engines[i].engine};
        struct io_request r = {.bytes = bytes, .deadline_ns = 50 * MS}, *done;
        struct io_queue *q;
        int fd;

        if (is_missing(&engines[i]))
            continue;
        fd = open_missing_pages(&r.buf, bytes);
        if (fd < 0) {
            fprintf(stderr, "skipped: userfaultfd: %s\n", strerror(-fd));
            break;
        }
        r.file = open_scratch(IO_FILE_BUFFERED, bytes);
        assert_int_equal(io_queue_open(&config, &q), 0);
        io_submit(q, &r);
        assert_int_equal(io_wait(q, &done, 1, 20000 * MS), 0);
        assert_int_equal(io_late(q, &done, 1), 1);
        assert_ptr_equal(done, &r);
        assert_int_equal(r.error.code, -OFL_EDEADLINE);
        assert_true(r.elapsed_ns > 50 * MS);
        for (unsigned k = 0; k < 20; k++) /* asked to give up, it can't */
            assert_int_equal(io_wait(q, &done, 1, 5 * MS), 0);
        assert_int_equal(io_queue_pending(q), 1);
        give_pages(fd, r.buf, bytes);
        while (io_wait(q, &done, 1, 1000 * MS) == 0)
            ;
        memset(r.buf, 0xee, bytes); /* ours */
        assert_int_equal(r.error.code, -OFL_EDEADLINE);
        assert_int_equal(io_late(q, &done, 1), 0);
        assert_int_equal(io_queue_pending(q), 0);
        usleep(50000);
        for (uint64_t k = 0; k < bytes; k++)
            assert_int_equal(((unsigned char *)r.buf)[k], 0xee);
        io_queue_close(q);
        for (uint64_t k = 0; k < bytes; k++)
            assert_int_equal(((unsigned char *)r.buf)[k], 0xee);
        io_file_close(r.file);
        munmap(r.buf, bytes);
        close(fd);
        ran++;
    }
    if (!ran)
        skip();
}

/* ---- stopped ------------------------------------------------------------------------- */

#define STOPPED_MS 2500u

/* What waits for a second's deadline, with nothing to hope for but that time. */
struct stopped {
    enum io_engine engine;
    bool armed; /* polls the descriptor, as a context does; else io_wait */
    uint64_t deadline_ns;
    int ready; /* pipe: it has begun to wait */
};

/* Before the stop and after it the process runs for less than the deadline. */
static int wait_while_stopped(void *arg)
{
    const struct stopped *s = arg;
    struct io_queue_config config = {.engine = s->engine};
    struct io_request r = {.bytes = 64 * KIB, .deadline_ns = s->deadline_ns}, *done;
    struct io_queue *q;
    uint64_t begin_ns;
    int fd;

    r.buf = io_test_aligned(r.bytes);
    r.file = open_scratch(0, r.bytes);
    config.faults.seed = io_test.seed;
    config.faults.late = 1000;
    CHECK(io_queue_open(&config, &q) == 0);
    fd = s->armed ? io_queue_fd(q) : -1;
    begin_ns = base_now_ns();
    io_submit(q, &r);
    io_flush(q);
    CHECK(write(s->ready, "", 1) == 1);
    while (!r.late) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        CHECK((s->armed ? poll(&p, 1, 200), io_reap(q, &done, 1) : io_wait(q, &done, 1, 60000 * MS)) == 0);
    }
    /* In this time the process ran for the deadline, and it was stopped for more than that. */
    CHECK(base_now_ns() - begin_ns > STOPPED_MS * MS + s->deadline_ns / 2);
    CHECK(strstr(r.error.text, "kept from running"));
    io_queue_close(q);
    io_file_close(r.file);
    free(r.buf);
    return 0;
}

/* SIGSTOP for longer than the deadline, which is counted in time in which the process runs. Both engines
 * and both ways of waiting at once. */
static void time_in_which_it_is_stopped_does_not_count(void **state)
{
    pid_t pid[4];
    int pipes[2], status;
    char byte;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    for (unsigned i = 0; i < 4; i++) {
        struct stopped s = {.engine = engines[i % 2].engine, .armed = i / 2, .ready = pipes[1]};

        s.deadline_ns = s.armed ? 2200 * MS : 1000 * MS; /* a second of a stop counts for who polls */
        pid[i] = is_missing(&engines[i % 2]) ? 0 : fork();
        assert_true(pid[i] >= 0);
        if (pid[i] == 0 && !is_missing(&engines[i % 2]))
            _exit(wait_while_stopped(&s));
    }
    for (unsigned i = 0; i < 4; i++)
        if (pid[i])
            assert_int_equal(read(pipes[0], &byte, 1), 1);
    for (unsigned i = 0; i < 4; i++)
        if (pid[i])
            assert_int_equal(kill(pid[i], SIGSTOP), 0);
    usleep(STOPPED_MS * 1000);
    for (unsigned i = 0; i < 4; i++)
        if (pid[i])
            assert_int_equal(kill(pid[i], SIGCONT), 0);
    close(pipes[0]);
    close(pipes[1]);
    for (unsigned i = 0; i < 4; i++) {
        if (!pid[i])
            continue;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        io_test_judge_child(status);
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
        const struct engine *e = &engines[i % 2];
        struct io_queue_config config = {.engine = e->engine};
        unsigned char *memory = io_test_aligned(4 * MIB), *other = io_test_aligned(MIB);
        struct io_file *f = open_scratch(i / 2 ? IO_FILE_BUFFERED : 0, 4 * MIB);
        struct io_stats stats;
        struct io_queue *q;

        if (is_missing(e))
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
    struct io_file *f = open_scratch(0, 4 * MIB);
    unsigned char *buf = io_test_aligned(256 * KIB);
    struct io_queue *q;
    int rc = 0;

    (void)state;
    if (is_missing(&engines[0])) {
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
    r.file = open_scratch(0, 4 * MIB);
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
    if (is_missing(&engines[0]))
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
    struct io_file *f = open_scratch(IO_FILE_BUFFERED, MIB);
    unsigned char *buf = io_test_aligned(MIB);
    unsigned back = 0;
    struct io_queue *q = NULL;

    (void)state;
    for (unsigned i = 0; i < 2 * DEPTH; i++)
        r[i] = (struct io_request){
            .file = f, .buf = buf + i % 256 * 4096, .offset = i % 256 * 4096, .bytes = 4096};
    if (is_missing(&engines[0]))
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

static uint64_t bytes_on_disk(const struct io_file *f)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < f->count; i++) {
        struct stat st;

        assert_int_equal(fstat(f->member[i].fd, &st), 0);
        bytes += (uint64_t)st.st_blocks * 512;
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
        cmocka_unit_test(who_listens_is_woken),
        cmocka_unit_test(who_cancels_is_woken),
        cmocka_unit_test(waiting_ends_in_time),
        cmocka_unit_test(the_kernel_lets_go_first),
        cmocka_unit_test(time_in_which_it_is_stopped_does_not_count),
        cmocka_unit_test(registered_buffers_and_files),
        cmocka_unit_test(more_files_than_slots),
        cmocka_unit_test(every_kind_of_ring_moves_bytes),
        cmocka_unit_test(storm_of_cancellations),
        cmocka_unit_test(trimming_gives_space_back),
        cmocka_unit_test(sources_are_not_trimmed),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
