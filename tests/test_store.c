/*
 * store: the NVMe tier's space. Ranges never overlap and are whole blocks (every byte of every
 * range is written through the kernel with its owner's number and read back); totals agree; the
 * budget and a full file system refuse with the numbers, and what was taken before stays usable.
 * What lies in memory takes no more than memory has left.
 * The file has no name and is nobody else's. A seal changes with any bit of what it seals.
 *
 * Negative control: a range that is used after it was given back is seen by the same check.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "io/io.h"
#include "liboffload/store/store.h"
#include "tests/core_fixture.h"

#define MIB    (1ull << 20)
#define RANGES 60

typedef unsigned long long ull;

static struct store *open_store(const char *dir, uint64_t bytes)
{
    struct store_path path = {dir, bytes};
    struct store_config c = {.paths = &path, .count = 1};
    struct store *s;

    if (store_open(&c, &s) < 0)
        fail_msg("%s", base_error_text());
    return s;
}

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(base_error_text(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, base_error_text(), code, part);
}

static uint64_t blocks(uint64_t bytes)
{
    return (bytes + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
}

/* ---- memory -------------------------------------------------------------- */

/* A directory on tmpfs; its name goes to dir. */
static bool make_in_memory(char *dir)
{
    struct statfs fs;

    strcpy(dir, "/dev/shm/test_store-XXXXXX");
    if (statfs("/dev/shm", &fs) == 0 && fs.f_type == TMPFS_MAGIC && mkdtemp(dir))
        return true;
    fprintf(stderr, "skipped: no tmpfs at /dev/shm\n");
    return false;
}

static void memory_is_counted(void **state)
{
    char one[32], two[32];
    struct store_path paths[2] = {{one, 8 << 20}, {two, 0}};
    struct store_config c = {
        .paths = paths, .count = 1, .memory_bytes = 4 << 20, .memory_text = "of the rest"};
    struct store *s;
    int err;

    (void)state;
    if (!make_in_memory(one) || !make_in_memory(two))
        skip();
    err = store_open(&c, &s);
    assert_null(s);
    expect_error(err, -OFL_EBUDGET, "8388608 bytes wanted, 4194304 bytes left of the rest");
    expect_error(err, -OFL_EBUDGET, one);
    c.memory_bytes = 8 << 20;
    assert_int_equal(store_open(&c, &s), 0);
    assert_int_equal(store_budget(s), 8 << 20);
    assert_int_equal(store_memory(s), 8 << 20);
    store_close(s);

    paths[0].bytes = 0; /* what was not asked for is cut */
    c.memory_bytes = (4 << 20) + 5;
    assert_int_equal(store_open(&c, &s), 0);
    assert_int_equal(store_budget(s), 4 << 20);
    store_close(s);
    c.memory_bytes = 100;
    err = store_open(&c, &s);
    expect_error(err, -OFL_EBUDGET, "100 bytes left of the rest");

    c.count = 2; /* one asks for a part, the other one takes the rest */
    c.memory_bytes = 8 << 20;
    paths[0].bytes = 3 << 20;
    assert_int_equal(store_open(&c, &s), 0);
    assert_int_equal(store_budget(s), 8 << 20);
    assert_int_equal(store_memory(s), 8 << 20);
    store_close(s);
    paths[1].bytes = 6 << 20;
    err = store_open(&c, &s);
    expect_error(err, -OFL_EBUDGET, "6291456 bytes wanted, 5242880 bytes left");
    c.memory_text = NULL; /* no limit */
    assert_int_equal(store_open(&c, &s), 0);
    assert_int_equal(store_memory(s), 9 << 20);
    store_close(s);
    assert_int_equal(rmdir(one), 0);
    assert_int_equal(rmdir(two), 0);
}

/* What lies on a drive is none. */
static void drives_are_not_memory(void **state)
{
    const char *dir = *state;
    struct store_path path = {dir, 1 << 20};
    struct store_config c = {.paths = &path, .count = 1, .memory_text = "of nothing"};
    struct io_place place;
    struct store *s;

    assert_int_equal(io_place_get(dir, &place), 0);
    if (place.in_memory) {
        fprintf(stderr, "skipped: %s lies in memory\n", dir);
        skip();
    }
    assert_int_equal(store_open(&c, &s), 0);
    assert_int_equal(store_budget(s), 1 << 20);
    assert_int_equal(store_memory(s), 0);
    store_close(s);
}

/* ---- ranges ------------------------------------------------------------ */

struct range {
    uint64_t offset, bytes; /* bytes 0: none */
    uint64_t mark;
};

