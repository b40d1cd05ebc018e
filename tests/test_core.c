/*
 * core: residency. Random programs of acquires, kernels, releases, reads, writes, creations
 * and destructions run against a plain model in memory, under budgets that hold a fraction
 * of the bytes. Every kernel checks every byte that it was promised. The model is a seed and
 * a mask per tensor, from which any word of its contents follows.
 *
 * Kernels run asynchronously on two streams, and the program runs ahead of them, so a wait
 * that is missing shows as a wrong byte. Negative control: the same program with its kernels
 * on a stream that was not the one leased to must see wrong bytes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_words.h"

#define TENSORS 40
#define BATCH   4
#define STREAMS 2

struct model {
    struct ofl_tensor *tensor;
    uint64_t words, seed, mask;
    bool defined, leased;
};

struct program {
    struct ofl_ctx *ctx;
    struct ofl_stream *streams[STREAMS], *wrong;
    struct model models[TENSORS];
    struct random random;
    uint64_t seed, names;
    uint64_t big_words; /* of the larger tensors, at most */
    atomic_uint wrong_words;
    bool break_waits;
};

static void launch(struct program *p, const struct ofl_lease *l, struct model *m, struct ofl_stream *s)
{
    words_launch(s, l, m->words, &m->seed, &m->mask, &m->defined, &p->random, &p->wrong_words);
}

/* ---- program steps ----------------------------------------------------- */

static void ok(struct program *p, int err, const char *what)
{
    if (err == 0)
        return;
    print_error("seed %llu: %s: %d: %s\n", (unsigned long long)p->seed, what, err, ofl_error());
    fail();
}

static void make_tensor(struct program *p, struct model *m)
{
    char name[32];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U64};

    snprintf(name, sizeof name, "t%llu", (unsigned long long)p->names++);
    d.elems = random_below(&p->random, 4) ? 1 + random_below(&p->random, 2000)
                                          : 1 + random_below(&p->random, p->big_words);
    d.kind = random_below(&p->random, 3) ? OFL_KIND_WEIGHT : OFL_KIND_ACTIVATION;
    *m = (struct model){.words = d.elems, .defined = true};
    ok(p, ofl_tensor_create(p->ctx, &d, &m->tensor), "create");
}

static size_t random_batch(struct program *p, struct ofl_lease *leases, struct model **models)
{
    size_t n = 1 + random_below(&p->random, BATCH), count = 0;

    for (size_t i = 0; i < n; i++) {
        struct model *m = &p->models[random_below(&p->random, TENSORS)];
        unsigned kind = (unsigned)random_below(&p->random, 10);

        if (m->leased)
            continue;
        m->leased = true;
        models[count] = m;
        leases[count++] = (struct ofl_lease){.tensor = m->tensor,
                                             .mode = kind < 5   ? OFL_READ
                                                     : kind < 8 ? OFL_UPDATE
                                                                : OFL_OVERWRITE,
                                             .flags = kind == 4 || kind == 9 ? OFL_LEASE_DROP : 0};
    }
    return count;
}

static void finish_batch(struct program *p, struct ofl_lease *leases, struct model **models, size_t n,
                         struct ofl_stream *s)
{
    ok(p, ofl_release(p->ctx, leases, n, s), "release");
    for (size_t i = 0; i < n; i++) {
        models[i]->leased = false;
        if (leases[i].flags & OFL_LEASE_DROP)
            models[i]->defined = false;
    }
}

static void run_batch(struct program *p, int depth)
{
    struct ofl_lease leases[BATCH];
    struct model *models[BATCH];
    struct ofl_stream *s = p->streams[random_below(&p->random, STREAMS)];
    size_t n = random_batch(p, leases, models);

    ok(p, ofl_acquire(p->ctx, leases, n, s), "acquire");
    for (size_t i = 0; i < n; i++)
        launch(p, &leases[i], models[i], p->break_waits ? p->wrong : s);
    if (depth < 1 && random_below(&p->random, 3) == 0)
        run_batch(p, depth + 1); /* leases within leases */
    if (p->break_waits)
        ofl_stream_sync(p->wrong);
    finish_batch(p, leases, models, n, s);
}

