/*
 * Attention on the tensor cores, in bf16 with f32 sums, for head_dim 64 and 128: FlashAttention-2 (Dao,
 * 2023). Part of attention.cu.
 *
 * Forward, and the gradient of the queries: a block has 128 queries of one head, a warp 32 of them; tiles
 * of keys and values stream through shared memory. The gradient of keys and values: a block has 64 or 128
 * keys of one kv head, and the queries of its group that see them stream. There the scores are made
 * transposed, keys by queries, so that what a warp gets from one product is, rounded and in place, what it
 * puts into the next: no probability passes through memory. Each half makes the scores again: two products
 * more than if the first left its part of dq to the other, but no sum whose order depends on luck.
 *
 * 32 rows to a warp where registers allow: half as many bytes of shared memory per product as 16, and
 * these are what limits it.
 */
#ifndef LLAMA_ATTENTION_MMA_CUH
#define LLAMA_ATTENTION_MMA_CUH

#include "examples/model/attention.cuh"

#define MMA_THREADS 128u
#define MMA_QUERIES 128u /* of a block */
#define MMA_KEYS    64u  /* of a tile that streams */

/* ---- tiles in shared memory -------------------------------------------------- */

/* Where piece (16 bytes) of a row lies, in bytes: eight rows of one piece lie in different banks. */
template <int DIM> DEVICE unsigned tile_at(unsigned row, unsigned piece)
{
    return row * (DIM * 2) + ((piece ^ row % 8) << 4);
}

/* Begins to copy rows src, src + stride ... to a tile; zeros for those from `valid` on. */
template <int DIM, int ROWS>
DEVICE void fill_tile(unsigned char *tile, const bf16 *src, size_t stride, uint32_t valid)
{
    const unsigned pieces = DIM / 8, at_once = MMA_THREADS / pieces;
    unsigned piece = threadIdx.x % pieces, row = threadIdx.x / pieces;
    const bf16 *from = src + row * stride + piece * 8;
    unsigned char *to = tile + tile_at<DIM>(row, piece);

    static_assert(at_once % 8 == 0, "a thread's rows lie the same way round");
#pragma unroll
    for (unsigned i = 0; i < ROWS / at_once; i++, from += at_once * stride, to += at_once * DIM * 2) {
        bool there = row + i * at_once < valid;

        copy_async(to, there ? from : src, there);
    }
}

/* A lane's place in what load_matrices takes of a tile whose rows begin at `row`: two by two matrices,
 * those of a[] of mma_bf16; transposed, two pairs of b[]. Piece 2 * k: xor k * 32. */
template <int DIM> DEVICE unsigned lane_at(unsigned row)
{
    return tile_at<DIM>(row + threadIdx.x % 16, threadIdx.x / 16 % 2);
}

/* The same for two pairs of b[] of the tile transposed: that is, read as it lies. */
template <int DIM> DEVICE unsigned lane_at_b(unsigned row)
{
    return tile_at<DIM>(row + threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8, threadIdx.x / 8 % 2);
}

/* ---- products ------------------------------------------------------------------- */

/* s[M * 16, N * 8] = a[M * 16 rows, DIM] * b[N * 8 rows, DIM]^T, of tiles, by lane_at and lane_at_b. */
template <int DIM, int M, int N>
DEVICE void scores(float s[M][N][4], const unsigned char *a_tile, unsigned a_at, const unsigned char *b_tile,
                   unsigned b_at)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < N * 4; i++)
            s[m][i / 4][i % 4] = 0;
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t a[M][4];

#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(a[m], a_tile + (a_at ^ k * 32) + m * 16 * DIM * 2);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            uint32_t b[4];

            load_matrices(b, b_tile + (b_at ^ k * 32) + j * 8 * DIM * 2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(s[m][j], a[m], b);
                mma_bf16(s[m][j + 1], a[m], b + 2);
            }
        }
    }
}

/* Numbers of s, rounded: they lie as a[] of the next product, with columns as its depth, 16 at a time. */
template <int M, int N> DEVICE void round_scores(uint32_t p[M][N / 2][4], const float s[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < N; j++) {
            p[m][j / 2][j % 2 * 2] = bf16_pair(s[m][j][0], s[m][j][1]);
            p[m][j / 2][j % 2 * 2 + 1] = bf16_pair(s[m][j][2], s[m][j][3]);
        }
}

