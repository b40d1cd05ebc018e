/*
 * blame: each reason for which a stream waits, provoked on the host device: a part of the machine is held up (the
 * thread that talks to the drive, the link's, a worker, another stream), and let go once the stream stands at the
 * gate. One that had not got there did not stall, and is sent again; a stall for another reason fails.
 */
#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/core/blame.h"
#include "liboffload/core/part.h"
#include "liboffload/core/context.h"
#include "liboffload/device/backend.h"
#include "tests/core_fixture.h"

#define KIB     1024ull
#define MIB     (1024 * KIB)
#define TENSORS 40
#define BYTES   (256 * KIB)
#define TRIES   12

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream, *other, *aside;
    struct ofl_tensor *tensors[TENSORS];
    int count;
    struct ofl_lease bait; /* of what is read while the drive is held */
    sem_t go;              /* for jobs */
};

/* ---- what is held up ----------------------------------------------------------- */

/* Whoever comes by while it is closed says so, and waits. */
static struct barrier {
    atomic_bool closed;
    sem_t come, go;
} drive, link_in;

static void close_barrier(struct barrier *b)
{
    sem_init(&b->come, 0, 0);
    sem_init(&b->go, 0, 0);
    atomic_store(&b->closed, true);
}

static void pass(struct barrier *b)
{
    if (!atomic_exchange(&b->closed, false))
        return;
    sem_post(&b->come);
    while (sem_wait(&b->go) < 0)
        ;
}

static void (*real_read_ended)(struct core_op *op);
static dev_done_fn *real_done;

/* The engine thread, which alone talks to the drive. */
static void read_ended(struct core_op *op)
{
    pass(&drive);
    real_read_ended(op);
}

static void done(void *sink, void *cookie, int code)
{
    if (((struct core_op *)cookie)->type == OP_IN)
        pass(&link_in);
    real_done(sink, cookie, code);
}

static void rig_open(struct rig *r, const char *dir, uint64_t device_bytes, uint64_t host_bytes)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = device_bytes,
                                .host_bytes = host_bytes,
                                .nvme = dir ? fixture_nvme(dir, 32 * MIB) : NULL,
                                .nvme_count = dir != NULL,
                                .tile_bytes = 64 * KIB,
                                .workers = 1,
                                .flags = OFL_NO_MEASURE};

    memset(r, 0, sizeof *r);
    sem_init(&r->go, 0, 0);
    assert_int_equal(ofl_open(&config, &r->ctx), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->stream), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->other), 0);
    assert_int_equal(ofl_stream_create(r->ctx, &r->aside), 0);
    /* Nothing has moved yet: who calls these learns of it with what it is to move. */
    real_read_ended = r->ctx->engine.read_ended;
    r->ctx->engine.read_ended = read_ended;
    real_done = core_device(r->ctx)->config.done;
    core_device(r->ctx)->config.done = done;
}

static int make(struct rig *r, const char *name, uint64_t bytes)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .name = name, .dtype = OFL_F32, .elems = bytes / sizeof(float)};

    if (ofl_tensor_create(r->ctx, &d, &r->tensors[r->count]) < 0)
        fail_msg("%s", ofl_error());
    return r->count++;
}

static void make_some(struct rig *r, const char *letter, int n, uint64_t bytes)
{
    for (int i = 0; i < n; i++) {
        char name[16];

        snprintf(name, sizeof name, "%s%d", letter, i);
        make(r, name, bytes);
    }
}

static void rig_close(struct rig *r)
{
    assert_int_equal(fixture_ctx_close(r->ctx), 0);
    sem_destroy(&r->go);
}

static void use_on(struct rig *r, struct ofl_stream *s, int i, enum ofl_mode mode)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[i], .mode = mode};

    assert_int_equal(ofl_acquire(r->ctx, &l, 1, s), 0);
    assert_int_equal(ofl_release(r->ctx, &l, 1, s), 0);
}

static int at_rest(struct ofl_ctx *ctx, void *arg)
{
    bool more = pager_pump(&ctx->engine.pager);

    (void)arg;
    return more || ctx->engine.pager.inflight ? -EAGAIN : 0;
}

