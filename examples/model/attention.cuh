/*
 * What the attention kernels share. Included by attention.cu and its parts only. The interface, and what
 * the shapes mean: kernels_cuda.h.
 *
 * Scores s = q * k stay unscaled; probabilities are exp2(s * scale - ...) with log2(e) / sqrt(head_dim) as
 * scale. Rows of queries number heads * dim, of keys and values kv_heads * dim.
 */
#ifndef LLAMA_ATTENTION_CUH
#define LLAMA_ATTENTION_CUH

#include "examples/model/cuda_rows.cuh"

#define LOG2_E 1.44269504088896341f
#define LN_2   0.693147180559945309f

/* Parameters of the forward kernels: `scale` is 1 / sqrt(dim). */
#define FORWARD_PARAMS(T)                                                                                    \
    T *out, float *lse, const T *q, const T *k, const T *v, uint32_t heads, uint32_t kv_heads, uint32_t dim, \
        uint32_t n, uint32_t first, float scale
#define FORWARD_ARGS out, lse, q, k, v, heads, kv_heads, dim, n, first, scale

/* Of the kernels of backward. lse2, delta: [batch, heads, padded], see prepare_backward. splits, partial:
 * see backward_keys_mma. */
#define KEYS_PARAMS(T)                                                                                       \
    T *dk, T *dv, float *partial, const T *dout, const T *q, const T *k, const T *v, const float *lse2,      \
        const float *delta, uint32_t heads, uint32_t kv_heads, uint32_t dim, uint32_t n, uint32_t padded,    \
        uint32_t splits, float scale
#define KEYS_ARGS dk, dv, partial, dout, q, k, v, lse2, delta, heads, kv_heads, dim, n, padded, splits, scale
#define QUERIES_PARAMS(T)                                                                                    \
    T *dq, const T *dout, const T *q, const T *k, const T *v, const float *lse2, const float *delta,         \
        uint32_t heads, uint32_t kv_heads, uint32_t dim, uint32_t n, uint32_t padded, float scale
#define QUERIES_ARGS dq, dout, q, k, v, lse2, delta, heads, kv_heads, dim, n, padded, scale

/* What a query sees, and what becomes of a score: all keys up to its own, and nothing; kernels with limits have a window
 * or a cap. */
struct no_limits {
    DEVICE_MEMBER bool sees(uint32_t, uint32_t) const
    {
        return true;
    }
    DEVICE_MEMBER uint32_t from(uint32_t) const
    {
        return 0;
    }
    DEVICE_MEMBER float capped(float s) const
    {
        return s;
    }
    DEVICE_MEMBER float slope(float) const
    {
        return 1;
    }
    DEVICE_MEMBER uint32_t to(uint32_t, uint32_t n) const
    {
        return n;
    }
    /* The maximum of no scores. */
    DEVICE_MEMBER float none() const
    {
        return -INFINITY;
    }
};

struct limits {
    uint32_t window; /* 0: none */
    float cap;       /* of scores before their scale; 0: none */

    /* The key is not behind the query. */
    DEVICE_MEMBER bool sees(uint32_t query, uint32_t key) const
    {
        return window == 0 || query - key < window;
    }
    /* The first key that a query sees. */
    DEVICE_MEMBER uint32_t from(uint32_t query) const
    {
        return window != 0 && query + 1 > window ? query + 1 - window : 0;
    }
    DEVICE_MEMBER float capped(float s) const
    {
        return cap > 0 ? cap * tanhf(s / cap) : s;
    }
    /* The queries before it see the key. */
    DEVICE_MEMBER uint32_t to(uint32_t key, uint32_t n) const
    {
        return window != 0 && window < n - key ? key + window : n;
    }
    /* Finite: a row may see nothing of a tile. */
    DEVICE_MEMBER float none() const
    {
        return -3e38f;
    }
    /* Of a capped score. */
    DEVICE_MEMBER float slope(float s) const
    {
        return cap > 0 ? 1.0f - s / cap * (s / cap) : 1.0f;
    }
};

/* To about two units in the last place, in one instruction; what is subnormal is 0. */
DEVICE float fast_exp2(float x)
{
#ifdef CUDA_EMULATE
    return exp2f(x);
#else
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/*
 * What both halves of backward need of each query: lse2 = lse * log2(e), of base 2 as their exponentials
 * are, and delta = sum(dout * out), which is sum(p * dp) over its keys. Rows are padded so that tiles
 * lie in them whole; for a query that isn't there lse2 is infinite, and so its probabilities are 0.
 * A warp per query. Grid: (rows of 4 warps, heads, batch).
 */
template <class T>
DEVICE void prepare_backward(float *lse2, float *delta, const T *dout, const T *out, const float *lse,
                             uint32_t heads, uint32_t dim, uint32_t n, uint32_t padded)
{
    uint32_t lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    uint32_t head = blockIdx.y;
    size_t sequence = (size_t)blockIdx.z * heads + head;
    size_t at = (((size_t)blockIdx.z * n + row) * heads + head) * dim;
    float sum = 0;

    if (row >= padded)
        return;
    for (uint32_t i = lane; row < n && i < dim; i += WARP)
        sum += to_float(dout[at + i]) * to_float(out[at + i]);
    sum = warp_sum(sum);
    if (lane == 0) {
        lse2[sequence * padded + row] = row < n ? lse[sequence * n + row] * LOG2_E : INFINITY;
        delta[sequence * padded + row] = sum;
    }
}

#endif
