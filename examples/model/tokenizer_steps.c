/*
 * Reads normalizer and decoder into chains of steps, and has what all chains share.
 * Every kind that isn't known here is refused by its name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"
#include "examples/model/tokenizer_tables.h"

int tok_fail_at(struct tok_load *l, int code, const char *where, const char *key, const json_t *value,
                const char *cause)
{
    char field[WHERE_MAX + 40];

    snprintf(field, sizeof field, "%s.%s", where, key);
    return tok_load_fail_field(l, code, field, value, cause);
}

struct tok_step *tok_add_step(struct tok_load *l, struct tok_steps *steps, const char *where,
                              enum tok_kind kind)
{
    if (steps->count == TOK_STEPS) {
        tok_load_fail(l, -ENOTSUP, "%s: more than %d steps", where, TOK_STEPS);
        return NULL;
    }
    steps->step[steps->count] = (struct tok_step){.kind = kind};
    return &steps->step[steps->count++];
}

static int load_text(struct tok_load *l, const json_t *object, const char *where, const char *key,
                     struct tok_text *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_string(value))
        return tok_fail_at(l, -EINVAL, where, key, value, "it must be a string");
    return tok_load_string(l, json_string_value(value), json_string_length(value), out);
}

/* A text of one character. */
int tok_load_char(struct tok_load *l, const json_t *object, const char *where, const char *key,
                  struct tok_text *out)
{
    uint32_t code;
    int rc = load_text(l, object, where, key, out);

    if (rc < 0)
        return rc;
    if (out->bytes == 0 || tok_utf8_next(out->text, out->bytes, &code) != (int)out->bytes)
        return tok_fail_at(l, -EINVAL, where, key, json_object_get(object, key), "it must be one character");
    return 0;
}

int tok_load_count(struct tok_load *l, const json_t *object, const char *where, const char *key, size_t *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return tok_fail_at(l, -EINVAL, where, key, value, "it must be a number, 0 or more");
    *out = (size_t)json_integer_value(value);
    return 0;
}

int tok_load_regex(struct tok_load *l, const char *where, const char *pattern, size_t bytes, bool literal,
                   struct tok_regex **out)
{
    struct tok_regex_error error;
    struct tok_text text;
    int rc = tok_load_string(l, pattern, bytes, &text);

    if (rc < 0)
        return rc;
    rc = tok_regex_compile(text.text, text.bytes, literal, out, &error);
    free((char *)text.text);
    if (rc == -ENOMEM)
        return tok_load_memory(l);
    return rc < 0 ? tok_load_fail(l, rc, "%s.pattern: at byte %zu: %s", where, error.at, error.cause) : 0;
}

/* Replace: of normalizers and of decoders. */
static int load_replace(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    const json_t *used = regex ? regex : string;
    int rc;

    if (!json_is_string(used))
        return tok_fail_at(l, -EINVAL, where, "pattern", pattern, "it must have a String or a Regex");
    struct tok_step *step = tok_add_step(l, steps, where, TOK_REPLACE);
    if (!step)
        return -ENOTSUP;
    if (!regex && json_string_length(string) > 0)
        rc = tok_load_string(l, json_string_value(string), json_string_length(string), &step->pattern);
    else
        rc = tok_load_regex(l, where, json_string_value(used), json_string_length(used), !regex, &step->re);
    return rc < 0 ? rc : load_text(l, object, where, "content", &step->content);
}

int tok_load_scheme(struct tok_load *l, const json_t *object, const char *where, enum tok_scheme *out)
{
    const json_t *scheme = json_object_get(object, "prepend_scheme");
    const char *name = json_string_value(scheme);
    bool prefix;
    int rc = tok_load_bool(l, object, where, "add_prefix_space", true, &prefix);

    if (rc < 0)
        return rc;
    if (!scheme || (name && strcmp(name, "always") == 0))
        *out = TOK_ALWAYS;
    else if (name && strcmp(name, "first") == 0)
        *out = TOK_FIRST;
    else if (name && strcmp(name, "never") == 0)
        *out = TOK_NEVER;
    else
        return tok_fail_at(l, -ENOTSUP, where, "prepend_scheme", scheme, "it must be always, first or never");
    if (!prefix && *out != TOK_NEVER)
        return tok_fail_at(l, -EINVAL, where, "prepend_scheme", scheme, "add_prefix_space says false");
    return 0;
}

static int load_strip(struct tok_load *l, const json_t *object, const char *where, struct tok_step *step)
{
    bool left, right;
    int rc = tok_load_bool(l, object, where, "strip_left", -1, &left);

    if (rc == 0)
        rc = tok_load_bool(l, object, where, "strip_right", -1, &right);
    if (rc == 0) {
        step->start = left;
        step->stop = right;
    }
    return rc;
}

static int load_accents(struct tok_load *l, struct tok_step *step)
{
    struct tok_bits *bits = calloc(1, sizeof *bits);

    if (bits) {
        tok_bits_ranges(bits, uni_accents, uni_accents_count);
        step->set = tok_class_make(bits);
    }
    free(bits);
    return step->set ? 0 : tok_load_memory(l);
}

