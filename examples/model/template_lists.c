/* Of chat templates: filters of what has items. What gives a generator in Jinja gives a list here. See
 * template_impl.h. */
#include "examples/model/template_impl.h"

#define FILTER(name)                                                                                         \
    static bool name(struct run *r, const struct value *self, const struct args *a, struct value *out)

FILTER(length)
{
    struct list items;

    (void)a;
    if (self->kind == VALUE_STRING) {
        *out = value_int((int64_t)str_length(self->s));
        return template_work(r->s, self->s.count / 16);
    }
    if (!value_items(r->s, *self, &items))
        return false;
    *out = value_int((int64_t)items.count);
    return true;
}

static bool copy_items(struct run *r, const struct value *self, struct value *out)
{
    struct list items;

    if (!value_items(r->s, *self, &items) || !value_list(r->s, out))
        return false;
    for (size_t i = 0; i < items.count; i++)
        if (!list_add(r->s, out->list, items.items[i]))
            return false;
    return true;
}

FILTER(to_list)
{
    (void)a;
    return copy_items(r, self, out);
}

static bool take_end(struct run *r, const struct value *self, bool last, struct value *out)
{
    struct list items;

    if (!value_items(r->s, *self, &items))
        return false;
    *out =
        items.count ? items.items[last ? items.count - 1 : 0] : value_undefined(str_of("an item of nothing"));
    return true;
}

FILTER(first)
{
    (void)a;
    return take_end(r, self, false, out);
}

FILTER(last)
{
    (void)a;
    return take_end(r, self, true, out);
}

FILTER(reverse)
{
    struct buffer text = {0};
    struct value forth;

    (void)a;
    if (!copy_items(r, self, &forth) || !value_list(r->s, out))
        return false;
    for (size_t i = forth.list->count; i-- > 0;) {
        struct value v = forth.list->items[i];

        if (self->kind == VALUE_STRING ? !buffer_add(r->s, &text, v.s.bytes, v.s.count)
                                       : !list_add(r->s, out->list, v))
            return false;
    }
    if (self->kind == VALUE_STRING)
        *out = value_str(buffer_str(&text));
    return true;
}

/* ---- attributes ---------------------------------------------------------------------- */

/* "a.b.0" of v. */
static bool path_of(struct run *r, struct value v, struct value path, struct value *out)
{
    struct str rest = path.s;
    struct value key;

    *out = v;
    if (path.kind == VALUE_INT)
        return eval_item(r, v, path, out);
    if (path.kind != VALUE_STRING)
        return template_fail(r->s, -EINVAL, "an attribute that is %s", value_kind(path));
    for (bool more = true; more;) {
        size_t end = str_find(rest, str_of("."), 0);
        struct str name = {rest.bytes, end == SIZE_MAX ? rest.count : end};
        int64_t number = 0;
        bool digits = name.count > 0 && name.count < 10;

        for (size_t i = 0; i < name.count; i++) {
            digits &= name.bytes[i] >= '0' && name.bytes[i] <= '9';
            number = digits ? number * 10 + (name.bytes[i] - '0') : 0;
        }
        key = digits ? value_int(number) : value_str(name);
        if (!eval_item(r, *out, key, out))
            return false;
        more = end != SIZE_MAX;
        if (more)
            rest = (struct str){rest.bytes + end + 1, rest.count - end - 1};
    }
    return true;
}

FILTER(join)
{
    const struct value *attribute = arg_at(a, 1, "attribute");
    struct list items;
    struct buffer b = {0};
    struct str between = {"", 0}, text;
    struct value v;

    if (!value_items(r->s, *self, &items) || !arg_str(r, a, 0, "d", &between))
        return false;
    for (size_t i = 0; i < items.count; i++) {
        v = items.items[i];
        if ((attribute && !path_of(r, v, *attribute, &v)) || !value_text(r->s, v, &text) ||
            (i && !buffer_add(r->s, &b, between.bytes, between.count)) ||
            !buffer_add(r->s, &b, text.bytes, text.count))
            return false;
    }
    *out = value_str(buffer_str(&b));
    return true;
}

