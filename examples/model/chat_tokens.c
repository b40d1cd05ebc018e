/* Texts to tokens of which some are learned: see chat.h. Knows nothing of templates. */
#include "examples/model/chat_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/files.h"
#include "examples/model/text.h"

/* ---- where tokens lie in the text ------------------------------------------------ */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The bytes of the text at `at` that the piece stands for. A space that no text has may stand in front of it. */
static bool piece_at(const char *text, size_t bytes, size_t at, const char *piece, size_t count, size_t *used)
{
    *used = count;
    if (count <= bytes - at && memcmp(text + at, piece, count) == 0)
        return true;
    if (count == 0 || piece[0] != ' ' || count - 1 > bytes - at ||
        memcmp(text + at, piece + 1, count - 1) != 0)
        return false;
    *used = count - 1;
    return true;
}

#define UNKNOWN_MAX 256 /* bytes that one token for what is unknown stands for */

/* Characters that the vocabulary lacks, for which a special token stands: up to where the next token's piece is. */
static bool unknown_at(const struct tokenizer *t, const char *text, size_t bytes, size_t at,
                       const uint32_t *next, size_t *used)
{
    size_t n = 0, end = bytes - at < UNKNOWN_MAX ? bytes : at + UNKNOWN_MAX, ignored;
    const char *piece = "";

    if (next && tokenizer_decode_piece(t, *next, false, &piece, &n) < 0)
        return false;
    for (size_t i = at + 1; i <= end; i++) {
        if (i < bytes && ((unsigned char)text[i] & 0xC0) == 0x80)
            continue;
        *used = i - at;
        if (next ? piece_at(text, bytes, i, piece, n, &ignored) || tokenizer_special(t, *next) : i == bytes)
            return true;
    }
    return false;
}

/* Whether the text at `at` is what the token stands for, or, if that has no bytes of its own, the one behind it. */
static bool token_at(const struct tokenizer *t, const char *text, size_t bytes, size_t at,
                     const uint32_t *ids, size_t i, size_t count)
{
    const char *piece;
    size_t n, used;

    if (tokenizer_decode_piece(t, ids[i], i == 0, &piece, &n) < 0 ||
        !piece_at(text, bytes, at, piece, n, &used))
        return false;
    if (used || i + 1 == count || tokenizer_decode_piece(t, ids[i + 1], false, &piece, &n) < 0)
        return true;
    return piece_at(text, bytes, at, piece, n, &used) || tokenizer_special(t, ids[i + 1]);
}

bool chat_places(const struct tokenizer *t, const char *text, size_t bytes, const uint32_t *ids, size_t count,
                 size_t *from, size_t *to)
{
    size_t at = 0, used, n, spaces;
    const char *piece;
    bool cut;

    for (size_t i = 0; i < count; i++) {
        if (tokenizer_decode_piece(t, ids[i], i == 0, &piece, &n) < 0)
            return false;
        from[i] = at;
        for (spaces = 0; at + spaces < bytes && is_space(text[at + spaces]); spaces++)
            ;
        if (spaces && !token_at(t, text, bytes, at, ids, i, count) &&
            token_at(t, text, bytes, at + spaces, ids, i, count)) {
            /* swallowed, by the special token in front or by this one */
            if (i > 0 && tokenizer_special(t, ids[i - 1]))
                to[i - 1] = from[i] = at + spaces;
            at += spaces;
            piece_at(text, bytes, at, piece, n, &used);
        } else if (!piece_at(text, bytes, at, piece, n, &used) &&
                   (!tokenizer_special(t, ids[i]) ||
                    !unknown_at(t, text, bytes, at, i + 1 < count ? &ids[i + 1] : NULL, &used))) {
            return false;
        }
        at += used;
        /* a space that no text has goes with the character behind it */
        to[i] = used || at == bytes ? at : at + text_character(text + at, bytes - at, &cut);
    }
    while (count > 0 && at < bytes && is_space(text[at]) && tokenizer_special(t, ids[count - 1]))
        to[count - 1] = ++at;
    return at == bytes;
}

/* ---- which are learned ------------------------------------------------------------ */

/* The number of tokens that the text up to a byte has, where its tokens begin the whole text's. */
static int tokens_before(const struct tokenizer *t, const char *text, size_t bytes,
                         const struct chat_tokens *all, size_t *out)
{
    uint32_t *ids;
    size_t count;
    int err = tokenizer_encode(t, text, bytes, &ids, &count);

    if (err == 0 && (count > all->count || (count && memcmp(ids, all->ids, count * sizeof *ids) != 0)))
        err = -EDOM;
    *out = count;
    free(ids);
    return err;
}

