/*
 * The decoder layer. Proves:
 *  - forward agrees with a plain double reference, and backward with finite differences of that,
 *    for odd shapes; a gradient changed by 1 in 1000 is refused (the negative control);
 *  - rows put in one by one or in pieces through the KV cache, with matrices whole or in slices, come out as from
 *    the whole forward; those put in one by one with the same bits however matrices are cut;
 *  - the bits don't depend on where the buffers lie or on what scratch and overwritten gradients held;
 *  - nothing is written past the scratch's stated size.
 * Against PyTorch: tests/test_block_golden.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/llama_layer.h"

/* ---- against the double reference ------------------------------------------ */

#define SHAPE(h, q, kv, dim, f)                                                                              \
    {                                                                                                        \
        .layers = 1, .hidden = (h), .heads = (q), .kv_heads = (kv), .head_dim = (dim), .ffn = (f),           \
        .vocab = 32, .max_positions = 512, .rms_eps = 1e-5f, .rope_theta = 10000                             \
    }

static const struct {
    struct llama_shape shape;
    size_t batch, seq;
} shapes[] = {
    {SHAPE(16, 2, 2, 8, 32), 1, 1},   {SHAPE(16, 2, 1, 8, 32), 3, 1}, {SHAPE(20, 4, 2, 6, 28), 2, 7},
    {SHAPE(12, 6, 2, 2, 9), 1, 65},   /* two blocks of queries, the second of one row */
    {SHAPE(33, 3, 1, 16, 50), 2, 65}, /* hidden odd, heads wider than hidden */
    {SHAPE(8, 1, 1, 4, 5), 1, 130},
};

static void test_forward_agrees_with_reference(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, OFL_F32, 0);
        double error;

        layer_forward(l);
        layer_loss(l);
        error = ref_error(l->y, l->y64, l->rows * l->shape.hidden);
        if (error > TOLERANCE)
            fail_msg("shape %zu: error %.3g", c, error);
        /* in place */
        llama_block_forward(&l->shape, l->batch, l->seq, &l->weights, l->x, l->x, l->ws);
        assert_memory_equal(l->x, l->y, l->rows * l->shape.hidden * sizeof *l->x);
        layer_destroy(l);
    }
}

static void test_backward_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, OFL_F32, 0);

        layer_backward(l, true);
        for (int i = 0; i < W; i++)
            if (!ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                 TOLERANCE, false))
                fail_msg("shape %zu", c);
        if (!ref_is_gradient("x", layer_loss, l, l->x64, l->dx, l->rows * l->shape.hidden, TOLERANCE, false))
            fail_msg("shape %zu", c);
        layer_destroy(l);
    }
}

/* The check above must refuse a gradient that is a little wrong, in all elements or in the largest. */
static void test_wrong_gradient_is_refused(void **state)
{
    struct layer *l = layer_create(&shapes[2].shape, shapes[2].batch, shapes[2].seq, OFL_F32, 0);

    (void)state;
    layer_backward(l, true);
    for (int i = 0; i < W; i++) {
        size_t largest = 0;

        for (size_t e = 0; e < l->elems[i]; e++)
            largest = fabsf(l->grad[i][e]) > fabsf(l->grad[i][largest]) ? e : largest;
        l->grad[i][largest] *= 1.01f;
        assert_false(ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                     TOLERANCE, true));
        layer_backward(l, true);
        for (size_t e = 0; e < l->elems[i]; e++)
            l->grad[i][e] *= 1.001f;
        assert_false(ref_is_gradient(part_names[i], layer_loss, l, l->theta[i], l->grad[i], l->elems[i],
                                     TOLERANCE, true));
    }
    layer_destroy(l);
}

/* A second pass with first = false doubles the gradients; alloc fills them with NaN before the first. */
static void test_gradients_accumulate(void **state)
{
    struct layer *l = layer_create(&shapes[4].shape, shapes[4].batch, shapes[4].seq, OFL_BF16, 0);

    (void)state;
    layer_backward(l, true);
    for (int i = 0; i < W; i++) {
        free(l->theta[i]);
        l->theta[i] = ref_double(l->grad[i], l->elems[i]);
    }
    layer_backward(l, false);
    for (int i = 0; i < W; i++) {
        for (size_t e = 0; e < l->elems[i]; e++)
            l->theta[i][e] *= 2;
        assert_true(ref_error(l->grad[i], l->theta[i], l->elems[i]) < 1e-6);
    }
    layer_destroy(l);
}

