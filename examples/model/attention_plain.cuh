/*
 * Attention for any head_dim up to 256 and any dtype, in f32 throughout: what the tensor cores' kernels
 * don't take. Part of attention.cu.
 *
 * A block of 128 threads makes tiles of scores from rows in shared memory. Thread t has rows r, r + 16 ... of
 * them (r = t / 8), and of these the columns c, c + 8 ... (c = t % 8): eight neighbours share a row.
 * Rows in shared memory are padded with zeros to a multiple of 8 numbers, and one more against bank
 * conflicts.
 */
#ifndef LLAMA_ATTENTION_PLAIN_CUH
#define LLAMA_ATTENTION_PLAIN_CUH

#include "examples/model/attention.cuh"

#define PLAIN_THREADS 128u
#define PLAIN_ROWS    16u /* times R */
#define SHARERS       8u  /* of a row */

DEVICE uint32_t padded_dim(uint32_t dim)
{
    return (dim + SHARERS - 1) / SHARERS * SHARERS;
}

/* Copies rows src, src + stride ... in; zeros for those from `valid` on. */
template <class T>
DEVICE void load_rows(float *tile, const T *src, size_t stride, uint32_t rows, uint32_t valid, uint32_t dim)
{
    uint32_t width = padded_dim(dim);

    for (uint32_t row = threadIdx.x / WARP; row < rows; row += PLAIN_THREADS / WARP)
        for (uint32_t i = threadIdx.x % WARP; i < width; i += WARP)
            tile[row * (width + 1) + i] = row < valid && i < dim ? to_float(src[row * stride + i]) : 0.0f;
}

/* s[i][j] = sum over dim of a[r + 16 i] * b[c + 8 j] */
template <int R> DEVICE void plain_scores(float s[R][2 * R], const float *a, const float *b, uint32_t dim)
{
    uint32_t width = padded_dim(dim) + 1;

    a += threadIdx.x / SHARERS * width;
    b += threadIdx.x % SHARERS * width;
#pragma unroll
    for (int i = 0; i < R * 2 * R; i++)
        s[i / (2 * R)][i % (2 * R)] = 0;
    for (uint32_t k = 0; k < dim; k++) {
        float x[R];

#pragma unroll
        for (int i = 0; i < R; i++)
            x[i] = a[i * PLAIN_ROWS * width + k];
#pragma unroll
        for (int j = 0; j < 2 * R; j++) {
            float y = b[j * SHARERS * width + k];

#pragma unroll
            for (int i = 0; i < R; i++)
                s[i][j] += x[i] * y;
        }
    }
}

/* Into shared memory, R * 16 + 1 to a row. */
template <int R> DEVICE void share_scores(float *p, const float s[R][2 * R])
{
#pragma unroll
    for (int i = 0; i < R * 2 * R; i++)
        p[(threadIdx.x / SHARERS + i / (2 * R) * PLAIN_ROWS) * (R * PLAIN_ROWS + 1) + threadIdx.x % SHARERS +
          i % (2 * R) * SHARERS] = s[i / (2 * R)][i % (2 * R)];
}

/* acc[i][d] += sum over columns of p[r + 16 i][column] * x[column][c + 8 d] */
template <int R, int D> DEVICE void plain_mix(float acc[R][D], const float *p, const float *x, uint32_t dim)
{
    uint32_t width = padded_dim(dim) + 1;

    p += threadIdx.x / SHARERS * (R * PLAIN_ROWS + 1);
    x += threadIdx.x % SHARERS;
    for (uint32_t column = 0; column < R * PLAIN_ROWS; column++, p++, x += width) {
        float weight[R];

#pragma unroll
        for (int i = 0; i < R; i++)
            weight[i] = p[i * PLAIN_ROWS * (R * PLAIN_ROWS + 1)];
#pragma unroll
        for (uint32_t d = 0; d < D; d++) {
            if (d * SHARERS >= dim)
                break;
#pragma unroll
            for (int i = 0; i < R; i++)
                acc[i][d] += weight[i] * x[d * SHARERS];
        }
    }
}

/* A thread's numbers of row r + 16 i, times x, to row dst. */
template <class T, int D> DEVICE void plain_store(T *dst, const float acc[D], float x, uint32_t dim)
{
#pragma unroll
    for (uint32_t d = 0; d < D; d++)
        if (threadIdx.x % SHARERS + d * SHARERS < dim)
            dst[threadIdx.x % SHARERS + d * SHARERS] = from_float<T>(acc[d] * x);
}

