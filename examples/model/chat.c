/* Conversations as text, and what of it the assistant says: see chat.h. */
#include "examples/model/chat_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/model/files.h"
#include "examples/model/gguf.h"
#include "examples/model/gguf_text.h"

#define SETTINGS_BYTES_MAX (64u << 20) /* some tokenizer_config.json list their whole vocabulary */
#define TEMPLATE_BYTES_MAX (1u << 20)

struct chat {
    struct template *plain, *tool_use; /* tool_use: where there are tools; NULL: plain */
    json_t *special;                   /* names and strings of special tokens */
    char *dir;
};

/* ---- opening ------------------------------------------------------------------- */

static int read_file(const char *path, size_t most, char **text, size_t *bytes, char *error,
                     size_t error_bytes)
{
    FILE *f = fopen(path, "re");
    struct stat st;
    int err = 0;

    *text = NULL;
    if (!f)
        return llama_fail(-errno, error, error_bytes, "open %s: %s", path, strerror(errno));
    if (fstat(fileno(f), &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > most)
        err = llama_fail(-EINVAL, error, error_bytes, "read %s: not a file of at most %zu bytes", path, most);
    if (err == 0 && !(*text = malloc((size_t)st.st_size + 1)))
        err = llama_fail(-ENOMEM, error, error_bytes, "read %s: out of memory", path);
    if (err == 0)
        *bytes = fread(*text, 1, (size_t)st.st_size, f);
    if (err == 0 && ferror(f))
        err = llama_fail(-EIO, error, error_bytes, "read %s: %s", path, strerror(EIO));
    fclose(f);
    if (err < 0) {
        free(*text);
        *text = NULL;
    }
    return err;
}

/* chat_template.jinja, which counts before what tokenizer_config.json has. */
static int open_file(struct chat *c, const char *dir, char *error, size_t error_bytes)
{
    char *path = llama_path(dir, "chat_template.jinja"), *text = NULL;
    size_t bytes = 0;
    int err = path ? read_file(path, TEMPLATE_BYTES_MAX, &text, &bytes, error, error_bytes) : -ENOMEM;

    if (err == 0)
        err = template_compile(text, bytes, path, &c->plain, error, error_bytes);
    free(text);
    free(path);
    return err == -ENOENT ? 0 : err;
}

static int compile(const json_t *source, const char *name, struct template **out, char *error,
                   size_t error_bytes)
{
    if (!json_is_string(source))
        return llama_fail(-EINVAL, error, error_bytes, "read %s: it is not a string", name);
    return template_compile(json_string_value(source), json_string_length(source), name, out, error,
                            error_bytes);
}

/* One template, or several with names, of which "default" counts, and "tool_use" where there are tools. */
static int take_template(struct chat *c, const json_t *given, const char *path, char *error,
                         size_t error_bytes)
{
    char name[4200];
    const json_t *one;
    size_t i;
    int err = 0;

    snprintf(name, sizeof name, "chat_template of %s", path);
    if (!given || json_is_null(given))
        return 0;
    if (!json_is_array(given))
        return compile(given, name, &c->plain, error, error_bytes);
    json_array_foreach(given, i, one)
    {
        const char *called = json_string_value(json_object_get(one, "name"));
        struct template **to = !called                           ? NULL
                               : strcmp(called, "default") == 0  ? &c->plain
                               : strcmp(called, "tool_use") == 0 ? &c->tool_use
                                                                 : NULL;

        if (err == 0 && to && !*to)
            err = compile(json_object_get(one, "template"), name, to, error, error_bytes);
    }
    if (err == 0 && !c->plain)
        err = llama_fail(-EINVAL, error, error_bytes, "read %s: none of its templates is called \"default\"",
                         name);
    return err;
}

/* Strings, or objects with a content. */
static void take_special(struct chat *c, const json_t *settings)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *value = json_object_get(settings, names[i]);

        if (json_is_object(value))
            value = json_object_get(value, "content");
        if (json_is_string(value) && !json_object_get(c->special, names[i]))
            json_object_set(c->special, names[i], value);
    }
}

/* Numbers without a limit (model_max_length is 1e30 where nobody set it) become reals. */
static int load_settings(const char *path, json_t **out, char *error, size_t error_bytes)
{
    json_error_t problem;
    char *text;
    size_t bytes = 0;
    int err = read_file(path, SETTINGS_BYTES_MAX, &text, &bytes, error, error_bytes);

    if (err < 0)
        return err;
    *out = json_loadb(text, bytes, JSON_DECODE_INT_AS_REAL, &problem);
    free(text);
    if (json_is_object(*out))
        return 0;
    return llama_fail(-EINVAL, error, error_bytes, "read %s: line %d: %s", path,
                      *out || problem.line < 1 ? 1 : problem.line, *out ? "not a JSON object" : problem.text);
}

