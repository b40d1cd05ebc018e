/*
 * Estimates against closed forms: bytes of generation and of training, the formula of the times, what does not fit
 * and what would do; more memory is never slower; machines in files, good and bad.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload_estimate.h"
#include "liboffload/plan/traffic.h"
#include "tests/temporary.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* A machine in whole numbers: what binds is easily seen. */
static struct ofl_machine machine(void)
{
    return (struct ofl_machine){.size = sizeof(struct ofl_machine),
                                .name = "made up",
                                .bf16_flops = 100e12,
                                .f32_flops = 10e12,
                                .device_bytes = 16 * GIB,
                                .device_bps = 1e12,
                                .link_in_bps = 20e9,
                                .link_out_bps = 10e9,
                                .host_bytes = 64 * GIB,
                                .host_bps = 100e9,
                                .drives = 2,
                                .drive_bytes = 1000 * GIB,
                                .drive_read_bps = 4e9,
                                .drive_write_bps = 2e9,
                                .drive_endurance_bytes = 1e15};
}

static struct ofl_workload model(enum ofl_work work)
{
    return (struct ofl_workload){.size = sizeof(struct ofl_workload),
                                 .work = work,
                                 .layers = 24,
                                 .hidden = 1024,
                                 .heads = 16,
                                 .kv_heads = 8,
                                 .intermediate = 2816,
                                 .vocab = 8000,
                                 .dtype = OFL_BF16,
                                 .seq = work == OFL_TRAIN ? 512 : 1,
                                 .positions = work == OFL_TRAIN ? 0 : 256,
                                 .workspace_bytes = MIB};
}

static struct ofl_estimate ask(const struct ofl_machine *m, const struct ofl_workload *w, uint64_t device,
                               uint64_t host, uint64_t nvme)
{
    struct ofl_budgets b = {.size = sizeof b, .device_bytes = device, .host_bytes = host, .nvme_bytes = nvme};
    struct ofl_estimate e = {.size = sizeof e};

    assert_int_equal(ofl_estimate_get(m, w, &b, &e), 0);
    return e;
}

static void assert_near(double got, double wanted, double share, const char *what)
{
    if (fabs(got - wanted) <= share * fabs(wanted))
        return;
    fail_msg("%s: %g, wanted %g within %g", what, got, wanted, share);
}

/* ---- generating ---------------------------------------------------------------- */

/* What does not rest is read: weights, but for the embedding, of which one row is, less device less host, but for what
 * passes; and never less than that. */
static void test_decode_bytes(void **state)
{
    static const uint64_t budgets[][2] = {{100, 60},  {200, 100}, {300, 310},
                                          {450, 160}, {64, 500},  {120, 16}};
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_DECODE);

    (void)state;
    w.source = 1;
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        uint64_t device = budgets[i][0] * MIB, host = budgets[i][1] * MIB, least_in, least_read;
        struct ofl_estimate e = ask(&m, &w, device, host, 0);
        uint64_t weights = (e.parameters - 8000 * 1024) * 2, free = device - e.held_bytes;

        assert_true(e.fits);
        least_in = weights > free ? weights - free : 0;
        least_read = least_in > host ? least_in - host : 0;
        assert_true(e.device_in_bytes >= least_in && e.drive_read_bytes >= least_read);
        /* what is in use passes, and the largest copy beside it; tiles pass the host */
        assert_true(e.device_in_bytes <= least_in + 2 * 24 * MIB);
        assert_true(e.drive_read_bytes <= least_read + 2 * 24 * MIB + 20 * MIB);
        assert_int_equal(e.device_out_bytes + e.drive_write_bytes, 0);
        assert_int_equal(e.tokens, 1);
    }
}

static void test_decode_times(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_DECODE);
    struct ofl_estimate e;

    (void)state;
    w.source = 1;
    e = ask(&m, &w, 100 * MIB, 60 * MIB, 0);
    assert_int_equal(e.binds, OFL_DRIVE);
    assert_near(e.step_s, (double)e.drive_read_bytes / 8e9, 1e-9, "two drives");
    assert_near(e.tokens_per_s, 1 / e.step_s, 1e-9, "a token a step");
    m.drive_read_bps = 1e12;
    e = ask(&m, &w, 100 * MIB, 60 * MIB, 0);
    assert_int_equal(e.binds, OFL_LINK);
    assert_near(e.step_s, (double)e.device_in_bytes / 20e9, 1e-9, "link");
    e = ask(&m, &w, 2 * GIB, 2 * GIB, 0);
    assert_int_equal(e.binds, OFL_COMPUTE);
    assert_int_equal(e.home, OFL_DEVICE);
    /* all weights but the embedding are read, and the cache */
    assert_near(e.step_s, (double)(e.parameters - 8000 * 1024) * 2 / 1e12, 0.1, "device memory");
}

