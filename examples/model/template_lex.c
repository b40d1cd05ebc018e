/*
 * Of chat templates: the source, cut into text and tags, and tags into tokens. See template_impl.h.
 *
 * White space follows Jinja with trim_blocks and lstrip_blocks: the end of the line behind a tag or a comment goes,
 * and so do blanks between the beginning of a line and one; "-" inside of a delimiter takes all white space there,
 * "+" keeps it.
 */
#include "examples/model/template_impl.h"

#include <stdio.h>
#include <stdlib.h>

static bool at_text(const struct parser *p, size_t at, const char *text)
{
    size_t count = strlen(text);

    return count <= p->source.count - at && memcmp(p->source.bytes + at, text, count) == 0;
}

static char byte_at(const struct parser *p, size_t at)
{
    return at < p->source.count ? p->source.bytes[at] : '\0';
}

static void move_to(struct parser *p, size_t at)
{
    for (; p->at < at; p->at++)
        p->s->line += p->source.bytes[p->at] == '\n';
}

/* ---- delimiters ---------------------------------------------------------------- */

static void skip_spaces(struct parser *p)
{
    size_t width;

    while ((width = str_space(p->source, p->at)) > 0)
        move_to(p, p->at + width);
}

/* Behind the delimiter that ends a tag or a comment. */
static void end_tag(struct parser *p, char sign, bool line)
{
    if (sign == '-')
        skip_spaces(p);
    else if (sign != '+' && line && byte_at(p, p->at) == '\n')
        move_to(p, p->at + 1);
    p->line_start = p->at > 0 && p->source.bytes[p->at - 1] == '\n';
}

static bool skip_comment(struct parser *p)
{
    size_t end = str_find(p->source, str_of("#}"), p->at + 2);
    char sign;

    if (end == SIZE_MAX)
        return template_fail(p->s, -EINVAL, "a comment without an end");
    sign = end > p->at + 2 ? p->source.bytes[end - 1] : '\0';
    move_to(p, end + 2);
    end_tag(p, sign, true);
    return true;
}

/* Where the next delimiter begins; the end of the source: there is none. */
static size_t find_tag(const struct parser *p)
{
    size_t at = p->at;

    for (; at + 1 < p->source.count; at++)
        if (p->source.bytes[at] == '{' && strchr("{%#", p->source.bytes[at + 1]))
            return at;
    return p->source.count;
}

/* The text from p->at to the delimiter at `end`, without the white space that goes. */
static struct str text_before(const struct parser *p, size_t end)
{
    struct str text = {p->source.bytes + p->at, end - p->at};
    char kind = byte_at(p, end + 1), sign = byte_at(p, end + 2);
    size_t line = text.count;
    struct str last;

    if (sign == '-')
        return str_strip(text, NULL, false, true);
    if (sign == '+' || kind == '{')
        return text;
    while (line > 0 && text.bytes[line - 1] != '\n')
        line--;
    if (line == 0 && !p->line_start)
        return text;
    last = (struct str){text.bytes + line, text.count - line};
    return str_strip(last, NULL, true, false).count == 0 ? (struct str){text.bytes, line} : text;
}

bool lex_piece(struct parser *p, enum piece *piece, struct str *text)
{
    size_t end = find_tag(p);

    *piece = PIECE_END;
    if (p->at == p->source.count)
        return true;
    *text = end < p->source.count ? text_before(p, end)
                                  : (struct str){p->source.bytes + p->at, p->source.count - p->at};
    if (end > p->at) {
        *piece = PIECE_TEXT;
        move_to(p, end);
        p->line_start = false;
        return true;
    }
    if (byte_at(p, end + 1) == '#')
        return skip_comment(p) && lex_piece(p, piece, text);
    *piece = p->inside = byte_at(p, end + 1) == '{' ? PIECE_PRINT : PIECE_TAG;
    move_to(p, end + 2);
    if (byte_at(p, p->at) == '-' || byte_at(p, p->at) == '+')
        move_to(p, p->at + 1);
    p->brackets = 0;
    return lex_next(p);
}

