/*
 * Launches of the attention kernels of attention.cu: which one, its grid, its shared memory. See
 * kernels_cuda.h. A choice depends on the shapes alone, never on the GPU, since sums depend on it.
 *
 * The tensor cores' kernels take bf16 with head_dim 64 and 128, where rows are multiples of 16 bytes; the
 * others take the rest, up to ATTENTION_DIM.
 */
#include <assert.h>
#include <math.h>

#include "examples/model/kernels_cuda_inline.h"

#define ATTENTION_DIM  256 /* the largest head_dim */
#define DECODE_QUERIES 4   /* as many or fewer: one block each, whose warps share the keys */
#define DECODE_THREADS 512
#define LIMITED_DECODE 256 /* the same with a window or a cap */
#define DECODE_ROOM    256 /* floats of shared memory for the query */
#define TILE_THREADS   128
#define PLAIN_TILE     32 /* rows of queries, of keys; 16 in backward for head_dim above PLAIN_DIM */
#define PLAIN_DIM      128
#define MMA_QUERIES    128
#define MMA_TILE       64 /* rows that stream through shared memory, in forward and past queries */
#define MMA_KEYS_TILE  32 /* past keys */
#define PREPARE_ROWS   4  /* of queries to a block */
#define SUM_THREADS    256
#define KEYS_BLOCKS                                                                                          \
    256 /* of a sequence, in the gradient of keys: a group's heads are split to have so many */

static size_t parts_of(size_t n, size_t part)
{
    return n / part + (n % part != 0);
}

static size_t padded_to(size_t n, size_t part)
{
    return parts_of(n, part) * part;
}

/* A window or a cap, which the plain kernels have variants for. */
struct limits {
    uint32_t window;
    float cap; /* of scores before their scale */
};

static float scale_of(const struct llama_shape *shape)
{
    return shape->attn_scale > 0 ? shape->attn_scale : 1.0f / sqrtf((float)shape->head_dim);
}

static struct limits limits_of(const struct llama_shape *shape, uint32_t layer)
{
    return (struct limits){llama_layer_window(shape, layer), shape->attn_cap / scale_of(shape)};
}

static bool is_limited(struct limits l)
{
    return l.window > 0 || l.cap > 0;
}

static bool use_mma(const struct llama_shape *shape, struct limits limits, enum ofl_dtype dtype)
{
    return dtype == OFL_BF16 && (shape->head_dim == 64 || shape->head_dim == 128) && !is_limited(limits);
}

/* Floats of rows in shared memory, as attention_plain.cuh lays them. */
static size_t plain_rows(size_t rows, size_t dim)
{
    return rows * (padded_to(dim, 8) + 1);
}

/* ---- forward ------------------------------------------------------------------ */

static struct llama_launch forward_launch(const struct llama_shape *shape, struct limits limits,
                                          enum ofl_dtype dtype, size_t batch, size_t n)
{
    size_t dim = shape->head_dim;
    struct llama_launch l = {.dtype = dtype, .grid = {shape->heads, (unsigned)n, (unsigned)batch}};

    if (n <= DECODE_QUERIES) {
        l.name = is_limited(limits) ? "attention_limited_decode" : "attention_decode";
        l.threads = is_limited(limits) ? LIMITED_DECODE : DECODE_THREADS;
        l.shared_bytes = (DECODE_ROOM + l.threads / LLAMA_CUDA_WARP * (dim + 2)) * sizeof(float);
    } else if (use_mma(shape, limits, dtype)) {
        l.name = dim == 64 ? "attention_mma64" : "attention_mma128";
        l.grid[1] = (unsigned)parts_of(n, MMA_QUERIES);
        l.threads = TILE_THREADS;
        l.shared_bytes = (MMA_QUERIES + 3 * MMA_TILE) * dim * 2;
    } else {
        l.name = is_limited(limits) ? "attention_limited" : "attention";
        l.grid[1] = (unsigned)parts_of(n, PLAIN_TILE);
        l.threads = TILE_THREADS;
        l.shared_bytes = (2 * plain_rows(PLAIN_TILE, dim) + PLAIN_TILE * (PLAIN_TILE + 1)) * sizeof(float);
    }
    return l;
}

