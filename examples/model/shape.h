/*
 * The numbers and traits that fix a model's shape. Shared by the parser of config.json, the kernels and the programs;
 * knows nothing of files or memory. A trait that is zero is Llama's.
 */
#ifndef LLAMA_SHAPE_H
#define LLAMA_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "examples/model/packing.h"

#define LLAMA_LAYERS_MAX       4096u
#define LLAMA_ROPE_FACTORS_MAX 128u
#define LLAMA_EXPERTS_MAX      4096u

struct llama_rope {
    enum { LLAMA_ROPE_PLAIN, LLAMA_ROPE_LINEAR, LLAMA_ROPE_LLAMA3, LLAMA_ROPE_YARN, LLAMA_ROPE_LONG } kind;
    float factor, low_freq_factor, high_freq_factor;
    uint32_t original_positions;
    float attention_factor;     /* of cosines and sines; 0: 1 */
    float beta_fast, beta_slow; /* yarn: turns within the original positions, between which it passes over */
    bool exact_range;           /* yarn: those bounds are not rounded outwards to whole dimensions */
    bool far;                   /* longrope: the text goes beyond the original positions */
    float near_factors[LLAMA_ROPE_FACTORS_MAX], far_factors[LLAMA_ROPE_FACTORS_MAX]; /* longrope */
};

enum llama_activation { LLAMA_SILU, LLAMA_GELU_TANH, LLAMA_GELU };
enum llama_qk_norm { LLAMA_QK_PLAIN, LLAMA_QK_NORM_HEAD, LLAMA_QK_NORM_ALL };

struct llama_shape {
    uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_positions;
    float rms_eps;
    float rope_theta;
    struct llama_rope rope;
    bool tied;       /* head shares the embedding */
    bool rope_pairs; /* rows of Q and K that are rotated together lie side by side, as in GGUF files */

    uint32_t family; /* of llama_family_at: names of tensors */
    enum llama_activation activation;
    bool qkv_bias, o_bias, mlp_bias;
    enum llama_qk_norm qk_norm;
    bool post_norms;    /* behind attention and feed-forward, before they are added */
    bool no_pre_norms;  /* none in front of them */
    float norm_offset;  /* added to each norm's weight */
    float attn_scale;   /* of scores; 0: 1 / sqrt(head_dim) */
    float attn_cap;     /* scores are cap * tanh(score / cap); 0: they are not */
    float logit_cap;    /* likewise */
    float embed_scale;  /* 0: 1, as of the next two */
    float branch_scale; /* of what attention and feed-forward add */
    float logit_scale;
    bool embed_scale_rounded;     /* to the dtype of the embedding */
    uint32_t rope_dims;           /* of a head, those that are rotated; 0: all */
    uint32_t window;              /* keys that a query of a layer in `windowed` sees, its own included */
    float local_theta;            /* of these layers; 0: as the others */
    struct llama_rope local_rope; /* with local_theta */

    /* The feed-forward of a layer that is not in `dense` is a mixture of experts; 0 experts: no layer's is. */
    uint32_t experts, experts_used; /* of a layer; of these, by a token */
    uint32_t expert_ffn;
    bool router_chosen; /* softmax over the scores of those that are used, not of all */
    bool router_normed; /* the weights of those that are used add up to 1 */
    bool router_bias;
    bool
        expert_pairs; /* gate and up are one matrix, in turns (llama_experts_turned); biases; clamped units: */
    float unit_alpha, unit_limit; /* g = min(gate, limit), u within +-limit: g sigmoid(alpha g) (u + 1) */
    bool sinks;                   /* of attention */

    struct llama_scheme scheme; /* what packed its weights */
    uint32_t packing_count;     /* set by the checkpoint: how they are packed */
    struct llama_packing packings[LLAMA_PACKINGS_MAX];

    /* A bit for each layer. */
    uint64_t dense[LLAMA_LAYERS_MAX / 64], windowed[LLAMA_LAYERS_MAX / 64], unrotated[LLAMA_LAYERS_MAX / 64];
};

static inline bool llama_layer_in(const uint64_t *set, uint32_t layer)
{
    return set[layer / 64] >> layer % 64 & 1;
}

static inline void llama_layer_put(uint64_t *set, uint32_t layer)
{
    set[layer / 64] |= 1ull << layer % 64;
}

/* Keys that a query sees; 0: all up to its own. */
static inline uint32_t llama_layer_window(const struct llama_shape *s, uint32_t layer)
{
    return llama_layer_in(s->windowed, layer) ? s->window : 0;
}

static inline bool llama_layer_local(const struct llama_shape *s, uint32_t layer)
{
    return s->local_theta > 0 && llama_layer_in(s->windowed, layer);
}

static inline bool llama_layer_mixed(const struct llama_shape *s, uint32_t layer)
{
    return s->experts && !llama_layer_in(s->dense, layer);
}

/* Matrices of experts that are [inputs, outputs]: those of gpt_oss, but where they are packed. */
static inline bool llama_experts_turned(const struct llama_shape *s)
{
    return s->expert_pairs && s->scheme.packer != LLAMA_PACKER_MXFP4;
}

/* Dimensions of a head that are rotated. */
static inline uint32_t llama_rope_dims(const struct llama_shape *s)
{
    return s->rope_dims ? s->rope_dims : s->head_dim;
}

/* The positions of a text that begins with so many tokens. Longrope has other frequencies beyond the original ones: a
 * text that crosses them would have to be computed anew from its first token. */
static inline uint32_t llama_shape_positions(const struct llama_shape *s, uint64_t tokens)
{
    bool near = s->rope.kind == LLAMA_ROPE_LONG && tokens <= s->rope.original_positions;

    return near && s->rope.original_positions < s->max_positions ? s->rope.original_positions
                                                                 : s->max_positions;
}

/* What attention and feed-forward give is not added as it comes. */
static inline bool llama_shape_branches(const struct llama_shape *s)
{
    return s->post_norms || s->branch_scale != 0;
}

#endif
