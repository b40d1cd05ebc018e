/*
 * Proves that a drive's profile is what was measured or nothing: what is kept comes back bit by
 * bit; what is damaged, foreign, of another version or another drive counts as absent, with a note
 * that says why; a measurement gives figures that can be, keeps them whole, ends when it is told to,
 * and leaves no file in the directory that it measured. Nothing here looks at how fast anything is.
 *
 * Negative controls: every case of damage starts from a profile that is accepted; the same
 * measurement that is cancelled also runs to its end.
 */
#include "tests/io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/layout.h"
#include "io/profile.h"

static char profiles[600]; /* OFL_PROFILE_DIR of each test; not made yet */
static char key[IO_DRIVE_KEY_BYTES];

/* ---- files ---------------------------------------------------------------- */

static void join(char path[1024], const char *dir, const char *name)
{
    assert_true(snprintf(path, 1024, "%s/%s", dir, name) < 1024);
}

/* The profile's path in a directory of profiles. */
static void file_in(char path[1024], const char *dir)
{
    assert_true(snprintf(path, 1024, "%s/%s.json", dir, key) < 1024);
}

static void make_dirs(const char *dir)
{
    char path[1024];

    snprintf(path, sizeof path, "%s/", dir);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0755);
        *slash = '/';
    }
}

static void put(const char *dir, const void *bytes, size_t count)
{
    char path[1024];
    FILE *f;

    make_dirs(dir);
    file_in(path, dir);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *walk)
{
    (void)s;
    (void)kind;
    return walk->level == 0 ? 0 : remove(path);
}

/* ---- a profile that is fine -------------------------------------------------- */

struct fields {
    const char *format, *version, *key, *piece, *window, *depth, *flags, *read, *latency, *note, *more;
};

static const struct fields fine = {.format = "\"liboffload drive profile\"",
                                   .version = "2",
                                   .piece = "2097152",
                                   .window = "16777216",
                                   .depth = "96",
                                   .flags = "0",
                                   .read = "7123456789.0123453",
                                   .latency = "81234",
                                   .note = "a note",
                                   .more = ""};

/* Fields that are NULL are the fine ones. */
static size_t print(const struct fields *f, char *text, size_t bytes)
{
    char own[IO_DRIVE_KEY_BYTES + 2];

    snprintf(own, sizeof own, "\"%s\"", key);
#define OR(field) (f->field ? f->field : fine.field)
    return (size_t)snprintf(text, bytes,
                            "{\"format\": %s, \"version\": %s, \"key\": %s, \"piece_bytes\": %s, "
                            "\"window_bytes\": %s, \"depth\": %s, \"flags\": %s, \"read_bps\": %s, "
                            "\"write_bps\": 5000000000.0000048, \"mixed_bps\": 0.1, \"first_write_ratio\": "
                            "0.33333333333333331, \"unwritten_ratio\": 0.75, \"read_latency_ns\": %s, "
                            "\"measure_s\": 2.5, "
                            "\"measured_at\": 1700000000, \"note\": \"%s\"%s}",
                            OR(format), OR(version), f->key ? f->key : own, OR(piece), OR(window), OR(depth),
                            OR(flags), OR(read), OR(latency), OR(note), OR(more));
#undef OR
}

static void get(struct io_profile *p)
{
    assert_int_equal(io_profile_get(io_test.dir, 0, NULL, NULL, p), 0);
}

static void assert_fine(const struct io_profile *p)
{
    assert_int_equal(p->origin, IO_PROFILE_CACHED);
    assert_int_equal(p->tuning.piece_bytes, 2097152);
    assert_int_equal(p->tuning.window_bytes, 16777216);
    assert_int_equal(p->tuning.depth, 96);
    assert_int_equal(p->flags, 0);
    assert_true(p->read_bps == 7123456789.0123453 && p->write_bps == 5000000000.0000048 &&
                p->mixed_bps == 0.1);
    assert_true(p->first_write_ratio == 1.0 / 3 && p->unwritten_ratio == 0.75 && p->measure_s == 2.5);
    assert_int_equal(p->read_latency_ns, 81234);
    assert_int_equal(p->measured_at, 1700000000);
    assert_string_equal(p->note, "a note");
    assert_string_not_equal(p->drive.filesystem, "");
}

