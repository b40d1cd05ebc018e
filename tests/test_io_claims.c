/*
 * Proves that what is said of a file is so: direct I/O adds no page to the page cache, reserved space is there at
 * every write of a file system that others have filled, what counts as memory is memory and nothing else is, and
 * drives that pass the page cache below are named. Here, and as root on small file systems of the kinds that say
 * otherwise: btrfs (as it comes, with its data twice), overlayfs on tmpfs, loop devices, XFS with shared blocks.
 *
 * With arguments it judges one directory or file, for tools/fs_table.sh:
 *     test_io_claims ROOT DIR [BACKING]      test_io_claims --read FILE
 * prints a line of the table; exit 1 if a claim is false. Each tmpfs below ROOT is the caller's own. BACKING: the
 * file that a loop device below DIR is made of.
 *
 * Negative controls: file systems of which "yes" is false stand beside those of which it is true.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/file.h"
#include "io/trial.h"
#include "tests/fs_seen.h"

#define MIB (1u << 20)

/* ---- claims and verdicts --------------------------------------------------- */

struct verdict {
    struct io_part_info claimed;
    struct fs_seen seen;
    bool direct_seen, reserved_seen, memory_seen, cached_seen;
    bool holds;
    const char *false_claim; /* "" */
};

static void judge(struct verdict *v, const char *backing, uint64_t bytes)
{
    const struct io_part_info *c = &v->claimed;
    const struct fs_seen *s = &v->seen;

    v->direct_seen = s->pages == 0 && s->left_bytes == 0;
    v->reserved_seen = s->failed_bytes == 0 && s->taken_bytes >= bytes / 10 * 9;
    v->memory_seen = s->memory_bytes >= bytes / 2;
    v->cached_seen = backing && s->backing_bytes >= bytes / 4;
    v->false_claim = "";
    if (s->wrong)
        v->false_claim = "bytes";
    else if (s->pages_known && c->direct != v->direct_seen)
        v->false_claim = "direct";
    else if (s->filled && c->reserved != v->reserved_seen)
        v->false_claim = "reserved";
    else if (c->in_memory != v->memory_seen)
        v->false_claim = "memory";
    else if (backing && !c->in_memory && c->cached != v->cached_seen)
        v->false_claim = "cached"; /* memory's own pages are where they are */
    else if (!c->direct != (c->note[0] != '\0') || !c->reserved != (c->space_note[0] != '\0') ||
             (c->in_memory || c->cached) != (c->drive_note[0] != '\0'))
        v->false_claim = "notes";
    v->holds = v->false_claim[0] == '\0';
}

/* 0; -errno with a sentence. */
static int look(const char *dir, const struct fs_below *below, uint64_t bytes, struct verdict *v)
{
    struct ofl_place place = {.size = sizeof place};
    struct io_file *f;
    int rc = io_file_open_scratch(dir, 0, &f);

    *v = (struct verdict){0};
    if (rc < 0)
        return rc;
    rc = fs_seen_scratch(f, dir, below, bytes, &v->seen);
    io_file_part(f, 0, &v->claimed);
    io_file_close(f);
    if (rc == 0)
        rc = ofl_place_get(dir, &place);
    if (rc < 0)
        return rc;
    judge(v, below->backing, bytes);
    if (v->holds && (place.direct != v->claimed.direct || place.reserved != v->claimed.reserved ||
                     place.in_memory != v->claimed.in_memory || place.cached != v->claimed.cached)) {
        v->false_claim = "place";
        v->holds = false;
    }
    return 0;
}

static const char *yes(bool value)
{
    return value ? "yes" : "no";
}

static int print_scratch(const char *dir, const struct fs_below *below)
{
    const uint64_t bytes = 32 * MIB;
    struct verdict v;

    if (look(dir, below, bytes, &v) < 0) {
        printf("- - - - | could not be looked at: %s | FALSE\n", base_error_text());
        return 1;
    }
    printf("%-3s %-3s %-3s %-3s | %6llu pages (%3llu MiB left), %3llu of %u MiB failed, %3llu MiB memory, ",
           yes(v.claimed.direct), yes(v.claimed.reserved), yes(v.claimed.in_memory), yes(v.claimed.cached),
           (unsigned long long)v.seen.pages, (unsigned long long)(v.seen.left_bytes / MIB),
           (unsigned long long)(v.seen.failed_bytes / MIB), (unsigned)(2 * bytes / MIB),
           (unsigned long long)(v.seen.memory_bytes / MIB));
    if (below->backing)
        printf("%3llu MiB below | ", (unsigned long long)(v.seen.backing_bytes / MIB));
    else
        printf("    -     below | ");
    printf("%s%s\n", v.holds ? "true" : "FALSE: ", v.false_claim);
    return v.holds ? 0 : 1;
}

