/*
 * safetensors: a reader of source files. Owns the parsing and the checks of the header, which it reads
 * alone. Nothing in the file is trusted: every range lies inside the file, has the size that its shape
 * and dtype say, and the ranges cover the data exactly once.
 *
 * The format: 8 bytes little-endian length N, N bytes of JSON, then the data.
 *     {"__metadata__": {...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/dtype.h"
#include "base/error.h"
#include "liboffload/source/reader.h"

#define LENGTH_BYTES 8u
#define HEADER_MAX   100000000u /* bytes; the format's own limit */
#define METADATA     "__metadata__"

/* ---- one tensor -------------------------------------------------------- */

struct file_part {
    const char *path;
    uint64_t data_offset, data_bytes;
};

static int parse_dtype(const struct file_part *file, const char *name, const json_t *value,
                       struct source_entry *e)
{
    const char *text = json_string_value(value);

    if (!text)
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": dtype is missing or not a string", file->path,
                         source_quote(name).text);
    if (base_dtype_of_safetensors(text, &e->dtype) == 0)
        return 0;
    return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": dtype \"%s\" is not supported", file->path,
                     source_quote(name).text, source_quote(text).text);
}

static int parse_shape(const struct file_part *file, const char *name, const json_t *value,
                       struct source_entry *e)
{
    const struct base_dtype *d = base_dtype(e->dtype);
    size_t dims = json_array_size(value);
    int rc;

    if (!json_is_array(value))
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": shape is missing or not an array", file->path,
                         source_quote(name).text);
    if (dims > OFL_DIMS_MAX)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": shape has %zu dimensions, at most %d are supported",
                         file->path, source_quote(name).text, dims, OFL_DIMS_MAX);
    e->dims = (uint32_t)dims;
    e->elems = 1;
    for (size_t i = 0; i < dims; i++) {
        const json_t *dim = json_array_get(value, i);

        if (!json_is_integer(dim))
            return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": shape[%zu] is not an integer", file->path,
                             source_quote(name).text, i);
        if (json_integer_value(dim) < 0)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": shape[%zu] is %" JSON_INTEGER_FORMAT ": negative",
                             file->path, source_quote(name).text, i, json_integer_value(dim));
        e->shape[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(e->elems, e->shape[i], &e->elems))
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": shape[%zu] is %" PRIu64 ": the product of the shape "
                             "overflows 64 bits",
                             file->path, source_quote(name).text, i, e->shape[i]);
    }
    rc = base_dtype_bytes(d, e->elems, &e->bytes);
    if (rc != 0)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": %" PRIu64 " elements in blocks of %u, of %u bytes each: %s",
                         file->path, source_quote(name).text, e->elems, d->block_elems, d->block_bytes,
                         rc == -EOVERFLOW ? "overflows 63 bits" : "not whole blocks");
    return 0;
}

static int parse_offsets(const struct file_part *file, const char *name, const json_t *value,
                         struct source_entry *e)
{
    const json_t *first = json_array_get(value, 0), *last = json_array_get(value, 1);
    uint64_t begin, end;

    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < 0)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets is not a pair of integers from 0", file->path,
                         source_quote(name).text);
    begin = (uint64_t)json_integer_value(first);
    end = (uint64_t)json_integer_value(last);
    if (begin > end)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                         "]: the end is before the begin",
                         file->path, source_quote(name).text, begin, end);
    if (end > file->data_bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                         "], but the file has %" PRIu64 " bytes of data: truncated, or a wrong offset",
                         file->path, source_quote(name).text, begin, end, file->data_bytes);
    if (end - begin != e->bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "] hold %" PRIu64
                         " bytes, but shape and dtype need %" PRIu64,
                         file->path, source_quote(name).text, begin, end, end - begin, e->bytes);
    e->offset = file->data_offset + begin;
    return 0;
}

static int parse_entry(const struct file_part *file, const char *name, json_t *value, struct source_entry *e)
{
    const char *key;
    json_t *item;
    int rc;

    if (!json_is_object(value))
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": its header entry is not an object",
                         file->path, source_quote(name).text);
    /* A key from a later format could change what the bytes mean. */
    json_object_foreach(value, key, item)
    {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": unknown key \"%s\"", file->path,
                             source_quote(name).text, source_quote(key).text);
    }
    rc = parse_dtype(file, name, json_object_get(value, "dtype"), e);
    if (rc == 0)
        rc = parse_shape(file, name, json_object_get(value, "shape"), e);
    if (rc == 0)
        rc = parse_offsets(file, name, json_object_get(value, "data_offsets"), e);
    if (rc != 0)
        return rc;
    e->name = strdup(name);
    if (!e->name)
        return base_fail_errno(-ENOMEM, "open %s: tensor \"%s\"", file->path, source_quote(name).text);
    return 0;
}

/* ---- all tensors ------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const struct source_entry *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* In order of offset each tensor starts where the one before ends: then nothing overlaps,
 * and no byte of the file belongs to nobody. */
