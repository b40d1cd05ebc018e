/*
 * core and the plan, in a running context: steps that are alike move what their plan says they will, and that is
 * little more than what no schedule can do without; from the third step of a name on, also when steps of another
 * name, or off the plan, come between. Counts of bytes only.
 *
 * Negative controls: steps whose order is another one each time have no use of a plan, and move nearly all.
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
#define COUNT 32
#define BYTES (512ull << 10)
#define ALL   (COUNT * BYTES)

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[COUNT];
};

static void open_rig(struct rig *r, const char *dir, uint64_t device_bytes, uint64_t host_bytes)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = "host",
                                .device_bytes = device_bytes,
                                .host_bytes = host_bytes,
                                .nvme = fixture_nvme(dir, 2 * ALL),
                                .nvme_count = 1,
                                .log = fixture_log};
    static uint8_t bytes[BYTES];

    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    for (int i = 0; i < COUNT; i++) {
        char name[32];
        struct ofl_tensor_desc d = {
            .size = sizeof d, .name = name, .kind = OFL_KIND_WEIGHT, .dtype = OFL_F32, .elems = BYTES / 4};

        snprintf(name, sizeof name, "weight %d", i);
        assert_int_equal(ofl_tensor_create(r->ctx, &d, &r->tensors[i]), 0);
        memset(bytes, i + 1, sizeof bytes);
        assert_int_equal(ofl_tensor_write(r->tensors[i], 0, bytes, sizeof bytes), 0);
    }
}

static void close_rig(struct rig *r)
{
    assert_int_equal(fixture_ctx_close(r->ctx), 0);
}

struct look {
    const uint8_t *at;
    uint8_t value;
    int *wrong;
};

static void look(void *arg)
{
    const struct look *l = arg;

    *l->wrong += l->at[0] != l->value || l->at[BYTES - 1] != l->value;
}

/* Reads the tensors at order[0], order[1], ... one at a time. */
static struct ofl_stats step(struct rig *r, const char *name, const int *order, int n)
{
    struct ofl_stats s = {.size = sizeof s};
    struct look looks[2 * COUNT];
    int wrong = 0;

    assert_int_equal(ofl_step_begin(r->ctx, name), 0);
    for (int i = 0; i < n; i++) {
        struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[order[i]], .mode = OFL_READ};

        assert_int_equal(ofl_acquire(r->ctx, &l, 1, r->stream), 0);
        looks[i] = (struct look){l.ptr, (uint8_t)(order[i] + 1), &wrong};
        assert_int_equal(ofl_stream_launch(r->stream, look, &looks[i]), 0);
        assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
    }
    assert_int_equal(ofl_step_end(r->ctx), 0);
    assert_int_equal(ofl_stream_sync(r->stream), 0);
    assert_int_equal(wrong, 0);
    fixture_verify(r->ctx);
    assert_int_equal(ofl_stats_get(r->ctx, &s), 0);
    return s;
}

static void in_order(int *order, int n)
{
    for (int i = 0; i < n; i++)
        order[i] = i;
}

struct moved {
    double in, read; /* a step */
};

/* Of steps 3 to 8, with other steps between if other is not 0; planned: of the last one. */
static struct moved steady(struct rig *r, int other, struct moved *planned)
{
    int order[COUNT], some[COUNT / 2];
    struct ofl_stats before = {0}, after = {0};
    uint64_t in = 0, read = 0;

    in_order(order, COUNT);
    for (int i = 0; i < COUNT / 2; i++)
        some[i] = COUNT - 1 - i;
    for (int i = 0; i < 8; i++) {
        before = after;
        if (other && i % other == 0)
            before = step(r, "other", some, COUNT / 2);
        after = step(r, "step", order, COUNT);
        if (i < 2)
            continue;
        in += after.device_in_bytes - before.device_in_bytes;
        read += after.nvme_read_bytes - before.nvme_read_bytes;
    }
    *planned = (struct moved){(double)after.planned_in_bytes, (double)after.planned_read_bytes};
    return (struct moved){(double)in / 6, (double)read / 6};
}

static void little_more_than_the_least_moves(void **state)
{
    static const struct {
        uint64_t device, host;
    } budgets[] = {{4 * MIB, 4 * MIB}, {2 * MIB, 8 * MIB}, {9 * MIB, 3 * MIB}, {12 * MIB, 3 * MIB}};

    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        struct rig r;
        struct moved moved, planned;
        uint64_t host = budgets[i].host, window = 16 * 68 * 1024;
        /* What is leased, and what comes in meanwhile, does not rest. */
        double in = (double)(ALL + 2 * BYTES - budgets[i].device);
        double read = in - (double)(host - (window < host / 4 ? window : host / 4));

        open_rig(&r, *state, budgets[i].device, host);
        moved = steady(&r, 0, &planned);
        if (moved.in > 1.05 * in || moved.read > 1.1 * read + 64 * 1024 || planned.in > 1.02 * in ||
            planned.read > 1.05 * read)
            fail_msg("device %llu, host %llu: in %.0f (planned %.0f, least %.0f), read %.0f (planned %.0f, "
                     "least %.0f)",
                     (unsigned long long)budgets[i].device, (unsigned long long)host, moved.in, planned.in,
                     in, moved.read, planned.read, read);
        close_rig(&r);
    }
}

/* Steps of another name take what they need, and give it back. */
static void other_steps_between_cost_their_own(void **state)
{
    struct rig r;
    struct moved alone, between, planned;

    open_rig(&r, *state, 6 * MIB, 4 * MIB);
    alone = steady(&r, 0, &planned);
    between = steady(&r, 4, &planned);
    assert_true(between.in <= alone.in + 6 * MIB && between.read <= alone.read + 10 * MIB);
    close_rig(&r);
}

/* A plan of a step that never comes again is of no use. */
static void what_is_never_alike_moves_nearly_all(void **state)
{
    struct rig r;
    int order[COUNT];
    struct random random = {7};
    struct ofl_stats before, after = {0};
    uint64_t in = 0;

    open_rig(&r, *state, 4 * MIB, 4 * MIB);
    in_order(order, COUNT);
    for (int i = 0; i < 8; i++) {
        for (int k = COUNT - 1; k > 0; k--) {
            int j = (int)random_below(&random, (uint64_t)k + 1), x = order[k];

            order[k] = order[j];
            order[j] = x;
        }
        before = after;
        after = step(&r, "step", order, COUNT);
        in += i < 2 ? 0 : after.device_in_bytes - before.device_in_bytes;
    }
    assert_true((double)in / 6 > (double)(ALL - 3 * MIB));
    assert_true(after.off_plan > 0);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_more_than_the_least_moves),
        cmocka_unit_test(other_steps_between_cost_their_own),
        cmocka_unit_test(what_is_never_alike_moves_nearly_all),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
