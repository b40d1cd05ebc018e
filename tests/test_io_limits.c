/*
 * Proves what happens where the machine sets limits or a drive goes: little lockable memory, a drive
 * that is removed, a striped file of which one drive is full. Right bytes or a precise sentence, and
 * nothing hangs. The other rows of the fault table: see test_io_faults.c.
 *
 * Mounts live in a child's own namespace, and go with it. Negative controls: a buffer that fits the
 * limit is registered; the drive is read before it is removed; the full one held its share before.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define MS  1000000ull

static unsigned char pattern(uint64_t i)
{
    return (unsigned char)(i * 2654435761u >> 11);
}

static int write_pattern(struct io_queue *q, struct io_file *f, uint64_t bytes)
{
    unsigned char *buf = io_test_aligned(bytes);
    struct io_request r = {.op = IO_WRITE, .file = f, .buf = buf, .bytes = bytes};
    int rc;

    for (uint64_t i = 0; i < bytes; i++)
        buf[i] = pattern(i);
    rc = io_test_transfer(q, &r);
    if (rc < 0)
        base_error_restore(&r.error); /* for CHECK to print */
    free(buf);
    return rc;
}

/* ---- limits ----------------------------------------------------------------- */

/* From here on a user of this process alone, whose locked memory nobody else's programs count against;
 * where there is no such user, nobody. */
static int become_ordinary(uint64_t memlock_bytes)
{
    const struct rlimit limit = {memlock_bytes, memlock_bytes};
    uid_t own = 200000 + (uid_t)getpid();

    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    CHECK(geteuid() != 0 || setresuid(own, own, own) == 0 || setresuid(65534, 65534, 65534) == 0);
    return 0;
}

static int with_little_locked_memory(void *arg)
{
    unsigned char *buf = io_test_aligned(4 * MIB), *got = io_test_aligned(4 * MIB);
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    struct io_request r = {.op = IO_WRITE, .buf = buf, .bytes = 4 * MIB};
    struct io_queue *q;
    int rc;

    (void)arg;
    CHECK(become_ordinary(64 * KIB) == 0);
    if (io_file_open_scratch(io_test.dir, 0, &r.file) < 0) {
        fprintf(stderr, "skipped: an ordinary user gets no file here: %s\n", base_error_text());
        return IO_TEST_SKIPPED;
    }
    CHECK(io_queue_open(&config, &q) == 0);
    /* The kernel is slow to forget the rings that this user had before. */
    for (unsigned i = 0; i < 100 && io_test.uring && io_queue_engine(q) != IO_ENGINE_URING; i++) {
        CHECK(strstr(io_queue_note(q), "threads instead of io_uring: ") &&
              strstr(io_queue_note(q), "RLIMIT_MEMLOCK (ulimit -l), 65536 bytes"));
        io_queue_close(q);
        usleep(50000);
        CHECK(io_queue_open(&config, &q) == 0);
    }
    CHECK(io_queue_engine(q) == (io_test.uring ? IO_ENGINE_URING : IO_ENGINE_THREADS));
    rc = io_queue_register(q, buf, 4 * MIB);
    if (rc < 0) {
        CHECK(rc == -ENOMEM);
        CHECK(strstr(base_error_text(), "register buffers of 4194304 bytes: RLIMIT_MEMLOCK (ulimit -l) is "
                                        "65536 bytes: Cannot allocate memory"));
    } else if (io_test.uring) {
        fprintf(stderr, "this kernel does not count registered buffers against RLIMIT_MEMLOCK\n");
    }
    CHECK(io_queue_register(q, got, 4096) == 0); /* which fits */
    for (uint64_t i = 0; i < 4 * MIB; i++)
        buf[i] = pattern(i);
    CHECK(io_test_transfer(q, &r) == 0);
    r.op = IO_READ;
    r.buf = got;
    CHECK(io_test_transfer(q, &r) == 0 && memcmp(buf, got, 4 * MIB) == 0);
    io_queue_close(q);
    io_file_close(r.file);
    free(buf);
    free(got);
    return 0;
}

