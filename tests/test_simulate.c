/*
 * simulate: the pager in virtual time at modelled rates (liboffload/plan/simulate.h) takes the times that rates give,
 * the same run gives the same events, and random programs over several streams, drives and budgets keep the rules that
 * the checker knows (liboffload/plan/check.h). Negative controls: records that are changed so that each rule is broken
 * once are found to break it, by name.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/events.h"
#include "liboffload/plan/check.h"
#include "liboffload/plan/pipe.h"
#include "tests/plan_random.h"

#define MIB 1048576ull

/* ---- helpers ----------------------------------------------------------- */

struct records {
    struct plan_record *at;
    size_t count, room;
};

static void insert(struct records *r, size_t before, struct plan_record record)
{
    if (r->count == r->room) {
        r->room = r->room ? 2 * r->room : 1024;
        r->at = realloc(r->at, r->room * sizeof *r->at);
        assert_non_null(r->at);
    }
    memmove(&r->at[before + 1], &r->at[before], (r->count - before) * sizeof *r->at);
    r->at[before] = record;
    r->count++;
}

static struct plan_record take_out(struct records *r, size_t i)
{
    struct plan_record record = r->at[i];

    memmove(&r->at[i], &r->at[i + 1], (--r->count - i) * sizeof *r->at);
    return record;
}

static void keep(void *arg, const struct plan_record *record)
{
    insert(arg, ((struct records *)arg)->count, *record);
}

static void feed(void *arg, const struct plan_record *record)
{
    plan_check_record(arg, record);
}

static struct plan_checked check_all(const struct records *r)
{
    struct plan_check *check;
    struct plan_checked found;

    assert_int_equal(plan_check_open(true, &check), 0);
    for (size_t i = 0; i < r->count; i++)
        plan_check_record(check, &r->at[i]);
    assert_int_equal(plan_check_close(check, &found), 0);
    return found;
}

/* Runs it under the checker. Returns what plan_simulate does. */
static int run_checked(struct plan_simulation s, struct plan_simulated *out, struct plan_checked *found)
{
    struct plan_check *check;
    int err;

    assert_int_equal(plan_check_open(false, &check), 0);
    s.record = feed;
    s.arg = check;
    err = plan_simulate(&s, out);
    assert_int_equal(plan_check_close(check, found), 0);
    return err;
}

static void run_well(const struct plan_random *r, struct plan_simulated *out)
{
    struct plan_checked found;

    if (run_checked(r->simulation, out, &found) < 0)
        fail_msg("%s", base_error_text());
    if (found.fault)
        fail_msg("%s", found.text);
}

/* One more weight, and its use, with a kernel that reads it. */
static void add_use(struct plan_random *r, uint64_t bytes, bool source)
{
    uint32_t i = plan_add_tensor(r, OFL_KIND_WEIGHT, OFL_F32, bytes);

    r->program.tensors[i].source = source;
    plan_add_lease(r, i, OFL_READ, false);
    plan_add_op(r, PLAN_ACQUIRE, 0, 1);
    plan_add_op(r, PLAN_COMPUTE, 0, 0)->bytes = (double)bytes;
    plan_add_op(r, PLAN_RELEASE, 0, 1);
}

static void make_decode(struct plan_random *r, uint32_t weights, uint64_t bytes, bool source)
{
    *r = (struct plan_random){.simulation = {.steps = 6, .sync = true}};
    for (uint32_t i = 0; i < weights; i++)
        add_use(r, bytes, source);
    plan_round_rates(&r->simulation.rates);
    r->simulation.program = &r->program;
}

/* ---- time -------------------------------------------------------------- */

static void events_come_in_order(void **state)
{
    struct base_events e = {.room = 1000};
    struct base_event last = {.time = 0};
    uint32_t random = 1;

    (void)state;
    e.heap = calloc(e.room, sizeof *e.heap);
    assert_non_null(e.heap);
    while (!base_events_full(&e)) {
        random = random * 1664525u + 1013904223u;
        base_events_post(&e, (struct base_event){.time = random >> 26});
    }
    while (e.count) {
        struct base_event next = base_events_take(&e);

        assert_true(next.time > last.time || (next.time == last.time && next.order >= last.order));
        last = next;
    }
    free(e.heap);
}