void llama_cuda_attention(struct llama_cuda *c, void *out, float *lse, const void *q, const void *k,
                          const void *v, enum ofl_dtype dtype, const struct llama_shape *shape,
                          uint32_t layer, size_t batch, size_t first, size_t n)
{
    struct limits limits = limits_of(shape, layer);
    struct llama_launch launch = forward_launch(shape, limits, dtype, batch, n);
    uint32_t heads = shape->heads, kv_heads = shape->kv_heads, dim = shape->head_dim, n_arg = (uint32_t)n,
             first_arg = (uint32_t)first;
    float scale = scale_of(shape);

    assert(dim <= ATTENTION_DIM);
    if (n == 0 || batch == 0)
        return;
    llama_cuda_launch(c, &launch,
                      (void *[]){&out, &lse, &q, &k, &v, &heads, &kv_heads, &dim, &n_arg, &first_arg, &scale,
                                 &limits.window, &limits.cap});
}

/* ---- backward ------------------------------------------------------------------ */

/* What backward takes, and how it divides its scratch. */
struct backward {
    const struct llama_shape *shape;
    struct limits limits;
    enum ofl_dtype dtype;
    size_t batch, n, padded;
    size_t splits;         /* of each group's heads, in the gradient of keys */
    size_t stats, partial; /* floats: of lse2 or delta; of the splits' sums */
};

static size_t mma_keys(const struct llama_shape *shape)
{
    return shape->head_dim == 64 ? 128 : 64;
}

/* The least divisor of a group that makes blocks enough; the whole group if none does. Of a sequence, so
 * that its gradients don't depend on others in the batch. */
static size_t splits_of(const struct llama_shape *shape, size_t n)
{
    size_t group = shape->heads / shape->kv_heads, splits = 1;
    size_t blocks = shape->kv_heads * parts_of(n, mma_keys(shape));

    while (splits < group && (group % splits != 0 || blocks * splits < KEYS_BLOCKS))
        splits++;
    return splits;
}

static struct backward backward_of(const struct llama_shape *shape, struct limits limits,
                                   enum ofl_dtype dtype, size_t batch, size_t n)
{
    struct backward b = {.shape = shape,
                         .limits = limits,
                         .dtype = dtype,
                         .batch = batch,
                         .n = n,
                         .padded = padded_to(n, MMA_QUERIES),
                         .splits = use_mma(shape, limits, dtype) ? splits_of(shape, n) : 1};

    b.stats = batch * shape->heads * b.padded;
    if (b.splits > 1)
        b.partial = 2 * b.splits * batch * n * shape->kv_heads * shape->head_dim;
    return b;
}

size_t llama_cuda_attention_backward_bytes(const struct llama_shape *shape, enum ofl_dtype dtype,
                                           size_t batch, size_t n)
{
    struct backward b = backward_of(shape, (struct limits){0}, dtype, batch, n); /* which needs the most */

    return (2 * b.stats + b.partial) * sizeof(float);
}

/* Of the gradient of keys and values. */
static struct llama_launch keys_launch(const struct backward *b)
{
    size_t dim = b->shape->head_dim, tile = dim > PLAIN_DIM ? PLAIN_TILE / 2 : PLAIN_TILE;
    struct llama_launch l = {.dtype = b->dtype,
                             .grid = {(unsigned)(b->shape->kv_heads * b->splits), 0, (unsigned)b->batch},
                             .threads = TILE_THREADS};

    if (use_mma(b->shape, b->limits, b->dtype)) {
        l.name = dim == 64 ? "attention_keys_mma64" : "attention_keys_mma128";
        l.grid[1] = (unsigned)parts_of(b->n, mma_keys(b->shape));
        /* Two stages. At 128 they take the place of the keys and values, which are fewer bytes. */
        l.shared_bytes = 4 * MMA_KEYS_TILE * (dim * 2 + sizeof(float));
        if (dim == 64)
            l.shared_bytes += 2 * mma_keys(b->shape) * dim * 2;
    } else {
        l.name = !is_limited(b->limits) ? dim > PLAIN_DIM ? "attention_keys_wide" : "attention_keys"
                 : dim > PLAIN_DIM      ? "attention_limited_keys_wide"
                                        : "attention_limited_keys";
        l.grid[1] = (unsigned)parts_of(b->n, tile);
        l.shared_bytes = (4 * plain_rows(tile, dim) + 2 * tile * (tile + 1)) * sizeof(float);
    }
    return l;
}