static int print_read(const char *path)
{
    struct fs_seen seen;
    struct io_file *f;
    bool holds;

    if (io_file_open_read(path, 0, &f) < 0 || fs_seen_read(f, &seen) < 0) {
        printf("- - - - | could not be looked at: %s | FALSE\n", base_error_text());
        return 1;
    }
    holds = !seen.wrong && seen.pages_known && io_file_direct(f) == (seen.pages == 0);
    printf("%-3s -   %-3s -   | %6llu pages of reads, in blocks of %u bytes | %s\n", yes(io_file_direct(f)),
           yes(io_file_in_memory(f)), (unsigned long long)seen.pages, io_file_read_block(f),
           holds ? "true" : "FALSE");
    io_file_close(f);
    return holds ? 0 : 1;
}

/* ---- small file systems ------------------------------------------------------ */

/* A file system in a file, or two on each other. dir: where a store would be. */
struct place {
    const char *name, *commands; /* run in the test's directory, which mount points lie in */
    const char *dir, *backing;   /* below it */
    bool direct, reserved, in_memory, cached;
};

#define LOOP(dio, sector, image) "losetup --direct-io=" dio " --sector-size " sector " --show -f " image
#define OVERLAY                                                                                              \
    "mkdir -p m/upper m/work lower over && mount -t overlay o -o "                                           \
    "lowerdir=lower,upperdir=m/upper,workdir=m/work over"

static const struct place places[] = {
    {"btrfs",
     "truncate -s 400M image && mkfs.btrfs -q image && d=$(" LOOP("on", "512", "image") ") && mount $d m",
     "m", "image", .direct = true, .reserved = true},
    {"btrfs, compressed directory",
     "truncate -s 400M image && mkfs.btrfs -q image && d=$(" LOOP("on", "512",
                                                                  "image") ") && mount $d m && "
                                                                           "mkdir m/c && chattr +c m/c",
     "m/c", "image", .direct = true, .reserved = true},
    {"btrfs, data twice",
     "truncate -s 600M image && mkfs.btrfs -q -d dup image && d=$(" LOOP("on", "512",
                                                                         "image") ") && mount $d m",
     "m", "image", .direct = false, .reserved = true},
    {"overlayfs on btrfs",
     "truncate -s 400M image && mkfs.btrfs -q image && d=$(" LOOP("on", "512",
                                                                  "image") ") && mount $d m && " OVERLAY,
     "over", NULL, .direct = true, .reserved = true},
    {"xfs",
     "truncate -s 400M image && mkfs.xfs -q image && d=$(" LOOP("on", "512", "image") ") && mount $d m", "m",
     "image", .direct = true, .reserved = true},
    {"tmpfs", "mount -t tmpfs -o size=200m t m", "m", NULL, .reserved = true, .in_memory = true},
    {"overlayfs on tmpfs", "mount -t tmpfs -o size=200m t m && " OVERLAY, "over", NULL, .reserved = true,
     .in_memory = true},
    {"loop device without direct I/O",
     "truncate -s 200M image && mkfs.ext4 -q image && d=$(" LOOP("off", "512", "image") ") && mount $d m",
     "m", "image", .direct = true, .reserved = true, .cached = true},
    {"loop device with sectors of 4 KiB",
     "truncate -s 200M image && d=$(" LOOP("on", "4096", "image") ") && mkfs.ext4 -q $d && mount $d m", "m",
     "image", .direct = true, .reserved = true},
    {"loop device on tmpfs",
     "mount -t tmpfs -o size=300m t m && mkdir m/fs && truncate -s 200M m/image && mkfs.ext4 -q m/image && "
     "d=$(" LOOP("off", "512", "m/image") ") && mount $d m/fs",
     "m/fs", NULL, .direct = true, .reserved = true, .in_memory = true, .cached = true},
};