/* Both ways of a drive at once, so many bytes each. Returns when the last has come out. */
static uint64_t both_ways(double read_bps, double write_bps, double mixed_bps, uint64_t bytes)
{
    struct pipe way[2];
    struct pipe_item items[2];
    uint64_t now = 0, out = 0;

    pipe_open(&way[0], read_bps);
    pipe_open(&way[1], write_bps);
    pipe_couple(&way[0], &way[1], mixed_bps);
    for (int i = 0; i < 2; i++)
        pipe_put(&way[i], &items[i], bytes, 1, 0);
    for (int i = 0; out < 2 && i < 100; i++) {
        uint64_t a = pipe_next_ns(&way[0], now), b = pipe_next_ns(&way[1], now);

        now = a < b ? a : b;
        for (int k = 0; k < 2; k++)
            out += pipe_advance(&way[k], now) != NULL;
    }
    assert_int_equal(out, 2);
    return now;
}

static void near(uint64_t value, double wanted, double share)
{
    if (fabs((double)value - wanted) > share * wanted)
        fail_msg("%llu instead of %.0f", (unsigned long long)value, wanted);
}

static void drives_mix_as_measured(void **state)
{
    (void)state;
    near(both_ways(100e6, 100e6, 0, 10000000), 200e6, 1e-6);     /* one after the other */
    near(both_ways(100e6, 100e6, 200e6, 10000000), 100e6, 1e-6); /* duplex */
    near(both_ways(100e6, 300e6, 120e6, 10000000), 2e7 / 120e6 * 1e9, 1e-6);
    near(both_ways(400e6, 100e6, 160e6, 10000000), 2e7 / 160e6 * 1e9, 1e-6);
    near(both_ways(100e6, 100e6, 50e6, 10000000), 400e6, 1e-6); /* worse than in turns */
}

/* ---- rates ------------------------------------------------------------- */

/* Of the last step: what binds, as the bytes that moved and the rate say, and that it takes about as long. */
static void bound_by(struct plan_random *r, enum plan_resource bound, double bytes_per_ns)
{
    struct plan_simulated out;
    const struct plan_step *last;
    double bytes = 0;

    run_well(r, &out);
    last = &out.steps[out.count - 1];
    assert_int_equal(last->bound, bound);
    if (bound == PLAN_DRIVE)
        bytes = (double)(last->read_bytes + last->write_bytes);
    else if (bound == PLAN_LINK_IN)
        bytes = (double)last->in_bytes;
    else
        bytes = (double)r->program.tensors_count * (double)r->program.tensors[0].bytes;
    near(last->bound_ns, bytes / bytes_per_ns, 0.02);
    assert_true(last->ns >= last->bound_ns);
    assert_true((double)last->ns < 1.9 * bytes / bytes_per_ns); /* on one drive of two: 2 */
    plan_random_free(r);
}

static void steps_take_what_binds(void **state)
{
    struct plan_random r;

    (void)state;
    /* 64 MiB through memory that holds next to nothing of it */
    make_decode(&r, 64, MIB, true);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = 4 * MIB, .host_bytes = 4 * MIB};
    bound_by(&r, PLAN_DRIVE, 0.1);
    make_decode(&r, 64, MIB, true);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = 4 * MIB, .host_bytes = 80 * MIB};
    bound_by(&r, PLAN_LINK_IN, 1.0);
    make_decode(&r, 64, MIB, true);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = 80 * MIB, .host_bytes = 4 * MIB};
    bound_by(&r, PLAN_DEVICE, 10.0);
    /* a store over two drives */
    make_decode(&r, 16, 16 * MIB, false);
    r.simulation.rates.drives[1] = r.simulation.rates.drives[0];
    r.simulation.rates.drives_count = 2;
    r.simulation.steps = 1;
    r.simulation.budgets =
        (struct plan_budgets){.device_bytes = 36 * MIB, .host_bytes = 64 * MIB, .store_bytes = 300 * MIB};
    bound_by(&r, PLAN_DRIVE, 0.2);
}

#define WEIGHTS 24u

/* BF16 weights of MIB / 4 with gradients, masters and moments of MIB / 2; all updates come at the end, held. drop: a
 * weight's last use says so. */