/* The function that an argument names, and the arguments behind it. */
static bool named(struct run *r, const struct args *a, size_t index, const struct function *find(struct str),
                  const char *what, const struct function **f, struct args *rest)
{
    const struct value *name = arg_at(a, index, what);

    *rest =
        (struct args){.values = a->values + index + 1, .count = a->count > index ? a->count - index - 1 : 0};
    *f = NULL;
    if (!name)
        return true;
    *f = name->kind == VALUE_STRING ? find(name->s) : NULL;
    return *f || template_fail(r->s, -ENOTSUP, "%s '%.*s' is not supported", what,
                               name->kind == VALUE_STRING ? (int)name->s.count : 0,
                               name->kind == VALUE_STRING ? name->s.bytes : "");
}

FILTER(map)
{
    const struct value *attribute = a->count ? NULL : arg_at(a, SIZE_MAX, "attribute"),
                       *fallback = arg_at(a, SIZE_MAX, "default");
    const struct function *f;
    struct args rest;
    struct list items;
    struct value v;

    if (!named(r, a, 0, function_filter, "filter", &f, &rest) || !value_items(r->s, *self, &items) ||
        !value_list(r->s, out))
        return false;
    if (!f && !attribute)
        return template_fail(r->s, -EINVAL, "map without a filter or an attribute");
    for (size_t i = 0; i < items.count; i++) {
        if (f ? !function_call(r, f, &items.items[i], &rest, &v)
              : !path_of(r, items.items[i], *attribute, &v))
            return false;
        if (v.kind == VALUE_UNDEFINED && fallback)
            v = *fallback;
        if (!list_add(r->s, out->list, v))
            return false;
    }
    return true;
}

/* Items for which a test holds, or does not. from: of the arguments, the test's name; before it the attribute. */
static bool choose(struct run *r, const struct value *self, const struct args *a, size_t from, bool keep,
                   struct value *out)
{
    const struct function *f;
    struct args rest;
    struct list items;
    struct value v, holds;

    if (!named(r, a, from, function_test, "test", &f, &rest) || !value_items(r->s, *self, &items) ||
        !value_list(r->s, out))
        return false;
    if (from && a->count == 0)
        return template_fail(r->s, -EINVAL, "selectattr and rejectattr take an attribute");
    for (size_t i = 0; i < items.count; i++) {
        v = items.items[i];
        if (from && !path_of(r, v, a->values[0], &v))
            return false;
        holds = value_bool(value_true(v));
        if ((f && !function_call(r, f, &v, &rest, &holds)) ||
            (value_true(holds) == keep && !list_add(r->s, out->list, items.items[i])))
            return false;
    }
    return true;
}

FILTER(select_items)
{
    return choose(r, self, a, 0, true, out);
}

FILTER(reject)
{
    return choose(r, self, a, 0, false, out);
}

FILTER(selectattr)
{
    return choose(r, self, a, 1, true, out);
}

FILTER(rejectattr)
{
    return choose(r, self, a, 1, false, out);
}

/* ---- order --------------------------------------------------------------------------- */

/* What an item is ordered by: text without cases, unless they count. */
static bool order_key(struct run *r, struct value v, bool cases, struct value *out)
{
    struct args none = {0};

    *out = v;
    return v.kind != VALUE_STRING || cases ||
           function_call(r, function_filter(str_of("lower")), &v, &none, out);
}

/* By insertion: equal ones stay as they are. keys and items are two lists of as many. */
static bool order_items(struct run *r, struct list *keys, struct list *items, bool back)
{
    for (size_t i = 1; i < items->count; i++) {
        struct value key = keys->items[i], item = items->items[i];
        size_t at = i;
        int order;

        for (; at > 0; at--) {
            if (!value_order(r->s, keys->items[at - 1], key, &order))
                return false;
            if (back ? order >= 0 : order <= 0)
                break;
            keys->items[at] = keys->items[at - 1];
            items->items[at] = items->items[at - 1];
        }
        keys->items[at] = key;
        items->items[at] = item;
    }
    return true;
}

