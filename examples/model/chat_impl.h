/* What chat.c and chat_tokens.c share. Only they include this. */
#ifndef LLAMA_CHAT_IMPL_H
#define LLAMA_CHAT_IMPL_H

#include "examples/model/chat.h"
#include "examples/model/template.h"

struct chat_span {
    struct template_span bytes;
    bool open; /* where it ends is not known: with the first special token */
};

int chat_mark(const struct tokenizer *t, const char *text, size_t bytes, struct chat_span *spans,
              size_t count, struct chat_tokens *out, char *error, size_t error_bytes);

#endif