static void make_clipped(struct plan_random *r, bool drop)
{
    uint32_t w[WEIGHTS];

    *r = (struct plan_random){.simulation = {.steps = 6, .sync = true, .hold = true}};
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        w[i] = plan_add_tensor(r, OFL_KIND_WEIGHT, OFL_BF16, MIB / 4);
        plan_add_tensor(r, OFL_KIND_GRADIENT, OFL_F32, MIB / 2);
        for (int k = 0; k < 3; k++)
            plan_add_tensor(r, OFL_KIND_OPTIMIZER, OFL_F32, MIB / 2);
    }
    for (uint32_t i = 0; i < 2 * WEIGHTS; i++) {
        bool back = i >= WEIGHTS;
        uint32_t weight = w[back ? 2 * WEIGHTS - 1 - i : i];

        plan_add_lease(r, weight, OFL_READ, back && drop);
        if (back)
            plan_add_lease(r, weight + 1, OFL_OVERWRITE, false);
        plan_add_op(r, PLAN_ACQUIRE, 0, back ? 2 : 1);
        plan_add_op(r, PLAN_COMPUTE, 0, 0)->bytes = 1e6;
        plan_add_op(r, PLAN_RELEASE, 0, back ? 2 : 1);
    }
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        plan_add_lease(r, w[i], OFL_OVERWRITE, false);
        plan_add_lease(r, w[i] + 1, OFL_READ, true);
        for (uint32_t k = 2; k < 5; k++)
            plan_add_lease(r, w[i] + k, OFL_UPDATE, false);
        plan_add_op(r, PLAN_UPDATE, 1, 5);
    }
    plan_round_rates(&r->simulation.rates);
    r->simulation.program = &r->program;
}

/* MiB of the last step over the drive. */
static double drive_of_clipped(uint64_t device_mib, bool drop, double *planned)
{
    struct plan_random r;
    struct plan_simulated out;
    const struct plan_step *last;

    make_clipped(&r, drop);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = device_mib * MIB,
                                                 .host_bytes = 16 * MIB,
                                                 .store_bytes = 64 * MIB,
                                                 .tile_bytes = MIB / 16};
    if (plan_simulate(&r.simulation, &out) < 0)
        fail_msg("%s", ofl_error());
    last = &out.steps[out.count - 1];
    plan_random_free(&r);
    *planned = (double)(out.planned_read_bytes + out.planned_write_bytes) / MIB;
    return (double)(last->read_bytes + last->write_bytes) / MIB;
}

/* Gradients wait on the device for the updates, if that has room; weights go up as soon as they are made; neither sees
 * the drive: of 36 MiB of the optimizer's, what host memory does not hold passes. On a smaller device, or where a
 * weight may be read again, more does. */
static void gradients_wait_and_weights_go_up(void **state)
{
    double planned, moved = drive_of_clipped(24, true, &planned), least = 2 * (36 - 16);

    (void)state;
    print_message("moved %.1f MiB, planned %.1f, least %.1f\n", moved, planned, least);
    assert_true(planned >= least && planned <= 1.1 * least);
    assert_true(moved >= least && moved <= 1.03 * planned);
    moved = drive_of_clipped(4, true, &planned);
    assert_true(planned > 1.4 * least && moved > 1.4 * least);
    moved = drive_of_clipped(24, false, &planned);
    assert_true(planned > 1.2 * least && moved > 1.2 * least);
}

/* 14 layers whose tensors are almost of a size, of 5.5 MiB each. */
static void make_uneven(struct plan_random *r)
{
    static const uint32_t pages[] = {1, 256, 64, 64, 256, 1, 248, 248, 248};
    const uint32_t count = sizeof pages / sizeof *pages;

    make_decode(r, 0, 0, true);
    r->simulation.steps = 30;
    for (uint32_t i = 0; i < 14 * count; i++)
        add_use(r, UINT64_C(4096) * pages[i % count], true);
}

/* ThreadSanitizer has nothing to see where there is one thread. */
static bool one_thread_is_watched(void)
{
    return getenv("TSAN_OPTIONS") != NULL;
}

/* No more is moved over the link than is planned, whatever the budgets: no room of the device is lost between
 * copies of different sizes. */
