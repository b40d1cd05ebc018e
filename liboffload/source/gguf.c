/*
 * gguf: a reader of source files. Owns the header of GGUF and the checks of its tensors; keys and values are read by
 * gguf_metadata.c. Nothing in the file is trusted: counts are compared with what the file has left before memory is
 * taken, every tensor's range lies inside the file and shares no byte with another.
 *
 * The format (versions 2 and 3, little-endian):
 *     "GGUF", u32 version, u64 tensors, u64 keys
 *     keys:     text key, u32 type, value
 *     tensors:  text name, u32 dimensions, u64 size of each (the fastest first), u32 type, u64 offset in the data
 *     the data, from the next multiple of general.alignment (32 by default) on
 */
#include "liboffload/source/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/error.h"

#define MAGIC         "GGUF"
#define ALIGNMENT     32u
#define DIMS_MAX      4u
#define NAME_BYTES    65535u
#define HEADER_MAX    (256u << 20) /* bytes; the largest vocabularies take about 20 MiB */
#define BUFFER_BYTES  (64u << 10)
#define TENSOR_LEAST  (8u + 1 + 4 + 4 + 8) /* bytes that an entry has at least */
#define KEY_LEAST     (8u + 1 + 4 + 1)
#define ALIGNMENT_KEY "general.alignment"

/* The format's numbers of types; dtype OFL_DTYPES: known by name alone. */
static const struct {
    const char *name;
    enum ofl_dtype dtype;
} types[] = {
    [0] = {"F32", OFL_F32},        [1] = {"F16", OFL_F16},         [2] = {"Q4_0", OFL_Q4_0},
    [3] = {"Q4_1", OFL_Q4_1},      [6] = {"Q5_0", OFL_Q5_0},       [7] = {"Q5_1", OFL_Q5_1},
    [8] = {"Q8_0", OFL_Q8_0},      [9] = {"Q8_1", OFL_DTYPES},     [10] = {"Q2_K", OFL_Q2_K},
    [11] = {"Q3_K", OFL_Q3_K},     [12] = {"Q4_K", OFL_Q4_K},      [13] = {"Q5_K", OFL_Q5_K},
    [14] = {"Q6_K", OFL_Q6_K},     [15] = {"Q8_K", OFL_DTYPES},    [16] = {"IQ2_XXS", OFL_DTYPES},
    [17] = {"IQ2_XS", OFL_DTYPES}, [18] = {"IQ3_XXS", OFL_DTYPES}, [19] = {"IQ1_S", OFL_DTYPES},
    [20] = {"IQ4_NL", OFL_IQ4_NL}, [21] = {"IQ3_S", OFL_DTYPES},   [22] = {"IQ2_S", OFL_DTYPES},
    [23] = {"IQ4_XS", OFL_IQ4_XS}, [24] = {"I8", OFL_I8},          [25] = {"I16", OFL_I16},
    [26] = {"I32", OFL_I32},       [27] = {"I64", OFL_I64},        [28] = {"F64", OFL_F64},
    [29] = {"IQ1_M", OFL_DTYPES},  [30] = {"BF16", OFL_BF16},      [34] = {"TQ1_0", OFL_DTYPES},
    [35] = {"TQ2_0", OFL_DTYPES},  [39] = {"MXFP4", OFL_MXFP4},    [40] = {"NVFP4", OFL_DTYPES},
    [41] = {"Q1_0", OFL_DTYPES},
};

/* ---- the cursor ---------------------------------------------------------------- */

static int fill(struct gguf_cursor *c)
{
    uint64_t left = c->f->bytes - c->at;

    c->from = c->at;
    c->have = left < BUFFER_BYTES ? left : BUFFER_BYTES;
    return source_read_at(c->f, c->fd, c->buffer, c->have, c->from);
}

int gguf_take(struct gguf_cursor *c, void *out, uint64_t bytes, const char *what)
{
    if (bytes > c->f->bytes - c->at)
        return base_fail(-OFL_EFORMAT,
                         "open %s: %s: %" PRIu64 " bytes from offset %" PRIu64
                         " on, but the file has %" PRIu64 ": truncated",
                         c->f->path, what, bytes, c->at, c->f->bytes);
    if (bytes > HEADER_MAX - c->at)
        return base_fail(-OFL_EFORMAT,
                         "open %s: %s: %" PRIu64 " bytes from offset %" PRIu64
                         " on: the header has more than %u bytes",
                         c->f->path, what, bytes, c->at, HEADER_MAX);
    while (bytes) {
        uint64_t in = c->at - c->from, n;
        int err = in < c->have ? 0 : fill(c);

        if (err < 0)
            return err;
        in = c->at - c->from;
        n = c->have - in < bytes ? c->have - in : bytes;
        memcpy(out, c->buffer + in, n);
        out = (char *)out + n;
        c->at += n;
        bytes -= n;
    }
    return 0;
}

int gguf_take_u32(struct gguf_cursor *c, uint32_t *out, const char *what)
{
    return gguf_take(c, out, sizeof *out, what);
}

