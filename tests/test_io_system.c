/*
 * Proves how files and engines meet the system: direct I/O is what it says, scratch files have no
 * name, bad paths are named; no space, a size limit, a file system without direct I/O, O_TMPFILE or
 * fallocate, and a system without io_uring give sentences and stated fallbacks, and never kill the
 * process.
 *
 * Negative controls: the size limit is shown to kill an unguarded write; each refused system call
 * is shown to work when its filter is not there (the tests at the top).
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"

/* ---- files ------------------------------------------------------------- */

static void direct_is_direct_and_scratch_is_nameless(void **state)
{
    struct io_file *f;
    struct stat st;

    (void)state;
    assert_int_equal(io_file_open_scratch(io_test.dir, 0, &f), 0);
    assert_int_equal(io_test_entries_in(io_test.dir), 0);
    assert_int_equal(fstat(f->member[0].fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(fcntl(f->member[0].fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(io_file_direct(f), io_test.direct);
    assert_int_equal((fcntl(f->member[0].fd, F_GETFL) & O_DIRECT) != 0, io_test.direct);
    assert_int_equal(*io_file_note(f) == '\0', io_test.direct);
    if (io_test.direct)
        assert_true(io_file_block(f) >= 512 && io_file_block(f) % 512 == 0);
    io_file_close(f);
    assert_int_equal(io_file_open_scratch(io_test.dir, IO_FILE_BUFFERED, &f), 0);
    assert_int_equal(fcntl(f->member[0].fd, F_GETFL) & O_DIRECT, 0);
    assert_int_equal(io_file_block(f), 1);
    assert_string_equal(io_file_note(f), "buffered: asked for");
    io_file_close(f);
    if (!io_test.direct) {
        fprintf(stderr, "skipped: no direct I/O in %s\n", io_test.dir);
        skip();
    }
}

static void reserve_grows_and_never_shrinks(void **state)
{
    struct io_file *f, *source;
    struct stat st;

    (void)state;
    assert_int_equal(io_file_open_scratch(io_test.dir, 0, &f), 0);
    assert_int_equal(io_file_bytes(f), 0);
    assert_int_equal(io_file_reserve(f, 1 << 20), 0);
    assert_int_equal(io_file_reserve(f, 4096), 0);
    assert_int_equal(io_file_bytes(f), 1 << 20);
    assert_int_equal(fstat(f->member[0].fd, &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
    assert_true((uint64_t)st.st_blocks * 512 >= 1 << 20); /* backed, not a hole */
    assert_int_equal(io_file_reserve(f, UINT64_MAX), -EFBIG);
    /* more than any drive holds: refused, and nothing of it kept */
    assert_true(io_file_reserve(f, 1ull << 60) < 0);
    assert_int_equal(fstat(f->member[0].fd, &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
    io_file_close(f);
    assert_int_equal(io_file_open_read(io_test_make_source("s", 10), 0, &source), 0);
    assert_int_equal(io_file_bytes(source), 10);
    assert_int_equal(io_file_reserve(source, 100), -EBADF);
    io_file_close(source);
    unlink(io_test_make_source("s", 10));
}

static int open_as_nobody(void *path)
{
    struct io_file *f;

    CHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
    CHECK(io_file_open_scratch(path, 0, &f) == -EACCES && !f);
    CHECK(strstr(base_error_text(), path) && strstr(base_error_text(), "Permission denied"));
    return 0;
}

static void bad_paths_are_named(void **state)
{
    char path[600], file[600];
    struct io_file *f = (struct io_file *)path;

    (void)state;
    snprintf(path, sizeof path, "%s/absent", io_test.dir);
    snprintf(file, sizeof file, "%s", io_test_make_source("plain", 10));
    assert_int_equal(io_file_open_scratch(path, 0, &f), -ENOENT);
    assert_null(f);
    assert_non_null(strstr(base_error_text(), path));
    assert_non_null(strstr(base_error_text(), "No such file or directory"));
    assert_int_equal(io_file_open_scratch(file, 0, &f), -ENOTDIR);
    assert_non_null(strstr(base_error_text(), "Not a directory"));
    assert_int_equal(io_file_open_read(path, 0, &f), -ENOENT);
    assert_int_equal(io_file_open_read(io_test.dir, 0, &f), -EISDIR);
    assert_int_equal(io_file_open_read("/dev/null", 0, &f), -EINVAL);
    assert_int_equal(io_file_open_read(file, 1u << 9, &f), -EINVAL);
    assert_int_equal(io_file_open_read(file, IO_FILE_BUFFERED | IO_FILE_REQUIRE_DIRECT, &f), -EINVAL);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    assert_int_equal(io_file_open_read(path, 0, &f), -EINVAL);
    assert_null(f);
    unlink(path);
    unlink(file);
    assert_int_equal(mkdir(path, 0500), 0);
    io_test_child_passes(open_as_nobody, path);
    rmdir(path);
    io_file_close(NULL);
}

/* ---- limits of the system ---------------------------------------------- */

static int limit_file_size(void)
{
    const struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};

    return setrlimit(RLIMIT_FSIZE, &limit);
}

static int unguarded_write(void *arg)
{
    struct io_file *f = arg;
    static _Alignas(4096) char buf[4096];

    CHECK(limit_file_size() == 0);
    (void)!pwrite(f->member[0].fd, buf, sizeof buf, 1 << 20);
    return 0;
}

static int past_the_size_limit(void *arg)
{
    struct io_file *f = arg;
    unsigned char *buf = io_test_aligned(8192);

    memset(buf, 5, 8192);
    CHECK(limit_file_size() == 0);
    CHECK(io_file_reserve(f, 2 << 20) == -EFBIG);
    CHECK(strstr(base_error_text(), "file-size limit") && strstr(base_error_text(), "1048576 bytes"));
    CHECK(io_file_bytes(f) == 0);
    for (int engine = IO_ENGINE_URING; engine <= IO_ENGINE_THREADS; engine++) {
        struct io_queue_config config = {.engine = (enum io_engine)engine};
        struct io_request r = {
            .op = IO_WRITE, .file = f, .buf = buf, .offset = (1 << 20) - 4096, .bytes = 8192};
        struct io_queue *q;

        if (engine == IO_ENGINE_URING && !io_test.uring)
            continue;
        CHECK(io_queue_open(&config, &q) == 0);
        CHECK(io_test_transfer(q, &r) == -EFBIG);
        CHECK(strstr(r.error.text, "8192 bytes: wrote 4096: File too large"));
        r.bytes = 4096; /* up to the limit it works */
        CHECK(io_test_transfer(q, &r) == 0);
        io_queue_close(q);
    }
    free(buf);
    return 0;
}

static void file_size_limit_is_an_error_not_a_signal(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags <= IO_FILE_BUFFERED; flags++) {
        struct io_file *f;
        int status;

        assert_int_equal(io_file_open_scratch(io_test.dir, flags, &f), 0);
        status = io_test_in_child(unguarded_write, f); /* the limit does bite */
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
        io_test_child_passes(past_the_size_limit, f);
        io_file_close(f);
    }
}

/* where: a file system of about 16 MiB, empty. */
static int reserve_and_write_too_much(const char *where)
{
    const uint64_t wanted = 24u << 20;
    unsigned char *buf = io_test_aligned(wanted);
    struct io_file *f;
    struct stat st;

    memset(buf, 6, wanted);
    CHECK(io_file_open_scratch(where, 0, &f) == 0);
    CHECK(io_file_reserve(f, wanted) == -ENOSPC);
    CHECK(strstr(base_error_text(), where) && strstr(base_error_text(), "25165824 bytes wanted, 0 held, 1"));
    CHECK(strstr(base_error_text(), " free: No space left on device"));
    /* ext4 leaves what it got: all of the drive */
    CHECK(fstat(f->member[0].fd, &st) == 0 && st.st_size == 0 && st.st_blocks == 0);
    CHECK(io_file_reserve(f, 1 << 20) == 0);
    CHECK(io_file_reserve(f, wanted) == -ENOSPC && strstr(base_error_text(), "1048576 held"));
    CHECK(fstat(f->member[0].fd, &st) == 0 && st.st_size == 1 << 20);
    for (int engine = IO_ENGINE_URING; engine <= IO_ENGINE_THREADS; engine++) {
        struct io_queue_config config = {.engine = (enum io_engine)engine};
        struct io_request r = {.op = IO_WRITE, .file = f, .buf = buf, .bytes = wanted};
        struct io_queue *q;

        if (engine == IO_ENGINE_URING && !io_test.uring)
            continue;
        CHECK(io_queue_open(&config, &q) == 0);
        CHECK(io_test_transfer(q, &r) == -ENOSPC);
        CHECK(r.done_bytes < wanted); /* 0 where a direct write fails as a whole */
        CHECK(strstr(r.error.text, "offset 0, 25165824 bytes: wrote "));
        CHECK(strstr(r.error.text, ": No space left on device"));
        io_queue_close(q);
    }
    io_file_close(f);
    free(buf);
    return 0;
}

static int on_a_full_tmpfs(void *arg)
{
    struct io_file *f;

    (void)arg;
    if (!io_test_may_mount())
        return IO_TEST_SKIPPED;
    CHECK(mount("tmpfs", io_test.dir, "tmpfs", 0, "size=16m") == 0);
    CHECK(io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &f) == -OFL_EDIRECT && !f);
    CHECK(strstr(base_error_text(), "direct I/O is required"));
    CHECK(io_file_open_scratch(io_test.dir, 0, &f) == 0);
    CHECK(!io_file_direct(f) && io_file_block(f) == 1 && strstr(io_file_note(f), "memory"));
    CHECK((fcntl(f->member[0].fd, F_GETFL) & O_DIRECT) == 0);
    io_file_close(f);
    return reserve_and_write_too_much(io_test.dir);
}

static int on_a_full_ext4(void *image)
{
    char where[600];

    snprintf(where, sizeof where, "%s/mounted", io_test.dir);
    return io_test_mount_ext4(image, where) ? reserve_and_write_too_much(where) : IO_TEST_SKIPPED;
}

static void full_tmpfs(void **state)
{
    (void)state;
    io_test_child_passes(on_a_full_tmpfs, NULL);
}

/* Direct I/O, and a file system that does not undo a failed reservation by itself. */
static void full_ext4(void **state)
{
    char where[600], image[600];
    int status;

    (void)state;
    snprintf(image, sizeof image, "%s", io_test_make_source("image", 0));
    snprintf(where, sizeof where, "%s/mounted", io_test.dir);
    assert_int_equal(truncate(image, 16 << 20), 0);
    assert_int_equal(mkdir(where, 0700), 0);
    status = io_test_in_child(on_a_full_ext4, image);
    unlink(image);
    rmdir(where);
    io_test_judge_child(status);
}

/* ---- a system that refuses --------------------------------------------- */

static int without_uring(void *arg)
{
    struct io_queue_config config = {.engine = IO_ENGINE_URING};
    const struct io_test_filter *f = arg;
    struct io_request r = {.op = IO_WRITE, .buf = io_test_aligned(4096), .bytes = 4096};
    struct io_queue *q;
    int rc = io_test_forbid(f);

    if (rc)
        return rc;
    CHECK(io_queue_open(&config, &q) == -OFL_EURING && !q);
    CHECK(strstr(base_error_text(), base_strerror(f->code)));
    config.engine = IO_ENGINE_AUTO;
    CHECK(io_queue_open(&config, &q) == 0);
    CHECK(io_queue_engine(q) == IO_ENGINE_THREADS);
    CHECK(strstr(io_queue_note(q), "threads instead of io_uring") &&
          strstr(io_queue_note(q), base_strerror(f->code)));
    memset(r.buf, 7, 4096);
    CHECK(io_file_open_scratch(io_test.dir, 0, &r.file) == 0);
    CHECK(io_test_transfer(q, &r) == 0);
    io_queue_close(q);
    io_file_close(r.file);
    free(r.buf);
    return 0;
}

static void io_uring_forbidden(void **state)
{
    struct io_test_filter cases[] = {
        {SYS_io_uring_setup, 0, 0, EPERM},
        {SYS_io_uring_setup, 0, 0, ENOSYS},
        {SYS_io_uring_setup, 0, 0, ENOMEM},
        {SYS_io_uring_enter, 0, 0, EPERM}, /* a ring that can be made, and then not used */
        {SYS_io_uring_register, 0, 0, EACCES},
    };
    struct io_queue_config config = {.engine = IO_ENGINE_AUTO};
    struct io_queue *q;

    (void)state;
    for (size_t i = io_test.uring ? 0 : 5; i < sizeof cases / sizeof cases[0]; i++)
        io_test_child_passes(without_uring, &cases[i]);
    assert_int_equal(io_queue_open(&config, &q), 0);
    assert_int_equal(io_queue_engine(q), io_test.uring ? IO_ENGINE_URING : IO_ENGINE_THREADS);
    assert_int_equal(*io_queue_note(q) == '\0', io_test.uring);
    io_queue_close(q);
    if (!io_test.uring) {
        fprintf(stderr, "skipped: io_uring is forbidden here already\n");
        skip();
    }
}

static int without_direct(void *path)
{
    const struct io_test_filter f = {SYS_openat, 2, O_DIRECT, EINVAL};
    struct io_file *file;
    int rc = io_test_forbid(&f);

    if (rc)
        return rc;
    CHECK(io_file_open_read(path, IO_FILE_REQUIRE_DIRECT, &file) == -OFL_EDIRECT && !file);
    CHECK(io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &file) == -OFL_EDIRECT && !file);
    CHECK(io_file_open_read(path, 0, &file) == 0);
    CHECK(!io_file_direct(file) && strstr(io_file_note(file), "refuses O_DIRECT"));
    io_file_close(file);
    CHECK(io_file_open_scratch(io_test.dir, 0, &file) == 0);
    CHECK(!io_file_direct(file) && strstr(io_file_note(file), "refuses O_DIRECT"));
    io_file_close(file);
    return 0;
}

static int without_tmpfile(void *path)
{
    const struct io_test_filter f = {SYS_openat, 2, O_TMPFILE, EOPNOTSUPP};
    unsigned before = io_test_entries_in(io_test.dir);
    struct io_file *file;
    struct stat st;
    int rc = io_test_forbid(&f);

    (void)path;
    if (rc)
        return rc;
    CHECK(open(io_test.dir, O_TMPFILE | O_RDWR, 0600) < 0 && errno == EOPNOTSUPP);
    CHECK(io_file_open_scratch(io_test.dir, 0, &file) == 0);
    CHECK(io_test_entries_in(io_test.dir) == before);
    CHECK(fstat(file->member[0].fd, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 07777) == 0600);
    CHECK(io_file_direct(file) == io_test.direct);
    CHECK(((fcntl(file->member[0].fd, F_GETFL) & O_DIRECT) != 0) == io_test.direct);
    io_file_close(file);
    return 0;
}

static int without_fallocate(void *path)
{
    const struct io_test_filter f = {SYS_fallocate, 0, 0, EOPNOTSUPP};
    struct io_file *file;
    struct stat st;
    int rc = io_test_forbid(&f);

    (void)path;
    if (rc)
        return rc;
    CHECK(io_file_open_scratch(io_test.dir, 0, &file) == 0);
    CHECK(io_file_reserve(file, 1 << 20) == 0);
    CHECK(fstat(file->member[0].fd, &st) == 0 && st.st_size == 1 << 20);
    CHECK(io_file_reserve(file, 1ull << 60) == -ENOSPC); /* not even promised */
    CHECK(io_file_bytes(file) == 1 << 20);
    io_file_close(file);
    return 0;
}

static void file_system_without_features(void **state)
{
    char path[600];

    (void)state;
    snprintf(path, sizeof path, "%s", io_test_make_source("plain", 10));
    io_test_child_passes(without_direct, path);
    io_test_child_passes(without_tmpfile, path);
    io_test_child_passes(without_fallocate, path);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(direct_is_direct_and_scratch_is_nameless),
        cmocka_unit_test(reserve_grows_and_never_shrinks),
        cmocka_unit_test(bad_paths_are_named),
        cmocka_unit_test(file_size_limit_is_an_error_not_a_signal),
        cmocka_unit_test(full_tmpfs),
        cmocka_unit_test(full_ext4),
        cmocka_unit_test(io_uring_forbidden),
        cmocka_unit_test(file_system_without_features),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
