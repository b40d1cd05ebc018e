/*
 * The kernels of kernels.h on a GPU: the same functions, put on the stream of a llama_cuda. All pointers
 * are of device memory unless said otherwise. `dtype` is that of the activations inside a layer, which
 * products take as inputs: OFL_F32, OFL_BF16 or OFL_F16 (forward only); what is declared void * is of it.
 * The residual stream and its gradient, and the gradients of weights, are f32.
 *
 * Deterministic: no atomics; every sum has a fixed order, which depends on the shapes only.
 * Scratch is measured by the _bytes() functions and may hold anything.
 */
#ifndef LLAMA_KERNELS_CUDA_H
#define LLAMA_KERNELS_CUDA_H

#include "examples/model/cuda.h"
#include "examples/model/kernels.h"

/* y[rows, hidden] of dtype = w * x / sqrt(mean(x^2) + eps) */
void llama_cuda_norm(struct llama_cuda *c, void *y, enum ofl_dtype dtype, const float *x,
                     struct llama_weight w, size_t rows, size_t hidden, float eps);
size_t llama_cuda_norm_backward_bytes(size_t rows, size_t hidden);
/* dx (+)= gradient at x; dw (+)= gradient of w. dx may be dy. dy in f32. */
void llama_cuda_norm_backward(struct llama_cuda *c, float *dx, float *dw, const float *dy, const float *x,
                              struct llama_weight w, size_t rows, size_t hidden, float eps, bool accumulate,
                              bool first, void *ws);

/* table[n, head_dim]: cosines of positions 0 .. n - 1, then sines, in each row, from
 * inv_freq[head_dim / 2]; as llama_rope_table. */
void llama_cuda_rope_table(struct llama_cuda *c, float *table, const float *inv_freq, size_t n,
                           size_t head_dim);
/* Rotates x[batch * seq, heads * head_dim] in place by rows first .. first + seq - 1 of table. */
void llama_cuda_rope(struct llama_cuda *c, void *x, enum ofl_dtype dtype, size_t batch, size_t seq,
                     size_t heads, size_t head_dim, const float *table, size_t first, bool backward);

/* act = silu(gate) * up, over n elements. act may be gate or up. */
void llama_cuda_swiglu(struct llama_cuda *c, void *act, const void *gate, const void *up,
                       enum ofl_dtype dtype, size_t n);
/* Replaces gate and up by their gradients, and act, which holds the gradient at it, by act itself. */
void llama_cuda_swiglu_backward(struct llama_cuda *c, void *gate, void *up, void *act, enum ofl_dtype dtype,
                                size_t n);

/* dst of dtype = src, rounded to nearest even. */
void llama_cuda_narrow(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, const float *src, size_t n);

/* x[n, hidden] in f32 = table[tokens] */
void llama_cuda_embed(struct llama_cuda *c, float *x, struct llama_weight table, const int32_t *tokens,
                      size_t n, size_t hidden);

/* Which rows of dx each token's gradient sums, in order: what the host makes of the tokens. */
struct llama_embed_plan {
    size_t distinct;
    int32_t *ids;    /* [distinct] tokens, ascending */
    int32_t *starts; /* [distinct + 1] of each one's rows in order */
    int32_t *order;  /* [n] rows, by token, ascending within one */
};

/* Of n tokens: int32 numbers that the three arrays take together at most. */
size_t llama_embed_plan_elems(size_t n);
/* Host memory. Lays the arrays out in buffer, of that many numbers, and fills them. scratch: n numbers. */
void llama_embed_plan_make(struct llama_embed_plan *plan, int32_t *buffer, int32_t *scratch,
                           const int32_t *tokens, size_t n);
/* dtable[tokens] += dx, token by token in order; `first` zeroes dtable[vocab, hidden] before. The plan's
 * arrays lie in device memory. */
void llama_cuda_embed_backward(struct llama_cuda *c, float *dtable, const float *dx,
                               const struct llama_embed_plan *plan, size_t vocab, size_t hidden, bool first);

/* dst[i] = normal number first_elem + i of seed, as llama_init_normal, bit by bit, rounded to dtype. */
void llama_cuda_init_normal(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, uint64_t first_elem,
                            uint64_t n, uint64_t seed, float std);
/* dst[i] = value */
void llama_cuda_init_value(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, uint64_t n, float value);

/* ---- what Llama does not have ------------------------------------------------ */