static void settle(struct rig *r)
{
    assert_int_equal(ofl_stream_sync(r->stream), 0);
    assert_int_equal(ofl_stream_sync(r->other), 0);
    assert_int_equal(ofl_stream_sync(r->aside), 0);
    assert_int_equal(core_call(r->ctx, at_rest, NULL), 0);
}

/* A step that uses tensors from first on, count of them. */
static void step(struct rig *r, const char *name, int first, int count, enum ofl_mode mode)
{
    assert_int_equal(ofl_step_begin(r->ctx, name), 0);
    for (int i = 0; i < count; i++)
        use_on(r, r->stream, first + i, mode);
    assert_int_equal(ofl_step_end(r->ctx), 0);
    settle(r);
}

static void wait_go(void *arg)
{
    while (sem_wait(arg) < 0)
        ;
}

static void post(void *arg)
{
    sem_post(arg);
}

/* s stands at its gate, unless the machine is very busy: then its wait is not seen, and tried again. */
static void stand(int attempt)
{
    usleep(1000u << (attempt > 6 ? 6 : attempt));
}

struct seen {
    uint64_t wanted, others;
};

/* What the tensor was waited for since the last clear. */
static struct seen seen_of(struct rig *r, const char *tensor, enum ofl_stall_reason reason)
{
    struct ofl_stall s = {.size = sizeof s};
    struct seen seen = {0};

    for (uint32_t i = 0; ofl_stall_get(r->ctx, i, &s) == 0; i++) {
        if (strcmp(s.tensor, tensor) != 0)
            continue;
        if (s.reason == reason)
            seen.wanted += s.count;
        else
            print_message("  %s: %s\n", tensor, s.text);
        seen.others += s.reason != reason;
    }
    return seen;
}

/* What comes now is what is to be seen. */
static void look(struct rig *r)
{
    settle(r);
    assert_int_equal(ofl_stall_clear(r->ctx), 0);
}

/* Provokes until the stall is seen. provoke looks when it has arranged things, and returns with everything let go. */
static void expect(struct rig *r, void (*provoke)(struct rig *r, int attempt), const char *tensor,
                   enum ofl_stall_reason reason)
{
    struct seen seen = {0};

    for (int i = 0; i < TRIES && !seen.wanted; i++) {
        provoke(r, i);
        settle(r);
        seen = seen_of(r, tensor, reason);
        assert_int_equal(seen.others, 0);
    }
    assert_true(seen.wanted > 0);
}

/* Nothing reaches the drive from now on, and nothing comes back from it. The reads of one tensor, some of which have
 * ended, stay under way. */
static void hold_drive(struct rig *r)
{
    look(r);
    close_barrier(&drive);
    r->bait.ptr = NULL;
    assert_int_equal(ofl_acquire(r->ctx, &r->bait, 1, r->aside), 0);
    while (sem_wait(&drive.come) < 0)
        ;
}

static void let_drive(struct rig *r)
{
    sem_post(&drive.go);
    assert_int_equal(ofl_release(r->ctx, &r->bait, 1, r->aside), 0);
}

/* ---- the drive --------------------------------------------------------------- */

/* Tensors of a source, so that nothing of them is ever to be written: A is planned in a step of its own, and fits
 * the device; reading B drives it out of both memories. */
#define A      4
#define B      24
#define BIG    (A + B) /* one of 1 MiB */
#define BAIT   (A + B + 1)
#define SOURCE (A + B + 2)
#define DEVICE (10 * BYTES) /* in one piece BIG, wherever BAIT lies */

static uint64_t source_bytes(int i)
{
    return i == BIG ? MIB : BYTES;
}

static void source_name(int i, char name[16])
{
    snprintf(name, 16, i < A ? "a%d" : i < BIG ? "b%d" : i == BIG ? "big" : "bait", i < A ? i : i - A);
}

static void write_source(const char *path)
{
    char header[4096], name[16];
    int used = snprintf(header, sizeof header, "{");
    uint64_t at = 0, length;
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    for (int i = 0; i < SOURCE; i++) {
        source_name(i, name);
        used += snprintf(header + used, sizeof header - (size_t)used,
                         "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%llu],\"data_offsets\":[%llu,%llu]}",
                         i ? "," : "", name, (unsigned long long)(source_bytes(i) / sizeof(float)),
                         (unsigned long long)at, (unsigned long long)(at + source_bytes(i)));
        at += source_bytes(i);
    }
    used += snprintf(header + used, sizeof header - (size_t)used, "}");
    length = (uint64_t)used;
    assert_int_equal(fwrite(&length, sizeof length, 1, f), 1);
    assert_int_equal(fwrite(header, length, 1, f), 1);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), (off_t)(sizeof length + length + at)), 0);
    assert_int_equal(fclose(f), 0);
}