/* acc[M * 16, DIM] += p[M * 16, N * 8] * tile[N * 8 rows, DIM], by lane_at. */
template <int DIM, int M, int N>
DEVICE void add_product(float acc[M][DIM / 8][4], const uint32_t p[M][N / 2][4], const unsigned char *tile,
                        unsigned at)
{
#pragma unroll
    for (int k = 0; k < N / 2; k++)
#pragma unroll
        for (int j = 0; j < DIM / 16; j++) {
            uint32_t b[4];

            load_matrices_transposed(b, tile + (at ^ j * 32) + k * 16 * DIM * 2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(acc[m][2 * j], p[m][k], b);
                mma_bf16(acc[m][2 * j + 1], p[m][k], b + 2);
            }
        }
}

template <int M, int N> DEVICE void zero(float acc[M][N][4])
{
#pragma unroll
    for (int i = 0; i < M * N * 4; i++)
        acc[i / (N * 4)][i / 4 % N][i % 4] = 0;
}

/* Which row of a warp's a thread's numbers [m][.][2 * half], [2 * half + 1] are of, and from which
 * column of 8 on. */
DEVICE uint32_t row_of(int m, int half)
{
    return (uint32_t)(m * 16 + half * 8) + threadIdx.x % WARP / 4;
}

DEVICE uint32_t column_of(void)
{
    return threadIdx.x % 4 * 2;
}

/* One of a thread's rows: x * acc to dst, rounded. */
template <int DIM> DEVICE void store_row(bf16 *dst, const float acc[DIM / 8][4], int half, float x)
{
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        *reinterpret_cast<uint32_t *>(dst + j * 8 + column_of()) =
            bf16_pair(acc[j][2 * half] * x, acc[j][2 * half + 1] * x);
}

/* -infinity for keys behind the query. row, column: positions of the thread's first ones. */
template <int M, int N> DEVICE void hide_keys(float s[M][N][4], uint32_t query, uint32_t key)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < N * 4; i++)
            if (key + i / 4 * 8 + column_of() + i % 2 > query + row_of(m, i % 4 / 2))
                s[m][i / 4][i % 4] = -INFINITY;
}

/* ---- forward --------------------------------------------------------------------- */

/* s becomes exp2((s - the row's maximum so far) * scale), with what was summed before made to fit. */
template <int DIM>
DEVICE void softmax_step(float s[2][MMA_KEYS / 8][4], float o[2][DIM / 8][4], float max[2][2],
                         float sum[2][2], float scale)
{
    float shrink[2][2];
    bool changed = false;

#pragma unroll
    for (int r = 0; r < 4; r++) {
        int m = r / 2, half = r % 2;
        float top = max[m][half];

#pragma unroll
        for (unsigned j = 0; j < MMA_KEYS / 8; j++)
            top = fmaxf(top, fmaxf(s[m][j][2 * half], s[m][j][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANE, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANE, top, 2));
        shrink[m][half] = fast_exp2((max[m][half] - top) * scale);
        changed = changed || shrink[m][half] != 1.0f;
        max[m][half] = top;
        sum[m][half] *= shrink[m][half];
        top *= scale;
#pragma unroll
        for (unsigned i = 0; i < MMA_KEYS / 4; i++) {
            float *x = &s[m][i / 2][2 * half + i % 2];

            *x = fast_exp2(*x * scale - top);
            sum[m][half] += *x;
        }
    }
    if (__any_sync(ALL_LANE, changed)) /* seldom, after the first tiles */
#pragma unroll
        for (int i = 0; i < DIM; i++)
            o[i / (DIM / 2)][i / 4 % (DIM / 8)][i % 4] *= shrink[i / (DIM / 2)][i % 4 / 2];
}

/* Writes a warp's queries from `row` on: out points at the first, lse too (or is NULL). */
template <int DIM>
DEVICE void store_output(bf16 *out, float *lse, size_t stride, uint32_t row, uint32_t n,
                         const float o[2][DIM / 8][4], const float max[2][2], float sum[2][2], float scale)
{
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int m = r / 2, half = r % 2;
        float total = sum[m][half];
        uint32_t at = row_of(m, half);

        total += __shfl_xor_sync(ALL_LANE, total, 1);
        total += __shfl_xor_sync(ALL_LANE, total, 2);
        if (row + at >= n)
            continue;
        store_row<DIM>(out + at * stride, o[m], half, 1.0f / total);
        if (lse && threadIdx.x % 4 == 0)
            lse[at] = max[m][half] * scale + logf(total);
    }
}

