/*
 * Fixture of the io room's tests: a directory, one-line transfers, children, and
 * filters that make the kernel refuse a system call.
 *
 * OFL_TEST_DIR names the directory for files (default build/tmp); OFL_TEST_SEED the seed.
 */
#ifndef OFL_TESTS_IO_FIXTURE_H
#define OFL_TESTS_IO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>

#include "io/io.h"

#define IO_TEST_SKIPPED 77 /* a child's exit code; it has said why */

#define IO_TEST_HANG_MS 120000 /* what has not happened by then never does, however busy the machine */

extern struct io_test {
    char dir[512]; /* of this run; tear_down fails if anything is left in it */
    uint64_t seed;
    bool uring, direct; /* work here */
} io_test;

/* Both engines. */
extern const struct io_test_engine {
    const char *name;
    enum io_engine engine;
} io_test_engines[2];

/* Says so, and counts as run: the other engine did. */
bool io_test_is_missing(const struct io_test_engine *e);
/* A scratch file with so many bytes reserved. */
struct io_file *io_test_scratch(unsigned flags, uint64_t bytes);

int io_test_set_up(void **state);
int io_test_tear_down(void **state);

void *io_test_aligned(size_t bytes); /* to a page; free() it */
/* Waits up to a second for completions. */
unsigned io_test_wait_reap(struct io_queue *q, struct io_request **done, unsigned max);
/* One request, start to end; its code. */
int io_test_transfer(struct io_queue *q, struct io_request *r);

/* Makes a file of pattern bytes; its path is static. */
const char *io_test_make_source(const char *name, uint64_t bytes);
bool io_test_is_pattern(const unsigned char *p, uint64_t offset, uint64_t bytes);
unsigned io_test_entries_in(const char *path);

/* In a child: says what is wrong, and leaves. cmocka's asserts would return into the parent's test. */
#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s; last sentence: %s\n", __FILE__, __LINE__, #condition,                \
                    base_error_text());                                                                      \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

/* Runs fn in a child; its status from wait. */
int io_test_in_child(int (*fn)(void *), void *arg);
/* Fails or skips the test as the child did. */
void io_test_judge_child(int status);
/* Both. */
void io_test_child_passes(int (*fn)(void *), void *arg);

/* From here on what is mounted is seen by this child alone, and goes with it. If false, it has said why. */
bool io_test_may_mount(void);
/* Makes an ext4 of image, a file that has its size, and mounts it; likewise. */
bool io_test_mount_ext4(const char *image, const char *where);

/* From now on system call nr fails with code, if its argument arg has all bits of mask. */
struct io_test_filter {
    long nr;
    unsigned arg;
    uint32_t mask;
    int code;
};

/* 0, or IO_TEST_SKIPPED. Only in a child: there is no way back. */
int io_test_forbid(const struct io_test_filter *f);

#endif
