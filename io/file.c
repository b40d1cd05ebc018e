/*
 * Files: see io.h. Owns how a file is opened (direct or buffered, named or
 * nameless), what alignment it asks for, and how disk space is reserved.
 * Moves no bytes: the queue does.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/io.h"

#define BLOCK_DEFAULT 4096u          /* every drive's logical block divides it */
#define BLOCK_MAX     (1024u * 1024) /* more than this is not an alignment but an error */

/* Alignment that direct I/O on fd needs; 0 if the kernel says that it can't be done. */
static uint32_t direct_block(int fd)
{
    uint32_t block = BLOCK_DEFAULT;
#ifdef STATX_DIOALIGN
    struct statx st;

    memset(&st, 0, sizeof st);
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 && (st.stx_mask & STATX_DIOALIGN)) {
        if (st.stx_dio_offset_align == 0 || st.stx_dio_mem_align == 0)
            return 0;
        block =
            st.stx_dio_offset_align > st.stx_dio_mem_align ? st.stx_dio_offset_align : st.stx_dio_mem_align;
    }
#else
    (void)fd;
#endif
    return block <= BLOCK_MAX && (block & (block - 1)) == 0 ? block : 0;
}

/* Why an open O_DIRECT descriptor is not really direct; NULL if it is. */
static const char *direct_in_name_only(int fd, uint32_t *block)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
        return "the file system keeps its files in memory";
    *block = direct_block(fd);
    return *block ? NULL : "the file system can't do it for this file";
}

static int set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    return fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0 ? -errno : 0;
}

static int check_flags(const char *what, const char *path, unsigned flags)
{
    if (flags & ~(unsigned)(IO_FILE_BUFFERED | IO_FILE_REQUIRE_DIRECT))
        return base_fail(-EINVAL, "%s %s: unknown flags 0x%x", what, path, flags);
    if ((flags & IO_FILE_BUFFERED) && (flags & IO_FILE_REQUIRE_DIRECT))
        return base_fail(-EINVAL, "%s %s: buffered and direct I/O both asked for", what, path);
    return 0;
}

/*
 * Settles whether f is direct. refused: NULL if fd was opened with O_DIRECT,
 * else why not. Leaves fd's own flag in agreement with f->direct.
 */
static int settle_direct(struct io_file *f, const char *what, unsigned flags, const char *refused)
{
    uint32_t block = 1;
    int rc;

    if (!refused) {
        refused = direct_in_name_only(f->fd, &block);
        if (refused && (rc = set_direct(f->fd, false)) < 0)
            return base_fail_errno(rc, "%s %s: switch direct I/O off", what, f->path);
    }
    f->direct = !refused;
    f->block = f->direct ? block : 1;
    if (f->direct)
        return 0;
    if (flags & IO_FILE_REQUIRE_DIRECT)
        return base_fail(-OFL_EDIRECT, "%s %s: direct I/O is required: %s", what, f->path, refused);
    snprintf(f->note, sizeof f->note, "buffered: %s", refused);
    return 0;
}

static int take_size(struct io_file *f, const char *what)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, f->path);
    if (!S_ISREG(st.st_mode))
        return base_fail(-EINVAL, "%s %s: not a regular file", what, f->path);
    f->bytes = (uint64_t)st.st_size;
    return 0;
}

