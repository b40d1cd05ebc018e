/*
 * Reads the vocabulary, the merges and the added tokens of a parsed tokenizer.json,
 * and builds what encoding looks up. Trusts nothing in the file, and complains with
 * the name of the field and its value.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

#define VALUE_MAX 80 /* bytes of a value that an error shows */

int tok_load_fail(struct tok_load *l, int code, const char *format, ...)
{
    va_list list;

    if (l->error_bytes == 0)
        return code;
    int used = snprintf(l->error, l->error_bytes, "open tokenizer: %s: ", l->path);
    if (used < 0 || (size_t)used >= l->error_bytes)
        return code;
    va_start(list, format);
    vsnprintf(l->error + used, l->error_bytes - (size_t)used, format, list);
    va_end(list);
    return code;
}

static int fail_memory(struct tok_load *l)
{
    return tok_load_fail(l, -ENOMEM, "no memory");
}

/* A value as an error shows it: ASCII, and no longer than VALUE_MAX. */
static void show_value(const json_t *value, char text[VALUE_MAX])
{
    const char *kind = !value                  ? "absent"
                       : json_is_object(value) ? "an object"
                       : json_is_array(value)  ? "an array"
                                               : NULL;
    char *dump =
        kind ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));

    if (dump && strlen(dump) >= VALUE_MAX)
        memcpy(dump + VALUE_MAX - 4, "...", 4);
    snprintf(text, VALUE_MAX, "%s", kind ? kind : dump ? dump : "unreadable");
    free(dump);
}

int tok_load_fail_field(struct tok_load *l, int code, const char *field, const json_t *value,
                        const char *cause)
{
    char text[VALUE_MAX];

    show_value(value, text);
    return tok_load_fail(l, code, "%s is %s: %s", field, text, cause);
}

int tok_load_bool(struct tok_load *l, const json_t *object, const char *where, const char *key, int otherwise,
                  bool *out)
{
    const json_t *value = json_object_get(object, key);
    char field[240];

    *out = otherwise > 0;
    if ((!value || json_is_null(value)) && otherwise >= 0)
        return 0;
    if (!json_is_boolean(value)) {
        snprintf(field, sizeof field, "%s.%s", where, key);
        return tok_load_fail_field(l, -EINVAL, field, value, "it must be true or false");
    }
    *out = json_is_true(value);
    return 0;
}

static bool read_id(const json_t *value, uint32_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= TOK_ID_LIMIT)
        return false;
    *out = (uint32_t)json_integer_value(value);
    return true;
}

/* A complaint about a token of the file, shown as an error shows it. */
static int fail_token(struct tok_load *l, const char *field, const char *token, const char *cause)
{
    char shown[VALUE_MAX];
    json_t *text = json_string(token);

    show_value(text, shown);
    json_decref(text);
    return tok_load_fail(l, -EINVAL, "%s: the token %s %s", field, shown, cause);
}

static int set_word(struct tok_load *l, uint32_t id, const char *text, size_t bytes)
{
    struct tok_word *word = &l->t->words[id];
    struct tok_text copy;

    if (bytes > UINT32_MAX || tok_text_copy(&copy, text, bytes) < 0)
        return fail_memory(l);
    word->text = (char *)copy.text;
    word->bytes = (uint32_t)bytes;
    return 0;
}

/* Sizes t->words by the ids of the vocabulary and of the added tokens. */
static int size_words(struct tok_load *l, json_t *vocab, const json_t *added)
{
    struct tokenizer *t = l->t;
    const char *text;
    char field[40];
    json_t *value;
    uint32_t id;

    json_object_foreach(vocab, text, value)
    {
        if (!read_id(value, &id))
            return fail_token(l, "model.vocab", text,
                              "has an id that isn't a whole number from 0 to 4194303");
        t->vocab = id >= t->vocab ? id + 1 : t->vocab;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        value = json_object_get(json_array_get(added, i), "id");
        snprintf(field, sizeof field, "added_tokens[%zu].id", i);
        if (!read_id(value, &id))
            return tok_load_fail_field(l, -EINVAL, field, value,
                                       "it must be a whole number from 0 to 4194303");
        t->vocab = id >= t->vocab ? id + 1 : t->vocab;
    }
    if (json_object_size(vocab) == 0)
        return tok_load_fail(l, -EINVAL, "model.vocab has no tokens");
    t->words = calloc(t->vocab, sizeof *t->words);
    return t->words ? 0 : fail_memory(l);
}

