/*
 * Proves what training data goes through before it is trained on: that a text encoded piece by piece has the tokens
 * of the text in one, for each kind of tokenizer and for pieces down to a few bytes, and is kept where it can't be
 * cut; that what is no text is seen; that an array beyond its memory comes back from its file; that learning rates
 * follow their schedules.
 *
 * Negative controls: cutting at any byte makes other tokens.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/common_spool.h"
#include "examples/model/schedule.h"
#include "examples/model/text.h"

/* ---- pieces ---------------------------------------------------------------------- */

struct taken {
    uint32_t *ids;
    size_t count, room;
    int code; /* that take gives */
};

static int take(void *arg, const uint32_t *ids, size_t count)
{
    struct taken *t = arg;

    if (t->count + count > t->room) {
        t->room = 2 * (t->count + count);
        t->ids = realloc(t->ids, t->room * sizeof *t->ids);
        assert_non_null(t->ids);
    }
    for (size_t i = 0; i < count; i++)
        t->ids[t->count++] = ids[i];
    return t->code;
}

/* Words, numbers, signs and scripts, in lines of different lengths. */
static char *make_text(size_t bytes)
{
    static const char *const words[] = {"the",
                                        "Tari",
                                        "so",
                                        "len mer",
                                        "don't",
                                        "2024",
                                        "3.14",
                                        "x=y;",
                                        "->",
                                        "{",
                                        "\xC3\xA9t",
                                        "gr\xC3\xBC",
                                        "\xE6\x97\xA5\xE6\x9C\xAC",
                                        "a",
                                        "\xF0\x9F\x99\x82",
                                        "mer.",
                                        "I'M"};
    static const char *const between[] = {" ", " ", " ", " ", "  ", "\n", "\n\n", ".\n", "\n    ", "\t"};
    char *out = malloc(bytes + 64);
    uint64_t seed = 3;
    size_t at = 0;

    assert_non_null(out);
    while (at < bytes) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        at += (size_t)sprintf(out + at, "%s%s", words[(seed >> 33) % 17], between[(seed >> 40) % 10]);
    }
    return out;
}

/* The tokens that pieces give; whatever parts the text comes in. */
static void stream(const struct tokenizer *t, const char *text, size_t bytes, size_t piece, struct taken *out)
{
    struct text_stream *x;

    *out = (struct taken){0};
    assert_int_equal(text_open(t, piece, take, out, &x), 0);
    for (size_t at = 0, n; at < bytes; at += n) {
        n = 1 + at * 7 % 999;
        n = n < bytes - at ? n : bytes - at;
        assert_int_equal(text_add(x, text + at, n), 0);
    }
    assert_int_equal(text_end(x), 0);
    assert_int_equal(text_waiting(x), 0);
    text_close(x);
}

static bool same_tokens(const struct taken *a, const uint32_t *ids, size_t count)
{
    return a->count == count && memcmp(a->ids, ids, count * sizeof *ids) == 0;
}

static void pieces_have_the_tokens_of_the_whole(void **state)
{
    static const char *const names[] = {"llama2", "llama3", "gpt2", "first", "prefix", "words"};
    static const size_t pieces[] = {1, 300, 4096, 1u << 20};
    char *text = make_text(60000), path[256], error[512];
    size_t bytes = strlen(text), count;

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct tokenizer *t;
        uint32_t *ids;

        snprintf(path, sizeof path, "tests/golden/tokenizer_%s.json", names[i]);
        if (tokenizer_open(path, &t, error, sizeof error) < 0)
            fail_msg("%s", error);
        assert_int_equal(tokenizer_encode(t, text, bytes, &ids, &count), 0);
        for (size_t k = 0; k < sizeof pieces / sizeof pieces[0]; k++) {
            struct taken got;

            stream(t, text, bytes, pieces[k], &got);
            if (!same_tokens(&got, ids, count))
                fail_msg("%s, pieces of %zu: other tokens than those of the whole", names[i], pieces[k]);
            free(got.ids);
        }
        free(ids);
        tokenizer_close(t);
    }
    free(text);
}