int gguf_take_u64(struct gguf_cursor *c, uint64_t *out, const char *what)
{
    return gguf_take(c, out, sizeof *out, what);
}

int gguf_take_count(struct gguf_cursor *c, uint64_t each, uint64_t *out, const char *what)
{
    int err = gguf_take_u64(c, out, what);
    uint64_t most = c->f->bytes < HEADER_MAX ? c->f->bytes : HEADER_MAX;

    if (err == 0 && *out > (most - c->at) / each)
        return base_fail(-OFL_EFORMAT,
                         "open %s: %s: a count of %" PRIu64 ", but the header can have %" PRIu64
                         " bytes after it: truncated, or a wrong count",
                         c->f->path, what, *out, most - c->at);
    return err;
}

int gguf_take_name(struct gguf_cursor *c, char **out, const char *what)
{
    uint64_t bytes;
    int err = gguf_take_count(c, 1, &bytes, what);

    *out = NULL;
    if (err < 0)
        return err;
    if (bytes == 0 || bytes > NAME_BYTES)
        return base_fail(-OFL_EFORMAT, "open %s: %s: its name has %" PRIu64 " bytes: outside 1 to %u",
                         c->f->path, what, bytes, NAME_BYTES);
    *out = malloc(bytes + 1);
    if (!*out)
        return base_fail_errno(-ENOMEM, "open %s: %s", c->f->path, what);
    (*out)[bytes] = '\0';
    err = gguf_take(c, *out, bytes, what);
    if (err == 0 && memchr(*out, 0, bytes))
        err = base_fail(-OFL_EFORMAT, "open %s: %s: a NUL in its name of %" PRIu64 " bytes", c->f->path, what,
                        bytes);
    if (err < 0) {
        free(*out);
        *out = NULL;
    }
    return err;
}

/* ---- one tensor ------------------------------------------------------------------ */

static int take_type(struct gguf_cursor *c, struct source_entry *e)
{
    uint32_t type;
    int err = gguf_take_u32(c, &type, "a tensor's type");

    if (err < 0)
        return err;
    if (type >= sizeof types / sizeof types[0] || !types[type].name)
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": type %" PRIu32 " is not known", c->f->path,
                         source_quote(e->name).text, type);
    if (types[type].dtype == OFL_DTYPES)
        return base_fail(-OFL_EFORMAT, "open %s: tensor \"%s\": type %s is not supported", c->f->path,
                         source_quote(e->name).text, types[type].name);
    e->dtype = types[type].dtype;
    return 0;
}

/* Files have the fastest dimension first, entries have it last. */
static int take_shape(struct gguf_cursor *c, struct source_entry *e)
{
    uint64_t dims[DIMS_MAX];
    int err = gguf_take_u32(c, &e->dims, "a tensor's dimensions");

    if (err < 0)
        return err;
    if (e->dims > DIMS_MAX)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": shape has %" PRIu32 " dimensions, at most %u are allowed",
                         c->f->path, source_quote(e->name).text, e->dims, DIMS_MAX);
    err = gguf_take(c, dims, e->dims * sizeof *dims, "a tensor's shape");
    e->elems = 1;
    for (uint32_t i = 0; err == 0 && i < e->dims; i++) {
        e->shape[e->dims - 1 - i] = dims[i];
        if (__builtin_mul_overflow(e->elems, dims[i], &e->elems))
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": a dimension is %" PRIu64
                             ": the product of the shape overflows 64 bits",
                             c->f->path, source_quote(e->name).text, dims[i]);
    }
    return err;
}

/* Rows are whole blocks, so that they can be used by themselves. */
static int size_entry(const struct gguf_cursor *c, struct source_entry *e)
{
    const struct base_dtype *d = base_dtype(e->dtype);
    uint64_t row = e->dims ? e->shape[e->dims - 1] : 1;

    if (row % d->block_elems)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": rows of %" PRIu64
                         " elements of %s: not whole blocks of %" PRIu32,
                         c->f->path, source_quote(e->name).text, row, d->name, d->block_elems);
    if (base_dtype_bytes(d, e->elems, &e->bytes) != 0)
        return base_fail(-OFL_EFORMAT,
                         "open %s: tensor \"%s\": %" PRIu64 " elements of %s: overflows 63 bits", c->f->path,
                         source_quote(e->name).text, e->elems, d->name);
    return 0;
}

static int take_entry(struct gguf_cursor *c, struct source_entry *e, uint64_t index, uint64_t count)
{
    char what[80];
    int err;

    snprintf(what, sizeof what, "tensor %" PRIu64 " of %" PRIu64, index, count);
    err = gguf_take_name(c, &e->name, what);
    if (err == 0)
        err = take_shape(c, e);
    if (err == 0)
        err = take_type(c, e);
    if (err == 0)
        err = size_entry(c, e);
    return err < 0 ? err : gguf_take_u64(c, &e->offset, "a tensor's offset");
}

/* ---- all tensors ------------------------------------------------------------------- */

