/*
 * Proves that the example programs' tokenizer gives the ids and the texts of Hugging Face's
 * tokenizers package, for seven small tokenizers of both families, the byte tokenizer, and the
 * real one next to the repository; that decoding undoes encoding; and that threads may share a
 * tokenizer. The expected numbers come from tools/golden_tokenizer.py.
 *
 * Negative controls: goldens_notice changes one thing of a tokenizer at a time (a merge
 * changed, ignore_merges off, the regular expression gone, ...) and wants its goldens to fail.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "examples/model/tokenizer.h"
#include "tests/tokenizer_fixture.h"

#define STORY       "../shared/models/story/tokenizer.json"
#define TEXT        "../shared/data/tinyshakespeare.txt"
#define ROUND_TRIPS 400

/* ---- helpers ----------------------------------------------------------- */

static char *unhex(const json_t *value, size_t *bytes)
{
    const char *hex = json_string_value(value);
    unsigned byte;

    assert_non_null(hex);
    *bytes = strlen(hex) / 2;
    char *out = malloc(*bytes + 1);
    assert_non_null(out);
    for (size_t i = 0; i < *bytes; i++) {
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)(unsigned char)byte;
    }
    return out;
}

static void random_text(uint64_t *seed, char *out, size_t *bytes)
{
    static const char *const parts[] = {"ta",
                                        "ri",
                                        "len",
                                        "mer",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\t",
                                        "'s",
                                        "42",
                                        "!\n",
                                        "\u00e9t",
                                        "\u0431\u043e\u043b",
                                        "\u65e5",
                                        "\U0001f642",
                                        "the",
                                        "-",
                                        "\u0301"};
    size_t used = 0, count = next_random(seed) % 60;

    for (size_t i = 0; i < count; i++) {
        uint64_t r = next_random(seed);
        uint32_t code = (uint32_t)(r >> 20) % 0x110000;
        if (r % 4) {
            used += (size_t)sprintf(out + used, "%s", parts[(r >> 8) % (sizeof parts / sizeof *parts)]);
        } else if (r % 8) {
            out[used++] = (char)(code % 127 + 1);
        } else if ((code < 0xD800 || code > 0xDFFF) && code > 0xFFFF) {
            out[used++] = (char)(0xF0 | code >> 18);
            out[used++] = (char)(0x80 | (code >> 12 & 0x3F));
            out[used++] = (char)(0x80 | (code >> 6 & 0x3F));
            out[used++] = (char)(0x80 | (code & 0x3F));
        }
    }
    *bytes = used;
}

/* ---- goldens ----------------------------------------------------------- */

static bool same_ids(const uint32_t *ids, size_t count, const json_t *expected)
{
    bool same = count == json_array_size(expected);

    for (size_t i = 0; same && i < count; i++)
        same = ids[i] == (uint32_t)json_integer_value(json_array_get(expected, i));
    return same;
}

static bool valid_utf8(const char *text, size_t bytes)
{
    json_t *string = json_stringn(text, bytes);

    json_decref(string);
    return string != NULL;
}

/* The ids' pieces one after another are the text, as far as that is UTF-8. */
static bool pieces_agree(const struct tokenizer *t, const uint32_t *ids, size_t count, const char *text,
                         size_t bytes)
{
    char *all = NULL;
    size_t used = 0, n;
    bool first = true, agree;
    const char *piece;

    for (size_t i = 0; i < count; i++) {
        if (tokenizer_decode_piece(t, ids[i], first, &piece, &n) < 0)
            continue;
        first = false;
        all = realloc(all, used + n + 1);
        assert_non_null(all);
        memcpy(all + used, piece, n);
        used += n;
    }
    agree =
        (used == bytes && (used == 0 || memcmp(all, text, used) == 0)) || !valid_utf8(all ? all : "", used);
    free(all);
    return agree;
}

static bool decodes_to(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip,
                       const json_t *expected)
{
    size_t want_bytes, bytes;
    char *want = unhex(expected, &want_bytes), *text;
    bool same;

    assert_int_equal(tokenizer_decode(t, ids, count, skip, &text, &bytes), 0);
    same = bytes == want_bytes && memcmp(text, want, bytes) == 0 && text[bytes] == 0;
    if (same && !skip)
        same = pieces_agree(t, ids, count, text, bytes);
    free(want);
    free(text);
    return same;
}