/* ---- the KV cache ----------------------------------------------------------- */

static void extend_slice(void *ws, const struct llama_extend *e, enum llama_matrix matrix,
                         const struct llama_slice *slice)
{
    llama_block_extend(e, matrix, slice, ws);
}

/* Memory of that size with a mark behind it. */
static unsigned char *marked(size_t bytes)
{
    unsigned char *p = ref_alloc(bytes + 64);

    memset(p + bytes, 0xa5, 64);
    return p;
}

static void expect_mark(const unsigned char *p, size_t bytes)
{
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(p[bytes + i], 0xa5);
}

static void extend_in_pieces(struct layer *l, const size_t *pieces, size_t slice, float *x, float *k,
                             float *v)
{
    size_t first = 0;

    for (; first < l->seq; pieces++) {
        size_t n = *pieces < l->seq - first ? *pieces : l->seq - first;
        size_t kept = llama_block_between_bytes(&l->shape, n);
        size_t bytes = llama_block_extend_workspace(&l->shape, n, l->seq, l->weights.q.dtype);
        unsigned char *ws = marked(bytes), *between = marked(kept);
        struct llama_extend e = {.shape = &l->shape,
                                 .first = first,
                                 .n = n,
                                 .positions = l->seq,
                                 .k_cache = k,
                                 .v_cache = v,
                                 .x = x + first * l->shape.hidden,
                                 .between = between};

        layer_slices(&l->weights, &e, slice, extend_slice, ws);
        expect_mark(ws, bytes);
        expect_mark(between, kept);
        first += n;
        free(ws);
        free(between);
    }
}

static void test_cache_agrees_with_forward(void **state)
{
    static const size_t pieces[][132] = {
        {132},                    /* prefill of all */
        {64, 1, 132},             /* prefill, decode, prefill */
        {[0 ... 131] = 1},        /* decode from the start */
        {3, 66, 1, 1, 1, 1, 132}, /* blocks that begin inside others */
    };
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16, OFL_F16};
    static const size_t slices[] = {SIZE_MAX, 16, 3};

    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t p = 0; p < 4; p++) {
            struct layer *l = layer_create(&shapes[c].shape, 1, shapes[c].seq, dtypes[(c + p) % 3], 0);
            size_t kv = (size_t)l->shape.kv_heads * l->shape.head_dim * l->seq;
            float *k = ref_floats(kv), *v = ref_floats(kv); /* NaN: rows not written yet must not count */
            double *want;

            layer_forward(l);
            want = ref_double(l->y, l->rows * l->shape.hidden);
            extend_in_pieces(l, pieces[p], slices[(c + p) % 3], l->x, k, v);
            for (size_t r = 0; r < l->rows; r++)
                if (ref_error(l->x + r * l->shape.hidden, want + r * l->shape.hidden, l->shape.hidden) >
                    TOLERANCE)
                    fail_msg("shape %zu, pieces %zu, row %zu", c, p, r);
            free(k);
            free(v);
            free(want);
            layer_destroy(l);
        }
}

/* A single row's sums are those of the whole matrix, bit by bit, however it is cut. */
static void test_slices_do_not_change_a_row(void **state)
{
    static const size_t slices[] = {SIZE_MAX, 16, 5, 1}, ones[130] = {[0 ... 129] = 1};
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16};

    (void)state;
    for (size_t d = 0; d < 2; d++) {
        float *want = NULL;

        for (size_t i = 0; i < 4; i++) {
            struct layer *l = layer_create(&shapes[4].shape, 1, 65, dtypes[d], 0);
            size_t kv = (size_t)l->shape.kv_heads * l->shape.head_dim * l->seq, n = l->rows * l->shape.hidden;
            float *k = ref_floats(kv), *v = ref_floats(kv);

            extend_in_pieces(l, ones, slices[i], l->x, k, v);
            if (i == 0) {
                want = ref_floats(n);
                memcpy(want, l->x, n * sizeof *want);
            }
            assert_memory_equal(l->x, want, n * sizeof *want);
            free(k);
            free(v);
            layer_destroy(l);
        }
        free(want);
    }
}

