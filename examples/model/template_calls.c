/* Of chat templates: who is called by which name, arguments, tests, and the functions that any template sees. See
 * template_impl.h. */
#include "examples/model/template_impl.h"

#include <stdio.h>
#include <time.h>

/* ---- arguments ------------------------------------------------------------------- */

const struct value *arg_at(const struct args *a, size_t index, const char *name)
{
    if (index < a->count)
        return &a->values[index];
    for (size_t i = 0; i < a->named; i++)
        if (str_is(a->names[i], name))
            return &a->values[a->count + i];
    return NULL;
}

bool arg_needed(struct run *r, const struct args *a, size_t index, const char *name)
{
    return arg_at(a, index, name) || template_fail(r->s, -EINVAL, "argument '%s' is missing", name);
}

bool arg_str(struct run *r, const struct args *a, size_t index, const char *name, struct str *out)
{
    const struct value *v = arg_at(a, index, name);

    if (!v)
        return true;
    *out = v->s;
    return v->kind == VALUE_STRING ||
           template_fail(r->s, -EINVAL, "%s is %s, not a string", name, value_kind(*v));
}

bool arg_int(struct run *r, const struct args *a, size_t index, const char *name, int64_t *out)
{
    const struct value *v = arg_at(a, index, name);

    if (!v)
        return true;
    *out = v->kind == VALUE_BOOL ? v->b : v->i;
    return v->kind == VALUE_INT || v->kind == VALUE_BOOL ||
           template_fail(r->s, -EINVAL, "%s is %s, not an integer", name, value_kind(*v));
}

/* Among the words of a list: any for "*". */
static bool is_keyword(const char *words, struct str name)
{
    size_t count = name.count;

    if (*words == '*')
        return true;
    for (const char *at = words; (at = memmem(at, strlen(at), name.bytes, count)) != NULL; at++)
        if ((at == words || at[-1] == ' ') && (at[count] == ' ' || at[count] == '\0'))
            return true;
    return false;
}

bool function_call(struct run *r, const struct function *f, const struct value *self, const struct args *a,
                   struct value *out)
{
    if (a->count > f->most)
        return template_fail(r->s, -EINVAL, "'%s' with %zu arguments: it takes %zu", f->name, a->count,
                             f->most);
    for (size_t i = 0; i < a->named; i++)
        if (!is_keyword(f->keywords, a->names[i]))
            return template_fail(r->s, -ENOTSUP, "argument '%.*s' of '%s' is not supported",
                                 STR_ARG(a->names[i]), f->name);
    return f->call(r, self, a, out);
}

/* ---- what any template sees --------------------------------------------------------- */

static bool make_dict(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    (void)self;
    if (!value_dict(r->s, out))
        return false;
    if (a->count && a->values[0].kind != VALUE_DICT)
        return template_fail(r->s, -EINVAL, "a mapping made of %s", value_kind(a->values[0]));
    for (size_t i = 0; a->count && i < a->values[0].dict->keys.count; i++)
        if (!dict_set(r->s, out->dict, a->values[0].dict->keys.items[i], a->values[0].dict->values.items[i]))
            return false;
    for (size_t i = 0; i < a->named; i++)
        if (!dict_set(r->s, out->dict, value_str(a->names[i]), a->values[a->count + i]))
            return false;
    return true;
}

static bool make_namespace(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    bool good = make_dict(r, self, a, out);

    out->kind = VALUE_NAMESPACE;
    return good;
}

static bool make_range(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    int64_t from = 0, to = 0, step = 1;

    (void)self;
    if (a->count == 0)
        return template_fail(r->s, -EINVAL, "range without arguments");
    if (!arg_int(r, a, 0, "range", a->count == 1 ? &to : &from) || !arg_int(r, a, 1, "range", &to) ||
        !arg_int(r, a, 2, "range", &step) || !value_list(r->s, out))
        return false;
    if (step == 0)
        return template_fail(r->s, -EINVAL, "range with steps of 0");
    while (step > 0 ? from < to : from > to) {
        if (out->list->count == TEMPLATE_RANGE_MAX)
            return template_fail(r->s, -E2BIG, "range of more than %d numbers", TEMPLATE_RANGE_MAX);
        if (!list_add(r->s, out->list, value_int(from)))
            return false;
        if (__builtin_add_overflow(from, step, &from))
            break;
    }
    return true;
}

