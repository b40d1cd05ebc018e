/*
 * Kept stores and crashes. A program writes tensors, commits, and goes on; every write and flush is recorded. The
 * record is cut at every place, and what no flush had made durable there is kept, dropped, put in another order, torn
 * at sectors of 512 bytes, by seeds: at least 10,000 states of a disk. Each resumes to the last commit that had
 * returned, or the one under way, every byte as it was committed; before the first, to none. In place: to one of those
 * or to none whole, never to wrong bytes.
 *
 * Negative controls: a flush of data, manifest or root that does not happen, and a write into a slot that counts, are
 * noticed.
 *
 * OFL_SEED=N begins with that program.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "tests/kept_fixture.h"

#define VARIANTS 10000u
#define SECTOR   512u
#define PAGE     4096u
#define EACH                                                                                                 \
    16u /* variants of a cut, where something is not durable; under ThreadSanitizer, which has nothing
                          to see in one thread, fewer */
#define OPENS 500u /* one of so many is opened as a run does it, and verified offline */

typedef unsigned long long ull;

static char dir[96], replay_dir[112];

/* ---- a disk ---------------------------------------------------------------------- */

/* The replayed store's files, as they are on the disk. */
static struct kept_copy on_disk;

static void put(const struct kept_copy *c)
{
    for (int i = 0; i < 4; i++) {
        char path[256];
        bool shorter = c->count[i] < on_disk.count[i], all = on_disk.bytes[i] == NULL;
        int fd;

        snprintf(path, sizeof path, "%s/%s", replay_dir, kept_file_name((enum kept_which)i));
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        if (shorter || c->count[i] > on_disk.count[i] || all)
            assert_int_equal(ftruncate(fd, (off_t)c->count[i]), 0);
        for (uint64_t at = 0; at < c->count[i]; at += PAGE) {
            uint64_t n = c->count[i] - at < PAGE ? c->count[i] - at : PAGE;

            if (all || at + n > on_disk.count[i] || memcmp(c->bytes[i] + at, on_disk.bytes[i] + at, n) != 0)
                assert_int_equal(pwrite(fd, c->bytes[i] + at, n, (off_t)at), n);
        }
        close(fd);
    }
    kept_copy_set(&on_disk, c);
}

/* Some of a write's sectors, by `keep`; NULL: all. */
static void apply(struct kept_copy *c, const struct kept_entry *e, struct random *keep)
{
    int i = (int)e->which;

    assert_true(e->offset + e->bytes <= c->room[i]);
    for (uint64_t at = 0; at < e->bytes; at += SECTOR) {
        uint64_t n = e->bytes - at < SECTOR ? e->bytes - at : SECTOR;

        if (keep && random_below(keep, 2))
            continue;
        if (e->offset + at + n > c->count[i]) {
            memset(c->bytes[i] + c->count[i], 0, e->offset + at + n - c->count[i]);
            c->count[i] = e->offset + at + n;
        }
        memcpy(c->bytes[i] + e->offset + at, e->data + at, n);
    }
}

/* ---- replay ------------------------------------------------------------------------ */

struct tally {
    unsigned variants, lost, unexpected, verdicts[KEPT_VERDICTS];
};

struct replay {
    const struct kept_program *program;
    struct kept_copy durable, state;
    const struct kept_entry *pending[400];
    size_t pending_count;
    uint64_t committed;
    struct random random;
    struct tally tally;
};

/* As a run does it, with everything. */
static void open_in_earnest(const struct replay *r, const struct kept_reading *reading)
{
    struct kept_config c = r->program->config;
    struct kept_report report;
    struct kept *k;

    c.dir = replay_dir;
    assert_int_equal(kept_verify(replay_dir, NULL, NULL, &report), 0);
    assert_int_equal(report.newest_whole, reading->generation);
    if (kept_open(&c, &k) < 0)
        fail_msg("%s", base_error_text());
    assert_int_equal(kept_generation(k), reading->generation);
    kept_close(k, false);
}

static void judge(struct replay *r)
{
    struct kept_reading reading;
    struct tally *t = &r->tally;

    put(&r->state);
    reading = kept_read_back(r->program, replay_dir, r->state.bytes[KEPT_DATA], r->state.count[KEPT_DATA]);
    t->verdicts[reading.verdict]++;
    if (reading.verdict == KEPT_NONE || reading.verdict == KEPT_RIGHT) {
        t->lost += reading.generation < r->committed;
        t->unexpected += reading.generation > r->committed + 1;
        if (t->variants % OPENS == 0 && !r->program->config.in_place && !t->lost)
            open_in_earnest(r, &reading);
    }
    t->variants++;
}