static void what_rests_lies_side_by_side(void **state)
{
    (void)state;
    for (uint64_t k = 0; k < 40; k += one_thread_is_watched() ? 20 : 1) {
        uint64_t device_bytes = 4 * MIB + k * 77 * 4096 * 6, host_bytes = 3 * MIB + (k * 7 % 40) * 4096 * 128;
        struct plan_simulated out;
        struct plan_random r;
        uint64_t moved = 0;

        make_uneven(&r);
        r.simulation.budgets = (struct plan_budgets){.device_bytes = device_bytes, .host_bytes = host_bytes};
        run_well(&r, &out);
        plan_random_free(&r);
        for (uint32_t i = 5; i < 29; i++) /* the last one has none behind it to fetch for */
            moved += out.steps[i].in_bytes;
        assert_true(out.planned_in_bytes > 0);
        assert_true(moved <= 24 * out.planned_in_bytes + 4 * MIB); /* what was fetched for the step behind */
    }
}

static uint64_t hash_of(struct plan_simulation s, uint64_t seed, double jitter, struct records *records)
{
    struct plan_simulated out;

    s.seed = seed;
    s.jitter = jitter;
    s.record = records ? keep : NULL;
    s.arg = records;
    assert_int_equal(plan_simulate(&s, &out), 0);
    assert_int_equal(records ? records->count : out.events, out.events);
    return out.hash;
}

static void the_same_seed_is_the_same_run(void **state)
{
    struct records first = {0}, second = {0};
    struct plan_random r;

    (void)state;
    make_decode(&r, 20, MIB, true);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = 8 * MIB, .host_bytes = 8 * MIB};
    assert_true(hash_of(r.simulation, 1, 0.3, &first) == hash_of(r.simulation, 1, 0.3, &second));
    assert_int_equal(first.count, second.count);
    assert_memory_equal(first.at, second.at, first.count * sizeof *first.at);
    assert_true(hash_of(r.simulation, 1, 0.3, NULL) == hash_of(r.simulation, 1, 0.3, NULL));
    assert_true(hash_of(r.simulation, 1, 0.3, NULL) != hash_of(r.simulation, 2, 0.3, NULL));
    assert_true(hash_of(r.simulation, 1, 0, NULL) == hash_of(r.simulation, 2, 0, NULL));
    free(first.at);
    free(second.at);
    plan_random_free(&r);
}

static void what_cannot_be_is_refused(void **state)
{
    struct plan_simulated out;
    struct plan_random r;

    (void)state;
    make_decode(&r, 4, MIB, true);
    r.simulation.budgets = (struct plan_budgets){.device_bytes = MIB / 2, .host_bytes = 4 * MIB};
    assert_int_equal(plan_simulate(&r.simulation, &out), -OFL_EBUDGET);
    r.simulation.budgets.device_bytes = 4 * MIB;
    r.simulation.most_events = 10;
    assert_int_equal(plan_simulate(&r.simulation, &out), -EDEADLK);
    r.simulation.most_events = 0;
    r.simulation.rates.link_in_bytes_s = 0;
    assert_int_equal(plan_simulate(&r.simulation, &out), -EINVAL);
    plan_round_rates(&r.simulation.rates);
    r.simulation.steps = 0;
    assert_int_equal(plan_simulate(&r.simulation, &out), -EINVAL);
    r.simulation.steps = 1;
    assert_int_equal(plan_simulate(&r.simulation, &out), 0);
    plan_random_free(&r);
}

/* ---- planted faults ---------------------------------------------------- */

#define LAYERS 6u

