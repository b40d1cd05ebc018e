/*
 * writer: safetensors files, written: the public calls of offload_writer.h. Owns the file until it is whole. Knows of
 * tensors what any caller does.
 *
 * 8 bytes little-endian length N, N bytes of JSON, padded with spaces so that the data starts at a multiple of 8. Until
 * all is there the length is 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <jansson.h>

#include "base/dtype.h"
#include "base/entry.h"
#include "base/error.h"
#include "include/offload_writer.h"
#include "liboffload/source/reader.h"

typedef unsigned long long ull;

#define LENGTH_BYTES 8u
#define HEADER_MAX   100000000u /* bytes; the format's own limit */
#define METADATA     "__metadata__"
#define CHUNK_BYTES  (4u << 20)
/* Written this far, the file is brought to disk and leaves the page cache: that of a large model would fill the memory
 * that budgets have left to others. */
#define SYNC_BYTES (32u << 20)

struct part {
    enum ofl_dtype dtype;
    uint64_t from, to; /* in the data */
};

struct ofl_writer {
    char *path;
    int fd;
    bool failed, finished;
    char *header; /* length and text */
    uint64_t header_bytes, data_bytes, done_bytes, synced_bytes;
    size_t next, count; /* tensors: all before next have been put */
    struct part *parts;
    void *chunk;
};

/* ---- the header ----------------------------------------------------------- */

static int measure(const char *path, const struct ofl_source_entry *e, const struct base_dtype *d,
                   uint64_t *bytes)
{
    const struct source_quoted name = source_quote(e->name);
    uint64_t elems = 1;
    int err = 0;

    if (e->dims > OFL_DIMS_MAX)
        return base_fail(-EINVAL, "write %s: tensor \"%s\": %u dimensions, at most %d are possible", path,
                         name.text, e->dims, OFL_DIMS_MAX);
    for (uint32_t i = 0; i < e->dims && err == 0; i++)
        if (__builtin_mul_overflow(elems, e->shape[i], &elems))
            err = -EOVERFLOW;
    if (err == 0)
        err = base_dtype_bytes(d, elems, bytes);
    if (err == -EOVERFLOW)
        return base_fail(-EINVAL, "write %s: tensor \"%s\": more bytes than any file has", path, name.text);
    if (err < 0)
        return base_fail(-EINVAL, "write %s: tensor \"%s\": %llu elements of %s: not whole blocks of %u",
                         path, name.text, (ull)elems, d->name, d->block_elems);
    return 0;
}

static int add(struct ofl_writer *w, json_t *root, const struct ofl_source_entry *e, struct part *part)
{
    const struct base_dtype *d = base_dtype(e->dtype);
    json_t *shape, *value;
    uint64_t bytes;
    int err;

    if (!e->name || strcmp(e->name, METADATA) == 0)
        return base_fail(-EINVAL, "write %s: tensor %zu has no name, or " METADATA, w->path, w->count);
    if (!d || !d->safetensors)
        return base_fail(-EINVAL, "write %s: tensor \"%s\": safetensors files have no dtype %s", w->path,
                         source_quote(e->name).text, d ? d->name : "of that number");
    if (json_object_get(root, e->name))
        return base_fail(-EEXIST, "write %s: two tensors are \"%s\"", w->path, source_quote(e->name).text);
    err = measure(w->path, e, d, &bytes);
    if (err < 0)
        return err;
    if (bytes > (uint64_t)INT64_MAX / 2 - w->data_bytes)
        return base_fail(-EINVAL, "write %s: more bytes than any file has", w->path);
    *part = (struct part){e->dtype, w->data_bytes, w->data_bytes + bytes};
    shape = json_array();
    for (uint32_t i = 0; i < e->dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)e->shape[i]));
    value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", d->safetensors, "shape", shape, "data_offsets",
                      (json_int_t)part->from, (json_int_t)part->to);
    if (json_object_set_new(root, e->name, value) != 0)
        return base_fail(-EINVAL, "write %s: tensor \"%s\": its name is not UTF-8", w->path,
                         source_quote(e->name).text);
    w->data_bytes = part->to;
    w->count++;
    return 0;
}