static int load_vocab(struct tok_load *l, json_t *vocab)
{
    struct tokenizer *t = l->t;
    const char *text;
    json_t *value;
    int rc = 0;

    if (tok_map_init(&t->map, json_object_size(vocab)) < 0)
        return fail_memory(l);
    json_object_foreach(vocab, text, value)
    {
        uint32_t id = (uint32_t)json_integer_value(value), code;
        if (t->words[id].text)
            return fail_token(l, "model.vocab", text, "has the id of another token");
        rc = set_word(l, id, text, strlen(text));
        if (rc < 0)
            return rc;
        tok_map_add(&t->map, t->words, id);
        if (t->words[id].bytes > 0 && t->words[id].bytes <= 4 &&
            tok_utf8_next(text, t->words[id].bytes, &code) == (int)t->words[id].bytes && code >= t->chars)
            t->chars = code + 1;
    }
    return 0;
}

/* Tables of the tokens that are one character, and of the byte tokens. */
static int load_symbols(struct tok_load *l, bool byte_fallback)
{
    struct tokenizer *t = l->t;
    char name[8];
    uint32_t code;

    t->char_ids = malloc((t->chars + 1) * sizeof *t->char_ids);
    if (!t->char_ids)
        return fail_memory(l);
    memset(t->char_ids, 0xFF, (t->chars + 1) * sizeof *t->char_ids);
    for (uint32_t id = 0; id < t->vocab; id++) {
        const struct tok_word *word = &t->words[id];
        if (word->text && word->bytes > 0 && word->bytes <= 4 &&
            tok_utf8_next(word->text, word->bytes, &code) == (int)word->bytes)
            t->char_ids[code] = id;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(name, sizeof name, "<0x%02X>", byte);
        t->byte_ids[byte] = byte_fallback ? tok_map_find(&t->map, t->words, name, 6) : TOK_NONE;
    }
    return 0;
}

/* Finds the two sides of a merge: "a b", or ["a", "b"]. */
static int read_merge(struct tok_load *l, const json_t *merge, const char *field, struct tok_text side[2])
{
    const json_t *pair[2] = {json_array_get(merge, 0), json_array_get(merge, 1)};

    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' '))
            return tok_load_fail_field(l, -EINVAL, field, merge,
                                       "it must be two tokens with a space between");
        side[0] = (struct tok_text){text, (size_t)(space - text)};
        side[1] = (struct tok_text){space + 1, strlen(space + 1)};
        return 0;
    }
    if (json_array_size(merge) != 2 || !json_is_string(pair[0]) || !json_is_string(pair[1]))
        return tok_load_fail_field(l, -EINVAL, field, merge, "it must be two tokens");
    for (size_t i = 0; i < 2; i++)
        side[i] = (struct tok_text){json_string_value(pair[i]), json_string_length(pair[i])};
    return 0;
}

/* Notes which two characters a merge joins. A merge of tokens that are symbols but
 * no characters would need more than that, and no known file has one: text is then
 * simply not cut. */
static void note_join(struct tokenizer *t, uint32_t left, uint32_t right)
{
    const struct tok_word *a = &t->words[left], *b = &t->words[right];
    uint32_t last, first;
    size_t start;

    if (left == t->unk || right == t->unk)
        t->cuttable = false;
    for (size_t i = 0; i < 256 && t->cuttable; i++)
        if (t->byte_ids[i] != TOK_NONE && (t->byte_ids[i] == left || t->byte_ids[i] == right))
            t->cuttable = false;
    if (!t->cuttable || a->bytes == 0 || b->bytes == 0)
        return;
    for (start = a->bytes - 1; start > 0 && ((unsigned char)a->text[start] & 0xC0) == 0x80;)
        start--;
    if (tok_utf8_next(a->text + start, a->bytes - start, &last) < 0 ||
        tok_utf8_next(b->text, b->bytes, &first) < 0)
        return;
    last = last < t->chars ? t->char_ids[last] : TOK_NONE;
    first = first < t->chars ? t->char_ids[first] : TOK_NONE;
    if (last != TOK_NONE && first != TOK_NONE) /* else the two sides can never arise */
        tok_pairs_set(&t->joins, last, first, 1);
}

