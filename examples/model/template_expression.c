/*
 * Of chat templates: expressions, with Jinja's precedence: if-else, or, and, not, comparisons, + -, ~, * / // %, **,
 * signs, and closest what stands behind a value: .x [x] (x) |filter "is test". See template_impl.h.
 */
#include "examples/model/template_impl.h"

struct node *node_make(struct parser *p, enum node_kind kind, size_t kids)
{
    struct node *n = template_take(p->s, sizeof *n);

    if (!n)
        return NULL;
    n->kind = kind;
    n->line = p->s->line;
    n->count = kids;
    n->kids = template_take(p->s, (kids + 1) * sizeof(struct node *));
    return n->kids ? n : NULL;
}

/* A node of one or two kids; NULL if one of them, but for the last, is. */
static struct node *node_of(struct parser *p, enum node_kind kind, struct node *first, struct node *second)
{
    struct node *n = first ? node_make(p, kind, 2) : NULL;

    if (n) {
        n->kids[0] = first;
        n->kids[1] = second;
    }
    return n;
}

static bool node_add(struct parser *p, struct node *n, struct node *kid)
{
    struct node **more;

    if (!kid)
        return false;
    if ((n->count & (n->count - 1)) == 0) { /* full at powers of 2 */
        more = template_take(p->s, (2 * n->count + 2) * sizeof(struct node *));
        if (!more)
            return false;
        memcpy(more, n->kids, n->count * sizeof(struct node *));
        n->kids = more;
    }
    n->kids[n->count++] = kid;
    return true;
}

bool parse_token(struct parser *p, int token, const char *what)
{
    if (p->token != token)
        return template_fail(p->s, -EINVAL, "%s is expected, and here is %s", what, lex_what(p).bytes);
    return lex_next(p);
}

static bool take_name(struct parser *p, struct str *name)
{
    *name = p->name;
    return parse_token(p, TOKEN_NAME, "a name");
}

static bool skip_word(struct parser *p, const char *word)
{
    return lex_is_name(p, word) && lex_next(p);
}

/* ---- arguments ------------------------------------------------------------------ */

static struct node *parse_argument(struct parser *p)
{
    struct parser before = *p;
    uint32_t line = p->s->line;
    struct node *value, *n;

    if (p->token == '*' || p->token == TOKEN_POWER) {
        template_fail(p->s, -ENOTSUP, "'*' in front of an argument is not supported");
        return NULL;
    }
    if (p->token != TOKEN_NAME)
        return parse_expression(p);
    if (!lex_next(p))
        return NULL;
    if (p->token != '=') { /* an expression that begins with a name */
        *p = before;
        p->s->line = line;
        return parse_expression(p);
    }
    if (!lex_next(p) || !(value = parse_expression(p)))
        return NULL;
    n = node_of(p, NODE_KEYWORD, value, NULL);
    if (n)
        n->name = before.name;
    return n;
}

/* From behind "(" to behind ")", as kids of n. */
static bool parse_arguments(struct parser *p, struct node *n)
{
    bool named = false;

    while (p->token != ')') {
        struct node *kid = parse_argument(p);

        if (!node_add(p, n, kid))
            return false;
        if (named && kid->kind != NODE_KEYWORD)
            return template_fail(p->s, -EINVAL, "an argument without a name behind one that has one");
        named = kid->kind == NODE_KEYWORD;
        if (p->token != ',' && p->token != ')')
            return parse_token(p, ')', "')'");
        if (p->token == ',' && !lex_next(p))
            return false;
    }
    return lex_next(p);
}

/* ---- values --------------------------------------------------------------------- */

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = node_make(p, NODE_CONST, 0);

    if (n)
        n->value = v;
    return n && lex_next(p) ? n : NULL;
}

/* Strings that stand side by side are one. */
static struct node *parse_literal(struct parser *p)
{
    struct node *n = constant(p, p->value);
    struct buffer b = {0};

