/*
 * The reader of GGUF: keys of every type come back widened, tensors with the shape, dtype and range that the file
 * says; and of a file that is not in order nothing is taken: each rule has a file that breaks it alone, a header that
 * ends anywhere is refused, and files with random bytes changed are refused or whole, never worse.
 *
 * Negative controls: the file that all malformed ones are made from is accepted; among the changed ones both verdicts
 * come up. OFL_FUZZ_FILES: how many of those.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/error.h"
#include "include/offload_landing.h"
#include "include/offload_metadata.h"
#include "liboffload/source/reader.h"
#include "liboffload/source/source.h"
#include "tests/core_fixture.h"
#include "tests/gguf_fixture.h"

static char path[] = "/tmp/ofl-test-XXXXXX.gguf";

/* ---- files ------------------------------------------------------------------ */

/* As of 1970: opening what was written a moment ago waits for a tick of the clock. */
static void put(const void *bytes, size_t count)
{
    gguf_put(path, bytes, count);
}

static int try(const struct gguf_file *f, struct source_file **out)
{
    put(f->bytes, f->count);
    return source_open(path, out);
}

/* ---- what is accepted -------------------------------------------------------- */

static void keys_of_every_type(void **state)
{
    static const unsigned char numbers[] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const struct {
        const char *key;
        uint32_t type;
        size_t bytes;
        enum ofl_metadata_type is;
        uint64_t u;
        int64_t i;
    } cases[] = {
        {"u8", 0, 1, OFL_METADATA_UINT, 254, 0},
        {"i8", 1, 1, OFL_METADATA_INT, 0, -2},
        {"u16", 2, 2, OFL_METADATA_UINT, 65534, 0},
        {"i16", 3, 2, OFL_METADATA_INT, 0, -2},
        {"u32", 4, 4, OFL_METADATA_UINT, 0xfffffffe, 0},
        {"i32", 5, 4, OFL_METADATA_INT, 0, -2},
        {"u64", 10, 8, OFL_METADATA_UINT, UINT64_MAX - 1, 0},
        {"i64", 11, 8, OFL_METADATA_INT, 0, -2},
    };
    const size_t count = sizeof cases / sizeof cases[0];
    struct source_file *s = NULL;
    const struct ofl_metadata *m;
    struct gguf_file f;

    (void)state;
    gguf_begin(&f, 0, count);
    for (size_t i = 0; i < count; i++) {
        gguf_add_key(&f, cases[i].key, cases[i].type);
        gguf_add(&f, numbers, cases[i].bytes);
    }
    assert_int_equal(try(&f, &s), 0);
    assert_string_equal(s->format, "gguf");
    assert_int_equal(s->count, 0);
    assert_int_equal(s->metadata_count, count);
    for (size_t i = 0; i < count; i++) {
        m = &source_metadata_find(s, cases[i].key)->is;
        assert_int_equal(m->type, cases[i].is);
        assert_true(m->count == 1 && !m->array && !m->reals && !m->texts);
        assert_true(m->uints ? m->uints[0] == cases[i].u : m->ints[0] == cases[i].i);
        assert_true((m->uints != NULL) == (m->type == OFL_METADATA_UINT) && (!m->uints || !m->ints));
    }
    source_close(s);
}

static void other_values(void **state)
{
    const float single = -0.5f;
    const double twice = 3.25;
    struct source_file *s = NULL;
    const struct ofl_metadata *m;
    struct gguf_file f;

    (void)state;
    gguf_begin(&f, 0, 6);
    gguf_add_key(&f, "f32", 6);
    gguf_add(&f, &single, 4);
    gguf_add_key(&f, "f64", 12);
    gguf_add(&f, &twice, 8);
    gguf_add_key(&f, "bool", 7);
    gguf_add(&f, "\1", 1);
    gguf_add_key(&f, "text", 8);
    gguf_add_text(&f, "a text");
    gguf_add_key(&f, "texts", 9);
    gguf_add32(&f, 8);
    gguf_add64(&f, 3);
    gguf_add_text(&f, "one");
    gguf_add_text(&f, "");
    gguf_add64(&f, 3);
    gguf_add(&f, "a\0b", 3);
    gguf_add_key(&f, "floats", 9);
    gguf_add32(&f, 6);
    gguf_add64(&f, 0);
    assert_int_equal(try(&f, &s), 0);
    assert_true(source_metadata_find(s, "f32")->is.reals[0] == -0.5);
    assert_true(source_metadata_find(s, "f64")->is.reals[0] == 3.25);
    m = &source_metadata_find(s, "bool")->is;
    assert_true(m->type == OFL_METADATA_BOOL && m->uints[0] == 1);
    m = &source_metadata_find(s, "text")->is;
    assert_true(m->type == OFL_METADATA_TEXT && m->texts[0].count == 6);
    assert_string_equal(m->texts[0].bytes, "a text");
    m = &source_metadata_find(s, "texts")->is;
    assert_true(m->array == 1 && m->count == 3 && m->texts[2].count == 3);
    assert_string_equal(m->texts[0].bytes, "one");
    assert_string_equal(m->texts[1].bytes, "");
    assert_memory_equal(m->texts[2].bytes, "a\0b", 4);
    m = &source_metadata_find(s, "floats")->is;
    assert_true(m->array == 1 && m->count == 0 && m->type == OFL_METADATA_REAL);
    assert_null(source_metadata_find(s, "none"));
    source_close(s);
}

