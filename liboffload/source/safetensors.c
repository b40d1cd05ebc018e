/* The header of a safetensors file: see safetensors.h. Owns the parsing and the checks; must
 * not know of contexts, tensors or tiers. Nothing in the file is trusted. */
#include "liboffload/source/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/error.h"

#define LENGTH_BYTES 8u
#define METADATA     "__metadata__"

static const struct {
    const char *name;
    enum ofl_dtype dtype;
    uint64_t bytes;
} dtypes[] = {
    {"U8", OFL_U8, 1},   {"I8", OFL_I8, 1},   {"BOOL", OFL_BOOL, 1}, {"I16", OFL_I16, 2},
    {"U16", OFL_U16, 2}, {"F16", OFL_F16, 2}, {"BF16", OFL_BF16, 2}, {"I32", OFL_I32, 4},
    {"U32", OFL_U32, 4}, {"F32", OFL_F32, 4}, {"I64", OFL_I64, 8},   {"U64", OFL_U64, 8},
    {"F64", OFL_F64, 8},
};

/* Text of the file, made fit for a sentence: short, and without control characters, which
 * would reach the reader's terminal. */
struct quoted {
    char text[132];
};

static struct quoted quote(const char *text)
{
    struct quoted q;
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

/* ---- one tensor -------------------------------------------------------- */

struct file_part {
    const char *path;
    uint64_t data_offset, data_bytes;
};

static int parse_dtype(const struct file_part *file, const char *name, const json_t *value,
                       struct store_entry *e, uint64_t *elem_bytes)
{
    const char *text = json_string_value(value);

    if (!text)
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": dtype is missing or not a string", file->path,
                         quote(name).text);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(text, dtypes[i].name) == 0) {
            e->dtype = dtypes[i].dtype;
            *elem_bytes = dtypes[i].bytes;
            return 0;
        }
    return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": dtype \"%s\" is not supported", file->path,
                     quote(name).text, quote(text).text);
}

static int parse_shape(const struct file_part *file, const char *name, const json_t *value,
                       uint64_t elem_bytes, struct store_entry *e)
{
    size_t dims = json_array_size(value);

    if (!json_is_array(value))
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": shape is missing or not an array", file->path,
                         quote(name).text);
    if (dims > OFL_DIMS_MAX)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": shape has %zu dimensions, at most %d are supported",
                         file->path, quote(name).text, dims, OFL_DIMS_MAX);
    e->dims = (uint32_t)dims;
    e->elems = 1;
    for (size_t i = 0; i < dims; i++) {
        const json_t *dim = json_array_get(value, i);

        if (!json_is_integer(dim))
            return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": shape[%zu] is not an integer", file->path,
                             quote(name).text, i);
        if (json_integer_value(dim) < 0)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": shape[%zu] is %" JSON_INTEGER_FORMAT ": negative",
                             file->path, quote(name).text, i, json_integer_value(dim));
        e->shape[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(e->elems, e->shape[i], &e->elems))
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": shape[%zu] is %" PRIu64 ": the product of the shape "
                             "overflows 64 bits",
                             file->path, quote(name).text, i, e->shape[i]);
    }
    if (__builtin_mul_overflow(e->elems, elem_bytes, &e->bytes))
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": %" PRIu64 " elements of %" PRIu64
                         " bytes: overflows 64 bits",
                         file->path, quote(name).text, e->elems, elem_bytes);
    return 0;
}

static int parse_offsets(const struct file_part *file, const char *name, const json_t *value,
                         struct store_entry *e)
{
    const json_t *first = json_array_get(value, 0), *last = json_array_get(value, 1);
    uint64_t begin, end;

    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < 0)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets is not a pair of integers from 0", file->path,
                         quote(name).text);
    begin = (uint64_t)json_integer_value(first);
    end = (uint64_t)json_integer_value(last);
    if (begin > end)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                         "]: the end is before the begin",
                         file->path, quote(name).text, begin, end);
    if (end > file->data_bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                         "], but the file has %" PRIu64 " bytes of data: truncated, or a wrong offset",
                         file->path, quote(name).text, begin, end, file->data_bytes);
    if (end - begin != e->bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "] hold %" PRIu64
                         " bytes, but shape and dtype need %" PRIu64,
                         file->path, quote(name).text, begin, end, end - begin, e->bytes);
    e->offset = file->data_offset + begin;
    return 0;
}

