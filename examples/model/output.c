/* A directory that appears whole. See output.h. */
#include "examples/model/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "examples/model/files.h"
#include "include/offload.h"

#define NAME_TRIES 100

struct llama_output {
    char *parent, *final, *temporary; /* temporary: NULL before it is made and once it has its name */
    int lock;                         /* on final */
    bool created;                     /* final is ours to remove */
    bool inside;                      /* temporary lies in final */
    bool replace, old;                /* what is there may be replaced, and is there */
    bool whole;
    char *error;
    size_t error_bytes;
};

static int fail_errno(struct llama_output *o, const char *what, const char *path, int code)
{
    return llama_fail(code, o->error, o->error_bytes, "%s %s: %s", what, path, ofl_strerror(code));
}

/* ---- the place ----------------------------------------------------------- */

/* The wanted directory without slashes at its end, and its parent. */
static int split(struct llama_output *o, const char *dir)
{
    size_t n = strlen(dir);
    const char *base;
    char *slash;

    while (n > 1 && dir[n - 1] == '/')
        n--;
    o->final = strndup(dir, n);
    o->parent = strndup(dir, n);
    if (!o->final || !o->parent)
        return fail_errno(o, "write", dir, -ENOMEM);
    slash = strrchr(o->parent, '/');
    base = slash ? slash + 1 : o->parent;
    if (*base == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return llama_fail(-EINVAL, o->error, o->error_bytes, "write \"%s\": not a name for a new directory",
                          dir);
    if (!slash)
        strcpy(o->parent, ".");
    else
        slash[slash == o->parent] = '\0';
    return 0;
}

/* Of a file system's own root, what its making left there does not count. */
static bool is_empty(const char *path, bool mounted)
{
    DIR *d = opendir(path);
    struct dirent *e;
    bool empty = d != NULL;

    while (d && (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            !(mounted && strcmp(e->d_name, "lost+found") == 0))
            empty = false;
    if (d)
        closedir(d);
    return empty;
}

/* What models and adapters are made of. */
static bool is_part(const char *name)
{
    static const char *const ends[] = {".json",  ".safetensors", ".jinja",
                                       ".model", "merges.txt",   "vocab.txt"};
    size_t n = strlen(name);

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t e = strlen(ends[i]);

        if (n >= e && strcmp(name + n - e, ends[i]) == 0)
            return true;
    }
    return strcmp(name, "README.md") == 0;
}

/* Whether o->final is what a run has written: all else that lies there would be lost. */
static int check_result(struct llama_output *o)
{
    DIR *d = opendir(o->final);
    struct dirent *e;
    bool config = false;
    int rc = d ? 0 : fail_errno(o, "open directory", o->final, -errno);

    while (rc == 0 && (e = readdir(d)) != NULL) {
        struct stat st;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) ||
            !is_part(e->d_name))
            rc = llama_fail(
                -EEXIST, o->error, o->error_bytes,
                "write %s: %s in it is no part of a model: only what a run has written is replaced", o->final,
                llama_quote(e->d_name).text);
        config =
            config || strcmp(e->d_name, "config.json") == 0 || strcmp(e->d_name, "adapter_config.json") == 0;
    }
    if (d)
        closedir(d);
    if (rc == 0 && !config)
        rc = llama_fail(-EEXIST, o->error, o->error_bytes,
                        "write %s: no model is there: only what a run has written is replaced", o->final);
    return rc;
}

