/*
 * Number formats, random numbers, sampling.
 */
#include "examples/model/kernels_inline.h"
#include "include/offload_landing.h"

/* ---- formats ------------------------------------------------------------- */

static LLAMA_WIDE void widen_bf16(float *dst, const uint16_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = llama_bits_to_float((uint32_t)src[i] << 16);
}

/* An f16's exponent and mantissa put into an f32 stand for 2^-112 of its value, subnormal or not. */
static LLAMA_WIDE void widen_f16(float *dst, const uint16_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t half = src[i], size = (half & 0x7fffu) << 13;
        uint32_t bits = llama_float_to_bits(llama_bits_to_float(size) * 0x1p112f);

        bits = size >= 0x0f800000u ? size | 0x7f800000u : bits; /* infinity, NaN */
        dst[i] = llama_bits_to_float(bits | (half & 0x8000u) << 16);
    }
}

/* Dtypes are checked when a checkpoint is opened. */
static void unpack(float *dst, const void *src, enum ofl_dtype dtype, size_t n)
{
    struct ofl_landing l = {
        .size = sizeof l, .dtype = dtype, .to = OFL_F32, .elems = n, .packed = src, .out = dst};

    if (ofl_landing_run(&l) < 0)
        for (size_t i = 0; i < n; i++)
            dst[i] = NAN; /* reaches the outputs, and is seen there */
}

void llama_widen(float *dst, const void *src, enum ofl_dtype dtype, size_t n)
{
    if (dtype == OFL_F32)
        memcpy(dst, src, n * sizeof *dst);
    else if (dtype == OFL_BF16)
        widen_bf16(dst, src, n);
    else if (dtype == OFL_F16)
        widen_f16(dst, src, n);
    else
        unpack(dst, src, dtype, n);
}

uint64_t llama_dtype_bytes(enum ofl_dtype dtype, uint64_t n)
{
    struct ofl_dtype_info info = {.size = sizeof info};

    if (ofl_dtype_bytes(dtype))
        return n * ofl_dtype_bytes(dtype);
    return ofl_dtype_info_get(dtype, &info) < 0 ? 0 : n / info.block_elems * info.block_bytes;
}

LLAMA_WIDE void llama_to_bf16(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = llama_float_to_bits(src[i]);
        uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
        uint32_t nan = bits >> 16 | 0x40;

        dst[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    }
}

static uint16_t to_f16(float f)
{
    uint32_t bits = llama_float_to_bits(f), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;

    if (size > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (size >> 13 & 0x3ffu));
    if (size >= 0x477ff000u) /* 65520, half way to 2^16, and above */
        return (uint16_t)(sign | 0x7c00u);
    if (size < 0x38800000u) { /* below 2^-14: adding 1/2 rounds to multiples of 2^-24 */
        float shifted = llama_bits_to_float(size) + 0.5f;

        return (uint16_t)(sign | (llama_float_to_bits(shifted) - 0x3f000000u));
    }
    size += 0xfffu + (size >> 13 & 1);
    return (uint16_t)(sign | ((size >> 13) - (112u << 10)));
}

void llama_to_f16(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = to_f16(src[i]);
}

/* ---- random numbers ------------------------------------------------------ */

/* The finaliser of SplitMix64 (Steele, Lea & Flood, 2014): a bijection whose output looks random. */
LLAMA_INLINE uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15u

static uint64_t rng_next(struct llama_rng *rng)
{
    rng->state += GOLDEN_GAMMA;
    return mix(rng->state);
}

/* ln(u) for normal u > 0, error about 1e-7: u = m 2^e, ln m = 2 artanh((m - 1) / (m + 1)). */
LLAMA_INLINE float log_of(float u)
{
    uint32_t bits = llama_float_to_bits(u) - 0x3f3504f3u; /* counts exponents from sqrt(1/2) */
    float e = (float)((int32_t)bits >> 23);
    float m = llama_bits_to_float((bits & 0x7fffffu) + 0x3f3504f3u);
    float s = (m - 1) / (m + 1), q = s * s;

    return e * 0.69314718f + 2 * s * (1 + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9)))));
}

/* sin(2 pi t) for t in -1/2 .. 3/4, error about 1e-7. */
LLAMA_INLINE float sin_of_turn(float t)
{
    float x, q;

    t = t > 0.5f ? t - 1 : t;
    t = t > 0.25f ? 0.5f - t : t;
    t = t < -0.25f ? -0.5f - t : t;
    x = t * 6.28318531f;
    q = x * x;
    return x * (1 + q * (-1.0f / 6 +
                         q * (1.0f / 120 +
                              q * (-1.0f / 5040 + q * (1.0f / 362880 + q * (-1.0f / 39916800 +
                                                                            q * (1.0f / 6227020800.0f)))))));
}

/*
 * Box & Muller (1958): elements 2k and 2k + 1 are the sine and the cosine of one pair of uniform
 * numbers, hashed from (seed, k). Own log and sine, so that the bits don't depend on libm.
 */