/* Whether a case holds: what was short on purpose is as its neighbour. */
static bool case_holds(const struct tokenizer *t, const json_t *item)
{
    const json_t *input = json_object_get(item, "bytes"), *expected = json_object_get(item, "ids");
    const json_t *text = json_object_get(item, "text"), *skip = json_object_get(item, "skip");
    size_t count = json_array_size(expected), bytes;
    uint32_t *ids = calloc(count + 1, sizeof *ids);
    bool holds;

    assert_non_null(ids);
    for (size_t i = 0; i < count; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(expected, i));
    text = text ? text : input;
    holds = decodes_to(t, ids, count, false, text) && decodes_to(t, ids, count, true, skip ? skip : text);
    free(ids);
    if (holds && input) {
        char *raw = unhex(input, &bytes);
        assert_int_equal(tokenizer_encode(t, raw, bytes, &ids, &count), 0);
        holds = same_ids(ids, count, expected);
        free(raw);
        free(ids);
    }
    return holds;
}

static size_t failing_cases(const struct tokenizer *t, const char *name, bool show)
{
    char file[60];
    size_t failures = 0;
    json_t *root;

    snprintf(file, sizeof file, "%s_cases", name);
    root = load_json(file);
    json_t *list = json_object_get(root, "cases");
    assert_true(json_array_size(list) > 100);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *item = json_array_get(list, i);
        if (case_holds(t, item))
            continue;
        failures++;
        if (show)
            print_error("%s, case %zu: %s\n", name, i, json_string_value(json_object_get(item, "bytes")));
    }
    json_decref(root);
    return failures;
}

static void check_goldens(const struct tokenizer *t, const char *name)
{
    assert_int_equal(failing_cases(t, name, true), 0);
}

static void goldens(void **state)
{
    static const char *const names[] = {"gpt2",  "prefix", "llama3", "llama2",
                                        "first", "words",  "dense",  "bytes"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = open_golden(names[i]);
        check_goldens(t, names[i]);
        tokenizer_close(t);
    }
}

static void goldens_notice(void **state)
{
    static const struct {
        const char *name, *field, *value;
    } changes[] = {
        {"dense", "model.merges.0", "[\"a\",\"a\"]"},
        {"gpt2", "pre_tokenizer.use_regex", "false"},
        {"gpt2", "pre_tokenizer.add_prefix_space", "true"},
        {"gpt2", "added_tokens.0.rstrip", "true"},
        {"prefix", "added_tokens.1.lstrip", "false"},
        {"prefix", "added_tokens.2.rstrip", "false"},
        {"llama3", "model.ignore_merges", "false"},
        {"llama3", "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\s\""},
        {"llama3", "added_tokens.1.special", "false"},
        {"llama2", "model.byte_fallback", "false"},
        {"llama2", "added_tokens.1.normalized", "true"},
        {"llama2", "normalizer.normalizers.0.prepend", "\"x\""},
        {"llama2", "decoder.decoders.3.start", "0"},
        {"first", "pre_tokenizer.prepend_scheme", "\"always\""},
        {"first", "pre_tokenizer.prepend_scheme", "\"never\""},
        {"words", "model.fuse_unk", "true"},
        {"words", "pre_tokenizer.split", "false"},
        {"words", "decoder.prepend_scheme", "\"never\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char error[ERROR_BYTES];
        struct tokenizer *t;
        json_t *root = load_json(changes[i].name);
        patch(root, changes[i].field, changes[i].value);
        if (open_json(root, &t, error) < 0)
            fail_msg("%s", error);
        if (failing_cases(t, changes[i].name, false) == 0)
            fail_msg("%s: goldens don't notice %s = %s", changes[i].name, changes[i].field, changes[i].value);
        tokenizer_close(t);
        json_decref(root);
    }
}

/* Merges of the other spelling, and members that may be absent, change nothing. */
static void spellings(void **state)
{
    json_t *root = load_json("gpt2"), *merges = json_object_get(json_object_get(root, "model"), "merges");
    char error[ERROR_BYTES];
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const char *merge = json_string_value(json_array_get(merges, i)), *space = strchr(merge, ' ');
        json_array_set_new(merges, i, json_pack("[s%, s]", merge, (size_t)(space - merge), space + 1));
    }
    patch(root, "model.type", "\"BPE\"");
    patch(root, "model.dropout", "0.0");
    patch(root, "normalizer", NULL);
    patch(root, "pre_tokenizer.use_regex", NULL);
    assert_int_equal(open_json(root, &t, error), 0);
    check_goldens(t, "gpt2");
    tokenizer_close(t);
    json_decref(root);
}