static void assert_absent(const struct io_profile *p, const char *why)
{
    assert_int_equal(p->origin, IO_PROFILE_DEFAULT);
    assert_int_equal(p->tuning.piece_bytes, 0);
    assert_int_equal(p->tuning.window_bytes, 0);
    assert_int_equal(p->flags, 0);
    assert_true(p->read_bps == 0);
    if (!strstr(p->note, why) || (!why[0] && p->note[0]))
        fail_msg("note \"%s\" instead of \"%s\"", p->note, why);
}

static void kept_profile(void **state)
{
    char text[2048];
    struct io_profile p;

    (void)state;
    get(&p);
    assert_absent(&p, "");
    put(profiles, text, print(&fine, text, sizeof text));
    get(&p);
    assert_fine(&p);
    /* MEASURE takes one that is kept. */
    assert_int_equal(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, NULL, NULL, &p), 0);
    assert_fine(&p);
}

/* ---- profiles that are not ----------------------------------------------------- */

static void foreign_profiles(void **state)
{
    static const struct {
        struct fields f;
        const char *why;
    } cases[] = {
        {{.version = "1"}, "version 1, not 2"},
        {{.version = "3"}, "version 3, not 2"},
        {{.version = "\"2\""}, "version"},
        {{.version = "2.0"}, "version"},
        {{.format = "\"something else\""}, "not a profile"},
        {{.format = "null"}, "not a profile"},
        {{.key = "\"ext4-0000000000000000\""}, "another drive"},
        {{.key = "7"}, "another drive"},
        {{.piece = "0"}, "damaged"},
        {{.piece = "-1"}, "damaged"},
        {{.piece = "3145728"}, "damaged"}, /* no power of two */
        {{.piece = "134217728"}, "damaged"},
        {{.piece = "4294967296"}, "damaged"},
        {{.piece = "1048576.0"}, "damaged"},
        {{.window = "1048576"}, "damaged"}, /* less than a piece */
        {{.window = "99999999999"}, "damaged"},
        {{.window = "[]"}, "damaged"},
        {{.depth = "0"}, "damaged"},
        {{.depth = "4097"}, "damaged"},
        {{.flags = "2"}, "damaged"}, /* IOPOLL is never chosen */
        {{.flags = "8"}, "damaged"},
        {{.read = "0"}, "damaged"},
        {{.read = "-1.5"}, "damaged"},
        {{.read = "1e300"}, "damaged"},
        {{.read = "1e999"}, "not a profile"},
        {{.read = "\"fast\""}, "damaged"},
        {{.latency = "0"}, "damaged"},
        {{.latency = "9223372036854775808"}, "not a profile"},
        {{.more = ", \"version\": 2"}, "not a profile"}, /* twice */
        {{.more = "}, {"}, "not a profile"},
    };
    struct io_profile p;
    char text[2048];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put(profiles, text, print(&cases[i].f, text, sizeof text));
        get(&p);
        assert_absent(&p, cases[i].why);
        if (!strstr(p.note, profiles))
            fail_msg("case %zu: the note doesn't name the file: %s", i, p.note);
    }
    put(profiles, text, print(&(struct fields){.flags = "5", .more = ", \"later\": {}"}, text, sizeof text));
    get(&p);
    assert_int_equal(p.origin, IO_PROFILE_CACHED);
    assert_int_equal(p.flags, IO_QUEUE_SQPOLL | IO_QUEUE_DEFER);
}

static void truncated_profiles(void **state)
{
    char text[2048];
    size_t count = print(&fine, text, sizeof text);
    struct io_profile p;

    (void)state;
    for (size_t i = 0; i < count; i++) {
        put(profiles, text, i);
        get(&p);
        assert_absent(&p, "not a profile");
    }
    put(profiles, text, count);
    get(&p);
    assert_fine(&p);
}

