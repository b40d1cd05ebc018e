/*
 * What the tests of examples/model's kernels and block share: the same mathematics written plainly
 * in double, finite differences over it, and hashed test numbers.
 *
 * Gradients are checked against central differences of the double reference, not of the f32 kernels:
 * with a step of 1e-5 the differences are good to about 1e-9, so what is left is the kernels' own f32
 * rounding, and the tolerance can be tight. That the reference computes what the kernels compute is
 * checked beside it, value by value.
 */
#ifndef TESTS_LLAMA_REFERENCE_H
#define TESTS_LLAMA_REFERENCE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/kernels.h"

/* ---- numbers ------------------------------------------------------------- */

/* Number i of a stream; tools/golden_block.py makes the same ones. */
static inline uint64_t ref_hash(uint64_t stream, uint64_t i)
{
    uint64_t x = (i + (stream << 32)) * 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* offset + scale * (multiples of 1/64 in -1 .. 1): exact in F32, BF16 and F16 for powers of two. */
static inline void ref_values(float *dst, size_t n, uint64_t stream, float scale, float offset)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = offset + (float)((int)(ref_hash(stream, i) >> 57) - 64) / 64 * scale;
}

static inline void *ref_alloc(size_t bytes)
{
    void *p = aligned_alloc(4096, (bytes / 4096 + 1) * 4096);

    if (!p)
        abort();
    memset(p, 0xff, bytes); /* NaN */
    return p;
}

static inline float *ref_floats(size_t n)
{
    return ref_alloc(n * sizeof(float));
}

static inline float *ref_random(size_t n, uint64_t stream, float scale, float offset)
{
    float *p = ref_floats(n);

    ref_values(p, n, stream, scale, offset);
    return p;
}

static inline double *ref_double(const float *src, size_t n)
{
    double *p = ref_alloc(n * sizeof *p);

    for (size_t i = 0; i < n; i++)
        p[i] = (double)src[i];
    return p;
}

/* A weight of that dtype holding the values, which must be exact in it. To be freed by its data. */
static inline struct llama_weight ref_weight(const float *values, size_t n, enum ofl_dtype dtype)
{
    void *data = ref_alloc(n * 4);

    if (dtype == OFL_F32)
        memcpy(data, values, n * 4);
    else if (dtype == OFL_BF16)
        llama_to_bf16(data, values, n);
    else
        llama_to_f16(data, values, n);
    return (struct llama_weight){.data = data, .dtype = dtype};
}

/* Largest difference over the largest reference value. NaN anywhere gives infinity. */
static inline double ref_error(const float *got, const double *want, size_t n)
{
    double error = 0, size = 1e-30;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);

        if (!(d <= 1e300))
            return INFINITY;
        error = d > error ? d : error;
        size = fabs(want[i]) > size ? fabs(want[i]) : size;
    }
    return error / size;
}

/* ---- finite differences --------------------------------------------------- */

typedef double ref_loss(void *arg);

static inline double ref_slope(ref_loss *loss, void *arg, double *theta, const double *dir, size_t n)
{
    const double step = 1e-5;
    double up, down;

    for (size_t i = 0; i < n; i++)
        theta[i] += step * dir[i];
    up = loss(arg);
    for (size_t i = 0; i < n; i++)
        theta[i] -= 2 * step * dir[i];
    down = loss(arg);
    for (size_t i = 0; i < n; i++)
        theta[i] += step * dir[i];
    return (up - down) / (2 * step);
}

/* A direction of length 1, by trial: along grad; two random ones, in which all elements take part;
 * the largest element of grad alone; single elements. */
static inline void ref_direction(double *dir, const float *grad, size_t n, double norm, uint64_t trial)
{
    size_t at = ref_hash(77, trial) % n;

    for (size_t i = 0; trial == 3 && i < n; i++)
        at = fabsf(grad[i]) > fabsf(grad[at]) ? i : at;
    for (size_t i = 0; i < n; i++)
        if (trial == 0)
            dir[i] = (double)grad[i] / (norm + 1e-30);
        else if (trial < 3)
            dir[i] = (ref_hash(100 + trial, i) & 1 ? 1 : -1) / sqrt((double)n);
        else
            dir[i] = i == at;
}

