/*
 * cublas_stub: cuBLAS without a GPU, for tests: libcublas_stub.so, beside the stub driver. Products are
 * OpenBLAS', in f32, rounded to the result's type at the end, and run on the stub driver's streams, in
 * order. What the real one would let pass in silence is noted as misuse of the driver: a matrix that is
 * not in device memory, a result over its inputs, no workspace or one that setting the stream has
 * taken away, the default stream.
 *
 * A call fails on demand as the driver's do: cuda_stub_config.fail_call, "cublasGemmEx" for one.
 */
#include <cblas.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_stub.h"

#define API __attribute__((visibility("default")))

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { F32 = 0, F16 = 2, BF16 = 14, COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69 };

#define ALIVE 0xb1a5u

struct handle {
    unsigned alive;
    void *stream, *workspace;
    size_t workspace_bytes;
};

struct matrix {
    unsigned char *data;
    int type;
    size_t rows, columns, stride; /* by columns */
    bool transposed;
};

struct product {
    struct matrix a, b, c;
    float alpha, beta;
    size_t k;
};

static const struct cuda_stub *driver(void)
{
    const char *file = getenv("OFL_CUDA_DRIVER");
    void *library = file ? dlopen(file, RTLD_NOW | RTLD_NOLOAD) : NULL;
    const struct cuda_stub *control = library ? dlsym(library, "cuda_stub") : NULL;

    if (library)
        dlclose(library); /* loaded for good by whoever loaded it first */
    return control;
}

/* Notes a mistake, and returns what the call then does. */
__attribute__((format(printf, 1, 2))) static int violate(const char *fmt, ...)
{
    char text[150];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    driver()->violate(text);
    return INVALID_VALUE;
}

static bool alive(const struct handle *h)
{
    return h && h->alive == ALIVE;
}

/* ---- handles -------------------------------------------------------------- */

API int cublasCreate_v2(struct handle **out)
{
    if (!driver())
        return NOT_INITIALIZED;
    *out = calloc(1, sizeof **out);
    if (!*out)
        abort();
    (*out)->alive = ALIVE;
    return SUCCESS;
}

API int cublasDestroy_v2(struct handle *h)
{
    if (!alive(h))
        return NOT_INITIALIZED;
    h->alive = 0;
    free(h);
    return SUCCESS;
}

/* Back to the workspace of its own, as the real one. */
API int cublasSetStream_v2(struct handle *h, void *stream)
{
    if (!alive(h))
        return NOT_INITIALIZED;
    h->stream = stream;
    h->workspace = NULL;
    return SUCCESS;
}

API int cublasSetWorkspace_v2(struct handle *h, void *workspace, size_t bytes)
{
    if (!alive(h))
        return NOT_INITIALIZED;
    if ((uintptr_t)workspace % 256 || bytes == 0 || !driver()->inside(workspace, bytes))
        return violate("cublasSetWorkspace: %zu bytes not in device memory, or not aligned to 256", bytes);
    h->workspace = workspace;
    h->workspace_bytes = bytes;
    return SUCCESS;
}

API int cublasSetMathMode(struct handle *h, int mode)
{
    if (!alive(h))
        return NOT_INITIALIZED;
    return mode >= 0 && mode <= 2 ? SUCCESS : INVALID_VALUE; /* default, tensor cores, pedantic: no TF32 */
}

/* ---- numbers -------------------------------------------------------------- */

static size_t type_bytes(int type)
{
    return type == F32 ? 4 : 2;
}

static float bf16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;

    memcpy(&x, &wide, sizeof x);
    return x;
}

static uint16_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float f16_to_float(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double size = exponent == 31  ? (fraction ? __builtin_nan("") : __builtin_inf())
                  : exponent == 0 ? __builtin_ldexp(fraction, -24)
                                  : __builtin_ldexp(1024 + fraction, exponent - 25);

    return (float)(bits >> 15 ? -size : size);
}

static uint16_t f16_of(float x)
{
    uint16_t sign = __builtin_signbit(x) ? 0x8000 : 0;
    double size = __builtin_fabs((double)x);
    int exponent;

    if (x != x)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 65520) /* half way to 2^16 */
        return (uint16_t)(sign | 0x7c00);
    (void)__builtin_frexp(size, &exponent);
    if (exponent < -13 || size == 0) /* subnormal: multiples of 2^-24 */
        exponent = -13;
    /* 11 bits of fraction, to nearest even; a carry goes into the exponent by itself. */
    return (uint16_t)(sign |
                      (((exponent + 13) << 10) + (int)__builtin_rint(__builtin_ldexp(size, 11 - exponent))));
}

