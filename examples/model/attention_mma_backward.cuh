/*
 * Backward of attention on the tensor cores. Part of attention.cu.
 *
 * The gradient of keys and values: a block has 64 or 128 keys of one kv head, and the queries of its group that
 * see them stream. There the scores are made transposed, keys by queries, so that what a warp gets from one
 * product is, rounded and in place, what it puts into the next: no probability passes through memory. The
 * gradient of queries: a block has 128 of one head, and keys and values stream. Each half makes the scores
 * again: two products more than if the first left its part of dq to the other, but no sum whose order
 * depends on luck.
 *
 * What a block's own rows are is read from shared memory once and kept in registers where there is room:
 * then only what streams takes shared memory, little enough for two blocks, or one of twice the warps, to a
 * processor of any GPU (docs/gpu-resources.md). Every sum takes 16 rows at a time, in order, so tiles of
 * any multiple give the same bits.
 */
#ifndef LLAMA_ATTENTION_MMA_BACKWARD_CUH
#define LLAMA_ATTENTION_MMA_BACKWARD_CUH

#include "examples/model/attention_mma.cuh"

/* ---- keys and values --------------------------------------------------------- */

/* s, scores of keys by queries, becomes p; dp becomes ds = p * (dp - delta). stats: lse2 and delta of the
 * tile's queries, [2][ROWS], from the first of these on. */
template <int M, int N, int ROWS>
DEVICE void softmax_backward_keys(float s[M][N][4], float dp[M][N][4], const float *stats, float scale)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        float2 lse2 = *reinterpret_cast<const float2 *>(stats + j * 8 + column_of());
        float2 delta = *reinterpret_cast<const float2 *>(stats + ROWS + j * 8 + column_of());

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

/* Bytes of ROWS queries, their dout, lse2 and delta. */
template <int DIM, int ROWS> constexpr DEVICE uint32_t queries_bytes()
{
    return 2 * ROWS * DIM * 2 + 2 * ROWS * 4;
}

template <int DIM, int ROWS> DEVICE void fill_queries(unsigned char *stage, const struct query_walk *w)
{
    size_t stride = (size_t)w->heads * DIM, at = w->row * stride + (size_t)w->head * DIM;
    size_t stats = (size_t)w->head * w->padded + w->row;
    unsigned pieces = ROWS / 4, piece = threadIdx.x % pieces * 4;

    fill_tile<DIM, ROWS, MMA_THREADS>(stage, w->q + at, stride, w->n - w->row);
    fill_tile<DIM, ROWS, MMA_THREADS>(stage + ROWS * DIM * 2, w->dout + at, stride, w->n - w->row);
    stage += 2 * ROWS * DIM * 2;
    if (threadIdx.x < 2 * pieces)
        copy_async(stage + threadIdx.x * 16, (threadIdx.x < pieces ? w->lse2 : w->delta) + stats + piece,
                   true);
    copy_async_commit();
}

