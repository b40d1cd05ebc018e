/*
 * What a GGUF file says about text: its tokenizer, and its chat template. Both are handed on in the form that the
 * directories of Hugging Face have, so that one code reads them.
 */
#ifndef LLAMA_GGUF_TEXT_H
#define LLAMA_GGUF_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "examples/model/tokenizer.h"

/* How texts are cut before merges, by the name in tokenizer.ggml.pre. */
struct gguf_pre {
    const char *name;
    const char *regex[5]; /* one after the other, each on what the ones before have left */
    bool ignore_merges;   /* a piece that is a token is one */
    bool start;           /* a start token where the file does not say */
    bool nfc;             /* texts are composed first */
};

/* NULL: no row has that name. name NULL: files from before there were names. */
const struct gguf_pre *llama_gguf_pre(const char *name);

/* Opens the tokenizer of tokenizer.ggml.*: models gpt2 (byte-level BPE with merges) and llama (BPE by scores, with
 * bytes for what the vocabulary lacks). As tokenizer_open; others are refused by name. */
int llama_gguf_tokenizer(const char *path, struct tokenizer **out, char *error, size_t error_bytes);

/* As a tokenizer_config.json: texts of special tokens, and chat_template where the file has one. */
int llama_gguf_settings(const char *path, json_t **out, char *error, size_t error_bytes);

#endif