/* Forward and backward over layers of a weight, its gradient and states, and what passes between them. */
static void make_train(struct plan_random *r)
{
    uint32_t w[LAYERS], x[LAYERS];

    *r = (struct plan_random){.simulation = {.steps = 4, .sync = true}};
    for (uint32_t i = 0; i < LAYERS; i++) {
        w[i] = plan_add_tensor(r, OFL_KIND_WEIGHT, OFL_F32, MIB);
        plan_add_tensor(r, OFL_KIND_GRADIENT, OFL_F32, MIB);
        plan_add_tensor(r, OFL_KIND_OPTIMIZER, OFL_F32, MIB);
        plan_add_tensor(r, OFL_KIND_OPTIMIZER, OFL_F32, MIB);
        x[i] = plan_add_tensor(r, OFL_KIND_ACTIVATION, OFL_F32, MIB / 2);
    }
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        bool back = i >= LAYERS;
        uint32_t layer = back ? 2 * LAYERS - 1 - i : i;

        plan_add_lease(r, w[layer], OFL_READ, false);
        plan_add_lease(r, x[layer], back ? OFL_READ : OFL_OVERWRITE, back);
        if (back)
            plan_add_lease(r, w[layer] + 1, OFL_OVERWRITE, false);
        plan_add_op(r, PLAN_ACQUIRE, 0, back ? 3 : 2);
        plan_add_op(r, PLAN_COMPUTE, 0, 0)->bytes = 4e6;
        plan_add_op(r, PLAN_RELEASE, 0, back ? 3 : 2);
        if (!back)
            continue;
        plan_add_lease(r, w[layer], OFL_UPDATE, false);
        plan_add_lease(r, w[layer] + 1, OFL_READ, true);
        plan_add_lease(r, w[layer] + 2, OFL_UPDATE, false);
        plan_add_lease(r, w[layer] + 3, OFL_UPDATE, false);
        plan_add_op(r, PLAN_UPDATE, 1, 4);
    }
    plan_round_rates(&r->simulation.rates);
    r->simulation.program = &r->program;
    r->simulation.budgets = (struct plan_budgets){
        .device_bytes = 4 * MIB, .host_bytes = 4 * MIB, .store_bytes = 32 * MIB, .tile_bytes = MIB / 8};
}

#define NONE SIZE_MAX

/* The n-th record of a type, counted from the last one back. */
static size_t last_of(const struct records *r, uint32_t type, uint32_t n)
{
    for (size_t i = r->count; i-- > 0;)
        if (r->at[i].type == type && n-- == 0)
            return i;
    fail_msg("no %s is recorded", plan_record_name(type));
    return NONE;
}

/* The record that ends the move that i begins, or the first one after i of that type with the same from. */
static size_t end_of(const struct records *r, size_t i, uint32_t type)
{
    const struct plan_record *a = &r->at[i];

    for (size_t k = i + 1; k < r->count; k++) {
        const struct plan_record *b = &r->at[k];

        if (b->type == type && b->tensor == a->tensor && b->tile == a->tile && b->from == a->from)
            return k;
    }
    fail_msg("no %s is recorded", plan_record_name(type));
    return NONE;
}

/* A kernel that stood waiting: a copy in ends where it begins. */
static size_t waited_for(const struct records *r)
{
    for (size_t i = r->count; i-- > 2;)
        if (r->at[i].type == PLAN_RECORD_RUN && r->at[i - 1].type == PLAN_RECORD_IN_END)
            return i;
    fail_msg("no kernel waits");
    return NONE;
}

static void beyond_the_device(struct records *r)
{
    size_t i = last_of(r, PLAN_RECORD_IN, 3);

    r->at[i].to = r->at[0].from - r->at[i].bytes + 256;
}

static void beyond_the_host(struct records *r)
{
    r->at[last_of(r, PLAN_RECORD_READ, 3)].to = r->at[0].to;
}

static void beyond_the_store(struct records *r)
{
    r->at[last_of(r, PLAN_RECORD_WRITE, 60)].to = r->at[0].bytes;
}

/* Zeros into what a kernel is reading. */
static void filled_while_used(struct records *r)
{
    size_t run = last_of(r, PLAN_RECORD_RUN, 2);
    const struct plan_record *acquire = NULL;

    for (size_t i = 0; i < r->count; i++)
        if (r->at[i].type == PLAN_RECORD_USE && r->at[i].from == r->at[run].from)
            for (size_t k = 0; k < i; k++)
                if (r->at[k].type == PLAN_RECORD_ACQUIRE && r->at[k].from == r->at[i].to)
                    acquire = &r->at[k];
    assert_non_null(acquire);
    insert(r, run + 1,
           (struct plan_record){.type = PLAN_RECORD_FILL,
                                .time_ns = r->at[run].time_ns,
                                .tensor = acquire->tensor,
                                .to = acquire->to,
                                .bytes = MIB / 8});
}

