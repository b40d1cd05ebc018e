/*
 * Proves that each part of a tokenizer.json, one at a time on a small tokenizer, does
 * what it does in Hugging Face's tokenizers: normalizers, pre-tokenizers in every
 * behavior, flags of added tokens, decoders, odd vocabularies; that tables of characters
 * are the same for every one of 205,000 characters; that regular expressions match where
 * Oniguruma's do; and that files beside a tokenizer.json change what transformers lets
 * them change. The numbers come from tools/golden_tokenizer_parts.py.
 *
 * Negative controls: each of many changes to a part must make goldens of it fail
 * (goldens_notice), and files beside the tokenizer that are gone (configs).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "examples/model/tokenizer.h"
#include "examples/model/tokenizer_regex.h"
#include "tests/tokenizer_fixture.h"

#define CODES 0x32400u /* the characters that the tables are tried with */

static const char *const beside[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};

/* ---- helpers ------------------------------------------------------------ */

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

/* The base with a variant's members in the place of its own. */
static json_t *changed(const json_t *parts, const json_t *change)
{
    json_t *root = json_deep_copy(json_object_get(parts, "base"));

    const char *key;
    json_t *value;

    json_object_foreach((json_t *)change, key, value)
    {
        if (strcmp(key, "model") == 0)
            assert_int_equal(json_object_update(json_object_get(root, "model"), value), 0);
        else
            assert_int_equal(json_object_set(root, key, value), 0);
    }
    return root;
}

