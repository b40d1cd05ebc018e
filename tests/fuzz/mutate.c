/* Changes of JSON texts that leave JSON: bytes changed at random seldom get past a parser. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* A value that loaders may not expect. */
static json_t *odd_value(uint64_t *state)
{
    static const char *const texts[] = {"",       "llama",        "BPE",       "ByteLevel", "default",
                                        "linear", "\xef\xbf\xbd", "\u0120a b", "<0x41>",    "(?=a)|\\p{L}+"};
    static const json_int_t numbers[] = {
        0, 1, -1, 2, 3, 255, 65536, INT32_MAX, (json_int_t)UINT32_MAX + 1, INT64_MAX, INT64_MIN};

    switch (next(state) % 8) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(next(state) % 2);
    case 2:
        return json_real((double)next(state) / 1e5 - 1e4);
    case 3:
        return json_real(next(state) % 2 ? 1e308 : -1e-308);
    case 4:
        return json_array();
    case 5:
        return json_object();
    case 6:
        return json_string(texts[next(state) % (sizeof texts / sizeof *texts)]);
    default:
        return json_integer(numbers[next(state) % (sizeof numbers / sizeof *numbers)]);
    }
}

static size_t values_in(const json_t *v)
{
    size_t n = 1, i;
    const char *key;
    json_t *child;

    if (json_is_object(v))
        json_object_foreach((json_t *)v, key, child) n += values_in(child);
    else
        json_array_foreach(v, i, child) n += values_in(child);
    return n;
}

/* The value of that number, in the order of values_in. */
static json_t *value_at(json_t *v, size_t *number)
{
    json_t *child, *found;
    const char *key;
    size_t i;

    if ((*number)-- == 0)
        return v;
    if (json_is_object(v)) {
        json_object_foreach(v, key, child) if ((found = value_at(child, number))) return found;
    } else {
        json_array_foreach(v, i, child) if ((found = value_at(child, number))) return found;
    }
    return NULL;
}

static void change_object(json_t *object, json_t *other, uint64_t *state)
{
    size_t chosen = json_object_size(object) ? next(state) % json_object_size(object) : 0, i = 0;
    const char *key;
    void *at;
    char *copy;

    for (at = json_object_iter(object); at && i < chosen; i++)
        at = json_object_iter_next(object, at);
    if (!at)
        return;
    key = json_object_iter_key(at);
    switch (next(state) % 4) {
    case 0:
        json_object_del(object, key);
        break;
    case 1:
        json_object_set_new(object, key, odd_value(state));
        break;
    case 2:
        json_object_set_new(object, key, json_deep_copy(other));
        break;
    default: /* the same value under another key */
        copy = malloc(strlen(key) + 2);
        if (copy) {
            strcpy(copy, key);
            strcat(copy, "x");
            copy[next(state) % (strlen(copy))] ^= 1;
            json_object_set(object, copy, json_object_iter_value(at)); /* refused where it is no UTF-8 */
        }
        free(copy);
    }
}

static void change_array(json_t *array, json_t *other, uint64_t *state)
{
    size_t n = json_array_size(array), i = n ? next(state) % n : 0;

    switch (next(state) % 4) {
    case 0:
        json_array_remove(array, i);
        break;
    case 1:
        json_array_set_new(array, i, odd_value(state));
        break;
    case 2:
        json_array_insert_new(array, i, json_deep_copy(other));
        break;
    default:
        json_array_append_new(array, n ? json_deep_copy(json_array_get(array, i)) : odd_value(state));
    }
}

static void change_value(json_t *v, uint64_t *state)
{
    if (json_is_integer(v))
        json_integer_set(v, (json_int_t)((uint64_t)json_integer_value(v) + next(state) % 9 - 4));
    else if (json_is_real(v))
        json_real_set(v, json_real_value(v) * ((double)(next(state) % 9) - 4));
    else if (json_is_string(v) && json_string_length(v) > 1)
        json_string_setn(v, json_string_value(v), next(state) % json_string_length(v)); /* likewise */
}

size_t fuzz_mutate_json(uint8_t *data, size_t bytes, size_t room, unsigned seed)
{
    json_t *root = json_loadb((const char *)data, bytes, 0, NULL), *other;
    uint64_t state = seed;
    char *text;

    if (!root)
        return 0;
    for (size_t round = 1 + next(&state) % 3; round-- > 0;) {
        size_t all = values_in(root), a = next(&state) % all, b = next(&state) % all;
        json_t *v = value_at(root, &a);

        other = json_deep_copy(value_at(root, &b));
        if (json_is_object(v))
            change_object(v, other, &state);
        else if (json_is_array(v))
            change_array(v, other, &state);
        else
            change_value(v, &state);
        json_decref(other);
    }
    text = json_dumps(root, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(root);
    bytes = text ? strlen(text) : 0;
    bytes = bytes <= room ? bytes : 0;
    if (bytes)
        memcpy(data, text, bytes);
    free(text);
    return bytes;
}