/* Runs commands in the test's directory; false, and a skip with the reason, if one fails. What they mount goes
 * with the child; loop devices with what is mounted. */
static bool prepare(const char *name, const char *commands)
{
    char line[2400];

    if (!io_test_may_mount())
        return false;
    snprintf(line, sizeof line,
             "PATH=$PATH:/usr/sbin:/sbin; exec >/dev/null 2>&1; cd '%s' && mkdir -p m && { %s; }; r=$?; "
             "[ -z \"$d\" ] || losetup -d \"$d\"; exit $r",
             io_test.dir, commands);
    if (system(line) == 0)
        return true;
    fprintf(stderr, "skipped: %s can't be made here (mkfs missing, or no right to mount)\n", name);
    return false;
}

static int claims_hold(void *arg)
{
    const struct place *p = arg;
    char dir[700], backing[700], root[PATH_MAX];
    struct fs_below below = {.root = realpath(io_test.dir, root), .backing = p->backing ? backing : NULL};
    struct verdict v;

    if (!prepare(p->name, p->commands))
        return IO_TEST_SKIPPED;
    snprintf(dir, sizeof dir, "%s/%s", io_test.dir, p->dir);
    snprintf(backing, sizeof backing, "%s/%s", io_test.dir, p->backing ? p->backing : "");
    CHECK(look(dir, &below, 2 * MIB, &v) == 0);
    if (!v.holds)
        fprintf(stderr, "%s: false claim: %s; notes \"%s\", \"%s\", \"%s\"\n", p->name, v.false_claim,
                v.claimed.note, v.claimed.space_note, v.claimed.drive_note);
    CHECK(v.holds);
    CHECK(v.claimed.direct == p->direct);
    CHECK(v.claimed.reserved == p->reserved);
    CHECK(v.claimed.in_memory == p->in_memory);
    CHECK(v.claimed.cached == p->cached);
    return 0;
}

static void remove_all(void)
{
    char command[700];

    snprintf(command, sizeof command, "rm -rf --one-file-system '%s'/*", io_test.dir);
    assert_int_equal(system(command), 0);
}

static void small_file_systems(void **state)
{
    unsigned skipped = 0;

    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct place p = places[i];
        int status = io_test_in_child(claims_hold, &p);

        remove_all();
        if (WIFEXITED(status) && WEXITSTATUS(status) == IO_TEST_SKIPPED)
            skipped++;
        else
            io_test_judge_child(status);
    }
    if (skipped == sizeof places / sizeof places[0])
        skip();
}

/* Where this run's files are. */
static void here(void **state)
{
    const struct fs_below below = {.root = "/"};
    struct verdict v;

    (void)state;
    if (look(io_test.dir, &below, MIB, &v) < 0)
        fail_msg("%s", base_error_text());
    assert_int_equal(v.claimed.direct, io_test.direct);
    assert_false(v.seen.wrong);
    if (v.seen.pages_known)
        assert_int_equal(v.claimed.direct, v.direct_seen);
}

/* ---- refusals ---------------------------------------------------------------- */

static const struct place *find_place(const char *name)
{
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (strcmp(places[i].name, name) == 0)
            return &places[i];
    fail_msg("no place %s", name);
    return NULL;
}

static int twice_is_refused(void *arg)
{
    const struct place *p = arg;
    struct io_file *f;
    char dir[700];

    if (!prepare(p->name, p->commands))
        return IO_TEST_SKIPPED;
    snprintf(dir, sizeof dir, "%s/%s", io_test.dir, p->dir);
    CHECK(io_file_open_scratch(dir, IO_FILE_REQUIRE_DIRECT, &f) == -OFL_EDIRECT && !f);
    CHECK(strstr(base_error_text(), "direct I/O is required"));
    CHECK(strstr(base_error_text(), dir));
    return 0;
}

