/*
 * Pattern to nodes: groups, repeats, escapes. Classes are read by tokenizer_brackets.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_parse.h"

int re_fail(struct re_parser *p, int code, const char *cause)
{
    if (!p->error->cause)
        *p->error = (struct tok_regex_error){.cause = cause, .at = (size_t)(p->at - p->pattern)};
    return code;
}

bool re_looks(const struct re_parser *p, const char *text)
{
    size_t bytes = strlen(text);

    return (size_t)(p->end - p->at) >= bytes && memcmp(p->at, text, bytes) == 0;
}

bool re_takes(struct re_parser *p, const char *text)
{
    if (!re_looks(p, text))
        return false;
    p->at += strlen(text);
    return true;
}

int re_next(struct re_parser *p, uint32_t *code)
{
    int step = tok_utf8_next(p->at, (size_t)(p->end - p->at), code);

    if (step < 0)
        return re_fail(p, -EINVAL, "it isn't UTF-8");
    p->at += step;
    return 0;
}

static int add_node(struct re_parser *p, struct re_node node, uint32_t *out)
{
    struct re_tree *tree = p->tree;
    int rc = re_grow(&tree->nodes, &tree->room, tree->count + 1, sizeof *tree->nodes);

    if (rc < 0)
        return rc;
    *out = (uint32_t)tree->count;
    tree->nodes[tree->count++] = node;
    p->before = 0;
    return 0;
}

static int add_set(struct re_parser *p, const struct tok_bits *bits, uint32_t *out)
{
    int index = re_add_class(p->re, bits);

    return index < 0 ? index
                     : add_node(p, (struct re_node){RE_SET, RE_NONE, RE_NONE, 1, 1, (uint32_t)index}, out);
}

static int add_leaf(struct re_parser *p, enum re_node_kind kind, uint32_t value, uint32_t *out)
{
    return add_node(p, (struct re_node){kind, RE_NONE, RE_NONE, 1, 1, value}, out);
}

static int add_parent(struct re_parser *p, enum re_node_kind kind, uint32_t child, uint32_t value,
                      uint32_t *out)
{
    return add_node(p, (struct re_node){kind, child, RE_NONE, 1, 1, value}, out);
}

/* A literal. Without regard to case it is a class; and pairs that a ligature stands
 * for would match that in Oniguruma as well. */
static int add_char(struct re_parser *p, uint32_t code, uint32_t *out)
{
    static const char *const ligatures[] = {"ff", "fi", "fl", "ss", "st"};
    char lower = (char)(code >= 'A' && code <= 'Z' ? code + 32 : code < 128 ? code : 0);

    if (!p->fold)
        return add_leaf(p, RE_CHAR, code, out);
    for (size_t i = 0; i < sizeof ligatures / sizeof *ligatures; i++)
        if (p->before == ligatures[i][0] && lower == ligatures[i][1])
            return re_fail(p, -ENOTSUP, "two letters that have a ligature are not supported behind (?i)");
    memset(p->bits, 0, sizeof *p->bits);
    int rc = re_fold_range(p, p->bits, code, code);
    if (rc == 0)
        rc = add_set(p, p->bits, out);
    p->before = lower;
    return rc;
}

static int hex(struct re_parser *p, size_t most, uint32_t base, uint32_t *code)
{
    size_t digits = 0;

    *code = 0;
    for (; p->at < p->end && digits < most; p->at++, digits++) {
        char c = *p->at;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit >= base || *code > 0x10FFFFF)
            break;
        *code = *code * base + digit;
    }
    return (int)digits;
}

int re_escaped_code(struct re_parser *p, uint32_t *code)
{
    static const char from[] = "tnrfvae", to[] = "\t\n\r\f\v\a\x1b";
    const char *plain;

    if (re_takes(p, "x{") || re_takes(p, "o{")) {
        if (hex(p, 11, p->at[-2] == 'x' ? 16 : 8, code) == 0 || !re_takes(p, "}"))
            return re_fail(p, -EINVAL, "a code point between { and } is not one number");
    } else if (re_takes(p, "x")) {
        hex(p, 2, 16, code);
        if (*code > 127)
            return re_fail(p, -ENOTSUP, "\\x of a byte above 7f is not supported");
    } else if (re_takes(p, "u")) {
        if (hex(p, 4, 16, code) < 4)
            return re_fail(p, -EINVAL, "\\u needs four digits");
    } else if (*p->at == '0') {
        hex(p, 3, 8, code);
    } else if (re_takes(p, "c") || re_takes(p, "C-")) {
        if (p->at == p->end || *p->at == '\\' || (unsigned char)*p->at > 127)
            return re_fail(p, -EINVAL, "a control character without its letter");
        *code = (uint32_t)(*p->at == '?' ? 127 : *p->at & 0x1F);
        p->at++;
    } else if (re_looks(p, "M-")) {
        return re_fail(p, -ENOTSUP, "\\M- is not supported");
    } else if (*p->at && (plain = strchr(from, *p->at))) {
        *code = (uint32_t)to[plain - from];
        p->at++;
    } else {
        return re_next(p, code);
    }
    return *code < TOK_CODES ? 0 : re_fail(p, -ENOTSUP, "a code point above 10ffff is not supported");
}

