/* Of chat templates: what expressions come to. See template_impl.h. */
#include "examples/model/template_impl.h"

#include <math.h>

#define ARGS_MAX 32

/* ---- parts of values ------------------------------------------------------------ */

static bool refuse_undefined(struct run *r, struct value v)
{
    return template_fail(r->s, -EINVAL, "'%.*s' is undefined", STR_ARG(v.s));
}

static bool method_of(struct run *r, struct value of, struct str name, bool *known, struct value *out)
{
    const struct function *f = function_method(of, name, known);
    struct value *self;

    if (*known && !f)
        return template_fail(r->s, -ENOTSUP, "method '%.*s' of %s is not supported", STR_ARG(name),
                             value_kind(of));
    if (!f)
        return true;
    self = template_take(r->s, sizeof *self);
    if (!self)
        return false;
    *self = of;
    *out = (struct value){.kind = VALUE_FUNCTION, .call = {f, self}};
    return true;
}

/* As Jinja does it: what Python finds behind the dot comes first, then what lies under the key. */
bool eval_attr(struct run *r, struct value of, struct str name, struct value *out)
{
    const struct value *found = NULL;
    bool known = false;

    if (of.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of);
    if (!method_of(r, of, name, &known, out))
        return false;
    if (known)
        return true;
    if (of.kind == VALUE_DICT || of.kind == VALUE_NAMESPACE)
        found = dict_find(r->s, of.dict, value_str(name));
    *out = found ? *found : value_undefined(name);
    return !r->s->code;
}

/* Of `count` things: the place of the one that Python calls i; false: there is none. */
static bool place_of(int64_t i, size_t count, size_t *at)
{
    *at = (size_t)(i < 0 ? i + (int64_t)count : i);
    return i < (int64_t)count && i >= -(int64_t)count;
}

static struct value character_at(struct str text, int64_t i)
{
    size_t at, byte = 0;

    if (!place_of(i, str_length(text), &at))
        return value_undefined(str_of("a character"));
    while (at-- > 0)
        byte += str_width(text, byte);
    return value_str((struct str){text.bytes + byte, str_width(text, byte)});
}

bool eval_item(struct run *r, struct value of, struct value key, struct value *out)
{
    const struct value *found;
    size_t at;
    int64_t i = key.kind == VALUE_BOOL ? key.b : key.i;

    if (of.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of);
    if (of.kind == VALUE_DICT && (found = dict_find(r->s, of.dict, key)) != NULL) {
        *out = *found;
        return true;
    }
    if (key.kind == VALUE_STRING)
        return eval_attr(r, of, key.s, out);
    *out = value_undefined(str_of("an item"));
    if (key.kind != VALUE_INT && key.kind != VALUE_BOOL)
        return !r->s->code;
    if ((of.kind == VALUE_LIST || of.kind == VALUE_TUPLE) && place_of(i, of.list->count, &at))
        *out = of.list->items[at];
    else if (of.kind == VALUE_STRING && template_work(r->s, of.s.count))
        *out = character_at(of.s, i);
    return !r->s->code;
}

/* ---- slices --------------------------------------------------------------------- */

/* A part of a slice; *given: it is there, and not none. */
static bool slice_part(struct run *r, const struct node *n, int64_t *out, bool *given)
{
    struct value v = {.kind = VALUE_NONE};

    if (n && !eval(r, n, &v))
        return false;
    *given = v.kind != VALUE_NONE;
    *out = v.kind == VALUE_INT ? v.i : 0;
    return !*given || v.kind == VALUE_INT || v.kind == VALUE_BOOL ||
           template_fail(r->s, -EINVAL, "%s in a slice", value_kind(v));
}

static int64_t clamp(int64_t i, int64_t count, int64_t low, int64_t high)
{
    i = i < 0 ? (i < -count ? -1 - count : i) + count : i;
    return i < low ? low : i > high ? high : i;
}

