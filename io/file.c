/*
 * Files: see io.h. Owns what a file is made of, and how disk space is reserved and given back.
 * How one descriptor is opened: open.c. Several directories: stripe.c. Moves no bytes: the
 * queue does.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "include/offload.h"
#include "io/io.h"

#define PAGE 4096u /* holes of less are not given back by common file systems */

static int check_flags(const char *what, const char *path, unsigned flags)
{
    if (flags & ~(unsigned)(IO_FILE_BUFFERED | IO_FILE_REQUIRE_DIRECT))
        return base_fail(-EINVAL, "%s %s: unknown flags 0x%x", what, path, flags);
    if ((flags & IO_FILE_BUFFERED) && (flags & IO_FILE_REQUIRE_DIRECT))
        return base_fail(-EINVAL, "%s %s: buffered and direct I/O both asked for", what, path);
    return 0;
}

static void member_init(struct io_member *m)
{
    *m = (struct io_member){.fd = -1, .cached_fd = -1, .limit_bytes = UINT64_MAX, .weight = 1};
}

/* A file of so many members, all closed. */
static struct io_file *file_create(unsigned count)
{
    struct io_file *f = calloc(1, sizeof *f);

    if (f)
        f->member = calloc(count, sizeof *f->member);
    if (!f || !f->member) {
        free(f);
        return NULL;
    }
    f->count = count;
    for (unsigned i = 0; i < count; i++)
        member_init(&f->member[i]);
    return f;
}

/* What f is as a whole, once its members are open. */
static int file_settle(struct io_file *f, unsigned flags)
{
    f->require_direct = flags & IO_FILE_REQUIRE_DIRECT;
    f->block = 1;
    for (unsigned i = 0; i < f->count; i++) {
        struct io_member *m = &f->member[i];
        char *path = f->path;

        if (m->block > f->block)
            f->block = m->block;
        if (m->note[0] && !f->note[0])
            memcpy(f->note, m->note, sizeof f->note);
        if (asprintf(&f->path, "%s%s%s", path ? path : "", path ? " + " : "", m->path) < 0) {
            f->path = path;
            return base_fail_errno(-ENOMEM, "open %s", m->path);
        }
        free(path);
    }
    return 0;
}

int io_file_limit_block(struct io_file *f, uint32_t most)
{
    int rc = 0;

    f->block = 1;
    for (unsigned i = 0; i < f->count && rc == 0; i++) {
        struct io_member *m = &f->member[i];

        rc = io_member_limit_block(m, most, f->require_direct);
        if (m->block > f->block)
            f->block = m->block;
        if (m->note[0] && !f->note[0])
            memcpy(f->note, m->note, sizeof f->note);
    }
    return rc;
}

int io_file_open_read(const char *path, unsigned flags, struct io_file **out)
{
    struct io_file *f;
    int rc = check_flags("open", path, flags);

    *out = NULL;
    if (rc < 0)
        return rc;
    if (!(f = file_create(1)))
        return base_fail_errno(-ENOMEM, "open %s", path);
    rc = io_member_open_read(&f->member[0], path, flags);
    if (rc == 0)
        rc = file_settle(f, flags);
    f->bytes = f->member[0].bytes;
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
    return rc;
}

int io_file_open_named(const char *path, bool create, unsigned flags, struct io_file **out)
{
    struct io_file *f;
    int rc = check_flags("open", path, flags);

    *out = NULL;
    if (rc < 0)
        return rc;
    if (!(f = file_create(1)))
        return base_fail_errno(-ENOMEM, "open %s", path);
    f->writable = true;
    rc = io_member_open_named(&f->member[0], path, create, flags);
    if (rc == 0)
        rc = file_settle(f, flags);
    f->bytes = f->member[0].bytes;
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
    return rc;
}

int io_file_open_striped(const struct io_stripe *stripes, unsigned count, unsigned flags,
                         struct io_file **out)
{
    struct io_file *f;
    int rc;

