/*
 * Kept stores: their life. What is committed comes back after close and open, also from a copy of the directory; a room
 * that the last commit has is given to nobody before a commit without it is durable. One opener at a time, in this
 * process and among others. Budgets, full disks, foreign directories and files are refused, and nothing is left of it.
 *
 * Writes that fail: test_kept_failures.c; crashes: test_kept_crash.c; damage: test_kept_flips.c; manifests of
 * strangers: test_kept_manifest.c; offline: test_kept_verify.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/store/store.h"
#include "tests/kept_fixture.h"

typedef unsigned long long ull;

static char dir[96], other[112];
static struct kept_program program;

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(base_error_text(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, base_error_text(), code, part);
}

static void commit(void)
{
    if (kept_program_commit(&program) < 0)
        fail_msg("%s", base_error_text());
}

/* A store with so many commits. */
static void begin(unsigned commits, bool in_place)
{
    kept_program_open(&program, dir, 11, in_place);
    for (unsigned i = 0; i < commits; i++) {
        kept_program_step(&program);
        commit();
    }
}

static void end(void)
{
    kept_program_close(&program);
    kept_remove(dir);
}

static const char *path_in(const char *where, const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", where, name);
    return path;
}

static void put(const char *where, const char *name, const void *bytes, size_t count, uint64_t at)
{
    int fd = open(path_in(where, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, (off_t)at), count);
    close(fd);
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

static unsigned entries(const char *where)
{
    DIR *d = opendir(where);
    unsigned n = 0;

    assert_non_null(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* ---- life ---------------------------------------------------------------------------- */

static void what_is_committed_comes_back(void **state)
{
    const struct kept_state *was;
    mode_t mask = umask(0);

    (void)state;
    kept_program_open(&program, dir, 11, false);
    umask(mask);
    assert_int_equal(mode_of(dir), 0700);
    for (int i = 0; i < 4; i++)
        assert_int_equal(mode_of(path_in(dir, kept_file_name((enum kept_which)i))), 0600);
    assert_int_equal(entries(dir), 4);
    assert_string_equal(kept_dir(program.k), dir);
    was = kept_state(program.k);
    assert_true(was->generation == 0 && was->count == 0 && kept_generation(program.k) == 0);
    assert_null(kept_find(program.k, "tensor.0"));
    kept_program_reopen(&program, false); /* still none */
    for (int i = 0; i < 10; i++) {
        kept_program_step(&program);
        commit();
        assert_int_equal(kept_generation(program.k), i + 1);
        kept_program_reopen(&program, false);
        was = kept_state(program.k);
        assert_memory_equal(was->note, dir, 5);
        assert_int_equal(was->tile_bytes, 8192);
        assert_string_equal(kept_warning(program.k), "");
        for (uint32_t k = 0; k < was->count; k++)
            assert_ptr_equal(kept_find(program.k, was->tensors[k].name), &was->tensors[k]);
        assert_null(kept_find(program.k, "tensor"));
    }
    end();
}

static void rooms_wait_for_a_commit_without_them(void **state)
{
    struct kept_thing *a, *b;
    uint64_t was, used;

    (void)state;
    begin(0, false);
    a = kept_program_create(&program, 20000, 8192);
    was = a->offset;
    kept_program_destroy(&program, a); /* of no commit: free at once */
    assert_int_equal(kept_used(program.k), 0);
    a = kept_program_create(&program, 20000, 8192);
    assert_int_equal(a->offset, was);
    kept_program_write(&program, a, 0);
    commit();
    used = kept_used(program.k);
    assert_int_equal(used, 2 * 20480);
    kept_program_destroy(&program, a);
    b = kept_program_create(&program, 20000, 8192);
    assert_true(b->offset >= was + used || b->offset + used <= was);
    assert_int_equal(kept_used(program.k), 2 * used);
    kept_program_reopen(&program, false); /* b was committed nowhere, a still is */
    assert_int_equal(kept_used(program.k), used);
    b->there = false;
    kept_give(program.k, was, 20000);
    assert_int_equal(kept_used(program.k), used); /* the commit that was resumed has it */
    commit();
    assert_int_equal(kept_used(program.k), 0);
    a = kept_program_create(&program, 20000, 8192);
    assert_int_equal(a->offset, was);
    end();
}

/* Given in the midst of the commit that has it. */
static struct kept_thing *to_be_given;

static int give_meanwhile(struct io_file *f)
{
    (void)f;
    kept_program_destroy(&program, to_be_given);
    return 0;
}

static void rooms_of_a_commit_under_way_stay(void **state)
{
    uint64_t was;

    (void)state;
    begin(0, false);
    kept_record_start();
    kept_calls.sync_data = give_meanwhile;
    to_be_given = kept_program_create(&program, 5000, 4096);
    was = to_be_given->offset;
    kept_program_write(&program, to_be_given, 1);
    commit();
    assert_int_equal(kept_used(program.k), 2 * 8192);
    assert_int_not_equal(kept_program_create(&program, 5000, 4096)->offset, was);
    kept_record_stop();
    commit();
    assert_int_equal(kept_used(program.k), 2 * 8192);
    assert_int_equal(kept_program_create(&program, 5000, 4096)->offset, was);
    end();
}

static void copies_resume(void **state)
{
    struct kept_copy copy = {.count = {0}};

    (void)state;
    begin(5, false);
    kept_copy_load(&copy, dir);
    assert_int_equal(mkdir(other, 0755), 0);
    for (int i = 0; i < 4; i++) /* with holes, as cp makes them */
        for (uint64_t at = 0; at < copy.count[i]; at += 4096) {
            uint64_t n = copy.count[i] - at < 4096 ? copy.count[i] - at : 4096;
            bool zeros = true;

            for (uint64_t k = 0; k < n; k++)
                zeros &= copy.bytes[i][at + k] == 0;
            if (!zeros || at + n == copy.count[i])
                put(other, kept_file_name((enum kept_which)i), copy.bytes[i] + at, n, at);
        }
    kept_close(program.k, false);
    close(program.data_fd);
    kept_remove(dir);
    program.config.dir = program.dir = other;
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    program.data_fd = open(path_in(other, KEPT_FILE_DATA), O_RDWR | O_CLOEXEC);
    kept_program_reopen(&program, false);
    kept_program_step(&program);
    commit();
    assert_int_equal(kept_generation(program.k), 6);
    kept_program_reopen(&program, false);
    kept_program_close(&program);
    kept_remove(other);
    kept_copy_free(&copy);
}

static void in_place_has_one_slot(void **state)
{
    struct kept_config two;
    struct kept *k;

    (void)state;
    begin(3, true);
    kept_program_reopen(&program, true);  /* by its mark */
    kept_program_reopen(&program, false); /* by its tiles */
    kept_program_step(&program);
    kept_close(program.k, false);
    expect_error(kept_open(&program.config, &k), -OFL_ETORN, "written to after generation 3");
    assert_null(k);
    two = program.config;
    two.in_place = false;
    expect_error(kept_open(&two, &k), -EINVAL, "made in place, and is opened with two slots");
    program.k = NULL;
    end();
}

/* ---- the lock --------------------------------------------------------------------------- */

static void one_opener_at_a_time(void **state)
{
    int holds[2], tried[2], status;
    struct kept_report report;
    struct kept *k;
    pid_t child;

    (void)state;
    begin(1, false);
    expect_error(kept_open(&program.config, &k), -EBUSY, "another process, or context, has it");
    assert_null(k);
    expect_error(kept_verify(dir, NULL, NULL, &report), -EBUSY, dir);
    expect_error(kept_repair(dir, NULL, NULL, &report), -EBUSY, dir);
    assert_int_equal(pipe(holds), 0);
    assert_int_equal(pipe(tried), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) { /* has the open file, does nothing with it, outlives the parent's close */
        char c;

        close(holds[1]);
        if (kept_open(&program.config, &k) != -EBUSY || write(tried[1], "", 1) != 1)
            _exit(1);
        _exit(read(holds[0], &c, 1) == 0 ? 0 : 2);
    }
    close(holds[0]);
    close(tried[1]);
    assert_int_equal(read(tried[0], &status, 1), 1); /* it has tried, before the store is free for a moment */
    close(tried[0]);
    kept_program_reopen(&program, false);
    close(holds[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    end();
}

/* ---- refusals --------------------------------------------------------------------------- */

static void budgets_hold(void **state)
{
    struct kept_config c = {.dir = dir, .bytes = 1ull << 60};
    uint64_t at;
    struct kept *k;

    (void)state;
    expect_error(kept_open(&c, &k), -ENOSPC, "bytes free");
    assert_int_equal(access(dir, F_OK), -1); /* nothing is left */
    begin(0, false);
    expect_error(kept_take(program.k, KEPT_BUDGET / 2 + 1, "big", &at), -OFL_EBUDGET, "for big");
    expect_error(kept_take(program.k, UINT64_MAX, "huge", &at), -OFL_EBUDGET, "for huge");
    assert_int_equal(kept_budget(program.k), KEPT_BUDGET);
    assert_int_equal(kept_used(program.k), 0);
    kept_program_write(&program, kept_program_create(&program, 40000, 8192), 0);
    commit();
    kept_close(program.k, false);
    program.config.bytes = 40960; /* less than what is there */
    expect_error(kept_open(&program.config, &k), -OFL_EBUDGET, "raise it by at least 40960 bytes");
    program.config.bytes = 2 * 40960; /* as much: the file is longer */
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    expect_error(kept_take(program.k, 1, "more", &at), -OFL_EBUDGET,
                 "raise the NVMe budget by at least 8192");
    kept_close(program.k, false);
    program.config.bytes = 0; /* what is free */
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    assert_true(kept_budget(program.k) > KEPT_BUDGET);
    assert_int_equal(kept_memory(program.k), 0);
    end();
}

/* Of 2 MiB. Somebody else takes what is free: rooms, then a commit, find no space, and do later. */
static void take_all_but(int fd, uint64_t bytes)
{
    struct statvfs fs;
    struct stat st;

    assert_int_equal(fstatvfs(fd, &fs), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(posix_fallocate(fd, st.st_size, (off_t)(fs.f_bavail * fs.f_frsize - bytes)), 0);
}

static void full_file_system(void)
{
    char note[40000] = "";
    uint64_t at;
    int fd;

    kept_program_open(&program, dir, 1, false);
    fd = open(path_in(dir, "other"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    take_all_but(fd, 300000);
    kept_program_write(&program, kept_program_create(&program, 4096, 4096), 0);
    commit();
    expect_error(kept_take(program.k, 300000, "some", &at), -ENOSPC, "for some: 606208 bytes needed");
    take_all_but(fd, 0);
    expect_error(kept_commit(program.k, NULL, 0, 0, note, sizeof note), -ENOSPC, "manifest-0.ofl: offset 0");
    assert_int_equal(kept_generation(program.k), 1);
    close(fd);
    assert_int_equal(unlink(path_in(dir, "other")), 0);
    assert_int_equal(kept_take(program.k, 300000, "some", &at), 0);
    assert_int_equal(kept_commit(program.k, NULL, 0, 0, note, sizeof note), 0);
    kept_program_close(&program);
    for (int i = 0; i < 4; i++)
        assert_int_equal(unlink(path_in(dir, kept_file_name((enum kept_which)i))), 0);
}

/* A file system in memory, seen by this process alone. */
static void memory_is_counted(void **state)
{
    struct kept_config c = {
        .dir = dir, .bytes = 1 << 20, .memory_bytes = 1 << 19, .memory_text = "of the rest"};
    struct kept *k;

    (void)state;
    assert_int_equal(mkdir(dir, 0700), 0);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("ofl-test", dir, "tmpfs", 0, "size=2m") < 0) {
        fprintf(stderr, "memory_is_counted: skipped: a small tmpfs can't be mounted: %s\n", strerror(errno));
        rmdir(dir);
        skip();
    }
    expect_error(kept_open(&c, &k), -OFL_EBUDGET, "left of the rest");
    assert_int_equal(entries(dir), 0);
    c.memory_bytes = 1 << 20;
    assert_int_equal(kept_open(&c, &k), 0);
    assert_int_equal(kept_memory(k), 1 << 20);
    kept_close(k, false);
    c.bytes = 0;
    assert_int_equal(kept_open(&c, &k), 0);
    assert_int_equal(kept_memory(k), 1 << 20);
    kept_close(k, false);
    full_file_system();
    if (umount(dir) < 0)
        fail_msg("umount %s: %s", dir, strerror(errno));
    assert_int_equal(rmdir(dir), 0);
}

static void foreign_directories_are_left_alone(void **state)
{
    struct kept_config c = {.dir = dir, .bytes = KEPT_BUDGET, .file_flags = IO_FILE_BUFFERED};
    struct kept_report report;
    struct kept *k;

    (void)state;
    assert_int_equal(mkdir(dir, 0755), 0);
    expect_error(kept_verify(dir, NULL, NULL, &report), -ENOENT, "no kept store");
    put(dir, "notes.txt", "mine", 4, 0);
    expect_error(kept_open(&c, &k), -ENOTEMPTY, "it has notes.txt");
    assert_int_equal(entries(dir), 1);
    assert_int_equal(mode_of(dir), 0755);
    assert_int_equal(unlink(path_in(dir, "notes.txt")), 0);
    put(dir, KEPT_FILE_DATA, "mine", 4, 0); /* of our name, with something in it */
    expect_error(kept_open(&c, &k), -ENOTEMPTY, "it has " KEPT_FILE_DATA);
    assert_int_equal(entries(dir), 1);
    assert_int_equal(unlink(path_in(dir, KEPT_FILE_DATA)), 0);
    assert_int_equal(mkdir(path_in(dir, "lost+found"), 0700), 0); /* a new file system's */
    assert_int_equal(kept_open(&c, &k), 0);
    kept_close(k, false);
    assert_int_equal(rmdir(path_in(dir, "lost+found")), 0);
    kept_remove(dir);
    c.dir = "README.md";
    expect_error(kept_open(&c, &k), -ENOTDIR, "README.md");
}

static void files_have_to_be_files(void **state)
{
    static const char *const kinds[] = {"symbolic link", "FIFO", "directory", "nothing"};
    char kept_name[128];
    struct kept_report report;
    struct kept *k;

    (void)state;
    begin(2, false);
    kept_close(program.k, false);
    snprintf(kept_name, sizeof kept_name, "%s-aside", dir);
    for (int i = 0; i < 4; i++)
        for (int kind = 0; kind < 4; kind++) {
            const char *path = path_in(dir, kept_file_name((enum kept_which)i));
            int err;

            if (i == 0 && kind == 3) /* then it is none */
                continue;
            assert_int_equal(rename(path, kept_name), 0);
            if (kind == 0)
                assert_int_equal(symlink(kept_name + strlen(dir) - 5, path), 0);
            else if (kind == 1)
                assert_int_equal(mkfifo(path, 0600), 0);
            else if (kind == 2)
                assert_int_equal(mkdir(path, 0700), 0);
            err = kept_open(&program.config, &k);
            if (err >= 0 || !strstr(base_error_text(), kept_file_name((enum kept_which)i)))
                fail_msg("%s, %s: %d %s", path, kinds[kind], err, base_error_text());
            assert_true(kept_verify(dir, NULL, NULL, &report) < 0);
            if (kind == 2)
                assert_int_equal(rmdir(path), 0);
            else if (kind < 2)
                assert_int_equal(unlink(path), 0);
            assert_int_equal(rename(kept_name, path), 0);
        }
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    end();
}

static void later_versions_are_refused(void **state)
{
    struct kept_copy copy = {.count = {0}};
    struct kept_report report;
    struct kept *k;
    uint8_t *head;

    (void)state;
    begin(1, false);
    kept_close(program.k, false);
    kept_copy_load(&copy, dir);
    head = copy.bytes[KEPT_ROOTS];
    head[8] = 2;
    expect_error((put(dir, KEPT_FILE_ROOTS, head, 512, 0), kept_open(&program.config, &k)), -OFL_EFORMAT,
                 "checksum differs");
    kept_put(head + 504, 8, store_seal(head, 504));
    expect_error((put(dir, KEPT_FILE_ROOTS, head, 512, 0), kept_open(&program.config, &k)), -OFL_EFORMAT,
                 "version 2, this library knows 1");
    expect_error(kept_repair(dir, NULL, NULL, &report), -OFL_EFORMAT, "version 2, this library knows 1");
    head[8] = 1;
    kept_put(head + 504, 8, store_seal(head, 504));
    put(dir, KEPT_FILE_ROOTS, head, 512, 0);
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    kept_copy_free(&copy);
    end();
}

/* A run that ended while it made the store. */
static void half_made_stores_are_taken(void **state)
{
    static const char *const names[] = {KEPT_FILE_NEW, "manifest-0.ofl", "manifest-1.ofl", KEPT_FILE_DATA};

    (void)state;
    for (size_t have = 1; have <= 4; have++) {
        assert_int_equal(mkdir(dir, 0700), 0);
        for (size_t i = 0; i < have; i++)
            put(dir, names[i], "torn", i == 0 ? 4 : 0, 0);
        begin(1, false);
        assert_int_equal(entries(dir), 4);
        end();
    }
}

static void bad_tensors_are_refused(void **state)
{
    struct kept_tile tiles[2] = {{.seal = 1, .generation = 1, .there = 1}, {0}};
    struct kept_tensor good = {.name = "a",
                               .kind = OFL_KIND_WEIGHT,
                               .dtype = OFL_F32,
                               .elems = 2048,
                               .bytes = 8192,
                               .tile_bytes = 4096,
                               .tiles_count = 2,
                               .slot_bytes = 8192,
                               .tiles = tiles};
    struct kept_tensor pair[2];
    struct kept *k;

    (void)state;
    begin(0, false);
    k = program.k;
    assert_int_equal(kept_take(k, 8192, "a", &good.offset), 0);
    pair[0] = pair[1] = good;
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "room is another one's");
    assert_int_equal(kept_take(k, 8192, "b", &pair[1].offset), 0);
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "name is another one's");
    pair[1].name = "b\n";
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "control characters");
    pair[1].name = "b";
    pair[1].offset += 4096;
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "it has not taken them");
    pair[1].offset -= 4096;
    pair[1].elems--;
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "not those of its elements");
    pair[1].elems++;
    expect_error(kept_commit(k, pair, 2, 2048, NULL, 0), -EINVAL, "tiles don't make up");
    tiles[0].generation = 2;
    expect_error(kept_commit(k, pair, 2, 4096, NULL, 0), -EINVAL, "newer than the generation");
    tiles[0].generation = 1;
    expect_error(kept_commit(k, pair, 2, 4096, "", OFL_NOTE_MAX + 1u), -EINVAL, "a note of");
    assert_int_equal(kept_generation(k), 0);
    assert_int_equal(kept_commit(k, pair, 2, 4096, NULL, 0), 0);
    assert_int_equal(kept_commit(k, NULL, 0, 0, NULL, 0), 0);
    end();
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *commit_often(void *arg)
{
    struct kept *k = arg;
    int err = 0;

    for (int i = 0; i < 20 && err == 0; i++)
        err = kept_commit(k, NULL, 0, 0, "note", 4);
    return err == 0 ? k : NULL;
}

static void rooms_come_and_go_beside_commits(void **state)
{
    uint64_t at[4];
    pthread_t thread;
    void *ended;

    (void)state;
    begin(0, false);
    assert_int_equal(pthread_create(&thread, NULL, commit_often, program.k), 0);
    for (int i = 0; i < 2000; i++) {
        for (int k = 0; k < 4; k++)
            assert_int_equal(kept_take(program.k, 4096 * (k + 1u), "t", &at[k]), 0);
        (void)kept_generation(program.k);
        for (int k = 0; k < 4; k++)
            kept_give(program.k, at[k], 4096 * (k + 1u));
    }
    assert_int_equal(pthread_join(thread, &ended), 0);
    assert_ptr_equal(ended, program.k);
    assert_int_equal(kept_used(program.k), 0);
    assert_int_equal(kept_generation(program.k), 20);
    end();
}

/* ---- main -------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/store", scratch_make());
    snprintf(other, sizeof other, "%.*s/other", (int)strlen(dir) - 6, dir);
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
        cmocka_unit_test(what_is_committed_comes_back),
        cmocka_unit_test(rooms_wait_for_a_commit_without_them),
        cmocka_unit_test(rooms_of_a_commit_under_way_stay),
        cmocka_unit_test(copies_resume),
        cmocka_unit_test(in_place_has_one_slot),
        cmocka_unit_test(one_opener_at_a_time),
        cmocka_unit_test(budgets_hold),
        cmocka_unit_test(foreign_directories_are_left_alone),
        cmocka_unit_test(files_have_to_be_files),
        cmocka_unit_test(later_versions_are_refused),
        cmocka_unit_test(half_made_stores_are_taken),
        cmocka_unit_test(bad_tensors_are_refused),
        cmocka_unit_test(rooms_come_and_go_beside_commits),
        cmocka_unit_test(memory_is_counted), /* the process has mounts of its own from here on */
    };

    return cmocka_run_group_tests_name("kept", tests, setup, teardown);
}