/* Grid: (heads, tiles of queries, batch), the longest first. Shared memory: the queries and three tiles,
 * keys and values in turn, of which two are on their way while one is read. */
template <int DIM> DEVICE void forward_mma(unsigned char *shared, FORWARD_PARAMS(bf16))
{
    const unsigned tile_bytes = MMA_KEYS * DIM * 2;
    unsigned char *ring = shared + MMA_QUERIES * DIM * 2;
    unsigned slot = 0; /* in bytes, of the tile that is read next */
    uint32_t row0 = (gridDim.y - 1 - blockIdx.y) * MMA_QUERIES, warp_row = threadIdx.x / WARP * 32;
    uint32_t rows = min(n - row0, MMA_QUERIES), keys = first + row0 + rows;
    uint32_t query = first + row0 + warp_row; /* position of the warp's first */
    size_t q_stride = (size_t)heads * DIM, k_stride = (size_t)kv_heads * DIM;
    size_t q_at = ((size_t)blockIdx.z * n + row0) * q_stride + (size_t)blockIdx.x * DIM;
    size_t k_at =
        (size_t)blockIdx.z * (first + n) * k_stride + (size_t)(blockIdx.x / (heads / kv_heads)) * DIM;
    float o[2][DIM / 8][4], max[2][2], sum[2][2];

    (void)dim;
    zero<2, DIM / 8>(o);
#pragma unroll
    for (int r = 0; r < 4; r++) {
        max[r / 2][r % 2] = -INFINITY;
        sum[r / 2][r % 2] = 0;
    }
    fill_tile<DIM, MMA_QUERIES>(shared, q + q_at, q_stride, rows);
    fill_tile<DIM, MMA_KEYS>(ring, k + k_at, k_stride, keys);
    copy_async_commit();
    fill_tile<DIM, MMA_KEYS>(ring + tile_bytes, v + k_at, k_stride, keys);
    copy_async_commit();
    for (uint32_t key = 0; key < keys; key += MMA_KEYS) {
        float s[2][MMA_KEYS / 8][4];
        uint32_t p[2][MMA_KEYS / 16][4], next = key + MMA_KEYS;
        bool seen = key <= query + 31;

#pragma unroll
        for (int half = 0; half < 2; half++) { /* keys, values */
            unsigned after = slot == 0 ? 2 * tile_bytes : slot - tile_bytes;

            copy_async_wait<1>();
            __syncthreads();
            if (next < keys)
                fill_tile<DIM, MMA_KEYS>(ring + after, (half == 0 ? k : v) + k_at + next * k_stride, k_stride,
                                         keys - next);
            copy_async_commit();
            if (seen && half == 0) {
                scores<DIM, 2, MMA_KEYS / 8>(s, shared, lane_at<DIM>(warp_row), ring + slot,
                                             lane_at_b<DIM>(0));
                if (key + MMA_KEYS - 1 > query)
                    hide_keys<2, MMA_KEYS / 8>(s, query, key);
                softmax_step<DIM>(s, o, max, sum, scale * LOG2_E);
                round_scores<2, MMA_KEYS / 8>(p, s);
            }
            if (seen && half == 1)
                add_product<DIM, 2, MMA_KEYS / 8>(o, p, ring + slot, lane_at<DIM>(0));
            slot = slot == 2 * tile_bytes ? 0 : slot + tile_bytes;
        }
    }
    copy_async_wait<0>();
    if (lse)
        lse += ((size_t)blockIdx.z * heads + blockIdx.x) * n + row0 + warp_row;
    store_output<DIM>(out + q_at + warp_row * q_stride, lse, q_stride, row0 + warp_row, n, o, max, sum,
                      scale);
}