static void kernel_before_its_copy(struct records *r)
{
    size_t run = waited_for(r);
    struct plan_record record = take_out(r, run);

    insert(r, run - 1, record);
}

static void copy_before_its_read(struct records *r)
{
    size_t end = last_of(r, PLAN_RECORD_READ_END, 5);
    struct plan_record in = r->at[end];
    uint64_t to = r->at[last_of(r, PLAN_RECORD_IN, 0)].to;

    in.type = PLAN_RECORD_IN;
    in.from = in.to;
    in.to = to;
    insert(r, end, in);
}

static void update_left_out(struct records *r)
{
    size_t begin = last_of(r, PLAN_RECORD_WORK, 300);

    while (r->at[begin].tensor % 5 != 0) /* a weight's */
        begin--;
    take_out(r, end_of(r, begin, PLAN_RECORD_WORK_END));
    take_out(r, begin);
}

static void bytes_of_another(struct records *r)
{
    size_t a = last_of(r, PLAN_RECORD_IN, 4), b = a - 1;

    while (r->at[b].type != PLAN_RECORD_IN || r->at[b].tensor == r->at[a].tensor)
        b--;
    r->at[a].from = r->at[b].from;
}

static void write_back_left_out(struct records *r)
{
    size_t begin = last_of(r, PLAN_RECORD_WRITE, 60);

    take_out(r, end_of(r, begin, PLAN_RECORD_WRITE_END));
    take_out(r, begin);
}

static void drain_left_out(struct records *r)
{
    size_t begin = last_of(r, PLAN_RECORD_OUT, 20);

    take_out(r, end_of(r, begin, PLAN_RECORD_OUT_END));
    take_out(r, begin);
}

/* What is newer than all below is overwritten on the device, and nothing happens to it below. */
static void evicted_dirty(struct records *r)
{
    size_t begin = last_of(r, PLAN_RECORD_OUT, 100);
    struct plan_record out = r->at[begin];

    for (size_t i = r->count; i-- > begin;)
        if (r->at[i].type >= PLAN_RECORD_READ && r->at[i].tensor == out.tensor && r->at[i].tile == out.tile)
            take_out(r, i);
}

static void used_after_its_end(struct records *r)
{
    size_t i = last_of(r, PLAN_RECORD_ACQUIRE, 4);

    insert(r, i,
           (struct plan_record){
               .type = PLAN_RECORD_DESTROY, .time_ns = r->at[i].time_ns, .tensor = r->at[i].tensor});
}

static void kept_without_bytes(struct records *r)
{
    uint32_t tensor = r->at[last_of(r, PLAN_RECORD_OUT, 0)].tensor;

    for (size_t i = 0; i < r->count; i++)
        if (r->at[i].type == PLAN_RECORD_CREATE && r->at[i].tensor == tensor)
            r->at[i].stream |= PLAN_RECORD_TRANSIENT;
}

static void unsealed_read(struct records *r)
{
    size_t read = last_of(r, PLAN_RECORD_READ_END, 40), seal = read + 1;

    while (r->at[seal].type != PLAN_RECORD_SEAL || r->at[seal].from != r->at[read].to)
        seal++;
    take_out(r, end_of(r, seal, PLAN_RECORD_SEAL_END));
    take_out(r, seal);
}

static void unsealed_write(struct records *r)
{
    size_t write = last_of(r, PLAN_RECORD_WRITE, 60), seal = write;

    while (r->at[seal].type != PLAN_RECORD_SEAL || r->at[seal].from != r->at[write].from)
        seal--;
    take_out(r, end_of(r, seal, PLAN_RECORD_SEAL_END));
    take_out(r, seal);
}

static void ends_twice(struct records *r)
{
    size_t i = last_of(r, PLAN_RECORD_IN_END, 9);

    insert(r, i, r->at[i]);
}

static void never_ends(struct records *r)
{
    size_t i = last_of(r, PLAN_RECORD_WRITE_END, 0);

    take_out(r, i);
}

static void time_goes_backwards(struct records *r)
{
    r->at[r->count / 2].time_ns -= r->at[r->count / 2].time_ns / 2;
}

