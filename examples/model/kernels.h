/*
 * CPU kernels of the models: pure functions over the caller's memory. They allocate
 * nothing, keep no state, and know nothing of tensors, leases or files.
 *
 * Conventions
 *  - Activations and gradients are f32, row-major, one row per token; `rows` is batch * seq,
 *    with the sequences one after the other.
 *  - Weights come in F32, BF16, F16, or packed with whole blocks in each row; matrices as in Hugging Face files,
 *    [out, in] row-major. All but F32 are widened a part at a time.
 *  - Gradients of weights are f32. `first` overwrites them, so that they need no zeroing and
 *    may hold anything, NaN too; otherwise they are added to.
 *  - `ws` is scratch of at least the bytes that the function's _workspace() says, aligned to
 *    LLAMA_ALIGN. Its contents mean nothing between calls.
 *  - Buffers don't overlap unless the comment allows it. They need float alignment only.
 *  - Deterministic: the bits of a result depend on the inputs, the shapes, the machine and the
 *    number of BLAS threads; not on addresses, nor on what the buffers held. Every reduction
 *    outside BLAS has a fixed order; for BLAS the tests check it.
 *  - NaN and infinity in inputs reach the outputs; nothing hides them.
 *
 * Threads: any; OpenBLAS brings its own.
 */
#ifndef LLAMA_KERNELS_H
#define LLAMA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/model/shape.h"
#include "include/offload.h"

#define LLAMA_ALIGN           64
#define LLAMA_PANEL_BYTES     (4u << 20) /* of weights widened to f32 at a time */
#define LLAMA_LOGITS_BYTES    (8u << 20) /* of logits in flight in the loss */
#define LLAMA_QUERY_ROWS      64         /* of attention scores in flight */
#define LLAMA_PAIRS_HEAD_MOST 1024       /* head_dim of a model with rope_pairs, at most */

struct llama_weight {
    const void *data;
    enum ofl_dtype dtype; /* OFL_F32, OFL_BF16, OFL_F16, or one that can be unpacked (offload_landing.h) */
    float offset;         /* of a norm: added to its elements */
    const struct llama_adapter *adapter; /* of a matrix; NULL: none. llama_matmul and its like pass it over */
    const struct llama_packed
        *packed; /* of a packed matrix, which has no data; lives as long as it is used */
};

/* Rows from .. from + rows - 1 of a matrix, which are used by themselves. norm: what stands in front of the matrix,
 * needed with its first rows; bias, and the norm behind it: with its last ones. NULL: there is none. */
struct llama_slice {
    size_t from, rows;
    struct llama_weight weight, norm, bias, post_norm;
};

/* ---- matrices ---------------------------------------------------------- */

/* Bytes of scratch for n numbers of that dtype in f32. */
size_t llama_wide_bytes(size_t n, enum ofl_dtype dtype);
/* Rows row .. row + rows - 1 of w[.., in] in f32: in place, or widened into ws. */
const float *llama_weight_rows(struct llama_weight w, size_t row, size_t rows, size_t in, void *ws);

/* Bytes of scratch for llama_matmul and llama_matmul_dx by a matrix [out, in], or a slice of its rows. */
size_t llama_matmul_workspace(size_t in, size_t out, enum ofl_dtype dtype);
/* y[rows, out] (+)= x[rows, in] * w^T. stride: from a row of y to the next, out or more. */
void llama_matmul(float *y, const float *x, struct llama_weight w, size_t rows, size_t in, size_t out,
                  size_t stride, bool accumulate, void *ws);
/* dx[rows, in] (+)= dy[rows, out] * w */
void llama_matmul_dx(float *dx, const float *dy, struct llama_weight w, size_t rows, size_t in, size_t out,
                     bool accumulate, void *ws);
/* dw[out, in] (+)= dy^T * x */
void llama_matmul_dw(float *dw, const float *dy, const float *x, size_t rows, size_t in, size_t out,
                     bool first);