/* What is there is found by a path alone until it is closed. */
static void open_on_drive(struct rig *r, const char *dir)
{
    struct ofl_source *source;
    char path[128], name[16];

    rig_open(r, dir, DEVICE, 2 * MIB);
    snprintf(path, sizeof path, "%s/source.safetensors", dir);
    write_source(path);
    assert_int_equal(ofl_source_open(r->ctx, path, &source), 0);
    assert_int_equal(unlink(path), 0);
    for (int i = 0; i < SOURCE; i++) {
        source_name(i, name);
        assert_int_equal(ofl_source_bind(source, name, OFL_KIND_WEIGHT, &r->tensors[r->count++]), 0);
    }
    r->bait = (struct ofl_lease){.size = sizeof r->bait, .tensor = r->tensors[BAIT], .mode = OFL_READ};
    step(r, "A", 0, A, OFL_READ);
    step(r, "big", BIG, 1, OFL_READ);
}

static int count_places(struct ofl_ctx *ctx, void *arg)
{
    const struct ofl_tensor *t = arg;

    (void)ctx;
    return (int)t->host_tiles + (part_find(t, 0, t->bytes) != NULL);
}

/* Outside of steps, since what a plan of B had begun to fetch would be in the way. */
static void drive_out(struct rig *r)
{
    step(r, "none", A, 1, OFL_READ);
    for (int i = 0; i < 2 * B; i++) {
        use_on(r, r->stream, A + i % B, OFL_READ);
        settle(r);
    }
    for (int i = 0; i < A; i++)
        assert_int_equal(core_call(r->ctx, count_places, r->tensors[i]), 0);
    assert_int_equal(core_call(r->ctx, count_places, r->tensors[BIG]), 0);
    assert_int_equal(core_call(r->ctx, count_places, r->tensors[BAIT]), 0);
}

static void read_without_a_plan(struct rig *r, int attempt)
{
    drive_out(r);
    hold_drive(r);
    use_on(r, r->stream, 0, OFL_READ);
    stand(attempt);
    let_drive(r);
}

static void off_plan_outside_steps(void **state)
{
    struct rig r;

    open_on_drive(&r, *state);
    expect(&r, read_without_a_plan, "a0", OFL_STALL_OFF_PLAN);
    rig_close(&r);
}

