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
    return tok_load_fail(l, -EINVAL, "line %d, column %d: %s", error->line, error->column, error->text);
}

int tokenizer_open(const char *path, struct tokenizer **out, char *error, size_t error_bytes)
{
    struct tok_load l = {.path = path, .error = error, .error_bytes = error_bytes};
    json_error_t parse;
    struct stat status;
    FILE *file;
    int rc;

    *out = NULL;
    if (error_bytes)
        error[0] = 0;
    /* Asked before opening, as opening a pipe would wait. */
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return tok_load_fail(&l, -EINVAL, "it is not a file");
    file = fopen(path, "re");
    if (!file) {
        rc = -errno;
        return tok_load_fail(&l, rc, "%s", strerror(-rc));
    }
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &parse);
    rc = ferror(file) ? -EIO : 0;
    fclose(file);
    if (root)
        rc = load(&l, root, out);
    else
        rc = rc < 0 ? tok_load_fail(&l, rc, "%s", strerror(-rc)) : fail_parse(&l, &parse);
    json_decref(root);
    return rc;
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
    struct tok_load l = {.path = "the byte tokenizer"};
    json_t *root = bytes_json();
    int rc;

    *out = NULL;
    if (!root)
        return -ENOMEM;
    rc = load(&l, root, out);
    json_decref(root);
    if (rc == 0) {
        (*out)->bos = 256;
        (*out)->eos = 257;
    }
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
    for (uint32_t id = 0; t->words && id < t->vocab; id++)
        free(t->words[id].text);
    free(t->words);
    free(t->map.slots);
    free(t->char_ids);
    free(t->merges.slots);
    free(t->merged);
    free(t->joins.slots);
    free(t->added);
    free(t->raw.nodes);
    free(t->normalized.nodes);
    tok_steps_free(&t->normalizer);
    tok_steps_free(&t->pre);
    tok_steps_free(&t->decoder);
    free(t->pieces);
    tok_buffer_free(&t->piece_bytes);
    free(t);
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab;
}

int64_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int64_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_special(const struct tokenizer *t, uint32_t id)
{
    return id < t->vocab && t->words[id].special;
}
