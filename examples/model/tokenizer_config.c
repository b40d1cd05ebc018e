/*
 * What the files beside a tokenizer.json change of its added tokens, as transformers
 * 5.24 has it for the class PreTrainedTokenizerFast (TokenizersBackend): flags in
 * added_tokens_decoder, special tokens that are named but not there, and, in
 * directories without added_tokens_decoder, special_tokens_map.json and
 * added_tokens.json. What it says of start and end tokens counts for nothing there,
 * since the file's post-processor decides.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/model/tokenizer_impl.h"

static const char *const named[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
#define NAMED (sizeof named / sizeof *named)

/* put: the tokens, in the order in which they will be added: of two with one text the
 * later one's flags stay. numbered: those of added_tokens_decoder among them, by text. */
struct config {
    struct tok_load *l;
    json_t *config; /* tokenizer_config.json, and special_tokens_map.json over it */
    json_t *known;  /* text -> token, of those with flags */
    json_t *put, *numbered;
};

struct numbered {
    unsigned long id;
    const json_t *token;
};

/* A file beside the tokenizer, as JSON; NULL without error where there is none. */
static int read_beside(struct tok_load *l, const char *name, json_t **out)
{
    const char *slash = strrchr(l->path, '/');
    int folder = slash ? (int)(slash - l->path + 1) : 0;
    json_error_t error;
    struct stat status;
    char path[4096];

    *out = NULL;
    if (snprintf(path, sizeof path, "%.*s%s", folder, l->path, name) >= (int)sizeof path ||
        stat(path, &status) < 0 || !S_ISREG(status.st_mode))
        return 0;
    *out = json_load_file(path, JSON_DECODE_INT_AS_REAL, &error); /* model_max_length may be 10^30 */
    if (!*out && error.line < 1)
        return tok_load_fail(l, -EINVAL, "%s beside it can't be read: %s", name, strerror(errno));
    if (!*out)
        return tok_load_fail(l, -EBADMSG, "%s beside it is not JSON: line %d, column %d", name, error.line,
                             error.column);
    return json_is_object(*out) ? 0 : tok_load_fail(l, -EINVAL, "%s beside it is not a JSON object", name);
}

/* The text of a token that is a string or an object, or NULL. */
static const char *text_of(const json_t *token)
{
    return json_string_value(json_is_string(token) ? token : json_object_get(token, "content"));
}

static bool is_standard(const char *key)
{
    for (size_t i = 0; i < NAMED; i++)
        if (strcmp(key, named[i]) == 0)
            return true;
    return false;
}

static bool is_token_key(const char *key)
{
    size_t bytes = strlen(key);

    return bytes > 6 && strcmp(key + bytes - 6, "_token") == 0;
}

/* Whether a special token is named by this text, and not only listed. */
static bool is_named(const struct config *c, const char *text)
{
    const json_t *extra = json_object_get(c->config, "extra_special_tokens");
    const char *key, *other;
    json_t *value;

    json_object_foreach(c->config, key, value)
    {
        if (is_token_key(key) && (other = text_of(value)) && strcmp(other, text) == 0)
            return true;
    }
    json_object_foreach((json_t *)extra, key, value)
    {
        if ((other = text_of(value)) && strcmp(other, text) == 0)
            return true;
    }
    return false;
}

/* A special token that isn't among the added ones yet. A string has no flags of its
 * own: it is sought before the normalizer. */
static int put_special(struct config *c, const char *where, json_t *token)
{
    const char *text = text_of(token);
    json_t *full;

    if (!token || json_is_null(token) || json_is_boolean(token))
        return 0;
    if (!text)
        return tok_load_fail_field(c->l, -EINVAL, where, token, "it must be a token");
    if (json_object_get(c->numbered, text) || tok_added_find(c->l->t, text, strlen(text)) != TOK_NONE)
        return 0;
    if (json_object_get(c->known, text))
        token = json_object_get(c->known, text);
    full = json_is_string(token) ? json_pack("{s:s}", "content", text) : json_copy(token);
    if (json_is_string(token) || is_named(c, text))
        json_object_set_new(full, "special", json_true());
    return json_array_append_new(c->put, full) < 0 ? tok_load_memory(c->l) : 0;
}

static int put_specials(struct config *c)
{
    json_t *extra = json_object_get(c->config, "extra_special_tokens"), *value;
    const char *key;
    size_t i;
    int rc = 0;

    for (i = 0; rc == 0 && i < NAMED; i++)
        rc = put_special(c, named[i], json_object_get(c->config, named[i]));
    json_object_foreach(c->config, key, value)
    {
        if (rc == 0 && is_token_key(key) && !is_standard(key) && text_of(value))
            rc = put_special(c, key, value);
    }
    json_object_foreach(extra, key, value)
    {
        if (rc == 0)
            rc = put_special(c, "extra_special_tokens", value);
    }
    json_array_foreach(extra, i, value)
    {
        if (rc == 0)
            rc = put_special(c, "extra_special_tokens", value);
    }
    return rc;
}

