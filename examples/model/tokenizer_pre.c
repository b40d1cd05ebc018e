/*
 * Reads the pre-tokenizer into a chain of steps. A member that does several things
 * (ByteLevel, Metaspace, BertPreTokenizer) becomes several steps; those that cut at
 * characters of a kind become patterns of one character.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"
#include "examples/model/tokenizer_tables.h"

/* GPT-2's: contractions, then runs of letters, digits and others with the space
 * before them, then white space, whose last space is left to the next word. */
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* Whitespace's: its \w is that of Rust, with the two joiners. */
static const char words_regex[] = "[\\w\\u200c\\u200d]+|[^\\w\\s\\u200c\\u200d]+";

static int load_behavior(struct tok_load *l, const json_t *object, const char *where, bool optional,
                         enum tok_behavior *out)
{
    static const char *const names[] = {
        [TOK_REMOVED] = "Removed",
        [TOK_ISOLATED] = "Isolated",
        [TOK_CONTIGUOUS] = "Contiguous",
        [TOK_MERGED_PREVIOUS] = "MergedWithPrevious",
        [TOK_MERGED_NEXT] = "MergedWithNext",
    };
    const json_t *behavior = json_object_get(object, "behavior");
    const char *name = json_string_value(behavior);

    *out = TOK_ISOLATED;
    if (!behavior && optional)
        return 0;
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum tok_behavior)i;
            return 0;
        }
    }
    return tok_fail_at(l, -EINVAL, where, "behavior", behavior,
                       "it must be Removed, Isolated, Contiguous, MergedWithPrevious or MergedWithNext");
}

/* A step that cuts at a pattern. */
static int add_split(struct tok_load *l, struct tok_steps *steps, const char *where, const char *pattern,
                     enum tok_behavior behavior)
{
    struct tok_step *step = tok_add_step(l, steps, where, TOK_SPLIT);

    if (!step)
        return -ENOTSUP;
    step->behavior = behavior;
    return tok_load_regex(l, where, pattern, strlen(pattern), false, &step->re);
}

static int load_split(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    const json_t *used = regex ? regex : string;
    struct tok_step *step = tok_add_step(l, steps, where, TOK_SPLIT);
    int rc;

    if (!step)
        return -ENOTSUP;
    if (!json_is_string(used))
        return tok_fail_at(l, -EINVAL, where, "pattern", pattern, "it must have a Regex or a String");
    rc = load_behavior(l, object, where, false, &step->behavior);
    if (rc == 0)
        rc = tok_load_bool(l, object, where, "invert", -1, &step->invert);
    if (rc == 0)
        rc = tok_load_regex(l, where, json_string_value(used), json_string_length(used), !regex, &step->re);
    return rc;
}

/* A step that cuts at the characters of bits, which it frees. */
static int add_characters(struct tok_load *l, struct tok_steps *steps, const char *where,
                          struct tok_bits *bits, enum tok_behavior behavior)
{
    struct tok_step *step = bits ? tok_add_step(l, steps, where, TOK_SPLIT) : NULL;
    int rc = !bits ? tok_load_memory(l) : !step ? -ENOTSUP : 0;

    if (rc == 0) {
        step->behavior = behavior;
        if (tok_regex_characters(bits, &step->re) < 0)
            rc = tok_load_memory(l);
    }
    free(bits);
    return rc;
}

static int add_punctuation(struct tok_load *l, struct tok_steps *steps, const char *where,
                           enum tok_behavior behavior)
{
    struct tok_bits *bits = calloc(1, sizeof *bits);

    if (bits)
        tok_bits_ranges(bits, uni_rust_punctuation, uni_rust_punctuation_count);
    return add_characters(l, steps, where, bits, behavior);
}

static int load_punctuation(struct tok_load *l, const json_t *object, const char *where,
                            struct tok_steps *steps)
{
    enum tok_behavior behavior;
    int rc = load_behavior(l, object, where, true, &behavior);

    return rc < 0 ? rc : add_punctuation(l, steps, where, behavior);
}

static int load_digits(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    struct tok_bits *bits;
    bool single;
    int rc = tok_load_bool(l, object, where, "individual_digits", -1, &single);

    if (rc < 0)
        return rc;
    bits = calloc(1, sizeof *bits);
    if (bits) {
        tok_bits_named(bits, "N", 1);
        tok_bits_ranges(bits, uni_rust_numeric, uni_rust_numeric_count);
    }
    return add_characters(l, steps, where, bits, single ? TOK_ISOLATED : TOK_CONTIGUOUS);
}

static int load_delimiter(struct tok_load *l, const json_t *object, const char *where,
                          struct tok_steps *steps)
{
    struct tok_step *step = tok_add_step(l, steps, where, TOK_SPLIT);
    int rc;

    if (!step)
        return -ENOTSUP;
    rc = tok_load_char(l, object, where, "delimiter", &step->pattern);
    return rc < 0 ? rc : tok_load_regex(l, where, step->pattern.text, step->pattern.bytes, true, &step->re);
}

static int load_whitespace(struct tok_load *l, const json_t *object, const char *where,
                           struct tok_steps *steps)
{
    int rc = add_split(l, steps, where, words_regex, TOK_REMOVED);

    (void)object;
    if (rc == 0)
        steps->step[steps->count - 1].invert = true;
    return rc;
}

static int load_whitespace_split(struct tok_load *l, const json_t *object, const char *where,
                                 struct tok_steps *steps)
{
    (void)object;
    return add_split(l, steps, where, "\\s", TOK_REMOVED);
}

