/*
 * base/extent: the range allocator against a map with one byte per byte of the span. Random
 * takes, gives and growth must give the offsets that the map's own search for the best fit
 * (the smallest free run that holds the bytes, the lowest among equals) gives, and the same
 * totals, so ranges never overlap and neighbours are merged. Negative control: against a map
 * that searches for the first fit instead, the same programs must disagree.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/extent.h"
#include "tests/core_fixture.h"

#define SPAN_MAX   6000u
#define RANGES_MAX 400u

/* ---- the model --------------------------------------------------------- */

struct range {
    uint64_t offset, bytes;
};

struct map {
    uint64_t span;
    uint8_t used[SPAN_MAX];
    struct range ranges[RANGES_MAX]; /* taken */
    unsigned count;
};

/* Bytes of the free run that starts at offset. */
static uint64_t run_at(const struct map *m, uint64_t offset)
{
    uint64_t end = offset;

    while (end < m->span && !m->used[end])
        end++;
    return end - offset;
}

static uint64_t map_search(const struct map *m, uint64_t bytes, bool first_fit)
{
    uint64_t best = BASE_EXTENT_NONE, best_run = 0;

    for (uint64_t at = 0; at < m->span;) {
        uint64_t run = run_at(m, at);

        if (run >= bytes && (best == BASE_EXTENT_NONE || (!first_fit && run < best_run))) {
            best = at;
            best_run = run;
        }
        at += run ? run : 1;
    }
    return best;
}

static void map_totals(const struct map *m, uint64_t *free_bytes, uint64_t *largest)
{
    *free_bytes = *largest = 0;
    for (uint64_t at = 0; at < m->span;) {
        uint64_t run = run_at(m, at);

        *free_bytes += run;
        if (run > *largest)
            *largest = run;
        at += run ? run : 1;
    }
}

/* ---- random programs --------------------------------------------------- */

struct program {
    struct base_extents *extents;
    struct map map;
    struct random random;
    unsigned wrong; /* answers that differ from the map's */
    bool first_fit;
};

static void take(struct program *p)
{
    struct map *m = &p->map;
    uint64_t bytes = 1 + random_below(&p->random, random_below(&p->random, 8) ? 40 : 700), offset;

    if (m->count == RANGES_MAX)
        return;
    offset = base_extents_take(p->extents, bytes);
    p->wrong += offset != map_search(m, bytes, p->first_fit);
    if (offset == BASE_EXTENT_NONE)
        return;
    /* The map follows the allocator, so that one disagreement doesn't breed others. */
    assert_true(offset <= m->span && bytes <= m->span - offset);
    for (uint64_t i = 0; i < bytes; i++)
        assert_int_equal(m->used[offset + i], 0);
    memset(m->used + offset, 1, bytes);
    m->ranges[m->count++] = (struct range){offset, bytes};
}

static void give(struct program *p)
{
    struct map *m = &p->map;
    struct range *r;

    if (m->count == 0)
        return;
    r = &m->ranges[random_below(&p->random, m->count)];
    base_extents_give(p->extents, r->offset, r->bytes);
    memset(m->used + r->offset, 0, r->bytes);
    *r = m->ranges[--m->count];
}

static void grow(struct program *p)
{
    uint64_t span = p->map.span + random_below(&p->random, 300);

    if (span > SPAN_MAX)
        span = p->map.span / 2; /* a shorter span is no change */
    assert_int_equal(base_extents_grow(p->extents, span), 0);
    if (span > p->map.span)
        p->map.span = span;
}

static void check_totals(struct program *p, uint64_t seed)
{
    uint64_t free_bytes, largest;

    map_totals(&p->map, &free_bytes, &largest);
    if (base_extents_free_bytes(p->extents) != free_bytes || base_extents_largest(p->extents) != largest)
        fail_msg("seed %llu: %llu bytes free, the largest range %llu; expected %llu and %llu",
                 (unsigned long long)seed, (unsigned long long)base_extents_free_bytes(p->extents),
                 (unsigned long long)base_extents_largest(p->extents), (unsigned long long)free_bytes,
                 (unsigned long long)largest);
}

/* Returns how often the allocator and the map disagreed. */
static unsigned run_program(uint64_t seed, bool first_fit)
{
    static struct program p;

    memset(&p, 0, sizeof p);
    p.random.state = seed;
    p.first_fit = first_fit;
    p.map.span = random_below(&p.random, 3) ? random_below(&p.random, SPAN_MAX) : 0;
    assert_int_equal(base_extents_create(p.map.span, &p.extents), 0);
    for (unsigned k = 0; k < 1500; k++) {
        /* phases of filling and of emptying */
        uint64_t kind = random_below(&p.random, 100), takes = (k / 250) % 2 ? 35 : 60;

        if (kind < takes)
            take(&p);
        else if (kind < 98)
            give(&p);
        else
            grow(&p);
        if (k % 8 == 0)
            check_totals(&p, seed);
    }
    while (p.map.count)
        give(&p);
    check_totals(&p, seed); /* one range again */
    if (base_extents_largest(p.extents) != p.map.span)
        fail_msg("seed %llu: all was given back, and the free ranges are not one", (unsigned long long)seed);
    base_extents_destroy(p.extents);
    return p.wrong;
}

static void agrees_with_the_map(void **state)
{
    unsigned seeds = fixture_rounds(40);

    (void)state;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        unsigned wrong = run_program(seed, false);

        if (wrong)
            fail_msg("seed %llu: %u answers differ from the map's", (unsigned long long)seed, wrong);
    }
}