    if (!n || n->value.kind != VALUE_STRING || p->token != TOKEN_VALUE || p->value.kind != VALUE_STRING)
        return n;
    if (!buffer_add(p->s, &b, n->value.s.bytes, n->value.s.count))
        return NULL;
    while (p->token == TOKEN_VALUE && p->value.kind == VALUE_STRING)
        if (!buffer_add(p->s, &b, p->value.s.bytes, p->value.s.count) || !lex_next(p))
            return NULL;
    n->value = value_str(buffer_str(&b));
    return n;
}

static struct node *parse_name(struct parser *p)
{
    struct node *n;

    if (lex_is_name(p, "true") || lex_is_name(p, "True") || lex_is_name(p, "false") ||
        lex_is_name(p, "False"))
        return constant(p, value_bool((p->name.bytes[0] | 32) == 't'));
    if (lex_is_name(p, "none") || lex_is_name(p, "None"))
        return constant(p, (struct value){.kind = VALUE_NONE});
    n = node_make(p, NODE_NAME, 0);
    return n && take_name(p, &n->name) ? n : NULL;
}

/* Items up to `end`. */
static struct node *parse_items(struct parser *p, enum node_kind kind, int end)
{
    struct node *n = node_make(p, kind, 0);

    if (!n || !lex_next(p))
        return NULL;
    while (p->token != end) {
        if (!node_add(p, n, parse_expression(p)))
            return NULL;
        if (kind == NODE_DICT && (!parse_token(p, ':', "':'") || !node_add(p, n, parse_expression(p))))
            return NULL;
        if (p->token != end && !parse_token(p, ',', "','"))
            return NULL;
    }
    return lex_next(p) ? n : NULL;
}

/* An expression in brackets, or a tuple. */
static struct node *parse_brackets(struct parser *p)
{
    struct node *n;

    if (!lex_next(p))
        return NULL;
    n = p->token == ')' ? node_make(p, NODE_TUPLE, 0) : parse_with_commas(p);
    return n && parse_token(p, ')', "')'") ? n : NULL;
}

static struct node *parse_primary(struct parser *p)
{
    if (p->token == TOKEN_NAME)
        return parse_name(p);
    if (p->token == TOKEN_VALUE)
        return parse_literal(p);
    if (p->token == '(')
        return parse_brackets(p);
    if (p->token == '[')
        return parse_items(p, NODE_LIST, ']');
    if (p->token == '{')
        return parse_items(p, NODE_DICT, '}');
    template_fail(p->s, -EINVAL, "a value is expected, and here is %s", lex_what(p).bytes);
    return NULL;
}

/* ---- what stands behind a value --------------------------------------------------- */

static struct node *parse_dot(struct parser *p, struct node *of)
{
    struct node *n = node_of(p, NODE_ATTR, of, NULL);

    if (!n || !lex_next(p))
        return NULL;
    if (p->token == TOKEN_VALUE && p->value.kind == VALUE_INT) { /* messages.0 */
        n->kind = NODE_ITEM;
        n->kids[1] = constant(p, p->value);
        return n->kids[1] ? n : NULL;
    }
    return take_name(p, &n->name) ? n : NULL;
}

/* [x], or [x:y:z] with any of them left out. */
static struct node *parse_index(struct parser *p, struct node *of)
{
    struct node *n = node_make(p, NODE_ITEM, 4);
    size_t part = 1;

    if (!n || !lex_next(p))
        return NULL;
    n->kids[0] = of;
    while (p->token != ']') {
        if (p->token == ':') {
            n->kind = NODE_SLICE;
            if (part++ == 3 || !lex_next(p)) {
                template_fail(p->s, -EINVAL, "a slice of more than three parts");
                return NULL;
            }
            continue;
        }
        if (n->kids[part] || !(n->kids[part] = parse_expression(p))) {
            template_fail(p->s, -EINVAL, "']' is expected, and here is %s", lex_what(p).bytes);
            return NULL;
        }
    }
    if (n->kind == NODE_ITEM && !n->kids[1]) {
        template_fail(p->s, -EINVAL, "[] without an index");
        return NULL;
    }
    return lex_next(p) ? n : NULL;
}

