/*
 * core: homes. Where the store can't hold all tensors, host memory and the device take the rest:
 *  - random programs of leases, reads, writes, creations and destructions over tensors of all three
 *    homes at once see the bytes of a plain model, inside the budgets, behind short and retried
 *    transfers, with the least memory that is kept for moves;
 *  - what is announced fits, to within a tile, whatever its sizes, and is spread evenly;
 *  - what does not fit is refused with the numbers of all tiers; the way out that is named works,
 *    and one block less does not.
 *
 * Negative controls: one block less is refused, and entries of tools/mutants.sh: no memory kept for
 * moves, shares of the wrong tier, caches left where a home is to be, homes evicted.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "include/offload.h"
#include "liboffload/core/context.h"
#include "liboffload/core/home.h"
#include "tests/core_words.h"

typedef unsigned long long ull;

#define KIB     (1ull << 10)
#define MIB     (1ull << 20)
#define TILE    (64 * KIB)
#define BLOCK   4096ull
#define STAGE   (2 * MIB) /* 32 of the smallest tiles */
#define TENSORS 48
#define BATCH   3
#define STREAMS 2

struct model {
    struct ofl_tensor *tensor;
    uint64_t words, seed, mask;
    bool defined, leased;
};

struct program {
    struct ofl_ctx *ctx;
    struct ofl_stream *streams[STREAMS];
    struct model models[TENSORS];
    struct random random;
    uint64_t seed;
    unsigned made;
    uint64_t drive_bytes; /* read, by all programs of a case */
    atomic_uint wrong_words;
};

static void ok(struct program *p, int err, const char *what)
{
    if (err < 0)
        fail_msg("seed %llu: %s: %d: %s", (ull)p->seed, what, err, ofl_error());
}

static void launch(struct program *p, const struct ofl_lease *l, struct model *m, struct ofl_stream *s)
{
    words_launch(s, l, m->words, &m->seed, &m->mask, &m->defined, &p->random, &p->wrong_words);
}

/* ---- program steps ----------------------------------------------------- */

/* The largest take several tiles, the smallest a part of one. */
static uint64_t words_of(unsigned i)
{
    struct random r = {i + 1};

    return 1 + random_below(&r, i % 3 ? 3000 : 200000);
}

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

static uint64_t expected_bytes(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < TENSORS; i++)
        sum += rounded(words_of(i) * 8);
    return sum;
}

static void make_tensor(struct program *p, unsigned i)
{
    char name[32];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .dtype = OFL_U64, .elems = words_of(i)};

    snprintf(name, sizeof name, "t%u", i);
    d.kind = i % 4 == 3 ? OFL_KIND_ACTIVATION : i % 4 == 2 && i % 3 ? OFL_KIND_OPTIMIZER : OFL_KIND_WEIGHT;
    p->models[i] = (struct model){.words = d.elems, .defined = true};
    ok(p, ofl_tensor_create(p->ctx, &d, &p->models[i].tensor), "create");
}

