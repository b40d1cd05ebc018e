/*
 * What the tests of the tokenizer share: files, JSON to change, and seeded numbers. One
 * temporary file, tokenizer_path, is made by tokenizer_setup for a whole group, in a folder that holds
 * nothing else: tokenizer_absent is not there.
 */
#ifndef TESTS_TOKENIZER_FIXTURE_H
#define TESTS_TOKENIZER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "examples/model/tokenizer.h"
#include "tests/temporary.h"

#define GOLDEN      "tests/golden/tokenizer_"
#define ERROR_BYTES 400

static char tokenizer_dir[200], tokenizer_path[220], tokenizer_absent[240];

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;

    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static inline char *read_all(const char *name, size_t *bytes)
{
    FILE *file = fopen(name, "rb");
    char *data;
    long size;

    *bytes = 0;
    if (!file)
        return NULL;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    rewind(file);
    data = malloc((size_t)size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, file), size);
    data[size] = 0;
    *bytes = (size_t)size;
    fclose(file);
    return data;
}

static inline void write_all(const void *data, size_t bytes)
{
    FILE *file = fopen(tokenizer_path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static inline struct tokenizer *open_good(const char *name)
{
    char error[ERROR_BYTES];
    struct tokenizer *t;

    if (tokenizer_open(name, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    return t;
}

/* A parsed tokenizer, opened. */
static inline int open_json(const json_t *root, struct tokenizer **t, char error[ERROR_BYTES])
{
    char *text = json_dumps(root, JSON_COMPACT);

    assert_non_null(text);
    write_all(text, strlen(text));
    free(text);
    return tokenizer_open(tokenizer_path, t, error, ERROR_BYTES);
}

static inline struct tokenizer *open_golden(const char *name)
{
    char file[100];

    snprintf(file, sizeof file, GOLDEN "%s.json", name);
    return open_good(file);
}

static inline json_t *load_json(const char *name)
{
    json_error_t error;
    char file[100];
    json_t *root;

    snprintf(file, sizeof file, GOLDEN "%s.json", name);
    root = json_load_file(file, 0, &error);
    if (!root)
        fail_msg("%s: line %d: %s", file, error.line, error.text);
    return root;
}

/* Replaces the field at a path such as model.merges.3.0 by JSON text; NULL deletes it. */
static inline void patch(json_t *root, const char *field, const char *text)
{
    char copy[120], *save = NULL, *key, *next;
    json_t *at = root, *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

    assert_true(!text || value);
    snprintf(copy, sizeof copy, "%s", field);
    key = strtok_r(copy, ".", &save);
    while ((next = strtok_r(NULL, ".", &save))) {
        at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
        assert_non_null(at);
        key = next;
    }
    if (!value)
        assert_int_equal(json_object_del(at, key), 0);
    else if (json_is_array(at))
        assert_int_equal(json_array_set_new(at, (size_t)atoi(key), value), 0);
    else
        assert_int_equal(json_object_set_new(at, key, value), 0);
}

static inline int tokenizer_setup(void **state)
{
    FILE *file;

    (void)state;
    if (temporary_dir("tokenizer", tokenizer_dir, sizeof tokenizer_dir) < 0)
        return -1;
    snprintf(tokenizer_path, sizeof tokenizer_path, "%s/tokenizer.json", tokenizer_dir);
    snprintf(tokenizer_absent, sizeof tokenizer_absent, "%s/absent/tokenizer.json", tokenizer_dir);
    file = fopen(tokenizer_path, "wb");
    return file ? fclose(file) : -1;
}

static inline int tokenizer_teardown(void **state)
{
    (void)state;
    return unlink(tokenizer_path) == 0 ? rmdir(tokenizer_dir) : -1;
}

#endif
