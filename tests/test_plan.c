/*
 * The program of a step against what really runs: the trainer and the generator lease as many tensors as it has
 * leases that want bytes, update as often, hold as much and need as much, for several shapes, dtypes and micro-batches, with
 * clipping and without. And the bytes of an estimate against the plan that the pager itself makes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "examples/common_predict.h"
#include "examples/model/generator.h"
#include "examples/model/slices.h"
#include "examples/model/timing.h"
#include "examples/model/trainer.h"
#include "liboffload/plan/place.h"
#include "liboffload/plan/program.h"
#include "liboffload/plan/shape.h"
#include "liboffload/plan/simulate.h"
#include "tests/temporary.h"

#define ERROR_BYTES 512

static const struct llama_shape plain = {.layers = 3,
                                         .hidden = 64,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = 16,
                                         .ffn = 160,
                                         .vocab = 101,
                                         .max_positions = 64,
                                         .rms_eps = 1e-5f,
                                         .rope_theta = 10000.0f,
                                         .rope = {.factor = 1.0f}};

/* All that a layer may have beside its matrices; and what OLMo 2 has. */
static const struct llama_shape rich = {.layers = 3,
                                        .hidden = 64,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 16,
                                        .ffn = 160,
                                        .vocab = 101,
                                        .max_positions = 64,
                                        .rms_eps = 1e-5f,
                                        .rope_theta = 10000.0f,
                                        .rope = {.factor = 1.0f},
                                        .qkv_bias = true,
                                        .o_bias = true,
                                        .mlp_bias = true,
                                        .qk_norm = LLAMA_QK_NORM_HEAD,
                                        .post_norms = true,
                                        .norm_offset = 1};
static const struct llama_shape behind = {.layers = 2,
                                          .hidden = 64,
                                          .heads = 4,
                                          .kv_heads = 4,
                                          .head_dim = 16,
                                          .ffn = 160,
                                          .vocab = 101,
                                          .max_positions = 64,
                                          .rms_eps = 1e-5f,
                                          .rope_theta = 10000.0f,
                                          .rope = {.factor = 1.0f},
                                          .qk_norm = LLAMA_QK_NORM_ALL,
                                          .post_norms = true,
                                          .no_pre_norms = true};

/* ---- what both are made from ------------------------------------------------- */

static struct ofl_workload workload_of(const struct llama_shape *s, enum ofl_work work, enum ofl_dtype dtype)
{
    return (struct ofl_workload){.size = sizeof(struct ofl_workload),
                                 .work = work,
                                 .layers = s->layers,
                                 .hidden = s->hidden,
                                 .heads = s->heads,
                                 .kv_heads = s->kv_heads,
                                 .head_dim = s->head_dim,
                                 .intermediate = s->ffn,
                                 .vocab = s->vocab,
                                 .tied = s->tied,
                                 .dtype = dtype,
                                 .cache_elem_bytes = sizeof(float),
                                 .inner_elem_bytes = sizeof(float),
                                 .vectors = common_vectors(s)};
}

struct counted {
    uint64_t leases, updates, update_leases;
};

/* Leases that want bytes, but for updates; updates, and leases of these. */
static struct counted count(const struct plan_program *p)
{
    struct counted c = {0};

    for (uint32_t i = 0; i < p->ops_count; i++) {
        for (uint32_t k = 0; p->ops[i].type == PLAN_ACQUIRE && k < p->ops[i].count; k++)
            c.leases += p->leases[p->ops[i].first + k].mode != OFL_OVERWRITE;
        c.updates += p->ops[i].type == PLAN_UPDATE;
        c.update_leases += p->ops[i].type == PLAN_UPDATE ? p->ops[i].count : 0;
    }
    return c;
}