static void buffered_in_disguise_is_refused(void **state)
{
    struct place p = *find_place("btrfs, data twice");
    int status;

    (void)state;
    status = io_test_in_child(twice_is_refused, &p);
    remove_all();
    io_test_judge_child(status);
    p = *find_place("overlayfs on tmpfs");
    status = io_test_in_child(twice_is_refused, &p);
    remove_all();
    io_test_judge_child(status);
}

/* ---- trials ------------------------------------------------------------------- */

/* overlayfs hides what it lies on where its upper layer can't be seen: the trial alone tells memory from a drive. */
static void trials(void **state)
{
    struct io_trial t;
    struct stat st;
    int fd;

    (void)state;
    if (io_test.direct) {
        fd = open(io_test.dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
        assert_true(fd >= 0);
        io_trial_scratch(fd, 4096, &t);
        assert_int_equal(t.direct, IO_YES);
        assert_int_equal(t.in_memory, IO_NO);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 0);
        assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT), 0);
        io_trial_scratch(fd, 4096, &t);
        assert_int_equal(t.direct, IO_UNKNOWN);
        assert_int_equal(t.in_memory, IO_NO);
        close(fd);
    }
    fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        fprintf(stderr, "skipped: no tmpfs at /dev/shm\n");
        skip();
    }
    io_trial_scratch(fd, 4096, &t);
    assert_int_equal(t.in_memory, IO_YES);
    (void)!fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT); /* kernels before 6.6 refuse */
    io_trial_scratch(fd, 4096, &t);
    assert_int_not_equal(t.direct, IO_YES);
    assert_int_equal(t.in_memory, IO_YES);
    assert_int_equal(pwrite(fd, "bytes", 5, 0), 5);
    io_trial_read(fd, 4096, &t);
    assert_int_not_equal(t.direct, IO_YES);
    assert_int_equal(t.in_memory, IO_YES);
    close(fd);
}

/* ---- reading ------------------------------------------------------------------- */

#define SHARED                                                                                               \
    "truncate -s 600M image && mkfs.xfs -q -b size=65536 image && mount -o loop image m && "                 \
    "head -c 3000000 /dev/urandom >m/a && cp --reflink=always m/a m/b && sync"
#define PACKED                                                                                               \
    "truncate -s 400M image && mkfs.btrfs -q image && mount -o loop,compress-force=zstd image m && "         \
    "yes line | head -c 3000000 >m/b && sync"

static int shared_blocks(void *arg)
{
    struct io_alignment alignment;
    struct fs_seen seen;
    struct io_file *f;
    char path[700];

    (void)arg;
    if (!prepare("XFS with blocks of 64 KiB", SHARED))
        return IO_TEST_SKIPPED;
    snprintf(path, sizeof path, "%s/m/b", io_test.dir);
    CHECK(io_file_open_read(path, IO_FILE_REQUIRE_DIRECT, &f) == 0);
    io_alignment_get(io_file_fd(f, 0), &alignment);
    CHECK(alignment.told && alignment.write == 65536); /* it is the case that we want */
    CHECK(io_file_block(f) <= 4096 && io_file_block(f) == alignment.read);
    CHECK(fs_seen_read(f, &seen) == 0 && !seen.wrong);
    CHECK(!seen.pages_known || seen.pages == 0);
    io_file_close(f);
    return 0;
}

static int packed_file(void *arg)
{
    struct io_file *f;
    char path[700];

    (void)arg;
    if (!prepare("btrfs with compression", PACKED))
        return IO_TEST_SKIPPED;
    snprintf(path, sizeof path, "%s/m/b", io_test.dir);
    CHECK(io_file_open_read(path, 0, &f) == 0);
    CHECK(!io_file_direct(f) && strstr(io_file_note(f), "compressed"));
    io_file_close(f);
    return 0;
}

static void reads_of_files(void **state)
{
    int (*const tests[])(void *) = {shared_blocks, packed_file};

    (void)state;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        int status = io_test_in_child(tests[i], NULL);

        remove_all();
        io_test_judge_child(status);
    }
}

/* A file that is written in large blocks and read in small ones: tests/mem_engine moves its bytes elsewhere; here
 * the two blocks are what is asked for. */
