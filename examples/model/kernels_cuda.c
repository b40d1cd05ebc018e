/*
 * Launches of the CUDA kernels of kernels.cu. See kernels_cuda.h.
 *
 * A grid is a function of the shapes alone, never of the GPU: where sums meet, it decides their order.
 * Kernels stride over what a grid leaves, so that any number of rows or elements will do.
 */
#include "examples/model/kernels_cuda_inline.h"

#define MIN_THREADS      32
#define ELEMENT_THREADS  256
#define ROW_NUMBERS      16  /* of a row that norm keeps in a thread's registers: NORM_QUADS in kernels.cu */
#define BACKWARD_NUMBERS 8   /* the same of its backward: BACKWARD_QUADS */
#define ODD_THREADS      512 /* of a block of that for rows that are not aligned */
#define BACKWARD_BLOCKS  264 /* at most: two for each of the largest GPU's processors */
#define BACKWARD_ROWS    4   /* per block, at least: each costs a row of partial sums */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t parts_of(size_t n, size_t part)
{
    return n / part + (n % part != 0);
}

/* Whole warps that share n numbers, so many each. */
static unsigned threads_for(size_t n, size_t each)
{
    size_t threads = parts_of(parts_of(n, each), MIN_THREADS) * MIN_THREADS;

    return (unsigned)(threads < MIN_THREADS ? MIN_THREADS : min_size(threads, LLAMA_CUDA_THREADS));
}

/* ---- norm ------------------------------------------------------------------- */

void llama_cuda_norm(struct llama_cuda *c, void *y, enum ofl_dtype dtype, const float *x,
                     struct llama_weight w, size_t rows, size_t hidden, float eps)
{
    struct llama_launch launch = {
        "norm", dtype, {llama_cuda_grid(rows)}, threads_for(hidden, ROW_NUMBERS), 0};
    uint64_t rows_arg = rows;
    uint32_t w_dtype = w.dtype, hidden_arg = (uint32_t)hidden,
             wide = llama_cuda_wide(hidden, x, OFL_F32) && llama_cuda_wide(hidden, y, dtype) &&
                    llama_cuda_wide(hidden, w.data, w.dtype);

    llama_cuda_launch(c, &launch, (void *[]){&y, &x, &w.data, &w_dtype, &rows_arg, &hidden_arg, &eps, &wide});
}

static size_t backward_blocks(size_t rows)
{
    return min_size(parts_of(rows, BACKWARD_ROWS), BACKWARD_BLOCKS);
}

size_t llama_cuda_norm_backward_bytes(size_t rows, size_t hidden)
{
    return backward_blocks(rows) * hidden * sizeof(float);
}

/* Every block's sum of the gradient of w, then the sum of these. */
void llama_cuda_norm_backward(struct llama_cuda *c, float *dx, float *dw, const float *dy, const float *x,
                              struct llama_weight w, size_t rows, size_t hidden, float eps, bool accumulate,
                              bool first, void *ws)
{
    bool wide = llama_cuda_wide(hidden, dx, OFL_F32) && llama_cuda_wide(hidden, dy, OFL_F32) &&
                llama_cuda_wide(hidden, x, OFL_F32) && llama_cuda_wide(hidden, ws, OFL_F32) &&
                llama_cuda_wide(hidden, w.data, w.dtype);
    size_t threads = min_size(threads_for(hidden, BACKWARD_NUMBERS), wide ? LLAMA_CUDA_THREADS : ODD_THREADS);
    uint32_t blocks = (uint32_t)backward_blocks(rows), hidden_arg = (uint32_t)hidden;
    struct llama_launch backward = {
        wide ? "norm_backward" : "norm_backward_odd", w.dtype, {blocks}, (unsigned)threads, 0};
    struct llama_launch weight = {
        "norm_weight", OFL_F32, {(unsigned)parts_of(hidden, LLAMA_CUDA_WARP)}, LLAMA_CUDA_THREADS, 0};
    uint64_t rows_arg = rows;
    uint32_t accumulate_arg = accumulate, first_arg = first;

    llama_cuda_launch(c, &backward,
                      (void *[]){&dx, &ws, &dy, &x, &w.data, &rows_arg, &hidden_arg, &eps, &accumulate_arg});
    llama_cuda_launch(c, &weight, (void *[]){&dw, &ws, &blocks, &hidden_arg, &first_arg});
}

