/*
 * What the post-processor puts before and behind a text: it decides on start and end
 * tokens, and no other file does. Pairs of texts and offsets don't matter here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/tokenizer_impl.h"

/* Appends an id to those before or behind the text. */
static int add_id(struct tok_load *l, const char *where, const json_t *value, bool behind)
{
    uint32_t **ids = behind ? &l->t->after : &l->t->before;
    size_t *count = behind ? &l->t->after_count : &l->t->before_count;
    uint32_t id;

    if (!tok_load_id(value, &id))
        return tok_load_fail_field(l, -EINVAL, where, value, "it must be a whole number from 0 to 4194303");
    uint32_t *more = realloc(*ids, (*count + 1) * sizeof *more);
    if (!more)
        return tok_load_memory(l);
    *ids = more;
    more[(*count)++] = id;
    return 0;
}

static int load_template(struct tok_load *l, const json_t *processor, const char *where)
{
    const json_t *single = json_object_get(processor, "single");
    const json_t *known = json_object_get(processor, "special_tokens");
    char field[WHERE_MAX + 60];
    bool behind = false;
    int rc = 0;

    if (!json_is_array(single))
        return tok_fail_at(l, -EINVAL, where, "single", single, "it must be an array");
    for (size_t i = 0; rc == 0 && i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *sequence = json_object_get(piece, "Sequence");
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const json_t *ids = json_object_get(name ? json_object_get(known, name) : NULL, "ids");
        snprintf(field, sizeof field, "%s.single[%zu]", where, i);
        if (sequence) {
            const char *id = json_string_value(json_object_get(sequence, "id"));
            if (!id || strcmp(id, "A") != 0)
                return tok_load_fail_field(l, -EINVAL, field, json_object_get(sequence, "id"),
                                           "only the sequence A can be in it");
            if (behind)
                return tok_load_fail(l, -ENOTSUP, "%s: the text a second time is not supported", field);
            behind = true;
        } else if (!json_is_array(ids)) {
            return tok_load_fail(l, -EINVAL, "%s: its token is not in special_tokens", field);
        }
        for (size_t n = 0; rc == 0 && n < json_array_size(ids); n++)
            rc = add_id(l, field, json_array_get(ids, n), behind);
    }
    if (rc == 0 && !behind)
        return tok_load_fail(l, -ENOTSUP, "%s.single: a template without the text is not supported", where);
    return rc;
}

/* cls before and sep behind: each a text and its id. */
static int load_pair(struct tok_load *l, const json_t *processor, const char *where)
{
    char field[WHERE_MAX + 20];
    int rc;

    snprintf(field, sizeof field, "%s.cls", where);
    rc = add_id(l, field, json_array_get(json_object_get(processor, "cls"), 1), false);
    snprintf(field, sizeof field, "%s.sep", where);
    return rc < 0 ? rc : add_id(l, field, json_array_get(json_object_get(processor, "sep"), 1), true);
}

static int load_one(struct tok_load *l, const json_t *processor, const char *where, unsigned *adding,
                    unsigned depth)
{
    const json_t *type = json_object_get(processor, "type"), *list = json_object_get(processor, "processors");
    const char *name = json_string_value(type);
    char inner[WHERE_MAX];
    int rc = 0;

    if (!name)
        return tok_fail_at(l, -EINVAL, where, "type", type, "it must be a string");
    if (strcmp(name, "ByteLevel") == 0)
        return 0;
    if (strcmp(name, "Sequence") == 0) {
        if (!json_is_array(list))
            return tok_fail_at(l, -EINVAL, where, "processors", list, "it must be an array");
        for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
            if (depth == 8 ||
                snprintf(inner, sizeof inner, "%s.processors[%zu]", where, i) >= (int)sizeof inner)
                return tok_load_fail(l, -ENOTSUP, "%s: sequences are nested too deep", where);
            rc = load_one(l, json_array_get(list, i), inner, adding, depth + 1);
        }
        return rc;
    }
    /* The second one would see the first one's tokens as texts. */
    if ((*adding)++ > 0)
        return tok_load_fail(l, -ENOTSUP, "%s: a second one that adds tokens is not supported", where);
    if (strcmp(name, "TemplateProcessing") == 0)
        return load_template(l, processor, where);
    if (strcmp(name, "RobertaProcessing") == 0 || strcmp(name, "BertProcessing") == 0)
        return load_pair(l, processor, where);
    return tok_fail_at(l, -ENOTSUP, where, "type", type, "it is not supported");
}

int tok_post_load(struct tok_load *l, const json_t *root)
{
    const json_t *processor = json_object_get(root, "post_processor");
    unsigned adding = 0;

    if (!processor || json_is_null(processor))
        return 0;
    return load_one(l, processor, "post_processor", &adding, 0);
}
