/*
 * What the template*.c files share: memory, values, the tree, and who may call whom: text < value < lex <
 * expression < parse, and text < value < calls < eval < run < template.c. Only they include this.
 *
 * Functions that return bool return false when they have failed; the state has the sentence then.
 */
#ifndef LLAMA_TEMPLATE_IMPL_H
#define LLAMA_TEMPLATE_IMPL_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "examples/model/template.h"

#define TEMPLATE_SOURCE_MAX (1u << 20)
#define TEMPLATE_DEPTH_MAX  400         /* of nested expressions, blocks, and calls of macros */
#define TEMPLATE_WORK_MAX   (1u << 27)  /* steps, and bytes looked at: about a second */
#define TEMPLATE_MEMORY_MAX (64u << 20) /* of a rendering */
#define TEMPLATE_OUTPUT_MAX (16u << 20)
#define TEMPLATE_RANGE_MAX  100000 /* as Jinja's sandbox has it */

/* ---- state: memory that is given back at once, and the first failure ------- */

struct template_chunk;

struct template_state {
    struct template_chunk *chunks;
    size_t memory, work;
    unsigned depth;
    uint32_t line; /* of what is worked on */
    const char *name;
    int code; /* 0, or of the failure */
    char *error;
    size_t error_bytes;
};

/* Aligned, zeroed. NULL: it has failed. */
void *template_take(struct template_state *s, size_t bytes);
void template_release(struct template_state *s);
/* Keeps the first sentence, with name and line in front. False. */
bool template_fail(struct template_state *s, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool template_work(struct template_state *s, size_t steps);
bool template_enter(struct template_state *s); /* a level deeper; template_leave follows if it is true */
void template_leave(struct template_state *s);

/* ---- text ------------------------------------------------------------------ */

struct str {
    const char *bytes;
    size_t count;
};

struct buffer {
    char *bytes;
    size_t count, room;
};

static inline struct str str_of(const char *text)
{
    return (struct str){text, strlen(text)};
}

static inline bool str_equal(struct str a, struct str b)
{
    return a.count == b.count && (a.count == 0 || memcmp(a.bytes, b.bytes, a.count) == 0);
}

static inline bool str_is(struct str a, const char *text)
{
    return str_equal(a, str_of(text));
}

/* For sentences: "%.*s", without half a character. */
static inline int str_part(struct str s)
{
    size_t count = s.count < 60 ? s.count : 60;

    while (count > 0 && count < s.count && ((unsigned char)s.bytes[count] & 0xC0) == 0x80)
        count--;
    return (int)count;
}
#define STR_ARG(s) str_part(s), (s).bytes

bool buffer_add(struct template_state *s, struct buffer *b, const char *bytes, size_t count);
bool buffer_text(struct template_state *s, struct buffer *b, const char *text);
struct str buffer_str(const struct buffer *b);

int str_compare(struct str a, struct str b); /* by code points */
size_t str_length(struct str a);             /* in code points */
size_t str_width(struct str a, size_t at);   /* bytes of the character there */
/* The first place of what from `from` on; SIZE_MAX: nowhere. */
size_t str_find(struct str a, struct str what, size_t from);
/* Bytes of the white space, in Python's sense, that begins at `at`, or ends there; 0: none. */
size_t str_space(struct str a, size_t at);
size_t str_space_before(struct str a, size_t at);
/* chars NULL: white space. */
struct str str_strip(struct str a, const struct str *chars, bool left, bool right);

/* ---- values ---------------------------------------------------------------- */

enum kind {
    VALUE_UNDEFINED, /* s: its name */
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE, /* list too */
    VALUE_DICT,
    VALUE_NAMESPACE, /* dict too */
    VALUE_MACRO,
    VALUE_FUNCTION, /* of calls.c; with self: a method */
};

struct node;
struct scope;
struct list;
struct dict;
struct function;

struct value {
    enum kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct str s;
        struct list *list;
        struct dict *dict;
        struct {
            const struct node *node;
            struct scope *scope;
        } macro;
        struct {
            const struct function *function;
            const struct value *self;
        } call;
    };
};