static struct node *parse_call(struct parser *p, struct node *of)
{
    struct node *n = node_make(p, NODE_CALL, 0);

    return n && node_add(p, n, of) && lex_next(p) && parse_arguments(p, n) ? n : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    while (n && (p->token == '.' || p->token == '[' || p->token == '('))
        n = p->token == '.' ? parse_dot(p, n) : p->token == '[' ? parse_index(p, n) : parse_call(p, n);
    return n;
}

static struct node *parse_filter(struct parser *p, struct node *of)
{
    struct node *n = node_make(p, NODE_FILTER, 0);

    if (!n || !node_add(p, n, of) || !lex_next(p) || !take_name(p, &n->name))
        return NULL;
    n->function = function_filter(n->name);
    if (!n->function) {
        p->s->line = n->line;
        template_fail(p->s, -ENOTSUP, "filter '%.*s' is not supported", STR_ARG(n->name));
        return NULL;
    }
    return p->token != '(' || (lex_next(p) && parse_arguments(p, n)) ? n : NULL;
}

/* What may be the argument of a test that has no brackets. */
static bool begins_argument(const struct parser *p)
{
    if (p->token == TOKEN_NAME)
        return !lex_is_name(p, "else") && !lex_is_name(p, "or") && !lex_is_name(p, "and") &&
               !lex_is_name(p, "if") && !lex_is_name(p, "is");
    return p->token == TOKEN_VALUE || p->token == '[' || p->token == '{';
}

static struct node *parse_test(struct parser *p, struct node *of)
{
    struct node *n = node_make(p, NODE_TEST, 0);
    bool negated;

    if (!n || !node_add(p, n, of) || !lex_next(p))
        return NULL;
    negated = skip_word(p, "not");
    if (!take_name(p, &n->name))
        return NULL;
    n->function = function_test(n->name);
    if (!n->function) {
        p->s->line = n->line;
        template_fail(p->s, -ENOTSUP, "test '%.*s' is not supported", STR_ARG(n->name));
        return NULL;
    }
    if (p->token != '(' && lex_is_name(p, "is")) {
        template_fail(p->s, -EINVAL, "one test behind another without brackets");
        return NULL;
    }
    if (p->token == '(' ? !lex_next(p) || !parse_arguments(p, n)
                        : begins_argument(p) && !node_add(p, n, parse_postfix(p, parse_primary(p))))
        return NULL;
    return negated ? node_of(p, NODE_NOT, n, NULL) : n;
}

/* ---- operators -------------------------------------------------------------------- */

static struct node *parse_unary(struct parser *p, bool filters)
{
    struct node *n;

    if (!template_enter(p->s))
        return NULL;
    if (p->token == '-' || p->token == '+') {
        enum node_kind kind = p->token == '-' ? NODE_NEGATE : NODE_PLUS;

        n = lex_next(p) ? node_of(p, kind, parse_unary(p, false), NULL) : NULL;
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    while (n && filters && (p->token == '|' || lex_is_name(p, "is") || p->token == '('))
        n = p->token == '|' ? parse_filter(p, n) : p->token == '(' ? parse_call(p, n) : parse_test(p, n);
    template_leave(p->s);
    return n;
}

/* Those of a level, weakest first. */
static bool of_level(int token, unsigned level)
{
    switch (level) {
    case 0:
        return token == '+' || token == '-';
    case 1:
        return token == '~';
    case 2:
        return token == '*' || token == '/' || token == '%' || token == TOKEN_DIVIDE_DOWN;
    default:
        return token == TOKEN_POWER;
    }
}

static struct node *parse_binary(struct parser *p, unsigned level)
{
    struct node *n = level == 3 ? parse_unary(p, true) : parse_binary(p, level + 1);

