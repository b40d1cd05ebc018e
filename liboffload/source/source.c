/* Source files: see source.h. Owns the table of formats, and what holds for a file of any of them. */
#include "liboffload/source/source.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "liboffload/source/reader.h"

static const struct source_reader *const formats[] = {&source_safetensors, &source_gguf};

/* What people have instead, by its first bytes. */
static const struct {
    const char *bytes;
    size_t count;
    const char *what;
} others[] = {
    {"version https://git-lfs", 23,
     "a pointer that git-lfs left in place of the file (git lfs pull fetches it)"},
    {"PK\3\4", 4, "a zip archive, as torch.save makes them"},
    {"\x80\2", 2, "a Python pickle"},
    {"\x89HDF", 4, "an HDF5 file"},
    {"\x93NUMPY", 6, "a NumPy array"},
    {"\x1f\x8b", 2, "compressed by gzip"},
    {"\x28\xb5\x2f\xfd", 4, "compressed by zstd"},
    {"<!DOCTYPE", 9, "an HTML page"},
    {"<html", 5, "an HTML page"},
    {"{\"", 2, "JSON"},
    {"{\n", 2, "JSON"},
};

struct source_quoted source_quote(const char *text)
{
    struct source_quoted q;
    size_t room = sizeof q.text - 4, n = strnlen(text, room + 1);
    bool cut = n > room;

    if (cut)
        for (n = room; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80;)
            n--;
    for (size_t i = 0; i < n; i++)
        q.text[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
    memcpy(q.text + n, cut ? "..." : "", cut ? 4 : 1);
    return q;
}

/* ---- bytes of the file --------------------------------------------------- */

/* Up to the end of the file. */
static int read_some(const struct source_file *f, int fd, void *buf, uint64_t bytes, uint64_t offset,
                     uint64_t *done)
{
    for (*done = 0; *done < bytes;) {
        ssize_t n = pread(fd, (char *)buf + *done, bytes - *done, (off_t)(offset + *done));

        if (n > 0)
            *done += (uint64_t)n;
        else if (n == 0)
            break;
        else if (errno != EINTR)
            return base_fail_errno(-errno, "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: got %" PRIu64,
                                   f->path, offset, bytes, *done);
    }
    return 0;
}

int source_read_at(const struct source_file *f, int fd, void *buf, uint64_t bytes, uint64_t offset)
{
    uint64_t done;
    int rc = read_some(f, fd, buf, bytes, offset, &done);

    if (rc == 0 && done < bytes)
        return base_fail(-OFL_ECHANGED,
                         "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: got %" PRIu64
                         ": the file has shrunk",
                         f->path, offset, bytes, done);
    return rc;
}

/* ---- formats ------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What it is instead; NULL: nobody knows. */
static const char *known_as(const struct source_head *head)
{
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (head->count >= others[i].count && memcmp(head->bytes, others[i].bytes, others[i].count) == 0)
            return others[i].what;
    return NULL;
}

static int refuse(const struct source_file *f, const struct source_head *head,
                  const struct source_reader *const *readers, size_t count)
{
    char seen[3 * 16 + 1] = "", supported[256] = "";
    const char *what = known_as(head);
    size_t used = 0;

    for (size_t i = 0; i < head->count && i < 16; i++)
        snprintf(seen + 3 * i, sizeof seen - 3 * i, " %02x", head->bytes[i]);
    for (size_t i = 0; i < count && used < sizeof supported; i++)
        used += (size_t)snprintf(supported + used, sizeof supported - used, "%s%s (*%s)", i ? ", " : "",
                                 readers[i]->name, readers[i]->suffix);
    if (what)
        return base_fail(-OFL_EFORMAT, "open %s: it is %s; supported: %s", f->path, what, supported);
    return base_fail(-OFL_EFORMAT,
                     "open %s: unknown format: %" PRIu64 " bytes, beginning with%s; supported: %s", f->path,
                     f->bytes, head->count ? seen : " nothing", supported);
}

/* Whoever knows the first bytes; else whoever has the suffix, unless the bytes are another's. NULL: nobody. */
static const struct source_reader *find_format(const struct source_file *f, const struct source_head *head,
                                               const struct source_reader *const *readers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (readers[i]->probe(head))
            return readers[i];
    for (size_t i = 0; i < count && !known_as(head); i++)
        if (ends_with(f->path, readers[i]->suffix))
            return readers[i];
    return NULL;
}

/* ---- what holds for all formats ------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct source_entry *)a)->name, ((const struct source_entry *)b)->name);
}

static int settle(struct source_file *f)
{
    if (f->count)
        qsort(f->entries, f->count, sizeof *f->entries, by_name);
    for (size_t i = 0; i < f->count; i++) {
        const struct source_entry *e = &f->entries[i];

        if (i > 0 && strcmp(f->entries[i - 1].name, e->name) == 0)
            return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": it is there twice", f->path,
                             source_quote(e->name).text);
        if (e->offset > f->bytes || e->bytes > f->bytes - e->offset)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": offset %" PRIu64 ", %" PRIu64
                             " bytes, but the file has %" PRIu64 ": truncated",
                             f->path, source_quote(e->name).text, e->offset, e->bytes, f->bytes);
    }
    return 0;
}

static int read_file(struct source_file *f, int fd, const struct source_reader *const *readers, size_t count)
{
    const struct source_reader *reader;
    struct source_head head = {.count = 0};
    struct base_error changed;
    uint64_t got;
    int rc = source_state_take(fd, f->path, &f->state);

    if (rc != 0)
        return rc;
    f->bytes = f->state.bytes;
    rc = read_some(f, fd, head.bytes, sizeof head.bytes, 0, &got);
    if (rc != 0)
        return rc;
    head.count = got;
    reader = find_format(f, &head, readers, count);
    if (!reader)
        return refuse(f, &head, readers, count);
    f->format = reader->name;
    rc = reader->read(f, fd);
    if (rc == 0)
        rc = settle(f);
    /* What is wrong with a file that was written meanwhile is just that. */
    if (source_state_check(&f->state, fd, f->path, &changed) != 0)
        rc = base_error_restore(&changed);
    return rc;
}