static void story(void **state)
{
    uint64_t hash = 0xCBF29CE484222325u;
    uint32_t *ids;
    size_t bytes, count;
    char *text = read_all(TEXT, &bytes);

    (void)state;
    if (!text || access(STORY, R_OK) != 0) {
        free(text);
        fprintf(stderr, "no " STORY " or no " TEXT "\n");
        skip();
    }
    struct tokenizer *t = open_good(STORY);
    json_t *root = load_json("story_cases");
    assert_int_equal(tokenizer_vocab(t), 2048);
    const uint32_t *before = tokenizer_before(t, &count);
    assert_true(count == 1 && before[0] == 1);
    assert_true(tokenizer_special(t, 2) && !tokenizer_special(t, 3) && !tokenizer_special(t, 5000));
    assert_int_equal(tokenizer_encode(t, text, bytes, &ids, &count), 0);
    assert_int_equal(count, json_integer_value(json_object_get(root, "count")));
    assert_true(same_ids(ids, 256, json_object_get(root, "first")));
    for (size_t i = 0; i < 4 * count; i++)
        hash = (hash ^ (ids[i / 4] >> 8 * (i % 4) & 0xFF)) * 0x100000001B3u;
    assert_int_equal(hash, strtoull(json_string_value(json_object_get(root, "fnv")), NULL, 16));
    check_goldens(t, "story");
    json_decref(root);
    tokenizer_close(t);
    free(ids);
    free(text);
}

/* ---- properties -------------------------------------------------------- */

static void round_trip(const struct tokenizer *t, const char *text, size_t bytes, uint64_t seed)
{
    size_t count, back_bytes;
    uint32_t *ids;
    char *back;

    assert_int_equal(tokenizer_encode(t, text, bytes, &ids, &count), 0);
    assert_int_equal(tokenizer_decode(t, ids, count, false, &back, &back_bytes), 0);
    if (back_bytes != bytes || memcmp(back, text, bytes) != 0)
        fail_msg("seed %" PRIu64 ": %zu bytes came back as %zu others", seed, bytes, back_bytes);
    free(ids);
    free(back);
}

static void round_trips(void **state)
{
    static const char *const names[] = {"gpt2", "llama3", "llama2", "bytes"};
    size_t bytes, size = 1 << 20;
    char text[1000], *large = malloc(size);

    (void)state;
    assert_non_null(large);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = open_golden(names[i]);
        for (uint64_t seed = 1; seed <= ROUND_TRIPS; seed++) {
            uint64_t random = seed;
            random_text(&random, text, &bytes);
            round_trip(t, text, bytes, seed);
        }
        /* One piece, and one run for the regular expression, of a size that shows what isn't linear. */
        for (const char *fill = " a\n"; *fill; fill++) {
            memset(large, *fill, size);
            round_trip(t, large, size, 0);
        }
        tokenizer_close(t);
    }
    free(large);
}

/* A merge of the unknown token, which never comes up here, forbids cutting: same ids. */
static void cutting_changes_nothing(void **state)
{
    json_t *root = load_json("llama2");
    struct tokenizer *cut = open_golden("llama2"), *whole;
    char error[ERROR_BYTES], text[1000];

    (void)state;
    patch(root, "model.vocab.<unk>a", "600");
    json_array_append_new(json_object_get(json_object_get(root, "model"), "merges"), json_string("<unk> a"));
    assert_int_equal(open_json(root, &whole, error), 0);
    for (uint64_t seed = 1; seed <= ROUND_TRIPS; seed++) {
        uint64_t random = seed;
        uint32_t *a, *b;
        size_t bytes, n, m;
        random_text(&random, text, &bytes);
        assert_int_equal(tokenizer_encode(cut, text, bytes, &a, &n), 0);
        assert_int_equal(tokenizer_encode(whole, text, bytes, &b, &m), 0);
        if (n != m || (n && memcmp(a, b, n * sizeof *a) != 0))
            fail_msg("seed %" PRIu64 ": other ids when text is cut", seed);
        free(a);
        free(b);
    }
    json_decref(root);
    tokenizer_close(cut);
    tokenizer_close(whole);
}

