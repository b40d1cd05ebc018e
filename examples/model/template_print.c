/* Of chat templates: values as text, in the words of Python's str(), repr() and json.dumps(). See template_impl.h. */
#include "examples/model/template_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- numbers ------------------------------------------------------------------ */

/* The fewest digits that read back as the same number, with an exponent where Python writes one. */
static void number_text(double f, char out[40], const char *nan, const char *infinity)
{
    char digits[32];
    int exponent, precision = 1;

    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s%s", f < 0 ? "-" : "", isnan(f) ? nan : infinity);
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision - 1, f);
    while (strtod(digits, NULL) != f && ++precision <= 17);
    exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, 40, "%.*e", precision - 1, f);
        return;
    }
    snprintf(out, 40, "%.*f", precision - 1 > exponent ? precision - 1 - exponent : 1, f);
}

static bool add_number(struct template_state *s, struct value v, struct buffer *out, bool json)
{
    char text[40];

    if (v.kind == VALUE_INT)
        snprintf(text, sizeof text, "%lld", (long long)v.i);
    else
        number_text(v.f, text, json ? "NaN" : "nan", json ? "Infinity" : "inf");
    return buffer_text(s, out, text);
}

/* ---- repr ---------------------------------------------------------------------- */

static bool add_repr(struct template_state *s, struct value v, struct buffer *out);

static bool add_quoted(struct template_state *s, struct str text, struct buffer *out)
{
    bool single = memchr(text.bytes, '\'', text.count) != NULL,
         twice = memchr(text.bytes, '"', text.count) != NULL, good;
    const char *quote = single && !twice ? "\"" : "'";

    good = buffer_text(s, out, quote);
    for (size_t i = 0; i < text.count && good; i++) {
        unsigned char c = (unsigned char)text.bytes[i];
        char escape[8] = {(char)c};

        if (c == '\\' || c == (unsigned char)*quote)
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 32 || c == 127)
            snprintf(escape, sizeof escape, "\\x%02x", c);
        good = buffer_text(s, out, escape);
    }
    return good && buffer_text(s, out, quote);
}

static bool add_repr_items(struct template_state *s, struct value v, struct buffer *out)
{
    bool tuple = v.kind == VALUE_TUPLE, good = buffer_text(s, out, tuple ? "(" : "[");

    for (size_t i = 0; i < v.list->count && good; i++)
        good = (i == 0 || buffer_text(s, out, ", ")) && add_repr(s, v.list->items[i], out);
    if (good && tuple && v.list->count == 1)
        good = buffer_text(s, out, ",");
    return good && buffer_text(s, out, tuple ? ")" : "]");
}

static bool add_repr_dict(struct template_state *s, const struct dict *d, struct buffer *out)
{
    bool good = buffer_text(s, out, "{");

    for (size_t i = 0; i < d->keys.count && good; i++)
        good = (i == 0 || buffer_text(s, out, ", ")) && add_repr(s, d->keys.items[i], out) &&
               buffer_text(s, out, ": ") && add_repr(s, d->values.items[i], out);
    return good && buffer_text(s, out, "}");
}

static bool add_repr(struct template_state *s, struct value v, struct buffer *out)
{
    bool good;

    if (!template_enter(s))
        return false;
    switch (v.kind) {
    case VALUE_UNDEFINED: /* in a list; alone it is no text */
        good = buffer_text(s, out, "Undefined");
        break;
    case VALUE_NONE:
        good = buffer_text(s, out, "None");
        break;
    case VALUE_BOOL:
        good = buffer_text(s, out, v.b ? "True" : "False");
        break;
    case VALUE_INT:
    case VALUE_FLOAT:
        good = add_number(s, v, out, false);
        break;
    case VALUE_STRING:
        good = add_quoted(s, v.s, out);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        good = add_repr_items(s, v, out);
        break;
    case VALUE_DICT:
        good = add_repr_dict(s, v.dict, out);
        break;
    default:
        good = template_fail(s, -ENOTSUP, "%s as text is not supported", value_kind(v));
    }
    template_leave(s);
    return good;
}

bool value_text(struct template_state *s, struct value v, struct str *out)
{
    struct buffer b = {0};

    *out = (struct str){"", 0};
    if (v.kind == VALUE_STRING)
        *out = v.s;
    if (v.kind == VALUE_STRING || v.kind == VALUE_UNDEFINED)
        return true;
    if (!add_repr(s, v, &b))
        return false;
    *out = buffer_str(&b);
    return true;
}

/* ---- JSON ---------------------------------------------------------------------- */

