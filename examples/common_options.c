/* common: command lines from tables, by way of argp. See common_options.h. */
#include "examples/common_options.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/common.h"

#define KEY_FIRST 0x1000 /* beyond characters, which argp takes for short options */

typedef unsigned long long ull;

struct parser {
    const struct common_command *command;
    char *options;
    size_t count;
    const struct common_option **list; /* [count] of all tables, without groups */
    char **field;                      /* [count] */
};

const struct common_word common_methods[] = {
    {"adamw", OFL_ADAMW}, {"adam", OFL_ADAM}, {"sgd", OFL_SGD}, {"lion", OFL_LION}, {NULL, 0}};

const char *common_method_name(int method)
{
    const struct common_word *w = common_methods;

    while (w->name && w->value != method)
        w++;
    return w->name ? w->name : "unknown";
}

bool common_complain(struct common_complaint *c, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(c->text, sizeof c->text, format, ap);
    va_end(ap);
    return false;
}

/* ---- values ------------------------------------------------------------------- */

static bool set_bytes(const struct common_option *o, uint64_t *field, const char *text,
                      struct common_complaint *c)
{
    uint64_t bytes, least = o->least ? o->least : 1;

    if (common_parse_bytes(text, &bytes) < 0 || bytes < least || (o->most && bytes > o->most)) {
        if (o->most)
            return common_complain(c, "not a size such as 4194304, 512M or 1.5G, from %llu bytes to %s",
                                   (ull)least, common_bytes(o->most).text);
        return common_complain(c, "not a size such as 4194304, 512M or 1.5G");
    }
    *field = bytes;
    return true;
}

static bool set_count(const struct common_option *o, uint64_t *field, const char *text,
                      struct common_complaint *c)
{
    uint64_t most = o->most ? o->most : INT64_MAX;

    if (common_parse_count(text, o->least, most, field) == 0)
        return true;
    return common_complain(c, "not a whole number from %llu to %llu", (ull)o->least, (ull)most);
}

static bool set_number(const struct common_option *o, double *field, const char *text,
                       struct common_complaint *c)
{
    if (common_parse_number(text, o->low, o->high, field) == 0)
        return true;
    return common_complain(c, "not a number from %g to %g", o->low, o->high);
}

/* "a, b or c" */
static bool complain_words(const struct common_word *words, struct common_complaint *c)
{
    size_t used = 0;

    if (!words[1].name)
        return common_complain(c, "only %s", words[0].name);
    for (size_t i = 0; words[i].name && used < sizeof c->text; i++)
        used += (size_t)snprintf(c->text + used, sizeof c->text - used, "%s%s",
                                 i == 0              ? ""
                                 : words[i + 1].name ? ", "
                                                     : " or ",
                                 words[i].name);
    return false;
}

static bool set_word(const struct common_option *o, void *field, const char *text, struct common_complaint *c)
{
    const struct common_word *w = o->words;

    while (w->name && strcmp(w->name, text) != 0)
        w++;
    if (!w->name)
        return complain_words(o->words, c);
    if (o->kind == COMMON_WORD)
        *(int *)field = w->value;
    else if (o->kind == COMMON_BITS)
        *(uint32_t *)field |= (uint32_t)w->value;
    else
        ((bool *)field)[w->value] = true;
    return true;
}

/* The next word of a list in *rest: its own copy in word. False: there is none. */
static bool next_word(const char **rest, char word[128])
{
    size_t length;

    if (!*rest)
        return false;
    length = strcspn(*rest, ",");
    snprintf(word, 128, "%.*s", (int)(length < 127 ? length : 127), *rest);
    *rest = (*rest)[length] ? *rest + length + 1 : NULL;
    return true;
}

bool common_each_word(void *field, const char *text, common_set_fn *set, struct common_complaint *c)
{
    bool good = true;
    char word[128];

    while (good && next_word(&text, word))
        good = set(field, word, c);
    return good;
}