static void read_back(struct program *p, struct model *m)
{
    uint64_t first = random_below(&p->random, m->words), n = 1 + random_below(&p->random, m->words - first);
    uint64_t *buf = malloc(n * sizeof *buf);
    unsigned wrong = 0;

    assert_non_null(buf);
    ok(p, ofl_tensor_read(m->tensor, first * 8, buf, n * 8), "read");
    for (uint64_t i = 0; m->defined && i < n; i++)
        wrong += buf[i] != word_at(m->seed, m->mask, first + i);
    free(buf);
    atomic_fetch_add(&p->wrong_words, wrong);
}

static void write_over(struct program *p, struct model *m)
{
    uint64_t *buf = malloc(m->words * sizeof *buf);
    uint64_t half = m->defined && m->words > 1 ? m->words / 2 : 0;

    assert_non_null(buf);
    if (half) { /* the same words again, in the back: a partial write */
        for (uint64_t i = half; i < m->words; i++)
            buf[i] = word_at(m->seed, m->mask, i);
        ok(p, ofl_tensor_write(m->tensor, half * 8, buf + half, (m->words - half) * 8), "write half");
    } else {
        m->seed = random_next(&p->random) | 1;
        m->mask = 0;
        m->defined = true;
        for (uint64_t i = 0; i < m->words; i++)
            buf[i] = word_at(m->seed, m->mask, i);
        ok(p, ofl_tensor_write(m->tensor, 0, buf, m->words * 8), "write");
    }
    free(buf);
}

static void run_step(struct program *p)
{
    struct model *m = &p->models[random_below(&p->random, TENSORS)];
    uint64_t kind = random_below(&p->random, 100);

    if (kind % 16 == 0)
        fixture_verify(p->ctx);
    if (kind < 90) {
        run_batch(p, p->big_words > 100000); /* big ones leave no room for leases within leases */
    } else if (kind < 94) {
        read_back(p, m);
    } else if (kind < 97) {
        write_over(p, m);
    } else if (kind < 98) {
        ok(p, ofl_tensor_destroy(m->tensor), "destroy");
        make_tensor(p, m);
    } else {
        ok(p, ofl_stream_sync(p->streams[random_below(&p->random, STREAMS)]), "sync");
    }
}

static void open_program(struct program *p, const struct ofl_config *config, uint64_t seed, bool big)
{
    memset(p, 0, sizeof *p);
    p->big_words = big ? 500000 : 30000;
    p->seed = seed;
    p->random.state = seed;
    ok(p, ofl_open(config, &p->ctx), "open");
    for (int i = 0; i < STREAMS; i++)
        ok(p, ofl_stream_create(p->ctx, &p->streams[i]), "create stream");
    ok(p, ofl_stream_create(p->ctx, &p->wrong), "create stream");
    for (int i = 0; i < TENSORS; i++)
        make_tensor(p, &p->models[i]);
}

static void check_budgets(struct program *p)
{
    struct ofl_stats s = {.size = sizeof s};

    ok(p, ofl_stats_get(p->ctx, &s), "stats");
    for (int i = 0; i < OFL_TIERS; i++)
        if (s.peak_bytes[i] > s.budget_bytes[i])
            fail_msg("seed %llu: tier %d peaked at %llu of %llu bytes", (unsigned long long)p->seed, i,
                     (unsigned long long)s.peak_bytes[i], (unsigned long long)s.budget_bytes[i]);
}

static void close_program(struct program *p, bool expect_wrong)
{
    for (int i = 0; i < STREAMS; i++)
        ok(p, ofl_stream_sync(p->streams[i]), "sync");
    for (int i = 0; i < TENSORS && !expect_wrong; i++)
        read_back(p, &p->models[i]);
    check_budgets(p);
    ok(p, fixture_ctx_close(p->ctx), "close");
    if ((atomic_load(&p->wrong_words) != 0) != expect_wrong)
        fail_msg("seed %llu: %u wrong words", (unsigned long long)p->seed, atomic_load(&p->wrong_words));
}