/* Each lease is taken once and given back once, in that order, by an acquire and a release that agree. */
static void check_pairs(const struct plan_program *p)
{
    unsigned char *held = calloc(p->tensors_count, 1);

    assert_non_null(held);
    for (uint32_t i = 0; i < p->ops_count; i++)
        for (uint32_t k = p->ops[i].first; k < p->ops[i].first + p->ops[i].count; k++) {
            uint32_t tensor = p->leases[k].tensor;

            assert_true(tensor < p->tensors_count);
            if (p->ops[i].type == PLAN_ACQUIRE)
                assert_int_equal(held[tensor]++, 0);
            else if (p->ops[i].type == PLAN_RELEASE)
                assert_int_equal(held[tensor]--, 1);
            else
                assert_int_equal(held[tensor], 0); /* an update has them alone */
        }
    for (uint32_t i = 0; i < p->tensors_count; i++)
        assert_int_equal(held[i], 0);
    free(held);
}

/* ---- training ------------------------------------------------------------------ */

struct training {
    const struct llama_shape *shape; /* NULL: plain */
    bool tied, on_device;
    enum ofl_dtype dtype;
    size_t batch, seq, accum;
    double clip;
};

static struct ofl_ctx *open_for(const struct llama_trainer_need *need, bool on_device)
{
    struct ofl_config config = {.size = sizeof config, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct ofl_ctx *ctx;

    config.device_bytes = on_device ? need->device_all_bytes + OFL_HOST_MIN_BYTES : need->device.device_bytes;
    if (!on_device) {
        config.host_bytes = need->store_bytes + OFL_HOST_MIN_BYTES;
        config.expected_bytes = need->store_bytes;
        config.leased_bytes = config.device_bytes;
    }
    assert_int_equal(ofl_open(&config, &ctx), 0);
    return ctx;
}

static void run_step(struct ofl_ctx *ctx, struct llama_trainer *t, const struct training *c, uint64_t step,
                     struct ofl_stats *after)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-3,
                                           .beta1 = 0.9,
                                           .beta2 = 0.95,
                                           .eps = 1e-8,
                                           .clip = c->clip,
                                           .step = step};
    int32_t tokens[64] = {1, 2, 3};
    char error[ERROR_BYTES];
    double loss, norm;

    assert_true(c->accum * c->batch * c->seq <= 64);
    assert_int_equal(llama_trainer_step(t, tokens, tokens, &settings, &loss, &norm, error, sizeof error), 0);
    *after = (struct ofl_stats){.size = sizeof *after};
    assert_int_equal(ofl_stats_get(ctx, after), 0);
}

/* The step's own figures: the second step's, less the first's. Updates of the last may still be running. */
static struct counted real_step(const struct llama_trainer_config *config, const struct training *c)
{
    struct llama_trainer_need need;
    struct ofl_stats s[2];
    struct llama_trainer *t;
    char error[ERROR_BYTES];
    struct ofl_ctx *ctx;

    llama_trainer_need(config, &need);
    ctx = open_for(&need, c->on_device);
    assert_int_equal(llama_trainer_create(ctx, config, &t, error, sizeof error), 0);
    run_step(ctx, t, c, 1, &s[0]);
    run_step(ctx, t, c, 2, &s[1]);
    llama_trainer_destroy(t);
    assert_int_equal(ofl_close(ctx), 0);
    return (struct counted){.leases = s[1].hits + s[1].misses - s[0].hits - s[0].misses};
}

