/*
 * core and hints, in a running context: what is hinted at comes to the device, or to host memory where that has no
 * place for it, without a lease; what is taken back does not; a plan's resting copies stay; ofl_resident says where
 * bytes are; leases beside the plan leave it as it is. Random hints in random programs: tests/test_sim.c.
 *
 * Negative controls: leases that are not beside it depart from it; without a hint nothing comes; a hint that was taken back, or is two steps old, brings nothing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define KIB     (UINT64_C(1) << 10)
#define COUNT   24
#define BYTES   (256 * KIB)
#define WAIT_MS 30000

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[COUNT];
};

/* Tensors in the store; the device holds four of them, host memory eight. */
static void open_rig(struct rig *r, const char *dir)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = "host",
                                .device_bytes = 4 * BYTES,
                                .host_bytes = 8 * BYTES,
                                .tile_bytes = 64 * KIB,
                                .nvme = fixture_nvme(dir, 2 * COUNT * BYTES),
                                .nvme_count = 1,
                                .log = fixture_log};
    static uint8_t bytes[BYTES];

    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    for (int i = 0; i < COUNT; i++) {
        struct ofl_tensor_desc d = {.size = sizeof d,
                                    .name = "weight",
                                    .kind = OFL_KIND_WEIGHT,
                                    .dtype = OFL_F32,
                                    .elems = BYTES / 4};

        assert_int_equal(ofl_tensor_create(r->ctx, &d, &r->tensors[i]), 0);
        memset(bytes, i + 1, sizeof bytes);
        assert_int_equal(ofl_tensor_write(r->tensors[i], 0, bytes, sizeof bytes), 0);
    }
}

static void close_rig(struct rig *r)
{
    assert_int_equal(fixture_ctx_close(r->ctx), 0);
}

static struct ofl_lease lease_of(const struct rig *r, int i)
{
    return (struct ofl_lease){.size = sizeof(struct ofl_lease), .tensor = r->tensors[i], .mode = OFL_READ};
}

static struct ofl_residency where(const struct rig *r, int i)
{
    struct ofl_residency w = {.size = sizeof w};

    assert_int_equal(ofl_resident(r->tensors[i], 0, 0, &w), 0);
    assert_int_equal(w.bytes, BYTES);
    return w;
}

static struct ofl_stats stats(const struct rig *r)
{
    struct ofl_stats s = {.size = sizeof s};

    assert_int_equal(ofl_stats_get(r->ctx, &s), 0);
    return s;
}

enum place { ON_DEVICE, IN_HOST };