static size_t random_batch(struct program *p, struct ofl_lease *leases, struct model **models)
{
    size_t n = 1 + random_below(&p->random, BATCH), count = 0;

    for (size_t i = 0; i < n; i++) {
        struct model *m = &p->models[random_below(&p->random, p->made)];
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

static void run_batch(struct program *p)
{
    struct ofl_lease leases[BATCH];
    struct model *models[BATCH];
    struct ofl_stream *s = p->streams[random_below(&p->random, STREAMS)];
    size_t n = random_batch(p, leases, models);

    ok(p, ofl_acquire(p->ctx, leases, n, s), "acquire");
    for (size_t i = 0; i < n; i++)
        launch(p, &leases[i], models[i], s);
    ok(p, ofl_release(p->ctx, leases, n, s), "release");
    for (size_t i = 0; i < n; i++) {
        models[i]->leased = false;
        if (leases[i].flags & OFL_LEASE_DROP)
            models[i]->defined = false;
    }
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

/* All of it with new words, or some of what it has again. */
static void write_over(struct program *p, struct model *m)
{
    uint64_t *buf = malloc(m->words * sizeof *buf), first = 0, n = m->words;

    assert_non_null(buf);
    if (m->defined && random_below(&p->random, 2)) {
        first = random_below(&p->random, m->words);
        n = 1 + random_below(&p->random, m->words - first);
    } else {
        m->seed = random_next(&p->random) | 1;
        m->mask = 0;
        m->defined = true;
    }
    for (uint64_t i = 0; i < n; i++)
        buf[i] = word_at(m->seed, m->mask, first + i);
    ok(p, ofl_tensor_write(m->tensor, first * 8, buf, n * 8), "write");
    free(buf);
}

static void run_step(struct program *p)
{
    unsigned i = (unsigned)random_below(&p->random, p->made);
    uint64_t kind = random_below(&p->random, 100);

    if (kind < 86) {
        run_batch(p);
    } else if (kind < 91) {
        read_back(p, &p->models[i]);
    } else if (kind < 96) {
        write_over(p, &p->models[i]);
    } else if (kind < 98) {
        ok(p, ofl_tensor_destroy(p->models[i].tensor), "destroy");
        make_tensor(p, i);
    } else {
        ok(p, ofl_stream_sync(p->streams[kind % STREAMS]), "sync");
    }
}

/* ---- the cases --------------------------------------------------------- */

/* Budgets: the fraction of what is announced that each tier can have, in percent. What lives in
 * host memory and on the device adds to what moves and leases take. */
static const struct {
    const char *name;
    unsigned nvme, host, device;
    uint64_t test_seed;
    uint32_t flags;
    bool unknown; /* not announced */
    bool steps;   /* the same sequence again and again */
    bool late;    /* half of the tensors are made when the others have been used */
} cases[] = {
    {"nvme and host", 50, 52, 0, 0, OFL_POISON, false, false, false},
    {"nvme and host, short transfers", 30, 72, 0, 7, OFL_POISON, false, false, false},
    {"nvme and host, steps", 50, 52, 0, 0, 0, false, true, false},
    {"nvme and host, filled in turn, late", 50, 60, 0, 0, OFL_POISON, true, false, true},
    {"a little nvme, late", 10, 92, 0, 3, 0, false, true, true},
    {"all three", 40, 35, 35, 0, OFL_POISON, false, false, false},
    {"all three, short transfers, steps", 30, 40, 40, 5, 0, false, true, false},
    {"all three, late", 40, 35, 35, 0, OFL_POISON, false, false, true},
    {"all three, filled in turn, late", 40, 45, 35, 0, 0, true, false, true},
    {"all three, threads", 40, 35, 35, 9, OFL_USE_THREADS, false, false, false},
    {"host and device", 0, 70, 45, 0, OFL_POISON, false, false, false},
    {"host and device, steps", 0, 70, 45, 0, 0, false, true, true},
};
#define CASES (sizeof cases / sizeof cases[0])

static uint64_t percent(uint64_t bytes, unsigned part)
{
    return rounded(bytes * part / 100);
}

static struct ofl_config config_of(size_t i, const char *dir)
{
    uint64_t all = expected_bytes(), leased = 3 * 200000 * 8 + 4096;

    return (struct ofl_config){.size = sizeof(struct ofl_config),
                               .device = fixture_device(),
                               .device_bytes = leased + percent(all, cases[i].device),
                               .host_bytes = (cases[i].nvme ? STAGE : 4 * (TILE + 2 * BLOCK)) +
                                             percent(all, cases[i].host),
                               .nvme = fixture_nvme(dir, percent(all, cases[i].nvme)),
                               .nvme_count = cases[i].nvme > 0,
                               .tile_bytes = TILE,
                               .flags = cases[i].flags,
                               .test_seed = cases[i].test_seed,
                               .expected_bytes = cases[i].unknown ? 0 : all,
                               .leased_bytes = leased,
                               .log = fixture_log};
}

/* A case that leaves a tier empty would prove nothing of it. */
static void check_homes(struct program *p, size_t i)
{
    const struct core_homes *h = &p->ctx->engine.pager.homes;
    bool wanted[OFL_TIERS] = {cases[i].device > 0, true, cases[i].nvme > 0};
    struct ofl_stats s = {.size = sizeof s};

    ok(p, ofl_stats_get(p->ctx, &s), "stats");
    p->drive_bytes += s.nvme_read_bytes;
    for (int k = 0; k < OFL_TIERS; k++) {
        if ((h->bytes[k] > 0) != wanted[k])
            fail_msg("%s: %llu bytes live in tier %d", cases[i].name, (ull)h->bytes[k], k);
        if (s.peak_bytes[k] > s.budget_bytes[k] || s.used_bytes[k] < h->bytes[k])
            fail_msg("%s, seed %llu: tier %d: %llu bytes live there, %llu are used, %llu were, of %llu",
                     cases[i].name, (ull)p->seed, k, (ull)h->bytes[k], (ull)s.used_bytes[k],
                     (ull)s.peak_bytes[k], (ull)s.budget_bytes[k]);
    }
}

static void make_some(struct program *p, unsigned until)
{
    while (p->made < until)
        make_tensor(p, p->made++);
}

static void run_program(struct program *p, size_t c, uint64_t seed, const char *dir)
{
    struct ofl_config config = config_of(c, dir);
    unsigned rounds = fixture_rounds(400);
    uint64_t drive_bytes = p->drive_bytes;
    struct random again;

    *p = (struct program){.drive_bytes = drive_bytes};
    p->seed = p->random.state = seed;
    ok(p, ofl_open(&config, &p->ctx), "open");
    for (int i = 0; i < STREAMS; i++)
        ok(p, ofl_stream_create(p->ctx, &p->streams[i]), "create stream");
    make_some(p, cases[c].late ? TENSORS / 2 : TENSORS);
    again = p->random;
    for (unsigned k = 0; k < rounds; k++) {
        if (cases[c].steps && k % 80 == 0) {
            if (k)
                ok(p, ofl_step_end(p->ctx), "step end");
            if (k % 320) /* now and then the step departs from its plan */
                p->random = again;
            ok(p, ofl_step_begin(p->ctx, "step"), "step begin");
        }
        if (k >= rounds / 4 && p->made < TENSORS)
            make_some(p, p->made + 1); /* while the others are on the move */
        run_step(p);
    }
    if (cases[c].steps)
        ok(p, ofl_step_end(p->ctx), "step end");
    for (int i = 0; i < STREAMS; i++)
        ok(p, ofl_stream_sync(p->streams[i]), "sync");
    for (unsigned i = 0; i < TENSORS; i++)
        read_back(p, &p->models[i]);
    check_homes(p, c);
    ok(p, fixture_ctx_close(p->ctx), "close");
    if (atomic_load(&p->wrong_words))
        fail_msg("%s, seed %llu: %u wrong words", cases[c].name, (ull)seed, atomic_load(&p->wrong_words));
}

static void random_programs(void **state)
{
    static struct program p;

    for (size_t i = 0; i < CASES; i++) {
        p.drive_bytes = 0;
        for (uint64_t seed = 1; seed <= 4; seed++) {
            print_message("  %s, seed %llu\n", cases[i].name, (ull)seed);
            run_program(&p, i, seed, *state);
        }
        /* What lives on the drive is more than the memory kept for moves can cache. */
        if (cases[i].nvme >= 30 && p.drive_bytes < fixture_rounds(MIB / 2))
            fail_msg("%s: %llu bytes read from the drive prove nothing", cases[i].name, (ull)p.drive_bytes);
    }
}

static void touch(void *arg)
{
    memset(fixture_view(arg), 1, 8);
}

/* Failing transfers: an error is seen, and nothing hangs. */
static void errors_end_the_program(void **state)
{
    static struct program p;
    unsigned failed = 0, rounds = fixture_rounds(12);

    for (uint64_t seed = 1; seed <= rounds; seed++) {
        struct ofl_config config = config_of(5, *state);
        int err = 0;

        memset(&p, 0, sizeof p);
        p.seed = p.random.state = seed;
        config.test_seed = seed;
        config.test_errors = 20;
        ok(&p, ofl_open(&config, &p.ctx), "open");
        ok(&p, ofl_stream_create(p.ctx, &p.streams[0]), "create stream");
        make_some(&p, TENSORS);
        for (unsigned k = 0; k < 600 && err == 0; k++) {
            struct model *m = &p.models[random_below(&p.random, TENSORS)];
            struct ofl_lease l = {.tensor = m->tensor, .mode = k % 2 ? OFL_OVERWRITE : OFL_UPDATE};

            err = ofl_acquire(p.ctx, &l, 1, p.streams[0]);
            if (err == 0) {
                assert_int_equal(
                    fixture_kernel(p.streams[0], touch, l.ptr,
                                   (struct fixture_range){.at = l.ptr, .bytes = 8, .writes = true}),
                    0);
                err = ofl_release(p.ctx, &l, 1, p.streams[0]);
            }
            if (err == 0 && k % 20 == 19)
                err = ofl_stream_sync(p.streams[0]);
        }
        failed += (fixture_ctx_close(p.ctx) < 0) | (err < 0);
    }
    assert_true(failed > rounds / 2);
}

/* ---- tiles ------------------------------------------------------------- */

/* The largest that leave a wide stage beside the homes in HOST, which are what store and device can't hold. */
static void tiles_fit_the_budgets(void **state)
{
    static const struct {
        uint64_t device, leased, host, store, expected, tile; /* MiB; the tile: KiB */
    } sizes[] = {
        {64, 0, 64, 0, 0, 512},           /* nothing is announced: 128 of them */
        {64, 0, 2, 0, 0, 64},             /* the least */
        {64, 0, 8192, 0, 0, 8192},        /* no larger ones */
        {64, 64, 512, 1024, 1024, 4096},  /* all in the store */
        {64, 64, 512, 1024, 1460, 512},   /* 436 MiB in HOST: 128 tiles in the other 76 */
        {300, 140, 1100, 900, 2098, 256}, /* the device holds 160 of them: the stage has 62 */
        {300, 300, 1100, 900, 1999, 64},  /* and here none */
        {300, 140, 1100, 900, 2150, 64},  /* 10 MiB are left */
        {32, 12, 69, 0, 80, 256}, /* no store: 32 tiles beside the 60 MiB that the device has no room for */
    };

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct ofl_config c = {.size = sizeof c,
                               .device_bytes = sizes[i].device * MIB,
                               .leased_bytes = sizes[i].leased * MIB,
                               .host_bytes = sizes[i].host * MIB,
                               .expected_bytes = sizes[i].expected * MIB};
        uint64_t tile = home_tile_bytes(&c, sizes[i].store * MIB);

        if (tile != sizes[i].tile << 10)
            fail_msg("case %zu: tiles of %llu KiB, not %llu", i, (ull)tile >> 10, (ull)sizes[i].tile);
    }
}

/* ---- on paper ------------------------------------------------------------ */

static void tensor_like(struct ofl_ctx *ctx, const struct ofl_tensor_desc *d, int *err)
{
    struct ofl_tensor *t;

    *err = ofl_tensor_create(ctx, d, &t);
}

#define PAPER 80 /* tensors, more than most budgets hold */

/* Budgets of all kinds, many of them tight. */
static struct ofl_config paper_config(struct random *r, const char *dir)
{
    struct ofl_config c = {.size = sizeof c, .device = fixture_device(), .workers = 1};

    c.device_bytes = 2 * MIB + random_below(r, 40) * MIB / 4;
    c.host_bytes = 2 * MIB + random_below(r, 40) * MIB / 4;
    c.leased_bytes = random_below(r, 2) ? 0 : random_below(r, (unsigned)(c.device_bytes / BLOCK)) * BLOCK;
    if (random_below(r, 3)) {
        c.nvme = fixture_nvme(dir, BLOCK * (1 + random_below(r, 2000)));
        c.nvme_count = 1;
    }
    if (random_below(r, 3))
        c.expected_bytes = (8 + random_below(r, 16)) * MIB;
    return c;
}

/* What ofl_homes_check says of the first n tensors is what happens when they are made. */
static void paper_agrees_with_creation(void **state)
{
    struct ofl_tensor_desc descs[PAPER];
    unsigned refused = 0;

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct random r = {seed};
        struct ofl_config c = paper_config(&r, *state);
        struct ofl_ctx *ctx;
        size_t made = 0;

        assert_int_equal(ofl_open(&c, &ctx), 0);
        for (int err = 0; made < PAPER; made++) {
            descs[made] =
                (struct ofl_tensor_desc){.size = sizeof *descs,
                                         .name = "tensor",
                                         .kind = random_below(&r, 4) ? OFL_KIND_WEIGHT : OFL_KIND_GRADIENT,
                                         .dtype = random_below(&r, 2) ? OFL_F32 : OFL_BF16,
                                         .elems = 1 + random_below(&r, 200000)};
            if (random_below(&r, 9) == 0)
                descs[made].flags = OFL_TENSOR_TRANSIENT;
            tensor_like(ctx, &descs[made], &err);
            if (err < 0)
                break;
        }
        if (made && ofl_homes_check(&c, descs, made) != 0)
            fail_msg("seed %llu: %zu tensors were made, and on paper: %s", (ull)seed, made, ofl_error());
        if (made < PAPER && ofl_homes_check(&c, descs, made + 1) != -OFL_EBUDGET)
            fail_msg("seed %llu: tensor %zu was refused, and not on paper", (ull)seed, made);
        refused += made < PAPER;
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
    assert_true(refused > 40); /* else it proves little */
}

/* ---- spread ------------------------------------------------------------ */

static struct ofl_tensor *tensor_of(struct ofl_ctx *ctx, enum ofl_kind kind, uint64_t bytes, int *err)
{
    struct ofl_tensor_desc d = {
        .size = sizeof d, .name = "tensor", .kind = kind, .dtype = OFL_F32, .elems = bytes / 4};
    struct ofl_tensor *t;

    *err = ofl_tensor_create(ctx, &d, &t);
    return t;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* At any time every tier has its share of what was made, to within what can't be cut: a tile (half of
 * one, until the store is full) between host and store, half a tensor on the device. */
static void tensors_are_spread_evenly(void **state)
{
    static const struct {
        uint64_t nvme, host, device; /* beside what moves and leases take */
    } rooms[] = {{20 * MIB, 13 * MIB, 0}, {3 * MIB, 30 * MIB, 0}, {12 * MIB, 8 * MIB, 16 * MIB}};

    for (unsigned k = 0; k < 3; k++) {
        uint64_t sizes[64], sum = 0, most = 0, last[OFL_TIERS] = {0}, made = 0, leased = 3 * MIB;
        struct ofl_config config = {.size = sizeof config,
                                    .device = fixture_device(),
                                    .device_bytes = leased + rooms[k].device,
                                    .host_bytes = STAGE + rooms[k].host,
                                    .nvme = fixture_nvme(*state, rooms[k].nvme),
                                    .nvme_count = 1,
                                    .leased_bytes = leased};
        struct random r = {k + 77};
        struct ofl_ctx *ctx;

        for (int i = 0; i < 64; i++) {
            sizes[i] = BLOCK * (1 + random_below(&r, 200)); /* up to 800 KiB; 25 MiB in all, or so */
            sum += sizes[i];
            most = sizes[i] > most ? sizes[i] : most;
        }
        if (sum < rooms[k].nvme + rooms[k].host && rooms[k].device)
            fail_msg("seed %u: %llu bytes need no device", k + 77, (ull)sum);
        config.expected_bytes = sum;
        assert_int_equal(ofl_open(&config, &ctx), 0);
        assert_int_equal(ctx->engine.pager.tile_bytes, TILE);
        for (int i = 0; i < 64; i++) {
            const struct core_homes *h = &ctx->engine.pager.homes;
            int err;

            tensor_of(ctx, OFL_KIND_WEIGHT, sizes[i], &err);
            if (err < 0)
                fail_msg("rooms %u, tensor %d: %s", k, i, ofl_error());
            made += sizes[i];
            assert_int_equal(h->bytes[OFL_DEVICE] + h->bytes[OFL_HOST] + h->bytes[OFL_NVME], made);
            for (int tier = 0; tier < OFL_TIERS; tier++) {
                uint64_t share = (uint64_t)((double)h->share[tier] * (double)made / (double)sum);
                uint64_t off = rooms[k].device ? most / 2 + TILE : TILE;

                if (distance(h->bytes[tier], share) > off)
                    fail_msg("rooms %u, tensor %d: %llu bytes live in tier %d, the share is %llu", k, i,
                             (ull)h->bytes[tier], tier, (ull)share);
                last[tier] = h->bytes[tier];
            }
        }
        for (int tier = 0; tier < OFL_TIERS; tier++)
            if (tier != OFL_DEVICE || rooms[k].device)
                assert_true(last[tier] > MIB);
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
}

/* ---- budgets ----------------------------------------------------------- */

/* Creates tensors of so many bytes each. The first that is refused ends it: -OFL_EBUDGET. */
static int create_all(const struct ofl_config *config, const uint64_t *sizes, unsigned count)
{
    struct ofl_ctx *ctx;
    int err = ofl_open(config, &ctx), closed;
    char why[BASE_ERROR_TEXT];

    for (unsigned i = 0; i < count && err == 0; i++)
        tensor_of(ctx, OFL_KIND_GRADIENT, sizes[i], &err);
    snprintf(why, sizeof why, "%s", ofl_error());
    closed = fixture_ctx_close(ctx);
    assert_int_equal(closed, 0);
    return err < 0 ? base_fail(err, "%s", why) : 0;
}

/* Tensors of any sizes fit if store and host memory have room for all and a tile: whatever the sizes,
 * in the order that they come. With less than all they do not. */
static void what_is_announced_fits(void **state)
{
    for (uint64_t seed = 1; seed <= fixture_rounds(60); seed++) {
        uint64_t sizes[24], sum = 0, stage, nvme;
        struct random r = {seed};
        struct ofl_config config = {.size = sizeof config,
                                    .device = fixture_device(),
                                    .device_bytes = 4 * MIB,
                                    .nvme_count = 1,
                                    .leased_bytes = 4 * MIB};
        int err;

        for (int i = 0; i < 24; i++) {
            sizes[i] = 4 * (1 + random_below(&r, i % 3 ? 20000 : 200000));
            sum += rounded(sizes[i]);
        }
        nvme = BLOCK * (1 + random_below(&r, sum / BLOCK - 1));
        stage = STAGE;
        config.expected_bytes = sum;
        config.nvme = fixture_nvme(*state, nvme);
        config.host_bytes = stage + sum - nvme + TILE - BLOCK;
        err = create_all(&config, sizes, 24);
        if (err < 0)
            fail_msg("seed %llu: %s", (ull)seed, ofl_error());
        config.host_bytes = stage + sum - nvme - BLOCK;
        if (config.host_bytes < OFL_HOST_MIN_BYTES)
            continue;
        err = create_all(&config, sizes, 24);
        if (err != -OFL_EBUDGET)
            fail_msg("seed %llu: %llu bytes are in %llu: %d", (ull)seed, (ull)sum,
                     (ull)(nvme + sum - nvme - BLOCK), err);
    }
}

/* In host memory alone, to the block. */
static void host_memory_holds_to_the_block(void **state)
{
    uint64_t sizes[] = {5 * MIB, 3 * MIB + BLOCK, 700 * KIB, BLOCK, 4 * MIB}, sum = 0;
    struct ofl_config config = {.size = sizeof config, .device = fixture_device(), .leased_bytes = 6 * MIB};

    (void)state;
    for (int i = 0; i < 5; i++)
        sum += sizes[i];
    config.expected_bytes = sum;
    config.device_bytes = 6 * MIB;
    config.host_bytes = sum + 4 * (TILE + 2 * BLOCK);
    assert_int_equal(create_all(&config, sizes, 5), 0);
    config.device_bytes = config.leased_bytes = sum + 4 * MIB; /* the larger one, but kept for leases */
    assert_int_equal(create_all(&config, sizes, 5), 0);
    config.host_bytes -= BLOCK;
    assert_int_equal(create_all(&config, sizes, 5), -OFL_EBUDGET);
    assert_non_null(strstr(ofl_error(), "raise the host budget"));
    config.leased_bytes = 0; /* everything on the device, which is larger and holds it */
    assert_int_equal(create_all(&config, sizes, 5), 0);
}

static uint64_t number_after(const char *words)
{
    const char *at = strstr(ofl_error(), words);

    if (!at)
        fail_msg("no '%s' in \"%s\"", words, ofl_error());
    return strtoull(at + strlen(words), NULL, 10);
}

static void refusals_name_the_way_out(void **state)
{
    const uint64_t sizes[] = {6 * TILE, 5 * TILE, 9 * TILE + BLOCK};

    for (int announced = 0; announced < 2; announced++) {
        uint64_t nvme = 7 * TILE, more;
        struct ofl_config config = {.size = sizeof config,
                                    .device = fixture_device(),
                                    .device_bytes = 2 * MIB,
                                    .host_bytes = STAGE + 5 * TILE,
                                    .nvme = fixture_nvme(*state, nvme),
                                    .nvme_count = 1,
                                    .tile_bytes = TILE,
                                    .leased_bytes = 2 * MIB,
                                    .expected_bytes = announced ? 20 * TILE + BLOCK : 0};

        assert_int_equal(create_all(&config, sizes, 3), -OFL_EBUDGET);
        assert_non_null(strstr(ofl_error(), "create tensor, 593920 bytes: the tiers have no room for it"));
        assert_non_null(strstr(ofl_error(), "of 458752 bytes in the store"));
        assert_non_null(strstr(ofl_error(), "of 2424832 in host memory (2097152 are kept for moves)"));
        more = number_after("raise the NVMe budget by at least ");
        assert_int_equal(more, 8 * TILE + BLOCK);
        config.nvme = fixture_nvme(*state, nvme + more - BLOCK);
        assert_int_equal(create_all(&config, sizes, 3), -OFL_EBUDGET);
        config.nvme = fixture_nvme(*state, nvme + more);
        assert_int_equal(create_all(&config, sizes, 3), 0);
        if (announced)
            continue; /* spread, what is announced may need a tile more */
        config.nvme = fixture_nvme(*state, nvme);
        config.host_bytes += more - BLOCK;
        assert_int_equal(create_all(&config, sizes, 3), -OFL_EBUDGET);
        config.host_bytes += BLOCK;
        assert_int_equal(create_all(&config, sizes, 3), 0);
    }
}

/* What lives on the device leaves the leases what was promised to them, and the largest tensor. */
static void leases_keep_their_room(void **state)
{
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 3 * MIB,
                                .host_bytes = STAGE,
                                .nvme = fixture_nvme(*state, MIB),
                                .nvme_count = 1,
                                .tile_bytes = TILE,
                                .leased_bytes = MIB};
    struct ofl_lease l = {.mode = OFL_UPDATE};
    struct ofl_tensor *first, *homes[2];
    struct ofl_stream *s;
    struct ofl_ctx *ctx;
    int err;

    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &s), 0);
    first = tensor_of(ctx, OFL_KIND_WEIGHT, MIB, &err); /* the store is full */
    assert_int_equal(err, 0);
    for (int i = 0; i < 2; i++) {
        homes[i] = tensor_of(ctx, OFL_KIND_WEIGHT, MIB, &err);
        assert_int_equal(err, 0);
        assert_true(core_tensor_on_device(homes[i]));
    }
    tensor_of(ctx, OFL_KIND_WEIGHT, 256, &err);
    assert_int_equal(err, -OFL_EBUDGET);
    assert_non_null(strstr(ofl_error(), "0 of 3145728 on the device (1048576 are kept for leases)"));
    l.tensor = first;
    assert_int_equal(ofl_acquire(ctx, &l, 1, s), 0);
    assert_int_equal(ofl_release(ctx, &l, 1, s), 0);
    assert_int_equal(ofl_tensor_destroy(homes[0]), 0);
    tensor_of(ctx, OFL_KIND_GRADIENT, MIB, &err); /* not there: updates could not reach it */
    assert_int_equal(err, -OFL_EBUDGET);
    homes[0] = tensor_of(ctx, OFL_KIND_WEIGHT, MIB, &err);
    assert_int_equal(err, 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
    config.leased_bytes = config.device_bytes + 1;
    assert_int_equal(ofl_open(&config, &ctx), -EINVAL);
    assert_non_null(strstr(ofl_error(), "leased_bytes 3145729 exceed the device budget of 3145728 bytes"));
}

static void fill_tensor(struct ofl_tensor *t, uint64_t bytes, uint64_t seed)
{
    uint64_t *words = malloc(bytes);

    assert_non_null(words);
    for (uint64_t i = 0; i < bytes / 8; i++)
        words[i] = word_at(seed, 0, i);
    assert_int_equal(ofl_tensor_write(t, 0, words, bytes), 0);
    free(words);
}

static void check_tensor(struct ofl_tensor *t, uint64_t bytes, uint64_t seed)
{
    uint64_t *words = malloc(bytes);

    assert_non_null(words);
    assert_int_equal(ofl_tensor_read(t, 0, words, bytes), 0);
    for (uint64_t i = 0; i < bytes / 8; i++)
        if (words[i] != word_at(seed, 0, i))
            fail_msg("tensor %llu: word %llu is wrong", (ull)seed, (ull)i);
    free(words);
}

/* Homes are made where the arena is full of tiles that the drive has not seen yet, and given up again;
 * one fails when its room in the arena is taken, since the store's is in pieces. */
static void homes_come_after_caches(void **state)
{
    enum { COUNT = 8, EACH = 8 * TILE };
    struct ofl_config config = {.size = sizeof config,
                                .device = fixture_device(),
                                .device_bytes = 4 * MIB,
                                .host_bytes = 2 * STAGE,
                                .nvme = fixture_nvme(*state, COUNT * EACH),
                                .nvme_count = 1,
                                .tile_bytes = TILE,
                                .leased_bytes = 4 * MIB,
                                .test_seed = 11};
    struct ofl_tensor *t[COUNT], *homes[4], *cut;
    struct ofl_ctx *ctx;
    int err;

    for (int round = 0; round < 4; round++) {
        assert_int_equal(ofl_open(&config, &ctx), 0);
        for (int i = 0; i < COUNT; i++) {
            t[i] = tensor_of(ctx, OFL_KIND_OTHER, EACH, &err);
            assert_int_equal(err, 0);
        }
        for (int i = 0; i < COUNT; i++)
            fill_tensor(t[i], EACH, (uint64_t)i + 1);
        assert_int_equal(ofl_tensor_destroy(t[1]), 0);
        assert_int_equal(ofl_tensor_destroy(t[3]), 0);
        if (round % 2) { /* a cut that fails behind its first half: the caches are as they were */
            tensor_of(ctx, OFL_KIND_OTHER, 3 * EACH, &err);
            assert_int_equal(err, -OFL_EBUDGET);
        }
        t[1] = tensor_of(ctx, OFL_KIND_OTHER, EACH, &err);
        assert_int_equal(err, 0);
        fill_tensor(t[1], EACH, 2);
        cut = tensor_of(ctx, OFL_KIND_OTHER, EACH + 3 * TILE, &err);
        assert_int_equal(err, 0);
        assert_int_equal(cut->home_tiles, 3);
        for (int i = 0; i < 3; i++) {
            homes[i] = tensor_of(ctx, OFL_KIND_OTHER, EACH, &err);
            assert_int_equal(err, 0);
            assert_int_equal(homes[i]->home_tiles, homes[i]->tiles_count);
            fill_tensor(homes[i], EACH, 20 + (uint64_t)i);
        }
        fill_tensor(cut, EACH + 3 * TILE, 9);
        for (int i = 0; i < COUNT; i++)
            if (i != 3)
                check_tensor(t[i], EACH, (uint64_t)i + 1);
        for (int i = 0; i < 3; i++)
            check_tensor(homes[i], EACH, 20 + (uint64_t)i);
        check_tensor(cut, EACH + 3 * TILE, 9);
        for (int i = 0; i < 3; i++)
            assert_int_equal(ofl_tensor_destroy(homes[i]), 0);
        assert_int_equal(ctx->engine.pager.stage_bytes, 2 * STAGE - 3 * TILE); /* as large as before */
        assert_int_equal(fixture_ctx_close(ctx), 0);
    }
}

static void mixed_groups_are_not_bound(void **state)
{
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = 3 * MIB,
                                .host_bytes = STAGE + MIB,
                                .nvme = fixture_nvme(*state, MIB),
                                .nvme_count = 1,
                                .tile_bytes = TILE,
                                .leased_bytes = MIB};
    struct ofl_tensor *weight, *grad;
    struct ofl_optimizer *o;
    struct ofl_ctx *ctx;
    int err;

    if (fixture_on_cuda()) {
        print_message("the optimizer is for the host device\n");
        skip();
    }
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_optimizer_create(ctx, &o), 0);
    tensor_of(ctx, OFL_KIND_OTHER, 2 * MIB - TILE, &err); /* store and host memory are nearly full */
    assert_int_equal(err, 0);
    weight = tensor_of(ctx, OFL_KIND_WEIGHT, 2 * TILE, &err);
    assert_int_equal(err, 0);
    assert_true(core_tensor_on_device(weight));
    weight = tensor_of(ctx, OFL_KIND_WEIGHT, 65540, &err);
    assert_int_equal(err, 0);
    grad = tensor_of(ctx, OFL_KIND_GRADIENT, 65540, &err);
    assert_int_equal(err, -OFL_EBUDGET);
    assert_int_equal(ofl_tensor_destroy(weight), 0);
    weight = tensor_of(ctx, OFL_KIND_WEIGHT, 2 * TILE, &err);
    assert_int_equal(err, 0);
    grad = tensor_of(ctx, OFL_KIND_GRADIENT, BLOCK, &err);
    assert_int_equal(err, 0);
    assert_false(core_tensor_on_device(grad));
    assert_int_equal(ofl_tensor_destroy(weight), 0);
    {
        struct ofl_tensor *filler = tensor_of(ctx, OFL_KIND_OTHER, TILE - BLOCK, &err);

        assert_int_equal(err, 0); /* now both are full */
        assert_false(core_tensor_on_device(filler));
    }
    weight = tensor_of(ctx, OFL_KIND_WEIGHT, BLOCK, &err);
    assert_int_equal(err, 0);
    assert_true(core_tensor_on_device(weight));
    assert_int_equal(ofl_optimizer_bind(o, weight, grad), -ENOTSUP);
    assert_non_null(strstr(ofl_error(), "lives on the device and"));
    assert_int_equal(ofl_tensor_destroy(weight), 0); /* nothing holds it */
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs),
        cmocka_unit_test(errors_end_the_program),
        cmocka_unit_test(tiles_fit_the_budgets),
        cmocka_unit_test(paper_agrees_with_creation),
        cmocka_unit_test(tensors_are_spread_evenly),
        cmocka_unit_test(what_is_announced_fits),
        cmocka_unit_test(host_memory_holds_to_the_block),
        cmocka_unit_test(refusals_name_the_way_out),
        cmocka_unit_test(leases_keep_their_room),
        cmocka_unit_test(homes_come_after_caches),
        cmocka_unit_test(mixed_groups_are_not_bound),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
