/* common: progress on stderr and the JSON report. See common.h. */
#include "examples/common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAWS_PER_SECOND 6.0
#define LINE_EVERY_S     10.0

/* ---- progress ----------------------------------------------------------- */

static bool drawn, quiet;
static char shown[512];
static double last_drawn, last_line;

void common_quiet(void)
{
    quiet = true;
}

bool common_progress_due(void)
{
    return !quiet && isatty(STDERR_FILENO) && common_seconds() - last_drawn >= 1 / DRAWS_PER_SECOND;
}

void common_progress(const char *format, ...)
{
    struct winsize window = {0};
    va_list ap;

    if (!common_progress_due())
        return;
    va_start(ap, format);
    vsnprintf(shown, sizeof shown, format, ap);
    va_end(ap);
    common_clean(shown);
    /* A line that wraps could not be drawn over. */
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && window.ws_col <= sizeof shown)
        shown[window.ws_col - 1] = '\0';
    fprintf(stderr, "\r\033[K%s", shown);
    fflush(stderr);
    drawn = true;
    last_drawn = common_seconds();
}

void common_progress_clear(void)
{
    if (drawn)
        fputs("\r\033[K", stderr);
    drawn = false;
}

static void print_line(const char *format, va_list ap)
{
    common_progress_clear();
    if (quiet && strncmp(format, "warning:", 8) != 0)
        return;
    common_print(format, ap);
}

void common_line(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    print_line(format, ap);
    va_end(ap);
}

void common_line_above(const char *format, ...)
{
    bool again = drawn;
    va_list ap;

    va_start(ap, format);
    print_line(format, ap);
    va_end(ap);
    if (!again)
        return;
    fputs(shown, stderr);
    fflush(stderr);
    drawn = true;
}

struct common_text common_clock(double seconds)
{
    struct common_text t;
    unsigned long long s = seconds > 0 && seconds < 1e12 ? (unsigned long long)(seconds + 0.5) : 0;

    snprintf(t.text, sizeof t.text, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    return t;
}

void common_progress_bytes(const char *what, uint64_t done, uint64_t total)
{
    static const char *last_what;
    static uint64_t last_done;
    double now = common_seconds();

    /* A short one says nothing where lines stay, however long ago another one was. */
    if (!last_what || strcmp(what, last_what) != 0 || done < last_done)
        last_line = now;
    last_what = what;
    last_done = done;
    if (common_progress_due()) {
        common_progress("%s %s of %s", what, common_bytes(done).text, common_bytes(total).text);
    } else if (!isatty(STDERR_FILENO) && now - last_line >= LINE_EVERY_S) {
        common_line("%s %s of %s", what, common_bytes(done).text, common_bytes(total).text);
        last_line = now;
    }
}

void common_log(void *arg, enum ofl_log_level level, const char *text)
{
    (void)arg;
    /* Called from the library's threads: one write, and the line being drawn is left alone. */
    if (level == OFL_LOG_WARNING) {
        char clean[COMMON_ERROR_BYTES];

        snprintf(clean, sizeof clean, "%s", text);
        common_clean(clean);
        fprintf(stderr, "%s%s: warning: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "",
                program_invocation_short_name, clean);
    }
}

/* ---- report ------------------------------------------------------------- */

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *tiers(const uint64_t bytes[OFL_TIERS])
{
    return json_pack("{s:o, s:o, s:o}", "device", integer(bytes[OFL_DEVICE]), "host",
                     integer(bytes[OFL_HOST]), "nvme", integer(bytes[OFL_NVME]));
}

static json_t *seconds(uint64_t ns)
{
    return json_real((double)ns * 1e-9);
}

static json_t *direction(uint64_t bytes, uint64_t transfers, uint64_t p50, uint64_t p99, uint64_t p999)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "bytes", integer(bytes), "transfers", integer(transfers),
                     "p50_s", seconds(p50), "p99_s", seconds(p99), "p999_s", seconds(p999));
}

json_t *common_drives_json(struct ofl_ctx *ctx)
{
    json_t *drives = json_array();
    struct ofl_path_stats s = {.size = sizeof s};
    int err = 0;

    for (uint32_t i = 0; ofl_path_stats_get(ctx, i, &s) == 0; i++) {
        double days = (double)s.since_ns / 86400e9;

        err |= json_array_append_new(
            drives,
            json_pack(
                "{s:s*, s:o, s:o, s:o, s:o, s:o, s:f}", "name", s.name, "read",
                direction(s.read_bytes, s.read_transfers, s.read_p50_ns, s.read_p99_ns, s.read_p999_ns),
                "write",
                direction(s.write_bytes, s.write_transfers, s.write_p50_ns, s.write_p99_ns, s.write_p999_ns),
                "errors", integer(s.errors), "busy_s", seconds(s.busy_ns), "empty_s", seconds(s.empty_ns),
                "write_bytes_per_day", days > 0 ? (double)s.write_bytes / days : 0));
    }
    if (err) {
        json_decref(drives);
        return NULL;
    }
    return drives;
}