static void first_fit_is_seen(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        assert_true(run_program(seed, true) > 0);
}

/* ---- cases ------------------------------------------------------------- */

/* Free ranges of 30, 20, 20 and 10 bytes at 0, 40, 80 and 120; the rest is taken. */
static struct base_extents *holes(void)
{
    static const struct range free_ranges[] = {{0, 30}, {40, 20}, {80, 20}, {120, 10}};
    static const uint64_t between[] = {10, 20, 20, 10};
    struct base_extents *x;

    assert_int_equal(base_extents_create(140, &x), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(base_extents_take(x, free_ranges[i].bytes), free_ranges[i].offset);
        assert_int_equal(base_extents_take(x, between[i]), free_ranges[i].offset + free_ranges[i].bytes);
    }
    for (size_t i = 0; i < 4; i++)
        base_extents_give(x, free_ranges[i].offset, free_ranges[i].bytes);
    return x;
}

static const struct {
    const char *what;
    uint64_t bytes, offset, largest_after;
} fits[] = {
    {"exact, lowest of two equals", 20, 40, 30},
    {"smallest that holds it", 9, 120, 30},
    {"lowest of two equals, in part", 11, 40, 30},
    {"only one holds it", 21, 0, 20},
    {"the largest, whole", 30, 0, 20},
    {"none holds it", 31, BASE_EXTENT_NONE, 30},
    {"nothing", 0, BASE_EXTENT_NONE, 30},
    {"more than any span", UINT64_MAX, BASE_EXTENT_NONE, 30},
};

static void best_fit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof fits / sizeof fits[0]; i++) {
        struct base_extents *x = holes();

        if (base_extents_take(x, fits[i].bytes) != fits[i].offset ||
            base_extents_largest(x) != fits[i].largest_after)
            fail_msg("%s: take %llu", fits[i].what, (unsigned long long)fits[i].bytes);
        base_extents_destroy(x);
    }
}

static void neighbours_merge(void **state)
{
    struct base_extents *x;

    (void)state;
    assert_int_equal(base_extents_create(90, &x), 0);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(base_extents_take(x, 30), 30 * i);
    assert_int_equal(base_extents_largest(x), 0);
    base_extents_give(x, 0, 30);
    base_extents_give(x, 60, 30);
    assert_int_equal(base_extents_largest(x), 30); /* apart */
    base_extents_give(x, 30, 30);
    assert_int_equal(base_extents_largest(x), 90); /* both sides */
    assert_int_equal(base_extents_grow(x, 100), 0);
    assert_int_equal(base_extents_largest(x), 100); /* what is added joins the end */
    assert_int_equal(base_extents_take(x, 100), 0);
    assert_int_equal(base_extents_free_bytes(x), 0);
    base_extents_destroy(x);
    base_extents_destroy(NULL);
}

static void many_pieces(void **state)
{
    struct base_extents *x;

    (void)state;
    assert_int_equal(base_extents_create(2000, &x), 0);
    for (uint64_t i = 0; i < 2000; i++)
        assert_int_equal(base_extents_take(x, 1), i);
    for (uint64_t i = 0; i < 1000; i++)
        base_extents_give(x, 2 * (i * 7 % 1000), 1);
    assert_int_equal(base_extents_free_bytes(x), 1000);
    assert_int_equal(base_extents_largest(x), 1);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(base_extents_take(x, 1), 2 * i);
    assert_int_equal(base_extents_take(x, 1), BASE_EXTENT_NONE);
    base_extents_destroy(x);
}

/* ---- memory (the linker sends all of the program's here) ----------------- */

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);

static bool memory_gone;

void *__wrap_malloc(size_t bytes)
{
    return memory_gone ? NULL : __real_malloc(bytes);
}

/* What was taken can always be given back, in any order; what can't be is not taken. */
static void giving_needs_no_memory(void **state)
{
    enum { RANGES = 500 };
    struct random random = {7};
    struct base_extents *x;
    uint64_t order[RANGES];

    (void)state;
    assert_int_equal(base_extents_create(2 * RANGES, &x), 0);
    for (uint64_t i = 0; i < RANGES; i++)
        order[i] = base_extents_take(x, 1);
    for (uint64_t i = RANGES - 1; i > 0; i--) {
        uint64_t k = random_below(&random, i + 1), at = order[i];

        order[i] = order[k];
        order[k] = at;
    }
    memory_gone = true;
    for (int round = 0; round < 2; round++) {
        assert_false(base_extents_ready(x));
        assert_int_equal(base_extents_take(x, 1), BASE_EXTENT_NONE);
        for (int i = 0; i < RANGES; i++)
            base_extents_give(x, order[i], 1);
        assert_int_equal(base_extents_free_bytes(x), 2 * RANGES);
        assert_int_equal(base_extents_largest(x), 2 * RANGES);
        for (uint64_t i = 0; i < RANGES; i++)
            assert_int_equal(base_extents_take(x, 1), i);
    }
    memory_gone = false;
    assert_true(base_extents_ready(x));
    base_extents_destroy(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_map),
        cmocka_unit_test(first_fit_is_seen),
        cmocka_unit_test(best_fit),
        cmocka_unit_test(neighbours_merge),
        cmocka_unit_test(many_pieces),
        cmocka_unit_test(giving_needs_no_memory),
    };

    return cmocka_run_group_tests_name("extent", tests, NULL, NULL);
}
