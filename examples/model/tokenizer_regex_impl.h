/*
 * What the three files of tokenizer_regex.h share. Only they include this.
 */
#ifndef MODEL_TOKENIZER_REGEX_IMPL_H
#define MODEL_TOKENIZER_REGEX_IMPL_H

#include "examples/model/tokenizer_class.h"
#include "examples/model/tokenizer_regex.h"

#define RE_NONE  UINT32_MAX
#define RE_DEPTH 50         /* groups within groups */
#define RE_CODE  (1u << 16) /* instructions: a counted repeat is written out */
#define RE_COUNT 100000     /* Oniguruma's most in {} */

enum re_node_kind {
    RE_EMPTY,
    RE_CHAR,   /* value: code point */
    RE_SET,    /* value: class */
    RE_CAT,    /* children, one after another */
    RE_ALT,    /* children, the first that matches */
    RE_REPEAT, /* child; min, max, value: mode */
    RE_LOOK,   /* child; value: bits of RE_BEHIND and RE_NEGATED */
    RE_ATOMIC, /* child */
    RE_ASSERT, /* value */
};

enum re_mode { RE_GREEDY, RE_LAZY, RE_POSSESSIVE };
enum re_assert { RE_LINE_BEGIN, RE_LINE_END, RE_BEGIN, RE_END, RE_END_OR_NEWLINE, RE_WORD_EDGE, RE_NO_EDGE };
#define RE_BEHIND  1u
#define RE_NEGATED 2u

struct re_node {
    enum re_node_kind kind;
    uint32_t child, next; /* RE_NONE: none */
    uint32_t min, max;    /* max RE_NONE: no end */
    uint32_t value;
};

enum re_op {
    OP_TEXT,   /* b bytes at texts + a */
    OP_SET,    /* one of class a */
    OP_SPAN,   /* min to max of class a, by mode */
    OP_SPLIT,  /* goes on at a, and if that fails at b; min, max: first bytes of these */
    OP_JUMP,   /* to a */
    OP_ASSERT, /* a */
    OP_LOOK,   /* what follows, by mode; min, max: characters back. Then a */
    OP_ATOMIC, /* what follows. Then a */
    OP_ENTER,  /* loop a begins a round */
    OP_LEAVE,  /* loop a ends a round: to b if it took nothing */
    OP_ACCEPT,
};

struct re_inst {
    enum re_op op;
    uint32_t mode;
    uint32_t a, b, min, max;
};

struct tok_regex {
    struct re_inst *code;
    size_t count, room;
    struct tok_class **classes;
    uint64_t (*class_firsts)[4]; /* bytes that a character of each begins with */
    size_t class_count, class_room, class_first_room;
    char *texts;
    size_t text_bytes, text_room;
    uint64_t (*firsts)[4]; /* sets of bytes that can begin a match */
    size_t first_count, first_room;
    uint32_t first; /* of the whole, or RE_NONE */
    uint32_t loops;
    uint32_t word; /* the class of \b, or RE_NONE */
};

struct re_tree {
    struct re_node *nodes;
    size_t count, room;
    uint32_t root;
};

/* tokenizer_parse.c. Classes go into re. */
int re_parse(struct tok_regex *re, const char *pattern, size_t bytes, bool literal, struct re_tree *tree,
             struct tok_regex_error *error);
/* tokenizer_regex.c. -ENOMEM, or the index. */
int re_add_class(struct tok_regex *re, const struct tok_bits *bits);
int re_grow(void *pointer, size_t *room, size_t need, size_t each);

#endif