template <int R, int D> DEVICE void plain_zero(float acc[R][D])
{
#pragma unroll
    for (int i = 0; i < R * D; i++)
        acc[i / D][i % D] = 0;
}

/* Over the eight threads of a row. */
DEVICE float row_sum(float x)
{
    for (unsigned offset = SHARERS / 2; offset; offset /= 2)
        x += __shfl_xor_sync(ALL_LANE, x, offset);
    return x;
}

DEVICE float row_max(float x)
{
    for (unsigned offset = SHARERS / 2; offset; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANE, x, offset));
    return x;
}

/* ---- forward --------------------------------------------------------------------- */

/* Grid: (heads, tiles of 32 queries, batch), the longest first. Shared memory: rows of queries, rows of
 * keys or values, probabilities. */
template <class T, class L> DEVICE void forward_plain(float *shared, L limits, FORWARD_PARAMS(T))
{
    const uint32_t tile = 2 * PLAIN_ROWS;
    uint32_t row0 = (gridDim.y - 1 - blockIdx.y) * tile, rows = min(n - row0, tile),
             keys = first + row0 + rows;
    uint32_t r = threadIdx.x / SHARERS, c = threadIdx.x % SHARERS;
    size_t q_stride = (size_t)heads * dim, k_stride = (size_t)kv_heads * dim;
    size_t q_at = ((size_t)blockIdx.z * n + row0) * q_stride + (size_t)blockIdx.x * dim;
    size_t k_at =
        (size_t)blockIdx.z * (first + n) * k_stride + (size_t)(blockIdx.x / (heads / kv_heads)) * dim;
    float *kv = shared + tile * (padded_dim(dim) + 1), *p = kv + tile * (padded_dim(dim) + 1);
    float o[2][32], top[2] = {limits.none(), limits.none()}, sum[2] = {0, 0};

    plain_zero<2, 32>(o);
    load_rows(shared, q + q_at, q_stride, tile, rows, dim);
    for (uint32_t key = limits.from(first + row0) / tile * tile; key < keys; key += tile) {
        float s[2][4];

        __syncthreads();
        load_rows(kv, k + k_at + key * k_stride, k_stride, tile, keys - key, dim);
        __syncthreads();
        plain_scores<2>(s, shared, kv, dim);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float before = top[i];

#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t at = key + c + j * SHARERS, query = first + row0 + r + i * PLAIN_ROWS;

                s[i][j] = at <= query && limits.sees(query, at) ? limits.capped(s[i][j]) : -INFINITY;
                top[i] = fmaxf(top[i], s[i][j]);
            }
            top[i] = row_max(top[i]);
            before = exp2f((before - top[i]) * (scale * LOG2_E));
            sum[i] *= before;
#pragma unroll
            for (uint32_t d = 0; d < 32; d++)
                o[i][d] *= before;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
                sum[i] += s[i][j] = exp2f((s[i][j] - top[i]) * (scale * LOG2_E));
        }
        share_scores<2>(p, s);
        __syncthreads();
        load_rows(kv, v + k_at + key * k_stride, k_stride, tile, keys - key, dim);
        __syncthreads();
        plain_mix<2, 32>(o, p, kv, dim);
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t row = r + i * PLAIN_ROWS;
        float total = row_sum(sum[i]);

        if (row >= rows)
            continue;
        plain_store<T, 32>(out + q_at + row * q_stride, o[i], 1.0f / total, dim);
        if (lse && c == 0)
            lse[((size_t)blockIdx.z * heads + blockIdx.x) * n + row0 + row] = top[i] * scale + logf(total);
    }
}

/* ---- forward of a few queries: decoding ------------------------------------------- */

#define DECODE_CHUNKS 8u /* of 4 numbers that a thread has of a row: 256 / 4 / SHARERS */
#define DECODE_DIM    (DECODE_CHUNKS * SHARERS * 4)
#define DECODE_KEYS   4u     /* that eight threads have in flight at a time */
#define LOWEST        -3e38f /* of no key yet; finite, so that two such meet without a NaN */