static struct llama_launch queries_launch(const struct backward *b)
{
    size_t dim = b->shape->head_dim, tile = dim > PLAIN_DIM ? PLAIN_TILE / 2 : PLAIN_TILE;
    struct llama_launch l = {
        .dtype = b->dtype, .grid = {b->shape->heads, 0, (unsigned)b->batch}, .threads = TILE_THREADS};

    if (use_mma(b->shape, b->limits, b->dtype)) {
        l.name = dim == 64 ? "attention_queries_mma64" : "attention_queries_mma128";
        l.grid[1] = (unsigned)parts_of(b->n, MMA_QUERIES);
        l.threads = dim == 64 ? TILE_THREADS : 2 * TILE_THREADS; /* a warp has 32 queries, or 16 */
        l.shared_bytes = 4 * MMA_TILE * dim * 2; /* two stages, and before that as many queries and dout */
    } else {
        l.name = !is_limited(b->limits) ? dim > PLAIN_DIM ? "attention_queries_wide" : "attention_queries"
                 : dim > PLAIN_DIM      ? "attention_limited_queries_wide"
                                        : "attention_limited_queries";
        l.grid[1] = (unsigned)parts_of(b->n, tile);
        l.shared_bytes = (4 * plain_rows(tile, dim) + tile * (tile + 1)) * sizeof(float);
    }
    return l;
}

void llama_cuda_attention_backward(struct llama_cuda *c, void *dq, void *dk, void *dv, const void *dout,
                                   const void *out, const float *lse, const void *q, const void *k,
                                   const void *v, enum ofl_dtype dtype, const struct llama_shape *shape,
                                   uint32_t layer, size_t batch, size_t n, void *ws)
{
    struct limits limits = limits_of(shape, layer);
    struct backward b = backward_of(shape, limits, dtype, batch, n);
    struct llama_launch keys = keys_launch(&b), queries = queries_launch(&b);
    struct llama_launch prepare = {"attention_prepare",
                                   dtype,
                                   {(unsigned)(b.padded / PREPARE_ROWS), shape->heads, (unsigned)batch},
                                   PREPARE_ROWS * LLAMA_CUDA_WARP,
                                   0};
    uint32_t heads = shape->heads, kv_heads = shape->kv_heads, dim = shape->head_dim, n_arg = (uint32_t)n,
             padded = (uint32_t)b.padded, splits = (uint32_t)b.splits;
    uint64_t count = batch * n * kv_heads * dim;
    struct llama_launch sum = {
        "attention_sum", dtype, {llama_cuda_grid(parts_of(count / 2, SUM_THREADS))}, SUM_THREADS, 0};
    float scale = scale_of(shape), *lse2 = ws, *delta = lse2 + b.stats, *partial = delta + b.stats;

    assert(dim <= ATTENTION_DIM);
    if (n == 0 || batch == 0)
        return;
    llama_cuda_launch(c, &prepare,
                      (void *[]){&lse2, &delta, &dout, &out, &lse, &heads, &dim, &n_arg, &padded});
    llama_cuda_launch(c, &keys,
                      (void *[]){&dk, &dv, &partial, &dout, &q, &k, &v, &lse2, &delta, &heads, &kv_heads,
                                 &dim, &n_arg, &padded, &splits, &scale, &limits.window, &limits.cap});
    if (splits > 1)
        llama_cuda_launch(c, &sum, (void *[]){&dk, &dv, &partial, &count, &splits});
    llama_cuda_launch(c, &queries,
                      (void *[]){&dq, &dout, &q, &k, &v, &lse2, &delta, &heads, &kv_heads, &dim, &n_arg,
                                 &padded, &scale, &limits.window, &limits.cap});
}