/* ---- training -------------------------------------------------------------------- */

/* F32, nothing rests but what is needed: docs/design.md, "Bounds of a training step". */
static void test_training_bytes(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate e;
    double p;

    (void)state;
    w.dtype = OFL_F32;
    e = ask(&m, &w, 200 * MIB, 80 * MIB, 100 * GIB);
    assert_true(e.fits);
    p = (double)e.parameters;
    /* weights come in for forward and backward, gradients go out; the head's gradients come in, too, to be summed */
    assert_near((double)e.device_in_bytes, 8 * p, 0.2, "in");
    assert_near((double)e.device_out_bytes, 4 * p, 0.2, "out");
    /* moments and weight both ways for the update, the weight for forward and backward */
    assert_true((double)e.drive_read_bytes >= 12 * p);
    assert_near((double)e.drive_read_bytes, 20 * p, 0.3, "read");
    assert_near((double)e.drive_write_bytes, 12 * p, 0.3, "written");
}

/* A clipped step's gradients wait for the norm: on the drive, if nothing else has room; on the device, if that has. */
static void test_training_clipped(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate free, clipped;

    (void)state;
    free = ask(&m, &w, 100 * MIB, 80 * MIB, 100 * GIB);
    w.clip = 1;
    clipped = ask(&m, &w, 100 * MIB, 80 * MIB, 100 * GIB);
    assert_true(clipped.drive_write_bytes > free.drive_write_bytes + 3 * free.parameters);
    assert_true(clipped.drive_read_bytes > free.drive_read_bytes + 3 * free.parameters);
    clipped = ask(&m, &w, 2200 * MIB, 80 * MIB, 100 * GIB);
    w.clip = 0;
    free = ask(&m, &w, 2200 * MIB, 80 * MIB, 100 * GIB);
    assert_near((double)clipped.drive_write_bytes, (double)free.drive_write_bytes, 0.01, "with room");
    free = ask(&m, &w, 8 * GIB, 8 * GIB, 0);
    assert_int_equal(free.home, OFL_DEVICE);
    assert_int_equal(
        free.device_in_bytes + free.device_out_bytes + free.drive_read_bytes + free.drive_write_bytes, 0);
}

/* The sum over phases of what lasts longest, and no resource beyond it. */
static void check_formula(const struct ofl_estimate *e)
{
    double most = 0, all = 0;

    for (int i = 0; i < OFL_RESOURCES; i++) {
        most = e->busy_s[i] > most ? e->busy_s[i] : most;
        all += e->busy_s[i];
    }
    assert_true(e->step_s >= most && e->step_s <= all + e->exposed_s + 1e-9);
}

static void test_training_times(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate e[2];

    (void)state;
    e[0] = ask(&m, &w, 200 * MIB, 80 * MIB, 100 * GIB);
    check_formula(&e[0]);
    assert_int_equal(e[0].binds, OFL_DRIVE);
    assert_near(e[0].busy_s[OFL_DRIVE],
                (double)e[0].drive_read_bytes / 8e9 + (double)e[0].drive_write_bytes / 4e9, 1e-9, "drives");
    assert_near(e[0].wear_bytes_per_day, (double)e[0].drive_write_bytes / 2 / e[0].step_s * 86400, 1e-9,
                "wear");
    assert_near(e[0].life_days * e[0].wear_bytes_per_day, 1e15, 1e-9, "life");
    w.accum = 64; /* the same bytes but for activations, 64 times the products */
    e[1] = ask(&m, &w, 200 * MIB, 80 * MIB, 100 * GIB);
    assert_near(e[1].busy_s[OFL_COMPUTE], 64 * e[0].busy_s[OFL_COMPUTE], 0.1, "products");
    assert_true(e[1].tokens_per_s > 4 * e[0].tokens_per_s);
    /* 8 P K / F and attention */
    e[0] = ask(&m, &w, 8 * GIB, 64 * GIB, 0);
    assert_near(e[0].flops_per_s * e[0].step_s, 6.0 * (double)(e[0].parameters - 8000 * 1024) * 512 * 64,
                0.01, "6 P K");
    assert_true(e[0].busy_s[OFL_COMPUTE] > 8.0 / 6 * 0.9 * e[0].flops_per_s * e[0].step_s / 100e12);
}