static int add_metadata(const struct ofl_writer *w, json_t *root, const char *const *metadata)
{
    json_t *all = json_object();
    int err = all ? 0 : -ENOMEM;

    for (size_t i = 0; err == 0 && metadata[i]; i += 2)
        if (!metadata[i + 1] || json_object_set_new(all, metadata[i], json_string(metadata[i + 1])) != 0)
            err = base_fail(-EINVAL, "write %s: metadata %zu has no value, or is not UTF-8", w->path, i / 2);
    if (json_object_set_new(root, METADATA, all) != 0 && err == 0)
        err = base_fail(-ENOMEM, "write %s: out of memory", w->path);
    return err;
}

static int print(struct ofl_writer *w, const json_t *root)
{
    char *text = json_dumps(root, JSON_COMPACT);
    uint64_t length = text ? (strlen(text) + 7) / 8 * 8 : 0;
    int err = 0;

    w->header = text ? malloc(LENGTH_BYTES + length) : NULL;
    if (!w->header) {
        err = base_fail(-ENOMEM, "write %s: out of memory", w->path);
    } else if (length > HEADER_MAX) {
        err = base_fail(-E2BIG, "write %s: a header of %llu bytes: at most %u are possible", w->path,
                        (ull)length, HEADER_MAX);
    } else {
        for (unsigned i = 0; i < LENGTH_BYTES; i++)
            w->header[i] = (char)(unsigned char)(length >> (8 * i));
        memset(w->header + LENGTH_BYTES, ' ', length);
        memcpy(w->header + LENGTH_BYTES, text, strlen(text));
        w->header_bytes = LENGTH_BYTES + length;
    }
    free(text);
    return err;
}

static int make_header(struct ofl_writer *w, const struct ofl_source_entry *tensors, size_t n,
                       const char *const *metadata)
{
    json_t *root = json_object();
    int err = 0;

    w->parts = calloc(n + 1, sizeof *w->parts);
    if (!root || !w->parts)
        err = base_fail(-ENOMEM, "write %s: out of memory", w->path);
    if (err == 0 && metadata)
        err = add_metadata(w, root, metadata);
    for (size_t i = 0; i < n && err == 0; i++)
        err = add(w, root, &tensors[i], &w->parts[i]);
    if (err == 0)
        err = print(w, root);
    json_decref(root);
    return err;
}

/* ---- the file --------------------------------------------------------------- */

/* Where a file system can't reserve, the free space is looked at. */
static int reserve(const struct ofl_writer *w)
{
    uint64_t bytes = w->header_bytes + w->data_bytes;
    struct statvfs fs;
    int err;

    do
        err = fallocate(w->fd, 0, 0, (off_t)bytes) == 0 ? 0 : -errno;
    while (err == -EINTR);
    if (err == -EOPNOTSUPP || err == -ENOSYS)
        err = fstatvfs(w->fd, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < bytes ? -ENOSPC : 0;
    return err < 0 ? base_fail_errno(err, "reserve %s: %llu bytes", w->path, (ull)bytes) : 0;
}

static int write_at(struct ofl_writer *w, uint64_t at, const void *buf, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pwrite(w->fd, (const char *)buf + done, bytes - done, (off_t)(at + done));

        if (n > 0)
            done += (uint64_t)n;
        else if (n == 0 || errno != EINTR)
            return base_fail_errno(n < 0 ? -errno : -EIO, "write %s: offset %llu, %llu bytes", w->path,
                                   (ull)(at + done), (ull)(bytes - done));
    }
    return 0;
}

static int create(struct ofl_writer *w)
{
    static const char zeros[LENGTH_BYTES];
    int err;

    w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return base_fail_errno(-errno, "create %s", w->path);
    err = reserve(w);
    return err < 0 ? err : write_at(w, 0, zeros, sizeof zeros);
}

int ofl_writer_open(const char *path, const struct ofl_source_entry *tensors, size_t n,
                    const char *const *metadata, struct ofl_writer **out)
{
    struct ofl_writer *w;
    int err;

    if (out)
        *out = NULL;
    err = base_need(path, out);
    if (err == 0 && n)
        err = base_need(tensors);
    if (err < 0)
        return err;
    w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return base_fail(-ENOMEM, "write %s: out of memory", path);
    }
    w->fd = -1;
    err = make_header(w, tensors, n, metadata);
    if (err == 0)
        err = create(w);
    if (err < 0)
        ofl_writer_destroy(w);
    else
        *out = w;
    return err;
}

/* ---- bytes ------------------------------------------------------------------ */

