/*
 * Proves on the real kernel, with both engines, that a request which is late comes back when nothing
 * touches its buffer any more, and not before: its notice comes at the deadline, while a kernel
 * thread still copies into the buffer; closing waits for that too; what the kernel never took comes
 * back at once; time in which the process is stopped does not count.
 *
 * The kernel is held inside a copy by memory whose pages the test gives (userfaultfd). Negative
 * controls: a queue that returns late requests at once, and one that counts time that was taken, are
 * mutants (tools/mutants.sh).
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "base/clock.h"

#define KIB 1024ull
#define MS  1000000ull

#define EVER UINT64_MAX

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
        struct io_queue_config config = {.engine = io_test_engines[i].engine};
        struct io_request r = {.bytes = bytes, .deadline_ns = 50 * MS}, *done;
        struct io_queue *q;
        int fd;

        if (io_test_is_missing(&io_test_engines[i]))
            continue;
        fd = open_missing_pages(&r.buf, bytes);
        if (fd < 0) {
            fprintf(stderr, "skipped: userfaultfd: %s\n", strerror(-fd));
            break;
        }
        r.file = io_test_scratch(IO_FILE_BUFFERED, bytes);
        assert_int_equal(io_queue_open(&config, &q), 0);
        io_submit(q, &r);
        io_flush(q);
        assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, IO_TEST_HANG_MS),
                         1); /* it is inside */
        assert_int_equal(io_wait(q, &done, 1, EVER), 0);
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

struct giver {
    int fd;
    void *memory;
    uint64_t bytes;
    atomic_bool given;
};

static void *give_later(void *arg)
{
    struct giver *g = arg;

    usleep(100000);
    atomic_store(&g->given, true);
    give_pages(g->fd, g->memory, g->bytes);
    return NULL;
}

/* Also of a request that is late already, and of one that is not. */
static void closing_waits_for_the_kernel(void **state)
{
    unsigned ran = 0;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct io_queue_config config = {.engine = io_test_engines[i % 2].engine};
        struct io_request r = {.bytes = 64 * KIB, .deadline_ns = i / 2 ? MS : 0}, *done;
        struct giver g = {.bytes = r.bytes};
        struct io_queue *q;
        pthread_t thread;

        if (io_test_is_missing(&io_test_engines[i % 2]))
            continue;
        g.fd = open_missing_pages(&g.memory, g.bytes);
        if (g.fd < 0) {
            fprintf(stderr, "skipped: userfaultfd: %s\n", strerror(-g.fd));
            break;
        }
        r.buf = g.memory;
        r.file = io_test_scratch(IO_FILE_BUFFERED, r.bytes);
        assert_int_equal(io_queue_open(&config, &q), 0);
        io_submit(q, &r);
        io_flush(q);
        assert_int_equal(poll(&(struct pollfd){.fd = g.fd, .events = POLLIN}, 1, IO_TEST_HANG_MS), 1);
        if (r.deadline_ns)
            assert_int_equal(io_wait(q, &done, 1, EVER), 0);
        assert_int_equal(pthread_create(&thread, NULL, give_later, &g), 0);
        io_queue_close(q);
        assert_true(atomic_load(&g.given));
        memset(r.buf, 0xee, r.bytes);
        assert_int_equal(pthread_join(thread, NULL), 0);
        for (uint64_t k = 0; k < r.bytes; k++)
            assert_int_equal(((unsigned char *)r.buf)[k], 0xee);
        io_file_close(r.file);
        munmap(r.buf, r.bytes);
        close(g.fd);
        ran++;
    }
    if (!ran)
        skip();
}

