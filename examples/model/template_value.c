/* Of chat templates: values, as Python compares and orders them. See template_impl.h. */
#include "examples/model/template_impl.h"

/* ---- making ------------------------------------------------------------------ */

struct value value_bool(bool b)
{
    return (struct value){.kind = VALUE_BOOL, .b = b};
}

struct value value_int(int64_t i)
{
    return (struct value){.kind = VALUE_INT, .i = i};
}

struct value value_str(struct str s)
{
    return (struct value){.kind = VALUE_STRING, .s = s};
}

struct value value_undefined(struct str name)
{
    return (struct value){.kind = VALUE_UNDEFINED, .s = name};
}

bool value_list(struct template_state *s, struct value *out)
{
    *out = (struct value){.kind = VALUE_LIST, .list = template_take(s, sizeof(struct list))};
    return out->list != NULL;
}

bool value_dict(struct template_state *s, struct value *out)
{
    *out = (struct value){.kind = VALUE_DICT, .dict = template_take(s, sizeof(struct dict))};
    return out->dict != NULL;
}

bool list_add(struct template_state *s, struct list *l, struct value v)
{
    if (!template_work(s, 1))
        return false;
    if (l->count == l->room) {
        size_t room = 2 * l->room + 4;
        struct value *more = template_take(s, room * sizeof *more);

        if (!more)
            return false;
        if (l->count)
            memcpy(more, l->items, l->count * sizeof *more);
        l->items = more;
        l->room = room;
    }
    l->items[l->count++] = v;
    return true;
}

struct value *dict_find(struct template_state *s, const struct dict *d, struct value key)
{
    for (size_t i = 0; i < d->keys.count; i++)
        if (value_equal(s, d->keys.items[i], key))
            return &d->values.items[i];
    return NULL;
}

bool dict_set(struct template_state *s, struct dict *d, struct value key, struct value v)
{
    struct value *old = dict_find(s, d, key);

    if (s->code)
        return false;
    if (old) {
        *old = v;
        return true;
    }
    return list_add(s, &d->keys, key) && list_add(s, &d->values, v);
}

static bool items_from_json(struct template_state *s, const json_t *j, struct value *out)
{
    const char *key;
    json_t *item;
    struct value v;
    size_t i;

    if (json_is_array(j)) {
        if (!value_list(s, out))
            return false;
        json_array_foreach(j, i, item)
        {
            if (!value_from_json(s, item, &v) || !list_add(s, out->list, v))
                return false;
        }
        return true;
    }
    if (!value_dict(s, out))
        return false;
    json_object_foreach((json_t *)j, key, item) /* jansson: no names that are there already */
    {
        if (!value_from_json(s, item, &v) || !list_add(s, &out->dict->keys, value_str(str_of(key))) ||
            !list_add(s, &out->dict->values, v))
            return false;
    }
    return true;
}

bool value_from_json(struct template_state *s, const json_t *j, struct value *out)
{
    bool made = true;

    switch (json_typeof(j)) {
    case JSON_STRING:
        *out = value_str((struct str){json_string_value(j), json_string_length(j)});
        break;
    case JSON_INTEGER:
        *out = value_int(json_integer_value(j));
        break;
    case JSON_REAL:
        *out = (struct value){.kind = VALUE_FLOAT, .f = json_real_value(j)};
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = value_bool(json_is_true(j));
        break;
    case JSON_NULL:
        *out = (struct value){.kind = VALUE_NONE};
        break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        if (!template_enter(s))
            return false;
        made = items_from_json(s, j, out);
        template_leave(s);
        break;
    }
    return made;
}

/* ---- looking ------------------------------------------------------------------ */

const char *value_kind(struct value v)
{
    static const char *const kinds[] = {
        [VALUE_UNDEFINED] = "undefined",   [VALUE_NONE] = "none",      [VALUE_BOOL] = "true or false",
        [VALUE_INT] = "an integer",        [VALUE_FLOAT] = "a number", [VALUE_STRING] = "a string",
        [VALUE_LIST] = "a list",           [VALUE_TUPLE] = "a tuple",  [VALUE_DICT] = "a mapping",
        [VALUE_NAMESPACE] = "a namespace", [VALUE_MACRO] = "a macro",  [VALUE_FUNCTION] = "a function",
    };

    return kinds[v.kind];
}

bool value_is_number(struct value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT || v.kind == VALUE_FLOAT;
}

double value_number(struct value v)
{
    return v.kind == VALUE_BOOL ? v.b : v.kind == VALUE_INT ? (double)v.i : v.f;
}

/* Of those that are whole. */
static int64_t whole(struct value v)
{
    return v.kind == VALUE_BOOL ? v.b : v.i;
}

