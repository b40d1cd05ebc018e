/*
 * Rotary embedding and causal attention. Scores exist for one head and one block of query rows
 * at a time; keys behind the block's last query, or before the window of its first, are never touched.
 */
#include <cblas.h>

#include "examples/model/kernels_inline.h"

/* ---- rotary embedding ---------------------------------------------------- */

/* Llama 3.1's scaling: long wavelengths are stretched by factor, short ones kept, with a
 * linear passage between, in the wavelength's inverse. */
static float llama3_inv_freq(float inv_freq, const struct llama_rope *rope)
{
    float low = rope->low_freq_factor, high = rope->high_freq_factor;
    float original = (float)rope->original_positions, factor = rope->factor;
    float wavelength = (float)(2 * M_PI) / inv_freq;
    float smooth;

    if (wavelength < original / high)
        return inv_freq;
    if (wavelength > original / low)
        return inv_freq / factor;
    smooth = (original / wavelength - low) / (high - low);
    return (1.0f - smooth) * inv_freq / factor + smooth * inv_freq;
}

/* The dimension that turns so often within the original positions (Peng et al., 2023). */
static double yarn_dim(const struct llama_rope *rope, double theta, double dims, double turns)
{
    return dims * log(rope->original_positions / (turns * 2 * M_PI)) / (2 * log(theta));
}

/* Dimensions that turn often are kept, those that turn seldom are stretched by factor, with a linear passage. */
static float yarn_inv_freq(float power, const struct llama_rope *rope, double theta, double dims, size_t i)
{
    double low = yarn_dim(rope, theta, dims, (double)rope->beta_fast),
           high = yarn_dim(rope, theta, dims, (double)rope->beta_slow);
    float ramp, kept;

    low = fmax(rope->exact_range ? low : floor(low), 0);
    high = fmin(rope->exact_range ? high : ceil(high), dims - 1);
    high = low == high ? high + 0.001 : high;
    ramp = ((float)i - (float)low) / (float)(high - low);
    kept = 1.0f - fminf(fmaxf(ramp, 0), 1);
    return 1.0f / (rope->factor * power) * (1.0f - kept) + 1.0f / power * kept;
}

static float inv_freq_of(const struct llama_shape *shape, uint32_t layer, size_t i)
{
    bool local = llama_layer_local(shape, layer);
    const struct llama_rope *rope = local ? &shape->local_rope : &shape->rope;
    float theta = local ? shape->local_theta : shape->rope_theta, dims = (float)llama_rope_dims(shape);
    float power = powf(theta, (float)(2 * i) / dims), f = 1.0f / power;

    switch (rope->kind) {
    case LLAMA_ROPE_LINEAR:
        return f / rope->factor;
    case LLAMA_ROPE_LLAMA3:
        return llama3_inv_freq(f, rope);
    case LLAMA_ROPE_YARN:
        return yarn_inv_freq(power, rope, (double)theta, (double)dims, i);
    case LLAMA_ROPE_LONG:
        return 1.0f / ((rope->far ? rope->far_factors : rope->near_factors)[i] * power);
    case LLAMA_ROPE_PLAIN:
        break;
    }
    return f;
}

void llama_rope_inv_freq(float *inv_freq, const struct llama_shape *shape, uint32_t layer)
{
    for (size_t i = 0; i < llama_rope_dims(shape) / 2; i++)
        inv_freq[i] = inv_freq_of(shape, layer, i);
}

void llama_rope_table(float *table, const struct llama_shape *shape, uint32_t layer, size_t first, size_t n)
{
    const struct llama_rope *rope = llama_layer_local(shape, layer) ? &shape->local_rope : &shape->rope;
    size_t half = llama_rope_dims(shape) / 2;

    for (size_t i = 0; i < half; i++) {
        float f = inv_freq_of(shape, layer, i);

        for (size_t p = 0; p < n; p++) {
            float angle = (float)(first + p) * f;

            table[p * 2 * half + i] = cosf(angle);
            table[p * 2 * half + half + i] = sinf(angle);
        }
    }
    if (rope->attention_factor != 0)
        llama_scale(table, n * 2 * half, rope->attention_factor);
}

static LLAMA_WIDE void rotate(float *x, const float *table, size_t heads, size_t head_dim, size_t half,
                              float sign)
{
    for (size_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < half; i++) {
            float a = x[i], b = x[half + i], c = table[i], s = sign * table[half + i];

            x[i] = a * c - b * s;
            x[half + i] = b * c + a * s;
        }
}