int io_file_open_read(const char *path, unsigned flags, struct io_file **out)
{
    static const char what[] = "open";
    const char *refused = flags & IO_FILE_BUFFERED ? "asked for" : NULL;
    struct io_file *f;
    struct stat st;
    int rc = check_flags(what, path, flags);

    *out = NULL;
    if (rc < 0)
        return rc;
    /* before open, which would wait for a writer on a FIFO */
    if (stat(path, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, path);
    if (!S_ISREG(st.st_mode))
        return base_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "%s %s: not a regular file", what, path);
    if (!(f = calloc(1, sizeof *f)) || !(f->path = strdup(path))) {
        free(f);
        return base_fail_errno(-ENOMEM, "%s %s", what, path);
    }
    f->fd = open(path, O_RDONLY | O_CLOEXEC | (refused ? 0 : O_DIRECT));
    if (f->fd < 0 && !refused && errno == EINVAL) {
        refused = "the file system refuses O_DIRECT";
        f->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (f->fd < 0)
        rc = base_fail_errno(-errno, "%s %s", what, path);
    else if ((rc = take_size(f, what)) == 0)
        rc = settle_direct(f, what, flags, refused);
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
    return rc;
}

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

int io_file_open_scratch(const char *dir, unsigned flags, struct io_file **out)
{
    static const char what[] = "create scratch file in";
    const char *refused = flags & IO_FILE_BUFFERED ? "asked for" : NULL;
    struct io_file *f;
    struct stat st;
    int rc = check_flags(what, dir, flags);

    *out = NULL;
    if (rc < 0)
        return rc;
    if (stat(dir, &st) < 0)
        return base_fail_errno(-errno, "%s %s", what, dir);
    if (!S_ISDIR(st.st_mode))
        return base_fail_errno(-ENOTDIR, "%s %s", what, dir);
    f = calloc(1, sizeof *f);
    if (!f || asprintf(&f->path, "%s/(scratch)", dir) < 0) {
        free(f);
        return base_fail_errno(-ENOMEM, "%s %s", what, dir);
    }
    f->writable = true;
    f->fd = open_nameless(dir, !refused, &refused);
    if (f->fd < 0)
        rc = base_fail_errno(f->fd, "%s %s", what, dir);
    else if ((rc = take_size(f, what)) == 0)
        rc = settle_direct(f, what, flags, refused);
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
    return rc;
}

void io_file_close(struct io_file *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f);
}

int io_file_size_now(const struct io_file *f, uint64_t *bytes)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return -errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static uint64_t free_bytes(int fd)
{
    struct statvfs fs;

    return fstatvfs(fd, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

/* Grows the file from `from` to `to`; 0 or -errno, with the old size restored. */
static int grow(const struct io_file *f, uint64_t from, uint64_t to)
{
    struct io_sigxfsz guard;
    int rc;

    io_sigxfsz_block(&guard);
    do
        rc = fallocate(f->fd, 0, (off_t)from, (off_t)(to - from)) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == -EOPNOTSUPP || rc == -ENOSYS) {
        /* can't be reserved: at least don't promise what is not there now */
        rc = free_bytes(f->fd) < to - from ? -ENOSPC : ftruncate(f->fd, (off_t)to) < 0 ? -errno : 0;
    } else if (rc < 0) {
        /* A failed fallocate may keep what it got. Should this fail too, the first error
         * still is the one to report, and closing the file gives the space back. */
        int undone = ftruncate(f->fd, (off_t)from);

        (void)undone;
    }
    io_sigxfsz_restore(&guard);
    return rc;
}

int io_file_reserve(struct io_file *f, uint64_t bytes)
{
    struct rlimit limit = {0};
    int rc;

    if (!f->writable)
        return base_fail(-EBADF, "reserve %s: %" PRIu64 " bytes: file is open for reading only", f->path,
                         bytes);
    if (bytes <= f->bytes)
        return 0;
    rc = bytes > INT64_MAX ? -EFBIG : grow(f, f->bytes, bytes);
    if (rc == -ENOSPC)
        return base_fail(rc, "reserve %s: %" PRIu64 " bytes wanted, %" PRIu64 " held, %" PRIu64 " free: %s",
                         f->path, bytes, f->bytes, free_bytes(f->fd), base_strerror(rc));
    if (rc == -EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return base_fail(
            rc, "reserve %s: %" PRIu64 " bytes wanted, file-size limit (ulimit -f) %" PRIu64 " bytes: %s",
            f->path, bytes, (uint64_t)limit.rlim_cur, base_strerror(rc));
    if (rc < 0)
        return base_fail_errno(rc, "reserve %s: %" PRIu64 " bytes", f->path, bytes);
    f->bytes = bytes;
    return 0;
}

const char *io_file_path(const struct io_file *f)
{
    return f->path;
}

uint64_t io_file_bytes(const struct io_file *f)
{
    return f->bytes;
}

uint32_t io_file_block(const struct io_file *f)
{
    return f->block;
}

bool io_file_direct(const struct io_file *f)
{
    return f->direct;
}

const char *io_file_note(const struct io_file *f)
{
    return f->note;
}