/* The delimiter that ends the tag, if it is here. */
static bool ends_here(struct parser *p)
{
    const char *end = p->inside == PIECE_PRINT ? "}}" : "%}";
    char sign = byte_at(p, p->at);

    if (p->brackets > 0)
        return false;
    if (at_text(p, p->at, end))
        sign = '\0';
    else if ((sign != '-' && (sign != '+' || p->inside == PIECE_PRINT)) || p->at + 1 > p->source.count ||
             !at_text(p, p->at + 1, end))
        return false;
    move_to(p, p->at + (sign ? 3 : 2));
    end_tag(p, sign, p->inside == PIECE_TAG);
    return true;
}

/* ---- literals ------------------------------------------------------------------ */

static bool add_code(struct parser *p, struct buffer *b, uint32_t code)
{
    char c[4];
    size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return template_fail(p->s, -ENOTSUP, "a string with the escape of U+%04X, which is no character",
                             code);
    for (size_t i = count; i-- > 1; code >>= 6)
        c[i] = (char)(0x80 | (code & 0x3F));
    c[0] = (char)(count == 1 ? code : (0xF00u >> count & 0xF0u) | code);
    return buffer_add(p->s, b, c, count);
}

/* \xHH, \uHHHH, \UHHHHHHHH */
static bool add_hex(struct parser *p, struct buffer *b, size_t digits)
{
    char text[9] = "";
    char *end;
    uint32_t code;

    for (size_t i = 0; i < digits; i++)
        text[i] = byte_at(p, p->at + i);
    code = (uint32_t)strtoul(text, &end, 16);
    if (end != text + digits || strpbrk(text, "+- "))
        return template_fail(p->s, -EINVAL, "a string with an escape that lacks digits");
    move_to(p, p->at + digits);
    return add_code(p, b, code);
}

static bool add_octal(struct parser *p, struct buffer *b)
{
    uint32_t code = 0;

    for (int i = 0; i < 3 && byte_at(p, p->at) >= '0' && byte_at(p, p->at) <= '7'; i++) {
        code = code * 8 + (uint32_t)(byte_at(p, p->at) - '0');
        move_to(p, p->at + 1);
    }
    return add_code(p, b, code);
}

/* Behind a backslash. What is no escape stays as it is, with the backslash. */
static bool add_escape(struct parser *p, struct buffer *b)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = byte_at(p, p->at);
    const char *known = c ? strchr(from, c) : NULL;

    if (c >= '0' && c <= '7')
        return add_octal(p, b);
    if (c == 'N')
        return template_fail(p->s, -ENOTSUP, "a string with a \\N escape is not supported");
    if (c == '\n' || known || c == 'x' || c == 'u' || c == 'U')
        move_to(p, p->at + 1);
    if (c == '\n')
        return true;
    if (known)
        return buffer_add(p->s, b, &to[known - from], 1);
    if (c == 'x' || c == 'u' || c == 'U')
        return add_hex(p, b, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    return buffer_text(p->s, b, "\\");
}