/* A file of settings that may be missing. */
static int read_settings(struct chat *c, const char *dir, const char *name, bool template, char *error,
                         size_t error_bytes)
{
    char *path = llama_path(dir, name);
    json_t *settings = NULL;
    int err = path ? load_settings(path, &settings, error, error_bytes) : -ENOMEM;

    if (err == 0) {
        take_special(c, settings);
        if (template && !c->plain)
            err = take_template(c, json_object_get(settings, "chat_template"), path, error, error_bytes);
    }
    json_decref(settings);
    free(path);
    return err == -ENOENT ? 0 : err;
}

/* A GGUF file has it all in itself. */
static int open_gguf(struct chat *c, const char *path, char *error, size_t error_bytes)
{
    json_t *settings = NULL;
    int err = llama_gguf_settings(path, &settings, error, error_bytes);

    if (err == 0) {
        take_special(c, settings);
        err = take_template(c, json_object_get(settings, "chat_template"), path, error, error_bytes);
    }
    json_decref(settings);
    return err;
}

static int open_directory(struct chat *c, const char *dir, char *error, size_t error_bytes)
{
    int err = open_file(c, dir, error, error_bytes);

    if (err == 0)
        err = read_settings(c, dir, "tokenizer_config.json", true, error, error_bytes);
    if (err == 0)
        err = read_settings(c, dir, "special_tokens_map.json", false, error, error_bytes);
    return err;
}

int chat_open(const char *dir, struct chat **out, char *error, size_t error_bytes)
{
    struct chat *c = calloc(1, sizeof *c);
    int err = c && (c->special = json_object()) && (c->dir = strdup(dir)) ? 0 : -ENOMEM;

    *out = NULL;
    if (err < 0)
        llama_fail(err, error, error_bytes, "open %s: out of memory", dir);
    if (err == 0)
        err = llama_gguf_is(dir) ? open_gguf(c, dir, error, error_bytes)
                                 : open_directory(c, dir, error, error_bytes);
    if (err < 0) {
        chat_close(c);
        return err;
    }
    *out = c;
    return 0;
}

void chat_close(struct chat *c)
{
    if (!c)
        return;
    template_free(c->plain);
    template_free(c->tool_use);
    json_decref(c->special);
    free(c->dir);
    free(c);
}

const char *chat_special(const struct chat *c, const char *name)
{
    return json_string_value(json_object_get(c->special, name));
}

/* ---- messages ------------------------------------------------------------------- */

/* As transformers hands them over: without what is null, and with thoughts under each of their names. */
static json_t *plain_message(const json_t *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *out = json_object(), *value, *thought = NULL;
    const char *key;

    json_object_foreach((json_t *)message, key, value)
    {
        if (!json_is_null(value))
            json_object_set(out, key, value);
    }
    for (size_t i = 0; i < 3 && !thought; i++)
        thought = json_object_get(out, names[i]);
    if (thought && !json_object_get(out, "thinking"))
        json_object_set(out, "thinking", thought);
    if (thought)
        json_object_set(out, "reasoning_content", thought);
    return out;
}

static int check_messages(const struct chat *c, const struct chat_request *request, char *error,
                          size_t error_bytes)
{
    const json_t *message;
    size_t i;

    if (!c->plain)
        return llama_fail(
            -ENOENT, error, error_bytes,
            "%s has no chat template, neither a chat_template.jinja nor a chat_template in "
            "tokenizer_config.json or a GGUF file's keys: the model is none for chats, or the template is to "
            "be added",
            c->dir);
    if (!json_is_array(request->messages) || json_array_size(request->messages) == 0)
        return llama_fail(-EINVAL, error, error_bytes, "messages is not a list with at least one message");
    if (request->tools && !json_is_array(request->tools))
        return llama_fail(-EINVAL, error, error_bytes, "tools is not a list");
    json_array_foreach(request->messages, i, message)
    {
        if (!json_is_string(json_object_get(message, "role")))
            return llama_fail(-EINVAL, error, error_bytes,
                              "message %zu is not an object with a \"role\" that is a string", i + 1);
    }
    return 0;
}

/* The first `count` messages. ask: the assistant is to go on. */
static int render(const struct chat *c, const struct chat_request *request, size_t count, bool ask,
                  struct template_text *out, char *error, size_t error_bytes)
{
    const struct template *t = request->tools && c->tool_use ? c->tool_use : c->plain;
    json_t *messages = json_array(), *variables = json_copy(c->special);
    int err;

    for (size_t i = 0; i < count; i++)
        json_array_append_new(messages, plain_message(json_array_get(request->messages, i)));
    json_object_set_new(variables, "messages", messages);
    if (request->tools)
        json_object_set(variables, "tools", (json_t *)request->tools);
    else
        json_object_set_new(variables, "tools", json_null());
    json_object_set_new(variables, "documents", json_null());
    json_object_set_new(variables, "add_generation_prompt", json_boolean(ask));
    err = template_render(t, variables, out, error, error_bytes);
    json_decref(variables);
    return err;
}

