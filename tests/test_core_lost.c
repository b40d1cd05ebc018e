/*
 * core: what a failure leaves behind, and what never waits for itself. A write whose work did not run is not
 * the newest copy: its tensor has the bytes from before, or is lost, with the first error, until it is
 * overwritten whole. Of two writes on two streams the one acquired last wins, whichever ends first. Updates
 * that wait for a norm are never kept out by younger ones. The engine's thread takes no signals.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define MIB     (1ull << 20)
#define BYTES   (1u << 20)
#define TENSORS 24

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

/* ---- a store whose bytes go bad, and come back ------------------------- */

struct rig {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream;
    struct ofl_tensor *tensors[TENSORS];
    int fd; /* of the store's file */
    uint8_t *good, *bad;
    off_t size;
};

/* The nameless file of the store: the largest one that is open. */
static int store_open_again(void)
{
    char path[64];
    int best = -1, fd;
    off_t largest = 0;

    for (fd = 3; fd < 256; fd++) {
        struct stat s;

        if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_nlink == 0 && s.st_size > largest) {
            best = fd;
            largest = s.st_size;
        }
    }
    assert_true(best >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", best);
    fd = open(path, O_RDWR | O_DIRECT);
    return fd >= 0 ? fd : open(path, O_RDWR);
}

static void write_value(void *arg)
{
    memset(*(void **)arg, ((uint8_t *)arg)[sizeof(void *)], BYTES);
}

struct job {
    void *ptr;
    uint8_t value;
};

/* Tensor i becomes 10 + i, all on stream. */
static void fill(struct rig *r)
{
    for (int i = 0; i < TENSORS; i++) {
        struct ofl_lease l = {.size = sizeof l, .tensor = r->tensors[i], .mode = OFL_OVERWRITE};
        struct job job = {.value = (uint8_t)(10 + i)};

        ok(ofl_acquire(r->ctx, &l, 1, r->stream));
        job.ptr = l.ptr;
        ok(ofl_stream_launch(r->stream, write_value, &job));
        ok(ofl_release(r->ctx, &l, 1, r->stream));
        ok(ofl_stream_sync(r->stream));
    }
}

static void rig_open(struct rig *r, const char *dir)
{
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = 3 * MIB,
                           .host_bytes = 2 * MIB,
                           .nvme = fixture_nvme(dir, 64 * MIB),
                           .nvme_count = 1};
    struct stat s;

    ok(ofl_open(&c, &r->ctx));
    ok(ofl_stream_create(r->ctx, &r->stream));
    for (int i = 0; i < TENSORS; i++) {
        char name[32];
        struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U8, .elems = BYTES};

        snprintf(name, sizeof name, "tensor-%d", i);
        ok(ofl_tensor_create(r->ctx, &d, &r->tensors[i]));
    }
    fill(r);
    r->fd = store_open_again();
    assert_true(r->fd >= 0);
    assert_int_equal(fstat(r->fd, &s), 0);
    r->size = s.st_size;
    r->good = aligned_alloc(4096, (size_t)s.st_size);
    r->bad = aligned_alloc(4096, (size_t)s.st_size);
    assert_true(r->good && r->bad);
    memset(r->bad, 0xA5, (size_t)s.st_size);
    for (off_t at = 0; at < s.st_size; at += (off_t)MIB)
        assert_true(pread(r->fd, r->good + at, MIB, at) > 0);
}

static void store_set(struct rig *r, const uint8_t *bytes)
{
    for (off_t at = 0; at < r->size; at += (off_t)MIB)
        assert_true(pwrite(r->fd, bytes + at, MIB, at) > 0);
}

static void rig_close(struct rig *r)
{
    close(r->fd);
    free(r->good);
    free(r->bad);
    fixture_ctx_close(r->ctx);
}

static void add_one(void *arg)
{
    uint8_t *x = arg;

    for (size_t i = 0; i < BYTES; i++)
        x[i]++;
}

