/*
 * Text to pieces: cuts it at added tokens, normalizes what is between, cuts that at
 * the added tokens that are sought in normalized text, and passes the rest through
 * the pre-tokenizer's steps to the merges. The order, and what counts as the start
 * of the text, are Hugging Face's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

struct encoding {
    const struct tokenizer *t;
    struct tok_ids ids;
    struct tok_bpe bpe;
    struct tok_work work;
    struct tok_buffer piece[TOK_STEPS]; /* of each step of the pre-tokenizer */
};

void tok_trie_init(struct tok_trie *trie)
{
    memset(trie->root, 0xFF, sizeof trie->root);
}

/* The node for byte in the list at *link, added to it where absent. */
static int trie_step(struct tok_trie *trie, uint32_t list, unsigned char byte, uint32_t *found)
{
    for (uint32_t i = list; i != TOK_NONE; i = trie->nodes[i].sibling) {
        if (trie->nodes[i].byte == byte) {
            *found = i;
            return 0;
        }
    }
    if (trie->count == trie->room) {
        size_t room = trie->room + trie->room / 2 + 64;
        struct tok_trie_node *nodes = room < TOK_NONE ? realloc(trie->nodes, room * sizeof *nodes) : NULL;
        if (!nodes)
            return -ENOMEM;
        trie->nodes = nodes;
        trie->room = room;
    }
    *found = (uint32_t)trie->count++;
    trie->nodes[*found] = (struct tok_trie_node){TOK_NONE, list, TOK_NONE, byte};
    return 1;
}

int tok_trie_add(struct tok_trie *trie, const char *text, size_t bytes, uint32_t added)
{
    uint32_t node = TOK_NONE, parent = TOK_NONE;

    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        uint32_t list = parent == TOK_NONE ? trie->root[byte] : trie->nodes[parent].child;
        int rc = trie_step(trie, list, byte, &node);
        if (rc < 0)
            return rc;
        if (rc > 0 && parent == TOK_NONE)
            trie->root[byte] = node;
        else if (rc > 0)
            trie->nodes[parent].child = node;
        parent = node;
    }
    /* The first of two that normalize alike stays: in Hugging Face it is chance which
     * one does. One that normalizes to nothing is never found. */
    if (node != TOK_NONE && trie->nodes[node].added == TOK_NONE)
        trie->nodes[node].added = added;
    return 0;
}

/* The longest added token that starts at text; its length, or 0. */
static size_t trie_match(const struct tok_trie *trie, const char *text, size_t bytes, uint32_t *added)
{
    uint32_t node = trie->root[(unsigned char)text[0]];
    size_t length = 0;

    for (size_t i = 1; node != TOK_NONE; i++) {
        if (trie->nodes[node].added != TOK_NONE) {
            length = i;
            *added = trie->nodes[node].added;
        }
        if (i == bytes)
            break;
        node = trie->nodes[node].child;
        while (node != TOK_NONE && trie->nodes[node].byte != (unsigned char)text[i])
            node = trie->nodes[node].sibling;
    }
    return length;
}

bool tok_is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

/* The end of the white space at text + from. */
static size_t space_after(const char *text, size_t from, size_t bytes)
{
    uint32_t code;

    while (from < bytes) {
        int step = tok_utf8_next(text + from, bytes - from, &code);
        if (step < 0 || !tok_is_space(code))
            break;
        from += (size_t)step;
    }
    return from;
}

/* The start of the white space that ends at text + to, not before text + least. */
static size_t space_before(const char *text, size_t to, size_t least)
{
    uint32_t code;

    while (to > least) {
        size_t start = to - 1;
        while (start > least && to - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80)
            start--;
        int step = tok_utf8_next(text + start, to - start, &code);
        if (step < 0 || (size_t)step != to - start || !tok_is_space(code))
            break;
        to = start;
    }
    return to;
}

static int encode_piece(struct encoding *e, size_t at, const char *text, size_t bytes, bool first);

/* Parts of a text, matches and what is between, become pieces by a behavior: part by
 * part, with the piece that may still grow held back. */
struct cutter {
    struct encoding *e;
    size_t at; /* the next step */
    const char *text;
    bool first;
    enum tok_behavior behavior;
    bool any, matched; /* whether there was a part, and whether the last one was a match */
    size_t from, to;   /* the piece that is held */
};

static int cut_held(struct cutter *c)
{
    if (c->from == c->to)
        return 0;
    return encode_piece(c->e, c->at, c->text + c->from, c->to - c->from, c->first && c->from == 0);
}