static float read_number(const struct matrix *m, size_t i)
{
    uint16_t bits;
    float x;

    if (m->type == F32) {
        memcpy(&x, m->data + 4 * i, 4);
        return x;
    }
    memcpy(&bits, m->data + 2 * i, 2);
    return m->type == BF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

static void write_number(const struct matrix *m, size_t i, float x)
{
    uint16_t bits;

    if (m->type == F32) {
        memcpy(m->data + 4 * i, &x, 4);
        return;
    }
    bits = m->type == BF16 ? bf16_of(x) : f16_of(x);
    memcpy(m->data + 2 * i, &bits, 2);
}

/* ---- products ------------------------------------------------------------- */

static float *widen(const struct matrix *m)
{
    float *wide = malloc(m->rows * m->columns * sizeof *wide + 1);

    if (!wide)
        abort();
    for (size_t column = 0; column < m->columns; column++)
        for (size_t row = 0; row < m->rows; row++)
            wide[column * m->rows + row] = read_number(m, column * m->stride + row);
    return wide;
}

/* On the stream's thread. What c holds is not read where beta is 0. */
static void multiply(void *arg)
{
    const struct product *p = arg;
    const struct matrix *c = &p->c;
    float *a = widen(&p->a), *b = widen(&p->b), *sum = calloc(c->rows * c->columns + 1, sizeof *sum);

    if (!sum)
        abort();
    if (p->k)
        cblas_sgemm(CblasColMajor, p->a.transposed ? CblasTrans : CblasNoTrans,
                    p->b.transposed ? CblasTrans : CblasNoTrans, (blasint)c->rows, (blasint)c->columns,
                    (blasint)p->k, 1.0f, a, (blasint)p->a.rows, b, (blasint)p->b.rows, 0.0f, sum,
                    (blasint)c->rows);
    for (size_t column = 0; column < c->columns; column++)
        for (size_t row = 0; row < c->rows; row++) {
            size_t i = column * c->stride + row;
            float x = p->alpha * sum[column * c->rows + row];

            write_number(c, i, p->beta == 0.0f ? x : x + p->beta * read_number(c, i));
        }
    free(a);
    free(b);
    free(sum);
}

static size_t matrix_bytes(const struct matrix *m)
{
    return m->columns == 0 ? 0 : ((m->columns - 1) * m->stride + m->rows) * type_bytes(m->type);
}

static bool overlap(const struct matrix *a, const struct matrix *b)
{
    return a->data < b->data + matrix_bytes(b) && b->data < a->data + matrix_bytes(a);
}

static int check_matrix(const struct matrix *m, const char *name)
{
    if (m->stride < (m->rows ? m->rows : 1))
        return violate("cublasGemmEx: stride %zu of %s, %zu rows", m->stride, name, m->rows);
    if ((uintptr_t)m->data % type_bytes(m->type) || !driver()->inside(m->data, matrix_bytes(m)))
        return violate("cublasGemmEx: %s, %zu x %zu, stride %zu: not in device memory", name, m->rows,
                       m->columns, m->stride);
    return SUCCESS;
}

static int check_product(const struct handle *h, const struct product *p)
{
    int rc;

    if (!h->stream)
        return violate("cublasGemmEx: no stream set");
    if (!h->workspace || !driver()->inside(h->workspace, h->workspace_bytes))
        return violate("cublasGemmEx: no workspace set since the stream was, or one that is freed");
    rc = check_matrix(&p->a, "a");
    if (rc == SUCCESS)
        rc = check_matrix(&p->b, "b");
    if (rc == SUCCESS)
        rc = check_matrix(&p->c, "c");
    if (rc == SUCCESS && (overlap(&p->c, &p->a) || overlap(&p->c, &p->b)))
        rc = violate("cublasGemmEx: the result lies over an input");
    return rc;
}

static bool types_supported(int a, int b, int c, int compute)
{
    return a == b && (a == F32 || a == F16 || a == BF16) && (c == F32 || c == a) &&
           (compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC);
}

API int cublasGemmEx(struct handle *h, int op_a, int op_b, int m, int n, int k, const void *alpha,
                     const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride,
                     const void *beta, void *c, int c_type, int c_stride, int compute, int algorithm)
{
    struct product *p;
    int rc;

    if (!alive(h))
        return NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || a_stride < 1 || b_stride < 1 || c_stride < 1 || !alpha || !beta ||
        op_a < 0 || op_a > 2 || op_b < 0 || op_b > 2)
        return INVALID_VALUE;
    if (!types_supported(a_type, b_type, c_type, compute) || algorithm < -1)
        return NOT_SUPPORTED;
    p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->a = (struct matrix){(void *)(uintptr_t)a,   a_type,           (size_t)(op_a ? k : m),
                           (size_t)(op_a ? m : k), (size_t)a_stride, op_a != 0};
    p->b = (struct matrix){(void *)(uintptr_t)b,   b_type,           (size_t)(op_b ? n : k),
                           (size_t)(op_b ? k : n), (size_t)b_stride, op_b != 0};
    p->c = (struct matrix){c, c_type, (size_t)m, (size_t)n, (size_t)c_stride, false};
    p->k = (size_t)k;
    p->alpha = *(const float *)alpha; /* read at once */
    p->beta = *(const float *)beta;
    rc = check_product(h, p);
    if (rc != SUCCESS) {
        free(p);
        return rc;
    }
    return driver()->run("cublasGemmEx", h->stream, multiply, p) ? EXECUTION_FAILED : SUCCESS;
}