static int normalizer_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                             struct tok_steps *steps)
{
    static const struct {
        const char *name;
        enum tok_kind kind;
    } kinds[] = {{"NFC", TOK_FORM},
                 {"NFD", TOK_FORM},
                 {"NFKC", TOK_FORM},
                 {"NFKD", TOK_FORM},
                 {"Nmt", TOK_NMT},
                 {"Lowercase", TOK_LOWERCASE},
                 {"Strip", TOK_STRIP_SPACES},
                 {"ByteLevel", TOK_BYTE_MAP},
                 {"Prepend", TOK_PREPEND},
                 {"StripAccents", TOK_REMOVE_ACCENTS}};
    size_t i = 0;

    if (strcmp(type, "Replace") == 0)
        return load_replace(l, object, where, steps);
    while (i < sizeof kinds / sizeof *kinds && strcmp(type, kinds[i].name) != 0)
        i++;
    if (i == sizeof kinds / sizeof *kinds)
        return -ENOTSUP;
    struct tok_step *step = tok_add_step(l, steps, where, kinds[i].kind);
    if (!step)
        return -ENOTSUP;
    switch (step->kind) {
    case TOK_FORM:
        step->form = tok_form_make(type);
        return step->form ? 0 : tok_load_memory(l);
    case TOK_STRIP_SPACES:
        return load_strip(l, object, where, step);
    case TOK_PREPEND:
        return load_text(l, object, where, "prepend", &step->content);
    case TOK_REMOVE_ACCENTS:
        return load_accents(l, step);
    default:
        return 0;
    }
}

static int decoder_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                          struct tok_steps *steps)
{
    struct tok_step *step;
    int rc;

    if (strcmp(type, "Replace") == 0)
        return load_replace(l, object, where, steps);
    if (strcmp(type, "ByteFallback") == 0)
        return tok_add_step(l, steps, where, TOK_BYTE_FALLBACK) ? 0 : -ENOTSUP;
    if (strcmp(type, "Fuse") == 0)
        return tok_add_step(l, steps, where, TOK_FUSE) ? 0 : -ENOTSUP;
    if (strcmp(type, "ByteLevel") == 0)
        return tok_add_step(l, steps, where, TOK_BYTE_UNMAP) ? 0 : -ENOTSUP;
    if (strcmp(type, "Metaspace") == 0) {
        step = tok_add_step(l, steps, where, TOK_UNMARK_SPACES);
        if (!step)
            return -ENOTSUP;
        rc = tok_load_char(l, object, where, "replacement", &step->content);
        return rc < 0 ? rc : tok_load_scheme(l, object, where, &step->scheme);
    }
    if (strcmp(type, "BPEDecoder") == 0) {
        step = tok_add_step(l, steps, where, TOK_WORD_ENDS);
        return step ? load_text(l, object, where, "suffix", &step->pattern) : -ENOTSUP;
    }
    if (strcmp(type, "Strip") != 0)
        return -ENOTSUP;
    step = tok_add_step(l, steps, where, TOK_STRIP);
    if (!step)
        return -ENOTSUP;
    rc = tok_load_char(l, object, where, "content", &step->content);
    if (rc == 0)
        rc = tok_load_count(l, object, where, "start", &step->start);
    return rc < 0 ? rc : tok_load_count(l, object, where, "stop", &step->stop);
}

/* One member, or those of a Sequence; its depth is bounded by JSON's. */
int tok_load_chain(struct tok_load *l, const json_t *object, const char *where, const char *members,
                   tok_member_fn *member, struct tok_steps *steps)
{
    const json_t *type = json_object_get(object, "type"), *list = json_object_get(object, members);
    char inner[WHERE_MAX];
    int rc = 0;

    if (!json_is_string(type))
        return tok_fail_at(l, -EINVAL, where, "type", type, "it must be a string");
    if (strcmp(json_string_value(type), "Sequence") != 0) {
        if (l->error_bytes)
            l->error[0] = 0;
        rc = member(l, object, where, json_string_value(type), steps);
        if (rc == -ENOTSUP && (!l->error_bytes || !l->error[0]))
            return tok_fail_at(l, -ENOTSUP, where, "type", type, "it is not supported");
        return rc;
    }
    if (!json_is_array(list))
        return tok_fail_at(l, -EINVAL, where, members, list, "it must be an array");
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        if (snprintf(inner, sizeof inner, "%s.%s[%zu]", where, members, i) >= (int)sizeof inner)
            return tok_load_fail(l, -ENOTSUP, "%s: sequences are nested too deep", where);
        rc = tok_load_chain(l, json_array_get(list, i), inner, members, member, steps);
    }
    return rc;
}

int tok_load_normalizer(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "normalizer");

    if (!object || json_is_null(object))
        return 0;
    return tok_load_chain(l, object, "normalizer", "normalizers", normalizer_member, &l->t->normalizer);
}

int tok_load_decoder(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "decoder");

    if (!object || json_is_null(object))
        return tok_add_step(l, &l->t->decoder, "decoder", TOK_JOIN) ? 0 : -ENOTSUP;
    return tok_load_chain(l, object, "decoder", "decoders", decoder_member, &l->t->decoder);
}

void tok_steps_free(struct tok_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        free((char *)steps->step[i].pattern.text);
        free((char *)steps->step[i].content.text);
        tok_regex_free(steps->step[i].re);
        tok_form_free(steps->step[i].form);
        free(steps->step[i].set);
    }
    steps->count = 0;
}