/* Cores that compute and move add up. */
static void test_shared(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate apart, shared;

    (void)state;
    m.host_bps = 5e9;
    m.drive_read_bps = m.drive_write_bps = 1e12;
    w.accum = 8;
    apart = ask(&m, &w, 200 * MIB, 80 * MIB, 100 * GIB);
    m.shared = 1;
    shared = ask(&m, &w, 200 * MIB, 80 * MIB, 100 * GIB);
    assert_true(shared.step_s > apart.step_s);
    assert_near(shared.step_s, shared.busy_s[OFL_COMPUTE] + shared.busy_s[OFL_HOST_WORK] + shared.exposed_s,
                1e-9, "one after the other");
}

/* ---- more is not worse --------------------------------------------------------------- */

static void check_monotone(const struct ofl_workload *w, uint64_t nvme, const char *what)
{
    struct ofl_machine m = machine();

    for (int tier = 0; tier < 2; tier++) {
        double before = INFINITY;

        for (uint64_t mib = 160; mib <= 8192; mib += mib / 8) {
            struct ofl_estimate e =
                ask(&m, w, tier == 0 ? mib * MIB : 256 * MIB, tier == 1 ? mib * MIB : 256 * MIB, nvme);

            if (!e.fits)
                continue;
            check_formula(&e);
            /* where tiles grow with host memory, more of it passes by: up to a twentieth is lost there; the plan is
             * greedy; and what waits on the device goes out in another phase than what does not */
            if (e.step_s > (tier == 1 ? 1.06 : 1.01) * before)
                fail_msg("%s: %s memory of %" PRIu64 " MiB takes %g s, less of it %g s", what,
                         tier ? "host" : "device", mib, e.step_s, before);
            before = e.step_s < before ? e.step_s : before;
        }
        assert_true(before < INFINITY);
    }
}

static void test_monotone(void **state)
{
    struct ofl_workload w = model(OFL_DECODE);

    (void)state;
    check_monotone(&w, 100 * GIB, "decode");
    w.source = 1;
    check_monotone(&w, 0, "decode from a file");
    w = model(OFL_TRAIN);
    check_monotone(&w, 100 * GIB, "training");
    w.clip = 1;
    w.accum = 4;
    check_monotone(&w, 100 * GIB, "clipped training");
}

/* ---- the walk and the solver agree ------------------------------------------------------ */

static void check_walk(const struct ofl_workload *w, const uint64_t budgets[OFL_TIERS])
{
    struct plan_program p;
    struct plan_place place;
    struct plan_missing missing;
    struct plan_traffic t;
    struct sched_rest *rest;
    struct sched_moved moved, sum = {0};

    assert_int_equal(plan_program_make(w, &p), 0);
    assert_int_equal(plan_place_make(&p, budgets, false, &place, &missing), 0);
    assert_int_equal(plan_traffic_make(&p, &place, &t), 0);
    rest = calloc(place.uses_count, sizeof *rest);
    assert_non_null(rest);
    assert_int_equal(
        sched_solve(place.uses, place.uses_count, place.items, p.tensors_count, &place.room, rest, &moved),
        0);
    for (int i = 0; i < PLAN_PHASES; i++) {
        sum.device_in += t.moved[i].device_in;
        sum.device_out += t.moved[i].device_out;
        sum.drive_read += t.moved[i].drive_read;
        sum.drive_write += t.moved[i].drive_write;
    }
    assert_int_equal(sum.device_in, moved.device_in);
    assert_int_equal(sum.device_out, moved.device_out);
    assert_int_equal(sum.drive_read, moved.drive_read);
    assert_int_equal(sum.drive_write, moved.drive_write);
    free(rest);
    plan_place_free(&place);
    plan_program_free(&p);
}

static void test_walk(void **state)
{
    static const uint64_t budgets[][OFL_TIERS] = {{200 * MIB, 80 * MIB, 100 * GIB},
                                                  {300 * MIB, 900 * MIB, 100 * GIB},
                                                  {400 * MIB, 7 * GIB, 0},
                                                  {300 * MIB, 3 * GIB, 4 * GIB}};

    (void)state;
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        struct ofl_workload w = model(OFL_TRAIN);

        check_walk(&w, budgets[i]);
        w.clip = 1;
        w.accum = 3;
        check_walk(&w, budgets[i]);
        w = model(OFL_DECODE);
        check_walk(&w, budgets[i]);
    }
}

/* ---- what does not fit --------------------------------------------------------------------- */

