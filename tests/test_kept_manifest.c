/*
 * Manifests of kept stores as anybody may have made them: the checksum that a root names is taken out of the way, and
 * each field is set to what must not be there: each is refused for its one reason, in a sentence. Cut off anywhere, and
 * with bytes changed at random, a manifest is refused, or says what keeps to the rules; sanitizers watch. What was
 * encoded comes back.
 *
 * Negative controls: the manifest that the cases are made from is taken; the random part must have seen both verdicts.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "tests/kept_fixture.h"

#define DATA_BYTES (1u << 20)

static const struct kept_head head = {.uuid = "0123456789abcde"};
static const struct kept_frame frame = {&head, 7, DATA_BYTES, "manifest-1.ofl"};

static struct kept_tile tiles[5] = {{.seal = 11, .generation = 7, .there = 1, .slot = 1},
                                    {.seal = 12, .generation = 2, .there = 1},
                                    {.there = 0},
                                    {.seal = 14, .generation = 1, .there = 1},
                                    {.seal = 15, .generation = 7, .there = 1, .slot = 1}};
static const struct kept_tensor tensors[3] = {
    {"model.embed", OFL_KIND_WEIGHT, OFL_BF16, 6000, 12000, 4096, 3, 65536, 12288, tiles},
    {"a\xc3\xa9", OFL_KIND_OPTIMIZER, OFL_F32, 1000, 4000, 4096, 1, 0, 4096, tiles + 3},
    {"q", OFL_KIND_WEIGHT, OFL_Q4_0, 64, 36, 64, 1, 8192, 8192, tiles + 4},
};
static const struct kept_state state_in = {7, 8192, tensors, 3, "note", 4, 0};

static uint8_t *encoded;
static uint64_t encoded_bytes;

static int decode(const uint8_t *bytes, uint64_t count, struct kept_image **out)
{
    uint8_t *copy = malloc(count + 1); /* its end is where sanitizers see it */
    int err;

    assert_non_null(copy);
    copy = realloc(copy, count ? count : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, count);
    err = kept_manifest_decode(&frame, copy, count, out);
    free(copy);
    if (err < 0) {
        assert_null(*out);
        assert_true(base_error_text()[0]);
        for (const char *c = base_error_text(); *c; c++)
            assert_true((unsigned char)*c >= ' ' && *c != 0x7f);
    }
    return err;
}

static void what_was_encoded_comes_back(void **state)
{
    struct kept_image *m;

    (void)state;
    assert_int_equal(decode(encoded, encoded_bytes, &m), 0);
    assert_int_equal(m->state.generation, 7);
    assert_int_equal(m->state.tile_bytes, 8192);
    assert_int_equal(m->state.count, 3);
    assert_int_equal(m->state.note_bytes, 4);
    assert_memory_equal(m->state.note, "note", 4);
    assert_int_equal(m->state.bytes, 4096 + 4096 + 4000 + 36);
    for (int i = 0; i < 3; i++) {
        const struct kept_tensor *t = kept_image_find(m, tensors[i].name);

        assert_ptr_equal(t, &m->tensors[i]);
        assert_true(t->kind == tensors[i].kind && t->dtype == tensors[i].dtype &&
                    t->elems == tensors[i].elems && t->bytes == tensors[i].bytes &&
                    t->tile_bytes == tensors[i].tile_bytes && t->offset == tensors[i].offset &&
                    t->slot_bytes == tensors[i].slot_bytes);
        assert_int_equal(t->tiles_count, tensors[i].tiles_count);
        for (uint32_t k = 0; k < t->tiles_count; k++) {
            const struct kept_tile *a = &t->tiles[k], *b = &tensors[i].tiles[k];

            assert_true(a->seal == b->seal && a->generation == b->generation && a->there == b->there &&
                        a->slot == b->slot);
        }
    }
    assert_null(kept_image_find(m, "model"));
    assert_null(kept_image_find(m, ""));
    kept_image_free(m);
}

/* Offsets in a manifest of three tensors and five tiles: docs/format.md. */
#define TENSOR(i) (96 + 56 * (i))
#define TILE(i)   (TENSOR(3) + 16 * (i))
#define NAMES     TILE(5)