/* A thread's chunks of a row are at 4 * (its place among the eight + 8 * chunk). */
template <class T>
DEVICE void load_chunks(float x[DECODE_CHUNKS][4], const T *row, uint32_t dim, uint32_t wide)
{
#pragma unroll
    for (uint32_t i = 0; i < DECODE_CHUNKS; i++)
        row_load(x[i], row, 4 * (threadIdx.x % SHARERS + i * SHARERS), dim, wide);
}

/* The softmax of eight threads over some of the keys. */
struct running {
    float top, sum, o[DECODE_CHUNKS][4];
};

/* Makes a fit a maximum of at least `top`. */
DEVICE void make_fit(struct running *a, float top, float scale)
{
    float most = fmaxf(a->top, top), shrink = exp2f((a->top - most) * scale);

    a->sum *= shrink;
#pragma unroll
    for (uint32_t i = 0; i < DECODE_CHUNKS * 4; i++)
        a->o[i / 4][i % 4] *= shrink;
    a->top = most;
}

/* With four numbers of shared memory. */
DEVICE float dot4_of(const float *shared, const float x[4])
{
    float q[4];

    load4(q, shared);
    return dot4(q, x);
}

/* DECODE_KEYS keys from `key` on, `step` apart, as far as they lie before `end`. */
template <class T, class L>
DEVICE void decode_keys(struct running *a, L limits, const float *query, const T *k, const T *v,
                        size_t stride, uint32_t key, uint32_t step, uint32_t end, uint32_t dim, uint32_t wide,
                        float scale)
{
    float s[DECODE_KEYS], x[DECODE_CHUNKS][4], top = LOWEST;

#pragma unroll
    for (uint32_t j = 0; j < DECODE_KEYS; j++) {
        s[j] = 0;
        load_chunks(x, k + min(key + j * step, end - 1) * stride, dim, wide);
#pragma unroll
        for (uint32_t i = 0; i < DECODE_CHUNKS; i++)
            s[j] += dot4_of(query + 4 * (threadIdx.x % SHARERS + i * SHARERS), x[i]);
        s[j] = limits.capped(row_sum(s[j]));
        s[j] = key + j * step < end ? s[j] : -INFINITY;
        top = fmaxf(top, s[j]);
    }
    make_fit(a, top, scale);
#pragma unroll
    for (uint32_t j = 0; j < DECODE_KEYS; j++) {
        float p = exp2f((s[j] - a->top) * scale);

        if (key + j * step >= end)
            continue;
        a->sum += p;
        load_chunks(x, v + (key + j * step) * stride, dim, wide);
#pragma unroll
        for (uint32_t i = 0; i < DECODE_CHUNKS * 4; i++)
            a->o[i / 4][i % 4] += p * x[i / 4][i % 4];
    }
}

/* Adds what the other half of the warp's eights has; both get the same bits. */
DEVICE void merge_eights(struct running *a, unsigned offset, float scale)
{
    float top = __shfl_xor_sync(ALL_LANE, a->top, offset), sum = __shfl_xor_sync(ALL_LANE, a->sum, offset);
    float most = fmaxf(a->top, top);
    float shrink = exp2f((a->top - most) * scale), other = exp2f((top - most) * scale);

    a->top = most;
    a->sum = a->sum * shrink + sum * other;
#pragma unroll
    for (uint32_t i = 0; i < DECODE_CHUNKS * 4; i++) {
        float *x = &a->o[i / 4][i % 4];
        float theirs = __shfl_xor_sync(ALL_LANE, *x, offset);

        *x = __fadd_rn(__fmul_rn(*x, shrink), __fmul_rn(theirs, other));
    }
}

/* Grid: (heads, queries, batch). Eight threads have every so-manieth key; then the eights of a warp, then
 * the warps are merged in order. Shared memory: the query, which would cost 32 registers, and for each warp
 * top, sum and dim numbers. */