    while (n && of_level(p->token, level)) {
        int op = p->token;

        if (!lex_next(p))
            return NULL;
        n = node_of(p, NODE_BINARY, n, level == 3 ? parse_unary(p, true) : parse_binary(p, level + 1));
        if (!n || !n->kids[1])
            return NULL;
        n->op = op;
    }
    return n;
}

/* The comparison that begins here, and moves behind it; 0: none does. */
static bool take_comparison(struct parser *p, int *op)
{
    struct parser before = *p;
    uint32_t line = p->s->line;

    *op = 0;
    if (p->token == TOKEN_EQUAL || p->token == TOKEN_NOT_EQUAL || p->token == TOKEN_LESS_EQUAL ||
        p->token == TOKEN_GREATER_EQUAL || p->token == '<' || p->token == '>')
        *op = p->token;
    else if (lex_is_name(p, "in"))
        *op = TOKEN_IN;
    else if (!lex_is_name(p, "not"))
        return true;
    if (!lex_next(p))
        return false;
    if (*op)
        return true;
    if (lex_is_name(p, "in")) {
        *op = TOKEN_NOT_IN;
        return lex_next(p);
    }
    *p = before;
    p->s->line = line;
    return true;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *n = parse_binary(p, 0), *chain = NULL, *one;
    int op;

    while (n && take_comparison(p, &op)) {
        if (op == 0)
            return chain && chain->count > 1 ? chain : n;
        one = node_of(p, NODE_COMPARE, chain ? n->kids[1] : n, parse_binary(p, 0));
        if (!one || !one->kids[1])
            return NULL;
        one->op = op;
        chain = chain ? chain : node_make(p, NODE_CHAIN, 0);
        if (!chain || !node_add(p, chain, one))
            return NULL;
        n = one;
    }
    return NULL;
}

static struct node *parse_not(struct parser *p)
{
    struct node *n;

    if (!lex_is_name(p, "not"))
        return parse_compare(p);
    if (!template_enter(p->s) || !lex_next(p))
        return NULL;
    n = node_of(p, NODE_NOT, parse_not(p), NULL);
    template_leave(p->s);
    return n;
}

static struct node *parse_logic(struct parser *p, bool either)
{
    struct node *n = either ? parse_logic(p, false) : parse_not(p);

    while (n && skip_word(p, either ? "or" : "and")) {
        n = node_of(p, either ? NODE_OR : NODE_AND, n, either ? parse_logic(p, false) : parse_not(p));
        if (!n || !n->kids[1])
            return NULL;
    }
    return p->s->code ? NULL : n;
}

struct node *parse_expression(struct parser *p)
{
    struct node *n, *choice;

    if (!template_enter(p->s))
        return NULL;
    n = parse_logic(p, true);
    while (n && skip_word(p, "if")) {
        choice = node_make(p, NODE_IF_ELSE, 3);
        if (!choice)
            return NULL;
        choice->kids[0] = parse_logic(p, true);
        choice->kids[1] = n;
        if (choice->kids[0] && skip_word(p, "else"))
            choice->kids[2] = parse_expression(p);
        n = p->s->code ? NULL : choice;
    }
    template_leave(p->s);
    return n;
}

static struct node *parse_tuple(struct parser *p, struct node *one_of(struct parser *))
{
    struct node *n = one_of(p), *tuple;

    if (!n || p->token != ',')
        return n;
    tuple = node_make(p, NODE_TUPLE, 0);
    if (!tuple || !node_add(p, tuple, n))
        return NULL;
    while (p->token == ',') {
        if (!lex_next(p))
            return NULL;
        if (p->token == ')' || p->token == TOKEN_END || p->token == '=')
            break;
        if (!node_add(p, tuple, one_of(p)))
            return NULL;
    }
    return tuple;
}

struct node *parse_with_commas(struct parser *p)
{
    return parse_tuple(p, parse_expression);
}

static struct node *parse_either(struct parser *p)
{
    return parse_logic(p, true);
}

struct node *parse_without_if(struct parser *p)
{
    return parse_tuple(p, parse_either);
}