static int cut_part(struct cutter *c, size_t from, size_t to, bool match)
{
    bool joins = false;
    int rc;

    switch (c->behavior) {
    case TOK_REMOVED:
        if (match)
            return 0;
        break;
    case TOK_CONTIGUOUS:
        joins = match == c->matched;
        break;
    case TOK_MERGED_PREVIOUS:
        joins = match && !c->matched;
        break;
    case TOK_MERGED_NEXT:
        joins = !match && c->matched;
        break;
    default: /* TOK_ISOLATED */
        break;
    }
    joins = joins && c->any;
    c->any = true;
    c->matched = match;
    if (joins) {
        c->to = to;
        return 0;
    }
    rc = cut_held(c);
    c->from = from;
    c->to = to;
    return rc;
}

/* Splits at the matches of a pattern. */
static int split(struct encoding *e, size_t at, const char *text, size_t bytes, bool first)
{
    const struct tok_step *step = &e->t->pre.step[at];
    struct cutter cutter = {.e = e, .at = at + 1, .text = text, .first = first, .behavior = step->behavior};
    struct tok_find find = {0};
    size_t from = 0;
    int rc = 0, found = 0;

    while (rc == 0 && (found = tok_regex_next(step->re, &e->work.matcher, text, bytes, &find)) == 1) {
        if (find.start > from)
            rc = cut_part(&cutter, from, find.start, step->invert);
        if (rc == 0)
            rc = cut_part(&cutter, find.start, find.end, !step->invert);
        from = find.end;
    }
    if (rc == 0)
        rc = found;
    if (rc == 0 && from < bytes)
        rc = cut_part(&cutter, from, bytes, step->invert);
    return rc < 0 ? rc : cut_held(&cutter);
}

static int split_chunks(struct encoding *e, size_t at, const char *text, size_t bytes, bool first)
{
    size_t from = 0;
    uint32_t code;
    int rc = 0;

    while (rc == 0 && from < bytes) {
        size_t to = from;
        for (size_t n = 0; n < e->t->pre.step[at].start && to < bytes; n++)
            to += (size_t)tok_utf8_next(text + to, bytes - to, &code);
        rc = encode_piece(e, at + 1, text + from, to - from, first && from == 0);
        from = to;
    }
    return rc;
}

static int split_marks(struct encoding *e, size_t at, const char *text, size_t bytes, bool first)
{
    const struct tok_text *mark = &e->t->pre.step[at].content;
    size_t from = 0;
    int rc = 0;

    while (rc == 0 && from < bytes) {
        size_t seek = from ? from + mark->bytes : 0;
        if (from == 0 && bytes >= mark->bytes && memcmp(text, mark->text, mark->bytes) == 0)
            seek = mark->bytes;
        const char *next = seek < bytes ? tok_find(text + seek, bytes - seek, mark) : NULL;
        size_t end = next ? (size_t)(next - text) : bytes;
        rc = encode_piece(e, at + 1, text + from, end - from, first && from == 0);
        from = end;
    }
    return rc;
}

static int mark_spaces(const struct tok_step *step, struct tok_buffer *out, const char *text, size_t bytes,
                       bool first)
{
    static const struct tok_text space = {.text = " ", .bytes = 1};
    const struct tok_text *mark = &step->content;
    bool marked = text[0] == ' ' || (bytes >= mark->bytes && memcmp(text, mark->text, mark->bytes) == 0);
    int rc = 0;

    if (!marked && (step->scheme == TOK_ALWAYS || (step->scheme == TOK_FIRST && first)))
        rc = tok_buffer_add(out, mark->text, mark->bytes);
    return rc < 0 ? rc : tok_replace(out, text, bytes, &space, mark);
}

int tok_map_bytes(struct tok_buffer *out, const char *text, size_t bytes)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < bytes; i++)
        rc = tok_buffer_add_char(out, tok_byte_to_char((unsigned char)text[i]));
    return rc;
}

/* Takes a piece, which is not empty, through the steps from number at on. first says
 * that it begins the text. */
