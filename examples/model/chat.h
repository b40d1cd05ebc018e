/*
 * Conversations: a directory's chat template and special tokens, messages as text and as tokens, and which of these
 * the assistant says. docs/chat.md has the rules.
 *
 * Functions return 0 or a negative code, with the sentence in error.
 */
#ifndef LLAMA_CHAT_H
#define LLAMA_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/tokenizer.h"

struct chat;

/* The directory may have no template: then conversations are -ENOENT. */
int chat_open(const char *dir, struct chat **out, char *error, size_t error_bytes);
/* NULL accepted. */
void chat_close(struct chat *c);

struct chat_request {
    const json_t *messages;
    const json_t *tools; /* NULL: none */
    size_t learned;      /* messages in front of that one are not learned, whoever says them */
};

/* The text with which the assistant is asked to go on; for free(). */
int chat_prompt(const struct chat *c, const struct chat_request *request, char **text, size_t *bytes,
                char *error, size_t error_bytes);

struct chat_tokens {
    uint32_t *ids;
    bool *learned;
    size_t count;
};

/* A conversation that is whole. */
int chat_encode(const struct chat *c, const struct tokenizer *t, const struct chat_request *request,
                struct chat_tokens *out, char *error, size_t error_bytes);
/* A text, of which the bytes from `from` on are learned. */
int chat_encode_text(const struct tokenizer *t, const char *text, size_t bytes, size_t from,
                     struct chat_tokens *out, char *error, size_t error_bytes);
void chat_tokens_free(struct chat_tokens *tokens);

/* ---- for tests, and what stands between text and tokens --------------------- */

/* Bytes of the text that each token stands for; white space that a token swallowed belongs to it. False: the tokens
 * are of another text, as a normalizer may make it. */
bool chat_places(const struct tokenizer *t, const char *text, size_t bytes, const uint32_t *ids, size_t count,
                 size_t *from, size_t *to);

/* The string of a special token ("eos_token") as the directory says; NULL: it has none. Lives as long as c. */
const char *chat_special(const struct chat *c, const char *name);

#endif