static void runs_before_its_launch(struct records *r)
{
    size_t launch = last_of(r, PLAN_RECORD_LAUNCH, 2);
    struct plan_record run = r->at[launch];

    run.type = PLAN_RECORD_RUN;
    insert(r, launch, run);
}

static void runs_after_its_lease(struct records *r)
{
    size_t run = last_of(r, PLAN_RECORD_RUN, 3), passed = run;

    while (r->at[passed].type != PLAN_RECORD_PASSED)
        passed++;
    insert(r, run, take_out(r, passed));
    r->at[run].time_ns = r->at[run + 1].time_ns;
}

static void less_stall_claimed(struct records *r)
{
    r->at[last_of(r, PLAN_RECORD_STEP_END, 0)].from -= 1;
}

/* All that begins with a kernel's last copy in takes place later; nobody says so. */
static void copy_late_and_not_said(struct records *r)
{
    size_t in = waited_for(r) - 1;

    for (size_t i = in; i < r->count; i++)
        r->at[i].time_ns += 1000;
}

static void late_counted_as_hidden(struct records *r)
{
    r->at[last_of(r, PLAN_RECORD_STEP_END, 1)].to -= 1;
}

static void bytes_not_counted(struct records *r)
{
    r->at[last_of(r, PLAN_RECORD_STEP_END, 1)].bytes -= 4096;
}

/* Where the use for which a copy came in has passed, if another one takes its place later; else 0. */
static size_t passed_and_overwritten(const struct records *r, size_t in)
{
    const struct plan_record *x = &r->at[in];
    size_t passed = in;

    while (passed < r->count &&
           (r->at[passed].type != PLAN_RECORD_PASSED || r->at[passed].tensor != x->tensor))
        passed++;
    for (size_t i = passed; i < r->count; i++)
        if (r->at[i].type == PLAN_RECORD_IN && r->at[i].tensor != x->tensor &&
            r->at[i].to < x->to + x->bytes && r->at[i].to + r->at[i].bytes > x->to)
            return passed;
    return 0;
}

/* The plan says that it stays, and another takes its place. */
static void device_rest_given_up(struct records *r)
{
    size_t i = 0;

    for (unsigned n = 0; i == 0; n++)
        i = passed_and_overwritten(r, last_of(r, PLAN_RECORD_IN_END, n));
    insert(r, i,
           (struct plan_record){
               .type = PLAN_RECORD_REST, .time_ns = r->at[i].time_ns, .tensor = r->at[i].tensor, .value = 1});
}

static void host_rest_given_up(struct records *r)
{
    size_t i = last_of(r, PLAN_RECORD_SEAL_END, 120);

    insert(r, i + 1,
           (struct plan_record){.type = PLAN_RECORD_REST,
                                .time_ns = r->at[i].time_ns,
                                .tensor = r->at[i].tensor,
                                .to = 1u << 20});
}

static const struct plant {
    const char *name;
    enum plan_fault fault;
    void (*change)(struct records *r);
} plants[] = {
    {"a copy in beyond the device budget", PLAN_FAULT_BUDGET, beyond_the_device},
    {"a read beyond the host budget", PLAN_FAULT_BUDGET, beyond_the_host},
    {"a write-back beyond the store", PLAN_FAULT_BUDGET, beyond_the_store},
    {"a range filled while a kernel uses it", PLAN_FAULT_SHARED, filled_while_used},
    {"a kernel before its copy has ended", PLAN_FAULT_FENCE, kernel_before_its_copy},
    {"a copy in before its read has ended", PLAN_FAULT_FENCE, copy_before_its_read},
    {"an update that has not run", PLAN_FAULT_STALE, update_left_out},
    {"a copy in of another tensor's bytes", PLAN_FAULT_BYTES, bytes_of_another},
    {"a dirty tile dropped without a write-back", PLAN_FAULT_LOST, write_back_left_out},
    {"a drain that has not run", PLAN_FAULT_BYTES, drain_left_out},
    {"a dirty copy evicted for good", PLAN_FAULT_LOST, evicted_dirty},
    {"a tensor used after its end", PLAN_FAULT_LIFETIME, used_after_its_end},
    {"bytes kept of what has none between uses", PLAN_FAULT_LIFETIME, kept_without_bytes},
    {"bytes used before their seal was compared", PLAN_FAULT_SEAL, unsealed_read},
    {"bytes written without a seal", PLAN_FAULT_SEAL, unsealed_write},
    {"a copy that ends twice", PLAN_FAULT_PAIR, ends_twice},
    {"a write-back that never ends", PLAN_FAULT_PAIR, never_ends},
    {"time that goes backwards", PLAN_FAULT_ORDER, time_goes_backwards},
    {"a kernel before its launch", PLAN_FAULT_ORDER, runs_before_its_launch},
    {"a kernel after its lease", PLAN_FAULT_LEASE, runs_after_its_lease},
    {"less stall claimed than there was", PLAN_FAULT_STALL, less_stall_claimed},
    {"a late copy that no stall is claimed for", PLAN_FAULT_STALL, copy_late_and_not_said},
    {"a late copy counted as hidden", PLAN_FAULT_HIDDEN, late_counted_as_hidden},
    {"bytes that nobody counts", PLAN_FAULT_COUNT, bytes_not_counted},
    {"a copy that was to rest on the device, evicted", PLAN_FAULT_REST, device_rest_given_up},
    {"a tile that was to rest in host memory, dropped", PLAN_FAULT_REST, host_rest_given_up},
};