LLAMA_WIDE void llama_init_normal(float *dst, uint64_t first_elem, uint64_t n, uint64_t seed, float std)
{
    uint64_t key = mix(seed + GOLDEN_GAMMA);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t elem = first_elem + i;
        uint64_t bits = mix(mix((elem >> 1) * GOLDEN_GAMMA + key) ^ key);
        float u = ((float)(int32_t)(bits >> 33) + 1) * 0x1p-31f;
        float t = (float)((int32_t)(bits & 0xffffffu) - 0x800000) * 0x1p-24f;
        float quarter = (float)(int32_t)(elem & 1) * 0.25f;

        dst[i] = std * (sqrtf(-2 * log_of(u)) * sin_of_turn(t + quarter));
    }
}

/* ---- sampling ------------------------------------------------------------ */

struct candidate {
    float p;
    int32_t token;
};

size_t llama_sample_workspace(size_t vocab)
{
    return vocab * sizeof(struct candidate);
}

/* Lowest index of the maximum; -1 if any is NaN or all are -infinity. */
static int32_t greedy(const float *logits, size_t vocab)
{
    float max = -INFINITY;
    int32_t best = -1;

    for (size_t i = 0; i < vocab; i++) {
        if (isnan(logits[i]))
            return -1;
        if (logits[i] > max) {
            max = logits[i];
            best = (int32_t)i;
        }
    }
    return best;
}

/* Likelier first, then the lower token. */
static bool before(struct candidate a, struct candidate b)
{
    return a.p > b.p || (a.p == b.p && a.token < b.token);
}

static void sift_down(struct candidate *heap, size_t i, size_t n)
{
    for (;;) {
        size_t best = i, left = 2 * i + 1, right = left + 1;
        struct candidate swap;

        if (left < n && before(heap[left], heap[best]))
            best = left;
        if (right < n && before(heap[right], heap[best]))
            best = right;
        if (best == i)
            return;
        swap = heap[i];
        heap[i] = heap[best];
        heap[best] = swap;
        i = best;
    }
}

/* Moves the likeliest candidates, in order, to the end of c: `most` at most, until they hold `enough`, and none
 * below `least` behind the first; returns how many, and their sum. Only as much is sorted as is needed. */
static size_t nucleus(struct candidate *c, size_t n, size_t most, double enough, float least, double *sum)
{
    size_t taken = 0;

    *sum = 0;
    for (size_t i = n / 2; i-- > 0;)
        sift_down(c, i, n);
    while (taken < n && taken < most && (taken == 0 || (*sum < enough && c[0].p >= least))) {
        struct candidate top = c[0];

        taken++;
        c[0] = c[n - taken];
        c[n - taken] = top;
        sift_down(c, 0, n - taken);
        *sum += (double)top.p;
    }
    return taken;
}

/* What the settings leave, at the end of c, likeliest last. */
static size_t choose(struct candidate *c, size_t vocab, const struct llama_sampling *s, double *sum)
{
    size_t most = s->top_k && s->top_k < vocab ? s->top_k : vocab, n;
    double enough = s->top_p < 1 ? (double)s->top_p * *sum : INFINITY, held = 0;

    if (most == vocab || s->top_p >= 1)
        return nucleus(c, vocab, most, enough, s->min_p, sum);
    /* the probability is that among the top k */
    n = nucleus(c, vocab, most, INFINITY, 0, sum);
    enough = (double)s->top_p * *sum;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (held >= enough || c[vocab - 1 - i].p < s->min_p)) {
            n = i;
            break;
        }
        held += (double)c[vocab - 1 - i].p;
    }
    *sum = held;
    return n;
}

int32_t llama_sample(const float *logits, size_t vocab, const struct llama_sampling *s, struct llama_rng *rng,
                     void *ws)
{
    bool all = s->top_p >= 1 && s->top_k == 0 && !(s->min_p > 0);
    int32_t best = greedy(logits, vocab);
    struct candidate *c = ws;
    double sum = 0, left;
    size_t n = vocab;

    if (best < 0 || !(s->temperature > 0) || !(s->top_p > 0) || isinf(logits[best]))
        return best;
    for (size_t i = 0; i < vocab; i++) {
        c[i] = (struct candidate){llama_exp((logits[i] - logits[best]) / s->temperature), (int32_t)i};
        sum += (double)c[i].p;
    }
    if (!all)
        n = choose(c, vocab, s, &sum);
    left = (double)(rng_next(rng) >> 11) * 0x1p-53 * sum;
    for (size_t i = 0; i < n; i++) {
        struct candidate pick = all ? c[i] : c[vocab - 1 - i];

        left -= (double)pick.p;
        if (left < 0)
            return pick.token;
    }
    return best; /* rounding left a crumb */
}

void llama_penalize(float *logits, size_t vocab, const int32_t *tokens, size_t count, float penalty,
                    bool *seen)
{
    memset(seen, 0, vocab * sizeof *seen);
    for (size_t i = 0; i < count; i++) {
        float *logit = logits + tokens[i];

        if (!seen[tokens[i]])
            *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
        seen[tokens[i]] = true;
    }
}