/* \R: a line end, \r\n as one. */
static int add_newline(struct re_parser *p, uint32_t *out)
{
    uint32_t r, n, both, set, any;
    int rc;

    memset(p->bits, 0, sizeof *p->bits);
    tok_bits_range(p->bits, '\n', '\r');
    tok_bits_range(p->bits, 0x85, 0x85);
    tok_bits_range(p->bits, 0x2028, 0x2029);
    if ((rc = add_leaf(p, RE_CHAR, '\r', &r)) < 0 || (rc = add_leaf(p, RE_CHAR, '\n', &n)) < 0 ||
        (rc = add_set(p, p->bits, &set)) < 0 || (rc = add_parent(p, RE_CAT, r, 0, &both)) < 0 ||
        (rc = add_parent(p, RE_ALT, both, 0, &any)) < 0)
        return rc;
    p->tree->nodes[r].next = n;
    p->tree->nodes[both].next = set;
    return add_parent(p, RE_ATOMIC, any, 0, out);
}

static int add_any(struct re_parser *p, bool newline, uint32_t *out)
{
    memset(p->bits, 0, sizeof *p->bits);
    if (!newline)
        tok_bits_range(p->bits, '\n', '\n');
    tok_bits_invert(p->bits);
    return add_set(p, p->bits, out);
}

/* The class of \b, which is that of \w outside of brackets. */
static int need_word(struct re_parser *p)
{
    int index = 0;

    if (p->re->word != RE_NONE)
        return 0;
    memset(p->bits, 0, sizeof *p->bits);
    re_add_word(p->bits);
    index = re_add_class(p->re, p->bits);
    if (index >= 0)
        p->re->word = (uint32_t)index;
    return index < 0 ? index : 0;
}

/* What stands behind a backslash outside of brackets. */
static int parse_escape(struct re_parser *p, uint32_t *out, bool *repeats)
{
    static const char anchors[] = "AzZbB", foreign[] = "123456789GKXkgyY";
    static const enum re_assert asserts[] = {RE_BEGIN, RE_END, RE_END_OR_NEWLINE, RE_WORD_EDGE, RE_NO_EDGE};
    const char *found;
    uint32_t code;
    int rc;

    if (p->at == p->end)
        return re_fail(p, -EINVAL, "it ends with a backslash");
    if (*p->at && (found = strchr(anchors, *p->at))) {
        enum re_assert kind = asserts[found - anchors];
        p->at++;
        *repeats = false;
        rc = kind == RE_WORD_EDGE || kind == RE_NO_EDGE ? need_word(p) : 0;
        return rc < 0 ? rc : add_leaf(p, RE_ASSERT, kind, out);
    }
    if (*p->at && strchr(foreign, *p->at))
        return re_fail(p, -ENOTSUP,
                       *p->at <= '9' || *p->at == 'k' || *p->at == 'g' ? "back references are not supported"
                                                                       : "this escape is not supported");
    if (re_takes(p, "R"))
        return add_newline(p, out);
    if (re_takes(p, "O"))
        return add_any(p, true, out);
    if (re_takes(p, "N"))
        return add_any(p, false, out);
    memset(p->bits, 0, sizeof *p->bits);
    rc = re_escaped_set(p, p->bits, false);
    if (rc != 0)
        return rc < 0 ? rc : add_set(p, p->bits, out);
    rc = re_escaped_code(p, &code);
    return rc < 0 ? rc : add_char(p, code, out);
}

static int parse_alternatives(struct re_parser *p, unsigned depth, uint32_t *out);