static void check_training(const struct training *c)
{
    struct llama_trainer_config config = {.shape = c->shape ? *c->shape : plain,
                                          .batch = c->batch,
                                          .seq = c->seq,
                                          .accum = c->accum,
                                          .dtype = c->dtype};
    struct llama_trainer_need need;
    struct ofl_workload w;
    struct plan_program p;
    struct plan_place place;
    struct plan_missing missing;
    const uint64_t budgets[OFL_TIERS] = {1ull << 30, 1ull << 30, 1ull << 30};
    struct counted mine, real;

    config.shape.tied = c->tied;
    llama_trainer_need(&config, &need);
    w = workload_of(&config.shape, OFL_TRAIN, c->dtype);
    w.batch = c->batch;
    w.seq = c->seq;
    w.accum = c->accum;
    w.clip = c->clip > 0;
    w.workspace_bytes = need.workspace_bytes;
    assert_int_equal(plan_program_make(&w, &p), 0);
    check_pairs(&p);
    mine = count(&p);
    assert_int_equal(mine.updates, llama_tensor_count(&config.shape));
    real = real_step(&config, c);
    assert_int_equal(real.leases, mine.leases + (c->on_device ? mine.update_leases : 0));
    assert_int_equal(p.least_bytes, need.device.device_bytes);
    assert_int_equal(p.least_tensor_bytes > 0, 1);
    assert_int_equal(p.parameters, llama_param_count(&config.shape));
    assert_int_equal(plan_place_make(&p, budgets, false, &place, &missing), 0);
    assert_int_equal(place.tensor_bytes, need.store_bytes);
    assert_int_equal(place.device_all_bytes, need.device_all_bytes);
    plan_place_free(&place);
    plan_program_free(&p);
}

