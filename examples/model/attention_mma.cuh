/*
 * Attention on the tensor cores, in bf16 with f32 sums, for head_dim 64 and 128: FlashAttention-2 (Dao,
 * 2023). Part of attention.cu: what both directions share, and forward. Backward: attention_mma_backward.cuh.
 *
 * Forward: a block has 128 queries of one head, a warp 32 of them; tiles of keys and values stream through
 * shared memory. 32 rows to a warp where registers allow: half as many bytes of shared memory per product
 * as 16, and these are what limits it.
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
template <int DIM, int ROWS, int THREADS>
DEVICE void fill_tile(unsigned char *tile, const bf16 *src, size_t stride, uint32_t valid)
{
    const unsigned pieces = DIM / 8, at_once = THREADS / pieces;
    unsigned piece = threadIdx.x % pieces, row = threadIdx.x / pieces;
    const bf16 *from = src + row * stride + piece * 8;
    unsigned char *to = tile + tile_at<DIM>(row, piece);

    static_assert(at_once % 8 == 0, "a thread's rows lie the same way round");
    static_assert(ROWS % at_once == 0, "threads have as many rows each");
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

/* s[M * 16, N * 8] += a[M * 16 rows, 16 numbers] * b[N * 8 rows, 16 numbers]^T, a loaded, b of a tile. */
template <int DIM, int M, int N>
DEVICE void add_scores(float s[M][N][4], const uint32_t a[M][4], const unsigned char *b_tile, unsigned b_at)
{
#pragma unroll
    for (int j = 0; j < N; j += 2) {
        uint32_t b[4];

        load_matrices(b, b_tile + b_at + j * 8 * DIM * 2);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_bf16(s[m][j], a[m], b);
            mma_bf16(s[m][j + 1], a[m], b + 2);
        }
    }
}

template <int M, int N> DEVICE void zero(float acc[M][N][4])
{
#pragma unroll
    for (int i = 0; i < M * N * 4; i++)
        acc[i / (N * 4)][i / 4 % N][i % 4] = 0;
}

/* s[M * 16, N * 8] = a[M * 16 rows, DIM] * b[N * 8 rows, DIM]^T, of tiles, by lane_at and lane_at_b. */
template <int DIM, int M, int N>
DEVICE void scores(float s[M][N][4], const unsigned char *a_tile, unsigned a_at, const unsigned char *b_tile,
                   unsigned b_at)
{
    zero<M, N>(s);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t a[M][4];

#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(a[m], a_tile + (a_at ^ k * 32) + m * 16 * DIM * 2);
        add_scores<DIM, M, N>(s, a, b_tile, b_at ^ k * 32);
    }
}

/* M * 16 rows of a tile, which a warp keeps in registers: read once, where it would be for every product. */
template <int DIM, int M> struct kept {
    uint32_t a[DIM / 16][M][4];
};

template <int DIM, int M> DEVICE void keep(struct kept<DIM, M> &rows, const unsigned char *tile, unsigned at)
{
#pragma unroll
    for (int i = 0; i < DIM / 16 * M; i++)
        load_matrices(rows.a[i / M][i % M], tile + (at ^ i / M * 32) + i % M * 16 * DIM * 2);
}

/* The same scores, of rows that are kept. */
template <int DIM, int M, int N>
DEVICE void scores(float s[M][N][4], const struct kept<DIM, M> &rows, const unsigned char *b_tile,
                   unsigned b_at)
{
    zero<M, N>(s);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
        add_scores<DIM, M, N>(s, rows.a[k], b_tile, b_at ^ k * 32);
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
    fill_tile<DIM, MMA_QUERIES, MMA_THREADS>(shared, q + q_at, q_stride, rows);
    fill_tile<DIM, MMA_KEYS, MMA_THREADS>(ring, k + k_at, k_stride, keys);
    copy_async_commit();
    fill_tile<DIM, MMA_KEYS, MMA_THREADS>(ring + tile_bytes, v + k_at, k_stride, keys);
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
                fill_tile<DIM, MMA_KEYS, MMA_THREADS>(
                    ring + after, (half == 0 ? k : v) + k_at + next * k_stride, k_stride, keys - next);
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

#endif
