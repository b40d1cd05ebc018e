/*
 * ofl-bench probe: the drives behind directories and mounted file systems: what the kernel
 * tells of them, whether direct I/O works there, and what was measured.
 */
#include "bench/probe_drives.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "bench/probe_text.h"
#include "io/drive.h"
#include "io/io.h"
#include "io/profile.h"

/* What was listed, so that nothing is twice. */
struct seen {
    unsigned count;
    char key[256][IO_DRIVE_KEY_BYTES];
};

static bool is_new(struct seen *s, const struct io_drive *d)
{
    char key[IO_DRIVE_KEY_BYTES];

    io_drive_key(d, key, sizeof key);
    for (unsigned i = 0; i < s->count; i++)
        if (strcmp(s->key[i], key) == 0)
            return false;
    if (s->count < ARRAY_COUNT(s->key))
        memcpy(s->key[s->count++], key, sizeof key);
    return true;
}

static const char *or_unknown(const char *text)
{
    return text[0] ? text : "unknown";
}

/* ---- what the kernel tells --------------------------------------------------- */

static void print_drive(const struct io_drive *d)
{
    struct probe_list l = {0};

    if (!d->name[0] && !d->members[0]) {
        if (d->memory[0])
            probe_line(1, "drive", "none: its bytes are memory of this machine (%s)", d->memory);
        else if (major(d->device))
            probe_line(1, "drive", "unknown: the system tells nothing of device %u:%u", major(d->device),
                       minor(d->device));
        else
            probe_line(1, "drive", "none that is known: %s has no drive of its own",
                       or_unknown(d->filesystem));
        return;
    }
    probe_add(&l, "%s", d->name[0] ? d->name : "several drives may hold it");
    if (d->backing[0])
        probe_add(&l, "file %s", d->backing);
    else if (d->model[0])
        probe_add(&l, "%s", d->model);
    else if (!d->members[0])
        probe_add(&l, "model unknown");
    if (d->members[0])
        probe_add(&l, "on %s", d->members);
    if (d->drive_bytes)
        probe_add(&l, "%s", common_bytes(d->drive_bytes).text);
    if (d->numa_node >= 0)
        probe_add(&l, "node %d", d->numa_node);
    else
        probe_add(&l, "node unknown");
    probe_line(1, "drive", "%s", l.text);
    if (!d->backing[0])
        probe_line(1, "link", "%s", or_unknown(d->link));
    if (d->memory[0])
        probe_line(1, "memory", "its bytes are memory of this machine (%s)", d->memory);
    if (d->cached[0])
        probe_line(1, "page cache", "%s passes it on the way to its file: speeds are those of memory",
                   d->cached);
}

static void print_queue(const struct io_drive *d)
{
    struct probe_list l = {0};

    if (!d->logical_block)
        return;
    probe_add(&l, "%s logical", common_bytes(d->logical_block).text);
    if (d->physical_block)
        probe_add(&l, "%s physical", common_bytes(d->physical_block).text);
    if (d->max_transfer_bytes)
        probe_add(&l, "transfers of up to %s", common_bytes(d->max_transfer_bytes).text);
    probe_line(1, "blocks", "%s", l.text);
    l = (struct probe_list){0};
    probe_add(&l, "scheduler %s", or_unknown(d->scheduler));
    if (d->nr_requests)
        probe_add(&l, "%u requests", d->nr_requests);
    probe_add(&l, "%s",
              !d->write_cache_known ? "write cache unknown"
              : d->write_cache      ? "volatile write cache"
                                    : "no volatile write cache");
    if (d->rotational_known)
        probe_add(&l, "%s", d->rotational ? "rotational, says the kernel" : "not rotational");
    if (d->io_poll)
        probe_add(&l, "can be polled");
    probe_line(1, "queue", "%s", l.text);
}