/* The control: what any place would give. */
static void a_cut_anywhere_would_not_do(void **state)
{
    char *text = make_text(3000), error[512];
    struct tokenizer *t;
    uint32_t *whole, *part;
    size_t count, bad = 0, n, rest;

    (void)state;
    assert_int_equal(tokenizer_open("tests/golden/tokenizer_llama2.json", &t, error, sizeof error), 0);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), &whole, &count), 0);
    for (size_t at = 1000; at < 1100; at++) {
        assert_int_equal(tokenizer_encode(t, text, at, &part, &n), 0);
        free(part);
        assert_int_equal(tokenizer_encode(t, text + at, strlen(text) - at, &part, &rest), 0);
        free(part);
        bad += n + rest != count;
    }
    assert_true(bad > 50);
    free(whole);
    free(text);
    tokenizer_close(t);
}

static void what_can_not_be_cut_waits(void **state)
{
    struct taken got = {0};
    struct text_stream *x;
    struct tokenizer *t;
    char run[4096];

    (void)state;
    memset(run, 'x', sizeof run);
    assert_int_equal(tokenizer_bytes(&t), 0);
    assert_int_equal(text_open(t, 512, take, &got, &x), 0);
    for (int i = 0; i < 16; i++)
        assert_int_equal(text_add(x, run, sizeof run), 0);
    assert_int_equal(got.count, 0);
    assert_int_equal(text_waiting(x), 16 * sizeof run);
    assert_int_equal(text_add(x, "\nNext", 5), 0);
    for (int i = 0; i < 32; i++) /* as much again: a cut is looked for when it has doubled */
        assert_int_equal(text_add(x, run, sizeof run), 0);
    assert_true(got.count >= 16 * sizeof run);
    got.code = -ECANCELED; /* who takes them may end it */
    assert_int_equal(text_end(x), -ECANCELED);
    text_close(x);
    free(got.ids);
    tokenizer_close(t);
}

/* ---- is it text? -------------------------------------------------------------------- */