/* y[rows, out] += bias */
void llama_bias(float *y, struct llama_weight bias, size_t rows, size_t out, void *ws);
/* db[out] (+)= sums of dy's columns */
void llama_bias_backward(float *db, const float *dy, size_t rows, size_t out, bool first);
/* y[i] += c * x[i] */
void llama_add_scaled(float *y, const float *x, float c, size_t n);
/* a[i] *= c */
void llama_scale(float *a, size_t n, float c);

/* ---- RMSNorm (Zhang & Sennrich, 2019): y = w * x / sqrt(mean(x^2) + eps) - */

/* For both directions, and for a bias. */
size_t llama_norm_workspace(size_t hidden);
/* y may be x. */
void llama_norm(float *y, const float *x, struct llama_weight w, size_t rows, size_t hidden, float eps,
                void *ws);
/* dx (+)= gradient at x; dw (+)= gradient of w, NULL: not wanted. dx may be dy or x. */
void llama_norm_backward(float *dx, float *dw, const float *dy, const float *x, struct llama_weight w,
                         size_t rows, size_t hidden, float eps, bool accumulate, bool first, void *ws);

/* ---- rotary embedding (Su et al., 2021), rotating halves as Hugging Face does --- */

/* inv_freq[dims / 2] of a layer, dims those of a head that are rotated, with the shape's scaling, in f32 arithmetic as
 * transformers computes it. */
void llama_rope_inv_freq(float *inv_freq, const struct llama_shape *shape, uint32_t layer);
/* table[n, dims]: cosines of positions first .. first + n - 1, then sines, in each row, times the attention factor. */
void llama_rope_table(float *table, const struct llama_shape *shape, uint32_t layer, size_t first, size_t n);
/* Rotates the first dims of each head of x[batch * seq, heads * head_dim] in place by table[seq, dims]; `backward`
 * rotates back, which is also the gradient. */
void llama_rope(float *x, size_t batch, size_t seq, size_t heads, size_t head_dim, size_t dims,
                const float *table, bool backward);
/* The two numbers that are rotated together, side by side in x[rows, heads * head_dim], come to be half a head apart. */
void llama_rope_apart(float *x, size_t rows, size_t heads, size_t head_dim);
/* And side by side again. */
void llama_rope_together(float *x, size_t rows, size_t heads, size_t head_dim);

/* ---- gated units: act = f(gate) * up; f: silu, or gelu by tanh or erf (Hendrycks & Gimpel, 2016) --- */

/* act may be gate or up. */
void llama_gated(enum llama_activation f, float *act, const float *gate, const float *up, size_t n);
/* Replaces gate and up by their gradients. */
void llama_gated_backward(enum llama_activation f, float *gate, float *up, const float *dact, size_t n);

/* ---- causal attention with grouped queries ------------------------------ */

/*
 * One sequence. q, out, dout, dq: [n, heads * head_dim]; k, v, dk, dv: [positions, kv_heads * head_dim].
 * Query i stands at position first + i and sees keys 0 .. first + i, of these the last ones of the layer's window.
 */
size_t llama_attention_workspace(size_t positions);
/* out may be q. */
void llama_attention(float *out, const float *q, const float *k, const float *v,
                     const struct llama_shape *shape, uint32_t layer, size_t first, size_t n, void *ws);
/* sinks[heads]: of each head a score beside those of the keys, which takes its part and gives nothing; NULL: none. */
void llama_attention_sinks(float *out, const float *q, const float *k, const float *v,
                           const struct llama_shape *shape, uint32_t layer, const float *sinks, size_t first,
                           size_t n, void *ws);
size_t llama_attention_backward_workspace(size_t positions);
/* Writes dq, dk and dv, for first = 0. dq may be q. */
void llama_attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *q,
                              const float *k, const float *v, const struct llama_shape *shape, uint32_t layer,
                              size_t n, void *ws);

