/*
 * Proves that chat templates give the text, and mark the bytes, that Jinja gives with transformers' settings: single
 * expressions, white space, scopes, loops and macros, and templates in the manner of nine families over conversations
 * with tools, thinking and parts; what fails there fails here. That what is not covered is refused by its name and
 * line. That a template can't hang, fill the memory or overflow the stack: each limit has a template that reaches it.
 * That damaged templates are refused or run, whatever the damage. The expected texts come from
 * tools/golden_template.py.
 *
 * Negative controls: a case with its template changed must fail; a template just inside of each limit must pass.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/model/template.h"

#define GOLDEN "tests/golden/template_cases.json"

/* ---- helpers ------------------------------------------------------------------------ */

static json_t *golden(void)
{
    json_error_t error;
    json_t *all = json_load_file(GOLDEN, 0, &error);

    if (!all)
        fail_msg("%s, line %d: %s", GOLDEN, error.line, error.text);
    return all;
}

/* Compiles and renders: 0 or the code, with the sentence. */
static int render(const char *source, size_t bytes, const json_t *variables, struct template_text *out,
                  char error[512])
{
    struct template *t;
    int err = template_compile(source, bytes, "x.jinja", &t, error, 512);

    *out = (struct template_text){0};
    if (err == 0)
        err = template_render(t, variables, out, error, 512);
    template_free(t);
    return err;
}

static json_t *variables_of(const json_t *all, const json_t *one)
{
    json_t *given = json_object_get(one, "variables"), *v;
    const char *kind = json_string_value(json_array_get(given, 0));
    json_t *asks = json_array_get(given, 1), *tool = json_object_get(all, "tool");

    if (!given) {
        v = json_deep_copy(json_object_get(all, "values"));
        json_object_set_new(v, "tools", json_null());
        return v;
    }
    return json_pack("{s:s, s:s, s:O, s:o, s:n, s:O}", "bos_token", "<s>", "eos_token", "</s>", "messages",
                     json_object_get(json_object_get(all, "conversations"), kind), "tools",
                     json_is_true(asks) ? json_pack("[O]", tool) : json_null(), "documents",
                     "add_generation_prompt", asks);
}

static bool spans_are(const struct template_text *text, const json_t *spans)
{
    bool same = text->span_count == json_array_size(spans);

    for (size_t i = 0; i < text->span_count && same; i++) {
        const json_t *span = json_array_get(spans, i);

        same = (json_int_t)text->spans[i].from == json_integer_value(json_array_get(span, 0)) &&
               (json_int_t)text->spans[i].to == json_integer_value(json_array_get(span, 1));
    }
    return same;
}

/* Whether a case comes to what it should; complains if loud. */
static bool case_holds(const json_t *all, const json_t *one, const char *source, bool loud)
{
    const json_t *want = json_object_get(one, "text");
    json_t *variables = variables_of(all, one);
    struct template_text text;
    char error[512] = "";
    int err = render(source, strlen(source), variables, &text, error);
    bool holds = want ? err == 0 && text.count == json_string_length(want) &&
                            memcmp(text.bytes, json_string_value(want), text.count) == 0 &&
                            spans_are(&text, json_object_get(one, "spans"))
                      : err < 0 && err != -ENOMEM && error[0] != '\0';

    if (!holds && loud)
        print_error("%s\n  want %s\n  got  %s\n", json_string_value(json_object_get(one, "name")),
                    want ? json_string_value(want) : "a failure", err ? error : text.bytes);
    template_text_free(&text);
    json_decref(variables);
    return holds;
}

static const char *source_of(const json_t *all, const json_t *one)
{
    size_t index = (size_t)json_integer_value(json_object_get(one, "template"));

    return json_string_value(json_array_get(json_object_get(all, "templates"), index));
}

/* ---- as Jinja does it ---------------------------------------------------------------- */

static void goldens_agree(void **state)
{
    json_t *all = golden(), *one;
    size_t i, bad = 0;

    (void)state;
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        bad += !case_holds(all, one, source_of(all, one), true);
    }
    assert_true(i > 300);
    assert_int_equal(bad, 0);
    json_decref(all);
}

/* The control: one more letter in front of a template that gives text. */
static void goldens_notice(void **state)
{
    json_t *all = golden(), *one;
    size_t i;
    char changed[8192];

    (void)state;
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        if (!json_object_get(one, "text"))
            continue;
        snprintf(changed, sizeof changed, "x%s", source_of(all, one));
        assert_false(case_holds(all, one, changed, false));
    }
    json_decref(all);
}

