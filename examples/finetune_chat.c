/* Files of examples that ofl-finetune trains on: a JSON object in each line, conversations or prompts with what follows. */
#include "examples/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/chat.h"

#define LINE_BYTES_MAX (64u << 20)

struct line {
    struct data_files *f;
    const char *path;
    unsigned long long number;
};

static int refuse(const struct line *l, int err, const char *sentence)
{
    return common_fail(common_status(err), "%s %s, line %llu: %s", l->f->option, l->path, l->number,
                       sentence);
}

/* ---- tokens of an example --------------------------------------------------- */

static int add_tokens(const struct line *l, const struct chat_tokens *t)
{
    struct data *d = l->f->data;
    uint64_t begin = d->tokens_spool.count, learned = 0, count = t->count;
    int status = 0;

    if (count > l->f->longest)
        l->f->longest = count;
    if (count > d->seq + 1)
        count = d->seq + 1;
    for (uint64_t i = 1; i < count; i++)
        learned += t->learned[i];
    if (learned == 0) {
        l->f->left_out++;
        return 0;
    }
    l->f->cut += count < t->count;
    for (uint64_t i = 0; i < count && status == 0; i++) {
        uint32_t item = t->ids[i] | (t->learned[i] ? DATA_LEARNED : 0);

        status = data_check_id(l->f, l->path, t->ids[i]);
        if (status == 0)
            status = common_spool_add(&d->tokens_spool, &item, 1);
    }
    d->learned += learned;
    d->tokens += count - 1;
    return status ? status : common_spool_add(&d->begins_spool, &begin, 1);
}

/* ---- prompts and completions ------------------------------------------------- */

/* The token that ends a text: what the directory calls so, else what the tokenizer or the model does; -1: none. */
static int64_t end_token(const struct data_files *f)
{
    const char *name = f->chat ? chat_special(f->chat, "eos_token") : NULL;
    int64_t id = -1;
    uint32_t *ids;
    size_t count;

    if (name && tokenizer_encode(f->tokenizer, name, strlen(name), &ids, &count) == 0) {
        if (count == 1)
            id = ids[0];
        free(ids);
    }
    if (id < 0) {
        const uint32_t *after = tokenizer_after(f->tokenizer, &count);

        id = count ? (int64_t)after[count - 1] : f->config->eos_count ? f->config->eos_ids[0] : -1;
    }
    return id;
}

/* What the tokenizer puts in front, and a token behind, where there are such. */
static int frame(struct chat_tokens *t, const uint32_t *begin, size_t front, int64_t end)
{
    uint32_t *ids = calloc(front + t->count + 1, sizeof *ids);
    bool *learned = calloc(front + t->count + 1, sizeof *learned);

    if (!ids || !learned) {
        free(ids);
        free(learned);
        return -ENOMEM;
    }
    if (front)
        memcpy(ids, begin, front * sizeof *ids);
    if (t->count) {
        memcpy(ids + front, t->ids, t->count * sizeof *ids);
        memcpy(learned + front, t->learned, t->count * sizeof *learned);
    }
    if (end >= 0) {
        ids[front + t->count] = (uint32_t)end;
        learned[front + t->count] = true;
    }
    front += t->count + (end >= 0);
    chat_tokens_free(t);
    *t = (struct chat_tokens){ids, learned, front};
    return 0;
}

static int encode_pair(const struct line *l, const json_t *prompt, const json_t *completion,
                       struct chat_tokens *out, char *error, size_t error_bytes)
{
    size_t from = json_string_length(prompt), bytes = from + json_string_length(completion);
    char *text = malloc(bytes + 1);
    int err;

    if (!text) {
        snprintf(error, error_bytes, "out of memory");
        return -ENOMEM;
    }
    memcpy(text, json_string_value(prompt), from);
    memcpy(text + from, json_string_value(completion), bytes - from);
    err = chat_encode_text(l->f->tokenizer, text, bytes, from, out, error, error_bytes);
    if (err == 0) {
        size_t front;
        const uint32_t *begin = tokenizer_before(l->f->tokenizer, &front);

        err = frame(out, begin, front, end_token(l->f));
    }
    free(text);
    return err;
}

/* ---- conversations ------------------------------------------------------------ */

static int encode_chat(const struct line *l, const json_t *messages, size_t learned, const json_t *object,
                       struct chat_tokens *out, char *error, size_t error_bytes)
{
    const json_t *tools = json_object_get(object, "tools");
    struct chat_request request = {
        .messages = messages, .tools = json_is_null(tools) ? NULL : tools, .learned = learned};

    if (!l->f->chat) {
        snprintf(error, error_bytes,
                 "messages are written by a model's chat template, and a preset has none: use --model, or "
                 "lines with "
                 "a \"prompt\" and a \"completion\" that are strings");
        return -EINVAL;
    }
    return chat_encode(l->f->chat, l->f->tokenizer, &request, out, error, error_bytes);
}