static void no_profiles_at_all(void **state)
{
    static const char binary[] = "\0\1\2\377\376{}\0";
    char path[1024], *large = calloc(1, 1 << 20);
    struct io_profile p;

    (void)state;
    assert_non_null(large);
    put(profiles, binary, sizeof binary);
    get(&p);
    assert_absent(&p, "not a profile");
    memset(large, ' ', 1 << 20);
    print(&fine, large, 2048);
    large[strlen(large)] = ' '; /* would be fine, but for the size */
    put(profiles, large, 1 << 20);
    get(&p);
    assert_absent(&p, "not a profile");
    memset(large, '[', 60000);
    put(profiles, large, 60000);
    get(&p);
    assert_absent(&p, "not a profile");
    free(large);

    file_in(path, profiles);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    get(&p); /* does not wait for a writer */
    assert_absent(&p, "not a profile");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    get(&p);
    assert_absent(&p, "not a profile");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    get(&p);
    assert_absent(&p, "");
}

static void control_characters(void **state)
{
    char text[2048];
    struct io_profile p;

    (void)state;
    put(profiles, text, print(&(struct fields){.note = "\\u001b[2J\\n"}, text, sizeof text));
    get(&p);
    assert_int_equal(p.origin, IO_PROFILE_CACHED);
    assert_string_equal(p.note, "?[2J?");
}

/* ---- where it lies ---------------------------------------------------------------- */

static void directories(void **state)
{
    char text[2048], cache[700], home[700], dir[800];
    size_t count = print(&fine, text, sizeof text);
    struct io_profile p;

    (void)state;
    snprintf(cache, sizeof cache, "%s/cache", profiles);
    snprintf(home, sizeof home, "%s/home", profiles);
    snprintf(dir, sizeof dir, "%s/liboffload", cache);
    put(dir, text, count);
    unsetenv("OFL_PROFILE_DIR");
    setenv("HOME", home, 1);
    setenv("XDG_CACHE_HOME", cache, 1);
    get(&p);
    assert_fine(&p);
    setenv("OFL_PROFILE_DIR", home, 1); /* goes first */
    get(&p);
    assert_absent(&p, "");
    setenv("OFL_PROFILE_DIR", "", 1); /* counts as not set */
    get(&p);
    assert_fine(&p);
    unsetenv("XDG_CACHE_HOME");
    get(&p);
    assert_absent(&p, "");
    snprintf(dir, sizeof dir, "%s/.cache/liboffload", home);
    put(dir, text, count);
    get(&p);
    assert_fine(&p);
    setenv("XDG_CACHE_HOME", "relative", 1); /* not allowed, says the specification */
    get(&p);
    assert_fine(&p);
    unsetenv("HOME");
    unsetenv("XDG_CACHE_HOME");
    get(&p);
    assert_absent(&p, "");
}

static void wrong_calls(void **state)
{
    char path[1024];
    struct io_profile p;

    (void)state;
    assert_int_equal(io_profile_get(io_test.dir, 4, NULL, NULL, &p), -EINVAL);
    assert_non_null(strstr(base_error_text(), "0x4"));
    join(path, io_test.dir, "none");
    assert_int_equal(io_profile_get(path, 0, NULL, NULL, &p), -ENOENT);
    assert_non_null(strstr(base_error_text(), path));
    assert_int_equal(p.origin, IO_PROFILE_DEFAULT);
}

/* ---- measurements ------------------------------------------------------------------ */

/* Measurements need a drive, direct I/O and some space. */
static bool cant_measure(void)
{
    if (io_test.direct)
        return false;
    fprintf(stderr, "skipped: no direct I/O in %s\n", io_test.dir);
    return true;
}

struct watch {
    unsigned calls, stop_at;
    double last;
    bool wrong;
};

static bool watch(void *arg, double share)
{
    struct watch *w = arg;

    w->wrong |= share < w->last || share < 0 || share > 1;
    w->last = share;
    return ++w->calls != w->stop_at;
}

static bool is_figure(double value)
{
    return isfinite(value) && value > 0;
}