/* ---- refusals -------------------------------------------------------------------------- */

static void what_is_not_covered_is_named(void **state)
{
    static const struct {
        const char *source, *words;
    } cases[] = {
        {"\n{% include 'x' %}", "line 2: tag 'include' is not supported"},
        {"{% call f() %}{% endcall %}", "line 1: tag 'call' is not supported"},
        {"{% filter upper %}{% endfilter %}", "tag 'filter' is not supported"},
        {"{% raw %}{% endraw %}", "tag 'raw' is not supported"},
        {"{% with a = 1 %}{% endwith %}", "tag 'with' is not supported"},
        {"{% for x in y recursive %}{% endfor %}", "'recursive' loops are not supported"},
        {"{% set x | upper %}a{% endset %}", "'set' of a block with a filter is not supported"},
        {"a\n\n{{ x | xmlattr }}", "line 3: filter 'xmlattr' is not supported"},
        {"{% if x is escaped %}{% endif %}", "test 'escaped' is not supported"},
        {"\n{{ 'x'.encode() }}", "line 2: method 'encode' of a string is not supported"},
        {"{{ [].append(1) }}", "method 'append' of a list is not supported"},
        {"{{ {}.update({}) }}", "method 'update' of a mapping is not supported"},
        {"{% for x in [1] %}{{ loop.changed(x) }}{% endfor %}", "loop.changed is not supported"},
        {"{{ '%s' % 'x' }}", "'%' as a format is not supported"},
        {"{{ f(*x) }}", "'*' in front of an argument is not supported"},
        {"{{ 0x10 }}", "the number 0x...: only decimal digits are supported"},
        {"{{ '\\N{BULLET}' }}", "\\N escape is not supported"},
        {"{{ '\\ud83d' }}", "U+D83D, which is no character"},
        {"{{ 'É' | lower }}", "letters beyond ASCII are not supported"},
        {"{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits is not supported"},
        {"{% macro m() %}{% generation %}{% endgeneration %}{% endmacro %}",
         "'generation' inside of a macro"},
        {"{{ 本 }}", "'本' in a tag is not supported"},
        {"{{ x $ y }}", "'$' in a tag is not supported"},
        {"{{ 'x' | tojson(colour=1) }}", "argument 'colour' of 'tojson' is not supported"},
        {"{{ raise_exception('no such role') }}", "line 1: the template refuses: no such role"},
        {"{{ raise_exception('a\\nb\\tc') }}", "the template refuses: a b?c"},
    };
    json_t *variables = json_object();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct template_text text;
        char error[512] = "";
        int err = render(cases[i].source, strlen(cases[i].source), variables, &text, error);

        if (err >= 0 || !strstr(error, cases[i].words) || strncmp(error, "x.jinja, line ", 14) != 0)
            fail_msg("%s: %d, %s: wanted %s", cases[i].source, err, error, cases[i].words);
        assert_true(err == -ENOTSUP || err == -EINVAL);
    }
    json_decref(variables);
}

static void bytes_that_are_no_text_are_refused(void **state)
{
    static const char source[] = "{{ 'a\x80\x80' | tojson }}";
    struct template *t;
    char error[512] = "";

    (void)state;
    assert_int_equal(template_compile(source, sizeof source - 1, "x.jinja", &t, error, sizeof error),
                     -EINVAL);
    assert_string_equal(error, "x.jinja: the template is no UTF-8");
}

/* ---- limits ----------------------------------------------------------------------------- */

static char *repeated(const char *head, const char *part, size_t times, const char *tail)
{
    size_t bytes = strlen(part), at = strlen(head);
    char *out = malloc(at + times * bytes + strlen(tail) + 1);

    assert_non_null(out);
    memcpy(out, head, at);
    for (size_t i = 0; i < times; i++, at += bytes)
        memcpy(out + at, part, bytes);
    strcpy(out + at, tail);
    return out;
}