static void test_missing(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate e = ask(&m, &w, 8 * MIB, 80 * MIB, 100 * GIB);
    uint64_t least;

    (void)state;
    assert_false(e.fits);
    assert_non_null(strstr(e.missing, "device memory of 8388608 bytes"));
    assert_non_null(strstr(e.missing, "backward"));
    least = e.least_bytes[OFL_DEVICE];
    assert_true(ask(&m, &w, least, 80 * MIB, 100 * GIB).fits);
    assert_false(ask(&m, &w, least - 256, 80 * MIB, 100 * GIB).fits);
    e = ask(&m, &w, 200 * MIB, 80 * MIB, GIB);
    assert_false(e.fits);
    assert_non_null(strstr(e.missing, "all tensors take"));
    assert_true(ask(&m, &w, 200 * MIB, e.least_bytes[OFL_HOST], GIB).fits);
    assert_true(ask(&m, &w, 200 * MIB, 80 * MIB, e.least_bytes[OFL_NVME]).fits);
    assert_false(ask(&m, &w, 200 * MIB, 80 * MIB, e.least_bytes[OFL_NVME] - MIB).fits);
    assert_false(ask(&m, &w, 200 * MIB, MIB, 100 * GIB).fits);
}

static void refused(struct ofl_workload w, const char *name)
{
    struct ofl_machine m = machine();
    struct ofl_estimate e = {.size = sizeof e};

    assert_int_equal(ofl_estimate_get(&m, &w, NULL, &e), -EINVAL);
    if (!strstr(ofl_error(), name))
        fail_msg("%s does not name %s", ofl_error(), name);
}

static void test_refused(void **state)
{
    struct ofl_workload w = model(OFL_TRAIN);

    (void)state;
    w.layers = 0;
    refused(w, "layers");
    w = model(OFL_TRAIN);
    w.heads = 15;
    refused(w, "heads");
    w = model(OFL_TRAIN);
    w.dtype = OFL_F16;
    refused(w, "dtype");
    w = model(OFL_TRAIN);
    w.batch = 1u << 20;
    refused(w, "2^28 tokens");
    w = model(OFL_DECODE);
    w.batch = 2;
    refused(w, "batch");
    w = model(OFL_DECODE);
    w.positions = w.seq = 1ull << 40;
    refused(w, "seq");
    w = model(OFL_TRAIN);
    w.accum = 1u << 18;
    if (!getenv("TSAN_OPTIONS")) /* a quarter of a minute, of one thread */
        refused(w, "operations");
    w.size = 1;
    refused(w, "size");
}

/* ---- ways ------------------------------------------------------------------------------------- */

static void test_ways(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_budgets b = {
        .size = sizeof b, .device_bytes = 256 * MIB, .host_bytes = 256 * MIB, .nvme_bytes = 100 * GIB};
    struct ofl_estimate_ways ways = {.size = sizeof ways};
    struct ofl_estimate now, e;

    (void)state;
    w.accum = 64;
    m.link_in_bps = m.link_out_bps = 60e9; /* activations pass it */
    now = ask(&m, &w, b.device_bytes, b.host_bytes, b.nvme_bytes);
    assert_int_equal(ofl_estimate_ways_get(&m, &w, &b, &ways), 0);
    assert_true(ways.resident_step_s < now.step_s);
    assert_true(ways.drive_tokens_per_s > now.tokens_per_s);
    assert_true(ways.ram_tokens_per_s > now.tokens_per_s);
    assert_true(ways.batch_tokens_per_s > 1.1 * now.tokens_per_s);
    m.drives = 3;
    e = ask(&m, &w, b.device_bytes, b.host_bytes, b.nvme_bytes);
    assert_near(e.tokens_per_s, ways.drive_tokens_per_s, 1e-9, "one more drive");
    m.drives = 2;
    assert_true(ways.hides_host_bytes > b.host_bytes);
    e = ask(&m, &w, b.device_bytes, ways.hides_host_bytes, b.nvme_bytes);
    assert_true(e.step_s <= 1.02 * ways.resident_step_s);
    e = ask(&m, &w, b.device_bytes, ways.hides_host_bytes / 2, b.nvme_bytes);
    assert_true(e.step_s > 1.02 * ways.resident_step_s);
}

/* ---- machines ----------------------------------------------------------------------------------- */

