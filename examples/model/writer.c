/* Writing a model as a Hugging Face directory: see writer.h. Owns the temporary directory;
 * the weights come through a callback, at most one chunk of them is in memory. */
#include "examples/model/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/model/checkpoint.h"
#include "examples/model/files.h"

/* Written this far, the file is brought to disk and leaves the page cache: the cache of a
 * large model would fill the memory that the budgets left to others. */
#define SYNC_BYTES (32u << 20)
#define NAME_TRIES 100

struct writing {
    const struct llama_writer *w;
    char *parent, *final, *temporary;
    char *error;
    size_t error_bytes;
};

/* Copied if the model that was read has them. */
static const char *const copied[] = {
    "tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "added_tokens.json", "chat_template.jinja",   "generation_config.json"};

static int fail_errno(struct writing *x, const char *what, const char *path, int code)
{
    return llama_fail(code, x->error, x->error_bytes, "%s %s: %s", what, path, ofl_strerror(code));
}

/* ---- names ------------------------------------------------------------- */

/* The wanted directory without slashes at its end, and its parent. */
static int split(struct writing *x, const char *dir)
{
    size_t n = strlen(dir);
    const char *base;
    char *slash;

    while (n > 1 && dir[n - 1] == '/')
        n--;
    x->final = strndup(dir, n);
    x->parent = strndup(dir, n);
    if (!x->final || !x->parent)
        return fail_errno(x, "write", dir, -ENOMEM);
    slash = strrchr(x->parent, '/');
    base = slash ? slash + 1 : x->parent;
    if (*base == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return llama_fail(-EINVAL, x->error, x->error_bytes, "write \"%s\": not a name for a new directory",
                          dir);
    if (!slash)
        strcpy(x->parent, ".");
    else
        slash[slash == x->parent] = '\0';
    return 0;
}

static bool is_empty(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    bool empty = d != NULL;

    while (d && (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            empty = false;
    if (d)
        closedir(d);
    return empty;
}

static int check(struct writing *x, const char *dir)
{
    struct stat st;
    int rc = split(x, dir);

    if (rc != 0)
        return rc;
    if (lstat(x->final, &st) == 0) {
        if (!S_ISDIR(st.st_mode))
            return llama_fail(-EEXIST, x->error, x->error_bytes, "write %s: exists, and is not a directory",
                              x->final);
        if (!is_empty(x->final))
            return llama_fail(-EEXIST, x->error, x->error_bytes,
                              "write %s: exists, and is not an empty directory", x->final);
    } else if (errno != ENOENT) {
        return fail_errno(x, "write", x->final, -errno);
    }
    if (access(x->parent, W_OK | X_OK) != 0)
        return llama_fail(-errno, x->error, x->error_bytes, "write %s: directory %s can't be written: %s",
                          x->final, x->parent, ofl_strerror(errno));
    return 0;
}

/* mkdir, unlike mkdtemp, gives the mode that the user's umask asks for. In the place of an empty directory
 * nobody else sees what is written, until it has that one's mode. */
static int make_temporary(struct writing *x)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
    unsigned char random[6];
    char suffix[sizeof random + 1] = "";
    struct stat old;
    mode_t mode = stat(x->final, &old) == 0 ? 0700 : 0777;

    for (int i = 0; i < NAME_TRIES; i++) {
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
            return fail_errno(x, "getrandom for", x->final, -errno);
        for (size_t j = 0; j < sizeof random; j++)
            suffix[j] = letters[random[j] % 32];
        if (asprintf(&x->temporary, "%s.partial-%s", x->final, suffix) < 0) {
            x->temporary = NULL;
            return fail_errno(x, "write", x->final, -ENOMEM);
        }
        if (mkdir(x->temporary, mode) == 0)
            return 0;
        if (errno != EEXIST || i == NAME_TRIES - 1) {
            int rc = fail_errno(x, "create directory", x->temporary, -errno);

            free(x->temporary);
            x->temporary = NULL; /* not ours to remove */
            return rc;
        }
        free(x->temporary);
        x->temporary = NULL;
    }
    return -EEXIST;
}

/* Calls fn for every file; the directory is flat. */
static int each_file(struct writing *x, int (*fn)(struct writing *x, const char *path))
{
    DIR *d = opendir(x->temporary);
    struct dirent *e;
    int rc = 0;

    if (!d)
        return fail_errno(x, "open directory", x->temporary, -errno);
    while (rc == 0 && (e = readdir(d)) != NULL) {
        char *path;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        path = llama_path(x->temporary, e->d_name);
        rc = path ? fn(x, path) : fail_errno(x, "write", x->temporary, -ENOMEM);
        free(path);
    }
    closedir(d);
    return rc;
}

static int remove_file(struct writing *x, const char *path)
{
    (void)x;
    unlink(path); /* what stays makes rmdir fail, which is reported */
    return 0;
}

static int sync_path(struct writing *x, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return fail_errno(x, "open", path, -errno);
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: a file system that does not sync directories */
        rc = fail_errno(x, "fsync", path, -errno);
    close(fd);
    return rc;
}

/* Keeps the sentence of the failure; adds that the directory could not be removed. */
static void discard(struct writing *x)
{
    size_t error_bytes = x->error_bytes, used = error_bytes ? strlen(x->error) : 0;

    x->error_bytes = 0;
    each_file(x, remove_file);
    x->error_bytes = error_bytes;
    if (rmdir(x->temporary) != 0 && errno != ENOENT && error_bytes)
        llama_fail(0, x->error + used, error_bytes - used, "; %s could not be removed: %s", x->temporary,
                   ofl_strerror(errno));
}

/* ---- model.safetensors ------------------------------------------------- */

static json_t *header_json(const struct llama_writer *w, uint64_t *data_bytes)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt"), *entry;
    const struct llama_shape *shape = &w->config->shape;
    struct ofl_dtype_info info = {.size = sizeof info};
    uint64_t offset = 0, bytes;
    struct llama_stored d; /* tensors stored as one lie one behind the other */

    ofl_dtype_info(w->dtype, &info);
    for (uint32_t i = 0; root && i < llama_tensor_count(shape); i += d.count) {
        llama_stored_at(shape, i, &d);
        bytes = d.elems * ofl_dtype_bytes(w->dtype);
        entry =
            json_pack("{s:s, s:[I], s:[I, I]}", "dtype", info.safetensors, "shape", (json_int_t)d.shape[0],
                      "data_offsets", (json_int_t)offset, (json_int_t)(offset + bytes));
        if (d.dims == 2 && entry)
            json_array_append_new(json_object_get(entry, "shape"), json_integer((json_int_t)d.shape[1]));
        if (json_object_set_new(root, d.name, entry) != 0) {
            json_decref(root);
            root = NULL;
        }
        offset += bytes;
    }
    *data_bytes = offset;
    return root;
}

/* The whole file's space at once: a full disk is found now. Not all file systems can. */
static int reserve(struct writing *x, int fd, const char *path, uint64_t bytes)
{
    int rc;

    do
        rc = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : -errno;
    while (rc == -EINTR);
    if (rc == 0 || rc == -EOPNOTSUPP || rc == -ENOSYS)
        return 0;
    return llama_fail(rc, x->error, x->error_bytes, "reserve %s: %" PRIu64 " bytes: %s", path, bytes,
                      ofl_strerror(rc));
}

/* Length and text, padded with spaces so that the data starts at a multiple of 8. */
static int write_header(struct writing *x, int fd, const char *path, uint64_t *header_bytes,
                        uint64_t *data_bytes)
{
    json_t *root = header_json(x->w, data_bytes);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL, *padded = NULL;
    uint64_t length = text ? (strlen(text) + 7) / 8 * 8 : 0;
    int rc;

    if (text)
        padded = malloc(8 + length);
    if (padded) {
        for (unsigned i = 0; i < 8; i++)
            padded[i] = (char)(unsigned char)(length >> (8 * i));
        memset(padded + 8, ' ', length);
        memcpy(padded + 8, text, strlen(text));
        *header_bytes = 8 + length;
        rc = reserve(x, fd, path, 8 + length + *data_bytes);
        if (rc == 0)
            rc = llama_write_all(fd, path, padded, 8 + length, x->error, x->error_bytes);
    } else {
        rc = fail_errno(x, "write", path, -ENOMEM);
    }
    free(padded);
    free(text);
    json_decref(root);
    return rc;
}

struct stream {
    int fd;
    const char *path;
    void *buf;
    uint64_t data_bytes, done_bytes; /* of the tensors */
    uint64_t header_bytes, synced_bytes;
};

static int write_chunk(struct writing *x, struct stream *s, uint32_t tensor,
                       const struct llama_tensor_desc *d, uint64_t first, uint64_t elems)
{
    uint64_t bytes = elems * ofl_dtype_bytes(x->w->dtype), end;
    int rc = x->w->read(x->w->arg, tensor, first, elems, s->buf, x->error, x->error_bytes);

    if (rc != 0 && x->error_bytes && x->error[0] == '\0')
        llama_fail(rc, x->error, x->error_bytes,
                   "write %s: tensor %s, elements %" PRIu64 " to %" PRIu64 ": %s", s->path, d->name, first,
                   first + elems, ofl_strerror(rc));
    if (rc == 0)
        rc = llama_write_all(s->fd, s->path, s->buf, bytes, x->error, x->error_bytes);
    if (rc != 0)
        return rc;
    s->done_bytes += bytes;
    end = s->header_bytes + s->done_bytes;
    if (end - s->synced_bytes >= SYNC_BYTES) {
        if (fdatasync(s->fd) != 0)
            return fail_errno(x, "fdatasync", s->path, -errno);
        posix_fadvise(s->fd, (off_t)s->synced_bytes, (off_t)(end - s->synced_bytes), POSIX_FADV_DONTNEED);
        s->synced_bytes = end;
    }
    rc = x->w->progress ? x->w->progress(x->w->arg, s->done_bytes, s->data_bytes) : 0;
    if (rc != 0)
        llama_fail(rc, x->error, x->error_bytes,
                   "write %s: stopped after %" PRIu64 " of %" PRIu64 " bytes: %s", s->path, s->done_bytes,
                   s->data_bytes, ofl_strerror(rc));
    return rc;
}

static int write_tensors(struct writing *x, struct stream *s)
{
    const struct llama_shape *shape = &x->w->config->shape;
    const uint64_t most = LLAMA_WRITE_CHUNK_BYTES / ofl_dtype_bytes(x->w->dtype);
    struct llama_tensor_desc d;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < llama_tensor_count(shape); i++) {
        llama_tensor_at(shape, i, &d);
        for (uint64_t at = 0; rc == 0 && at < d.elems; at += most)
            rc = write_chunk(x, s, i, &d, at, d.elems - at < most ? d.elems - at : most);
    }
    return rc;
}

static int write_weights(struct writing *x)
{
    char *path = llama_path(x->temporary, "model.safetensors");
    struct stream s = {.fd = -1, .path = path, .buf = malloc(LLAMA_WRITE_CHUNK_BYTES)};
    int rc;

    if (!path || !s.buf) {
        rc = fail_errno(x, "write", x->final, -ENOMEM);
        goto out;
    }
    s.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (s.fd < 0) {
        rc = fail_errno(x, "create", path, -errno);
        goto out;
    }
    rc = write_header(x, s.fd, path, &s.header_bytes, &s.data_bytes);
    if (rc == 0)
        rc = write_tensors(x, &s);
    if (rc == 0 && fsync(s.fd) != 0)
        rc = fail_errno(x, "fsync", path, -errno);
    if (close(s.fd) != 0 && rc == 0)
        rc = fail_errno(x, "close", path, -errno);
out:
    free(s.buf);
    free(path);
    return rc;
}

/* ---- the small files --------------------------------------------------- */

static int copy_file(struct writing *x, const char *name)
{
    char *from = llama_path(x->w->copy_from_dir, name), *to = llama_path(x->temporary, name);
    int rc =
        from && to ? llama_file_check(from, x->error, x->error_bytes) : fail_errno(x, "copy", name, -ENOMEM);

    if (rc == -ENOENT) {
        rc = 0;
        llama_fail(0, x->error, x->error_bytes, "%s", "");
    } else if (rc == 0) {
        rc = llama_file_copy(from, to, x->error, x->error_bytes);
    }
    free(from);
    free(to);
    return rc;
}

/* Unless it was copied. */
static int write_generation(struct writing *x)
{
    const struct llama_config *c = x->w->config;
    char *path = llama_path(x->temporary, "generation_config.json");
    json_t *root = json_object(), *eos = json_array();
    int rc = path && root && eos ? 0 : fail_errno(x, "write", x->final, -ENOMEM);

    if (rc == 0 && access(path, F_OK) != 0) {
        if (c->bos_id >= 0)
            json_object_set_new(root, "bos_token_id", json_integer(c->bos_id));
        for (uint32_t i = 0; i < c->eos_count; i++)
            json_array_append_new(eos, json_integer(c->eos_ids[i]));
        if (c->eos_count > 0)
            json_object_set(root, "eos_token_id", c->eos_count == 1 ? json_array_get(eos, 0) : eos);
        rc = llama_json_save(path, root, x->error, x->error_bytes);
    }
    json_decref(eos);
    json_decref(root);
    free(path);
    return rc;
}

static int write_small(struct writing *x)
{
    char *path = llama_path(x->temporary, "config.json");
    const struct llama_writer *w = x->w;
    int rc = !path                 ? fail_errno(x, "write", x->final, -ENOMEM)
             : !w->config->as_read ? llama_config_save(path, w->config, w->dtype, x->error, x->error_bytes)
             : w->copy_from_dir
                 ? llama_config_copy(w->copy_from_dir, path, w->config, w->dtype, x->error, x->error_bytes)
                 : fail_errno(x, "copy config.json for", x->final, -ENOENT);

    free(path);
    for (size_t i = 0; rc == 0 && x->w->copy_from_dir && i < sizeof copied / sizeof copied[0]; i++)
        rc = copy_file(x, copied[i]);
    if (rc == 0)
        rc = write_generation(x);
    return rc;
}

static int add_files(struct writing *x)
{
    int rc = x->w->add_files ? x->w->add_files(x->w->arg, x->temporary, x->error, x->error_bytes) : 0;

    if (rc != 0 && x->error_bytes && x->error[0] == '\0')
        fail_errno(x, "write files of", x->final, rc);
    return rc;
}

/* ---- all of it --------------------------------------------------------- */

/* The mode, and where the system lets us the owner, of the empty directory that is replaced. Without
 * its group, the group's rights go too. */
static int take_over(struct writing *x)
{
    struct stat old;
    mode_t mode;

    if (stat(x->final, &old) != 0)
        return 0;
    mode = old.st_mode & 07777;
    if (chown(x->temporary, (uid_t)-1, old.st_gid) != 0)
        mode &= ~(mode_t)(S_ISGID | S_IRWXG);
    if (chown(x->temporary, old.st_uid, (gid_t)-1) != 0)
        mode &= ~(mode_t)S_ISUID;
    return chmod(x->temporary, mode) == 0 ? 0 : fail_errno(x, "set the mode of", x->temporary, -errno);
}

/* The rename is the moment at which the model exists. */
static int publish(struct writing *x)
{
    int rc = each_file(x, sync_path);

    if (rc == 0)
        rc = sync_path(x, x->temporary);
    if (rc == 0)
        rc = take_over(x);
    if (rc == 0 && rename(x->temporary, x->final) != 0)
        rc = llama_fail(-errno, x->error, x->error_bytes, "rename %s to %s: %s", x->temporary, x->final,
                        ofl_strerror(errno));
    if (rc != 0)
        return rc;
    free(x->temporary);
    x->temporary = NULL;
    return sync_path(x, x->parent);
}

static void forget(struct writing *x)
{
    free(x->parent);
    free(x->final);
    free(x->temporary);
}

int llama_writer_check(const char *dir, char *error, size_t error_bytes)
{
    struct writing x = {.error = error, .error_bytes = error ? error_bytes : 0};
    int rc = check(&x, dir);

    forget(&x);
    return rc;
}

int llama_checkpoint_write(const struct llama_writer *w, char *error, size_t error_bytes)
{
    struct writing x = {.w = w, .error = error, .error_bytes = error ? error_bytes : 0};
    int rc;

    if (x.error_bytes)
        error[0] = '\0';
    if (!w->bare && w->dtype != OFL_F32 && w->dtype != OFL_BF16 && w->dtype != OFL_F16)
        return llama_fail(-EINVAL, error, error_bytes, "write %s: dtype is not f32, bf16 or f16", w->dir);
    rc = w->bare ? 0 : llama_config_check(w->config, w->dir, error, error_bytes);
    if (rc == 0)
        rc = check(&x, w->dir);
    if (rc == 0)
        rc = make_temporary(&x);
    if (rc == 0 && !w->bare)
        rc = write_small(&x);
    if (rc == 0)
        rc = add_files(&x);
    if (rc == 0 && !w->bare)
        rc = write_weights(&x);
    if (rc == 0)
        rc = publish(&x);
    if (rc != 0 && x.temporary)
        discard(&x);
    forget(&x);
    return rc;
}
