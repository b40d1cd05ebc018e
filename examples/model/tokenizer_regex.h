/*
 * The regular expressions of tokenizer files, read as Oniguruma reads them (its own
 * syntax, UTF-8), since they are written for it: what a class holds, where an option
 * ends and what a plus behind {1,3} means differ from engine to engine.
 *
 * Supported: literals, escapes, classes with classes within and &&, \p{...}, groups,
 * look-ahead, look-behind of bounded length, atomic groups, greedy, lazy and
 * possessive repeats, anchors, the options i (of ASCII) and m. All else, such as back
 * references, is refused by its name.
 *
 *     tokenizer_parse.c  pattern to nodes
 *     tokenizer_regex.c  nodes to instructions
 *     tokenizer_match.c  runs them: backtracking on a stack of its own
 */
#ifndef MODEL_TOKENIZER_REGEX_H
#define MODEL_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tok_regex;

/* Why and where a pattern was refused. */
struct tok_regex_error {
    const char *cause;
    size_t at; /* bytes */
};

/* A literal pattern stands for itself. 0, -EINVAL (Oniguruma refuses it, too),
 * -ENOTSUP, -ENOMEM. */
int tok_regex_compile(const char *pattern, size_t bytes, bool literal, struct tok_regex **out,
                      struct tok_regex_error *error);
/* The pattern of one character of a set. 0 or -ENOMEM. */
struct tok_bits;
int tok_regex_characters(const struct tok_bits *bits, struct tok_regex **out);
/* NULL is accepted. */
void tok_regex_free(struct tok_regex *re);

/* What matching needs, for one thread: zeroed before the first use. */
struct tok_matcher {
    struct tok_branch *stack;
    size_t room;
    size_t *loops;
    size_t loop_room;
    uint64_t budget;
};

void tok_matcher_free(struct tok_matcher *m);

/* The matches of a text, one after another, as Hugging Face's iterator gives them:
 * zeroed, then a call for each. */
struct tok_find {
    size_t seek, start, end;
    bool found; /* start and end are a match */
    bool over;
};

/* 1: a match, 0: no more, -ELOOP: backtracking without end, -ENOMEM. */
int tok_regex_next(const struct tok_regex *re, struct tok_matcher *m, const char *text, size_t bytes,
                   struct tok_find *find);

#endif