int source_open_as(const struct source_reader *const *readers, size_t count, const char *path,
                   struct source_file **out)
{
    struct source_file *f = calloc(1, sizeof *f);
    int fd = -1, rc;

    if (f)
        f->path = strdup(path);
    if (!f || !f->path) {
        rc = base_fail_errno(-ENOMEM, "open %s", path);
        goto out;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not block us */
    if (fd < 0) {
        rc = base_fail_errno(-errno, "open %s", path);
        goto out;
    }
    rc = read_file(f, fd, readers, count);
out:
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        *out = f;
    else
        source_close(f);
    return rc;
}

int source_open(const char *path, struct source_file **out)
{
    return source_open_as(formats, sizeof formats / sizeof formats[0], path, out);
}

void source_close(struct source_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->count; i++)
        free(f->entries[i].name);
    for (size_t i = 0; i < f->metadata_count; i++) {
        free(f->metadata[i].key);
        free(f->metadata[i].values);
        free(f->metadata[i].bytes);
    }
    free(f->metadata);
    free(f->entries);
    free(f->path);
    free(f);
}

const struct source_entry *source_find(const struct source_file *f, const char *name)
{
    struct source_entry key = {.name = (char *)(uintptr_t)name};

    return f->count ? bsearch(&key, f->entries, f->count, sizeof *f->entries, by_name) : NULL;
}

const struct source_metadata *source_metadata_find(const struct source_file *f, const char *key)
{
    for (size_t i = 0; i < f->metadata_count; i++)
        if (strcmp(f->metadata[i].key, key) == 0)
            return &f->metadata[i];
    return NULL;
}
