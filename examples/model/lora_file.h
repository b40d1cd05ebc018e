/*
 * Adapters as the directory that PEFT writes and reads: adapter_config.json, and adapter_model.safetensors with its
 * names. Rows are in the order of Hugging Face's files there, whatever the base has.
 */
#ifndef LLAMA_LORA_FILE_H
#define LLAMA_LORA_FILE_H

#include "examples/model/lora.h"
#include "include/offload.h"

/* What an adapter's files hold, checked against the shape: every tensor is there once, with its size, and nothing else.
 * 0, or a negative code with the sentence. */
int llama_lora_load(const char *dir, const struct llama_shape *shape, struct llama_lora *out, char *error,
                    size_t error_bytes);

/* A tensor's values in F32, rows in the order of the shape's base. Returns 0, or a negative code that ends the call,
 * where it may write a sentence. */
typedef int llama_lora_fn(void *arg, uint32_t index, const struct llama_lora_tensor *t, float *values,
                          char *error, size_t error_bytes);

/* Calls put for each tensor. l: from llama_lora_load. */
int llama_lora_read(struct ofl_ctx *ctx, const char *dir, const struct llama_shape *shape,
                    const struct llama_lora *l, llama_lora_fn *put, void *arg, char *error,
                    size_t error_bytes);

struct llama_lora_writer {
    const char *base; /* the base model's name, for base_model_name_or_path */
    const struct llama_shape *shape;
    const struct llama_lora *lora;
    llama_lora_fn *get; /* fills values */
    void *arg;
};

/* All or nothing. Once for an output. */
struct llama_output;
int llama_lora_write(const struct llama_lora_writer *w, struct llama_output *to, char *error,
                     size_t error_bytes);

#endif