static int parse_entry(const struct file_part *file, const char *name, json_t *value, struct store_entry *e)
{
    uint64_t elem_bytes = 0;
    const char *key;
    json_t *item;
    int rc;

    if (!json_is_object(value))
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": its header entry is not an object",
                         file->path, quote(name).text);
    /* A key from a later format could change what the bytes mean. */
    json_object_foreach(value, key, item)
    {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": unknown key \"%s\"", file->path,
                             quote(name).text, quote(key).text);
    }
    rc = parse_dtype(file, name, json_object_get(value, "dtype"), e, &elem_bytes);
    if (rc == 0)
        rc = parse_shape(file, name, json_object_get(value, "shape"), elem_bytes, e);
    if (rc == 0)
        rc = parse_offsets(file, name, json_object_get(value, "data_offsets"), e);
    if (rc != 0)
        return rc;
    e->name = strdup(name);
    if (!e->name)
        return base_fail_errno(-ENOMEM, "open %s: tensor \"%s\"", file->path, quote(name).text);
    return 0;
}

/* ---- all tensors ------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const struct store_entry *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct store_entry *)a)->name, ((const struct store_entry *)b)->name);
}

/* In order of offset each tensor starts where the one before ends: then nothing overlaps,
 * and no byte of the file belongs to nobody. */
static int check_cover(const struct store_safetensors *s, const struct file_part *file)
{
    uint64_t expect = file->data_offset;
    const char *before = NULL;

    for (size_t i = 0; i < s->count; i++) {
        const struct store_entry *e = &s->entries[i];

        if (e->offset < expect)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": begins at data offset %" PRIu64
                             ", but tensor \"%s\" ends at %" PRIu64 ": they overlap",
                             s->path, quote(e->name).text, e->offset - file->data_offset, quote(before).text,
                             expect - file->data_offset);
        if (e->offset > expect)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": begins at data offset %" PRIu64
                             ", but the bytes from %" PRIu64 " belong to no tensor: a hole",
                             s->path, quote(e->name).text, e->offset - file->data_offset,
                             expect - file->data_offset);
        expect += e->bytes;
        before = e->name;
    }
    if (expect != s->file_bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: file has %" PRIu64 " bytes, but its last tensor ends at %" PRIu64
                         ": %" PRIu64 " bytes too long",
                         s->path, s->file_bytes, expect, s->file_bytes - expect);
    return 0;
}

static int parse_header(struct store_safetensors *s, json_t *root, uint64_t header_bytes)
{
    struct file_part file = {.path = s->path,
                             .data_offset = LENGTH_BYTES + header_bytes,
                             .data_bytes = s->file_bytes - LENGTH_BYTES - header_bytes};
    const char *name;
    json_t *value;
    int rc;

    s->entries = calloc(json_object_size(root) + 1, sizeof *s->entries);
    if (!s->entries)
        return base_fail_errno(-ENOMEM, "open %s: header of %zu tensors", s->path, json_object_size(root));
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, METADATA) == 0) {
            if (!json_is_object(value))
                return base_fail(-OFL_EFORMAT, "open %s: header: %s is not an object", s->path, METADATA);
            continue;
        }
        rc = parse_entry(&file, name, value, &s->entries[s->count]);
        if (rc != 0)
            return rc;
        s->count++;
    }
    qsort(s->entries, s->count, sizeof *s->entries, by_offset);
    rc = check_cover(s, &file);
    if (rc == 0)
        qsort(s->entries, s->count, sizeof *s->entries, by_name);
    return rc;
}

/* ---- the file ---------------------------------------------------------- */

static int read_at(const struct store_safetensors *s, int fd, void *buf, uint64_t bytes, uint64_t offset)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)buf + done, bytes - done, (off_t)(offset + done));

        if (n > 0) {
            done += (uint64_t)n;
        } else if (n == 0) {
            return base_fail(-OFL_EFORMAT,
                             "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: got %" PRIu64
                             ": the file has shrunk",
                             s->path, offset, bytes, done);
        } else if (errno != EINTR) {
            return base_fail_errno(-errno, "read %s: offset %" PRIu64 ", %" PRIu64 " bytes: got %" PRIu64,
                                   s->path, offset, bytes, done);
        }
    }
    return 0;
}

