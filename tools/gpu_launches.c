/*
 * What the launchers of the model's kernels ask for: a line for each kernel, "name threads bytes", the most threads of a
 * block and the most dynamic shared memory of any launch, over shapes that reach every branch. For
 * tools/gpu_resources.sh. Linked with the launchers themselves; what they would put on a GPU's stream comes here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/kernels_cuda.h"

#define KERNELS 128

static struct {
    char name[64];
    unsigned threads;
    size_t shared_bytes;
} kernels[KERNELS];
static size_t count;

/* ---- in the place of cuda.c and cuda_blas.c ------------------------------- */

void llama_cuda_launch(struct llama_cuda *c, const struct llama_launch *l, void **args)
{
    char name[64];
    size_t i = 0;

    (void)c, (void)args;
    snprintf(name, sizeof name, "%s_%s", l->name,
             l->dtype == OFL_F32    ? "f32"
             : l->dtype == OFL_BF16 ? "bf16"
                                    : "f16");
    while (i < count && strcmp(kernels[i].name, name) != 0)
        i++;
    if (i == KERNELS)
        abort();
    if (i == count)
        memcpy(kernels[count++].name, name, sizeof name);
    if (l->threads > kernels[i].threads)
        kernels[i].threads = l->threads;
    if (l->shared_bytes > kernels[i].shared_bytes)
        kernels[i].shared_bytes = l->shared_bytes;
}

void llama_cuda_zero(struct llama_cuda *c, void *p, size_t bytes)
{
    (void)c, (void)p, (void)bytes;
}

void llama_cuda_matmul(struct llama_cuda *c, void *y, enum ofl_dtype y_dtype, const void *x, const void *w,
                       enum ofl_dtype dtype, size_t rows, size_t in, size_t out, size_t stride,
                       bool accumulate)
{
    (void)c, (void)y, (void)y_dtype, (void)x, (void)w, (void)dtype, (void)rows, (void)in, (void)out;
    (void)stride, (void)accumulate;
}

void llama_cuda_matmul_dx(struct llama_cuda *c, void *dx, enum ofl_dtype dx_dtype, const void *dy,
                          const void *w, enum ofl_dtype dtype, size_t rows, size_t in, size_t out,
                          bool accumulate)
{
    llama_cuda_matmul(c, dx, dx_dtype, dy, w, dtype, rows, in, out, out, accumulate);
}

void llama_cuda_matmul_dw(struct llama_cuda *c, float *dw, const void *dy, const void *x,
                          enum ofl_dtype dtype, size_t rows, size_t in, size_t out, bool first)
{
    llama_cuda_matmul(c, dw, OFL_F32, dy, x, dtype, rows, in, out, out, first);
}

/* ---- every launch --------------------------------------------------------- */

/* Addresses that nobody follows; `at` of another alignment takes other kernels. */
static void rows(enum ofl_dtype dtype, size_t hidden, char *at)
{
    struct llama_weight w = {.data = at, .dtype = dtype};
    const size_t n = 4096;
    float *f = (void *)at;

    llama_cuda_norm(NULL, at, dtype, f, w, n, hidden, 1e-5f);
    llama_cuda_norm_backward(NULL, f, f, f, f, w, n, hidden, 1e-5f, true, false, at);
    llama_cuda_swiglu(NULL, at, at, at, dtype, n * hidden);
    llama_cuda_swiglu_backward(NULL, at, at, at, dtype, n * hidden);
    llama_cuda_geglu(NULL, true, at, at, at, dtype, n * hidden);
    llama_cuda_geglu_backward(NULL, true, at, at, at, dtype, n * hidden);
    llama_cuda_bias(NULL, at, dtype, w, n, hidden);
    llama_cuda_bias_backward(NULL, f, at, dtype, n, hidden, true);
    llama_cuda_widen(NULL, f, at, dtype, n * hidden, 1);
    llama_cuda_scale(NULL, at, dtype, 2, n * hidden);
    llama_cuda_add_scaled(NULL, f, f, 2, n * hidden);
    llama_cuda_cap(NULL, f, 30, n * hidden);
    llama_cuda_cap_backward(NULL, at, dtype, f, 30, n * hidden);
    llama_cuda_narrow(NULL, at, dtype, f, n * hidden);
    llama_cuda_init_normal(NULL, at, dtype, 0, n * hidden, 1, 1);
    llama_cuda_init_value(NULL, at, dtype, n * hidden, 1);
    llama_cuda_embed(NULL, f, w, NULL, n, hidden);
    llama_cuda_embed_backward(NULL, f, f, &(struct llama_embed_plan){.distinct = n}, 128256, hidden, false);
}

static void attention(enum ofl_dtype dtype, uint32_t dim, char *at)
{
    const struct llama_shape shape = {.heads = 32, .kv_heads = 8, .head_dim = dim};
    const struct llama_shape capped = {.heads = 32, .kv_heads = 8, .head_dim = dim, .attn_cap = 50};

    llama_cuda_rope_table(NULL, (float *)at, (float *)at, 4096, dim);
    llama_cuda_rope(NULL, at, dtype, 1, 4096, shape.heads, dim, (float *)at, 0, false);
    llama_cuda_rope_part(NULL, at, dtype, 1, 4096, shape.heads, dim, dim / 2, (float *)at, 0, false);
    for (size_t n = 1; n <= 4096; n *= 4096) {
        llama_cuda_attention(NULL, at, NULL, at, at, at, dtype, &shape, 0, 1, 0, n);
        llama_cuda_attention(NULL, at, NULL, at, at, at, dtype, &capped, 0, 1, 0, n);
    }
    if (dtype != OFL_F16) /* trains in none */
        for (size_t n = 64; n <= 8192; n *= 128)
            for (int limited = 0; limited < 2; limited++)
                llama_cuda_attention_backward(NULL, at, at, at, at, at, (float *)at, at, at, at, dtype,
                                              limited ? &capped : &shape, 0, 1, n, at);
}

static void head(enum ofl_dtype dtype, char *at)
{
    const struct llama_shape shape = {.hidden = 8192, .vocab = 128256};
    const struct llama_head_weights w = {.norm = {.data = at, .dtype = dtype},
                                         .head = {.data = at, .dtype = dtype}};
    const struct llama_head_grads g = {.norm = (float *)at, .head = (float *)at};

    llama_cuda_head_loss(NULL, (double *)at, dtype, &shape, 64, &w, &g, true, (float *)at, (int32_t *)at, 1,
                         (float *)at, at);
}

int main(void)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};
    char *at = (char *)4096;

    for (size_t i = 0; i < 3; i++) {
        rows(dtypes[i], 16384, at);
        rows(dtypes[i], 16385, at);
        for (uint32_t dim = 16; dim <= 256; dim += 16)
            attention(dtypes[i], dim, at);
        head(dtypes[i], at);
    }
    for (size_t i = 0; i < count; i++)
        printf("%s %u %zu\n", kernels[i].name, kernels[i].threads, kernels[i].shared_bytes);
    return 0;
}