struct program {
    struct store *store;
    struct range ranges[RANGES];
    struct random random;
    uint64_t used, peak, marks;
    uint8_t *block; /* aligned: the file may be open for direct I/O */
};

/* A range's owner marks its first and last block: neighbours that overlap spoil one of them. */
static void mark(struct program *p, const struct range *r)
{
    uint64_t last = r->offset + blocks(r->bytes) - STORE_BLOCK, places[2] = {r->offset, last};
    int fd = io_file_fd(store_file(p->store), 0);

    for (uint64_t i = 0; i < STORE_BLOCK / 8; i++)
        memcpy(p->block + 8 * i, &r->mark, 8);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pwrite(fd, p->block, STORE_BLOCK, (off_t)places[i]), STORE_BLOCK);
}

static bool intact(struct program *p, const struct range *r)
{
    uint64_t last = r->offset + blocks(r->bytes) - STORE_BLOCK, places[2] = {r->offset, last}, word;
    int fd = io_file_fd(store_file(p->store), 0);
    bool good = true;

    for (int i = 0; i < 2; i++) {
        assert_int_equal(pread(fd, p->block, STORE_BLOCK, (off_t)places[i]), STORE_BLOCK);
        for (uint64_t k = 0; k < STORE_BLOCK / 8; k++) {
            memcpy(&word, p->block + 8 * k, 8);
            good &= word == r->mark;
        }
    }
    return good;
}

static void toggle(struct program *p, struct range *r, uint64_t budget)
{
    uint64_t bytes = 1 + random_below(&p->random, random_below(&p->random, 6) ? 60000 : 2 * MIB);

    if (r->bytes) {
        assert_true(intact(p, r));
        store_give(p->store, r->offset, r->bytes);
        p->used -= blocks(r->bytes);
        r->bytes = 0;
    } else if (p->used + blocks(bytes) <= budget / 2) { /* half: pieces can't be in the way */
        r->bytes = bytes;
        r->mark = ++p->marks;
        if (store_take(p->store, bytes, "range", &r->offset) < 0)
            fail_msg("%s", base_error_text());
        assert_int_equal(r->offset % STORE_BLOCK, 0);
        assert_true(r->offset + blocks(bytes) <= io_file_bytes(store_file(p->store)));
        p->used += blocks(bytes);
        if (p->used > p->peak)
            p->peak = p->used;
        mark(p, r);
    }
    assert_int_equal(store_used(p->store), p->used);
    assert_int_equal(store_peak(p->store), p->peak);
}

static void overlap_check(const struct program *p, uint64_t seed)
{
    for (int i = 0; i < RANGES; i++)
        for (int k = 0; k < i; k++) {
            const struct range *a = &p->ranges[i], *b = &p->ranges[k];

            if (a->bytes && b->bytes && a->offset < b->offset + blocks(b->bytes) &&
                b->offset < a->offset + blocks(a->bytes))
                fail_msg("seed %llu: %llu bytes at %llu and %llu at %llu overlap", (ull)seed, (ull)a->bytes,
                         (ull)a->offset, (ull)b->bytes, (ull)b->offset);
        }
}

static void ranges_never_overlap(void **state)
{
    static struct program p;
    const uint64_t budget = 64 * MIB;
    unsigned seeds = fixture_rounds(6);

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        memset(&p, 0, sizeof p);
        p.random.state = seed;
        p.store = open_store(*state, budget);
        p.block = aligned_alloc(STORE_BLOCK, STORE_BLOCK);
        assert_non_null(p.block);
        for (int k = 0; k < 400; k++) {
            toggle(&p, &p.ranges[random_below(&p.random, RANGES)], budget);
            if (k % 10 == 0)
                overlap_check(&p, seed);
        }
        for (int i = 0; i < RANGES; i++)
            if (p.ranges[i].bytes && !intact(&p, &p.ranges[i]))
                fail_msg("seed %llu: range %d was written by another owner", (ull)seed, i);
        assert_true(io_file_bytes(store_file(p.store)) <= budget);
        store_close(p.store);
        free(p.block);
    }
}

/* Two owners of one range, by the fault of the first: the check must notice. */
static void overlap_is_seen(void **state)
{
    static struct program p;
    struct range first = {.bytes = 10000, .mark = 1}, second = {.bytes = 9000, .mark = 2};

    p.store = open_store(*state, 8 * MIB);
    p.block = aligned_alloc(STORE_BLOCK, STORE_BLOCK);
    assert_non_null(p.block);
    assert_int_equal(store_take(p.store, first.bytes, "first", &first.offset), 0);
    mark(&p, &first);
    assert_true(intact(&p, &first));
    store_give(p.store, first.offset, first.bytes);
    assert_int_equal(store_take(p.store, second.bytes, "second", &second.offset), 0);
    mark(&p, &second);
    assert_false(intact(&p, &first));
    store_close(p.store);
    free(p.block);
}

