/*
 * Files with names: made new with mode 0600 and no trace of a trial, or found as they were: nothing is written to them
 * to find out what their file system does. What is no regular file is refused, and never opened for writing. Both move
 * bytes as scratch files beside them do, are reserved, and keep what was written.
 *
 * Negative control: a scratch file, which is tried in itself, says the same of direct I/O.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "io/io.h"
#include "tests/core_fixture.h"

#define BYTES (1u << 20)

static char path[128];

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(base_error_text(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, base_error_text(), code, part);
}

static struct io_file *open_named(bool create, unsigned flags)
{
    struct io_file *f;

    if (io_file_open_named(path, create, flags, &f) < 0)
        fail_msg("%s", base_error_text());
    return f;
}

/* As the scratch files of its directory. */
static void compare(const struct io_file *f)
{
    struct io_part_info a, b;
    struct io_file *scratch;

    *strrchr(path, '/') = '\0';
    assert_int_equal(io_file_open_scratch(path, 0, &scratch), 0);
    path[strlen(path)] = '/';
    io_file_part(f, 0, &a);
    io_file_part(scratch, 0, &b);
    assert_true(a.direct == b.direct && a.in_memory == b.in_memory && a.cached == b.cached);
    assert_int_equal(io_file_block(f), io_file_block(scratch));
    assert_int_equal(io_file_read_block(f), io_file_read_block(scratch));
    assert_int_equal(io_file_reserved(f), io_file_reserved(scratch));
    assert_string_equal(a.note, b.note);
    assert_string_equal(a.drive_note, b.drive_note);
    io_file_close(scratch);
}

static void move(struct io_file *f, enum io_op op, void *buf)
{
    struct io_request r = {.op = op, .file = f, .buf = buf, .bytes = BYTES}, *done;
    const struct io_queue_config c = {.engine = IO_ENGINE_THREADS};
    struct io_queue *q;

    assert_int_equal(io_queue_open(&c, &q), 0);
    io_submit(q, &r);
    while (io_wait(q, &done, 1, 1000000000) == 0)
        ;
    if (r.error.code)
        fail_msg("%s", r.error.text);
    io_queue_close(q);
}

static void what_is_written_stays(void **state)
{
    mode_t mask = umask(0);
    struct io_file *f = open_named(true, 0);
    uint8_t *out = aligned_alloc(4096, BYTES), *in = aligned_alloc(4096, BYTES);
    struct stat st, later;

    (void)state;
    umask(mask);
    assert_true(out && in);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(st.st_blocks, 0);
    assert_string_equal(io_file_path(f), path);
    compare(f);
    assert_int_equal(io_file_reserve(f, BYTES), 0);
    for (unsigned i = 0; i < BYTES; i++)
        out[i] = (uint8_t)(i * 2654435761u >> 13);
    move(f, IO_WRITE, out);
    assert_int_equal(io_file_sync(f), 0);
    io_file_close(f);
    assert_int_equal(stat(path, &st), 0);
    f = open_named(false, 0);
    assert_int_equal(io_file_bytes(f), BYTES);
    compare(f);
    assert_int_equal(stat(path, &later), 0);
    assert_memory_equal(&st.st_mtim, &later.st_mtim, sizeof st.st_mtim);
    move(f, IO_READ, in);
    assert_memory_equal(in, out, BYTES);
    assert_int_equal(io_file_reserve(f, 2 * BYTES), 0);
    assert_int_equal(io_file_bytes(f), 2 * BYTES);
    io_file_close(f);
    assert_int_equal(unlink(path), 0);
    free(in);
    free(out);
}

static void only_files_are_opened(void **state)
{
    char target[160];
    struct io_file *f;

    (void)state;
    expect_error(io_file_open_named(path, false, 0, &f), -ENOENT, path);
    assert_null(f);
    snprintf(target, sizeof target, "%s-target", path);
    io_file_close(open_named(true, IO_FILE_BUFFERED));
    expect_error(io_file_open_named(path, true, 0, &f), -EEXIST, path);
    assert_int_equal(access(path, F_OK), 0); /* the failure did not remove it */
    assert_int_equal(rename(path, target), 0);
    assert_int_equal(symlink(strrchr(target, '/') + 1, path), 0);
    expect_error(io_file_open_named(path, false, 0, &f), -ELOOP, "not a regular file");
    expect_error(io_file_open_named(path, true, 0, &f), -EEXIST, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(target), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_error(io_file_open_named(path, false, 0, &f), -EINVAL, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_error(io_file_open_named(path, false, 0, &f), -EISDIR, "not a regular file");
    assert_int_equal(rmdir(path), 0);
    expect_error(io_file_open_named(path, true, 1u << 9, &f), -EINVAL, "unknown flags");
}

/* A copy with holes is given what it lacks; its bytes stay. */
static void holes_are_backed(void **state)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct io_file *f;
    struct stat st;
    char byte;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    assert_int_equal(pwrite(fd, "x", 1, BYTES - 1), 1);
    f = open_named(false, IO_FILE_BUFFERED);
    assert_string_equal(io_file_note(f), "buffered: asked for");
    assert_false(io_file_direct(f));
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, BYTES);
    if (io_file_reserved(f))
        assert_true((uint64_t)st.st_blocks * 512 >= BYTES);
    assert_int_equal(pread(fd, &byte, 1, BYTES - 1), 1);
    assert_int_equal(byte, 'x');
    io_file_close(f);
    close(fd);
    assert_int_equal(unlink(path), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "%s/named.ofl", scratch_make());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_stays),
        cmocka_unit_test(only_files_are_opened),
        cmocka_unit_test(holes_are_backed),
    };

    return cmocka_run_group_tests_name("io_named", tests, setup, teardown);
}