/* A step that departs from its plan. */
static void read_what_was_not_planned(struct rig *r, int attempt)
{
    step(r, "A", 0, A, OFL_READ);
    drive_out(r);
    hold_drive(r);
    assert_int_equal(ofl_step_begin(r->ctx, "A"), 0);
    use_on(r, r->stream, A, OFL_READ);
    stand(attempt);
    let_drive(r);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static void off_plan_inside_a_step(void **state)
{
    struct rig r;

    open_on_drive(&r, *state);
    expect(&r, read_what_was_not_planned, "b0", OFL_STALL_OFF_PLAN);
    rig_close(&r);
}

static void read_first_of_plan(struct rig *r, int attempt)
{
    drive_out(r);
    hold_drive(r);
    assert_int_equal(ofl_step_begin(r->ctx, "A"), 0); /* its first reads begin here */
    use_on(r, r->stream, 0, OFL_READ);
    stand(attempt);
    let_drive(r);
    for (int i = 1; i < A; i++)
        use_on(r, r->stream, i, OFL_READ);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static void drive_busy_with_it(void **state)
{
    struct rig r;

    open_on_drive(&r, *state);
    expect(&r, read_first_of_plan, "a0", OFL_STALL_DRIVE_BUSY);
    rig_close(&r);
}

/* So much is in flight as may be: the third has its range, and no read of it has begun. */
static void read_third_of_plan(struct rig *r, int attempt)
{
    drive_out(r);
    hold_drive(r);
    assert_int_equal(ofl_step_begin(r->ctx, "A"), 0);
    use_on(r, r->stream, 0, OFL_READ);
    use_on(r, r->stream, 1, OFL_READ);
    use_on(r, r->other, 2, OFL_READ);
    stand(attempt);
    let_drive(r);
    for (int i = 3; i < A; i++)
        use_on(r, r->stream, i, OFL_READ);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static void started_late(void **state)
{
    struct rig r;

    open_on_drive(&r, *state);
    expect(&r, read_third_of_plan, "a2", OFL_STALL_LATE_START);
    rig_close(&r);
}

/* ---- room -------------------------------------------------------------------- */

/* Host memory is full of what is still to be written, but for less than may be in flight. */
static void read_into_full_host(struct rig *r, int attempt)
{
    static char bytes[64 * KIB];

    make_some(r, "filler", 2, 13 * sizeof bytes);
    drive_out(r);
    hold_drive(r);
    for (unsigned i = 0; i < 26; i++)
        assert_int_equal(
            ofl_tensor_write(r->tensors[SOURCE + i % 2], i / 2 * sizeof bytes, bytes, sizeof bytes), 0);
    assert_int_equal(ofl_step_begin(r->ctx, "big"), 0);
    use_on(r, r->stream, BIG, OFL_READ);
    stand(attempt);
    let_drive(r);
    assert_int_equal(ofl_step_end(r->ctx), 0);
    settle(r);
    while (r->count > SOURCE) /* what they have is not to be written first, the next time */
        assert_int_equal(ofl_tensor_destroy(r->tensors[--r->count]), 0);
}

static void no_room_in_host_memory(void **state)
{
    struct rig r;

    open_on_drive(&r, *state);
    expect(&r, read_into_full_host, "big", OFL_STALL_NO_ROOM);
    rig_close(&r);
}

/* Its range is that of a tensor that a stream still works with. */
static void read_into_full_device(struct rig *r, int attempt)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[0], .mode = OFL_READ};

    look(r);
    assert_int_equal(ofl_step_begin(r->ctx, "A"), 0);
    assert_int_equal(ofl_acquire(r->ctx, &l, 1, r->stream), 0);
    assert_int_equal(ofl_stream_launch(r->stream, wait_go, &r->go), 0);
    assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
    use_on(r, r->stream, 1, OFL_READ);
    use_on(r, r->other, 2, OFL_READ);
    stand(attempt);
    post(&r->go);
    for (int i = 3; i < A; i++)
        use_on(r, r->stream, i, OFL_READ);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static void no_room_on_the_device(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL, 2 * BYTES, 16 * MIB);
    make_some(&r, "a", A, BYTES);
    for (int i = 0; i < 3; i++)
        step(&r, "A", 0, A, OFL_READ);
    expect(&r, read_into_full_device, "a2", OFL_STALL_NO_ROOM);
    rig_close(&r);
}

/* ---- the link, workers, streams ---------------------------------------------- */

/* The link's thread is kept from handing in what it has copied. */
static void read_over_busy_link(struct rig *r, int attempt)
{
    step(r, "B", A, A, OFL_READ); /* drives A out of the device, not out of the host */
    step(r, "B", A, A, OFL_READ);
    look(r);
    close_barrier(&link_in);
    assert_int_equal(ofl_step_begin(r->ctx, "A"), 0); /* its first copies begin here */
    while (sem_wait(&link_in.come) < 0)
        ;
    use_on(r, r->stream, 0, OFL_READ);
    stand(attempt);
    sem_post(&link_in.go);
    for (int i = 1; i < A; i++)
        use_on(r, r->stream, i, OFL_READ);
    assert_int_equal(ofl_step_end(r->ctx), 0);
}

static void link_busy_with_it(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL, 2 * BYTES, 16 * MIB);
    make_some(&r, "a", A, BYTES);
    make_some(&r, "b", A, BYTES);
    for (int i = 0; i < 2; i++)
        step(&r, "A", 0, A, i ? OFL_READ : OFL_UPDATE);
    expect(&r, read_over_busy_link, "a0", OFL_STALL_LINK_BUSY);
    rig_close(&r);
}

static struct ofl_optimizer *optimizer;