static void try_cut(struct replay *r)
{
    unsigned variants = r->pending_count ? getenv("TSAN_OPTIONS") ? EACH / 4 : EACH : 1;

    for (unsigned v = 0; v < variants; v++) {
        const struct kept_entry *order[sizeof r->pending / sizeof *r->pending];

        kept_copy_set(&r->state, &r->durable);
        memcpy(order, r->pending, r->pending_count * sizeof *order);
        for (size_t i = 0; v != 1 && i < r->pending_count; i++) { /* v 1: nothing of it is there */
            size_t k = v ? i + random_below(&r->random, r->pending_count - i) : i;
            const struct kept_entry *e = order[k];
            uint64_t what = v ? random_below(&r->random, 3) : 0;

            order[k] = order[i];
            if (what < 2)
                apply(&r->state, e, what ? &r->random : NULL);
        }
        judge(r);
    }
}

static void go_on(struct replay *r, const struct kept_entry *e)
{
    size_t left = 0;

    if (e->what == KEPT_COMMITTED) {
        r->committed = e->bytes;
    } else if (e->what == KEPT_WROTE) {
        assert_true(r->pending_count < sizeof r->pending / sizeof *r->pending);
        r->pending[r->pending_count++] = e;
    } else {
        for (size_t i = 0; i < r->pending_count; i++) {
            if (r->pending[i]->which == e->which)
                apply(&r->durable, r->pending[i], NULL);
            else
                r->pending[left++] = r->pending[i];
        }
        r->pending_count = left;
    }
}

/* One program: run, cut everywhere. */
struct trial {
    uint64_t seed;
    unsigned commits, forget_syncs;
    bool in_place, over_what_counts, failures;
};

static struct kept_program program;

/* Some fail once, anywhere but at the data's flush, and are tried again later. */
static bool commit(const struct trial *t)
{
    bool spoil = t->failures && random_below(&program.random, 3) == 0;

    kept_record.calls = 0;
    kept_record.fail_at = spoil ? 2 + (unsigned)random_below(&program.random, 4) : 0;
    kept_record.fail_code = -EIO;
    if (spoil != (kept_program_commit(&program) < 0))
        fail_msg("seed %llu: %s", (ull)t->seed, base_error_text());
    kept_record.fail_at = 0;
    return !spoil;
}

static void run(const struct trial *t, struct tally *sum)
{
    struct replay r = {.program = &program, .random = {t->seed ^ 0x5eed}};
    struct kept_copy end = {.count = {0}};

    kept_program_open(&program, dir, t->seed, t->in_place);
    program.over_what_counts = t->over_what_counts;
    kept_copy_load(&r.durable, dir);
    kept_record_start();
    kept_record.forget_syncs = t->forget_syncs;
    for (unsigned i = 0; i < t->commits; i++) {
        for (uint64_t k = random_below(&program.random, 3); k < 3; k++)
            kept_program_step(&program);
        if (commit(t) && i % 8 == 7)
            kept_program_reopen(&program, true);
    }
    kept_program_step(&program);
    /* Space is there before a root speaks of what lies in it: its length is not what is tried here. */
    kept_copy_load(&end, dir);
    r.durable.bytes[KEPT_DATA] = realloc(r.durable.bytes[KEPT_DATA], end.room[KEPT_DATA]);
    assert_non_null(r.durable.bytes[KEPT_DATA]);
    memset(r.durable.bytes[KEPT_DATA], 0, end.room[KEPT_DATA]);
    r.durable.count[KEPT_DATA] = end.count[KEPT_DATA];
    r.durable.room[KEPT_DATA] = end.room[KEPT_DATA];
    kept_copy_free(&end);
    for (size_t i = 0; i < kept_record.count; i++) {
        try_cut(&r);
        go_on(&r, &kept_record.entries[i]);
    }
    try_cut(&r);
    kept_record_stop();
    kept_program_close(&program);
    kept_copy_free(&r.durable);
    kept_copy_free(&r.state);
    kept_remove(dir);
    sum->variants += r.tally.variants;
    sum->lost += r.tally.lost;
    sum->unexpected += r.tally.unexpected;
    for (int i = 0; i < KEPT_VERDICTS; i++)
        sum->verdicts[i] += r.tally.verdicts[i];
}

