/*
 * The state of reading one pattern, shared by tokenizer_parse.c and
 * tokenizer_brackets.c alone.
 */
#ifndef MODEL_TOKENIZER_PARSE_H
#define MODEL_TOKENIZER_PARSE_H

#include "examples/model/tokenizer_impl.h"
#include "examples/model/tokenizer_regex_impl.h"

struct re_parser {
    struct tok_regex *re;
    struct re_tree *tree;
    const char *pattern, *at, *end;
    struct tok_regex_error *error;
    struct tok_bits *bits; /* scratch of one atom */
    bool fold, dot_all;    /* the options i and m */
    char before;           /* without regard to case, the letter just read in a row of literals */
};

int re_fail(struct re_parser *p, int code, const char *cause);
bool re_looks(const struct re_parser *p, const char *text);
bool re_takes(struct re_parser *p, const char *text);
int re_next(struct re_parser *p, uint32_t *code);
/* Behind a backslash: the code point. */
int re_escaped_code(struct re_parser *p, uint32_t *code);

/* tokenizer_brackets.c. A class, its [ read, into bits, which is empty. */
int re_parse_class(struct re_parser *p, struct tok_bits *bits, unsigned depth);
/* Behind a backslash: 1 where a set is named, which is added to bits; else 0. */
int re_escaped_set(struct re_parser *p, struct tok_bits *bits, bool in_class);
/* Adds from to to, and the other case of these where that doesn't count. */
int re_fold_range(struct re_parser *p, struct tok_bits *bits, uint32_t from, uint32_t to);
/* \w outside of brackets. */
void re_add_word(struct tok_bits *bits);

#endif