int chat_prompt(const struct chat *c, const struct chat_request *request, char **text, size_t *bytes,
                char *error, size_t error_bytes)
{
    struct template_text out = {0};
    int err = check_messages(c, request, error, error_bytes);

    if (err == 0)
        err = render(c, request, json_array_size(request->messages), true, &out, error, error_bytes);
    *text = out.bytes;
    *bytes = out.count;
    free(out.spans);
    return err;
}

/* ---- what the assistant says ----------------------------------------------------- */

static size_t common_bytes_of(const struct template_text *a, const struct template_text *b)
{
    size_t n = 0;

    while (n < a->count && n < b->count && a->bytes[n] == b->bytes[n])
        n++;
    while (n > 0 && n < a->count && ((unsigned char)a->bytes[n] & 0xC0) == 0x80)
        n--;
    return n;
}

static bool begins(const struct template_text *all, const struct template_text *with)
{
    return with->count <= all->count && memcmp(all->bytes, with->bytes, with->count) == 0;
}

/* Where the answer of message i begins: behind what the assistant is asked with, as far as all has that. */
static int span_begin(const struct chat *c, const struct chat_request *request, size_t i,
                      const struct template_text *all, size_t *at, char *error, size_t error_bytes)
{
    struct template_text asked, before = {0};
    int err = render(c, request, i, true, &asked, error, error_bytes);

    if (err < 0)
        return err;
    *at = common_bytes_of(all, &asked);
    if (!begins(all, &asked)) {
        err = render(c, request, i, false, &before, error, error_bytes);
        if (err == 0 && (!begins(all, &before) || *at < before.count))
            err = llama_fail(
                -ENOTSUP, error, error_bytes,
                "the template writes what stands before message %zu otherwise when it follows: what is "
                "learned can't be told; mark it with {%% generation %%}",
                i + 1);
    }
    template_text_free(&asked);
    template_text_free(&before);
    return err;
}

/* Of message i, by what the template writes with and without it: for templates that mark nothing. */
static int span_of(const struct chat *c, const struct chat_request *request, size_t i,
                   const struct template_text *all, struct chat_span *span, char *error, size_t error_bytes)
{
    struct template_text with;
    int err = span_begin(c, request, i, all, &span->bytes.from, error, error_bytes);

    if (err == 0)
        err = render(c, request, i + 1, false, &with, error, error_bytes);
    if (err < 0)
        return err;
    span->open = !begins(all, &with);
    span->bytes.to = span->open ? all->count : with.count;
    /* white space behind the end is the template's */
    while (!span->open && span->bytes.to > span->bytes.from &&
           strchr(" \t\r\n", with.bytes[span->bytes.to - 1]))
        span->bytes.to--;
    template_text_free(&with);
    return 0;
}

static int find_spans(const struct chat *c, const struct chat_request *request,
                      const struct template_text *all, struct chat_span *spans, size_t *count, char *error,
                      size_t error_bytes)
{
    size_t messages = json_array_size(request->messages);
    int err = 0;

    *count = 0;
    for (size_t i = request->learned; i < messages && err == 0; i++) {
        const json_t *role = json_object_get(json_array_get(request->messages, i), "role");

        if (strcmp(json_string_value(role), "assistant") == 0)
            err = span_of(c, request, i, all, &spans[(*count)++], error, error_bytes);
    }
    return err;
}

/* Those that the template marks, behind the messages that are not learned. */
static int take_spans(const struct chat *c, const struct chat_request *request,
                      const struct template_text *all, struct chat_span *spans, size_t *count, char *error,
                      size_t error_bytes)
{
    size_t first = 0;
    int err =
        request->learned ? span_begin(c, request, request->learned, all, &first, error, error_bytes) : 0;

    *count = 0;
    for (size_t i = 0; i < all->span_count && err == 0; i++) {
        struct template_span s = all->spans[i];

        s.from = s.from < first ? first : s.from;
        if (s.from < s.to)
            spans[(*count)++] = (struct chat_span){.bytes = s};
    }
    return err;
}

int chat_encode(const struct chat *c, const struct tokenizer *t, const struct chat_request *request,
                struct chat_tokens *out, char *error, size_t error_bytes)
{
    const struct template *used = request->tools && c->tool_use ? c->tool_use : c->plain;
    struct template_text all = {0};
    struct chat_span *spans = NULL;
    size_t count;
    int err = check_messages(c, request, error, error_bytes);

    *out = (struct chat_tokens){0};
    if (err == 0)
        err = render(c, request, json_array_size(request->messages), false, &all, error, error_bytes);
    if (err == 0) {
        spans = calloc(json_array_size(request->messages) + all.span_count + 1, sizeof *spans);
        err = spans ? 0 : llama_fail(-ENOMEM, error, error_bytes, "out of memory");
    }
    if (err == 0)
        err = template_marks(used) ? take_spans(c, request, &all, spans, &count, error, error_bytes)
                                   : find_spans(c, request, &all, spans, &count, error, error_bytes);
    if (err == 0)
        err = chat_mark(t, all.bytes, all.count, spans, count, out, error, error_bytes);
    free(spans);
    template_text_free(&all);
    return err;
}
