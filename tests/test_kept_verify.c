/*
 * Kept stores looked at offline: kept_verify names what is wrong, with generation, tensor and tile, and writes nothing;
 * kept_repair goes back to the newest whole generation, from which a run goes on; where none is whole it leaves all as
 * it is.
 *
 * OFL_KEPT_MAKE=DIR: makes a store of three generations there, and nothing else, for tests/store.sh.
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

static char dir[96];
static struct kept_program program;

static void expect_error(int err, int code, const char *part)
{
    if (err != code || !strstr(base_error_text(), part))
        fail_msg("got %d \"%s\", expected %d with \"%s\"", err, base_error_text(), code, part);
}

/* Two tensors of three tiles; each generation has one tile more of each that is new. */
static void make_store(const char *where, bool in_place)
{
    kept_program_open(&program, where, 21, in_place);
    for (uint32_t i = 0; i < 2; i++)
        (void)kept_program_create(&program, 3 * 4096 - 5, 4096);
    for (uint32_t g = 0; g < 3; g++) {
        kept_program_write(&program, &program.things[0], g);
        kept_program_write(&program, &program.things[1], 0);
        if (kept_program_commit(&program) < 0)
            fail_msg("%s", base_error_text());
    }
    kept_close(program.k, true);
    program.k = NULL;
}

static void end(void)
{
    kept_program_close(&program);
    kept_remove(dir);
}

static void damage(enum kept_which which, uint64_t at)
{
    char path[256];
    uint8_t byte;
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, kept_file_name(which));
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* Where the last generation has the tile. */
static uint64_t place_of(int thing, uint32_t tile)
{
    const struct kept_thing *t = &program.things[thing];

    return t->offset + (t->tiles[tile].slot ? t->slot_bytes : 0) + t->tile_bytes * tile;
}

struct heard {
    unsigned findings, looks;
    struct kept_finding first;
    char tensor[32], text[KEPT_WHY_MAX], last[KEPT_WHY_MAX];
};

static void hear(void *arg, const struct kept_finding *f)
{
    struct heard *h = arg;

    if (!f->text) {
        h->looks++;
        return;
    }
    if (h->findings++ == 0) {
        h->first = *f;
        snprintf(h->tensor, sizeof h->tensor, "%s", f->tensor ? f->tensor : "");
        snprintf(h->text, sizeof h->text, "%s", f->text);
    }
    snprintf(h->last, sizeof h->last, "%s", f->text);
}

/* All bytes of all files. */
static uint64_t sum_of_files(void)
{
    struct kept_copy c = {.count = {0}};
    uint64_t sum = 0;

    kept_copy_load(&c, dir);
    for (int i = 0; i < 4; i++)
        for (uint64_t k = 0; k < c.count[i]; k++)
            sum = sum * 1099511628211u + c.bytes[i][k];
    kept_copy_free(&c);
    return sum;
}

/* A run opens it, goes on from there, and finds that again. */
static void goes_on_from(uint64_t generation)
{
    assert_int_equal(kept_open(&program.config, &program.k), 0);
    assert_int_equal(kept_generation(program.k), generation);
    assert_string_equal(kept_warning(program.k), "");
    for (int i = 0; i < KEPT_TENSORS; i++) /* what the program holds is what it resumed */
        if (program.things[i].there) {
            const struct kept_thing was = program.history[generation]->things[i];

            program.things[i] = was;
            memcpy(program.things[i].committed, was.tiles, sizeof was.tiles);
        }
    kept_program_reopen(&program, false);
    kept_program_write(&program, &program.things[0], 0);
    assert_int_equal(kept_program_commit(&program), 0);
    kept_program_reopen(&program, false);
    assert_int_equal(kept_generation(program.k), generation + 1);
}

static void whole_ones_are_whole(void **state)
{
    struct heard h = {0};
    struct kept_report r;
    uint64_t sum;

    (void)state;
    kept_program_open(&program, dir, 21, false);
    kept_close(program.k, false);
    assert_int_equal(kept_verify(dir, hear, &h, &r), 0); /* nothing was committed */
    assert_int_equal(r.newest_whole + r.generations[0] + r.bad[0] + h.findings, 0);
    program.k = NULL;
    end();
    for (int in_place = 0; in_place < 2; in_place++) {
        make_store(dir, in_place);
        sum = sum_of_files();
        memset(&h, 0, sizeof h);
        assert_int_equal(kept_verify(dir, hear, &h, &r), 0);
        assert_int_equal(r.newest_whole, 3);
        assert_int_equal(r.generations[0], 3);
        assert_int_equal(r.generations[1], 2);
        assert_int_equal(r.bad[0], 0);
        assert_true(r.tensors == 2 && r.tiles == 6 && r.bytes == 3 * 4096 - 5 + 4096);
        assert_int_equal(r.bad[1], in_place); /* two slots: nothing was written over generation 2 yet */
        assert_int_equal(h.findings, in_place);
        assert_int_equal(h.looks, 12);
        assert_int_equal(kept_repair(dir, NULL, NULL, &r), 0);
        assert_int_equal(sum_of_files(), sum);
        end();
    }
}

