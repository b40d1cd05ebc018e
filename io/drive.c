/*
 * Drives: see drive.h. Owns the way from a path to its mount and its device number, and
 * the key; what sysfs knows of the device is read in drive_sysfs.c.
 */
#include "io/drive_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"

/* ---- mounts ------------------------------------------------------------ */

/* One line of mountinfo, cut in place. */
struct mount {
    uint64_t id, device;
    char *point, *options, *type, *source, *super;
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
    m->super = strtok_r(NULL, " ", &save);
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

/* An option's value among those of the file system; "" if it isn't there. Cuts super. */
static void take_option(char *super, const char *name, char *to, size_t bytes)
{
    size_t length = strlen(name);
    char *save = NULL;

    for (char *o = strtok_r(super, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
        if (strncmp(o, name, length) == 0 && o[length] == '=') {
            unescape(o + length + 1);
            io_drive_copy(to, bytes, o + length + 1);
        }
    }
}

static void take_mount(const struct mount *m, struct io_drive *d)
{
    d->upper[0] = '\0';
    if (strcmp(m->type, "overlay") == 0 && m->super)
        take_option(m->super, "upperdir", d->upper, sizeof d->upper);
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
    out->depth = place->depth;
    find_mount(proc, place, out);
    if (strcmp(out->filesystem, "btrfs") == 0)
        io_drive_read_btrfs(sys, NULL, out);
    else
        io_drive_read_block(sys, out);
    if (strcmp(out->filesystem, "tmpfs") == 0 || strcmp(out->filesystem, "ramfs") == 0)
        io_drive_copy(out->memory, sizeof out->memory, out->filesystem);
}

/* For want of a mount: the highest directory above path on the same file system. In a chroot this is
 * all that can be known of the one that its root lies on. */
static void find_top(const char *path, dev_t device, char *to, size_t bytes)
{
    char at[PATH_MAX], top[PATH_MAX], *slash;
    struct stat s;

    io_drive_copy(at, sizeof at, path);
    io_drive_copy(top, sizeof top, path);
    while ((slash = strrchr(at, '/'))) {
        slash[slash == at] = '\0';
        if (stat(at, &s) < 0 || s.st_dev != device)
            break;
        io_drive_copy(top, sizeof top, at);
        if (slash == at)
            break;
    }
    copy_path(to, bytes, top);
}

/* What mountinfo doesn't tell: in a chroot the mount of the root isn't in it, and /proc may be missing. */
static void take_without_mount(const struct io_drive_place *place, struct io_drive *d)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } types[] = {{EXT4_SUPER_MAGIC, "ext2/ext3/ext4"},
                 {XFS_SUPER_MAGIC, "xfs"},
                 {BTRFS_SUPER_MAGIC, "btrfs"},
                 {F2FS_SUPER_MAGIC, "f2fs"},
                 {TMPFS_MAGIC, "tmpfs"},
                 {RAMFS_MAGIC, "ramfs"},
                 {OVERLAYFS_SUPER_MAGIC, "overlay"},
                 {NFS_SUPER_MAGIC, "nfs"},
                 {FUSE_SUPER_MAGIC, "fuse"},
                 {V9FS_MAGIC, "9p"},
                 {PROC_SUPER_MAGIC, "proc"},
                 {SYSFS_MAGIC, "sysfs"},
                 {0x2fc12fc1, "zfs"}};
    struct statfs fs;

    if (statfs(place->path, &fs) < 0)
        return;
    snprintf(d->filesystem, sizeof d->filesystem, "0x%lx", (unsigned long)fs.f_type);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if ((unsigned long)fs.f_type == types[i].magic)
            io_drive_copy(d->filesystem, sizeof d->filesystem, types[i].name);
    find_top(place->path, place->device, d->mount, sizeof d->mount);
    if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
        io_drive_copy(d->memory, sizeof d->memory, d->filesystem);
}