static void check_value(struct ofl_tensor *t, uint8_t value)
{
    uint8_t *buf = malloc(BYTES);

    assert_non_null(buf);
    ok(ofl_tensor_read(t, 0, buf, BYTES));
    for (size_t i = 0; i < BYTES; i++)
        if (buf[i] != value)
            fail_msg("byte %zu is %u, wanted %u", i, buf[i], value);
    free(buf);
}

/* A new stream for one that has failed. */
static void stream_again(struct rig *r)
{
    ofl_stream_destroy(r->stream);
    ok(ofl_stream_create(r->ctx, &r->stream));
}

/* The fetch under a write lease fails: once the drive gives the right bytes again, so does the tensor. */
static void bytes_from_before_come_back(void **state)
{
    for (enum ofl_mode mode = OFL_READ; mode <= OFL_UPDATE; mode++) {
        struct rig r;
        struct ofl_lease l;

        rig_open(&r, *state);
        l = (struct ofl_lease){.size = sizeof l, .tensor = r.tensors[0], .mode = mode};
        store_set(&r, r.bad);
        ok(ofl_acquire(r.ctx, &l, 1, r.stream));
        ok(ofl_stream_launch(r.stream, add_one, l.ptr));
        ok(ofl_release(r.ctx, &l, 1, r.stream));
        expect(ofl_stream_sync(r.stream), -OFL_ECHECKSUM, "tensor-0");
        store_set(&r, r.good);
        check_value(r.tensors[0], 10);
        stream_again(&r);
        l = (struct ofl_lease){.size = sizeof l, .tensor = r.tensors[0], .mode = OFL_UPDATE};
        ok(ofl_acquire(r.ctx, &l, 1, r.stream));
        ok(ofl_stream_launch(r.stream, add_one, l.ptr));
        ok(ofl_release(r.ctx, &l, 1, r.stream));
        check_value(r.tensors[0], 11);
        rig_close(&r);
    }
}

/* What the same stream was to write afterwards was never written, either. */
static void later_writes_of_a_failed_stream_do_not_count(void **state)
{
    struct rig r;
    struct ofl_lease l;

    rig_open(&r, *state);
    l = (struct ofl_lease){.size = sizeof l, .tensor = r.tensors[0], .mode = OFL_READ};
    store_set(&r, r.bad);
    ok(ofl_acquire(r.ctx, &l, 1, r.stream));
    ok(ofl_release(r.ctx, &l, 1, r.stream));
    l = (struct ofl_lease){.size = sizeof l, .tensor = r.tensors[1], .mode = OFL_OVERWRITE};
    ok(ofl_acquire(r.ctx, &l, 1, r.stream));
    ok(ofl_release(r.ctx, &l, 1, r.stream));
    expect(ofl_stream_sync(r.stream), -OFL_ECHECKSUM, "tensor-0");
    store_set(&r, r.good);
    check_value(r.tensors[1], 11);
    rig_close(&r);
}