static void tensors_of_every_type(void **state)
{
    static const struct {
        uint32_t type;
        enum ofl_dtype dtype;
    } cases[] = {
        {0, OFL_F32},  {1, OFL_F16},   {2, OFL_Q4_0},    {3, OFL_Q4_1},    {6, OFL_Q5_0},   {7, OFL_Q5_1},
        {8, OFL_Q8_0}, {10, OFL_Q2_K}, {11, OFL_Q3_K},   {12, OFL_Q4_K},   {13, OFL_Q5_K},  {14, OFL_Q6_K},
        {24, OFL_I8},  {25, OFL_I16},  {20, OFL_IQ4_NL}, {23, OFL_IQ4_XS}, {39, OFL_MXFP4}, {30, OFL_BF16},
        {26, OFL_I32}, {27, OFL_I64},  {28, OFL_F64},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct base_dtype *d = base_dtype(cases[i].dtype);
        uint64_t shape[2] = {d->block_elems, 3}, bytes = 3 * d->block_bytes;
        struct source_file *s = NULL;
        struct gguf_file f;

        gguf_begin(&f, 1, 0);
        gguf_add_tensor(&f, "t", 2, shape, cases[i].type, 0);
        gguf_end(&f, 32, bytes);
        assert_int_equal(try(&f, &s), 0);
        assert_int_equal(s->entries[0].dtype, cases[i].dtype);
        assert_true(s->entries[0].bytes == bytes && s->entries[0].elems == 3 * d->block_elems);
        assert_true(s->entries[0].shape[0] == 3 && s->entries[0].shape[1] == d->block_elems);
        assert_true(s->entries[0].offset == f.data);
        source_close(s);
        f.count--;
        assert_int_equal(try(&f, &s), -OFL_EFORMAT); /* the last byte is missing */
        assert_non_null(strstr(base_error_text(), "bytes of data: truncated"));
        if (d->block_elems == 1)
            continue;
        gguf_begin(&f, 1, 0); /* whole blocks together, but not row by row */
        gguf_add_tensor(&f, "t", 2, (uint64_t[]){d->block_elems / 2, 4}, cases[i].type, 0);
        gguf_end(&f, 32, bytes);
        assert_int_equal(try(&f, &s), -OFL_EFORMAT);
        assert_non_null(strstr(base_error_text(), "not whole blocks"));
    }
}

/* In any order, with holes, versions 2 and 3, an alignment of the file's own, a scalar and an empty tensor. */
static void whole_files(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++)
        for (uint32_t alignment = 8; alignment <= 256; alignment *= 2) {
            struct source_file *s = NULL;
            const struct source_entry *e;
            struct gguf_file f;

            gguf_begin(&f, 4, 1);
            memcpy(f.bytes + 4, &version, sizeof version);
            gguf_add_key(&f, "general.alignment", 4);
            gguf_add32(&f, alignment);
            gguf_add_tensor(&f, "z", 1, (uint64_t[]){8}, 0, 2 * 256);
            gguf_add_tensor(&f, "scalar", 0, &(uint64_t){0}, 0, 256);
            gguf_add_tensor(&f, "empty", 3, (uint64_t[]){4, 0, 2}, 0, 256);
            gguf_add_tensor(&f, "a", 4, (uint64_t[]){2, 3, 1, 2}, 1, 0);
            gguf_end(&f, alignment, 2 * 256 + 32);
            assert_int_equal(try(&f, &s), 0);
            assert_int_equal(s->count, 4);
            e = source_find(s, "a");
            assert_true(e->offset == f.data && e->dims == 4 && e->shape[0] == 2 && e->shape[1] == 1);
            assert_true(e->shape[2] == 3 && e->shape[3] == 2 && e->bytes == 24);
            e = source_find(s, "scalar");
            assert_true(e->dims == 0 && e->elems == 1 && e->bytes == 4 && e->offset == f.data + 256);
            assert_int_equal(source_find(s, "empty")->bytes, 0);
            assert_int_equal(source_find(s, "z")->offset, f.data + 512);
            source_close(s);
        }
}