/* The goldens have U+E0FF where a file has a NUL, which this parser has not in keys. */
static struct tokenizer *open_changed(const json_t *parts, const json_t *change)
{
    json_t *root = changed(parts, change);
    char error[ERROR_BYTES], *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);
    struct tokenizer *t;

    assert_non_null(text);
    for (char *at = text; (at = strstr(at, "\\uE0FF"));)
        memcpy(at, "\\u0000", 6);
    write_all(text, strlen(text));
    if (tokenizer_open(tokenizer_path, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    free(text);
    json_decref(root);
    return t;
}

static bool same_ids(const uint32_t *ids, size_t count, const json_t *expected)
{
    bool same = count == json_array_size(expected);

    for (size_t i = 0; same && i < count; i++)
        same = ids[i] == (uint32_t)json_integer_value(json_array_get(expected, i));
    return same;
}

static bool case_holds(const struct tokenizer *t, const json_t *item)
{
    const json_t *text = json_object_get(item, "text");
    size_t bytes, count, want_bytes, back_bytes;
    char *raw = unhex(json_object_get(item, "bytes"), &bytes), *back, *want;
    uint32_t *ids;
    bool holds;

    assert_int_equal(tokenizer_encode(t, raw, bytes, &ids, &count), 0);
    holds = same_ids(ids, count, json_object_get(item, "ids"));
    if (holds && !json_object_get(item, "unsure")) {
        want = unhex(text ? text : json_object_get(item, "bytes"), &want_bytes);
        assert_int_equal(tokenizer_decode(t, ids, count, false, &back, &back_bytes), 0);
        holds = back_bytes == want_bytes && memcmp(back, want, back_bytes) == 0;
        free(want);
        free(back);
    }
    free(raw);
    free(ids);
    return holds;
}

/* ---- parts -------------------------------------------------------------- */

static void parts_agree(void **state)
{
    json_t *parts = load_json("parts"), *list = json_object_get(parts, "cases"), *variant, *item;
    size_t i, n, failures = 0, cases = 0;

    (void)state;
    json_array_foreach(list, i, variant)
    {
        struct tokenizer *t = open_changed(parts, json_object_get(variant, "change"));
        json_array_foreach(json_object_get(variant, "cases"), n, item)
        {
            cases++;
            if (case_holds(t, item))
                continue;
            failures++;
            print_error("variant %zu, case %zu\n", i, n);
        }
        tokenizer_close(t);
    }
    assert_true(cases > 400);
    assert_int_equal(failures, 0);
    json_decref(parts);
}

/* Each of these changes of a part must be seen by that part's cases. */
static void goldens_notice(void **state)
{
    static const char *const behaviors[] = {"Removed", "Isolated", "Contiguous", "MergedWithPrevious",
                                            "MergedWithNext"};
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    json_t *parts = load_json("parts"), *list = json_object_get(parts, "cases"), *variant, *item;
    size_t i, n, tried = 0, seen = 0;

    (void)state;
    json_array_foreach(list, i, variant)
    {
        json_t *change = json_deep_copy(json_object_get(variant, "change"));
        json_t *pre = json_object_get(change, "pre_tokenizer"),
               *added = json_object_get(change, "added_tokens");
        json_t *first = json_array_get(json_object_get(pre, "pretokenizers"), 0);
        json_t *behavior = json_object_get(first, "behavior");
        bool noticed = false;
        if (json_is_string(behavior)) {
            size_t b = 0;
            while (strcmp(behaviors[b], json_string_value(behavior)) != 0)
                b++;
            json_object_set_new(first, "behavior", json_string(behaviors[(b + 1) % 5]));
        } else if (json_array_size(added) == 5) {
            bool set = json_is_true(json_object_get(json_array_get(added, 0), flags[i % 4]));
            json_array_foreach(added, n, item)
            {
                json_object_set_new(item, flags[i % 4], json_boolean(!set));
            }
        } else {
            json_decref(change);
            continue;
        }
        struct tokenizer *t = open_changed(parts, change);
        json_array_foreach(json_object_get(variant, "cases"), n, item)
        {
            noticed |= !case_holds(t, item);
        }
        tried++;
        seen += noticed;
        tokenizer_close(t);
        json_decref(change);
    }
    /* Some patterns give the same pieces in two behaviors, and some flags do nothing to these texts. */
    if (tried < 30 || seen * 2 < tried)
        fail_msg("%zu of %zu changes were noticed", seen, tried);
    json_decref(parts);
}

static size_t put_char(char *out, uint32_t code)
{
    size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = count; i-- > 1; code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(count == 1 ? code : (0xF00u >> count & 0xFF) << (count == 1) | code);
    return count;
}

/* Each character between an a and a b. */
static char *codes_text(size_t *bytes)
{
    char *text = malloc(6 * (size_t)CODES);

    assert_non_null(text);
    *bytes = 0;
    for (uint32_t code = 0; code < CODES; code++) {
        if (code >= 0xD800 && code < 0xE000)
            continue;
        text[(*bytes)++] = 'a';
        *bytes += put_char(text + *bytes, code);
        text[(*bytes)++] = 'b';
    }
    return text;
}

static void characters_agree(void **state)
{
    json_t *parts = load_json("parts"), *item;
    size_t bytes, count, failures = 0, i;
    char *text = codes_text(&bytes);
    uint32_t *ids;

    (void)state;
    json_array_foreach(json_object_get(parts, "codes"), i, item)
    {
        if (getenv("TSAN_OPTIONS") && i % 8) /* of one thread */
            continue;
        struct tokenizer *t = open_changed(parts, json_object_get(item, "change"));
        uint64_t hash = 0xCBF29CE484222325u;
        assert_int_equal(tokenizer_encode(t, text, bytes, &ids, &count), 0);
        for (size_t n = 0; n < 4 * count; n++)
            hash = (hash ^ (ids[n / 4] >> 8 * (n % 4) & 0xFF)) * 0x100000001B3u;
        if (hash != strtoull(json_string_value(json_object_get(item, "fnv")), NULL, 16)) {
            failures++;
            char *shown = json_dumps(json_object_get(item, "change"), JSON_COMPACT);
            print_error("%s\n", shown);
            free(shown);
        }
        tokenizer_close(t);
        free(ids);
    }
    assert_true(i > 40);
    assert_int_equal(failures, 0);
    free(text);
    json_decref(parts);
}

/* ---- regular expressions ------------------------------------------------ */

/* Whether the matches that aren't empty are those from and to in spans. */
static bool matches_are(const struct tok_regex *re, const char *text, size_t bytes, const json_t *spans)
{
    struct tok_matcher m = {0};
    struct tok_find find = {0};
    size_t at = 0;
    bool same = true;
    int rc;

    while ((rc = tok_regex_next(re, &m, text, bytes, &find)) == 1) {
        if (find.start == find.end)
            continue;
        same = same && (size_t)json_integer_value(json_array_get(spans, at)) == find.start &&
               (size_t)json_integer_value(json_array_get(spans, at + 1)) == find.end;
        at += 2;
    }
    assert_int_equal(rc, 0);
    tok_matcher_free(&m);
    return same && at == json_array_size(spans);
}

static void patterns_agree(void **state)
{
    json_t *root = load_json("regex"), *item;
    size_t i, matched = 0, refused = 0, unsupported = 0, shifted = 0;
    struct tok_regex_error error;
    struct tok_regex *re;

    (void)state;
    json_array_foreach(json_object_get(root, "cases"), i, item)
    {
        const json_t *spans = json_array_get(item, 2), *text = json_array_get(item, 1);
        const char *pattern = json_string_value(json_array_get(item, 0));
        int rc = tok_regex_compile(pattern, strlen(pattern), false, &re, &error);
        if (rc < 0) {
            assert_true(rc == -EINVAL || rc == -ENOTSUP);
            assert_non_null(error.cause);
            assert_true(error.at <= strlen(pattern));
            if (rc == -EINVAL && json_is_array(spans))
                fail_msg("%s is refused: %s", pattern, error.cause);
            refused += json_is_null(spans);
            unsupported += json_is_array(spans);
            continue;
        }
        if (json_is_array(spans)) {
            if (!matches_are(re, json_string_value(text), json_string_length(text), spans))
                fail_msg("case %zu: %s", i, pattern);
            matched++;
            /* Negative control: another text has other matches. */
            char longer[200];
            snprintf(longer, sizeof longer, "!%s", json_string_value(text));
            shifted += json_array_size(spans) > 0 && !matches_are(re, longer, strlen(longer), spans);
        }
        tok_regex_free(re);
    }
    assert_true(matched > 200 && refused > 15 && unsupported < matched / 8 && shifted > 50);
    json_decref(root);
}

/* Patterns that backtrack without end give up, and those that grow are refused. */
static void patterns_end(void **state)
{
    static const char *const large[] = {"(?:(?:ab){300}){300}", "(?:(?:ab|c){300}){300}",
                                        "(?:(?:){100000}){100000}"};
    struct tok_regex_error error;
    struct tok_matcher m = {0};
    struct tok_find find = {0};
    struct tok_regex *re;
    char text[201], *deep = malloc(100001);

    (void)state;
    memset(text, 'a', sizeof text);
    text[200] = 'c';
    assert_int_equal(tok_regex_compile("(a|a)+b", 7, false, &re, &error), 0);
    assert_int_equal(tok_regex_next(re, &m, text, sizeof text, &find), -ELOOP);
    tok_regex_free(re);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(tok_regex_compile(large[i], strlen(large[i]), false, &re, &error), -ENOTSUP);
        assert_non_null(strstr(error.cause, "too large"));
    }
    assert_int_equal(tok_regex_compile(large[2], strlen(large[2]), false, &re, &error), 0);
    tok_regex_free(re);
    assert_non_null(deep);
    for (const char *c = "([a"; *c; c++) { /* groups, classes and characters, all too many */
        memset(deep, *c, 100001);
        assert_int_equal(tok_regex_compile(deep, 100001, false, &re, &error), -ENOTSUP);
        assert_true(tok_regex_compile(deep, 60000, false, &re, &error) == (*c == 'a' ? 0 : -ENOTSUP));
        tok_regex_free(re);
    }
    free(deep);
    tok_matcher_free(&m);
}

