/* Of chat templates: memory, the first failure, and text as Python looks at it. See template_impl.h. */
#include "examples/model/template_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- state ------------------------------------------------------------------ */

#define CHUNK_BYTES 65536u

struct template_chunk {
    struct template_chunk *next;
    size_t used, room;
    _Alignas(max_align_t) char bytes[];
};

/* What a template says goes to a terminal. */
static void plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = *text == '\n' ? ' ' : '?';
}

bool template_fail(struct template_state *s, int code, const char *format, ...)
{
    va_list args;
    int used;

    if (s->code)
        return false;
    s->code = code;
    used = snprintf(s->error, s->error_bytes, "%s, line %u: ", s->name, (unsigned)s->line);
    if (used >= 0 && (size_t)used < s->error_bytes) {
        va_start(args, format);
        vsnprintf(s->error + used, s->error_bytes - (size_t)used, format, args);
        va_end(args);
        plain(s->error + used);
    }
    return false;
}

void *template_take(struct template_state *s, size_t bytes)
{
    struct template_chunk *c = s->chunks;
    size_t align = _Alignof(max_align_t), room;

    if (bytes > TEMPLATE_MEMORY_MAX - s->memory) {
        template_fail(s, -E2BIG, "the template takes more than %u bytes of memory", TEMPLATE_MEMORY_MAX);
        return NULL;
    }
    bytes = (bytes + align - 1) / align * align;
    if (!c || c->room - c->used < bytes) {
        room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        c = calloc(1, sizeof *c + room);
        if (!c) {
            template_fail(s, -ENOMEM, "out of memory");
            return NULL;
        }
        c->room = room;
        c->next = s->chunks;
        s->chunks = c;
    }
    s->memory += bytes;
    c->used += bytes;
    return c->bytes + c->used - bytes;
}

void template_release(struct template_state *s)
{
    while (s->chunks) {
        struct template_chunk *next = s->chunks->next;

        free(s->chunks);
        s->chunks = next;
    }
}

bool template_work(struct template_state *s, size_t steps)
{
    if (steps > TEMPLATE_WORK_MAX - s->work)
        return template_fail(s, -E2BIG, "the template takes more than %u steps", TEMPLATE_WORK_MAX);
    s->work += steps;
    return true;
}

bool template_enter(struct template_state *s)
{
    if (s->depth == TEMPLATE_DEPTH_MAX)
        return template_fail(s, -E2BIG, "nested deeper than %u levels", TEMPLATE_DEPTH_MAX);
    s->depth++;
    return true;
}

void template_leave(struct template_state *s)
{
    s->depth--;
}

/* ---- buffers ---------------------------------------------------------------- */

bool buffer_add(struct template_state *s, struct buffer *b, const char *bytes, size_t count)
{
    if (!template_work(s, count / 16 + 1))
        return false;
    if (count > TEMPLATE_OUTPUT_MAX - b->count)
        return template_fail(s, -E2BIG, "the template writes more than %u bytes", TEMPLATE_OUTPUT_MAX);
    if (b->count + count > b->room) {
        size_t room = 2 * (b->count + count) + 64;
        char *more = template_take(s, room);

        if (!more)
            return false;
        if (b->count)
            memcpy(more, b->bytes, b->count);
        b->bytes = more;
        b->room = room;
    }
    if (count)
        memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
    return true;
}

bool buffer_text(struct template_state *s, struct buffer *b, const char *text)
{
    return buffer_add(s, b, text, strlen(text));
}

struct str buffer_str(const struct buffer *b)
{
    return (struct str){b->count ? b->bytes : "", b->count};
}

/* ---- characters: all text here is UTF-8 -------------------------------------- */

/* The order of UTF-8 is that of code points. */
int str_compare(struct str a, struct str b)
{
    size_t both = a.count < b.count ? a.count : b.count;
    int order = both ? memcmp(a.bytes, b.bytes, both) : 0;

    return order ? order : (a.count > b.count) - (a.count < b.count);
}

size_t str_width(struct str a, size_t at)
{
    size_t width = 1;

    while (at + width < a.count && ((unsigned char)a.bytes[at + width] & 0xC0) == 0x80)
        width++;
    return width;
}

size_t str_length(struct str a)
{
    size_t count = 0;

    for (size_t i = 0; i < a.count; i++)
        count += ((unsigned char)a.bytes[i] & 0xC0) != 0x80;
    return count;
}

size_t str_find(struct str a, struct str what, size_t from)
{
    const char *found;

    if (from > a.count || what.count > a.count - from)
        return SIZE_MAX;
    if (what.count == 0)
        return from;
    found = memmem(a.bytes + from, a.count - from, what.bytes, what.count);
    return found ? (size_t)(found - a.bytes) : SIZE_MAX;
}

/* Those of Python's str.isspace(): white space of Unicode, and the four separators of ASCII. */
static bool is_space(const unsigned char *c, size_t width)
{
    if (width == 1)
        return (c[0] >= 9 && c[0] <= 13) || (c[0] >= 28 && c[0] <= 32);
    if (width == 2)
        return c[0] == 0xC2 && (c[1] == 0x85 || c[1] == 0xA0);
    if (width != 3)
        return false;
    return (c[0] == 0xE1 && c[1] == 0x9A && c[2] == 0x80) ||       /* U+1680 */
           (c[0] == 0xE2 && c[1] == 0x80 && c[2] <= 0x8A) ||       /* U+2000 to 200A */
           (c[0] == 0xE2 && c[1] == 0x80 && (c[2] | 1) == 0xA9) || /* U+2028, 2029 */
           (c[0] == 0xE2 && c[1] == 0x80 && c[2] == 0xAF) ||       /* U+202F */
           (c[0] == 0xE2 && c[1] == 0x81 && c[2] == 0x9F) ||       /* U+205F */
           (c[0] == 0xE3 && c[1] == 0x80 && c[2] == 0x80);         /* U+3000 */
}

size_t str_space(struct str a, size_t at)
{
    size_t width = at < a.count ? str_width(a, at) : 0;

    return width && is_space((const unsigned char *)a.bytes + at, width) ? width : 0;
}

size_t str_space_before(struct str a, size_t at)
{
    size_t width = 1;

    if (at == 0)
        return 0;
    while (width < at && ((unsigned char)a.bytes[at - width] & 0xC0) == 0x80)
        width++;
    return is_space((const unsigned char *)a.bytes + at - width, width) ? width : 0;
}

/* Bytes of the character at `at`, which is one of chars. */
static size_t one_of(struct str a, size_t at, const struct str *chars)
{
    size_t width = str_width(a, at);
    struct str one = {a.bytes + at, width};

    return str_find(*chars, one, 0) == SIZE_MAX ? 0 : width;
}

static size_t strip_before(struct str a, size_t at, const struct str *chars)
{
    size_t begin = at - 1;

    if (!chars)
        return str_space_before(a, at);
    while (begin > 0 && ((unsigned char)a.bytes[begin] & 0xC0) == 0x80)
        begin--;
    return one_of(a, begin, chars);
}

struct str str_strip(struct str a, const struct str *chars, bool left, bool right)
{
    size_t from = 0, to = a.count, width;

    while (left && from < to && (width = chars ? one_of(a, from, chars) : str_space(a, from)) > 0)
        from += width;
    while (right && to > from && (width = strip_before(a, to, chars)) > 0)
        to -= width;
    return (struct str){a.bytes + from, to - from};
}