/* The only worker is taken. */
static void read_what_is_updated(struct rig *r, int attempt)
{
    struct ofl_update_settings settings = {.size = sizeof settings,
                                           .lr = 1e-3,
                                           .beta1 = 0.9,
                                           .beta2 = 0.99,
                                           .eps = 1e-8,
                                           .step = (uint64_t)attempt + 1};

    use_on(r, r->stream, 1, OFL_OVERWRITE);
    look(r);
    base_pool_submit(r->ctx->engine.pool, wait_go, &r->go);
    assert_int_equal(ofl_optimizer_begin(optimizer, &settings), 0);
    assert_int_equal(ofl_optimizer_apply(optimizer, r->tensors[0]), 0);
    assert_int_equal(ofl_optimizer_end(optimizer), 0);
    use_on(r, r->stream, 0, OFL_READ);
    stand(attempt);
    post(&r->go);
}

static void host_work_is_first(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL, 2 * BYTES, 16 * MIB);
    make_some(&r, "a", 2, BYTES);
    assert_int_equal(ofl_optimizer_create(r.ctx, &optimizer), 0);
    assert_int_equal(ofl_optimizer_bind(optimizer, r.tensors[0], r.tensors[1]), 0);
    expect(&r, read_what_is_updated, "a0", OFL_STALL_HOST_WORK);
    assert_int_equal(ofl_optimizer_destroy(optimizer), 0);
    rig_close(&r);
}

static void read_what_is_written(struct rig *r, int attempt)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[0], .mode = OFL_UPDATE};

    look(r);
    assert_int_equal(ofl_acquire(r->ctx, &l, 1, r->stream), 0);
    assert_int_equal(ofl_stream_launch(r->stream, wait_go, &r->go), 0);
    assert_int_equal(ofl_release(r->ctx, &l, 1, r->stream), 0);
    use_on(r, r->other, 0, OFL_READ);
    stand(attempt);
    post(&r->go);
}

static void other_stream_is_first(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL, 2 * BYTES, 16 * MIB);
    make_some(&r, "a", 1, BYTES);
    use_on(&r, r.stream, 0, OFL_UPDATE);
    settle(&r);
    expect(&r, read_what_is_written, "a0", OFL_STALL_OTHER_STREAM);
    rig_close(&r);
}

/* ---- the rules, one by one ----------------------------------------------------- */

static void each_fact_has_its_reason(void **state)
{
    enum { MADE = 1, PREDICTED = 2, DENIED = 4, FETCHED = 8, HOLLOW = 16, CROWDED = 32 };
    static const struct {
        unsigned facts;
        uint32_t blockers, host_works;
        enum tile_state tiles[2];
        enum ofl_stall_reason reason;
    } cases[] = {
        {MADE, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_OFF_PLAN},
        {MADE, 1, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_OFF_PLAN},
        {MADE | CROWDED, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_OFF_PLAN},
        {MADE, 0, 1, {TILE_NONE, TILE_NONE}, OFL_STALL_HOST_WORK},
        {MADE | PREDICTED, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_LATE_START},
        {MADE | PREDICTED, 0, 0, {TILE_VALID, TILE_VALID}, OFL_STALL_LATE_START},
        {MADE | PREDICTED, 0, 0, {TILE_VALID, TILE_ARRIVING}, OFL_STALL_DRIVE_BUSY},
        {MADE | PREDICTED, 1, 0, {TILE_VALID, TILE_ARRIVING}, OFL_STALL_NO_ROOM},
        {MADE | PREDICTED | DENIED, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_NO_ROOM},
        {MADE | PREDICTED | CROWDED, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_NO_ROOM},
        {FETCHED, 0, 0, {TILE_VALID, TILE_VALID}, OFL_STALL_LINK_BUSY},
        {FETCHED | CROWDED, 0, 0, {TILE_VALID, TILE_VALID}, OFL_STALL_NO_ROOM},
        {FETCHED | CROWDED, 0, 0, {TILE_ARRIVING, TILE_VALID}, OFL_STALL_NO_ROOM},
        {FETCHED, 0, 0, {TILE_VALID, TILE_NONE}, OFL_STALL_LATE_START},
        {FETCHED, 0, 0, {TILE_ARRIVING, TILE_NONE}, OFL_STALL_DRIVE_BUSY},
        {FETCHED | DENIED, 0, 0, {TILE_ARRIVING, TILE_NONE}, OFL_STALL_DRIVE_BUSY},
        {HOLLOW | MADE, 1, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_NO_ROOM},
        {HOLLOW | MADE, 0, 0, {TILE_NONE, TILE_NONE}, OFL_STALL_LINK_BUSY},
    };

    struct core_copy c;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const unsigned f = cases[i].facts;
        struct core_tile tiles[2] = {{.state = (uint8_t)cases[i].tiles[0], .stored = true},
                                     {.state = (uint8_t)cases[i].tiles[1], .stored = true}};
        struct ofl_tensor t = {.tiles = tiles, .tiles_count = 2, .denied = f & DENIED};
        c = (struct core_copy){.tensor = &t,
                               .end = 2,
                               .fill = !(f & HOLLOW),
                               .fetched = f & FETCHED,
                               .blockers = cases[i].blockers,
                               .after_host = cases[i].host_works};
        enum ofl_stall_reason why;

        blame_acquired(&c, f & MADE, f & PREDICTED ? 1 : -EAGAIN);
        assert_false(t.denied);
        why = blame_bytes(&c);
        c.crowded |= (f & CROWDED) != 0;
        if (blame_settled(&c, why) != cases[i].reason)
            fail_msg("case %zu: reason %d, not %d", i, (int)blame_settled(&c, why), (int)cases[i].reason);
    }
    c = (struct core_copy){.tensor = &(struct ofl_tensor){0}, .crowded = true};
    assert_int_equal(blame_settled(&c, OFL_STALL_HOST_WORK), OFL_STALL_HOST_WORK);
}