    *out = NULL;
    if (count == 0 || count > IO_STRIPE_MAX)
        return base_fail(-EINVAL, "create striped scratch file: %u directories, 1 to %u are possible", count,
                         IO_STRIPE_MAX);
    rc = check_flags("create scratch file in", stripes[0].dir, flags);
    if (rc < 0)
        return rc;
    if (!(f = file_create(count)))
        return base_fail_errno(-ENOMEM, "create scratch file in %s", stripes[0].dir);
    f->writable = true;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        f->member[i].weight = stripes[i].weight > 0 ? stripes[i].weight : 1;
        f->member[i].limit_bytes = stripes[i].limit_bytes ? stripes[i].limit_bytes : UINT64_MAX;
        rc = io_member_open_scratch(&f->member[i], stripes[i].dir, flags);
    }
    if (rc == 0)
        rc = file_settle(f, flags);
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
    return rc;
}

int io_file_open_scratch(const char *dir, unsigned flags, struct io_file **out)
{
    const struct io_stripe one = {.dir = dir};

    return io_file_open_striped(&one, 1, flags, out);
}

static void member_close(struct io_member *m)
{
    if (m->fd >= 0)
        close(m->fd);
    if (m->cached_fd >= 0)
        close(m->cached_fd);
    free(m->path);
}

void io_file_close(struct io_file *f)
{
    if (!f)
        return;
    for (unsigned i = 0; i < f->count; i++)
        member_close(&f->member[i]);
    free(f->member);
    free(f->units);
    free(f->path);
    free(f);
}

