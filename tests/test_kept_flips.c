/*
 * Kept stores and single bits. In a store with two generations every bit of head, roots and the newest manifest, and
 * thousands of the older manifest, the tiles and what lies between is turned over, one at a time: 30,000 of them. Where
 * each lies is known from what the program remembers and from docs/format.md, not from the code under test: so each
 * flip is refused, warned of, seen by a tile's seal, or harmless, as its place demands, and none is ever used.
 *
 * Stale bytes (an older tile, an older manifest, another store's files) likewise.
 *
 * Negative controls: tiles whose bit is turned over are wrong, so a reader without seals would have used them; a store
 * that is whole is refused nowhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "tests/kept_fixture.h"

typedef unsigned long long ull;

/* Where a byte lies, and so what has to become of it. */
enum region { HEAD, NEW_ROOT, OLD_ROOT, NEW_MANIFEST, OLD_MANIFEST, TILE, UNUSED, REGIONS };

static const char *const region_names[] = {"head",           "newest root", "older root", "newest manifest",
                                           "older manifest", "tile",        "unused"};

static char dir[96];
static struct kept_program program;
static struct kept_copy copy;
static uint64_t newest;
static unsigned tried[REGIONS];
static unsigned used_without_seals;

/* ---- the map ----------------------------------------------------------------------- */

static uint64_t little_endian(const uint8_t *at)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | at[i];
    return v;
}

static bool in_tile(uint64_t byte)
{
    for (int i = 0; i < KEPT_TENSORS; i++) {
        const struct kept_thing *t = &program.history[newest]->things[i];

        for (uint32_t k = 0; t->there && k < t->tiles_count; k++) {
            uint64_t from = t->tile_bytes * k, at = t->offset + from + (t->tiles[k].slot ? t->slot_bytes : 0);
            uint64_t bytes = t->bytes - from < t->tile_bytes ? t->bytes - from : t->tile_bytes;

            if (t->tiles[k].there && byte >= at && byte < at + bytes)
                return true;
        }
    }
    return false;
}

/* Nothing lies behind it. */
static uint64_t used_end(void)
{
    uint64_t end = 0;

    for (int i = 0; i < KEPT_TENSORS; i++) {
        const struct kept_thing *t = &program.history[newest]->things[i];

        if (t->there && t->offset + 2 * t->slot_bytes > end)
            end = t->offset + 2 * t->slot_bytes;
    }
    return end;
}

/* Of a store with two slots. */
static enum region region_of(enum kept_which which, uint64_t byte)
{
    uint64_t root = byte / 4096;

    if (which == KEPT_DATA)
        return in_tile(byte) ? TILE : UNUSED;
    if (which == KEPT_ROOTS) {
        if (byte % 4096 >= 512 || root > 2)
            return UNUSED;
        return root == 0 ? HEAD : root == 1 + newest % 2 ? NEW_ROOT : OLD_ROOT;
    }
    root = which == KEPT_MANIFEST_0 ? 0 : 1;
    if (byte >= little_endian(copy.bytes[KEPT_ROOTS] + 4096 * (1 + root) + 40))
        return UNUSED;
    return root == newest % 2 ? NEW_MANIFEST : OLD_MANIFEST;
}

/* ---- one bit --------------------------------------------------------------------------- */

static void put_byte(enum kept_which which, uint64_t byte, uint8_t value)
{
    char path[256];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, kept_file_name(which));
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &value, 1, (off_t)byte), 1);
    close(fd);
}

static bool as_it_has_to_be(enum region region, const struct kept_reading *r)
{
    switch (region) {
    case HEAD:
        return r->verdict == KEPT_REFUSED;
    case NEW_ROOT:
    case NEW_MANIFEST: /* the older generation, some of whose tiles were written over since: with a warning */
        return r->warned && r->generation == newest - 1 &&
               (r->verdict == KEPT_RIGHT || r->verdict == KEPT_NOTICED);
    case OLD_ROOT:
        return r->warned && r->generation == newest && r->verdict == KEPT_RIGHT;
    case TILE:
        return r->generation == newest && r->verdict == KEPT_NOTICED;
    default:
        return !r->warned && r->generation == newest && r->verdict == KEPT_RIGHT;
    }
}

static void flip(enum kept_which which, uint64_t byte, unsigned bit)
{
    uint8_t *at = &copy.bytes[which][byte], was = *at;
    enum region region = region_of(which, byte);
    struct kept_reading r;

    *at ^= (uint8_t)(1u << bit);
    put_byte(which, byte, *at);
    r = kept_read_back(&program, dir, copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]);
    if (!as_it_has_to_be(region, &r))
        fail_msg("%s, byte %llu, bit %u (%s): verdict %d, generation %llu of %llu, %s", kept_file_name(which),
                 (ull)byte, bit, region_names[region], r.verdict, (ull)r.generation, (ull)newest,
                 r.warned ? "warned" : "not warned");
    used_without_seals += region == TILE; /* its bytes are not those that were committed */
    tried[region]++;
    *at = was;
    put_byte(which, byte, was);
}

static void flip_all(enum kept_which which, uint64_t from, uint64_t to, unsigned stride)
{
    for (uint64_t i = 8 * from; i < 8 * to; i += stride)
        flip(which, i / 8, i % 8);
}

static void flip_some(enum kept_which which, unsigned count, uint64_t bytes, struct random *random)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = random_below(random, 8 * bytes);

        flip(which, at / 8, at % 8);
    }
}

/* ---- stores --------------------------------------------------------------------------------- */

