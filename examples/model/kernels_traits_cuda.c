/* Launches of the CUDA kernels of kernels_traits.cuh. See kernels_cuda.h; grids are functions of the shapes alone. */
#include "examples/model/kernels_cuda_inline.h"

#define THREADS 256

static struct llama_launch elements(const char *name, enum ofl_dtype dtype, uint64_t n)
{
    return (struct llama_launch){name, dtype, {llama_cuda_grid((n + THREADS - 1) / THREADS)}, THREADS, 0};
}

void llama_cuda_geglu(struct llama_cuda *c, bool exact, void *act, const void *gate, const void *up,
                      enum ofl_dtype dtype, size_t n)
{
    struct llama_launch launch = elements("geglu", dtype, n);
    uint32_t exact_arg = exact;
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&act, &gate, &up, &n_arg, &exact_arg});
}

void llama_cuda_geglu_backward(struct llama_cuda *c, bool exact, void *gate, void *up, void *act,
                               enum ofl_dtype dtype, size_t n)
{
    struct llama_launch launch = elements("geglu_backward", dtype, n);
    uint32_t exact_arg = exact;
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&gate, &up, &act, &n_arg, &exact_arg});
}

void llama_cuda_bias(struct llama_cuda *c, void *y, enum ofl_dtype dtype, struct llama_weight bias,
                     size_t rows, size_t out)
{
    struct llama_launch launch = elements("bias", dtype, rows * out);
    uint32_t bias_dtype = bias.dtype, out_arg = (uint32_t)out;
    uint64_t rows_arg = rows;

    llama_cuda_launch(c, &launch, (void *[]){&y, &bias.data, &bias_dtype, &rows_arg, &out_arg});
}

void llama_cuda_bias_backward(struct llama_cuda *c, float *db, const void *dy, enum ofl_dtype dtype,
                              size_t rows, size_t out, bool first)
{
    struct llama_launch launch = {"bias_sum",
                                  dtype,
                                  {(unsigned)((out + LLAMA_CUDA_WARP - 1) / LLAMA_CUDA_WARP)},
                                  LLAMA_CUDA_WARP * LLAMA_CUDA_WARP,
                                  0};
    uint32_t out_arg = (uint32_t)out, first_arg = first;
    uint64_t rows_arg = rows;

    llama_cuda_launch(c, &launch, (void *[]){&db, &dy, &rows_arg, &out_arg, &first_arg});
}

void llama_cuda_widen(struct llama_cuda *c, float *dst, const void *src, enum ofl_dtype dtype, size_t n,
                      float offset)
{
    struct llama_launch launch = elements("widen", dtype, n);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&dst, &src, &n_arg, &offset});
}

void llama_cuda_scale(struct llama_cuda *c, void *x, enum ofl_dtype dtype, float by, size_t n)
{
    struct llama_launch launch = elements("scale", dtype, n);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&x, &by, &n_arg});
}

void llama_cuda_add_scaled(struct llama_cuda *c, float *y, const float *x, float by, size_t n)
{
    struct llama_launch launch = elements("add_scaled", OFL_F32, n);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&y, &x, &by, &n_arg});
}

void llama_cuda_cap(struct llama_cuda *c, float *x, float cap, size_t n)
{
    struct llama_launch launch = elements("cap", OFL_F32, n);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&x, &cap, &n_arg});
}

void llama_cuda_cap_backward(struct llama_cuda *c, void *d, enum ofl_dtype dtype, const float *capped,
                             float cap, size_t n)
{
    struct llama_launch launch = elements("cap_backward", dtype, n);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&d, &capped, &cap, &n_arg});
}

void llama_cuda_rope_part(struct llama_cuda *c, void *x, enum ofl_dtype dtype, size_t batch, size_t seq,
                          size_t heads, size_t head_dim, size_t dims, const float *table, size_t first,
                          bool backward)
{
    uint64_t rows = batch * seq, seq_arg = seq;
    uint32_t heads_arg = (uint32_t)heads, dim = (uint32_t)head_dim, half = (uint32_t)(dims / 2);
    const float *cosines = table + first * dims;
    float sign = backward ? -1 : 1;
    struct llama_launch launch = {"rope_part", dtype, {llama_cuda_grid(rows)}, THREADS, 0};

    llama_cuda_launch(c, &launch, (void *[]){&x, &cosines, &rows, &seq_arg, &heads_arg, &dim, &half, &sign});
}
