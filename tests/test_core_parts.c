/*
 * core: leases of parts. Every byte of a tensor is what was written to it last, whatever parts it was leased in,
 * on which streams, and wherever it lives; a part takes the device memory and moves the bytes that it needs and
 * no others; what excludes what is the same wherever a tensor lives.
 *
 * Negative controls: what is counted for a part is compared with what the whole moves, and a tensor that is larger
 * than the device can't be leased whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define MIB     (1ull << 20)
#define TILE    (64u << 10)
#define BYTES   (5 * TILE + 12345u)
#define TENSORS 3
#define STREAMS 3
#define HELD    4

typedef unsigned long long ull;

static void ok(int code)
{
    if (code < 0)
        fail_msg("%d: %s", code, ofl_error());
}

static void expect(int code, int wanted, const char *text)
{
    if (code != wanted || !strstr(ofl_error(), text))
        fail_msg("%d \"%s\", wanted %d with \"%s\"", code, ofl_error(), wanted, text);
}

/* Where tensors live. */
enum where { STORE, HOST_HOMES, DEVICE_HOMES, WHERES };

static struct ofl_config config_of(enum where where, const char *dir, uint64_t device_bytes)
{
    struct ofl_config c = {.size = sizeof c, .device_bytes = device_bytes, .host_bytes = 2 * MIB};

    c.tile_bytes = TILE;
    c.log = fixture_log;
    c.flags = OFL_POISON;
    if (where == STORE) {
        c.nvme = fixture_nvme(dir, 16 * MIB);
        c.nvme_count = 1;
    } else if (where == HOST_HOMES) {
        c.host_bytes = 8 * MIB;
    } else {
        c.device_bytes = 8 * MIB;
    }
    return c;
}

static struct ofl_tensor *make(struct ofl_ctx *ctx, const char *name, enum ofl_dtype dtype, uint64_t elems)
{
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = dtype, .elems = elems};
    struct ofl_tensor *t;

    ok(ofl_tensor_create(ctx, &d, &t));
    return t;
}

static struct ofl_lease part(struct ofl_tensor *t, enum ofl_mode mode, uint64_t from, uint64_t count)
{
    return (struct ofl_lease){.size = sizeof(struct ofl_lease),
                              .tensor = t,
                              .mode = mode,
                              .offset_elems = from,
                              .count_elems = count};
}

/* ---- every byte -------------------------------------------------------- */

/* A kernel: what it must find, if anything, and what it leaves, if anything. */
struct kernel {
    uint8_t *at, *found, *left;
    uint64_t bytes;
};

static unsigned wrong;

static void run(void *arg)
{
    struct kernel *k = arg;

    if (k->found && memcmp(k->at, k->found, k->bytes) != 0)
        wrong++;
    if (k->left)
        memcpy(k->at, k->left, k->bytes);
    free(k->found);
    free(k->left);
    free(k);
}

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *streams[STREAMS];
    struct ofl_tensor *tensors[TENSORS];
    uint8_t *model[TENSORS]; /* what each tensor must hold */
    struct random random;
    struct {
        struct ofl_lease lease;
        uint64_t from, to; /* what nobody else may lease but inside of it */
        unsigned tensor, stream;
    } held[HELD];
    unsigned held_count, refused;
    bool homes; /* on the device */
};

static uint8_t *bytes_of(const uint8_t *from, uint64_t bytes)
{
    uint8_t *copy = malloc(bytes);

    assert_non_null(copy);
    memcpy(copy, from, bytes);
    return copy;
}

