/*
 * Ids to text. A decoder is a chain of steps over a list of tokens; a whole sequence
 * goes through it as in Hugging Face. For printing tokens as they come, every token
 * goes through it alone, once, when the tokenizer is opened.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

/* Texts of tokens, one behind another: token i ends at ends[i]. */
struct list {
    struct tok_buffer text;
    size_t *ends;
    size_t count, room;
};

/* alone: one token of a stream. What would be invalid UTF-8 is left as bytes then,
 * first says whether the token begins a text, and fused that steps from here on
 * see the token as a part of one long text. */
struct mode {
    bool alone, first, fused;
};

static int list_end(struct list *list)
{
    if (list->count == list->room) {
        size_t room = list->room + list->room / 2 + 16;
        size_t *ends = realloc(list->ends, room * sizeof *ends);
        if (!ends)
            return -ENOMEM;
        list->ends = ends;
        list->room = room;
    }
    list->ends[list->count++] = list->text.used;
    return 0;
}

static int list_add(struct list *list, const char *text, size_t bytes)
{
    int rc = tok_buffer_add(&list->text, text, bytes);

    return rc < 0 ? rc : list_end(list);
}

static const char *list_text(const struct list *list, size_t i, size_t *bytes)
{
    size_t start = i ? list->ends[i - 1] : 0;

    *bytes = list->ends[i] - start;
    return list->text.data + start;
}

static void list_clear(struct list *list)
{
    list->count = 0;
    list->text.used = 0;
}

static void list_free(struct list *list)
{
    tok_buffer_free(&list->text);
    free(list->ends);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The byte of a token such as <0x0A>, or -1. */
static int fallback_byte(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens becomes one token if it is UTF-8, and otherwise as many
 * replacement characters as it had bytes. */
static int add_run(struct list *out, const struct tok_buffer *run, bool alone)
{
    int rc = 0;

    if (run->used == 0)
        return 0;
    if (alone || tok_utf8_valid(run->data, run->used))
        return list_add(out, run->data, run->used);
    for (size_t i = 0; rc == 0 && i < run->used; i++) {
        rc = tok_buffer_add_char(&out->text, 0xFFFD);
        if (rc == 0)
            rc = list_end(out);
    }
    return rc;
}

static int byte_fallback(const struct list *in, struct list *out, bool alone)
{
    struct tok_buffer run = {0};
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        int byte = fallback_byte(text, bytes);
        if (byte >= 0) {
            rc = tok_buffer_add(&run, &(char){(char)byte}, 1);
            continue;
        }
        rc = add_run(out, &run, alone);
        run.used = 0;
        if (rc == 0)
            rc = list_add(out, text, bytes);
    }
    if (rc == 0)
        rc = add_run(out, &run, alone);
    tok_buffer_free(&run);
    return rc;
}

/* A token with a character that stands for no byte, as special tokens may have,
 * stays as it is. */
static int byte_unmap(const struct list *in, struct list *out, bool alone)
{
    struct tok_buffer all = {0};
    size_t bytes;
    uint32_t code = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        size_t mark = all.used, at = 0;
        while (rc == 0 && at < bytes) {
            int step = tok_utf8_next(text + at, bytes - at, &code);
            int byte = step > 0 ? tok_char_to_byte(code) : -1;
            if (byte < 0)
                break;
            rc = tok_buffer_add(&all, &(char){(char)byte}, 1);
            at += (size_t)step;
        }
        if (rc == 0 && at < bytes) {
            all.used = mark;
            rc = tok_buffer_add(&all, text, bytes);
        }
    }
    if (rc == 0 && all.used > 0)
        rc = alone ? tok_buffer_add(&out->text, all.data, all.used)
                   : tok_utf8_repair(&out->text, all.data, all.used);
    tok_buffer_free(&all);
    return rc < 0 ? rc : list_end(out);
}

static int strip(const struct tok_step *step, const struct list *in, struct list *out, struct mode mode)
{
    const struct tok_text *content = &step->content;
    size_t start = mode.fused && mode.alone && !mode.first ? 0 : step->start;
    size_t stop = mode.fused && mode.alone ? 0 : step->stop;
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        for (size_t n = 0; n < start && bytes >= content->bytes; n++) {
            if (memcmp(text, content->text, content->bytes) != 0)
                break;
            text += content->bytes;
            bytes -= content->bytes;
        }
        for (size_t n = 0; n < stop && bytes >= content->bytes; n++) {
            if (memcmp(text + bytes - content->bytes, content->text, content->bytes) != 0)
                break;
            bytes -= content->bytes;
        }
        rc = list_add(out, text, bytes);
    }
    return rc;
}

/* Marks become spaces; the first token drops all of its marks, unless no mark was
 * ever put before a text. */
static int unmark(const struct tok_step *step, const struct list *in, struct list *out, struct mode mode)
{
    static const struct tok_text space = {.text = " ", .bytes = 1};
    static const struct tok_text nothing = {.text = "", .bytes = 0};
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        bool drop = i == 0 && step->scheme != TOK_NEVER && (!mode.alone || mode.first);
        rc = tok_replace(&out->text, text, bytes, &step->content, drop ? &nothing : &space);
        if (rc == 0)
            rc = list_end(out);
    }
    return rc;
}