/* ---- the cases --------------------------------------------------------- */

#define MIB (1ull << 20)

static const struct {
    const char *name;
    uint64_t device, host, nvme, test_seed;
    uint32_t flags;
    bool steps; /* the same sequence again and again, bracketed as steps */
    bool big;   /* tensors larger than the host arena */
} cases[] = {
    {"nvme, smallest host", 1200000, 2 * MIB, 16 * MIB, 0, 0, false, false},
    {"nvme, smallest host, poisoned", 1200000, 2 * MIB, 16 * MIB, 0, OFL_POISON, false, false},
    {"nvme, short and retried transfers", 1200000, 2 * MIB, 16 * MIB, 7, OFL_POISON, false, false},
    {"nvme, thread engine", 1200000, 2 * MIB, 16 * MIB, 0, OFL_USE_THREADS, false, false},
    {"nvme, buffered", 1200000, 2 * MIB, 16 * MIB, 0, OFL_USE_BUFFERED, false, false},
    {"nvme, steps", 1200000, 2 * MIB, 16 * MIB, 0, OFL_POISON, true, false},
    {"nvme, roomy host, steps", 1200000, 6 * MIB, 16 * MIB, 0, 0, true, false},
    {"host is home", 1200000, 12 * MIB, 0, 0, OFL_POISON, false, false},
    {"host is home, steps", 1200000, 12 * MIB, 0, 0, 0, true, false},
    {"device is home", 12 * MIB, 2 * MIB, 0, 0, 0, false, false},
    {"larger than the host", 18 * MIB, 2 * MIB, 256 * MIB, 0, 0, false, true},
    {"larger than the host, steps", 18 * MIB, 2 * MIB, 256 * MIB, 0, 0, true, true},
};

static struct ofl_config config_of(size_t i, const char *dir)
{
    return (struct ofl_config){.size = sizeof(struct ofl_config),
                               .device = fixture_device(),
                               .device_bytes = cases[i].device,
                               .host_bytes = cases[i].host,
                               .nvme = fixture_nvme(dir, cases[i].nvme),
                               .nvme_count = cases[i].nvme > 0,
                               .flags = cases[i].flags,
                               .test_seed = cases[i].test_seed,
                               .log = fixture_log};
}

static void random_programs(void **state)
{
    static struct program p;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            struct ofl_config config = config_of(i, *state);
            unsigned rounds = fixture_rounds(cases[i].big ? 120 : 1200);
            struct random again;

            print_message("  %s, seed %llu\n", cases[i].name, (unsigned long long)seed);
            open_program(&p, &config, seed, cases[i].big);
            again = p.random;
            for (unsigned k = 0; k < rounds; k++) {
                if (cases[i].steps && k % 40 == 0) {
                    if (k)
                        ok(&p, ofl_step_end(p.ctx), "step end");
                    /* now and then the step departs from its plan */
                    if (k % 320)
                        p.random = again;
                    ok(&p, ofl_step_begin(p.ctx, "step"), "step begin");
                }
                run_step(&p);
            }
            if (cases[i].steps)
                ok(&p, ofl_step_end(p.ctx), "step end");
            close_program(&p, false);
        }
}

/* The kernels run on a stream that waits for nothing: the checks must notice. */
static void missing_wait_is_seen(void **state)
{
    static struct program p;
    struct ofl_config config = config_of(0, *state);

#ifdef __SANITIZE_THREAD__
    print_message("the race that this test makes on purpose is what ThreadSanitizer stops at\n");
    skip();
#endif

    open_program(&p, &config, 99, false);
    p.break_waits = true;
    for (unsigned k = 0; k < 300; k++)
        run_batch(&p, 1);
    close_program(&p, true);
}

static void nap(void *arg)
{
    (void)arg;
    usleep(5000);
}

/* A read that was acquired sees the bytes of that moment, though the host writes the tensor
 * while its fetch is still queued behind others. */
