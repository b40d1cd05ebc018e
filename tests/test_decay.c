/*
 * Proves which weights the trainer decays: with spare all matrices and neither norms nor biases, without it all; in F32
 * and BF16. A step decays by half and hardly moves otherwise.
 *
 * Negative control: without spare norms and biases are halved, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/model/config.h"
#include "examples/model/trainer.h"
#include "include/offload.h"

#define SEQ         8
#define ERROR_BYTES 256

static float value_at(const void *bytes, enum ofl_dtype dtype)
{
    uint32_t bits = 0;
    float value;

    if (dtype == OFL_BF16)
        memcpy((char *)&bits + 2, bytes, 2);
    else
        memcpy(&bits, bytes, 4);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* All weights are 1 before the step. */
static void fill(struct llama_trainer *t, const struct llama_shape *shape)
{
    char error[ERROR_BYTES] = "";

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_tensor_desc d;
        float *ones;

        llama_tensor_at(shape, i, &d);
        ones = malloc(d.elems * sizeof *ones);
        assert_non_null(ones);
        for (uint64_t k = 0; k < d.elems; k++)
            ones[k] = 1;
        assert_int_equal(llama_trainer_set(t, i, 0, d.elems, ones, error, sizeof error), 0);
        free(ones);
    }
}

static void check(struct llama_trainer *t, const struct llama_shape *shape, enum ofl_dtype dtype, bool spare)
{
    char error[ERROR_BYTES] = "";

    for (uint32_t i = 0; i < llama_tensor_count(shape); i++) {
        struct llama_tensor_desc d;
        unsigned char bytes[4];
        bool whole;
        float value;

        llama_tensor_at(shape, i, &d);
        assert_int_equal(llama_trainer_get(t, i, 0, 1, bytes, error, sizeof error), 0);
        value = value_at(bytes, dtype);
        whole =
            spare && !strstr(d.name, "proj.weight") && !strstr(d.name, "embed") && !strstr(d.name, "lm_head");
        if (value < (whole ? 0.99f : 0.49f) || value > (whole ? 1.01f : 0.51f))
            fail_msg("%s, spare %d: %g after the step", d.name, spare, (double)value);
    }
}

static void train(enum ofl_dtype dtype, bool spare)
{
    struct llama_config c;
    struct llama_trainer_config config = {.batch = 1, .seq = SEQ, .accum = 1, .dtype = dtype, .spare = spare};
    struct ofl_update_settings s = {.size = sizeof s,
                                    .lr = 1e-6,
                                    .beta1 = 0.9,
                                    .beta2 = 0.99,
                                    .eps = 1e-8,
                                    .weight_decay = 5e5,
                                    .step = 1};
    struct ofl_config open = {.size = sizeof open, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    int32_t tokens[SEQ + 1] = {5, 1, 4, 2, 3};
    struct llama_trainer_need need;
    struct llama_trainer *t;
    char error[ERROR_BYTES] = "";
    double loss, norm;
    struct ofl_ctx *ctx;

    assert_int_equal(llama_preset("tiny", &c), 0);
    c.shape.qkv_bias = c.shape.o_bias = c.shape.mlp_bias = true;
    config.shape = c.shape;
    llama_trainer_need(&config, &need);
    open.device_bytes = need.device_all_bytes + OFL_HOST_MIN_BYTES;
    assert_int_equal(ofl_open(&open, &ctx), 0);
    if (llama_trainer_create(ctx, &config, &t, error, sizeof error) < 0)
        fail_msg("%s", error);
    fill(t, &c.shape);
    if (llama_trainer_step(t, tokens, tokens + 1, &s, &loss, &norm, error, sizeof error) < 0)
        fail_msg("%s", error);
    check(t, &c.shape, dtype, spare);
    llama_trainer_destroy(t);
    assert_int_equal(ofl_close(ctx), 0);
}

static void matrices_alone_decay(void **state)
{
    (void)state;
    train(OFL_F32, true);
    train(OFL_BF16, true);
}

static void all_decay_without(void **state)
{
    (void)state;
    train(OFL_F32, false);
    train(OFL_BF16, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_alone_decay),
        cmocka_unit_test(all_decay_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