int io_member_size_now(const struct io_member *m, uint64_t *bytes)
{
    struct stat st;

    if (fstat(m->fd, &st) < 0)
        return -errno;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

int io_member_cached_fd(struct io_member *m)
{
    char name[40];

    if (m->cached_fd >= 0)
        return m->cached_fd;
    /* through /proc, since the file has no name */
    snprintf(name, sizeof name, "/proc/self/fd/%d", m->fd);
    m->cached_fd = open(name, O_RDWR | O_CLOEXEC);
    return m->cached_fd < 0 ? -errno : m->cached_fd;
}

uint64_t io_member_free_bytes(const struct io_member *m)
{
    struct statvfs fs;

    return fstatvfs(m->fd, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

int io_member_grow(struct io_member *m, uint64_t bytes)
{
    struct io_sigxfsz guard;
    int rc;

    if (bytes > INT64_MAX)
        return -EFBIG;
    io_sigxfsz_block(&guard);
    do
        rc = fallocate(m->fd, 0, (off_t)m->bytes, (off_t)(bytes - m->bytes)) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == -EOPNOTSUPP || rc == -ENOSYS) {
        /* can't be reserved: at least don't promise what is not there now */
        m->reserved = false;
        snprintf(m->space_note, sizeof m->space_note,
                 "space is not really reserved: the file system can't do that");
        rc = io_member_free_bytes(m) < bytes - m->bytes ? -ENOSPC
             : ftruncate(m->fd, (off_t)bytes) < 0       ? -errno
                                                        : 0;
    } else if (rc < 0) {
        /* A failed fallocate may keep what it got. Should this fail too, the first error
         * still is the one to report, and closing the file gives the space back. */
        int undone = ftruncate(m->fd, (off_t)m->bytes);

        (void)undone;
    }
    io_sigxfsz_restore(&guard);
    if (rc == 0)
        m->bytes = bytes;
    return rc;
}

void io_member_shrink(struct io_member *m, uint64_t bytes)
{
    if (bytes < m->bytes && ftruncate(m->fd, (off_t)bytes) == 0)
        m->bytes = bytes;
}

static int reserve_single(struct io_file *f, uint64_t bytes)
{
    struct io_member *m = &f->member[0];
    struct rlimit limit = {0};
    int rc = bytes > m->limit_bytes ? -ENOSPC : io_member_grow(m, bytes);

    if (rc == -ENOSPC)
        return base_fail(rc, "reserve %s: %" PRIu64 " bytes wanted, %" PRIu64 " held, %" PRIu64 " free: %s",
                         f->path, bytes, f->bytes, io_member_free_bytes(m), base_strerror(rc));
    if (rc == -EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return base_fail(
            rc, "reserve %s: %" PRIu64 " bytes wanted, file-size limit (ulimit -f) %" PRIu64 " bytes: %s",
            f->path, bytes, (uint64_t)limit.rlim_cur, base_strerror(rc));
    if (rc < 0)
        return base_fail_errno(rc, "reserve %s: %" PRIu64 " bytes", f->path, bytes);
    f->bytes = bytes;
    return 0;
}

int io_file_reserve(struct io_file *f, uint64_t bytes)
{
    if (!f->writable)
        return base_fail(-EBADF, "reserve %s: %" PRIu64 " bytes: file is open for reading only", f->path,
                         bytes);
    if (bytes <= f->bytes)
        return 0;
    return f->count > 1 ? io_stripe_reserve(f, bytes) : reserve_single(f, bytes);
}

/* What fallocate can do to the whole blocks inside a range, part by part. */
static int change(struct io_file *f, const char *what, int mode, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset > UINT64_MAX - bytes || offset + bytes > f->bytes ? f->bytes : offset + bytes;

    if (!f->writable)
        return base_fail(-EBADF, "%s %s: file is open for reading only", what, f->path);
    offset = (offset + PAGE - 1) / PAGE * PAGE;
    end = end / PAGE * PAGE;
    while (offset < end) {
        unsigned member;
        uint64_t run, at = io_file_locate(f, offset, &member, &run);

        if (run > end - offset)
            run = end - offset;
        if (fallocate(f->member[member].fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)run) < 0)
            return base_fail_errno(-errno, "%s %s: offset %" PRIu64 ", %" PRIu64 " bytes", what,
                                   f->member[member].path, at, run);
        offset += run;
    }
    return 0;
}

int io_file_trim(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    return change(f, "trim", FALLOC_FL_PUNCH_HOLE, offset, bytes);
}

int io_file_zero(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    return change(f, "zero", FALLOC_FL_ZERO_RANGE, offset, bytes);
}

int io_file_sync(struct io_file *f)
{
    for (unsigned i = 0; i < f->count; i++)
        if (fdatasync(f->member[i].fd) < 0)
            return base_fail_errno(-errno, "sync %s", f->member[i].path);
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

uint32_t io_file_read_block(const struct io_file *f)
{
    uint32_t block = 1;

    for (unsigned i = 0; i < f->count; i++)
        if (io_member_block(&f->member[i], IO_READ) > block)
            block = io_member_block(&f->member[i], IO_READ);
    return block;
}

bool io_file_reserved(const struct io_file *f)
{
    for (unsigned i = 0; i < f->count; i++)
        if (!f->member[i].reserved)
            return false;
    return f->writable;
}

bool io_file_in_memory(const struct io_file *f)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->member[i].in_memory)
            return true;
    return false;
}

bool io_file_direct(const struct io_file *f)
{
    for (unsigned i = 0; i < f->count; i++)
        if (!f->member[i].direct)
            return false;
    return true;
}

const char *io_file_note(const struct io_file *f)
{
    return f->note;
}

unsigned io_file_parts(const struct io_file *f)
{
    return f->count;
}

int io_file_fd(const struct io_file *f, unsigned index)
{
    return f->member[index].fd;
}

void io_file_part(const struct io_file *f, unsigned index, struct io_part_info *out)
{
    const struct io_member *m = &f->member[index];

    *out = (struct io_part_info){.dir = m->path,
                                 .bytes = m->bytes,
                                 .read_bytes = m->moved_bytes[IO_READ],
                                 .write_bytes = m->moved_bytes[IO_WRITE],
                                 .weight = m->weight,
                                 .direct = m->direct,
                                 .full = m->full,
                                 .reserved = m->reserved,
                                 .in_memory = m->in_memory,
                                 .cached = m->cached};
    memcpy(out->note, m->note, sizeof out->note);
    memcpy(out->space_note, m->space_note, sizeof out->space_note);
    memcpy(out->drive_note, m->drive_note, sizeof out->drive_note);
}