static int by_id(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* Tokens with flags, by number. They become special if they are named. */
static int put_numbered(struct config *c, const json_t *decoder)
{
    size_t count = 0, room = json_object_size(decoder);
    struct numbered *list = calloc(room + 1, sizeof *list);
    const char *key, *text;
    json_t *token;
    int rc = list ? 0 : tok_load_memory(c->l);

    json_object_foreach((json_t *)decoder, key, token)
    {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        if (rc == 0 && (*end || end == key || !text_of(token)))
            rc = tok_load_fail_field(c->l, -EINVAL, "tokenizer_config.json: an entry of added_tokens_decoder",
                                     token, "it must have an id and a content");
        if (rc == 0)
            list[count++] = (struct numbered){id, token};
    }
    if (count)
        qsort(list, count, sizeof *list, by_id);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        text = text_of(list[i].token);
        token = json_copy((json_t *)list[i].token);
        if (is_named(c, text))
            json_object_set_new(token, "special", json_true());
        if (json_object_set(c->numbered, text, token) < 0 || json_array_append_new(c->put, token) < 0)
            rc = tok_load_memory(c->l);
    }
    free(list);
    return rc;
}

/* added_tokens.json, of older directories: text -> id, as a decoder. */
static int older_decoder(struct config *c, const json_t *root, json_t *out)
{
    const json_t *list = json_object_get(root, "added_tokens");
    json_t *tokens, *token, *id;
    const char *text;
    char key[24];
    size_t i;
    int rc = read_beside(c->l, "added_tokens.json", &tokens);

    json_object_foreach(tokens, text, id)
    {
        bool special = is_named(c, text);
        json_t *extra = json_object_get(c->config, "extra_special_tokens");
        json_array_foreach(extra, i, token)
        {
            special |= text_of(token) && strcmp(text_of(token), text) == 0;
        }
        if (json_number_value(id) < 0 || json_number_value(id) >= TOK_ID_LIMIT)
            continue;
        snprintf(key, sizeof key, "%u", (unsigned)json_number_value(id));
        json_object_set_new(out, key, json_pack("{s:s, s:b}", "content", text, "special", (int)special));
    }
    json_decref(tokens);
    json_array_foreach((json_t *)list, i, token)
    {
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(json_object_get(token, "id")));
        json_object_del(out, key); /* the file's own counts */
        if (text_of(token))
            json_object_set(c->known, text_of(token), token);
    }
    return rc;
}

static int put_all(struct config *c)
{
    uint32_t next = tok_added_next(c->l->t);
    struct tok_added flags;
    json_t *token;
    size_t i;
    int rc = 0;

    json_array_foreach(c->put, i, token)
    {
        struct tok_text text = {0};
        if (rc == 0)
            rc = tok_added_read(c->l, token, "tokenizer_config.json: a token", true, &text, &flags);
        if (rc == 0)
            rc = tok_added_put(c->l, &text, &flags, &next);
        free((char *)text.text);
    }
    return rc;
}

/* Where the config has no flags, two older files may. */
static int read_config(struct config *c, const json_t *root, json_t *older)
{
    json_t *decoder = json_object_get(c->config, "added_tokens_decoder"), *map = NULL, *token, *more;
    const char *key;
    int rc = 0;

    if (decoder && !json_is_object(decoder))
        return tok_load_fail_field(c->l, -EINVAL, "tokenizer_config.json: added_tokens_decoder", decoder,
                                   "it must be an object");
    if (!decoder && (rc = read_beside(c->l, "special_tokens_map.json", &map)) == 0)
        json_object_update(c->config, map);
    json_decref(map);
    more = json_object_get(c->config, "additional_special_tokens");
    if (more && json_array_size(json_object_get(c->config, "extra_special_tokens")) == 0)
        json_object_set(c->config, "extra_special_tokens", more);
    if (rc == 0 && !decoder)
        rc = older_decoder(c, root, older);
    json_object_foreach(decoder, key, token)
    {
        if (text_of(token))
            json_object_set(c->known, text_of(token), token);
    }
    if (rc == 0)
        rc = put_numbered(c, decoder ? decoder : older);
    if (rc == 0)
        rc = put_specials(c);
    return rc;
}

int tok_config_load(struct tok_load *l, const json_t *root)
{
    struct config c = {.l = l, .known = json_object(), .put = json_array(), .numbered = json_object()};
    json_t *older = json_object();
    int rc = read_beside(l, "tokenizer_config.json", &c.config);

    if (rc == 0 && !c.config)
        c.config = json_object();
    if (rc == 0 && (!c.config || !c.known || !c.put || !c.numbered || !older))
        rc = tok_load_memory(l);
    if (rc == 0)
        rc = tok_load_bool(l, c.config, "tokenizer_config.json", "split_special_tokens", false,
                           &l->t->split_special);
    if (rc == 0)
        rc = read_config(&c, root, older);
    if (rc == 0)
        rc = put_all(&c);
    json_decref(c.config);
    json_decref(c.known);
    json_decref(c.put);
    json_decref(c.numbered);
    json_decref(older);
    return rc;
}
