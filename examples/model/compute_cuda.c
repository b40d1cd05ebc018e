/*
 * What computes the parts of a model on a GPU: the workspace's layout, what goes to the GPU at the start of
 * a step and comes back at its end, and a job's kernels. See compute.h.
 *
 * Tokens and results pass through pinned memory that is used again in the next step: whoever opens that
 * one has waited for this one, or it would have no results.
 */
#include "examples/model/compute_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/model/block_cuda.h"
#include "examples/model/kernels_inline.h"

/* Of device memory; what is not used stays NULL. Those of the head and of a layer share bytes. */
struct layout {
    void *blas;
    int32_t *numbers;   /* inputs, targets, plans: what is sent at once */
    float *table;       /* rope, of all positions */
    float *local_table; /* of layers with local ones; NULL: there are none */
    float *inv_freq;    /* of both */
    double *losses;
    float *logits;
    void *ws;
};

/* Of numbers, in int32: inputs, targets, and the embedding's plan of each micro-batch. */
struct numbers {
    size_t tokens, targets, plans, plan_each, all;
};

struct compute_gpu {
    struct llama_cuda *cuda;
    struct layout at;
    struct numbers count;
    int32_t *numbers, *scratch; /* pinned; host memory to sort in */
    float *inv_freq;            /* pinned, like what follows */
    float *rows;                /* that enter */
    double *losses;
    float *logits;
    struct llama_embed_plan *plans; /* [accum], in device memory */
    bool wants_logits;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- layout --------------------------------------------------------------- */

static struct numbers count_numbers(const struct llama_compute_config *c)
{
    struct numbers n = {.tokens = c->accum * compute_rows(c)};

    if (c->batch) {
        n.targets = n.tokens;
        n.plan_each = llama_embed_plan_elems(compute_rows(c));
        n.plans = c->accum * n.plan_each;
    }
    n.all = n.tokens + n.targets + n.plans;
    return n;
}

static size_t ws_bytes(const struct llama_compute_config *c)
{
    size_t bytes;

    if (c->batch == 0)
        return max_size(llama_compute_between(c, c->rows), llama_cuda_head_bytes(&c->shape, 1, c->dtype));
    bytes = llama_block_cuda_forward_bytes(&c->shape, c->batch, c->seq, c->dtype);
    bytes = max_size(bytes, llama_block_cuda_backward_bytes(&c->shape, c->batch, c->seq, c->dtype));
    return max_size(bytes, llama_cuda_head_bytes(&c->shape, compute_rows(c), c->dtype));
}

static size_t positions_of(const struct llama_compute_config *c)
{
    return c->batch ? c->seq : c->positions;
}

static struct layout lay_out(const struct llama_compute_config *c, struct llama_arena *a)
{
    struct layout at;