/* ---- files beside it ---------------------------------------------------- */

static void beside_path(const char *name, char path[300])
{
    snprintf(path, 300, "%s/%s", tokenizer_dir, name);
}

static void write_beside(const json_t *files)
{
    char path[300];

    for (size_t i = 0; i < 3; i++) {
        const json_t *file = json_object_get(files, beside[i]);
        beside_path(beside[i], path);
        unlink(path);
        if (file)
            assert_int_equal(json_dump_file(file, path, 0), 0);
    }
}

static bool whole_holds(const struct tokenizer *t, const json_t *item)
{
    const json_t *expected = json_object_get(item, "ids");
    size_t bytes, count, before, after;
    char *raw = unhex(json_object_get(item, "bytes"), &bytes);
    const uint32_t *start = tokenizer_before(t, &before), *end = tokenizer_after(t, &after);
    uint32_t *ids;
    bool holds;

    assert_int_equal(tokenizer_encode(t, raw, bytes, &ids, &count), 0);
    holds = before + count + after == json_array_size(expected);
    for (size_t i = 0; holds && i < json_array_size(expected); i++) {
        uint32_t id = i < before ? start[i] : i < before + count ? ids[i - before] : end[i - before - count];
        holds = id == (uint32_t)json_integer_value(json_array_get(expected, i));
    }
    free(raw);
    free(ids);
    return holds;
}

