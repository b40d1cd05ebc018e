/*
 * Causal attention with grouped queries: the kernels by name. Their launches: attention_cuda.c, whose sizes
 * must be these.
 */
#include "examples/model/attention_mma_backward.cuh"
#include "examples/model/attention_plain.cuh"

/*
 * Of so many threads, and so many blocks to a processor, which bounds a thread's registers: no more than shared
 * memory has room for. Large: GPUs with 164 KiB of it or more to a processor; small: those with 100 KiB.
 * What all that comes to: docs/gpu-resources.md, which `make gpu-resources` checks.
 */
#if defined __CUDA_ARCH__ && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#define KERNEL_OF(threads, large, small) extern "C" __global__ void __launch_bounds__(threads, small)
#else
#define KERNEL_OF(threads, large, small) extern "C" __global__ void __launch_bounds__(threads, large)
#endif

/* ---- any head_dim up to 256 -------------------------------------------------- */

#define X(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) attention_##suffix(FORWARD_PARAMS(T))        \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        forward_plain<T>(shared, no_limits(), FORWARD_ARGS);                                                 \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(512) attention_decode_##suffix(FORWARD_PARAMS(T))           \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        forward_decode<T>(shared, no_limits(), FORWARD_ARGS);                                                \
    }
ACTIVATIONS(X)
#undef X

#define X(T, suffix)                                                                                         \
    KERNEL attention_prepare_##suffix(float *lse2, float *delta, const T *dout, const T *out,                \
                                      const float *lse, uint32_t heads, uint32_t dim, uint32_t n,            \
                                      uint32_t padded)                                                       \
    {                                                                                                        \
        prepare_backward<T>(lse2, delta, dout, out, lse, heads, dim, n, padded);                             \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) attention_keys_##suffix(KEYS_PARAMS(T))      \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_keys_plain<T, 2, 16>(shared, no_limits(), KEYS_ARGS);                                       \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS)                                              \
        attention_queries_##suffix(QUERIES_PARAMS(T))                                                        \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_queries_plain<T, 2, 16>(shared, no_limits(), QUERIES_ARGS);                                 \
    }                                                                                                        \
    /* for head_dim above 128; left alone, ptxas spills for blocks that it hopes for */                      \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_keys_wide_##suffix(KEYS_PARAMS(T))                                                         \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_keys_plain<T, 1, 32>(shared, no_limits(), KEYS_ARGS);                                       \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_queries_wide_##suffix(QUERIES_PARAMS(T))                                                   \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_queries_plain<T, 1, 32>(shared, no_limits(), QUERIES_ARGS);                                 \
    }
X(float, f32)
X(bf16, bf16)
#undef X

/* ---- the same with a window or a cap, which take more registers ---------------- */

#define X(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS)                                              \
        attention_limited_##suffix(FORWARD_PARAMS(T), uint32_t window, float cap)                            \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        forward_plain<T>(shared, limits{window, cap}, FORWARD_ARGS);                                         \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        attention_limited_decode_##suffix(FORWARD_PARAMS(T), uint32_t window, float cap)                     \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        forward_decode<T>(shared, limits{window, cap}, FORWARD_ARGS);                                        \
    }
ACTIVATIONS(X)
#undef X

#define X(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_limited_keys_##suffix(KEYS_PARAMS(T), uint32_t window, float cap)                          \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_keys_plain<T, 2, 16>(shared, limits{window, cap}, KEYS_ARGS);                               \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_limited_queries_##suffix(QUERIES_PARAMS(T), uint32_t window, float cap)                    \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_queries_plain<T, 2, 16>(shared, limits{window, cap}, QUERIES_ARGS);                         \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_limited_keys_wide_##suffix(KEYS_PARAMS(T), uint32_t window, float cap)                     \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_keys_plain<T, 1, 32>(shared, limits{window, cap}, KEYS_ARGS);                               \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1)                                           \
        attention_limited_queries_wide_##suffix(QUERIES_PARAMS(T), uint32_t window, float cap)               \
    {                                                                                                        \
        KERNEL_SHARED(float, shared);                                                                        \
        backward_queries_plain<T, 1, 32>(shared, limits{window, cap}, QUERIES_ARGS);                         \
    }
X(float, f32)
X(bf16, bf16)
#undef X

/* ---- bf16 on the tensor cores, head_dim 64 and 128 --------------------------- */

KERNEL_OF(MMA_THREADS, 3, 2) attention_mma64_bf16(FORWARD_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    forward_mma<64>(shared, FORWARD_ARGS);
}

KERNEL_OF(MMA_THREADS, 2, 1) attention_mma128_bf16(FORWARD_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    forward_mma<128>(shared, FORWARD_ARGS);
}

KERNEL_OF(MMA_THREADS, 2, 2) attention_keys_mma64_bf16(KEYS_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    backward_keys_mma<64, 2, 32, 32, false>(shared, KEYS_ARGS);
}

KERNEL_OF(MMA_THREADS, 2, 2) attention_keys_mma128_bf16(KEYS_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    backward_keys_mma<128, 1, 32, 16, true>(shared, KEYS_ARGS);
}

KERNEL_OF(MMA_THREADS, 2, 2) attention_queries_mma64_bf16(QUERIES_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    backward_queries_mma<64, 2, 64, 32>(shared, QUERIES_ARGS);
}

KERNEL_OF(2 * MMA_THREADS, 1, 1) attention_queries_mma128_bf16(QUERIES_PARAMS(bf16))
{
    KERNEL_SHARED(unsigned char, shared);
    backward_queries_mma<128, 1, 64, 32>(shared, QUERIES_ARGS);
}

KERNEL attention_sum_bf16(bf16 *dk, bf16 *dv, const float *partial, uint64_t count, uint32_t splits)
{
    sum_partials(dk, dv, partial, count, splits);
}