/* Until all of tensor i is there. */
static void await(const struct rig *r, int i, enum place place)
{
    for (int ms = 0; ms < WAIT_MS; ms++) {
        struct ofl_residency w = where(r, i);

        if ((place == ON_DEVICE ? w.device_bytes : w.host_bytes) == BYTES)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("tensor %d does not come", i);
}

/* Reads tensor i on the stream. */
static void use_by(struct rig *r, int i, uint32_t flags)
{
    struct ofl_lease l = lease_of(r, i);

    l.flags = flags;

    assert_int_equal(ofl_acquire(r->ctx, &l, 1, r->stream), 0);
    assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
    assert_int_equal(ofl_stream_sync(r->stream), 0);
}

static void use(struct rig *r, int i)
{
    use_by(r, i, 0);
}

/* Everything but the last one has been used, so all memory is theirs. */
static void use_others(struct rig *r, int but)
{
    for (int i = 0; i < COUNT; i++)
        if (i != but)
            use(r, i);
}

static int hint(struct rig *r, int i, enum ofl_hint_kind what)
{
    struct ofl_lease l = lease_of(r, i);

    return ofl_hint(r->ctx, &l, 1, what);
}

/* ---- what comes ---------------------------------------------------------------- */

static void comes_to_the_device(void **state)
{
    static const enum ofl_hint_kind kinds[] = {OFL_HINT_NEXT, OFL_HINT_LATER};
    struct rig r;

    open_rig(&r, *state);
    for (int k = 0; k < 2; k++) {
        int i = 20 + k;
        struct ofl_stats before, after;

        use_others(&r, i);
        before = stats(&r);
        assert_int_equal(where(&r, i).below_bytes, BYTES);
        assert_int_equal(where(&r, i).device_bytes + where(&r, i).device_coming_bytes, 0);
        assert_int_equal(hint(&r, i, kinds[k]), 0);
        await(&r, i, ON_DEVICE);
        use(&r, i);
        after = stats(&r);
        assert_int_equal(after.prefetches - before.prefetches, 1);
        assert_int_equal(after.hits - before.hits, 1);
        assert_int_equal(after.misses, before.misses);
    }
    close_rig(&r);
}

/* Once it has been used it is like any other: what was used longest ago leaves. */
static void leaves_after_its_use(void **state)
{
    struct rig r;

    open_rig(&r, *state);
    assert_int_equal(hint(&r, 20, OFL_HINT_NEXT), 0);
    await(&r, 20, ON_DEVICE);
    use(&r, 20);
    for (int i = 0; i < 4; i++)
        use(&r, i);
    assert_int_equal(where(&r, 20).device_bytes, 0);
    close_rig(&r);
}

/* What stands in the queue behind one that finds no room goes with its tensor. */
static void goes_with_its_tensor(void **state)
{
    struct ofl_lease held[4];
    struct rig r;

    open_rig(&r, *state);
    for (int i = 0; i < 4; i++)
        held[i] = lease_of(&r, i);
    assert_int_equal(ofl_acquire(r.ctx, held, 4, r.stream), 0);
    assert_int_equal(hint(&r, 20, OFL_HINT_NEXT), 0);
    assert_int_equal(hint(&r, 21, OFL_HINT_NEXT), 0);
    assert_int_equal(ofl_tensor_destroy(r.tensors[21]), 0);
    fixture_verify(r.ctx);
    assert_int_equal(ofl_release(r.ctx, held, 4, r.stream), 0);
    await(&r, 20, ON_DEVICE);
    close_rig(&r);
}

/* Where leases hold the device, to host memory; and on when they are released. */
static void comes_as_near_as_it_can(void **state)
{
    struct ofl_lease held[4];
    struct rig r;

    open_rig(&r, *state);
    use_others(&r, 20);
    for (int i = 0; i < 4; i++)
        held[i] = lease_of(&r, i);
    assert_int_equal(ofl_acquire(r.ctx, held, 4, r.stream), 0);
    assert_int_equal(ofl_stream_sync(r.stream), 0);
    assert_int_equal(hint(&r, 20, OFL_HINT_NEXT), 0);
    await(&r, 20, IN_HOST);
    assert_int_equal(where(&r, 20).device_bytes + where(&r, 20).device_coming_bytes, 0);
    assert_int_equal(ofl_release(r.ctx, held, 4, r.stream), 0);
    await(&r, 20, ON_DEVICE);
    close_rig(&r);
}

static void comes_in_parts(void **state)
{
    struct ofl_residency w = {.size = sizeof w};
    struct ofl_lease l;
    struct rig r;

    open_rig(&r, *state);
    use_others(&r, 7);
    l = lease_of(&r, 7);
    l.offset_elems = 16 * KIB + 10; /* of 64 KiB tiles the second one and some of the third */
    l.count_elems = 16 * KIB;
    assert_int_equal(ofl_hint(r.ctx, &l, 1, OFL_HINT_NEXT), 0);
    for (int ms = 0; ms < WAIT_MS && w.device_bytes != 64 * KIB; ms++) {
        assert_int_equal(ofl_resident(r.tensors[7], l.offset_elems, l.count_elems, &w), 0);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(w.bytes, 64 * KIB);
    assert_int_equal(w.device_bytes, 64 * KIB);
    w = where(&r, 7);
    assert_int_equal(w.device_bytes, 64 * KIB);
    assert_int_equal(w.below_bytes + w.host_bytes + w.host_coming_bytes, BYTES);
    close_rig(&r);
}

/* ---- what does not --------------------------------------------------------------- */

static void nothing_comes_unasked(void **state)
{
    struct ofl_lease held[4];
    struct rig r;

    open_rig(&r, *state);
    use_others(&r, 20);
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    assert_int_equal(where(&r, 20).below_bytes, BYTES);
    for (int i = 0; i < 4; i++)
        held[i] = lease_of(&r, i);
    assert_int_equal(ofl_acquire(r.ctx, held, 4, r.stream), 0);
    assert_int_equal(hint(&r, 20, OFL_HINT_NEXT), 0);
    assert_int_equal(hint(&r, 20, OFL_HINT_CANCEL), 0);
    assert_int_equal(ofl_release(r.ctx, held, 4, r.stream), 0);
    use(&r, 0);
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    assert_int_equal(where(&r, 20).device_bytes + where(&r, 20).device_coming_bytes, 0);
    /* It counts to the end of the step after its own. */
    assert_int_equal(ofl_acquire(r.ctx, held, 4, r.stream), 0);
    assert_int_equal(hint(&r, 20, OFL_HINT_NEXT), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ofl_step_begin(r.ctx, "empty"), 0);
        assert_int_equal(ofl_step_end(r.ctx), 0);
    }
    assert_int_equal(ofl_release(r.ctx, held, 4, r.stream), 0);
    use(&r, 0);
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    assert_int_equal(where(&r, 20).device_bytes + where(&r, 20).device_coming_bytes, 0);
    close_rig(&r);
}

/* Uses all tensors but the last two. */
static void step(struct rig *r, bool hinted)
{
    assert_int_equal(ofl_step_begin(r->ctx, "all"), 0);
    for (int i = 0; i < COUNT - 2; i++) {
        if (hinted && i == 5)
            assert_int_equal(hint(r, COUNT - 1, OFL_HINT_LATER), 0);
        use(r, i);
    }
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

/* Tensors of set that are on the device: how many, and which. */
static int count_on_device(const struct rig *r, uint32_t set, uint32_t *into)
{
    int n = 0;

    *into = 0;
    for (int i = 0; i < COUNT; i++)
        if (set >> i & 1 && where(r, i).device_bytes == BYTES) {
            *into |= 1u << i;
            n++;
        }
    return n;
}

/* Of four places two are of copies that rest, as the plan has it: they do after hints, too. */
static void resting_copies_stay(void **state)
{
    uint32_t resting = UINT32_MAX;
    struct rig r;

    open_rig(&r, *state);
    for (int i = 0; i < 4; i++)
        step(&r, false);
    for (int i = 0; i < 4; i++) {
        step(&r, false);
        count_on_device(&r, resting, &resting);
    }
    assert_true(count_on_device(&r, resting, &resting) >= 2);
    for (int i = 0; i < 4; i++) {
        uint32_t now;

        step(&r, true);
        assert_true(count_on_device(&r, resting, &now) >= 2);
    }
    fixture_verify(r.ctx);
    close_rig(&r);
}

/* A step of two tensors, and one of eight others, each time another one. */
static uint64_t departures(struct rig *r, uint32_t flags)
{
    uint64_t before = 0;

    for (int i = 0; i < 12; i++) {
        if (i == 4)
            before = stats(r).off_plan;
        assert_int_equal(ofl_step_begin(r->ctx, flags ? "beside" : "within"), 0);
        use(r, 0);
        use_by(r, 2 + i * 5 % 8, flags);
        use(r, 1);
        assert_int_equal(ofl_step_end(r->ctx), 0);
    }
    return stats(r).off_plan - before;
}

/* Of the four places two are the plan's; the last two used beside it have the others. */
static void beside_the_plan(void **state)
{
    struct rig r;

    open_rig(&r, *state);
    assert_int_equal(departures(&r, OFL_LEASE_UNPLANNED), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(where(&r, i).device_bytes, BYTES);
    assert_int_equal(where(&r, 2 + 11 * 5 % 8).device_bytes, BYTES);
    assert_true(departures(&r, 0) > 0);
    fixture_verify(r.ctx);
    close_rig(&r);
}

static void wrong_hints_are_refused(void **state)
{
    struct ofl_residency w = {.size = sizeof w};
    struct ofl_tensor_desc d = {
        .size = sizeof d, .name = "large", .kind = OFL_KIND_WEIGHT, .dtype = OFL_F32, .elems = 5 * BYTES / 4};
    struct ofl_tensor *large;
    struct ofl_lease l[2];
    struct rig r;

    open_rig(&r, *state);
    assert_int_equal(ofl_tensor_create(r.ctx, &d, &large), 0);
    l[0] = l[1] = lease_of(&r, 1);
    assert_int_equal(ofl_hint(r.ctx, l, 2, (enum ofl_hint_kind)7), -EINVAL);
    assert_non_null(strstr(ofl_error(), "unknown kind 7"));
    l[1].offset_elems = BYTES / 4;
    l[1].count_elems = 1;
    assert_int_equal(ofl_hint(r.ctx, l, 2, OFL_HINT_NEXT), -EINVAL);
    l[1] = lease_of(&r, 1);
    l[1].tensor = large;
    assert_int_equal(ofl_hint(r.ctx, l, 2, OFL_HINT_NEXT), -OFL_EBUDGET);
    assert_non_null(strstr(ofl_error(), "hint large: 1310720 bytes: the device has 1048576"));
    l[1].tensor = NULL;
    assert_int_equal(ofl_hint(r.ctx, l, 2, OFL_HINT_NEXT), -EINVAL);
    assert_int_equal(where(&r, 1).device_bytes + where(&r, 1).device_coming_bytes, 0); /* all or nothing */
    l[0].size = 0; /* that of this header */
    assert_int_equal(ofl_hint(r.ctx, l, 1, OFL_HINT_NEXT), 0);
    assert_int_equal(ofl_hint(r.ctx, l, 0, OFL_HINT_NEXT), 0);
    assert_int_equal(ofl_resident(r.tensors[1], BYTES / 4, 1, &w), -EINVAL);
    assert_int_equal(ofl_resident(NULL, 0, 0, &w), -EINVAL);
    ofl_tensor_destroy(r.tensors[1]); /* while it is on its way */
    ofl_tensor_destroy(large);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_to_the_device),     cmocka_unit_test(comes_as_near_as_it_can),
        cmocka_unit_test(leaves_after_its_use),    cmocka_unit_test(goes_with_its_tensor),
        cmocka_unit_test(comes_in_parts),          cmocka_unit_test(nothing_comes_unasked),
        cmocka_unit_test(beside_the_plan),         cmocka_unit_test(resting_copies_stay),
        cmocka_unit_test(wrong_hints_are_refused),
    };

    return cmocka_run_group_tests_name("core and hints", tests, scratch_setup, scratch_teardown);
}
