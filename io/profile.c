/*
 * Profiles: see profile.h. Owns the file that keeps one: where it lies, what is believed
 * of it, and how it is replaced. The measurement is tune.c's.
 */
#include "io/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/file.h"
#include "io/tune.h"

#define FORMAT     "liboffload drive profile"
#define VERSION    2      /* 1 measured rewrites of other blocks, and did not see page caches below */
#define FILE_BYTES 65536u /* more is none of ours */

static void set_note(struct io_profile *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void set_note(struct io_profile *p, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(p->note, sizeof p->note, format, ap);
    va_end(ap);
}

/* ---- where ----------------------------------------------------------------- */

static const char *variable(const char *name)
{
    const char *value = secure_getenv(name);

    return value && value[0] ? value : NULL;
}

static int find_file(const char *key, char path[PATH_MAX])
{
    const char *own = variable("OFL_PROFILE_DIR"), *cache = variable("XDG_CACHE_HOME"),
               *home = variable("HOME");
    int length;

    if (own)
        length = snprintf(path, PATH_MAX, "%s/%s.json", own, key);
    else if (cache && cache[0] == '/') /* relative ones are to be ignored, says the specification */
        length = snprintf(path, PATH_MAX, "%s/liboffload/%s.json", cache, key);
    else if (home)
        length = snprintf(path, PATH_MAX, "%s/.cache/liboffload/%s.json", home, key);
    else
        return -ENOENT;
    return length < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* ---- reading ----------------------------------------------------------------- */

/* NULL if it can't be had: *err is -ENOENT, or why. */
static json_t *read_json(const char *path, int *err)
{
    char *text = malloc(FILE_BYTES);
    json_t *j = NULL;
    ssize_t got = -1;
    struct stat s;
    int fd = -1;

    *err = -ENOMEM;
    if (!text)
        return NULL;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &s) < 0) {
        *err = -errno;
    } else if (!S_ISREG(s.st_mode) || s.st_size >= FILE_BYTES) {
        *err = -EINVAL;
    } else {
        got = read(fd, text, FILE_BYTES);
        *err = got < 0 ? -errno : -EINVAL;
        j = got > 0 ? json_loadb(text, (size_t)got, JSON_REJECT_DUPLICATES, NULL) : NULL;
    }
    if (fd >= 0)
        close(fd);
    free(text);
    return j;
}

static bool take_integer(const json_t *j, const char *name, uint64_t least, uint64_t most, uint64_t *out)
{
    const json_t *value = json_object_get(j, name);
    json_int_t i = json_integer_value(value);

    if (!json_is_integer(value) || i < 0 || (uint64_t)i < least || (uint64_t)i > most)
        return false;
    *out = (uint64_t)i;
    return true;
}

static bool take_number(const json_t *j, const char *name, double most, double *out)
{
    const json_t *value = json_object_get(j, name);

    *out = json_number_value(value);
    return json_is_number(value) && isfinite(*out) && *out > 0 && *out <= most;
}

/* The same for what may be unknown. */
static bool take_number_or_0(const json_t *j, const char *name, double most, double *out)
{
    return take_number(j, name, most, out) || (json_is_number(json_object_get(j, name)) && *out == 0);
}

/* Figures that no measurement gives are none of ours. */
static bool take_figures(const json_t *j, struct io_profile *p)
{
    uint64_t piece, depth, flags;
    const char *note = json_string_value(json_object_get(j, "note"));

    if (!take_integer(j, "piece_bytes", 4096, 64u << 20, &piece) || (piece & (piece - 1)) ||
        !take_integer(j, "window_bytes", piece, 1u << 30, &p->tuning.window_bytes) ||
        !take_integer(j, "depth", 1, 4096, &depth) ||
        !take_integer(j, "flags", 0, IO_QUEUE_SQPOLL | IO_QUEUE_DEFER, &flags) ||
        (flags & ~(uint64_t)(IO_QUEUE_SQPOLL | IO_QUEUE_DEFER)) ||
        !take_integer(j, "read_latency_ns", 1, UINT64_C(1000000000000), &p->read_latency_ns) ||
        !take_integer(j, "measured_at", 1, INT64_MAX, &p->measured_at) ||
        !take_number(j, "read_bps", 1e15, &p->read_bps) ||
        !take_number(j, "write_bps", 1e15, &p->write_bps) ||
        !take_number(j, "mixed_bps", 1e15, &p->mixed_bps) ||
        !take_number(j, "first_write_ratio", 1e6, &p->first_write_ratio) ||
        !take_number_or_0(j, "unwritten_ratio", 1e6, &p->unwritten_ratio) ||
        !take_number(j, "measure_s", 1e6, &p->measure_s) || !note)
        return false;
    p->tuning.piece_bytes = (uint32_t)piece;
    p->tuning.depth = (uint32_t)depth;
    p->flags = (uint32_t)flags;
    set_note(p, "%s", note);
    for (char *c = p->note; *c; c++) /* it may go to a terminal */
        if (*c > 0 && *c < ' ')
            *c = '?';
    return true;
}

