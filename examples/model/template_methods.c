/* Of chat templates: methods of strings and mappings, as Python has them. See template_impl.h. */
#include "examples/model/template_impl.h"

#define METHOD(name)                                                                                         \
    static bool name(struct run *r, const struct value *self, const struct args *a, struct value *out)

/* ---- strip ------------------------------------------------------------------------- */

static bool strip_sides(struct run *r, const struct value *self, const struct args *a, bool left, bool right,
                        struct value *out)
{
    const struct value *given = arg_at(a, 0, "chars");
    struct str chars = {"", 0};
    bool set = given && given->kind != VALUE_NONE;

    if (set && !arg_str(r, a, 0, "chars", &chars))
        return false;
    *out = value_str(str_strip(self->s, set ? &chars : NULL, left, right));
    return template_work(r->s, self->s.count / 16);
}

METHOD(strip)
{
    return strip_sides(r, self, a, true, true, out);
}

METHOD(lstrip)
{
    return strip_sides(r, self, a, true, false, out);
}

METHOD(rstrip)
{
    return strip_sides(r, self, a, false, true, out);
}

/* ---- split ------------------------------------------------------------------------- */

static bool add_part(struct run *r, struct value *list, struct str text, size_t from, size_t to)
{
    return list_add(r->s, list->list, value_str((struct str){text.bytes + from, to - from}));
}

static bool split_spaces(struct run *r, struct str text, int64_t most, struct value *out)
{
    text = str_strip(text, NULL, true, false);
    while (text.count) {
        size_t end = 0;

        if (most-- == 0) {
            text = str_strip(text, NULL, false, true);
            return add_part(r, out, text, 0, text.count);
        }
        while (end < text.count && !str_space(text, end))
            end += str_width(text, end);
        if (!add_part(r, out, text, 0, end))
            return false;
        text = str_strip((struct str){text.bytes + end, text.count - end}, NULL, true, false);
    }
    return true;
}

/* sep: none, or given; NULL where it is not. */
static bool take_sep(struct run *r, const struct args *a, struct str *sep, bool *given)
{
    const struct value *v = arg_at(a, 0, "sep");

    *given = v && v->kind != VALUE_NONE;
    if (!*given)
        return true;
    if (!arg_str(r, a, 0, "sep", sep))
        return false;
    return sep->count > 0 || template_fail(r->s, -EINVAL, "split at an empty string");
}

METHOD(split)
{
    struct str sep = {"", 0}, text = self->s;
    int64_t most = -1;
    size_t at = 0, end;
    bool given;

    if (!take_sep(r, a, &sep, &given) || !arg_int(r, a, 1, "maxsplit", &most) || !value_list(r->s, out) ||
        !template_work(r->s, text.count))
        return false;
    if (!given)
        return split_spaces(r, text, most, out);
    while (most-- != 0 && (end = str_find(text, sep, at)) != SIZE_MAX) {
        if (!add_part(r, out, text, at, end))
            return false;
        at = end + sep.count;
    }
    return add_part(r, out, text, at, text.count);
}

static size_t find_last(struct str text, struct str what)
{
    for (size_t at = text.count + 1; at-- > 0;)
        if (what.count <= text.count - at && memcmp(text.bytes + at, what.bytes, what.count) == 0)
            return at;
    return SIZE_MAX;
}

METHOD(rsplit)
{
    struct str sep = {"", 0}, text = self->s;
    int64_t most = -1;
    size_t end;
    bool given;

    if (!take_sep(r, a, &sep, &given) || !arg_int(r, a, 1, "maxsplit", &most) || !value_list(r->s, out) ||
        !template_work(r->s, text.count))
        return false;
    if (!given)
        return most < 0 ? split_spaces(r, text, -1, out)
                        : template_fail(r->s, -ENOTSUP, "rsplit at white space is not supported");
    while (most-- != 0 && (end = find_last(text, sep)) != SIZE_MAX) {
        if (!add_part(r, out, text, end + sep.count, text.count))
            return false;
        text.count = end;
    }
    if (!add_part(r, out, text, 0, text.count))
        return false;
    for (size_t i = 0, count = out->list->count; i < count / 2; i++) {
        struct value swap = out->list->items[i];

        out->list->items[i] = out->list->items[count - 1 - i];
        out->list->items[count - 1 - i] = swap;
    }
    return true;
}