static void little_locked_memory(void **state)
{
    int status;

    (void)state;
    assert_int_equal(chmod(io_test.dir, 0777), 0);
    status = io_test_in_child(with_little_locked_memory, NULL);
    assert_int_equal(chmod(io_test.dir, 0700), 0);
    io_test_judge_child(status);
}

/* KiB that the kernel counts as pinned by this process; -1: it does not say. */
static long pinned_kib(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;

    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "VmPin: %ld kB", &kib);
    if (f)
        fclose(f);
    return kib;
}

/* A queue after the other, and two at once: what the first one holds the second one can't have. */
static int with_a_queue_after_the_other(void *arg)
{
    struct io_queue_config config = {.engine = IO_ENGINE_URING, .depth = 8};
    unsigned char *buf = io_test_aligned(4 * MIB), *other = io_test_aligned(4 * MIB);
    struct io_queue *q, *second;

    (void)arg;
    CHECK(become_ordinary(6 * MIB) == 0);
    for (unsigned i = 0; i < 20; i++) {
        CHECK(io_queue_open(&config, &q) == 0);
        CHECK(io_queue_register(q, buf, 4 * MIB) == 0);
        if (i % 10 == 9) {
            CHECK(io_queue_open(&config, &second) == 0);
            CHECK(io_queue_register(second, other, 4 * MIB) == -ENOMEM);
            CHECK(strstr(base_error_text(),
                         "register buffers of 4194304 bytes: RLIMIT_MEMLOCK (ulimit -l) is "
                         "6291456 bytes for all rings of this user: Cannot allocate"));
            io_queue_close(q);
            CHECK(io_queue_register(second, other, 4 * MIB) == 0);
            q = second;
        }
        CHECK(pinned_kib() < 0 || pinned_kib() >= 4096);
        io_queue_close(q);
        CHECK(pinned_kib() <= 0); /* at once, not with the ring */
    }
    free(buf);
    free(other);
    return 0;
}

static char warned[1024];
static unsigned warnings;

static void keep_warning(void *arg, enum ofl_log_level level, const char *text)
{
    (void)arg;
    if (level != OFL_LOG_WARNING || !strstr(text, "RLIMIT_MEMLOCK"))
        return;
    warnings++;
    snprintf(warned, sizeof warned, "%s", text);
}

/* The same as users see it: one warning of the limit, though it forbids two things, with the command that lifts it. */
static int with_a_context_after_the_other(void *arg)
{
    struct ofl_config config = {.size = sizeof config, .device_bytes = MIB, .host_bytes = 4 * MIB};
    struct ofl_stats stats = {.size = sizeof stats};
    struct ofl_ctx *ctx, *second;

    (void)arg;
    config.log = keep_warning;
    CHECK(become_ordinary(6 * MIB) == 0);
    for (unsigned i = 0; i < 5; i++) {
        CHECK(ofl_open(&config, &ctx) == 0);
        CHECK(ofl_stats_get(ctx, &stats) == 0 && stats.registered == 1 && !warned[0]);
        ofl_close(ctx);
    }
    CHECK(ofl_open(&config, &ctx) == 0);
    CHECK(ofl_open(&config, &second) == 0);
    CHECK(ofl_stats_get(second, &stats) == 0 && stats.registered == 0 && stats.io_uring == 1);
    CHECK(warnings == 1 &&
          strstr(warned, "`sudo prlimit --pid $$ --memlock=unlimited:unlimited` in this shell"));
    CHECK(ofl_stats_get(ctx, &stats) == 0 && stats.registered == 1);
    ofl_close(ctx);
    ofl_close(second);
    return 0;
}

