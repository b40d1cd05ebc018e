/*
 * Proves of the command lines of all programs (examples/common_options.h): each kind of option takes what it
 * should, into its field and no other; defaults are the table's; what can't be used ends the program with 2
 * and a complaint that names the option, what was given, and what would do; --help lists each option with its
 * default, but hidden ones; --version and --usage end with 0. And the table of exit statuses, and
 * that no control character of a file reaches stderr.
 *
 * Negative controls: every value that is refused stands beside one that is taken.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "examples/common.h"
#include "examples/common_options.h"

enum colour { RED = 3, GREEN = 7 };

struct inner {
    uint64_t bytes;
    char guard;
};

struct options {
    bool flag, on;
    const char *text;
    struct common_texts texts;
    uint64_t count, hidden;
    double number;
    enum colour colour;
    bool set[3];
    uint32_t bits;
    char called[16];
    const char *rest;
    struct inner inner;
};

static bool call(void *field, const char *text, struct common_complaint *c)
{
    if (strlen(text) > 15)
        return common_complain(c, "%zu characters, 15 at most", strlen(text));
    snprintf(field, 16, "%s", text);
    return true;
}

static bool take_rest(void *options, const char *text, struct common_complaint *c)
{
    struct options *o = options;

    if (o->rest)
        return common_complain(c, "one is enough");
    o->rest = text;
    return true;
}

static bool check(void *options, struct common_complaint *c)
{
    const struct options *o = options;

    return !(o->flag && o->on) || common_complain(c, "--flag excludes --on 1");
}

#define FIELD(name) .field = offsetof(struct options, name)

static const struct common_word colours[] = {{"red", RED}, {"green", GREEN}, {NULL, 0}};
static const struct common_word three[] = {{"a", 0}, {"b", 1}, {"c", 2}, {NULL, 0}};
static const struct common_word powers[] = {{"one", 1}, {"two", 2}, {"four", 4}, {NULL, 0}};
static const struct common_option outer[] = {
    {COMMON_GROUP, .text = "First:", .least = 1},
    {COMMON_FLAG, "flag", NULL, "A flag", FIELD(flag)},
    {COMMON_SWITCH, "on", "0|1", "A switch", FIELD(on), "0"},
    {COMMON_TEXT, "text", "TEXT", "A text", FIELD(text)},
    {COMMON_TEXTS, "texts", "TEXT", "Texts", FIELD(texts), .most = 2},
    {COMMON_COUNT, "count", "N", "A count", FIELD(count), "12", 2, 1000},
    {COMMON_COUNT, "secret", "N", "Not shown", FIELD(hidden), .hidden = true},
    {COMMON_NUMBER, "number", "X", "A number", FIELD(number), "0.5", .low = 0, .high = 2},
    {COMMON_WORD, "colour", "WORD", "A word", FIELD(colour), "green", .words = colours},
    {COMMON_WORDS, "set", "LIST", "Words", FIELD(set), .words = three},
    {COMMON_BITS, "bits", "LIST", "Bits", FIELD(bits), .words = powers},
    {COMMON_CALL, "call", "WHAT", "Something else", FIELD(called), .set = call},
    {.kind = COMMON_END}};
static const struct common_option nested[] = {{COMMON_GROUP, .text = "Second:", .least = 2},
                                              {COMMON_BYTES, "bytes", "SIZE", "Bytes",
                                               .field = offsetof(struct inner, bytes), .initial = "4K",
                                               .most = 1ull << 40},
                                              {.kind = COMMON_END}};
static const struct common_command command = {
    .title = "ofl-test run",
    .before = "Before.",
    .after = "After.",
    .argument = take_rest,
    .arguments = "[REST]",
    .check = check,
    .tables = {{outer, 0}, {nested, offsetof(struct options, inner)}}};

/* Texts of what it returns live until the next call. */
static struct options parse(const char *line)
{
    static char copy[512], name[] = "ofl-test";
    struct options o;
    char *argv[40] = {name}, *rest = copy, *word;
    int argc = 1;

