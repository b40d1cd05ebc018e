/*
 * Reads the vocabulary and the merges of a parsed tokenizer.json, and builds what
 * encoding looks up. Trusts nothing in the file, and complains with the name of the
 * field and its value.
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

int tok_load_memory(struct tok_load *l)
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

bool tok_load_id(const json_t *value, uint32_t *out)
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

int tok_load_string(struct tok_load *l, const char *string, size_t bytes, struct tok_text *out)
{
    struct tok_buffer mark = {0};
    int rc = tok_text_copy(out, string, bytes);

    if (rc == 0 && l->nul) {
        rc = tok_buffer_add_char(&mark, l->nul);
        char *to = (char *)out->text;
        for (const char *at = to, *end = to + bytes; rc == 0 && at < end;) {
            bool nul = (size_t)(end - at) >= mark.used && memcmp(at, mark.data, mark.used) == 0;
            *to++ = nul ? 0 : *at;
            at += nul ? mark.used : 1;
        }
        out->bytes = (size_t)(to - out->text);
        tok_buffer_free(&mark);
    }
    return rc < 0 ? tok_load_memory(l) : 0;
}

static int load_vocab(struct tok_load *l, json_t *vocab)
{
    struct tokenizer *t = l->t;
    const char *name;
    json_t *value;
    uint32_t code;
    int rc = 0;

    t->words = calloc(json_object_size(vocab) + 1, sizeof *t->words);
    if (!t->words || tok_map_init(&t->map, json_object_size(vocab)) < 0)
        return tok_load_memory(l);
    json_object_foreach(vocab, name, value)
    {
        struct tok_word *word = &t->words[t->word_count];
        struct tok_text text;
        if (!tok_load_id(value, &word->id))
            return fail_token(l, "model.vocab", name,
                              "has an id that isn't a whole number from 0 to 4194303");
        rc = tok_load_string(l, name, strlen(name), &text);
        if (rc < 0)
            return rc;
        word->text = (char *)text.text;
        word->bytes = (uint32_t)text.bytes;
        tok_map_set(&t->map, t->words, t->word_count++);
        if (text.bytes > 0 && text.bytes <= 4 &&
            tok_utf8_next(text.text, text.bytes, &code) == (int)text.bytes && code >= t->chars)
            t->chars = code + 1;
    }
    return t->word_count > 0 ? 0 : tok_load_fail(l, -EINVAL, "model.vocab has no tokens");
}

/* Tables of the tokens that are one character, and of the byte tokens. */
static int load_symbols(struct tok_load *l, bool byte_fallback)
{
    struct tokenizer *t = l->t;
    char name[8];
    uint32_t code;

    t->char_ids = malloc((t->chars + 1) * sizeof *t->char_ids);
    if (!t->char_ids)
        return tok_load_memory(l);
    memset(t->char_ids, 0xFF, (t->chars + 1) * sizeof *t->char_ids);
    for (uint32_t i = 0; i < t->word_count; i++) {
        const struct tok_word *word = &t->words[i];
        if (word->bytes > 0 && word->bytes <= 4 &&
            tok_utf8_next(word->text, word->bytes, &code) == (int)word->bytes)
            t->char_ids[code] = word->id;
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
static void note_join(struct tokenizer *t, const struct tok_word *a, const struct tok_word *b)
{
    uint32_t left = a->id, right = b->id, last, first;
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

/* The index of a side's text in the vocabulary, or TOK_NONE. */
static int find_side(struct tok_load *l, const struct tok_text *side, uint32_t *index)
{
    struct tok_text text = *side;
    int rc = l->nul ? tok_load_string(l, side->text, side->bytes, &text) : 0;

    if (rc < 0)
        return rc;
    *index = tok_map_index(&l->t->map, l->t->words, text.text, text.bytes);
    if (l->nul)
        free((char *)text.text);
    return 0;
}

/* One merge, if what it joins and what it makes are there. */
static int load_merge(struct tok_load *l, const json_t *merge, const char *field, struct tok_buffer *whole,
                      uint32_t rank)
{
    struct tokenizer *t = l->t;
    struct tok_text side[2] = {{0}};
    uint32_t left = TOK_NONE, right = TOK_NONE, id = TOK_NONE;
    int rc = read_merge(l, merge, field, side);

    if (rc == 0)
        rc = find_side(l, &side[0], &left);
    if (rc == 0)
        rc = find_side(l, &side[1], &right);
    if (rc < 0)
        return rc;
    if (left != TOK_NONE && right != TOK_NONE) {
        whole->used = 0;
        if (tok_buffer_add(whole, t->words[left].text, t->words[left].bytes) < 0 ||
            tok_buffer_add(whole, t->words[right].text, t->words[right].bytes) < 0)
            return tok_load_memory(l);
        id = tok_map_find(&t->map, t->words, whole->data, whole->used);
    }
    if (id == TOK_NONE)
        return tok_load_fail_field(l, -EINVAL, field, merge,
                                   "its tokens, or what they make, are not in model.vocab");
    tok_pairs_set(&t->merges, t->words[left].id, t->words[right].id, rank);
    t->merged[rank] = id;
    note_join(t, &t->words[left], &t->words[right]);
    return 0;
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
        return tok_load_memory(l);
    t->cuttable = true;
    for (size_t i = 0; rc == 0 && i < entries; i++) {
        const json_t *merge = json_array_get(merges, i);
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue;
        snprintf(field, sizeof field, "model.merges[%zu]", i);
        rc = load_merge(l, merge, field, &whole, rank++);
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

/* The token for what the vocabulary can't write. One that isn't there matters only
 * to a text that needs it. */
static int load_unknown(struct tok_load *l, const json_t *unk)
{
    struct tokenizer *t = l->t;
    struct tok_text text;
    int rc = 0;

    t->unk = TOK_NONE;
    if (!unk || json_is_null(unk))
        return 0;
    if (!json_is_string(unk))
        return tok_load_fail_field(l, -EINVAL, "model.unk_token", unk, "it must be null or a string");
    rc = tok_load_string(l, json_string_value(unk), json_string_length(unk), &text);
    if (rc < 0)
        return rc;
    t->unk = tok_map_find(&t->map, t->words, text.text, text.bytes);
    t->unk_missing = t->unk == TOK_NONE;
    free((char *)text.text);
    return 0;
}

static int load_model(struct tok_load *l, const json_t *model)
{
    struct tokenizer *t = l->t;
    bool byte_fallback;
    int rc = load_vocab(l, json_object_get(model, "vocab"));

    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "fuse_unk", false, &t->fuse_unk);
    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "ignore_merges", false, &t->ignore_merges);
    if (rc == 0)
        rc = tok_load_bool(l, model, "model", "byte_fallback", false, &byte_fallback);
    if (rc == 0)
        rc = load_unknown(l, json_object_get(model, "unk_token"));
    if (rc == 0)
        rc = load_symbols(l, byte_fallback);
    return rc < 0 ? rc : load_merges(l, json_object_get(model, "merges"));
}

int tok_load_all(struct tok_load *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *version = json_object_get(root, "version");
    int rc;

    if (!json_is_object(root))
        return tok_load_fail(l, -EINVAL, "it is not a JSON object");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return tok_load_fail_field(l, -ENOTSUP, "version", version, "only 1.0 is supported");
    rc = check_model(l, model);
    if (rc == 0)
        rc = load_model(l, model);
    if (rc == 0)
        rc = tok_load_normalizer(l, root);
    if (rc == 0)
        rc = tok_load_pre_tokenizer(l, root);
    if (rc == 0)
        rc = tok_load_decoder(l, root);
    if (rc == 0)
        rc = tok_added_load(l, json_object_get(root, "added_tokens"));
    if (rc == 0 && !l->alone)
        rc = tok_config_load(l, root);
    if (rc == 0)
        rc = tok_added_finish(l);
    if (rc == 0 && (rc = tok_decode_prepare(l->t)) < 0)
        rc = tok_load_fail(l, rc, "decoder: a token grows beyond bounds, or there is no memory");
    return rc < 0 ? rc : tok_post_load(l, root);
}
