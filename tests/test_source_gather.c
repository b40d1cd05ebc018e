/*
 * ofl_source_gather: each row that was asked for is the file's, in the caller's order: random ones, the same twice, neighbours,
 * rows of a few bytes, of many blocks, across blocks and at the file's end; on both engines, buffered too. What lies together
 * is read once: so many bytes and no more. What can't be is refused by number, and a file that has changed is noticed.
 *
 * It can fail: with one byte of a row changed the comparison says which.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "tests/core_fixture.h"

#define MIB (1ull << 20)

static char path[400];
static uint64_t file_random;

static uint8_t byte_at(uint64_t row, uint64_t column)
{
    return (uint8_t)((row * 2654435761u + column * 40503u + file_random) >> 3);
}

/* A table of so many rows, behind a tensor that puts it at an odd place. */
static void make_file(const char *dir, uint64_t rows, uint64_t row_bytes)
{
    char header[512];
    uint64_t length;
    FILE *f;

    snprintf(path, sizeof path, "%s/table.safetensors", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    length = (uint64_t)snprintf(
        header, sizeof header,
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"t\":{\"dtype\":\"U8\",\"shape\":[%llu,%llu],\"data_offsets\":[3,%llu]},"
        "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[%llu,%llu]}}",
        (unsigned long long)rows, (unsigned long long)row_bytes, (unsigned long long)(3 + rows * row_bytes),
        (unsigned long long)(3 + rows * row_bytes), (unsigned long long)(7 + rows * row_bytes));
    fwrite(&length, 8, 1, f);
    fwrite(header, 1, length, f);
    fwrite("abc", 1, 3, f);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < row_bytes; c++)
            fputc(byte_at(r, c), f);
    fwrite("wxyz", 1, 4, f);
    assert_int_equal(fclose(f), 0);
}

static struct ofl_ctx *open_ctx(uint32_t flags)
{
    struct ofl_config c = {
        .size = sizeof c, .device_bytes = 4 * MIB, .host_bytes = 4 * MIB, .flags = flags, .workers = 1};
    struct ofl_ctx *ctx;

    if (ofl_open(&c, &ctx) < 0)
        fail_msg("%s", ofl_error());
    return ctx;
}

static void check_rows(const uint8_t *out, const uint64_t *rows, size_t count, uint64_t row_bytes)
{
    for (size_t i = 0; i < count; i++)
        for (uint64_t c = 0; c < row_bytes; c++)
            if (out[i * row_bytes + c] != byte_at(rows[i], c))
                fail_msg("row %llu of the file, %zu of the list, byte %llu is not the file's",
                         (unsigned long long)rows[i], i, (unsigned long long)c);
}

static uint64_t read_so_far(struct ofl_ctx *ctx)
{
    struct ofl_stats s = {.size = sizeof s};

    assert_int_equal(ofl_stats_get(ctx, &s), 0);
    return s.source_read_bytes;
}

static void gather(struct ofl_source *s, const uint64_t *rows, size_t count, uint64_t row_bytes)
{
    uint8_t *out = malloc(count * row_bytes + 1);

    assert_non_null(out);
    memset(out, 0x55, count * row_bytes + 1);
    if (ofl_source_gather(s, "t", rows, count, out) < 0)
        fail_msg("%s", ofl_error());
    check_rows(out, rows, count, row_bytes);
    assert_int_equal(out[count * row_bytes], 0x55);
    free(out);
}

