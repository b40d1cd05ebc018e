/* Low-rank adapters. See adapter.h. */
#include <cblas.h>

#include "examples/model/adapter.h"
#include "examples/model/kernels_inline.h"

/* One call's scratch. */
struct scratch {
    float *low, *dlow;  /* [rows, rank] */
    float *dropped;     /* [rows, in] */
    float *wide;        /* [rows, out] */
    float *norms, *row; /* [out], [in], with room for unpacking */
};

static void lay_out(struct scratch *s, struct llama_arena *a, size_t rows, size_t in, size_t out, size_t rank,
                    bool dora, bool dropout)
{
    *s = (struct scratch){0};
    s->low = llama_take_floats(a, rows * rank);
    s->dlow = llama_take_floats(a, rows * rank);
    if (dropout)
        s->dropped = llama_take_floats(a, rows * in);
    if (!dora)
        return;
    s->wide = llama_take_floats(a, rows * out);
    s->norms = llama_take_floats(a, out);
    s->row = llama_take(a, llama_wide_bytes(in, LLAMA_PACKED));
}

size_t llama_adapter_workspace(size_t rows, size_t in, size_t out, size_t rank, bool dora, bool dropout)
{
    struct llama_arena a = {0};
    struct scratch s;

    lay_out(&s, &a, rows, in, out, rank, dora, dropout);
    return a.peak;
}

static struct scratch scratch_of(const struct llama_adapter *ad, size_t rows, size_t in, size_t out)
{
    struct llama_arena a = {.base = ad->ws};
    struct scratch s;

    lay_out(&s, &a, rows, in, out, ad->rank, ad->magnitude || ad->gain, ad->dropout > 0);
    return s;
}

/* ---- numbers by their place --------------------------------------------- */

/* SplitMix64 (Steele, Lea & Flood, 2014), as a hash of seed and place. */
LLAMA_INLINE uint64_t hash(uint64_t seed, uint64_t place)
{
    uint64_t z = seed + (place + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void llama_init_uniform(float *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float bound)
{
    uint64_t key = hash(seed, 0);

    for (uint64_t i = 0; i < n; i++) {
        int32_t part = (int32_t)(hash(key, first_elem + i) >> 40); /* of 2^24 */

        dst[i] = bound * ((float)(2 * part + 1 - (1 << 24)) * 0x1p-24f);
    }
}

/* y = x where it is kept, scaled; y may be x. */
static void drop(float *y, const float *x, const struct llama_adapter *ad, size_t n)
{
    uint64_t limit = (uint64_t)((double)ad->dropout * 0x1p32);
    float keep = 1 / (1 - ad->dropout);

    for (size_t i = 0; i < n; i++)
        y[i] = hash(ad->key, i) >> 32 < limit ? 0 : x[i] * keep;
}

/* ---- DoRA ---------------------------------------------------------------- */

void llama_adapter_norms(float *norms, const struct llama_adapter *ad, struct llama_weight w, size_t in,
                         size_t out, float *row)
{
    for (size_t j = 0; j < out; j++) {
        const float *base = llama_weight_rows(w, j, 1, in, row);

        if (base != row)
            memcpy(row, base, in * sizeof *row);
        for (size_t k = 0; k < ad->rank; k++)
            llama_add_scaled(row, ad->a + k * in, ad->scale * ad->b[j * ad->rank + k], in);
        norms[j] = sqrtf(llama_dot(row, row, in));
    }
}

static const float *gain_of(const struct llama_adapter *ad, struct llama_weight w, size_t in, size_t out,
                            const struct scratch *s)
{
    if (ad->gain)
        return ad->gain;
    llama_adapter_norms(s->norms, ad, w, in, out, s->row);
    for (size_t j = 0; j < out; j++)
        s->norms[j] = ad->magnitude[j] / s->norms[j];
    return s->norms;
}

/* to[rows, out] (+)= gain * from */
static void add_gained(float *to, const float *from, const float *gain, size_t rows, size_t out,
                       size_t stride, bool accumulate)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < out; j++) {
            float v = gain[j] * from[r * out + j];

            to[r * stride + j] = accumulate ? to[r * stride + j] + v : v;
        }
}

/* dm[out] (+)= sums of dy * u's columns, by the norm. */
static void magnitude_backward(float *dm, const float *dy, const float *u, const float *norms, size_t rows,
                               size_t out, bool first)
{
    if (first)
        memset(dm, 0, out * sizeof *dm);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < out; j++)
            dm[j] += dy[r * out + j] * u[r * out + j] / norms[j];
}

