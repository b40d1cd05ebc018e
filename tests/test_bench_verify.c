/*
 * The pattern of `ofl-bench nvme --verify`: what was written passes; any one bit that is turned over is found, with its
 * word's offset and both values; so is a sector, or a block, in another's place, with the place where it belongs, and one that
 * a later write did not reach; a block that was found wrong is told once, until it is written again; many flips are all
 * found. Also where it is not known which run wrote what.
 *
 * It can fail: the same bytes under another seed are all wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/bench.h"
#include "bench/nvme_verify.h"

#define BYTES (256u << 10)
#define UNIT  4096u

static uint8_t file[BYTES], saved[BYTES];

/* Three runs, the later ones over parts of it, in blocks of several sizes. */
static void write_file(struct nvme_verify *v, bool known)
{
    assert_int_equal(nvme_verify_open(v, 42, BYTES, UNIT, known), 0);
    nvme_verify_fill(v, file, 0, BYTES);
    nvme_verify_next(v);
    nvme_verify_fill(v, file + 16 * UNIT, 16 * UNIT, 8 * UNIT);
    nvme_verify_next(v);
    nvme_verify_fill(v, file + 20 * UNIT, 20 * UNIT, UNIT);
    memcpy(saved, file, BYTES);
}

static void check_all(struct nvme_verify *v)
{
    for (uint64_t at = 0; at < BYTES; at += 4 * UNIT)
        nvme_verify_check(v, file + at, at, 4 * UNIT);
}

static void what_was_written_passes(void **state)
{
    struct nvme_verify v, other;

    (void)state;
    for (int known = 0; known < 2; known++) {
        write_file(&v, known);
        check_all(&v);
        assert_int_equal(v.wrong_words, 0);
        assert_int_equal(v.compared, BYTES);
        assert_int_equal(nvme_verify_open(&other, 43, BYTES, UNIT, false), 0);
        check_all(&other);
        assert_int_equal(other.wrong_units, BYTES / UNIT);
        nvme_verify_close(&other);
        nvme_verify_close(&v);
    }
}

static void every_bit_is_looked_at(void **state)
{
    struct nvme_verify v;
    uint64_t random = 1;

    (void)state;
    for (int known = 0; known < 2; known++)
        for (unsigned i = 0; i < 4096; i++) {
            /* All bits of one sector, then anywhere. */
            uint64_t bit =
                i < 4096 / 2 ? 20 * UNIT * 8 + i * 2 + (unsigned)known : bench_random(&random) % (BYTES * 8);
            uint64_t wanted, got;

            write_file(&v, known);
            file[bit / 8] ^= (uint8_t)(1u << bit % 8);
            check_all(&v);
            if (v.wrong_words != 1 || v.count != 1)
                fail_msg("bit %llu: %llu words are wrong", (unsigned long long)bit,
                         (unsigned long long)v.wrong_words);
            memcpy(&wanted, saved + bit / 64 * 8, 8);
            memcpy(&got, file + bit / 64 * 8, 8);
            assert_int_equal(v.mismatches[0].offset, bit / 64 * 8);
            assert_true(v.mismatches[0].wanted == wanted && v.mismatches[0].got == got);
            assert_true(v.mismatches[0].belongs == UINT64_MAX);
            nvme_verify_close(&v);
        }
}

static void misplaced_blocks_say_where_they_belong(void **state)
{
    static const unsigned sizes[] = {NVME_SECTOR, UNIT};
    struct nvme_verify v;

    (void)state;
    for (int known = 0; known < 2; known++)
        for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
            write_file(&v, known);
            memcpy(file + 8 * UNIT, saved + 3 * UNIT, sizes[i]);
            check_all(&v);
            assert_int_equal(v.wrong_units, 1);
            assert_int_equal(v.mismatches[0].offset, 8 * UNIT);
            assert_int_equal(v.mismatches[0].belongs, 3 * UNIT);
            assert_false(v.mismatches[0].stale);
            assert_int_equal(v.mismatches[0].words, sizes[i] / 8);
            nvme_verify_close(&v);
        }
}

static void a_write_that_was_lost_shows(void **state)
{
    struct nvme_verify v;

    (void)state;
    write_file(&v, true);
    nvme_verify_next(&v);
    nvme_verify_fill(&v, file + 20 * UNIT, 20 * UNIT, 2 * UNIT);
    memcpy(file + 21 * UNIT, saved + 21 * UNIT, UNIT); /* it never came */
    check_all(&v);
    assert_int_equal(v.wrong_units, 1);
    assert_int_equal(v.mismatches[0].offset, 21 * UNIT);
    assert_true(v.mismatches[0].stale);
    check_all(&v);
    assert_int_equal(v.wrong_units, 1); /* told once, */
    nvme_verify_fill(&v, file + 21 * UNIT, 21 * UNIT, UNIT);
    check_all(&v);
    assert_int_equal(v.wrong_units, 1); /* right again, */
    file[21 * UNIT + 9] ^= 1;
    check_all(&v);
    assert_int_equal(v.wrong_units, 2); /* and wrong again */
    nvme_verify_close(&v);
}

static void more_than_can_be_kept_are_counted(void **state)
{
    struct nvme_verify v;

    (void)state;
    write_file(&v, true);
    for (uint64_t at = 0; at < BYTES; at += 256) /* 16 words of each unit */
        file[at] ^= 4;
    check_all(&v);
    assert_int_equal(v.wrong_words, BYTES / 256);
    assert_int_equal(v.count, BYTES / 256);
    nvme_verify_close(&v);
    write_file(&v, true);
    for (uint64_t at = 0; at < BYTES; at += 8)
        file[at] ^= 4;
    check_all(&v);
    assert_int_equal(v.wrong_words, BYTES / 8);
    assert_int_equal(v.count, BYTES / UNIT); /* one for all of a unit */
    nvme_verify_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_passes),
        cmocka_unit_test(every_bit_is_looked_at),
        cmocka_unit_test(misplaced_blocks_say_where_they_belong),
        cmocka_unit_test(a_write_that_was_lost_shows),
        cmocka_unit_test(more_than_can_be_kept_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