static bool raise_exception(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    struct str text = {"", 0};

    (void)self;
    (void)out;
    if (a->count && !value_text(r->s, a->values[0], &text))
        return false;
    return template_fail(r->s, -EINVAL, "the template refuses: %.*s",
                         (int)(text.count < 400 ? text.count : 400), text.bytes);
}

static bool strftime_now(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    time_t now = time(NULL);
    struct str format = {"", 0};
    char *text = template_take(r->s, 512), *given;
    struct tm tm;

    (void)self;
    if (!text || !arg_str(r, a, 0, "format", &format) || !(given = template_take(r->s, format.count + 1)))
        return false;
    memcpy(given, format.bytes, format.count);
    localtime_r(&now, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    *out = value_str((struct str){text, strftime(text, 512, given, &tm)});
#pragma GCC diagnostic pop
    return true;
}

static const struct function globals[] = {{"namespace", make_namespace, 1, "*"},
                                          {"dict", make_dict, 1, "*"},
                                          {"range", make_range, 3, ""},
                                          {"raise_exception", raise_exception, 1, "message"},
                                          {"strftime_now", strftime_now, 1, "format"},
                                          {0}};

/* ---- tests -------------------------------------------------------------------------- */

#define TEST(name, holds)                                                                                    \
    static bool name(struct run *r, const struct value *self, const struct args *a, struct value *out)       \
    {                                                                                                        \
        (void)r;                                                                                             \
        (void)a;                                                                                             \
        *out = value_bool(holds);                                                                            \
        return true;                                                                                         \
    }

TEST(is_defined, self->kind != VALUE_UNDEFINED)
TEST(is_undefined, self->kind == VALUE_UNDEFINED)
TEST(is_none, self->kind == VALUE_NONE)
TEST(is_string, self->kind == VALUE_STRING)
TEST(is_mapping, self->kind == VALUE_DICT)
TEST(is_iterable, self->kind == VALUE_UNDEFINED || (self->kind >= VALUE_STRING && self->kind <= VALUE_DICT))
TEST(is_number, value_is_number(*self))
TEST(is_integer, self->kind == VALUE_INT)
TEST(is_float, self->kind == VALUE_FLOAT)
TEST(is_boolean, self->kind == VALUE_BOOL)
TEST(is_true, self->kind == VALUE_BOOL && self->b)
TEST(is_false, self->kind == VALUE_BOOL && !self->b)
/* Jinja's undefined can be called, to say that it is. */
TEST(is_callable, self->kind == VALUE_UNDEFINED || self->kind == VALUE_MACRO || self->kind == VALUE_FUNCTION)

static bool is_multiple(struct run *r, const struct value *self, int64_t of, int64_t rest, struct value *out)
{
    if (self->kind != VALUE_INT && self->kind != VALUE_BOOL)
        return template_fail(r->s, -EINVAL, "%s is not an integer", value_kind(*self));
    if (of == 0)
        return template_fail(r->s, -EINVAL, "division by 0");
    /* -1: nothing is left, and the quotient may be too large */
    *out = value_bool(of == -1 ? rest == 0
                               : (self->kind == VALUE_BOOL ? self->b : self->i) % of ==
                                     (self->kind == VALUE_INT && self->i < 0 ? -rest : rest));
    return true;
}

static bool is_odd(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    (void)a;
    return is_multiple(r, self, 2, 1, out);
}

static bool is_even(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    (void)a;
    return is_multiple(r, self, 2, 0, out);
}

static bool is_divisible(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    int64_t of = 0;

    return arg_int(r, a, 0, "divisibleby", &of) && is_multiple(r, self, of, 0, out);
}

static bool compare_with(struct run *r, int op, const struct value *self, const struct args *a,
                         struct value *out)
{
    bool holds;

    if (a->count == 0)
        return template_fail(r->s, -EINVAL, "a comparison with nothing");
    if (!eval_compare(r, op, *self, a->values[0], &holds))
        return false;
    *out = value_bool(holds);
    return true;
}

/* The same object: what has no parts is, where it is equal. */
static bool is_same(struct run *r, const struct value *self, const struct args *a, struct value *out)
{
    bool parts = self->kind == VALUE_LIST || self->kind == VALUE_TUPLE || self->kind == VALUE_DICT;

    if (a->count == 0)
        return template_fail(r->s, -EINVAL, "a comparison with nothing");
    *out = value_bool(self->kind == a->values[0].kind &&
                      (parts ? self->list == a->values[0].list : value_equal(r->s, *self, a->values[0])));
    return !r->s->code;
}

#define COMPARISON(name, op)                                                                                 \
    static bool name(struct run *r, const struct value *self, const struct args *a, struct value *out)       \
    {                                                                                                        \
        return compare_with(r, op, self, a, out);                                                            \
    }

COMPARISON(is_equal, TOKEN_EQUAL)
COMPARISON(is_other, TOKEN_NOT_EQUAL)
COMPARISON(is_less, '<')
COMPARISON(is_more, '>')
COMPARISON(is_most, TOKEN_LESS_EQUAL)
COMPARISON(is_least, TOKEN_GREATER_EQUAL)
COMPARISON(is_in, TOKEN_IN)

const struct function template_tests[] = {{"defined", is_defined, 0, ""},
                                          {"undefined", is_undefined, 0, ""},
                                          {"none", is_none, 0, ""},
                                          {"string", is_string, 0, ""},
                                          {"mapping", is_mapping, 0, ""},
                                          {"iterable", is_iterable, 0, ""},
                                          {"sequence", is_iterable, 0, ""},
                                          {"number", is_number, 0, ""},
                                          {"integer", is_integer, 0, ""},
                                          {"float", is_float, 0, ""},
                                          {"boolean", is_boolean, 0, ""},
                                          {"true", is_true, 0, ""},
                                          {"false", is_false, 0, ""},
                                          {"callable", is_callable, 0, ""},
                                          {"odd", is_odd, 0, ""},
                                          {"even", is_even, 0, ""},
                                          {"divisibleby", is_divisible, 1, ""},
                                          {"eq", is_equal, 1, ""},
                                          {"equalto", is_equal, 1, ""},
                                          {"==", is_equal, 1, ""},
                                          {"ne", is_other, 1, ""},
                                          {"!=", is_other, 1, ""},
                                          {"lt", is_less, 1, ""},
                                          {"lessthan", is_less, 1, ""},
                                          {"<", is_less, 1, ""},
                                          {"gt", is_more, 1, ""},
                                          {"greaterthan", is_more, 1, ""},
                                          {">", is_more, 1, ""},
                                          {"le", is_most, 1, ""},
                                          {"<=", is_most, 1, ""},
                                          {"ge", is_least, 1, ""},
                                          {">=", is_least, 1, ""},
                                          {"in", is_in, 1, ""},
                                          {"sameas", is_same, 1, ""},
                                          {0}};

/* ---- by name -------------------------------------------------------------------------- */

static const struct function *find(const struct function *f, struct str name)
{
    for (; f->name; f++)
        if (str_is(name, f->name))
            return f;
    return NULL;
}

const struct function *function_filter(struct str name)
{
    const struct function *f = find(template_filters, name);

    return f ? f : find(template_filters_lists, name);
}

const struct function *function_test(struct str name)
{
    return find(template_tests, name);
}

const struct function *function_global(struct str name)
{
    return find(globals, name);
}

const struct function *function_method(struct value v, struct str name, bool *known)
{
    static const char strings[] =
        "capitalize casefold center count encode endswith expandtabs find format format_map index isalnum "
        "isalpha "
        "isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join "
        "ljust "
        "lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition "
        "rsplit "
        "rstrip split splitlines startswith strip swapcase title translate upper zfill";
    static const char dicts[] = "clear copy fromkeys get items keys pop popitem setdefault update values";
    static const char lists[] = "append clear copy count extend index insert pop remove reverse sort";
    static const struct function none[] = {{0}};
    const char *names = v.kind == VALUE_STRING ? strings
                        : v.kind == VALUE_DICT ? dicts
                        : v.kind == VALUE_LIST ? lists
                                               : "";

    *known = *names && name.count > 0 && is_keyword(names, name);
    if (!*known)
        return NULL;
    return find(v.kind == VALUE_STRING ? template_methods_str
                : v.kind == VALUE_DICT ? template_methods_dict
                                       : none,
                name);
}