static int check_cover(const struct source_file *f, const struct file_part *file)
{
    uint64_t expect = file->data_offset;
    const char *before = NULL;

    for (size_t i = 0; i < f->count; i++) {
        const struct source_entry *e = &f->entries[i];

        if (e->offset < expect)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": begins at data offset %" PRIu64
                             ", but tensor \"%s\" ends at %" PRIu64 ": they overlap",
                             f->path, source_quote(e->name).text, e->offset - file->data_offset,
                             source_quote(before).text, expect - file->data_offset);
        if (e->offset > expect)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": begins at data offset %" PRIu64
                             ", but the bytes from %" PRIu64 " belong to no tensor: a hole",
                             f->path, source_quote(e->name).text, e->offset - file->data_offset,
                             expect - file->data_offset);
        expect += e->bytes;
        before = e->name;
    }
    if (expect != f->bytes)
        return base_fail(-OFL_EFORMAT,
                         "open %s: file has %" PRIu64 " bytes, but its last tensor ends at %" PRIu64
                         ": %" PRIu64 " bytes too long",
                         f->path, f->bytes, expect, f->bytes - expect);
    return 0;
}

static int parse_header(struct source_file *f, json_t *root, uint64_t header_bytes)
{
    struct file_part file = {.path = f->path,
                             .data_offset = LENGTH_BYTES + header_bytes,
                             .data_bytes = f->bytes - LENGTH_BYTES - header_bytes};
    const char *name;
    json_t *value;
    int rc;

    f->entries = calloc(json_object_size(root) + 1, sizeof *f->entries);
    if (!f->entries)
        return base_fail_errno(-ENOMEM, "open %s: header of %zu tensors", f->path, json_object_size(root));
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, METADATA) == 0) {
            if (!json_is_object(value))
                return base_fail(-OFL_EFORMAT, "open %s: header: %s is not an object", f->path, METADATA);
            continue;
        }
        rc = parse_entry(&file, name, value, &f->entries[f->count]);
        if (rc != 0)
            return rc;
        f->count++;
    }
    qsort(f->entries, f->count, sizeof *f->entries, by_offset);
    return check_cover(f, &file);
}

/* ---- the file ---------------------------------------------------------- */

static uint64_t length_of(const unsigned char *raw)
{
    uint64_t length = 0;

    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)raw[i] << (8 * i);
    return length;
}

/* Checks the length before anything of that size is allocated or read. */
static int read_length(const struct source_file *f, int fd, uint64_t *header_bytes)
{
    unsigned char raw[LENGTH_BYTES];
    uint64_t length;
    int rc;

    if (f->bytes < LENGTH_BYTES)
        return base_fail(-OFL_EFORMAT, "open %s: file has %" PRIu64 " bytes, a safetensors file at least %u",
                         f->path, f->bytes, LENGTH_BYTES);
    rc = source_read_at(f, fd, raw, sizeof raw, 0);
    if (rc != 0)
        return rc;
    length = length_of(raw);
    if (length == 0)
        return base_fail(-OFL_EFORMAT, "open %s: header length is 0 bytes", f->path);
    if (length > HEADER_MAX)
        return base_fail(-OFL_EFORMAT, "open %s: header length is %" PRIu64 " bytes, at most %u are allowed",
                         f->path, length, HEADER_MAX);
    if (length > f->bytes - LENGTH_BYTES)
        return base_fail(-OFL_EFORMAT,
                         "open %s: header length is %" PRIu64 " bytes, but the file has %" PRIu64
                         " after it: truncated, or not a safetensors file",
                         f->path, length, f->bytes - LENGTH_BYTES);
    *header_bytes = length;
    return 0;
}

static int load_json(const struct source_file *f, const char *text, uint64_t bytes, json_t **out)
{
    json_error_t error;
    json_t *root;

    if (text[0] != '{')
        return base_fail(-OFL_EFORMAT, "open %s: header of %" PRIu64 " bytes is not a JSON object", f->path,
                         bytes);
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return base_fail_errno(-ENOMEM, "open %s: header of %" PRIu64 " bytes", f->path, bytes);
    if (!root)
        return base_fail(-OFL_EFORMAT, "open %s: header, byte %d of %" PRIu64 ": %s", f->path, error.position,
                         bytes, source_quote(error.text).text);
    *out = root;
    return 0;
}

static bool probe(const struct source_head *head)
{
    return head->count > LENGTH_BYTES && length_of(head->bytes) <= HEADER_MAX &&
           head->bytes[LENGTH_BYTES] == '{';
}

static int read_header(struct source_file *f, int fd)
{
    uint64_t header_bytes = 0;
    json_t *root = NULL;
    char *text;
    int rc = read_length(f, fd, &header_bytes);

    if (rc != 0)
        return rc;
    text = malloc(header_bytes);
    if (!text)
        return base_fail_errno(-ENOMEM, "open %s: header of %" PRIu64 " bytes", f->path, header_bytes);
    rc = source_read_at(f, fd, text, header_bytes, LENGTH_BYTES);
    if (rc == 0)
        rc = load_json(f, text, header_bytes, &root);
    free(text);
    if (rc == 0)
        rc = parse_header(f, root, header_bytes);
    json_decref(root);
    return rc;
}

const struct source_reader source_safetensors = {
    .name = "safetensors", .suffix = ".safetensors", .probe = probe, .read = read_header};
