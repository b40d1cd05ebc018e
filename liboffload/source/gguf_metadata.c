/* gguf_metadata: the keys and values of a GGUF file. Widens numbers, keeps texts with a NUL behind each; see gguf.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "liboffload/source/gguf.h"

#define ARRAY      9u
#define TEXT       8u
#define TEXT_LEAST 8u /* bytes of one: its length */

/* The format's types, by number: what they become, and their bytes. */
static const struct {
    enum ofl_metadata_type type;
    uint8_t bytes; /* 0: not a number */
} kinds[] = {
    {OFL_METADATA_UINT, 1}, {OFL_METADATA_INT, 1},   {OFL_METADATA_UINT, 2}, {OFL_METADATA_INT, 2},
    {OFL_METADATA_UINT, 4}, {OFL_METADATA_INT, 4},   {OFL_METADATA_REAL, 4}, {OFL_METADATA_BOOL, 1},
    {OFL_METADATA_TEXT, 0}, {OFL_METADATA_TYPES, 0}, {OFL_METADATA_UINT, 8}, {OFL_METADATA_INT, 8},
    {OFL_METADATA_REAL, 8},
};

/* While one key is read. */
struct reading {
    struct gguf_cursor *c;
    struct source_metadata *m;
    char what[48 + sizeof(struct source_quoted)];
};

static int refuse_memory(const struct reading *r)
{
    return base_fail_errno(-ENOMEM, "open %s: %s: %" PRIu64 " values", r->c->f->path, r->what,
                           r->m->is.count);
}

/* ---- numbers --------------------------------------------------------------------- */

