/*
 * Proves that conversations become the tokens, and the labels, of transformers' apply_chat_template with
 * return_assistant_tokens_mask, or of the rule of docs/chat.md where a template marks nothing, for templates in the
 * manner of nine families with small tokenizers of their kinds; what fails there fails here. That a directory's
 * template, special tokens and settings are found where Hugging Face puts them. That prompts with completions learn
 * the completion. The expected numbers come from tools/golden_chat.py.
 *
 * Negative controls: with the messages of another case, or all but the last not learned, cases must fail.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "examples/model/chat.h"
#include "tests/temporary.h"

#define GOLDEN "tests/golden/chat_cases.json"

static char dir[512];

/* ---- directories ---------------------------------------------------------------- */

static void put(const char *name, const char *text)
{
    char path[600];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void put_json(const char *name, const json_t *j)
{
    char *text = json_dumps(j, 0);

    assert_non_null(text);
    put(name, text);
    free(text);
}

static void clear(void)
{
    static const char *const names[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "special_tokens_map.json", "tokenizer.json"};
    char path[600];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *j = json_load_file(path, 0, &error);

    if (!j)
        fail_msg("%s: %s", path, error.text);
    return j;
}

/* A tokenizer of tests/golden with a family's tokens, and a template. */
static void make_model(const json_t *kind, const char *template)
{
    char path[256];
    json_t *tokenizer, *settings = json_copy(json_object_get(kind, "special"));

    snprintf(path, sizeof path, "tests/golden/tokenizer_%s.json",
             json_string_value(json_object_get(kind, "base")));
    tokenizer = load(path);
    json_object_set(tokenizer, "added_tokens", json_object_get(kind, "added_tokens"));
    json_object_set_new(settings, "chat_template", json_string(template));
    clear();
    put_json("tokenizer.json", tokenizer);
    put_json("tokenizer_config.json", settings);
    json_decref(tokenizer);
    json_decref(settings);
}

static struct tokenizer *open_tokenizer(void)
{
    struct tokenizer *t;
    char path[600], error[512];

    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (tokenizer_open(path, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    return t;
}

static struct chat *open_chat(void)
{
    struct chat *c;
    char error[512];

    if (chat_open(dir, &c, error, sizeof error) < 0)
        fail_msg("%s", error);
    return c;
}

/* ---- goldens --------------------------------------------------------------------- */

static bool tokens_are(const struct chat_tokens *t, const json_t *one)
{
    const json_t *ids = json_object_get(one, "ids");
    const char *learned = json_string_value(json_object_get(one, "learned"));
    bool same = learned && t->count == json_array_size(ids);

    for (size_t i = 0; i < t->count && same; i++)
        same = (json_int_t)t->ids[i] == json_integer_value(json_array_get(ids, i)) &&
               t->learned[i] == (learned[i] == '1');
    return same;
}

/* Whether a case comes to what it should with these messages, of which the first are not learned. */
static bool case_holds(const json_t *all, const json_t *one, const char *talk, size_t skipped,
                       char error[512])
{
    const char *name = json_string_value(json_object_get(one, "template"));
    json_t *tools = strcmp(talk, "tools") == 0 ? json_pack("[O]", json_object_get(all, "tool")) : NULL;
    struct chat_request request = {.messages = json_object_get(json_object_get(all, "conversations"), talk),
                                   .tools = tools,
                                   .learned = skipped};
    struct chat_tokens tokens;
    struct tokenizer *t;
    struct chat *c;
    bool holds;
    int err;

    make_model(
        json_object_get(json_object_get(all, "kinds"), json_string_value(json_object_get(one, "kind"))),
        json_string_value(json_object_get(json_object_get(all, "templates"), name)));
    t = open_tokenizer();
    c = open_chat();
    error[0] = '\0';
    err = chat_encode(c, t, &request, &tokens, error, 512);
    holds = json_object_get(one, "fails") ? err < 0 && error[0] : err == 0 && tokens_are(&tokens, one);
    chat_tokens_free(&tokens);
    chat_close(c);
    tokenizer_close(t);
    json_decref(tools);
    return holds;
}

static void goldens_agree(void **state)
{
    json_t *all = load(GOLDEN), *one;
    size_t i, bad = 0;
    char error[512];

    (void)state;
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        const char *talk = json_string_value(json_object_get(one, "conversation"));

        if (!case_holds(all, one, talk, 0, error)) {
            bad++;
            print_error("%s, %s: other than the golden: %s\n",
                        json_string_value(json_object_get(one, "template")), talk, error);
        }
    }
    assert_true(i > 100);
    assert_int_equal(bad, 0);
    json_decref(all);
}

static void goldens_notice(void **state)
{
    json_t *all = load(GOLDEN), *one;
    char error[512];
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        const char *talk = json_string_value(json_object_get(one, "conversation"));

        if (json_object_get(one, "fails"))
            continue;
        if (strcmp(talk, "one") == 0)
            assert_false(case_holds(all, one, "question", 0, error));
        if (strcmp(talk, "several") == 0) /* labels alone */
            assert_false(case_holds(all, one, "several", 4, error));
    }
    json_decref(all);
}

/* ---- where things are --------------------------------------------------------------- */

static char *prompt_of(const json_t *tools)
{
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Hi");
    struct chat_request request = {.messages = messages, .tools = tools};
    struct chat *c = open_chat();
    char *text, error[512] = "";
    size_t bytes;
    int err = chat_prompt(c, &request, &text, &bytes, error, sizeof error);

    if (err < 0)
        text = strdup(error);
    else
        assert_int_equal(strlen(text), bytes);
    chat_close(c);
    json_decref(messages);
    return text;
}

static void assert_prompt(const json_t *tools, const char *want)
{
    char *text = prompt_of(tools);

    if (!strstr(text, want))
        fail_msg("%s: no %s", text, want);
    free(text);
}

static void templates_are_found(void **state)
{
    json_t *tools = json_pack("[{s:s}]", "type", "function");

    (void)state;
    clear();
    assert_prompt(NULL, "has no chat template, neither a chat_template.jinja");
    put("tokenizer_config.json", "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": "
                                 "{\"content\": \"<b>\"}, \"eos_token\": null, \"chat_template\": "
                                 "\"old {{ bos_token }}{{ eos_token }}{{ messages[0].content }}\"}");
    assert_prompt(NULL, "old <b>Hi");
    put("special_tokens_map.json", "{\"bos_token\": \"<other>\", \"eos_token\": \"<e>\"}");
    assert_prompt(NULL, "old <b><e>Hi");
    put("chat_template.jinja", "new {{ add_generation_prompt }} {{ tools is none }}\n");
    assert_prompt(NULL, "new True True");
    assert_prompt(tools, "new True False");
    clear();
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"plain\"}, {\"name\": "
        "\"tool_use\", \"template\": \"tools {{ tools | length }}\"}]}");
    assert_prompt(NULL, "plain");
    assert_prompt(tools, "tools 1");
    json_decref(tools);
}

