/*
 * The writer of safetensors files: what it writes, the library's own reader takes, with the bytes that were put.
 *  - every dtype of the format, scalars, no elements, eight dimensions; bytes in pieces that know no tensor's end, and
 *    tensors of a context; metadata;
 *  - until it is finished a file has no header, and readers refuse it; unfinished, it is removed;
 *  - what can't be written is refused by name before there is a file; a full file system, too.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/offload.h"
#include "include/offload_writer.h"
#include "tests/core_fixture.h"
#include "tests/model_fixture.h"

#define MIB (1ull << 20)

static struct ofl_ctx *open_context(void)
{
    struct ofl_config config = {
        .size = sizeof config, .device_bytes = MIB, .host_bytes = 24 * MIB, .log = fixture_log};
    struct ofl_ctx *ctx;

    fixture_ok(ofl_open(&config, &ctx));
    return ctx;
}

static struct ofl_tensor *make(struct ofl_ctx *ctx, enum ofl_dtype dtype, uint64_t elems)
{
    struct ofl_tensor_desc desc = {.size = sizeof desc, .name = "t", .dtype = dtype, .elems = elems};
    struct ofl_tensor *t;

    fixture_ok(ofl_tensor_create(ctx, &desc, &t));
    return t;
}

/* ---- there and back --------------------------------------------------------- */

/* Of each dtype that the format has one tensor, and three of odd shapes. */
static size_t entries(struct ofl_source_entry *e)
{
    size_t n = 0;

    for (int dtype = 0; dtype < OFL_DTYPES; dtype++) {
        struct ofl_dtype_info info = {.size = sizeof info};

        fixture_ok(ofl_dtype_info_get((enum ofl_dtype)dtype, &info));
        if (!info.safetensors)
            continue;
        e[n++] = (struct ofl_source_entry){
            .name = info.name, .dtype = (enum ofl_dtype)dtype, .dims = 2, .shape = {3, 8}};
    }
    assert_true(n > 15);
    e[n++] = (struct ofl_source_entry){.name = "scalar", .dtype = OFL_F64};
    e[n++] = (struct ofl_source_entry){.name = "none", .dtype = OFL_F32, .dims = 2, .shape = {0, 7}};
    e[n++] = (struct ofl_source_entry){
        .name = "a \"name\" with \xC3\xA9", .dtype = OFL_U8, .dims = 8, .shape = {1, 2, 1, 3, 1, 1, 2, 1}};
    return n;
}

static uint64_t put_pieces(struct ofl_writer *w, const uint8_t *data, uint64_t bytes)
{
    uint64_t at = 0;

    for (uint64_t piece = 1; at < bytes; piece = piece * 3 % 101 + 1) {
        uint64_t n = bytes - at < piece ? bytes - at : piece;

        fixture_ok(ofl_writer_put(w, data + at, n));
        at += n;
    }
    return at;
}

static void there_and_back(void **state)
{
    static const char *const metadata[] = {"format", "pt", "by", "a test", NULL};
    struct ofl_source_entry e[OFL_DTYPES + 3], back;
    struct ofl_ctx *ctx = open_context();
    char *path = files_path(*state, "all.safetensors");
    size_t n = entries(e), got_bytes;
    uint64_t bytes = 0, at = 0;
    struct ofl_source *source;
    struct ofl_writer *w;
    unsigned char *file;
    uint8_t data[8192];

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    fixture_ok(ofl_writer_open(path, e, n, metadata, &w));
    /* The sizes are what the reader says of it, so put what it takes. */
    while (ofl_writer_put(w, data + bytes, 1) == 0)
        bytes++;
    fixture_refused(ofl_writer_put(w, data, 1), -EINVAL, "its tensors have");
    fixture_ok(ofl_writer_finish(w));
    ofl_writer_destroy(w);
    assert_int_equal(unlink(path), 0);
    fixture_ok(ofl_writer_open(path, e, n, metadata, &w));
    assert_int_equal(put_pieces(w, data, bytes), bytes);
    fixture_ok(ofl_writer_finish(w));
    fixture_refused(ofl_writer_finish(w), -OFL_ESTATE, "finished");
    ofl_writer_destroy(w);

    file = files_get(path, &got_bytes);
    assert_int_equal(((uint64_t)file[0] | (uint64_t)file[1] << 8) % 8, 0);
    assert_memory_equal(file + got_bytes - bytes, data, bytes);
    file[got_bytes - bytes - 1] = '\0';
    assert_non_null(strstr((char *)file + 8, "\"__metadata__\":{\"format\":\"pt\",\"by\":\"a test\"}"));
    free(file);
    fixture_ok(ofl_source_open(ctx, path, &source));
    assert_int_equal(ofl_source_count(source), n);
    for (size_t i = 0; i < n; i++) {
        fixture_ok(ofl_source_find(source, e[i].name, &back));
        assert_true(back.dtype == e[i].dtype && back.dims == e[i].dims);
        assert_memory_equal(back.shape, e[i].shape, back.dims * sizeof back.shape[0]);
        at += back.bytes;
    }
    assert_int_equal(at, bytes);
    fixture_ok(ofl_close(ctx));
    unlink(path);
    free(path);
}

