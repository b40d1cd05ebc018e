/*
 * Opens and closes tokenizers, and owns the byte tokenizer, which is a small
 * tokenizer.json like any other: made here, it is loaded by the same code.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "examples/model/tokenizer_impl.h"

static int load(struct tok_load *l, const json_t *root, struct tokenizer **out)
{
    int rc;

    l->t = calloc(1, sizeof *l->t);
    if (!l->t)
        return tok_load_fail(l, -ENOMEM, "no memory");
    rc = tok_load_all(l, root);
    if (rc == 0)
        *out = l->t;
    else
        tokenizer_close(l->t);
    return rc;
}

/* A failed parse may quote the file, whose bytes don't belong on a terminal. */
static int fail_parse(struct tok_load *l, json_error_t *error)
{
    for (char *c = error->text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    return tok_load_fail(l, -EBADMSG, "line %d, column %d: %s", error->line, error->column, error->text);
}

/* All of a file, and a NUL behind it that *bytes doesn't count. */
static int read_file(const char *path, char **text, size_t *bytes)
{
    struct tok_buffer all = {0};
    char part[65536];
    size_t got;
    int rc = 0;
    FILE *file = fopen(path, "re");

    if (!file)
        return -errno;
    while (rc == 0 && (got = fread(part, 1, sizeof part, file)) > 0)
        rc = tok_buffer_add(&all, part, got);
    if (rc == 0 && ferror(file))
        rc = -EIO;
    if (rc == 0)
        rc = tok_buffer_add(&all, "", 1);
    fclose(file);
    if (rc < 0) {
        tok_buffer_free(&all);
        return rc;
    }
    *text = all.data;
    *bytes = all.used - 1;
    return 0;
}

/* JSON's \u0000, which the parser can't have in a key, becomes the escape of a
 * character that stands for it: one of those that are none, and that the file hasn't. */
static void replace_nul(struct tok_load *l, char *text, size_t bytes)
{
    static const struct tok_text nul = {.text = "\\u0000", .bytes = 6};
    char escape[8], raw[] = "\xEF\xB7\x90";
    unsigned last = 0x90;

    if (!tok_find(text, bytes, &nul))
        return;
    for (;; last++) {
        raw[2] = (char)last;
        snprintf(escape, sizeof escape, "\\ufd%02x", last - 0x90 + 0xD0);
        if (last > 0xAF || (!strstr(text, raw) && !strcasestr(text, escape)))
            break;
    }
    if (last > 0xAF)
        return; /* the parser refuses it */
    l->nul = 0xFDD0 + last - 0x90;
    for (char *at = text, *end = text + bytes; end - at >= 6; at += *at == '\\' ? 2 : 1)
        if (memcmp(at, nul.text, 6) == 0)
            memcpy(at, escape, 6);
}

int tokenizer_open(const char *path, struct tokenizer **out, char *error, size_t error_bytes)
{
    struct tok_load l = {.path = path, .error = error, .error_bytes = error_bytes};
    json_error_t parse;
    struct stat status;
    size_t bytes = 0;
    char *text = NULL;
    int rc;

    *out = NULL;
    if (error_bytes)
        error[0] = 0;
    /* Asked before opening, as opening a pipe would wait. */
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return tok_load_fail(&l, -EINVAL, "it is not a file");
    rc = read_file(path, &text, &bytes);
    if (rc < 0)
        return tok_load_fail(&l, rc, "%s", strerror(-rc));
    replace_nul(&l, text, bytes);
    json_t *root = json_loadb(text, bytes, 0, &parse);
    free(text);
    rc = root ? load(&l, root, out) : fail_parse(&l, &parse);
    json_decref(root);
    return rc;
}

int tokenizer_open_json(const char *path, const json_t *root, struct tokenizer **out, char *error,
                        size_t error_bytes)
{
    struct tok_load l = {.path = path, .alone = true, .error = error, .error_bytes = error_bytes};

    *out = NULL;
    return load(&l, root, out);
}

static json_t *special_token(int id, const char *content)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content, "single_word", 0,
                     "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

/* Every byte a token under its printable character, and no merges. */
static json_t *bytes_json(void)
{
    json_t *vocab = json_object(), *root;
    int rc = vocab ? 0 : -1;

    for (int byte = 0; rc == 0 && byte < 256; byte++) {
        struct tok_buffer name = {0};
        rc = tok_buffer_add_char(&name, tok_byte_to_char((unsigned char)byte));
        if (rc == 0)
            rc = tok_buffer_add(&name, "", 1);
        if (rc == 0)
            rc = json_object_set_new(vocab, name.data, json_integer(byte));
        tok_buffer_free(&name);
    }
    if (rc < 0) {
        json_decref(vocab);
        return NULL;
    }
    root =
        json_pack("{s:s, s:n, s:n, s:[o, o], s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b},"
                  " s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}}",
                  "version", "1.0", "truncation", "padding", "added_tokens", special_token(256, "<|begin|>"),
                  special_token(257, "<|end|>"), "normalizer", "pre_tokenizer", "type", "ByteLevel",
                  "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0, "post_processor", "decoder",
                  "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0, "model",
                  "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges");
    return root;
}

int tokenizer_bytes(struct tokenizer **out)
{
    struct tok_load l = {.path = "the byte tokenizer", .alone = true};
    json_t *root = bytes_json();
    int rc;

    *out = NULL;
    if (!root)
        return -ENOMEM;
    rc = load(&l, root, out);
    json_decref(root);
    return rc;
}

int tokenizer_save_bytes(const char *path)
{
    json_t *root = bytes_json();
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    FILE *file;
    int rc = 0;

    json_decref(root);
    if (!text)
        return -ENOMEM;
    file = fopen(path, "wxe"); /* new: what is removed below is ours */
    if (!file) {
        rc = -errno;
    } else {
        if (fputs(text, file) < 0 || fputc('\n', file) < 0)
            rc = -errno;
        if (fclose(file) != 0 && rc == 0)
            rc = -errno;
        if (rc < 0)
            remove(path);
    }
    free(text);
    return rc;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->word_count; i++)
        free(t->words[i].text);
    for (size_t i = 0; i < t->added_count; i++) {
        free(t->added_words[i].text);
        free((char *)t->added[i].normal.text);
    }
    free(t->words);
    free(t->map.slots);
    free(t->char_ids);
    free(t->merges.slots);
    free(t->merged);
    free(t->joins.slots);
    free(t->added);
    free(t->added_words);
    free(t->added_map.slots);
    free(t->raw.nodes);
    free(t->normalized.nodes);
    free(t->letters);
    tok_steps_free(&t->normalizer);
    tok_steps_free(&t->pre);
    tok_steps_free(&t->decoder);
    free(t->pieces);
    tok_buffer_free(&t->piece_bytes);
    free(t->before);
    free(t->after);
    free(t);
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab;
}

const uint32_t *tokenizer_before(const struct tokenizer *t, size_t *count)
{
    *count = t->before_count;
    return t->before;
}

const uint32_t *tokenizer_after(const struct tokenizer *t, size_t *count)
{
    *count = t->after_count;
    return t->after;
}

bool tokenizer_special(const struct tokenizer *t, uint32_t id)
{
    return id < t->vocab && t->pieces[id].special;
}