/* Another process held it all, and was killed: what it held comes back when its ring goes. */
static int with_a_killed_process_before(void *arg)
{
    struct io_queue_config config = {.engine = IO_ENGINE_URING, .depth = 8};
    unsigned char *buf = io_test_aligned(4 * MIB), byte = 0;
    struct io_queue *q;

    (void)arg;
    CHECK(become_ordinary(6 * MIB) == 0);
    for (unsigned i = 0; i < 5; i++) {
        int pipes[2], status;
        pid_t pid;

        CHECK(pipe(pipes) == 0);
        CHECK((pid = fork()) >= 0);
        if (pid == 0) {
            byte = io_queue_open(&config, &q) == 0 && io_queue_register(q, buf, 4 * MIB) == 0;
            CHECK(write(pipes[1], &byte, 1) == 1);
            for (;;)
                pause();
        }
        CHECK(read(pipes[0], &byte, 1) == 1 && byte == 1);
        CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
        close(pipes[0]);
        close(pipes[1]);
        CHECK(io_queue_open(&config, &q) == 0);
        CHECK(io_queue_register(q, buf, 4 * MIB) == 0);
        io_queue_close(q);
    }
    free(buf);
    return 0;
}

static void locked_memory_comes_back(void **state)
{
    (void)state;
    if (!io_test.uring)
        skip();
    io_test_child_passes(with_a_queue_after_the_other, NULL);
    io_test_child_passes(with_a_context_after_the_other, NULL);
    io_test_child_passes(with_a_killed_process_before, NULL);
}

/* ---- drives that go, and drives that fill up ------------------------------------------ */

/* The drive is a file that loses its bytes: the loop device has nothing to read any more. */
static int read_from_a_removed_drive(const char *image, const char *where, enum io_engine engine)
{
    struct io_queue_config config = {.engine = engine, .depth = 4};
    struct io_request r[8], *done[8];
    unsigned char *buf = io_test_aligned(8 * MIB);
    unsigned back = 0, whole = 0;
    struct io_queue *q;
    struct io_file *f;

    CHECK(io_queue_open(&config, &q) == 0);
    CHECK(io_file_open_scratch(where, IO_FILE_REQUIRE_DIRECT, &f) == 0);
    CHECK(io_file_reserve(f, 8 * MIB) == 0);
    CHECK(write_pattern(q, f, 8 * MIB) == 0);
    CHECK(io_file_sync(f) == 0);
    for (unsigned i = 0; i < 8; i++)
        r[i] = (struct io_request){.file = f, .buf = buf + i * MIB, .offset = i * MIB, .bytes = MIB};
    CHECK(io_test_transfer(q, &r[0]) == 0); /* it was there */
    CHECK(buf[MIB - 1] == pattern(MIB - 1));
    for (unsigned i = 0; i < 8; i++)
        io_submit(q, &r[i]);
    io_flush(q); /* some are under way */
    CHECK(truncate(image, 0) == 0);
    while (back < 8)
        back += io_wait(q, done, 8, UINT64_MAX);
    for (unsigned i = 0; i < 8; i++)
        whole += r[i].error.code == 0;
    for (unsigned i = 0; i < 8; i++) {
        CHECK(whole == 8 || io_test_transfer(q, &r[i]) == -EIO);
        CHECK(io_test_transfer(q, &r[i]) == -EIO);
        CHECK(strstr(r[i].error.text, where) && strstr(r[i].error.text, ", 1048576 bytes: got "));
        CHECK(strstr(r[i].error.text, ": Input/output error"));
    }
    io_queue_close(q);
    io_file_close(f);
    free(buf);
    return 0;
}