struct json_out {
    struct template_state *s;
    const struct json_style *style;
    struct buffer *out;
    int level;
};

static bool json_value(struct json_out *j, struct value v);

/* A code point as \uXXXX, or as two of them. */
static bool json_escape(struct json_out *j, const unsigned char *c, size_t width)
{
    uint32_t code = c[0] & (width == 1 ? 0x7Fu : 0xFFu >> (width + 1));
    char text[16];

    for (size_t i = 1; i < width; i++)
        code = code << 6 | (c[i] & 0x3Fu);
    if (code < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", code);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                 0xDC00 + ((code - 0x10000) & 0x3FF));
    return buffer_text(j->s, j->out, text);
}

static bool json_string_out(struct json_out *j, struct str text)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    bool good = buffer_text(j->s, j->out, "\"");

    for (size_t i = 0, width; i < text.count && good; i += width) {
        const char *at = text.bytes + i, *known = *at ? strchr(plain, *at) : NULL;
        const unsigned char *c = (const unsigned char *)at;

        width = str_width(text, i);
        if (known)
            good = buffer_add(j->s, j->out, (char[]){'\\', letters[known - plain]}, 2);
        else if (*c < 32 || (j->style->ascii && *c > 126))
            good = json_escape(j, c, width);
        else
            good = buffer_add(j->s, j->out, at, width);
    }
    return good && buffer_text(j->s, j->out, "\"");
}

static bool json_line(struct json_out *j)
{
    bool good = j->style->indent < 0 || buffer_text(j->s, j->out, "\n");

    for (int i = 0; j->style->indent > 0 && i < j->level * j->style->indent && good; i++)
        good = buffer_text(j->s, j->out, " ");
    return good;
}

static bool json_key(struct json_out *j, struct value key)
{
    struct str text;

    if (key.kind == VALUE_BOOL)
        text = str_of(key.b ? "true" : "false");
    else if (key.kind == VALUE_NONE)
        text = str_of("null");
    else if (key.kind != VALUE_STRING && !value_is_number(key))
        return template_fail(j->s, -EINVAL, "tojson: %s as a key", value_kind(key));
    else if (!value_text(j->s, key, &text))
        return false;
    return json_string_out(j, text) && buffer_add(j->s, j->out, j->style->key.bytes, j->style->key.count);
}

/* Places of the keys, in the order in which they are written. */
static bool json_order(struct json_out *j, const struct dict *d, size_t *order)
{
    for (size_t i = 0; i < d->keys.count; i++) {
        size_t at = i;
        int more = 1;

        for (; j->style->sort && at > 0 && more > 0; at--) {
            if (!value_order(j->s, d->keys.items[order[at - 1]], d->keys.items[i], &more))
                return false;
            if (more <= 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return true;
}

static bool json_items(struct json_out *j, struct value v)
{
    bool dict = v.kind == VALUE_DICT, good;
    const struct list *items = dict ? &v.dict->values : v.list;
    size_t *order = template_take(j->s, (items->count + 1) * sizeof *order);

    if (!order || (dict && !json_order(j, v.dict, order)) || !buffer_text(j->s, j->out, dict ? "{" : "["))
        return false;
    j->level++;
    good = true;
    for (size_t i = 0; i < items->count && good; i++) {
        size_t at = dict ? order[i] : i;

        good =
            (i == 0 || buffer_add(j->s, j->out, j->style->item.bytes, j->style->item.count)) && json_line(j);
        if (good && dict)
            good = json_key(j, v.dict->keys.items[at]);
        good = good && json_value(j, items->items[at]);
    }
    j->level--;
    if (good && items->count)
        good = json_line(j);
    return good && buffer_text(j->s, j->out, dict ? "}" : "]");
}

static bool json_value(struct json_out *j, struct value v)
{
    bool good;

    switch (v.kind) {
    case VALUE_NONE:
        return buffer_text(j->s, j->out, "null");
    case VALUE_BOOL:
        return buffer_text(j->s, j->out, v.b ? "true" : "false");
    case VALUE_INT:
    case VALUE_FLOAT:
        return add_number(j->s, v, j->out, true);
    case VALUE_STRING:
        return json_string_out(j, v.s);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        if (!template_enter(j->s))
            return false;
        good = json_items(j, v);
        template_leave(j->s);
        return good;
    default:
        return template_fail(j->s, -EINVAL, "tojson: %s has no JSON", value_kind(v));
    }
}

bool value_json(struct template_state *s, struct value v, const struct json_style *style, struct buffer *out)
{
    struct json_out j = {.s = s, .style = style, .out = out};

    return json_value(&j, v);
}
