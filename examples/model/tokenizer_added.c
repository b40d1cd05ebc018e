/*
 * Added tokens: their ids, their flags, and what finds them in a text. Ids are given
 * as Hugging Face gives them: a token whose text the vocabulary has gets that id,
 * others the next ones, and the ids in the file count for nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

int tok_added_read(struct tok_load *l, const json_t *token, const char *where, bool absent,
                   struct tok_text *text, struct tok_added *out)
{
    const json_t *content = json_object_get(token, "content");
    int otherwise = absent ? 0 : -1;
    char field[80];
    int rc;

    *out = (struct tok_added){0};
    snprintf(field, sizeof field, "%s.content", where);
    if (!json_is_string(content))
        return tok_load_fail_field(l, -EINVAL, field, content, "it must be a string");
    rc = tok_load_bool(l, token, where, "single_word", otherwise, &out->single_word);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "lstrip", otherwise, &out->lstrip);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "rstrip", otherwise, &out->rstrip);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "special", otherwise, &out->special);
    if (rc == 0)
        rc = tok_load_bool(l, token, where, "normalized", absent ? !out->special : -1, &out->normalized);
    return rc < 0 ? rc : tok_load_string(l, json_string_value(content), json_string_length(content), text);
}

uint32_t tok_added_find(const struct tokenizer *t, const char *text, size_t bytes)
{
    return t->added_count ? tok_map_index(&t->added_map, t->added_words, text, bytes) : TOK_NONE;
}

uint32_t tok_added_next(const struct tokenizer *t)
{
    uint32_t next = t->word_count;

    for (size_t i = 0; i < t->added_count; i++)
        if (t->added_words[i].id >= next)
            next = t->added_words[i].id + 1;
    return next;
}

/* Room for one more, in the arrays and in what finds them by text. */
static int make_room(struct tokenizer *t)
{
    size_t room = 2 * t->added_room + 64;

    if (t->added_count < t->added_room)
        return 0;
    struct tok_added *added = realloc(t->added, room * sizeof *added);
    if (added)
        t->added = added;
    struct tok_word *words = realloc(t->added_words, room * sizeof *words);
    if (words)
        t->added_words = words;
    if (!added || !words)
        return -ENOMEM;
    free(t->added_map.slots);
    t->added_map = (struct tok_map){0};
    if (tok_map_init(&t->added_map, room) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < t->added_count; i++)
        tok_map_set(&t->added_map, t->added_words, (uint32_t)i);
    t->added_room = room;
    return 0;
}

static bool same_flags(const struct tok_added *a, const struct tok_added *b)
{
    return a->lstrip == b->lstrip && a->rstrip == b->rstrip && a->single_word == b->single_word &&
           a->normalized == b->normalized && a->special == b->special;
}

/* What the normalizer makes of a token's text, where that is another one. */
static int set_normal(struct tok_load *l, const struct tok_text *text, struct tok_added *added)
{
    struct tok_work work = {0};
    const char *normal;
    size_t bytes;
    int rc = tok_normalize(&l->t->normalizer, text->text, text->bytes, &work, &normal, &bytes);

    if (rc == 0 && (bytes != text->bytes || memcmp(normal, text->text, bytes) != 0)) {
        free((char *)added->normal.text);
        rc = tok_text_copy(&added->normal, normal, bytes);
    }
    tok_work_free(&work);
    return rc;
}

/* An entry for a text that is new, with its id. */
static int new_entry(struct tok_load *l, const struct tok_text *text, uint32_t *next, uint32_t *index)
{
    struct tokenizer *t = l->t;
    struct tok_text copy;

    if (make_room(t) < 0 || tok_text_copy(&copy, text->text, text->bytes) < 0)
        return tok_load_memory(l);
    uint32_t id = tok_map_find(&t->map, t->words, text->text, text->bytes);
    if (id == TOK_NONE)
        id = (*next)++;
    *index = (uint32_t)t->added_count++;
    t->added[*index] = (struct tok_added){0};
    t->added_words[*index] =
        (struct tok_word){.text = (char *)copy.text, .bytes = (uint32_t)copy.bytes, .id = id};
    tok_map_set(&t->added_map, t->added_words, *index);
    return id < TOK_ID_LIMIT ? 0 : tok_load_fail(l, -EINVAL, "added_tokens: ids beyond 4194303");
}

