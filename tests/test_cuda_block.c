/*
 * The decoder layer on a GPU (here: on the stub driver, kernels on the CPU). Proves:
 *  - forward, backward and extend agree with the layer of block.h on the same weights: in F32 to rounding;
 *    in BF16 within what its rounding of the activations inside allows;
 *  - a comparison of that kind refuses a weight that is a little off (the negative control);
 *  - gradients accumulate; scratch may hold anything, and nothing past its stated size is written to;
 *  - rows put in piece by piece through the cache, slice by slice of the matrices, come out as from the whole
 *    forward.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "examples/model/block_cuda.h"
#include "tests/llama_cuda_fixture.h"
#include "tests/llama_layer.h"

#define SHAPE(h, q, kv, dim, f)                                                                              \
    {                                                                                                        \
        .layers = 1, .hidden = (h), .heads = (q), .kv_heads = (kv), .head_dim = (dim), .ffn = (f),           \
        .vocab = 32, .max_positions = 512, .rms_eps = 1e-5f, .rope_theta = 10000                             \
    }

static const struct {
    struct llama_shape shape;
    size_t batch, seq;
} shapes[] = {
    {SHAPE(16, 2, 2, 8, 32), 1, 1},
    {SHAPE(20, 4, 2, 6, 28), 2, 7},
    {SHAPE(33, 3, 1, 16, 50), 2, 65}, /* hidden odd, heads wider than hidden */
    {SHAPE(64, 2, 1, 64, 96), 1, 70}, /* a head of the tensor-core kernels */
};

/* Of a bf16 layer against the f32 one: every value inside is rounded to 2^-9 of its size, and a sum of n
 * independent such errors grows as sqrt(n), as does the sum itself; a handful of them in a row. */
#define TOLERANCE_BF16 0.03

/* A layer of tests/llama_layer.h, and its like on the device. */
struct pair {
    struct layer *cpu;
    struct gpu gpu;
    struct llama_block_cuda block;
    struct llama_block_weights weights;
    struct llama_block_grads grads;
    float *grad[W], *x, *y, *dx;
};

static void *upload_weight(struct gpu *g, struct llama_weight w, size_t elems)
{
    return gpu_upload(g, w.data, elems * ofl_dtype_bytes(w.dtype));
}

static struct llama_weight part_of(const struct llama_block_weights *w, int part)
{
    const struct llama_weight parts[W] = {w->attn_norm, w->q,    w->k,  w->v,   w->o,
                                          w->mlp_norm,  w->gate, w->up, w->down};

    return parts[part];
}

static void open_pair(struct pair *p, size_t c, enum ofl_dtype dtype, uint64_t seed)
{
    const struct llama_shape *s = &shapes[c].shape;
    size_t rows = shapes[c].batch * shapes[c].seq, bytes = rows * s->hidden * sizeof(float), scratch;
    struct llama_weight parts[W];
    float inv_freq[256], *table;

    *p = (struct pair){.cpu = layer_create(s, shapes[c].batch, shapes[c].seq, dtype, 0)};
    gpu_open(&p->gpu, seed);
    for (int i = 0; i < W; i++) {
        parts[i] = part_of(&p->cpu->weights, i);
        parts[i].data = upload_weight(&p->gpu, parts[i], p->cpu->elems[i]);
        p->grad[i] = gpu_blank(&p->gpu, p->cpu->elems[i] * sizeof(float));
    }
    point_at(&p->weights, &p->grads, parts, p->grad);
    p->x = gpu_upload(&p->gpu, p->cpu->x, bytes);
    p->y = gpu_blank(&p->gpu, bytes);
    p->dx = gpu_upload(&p->gpu, p->cpu->dy, bytes);
    llama_rope_inv_freq(inv_freq, s, 0);
    table = gpu_blank(&p->gpu, shapes[c].seq * s->head_dim * sizeof *table);
    llama_cuda_rope_table(p->gpu.cuda, table,
                          gpu_upload(&p->gpu, inv_freq, s->head_dim / 2 * sizeof *inv_freq), shapes[c].seq,
                          s->head_dim);
    scratch = llama_cuda_scratch_bytes(s);
    llama_cuda_set_scratch(p->gpu.cuda, gpu_blank(&p->gpu, scratch), scratch);
    p->block = (struct llama_block_cuda){.cuda = p->gpu.cuda,
                                         .shape = s,
                                         .dtype = dtype,
                                         .batch = shapes[c].batch,
                                         .seq = shapes[c].seq,
                                         .table = table};
}

static void close_pair(struct pair *p)
{
    gpu_close(&p->gpu);
    layer_destroy(p->cpu);
}

/* Largest difference, by the largest value; NaN if any is. Where all should be 0 (q of a single row), by
 * what is usual. */
static double error_of(struct pair *p, const float *device, const float *cpu, size_t n)
{
    float *got = ref_floats(n);
    double worst = 0, size = 0.1;

    gpu_download(&p->gpu, got, device, n * sizeof *got);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)cpu[i]);

        worst = d > worst || isnan(d) ? d : worst;
        size = fabs((double)cpu[i]) > size ? fabs((double)cpu[i]) : size;
    }
    free(got);
    return worst / size;
}

static double tolerance(enum ofl_dtype dtype)
{
    return dtype == OFL_F32 ? TOLERANCE : TOLERANCE_BF16;
}

