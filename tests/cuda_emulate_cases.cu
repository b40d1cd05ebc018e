/* Kernels that test the emulation: see test_cuda_emulate.c. Part of the stub driver only. */
#include "examples/model/cuda_kernel.cuh"

/* ---- right ones ----------------------------------------------------------- */

/* out[block] = sum of in[block, n] */
KERNEL case_sum(float *out, const float *in, int n)
{
    KERNEL_SHARED(float, scratch);
    float sum = 0.0f;

    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        sum += in[(int)blockIdx.x * n + i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

/* Where a thread stands, by three dimensions: out[its number] = its number. */
KERNEL case_index(uint32_t *out)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned number = block * blockDim.x * blockDim.y * blockDim.z + thread;

    out[number] = number;
}

/* out[8, threads]: what each meeting of a warp gives. */
KERNEL case_warp(uint64_t *out)
{
    unsigned lane = threadIdx.x % WARP, n = blockDim.x;
    uint64_t wide = 0x100000000u * lane + 7;
    uint64_t *own = out + threadIdx.x;

    own[0] = __shfl_sync(ALL_LANE, wide, (lane * 5 + 3) % 32);
    own[n] = __shfl_xor_sync(ALL_LANE, threadIdx.x, 9);
    own[2 * n] = __shfl_down_sync(ALL_LANE, threadIdx.x, 3);
    own[3 * n] = __shfl_up_sync(ALL_LANE, threadIdx.x, 4, 8);
    own[4 * n] = __ballot_sync(ALL_LANE, lane % 3 == 0);
    own[5 * n] = (uint64_t)__any_sync(ALL_LANE, threadIdx.x == 33);
    own[6 * n] = (uint64_t)__shfl_sync(ALL_LANE, (double)lane, 2, 8);
    if (lane % 2)
        own[7 * n] = __shfl_xor_sync(0xaaaaaaaau, lane, 2);
    else
        own[7 * n] = __shfl_xor_sync(0x55555555u, lane, 4);
}

/* d[16, 8] = a[16, 16] * b[16, 8], fragments by ldmatrix or by hand. */
KERNEL case_mma(float *d, const uint16_t *a, const uint16_t *b, int by_hand)
{
    __shared__ __align__(16) uint16_t rows[16 * 16 + 16 * 8];
    unsigned lane = threadIdx.x, group = lane / 4, pair = lane % 4 * 2;
    uint32_t fa[4], fb[4];
    float sum[4] = {1.0f, 2.0f, 3.0f, 4.0f};

    for (unsigned i = lane; i < 256; i += WARP)
        rows[i] = a[i];
    for (unsigned i = lane; i < 128; i += WARP)
        rows[256 + i] = b[i];
    __syncthreads();
    if (by_hand) {
        for (unsigned i = 0; i < 4; i++) {
            const uint16_t *at = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;

            fa[i] = at[0] | (uint32_t)at[1] << 16;
        }
        for (unsigned i = 0; i < 2; i++) {
            const uint16_t *at = b + (pair + i * 8) * 8 + group;

            fb[i] = at[0] | (uint32_t)at[8] << 16;
        }
    } else {
        load_matrices(fa, rows + (lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8);
        load_matrices_transposed(fb, rows + 256 + lane % 16 * 8);
    }
    mma_bf16(sum, fa, fb);
    for (unsigned i = 0; i < 4; i++)
        d[(group + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
}

/* out[tiles, threads * 4] = in, through two buffers that are filled ahead; what is at and after `end`
 * reads as zeros. wait_for: 1 is right, 2 too few. */
DEVICE void copy_tiles(float *out, const float *in, unsigned tiles, unsigned end, bool wait)
{
    KERNEL_SHARED(float, buffer);
    unsigned tile_elems = blockDim.x * 4, other = (threadIdx.x + 1) % blockDim.x;

    copy_async(buffer + threadIdx.x * 4, in + threadIdx.x * 4, threadIdx.x * 4 < end);
    copy_async_commit();
    for (unsigned tile = 0; tile < tiles; tile++) {
        unsigned next = (tile + 1) * tile_elems + threadIdx.x * 4;

        if (tile + 1 < tiles)
            copy_async(buffer + (tile + 1) % 2 * tile_elems + threadIdx.x * 4, next < end ? in + next : in,
                       next < end);
        copy_async_commit();
        if (wait)
            copy_async_wait<1>();
        __syncthreads();
        for (unsigned i = 0; i < 4; i++)
            out[tile * tile_elems + other * 4 + i] = buffer[tile % 2 * tile_elems + other * 4 + i];
        __syncthreads();
    }
}

KERNEL case_copy(float *out, const float *in, unsigned tiles, unsigned end)
{
    copy_tiles(out, in, tiles, end, true);
}

/* x[i] = x[i] * by + plus: two of them in the wrong order show. */
KERNEL case_scale(float *x, unsigned n, float by, double plus)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        x[i] = (float)(x[i] * by + plus);
}

/* As kernels come that are made by a macro, with bounds of the launch. */
#define CASE_FILL(suffix, type)                                                                              \
    KERNEL __launch_bounds__(256) case_fill_##suffix(type *x, type value)                                    \
    {                                                                                                        \
        x[threadIdx.x] = value;                                                                              \
    }
CASE_FILL(f32, float)
CASE_FILL(u64, uint64_t)

/* In which order the threads go on after a meeting: out[0] counts, zeroed before. */
KERNEL case_order(unsigned *out)
{
    __syncwarp();
    out[++out[0]] = threadIdx.x;
}

/* ---- wrong ones ----------------------------------------------------------- */

/* As case_copy, but waits for nothing. */
KERNEL case_copy_no_wait(float *out, const float *in, unsigned tiles, unsigned end)
{
    copy_tiles(out, in, tiles, end, false);
}

/* What a copy's end holds before the wait, out[0], and after it. */
KERNEL case_copy_peek(float *out, const float *in)
{
    KERNEL_SHARED(float, buffer);

    buffer[0] = 5.0f;
    copy_async(buffer, in, true);
    copy_async_commit();
    out[0] = buffer[0];
    copy_async_wait<0>();
    out[1] = buffer[0];
}

/* out = in reversed; right with a barrier. */
KERNEL case_reverse(float *out, const float *in, int barrier)
{
    KERNEL_SHARED(float, all);

    all[threadIdx.x] = in[threadIdx.x];
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
}

/* As block_sum, without the barrier after the sums are read: the next use overwrites them. */
KERNEL case_sum_twice(float *out, const float *in, int barrier)
{
    __shared__ float scratch[WARP];
    float total = 0.0f;

    for (int round = 0; round < 4; round++) {
        float sum = warp_sum(in[threadIdx.x] * (float)(round + 1));

        if (threadIdx.x % WARP == 0)
            scratch[threadIdx.x / WARP] = sum;
        __syncthreads();
        for (unsigned i = 0; i < blockDim.x / WARP; i++)
            total += scratch[i];
        if (barrier)
            __syncthreads();
    }
    out[threadIdx.x] = total;
}

KERNEL case_half_barrier(void)
{
    if (threadIdx.x < 40)
        __syncthreads();
}

KERNEL case_two_barriers(void)
{
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncthreads();
}

KERNEL case_early_return(float *out)
{
    if (threadIdx.x == 5)
        return;
    out[threadIdx.x] = warp_sum(1.0f);
}

KERNEL case_barrier_or_shuffle(float *out)
{
    if (threadIdx.x < 16)
        __syncthreads();
    else
        out[threadIdx.x] = warp_sum(1.0f);
}

KERNEL case_foreign_mask(float *out)
{
    out[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? 0xffffu : 0xffffu, 1.0f, 0);
}

KERNEL case_foreign_lane(float *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 16);
}

KERNEL case_trap(void)
{
    if (blockIdx.x == 1 && threadIdx.x == 2)
        __trap();
}

KERNEL case_unaligned_copy(const float *in)
{
    KERNEL_SHARED(float, buffer);

    copy_async(buffer + 2, in, true);
    copy_async_wait<0>();
}

KERNEL case_copy_to_global(float *out, const float *in)
{
    copy_async(out, in, true);
    copy_async_wait<0>();
}

KERNEL case_matrices_beyond(uint32_t *out)
{
    KERNEL_SHARED(uint16_t, rows);

    load_matrices(out, rows + threadIdx.x * 8);
}

/* Writes the byte at `at` of shared memory. */
KERNEL case_beyond(int at)
{
    KERNEL_SHARED(unsigned char, all);

    if (threadIdx.x == 0)
        all[at] = 1;
}

/* What shared memory holds when a block begins: out[2]. */
KERNEL case_garbage(float *out)
{
    KERNEL_SHARED(float, dynamic);
    __shared__ float fixed[WARP];

    if (threadIdx.x)
        return;
    out[blockIdx.x * 2] = dynamic[3];
    out[blockIdx.x * 2 + 1] = fixed[3];
    dynamic[3] = fixed[3] = 1.0f;
}