static void blocks_of_both_directions(void **state)
{
    struct io_member m = {.block = 65536, .read_block = 512};
    struct io_file f = {.member = &m, .count = 1, .block = 65536};

    (void)state;
    assert_int_equal(io_member_block(&m, IO_READ), 512);
    assert_int_equal(io_member_block(&m, IO_WRITE), 65536);
    assert_int_equal(io_file_read_block(&f), 512);
    assert_int_equal(io_file_block(&f), 65536);
    m.read_block = 0;
    assert_int_equal(io_file_read_block(&f), 65536);
}

/* Reads of their own blocks go without a copy where writes of the same size have to be whole blocks. */
static void small_reads_of_large_blocks(void **state)
{
    struct io_request r = {.op = IO_WRITE, .bytes = 65536};
    unsigned char *buf = aligned_alloc(65536, 65536);
    struct io_stats stats;
    struct io_queue *q;

    (void)state;
    if (!io_test.direct) {
        free(buf);
        fprintf(stderr, "skipped: no direct I/O in %s\n", io_test.dir);
        skip();
    }
    assert_non_null(buf);
    for (unsigned i = 0; i < 65536; i++)
        buf[i] = (unsigned char)(i >> 12);
    assert_int_equal(io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &r.file), 0);
    assert_true(io_file_block(r.file) <= 4096);
    r.file->block = r.file->member[0].block = 65536;
    r.file->member[0].read_block = 4096;
    assert_int_equal(io_queue_open(&(struct io_queue_config){0}, &q), 0);
    r.buf = buf;
    assert_int_equal(io_test_transfer(q, &r), 0);
    r = (struct io_request){.op = IO_WRITE, .file = r.file, .buf = buf, .offset = 4096, .bytes = 4096};
    assert_int_equal(io_test_transfer(q, &r), -EINVAL); /* a part of a block of writes */
    r = (struct io_request){.op = IO_READ, .file = r.file, .buf = buf, .offset = 5 * 4096, .bytes = 4096};
    assert_int_equal(io_test_transfer(q, &r), 0);
    assert_int_equal(buf[0], 5);
    assert_int_equal(buf[4095], 5);
    io_queue_stats(q, &stats);
    assert_int_equal(stats.copied_bytes, 0);
    io_queue_close(q);
    io_file_close(r.file);
    free(buf);
}

/* Who can't do with a file's blocks moves bytes through the page cache, or is told. */
static void blocks_too_large(void **state)
{
    struct io_file *f;

    (void)state;
    if (!io_test.direct) {
        fprintf(stderr, "skipped: no direct I/O in %s\n", io_test.dir);
        skip();
    }
    assert_int_equal(io_file_open_scratch(io_test.dir, 0, &f), 0);
    assert_int_equal(io_file_limit_block(f, 4096), 0);
    assert_true(io_file_direct(f));
    f->member[0].block = 65536;
    assert_int_equal(io_file_limit_block(f, 4096), 0);
    assert_false(io_file_direct(f));
    assert_int_equal(io_file_block(f), 1);
    assert_int_equal(fcntl(io_file_fd(f, 0), F_GETFL) & O_DIRECT, 0);
    assert_non_null(strstr(io_file_note(f), "65536 bytes, at most 4096"));
    io_file_close(f);
    assert_int_equal(io_file_open_scratch(io_test.dir, IO_FILE_REQUIRE_DIRECT, &f), 0);
    f->member[0].block = 65536;
    assert_int_equal(io_file_limit_block(f, 4096), -OFL_EDIRECT);
    assert_non_null(strstr(base_error_text(), "65536 bytes, at most 4096"));
    io_file_close(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(here),
        cmocka_unit_test(blocks_of_both_directions),
        cmocka_unit_test(small_reads_of_large_blocks),
        cmocka_unit_test(blocks_too_large),
        cmocka_unit_test(trials),
        cmocka_unit_test(small_file_systems),
        cmocka_unit_test(buffered_in_disguise_is_refused),
        cmocka_unit_test(reads_of_files),
    };

    if (argc == 3 && strcmp(argv[1], "--read") == 0)
        return print_read(argv[2]);
    if (argc == 3 || argc == 4)
        return print_scratch(argv[2], &(struct fs_below){argv[1], argc == 4 ? argv[3] : NULL});
    return cmocka_run_group_tests_name("io claims", tests, io_test_set_up, io_test_tear_down);
}
