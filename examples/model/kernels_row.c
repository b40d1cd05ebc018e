/*
 * Products with a single row. See kernels_row.h.
 *
 * A sum has sixteen lanes, of every sixteenth product each, and then the tail, as llama_dot has it; products are rounded
 * before they are added. So all forms give the same bits, and the bits of llama_dot on widened numbers.
 */
#include "examples/model/kernels_row.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "examples/model/kernels_inline.h"
#include "examples/model/parallel.h"

#define PACKED_ROWS 64u   /* unpacked at a time */
#define PIECE       1024u /* numbers of a row that are widened at a time: whole blocks of every dtype */
#define GRAIN_BYTES (128u << 10) /* of weights that a thread takes at a time */

/* ---- BF16 ---------------------------------------------------------------- */

static float bf16(uint16_t bits)
{
    return llama_bits_to_float((uint32_t)bits << 16);
}

static float tail(const float *x, const uint16_t *w, size_t from, size_t in)
{
    float sum = 0;

    for (size_t i = from; i < in; i++)
        sum += x[i] * bf16(w[i]);
    return sum;
}

static void dots_plain(float *out, const float *x, const uint16_t *w, size_t in, size_t rows)
{
    for (size_t j = 0; j < rows; j++, w += in) {
        llama_lanes sum = {0};
        size_t i = 0;

        for (; i + LLAMA_LANES <= in; i += LLAMA_LANES)
            for (size_t k = 0; k < LLAMA_LANES; k++)
                sum[k] += x[i + k] * bf16(w[i + k]);
        out[j] = llama_lane_sum(&sum) + tail(x, w, i, in);
    }
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f")))
#define AVX2   __attribute__((target("avx2")))

AVX512 LLAMA_INLINE __m512 wide512(const uint16_t *w)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)w));

    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

/* Halves onto each other, as llama_lane_sum does. */
AVX2 LLAMA_INLINE float fold256(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

AVX512 LLAMA_INLINE float fold512(__m512 s)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(s), 1));

    return fold256(_mm512_castps512_ps256(s), high);
}

/* Ahead of what is read, so that more of memory's latencies pass at once. Rows one after another: four of them side by
 * side read at 0.6 of this form's rate. */
#define AHEAD 2048u /* numbers */

AVX512 static void dots_avx512(float *out, const float *x, const uint16_t *w, size_t in, size_t rows)
{
    for (size_t j = 0; j < rows; j++, w += in) {
        __m512 sum = _mm512_setzero_ps();
        size_t i = 0;

        for (; i + 2 * LLAMA_LANES <= in; i += 2 * LLAMA_LANES) {
            _mm_prefetch((const char *)(w + i + AHEAD), _MM_HINT_T0);
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(x + i), wide512(w + i)));
            sum = _mm512_add_ps(
                sum, _mm512_mul_ps(_mm512_loadu_ps(x + i + LLAMA_LANES), wide512(w + i + LLAMA_LANES)));
        }
        for (; i + LLAMA_LANES <= in; i += LLAMA_LANES)
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(x + i), wide512(w + i)));
        out[j] = fold512(sum) + tail(x, w, i, in);
    }
}

AVX2 LLAMA_INLINE __m256 wide256(const uint16_t *w)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)w));

    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

AVX2 static void dots_avx2(float *out, const float *x, const uint16_t *w, size_t in, size_t rows)
{
    for (size_t j = 0; j < rows; j++, w += in) {
        __m256 low = _mm256_setzero_ps(), high = low;
        size_t i = 0;

        for (; i + LLAMA_LANES <= in; i += LLAMA_LANES) {
            _mm_prefetch((const char *)(w + i + AHEAD), _MM_HINT_T0);
            low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(x + i), wide256(w + i)));
            high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(x + i + 8), wide256(w + i + 8)));
        }
        out[j] = fold256(low, high) + tail(x, w, i, in);
    }
}
#endif

llama_dots_fn *llama_dots_form(unsigned n)
{
    if (n == 0)
        return dots_plain;
#if defined(__x86_64__)
    if (n == 1 && __builtin_cpu_supports("avx2"))
        return dots_avx2;
    if (n == 2 && __builtin_cpu_supports("avx512f"))
        return dots_avx512;
#endif
    return NULL;
}

static llama_dots_fn *dots_best(void)
{
    for (unsigned n = LLAMA_DOTS_FORMS - 1; n > 0; n--)
        if (llama_dots_form(n))
            return llama_dots_form(n);
    return dots_plain;
}

/* ---- other dtypes -------------------------------------------------------- */

static LLAMA_WIDE void dots_f32(float *out, const float *x, const float *w, size_t in, size_t rows)
{
    for (size_t j = 0; j < rows; j++)
        out[j] = llama_dot(x, w + j * in, in);
}

/* Widened in the first-level cache, a piece of a row at a time. */
static LLAMA_WIDE float dot_widened(const float *x, struct llama_weight w, size_t row, size_t in)
{
    const char *from = llama_weight_row(w, row, in);
    float wide[PIECE], sum = 0;

    for (size_t i = 0, n; i < in; i += n) {
        n = in - i < PIECE ? in - i : PIECE;
        llama_widen(wide, from + llama_dtype_bytes(w.dtype, i), w.dtype, n);
        sum += llama_dot(x + i, wide, n);
    }
    return sum;
}

/* ---- a product ----------------------------------------------------------- */

struct product {
    float *y;
    const float *x;
    struct llama_weight w;
    size_t in;
    bool accumulate;
};

#define SOME 64u /* rows whose sums are at hand at once */

static void put(const struct product *p, size_t first, size_t n, const float *sums)
{
    for (size_t k = 0; k < n; k++)
        p->y[first + k] = p->accumulate ? p->y[first + k] + sums[k] : sums[k];
}

static void part(void *arg, size_t first, size_t count)
{
    const struct product *p = arg;
    float sums[SOME];

    for (size_t j = first, n; j < first + count; j += n) {
        n = first + count - j < SOME ? first + count - j : SOME;
        if (p->w.dtype == OFL_F32)
            dots_f32(sums, p->x, llama_weight_row(p->w, j, p->in), p->in, n);
        else if (p->w.dtype == OFL_BF16)
            dots_best()(sums, p->x, llama_weight_row(p->w, j, p->in), p->in, n);
        else
            for (size_t k = 0; k < n; k++)
                sums[k] = dot_widened(p->x, p->w, j + k, p->in);
        put(p, j, n, sums);
    }
}

/* Rows may lie across: unpacked some at a time, in memory that the caller gives. */
static void product_packed(const struct product *p, size_t out, float *ws)
{
    size_t room = LLAMA_PANEL_BYTES / (p->in * sizeof(float)), step = room < PACKED_ROWS ? room : PACKED_ROWS;
    float sums[PACKED_ROWS];

    for (size_t j = 0, n; j < out; j += n) {
        n = out - j < step ? out - j : step ? step : 1;
        dots_f32(sums, p->x, llama_weight_rows(p->w, j, n, p->in, ws), p->in, n);
        put(p, j, n, sums);
    }
}

void llama_matmul_row(float *y, const float *x, struct llama_weight w, size_t in, size_t out, bool accumulate,
                      float *ws)
{
    struct product p = {y, x, w, in, accumulate};

    if (w.packed)
        product_packed(&p, out, ws);
    else
        llama_parallel(out, GRAIN_BYTES / (llama_dtype_bytes(w.dtype, in) + 1) + 1, part, &p);
}