template <class T, class L> DEVICE void forward_decode(float *shared, L limits, FORWARD_PARAMS(T))
{
    uint32_t row = blockIdx.y, end = first + row + 1, eights = blockDim.x / SHARERS,
             warps = blockDim.x / WARP;
    uint32_t wide = dim % 4 == 0;
    size_t stride = (size_t)kv_heads * dim;
    size_t q_at = (((size_t)blockIdx.z * n + row) * heads + blockIdx.x) * dim;
    size_t k_at = (size_t)blockIdx.z * (first + n) * stride + (size_t)(blockIdx.x / (heads / kv_heads)) * dim;
    float *query = shared, *own, top = LOWEST, total = 0;
    struct running a = {LOWEST, 0, {}};

    shared += DECODE_DIM;
    own = shared + threadIdx.x / WARP * (dim + 2);
    for (uint32_t i = threadIdx.x; i < DECODE_DIM; i += blockDim.x)
        query[i] = i < dim ? to_float(q[q_at + i]) : 0.0f;
    __syncthreads();
    for (uint32_t key = limits.from(end - 1) + threadIdx.x / WARP * 4; key < end; key += DECODE_KEYS * eights)
        decode_keys(&a, limits, query, k + k_at, v + k_at, stride, key + threadIdx.x / SHARERS % 4, eights,
                    end, dim, wide, scale * LOG2_E);
    merge_eights(&a, SHARERS, scale * LOG2_E);
    merge_eights(&a, 2 * SHARERS, scale * LOG2_E);
    if (threadIdx.x % WARP == 0) {
        own[0] = a.top;
        own[1] = a.sum;
    }
    if (threadIdx.x % WARP < SHARERS) {
#pragma unroll
        for (uint32_t i = 0; i < DECODE_CHUNKS; i++)
            row_store(own + 2, a.o[i], 4 * (threadIdx.x % SHARERS + i * SHARERS), dim, 0);
    }
    __syncthreads();
    for (uint32_t w = 0; w < warps; w++)
        top = fmaxf(top, shared[w * (dim + 2)]);
    for (uint32_t w = 0; w < warps; w++)
        total += shared[w * (dim + 2) + 1] * exp2f((shared[w * (dim + 2)] - top) * (scale * LOG2_E));
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float sum = 0;

        for (uint32_t w = 0; w < warps; w++)
            sum += shared[w * (dim + 2) + 2 + i] * exp2f((shared[w * (dim + 2)] - top) * (scale * LOG2_E));
        out[q_at + i] = from_float<T>(sum / total);
    }
    if (lse && threadIdx.x == 0)
        lse[((size_t)blockIdx.z * heads + blockIdx.x) * n + row] = top * scale + logf(total);
}

/* ---- backward -------------------------------------------------------------------- */

/* p and ds of a tile, to shared memory: exponentials where the query sees the key, 0 elsewhere. Rows are
 * keys and columns queries, or the other way. */
template <int R, bool rows_are_keys, class L>
DEVICE void softmax_backward_plain(L limits, float *shared_p, float *shared_ds, float s[R][2 * R],
                                   float dp[R][2 * R], const float *lse2, const float *delta, uint32_t row0,
                                   uint32_t column0, float scale)
{
#pragma unroll
    for (uint32_t i = 0; i < R * 2 * R; i++) {
        uint32_t row = threadIdx.x / SHARERS + i / (2 * R) * PLAIN_ROWS;
        uint32_t column = threadIdx.x % SHARERS + i % (2 * R) * SHARERS, query = rows_are_keys ? column : row;
        bool seen = rows_are_keys ? row0 + row <= column0 + column : column0 + column <= row0 + row;
        float *x = &s[i / (2 * R)][i % (2 * R)], *d = &dp[i / (2 * R)][i % (2 * R)];
        float score = limits.capped(*x);

        seen = seen && (rows_are_keys ? limits.sees(column0 + column, row0 + row)
                                      : limits.sees(row0 + row, column0 + column));
        *x = seen ? exp2f(score * (scale * LOG2_E) - lse2[query]) : 0.0f;
        *d = seen ? *x * (*d - delta[query]) * limits.slope(score) : 0.0f;
    }
    if (rows_are_keys)
        share_scores<R>(shared_p, s);
    share_scores<R>(shared_ds, dp);
}

/* Grid: (kv_heads, tiles of 16 * R keys, batch), the longest first. Shared memory: rows of keys, values,
 * queries, dout; p, ds. */