static int put(struct ofl_writer *w, const void *buf, uint64_t bytes)
{
    uint64_t end = w->header_bytes + w->done_bytes + bytes;
    int err = write_at(w, end - bytes, buf, bytes);

    if (err < 0)
        return err;
    w->done_bytes += bytes;
    while (w->next < w->count && w->parts[w->next].to <= w->done_bytes)
        w->next++;
    if (end - w->synced_bytes < SYNC_BYTES)
        return 0;
    if (fdatasync(w->fd) != 0)
        return base_fail_errno(-errno, "fdatasync %s", w->path);
    posix_fadvise(w->fd, (off_t)w->synced_bytes, (off_t)(end - w->synced_bytes), POSIX_FADV_DONTNEED);
    w->synced_bytes = end;
    return 0;
}

static int check_open(const struct ofl_writer *w)
{
    if (w->failed || w->finished)
        return base_fail(-OFL_ESTATE, "write %s: it %s", w->path, w->failed ? "has failed" : "is finished");
    return 0;
}

int ofl_writer_put(struct ofl_writer *w, const void *buf, uint64_t bytes)
{
    int err = base_need(w);

    if (err == 0 && bytes)
        err = base_need(buf);
    if (err == 0)
        err = check_open(w);
    if (err < 0)
        return err;
    if (bytes > w->data_bytes - w->done_bytes)
        return base_fail(-EINVAL, "write %s: %llu bytes behind %llu: its tensors have %llu", w->path,
                         (ull)bytes, (ull)w->done_bytes, (ull)w->data_bytes);
    err = put(w, buf, bytes);
    w->failed = err < 0;
    return err;
}

/* The next tensor that has bytes. */
static int check_next(const struct ofl_writer *w, const struct ofl_tensor_info *t)
{
    const struct part *p = &w->parts[w->next];

    if (w->next == w->count)
        return base_fail(-EINVAL, "write %s: %s: all tensors have been put", w->path, t->name);
    if (p->from != w->done_bytes || p->dtype != t->dtype || p->to - p->from != t->bytes)
        return base_fail(-EINVAL,
                         "write %s: %s is %s with %llu bytes: the next tensor, of %llu bytes of it put "
                         "already, is %s with %llu",
                         w->path, t->name, ofl_dtype_name(t->dtype), (ull)t->bytes,
                         (ull)(w->done_bytes - p->from), ofl_dtype_name(p->dtype), (ull)(p->to - p->from));
    return 0;
}

int ofl_writer_put_tensor(struct ofl_writer *w, struct ofl_tensor *t)
{
    struct ofl_tensor_info info = {.size = sizeof info};
    int err = base_need(w, t);

    if (err == 0)
        err = ofl_tensor_info_get(t, &info);
    if (err == 0)
        err = check_open(w);
    if (err == 0)
        err = check_next(w, &info);
    if (err < 0)
        return err;
    if (!w->chunk && !(w->chunk = malloc(CHUNK_BYTES)))
        return base_fail(-ENOMEM, "write %s: out of memory", w->path);
    for (uint64_t at = 0, n; at < info.bytes && err == 0; at += n) {
        n = info.bytes - at < CHUNK_BYTES ? info.bytes - at : CHUNK_BYTES;
        err = ofl_tensor_read(t, at, w->chunk, n);
        if (err == 0)
            err = put(w, w->chunk, n);
    }
    w->failed = err < 0;
    return err;
}

/* ---- ends --------------------------------------------------------------------- */

int ofl_writer_finish(struct ofl_writer *w)
{
    int err = base_need(w);

    if (err == 0)
        err = check_open(w);
    if (err == 0 && w->done_bytes < w->data_bytes)
        err = base_fail(-OFL_ESTATE, "finish %s: %llu of %llu bytes were put", w->path, (ull)w->done_bytes,
                        (ull)w->data_bytes);
    if (err < 0)
        return err;
    /* The header counts only behind what it names. */
    err = fdatasync(w->fd) == 0 ? write_at(w, 0, w->header, w->header_bytes)
                                : base_fail_errno(-errno, "fdatasync %s", w->path);
    if (err == 0 && fsync(w->fd) != 0)
        err = base_fail_errno(-errno, "fsync %s", w->path);
    if (close(w->fd) != 0 && err == 0)
        err = base_fail_errno(-errno, "close %s", w->path);
    w->fd = -1;
    w->failed = err < 0;
    w->finished = err == 0;
    if (err < 0)
        unlink(w->path);
    return err;
}

void ofl_writer_destroy(struct ofl_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->path);
    }
    free(w->path);
    free(w->header);
    free(w->parts);
    free(w->chunk);
    free(w);
}