/* ---- what is refused ------------------------------------------------------------ */

/* One key and two tensors; broken in one place. */
static void make(struct gguf_file *f, int broken)
{
    static const uint64_t row[] = {64}, wide[] = {1ull << 33, 1ull << 33}, large[] = {1ull << 62};

    gguf_begin(f, broken == 1 ? 1u << 20 : broken == 2 ? UINT64_MAX : 2, broken == 3 ? UINT64_MAX / 4 : 1);
    gguf_add_key(f,
                 broken == 4   ? ""
                 : broken == 5 ? "general.other"
                               : "general.alignment",
                 broken == 6 ? 5 : 4);
    gguf_add32(f, broken == 7 ? 48 : broken == 8 ? 0 : 32);
    if (broken == 9)
        f->bytes[24 + 8 + 3] = 0; /* in the key */
    gguf_add_tensor(f, broken == 10 ? "" : "first", broken == 11 ? 5 : 1,
                    broken == 11 ? (uint64_t[]){1, 1, 1, 1, 1} : row,
                    broken == 12   ? 4
                    : broken == 13 ? 16
                                   : 0,
                    broken == 14 ? 16 : 0);
    gguf_add_tensor(f, broken == 15 ? "first" : "second", broken == 16 ? 2 : 1,
                    broken == 16   ? wide
                    : broken == 17 ? large
                                   : row,
                    broken == 18 ? 99 : 0,
                    broken == 19   ? 224
                    : broken == 20 ? 1ull << 40
                    : broken == 21 ? UINT64_MAX - 31
                                   : 256);
    gguf_end(f, 32, 512);
    if (broken == 22)
        f->bytes[4] = 1;
    if (broken == 23)
        memcpy(f->bytes + 4, "\0\0\0\3", 4);
    if (broken == 24)
        f->bytes[4] = 4;
}

static const char *const wrong[] = {
    NULL,
    "header: tensors: a count of 1048576",
    "header: tensors: a count of 18446744073709551615",
    "header: keys: a count of 4611686018427387903",
    "key 0 of 1: its name has 0 bytes",
    NULL,
    "general.alignment is not an unsigned integer",
    "general.alignment is 48: not a power of two",
    "general.alignment is 0",
    "key 0 of 1: a NUL in its name of 17 bytes",
    "tensor 0 of 2: its name has 0 bytes",
    "tensor \"first\": shape has 5 dimensions, at most 4",
    "tensor \"first\": type 4 is not known",
    "tensor \"first\": type IQ2_XXS is not supported",
    "tensor \"first\": data offset 16 is not a multiple of 32",
    "tensor \"first\": it is there twice",
    "tensor \"second\": a dimension is 8589934592: the product of the shape overflows",
    "tensor \"second\": 4611686018427387904 elements of f32: overflows 63 bits",
    "tensor \"second\": type 99 is not known",
    "tensor \"second\": begins at data offset 224, but tensor \"first\" ends at 256: they overlap",
    "tensor \"second\": 256 bytes at data offset 1099511627776, but the file has 512 bytes of data",
    "tensor \"second\": 256 bytes at data offset 18446744073709551584",
    "GGUF version 1: only 2 and 3",
    "big-endian",
    "GGUF version 4",
};