/*
 * Is `grad` the gradient of loss at theta? The error allowed is `tolerance` times the gradient's norm,
 * or for single elements times the largest one.
 */
static inline bool ref_is_gradient(const char *name, ref_loss *loss, void *arg, double *theta,
                                   const float *grad, size_t n, double tolerance, bool quiet)
{
    double *dir = ref_alloc(n * sizeof *dir), norm = 0, max = 0;
    bool good;

    for (size_t i = 0; i < n; i++) {
        norm += (double)grad[i] * (double)grad[i];
        max = fabs((double)grad[i]) > max ? fabs((double)grad[i]) : max;
    }
    norm = sqrt(norm);
    good = isfinite(norm);
    for (uint64_t trial = 0; good && trial < 8; trial++) {
        double want, got = 0, allowed = tolerance * (trial < 3 ? norm : max) + 1e-9;

        ref_direction(dir, grad, n, norm, trial);
        want = ref_slope(loss, arg, theta, dir, n);
        for (size_t i = 0; i < n; i++)
            got += (double)grad[i] * dir[i];
        good = fabs(want - got) <= allowed;
        if (!good && !quiet)
            fprintf(stderr, "gradient of %s, trial %d: %.9g, by differences %.9g, allowed %.2g\n", name,
                    (int)trial, got, want, allowed);
    }
    free(dir);
    return good;
}

/* ---- the reference --------------------------------------------------------- */

/* y[rows, out] (+)= x * w^T */
static inline void ref_matmul(double *y, const double *x, const double *w, size_t rows, size_t in, size_t out,
                              bool accumulate)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < out; j++) {
            double sum = accumulate ? y[r * out + j] : 0;

            for (size_t i = 0; i < in; i++)
                sum += x[r * in + i] * w[j * in + i];
            y[r * out + j] = sum;
        }
}

static inline void ref_norm(double *y, const double *x, const double *w, size_t rows, size_t hidden,
                            double eps)
{
    for (size_t r = 0; r < rows; r++) {
        double square = 0;

        for (size_t i = 0; i < hidden; i++)
            square += x[r * hidden + i] * x[r * hidden + i];
        for (size_t i = 0; i < hidden; i++)
            y[r * hidden + i] = w[i] * x[r * hidden + i] / sqrt(square / (double)hidden + eps);
    }
}

/* One row at its position. inv_freq is taken in f32, as everybody's is. */
static inline void ref_rope(double *x, size_t heads, size_t head_dim, const float *inv_freq, size_t position)
{
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)((float)position * inv_freq[i]);
            double *a = x + h * head_dim + i, *b = a + head_dim / 2, t = *a;

            *a = t * cos(angle) - *b * sin(angle);
            *b = *b * cos(angle) + t * sin(angle);
        }
}

