/*
 * The families of models, one row each: what its config.json means where it says nothing, which of its keys count, and
 * how its tensors are called. A trait that no row has is not there; a model_type that has no row is refused.
 */
#ifndef LLAMA_FAMILY_H
#define LLAMA_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/shape.h"

/* Which layers see a window of sliding_window keys. */
enum llama_windows {
    LLAMA_WINDOW_NEVER,
    LLAMA_WINDOW_ALL,    /* where sliding_window is a number */
    LLAMA_WINDOW_TYPES,  /* by layer_types, or all */
    LLAMA_WINDOW_LATE,   /* with use_sliding_window: by layer_types, or from max_window_layers on */
    LLAMA_WINDOW_SWITCH, /* all, with use_sliding_window */
    LLAMA_WINDOW_NOPE,   /* with use_sliding_window: by layer_types, or those without positions */
    LLAMA_WINDOW_CYCLE,  /* by layer_types, or all but each window_cycle-th */
};

enum llama_bias { LLAMA_BIAS_NEVER, LLAMA_BIAS_QKV, LLAMA_BIAS_BY_KEY };

struct llama_family {
    const char *model_type, *architecture;

    /* Where config.json says nothing. */
    uint32_t kv_heads; /* 0: as heads */
    uint32_t head_dim; /* 0: hidden / heads */
    uint32_t positions;
    float rms_eps, rope_theta, local_theta;
    bool tied;
    int32_t bos_id, eos_id; /* -1: none */
    uint32_t window, window_cycle;
    float attn_cap, logit_cap;      /* of a family that has caps */
    uint32_t experts, experts_used; /* of a layer, and by a token; 0: the family has none */
    uint32_t expert_ffn;            /* 0: moe_intermediate_size is no key of it, intermediate_size counts */

    /* Traits. */
    enum llama_bias bias;
    bool biased;   /* attention_bias where it is left out */
    bool mlp_bias; /* by the key of that name */
    enum llama_qk_norm qk_norm;
    bool post_norms, no_pre_norms;
    float norm_offset;
    const char *activation_key;
    enum llama_activation activation;
    enum llama_windows windows;
    bool fused;         /* q, k and v are one matrix; gate and up another */
    bool multipliers;   /* embedding_multiplier, residual_multiplier, attention_multiplier, logits_scaling */
    bool query_scalar;  /* query_pre_attn_scalar */
    bool attn_capped;   /* attn_logit_softcapping */
    bool logit_capped;  /* final_logit_softcapping */
    bool embed_sqrt;    /* rows of the embedding times the root of hidden */
    bool no_rope;       /* no_rope_layers, no_rope_layer_interval */
    bool partial_rope;  /* partial_rotary_factor */
    bool router_normed; /* as in shape.h; or by norm_topk_prob */
    bool router_normed_key;
    bool router_chosen, expert_pairs, sinks; /* as in shape.h */
    bool dense_layers;                       /* mlp_only_layers, decoder_sparse_step */
    const char *mixture_name, *router_name;  /* of tensors: what is in front of experts; NULL: as others */
    const char *expert_names[3];             /* gate, up, down */
    bool long_rope; /* types su and yarn mean longrope; original_max_position_embeddings has a default */
};

/* The table's index-th; NULL after the last. The first is Llama. */
const struct llama_family *llama_family_at(uint32_t index);
/* By model_type or by architecture; -1: there is none. */
int llama_family_find(const char *model_type, const char *architecture);
/* What models of a type that has no row have and these programs do not; NULL: not known. */
const char *llama_family_lacks(const char *model_type);
/* All model types, for a sentence. */
void llama_family_list(char *text, size_t bytes);

#endif
