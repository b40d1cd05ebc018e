/*
 * Proves by random requests that no byte is lost, invented or misplaced: any size, offset, address
 * and class, up to 200 out at once, with neighbours in the same page, with cancellations,
 * deadlines, short transfers, errors and lost completions, striped and not, against plain byte
 * arrays (io_model.h). On the memory engine, which checks each transfer against the contract too;
 * and on the real kernel, over both engines, direct and buffered, behind the fault decorator.
 *
 * OFL_FUZZ_REQUESTS is how many requests the memory engine gets (300,000; `make fuzz`: ten
 * million), OFL_TEST_SEED the seed, which every failure names.
 *
 * Negative controls: a decorator that changes one byte, and an engine that overstates short
 * transfers, must be noticed; so must a drive whose blocks are not what the file believes.
 */
#include "tests/io_model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/offload.h"
#include "base/clock.h"

#define MIB         (1ull << 20)
#define LIMIT_BYTES (4 * MIB)
#define EPOCH       2000u /* requests of one queue */

static uint64_t requests_wanted(void)
{
    const char *text = getenv("OFL_FUZZ_REQUESTS");

    return text ? strtoull(text, NULL, 0) : getenv("OFL_TEST_LIGHT") ? 50000 : 300000;
}

/* ---- in memory ------------------------------------------------------------ */

static const struct world {
    const char *name;
    struct mem_part part[3];
    unsigned count, flags;
    uint64_t bytes;
} worlds[] = {
    {"4 KiB blocks", {{.block = 4096, .device = 1}}, 1, 0, 8 * MIB},
    {"16 KiB blocks", {{.block = 16384, .device = 6}}, 1, 0, 8 * MIB},
    {"512 B blocks", {{.block = 512, .device = 2}}, 1, 0, 8 * MIB},
    {"buffered", {{.block = 1, .device = 3}}, 1, 0, 8 * MIB},
    {"three drives",
     {{.block = 4096, .device = 1, .weight = 3}, {.block = 512, .device = 4}, {.block = 1, .device = 5}},
     3,
     0,
     8 * MIB},
    {"two parts of a drive", {{.block = 512, .device = 2}, {.block = 512, .device = 2}}, 2, 0, 8 * MIB},
    {"source", {{.block = 512, .device = 1}}, 1, MEM_READ_ONLY, 8 * MIB - 1234},
    {"small source", {{.block = 4096, .device = 2}}, 1, MEM_READ_ONLY, 5000},
    {"direct only", {{.block = 512, .device = 2}}, 1, MEM_REQUIRE_DIRECT, 8 * MIB},
};

#define WORLDS (sizeof worlds / sizeof worlds[0])

static struct model *open_worlds(uint64_t seed)
{
    struct model *m = model_create(seed, LIMIT_BYTES);

    for (size_t i = 0; i < WORLDS; i++) {
        const struct world *w = &worlds[i];
        struct io_file *f = mem_file_open(w->part, w->count, w->bytes, w->flags);

        model_add(m, w->name, f, w->bytes);
        if (w->flags & MEM_READ_ONLY) { /* which nothing else would fill */
            uint64_t run;

            memcpy(mem_file_at(f, 0, &run), m->pool, w->bytes);
            memcpy(m->file[i].now, m->pool, w->bytes);
        }
    }
    return m;
}

static void close_worlds(struct model *m)
{
    for (unsigned i = 0; i < m->file_count; i++)
        mem_file_close(m->file[i].file);
    model_destroy(m);
}

static uint32_t sometimes(struct model *m, uint32_t most)
{
    return mem_below(&m->random, 2) ? (uint32_t)mem_below(&m->random, most) : 0;
}

