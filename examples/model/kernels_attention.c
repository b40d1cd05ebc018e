/*
 * Rotary embedding and causal attention. Scores exist for one head and one block of query rows
 * at a time; keys behind the block's last query are never touched.
 */
#include <cblas.h>

#include "examples/model/kernels_inline.h"

/* ---- rotary embedding ---------------------------------------------------- */

/* Llama 3.1's scaling: long wavelengths are stretched by factor, short ones kept, with a
 * linear passage between, in the wavelength's inverse. */
static float llama3_inv_freq(float inv_freq, const struct llama_shape *shape)
{
    float low = shape->rope.low_freq_factor, high = shape->rope.high_freq_factor;
    float original = (float)shape->rope.original_positions, factor = shape->rope.factor;
    float wavelength = (float)(2 * M_PI) / inv_freq;
    float smooth;

    if (wavelength < original / high)
        return inv_freq;
    if (wavelength > original / low)
        return inv_freq / factor;
    smooth = (original / wavelength - low) / (high - low);
    return (1.0f - smooth) * inv_freq / factor + smooth * inv_freq;
}

static float inv_freq_of(const struct llama_shape *shape, size_t i)
{
    float f = 1.0f / powf(shape->rope_theta, (float)(2 * i) / (float)shape->head_dim);

    switch (shape->rope.kind) {
    case LLAMA_ROPE_LINEAR:
        return f / shape->rope.factor;
    case LLAMA_ROPE_LLAMA3:
        return llama3_inv_freq(f, shape);
    case LLAMA_ROPE_PLAIN:
        break;
    }
    return f;
}

void llama_rope_inv_freq(float *inv_freq, const struct llama_shape *shape)
{
    for (size_t i = 0; i < shape->head_dim / 2; i++)
        inv_freq[i] = inv_freq_of(shape, i);
}

void llama_rope_table(float *table, const struct llama_shape *shape, size_t first, size_t n)
{
    size_t half = shape->head_dim / 2;

    for (size_t i = 0; i < half; i++) {
        float f = inv_freq_of(shape, i);

        for (size_t p = 0; p < n; p++) {
            float angle = (float)(first + p) * f;

            table[p * 2 * half + i] = cosf(angle);
            table[p * 2 * half + half + i] = sinf(angle);
        }
    }
}

static LLAMA_WIDE void rotate(float *x, const float *table, size_t heads, size_t half, float sign)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half)
        for (size_t i = 0; i < half; i++) {
            float a = x[i], b = x[half + i], c = table[i], s = sign * table[half + i];

            x[i] = a * c - b * s;
            x[half + i] = b * c + a * s;
        }
}

void llama_rope(float *x, size_t batch, size_t seq, size_t heads, size_t head_dim, const float *table,
                bool backward)
{
    for (size_t r = 0; r < batch * seq; r++)
        rotate(x + r * heads * head_dim, table + r % seq * head_dim, heads, head_dim / 2, backward ? -1 : 1);
}

void llama_rope_apart(float *x, size_t rows, size_t heads, size_t head_dim)
{
    float apart[LLAMA_PAIRS_HEAD_MOST];

    for (size_t r = 0; r < rows * heads; r++, x += head_dim) {
        for (size_t i = 0; i < head_dim / 2; i++) {
            apart[i] = x[2 * i];
            apart[head_dim / 2 + i] = x[2 * i + 1];
        }
        memcpy(x, apart, head_dim * sizeof *x);
    }
}

/* ---- attention ----------------------------------------------------------- */

/* One head and one block of queries of one sequence. */
struct block {
    size_t dim, group; /* head_dim; query heads to a key head */
    size_t q_stride, k_stride;
    size_t head;
    size_t row, rows, keys; /* queries row .. row + rows - 1; all of them see less than keys */
    float scale;
};

static size_t score_bytes(size_t positions)
{
    size_t row = (positions * sizeof(float) + LLAMA_ALIGN - 1) / LLAMA_ALIGN * LLAMA_ALIGN;

    return row * LLAMA_QUERY_ROWS;
}

size_t llama_attention_workspace(size_t positions)
{
    return score_bytes(positions);
}

size_t llama_attention_backward_workspace(size_t positions)
{
    return 2 * score_bytes(positions);
}

static size_t q_at(const struct block *b)
{
    return b->row * b->q_stride + b->head * b->dim;
}

static size_t k_at(const struct block *b)
{
    return b->head / b->group * b->dim;
}

