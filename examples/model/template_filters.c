/* Of chat templates: filters of text and numbers. See template_impl.h. */
#include "examples/model/template_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FILTER(name)                                                                                         \
    static bool name(struct run *r, const struct value *self, const struct args *a, struct value *out)

/* ---- letters ----------------------------------------------------------------------- */

/* Code points, from .. to, that no letter with cases is among. */
static const uint32_t caseless[][2] = {
    {0x0080, 0x00A9}, {0x00AB, 0x00B4},  {0x00B6, 0x00B9},   {0x00BB, 0x00BF},
    {0x0590, 0x109F}, {0x1400, 0x1C7F},  {0x2000, 0x20FF},   {0x2200, 0x24B5},
    {0x24EA, 0x2BFF}, {0x2E00, 0xA63F},  {0xA800, 0xAB2F},   {0xABC0, 0xFAFF},
    {0xFB18, 0xFF20}, {0xFF5B, 0x103FF}, {0x1F000, 0x1F12F}, {0x1F18A, 0x10FFFF}};

static bool has_case(struct str text, size_t at)
{
    size_t width = str_width(text, at);
    uint32_t code = (unsigned char)text.bytes[at] & (0xFFu >> (width + 1));

    for (size_t i = 1; i < width; i++)
        code = code << 6 | ((unsigned char)text.bytes[at + i] & 0x3Fu);
    for (size_t i = 0; i < sizeof caseless / sizeof caseless[0]; i++)
        if (code >= caseless[i][0] && code <= caseless[i][1])
            return false;
    return true;
}

enum letters { LOWER, UPPER, CAPITAL, TITLE };