static bool eval_slice(struct run *r, const struct node *n, struct value *out)
{
    struct value of, v;
    struct list items;
    struct buffer text = {0};
    int64_t part[3], count, from, to;
    bool given[3];

    if (!eval(r, n->kids[0], &of))
        return false;
    for (int i = 0; i < 3; i++)
        if (!slice_part(r, n->kids[i + 1], &part[i], &given[i]))
            return false;
    if (of.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of);
    if (of.kind != VALUE_LIST && of.kind != VALUE_TUPLE && of.kind != VALUE_STRING)
        return template_fail(r->s, -EINVAL, "a slice of %s", value_kind(of));
    if (given[2] && part[2] == 0)
        return template_fail(r->s, -EINVAL, "a slice with steps of 0");
    part[2] = given[2] ? part[2] : 1;
    if (!value_items(r->s, of, &items) || !value_list(r->s, out))
        return false;
    count = (int64_t)items.count;
    part[2] = part[2] > count + 1 ? count + 1 : part[2] < -count - 1 ? -count - 1 : part[2];
    if (part[2] > 0) {
        from = given[0] ? clamp(part[0], count, 0, count) : 0;
        to = given[1] ? clamp(part[1], count, 0, count) : count;
    } else {
        from = given[0] ? clamp(part[0], count, -1, count - 1) : count - 1;
        to = given[1] ? clamp(part[1], count, -1, count - 1) : -1;
    }
    for (; part[2] > 0 ? from < to : from > to; from += part[2]) {
        v = items.items[from];
        if (of.kind == VALUE_STRING ? !buffer_add(r->s, &text, v.s.bytes, v.s.count)
                                    : !list_add(r->s, out->list, v))
            return false;
    }
    out->kind = of.kind;
    if (of.kind == VALUE_STRING)
        *out = value_str(buffer_str(&text));
    return true;
}

/* ---- calls ---------------------------------------------------------------------- */

struct call {
    struct value values[ARGS_MAX];
    struct str names[ARGS_MAX];
    struct args args;
};

/* Arguments: kids[1] and on. */
static bool eval_args(struct run *r, const struct node *n, struct call *c)
{
    size_t count = n->count - 1;

    if (count > ARGS_MAX)
        return template_fail(r->s, -ENOTSUP, "a call with %zu arguments: %d are supported", count, ARGS_MAX);
    c->args = (struct args){.values = c->values, .names = c->names};
    for (size_t i = 0; i < count; i++) {
        const struct node *kid = n->kids[i + 1];

        if (kid->kind == NODE_KEYWORD)
            c->names[c->args.named++] = kid->name;
        else
            c->args.count++;
        if (!eval(r, kid->kind == NODE_KEYWORD ? kid->kids[0] : kid, &c->values[i]))
            return false;
    }
    return true;
}

static bool eval_call(struct run *r, const struct node *n, struct value *out)
{
    struct value callee;
    struct call c;

    if (!eval(r, n->kids[0], &callee) || !eval_args(r, n, &c))
        return false;
    r->s->line = n->line;
    if (callee.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, callee);
    if (callee.kind == VALUE_MACRO)
        return run_macro(r, callee.macro.node, callee.macro.scope, &c.args, out);
    if (callee.kind == VALUE_FUNCTION)
        return function_call(r, callee.call.function, callee.call.self, &c.args, out);
    return template_fail(r->s, -EINVAL, "%s is nothing to call", value_kind(callee));
}

static bool eval_function(struct run *r, const struct node *n, struct value *out)
{
    struct value of;
    struct call c;

    if (!eval(r, n->kids[0], &of) || !eval_args(r, n, &c))
        return false;
    r->s->line = n->line;
    return function_call(r, n->function, &of, &c.args, out);
}

/* ---- operators ------------------------------------------------------------------ */

static bool whole_numbers(struct run *r, int op, int64_t a, int64_t b, struct value *out)
{
    int64_t result = 0;
    bool over = false;

    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &result);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case '%':
    case TOKEN_DIVIDE_DOWN: /* towards minus infinity, as Python does */
        if (b == 0)
            return template_fail(r->s, -EINVAL, "division by 0");
        over = b == -1 && a == INT64_MIN;
        if (!over) {
            bool down = a % b != 0 && (a % b < 0) != (b < 0);

            result = op == '%' ? a % b + (down ? b : 0) : a / b - down;
        }
        break;
    default:
        over = b < 0 || b > 64; /* a power */
        result = 1;
        for (int64_t i = 0; i < b && !over; i++)
            over = __builtin_mul_overflow(result, a, &result);
    }
    *out = value_int(result);
    return !over || template_fail(r->s, -ENOTSUP, "an integer beyond 64 bits is not supported");
}