static void planted_faults_are_found(void **state)
{
    struct records all = {0}, changed = {0};
    struct plan_simulated out;
    struct plan_checked found;
    struct plan_random r;
    bool good = true;

    (void)state;
    make_train(&r);
    r.simulation.record = keep;
    r.simulation.arg = &all;
    assert_int_equal(plan_simulate(&r.simulation, &out), 0);
    for (size_t i = all.count; i-- > 0;) /* what this plan says is another test's */
        if (all.at[i].type == PLAN_RECORD_REST)
            take_out(&all, i);
    found = check_all(&all);
    if (found.fault)
        fail_msg("%s", found.text);
    for (size_t i = 0; i < sizeof plants / sizeof plants[0]; i++) {
        for (size_t k = changed.count = 0; k < all.count; k++)
            insert(&changed, k, all.at[k]);
        plants[i].change(&changed);
        found = check_all(&changed);
        if (found.fault == plants[i].fault)
            continue;
        print_error("%s: %s\n", plants[i].name, found.fault ? found.text : "nobody noticed");
        good = false;
    }
    free(all.at);
    free(changed.at);
    plan_random_free(&r);
    assert_true(good);
}

/* ---- random programs --------------------------------------------------- */

static void random_programs_keep_the_rules(void **state)
{
    uint64_t seeds = getenv("OFL_TEST_LIGHT") ? 100 : 1000, uses = 0, moves = 0, refused = 0;
    uint64_t from = getenv("OFL_SEED") ? strtoull(getenv("OFL_SEED"), NULL, 10) : 1;

    (void)state;
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        struct plan_simulated out;
        struct plan_checked found;
        struct plan_random r;
        int err;

        plan_random_make(&r, seed);
        err = run_checked(r.simulation, &out, &found);
        if (err == -OFL_EBUDGET) {
            refused++;
        } else if (err < 0 || found.fault) {
            print_error("seed %llu: %s\n", (unsigned long long)seed,
                        err < 0 ? base_error_text() : found.text);
            fail();
        }
        uses += found.uses;
        moves += found.moves;
        plan_random_free(&r);
    }
    print_message("%llu seeds, %llu refused, %llu uses, %llu moves\n", (unsigned long long)seeds,
                  (unsigned long long)refused, (unsigned long long)uses, (unsigned long long)moves);
    assert_true(refused < seeds / 4);
    assert_true(uses > 10 * seeds && moves > 10 * seeds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_in_order),           cmocka_unit_test(drives_mix_as_measured),
        cmocka_unit_test(steps_take_what_binds),          cmocka_unit_test(gradients_wait_and_weights_go_up),
        cmocka_unit_test(what_rests_lies_side_by_side),   cmocka_unit_test(the_same_seed_is_the_same_run),
        cmocka_unit_test(what_cannot_be_is_refused),      cmocka_unit_test(planted_faults_are_found),
        cmocka_unit_test(random_programs_keep_the_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
