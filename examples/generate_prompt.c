/* What ofl-generate continues: texts of the command line and of files, conversations through the directory's chat
 * template, as tokens; and the tokens that end a text. */
#include "examples/generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/chat.h"
#include "examples/model/files.h"

#define DEFAULT_MAX_TOKENS 128
#define FILE_BYTES_MAX     (64u << 20)

struct reading {
    const struct options *o;
    const struct llama_config *config;
    const struct tokenizer *t;
    struct chat *chat;
    struct prompts *out;
    char where[400]; /* the prompt in work: "--prompt", "prompts.txt, line 3" */
};

static int out_of_memory(void)
{
    return common_fail(EXIT_FULL, "read the prompt: out of memory");
}

/* ---- tokens ----------------------------------------------------------------------- */

/* The cache is made for the whole text, so its length has to be known. */
static int check_length(const struct reading *r, struct prompt *p)
{
    const struct options *o = r->o;
    size_t most = llama_shape_positions(&r->config->shape, p->count);
    char limit[120];

    snprintf(limit, sizeof limit, "%s end at %zu",
             most < r->config->shape.max_positions
                 ? "the original positions, beyond which longrope has other frequencies,"
                 : "the model's positions",
             most);
    if (o->context && o->context < most) {
        most = o->context;
        snprintf(limit, sizeof limit, "--context is %zu", most);
    }
    if (p->count >= most)
        return common_fail(EXIT_INPUT, "%s of %zu tokens: %s", r->where, p->count, limit);
    most -= p->count;
    if (o->max_tokens > most)
        return common_fail(EXIT_INPUT, "--max-tokens %llu: %s, and the prompt%s%s takes %zu: %zu are left",
                           (unsigned long long)o->max_tokens, limit,
                           strcmp(r->where, "--prompt") ? " of " : "",
                           strcmp(r->where, "--prompt") ? r->where : "", p->count, most);
    p->max_tokens = o->max_tokens ? (size_t)o->max_tokens : DEFAULT_MAX_TOKENS;
    if (!o->max_tokens && (most < p->max_tokens || o->context))
        p->max_tokens = most;
    return 0;
}

static void append(struct prompt *p, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        p->tokens[p->count++] = (int32_t)ids[i];
}

/* framed: between what the tokenizer puts around a text. */
static int take_ids(const struct reading *r, const uint32_t *ids, size_t count, bool framed, struct prompt *p)
{
    size_t before_count, after_count;
    const uint32_t *before = tokenizer_before(r->t, &before_count),
                   *after = tokenizer_after(r->t, &after_count);

    p->tokens = calloc(before_count + count + after_count + 1, sizeof *p->tokens);
    if (!p->tokens)
        return out_of_memory();
    append(p, before, framed ? before_count : 0);
    append(p, ids, count);
    append(p, after, framed ? after_count : 0);
    for (size_t i = 0; i < p->count; i++)
        if ((uint32_t)p->tokens[i] >= r->config->shape.vocab)
            return common_fail(
                EXIT_INPUT,
                "%s: token %zu has id %u, the model's vocabulary has %u: tokenizer and model don't belong "
                "together",
                r->where, i, (uint32_t)p->tokens[i], r->config->shape.vocab);
    p->empty = count == 0;
    if (p->count == 0)
        return common_fail(EXIT_INPUT, "%s is empty, and the tokenizer has no start token", r->where);
    return check_length(r, p);
}

/* framed: what goes around a text is not in it yet. */
static int add_text(struct reading *r, const char *text, size_t bytes, bool framed)
{
    struct prompts *all = r->out;
    struct prompt *more = realloc(all->list, (all->count + 1) * sizeof *more), *p;
    uint32_t *ids;
    size_t count;
    int err, status;

    if (!more)
        return out_of_memory();
    all->list = more;
    p = &more[all->count++];
    *p = (struct prompt){0};
    err = tokenizer_encode(r->t, text, bytes, &ids, &count);
    if (err < 0)
        return common_fail(common_status(err), "encode %s: %s", r->where, strerror(-err));
    status = take_ids(r, ids, count, framed, p);
    free(ids);
    if (p->count > all->longest)
        all->longest = p->count;
    if (p->count + p->max_tokens > all->positions)
        all->positions = p->count + p->max_tokens;
    return status;
}

/* ---- conversations ------------------------------------------------------------------ */

static int add_chat(struct reading *r, const json_t *messages, const json_t *tools)
{
    struct chat_request request = {.messages = messages, .tools = tools};
    char *text = NULL, error[COMMON_ERROR_BYTES];
    size_t bytes;
    int err = r->chat ? 0 : chat_open(r->o->model, &r->chat, error, sizeof error), status;

    if (err == 0)
        err = chat_prompt(r->chat, &request, &text, &bytes, error, sizeof error);
    status = err < 0 ? common_fail(common_status(err), "%s: %s", r->where, error)
                     : add_text(r, text, bytes, false);
    free(text);
    return status;
}

/* A text as it is, or with --chat as what the user says. */
static int add_prompt(struct reading *r, const char *text, size_t bytes)
{
    json_t *messages, *content;
    int status;

    if (!r->o->chat)
        return add_text(r, text, bytes, true);
    content = json_stringn(text, bytes);
    if (!content)
        return common_fail(EXIT_INPUT, "%s: not UTF-8, which --chat needs", r->where);
    messages = json_array();
    if (r->o->system)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", r->o->system));
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
    status = add_chat(r, messages, NULL);
    json_decref(messages);
    return status;
}