/* Options behind (?, up to : or ). They hold to the end of the group around them. */
static int parse_options(struct re_parser *p, unsigned depth, uint32_t *out)
{
    bool fold = p->fold, dot_all = p->dot_all, on = true;
    int rc;

    for (; p->at < p->end && *p->at != ')' && *p->at != ':'; p->at++) {
        if (*p->at == '-')
            on = false;
        else if (*p->at == 'i')
            p->fold = on;
        else if (*p->at == 'm')
            p->dot_all = on;
        else if (*p->at != 'x' || on)
            return re_fail(p, -ENOTSUP, "this kind of group is not supported");
    }
    if (p->at == p->end)
        return re_fail(p, -EINVAL, "it ends within a group");
    bool closed = *p->at++ == ')';
    rc = parse_alternatives(p, depth, out);
    if (rc == 0 && !closed && !re_takes(p, ")"))
        rc = re_fail(p, -EINVAL, "a parenthesis is not closed");
    p->fold = fold;
    p->dot_all = dot_all;
    return rc;
}

static int skip_name(struct re_parser *p, char end)
{
    const char *name = p->at;

    while (p->at < p->end && *p->at != end)
        p->at++;
    if (p->at == p->end || p->at == name)
        return re_fail(p, -EINVAL, "a group's name has no end");
    p->at++;
    return 0;
}

static int parse_group(struct re_parser *p, unsigned depth, uint32_t *out, bool *repeats)
{
    static const struct {
        const char *text;
        enum re_node_kind kind;
        uint32_t value;
    } kinds[] = {{"?=", RE_LOOK, 0},          {"?!", RE_LOOK, RE_NEGATED},
                 {"?<=", RE_LOOK, RE_BEHIND}, {"?<!", RE_LOOK, RE_BEHIND | RE_NEGATED},
                 {"?>", RE_ATOMIC, 0},        {"?:", RE_EMPTY, 0}};
    size_t kind = 0, none = sizeof kinds / sizeof *kinds;
    bool fold = p->fold, dot_all = p->dot_all;
    int rc = 0;

    if (depth > RE_DEPTH)
        return re_fail(p, -ENOTSUP, "groups are nested too deep");
    while (kind < none && !re_takes(p, kinds[kind].text))
        kind++;
    if (kind == none && (re_takes(p, "?<") || re_takes(p, "?'")))
        rc = skip_name(p, p->at[-1] == '<' ? '>' : '\'');
    else if (kind == none && re_takes(p, "?"))
        return parse_options(p, depth, out);
    if (rc == 0)
        rc = parse_alternatives(p, depth, out);
    p->fold = fold;
    p->dot_all = dot_all;
    if (rc < 0)
        return rc;
    if (!re_takes(p, ")"))
        return re_fail(p, -EINVAL, "a parenthesis is not closed");
    if (kind == none || kinds[kind].kind == RE_EMPTY)
        return 0;
    *repeats = kinds[kind].kind != RE_LOOK;
    return add_parent(p, kinds[kind].kind, *out, kinds[kind].value, out);
}

static int parse_atom(struct re_parser *p, unsigned depth, uint32_t *out, bool *repeats)
{
    uint32_t code;
    int rc;

    *repeats = true;
    if (re_takes(p, "("))
        return parse_group(p, depth + 1, out, repeats);
    if (re_takes(p, "[")) {
        memset(p->bits, 0, sizeof *p->bits);
        rc = re_parse_class(p, p->bits, depth + 1);
        return rc < 0 ? rc : add_set(p, p->bits, out);
    }
    if (re_takes(p, "\\"))
        return parse_escape(p, out, repeats);
    if (re_takes(p, "."))
        return add_any(p, p->dot_all, out);
    if (*p->at == '^' || *p->at == '$') {
        *repeats = false;
        return add_leaf(p, RE_ASSERT, *p->at++ == '^' ? RE_LINE_BEGIN : RE_LINE_END, out);
    }
    if (*p->at == '*' || *p->at == '+' || *p->at == '?')
        return re_fail(p, -EINVAL, "nothing stands before a repeat");
    rc = re_next(p, &code);
    return rc < 0 ? rc : add_char(p, code, out);
}