static void scramble(struct rig *r, uint8_t *at, uint64_t bytes)
{
    uint64_t word = random_next(&r->random);

    for (uint64_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((word + i) * 0x9e3779b97f4a7c15u >> 56);
}

/* Near the borders of tiles more often than chance would have it. */
static uint64_t random_byte(struct rig *r)
{
    uint64_t at = random_below(&r->random, BYTES);

    if (random_below(&r->random, 2))
        at = at / TILE * TILE + random_below(&r->random, 3);
    return at < BYTES ? at : BYTES - 1;
}

static void random_range(struct rig *r, uint64_t *from, uint64_t *to)
{
    uint64_t a = random_byte(r), b = random_byte(r);

    *from = a < b ? a : b;
    *to = (a < b ? b : a) + 1;
}

static bool is_excluded(const struct rig *r, unsigned tensor, uint64_t from, uint64_t to, bool writes)
{
    for (unsigned i = 0; i < r->held_count; i++)
        if (r->held[i].tensor == tensor && from < r->held[i].to && r->held[i].from < to &&
            (writes || r->held[i].lease.mode != OFL_READ || from < r->held[i].from || to > r->held[i].to))
            return true;
    return false;
}

static void hold(struct rig *r, const struct ofl_lease *l, unsigned tensor, unsigned stream)
{
    unsigned n = r->held_count++;

    r->held[n].lease = *l;
    r->held[n].tensor = tensor;
    r->held[n].stream = stream;
    r->held[n].from = l->offset_elems;
    r->held[n].to = l->offset_elems + l->count_elems;
    for (unsigned i = 0; i < n && !r->homes; i++)
        if (r->held[i].tensor == tensor && r->held[i].from < r->held[n].to &&
            r->held[n].from < r->held[i].to) {
            r->held[n].from = r->held[i].from;
            r->held[n].to = r->held[i].to;
        }
}

static void use(struct rig *r)
{
    unsigned tensor = (unsigned)random_below(&r->random, TENSORS);
    unsigned stream = (unsigned)random_below(&r->random, STREAMS);
    enum ofl_mode mode = OFL_READ + (enum ofl_mode)random_below(&r->random, 3);
    struct kernel *k = calloc(1, sizeof *k);
    struct ofl_lease l;
    uint64_t from, to;
    int err;

    random_range(r, &from, &to);
    l = part(r->tensors[tensor], mode, from, to - from);
    err = ofl_acquire(r->ctx, &l, 1, r->streams[stream]);
    if (is_excluded(r, tensor, from, to, mode != OFL_READ)) {
        expect(err, -OFL_ESTATE, "leased already");
        r->refused++;
        free(k);
        return;
    }
    if (err == -OFL_EBUDGET && r->held_count) {
        free(k);
        return;
    }
    ok(err);
    k->at = l.ptr;
    k->bytes = to - from;
    if (mode != OFL_OVERWRITE)
        k->found = bytes_of(r->model[tensor] + from, to - from);
    if (mode != OFL_READ) {
        scramble(r, r->model[tensor] + from, to - from);
        k->left = bytes_of(r->model[tensor] + from, to - from);
    }
    ok(ofl_stream_launch(r->streams[stream], run, k));
    hold(r, &l, tensor, stream);
}

static void let_go(struct rig *r)
{
    unsigned i = (unsigned)random_below(&r->random, r->held_count);

    ok(ofl_release(r->ctx, &r->held[i].lease, 1, r->streams[r->held[i].stream]));
    r->held[i] = r->held[--r->held_count];
}

static void from_the_host(struct rig *r)
{
    unsigned tensor = (unsigned)random_below(&r->random, TENSORS);
    uint8_t *buf = malloc(BYTES);
    uint64_t from, to;

    random_range(r, &from, &to);
    assert_non_null(buf);
    while (r->held_count)
        let_go(r);
    ok(ofl_tensor_read(r->tensors[tensor], from, buf, to - from));
    assert_memory_equal(buf, r->model[tensor] + from, to - from);
    random_range(r, &from, &to);
    scramble(r, r->model[tensor] + from, to - from);
    ok(ofl_tensor_write(r->tensors[tensor], from, r->model[tensor] + from, to - from));
    free(buf);
}

static void rounds_in(struct rig *r, const struct ofl_config *c, unsigned rounds)
{
    ok(ofl_open(c, &r->ctx));
    for (unsigned i = 0; i < STREAMS; i++)
        ok(ofl_stream_create(r->ctx, &r->streams[i]));
    for (unsigned i = 0; i < TENSORS; i++) {
        r->tensors[i] = make(r->ctx, "t", OFL_U8, BYTES);
        r->model[i] = calloc(1, BYTES);
        assert_non_null(r->model[i]);
    }
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t kind = random_below(&r->random, 20);

        if (kind == 0)
            from_the_host(r);
        else if (r->held_count == HELD || (r->held_count && kind < 11))
            let_go(r);
        else
            use(r);
        if (i % 64 == 0)
            fixture_verify(r->ctx);
    }
    while (r->held_count)
        let_go(r);
    for (unsigned i = 0; i < TENSORS; i++) {
        uint8_t *all = malloc(BYTES);

        assert_non_null(all);
        ok(ofl_tensor_read(r->tensors[i], 0, all, BYTES));
        assert_memory_equal(all, r->model[i], BYTES);
        free(all);
        free(r->model[i]);
    }
    ok(fixture_ctx_close(r->ctx));
}