/* Nothing good is left: every reader gets the first error, until all of it is written. */
static void lost_until_overwritten(void **state)
{
    struct rig r;
    struct job job = {.value = 77};
    struct ofl_lease l[2];
    uint8_t *buf = malloc(BYTES), byte = 0;

    assert_non_null(buf);
    rig_open(&r, *state);
    store_set(&r, r.bad);
    /* One good update makes what lies below obsolete; it is on the device when the stream fails. */
    l[0] = (struct ofl_lease){.size = sizeof *l, .tensor = r.tensors[TENSORS - 1], .mode = OFL_OVERWRITE};
    ok(ofl_acquire(r.ctx, l, 1, r.stream));
    job.ptr = l[0].ptr;
    ok(ofl_stream_launch(r.stream, write_value, &job));
    ok(ofl_release(r.ctx, l, 1, r.stream));
    ok(ofl_stream_sync(r.stream));
    l[0] = (struct ofl_lease){.size = sizeof *l, .tensor = r.tensors[0], .mode = OFL_READ};
    l[1] = (struct ofl_lease){.size = sizeof *l, .tensor = r.tensors[TENSORS - 1], .mode = OFL_UPDATE};
    ok(ofl_acquire(r.ctx, l, 2, r.stream));
    ok(ofl_stream_launch(r.stream, add_one, l[1].ptr));
    ok(ofl_release(r.ctx, l, 2, r.stream));
    expect(ofl_stream_sync(r.stream), -OFL_ECHECKSUM, "tensor-0");
    store_set(&r, r.good);
    stream_again(&r);
    for (int again = 0; again < 2; again++) {
        expect(ofl_tensor_read(r.tensors[TENSORS - 1], 0, &byte, 1), -OFL_ECHECKSUM, "fetch tensor-0");
        l[0] = (struct ofl_lease){.size = sizeof *l, .tensor = r.tensors[TENSORS - 1], .mode = OFL_READ};
        expect(ofl_acquire(r.ctx, l, 1, r.stream), -OFL_ECHECKSUM, "until it is overwritten whole");
        expect(ofl_tensor_write(r.tensors[TENSORS - 1], 5, &byte, 1), -OFL_ECHECKSUM, "fetch tensor-0");
    }
    memset(buf, 9, BYTES);
    ok(ofl_tensor_write(r.tensors[TENSORS - 1], 0, buf, BYTES));
    check_value(r.tensors[TENSORS - 1], 9);
    free(buf);
    rig_close(&r);
}

/* ---- orders ------------------------------------------------------------ */

static sem_t go;

static void hold(void *arg)
{
    (void)arg;
    while (sem_wait(&go) < 0)
        ;
}

static void slow_add_one(void *arg)
{
    usleep(100000);
    add_one(arg);
}

static void seventy_seven(void *arg)
{
    memset(arg, 77, BYTES);
}

struct small {
    struct ofl_ctx *ctx;
    struct ofl_stream *stream[8];
};

static struct ofl_tensor *make(struct small *s, const char *name, enum ofl_dtype dtype, uint64_t elems)
{
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = dtype, .elems = elems};
    struct ofl_tensor *t;

    ok(ofl_tensor_create(s->ctx, &d, &t));
    return t;
}

static struct ofl_lease acquire(struct small *s, struct ofl_tensor *t, enum ofl_mode mode, int stream)
{
    struct ofl_lease l = {.size = sizeof l, .tensor = t, .mode = mode};

    ok(ofl_acquire(s->ctx, &l, 1, s->stream[stream]));
    return l;
}

static void release(struct small *s, struct ofl_lease *l, int stream)
{
    ok(ofl_release(s->ctx, l, 1, s->stream[stream]));
}

/* The first of two writes ends last, after its copy has lost its range, and so has the second one's. */
static void the_write_acquired_last_wins(void **state)
{
    struct ofl_config c = {
        .size = sizeof c, .device_bytes = 3 * MIB, .host_bytes = 64 * MIB, .leased_bytes = 3 * MIB};
    struct small s;
    struct ofl_tensor *t, *p, *x, *y, *z, *w;
    struct ofl_lease lp, lx, ly, lz, l;
    uint8_t *ten = malloc(BYTES);

    (void)state;
    assert_non_null(ten);
    memset(ten, 10, BYTES);
    sem_init(&go, 0, 0);
    ok(ofl_open(&c, &s.ctx));
    for (int i = 0; i < 8; i++)
        ok(ofl_stream_create(s.ctx, &s.stream[i]));
    t = make(&s, "T", OFL_U8, BYTES);
    p = make(&s, "P", OFL_U8, BYTES);
    x = make(&s, "X", OFL_U8, BYTES);
    y = make(&s, "Y", OFL_U8, BYTES);
    z = make(&s, "Z", OFL_U8, BYTES);
    w = make(&s, "W", OFL_U8, BYTES);
    ok(ofl_tensor_write(t, 0, ten, BYTES));
    lp = acquire(&s, p, OFL_READ, 5);
    ly = acquire(&s, y, OFL_READ, 3);
    lz = acquire(&s, z, OFL_READ, 4); /* the device is full */
    for (int i = 3; i <= 5; i++)
        ok(ofl_stream_sync(s.stream[i]));
    ok(ofl_stream_launch(s.stream[5], hold, NULL));
    release(&s, &lp, 5); /* P's range stays in use */
    l = acquire(&s, t, OFL_UPDATE, 1);
    ok(ofl_stream_launch(s.stream[1], slow_add_one, l.ptr));
    release(&s, &l, 1);               /* first, but it waits for P's range */
    lx = acquire(&s, x, OFL_READ, 2); /* T's copy has to leave */
    release(&s, &lz, 4);
    ok(ofl_stream_sync(s.stream[4]));
    l = acquire(&s, t, OFL_OVERWRITE, 0);
    ok(ofl_stream_launch(s.stream[0], seventy_seven, l.ptr));
    release(&s, &l, 0);
    ok(ofl_stream_sync(s.stream[0]));
    l = acquire(&s, w, OFL_READ, 6); /* and so has this one */
    release(&s, &l, 6);
    sem_post(&go);
    check_value(t, 77);
    release(&s, &ly, 3);
    release(&s, &lx, 2);
    ok(fixture_ctx_close(s.ctx));
    sem_destroy(&go);
    free(ten);
}

