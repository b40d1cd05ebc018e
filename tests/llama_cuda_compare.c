/* See llama_cuda_compare.h. */
#include "tests/llama_cuda_compare.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t digest; /* of all that gpu_expect has fetched */

float *gpu_normal(size_t n, uint64_t seed, float std)
{
    float *x = ref_floats(n);

    llama_init_normal(x, 0, n, seed, std);
    return x;
}

double gpu_largest(const float *x, size_t n)
{
    double largest = 0;

    for (size_t i = 0; i < n; i++)
        if (isfinite(x[i]) && fabs((double)x[i]) > largest)
            largest = fabs((double)x[i]);
    return largest;
}

static void narrow(void *dst, enum ofl_dtype dtype, const float *src, size_t n)
{
    if (dtype == OFL_F32)
        memcpy(dst, src, n * sizeof *src);
    else if (dtype == OFL_BF16)
        llama_to_bf16(dst, src, n);
    else
        llama_to_f16(dst, src, n);
}

void *gpu_room(struct gpu *g, size_t n, enum ofl_dtype dtype, size_t shift)
{
    return (char *)gpu_blank(g, (n + shift) * ofl_dtype_bytes(dtype)) + shift * ofl_dtype_bytes(dtype);
}

void *gpu_put(struct gpu *g, float *x, size_t n, enum ofl_dtype dtype, size_t shift)
{
    size_t bytes = ofl_dtype_bytes(dtype);
    char *stored = ref_alloc((n + shift) * bytes), *device;

    narrow(stored + shift * bytes, dtype, x, n);
    llama_widen(x, stored + shift * bytes, dtype, n);
    device = gpu_upload(g, stored, (n + shift) * bytes);
    free(stored);
    return device + shift * bytes;
}

/* ---- comparison ------------------------------------------------------------------ */

static float one(const void *numbers, enum ofl_dtype dtype, size_t i)
{
    float x;

    llama_widen(&x, (const char *)numbers + i * ofl_dtype_bytes(dtype), dtype, 1);
    return x;
}

/* Half a unit in the last place of x. */
static double half_unit(double x, enum ofl_dtype dtype)
{
    int least = dtype == OFL_BF16 ? -125 : -13, exponent = least;

    if (dtype == OFL_F32 || !isfinite(x))
        return 0;
    if (x != 0)
        frexp(x, &exponent);
    return ldexp(1, (exponent < least ? least : exponent) - (dtype == OFL_BF16 ? 9 : 12));
}

/* Has x the bits that want rounds to? */
static bool same(float x, enum ofl_dtype dtype, float want)
{
    unsigned char rounded[4];
    float y;

    narrow(rounded, dtype, &want, 1);
    y = one(rounded, dtype, 0);
    return memcmp(&x, &y, sizeof x) == 0;
}

static bool is_close(float x, enum ofl_dtype dtype, float want, struct allowed allowed)
{
    double slack = allowed.relative * fabs((double)want) + allowed.least;

    if (isnan(x) || isnan(want))
        return isnan(x) && isnan(want);
    if (slack == 0 || isinf(want))
        return same(x, dtype, want);
    if (isinf(x)) /* by rounding alone */
        return same(x, dtype, want) || same(x, dtype, (float)(want + copysign(slack, (double)want)));
    return fabs((double)x - (double)want) <= slack + half_unit((double)want, dtype);
}

/* The first of n that is not close to what is wanted; n if there is none. */
static size_t first_wrong(const void *got, enum ofl_dtype dtype, const float *want, size_t n,
                          struct allowed allowed)
{
    size_t i = 0;

    while (i < n && is_close(one(got, dtype, i), dtype, want[i], allowed))
        i++;
    return i;
}

/* Moves number i two units of its format, and twice what is allowed, off what is wanted. */
static void falsify(void *got, enum ofl_dtype dtype, float want, size_t i, struct allowed allowed)
{
    double slack = allowed.relative * fabs((double)want) + allowed.least;
    double x = (double)want, by = 2 * slack + 4 * half_unit(x, dtype);
    float y = (float)(fabs(x) > by ? x - copysign(by, x) : x + by);

    if (by == 0)
        y = nextafterf(want, 0) == want ? 1 : nextafterf(want, 0);
    narrow((char *)got + i * ofl_dtype_bytes(dtype), dtype, &y, 1);
}

/* Is a falsified number noticed, the largest one and a random one? */
static bool notices(void *got, enum ofl_dtype dtype, const float *want, size_t n, struct allowed allowed)
{
    size_t at[2] = {0, n ? (size_t)(ref_hash(n, 1) % n) : 0}, bytes = ofl_dtype_bytes(dtype);
    double largest = gpu_largest(want, n);

    while (at[0] < n && fabs((double)want[at[0]]) != largest)
        at[0]++;
    for (int k = 0; k < 2; k++) {
        char *number = (char *)got + at[k] * bytes;
        unsigned char kept[4];

        if (at[k] >= n || !isfinite(want[at[k]]) || !isfinite(one(got, dtype, at[k])))
            continue;
        memcpy(kept, number, bytes);
        falsify(got, dtype, want[at[k]], at[k], allowed);
        if (first_wrong(got, dtype, want, n, allowed) != at[k])
            return false;
        memcpy(number, kept, bytes);
    }
    return true;
}

void gpu_expect(struct gpu *g, const void *device, enum ofl_dtype dtype, const float *want, size_t n,
                struct allowed allowed, const char *fmt, ...)
{
    size_t bytes = n * ofl_dtype_bytes(dtype), wrong;
    unsigned char *got = ref_alloc(bytes);
    char what[200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    gpu_download(g, got, device, bytes);
    for (size_t i = 0; i < bytes; i++)
        digest = (digest ^ got[i]) * 0x100000001b3u;
    wrong = first_wrong(got, dtype, want, n, allowed);
    if (wrong < n)
        fail_msg("%s: number %zu of %zu is %.9g, not %.9g", what, wrong, n, (double)one(got, dtype, wrong),
                 (double)want[wrong]);
    if (!notices(got, dtype, want, n, allowed))
        fail_msg("%s: a falsified number is not noticed", what);
    free(got);
}

void gpu_twice(void (*body)(struct gpu *g))
{
    uint64_t first = 0;

    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct gpu g;

        digest = 0;
        gpu_open(&g, seed);
        body(&g);
        gpu_close(&g);
        if (seed == 1)
            first = digest;
        else if (digest != first)
            fail_msg("other bits in another order of threads");
    }
    assert_true(digest != 0); /* something was compared */
}