void llama_rope(float *x, size_t batch, size_t seq, size_t heads, size_t head_dim, size_t dims,
                const float *table, bool backward)
{
    for (size_t r = 0; r < batch * seq; r++)
        rotate(x + r * heads * head_dim, table + r % seq * dims, heads, head_dim, dims / 2,
               backward ? -1 : 1);
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

void llama_rope_together(float *x, size_t rows, size_t heads, size_t head_dim)
{
    float pairs[LLAMA_PAIRS_HEAD_MOST];

    for (size_t r = 0; r < rows * heads; r++, x += head_dim) {
        for (size_t i = 0; i < head_dim / 2; i++) {
            pairs[2 * i] = x[i];
            pairs[2 * i + 1] = x[head_dim / 2 + i];
        }
        memcpy(x, pairs, head_dim * sizeof *x);
    }
}

/* ---- attention ----------------------------------------------------------- */

/* One head and one block of queries of one sequence. */
struct block {
    size_t dim, group; /* head_dim; query heads to a key head */
    size_t q_stride, k_stride;
    size_t head;
    size_t row, rows;  /* queries row .. row + rows - 1 */
    size_t from, keys; /* what any of them sees: keys from .. from + keys - 1 */
    size_t window;     /* that one sees; 0: all up to its own */
    float scale, cap;
    const float *sinks; /* a score for each head, of what no key has; NULL: there is none */
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
    return b->from * b->k_stride + b->head / b->group * b->dim;
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

/* Of the block's keys, those that a row sees: from .. to - 1. */
struct seen {
    size_t from, to;
};

LLAMA_INLINE struct seen seen_by(const struct block *b, size_t row)
{
    size_t to = b->keys - b->rows + row + 1;

    return (struct seen){b->window && to > b->window ? to - b->window : 0, to};
}

/* row[i] = exp(row[i] - the largest score); returns the sum, with that of the sink. */
static float weigh(float *row, size_t n, const struct block *b)
{
    float most = llama_max(row, n), sink = b->sinks ? b->sinks[b->head] : 0;

    if (!b->sinks)
        return llama_exp_sum(row, n, most);
    most = sink > most ? sink : most;
    return llama_exp_sum(row, n, most) + llama_exp(sink - most);
}

/* Softmax of each row over the keys that it may see; zero for the others. */
static void softmax(float *scores, const struct block *b)
{
    for (size_t r = 0; r < b->rows; r++, scores += b->keys) {
        struct seen s = seen_by(b, r);
        float *row = scores + s.from;
        size_t n = s.to - s.from;

        if (b->cap > 0)
            llama_cap(row, n, b->cap);
        llama_scale(row, n, 1.0f / weigh(row, n, b));
        memset(scores, 0, s.from * sizeof *scores);
        memset(scores + s.to, 0, (b->keys - s.to) * sizeof *scores);
    }
}

/* d[i] becomes the gradient at the scores: p_i (d_i - sum_k p_k d_k). */
static LLAMA_WIDE void softmax_backward(float *d, const float *p, const struct block *b)
{
    for (size_t r = 0; r < b->rows; r++, d += b->keys, p += b->keys) {
        struct seen s = seen_by(b, r);
        float sum = llama_dot(p + s.from, d + s.from, s.to - s.from);

        for (size_t i = 0; i < s.from; i++)
            d[i] = 0;
        for (size_t i = s.from; i < s.to; i++)
            d[i] = p[i] * (d[i] - sum);
        for (size_t i = s.to; i < b->keys; i++)
            d[i] = 0;
    }
}

/* d[i] becomes the gradient at the scores before the cap: d_i (1 - tanh(score / cap)^2). */
static LLAMA_WIDE void cap_backward(float *d, const float *scores, const struct block *b)
{
    for (size_t i = 0; i < b->rows * b->keys; i++) {
        float t = llama_tanh(scores[i] / b->cap);

        d[i] *= 1.0f - t * t;
    }
}

static struct block block_of(const struct llama_shape *shape, uint32_t layer)
{
    return (struct block){
        .dim = shape->head_dim,
        .group = shape->heads / shape->kv_heads,
        .q_stride = (size_t)shape->heads * shape->head_dim,
        .k_stride = (size_t)shape->kv_heads * shape->head_dim,
        .window = llama_layer_window(shape, layer),
        .scale = shape->attn_scale > 0 ? shape->attn_scale : 1.0f / sqrtf((float)shape->head_dim),
        .cap = shape->attn_cap,
    };
}

static void set_rows(struct block *b, size_t row, size_t first, size_t n)
{
    b->row = row;
    b->rows = n - row < LLAMA_QUERY_ROWS ? n - row : LLAMA_QUERY_ROWS;
    b->from = b->window && first + row + 1 > b->window ? first + row + 1 - b->window : 0;
    b->keys = first + row + b->rows - b->from;
}

void llama_attention(float *out, const float *q, const float *k, const float *v,
                     const struct llama_shape *shape, uint32_t layer, size_t first, size_t n, void *ws)
{
    llama_attention_sinks(out, q, k, v, shape, layer, NULL, first, n, ws);
}

void llama_attention_sinks(float *out, const float *q, const float *k, const float *v,
                           const struct llama_shape *shape, uint32_t layer, const float *sinks, size_t first,
                           size_t n, void *ws)
{
    struct block b = block_of(shape, layer);

    b.sinks = sinks;
    for (b.head = 0; b.head < shape->heads; b.head++)
        for (size_t row = 0; row < n; row += LLAMA_QUERY_ROWS) {
            set_rows(&b, row, first, n);
            scores_of(ws, &b, q, k, b.scale);
            softmax(ws, &b);
            mix_values(out, &b, ws, v, 1);
        }
}

void llama_attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *q,
                              const float *k, const float *v, const struct llama_shape *shape, uint32_t layer,
                              size_t n, void *ws)
{
    struct block b = block_of(shape, layer);
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
            if (b.cap > 0) {
                scores_of(p, &b, q, k, b.scale); /* p has served */
                cap_backward(d, p, &b);
            }
            add_to_keys(dk, &b, d, q, b.scale); /* before dq overwrites q */
            mix_values(dq, &b, d, k, b.scale);
        }
}