template <int ROWS> DEVICE void next_queries(struct query_walk *w)
{
    w->row += ROWS;
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

/* Keys and values of a warp: in a tile, or kept. */
template <int DIM, int M, bool KEPT> struct key_rows {
    const unsigned char *tile;
    unsigned at;

    DEVICE_MEMBER void from(const unsigned char *rows, unsigned lane)
    {
        tile = rows;
        at = lane;
    }

    template <int N>
    DEVICE_MEMBER void scores_of(float s[M][N][4], const unsigned char *b_tile, unsigned b_at)
    {
        scores<DIM, M, N>(s, tile, at, b_tile, b_at);
    }
};

template <int DIM, int M> struct key_rows<DIM, M, true> {
    struct kept<DIM, M> rows;

    DEVICE_MEMBER void from(const unsigned char *tile, unsigned lane)
    {
        keep<DIM, M>(rows, tile, lane);
    }

    template <int N>
    DEVICE_MEMBER void scores_of(float s[M][N][4], const unsigned char *b_tile, unsigned b_at)
    {
        scores<DIM, M, N>(s, rows, b_tile, b_at);
    }
};

/*
 * dk and dv of a block's 64 * M keys. A warp has M * 16 of them, and takes SUB queries of a tile of ROWS at a time.
 * Grid: (kv_heads * splits, tiles of keys, batch), the longest first. Where that is too few blocks for a
 * GPU, the heads of a group are split, and their sums put into partial[2, splits, batch * n, kv_heads *
 * DIM], dk first; sum_partials adds them up.
 * Shared memory: keys, values, two stages of queries, dout, lse2 and delta.
 */
template <int DIM, int M, int ROWS, int SUB, bool KEPT>
DEVICE void backward_keys_mma(unsigned char *shared, KEYS_PARAMS(bf16))
{
    const uint32_t block_keys = 64 * M, stage_bytes = queries_bytes<DIM, ROWS>();
    unsigned char *values = shared + block_keys * DIM * 2,
                  *stages = KEPT ? shared : values + block_keys * DIM * 2;
    uint32_t key0 = blockIdx.y * block_keys, warp_key = threadIdx.x / WARP * 16 * M, key = key0 + warp_key;
    uint32_t kv_head = blockIdx.x / splits, split = blockIdx.x % splits;
    uint32_t count = heads / kv_heads / splits, head0 = kv_head * (heads / kv_heads) + split * count;
    size_t stride = (size_t)kv_heads * DIM, k_at = ((size_t)blockIdx.z * n + key0) * stride + kv_head * DIM;
    size_t q_at = (size_t)blockIdx.z * n * heads * DIM, stats_at = (size_t)blockIdx.z * heads * padded;
    struct query_walk now = {q + q_at, dout + q_at, lse2 + stats_at, delta + stats_at, heads, n, padded, key0,
                             head0,    key0};
    struct query_walk next = now;
    float dk_sum[M][DIM / 8][4], dv_sum[M][DIM / 8][4];
    struct key_rows<DIM, M, KEPT> own_keys, own_values;
    unsigned stage = 0;

    (void)dim;
    zero<M, DIM / 8>(dk_sum);
    zero<M, DIM / 8>(dv_sum);
    fill_tile<DIM, 64 * M, MMA_THREADS>(shared, k + k_at, stride, n - key0);
    fill_tile<DIM, 64 * M, MMA_THREADS>(values, v + k_at, stride, n - key0);
    if (KEPT) {
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
    }
    own_keys.from(shared, lane_at<DIM>(warp_key));
    own_values.from(values, lane_at<DIM>(warp_key));
    if (KEPT)
        __syncthreads(); /* the stages take their place */
    fill_queries<DIM, ROWS>(stages, &next);
    for (; now.head < head0 + count; next_queries<ROWS>(&now)) {
        unsigned char *queries = stages + stage * stage_bytes, *douts = queries + ROWS * DIM * 2;

        next_queries<ROWS>(&next);
        copy_async_wait<0>();
        __syncthreads();
        stage ^= 1;
        if (next.head < head0 + count)
            fill_queries<DIM, ROWS>(stages + stage * stage_bytes, &next);
#pragma unroll 1
        for (uint32_t sub = 0; sub < ROWS; sub += SUB) {
            const float *stats = reinterpret_cast<const float *>(douts + ROWS * DIM * 2);
            float s[M][SUB / 8][4], dp[M][SUB / 8][4];
            uint32_t rounded[M][SUB / 16][4], query = now.row + sub;

            if (query + SUB - 1 < key) /* none of them sees the warp's keys */
                continue;
            own_keys.template scores_of<SUB / 8>(s, queries, lane_at_b<DIM>(sub));
            if (query < key + 16 * M - 1) {
#pragma unroll
                for (int i = 0; i < M * SUB / 2; i++)
                    if (key + row_of(i / (SUB / 2), i % 4 / 2) >
                        query + i / 4 % (SUB / 8) * 8 + column_of() + i % 2)
                        s[i / (SUB / 2)][i / 4 % (SUB / 8)][i % 4] = -INFINITY;
            }
            own_values.template scores_of<SUB / 8>(dp, douts, lane_at_b<DIM>(sub));
            softmax_backward_keys<M, SUB / 8, ROWS>(s, dp, stats + sub, scale * LOG2_E);
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

/* ---- queries ---------------------------------------------------------------- */

/* dq of a block's 128 queries, of which a warp has M * 16 and keeps them and their dout. Keys stream in tiles of
 * ROWS, and are taken SUB at a time. Grid: (heads, tiles of queries, batch), the longest first. Shared memory: queries and dout,
 * and in their place two stages of keys and values. */
template <int DIM, int M, int ROWS, int SUB>
DEVICE void backward_queries_mma(unsigned char *shared, QUERIES_PARAMS(bf16))
{
    const int threads = (int)MMA_QUERIES / (16 * M) * (int)WARP;
    const uint32_t tile_bytes = ROWS * DIM * 2;
    uint32_t row0 = (gridDim.y - 1 - blockIdx.y) * MMA_QUERIES, warp_row = threadIdx.x / WARP * 16 * M;
    uint32_t rows = min(n - row0, MMA_QUERIES), keys = row0 + rows, query = row0 + warp_row;
    size_t q_stride = (size_t)heads * DIM, k_stride = (size_t)kv_heads * DIM;
    size_t q_at = ((size_t)blockIdx.z * n + row0) * q_stride + (size_t)blockIdx.x * DIM;
    size_t k_at = (size_t)blockIdx.z * n * k_stride + (size_t)(blockIdx.x / (heads / kv_heads)) * DIM;
    size_t stats = ((size_t)blockIdx.z * heads + blockIdx.x) * padded + query;
    float sum[M][DIM / 8][4], row_lse2[2 * M], row_delta[2 * M];
    struct kept<DIM, M> own_queries, own_douts;
    unsigned stage = 0;

    (void)dim;
    zero<M, DIM / 8>(sum);
    fill_tile<DIM, MMA_QUERIES, threads>(shared, q + q_at, q_stride, rows);
    fill_tile<DIM, MMA_QUERIES, threads>(shared + MMA_QUERIES * DIM * 2, dout + q_at, q_stride, rows);
    copy_async_commit();
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        row_lse2[r] = lse2[stats + row_of(r / 2, r % 2)];
        row_delta[r] = delta[stats + row_of(r / 2, r % 2)];
    }
    copy_async_wait<0>();
    __syncthreads();
    keep<DIM, M>(own_queries, shared, lane_at<DIM>(warp_row));
    keep<DIM, M>(own_douts, shared + MMA_QUERIES * DIM * 2, lane_at<DIM>(warp_row));
    __syncthreads();
    fill_tile<DIM, ROWS, threads>(shared, k + k_at, k_stride, keys);
    fill_tile<DIM, ROWS, threads>(shared + tile_bytes, v + k_at, k_stride, keys);
    copy_async_commit();
    for (uint32_t tile_key = 0; tile_key < keys; tile_key += ROWS) {
        unsigned char *tile = shared + stage * 2 * tile_bytes;
        uint32_t next = tile_key + ROWS;

        copy_async_wait<0>();
        __syncthreads();
        stage ^= 1;
        if (next < keys) {
            unsigned char *to = shared + stage * 2 * tile_bytes;

            fill_tile<DIM, ROWS, threads>(to, k + k_at + next * k_stride, k_stride, keys - next);
            fill_tile<DIM, ROWS, threads>(to + tile_bytes, v + k_at + next * k_stride, k_stride, keys - next);
            copy_async_commit();
        }
#pragma unroll 1
        for (uint32_t sub = 0; sub < ROWS; sub += SUB) {
            float s[M][SUB / 8][4], dp[M][SUB / 8][4];
            uint32_t rounded[M][SUB / 16][4], key = tile_key + sub;

            if (key > query + 16 * M - 1) /* none of the warp's queries sees them */
                break;
            scores<DIM, M, SUB / 8>(s, own_queries, tile, lane_at_b<DIM>(sub));
            if (key + SUB - 1 > query)
                hide_keys<M, SUB / 8>(s, query, key);
            scores<DIM, M, SUB / 8>(dp, own_douts, tile + tile_bytes, lane_at_b<DIM>(sub));
#pragma unroll
            for (int i = 0; i < M * SUB / 2; i++) {
                int m = i / (SUB / 2), j = i / 4 % (SUB / 8), r = m * 2 + i % 4 / 2;
                float p = fast_exp2(s[m][j][i % 4] * (scale * LOG2_E) - row_lse2[r]);

                dp[m][j][i % 4] = p * (dp[m][j][i % 4] - row_delta[r]);
            }
            round_scores<M, SUB / 8>(rounded, dp);
            add_product<DIM, M, SUB / 8>(sum, rounded, tile, lane_at<DIM>(sub));
        }
    }
#pragma unroll
    for (int r = 0; r < 2 * M; r++)
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