/* What lies in the ring is no more than our own memory: at its deadline it comes back at once. */
static int wait_for_a_deaf_kernel(void *arg)
{
    static const struct io_test_filter enter = {.nr = SYS_io_uring_enter, .code = ENOMEM};
    struct io_queue_config config = {.engine = IO_ENGINE_URING};
    struct io_request r[12], *done[12];
    unsigned back = 0;
    struct io_queue *q;
    int rc;

    (void)arg;
    CHECK(io_queue_open(&config, &q) == 0);
    for (unsigned i = 0; i < 12; i++)
        r[i] = (struct io_request){
            .file = io_test_scratch(0, 4096), .buf = io_test_aligned(4096), .bytes = 4096};
    rc = io_test_forbid(&enter);
    if (rc)
        return rc;
    for (unsigned i = 0; i < 12; i++) {
        r[i].deadline_ns = i % 2 ? 30 * MS : 60 * MS;
        io_submit(q, &r[i]);
    }
    io_flush(q);
    io_cancel(q, &r[0]);
    while (back < 12) {
        back += io_wait(q, done, 12 - back, EVER);
        CHECK(io_late(q, done, 12) == 0);
    }
    CHECK(io_queue_pending(q) == 0);
    for (unsigned i = 0; i < 12; i++) {
        CHECK(r[i].error.code == (i ? -OFL_EDEADLINE : -ECANCELED));
        CHECK(i == 0 || strstr(r[i].error.text, "hand-over to the kernel: Cannot allocate memory"));
        io_file_close(r[i].file);
        free(r[i].buf);
    }
    io_queue_close(q);
    return 0;
}

static void what_the_kernel_never_took_comes_back(void **state)
{
    (void)state;
    if (io_test_is_missing(&io_test_engines[0]))
        skip();
    io_test_child_passes(wait_for_a_deaf_kernel, NULL);
}

/* ---- stopped ------------------------------------------------------------------------- */

#define STOPPED_MS 2500u

/* What waits for a second's deadline, with nothing to hope for but that time. */
struct stopped {
    enum io_engine engine;
    bool armed; /* polls the descriptor, as a context does; else io_wait */
    uint64_t deadline_ns;
};

static void stop_here(int signal)
{
    (void)signal;
    raise(SIGSTOP);
}

/* It stops itself soon after it has begun to wait, inside of that. */
static int wait_while_stopped(void *arg)
{
    const struct stopped *s = arg;
    struct io_queue_config config = {.engine = s->engine};
    struct io_request r = {.bytes = 64 * KIB, .deadline_ns = s->deadline_ns}, *done;
    struct io_queue *q;
    uint64_t begin_ns;
    int fd;

    r.buf = io_test_aligned(r.bytes);
    r.file = io_test_scratch(0, r.bytes);
    config.faults.seed = io_test.seed;
    config.faults.late = 1000;
    CHECK(io_queue_open(&config, &q) == 0);
    fd = s->armed ? io_queue_fd(q) : -1;
    begin_ns = base_now_ns();
    io_submit(q, &r);
    io_flush(q);
    CHECK(signal(SIGALRM, stop_here) != SIG_ERR);
    CHECK(setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 150000}, NULL) == 0);
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
    int status;

    (void)state;
    fflush(NULL);
    for (unsigned i = 0; i < 4; i++) {
        struct stopped s = {.engine = io_test_engines[i % 2].engine, .armed = i / 2};

        s.deadline_ns = s.armed ? 2200 * MS : 1000 * MS; /* a second of a stop counts for who polls */
        pid[i] = io_test_is_missing(&io_test_engines[i % 2]) ? -1 : fork();
        if (pid[i] == 0)
            _exit(wait_while_stopped(&s));
    }
    for (unsigned i = 0; i < 4; i++) {
        if (pid[i] < 0)
            continue;
        assert_int_equal(waitpid(pid[i], &status, WUNTRACED), pid[i]);
        if (!WIFSTOPPED(status))
            fail_msg("%s: child: wait status 0x%x", io_test_engines[i % 2].name, (unsigned)status);
    }
    usleep(STOPPED_MS * 1000);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pid[i] < 0 ? 0 : kill(pid[i], SIGCONT), 0);
    for (unsigned i = 0; i < 4; i++) {
        if (pid[i] < 0)
            continue;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        io_test_judge_child(status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_kernel_lets_go_first),
        cmocka_unit_test(closing_waits_for_the_kernel),
        cmocka_unit_test(what_the_kernel_never_took_comes_back),
        cmocka_unit_test(time_in_which_it_is_stopped_does_not_count),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