static void writes_wait_for_older_reads(void **state)
{
    static struct program p;
    struct ofl_config config = config_of(0, *state);

    open_program(&p, &config, 5, false);
    for (int i = 0; i < TENSORS; i++) { /* bytes to be fetched, not zeros */
        p.models[i].defined = false;
        write_over(&p, &p.models[i]);
    }
    for (unsigned round = 0; round < fixture_rounds(40); round++) {
        /* keeps the ranges of the first tensors in use, so that the last ones' fetches stay queued */
        assert_int_equal(fixture_launch(p.streams[0], nap, NULL), 0);
        for (int i = 0; i < TENSORS; i++) {
            struct model *m = &p.models[i];
            struct ofl_lease l = {.tensor = m->tensor, .mode = OFL_READ};

            ok(&p, ofl_acquire(p.ctx, &l, 1, p.streams[0]), "acquire");
            launch(&p, &l, m, p.streams[0]);
            ok(&p, ofl_release(p.ctx, &l, 1, p.streams[0]), "release");
        }
        for (int i = TENSORS; i-- > TENSORS - 4;) {
            p.models[i].defined = false; /* so that all of it is written, with a new seed */
            write_over(&p, &p.models[i]);
        }
    }
    close_program(&p, false);
}

/* A safetensors file with m's words as tensor "large". */
static void make_source(const char *path, const struct model *m)
{
    char header[200];
    FILE *f = fopen(path, "w");
    uint64_t length;

    assert_non_null(f);
    length = (uint64_t)snprintf(header, sizeof header,
                                "{\"large\":{\"dtype\":\"U64\",\"shape\":[%llu],\"data_offsets\":[0,%llu]}}",
                                (unsigned long long)m->words, (unsigned long long)m->words * 8);
    fwrite(&length, sizeof length, 1, f);
    fwrite(header, 1, length, f);
    for (uint64_t i = 0; i < m->words; i++) {
        uint64_t word = word_at(m->seed, m->mask, i);

        fwrite(&word, sizeof word, 1, f);
    }
    assert_int_equal(fclose(f), 0);
}

/* What the device's memory is filled with, to push the large tensor out. */
static void push_out(struct program *p, struct ofl_tensor *transient)
{
    struct ofl_lease l = {.tensor = transient, .mode = OFL_OVERWRITE};

    ok(p, ofl_acquire(p->ctx, &l, 1, p->streams[0]), "acquire the other");
    ok(p, ofl_release(p->ctx, &l, 1, p->streams[0]), "release the other");
}

/*
 * One tensor, twice as large as the host arena, and nothing else that could give way: of the store,
 * then of a source. A fill that can't evict its own tiles never ends: the first time those that
 * have landed, later, when the arena is full of its last tiles, those that it does not need yet.
 */
static void larger_than_the_host_alone(void **state)
{
    static struct program p;
    char path[300];

    snprintf(path, sizeof path, "%s/large.safetensors", (char *)*state);
    for (int from_source = 0; from_source < 2; from_source++) {
        struct ofl_config config = {.size = sizeof config,
                                    .device = fixture_device(),
                                    .device_bytes = 5 * MIB,
                                    .host_bytes = 2 * MIB,
                                    .nvme = fixture_nvme(*state, 32 * MIB),
                                    .nvme_count = 1};
        struct ofl_tensor_desc d = {
            .size = sizeof d, .name = "large", .dtype = OFL_U64, .elems = 4 * MIB / 8};
        struct ofl_tensor_desc other = {.size = sizeof other,
                                        .name = "other",
                                        .dtype = OFL_U8,
                                        .elems = 5 * MIB,
                                        .flags = OFL_TENSOR_TRANSIENT};
        struct ofl_lease l = {.mode = OFL_READ};
        struct model *m = &p.models[0];
        struct ofl_tensor *transient;
        struct ofl_source *source;

        memset(&p, 0, sizeof p);
        m->words = d.elems;
        ok(&p, ofl_open(&config, &p.ctx), "open");
        ok(&p, ofl_stream_create(p.ctx, &p.streams[0]), "create stream");
        ok(&p, ofl_tensor_create(p.ctx, &other, &transient), "create the other");
        if (from_source) {
            m->seed = 77, m->defined = true;
            make_source(path, m);
            ok(&p, ofl_source_open(p.ctx, path, &source), "open source");
            ok(&p, ofl_source_bind(source, "large", OFL_KIND_WEIGHT, &m->tensor), "bind");
        } else {
            ok(&p, ofl_tensor_create(p.ctx, &d, &m->tensor), "create");
            write_over(&p, m);
        }
        l.tensor = m->tensor;
        for (unsigned round = 0; round < 6; round++) {
            ok(&p, ofl_step_begin(p.ctx, "round"), "begin");
            ok(&p, ofl_acquire(p.ctx, &l, 1, p.streams[0]), "acquire");
            launch(&p, &l, m, p.streams[0]);
            ok(&p, ofl_release(p.ctx, &l, 1, p.streams[0]), "release");
            push_out(&p, transient);
            ok(&p, ofl_step_end(p.ctx), "end");
        }
        ok(&p, ofl_stream_sync(p.streams[0]), "sync");
        assert_int_equal(atomic_load(&p.wrong_words), 0);
        ok(&p, fixture_ctx_close(p.ctx), "close");
    }
    unlink(path);
}