static int encode_piece(struct encoding *e, size_t at, const char *text, size_t bytes, bool first)
{
    int rc = 0;

    if (at == e->t->pre.count)
        return tok_bpe_encode(e->t, &e->bpe, text, bytes, &e->ids);
    const struct tok_step *step = &e->t->pre.step[at];
    struct tok_buffer *out = &e->piece[at];
    out->used = 0;
    switch (step->kind) {
    case TOK_SPLIT:
        return split(e, at, text, bytes, first);
    case TOK_CHUNKS:
        return split_chunks(e, at, text, bytes, first);
    case TOK_SPLIT_MARKS:
        return split_marks(e, at, text, bytes, first);
    case TOK_MARK_SPACES:
        rc = mark_spaces(step, out, text, bytes, first);
        break;
    case TOK_BYTE_MAP:
        rc = tok_map_bytes(out, text, bytes);
        break;
    default: /* TOK_PREFIX_SPACE */
        if (text[0] == ' ')
            return encode_piece(e, at + 1, text, bytes, first);
        rc = tok_buffer_add(out, " ", 1);
        if (rc == 0)
            rc = tok_buffer_add(out, text, bytes);
        break;
    }
    return rc < 0 ? rc : encode_piece(e, at + 1, out->data, out->used, first);
}

static int encode_normalized(struct encoding *e, const char *text, size_t bytes, bool first);

/* Text between added tokens: of the raw text, or of normalized text. */
static int encode_between(struct encoding *e, bool raw, const char *text, size_t bytes, bool first)
{
    if (bytes == 0)
        return 0;
    if (!raw)
        return encode_piece(e, 0, text, bytes, first);
    int rc = tok_normalize(&e->t->normalizer, text, bytes, &e->work, &text, &bytes);
    return rc < 0 ? rc : encode_normalized(e, text, bytes, first);
}

/* Whether a token found at text + at may be taken there. */
static bool stands(const struct tokenizer *t, const struct tok_added *added, const char *text, size_t at,
                   size_t length, size_t bytes)
{
    uint32_t code;

    if (added->skipped && t->split_special)
        return false;
    if (!added->single_word)
        return true;
    if (at + length < bytes) {
        tok_utf8_next(text + at + length, bytes - at - length, &code);
        if (tok_class_has(t->letters, code))
            return false;
    }
    if (at == 0)
        return true;
    for (length = 1; length < at && length < 4 && ((unsigned char)text[at - length] & 0xC0) == 0x80;)
        length++;
    return tok_utf8_next(text + at - length, length, &code) < 0 || !tok_class_has(t->letters, code);
}

/* Cuts text at the tokens of one trie. A token may claim the spaces around it; one
 * that does so after it may reach over the start of the next, as in the original. */
static int encode_tokens(struct encoding *e, bool raw, const char *text, size_t bytes, bool first)
{
    const struct tok_trie *trie = raw ? &e->t->raw : &e->t->normalized;
    size_t done = 0, at = 0;
    uint32_t which = 0;
    int rc = 0;

    while (rc == 0 && trie->count > 0 && at < bytes) {
        size_t length = trie_match(trie, text + at, bytes - at, &which);
        if (length == 0) {
            at++;
            continue;
        }
        const struct tok_added *added = &e->t->added[which];
        if (!stands(e->t, added, text, at, length, bytes)) {
            at += length;
            continue;
        }
        size_t start = added->lstrip ? space_before(text, at, done) : at;
        size_t end = added->rstrip ? space_after(text, at + length, bytes) : at + length;
        if (start < done && added->lstrip)
            start = done;
        if (start > done)
            rc = encode_between(e, raw, text + done, start - done, first && done == 0);
        if (rc == 0 && start < end) /* else the one before has taken all of it */
            rc = tok_ids_add(&e->ids, e->t->added_words[which].id);
        done = end;
        at += length;
    }
    return rc < 0 || done >= bytes ? rc
                                   : encode_between(e, raw, text + done, bytes - done, first && done == 0);
}

static int encode_normalized(struct encoding *e, const char *text, size_t bytes, bool first)
{
    return encode_tokens(e, false, text, bytes, first);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, uint32_t **ids, size_t *count)
{
    struct encoding e = {.t = t};
    struct tok_buffer repaired = {0};
    int rc = 0;

    *ids = NULL;
    *count = 0;
    if (!t->any_bytes && !tok_utf8_valid(text, bytes)) {
        rc = tok_utf8_repair(&repaired, text, bytes);
        text = repaired.data;
        bytes = repaired.used;
    }
    if (rc == 0)
        rc = encode_tokens(&e, true, text, bytes, true);
    if (rc == 0 && e.ids.count > 0) {
        uint32_t *tight = realloc(e.ids.ids, e.ids.count * sizeof *tight);
        *ids = tight ? tight : e.ids.ids;
        *count = e.ids.count;
        e.ids.ids = NULL;
    }
    free(e.ids.ids);
    tok_bpe_free(&e.bpe);
    tok_work_free(&e.work);
    for (size_t i = 0; i < TOK_STEPS; i++)
        tok_buffer_free(&e.piece[i]);
    tok_buffer_free(&repaired);
    return rc;
}