static int load_bert(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps)
{
    int rc = load_whitespace_split(l, object, where, steps);

    return rc < 0 ? rc : add_punctuation(l, steps, where, TOK_ISOLATED);
}

static int load_fixed_length(struct tok_load *l, const json_t *object, const char *where,
                             struct tok_steps *steps)
{
    struct tok_step *step = tok_add_step(l, steps, where, TOK_CHUNKS);

    if (!step)
        return -ENOTSUP;
    step->start = 5;
    if (!json_object_get(object, "length"))
        return 0;
    int rc = tok_load_count(l, object, where, "length", &step->start);
    if (rc == 0 && step->start == 0)
        rc = tok_fail_at(l, -EINVAL, where, "length", json_object_get(object, "length"),
                         "it must be 1 or more");
    return rc;
}

static int load_byte_level(struct tok_load *l, const json_t *object, const char *where,
                           struct tok_steps *steps)
{
    bool prefix, regex;
    int rc = tok_load_bool(l, object, where, "add_prefix_space", -1, &prefix);

    if (rc == 0)
        rc = tok_load_bool(l, object, where, "use_regex", true, &regex);
    if (rc == 0 && prefix && !tok_add_step(l, steps, where, TOK_PREFIX_SPACE))
        return -ENOTSUP;
    if (rc == 0 && regex)
        rc = add_split(l, steps, where, gpt2_regex, TOK_ISOLATED);
    return rc < 0 ? rc : tok_add_step(l, steps, where, TOK_BYTE_MAP) ? 0 : -ENOTSUP;
}

static int load_metaspace(struct tok_load *l, const json_t *object, const char *where,
                          struct tok_steps *steps)
{
    struct tok_step *step = tok_add_step(l, steps, where, TOK_MARK_SPACES);
    bool split;
    int rc;

    if (!step)
        return -ENOTSUP;
    rc = tok_load_char(l, object, where, "replacement", &step->content);
    if (rc == 0)
        rc = tok_load_scheme(l, object, where, &step->scheme);
    if (rc == 0)
        rc = tok_load_bool(l, object, where, "split", true, &split);
    if (rc < 0 || !split)
        return rc;
    step = tok_add_step(l, steps, where, TOK_SPLIT_MARKS);
    return step ? tok_load_char(l, object, where, "replacement", &step->content) : -ENOTSUP;
}

static int pre_tokenizer_member(struct tok_load *l, const json_t *object, const char *where, const char *type,
                                struct tok_steps *steps)
{
    static const struct {
        const char *name;
        int (*load)(struct tok_load *l, const json_t *object, const char *where, struct tok_steps *steps);
    } kinds[] = {
        {"BertPreTokenizer", load_bert},        {"ByteLevel", load_byte_level},
        {"CharDelimiterSplit", load_delimiter}, {"Digits", load_digits},
        {"FixedLength", load_fixed_length},     {"Metaspace", load_metaspace},
        {"Punctuation", load_punctuation},      {"Split", load_split},
        {"Whitespace", load_whitespace},        {"WhitespaceSplit", load_whitespace_split},
    };

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].name) == 0)
            return kinds[i].load(l, object, where, steps);
    return -ENOTSUP;
}

static bool is_character(const struct tok_text *text)
{
    uint32_t code;

    return text->bytes > 0 && tok_utf8_next(text->text, text->bytes, &code) == (int)text->bytes;
}

/* A Metaspace that looks for the start of the text asks Hugging Face's books where a
 * piece was in it. What was put in counts for the character before it, so two pieces
 * may be at the start; what was left out moves it. That is not worth a second set of
 * books. */
static int check_first(struct tok_load *l)
{
    const struct tokenizer *t = l->t;
    bool put_in = false, left_out = false;

    for (size_t i = 0; i < t->normalizer.count; i++) {
        const struct tok_step *step = &t->normalizer.step[i];
        bool replace = step->kind == TOK_REPLACE;
        put_in |= !replace || !is_character(&step->content);
        left_out |= step->kind == TOK_STRIP_SPACES || step->kind == TOK_NMT ||
                    step->kind == TOK_REMOVE_ACCENTS ||
                    (replace && (!is_character(&step->pattern) || step->content.bytes == 0));
    }
    for (size_t i = 0; i < t->pre.count; i++) {
        const struct tok_step *step = &t->pre.step[i];
        if (step->kind == TOK_MARK_SPACES && step->scheme == TOK_FIRST && (left_out || (i > 0 && put_in)))
            return tok_load_fail(
                l, -ENOTSUP,
                "pre_tokenizer: a Metaspace that looks for the start of the text, behind what "
                "may move it, is not supported");
        put_in |=
            step->kind == TOK_PREFIX_SPACE || step->kind == TOK_BYTE_MAP || step->kind == TOK_MARK_SPACES;
    }
    return 0;
}

int tok_load_pre_tokenizer(struct tok_load *l, const json_t *root)
{
    const json_t *object = json_object_get(root, "pre_tokenizer");
    struct tokenizer *t = l->t;
    int rc = 0;

    if (object && !json_is_null(object))
        rc = tok_load_chain(l, object, "pre_tokenizer", "pretokenizers", pre_tokenizer_member, &t->pre);
    t->any_bytes = t->normalizer.count == 0 && t->pre.count > 0;
    for (size_t i = 0; i < t->pre.count; i++) {
        enum tok_kind kind = t->pre.step[i].kind;
        if (kind != TOK_PREFIX_SPACE && kind != TOK_BYTE_MAP)
            t->any_bytes = false;
    }
    return rc < 0 ? rc : check_first(l);
}