/* An update that waits for its norm; a stream that waits for the update; and a younger update, of what that
 * stream has written, with more tiles than may be in flight. */
static void held_updates_find_a_place(void **state)
{
    const struct ofl_update_settings clip = {
        .size = sizeof clip, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip = 1, .step = 1};
    struct ofl_update_settings plain = clip;
    struct ofl_config c = {.size = sizeof c,
                           .device_bytes = 64 * MIB,
                           .host_bytes = 64 * MIB,
                           .leased_bytes = 64 * MIB,
                           .tile_bytes = 64 << 10,
                           .workers = 1};
    const uint64_t tile = (64 << 10) / 4;
    struct small s;
    struct ofl_optimizer *a, *b;
    struct ofl_tensor *w1, *g1, *w2, *g2;
    struct ofl_lease l, two[2];
    double norm;

    (void)state;
    plain.clip = 0;
    sem_init(&go, 0, 0);
    ok(ofl_open(&c, &s.ctx));
    ok(ofl_stream_create(s.ctx, &s.stream[0]));
    w1 = make(&s, "w1", OFL_F32, 16 * tile);
    g1 = make(&s, "g1", OFL_F32, 16 * tile);
    w2 = make(&s, "w2", OFL_F32, 2 * tile);
    g2 = make(&s, "g2", OFL_F32, 2 * tile);
    ok(ofl_optimizer_create(s.ctx, &a));
    ok(ofl_optimizer_create(s.ctx, &b));
    ok(ofl_optimizer_bind(a, w2, g2));
    ok(ofl_optimizer_bind(b, w1, g1));
    l = acquire(&s, g2, OFL_UPDATE, 0);
    ok(ofl_stream_launch(s.stream[0], hold, NULL));
    release(&s, &l, 0);
    ok(ofl_optimizer_begin(a, &clip));
    ok(ofl_optimizer_apply(a, w2));
    ok(ofl_optimizer_end(a)); /* held: the norm is behind the stream */
    two[0] = (struct ofl_lease){.size = sizeof l, .tensor = w2, .mode = OFL_READ};
    two[1] = (struct ofl_lease){.size = sizeof l, .tensor = w1, .mode = OFL_UPDATE};
    ok(ofl_acquire(s.ctx, two, 2, s.stream[0]));
    ok(ofl_release(s.ctx, two, 2, s.stream[0]));
    ok(ofl_optimizer_begin(b, &plain));
    ok(ofl_optimizer_apply(b, w1));
    ok(ofl_optimizer_end(b));
    usleep(20000); /* the younger one takes what it may */
    sem_post(&go);
    ok(ofl_stream_sync(s.stream[0]));
    ok(ofl_optimizer_norm(a, &norm));
    ok(ofl_optimizer_norm(b, &norm));
    ok(fixture_ctx_close(s.ctx));
    sem_destroy(&go);
}