static bool lex_string(struct parser *p)
{
    char quote = byte_at(p, p->at);
    struct buffer b = {0};

    move_to(p, p->at + 1);
    while (byte_at(p, p->at) != quote) {
        if (p->at == p->source.count)
            return template_fail(p->s, -EINVAL, "a string without an end");
        if (byte_at(p, p->at) == '\\') {
            move_to(p, p->at + 1);
            if (!add_escape(p, &b))
                return false;
            continue;
        }
        if (!buffer_add(p->s, &b, p->source.bytes + p->at, 1))
            return false;
        move_to(p, p->at + 1);
    }
    move_to(p, p->at + 1);
    p->token = TOKEN_VALUE;
    p->value = value_str(buffer_str(&b));
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A point belongs to a number if a digit follows. */
static bool lex_number(struct parser *p)
{
    char text[64];
    size_t n = 0;
    bool whole = true;
    char *end;

    while (n + 2 < sizeof text) {
        char c = byte_at(p, p->at + n), next = byte_at(p, p->at + n + 1);

        if (!is_digit(c) && !(c == '.' && whole && is_digit(next)) &&
            !((c == 'e' || c == 'E') && (is_digit(next) || next == '-' || next == '+')) &&
            !((c == '-' || c == '+') && n > 0 && (text[n - 1] | 32) == 'e'))
            break;
        whole &= is_digit(c);
        text[n++] = c;
    }
    text[n] = '\0';
    if (strchr("_xXoObB", byte_at(p, p->at + n)) && byte_at(p, p->at + n))
        return template_fail(p->s, -ENOTSUP, "the number %s%c...: only decimal digits are supported", text,
                             byte_at(p, p->at + n));
    if (n > 1 && text[0] == '0' && whole && strspn(text, "0") < n)
        return template_fail(p->s, -EINVAL, "the number %s begins with 0", text);
    move_to(p, p->at + n);
    p->token = TOKEN_VALUE;
    errno = 0;
    p->value = whole ? value_int(strtoll(text, &end, 10))
                     : (struct value){.kind = VALUE_FLOAT, .f = strtod(text, &end)};
    return (*end == '\0' && (errno == 0 || !whole)) ||
           template_fail(p->s, -EINVAL, "the number %s is none", text);
}

/* ---- tokens ---------------------------------------------------------------------- */

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool lex_operator(struct parser *p)
{
    static const struct {
        const char *text;
        int token;
    } longer[] = {{"//", TOKEN_DIVIDE_DOWN}, {"**", TOKEN_POWER},      {"==", TOKEN_EQUAL},
                  {"!=", TOKEN_NOT_EQUAL},   {"<=", TOKEN_LESS_EQUAL}, {">=", TOKEN_GREATER_EQUAL}};
    char c = byte_at(p, p->at);

    for (size_t i = 0; i < sizeof longer / sizeof longer[0]; i++)
        if (at_text(p, p->at, longer[i].text)) {
            p->token = longer[i].token;
            move_to(p, p->at + 2);
            return true;
        }
    if (p->at == p->source.count)
        return template_fail(p->s, -EINVAL, "a tag without an end");
    if (c == '\0' || !strchr("+-*/%~<>=()[]{}.,:|", c))
        return template_fail(p->s, -ENOTSUP, "'%.*s' in a tag is not supported",
                             (int)str_width(p->source, p->at), p->source.bytes + p->at);
    if (strchr("([{", c))
        p->brackets++;
    if (strchr(")]}", c) && p->brackets-- == 0)
        return template_fail(p->s, -EINVAL, "'%c' closes nothing", c);
    p->token = (unsigned char)c;
    move_to(p, p->at + 1);
    return true;
}

bool lex_next(struct parser *p)
{
    size_t begin;

    if (!template_work(p->s, 1))
        return false;
    skip_spaces(p);
    if (ends_here(p)) {
        p->token = TOKEN_END;
        return true;
    }
    if (byte_at(p, p->at) == '\'' || byte_at(p, p->at) == '"')
        return lex_string(p);
    if (is_digit(byte_at(p, p->at)))
        return lex_number(p);
    if (!is_letter(byte_at(p, p->at)))
        return lex_operator(p);
    begin = p->at;
    while (is_letter(byte_at(p, p->at)) || is_digit(byte_at(p, p->at)))
        p->at++;
    p->token = TOKEN_NAME;
    p->name = (struct str){p->source.bytes + begin, p->at - begin};
    return true;
}

bool lex_is_name(const struct parser *p, const char *name)
{
    return p->token == TOKEN_NAME && str_is(p->name, name);
}

struct str lex_what(struct parser *p)
{
    char *text = template_take(p->s, 80);

    if (!text)
        return str_of("");
    if (p->token == TOKEN_END)
        return str_of("the end of the tag");
    if (p->token == TOKEN_VALUE)
        return str_of(value_kind(p->value));
    if (p->token == TOKEN_NAME)
        snprintf(text, 80, "'%.*s'", STR_ARG(p->name));
    else if (p->token < 256)
        snprintf(text, 80, "'%c'", p->token);
    else
        snprintf(text, 80, "an operator");
    return str_of(text);
}