static void what_is_no_text_is_seen(void **state)
{
    static const struct {
        const char *bytes;
        size_t count, looked;
        const char *binary;
        bool nul;
        uint64_t ill, first;
    } cases[] = {
        {"text \xC3\xA9\n", 8, 8, NULL, false, 0, 0},
        {"a\0b", 3, 1, NULL, true, 0, 1},
        {"\x1F\x8Bxx", 4, 4, "a gzip file", false, 1, 1},
        {"PAR1xxxx", 8, 8, "a Parquet file", false, 0, 0},
        {"ab\xE9"
         "cd",
         5, 5, NULL, false, 1, 2},
        {"ab\xC3", 3, 2, NULL, false, 0, 0}, /* cut */
        {"\xED\xA0\x80", 3, 3, NULL, false, 3, 0},
        {"\xF0\x9F\x99", 3, 0, NULL, false, 0, 0},
        {"\xC0\xAF", 2, 2, NULL, false, 2, 0},
        {"\xFF\xFEh", 3, 3, "text in UTF-16", false, 2, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct text_look look;

        text_look(cases[i].bytes, cases[i].count, &look);
        if (look.nul != cases[i].nul || look.ill_formed != cases[i].ill || look.first_bad != cases[i].first ||
            look.looked != cases[i].looked || !look.binary != !cases[i].binary ||
            (look.binary && strcmp(look.binary, cases[i].binary) != 0))
            fail_msg("case %zu: %s, nul %d, %llu ill-formed, first %llu, looked at %zu", i,
                     look.binary ? look.binary : "text", look.nul, (unsigned long long)look.ill_formed,
                     (unsigned long long)look.first_bad, look.looked);
    }
}

static void characters_are_shown_whole(void **state)
{
    static const struct {
        const char *text;
        size_t whole;
    } cases[] = {{"", 0},
                 {"ab", 2},
                 {"a\xC3", 1},
                 {"a\xC3\xA9", 3},
                 {"\xF0\x9F\x99", 0},
                 {"\xF0\x9F\x99\x82", 4},
                 {"\xF0\x9F"
                  "a",
                  3},
                 {"\xA9\xA9", 2},
                 {"\xE0\x80", 2},
                 {"\xFF\xE6\x97", 1}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (text_whole(cases[i].text, strlen(cases[i].text)) != cases[i].whole)
            fail_msg("case %zu: %zu", i, text_whole(cases[i].text, strlen(cases[i].text)));
}

/* ---- arrays in files ------------------------------------------------------------------- */

static void arrays_come_back(void **state)
{
    static const uint64_t counts[] = {0, 5, COMMON_SPOOL_BYTES / 8, COMMON_SPOOL_BYTES / 8 + 1,
                                      COMMON_SPOOL_BYTES / 8 * 2 + 3};
    uint64_t part[1000];

    (void)state;
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct common_spool s;
        const void *items;

        common_spool_begin(&s, "numbers", sizeof part[0], NULL);
        for (uint64_t at = 0, n; at < counts[c]; at += n) {
            n = counts[c] - at < 1000 ? counts[c] - at : 1000;
            for (uint64_t i = 0; i < n; i++)
                part[i] = (at + i) * 0x9E3779B97F4A7C15u;
            assert_int_equal(common_spool_add(&s, part, n), 0);
        }
        assert_int_equal(common_spool_end(&s, &items), 0);
        assert_int_equal(s.count, counts[c]);
        assert_true((s.fd >= 0) == (counts[c] * 8 > COMMON_SPOOL_BYTES)); /* both kinds are tried */
        for (uint64_t i = 0; i < counts[c]; i++)
            if (((const uint64_t *)items)[i] != i * 0x9E3779B97F4A7C15u)
                fail_msg("item %llu of %llu is another", (unsigned long long)i,
                         (unsigned long long)counts[c]);
        common_spool_free(&s);
    }
}

/* ---- learning rates ---------------------------------------------------------------------- */

static void rates_follow_schedules(void **state)
{
    static const struct {
        struct schedule s;
        uint64_t step;
        double rate;
    } cases[] = {
        {{SCHEDULE_CONSTANT, 2, 0, 100, 0, 10}, 1, 2},   {{SCHEDULE_CONSTANT, 2, 0, 100, 0, 10}, 100, 2},
        {{SCHEDULE_CONSTANT, 2, 0, 100, 4, 10}, 1, 0.5}, {{SCHEDULE_CONSTANT, 2, 0, 100, 4, 10}, 4, 2},
        {{SCHEDULE_LINEAR, 2, 0, 100, 0, 10}, 1, 2},     {{SCHEDULE_LINEAR, 2, 0, 100, 0, 10}, 51, 1},
        {{SCHEDULE_LINEAR, 2, 1, 100, 50, 10}, 25, 1},   {{SCHEDULE_LINEAR, 2, 1, 100, 50, 10}, 51, 2},
        {{SCHEDULE_LINEAR, 2, 1, 100, 50, 10}, 76, 1.5}, {{SCHEDULE_LINEAR, 2, 0, 100, 0, 10}, 100, 0.02},
        {{SCHEDULE_COSINE, 2, 0, 100, 0, 10}, 1, 2},     {{SCHEDULE_COSINE, 2, 0, 100, 0, 10}, 51, 1},
        {{SCHEDULE_COSINE, 2, 1, 100, 20, 10}, 61, 1.5}, {{SCHEDULE_COSINE, 2, 0, 90, 0, 10}, 31, 1.5},
        {{SCHEDULE_WSD, 2, 0, 100, 10, 20}, 5, 1},       {{SCHEDULE_WSD, 2, 0, 100, 10, 20}, 80, 2},
        {{SCHEDULE_WSD, 2, 0, 100, 10, 20}, 81, 2},      {{SCHEDULE_WSD, 2, 0, 100, 10, 20}, 91, 1},
        {{SCHEDULE_WSD, 2, 1, 100, 10, 20}, 100, 1.05},  {{SCHEDULE_LINEAR, 2, 0, 10, 10, 10}, 10, 2},
        {{SCHEDULE_LINEAR, 2, 0, 10, 50, 10}, 10, 0.4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double got = schedule_rate(&cases[i].s, cases[i].step);

        if (fabs(got - cases[i].rate) > 1e-12)
            fail_msg("case %zu, step %llu: %.17g, not %.17g", i, (unsigned long long)cases[i].step, got,
                     cases[i].rate);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_have_the_tokens_of_the_whole),
        cmocka_unit_test(a_cut_anywhere_would_not_do),
        cmocka_unit_test(what_can_not_be_cut_waits),
        cmocka_unit_test(what_is_no_text_is_seen),
        cmocka_unit_test(characters_are_shown_whole),
        cmocka_unit_test(arrays_come_back),
        cmocka_unit_test(rates_follow_schedules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
