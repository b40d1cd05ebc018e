/*
 * The numbers that fix a Llama model's shape. Shared by the parser of config.json, the
 * kernels and the programs; knows nothing of files, tensors or memory.
 */
#ifndef LLAMA_SHAPE_H
#define LLAMA_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

struct llama_shape {
    uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_positions;
    float rms_eps;
    float rope_theta;
    struct {
        enum { LLAMA_ROPE_PLAIN, LLAMA_ROPE_LINEAR, LLAMA_ROPE_LLAMA3 } kind;
        float factor, low_freq_factor, high_freq_factor;
        uint32_t original_positions;
    } rope;
    bool tied;       /* head shares the embedding */
    bool rope_pairs; /* rows of Q and K that are rotated together lie side by side, as in GGUF files */
};

#endif
