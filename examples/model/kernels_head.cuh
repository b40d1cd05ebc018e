/*
 * The CUDA kernels of the loss: cross-entropy of rows of logits, with its gradient. A part of kernels.cu;
 * head_cuda.c launches them.
 */
#ifndef LLAMA_KERNELS_HEAD_CUH
#define LLAMA_KERNELS_HEAD_CUH

#include "examples/model/cuda_rows.cuh"

#define LOSS_QUADS 4 /* of logits that a thread has in flight */

/* A running maximum, and the sum of exponentials less it. */
struct softmax {
    float max, sum;
};

/* Takes LOSS_QUADS quads of numbers in. */
DEVICE void softmax_add(softmax &s, const float v[LOSS_QUADS][4])
{
    float max = s.max;

#pragma unroll
    for (unsigned q = 0; q < LOSS_QUADS; q++)
        max = fmaxf(max, fmaxf(fmaxf(v[q][0], v[q][1]), fmaxf(v[q][2], v[q][3])));
    s.sum *= expf(s.max - max);
    s.max = max;
#pragma unroll
    for (unsigned q = 0; q < LOSS_QUADS; q++)
#pragma unroll
        for (unsigned k = 0; k < 4; k++)
            s.sum += expf(v[q][k] - max);
}

/* Of a row, by the whole block. Starts from the lowest finite number: -infinity less it is no NaN. */
DEVICE softmax softmax_of(const float *row, uint32_t vocab, uint32_t wide, float *scratch)
{
    softmax s = {-3.402823466e38f, 0};
    const uint32_t step = blockDim.x * 4;
    float max;

    for (uint32_t from = threadIdx.x * 4; from < vocab; from += LOSS_QUADS * step) {
        float v[LOSS_QUADS][4];

#pragma unroll
        for (unsigned q = 0; q < LOSS_QUADS; q++)
            row_load(v[q], row, from + q * step, vocab, wide, -INFINITY);
        softmax_add(s, v);
    }
    max = block_max(s.max, scratch);
    s.sum = block_sum(s.sum * expf(s.max - max), scratch);
    s.max = max;
    return s;
}

/* grad = factor * exp(logit - max), less scale at the target. From the row's end, which was read last and
 * may still be in a cache. grad may be row. */
template <class T>
DEVICE void softmax_gradient(T *grad, const float *row, uint32_t vocab, uint32_t target, softmax s,
                             float scale, uint32_t wide)
{
    const uint32_t step = blockDim.x * 4, batch = LOSS_QUADS * step;
    const float factor = (float)((double)scale / (double)s.sum);

    for (uint32_t c = (vocab + batch - 1) / batch; c-- > 0;) {
        const uint32_t from = c * batch + threadIdx.x * 4;
        float v[LOSS_QUADS][4];

#pragma unroll
        for (unsigned q = 0; q < LOSS_QUADS; q++)
            row_load(v[q], row, from + q * step, vocab, wide);
#pragma unroll
        for (unsigned q = 0; q < LOSS_QUADS; q++) {
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                v[q][k] = expf(v[q][k] - s.max) * factor;
                if (from + q * step + k == target)
                    v[q][k] -= scale;
            }
            row_store(grad, v[q], from + q * step, vocab, wide);
        }
    }
}

/*
 * A block per row: losses[r] = -log softmax(row)[target], or 0 where the target is negative; grad, if not
 * NULL, the gradient of scale * loss. Bytes per number: 4, with grad 8 and those of T, less what the
 * second read finds in a cache.
 */
template <class T>
DEVICE void cross_entropy(T *grad, double *losses, const float *logits, const int32_t *targets, uint64_t rows,
                          uint32_t vocab, float scale, uint32_t wide, float *scratch)
{
    for (uint64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        const float *row = logits + r * vocab;
        int32_t target = targets[r];
        const float zeros[4] = {0, 0, 0, 0};
        float at_target;
        softmax s;

        if (target < 0) {
            for (uint32_t at = threadIdx.x * 4; grad && at < vocab; at += blockDim.x * 4)
                row_store(grad + r * vocab, zeros, at, vocab, wide);
            if (threadIdx.x == 0)
                losses[r] = 0;
            continue;
        }
        at_target = row[target]; /* read by all before any writes */
        s = softmax_of(row, vocab, wide, scratch);
        if (threadIdx.x == 0)
            losses[r] = log((double)s.sum) + (double)s.max - (double)at_target;
        if (grad)
            softmax_gradient(grad + r * vocab, row, vocab, (uint32_t)target, s, scale, wide);
    }
}

#define X(T, suffix)                                                                                         \
    KERNEL __launch_bounds__(1024)                                                                           \
        cross_entropy_##suffix(T *grad, double *losses, const float *logits, const int32_t *targets,         \
                               uint64_t rows, uint32_t vocab, float scale, uint32_t wide)                    \
    {                                                                                                        \
        __shared__ float scratch[WARP];                                                                      \
                                                                                                             \
        cross_entropy(grad, losses, logits, targets, rows, vocab, scale, wide, scratch);                     \
    }
ACTIVATIONS(X)
#undef X

/* *loss = the sum of losses[n], by one block of LOSS_THREADS. */
#define LOSS_THREADS 256

KERNEL loss_sum_f32(double *loss, const double *losses, uint64_t n)
{
    __shared__ double sums[LOSS_THREADS];
    double sum = 0;

    for (uint64_t i = threadIdx.x; i < n; i += LOSS_THREADS)
        sum += losses[i];
    sums[threadIdx.x] = sum;
    for (unsigned width = LOSS_THREADS / 2; width; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width)
            sums[threadIdx.x] += sums[threadIdx.x + width];
    }
    if (threadIdx.x == 0)
        *loss = sums[0];
}

#endif