static void assert_measured(const struct io_profile *p)
{
    if (p->origin != IO_PROFILE_MEASURED)
        fail_msg("not measured: %s", p->note);
    assert_true(is_figure(p->read_bps) && is_figure(p->write_bps) && is_figure(p->mixed_bps));
    assert_true(is_figure(p->first_write_ratio) && is_figure(p->measure_s));
    assert_true(p->read_latency_ns > 0);
    assert_true(p->measured_at > 1500000000);
    assert_true(p->tuning.piece_bytes >= 256 << 10 && p->tuning.piece_bytes <= 4 << 20);
    assert_true(p->tuning.window_bytes >= p->tuning.piece_bytes && p->tuning.window_bytes <= 32 << 20);
    assert_true((uint64_t)p->tuning.depth * p->tuning.piece_bytes >= p->tuning.window_bytes);
    assert_int_equal(p->flags & ~(IO_QUEUE_SQPOLL | IO_QUEUE_DEFER), 0);
}

static void measured_and_kept(void **state)
{
    char deep[700], path[1024];
    struct io_profile p, again;
    struct watch w = {0};
    struct stat s;

    (void)state;
    if (cant_measure())
        skip();
    snprintf(deep, sizeof deep, "%s/a/b", profiles);
    setenv("OFL_PROFILE_DIR", deep, 1);
    umask(022);
    assert_int_equal(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, watch, &w, &p), 0);
    assert_measured(&p);
    assert_true(w.calls > 10 && !w.wrong && w.last > 0);
    get(&again);
    assert_int_equal(again.origin, IO_PROFILE_CACHED);
    again.origin = IO_PROFILE_MEASURED;
    again.drive = p.drive; /* asked anew: free space may have changed */
    assert_memory_equal(&p.tuning, &again.tuning, sizeof p.tuning);
    assert_true(p.read_bps == again.read_bps && p.write_bps == again.write_bps &&
                p.mixed_bps == again.mixed_bps && p.first_write_ratio == again.first_write_ratio &&
                p.unwritten_ratio == again.unwritten_ratio && p.measure_s == again.measure_s);
    assert_int_equal(p.read_latency_ns, again.read_latency_ns);
    assert_int_equal(p.measured_at, again.measured_at);
    assert_int_equal(p.flags, again.flags);
    assert_string_equal(p.note, again.note);
    file_in(path, deep);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0644);
    assert_int_equal(stat(deep, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0755);
    assert_int_equal(io_test_entries_in(deep), 1);
    assert_int_equal(io_test_entries_in(io_test.dir), 1); /* the directory of profiles */
}

static void cancelled(void **state)
{
    struct io_profile p;

    (void)state;
    if (cant_measure())
        skip();
    for (unsigned stop_at = 1; stop_at < 20; stop_at += 6) {
        struct watch w = {.stop_at = stop_at};

        assert_int_equal(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, watch, &w, &p), -ECANCELED);
        assert_int_equal(w.calls, stop_at); /* and never again */
        assert_non_null(strstr(base_error_text(), "ended on request"));
        assert_int_equal(p.origin, IO_PROFILE_DEFAULT);
        assert_true(p.read_bps == 0 && p.tuning.piece_bytes == 0);
        assert_int_equal(io_test_entries_in(io_test.dir), 0);
    }
}

/* No directory for it: the figures are there all the same. */
static void measured_but_not_kept(void **state)
{
    char below[700];
    struct io_profile p;

    (void)state;
    if (cant_measure())
        skip();
    put(profiles, "x", 1);
    snprintf(below, sizeof below, "%s/%s.json/below", profiles, key);
    setenv("OFL_PROFILE_DIR", below, 1);
    assert_int_equal(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, NULL, NULL, &p), 0);
    assert_measured(&p);
    assert_non_null(strstr(p.note, "not kept"));
    assert_non_null(strstr(p.note, below));
    get(&p);
    assert_absent(&p, "");
}

static int measure_anew(void *arg)
{
    struct io_profile p;

    (void)arg;
    CHECK(io_profile_get(io_test.dir, IO_PROFILE_ANEW | IO_PROFILE_MEASURE, NULL, NULL, &p) == 0);
    CHECK(p.origin == IO_PROFILE_MEASURED);
    return 0;
}