/* A queue of random depth, pieces and windows, with random faults of the engine or the decorator. */
static void open_random_queue(struct model *m)
{
    static const uint32_t pieces[] = {512, 4096, 10000, 65536, 1u << 20, 4u << 20};
    bool decorated = mem_below(&m->random, 4) == 0;
    struct io_queue_config c = {.deadline_ns = 3600000000000u};
    struct io_tuning t = {.depth = 1 + (uint32_t)mem_below(&m->random, 32)};
    struct mem_config e = {.seed = mem_draw(&m->random) | 1, .wait = mem_below(&m->random, 2)};

    c.depth = 1 + (uint32_t)mem_below(&m->random, 64);
    c.piece_bytes = pieces[mem_below(&m->random, 6)];
    c.window_bytes = 1 + mem_below(&m->random, 1ull << (12 + mem_below(&m->random, 12)));
    t.piece_bytes = pieces[mem_below(&m->random, 6)];
    if (decorated) {
        c.faults.seed = mem_draw(&m->random) | 1;
        c.faults.cut_short = sometimes(m, 200);
        c.faults.again = sometimes(m, 200);
        c.faults.delay = sometimes(m, 100);
        c.faults.error = sometimes(m, 20);
        c.faults.no_space = sometimes(m, 20);
    } else {
        e.cut_short = sometimes(m, 200);
        e.again = sometimes(m, 200);
        e.error = sometimes(m, 20);
        e.no_space = sometimes(m, 20);
    }
    e.delay = sometimes(m, 100);
    e.late = sometimes(m, 3);
    m->may_fail = c.faults.error || c.faults.no_space || e.error || e.no_space;
    m->cancel = sometimes(m, 30);
    m->deadline = sometimes(m, 40);
    m->asks = mem_below(&m->random, 4);
    m->q = mem_queue_open(&c, &e, &m->engine);
    model_set_clock(m);
    for (uint64_t device = 1; device < 3; device++)
        io_path_tune(m->q, io_path_get(m->q, device, "mem"), &t);
    for (unsigned i = 0; i < m->file_count; i += 2)
        assert_int_equal(io_queue_attach(m->q, m->file[i].file), 0);
    if (mem_below(&m->random, 2))
        (void)io_queue_fd(m->q);
}

/* Only for who watches, and has to wait. */
static void show_progress(uint64_t requests, uint64_t wanted)
{
    static uint64_t shown_ns;
    uint64_t now_ns = base_now_ns();

    if (wanted <= 1000000 || !isatty(STDERR_FILENO) || now_ns - shown_ns < 200000000)
        return;
    shown_ns = now_ns;
    fprintf(stderr, "\r%lu of %lu requests\r", (unsigned long)requests, (unsigned long)wanted);
}

static void against_the_model_in_memory(void **state)
{
    struct model *m = open_worlds(io_test.seed);
    uint64_t wanted = requests_wanted(), begin_ns = base_now_ns(), compared = 0;

    (void)state;
    while (m->submitted < wanted) {
        uint64_t end = m->submitted + EPOCH < wanted ? m->submitted + EPOCH : wanted;

        show_progress(m->submitted, wanted);
        open_random_queue(m);
        while (m->submitted < end)
            model_step(m);
        if (mem_below(&m->random, 8))
            model_drain(m);
        else
            model_abandon(m);
        if (m->submitted - compared >= 50 * EPOCH || m->submitted >= wanted) {
            model_compare(m, NULL);
            compared = m->submitted;
        }
    }
    fprintf(stderr,
            "%lu requests in %.1f s, seed %lu: %lu succeeded, %lu failed (%lu cancelled, %lu expired, %lu of "
            "them told)\n",
            (unsigned long)m->submitted, (double)(base_now_ns() - begin_ns) / 1e9,
            (unsigned long)io_test.seed, (unsigned long)m->succeeded, (unsigned long)m->failed,
            (unsigned long)m->cancelled, (unsigned long)m->expired, (unsigned long)m->told);
    assert_true(m->succeeded > wanted / 2);
    assert_true(wanted < 50000 ||
                (m->cancelled > 10 && m->expired > 10 && m->told > 0 && m->failed > m->cancelled));
    close_worlds(m);
}

/* ---- negative controls ------------------------------------------------------ */

/* How many mismatches and breaches a broken engine is caught at. */
static unsigned caught(const struct io_queue_config *c, const struct mem_config *e, bool lying_file)
{
    struct model *m = open_worlds(io_test.seed);
    unsigned n;

    m->tolerant = true;
    m->q = mem_queue_open(c, e, &m->engine);
    if (lying_file)
        m->file[0].file->member[0].block = 512; /* which the drive does not take */
    while (m->submitted < 3000)
        model_step(m);
    n = m->engine->breaches;
    model_drain(m);
    model_compare(m, NULL);
    n += m->mismatches;
    close_worlds(m);
    return n;
}

static void broken_engines_are_caught(void **state)
{
    const struct io_queue_config plain = {.depth = 32};
    const struct mem_config sound = {.seed = io_test.seed, .cut_short = 100, .tolerant = true};
    struct io_queue_config corrupting = plain;
    struct mem_config overstating = sound;

    (void)state;
    corrupting.faults.seed = io_test.seed;
    corrupting.faults.corrupt = 5;
    overstating.overstate = true;
    assert_int_equal(caught(&plain, &sound, false), 0);
    assert_true(caught(&corrupting, &sound, false) > 0);
    assert_true(caught(&plain, &overstating, false) > 0);
    assert_true(caught(&plain, &sound, true) > 0);
}