static void every_byte_in_every_place(void **state)
{
    static const uint64_t devices[] = {BYTES + 255, 3 * BYTES / 2, 4 * BYTES};

    wrong = 0;
    for (enum where where = 0; where < WHERES; where++)
        for (unsigned i = 0; i < (where == DEVICE_HOMES ? 1 : 3); i++) {
            struct rig r = {.random = {where * 100 + i}, .homes = where == DEVICE_HOMES};
            struct ofl_config c = config_of(where, *state, devices[i]);

            rounds_in(&r, &c, fixture_rounds(1500));
            assert_true(r.refused > 10);
        }
    assert_int_equal(wrong, 0);
}

/* ---- what excludes what ------------------------------------------------ */

static void parts_that_are_none(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t)
{
    struct ofl_lease a;

    a = part(t, OFL_READ, 990, 11);
    expect(ofl_acquire(ctx, &a, 1, s), -EINVAL, "it has 1000");
    a = part(t, OFL_READ, 1001, 0);
    expect(ofl_acquire(ctx, &a, 1, s), -EINVAL, "it has 1000");
    a = part(t, OFL_READ, UINT64_MAX, 2);
    expect(ofl_acquire(ctx, &a, 1, s), -EINVAL, "it has 1000");
    a = part(t, OFL_READ, 1, UINT64_MAX);
    expect(ofl_acquire(ctx, &a, 1, s), -EINVAL, "it has 1000");
    a = part(t, OFL_READ, 1000, 0);
    expect(ofl_acquire(ctx, &a, 1, s), -EINVAL, "no elements");
}

/* Side by side, in one batch, all written. */
static void writers(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t, bool home)
{
    struct ofl_lease l[4], a, b;

    for (unsigned i = 0; i < 4; i++)
        l[i] = part(t, i & 1 ? OFL_UPDATE : OFL_OVERWRITE, 250 * i, i == 3 ? 0 : 250);
    ok(ofl_acquire(ctx, l, 4, s));
    for (unsigned i = 0; i < 4; i++) {
        if (home) /* as they lie in the tensor */
            assert_ptr_equal(l[i].ptr, (char *)l[0].ptr + (uint64_t)i * 1000);
        else
            assert_int_equal((uintptr_t)l[i].ptr % 256, 0);
        a = part(t, OFL_READ, 250 * i + 100, 1);
        expect(ofl_acquire(ctx, &a, 1, s), -OFL_ESTATE, "leased already to write");
    }
    a = part(t, OFL_READ, 0, 0);
    expect(ofl_acquire(ctx, &a, 1, s), -OFL_ESTATE, "leased already");
    expect(ofl_tensor_destroy(t), -OFL_ESTATE, "leased");
    expect(ofl_tensor_read(t, 0, &a, 4), -OFL_ESTATE, "leased");
    /* One let go: its bytes are free, the others' are not. */
    ok(ofl_release(ctx, &l[1], 1, s));
    a = part(t, OFL_UPDATE, 300, 200);
    ok(ofl_acquire(ctx, &a, 1, s));
    b = part(t, OFL_READ, 490, 11);
    expect(ofl_acquire(ctx, &b, 1, s), -OFL_ESTATE, "leased already");
    ok(ofl_release(ctx, &a, 1, s));
    /* A release of what is not held. */
    b = l[0];
    b.count_elems++;
    expect(ofl_release(ctx, &b, 1, s), -OFL_ESTATE, "not leased by this lease");
    b = l[0];
    b.offset_elems += 500;
    b.cookie++;
    expect(ofl_release(ctx, &b, 1, s), -OFL_ESTATE, "not leased by this lease");
    l[1] = l[0];
    expect(ofl_release(ctx, l, 2, s), -OFL_ESTATE, home ? "not leased by this lease" : "more often");
    l[1] = l[3];
    ok(ofl_release(ctx, l, 3, s));
    expect(ofl_release(ctx, &l[3], 1, s), -OFL_ESTATE, "not leased by this lease");
}

/* The later inside the earlier. */
static void readers(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t)
{
    struct ofl_lease l[3], a;

    l[0] = part(t, OFL_READ, 100, 100);
    l[1] = part(t, OFL_READ, 150, 50);
    l[2] = part(t, OFL_READ, 100, 100);
    ok(ofl_acquire(ctx, l, 1, s));
    ok(ofl_acquire(ctx, l + 1, 2, s));
    assert_ptr_equal(l[1].ptr, (char *)l[0].ptr + 200);
    assert_ptr_equal(l[2].ptr, l[0].ptr);
    a = part(t, OFL_READ, 150, 51);
    expect(ofl_acquire(ctx, &a, 1, s), -OFL_ESTATE, "leased already to read");
    a = part(t, OFL_READ, 0, 0);
    expect(ofl_acquire(ctx, &a, 1, s), -OFL_ESTATE, "leased already to read");
    a = part(t, OFL_UPDATE, 199, 1);
    expect(ofl_acquire(ctx, &a, 1, s), -OFL_ESTATE, "leased already to read");
    ok(ofl_release(ctx, l, 3, s));
}

