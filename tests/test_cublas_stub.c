/*
 * Proves that the stub cuBLAS is fit to judge its users by: products of every type, transposition and
 * stride are those of plain loops, rounded to nearest even, with beta 0 nothing of the result is read,
 * products keep their place among copies on the stream, and what the real one forbids or lets
 * pass in silence is refused: strides, matrices outside device memory or over each other, types, a
 * missing workspace or stream.
 */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cuda_fixture.h"
#include "tests/launch_fixture.h"

enum { F32 = 0, F16 = 2, BF16 = 14, COMPUTE_F32 = 68, COMPUTE_PEDANTIC = 69 };
enum { INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

static struct {
    int (*create)(void **);
    int (*destroy)(void *);
    int (*set_stream)(void *, void *);
    int (*set_workspace)(void *, void *, size_t);
    int (*set_mode)(void *, int);
    int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                const void *, void *, int, int, int, int);
} blas;

static void *handle;

/* Where a, b, c and the workspace lie in the buffer `in`, whose other bytes nothing may touch. */
enum { A_AT = 0, B_AT = 16 << 10, C_AT = 32 << 10, SPACE_AT = 48 << 10 };

static void *at(size_t offset)
{
    return (void *)(uintptr_t)(launch_on.in + offset);
}

static int setup(void **state)
{
    void *library;

    (void)state;
    launch_load();
    library = dlopen(getenv("OFL_CUBLAS"), RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail_msg("%s", dlerror());
    *(void **)&blas.create = dlsym(library, "cublasCreate_v2");
    *(void **)&blas.destroy = dlsym(library, "cublasDestroy_v2");
    *(void **)&blas.set_stream = dlsym(library, "cublasSetStream_v2");
    *(void **)&blas.set_workspace = dlsym(library, "cublasSetWorkspace_v2");
    *(void **)&blas.set_mode = dlsym(library, "cublasSetMathMode");
    *(void **)&blas.gemm = dlsym(library, "cublasGemmEx");
    assert_true(blas.create && blas.destroy && blas.set_stream && blas.set_workspace && blas.set_mode &&
                blas.gemm);
    return 0;
}

static void begin(const struct cuda_stub_config *config)
{
    launch_begin(config);
    assert_int_equal(blas.create(&handle), 0);
    assert_int_equal(blas.set_stream(handle, launch_on.stream), 0);
    assert_int_equal(blas.set_workspace(handle, at(SPACE_AT), 16 << 10), 0);
    assert_int_equal(blas.set_mode(handle, 0), 0);
}

/* ---- numbers, by the definition of the formats ---------------------------- */

/* x to so many bits of fraction and no exponent below least, to nearest even. */
static double rounded(double x, int bits, int least)
{
    int exponent;
    double unit;

    if (x == 0)
        return x;
    (void)frexp(x, &exponent);
    unit = ldexp(1, (exponent > least ? exponent : least) - bits);
    return rint(x / unit) * unit;
}

static double round_to(int type, double x)
{
    return type == F32 ? (double)(float)x : type == BF16 ? rounded(x, 8, -125) : rounded(x, 11, -13);
}

static void put(int type, unsigned char *p, size_t i, double x)
{
    float f = (float)x;
    uint32_t bits;
    uint16_t half;
    int exponent;

    memcpy(&bits, &f, 4);
    if (type == F32) {
        memcpy(p + 4 * i, &f, 4);
        return;
    }
    half = (uint16_t)(bits >> 16);
    if (type == F16) { /* exact, and not subnormal, in these tests */
        (void)frexp(x, &exponent);
        exponent = x == 0 ? -14 : exponent;
        half =
            (uint16_t)((x < 0) << 15 | (exponent + 14) << 10 | ((int)ldexp(fabs(x), 11 - exponent) & 1023));
    }
    memcpy(p + 2 * i, &half, 2);
}

static double get(int type, const unsigned char *p, size_t i)
{
    uint32_t bits;
    uint16_t half;
    float f;

    if (type == F32) {
        memcpy(&f, p + 4 * i, 4);
        return (double)f;
    }
    memcpy(&half, p + 2 * i, 2);
    if (type == BF16) {
        bits = (uint32_t)half << 16;
        memcpy(&f, &bits, 4);
        return (double)f;
    }
    return (half >> 15 ? -1 : 1) * ((half >> 10 & 31) ? ldexp(1024 + (half & 1023), (half >> 10 & 31) - 25)
                                                      : ldexp(half & 1023, -24));
}

/* ---- products ------------------------------------------------------------- */

struct shape {
    int m, n, k, extra; /* extra: of each stride, beyond the rows */
};

/* a and b hold halves, so that sums are exact in f32, and inexact in the narrow types. */
static void check(int type, int c_type, int op_a, int op_b, struct shape s, float alpha, float beta,
                  unsigned seed)
{
    static unsigned char bytes[LAUNCH_BYTES], got[LAUNCH_BYTES];
    int a_rows = op_a ? s.k : s.m, b_rows = op_b ? s.n : s.k;
    int a_stride = a_rows + s.extra, b_stride = b_rows + s.extra, c_stride = s.m + s.extra;
    int compute = seed % 2 ? COMPUTE_F32 : COMPUTE_PEDANTIC;

    memset(bytes, 0xff, sizeof bytes); /* NaN where nothing is */
    for (int i = 0; i < s.m * s.k; i++)
        put(type, bytes + A_AT, (size_t)(i / a_rows * a_stride + i % a_rows),
            ((i * 37 + (int)seed) % 255 - 127) / 2.0);
    for (int i = 0; i < s.k * s.n; i++)
        put(type, bytes + B_AT, (size_t)(i / b_rows * b_stride + i % b_rows),
            ((i * 11 + (int)seed) % 19 - 9) / 2.0);
    for (int i = 0; i < s.m * s.n && beta != 0; i++)
        put(c_type, bytes + C_AT, (size_t)(i / s.m * c_stride + i % s.m), i % 9 - 4);
    begin(&(struct cuda_stub_config){.seed = seed, .pause_us = 20});
    launch_send(launch_on.in, bytes, sizeof bytes);
    assert_int_equal(blas.gemm(handle, op_a, op_b, s.m, s.n, s.k, &alpha, at(A_AT), type, a_stride, at(B_AT),
                               type, b_stride, &beta, at(C_AT), c_type, c_stride, compute, -1),
                     0);
    launch_receive(got, launch_on.in, sizeof got);
    for (int row = 0; row < s.m; row++)
        for (int column = 0; column < s.n; column++) {
            size_t i = (size_t)(column * c_stride + row);
            double sum = 0, want;

            for (int k = 0; k < s.k; k++)
                sum +=
                    get(type, bytes + A_AT, (size_t)(op_a ? row * a_stride + k : k * a_stride + row)) *
                    get(type, bytes + B_AT, (size_t)(op_b ? k * b_stride + column : column * b_stride + k));
            want = round_to(c_type, alpha * sum + (beta != 0 ? beta * get(c_type, bytes + C_AT, i) : 0));
            if (get(c_type, got + C_AT, i) != want)
                fail_msg("type %d to %d, op %d %d, %d x %d x %d, seed %u: [%d, %d] is %g, not %g", type,
                         c_type, op_a, op_b, s.m, s.n, s.k, seed, row, column, get(c_type, got + C_AT, i),
                         want);
            put(c_type, got + C_AT, i, 0);
            put(c_type, bytes + C_AT, i, 0);
        }
    assert_memory_equal(got, bytes, sizeof got); /* and nothing else was written */
    assert_int_equal(blas.destroy(handle), 0);
    launch_end_well();
}

static void test_products(void **state)
{
    static const struct shape shapes[] = {
        {1, 1, 1, 0}, {5, 3, 7, 0}, {16, 33, 9, 3}, {31, 2, 64, 1}, {3, 4, 0, 2}};
    static const int types[][2] = {{F32, F32}, {BF16, BF16}, {BF16, F32}, {F16, F16}, {F16, F32}};
    unsigned seed = 0;

    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
            for (int op = 0; op < 4; op++, seed++)
                check(types[t][0], types[t][1], op % 2, op / 2, shapes[i], seed % 3 ? 1.0f : 0.5f,
                      seed % 5 < 3 ? 0.0f : 1.0f, seed);
}

/* ---- mistakes ------------------------------------------------------------- */

static int product(int m, int n, int k, void *a, int a_stride, void *b, int b_stride, void *c, int c_stride,
                   int type)
{
    const float one = 1.0f, none = 0.0f;

    return blas.gemm(handle, 0, 0, m, n, k, &one, a, type, a_stride, b, type, b_stride, &none, c, F32,
                     c_stride, COMPUTE_F32, -1);
}

static int good_product(void)
{
    return product(8, 8, 8, at(A_AT), 8, at(B_AT), 8, at(C_AT), 8, F32);
}

enum {
    GOOD,
    A_STRIDE,
    C_STRIDE,
    A_BEYOND,
    B_HOST,
    C_BEYOND,
    OVER_A,
    UNALIGNED,
    NO_STREAM,
    NO_SPACE,
    SPACE_HOST,
    MIXED
};

static int make_mistake(int mistake)
{
    static float host[64];
    const float one = 1.0f;

    switch (mistake) {
    case A_STRIDE:
        return product(8, 8, 8, at(A_AT), 7, at(B_AT), 8, at(C_AT), 8, F32);
    case C_STRIDE:
        return product(8, 8, 8, at(A_AT), 8, at(B_AT), 8, at(C_AT), 7, F32);
    case A_BEYOND:
        return product(8, 8, 8, at(LAUNCH_BYTES - 252), 8, at(B_AT), 8, at(C_AT), 8, F32);
    case B_HOST:
        return product(8, 8, 8, at(A_AT), 8, host, 8, at(C_AT), 8, F32);
    case C_BEYOND:
        return product(8, 8, 8, at(A_AT), 8, at(B_AT), 8, at(LAUNCH_BYTES - 252), 8, F32);
    case OVER_A:
        return product(8, 8, 8, at(A_AT), 8, at(B_AT), 8, at(A_AT + 252), 8, F32);
    case UNALIGNED:
        return product(8, 8, 8, at(A_AT + 2), 8, at(B_AT), 8, at(C_AT), 8, F32);
    case NO_STREAM:
        assert_int_equal(blas.set_stream(handle, NULL), 0);
        return good_product();
    case NO_SPACE:
        assert_int_equal(blas.set_stream(handle, launch_on.stream), 0);
        return good_product();
    case SPACE_HOST:
        return blas.set_workspace(handle, host, sizeof host);
    case MIXED:
        return blas.gemm(handle, 0, 0, 8, 8, 8, &one, at(A_AT), BF16, 8, at(B_AT), F16, 8, &one, at(C_AT),
                         F32, 8, COMPUTE_F32, -1);
    default:
        return good_product();
    }
}

static void test_mistakes(void **state)
{
    static const struct {
        int mistake, status;
        const char *says;
    } cases[] = {{GOOD, 0, ""},
                 {A_STRIDE, INVALID_VALUE, "stride 7 of a"},
                 {C_STRIDE, INVALID_VALUE, "stride 7 of c"},
                 {A_BEYOND, INVALID_VALUE, "a, 8 x 8, stride 8: not in device memory"},
                 {B_HOST, INVALID_VALUE, "b, 8 x 8, stride 8: not in device memory"},
                 {C_BEYOND, INVALID_VALUE, "c, 8 x 8, stride 8: not in device memory"},
                 {OVER_A, INVALID_VALUE, "over an input"},
                 {UNALIGNED, INVALID_VALUE, "a, 8 x 8"},
                 {NO_STREAM, INVALID_VALUE, "no stream set"},
                 {NO_SPACE, INVALID_VALUE, "no workspace set since"},
                 {SPACE_HOST, INVALID_VALUE, "not in device memory"},
                 {MIXED, NOT_SUPPORTED, ""}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[300];

        begin(&(struct cuda_stub_config){0});
        assert_int_equal(make_mistake(cases[i].mistake), cases[i].status);
        assert_int_equal(blas.destroy(handle), 0);
        assert_int_equal(launch_end(text, sizeof text), 0);
        if (!strstr(text, cases[i].says) || (cases[i].says[0] == '\0' && text[0]))
            fail_msg("case %zu: the stub says: %s", i, text);
    }
}

/* Calls are counted and fail on demand, as the driver's do. */
static void test_failure(void **state)
{
    (void)state;
    begin(&(struct cuda_stub_config){.fail_call = "cublasGemmEx", .fail_nth = 2, .fail_code = 700});
    assert_int_equal(good_product(), 0);
    assert_int_equal(good_product(), EXECUTION_FAILED);
    assert_int_equal(good_product(), 0);
    assert_int_equal(launch_cu.control->calls("cublasGemmEx"), 3);
    assert_int_equal(blas.destroy(handle), 0);
    launch_end_well();
}

/* Among copies on the same stream: a product sees what is before it, and not what is after. */
static void test_order(void **state)
{
    float one[64], got[64];

    (void)state;
    for (int i = 0; i < 64; i++)
        one[i] = i % 9 == 0 ? 2.0f : 0.0f; /* twice the unit matrix */
    for (unsigned seed = 0; seed < 20; seed++) {
        begin(&(struct cuda_stub_config){.seed = seed, .pause_us = 100});
        launch_send(launch_on.in + A_AT, one, sizeof one);
        launch_send(launch_on.in + B_AT, one, sizeof one);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(good_product(), 0);
            assert_int_equal(
                launch_cu.copy(launch_on.in + B_AT, launch_on.in + C_AT, sizeof one, launch_on.stream), 0);
        }
        launch_receive(got, launch_on.in + C_AT, sizeof got);
        for (int i = 0; i < 64; i++)
            assert_true(got[i] == 16.0f * one[i]);
        assert_int_equal(blas.destroy(handle), 0);
        launch_end_well();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_order),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