static void byte_tokenizer(void **state)
{
    char all[256 + 16], *saved, *expected;
    size_t count, bytes, more;
    struct rlimit whole;
    struct tokenizer *t;
    const char *piece;
    uint32_t *ids;

    (void)state;
    assert_int_equal(tokenizer_bytes(&t), 0);
    assert_int_equal(tokenizer_vocab(t), 258);
    assert_true(!tokenizer_before(t, &count) && count == 0 && !tokenizer_after(t, &more) && more == 0);
    for (size_t i = 0; i < 256; i++)
        all[i] = (char)(unsigned char)(255 - i);
    memcpy(all + 256, "<|begin|><|end|>", 16);
    assert_int_equal(tokenizer_encode(t, all, sizeof all, &ids, &count), 0);
    assert_int_equal(count, 258);
    for (uint32_t i = 0; i < 256; i++) {
        assert_int_equal(ids[i], 255 - i);
        assert_int_equal(tokenizer_decode_piece(t, ids[i], i == 0, &piece, &bytes), 0);
        assert_true(bytes == 1 && piece[0] == all[i] && !tokenizer_special(t, i));
    }
    assert_true(ids[256] == 256 && ids[257] == 257 && tokenizer_special(t, 256));
    assert_int_equal(tokenizer_decode_piece(t, 258, false, &piece, &bytes), -EINVAL);
    free(ids);
    check_goldens(t, "bytes");
    tokenizer_close(t);

    /* What is saved is the file that Hugging Face made the goldens from. */
    assert_int_equal(tokenizer_save_bytes(tokenizer_path), -EEXIST); /* never over another's file */
    assert_int_equal(unlink(tokenizer_path), 0);
    assert_int_equal(tokenizer_save_bytes(tokenizer_path), 0);
    saved = read_all(tokenizer_path, &bytes);
    expected = read_all(GOLDEN "bytes.json", &more);
    assert_non_null(expected);
    assert_true(bytes == more && memcmp(saved, expected, bytes) == 0);
    free(saved);
    free(expected);
    assert_int_equal(tokenizer_save_bytes(tokenizer_absent), -ENOENT);
    assert_int_equal(unlink(tokenizer_path), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &whole), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1024, whole.rlim_max}), 0);
    assert_int_equal(tokenizer_save_bytes(tokenizer_path), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &whole), 0);
    assert_int_equal(access(tokenizer_path, F_OK), -1); /* no half of one */
    write_all("", 0);
}

static void *encode_often(void *argument)
{
    const struct tokenizer *t = argument;

    for (uint64_t seed = 1; seed <= 50; seed++) {
        char text[1000], *back;
        uint64_t random = seed;
        size_t bytes, count, back_bytes;
        uint32_t *ids;
        random_text(&random, text, &bytes);
        if (tokenizer_encode(t, text, bytes, &ids, &count) < 0)
            return argument;
        if (tokenizer_decode(t, ids, count, false, &back, &back_bytes) < 0 || back_bytes != bytes)
            return argument;
        free(ids);
        free(back);
    }
    return NULL;
}

static void threads(void **state)
{
    struct tokenizer *t = open_golden("llama3");
    pthread_t thread[4];
    void *failed;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, encode_often, t), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(thread[i], &failed), 0);
        assert_null(failed);
    }
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens),        cmocka_unit_test(goldens_notice),
        cmocka_unit_test(spellings),      cmocka_unit_test(story),
        cmocka_unit_test(round_trips),    cmocka_unit_test(cutting_changes_nothing),
        cmocka_unit_test(byte_tokenizer), cmocka_unit_test(threads),
    };

    return cmocka_run_group_tests(tests, tokenizer_setup, tokenizer_teardown);
}
