/*
 * update.cu: update_loops.h's arithmetic on the GPU, to the same bits, and the norm. Only what is here
 * runs there: launched by optimizer_cuda.c. Compiled with -fmad=false -prec-div=true
 * -prec-sqrt=true -ftz=false, and for tests on the CPU (tests/cuda_emulate.h).
 */
#include "liboffload/optim/update_math.h"

#define KERNEL extern "C" __global__ void

#define WARP     32u
#define ALL_LANE 0xffffffffu
/* Gradients whose sums the norm has at hand at once. */
#define NORM_BATCH 512u

/* Folds a warp's values; the first lane gets the sum. */
static __device__ __forceinline__ double fold_warp(double x)
{
    for (unsigned offset = WARP / 2; offset; offset /= 2)
        x += __shfl_down_sync(ALL_LANE, x, offset);
    return x;
}

/* Block i of OPTIM_LANES threads: part i of x, of so many elements each, into sums[i]. */
KERNEL optim_sum_kernel(const float *x, uint64_t n, uint64_t each, double *sums)
{
    __shared__ double lanes[OPTIM_LANES];
    uint64_t first = blockIdx.x * each, end = n - first < each ? n : first + each;
    double sum = 0;

    for (uint64_t i = first + threadIdx.x; i < end; i += OPTIM_LANES)
        sum += (double)x[i] * (double)x[i];
    lanes[threadIdx.x] = sum;
    for (unsigned half = OPTIM_LANES / 2; half >= WARP; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            lanes[threadIdx.x] += lanes[threadIdx.x + half];
    }
    if (threadIdx.x >= WARP)
        return;
    sum = fold_warp(lanes[threadIdx.x]);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

/* One block, of whole warps: the norm of `count` gradients, whose sums are added up in this
 * order, and the scale of clip, unless that is 0. */
KERNEL optim_norm_kernel(const struct optim_parts *parts, uint64_t count, double clip, uint32_t skip_overflow,
                         struct optim_norm *out)
{
    __shared__ double sums[NORM_BATCH];
    unsigned lane = threadIdx.x % WARP;
    double total = 0;

    for (uint64_t first = 0; first < count; first += NORM_BATCH) {
        uint64_t some = count - first < NORM_BATCH ? count - first : NORM_BATCH;

        for (uint64_t i = threadIdx.x / WARP; i < some; i += blockDim.x / WARP) {
            struct optim_parts p = parts[first + i];
            double sum = 0;

            for (uint64_t k = lane; k < p.count; k += WARP)
                sum += p.sums[k];
            sum = fold_warp(sum);
            if (lane == 0)
                sums[i] = sum;
        }
        __syncthreads();
        for (uint64_t i = 0; i < some && threadIdx.x == 0; i++)
            total += sums[i];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        optim_norm_set(out, total, clip, skip_overflow);
}

/* optim_update() on n elements. norm: has the gradient's scale; NULL: 1. w16: NULL for an F32 weight. */
template <enum ofl_method METHOD>
static __device__ __forceinline__ void update(const struct optim_coef *coef, const struct optim_norm *norm,
                                              float *__restrict__ p, float *__restrict__ m,
                                              float *__restrict__ v, const float *__restrict__ g,
                                              uint16_t *__restrict__ w16, uint64_t n)
{
    __shared__ float scale; /* read once per block: they lie in the host's memory */
    __shared__ uint32_t skip;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    if (threadIdx.x == 0) {
        scale = norm ? norm->scale : 1.0f;
        skip = norm ? norm->skip : 0;
    }
    __syncthreads();
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n && !skip; i += step) {
        float mean = m[i], square = v ? v[i] : 0;
        float weight = optim_element(METHOD, coef, g[i] * scale, p[i], &mean, &square);

        m[i] = mean;
        if (v)
            v[i] = square;
        p[i] = weight;
        if (w16)
            w16[i] = optim_bf16(__float_as_uint(weight));
    }
}

#define UPDATE_KERNEL(name, method)                                                                          \
    KERNEL name(struct optim_coef coef, const struct optim_norm *norm, float *p, float *m, float *v,         \
                const float *g, uint16_t *w16, uint64_t n)                                                   \
    {                                                                                                        \
        update<method>(&coef, norm, p, m, v, g, w16, n);                                                     \
    }

UPDATE_KERNEL(optim_adamw_kernel, OFL_ADAMW)
UPDATE_KERNEL(optim_adam_kernel, OFL_ADAM)
UPDATE_KERNEL(optim_sgd_kernel, OFL_SGD)
UPDATE_KERNEL(optim_lion_kernel, OFL_LION)