/* Larger than a piece of the writer's. */
static void tensors_of_a_context(void **state)
{
    const uint64_t elems = 5 * MIB / 4 + 3;
    struct ofl_source_entry e[] = {{.name = "a", .dtype = OFL_BF16, .dims = 1, .shape = {5}},
                                   {.name = "empty", .dtype = OFL_F32, .dims = 1, .shape = {0}},
                                   {.name = "b", .dtype = OFL_F32, .dims = 1, .shape = {elems}}};
    struct ofl_ctx *ctx = open_context();
    char *path = files_path(*state, "two.safetensors");
    struct ofl_tensor *a = make(ctx, OFL_BF16, 5), *b = make(ctx, OFL_F32, elems), *read;
    uint8_t *data = malloc(elems * 4), *back = malloc(elems * 4);
    struct ofl_source *source;
    struct ofl_writer *w;

    for (uint64_t i = 0; i < elems * 4; i++)
        data[i] = (uint8_t)(i * 31 + i / 4096);
    fixture_ok(ofl_tensor_write(a, 0, data, 10));
    fixture_ok(ofl_tensor_write(b, 0, data, elems * 4));
    fixture_ok(ofl_writer_open(path, e, 3, NULL, &w));
    fixture_refused(ofl_writer_put_tensor(w, b), -EINVAL, "the next tensor");
    fixture_ok(ofl_writer_put_tensor(w, a));
    fixture_refused(ofl_writer_finish(w), -OFL_ESTATE, "10 of");
    fixture_ok(ofl_writer_put_tensor(w, b));
    fixture_refused(ofl_writer_put_tensor(w, b), -EINVAL, "all tensors have been put");
    fixture_ok(ofl_writer_finish(w));
    ofl_writer_destroy(w);
    fixture_ok(ofl_source_open(ctx, path, &source));
    fixture_ok(ofl_source_bind(source, "b", OFL_KIND_WEIGHT, &read));
    fixture_ok(ofl_tensor_read(read, 0, back, elems * 4));
    assert_memory_equal(back, data, elems * 4);
    fixture_ok(ofl_close(ctx));
    free(data);
    free(back);
    unlink(path);
    free(path);
}

/* ---- whole or not at all -------------------------------------------------------- */

static void unfinished(void **state)
{
    struct ofl_source_entry e = {.name = "a", .dtype = OFL_F32, .dims = 1, .shape = {4}};
    struct ofl_ctx *ctx = open_context();
    char *path = files_path(*state, "half.safetensors");
    const float values[4] = {1, 2, 3, 4};
    struct ofl_source *source;
    struct ofl_writer *w, *second;

    fixture_ok(ofl_writer_open(path, &e, 1, NULL, &w));
    fixture_ok(ofl_writer_put(w, values, sizeof values)); /* all of it, and yet not finished */
    fixture_refused(ofl_writer_open(path, &e, 1, NULL, &second), -EEXIST, path);
    assert_null(second);
    assert_int_equal(ofl_source_open(ctx, path, &source), -OFL_EFORMAT);
    ofl_writer_destroy(w);
    assert_int_equal(access(path, F_OK), -1);
    fixture_ok(ofl_close(ctx));
    free(path);
}

static void no_room(void **state)
{
    struct ofl_source_entry e = {.name = "a", .dtype = OFL_U8, .dims = 1, .shape = {MIB}};
    char *path = files_path(*state, "large.safetensors");
    struct rlimit before, limit;
    struct ofl_writer *w;
    int rc;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 65536;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    rc = ofl_writer_open(path, &e, 1, NULL, &w);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    fixture_refused(rc, -EFBIG, path);
    assert_int_equal(access(path, F_OK), -1);
    free(path);
}

static void what_cannot_be(void **state)
{
    static const struct {
        struct ofl_source_entry e[2];
        int code;
        const char *text;
    } cases[] = {
        {{{.name = "a", .dtype = OFL_U8}, {.name = "a", .dtype = OFL_U8}}, -EEXIST, "two tensors are \"a\""},
        {{{.name = "a", .dtype = OFL_U8}, {.dtype = OFL_U8}}, -EINVAL, "tensor 1 has no name"},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "__metadata__", .dtype = OFL_U8}}, -EINVAL, "tensor 1"},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "\xFF", .dtype = OFL_U8}}, -EINVAL, "UTF-8"},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "b", .dtype = OFL_Q4_K}}, -EINVAL, "q4_k"},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "b", .dtype = OFL_DTYPES}}, -EINVAL, "\"b\""},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "b", .dtype = OFL_U8, .dims = 9}},
         -EINVAL,
         "9 dimensions"},
        {{{.name = "a", .dtype = OFL_U8}, {.name = "b", .dtype = OFL_F4, .dims = 1, .shape = {3}}},
         -EINVAL,
         "whole blocks"},
        {{{.name = "a", .dtype = OFL_U8},
          {.name = "b", .dtype = OFL_U8, .dims = 2, .shape = {1ull << 40, 1ull << 40}}},
         -EINVAL,
         "more bytes"},
        {{{.name = "a", .dtype = OFL_U8, .dims = 1, .shape = {1ull << 62}},
          {.name = "b", .dtype = OFL_U8, .dims = 1, .shape = {1ull << 62}}},
         -EINVAL,
         "more bytes"},
    };
    char *path = files_path(*state, "none.safetensors");
    static const char *const half[] = {"key", NULL, NULL};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ofl_writer *w;

        fixture_refused(ofl_writer_open(path, cases[i].e, 2, NULL, &w), cases[i].code, cases[i].text);
        assert_null(w);
        assert_int_equal(access(path, F_OK), -1);
    }
    fixture_refused(ofl_writer_open(path, cases[0].e, 1, half, &(struct ofl_writer *){0}), -EINVAL,
                    "metadata 0");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back), cmocka_unit_test(tensors_of_a_context),
        cmocka_unit_test(unfinished),     cmocka_unit_test(no_room),
        cmocka_unit_test(what_cannot_be),
    };

    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
