/* Matrix products on a GPU: cuBLAS, found at run time. See cuda.h. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "examples/model/cuda_impl.h"

/* cuBLAS' own numbers (cublas_api.h, library_types.h). */
enum {
    BLAS_PLAIN = 0,
    BLAS_TRANSPOSED = 1,
    BLAS_TYPE_F32 = 0,
    BLAS_TYPE_F16 = 2,
    BLAS_TYPE_BF16 = 14,
    BLAS_COMPUTE_F32 = 68,
    BLAS_ALGORITHM_DEFAULT = -1,
};

static void *load(struct llama_cuda *c)
{
    /* the linker's, else where NVIDIA's installer puts it */
    static const char *const files[] = {"libcublas.so.13", "libcublas.so.12",
                                        "/usr/local/cuda/lib64/libcublas.so.13",
                                        "/usr/local/cuda/lib64/libcublas.so.12"};
    const char *other = secure_getenv("OFL_CUBLAS");
    void *library = NULL;

    if (other && other[0])
        library = dlopen(other, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof files / sizeof files[0] && !library && !(other && other[0]); i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        llama_cuda_fail(c, -ENODEV,
                        "load cuBLAS: %s (install the CUDA libraries, or name the file in OFL_CUBLAS)",
                        dlerror());
    return library;
}

static void resolve(struct llama_cuda *c, void *library)
{
#define X(call, symbol, params)                                                                              \
    *(void **)&c->blas.call = dlsym(library, #symbol);                                                       \
    if (!c->blas.call)                                                                                       \
        llama_cuda_fail(c, -ENODEV, "cuBLAS has no %s: version 12 or 13 is needed", #symbol);
    BLAS_CALLS(X)
#undef X
}

static void answered(struct llama_cuda *c, int status, const char *what)
{
    c->calls++;
    if (status != 0)
        llama_cuda_fail(c, -EIO, "cuBLAS: %s: status %d", what, status);
}

/* The library stays loaded: it has state of its own. */
void llama_blas_open(struct llama_cuda *c)
{
    void *library = c->code ? NULL : load(c);

    if (!library)
        return;
    resolve(c, library);
    if (!c->code)
        answered(c, c->blas.create(&c->blas_handle), "create");
    if (!c->code)
        answered(c, c->blas.set_stream(c->blas_handle, c->stream), "set stream");
}

void llama_blas_close(struct llama_cuda *c)
{
    if (c->blas_handle)
        c->blas.destroy(c->blas_handle);
}

size_t llama_cuda_scratch_bytes(const struct llama_shape *shape)
{
    return shape->hidden < 1024 ? 1u << 20 : 32u << 20;
}

void llama_cuda_set_scratch(struct llama_cuda *c, void *scratch, size_t bytes)
{
    if (!c->code)
        answered(c, c->blas.set_workspace(c->blas_handle, scratch, bytes), "set workspace");
}

static int type_of(enum ofl_dtype dtype)
{
    return dtype == OFL_F32 ? BLAS_TYPE_F32 : dtype == OFL_BF16 ? BLAS_TYPE_BF16 : BLAS_TYPE_F16;
}

/* One operand as cuBLAS sees it: by columns, so that a row-major matrix is its own transpose. */
struct operand {
    const void *data;
    bool transposed;
    size_t stride;
};

/* Sizes and types choose cuBLAS' kernel. */
static bool is_new(struct llama_cuda *c, const struct blas_shape *s)
{
    for (size_t i = 0; i < c->shapes_count; i++) {
        const struct blas_shape *k = &c->shapes[i];

        if (k->m == s->m && k->n == s->n && k->k == s->k && k->stride == s->stride &&
            k->a_transposed == s->a_transposed && k->b_transposed == s->b_transposed && k->type == s->type &&
            k->result_type == s->result_type)
            return false;
    }
    if (c->shapes_count == SHAPES_MAX)
        c->shapes_count = 0; /* forgotten ones cost a rest more */
    c->shapes[c->shapes_count++] = *s;
    return true;
}

/* result, by columns [m, n], = a[m, k] * b[k, n] */
static void product(struct llama_cuda *c, void *result, enum ofl_dtype result_dtype, size_t stride,
                    struct operand a, struct operand b, enum ofl_dtype dtype, size_t m, size_t n, size_t k,
                    bool accumulate)
{
    const float one = 1, old = accumulate ? 1 : 0;
    int type = type_of(dtype);
    struct blas_shape shape = {m, n, k, stride, a.transposed, b.transposed, type, type_of(result_dtype)};

    if (c->code || m == 0 || n == 0)
        return;
    if (is_new(c, &shape))
        llama_cuda_rest(c);
    if (c->code)
        return;
    answered(c,
             c->blas.gemm(c->blas_handle, a.transposed ? BLAS_TRANSPOSED : BLAS_PLAIN,
                          b.transposed ? BLAS_TRANSPOSED : BLAS_PLAIN, (int)m, (int)n, (int)k, &one, a.data,
                          type, (int)a.stride, b.data, type, (int)b.stride, &old, result, shape.result_type,
                          (int)stride, BLAS_COMPUTE_F32, BLAS_ALGORITHM_DEFAULT),
             "matrix product");
}

void llama_cuda_matmul(struct llama_cuda *c, void *y, enum ofl_dtype y_dtype, const void *x, const void *w,
                       enum ofl_dtype dtype, size_t rows, size_t in, size_t out, size_t stride,
                       bool accumulate)
{
    product(c, y, y_dtype, stride, (struct operand){w, true, in}, (struct operand){x, false, in}, dtype, out,
            rows, in, accumulate);
}

void llama_cuda_matmul_dx(struct llama_cuda *c, void *dx, enum ofl_dtype dx_dtype, const void *dy,
                          const void *w, enum ofl_dtype dtype, size_t rows, size_t in, size_t out,
                          bool accumulate)
{
    product(c, dx, dx_dtype, in, (struct operand){w, false, in}, (struct operand){dy, false, out}, dtype, in,
            rows, out, accumulate);
}

void llama_cuda_matmul_dw(struct llama_cuda *c, float *dw, const void *dy, const void *x,
                          enum ofl_dtype dtype, size_t rows, size_t in, size_t out, bool first)
{
    product(c, dw, OFL_F32, in, (struct operand){x, false, in}, (struct operand){dy, true, out}, dtype, in,
            out, rows, !first);
}