static void make_store(uint64_t seed, bool in_place, unsigned commits)
{
    kept_program_open(&program, dir, seed, in_place);
    for (unsigned i = 0; i < commits; i++) {
        kept_program_step(&program);
        if (kept_program_commit(&program) < 0)
            fail_msg("%s", base_error_text());
    }
    newest = kept_generation(program.k);
    if (!in_place)
        kept_program_step(&program);
    kept_close(program.k, true);
    program.k = NULL;
    kept_copy_load(&copy, dir);
}

static void end_store(void)
{
    kept_program_close(&program);
    kept_copy_free(&copy);
    kept_remove(dir);
}

/* ---- tests -------------------------------------------------------------------------------- */

static void every_flip_is_noticed_or_harmless(void **state)
{
    struct random random = {77};
    enum kept_which new_manifest, old_manifest;
    unsigned all = 0, light = fixture_rounds(8) < 8 ? 8 : 1;

    (void)state;
    memset(tried, 0, sizeof tried);
    used_without_seals = 0;
    make_store(3, false, 7);
    new_manifest = newest % 2 ? KEPT_MANIFEST_1 : KEPT_MANIFEST_0;
    old_manifest = newest % 2 ? KEPT_MANIFEST_0 : KEPT_MANIFEST_1;
    for (uint64_t block = 0; block < 3; block++)
        flip_all(KEPT_ROOTS, 4096 * block, 4096 * block + 512, light);
    flip_some(KEPT_ROOTS, 1000 / light, copy.count[KEPT_ROOTS], &random);
    flip_all(new_manifest, 0, copy.count[new_manifest], light);
    flip_some(old_manifest, 2000 / light, copy.count[old_manifest], &random);
    flip_some(KEPT_DATA, 10000 / light, used_end(), &random);
    flip_some(KEPT_DATA, 1000 / light, copy.count[KEPT_DATA], &random);
    for (int i = 0; i < KEPT_TENSORS; i++) { /* edges of slots */
        const struct kept_thing *t = &program.history[newest]->things[i];
        const uint64_t slots[2] = {t->offset, t->offset + t->slot_bytes};

        for (int k = 0; t->there && k < 2; k++) {
            flip(KEPT_DATA, slots[k], 0);
            flip(KEPT_DATA, slots[k] + t->bytes - 1, 7);
            if (t->bytes < t->slot_bytes)
                flip(KEPT_DATA, slots[k] + t->bytes, 0);
        }
    }
    for (int i = 0; i < REGIONS; i++) {
        printf("%s: %u flips\n", region_names[i], tried[i]);
        assert_true(tried[i] > 0);
        all += tried[i];
    }
    printf("%u flips, %u of which only a seal notices\n", all, used_without_seals);
    assert_true(light > 1 || all >= 10000);
    assert_true(used_without_seals > 0);
    end_store();
}

/* Without a mark that it was left clean, all tiles are looked at before any is used; with it, each as it is read. */
static void in_place_too(void **state)
{
    (void)state;
    for (int clean = 0; clean < 2; clean++) {
        struct random random = {5};
        unsigned flips = 0;

        make_store(4, true, 5);
        if (!clean)
            put_byte(KEPT_ROOTS, 3 * 4096, 0);
        while (flips < 300) {
            uint64_t at = random_below(&random, copy.count[KEPT_DATA]);
            struct kept_reading r;
            uint8_t was = copy.bytes[KEPT_DATA][at];

            if (!in_tile(at))
                continue;
            copy.bytes[KEPT_DATA][at] ^= (uint8_t)(1u << flips % 8);
            put_byte(KEPT_DATA, at, copy.bytes[KEPT_DATA][at]);
            r = kept_read_back(&program, dir, copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]);
            assert_int_equal(r.verdict, clean ? KEPT_NOTICED : KEPT_REFUSED);
            copy.bytes[KEPT_DATA][at] = was;
            put_byte(KEPT_DATA, at, was);
            flips++;
        }
        assert_int_equal(kept_read_back(&program, dir, copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]).verdict,
                         KEPT_RIGHT);
        end_store();
    }
}

static void put_file(enum kept_which which, const uint8_t *bytes, uint64_t count)
{
    char path[256];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, kept_file_name(which));
    fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, 0), count);
    close(fd);
}

/* Each file in turn is as it was some commits ago, or another store's. */
static void stale_files_are_noticed(void **state)
{
    struct kept_copy older = {.count = {0}};

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int foreign = 0; foreign < 2; foreign++) {
            struct kept_reading r;

            make_store(foreign ? 9 : 3, false, 4);
            kept_copy_load(&older, dir);
            end_store();
            make_store(3, false, foreign ? 4 : 6); /* the same program, in another directory's life */
            put_file((enum kept_which)i, older.bytes[i], older.count[i]);
            kept_copy_load(&copy, dir);
            r = kept_read_back(&program, dir, copy.bytes[KEPT_DATA], copy.count[KEPT_DATA]);
            if (r.verdict == KEPT_USED || (r.verdict == KEPT_RIGHT && !r.warned &&
                                           i != (newest % 2 ? KEPT_MANIFEST_0 : KEPT_MANIFEST_1)))
                fail_msg("%s, %s: verdict %d", kept_file_name((enum kept_which)i),
                         foreign ? "foreign" : "stale", r.verdict);
            end_store();
        }
    kept_copy_free(&older);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/store", scratch_make());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flip_is_noticed_or_harmless),
        cmocka_unit_test(in_place_too),
        cmocka_unit_test(stale_files_are_noticed),
    };

    return cmocka_run_group_tests_name("kept_flips", tests, setup, teardown);
}
