/*
 * Chat templates: a subset of Jinja, as it is found in the chat_template of Hugging Face directories, with the
 * settings and the functions that transformers gives them (trim_blocks, lstrip_blocks, loop controls,
 * raise_exception, strftime_now, {% generation %}). docs/chat.md says which subset.
 *
 * What is not in the subset is refused with its name and line when the template is compiled. Where names are
 * reached by a value at run time (a method), it is refused then. A template is foreign code: depth, work, memory
 * and output are limited, and it can reach nothing but its variables.
 *
 * Functions return 0 or a negative code, with the sentence in error: -ENOTSUP for what is not covered, -EINVAL
 * for what makes no sense or what the template itself raises, -E2BIG past a limit, -ENOMEM.
 */
#ifndef LLAMA_TEMPLATE_H
#define LLAMA_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct template;

/* name: of the file, for sentences. */
int template_compile(const char *source, size_t bytes, const char *name, struct template **out, char *error,
                     size_t error_bytes);
/* NULL accepted. */
void template_free(struct template *t);
/* Whether it has {% generation %}. */
bool template_marks(const struct template *t);

/* Bytes of the text that a {% generation %} wrote. */
struct template_span {
    size_t from, to;
};

struct template_text {
    char *bytes; /* a NUL byte follows */
    size_t count;
    struct template_span *spans; /* in order */
    size_t span_count;
};

/* variables: an object. The text is the caller's, for template_text_free. */
int template_render(const struct template *t, const json_t *variables, struct template_text *out, char *error,
                    size_t error_bytes);
void template_text_free(struct template_text *text);

#endif
