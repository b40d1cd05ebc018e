/*
 * CUDA C++ on the CPU, as much of it as the kernels use: included ahead of a .cu file (-include), which
 * is then compiled as C++17 with CUDA_EMULATE defined. What is not here does not compile: atomics,
 * textures, libraries of CUDA, dynamic shared memory other than by KERNEL_SHARED, inline PTX.
 *
 * How it runs, and what it checks, is in cuda_emulate.cc; what the stub driver sees of it in
 * cuda_emulate_run.h. Differences from a device: sums of the tensor cores are in f32, one product
 * after the other; the fast functions (__expf) are as exact as the slow ones; 1 / sqrt is two roundings.
 *
 * Kernels are found by tools/kernels.sh: it lists what follows __global__ after the preprocessor, and
 * writes an EMULATE line for each.
 */
#ifndef OFL_TESTS_CUDA_EMULATE_H
#define OFL_TESTS_CUDA_EMULATE_H

#include <math.h>
#include <new>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/cuda_emulate_run.h"

/* ---- the language --------------------------------------------------------- */

#ifdef EMULATE_LIST /* for tools/kernels.sh */
#define __global__ EMULATE_KERNEL
#else
#define __global__
#endif
#define __device__
#define __host__
#define __noinline__    __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* All of them lie in one section, so that each block can begin with garbage in them. */
#define __shared__ static __attribute__((section("emulate_shared")))

#define KERNEL_SHARED(type, name) type *name = reinterpret_cast<type *>(emulate_shared_memory(alignof(type)))

struct uint3 {
    unsigned x, y, z;
};

#define EMULATE_VECTOR2(name, type, bytes)                                                                   \
    struct __align__(bytes) name                                                                             \
    {                                                                                                        \
        type x, y;                                                                                           \
    };                                                                                                       \
    static inline name make_##name(type x, type y)                                                           \
    {                                                                                                        \
        return name{x, y};                                                                                   \
    }
#define EMULATE_VECTOR4(name, type, bytes)                                                                   \
    struct __align__(bytes) name                                                                             \
    {                                                                                                        \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    static inline name make_##name(type x, type y, type z, type w)                                           \
    {                                                                                                        \
        return name{x, y, z, w};                                                                             \
    }
EMULATE_VECTOR2(float2, float, 8)
EMULATE_VECTOR2(double2, double, 16)
EMULATE_VECTOR2(int2, int, 8)
EMULATE_VECTOR2(uint2, unsigned, 8)
EMULATE_VECTOR2(ushort2, unsigned short, 4)
EMULATE_VECTOR4(float4, float, 16)
EMULATE_VECTOR4(int4, int, 16)
EMULATE_VECTOR4(uint4, unsigned, 16)
EMULATE_VECTOR4(ushort4, unsigned short, 8)

/* ---- the run-time (cuda_emulate.cc) --------------------------------------- */

/* Of the thread that runs; one launch is at work at a time. */
extern uint3 emulate_thread, emulate_block, emulate_block_size, emulate_grid_size;
#define threadIdx (static_cast<const uint3 &>(emulate_thread))
#define blockIdx  (static_cast<const uint3 &>(emulate_block))
#define blockDim  (static_cast<const uint3 &>(emulate_block_size))
#define gridDim   (static_cast<const uint3 &>(emulate_grid_size))
#define warpSize  32

enum emulate_warp_op { EMULATE_SYNC, EMULATE_SHUFFLE, EMULATE_BALLOT, EMULATE_MMA, EMULATE_MATRICES };

/* Where a thread waits, for reports, and to tell one barrier from another. */
#define EMULATE_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void *emulate_shared_memory(size_t align);
void emulate_barrier(const char *file, int line);
/* Waits for the lanes of mask. SHUFFLE: value of lane `source`; BALLOT: of which lanes value is not 0. */
uint64_t emulate_warp(enum emulate_warp_op op, unsigned mask, uint64_t value, unsigned source,
                      const char *file, int line);
unsigned emulate_lane(void);
[[noreturn]] void emulate_trap(const char *file, int line);

void emulate_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATE_HERE);
void emulate_ldmatrix(uint32_t r[4], const void *row, bool transposed, EMULATE_HERE);
void emulate_copy_async(void *shared, const void *src, bool valid, EMULATE_HERE);
void emulate_copy_async_commit(void);
void emulate_copy_async_wait(int groups);

static inline void __syncthreads(EMULATE_HERE)
{
    emulate_barrier(file, line);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATE_HERE)
{
    emulate_warp(EMULATE_SYNC, mask, 0, 0, file, line);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATE_HERE)
{
    return (unsigned)emulate_warp(EMULATE_BALLOT, mask, predicate != 0, 0, file, line);
}