/* ---- embedding ----------------------------------------------------------- */

/* x[n, hidden] = table[tokens]. Tokens must lie in 0 .. vocab - 1. */
void llama_embed(float *x, struct llama_weight table, const int32_t *tokens, size_t n, size_t hidden);
/* dtable[tokens] += scale * dx, token by token in order; `first` zeroes dtable[vocab, hidden] before. */
void llama_embed_backward(float *dtable, const float *dx, const int32_t *tokens, size_t n, size_t vocab,
                          size_t hidden, float scale, bool first);
/* What the rows of a table of that dtype are multiplied with. */
float llama_embed_scale(const struct llama_shape *shape, enum ofl_dtype dtype);

/* ---- final norm, head, cross-entropy ------------------------------------- */

struct llama_head_weights {
    struct llama_weight norm; /* [hidden] */
    struct llama_weight head; /* [vocab, hidden]; the embedding where they are tied */
};

struct llama_head_grads {
    float *norm, *head;
};

size_t llama_head_workspace(const struct llama_shape *shape, size_t rows, enum ofl_dtype dtype);
/*
 * Returns the sum over rows of -log softmax(logits)[target]. A negative target leaves its row out:
 * no loss, no gradient. Others must be below vocab.
 * With dx: writes dx[rows, hidden], the gradient of scale * sum, and the gradients of the weights.
 * dx NULL: the loss only; grads may be NULL. Gradients that are NULL are not wanted.
 * The logits exist for a slice of the vocabulary at a time; where one slice does not hold them all,
 * they are computed twice.
 */
double llama_head_loss(const struct llama_shape *shape, size_t rows, const struct llama_head_weights *weights,
                       const struct llama_head_grads *grads, bool first, const float *x,
                       const int32_t *targets, float scale, float *dx, void *ws);
/* Those of logits[vocab] that the slice of the head gives, for one row x[hidden]. The first slice leaves in ws what
 * the others need. Scratch: llama_head_workspace with rows = 1. */
void llama_head_logits(const struct llama_shape *shape, const struct llama_slice *head, const float *x,
                       float *logits, void *ws);

/* ---- numbers -------------------------------------------------------------- */

/* To f32, from F32, BF16 or F16. Exact. */
void llama_widen(float *dst, const void *src, enum ofl_dtype dtype, size_t n);
/* Of n elements, whole blocks of the dtype. */
uint64_t llama_dtype_bytes(enum ofl_dtype dtype, uint64_t n);
/* Rounds to nearest even; NaN stays NaN, too large becomes infinity. */
void llama_to_bf16(uint16_t *dst, const float *src, size_t n);
void llama_to_f16(uint16_t *dst, const float *src, size_t n);

/* dst[i] is normal with mean 0, and depends only on seed and first_elem + i. */
void llama_init_normal(float *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float std);

struct llama_rng {
    uint64_t state; /* any value is a good seed */
};

/* From which tokens is drawn, in this order, as transformers has it. */
struct llama_sampling {
    float temperature; /* softmax(logits / temperature); <= 0: greedy */
    size_t top_k;      /* of the most likely so many; 0: all */
    float top_p;       /* of them the smallest set that has this probability; >= 1: all; <= 0: greedy */
    float min_p;       /* of them those that have this part of the most likely one's; 0: all */
};

size_t llama_sample_workspace(size_t vocab);
/*
 * Draws a token. Greedy: the lowest index of the maximum, and rng is left alone. -1 if any logit is NaN, or none is
 * above -infinity.
 */
int32_t llama_sample(const float *logits, size_t vocab, const struct llama_sampling *s, struct llama_rng *rng,
                     void *ws);
/* Makes tokens that were there already less likely (Keskar et al., 2019), each once: positive logits are divided by
 * penalty, others multiplied. seen[vocab] is scratch. */
void llama_penalize(float *logits, size_t vocab, const int32_t *tokens, size_t count, float penalty,
                    bool *seen);

#endif