/* The same within a batch, in any order. */
static void one_batch(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t, struct ofl_tensor *u)
{
    struct ofl_lease l[4];

    l[0] = part(t, OFL_READ, 150, 50);
    l[1] = part(t, OFL_READ, 0, 0);
    l[2] = part(u, OFL_UPDATE, 0, 500);
    l[3] = part(u, OFL_UPDATE, 500, 500);
    ok(ofl_acquire(ctx, l, 4, s));
    assert_ptr_equal(l[0].ptr, (char *)l[1].ptr + 600);
    ok(ofl_release(ctx, l, 4, s));
    l[1] = part(t, OFL_READ, 199, 2);
    expect(ofl_acquire(ctx, l, 2, s), -OFL_ESTATE, "in one batch");
    l[1] = part(t, OFL_OVERWRITE, 199, 1);
    expect(ofl_acquire(ctx, l, 2, s), -OFL_ESTATE, "in one batch");
    l[1] = part(t, OFL_OVERWRITE, 200, 1);
    ok(ofl_acquire(ctx, l, 2, s));
    ok(ofl_release(ctx, l, 2, s));
}

static void what_excludes_what(void **state)
{
    for (enum where where = 0; where < WHERES; where++) {
        struct ofl_config c = config_of(where, *state, 2 * MIB);
        struct ofl_tensor *t, *u;
        struct ofl_stream *s;
        struct ofl_ctx *ctx;

        ok(ofl_open(&c, &ctx));
        ok(ofl_stream_create(ctx, &s));
        t = make(ctx, "t", OFL_F32, 1000);
        u = make(ctx, "u", OFL_F32, 1000);
        parts_that_are_none(ctx, s, t);
        writers(ctx, s, t, where == DEVICE_HOMES);
        readers(ctx, s, t);
        one_batch(ctx, s, t, u);
        ok(ofl_stream_sync(s));
        fixture_verify(ctx);
        ok(fixture_ctx_close(ctx));
    }
}

/* ---- what it costs ----------------------------------------------------- */

static struct ofl_stats stats_of(struct ofl_ctx *ctx)
{
    struct ofl_stats s = {.size = sizeof s};

    ok(ofl_stats_get(ctx, &s));
    return s;
}

static void lease_once(struct ofl_ctx *ctx, struct ofl_lease l)
{
    struct ofl_stream *s;

    ok(ofl_stream_create(ctx, &s));
    ok(ofl_acquire(ctx, &l, 1, s));
    assert_int_equal((uintptr_t)l.ptr % 16, 0);
    ok(ofl_release(ctx, &l, 1, s));
    ok(ofl_stream_sync(s));
    ofl_stream_destroy(s);
}

#define SOURCE_BYTES (200ull * TILE)

static void put_source(const char *path)
{
    static const char form[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[%llu],\"data_offsets\":[0,%llu]}}";
    char header[200];
    uint64_t length =
        (uint64_t)snprintf(header, sizeof header, form, (ull)(SOURCE_BYTES / 4), (ull)SOURCE_BYTES);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, &length, 8), 8);
    assert_int_equal(write(fd, header, length), length);
    assert_int_equal(ftruncate(fd, (off_t)(8 + length + SOURCE_BYTES)), 0);
    close(fd);
}

/* A hundredth of a source moves about a hundredth of its bytes: whole tiles from the file, its own over the link. */
static void a_part_of_a_source(void **state)
{
    struct ofl_config c = config_of(STORE, *state, SOURCE_BYTES + MIB);
    const uint64_t bytes = SOURCE_BYTES / 100, elems = bytes / 4;
    struct ofl_source *source;
    struct ofl_tensor *t;
    struct ofl_stats s;
    struct ofl_ctx *ctx;
    char path[300];

    snprintf(path, sizeof path, "%s/source.safetensors", (const char *)*state);
    put_source(path);
    ok(ofl_open(&c, &ctx));
    ok(ofl_source_open(ctx, path, &source));
    ok(ofl_source_bind(source, "w", OFL_KIND_WEIGHT, &t));
    lease_once(ctx, part(t, OFL_READ, 5 * TILE + 4, elems));
    s = stats_of(ctx);
    assert_int_equal(s.device_in_bytes, bytes);
    assert_in_range(s.source_read_bytes, bytes, bytes + 2 * (TILE + 4096));
    assert_in_range(s.peak_bytes[OFL_DEVICE], bytes, bytes + 256);
    lease_once(ctx, part(t, OFL_READ, 0, 0)); /* the whole */
    s = stats_of(ctx);
    assert_int_equal(s.device_in_bytes, bytes + SOURCE_BYTES);
    assert_true(s.source_read_bytes >= SOURCE_BYTES);
    ok(fixture_ctx_close(ctx));
    unlink(path);
}