/* scores[rows, keys] = scale * a[rows, dim] * b[keys, dim]^T, with a strided as q and b as k */
static void scores_of(float *scores, const struct block *b, const float *a, const float *k, float scale)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)b->rows, (blasint)b->keys, (blasint)b->dim,
                scale, a + q_at(b), (blasint)b->q_stride, k + k_at(b), (blasint)b->k_stride, 0, scores,
                (blasint)b->keys);
}

/* a[rows, dim] = scale * scores[rows, keys] * k[keys, dim] */
static void mix_values(float *a, const struct block *b, const float *scores, const float *k, float scale)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)b->rows, (blasint)b->dim,
                (blasint)b->keys, scale, scores, (blasint)b->keys, k + k_at(b), (blasint)b->k_stride, 0,
                a + q_at(b), (blasint)b->q_stride);
}

/* dk[keys, dim] += scale * scores^T * a[rows, dim] */
static void add_to_keys(float *dk, const struct block *b, const float *scores, const float *a, float scale)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)b->keys, (blasint)b->dim, (blasint)b->rows,
                scale, scores, (blasint)b->keys, a + q_at(b), (blasint)b->q_stride, 1, dk + k_at(b),
                (blasint)b->k_stride);
}

/* Softmax of each row over the keys that it may see; zero for the others. */
static void softmax(float *scores, const struct block *b)
{
    for (size_t r = 0; r < b->rows; r++, scores += b->keys) {
        size_t seen = b->keys - b->rows + r + 1;

        llama_scale(scores, seen, 1.0f / llama_exp_sum(scores, seen, llama_max(scores, seen)));
        memset(scores + seen, 0, (b->keys - seen) * sizeof *scores);
    }
}

/* d[i] becomes the gradient at the scores: p_i (d_i - sum_k p_k d_k). */
static LLAMA_WIDE void softmax_backward(float *d, const float *p, const struct block *b)
{
    for (size_t r = 0; r < b->rows; r++, d += b->keys, p += b->keys) {
        size_t seen = b->keys - b->rows + r + 1;
        float sum = llama_dot(p, d, seen);

        for (size_t i = 0; i < seen; i++)
            d[i] = p[i] * (d[i] - sum);
        for (size_t i = seen; i < b->keys; i++)
            d[i] = 0;
    }
}

static struct block block_of(const struct llama_shape *shape)
{
    return (struct block){
        .dim = shape->head_dim,
        .group = shape->heads / shape->kv_heads,
        .q_stride = (size_t)shape->heads * shape->head_dim,
        .k_stride = (size_t)shape->kv_heads * shape->head_dim,
        .scale = 1.0f / sqrtf((float)shape->head_dim),
    };
}

static void set_rows(struct block *b, size_t row, size_t first, size_t n)
{
    b->row = row;
    b->rows = n - row < LLAMA_QUERY_ROWS ? n - row : LLAMA_QUERY_ROWS;
    b->keys = first + row + b->rows;
}

void llama_attention(float *out, const float *q, const float *k, const float *v,
                     const struct llama_shape *shape, size_t first, size_t n, void *ws)
{
    struct block b = block_of(shape);

    for (b.head = 0; b.head < shape->heads; b.head++)
        for (size_t row = 0; row < n; row += LLAMA_QUERY_ROWS) {
            set_rows(&b, row, first, n);
            scores_of(ws, &b, q, k, b.scale);
            softmax(ws, &b);
            mix_values(out, &b, ws, v, 1);
        }
}

void llama_attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *q,
                              const float *k, const float *v, const struct llama_shape *shape, size_t n,
                              void *ws)
{
    struct block b = block_of(shape);
    float *p = ws;
    float *d = (float *)((char *)ws + score_bytes(n));

    memset(dk, 0, n * b.k_stride * sizeof *dk);
    memset(dv, 0, n * b.k_stride * sizeof *dv);
    for (b.head = 0; b.head < shape->heads; b.head++)
        for (size_t row = 0; row < n; row += LLAMA_QUERY_ROWS) {
            set_rows(&b, row, 0, n);
            scores_of(p, &b, q, k, b.scale);
            softmax(p, &b);
            add_to_keys(dv, &b, p, dout, 1);
            scores_of(d, &b, dout, v, 1);
            softmax_backward(d, p, &b);
            add_to_keys(dk, &b, d, q, b.scale); /* before dq overwrites q */
            mix_values(dq, &b, d, k, b.scale);
        }
}