/* ---- files ---------------------------------------------------------------------------- */

/* All of a file, or of standard input for "-", as far as it is not larger than any model's text. */
static int read_all(const char *path, char **text, size_t *bytes)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    size_t room = 1u << 16;
    int status = 0;

    *bytes = 0;
    *text = NULL;
    if (!f)
        return common_fail(EXIT_INPUT, "read %s: %s", path, strerror(errno));
    do {
        char *more = realloc(*text, room *= 2);

        if (!more) {
            status = out_of_memory();
            break;
        }
        *text = more;
        *bytes += fread(*text + *bytes, 1, room - 1 - *bytes, f);
    } while (*bytes == room - 1 && *bytes <= FILE_BYTES_MAX);
    if (status == 0 && ferror(f))
        status = common_fail(EXIT_INPUT, "read %s: %s", path, strerror(errno));
    if (status == 0 && *bytes > FILE_BYTES_MAX)
        status = common_fail(EXIT_INPUT, "read %s: more than %u bytes: no model takes as much", path,
                             FILE_BYTES_MAX);
    if (f != stdin)
        fclose(f);
    return status;
}

/* A line end behind it all is none of the prompt's. */
static int add_file(struct reading *r, const char *path)
{
    char *text;
    size_t bytes;
    int status = read_all(path, &text, &bytes);

    snprintf(r->where, sizeof r->where, "--prompt-file %s", path);
    if (status == 0) {
        bytes -= bytes > 0 && text[bytes - 1] == '\n';
        status = add_prompt(r, text, bytes);
    }
    free(text);
    return status;
}

/* Of the last prompt: which adapter it goes with; null: none. */
static int take_adapter(struct reading *r, const json_t *name)
{
    struct prompt *p = &r->out->list[r->out->count - 1];

    if (!json_is_null(name) && (!json_is_string(name) || json_string_length(name) == 0))
        return common_fail(EXIT_INPUT, "%s: adapter is neither the name of one nor null", r->where);
    p->adapter = strdup(json_is_null(name) ? "" : json_string_value(name));
    return p->adapter ? 0 : out_of_memory();
}

/* {"messages": [...]} or {"prompt": "..."}, or a string. */
static int add_json(struct reading *r, const char *line, size_t bytes)
{
    json_error_t problem;
    json_t *object = json_loadb(line, bytes, JSON_DECODE_ANY, &problem);
    const json_t *messages = json_object_get(object, "messages"), *tools = json_object_get(object, "tools"),
                 *prompt = json_is_string(object) ? object : json_object_get(object, "prompt"),
                 *adapter = json_object_get(object, "adapter");
    int status;

    if (!object)
        status = common_fail(EXIT_INPUT, "%s: no JSON: %s", r->where, problem.text);
    else if (messages)
        status = add_chat(r, messages, json_is_null(tools) ? NULL : tools);
    else if (json_is_string(prompt))
        status = add_prompt(r, json_string_value(prompt), json_string_length(prompt));
    else if (json_is_array(prompt))
        status = add_chat(r, prompt, json_is_null(tools) ? NULL : tools);
    else
        status = common_fail(
            EXIT_INPUT, "%s: a string, {\"prompt\": \"...\"} or {\"messages\": [...]} is expected", r->where);
    if (status == 0 && adapter)
        status = take_adapter(r, adapter);
    json_decref(object);
    return status;
}

/* A prompt in each line that is not empty. */
static int add_lines(struct reading *r, const char *path)
{
    size_t length = strlen(path), bytes, number = 0;
    bool json = length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
    char *text, *line, *end;
    int status = read_all(path, &text, &bytes);

    if (status == 0)
        text[bytes] = '\0';
    for (line = text; status == 0 && line < text + bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + bytes - line));
        end = end ? end : text + bytes;
        snprintf(r->where, sizeof r->where, "--prompts %s, line %zu", path, ++number);
        if (end > line && strspn(line, " \t\r") < (size_t)(end - line))
            status =
                json ? add_json(r, line, (size_t)(end - line)) : add_prompt(r, line, (size_t)(end - line));
    }
    free(text);
    if (status == 0 && r->out->count == 0)
        status = common_fail(EXIT_INPUT, "--prompts %s: no line has a prompt", path);
    return status;
}

int prompts_read(const struct options *o, const struct llama_config *config, const struct tokenizer *t,
                 struct prompts *out)
{
    struct reading r = {.o = o, .config = config, .t = t, .out = out, .where = "--prompt"};
    int status = 0;

    *out = (struct prompts){0};
    if (o->context > config->shape.max_positions)
        return common_fail(EXIT_INPUT, "--context %llu: the model's positions end at %u",
                           (unsigned long long)o->context, config->shape.max_positions);
    status = o->prompt        ? add_prompt(&r, o->prompt, strlen(o->prompt))
             : o->prompt_file ? add_file(&r, o->prompt_file)
                              : add_lines(&r, o->prompts);
    chat_close(r.chat);
    return status;
}

void prompts_free(struct prompts *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->list[i].tokens);
        free(p->list[i].adapter);
    }
    free(p->list);
    *p = (struct prompts){0};
}