/* Writes move what they wrote; of an overwrite nothing comes in. */
static void a_part_that_is_written(void **state)
{
    struct ofl_config c = config_of(HOST_HOMES, *state, 2 * MIB);
    struct ofl_tensor *t;
    struct ofl_stats s;
    struct ofl_ctx *ctx;
    uint8_t bytes[8];

    c.flags = 0;
    ok(ofl_open(&c, &ctx));
    t = make(ctx, "t", OFL_U8, 4 * MIB);
    memset(bytes, 7, sizeof bytes);
    ok(ofl_tensor_write(t, 5000, bytes, sizeof bytes));
    lease_once(ctx, part(t, OFL_OVERWRITE, 5008, 100000));
    ok(ofl_tensor_read(t, 105007, bytes, 1)); /* of the last tile: in order, so all are drained */
    s = stats_of(ctx);
    assert_int_equal(s.device_in_bytes, 0);
    assert_int_equal(s.device_out_bytes, 100000);
    ok(ofl_tensor_read(t, 5000, bytes, sizeof bytes));
    for (unsigned i = 0; i < sizeof bytes; i++)
        assert_int_equal(bytes[i], 7);
    ok(fixture_ctx_close(ctx));
}

/* ---- larger than the device -------------------------------------------- */

#define SLICES 16u

static void add_one(void *arg)
{
    struct kernel *k = arg;

    for (uint64_t i = 0; i < k->bytes; i++)
        k->at[i]++;
    free(k);
}

static void slice_step(struct ofl_ctx *ctx, struct ofl_stream *s, struct ofl_tensor *t, uint64_t bytes)
{
    ok(ofl_step_begin(ctx, "slices"));
    for (unsigned i = 0; i < SLICES; i++) {
        struct ofl_lease l = part(t, OFL_UPDATE, i * bytes, bytes);
        struct kernel *k = calloc(1, sizeof *k);

        ok(ofl_acquire(ctx, &l, 1, s));
        k->at = l.ptr;
        k->bytes = bytes;
        ok(ofl_stream_launch(s, add_one, k));
        ok(ofl_release(ctx, &l, 1, s));
    }
    ok(ofl_step_end(ctx));
}

/* In slices it streams, and the plan fetches them ahead. */
static void larger_than_the_device(void **state)
{
    struct ofl_config c = config_of(STORE, *state, MIB);
    const uint64_t bytes = 3 * MIB / SLICES - 100;
    struct ofl_stream *s;
    struct ofl_tensor *t;
    struct ofl_ctx *ctx;
    struct ofl_lease all;
    uint8_t *buf = malloc(SLICES * bytes);

    assert_non_null(buf);
    ok(ofl_open(&c, &ctx));
    ok(ofl_stream_create(ctx, &s));
    t = make(ctx, "large", OFL_U8, SLICES * bytes);
    all = part(t, OFL_READ, 0, 0);
    expect(ofl_acquire(ctx, &all, 1, s), -OFL_EBUDGET, "the device budget is 1048576 bytes");
    for (unsigned i = 0; i < 5; i++)
        slice_step(ctx, s, t, bytes);
    ok(ofl_stream_sync(s));
    assert_true(stats_of(ctx).prefetches >= SLICES);
    ok(ofl_tensor_read(t, 0, buf, SLICES * bytes));
    for (uint64_t i = 0; i < SLICES * bytes; i++)
        if (buf[i] != 5)
            fail_msg("byte %llu is %u", (ull)i, buf[i]);
    free(buf);
    ok(fixture_ctx_close(ctx));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_in_every_place), cmocka_unit_test(what_excludes_what),
        cmocka_unit_test(a_part_of_a_source),        cmocka_unit_test(a_part_that_is_written),
        cmocka_unit_test(larger_than_the_device),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