/* A prompt and a completion that are messages: one conversation, of which the completion is learned. */
static int encode_chat_pair(const struct line *l, const json_t *prompt, const json_t *completion,
                            const json_t *object, struct chat_tokens *out, char *error, size_t error_bytes)
{
    json_t *all = json_copy((json_t *)prompt);
    int err = all && json_array_extend(all, (json_t *)completion) == 0
                  ? encode_chat(l, all, json_array_size(prompt), object, out, error, error_bytes)
                  : -ENOMEM;

    json_decref(all);
    return err;
}

static int unknown_object(const json_t *object, char *error, size_t error_bytes)
{
    char keys[200] = "";
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
    {
        size_t used = strlen(keys);

        snprintf(keys + used, sizeof keys - used, "%s\"%.40s\"", used ? ", " : "", key);
    }
    snprintf(
        error, error_bytes,
        "it has %s: {\"messages\": [...]} is expected, or {\"prompt\": ..., \"completion\": ...} with two "
        "strings or two lists of messages",
        *keys ? keys : "no keys");
    return -EINVAL;
}

static int encode_object(const struct line *l, const json_t *object, struct chat_tokens *out, char *error,
                         size_t error_bytes)
{
    const json_t *messages = json_object_get(object, "messages"), *prompt = json_object_get(object, "prompt"),
                 *completion = json_object_get(object, "completion");

    if (messages)
        return encode_chat(l, messages, 0, object, out, error, error_bytes);
    if (json_is_string(prompt) && json_is_string(completion))
        return encode_pair(l, prompt, completion, out, error, error_bytes);
    if (json_is_array(prompt) && json_is_array(completion))
        return encode_chat_pair(l, prompt, completion, object, out, error, error_bytes);
    return unknown_object(object, error, error_bytes);
}

/* ---- lines --------------------------------------------------------------------- */

static int add_line(const struct line *l, const char *text, size_t bytes)
{
    char error[COMMON_ERROR_BYTES] = "out of memory";
    struct chat_tokens tokens = {0};
    json_error_t problem;
    json_t *object;
    int err, status;

    while (bytes > 0 && strchr(" \t\r", text[bytes - 1]))
        bytes--;
    if (bytes == 0)
        return 0;
    object = json_loadb(text, bytes, 0, &problem);
    if (!object) {
        snprintf(error, sizeof error, "column %d: no JSON: %s", problem.column, problem.text);
        return refuse(l, -EINVAL, error);
    }
    err = json_is_object(object) ? encode_object(l, object, &tokens, error, sizeof error)
                                 : (snprintf(error, sizeof error, "not a JSON object"), -EINVAL);
    status = err < 0 ? refuse(l, err, error) : add_tokens(l, &tokens);
    chat_tokens_free(&tokens);
    json_decref(object);
    return status;
}

/* A line without its end; its bytes are at most LINE_BYTES_MAX. False: there is none, or *status says why. */
static bool read_line(struct line *l, FILE *file, char **text, size_t *room, size_t *bytes, int *status)
{
    int c;

    l->number++;
    for (*bytes = 0; (c = getc_unlocked(file)) != EOF && c != '\n'; (*text)[(*bytes)++] = (char)c) {
        if (*bytes == LINE_BYTES_MAX) {
            *status = refuse(l, -EINVAL, "longer than 64 MiB");
            return false;
        }
        if (*bytes == *room) {
            char *more = realloc(*text, 2 * *room + 4096);

            if (!more) {
                *status = refuse(l, -ENOMEM, "out of memory");
                return false;
            }
            *text = more;
            *room = 2 * *room + 4096;
        }
    }
    return c != EOF || *bytes > 0;
}

static int add_lines(struct line *l, FILE *file)
{
    char *text = NULL;
    size_t room = 0, bytes;
    int status = 0;

    while (status == 0 && read_line(l, file, &text, &room, &bytes, &status)) {
        size_t skip = l->number == 1 && bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;

        status = add_line(l, text + skip, bytes - skip);
        common_progress("reading %s: line %llu", l->path, l->number);
        if (status == 0 && common_stopping())
            status = common_fail(EXIT_INTERRUPTED, "interrupted: nothing written");
    }
    if (status == 0 && ferror(file))
        status = common_fail(EXIT_RUNTIME, "read %s: %s", l->path, strerror(errno));
    free(text);
    return status;
}

int data_add_examples(struct data_files *f, const char *path)
{
    struct line l = {.f = f, .path = path};
    char error[COMMON_ERROR_BYTES];
    FILE *file = fopen(path, "re");
    int status = file ? 0 : common_fail(EXIT_INPUT, "read %s: %s", path, strerror(errno)), err;

    if (status == 0 && f->options->model && !f->chat &&
        (err = chat_open(f->options->tokenizer ? f->options->tokenizer : f->options->model, &f->chat, error,
                         sizeof error)) < 0)
        status = common_fail(common_status(err), "%s", error);
    if (status == 0)
        status = add_lines(&l, file);
    if (file)
        fclose(file);
    return status;
}