/* A source such as /dev/root names no drive: the file system itself tells its uuid. */
static void ask_btrfs(const struct io_drive_place *place, struct io_drive *d)
{
    struct btrfs_ioctl_fs_info_args info = {0};
    int fd = open(place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    const unsigned char *u = info.fsid;
    char uuid[40];

    if (fd >= 0 && ioctl(fd, BTRFS_IOC_FS_INFO, &info) == 0) {
        snprintf(uuid, sizeof uuid, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
                 u[14], u[15]);
        io_drive_read_btrfs("/sys", uuid, d);
    }
    if (fd >= 0)
        close(fd);
}

/* Whether two places have the same blocks: overlayfs hands on what its upper layer says of itself. */
static bool is_same_space(const struct statvfs *a, const char *path)
{
    struct statvfs b;

    return statvfs(path, &b) == 0 && a->f_blocks == b.f_blocks && a->f_frsize == b.f_frsize &&
           a->f_files == b.f_files;
}

/* overlayfs: its drive is that of its upper layer. The path is that of who mounted it: in a container there is
 * another directory of that name, or none. */
static void take_upper(const struct statvfs *fs, struct io_drive *d)
{
    struct io_drive upper;

    if (!d->upper[0] || d->depth >= IO_DRIVE_DEPTH || !is_same_space(fs, d->upper) ||
        io_drive_get_below(d->upper, d->depth + 1, &upper) < 0)
        return;
    upper.device = d->device;
    upper.depth = d->depth;
    upper.read_only |= d->read_only;
    memcpy(upper.filesystem, d->filesystem, sizeof upper.filesystem);
    memcpy(upper.source, d->source, sizeof upper.source);
    memcpy(upper.mount, d->mount, sizeof upper.mount);
    memcpy(upper.upper, d->upper, sizeof upper.upper);
    *d = upper;
}

int io_drive_get_below(const char *path, unsigned depth, struct io_drive *out)
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
        rc = -errno;
    } else {
        place = (struct io_drive_place){.path = real,
                                        .device = makedev(st.stx_dev_major, st.stx_dev_minor),
                                        .mount_id = st.stx_mnt_id,
                                        .mount_id_known = (st.stx_mask & STATX_MNT_ID) != 0,
                                        .depth = depth};
        io_drive_get_at("/sys", "/proc", &place, out);
        if (!out->filesystem[0])
            take_without_mount(&place, out);
        if (strcmp(out->filesystem, "btrfs") == 0 && !out->members[0])
            ask_btrfs(&place, out);
        take_upper(&fs, out);
        out->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        out->total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
        out->read_only |= (fs.f_flag & ST_RDONLY) != 0;
    }
    free(real);
    return rc;
}

int io_drive_get(const char *path, struct io_drive *out)
{
    int rc = io_drive_get_below(path, 0, out);

    return rc < 0 ? base_fail_errno(rc, "look at %s", path) : 0;
}

void io_drive_caveat(const struct io_drive *d, char *text, unsigned bytes)
{
    text[0] = '\0';
    if (d->memory[0])
        snprintf(text, bytes, "not a drive: its bytes are memory of this machine (%s)", d->memory);
    else if (d->cached[0])
        snprintf(text, bytes, "figures are the page cache's: %s passes it on the way to its file", d->cached);
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

    /* A loop device that is switched to direct I/O is another drive. */
    length = snprintf(facts, sizeof facts, "%s|%s|%s|%s|%" PRIu64 "|%" PRIu64 "|%s|%s%s", d->id, d->serial,
                      d->model, d->filesystem, d->drive_bytes, d->partition_offset_bytes,
                      known ? "" : d->source, known ? "" : d->mount, d->cached[0] ? "|cached" : "");
    snprintf(word, sizeof word, "%.24s%s%.20s-", d->model, d->model[0] ? "-" : "",
             d->filesystem[0] ? d->filesystem : "unknown");
    for (char *c = word; *c; c++)
        if (!is_safe(*c))
            *c = '_';
    snprintf(key, bytes, "%s%016" PRIx64, bytes > strlen(word) + 16 ? word : "",
             (uint64_t)XXH3_64bits(facts, (size_t)length));
}