static void a_tile_is_named_and_fallen_back_from(void **state)
{
    struct heard h = {0};
    struct kept_report r;
    char text[80];
    uint64_t sum;

    (void)state;
    make_store(dir, false);
    damage(KEPT_DATA, place_of(0, 2) + 100); /* which generation 2 has not */
    sum = sum_of_files();
    assert_int_equal(kept_verify(dir, hear, &h, &r), 0);
    assert_int_equal(sum_of_files(), sum);
    assert_int_equal(h.findings, 1);
    assert_int_equal(h.first.generation, 3);
    assert_int_equal(h.first.tile, 2);
    assert_string_equal(h.tensor, program.things[0].name);
    snprintf(text, sizeof text, KEPT_FILE_DATA ", offset %llu, 4091 bytes",
             (unsigned long long)place_of(0, 2));
    assert_non_null(strstr(h.text, text));
    assert_true(r.bad[0] == 1 && r.bad[1] == 0 && r.newest_whole == 2);
    memset(&h, 0, sizeof h);
    assert_int_equal(kept_repair(dir, hear, &h, &r), 0);
    assert_int_equal(h.findings, 2);
    assert_non_null(strstr(h.last, "generation 3, was emptied"));
    assert_int_equal(kept_verify(dir, NULL, NULL, &r), 0);
    assert_true(r.newest_whole == 2 && r.generations[0] == 2 && r.generations[1] == 0);
    goes_on_from(2);
    end();
}

static void records_are_named(void **state)
{
    static const struct {
        enum kept_which which;
        uint64_t at;
        const char *text;
        uint64_t newest;
    } cases[] = {
        {KEPT_ROOTS, 2 * 4096 + 40, "root 1 is damaged", 2},
        {KEPT_ROOTS, 4096 + 504, "root 0 is damaged", 3},
        {KEPT_MANIFEST_1, 200, "the checksum differs", 2},
        {KEPT_ROOTS, 20, "its checksum differs", 3}, /* the head */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct heard h = {0};
        struct kept_report r;

        make_store(dir, false);
        damage(cases[i].which, cases[i].at);
        assert_int_equal(kept_verify(dir, hear, &h, &r), 0);
        if (h.findings != 1 || !strstr(h.text, cases[i].text) || r.newest_whole != cases[i].newest)
            fail_msg("case %zu: %u, \"%s\", generation %llu", i, h.findings, h.text,
                     (unsigned long long)r.newest_whole);
        assert_int_equal(kept_repair(dir, NULL, NULL, &r), 0);
        memset(&h, 0, sizeof h);
        assert_int_equal(kept_verify(dir, hear, &h, &r), 0);
        assert_int_equal(h.findings, 0);
        assert_int_equal(r.newest_whole, cases[i].newest);
        goes_on_from(cases[i].newest);
        end();
    }
}

static void where_none_is_whole_nothing_is_done(void **state)
{
    struct heard h = {0};
    struct kept_report r;
    uint64_t sum;

    (void)state;
    make_store(dir, false);
    damage(KEPT_DATA, place_of(0, 0)); /* both have it */
    damage(KEPT_DATA, place_of(0, 1));
    sum = sum_of_files();
    expect_error(kept_verify(dir, hear, &h, &r), -OFL_ETORN, "no generation is whole");
    assert_true(r.bad[0] == 2 && r.bad[1] == 2 && h.findings == 4 && r.newest_whole == 0);
    expect_error(kept_repair(dir, NULL, NULL, &r), -OFL_ETORN, dir);
    damage(KEPT_ROOTS, 0);
    damage(KEPT_ROOTS, 4096);
    damage(KEPT_ROOTS, 8192);
    expect_error(kept_verify(dir, NULL, NULL, &r), -OFL_ETORN, "no generation is whole");
    expect_error(kept_repair(dir, NULL, NULL, &r), -OFL_ETORN, dir);
    damage(KEPT_ROOTS, 0);
    damage(KEPT_ROOTS, 4096);
    damage(KEPT_ROOTS, 8192);
    assert_int_equal(sum_of_files(), sum);
    end();
}

/* What was cut off is no zeros. */
static void shorter_files_are_noticed(void **state)
{
    char path[256];
    struct kept_report r;
    struct kept *k;

    (void)state;
    make_store(dir, false);
    snprintf(path, sizeof path, "%s/%s", dir, KEPT_FILE_DATA);
    assert_int_equal(truncate(path, 4096), 0);
    expect_error(kept_verify(dir, NULL, NULL, &r), -OFL_ETORN, "no generation is whole");
    expect_error(kept_open(&program.config, &k), -OFL_ETORN, "beyond the end of data.ofl");
    end();
    make_store(dir, false);
    snprintf(path, sizeof path, "%s/%s", dir, kept_file_name(KEPT_MANIFEST_1));
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(kept_verify(dir, NULL, NULL, &r), 0);
    assert_int_equal(r.newest_whole, 2);
    assert_int_equal(kept_open(&program.config, &k), 0);
    assert_non_null(strstr(kept_warning(k), "100 bytes, its root names"));
    assert_non_null(strstr(kept_warning(k), "generation 2 is used"));
    assert_int_equal(kept_generation(k), 2);
    kept_close(k, false);
    end();
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
        cmocka_unit_test(whole_ones_are_whole),      cmocka_unit_test(a_tile_is_named_and_fallen_back_from),
        cmocka_unit_test(records_are_named),         cmocka_unit_test(where_none_is_whole_nothing_is_done),
        cmocka_unit_test(shorter_files_are_noticed),
    };

    if (getenv("OFL_KEPT_MAKE")) {
        make_store(getenv("OFL_KEPT_MAKE"), false);
        kept_program_close(&program);
        return 0;
    }
    return cmocka_run_group_tests_name("kept_verify", tests, setup, teardown);
}