template <class T, int R, int D, class L>
DEVICE void backward_keys_plain(float *shared, L limits, KEYS_PARAMS(T))
{
    const uint32_t tile = R * PLAIN_ROWS;
    uint32_t key0 = blockIdx.y * tile, tile_floats = tile * (padded_dim(dim) + 1), group = heads / kv_heads;
    float *values = shared + tile_floats, *queries = values + tile_floats, *douts = queries + tile_floats;
    float *p = douts + tile_floats, *ds = p + tile * (tile + 1);
    size_t q_stride = (size_t)heads * dim, k_stride = (size_t)kv_heads * dim;
    size_t k_at = ((size_t)blockIdx.z * n + key0) * k_stride + (size_t)blockIdx.x * dim;
    float dk_sum[R][D], dv_sum[R][D];

    (void)partial;
    (void)splits;
    plain_zero<R, D>(dk_sum);
    plain_zero<R, D>(dv_sum);
    load_rows(shared, k + k_at, k_stride, tile, n - key0, dim);
    load_rows(values, v + k_at, k_stride, tile, n - key0, dim);
    for (uint32_t head = blockIdx.x * group; head < (blockIdx.x + 1) * group; head++)
        for (uint32_t row = key0; row < limits.to(min(key0 + tile, n) - 1, n); row += tile) {
            size_t at = ((size_t)blockIdx.z * n + row) * q_stride + (size_t)head * dim;
            size_t stats = ((size_t)blockIdx.z * heads + head) * padded + row;
            float s[R][2 * R], dp[R][2 * R];

            __syncthreads();
            load_rows(queries, q + at, q_stride, tile, n - row, dim);
            load_rows(douts, dout + at, q_stride, tile, n - row, dim);
            __syncthreads();
            plain_scores<R>(s, shared, queries, dim);
            plain_scores<R>(dp, values, douts, dim);
            softmax_backward_plain<R, true>(limits, p, ds, s, dp, lse2 + stats, delta + stats, key0, row,
                                            scale);
            __syncthreads();
            plain_mix<R, D>(dv_sum, p, douts, dim);
            plain_mix<R, D>(dk_sum, ds, queries, dim);
        }
#pragma unroll
    for (uint32_t i = 0; i < R; i++) {
        uint32_t row = threadIdx.x / SHARERS + i * PLAIN_ROWS;

        if (key0 + row >= n)
            continue;
        plain_store<T, D>(dk + k_at + row * k_stride, dk_sum[i], scale, dim);
        plain_store<T, D>(dv + k_at + row * k_stride, dv_sum[i], 1, dim);
    }
}

/* Grid: (heads, tiles of 16 * R queries, batch), the longest first. Shared memory: rows of queries, dout,
 * keys, values; ds. */
template <class T, int R, int D, class L>
DEVICE void backward_queries_plain(float *shared, L limits, QUERIES_PARAMS(T))
{
    const uint32_t tile = R * PLAIN_ROWS;
    uint32_t row0 = (gridDim.y - 1 - blockIdx.y) * tile, rows = min(n - row0, tile);
    uint32_t tile_floats = tile * (padded_dim(dim) + 1);
    float *douts = shared + tile_floats, *keys = douts + tile_floats, *values = keys + tile_floats;
    float *ds = values + tile_floats;
    size_t q_stride = (size_t)heads * dim, k_stride = (size_t)kv_heads * dim;
    size_t q_at = ((size_t)blockIdx.z * n + row0) * q_stride + (size_t)blockIdx.x * dim;
    size_t k_at = (size_t)blockIdx.z * n * k_stride + (size_t)(blockIdx.x / (heads / kv_heads)) * dim;
    size_t stats = ((size_t)blockIdx.z * heads + blockIdx.x) * padded + row0;
    float sum[R][D];

    plain_zero<R, D>(sum);
    load_rows(shared, q + q_at, q_stride, tile, rows, dim);
    load_rows(douts, dout + q_at, q_stride, tile, rows, dim);
    for (uint32_t key = limits.from(row0) / tile * tile; key < row0 + rows; key += tile) {
        float s[R][2 * R], dp[R][2 * R];

        __syncthreads();
        load_rows(keys, k + k_at + key * k_stride, k_stride, tile, n - key, dim);
        load_rows(values, v + k_at + key * k_stride, k_stride, tile, n - key, dim);
        __syncthreads();
        plain_scores<R>(s, shared, keys, dim);
        plain_scores<R>(dp, douts, values, dim);
        softmax_backward_plain<R, false>(limits, ds, ds, s, dp, lse2 + stats, delta + stats, row0, key,
                                         scale);
        __syncthreads();
        plain_mix<R, D>(sum, ds, keys, dim);
    }
#pragma unroll
    for (uint32_t i = 0; i < R; i++) {
        uint32_t row = threadIdx.x / SHARERS + i * PLAIN_ROWS;

        if (row < rows)
            plain_store<T, D>(dq + q_at + row * q_stride, sum[i], scale, dim);
    }
}

#endif
