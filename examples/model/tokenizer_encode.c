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
    struct tok_buffer normal[2];
    struct tok_buffer piece[TOK_STEPS]; /* of each step of the pre-tokenizer */
    pcre2_match_data *match;
    pcre2_match_context *limits;
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
    /* The first of two that normalize alike stays. */
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

/* Unicode's White_Space. */
static bool is_space(uint32_t code)
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
        if (step < 0 || !is_space(code))
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
        if (step < 0 || (size_t)step != to - start || !is_space(code))
            break;
        to = start;
    }
    return to;
}

int tok_normalize(const struct tok_steps *steps, const char *text, size_t bytes, struct tok_buffer out[2],
                  const char **result, size_t *result_bytes)
{
    size_t limit = bytes < SIZE_MAX / TOK_GROWTH - TOK_GROWTH ? TOK_GROWTH * (bytes + TOK_GROWTH) : 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < steps->count; i++) {
        const struct tok_step *step = &steps->step[i];
        struct tok_buffer *buffer = &out[i % 2];
        buffer->used = 0;
        buffer->limit = limit;
        if (step->kind == TOK_PREPEND) {
            if (bytes)
                rc = tok_buffer_add(buffer, step->content.text, step->content.bytes);
            if (rc == 0)
                rc = tok_buffer_add(buffer, text, bytes);
        } else {
            rc = tok_replace(buffer, text, bytes, &step->pattern, &step->content);
        }
        text = buffer->data;
        bytes = buffer->used;
    }
    *result = text;
    *result_bytes = bytes;
    return rc;
}

static int encode_piece(struct encoding *e, size_t at, const char *text, size_t bytes, bool first);

/* Matches and what is between them become pieces. The text is known to be UTF-8,
 * and not checking it again for each match keeps this linear. */
static int split_regex(struct encoding *e, size_t at, const char *text, size_t bytes, bool first)
{
    const pcre2_code *code = e->t->pre.step[at].code;
    size_t from = 0, seek = 0;
    int rc = 0;

    pcre2_set_match_limit(e->limits, bytes > 100000 ? (uint32_t)(bytes < 40000000 ? bytes * 100 : UINT32_MAX)
                                                    : 10000000);
    while (rc == 0 && seek < bytes) {
        int found = pcre2_match(code, (PCRE2_SPTR)text, bytes, seek, PCRE2_NO_UTF_CHECK, e->match, e->limits);
        if (found == PCRE2_ERROR_JIT_STACKLIMIT)
            found = pcre2_match(code, (PCRE2_SPTR)text, bytes, seek, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                                e->match, e->limits);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return found == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -ELOOP;
        size_t start = pcre2_get_ovector_pointer(e->match)[0], end = pcre2_get_ovector_pointer(e->match)[1];
        if (start < from || end < start) /* \K can do that */
            return -ELOOP;
        if (start > from)
            rc = encode_piece(e, at + 1, text + from, start - from, first && from == 0);
        if (rc == 0 && end > start)
            rc = encode_piece(e, at + 1, text + start, end - start, first && start == 0);
        from = seek = end;
        if (end == start && end < bytes) { /* an empty match cuts, and the search goes on behind it */
            uint32_t skipped;
            seek += (size_t)tok_utf8_next(text + end, bytes - end, &skipped);
        }
    }
    return rc == 0 && from < bytes ? encode_piece(e, at + 1, text + from, bytes - from, first && from == 0)
                                   : rc;
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

static int map_bytes(struct tok_buffer *out, const char *text, size_t bytes)
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
    case TOK_REGEX:
        return split_regex(e, at, text, bytes, first);
    case TOK_SPLIT_MARKS:
        return split_marks(e, at, text, bytes, first);
    case TOK_MARK_SPACES:
        rc = mark_spaces(step, out, text, bytes, first);
        break;
    case TOK_BYTE_MAP:
        rc = map_bytes(out, text, bytes);
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
    int rc = tok_normalize(&e->t->normalizer, text, bytes, e->normal, &text, &bytes);
    return rc < 0 ? rc : encode_normalized(e, text, bytes, first);
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
        size_t start = added->lstrip ? space_before(text, at, done) : at;
        size_t end = added->rstrip ? space_after(text, at + length, bytes) : at + length;
        if (start > done)
            rc = encode_between(e, raw, text + done, start - done, first && done == 0);
        if (rc == 0)
            rc = tok_ids_add(&e->ids, added->id);
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
    e.match = pcre2_match_data_create(1, NULL);
    e.limits = pcre2_match_context_create(NULL);
    if (!e.match || !e.limits)
        rc = -ENOMEM;
    if (rc == 0 && !t->any_bytes && !tok_utf8_valid(text, bytes)) {
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
    for (size_t i = 0; i < 2; i++)
        tok_buffer_free(&e.normal[i]);
    for (size_t i = 0; i < TOK_STEPS; i++)
        tok_buffer_free(&e.piece[i]);
    tok_buffer_free(&repaired);
    pcre2_match_data_free(e.match);
    pcre2_match_context_free(e.limits);
    return rc;
}