static int replace_all(const struct tok_step *step, const struct list *in, struct list *out)
{
    struct tok_matcher matcher = {0};
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        rc = step->re ? tok_replace_regex(&out->text, text, bytes, step->re, &step->content, &matcher)
                      : tok_replace(&out->text, text, bytes, &step->pattern, &step->content);
        if (rc == 0)
            rc = list_end(out);
    }
    tok_matcher_free(&matcher);
    return rc;
}

/* The mark of a word's end becomes a space, but for the last token's. */
static int word_ends(const struct tok_step *step, const struct list *in, struct list *out, struct mode mode)
{
    static const struct tok_text space = {.text = " ", .bytes = 1};
    static const struct tok_text nothing = {.text = "", .bytes = 0};
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        bool last = i + 1 == in->count && !mode.alone;
        rc = tok_replace(&out->text, text, bytes, &step->pattern, last ? &nothing : &space);
        if (rc == 0)
            rc = list_end(out);
    }
    return rc;
}

static int join(const struct list *in, struct list *out, struct mode mode)
{
    size_t bytes;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < in->count; i++) {
        const char *text = list_text(in, i, &bytes);
        if (i > 0 || (mode.alone && !mode.first))
            rc = tok_buffer_add(&out->text, " ", 1);
        if (rc == 0)
            rc = tok_buffer_add(&out->text, text, bytes);
    }
    return rc < 0 ? rc : list_end(out);
}

/* Runs the chain. The result is in *list, whatever its division; spare is scratch. */
static int run_chain(const struct tok_steps *steps, struct list *list, struct list *spare, struct mode mode)
{
    size_t bytes = list->text.used;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < steps->count; i++) {
        const struct tok_step *step = &steps->step[i];
        list_clear(spare);
        spare->text.limit =
            bytes < SIZE_MAX / TOK_GROWTH - TOK_GROWTH ? TOK_GROWTH * (bytes + TOK_GROWTH) : 0;
        switch (step->kind) {
        case TOK_REPLACE:
            rc = replace_all(step, list, spare);
            break;
        case TOK_BYTE_FALLBACK:
            rc = byte_fallback(list, spare, mode.alone);
            break;
        case TOK_BYTE_UNMAP:
            rc = byte_unmap(list, spare, mode.alone);
            mode.fused = true;
            break;
        case TOK_STRIP:
            rc = strip(step, list, spare, mode);
            break;
        case TOK_UNMARK_SPACES:
            rc = unmark(step, list, spare, mode);
            break;
        case TOK_WORD_ENDS:
            rc = word_ends(step, list, spare, mode);
            break;
        case TOK_JOIN:
            rc = join(list, spare, mode);
            break;
        default: /* TOK_FUSE */
            rc = list_add(spare, list->text.data, list->text.used);
            mode.fused = true;
            break;
        }
        struct list swap = *list;
        *list = *spare;
        *spare = swap;
    }
    return rc;
}

int tok_decode_prepare(struct tokenizer *t)
{
    struct list list = {0}, spare = {0};
    int rc = 0;

    for (uint32_t id = 0; rc == 0 && id < t->vocab; id++) {
        struct tok_piece *piece = &t->pieces[id];
        for (int first = 0; rc == 0 && first < 2 && piece->text; first++) {
            list_clear(&list);
            list.text.limit = 0;
            rc = list_add(&list, piece->text, piece->text_bytes);
            if (rc == 0)
                rc = run_chain(&t->decoder, &list, &spare, (struct mode){.alone = true, .first = first});
            if (rc == 0 && list.text.used > UINT32_MAX)
                rc = -E2BIG;
            if (rc < 0)
                break;
            if (first && list.text.used == piece->bytes &&
                memcmp(t->piece_bytes.data + piece->offset, list.text.data, piece->bytes) == 0) {
                piece->first_offset = piece->offset;
                piece->first_bytes = piece->bytes;
                continue;
            }
            *(first ? &piece->first_offset : &piece->offset) = t->piece_bytes.used;
            *(first ? &piece->first_bytes : &piece->bytes) = (uint32_t)list.text.used;
            rc = tok_buffer_add(&t->piece_bytes, list.text.data, list.text.used);
        }
    }
    list_free(&list);
    list_free(&spare);
    return rc;
}

int tokenizer_decode_piece(const struct tokenizer *t, uint32_t id, bool first, const char **bytes,
                           size_t *count)
{
    *bytes = NULL;
    *count = 0;
    if (id >= t->vocab || !t->pieces[id].text)
        return -EINVAL;
    *bytes = t->piece_bytes.data + (first ? t->pieces[id].first_offset : t->pieces[id].offset);
    *count = first ? t->pieces[id].first_bytes : t->pieces[id].bytes;
    return 0;
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                     char **text, size_t *bytes)
{
    struct list list = {0}, spare = {0};
    int rc = 0;

    *text = NULL;
    if (bytes)
        *bytes = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct tok_piece *piece = ids[i] < t->vocab ? &t->pieces[ids[i]] : NULL;
        if (!piece || !piece->text || (skip_special && piece->special))
            continue;
        rc = list_add(&list, piece->text, piece->text_bytes);
    }
    if (rc == 0)
        rc = run_chain(&t->decoder, &list, &spare, (struct mode){0});
    list.text.limit = 0;
    size_t used = list.text.used;
    if (rc == 0)
        rc = tok_buffer_add(&list.text, "", 1);
    if (rc == 0) {
        *text = list.text.data;
        if (bytes)
            *bytes = used;
        list.text.data = NULL;
    }
    list_free(&list);
    list_free(&spare);
    return rc;
}