    at.blas = llama_take(a, llama_cuda_scratch_bytes(&c->shape));
    at.numbers = llama_take(a, count_numbers(c).all * sizeof(int32_t));
    at.table = llama_take_floats(a, positions_of(c) * c->shape.head_dim);
    at.local_table =
        c->shape.local_theta > 0 ? llama_take_floats(a, positions_of(c) * c->shape.head_dim) : NULL;
    at.inv_freq = llama_take_floats(a, c->shape.head_dim);
    at.losses = llama_take(a, (c->accum + 1) * sizeof(double));
    at.logits = llama_take_floats(a, c->batch ? 0 : c->shape.vocab);
    at.ws = llama_take(a, ws_bytes(c));
    return at;
}

size_t compute_gpu_workspace(const struct llama_compute_config *c)
{
    struct llama_arena a = {0};

    lay_out(c, &a);
    return a.peak;
}

/* ---- life ----------------------------------------------------------------- */

static int checked(struct llama_compute *c)
{
    return llama_cuda_check(c->gpu->cuda, c->error, sizeof c->error);
}

static int open_memory(struct llama_compute *c)
{
    const struct llama_compute_config *config = &c->config;
    struct compute_gpu *g = c->gpu;

    if (g->count.all)
        g->numbers = llama_cuda_pinned(g->cuda, g->count.all * sizeof *g->numbers);
    g->inv_freq = llama_cuda_pinned(g->cuda, config->shape.head_dim * sizeof(float));
    g->losses = llama_cuda_pinned(g->cuda, (config->accum + 1) * sizeof *g->losses);
    if (config->batch == 0) {
        g->logits = llama_cuda_pinned(g->cuda, config->shape.vocab * sizeof *g->logits);
        g->rows = llama_cuda_pinned(g->cuda, config->rows * config->shape.hidden * sizeof *g->rows);
    }
    return checked(c);
}

/* The table of a layer's form, for which inv_freq has room from `half` numbers on. */
static void make_table(struct llama_compute *c, float *table, uint32_t layer, size_t half)
{
    const struct llama_shape *s = &c->config.shape;
    const struct llama_rope *rope = llama_layer_local(s, layer) ? &s->local_rope : &s->rope;
    size_t dims = llama_rope_dims(s), n = positions_of(&c->config);
    struct compute_gpu *g = c->gpu;

    llama_rope_inv_freq(g->inv_freq + half, s, layer);
    llama_cuda_in(g->cuda, g->at.inv_freq + half, g->inv_freq + half, dims / 2 * sizeof(float));
    llama_cuda_rope_table(g->cuda, table, g->at.inv_freq + half, n, dims);
    if (rope->attention_factor != 0)
        llama_cuda_scale(g->cuda, table, OFL_F32, rope->attention_factor, n * dims);
}

/* The first layer with that form: one that has none of its own has the others'. */
static uint32_t layer_with(const struct llama_shape *s, bool local)
{
    uint32_t layer = 0;

    while (layer < s->layers && llama_layer_local(s, layer) != local)
        layer++;
    return layer < s->layers ? layer : 0;
}

static void make_tables(struct llama_compute *c)
{
    const struct llama_shape *s = &c->config.shape;
    struct compute_gpu *g = c->gpu;

    make_table(c, g->at.table, layer_with(s, false), 0);
    if (g->at.local_table)
        make_table(c, g->at.local_table, layer_with(s, true), s->head_dim / 2);
}

int compute_gpu_open(struct llama_compute *c, struct ofl_ctx *ctx)
{
    const struct llama_compute_config *config = &c->config;
    struct llama_arena a = {.base = c->workspace};
    struct compute_gpu *g = c->gpu = calloc(1, sizeof *g);
    int err;

    snprintf(c->error, sizeof c->error, "compute on a GPU: out of memory");
    if (!g)
        return -ENOMEM;
    g->at = lay_out(config, &a);
    g->count = count_numbers(config);
    g->plans = calloc(config->accum + 1, sizeof *g->plans);
    g->scratch = calloc(compute_rows(config) + 1, sizeof *g->scratch);
    if (!g->plans || !g->scratch)
        return -ENOMEM;
    c->error[0] = '\0';
    err = llama_cuda_open(ctx, c->stream, &g->cuda, c->error, sizeof c->error);
    if (err == 0)
        err = open_memory(c);
    if (err < 0)
        return err;
    llama_cuda_set_scratch(g->cuda, g->at.blas, llama_cuda_scratch_bytes(&config->shape));
    make_tables(c);
    return checked(c);
}

size_t compute_gpu_between(const struct llama_compute_config *c, size_t n)
{
    return llama_block_cuda_between_bytes(&c->shape, n, c->dtype);
}

float *compute_gpu_rows(struct llama_compute *c)
{
    return c->gpu->rows;
}

void compute_gpu_close(struct llama_compute *c)
{
    struct compute_gpu *g = c->gpu;

    if (!g)
        return;
    llama_cuda_close(g->cuda);
    free(g->plans);
    free(g->scratch);
    free(g);
}

/* ---- a step --------------------------------------------------------------- */

/* Sorts the rows of a micro-batch by token, and says where the arrays will lie on the device. */
static void plan_embedding(struct llama_compute *c, size_t micro)
{
    struct compute_gpu *g = c->gpu;
    size_t rows = compute_rows(&c->config),
           at = g->count.tokens + g->count.targets + micro * g->count.plan_each;
    struct llama_embed_plan host, *plan = &g->plans[micro];

    llama_embed_plan_make(&host, g->numbers + at, g->scratch, c->inputs + micro * rows, rows);
    plan->distinct = host.distinct;
    plan->ids = g->at.numbers + (host.ids - g->numbers);
    plan->starts = g->at.numbers + (host.starts - g->numbers);
    plan->order = g->at.numbers + (host.order - g->numbers);
}

int compute_gpu_begin(struct llama_compute *c)
{
    struct compute_gpu *g = c->gpu;
    size_t bytes = c->tokens * sizeof *c->inputs;

    g->wants_logits = false;
    if (c->config.batch == 0)
        return checked(c);
    memcpy(g->numbers, c->inputs, bytes);
    memcpy(g->numbers + g->count.tokens, c->targets, bytes);
    for (size_t m = 0; m < c->config.accum; m++)
        plan_embedding(c, m);
    llama_cuda_in(g->cuda, g->at.numbers, g->numbers, g->count.all * sizeof *g->numbers);
    return checked(c);
}

static struct llama_block_cuda block_of(const struct llama_compute *c)
{
    const struct llama_compute_config *config = &c->config;