static inline void ref_swiglu(double *act, const double *gate, const double *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        act[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

/* One sequence, from position 0. */
static inline void ref_attention(double *out, const double *q, const double *k, const double *v,
                                 const struct llama_shape *s, size_t n)
{
    size_t dim = s->head_dim, qs = s->heads * dim, ks = s->kv_heads * dim, group = s->heads / s->kv_heads;
    double *p = ref_alloc(n * sizeof *p);

    for (size_t h = 0; h < s->heads; h++)
        for (size_t r = 0; r < n; r++) {
            double max = -INFINITY, sum = 0, *o = out + r * qs + h * dim;

            for (size_t t = 0; t <= r; t++) {
                p[t] = 0;
                for (size_t i = 0; i < dim; i++)
                    p[t] += q[r * qs + h * dim + i] * k[t * ks + h / group * dim + i];
                p[t] /= sqrt((double)dim);
                max = p[t] > max ? p[t] : max;
            }
            for (size_t t = 0; t <= r; t++)
                sum += p[t] = exp(p[t] - max);
            memset(o, 0, dim * sizeof *o);
            for (size_t t = 0; t <= r; t++)
                for (size_t i = 0; i < dim; i++)
                    o[i] += p[t] / sum * v[t * ks + h / group * dim + i];
        }
    free(p);
}

/* Weights in the order attn_norm, q, k, v, o, mlp_norm, gate, up, down. */
#define REF_BLOCK_WEIGHTS 9

static inline void ref_block(const struct llama_shape *s, size_t batch, size_t seq, double *const *w,
                             const double *x, double *out)
{
    size_t rows = batch * seq, hidden = s->hidden, qd = s->heads * s->head_dim,
           kd = s->kv_heads * s->head_dim;
    double *normed = ref_alloc(rows * hidden * 8), *q = ref_alloc(rows * qd * 8),
           *k = ref_alloc(rows * kd * 8);
    double *v = ref_alloc(rows * kd * 8), *mixed = ref_alloc(rows * qd * 8),
           *gate = ref_alloc(rows * s->ffn * 8);
    double *up = ref_alloc(rows * s->ffn * 8);
    float *inv_freq = ref_floats(s->head_dim);

    llama_rope_inv_freq(inv_freq, s, 0);
    ref_norm(normed, x, w[0], rows, hidden, (double)s->rms_eps);
    ref_matmul(q, normed, w[1], rows, hidden, qd, false);
    ref_matmul(k, normed, w[2], rows, hidden, kd, false);
    ref_matmul(v, normed, w[3], rows, hidden, kd, false);
    for (size_t r = 0; r < rows; r++) {
        ref_rope(q + r * qd, s->heads, s->head_dim, inv_freq, r % seq);
        ref_rope(k + r * kd, s->kv_heads, s->head_dim, inv_freq, r % seq);
    }
    for (size_t b = 0; b < batch; b++)
        ref_attention(mixed + b * seq * qd, q + b * seq * qd, k + b * seq * kd, v + b * seq * kd, s, seq);
    memcpy(out, x, rows * hidden * sizeof *out);
    ref_matmul(out, mixed, w[4], rows, qd, hidden, true);
    ref_norm(normed, out, w[5], rows, hidden, (double)s->rms_eps);
    ref_matmul(gate, normed, w[6], rows, hidden, s->ffn, false);
    ref_matmul(up, normed, w[7], rows, hidden, s->ffn, false);
    ref_swiglu(gate, gate, up, rows * s->ffn);
    ref_matmul(out, gate, w[8], rows, s->ffn, hidden, true);
    free(normed);
    free(q);
    free(k);
    free(v);
    free(mixed);
    free(gate);
    free(up);
    free(inv_freq);
}

/* Sum of -log p over rows with a target. */
static inline double ref_head_loss(const struct llama_shape *s, size_t rows, const double *norm,
                                   const double *head, const double *x, const int32_t *targets)
{
    double *normed = ref_alloc(rows * s->hidden * 8), *logits = ref_alloc(s->vocab * 8), loss = 0;

    ref_norm(normed, x, norm, rows, s->hidden, (double)s->rms_eps);
    for (size_t r = 0; r < rows; r++) {
        double max = -INFINITY, sum = 0;

        if (targets[r] < 0)
            continue;
        ref_matmul(logits, normed + r * s->hidden, head, 1, s->hidden, s->vocab, false);
        for (size_t i = 0; i < s->vocab; i++)
            max = logits[i] > max ? logits[i] : max;
        for (size_t i = 0; i < s->vocab; i++)
            sum += exp(logits[i] - max);
        loss += log(sum) + max - logits[targets[r]];
    }
    free(normed);
    free(logits);
    return loss;
}

#endif
