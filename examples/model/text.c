/* Long texts to tokens, piece by piece: see text.h. */
#include "examples/model/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_BYTES 256 /* on each side of a cut, that must not change the other's tokens */
#define CUTS_MAX      64  /* places that are tried in a piece */

struct text_stream {
    const struct tokenizer *t;
    text_take_fn *take;
    void *arg;
    size_t piece, enough; /* bytes from which on a cut is looked for */
    char *bytes;          /* `context` bytes that have been taken, then those that wait */
    size_t context, count, room;
};

int text_open(const struct tokenizer *t, size_t piece, text_take_fn *take, void *arg,
              struct text_stream **out)
{
    struct text_stream *x = calloc(1, sizeof *x);

    *out = x;
    if (!x)
        return -ENOMEM;
    *x = (struct text_stream){.t = t, .take = take, .arg = arg, .piece = piece, .enough = piece};
    return 0;
}

void text_close(struct text_stream *x)
{
    if (x)
        free(x->bytes);
    free(x);
}

size_t text_waiting(const struct text_stream *x)
{
    return x->count - x->context;
}

/* ---- cuts -------------------------------------------------------------------- */

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Where a line begins behind one that is not empty, or a space before a word. */
static bool may_cut(const struct text_stream *x, size_t at, bool lines)
{
    const char *c = x->bytes + at;

    if (lines)
        return c[-1] == '\n' && is_letter(c[0]) && c[-2] > ' ';
    return c[0] == ' ' && is_letter(c[1]) && is_letter(c[-1]);
}

/* Where up to CONTEXT_BYTES before `at` begin: behind a line, or with a character. */
static size_t context_begin(const struct text_stream *x, size_t at)
{
    size_t low = at > CONTEXT_BYTES ? at - CONTEXT_BYTES : 0, from = low;

    while (from > 0 && from < at - 1 && x->bytes[from - 1] != '\n')
        from++;
    if (from < at - 1)
        return from;
    for (from = low; from < at && ((unsigned char)x->bytes[from] & 0xC0) == 0x80;)
        from++;
    return from;
}

/* Tokens of the bytes from .. to, which the tokens of from .. end must begin with; -EDOM: they don't. */
static int tokens_within(const struct text_stream *x, size_t from, size_t to, const uint32_t *all,
                         size_t all_count, size_t *count)
{
    uint32_t *ids;
    int err = tokenizer_encode(x->t, x->bytes + from, to - from, &ids, count);

    if (err == 0 && (*count > all_count || (*count && memcmp(ids, all, *count * sizeof *ids) != 0)))
        err = -EDOM;
    free(ids);
    return err;
}

/* That the tokens on either side of a cut are those of both sides in one. */
static int check_cut(const struct text_stream *x, size_t at)
{
    size_t from = context_begin(x, at), to = at + CONTEXT_BYTES < x->count ? at + CONTEXT_BYTES : x->count;
    size_t count, before;
    uint32_t *ids;
    int err = tokenizer_encode(x->t, x->bytes + from, to - from, &ids, &count);

    if (err < 0)
        return err;
    err = tokens_within(x, from, at, ids, count, &before);
    free(ids);
    return err;
}

/* The last place, with room for what may change behind it; -EDOM: none. */
static int find_cut(const struct text_stream *x, size_t *cut)
{
    for (int lines = 1; lines >= 0; lines--) {
        unsigned tried = 0;

        for (size_t at = x->count - CONTEXT_BYTES; at > x->context + 2 && tried < CUTS_MAX; at--) {
            int err;

            if (!may_cut(x, at, lines))
                continue;
            tried++;
            err = check_cut(x, at);
            if (err != -EDOM) {
                *cut = at;
                return err;
            }
        }
    }
    return -EDOM;
}

/* ---- pieces ------------------------------------------------------------------ */

/* Gives away the tokens of what waits, up to `end`; what stands there last becomes the context. */
static int give(struct text_stream *x, size_t end)
{
    size_t from = context_begin(x, end), count, before = 0;
    uint32_t *ids;
    int err = tokenizer_encode(x->t, x->bytes, end, &ids, &count);

    if (err < 0)
        return err;
    if (x->context)
        err = tokens_within(x, 0, x->context, ids, count, &before);
    if (err == 0)
        err = x->take(x->arg, ids + before, count - before);
    free(ids);
    memmove(x->bytes, x->bytes + from, x->count - from);
    x->count -= from;
    x->context = end - from;
    return err;
}