/* ---- backward -------------------------------------------------------------------- */

/* s, scores of keys by queries, becomes p; dp becomes ds = p * (dp - delta). stats: lse2 and delta of the
 * tile's queries, [2][MMA_KEYS], from the first of these on. */
template <int M, int N>
DEVICE void softmax_backward_keys(float s[M][N][4], float dp[M][N][4], const float *stats, float scale)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        float2 lse2 = *reinterpret_cast<const float2 *>(stats + j * 8 + column_of());
        float2 delta = *reinterpret_cast<const float2 *>(stats + MMA_KEYS + j * 8 + column_of());

#pragma unroll
        for (int i = 0; i < M * 4; i++) {
            float *x = &s[i / 4][j][i % 4], *d = &dp[i / 4][j][i % 4];

            *x = fast_exp2(*x * scale - (i % 2 ? lse2.y : lse2.x));
            *d = *x * (*d - (i % 2 ? delta.y : delta.x));
        }
    }
}

/* The queries that stream past keys: a head's tile after the other, then the next head's. */
struct query_walk {
    const bf16 *q, *dout; /* of the sequence */
    const float *lse2, *delta;
    uint32_t heads, n, padded, row0; /* row0: of the first tile that sees the keys */
    uint32_t head, row;
};

template <int DIM> DEVICE void fill_queries(unsigned char *stage, const struct query_walk *w)
{
    size_t stride = (size_t)w->heads * DIM, at = w->row * stride + (size_t)w->head * DIM;
    size_t stats = (size_t)w->head * w->padded + w->row;
    unsigned piece = threadIdx.x % 16 * 4;

    fill_tile<DIM, MMA_KEYS>(stage, w->q + at, stride, w->n - w->row);
    fill_tile<DIM, MMA_KEYS>(stage + MMA_KEYS * DIM * 2, w->dout + at, stride, w->n - w->row);
    stage += 2 * MMA_KEYS * DIM * 2;
    if (threadIdx.x < 32)
        copy_async(stage + threadIdx.x * 16, (threadIdx.x < 16 ? w->lse2 : w->delta) + stats + piece, true);
    copy_async_commit();
}

DEVICE void next_queries(struct query_walk *w)
{
    w->row += MMA_KEYS;
    if (w->row >= w->n) {
        w->row = w->row0;
        w->head++;
    }
}

/* One split's sum instead, in f32. */
template <int DIM> DEVICE void store_partial(float *dst, const float acc[DIM / 8][4], int half, float x)
{
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        *reinterpret_cast<float2 *>(dst + j * 8 + column_of()) =
            make_float2(acc[j][2 * half] * x, acc[j][2 * half + 1] * x);
}

/*
 * dk and dv of a block's 64 * M keys. A warp has M * 16 of them, and takes SUB queries of a tile at a time.
 * Grid: (kv_heads * splits, tiles of keys, batch), the longest first. Where that is too few blocks for a
 * GPU, the heads of a group are split, and their sums put into partial[2, splits, batch * n, kv_heads *
 * DIM], dk first; sum_partials adds them up.
 * Shared memory: keys, values, two stages of queries, dout, lse2 and delta.
 */