static void print_file_system(const struct io_drive *d)
{
    struct probe_list l = {0};

    probe_add(&l, "%s at %s", or_unknown(d->filesystem), or_unknown(d->mount));
    if (d->source[0])
        probe_add(&l, "from %s", d->source);
    if (d->total_bytes)
        probe_add(&l, "%s of %s free", common_bytes(d->free_bytes).text, common_bytes(d->total_bytes).text);
    else
        probe_add(&l, "size unknown");
    if (d->read_only)
        probe_add(&l, "read only");
    probe_line(1, "file system", "%s", l.text);
}

static json_t *drive_json(const char *dir, const struct io_drive *d)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"name", d->name},       {"partition", d->partition}, {"model", d->model},
                 {"serial", d->serial},   {"link", d->link},           {"backing", d->backing},
                 {"members", d->members}, {"scheduler", d->scheduler}, {"filesystem", d->filesystem},
                 {"source", d->source},   {"mount", d->mount},         {"memory", d->memory},
                 {"cached", d->cached},   {"upper", d->upper}};
    const struct {
        const char *name;
        uint64_t value; /* 0: unknown */
    } numbers[] = {{"drive_bytes", d->drive_bytes},       {"logical_block", d->logical_block},
                   {"physical_block", d->physical_block}, {"max_transfer_bytes", d->max_transfer_bytes},
                   {"nr_requests", d->nr_requests},       {"total_bytes", d->total_bytes}};
    json_t *j = json_pack("{s:o}", "dir", bench_text_json(dir));

    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        json_object_set_new(j, texts[i].name, probe_json_text(texts[i].text));
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++)
        json_object_set_new(j, numbers[i].name, probe_json_number(numbers[i].value > 0, numbers[i].value));
    json_object_set_new(j, "free_bytes", probe_json_number(d->total_bytes > 0, d->free_bytes));
    json_object_set_new(j, "numa_node", probe_json_number(d->numa_node >= 0, (uint64_t)d->numa_node));
    json_object_set_new(j, "rotational", d->rotational_known ? json_boolean(d->rotational) : json_null());
    json_object_set_new(j, "write_cache", d->write_cache_known ? json_boolean(d->write_cache) : json_null());
    json_object_set_new(j, "io_poll", d->logical_block ? json_boolean(d->io_poll) : json_null());
    json_object_set_new(j, "read_only", json_boolean(d->read_only));
    return j;
}

/* ---- direct I/O ---------------------------------------------------------------- */

/* Tried in a file without a name, where we may make one. */
static json_t *probe_direct(const char *dir, const struct io_drive *d, bool *works)
{
    static const char fallback[] = "buffered: ";
    bool tried = !d->read_only && access(dir, W_OK | X_OK) == 0;
    const char *reason = "not writable: not tried";
    struct io_file *f = NULL;
    struct io_part_info part;
    uint32_t block = 0;
    json_t *j;

    if (tried && io_file_open_scratch(dir, 0, &f) < 0) {
        reason = base_error_text();
    } else if (tried) {
        reason = io_file_note(f);
        reason += strncmp(reason, fallback, sizeof fallback - 1) == 0 ? sizeof fallback - 1 : 0;
    }
    *works = f && io_file_direct(f);
    if (*works) {
        block = io_file_block(f);
        reason = "";
        probe_line(1, "direct I/O", "works, in blocks of %s", common_bytes(block).text);
    } else {
        probe_line(1, "direct I/O", "%s%s", tried ? "does not work: " : "", reason);
    }
    if (f) {
        io_file_part(f, 0, &part);
        probe_line(1, "space", "%s", part.reserved ? "can be reserved" : part.space_note);
        if (part.in_memory && !d->memory[0])
            probe_line(1, "memory", "its bytes are memory of this machine");
    }
    j = json_pack("{s:o, s:o, s:o, s:o, s:o}", "works", tried ? json_boolean(*works) : json_null(), "block",
                  probe_json_number(*works, block), "reason", probe_json_text(reason), "reserved",
                  f ? json_boolean(part.reserved) : json_null(), "in_memory",
                  f ? json_boolean(part.in_memory) : json_null());
    io_file_close(f);
    return j;
}

/* ---- profiles ------------------------------------------------------------------- */