static void rows_are_the_files(void **state)
{
    static const struct {
        uint64_t rows, row_bytes;
    } tables[] = {{4000, 256}, {30000, 1}, {700, 4097}, {20, 200000}, {9, 12288}, {1, 77}, {50, 65536}};
    static const uint32_t flags[] = {0, OFL_USE_THREADS, OFL_USE_BUFFERED};
    struct random r = {.state = 5};

    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        file_random = random_next(&r);
        make_file(*state, tables[i].rows, tables[i].row_bytes);
        for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++) {
            struct ofl_ctx *ctx = open_ctx(flags[k]);
            struct ofl_source *s;

            if (ofl_source_open(ctx, path, &s) < 0)
                fail_msg("%s", ofl_error());
            for (unsigned round = 0; round < fixture_rounds(12); round++) {
                uint64_t rows[300], count = 1 + random_below(&r, tables[i].row_bytes > 60000 ? 20 : 300);

                for (uint64_t n = 0; n < count; n++) /* some are neighbours of the one before, or itself */
                    rows[n] = n && random_below(&r, 3) == 0
                                  ? (rows[n - 1] + random_below(&r, 2)) % tables[i].rows
                                  : random_below(&r, tables[i].rows);
                rows[count - 1] = tables[i].rows - 1; /* the file's end */
                gather(s, rows, count, tables[i].row_bytes);
            }
            assert_int_equal(ofl_source_close(s), 0);
            assert_int_equal(ofl_close(ctx), 0);
        }
    }
    unlink(path);
}

static void what_lies_together_is_read_once(void **state)
{
    struct ofl_ctx *ctx = open_ctx(0);
    uint64_t rows[512], before;
    struct ofl_source *s;

    make_file(*state, 4000, 256);
    assert_int_equal(ofl_source_open(ctx, path, &s), 0);
    before = read_so_far(ctx);
    for (uint64_t i = 0; i < 512; i++) /* 128 KiB, backwards */
        rows[i] = 611 - i;
    gather(s, rows, 512, 256);
    assert_true(read_so_far(ctx) - before <= 512 * 256 + 2 * 4096);
    before = read_so_far(ctx);
    for (uint64_t i = 0; i < 48; i++)
        rows[i] = i * 80; /* a block each, or two */
    gather(s, rows, 48, 256);
    assert_true(read_so_far(ctx) - before >= 48 * 4096 && read_so_far(ctx) - before <= 2 * 48 * 4096);
    before = read_so_far(ctx);
    for (uint64_t i = 0; i < 48; i++)
        rows[i] = 5;
    gather(s, rows, 48, 256);
    assert_true(read_so_far(ctx) - before <= 2 * 4096);
    assert_int_equal(ofl_close(ctx), 0);
    unlink(path);
}

static void what_cannot_be_is_refused(void **state)
{
    struct ofl_ctx *ctx = open_ctx(0);
    uint64_t rows[3] = {1, 4000, 2};
    uint8_t out[3 * 256];
    struct ofl_source *s;

    make_file(*state, 4000, 256);
    assert_int_equal(ofl_source_open(ctx, path, &s), 0);
    assert_int_equal(ofl_source_gather(s, "t", rows, 3, out), -EINVAL);
    assert_string_equal(ofl_error(), "gather t: row 4000, at 1 of the list: it has 4000");
    assert_int_equal(ofl_source_gather(s, "u", rows, 3, out), -ENOENT);
    assert_int_equal(ofl_source_gather(s, "t", NULL, 3, out), -EINVAL);
    assert_int_equal(ofl_source_gather(s, "t", NULL, 0, NULL), 0);
    rows[0] = 0;
    assert_int_equal(ofl_source_gather(s, "s", rows, 1, out), 0); /* a scalar is one row */
    assert_memory_equal(out, "wxyz", 4);
    rows[1] = 7;
    assert_int_equal(ofl_source_gather(s, "t", rows, 3, out), 0);
    usleep(30000);
    make_file(*state, 4000, 256); /* another time */
    assert_int_equal(ofl_source_gather(s, "t", rows, 3, out), -OFL_ECHANGED);
    assert_non_null(strstr(ofl_error(), path));
    assert_int_equal(ofl_close(ctx), 0);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_the_files),
        cmocka_unit_test(what_lies_together_is_read_once),
        cmocka_unit_test(what_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