static inline int __any_sync(unsigned mask, int predicate, EMULATE_HERE)
{
    return emulate_warp(EMULATE_BALLOT, mask, predicate != 0, 0, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, EMULATE_HERE)
{
    return emulate_warp(EMULATE_BALLOT, mask, predicate != 0, 0, file, line) == mask;
}

template <class T>
static inline T emulate_shuffle(unsigned mask, T value, unsigned source, const char *file, int line)
{
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "of 32 or 64 bits");
    uint64_t bits = 0;

    memcpy(&bits, &value, sizeof value);
    bits = emulate_warp(EMULATE_SHUFFLE, mask, bits, source, file, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, unsigned from, unsigned width = 32, EMULATE_HERE)
{
    return emulate_shuffle(mask, value, (emulate_lane() & ~(width - 1)) + from % width, file, line);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, unsigned bits, unsigned width = 32, EMULATE_HERE)
{
    unsigned lane = emulate_lane(), from = lane ^ bits;

    return emulate_shuffle(mask, value, from < (lane | (width - 1)) + 1 ? from : lane, file, line);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, unsigned width = 32, EMULATE_HERE)
{
    unsigned lane = emulate_lane();

    return emulate_shuffle(mask, value, lane % width + by < width ? lane + by : lane, file, line);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, unsigned width = 32, EMULATE_HERE)
{
    unsigned lane = emulate_lane();

    return emulate_shuffle(mask, value, lane % width >= by ? lane - by : lane, file, line);
}

static inline void __trap(EMULATE_HERE)
{
    emulate_trap(file, line);
}

/* ---- numbers -------------------------------------------------------------- */

/* glibc declares these names for itself. */
#define __expf  expf
#define __logf  logf
#define __log2f log2f
#define __sinf  sinf
#define __cosf  cosf

#define EMULATE_BITS(name, to, from)                                                                         \
    static inline to name(from x)                                                                            \
    {                                                                                                        \
        to bits;                                                                                             \
                                                                                                             \
        memcpy(&bits, &x, sizeof bits);                                                                      \
        return bits;                                                                                         \
    }
EMULATE_BITS(__float_as_uint, unsigned, float)
EMULATE_BITS(__float_as_int, int, float)
EMULATE_BITS(__uint_as_float, float, unsigned)
EMULATE_BITS(__int_as_float, float, int)
EMULATE_BITS(__double_as_longlong, long long, double)
EMULATE_BITS(__longlong_as_double, double, long long)

#define EMULATE_UNARY(name, type, value)                                                                     \
    static inline type name(type x)                                                                          \
    {                                                                                                        \
        return value;                                                                                        \
    }
EMULATE_UNARY(rsqrtf, float, 1.0f / sqrtf(x))
EMULATE_UNARY(rsqrt, double, 1.0 / sqrt(x))
EMULATE_UNARY(__fsqrt_rn, float, sqrtf(x))
EMULATE_UNARY(__frcp_rn, float, 1.0f / x)
EMULATE_UNARY(__dsqrt_rn, double, sqrt(x))
EMULATE_UNARY(__drcp_rn, double, 1.0 / x)

#define EMULATE_BINARY(name, type, value)                                                                    \
    static inline type name(type x, type y)                                                                  \
    {                                                                                                        \
        return value;                                                                                        \
    }
EMULATE_BINARY(__fadd_rn, float, x + y)
EMULATE_BINARY(__fsub_rn, float, x - y)
EMULATE_BINARY(__fmul_rn, float, x *y)
EMULATE_BINARY(__fdiv_rn, float, x / y)
EMULATE_BINARY(__fdividef, float, x / y)
EMULATE_BINARY(__dadd_rn, double, x + y)
EMULATE_BINARY(__dsub_rn, double, x - y)
EMULATE_BINARY(__dmul_rn, double, x *y)
EMULATE_BINARY(__ddiv_rn, double, x / y)
EMULATE_BINARY(__umulhi, unsigned, (unsigned)((uint64_t)x *y >> 32))
EMULATE_BINARY(__umul64hi, unsigned long long, (unsigned long long)((unsigned __int128)x *y >> 64))

static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}

static inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}

static inline float __double2float_rn(double x)
{
    return (float)x;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

/* ---- the table of kernels ------------------------------------------------- */

template <auto kernel> struct emulate_kernel_of;

/* A launch's arguments are copied into a tuple, which each thread calls the kernel with. */
template <class... Args, void (*kernel)(Args...)> struct emulate_kernel_of<kernel> {
    using tuple = std::tuple<std::remove_cv_t<Args>...>;

    template <size_t... i> static void take(void *packed, void **args, std::index_sequence<i...>)
    {
        (void)args;
        new (packed) tuple(*static_cast<const Args *>(args[i])...);
    }
    static void pack(void *packed, void **args)
    {
        take(packed, args, std::index_sequence_for<Args...>());
    }
    static void call(const void *packed)
    {
        std::apply(kernel, *static_cast<const tuple *>(packed));
    }
};

struct emulate_entry {
    struct emulate_kernel kernel;

    emulate_entry(const char *name, size_t bytes, void (*pack)(void *, void **), void (*call)(const void *))
        : kernel{nullptr, name, bytes, pack, call}
    {
        emulate_add(&kernel);
    }
};

#define EMULATE(name)                                                                                        \
    static emulate_entry emulate_entry_##name(#name, sizeof(emulate_kernel_of<name>::tuple),                 \
                                              emulate_kernel_of<name>::pack, emulate_kernel_of<name>::call);

#endif