static void limits_hold(void **state)
{
    static const struct {
        const char *head, *part, *tail;
        size_t good, bad; /* times */
        const char *words;
    } cases[] = {
        {"{{ ", "(", "", 0, 500, "nested deeper"},
        {"{{ 1", " + 1", " }}", 100, 5000, "nested deeper"},
        {"{{ ", "not ", "1 }}", 100, 5000, "nested deeper"},
        {"{{ ", "-", "1 }}", 100, 5000, "nested deeper"},
        {"", "{% if 1 %}", "", 0, 500, "nested deeper"},
        {"{{ x", "[0]", " }}", 0, 5000, "nested deeper"},
        {"{{ 1", "|string|int", " }}", 20, 5000, "nested deeper"},
        {"{% set n = namespace(t='ab') %}{% for x in range(1) %}", "{% set n.t = n.t + n.t %}",
         "{% endfor %}", 12, 40, "more than"},
        {"{% set n = namespace(t=[1]) %}", "{% set n.t = n.t + n.t %}", "", 12, 40, "more than"},
        {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(", "9", ") }}", 1, 4,
         "nested deeper"},
        {"", "{% for x in range(100) %}", "x{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}", 0,
         5, "more than"},
        {"{{ range(", "9", ")|length }}", 4, 6, "range of more than"},
        {"{{ 'x' * ", "9", " }}", 5, 12, "more than"},
    };
    json_t *variables = json_object();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int bad = 0; bad < 2; bad++) {
            char *source =
                repeated(cases[i].head, cases[i].part, bad ? cases[i].bad : cases[i].good, cases[i].tail);
            struct template_text text;
            char error[512] = "";
            int err = render(source, strlen(source), variables, &text, error);

            if (bad ? err != -E2BIG || !strstr(error, cases[i].words) : cases[i].good && err != 0)
                fail_msg("%s%s...: %d, %s", cases[i].head, cases[i].part, err, error);
            template_text_free(&text);
            free(source);
        }
    json_decref(variables);
}

static void a_long_source_is_refused(void **state)
{
    char *source = repeated("", "0123456789abcdef", 65536, "x");
    struct template *t;
    char error[512];

    (void)state;
    assert_int_equal(template_compile(source, 1u << 20, "x", &t, error, sizeof error), 0);
    template_free(t);
    assert_int_equal(template_compile(source, (1u << 20) + 1, "x", &t, error, sizeof error), -E2BIG);
    assert_non_null(strstr(error, "1048577 bytes"));
    assert_null(t);
    free(source);
}

/* ---- damage ------------------------------------------------------------------------------ */

static uint32_t random_of(uint64_t *seed, uint32_t most)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % most;
}

/* Bytes changed, cut out or put twice: nothing but a code or a text may come of it. */
static void damaged_templates_do_no_harm(void **state)
{
    static const char letters[] = "{%}-+#(|)[]'\".,:~=*/\\ \n0x";
    json_t *all = golden(), *sources = json_object_get(all, "templates"),
           *cases = json_object_get(all, "cases");
    uint64_t seed = 1;
    size_t rounds = getenv("OFL_TEST_LIGHT") ? 2000 : 20000, good = 0;
    char source[8192], error[512];

    (void)state;
    for (size_t round = 0; round < rounds; round++) {
        json_t *one = json_array_get(cases, random_of(&seed, (uint32_t)json_array_size(cases))), *variables;
        size_t count = (size_t)snprintf(
            source, sizeof source, "%s",
            json_string_value(json_array_get(sources, random_of(&seed, (uint32_t)json_array_size(sources)))));
        struct template_text text;

        for (uint32_t n = random_of(&seed, 4); n-- > 0 && count > 1;) {
            size_t at = random_of(&seed, (uint32_t)count), bytes = random_of(&seed, 20);

            if (random_of(&seed, 2)) {
                source[at] = letters[random_of(&seed, sizeof letters - 1)];
            } else {
                bytes = bytes < count - at ? bytes : count - at;
                memmove(source + at, source + at + bytes, count - at - bytes);
                count -= bytes;
            }
        }
        variables = variables_of(all, one);
        error[0] = '\0';
        if (render(source, count, variables, &text, error) == 0)
            good++;
        else
            assert_true(error[0] != '\0');
        template_text_free(&text);
        json_decref(variables);
    }
    assert_true(good > rounds / 20 && good < rounds); /* both happen */
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens_agree),
        cmocka_unit_test(goldens_notice),
        cmocka_unit_test(what_is_not_covered_is_named),
        cmocka_unit_test(bytes_that_are_no_text_are_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(a_long_source_is_refused),
        cmocka_unit_test(damaged_templates_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