/* ---- products ------------------------------------------------------------ */

/* low = x A^T; returns the x that it was made of. */
static const float *lower(const struct llama_adapter *ad, const struct scratch *s, const float *x,
                          size_t rows, size_t in)
{
    if (ad->dropout > 0) {
        drop(s->dropped, x, ad, rows * in);
        x = s->dropped;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)ad->rank, (blasint)in, 1, x,
                (blasint)in, ad->a, (blasint)in, 0, s->low, (blasint)ad->rank);
    return x;
}

/* y += scale * low B^T */
static void raise(const struct llama_adapter *ad, const struct scratch *s, float *y, size_t rows, size_t out,
                  size_t stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)out, (blasint)ad->rank,
                ad->scale, s->low, (blasint)ad->rank, ad->b, (blasint)ad->rank, 1, y, (blasint)stride);
}

/* dlow = scale * dy B */
static void lower_gradient(const struct llama_adapter *ad, const struct scratch *s, const float *dy,
                           size_t rows, size_t out)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)ad->rank, (blasint)out,
                ad->scale, dy, (blasint)out, ad->b, (blasint)ad->rank, 0, s->dlow, (blasint)ad->rank);
}

void llama_adapter_matmul(float *y, const float *x, struct llama_weight w, size_t rows, size_t in, size_t out,
                          size_t stride, bool accumulate, void *ws)
{
    const struct llama_adapter *ad = w.adapter;
    struct scratch s = scratch_of(ad, rows, in, out);

    lower(ad, &s, x, rows, in);
    if (!s.wide) {
        llama_matmul(y, x, w, rows, in, out, stride, accumulate, ws);
        raise(ad, &s, y, rows, out, stride);
        return;
    }
    llama_matmul(s.wide, x, w, rows, in, out, out, false, ws);
    raise(ad, &s, s.wide, rows, out, out);
    add_gained(y, s.wide, gain_of(ad, w, in, out, &s), rows, out, stride, accumulate);
}

void llama_adapter_matmul_dx(float *dx, const float *dy, struct llama_weight w, size_t rows, size_t in,
                             size_t out, bool accumulate, void *ws)
{
    const struct llama_adapter *ad = w.adapter;
    struct scratch s = scratch_of(ad, rows, in, out);
    bool dropped = ad->dropout > 0;

    if (s.wide) {
        add_gained(s.wide, dy, gain_of(ad, w, in, out, &s), rows, out, out, false);
        dy = s.wide;
    }
    llama_matmul_dx(dx, dy, w, rows, in, out, accumulate, ws);
    lower_gradient(ad, &s, dy, rows, out);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)in, (blasint)ad->rank, 1,
                s.dlow, (blasint)ad->rank, ad->a, (blasint)in, dropped ? 0 : 1, dropped ? s.dropped : dx,
                (blasint)in);
    if (!dropped)
        return;
    drop(s.dropped, s.dropped, ad, rows * in);
    llama_add_scaled(dx, s.dropped, 1, rows * in);
}

void llama_adapter_backward(const float *dy, const float *x, struct llama_weight w, size_t rows, size_t in,
                            size_t out, bool first, void *ws)
{
    const struct llama_adapter *ad = w.adapter;
    struct scratch s = scratch_of(ad, rows, in, out);
    const float *from = lower(ad, &s, x, rows, in);

    if (s.wide) {
        llama_matmul(s.wide, x, w, rows, in, out, out, false, ws);
        raise(ad, &s, s.wide, rows, out, out);
        llama_adapter_norms(s.norms, ad, w, in, out, s.row);
        magnitude_backward(ad->dmagnitude, dy, s.wide, s.norms, rows, out, first);
        for (size_t j = 0; j < out; j++)
            s.norms[j] = ad->magnitude[j] / s.norms[j];
        add_gained(s.wide, dy, s.norms, rows, out, out, false);
        dy = s.wide;
    }
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)out, (blasint)ad->rank, (blasint)rows,
                ad->scale, dy, (blasint)out, s.low, (blasint)ad->rank, first ? 0 : 1, ad->db,
                (blasint)ad->rank);
    lower_gradient(ad, &s, dy, rows, out);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)ad->rank, (blasint)in, (blasint)rows, 1,
                s.dlow, (blasint)ad->rank, from, (blasint)in, first && !ad->joined ? 0 : 1, ad->da,
                (blasint)in);
}