/* ---- rotary embedding --------------------------------------------------------- */

void llama_cuda_rope_table(struct llama_cuda *c, float *table, const float *inv_freq, size_t n,
                           size_t head_dim)
{
    uint32_t half = (uint32_t)(head_dim / 2);
    struct llama_launch launch = {
        "rope_table", OFL_F32, {llama_cuda_grid(parts_of(n * half, ELEMENT_THREADS))}, ELEMENT_THREADS, 0};
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&table, &inv_freq, &n_arg, &half});
}

void llama_cuda_rope(struct llama_cuda *c, void *x, enum ofl_dtype dtype, size_t batch, size_t seq,
                     size_t heads, size_t head_dim, const float *table, size_t first, bool backward)
{
    uint64_t rows = batch * seq, seq_arg = seq;
    uint32_t heads_arg = (uint32_t)heads, half = (uint32_t)(head_dim / 2);
    const float *cosines = table + first * head_dim;
    float sign = backward ? -1 : 1;
    /* 16 bytes of x, and four numbers of the table */
    uint32_t wide = half % (16 / ofl_dtype_bytes(dtype)) == 0 && (uintptr_t)x % 16 == 0 &&
                    llama_cuda_wide(half, cosines, OFL_F32);
    struct llama_launch launch = {"rope",
                                  dtype,
                                  {llama_cuda_grid(rows)},
                                  threads_for(heads * half, wide ? 16 / ofl_dtype_bytes(dtype) : 1),
                                  0};

    llama_cuda_launch(c, &launch, (void *[]){&x, &cosines, &rows, &seq_arg, &heads_arg, &half, &sign, &wide});
}

/* ---- element by element --------------------------------------------------------- */

/* Of n elements, so many to a thread. */
static struct llama_launch elements(const char *name, enum ofl_dtype dtype, uint64_t n, size_t each)
{
    return (struct llama_launch){
        name, dtype, {llama_cuda_grid(parts_of(n, each * ELEMENT_THREADS))}, ELEMENT_THREADS, 0};
}

static bool aligned_16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

void llama_cuda_swiglu(struct llama_cuda *c, void *act, const void *gate, const void *up,
                       enum ofl_dtype dtype, size_t n)
{
    struct llama_launch launch = elements("swiglu", dtype, n, 16 / ofl_dtype_bytes(dtype));
    uint32_t wide = aligned_16(act) && aligned_16(gate) && aligned_16(up);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&act, &gate, &up, &n_arg, &wide});
}

void llama_cuda_swiglu_backward(struct llama_cuda *c, void *gate, void *up, void *act, enum ofl_dtype dtype,
                                size_t n)
{
    struct llama_launch launch = elements("swiglu_backward", dtype, n, 16 / ofl_dtype_bytes(dtype));
    uint32_t wide = aligned_16(gate) && aligned_16(up) && aligned_16(act);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&gate, &up, &act, &n_arg, &wide});
}

void llama_cuda_narrow(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, const float *src, size_t n)
{
    struct llama_launch launch = elements("narrow", dtype, n, 16);
    uint32_t wide = aligned_16(dst) && aligned_16(src);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&dst, &src, &n_arg, &wide});
}

void llama_cuda_init_normal(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, uint64_t first_elem,
                            uint64_t n, uint64_t seed, float std)
{
    struct llama_launch launch = elements("init_normal", dtype, n, 1);

    llama_cuda_launch(c, &launch, (void *[]){&dst, &first_elem, &n, &seed, &std});
}