METHOD(splitlines)
{
    struct str text = self->s;
    size_t at = 0;

    (void)a;
    if (!value_list(r->s, out))
        return false;
    for (size_t i = 0; i < text.count; i++) {
        if (text.bytes[i] != '\n' && text.bytes[i] != '\r')
            continue;
        if (!add_part(r, out, text, at, i))
            return false;
        i += text.bytes[i] == '\r' && i + 1 < text.count && text.bytes[i + 1] == '\n';
        at = i + 1;
    }
    return at == text.count || add_part(r, out, text, at, text.count);
}

/* ---- looking ------------------------------------------------------------------------- */

static bool has_end(struct str text, struct str what, bool begin)
{
    return what.count <= text.count &&
           memcmp(text.bytes + (begin ? 0 : text.count - what.count), what.bytes, what.count) == 0;
}

static bool ends(struct run *r, const struct value *self, const struct args *a, bool begin, struct value *out)
{
    struct str what = {"", 0};
    bool found = false;

    if (a->count && a->values[0].kind == VALUE_TUPLE) {
        for (size_t i = 0; i < a->values[0].list->count && !found; i++)
            found = a->values[0].list->items[i].kind == VALUE_STRING &&
                    has_end(self->s, a->values[0].list->items[i].s, begin);
    } else if (!arg_needed(r, a, 0, "prefix") || !arg_str(r, a, 0, "prefix", &what)) {
        return false;
    } else {
        found = has_end(self->s, what, begin);
    }
    *out = value_bool(found);
    return true;
}

METHOD(startswith)
{
    return ends(r, self, a, true, out);
}

METHOD(endswith)
{
    return ends(r, self, a, false, out);
}

METHOD(removeprefix)
{
    struct str what = {"", 0};

    *out = *self;
    if (!arg_needed(r, a, 0, "prefix") || !arg_str(r, a, 0, "prefix", &what))
        return false;
    if (has_end(self->s, what, true))
        *out = value_str((struct str){self->s.bytes + what.count, self->s.count - what.count});
    return true;
}

METHOD(removesuffix)
{
    struct str what = {"", 0};

    *out = *self;
    if (!arg_needed(r, a, 0, "suffix") || !arg_str(r, a, 0, "suffix", &what))
        return false;
    if (has_end(self->s, what, false))
        out->s.count -= what.count;
    return true;
}

static bool place(struct run *r, const struct value *self, const struct args *a, bool last, struct value *out)
{
    struct str what = {"", 0};
    size_t at;

    if (!arg_needed(r, a, 0, "sub") || !arg_str(r, a, 0, "sub", &what) || !template_work(r->s, self->s.count))
        return false;
    at = last ? find_last(self->s, what) : str_find(self->s, what, 0);
    *out = value_int(at == SIZE_MAX ? -1 : (int64_t)str_length((struct str){self->s.bytes, at}));
    return true;
}

METHOD(find)
{
    return place(r, self, a, false, out);
}

METHOD(rfind)
{
    return place(r, self, a, true, out);
}

METHOD(count)
{
    struct str what = {"", 0};
    int64_t found = 0;

    if (!arg_needed(r, a, 0, "sub") || !arg_str(r, a, 0, "sub", &what) || !template_work(r->s, self->s.count))
        return false;
    if (what.count == 0)
        found = (int64_t)str_length(self->s) + 1;
    for (size_t at = 0; what.count && (at = str_find(self->s, what, at)) != SIZE_MAX; at += what.count)
        found++;
    *out = value_int(found);
    return true;
}

METHOD(is_digits)
{
    bool all = self->s.count > 0;

    (void)a;
    for (size_t i = 0; i < self->s.count && all; i++) {
        if ((unsigned char)self->s.bytes[i] > 127)
            return template_fail(r->s, -ENOTSUP, "isdigit of text beyond ASCII is not supported");
        all = self->s.bytes[i] >= '0' && self->s.bytes[i] <= '9';
    }
    *out = value_bool(all);
    return true;
}

METHOD(is_spaces)
{
    struct str rest = str_strip(self->s, NULL, true, false);

    (void)a;
    *out = value_bool(self->s.count > 0 && rest.count == 0);
    return template_work(r->s, self->s.count / 16);
}