/* ---- on the real kernel ----------------------------------------------------- */

#define SCRATCH_BYTES (64 * MIB)

static const struct mode {
    const char *name;
    enum io_engine engine;
    unsigned flags;
    bool striped;
} modes[] = {
    {"io_uring, direct", IO_ENGINE_URING, 0, false},
    {"io_uring, buffered", IO_ENGINE_URING, IO_FILE_BUFFERED, false},
    {"io_uring, direct, striped", IO_ENGINE_URING, 0, true},
    {"io_uring, direct is required", IO_ENGINE_URING, IO_FILE_REQUIRE_DIRECT, false},
    {"threads, direct", IO_ENGINE_THREADS, 0, false},
    {"threads, buffered", IO_ENGINE_THREADS, IO_FILE_BUFFERED, false},
    {"threads, direct, striped", IO_ENGINE_THREADS, 0, true},
};

#define MODES (sizeof modes / sizeof modes[0])

static struct io_file *open_scratch(const struct mode *mode)
{
    char dir[2][600];
    const struct io_stripe stripes[] = {{.dir = dir[0], .weight = 2}, {.dir = dir[1], .weight = 1}};
    struct io_file *f;

    for (unsigned i = 0; i < 2; i++) {
        snprintf(dir[i], sizeof dir[i], "%s/drive-%u", io_test.dir, i);
        assert_int_equal(mkdir(dir[i], 0700), 0);
    }
    assert_int_equal(io_file_open_striped(stripes, mode->striped ? 2 : 1, mode->flags, &f), 0);
    assert_int_equal(io_file_reserve(f, SCRATCH_BYTES), 0);
    rmdir(dir[0]);
    rmdir(dir[1]);
    return f;
}

/* Half of the requests with faults, half without; at the end all bytes are compared. */
static void run_mode(const struct mode *mode, uint64_t requests)
{
    struct model *m = model_create(io_test.seed, LIMIT_BYTES);
    struct io_queue_config c = {.engine = mode->engine, .depth = 16};

    model_add(m, mode->name, open_scratch(mode), SCRATCH_BYTES);
    m->cancel = 20;
    for (unsigned faults = 0; faults < 2; faults++) {
        c.faults = (struct io_faults){.seed = faults ? io_test.seed : 0, .cut_short = 100};
        c.faults.again = c.faults.delay = 50;
        c.faults.error = c.faults.no_space = 5;
        c.faults.late = 2;
        c.faults.late_ns = 3000000;
        m->asks = faults;
        m->may_fail = faults;
        m->deadline = faults ? 2 : 0;
        assert_int_equal(io_queue_open(&c, &m->q), 0);
        assert_int_equal(io_queue_engine(m->q), mode->engine);
        if (faults)
            assert_int_equal(io_queue_attach(m->q, m->file[0].file), 0);
        while (m->submitted < requests / 2 * (faults + 1))
            model_step(m);
        if (faults)
            model_abandon(m);
        else
            model_drain(m);
    }
    c.faults.seed = 0;
    assert_int_equal(io_queue_open(&c, &m->q), 0);
    model_compare(m, m->q);
    io_queue_close(m->q);
    fprintf(stderr, "%s: %lu requests, %lu succeeded, %lu cancelled, %lu expired\n", mode->name,
            (unsigned long)m->submitted, (unsigned long)m->succeeded, (unsigned long)m->cancelled,
            (unsigned long)m->expired);
    assert_true(m->succeeded > m->submitted / 2);
    io_file_close(m->file[0].file);
    model_destroy(m);
}

static void against_the_model_on_the_kernel(void **state)
{
    uint64_t wanted = getenv("OFL_TEST_LIGHT") ? 7000 : 20000;
    unsigned ran = 0;

    (void)state;
    for (size_t i = 0; i < MODES; i++) {
        if ((modes[i].engine == IO_ENGINE_URING && !io_test.uring) ||
            (modes[i].flags & IO_FILE_REQUIRE_DIRECT && !io_test.direct)) {
            fprintf(stderr, "skipped: %s: not on this machine, in %s\n", modes[i].name, io_test.dir);
            continue;
        }
        run_mode(&modes[i], wanted / MODES);
        ran++;
    }
    assert_true(ran > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_the_model_in_memory),
        cmocka_unit_test(broken_engines_are_caught),
        cmocka_unit_test(against_the_model_on_the_kernel),
    };

    return cmocka_run_group_tests(tests, io_test_set_up, io_test_tear_down);
}