static int load_merges(struct tok_load *l, const json_t *merges)
{
    struct tokenizer *t = l->t;
    size_t entries = json_array_size(merges);
    struct tok_buffer whole = {0};
    uint32_t rank = 0;
    char field[40];
    int rc = 0;

    t->merged = malloc((entries + 1) * sizeof *t->merged);
    if (entries >= TOK_NONE || !t->merged || tok_pairs_init(&t->merges, entries) < 0 ||
        tok_pairs_init(&t->joins, entries) < 0)
        return fail_memory(l);
    t->cuttable = true;
    for (size_t i = 0; rc == 0 && i < entries; i++) {
        const json_t *merge = json_array_get(merges, i);
        struct tok_text side[2] = {{0}};
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue;
        snprintf(field, sizeof field, "model.merges[%zu]", i);
        rc = read_merge(l, merge, field, side);
        if (rc < 0)
            break;
        uint32_t left = tok_map_find(&t->map, t->words, side[0].text, side[0].bytes);
        uint32_t right = tok_map_find(&t->map, t->words, side[1].text, side[1].bytes);
        whole.used = 0;
        rc = tok_buffer_add(&whole, side[0].text, side[0].bytes);
        if (rc == 0)
            rc = tok_buffer_add(&whole, side[1].text, side[1].bytes);
        if (rc < 0) {
            rc = fail_memory(l);
            break;
        }
        uint32_t id = tok_map_find(&t->map, t->words, whole.data, whole.used);
        if (left == TOK_NONE || right == TOK_NONE || id == TOK_NONE) {
            rc = tok_load_fail_field(l, -EINVAL, field, merge,
                                     "its tokens, or what they make, are not in model.vocab");
            break;
        }
        tok_pairs_set(&t->merges, left, right, rank);
        t->merged[rank++] = id;
        note_join(t, left, right);
    }
    tok_buffer_free(&whole);
    return rc;
}

/* The settings of the model that must have the value that does nothing. */
static int check_model(struct tok_load *l, const json_t *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *type = json_object_get(model, "type"), *dropout = json_object_get(model, "dropout");
    char field[60];

    if (!json_is_object(model))
        return tok_load_fail_field(l, -EINVAL, "model", model, "it must be an object");
    /* Files from before there were other models have no type. */
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return tok_load_fail_field(l, -ENOTSUP, "model.type", type, "only BPE is supported");
    if (!json_is_object(json_object_get(model, "vocab")))
        return tok_load_fail_field(l, -EINVAL, "model.vocab", json_object_get(model, "vocab"),
                                   "it must be an object");
    if (!json_is_array(json_object_get(model, "merges")))
        return tok_load_fail_field(l, -EINVAL, "model.merges", json_object_get(model, "merges"),
                                   "it must be an array");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return tok_load_fail_field(l, -ENOTSUP, "model.dropout", dropout, "only null or 0 is supported");
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        snprintf(field, sizeof field, "model.%s", affixes[i]);
        if (affix && !json_is_null(affix) && !(json_is_string(affix) && json_string_length(affix) == 0))
            return tok_load_fail_field(l, -ENOTSUP, field, affix, "only null is supported");
    }
    return 0;
}

static int load_model(struct tok_load *l, const json_t *model)
{
    const json_t *unk = json_object_get(model, "unk_token");
    struct tokenizer *t = l->t;
    bool byte_fallback;
    int rc = load_vocab(l, json_object_get(model, "vocab"));

    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "fuse_unk", false, &t->fuse_unk);
    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "ignore_merges", false, &t->ignore_merges);
    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "byte_fallback", false, &byte_fallback);
    if (rc < 0)
        return rc;
    t->unk = TOK_NONE;
    if (unk && !json_is_null(unk)) {
        if (json_is_string(unk))
            t->unk = tok_map_find(&t->map, t->words, json_string_value(unk), json_string_length(unk));
        if (t->unk == TOK_NONE)
            return tok_load_fail_field(l, -EINVAL, "model.unk_token", unk,
                                       "it must be null or in model.vocab");
    }
    rc = load_symbols(l, byte_fallback);
    return rc < 0 ? rc : load_merges(l, json_object_get(model, "merges"));
}