struct list {
    struct value *items;
    size_t count, room;
};

struct dict {
    struct list keys, values;
};

struct value value_bool(bool b);
struct value value_int(int64_t i);
struct value value_str(struct str s);
struct value value_undefined(struct str name);
bool value_list(struct template_state *s, struct value *out); /* an empty one */
bool value_dict(struct template_state *s, struct value *out);
bool list_add(struct template_state *s, struct list *l, struct value v);
/* NULL: not there. */
struct value *dict_find(struct template_state *s, const struct dict *d, struct value key);
bool dict_set(struct template_state *s, struct dict *d, struct value key, struct value v);
bool value_from_json(struct template_state *s, const json_t *j, struct value *out);

const char *value_kind(struct value v); /* "a string" */
bool value_is_number(struct value v);   /* also true and false, as in Python */
double value_number(struct value v);
bool value_true(struct value v);
bool value_equal(struct template_state *s, struct value a, struct value b);
/* *order < 0, 0, > 0; fails where Python has no order. */
bool value_order(struct template_state *s, struct value a, struct value b, int *order);
/* What a loop goes through: items, keys, characters. */
bool value_items(struct template_state *s, struct value v, struct list *out);
bool value_in(struct template_state *s, struct value item, struct value in, bool *found);

/* ---- values as text -------------------------------------------------------- */

bool value_text(struct template_state *s, struct value v, struct str *out); /* Python's str() */

struct json_style {
    int indent; /* < 0: one line */
    struct str item, key;
    bool sort, ascii;
};
bool value_json(struct template_state *s, struct value v, const struct json_style *style, struct buffer *out);

/* ---- the tree -------------------------------------------------------------- */

enum node_kind {
    NODE_CONST,   /* value */
    NODE_NAME,    /* name */
    NODE_LIST,    /* kids */
    NODE_TUPLE,   /* kids */
    NODE_DICT,    /* kids: key, value, key, ... */
    NODE_ATTR,    /* kids[0].name */
    NODE_ITEM,    /* kids[0][kids[1]] */
    NODE_SLICE,   /* kids[0][kids[1]:kids[2]:kids[3]]; NULL: left out */
    NODE_CALL,    /* kids[0](kids[1], ...) */
    NODE_FILTER,  /* kids[0] | function(kids[1], ...) */
    NODE_TEST,    /* kids[0] is function(kids[1], ...) */
    NODE_KEYWORD, /* among arguments: name = kids[0] */
    NODE_NOT,
    NODE_NEGATE,
    NODE_PLUS,
    NODE_AND,
    NODE_OR,
    NODE_COMPARE, /* kids[0] op kids[1]; op is a token */
    NODE_CHAIN,   /* kids: comparisons, each of which begins with what the last one ended with */
    NODE_BINARY,  /* kids[0] op kids[1] */
    NODE_IF_ELSE, /* kids[1] if kids[0] else kids[2]; NULL: left out */

    NODE_TEXT,       /* value */
    NODE_PRINT,      /* kids[0] */
    NODE_BLOCK,      /* kids */
    NODE_IF,         /* kids[0]: kids[1], else kids[2] or NULL */
    NODE_FOR,        /* kids[0] target, [1] of what, [2] only if or NULL, [3] body, [4] else or NULL */
    NODE_SET,        /* kids[0] target = kids[1] */
    NODE_SET_BLOCK,  /* kids[0] target = text of kids[1] */
    NODE_MACRO,      /* name; kids[0] body; then parameters: NODE_KEYWORD with their default or NULL */
    NODE_GENERATION, /* kids[0] */
    NODE_BREAK,
    NODE_CONTINUE,
};

struct node {
    enum node_kind kind;
    uint32_t line;
    int op;
    struct str name;
    struct value value;
    const struct function *function;
    struct node **kids;
    size_t count;
};

/* ---- lexing and parsing ------------------------------------------------------ */