static int reserve(struct text_stream *x, size_t count)
{
    size_t room = 2 * (x->count + count);
    char *more;

    if (x->count + count <= x->room)
        return 0;
    more = realloc(x->bytes, room);
    if (!more)
        return -ENOMEM;
    x->bytes = more;
    x->room = room;
    return 0;
}

int text_add(struct text_stream *x, const char *bytes, size_t count)
{
    while (count > 0) {
        size_t want = x->context + x->enough + 2 * CONTEXT_BYTES, part, cut;
        int err;

        part = want > x->count && want - x->count < count ? want - x->count : count;
        err = reserve(x, part);
        if (err < 0)
            return err;
        memcpy(x->bytes + x->count, bytes, part);
        x->count += part;
        bytes += part;
        count -= part;
        if (x->count < want)
            continue;
        err = find_cut(x, &cut);
        if (err == 0) {
            x->enough = x->piece;
            err = give(x, cut);
        } else if (err == -EDOM) {
            x->enough *= 2;
            err = 0;
        }
        if (err < 0)
            return err;
    }
    return 0;
}

int text_end(struct text_stream *x)
{
    return text_waiting(x) ? give(x, x->count) : 0;
}

/* ---- is it text? -------------------------------------------------------------- */

/* By Unicode 15, table 3-7. */
size_t text_character(const char *text, size_t count, bool *cut)
{
    const unsigned char *c = (const unsigned char *)text;
    unsigned char a = c[0], low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80, high = 0xBF;
    size_t bytes = a < 0x80                 ? 1
                   : a >= 0xC2 && a <= 0xDF ? 2
                   : a >= 0xE0 && a <= 0xEF ? 3
                   : a >= 0xF0 && a <= 0xF4 ? 4
                                            : 0;

    high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : high;
    *cut = false;
    for (size_t i = 1; i < bytes; i++) {
        if (i == count) {
            *cut = true;
            return 0;
        }
        if (c[i] < low || c[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return bytes;
}

void text_look(const char *bytes, size_t count, struct text_look *out)
{
    static const struct {
        const char *what, *magic;
        size_t count;
    } kinds[] = {{"a gzip file", "\x1F\x8B", 2},
                 {"a zip file", "PK\x03\x04", 4},
                 {"a Parquet file", "PAR1", 4},
                 {"a zstd file", "\x28\xB5\x2F\xFD", 4},
                 {"an xz file",
                  "\xFD"
                  "7zXZ",
                  5},
                 {"an Arrow file", "ARROW1", 6},
                 {"a PDF", "%PDF-", 5},
                 {"text in UTF-16", "\xFF\xFE", 2},
                 {"text in UTF-16", "\xFE\xFF", 2},
                 {"a program",
                  "\x7F"
                  "ELF",
                  4},
                 {"a PNG image", "\x89PNG", 4},
                 {"a bzip2 file", "BZh", 3},
                 {"a pickle of NumPy", "\x93NUMPY", 6}};
    bool cut;

    *out = (struct text_look){0};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && !out->binary; i++)
        if (kinds[i].count <= count && memcmp(bytes, kinds[i].magic, kinds[i].count) == 0)
            out->binary = kinds[i].what;
    for (size_t i = 0; i < count;) {
        size_t width = text_character(bytes + i, count - i, &cut);

        out->looked = i;
        if (cut)
            return;
        if (bytes[i] == '\0' && !out->nul) {
            out->nul = true;
            out->first_bad = i;
            return;
        }
        if (width == 0 && out->ill_formed++ == 0)
            out->first_bad = i;
        i += width ? width : 1;
    }
    out->looked = count;
}

size_t text_whole(const char *text, size_t count)
{
    size_t whole = 0, width;
    bool cut = false;

    while (whole < count) {
        width = text_character(text + whole, count - whole, &cut);
        if (cut)
            break;
        whole += width ? width : 1;
    }
    return whole;
}