/* Whether p was filled from the file; its note says why not, if there is one. */
static bool load(const char *path, const char *key, struct io_profile *p)
{
    struct io_profile found = *p;
    const char *format, *key_there;
    uint64_t version = 0;
    int err;
    json_t *j = read_json(path, &err);
    bool taken = false;

    format = json_string_value(json_object_get(j, "format"));
    key_there = json_string_value(json_object_get(j, "key"));
    if (!j && err == -EINVAL)
        set_note(p, "%s: not a profile: ignored", path);
    else if (!j && err != -ENOENT && err != -ENOTDIR)
        set_note(p, "%s: %s", path, base_strerror(err));
    else if (j && (!format || strcmp(format, FORMAT) != 0))
        set_note(p, "%s: not a profile: ignored", path);
    else if (j && (!take_integer(j, "version", 0, INT64_MAX, &version) || version != VERSION))
        set_note(p, "%s: version %" PRIu64 ", not %d: ignored", path, version, VERSION);
    else if (j && (!key_there || strcmp(key_there, key) != 0))
        set_note(p, "%s: of another drive: ignored", path);
    else if (j && !take_figures(j, &found))
        set_note(p, "%s: damaged: ignored", path);
    else
        taken = j != NULL;
    if (taken) {
        *p = found;
        p->origin = IO_PROFILE_CACHED;
    }
    json_decref(j);
    return taken;
}

/* ---- writing ------------------------------------------------------------------- */

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* "" where the kernel's text is not UTF-8. */
static json_t *text(const char *value)
{
    json_t *j = json_string(value);

    return j ? j : json_string("");
}

/* NULL without memory. The drive is in it for people who open the file. */
static char *write_text(const struct io_profile *p, const char *key)
{
    json_t *j = json_pack("{s:s, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:o, "
                          "s:f, s:f, s:o, s:o}",
                          "format", FORMAT, "version", VERSION, "key", key, "drive", text(p->drive.name),
                          "model", text(p->drive.model), "link", text(p->drive.link), "filesystem",
                          text(p->drive.filesystem), "piece_bytes", integer(p->tuning.piece_bytes), "depth",
                          integer(p->tuning.depth), "window_bytes", integer(p->tuning.window_bytes), "flags",
                          integer(p->flags), "read_bps", p->read_bps, "write_bps", p->write_bps, "mixed_bps",
                          p->mixed_bps, "first_write_ratio", p->first_write_ratio, "read_latency_ns",
                          integer(p->read_latency_ns), "unwritten_ratio", p->unwritten_ratio, "measure_s",
                          p->measure_s, "measured_at", integer(p->measured_at), "note", text(p->note));
    /* 17 digits give the same double back */
    char *out = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17) | JSON_ENSURE_ASCII) : NULL;

    json_decref(j);
    return out;
}

static int make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        int failed;

        *slash = '\0';
        failed = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        /* a parent that exists, on a file system that is read only, is none to be made */
        if (failed && failed != -EROFS && failed != -EACCES && failed != -EPERM)
            return failed;
    }
    return 0;
}

static int write_all(int fd, const char *bytes, size_t count)
{
    ssize_t n;

    while (count) {
        n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        bytes += n;
        count -= (size_t)n;
    }
    return 0;
}

/* Beside the old file, then in its place: whoever reads sees the one or the other. */
static int replace(char *path, const char *bytes)
{
    char temporary[PATH_MAX + 8];
    struct io_sigxfsz guard;
    int fd, rc = make_parents(path);

    if (rc < 0)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    io_sigxfsz_block(&guard);
    rc = write_all(fd, bytes, strlen(bytes));
    io_sigxfsz_restore(&guard);
    if (rc == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0))
        rc = -errno;
    close(fd);
    if (rc == 0 && rename(temporary, path) < 0)
        rc = -errno;
    if (rc < 0)
        unlink(temporary);
    return rc;
}

/* Profiles are a convenience: one that can't be kept is noted, and no failure. */
static void save(char *path, const char *key, struct io_profile *p)
{
    char *bytes = write_text(p, key);
    int rc = bytes ? replace(path, bytes) : -ENOMEM;

    if (rc < 0)
        set_note(p, "not kept: %s: %s", path, base_strerror(rc));
    free(bytes);
}

/* ---- from the outside -------------------------------------------------------------- */

int io_profile_get(const char *dir, unsigned flags, bool (*progress)(void *arg, double share), void *arg,
                   struct io_profile *out)
{
    char key[IO_DRIVE_KEY_BYTES], path[PATH_MAX];
    int rc, found;

    *out = (struct io_profile){0};
    if (flags & ~(unsigned)(IO_PROFILE_MEASURE | IO_PROFILE_ANEW))
        return base_fail(-EINVAL, "profile of %s: unknown flags 0x%x", dir, flags);
    rc = io_drive_get(dir, &out->drive);
    if (rc < 0)
        return rc;
    io_drive_key(&out->drive, key, sizeof key);
    found = find_file(key, path);
    if (!(flags & IO_PROFILE_ANEW) && found == 0 && load(path, key, out))
        return 0;
    if (!(flags & (IO_PROFILE_MEASURE | IO_PROFILE_ANEW)))
        return 0;
    out->note[0] = '\0';
    rc = io_tune_measure(dir, progress, arg, out);
    if (rc == -ECANCELED)
        return rc;
    if (rc < 0) {
        set_note(out, "%s", base_error_text());
        return 0;
    }
    out->origin = IO_PROFILE_MEASURED;
    out->measured_at = (uint64_t)time(NULL);
    if (found == 0)
        save(path, key, out);
    else
        set_note(out, "not kept: %s",
                 found == -ENOENT ? "neither XDG_CACHE_HOME nor HOME is set" : base_strerror(found));
    return 0;
}