int common_report_stats(json_t *report, const struct ofl_stats *s, json_t *drives, json_t *stalls)
{
    json_t *moved =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "source_read", integer(s->source_read_bytes), "nvme_read",
                  integer(s->nvme_read_bytes), "nvme_write", integer(s->nvme_write_bytes), "device_in",
                  integer(s->device_in_bytes), "device_out", integer(s->device_out_bytes), "written",
                  integer(s->written_bytes));
    json_t *planned =
        json_pack("{s:o, s:o, s:o, s:o}", "device_in", integer(s->planned_in_bytes), "device_out",
                  integer(s->planned_out_bytes), "drive_read", integer(s->planned_read_bytes), "drive_write",
                  integer(s->planned_write_bytes));
    json_t *io =
        json_pack("{s:b, s:b, s:b, s:b, s:o, s:b, s:b, s:i, s:o, s:o}", "uring", s->io_uring, "direct",
                  s->direct, "reserved", s->nvme_reserved, "cached", s->nvme_cached, "memory",
                  integer(s->nvme_memory_bytes), "pinned", s->pinned, "registered", s->registered,
                  "numa_node", s->numa_node, "tile_bytes", integer(s->tile_bytes), "drives", drives);
    const struct {
        const char *name;
        json_t *value;
    } fields[] = {{"budget", tiers(s->budget_bytes)},
                  {"peak", tiers(s->peak_bytes)},
                  {"moved", moved},
                  {"planned", planned},
                  {"stall_s", json_real((double)s->stall_ns * 1e-9)},
                  {"worst_stalls", stalls},
                  {"hits", integer(s->hits)},
                  {"misses", integer(s->misses)},
                  {"evictions", integer(s->evictions)},
                  {"prefetches", integer(s->prefetches)},
                  {"off_plan", integer(s->off_plan)},
                  {"updates", integer(s->updates)},
                  {"io", io}};
    int err = 0;

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        err |= json_object_set_new(report, fields[i].name, fields[i].value);
    return err ? common_fail(EXIT_FULL, "make the report: out of memory") : 0;
}

static bool is_open_as(int fd, const struct stat *file)
{
    struct stat s;

    return fstat(fd, &s) == 0 && s.st_dev == file->st_dev && s.st_ino == file->st_ino;
}

/*
 * Where the report for path goes: *whole is the regular file to make or to replace, to be freed;
 * NULL: what is at path can only be written to, since it is no regular file, or is what stdout or
 * stderr leads to and holds lines already.
 */
static int settle_target(const char *path, char **whole)
{
    struct stat s;
    bool link = lstat(path, &s) == 0 && S_ISLNK(s.st_mode);

    *whole = NULL;
    if (stat(path, &s) < 0) {
        if (errno != ENOENT || link) /* a link to nowhere is refused */
            return -errno;
        *whole = strdup(path);
        return *whole ? 0 : -ENOMEM;
    }
    if (S_ISDIR(s.st_mode))
        return -EISDIR;
    if (!S_ISREG(s.st_mode) || is_open_as(STDOUT_FILENO, &s) || is_open_as(STDERR_FILENO, &s))
        return 0;
    *whole = realpath(path, NULL);
    return *whole ? 0 : -errno;
}

int common_report_check(const char *path)
{
    char *whole, *slash;
    int err = settle_target(path, &whole);

    if (err < 0)
        return err;
    if (!whole)
        return access(path, W_OK) < 0 ? -errno : 0;
    slash = strrchr(whole, '/');
    if (slash)
        slash[1] = '\0';
    err = access(slash ? whole : ".", W_OK | X_OK) < 0 ? -errno : 0;
    free(whole);
    return err;
}

#define REPORT_FORM (JSON_INDENT(2) | JSON_REAL_PRECISION(17) | JSON_ENSURE_ASCII)

static int write_json(FILE *f, json_t *report)
{
    int err = json_dumpf(report, f, REPORT_FORM);

    errno = errno ? errno : EIO;
    return err < 0 || fputc('\n', f) == EOF || fflush(f) == EOF ? -errno : 0;
}

/* Takes fd, also if it fails. */
static int write_and_close(int fd, json_t *report)
{
    FILE *f = fdopen(fd, "w");
    int err;

    if (!f) {
        err = -errno;
        close(fd);
        return err;
    }
    errno = 0;
    err = write_json(f, report);
    if (err == 0 && fsync(fd) < 0)
        err = -errno;
    if (fclose(f) == EOF && err == 0)
        err = -errno;
    return err;
}

static int write_through(const char *path, json_t *report)
{
    char *text = json_dumps(report, REPORT_FORM);
    int fd = text ? common_open_to_write(path, O_APPEND) : -ENOMEM, err = fd < 0 ? fd : 0;

    if (err == 0)
        err = common_write_all(fd, text, strlen(text));
    if (err == 0)
        err = common_write_all(fd, "\n", 1);
    if (fd >= 0 && close(fd) < 0 && err == 0)
        err = -errno;
    free(text);
    return err;
}

static int write_whole(const char *path, json_t *report)
{
    char *temporary;
    int fd = common_file_begin(path, &temporary);

    return fd < 0 ? fd : common_file_end(path, temporary, write_and_close(fd, report));
}

int common_report_write(const char *path, json_t *report)
{
    char *whole;
    int err = settle_target(path, &whole);

    if (err == 0)
        err = whole ? write_whole(whole, report) : write_through(path, report);
    free(whole);
    if (err == -ECANCELED)
        return common_fail(EXIT_INTERRUPTED, "write %s: interrupted, nobody has read it", path);
    return err < 0 ? common_fail(common_status_late(err), "write %s: %s", path, strerror(-err)) : 0;
}