    return (struct llama_block_cuda){
        .cuda = c->gpu->cuda,
        .shape = &config->shape,
        .dtype = config->dtype,
        .batch = config->batch,
        .seq = config->seq,
        .table = c->gpu->at.table,
        .local_table = c->gpu->at.local_table,
        .ws = c->gpu->at.ws,
    };
}

static void run_embed(const struct llama_compute *c, const struct llama_job *j)
{
    size_t rows = compute_rows(&c->config);

    llama_cuda_embed(c->gpu->cuda, j->y, j->table, c->gpu->at.numbers + j->micro * rows, rows,
                     c->config.shape.hidden);
    if (c->config.shape.embed_scale != 0)
        llama_cuda_scale(c->gpu->cuda, j->y, OFL_F32, llama_embed_scale(&c->config.shape, j->table.dtype),
                         rows * c->config.shape.hidden);
}

/* The rows' gradient, which is read only, is scaled on its way through the scratch. */
static void run_embed_backward(const struct llama_compute *c, const struct llama_job *j)
{
    const struct llama_shape *s = &c->config.shape;
    size_t n = compute_rows(&c->config) * s->hidden;
    const float *dx = j->dx;

    if (s->embed_scale != 0) {
        llama_cuda_narrow(c->gpu->cuda, c->gpu->at.ws, OFL_F32, dx, n);
        llama_cuda_scale(c->gpu->cuda, c->gpu->at.ws, OFL_F32, llama_embed_scale(s, c->config.dtype), n);
        dx = c->gpu->at.ws;
    }
    llama_cuda_embed_backward(c->gpu->cuda, j->table_grad, dx, &c->gpu->plans[j->micro], s->vocab, s->hidden,
                              j->first);
}

/* No gate stands before these copies: the stream is at rest when a step begins. */
static void run_enter(const struct llama_compute *c, const struct llama_job *j)
{
    size_t hidden = c->config.shape.hidden;

    for (size_t i = 0; i < j->rows; i++)
        llama_cuda_in(c->gpu->cuda, j->y + j->order[i] * hidden, c->gpu->rows + i * hidden,
                      hidden * sizeof *j->y);
}

static void run_extend(const struct llama_compute *c, const struct llama_job *j)
{
    struct llama_block_cuda block = block_of(c);
    struct llama_extend e;

    block.batch = 1;
    for (size_t at = 0; compute_extend(j, c->gpu->at.ws, &at, &e);) {
        block.seq = e.n;
        llama_block_cuda_extend(&block, &e, j->matrix, &j->slice);
    }
}

static void run_head(const struct llama_compute *c, const struct llama_job *j)
{
    const struct compute_gpu *g = c->gpu;
    size_t rows = compute_rows(&c->config);

    llama_cuda_head_loss(g->cuda, g->at.losses + j->micro, c->config.dtype, &c->config.shape, rows, &j->head,
                         &j->head_grads, j->first, j->x, g->at.numbers + g->count.tokens + j->micro * rows,
                         c->scale, j->dx, g->at.ws);
}

static void run_logits(const struct llama_compute *c, const struct llama_job *j)
{
    struct compute_gpu *g = c->gpu;

    g->wants_logits = true;
    llama_cuda_head_logits(g->cuda, c->config.dtype, &c->config.shape, &j->slice, j->x, g->at.logits,
                           g->at.ws);
}

static void run_fill(const struct llama_compute *c, const struct llama_fill *f)
{
    struct llama_cuda *cuda = c->gpu->cuda;

    if (f->std == 0)
        llama_cuda_init_value(cuda, f->dst, f->dtype, f->elems, f->mean);
    else
        llama_cuda_init_normal(cuda, f->dst, f->dtype, f->first, f->elems, f->seed, f->std);
}

int compute_gpu_run(struct llama_compute *c, const struct llama_job *j)
{
    struct llama_block_cuda block = block_of(c);

    switch (j->run) {
    case LLAMA_RUN_EMBED:
        run_embed(c, j);
        break;
    case LLAMA_RUN_ENTER:
        run_enter(c, j);
        break;
    case LLAMA_RUN_FORWARD:
        llama_block_cuda_forward(&block, &j->weights, j->x, j->y);
        break;
    case LLAMA_RUN_HEAD:
        run_head(c, j);
        break;
    case LLAMA_RUN_BACKWARD:
        llama_block_cuda_backward(&block, &j->weights, &j->grads, j->first, j->x, j->dx);
        break;
    case LLAMA_RUN_EMBED_BACKWARD:
        run_embed_backward(c, j);
        break;
    case LLAMA_RUN_EXTEND:
        run_extend(c, j);
        break;
    case LLAMA_RUN_LOGITS:
        run_logits(c, j);
        break;
    case LLAMA_RUN_FILL:
        run_fill(c, &j->fill);
        break;
    case LLAMA_RUN_ENTER_EXPERTS: /* llama_compute_open has refused them */
    case LLAMA_RUN_EXPERT:
    case LLAMA_RUN_EXPERT_BACKWARD:
    case LLAMA_RUN_LEAVE_EXPERTS:
        break;
    }
    return checked(c);
}

int compute_gpu_end(struct llama_compute *c)
{
    struct compute_gpu *g = c->gpu;

    llama_cuda_rest(g->cuda); /* a copy that waits at a gate could hold up the one that opens it */
    if (c->config.batch)
        llama_cuda_out(g->cuda, g->losses, g->at.losses, c->config.accum * sizeof *g->losses);
    if (g->wants_logits)
        llama_cuda_out(g->cuda, g->logits, g->at.logits, c->config.shape.vocab * sizeof *g->logits);
    return checked(c);
}

void compute_gpu_fetch(const struct llama_compute *c)
{
    const struct compute_gpu *g = c->gpu;

    if (c->config.batch)
        memcpy(c->losses, g->losses, c->config.accum * sizeof *g->losses);
    if (g->wants_logits)
        memcpy(c->logits, g->logits, c->config.shape.vocab * sizeof *g->logits);
}