/* Whoever looks meanwhile sees the old profile or the new one, never a part. */
static void two_at_once(void **state)
{
    char text[2048];
    unsigned running = 2, looks = 0;
    pid_t children[2];
    struct io_profile p;
    int status;

    (void)state;
    if (cant_measure())
        skip();
    put(profiles, text, print(&fine, text, sizeof text));
    fflush(NULL);
    for (unsigned i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            _exit(measure_anew(NULL));
    }
    while (running) {
        pid_t gone = waitpid(-1, &status, WNOHANG);

        if (gone > 0) {
            running--;
            io_test_judge_child(status);
        }
        get(&p);
        if (p.origin != IO_PROFILE_CACHED)
            fail_msg("look %u: %s", looks, p.note);
        looks++;
        usleep(1000);
    }
    assert_true(looks > 10);
    get(&p);
    assert_true(p.measured_at != 1700000000); /* replaced */
    assert_int_equal(io_test_entries_in(profiles), 1);
}

/* ---- where it can't be measured ------------------------------------------------------ */

static void page_cache_only(void **state)
{
    char dir[] = "/dev/shm/test_io_profile-XXXXXX";
    double read_bps = 1, write_bps = 1;
    struct io_profile p;
    struct statfs fs;

    (void)state;
    if (statfs("/dev/shm", &fs) < 0 || fs.f_type != TMPFS_MAGIC || !mkdtemp(dir)) {
        fprintf(stderr, "skipped: no tmpfs at /dev/shm\n");
        skip();
    }
    assert_int_equal(io_profile_get(dir, IO_PROFILE_MEASURE, NULL, NULL, &p), 0);
    assert_int_equal(io_profile_measure_rates(dir, &read_bps, &write_bps), -OFL_EDIRECT);
    assert_int_equal(rmdir(dir), 0);
    assert_absent(&p, "buffered");
    assert_true(read_bps == 0 && write_bps == 0);
    assert_int_equal(io_test_entries_in(io_test.dir), 0); /* nothing was kept */
}

static int measure_with_small_files(void *arg)
{
    struct rlimit limit = {.rlim_cur = 32u << 20, .rlim_max = 32u << 20};
    struct io_profile p;

    (void)arg;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, NULL, NULL, &p) == 0);
    CHECK(p.origin == IO_PROFILE_DEFAULT);
    CHECK(strstr(p.note, "file-size limit") != NULL);
    return 0;
}

static void file_size_limit(void **state)
{
    (void)state;
    io_test_child_passes(measure_with_small_files, NULL);
}

static int measure_without_ring(void *arg)
{
    const struct io_test_filter f = {.nr = SYS_io_uring_setup, .code = EPERM};
    struct io_profile p;
    int rc = io_test_forbid(&f);

    (void)arg;
    if (rc)
        return rc;
    CHECK(io_profile_get(io_test.dir, IO_PROFILE_MEASURE, NULL, NULL, &p) == 0);
    CHECK(p.origin == IO_PROFILE_MEASURED);
    CHECK(p.flags == 0);
    CHECK(is_figure(p.read_bps) && is_figure(p.write_bps));
    return 0;
}

static void without_ring(void **state)
{
    (void)state;
    if (cant_measure())
        skip();
    io_test_child_passes(measure_without_ring, NULL);
}

static void quick_rates(void **state)
{
    double read_bps = 0, write_bps = 0;
    char path[1024];

    (void)state;
    join(path, io_test.dir, "none");
    assert_int_equal(io_profile_measure_rates(path, &read_bps, &write_bps), -ENOENT);
    if (cant_measure())
        skip();
    if (io_profile_measure_rates(io_test.dir, &read_bps, &write_bps) < 0)
        fail_msg("%s", base_error_text());
    assert_true(is_figure(read_bps) && is_figure(write_bps));
    assert_int_equal(io_test_entries_in(io_test.dir), 0); /* no profile either */
}

static int clean(void **state);

/* ---- figures that are of something else ------------------------------------------------ */

/* Makes a file system in a file, on a loop device, and measures it. */
struct small {
    const char *mkfs, *options;
    bool cached; /* below */
};

