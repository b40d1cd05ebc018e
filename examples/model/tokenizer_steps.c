/*
 * Reads normalizer, pre_tokenizer and decoder into chains of steps. Every kind of
 * these that isn't known here is refused by its name. A member that spells its kind
 * out into several steps (ByteLevel, Metaspace) becomes those steps.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

#define WHERE_MAX 160 /* bytes of the name of a field, such as decoder.decoders[3] */

/* GPT-2's: contractions, then runs of letters, digits and others with the space
 * before them, then white space, whose last space is left to the next word. */
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int fail_at(struct tok_load *l, int code, const char *where, const char *key, const json_t *value,
                   const char *cause)
{
    char field[WHERE_MAX + 40];

    snprintf(field, sizeof field, "%s.%s", where, key);
    return tok_load_fail_field(l, code, field, value, cause);
}

/* The next step of a chain, or NULL with a sentence: -ENOTSUP. */
static struct tok_step *add_step(struct tok_load *l, struct tok_steps *steps, const char *where,
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
        return fail_at(l, -EINVAL, where, key, value, "it must be a string");
    if (tok_text_copy(out, json_string_value(value), json_string_length(value)) < 0)
        return tok_load_fail(l, -ENOMEM, "no memory");
    return 0;
}

/* A text of one character. */
static int load_char(struct tok_load *l, const json_t *object, const char *where, const char *key,
                     struct tok_text *out)
{
    uint32_t code;
    int rc = load_text(l, object, where, key, out);

    if (rc < 0)
        return rc;
    if (out->bytes == 0 || tok_utf8_next(out->text, out->bytes, &code) != (int)out->bytes)
        return fail_at(l, -EINVAL, where, key, json_object_get(object, key), "it must be one character");
    return 0;
}

static int load_count(struct tok_load *l, const json_t *object, const char *where, const char *key,
                      size_t *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return fail_at(l, -EINVAL, where, key, value, "it must be a number, 0 or more");
    *out = (size_t)json_integer_value(value);
    return 0;
}

/* Replace, of a string: of normalizers and of decoders. */
static int load_replace(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    const json_t *pattern = json_object_get(object, "pattern");
    char inner[WHERE_MAX + 16];
    int rc;

    if (json_object_get(pattern, "Regex"))
        return fail_at(l, -ENOTSUP, where, "pattern.Regex", json_object_get(pattern, "Regex"),
                       "only a String can be replaced");
    struct tok_step *step = add_step(l, steps, where, TOK_REPLACE);
    if (!step)
        return -ENOTSUP;
    snprintf(inner, sizeof inner, "%s.pattern", where);
    rc = load_text(l, pattern, inner, "String", &step->pattern);
    if (rc == 0 && step->pattern.bytes == 0)
        rc = fail_at(l, -EINVAL, where, "pattern.String", json_object_get(pattern, "String"), "it is empty");
    return rc < 0 ? rc : load_text(l, object, where, "content", &step->content);
}

/* What Oniguruma, which these patterns are written for, reads otherwise than PCRE2. */
static const char *foreign_syntax(const char *pattern)
{
    bool class = false;

    for (const char *p = pattern; *p; p++) {
        if (*p == '\\') {
            if (p[1] == 'h' || p[1] == 'H')
                return "\\h means something else in PCRE2";
            bool named = p[1] && strchr("pPxgkN", p[1]) && p[2] == '{';
            const char *end = named ? strchr(p, '}') : NULL;
            p = end ? end : p + (p[1] != 0);
        } else if (!class && *p == '[') {
            class = true;
            p += p[1] == '^';
            p += p[1] == ']';
        } else if (class && *p == ']') {
            class = false;
        } else if (class && *p == '[' && p[1] != ':') {
            return "character classes within classes are not supported";
        } else if (class && *p == '[') {
            const char *end = strstr(p, ":]");
            p = end ? end + 1 : p;
        } else if (class && *p == '&' && p[1] == '&') {
            return "intersections of character classes are not supported";
        } else if (!class && *p == '}' && p[1] == '+') {
            return "a plus behind a counted repeat means something else in PCRE2";
        }
    }
    return NULL;
}

