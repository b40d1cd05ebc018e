/*
 * Source files, whatever their format: who reads a file, what nobody reads and what it is told instead,
 * what holds for entries of any reader; and that a file that was written, however, is not taken for the
 * one that was opened, while one that was only linked, renamed or given other rights is.
 *
 * Negative controls: each file that must be refused has a neighbour that must not be. Writes follow the
 * opening at once, so without the wait for a tick of the clock some of them have its time: see
 * a_write_in_the_same_tick_shows.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "liboffload/source/reader.h"
#include "liboffload/source/source.h"

#define HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static char dir[] = "/var/tmp/ofl-test-source-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[2][128];
    static unsigned which;
    char *p = path[which++ % 2];

    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static const char *put(const char *name, const void *bytes, size_t count)
{
    const char *path = path_of(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    close(fd);
    return path;
}

static size_t valid(char *out)
{
    size_t n = strlen(HEADER);

    memset(out, 0, 8);
    out[0] = (char)n;
    memcpy(out + 8, HEADER "abcd", n + 4);
    return 8 + n + 4;
}

/* ---- formats ------------------------------------------------------------- */

static void the_bytes_decide_then_the_name(void **state)
{
    static const struct {
        const char *name, *bytes;
        size_t count;
        const char *words[3];
    } cases[] = {
        {"m.gguf", "GGUF\3\0\0\0\0\0\0\0", 12, {"header: tensors", "truncated"}},
        {"m.safetensors", "GGUF\3\0\0\0\0\0\0\0", 12, {"header: tensors"}},
        {"short.gguf", "GGU", 3, {"header", "truncated"}}, /* its name's */
        {"p.safetensors",
         "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
         56,
         {"git-lfs", "pointer"}},
        {"pytorch_model.bin",
         "PK\3\4....",
         8,
         {"zip", "torch.save", "supported: safetensors (*.safetensors), gguf (*.gguf)"}},
        {"a.pkl", "\x80\2}q", 4, {"pickle"}},
        {"a.h5", "\x89HDF\r\n", 6, {"HDF5"}},
        {"a.npy", "\x93NUMPY\1\0", 8, {"NumPy"}},
        {"a.gz", "\x1f\x8b\x08", 3, {"gzip"}},
        {"a.zst", "\x28\xb5\x2f\xfd", 4, {"zstd"}},
        {"page.safetensors", "<!DOCTYPE html>", 15, {"HTML"}},
        {"model.safetensors.index.json", "{\"weight_map\":{}}", 17, {"JSON"}},
        {"elf",
         "\x7f"
         "ELF\2\1\1\0\0",
         9,
         {"unknown format", "9 bytes", "7f 45 4c 46 02"}},
        {"empty", "", 0, {"unknown format", "0 bytes", "nothing"}},
        {"short.safetensors", "abc", 3, {"3 bytes, a safetensors file at least 8"}}, /* its name's */
        {"c.safetensors", "\2\0\0\0\0\0\0\0[]", 10, {"not a JSON object"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = put(cases[i].name, cases[i].bytes, cases[i].count);
        struct source_file *f = (struct source_file *)8;

        assert_int_equal(source_open(path, &f), -OFL_EFORMAT);
        assert_ptr_equal(f, (struct source_file *)8);
        assert_non_null(strstr(base_error_text(), path));
        for (size_t w = 0; w < 3 && cases[i].words[w]; w++)
            if (!strstr(base_error_text(), cases[i].words[w]))
                fail_msg("%s: no \"%s\" in: %s", cases[i].name, cases[i].words[w], base_error_text());
        unlink(path);
    }
}

static void a_good_file_needs_no_suffix(void **state)
{
    static const char *const names[] = {"w.safetensors", "w", "w.bin"};
    char bytes[256];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct source_file *f;
        const char *path = put(names[i], bytes, valid(bytes));

        assert_int_equal(source_open(path, &f), 0);
        assert_string_equal(f->format, "safetensors");
        assert_int_equal(f->count, 1);
        assert_non_null(source_find(f, "a"));
        assert_null(source_find(f, "b"));
        source_close(f);
        unlink(path);
    }
    source_close(NULL);
}

/* A format of the test: each byte behind the first names a tensor of the bytes 1..2. */
static bool planted_probe(const struct source_head *head)
{
    return head->count > 0 && head->bytes[0] == '!';
}

static int planted_read(struct source_file *f, int fd)
{
    char text[16] = "";
    int rc = source_read_at(f, fd, text, f->bytes < 15 ? f->bytes : 15, 0);

    f->entries = calloc(16, sizeof *f->entries);
    for (size_t i = 1; rc == 0 && text[i]; i++) {
        char name[2] = {text[i], 0};

        f->entries[f->count++] = (struct source_entry){.name = strdup(name),
                                                       .dims = 1,
                                                       .shape = {2},
                                                       .elems = 2,
                                                       .bytes = 2,
                                                       .offset = text[i] == 'x' ? 90 : 1};
        if (text[i] == '?')
            return base_fail(-OFL_EFORMAT, "open %s: a question", f->path);
    }
    return rc;
}

static void what_any_reader_is_held_to(void **state)
{
    static const struct source_reader planted = {"planted", ".planted", planted_probe, planted_read};
    static const struct source_reader *const readers[] = {&source_safetensors, &planted};
    static const struct {
        const char *bytes, *word; /* NULL: it is taken */
    } cases[] = {
        {"!cab", NULL},
        {"!aba", "\"a\": it is there twice"},
        {"!ax", "\"x\": offset 90, 2 bytes, but the file has 3"},
        {"!a?", "a question"},
        {"?ab", "unknown format"},
        {"GGUF", "safetensors (*.safetensors), planted (*.planted)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = put("file", cases[i].bytes, strlen(cases[i].bytes));
        struct source_file *f = NULL;
        int rc = source_open_as(readers, 2, path, &f);

        if (cases[i].word) {
            assert_int_equal(rc, -OFL_EFORMAT);
            if (!strstr(base_error_text(), cases[i].word))
                fail_msg("%s: %s", cases[i].bytes, base_error_text());
            continue;
        }
        assert_int_equal(rc, 0);
        assert_string_equal(f->format, "planted");
        assert_string_equal(f->entries[0].name, "a"); /* in order, however they came */
        assert_string_equal(f->entries[2].name, "c");
        assert_ptr_equal(source_find(f, "b"), &f->entries[1]);
        source_close(f);
    }
}

/* ---- what changes, and what does not -------------------------------------- */

struct change {
    const char *name;
    void (*make)(const char *path);
    bool shows;
};

static void write_to(const char *path, int flags, const char *bytes, size_t count)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

static void overwrite(const char *path)
{
    write_to(path, 0, "x", 1);
}

static void same_bytes(const char *path)
{
    char bytes[256];
    size_t n = valid(bytes);

    write_to(path, O_TRUNC, bytes, n); /* as cp does: it might have been others in between */
}

static void grow(const char *path)
{
    write_to(path, O_APPEND, "x", 1);
}

static void cut(const char *path)
{
    assert_int_equal(truncate(path, 5), 0);
}

static void map(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    assert_true(fd >= 0 && at != MAP_FAILED);
    at[3] = 'x';
    msync(at, 4096, MS_SYNC);
    munmap(at, 4096);
    close(fd);
}

static void rights(const char *path)
{
    assert_int_equal(chmod(path, 0444), 0);
}

static void hard_link(const char *path)
{
    assert_int_equal(link(path, path_of("linked")), 0);
    assert_int_equal(unlink(path_of("linked")), 0);
}

static void moved(const char *path)
{
    assert_int_equal(rename(path, path_of("moved")), 0);
    assert_int_equal(rename(path_of("moved"), path), 0);
}

static void read_it(const char *path)
{
    const struct timespec times[2] = {{1, 0}, {0, UTIME_OMIT}};
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_int_equal(read(fd, &byte, 1), 1);
    assert_int_equal(futimens(fd, times), 0); /* whatever the mount says of access times */
    close(fd);
}

static void replaced(const char *path)
{
    rename(put("other", "others", 6), path);
}

static const struct change changes[] = {
    {"overwritten in place", overwrite, true},
    {"written as it was", same_bytes, true},
    {"grown", grow, true},
    {"truncated", cut, true},
    {"written through a mapping", map, true},
    {"given other rights", rights, false},
    {"linked", hard_link, false},
    {"renamed", moved, false},
    {"read", read_it, false},
    {"replaced", replaced, false},
};

/* tmpfs does not note writes through a mapping. */
static bool unseen(const struct change *c)
{
    struct statfs fs;

    return c->make == map && statfs(dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static void writes_show_and_nothing_else(void **state)
{
    char bytes[256];
    size_t n = valid(bytes);

    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const char *path = strdup(put("file", bytes, n));
        struct base_error error;
        struct source_file *f;
        int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

        if (unseen(&changes[i]))
            print_message("%s: left out on tmpfs\n", changes[i].name);
        assert_int_equal(source_open(path, &f), 0);
        assert_int_equal(source_state_check(&f->state, fd, path, &error), 0);
        changes[i].make(path);
        rc = source_state_check(&f->state, fd, path, &error);
        if (!unseen(&changes[i]) && rc != (changes[i].shows ? -OFL_ECHANGED : 0))
            fail_msg("%s: %d", changes[i].name, rc);
        if (rc && (error.code != rc || !strstr(error.text, path) ||
                   !strstr(error.text, "changed while it was open")))
            fail_msg("%s: %s", changes[i].name, error.text);
        close(fd);
        source_close(f);
        unlink(path);
        free((char *)(uintptr_t)path);
    }
}

/* ---- times ---------------------------------------------------------------- */

static int64_t since(struct timespec then)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (now.tv_sec - then.tv_sec) * 1000000000ll + now.tv_nsec - then.tv_nsec;
}

/* When the state has been taken, the clock that writes are stamped with has left the file's time behind. */
static void a_write_in_the_same_tick_shows(void **state)
{
    const char *path = strdup(put("file", "text", 4));
    int fd = open(path, O_RDWR | O_CLOEXEC);

    (void)state;
    for (int whole = 0; whole < 2; whole++) {
        struct source_state taken;
        struct timespec times[2];

        clock_gettime(CLOCK_REALTIME_COARSE, &times[1]);
        if (whole)
            times[1].tv_nsec = 0;
        else if (times[1].tv_nsec == 0)
            times[1].tv_nsec = 1;
        times[0] = times[1];
        assert_int_equal(futimens(fd, times), 0);
        assert_int_equal(source_state_take(fd, path, &taken), 0);
        assert_true(since(times[1]) >= (whole ? 2000000000 : 10000000));
    }
    close(fd);
    unlink(path);
    free((char *)(uintptr_t)path);
}

static int written_at_naps = -1; /* a descriptor; -1: naps are naps */

/* In place of libc's: the file is written whenever source_state_take waits for it to rest. */
int nanosleep(const struct timespec *ns, struct timespec *left)
{
    if (written_at_naps < 0)
        return clock_nanosleep(CLOCK_REALTIME, 0, ns, left);
    assert_int_equal(pwrite(written_at_naps, "more", 4, lseek(written_at_naps, 0, SEEK_END)), 4);
    return 0;
}

static void a_file_that_is_being_written_is_refused(void **state)
{
    const char *path = strdup(put("file", "text", 4));
    const struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    int fd = open(path, O_RDWR | O_CLOEXEC), rc;
    struct source_state taken;
    struct stat st;

    (void)state;
    written_at_naps = fd;
    do { /* where the machine is so slow that the file has come to rest before it is looked at */
        assert_int_equal(futimens(fd, now), 0);
        rc = source_state_take(fd, path, &taken);
    } while (rc == 0);
    written_at_naps = -1;
    assert_int_equal(rc, -OFL_ECHANGED);
    assert_non_null(strstr(base_error_text(), "being written"));
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size >= 4 + 20 * 4);
    assert_int_equal(source_state_take(fd, path, &taken), 0); /* and once it rests it is taken */
    assert_int_equal(taken.bytes, st.st_size);
    close(fd);
    unlink(path);
    free((char *)(uintptr_t)path);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path_of("file"));
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_decide_then_the_name),
        cmocka_unit_test(a_good_file_needs_no_suffix),
        cmocka_unit_test(what_any_reader_is_held_to),
        cmocka_unit_test(writes_show_and_nothing_else),
        cmocka_unit_test(a_write_in_the_same_tick_shows),
        cmocka_unit_test(a_file_that_is_being_written_is_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