static bool numbers(struct run *r, int op, struct value a, struct value b, struct value *out)
{
    double x = value_number(a), y = value_number(b);

    if (op != '/' && a.kind != VALUE_FLOAT && b.kind != VALUE_FLOAT)
        return whole_numbers(r, op, a.kind == VALUE_BOOL ? a.b : a.i, b.kind == VALUE_BOOL ? b.b : b.i, out);
    if ((op == '/' || op == '%' || op == TOKEN_DIVIDE_DOWN) && y == 0)
        return template_fail(r->s, -EINVAL, "division by 0");
    *out = (struct value){.kind = VALUE_FLOAT};
    out->f = op == '+'                 ? x + y
             : op == '-'               ? x - y
             : op == '*'               ? x * y
             : op == '/'               ? x / y
             : op == '%'               ? x - y * floor(x / y)
             : op == TOKEN_DIVIDE_DOWN ? floor(x / y)
                                       : pow(x, y);
    return true;
}

static bool join(struct run *r, struct value a, struct value b, struct value *out)
{
    struct buffer text = {0};

    if (a.kind == VALUE_STRING) {
        if (!buffer_add(r->s, &text, a.s.bytes, a.s.count) || !buffer_add(r->s, &text, b.s.bytes, b.s.count))
            return false;
        *out = value_str(buffer_str(&text));
        return true;
    }
    if (!value_list(r->s, out))
        return false;
    out->kind = a.kind;
    for (size_t i = 0; i < a.list->count + b.list->count; i++)
        if (!list_add(r->s, out->list,
                      i < a.list->count ? a.list->items[i] : b.list->items[i - a.list->count]))
            return false;
    return true;
}

static bool repeat(struct run *r, struct str text, int64_t times, struct value *out)
{
    struct buffer b = {0};

    for (int64_t i = 0; i < times && text.count; i++)
        if (!buffer_add(r->s, &b, text.bytes, text.count))
            return false;
    *out = value_str(buffer_str(&b));
    return true;
}

static bool eval_binary(struct run *r, const struct node *n, struct value *out)
{
    struct value a, b;
    struct str texts[2];

    if (!eval(r, n->kids[0], &a) || !eval(r, n->kids[1], &b))
        return false;
    r->s->line = n->line;
    if (n->op == '~') {
        if (!value_text(r->s, a, &texts[0]) || !value_text(r->s, b, &texts[1]))
            return false;
        return join(r, value_str(texts[0]), value_str(texts[1]), out);
    }
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
    if (value_is_number(a) && value_is_number(b))
        return numbers(r, n->op, a, b, out);
    if (n->op == '+' && a.kind == b.kind &&
        (a.kind == VALUE_STRING || a.kind == VALUE_LIST || a.kind == VALUE_TUPLE))
        return join(r, a, b, out);
    if (n->op == '*' && a.kind == VALUE_STRING && b.kind == VALUE_INT)
        return repeat(r, a.s, b.i, out);
    if (n->op == '*' && b.kind == VALUE_STRING && a.kind == VALUE_INT)
        return repeat(r, b.s, a.i, out);
    if (n->op == '%' && a.kind == VALUE_STRING)
        return template_fail(r->s, -ENOTSUP, "'%%' as a format is not supported");
    return template_fail(r->s, -EINVAL, "%s and %s under one operator", value_kind(a), value_kind(b));
}

bool eval_compare(struct run *r, int op, struct value a, struct value b, bool *out)
{
    int order;

    if (op == TOKEN_IN || op == TOKEN_NOT_IN) {
        if (!value_in(r->s, a, b, out))
            return false;
        *out ^= op == TOKEN_NOT_IN;
        return true;
    }
    if (op == TOKEN_EQUAL || op == TOKEN_NOT_EQUAL) {
        *out = value_equal(r->s, a, b) ^ (op == TOKEN_NOT_EQUAL);
        return !r->s->code;
    }
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        return refuse_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
    if (!value_order(r->s, a, b, &order))
        return false;
    *out = op == '<' ? order < 0 : op == '>' ? order > 0 : op == TOKEN_LESS_EQUAL ? order <= 0 : order >= 0;
    return true;
}

/* a < b < c: until one does not hold. */
static bool eval_chain(struct run *r, const struct node *n, struct value *out)
{
    struct value a, b;
    bool holds = true;

    if (!eval(r, n->kids[0]->kids[0], &a))
        return false;
    for (size_t i = 0; i < n->count && holds; i++) {
        if (!eval(r, n->kids[i]->kids[1], &b) || !eval_compare(r, n->kids[i]->op, a, b, &holds))
            return false;
        a = b;
    }
    *out = value_bool(holds);
    return true;
}

