/*
 * core and the plan, for steps of training in a running context: forward and backward over many BF16 weights, a
 * gradient for each, AdamW with clipping, whose updates all come at the end. Gradients wait on the device, if that has
 * room, weights go up as soon as they are made, and neither sees the drive. Counts of bytes only.
 *
 * Negative controls: on a device without that room, and where the last use of a weight does not say that it is the
 * last, more moves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define MIB   (1ull << 20)
#define COUNT 24
#define ELEMS (128u << 10)
#define STEPS 8
#define FIRST 3 /* steps before it do not count */

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_optimizer *optimizer;
    struct ofl_tensor *weights[COUNT], *grads[COUNT];
};

static struct ofl_tensor *make(struct ofl_ctx *ctx, const char *what, int i, enum ofl_kind kind,
                               enum ofl_dtype dtype)
{
    char name[32];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .kind = kind, .dtype = dtype, .elems = ELEMS};
    struct ofl_tensor *t;

    snprintf(name, sizeof name, "%s %d", what, i);
    assert_int_equal(ofl_tensor_create(ctx, &d, &t), 0);
    return t;
}

static void open_rig(struct rig *r, const char *dir, uint64_t device_bytes, uint64_t host_bytes)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = "host",
                                .device_bytes = device_bytes,
                                .host_bytes = host_bytes,
                                .nvme = fixture_nvme(dir, 128 * MIB),
                                .nvme_count = 1,
                                .log = fixture_log};

    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    assert_int_equal(ofl_optimizer_create(r->ctx, &r->optimizer), 0);
    for (int i = 0; i < COUNT; i++) {
        r->weights[i] = make(r->ctx, "weight", i, OFL_KIND_WEIGHT, OFL_BF16);
        r->grads[i] = make(r->ctx, "grad", i, OFL_KIND_GRADIENT, OFL_F32);
        assert_int_equal(ofl_optimizer_bind(r->optimizer, r->weights[i], r->grads[i]), 0);
    }
}

static void lease(struct rig *r, struct ofl_tensor *t, enum ofl_mode mode, uint32_t flags,
                  struct ofl_lease *l)
{
    *l = (struct ofl_lease){.size = sizeof *l, .tensor = t, .mode = mode, .flags = flags};
    assert_int_equal(ofl_acquire(r->ctx, l, 1, r->stream), 0);
}

static void release(struct rig *r, struct ofl_lease *l)
{
    assert_int_equal(ofl_release(r->ctx, l, 1, r->stream), 0);
}

static void fill(void *arg)
{
    float *at = *(void **)arg;

    for (uint32_t i = 0; i < ELEMS; i++)
        at[i] = 1e-3f;
}

/* flags: of a weight's last use. */
static struct ofl_stats step(struct rig *r, uint64_t number, uint32_t flags)
{
    struct ofl_update_settings a = {
        .size = sizeof a, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip = 1, .step = number};
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_lease w, g[COUNT];

    assert_int_equal(ofl_step_begin(r->ctx, "train"), 0);
    for (int i = 0; i < COUNT; i++) {
        lease(r, r->weights[i], OFL_READ, 0, &w);
        release(r, &w);
    }
    assert_int_equal(ofl_optimizer_begin(r->optimizer, &a), 0);
    for (int i = COUNT; i-- > 0;) {
        struct ofl_lease done;

        lease(r, r->weights[i], OFL_READ, flags, &w);
        lease(r, r->grads[i], OFL_OVERWRITE, 0, &g[i]);
        assert_int_equal(ofl_stream_launch(r->stream, fill, &g[i].ptr), 0);
        done = g[i]; /* its address is still to be read */
        release(r, &done);
        release(r, &w);
        assert_int_equal(ofl_optimizer_apply(r->optimizer, r->weights[i]), 0);
    }
    assert_int_equal(ofl_optimizer_end(r->optimizer), 0);
    assert_int_equal(ofl_step_end(r->ctx), 0);
    assert_int_equal(ofl_stream_sync(r->stream), 0);
    fixture_verify(r->ctx);
    assert_int_equal(ofl_stats_get(r->ctx, &s), 0);
    return s;
}

/* MiB over the drive in a steady step, and as planned. */
static double steady(const char *dir, uint64_t device, uint64_t host, uint32_t flags, double *planned)
{
    struct rig r;
    struct ofl_stats before = {0}, after = {0};
    uint64_t moved;

    open_rig(&r, dir, device * MIB, host * MIB);
    for (uint64_t i = 0; i < STEPS; i++) {
        after = step(&r, i + 1, flags);
        if (i + 1 == FIRST)
            before = after;
    }
    moved = after.nvme_read_bytes + after.nvme_write_bytes - before.nvme_read_bytes - before.nvme_write_bytes;
    *planned = (double)(after.planned_read_bytes + after.planned_write_bytes) / MIB;
    assert_int_equal(ofl_optimizer_destroy(r.optimizer), 0);
    assert_int_equal(fixture_ctx_close(r.ctx), 0);
    return (double)moved / (STEPS - FIRST) / MIB;
}

/* 6 MiB of weights, 12 of gradients, 36 of the optimizer's. */
static void only_the_optimizers_state_passes(void **state)
{
    double planned, moved, least = 2 * (36 - 16);

    moved = steady(*state, 24, 16, OFL_LEASE_DROP, &planned);
    print_message("moved %.1f MiB, planned %.1f, least %.1f\n", moved, planned, least);
    assert_true(planned >= least && planned <= 1.2 * least);
    assert_true(moved <= 1.15 * planned);
}

static void without_room_gradients_pass_too(void **state)
{
    double planned, moved;

    moved = steady(*state, 4, 16, OFL_LEASE_DROP, &planned);
    print_message("moved %.1f MiB, planned %.1f\n", moved, planned);
    assert_true(planned > 1.3 * 40 && moved > 1.3 * 40);
}

static void what_may_be_read_again_is_kept(void **state)
{
    double planned, moved;

    moved = steady(*state, 24, 16, 0, &planned);
    print_message("moved %.1f MiB, planned %.1f\n", moved, planned);
    assert_true(planned > 1.3 * 40 && moved > 1.3 * 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_optimizers_state_passes),
        cmocka_unit_test(without_room_gradients_pass_too),
        cmocka_unit_test(what_may_be_read_again_is_kept),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