static void test_training(void **state)
{
    static const struct training cases[] = {
        {.dtype = OFL_F32, .batch = 1, .seq = 8, .accum = 1, .clip = 0},
        {.dtype = OFL_F32, .batch = 2, .seq = 8, .accum = 3, .clip = 1, .tied = true},
        {.dtype = OFL_BF16, .batch = 1, .seq = 16, .accum = 2, .clip = 1},
        {.dtype = OFL_BF16, .batch = 2, .seq = 5, .accum = 1, .clip = 0, .tied = true},
        {.dtype = OFL_F32, .batch = 1, .seq = 8, .accum = 2, .clip = 1, .on_device = true},
        {.dtype = OFL_BF16, .batch = 1, .seq = 8, .accum = 1, .clip = 0, .on_device = true},
        {.shape = &rich, .dtype = OFL_BF16, .batch = 1, .seq = 8, .accum = 2, .clip = 1, .tied = true},
        {.shape = &behind, .dtype = OFL_F32, .batch = 2, .seq = 5, .accum = 1, .clip = 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_training(&cases[i]);
}

/* ---- generating -------------------------------------------------------------------- */

static void check_generating(const struct llama_shape *shape, bool tied, enum ofl_dtype dtype)
{
    struct llama_generator_config config = {.shape = *shape, .positions = 16, .piece = 1, .fresh = dtype};
    enum ofl_dtype dtypes[64];
    struct llama_generator_need need;
    struct ofl_config open = {.size = sizeof open, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    struct ofl_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    struct llama_generator *g;
    struct ofl_workload w;
    struct plan_program p;
    char error[ERROR_BYTES];
    float logits[128];
    int32_t token = 1;
    struct ofl_ctx *ctx;

    config.shape.tied = tied;
    for (size_t i = 0; i < 64; i++)
        dtypes[i] = dtype;
    llama_generator_need(&config, dtypes, &need);
    w = workload_of(&config.shape, OFL_DECODE, dtype);
    w.seq = 1;
    w.positions = config.positions;
    w.workspace_bytes = need.workspace_bytes;
    assert_int_equal(plan_program_make(&w, &p), 0);
    check_pairs(&p);
    open.device_bytes = need.device_all_bytes + OFL_HOST_MIN_BYTES;
    assert_int_equal(ofl_open(&open, &ctx), 0);
    assert_int_equal(llama_generator_create(ctx, NULL, &config, &g, error, sizeof error), 0);
    assert_int_equal(ofl_stats_get(ctx, &before), 0);
    assert_int_equal(llama_generator_feed(g, "decode", &token, 1, logits, error, sizeof error), 0);
    assert_int_equal(ofl_stats_get(ctx, &after), 0);
    /* Beside them, the embedding that the token's row is read from: it lives on the device. */
    assert_int_equal(after.hits + after.misses - before.hits - before.misses, count(&p).leases + 1);
    assert_int_equal(p.least_bytes, need.device.device_bytes);
    assert_int_equal(p.weight_bytes, need.weight_bytes);
    assert_int_equal(p.cache_bytes, need.cache_bytes);
    llama_generator_destroy(g);
    assert_int_equal(ofl_close(ctx), 0);
    plan_program_free(&p);
}

static void test_generating(void **state)
{
    (void)state;
    check_generating(&plain, false, OFL_F32);
    check_generating(&plain, true, OFL_BF16);
    check_generating(&rich, true, OFL_F32);
    check_generating(&behind, false, OFL_BF16);
}

/* ---- the pager's own plan --------------------------------------------------------------- */

static void assert_close(uint64_t got, uint64_t wanted, uint64_t of, const char *what)
{
    uint64_t apart = got > wanted ? got - wanted : wanted - got;

    if (apart > of / 50 + (1u << 20))
        fail_msg("%s: %llu bytes, the pager's plan says %llu", what, (unsigned long long)got,
                 (unsigned long long)wanted);
}

/* The estimate's bytes are those of the plan that the pager itself makes of the same program. */
static void check_planned(const struct ofl_workload *w, uint64_t device, uint64_t host, uint64_t store)
{
    struct ofl_machine m = {.size = sizeof m};
    struct ofl_budgets b = {
        .size = sizeof b, .device_bytes = device, .host_bytes = host, .nvme_bytes = store};
    struct ofl_estimate e = {.size = sizeof e};
    struct plan_program p;
    struct plan_simulation s = {.program = &p,
                                .rates = {.device_flops_s = 1e12,
                                          .device_bytes_s = 1e11,
                                          .link_in_bytes_s = 1e10,
                                          .link_out_bytes_s = 1e10,
                                          .drives = {{.read_bytes_s = 1e9, .write_bytes_s = 1e9}},
                                          .drives_count = 1,
                                          .workers = 2,
                                          .update_bytes_s = 1e10,
                                          .seal_bytes_s = 1e10},
                                .budgets = {.device_bytes = device, .host_bytes = host, .store_bytes = store},
                                .steps = 4,
                                .sync = true};
    struct plan_simulated out;
    uint64_t of;

    assert_int_equal(ofl_machine_find("rtx-4090", &m), 0);
    assert_int_equal(ofl_estimate_get(&m, w, &b, &e), 0);
    assert_true(e.fits);
    assert_int_equal(plan_program_make(w, &p), 0);
    assert_int_equal(plan_simulate(&s, &out), 0);
    plan_program_free(&p);
    of = out.planned_in_bytes + out.planned_out_bytes + out.planned_read_bytes + out.planned_write_bytes;
    assert_true(of > 0);
    assert_close(e.device_in_bytes, out.planned_in_bytes, of, "in");
    assert_close(e.device_out_bytes, out.planned_out_bytes, of, "out");
    assert_close(e.drive_read_bytes, out.planned_read_bytes, of, "read");
    assert_close(e.drive_write_bytes, out.planned_write_bytes, of, "written");
}

static void test_planned(void **state)
{
    struct llama_shape shape = {
        .layers = 12, .hidden = 512, .heads = 8, .kv_heads = 4, .head_dim = 64, .ffn = 1408, .vocab = 2000};
    struct ofl_workload w = workload_of(&shape, OFL_DECODE, OFL_BF16);
    uint64_t mib = 1u << 20;

    (void)state;
    w.positions = 128;
    w.workspace_bytes = mib;
    check_planned(&w, 16 * mib, 24 * mib, 200 * mib);
    check_planned(&w, 40 * mib, 12 * mib, 200 * mib);
    w.source = 1;
    check_planned(&w, 30 * mib, 30 * mib, 0);
    w = workload_of(&shape, OFL_TRAIN, OFL_F32);
    w.seq = 128;
    w.workspace_bytes = 4 * mib;
    check_planned(&w, 64 * mib, 96 * mib, 1024 * mib);
    w.clip = 1;
    w.accum = 2;
    check_planned(&w, 48 * mib, 64 * mib, 1024 * mib);
    w.dtype = OFL_BF16;
    check_planned(&w, 64 * mib, 256 * mib, 1024 * mib);
    check_planned(&w, 64 * mib, 1024 * mib, 0);
}

/* Estimates cut weights as the generator does: of every preset, small and large, and of a shape beside them. */
static void test_slices(void **state)
{
    const struct llama_preset *p;

    (void)state;
    for (size_t n = 0; (p = llama_preset_at(n)); n++)
        for (int f32 = 0; f32 < 2; f32++) {
            enum ofl_dtype dtype = f32 ? OFL_F32 : OFL_BF16, *dtypes;
            struct llama_config c;
            struct ofl_workload from, w;
            struct plan_shape shape;
            uint64_t limit;

            assert_int_equal(llama_preset(p->name, &c), 0);
            dtypes = calloc(llama_tensor_count(&c.shape), sizeof *dtypes);
            assert_non_null(dtypes);
            for (uint32_t i = 0; i < llama_tensor_count(&c.shape); i++)
                dtypes[i] = dtype;
            from = workload_of(&c.shape, OFL_DECODE, dtype);
            assert_int_equal(plan_workload_read(&from, &w, &shape), 0);
            assert_int_equal(plan_weights(&shape), llama_tensor_count(&c.shape));
            limit = llama_slice_limit(&c.shape, dtypes);
            for (uint32_t i = 0; i < llama_tensor_count(&c.shape); i += i < 24 ? 1 : 997) {
                struct llama_tensor_desc d;

                llama_tensor_at(&c.shape, i, &d);
                if (d.dims > 1 &&
                    plan_slice_rows(&shape, i, f32 ? 4 : 2) != llama_slice_rows(&d, dtype, limit))
                    fail_msg("%s, %s: %llu rows instead of %llu", p->name, d.name,
                             (unsigned long long)plan_slice_rows(&shape, i, f32 ? 4 : 2),
                             (unsigned long long)llama_slice_rows(&d, dtype, limit));
            }
            free(dtypes);
        }
}

/* ---- a layer's time ------------------------------------------------------------------ */

static void test_timing(void **state)
{
    struct llama_compute_config c = {.shape = plain, .dtype = OFL_BF16, .batch = 2, .seq = 8, .accum = 1};
    struct llama_timing t;
    char error[ERROR_BYTES];

    (void)state;
    assert_int_equal(llama_timing_measure("host", &c, 64 << 20, 0.1, &t, error, sizeof error), 0);
    assert_true(t.forward_s > 0 && t.backward_s > 0 && t.extend_s <= 0 && t.cores > 0);
    c = (struct llama_compute_config){
        .shape = plain, .dtype = OFL_F32, .piece = 1, .rows = 1, .positions = 32};
    assert_int_equal(llama_timing_measure("host", &c, 0, 0.1, &t, error, sizeof error), 0);
    assert_true(t.forward_s <= 0 && t.backward_s <= 0 && t.extend_s > 0 && t.cores <= 1);
    assert_int_equal(llama_timing_measure("no such device", &c, 0, 0.1, &t, error, sizeof error) < 0, 1);
    assert_non_null(strstr(error, "no such device"));
}

/* Now where direct I/O works, never from a profile that is not there. */
static void test_place_rates(void **state)
{
    struct ofl_place_rates r = {.size = sizeof r};
    char dir[256];
    int err;

    (void)state;
    assert_int_equal(temporary_dir("rates", dir, sizeof dir), 0);
    setenv("OFL_PROFILE_DIR", dir, 1);
    assert_int_equal(ofl_place_rates_get(dir, 0, &r), -ENODATA);
    err = ofl_place_rates_get(dir, 1, &r);
    assert_true(err == -ENODATA || (err == 0 && r.read_bps > 0 && r.write_bps > 0 && r.age_s == 0));
    assert_true(ofl_place_rates_get("/no such directory", 1, &r) < 0);
    r.size = 1;
    assert_true(ofl_place_rates_get(dir, 1, &r) < 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training), cmocka_unit_test(test_generating),
        cmocka_unit_test(test_planned),  cmocka_unit_test(test_slices),
        cmocka_unit_test(test_timing),   cmocka_unit_test(test_place_rates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