/* Those that share a byte with a span, as transformers counts them. */
static void mark_by_places(struct chat_tokens *out, const size_t *from, const size_t *to,
                           const struct template_span *spans, size_t count)
{
    size_t s = 0;

    for (size_t i = 0; i < out->count; i++) {
        while (s < count && from[i] >= spans[s].to)
            s++;
        if (s == count)
            break;
        out->learned[i] = to[i] > spans[s].from;
    }
}

static int mark_by_counts(const struct tokenizer *t, const char *text, struct chat_tokens *out,
                          const struct template_span *spans, size_t count)
{
    size_t first, end;
    int err = 0;

    for (size_t s = 0; s < count && err == 0; s++) {
        err = tokens_before(t, text, spans[s].from, out, &first);
        if (err == 0)
            err = tokens_before(t, text, spans[s].to, out, &end);
        for (size_t i = first; err == 0 && i < end; i++)
            out->learned[i] = true;
    }
    return err;
}

/* An open span's end is that of the first special token in it; without one it stays where it is. */
static bool close_spans(const struct tokenizer *t, const struct chat_tokens *tokens, const size_t *from,
                        const size_t *to, struct chat_span *spans, size_t count)
{
    for (size_t s = 0; s < count; s++) {
        bool found = !spans[s].open;

        for (size_t i = 0; i < tokens->count && !found; i++)
            if (from[i] >= spans[s].bytes.from && tokenizer_special(t, tokens->ids[i])) {
                spans[s].bytes.to = to[i];
                found = true;
            }
        if (!found)
            return false;
    }
    return true;
}

static int mark(const struct tokenizer *t, const char *text, size_t bytes, struct chat_span *spans,
                size_t count, struct chat_tokens *out, char *error, size_t error_bytes)
{
    size_t *from = calloc(2 * (out->count + 1), sizeof *from), *to = from ? from + out->count + 1 : NULL;
    struct template_span *closed = calloc(count + 1, sizeof *closed);
    bool places = from && closed && chat_places(t, text, bytes, out->ids, out->count, from, to), open = false;
    int err = from && closed ? 0 : -ENOMEM;

    for (size_t s = 0; s < count; s++)
        open |= spans[s].open;
    if (err == 0 && open && !(places && close_spans(t, out, from, to, spans, count)))
        err = llama_fail(
            -ENOTSUP, error, error_bytes,
            "the template writes a turn of the assistant otherwise when others follow, and no special "
            "token ends it: what is learned can't be told; mark it with {%% generation %%}");
    for (size_t s = 0; s < count && err == 0; s++)
        closed[s] = spans[s].bytes;
    if (err == 0 && places)
        mark_by_places(out, from, to, closed, count);
    else if (err == 0 && (err = mark_by_counts(t, text, out, closed, count)) == -EDOM)
        err = llama_fail(
            -ENOTSUP, error, error_bytes,
            "the tokenizer changes the text: which tokens are what the assistant says can't be told");
    if (err == -ENOMEM)
        llama_fail(err, error, error_bytes, "out of memory");
    free(from);
    free(closed);
    return err;
}

int chat_mark(const struct tokenizer *t, const char *text, size_t bytes, struct chat_span *spans,
              size_t count, struct chat_tokens *out, char *error, size_t error_bytes)
{
    int err;

    *out = (struct chat_tokens){0};
    err = tokenizer_encode(t, text, bytes, &out->ids, &out->count);
    if (err < 0)
        return llama_fail(err, error, error_bytes, "encode %zu bytes: %s", bytes, strerror(-err));
    out->learned = calloc(out->count + 1, sizeof *out->learned);
    err = out->learned ? mark(t, text, bytes, spans, count, out, error, error_bytes)
                       : llama_fail(-ENOMEM, error, error_bytes, "out of memory");
    if (err < 0)
        chat_tokens_free(out);
    return err;
}

int chat_encode_text(const struct tokenizer *t, const char *text, size_t bytes, size_t from,
                     struct chat_tokens *out, char *error, size_t error_bytes)
{
    struct chat_span span = {.bytes = {from, bytes}};

    return chat_mark(t, text, bytes, &span, from < bytes, out, error, error_bytes);
}

void chat_tokens_free(struct chat_tokens *tokens)
{
    free(tokens->ids);
    free(tokens->learned);
    *tokens = (struct chat_tokens){0};
}