static void forward(struct pair *p, size_t c)
{
    p->block.ws = gpu_blank(&p->gpu, llama_block_cuda_forward_bytes(&shapes[c].shape, shapes[c].batch,
                                                                    shapes[c].seq, p->block.dtype));
    llama_block_cuda_forward(&p->block, &p->weights, p->x, p->y);
    layer_forward(p->cpu);
}

static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16};

static void test_forward(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t d = 0; d < 2; d++) {
            struct pair p;
            double error;

            open_pair(&p, c, dtypes[d], 1 + c);
            forward(&p, c);
            error = error_of(&p, p.y, p.cpu->y, p.cpu->rows * shapes[c].shape.hidden);
            if (!(error < tolerance(dtypes[d])))
                fail_msg("shape %zu, %s: error %.3g", c, ofl_dtype_name(dtypes[d]), error);
            close_pair(&p);
        }
}

static void backward(struct pair *p, size_t c, bool first)
{
    p->block.ws = gpu_blank(&p->gpu, llama_block_cuda_backward_bytes(&shapes[c].shape, shapes[c].batch,
                                                                     shapes[c].seq, p->block.dtype));
    llama_block_cuda_backward(&p->block, &p->weights, &p->grads, first, p->x, p->dx);
}

static void check_gradients(struct pair *p, size_t c)
{
    for (int i = 0; i < W; i++) {
        double error = error_of(p, p->grad[i], p->cpu->grad[i], p->cpu->elems[i]);

        if (!(error < tolerance(p->block.dtype)))
            fail_msg("shape %zu, %s: gradient of %s: error %.3g", c, ofl_dtype_name(p->block.dtype),
                     part_names[i], error);
    }
}

static void test_backward(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t d = 0; d < 2; d++) {
            struct pair p;
            double error;

            open_pair(&p, c, dtypes[d], 10 + c);
            backward(&p, c, true);
            layer_backward(p.cpu, true);
            check_gradients(&p, c);
            error = error_of(&p, p.dx, p.cpu->dx, p.cpu->rows * shapes[c].shape.hidden);
            if (!(error < tolerance(dtypes[d])))
                fail_msg("shape %zu, %s: gradient of x: error %.3g", c, ofl_dtype_name(dtypes[d]), error);
            close_pair(&p);
        }
}

/* Twice the same batch: twice the gradient. */
static void test_gradients_accumulate(void **state)
{
    struct pair p;

    (void)state;
    open_pair(&p, 1, OFL_F32, 20);
    backward(&p, 1, true);
    p.dx = gpu_upload(&p.gpu, p.cpu->dy, p.cpu->rows * shapes[1].shape.hidden * sizeof(float));
    backward(&p, 1, false);
    layer_backward(p.cpu, true);
    layer_backward(p.cpu, false);
    check_gradients(&p, 1);
    close_pair(&p);
}

/* One weight in a hundred off by 2 %: F32 must notice. */
static void test_wrong_weight_is_noticed(void **state)
{
    struct pair p;
    float *values;

    (void)state;
    open_pair(&p, 1, OFL_F32, 21);
    values = p.cpu->values[1];
    for (size_t i = 0; i < p.cpu->elems[1]; i += 100)
        values[i] *= 1.02f;
    p.weights.q.data = gpu_upload(&p.gpu, values, p.cpu->elems[1] * sizeof *values);
    forward(&p, 1);
    assert_false(error_of(&p, p.y, p.cpu->y, p.cpu->rows * shapes[1].shape.hidden) < TOLERANCE);
    close_pair(&p);
}

static void extend_slice(void *block, const struct llama_extend *e, enum llama_matrix matrix,
                         const struct llama_slice *slice)
{
    llama_block_cuda_extend(block, e, matrix, slice);
}

static void test_extend_equals_forward(void **state)
{
    static const size_t pieces[] = {1, 5, 64}; /* of 70 rows */
    static const size_t slices[] = {SIZE_MAX, 7, 16};

    (void)state;
    for (size_t d = 0; d < 2; d++) {
        const size_t c = 3;
        const struct llama_shape *s = &shapes[c].shape;
        size_t kv = (size_t)s->kv_heads * s->head_dim * ofl_dtype_bytes(dtypes[d]), fed = 0;
        void *k, *v;
        struct pair p;
        double error;

        open_pair(&p, c, dtypes[d], 30 + d);
        k = gpu_blank(&p.gpu, shapes[c].seq * kv);
        v = gpu_blank(&p.gpu, shapes[c].seq * kv);
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            struct llama_extend e = {.shape = s,
                                     .first = fed,
                                     .n = pieces[i],
                                     .positions = shapes[c].seq,
                                     .k_cache = k,
                                     .v_cache = v,
                                     .x = p.x + fed * s->hidden};

            p.block.seq = pieces[i];
            e.between = gpu_blank(&p.gpu, llama_block_cuda_between_bytes(s, pieces[i], dtypes[d]));
            layer_slices(&p.weights, &e, slices[(i + d) % 3], extend_slice, &p.block);
            fed += pieces[i];
        }
        assert_int_equal(fed, shapes[c].seq);
        layer_forward(p.cpu);
        error = error_of(&p, p.x, p.cpu->y, p.cpu->rows * s->hidden);
        if (!(error < tolerance(dtypes[d])))
            fail_msg("%s: error %.3g", ofl_dtype_name(dtypes[d]), error);
        close_pair(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_gradients_accumulate),
        cmocka_unit_test(test_wrong_weight_is_noticed),
        cmocka_unit_test(test_extend_equals_forward),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