template <int DIM, int M, int SUB> DEVICE void backward_keys_mma(unsigned char *shared, KEYS_PARAMS(bf16))
{
    const uint32_t block_keys = 64 * M, stage_bytes = 2 * MMA_KEYS * DIM * 2 + 2 * MMA_KEYS * 4;
    unsigned char *values = shared + block_keys * DIM * 2, *stages = values + block_keys * DIM * 2;
    uint32_t key0 = blockIdx.y * block_keys, warp_key = threadIdx.x / WARP * 16 * M, key = key0 + warp_key;
    uint32_t kv_head = blockIdx.x / splits, split = blockIdx.x % splits;
    uint32_t count = heads / kv_heads / splits, head0 = kv_head * (heads / kv_heads) + split * count;
    size_t stride = (size_t)kv_heads * DIM, k_at = ((size_t)blockIdx.z * n + key0) * stride + kv_head * DIM;
    size_t q_at = (size_t)blockIdx.z * n * heads * DIM, stats_at = (size_t)blockIdx.z * heads * padded;
    struct query_walk now = {q + q_at, dout + q_at, lse2 + stats_at, delta + stats_at, heads, n, padded, key0,
                             head0,    key0};
    struct query_walk next = now;
    float dk_sum[M][DIM / 8][4], dv_sum[M][DIM / 8][4];
    unsigned stage = 0;

    (void)dim;
    zero<M, DIM / 8>(dk_sum);
    zero<M, DIM / 8>(dv_sum);
    fill_tile<DIM, 64 * M>(shared, k + k_at, stride, n - key0);
    fill_tile<DIM, 64 * M>(values, v + k_at, stride, n - key0);
    fill_queries<DIM>(stages, &next);
    for (; now.head < head0 + count; next_queries(&now)) {
        unsigned char *queries = stages + stage * stage_bytes, *douts = queries + MMA_KEYS * DIM * 2;

        next_queries(&next);
        copy_async_wait<0>();
        __syncthreads();
        stage ^= 1;
        if (next.head < head0 + count)
            fill_queries<DIM>(stages + stage * stage_bytes, &next);
#pragma unroll 1
        for (uint32_t sub = 0; sub < MMA_KEYS; sub += SUB) {
            const float *stats = reinterpret_cast<const float *>(douts + MMA_KEYS * DIM * 2);
            float s[M][SUB / 8][4], dp[M][SUB / 8][4];
            uint32_t rounded[M][SUB / 16][4], query = now.row + sub;

            if (query + SUB - 1 < key) /* none of them sees the warp's keys */
                continue;
            scores<DIM, M, SUB / 8>(s, shared, lane_at<DIM>(warp_key), queries, lane_at_b<DIM>(sub));
            if (query < key + 16 * M - 1) {
#pragma unroll
                for (int i = 0; i < M * SUB / 2; i++)
                    if (key + row_of(i / (SUB / 2), i % 4 / 2) >
                        query + i / 4 % (SUB / 8) * 8 + column_of() + i % 2)
                        s[i / (SUB / 2)][i / 4 % (SUB / 8)][i % 4] = -INFINITY;
            }
            scores<DIM, M, SUB / 8>(dp, values, lane_at<DIM>(warp_key), douts, lane_at_b<DIM>(sub));
            softmax_backward_keys<M, SUB / 8>(s, dp, stats + sub, scale * LOG2_E);
            round_scores<M, SUB / 8>(rounded, s);
            add_product<DIM, M, SUB / 8>(dv_sum, rounded, douts, lane_at<DIM>(sub));
            round_scores<M, SUB / 8>(rounded, dp);
            add_product<DIM, M, SUB / 8>(dk_sum, rounded, queries, lane_at<DIM>(sub));
        }
    }
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        uint32_t row = warp_key + row_of(r / 2, r % 2);
        size_t at = k_at + row * stride, plane = (size_t)gridDim.z * n * stride;

        if (key0 + row >= n)
            continue;
        if (splits == 1) {
            store_row<DIM>(dk + at, dk_sum[r / 2], r % 2, scale);
            store_row<DIM>(dv + at, dv_sum[r / 2], r % 2, 1);
        } else {
            store_partial<DIM>(partial + split * plane + at, dk_sum[r / 2], r % 2, scale);
            store_partial<DIM>(partial + (splits + split) * plane + at, dv_sum[r / 2], r % 2, 1);
        }
    }
}

/* dq of a block's 128 queries, SUB keys at a time. Grid: (heads, tiles of queries, batch), the longest
 * first. Shared memory: queries, dout, two stages of keys and values. */