static uint64_t unsigned_of(const unsigned char *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static int64_t signed_of(const unsigned char *p, unsigned bytes)
{
    uint64_t v = unsigned_of(p, bytes), sign = 1ull << (8 * bytes - 1);

    return (int64_t)((v ^ sign) - sign);
}

static double real_of(const unsigned char *p, unsigned bytes)
{
    float f;
    double d;

    if (bytes == sizeof f) {
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    memcpy(&d, p, sizeof d);
    return d;
}

static int take_numbers(struct reading *r, unsigned bytes)
{
    enum ofl_metadata_type type = r->m->is.type;
    uint64_t *out = malloc((r->m->is.count + 1) * sizeof *out);
    unsigned char raw[8];

    r->m->values = out;
    if (!out)
        return refuse_memory(r);
    for (uint64_t i = 0; i < r->m->is.count; i++) {
        int err = gguf_take(r->c, raw, bytes, r->what);
        int64_t s;
        double d;

        if (err < 0)
            return err;
        out[i] = unsigned_of(raw, bytes);
        s = signed_of(raw, bytes);
        if (type == OFL_METADATA_INT)
            memcpy(&out[i], &s, sizeof s);
        d = type == OFL_METADATA_REAL ? real_of(raw, bytes) : 0;
        if (type == OFL_METADATA_REAL)
            memcpy(&out[i], &d, sizeof d);
        if (type == OFL_METADATA_BOOL && out[i] > 1)
            return base_fail(-OFL_EFORMAT, "open %s: %s: a bool of %" PRIu64 ": neither 0 nor 1",
                             r->c->f->path, r->what, out[i]);
    }
    return 0;
}

/* ---- texts ------------------------------------------------------------------------ */

/* Behind the *used bytes that are there. */
static int take_text(struct reading *r, uint64_t *used, uint64_t *room, uint64_t *count)
{
    int err = gguf_take_count(r->c, 1, count, r->what);

    if (err < 0)
        return err;
    if (*count >= *room - *used) {
        uint64_t more = 2 * *room > *used + *count + 1 ? 2 * *room : *used + *count + 1;
        char *bytes = realloc(r->m->bytes, more);

        if (!bytes)
            return refuse_memory(r);
        r->m->bytes = bytes;
        *room = more;
    }
    err = gguf_take(r->c, r->m->bytes + *used, *count, r->what);
    if (err == 0) {
        r->m->bytes[*used + *count] = '\0';
        *used += *count + 1;
    }
    return err;
}

static int take_texts(struct reading *r)
{
    struct ofl_text *texts = calloc(r->m->is.count + 1, sizeof *texts);
    uint64_t used = 0, room = 0;

    r->m->values = texts;
    if (!texts)
        return refuse_memory(r);
    for (uint64_t i = 0; i < r->m->is.count; i++) {
        int err = take_text(r, &used, &room, &texts[i].count);

        if (err < 0)
            return err;
    }
    used = 0; /* the bytes lie still from here on */
    for (uint64_t i = 0; i < r->m->is.count; i++) {
        texts[i].bytes = r->m->bytes + used;
        used += texts[i].count + 1;
    }
    return 0;
}

/* ---- one key ---------------------------------------------------------------------- */

static int take_kind(struct reading *r, uint32_t *kind)
{
    int err = gguf_take_u32(r->c, kind, r->what);

    if (err < 0)
        return err;
    if (*kind >= sizeof kinds / sizeof kinds[0])
        return base_fail(-OFL_EFORMAT, "open %s: %s: type %" PRIu32 " is not known", r->c->f->path, r->what,
                         *kind);
    return 0;
}

static int take_value(struct reading *r)
{
    struct ofl_metadata *is = &r->m->is;
    uint32_t kind;
    int err = take_kind(r, &kind);

    is->count = 1;
    if (err == 0 && kind == ARRAY) {
        is->array = 1;
        is->count = 0;
        err = take_kind(r, &kind);
        if (err == 0 && kind == ARRAY)
            return base_fail(-OFL_EFORMAT, "open %s: %s: an array of arrays is not supported", r->c->f->path,
                             r->what);
        if (err == 0)
            err = gguf_take_count(r->c, kind == TEXT ? TEXT_LEAST : kinds[kind].bytes, &is->count, r->what);
    }
    if (err < 0)
        return err;
    is->type = kinds[kind].type;
    err = kind == TEXT ? take_texts(r) : take_numbers(r, kinds[kind].bytes);
    is->uints = is->type == OFL_METADATA_UINT || is->type == OFL_METADATA_BOOL ? r->m->values : NULL;
    is->ints = is->type == OFL_METADATA_INT ? r->m->values : NULL;
    is->reals = is->type == OFL_METADATA_REAL ? r->m->values : NULL;
    is->texts = is->type == OFL_METADATA_TEXT ? r->m->values : NULL;
    return err;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Neighbours, once sorted. */
static int check_twice(const struct source_file *f)
{
    char **keys = calloc(f->metadata_count + 1, sizeof *keys);
    int err = 0;

    if (!keys)
        return base_fail_errno(-ENOMEM, "open %s: %zu keys", f->path, f->metadata_count);
    for (size_t i = 0; i < f->metadata_count; i++)
        keys[i] = f->metadata[i].key;
    qsort(keys, f->metadata_count, sizeof *keys, by_key);
    for (size_t i = 1; i < f->metadata_count && err == 0; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            err = base_fail(-OFL_EFORMAT, "open %s: key \"%s\": it is there twice", f->path,
                            source_quote(keys[i]).text);
    free(keys);
    return err;
}

int gguf_read_metadata(struct gguf_cursor *c, uint64_t count)
{
    struct source_file *f = c->f;

    f->metadata = calloc(count + 1, sizeof *f->metadata);
    if (!f->metadata)
        return base_fail_errno(-ENOMEM, "open %s: %" PRIu64 " keys", f->path, count);
    for (uint64_t i = 0; i < count; i++) {
        struct reading r = {.c = c, .m = &f->metadata[i]};
        int err;

        snprintf(r.what, sizeof r.what, "key %" PRIu64 " of %" PRIu64, i, count);
        f->metadata_count++; /* what was read of it is freed with the file */
        err = gguf_take_name(c, &r.m->key, r.what);
        if (err == 0) {
            r.m->is.key = r.m->key;
            snprintf(r.what, sizeof r.what, "key \"%s\"", source_quote(r.m->key).text);
            err = take_value(&r);
        }
        if (err < 0)
            return err;
    }
    return check_twice(f);
}