static bool read_count(struct re_parser *p, uint32_t *count)
{
    const char *start = p->at;

    for (*count = 0; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
        *count = *count > RE_COUNT ? *count : *count * 10 + (uint32_t)(*p->at - '0');
    return p->at > start;
}

/* {n}, {n,}, {n,m} or {,m}; 0 where the brace stands for itself. */
static int parse_braces(struct re_parser *p, struct re_node *repeat)
{
    const char *start = p->at++;
    bool least = read_count(p, &repeat->min), comma = re_takes(p, ","), most = false;

    if (comma)
        most = read_count(p, &repeat->max);
    else
        repeat->max = repeat->min;
    if (comma && !most)
        repeat->max = RE_NONE;
    if (!re_takes(p, "}") || (!least && !most)) {
        p->at = start;
        return 0;
    }
    if (repeat->min > RE_COUNT || (repeat->max != RE_NONE && repeat->max > RE_COUNT))
        return re_fail(p, -EINVAL, "a repeat of more than 100000");
    if (repeat->min > repeat->max)
        return re_fail(p, -ENOTSUP, "a repeat whose most is less than its least is not supported");
    if (!comma && re_looks(p, "?"))
        return re_fail(p, -ENOTSUP, "a question mark behind a fixed repeat is not supported");
    return 1;
}

/* The repeat at p: 1 and what it says, or 0. */
static int parse_repeat(struct re_parser *p, struct re_node *repeat)
{
    char c = p->at < p->end ? *p->at : 0;
    int rc = 1;

    *repeat = (struct re_node){RE_REPEAT, RE_NONE, RE_NONE, c == '+', c == '?' ? 1 : RE_NONE, RE_GREEDY};
    if (c == '{')
        rc = parse_braces(p, repeat);
    else if (c == '*' || c == '+' || c == '?')
        p->at++;
    else
        return 0;
    if (rc == 1 && re_takes(p, "?"))
        repeat->value = RE_LAZY;
    else if (rc == 1 && c != '{' && re_takes(p, "+"))
        repeat->value = RE_POSSESSIVE;
    return rc;
}

static int parse_branch(struct re_parser *p, unsigned depth, uint32_t *out)
{
    uint32_t first = RE_NONE, last = RE_NONE, atom;
    struct re_node repeat;
    bool repeats;
    int rc = 0;

    p->before = 0;
    while (rc == 0 && p->at < p->end && *p->at != '|' && *p->at != ')') {
        if (re_takes(p, "(?#")) {
            while (p->at < p->end && *p->at != ')')
                p->at += *p->at == '\\' && p->end - p->at > 1 ? 2 : 1;
            if (!re_takes(p, ")"))
                return re_fail(p, -EINVAL, "a comment is not closed");
            continue;
        }
        rc = parse_atom(p, depth, &atom, &repeats);
        while (rc == 0 && (rc = parse_repeat(p, &repeat)) == 1) {
            if (!repeats)
                return re_fail(p, -EINVAL, "an anchor can't be repeated");
            repeat.child = atom;
            rc = add_node(p, repeat, &atom);
        }
        if (rc < 0)
            return rc;
        if (last == RE_NONE)
            first = atom;
        else
            p->tree->nodes[last].next = atom;
        last = atom;
    }
    if (rc < 0 || (first != RE_NONE && first == last)) {
        *out = first;
        return rc;
    }
    return first == RE_NONE ? add_leaf(p, RE_EMPTY, 0, out) : add_parent(p, RE_CAT, first, 0, out);
}

static int parse_alternatives(struct re_parser *p, unsigned depth, uint32_t *out)
{
    uint32_t first, last, branch;
    int rc = depth > RE_DEPTH ? re_fail(p, -ENOTSUP, "groups are nested too deep")
                              : parse_branch(p, depth + 1, &first);

    if (rc < 0)
        return rc;
    *out = last = first;
    if (!re_looks(p, "|"))
        return 0;
    while (rc == 0 && re_takes(p, "|")) {
        rc = parse_branch(p, depth + 1, &branch);
        if (rc < 0)
            return rc;
        p->tree->nodes[last].next = branch;
        last = branch;
    }
    return add_parent(p, RE_ALT, first, 0, out);
}

int re_parse(struct tok_regex *re, const char *pattern, size_t bytes, bool literal, struct re_tree *tree,
             struct tok_regex_error *error)
{
    struct re_parser p = {.re = re, .tree = tree, .pattern = pattern, .at = pattern, .end = pattern + bytes};
    uint32_t code, last = RE_NONE, atom;
    int rc = 0;

    p.error = error;
    p.bits = malloc(sizeof *p.bits);
    if (!p.bits)
        return -ENOMEM;
    if (!literal) {
        rc = parse_alternatives(&p, 0, &tree->root);
        if (rc == 0 && p.at < p.end)
            rc = re_fail(&p, -EINVAL, "a parenthesis is closed that was not opened");
        free(p.bits);
        return rc;
    }
    rc = add_leaf(&p, RE_CAT, 0, &tree->root);
    while (rc == 0 && p.at < p.end) {
        rc = re_next(&p, &code);
        if (rc == 0)
            rc = add_leaf(&p, RE_CHAR, code, &atom);
        if (rc == 0)
            *(last == RE_NONE ? &tree->nodes[tree->root].child : &tree->nodes[last].next) = atom;
        last = atom;
    }
    free(p.bits);
    return rc;
}