static void each_rule_by_itself(void **state)
{
    (void)state;
    for (int i = 0; i < (int)(sizeof wrong / sizeof wrong[0]); i++) {
        struct source_file *s = NULL;
        struct gguf_file f;

        make(&f, i);
        assert_int_equal(try(&f, &s), wrong[i] ? -OFL_EFORMAT : 0);
        if (!wrong[i]) {
            source_close(s);
            continue;
        }
        assert_null(s);
        assert_non_null(strstr(base_error_text(), path));
        if (!strstr(base_error_text(), wrong[i]))
            fail_msg("%d: no \"%s\" in: %s", i, wrong[i], base_error_text());
    }
}

static void bad_values(void **state)
{
    static const struct {
        const char *bytes; /* behind the key: the type and the value */
        size_t count;
        const char *words;
    } cases[] = {
        {"\7\0\0\0\2", 5, "key \"k\": a bool of 2"},
        {"\15\0\0\0\0", 5, "key \"k\": type 13 is not known"},
        {"\11\0\0\0\15\0\0\0", 8, "key \"k\": type 13 is not known"},
        {"\11\0\0\0\11\0\0\0\1\0\0\0\0\0\0\0", 16, "array of arrays"},
        {"\11\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0", 16, "a count of 4294967295"},
        {"\11\0\0\0\10\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 28, "a count of 3"},
        {"\10\0\0\0\5\0\0\0\0\0\0\0abcd", 16, "a count of 5"},
        {"\10\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 12, "a count of 18446744073709551615"},
        {"\4\0\0\0\1\0\0", 7, "truncated"},
        {"\14\0\0\0\1\0\0", 7, "truncated"},
        {"\4\0\0", 3, "truncated"},
    };
    struct source_file *s = NULL;
    struct gguf_file f;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_begin(&f, 0, 1);
        gguf_add_text(&f, "k");
        gguf_add(&f, cases[i].bytes, cases[i].count);
        assert_int_equal(try(&f, &s), -OFL_EFORMAT);
        if (!strstr(base_error_text(), cases[i].words))
            fail_msg("no \"%s\" in: %s", cases[i].words, base_error_text());
    }
    gguf_begin(&f, 0, 2);
    for (int i = 0; i < 2; i++) {
        gguf_add_key(&f, "k", 0);
        gguf_add(&f, "\1", 1);
    }
    assert_int_equal(try(&f, &s), -OFL_EFORMAT);
    assert_non_null(strstr(base_error_text(), "key \"k\": it is there twice"));
}

/* ---- random files --------------------------------------------------------------- */

static void ends_anywhere(void **state)
{
    struct source_file *s = NULL;
    struct gguf_file f;

    (void)state;
    make(&f, 0);
    for (size_t n = 4; n < f.count; n++) {
        put(f.bytes, n);
        assert_int_equal(source_open(path, &s), -OFL_EFORMAT);
    }
}

/* What an accepted file may be addressed by. */
static void check_whole(const struct source_file *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct source_entry *e = &s->entries[i];
        uint64_t bytes = 0, elems = 1;

        for (uint32_t d = 0; d < e->dims; d++)
            elems *= e->shape[d];
        assert_true(elems == e->elems && base_dtype_bytes(base_dtype(e->dtype), elems, &bytes) == 0);
        assert_true(bytes == e->bytes && e->offset <= s->bytes && bytes <= s->bytes - e->offset);
        for (size_t j = 0; j < i; j++) {
            const struct source_entry *o = &s->entries[j];

            assert_true(e->bytes == 0 || o->bytes == 0 || e->offset >= o->offset + o->bytes ||
                        o->offset >= e->offset + e->bytes);
        }
    }
    for (size_t i = 0; i < s->metadata_count; i++)
        for (uint64_t k = 0; s->metadata[i].is.texts && k < s->metadata[i].is.count; k++)
            assert_int_equal(s->metadata[i].is.texts[k].bytes[s->metadata[i].is.texts[k].count], 0);
}

static void survives_mutations(void **state)
{
    const char *rounds_text = getenv("OFL_FUZZ_FILES");
    uint64_t rounds = rounds_text ? strtoull(rounds_text, NULL, 10) : fixture_rounds(20000), accepted = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= rounds; seed++) {
        struct random random = {seed};
        struct source_file *s = NULL;
        struct gguf_file f;
        uint64_t changes = 1 + random_below(&random, 4);
        int err;

        make(&f, 0);
        while (changes--) {
            uint64_t at = random_below(&random, f.data);

            f.bytes[at] =
                (unsigned char)(random_below(&random, 2) ? random_next(&random) >> 40
                                                         : f.bytes[at] ^ 1u << random_below(&random, 8));
        }
        if (random_below(&random, 4) == 0)
            f.count = random_below(&random, f.count + 1);
        err = try(&f, &s);
        if (err == 0) {
            check_whole(s);
            accepted++;
            source_close(s);
        } else if (err != -OFL_EFORMAT) {
            fail_msg("seed %" PRIu64 ": %d: %s", seed, err, base_error_text());
        }
    }
    assert_true(accepted > rounds / 50 && accepted < rounds / 2);
}