static void test_table(void **state)
{
    struct ofl_machine m = {.size = sizeof m}, found = {.size = sizeof found};
    struct ofl_workload w = model(OFL_TRAIN);
    size_t n = 0;

    (void)state;
    for (; ofl_machine_at(n, &m) == 0; n++) {
        struct ofl_estimate e = {.size = sizeof e};

        assert_int_equal(ofl_machine_find(m.name, &found), 0);
        assert_memory_equal(&m, &found, sizeof m);
        assert_int_equal(ofl_estimate_get(&m, &w, NULL, &e), 0);
        assert_true(e.fits && e.step_s > 0 && e.peak_share > 0 && e.peak_share < m.products_share);
    }
    assert_true(n >= 5);
    assert_int_equal(ofl_machine_find("rtx-4091", &m), -ENOENT);
    assert_non_null(strstr(ofl_error(), "rtx-4090"));
}

static void test_fit(void **state)
{
    struct ofl_machine m = machine();
    struct ofl_workload w = model(OFL_TRAIN);
    struct ofl_estimate one, two;

    (void)state;
    w.layers = 1;
    assert_int_equal(ofl_machine_fit(&m, &w, 0.5), 0);
    one = ask(&m, &w, 8 * GIB, 8 * GIB, 0);
    w.layers = 2;
    two = ask(&m, &w, 8 * GIB, 8 * GIB, 0);
    assert_near(two.busy_s[OFL_COMPUTE] - one.busy_s[OFL_COMPUTE], 0.5, 0.01, "a layer");
    assert_near(m.bf16_flops, 100e12, 1e-9, "the peak stays");
    w = model(OFL_DECODE);
    w.layers = 1;
    assert_int_equal(ofl_machine_fit(&m, &w, 0.25), 0);
    one = ask(&m, &w, 8 * GIB, 8 * GIB, 0);
    w.layers = 2;
    two = ask(&m, &w, 8 * GIB, 8 * GIB, 0);
    assert_near(two.step_s - one.step_s, 0.25, 0.01, "a layer of decode");
    assert_int_equal(ofl_machine_fit(&m, &w, 0), -EINVAL);
    assert_int_equal(ofl_machine_fit(&m, &w, NAN), -EINVAL);
}

static void load(const char *text, int code, const char *says)
{
    struct ofl_machine m = {.size = sizeof m};
    char dir[256], path[300];
    FILE *f;

    assert_int_equal(temporary_dir("estimate", dir, sizeof dir), 0);
    snprintf(path, sizeof path, "%s/machine.json", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(ofl_machine_load(path, &m), code);
    unlink(path);
    rmdir(dir);
    if (code < 0 && !strstr(ofl_error(), says))
        fail_msg("%s does not say %s", ofl_error(), says);
    if (code == 0) {
        assert_string_equal(m.name, says);
        assert_true(m.host_bytes == 1000000000000ull);
    }
}

static void test_files(void **state)
{
    struct ofl_machine m = {.size = sizeof m};

    (void)state;
    load("{\"name\": \"mine\", \"like\": \"h100\", \"host_bytes\": 1e12}", 0, "mine");
    load("{\"host_bytes\": 1e12}", -OFL_EFORMAT, "bf16_flops");
    load("{\"like\": \"h100\", \"drives\": 1.5}", -OFL_EFORMAT, "drives of 1.5: not a whole number");
    load("{\"like\": \"h100\", \"products_share\": 1.5}", -OFL_EFORMAT, "a share is 1 at most");
    load("{\"like\": \"h100\", \"host_bps\": -1}", -OFL_EFORMAT, "host_bps of -1");
    load("{\"like\": \"h100\", \"host_bps\": \"fast\"}", -OFL_EFORMAT, "host_bps is not a number");
    load("{\"like\": \"h100\", \"drive_bytes\": 0}", -OFL_EFORMAT, "8 drives, without drive_bytes");
    load("{\"like\": \"h100\", \"ram\": 1}", -OFL_EFORMAT, "ram: there is no such member");
    load("{\"like\": \"h101\"}", -OFL_EFORMAT, "machine h101: not one of");
    load("{\"name\": 3}", -OFL_EFORMAT, "name is not a text");
    load("[1]", -OFL_EFORMAT, "not a JSON object");
    load("{\"name\": ", -OFL_EFORMAT, "line 1");
    assert_int_equal(ofl_machine_load("/nonexistent-machine.json", &m), -ENOENT);
    assert_non_null(strstr(ofl_error(), "/nonexistent-machine.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_bytes),
        cmocka_unit_test(test_decode_times),
        cmocka_unit_test(test_training_bytes),
        cmocka_unit_test(test_training_clipped),
        cmocka_unit_test(test_training_times),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_monotone),
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
