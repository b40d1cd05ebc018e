/*
 * The directory of a kept store: its files but for the data, its lock, and how they come to be. Owns what
 * struct kept_files holds. Knows nothing of what the files say.
 *
 * The lock is flock(2) on the root file: it is this open file's alone, so a second one in the same process is refused
 * too. A store that is made begins as KEPT_FILE_NEW, locked, and gets its name last, so what has the name is whole.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "liboffload/store/kept_impl.h"

#define TRIES                                                                                                \
    100 /* to find the files as they were a moment ago, while another process makes or removes them */

static const char *const manifest_names[2] = {"manifest-0.ofl", "manifest-1.ofl"};

/* ---- reading and writing ------------------------------------------------------ */

static int write_all(enum kept_which which, int fd, const void *bytes, uint64_t count, uint64_t offset)
{
    const char *at = bytes;

    (void)which;
    while (count) {
        ssize_t n = pwrite(fd, at, count < INT32_MAX ? count : INT32_MAX, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
        offset += (uint64_t)n;
        count -= (uint64_t)n;
    }
    return 0;
}

static int sync_file(enum kept_which which, int fd)
{
    (void)which;
    return fdatasync(fd) < 0 ? -errno : 0;
}

struct kept_calls kept_calls = {write_all, sync_file, io_file_sync};

int64_t kept_read(int fd, void *bytes, uint64_t count, uint64_t offset)
{
    uint64_t done = 0;

    while (done < count) {
        uint64_t want = count - done;
        ssize_t n =
            pread(fd, (char *)bytes + done, want < INT32_MAX ? want : INT32_MAX, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (uint64_t)n;
    }
    memset((char *)bytes + done, 0, count - done);
    return (int64_t)done;
}

char *kept_path(const struct kept_files *f, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", f->dir, name) < 0 ? NULL : path;
}

const char *kept_manifest_name(uint64_t generation)
{
    return manifest_names[generation % 2];
}

int kept_block_write(const struct kept_files *f, unsigned block, const uint8_t *bytes)
{
    int err = kept_calls.write(KEPT_ROOTS, f->roots, bytes, KEPT_BLOCK, (uint64_t)block * KEPT_BLOCK);

    if (err == 0)
        err = kept_calls.sync(KEPT_ROOTS, f->roots);
    if (err < 0)
        return base_fail_errno(err, "write %s/%s: offset %u, %u bytes", f->dir, KEPT_FILE_ROOTS,
                               block * KEPT_BLOCK, KEPT_BLOCK);
    return 0;
}

/* ---- the directory -------------------------------------------------------------- */

static int fail_file(int err, const char *what, const struct kept_files *f, const char *name)
{
    return base_fail_errno(err, "%s %s/%s", what, f->dir, name);
}

/* The names in a directory are durable. */
static int sync_dir(int fd, const char *dir)
{
    if (fsync(fd) < 0 && errno != EINVAL) /* there are file systems that can't */
        return base_fail_errno(-errno, "sync directory %s", dir);
    return 0;
}

static int sync_parent(const char *dir)
{
    char *copy = strdup(dir), *parent = copy ? dirname(copy) : NULL;
    int fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int err = fd >= 0  ? sync_dir(fd, parent)
              : parent ? 0
                       : base_fail_errno(-ENOMEM, "sync directory %s", dir);

    /* Who may not look at it can't sync it. */
    if (fd >= 0)
        close(fd);
    free(copy);
    return err;
}

static int open_dir(struct kept_files *f, enum kept_use use)
{
    if (use == KEPT_RUN && mkdir(f->dir, 0700) == 0) {
        int err = sync_parent(f->dir);

        f->made_dir = true;
        if (err < 0)
            return err;
    }
    f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0)
        return base_fail_errno(-errno, "open kept store in %s", f->dir);
    return 0;
}

/* Without a store in it: whether it is empty, but for what a store half made leaves. */
static int check_unused(const struct kept_files *f)
{
    static const char *const ours[] = {KEPT_FILE_NEW, KEPT_FILE_DATA, "manifest-0.ofl", "manifest-1.ofl"};
    int fd = openat(f->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!d) {
        err = base_fail_errno(-errno, "list %s", f->dir);
        if (fd >= 0)
            close(fd);
        return err;
    }
    while (err == 0 && (e = readdir(d))) {
        struct stat st;
        bool own = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                   strcmp(e->d_name, "lost+found") == 0;

        for (size_t i = 0; i < sizeof ours / sizeof *ours && !own; i++)
            own = strcmp(e->d_name, ours[i]) == 0 &&
                  fstatat(f->dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
                  (i == 0 || st.st_size == 0);
        if (!own)
            err = base_fail(
                -ENOTEMPTY,
                "open kept store in %s: it has %s, and no %s: no kept store, and not empty: give it a "
                "directory of its own",
                f->dir, e->d_name, KEPT_FILE_ROOTS);
    }
    closedir(d);
    return err;
}

/* ---- the root file and the lock --------------------------------------------------- */

static int open_regular(const struct kept_files *f, const char *name, int flags)
{
    int fd = openat(f->dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return -EINVAL;
}

static int lock(const struct kept_files *f, int fd, enum kept_use use)
{
    int rc;

    do
        rc = flock(fd, (use == KEPT_LOOK ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == -EWOULDBLOCK)
        return base_fail(-EBUSY, "open kept store in %s: another process, or context, has it", f->dir);
    return rc < 0 ? base_fail_errno(rc, "lock %s/%s", f->dir, KEPT_FILE_ROOTS) : 0;
}

static bool is_still(const struct kept_files *f, int fd, const char *name)
{
    struct stat open_one, named;

    return fstat(fd, &open_one) == 0 && fstatat(f->dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev;
}

/* 1: locked; 0: it was another file meanwhile; or below. */
static int lock_named(struct kept_files *f, int fd, const char *name, enum kept_use use)
{
    int err = lock(f, fd, use);

    if (err == 0 && is_still(f, fd, name)) {
        f->roots = fd;
        return 1;
    }
    close(fd);
    return err;
}

/* As lock_named, of a store to be made. */
static int begin_new(struct kept_files *f)
{
    int err = check_unused(f), fd;
    struct stat st;

    if (err < 0) /* unless another process has just made one */
        return fstatat(f->dir_fd, KEPT_FILE_ROOTS, &st, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : err;
    fd = open_regular(f, KEPT_FILE_NEW, O_RDWR | O_CREAT);
    if (fd < 0)
        return fail_file(fd, "create", f, KEPT_FILE_NEW);
    err = lock_named(f, fd, KEPT_FILE_NEW, KEPT_RUN);
    if (err == 1 && fstatat(f->dir_fd, KEPT_FILE_ROOTS, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        close(f->roots);
        f->roots = -1;
        return 0;
    }
    f->fresh = err == 1;
    return err;
}

static int open_roots(struct kept_files *f, enum kept_use use)
{
    for (unsigned i = 0; i < TRIES; i++) {
        int fd = open_regular(f, KEPT_FILE_ROOTS, use == KEPT_LOOK ? O_RDONLY : O_RDWR), err;

        if (fd == -ENOENT && use != KEPT_RUN)
            return base_fail(-ENOENT, "open kept store in %s: it has no %s: no kept store", f->dir,
                             KEPT_FILE_ROOTS);
        if (fd == -EINVAL || fd == -ELOOP)
            return base_fail(-OFL_EFORMAT, "open kept store in %s: %s is not a regular file", f->dir,
                             KEPT_FILE_ROOTS);
        if (fd < 0 && fd != -ENOENT)
            return fail_file(fd, "open", f, KEPT_FILE_ROOTS);
        err = fd < 0 ? begin_new(f) : lock_named(f, fd, KEPT_FILE_ROOTS, use);
        if (err)
            return err < 0 ? err : 0;
    }
    return base_fail(-EBUSY, "open kept store in %s: its files are made and removed meanwhile", f->dir);
}

/* ---- all of it ---------------------------------------------------------------------- */

static int open_manifests(struct kept_files *f, enum kept_use use)
{
    const int flags = use == KEPT_LOOK ? O_RDONLY : O_RDWR | (f->fresh ? O_CREAT : 0);

    for (int i = 0; i < 2; i++) {
        f->manifest[i] = open_regular(f, manifest_names[i], flags);
        if (f->manifest[i] == -ENOENT || f->manifest[i] == -EINVAL || f->manifest[i] == -ELOOP)
            return base_fail(-OFL_EFORMAT, "open kept store in %s: %s is %s", f->dir, manifest_names[i],
                             f->manifest[i] == -ENOENT ? "missing" : "not a regular file");
        if (f->manifest[i] < 0)
            return fail_file(f->manifest[i], "open", f, manifest_names[i]);
    }
    return 0;
}

/* Empty ones of a store half made: what is to be made anew must not be there. */
static int remove_leftover(const struct kept_files *f)
{
    if (f->fresh && unlinkat(f->dir_fd, KEPT_FILE_DATA, 0) < 0 && errno != ENOENT)
        return fail_file(-errno, "remove", f, KEPT_FILE_DATA);
    return 0;
}

int kept_files_open(const char *dir, enum kept_use use, struct kept_files *f)
{
    int err;

    *f = (struct kept_files){
        .dir = strdup(dir), .dir_fd = -1, .roots = -1, .manifest = {-1, -1}, .owner = getpid()};
    err = f->dir ? open_dir(f, use) : base_fail_errno(-ENOMEM, "open kept store in %s", dir);
    if (err == 0)
        err = open_roots(f, use);
    if (err == 0)
        err = open_manifests(f, use);
    if (err == 0)
        err = remove_leftover(f);
    if (err < 0)
        kept_files_close(f);
    return err;
}

int kept_files_publish(struct kept_files *f, const struct kept_head *head)
{
    uint8_t *blocks = calloc(KEPT_BLOCKS, KEPT_BLOCK);
    int err;

    if (!blocks)
        return base_fail_errno(-ENOMEM, "create kept store in %s", f->dir);
    kept_head_encode(head, blocks);
    err = ftruncate(f->roots, 0) < 0
              ? -errno
              : kept_calls.write(KEPT_ROOTS, f->roots, blocks, KEPT_BLOCKS * KEPT_BLOCK, 0);
    free(blocks);
    if (err == 0)
        err = fsync(f->roots) < 0 ? -errno : 0;
    if (err < 0)
        return fail_file(err, "write", f, KEPT_FILE_NEW);
    /* The other files have their names before this one speaks of them. */
    err = sync_dir(f->dir_fd, f->dir);
    if (err < 0)
        return err;
    if (renameat(f->dir_fd, KEPT_FILE_NEW, f->dir_fd, KEPT_FILE_ROOTS) < 0)
        return fail_file(-errno, "create", f, KEPT_FILE_ROOTS);
    err = sync_dir(f->dir_fd, f->dir);
    if (err < 0)
        (void)unlinkat(f->dir_fd, KEPT_FILE_ROOTS, 0);
    else
        f->fresh = false;
    return err;
}

static void remove_fresh(const struct kept_files *f)
{
    if (f->fresh) {
        (void)unlinkat(f->dir_fd, KEPT_FILE_DATA, 0);
        for (int i = 0; i < 2; i++)
            (void)unlinkat(f->dir_fd, manifest_names[i], 0);
        (void)unlinkat(f->dir_fd, KEPT_FILE_NEW, 0);
    }
    if (f->made_dir && (f->fresh || f->roots < 0))
        (void)rmdir(f->dir);
}

void kept_files_close(struct kept_files *f)
{
    if (f->owner == getpid())
        remove_fresh(f);
    /* A child that was forked meanwhile may hold the open file for long. */
    if (f->roots >= 0 && f->owner == getpid())
        (void)flock(f->roots, LOCK_UN);
    for (int i = 0; i < 2; i++)
        if (f->manifest[i] >= 0)
            close(f->manifest[i]);
    if (f->roots >= 0)
        close(f->roots);
    if (f->dir_fd >= 0)
        close(f->dir_fd);
    free(f->dir);
    *f = (struct kept_files){.dir_fd = -1, .roots = -1, .manifest = {-1, -1}};
}