/* A template that can't be, and settings that can't: a sentence when the directory is opened. */
static void bad_directories_are_refused(void **state)
{
    static const struct {
        const char *name, *text, *words;
    } cases[] = {
        {"chat_template.jinja", "a\n{% include 'x' %}", "chat_template.jinja, line 2: tag 'include'"},
        {"tokenizer_config.json", "{\"chat_template\": 7}", "it is not a string"},
        {"tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}",
         "none of its templates is called \"default\""},
        {"tokenizer_config.json", "{\"chat_template\": ", "tokenizer_config.json: line 1"},
        {"tokenizer_config.json", "[]", "not a JSON object"},
    };
    char error[512];
    struct chat *c;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        clear();
        put(cases[i].name, cases[i].text);
        assert_true(chat_open(dir, &c, error, sizeof error) < 0);
        assert_null(c);
        if (!strstr(error, cases[i].words))
            fail_msg("%s: no %s", error, cases[i].words);
    }
}

static void bad_conversations_are_refused(void **state)
{
    static const struct {
        const char *messages, *words;
    } cases[] = {
        {"[]", "messages is not a list with at least one message"},
        {"{\"role\": \"user\"}", "messages is not a list"},
        {"[{\"role\": \"user\", \"content\": \"a\"}, 7]", "message 2 is not an object with a \"role\""},
        {"[{\"content\": \"a\"}]", "message 1 is not an object with a \"role\""},
        {"[{\"role\": \"user\", \"content\": \"a\"}]", "the template refuses: not this"},
    };
    struct chat *c;

    (void)state;
    clear();
    put("chat_template.jinja", "{{ raise_exception('not this') }}");
    c = open_chat();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chat_request request = {.messages = json_loads(cases[i].messages, 0, NULL)};
        struct chat_tokens tokens;
        char error[512] = "";

        assert_true(chat_encode(c, NULL, &request, &tokens, error, sizeof error) < 0);
        if (!strstr(error, cases[i].words))
            fail_msg("%s: no %s", error, cases[i].words);
        json_decref((json_t *)request.messages);
    }
    chat_close(c);
}

/* ---- prompts with completions ---------------------------------------------------------- */

static void completions_are_learned(void **state)
{
    static const struct {
        const char *text;
        size_t from;
        const char *learned;
    } cases[] = {{"abc", 1, "011"},
                 {"abc", 0, "111"},
                 {"abc", 3, "000"},
                 {"\xC3\xA9\xC3\xA9", 2, "0011"},
                 {"", 0, ""}};
    struct tokenizer *t;

    (void)state;
    assert_int_equal(tokenizer_bytes(&t), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chat_tokens tokens;
        char error[512];

        assert_int_equal(chat_encode_text(t, cases[i].text, strlen(cases[i].text), cases[i].from, &tokens,
                                          error, sizeof error),
                         0);
        assert_int_equal(tokens.count, strlen(cases[i].learned));
        for (size_t k = 0; k < tokens.count; k++)
            assert_int_equal(tokens.learned[k], cases[i].learned[k] == '1');
        chat_tokens_free(&tokens);
    }
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens_agree),
        cmocka_unit_test(goldens_notice),
        cmocka_unit_test(templates_are_found),
        cmocka_unit_test(bad_directories_are_refused),
        cmocka_unit_test(bad_conversations_are_refused),
        cmocka_unit_test(completions_are_learned),
    };

    if (temporary_dir("chat", dir, sizeof dir) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