static int find_alignment(const struct source_file *f, uint64_t *out)
{
    const struct source_metadata *m = source_metadata_find(f, ALIGNMENT_KEY);

    *out = ALIGNMENT;
    if (!m)
        return 0;
    if (m->is.type != OFL_METADATA_UINT || m->is.array)
        return base_fail(-OFL_EFORMAT, "open %s: %s is not an unsigned integer", f->path, ALIGNMENT_KEY);
    *out = m->is.uints[0];
    if (*out == 0 || *out > UINT32_MAX || (*out & (*out - 1)))
        return base_fail(-OFL_EFORMAT, "open %s: %s is %" PRIu64 ": not a power of two", f->path,
                         ALIGNMENT_KEY, *out);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct source_entry *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Offsets become those of the file. */
static int place_all(struct source_file *f, uint64_t header_bytes)
{
    uint64_t alignment, data, expect = 0;
    int err = find_alignment(f, &alignment);

    if (err < 0)
        return err;
    data = (header_bytes + alignment - 1) / alignment * alignment;
    if (f->count)
        qsort(f->entries, f->count, sizeof *f->entries, by_offset);
    for (size_t i = 0; i < f->count; i++) {
        struct source_entry *e = &f->entries[i];

        if (e->offset % alignment)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": data offset %" PRIu64 " is not a multiple of %" PRIu64,
                             f->path, source_quote(e->name).text, e->offset, alignment);
        if (e->offset < expect)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": begins at data offset %" PRIu64
                             ", but tensor \"%s\" ends at %" PRIu64 ": they overlap",
                             f->path, source_quote(e->name).text, e->offset, source_quote(e[-1].name).text,
                             expect);
        if (data > f->bytes || e->offset > f->bytes - data || e->bytes > f->bytes - data - e->offset)
            return base_fail(-OFL_EFORMAT,
                             "open %s: tensor \"%s\": %" PRIu64 " bytes at data offset %" PRIu64
                             ", but the file has %" PRIu64 " bytes of data: truncated, or a wrong offset",
                             f->path, source_quote(e->name).text, e->bytes, e->offset,
                             data > f->bytes ? 0 : f->bytes - data);
        expect = e->offset + e->bytes;
    }
    for (size_t i = 0; i < f->count; i++)
        f->entries[i].offset += data;
    return 0;
}

static int read_tensors(struct gguf_cursor *c, uint64_t count)
{
    struct source_file *f = c->f;
    int err = 0;

    /* The keys before have taken some of what the count was compared with. */
    if (count > (f->bytes - c->at) / TENSOR_LEAST)
        return base_fail(-OFL_EFORMAT,
                         "open %s: %" PRIu64 " tensors, but the file has %" PRIu64
                         " bytes behind its keys: truncated, or a wrong count",
                         f->path, count, f->bytes - c->at);
    f->entries = calloc(count + 1, sizeof *f->entries);
    if (!f->entries)
        return base_fail_errno(-ENOMEM, "open %s: header of %" PRIu64 " tensors", f->path, count);
    for (uint64_t i = 0; err == 0 && i < count; i++) {
        f->count++; /* what it has of a name is freed with the file */
        err = take_entry(c, &f->entries[i], i, count);
    }
    return err < 0 ? err : place_all(f, c->at);
}

/* ---- the file ---------------------------------------------------------------------- */

static int read_counts(struct gguf_cursor *c, uint64_t *tensors, uint64_t *keys)
{
    char magic[4];
    uint32_t version;
    int err = gguf_take(c, magic, sizeof magic, "header");

    if (err == 0 && memcmp(magic, MAGIC, sizeof magic) != 0)
        return base_fail(-OFL_EFORMAT, "open %s: it does not begin with %s", c->f->path, MAGIC);
    if (err == 0)
        err = gguf_take_u32(c, &version, "header: version");
    if (err < 0)
        return err;
    if (version && (version & 0xffff) == 0)
        return base_fail(-OFL_EFORMAT, "open %s: a GGUF file in big-endian order: not supported", c->f->path);
    if (version != 2 && version != 3)
        return base_fail(-OFL_EFORMAT, "open %s: GGUF version %" PRIu32 ": only 2 and 3 are supported",
                         c->f->path, version);
    err = gguf_take_count(c, TENSOR_LEAST, tensors, "header: tensors");
    return err < 0 ? err : gguf_take_count(c, KEY_LEAST, keys, "header: keys");
}

static bool probe(const struct source_head *head)
{
    return head->count >= 4 && memcmp(head->bytes, MAGIC, 4) == 0;
}

static int read_header(struct source_file *f, int fd)
{
    struct gguf_cursor c = {.f = f, .fd = fd, .buffer = malloc(BUFFER_BYTES)};
    uint64_t tensors = 0, keys = 0;
    int err;

    if (!c.buffer)
        return base_fail_errno(-ENOMEM, "open %s", f->path);
    err = read_counts(&c, &tensors, &keys);
    if (err == 0)
        err = gguf_read_metadata(&c, keys);
    if (err == 0)
        err = read_tensors(&c, tensors);
    free(c.buffer);
    return err;
}

const struct source_reader source_gguf = {
    .name = "gguf", .suffix = ".gguf", .probe = probe, .read = read_header};