static const struct {
    unsigned at, bytes;
    uint64_t value;
    const char *part;
} cases[] = {
    {0, 1, 'X', "no manifest"},
    {8, 4, 0, "version 0"},
    {8, 4, 2, "version 2, this library knows 1"},
    {12, 4, 1, "another store's"},
    {12, 4, 2, "another store's"},
    {16, 1, 'x', "another store's"},
    {32, 8, 6, "another generation's"},
    {40, 8, 1, "its length differs"},
    {88, 8, 1, "its length differs"},
    {48, 8, 4095, "tiles don't make up"},
    {56, 8, 4, "within its tiles"},
    {56, 8, 1u << 20, "within its tensors"},
    {56, 8, 1ull << 33, "within its tensors"},
    {56, 8, UINT64_MAX, "within its tensors"},
    {64, 8, 6, "names and its note"},
    {64, 8, UINT64_MAX / 16 + 2, "within its tiles"},
    {72, 8, UINT64_MAX - 1, "names and its note"},
    {72, 8, 14, "names and its note"},
    {80, 8, 5, "names and its note"},
    {TENSOR(0), 8, 0, "those of its elements"},
    {TENSOR(0), 8, 6001, "those of its elements"},
    {TENSOR(0), 8, UINT64_MAX, "those of its elements"},
    {TENSOR(2), 8, 65, "those of its elements"}, /* no whole blocks */
    {TENSOR(0) + 8, 8, 12002, "those of its elements"},
    {TENSOR(0) + 16, 8, 0, "tiles don't make up"},
    {TENSOR(0) + 16, 8, 8200, "tiles don't make up"},
    {TENSOR(0) + 16, 8, 4000 / 2, "tiles don't make up"},
    {TENSOR(0) + 24, 8, 65537, "not whole blocks"},
    {TENSOR(0) + 24, 8, 4096, "another one's, too"},
    {TENSOR(0) + 24, 8, DATA_BYTES - 4096, "beyond the end"},
    {TENSOR(0) + 24, 8, UINT64_MAX - 4095, "beyond the end"},
    {TENSOR(0) + 32, 8, 12289, "not whole blocks"},
    {TENSOR(0) + 32, 8, 8192, "don't hold it"},
    {TENSOR(0) + 32, 8, 1ull << 63, "don't hold it"},
    {TENSOR(0) + 32, 8, 1ull << 62, "beyond the end"},
    {TENSOR(0) + 40, 4, 2, "more tiles or names than its tensors"},
    {TENSOR(0) + 40, 4, 6, "more tiles or names than it has"},
    {TENSOR(2) + 40, 4, UINT32_MAX, "more tiles or names than it has"},
    {TENSOR(0) + 44, 4, 10, "more tiles or names than its tensors"},
    {TENSOR(2) + 44, 4, 2, "more tiles or names than it has"},
    {TENSOR(0) + 48, 4, OFL_KINDS, "unknown dtype or kind"},
    {TENSOR(0) + 48, 4, UINT32_MAX, "unknown dtype or kind"},
    {TENSOR(0) + 52, 4, OFL_DTYPES, "unknown dtype or kind"},
    {TENSOR(0) + 52, 4, UINT32_MAX, "unknown dtype or kind"},
    {TENSOR(0) + 52, 4, OFL_F32, "those of its elements"},
    {TILE(0) + 8, 8, 3ull << 62 | 8, "newer than the generation"},
    {TILE(0) + 8, 8, 1ull << 62, "newer than the generation, or of none"},
    {TILE(0) + 8, 8, 7, "a tile that is not there"},
    {TILE(2), 8, 1, "a tile that is not there"},
    {TILE(2) + 8, 8, 1ull << 63, "a tile that is not there"},
    {NAMES, 1, '\n', "control characters"},
    {NAMES, 1, 0x7f, "control characters"},
    {NAMES, 1, 0, "a zero in it"},
};