    memset(&o, 0, sizeof o);
    snprintf(copy, sizeof copy, "%s", line);
    while ((word = strsep(&rest, " ")) && argc < 39)
        if (*word)
            argv[argc++] = word;
    assert_int_equal(common_options_parse(&command, argc, argv, &o), 0);
    return o;
}

/* Ends the program: its status, and all that it printed. */
static int ends(const char *line, char *text, size_t size)
{
    size_t used = 0;
    ssize_t got;
    int ends[2], status;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        parse(line);
        _exit(99);
    }
    close(ends[1]);
    while (used + 1 < size && (got = read(ends[0], text + used, size - used - 1)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void defaults_are_the_tables(void **state)
{
    struct options o = parse("");

    (void)state;
    assert_false(o.flag || o.on || o.text || o.rest);
    assert_int_equal(o.texts.count, 0);
    assert_int_equal(o.count, 12);
    assert_true(o.number == 0.5);
    assert_int_equal(o.colour, GREEN);
    assert_int_equal(o.bits, 0);
    assert_int_equal(o.inner.bytes, 4096);
}

static void values_are_taken(void **state)
{
    struct options o =
        parse("--flag --text x --texts 1 --texts=2 --count 1000 --secret 5 --number 1e-1 "
              "--colour red --set a,c --bits one --bits two,four rest --bytes 1.5G --call word");

    (void)state;
    assert_true(o.flag);
    assert_string_equal(o.text, "x");
    assert_int_equal(o.texts.count, 2);
    assert_string_equal(o.texts.texts[1], "2");
    assert_int_equal(o.count, 1000);
    assert_int_equal(o.hidden, 5);
    assert_true(o.number == 0.1);
    assert_int_equal(o.colour, RED);
    assert_true(o.set[0] && !o.set[1] && o.set[2]);
    assert_int_equal(o.bits, 7);
    assert_string_equal(o.called, "word");
    assert_string_equal(o.rest, "rest");
    assert_int_equal(o.inner.bytes, 3ull << 29);
    assert_int_equal(o.inner.guard, 0);
    common_options_free(&command, &o);
    assert_int_equal(o.texts.count, 0);
    assert_null(o.texts.texts);
    assert_true(parse("--on 1").on);
    assert_int_equal(parse("--bytes 1T").inner.bytes, 1ull << 40);
    assert_int_equal(parse("--cou 2").count, 2); /* what is unique is enough */
}

static void complaints_help(void **state)
{
    static const struct {
        const char *line, *words;
    } cases[] = {
        {"--count 1", "--count 1: not a whole number from 2 to 1000"},
        {"--count 1001", "--count 1001: not a whole number from 2 to 1000"},
        {"--count 5x", "--count 5x: not a whole number"},
        {"--number 2.5", "--number 2.5: not a number from 0 to 2"},
        {"--number nan", "--number nan: not a number"},
        {"--bytes 0", "--bytes 0: not a size such as"},
        {"--bytes 2T", "--bytes 2T: not a size such as 4194304, 512M or 1.5G, from 1 bytes to 1.00 TiB"},
        {"--bytes 1Q", "--bytes 1Q: not a size"},
        {"--colour blue", "--colour blue: red or green"},
        {"--set a,d", "--set a,d: a, b or c"},
        {"--set a,,b", "--set a,,b: a, b or c"},
        {"--bits three", "--bits three: one, two or four"},
        {"--on yes", "--on yes: 0 or 1"},
        {"--texts 1 --texts 2 --texts 3", "--texts 3: one more than the 2 that can be"},
        {"--call 1234567890123456", "--call 1234567890123456: 16 characters, 15 at most"},
        {"a b", "b: one is enough"},
        {"--flag --on 1", "--flag excludes --on 1"},
        {"--count=", "--count: the value is empty, N is wanted"},
        {"--bytes=", "--bytes: the value is empty, SIZE is wanted"},
        {"--texts=", "--texts: the value is empty"},
        {"--call=", "--call: the value is empty"},
        {"--flag=1", "doesn't allow an argument"},
        {"--count", "requires an argument"},
        {"--none", "unrecognized option"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[4096];
        int status = ends(cases[i].line, text, sizeof text);

        if (status != EXIT_OPTION || !strstr(text, cases[i].words) || !strstr(text, "--help"))
            fail_msg("%s: status %d: %s", cases[i].line, status, text);
    }
}

static void help_has_the_table(void **state)
{
    static const char *const words[] = {
        "Before.",      "After.",       "First:",       "Second:", "--count=N",
        "(default 12)", "--bytes=SIZE", "(default 4K)", "[REST]",  "--flag  "};
    char text[8192];

    (void)state;
    assert_int_equal(ends("--help", text, sizeof text), 0);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(text, words[i]))
            fail_msg("no '%s' in: %s", words[i], text);
    assert_null(strstr(text, "secret"));
    assert_int_equal(ends("--version", text, sizeof text), 0);
    assert_non_null(strstr(text, "ofl-test "));
    assert_null(strstr(text, "run"));
    assert_int_equal(ends("--usage", text, sizeof text), 0);
    assert_non_null(strstr(text, "--count=N"));
}

static void what_is_printed_is_clean(void **state)
{
    char text[] = "a\x1b[31m\n\x7f\xc2\x9b"
                  "31m \xc3\xa9\xc2\xa0\xe2\x82\xac";
    int ends[2], kept = dup(STDERR_FILENO);
    char out[256] = "";

    (void)state;
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    common_fail(1, "%s", text);
    common_line("%s", text);
    common_log(NULL, OFL_LOG_WARNING, text);
    dup2(kept, STDERR_FILENO);
    close(ends[1]);
    assert_true(read(ends[0], out, sizeof out - 1) > 0);
    close(ends[0]);
    close(kept);
    for (const char *c = out; *c; c++)
        assert_true(*c == '\n' || (unsigned char)*c >= 0x20);
    assert_null(strstr(out, "\xc2\x9b"));
    assert_non_null(strstr(out, "a?[31m????31m \xc3\xa9\xc2\xa0\xe2\x82\xac\n")); /* and no letter less */
    common_clean(text);
    assert_string_equal(text, "a?[31m????31m \xc3\xa9\xc2\xa0\xe2\x82\xac");
}

/* A cause has its status whenever it comes; what has none is refused before the run, and a failure in it. */
static void statuses_tell_causes_apart(void **state)
{
    static const struct {
        int code, early, late;
    } cases[] = {{-EINVAL, 2, 1},       {-ENOENT, 2, 1},      {-ENOTSUP, 2, 1},      {-OFL_EBUDGET, 2, 1},
                 {-EIO, 1, 1},          {-OFL_EBROKEN, 1, 1}, {-OFL_EFORMAT, 2, 3},  {-OFL_ECHECKSUM, 3, 3},
                 {-OFL_ECHANGED, 3, 3}, {-OFL_ETORN, 3, 3},   {-OFL_EWRITTEN, 5, 5}, {-EBADMSG, 2, 3},
                 {-EUCLEAN, 3, 3},      {-ENOSPC, 4, 4},      {-EDQUOT, 4, 4},       {-EFBIG, 4, 4},
                 {-ENOMEM, 4, 4},       {-EMFILE, 4, 4},      {-ECANCELED, 130, 130}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(common_status(cases[i].code), cases[i].early);
        assert_int_equal(common_status_late(cases[i].code), cases[i].late);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_tables),  cmocka_unit_test(values_are_taken),
        cmocka_unit_test(complaints_help),          cmocka_unit_test(help_has_the_table),
        cmocka_unit_test(what_is_printed_is_clean), cmocka_unit_test(statuses_tell_causes_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