/* ---- leases as structs -------------------------------------------------- */

static void leases_have_a_size(void **state)
{
    struct ofl_config c = {.size = sizeof c, .device_bytes = 4 * MIB, .host_bytes = 16 * MIB};
    struct {
        struct ofl_lease lease;
        uint64_t more; /* of a header to come */
    } longer[2];
    struct ofl_lease l;
    struct small s;
    struct ofl_tensor *t, *u;

    (void)state;
    ok(ofl_open(&c, &s.ctx));
    ok(ofl_stream_create(s.ctx, &s.stream[0]));
    t = make(&s, "t", OFL_F32, 1000);
    u = make(&s, "u", OFL_F32, 1000);
    memset(longer, 0, sizeof longer);
    for (int i = 0; i < 2; i++)
        longer[i].lease =
            (struct ofl_lease){.size = sizeof longer[0], .tensor = i ? u : t, .mode = OFL_UPDATE};
    ok(ofl_acquire(s.ctx, &longer[0].lease, 2, s.stream[0]));
    assert_non_null(longer[0].lease.ptr);
    assert_non_null(longer[1].lease.ptr);
    assert_ptr_not_equal(longer[0].lease.ptr, longer[1].lease.ptr);
    ok(ofl_release(s.ctx, &longer[0].lease, 2, s.stream[0]));
    assert_null(longer[1].lease.ptr);
    longer[1].more = 1;
    expect(ofl_acquire(s.ctx, &longer[0].lease, 2, s.stream[0]), -E2BIG, "lease");
    l = (struct ofl_lease){.size = 8, .tensor = t, .mode = OFL_READ};
    expect(ofl_acquire(s.ctx, &l, 1, s.stream[0]), -EINVAL, "lease");
    /* All of it, said in full. */
    l = (struct ofl_lease){.size = sizeof l, .tensor = t, .mode = OFL_READ, .count_elems = 1000};
    ok(ofl_acquire(s.ctx, &l, 1, s.stream[0]));
    ok(ofl_release(s.ctx, &l, 1, s.stream[0]));
    l = (struct ofl_lease){
        .size = sizeof l, .tensor = t, .mode = OFL_READ, .offset_elems = 990, .count_elems = 11};
    expect(ofl_acquire(s.ctx, &l, 1, s.stream[0]), -EINVAL, "1000");
    ok(fixture_ctx_close(s.ctx));
}

/* ---- threads ----------------------------------------------------------- */

static void no_signals_on_our_threads(void **state)
{
    struct ofl_config c = {.size = sizeof c, .device_bytes = 4 * MIB, .host_bytes = 16 * MIB};
    struct ofl_ctx *ctx;
    struct dirent *e;
    unsigned seen = 0;
    DIR *d;

    (void)state;
    ok(ofl_open(&c, &ctx));
    d = opendir("/proc/self/task");
    assert_non_null(d);
    while ((e = readdir(d))) {
        unsigned long long blocked = 0;
        char path[320], line[256], name[64] = "";
        FILE *f;

        snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
        f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f)) {
            sscanf(line, "Name: %63s", name);
            sscanf(line, "SigBlk: %llx", &blocked);
        }
        if (f)
            fclose(f);
        if (strncmp(name, "ofl-", 4) != 0)
            continue;
        seen++;
        if (!(blocked >> 1 & 1) || !(blocked >> 14 & 1)) /* SIGINT, SIGTERM */
            fail_msg("%s has signals %llx blocked", name, blocked);
    }
    closedir(d);
    assert_true(seen >= 3);
    ok(fixture_ctx_close(ctx));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_from_before_come_back),
        cmocka_unit_test(later_writes_of_a_failed_stream_do_not_count),
        cmocka_unit_test(lost_until_overwritten),
        cmocka_unit_test(the_write_acquired_last_wins),
        cmocka_unit_test(held_updates_find_a_place),
        cmocka_unit_test(leases_have_a_size),
        cmocka_unit_test(no_signals_on_our_threads),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