static void each_field_is_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t was[8];
        struct kept_image *m;
        int err;

        memcpy(was, encoded + cases[i].at, cases[i].bytes);
        kept_put(encoded + cases[i].at, cases[i].bytes, cases[i].value);
        err = decode(encoded, encoded_bytes, &m);
        memcpy(encoded + cases[i].at, was, cases[i].bytes);
        if (err != -OFL_EFORMAT || !strstr(base_error_text(), cases[i].part))
            fail_msg("byte %u = %llu: %d \"%s\", not \"%s\"", cases[i].at, (unsigned long long)cases[i].value,
                     err, err < 0 ? base_error_text() : "", cases[i].part);
    }
}

static void names_are_theirs_alone(void **state)
{
    struct kept_tensor twice[2] = {tensors[0], tensors[1]};
    const struct kept_state s = {7, 8192, twice, 2, NULL, 0, 0};
    struct kept_image *m;
    uint8_t *bytes;
    uint64_t count;

    (void)state;
    twice[0].name = "ab";
    twice[1].name = "aa";
    assert_int_equal(kept_manifest_encode(&frame, &s, &bytes, &count), 0);
    assert_int_equal(decode(bytes, count, &m), 0);
    kept_image_free(m);
    bytes[count - 1] = 'b';
    assert_int_equal(decode(bytes, count, &m), -OFL_EFORMAT);
    assert_non_null(strstr(base_error_text(), "name is another one's"));
    free(bytes);
}

static void every_length_but_its_own_is_refused(void **state)
{
    struct kept_image *m;

    (void)state;
    for (uint64_t n = 0; n < encoded_bytes; n++)
        assert_int_equal(decode(encoded, n, &m), -OFL_EFORMAT);
}

/* Whatever is taken keeps to the rules. */
static void check_image(const struct kept_image *m)
{
    for (uint32_t i = 0; i < m->state.count; i++) {
        const struct kept_tensor *t = &m->tensors[i];

        assert_true(t->elems && t->bytes <= t->slot_bytes && t->tiles_count);
        assert_true(t->offset + 2 * t->slot_bytes <= DATA_BYTES);
        for (uint32_t k = 0; k < t->tiles_count; k++)
            assert_true(kept_tile_offset(t, k) + kept_tile_bytes(t, k) <= DATA_BYTES);
        assert_ptr_equal(kept_image_find(m, t->name), t);
    }
}

static void random_bytes_do_no_harm(void **state)
{
    static const uint64_t odd[] = {0, 1, 2, 4096, 65535, UINT32_MAX, 1ull << 62, 1ull << 63, UINT64_MAX};
    struct random r = {2024};
    unsigned taken = 0, refused = 0, rounds = 8 * fixture_rounds(5000);
    uint8_t *bytes = malloc(encoded_bytes + 8);

    (void)state;
    assert_non_null(bytes);
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t count = random_below(&r, 8) ? encoded_bytes : random_below(&r, encoded_bytes + 1);
        struct kept_image *m;

        memcpy(bytes, encoded, encoded_bytes);
        for (uint64_t k = random_below(&r, 4) + 1; k > 0; k--) {
            uint64_t at = random_below(&r, encoded_bytes);

            if (random_below(&r, 2))
                bytes[at] = (uint8_t)random_next(&r);
            else
                kept_put(bytes + at / 4 * 4, 8, odd[random_below(&r, sizeof odd / sizeof *odd)]);
        }
        if (random_below(&r, 2))
            kept_put(bytes + 40, 8, count);
        if (decode(bytes, count, &m) == 0) {
            check_image(m);
            kept_image_free(m);
            taken++;
        } else {
            refused++;
        }
    }
    free(bytes);
    printf("%u taken, %u refused\n", taken, refused);
    assert_true(taken > rounds / 100 && refused > rounds / 100);
}

static int setup(void **state)
{
    (void)state;
    return kept_manifest_encode(&frame, &state_in, &encoded, &encoded_bytes);
}

static int teardown(void **state)
{
    (void)state;
    free(encoded);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_encoded_comes_back), cmocka_unit_test(each_field_is_checked),
        cmocka_unit_test(names_are_theirs_alone),      cmocka_unit_test(every_length_but_its_own_is_refused),
        cmocka_unit_test(random_bytes_do_no_harm),
    };

    return cmocka_run_group_tests_name("kept_manifest", tests, setup, teardown);
}