bool value_true(struct value v)
{
    switch (v.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v.b;
    case VALUE_INT:
        return v.i != 0;
    case VALUE_FLOAT:
        return v.f != 0;
    case VALUE_STRING:
        return v.s.count > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v.list->count > 0;
    case VALUE_DICT:
        return v.dict->keys.count > 0;
    case VALUE_NAMESPACE:
    case VALUE_MACRO:
    case VALUE_FUNCTION:
        return true;
    }
    return true;
}

static bool lists_equal(struct template_state *s, const struct list *a, const struct list *b)
{
    bool equal = a->count == b->count && template_enter(s);

    if (!equal)
        return false;
    for (size_t i = 0; i < a->count && equal; i++)
        equal = value_equal(s, a->items[i], b->items[i]);
    template_leave(s);
    return equal;
}

/* Whatever the order of their keys. */
static bool dicts_equal(struct template_state *s, const struct dict *a, const struct dict *b)
{
    bool equal = a->keys.count == b->keys.count && template_enter(s);

    if (!equal)
        return false;
    for (size_t i = 0; i < a->keys.count && equal; i++) {
        const struct value *other = dict_find(s, b, a->keys.items[i]);

        equal = other && value_equal(s, a->values.items[i], *other);
    }
    template_leave(s);
    return equal;
}

bool value_equal(struct template_state *s, struct value a, struct value b)
{
    if (!template_work(s, 1))
        return false;
    if (value_is_number(a) && value_is_number(b))
        return a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT ? value_number(a) == value_number(b)
                                                              : whole(a) == whole(b);
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case VALUE_STRING:
        return a.s.count == b.s.count && template_work(s, a.s.count / 16) && str_equal(a.s, b.s);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return lists_equal(s, a.list, b.list);
    case VALUE_DICT:
        return dicts_equal(s, a.dict, b.dict);
    case VALUE_NAMESPACE:
        return a.dict == b.dict;
    case VALUE_MACRO:
        return a.macro.node == b.macro.node;
    case VALUE_FUNCTION:
        return a.call.function == b.call.function && a.call.self == b.call.self;
    default:
        return true; /* undefined, none */
    }
}

static bool lists_order(struct template_state *s, const struct list *a, const struct list *b, int *order)
{
    bool good = template_enter(s);

    *order = 0;
    for (size_t i = 0; i < a->count && i < b->count && good && *order == 0; i++)
        if (!value_equal(s, a->items[i], b->items[i]))
            good = !s->code && value_order(s, a->items[i], b->items[i], order);
    if (good && *order == 0)
        *order = (a->count > b->count) - (a->count < b->count);
    if (!s->code)
        template_leave(s);
    return good;
}

bool value_order(struct template_state *s, struct value a, struct value b, int *order)
{
    if (!template_work(s, 1))
        return false;
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_number(a), y = value_number(b);

        *order = (x > y) - (x < y);
        if (a.kind != VALUE_FLOAT && b.kind != VALUE_FLOAT)
            *order = (whole(a) > whole(b)) - (whole(a) < whole(b));
        return true;
    }
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        *order = str_compare(a.s, b.s);
        return template_work(s, a.s.count / 16);
    }
    if (a.kind == b.kind && (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE))
        return lists_order(s, a.list, b.list, order);
    return template_fail(s, -EINVAL, "%s and %s have no order", value_kind(a), value_kind(b));
}

static bool characters(struct template_state *s, struct str text, struct list *out)
{
    for (size_t i = 0; i < text.count;) {
        size_t width = str_width(text, i);

        if (!list_add(s, out, value_str((struct str){text.bytes + i, width})))
            return false;
        i += width;
    }
    return true;
}

bool value_items(struct template_state *s, struct value v, struct list *out)
{
    *out = (struct list){0};
    switch (v.kind) {
    case VALUE_UNDEFINED:
        return true;
    case VALUE_LIST:
    case VALUE_TUPLE:
        *out = *v.list;
        return true;
    case VALUE_DICT:
        *out = v.dict->keys;
        return true;
    case VALUE_STRING:
        return characters(s, v.s, out);
    default:
        return template_fail(s, -EINVAL, "%s is nothing to go through", value_kind(v));
    }
}

bool value_in(struct template_state *s, struct value item, struct value in, bool *found)
{
    struct list items;

    *found = false;
    if (in.kind == VALUE_STRING) {
        if (item.kind != VALUE_STRING)
            return template_fail(s, -EINVAL, "'in' looks for %s in a string", value_kind(item));
        *found = str_find(in.s, item.s, 0) != SIZE_MAX;
        return template_work(s, in.s.count);
    }
    if (!value_items(s, in, &items))
        return false;
    for (size_t i = 0; i < items.count && !*found; i++)
        *found = value_equal(s, items.items[i], item);
    return !s->code;
}
