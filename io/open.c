/*
 * Opening: one descriptor, to read a file, as scratch space, or to keep bytes under a name (see io.h). Owns whether it is direct, what
 * alignment it asks for, and what is said of its space and of what it lies on. Says only what was seen: what a
 * file system promises is believed where the kernel vouches for it, else it is tried (trial.c).
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/drive.h"
#include "io/io.h"
#include "io/layout.h"
#include "io/trial.h"

static int set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    return fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0 ? -errno : 0;
}

/* Settles that m is direct, or buffered for a reason. Leaves fd's own flag in agreement with m->direct. */
static int settle_direct(struct io_member *m, const char *what, unsigned flags, const char *refused)
{
    int rc;

    m->direct = !refused;
    if (m->direct)
        return 0;
    m->block = 1;
    m->read_block = 0;
    m->touch_first = false;
    if ((rc = set_direct(m->fd, false)) < 0)
        return base_fail_errno(rc, "%s %s: switch direct I/O off", what, m->path);
    if (flags & IO_FILE_REQUIRE_DIRECT)
        return base_fail(-OFL_EDIRECT, "%s %s: direct I/O is required: %s", what, m->path, refused);
    snprintf(m->note, sizeof m->note, "buffered: %s", refused);
    return 0;
}

static bool is_of(int fd, unsigned long magic)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == magic;
}

static const char in_memory_text[] = "the file system keeps its files in memory",
                  impossible_text[] = "the file system can't do it for this file",
                  cached_text[] = "the file system passes it through the page cache";

/* What lies below the file system: path is of it. */
static void take_drive(struct io_member *m, const char *path)
{
    struct io_drive d;

    if (io_drive_get(path, &d) == 0) {
        m->in_memory |= d.memory[0] != '\0';
        m->cached = d.cached[0] != '\0';
        io_drive_caveat(&d, m->drive_note, sizeof m->drive_note);
    }
    if (m->in_memory && !m->drive_note[0])
        snprintf(m->drive_note, sizeof m->drive_note, "not a drive: its bytes are memory of this machine");
}

static int take_size(struct io_member *m, const char *what)
{
    struct stat st;

    if (fstat(m->fd, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, m->path);
    if (!S_ISREG(st.st_mode))
        return base_fail(-EINVAL, "%s %s: not a regular file", what, m->path);
    m->bytes = (uint64_t)st.st_size;
    m->device = st.st_dev;
    return 0;
}

/* ---- files of others ------------------------------------------------------- */

/* Why reads of m are not direct, in spite of O_DIRECT; NULL if they are. refused: it was not set. */
static const char *look_at_source(struct io_member *m, const char *refused)
{
    struct io_alignment alignment;
    struct io_trial trial = {0};

    m->in_memory = is_of(m->fd, TMPFS_MAGIC) || is_of(m->fd, RAMFS_MAGIC);
    io_alignment_get(m->fd, &alignment);
    m->block = alignment.read;
    if (refused)
        return refused;
    if (m->in_memory)
        return in_memory_text;
    if (alignment.told)
        return alignment.read ? NULL : impossible_text;
    /* who promises nothing is tried */
    if (io_layout_encoded(m->fd))
        return "parts of it are compressed, or lie in the file system's records";
    io_trial_read(m->fd, alignment.read, &trial);
    m->touch_first = trial.touch_first == IO_YES;
    if (is_of(m->fd, OVERLAYFS_SUPER_MAGIC)) {
        m->in_memory = trial.in_memory == IO_YES;
        if (m->in_memory)
            return in_memory_text;
        if (trial.direct == IO_UNKNOWN && m->bytes)
            return "can't be told of this file, which is another user's on overlayfs";
    }
    return trial.direct == IO_NO ? cached_text : NULL;
}

int io_member_open_read(struct io_member *m, const char *path, unsigned flags)
{
    static const char what[] = "open";
    const char *refused = flags & IO_FILE_BUFFERED ? "asked for" : NULL;
    struct stat st;
    int rc;

    /* before open, which would wait for a writer on a FIFO */
    if (stat(path, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, path);
    if (!S_ISREG(st.st_mode))
        return base_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "%s %s: not a regular file", what, path);
    if (!(m->path = strdup(path)))
        return base_fail_errno(-ENOMEM, "%s %s", what, path);
    m->fd = open(path, O_RDONLY | O_CLOEXEC | (refused ? 0 : O_DIRECT));
    if (m->fd < 0 && !refused && errno == EINVAL) {
        refused = "the file system refuses O_DIRECT";
        m->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (m->fd < 0)
        return base_fail_errno(-errno, "%s %s", what, path);
    rc = take_size(m, what);
    if (rc < 0)
        return rc;
    refused = look_at_source(m, refused);
    take_drive(m, path);
    return settle_direct(m, what, flags, refused);
}

/* ---- scratch files ---------------------------------------------------------- */

/* For file systems without O_TMPFILE: a name for a moment. Direct I/O is switched on
 * afterwards, because a refused open with O_DIRECT would leave the named file behind. */
static int open_unlinked(const char *dir, bool direct, const char **refused)
{
    char *name;
    int fd = -1, rc = 0;

    if (asprintf(&name, "%s/.offload-XXXXXX", dir) < 0)
        return -ENOMEM;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0) {
        rc = -errno;
    } else if (unlink(name) < 0) {
        rc = -errno;
        close(fd);
    } else if (direct && set_direct(fd, true) < 0) {
        *refused = "the file system refuses O_DIRECT";
    }
    free(name);
    return rc < 0 ? rc : fd;
}

static int open_nameless(const char *dir, bool direct, const char **refused)
{
    const int flags = O_TMPFILE | O_RDWR | O_CLOEXEC;
    int fd = open(dir, flags | (direct ? O_DIRECT : 0), 0600);

    if (fd < 0 && direct && errno == EINVAL) {
        fd = open(dir, flags, 0600);
        if (fd >= 0)
            *refused = "the file system refuses O_DIRECT";
    }
    if (fd >= 0)
        return fd;
    if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)
        return open_unlinked(dir, direct, refused);
    return -errno;
}