/* ---- refusals ---------------------------------------------------------- */

static struct ofl_tensor *tensor_of(struct ofl_ctx *ctx, const char *name, uint64_t bytes)
{
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U8, .elems = bytes};
    struct ofl_tensor *t;

    assert_int_equal(ofl_tensor_create(ctx, &d, &t), 0);
    return t;
}

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(ofl_error(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, ofl_error(), code, part);
}

static void budgets_refuse_at_once(void **state)
{
    struct ofl_config config = config_of(0, *state);
    struct ofl_tensor_desc huge = {.size = sizeof huge, .name = "huge", .dtype = OFL_U8, .elems = 2000000};
    struct ofl_lease leases[2] = {{.mode = OFL_READ}, {.mode = OFL_READ}};
    struct ofl_stream *s;
    struct ofl_tensor *t;
    struct ofl_ctx *ctx;

    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    assert_int_equal(ofl_tensor_create(ctx, &huge, &leases[0].tensor), 0); /* it may be leased in parts */
    expect_error(ofl_acquire(ctx, leases, 1, s), -OFL_EBUDGET, "the smallest that holds this is 2000128");
    leases[0].tensor = tensor_of(ctx, "left", 700000);
    leases[1].tensor = tensor_of(ctx, "right", 700001);
    expect_error(ofl_acquire(ctx, leases, 2, s), -OFL_EBUDGET, "the largest right with 700001 bytes");
    assert_non_null(strstr(ofl_error(), "the smallest that holds this is 1400320"));
    assert_int_equal(ofl_acquire(ctx, leases, 1, s), 0);
    expect_error(ofl_acquire(ctx, leases + 1, 1, s), -OFL_EBUDGET, "beside 700160 bytes leased");
    assert_int_equal(ofl_release(ctx, leases, 1, s), 0);
    assert_int_equal(ofl_acquire(ctx, leases + 1, 1, s), 0);
    assert_int_equal(ofl_release(ctx, leases + 1, 1, s), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);

    config.nvme = fixture_nvme(*state, MIB);
    assert_int_equal(ofl_open(&config, &ctx), 0);
    tensor_of(ctx, "first", 900000);
    huge.elems = 900000;
    expect_error(ofl_tensor_create(ctx, &huge, &t), -OFL_EBUDGET, "raise the NVMe budget by at least");
    assert_int_equal(fixture_ctx_close(ctx), 0);
    config.host_bytes = 1000000;
    expect_error(ofl_open(&config, &ctx), -OFL_EBUDGET, "the smallest workable is 2097152");
    config.host_bytes = 0;
    expect_error(ofl_open(&config, &ctx), -OFL_EBUDGET, "needs host memory");
    config = config_of(0, "build/no/such/place");
    expect_error(ofl_open(&config, &ctx), -ENOENT, "build/no/such/place");
}

