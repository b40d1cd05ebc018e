/*
 * The tokenizer's containers: growing bytes and ids, two hash tables, and UTF-8.
 * Knows nothing of files or tokenizers. Tables are sized once and never grow, so
 * that adding can't fail; hashes are fixed, so that a file always loads alike.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

/* At least need, and half as much again as there was. */
static int grow(void **data, size_t *room, size_t need, size_t each)
{
    size_t more = *room + *room / 2;

    if (more < need)
        more = need;
    if (more < 16)
        more = 16;
    if (more > SIZE_MAX / each)
        return -ENOMEM;
    void *moved = realloc(*data, more * each);
    if (!moved)
        return -ENOMEM;
    *data = moved;
    *room = more;
    return 0;
}

int tok_buffer_add(struct tok_buffer *buffer, const void *bytes, size_t count)
{
    if (buffer->limit && (buffer->used > buffer->limit || count > buffer->limit - buffer->used))
        return -E2BIG;
    if (count > SIZE_MAX - buffer->used)
        return -ENOMEM;
    if (count > buffer->room - buffer->used || !buffer->data) {
        void *data = buffer->data;
        int rc = grow(&data, &buffer->room, buffer->used + count, 1);
        if (rc < 0)
            return rc;
        buffer->data = data;
    }
    if (count)
        memcpy(buffer->data + buffer->used, bytes, count);
    buffer->used += count;
    return 0;
}

int tok_buffer_add_char(struct tok_buffer *buffer, uint32_t code)
{
    char text[4];
    size_t count;

    if (code < 0x80) {
        text[0] = (char)code;
        count = 1;
    } else if (code < 0x800) {
        text[0] = (char)(0xC0 | code >> 6);
        count = 2;
    } else if (code < 0x10000) {
        text[0] = (char)(0xE0 | code >> 12);
        count = 3;
    } else {
        text[0] = (char)(0xF0 | code >> 18);
        count = 4;
    }
    for (size_t i = 1; i < count; i++)
        text[i] = (char)(0x80 | (code >> 6 * (count - 1 - i) & 0x3F));
    return tok_buffer_add(buffer, text, count);
}

void tok_buffer_free(struct tok_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct tok_buffer){0};
}

int tok_ids_add(struct tok_ids *ids, uint32_t id)
{
    if (ids->count == ids->room) {
        void *data = ids->ids;
        int rc = grow(&data, &ids->room, ids->count + 1, sizeof *ids->ids);
        if (rc < 0)
            return rc;
        ids->ids = data;
    }
    ids->ids[ids->count++] = id;
    return 0;
}

int tok_text_copy(struct tok_text *out, const char *text, size_t bytes)
{
    char *copy = malloc(bytes + 1);

    if (!copy)
        return -ENOMEM;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    *out = (struct tok_text){.text = copy, .bytes = bytes};
    return 0;
}

/* memmem would do, but ThreadSanitizer's reads all of the text each time, where memchr's
 * stops at what it finds. Patterns are short. */
const char *tok_find(const char *text, size_t bytes, const struct tok_text *pattern)
{
    const char *end = text + bytes;

    while ((size_t)(end - text) >= pattern->bytes) {
        text = memchr(text, pattern->text[0], (size_t)(end - text) - pattern->bytes + 1);
        if (!text || memcmp(text, pattern->text, pattern->bytes) == 0)
            return text;
        text++;
    }
    return NULL;
}

int tok_replace(struct tok_buffer *out, const char *text, size_t bytes, const struct tok_text *pattern,
                const struct tok_text *content)
{
    const char *at = text, *end = text + bytes, *hit;
    int rc = 0;

    while (rc == 0 && (hit = tok_find(at, (size_t)(end - at), pattern))) {
        rc = tok_buffer_add(out, at, (size_t)(hit - at));
        if (rc == 0)
            rc = tok_buffer_add(out, content->text, content->bytes);
        at = hit + pattern->bytes;
    }
    return rc < 0 ? rc : tok_buffer_add(out, at, (size_t)(end - at));
}

/* FNV-1a, with its high bits brought down, where the mask looks. */
static size_t hash_text(const char *text, size_t bytes)
{
    uint64_t hash = 0xCBF29CE484222325u;

    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return (size_t)(hash ^ hash >> 29);
}

/* A power of two that leaves half of the slots empty. */
static size_t slots_for(size_t entries)
{
    size_t slots = 16;

    while (slots / 2 < entries)
        slots *= 2;
    return slots;
}

int tok_map_init(struct tok_map *map, size_t entries)
{
    size_t slots = slots_for(entries);

    map->slots = malloc(slots * sizeof *map->slots);
    if (!map->slots)
        return -ENOMEM;
    memset(map->slots, 0xFF, slots * sizeof *map->slots);
    map->mask = slots - 1;
    return 0;
}