/* Has btrfs write this file where it is, without checksums: else its writes pass the page cache, and each
 * needs new space. Must come before the first byte; other file systems refuse. */
static void forbid_copies(int fd)
{
    int flags = 0;

    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return;
    /* What is compressed, as a directory may ask for, can't be in place: first the one, then the other. */
    if (flags & FS_COMPR_FL) {
        flags &= ~FS_COMPR_FL;
        (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    flags |= FS_NOCOW_FL;
    (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

/* Whether reserved space holds. What can't be seen is believed only of file systems that are known to. */
static void settle_space(struct io_member *m, const struct io_trial *trial)
{
    bool known = is_of(m->fd, EXT4_SUPER_MAGIC) || is_of(m->fd, XFS_SUPER_MAGIC);

    m->reserved = m->in_memory || trial->in_place == IO_YES || (trial->in_place == IO_UNKNOWN && known);
    if (!m->reserved)
        snprintf(m->space_note, sizeof m->space_note, "space is not really reserved: %s",
                 trial->in_place == IO_NO ? "the file system writes elsewhere each time"
                                          : "it can't be seen where the file system writes");
}

/* As look_at_source, of a new and empty file. */
static const char *look_at_scratch(struct io_member *m, const char *refused)
{
    struct io_alignment alignment;
    struct io_trial trial = {0};

    m->in_memory = is_of(m->fd, TMPFS_MAGIC) || is_of(m->fd, RAMFS_MAGIC);
    forbid_copies(m->fd);
    io_alignment_get(m->fd, &alignment);
    m->block = alignment.write;
    m->read_block = alignment.read;
    if (!m->in_memory) {
        if (!refused && !alignment.write)
            refused = impossible_text;
        if (refused)
            (void)set_direct(m->fd, false);
        io_trial_scratch(m->fd, alignment.write, &trial);
        m->in_memory = trial.in_memory == IO_YES;
        m->touch_first = trial.touch_first == IO_YES;
    }
    settle_space(m, &trial);
    if (refused)
        return refused;
    if (m->in_memory)
        return in_memory_text;
    if (trial.direct == IO_UNKNOWN && !alignment.told)
        return "it can't be seen that it goes past the page cache";
    return trial.direct == IO_NO ? cached_text : NULL;
}

int io_member_open_scratch(struct io_member *m, const char *dir, unsigned flags)
{
    static const char what[] = "create scratch file in";
    const char *refused = flags & IO_FILE_BUFFERED ? "asked for" : NULL;
    struct stat st;
    int rc;

    if (stat(dir, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, dir);
    if (!S_ISDIR(st.st_mode))
        return base_fail_errno(-ENOTDIR, "%s %s", what, dir);
    if (asprintf(&m->path, "%s/(scratch)", dir) < 0) {
        m->path = NULL;
        return base_fail_errno(-ENOMEM, "%s %s", what, dir);
    }
    m->fd = open_nameless(dir, !refused, &refused);
    if (m->fd < 0) {
        rc = m->fd;
        m->fd = -1;
        return base_fail_errno(rc, "%s %s", what, dir);
    }
    rc = take_size(m, what);
    if (rc < 0)
        return rc;
    refused = look_at_scratch(m, refused);
    take_drive(m, dir);
    return settle_direct(m, what, flags, refused);
}

/* ---- files with names, of our own ------------------------------------------- */

static bool copies_forbidden(int fd)
{
    int flags = 0;

    return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_NOCOW_FL);
}

/* What a scratch file beside it has shown, for m, which is open: less, if m itself is not as that was. */
static const char *take_over(struct io_member *m, const struct io_member *trial)
{
    struct io_alignment alignment;

    io_alignment_get(m->fd, &alignment);
    m->block = alignment.write;
    m->read_block = alignment.read;
    m->reserved = trial->reserved;
    m->in_memory = trial->in_memory;
    m->cached = trial->cached;
    m->touch_first = trial->touch_first;
    memcpy(m->space_note, trial->space_note, sizeof m->space_note);
    memcpy(m->drive_note, trial->drive_note, sizeof m->drive_note);
    if (copies_forbidden(trial->fd) && !copies_forbidden(m->fd)) {
        m->reserved = false;
        snprintf(m->space_note, sizeof m->space_note,
                 "space is not really reserved: the file system copies this file on write, as it was not "
                 "made here");
        return "the file system copies it on write, as it was not made here";
    }
    if (!trial->direct)
        return "as files in its directory are";
    if (!alignment.write)
        return impossible_text;
    if (!alignment.told && m->bytes && io_layout_encoded(m->fd))
        return "parts of it are compressed, or lie in the file system's records";
    return NULL;
}

/* A copy of the file may have holes where it has not been written yet. */
static void back_holes(struct io_member *m)
{
    struct io_sigxfsz guard;
    int rc;

    if (m->bytes == 0 || lseek(m->fd, 0, SEEK_HOLE) >= (off_t)m->bytes)
        return;
    io_sigxfsz_block(&guard);
    rc = fallocate(m->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)m->bytes) < 0 ? -errno : 0;
    io_sigxfsz_restore(&guard);
    if (rc == 0 || !m->reserved)
        return;
    m->reserved = false;
    snprintf(m->space_note, sizeof m->space_note, "space is not really reserved: back holes: %s",
             base_strerror(rc));
}

/* Nothing is followed, waited for or changed. */
static int open_regular(struct io_member *m, const char *what, const char *path, bool create)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    struct stat st;

    if (!create) {
        if (lstat(path, &st) < 0)
            return base_fail_errno(-errno, "%s %s", what, path);
        if (!S_ISREG(st.st_mode))
            return base_fail(S_ISLNK(st.st_mode)   ? -ELOOP
                             : S_ISDIR(st.st_mode) ? -EISDIR
                                                   : -EINVAL,
                             "%s %s: not a regular file", what, path);
    }
    m->fd = open(path, flags | (create ? O_CREAT | O_EXCL : 0), 0600);
    if (m->fd < 0)
        return base_fail_errno(-errno, "%s %s", what, path);
    if (create)
        forbid_copies(m->fd);
    return take_size(m, what);
}

/* The directory that path's last name is in; for free(). */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int io_member_open_named(struct io_member *m, const char *path, bool create, unsigned flags)
{
    const char *what = create ? "create" : "open", *refused = NULL;
    struct io_member trial = {.fd = -1, .cached_fd = -1};
    char *dir = directory_of(path);
    int rc;

    m->path = strdup(path);
    if (!dir || !m->path)
        rc = base_fail_errno(-ENOMEM, "%s %s", what, path);
    else
        rc = io_member_open_scratch(&trial, dir, flags);
    if (rc == 0)
        rc = open_regular(m, what, path, create);
    if (rc == 0) {
        refused = take_over(m, &trial);
        if (!refused && set_direct(m->fd, true) < 0)
            refused = "the file system refuses O_DIRECT";
        back_holes(m);
        rc = settle_direct(m, what, flags, refused);
        if (rc == 0 && trial.note[0])
            memcpy(m->note, trial.note, sizeof m->note);
    }
    if (rc < 0 && create && m->fd >= 0)
        (void)unlink(path);
    if (trial.fd >= 0)
        close(trial.fd);
    free(trial.path);
    free(dir);
    return rc;
}

int io_member_limit_block(struct io_member *m, uint32_t most, bool require_direct)
{
    char why[100];

    if (m->block <= most)
        return 0;
    snprintf(why, sizeof why, "it needs blocks of %u bytes, at most %u are supported", m->block, most);
    return settle_direct(m, "open", require_direct ? IO_FILE_REQUIRE_DIRECT : 0, why);
}