/* ---- making ------------------------------------------------------------------------- */

/* Through the filter of that name, which does the same. */
static bool by_filter(struct run *r, const char *name, const struct value *self, const struct args *a,
                      struct value *out)
{
    return function_call(r, function_filter(str_of(name)), self, a, out);
}

METHOD(upper)
{
    return by_filter(r, "upper", self, a, out);
}

METHOD(lower)
{
    return by_filter(r, "lower", self, a, out);
}

METHOD(capitalize)
{
    return by_filter(r, "capitalize", self, a, out);
}

/* Python's, where any letter that does not follow one is the first of a word; the filter of that name has other words. */
METHOD(title)
{
    char *copy = template_take(r->s, self->s.count + 1);
    bool first = true;

    (void)a;
    for (size_t i = 0; copy && i < self->s.count; i++) {
        char c = self->s.bytes[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

        if ((unsigned char)c > 127)
            return template_fail(r->s, -ENOTSUP, "title of text beyond ASCII is not supported");
        copy[i] = letter ? (char)(first ? c & ~32 : c | 32) : c;
        first = !letter;
    }
    *out = value_str((struct str){copy, self->s.count});
    return copy && template_work(r->s, self->s.count);
}

METHOD(replace)
{
    return by_filter(r, "replace", self, a, out);
}

METHOD(join)
{
    struct value one = value_str(self->s), list;
    struct args swapped = {.values = &one, .count = 1};

    if (a->count != 1)
        return template_fail(r->s, -EINVAL, "join takes what is to be joined");
    list = a->values[0];
    for (size_t i = 0; list.kind == VALUE_LIST && i < list.list->count; i++)
        if (list.list->items[i].kind != VALUE_STRING)
            return template_fail(r->s, -EINVAL, "join of %s, not a string", value_kind(list.list->items[i]));
    return by_filter(r, "join", &list, &swapped, out);
}

const struct function template_methods_str[] = {{"strip", strip, 1, ""},
                                                {"lstrip", lstrip, 1, ""},
                                                {"rstrip", rstrip, 1, ""},
                                                {"split", split, 2, "sep maxsplit"},
                                                {"rsplit", rsplit, 2, "sep maxsplit"},
                                                {"splitlines", splitlines, 0, ""},
                                                {"startswith", startswith, 1, ""},
                                                {"endswith", endswith, 1, ""},
                                                {"removeprefix", removeprefix, 1, ""},
                                                {"removesuffix", removesuffix, 1, ""},
                                                {"find", find, 1, ""},
                                                {"rfind", rfind, 1, ""},
                                                {"count", count, 1, ""},
                                                {"isdigit", is_digits, 0, ""},
                                                {"isspace", is_spaces, 0, ""},
                                                {"upper", upper, 0, ""},
                                                {"lower", lower, 0, ""},
                                                {"capitalize", capitalize, 0, ""},
                                                {"title", title, 0, ""},
                                                {"replace", replace, 3, ""},
                                                {"join", join, 1, ""},
                                                {0}};

/* ---- mappings ------------------------------------------------------------------------- */

METHOD(get)
{
    const struct value *found, *fallback = arg_at(a, 1, "default");

    if (a->count == 0)
        return template_fail(r->s, -EINVAL, "get without a key");
    found = dict_find(r->s, self->dict, a->values[0]);
    *out = found ? *found : fallback ? *fallback : (struct value){.kind = VALUE_NONE};
    return !r->s->code;
}

METHOD(items)
{
    return by_filter(r, "items", self, a, out);
}

static bool all_of(struct run *r, const struct list *items, struct value *out)
{
    if (!value_list(r->s, out))
        return false;
    *out->list = *items;
    out->list->room = items->count; /* whoever adds takes memory of its own */
    return true;
}

METHOD(keys)
{
    (void)a;
    return all_of(r, &self->dict->keys, out);
}

METHOD(values)
{
    (void)a;
    return all_of(r, &self->dict->values, out);
}

const struct function template_methods_dict[] = {
    {"get", get, 2, ""}, {"items", items, 0, ""}, {"keys", keys, 0, ""}, {"values", values, 0, ""}, {0}};