static bool eval_sign(struct run *r, const struct node *n, struct value *out)
{
    if (!eval(r, n->kids[0], out))
        return false;
    if (!value_is_number(*out))
        return template_fail(r->s, -EINVAL, "the sign of %s", value_kind(*out));
    return numbers(r, n->kind == NODE_NEGATE ? '-' : '+', value_int(0), *out, out);
}

/* The value of the side that decides, as in Python. */
static bool eval_logic(struct run *r, const struct node *n, struct value *out)
{
    if (!eval(r, n->kids[0], out))
        return false;
    return value_true(*out) == (n->kind == NODE_OR) || eval(r, n->kids[1], out);
}

static bool eval_items(struct run *r, const struct node *n, struct value *out)
{
    struct value v;

    if (!value_list(r->s, out))
        return false;
    for (size_t i = 0; i < n->count; i++)
        if (!eval(r, n->kids[i], &v) || !list_add(r->s, out->list, v))
            return false;
    out->kind = n->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE;
    return true;
}

static bool check_key(struct run *r, struct value key)
{
    return (key.kind != VALUE_LIST && key.kind != VALUE_DICT) ||
           template_fail(r->s, -EINVAL, "%s as the key of a mapping", value_kind(key));
}

static bool eval_dict(struct run *r, const struct node *n, struct value *out)
{
    struct value key, v;

    if (!value_dict(r->s, out))
        return false;
    for (size_t i = 0; i < n->count; i += 2)
        if (!eval(r, n->kids[i], &key) || !eval(r, n->kids[i + 1], &v) || !check_key(r, key) ||
            !dict_set(r->s, out->dict, key, v))
            return false;
    return true;
}

static bool eval_name(struct run *r, const struct node *n, struct value *out)
{
    const struct function *f;

    for (const struct scope *scope = r->scope; scope; scope = scope->above) {
        const struct value *found = dict_find(r->s, &scope->names, value_str(n->name));

        if (found) {
            *out = *found;
            return true;
        }
    }
    f = function_global(n->name);
    *out = f ? (struct value){.kind = VALUE_FUNCTION, .call = {f, NULL}} : value_undefined(n->name);
    return !r->s->code;
}

static bool eval_choice(struct run *r, const struct node *n, struct value *out)
{
    struct value when;

    if (!eval(r, n->kids[0], &when))
        return false;
    if (value_true(when))
        return eval(r, n->kids[1], out);
    *out = value_undefined(str_of("an if without else"));
    return !n->kids[2] || eval(r, n->kids[2], out);
}

static bool eval_kind(struct run *r, const struct node *n, struct value *out)
{
    struct value a, b;
    bool holds;

    switch (n->kind) {
    case NODE_CONST:
        *out = n->value;
        return true;
    case NODE_NAME:
        return eval_name(r, n, out);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_items(r, n, out);
    case NODE_DICT:
        return eval_dict(r, n, out);
    case NODE_ATTR:
        return eval(r, n->kids[0], &a) && eval_attr(r, a, n->name, out);
    case NODE_ITEM:
        return eval(r, n->kids[0], &a) && eval(r, n->kids[1], &b) && eval_item(r, a, b, out);
    case NODE_SLICE:
        return eval_slice(r, n, out);
    case NODE_CALL:
        return eval_call(r, n, out);
    case NODE_FILTER:
    case NODE_TEST:
        return eval_function(r, n, out);
    case NODE_NOT:
        if (!eval(r, n->kids[0], &a))
            return false;
        *out = value_bool(!value_true(a));
        return true;
    case NODE_NEGATE:
    case NODE_PLUS:
        return eval_sign(r, n, out);
    case NODE_AND:
    case NODE_OR:
        return eval_logic(r, n, out);
    case NODE_COMPARE:
        if (!eval(r, n->kids[0], &a) || !eval(r, n->kids[1], &b) || !eval_compare(r, n->op, a, b, &holds))
            return false;
        *out = value_bool(holds);
        return true;
    case NODE_CHAIN:
        return eval_chain(r, n, out);
    case NODE_BINARY:
        return eval_binary(r, n, out);
    case NODE_IF_ELSE:
        return eval_choice(r, n, out);
    default:
        return template_fail(r->s, -EINVAL, "a statement where a value is expected");
    }
}

bool eval(struct run *r, const struct node *n, struct value *out)
{
    bool good;

    if (!template_work(r->s, 1) || !template_enter(r->s))
        return false;
    r->s->line = n->line;
    good = eval_kind(r, n, out);
    template_leave(r->s);
    return good;
}