static bool set_words(const struct common_option *o, void *field, const char *text,
                      struct common_complaint *c)
{
    bool good = true;
    char word[128];

    while (good && next_word(&text, word))
        good = set_word(o, field, word, c);
    return good;
}

static bool add_text(const struct common_option *o, struct common_texts *t, const char *text,
                     struct common_complaint *c)
{
    const char **more;

    if (o->most && t->count == o->most)
        return common_complain(c, "one more than the %llu that can be", (ull)o->most);
    more = realloc(t->texts, (t->count + 1) * sizeof *more);
    if (!more)
        return common_complain(c, "out of memory");
    t->texts = more;
    t->texts[t->count++] = text;
    return true;
}

static bool set_switch(bool *field, const char *text, struct common_complaint *c)
{
    if (strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
        return common_complain(c, "0 or 1");
    *field = text[0] == '1';
    return true;
}

/* Names have letters; text that is said to a model need not. */
static bool may_be_empty(const struct common_option *o)
{
    return o->kind == COMMON_TEXT && strcmp(o->value, "TEXT") == 0;
}

static bool set_value(const struct common_option *o, void *field, const char *text,
                      struct common_complaint *c)
{
    if (text && !*text && !may_be_empty(o))
        return common_complain(c, "the value is empty, %s is wanted", o->value);
    switch (o->kind) {
    case COMMON_FLAG:
        *(bool *)field = true;
        return true;
    case COMMON_SWITCH:
        return set_switch(field, text, c);
    case COMMON_TEXT:
        *(const char **)field = text;
        return true;
    case COMMON_TEXTS:
        return add_text(o, field, text, c);
    case COMMON_BYTES:
        return set_bytes(o, field, text, c);
    case COMMON_COUNT:
        return set_count(o, field, text, c);
    case COMMON_NUMBER:
        return set_number(o, field, text, c);
    case COMMON_WORD:
        return set_word(o, field, text, c);
    case COMMON_WORDS:
    case COMMON_BITS:
        return set_words(o, field, text, c);
    case COMMON_CALL:
        return o->set(field, text, c);
    case COMMON_END:
    case COMMON_GROUP:
        break;
    }
    return true;
}

/* ---- argp ---------------------------------------------------------------------- */

static void parse_argument(struct argp_state *state, const struct parser *p, const char *arg)
{
    const struct common_command *m = p->command;
    struct common_complaint c;

    if (!*arg)
        argp_error(state, "an argument is empty");
    else if (!m->argument)
        argp_error(state, "%s: not an option%s%s", arg, m->hint ? "; " : "", m->hint ? m->hint : "");
    else if (!m->argument(p->options, arg, &c))
        argp_error(state, "%s: %s", arg, c.text);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct parser *p = state->input;
    struct common_complaint c;

    if (key == ARGP_KEY_ARG) {
        parse_argument(state, p, arg);
        return 0;
    }
    if (key == 'h')
        argp_state_help(state, state->out_stream, ARGP_HELP_STD_HELP);
    if (key == ARGP_KEY_END) {
        if (p->command->check && !p->command->check(p->options, &c))
            argp_error(state, "%s", c.text);
        return 0;
    }
    if (key < KEY_FIRST || (size_t)(key - KEY_FIRST) >= p->count)
        return ARGP_ERR_UNKNOWN;
    key -= KEY_FIRST;
    if (!set_value(p->list[key], p->field[key], arg, &c))
        argp_error(state, "--%s%s%s: %s", p->list[key]->name, arg && *arg ? " " : "", arg ? arg : "", c.text);
    return 0;
}

static const char *version_name;

static void print_version(FILE *f, struct argp_state *state)
{
    (void)state;
    fprintf(f, "%.*s %s\n", (int)strcspn(version_name, " "), version_name, ofl_version());
}

static size_t count_entries(const struct common_command *m)
{
    size_t n = 0;

    for (size_t t = 0; t < COMMON_TABLES && m->tables[t].options; t++)
        for (const struct common_option *o = m->tables[t].options; o->kind != COMMON_END; o++)
            n++;
    return n;
}

/* What --help says of an option: its text, and the default. */
static char *help_text(const struct common_option *o)
{
    char *text = NULL;

    if (!o->initial)
        return strdup(o->text);
    return asprintf(&text, "%s (default %s)", o->text, o->initial) < 0 ? NULL : text;
}

/* Fills the parser's lists and argp's; the latter's texts are owned. */
static bool fill(struct parser *p, struct argp_option *out)
{
    const struct common_command *m = p->command;
    int group = 0;
    bool good = true;

    for (size_t t = 0; t < COMMON_TABLES && m->tables[t].options; t++) {
        for (const struct common_option *o = m->tables[t].options; o->kind != COMMON_END; o++, out++) {
            if (o->kind == COMMON_GROUP)
                group = (int)o->least;
            *out = (struct argp_option){.group = group};
            if (o->kind == COMMON_GROUP && !o->text) {
                out--; /* a group without a title */
                continue;
            }
            out->doc = help_text(o);
            good = good && out->doc;
            if (o->kind == COMMON_GROUP)
                continue;
            out->name = o->name;
            out->key = KEY_FIRST + (int)p->count;
            out->arg = o->kind == COMMON_FLAG ? NULL : o->value;
            out->flags = o->hidden ? OPTION_HIDDEN : 0;
            p->list[p->count] = o;
            p->field[p->count++] = p->options + m->tables[t].at + o->field;
        }
    }
    *out = (struct argp_option){.key = 'h', .flags = OPTION_HIDDEN, .group = -1};
    return good;
}

static int set_defaults(struct parser *p)
{
    struct common_complaint c;

    for (size_t i = 0; i < p->count; i++)
        if (p->list[i]->initial && !set_value(p->list[i], p->field[i], p->list[i]->initial, &c))
            return common_fail(EXIT_RUNTIME, "default of --%s, %s: %s", p->list[i]->name, p->list[i]->initial,
                               c.text);
    return 0;
}

int common_options_parse(const struct common_command *command, int argc, char **argv, void *options)
{
    size_t entries = count_entries(command);
    struct parser p = {.command = command, .options = options};
    struct argp_option *list = calloc(entries + 2, sizeof *list);
    struct argp argp = {.options = list, .parser = parse, .args_doc = command->arguments};
    char *doc = NULL;
    int status = 0;

    p.list = calloc(entries + 1, sizeof *p.list);
    p.field = calloc(entries + 1, sizeof *p.field);
    if (!list || !p.list || !p.field || !fill(&p, list) ||
        asprintf(&doc, "%s\v%s", command->before, command->after) < 0)
        status = common_fail(EXIT_FULL, "options: out of memory");
    if (status == 0)
        status = set_defaults(&p);
    if (status == 0) {
        argp.doc = doc;
        version_name = command->title;
        argp_program_version_hook = print_version;
        argp_err_exit_status = EXIT_OPTION;
        if (argp_parse(&argp, argc, argv, 0, NULL, &p) != 0)
            status = common_fail(EXIT_FULL, "options: out of memory");
    }
    for (size_t i = 0; list && i < entries; i++)
        free((char *)(uintptr_t)list[i].doc);
    free(list);
    free(p.list);
    free(p.field);
    free(doc);
    return status;
}

void common_options_free(const struct common_command *command, void *options)
{
    for (size_t t = 0; t < COMMON_TABLES && command->tables[t].options; t++) {
        for (const struct common_option *o = command->tables[t].options; o->kind != COMMON_END; o++) {
            struct common_texts *texts = (void *)((char *)options + command->tables[t].at + o->field);

            if (o->kind != COMMON_TEXTS)
                continue;
            free(texts->texts);
            *texts = (struct common_texts){0};
        }
    }
}