/* One added token: its word, and its entry in the trie that it is sought by. */
static int load_added(struct tok_load *l, const json_t *token, const char *where, struct tok_added *added)
{
    const json_t *content = json_object_get(token, "content");
    struct tok_buffer normal[2] = {{0}};
    struct tokenizer *t = l->t;
    bool single, special;
    char field[60];
    int rc;

    snprintf(field, sizeof field, "%s.content", where);
    if (!json_is_string(content))
        return tok_load_fail_field(l, -EINVAL, field, content, "it must be a string");
    if (!read_id(json_object_get(token, "id"), &added->id)) /* size_words has seen to it */
        return -EINVAL;
    rc = tok_load_bool(l, token, where, "single_word", -1, &single);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "lstrip", -1, &added->lstrip);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "rstrip", -1, &added->rstrip);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "normalized", -1, &added->normalized);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "special", -1, &special);
    if (rc < 0)
        return rc;
    if (single)
        return tok_load_fail(l, -ENOTSUP, "%s.single_word is true: only false is supported", where);

    const char *text = json_string_value(content);
    size_t bytes = json_string_length(content);
    struct tok_word *word = &t->words[added->id];
    uint32_t known = tok_map_find(&t->map, t->words, text, bytes);
    if (known != TOK_NONE && known != added->id)
        return tok_load_fail_field(l, -EINVAL, field, content, "model.vocab has it under another id");
    if (known == TOK_NONE && word->text)
        return tok_load_fail_field(l, -EINVAL, field, content, "another token has its id");
    if (known == TOK_NONE)
        rc = set_word(l, added->id, text, bytes);
    if (rc < 0)
        return rc;
    word->special = special && bytes > 0;
    if (added->normalized)
        rc = tok_normalize(&t->normalizer, text, bytes, normal, &text, &bytes);
    if (rc == 0)
        rc = tok_trie_add(added->normalized ? &t->normalized : &t->raw, text, bytes,
                          (uint32_t)(added - t->added));
    for (size_t i = 0; i < 2; i++)
        tok_buffer_free(&normal[i]);
    if (rc == -ENOMEM)
        return fail_memory(l);
    return rc < 0 ? tok_load_fail_field(l, rc, field, content, "it can't be normalized") : 0;
}

static int load_all_added(struct tok_load *l, const json_t *list)
{
    struct tokenizer *t = l->t;
    struct tok_map seen = {0};
    char where[40];
    int rc = 0;

    tok_trie_init(&t->raw);
    tok_trie_init(&t->normalized);
    t->added = calloc(json_array_size(list) + 1, sizeof *t->added);
    if (!t->added || tok_map_init(&seen, json_array_size(list)) < 0)
        return fail_memory(l);
    for (; rc == 0 && t->added_count < json_array_size(list); t->added_count++) {
        struct tok_added *added = &t->added[t->added_count];
        const json_t *content = json_object_get(json_array_get(list, t->added_count), "content");
        snprintf(where, sizeof where, "added_tokens[%zu]", t->added_count);
        rc = load_added(l, json_array_get(list, t->added_count), where, added);
        if (rc < 0)
            break;
        if (tok_map_find(&seen, t->words, json_string_value(content), json_string_length(content)) !=
            TOK_NONE)
            rc = tok_load_fail_field(l, -EINVAL, where, content, "it is there twice");
        else
            tok_map_add(&seen, t->words, added->id);
    }
    free(seen.slots);
    return rc;
}

/* The id of a special token of a template, or -1. */
static int64_t template_id(const struct tokenizer *t, const json_t *processor, const json_t *item)
{
    const json_t *token = json_object_get(json_object_get(item, "SpecialToken"), "id");
    const json_t *known = json_object_get(processor, "special_tokens");
    uint32_t id;

    if (!json_is_string(token))
        return -1;
    known = json_object_get(json_object_get(known, json_string_value(token)), "ids");
    return read_id(json_array_get(known, 0), &id) && id < t->vocab && t->words[id].text ? (int64_t)id : -1;
}

/* A file says which tokens begin and end a text only in its TemplateProcessing. */
static void load_ends(struct tokenizer *t, const json_t *processor)
{
    const json_t *single = json_object_get(processor, "single"),
                 *list = json_object_get(processor, "processors");
    size_t count = json_array_size(single);

    if (count > 0) {
        t->bos = template_id(t, processor, json_array_get(single, 0));
        t->eos = count > 1 ? template_id(t, processor, json_array_get(single, count - 1)) : -1;
    }
    for (size_t i = 0; count == 0 && i < json_array_size(list); i++)
        load_ends(t, json_array_get(list, i));
}

int tok_load_all(struct tok_load *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    int rc;

    l->t->bos = l->t->eos = -1;
    if (!json_is_object(root))
        return tok_load_fail(l, -EINVAL, "it is not a JSON object");
    if (added && !json_is_null(added) && !json_is_array(added))
        return tok_load_fail_field(l, -EINVAL, "added_tokens", added, "it must be an array");
    rc = check_model(l, model);
    if (rc == 0)
        rc = size_words(l, json_object_get(model, "vocab"), added);
    if (rc == 0)
        rc = load_model(l, model);
    if (rc == 0)
        rc = tok_load_normalizer(l, root);
    if (rc == 0)
        rc = tok_load_pre_tokenizer(l, root);
    if (rc == 0)
        rc = tok_load_decoder(l, root);
    if (rc == 0)
        rc = load_all_added(l, added);
    if (rc == 0 && (rc = tok_decode_prepare(l->t)) < 0)
        rc = tok_load_fail(l, rc, "decoder: a token grows beyond bounds, or there is no memory");
    if (rc == 0)
        load_ends(l->t, json_object_get(root, "post_processor"));
    return rc;
}
