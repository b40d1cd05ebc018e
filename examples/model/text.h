/*
 * Long texts to tokens, piece by piece: memory for a piece and not for the text. A text is cut only where the tokens
 * around the cut are those of the text in one: at the beginning of a line or of a word, and after a look at what the
 * tokenizer makes of both sides together. A stretch without such a place is kept until one comes.
 *
 * Functions return 0 or a negative code. One thread at a time.
 */
#ifndef LLAMA_TEXT_H
#define LLAMA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/tokenizer.h"

/* Takes the next tokens; a code other than 0 ends the work with that code. */
typedef int text_take_fn(void *arg, const uint32_t *ids, size_t count);

struct text_stream;

/* piece: bytes that are encoded at once, where they can be cut. */
int text_open(const struct tokenizer *t, size_t piece, text_take_fn *take, void *arg,
              struct text_stream **out);
int text_add(struct text_stream *x, const char *bytes, size_t count);
/* The rest. Nothing may be added any more. */
int text_end(struct text_stream *x);
/* NULL accepted. */
void text_close(struct text_stream *x);

/* Bytes that wait for a place to be cut at. */
size_t text_waiting(const struct text_stream *x);

/* What speaks against a file's being text. A character may be cut at the end. */
struct text_look {
    const char *binary;             /* what it is: "a gzip file"; NULL: not known */
    bool nul;                       /* a NUL byte at first_bad */
    uint64_t ill_formed, first_bad; /* parts that are not UTF-8; where the first is */
    size_t looked;                  /* bytes: what is left begins a character */
};

void text_look(const char *bytes, size_t count, struct text_look *out);

/* Bytes of the well-formed UTF-8 character at text; 0: there is none; *cut: count ends within one. */
size_t text_character(const char *text, size_t count, bool *cut);

/* Bytes that can be shown: all but a character at the end of which more bytes may come. What can't become one any
 * more is shown as it is. */
size_t text_whole(const char *text, size_t count);

#endif