static int with_a_removed_drive(void *image)
{
    char where[600];
    int rc = 0, fd;

    snprintf(where, sizeof where, "%s/mounted", io_test.dir);
    for (int engine = IO_ENGINE_URING; engine <= IO_ENGINE_THREADS && rc == 0; engine++) {
        if (engine == IO_ENGINE_URING && !io_test.uring)
            continue;
        /* another file: the device of the last one goes in its own time, and may write to it until then */
        CHECK(unlink(image) == 0);
        CHECK((fd = open(image, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)) >= 0);
        CHECK(ftruncate(fd, 32 * MIB) == 0);
        close(fd);
        if (!io_test_mount_ext4(image, where))
            return IO_TEST_SKIPPED;
        rc = read_from_a_removed_drive(image, where, (enum io_engine)engine);
        umount2(where, MNT_DETACH);
    }
    return rc;
}

/* Runs fn in a child with a place to mount to, and a file to mount. */
static void with_an_image(int (*fn)(void *))
{
    char where[600], image[600];
    int status;

    snprintf(image, sizeof image, "%s", io_test_make_source("image", 0));
    snprintf(where, sizeof where, "%s/mounted", io_test.dir);
    assert_int_equal(truncate(image, 16 * MIB), 0);
    assert_int_equal(mkdir(where, 0700), 0);
    status = io_test_in_child(fn, image);
    unlink(image);
    rmdir(where);
    io_test_judge_child(status);
}

static void drive_removed(void **state)
{
    (void)state;
    with_an_image(with_a_removed_drive);
}

/* where: a file system of some 16 MiB, beside one with plenty of room. */
static int stripe_over_a_full_drive(const char *where)
{
    const struct io_stripe stripes[] = {{.dir = where, .weight = 1}, {.dir = io_test.dir, .weight = 1}};
    const uint64_t total = 48 * MIB;
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    struct io_request r = {.bytes = total, .buf = io_test_aligned(total)};
    unsigned char *got = r.buf;
    struct io_part_info part[2];
    struct io_queue *q;

    CHECK(io_queue_open(&config, &q) == 0);
    CHECK(io_file_open_striped(stripes, 2, 0, &r.file) == 0);
    CHECK(io_file_reserve(r.file, 8 * MIB) == 0);
    io_file_part(r.file, 0, &part[0]);
    CHECK(part[0].bytes == 4 * MIB && !part[0].full);
    CHECK(io_file_reserve(r.file, total) == 0);
    io_file_part(r.file, 0, &part[0]);
    io_file_part(r.file, 1, &part[1]);
    CHECK(part[0].full && part[0].bytes >= 8 * MIB && part[0].bytes <= 16 * MIB);
    CHECK(strstr(part[0].note, "full at ") && strstr(part[0].note, ": No space left on device"));
    CHECK(!part[1].full && part[0].bytes + part[1].bytes == total);
    CHECK(write_pattern(q, r.file, total) == 0);
    CHECK(io_test_transfer(q, &r) == 0);
    for (uint64_t i = 0; i < total; i++)
        CHECK(got[i] == pattern(i));
    io_file_part(r.file, 0, &part[0]);
    CHECK(part[0].read_bytes == part[0].bytes && part[0].write_bytes == part[0].bytes);
    io_queue_close(q);
    io_file_close(r.file);
    free(r.buf);
    return 0;
}

static int with_a_full_drive(void *image)
{
    char where[600];
    int rc;

    snprintf(where, sizeof where, "%s/mounted", io_test.dir);
    if (!io_test_may_mount())
        return IO_TEST_SKIPPED;
    CHECK(mount("tmpfs", where, "tmpfs", 0, "size=16m") == 0);
    rc = stripe_over_a_full_drive(where);
    umount2(where, MNT_DETACH);
    if (rc)
        return rc;
    return io_test_mount_ext4(image, where) ? stripe_over_a_full_drive(where) : IO_TEST_SKIPPED;
}

static void one_striped_drive_is_full(void **state)
{
    (void)state;
    with_an_image(with_a_full_drive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_locked_memory),
        cmocka_unit_test(locked_memory_comes_back),
        cmocka_unit_test(drive_removed),
        cmocka_unit_test(one_striped_drive_is_full),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