template <int DIM, int SUB> DEVICE void backward_queries_mma(unsigned char *shared, QUERIES_PARAMS(bf16))
{
    const uint32_t tile_bytes = SUB * DIM * 2;
    unsigned char *douts = shared + MMA_QUERIES * DIM * 2, *stages = douts + MMA_QUERIES * DIM * 2;
    uint32_t row0 = (gridDim.y - 1 - blockIdx.y) * MMA_QUERIES, warp_row = threadIdx.x / WARP * 32;
    uint32_t rows = min(n - row0, MMA_QUERIES), keys = row0 + rows, query = row0 + warp_row;
    size_t q_stride = (size_t)heads * DIM, k_stride = (size_t)kv_heads * DIM;
    size_t q_at = ((size_t)blockIdx.z * n + row0) * q_stride + (size_t)blockIdx.x * DIM;
    size_t k_at = (size_t)blockIdx.z * n * k_stride + (size_t)(blockIdx.x / (heads / kv_heads)) * DIM;
    size_t stats = ((size_t)blockIdx.z * heads + blockIdx.x) * padded + query;
    float sum[2][DIM / 8][4], row_lse2[4], row_delta[4];
    unsigned stage = 0;

    (void)dim;
    zero<2, DIM / 8>(sum);
    fill_tile<DIM, MMA_QUERIES>(shared, q + q_at, q_stride, rows);
    fill_tile<DIM, MMA_QUERIES>(douts, dout + q_at, q_stride, rows);
    fill_tile<DIM, SUB>(stages, k + k_at, k_stride, keys);
    fill_tile<DIM, SUB>(stages + tile_bytes, v + k_at, k_stride, keys);
    copy_async_commit();
#pragma unroll
    for (int r = 0; r < 4; r++) {
        row_lse2[r] = lse2[stats + row_of(r / 2, r % 2)];
        row_delta[r] = delta[stats + row_of(r / 2, r % 2)];
    }
    for (uint32_t key = 0; key < keys; key += SUB) {
        unsigned char *tile = stages + stage * 2 * tile_bytes;
        float s[2][SUB / 8][4], dp[2][SUB / 8][4];
        uint32_t rounded[2][SUB / 16][4], next = key + SUB;

        copy_async_wait<0>();
        __syncthreads();
        stage ^= 1;
        if (next < keys) {
            unsigned char *to = stages + stage * 2 * tile_bytes;

            fill_tile<DIM, SUB>(to, k + k_at + next * k_stride, k_stride, keys - next);
            fill_tile<DIM, SUB>(to + tile_bytes, v + k_at + next * k_stride, k_stride, keys - next);
            copy_async_commit();
        }
        if (key > query + 31) /* none of the warp's queries sees them */
            continue;
        scores<DIM, 2, SUB / 8>(s, shared, lane_at<DIM>(warp_row), tile, lane_at_b<DIM>(0));
        if (key + SUB - 1 > query)
            hide_keys<2, SUB / 8>(s, query, key);
        scores<DIM, 2, SUB / 8>(dp, douts, lane_at<DIM>(warp_row), tile + tile_bytes, lane_at_b<DIM>(0));
#pragma unroll
        for (int i = 0; i < SUB; i++) {
            int m = i / (SUB / 2), j = i / 4 % (SUB / 8), r = m * 2 + i % 4 / 2;
            float p = fast_exp2(s[m][j][i % 4] * (scale * LOG2_E) - row_lse2[r]);

            dp[m][j][i % 4] = p * (dp[m][j][i % 4] - row_delta[r]);
        }
        round_scores<2, SUB / 8>(rounded, dp);
        add_product<DIM, 2, SUB / 8>(sum, rounded, tile, lane_at<DIM>(0));
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
        if (query + row_of(r / 2, r % 2) < n)
            store_row<DIM>(dq + q_at + (warp_row + row_of(r / 2, r % 2)) * q_stride, sum[r / 2], r % 2,
                           scale);
}

/* dk, dv[count] of the splits' sums, in order. count is a multiple of 4. */
DEVICE void sum_partials(bf16 *dk, bf16 *dv, const float *partial, uint64_t count, uint32_t splits)
{
    uint64_t at = 4 * thread_of_grid();

    for (; at < 2 * count; at += 4 * threads_of_grid()) {
        bool second = at >= count;
        uint64_t i = second ? at - count : at;
        const float *from = partial + (second ? splits * count : 0) + i;
        float sum[4] = {0, 0, 0, 0}, x[4];

        for (uint32_t s = 0; s < splits; s++) {
            load4(x, from + s * count);
            for (int j = 0; j < 4; j++)
                sum[j] += x[j];
        }
        store4((second ? dv : dk) + i, sum);
    }
}

#endif
