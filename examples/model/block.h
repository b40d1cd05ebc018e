/*
 * One decoder layer of a model: attention and feed-forward with their norms and residuals,
 * forward, backward and with a KV cache. The rules are those of kernels.h.
 */
#ifndef LLAMA_BLOCK_H
#define LLAMA_BLOCK_H

#include "examples/model/kernels_experts.h"

/* Matrices [out, in]. What the shape does not have is NULL. The gradients have the weights' shapes. */
struct llama_block_weights {
    struct llama_weight attn_norm; /* [hidden] */
    struct llama_weight q;         /* [heads * head_dim, hidden] */
    struct llama_weight k, v;      /* [kv_heads * head_dim, hidden] */
    struct llama_weight o;         /* [hidden, heads * head_dim] */
    struct llama_weight mlp_norm;  /* [hidden] */
    struct llama_weight gate, up;  /* [ffn, hidden] */
    struct llama_weight down;      /* [hidden, ffn] */
    /* [outputs of their matrix] */
    struct llama_weight q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
    struct llama_weight q_norm, k_norm;                /* [head_dim], or of all heads */
    struct llama_weight router, router_bias;           /* [experts, hidden]; of a mixture of experts */
    struct llama_weight attn_post_norm, mlp_post_norm; /* [hidden] */
    uint32_t layer;                                    /* whose window and positions count */
};

struct llama_block_grads {
    float *attn_norm, *q, *k, *v, *o, *mlp_norm, *gate, *up, *down;
    float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    float *router, *router_bias;
    float *q_norm, *k_norm, *attn_post_norm, *mlp_post_norm;
};

/*
 * Bytes of scratch. dtype is that of the matrices: OFL_F32 needs none for widening, the others
 * need the same, so for matrices of mixed dtypes pass one that is not OFL_F32.
 */
size_t llama_block_forward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                     enum ofl_dtype dtype);
size_t llama_block_backward_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                                      enum ofl_dtype dtype);
/* x_out[batch * seq, hidden] = layer(x_in), positions 0 .. seq - 1. x_out may be x_in. */
void llama_block_forward(const struct llama_shape *shape, size_t batch, size_t seq,
                         const struct llama_block_weights *weights, const float *x_in, float *x_out,
                         void *ws);

/* dx holds the gradient at x_out and gets that at x_in. Computes the layer's inside anew from x_in,
 * with the bits of the forward. */
void llama_block_backward(const struct llama_shape *shape, size_t batch, size_t seq,
                          const struct llama_block_weights *weights, const struct llama_block_grads *grads,
                          bool first, const float *x_in, float *dx, void *ws);

/* ---- a layer with a mixture of experts ------------------------------------- */

/*
 * Forward: llama_block_enter, then llama_expert_forward of each expert. Backward: llama_block_enter without x_out,
 * llama_expert_backward of each expert, llama_block_leave. What they have in common lies in a state of so many bytes.
 * An expert's weights are used by no other call, so one expert's are needed at a time.
 */
size_t llama_experts_state_bytes(const struct llama_shape *shape, size_t rows);
/* Of any of these calls. */
size_t llama_experts_workspace(const struct llama_shape *shape, size_t batch, size_t seq,
                               enum ofl_dtype dtype);

/* x_out[rows, hidden]: x_in and what attention adds to it; NULL: not wanted, the state is for backward. */
void llama_block_enter(const struct llama_shape *shape, size_t batch, size_t seq,
                       const struct llama_block_weights *weights, const float *x_in, float *x_out,
                       void *state, void *ws);
struct llama_expert {
    uint32_t expert;
    struct llama_weight gate, up, down;
};
struct llama_expert_grads {
    float *gate, *up, *down;
};
/* x_out += what the expert gives of the rows that use it. In ascending order of experts. */
void llama_expert_forward(const struct llama_shape *shape, size_t rows, const struct llama_expert *expert,
                          float *x_out, void *state, void *ws);
/* dx: the gradient at x_out, which is left. Without rows the expert's gradients are zeros. */
void llama_expert_backward(const struct llama_shape *shape, size_t rows, const struct llama_expert *expert,
                           const struct llama_expert_grads *grads, bool first, const float *dx, void *state,
                           void *ws);
/* As llama_block_backward, for all but the experts. */
void llama_block_leave(const struct llama_shape *shape, size_t batch, size_t seq,
                       const struct llama_block_weights *weights, const struct llama_block_grads *grads,
                       bool first, const float *x_in, float *dx, void *state, void *ws);

/* ---- new rows of one text, slice by slice -------------------------------- */

/* In the order in which a layer uses them. */
enum llama_matrix {
    LLAMA_MATRIX_Q,
    LLAMA_MATRIX_K,
    LLAMA_MATRIX_V,
    LLAMA_MATRIX_O,
    LLAMA_MATRIX_GATE,
    LLAMA_MATRIX_UP,
    LLAMA_MATRIX_DOWN,
    LLAMA_MATRICES,
    /* of a mixture of experts, instead of the last three */
    LLAMA_MATRIX_ROUTER = LLAMA_MATRICES,
    LLAMA_MATRIX_EXPERT_GATE,
    LLAMA_MATRIX_EXPERT_UP,
    LLAMA_MATRIX_EXPERT_DOWN,
    LLAMA_MATRICES_ALL
};

/*
 * x[n, hidden], new rows at positions first .. first + n - 1, become the layer's output. Their keys and values go
 * to those rows of the caches, [positions, kv_heads * head_dim], whose rows before hold earlier ones.
 * positions >= first + n is what the scratch was sized for. A long prompt may come in pieces, to keep the scratch
 * small.
 */
struct llama_extend {
    const struct llama_shape *shape;
    uint32_t layer;
    size_t first, n, positions;
    void *k_cache, *v_cache; /* f32; on a GPU of the layer's dtype */
    float *x;
    uint32_t expert; /* of an expert's matrices: which */
    struct llama_route
        *routes; /* [n, experts_used]: written with the router's last slice, read by the experts' */
    void *
        between; /* llama_block_between_bytes that keep what they hold from a layer's first slice to its last */
};

size_t llama_block_between_bytes(const struct llama_shape *shape, size_t n);
size_t llama_block_extend_workspace(const struct llama_shape *shape, size_t n, size_t positions,
                                    enum ofl_dtype dtype);
/*
 * What a slice of one matrix gives. The matrices come in their order, each one's slices in theirs; with the first
 * one comes what stands before the matrix: the norm for Q and GATE, attention for O (its sinks as norm), the gated unit
 * for DOWN. With the
 * last one comes what stands behind it: a bias, norms of q and k, the norm behind O and DOWN.
 */
void llama_block_extend(const struct llama_extend *e, enum llama_matrix matrix,
                        const struct llama_slice *slice, void *ws);

#endif