int tok_added_put(struct tok_load *l, const struct tok_text *text, const struct tok_added *flags,
                  uint32_t *next)
{
    uint32_t index = tok_added_find(l->t, text->text, text->bytes);
    struct tok_added *added;
    int rc = 0;

    if (text->bytes == 0 || (index != TOK_NONE && same_flags(&l->t->added[index], flags)))
        return 0;
    if (index == TOK_NONE)
        rc = new_entry(l, text, next, &index);
    if (rc < 0)
        return rc;
    added = &l->t->added[index];
    struct tok_added before = *added;
    *added = *flags;
    added->normal = before.normal; /* as long as no other takes its place: Hugging Face forgets none */
    added->skipped = before.skipped || flags->special;
    if (added->normalized)
        rc = set_normal(l, text, added);
    if (rc == -ENOMEM)
        return tok_load_memory(l);
    if (rc < 0) {
        json_t *shown = json_stringn_nocheck(text->text, text->bytes);
        rc = tok_load_fail_field(l, rc, "an added token", shown, "it can't be normalized");
        json_decref(shown);
    }
    return rc;
}

int tok_added_load(struct tok_load *l, const json_t *list)
{
    uint32_t next = tok_added_next(l->t), id;
    struct tok_added flags;
    char where[40], field[60];
    int rc = 0;

    if (list && !json_is_null(list) && !json_is_array(list))
        return tok_load_fail_field(l, -EINVAL, "added_tokens", list, "it must be an array");
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        struct tok_text text = {0};
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        snprintf(field, sizeof field, "%s.id", where);
        if (!tok_load_id(json_object_get(token, "id"), &id))
            return tok_load_fail_field(l, -EINVAL, field, json_object_get(token, "id"),
                                       "it must be a whole number from 0 to 4194303");
        rc = tok_added_read(l, token, where, false, &text, &flags);
        if (rc == 0)
            rc = tok_added_put(l, &text, &flags, &next);
        free((char *)text.text);
    }
    return rc;
}

/* The text that decoding shows, and that is sought in normalized text. */
static struct tok_text shown_text(const struct tokenizer *t, size_t i)
{
    if (t->added[i].normal.text)
        return t->added[i].normal;
    return (struct tok_text){t->added_words[i].text, t->added_words[i].bytes};
}

static int fill_tries(struct tok_load *l)
{
    struct tokenizer *t = l->t;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < t->added_count; i++) {
        struct tok_text text = {t->added_words[i].text, t->added_words[i].bytes};
        /* Of two with one id the later one is sought. */
        if (t->pieces[t->added_words[i].id].added != i)
            continue;
        if (t->added[i].normalized)
            text = shown_text(t, i);
        rc = tok_trie_add(t->added[i].normalized ? &t->normalized : &t->raw, text.text, text.bytes,
                          (uint32_t)i);
    }
    return rc < 0 ? tok_load_memory(l) : 0;
}

/* What single_word doesn't take beside a token: \w of Rust's regular expressions. */
static int make_letters(struct tok_load *l)
{
    struct tok_bits *bits = calloc(1, sizeof *bits);

    if (bits) {
        tok_bits_named(bits, "word", 4);
        tok_bits_range(bits, 0x200C, 0x200D);
        l->t->letters = tok_class_make(bits);
    }
    free(bits);
    return l->t->letters ? 0 : tok_load_memory(l);
}

int tok_added_finish(struct tok_load *l)
{
    struct tokenizer *t = l->t;
    bool alone = false;

    for (uint32_t i = 0; i < t->word_count; i++)
        t->vocab = t->words[i].id >= t->vocab ? t->words[i].id + 1 : t->vocab;
    for (size_t i = 0; i < t->added_count; i++) {
        t->vocab = t->added_words[i].id >= t->vocab ? t->added_words[i].id + 1 : t->vocab;
        alone |= t->added[i].single_word;
    }
    t->pieces = calloc(t->vocab, sizeof *t->pieces);
    if (!t->pieces)
        return tok_load_memory(l);
    for (uint32_t i = 0; i < t->word_count; i++) {
        t->pieces[t->words[i].id].text = t->words[i].text;
        t->pieces[t->words[i].id].text_bytes = t->words[i].bytes;
    }
    for (size_t i = 0; i < t->added_count; i++) {
        struct tok_piece *piece = &t->pieces[t->added_words[i].id];
        struct tok_text text = shown_text(t, i);
        piece->text = text.text;
        piece->text_bytes = (uint32_t)text.bytes;
        piece->added = i;
        piece->special = t->added[i].skipped;
    }
    tok_trie_init(&t->raw);
    tok_trie_init(&t->normalized);
    int rc = alone ? make_letters(l) : 0;
    return rc < 0 ? rc : fill_tries(l);
}