static int add_regex(struct tok_load *l, struct tok_steps *steps, const char *where, const char *pattern,
                     bool literal)
{
    const char *foreign = literal ? NULL : foreign_syntax(pattern);
    char field[WHERE_MAX + 16], text[200];
    struct tok_step *step = add_step(l, steps, where, TOK_REGEX);
    PCRE2_SIZE at = 0;
    int code = 0;

    if (!step)
        return -ENOTSUP;
    snprintf(field, sizeof field, "%s.pattern", where);
    if (foreign)
        return tok_load_fail(l, -ENOTSUP, "%s: %s", field, foreign);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return tok_load_fail(l, -ENOMEM, "no memory");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    step->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                               literal ? PCRE2_UTF | PCRE2_LITERAL
                                       : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                               &code, &at, context);
    pcre2_compile_context_free(context);
    if (!step->code) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return tok_load_fail(l, -EINVAL, "%s: at byte %zu: %s", field, (size_t)at, text);
    }
    /* Where machine code can't be had, matching is slower and gives the same. */
    (void)pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE);
    return 0;
}

static int load_split(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *behavior = json_object_get(object, "behavior");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    const json_t *used = regex ? regex : string;
    bool invert;

    if (!json_is_string(behavior) || strcmp(json_string_value(behavior), "Isolated") != 0)
        return fail_at(l, -ENOTSUP, where, "behavior", behavior, "only Isolated is supported");
    if (tok_load_bool(l, object, where, "invert", false, &invert) < 0)
        return -EINVAL;
    if (invert)
        return fail_at(l, -ENOTSUP, where, "invert", json_object_get(object, "invert"),
                       "only false is supported");
    if (!json_is_string(used) || json_string_length(used) == 0)
        return fail_at(l, -EINVAL, where, "pattern", pattern, "it must have a Regex or a String, not empty");
    return add_regex(l, steps, where, json_string_value(used), !regex);
}

static int load_byte_level(struct tok_load *l, const json_t *object, const char *where,
                           struct tok_steps *steps)
{
    bool prefix, regex;
    int rc;

    for (size_t i = 0; i < steps->count; i++)
        if (steps->step[i].kind == TOK_BYTE_MAP)
            return tok_load_fail(l, -ENOTSUP, "%s: a second ByteLevel", where);
    rc = tok_load_bool(l, object, where, "add_prefix_space", -1, &prefix);
    if (rc == 0)
        rc = tok_load_bool(l, object, where, "use_regex", true, &regex);
    if (rc == 0 && prefix && !add_step(l, steps, where, TOK_PREFIX_SPACE))
        return -ENOTSUP;
    if (rc == 0 && regex)
        rc = add_regex(l, steps, where, gpt2_regex, false);
    return rc < 0 ? rc : add_step(l, steps, where, TOK_BYTE_MAP) ? 0 : -ENOTSUP;
}

/* prepend_scheme, or the add_prefix_space that older files have in its place. */
static int load_scheme(struct tok_load *l, const json_t *object, const char *where, enum tok_scheme *out)
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
        return fail_at(l, -ENOTSUP, where, "prepend_scheme", scheme, "it must be always, first or never");
    if (!prefix && scheme && *out != TOK_NEVER)
        return fail_at(l, -EINVAL, where, "prepend_scheme", scheme, "add_prefix_space says false");
    if (!prefix)
        *out = TOK_NEVER;
    return 0;
}

static int load_metaspace(struct tok_load *l, const json_t *object, const char *where,
                          struct tok_steps *steps)
{
    struct tok_step *step = add_step(l, steps, where, TOK_MARK_SPACES);
    bool split;
    int rc;

    if (!step)
        return -ENOTSUP;
    rc = load_char(l, object, where, "replacement", &step->content);
    if (rc == 0)
        rc = load_scheme(l, object, where, &step->scheme);
    if (rc == 0)
        rc = tok_load_bool(l, object, where, "split", true, &split);
    if (rc < 0 || !split)
        return rc;
    step = add_step(l, steps, where, TOK_SPLIT_MARKS);
    return step ? load_char(l, object, where, "replacement", &step->content) : -ENOTSUP;
}

static int normalizer_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                             struct tok_steps *steps)
{
    struct tok_step *step;

    if (strcmp(type, "Replace") == 0)
        return load_replace(l, object, where, steps);
    if (strcmp(type, "Prepend") != 0)
        return -ENOTSUP;
    step = add_step(l, steps, where, TOK_PREPEND);
    return step ? load_text(l, object, where, "prepend", &step->content) : -ENOTSUP;
}

static int pre_tokenizer_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                                struct tok_steps *steps)
{
    if (strcmp(type, "Split") == 0)
        return load_split(l, object, where, steps);
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(l, object, where, steps);
    return strcmp(type, "Metaspace") == 0 ? load_metaspace(l, object, where, steps) : -ENOTSUP;
}