/* ---- bits ------------------------------------------------------------------- */

/* A copy of n floats that begins `offset` floats after a page's start; the bytes around are NaN. */
static float *shifted(float **base, const void *src, size_t n, size_t offset)
{
    *base = ref_floats(n + 128);
    memcpy(*base + offset, src, n * sizeof(float));
    return *base + offset;
}

static void test_bits_do_not_depend_on_addresses(void **state)
{
    static const struct llama_shape shape = SHAPE(136, 6, 2, 24, 200);
    struct layer *l = layer_create(&shape, 2, 67, OFL_F32, 0);
    size_t n = l->rows * shape.hidden, bytes = llama_block_backward_workspace(&shape, 2, 67, OFL_F32);

    (void)state;
    layer_forward(l);
    layer_backward(l, true);
    for (size_t trial = 0; trial < 12; trial++) {
        struct llama_weight parts[W] = {0};
        struct llama_block_weights weights;
        struct llama_block_grads grads;
        float *base[2 * W + 3], *grad[W], *x, *dx, *y, *ws;

        for (size_t i = 0; i < W; i++) {
            parts[i].dtype = OFL_F32;
            parts[i].data = shifted(&base[i], l->values[i], l->elems[i], ref_hash(trial, i) % 64);
            grad[i] = shifted(&base[W + i], l->values[i], l->elems[i], ref_hash(trial, W + i) % 64);
            memset(grad[i], 0xff, l->elems[i] * sizeof(float));
        }
        point_at(&weights, &grads, parts, grad);
        x = shifted(&base[2 * W], l->x, n, ref_hash(trial, 50) % 64);
        dx = shifted(&base[2 * W + 1], l->dy, n, ref_hash(trial, 51) % 64);
        y = shifted(&base[2 * W + 2], l->dy, n, ref_hash(trial, 52) % 64);
        ws = (float *)ref_alloc(bytes + 8192);
        memset(ws, trial % 2 ? 0xff : 0x3f, bytes);
        llama_block_forward(&shape, 2, 67, &weights, x, y, ws + 16 * trial);
        llama_block_backward(&shape, 2, 67, &weights, &grads, true, x, dx, ws + 16 * trial);
        assert_memory_equal(y, l->y, n * sizeof *y);
        assert_memory_equal(dx, l->dx, n * sizeof *dx);
        for (size_t i = 0; i < W; i++)
            assert_memory_equal(grad[i], l->grad[i], l->elems[i] * sizeof(float));
        for (size_t i = 0; i < 2 * W + 3; i++)
            free(base[i]);
        free(ws);
    }
    layer_destroy(l);
}

/* Past the sizes that the _workspace functions say, nothing may change. */
static void test_scratch_is_enough(void **state)
{
    static const enum ofl_dtype dtypes[] = {OFL_F32, OFL_BF16};

    (void)state;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (size_t d = 0; d < 2; d++) {
            struct layer *l = layer_create(&shapes[c].shape, shapes[c].batch, shapes[c].seq, dtypes[d], 0);
            size_t bytes[2] = {llama_block_forward_workspace(&l->shape, l->batch, l->seq, dtypes[d]),
                               llama_block_backward_workspace(&l->shape, l->batch, l->seq, dtypes[d])};

            for (size_t pass = 0; pass < 2; pass++) {
                unsigned char *ws = ref_alloc(bytes[pass] + 4096);

                memset(ws + bytes[pass], 0xa5, 4096);
                free(l->ws);
                l->ws = ws;
                if (pass)
                    layer_backward(l, true);
                else
                    layer_forward(l);
                for (size_t i = 0; i < 4096; i++)
                    assert_int_equal(ws[bytes[pass] + i], 0xa5);
            }
            layer_destroy(l);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_agrees_with_reference),
        cmocka_unit_test(test_backward_agrees_with_differences),
        cmocka_unit_test(test_wrong_gradient_is_refused),
        cmocka_unit_test(test_gradients_accumulate),
        cmocka_unit_test(test_cache_agrees_with_forward),
        cmocka_unit_test(test_slices_do_not_change_a_row),
        cmocka_unit_test(test_bits_do_not_depend_on_addresses),
        cmocka_unit_test(test_scratch_is_enough),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