/* ---- refusals ---------------------------------------------------------- */

static void budget_refuses_with_the_numbers(void **state)
{
    struct store *s = open_store(*state, 10 * STORE_BLOCK + 100);
    uint64_t a, b, c;

    assert_int_equal(store_budget(s), 10 * STORE_BLOCK); /* whole blocks */
    assert_int_equal(store_take(s, 6 * STORE_BLOCK - 1, "first", &a), 0);
    assert_int_equal(store_used(s), 6 * STORE_BLOCK);
    expect_error(store_take(s, 4 * STORE_BLOCK + 1, "second", &b), -OFL_EBUDGET,
                 "reserve NVMe space for second: 20480 bytes needed, 24576 of 40960 bytes in use");
    assert_int_equal(store_used(s), 6 * STORE_BLOCK); /* a refusal takes nothing */
    assert_int_equal(store_take(s, 4 * STORE_BLOCK, "third", &b), 0);
    expect_error(store_take(s, 1, "fourth", &c), -OFL_EBUDGET,
                 "raise the NVMe budget by at least 4096 bytes");
    store_give(s, a, 6 * STORE_BLOCK - 1);
    assert_int_equal(store_take(s, 6 * STORE_BLOCK, "fifth", &c), 0);
    assert_int_equal(c, a);
    assert_int_equal(store_peak(s), 10 * STORE_BLOCK);
    store_close(s);
    store_close(NULL);
}

/* Space is reserved in strides: what is free at the end of the last one counts. */
static void whole_budget_can_be_taken(void **state)
{
    const uint64_t budget = 64 * MIB + 2 * STORE_BLOCK;
    struct store *s = open_store(*state, budget);
    uint64_t at;

    assert_int_equal(store_take(s, 60 * MIB, "first", &at), 0);
    assert_int_equal(store_reserved(s), 64 * MIB);
    assert_int_equal(store_take(s, 4 * MIB + 2 * STORE_BLOCK, "second", &at), 0);
    assert_int_equal(at, 60 * MIB);
    assert_int_equal(store_used(s), budget);
    assert_int_equal(store_take(s, 1, "third", &at), -OFL_EBUDGET);
    store_close(s);
}

/* What the message asks for is enough. */
static void what_is_asked_for_suffices(void **state)
{
    struct store *s = open_store(*state, MIB);
    unsigned long long more = 0;
    uint64_t at;
    const char *tail;

    assert_int_equal(store_take(s, 700000, "first", &at), 0);
    assert_int_equal(store_take(s, 700000, "second", &at), -OFL_EBUDGET);
    tail = strstr(base_error_text(), "at least ");
    assert_non_null(tail);
    assert_int_equal(sscanf(tail, "at least %llu bytes", &more), 1);
    store_close(s);
    s = open_store(*state, MIB + more);
    assert_int_equal(store_take(s, 700000, "first", &at), 0);
    assert_int_equal(store_take(s, 700000, "second", &at), 0);
    store_close(s);
}

static void bad_places_are_refused(void **state)
{
    struct store_path path = {.dir = "build/no/such/place"};
    struct store_config c = {.paths = &path, .count = 1};
    struct statvfs fs;
    struct store *s = (struct store *)&c;

    expect_error(store_open(&c, &s), -ENOENT, "build/no/such/place");
    assert_null(s);
    path.dir = "README.md"; /* no directory */
    expect_error(store_open(&c, &s), -ENOTDIR, "README.md");
    path.dir = *state;
    assert_int_equal(statvfs(path.dir, &fs), 0);
    path.bytes = 2 * (uint64_t)fs.f_blocks * fs.f_frsize;
    expect_error(store_open(&c, &s), -ENOSPC, " bytes free");
    assert_null(s);
    path.bytes = 0; /* what is free, less 5 % */
    s = open_store(path.dir, 0);
    assert_true(store_budget(s) > 0);
    assert_true(store_budget(s) < (uint64_t)fs.f_blocks * fs.f_frsize);
    store_close(s);
}

/* A file system of 8 MiB at dir, seen by this process alone: it goes with it, however it ends. */
static bool mount_small(const char *dir)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("ofl-test", dir, "tmpfs", 0, "size=8m") == 0;
}