static bool flag(const struct args *a, size_t index, const char *name)
{
    const struct value *v = arg_at(a, index, name);

    return v && value_true(*v);
}

FILTER(sort)
{
    const struct value *attribute = arg_at(a, 2, "attribute");
    struct value keys, key;

    if (!copy_items(r, self, out) || !value_list(r->s, &keys))
        return false;
    for (size_t i = 0; i < out->list->count; i++) {
        key = out->list->items[i];
        if ((attribute && !path_of(r, key, *attribute, &key)) ||
            !order_key(r, key, flag(a, 1, "case_sensitive"), &key) || !list_add(r->s, keys.list, key))
            return false;
    }
    return order_items(r, keys.list, out->list, flag(a, 0, "reverse"));
}

static bool pairs(struct run *r, const struct value *self, struct value *out)
{
    struct value pair;

    if (!value_list(r->s, out) || self->kind == VALUE_UNDEFINED)
        return !r->s->code;
    if (self->kind != VALUE_DICT)
        return template_fail(r->s, -EINVAL, "the items of %s", value_kind(*self));
    for (size_t i = 0; i < self->dict->keys.count; i++) {
        if (!value_list(r->s, &pair) || !list_add(r->s, pair.list, self->dict->keys.items[i]) ||
            !list_add(r->s, pair.list, self->dict->values.items[i]))
            return false;
        pair.kind = VALUE_TUPLE;
        if (!list_add(r->s, out->list, pair))
            return false;
    }
    return true;
}

FILTER(items)
{
    (void)a;
    return pairs(r, self, out);
}

FILTER(dictsort)
{
    const struct value *by = arg_at(a, 1, "by");
    bool values = by && by->kind == VALUE_STRING && str_is(by->s, "value");
    struct value keys, key;

    if (self->kind == VALUE_UNDEFINED)
        return template_fail(r->s, -EINVAL, "'%.*s' is undefined", STR_ARG(self->s));
    if (!pairs(r, self, out) || !value_list(r->s, &keys))
        return false;
    for (size_t i = 0; i < out->list->count; i++)
        if (!order_key(r, out->list->items[i].list->items[values], flag(a, 0, "case_sensitive"), &key) ||
            !list_add(r->s, keys.list, key))
            return false;
    return order_items(r, keys.list, out->list, flag(a, 2, "reverse"));
}

static bool extreme(struct run *r, const struct value *self, const struct args *a, bool most,
                    struct value *out)
{
    struct list items;
    struct value best, key;
    int order;

    if (!value_items(r->s, *self, &items))
        return false;
    *out = value_undefined(str_of("an item of nothing"));
    for (size_t i = 0; i < items.count; i++) {
        if (!order_key(r, items.items[i], flag(a, 0, "case_sensitive"), &key))
            return false;
        if (i && !value_order(r->s, key, best, &order))
            return false;
        if (i && (most ? order <= 0 : order >= 0))
            continue;
        best = key;
        *out = items.items[i];
    }
    return true;
}

FILTER(least)
{
    return extreme(r, self, a, false, out);
}

FILTER(most)
{
    return extreme(r, self, a, true, out);
}

const struct function template_filters_lists[] = {{"length", length, 0, ""},
                                                  {"count", length, 0, ""},
                                                  {"list", to_list, 0, ""},
                                                  {"first", first, 0, ""},
                                                  {"last", last, 0, ""},
                                                  {"reverse", reverse, 0, ""},
                                                  {"join", join, 2, "d attribute"},
                                                  {"map", map, 8, "attribute default"},
                                                  {"select", select_items, 8, ""},
                                                  {"reject", reject, 8, ""},
                                                  {"selectattr", selectattr, 8, ""},
                                                  {"rejectattr", rejectattr, 8, ""},
                                                  {"sort", sort, 3, "reverse case_sensitive attribute"},
                                                  {"items", items, 0, ""},
                                                  {"dictsort", dictsort, 3, "case_sensitive by reverse"},
                                                  {"min", least, 1, "case_sensitive"},
                                                  {"max", most, 1, "case_sensitive"},
                                                  {0}};
