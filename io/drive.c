/*
 * Drives: see drive.h. Owns the way from a path to its mount and its device number, and
 * the key; what sysfs knows of the device is read in drive_sysfs.c.
 */
#include "io/drive_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"

/* ---- mounts ------------------------------------------------------------ */

/* One line of mountinfo, cut in place. */
struct mount {
    uint64_t id, device;
    char *point, *options, *type, *source;
};

/* mountinfo writes spaces and the like as three octal digits. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
            from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* "36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda1 rw": see proc(5). */
static bool cut_mount(char *line, struct mount *m)
{
    char *fields[6], *rest, *save = NULL;
    unsigned major_number, minor_number;

    line[strcspn(line, "\n")] = '\0';
    rest = strstr(line, " - ");
    if (!rest)
        return false;
    *rest = '\0';
    for (unsigned i = 0; i < 6; i++) {
        fields[i] = strtok_r(i ? NULL : line, " ", &save);
        if (!fields[i])
            return false;
    }
    if (sscanf(fields[0], "%" SCNu64, &m->id) != 1 ||
        sscanf(fields[2], "%u:%u", &major_number, &minor_number) != 2)
        return false;
    m->device = makedev(major_number, minor_number);
    m->point = fields[4];
    m->options = fields[5];
    m->type = strtok_r(rest + 3, " ", &save);
    m->source = m->type ? strtok_r(NULL, " ", &save) : NULL;
    if (!m->source)
        return false;
    unescape(m->point);
    unescape(m->source);
    return true;
}

/* Length of the mount point if path lies below it, else 0. */
static size_t below(const char *path, const char *point)
{
    size_t length = strlen(point);

    if (strcmp(point, "/") == 0)
        return 1;
    return strncmp(path, point, length) == 0 && (path[length] == '/' || path[length] == '\0') ? length : 0;
}

/* Paths go to terminals: control characters don't. */
static void copy_path(char *to, size_t bytes, const char *from)
{
    io_drive_copy(to, bytes, from);
    for (char *c = to; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
}

static void take_mount(const struct mount *m, struct io_drive *d)
{
    copy_path(d->mount, sizeof d->mount, m->point);
    copy_path(d->source, sizeof d->source, m->source);
    copy_path(d->filesystem, sizeof d->filesystem, m->type);
    d->read_only = strncmp(m->options, "ro", 2) == 0 && (m->options[2] == ',' || m->options[2] == '\0');
}

/* The mount of the number that statx gave; from kernels that give none, the longest mount point
 * above path, and of several on one point the last. */
static void find_mount(const char *proc, const struct io_drive_place *place, struct io_drive *d)
{
    char name[PATH_MAX], *line = NULL;
    size_t room = 0, best = 0, length;
    struct mount m;
    FILE *f;

    snprintf(name, sizeof name, "%s/self/mountinfo", proc);
    f = fopen(name, "re");
    if (!f)
        return;
    while (getline(&line, &room, f) > 0) {
        if (!cut_mount(line, &m))
            continue;
        length = below(place->path, m.point);
        if (place->mount_id_known ? m.id != place->mount_id : length == 0 || length < best)
            continue;
        best = length;
        take_mount(&m, d);
    }
    free(line);
    fclose(f);
}

/* ---- paths ------------------------------------------------------------- */

void io_drive_get_at(const char *sys, const char *proc, const struct io_drive_place *place,
                     struct io_drive *out)
{
    *out = (struct io_drive){.device = place->device, .numa_node = -1};
    find_mount(proc, place, out);
    if (strcmp(out->filesystem, "btrfs") == 0)
        io_drive_read_btrfs(sys, out);
    else
        io_drive_read_block(sys, out);
}

int io_drive_get(const char *path, struct io_drive *out)
{
    struct io_drive_place place = {0};
    struct statvfs fs;
    struct statx st;
    char *real = realpath(path, NULL);
    int rc = 0;

    *out = (struct io_drive){.numa_node = -1};
    memset(&st, 0, sizeof st);
    if (!real || statx(AT_FDCWD, real, AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0 ||
        statvfs(real, &fs) < 0) {
        rc = base_fail_errno(-errno, "look at %s", path);
    } else {
        place = (struct io_drive_place){.path = real,
                                        .device = makedev(st.stx_dev_major, st.stx_dev_minor),
                                        .mount_id = st.stx_mnt_id,
                                        .mount_id_known = (st.stx_mask & STATX_MNT_ID) != 0};
        io_drive_get_at("/sys", "/proc", &place, out);
        out->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        out->total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
        out->read_only |= (fs.f_flag & ST_RDONLY) != 0;
    }
    free(real);
    return rc;
}

/* ---- keys -------------------------------------------------------------- */

static bool is_safe(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/*
 * A word for people, the file system, and a hash that does the work. Names like nvme0n1 are not
 * in it, since drives swap them between reboots. What lies on no drive is known by what is
 * mounted where.
 */
void io_drive_key(const struct io_drive *d, char *key, unsigned bytes)
{
    const bool known = d->id[0] != '\0';
    char word[48], facts[1400];
    int length;

    length = snprintf(facts, sizeof facts, "%s|%s|%s|%s|%" PRIu64 "|%" PRIu64 "|%s|%s", d->id, d->serial,
                      d->model, d->filesystem, d->drive_bytes, d->partition_offset_bytes,
                      known ? "" : d->source, known ? "" : d->mount);
    snprintf(word, sizeof word, "%.24s%s%.20s-", d->model, d->model[0] ? "-" : "",
             d->filesystem[0] ? d->filesystem : "unknown");
    for (char *c = word; *c; c++)
        if (!is_safe(*c))
            *c = '_';
    snprintf(key, bytes, "%s%016" PRIx64, bytes > strlen(word) + 16 ? word : "",
             (uint64_t)XXH3_64bits(facts, (size_t)length));
}