static void want_of_room_is_no_quota(void **state)
{
    static const struct {
        uint64_t arriving, fetched;
        bool planned, waiting, crowded;
    } cases[] = {
        {0, 0, false, false, true},
        {128 * KIB, 0, false, false, true},
        {224 * KIB, 0, false, false, false}, /* of 256 KiB: another tile is too much */
        {128 * KIB, 128 * KIB, true, false, false},
        {128 * KIB, 128 * KIB, true, true, true}, /* what is awaited does not keep to it */
        {128 * KIB, 128 * KIB, false, false, true},
        {128 * KIB, 0, true, false, true},
    };
    struct ofl_tensor t = {.tile_bytes = 64 * KIB};
    static struct pager p;

    (void)state;
    p.store = (struct store *)&t; /* in the place of one, which nothing looks into */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct core_copy c = {.tensor = &t, .waiting = cases[i].waiting};

        p.stage_bytes = MIB;
        p.arriving_bytes = cases[i].arriving;
        p.fetched_bytes = cases[i].fetched;
        p.fetched_max = 160 * KIB;
        p.planned = cases[i].planned;
        blame_stuck(&p, &c);
        if (c.crowded != cases[i].crowded)
            fail_msg("case %zu: crowded %d", i, c.crowded);
    }
}

static void what_is_there_is_not_waited_for(void **state)
{
    struct ofl_stall s = {.size = sizeof s};
    struct rig r;

    (void)state;
    rig_open(&r, NULL, 2 * BYTES, 16 * MIB);
    make_some(&r, "a", 1, BYTES);
    use_on(&r, r.stream, 0, OFL_UPDATE);
    look(&r);
    for (int i = 0; i < 100; i++)
        use_on(&r, r.stream, 0, OFL_READ);
    settle(&r);
    assert_int_equal(ofl_stall_get(r.ctx, 0, &s), -ENOENT);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_plan_outside_steps),   cmocka_unit_test(off_plan_inside_a_step),
        cmocka_unit_test(drive_busy_with_it),       cmocka_unit_test(started_late),
        cmocka_unit_test(no_room_in_host_memory),   cmocka_unit_test(no_room_on_the_device),
        cmocka_unit_test(link_busy_with_it),        cmocka_unit_test(host_work_is_first),
        cmocka_unit_test(other_stream_is_first),    cmocka_unit_test(what_is_there_is_not_waited_for),
        cmocka_unit_test(each_fact_has_its_reason), cmocka_unit_test(want_of_room_is_no_quota),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