static void show(const char *what, const struct tally *t)
{
    printf("%s: %u states: %u whole, %u without a commit, %u refused, %u noticed by a seal, %u used; %u "
           "lost, %u "
           "unexpected\n",
           what, t->variants, t->verdicts[KEPT_RIGHT], t->verdicts[KEPT_NONE], t->verdicts[KEPT_REFUSED],
           t->verdicts[KEPT_NOTICED], t->verdicts[KEPT_USED], t->lost, t->unexpected);
}

/* ---- tests --------------------------------------------------------------------------- */

static void every_crash_resumes(void **state)
{
    const char *from = getenv("OFL_SEED");
    unsigned most = fixture_rounds(getenv("TSAN_OPTIONS") ? VARIANTS / 8 : VARIANTS);
    struct tally sum = {0};

    (void)state;
    for (uint64_t seed = from ? strtoull(from, NULL, 0) : 1; sum.variants < most; seed++) {
        struct trial t = {.seed = seed, .commits = 12, .failures = seed % 2 == 0};
        struct tally one = {0};

        run(&t, &one);
        if (one.lost || one.unexpected || one.verdicts[KEPT_REFUSED] || one.verdicts[KEPT_NOTICED] ||
            one.verdicts[KEPT_USED] || !one.verdicts[KEPT_NONE]) {
            show("replay", &one);
            fail_msg("OFL_SEED=%llu", (ull)seed);
        }
        sum.variants += one.variants;
        for (int i = 0; i < KEPT_VERDICTS; i++)
            sum.verdicts[i] += one.verdicts[i];
    }
    show("replay", &sum);
}

static void in_place_is_whole_or_none(void **state)
{
    struct tally sum = {0};

    (void)state;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct trial t = {.seed = seed, .commits = 8, .in_place = true};

        run(&t, &sum);
    }
    show("in place", &sum);
    assert_int_equal(sum.verdicts[KEPT_USED] + sum.verdicts[KEPT_NOTICED] + sum.lost + sum.unexpected, 0);
    assert_true(sum.verdicts[KEPT_REFUSED] > 0 && sum.verdicts[KEPT_RIGHT] > 0);
}

/* What goes wrong is noticed, and never used. */
static void control(const struct trial *t, const char *what, bool by_seal)
{
    struct tally sum = {0};

    run(t, &sum);
    show(what, &sum);
    assert_int_equal(sum.verdicts[KEPT_USED], 0);
    assert_true(by_seal ? sum.verdicts[KEPT_NOTICED] > 0 : sum.lost + sum.verdicts[KEPT_REFUSED] > 0);
}

static void missing_flushes_are_noticed(void **state)
{
    (void)state;
    control(&(struct trial){.seed = 1, .commits = 8, .forget_syncs = 1u << KEPT_DATA}, "no flush of data",
            true);
    control(&(struct trial){.seed = 1,
                            .commits = 8,
                            .forget_syncs = 1u << KEPT_MANIFEST_0 | 1u << KEPT_MANIFEST_1},
            "no flush of manifests", false);
    control(&(struct trial){.seed = 1, .commits = 8, .forget_syncs = 1u << KEPT_ROOTS}, "no flush of roots",
            false);
}

static void writes_over_what_counts_are_noticed(void **state)
{
    (void)state;
    control(&(struct trial){.seed = 1, .commits = 8, .over_what_counts = true}, "slots that count", true);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/store", scratch_make());
    snprintf(replay_dir, sizeof replay_dir, "%.*s/replay", (int)(strlen(dir) - 6), dir);
    return mkdir(replay_dir, 0700);
}

static int teardown(void **state)
{
    (void)state;
    kept_remove(replay_dir);
    kept_copy_free(&on_disk);
    scratch_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_crash_resumes),
        cmocka_unit_test(in_place_is_whole_or_none),
        cmocka_unit_test(missing_flushes_are_noticed),
        cmocka_unit_test(writes_over_what_counts_are_noticed),
    };

    return cmocka_run_group_tests_name("kept_crash", tests, setup, teardown);
}