void llama_cuda_init_value(struct llama_cuda *c, void *dst, enum ofl_dtype dtype, uint64_t n, float value)
{
    struct llama_launch launch = elements("init_value", dtype, n, 1);

    llama_cuda_launch(c, &launch, (void *[]){&dst, &n, &value});
}

/* ---- embedding -------------------------------------------------------------------- */

void llama_cuda_embed(struct llama_cuda *c, float *x, struct llama_weight table, const int32_t *tokens,
                      size_t n, size_t hidden)
{
    struct llama_launch launch = {"embed", OFL_F32, {llama_cuda_grid(n)}, threads_for(hidden, 8), 0};
    uint32_t dtype = table.dtype, hidden_arg = (uint32_t)hidden,
             wide = llama_cuda_wide(hidden, x, OFL_F32) && llama_cuda_wide(hidden, table.data, table.dtype);
    uint64_t n_arg = n;

    llama_cuda_launch(c, &launch, (void *[]){&x, &table.data, &dtype, &tokens, &n_arg, &hidden_arg, &wide});
}

size_t llama_embed_plan_elems(size_t n)
{
    return 3 * n + 1;
}

#define DIGIT_BITS 11 /* three digits hold a token, which is not negative */
#define DIGITS     (1u << DIGIT_BITS)

/* Sorts rows by a digit of their tokens, keeping the order of equal ones. */
static void sort_by_digit(int32_t *to, const int32_t *from, const int32_t *tokens, size_t n, unsigned shift)
{
    size_t starts[DIGITS + 1] = {0};

    for (size_t i = 0; i < n; i++)
        starts[((uint32_t)tokens[i] >> shift) % DIGITS + 1]++;
    for (size_t d = 0; d < DIGITS; d++)
        starts[d + 1] += starts[d];
    for (size_t i = 0; i < n; i++)
        to[starts[((uint32_t)tokens[from[i]] >> shift) % DIGITS]++] = from[i];
}

void llama_embed_plan_make(struct llama_embed_plan *plan, int32_t *buffer, int32_t *scratch,
                           const int32_t *tokens, size_t n)
{
    *plan = (struct llama_embed_plan){.ids = buffer, .starts = buffer + n, .order = buffer + 2 * n + 1};
    for (size_t i = 0; i < n; i++)
        scratch[i] = (int32_t)i;
    sort_by_digit(plan->order, scratch, tokens, n, 0);
    sort_by_digit(scratch, plan->order, tokens, n, DIGIT_BITS);
    sort_by_digit(plan->order, scratch, tokens, n, 2 * DIGIT_BITS);
    for (size_t i = 0; i < n; i++) {
        int32_t token = tokens[plan->order[i]];

        if (i > 0 && token == plan->ids[plan->distinct - 1])
            continue;
        plan->ids[plan->distinct] = token;
        plan->starts[plan->distinct++] = (int32_t)i;
    }
    plan->starts[plan->distinct] = (int32_t)n;
}

void llama_cuda_embed_backward(struct llama_cuda *c, float *dtable, const float *dx,
                               const struct llama_embed_plan *plan, size_t vocab, size_t hidden, bool first)
{
    const int32_t *ids = plan->ids, *starts = plan->starts, *order = plan->order;
    uint64_t distinct = plan->distinct;
    uint32_t hidden_arg = (uint32_t)hidden,
             wide = llama_cuda_wide(hidden, dtable, OFL_F32) && llama_cuda_wide(hidden, dx, OFL_F32);
    unsigned threads = threads_for(hidden, 4) < 128 ? threads_for(hidden, 4) : 128;
    struct llama_launch launch = {
        "embed_backward",
        OFL_F32,
        {llama_cuda_grid(distinct), (unsigned)min_size(parts_of(hidden, threads * 4), 32)},
        threads,
        0};

    if (first)
        llama_cuda_zero(c, dtable, vocab * hidden * sizeof *dtable);
    llama_cuda_launch(c, &launch,
                      (void *[]){&dtable, &dx, &ids, &starts, &order, &distinct, &hidden_arg, &wide});
}