/* As llama_cuda_swiglu and its backward, with gelu; exact: by erf, else by tanh. */
void llama_cuda_geglu(struct llama_cuda *c, bool exact, void *act, const void *gate, const void *up,
                      enum ofl_dtype dtype, size_t n);
void llama_cuda_geglu_backward(struct llama_cuda *c, bool exact, void *gate, void *up, void *act,
                               enum ofl_dtype dtype, size_t n);
/* As llama_bias and llama_bias_backward, y and dy of dtype. */
void llama_cuda_bias(struct llama_cuda *c, void *y, enum ofl_dtype dtype, struct llama_weight bias,
                     size_t rows, size_t out);
void llama_cuda_bias_backward(struct llama_cuda *c, float *db, const void *dy, enum ofl_dtype dtype,
                              size_t rows, size_t out, bool first);
/* dst = src + offset */
void llama_cuda_widen(struct llama_cuda *c, float *dst, const void *src, enum ofl_dtype dtype, size_t n,
                      float offset);
/* x *= by */
void llama_cuda_scale(struct llama_cuda *c, void *x, enum ofl_dtype dtype, float by, size_t n);
/* y += by * x */
void llama_cuda_add_scaled(struct llama_cuda *c, float *y, const float *x, float by, size_t n);
/* x = cap * tanh(x / cap) */
void llama_cuda_cap(struct llama_cuda *c, float *x, float cap, size_t n);
/* d, the gradient at capped numbers, becomes that before the cap. */
void llama_cuda_cap_backward(struct llama_cuda *c, void *d, enum ofl_dtype dtype, const float *capped,
                             float cap, size_t n);
/* As llama_cuda_rope, of the first dims of each head; table[positions, dims]. */
void llama_cuda_rope_part(struct llama_cuda *c, void *x, enum ofl_dtype dtype, size_t batch, size_t seq,
                          size_t heads, size_t head_dim, size_t dims, const float *table, size_t first,
                          bool backward);

/* ---- attention: see kernels.h. Never a T x T matrix in memory. ------------- */

/*
 * batch sequences one after the other. q, out: [batch * n, heads * head_dim]; k, v: [batch * positions,
 * kv_heads * head_dim], positions = first + n. Query i of a sequence stands at first + i and sees keys
 * 0 .. first + i, of these the last ones of the layer's window. lse[batch, heads, n] in f32, of each query's scores: log of the sum of exponentials; for
 * backward; may be NULL. out may not be q.
 */
void llama_cuda_attention(struct llama_cuda *c, void *out, float *lse, const void *q, const void *k,
                          const void *v, enum ofl_dtype dtype, const struct llama_shape *shape,
                          uint32_t layer, size_t batch, size_t first, size_t n);
size_t llama_cuda_attention_backward_bytes(const struct llama_shape *shape, enum ofl_dtype dtype,
                                           size_t batch, size_t n);
/* Writes dq, dk and dv, of the shapes of q, k and v, for first = 0. None may overlap an input. */
void llama_cuda_attention_backward(struct llama_cuda *c, void *dq, void *dk, void *dv, const void *dout,
                                   const void *out, const float *lse, const void *q, const void *k,
                                   const void *v, enum ofl_dtype dtype, const struct llama_shape *shape,
                                   uint32_t layer, size_t batch, size_t n, void *ws);

/* ---- final norm, head, cross-entropy ---------------------------------------- */

#define LLAMA_CUDA_LOGITS_BYTES (256u << 20) /* of logits in flight in the loss */

size_t llama_cuda_head_bytes(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype);
/*
 * *loss = sum over rows of -log softmax(logits)[target], in device memory, as double: overwritten. As
 * llama_head_loss otherwise: a negative target leaves its row out; dx NULL: the loss only. The logits
 * exist for a slice of the rows at a time.
 */
void llama_cuda_head_loss(struct llama_cuda *c, double *loss, enum ofl_dtype dtype,
                          const struct llama_shape *shape, size_t rows,
                          const struct llama_head_weights *weights, const struct llama_head_grads *grads,
                          bool first, const float *x, const int32_t *targets, float scale, float *dx,
                          void *ws);
/* As llama_head_logits. Scratch: llama_cuda_head_bytes with rows = 1. */
void llama_cuda_head_logits(struct llama_cuda *c, enum ofl_dtype dtype, const struct llama_shape *shape,
                            const struct llama_slice *head, const float *x, float *logits, void *ws);

#endif