/* ---- through the library ---------------------------------------------------------- */

/* Rows of a matrix are leased as the file has them, and land as those of the whole. */
static void leased_packed(void **state)
{
    const struct ofl_config config = {
        .size = sizeof config, .device_bytes = 1 << 20, .host_bytes = OFL_HOST_MIN_BYTES, .workers = 1};
    enum { ROWS = 8, COLUMNS = 96, FROM = 3, COUNT = 2, ROW = COLUMNS / 32 * 18 };
    struct ofl_metadata m = {.size = sizeof m};
    struct ofl_lease lease = {.size = sizeof lease, .mode = OFL_READ};
    struct ofl_landing l = {.size = sizeof l, .dtype = OFL_Q4_0, .to = OFL_F32, .elems = COUNT * COLUMNS};
    float want[COUNT * COLUMNS], got[COUNT * COLUMNS];
    struct random random = {3};
    struct ofl_stream *stream;
    struct ofl_source *source;
    struct ofl_ctx *ctx;
    struct gguf_file f;

    (void)state;
    gguf_begin(&f, 1, 1);
    gguf_add_key(&f, "general.architecture", 8);
    gguf_add_text(&f, "llama");
    gguf_add_tensor(&f, "w", 2, (uint64_t[]){COLUMNS, ROWS}, 2, 0);
    gguf_end(&f, 32, ROWS * ROW);
    for (size_t i = f.data; i < f.count; i++)
        f.bytes[i] = (i - f.data) % 18 == 1 ? 0x2c : (unsigned char)(random_next(&random) >> 40);
    put(f.bytes, f.count);
    assert_int_equal(ofl_open(&config, &ctx), 0);
    assert_int_equal(ofl_stream_create(ctx, &stream), 0);
    assert_int_equal(ofl_source_open(ctx, path, &source), 0);
    assert_int_equal(ofl_source_metadata_count(source), 1);
    assert_int_equal(ofl_source_metadata(source, 0, &m), 0);
    assert_string_equal(m.key, "general.architecture");
    assert_int_equal(ofl_source_metadata(source, 1, &m), -EINVAL);
    assert_int_equal(ofl_source_metadata_find(source, "general.architecture", &m), 0);
    assert_string_equal(m.texts[0].bytes, "llama");
    assert_int_equal(ofl_source_metadata_find(source, "general.name", &m), -ENOENT);
    assert_int_equal(ofl_source_bind_part(source, "w", FROM * COLUMNS + 1, COUNT * COLUMNS, OFL_KIND_WEIGHT,
                                          &lease.tensor),
                     -EINVAL);
    assert_int_equal(
        ofl_source_bind_part(source, "w", FROM * COLUMNS, COUNT * COLUMNS, OFL_KIND_WEIGHT, &lease.tensor),
        0);
    assert_int_equal(ofl_acquire(ctx, &lease, 1, stream), 0);
    l.packed = lease.ptr;
    l.out = got;
    assert_int_equal(ofl_landing_launch(stream, &l), 0);
    assert_int_equal(ofl_stream_sync(stream), 0);
    l.packed = f.bytes + f.data + FROM * ROW;
    l.out = want;
    assert_int_equal(ofl_landing_run(&l), 0);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(ofl_release(ctx, &lease, 1, stream), 0);
    assert_int_equal(fixture_ctx_close(ctx), 0);
}

static int make_file(void **state)
{
    int fd = mkstemps(path, 5);

    (void)state;
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_every_type),    cmocka_unit_test(other_values),
        cmocka_unit_test(tensors_of_every_type), cmocka_unit_test(whole_files),
        cmocka_unit_test(each_rule_by_itself),   cmocka_unit_test(bad_values),
        cmocka_unit_test(ends_anywhere),         cmocka_unit_test(survives_mutations),
        cmocka_unit_test(leased_packed),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