/* Where a text is, or would be. */
static uint32_t *map_slot(const struct tok_map *map, const struct tok_word *words, const char *text,
                          size_t bytes)
{
    for (size_t at = hash_text(text, bytes);; at++) {
        uint32_t *slot = &map->slots[at & map->mask];
        if (*slot == TOK_NONE || (words[*slot].bytes == bytes && memcmp(words[*slot].text, text, bytes) == 0))
            return slot;
    }
}

void tok_map_set(struct tok_map *map, const struct tok_word *words, uint32_t index)
{
    *map_slot(map, words, words[index].text, words[index].bytes) = index;
}

uint32_t tok_map_index(const struct tok_map *map, const struct tok_word *words, const char *text,
                       size_t bytes)
{
    return *map_slot(map, words, text, bytes);
}

uint32_t tok_map_find(const struct tok_map *map, const struct tok_word *words, const char *text, size_t bytes)
{
    uint32_t index = tok_map_index(map, words, text, bytes);

    return index == TOK_NONE ? TOK_NONE : words[index].id;
}

/* Ids are below TOK_ID_LIMIT: adding 1 keeps the key from being 0. */
static uint64_t pair_key(uint32_t left, uint32_t right)
{
    return ((uint64_t)left << 32 | right) + 1;
}

static struct tok_pair *pair_slot(const struct tok_pairs *pairs, uint64_t key)
{
    uint64_t hash = key * 0x9E3779B97F4A7C15u;

    for (size_t at = (size_t)(hash >> 32 ^ hash >> 7);; at++) {
        struct tok_pair *slot = &pairs->slots[at & pairs->mask];
        if (slot->key == 0 || slot->key == key)
            return slot;
    }
}

int tok_pairs_init(struct tok_pairs *pairs, size_t entries)
{
    size_t slots = slots_for(entries);

    pairs->slots = calloc(slots, sizeof *pairs->slots);
    if (!pairs->slots)
        return -ENOMEM;
    pairs->mask = slots - 1;
    return 0;
}

void tok_pairs_set(struct tok_pairs *pairs, uint32_t left, uint32_t right, uint32_t value)
{
    uint64_t key = pair_key(left, right);
    struct tok_pair *slot = pair_slot(pairs, key);

    pairs->count += slot->key == 0;
    *slot = (struct tok_pair){.key = key, .value = value};
}

uint32_t tok_pairs_find(const struct tok_pairs *pairs, uint32_t left, uint32_t right)
{
    const struct tok_pair *slot = pair_slot(pairs, pair_key(left, right));

    return slot->key ? slot->value : TOK_NONE;
}

/* The table of well-formed sequences in the Unicode Standard, section 3.9: only
 * the second byte's range depends on the first. */
int tok_utf8_next(const char *text, size_t count, uint32_t *code)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char lead = s[0], low = 0x80, high = 0xBF;
    int length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;

    if (length == 0)
        return -1;
    if (length == 1) {
        *code = lead;
        return 1;
    }
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    *code = lead & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= count || s[i] < low || s[i] > high)
            return -i;
        *code = *code << 6 | (s[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

bool tok_utf8_valid(const char *text, size_t count)
{
    uint32_t code;

    for (size_t at = 0; at < count;) {
        int step = tok_utf8_next(text + at, count - at, &code);
        if (step < 0)
            return false;
        at += (size_t)step;
    }
    return true;
}

int tok_utf8_repair(struct tok_buffer *out, const char *text, size_t count)
{
    size_t good = 0;
    uint32_t code;
    int rc;

    for (size_t at = 0; at < count;) {
        int step = tok_utf8_next(text + at, count - at, &code);
        if (step > 0) {
            at += (size_t)step;
            continue;
        }
        rc = tok_buffer_add(out, text + good, at - good);
        if (rc == 0)
            rc = tok_buffer_add_char(out, 0xFFFD);
        if (rc < 0)
            return rc;
        at += (size_t)-step;
        good = at;
    }
    return tok_buffer_add(out, text + good, count - good);
}

/* Printable Latin-1 stands for itself; the other 68 bytes, in order, for U+0100 on. */
uint32_t tok_byte_to_char(unsigned char byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return byte == 0xAD ? 0x143u : byte;
}

int tok_char_to_byte(uint32_t code)
{
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100;
    if (code >= 0x121 && code <= 0x142)
        return (int)code - 0x121 + 0x7F;
    if (code == 0x143)
        return 0xAD;
    return code < 0x100 && tok_byte_to_char((unsigned char)code) == code ? (int)code : -1;
}