static void configs(void **state)
{
    json_t *parts = load_json("parts"), *root = load_json("configs"), *item, *one;
    size_t i, n, matter = 0;

    (void)state;
    json_array_foreach(json_object_get(root, "cases"), i, item)
    {
        bool holds = true;
        write_beside(json_object_get(item, "files"));
        struct tokenizer *t = open_changed(parts, json_object_get(item, "change"));
        json_array_foreach(json_object_get(item, "cases"), n, one)
        {
            if (!whole_holds(t, one))
                fail_msg("config %zu, text %zu", i, n);
        }
        tokenizer_close(t);
        write_beside(NULL);
        t = open_changed(parts, json_object_get(item, "change"));
        json_array_foreach(json_object_get(item, "cases"), n, one)
        {
            holds = holds && whole_holds(t, one);
        }
        matter += !holds;
        tokenizer_close(t);
    }
    assert_true(i >= 50 && matter > 20);
    json_decref(root);
    json_decref(parts);
}

static void bad_configs(void **state)
{
    static const struct {
        const char *name, *text, *says;
    } files[] = {
        {"tokenizer_config.json", "{", "tokenizer_config.json beside it is not JSON"},
        {"tokenizer_config.json", "[]", "tokenizer_config.json beside it is not a JSON object"},
        {"tokenizer_config.json", "{\"split_special_tokens\":3}", "split_special_tokens is 3"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":[]}", "added_tokens_decoder is an array"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}",
         "it must have an id"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"1\":{\"content\":\"y\",\"lstrip\":1}}}",
         "lstrip is 1"},
        {"tokenizer_config.json", "{\"bos_token\":{\"lstrip\":true}}", "bos_token is an object"},
        {"special_tokens_map.json", "7", "special_tokens_map.json beside it is not JSON"},
        {"added_tokens.json", "{\"a\"}", "added_tokens.json beside it is not JSON"},
    };
    json_t *parts = load_json("parts"), *root = changed(parts, NULL);
    char error[ERROR_BYTES], path[300];
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        beside_path(files[i].name, path);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(files[i].text, file);
        fclose(file);
        if (open_json(root, &t, error) != (strstr(files[i].says, "is not JSON") ? -EBADMSG : -EINVAL) ||
            !strstr(error, files[i].says))
            fail_msg("'%s' instead of '%s'", error, files[i].says);
        unlink(path);
    }
    json_decref(root);
    json_decref(parts);
}

/* ---- post-processors ---------------------------------------------------- */

static void bad_processors(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *says;
    } cases[] = {
        {"[]", -EINVAL, "post_processor.type is absent"},
        {"{'type':'Other'}", -ENOTSUP, "post_processor.type is \"Other\""},
        {"{'type':'Sequence'}", -EINVAL, "post_processor.processors is absent"},
        {"{'type':'TemplateProcessing'}", -EINVAL, "post_processor.single is absent"},
        {"{'type':'TemplateProcessing','single':[]}", -ENOTSUP, "without the text"},
        {"{'type':'TemplateProcessing','single':[{'Sequence':{'id':'B'}}]}", -EINVAL, "single[0] is \"B\""},
        {"{'type':'TemplateProcessing','single':[{'Sequence':{'id':'A'}},{'Sequence':{'id':'A'}}]}", -ENOTSUP,
         "a second time"},
        {"{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}],'special_tokens':{}}", -EINVAL,
         "single[0]: its token is not in special_tokens"},
        {"{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}],"
         "'special_tokens':{'x':{'ids':[-1]}}}",
         -EINVAL, "single[0] is -1"},
        {"{'type':'BertProcessing','sep':['x',1]}", -EINVAL, "post_processor.cls is absent"},
        {"{'type':'Sequence','processors':[{'type':'BertProcessing','sep':['x',1],'cls':['y',2]},"
         "{'type':'BertProcessing','sep':['x',1],'cls':['y',2]}]}",
         -ENOTSUP, "processors[1]: a second one"},
    };
    json_t *parts = load_json("parts");
    char error[ERROR_BYTES], text[400];
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = changed(parts, NULL);
        snprintf(text, sizeof text, "%s", cases[i].text);
        for (char *c = text; *c; c++)
            *c = (char)(*c == '\'' ? '"' : *c);
        json_object_set_new(root, "post_processor", json_loads(text, 0, NULL));
        if (open_json(root, &t, error) != cases[i].code || !strstr(error, cases[i].says))
            fail_msg("'%s' instead of '%s'", error, cases[i].says);
        json_decref(root);
    }
    json_decref(parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_agree),      cmocka_unit_test(goldens_notice),
        cmocka_unit_test(characters_agree), cmocka_unit_test(patterns_agree),
        cmocka_unit_test(patterns_end),     cmocka_unit_test(configs),
        cmocka_unit_test(bad_configs),      cmocka_unit_test(bad_processors),
    };

    return cmocka_run_group_tests(tests, tokenizer_setup, tokenizer_teardown);
}