static int decoder_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                          struct tok_steps *steps)
{
    struct tok_step *step;
    int rc;

    if (strcmp(type, "Replace") == 0)
        return load_replace(l, object, where, steps);
    if (strcmp(type, "ByteFallback") == 0)
        return add_step(l, steps, where, TOK_BYTE_FALLBACK) ? 0 : -ENOTSUP;
    if (strcmp(type, "Fuse") == 0)
        return add_step(l, steps, where, TOK_FUSE) ? 0 : -ENOTSUP;
    if (strcmp(type, "ByteLevel") == 0)
        return add_step(l, steps, where, TOK_BYTE_UNMAP) ? 0 : -ENOTSUP;
    if (strcmp(type, "Metaspace") == 0) {
        step = add_step(l, steps, where, TOK_UNMARK_SPACES);
        if (!step)
            return -ENOTSUP;
        rc = load_char(l, object, where, "replacement", &step->content);
        return rc < 0 ? rc : load_scheme(l, object, where, &step->scheme);
    }
    if (strcmp(type, "Strip") != 0)
        return -ENOTSUP;
    step = add_step(l, steps, where, TOK_STRIP);
    if (!step)
        return -ENOTSUP;
    rc = load_char(l, object, where, "content", &step->content);
    if (rc == 0)
        rc = load_count(l, object, where, "start", &step->start);
    return rc < 0 ? rc : load_count(l, object, where, "stop", &step->stop);
}

/* Reads a member of its chain. -ENOTSUP without a sentence: its type isn't known. */
typedef int member_fn(struct tok_load *l, const json_t *object, const char *where, const char *type,
                      struct tok_steps *steps);

/* One member, or those of a Sequence; its depth is bounded by JSON's. */
static int load_chain(struct tok_load *l, const json_t *object, const char *where, const char *members,
                      member_fn *member, struct tok_steps *steps)
{
    const json_t *type = json_object_get(object, "type"), *list = json_object_get(object, members);
    char inner[WHERE_MAX];
    int rc = 0;

    if (!json_is_string(type))
        return fail_at(l, -EINVAL, where, "type", type, "it must be a string");
    if (strcmp(json_string_value(type), "Sequence") != 0) {
        if (l->error_bytes)
            l->error[0] = 0;
        rc = member(l, object, where, json_string_value(type), steps);
        if (rc == -ENOTSUP && (!l->error_bytes || !l->error[0]))
            return fail_at(l, -ENOTSUP, where, "type", type, "it is not supported");
        return rc;
    }
    if (!json_is_array(list))
        return fail_at(l, -EINVAL, where, members, list, "it must be an array");
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        if (snprintf(inner, sizeof inner, "%s.%s[%zu]", where, members, i) >= (int)sizeof inner)
            return tok_load_fail(l, -ENOTSUP, "%s: sequences are nested too deep", where);
        rc = load_chain(l, json_array_get(list, i), inner, members, member, steps);
    }
    return rc;
}

int tok_load_normalizer(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "normalizer");

    if (!object || json_is_null(object))
        return 0;
    return load_chain(l, object, "normalizer", "normalizers", normalizer_member, &l->t->normalizer);
}

int tok_load_pre_tokenizer(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "pre_tokenizer");
    struct tokenizer *t = l->t;
    int rc = 0;

    if (object && !json_is_null(object))
        rc = load_chain(l, object, "pre_tokenizer", "pretokenizers", pre_tokenizer_member, &t->pre);
    t->any_bytes = t->normalizer.count == 0 && t->pre.count > 0;
    for (size_t i = 0; i < t->pre.count; i++) {
        enum tok_kind kind = t->pre.step[i].kind;
        if (kind != TOK_PREFIX_SPACE && kind != TOK_BYTE_MAP)
            t->any_bytes = false;
    }
    return rc;
}

int tok_load_decoder(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "decoder");

    if (!object || json_is_null(object))
        return add_step(l, &l->t->decoder, "decoder", TOK_JOIN) ? 0 : -ENOTSUP;
    return load_chain(l, object, "decoder", "decoders", decoder_member, &l->t->decoder);
}

void tok_steps_free(struct tok_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        free((char *)steps->step[i].pattern.text);
        free((char *)steps->step[i].content.text);
        pcre2_code_free(steps->step[i].code);
    }
    steps->count = 0;
}