/* Letters of ASCII; where others that have cases stand it gives up. */
static bool letters(struct run *r, const struct value *self, enum letters how, struct value *out)
{
    struct str text;
    bool first = true; /* of a word, or of the text */
    char *copy;

    if (!value_text(r->s, *self, &text) || !template_work(r->s, text.count) ||
        !(copy = template_take(r->s, text.count + 1)))
        return false;
    for (size_t i = 0; i < text.count; i++) {
        char c = text.bytes[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

        if ((unsigned char)c >= 0xC0 && has_case(text, i))
            return template_fail(r->s, -ENOTSUP,
                                 "upper and lower case of letters beyond ASCII are not supported");
        if (letter)
            c = (char)(how == UPPER || (first && how >= CAPITAL) ? c & ~32 : c | 32);
        copy[i] = c;
        /* as Python's capitalize does it, the first character counts; Jinja's title begins words behind these */
        if (how == CAPITAL)
            first = false;
        else
            first = str_space(text, i) || strchr("-({[<", c);
    }
    *out = value_str((struct str){copy, text.count});
    return true;
}

FILTER(lower)
{
    (void)a;
    return letters(r, self, LOWER, out);
}

FILTER(upper)
{
    (void)a;
    return letters(r, self, UPPER, out);
}

FILTER(capitalize)
{
    (void)a;
    return letters(r, self, CAPITAL, out);
}

FILTER(title)
{
    (void)a;
    return letters(r, self, TITLE, out);
}

/* ---- text -------------------------------------------------------------------------- */

FILTER(string)
{
    struct str text;

    (void)a;
    if (!value_text(r->s, *self, &text))
        return false;
    *out = value_str(text);
    return true;
}

FILTER(safe)
{
    return string(r, self, a, out);
}

FILTER(trim)
{
    const struct value *given = arg_at(a, 0, "chars");
    struct str text, chars = {"", 0};
    bool set = given && given->kind != VALUE_NONE;

    if (!value_text(r->s, *self, &text) || (set && !arg_str(r, a, 0, "chars", &chars)))
        return false;
    *out = value_str(str_strip(text, set ? &chars : NULL, true, true));
    return template_work(r->s, text.count / 16);
}

/* Between characters too, where `old` is empty. */
FILTER(replace)
{
    struct str text, old = {"", 0}, new = {"", 0};
    int64_t most = -1;
    struct buffer b = {0};
    size_t at = 0, end, width;

    if (!arg_needed(r, a, 0, "old") || !arg_needed(r, a, 1, "new") || !value_text(r->s, *self, &text) ||
        !arg_str(r, a, 0, "old", &old) || !arg_str(r, a, 1, "new", &new))
        return false;
    if (arg_at(a, 2, "count") && arg_at(a, 2, "count")->kind != VALUE_NONE &&
        !arg_int(r, a, 2, "count", &most))
        return false;
    if (!template_work(r->s, text.count / 16))
        return false;
    while (most-- != 0 && (end = str_find(text, old, at)) != SIZE_MAX) {
        if (!buffer_add(r->s, &b, text.bytes + at, end - at) || !buffer_add(r->s, &b, new.bytes, new.count))
            return false;
        at = end + old.count;
        if (old.count)
            continue;
        if (at == text.count)
            break;
        width = str_width(text, at);
        if (!buffer_add(r->s, &b, text.bytes + at, width))
            return false;
        at += width;
    }
    if (!buffer_add(r->s, &b, text.bytes + at, text.count - at))
        return false;
    *out = value_str(buffer_str(&b));
    return true;
}

FILTER(indent)
{
    const struct value *width = arg_at(a, 0, "width"), *first = arg_at(a, 1, "first"),
                       *blank = arg_at(a, 2, "blank");
    struct str text, by = {"", 0};
    struct buffer b = {0};
    struct value spaces;
    bool begins = first && value_true(*first), blanks = blank && value_true(*blank);
    int64_t n = 4;

    if (!value_text(r->s, *self, &text))
        return false;
    if (width && width->kind == VALUE_STRING) {
        by = width->s;
    } else {
        if (!arg_int(r, a, 0, "width", &n) || !value_list(r->s, &spaces))
            return false;
        n = n < 0 ? 0 : n > 1000 ? 1000 : n;
        by.bytes = memset(template_take(r->s, 1001), ' ', (size_t)n);
        by.count = (size_t)n;
    }
    for (size_t i = 0; i < text.count; i++) {
        bool line = i == 0 ? begins : text.bytes[i - 1] == '\n';

        if (line && (blanks || text.bytes[i] != '\n' || i == 0) && !buffer_add(r->s, &b, by.bytes, by.count))
            return false;
        if (!buffer_add(r->s, &b, text.bytes + i, 1))
            return false;
    }
    *out = value_str(buffer_str(&b));
    return true;
}

/* ---- numbers ------------------------------------------------------------------------ */

/* The whole of a string as a number; false: it is none. */
static bool parse(struct str text, bool whole, struct value *out)
{
    struct str bare = str_strip(text, NULL, true, true);
    char copy[64], *end;

    if (bare.count == 0 || bare.count >= sizeof copy)
        return false;
    memcpy(copy, bare.bytes, bare.count);
    copy[bare.count] = '\0';
    if (strspn(copy, "0123456789+-.eE") != bare.count)
        return false;
    errno = 0;
    if (whole)
        *out = value_int(strtoll(copy, &end, 10));
    else
        *out = (struct value){.kind = VALUE_FLOAT, .f = strtod(copy, &end)};
    return *end == '\0' && errno == 0;
}

FILTER(to_int)
{
    const struct value *fallback = arg_at(a, 0, "default");
    struct value v;

    (void)r;
    *out = fallback ? *fallback : value_int(0);
    if (self->kind == VALUE_STRING) {
        if (parse(self->s, true, &v) || parse(self->s, false, &v))
            *out = v;
    } else if (value_is_number(*self)) {
        *out = *self;
    }
    if (out->kind == VALUE_BOOL)
        *out = value_int(out->b);
    if (out->kind == VALUE_FLOAT && fabs(out->f) < 9e18)
        *out = value_int((int64_t)out->f);
    return true;
}

FILTER(to_float)
{
    const struct value *fallback = arg_at(a, 0, "default");
    struct value v;

    (void)r;
    *out = fallback ? *fallback : (struct value){.kind = VALUE_FLOAT};
    if (self->kind == VALUE_STRING ? parse(self->s, false, &v) : value_is_number(*self))
        *out = self->kind == VALUE_STRING ? v : (struct value){.kind = VALUE_FLOAT, .f = value_number(*self)};
    return true;
}

FILTER(absolute)
{
    (void)a;
    *out = *self;
    if (!value_is_number(*self) || (self->kind == VALUE_INT && self->i == INT64_MIN))
        return template_fail(r->s, -EINVAL, "abs of %s", value_kind(*self));
    if (self->kind == VALUE_FLOAT)
        out->f = fabs(self->f);
    else
        *out = value_int(self->kind == VALUE_BOOL ? self->b : self->i < 0 ? -self->i : self->i);
    return true;
}

/* ---- any value ------------------------------------------------------------------------ */

FILTER(initial)
{
    const struct value *fallback = arg_at(a, 0, "default_value"), *boolean = arg_at(a, 1, "boolean");

    (void)r;
    *out = *self;
    if (self->kind == VALUE_UNDEFINED || (boolean && value_true(*boolean) && !value_true(*self)))
        *out = fallback ? *fallback : value_str(str_of(""));
    return true;
}

static bool json_separators(struct run *r, const struct value *v, struct json_style *style)
{
    if (!v || v->kind == VALUE_NONE)
        return true;
    if ((v->kind != VALUE_TUPLE && v->kind != VALUE_LIST) || v->list->count != 2 ||
        v->list->items[0].kind != VALUE_STRING || v->list->items[1].kind != VALUE_STRING)
        return template_fail(r->s, -EINVAL, "separators is not two strings");
    style->item = v->list->items[0].s;
    style->key = v->list->items[1].s;
    return true;
}

FILTER(tojson)
{
    const struct value *ascii = arg_at(a, 0, "ensure_ascii"), *given = arg_at(a, 1, "indent"),
                       *sort = arg_at(a, 3, "sort_keys");
    struct json_style style = {.indent = -1, .item = {", ", 2}, .key = {": ", 2}};
    struct buffer b = {0};
    int64_t width = -1;

    if (given && given->kind != VALUE_NONE && !arg_int(r, a, 1, "indent", &width))
        return false;
    if (width >= 0) {
        style.indent = width > 100 ? 100 : (int)width;
        style.item = (struct str){",", 1};
    }
    style.sort = sort && value_true(*sort);
    style.ascii = ascii && value_true(*ascii);
    if (!json_separators(r, arg_at(a, 2, "separators"), &style) || !value_json(r->s, *self, &style, &b))
        return false;
    *out = value_str(buffer_str(&b));
    return true;
}

const struct function template_filters[] = {{"lower", lower, 0, ""},
                                            {"upper", upper, 0, ""},
                                            {"capitalize", capitalize, 0, ""},
                                            {"title", title, 0, ""},
                                            {"string", string, 0, ""},
                                            {"safe", safe, 0, ""},
                                            {"trim", trim, 1, "chars"},
                                            {"replace", replace, 3, "old new count"},
                                            {"indent", indent, 3, "width first blank"},
                                            {"int", to_int, 1, "default"},
                                            {"float", to_float, 1, "default"},
                                            {"abs", absolute, 0, ""},
                                            {"default", initial, 2, "default_value boolean"},
                                            {"d", initial, 2, "default_value boolean"},
                                            {"tojson", tojson, 4, "ensure_ascii indent separators sort_keys"},
                                            {0}};