/* Whether the file system takes other blocks for what is to be forgotten. */
static bool moves(const char *where)
{
    const size_t bytes = 16 << 20;
    void *buf = io_test_aligned(bytes);
    struct io_layout before = {0}, after = {0};
    uint64_t common = 0;
    struct io_file *f;

    memset(buf, 1, bytes);
    if (io_file_open_scratch(where, 0, &f) == 0) {
        if (io_file_reserve(f, bytes) == 0 && pwrite(io_file_fd(f, 0), buf, bytes, 0) == (ssize_t)bytes &&
            io_layout_get(io_file_fd(f, 0), bytes, &before) == 0 && io_file_zero(f, 0, bytes) == 0 &&
            io_layout_get(io_file_fd(f, 0), bytes, &after) == 0)
            common = io_layout_common(&before, &after, bytes);
        io_layout_free(&before);
        io_layout_free(&after);
        io_file_close(f);
    }
    free(buf);
    return common < bytes;
}

static int measure_small(void *arg)
{
    const struct small *s = arg;
    char command[2000], where[700];
    struct io_profile p;

    if (!io_test_may_mount())
        return IO_TEST_SKIPPED;
    snprintf(where, sizeof where, "%s/m", io_test.dir);
    snprintf(
        command, sizeof command,
        "PATH=$PATH:/usr/sbin:/sbin; exec >/dev/null 2>&1; cd '%s' && mkdir m && truncate -s 1G image && %s "
        "image "
        "&& d=$(losetup %s --show -f image) && mount $d m; r=$?; [ -z \"$d\" ] || losetup -d $d; exit $r",
        io_test.dir, s->mkfs, s->options);
    if (system(command) != 0) {
        fprintf(stderr, "skipped: %s and mount don't work here\n", s->mkfs);
        return IO_TEST_SKIPPED;
    }
    CHECK(io_profile_get(where, IO_PROFILE_MEASURE, NULL, NULL, &p) == 0);
    CHECK(p.origin == IO_PROFILE_MEASURED && is_figure(p.first_write_ratio));
    CHECK(moves(where) ? p.unwritten_ratio == 0 : is_figure(p.unwritten_ratio));
    CHECK(s->cached == (strstr(p.note, "page cache") != NULL));
    CHECK(io_profile_get(where, 0, NULL, NULL, &p) == 0);
    CHECK(p.origin == IO_PROFILE_CACHED && s->cached == (strstr(p.note, "page cache") != NULL));
    return 0;
}

static void figures_of_something_else(void **state)
{
    static const struct small cases[] = {
        {"mkfs.xfs -q", "--direct-io=on", .cached = false},
        {"mkfs.ext4 -q -F", "--direct-io=on", .cached = false},
        {"mkfs.ext4 -q -F", "--direct-io=off", .cached = true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct small s = cases[i];
        int status = io_test_in_child(measure_small, &s);

        assert_int_equal(clean(NULL), 0);
        io_test_judge_child(status);
    }
}

/* ---- frame ------------------------------------------------------------------------------ */

static int set_up(void **state)
{
    struct io_drive d;
    char *real;

    if (io_test_set_up(state) < 0)
        return -1;
    /* XDG_CACHE_HOME has to be absolute. */
    real = realpath(io_test.dir, NULL);
    if (!real || strlen(real) >= sizeof io_test.dir || io_drive_get(real, &d) < 0)
        return -1;
    strcpy(io_test.dir, real);
    free(real);
    io_drive_key(&d, key, sizeof key);
    snprintf(profiles, sizeof profiles, "%s/profiles", io_test.dir);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    return setenv("OFL_PROFILE_DIR", profiles, 1);
}

static int clean(void **state)
{
    (void)state;
    return nftw(io_test.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, fresh, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(kept_profile),
        CASE(foreign_profiles),
        CASE(truncated_profiles),
        CASE(no_profiles_at_all),
        CASE(control_characters),
        CASE(directories),
        CASE(wrong_calls),
        CASE(measured_and_kept),
        CASE(cancelled),
        CASE(two_at_once),
        CASE(measured_but_not_kept),
        CASE(page_cache_only),
        CASE(file_size_limit),
        CASE(without_ring),
        CASE(quick_rates),
        CASE(figures_of_something_else),
    };

    return cmocka_run_group_tests_name("io profile", tests, set_up, io_test_tear_down);
}