static const char *flags_text(uint32_t flags)
{
    if (flags & IO_QUEUE_SQPOLL)
        return flags & IO_QUEUE_DEFER ? "sqpoll, defer" : "sqpoll";
    return flags & IO_QUEUE_DEFER ? "defer" : "none";
}

static void print_rates(const struct io_profile *p)
{
    const struct {
        const char *name;
        double value;
    } rates[] = {{"read", p->read_bps}, {"write", p->write_bps}, {"both at once", p->mixed_bps}};
    struct probe_list l = {0};

    for (size_t i = 0; i < ARRAY_COUNT(rates); i++) {
        if (rates[i].value >= 1e9)
            probe_add(&l, "%s %.2f GB/s", rates[i].name, rates[i].value * 1e-9);
        else if (rates[i].value > 0)
            probe_add(&l, "%s %.1f MB/s", rates[i].name, rates[i].value * 1e-6);
        else
            probe_add(&l, "%s unknown", rates[i].name);
    }
    probe_line(1, p->origin == IO_PROFILE_MEASURED ? "measured" : "kept profile", "%s", l.text);
}

static void print_profile(const struct io_profile *p)
{
    struct probe_list l = {0};
    time_t at = (time_t)p->measured_at;
    struct tm tm;
    char date[32] = "";

    print_rates(p);
    probe_add(&l, "pieces of %s", common_bytes(p->tuning.piece_bytes).text);
    probe_add(&l, "%s in flight", common_bytes(p->tuning.window_bytes).text);
    probe_add(&l, "depth %u", p->tuning.depth);
    probe_add(&l, "ring flags: %s", flags_text(p->flags));
    probe_line(1, "", "%s", l.text);
    l = (struct probe_list){0};
    if (p->read_latency_ns)
        probe_add(&l, "one read of 4 KiB takes %.0f us", (double)p->read_latency_ns * 1e-3);
    if (p->first_write_ratio > 0)
        probe_add(&l, "first writes %.0f %% of rewrites", p->first_write_ratio * 100);
    if (p->unwritten_ratio > 0)
        probe_add(&l, "%.0f %% where the drive was written before", p->unwritten_ratio * 100);
    else if (p->first_write_ratio > 0)
        probe_add(&l, "not known where the drive was written before");
    if (gmtime_r(&at, &tm) && strftime(date, sizeof date, "%Y-%m-%d", &tm))
        probe_add(&l, "%s", date);
    probe_line(1, "", "%s", l.text);
}

static json_t *profile_json(const struct io_profile *p)
{
    if (p->origin == IO_PROFILE_DEFAULT)
        return json_pack("{s:s, s:o}", "origin", "default", "note", probe_json_text(p->note));
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o}", "origin",
        p->origin == IO_PROFILE_MEASURED ? "measured" : "cached", "read_bps", bench_real_json(p->read_bps),
        "write_bps", bench_real_json(p->write_bps), "mixed_bps", bench_real_json(p->mixed_bps),
        "first_write_ratio", bench_real_json(p->first_write_ratio), "unwritten_ratio",
        bench_real_json(p->unwritten_ratio), "read_latency_ns",
        probe_json_number(p->read_latency_ns > 0, p->read_latency_ns), "piece_bytes",
        probe_json_number(true, p->tuning.piece_bytes), "window_bytes",
        probe_json_number(true, p->tuning.window_bytes), "depth", probe_json_number(true, p->tuning.depth),
        "measured_at", probe_json_number(true, p->measured_at), "flags", flags_text(p->flags), "measure_s",
        bench_real_json(p->measure_s), "note", probe_json_text(p->note));
}

static bool draw_progress(void *arg, double share)
{
    common_progress("measuring %s: %.0f %%", (const char *)arg, share * 100);
    return !common_stopping();
}