enum token {
    TOKEN_END, /* of the tag */
    TOKEN_NAME,
    TOKEN_VALUE, /* a literal */
    TOKEN_DIVIDE_DOWN = 256,
    TOKEN_POWER,
    TOKEN_EQUAL,
    TOKEN_NOT_EQUAL,
    TOKEN_LESS_EQUAL,
    TOKEN_GREATER_EQUAL,
    TOKEN_IN, /* as an operator in the tree only */
    TOKEN_NOT_IN,
    /* and characters as themselves: + - * / % ~ < > = ( ) [ ] { } . , : | */
};

enum piece { PIECE_END, PIECE_TEXT, PIECE_PRINT, PIECE_TAG };

struct parser {
    struct template_state *s;
    struct str source;
    size_t at;
    bool line_start; /* what came before was a tag with the end of its line */
    bool marks;      /* {% generation %} was seen */
    enum piece inside;
    size_t brackets; /* open ones in the tag */
    int token;       /* the one to be looked at */
    struct str name; /* of a TOKEN_NAME */
    struct value value;
    unsigned loops, macros; /* that are open */
};

/* The next piece of the template: its text, or the tag whose first token is ready then. */
bool lex_piece(struct parser *p, enum piece *piece, struct str *text);
/* The next token of the tag; behind TOKEN_END the text goes on. */
bool lex_next(struct parser *p);
bool lex_is_name(const struct parser *p, const char *name);
/* "a name", "'|'": what is there, for sentences. */
struct str lex_what(struct parser *p);

struct node *node_make(struct parser *p, enum node_kind kind, size_t kids);
bool parse_token(struct parser *p, int token, const char *what);
struct node *parse_expression(struct parser *p);
struct node *parse_without_if(struct parser *p); /* an expression, or several with commas: a tuple */
struct node *parse_with_commas(struct parser *p);
struct node *parse_template(struct parser *p);

/* ---- running ---------------------------------------------------------------- */

struct args {
    const struct value *values;
    size_t count;
    const struct str *names; /* of those behind values[count - 1] */
    size_t named;
};

struct run;

typedef bool function_fn(struct run *r, const struct value *self, const struct args *a, struct value *out);

struct function {
    const char *name;
    function_fn *call;
    size_t most;          /* arguments */
    const char *keywords; /* what they are called: "chars" or "old new count" */
};

struct scope {
    struct scope *above;
    struct dict names;
};

struct run {
    struct template_state *s;
    struct scope *scope;
    struct buffer *out, text; /* out: where text goes now */
    struct template_span *spans;
    size_t span_count, span_room;
    enum { GOES_ON, BREAKS, CONTINUES } flow;
};

const struct function *function_filter(struct str name);
const struct function *function_test(struct str name);
const struct function *function_global(struct str name);
/* The method of a value; NULL: Python has none of that name. known: it has one. */
const struct function *function_method(struct value v, struct str name, bool *known);
/* Checks the number and the names of arguments, and calls. */
bool function_call(struct run *r, const struct function *f, const struct value *self, const struct args *a,
                   struct value *out);
/* The argument of that number or name; NULL: not given. */
const struct value *arg_at(const struct args *a, size_t index, const char *name);
/* Fails where it is not given. */
bool arg_needed(struct run *r, const struct args *a, size_t index, const char *name);
bool arg_str(struct run *r, const struct args *a, size_t index, const char *name, struct str *out);
bool arg_int(struct run *r, const struct args *a, size_t index, const char *name, int64_t *out);
extern const struct function template_methods_str[], template_methods_dict[], template_filters[],
    template_tests[], template_filters_lists[];

bool eval(struct run *r, const struct node *n, struct value *out);
bool eval_attr(struct run *r, struct value of, struct str name, struct value *out);
bool eval_item(struct run *r, struct value of, struct value key, struct value *out);
bool eval_compare(struct run *r, int op, struct value a, struct value b, bool *out);
bool run_node(struct run *r, const struct node *n);
bool run_macro(struct run *r, const struct node *macro, struct scope *scope, const struct args *a,
               struct value *out);
bool scope_set(struct run *r, struct str name, struct value v);

#endif