/* Somebody else takes 3 MiB after the store was opened. */
static void full_file_system(void **state)
{
    const char *dir = *state;
    char path[128];
    uint64_t at, kept;
    struct store *s;
    int fd;

    if (!mount_small(dir)) {
        fprintf(stderr, "full_file_system: skipped: a small tmpfs can't be mounted: %s\n", strerror(errno));
        skip();
    }
    s = open_store(dir, 0);
    assert_true(store_budget(s) > 7 * MIB && store_budget(s) < 8 * MIB);
    snprintf(path, sizeof path, "%s/other", dir);
    fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 3 * MIB), 0);
    close(fd);
    /* The stride doesn't fit, but the range does. */
    assert_int_equal(store_take(s, 3 * MIB, "kept", &kept), 0);
    expect_error(store_take(s, 3 * MIB, "too much", &at), -ENOSPC,
                 "reserve NVMe space for too much: 3145728 bytes");
    assert_non_null(strstr(base_error_text(), "No space left"));
    assert_int_equal(store_used(s), 3 * MIB);
    assert_int_equal(store_take(s, MIB, "small", &at), 0); /* the refusal cost nothing */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(store_take(s, 3 * MIB, "too much", &at), 0);
    store_close(s);
    if (umount(dir) < 0)
        fail_msg("umount %s: %s", dir, strerror(errno));
}

/* ---- the file ---------------------------------------------------------- */

static unsigned entries(const char *dir)
{
    DIR *d = opendir(dir);
    unsigned n = 0;

    assert_non_null(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void nameless_and_private(void **state)
{
    const char *dir = *state;
    mode_t mask = umask(0);
    struct store *a = open_store(dir, MIB), *b = open_store(dir, MIB);
    struct stat of_a, of_b;
    uint64_t at;

    umask(mask);
    assert_int_equal(store_take(a, 100000, "a", &at), 0);
    assert_int_equal(entries(dir), 0);
    assert_int_equal(fstat(io_file_fd(store_file(a), 0), &of_a), 0);
    assert_int_equal(fstat(io_file_fd(store_file(b), 0), &of_b), 0);
    assert_int_equal(of_a.st_mode & 07777, 0600);
    assert_int_equal(of_a.st_nlink, 0);
    assert_true(of_a.st_ino != of_b.st_ino);               /* two jobs don't meet */
    assert_true((uint64_t)of_a.st_blocks * 512 >= 100000); /* backed by disk space */
    store_close(a);
    store_close(b);
    assert_int_equal(entries(dir), 0);
}

/* ---- seals ------------------------------------------------------------- */

/* XXH3-64 of nothing, as published with the hash. */
#define SEAL_OF_NOTHING 0x2d06800538d394c2u

static void seal_sees_every_bit(void **state)
{
    static const uint64_t sizes[] = {1, 3, 4, 9, 17, 129, 241, 1025, 4096, 65536, 1 << 20};
    struct random r = {5};

    (void)state;
    assert_true(store_seal("", 0) == SEAL_OF_NOTHING);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t n = sizes[i], seal, flips = n * 8 < 4000 ? n * 8 : fixture_rounds(n < MIB ? 2000 : 200);
        uint8_t *bytes = malloc(n), *copy = malloc(n + 1);

        assert_true(bytes && copy);
        for (uint64_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)random_next(&r);
        seal = store_seal(bytes, n);
        memcpy(copy + 1, bytes, n);
        assert_true(store_seal(copy + 1, n) == seal); /* wherever they lie */
        assert_true(store_seal(bytes, n - 1) != seal);
        for (uint64_t k = 0; k < flips; k++) {
            uint64_t bit = flips == n * 8 ? k : random_below(&r, n * 8);

            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (store_seal(bytes, n) == seal)
                fail_msg("%llu bytes: bit %llu does not change the seal", (ull)n, (ull)bit);
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_true(store_seal(bytes, n) == seal);
        free(bytes);
        free(copy);
    }
}

static int setup(void **state)
{
    *state = (void *)(uintptr_t)scratch_make();
    return 0;
}

static int teardown(void **state)
{
    umount2(*state, MNT_DETACH); /* if its test failed */
    scratch_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_never_overlap),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(drives_are_not_memory),
        cmocka_unit_test(overlap_is_seen),
        cmocka_unit_test(budget_refuses_with_the_numbers),
        cmocka_unit_test(whole_budget_can_be_taken),
        cmocka_unit_test(what_is_asked_for_suffices),
        cmocka_unit_test(bad_places_are_refused),
        cmocka_unit_test(full_file_system),
        cmocka_unit_test(nameless_and_private),
        cmocka_unit_test(seal_sees_every_bit),
    };

    return cmocka_run_group_tests_name("store", tests, setup, teardown);
}
