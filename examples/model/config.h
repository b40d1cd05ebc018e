/*
 * A model's configuration: config.json of a Hugging Face directory, or a preset.
 *
 * Accepts the families of family.h, and refuses by name what the arithmetic of these programs does not do: a number
 * that is silently ignored would be a wrong model.
 */
#ifndef LLAMA_CONFIG_H
#define LLAMA_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "include/offload.h"
#include "examples/model/shape.h"

#define LLAMA_EOS_MAX 8

struct llama_config {
    struct llama_shape shape;
    int32_t bos_id; /* -1: none */
    uint32_t eos_count;
    int32_t eos_ids[LLAMA_EOS_MAX];
    float initializer_range; /* standard deviation of fresh weights */
    float dropout;           /* that training would need; 0: none */
    const char *dropout_key; /* which says so */
    bool router_loss;        /* training would add a loss of the routers' balance */
    bool as_read;            /* llama_config_save can't say all of it, llama_config_copy can */
};

/* Reads dir/config.json, and of dir/generation_config.json the end tokens, or the metadata of a GGUF file. 0,
 * -OFL_EFORMAT (no JSON), -ENOTSUP (what it says can't be used) or an errno value, with the sentence in error. */
int llama_config_load(const char *dir, struct llama_config *out, char *error, size_t error_bytes);

/* What a config.json would have that is there as an object; path is for sentences. */
int llama_config_read(const char *path, const json_t *object, struct llama_config *out, char *error,
                      size_t error_bytes);

/* Writes path, which must not exist: loads in transformers from 4.41 on. */
int llama_config_save(const char *path, const struct llama_config *config, enum ofl_dtype dtype, char *error,
                      size_t error_bytes);

/* As dir/config.json, with dtype, tie and class of this model. path must not exist. */
int llama_config_copy(const char *dir, const char *path, const struct llama_config *config,
                      enum ofl_dtype dtype, char *error, size_t error_bytes);

/* The checks that every configuration passes; the source is for the sentence. */
int llama_config_check(const struct llama_config *config, const char *source, char *error,
                       size_t error_bytes);

struct llama_preset {
    const char *name, *text;
    uint32_t layers, hidden, heads, kv_heads, ffn, vocab, positions;
    int tied;
    int32_t bos_id, eos_id;
};

/* For --help: the preset of that index, NULL after the last. */
const struct llama_preset *llama_preset_at(size_t index);
/* -ENOENT if there is none of that name. */
int llama_preset(const char *name, struct llama_config *out);

#endif