static void leases_exclude(void **state)
{
    struct ofl_config config = config_of(0, *state);
    struct ofl_lease a = {.mode = OFL_READ}, b = {.mode = OFL_UPDATE}, twice[2];
    struct ofl_stream *s;
    struct ofl_ctx *ctx;
    char byte;

    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    a.tensor = b.tensor = tensor_of(ctx, "shared", 1000);
    assert_int_equal(ofl_acquire(ctx, &a, 1, s), 0);
    expect_error(ofl_acquire(ctx, &b, 1, s), -OFL_ESTATE,
                 "acquire shared to update: it is leased already to read");
    expect_error(ofl_tensor_destroy(a.tensor), -OFL_ESTATE, "it is leased");
    expect_error(ofl_tensor_read(a.tensor, 0, &byte, 1), -OFL_ESTATE, "it is leased");
    assert_int_equal(ofl_release(ctx, &a, 1, s), 0);
    expect_error(ofl_release(ctx, &a, 1, s), -OFL_ESTATE, "not leased by this lease");
    twice[0] = twice[1] = b;
    expect_error(ofl_acquire(ctx, twice, 2, s), -OFL_ESTATE, "twice in one batch");
    twice[0] = twice[1] = a;
    assert_int_equal(ofl_acquire(ctx, twice, 2, s), 0);
    assert_ptr_equal(twice[0].ptr, twice[1].ptr);
    assert_int_equal(ofl_release(ctx, twice, 2, s), 0);
    assert_int_equal(ofl_acquire(ctx, &a, 1, s), 0);
    twice[0] = twice[1] = a; /* one lease, and a copy of it */
    expect_error(ofl_release(ctx, twice, 2, s), -OFL_ESTATE, "release shared: more often than it is leased");
    assert_int_equal(ofl_release(ctx, &a, 1, s), 0);
    expect_error(ofl_tensor_read(a.tensor, 999, &byte, 2), -EINVAL, "it has 1000 bytes");
    expect_error(ofl_step_end(ctx), -OFL_ESTATE, "no step is open");
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

/* A plan makes a cyclic scan hit: with room for half of the tensors about half of the
 * acquires find their bytes, where the least recently used order would find none. */
static void plan_beats_recency(void **state)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 10 * 65536,
                                .host_bytes = 2 * MIB,
                                .nvme = fixture_nvme(*state, 16 * MIB),
                                .nvme_count = 1};
    struct ofl_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    struct ofl_tensor *t[20];
    struct ofl_stream *s;
    struct ofl_ctx *ctx;
    char name[16];

    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "t%d", i);
        t[i] = tensor_of(ctx, name, 65536);
    }
    for (int step = 0; step < 12; step++) {
        if (step == 2)
            assert_int_equal(ofl_stats_get(ctx, &before), 0);
        assert_int_equal(ofl_step_begin(ctx, "scan"), 0);
        for (int i = 0; i < 20; i++) {
            struct ofl_lease l = {.tensor = t[i], .mode = OFL_READ};

            assert_int_equal(ofl_acquire(ctx, &l, 1, s), 0);
            assert_int_equal(ofl_release(ctx, &l, 1, s), 0);
        }
        assert_int_equal(ofl_stream_sync(s), 0);
        assert_int_equal(ofl_step_end(ctx), 0);
    }
    assert_int_equal(ofl_stats_get(ctx, &after), 0);
    assert_true(after.off_plan == 0);
    /* Prefetch turns the rest into hits as well: fills started ahead count as such. */
    assert_true(after.hits - before.hits >= 100);
    assert_true(after.device_in_bytes == 0); /* zeros are made on the device */
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs),
        cmocka_unit_test(missing_wait_is_seen),
        cmocka_unit_test(writes_wait_for_older_reads),
        cmocka_unit_test(larger_than_the_host_alone),
        cmocka_unit_test(budgets_refuse_at_once),
        cmocka_unit_test(leases_exclude),
        cmocka_unit_test(plan_beats_recency),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