/* Without direct I/O nothing is measured: only who asked for it is told. Returns a status. */
static int probe_profile(const char *dir, bool direct, bool measure, json_t **out)
{
    unsigned flags = measure ? IO_PROFILE_MEASURE | IO_PROFILE_ANEW : 0;
    struct io_profile p;
    int err = io_profile_get(dir, flags, draw_progress, (void *)(uintptr_t)dir, &p);

    *out = NULL;
    common_progress_clear();
    if (err == -ECANCELED)
        return common_fail(EXIT_INTERRUPTED, "interrupted while measuring %s: no report written", dir);
    if (err < 0)
        return common_fail(common_status(err), "%s", base_error_text());
    if (p.origin != IO_PROFILE_DEFAULT)
        print_profile(&p);
    else if (!p.note[0] && direct)
        probe_line(1, "profile", "none kept; --measure takes some seconds and keeps one");
    else if (p.note[0])
        probe_line(1, "profile", "none: %s", p.note);
    if (p.origin != IO_PROFILE_DEFAULT && p.note[0])
        probe_line(1, "", "%s", p.note);
    *out = profile_json(&p);
    return 0;
}

/* ---- all of it -------------------------------------------------------------------- */

static int probe_place(const char *dir, const struct io_drive *d, bool measure, json_t *list)
{
    json_t *j = drive_json(dir, d), *profile;
    bool direct;
    int status;

    common_progress_clear();
    printf("  %s\n", dir);
    print_drive(d);
    if (d->name[0] || d->members[0])
        print_queue(d);
    print_file_system(d);
    json_object_set_new(j, "direct", probe_direct(dir, d, &direct));
    status = probe_profile(dir, direct, measure, &profile);
    if (profile)
        json_object_set_new(j, "profile", profile);
    json_array_append_new(list, j);
    return status;
}

/* mountinfo writes spaces and the like as three octal digits. */
static void unescape(char *text)
{
    unsigned value;
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (*from == '\\' && sscanf(from + 1, "%3o", &value) == 1) {
            *to = (char)value;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* Images that are mounted read-only by the dozen (snap packages) are no drives to anybody. */
static bool is_image(const char *type)
{
    return strcmp(type, "squashfs") == 0 || strcmp(type, "iso9660") == 0 || strcmp(type, "erofs") == 0;
}

/* The next mount with a block device of its own, or btrfs; others are not even looked at, since a
 * network file system whose server is gone would hold us up. */
static bool next_mount(FILE *f, char **line, size_t *room, char point[PATH_MAX])
{
    unsigned major_number;
    const char *rest;
    char type[32];
    struct stat s;

    while (getline(line, room, f) > 0) {
        rest = strstr(*line, " - ");
        if (!rest || sscanf(*line, "%*s %*s %u:%*s %*s %4095s", &major_number, point) != 2 ||
            sscanf(rest, " - %31s", type) != 1 || is_image(type))
            continue;
        unescape(point);
        if ((major_number || strcmp(type, "btrfs") == 0) && stat(point, &s) == 0 && S_ISDIR(s.st_mode))
            return true;
    }
    return false;
}

static int probe_mounts(struct seen *seen, json_t *list)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, point[PATH_MAX];
    struct io_drive d;
    size_t room = 0;
    int status = 0;

    while (f && status == 0 && !common_stopping() && next_mount(f, &line, &room, point))
        if (io_drive_get(point, &d) == 0 && (d.name[0] || d.members[0]) && is_new(seen, &d))
            status = probe_place(point, &d, false, list);
    free(line);
    if (f)
        fclose(f);
    return status;
}

int probe_drives(json_t *report, const char *const *dirs, unsigned count, bool measure)
{
    static const char *const here[] = {"."};
    struct seen seen = {0};
    json_t *list = json_array();
    struct io_drive d;
    char *real;
    int status = 0;

    if (count == 0) {
        dirs = here;
        count = 1;
    }
    probe_title("Drives");
    json_object_set_new(report, "drives", list);
    for (unsigned i = 0; i < count && status == 0; i++) {
        real = realpath(dirs[i], NULL);
        if (!real || io_drive_get(real, &d) < 0) {
            status = common_fail(EXIT_INPUT, "look at %s: %s", dirs[i], strerror(errno));
        } else {
            (void)is_new(&seen, &d); /* asked for: listed in any case */
            status = probe_place(real, &d, measure, list);
        }
        free(real);
    }
    return status ? status : probe_mounts(&seen, list);
}