/* Checks the length before anything of that size is allocated or read. */
static int read_length(const struct store_safetensors *s, int fd, uint64_t *header_bytes)
{
    unsigned char raw[LENGTH_BYTES];
    uint64_t length = 0;
    int rc;

    if (s->file_bytes < LENGTH_BYTES)
        return base_fail(-OFL_EFORMAT, "open %s: file has %" PRIu64 " bytes, a safetensors file at least %u",
                         s->path, s->file_bytes, LENGTH_BYTES);
    rc = read_at(s, fd, raw, sizeof raw, 0);
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)raw[i] << (8 * i);
    if (length == 0)
        return base_fail(-OFL_EFORMAT, "open %s: header length is 0 bytes", s->path);
    if (length > STORE_SAFETENSORS_HEADER_MAX)
        return base_fail(-OFL_EFORMAT, "open %s: header length is %" PRIu64 " bytes, at most %u are allowed",
                         s->path, length, STORE_SAFETENSORS_HEADER_MAX);
    if (length > s->file_bytes - LENGTH_BYTES)
        return base_fail(-OFL_EFORMAT,
                         "open %s: header length is %" PRIu64 " bytes, but the file has %" PRIu64
                         " after it: truncated, or not a safetensors file",
                         s->path, length, s->file_bytes - LENGTH_BYTES);
    *header_bytes = length;
    return 0;
}

static int load_json(const struct store_safetensors *s, const char *text, uint64_t bytes, json_t **out)
{
    json_error_t error;
    json_t *root;

    if (text[0] != '{')
        return base_fail(-OFL_EFORMAT, "open %s: header of %" PRIu64 " bytes is not a JSON object", s->path,
                         bytes);
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return base_fail_errno(-ENOMEM, "open %s: header of %" PRIu64 " bytes", s->path, bytes);
    if (!root)
        return base_fail(-OFL_EFORMAT, "open %s: header, byte %d of %" PRIu64 ": %s", s->path, error.position,
                         bytes, quote(error.text).text);
    *out = root;
    return 0;
}

static int load_header(struct store_safetensors *s, int fd)
{
    uint64_t header_bytes = 0;
    json_t *root = NULL;
    struct stat st;
    char *text;
    int rc;

    if (fstat(fd, &st) != 0)
        return base_fail_errno(-errno, "open %s", s->path);
    if (!S_ISREG(st.st_mode))
        return base_fail(S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "open %s: not a regular file", s->path);
    s->file_bytes = (uint64_t)st.st_size;
    rc = read_length(s, fd, &header_bytes);
    if (rc != 0)
        return rc;
    text = malloc(header_bytes);
    if (!text)
        return base_fail_errno(-ENOMEM, "open %s: header of %" PRIu64 " bytes", s->path, header_bytes);
    rc = read_at(s, fd, text, header_bytes, LENGTH_BYTES);
    if (rc == 0)
        rc = load_json(s, text, header_bytes, &root);
    free(text);
    if (rc == 0)
        rc = parse_header(s, root, header_bytes);
    json_decref(root);
    return rc;
}

int store_safetensors_open(const char *path, struct store_safetensors **out)
{
    struct store_safetensors *s = calloc(1, sizeof *s);
    int fd = -1, rc;

    if (s)
        s->path = strdup(path);
    if (!s || !s->path) {
        rc = base_fail_errno(-ENOMEM, "open %s", path);
        goto out;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not block us */
    if (fd < 0) {
        rc = base_fail_errno(-errno, "open %s", path);
        goto out;
    }
    rc = load_header(s, fd);
out:
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        *out = s;
    else
        store_safetensors_close(s);
    return rc;
}

void store_safetensors_close(struct store_safetensors *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++)
        free(s->entries[i].name);
    free(s->entries);
    free(s->path);
    free(s);
}

const struct store_entry *store_safetensors_find(const struct store_safetensors *s, const char *name)
{
    struct store_entry key = {.name = (char *)(uintptr_t)name};

    return s->count ? bsearch(&key, s->entries, s->count, sizeof *s->entries, by_name) : NULL;
}