static bool is_mount(const char *path)
{
    struct statx st;

    return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
           (st.stx_attributes & st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0;
}

static bool can_write(const char *dir)
{
    return access(dir, W_OK | X_OK) == 0;
}

static int check_existing(struct llama_output *o, const struct stat *st)
{
    bool mounted;

    if (!S_ISDIR(st->st_mode))
        return llama_fail(-EEXIST, o->error, o->error_bytes, "write %s: exists, and is not a directory",
                          o->final);
    mounted = is_mount(o->final);
    o->inside = mounted || !can_write(o->parent);
    o->old = !is_empty(o->final, mounted);
    if (o->old && !o->replace)
        return llama_fail(-EEXIST, o->error, o->error_bytes,
                          "write %s: exists, and is not an empty directory; --overwrite replaces a model",
                          o->final);
    if (o->old && o->inside)
        return llama_fail(-EEXIST, o->error, o->error_bytes,
                          "write %s: a mount point, or in a directory that can't be written: it can't be "
                          "replaced; empty it, or give another name",
                          o->final);
    if (o->old)
        return check_result(o);
    return o->inside && !can_write(o->final) ? fail_errno(o, "write into", o->final, -errno) : 0;
}

static int check(struct llama_output *o, const char *dir)
{
    struct stat st;
    int rc = split(o, dir);

    if (rc != 0)
        return rc;
    if (lstat(o->final, &st) == 0)
        return check_existing(o, &st);
    if (errno != ENOENT)
        return fail_errno(o, "write", o->final, -errno);
    if (!can_write(o->parent))
        return llama_fail(-errno, o->error, o->error_bytes, "write %s: directory %s can't be written: %s",
                          o->final, o->parent, ofl_strerror(errno));
    return 0;
}

/* The name is ours as long as the directory under it is locked. Some file systems have no locks. */
static int lock_name(struct llama_output *o)
{
    struct stat locked, named;

    if (mkdir(o->final, 0777) == 0)
        o->created = true;
    else if (errno != EEXIST)
        return fail_errno(o, "create directory", o->final, -errno);
    o->lock = open(o->final, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->lock < 0)
        return fail_errno(o, "open directory", o->final, -errno);
    if (flock(o->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return llama_fail(-EBUSY, o->error, o->error_bytes,
                          "write %s: another run is about to write there; give this one another name",
                          o->final);
    /* In between, that one may have put its own there. */
    if (fstat(o->lock, &locked) != 0 || lstat(o->final, &named) != 0 || locked.st_ino != named.st_ino ||
        locked.st_dev != named.st_dev || (!o->old && !is_empty(o->final, o->inside)))
        return llama_fail(-EEXIST, o->error, o->error_bytes, "write %s: another run has written there",
                          o->final);
    return 0;
}

/* mkdir, unlike mkdtemp, gives the mode that the user's umask asks for. In the place of a directory that was there
 * nobody else sees what is written, until it has that one's mode. */
static int make_temporary(struct llama_output *o)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
    unsigned char random[6];
    char suffix[sizeof random + 1] = "";
    mode_t mode = o->created || o->inside ? 0777 : 0700;

    for (int i = 0; i < NAME_TRIES; i++) {
        int rc;

        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
            return fail_errno(o, "getrandom for", o->final, -errno);
        for (size_t j = 0; j < sizeof random; j++)
            suffix[j] = letters[random[j] % 32];
        if (asprintf(&o->temporary, "%s%s.partial-%s", o->final, o->inside ? "/" : "", suffix) < 0) {
            o->temporary = NULL;
            return fail_errno(o, "write", o->final, -ENOMEM);
        }
        if (mkdir(o->temporary, mode) == 0)
            return 0;
        rc = errno == EEXIST && i < NAME_TRIES - 1 ? 0
                                                   : fail_errno(o, "create directory", o->temporary, -errno);
        free(o->temporary);
        o->temporary = NULL; /* not ours to remove */
        if (rc != 0)
            return rc;
    }
    return -EEXIST;
}

/* ---- its files ------------------------------------------------------------- */

/* Calls fn for every file; the directory is flat. */
static int each_file(struct llama_output *o, int (*fn)(struct llama_output *o, const char *path))
{
    DIR *d = opendir(o->temporary);
    struct dirent *e;
    int rc = 0;

    if (!d)
        return fail_errno(o, "open directory", o->temporary, -errno);
    while (rc == 0 && (e = readdir(d)) != NULL) {
        char *path;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        path = llama_path(o->temporary, e->d_name);
        rc = path ? fn(o, path) : fail_errno(o, "write", o->temporary, -ENOMEM);
        free(path);
    }
    closedir(d);
    return rc;
}

static int remove_file(struct llama_output *o, const char *path)
{
    (void)o;
    unlink(path); /* what stays makes rmdir fail, which is reported */
    return 0;
}

static int sync_path(struct llama_output *o, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return fail_errno(o, "open", path, -errno);
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: a file system that does not sync directories */
        rc = fail_errno(o, "fsync", path, -errno);
    close(fd);
    return rc;
}

static int move_up(struct llama_output *o, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    char *to = llama_path(o->final, name);
    int rc = !to ? fail_errno(o, "write", path, -ENOMEM) : rename(path, to) == 0 ? 0 : -errno;

    if (to && rc != 0)
        llama_fail(rc, o->error, o->error_bytes, "rename %s to %s: %s", path, to, ofl_strerror(rc));
    free(to);
    return rc;
}

static bool is_config(const char *path)
{
    return strcmp(strrchr(path, '/') + 1, "config.json") == 0;
}

static int move_all_but_config(struct llama_output *o, const char *path)
{
    return is_config(path) ? 0 : move_up(o, path);
}

/* Without its config.json it is no model. */
static int publish_inside(struct llama_output *o)
{
    int rc = each_file(o, move_all_but_config);

    if (rc == 0)
        rc = sync_path(o, o->final);
    return rc == 0 ? each_file(o, move_up) : rc;
}

/* The mode, and where the system lets us the owner, of the empty directory that is replaced. Without
 * its group, the group's rights go too. */
static int take_over(struct llama_output *o)
{
    struct stat old;
    mode_t mode;

    if (o->created || fstat(o->lock, &old) != 0)
        return 0;
    mode = old.st_mode & 07777;
    if (chown(o->temporary, (uid_t)-1, old.st_gid) != 0)
        mode &= ~(mode_t)(S_ISGID | S_IRWXG);
    if (chown(o->temporary, old.st_uid, (gid_t)-1) != 0)
        mode &= ~(mode_t)S_ISUID;
    return chmod(o->temporary, mode) == 0 ? 0 : fail_errno(o, "set the mode of", o->temporary, -errno);
}

/* Both are there at every moment, or, where a file system can't do that, one of them and the other under a name of its
 * own. What was there is at o->temporary then. */
static int exchange(struct llama_output *o)
{
    char *aside;
    int rc = renameat2(AT_FDCWD, o->temporary, AT_FDCWD, o->final, RENAME_EXCHANGE) == 0 ? 0 : -errno;

    if (rc != -EINVAL && rc != -ENOSYS)
        return rc;
    if (asprintf(&aside, "%s.old", o->temporary) < 0)
        return -ENOMEM;
    rc = rename(o->final, aside) == 0 ? 0 : -errno;
    if (rc == 0 && rename(o->temporary, o->final) != 0) {
        rc = -errno;
        (void)rename(aside, o->final);
    }
    if (rc == 0) {
        free(o->temporary);
        o->temporary = aside;
        return 0;
    }
    free(aside);
    return rc;
}

static int publish_over(struct llama_output *o)
{
    int rc = take_over(o);

    if (rc == 0 && (rc = exchange(o)) != 0)
        rc = llama_fail(rc, o->error, o->error_bytes, "replace %s by %s: %s", o->final, o->temporary,
                        ofl_strerror(rc));
    return rc;
}

/* The rename is the moment at which the directory exists. */
static int publish_beside(struct llama_output *o)
{
    int rc = take_over(o);

    if (rc == 0 && rename(o->temporary, o->final) != 0)
        rc = llama_fail(-errno, o->error, o->error_bytes, "rename %s to %s: %s", o->temporary, o->final,
                        ofl_strerror(errno));
    return rc;
}

/* ---- all of it ------------------------------------------------------------- */

int llama_output_check(const char *dir, bool replace, char *error, size_t error_bytes)
{
    struct llama_output o = {
        .lock = -1, .replace = replace, .error = error, .error_bytes = error ? error_bytes : 0};
    int rc = check(&o, dir);

    free(o.parent);
    free(o.final);
    return rc;
}

int llama_output_open(const char *dir, bool replace, struct llama_output **out, char *error,
                      size_t error_bytes)
{
    struct llama_output *o = calloc(1, sizeof *o);
    int rc;

    *out = NULL;
    if (!o)
        return llama_fail(-ENOMEM, error, error_bytes, "write %s: %s", dir, ofl_strerror(-ENOMEM));
    o->lock = -1;
    o->replace = replace;
    o->error = error;
    o->error_bytes = error ? error_bytes : 0;
    rc = check(o, dir);
    if (rc == 0)
        rc = lock_name(o);
    if (rc == 0)
        rc = make_temporary(o);
    if (rc == 0)
        *out = o;
    else
        llama_output_close(o, error, error_bytes);
    return rc;
}

const char *llama_output_dir(const struct llama_output *o)
{
    return o->temporary;
}

int llama_output_publish(struct llama_output *o, char *error, size_t error_bytes)
{
    int rc;
    size_t used;

    o->error = error;
    o->error_bytes = error ? error_bytes : 0;
    o->whole = true;
    rc = each_file(o, sync_path);
    if (rc == 0)
        rc = sync_path(o, o->temporary);
    if (rc == 0)
        rc = o->inside ? publish_inside(o) : o->old ? publish_over(o) : publish_beside(o);
    if (rc != 0) {
        used = o->error_bytes ? strlen(error) : 0;
        return llama_fail(rc, error + used, o->error_bytes - used,
                          "; all of it lies in %s: move it from there", o->temporary);
    }
    if (o->old)
        each_file(o, remove_file);
    if ((o->inside || o->old) && rmdir(o->temporary) != 0 && o->old)
        rc = llama_fail(-errno, error, o->error_bytes,
                        "%s is written; what was there could not be removed from %s: %s", o->final,
                        o->temporary, ofl_strerror(errno));
    free(o->temporary);
    o->temporary = NULL;
    return rc ? rc : sync_path(o, o->inside ? o->final : o->parent);
}

/* The sentence of the failure stays; that something could not be removed is added. */
static void discard(struct llama_output *o, char *error, size_t error_bytes)
{
    size_t used = error && error_bytes ? strlen(error) : 0;

    o->error_bytes = 0;
    each_file(o, remove_file);
    if (rmdir(o->temporary) != 0 && errno != ENOENT && error)
        llama_fail(0, error + used, error_bytes - used, "; %s could not be removed: %s", o->temporary,
                   ofl_strerror(errno));
}

void llama_output_close(struct llama_output *o, char *error, size_t error_bytes)
{
    if (!o)
        return;
    if (o->temporary && !o->whole)
        discard(o, error, error_bytes);
    if (o->created && !o->whole)
        rmdir(o->final);
    if (o->lock >= 0)
        close(o->lock);
    free(o->parent);
    free(o->final);
    free(o->temporary);
    free(o);
}
